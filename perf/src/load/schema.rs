//! JSON of a load run: `NAME.json`, and the output of `--json`. Read by `perf report` and `perf
//! compare`, described in `perf/formats.md`. Changing the meaning of a field or removing one
//! increments [`SCHEMA_VERSION`]. A new field that readers may ignore gets `#[serde(default)]` and
//! does not.
//!
//! Durations are in seconds. Times are in seconds since the start of the measured window, unless
//! stated otherwise. Rates are per second.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// Value of the field `schema`, which identifies the JSON of a load run.
pub(crate) const SCHEMA: &str = "bowline-load";
/// Value of the field `schema_version`: version of the JSON schema of a load run.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// The results of a run in JSON, with everything needed to repeat and compare it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LoadRecord {
    /// The constant [`SCHEMA`], which identifies the format.
    pub(crate) schema: String,
    /// The constant [`SCHEMA_VERSION`] of the program that wrote the JSON.
    pub(crate) schema_version: u32,
    /// Name of the run: that of `--out`, otherwise the protocol of the target.
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
    /// Settings of the run.
    pub(crate) config: Config,
    /// Start of the measured window, in seconds since 1970.
    pub(crate) began_unix_s: f64,
    /// Actual length of the measured window in seconds: at least the planned length, and until the
    /// last reply to an operation of the window; or until the run ended early.
    pub(crate) window_s: f64,
    /// Why the run ended early; `None` if it is complete.
    pub(crate) partial: Option<String>,
    /// Operations per second of the schedule; `None` in a closed loop.
    pub(crate) intended_rate: Option<f64>,
    /// Successful operations per second of the measured window.
    pub(crate) achieved_rate: f64,
    /// Number of operations of the measured window by outcome.
    pub(crate) counts: Counts,
    /// Number of failed operations by error: the first word of the server's error in capitals
    /// (`MOVED` is followed and does not count; after `UNCERTAIN` the command may have been
    /// applied), or in lower case what the client observed: `timeout`, `connection` (lost while the
    /// request was in flight), `corrupt` (a reply of the wrong type, or a value that this program
    /// did not write).
    pub(crate) errors: BTreeMap<String, u64>,
    /// Latencies by kind of operation (`read`, `update`, `insert`, `scan`, `read_modify_write`) and
    /// of all operations (`all`). A read-modify-write counts as one operation.
    pub(crate) latencies: BTreeMap<String, Latencies>,
    /// Delay from the time at which an operation should have been sent to the time at which it was
    /// sent; `None` in a closed loop. Grows when the machine or all connections are busy.
    pub(crate) lag: Option<Latency>,
    /// The measured window second by second, without gaps. The last second may be shorter, or
    /// contain replies that arrived after the planned end.
    pub(crate) per_second: Vec<Second>,
    /// Events during the run: leader changes, lost connections.
    pub(crate) marks: Vec<Mark>,
    /// Processor time that the load generator used.
    pub(crate) client: Client,
    /// Conditions of `--fail-if` that hold, with the measured figure: `p99>5ms (7.310 ms)`.
    pub(crate) failed: Vec<String>,
}

/// The machine on which the load generator ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Number of processors that the run could use.
    pub(crate) cores: usize,
    /// Operating system and architecture, as in `linux x86_64`.
    pub(crate) system: String,
    /// Kernel version; empty if unknown.
    pub(crate) kernel: String,
    /// Name of the processor; empty if unknown.
    pub(crate) processor: String,
    /// Processor time that the virtual machine's host gave to others during the measured window, in
    /// seconds over all cores; `None` if unknown.
    pub(crate) stolen_s: Option<f64>,
}

/// The servers that a run measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// Protocol of the servers: `redis` (for Redis and Bowline) or `etcd`.
    pub(crate) protocol: String,
    /// Addresses as given on the command line, `host:port` each.
    pub(crate) addresses: Vec<String>,
    /// Name and version that the server reported, such as `bowline 0.1.0`; empty if it reported
    /// none.
    pub(crate) server: String,
    /// Other settings that the server reported and that affect the figures, such as `appendfsync`.
    pub(crate) facts: BTreeMap<String, String>,
}

/// What determines the time at which a request is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Loop {
    /// Open loop: requests are sent on a schedule, however fast the server replies. Latencies count
    /// from the scheduled time.
    Open,
    /// Closed loop: a request is sent when the reply to an earlier request arrives. A slow server
    /// receives fewer requests, and the time that real users would wait is not measured.
    Closed,
}

/// Settings of a run of the load generator, from its command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Whether the run was an open or a closed loop.
    #[serde(rename = "loop")]
    pub(crate) kind: Loop,
    /// Name of the workload: `ycsb-a` to `ycsb-f`, `set`, `get`, or `mix` for shares given on the
    /// command line.
    pub(crate) workload: String,
    /// Fraction of each kind of operation, by its name; their sum is 1.
    pub(crate) mix: BTreeMap<String, f64>,
    /// Name of the key distribution: `uniform`, `zipfian` (scattered), `latest` or `sequential`.
    pub(crate) distribution: String,
    /// Skew of the zipfian and latest distributions; `None` for others.
    pub(crate) theta: Option<f64>,
    /// Number of keys at the start of the run.
    pub(crate) keys: u64,
    /// Length of a key in bytes.
    pub(crate) key_bytes: usize,
    /// Length of a value in bytes.
    pub(crate) value_bytes: usize,
    /// Number of connections, over all threads.
    pub(crate) connections: usize,
    /// Maximum number of requests in flight per connection.
    pub(crate) pipeline: usize,
    /// Number of threads of the load generator.
    pub(crate) threads: usize,
    /// Duration in seconds of the warm-up: the same load, before the measured window.
    pub(crate) warm_up_s: f64,
    /// Planned length of the measured window in seconds.
    pub(crate) seconds: f64,
    /// Time in seconds after which a request without a reply counts as failed.
    pub(crate) timeout_s: f64,
    /// Random seed.
    pub(crate) seed: u64,
    /// Whether all keys were written before the load started.
    pub(crate) preload: bool,
}

/// Number of operations of the measured window by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Number of successful operations, including reads of keys that do not exist.
    pub(crate) succeeded: u64,
    /// Number of failed operations: the sum of the field `errors`.
    pub(crate) failed: u64,
    /// Number of operations that were due and never sent, because all connections were busy until
    /// the end.
    pub(crate) unsent: u64,
    /// Number of reads of keys that do not exist.
    pub(crate) not_found: u64,
    /// Number of `MOVED` replies. The requests were sent again to the leader.
    pub(crate) redirects: u64,
    /// Number of times that a connection was opened again, after it was lost or its server was no
    /// longer the leader.
    pub(crate) reconnects: u64,
}

/// Latencies of one kind of operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// Response times: from the scheduled time to the reply, as a user experiences them. `None` in
    /// a closed loop, which has no schedule.
    pub(crate) response: Option<Latency>,
    /// Service times: from sending the request to the reply, without the wait before sending.
    pub(crate) service: Latency,
    /// Percentile curve of the response times (in a closed loop, of the service times), as in the
    /// rows of `NAME.hgrm`. Empty if no such operation occurred.
    pub(crate) curve: Vec<Point>,
}

impl Latencies {
    /// Returns the response times if there are any, otherwise the service times.
    pub(crate) fn main(&self) -> &Latency {
        self.response.as_ref().unwrap_or(&self.service)
    }
}

/// Summary of latencies, in seconds. All values are 0 if there were no latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Number of latencies in the summary.
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

/// One point of a percentile curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Quantile from 0 to 1. It increases from point to point, and is 1 only in the last point.
    pub(crate) quantile: f64,
    /// Latency at the quantile, in seconds.
    pub(crate) seconds: f64,
}

/// Figures of one second of the measured window. Operations count in the second in which their
/// reply arrived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Second {
    /// Number of the second; the measured window starts with second 0.
    pub(crate) number: u64,
    /// Number of operations that succeeded in the second.
    pub(crate) succeeded: u64,
    /// Number of operations that failed in the second.
    pub(crate) failed: u64,
    /// Number of operations that were due at the end of the second and had not been sent.
    pub(crate) backlog: u64,
    /// Response times of the second's successful operations; in a closed loop, their service times.
    pub(crate) latency: Latency,
}

/// An event during a run that charts mark, such as a leader change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Time of the event in seconds since the start of the measured window; negative during the
    /// warm-up.
    pub(crate) at_s: f64,
    /// Short description of the event.
    pub(crate) what: String,
}

/// Processor time that the load generator used in the measured window.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Client {
    /// Processor time in seconds, in user and kernel mode, over all threads.
    pub(crate) cpu_s: f64,
    /// Processor time, in microseconds, divided by the number of succeeded and failed operations.
    pub(crate) cpu_us_per_operation: f64,
}

impl LoadRecord {
    /// Parses the JSON of a load run.
    ///
    /// # Errors
    /// If `text` is not the JSON of a load run, or is in another version of the format.
    pub(crate) fn parse(text: &str) -> anyhow::Result<LoadRecord> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
            schema_version: u32,
        }
        let head: Head = serde_json::from_str(text).context("not JSON of `perf load`")?;
        ensure!(head.schema == SCHEMA, "JSON with schema `{}`, expected `{SCHEMA}`", head.schema);
        ensure!(
            head.schema_version == SCHEMA_VERSION,
            "version {} of the schema, and this program reads {SCHEMA_VERSION}; use the program \
             that wrote it",
            head.schema_version
        );
        serde_json::from_str(text).context("JSON of `perf load` with a field missing or wrong")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_or_incompatible_result_json_is_rejected() {
        let error = |text: &str| format!("{:#}", LoadRecord::parse(text).unwrap_err());
        assert!(error("{}").contains("not JSON of `perf load`"));
        assert!(error(r#"{"schema":"x","schema_version":1}"#).contains("schema `x`"));
        assert!(error(r#"{"schema":"bowline-load","schema_version":9}"#).contains("version 9"));
        assert!(error(r#"{"schema":"bowline-load","schema_version":1}"#).contains("missing"));
    }
}
