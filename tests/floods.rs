//! Floods: every connection sends the largest number of commands that the server accepts from one
//! client before the first reply is read. The leader's heartbeats must still leave in time: it
//! keeps its term, and no write is UNCERTAIN.
//!
//! A test program of its own, so that no other test uses the processors meanwhile.
#![allow(clippy::unwrap_used, reason = "a test whose helpers can't go on fails")]

#[path = "cluster/client.rs"]
#[allow(dead_code, reason = "shared with cluster.rs")]
mod client;
#[path = "cluster/replicas.rs"]
#[allow(dead_code, reason = "shared with cluster.rs")]
mod replicas;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use std::{fs, process, thread};

use client::{Client, command};
use replicas::Cluster;

/// Number of connections that flood the leader at the same time.
const CONNECTIONS: usize = 400;
/// Number of commands on each connection.
const COMMANDS: usize = 1_024;
/// Number of rounds that must count, for each thread arrangement.
const ROUNDS: u64 = 2;
/// Number of attempts for each round that must count.
const TRIES: u64 = 3;
/// Name of the environment variable that sets another number of rounds.
const ROUNDS_VARIABLE: &str = "BOWLINE_FLOOD_ROUNDS";
/// Maximum share of the processors, in percent, that other processes may use in a round that
/// counts. If they use more, the leader's threads wait for a processor, and the leader may lose its
/// leadership whatever it does.
const OTHERS_PERCENT_MAX: u64 = 25;

/// Counts of the replies to one flood, by outcome.
#[derive(Debug, Default)]
struct Outcome {
    done: usize,
    uncertain: usize,
    /// Number of errors that mean that the write was not applied.
    refused: usize,
    example: String,
}

/// CPU time since the system started, in ticks.
#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    /// Time of all processors, used or idle.
    all: u64,
    /// Time used by all processes.
    busy: u64,
    /// Time used by this process and by the replicas.
    own: u64,
}

impl Ticks {
    /// Reads the system's counters. Returns zeros if the system does not provide them, so that
    /// every round counts.
    fn read(cluster: &Cluster) -> Ticks {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal
        let fields = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok());
        let fields: Vec<u64> = fields.collect();
        let all = fields.iter().sum::<u64>();
        let idle = fields.iter().skip(3).take(2).sum::<u64>();
        let replicas = (0..3).map(|at| cluster.process(at));
        let own = replicas.chain([process::id()]).map(Ticks::of).sum();
        Ticks { all, busy: all - idle, own }
    }

    /// Returns the CPU time used by one process.
    fn of(process: u32) -> u64 {
        let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let behind_name = text.rsplit(')').next().unwrap_or_default();
        let times = behind_name.split_whitespace().skip(11).take(2);
        times.filter_map(|field| field.parse::<u64>().ok()).sum()
    }

    /// Returns the share of the processors that other processes have used since `before`, in
    /// percent.
    fn others_percent(self, before: Ticks) -> u64 {
        let others = (self.busy - before.busy).saturating_sub(self.own - before.own);
        others * 100 / (self.all - before.all).max(1)
    }
}

/// Floods the server from one thread with blocking sockets, so that the replicas get most of the
/// CPU time.
fn flood(clients: &mut [BufReader<TcpStream>], round: u64) -> Outcome {
    let mut outcome = Outcome::default();
    for (number, client) in clients.iter_mut().enumerate() {
        let key = format!("key:{number}");
        let value = format!("value of round {round}");
        let bytes = command(&[b"SET", key.as_bytes(), value.as_bytes()]).repeat(COMMANDS);
        client.get_mut().write_all(&bytes).unwrap();
    }
    let mut reply = Vec::new();
    for client in clients {
        for _ in 0..COMMANDS {
            reply.clear();
            client.read_until(b'\n', &mut reply).unwrap();
            if reply == b"+OK\r\n" {
                outcome.done += 1;
            } else if reply.starts_with(b"-UNCERTAIN ") {
                outcome.uncertain += 1;
            } else {
                outcome.refused += 1;
                outcome.example = String::from_utf8_lossy(&reply).into_owned();
            }
        }
    }
    outcome
}

fn flood_in_rounds(threads: &'static str) {
    let cluster = Cluster::start_hasty(3, threads, &[]);
    cluster.wait_until_all_serve();
    let variable = std::env::var(ROUNDS_VARIABLE).ok();
    let rounds = variable.and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let (mut failed, mut counted) = (Vec::new(), 0);
    for round in 1..=rounds * TRIES {
        let (leader, term) = (cluster.leader(), cluster.term());
        let connect = |_| BufReader::new(Client::connect(cluster.address(leader)).unwrap().stream);
        let mut clients: Vec<BufReader<TcpStream>> = (0..CONNECTIONS).map(connect).collect();
        let before = Ticks::read(&cluster);
        let outcome = flood(&mut clients, round);
        let others = Ticks::read(&cluster).others_percent(before);
        let after = cluster.term();
        eprintln!(
            "{threads} round {round}: term {term}, then {after}: {outcome:?}; others {others} %"
        );
        assert_eq!(outcome.done + outcome.uncertain + outcome.refused, CONNECTIONS * COMMANDS);
        assert!(outcome.done > 0, "no write was acknowledged");
        if others <= OTHERS_PERCENT_MAX {
            counted += 1;
            if after != term || outcome.uncertain > 0 {
                failed.push(format!("round {round}: term {term}, then {after}: {outcome:?}"));
            }
        }
        if counted == rounds {
            break;
        }
        // The replicas finish the rest of the flood.
        thread::sleep(Duration::from_millis(100));
    }
    assert!(failed.is_empty(), "{failed:#?}\n{}", cluster.logs());
    if counted < rounds {
        eprintln!("{threads}: only {counted} of {rounds} rounds counted, the machine was busy");
    }
}

/// Tests one thread arrangement after the other, so that each has the processors for itself.
#[test]
fn flood_of_client_commands_causes_no_leader_change() {
    flood_in_rounds("dedicated");
    flood_in_rounds("fused");
}
