//! Runs the rounds of a comparison: starts the systems, runs every case on them, and measures
//! throughput, latency and resource usage.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context as _;

use super::cases::{Case, Operation};
use super::clients::{ClientResult, Clients, Target};
use super::counters::{self, Counters};
use super::hosts::Host;
use super::results::Measurement;
use super::systems::{Programs, Running, System};
use super::usage::stolen_s;
use crate::lossy::ThinLink;

/// Runs the rounds of a comparison. In a round, every system runs every case once.
pub(crate) struct Rounds<'a> {
    pub(crate) systems: Vec<System>,
    pub(crate) cases: Vec<Case>,
    pub(crate) count: u32,
    /// Whether all systems are started at once in each round, and run each case before the next
    /// case. If false, the systems are started and measured one after another.
    pub(crate) together: bool,
    pub(crate) programs: Programs,
    pub(crate) hosts: Vec<Host>,
    /// Number of servers of systems that can have any number; `None` for their usual number.
    pub(crate) replicas: Option<u8>,
    /// Returns the counters of the network between the hosts.
    pub(crate) network_counters: &'a dyn Fn() -> Counters,
    pub(crate) folder: PathBuf,
    pub(crate) clients: Clients<'a>,
    pub(crate) interrupted: &'a AtomicBool,
}

/// State of the network between the servers of a system: packet loss and TCP retransmission
/// timeout.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Link {
    /// Fraction of lost packets, from 0 to 1.
    pub(crate) loss: f64,
    /// Minimum TCP retransmission timeout (RTO) in milliseconds; `None` for the kernel's default.
    pub(crate) rto_min_ms: Option<u32>,
}

/// Loss pattern, delay and rate of the network between the servers, the same for all benchmark
/// cases of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NetworkPath {
    /// Mean number of packets that are lost in a row; 1 if packets are lost independently.
    pub(crate) burst: u32,
    /// Round-trip time in milliseconds; `None` if packets are not delayed.
    pub(crate) rtt_ms: Option<u32>,
    /// The link from each host to each other one; `None` if its rate is not limited.
    pub(crate) link: Option<ThinLink>,
    /// Whether other TCP connections use the same links.
    pub(crate) cross_traffic: bool,
}

impl NetworkPath {
    /// A network without delay, that loses packets independently.
    pub(crate) const PLAIN: NetworkPath =
        NetworkPath { burst: 1, rtt_ms: None, link: None, cross_traffic: false };
}

/// Callback that sets the packet loss and retransmission timeout of the network. It is called
/// before a system starts, and before each case with packet loss.
pub(crate) type SetLink<'a> = dyn FnMut(Link) -> anyhow::Result<()> + 'a;

/// A running system, and the sets of keys that have been written to it before measurements, each as
/// the number of keys and the length of their values in bytes.
struct Started {
    system: System,
    running: Running,
    preloaded: Vec<(u64, usize)>,
}

impl Rounds<'_> {
    /// Runs all rounds, and passes the result of each run to `on_run`. Returns the reason if the
    /// rounds ended early; `None` if all were completed.
    pub(crate) fn run(
        &self,
        set_link: &mut SetLink<'_>,
        on_run: &mut dyn FnMut(Measurement),
    ) -> Option<String> {
        for round in 1..=self.count {
            let groups: Vec<&[System]> =
                if self.together { vec![&self.systems] } else { self.systems.chunks(1).collect() };
            for group in groups {
                self.run_group(round, group, set_link, on_run);
                if self.interrupted.load(Ordering::Relaxed) {
                    return Some(format!("interrupted in round {round} of {}", self.count));
                }
            }
        }
        None
    }

    fn run_group(
        &self,
        round: u32,
        group: &[System],
        set_link: &mut SetLink<'_>,
        on_run: &mut dyn FnMut(Measurement),
    ) {
        let mut started = Vec::new();
        for &system in group {
            let folder = self.folder.join(system.name());
            match set_link(Link { loss: 0.0, rto_min_ms: system.rto_min_ms() }).and_then(|()| {
                let hosts = self.hosts.get(..system.processes(self.replicas));
                let hosts = hosts.context("not enough hosts")?;
                system.start(&self.programs, hosts, &folder, self.interrupted)
            }) {
                Ok(running) => started.push(Started { system, running, preloaded: Vec::new() }),
                Err(error) => {
                    // The system did not start, so all of its cases fail in this round.
                    for case in &self.cases {
                        Measurement::failed(round, system, case, &error).for_each(&mut *on_run);
                    }
                }
            }
        }
        for case in &self.cases {
            for started in &mut started {
                let over = self.interrupted.load(Ordering::Relaxed);
                if over || case.unsupported_by(started.system).is_some() {
                    continue;
                }
                match self.measure(round, started, case, set_link) {
                    Ok(runs) => runs.into_iter().for_each(&mut *on_run),
                    Err(error) => Measurement::failed(round, started.system, case, &error)
                        .for_each(&mut *on_run),
                }
            }
        }
        for started in started {
            let name = started.system.name();
            if let Err(error) = started.running.stop() {
                eprintln!("{name}: {error:#}");
            }
        }
    }

    /// Runs `case` once on a started system. `round` is the number of the round. Returns one result
    /// for each client of the case.
    fn measure(
        &self,
        round: u32,
        started: &mut Started,
        case: &Case,
        set_link: &mut SetLink<'_>,
    ) -> anyhow::Result<Vec<Measurement>> {
        let Started { system, running, preloaded } = started;
        running.ensure_running()?;
        running.find_leader();
        let of = |running: &Running| running.clients().to_vec();
        let clients = of(running);
        let target = Target { system: *system, clients: &clients };
        let kind = (case.keys, case.value_bytes);
        if case.operation == Operation::Get && !preloaded.contains(&kind) {
            self.clients.preload(target, case)?;
            preloaded.push(kind);
        }
        if let Some(loss) = case.loss {
            set_link(Link { loss, rto_min_ms: system.rto_min_ms() })?;
        }
        let count = self.clients.calibrate(target, case)?;
        let counters = |running: &Running| (running.counters(), (self.network_counters)());
        let (servers, network) = counters(running);
        let (used, syncs, stolen) = (running.usage()?, running.syncs(), stolen_s());
        let began = Instant::now();
        let seen = self.clients.run(target, case, count);
        let wall_s = began.elapsed().as_secs_f64();
        let (stolen, later) = (stolen_s() - stolen, running.syncs());
        running.ensure_running()?;
        let used = running.usage()? - used;
        let (servers_later, network_later) = counters(running);
        let mut counters = counters::rise(&servers, &servers_later);
        let leader_changes = counters.remove(counters::LEADER_CHANGES);
        counters.extend(counters::rise(&network, &network_later));
        counters.retain(|_, count| *count > 0);
        let seen = seen?;
        let all: u64 = seen.iter().map(|seen| seen.operations).sum();
        let shared_operations = (seen.len() > 1).then_some(all);
        let syncs = syncs.zip(later).map(|(before, after)| after.saturating_sub(before));
        let rows = case.rows().into_iter().zip(seen);
        let run = |(row, seen): (String, ClientResult)| Measurement {
            round,
            system: system.name(),
            case: row,
            operations: seen.operations,
            shared_operations,
            errors: seen.errors,
            error_kinds: seen.error_kinds,
            leader_changes,
            counters: counters.clone(),
            rate: seen.rate,
            p50_s: seen.p50_s,
            p99_s: seen.p99_s,
            max_s: seen.max_s,
            cpu_s: used.cpu_s,
            written_bytes: used.written_bytes,
            syncs,
            wall_s,
            stolen_s: stolen,
            failure: (seen.operations == 0).then(|| "no operation succeeded".to_owned()),
        };
        Ok(rows.map(run).collect())
    }
}

impl Measurement {
    /// Returns the results of a run that failed with `error`, one for each client of the case,
    /// without any measurements.
    fn failed(
        round: u32,
        system: System,
        case: &Case,
        error: &anyhow::Error,
    ) -> impl Iterator<Item = Measurement> {
        let failure = format!("{error:#}");
        case.rows().into_iter().map(move |row| Measurement {
            round,
            system: system.name(),
            case: row,
            operations: 0,
            shared_operations: None,
            errors: 0,
            error_kinds: BTreeMap::new(),
            leader_changes: None,
            counters: BTreeMap::new(),
            rate: 0.0,
            p50_s: 0.0,
            p99_s: 0.0,
            max_s: 0.0,
            cpu_s: 0.0,
            written_bytes: 0,
            syncs: None,
            wall_s: 0.0,
            stolen_s: 0.0,
            failure: Some(failure.clone()),
        })
    }
}
