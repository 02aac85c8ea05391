//! Tests of client-side caching: the order of replies and invalidations, and the table of keys.

use super::*;
use crate::kv::{ChangedKeys, DatabaseId, KeyChange};

/// Returns the invalidation of these keys in RESP3.
pub(super) fn invalidation(keys: &[&str]) -> String {
    let texts = keys.iter().map(|key| format!("${}\r\n{key}\r\n", key.len()));
    format!(">2\r\n$10\r\ninvalidate\r\n*{}\r\n{}", keys.len(), texts.collect::<String>())
}

fn value(text: &'static str) -> Outcome {
    Outcome::Value(Some(Bytes::from_static(text.as_bytes())))
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

pub(super) fn changes(changed: &[(&'static str, u64)]) -> ChangedKeys {
    let key = |(key, revision): &(&'static str, u64)| KeyChange {
        database: DatabaseId::FIRST,
        key: Bytes::from_static(key.as_bytes()),
        revision: *revision,
    };
    ChangedKeys { changes: changed.iter().map(key).collect(), ..ChangedKeys::default() }
}

/// Passes changes to the clients, with the outcomes and revisions of sent requests.
pub(super) fn handle(
    fixture: &mut Fixture,
    changed: ChangedKeys,
    answers: Vec<(&SentRequest, Outcome, Option<u64>)>,
) {
    fixture.clients.begin_changes(changed);
    for (request, outcome, revision) in answers {
        fixture.clients.on_answer(request.key, vec![outcome], revision);
    }
    drop(fixture.clients.end_changes());
}

/// Connects a client that uses RESP3 and caches values with these options.
pub(super) fn connect_caching(fixture: &mut Fixture, options: &str) -> TcpStream {
    let mut client = fixture.connect();
    client.write_all(format!("HELLO 3\r\nCLIENT TRACKING ON {options}\r\n").as_bytes()).unwrap();
    let mut reply = Vec::new();
    fixture.until("the replies", |_| {
        read(&mut client, &mut reply);
        reply.ends_with(b"+OK\r\n").then_some(())
    });
    client
}

pub(super) fn requests(
    fixture: &mut Fixture,
    client: &mut TcpStream,
    lines: &str,
) -> Vec<SentRequest> {
    let count = lines.lines().count();
    client.write_all(lines.as_bytes()).unwrap();
    let mut sent = Vec::new();
    fixture.until("the requests", |fixture| {
        sent.extend(fixture.dispatch());
        (sent.len() == count).then_some(())
    });
    sent
}

#[test]
fn invalidation_is_sent_between_the_replies_of_before_and_after_the_change() {
    let mut fixture = Fixture::new();
    assert!(!fixture.clients.board.reports_changes());
    let mut client = connect_caching(&mut fixture, "");
    assert!(fixture.clients.board.reports_changes());
    let sent = requests(&mut fixture, &mut client, "GET k\r\nGET k\r\nGET other\r\n");
    let changed = changes(&[("a", 4), ("k", 5), ("k", 6)]);
    let answers = vec![
        (&sent[0], value("old"), Some(4)),
        (&sent[1], value("new"), Some(5)),
        (&sent[2], value("x"), Some(6)),
    ];
    handle(&mut fixture, changed, answers);
    let told = invalidation(&["k"]);
    let wanted = [bulk("old"), told.clone(), bulk("new"), told, bulk("x")].concat();
    fixture.expect(&mut client, &wanted);
    handle(&mut fixture, changes(&[("k", 7), ("other", 8), ("other", 9)]), vec![]);
    client.write_all(b"ECHO end\r\n").unwrap();
    fixture.expect(&mut client, &format!("{}{}", invalidation(&["other"]), bulk("end")));
    assert_eq!(fixture.clients.context.tracking.keys, 0);
    drop(client);
    fixture.until("the end", |fixture| (fixture.clients.len() == 0).then_some(()));
    fixture.advance(Duration::from_secs(2));
    assert!(!fixture.clients.board.reports_changes());
}

#[test]
fn value_of_an_unknown_state_is_invalidated_after_its_reply() {
    let mut fixture = Fixture::new();
    let mut client = connect_caching(&mut fixture, "");
    let mut broadcasting = connect_caching(&mut fixture, "BCAST PREFIX k");
    for (client, line) in [(&mut client, "GET k\r\n"), (&mut broadcasting, "MGET k a k1\r\n")] {
        let sent = requests(&mut fixture, client, line);
        handle(&mut fixture, changes(&[]), vec![(&sent[0], value("v"), None)]);
    }
    fixture.expect(&mut client, &format!("{}{}", bulk("v"), invalidation(&["k"])));
    let wanted = [bulk("v"), invalidation(&["k"]), invalidation(&["k1"])].concat();
    fixture.expect(&mut broadcasting, &wanted);
    // A change after the read was reported before its outcome.
    let sent = requests(&mut fixture, &mut client, "GET k\r\n");
    handle(&mut fixture, changes(&[("k", 9)]), vec![]);
    handle(&mut fixture, changes(&[]), vec![(&sent[0], value("v"), Some(8))]);
    fixture.expect(&mut client, &format!("{}{}", bulk("v"), invalidation(&["k"])));
    assert_eq!(fixture.clients.context.tracking.keys, 0);
}

#[test]
fn own_changes_of_a_transaction_are_invalidated_after_its_reply() {
    let mut fixture = Fixture::new();
    let mut client = connect_caching(&mut fixture, "");
    let lines = b"MULTI\r\nGET k\r\nSET k v\r\nEXEC\r\n";
    for is_split in [false, true] {
        client.write_all(lines).unwrap();
        let sent = fixture.dispatch_some();
        let outcome = Outcome::List(vec![value("old"), Outcome::Done]);
        let changed = changes(&[("k", if is_split { 22 } else { 12 })]);
        let revision = changed.changes[0].revision;
        if is_split {
            // The applier could not complete the entry of the transaction in one pass.
            handle(&mut fixture, changed, vec![]);
            handle(&mut fixture, changes(&[]), vec![(&sent[0], outcome, Some(revision))]);
        } else {
            handle(&mut fixture, changed, vec![(&sent[0], outcome, Some(revision))]);
        }
        let queued = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$3\r\nold\r\n+OK\r\n";
        fixture.expect(&mut client, &format!("{queued}{}", invalidation(&["k"])));
    }
}

#[test]
fn order_is_not_known_if_the_users_have_changed_in_the_batch() {
    let mut fixture = Fixture::new();
    let mut client = connect_caching(&mut fixture, "");
    let mut other = fixture.connect();
    client.write_all(b"MULTI\r\nGET k\r\nSET k v\r\nEXEC\r\n").unwrap();
    fixture.until("a request", |fixture| fixture.clients.has_waiting().then_some(()));
    other.write_all(b"SET l 1\r\n").unwrap();
    fixture.until("both", |fixture| (fixture.clients.to_dispatch.len() == 2).then_some(()));
    let batch = fixture.clients.dispatch(Target::Core, 10, |_| true).batches.remove(0);
    let executed = Outcome::List(vec![value("old"), Outcome::Done]);
    let refused = Outcome::Refused(crate::kv::Refusal::UsersChanged);
    fixture.clients.begin_changes(changes(&[("k", 7)]));
    fixture.clients.on_answer(batch.key, vec![executed, refused], Some(7));
    drop(fixture.clients.end_changes());
    let queued = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$3\r\nold\r\n+OK\r\n";
    fixture.expect(&mut client, &format!("{queued}{}", invalidation(&["k"])));
    assert_eq!(fixture.clients.context.tracking.keys, 0);
}

#[test]
fn invalidation_follows_known_replies_that_wait_for_earlier_ones() {
    let mut fixture = Fixture::new();
    let mut client = connect_caching(&mut fixture, "");
    let sent = requests(&mut fixture, &mut client, "GET a\r\nGET k\r\nGET b\r\n");
    handle(&mut fixture, changes(&[]), vec![(&sent[1], value("old"), Some(1))]);
    handle(&mut fixture, changes(&[("k", 2)]), vec![]);
    let answers = vec![(&sent[0], value("A"), Some(2)), (&sent[2], value("B"), Some(2))];
    handle(&mut fixture, changes(&[]), answers);
    let told = invalidation(&["k"]);
    let wanted = [told.clone(), bulk("A"), bulk("old"), told, bulk("B")].concat();
    fixture.expect(&mut client, &wanted);
}

#[test]
fn client_without_loop_is_not_told_of_its_own_changes() {
    let mut fixture = Fixture::new();
    let mut client = connect_caching(&mut fixture, "NOLOOP");
    let mut broadcasting = connect_caching(&mut fixture, "BCAST NOLOOP");
    let mut other = connect_caching(&mut fixture, "");
    for client in [&mut client, &mut other] {
        let sent = requests(&mut fixture, client, "GET k\r\n");
        handle(&mut fixture, changes(&[]), vec![(&sent[0], value("v"), Some(1))]);
        fixture.expect(client, &bulk("v"));
    }
    // Two writes in one batch: the second one is of another client.
    let lines = b"SET k 1\r\n";
    client.write_all(lines).unwrap();
    fixture.until("a request", |fixture| fixture.clients.has_waiting().then_some(()));
    broadcasting.write_all(b"SET l 1\r\n").unwrap();
    fixture.until("two requests", |fixture| (fixture.clients.to_dispatch.len() == 2).then_some(()));
    let batch = fixture.clients.dispatch(Target::Core, 10, |_| true).batches.remove(0);
    fixture.clients.begin_changes(changes(&[("k", 2), ("l", 3)]));
    fixture.clients.on_answer(batch.key, vec![Outcome::Done, Outcome::Done], Some(3));
    drop(fixture.clients.end_changes());
    for (client, wanted) in [
        (&mut client, "+OK\r\n".to_owned()),
        (&mut other, invalidation(&["k"])),
        (&mut broadcasting, format!("{}+OK\r\n", invalidation(&["k"]))),
    ] {
        client.write_all(b"ECHO end\r\n").unwrap();
        fixture.expect(client, &format!("{wanted}{}", bulk("end")));
    }
}

#[test]
fn every_key_is_invalidated_when_changes_are_not_known_one_by_one() {
    let mut fixture = Fixture::new();
    let mut client = connect_caching(&mut fixture, "");
    let sent = requests(&mut fixture, &mut client, "GET k\r\nGET k\r\n");
    handle(&mut fixture, changes(&[]), vec![(&sent[0], value("v"), Some(1))]);
    let all = ">2\r\n$10\r\ninvalidate\r\n_\r\n";
    let changed = ChangedKeys { others: true, ..changes(&[]) };
    handle(&mut fixture, changed, vec![(&sent[1], value("w"), Some(2))]);
    fixture.expect(&mut client, &[&bulk("v"), all, &bulk("w"), all].concat());
    assert_eq!(fixture.clients.context.tracking.keys, 0);
}

#[test]
fn message_is_never_sent_within_a_reply() {
    let mut fixture = Fixture::with_small_buffers();
    let mut client = connect_caching(&mut fixture, "BCAST");
    let sent = requests(&mut fixture, &mut client, "SMEMBERS k\r\n");
    let member = Outcome::Value(Some(Bytes::from_static(b"member")));
    fixture.clients.on_answer(sent[0].key, vec![Outcome::Set(vec![member; 100_000])], Some(1));
    handle(&mut fixture, changes(&[("k", 2)]), vec![]);
    let whole = format!("~100000\r\n{}", bulk("member").repeat(100_000));
    let told = invalidation(&["k"]);
    let reply = fixture.reply(&mut client, whole.len() + told.len());
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply == format!("{whole}{told}") || reply == format!("{told}{whole}{told}"));
}
