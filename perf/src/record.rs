//! What a run leaves behind as JSON. The schema is described in `perf/formats.md`; a change to the
//! meaning of a field raises [`SCHEMA`].

use std::process::Command;
use std::time::{Duration, SystemTime};

use bowline::course::clients::Sample;
use bowline::course::report::{Latency, Report, Unavailability};
use bowline::types::Instant;
use serde::Serialize;

/// Version of the schema.
const SCHEMA: u32 = 1;

/// A run, and all that one has to know to hold it again and to compare it.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    schema: u32,
    /// What the run is called, and its files.
    name: String,
    /// `virtual` or `processes`.
    mode: &'static str,
    /// The command line.
    command: Vec<String>,
    /// The commit of the source, with `-dirty` if it was changed; nothing if git can't tell.
    revision: Option<String>,
    /// Processors that the run could use.
    cores: usize,
    /// Operating system and architecture.
    system: String,
    /// When it began, in seconds since 1970.
    began_unix_s: f64,
    /// How long it took here; in virtual time that says how fast the simulator is.
    wall_s: f64,
    /// Requests a second that the scenario asks for.
    rate_intended: f64,
    /// Requests a second that were answered with `ok`, over the same window.
    rate_answered: f64,
    /// What happened in each second in which something was answered.
    per_second: Vec<Second>,
    /// What the scenario did to the replicas.
    marks: Vec<Mark>,
    /// The report, as `bowline sim --json` prints it.
    report: Report,
}

/// What was answered in one second, gets and puts together.
#[derive(Debug, Serialize)]
struct Second {
    /// Since the start of the run, the wait before the first request included.
    second: u64,
    /// Latencies of whole operations, over all redirects.
    latency: Latency,
}

/// Something that happened, for pictures.
#[derive(Debug, Serialize)]
struct Mark {
    /// Since the start of the run, as in [`Second`].
    at_s: f64,
    /// A few words.
    what: String,
}

/// What is measured around a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// `virtual` or `processes`.
    pub(crate) mode: &'static str,
    /// When it began.
    pub(crate) began: SystemTime,
    /// How long it took.
    pub(crate) took: Duration,
    /// How long requests were sent, in the run's time.
    pub(crate) window: Duration,
    /// How long the run waited before the first request.
    pub(crate) start_wait: Duration,
}

impl Record {
    /// Of a run whose clock began at `start`.
    pub(crate) fn new(
        name: &str,
        around: Around,
        report: Report,
        start: Instant,
        samples: &[Sample],
    ) -> Record {
        let since_epoch = around.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let window = around.window.as_secs_f64();
        Record {
            schema: SCHEMA,
            name: name.to_owned(),
            mode: around.mode,
            command: std::env::args().collect(),
            revision: revision(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            began_unix_s: since_epoch.as_secs_f64(),
            wall_s: around.took.as_secs_f64(),
            rate_intended: report.requests as f64 / window,
            rate_answered: samples.len() as f64 / window,
            per_second: per_second(start, samples),
            marks: marks(&report, around.start_wait),
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
        let whom = outage.killed.as_ref().map(|killed| format!(" ({killed})")).unwrap_or_default();
        let at_s = start_wait.as_secs_f64() + outage.at_s;
        Mark { at_s, what: format!("{}{whom}", outage.event.replace('_', " ")) }
    };
    report.unavailability.iter().map(mark).collect()
}

/// The commit of the source here; nothing if git can't tell.
pub(crate) fn revision() -> Option<String> {
    let arguments = ["describe", "--always", "--dirty", "--exclude=*"];
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
