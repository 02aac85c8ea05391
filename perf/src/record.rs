//! The JSON that `perf sim` writes; `perf/formats.md` describes it. Changing the meaning of a field
//! increments [`SCHEMA`].

use std::process::Command;
use std::time::{Duration, SystemTime};

use bowline::course::clients::Sample;
use bowline::course::report::{Latency, Report, Unavailability};
use bowline::types::Instant;
use serde::Serialize;

/// Version of the JSON format of the results of `perf sim`.
const SCHEMA: u32 = 1;

/// Results of a `perf sim` run as JSON, with everything needed to repeat the run and to compare it
/// with others.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    schema: u32,
    /// Name of the run, which is also the name of its output files.
    name: String,
    /// How the replicas ran: `virtual` (simulated in virtual time) or `processes` (real processes).
    mode: &'static str,
    /// The command line of the run, as a list of arguments.
    command: Vec<String>,
    /// Commit of the source, followed by `-dirty` if there were uncommitted changes; `None` if git
    /// is not available.
    revision: Option<String>,
    /// Number of processor cores available to the run.
    cores: usize,
    /// Operating system and architecture, as in `linux x86_64`.
    system: String,
    /// Start time of the run, in seconds since 1970.
    began_unix_s: f64,
    /// Real duration of the run in seconds. For a run in virtual time, it shows how fast the
    /// simulator is.
    wall_s: f64,
    /// Rate at which the scenario sends requests, in requests per second.
    rate_intended: f64,
    /// Rate of requests that received an `ok` reply, in requests per second over the window in
    /// which requests are sent.
    rate_answered: f64,
    /// Latencies in each second of the run in which a reply arrived.
    per_second: Vec<Second>,
    /// Events that the scenario injected, such as killing the leader, to be marked in charts.
    marks: Vec<Mark>,
    /// Report on the run, in the format that `bowline sim --json` prints.
    report: Report,
}

/// Latencies of the replies to gets and puts that arrived in one second of a run.
#[derive(Debug, Serialize)]
struct Second {
    /// Index of this second, counted from 0 at the start of the run, which is earlier than the
    /// first request.
    second: u64,
    /// Latencies of operations from the first request to the final reply, including redirects.
    latency: Latency,
}

/// An event during a run, such as killing the leader, to be marked in charts.
#[derive(Debug, Serialize)]
struct Mark {
    /// Time of the event in seconds since the start of the run, which is earlier than the first
    /// request.
    at_s: f64,
    /// Short description of the event.
    what: String,
}

/// How and when a run took place (mode, start time and durations), for the JSON results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// How the replicas ran: `virtual` (simulated in virtual time) or `processes` (real processes).
    pub(crate) mode: &'static str,
    /// Start time of the run by the wall clock.
    pub(crate) began: SystemTime,
    /// Real duration of the run.
    pub(crate) duration: Duration,
    /// Length of the window in which requests are sent, in virtual or real time depending on the
    /// mode.
    pub(crate) window: Duration,
    /// Time from the start of the run to its first request.
    pub(crate) start_wait: Duration,
}

impl Record {
    /// Creates the JSON results of a run. `start` is the time at which the run began, in virtual or
    /// real time depending on the mode.
    pub(crate) fn new(
        name: &str,
        circumstances: Circumstances,
        report: Report,
        start: Instant,
        samples: &[Sample],
    ) -> Record {
        let since_epoch =
            circumstances.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let window = circumstances.window.as_secs_f64();
        Record {
            schema: SCHEMA,
            name: name.to_owned(),
            mode: circumstances.mode,
            command: std::env::args().collect(),
            revision: revision(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            began_unix_s: since_epoch.as_secs_f64(),
            wall_s: circumstances.duration.as_secs_f64(),
            rate_intended: report.requests as f64 / window,
            rate_answered: samples.len() as f64 / window,
            per_second: per_second(start, samples),
            marks: marks(&report, circumstances.start_wait),
            report,
        }
    }
}

fn per_second(start: Instant, samples: &[Sample]) -> Vec<Second> {
    let second = |sample: &Sample| sample.answered.since(start).as_secs();
    let mut samples = samples.to_vec();
    samples.sort_by_key(second);
    samples
        .chunk_by(|a, b| second(a) == second(b))
        .map(|samples| Second {
            second: second(&samples[0]),
            latency: Latency::of(samples.iter().map(|sample| sample.operation_latency)),
        })
        .collect()
}

fn marks(report: &Report, start_wait: Duration) -> Vec<Mark> {
    let mark = |outage: &Unavailability| {
        let replica =
            outage.killed.as_ref().map(|killed| format!(" ({killed})")).unwrap_or_default();
        let at_s = start_wait.as_secs_f64() + outage.at_s;
        Mark { at_s, what: format!("{}{replica}", outage.event.replace('_', " ")) }
    };
    report.unavailability.iter().map(mark).collect()
}

/// Returns the commit of the source in the current folder, followed by `-dirty` if there are
/// uncommitted changes; `None` if git is not available.
pub(crate) fn revision() -> Option<String> {
    let arguments = ["describe", "--always", "--dirty", "--exclude=*"];
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
