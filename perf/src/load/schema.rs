//! The JSON results of a load run. `--out` and `--json` write them, `perf report` and `perf
//! compare` read them, and `perf/formats.md` describes them. Removing a field or changing its
//! meaning increments [`SCHEMA_VERSION`]. Adding a field that readers may ignore (with
//! `#[serde(default)]`) does not.
//!
//! Durations are in seconds, and rates are per second. Times are in seconds since the start of the
//! measured window, unless stated otherwise.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// Value of the JSON field `schema`, which marks a file as results of `perf load`.
pub(crate) const SCHEMA: &str = "bowline-load";
/// Version of the JSON format of a load run's results, stored in the field `schema_version`.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// The results of a run of `perf load` in JSON, with everything needed to repeat the run and to
/// compare it with others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LoadRecord {
    /// Identifies the format of the JSON; always [`SCHEMA`].
    pub(crate) schema: String,
    /// Version of the JSON schema: the [`SCHEMA_VERSION`] of the program that wrote the JSON.
    pub(crate) schema_version: u32,
    /// Name of the run: the file name given with `--out`; without `--out`, the servers' protocol.
    pub(crate) name: String,
    /// The command line of the run, as a list of arguments.
    pub(crate) command: Vec<String>,
    /// Commit of the source, followed by `-dirty` if there were uncommitted changes; `None` if git
    /// is not available.
    pub(crate) revision: Option<String>,
    /// The machine on which the load generator ran.
    pub(crate) host: Host,
    /// The servers that were measured.
    pub(crate) target: Target,
    /// Settings of the run, from the command line.
    pub(crate) config: Config,
    /// Start of the measured window, in seconds since 1970.
    pub(crate) began_unix_s: f64,
    /// Actual length of the measured window in seconds. The window ends at the planned end or at
    /// the last successful reply, whichever is later; if the run ended early, it ends at that
    /// moment.
    pub(crate) window_s: f64,
    /// Reason why the run ended early; `None` if it ran to completion.
    pub(crate) partial: Option<String>,
    /// Scheduled rate in operations per second; `None` in a closed loop, which has no schedule.
    pub(crate) intended_rate: Option<f64>,
    /// Achieved rate: successful operations per second in the measured window.
    pub(crate) achieved_rate: f64,
    /// Numbers of operations in the measured window, by outcome.
    pub(crate) counts: Counts,
    /// Number of failed operations by error. An error from the server is named by the first word of
    /// its message, in capitals; `UNCERTAIN` means that the command may have been applied. An error
    /// that the client detected is in lower case: `timeout`, `connection` (lost while the request
    /// was in flight) or `corrupt` (a reply of the wrong type, or a value that this program did not
    /// write). A `MOVED` redirect is followed and is not an error.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Latencies for each kind of operation (`read`, `update`, `insert`, `scan`,
    /// `read_modify_write`) and for all kinds combined (`all`). A read-modify-write counts as one
    /// operation.
    pub(crate) latencies: BTreeMap<String, Latencies>,
    /// Delay between the scheduled time of an operation and the time at which it was sent. The
    /// delay grows when the machine or all connections are busy. `None` in a closed loop.
    pub(crate) lag: Option<Latency>,
    /// Results of each second of the measured window. The last second may be cut short by the end
    /// of the window. A second after the planned end is included only if late replies arrived in
    /// it.
    pub(crate) per_second: Vec<Second>,
    /// Events during the run, such as leader changes and lost connections.
    pub(crate) marks: Vec<Mark>,
    /// CPU time that the load generator used in the measured window.
    pub(crate) client: Client,
    /// The `--fail-if` conditions that the results meet, each with the measured value in
    /// parentheses, as in `p99>5ms (7.310 ms)`.
    pub(crate) failed: Vec<String>,
}

/// The machine on which the load generator ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Number of processors available to the run.
    pub(crate) cores: usize,
    /// Operating system and architecture, as in `linux x86_64`.
    pub(crate) system: String,
    /// Kernel version; empty if unknown.
    pub(crate) kernel: String,
    /// Name of the processor; empty if unknown.
    pub(crate) processor: String,
    /// Steal time: CPU time that the hypervisor withheld from this virtual machine during the
    /// measured window, in seconds, summed over all cores; `None` if unknown.
    pub(crate) stolen_s: Option<f64>,
}

/// The servers that a load run measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// Protocol of the servers: `redis` (also for Bowline and Valkey), `etcd` or `nats`.
    pub(crate) protocol: String,
    /// Addresses of the servers as given on the command line, each as `host:port`.
    pub(crate) addresses: Vec<String>,
    /// Name and version of the server, such as `bowline 0.1.0`; empty if the server did not report
    /// them.
    pub(crate) server: String,
    /// Settings reported by the server that affect the results, such as `appendfsync`: name and
    /// value.
    pub(crate) facts: BTreeMap<String, String>,
}

/// When requests are sent: at scheduled times, or as soon as the reply to an earlier request
/// arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Loop {
    /// Open loop: requests are sent on a schedule, regardless of how fast the server replies.
    /// Latencies are measured from the scheduled time.
    Open,
    /// Closed loop: a request is sent when the reply to an earlier request arrives. A slow server
    /// receives fewer requests, and latencies exclude the time that users would wait before their
    /// request is sent.
    Closed,
}

/// Settings of a run of the load generator, from its command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    /// How requests were timed: open loop or closed loop.
    #[serde(rename = "loop")]
    pub(crate) kind: Loop,
    /// Name of the workload: `ycsb-a` to `ycsb-f`, `set`, `get`, or `mix` for shares given on the
    /// command line.
    pub(crate) workload: String,
    /// Fraction of operations of each kind, by the name of the kind; the fractions add up to 1.
    pub(crate) mix: BTreeMap<String, f64>,
    /// Name of the key distribution: `uniform`, `zipfian` (with the popular keys scattered over the
    /// key space), `latest` or `sequential`.
    pub(crate) distribution: String,
    /// Skew parameter of the distributions `zipfian` and `latest`; `None` for other distributions.
    pub(crate) theta: Option<f64>,
    /// Number of keys at the start of the run.
    pub(crate) keys: u64,
    /// Length of a key in bytes.
    pub(crate) key_bytes: usize,
    /// Length of a value in bytes.
    pub(crate) value_bytes: usize,
    /// Total number of connections of all threads.
    pub(crate) connections: usize,
    /// Maximum number of requests in flight per connection.
    pub(crate) pipeline: usize,
    /// Number of threads of the load generator.
    pub(crate) threads: usize,
    /// Duration in seconds of the warm-up, which applies the same load before the measured window.
    pub(crate) warm_up_s: f64,
    /// Planned length of the measured window in seconds.
    pub(crate) seconds: f64,
    /// Time in seconds after which a request without a reply counts as failed.
    pub(crate) timeout_s: f64,
    /// Seed of the load generator's random numbers.
    pub(crate) seed: u64,
    /// Whether all keys were written before the load started.
    pub(crate) preload: bool,
}

/// Numbers of operations in the measured window, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Number of successful operations, including reads of keys that do not exist.
    pub(crate) succeeded: u64,
    /// Number of failed operations, which is the sum of the counts in [`LoadRecord::errors`].
    pub(crate) failed: u64,
    /// Number of operations that were due but never sent, because all connections were busy until
    /// the end of the run.
    pub(crate) unsent: u64,
    /// Number of reads of keys that did not exist, which are also counted as successful.
    pub(crate) not_found: u64,
    /// Number of `MOVED` replies, each of which made the client send the request again to the
    /// leader.
    pub(crate) redirects: u64,
    /// Number of times that a connection was reopened because it was lost or its server was no
    /// longer the leader.
    pub(crate) reconnects: u64,
}

/// Latencies of one kind of operation, or of all kinds combined.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// Response times, from the scheduled time of an operation to its reply, as a user experiences
    /// them. `None` in a closed loop, which has no schedule.
    pub(crate) response: Option<Latency>,
    /// Service times, from the sending of a request to its reply. Any wait before sending is
    /// excluded.
    pub(crate) service: Latency,
    /// Percentile curve of the response times, or of the service times in a closed loop, as written
    /// to `NAME.hgrm`. Empty if no operation of this kind occurred.
    pub(crate) curve: Vec<Point>,
}

impl Latencies {
    /// Returns the response times of an open loop, or the service times of a closed loop.
    pub(crate) fn main(&self) -> &Latency {
        self.response.as_ref().unwrap_or(&self.service)
    }
}

/// Summary of a set of latencies. All fields are 0 if the set is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Number of latencies in the set.
    pub(crate) count: u64,
    /// Minimum latency in seconds.
    pub(crate) min_s: f64,
    /// Mean latency in seconds.
    pub(crate) mean_s: f64,
    /// Median latency in seconds.
    pub(crate) p50_s: f64,
    /// 90th percentile of the latencies in seconds.
    pub(crate) p90_s: f64,
    /// 95th percentile of the latencies in seconds.
    pub(crate) p95_s: f64,
    /// 99th percentile of the latencies in seconds.
    pub(crate) p99_s: f64,
    /// 99.9th percentile of the latencies in seconds.
    pub(crate) p999_s: f64,
    /// 99.99th percentile of the latencies in seconds.
    pub(crate) p9999_s: f64,
    /// Maximum latency in seconds.
    pub(crate) max_s: f64,
}

/// One point of a percentile curve: a quantile and the latency at this quantile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Quantile from 0 to 1. It increases from point to point of a curve, and only the last point
    /// has the quantile 1.
    pub(crate) quantile: f64,
    /// Latency at the quantile, in seconds.
    pub(crate) seconds: f64,
}

/// Results of one second of the measured window. An operation belongs to the second in which its
/// reply arrived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Second {
    /// Index of this second: 0 for the first second of the measured window.
    pub(crate) number: u64,
    /// Number of operations that succeeded in the second.
    pub(crate) succeeded: u64,
    /// Number of operations that failed in the second.
    pub(crate) failed: u64,
    /// Number of operations that were due by the end of the second but had not been sent.
    pub(crate) backlog: u64,
    /// Response times of the operations that succeeded in the second; in a closed loop, their
    /// service times.
    pub(crate) latency: Latency,
}

/// An event during a run, such as a leader change, which is marked in charts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Time of the event in seconds since the start of the measured window; negative during the
    /// warm-up.
    pub(crate) at_s: f64,
    /// Short description of the event.
    pub(crate) what: String,
}

/// CPU time that the load generator used in the measured window.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Client {
    /// CPU time in user and kernel mode, in seconds, summed over all threads.
    pub(crate) cpu_s: f64,
    /// CPU time per completed operation, successful or failed, in microseconds.
    pub(crate) cpu_us_per_operation: f64,
}

impl LoadRecord {
    /// Parses the results of a load run from JSON.
    ///
    /// # Errors
    /// If `text` does not contain such results, or has a different schema version.
    pub(crate) fn parse(text: &str) -> anyhow::Result<LoadRecord> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
            schema_version: u32,
        }
        let head: Head = serde_json::from_str(text).context(
            "not JSON of `perf load`: the field `schema` or `schema_version` is missing or invalid",
        )?;
        ensure!(
            head.schema == SCHEMA,
            "JSON with the schema `{}`, so not results of `perf load`, whose schema is `{SCHEMA}`",
            head.schema
        );
        ensure!(
            head.schema_version == SCHEMA_VERSION,
            "results of `perf load` have schema version {}, but this program reads only version \
             {SCHEMA_VERSION}; use the version of perf that wrote them",
            head.schema_version
        );
        serde_json::from_str(text)
            .context("cannot read results of `perf load`: a field is missing or has the wrong type")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_json_of_another_program_or_version_is_rejected() {
        let error = |text: &str| format!("{:#}", LoadRecord::parse(text).unwrap_err());
        assert!(error("{}").contains("not JSON of `perf load`"));
        assert!(error(r#"{"schema":"x","schema_version":1}"#).contains("schema `x`"));
        assert!(error(r#"{"schema":"bowline-load","schema_version":9}"#).contains("version 9"));
        assert!(error(r#"{"schema":"bowline-load","schema_version":1}"#).contains("missing"));
    }
}
