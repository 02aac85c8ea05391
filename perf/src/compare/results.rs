//! JSON of `perf compare` and `perf lossy`: every run of every round, and the summary that the
//! table shows. Described in `perf/formats.md`. Changing the meaning of a field increments
//! [`SCHEMA_VERSION`].

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Value of the field `schema`, which identifies the JSON of `perf compare` and `perf lossy`.
pub(crate) const SCHEMA: &str = "bowline-compare";
/// Version of the JSON schema, incremented when the meaning of a field changes.
pub(crate) const SCHEMA_VERSION: u32 = 2;
/// A run is quiet, and so comparable, if the host stole less than this fraction of the processor
/// time from this virtual machine.
pub(crate) const QUIET_SHARE: f64 = 0.06;

/// The results of a comparison: several systems, measured under the same load in turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// Identifies the format of the JSON; always [`SCHEMA`].
    pub(crate) schema: String,
    /// Always [`SCHEMA_VERSION`], the version of the JSON schema.
    pub(crate) schema_version: u32,
    /// Name of the comparison, also used for the result files.
    pub(crate) name: String,
    /// Command line of the program that made the comparison.
    pub(crate) command: Vec<String>,
    /// Commit of the source, with the suffix `-dirty` if there were uncommitted changes; `None` if
    /// git is not available.
    pub(crate) revision: Option<String>,
    /// Number of processors, which all servers and the load generator share.
    pub(crate) cores: usize,
    /// Operating system and processor architecture of the machine.
    pub(crate) system: String,
    /// Time when the comparison started, in seconds since 1970.
    pub(crate) began_unix_s: f64,
    /// Duration of the whole comparison in seconds.
    pub(crate) wall_s: f64,
    /// Why the comparison ended early; `None` if it is complete.
    pub(crate) partial: Option<String>,
    /// Planned number of rounds. In each round every system runs every case once.
    pub(crate) rounds: u32,
    /// Planned length of a run in seconds. Clients that stop after a number of operations keep to
    /// it only roughly.
    pub(crate) seconds: f64,
    /// Conditions of the network between the servers, by name; empty for the loopback interface.
    #[serde(default)]
    pub(crate) network: BTreeMap<String, String>,
    /// The measured systems, in the order in which each round measures them.
    pub(crate) systems: Vec<System>,
    /// The measured cases, in the order in which each round runs them.
    pub(crate) cases: Vec<Case>,
    /// The results of all runs, in the order in which they were run.
    pub(crate) runs: Vec<Measurement>,
    /// Medians and ranges over the rounds, for each case and system.
    pub(crate) summary: Vec<Summary>,
}

/// A system that is measured, such as Bowline or Redis in one configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct System {
    /// Short name of the system, as on the command line and in tables.
    pub(crate) name: String,
    /// Version of the system's program, as the program prints it; empty if it is not installed.
    #[serde(default)]
    pub(crate) version: String,
    /// Configuration of the system.
    pub(crate) about: String,
    /// Number of replicas that hold a write when it is acknowledged to the client.
    pub(crate) copies: u32,
    /// Whether the acknowledged copies of a write have been synced to disk.
    pub(crate) synced: bool,
    /// Why the system was not measured; `None` if it was.
    pub(crate) skipped: Option<String>,
}

/// A case of the comparison: one kind of load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Short name of the case, as on the command line and in tables.
    pub(crate) name: String,
    /// Description of the case: client program, operation and parameters.
    pub(crate) about: String,
    /// The point of a sweep that this case measures; `None` if the case belongs to no sweep.
    pub(crate) sweep: Option<SweepPoint>,
}

/// A point of a sweep: a series of cases that differ in one parameter only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SweepPoint {
    /// Name of the sweep, such as `connections`.
    pub(crate) name: String,
    /// Name of the parameter that differs, with its unit.
    pub(crate) axis: String,
    /// Value of the parameter in this case.
    pub(crate) value: f64,
}

/// The result of one run: one system in one case in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// Number of the round, counted from 1.
    pub(crate) round: u32,
    /// Name of the measured system, as in [`System::name`].
    pub(crate) system: String,
    /// Name of the case that was run, as in [`Case::name`].
    pub(crate) case: String,
    /// Number of operations that succeeded during the run.
    pub(crate) operations: u64,
    /// Number of operations that succeeded for all clients of the run, over which the resources
    /// below are spread; `None` if the run had one client.
    #[serde(default)]
    pub(crate) shared_operations: Option<u64>,
    /// Number of operations that failed during the run.
    pub(crate) errors: u64,
    /// Number of failed operations by kind: the first word of the error, or `timeout`,
    /// `connection`, `corrupt`. Empty if the client does not tell.
    #[serde(default)]
    pub(crate) error_kinds: BTreeMap<String, u64>,
    /// Number of leader changes during the run: of Bowline, new terms, which include elections
    /// without a winner; of etcd, changes that a member has seen. `None` if the system does not
    /// report them.
    #[serde(default)]
    pub(crate) leader_changes: Option<u64>,
    /// Other counters of the servers and of TCP that rose during the run, by name, with their rise;
    /// TCP's are measured under `perf lossy` only.
    #[serde(default)]
    pub(crate) counters: BTreeMap<String, u64>,
    /// Successful operations per second.
    pub(crate) rate: f64,
    /// Median latency in seconds.
    pub(crate) p50_s: f64,
    /// 99th percentile of the latency in seconds.
    pub(crate) p99_s: f64,
    /// Maximum latency in seconds.
    pub(crate) max_s: f64,
    /// Processor time in seconds that all server processes of the system used during the run.
    pub(crate) cpu_s: f64,
    /// Bytes that all server processes of the system wrote to disk during the run.
    pub(crate) written_bytes: u64,
    /// Number of syncs to disk during the run, as counted by the servers; `None` if the system does
    /// not report it.
    pub(crate) syncs: Option<u64>,
    /// Duration of the run by the wall clock in seconds, from before the client's start until after
    /// its end.
    pub(crate) wall_s: f64,
    /// Processor time in seconds, summed over all cores, that the host took from this virtual
    /// machine during the run.
    pub(crate) stolen_s: f64,
    /// Why the run failed; `None` if it succeeded. Summaries use successful runs only.
    pub(crate) failure: Option<String>,
}

/// Medians and ranges over the runs of one system in one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Name of the case, as in [`Case::name`].
    pub(crate) case: String,
    /// Name of the system, as in [`System::name`].
    pub(crate) system: String,
    /// Number of successful runs, on which the summary is based.
    pub(crate) runs: usize,
    /// Number of successful runs that were quiet (see [`QUIET_SHARE`]).
    pub(crate) quiet_runs: usize,
    /// Successful operations per second.
    pub(crate) rate: Spread,
    /// Median latency in seconds of each successful run; the spread is over the runs.
    pub(crate) p50_s: Spread,
    /// 99th percentile of a run's latency in seconds.
    pub(crate) p99_s: Spread,
    /// Processor time in seconds of all server processes per 1,000 operations.
    pub(crate) cpu_s_per_1000: Spread,
    /// Bytes written to disk per operation, summed over all server processes.
    pub(crate) bytes_per_operation: Spread,
    /// Syncs to disk per operation, summed over all server processes; `None` if the system does not
    /// report them.
    pub(crate) syncs_per_operation: Option<Spread>,
    /// Fraction of the processor time of all cores that the host stole during each run, from 0 to
    /// 1; `None` in results of earlier versions of this program.
    #[serde(default)]
    pub(crate) stolen_share: Option<Spread>,
    /// For each other system, by name: this system's figures divided by the other system's figures
    /// of the same round.
    pub(crate) against: BTreeMap<String, Ratios>,
}

/// Ratios of one system's figures to another system's: one ratio for each round, then median and
/// range of the ratios.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratios {
    /// Ratio of the operations per second.
    pub(crate) rate: Spread,
    /// Ratio of the operations per second, only from rounds in which both runs were quiet (see
    /// [`QUIET_SHARE`]); `None` if there was no such round.
    pub(crate) rate_quiet: Option<Spread>,
    /// Ratio of the median latencies.
    pub(crate) p50: Spread,
    /// Ratio of the 99th percentiles of the latency.
    pub(crate) p99: Spread,
    /// Ratio of the processor times per operation.
    pub(crate) cpu: Spread,
}

/// Median, minimum and maximum of a set of values.
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
    /// Returns median and range of the finite values; `None` if there are none.
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
    /// Returns the processor time in seconds of all server processes per 1,000 successful
    /// operations.
    pub(crate) fn cpu_s_per_1000(&self) -> f64 {
        1_000.0 * self.per_operation(self.cpu_s)
    }

    /// Returns the share of one successful operation in a resource that the servers used during the
    /// run.
    fn per_operation(&self, resource: f64) -> f64 {
        resource / self.shared_operations.unwrap_or(self.operations) as f64
    }

    /// Returns whether the run was quiet: the hypervisor stole less than [`QUIET_SHARE`] of the
    /// time of all `cores` from this virtual machine.
    pub(crate) fn is_quiet(&self, cores: usize) -> bool {
        self.stolen_share(cores) < QUIET_SHARE
    }

    /// Returns the fraction of the time of all `cores` that the host stole during the run.
    pub(crate) fn stolen_share(&self, cores: usize) -> f64 {
        self.stolen_s / (self.wall_s * cores as f64).max(1e-9)
    }
}

impl Comparison {
    /// Parses the JSON of a comparison.
    ///
    /// # Errors
    /// If the JSON has another schema version, or a field is missing or of the wrong type.
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

    /// Returns the successful runs of a system in a case, both given by name.
    pub(crate) fn runs_of(&self, case: &str, system: &str) -> Vec<&Measurement> {
        let wanted = |run: &&Measurement| {
            run.case == case && run.system == system && run.failure.is_none() && run.operations > 0
        };
        self.runs.iter().filter(wanted).collect()
    }

    /// Recomputes the summary from the results of all runs.
    pub(crate) fn summarize(&mut self) {
        let mut summary = Vec::new();
        for case in &self.cases {
            for system in &self.systems {
                summary.extend(self.summary_of(&case.name, &system.name));
            }
        }
        self.summary = summary;
    }

    /// Returns the summary of a system in a case, both given by name; `None` if no run succeeded.
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
            .map(|run| run.syncs.map(|syncs| run.per_operation(syncs as f64)))
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
            bytes_per_operation: spread(|run| run.per_operation(run.written_bytes as f64))?,
            syncs_per_operation: syncs.and_then(Spread::of),
            stolen_share: Spread::of(runs.iter().map(|run| run.stolen_share(self.cores))),
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
