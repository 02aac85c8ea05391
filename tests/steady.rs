//! Commands, values and clients that take much time or memory, each beside 16 well-behaved clients
//! at all replicas: the leader keeps its term, no client gets an error or waits forever, and after
//! each round memory comes back.
//!
//! On a machine that other processes keep busy, an input may cost time: a change of the leader, and
//! replies that come late or not at all, do not count there. An error reply always counts, except
//! those with which a replica answers while the leader changes.
//!
//! A test program of its own, so that no other test uses the processors meanwhile.
#![allow(clippy::unwrap_used, reason = "a test whose helpers can't go on fails")]

#[path = "cluster/client.rs"]
#[allow(dead_code, reason = "shared with cluster.rs")]
mod client;
#[path = "steady/inputs.rs"]
mod inputs;
#[path = "steady/offender.rs"]
mod offender;
#[path = "cluster/replicas.rs"]
#[allow(dead_code, reason = "shared with cluster.rs")]
mod replicas;
#[path = "cluster/ticks.rs"]
mod ticks;

use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use client::{Client, command};
use inputs::{INPUTS, Input};
use offender::Offender;
use replicas::Cluster;
use ticks::{OTHERS_PERCENT_MAX, Ticks};

/// Rounds of all inputs, for each thread arrangement.
const ROUNDS: usize = 1;
/// Environment variable for more rounds.
const ROUNDS_VARIABLE: &str = "BOWLINE_STEADY_ROUNDS";
/// Attempts for each input, of which one must count.
const TRIES: usize = 3;
/// Beginnings of the error replies with which replicas answer while no leader is known, or after
/// the deadline of a command. Only these may be the consequence of a busy machine.
const LATE_REPLIES: [&str; 4] =
    ["-CLUSTERDOWN", "-UNCERTAIN", "-TRYAGAIN the leader changed", NO_REPLY];
const NO_REPLY: &str = "no reply";

/// Number of well-behaved clients.
const BYSTANDERS: usize = 16;
/// Commands that a well-behaved client sends at once, every other time.
const PIPELINE: usize = 8;

/// Resident memory of a replica may be this many times `used_memory`, and [`SPARE_BYTES`] more.
const USED_FACTOR: u64 = 2;
const SPARE_BYTES: u64 = 64 << 20;

/// The well-behaved clients.
#[derive(Default)]
struct Bystanders {
    stop: AtomicBool,
    /// Number of replies.
    replies: AtomicU64,
    /// The first error of each client.
    errors: Mutex<Vec<Failure>>,
}

/// What went wrong during an input.
struct Failure {
    what: String,
    /// Whether the cause may be that other processes used the processors.
    may_be_late: bool,
}

impl Failure {
    /// A reply that is an error, or that did not come.
    fn of_reply(client: &str, reply: &str) -> Failure {
        let may_be_late = LATE_REPLIES.iter().any(|late| reply.starts_with(late));
        Failure { what: format!("{client}: {reply}"), may_be_late }
    }
}

/// Stops the well-behaved clients when dropped, also when the test fails.
struct StopAtEnd<'b>(&'b Bystanders);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Bystanders {
    /// Runs one client until the end or its first error.
    fn run(&self, address: SocketAddr, number: usize) {
        let mut client = Client::connect(address).unwrap();
        let key = format!("bystander:{number}").into_bytes();
        let counter = format!("counter:{number}").into_bytes();
        for turn in 0_usize.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let value = turn.to_string().into_bytes();
            let commands: [&[&[u8]]; 3] =
                [&[b"SET", &key, &value], &[b"GET", &key], &[b"INCR", &counter]];
            let count = if turn % 2 == 0 { 1 } else { PIPELINE };
            let some = (turn / 2..).take(count).map(|at| command(commands[at % 3]));
            let sent = client.send(&some.collect::<Vec<_>>().concat());
            for _ in 0..count {
                let reply = sent.as_ref().ok().and_then(|()| client.reply().ok());
                let shown = reply.map_or_else(
                    || NO_REPLY.to_owned(),
                    |reply| String::from_utf8_lossy(&reply).into_owned(),
                );
                if shown.starts_with('-') || shown == NO_REPLY {
                    let failure = Failure::of_reply(&format!("client {number}"), shown.trim_end());
                    return self.errors.lock().unwrap().push(failure);
                }
                self.replies.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until the clients have got 100 more replies each.
    fn wait_for_progress(&self, cluster: &Cluster) {
        let wanted = self.replies.load(Ordering::Relaxed) + 100 * BYSTANDERS as u64;
        cluster.wait_for("replies to the well-behaved clients", || {
            let failed = !self.errors.lock().unwrap().is_empty();
            (failed || self.replies.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    }
}

/// Resident memory of a process in bytes; `None` if unknown.
fn resident_bytes(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1_024)
}

/// Waits until no replica has more resident memory than the bound allows.
fn wait_for_memory(cluster: &Cluster) {
    for at in 0..cluster.ports.len() {
        let mut client = Client::connect(cluster.address(at)).unwrap();
        let bound = format!("replica {} with less memory", at + 1);
        cluster.wait_for(&bound, || {
            let used: u64 = offender::info(&mut client, "used_memory").parse().unwrap();
            let resident = resident_bytes(cluster.process(at));
            resident.is_none_or(|it| it <= USED_FACTOR * used + SPARE_BYTES).then_some(())
        });
    }
}

/// Runs one input beside the well-behaved clients. Returns what went wrong, and the share of the
/// processors that other processes used, in percent.
fn attempt(cluster: &Cluster, input: Input, at: usize) -> (Vec<Failure>, u64) {
    let (term, before) = (cluster.term(), Ticks::read(cluster));
    let bystanders = Bystanders::default();
    let mut offender = Offender::connect(cluster, at);
    thread::scope(|scope| {
        let stop = StopAtEnd(&bystanders);
        for number in 0..BYSTANDERS {
            let (bystanders, address) = (&bystanders, cluster.address(number % 3));
            scope.spawn(move || bystanders.run(address, number));
        }
        bystanders.wait_for_progress(cluster);
        input(&mut offender);
        bystanders.wait_for_progress(cluster);
        drop(stop);
    });
    let others = Ticks::read(cluster).others_percent(before);
    let mut errors = bystanders.errors.into_inner().unwrap();
    errors.extend(offender.errors.iter().map(|reply| Failure::of_reply("offender", reply)));
    let after = cluster.term();
    if after != term {
        let what = format!("term {after} instead of {term}");
        errors.push(Failure { what, may_be_late: true });
    }
    (errors, others)
}

fn run_all_inputs(threads: &'static str) {
    let cluster = Cluster::start_hasty(3, threads, &[]);
    cluster.wait_until_all_serve();
    offender::allow_long_strings(&cluster);
    let variable = std::env::var(ROUNDS_VARIABLE).ok();
    let rounds = variable.and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let (mut failed, mut skipped) = (Vec::new(), 0);
    for round in 0..rounds {
        for (number, (name, input)) in INPUTS.iter().enumerate() {
            let counts = (0..TRIES).any(|_| {
                let (errors, others) = attempt(&cluster, *input, (round + number) % 3);
                let what: Vec<&str> = errors.iter().map(|it| it.what.as_str()).collect();
                eprintln!("{threads} round {round}, {name}: {what:?}; others {others} %");
                let is_late = !errors.is_empty() && errors.iter().all(|it| it.may_be_late);
                let counts = !is_late || others <= OTHERS_PERCENT_MAX;
                if counts && !errors.is_empty() {
                    failed.push(format!("round {round}, {name}: {what:?}"));
                }
                counts
            });
            skipped += usize::from(!counts);
        }
        wait_for_memory(&cluster);
    }
    assert!(failed.is_empty(), "{failed:#?}\n{}", cluster.logs());
    if skipped > 0 {
        eprintln!("{threads}: {skipped} inputs did not count, the machine was busy");
    }
}

/// One thread arrangement after the other, so that each has the processors for itself.
#[test]
fn expensive_inputs_do_not_disturb_other_clients() {
    run_all_inputs("dedicated");
    run_all_inputs("fused");
}
