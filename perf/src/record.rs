//! JSON of `perf sim`. Described in `perf/formats.md`; changing the meaning of a field increments
//! [`SCHEMA`].

use std::process::Command;
use std::time::{Duration, SystemTime};

use bowline::course::clients::Sample;
use bowline::course::report::{Latency, Report, Unavailability};
use bowline::types::Instant;
use serde::Serialize;

/// Version of the schema.
const SCHEMA: u32 = 1;

/// A run, with everything needed to repeat and compare it.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    schema: u32,
    /// Name of the run and its files.
    name: String,
    /// `virtual` or `processes`.
    mode: &'static str,
    /// The command line.
    command: Vec<String>,
    /// Commit of the source, with `-dirty` if there were changes; `None` if git is not available.
    revision: Option<String>,
    /// Processors that the run could use.
    cores: usize,
    /// Operating system and architecture.
    system: String,
    /// Start time, in seconds since 1970.
    began_unix_s: f64,
    /// Duration by the wall clock in seconds. In virtual time it measures the simulator's speed.
    wall_s: f64,
    /// Requests per second of the scenario.
    rate_intended: f64,
    /// Requests per second with an `ok` reply, over the same window.
    rate_answered: f64,
    /// Each second with replies.
    per_second: Vec<Second>,
    /// Faults that the scenario injected.
    marks: Vec<Mark>,
    /// The report, as `bowline sim --json` prints it.
    report: Report,
}

/// The replies of one second, gets and puts together.
#[derive(Debug, Serialize)]
struct Second {
    /// Seconds since the start of the run, including the wait before the first request.
    second: u64,
    /// Latencies of whole operations, including redirects.
    latency: Latency,
}

/// An event, for charts.
#[derive(Debug, Serialize)]
struct Mark {
    /// Seconds since the start of the run, as in [`Second`].
    at_s: f64,
    /// Short description.
    what: String,
}

/// Circumstances of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// `virtual` or `processes`.
    pub(crate) mode: &'static str,
    /// Start time.
    pub(crate) began: SystemTime,
    /// Duration by the wall clock.
    pub(crate) duration: Duration,
    /// Length of the window in which requests are sent, in the run's time.
    pub(crate) window: Duration,
    /// Wait before the first request.
    pub(crate) start_wait: Duration,
}

impl Record {
    /// The record of a run whose clock started at `start`.
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

/// The commit of the source in the current folder; `None` if git is not available.
pub(crate) fn revision() -> Option<String> {
    let arguments = ["describe", "--always", "--dirty", "--exclude=*"];
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
