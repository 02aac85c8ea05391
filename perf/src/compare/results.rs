//! The JSON of `perf compare` and `perf lossy`: every run of every round, and the summary that the
//! printed table shows. `perf/formats.md` describes it. Changing the meaning of a field increments
//! [`SCHEMA_VERSION`].

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Value of the field `schema`, which identifies the JSON of `perf compare` and `perf lossy`.
pub(crate) const SCHEMA: &str = "bowline-compare";
/// Current version of the JSON schema, which is incremented when the meaning of a field changes.
pub(crate) const SCHEMA_VERSION: u32 = 2;
/// A run is quiet, so that its results are comparable, if steal time (processor time that the
/// hypervisor withheld from this virtual machine) was less than this fraction of the run's total
/// processor time.
pub(crate) const QUIET_SHARE: f64 = 0.06;

/// The results of a comparison of several systems, which were measured in turn under the same load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// Identifies the format of the JSON; always [`SCHEMA`].
    pub(crate) schema: String,
    /// Always [`SCHEMA_VERSION`], the version of the JSON schema.
    pub(crate) schema_version: u32,
    /// Name of the comparison, which is also the name of the result files.
    pub(crate) name: String,
    /// Command line of the program that made the comparison, as a list of arguments.
    pub(crate) command: Vec<String>,
    /// Commit of the source, with the suffix `-dirty` if there were uncommitted changes; `None` if
    /// git is not available.
    pub(crate) revision: Option<String>,
    /// Number of processors, shared by all servers and the load generator.
    pub(crate) cores: usize,
    /// Operating system and processor architecture of the machine.
    pub(crate) system: String,
    /// Time when the comparison started, in seconds since 1970.
    pub(crate) began_unix_s: f64,
    /// Duration of the whole comparison in seconds.
    pub(crate) wall_s: f64,
    /// Why the comparison ended early; `None` if it ran to completion.
    pub(crate) partial: Option<String>,
    /// Planned number of rounds. In each round every system runs every case once.
    pub(crate) rounds: u32,
    /// Planned length of a run in seconds. Only approximate for clients that stop after a number of
    /// operations instead.
    pub(crate) seconds: f64,
    /// Properties of the simulated network between the servers, by name, such as how packets are
    /// lost; empty if the servers use the loopback interface.
    #[serde(default)]
    pub(crate) network: BTreeMap<String, String>,
    /// The measured systems, in the order in which each round measures them.
    pub(crate) systems: Vec<System>,
    /// The measured cases, in the order in which each round runs them.
    pub(crate) cases: Vec<Case>,
    /// The results of all runs, in the order in which they were run.
    pub(crate) runs: Vec<Measurement>,
    /// Medians and ranges over the rounds, one summary for each case and system.
    pub(crate) summary: Vec<Summary>,
}

/// A measured system, such as Bowline or Redis, in one configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct System {
    /// Short name of the system, as on the command line and in tables.
    pub(crate) name: String,
    /// Version of the system's program, as the program prints it; empty if it is not installed.
    #[serde(default)]
    pub(crate) version: String,
    /// Description of the system's configuration.
    pub(crate) about: String,
    /// Minimum number of replicas that hold a write when it is acknowledged to the client.
    pub(crate) copies: u32,
    /// Whether the replicas counted in `copies` have synced a write to disk when it is
    /// acknowledged.
    pub(crate) synced: bool,
    /// Why the system was not measured; `None` if it was measured.
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
    /// Name and unit of the parameter that differs between the cases of the sweep.
    pub(crate) axis: String,
    /// Value of the sweep's parameter in this case.
    pub(crate) value: f64,
}

/// The result of one run: one system in one case in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// Number of the round in which the run took place; the first round is 1.
    pub(crate) round: u32,
    /// Name of the measured system, as in [`System::name`].
    pub(crate) system: String,
    /// Name of the case that was run, as in [`Case::name`].
    pub(crate) case: String,
    /// Number of operations that succeeded during the run.
    pub(crate) operations: u64,
    /// Number of successful operations of all clients of the run combined, by which processor time,
    /// disk writes and syncs are divided; `None` if the run had only one client.
    #[serde(default)]
    pub(crate) shared_operations: Option<u64>,
    /// Number of operations that failed during the run.
    pub(crate) errors: u64,
    /// Number of failed operations by kind: the first word of the error, or `timeout`,
    /// `connection`, `corrupt`. Empty if the client program does not report them.
    #[serde(default)]
    pub(crate) error_kinds: BTreeMap<String, u64>,
    /// Number of leader changes during the run; `None` if the system does not report them. For
    /// Bowline, the number of new terms, which includes elections without a winner; for etcd, the
    /// number of changes seen by the member that saw the most.
    #[serde(default)]
    pub(crate) leader_changes: Option<u64>,
    /// Other server counters, and under `perf lossy` TCP counters, by name: by how much each has
    /// risen during the run. Counters that did not rise are omitted.
    #[serde(default)]
    pub(crate) counters: BTreeMap<String, u64>,
    /// Successful operations per second.
    pub(crate) rate: f64,
    /// Median latency of the run's successful operations, in seconds.
    pub(crate) p50_s: f64,
    /// 99th percentile latency of the run's successful operations, in seconds.
    pub(crate) p99_s: f64,
    /// Maximum latency of the run's successful operations, in seconds.
    pub(crate) max_s: f64,
    /// Processor time, in seconds, that all server processes of the system combined used during the
    /// run.
    pub(crate) cpu_s: f64,
    /// Number of bytes that all server processes of the system combined wrote to disk during the
    /// run.
    pub(crate) written_bytes: u64,
    /// Number of syncs to disk during the run, as counted by the servers; `None` if the system does
    /// not report this number.
    pub(crate) syncs: Option<u64>,
    /// Wall-clock duration of the run in seconds, including the start and the end of the client
    /// program.
    pub(crate) wall_s: f64,
    /// Steal time during the run: processor time in seconds, summed over all cores, that the
    /// hypervisor withheld from this virtual machine.
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
    /// Number of runs summarized: all successful runs of the system in the case.
    pub(crate) runs: usize,
    /// Number of successful runs that were quiet (see [`QUIET_SHARE`]).
    pub(crate) quiet_runs: usize,
    /// Successful operations per second.
    pub(crate) rate: Spread,
    /// Spread over the runs of each run's median latency, in seconds.
    pub(crate) p50_s: Spread,
    /// Spread over the runs of each run's 99th percentile latency, in seconds.
    pub(crate) p99_s: Spread,
    /// Processor time that all server processes combined used per 1,000 operations, in seconds.
    pub(crate) cpu_s_per_1000: Spread,
    /// Number of bytes that all server processes combined wrote to disk per operation.
    pub(crate) bytes_per_operation: Spread,
    /// Number of syncs to disk of all server processes combined per operation; `None` if the system
    /// does not report syncs.
    pub(crate) syncs_per_operation: Option<Spread>,
    /// Steal time (processor time that the hypervisor withheld from this virtual machine) as a
    /// fraction of the processor time of all cores during each run, from 0 to 1; `None` in results
    /// of earlier versions of this program.
    #[serde(default)]
    pub(crate) stolen_share: Option<Spread>,
    /// For each other system, by its name, the ratios of this system's figures to the other
    /// system's figures in the same round.
    pub(crate) against: BTreeMap<String, Ratios>,
    /// The ratios of this system's figures to its own figures without packet loss in the same
    /// round; `None` if this case has no packet loss, or was not measured without it.
    #[serde(default)]
    pub(crate) of_lossless: Option<Ratios>,
}

/// Ratios of one system's figures to those of another system. Each field holds the median and the
/// range of the ratios of all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratios {
    /// Ratio of the operations per second.
    pub(crate) rate: Spread,
    /// Ratio of the operations per second, taken only from rounds in which the runs of both systems
    /// were quiet (see [`QUIET_SHARE`]); `None` if there was no such round.
    pub(crate) rate_quiet: Option<Spread>,
    /// Ratio of the median latencies.
    pub(crate) p50: Spread,
    /// Ratio of the 99th percentile latencies.
    pub(crate) p99: Spread,
    /// Ratio of the processor times per operation.
    pub(crate) cpu: Spread,
}

/// Median, minimum and maximum of a set of values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// Median of the values.
    pub(crate) median: f64,
    /// Smallest of the values.
    pub(crate) min: f64,
    /// Largest of the values.
    pub(crate) max: f64,
}

impl Spread {
    /// Returns the median and the range of those values that are finite; `None` if there are none.
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
    /// Returns the processor time, in seconds, that all server processes combined used per 1,000
    /// successful operations.
    pub(crate) fn cpu_s_per_1000(&self) -> f64 {
        1_000.0 * self.per_operation(self.cpu_s)
    }

    /// Divides `resource`, the total amount of a resource that the servers used during the run, by
    /// the number of successful operations.
    fn per_operation(&self, resource: f64) -> f64 {
        resource / self.shared_operations.unwrap_or(self.operations) as f64
    }

    /// Returns whether the run was quiet, that is, whether [`Measurement::stolen_share`] is less
    /// than [`QUIET_SHARE`].
    pub(crate) fn is_quiet(&self, cores: usize) -> bool {
        self.stolen_share(cores) < QUIET_SHARE
    }

    /// Returns the run's steal time (processor time that the hypervisor withheld from this virtual
    /// machine) as a fraction of the total time of `cores` processors.
    pub(crate) fn stolen_share(&self, cores: usize) -> f64 {
        self.stolen_s / (self.wall_s * cores as f64).max(1e-9)
    }
}

impl Comparison {
    /// Parses the JSON of a comparison.
    ///
    /// # Errors
    /// If the JSON has a different schema version, or a field is missing or has the wrong type.
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

    /// Returns the successful runs of the system named `system` in the case named `case`.
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
                summary.extend(self.summary_of(case, &system.name));
            }
        }
        self.summary = summary;
    }

    /// Returns the summary of the system named `system` in the case named `case`; `None` if none of
    /// its runs succeeded.
    pub(crate) fn find(&self, case: &str, system: &str) -> Option<&Summary> {
        self.summary.iter().find(|summary| summary.case == case && summary.system == system)
    }

    fn summary_of(&self, case: &Case, system: &str) -> Option<Summary> {
        let (lossless, case) = (self.lossless(case), case.name.as_str());
        let runs = self.runs_of(case, system);
        let of_lossless =
            lossless.and_then(|lossless| self.ratios(&runs, &self.runs_of(&lossless.name, system)));
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
            of_lossless,
        })
    }

    /// Returns the case without packet loss that otherwise equals `case`; `None` if there is none,
    /// or if `case` is it. Only sweeps of packet loss have a parameter of 0.
    fn lossless(&self, case: &Case) -> Option<&Case> {
        let sweep = case.sweep.as_ref().filter(|sweep| sweep.value > 0.0)?;
        let is_lossless = |other: &SweepPoint| other.name == sweep.name && other.value == 0.0;
        self.cases.iter().find(|other| other.sweep.as_ref().is_some_and(is_lossless))
    }

    /// Returns whether reports show the events of this run: those of all runs over a simulated
    /// network, and of other runs with errors or leader changes.
    pub(crate) fn is_eventful(&self, run: &Measurement) -> bool {
        !self.network.is_empty() || run.errors > 0 || run.leader_changes.is_some_and(|it| it > 0)
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
