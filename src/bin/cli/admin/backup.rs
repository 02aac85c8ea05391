//! `bowline admin backup`: copies a snapshot of a running replica to a file or to standard output.
//!
//! It starts with a linearizable read. Once the replica answers it, the replica has applied every
//! write that any replica acknowledged before. Then the replica takes a snapshot, unless its latest
//! one already covers these writes, and this program reads the snapshot in parts.

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail, ensure};
use bowline::backup::{BackupHeader, BackupSummary, BackupWriter};
use bowline::kv::{SnapshotMark, SnapshotReader};
use serde_json::json;

use super::atomic_file::AtomicFile;
use super::replicas::{Info, TIMEOUT};
use super::snapshot;
use crate::cli::connection::Connection;

/// Timeout of the linearizable read at the start.
const READ_MAX: Duration = Duration::from_secs(10);
/// Timeout of one part of the snapshot. The replica sends no parts while it verifies a snapshot
/// that it has just written.
const PART_MAX: Duration = Duration::from_mins(1);
/// Interval between retries after a temporary error.
const INTERVAL: Duration = Duration::from_millis(100);

/// Writes a backup of the replica at `address` to the file `output`, or to standard output for `-`.
/// Waits up to `wait` for the snapshot.
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
            "a backup is not written to a terminal; redirect standard output, or name a file"
        );
        let (mut stdout, replica, summary) = write_backup(address, wait, stdout.lock())?;
        stdout.flush().context("cannot write to standard output")?;
        // Standard output is the backup, so the report goes to standard error.
        eprintln!("{}", report(replica, &summary, json));
        return Ok(ExitCode::SUCCESS);
    }
    let (file, writer) = AtomicFile::create(output)?;
    let (writer, replica, summary) = write_backup(address, wait, writer)?;
    file.commit(writer)?;
    println!("{}", report(replica, &summary, json));
    Ok(ExitCode::SUCCESS)
}

/// Writes a backup of the replica at `address` to `output`. Returns the output, the id of the
/// replica, and the summary of the backup.
fn write_backup<W: Write>(
    address: &str,
    wait: Duration,
    output: W,
) -> anyhow::Result<(W, u16, BackupSummary)> {
    let created_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let created_at = u64::try_from(created_at.as_millis()).unwrap_or(u64::MAX);
    let mut open = OpenSnapshot::of_latest_state(address, wait)?;
    let fingerprint = open.info.text("raft_cluster_fingerprint").unwrap_or_default();
    let cluster_fingerprint = u128::from_str_radix(fingerprint, 16)
        .context("raft_cluster_fingerprint of the replica is not a number")?;
    let snapshot = open.snapshot;
    let header = BackupHeader { cluster_fingerprint, created_at, snapshot };
    let failed = "cannot write the backup";
    let mut writer = BackupWriter::new(output, header).context(failed)?;
    let mut check = SnapshotReader::checking();
    open.read(|part| {
        check.feed(part).map_err(|error| on_damage(&error))?;
        writer.write(part).context(failed)
    })?;
    let found = check.mark().map_err(|error| on_damage(&error))?;
    open.compare(found)?;
    let (output, summary) = writer.finish().context(failed)?;
    Ok((output, open.replica, summary))
}

/// A snapshot of a running replica that is being read.
pub(super) struct OpenSnapshot {
    connection: Connection,
    pub(super) info: Info,
    /// Id of the replica.
    pub(super) replica: u16,
    pub(super) snapshot: SnapshotMark,
}

impl OpenSnapshot {
    /// Opens a snapshot of the replica at `address` that has every write which any replica
    /// acknowledged before. Waits up to `wait` for it.
    pub(super) fn of_latest_state(address: &str, wait: Duration) -> anyhow::Result<OpenSnapshot> {
        let mut connection = Connection::open(address, READ_MAX)?;
        let read =
            connection.call(&["DBSIZE"]).and_then(|reply| reply.map_err(|error| anyhow!(error)));
        read.map_err(|error| {
            anyhow!(
                "the replica cannot read the latest acknowledged writes, so there is no snapshot \
                 of them: {error}; a majority of the replicas must run"
            )
        })?;
        connection.set_timeout(TIMEOUT);
        let info = Info::ask(&mut connection)?;
        let wanted = info.number("raft_applied_index").unwrap_or(0);
        let replica = info.id().context("the id of the replica is not a number")?;
        snapshot::take(&mut connection, wanted, false, wait)?;
        let id = request(&mut connection, &["SNAPSHOT", "OPEN"])?;
        let id = String::from_utf8_lossy(&id);
        let snapshot: SnapshotMark =
            id.parse().with_context(|| format!("the replica sent the invalid snapshot id {id}"))?;
        ensure!(snapshot.last.index.0 >= wanted, "snapshot {id} does not cover entry {wanted}");
        Ok(OpenSnapshot { connection, info, replica, snapshot })
    }

    /// Reads the snapshot, and calls `use_part` with each part of it.
    pub(super) fn read(
        &mut self,
        mut use_part: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let OpenSnapshot { connection, snapshot, .. } = self;
        let id = snapshot.to_string();
        let mut offset = 0;
        while offset < snapshot.bytes {
            let part = request(connection, &["SNAPSHOT", "READ", &id, &offset.to_string()])?;
            ensure!(
                !part.is_empty() && part.len() as u64 <= snapshot.bytes - offset,
                "the replica sent {} bytes at byte {offset} of {}",
                part.len(),
                snapshot.bytes
            );
            use_part(&part)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Checks that the parts were those of the snapshot that was opened.
    pub(super) fn compare(&self, found: SnapshotMark) -> anyhow::Result<()> {
        let wanted = self.snapshot;
        ensure!(found == wanted, "the replica sent the snapshot {found} instead of {wanted}");
        Ok(())
    }
}

/// Returns the error for a snapshot that is damaged.
pub(super) fn on_damage(error: &dyn std::error::Error) -> anyhow::Error {
    anyhow!(
        "the snapshot on the replica's disk is damaged: {error}; back up another replica, and \
         check the disk of this one"
    )
}

/// Sends a `SNAPSHOT` command, and retries it for up to [`PART_MAX`] after temporary errors, which
/// occur while the replica verifies a snapshot that it has just written.
fn request(connection: &mut Connection, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let until = Instant::now() + PART_MAX;
    loop {
        connection.set_timeout(until.saturating_duration_since(Instant::now()).max(INTERVAL));
        match connection.call_for_bytes(arguments)? {
            Ok(reply) => return Ok(reply),
            Err(error) if error.starts_with("ERR ") => {
                bail!("the replica refuses to send its snapshot: {error}")
            }
            Err(error) => ensure!(
                Instant::now() + INTERVAL < until,
                "no part of the snapshot within {PART_MAX:?}: {error}"
            ),
        }
        thread::sleep(INTERVAL);
    }
}

fn report(replica: u16, summary: &BackupSummary, json: bool) -> String {
    let BackupSummary { header, file_bytes, .. } = summary;
    let index = header.snapshot.last.index.0;
    if json {
        let mut document = description(summary);
        document["replica"] = json!(replica);
        format!("{document:#}")
    } else {
        format!("replica {replica}: backup up to entry {index}, {file_bytes} bytes")
    }
}

/// Describes a backup as JSON.
pub(super) fn description(summary: &BackupSummary) -> serde_json::Value {
    let BackupSummary { header, block_count, file_bytes, checksum } = summary;
    json!({
        "index": header.snapshot.last.index.0,
        "term": header.snapshot.last.term.0,
        "created_at_ms": header.created_at,
        "cluster_fingerprint": format!("{:032x}", header.cluster_fingerprint),
        "bytes": file_bytes,
        "blocks": block_count,
        "checksum": format!("{checksum:08x}"),
    })
}

/// Opens a backup given on the command line; `-` means standard input. Returns its name for
/// messages, and a reader.
pub(super) fn open(file: &Path) -> anyhow::Result<(String, Box<dyn io::Read>)> {
    if file == Path::new("-") {
        return Ok(("on standard input".to_owned(), Box::new(io::stdin().lock())));
    }
    ensure!(!file.is_dir(), "{} is a folder; name the file of a backup", file.display());
    let opened = std::fs::File::open(file)
        .with_context(|| format!("cannot open the backup {}", file.display()))?;
    Ok((file.display().to_string(), Box::new(io::BufReader::new(opened))))
}
