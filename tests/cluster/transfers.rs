//! Guarantees beyond single keys, with servers that are killed and partitioned: transfers lose no
//! money, and a command sent with ONCE is applied once, however often it is sent. The tests also
//! count and print duplicates of plain commands that are sent again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::bank::{self, Transfers};
use crate::client::Client;
use crate::load::{self, StopAtEnd};
use crate::proxies::{Flow, Wires};
use crate::replicas::{Cluster, free_port};
use crate::{LOAD, ROUNDS_VARIABLE};

/// Number of fault rounds: four kinds of kills and three kinds of partitions.
const ROUNDS: u64 = 7;
/// Flags that make snapshots so frequent that restarted replicas have their own, and receive some
/// from the leader.
const FLAGS: &[&str] = &["--snapshot-log-bytes", "65536"];
/// Duration of a partition that is longer than a write waits for its outcome.
const CUT: Duration = Duration::from_millis(2_500);

/// Counts of the requests of retrying clients.
#[derive(Default)]
struct Counts {
    /// Number of requests that got a reply in the end.
    answered: AtomicU64,
    /// Number of retries.
    retries: AtomicU64,
}

/// A client that sends a request to one replica after another until it gets a reply.
struct RetryingClient<'c> {
    addresses: &'c [SocketAddr],
    at: usize,
    client: Option<Client>,
    counts: &'c Counts,
}

impl RetryingClient<'_> {
    /// Sends a request until it gets a reply other than a retriable error, and returns the reply.
    fn call(&mut self, arguments: &[&[u8]]) -> Vec<u8> {
        loop {
            if let Some(client) = &mut self.client
                && let Ok(reply) = client.call(arguments)
                && !["-UNCERTAIN ", "-CLUSTERDOWN ", "-LOADING ", "-TRYAGAIN "]
                    .iter()
                    .any(|error| reply.starts_with(error.as_bytes()))
            {
                self.counts.answered.fetch_add(1, Ordering::Relaxed);
                return reply;
            }
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
            self.at = (self.at + 1) % self.addresses.len();
            self.client = Client::connect(self.addresses[self.at]).ok();
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn number(reply: &[u8]) -> u64 {
    let text = std::str::from_utf8(reply).unwrap();
    let digits = text.strip_prefix(':').unwrap_or_else(|| panic!("{text} is no number"));
    digits.trim_end().parse().unwrap()
}

/// Increments a counter with ONCE, in a client session, until `stop` is set. Resends some requests
/// after their reply, as if the reply had been lost. Returns the number of increments.
fn count_once(mut client: RetryingClient<'_>, stop: &AtomicBool) -> u64 {
    let session = number(&client.call(&[b"ONCE", b"OPEN"])).to_string();
    let mut sequence = 0;
    while !stop.load(Ordering::Relaxed) {
        sequence += 1;
        let text = i32::to_string(&sequence);
        let arguments: [&[u8]; 5] =
            [b"ONCE", session.as_bytes(), text.as_bytes(), b"INCR", b"once"];
        let reply = client.call(&arguments);
        let sum = number(&reply);
        if sequence % 8 == 0 {
            assert_eq!(
                number(&client.call(&arguments)),
                sum,
                "the same answer to the same request"
            );
        }
        thread::sleep(Duration::from_millis(2));
    }
    u64::try_from(sequence).unwrap()
}

/// Increments a counter without a client session until `stop` is set. Returns the number of
/// replies.
fn count_plainly(mut client: RetryingClient<'_>, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        client.call(&[b"INCR", b"plain"]);
        count += 1;
        thread::sleep(Duration::from_millis(2));
    }
    count
}

/// Injects one fault and ends it.
fn disturb(cluster: &mut Cluster, wires: &Wires, round: u64) {
    let leader = cluster.leader();
    match round % ROUNDS {
        kills @ 0..4 => {
            for victim in load::victims(kills, leader, 3) {
                cluster.kill(victim);
            }
            thread::sleep(LOAD);
            cluster.restart();
        }
        cuts => {
            let (at, flow) = match cuts {
                4 => (leader, Flow::Cut),
                5 => ((leader + 1) % 3, Flow::Cut),
                _ => (leader, Flow::Held),
            };
            wires.set_around(at, flow);
            thread::sleep(CUT);
            wires.set_around(at, Flow::Open);
        }
    }
    cluster.wait_until_all_serve();
}

/// Waits until enough transfers have been attempted, however slow the disk is.
fn go_on_until_enough(cluster: &Cluster, transfers: &Transfers) {
    for count in (10..=50).step_by(10) {
        cluster.wait_for("more transfers", || {
            transfers.acknowledged().iter().all(|done| *done > count).then_some(())
        });
    }
    cluster.wait_for("conflicting transfers", || {
        (transfers.conflicts.load(Ordering::Relaxed) > 0).then_some(())
    });
    cluster.wait_for("a snapshot", || {
        (0..3).any(|at| cluster.info::<u64>(at, "raft_snapshot_index") > 0).then_some(())
    });
}

fn rounds(threads: &'static str) {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let wires = Wires::new(&ports);
    let mut cluster =
        Cluster::start_between(ports, threads, FLAGS, |from, to| wires.port(from, to));
    cluster.wait_until_all_serve();
    let addresses: Vec<SocketAddr> = (0..3).map(|at| cluster.address(at)).collect();
    bank::open(addresses[0]);
    let (transfers, once, plain) = (Transfers::default(), Counts::default(), Counts::default());
    let stop = AtomicBool::new(false);
    let (mut asked_once, mut asked_plainly) = (0, 0);
    thread::scope(|scope| {
        let (stop, addresses) = (&stop, &addresses[..]);
        let _stop = StopAtEnd(stop);
        for name in 0..4 {
            let transfers = &transfers;
            let address = addresses[name % 3];
            scope.spawn(move || transfers.run(address, &name.to_string(), stop));
        }
        let retrying = |at, counts| RetryingClient { addresses, at, client: None, counts };
        let counting: Vec<_> = (0..3)
            .map(|at| {
                let client = retrying(at, &once);
                scope.spawn(move || count_once(client, stop))
            })
            .collect();
        let client = retrying(0, &plain);
        let counting_plainly = scope.spawn(move || count_plainly(client, stop));
        thread::sleep(LOAD);
        for round in 0..rounds.unwrap_or(ROUNDS) {
            disturb(&mut cluster, &wires, round);
            thread::sleep(LOAD);
        }
        go_on_until_enough(&cluster, &transfers);
        stop.store(true, Ordering::Relaxed);
        asked_once = counting.into_iter().map(|thread| thread.join().unwrap()).sum();
        asked_plainly = counting_plainly.join().unwrap();
    });
    transfers.judge(&addresses);
    let acknowledged = transfers.acknowledged();
    let get = |key: &[u8]| {
        let mut client = Client::connect(addresses[1]).unwrap();
        let reply = String::from_utf8(client.call_until_ok(&[b"GET", key])).unwrap();
        reply.lines().nth(1).map_or(0, |number| number.parse::<u64>().unwrap())
    };
    let counts = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    eprintln!(
        "{threads}: {acknowledged:?} transfers by EXEC and by IFEQ, {} conflicts, {} refused, {} \
         uncertain; once: {asked_once} asked, {} sent again, counter {}; plainly: {asked_plainly} \
         asked, {} sent again, counter {}",
        counts(&transfers.conflicts),
        counts(&transfers.refused),
        counts(&transfers.uncertain),
        counts(&once.retries),
        get(b"once"),
        counts(&plain.retries),
        get(b"plain"),
    );
    assert_eq!(get(b"once"), asked_once, "not counted exactly once\n{}", cluster.logs());
    assert!(get(b"plain") >= asked_plainly, "an acknowledged increment is lost");
    assert!(counts(&once.retries) > 0, "nothing was sent again");
}

#[test]
fn once_and_transfers_apply_exactly_once_with_thread_per_stage() {
    rounds("dedicated");
}

#[test]
fn once_and_transfers_apply_exactly_once_with_shared_stage_thread() {
    rounds("fused");
}
