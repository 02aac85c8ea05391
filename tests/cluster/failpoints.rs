//! Kills real servers at each failpoint (`src/storage/failpoint.rs`) of taking a snapshot,
//! installing a leader's snapshot, and compacting the log. Acknowledged writes must still be there
//! after the restart.

use std::os::unix::process::ExitStatusExt as _;

use super::{BULK_KEYS, OFTEN, bulk_key, bulk_value, info, read_bulk, said, write_bulk};
use crate::client::Client;
use crate::replicas::Cluster;

/// The failpoints of a replica that takes its own snapshots. With `:n`, the replica is killed when
/// it reaches the failpoint for the n-th time, when an earlier snapshot exists.
const TAKING: &[&str] = &[
    "snapshot-own-created",
    "snapshot-own-created:2",
    "snapshot-own-written:3",
    "snapshot-own-synced:2",
    "snapshot-own-verified:2",
    "snapshot-own-renamed",
    "snapshot-own-renamed:2",
    "snapshot-own-durable:2",
    "snapshot-previous-deleted",
    "log-compaction-recorded",
    "log-segment-deleted",
];

/// The failpoints of a follower that installs a leader's snapshot.
const TAKING_IN: &[&str] = &[
    "snapshot-incoming-created",
    "snapshot-incoming-written:2",
    "snapshot-incoming-chunk-kept",
    "snapshot-incoming-synced",
    "snapshot-incoming-verified",
    "snapshot-incoming-renamed",
    "snapshot-incoming-durable",
    "snapshot-incoming-read",
    "log-restarted",
    "log-restarted-compacted",
];

/// Starts a replica that is to be killed at the failpoint `point`.
fn start_to_end(cluster: &mut Cluster, at: usize, point: &str) {
    let mut command = cluster.command(at);
    command.env("BOWLINE_FAILPOINT", point).stdin(std::process::Stdio::piped());
    cluster.start_as(at, command);
}

/// Asserts that the replica was killed at its failpoint.
#[track_caller]
fn assert_ended(cluster: &mut Cluster, at: usize, point: &str) {
    let end = cluster.end_of(at);
    assert_eq!(end.signal(), Some(9), "{point}: it ended with {end}\n{}", cluster.logs());
}

/// A cluster of one replica: an acknowledged write is on this replica's disk or lost.
#[test]
fn kill_at_each_step_of_a_snapshot_loses_no_acknowledged_write() {
    let mut cluster = Cluster::start_with(1, "auto", OFTEN);
    cluster.wait_until_all_serve();
    let mut written = 0;
    for point in TAKING {
        cluster.kill(0);
        start_to_end(&mut cluster, 0, point);
        let address = cluster.address(0);
        let mut client = None;
        // The replica may die before it answers.
        while cluster.runs(0) && client.is_none() {
            client = Client::connect(address).ok().filter(|_| info(address, "raft_term").is_some());
        }
        let begun = written;
        while let Some(client) = &mut client {
            let reply = client.call(&[b"SET", &bulk_key(written), &bulk_value(written)]);
            if reply.is_err() {
                break;
            }
            // Right after the start there is no leader yet.
            written += usize::from(reply.is_ok_and(|reply| reply == b"+OK\r\n"));
            assert!(written < begun + 5_000, "{point} is not reached\n{}", cluster.logs());
        }
        assert_ended(&mut cluster, 0, point);
        cluster.restart();
        cluster.wait_until_all_serve();
        let mut client = Client::connect(address).unwrap();
        for number in written.saturating_sub(BULK_KEYS)..written {
            let reply = client.call(&[b"GET", &bulk_key(number)]).unwrap();
            // The write in flight may have been applied.
            let holds = |number| {
                let value = bulk_value(number);
                reply == [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat()
            };
            let may_be_new = number + BULK_KEYS == written;
            assert!(
                holds(number) || may_be_new && holds(written),
                "{point}: write {number} of {written} is lost\n{}",
                cluster.logs()
            );
        }
        // Written again, so that the state is known to the next round.
        write_bulk(&mut client, written..written + 1);
        written += 1;
    }
    assert!(written > 10 * TAKING.len(), "only {written} writes were acknowledged");
}

/// The follower lacks compacted entries, so the leader sends it a snapshot.
#[test]
fn follower_recovers_from_kill_at_each_snapshot_install_step() {
    let mut cluster = Cluster::start_with(3, "auto", OFTEN);
    cluster.wait_until_all_serve();
    let mut written = 0;
    for point in TAKING_IN {
        let leader = cluster.leader();
        let away = (leader + 1) % 3;
        let reached = info(cluster.address(away), "raft_last_index").unwrap();
        cluster.kill(away);
        let mut client = Client::connect(cluster.address(leader)).unwrap();
        // Both other replicas, because on a busy machine either may be the leader by then.
        let living = [leader, (leader + 2) % 3].map(|at| cluster.address(at));
        cluster.wait_for("logs that begin behind what the follower has", || {
            write_bulk(&mut client, written..written + BULK_KEYS);
            written += BULK_KEYS;
            let firsts = living.map(|address| info(address, "raft_first_index"));
            firsts.iter().all(|first| first.is_some_and(|it| it > reached + 1)).then_some(())
        });
        start_to_end(&mut cluster, away, point);
        assert_ended(&mut cluster, away, point);
        cluster.restart();
        cluster.wait_until_all_serve();
        cluster.wait_for("one state at all replicas", || {
            let digest = |at| cluster.info::<String>(at, "raft_state_digest");
            let digests = [digest(0), digest(1), digest(2)];
            digests.iter().all(|digest| *digest == digests[0]).then_some(())
        });
        for at in 0..3 {
            read_bulk(cluster.address(at), written);
        }
    }
    assert!(said(&cluster, "leader's snapshot received") >= TAKING_IN.len() / 2);
}
