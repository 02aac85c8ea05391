//! What a load run leaves behind as JSON: `NAME.json`, and what `--json` prints. `perf report` and
//! `perf compare` read it. `perf/formats.md` describes it. A change to the meaning of a field, or
//! its removal, raises [`SCHEMA_VERSION`]. A new field that readers may ignore gets
//! `#[serde(default)]` and does not.
//!
//! Times are in seconds, as fractions; moments too, counted from the start of the measured window
//! unless they say otherwise. Rates are per second.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// Tells a load run's JSON from other JSON.
pub(crate) const SCHEMA: &str = "bowline-load";
/// Version of the schema.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// A run, and all that one has to know to hold it again and to compare it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LoadRecord {
    /// [`SCHEMA`].
    pub(crate) schema: String,
    /// [`SCHEMA_VERSION`].
    pub(crate) schema_version: u32,
    /// What the run is called: `--out`, or the target's protocol.
    pub(crate) name: String,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// The commit of the source, with `-dirty` if it was changed; nothing if git can't tell.
    pub(crate) revision: Option<String>,
    /// Where the load generator ran.
    pub(crate) host: Host,
    /// Whom it asked.
    pub(crate) target: Target,
    /// What it was told to do.
    pub(crate) config: Config,
    /// When the measured window began, in seconds since 1970.
    pub(crate) began_unix_s: f64,
    /// Length of the measured window as it came out: until the last answer to one of its
    /// operations, and at least as long as planned; or until the run ended early.
    pub(crate) window_s: f64,
    /// Why the run ended early, in words. `None`: it is whole.
    pub(crate) partial: Option<String>,
    /// Operations a second that the schedule asked for; `None` in a closed loop.
    pub(crate) intended_rate: Option<f64>,
    /// Operations a second that succeeded. Never counts an error.
    pub(crate) achieved_rate: f64,
    /// What became of the operations of the measured window.
    pub(crate) counts: Counts,
    /// Failed operations by kind: the first word of the server's error, in capitals (`MOVED` is
    /// followed and not an error; `UNCERTAIN`: may have been applied), or in small letters what the
    /// client saw: `timeout`, `connection` (lost while the request was under way), `corrupt`
    /// (an answer of the wrong type, or a value that nobody wrote).
    pub(crate) errors: BTreeMap<String, u64>,
    /// Latencies by kind of operation (`read`, `update`, `insert`, `scan`, `read_modify_write`)
    /// and of all together (`all`). A read-modify-write counts once, as a whole.
    pub(crate) latencies: BTreeMap<String, Latencies>,
    /// How late the generator itself sent requests, from the intended moment; `None` in a closed
    /// loop. Grows when the machine or all connections are busy.
    pub(crate) lag: Option<Latency>,
    /// The measured window second by second, without gaps. The last one may be shorter, or hold
    /// what was answered after the window's end.
    pub(crate) per_second: Vec<Second>,
    /// What happened when: leader changes, lost connections.
    pub(crate) marks: Vec<Mark>,
    /// What the load generator itself cost.
    pub(crate) client: Client,
    /// Conditions of `--fail-if` that came true, with the figure: `p99>5ms (7.310 ms)`.
    pub(crate) failed: Vec<String>,
}

/// Where a run was held.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Processors that the run could use.
    pub(crate) cores: usize,
    /// Operating system and architecture, as in `linux x86_64`.
    pub(crate) system: String,
    /// Version of the kernel; empty if unknown.
    pub(crate) kernel: String,
    /// The processor's name; empty if unknown.
    pub(crate) processor: String,
    /// Processor seconds that the host machine took away during the measured window, over all
    /// cores; `None` if unknown.
    pub(crate) stolen_s: Option<f64>,
}

/// Whom a run asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// `redis` (Bowline too) or `etcd`.
    pub(crate) protocol: String,
    /// As given, `host:port` each.
    pub(crate) addresses: Vec<String>,
    /// Its name and version as it told them, such as `bowline 0.1.0`; empty if it didn't.
    pub(crate) server: String,
    /// What else it told of itself that matters for figures, such as `appendfsync`.
    pub(crate) facts: BTreeMap<String, String>,
}

/// How requests come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Loop {
    /// At moments that a schedule sets, whatever the server does; latencies count from there.
    Open,
    /// The next one when an earlier one is answered: a slow server is asked less, and waits that
    /// real users would have had are not in the figures.
    Closed,
}

/// What a run was told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Open or closed.
    #[serde(rename = "loop")]
    pub(crate) kind: Loop,
    /// `ycsb-a` to `ycsb-f`, or `mix`.
    pub(crate) workload: String,
    /// Share of each kind of operation, adding up to 1.
    pub(crate) mix: BTreeMap<String, f64>,
    /// `uniform`, `zipfian` (scrambled), `latest` or `sequential`.
    pub(crate) distribution: String,
    /// Of the zipfian and latest distributions.
    pub(crate) theta: Option<f64>,
    /// Keys before the run, `--keys`.
    pub(crate) keys: u64,
    /// Length of a key.
    pub(crate) key_bytes: usize,
    /// Length of a value.
    pub(crate) value_bytes: usize,
    /// Connections, over all threads.
    pub(crate) connections: usize,
    /// Requests that a connection has under way at most.
    pub(crate) pipeline: usize,
    /// Threads of the load generator.
    pub(crate) threads: usize,
    /// Seconds before the measured window with the same load.
    pub(crate) warm_up_s: f64,
    /// Seconds of the measured window.
    pub(crate) seconds: f64,
    /// Seconds after which a request is given up.
    pub(crate) timeout_s: f64,
    /// Of everything drawn.
    pub(crate) seed: u64,
    /// Whether all keys were written before the run.
    pub(crate) preload: bool,
}

/// What became of the operations of the measured window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Answered as hoped. Reads of keys that were not there are in here too.
    pub(crate) succeeded: u64,
    /// Failed: the sum of `errors`.
    pub(crate) failed: u64,
    /// Due by the schedule and never sent, as all connections were busy to the end.
    pub(crate) unsent: u64,
    /// Reads of keys that were not there.
    pub(crate) not_found: u64,
    /// Answers that sent us to the leader (`MOVED`); the requests were sent again there.
    pub(crate) redirects: u64,
    /// Connections opened again after they were lost or their server no longer led.
    pub(crate) reconnects: u64,
}

/// Latencies of one kind of operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// From the moment at which the schedule meant to send it to the answer: what a user waits.
    /// `None` in a closed loop, which has no such moment.
    pub(crate) response: Option<Latency>,
    /// From when it was really sent to the answer. Hides the waits before sending.
    pub(crate) service: Latency,
    /// Response times (service times in a closed loop) by percentile: the rows of `NAME.hgrm`, for
    /// drawing. Empty for kinds that did not occur.
    pub(crate) curve: Vec<Point>,
}

impl Latencies {
    /// What to show if only one is shown.
    pub(crate) fn main(&self) -> &Latency {
        self.response.as_ref().unwrap_or(&self.service)
    }
}

/// Latencies, summed up. All 0 if there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// How many.
    pub(crate) count: u64,
    /// The shortest.
    pub(crate) min_s: f64,
    /// Their mean.
    pub(crate) mean_s: f64,
    /// Half of them were at most this; the others alike.
    pub(crate) p50_s: f64,
    /// 90 %.
    pub(crate) p90_s: f64,
    /// 95 %.
    pub(crate) p95_s: f64,
    /// 99 %.
    pub(crate) p99_s: f64,
    /// 99.9 %.
    pub(crate) p999_s: f64,
    /// 99.99 %.
    pub(crate) p9999_s: f64,
    /// The longest.
    pub(crate) max_s: f64,
}

/// One row of a percentile curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// From 0 to 1, rising; 1 only in the last row.
    pub(crate) quantile: f64,
    /// This share of the latencies were at most this long.
    pub(crate) seconds: f64,
}

/// One second of the measured window, by the time of the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Second {
    /// From 0.
    pub(crate) number: u64,
    /// Operations that succeeded.
    pub(crate) succeeded: u64,
    /// Operations that failed.
    pub(crate) failed: u64,
    /// Operations that were due and not yet sent at its end.
    pub(crate) backlog: u64,
    /// Of what succeeded: response times, service times in a closed loop.
    pub(crate) latency: Latency,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// When; negative during the warm-up.
    pub(crate) at_s: f64,
    /// What: a few words.
    pub(crate) what: String,
}

/// What the load generator itself cost in the measured window.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Client {
    /// Processor seconds, user and system.
    pub(crate) cpu_s: f64,
    /// Processor microseconds for each operation answered.
    pub(crate) cpu_us_per_operation: f64,
}

impl LoadRecord {
    /// Reads one.
    ///
    /// # Errors
    /// If `text` is none, or of another version.
    pub(crate) fn parse(text: &str) -> anyhow::Result<LoadRecord> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
            schema_version: u32,
        }
        let head: Head = serde_json::from_str(text).context("no JSON of `perf load`")?;
        ensure!(head.schema == SCHEMA, "JSON of another kind: `{}`, not `{SCHEMA}`", head.schema);
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
    fn other_json_is_told_apart() {
        let error = |text: &str| format!("{:#}", LoadRecord::parse(text).unwrap_err());
        assert!(error("{}").contains("no JSON of `perf load`"));
        assert!(error(r#"{"schema":"x","schema_version":1}"#).contains("another kind: `x`"));
        assert!(error(r#"{"schema":"bowline-load","schema_version":9}"#).contains("version 9"));
        assert!(error(r#"{"schema":"bowline-load","schema_version":1}"#).contains("missing"));
    }
}
