//! Reads by lease: a leader that was stopped for longer than its lease answers nothing old.

use crate::client::{Client, command};
use crate::replicas::Cluster;

/// Rounds for each arrangement of threads.
const ROUNDS: usize = 4;

fn stopped_leader_wakes(threads: &'static str) {
    let cluster = Cluster::start_with(3, threads, &["--reads", "lease"]);
    cluster.wait_until_all_serve();
    let mut answered = 0;
    for round in 1..=ROUNDS {
        let leader = cluster.leader();
        let mut there = Client::connect(cluster.address(leader)).unwrap();
        let old = format!("old {round}");
        let new = format!("new {round}");
        assert_eq!(there.call(&[b"SET", b"k", old.as_bytes()]).unwrap(), b"+OK\r\n");
        // A lease is in force, and reads are answered on it.
        let bulk = |value: &str| format!("${}\r\n{value}\r\n", value.len()).into_bytes();
        assert_eq!(there.call(&[b"GET", b"k"]).unwrap(), bulk(&old));
        cluster.pause(leader);
        let next = cluster.wait_for("another leader", || cluster.leader_but(leader));
        let mut elsewhere = Client::connect(cluster.address(next)).unwrap();
        cluster.wait_for("a write at the new leader", || {
            let reply = elsewhere.call(&[b"SET", b"k", new.as_bytes()]).unwrap();
            (reply == b"+OK\r\n").then_some(())
        });
        // They lie in its socket when it wakes, and are the first thing that it looks at.
        there.send(&command(&[b"GET", b"k"]).repeat(100)).unwrap();
        cluster.resume(leader);
        for _ in 0..100 {
            let reply = there.reply().unwrap();
            let is_new = reply == bulk(&new);
            let shown = String::from_utf8_lossy(&reply).into_owned();
            assert!(is_new || reply.starts_with(b"-"), "round {round}: {shown}");
            answered += usize::from(is_new);
        }
        cluster.wait_until_all_serve();
    }
    assert!(answered > 0, "no read was answered at all");
}

#[test]
fn a_stopped_leader_wakes_and_answers_nothing_old_dedicated() {
    stopped_leader_wakes("dedicated");
}

#[test]
fn a_stopped_leader_wakes_and_answers_nothing_old_fused() {
    stopped_leader_wakes("fused");
}
