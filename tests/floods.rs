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
#[path = "cluster/ticks.rs"]
mod ticks;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use client::{Client, command};
use replicas::Cluster;
use ticks::{OTHERS_PERCENT_MAX, Ticks};

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

/// Counts of the replies to one flood, by outcome.
#[derive(Debug, Default)]
struct Outcome {
    done: usize,
    uncertain: usize,
    /// Number of errors that mean that the write was not applied.
    refused: usize,
    example: String,
}

/// Floods from one thread with blocking sockets, so that the servers have the processors.
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
