//! Holds the rounds: starts systems, runs every case, and takes down what it cost.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::cases::{Case, Operation};
use super::clients::{Clients, Target};
use super::results::Measurement;
use super::site::Host;
use super::systems::{Programs, Running, System};
use super::usage::stolen_s;

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) systems: Vec<System>,
    pub(crate) cases: Vec<Case>,
    pub(crate) rounds: u32,
    /// All systems are up at once, and each case goes through all of them before the next case.
    pub(crate) together: bool,
    pub(crate) programs: Programs,
    pub(crate) hosts: Vec<Host>,
    pub(crate) folder: PathBuf,
    pub(crate) clients: Clients<'a>,
    pub(crate) interrupted: &'a AtomicBool,
}

/// Changes the network before a case: gets the share of packets to lose.
pub(crate) type SetLoss<'a> = dyn FnMut(f64) -> anyhow::Result<()> + 'a;

/// One round's systems, each with the cases that were filled for it.
struct Up {
    system: System,
    running: Running,
    filled: Vec<(u64, usize)>,
}

impl Plan<'_> {
    /// Holds all rounds; `told` hears each run. Gives why it ended early, if it did.
    pub(crate) fn hold(
        &self,
        set_loss: &mut SetLoss<'_>,
        told: &mut dyn FnMut(Measurement),
    ) -> Option<String> {
        for round in 1..=self.rounds {
            let groups: Vec<&[System]> =
                if self.together { vec![&self.systems] } else { self.systems.chunks(1).collect() };
            for group in groups {
                self.hold_group(round, group, set_loss, told);
                if self.interrupted.load(Ordering::Relaxed) {
                    return Some(format!("interrupted in round {round} of {}", self.rounds));
                }
            }
        }
        None
    }

    fn hold_group(
        &self,
        round: u32,
        group: &[System],
        set_loss: &mut SetLoss<'_>,
        told: &mut dyn FnMut(Measurement),
    ) {
        let mut up = Vec::new();
        for &system in group {
            let folder = self.folder.join(system.name());
            match set_loss(0.0)
                .and_then(|()| system.start(&self.programs, &self.hosts, &folder, self.interrupted))
            {
                Ok(running) => up.push(Up { system, running, filled: Vec::new() }),
                Err(error) => {
                    // None of its cases can be measured in this round, and each of them says so.
                    for case in &self.cases {
                        told(Measurement::failed(round, system, case, &error));
                    }
                }
            }
        }
        for case in &self.cases {
            for up in &mut up {
                let over = self.interrupted.load(Ordering::Relaxed);
                if over || case.misfit(up.system).is_some() {
                    continue;
                }
                told(
                    self.measure(round, up, case, set_loss).unwrap_or_else(|error| {
                        Measurement::failed(round, up.system, case, &error)
                    }),
                );
            }
        }
        for up in up {
            let name = up.system.name();
            if let Err(error) = up.running.end() {
                eprintln!("{name}: {error:#}");
            }
        }
    }

    fn measure(
        &self,
        round: u32,
        up: &mut Up,
        case: &Case,
        set_loss: &mut SetLoss<'_>,
    ) -> anyhow::Result<Measurement> {
        let Up { system, running, filled } = up;
        running.expect_living()?;
        running.find_leader();
        let of = |running: &Running| running.clients().to_vec();
        let clients = of(running);
        let target = Target { system: *system, clients: &clients };
        let kind = (case.keys, case.value_bytes);
        if case.operation == Operation::Get && !filled.contains(&kind) {
            self.clients.fill(target, case)?;
            filled.push(kind);
        }
        if let Some(loss) = case.loss {
            set_loss(loss)?;
        }
        let count = self.clients.measure_out(target, case)?;
        let (used, syncs, stolen) = (running.usage()?, running.syncs(), stolen_s());
        let began = Instant::now();
        let seen = self.clients.run(target, case, count);
        let wall_s = began.elapsed().as_secs_f64();
        let (stolen, later) = (stolen_s() - stolen, running.syncs());
        running.expect_living()?;
        let used = running.usage()? - used;
        let seen = seen?;
        Ok(Measurement {
            round,
            system: system.name(),
            case: case.name.clone(),
            operations: seen.operations,
            errors: seen.errors,
            rate: seen.rate,
            p50_s: seen.p50_s,
            p99_s: seen.p99_s,
            max_s: seen.max_s,
            cpu_s: used.cpu_s,
            written_bytes: used.written_bytes,
            syncs: syncs.zip(later).map(|(before, after)| after.saturating_sub(before)),
            wall_s,
            stolen_s: stolen,
            trouble: (seen.operations == 0).then(|| "nothing was answered".to_owned()),
        })
    }
}

impl Measurement {
    /// A run that gave no figures.
    fn failed(round: u32, system: System, case: &Case, error: &anyhow::Error) -> Measurement {
        Measurement {
            round,
            system: system.name(),
            case: case.name.clone(),
            operations: 0,
            errors: 0,
            rate: 0.0,
            p50_s: 0.0,
            p99_s: 0.0,
            max_s: 0.0,
            cpu_s: 0.0,
            written_bytes: 0,
            syncs: None,
            wall_s: 0.0,
            stolen_s: 0.0,
            trouble: Some(format!("{error:#}")),
        }
    }
}
