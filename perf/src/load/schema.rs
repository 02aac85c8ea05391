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

/// Identifies the JSON of a load run.
pub(crate) const SCHEMA: &str = "bowline-load";
/// Version of the schema.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// A run, with everything needed to repeat and compare it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LoadRecord {
    /// [`SCHEMA`].
    pub(crate) schema: String,
    /// [`SCHEMA_VERSION`].
    pub(crate) schema_version: u32,
    /// Name of the run: `--out`, or the target's protocol.
    pub(crate) name: String,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// Commit of the source, with `-dirty` if there were changes; `None` if git is not available.
    pub(crate) revision: Option<String>,
    /// The machine of the load generator.
    pub(crate) host: Host,
    /// The servers.
    pub(crate) target: Target,
    /// Settings of the run.
    pub(crate) config: Config,
    /// Start of the measured window, in seconds since 1970.
    pub(crate) began_unix_s: f64,
    /// Actual length of the measured window: until the last reply to one of its operations and at
    /// least as planned, or until the run ended early.
    pub(crate) window_s: f64,
    /// Why the run ended early; `None` if it is complete.
    pub(crate) partial: Option<String>,
    /// Operations per second of the schedule; `None` in a closed loop.
    pub(crate) intended_rate: Option<f64>,
    /// Successful operations per second.
    pub(crate) achieved_rate: f64,
    /// Operations of the measured window by outcome.
    pub(crate) counts: Counts,
    /// Failed operations by error: the first word of the server's error in capitals (`MOVED` is
    /// followed and does not count; after `UNCERTAIN` the command may have been applied), or in
    /// lower case what the client observed: `timeout`, `connection` (lost while the request was in
    /// flight), `corrupt` (a reply of the wrong type, or a value that this program did not write).
    pub(crate) errors: BTreeMap<String, u64>,
    /// Latencies by kind of operation (`read`, `update`, `insert`, `scan`, `read_modify_write`) and
    /// of all operations (`all`). A read-modify-write counts as one operation.
    pub(crate) latencies: BTreeMap<String, Latencies>,
    /// Delay between the intended and the actual time of sending; `None` in a closed loop. Grows
    /// when the machine or all connections are busy.
    pub(crate) lag: Option<Latency>,
    /// The measured window second by second, without gaps. The last second may be shorter, or
    /// contain replies that arrived after the planned end.
    pub(crate) per_second: Vec<Second>,
    /// Events during the run: leader changes, lost connections.
    pub(crate) marks: Vec<Mark>,
    /// Processor time of the load generator.
    pub(crate) client: Client,
    /// Conditions of `--fail-if` that hold, with the measured figure: `p99>5ms (7.310 ms)`.
    pub(crate) failed: Vec<String>,
}

/// A machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Processors that the run could use.
    pub(crate) cores: usize,
    /// Operating system and architecture, as in `linux x86_64`.
    pub(crate) system: String,
    /// Kernel version; empty if unknown.
    pub(crate) kernel: String,
    /// Name of the processor; empty if unknown.
    pub(crate) processor: String,
    /// Processor seconds stolen by the host during the measured window, over all cores; `None` if
    /// unknown.
    pub(crate) stolen_s: Option<f64>,
}

/// The servers of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// `redis` (Bowline too) or `etcd`.
    pub(crate) protocol: String,
    /// Addresses as given on the command line, `host:port` each.
    pub(crate) addresses: Vec<String>,
    /// Name and version that the server reported, such as `bowline 0.1.0`; empty if it reported
    /// none.
    pub(crate) server: String,
    /// Other settings that the server reported and that affect the figures, such as `appendfsync`.
    pub(crate) facts: BTreeMap<String, String>,
}

/// What determines the time of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Loop {
    /// A schedule, whatever the server does; latencies count from the scheduled time.
    Open,
    /// The reply to an earlier request: a slow server receives fewer requests, and the waiting that
    /// real users would experience is not measured.
    Closed,
}

/// Settings of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Open or closed loop.
    #[serde(rename = "loop")]
    pub(crate) kind: Loop,
    /// `ycsb-a` to `ycsb-f`, or `mix`.
    pub(crate) workload: String,
    /// Fraction of each kind of operation; their sum is 1.
    pub(crate) mix: BTreeMap<String, f64>,
    /// `uniform`, `zipfian` (scattered), `latest` or `sequential`.
    pub(crate) distribution: String,
    /// Skew of the zipfian and latest distributions; `None` for others.
    pub(crate) theta: Option<f64>,
    /// Number of keys before the run.
    pub(crate) keys: u64,
    /// Length of a key in bytes.
    pub(crate) key_bytes: usize,
    /// Length of a value in bytes.
    pub(crate) value_bytes: usize,
    /// Connections, over all threads.
    pub(crate) connections: usize,
    /// Maximum requests in flight per connection.
    pub(crate) pipeline: usize,
    /// Threads of the load generator.
    pub(crate) threads: usize,
    /// Seconds of the same load before the measured window.
    pub(crate) warm_up_s: f64,
    /// Planned length of the measured window in seconds.
    pub(crate) seconds: f64,
    /// Request timeout in seconds.
    pub(crate) timeout_s: f64,
    /// Random seed.
    pub(crate) seed: u64,
    /// Whether all keys were written before the run.
    pub(crate) preload: bool,
}

/// Operations of the measured window by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Successful operations, including reads of keys that do not exist.
    pub(crate) succeeded: u64,
    /// Failed operations: the sum of `errors`.
    pub(crate) failed: u64,
    /// Operations that were due and never sent, because all connections were busy until the end.
    pub(crate) unsent: u64,
    /// Reads of keys that do not exist.
    pub(crate) not_found: u64,
    /// `MOVED` replies; the requests were sent again to the leader.
    pub(crate) redirects: u64,
    /// Connections opened again, after they were lost or their server lost leadership.
    pub(crate) reconnects: u64,
}

/// Latencies of one kind of operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// Response time: from the scheduled time to the reply, as a user experiences it. `None` in a
    /// closed loop, which has no schedule.
    pub(crate) response: Option<Latency>,
    /// Service time: from sending to the reply. Excludes the wait before sending.
    pub(crate) service: Latency,
    /// Percentile curve of the response times (in a closed loop, service times): the rows of
    /// `NAME.hgrm`. Empty for kinds that did not occur.
    pub(crate) curve: Vec<Point>,
}

impl Latencies {
    /// Response times if there are any, else service times.
    pub(crate) fn main(&self) -> &Latency {
        self.response.as_ref().unwrap_or(&self.service)
    }
}

/// Summary of latencies. All 0 if there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Number of latencies.
    pub(crate) count: u64,
    /// Minimum.
    pub(crate) min_s: f64,
    /// Mean.
    pub(crate) mean_s: f64,
    /// Median.
    pub(crate) p50_s: f64,
    /// 90th percentile.
    pub(crate) p90_s: f64,
    /// 95th percentile.
    pub(crate) p95_s: f64,
    /// 99th percentile.
    pub(crate) p99_s: f64,
    /// 99.9th percentile.
    pub(crate) p999_s: f64,
    /// 99.99th percentile.
    pub(crate) p9999_s: f64,
    /// Maximum.
    pub(crate) max_s: f64,
}

/// One point of a percentile curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Quantile from 0 to 1, increasing; 1 only in the last point.
    pub(crate) quantile: f64,
    /// Latency at this quantile.
    pub(crate) seconds: f64,
}

/// One second of the measured window; operations count by the time of their reply.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Second {
    /// Number of the second, from 0.
    pub(crate) number: u64,
    /// Operations that succeeded.
    pub(crate) succeeded: u64,
    /// Operations that failed.
    pub(crate) failed: u64,
    /// Operations that were due and not sent at the end of the second.
    pub(crate) backlog: u64,
    /// Response times of successful operations; in a closed loop, service times.
    pub(crate) latency: Latency,
}

/// An event during a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Time of the event; negative during the warm-up.
    pub(crate) at_s: f64,
    /// A short description.
    pub(crate) what: String,
}

/// Processor time of the load generator in the measured window.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Client {
    /// Processor seconds, user and system.
    pub(crate) cpu_s: f64,
    /// Processor microseconds per operation that got a reply.
    pub(crate) cpu_us_per_operation: f64,
}

impl LoadRecord {
    /// Parses the JSON of a load run.
    ///
    /// # Errors
    /// If `text` is not such JSON, or has another version.
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
    fn other_json_is_rejected() {
        let error = |text: &str| format!("{:#}", LoadRecord::parse(text).unwrap_err());
        assert!(error("{}").contains("not JSON of `perf load`"));
        assert!(error(r#"{"schema":"x","schema_version":1}"#).contains("schema `x`"));
        assert!(error(r#"{"schema":"bowline-load","schema_version":9}"#).contains("version 9"));
        assert!(error(r#"{"schema":"bowline-load","schema_version":1}"#).contains("missing"));
    }
}
