//! Tests of requests that wait for changes of keys.

use super::*;
use crate::kv::{ChangedKey, ChangedKeys, DatabaseId, KeyChange, ValueType};

/// Sends a `CHANGES` with this prefix that waits for up to `millis`, and plays the part of the core
/// that has nothing to return yet, at revision 7.
fn block(fixture: &mut Fixture, client: &mut TcpStream, prefix: &str, millis: u64) {
    let request = format!("CHANGES FROM 5 PREFIX {prefix} BLOCK {millis}\r\n");
    client.write_all(request.as_bytes()).unwrap();
    let [SentRequest { key, kind, .. }] = fixture.dispatch_some()[..] else { panic!("one") };
    assert_eq!(kind, RequestKind::Read);
    fixture.on_outcome(key, Outcome::Integer(7));
}

fn changed(keys: &[&'static str], others: bool) -> ChangedKeys {
    let name = |key: &&'static str| Bytes::from_static(key.as_bytes());
    let with_state = |key: &&'static str| ChangedKey {
        database: DatabaseId::FIRST,
        key: name(key),
        kind: Some(ValueType::String),
        elements: 0,
        news: usize::MAX,
    };
    let database = DatabaseId::FIRST;
    let numbered = |key| KeyChange { database, key: name(key), revision: 8 };
    let changes = keys.iter().map(numbered).collect();
    ChangedKeys { changes, keys: keys.iter().map(with_state).collect(), others }
}

fn waiting_count(fixture: &Fixture) -> usize {
    assert_eq!(fixture.clients.context.blocked_clients, fixture.clients.waiting.len() as u64);
    fixture.clients.waiting.len()
}

#[test]
fn client_waits_until_a_key_with_its_prefix_changes() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    assert!(!fixture.clients.board.reports_changes());
    block(&mut fixture, &mut client, "a:", 0);
    client.write_all(b"ECHO later\r\n").unwrap();
    assert!(fixture.clients.board.reports_changes());
    assert_eq!((waiting_count(&fixture), fixture.clients.in_flight.oldest()), (1, None));
    fixture.advance(Duration::from_hours(24));
    fixture.clients.wake(&changed(&["a", "b"], false));
    assert!(fixture.dispatch().is_empty(), "no other key wakes it");
    for changed in [changed(&["b", "a:1", "a:2"], false), changed(&[], true)] {
        fixture.clients.wake(&changed);
        let [SentRequest { key, .. }] = fixture.dispatch_some()[..] else { panic!("one") };
        assert_eq!(waiting_count(&fixture), 0);
        fixture.on_outcome(key, Outcome::Integer(9));
        assert_eq!(waiting_count(&fixture), 1, "nothing to return yet");
    }
    fixture.clients.wake(&changed(&["a:"], false));
    let key = fixture.dispatch_some()[0].key;
    let change = Outcome::List(vec![Outcome::Integer(12)]);
    fixture.on_outcome(key, Outcome::List(vec![Outcome::Integer(12), Outcome::List(vec![change])]));
    fixture.expect(&mut client, "*2\r\n:12\r\n*1\r\n*1\r\n:12\r\n$5\r\nlater\r\n");
    fixture.advance(Duration::from_secs(2));
    assert!(!fixture.clients.board.reports_changes(), "no client waits any more");
}

#[test]
fn wait_ends_after_its_time_with_the_revision_to_continue_from() {
    let mut fixture = Fixture::new();
    let (mut one, mut two) = (fixture.connect(), fixture.connect());
    block(&mut fixture, &mut one, "a", 1_000);
    block(&mut fixture, &mut two, "a", 2_000);
    let end = fixture.clients.next_wait_end().unwrap();
    assert_eq!(end, fixture.now + Duration::from_secs(1));
    fixture.advance(Duration::from_millis(999));
    assert_eq!(waiting_count(&fixture), 2);
    fixture.advance(Duration::from_millis(1));
    fixture.expect(&mut one, "*2\r\n:7\r\n*0\r\n");
    // The time is over while the request is sent again.
    fixture.clients.wake(&changed(&["a"], false));
    let key = fixture.dispatch_some()[0].key;
    fixture.advance(Duration::from_secs(1));
    fixture.on_outcome(key, Outcome::Integer(8));
    fixture.expect(&mut two, "*2\r\n:8\r\n*0\r\n");
    assert_eq!((waiting_count(&fixture), fixture.clients.next_wait_end()), (0, None));
}

#[test]
fn wait_ends_with_the_connection() {
    let mut fixture = Fixture::new();
    let (mut leaving, mut killed) = (fixture.connect(), fixture.connect());
    block(&mut fixture, &mut leaving, "a", 0);
    block(&mut fixture, &mut killed, "b", 0);
    // Its request is in flight when the connection is closed.
    let mut hasty = fixture.connect();
    hasty.write_all(b"CHANGES FROM 5 BLOCK 0\r\n").unwrap();
    let key = fixture.dispatch_some()[0].key;
    drop((leaving, hasty));
    fixture
        .until("the end of the connection", |fixture| (waiting_count(fixture) == 1).then_some(()));
    (0..9).for_each(|_| fixture.pass());
    fixture.on_outcome(key, Outcome::Integer(7));
    fixture.until("the other end", |fixture| (fixture.clients.len() == 1).then_some(()));
    let mut good = fixture.connect();
    good.write_all(b"CLIENT KILL SKIPME yes\r\n").unwrap();
    fixture.expect(&mut good, ":1\r\n");
    assert_eq!((waiting_count(&fixture), fixture.clients.len()), (0, 1));
    fixture.clients.wake(&changed(&["a", "b"], true));
    assert!(fixture.dispatch().is_empty());
}

#[test]
fn client_unblock_ends_a_wait_like_its_time_or_with_an_error() {
    let mut fixture = Fixture::new();
    let (mut one, mut two, mut good) = (fixture.connect(), fixture.connect(), fixture.connect());
    block(&mut fixture, &mut one, "a", 0);
    block(&mut fixture, &mut two, "a", 0);
    good.write_all(b"CLIENT LIST ID 2\r\n").unwrap();
    let list = fixture.reply(&mut good, 200);
    assert!(String::from_utf8_lossy(&list).contains(" flags=b "));
    for (request, reply) in [
        ("CLIENT UNBLOCK 3", ":0\r\n"),
        ("CLIENT UNBLOCK 99", ":0\r\n"),
        ("CLIENT UNBLOCK -1", ":0\r\n"),
        ("CLIENT UNBLOCK x", "-ERR value is not an integer or out of range\r\n"),
        ("CLIENT UNBLOCK 1 no", "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n"),
        ("CLIENT UNBLOCK 1", ":1\r\n"),
        ("CLIENT UNBLOCK 1 timeout", ":0\r\n"),
        ("CLIENT UNBLOCK 2 error", ":1\r\n"),
    ] {
        good.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        fixture.expect(&mut good, reply);
    }
    fixture.expect(&mut one, "*2\r\n:7\r\n*0\r\n");
    fixture.expect(&mut two, "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    two.write_all(b"ECHO k\r\n").unwrap();
    fixture.expect(&mut two, "$1\r\nk\r\n");
}

#[test]
fn graceful_stop_answers_waiting_clients() {
    let mut fixture = Fixture::new();
    let (mut one, mut two) = (fixture.connect(), fixture.connect());
    block(&mut fixture, &mut one, "a", 0);
    fixture.clients.refuse_waits();
    fixture.expect(&mut one, "*2\r\n:7\r\n*0\r\n");
    block(&mut fixture, &mut two, "a", 0);
    fixture.expect(&mut two, "*2\r\n:7\r\n*0\r\n");
}

#[test]
fn malformed_changes_are_refused() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    for (arguments, reply) in [
        ("FROM", "wrong number of arguments for 'changes' command"),
        ("PREFIX a", "syntax error"),
        ("FROM 1 PREFIX", "syntax error"),
        ("FROM 1 AND 2", "syntax error"),
        ("FROM -1", "the revision is neither $ nor an integer of at least 0"),
        ("FROM 1 COUNT 0", "COUNT is not an integer from 1 to 4096"),
        ("FROM 1 COUNT 4097", "COUNT is not an integer from 1 to 4096"),
        ("FROM 1 BLOCK -1", "timeout is negative"),
        ("FROM 1 BLOCK x", "timeout is not an integer or out of range"),
    ] {
        client.write_all(format!("CHANGES {arguments}\r\n").as_bytes()).unwrap();
        fixture.expect(&mut client, &format!("-ERR {reply}\r\n"));
    }
}
