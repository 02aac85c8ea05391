//! `perf load`: asks a server at a rate of your choice, or as fast as it answers, and says how long
//! the answers took.
//!
//! | file | what it holds |
//! |---|---|
//! | `options` | the command line, and the plan that it becomes |
//! | `workload`, `keys`, `schedule` | what is asked, about which keys, when |
//! | `work` | one thread's share of it: what comes next, what an answer means |
//! | `engine`, `connection`, `timer` | one thread's sockets |
//! | `requests`, `resp`, `answer` | bytes of the Redis protocol |
//! | `etcd`, `http2`, `hpack` | bytes of etcd's |
//! | `probe` | a first look at the server |
//! | `run` | threads, and their seconds brought together; `live` shows them |
//! | `tally`, `conditions`, `table`, [`schema`] | results |
//! | `history` | what the linearizability checker is given |

mod answer;
mod conditions;
mod connection;
mod engine;
mod etcd;
pub(crate) mod history;
mod hpack;
mod http2;
mod keys;
mod live;
mod machine;
mod options;
mod probe;
mod requests;
mod resp;
mod run;
mod schedule;
pub(crate) mod schema;
mod table;
mod tally;
mod timer;
mod work;
mod workload;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bowline::course::histogram::{begin_intervals, write_interval, write_percentiles};

use crate::files::Files;
use live::Live;
pub(crate) use options::Arguments;
use run::Held;
use schema::{LoadRecord, Loop};
use tally::Tally;
use workload::KINDS;

const JSON: &str = "json";
const PERCENTILES: &str = "hgrm";
const INTERVALS: &str = "hlog";

/// Exit code of a run that was held whole and did not meet its conditions.
const EXIT_FAILED: u8 = 1;
/// Exit code of a run that ended early, or whose results could not all be written.
const EXIT_TROUBLE: u8 = 2;

/// Holds a run and says what came of it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut plan = arguments.plan()?;
    let open = plan.kind == Loop::Open;
    // Before the run, so that a place that can't be written is noticed at once.
    let (name, mut files) = begin_files(arguments)?;
    let target = probe::probe(&mut plan)?;
    let mut intervals: Vec<u8> = Vec::new();
    let mut live = Live::new();
    let began = SystemTime::now();
    let held = run::hold(&plan, target, &mut live, &mut |number, tally| {
        if files.is_none() {
            return;
        }
        let histograms = KINDS.iter().zip(tally.main(open)).filter(|(_, h)| !h.is_empty());
        for (kind, histogram) in histograms {
            let offset = Duration::from_secs(number);
            let interval = Duration::from_secs(1);
            write_interval(&mut intervals, offset, interval, kind.name(), histogram)
                .expect("memory takes all, and kinds are words");
        }
    })?;
    let Held { mut record, total, history } = held;
    record.name = name.unwrap_or_else(|| record.target.protocol.clone());
    record.command = std::env::args().collect();
    record.revision = crate::record::revision();
    record.failed =
        plan.conditions.iter().filter_map(|condition| condition.came_true(&record)).collect();

    // Each output by itself: what one disk has no room for may still be kept elsewhere.
    let mut troubles = Vec::new();
    let mut attempt = |result: anyhow::Result<()>| {
        if let Err(error) = result {
            troubles.push(error);
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
    for trouble in &troubles {
        eprintln!("perf: {trouble:#}");
    }
    if let Some(why) = &record.partial {
        eprintln!("perf: the run ended early, its results are partial: {why}");
    }
    for failed in &record.failed {
        eprintln!("perf: failed: {failed}");
    }
    Ok(if !troubles.is_empty() || record.partial.is_some() {
        ExitCode::from(EXIT_TROUBLE)
    } else if !record.failed.is_empty() {
        ExitCode::from(EXIT_FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// The files of `--out`, and what the run is called.
fn begin_files(arguments: &Arguments) -> anyhow::Result<(Option<String>, Option<Files>)> {
    let Some(path) = &arguments.out else { return Ok((None, None)) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let endings = [JSON, PERCENTILES, INTERVALS];
    let files = Files::begin(folder.unwrap_or(Path::new(".")), &name, &endings)?;
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
    written.context("can't print the results")
}

fn write_json(path: &Path, record: &LoadRecord) -> anyhow::Result<()> {
    let written = File::create(path).map_err(anyhow::Error::from).and_then(|file| {
        let mut out = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut out, record)?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    });
    written.with_context(|| format!("can't write {}", path.display()))
}

fn write_files(
    mut files: Files,
    record: &LoadRecord,
    total: &Tally,
    intervals: &[u8],
    began: SystemTime,
) -> anyhow::Result<()> {
    let open = record.config.kind == Loop::Open;
    write_percentiles(files.get(PERCENTILES), &Tally::all(total.main(open)))
        .context("can't write the percentiles")?;
    let since_epoch = Duration::try_from_secs_f64(record.began_unix_s).ok();
    let began = since_epoch.map_or(began, |since_epoch| SystemTime::UNIX_EPOCH + since_epoch);
    let log = files.get(INTERVALS);
    begin_intervals(log, began)
        .and_then(|()| log.write_all(intervals))
        .context("can't write the interval log")?;
    serde_json::to_writer_pretty(files.get(JSON), record).context("can't write the JSON")?;
    files.finish()?;
    Ok(())
}
