//! `FAILOVER` with real servers: the leadership moves, clients of any replica see no error and lose
//! nothing, and a transfer that cannot succeed is refused or ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::client::Client;
use crate::load::StopAtEnd;
use crate::replicas::Cluster;

/// Number of transfers under load.
const TRANSFERS: usize = 6;

/// Increments a counter through one connection until `stop` is set. Each reply must be the next
/// number: no error, nothing lost, nothing applied twice. Returns the number of increments.
fn count_up(address: SocketAddr, key: &str, stop: &AtomicBool, answered: &AtomicU64) -> u64 {
    let mut client = Client::connect(address).unwrap();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let reply = client.call(&[b"INCR", key.as_bytes()]).unwrap();
        assert_eq!(String::from_utf8_lossy(&reply), format!(":{count}\r\n"));
        answered.fetch_add(1, Ordering::Relaxed);
    }
    count
}

fn failover(cluster: &Cluster, at: usize, words: &[&str]) -> String {
    let mut client = Client::connect(cluster.address(at)).unwrap();
    let words: Vec<&[u8]> =
        std::iter::once("FAILOVER").chain(words.iter().copied()).map(str::as_bytes).collect();
    String::from_utf8(client.call(&words).unwrap()).unwrap()
}

/// Waits until a replica knows a leader.
fn wait_until_known(cluster: &Cluster, at: usize) {
    cluster.wait_for("a known leader", || {
        (cluster.info::<String>(at, "raft_leader_id") != "none").then_some(())
    });
}

fn transfers_under_load(threads: &'static str) {
    let cluster = Cluster::start(3, threads);
    cluster.wait_until_all_serve();
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for name in 0..6 {
            let address = cluster.address(name % 3);
            let (stop, answered) = (&stop, &answered);
            scope.spawn(move || count_up(address, &format!("counter{name}"), stop, answered));
        }
        for round in 0..TRANSFERS {
            let before = answered.load(Ordering::Relaxed);
            let leader = cluster.leader();
            let target = (leader + 1 + round % 2) % 3;
            let port = cluster.ports[target].to_string();
            // Every third transfer leaves the choice to the leader.
            let words = if round % 3 == 2 { vec![] } else { vec!["TO", "127.0.0.1", &port] };
            assert_eq!(failover(&cluster, leader, &words), "+OK\r\n");
            let next = cluster.wait_for("the transfer", || cluster.leader_but(leader));
            assert!(words.is_empty() || next == target, "{next} leads\n{}", cluster.logs());
            cluster.wait_for("writes after the transfer", || {
                (answered.load(Ordering::Relaxed) > before + 200).then_some(())
            });
        }
    });
}

#[test]
fn failover_moves_leadership_without_client_errors() {
    transfers_under_load("dedicated");
}

#[test]
fn failover_moves_leadership_with_shared_stage_thread() {
    transfers_under_load("fused");
}

#[test]
fn impossible_failover_is_refused_with_the_reason() {
    let mut cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    wait_until_known(&cluster, follower);
    let reply = failover(&cluster, follower, &[]);
    let place = format!("127.0.0.1:{}", cluster.ports[leader]);
    assert!(reply.starts_with("-ERR FAILOVER is not valid when server is a replica"), "{reply}");
    assert!(reply.contains(&place), "{reply} does not name {place}");
    let own = cluster.ports[leader].to_string();
    let next = cluster.ports[follower].to_string();
    for (words, wanted) in [
        (&["TO", "127.0.0.1", "1"][..], "-ERR FAILOVER target HOST and PORT is not a replica."),
        (&["TO", "127.0.0.1", &own], "-ERR FAILOVER target HOST and PORT is not a replica."),
        (&["TO", "127.0.0.1"], "-ERR syntax error"),
        (&["TO", "127.0.0.1", "x"], "-ERR value is not an integer or out of range"),
        (&["TIMEOUT", "0"], "-ERR FAILOVER timeout must be greater than 0"),
        (&["TIMEOUT", "-1"], "-ERR FAILOVER timeout must be greater than 0"),
        (&["TO", "127.0.0.1", &next, "FORCE"], "-ERR FAILOVER FORCE is not supported"),
        (&["ABORT"], "-ERR No failover in progress."),
        (&["ABORT", "TIMEOUT", "1"], "-ERR syntax error"),
        (&["NONSENSE"], "-ERR syntax error"),
    ] {
        let reply = failover(&cluster, leader, words);
        assert!(reply.starts_with(wanted), "{words:?}: {reply}");
    }
    cluster.kill(follower);
    let alive = [leader, other];
    // The leader notices that a replica is silent only after some heartbeats.
    cluster.wait_for("the refusal of a replica that is down", || {
        let leader = cluster.leader_of(&alive)?;
        let reply = failover(&cluster, leader, &["TO", "127.0.0.1", &next]);
        reply.starts_with("-ERR FAILOVER target replica is not online").then_some(())
    });
    let leader = cluster.wait_for("a leader", || cluster.leader_of(&alive));
    let last = if leader == alive[0] { alive[1] } else { alive[0] };
    cluster.kill(last);
    cluster.wait_for("a refusal without followers", || {
        let reply = failover(&cluster, leader, &[]);
        let reasons = ["requires connected replicas", "no leader is known"];
        reasons.iter().any(|reason| reply.contains(reason)).then_some(())
    });
}

#[test]
fn failover_to_a_paused_replica_times_out_and_writes_continue() {
    let cluster = Cluster::start(3, "auto");
    cluster.wait_until_all_serve();
    let leader = cluster.leader();
    let target = (leader + 1) % 3;
    let port = cluster.ports[target].to_string();
    cluster.pause(target);
    // Accepted, because the leader heard from the target just before.
    let reply = failover(&cluster, leader, &["TO", "127.0.0.1", &port]);
    let mut client = Client::connect(cluster.address(leader)).unwrap();
    assert_eq!(client.call(&[b"SET", b"key", b"1"]).unwrap(), b"+OK\r\n");
    if reply == "+OK\r\n" {
        cluster.wait_for("the end of the transfer", || {
            (cluster.info::<String>(leader, "raft_transfer_target") == "none").then_some(())
        });
    }
    assert_eq!(client.call(&[b"INCR", b"key"]).unwrap(), b":2\r\n");
    cluster.resume(target);
    cluster.wait_until_all_serve();
}
