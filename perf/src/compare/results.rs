//! What `perf compare` and `perf lossy` leave behind as JSON: every run of every round, and the
//! summary that the table shows. `perf/formats.md` describes it; a change to the meaning of a field
//! raises [`SCHEMA_VERSION`].

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Tells this JSON from other JSON.
pub(crate) const SCHEMA: &str = "bowline-compare";
/// Version of the schema.
pub(crate) const SCHEMA_VERSION: u32 = 1;
/// A run counts as quiet if the host took away less than this share of the processor time.
pub(crate) const QUIET_SHARE: f64 = 0.06;

/// Several systems under the same work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// [`SCHEMA`].
    pub(crate) schema: String,
    /// [`SCHEMA_VERSION`].
    pub(crate) schema_version: u32,
    /// What it is called.
    pub(crate) name: String,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// The commit of the source, with `-dirty` if it was changed.
    pub(crate) revision: Option<String>,
    /// Processors that everything shared, the load generator too.
    pub(crate) cores: usize,
    /// Operating system and architecture.
    pub(crate) system: String,
    /// When it began, in seconds since 1970.
    pub(crate) began_unix_s: f64,
    /// How long it took.
    pub(crate) wall_s: f64,
    /// Why it ended early, in words. `None`: it is whole.
    pub(crate) partial: Option<String>,
    /// Rounds asked for.
    pub(crate) rounds: u32,
    /// Seconds that each run was asked to last; clients that count operations come near it.
    pub(crate) seconds: f64,
    /// The systems, in the order in which each round takes them.
    pub(crate) systems: Vec<System>,
    /// The cases, in the order in which each system goes through them.
    pub(crate) cases: Vec<Case>,
    /// All runs, as they were held.
    pub(crate) runs: Vec<Measurement>,
    /// The runs summed up.
    pub(crate) summary: Vec<Summary>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct System {
    /// Short name.
    pub(crate) name: String,
    /// What it is, how it is set up, and its version.
    pub(crate) about: String,
    /// Copies of each write when it is acknowledged.
    pub(crate) copies: u32,
    /// Whether they are on disk then.
    pub(crate) synced: bool,
    /// Why it was left out. `None`: it was not.
    pub(crate) skipped: Option<String>,
}

/// The work that was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Short name.
    pub(crate) name: String,
    /// In words.
    pub(crate) about: String,
    /// Its place in a row of cases that differ in one number.
    pub(crate) step: Option<Step>,
}

/// One of a row of cases that differ in one number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Names the row.
    pub(crate) row: String,
    /// What the number is, with its unit.
    pub(crate) axis: String,
    /// The number.
    pub(crate) value: f64,
}

/// One run: one system, one case, one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// From 1.
    pub(crate) round: u32,
    /// [`System::name`].
    pub(crate) system: String,
    /// [`Case::name`].
    pub(crate) case: String,
    /// Operations that succeeded.
    pub(crate) operations: u64,
    /// Operations that failed.
    pub(crate) errors: u64,
    /// Operations that succeeded, a second.
    pub(crate) rate: f64,
    /// Half of them took at most so long.
    pub(crate) p50_s: f64,
    /// 99 %.
    pub(crate) p99_s: f64,
    /// The longest.
    pub(crate) max_s: f64,
    /// Processor seconds of all server processes.
    pub(crate) cpu_s: f64,
    /// Bytes that all server processes sent to disk.
    pub(crate) written_bytes: u64,
    /// Syncs by all servers' own count; `None` where they don't count.
    pub(crate) syncs: Option<u64>,
    /// How long the run took, by the wall clock, from before the client's start to after its end.
    pub(crate) wall_s: f64,
    /// Processor seconds that the host machine took away meanwhile, over all cores.
    pub(crate) stolen_s: f64,
    /// What went wrong. `None`: nothing; such runs alone are summed up.
    pub(crate) trouble: Option<String>,
}

/// The runs of one system in one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// [`Case::name`].
    pub(crate) case: String,
    /// [`System::name`].
    pub(crate) system: String,
    /// How many went well.
    pub(crate) runs: usize,
    /// How many of them were quiet.
    pub(crate) quiet_runs: usize,
    /// Operations a second.
    pub(crate) rate: Spread,
    /// Median latency.
    pub(crate) p50_s: Spread,
    /// 99th percentile.
    pub(crate) p99_s: Spread,
    /// Processor seconds of all server processes for 1,000 operations.
    pub(crate) cpu_s_per_1000: Spread,
    /// Bytes to disk for each operation, over all processes.
    pub(crate) bytes_per_operation: Spread,
    /// Syncs for each operation, over all processes.
    pub(crate) syncs_per_operation: Option<Spread>,
    /// For each other system, this one's figure divided by the other's of the same round.
    pub(crate) against: BTreeMap<String, Ratios>,
}

/// One system's figures divided by another's, round by round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratios {
    /// Of operations a second.
    pub(crate) rate: Spread,
    /// The same of rounds in which both runs were quiet; `None` if there were none.
    pub(crate) rate_quiet: Option<Spread>,
    /// Of median latency.
    pub(crate) p50: Spread,
    /// Of the 99th percentile.
    pub(crate) p99: Spread,
    /// Of processor time an operation.
    pub(crate) cpu: Spread,
}

/// The middle and the ends of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// Half way.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The most.
    pub(crate) max: f64,
}

impl Spread {
    /// Of any figures. `None` if there are none.
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
    /// Processor seconds of all server processes for 1,000 operations.
    pub(crate) fn cpu_s_per_1000(&self) -> f64 {
        1_000.0 * self.cpu_s / self.operations as f64
    }

    /// Whether the host took little processor time away.
    pub(crate) fn is_quiet(&self, cores: usize) -> bool {
        self.stolen_s < QUIET_SHARE * self.wall_s * cores as f64
    }
}

impl Comparison {
    /// Reads one.
    ///
    /// # Errors
    /// If it is of another version, or damaged.
    pub(crate) fn parse(value: Value) -> anyhow::Result<Comparison> {
        let version = &value["schema_version"];
        ensure!(
            *version == SCHEMA_VERSION,
            "it is of `perf compare` or `perf lossy`, version {version} of its schema, and this \
             program reads {SCHEMA_VERSION}; use the program that wrote it"
        );
        serde_json::from_value(value)
            .context("it looks like JSON of `perf compare`, with a field missing or wrong")
    }

    /// The runs of a system in a case that went well.
    pub(crate) fn runs_of(&self, case: &str, system: &str) -> Vec<&Measurement> {
        let wanted = |run: &&Measurement| {
            run.case == case && run.system == system && run.trouble.is_none() && run.operations > 0
        };
        self.runs.iter().filter(wanted).collect()
    }

    /// Sums all runs up, anew.
    pub(crate) fn sum_up(&mut self) {
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
