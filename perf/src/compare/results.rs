//! The JSON of `perf compare` and `perf lossy`: every run of every round, and the summary that the
//! printed table shows. `perf/formats.md` describes it. Changing the meaning of a field increments
//! [`SCHEMA_VERSION`].

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Value of the JSON field `schema`, which marks a file as results of `perf compare` or `perf
/// lossy`.
pub(crate) const SCHEMA: &str = "bowline-compare";
/// Version of the JSON format of a comparison's results. It is incremented when the meaning of a
/// field changes.
pub(crate) const SCHEMA_VERSION: u32 = 2;
/// Steal time, as a fraction of all CPU time, below which a run is quiet. Only quiet runs are
/// comparable. Steal time is CPU time that the hypervisor withheld from this virtual machine.
pub(crate) const QUIET_SHARE: f64 = 0.06;

/// Results of a comparison: several systems that were measured in turn under the same load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// Identifies the format of the JSON; always [`SCHEMA`].
    pub(crate) schema: String,
    /// Version of the JSON format; always [`SCHEMA_VERSION`].
    pub(crate) schema_version: u32,
    /// Name of the comparison, which is also the name of the result files.
    pub(crate) name: String,
    /// Command line that ran the comparison, as a list of arguments.
    pub(crate) command: Vec<String>,
    /// Commit of the source, with the suffix `-dirty` if there were uncommitted changes; `None` if
    /// git is not available.
    pub(crate) revision: Option<String>,
    /// Number of processor cores, which all servers and the load generator share.
    pub(crate) cores: usize,
    /// Operating system and processor architecture of the machine.
    pub(crate) system: String,
    /// Time when the comparison started, in seconds since 1970.
    pub(crate) began_unix_s: f64,
    /// Duration of the whole comparison in seconds.
    pub(crate) wall_s: f64,
    /// Reason why the comparison ended early; `None` if it ran to completion.
    pub(crate) partial: Option<String>,
    /// Planned number of rounds of measurements. In a round, every system runs every case once.
    pub(crate) rounds: u32,
    /// Planned length of a run in seconds. The actual length differs if the client program stops
    /// after a number of operations.
    pub(crate) seconds: f64,
    /// Properties of the simulated network between the servers, as names and values, such as how
    /// packets are lost; empty if the servers use the loopback interface.
    #[serde(default)]
    pub(crate) network: BTreeMap<String, String>,
    /// The compared systems, in the order in which each round measures them.
    pub(crate) systems: Vec<System>,
    /// The measured cases, in the order in which each round runs them.
    pub(crate) cases: Vec<Case>,
    /// Results of all runs, in the order in which they took place.
    pub(crate) runs: Vec<Measurement>,
    /// Summaries of the runs of each system in each case: medians and ranges over all rounds.
    pub(crate) summary: Vec<Summary>,
}

/// A compared system: a server program, such as Bowline or Redis, in one configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct System {
    /// Short name of the system, as on the command line and in tables.
    pub(crate) name: String,
    /// Version of the system's program, as the program prints it; empty if it is not installed.
    #[serde(default)]
    pub(crate) version: String,
    /// Description of the configuration in which the system is measured.
    pub(crate) about: String,
    /// Minimum number of servers that have received a write when the client receives the
    /// acknowledgement.
    pub(crate) copies: u32,
    /// Whether the servers counted in `copies` have synced a write to disk when the client receives
    /// its acknowledgement.
    pub(crate) synced: bool,
    /// Reason why the system was not measured; `None` if it was measured.
    pub(crate) skipped: Option<String>,
}

/// A case of the comparison: one kind of load, which every system gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Short name of the case, as on the command line and in tables.
    pub(crate) name: String,
    /// Description of the case: client program, operation and parameters.
    pub(crate) about: String,
    /// The point in a sweep (a series of cases that differ in one parameter) that this case
    /// measures; `None` if the case belongs to no sweep.
    pub(crate) sweep: Option<SweepPoint>,
}

/// A point of a sweep, which is a series of cases that differ in one parameter only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SweepPoint {
    /// Name of the sweep, such as `connections`.
    pub(crate) name: String,
    /// Name and unit of the parameter that differs between the cases of the sweep, for the axis of
    /// a chart.
    pub(crate) axis: String,
    /// Value of the sweep's parameter at this point.
    pub(crate) value: f64,
}

/// Result of one run, in which one system ran one case in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// Index of the round to which the run belongs, from 1.
    pub(crate) round: u32,
    /// Name of the measured system, as in [`System::name`].
    pub(crate) system: String,
    /// Name of the case that was run, as in [`Case::name`].
    pub(crate) case: String,
    /// Number of operations that succeeded during the run.
    pub(crate) operations: u64,
    /// Number of successful operations of both client programs combined if readers and writers ran
    /// at the same time. Since both programs caused the servers' CPU time, disk writes and syncs,
    /// these are divided by this number. `None` if the run had only one client program.
    #[serde(default)]
    pub(crate) shared_operations: Option<u64>,
    /// Number of operations that failed during the run.
    pub(crate) errors: u64,
    /// Number of failed operations for each kind of error: the first word of the error message, or
    /// `timeout`, `connection` or `corrupt`. Empty if the client program does not report the kinds.
    #[serde(default)]
    pub(crate) error_kinds: BTreeMap<String, u64>,
    /// Number of leader changes during the run; `None` if the system does not report them. For
    /// Bowline, the number of new terms, including elections without a winner; for etcd, the
    /// maximum over the members of the number of leader changes that each has seen.
    #[serde(default)]
    pub(crate) leader_changes: Option<u64>,
    /// Increase of the other server counters during the run, by name; in `perf lossy` also of TCP
    /// counters. Counters that did not increase are omitted.
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
    /// CPU time in seconds that all server processes of the system used during the run.
    pub(crate) cpu_s: f64,
    /// Number of bytes that all server processes of the system wrote to disk during the run.
    pub(crate) written_bytes: u64,
    /// Number of disk syncs during the run, as counted by the servers; `None` if the system does
    /// not report it.
    pub(crate) syncs: Option<u64>,
    /// Duration of the run in seconds, including the start and the end of the client program.
    pub(crate) wall_s: f64,
    /// Steal time during the run in seconds, summed over all cores: CPU time that the hypervisor
    /// withheld from this virtual machine.
    pub(crate) stolen_s: f64,
    /// Reason why the run failed; `None` if it succeeded. Summaries use successful runs only.
    pub(crate) failure: Option<String>,
}

/// Summary of all runs of one system in one case: medians and ranges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Name of the case, as in [`Case::name`].
    pub(crate) case: String,
    /// Name of the system, as in [`System::name`].
    pub(crate) system: String,
    /// Number of successful runs of the system in the case, from which the summary is computed.
    pub(crate) runs: usize,
    /// Number of successful runs that were quiet (see [`QUIET_SHARE`]).
    pub(crate) quiet_runs: usize,
    /// Successful operations per second: the median and the range over all runs of the summary.
    pub(crate) rate: Spread,
    /// Median latency of a run in seconds: the median and the range of this value over all runs of
    /// the summary.
    pub(crate) p50_s: Spread,
    /// 99th percentile latency of a run in seconds: the median and the range of this value over all
    /// runs of the summary.
    pub(crate) p99_s: Spread,
    /// CPU time in seconds that all server processes used per 1,000 successful operations.
    pub(crate) cpu_s_per_1000: Spread,
    /// Number of bytes that all server processes wrote to disk per successful operation.
    pub(crate) bytes_per_operation: Spread,
    /// Number of disk syncs of all server processes per successful operation; `None` if the system
    /// does not report syncs.
    pub(crate) syncs_per_operation: Option<Spread>,
    /// Steal time (CPU time that the hypervisor withheld from this virtual machine) as a fraction,
    /// from 0 to 1, of all CPU time during a run. `None` in results of earlier versions of this
    /// program.
    #[serde(default)]
    pub(crate) stolen_share: Option<Spread>,
    /// Comparison with each other system, by that system's name: the ratios of this system's
    /// results to the other system's results in the same round.
    pub(crate) against: BTreeMap<String, Ratios>,
    /// Ratios of this system's results to its own results without packet loss in the same round;
    /// `None` if this case has no packet loss, or the system was not measured without it.
    #[serde(default)]
    pub(crate) of_lossless: Option<Ratios>,
}

/// Ratios of two results in the same round, usually of two systems: the median and the range over
/// all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratios {
    /// Ratio of the two systems' operations per second; above 1 if the first system is faster.
    pub(crate) rate: Spread,
    /// Ratio of the two systems' operations per second, only from rounds in which the runs of both
    /// systems were quiet (see [`QUIET_SHARE`]); `None` if there was no such round.
    pub(crate) rate_quiet: Option<Spread>,
    /// Ratio of the two systems' median latencies.
    pub(crate) p50: Spread,
    /// Ratio of the two systems' 99th percentile latencies.
    pub(crate) p99: Spread,
    /// Ratio of the two systems' CPU times per operation.
    pub(crate) cpu: Spread,
}

/// Median and range (minimum and maximum) of a set of values.
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
    /// Returns the median and the range of the finite numbers among `values`; `None` if there are
    /// none.
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
    /// Returns the CPU time in seconds that all server processes used per 1,000 successful
    /// operations.
    pub(crate) fn cpu_s_per_1000(&self) -> f64 {
        1_000.0 * self.per_operation(self.cpu_s)
    }

    /// Returns the amount of a resource, such as CPU time, per successful operation. `resource` is
    /// the amount that the servers used during the run.
    fn per_operation(&self, resource: f64) -> f64 {
        resource / self.shared_operations.unwrap_or(self.operations) as f64
    }

    /// Returns whether the run was quiet, so that its results are comparable: its steal time was
    /// less than the fraction [`QUIET_SHARE`] of all CPU time.
    pub(crate) fn is_quiet(&self, cores: usize) -> bool {
        self.stolen_share(cores) < QUIET_SHARE
    }

    /// Returns the run's steal time (CPU time that the hypervisor withheld from this virtual
    /// machine) as a fraction of the total CPU time of `cores` cores.
    pub(crate) fn stolen_share(&self, cores: usize) -> f64 {
        self.stolen_s / (self.wall_s * cores as f64).max(1e-9)
    }
}

impl Comparison {
    /// Parses the results of a comparison from JSON.
    ///
    /// # Errors
    /// If the JSON has a different schema version, or a field is missing or has the wrong type.
    pub(crate) fn parse(value: Value) -> anyhow::Result<Comparison> {
        let version = &value["schema_version"];
        ensure!(
            *version == SCHEMA_VERSION,
            "results of `perf compare` or `perf lossy` have schema version {version}, but this \
             program reads only version {SCHEMA_VERSION}; use the version of perf that wrote them"
        );
        serde_json::from_value(value).context(
            "cannot read results of `perf compare` or `perf lossy`: a field is missing or has the \
             wrong type",
        )
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

    /// Returns the case that differs from `case` only in having no packet loss; `None` if there is
    /// no such case, or if `case` itself has no packet loss. Only sweeps of packet loss have a
    /// parameter of 0.
    fn lossless(&self, case: &Case) -> Option<&Case> {
        let sweep = case.sweep.as_ref().filter(|sweep| sweep.value > 0.0)?;
        let is_lossless = |other: &SweepPoint| other.name == sweep.name && other.value == 0.0;
        self.cases.iter().find(|other| other.sweep.as_ref().is_some_and(is_lossless))
    }

    /// Returns whether reports list the events of this run, such as errors and leader changes. True
    /// for every run over a simulated network, and for other runs if there were errors or leader
    /// changes.
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
