//! `bowline admin export`: writes all keys of a running cluster to a file in Redis's RDB format, or
//! to standard output.
//!
//! Reads a snapshot of one replica like `bowline admin backup`, and converts it part by part.

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bowline::kv::SnapshotReader;
use serde_json::json;

use super::atomic_file::AtomicFile;
use super::backup::{OpenSnapshot, on_damage};

const FAILED: &str = "cannot write the RDB file";

/// What was exported.
struct Summary {
    replica: u16,
    /// Index of the last log entry that the file covers.
    index: u64,
    keys: u64,
    file_bytes: u64,
}

/// Writes the keys of the replica at `address` to the file `output`, or to standard output if that
/// is `-`. Waits up to `wait` for the snapshot.
pub(super) fn run(
    address: &str,
    output: &Path,
    wait: Duration,
    json: bool,
) -> anyhow::Result<ExitCode> {
    if output == Path::new("-") {
        let stdout = io::stdout();
        ensure!(
            !stdout.is_terminal(),
            "an RDB file is not written to a terminal; redirect standard output, or name a file"
        );
        let mut stdout = stdout.lock();
        let summary = write_file(address, wait, &mut stdout)?;
        stdout.flush().context("cannot write to standard output")?;
        // Standard output carries the file, so the report goes to standard error.
        eprintln!("{}", report(&summary, json));
        return Ok(ExitCode::SUCCESS);
    }
    let (file, mut writer) = AtomicFile::create(output)?;
    let summary = write_file(address, wait, &mut writer)?;
    file.commit(writer)?;
    println!("{}", report(&summary, json));
    Ok(ExitCode::SUCCESS)
}

fn write_file(address: &str, wait: Duration, output: &mut impl Write) -> anyhow::Result<Summary> {
    let mut open = OpenSnapshot::of_latest_state(address, wait)?;
    let mut reader = SnapshotReader::exporting();
    let mut file_bytes = 0;
    open.read(|part| {
        reader.feed(part).map_err(|error| on_damage(&error))?;
        let written = reader.take_exported();
        file_bytes += written.len() as u64;
        output.write_all(&written).context(FAILED)
    })?;
    let (rest, keys, found) = reader.finish_export().map_err(|error| on_damage(&error))?;
    open.compare(found)?;
    output.write_all(&rest).context(FAILED)?;
    file_bytes += rest.len() as u64;
    let index = open.snapshot.last.index.0;
    Ok(Summary { replica: open.replica, index, keys, file_bytes })
}

fn report(summary: &Summary, json: bool) -> String {
    let Summary { replica, index, keys, file_bytes } = summary;
    if json {
        let document =
            json!({ "replica": replica, "index": index, "keys": keys, "bytes": file_bytes });
        format!("{document:#}")
    } else {
        format!("replica {replica}: {keys} keys up to entry {index}, {file_bytes} bytes")
    }
}
