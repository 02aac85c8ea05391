//! JSON of `perf compare` and `perf lossy`: every run of every round, and the summary that the
//! table shows. Described in `perf/formats.md`. Changing the meaning of a field increments
//! [`SCHEMA_VERSION`].

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Identifies this JSON.
pub(crate) const SCHEMA: &str = "bowline-compare";
/// Version of the schema.
pub(crate) const SCHEMA_VERSION: u32 = 2;
/// A run is quiet if the host stole less than this fraction of the processor time.
pub(crate) const QUIET_SHARE: f64 = 0.06;

/// Several systems under the same load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// [`SCHEMA`].
    pub(crate) schema: String,
    /// [`SCHEMA_VERSION`].
    pub(crate) schema_version: u32,
    /// Name of the comparison.
    pub(crate) name: String,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// Commit of the source, with `-dirty` if there were changes; `None` if git is not available.
    pub(crate) revision: Option<String>,
    /// Processors shared by all servers and the load generator.
    pub(crate) cores: usize,
    /// Operating system and architecture.
    pub(crate) system: String,
    /// Start time, in seconds since 1970.
    pub(crate) began_unix_s: f64,
    /// Duration in seconds.
    pub(crate) wall_s: f64,
    /// Why it ended early; `None` if it is complete.
    pub(crate) partial: Option<String>,
    /// Planned number of rounds.
    pub(crate) rounds: u32,
    /// Planned length of a run in seconds; clients that stop after a number of operations only
    /// approximate it.
    pub(crate) seconds: f64,
    /// The systems, in the order of each round.
    pub(crate) systems: Vec<System>,
    /// The cases, in the order in which they are run.
    pub(crate) cases: Vec<Case>,
    /// All runs, in the order in which they were run.
    pub(crate) runs: Vec<Measurement>,
    /// Summary by case and system.
    pub(crate) summary: Vec<Summary>,
}

/// A system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct System {
    /// Short name.
    pub(crate) name: String,
    /// Version and setup.
    pub(crate) about: String,
    /// Copies of a write when it is acknowledged.
    pub(crate) copies: u32,
    /// Whether these copies are synced to disk.
    pub(crate) synced: bool,
    /// Why it was skipped; `None` if it was not.
    pub(crate) skipped: Option<String>,
}

/// A case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Short name.
    pub(crate) name: String,
    /// Description.
    pub(crate) about: String,
    /// Its point in a sweep; `None` for a case of its own.
    pub(crate) sweep: Option<SweepPoint>,
}

/// A point of a sweep: a series of cases that differ in one parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SweepPoint {
    /// Name of the sweep.
    pub(crate) name: String,
    /// Name of the parameter, with its unit.
    pub(crate) axis: String,
    /// Value of the parameter.
    pub(crate) value: f64,
}

/// One run: one system, one case, one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// Number of the round, from 1.
    pub(crate) round: u32,
    /// [`System::name`].
    pub(crate) system: String,
    /// [`Case::name`].
    pub(crate) case: String,
    /// Operations that succeeded.
    pub(crate) operations: u64,
    /// Operations that failed.
    pub(crate) errors: u64,
    /// Successful operations per second.
    pub(crate) rate: f64,
    /// Median latency.
    pub(crate) p50_s: f64,
    /// 99th percentile of the latency.
    pub(crate) p99_s: f64,
    /// Maximum latency.
    pub(crate) max_s: f64,
    /// Processor seconds of all server processes.
    pub(crate) cpu_s: f64,
    /// Bytes that all server processes wrote to disk.
    pub(crate) written_bytes: u64,
    /// Syncs as counted by the servers; `None` if they do not report them.
    pub(crate) syncs: Option<u64>,
    /// Duration by the wall clock in seconds, from before the client's start until after its end.
    pub(crate) wall_s: f64,
    /// Processor seconds stolen by the host during the run, over all cores.
    pub(crate) stolen_s: f64,
    /// Why the run failed; `None` if it succeeded. Summaries contain successful runs only.
    pub(crate) failure: Option<String>,
}

/// The runs of one system in one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// [`Case::name`].
    pub(crate) case: String,
    /// [`System::name`].
    pub(crate) system: String,
    /// Number of successful runs.
    pub(crate) runs: usize,
    /// Number of successful runs that were quiet.
    pub(crate) quiet_runs: usize,
    /// Operations per second.
    pub(crate) rate: Spread,
    /// Median latency.
    pub(crate) p50_s: Spread,
    /// 99th percentile of the latency.
    pub(crate) p99_s: Spread,
    /// Processor seconds of all server processes per 1,000 operations.
    pub(crate) cpu_s_per_1000: Spread,
    /// Bytes written to disk per operation, over all server processes.
    pub(crate) bytes_per_operation: Spread,
    /// Syncs per operation, over all server processes.
    pub(crate) syncs_per_operation: Option<Spread>,
    /// For each other system: this system's figures divided by the other's in the same round.
    pub(crate) against: BTreeMap<String, Ratios>,
}

/// One system's figures divided by another's, round by round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratios {
    /// Ratio of operations per second.
    pub(crate) rate: Spread,
    /// The same, for rounds in which both runs were quiet; `None` if there were none.
    pub(crate) rate_quiet: Option<Spread>,
    /// Ratio of median latencies.
    pub(crate) p50: Spread,
    /// Ratio of 99th percentiles.
    pub(crate) p99: Spread,
    /// Ratio of processor times per operation.
    pub(crate) cpu: Spread,
}

/// Median and range of a set of values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// Median.
    pub(crate) median: f64,
    /// Minimum.
    pub(crate) min: f64,
    /// Maximum.
    pub(crate) max: f64,
}

impl Spread {
    /// The spread of the finite values; `None` if there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[half]
        } else {
            f64::midpoint(values[half - 1], values[half])
        };
        Some(Spread { median, min, max })
    }
}

impl Measurement {
    /// Processor seconds of all server processes per 1,000 operations.
    pub(crate) fn cpu_s_per_1000(&self) -> f64 {
        1_000.0 * self.cpu_s / self.operations as f64
    }

    /// Whether the host stole little processor time, see [`QUIET_SHARE`].
    pub(crate) fn is_quiet(&self, cores: usize) -> bool {
        self.stolen_s < QUIET_SHARE * self.wall_s * cores as f64
    }
}

impl Comparison {
    /// Parses a comparison.
    ///
    /// # Errors
    /// If it has another schema version, or a field is missing or of the wrong type.
    pub(crate) fn parse(value: Value) -> anyhow::Result<Comparison> {
        let version = &value["schema_version"];
        ensure!(
            *version == SCHEMA_VERSION,
            "JSON of `perf compare` or `perf lossy` with schema version {version}; this \
             program reads {SCHEMA_VERSION}; use the program that wrote it"
        );
        serde_json::from_value(value)
            .context("JSON of `perf compare` with a field missing or of the wrong type")
    }

    /// The successful runs of a system in a case.
    pub(crate) fn runs_of(&self, case: &str, system: &str) -> Vec<&Measurement> {
        let wanted = |run: &&Measurement| {
            run.case == case && run.system == system && run.failure.is_none() && run.operations > 0
        };
        self.runs.iter().filter(wanted).collect()
    }

    /// Recomputes the summary of all runs.
    pub(crate) fn summarize(&mut self) {
        let mut summary = Vec::new();
        for case in &self.cases {
            for system in &self.systems {
                summary.extend(self.summary_of(&case.name, &system.name));
            }
        }
        self.summary = summary;
    }

    /// The summary of a system in a case.
    pub(crate) fn find(&self, case: &str, system: &str) -> Option<&Summary> {
        self.summary.iter().find(|summary| summary.case == case && summary.system == system)
    }

    fn summary_of(&self, case: &str, system: &str) -> Option<Summary> {
        let runs = self.runs_of(case, system);
        let spread = |value: fn(&Measurement) -> f64| Spread::of(runs.iter().map(|run| value(run)));
        let mut against = BTreeMap::new();
        for other in self.systems.iter().filter(|other| other.name != system) {
            if let Some(ratios) = self.ratios(&runs, &self.runs_of(case, &other.name)) {
                against.insert(other.name.clone(), ratios);
            }
        }
        let syncs = runs
            .iter()
            .map(|run| run.syncs.map(|syncs| syncs as f64 / run.operations as f64))
            .collect::<Option<Vec<f64>>>();
        Some(Summary {
            case: case.to_owned(),
            system: system.to_owned(),
            runs: runs.len(),
            quiet_runs: runs.iter().filter(|run| run.is_quiet(self.cores)).count(),
            rate: spread(|run| run.rate)?,
            p50_s: spread(|run| run.p50_s)?,
            p99_s: spread(|run| run.p99_s)?,
            cpu_s_per_1000: spread(Measurement::cpu_s_per_1000)?,
            bytes_per_operation: spread(|run| run.written_bytes as f64 / run.operations as f64)?,
            syncs_per_operation: syncs.and_then(Spread::of),
            against,
        })
    }

    fn ratios(&self, runs: &[&Measurement], others: &[&Measurement]) -> Option<Ratios> {
        let pairs = || {
            runs.iter().filter_map(|run| {
                let other = others.iter().find(|other| other.round == run.round)?;
                Some((*run, *other))
            })
        };
        let of = |value: fn(&Measurement) -> f64| {
            Spread::of(pairs().map(|(run, other)| value(run) / value(other)))
        };
        let quiet = pairs()
            .filter(|(run, other)| run.is_quiet(self.cores) && other.is_quiet(self.cores))
            .map(|(run, other)| run.rate / other.rate);
        Some(Ratios {
            rate: of(|run| run.rate)?,
            rate_quiet: Spread::of(quiet),
            p50: of(|run| run.p50_s)?,
            p99: of(|run| run.p99_s)?,
            cpu: of(Measurement::cpu_s_per_1000)?,
        })
    }
}
