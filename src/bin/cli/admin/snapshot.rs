//! `bowline admin snapshot`: makes one replica take a snapshot, and waits for it.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use super::replicas::{Info, TIMEOUT};
use crate::cli::connection::Connection;

/// Polling interval. It is longer than the interval at which the replica refreshes the polled
/// fields.
const INTERVAL: Duration = Duration::from_millis(250);

/// Number of polls without a snapshot in progress after which a snapshot is requested again.
const IDLE_COUNT_MAX: usize = 8;

/// Makes the replica at `address` take a snapshot. Returns when a snapshot is complete that covers
/// everything the replica had applied before the call.
pub(super) fn run(address: &str, wait: Duration, json: bool) -> anyhow::Result<ExitCode> {
    let mut connection = Connection::open(address, TIMEOUT)?;
    let before = Info::ask(&mut connection)?;
    let wanted = before.number("raft_applied_index").unwrap_or(0);
    let info = take(&mut connection, wanted, true, wait)?;
    Ok(report(&info, json))
}

/// Makes the replica on this connection take a snapshot that covers the log entry `wanted`, and
/// waits up to `wait` for it to complete. Returns the replica's `INFO` after that. An existing
/// snapshot that covers the entry is enough, unless `must_be_new` is true.
pub(super) fn take(
    connection: &mut Connection,
    wanted: u64,
    must_be_new: bool,
    wait: Duration,
) -> anyhow::Result<Info> {
    let until = Instant::now() + wait;
    // Number of completed snapshots when this function requested one; `None` before that. A
    // snapshot already in progress may not cover the entry.
    let mut requested_after = None;
    // Number of polls after the request that found no snapshot in progress.
    let mut idle_count = 0;
    loop {
        let info = Info::ask(connection)?;
        let is_taking = info.text("rdb_bgsave_in_progress") == Some("1");
        let saves = info.number("rdb_saves").unwrap_or(0);
        let index = info.number("raft_snapshot_index").unwrap_or(0);
        if index >= wanted && !must_be_new {
            return Ok(info);
        }
        if let Some(before) = requested_after
            && !is_taking
        {
            if saves > before && index >= wanted {
                return Ok(info);
            }
            ensure!(
                info.text("rdb_last_bgsave_status") != Some("err"),
                "the snapshot failed; see the log of the replica, and disk_free_bytes in INFO \
                 persistence"
            );
            idle_count += 1;
            if idle_count == IDLE_COUNT_MAX {
                // The replica aborted the snapshot, because it is installing one from the leader.
                (requested_after, idle_count) = (None, 0);
            }
        } else if requested_after.is_none() && !is_taking && connection.call(&["BGSAVE"])?.is_ok() {
            requested_after = Some(saves);
        }
        ensure!(
            Instant::now() < until,
            "the snapshot is not complete after {wait:?}; it continues in the background"
        );
        thread::sleep(INTERVAL.min(until.saturating_duration_since(Instant::now())));
    }
}

fn report(info: &Info, json: bool) -> ExitCode {
    let index = info.number("raft_snapshot_index").unwrap_or(0);
    let id = info.id().unwrap_or(0);
    let bytes = info.number("raft_snapshot_bytes").unwrap_or(0);
    if json {
        println!("{:#}", json!({ "replica": id, "index": index, "bytes": bytes }));
    } else {
        println!("replica {id}: snapshot up to entry {index}, {bytes} bytes");
    }
    ExitCode::SUCCESS
}
