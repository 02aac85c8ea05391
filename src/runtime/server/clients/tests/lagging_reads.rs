//! Tests of reads that a replica may answer from its own state, which may lag behind.

use super::*;
use crate::runtime::server::clients::Dispatched;
use crate::runtime::server::freshness::Freshness;
use crate::types::Index;

/// Returns the age of a state that was proven to be current this many milliseconds ago.
fn aged(millis: u64) -> StateAge {
    let mut freshness = Freshness::default();
    freshness.confirm(Instant::ZERO, Index(7));
    freshness.age(Instant::ZERO + Duration::from_millis(millis))
}

/// Dispatches, and returns the numbers of batches for the leader and for this replica's own state,
/// and whether the state is aging.
fn dispatch(fixture: &mut Fixture, target: Target) -> (usize, usize, bool) {
    let Dispatched { batches, lagging_reads, is_aging, .. } =
        fixture.clients.dispatch(target, 1, |_| true);
    (batches.len(), lagging_reads.len(), is_aging)
}

/// Waits until clients have sent this number of commands altogether.
fn receive(fixture: &mut Fixture, commands: u64) {
    fixture.until("all commands", |fixture| {
        (fixture.clients.context.traffic.commands == commands).then_some(())
    });
}

#[test]
fn read_within_its_lag_is_answered_from_the_own_state() {
    let mut fixture = Fixture::new();
    let (mut lagging, mut plain) = (fixture.connect(), fixture.connect());
    assert!(!fixture.clients.has_lagging_reads());
    lagging.write_all(b"READONLY MAXLAG 100\r\nGET a\r\nGET b\r\n").unwrap();
    plain.write_all(b"READONLY\r\nGET c\r\n").unwrap();
    receive(&mut fixture, 5);
    assert!(fixture.clients.has_lagging_reads());
    assert_eq!(dispatch(&mut fixture, Target::Own(aged(101))), (0, 0, false), "all wait");
    assert_eq!(dispatch(&mut fixture, Target::Own(aged(50))), (0, 2, false), "one still waits");
    assert_eq!(dispatch(&mut fixture, Target::Leader(aged(50))), (1, 0, false));
    lagging.write_all(b"GET d\r\n").unwrap();
    receive(&mut fixture, 6);
    assert_eq!(dispatch(&mut fixture, Target::Leader(aged(100))), (0, 1, true), "aging");
    assert_eq!(fixture.clients.context.lagging_reads, 3);
    fixture.expect(&mut plain, "+OK\r\n");
    plain.write_all(b"READONLY MAXLAG 0\r\nREADONLY MAXLAG\r\nREADONLY MAXLAG x\r\n").unwrap();
    receive(&mut fixture, 9);
    let accepted = fixture
        .clients
        .connected
        .iter_mut()
        .filter(|(_, client)| client.connection.lag_max().is_some());
    assert_eq!(accepted.count(), 1, "the others are refused");
}

#[test]
fn lagging_read_never_overtakes_an_earlier_request_of_its_connection() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"READONLY MAXLAG 100\r\nGET a\r\n").unwrap();
    receive(&mut fixture, 2);
    let first = fixture.clients.dispatch(Target::Leader(aged(101)), 1, |_| true).batches;
    client.write_all(b"GET a\r\n").unwrap();
    receive(&mut fixture, 3);
    // The leader may confirm the first read at a later index than that of the own state.
    assert_eq!(dispatch(&mut fixture, Target::Own(aged(0))), (0, 0, false));
    let second = fixture.clients.dispatch(Target::Leader(aged(0)), 1, |_| true).batches;
    for batch in [&first[0], &second[0]] {
        fixture.on_outcome(batch.key, Outcome::Value(None));
    }
    client.write_all(b"GET a\r\nSET a 1\r\nGET a\r\n").unwrap();
    receive(&mut fixture, 6);
    // A write waits for the read, and a read for the write, of which it sees the effect.
    let read = fixture.clients.dispatch(Target::Leader(aged(0)), 1, |_| true);
    assert_eq!((read.batches.len(), read.lagging_reads.len()), (0, 1));
    fixture.on_outcome(read.lagging_reads[0].key, Outcome::Value(None));
    let write = fixture.clients.dispatch(Target::Leader(aged(0)), 1, |_| true);
    assert_eq!((write.batches.len(), write.lagging_reads.len()), (1, 0));
    fixture.on_outcome(write.batches[0].key, Outcome::Done);
    assert_eq!(dispatch(&mut fixture, Target::Leader(aged(0))), (0, 1, false));
    // The leader's own reads are linearizable, and so are those after READONLY or READWRITE.
    client.write_all(b"READONLY\r\nGET a\r\n").unwrap();
    receive(&mut fixture, 8);
    assert_eq!(dispatch(&mut fixture, Target::Leader(aged(0))), (1, 0, false));
}
