//! The state of one replica is changed without a log entry, under load and with kills. The replica
//! detects this by the reports of the others, and rebuilds its state; no acknowledged write is
//! lost, and after that no read returns the wrong value.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bowline::sim::checkers::linearizability::STEPS_MAX;

use crate::client::Client;
use crate::load::{self, Notes, StopAtEnd};
use crate::repair::wait_until_repaired;
use crate::replicas::Cluster;

/// Flags for frequent comparisons of states and frequent snapshots.
const FLAGS: &[&str] =
    &["--digest-check-s", "1", "--enable-debug-command", "yes", "--snapshot-log-bytes", "65536"];
/// Log line of a replica that detects that its state is wrong.
const FOUND: &str = "the state of this replica is wrong";
/// Log line of a start that removes the wrong state.
const REMOVED: &str = "wrong state removed";
/// Log line of a replica whose state has been changed.
const CHANGED: &str = "state of this replica changed by DEBUG DIVERGE";

/// Changes a key in the state of one replica only.
fn change_state(cluster: &Cluster, at: usize, options: &[&[u8]]) {
    let before = cluster.log(at).matches(CHANGED).count();
    let mut client = Client::connect(cluster.address(at)).unwrap();
    // The replica must have applied the write of the key, which would undo the change.
    assert_eq!(client.call_until_ok(&[b"GET", b"diverged"]), b"$5\r\nright\r\n");
    let change: &[&[u8]] = &[b"DEBUG", b"DIVERGE", b"diverged", b"wrong"];
    let reply = client.call(&[change, options].concat()).unwrap();
    assert_eq!(reply, b"+OK\r\n");
    cluster.wait_for("the changed state", || {
        (cluster.log(at).matches(CHANGED).count() > before).then_some(())
    });
}

/// Returns the number of times that a replica has detected that its state is wrong.
fn found(cluster: &Cluster, at: usize) -> usize {
    cluster.log(at).matches(FOUND).count()
}

/// Reads the key that was changed, from one replica, until it replies.
fn read_changed(cluster: &Cluster, at: usize) -> Vec<u8> {
    cluster.wait_for("a reply", || {
        let mut client = Client::connect(cluster.address(at)).ok()?;
        client.call(&[b"GET", b"diverged"]).ok().filter(|reply| !reply.starts_with(b"-"))
    })
}

fn set_changed(cluster: &Cluster) {
    let mut client = Client::connect(cluster.address(0)).unwrap();
    assert_eq!(client.call_until_ok(&[b"SET", b"diverged", b"right"]), b"+OK\r\n");
}

fn wait_until_equal(cluster: &Cluster, at: usize) {
    wait_until_repaired(cluster, at);
    let index: u64 = cluster.info(at, "raft_applied_index");
    cluster.wait_for("a comparison without differences", || {
        let is_later = cluster.info::<u64>(at, "raft_digest_check_index") > index;
        let result: String = cluster.info(at, "raft_digest_check_result");
        (is_later && result == "equal").then_some(())
    });
}

fn rebuild_under_load(threads: &'static str) {
    let mut cluster = Cluster::start_with(3, threads, FLAGS);
    cluster.wait_until_all_serve();
    set_changed(&cluster);
    let addresses = [0, 1, 2].map(|at| cluster.address(at));
    for (round, leads) in (0..).zip([false, true]) {
        let (notes, stop) = (Notes::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            for (name, address) in (0..).zip(addresses) {
                let (notes, stop) = (&notes, &stop);
                scope.spawn(move || load::run(address, name, round, notes, stop));
            }
            cluster.wait_for("an acknowledged write", || notes.is_any_acknowledged());
            let leader = cluster.leader();
            let victim = if leads { leader } else { (leader + 1) % 3 };
            let before = found(&cluster, victim);
            change_state(&cluster, victim, &[]);
            cluster.wait_for("the comparison", || (found(&cluster, victim) > before).then_some(()));
            assert_eq!(read_changed(&cluster, victim), b"$5\r\nright\r\n");
            cluster.kill(victim);
            cluster.restart();
            assert_eq!(read_changed(&cluster, victim), b"$5\r\nright\r\n");
            wait_until_equal(&cluster, victim);
            for at in (0..3).filter(|at| *at != victim) {
                assert_eq!(read_changed(&cluster, at), b"$5\r\nright\r\n");
            }
            stop.store(true, Ordering::Relaxed);
        });
        load::read_all(&addresses, round, &notes);
        eprintln!(
            "{threads} round {round}: {} operations, {} writes acknowledged",
            notes.history().len(),
            notes.acknowledged.load(Ordering::Relaxed)
        );
        if let Err(error) = notes.history().check(STEPS_MAX) {
            panic!("round {round}: {error}\n{}", cluster.logs());
        }
    }
    let all: usize = (0..3).map(|at| found(&cluster, at)).sum();
    assert_eq!(all, 2, "only the changed replicas\n{}", cluster.logs());
}

#[test]
fn changed_state_is_rebuilt_under_load_with_thread_per_stage() {
    rebuild_under_load("dedicated");
}

#[test]
fn changed_state_is_rebuilt_under_load_with_shared_stage_thread() {
    rebuild_under_load("fused");
}

#[test]
fn kill_while_a_wrong_state_is_removed_does_not_bring_it_back() {
    let mut cluster = Cluster::start_with(3, "auto", FLAGS);
    cluster.wait_until_all_serve();
    set_changed(&cluster);
    let mut client = Client::connect(cluster.address(0)).unwrap();
    for (round, point) in ["wrong-state-marked", "wrong-state-removed"].into_iter().enumerate() {
        // Snapshots replace the beginning of the log.
        for key in 0..1_000 {
            let key = format!("{round}:{key}");
            client.call_until_ok(&[b"SET", key.as_bytes(), &[b'x'; 200]]);
        }
        let victim = 1;
        cluster.kill(victim);
        let mut command = cluster.command(victim);
        command.env("BOWLINE_FAILPOINT", point).stdin(Stdio::piped());
        cluster.start_as(victim, command);
        wait_until_equal(&cluster, victim);
        change_state(&cluster, victim, &[]);
        let end = cluster.end_of(victim);
        assert_eq!(end.signal(), Some(9), "{point}: {end}\n{}", cluster.logs());
        let before = found(&cluster, victim);
        cluster.restart();
        assert_eq!(read_changed(&cluster, victim), b"$5\r\nright\r\n", "{point}");
        wait_until_equal(&cluster, victim);
        assert!(cluster.log(victim).contains(REMOVED), "{point}\n{}", cluster.logs());
        assert_eq!(found(&cluster, victim), before, "{point}: the wrong state came back");
    }
}

/// A flipped bit in memory does not change the digest, but a snapshot shows it.
#[test]
fn state_that_contradicts_its_digest_is_rebuilt() {
    let cluster = Cluster::start_with(3, "auto", FLAGS);
    cluster.wait_until_all_serve();
    set_changed(&cluster);
    change_state(&cluster, 1, &[b"SILENT"]);
    let mut client = Client::connect(cluster.address(0)).unwrap();
    let mut key = 0;
    cluster.wait_for("the comparison after a snapshot", || {
        for _ in 0..100 {
            key += 1;
            let key = format!("key:{key}");
            client.call_until_ok(&[b"SET", key.as_bytes(), &[b'x'; 200]]);
        }
        (found(&cluster, 1) > 0).then_some(())
    });
    assert_eq!(read_changed(&cluster, 1), b"$5\r\nright\r\n");
    wait_until_equal(&cluster, 1);
    assert_eq!(found(&cluster, 0) + found(&cluster, 2), 0, "{}", cluster.logs());
}

#[test]
fn without_a_majority_no_replica_is_taken_out_of_service() {
    let cluster = Cluster::start_with(2, "auto", FLAGS);
    cluster.wait_until_all_serve();
    set_changed(&cluster);
    change_state(&cluster, 1, &[]);
    for at in 0..2 {
        cluster.wait_for("the result of a comparison", || {
            let result: String = cluster.info(at, "raft_digest_check_result");
            (result == "no_majority").then_some(())
        });
        assert_eq!(cluster.info::<String>(at, "raft_digest_check_differing"), "1,2");
        assert!(cluster.log(at).contains("no majority agrees"), "{}", cluster.logs());
        assert_eq!(found(&cluster, at), 0);
    }
}
