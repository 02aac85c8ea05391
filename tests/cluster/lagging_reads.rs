//! `READONLY MAXLAG`: reads at a follower that is partitioned from the others, or whose peers are
//! paused. They continue without the leader for up to the lag, and never return a state that is too
//! old.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::load::StopAtEnd;
use crate::proxies::{Flow, Wires};
use crate::replicas::{Cluster, free_port};

const LAG: Duration = Duration::from_secs(2);
/// A read that needs the leader fails soon when there is none.
const FLAGS: &[&str] = &["--leader-wait-ms", "200"];

/// The numbers written so far, with the times of their acknowledgements.
type Written = Mutex<Vec<(Instant, u64)>>;

/// Writes rising numbers until `stop` is set.
fn write_numbers(client: &mut Client, written: &Written, stop: &AtomicBool) {
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let reply = client.call(&[b"SET", b"n", number.to_string().as_bytes()]).unwrap();
        if reply == b"+OK\r\n" {
            written.lock().unwrap().push((Instant::now(), number));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Reads the number once, and asserts that it is recent enough. Returns whether there was a reply
/// other than an error.
fn read_number(client: &mut Client, written: &Written) -> bool {
    let sent_at = Instant::now();
    let reply = String::from_utf8(client.call(&[b"GET", b"n"]).unwrap()).unwrap();
    if ["-CLUSTERDOWN", "-LOADING", "-TRYAGAIN"].iter().any(|it| reply.starts_with(it)) {
        return false;
    }
    let number: u64 =
        reply.split("\r\n").nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    let written = written.lock().unwrap();
    let due = written.iter().rfind(|(acknowledged_at, _)| *acknowledged_at + LAG <= sent_at);
    let due = due.map_or(0, |(_, number)| *number);
    assert!(number >= due, "{number}, but {due} was acknowledged more than {LAG:?} earlier");
    true
}

/// `cut` isolates the follower with the given index from the other replicas; `heal` ends that.
fn lagging_reads_at_isolated_follower(
    threads: &'static str,
    cut: impl Fn(&Cluster, &Wires, usize),
    heal: impl Fn(&Cluster, &Wires, usize),
) {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let wires = Wires::new(&ports);
    let cluster = Cluster::start_between(ports, threads, FLAGS, |from, to| wires.port(from, to));
    cluster.wait_until_all_serve();
    let (written, stop) = (Written::default(), AtomicBool::new(false));
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let lagging_reads = || cluster.info::<u64>(follower, "raft_lagging_reads");
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let mut writer = Client::connect(cluster.address(leader)).unwrap();
        let (written, stop) = (&written, &stop);
        scope.spawn(move || write_numbers(&mut writer, written, stop));
        let mut reader = Client::connect(cluster.address(follower)).unwrap();
        let lag = LAG.as_millis().to_string();
        let reply = reader.call(&[b"READONLY", b"MAXLAG", lag.as_bytes()]).unwrap();
        assert_eq!(reply, b"+OK\r\n");
        assert_eq!(lagging_reads(), 0);
        cluster.wait_for("reads from the follower's own state", || {
            read_number(&mut reader, written);
            (lagging_reads() > 20).then_some(())
        });
        cut(&cluster, &wires, follower);
        let mut served = 0;
        cluster.wait_for("the end of the reads", || {
            let is_served = read_number(&mut reader, written);
            served += u64::from(is_served);
            (!is_served).then_some(())
        });
        assert!(served > 1, "{served} reads without a leader");
        assert!(
            !read_number(&mut reader, written),
            "a state that is too old is never served again"
        );
        heal(&cluster, &wires, follower);
        // The replica may lead now, and then answers no lagging reads.
        cluster.wait_for("a read after the isolation", || {
            read_number(&mut reader, written).then_some(())
        });
        assert_eq!(reader.call(&[b"READONLY"]).unwrap(), b"+OK\r\n");
        let before = lagging_reads();
        cluster.wait_for("a linearizable read", || read_number(&mut reader, written).then_some(()));
        assert_eq!(lagging_reads(), before);
    });
}

/// The connections stay open, and what was sent is delivered after the partition.
#[test]
fn partitioned_follower_stops_lagging_reads_with_thread_per_stage() {
    lagging_reads_at_isolated_follower(
        "dedicated",
        |_, wires, follower| wires.set_around(follower, Flow::Held),
        |_, wires, follower| wires.set_around(follower, Flow::Open),
    );
}

#[test]
fn partitioned_follower_stops_lagging_reads_with_shared_stage_thread() {
    lagging_reads_at_isolated_follower(
        "fused",
        |_, wires, follower| wires.set_around(follower, Flow::Cut),
        |_, wires, follower| wires.set_around(follower, Flow::Open),
    );
}

#[test]
fn lagging_reads_continue_while_the_others_are_paused() {
    let others = |follower: usize| (0..3).filter(move |at| *at != follower);
    lagging_reads_at_isolated_follower(
        "auto",
        |cluster, _, follower| others(follower).for_each(|at| cluster.pause(at)),
        |cluster, _, follower| others(follower).for_each(|at| cluster.resume(at)),
    );
}
