//! Reads result files: JSON of `perf load`, `perf sim`, `perf compare` and `perf lossy`, and
//! interval logs (`.hlog`) of any tool. The error for any other file says why the file is rejected.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde::Deserialize;
use serde_json::Value;

use super::run::{Curve, INTERVALS_MAX, Interval, Mark, Run};
use super::scale;
use crate::compare::results::{self, Comparison};
use crate::load::schema::{self, LoadRecord, Loop};

/// Maximum size of a result file in bytes; larger files are rejected.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Parsed content of a result file, from which charts are drawn.
#[derive(Debug)]
pub(crate) enum Input {
    /// One run, from the JSON of `perf load` or `perf sim`, or from an interval log.
    Run(Box<Run>),
    /// A comparison of systems, from the JSON of `perf compare` or `perf lossy`.
    Comparison(Box<Comparison>),
}

/// Reads all given result files. If an interval log (.hlog) and a JSON file with the same path
/// except for the extension are both given, they form one run.
pub(crate) fn read_all(paths: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    let is_log = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "hlog");
    let named = |path: &Path| paths.iter().any(|other| other == path);
    let mut inputs = Vec::new();
    for path in paths {
        if is_log(&path) && named(&path.with_extension("json")) {
            continue;
        }
        let input =
            read(path).with_context(|| format!("cannot use the result file {}", path.display()))?;
        inputs.push(input);
    }
    let runs = inputs.iter_mut().filter_map(|input| match input {
        Input::Run(run) => Some(&mut **run),
        Input::Comparison(_) => None,
    });
    number_duplicates(runs.collect());
    Ok(inputs)
}

/// Makes the names of runs unique by appending ` (2)`, ` (3)` and so on to repeated names.
fn number_duplicates(mut runs: Vec<&mut Run>) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for run in &mut runs {
        let count = seen.entry(run.name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            run.name = format!("{} ({count})", run.name);
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Input> {
    let size = fs::metadata(path)
        .context("no such file, or it cannot be opened; check its path and permissions")?
        .len();
    ensure!(size > 0, "the file is empty");
    ensure!(size <= FILE_BYTES_MAX, "the file has {size} bytes; the limit is {FILE_BYTES_MAX}");
    let bytes = fs::read(path).context("cannot read the file; check its permissions")?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = stem.unwrap_or_else(|| "run".to_owned());
    if bytes.starts_with(b"#") || path.extension().is_some_and(|ending| ending == "hlog") {
        let mut run = read_log(&name, &bytes)?;
        run.fill_gaps();
        return Ok(Input::Run(Box::new(run)));
    }
    let value: Value = serde_json::from_slice(&bytes)
        .context("the file is neither JSON nor an interval log (.hlog)")?;
    let mut run = match &value["schema"] {
        Value::String(kind) if kind == schema::SCHEMA => {
            let text = std::str::from_utf8(&bytes).context("the JSON is not valid UTF-8")?;
            from_load(LoadRecord::parse(text)?)
        }
        Value::String(kind) if kind == results::SCHEMA => {
            return Ok(Input::Comparison(Box::new(Comparison::parse(value)?)));
        }
        Value::Number(version) if value.get("report").is_some() => {
            ensure!(
                version.as_u64() == Some(1),
                "results of `perf sim` have schema version {version}, but this program reads only \
                 version 1; use the version of perf that wrote them"
            );
            from_sim(value)?
        }
        _ => bail!(
            "JSON with an unknown `schema`, so not results of `perf load`, `perf sim`, `perf \
             compare` or `perf lossy`"
        ),
    };
    let log = path.with_extension("hlog");
    if let Ok(bytes) = fs::read(&log) {
        let log = read_log(&name, &bytes).with_context(|| {
            format!("invalid interval log {}, which belongs to these results", log.display())
        })?;
        add_details(&mut run, log);
    }
    run.fill_gaps();
    Ok(Input::Run(Box::new(run)))
}

/// Replaces the time intervals of a run with those of its interval log, which have histograms. Also
/// takes the latency curves from the log, unless the JSON contained a detailed curve of more than
/// 10 points.
fn add_details(run: &mut Run, log: Run) {
    let detailed = |curve: &Curve| curve.points.len() > 10;
    if !run.curves.iter().any(detailed) {
        run.curves = log.curves;
    }
    run.intervals = log.intervals;
}

/// Parses an interval log (.hlog: a histogram per time interval), whose values must be latencies in
/// nanoseconds. `name` becomes the name of the run.
fn read_log(name: &str, bytes: &[u8]) -> anyhow::Result<Run> {
    let mut deserializer = Deserializer::new();
    let mut began = None;
    // Histograms by start of their interval in microseconds, and by tag.
    let mut intervals: BTreeMap<u128, (f64, Histogram<u64>)> = BTreeMap::new();
    let mut kinds: BTreeMap<String, Histogram<u64>> = BTreeMap::new();
    for entry in IntervalLogIterator::new(bytes) {
        let entry =
            entry.map_err(|error| anyhow::anyhow!("not an interval log (.hlog): {error:?}"))?;
        match entry {
            LogEntry::StartTime(time) => began = Some(time),
            LogEntry::BaseTime(_) => (),
            LogEntry::Interval(interval) => {
                let at = interval.start_timestamp().as_micros();
                let coded = BASE64_STANDARD
                    .decode(interval.encoded_histogram())
                    .context("a histogram in the interval log is not valid base64")?;
                let mut histogram: Histogram<u64> =
                    deserializer.deserialize(&mut &coded[..]).map_err(|error| {
                        anyhow::anyhow!("a histogram in the interval log is corrupt: {error}")
                    })?;
                // Resizable, so that histograms with longer latencies can be added.
                histogram.auto(true);
                let tag = interval.tag().map_or("all", |tag| tag.as_str());
                add(&mut kinds, tag.to_owned(), &histogram)?;
                let length = interval.duration().as_secs_f64();
                ensure!(length > 0.0, "a time interval in the interval log has length 0");
                match intervals.get_mut(&at) {
                    Some((longest, sum)) => {
                        *longest = longest.max(length);
                        sum.add(&histogram).context(
                            "cannot add up two histograms of the interval log, because their value \
                             ranges differ",
                        )?;
                    }
                    None => {
                        intervals.insert(at, (length, histogram));
                    }
                }
                ensure!(
                    intervals.len() <= INTERVALS_MAX,
                    "the interval log has more than {INTERVALS_MAX} time intervals, the most that \
                     a chart can show"
                );
            }
        }
    }
    ensure!(!intervals.is_empty(), "the interval log contains no intervals");
    // Some tools log the time since the start of the run, others the time since 1970.
    let first = intervals.keys().next().copied().unwrap_or_default();
    let base = if first > 1_000_000_000_000_000 { first } else { 0 };
    let mut whole = kinds.values().next().expect("there is an interval").clone();
    for other in kinds.values().skip(1) {
        whole.add(other).context(
            "cannot add up two histograms of the interval log, because their value ranges differ",
        )?;
    }
    let mut curves = vec![Curve::of("all", &whole)];
    if kinds.len() > 1 {
        curves.extend(kinds.iter().map(|(kind, histogram)| Curve::of(kind, histogram)));
    }
    let mut facts = Vec::new();
    if let Some(began) = began {
        facts.push(("began".to_owned(), format!("{:.0} s after 1970", began.as_secs_f64())));
    }
    let interval = |(at, (length, histogram)): (u128, (f64, Histogram<u64>))| {
        Interval::of((at - base) as f64 / 1e6, length, histogram)
    };
    Ok(Run {
        name: name.to_owned(),
        facts,
        curves,
        intervals: intervals.into_iter().map(interval).collect(),
        ..Run::default()
    })
}

fn add(
    sums: &mut BTreeMap<String, Histogram<u64>>,
    kind: String,
    histogram: &Histogram<u64>,
) -> anyhow::Result<()> {
    match sums.get_mut(&kind) {
        Some(sum) => sum.add(histogram).context(
            "cannot add up two histograms of the interval log, because their value ranges differ",
        )?,
        None => {
            sums.insert(kind, histogram.clone());
        }
    }
    Ok(())
}

fn fact(facts: &mut Vec<(String, String)>, name: &str, value: impl Into<String>) {
    let value = value.into();
    if !value.is_empty() {
        facts.push((name.to_owned(), value));
    }
}

fn from_load(record: LoadRecord) -> Run {
    let mut facts = Vec::new();
    fact(&mut facts, "command", record.command.join(" "));
    fact(&mut facts, "revision", record.revision.unwrap_or_default());
    let server =
        if record.target.server.is_empty() { record.target.protocol } else { record.target.server };
    fact(&mut facts, "server", format!("{server} at {}", record.target.addresses.join(", ")));
    for (name, value) in record.target.facts {
        fact(&mut facts, &name, value);
    }
    let config = record.config;
    let way = match config.kind {
        Loop::Open => "open loop, latency from the intended time of sending",
        Loop::Closed => "closed loop, service time: excludes waiting before sending",
    };
    fact(&mut facts, "load", way);
    let mix = config.mix.iter().map(|(kind, share)| format!("{kind} {}", scale::percent(*share)));
    let mix = mix.collect::<Vec<_>>().join(", ");
    fact(&mut facts, "workload", format!("{} ({mix})", config.workload));
    fact(
        &mut facts,
        "connections",
        format!("{}, pipeline {}", config.connections, config.pipeline),
    );
    fact(
        &mut facts,
        "keys and values",
        format!(
            "{} keys, {}; values of {} bytes",
            config.keys, config.distribution, config.value_bytes
        ),
    );
    if let Some(rate) = record.intended_rate {
        fact(&mut facts, "intended rate", format!("{}/s", scale::amount(rate)));
    }
    fact(&mut facts, "achieved rate", format!("{}/s", scale::amount(record.achieved_rate)));
    let errors: Vec<String> =
        record.errors.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let none = || "none".to_owned();
    let errors = if errors.is_empty() { none() } else { errors.join(", ") };
    fact(&mut facts, "errors", errors);
    let host = record.host;
    fact(&mut facts, "machine", machine(host.cores, &host.system, &host.processor));
    if let Some(stolen) = host.stolen_s {
        fact(&mut facts, "stolen CPU time", scale::duration(stolen));
    }
    let partial = record.partial.is_some();
    if let Some(why) = record.partial {
        fact(&mut facts, "ended early", why);
    }
    let mut curves: Vec<Curve> = record
        .latencies
        .iter()
        .filter(|(_, latencies)| !latencies.curve.is_empty())
        .map(|(kind, latencies)| Curve {
            kind: kind.clone(),
            samples: latencies.main().count,
            points: latencies.curve.iter().map(|point| (point.quantile, point.seconds)).collect(),
        })
        .collect();
    curves.sort_by_key(|curve| curve.kind != "all");
    if curves.len() == 2 {
        // With a single kind, `all` shows the same.
        curves.truncate(1);
    }
    let last = record.per_second.len().saturating_sub(1);
    let rest = record.window_s - last as f64;
    let intervals = record.per_second.iter().enumerate().map(|(number, second)| Interval {
        at_s: second.number as f64,
        // The last second may be cut short, perhaps too short for a meaningful rate.
        length_s: if number == last && rest > 0.2 { rest } else { 1.0 },
        count: second.succeeded,
        p50_s: second.latency.p50_s,
        p99_s: second.latency.p99_s,
        histogram: None,
    });
    let marks = record.marks.into_iter().filter(|mark| mark.at_s >= 0.0);
    Run {
        name: record.name,
        facts,
        curves,
        intervals: intervals.collect(),
        marks: marks.map(|mark| Mark { at_s: mark.at_s, text: mark.what }).collect(),
        partial,
    }
}

fn machine(cores: usize, system: &str, processor: &str) -> String {
    let parts = [format!("{cores} cores"), system.to_owned(), processor.to_owned()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// The JSON fields written by `perf sim` that charts use.
#[derive(Deserialize)]
struct Sim {
    name: String,
    mode: String,
    command: Vec<String>,
    revision: Option<String>,
    cores: usize,
    system: String,
    rate_intended: f64,
    rate_answered: f64,
    per_second: Vec<SimSecond>,
    #[serde(default)]
    marks: Vec<SimMark>,
    report: SimReport,
}

#[derive(Deserialize)]
struct SimSecond {
    second: u64,
    latency: SimLatency,
}

#[derive(Deserialize)]
struct SimMark {
    at_s: f64,
    what: String,
}

#[derive(Deserialize)]
struct SimReport {
    scenario: String,
    seed: u64,
    verdict: String,
    messages_per_put: Option<f64>,
    get_operation_latency: SimLatency,
    put_operation_latency: SimLatency,
}

#[derive(Deserialize)]
struct SimLatency {
    count: u64,
    p50_s: f64,
    p90_s: f64,
    p99_s: f64,
    p999_s: f64,
    p9999_s: f64,
    max_s: f64,
}

impl SimLatency {
    fn curve(&self, kind: &str) -> Curve {
        let points = [
            (0.5, self.p50_s),
            (0.9, self.p90_s),
            (0.99, self.p99_s),
            (0.999, self.p999_s),
            (0.9999, self.p9999_s),
            (1.0, self.max_s),
        ];
        // Percentiles too high for the number of samples are equal to the maximum, which is the
        // last point of the curve anyway.
        let known = 1.0 - 1.0 / self.count.max(1) as f64;
        let meaningful = |point: &(f64, f64)| point.0 <= known || point.0 >= 1.0;
        let points = points.into_iter().filter(meaningful).collect();
        Curve { kind: kind.to_owned(), samples: self.count, points }
    }
}

fn from_sim(value: Value) -> anyhow::Result<Run> {
    let sim: Sim = serde_json::from_value(value)
        .context("cannot read results of `perf sim`: a field is missing or has the wrong type")?;
    let mut facts = Vec::new();
    fact(&mut facts, "command", sim.command.join(" "));
    fact(&mut facts, "revision", sim.revision.unwrap_or_default());
    let scenario = format!("{}, seed {}, {}", sim.report.scenario, sim.report.seed, sim.mode);
    fact(&mut facts, "scenario", scenario);
    fact(&mut facts, "verdict", sim.report.verdict);
    fact(&mut facts, "intended rate", format!("{}/s", scale::amount(sim.rate_intended)));
    fact(&mut facts, "achieved rate", format!("{}/s", scale::amount(sim.rate_answered)));
    if let Some(messages) = sim.report.messages_per_put {
        fact(&mut facts, "messages per put", format!("{messages:.2}"));
    }
    fact(&mut facts, "machine", machine(sim.cores, &sim.system, ""));
    let kinds =
        [("put", &sim.report.put_operation_latency), ("get", &sim.report.get_operation_latency)];
    let curves = kinds.into_iter().filter(|(_, latency)| latency.count > 0);
    let interval = |second: &SimSecond| Interval {
        at_s: second.second as f64,
        length_s: 1.0,
        count: second.latency.count,
        p50_s: second.latency.p50_s,
        p99_s: second.latency.p99_s,
        histogram: None,
    };
    Ok(Run {
        name: sim.name,
        facts,
        curves: curves.map(|(kind, latency)| latency.curve(kind)).collect(),
        intervals: sim.per_second.iter().map(interval).collect(),
        marks: sim
            .marks
            .into_iter()
            .map(|mark| Mark { at_s: mark.at_s, text: mark.what })
            .collect(),
        partial: false,
    })
}

/// Reads a file of events to mark in charts. Each line contains the seconds since the start of the
/// run, followed by a description. Empty lines and lines that begin with `#` are skipped.
pub(crate) fn read_marks(path: &Path) -> anyhow::Result<Vec<Mark>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the --marks file {}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    let mark = |(number, line): (usize, &str)| {
        let (at, what) = line.trim().split_once(char::is_whitespace).unwrap_or((line, ""));
        let at_s = at.parse().ok().filter(|at: &f64| at.is_finite() && *at >= 0.0);
        let at_s = at_s.with_context(|| {
            format!(
                "--marks {}, line {}: must begin with the seconds since the start of the run, as \
                 in `4.5 leader killed`",
                path.display(),
                number + 1
            )
        })?;
        Ok(Mark { at_s, text: what.trim().to_owned() })
    };
    lines.map(mark).collect()
}
