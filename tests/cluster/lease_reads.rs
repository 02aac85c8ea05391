//! Lease reads: a leader that was suspended for longer than its lease returns no stale value.

use crate::client::{Client, command};
use crate::replicas::Cluster;

/// Number of rounds for each thread arrangement.
const ROUNDS: usize = 4;
/// Number of reads that are waiting for the leader when it resumes.
const READS: usize = 100;

fn resumed_leader_serves_no_stale_read(threads: &'static str) {
    let cluster = Cluster::start_with(3, threads, &["--reads", "lease"]);
    cluster.wait_until_all_serve();
    for round in 1..=ROUNDS {
        let leader = cluster.leader();
        let mut there = Client::connect(cluster.address(leader)).unwrap();
        let old = format!("old {round}");
        let new = format!("new {round}");
        assert_eq!(there.call(&[b"SET", b"k", old.as_bytes()]).unwrap(), b"+OK\r\n");
        let bulk = |value: &str| format!("${}\r\n{value}\r\n", value.len()).into_bytes();
        // The leader must use its lease, otherwise no stale reply could occur.
        let lease_reads = || cluster.info::<u64>(leader, "raft_lease_reads");
        let before = lease_reads();
        cluster.wait_for("a read under the lease", || {
            assert_eq!(there.call(&[b"GET", b"k"]).unwrap(), bulk(&old));
            (lease_reads() > before).then_some(())
        });
        cluster.pause(leader);
        let next = cluster.wait_for("another leader", || cluster.leader_but(leader));
        let mut elsewhere = Client::connect(cluster.address(next)).unwrap();
        cluster.wait_for("a write at the new leader", || {
            let reply = elsewhere.call(&[b"SET", b"k", new.as_bytes()]).unwrap();
            (reply == b"+OK\r\n").then_some(())
        });
        // The requests wait in the leader's socket and are the first input that it reads when it
        // resumes.
        there.send(&command(&[b"GET", b"k"]).repeat(READS)).unwrap();
        cluster.resume(leader);
        // Every read is answered: the deposed leader asks the new one, and waits for it.
        for _ in 0..READS {
            let reply = there.reply().unwrap();
            assert_eq!(reply, bulk(&new), "round {round}: {}", String::from_utf8_lossy(&reply));
        }
        cluster.wait_until_all_serve();
    }
}

#[test]
fn resumed_leader_serves_no_stale_read_with_thread_per_stage() {
    resumed_leader_serves_no_stale_read("dedicated");
}

#[test]
fn resumed_leader_serves_no_stale_read_with_shared_stage_thread() {
    resumed_leader_serves_no_stale_read("fused");
}
