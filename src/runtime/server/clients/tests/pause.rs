//! Tests of `CLIENT PAUSE`.

use super::blocking::{block, list, reply_of, send, taken};
use super::*;
use crate::kv::{ChangedKeys, DatabaseId, KeyChange};

/// Waits until this number of clients is postponed.
fn wait_for_postponed(fixture: &mut Fixture, count: usize) {
    fixture.until("a postponed request", |fixture| {
        (fixture.clients.postponed.len() == count).then_some(())
    });
    assert_eq!(fixture.clients.context.blocked_clients, count as u64);
}

#[test]
fn pause_is_never_shortened_or_weakened_by_a_later_one() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"CLIENT PAUSE 1000 WRITE\r\n").unwrap();
    fixture.expect(&mut client, "+OK\r\n");
    client.write_all(b"CLIENT PAUSE 10 ALL\r\nPING\r\n").unwrap();
    fixture.expect(&mut client, "+OK\r\n");
    wait_for_postponed(&mut fixture, 1);
    let end = fixture.now + Duration::from_secs(1);
    assert_eq!(fixture.clients.next_pause_end(), Some(end));
    fixture.advance(Duration::from_millis(999));
    wait_for_postponed(&mut fixture, 1);
    fixture.advance(Duration::from_millis(1));
    fixture.expect(&mut client, "+PONG\r\n");
    assert_eq!(fixture.clients.next_pause_end(), None);
}

#[test]
fn postponed_request_is_executed_as_if_it_had_arrived_later() {
    let mut fixture = Fixture::new();
    let (mut silent, mut caching) = (fixture.connect(), fixture.connect());
    let mut admin = fixture.connect();
    caching.write_all(b"CLIENT TRACKING ON OPTIN\r\nCLIENT CACHING YES\r\n").unwrap();
    fixture.expect(&mut caching, "+OK\r\n+OK\r\n");
    silent.write_all(b"CLIENT REPLY SKIP\r\n").unwrap();
    fixture.until("the request", |fixture| {
        (fixture.clients.context.traffic.commands == 3).then_some(())
    });
    admin.write_all(b"CLIENT PAUSE 1000\r\n").unwrap();
    fixture.expect(&mut admin, "+OK\r\n");
    silent.write_all(b"ECHO hidden\r\nECHO shown\r\n").unwrap();
    caching.write_all(b"GET k\r\n").unwrap();
    wait_for_postponed(&mut fixture, 2);
    assert_eq!(fixture.clients.context.traffic.commands, 4, "they do not count yet");
    fixture.advance(Duration::from_secs(1));
    fixture.expect(&mut silent, "$5\r\nshown\r\n");
    let key = fixture.dispatch_some()[0].key;
    fixture.clients.on_answer(key, vec![Outcome::Value(None)], Some(1));
    fixture.expect(&mut caching, "$-1\r\n");
    drop(fixture.clients.end_changes());
    assert_eq!(fixture.clients.context.tracking.keys, 1);
}

#[test]
fn graceful_stop_and_disconnections_end_postponements() {
    let mut fixture = Fixture::new();
    let (mut one, two) = (fixture.connect(), fixture.connect());
    one.write_all(b"CLIENT PAUSE 1000 ALL\r\n").unwrap();
    fixture.expect(&mut one, "+OK\r\n");
    for mut client in [&one, &two] {
        client.write_all(b"PING\r\n").unwrap();
    }
    wait_for_postponed(&mut fixture, 2);
    fixture.clients.close(1, fixture.poll.registry());
    wait_for_postponed(&mut fixture, 1);
    fixture.clients.refuse_waits();
    fixture.expect(&mut one, "+PONG\r\n");
}

#[test]
fn waiting_clients_are_served_after_the_pause() {
    let mut fixture = Fixture::new();
    let (mut one, mut two, mut three) = (fixture.connect(), fixture.connect(), fixture.connect());
    let mut admin = fixture.connect();
    block(&mut fixture, &mut one, "BLPOP k 0.5");
    send(&mut two, "BLPOP k 0");
    fixture.expect_waiting(2);
    send(&mut three, "BLPOP k 0.7");
    fixture.expect_waiting(3);
    send(&mut admin, "CLIENT PAUSE 1000 WRITE");
    fixture.expect(&mut admin, "+OK\r\n");
    assert!(fixture.wake(&list("k", 1)).is_empty());
    assert_eq!(fixture.clients.next_pause_end(), Some(fixture.now + Duration::from_secs(1)));
    let due = fixture.clients.next_wait_end().unwrap();
    assert!(due > fixture.now, "the server does not spin");
    fixture.advance(Duration::from_millis(500));
    fixture.expect(&mut one, "*-1\r\n");
    fixture.advance(Duration::from_millis(200));
    fixture.expect(&mut three, "*-1\r\n");
    assert!(fixture.dispatch().is_empty());
    fixture.advance(Duration::from_millis(300));
    let [SentRequest { key, .. }] = fixture.dispatch_some()[..] else { panic!("one") };
    fixture.on_outcome(key, taken("k", "v"));
    fixture.expect(&mut two, &reply_of("k", "v"));
    assert_eq!(fixture.clients.next_pause_end(), None);
}

#[test]
fn reads_that_wait_are_paused_only_with_all_requests() {
    let mut fixture = Fixture::new();
    let (mut client, mut admin) = (fixture.connect(), fixture.connect());
    let change = || {
        let changes = vec![KeyChange {
            database: DatabaseId::FIRST,
            key: Bytes::from_static(b"k"),
            revision: 8,
        }];
        ChangedKeys { changes, others: true, ..ChangedKeys::default() }
    };
    for mode in ["WRITE", "ALL"] {
        send(&mut client, "CHANGES FROM 5 BLOCK 0");
        let key = fixture.dispatch_some()[0].key;
        fixture.on_outcome(key, Outcome::Integer(7));
        fixture.expect_waiting(1);
        send(&mut admin, &format!("CLIENT PAUSE 1000 {mode}"));
        fixture.expect(&mut admin, "+OK\r\n");
        fixture.clients.wake(&change());
        if mode == "ALL" {
            assert!(fixture.dispatch().is_empty());
            fixture.advance(Duration::from_secs(1));
        }
        let key = fixture.dispatch_some()[0].key;
        fixture.on_outcome(key, Outcome::List(vec![Outcome::Integer(8)]));
        fixture.expect(&mut client, "*1\r\n:8\r\n");
    }
}
