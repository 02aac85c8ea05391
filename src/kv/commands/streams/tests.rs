//! Tests of stream commands in the state machine: ids and times by the replicated clock, snapshots,
//! estimates of the work, events.

use bytes::Bytes;

use crate::kv::batch::Batch;
use crate::kv::commands::outcome::Outcome;
use crate::kv::keyspace::events::{Event, RecordedEvents};
use crate::kv::state_machine::tests::Feeder;
use crate::kv::{CommandId, Operation, SnapshotReader, SnapshotWriter};
use crate::types::{EntryId, RequestKey, Term};

fn at(feeder: &mut Feeder, millis: u64) {
    let resets = feeder.store.clock_resets();
    feeder.apply(Operation::Clock { millis, resets });
}

fn value(text: &str) -> Outcome {
    Outcome::Value(Some(Bytes::copy_from_slice(text.as_bytes())))
}

/// Returns the outcome of a read with a reading of the replicated clock.
fn read_at(feeder: &mut Feeder, millis: u64, command: &str, args: &[&str]) -> Outcome {
    let resets = feeder.store.clock_resets();
    let reading = [millis.to_le_bytes(), resets.to_le_bytes()].concat();
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).chain([&reading[..]]).collect();
    feeder.read(command, &args)
}

/// Returns the ids and idle times of the pending entries of the group `g` of the stream `s`.
fn idle_times(feeder: &mut Feeder, millis: u64) -> Vec<(Outcome, i64)> {
    let Outcome::List(rows) = read_at(feeder, millis, "xpending", &["s", "g", "-", "+", "10"])
    else {
        panic!("no list")
    };
    let rows = rows.into_iter().map(|row| match row {
        Outcome::List(row) => match &row[..] {
            [id, _, Outcome::Integer(idle), _] => (id.clone(), *idle),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    });
    rows.collect()
}

#[test]
fn stream_ids_follow_the_replicated_clock_and_never_fall() {
    let mut feeder = Feeder::new();
    let add = |feeder: &mut Feeder| feeder.call("xadd", &["s", "*", "f", "v"]);
    at(&mut feeder, 5_000);
    assert_eq!(add(&mut feeder), value("5000-0"));
    assert_eq!(add(&mut feeder), value("5000-1"));
    at(&mut feeder, 6_000);
    assert_eq!(add(&mut feeder), value("6000-0"));
    feeder.apply(Operation::ResetClock { millis: 1_000 });
    assert_eq!(add(&mut feeder), value("6000-1"), "after the clock was set back");
    assert_eq!(feeder.call("xdel", &["s", "6000-1"]), Outcome::Integer(1));
    assert_eq!(feeder.call("xtrim", &["s", "MAXLEN", "0"]), Outcome::Integer(3));
    let mut copy = feeder.restored();
    assert_eq!(add(&mut feeder), value("6000-2"), "although no entry is left");
    assert_eq!(add(&mut copy), value("6000-2"), "on a replica that was restored");
    assert_eq!(copy.store.digest(), feeder.store.digest());
    at(&mut feeder, 7_000);
    assert_eq!(add(&mut feeder), value("7000-0"));
}

#[test]
fn idle_times_follow_the_replicated_clock() {
    let mut feeder = Feeder::new();
    at(&mut feeder, 1_000);
    feeder.call("xgroup|create", &["s", "g", "$", "MKSTREAM", "CREATE"]);
    feeder.call("xadd", &["s", "1-1", "f", "v"]);
    let read = ["GROUP", "g", "one", "STREAMS", "s", ">"];
    assert!(matches!(feeder.call("xreadgroup", &read), Outcome::Streams(_)));
    at(&mut feeder, 1_400);
    assert_eq!(idle_times(&mut feeder, 1_500), [(value("1-1"), 500)], "by the server's reading");
    assert_eq!(idle_times(&mut feeder, 0), [(value("1-1"), 400)], "by the applied clock");
    let nothing = Outcome::List(Vec::new());
    assert_eq!(feeder.call("xclaim", &["s", "g", "two", "401", "1-1"]), nothing);
    let claimed = feeder.call("xclaim", &["s", "g", "two", "400", "1-1", "JUSTID"]);
    assert_eq!(claimed, Outcome::List(vec![value("1-1")]));
    assert_eq!(idle_times(&mut feeder, 0), [(value("1-1"), 0)]);
    feeder.apply(Operation::ResetClock { millis: 200 });
    assert_eq!(idle_times(&mut feeder, 0), [(value("1-1"), 0)], "after the clock was set back");
}

#[test]
fn failed_stream_command_creates_no_key() {
    let mut feeder = Feeder::new();
    for (command, args) in [
        ("xadd", &["s", "0-0", "f", "v"][..]),
        ("xadd", &["s", "x", "f", "v"]),
        ("xadd", &["s", "*", "f"]),
        ("xadd", &["s", "MAXLEN", "-1", "*", "f", "v"]),
        ("xgroup|create", &["s", "g", "x", "MKSTREAM", "CREATE"]),
        ("xgroup|create", &["s", "g", "0", "CREATE"]),
        ("xreadgroup", &["GROUP", "g", "c", "STREAMS", "s", ">"]),
        ("xclaim", &["s", "g", "c", "0", "1-1"]),
        ("xautoclaim", &["s", "g", "c", "0", "0"]),
        ("xsetid", &["s", "5"]),
    ] {
        let outcome = feeder.call(command, args);
        let is_error = matches!(outcome, Outcome::Error(_) | Outcome::Refused(_));
        assert!(is_error, "{command} {args:?}: {outcome:?}");
        assert_eq!(feeder.store.key_count(), 0, "{command} {args:?}");
    }
    let nothing = feeder.call("xadd", &["s", "NOMKSTREAM", "*", "f", "v"]);
    assert_eq!((nothing, feeder.store.key_count()), (Outcome::Value(None), 0));
}

/// Adds entries, reads them with two consumers, and acknowledges some.
fn work(feeder: &mut Feeder, rounds: usize) {
    feeder.call("xgroup|create", &["s", "g", "0", "MKSTREAM", "CREATE"]);
    for round in 0..rounds {
        let number = round.to_string();
        feeder.call("xadd", &["s", "*", "number", &number]);
        let consumer = if round % 2 == 0 { "one" } else { "another consumer with a long name" };
        feeder.call("xreadgroup", &["GROUP", "g", consumer, "COUNT", "2", "STREAMS", "s", ">"]);
        if round % 3 == 0 {
            feeder.call("xack", &["s", "g", &format!("0-{}", round / 2)]);
        }
        if round % 5 == 0 {
            feeder.call("xdel", &["s", &format!("0-{}", round / 3)]);
        }
    }
}

#[test]
fn stream_is_restored_from_a_snapshot() {
    let mut feeder = Feeder::new();
    work(&mut feeder, 1_000);
    feeder.call("xtrim", &["s", "MAXLEN", "~", "700"]);
    let mut copy = feeder.restored();
    assert_eq!(copy.store.digest(), feeder.store.digest());
    assert_eq!(copy.store.memory(), feeder.store.memory());
    for (command, args) in [
        ("xadd", &["s", "*", "f", "v"][..]),
        ("xreadgroup", &["GROUP", "g", "one", "STREAMS", "s", ">"]),
        ("xtrim", &["s", "MAXLEN", "~", "100"]),
        ("xautoclaim", &["s", "g", "one", "0", "0", "COUNT", "500"]),
        ("xgroup|delconsumer", &["s", "g", "one"]),
    ] {
        assert_eq!(copy.call(command, args), feeder.call(command, args), "{command}");
        assert_eq!(copy.store.digest(), feeder.store.digest(), "{command}");
    }
    feeder.store.check_sums();
    feeder.call("del", &["s"]);
    feeder.store.check_sums();
}

#[test]
fn snapshot_view_is_unaffected_by_stream_writes() {
    let mut feeder = Feeder::new();
    work(&mut feeder, 500);
    for number in 0..200 {
        feeder.call("set", &[&format!("k{number}"), &"x".repeat(1_000)]);
    }
    let before = feeder.store.digest();
    let last = EntryId { term: Term(1), index: feeder.store.applied_index() };
    let mut writer = SnapshotWriter::new(feeder.store.view(last));
    let mut reader = SnapshotReader::default();
    let mut turn = 0;
    while writer.write(&mut |piece| reader.feed(piece).unwrap()).is_none() {
        let id = format!("0-{}", turn % 500);
        feeder.call("xadd", &["s", "*", "more", &id]);
        feeder.call("xack", &["s", "g", &id]);
        feeder.call("xdel", &["s", &id]);
        feeder.call("xreadgroup", &["GROUP", "g", "new", "COUNT", "1", "STREAMS", "s", ">"]);
        turn += 1;
    }
    assert!(turn > 1 && feeder.store.digest() != before);
    assert_eq!(reader.finish().unwrap().0.digest(), before);
    assert_eq!(feeder.restored().store.digest(), feeder.store.digest());
}

#[test]
fn copy_of_a_stream_changes_independently() {
    let mut feeder = Feeder::new();
    work(&mut feeder, 300);
    feeder.call("copy", &["s", "t"]);
    let before = feeder.call("xinfo|stream", &["s", "FULL", "COUNT", "0", "STREAM"]);
    assert_eq!(feeder.call("xinfo|stream", &["t", "FULL", "COUNT", "0", "STREAM"]), before);
    feeder.call("xgroup|destroy", &["t", "g"]);
    feeder.call("xtrim", &["t", "MAXLEN", "0"]);
    feeder.call("xadd", &["t", "*", "f", "v"]);
    assert_eq!(feeder.call("xinfo|stream", &["s", "FULL", "COUNT", "0", "STREAM"]), before);
    feeder.call("rename", &["s", "t"]);
    assert_eq!(feeder.call("xinfo|stream", &["t", "FULL", "COUNT", "0", "STREAM"]), before);
    feeder.store.check_sums();
}

fn estimate(feeder: &Feeder, command: &str, args: &[&str]) -> u64 {
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    let operation = Operation::call(CommandId::of(command), &args[..]);
    let bytes = Batch::one(RequestKey::default(), &operation);
    let batch = Batch::decode(&bytes).unwrap();
    batch.groups_after(0).map(|group| feeder.store.estimate(&group)).sum()
}

#[test]
fn estimate_of_a_stream_read_is_bounded_by_its_count() {
    let mut feeder = Feeder::new();
    for _ in 0..20 {
        feeder.call("xadd", &["s", "*", "f", &"x".repeat(64_000)]);
    }
    for (command, args) in [
        ("xrange", &["s", "-", "+"][..]),
        ("xread", &["STREAMS", "s", "0"]),
        ("xread", &["COUNT", "0", "STREAMS", "s", "0"]),
    ] {
        assert!(estimate(&feeder, command, args) > 10_000, "{command} {args:?}");
    }
    for (command, args) in [
        ("xrange", &["s", "-", "+", "COUNT", "3"][..]),
        ("xread", &["COUNT", "3", "STREAMS", "s", "0"]),
        ("xread", &["STREAMS", "none", "0"]),
        ("xadd", &["s", "*", "f", "v"]),
    ] {
        assert!(estimate(&feeder, command, args) < 100, "{command} {args:?}");
    }
    let _view = feeder.store.view(EntryId { term: Term(1), index: feeder.store.applied_index() });
    let shared = estimate(&feeder, "xadd", &["s", "*", "f", "v"]);
    assert!(shared < 100, "a shared stream is copied in parts");
}

#[test]
fn stream_changes_cause_the_events_of_redis() {
    let mut feeder = Feeder::new();
    let recorded = RecordedEvents { keys: true, ..RecordedEvents::default() };
    feeder.store.keyspace.record_events(recorded);
    for (command, args, wanted) in [
        ("xadd", &["s", "1-1", "f", "v"][..], &["new", "xadd"][..]),
        ("xadd", &["s", "MAXLEN", "1", "2-1", "f", "v"], &["xadd", "xtrim"]),
        ("xgroup|create", &["s", "g", "0", "CREATE"], &["xgroup-create"]),
        ("xreadgroup", &["GROUP", "g", "c", "STREAMS", "s", ">"], &["xgroup-createconsumer"]),
        ("xack", &["s", "g", "2-1"], &[]),
        ("xgroup|createconsumer", &["s", "g", "d"], &["xgroup-createconsumer"]),
        ("xgroup|createconsumer", &["s", "g", "d"], &[]),
        ("xgroup|delconsumer", &["s", "g", "d"], &["xgroup-delconsumer"]),
        ("xgroup|setid", &["s", "g", "0", "SETID"], &["xgroup-setid"]),
        ("xgroup|destroy", &["s", "g"], &["xgroup-destroy"]),
        ("xdel", &["s", "2-1"], &["xdel"]),
        ("xdel", &["s", "2-1"], &[]),
        ("xtrim", &["s", "MAXLEN", "0"], &[]),
        ("xsetid", &["s", "9-9"], &["xsetid"]),
        ("del", &["s"], &["del"]),
    ] {
        feeder.call(command, args);
        let names = feeder.store.take_events().into_iter().map(|event| match event {
            Event::Key { name, .. } => name,
            Event::Message { .. } => "message",
        });
        assert_eq!(names.collect::<Vec<_>>(), wanted, "{command} {args:?}");
    }
}

#[test]
fn try_of_a_waiting_client_tells_what_it_waits_for() {
    let mut feeder = Feeder::new();
    let read = |feeder: &mut Feeder, args: &[&str]| {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        feeder.read("xread|wait", &args)
    };
    feeder.call("xadd", &["s", "5-1", "f", "v"]);
    let ids = |ids: &[&str]| Outcome::List(ids.iter().map(|id| value(id)).collect());
    assert_eq!(
        read(&mut feeder, &["BLOCK", "0", "STREAMS", "s", "t", "$", "$"]),
        ids(&["5-1", "0-0"])
    );
    assert_eq!(read(&mut feeder, &["STREAMS", "s", "7"]), ids(&["7-0"]));
    let found = read(&mut feeder, &["BLOCK", "0", "STREAMS", "t", "s", "$", "0"]);
    assert!(matches!(found, Outcome::Streams(_)), "{found:?}");
    feeder.call("xgroup|create", &["s", "g", "$", "CREATE"]);
    let again = ["GROUP", "g", "c", "COUNT", "9", "STREAMS", "s", ">"];
    assert_eq!(feeder.call("xreadgroup|wait", &again), Outcome::NoList);
    feeder.call("xadd", &["s", "6-1", "f", "v"]);
    assert!(matches!(feeder.call("xreadgroup|wait", &again), Outcome::Streams(_)));
    feeder.call("xgroup|destroy", &["s", "g"]);
    let text = "NOGROUP the consumer group this client was blocked on no longer exists";
    assert_eq!(feeder.call("xreadgroup|wait", &again), Outcome::error(text));
    let text = "UNBLOCKED the stream key no longer exists";
    feeder.call("del", &["s"]);
    assert_eq!(feeder.call("xreadgroup|wait", &again), Outcome::error(text));
    feeder.call("set", &["s", "x"]);
    assert_eq!(feeder.call("xreadgroup|wait", &again), Outcome::error(text));
}
