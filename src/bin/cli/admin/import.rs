//! `bowline admin import`: writes the keys of a file in Redis's RDB format, or those of a running
//! Redis or Valkey server, into a running cluster.
//!
//! The keys go through the log like those of any client. Every key replaces one of the same name,
//! so an import that was interrupted can be repeated from the start. Each write is a numbered
//! request of a client session (`ONCE`), so it is applied once, even if the connection breaks or
//! the leader changes.

mod commands;
mod keys;
mod source;
mod stream;
mod target;

use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use bowline::kv::DatabaseId;
use bowline::rdb::{Item, RdbReader, Record, Sink, Stop};
use serde_json::json;

use self::keys::KeySink;
use self::source::Source;
use self::stream::Stream;
use self::target::Target;
use crate::cli::serve::EXIT_DAMAGED;

/// Size of the buffer for reading, in bytes.
const BUFFER_BYTES: usize = 1 << 20;
/// Maximum length in bytes of a value that is written in one step, by `RESTORE`. A longer value is
/// written in parts.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Interval at which the progress is shown.
const PROGRESS: Duration = Duration::from_secs(5);

/// Command-line arguments of `bowline admin import`.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// An RDB file, `-` for standard input, or a running server as redis://[USER@]HOST:PORT, whose
    /// password comes from the environment variable `BOWLINE_SOURCE_PASSWORD`.
    #[arg(value_name = "FILE|URL")]
    source: String,
    /// After the keys of a running server, apply its writes as they come, until SIGINT or SIGTERM.
    #[arg(long)]
    follow: bool,
}

/// What was imported.
#[derive(Debug, Default)]
struct Totals {
    keys: u64,
    /// Keys without a value, which Redis leaves out, too.
    empty: u64,
    /// Libraries of functions that the cluster has accepted.
    libraries: u64,
    /// Libraries of functions that the cluster has refused, with the reason for the first one.
    refused_libraries: u64,
    refusal: String,
}

impl Totals {
    fn report(&self, json: bool) {
        let Totals { keys, empty, libraries, refused_libraries, refusal } = self;
        if json {
            let document = json!({
                "keys": keys,
                "empty_keys_skipped": empty,
                "function_libraries": libraries,
                "function_libraries_refused": refused_libraries,
            });
            println!("{document:#}");
        } else {
            println!("{keys} keys imported");
        }
        if *refused_libraries > 0 {
            eprintln!(
                "bowline: {refused_libraries} function libraries were not imported: {refusal}"
            );
        }
    }
}

/// Imports the source into the cluster with the replica at `address`.
pub(super) fn run(address: &str, arguments: &Arguments, json: bool) -> anyhow::Result<ExitCode> {
    let Arguments { source, follow } = arguments;
    let mut totals = Totals::default();
    if source.contains("://") {
        let mut source = Source::connect(source)?;
        let mut target = Target::connect(address)?;
        let name = format!("the data of {}", source.address);
        let length = import(&name, &mut source.input, &mut target, &mut totals)?;
        source.end_keys(length)?;
        totals.report(json);
        if *follow {
            Stream::new(source)?.follow(&mut target, json)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(!follow, "--follow needs a running server, as redis://HOST:PORT");
    if source == "-" {
        let stdin = io::stdin();
        ensure!(
            !stdin.is_terminal(),
            "there is no RDB file on a terminal; redirect standard input"
        );
        let mut target = Target::connect(address)?;
        let reader = BufReader::with_capacity(BUFFER_BYTES, stdin.lock());
        let name = "the file on standard input";
        import(name, reader, &mut target, &mut totals)?;
    } else {
        let name = format!("the file {source}");
        if let Err(error) = check(open(Path::new(source))?) {
            // Nothing was written yet.
            eprintln!("bowline: {name} {error}; nothing was imported");
            return Ok(ExitCode::from(EXIT_DAMAGED));
        }
        let mut target = Target::connect(address)?;
        import(&name, open(Path::new(source))?, &mut target, &mut totals)?;
    }
    totals.report(json);
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    let shown = path.display();
    ensure!(!path.is_dir(), "{shown} is a folder; name an RDB file");
    let file = File::open(path).with_context(|| format!("cannot open the file {shown}"))?;
    Ok(BufReader::with_capacity(BUFFER_BYTES, file))
}

/// Accepts all items.
struct Accepting;

impl Sink for Accepting {
    fn item(&mut self, _item: Item<'_>) -> Result<(), Stop> {
        Ok(())
    }
}

/// Reads a whole file before anything is imported: its checksum, its databases and its types.
fn check(file: impl Read) -> anyhow::Result<()> {
    let mut reader = RdbReader::new(file)?;
    while let Some(record) = reader.next_record()? {
        match record {
            Record::Database(number) => {
                check_database(number, reader.offset())?;
            }
            Record::Key { .. } => {
                reader.value(0, &mut Accepting)?;
            }
            _ => {}
        }
    }
    reader.finish()?;
    Ok(())
}

/// Returns the database with this number, if a cluster has it.
fn check_database(number: u64, offset: u64) -> anyhow::Result<DatabaseId> {
    DatabaseId::new(number).with_context(|| {
        let last = DatabaseId::COUNT - 1;
        format!(
            "has keys of database {number} at byte {offset}; a cluster has databases 0 to {last}"
        )
    })
}

/// Imports the keys of `input`, whose `name` is for errors. Returns the number of bytes read.
fn import(
    name: &str,
    input: impl Read,
    target: &mut Target,
    totals: &mut Totals,
) -> anyhow::Result<u64> {
    let result = import_records(input, target, totals);
    // Also after an error, so that the message is right.
    let finished = target.finish();
    let count = if finished.is_ok() { "" } else { "up to " };
    result.and_then(|length| finished.map(|()| length)).map_err(|error| {
        let before = totals.keys;
        anyhow!("{name} {error:#}; {count}{before} keys before this were imported, and remain")
    })
}

fn import_records(
    input: impl Read,
    target: &mut Target,
    totals: &mut Totals,
) -> anyhow::Result<u64> {
    let mut reader = RdbReader::new(input)?;
    let mut progress = Instant::now();
    while let Some(record) = reader.next_record()? {
        match record {
            Record::Database(number) => {
                target.database = check_database(number, reader.offset())?;
            }
            Record::Library(source) => {
                // The cluster's answer decides, and no key depends on it.
                let load = [b"FUNCTION".to_vec(), b"LOAD".to_vec(), b"REPLACE".to_vec(), source];
                match target.ask(&load)? {
                    Ok(()) => totals.libraries += 1,
                    Err(error) => {
                        totals.refused_libraries += 1;
                        totals.refusal = error;
                    }
                }
            }
            Record::Key { key, expires_at, .. } => {
                let mut sink = KeySink::new(key, expires_at, PAYLOAD_BYTES_MAX, target);
                let result = reader.value(PAYLOAD_BYTES_MAX, &mut sink);
                if sink.finish(result)? { totals.keys += 1 } else { totals.empty += 1 }
            }
            Record::Fact { .. } | Record::Sizes { .. } => {}
        }
        if progress.elapsed() >= PROGRESS {
            progress = Instant::now();
            eprintln!("{} keys, {} MiB read", totals.keys, reader.offset() >> 20);
        }
    }
    Ok(reader.offset())
}
