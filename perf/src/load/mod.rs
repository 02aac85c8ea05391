//! `perf load`: sends requests to a server, at a given rate or as fast as the server replies, and
//! reports latencies.
//!
//! | file | content |
//! |---|---|
//! | `options` | the command line, and the validated plan of a run |
//! | `workload`, `keys`, `schedule` | which operations, on which keys, when |
//! | `generator` | one thread's operations: which is next, what a reply means |
//! | `engine`, `connection`, `timer` | one thread's sockets |
//! | `encoder`, `resp`, `reply` | the Redis protocol |
//! | `etcd`, `http2`, `hpack` | etcd's protocol |
//! | `nats` | NATS's protocol |
//! | `probe` | checks the server before the run |
//! | `run` | starts the threads and merges their statistics; `progress` shows them |
//! | `stats`, `conditions`, `table`, [`schema`] | statistics, and how they are printed |
//! | `history` | recorded histories for the linearizability checker |

mod conditions;
mod connection;
mod encoder;
mod engine;
mod etcd;
mod generator;
pub(crate) mod history;
mod hpack;
mod http2;
mod keys;
mod machine;
mod nats;
mod options;
mod probe;
mod progress;
mod reply;
mod resp;
mod run;
mod schedule;
pub(crate) mod schema;
mod stats;
mod table;
mod timer;
mod workload;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bowline::course::histogram::{begin_intervals, write_interval, write_percentiles};

use crate::files::Files;
pub(crate) use options::Arguments;
use progress::ProgressLine;
use run::Finished;
use schema::{LoadRecord, Loop};
use stats::Stats;
use workload::KINDS;

const JSON: &str = "json";
const PERCENTILES: &str = "hgrm";
const INTERVALS: &str = "hlog";

/// Exit code of a complete run that meets a `--fail-if` condition.
const EXIT_FAILED: u8 = 1;
/// Exit code of a run that ended early, or whose results could not all be written.
const EXIT_ERROR: u8 = 2;

/// Runs `perf load`: applies the load that the arguments describe, and writes the results. Returns
/// the exit code: 0, `EXIT_FAILED` or `EXIT_ERROR`.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut plan = arguments.plan()?;
    let open = plan.kind == Loop::Open;
    // Created before the run, so that an unwritable folder is noticed at once.
    let (name, mut files) = begin_files(arguments)?;
    let target = probe::probe(&mut plan)?;
    let mut intervals: Vec<u8> = Vec::new();
    let mut progress = ProgressLine::new();
    let began = SystemTime::now();
    let finished = run::execute(&plan, target, &mut progress, &mut |number, stats| {
        if files.is_none() {
            return;
        }
        let histograms = KINDS.iter().zip(stats.main(open)).filter(|(_, h)| !h.is_empty());
        for (kind, histogram) in histograms {
            let offset = Duration::from_secs(number);
            let interval = Duration::from_secs(1);
            write_interval(&mut intervals, offset, interval, kind.name(), histogram)
                .expect("writing to memory cannot fail, and names of kinds are valid tags");
        }
    })?;
    let Finished { mut record, total, history } = finished;
    record.name = name.unwrap_or_else(|| record.target.protocol.clone());
    record.command = std::env::args().collect();
    record.revision = crate::record::revision();
    record.failed =
        plan.conditions.iter().filter_map(|condition| condition.check(&record)).collect();

    // Each output is written separately: if one cannot be written, the others are kept.
    let mut output_errors = Vec::new();
    let mut attempt = |result: anyhow::Result<()>| {
        if let Err(error) = result {
            output_errors.push(error);
        }
    };
    attempt(print(arguments, &record));
    if let Some(path) = arguments.json.as_deref().filter(|path| *path != Path::new("-")) {
        attempt(write_json(path, &record));
    }
    if let Some(path) = &arguments.history {
        attempt(history::write_file(path, &history));
    }
    if let Some(files) = files.take() {
        attempt(write_files(files, &record, &total, &intervals, began));
    }
    for error in &output_errors {
        eprintln!("perf: {error:#}");
    }
    if let Some(why) = &record.partial {
        eprintln!("perf: the run ended early, its results are partial: {why}");
    }
    for failed in &record.failed {
        eprintln!("perf: failed: {failed}");
    }
    Ok(if !output_errors.is_empty() || record.partial.is_some() {
        ExitCode::from(EXIT_ERROR)
    } else if !record.failed.is_empty() {
        ExitCode::from(EXIT_FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Creates the output files for the option `--out`. Returns the name of the run and the open files;
/// both are `None` without `--out`.
fn begin_files(arguments: &Arguments) -> anyhow::Result<(Option<String>, Option<Files>)> {
    let Some(path) = &arguments.out else { return Ok((None, None)) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let endings = [JSON, PERCENTILES, INTERVALS];
    let files = Files::create(folder.unwrap_or(Path::new(".")), &name, &endings)?;
    Ok((Some(name), Some(files)))
}

fn print(arguments: &Arguments, record: &LoadRecord) -> anyhow::Result<()> {
    let text = if arguments.json.as_deref() == Some(Path::new("-")) {
        serde_json::to_string_pretty(record)? + "\n"
    } else if arguments.csv {
        table::csv(record)
    } else {
        table::table(record)
    };
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("cannot print the results to standard output")
}

fn write_json(path: &Path, record: &LoadRecord) -> anyhow::Result<()> {
    let written = File::create(path).map_err(anyhow::Error::from).and_then(|file| {
        let mut out = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut out, record)?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    });
    written.with_context(|| {
        format!("cannot write {}; check free space and permissions", path.display())
    })
}

fn write_files(
    mut files: Files,
    record: &LoadRecord,
    total: &Stats,
    intervals: &[u8],
    began: SystemTime,
) -> anyhow::Result<()> {
    let open = record.config.kind == Loop::Open;
    write_percentiles(files.get(PERCENTILES), &Stats::all(total.main(open)))
        .with_context(|| files.cannot_write(PERCENTILES))?;
    let since_epoch = Duration::try_from_secs_f64(record.began_unix_s).ok();
    let began = since_epoch.map_or(began, |since_epoch| SystemTime::UNIX_EPOCH + since_epoch);
    let log = files.get(INTERVALS);
    begin_intervals(log, began)
        .and_then(|()| log.write_all(intervals))
        .with_context(|| files.cannot_write(INTERVALS))?;
    serde_json::to_writer_pretty(files.get(JSON), record)
        .with_context(|| files.cannot_write(JSON))?;
    files.finish()?;
    Ok(())
}
