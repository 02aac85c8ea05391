//! Tests of requests with scripts. The test plays the part of the applier, which runs them.

use super::blocking::send;
use super::tracking::{changes, connect_caching, handle, invalidation};
use super::users::{set_user, with_user};
use super::*;
use crate::kv::{CommandId, ItemsBuffer, Operation, ScriptEffects};
use crate::redis::ScriptRun;
use crate::runtime::channels::ScriptResults;

const EVAL: &str = "EVAL script 1 k";

/// Returns the sequence numbers of the requests that are given to the applier.
fn jobs(fixture: &mut Fixture) -> Vec<u64> {
    let sent = fixture.clients.dispatch(Target::Core, 1, |_| true);
    sent.scripts.map_or_else(Vec::new, |it| it.jobs.iter().map(|(number, _)| *number).collect())
}

fn some_jobs(fixture: &mut Fixture) -> Vec<u64> {
    fixture.until("a script", |fixture| Some(jobs(fixture)).filter(|jobs| !jobs.is_empty()))
}

/// The effects of a script that writes, of which the leader may or may not refuse some.
fn writes(needs_memory: bool) -> ScriptEffects {
    let (nothing, mut operations) = (ItemsBuffer::default(), ItemsBuffer::default());
    operations.push(&Operation::call(CommandId::of("del"), [&b"k"[..]]).encode());
    let effects = Operation::Effects {
        seed: 1,
        clock: (1, 0),
        whole: 0,
        needs_memory,
        script: b"",
        watched: nothing.items(),
        operations: operations.items(),
    };
    ScriptEffects::Apply(effects.encode().into())
}

fn reads() -> ScriptEffects {
    let nothing = ItemsBuffer::default();
    let check = Operation::Transaction { watched: nothing.items(), operations: nothing.items() };
    ScriptEffects::Check(check.encode().into())
}

/// Passes the results of a group to the clients. Each script replies `:1` and has read `k`.
fn end(fixture: &mut Fixture, runs: Vec<(u64, ScriptEffects)>) {
    let ended = |effects| ScriptRun::Ended {
        reply: Bytes::from_static(b":1\r\n"),
        effects,
        read: vec![Bytes::from_static(b"k")],
        notes: Box::default(),
    };
    let runs = runs.into_iter().map(|(number, effects)| (number, ended(effects))).collect();
    let users_revision = fixture.clients.context.access.users_revision();
    fixture.clients.on_script_results(ScriptResults { users_revision, is_group: true, runs });
}

#[test]
fn held_script_runs_as_soon_as_the_group_has_ended() {
    let mut fixture = Fixture::new();
    let (mut one, mut two) = (fixture.connect(), fixture.connect());
    send(&mut one, EVAL);
    let first = some_jobs(&mut fixture);
    send(&mut two, EVAL);
    fixture.until("both requests", |fixture| {
        (fixture.clients.context.traffic.commands == 2).then_some(())
    });
    assert!(jobs(&mut fixture).is_empty());
    end(&mut fixture, vec![(first[0], ScriptEffects::None)]);
    assert_eq!(jobs(&mut fixture).len(), 1, "without another pass");
    fixture.expect(&mut one, ":1\r\n");
}

#[test]
fn keys_that_scripts_read_are_cached_until_they_change() {
    let mut fixture = Fixture::new();
    let mut client = connect_caching(&mut fixture, "NOLOOP");
    for (effects, outcome, revision) in
        [(reads(), Outcome::List(vec![]), 5), (writes(true), Outcome::Done, 8)]
    {
        send(&mut client, EVAL);
        let numbers = some_jobs(&mut fixture);
        end(&mut fixture, vec![(numbers[0], effects)]);
        let sent = fixture.dispatch_some();
        // The script's own change, about which the client is not told.
        let own = if outcome == Outcome::Done { &[("other", revision)][..] } else { &[] };
        handle(&mut fixture, changes(own), vec![(&sent[0], outcome, Some(revision))]);
        fixture.expect(&mut client, ":1\r\n");
        assert_eq!(fixture.clients.context.tracking.keys, 1);
        handle(&mut fixture, changes(&[("k", revision + 1)]), vec![]);
        fixture.expect(&mut client, &invalidation(&["k"]));
    }
    // Its own change of a key that it has read.
    send(&mut client, EVAL);
    let numbers = some_jobs(&mut fixture);
    end(&mut fixture, vec![(numbers[0], writes(true))]);
    let sent = fixture.dispatch_some();
    handle(&mut fixture, changes(&[("k", 12)]), vec![(&sent[0], Outcome::Done, Some(12))]);
    send(&mut client, "ECHO end");
    fixture.expect(&mut client, ":1\r\n$3\r\nend\r\n");
}

#[test]
fn scripts_run_again_only_after_the_pause() {
    let mut fixture = Fixture::new();
    let (mut client, mut reader) = (fixture.connect(), fixture.connect());
    let mut admin = fixture.connect();
    send(&mut client, EVAL);
    let numbers = some_jobs(&mut fixture);
    end(&mut fixture, vec![(numbers[0], writes(true))]);
    let key = fixture.dispatch_some()[0].key;
    send(&mut admin, "CLIENT PAUSE 30000 WRITE");
    fixture.expect(&mut admin, "+OK\r\n");
    // A key of the script has changed.
    fixture.on_outcome(key, Outcome::NoList);
    assert!(jobs(&mut fixture).is_empty() && !fixture.clients.has_waiting());
    send(&mut reader, "EVAL_RO script 0");
    let read = some_jobs(&mut fixture);
    end(&mut fixture, vec![(read[0], ScriptEffects::None)]);
    fixture.expect(&mut reader, ":1\r\n");
    for _ in 0..29 {
        fixture.advance(Duration::from_secs(1));
        assert!(jobs(&mut fixture).is_empty());
    }
    fixture.advance(Duration::from_secs(1));
    assert_eq!(jobs(&mut fixture), numbers);
    end(&mut fixture, vec![(numbers[0], ScriptEffects::None)]);
    fixture.expect(&mut client, ":1\r\n");
}

#[test]
fn script_that_waits_for_long_ones_is_told_so() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    send(&mut client, EVAL);
    let numbers = some_jobs(&mut fixture);
    fixture.advance(Duration::from_secs(4));
    let reply = fixture.reply(&mut client, 10);
    assert!(reply.starts_with(b"-BUSY "), "{}", reply.escape_ascii());
    end(&mut fixture, vec![(numbers[0], writes(true))]);
    assert!(fixture.dispatch().is_empty(), "it is not applied any more");
}

#[test]
fn full_memory_fails_only_the_scripts_that_need_memory() {
    let mut fixture = Fixture::new();
    let (mut one, mut two) = (fixture.connect(), fixture.connect());
    send(&mut one, EVAL);
    send(&mut two, EVAL);
    fixture.until("both requests", |fixture| {
        (fixture.clients.context.traffic.commands == 2).then_some(())
    });
    let numbers = some_jobs(&mut fixture);
    end(&mut fixture, vec![(numbers[0], writes(true)), (numbers[1], writes(false))]);
    let forwarded = Target::Leader(StateAge::default());
    let batch = fixture.clients.dispatch(forwarded, 10, |_| true).batches.remove(0);
    fixture.clients.on_full_memory(batch.key);
    fixture.expect(&mut one, "-OOM command not allowed when used memory > 'maxmemory'.\r\n");
    assert_eq!(some_jobs(&mut fixture), numbers[1..]);
    end(&mut fixture, vec![(numbers[1], ScriptEffects::None)]);
    fixture.expect(&mut two, ":1\r\n");
}

#[test]
fn write_that_is_sent_again_is_checked_again() {
    let (mut fixture, mut store, mut client) = with_user();
    send(&mut client, "SET a 1");
    let key = fixture.dispatch_some()[0].key;
    set_user(&mut fixture, &mut store, &[b"-set"]);
    fixture.clients.requeue(&[key]);
    assert!(fixture.dispatch().is_empty());
    let reply = fixture.reply(&mut client, 10);
    assert!(reply.starts_with(b"-NOPERM "), "{}", reply.escape_ascii());
}

#[test]
fn monitors_see_the_commands_of_a_transaction_with_scripts() {
    let mut fixture = Fixture::new();
    let (mut monitor, mut client) = (fixture.connect(), fixture.connect());
    send(&mut monitor, "MONITOR");
    fixture.expect(&mut monitor, "+OK\r\n");
    send(&mut client, "MULTI\r\nSET k v\r\nEVAL script 0\r\nEXEC");
    some_jobs(&mut fixture);
    let mut seen = Vec::new();
    fixture.until("the lines", |_| {
        read(&mut monitor, &mut seen);
        seen.ends_with(b"\"EXEC\"\r\n").then_some(())
    });
    let seen = String::from_utf8(seen).unwrap();
    let commands: Vec<&str> =
        seen.lines().filter_map(|line| line.split_once("] ")).map(|it| it.1).collect();
    let wanted = ["\"MULTI\"", "\"SET\" \"k\" \"v\"", "\"EVAL\" \"script\" \"0\"", "\"EXEC\""];
    assert_eq!(commands, wanted);
}
