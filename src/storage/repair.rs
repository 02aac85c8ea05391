//! Repair of a damaged folder: of any damage beyond the torn write that a power cut leaves at the
//! end of the log. A start removes what cannot be trusted, keeps the rest, and marks the replica as
//! rejoining: it must recover the lost data from the other replicas before it votes again
//! (`raft/rejoin.rs`).
//!
//! | damage | what is kept |
//! |---|---|
//! | in the log | the log before the damage, if no gap separates it from the latest snapshot |
//! | in a snapshot, with an older one and the log after that intact | everything |
//! | in a snapshot, otherwise | the older snapshot, if any, and the log entries that follow it |
//!
//! Each block begins with the replica's term and vote, and those in the last block are the latest.
//! So they are not lost while the start of the last block is intact: a repair then keeps them in
//! the file `repair` until they are durable in the repaired log. Before it removes anything else,
//! it marks the votes as lost in the meta record; only the start that completes the repair replaces
//! this mark by the actual loss. So a power cut at any point of a repair is safe.
//!
//! For the operator, a copy of the damaged log file, or the damaged snapshot itself, stays in the
//! folder as `damaged-NAME` until the next repair. The copy is omitted if the disk is full.

use crate::raft::{HardState, Loss, SnapshotId};
use crate::types::{EntryId, Index, NodeId};

use super::disk::{Disk, io_error};
use super::error::StorageError;
use super::identity::Identity;
use super::meta::{Meta, replace};
use super::recovery::{Replay, check_hard_state};
use super::sector::{self, SECTOR_BYTES, Sector, sectors_for};
use super::segment::{self, BlockHeader, Fields, SegmentHeader};
use super::snapshots::end_of;

/// Prefix of the new name of a damaged file that is kept.
const ASIDE: &str = "damaged-";

/// Name of the file that keeps the latest term and vote during a repair.
pub(super) const RECORD_FILE: &str = "repair";
const RECORD_FILE_NEW: &str = "repair.new";
const RECORD_MAGIC: &[u8; 16] = b"bowline repair\n\n";

/// The parts of a damaged folder that a repair removes and keeps. The replica recovers what is
/// removed from the other replicas.
#[derive(Clone, Copy, Debug)]
pub struct Repair<'a> {
    /// The first damage found.
    pub damage: &'a StorageError,
    /// The data that the replica has lost.
    pub loss: Loss,
    /// Id of the last entry that is kept, in the log or in the snapshot; zero if none is kept.
    pub last_kept: EntryId,
}

/// Damage in the log.
#[derive(Debug)]
pub(super) struct LogDamage {
    /// Name of the damaged file.
    pub(super) name: String,
    pub(super) error: StorageError,
    /// The replica's latest term and vote; `None` unless the undamaged part of the log contains
    /// them for certain.
    pub(super) hard_state: Option<HardState>,
}

/// Reads the replica's latest term and vote from the last segment of a damaged log, the segment
/// with sequence number `number`. `before` are the term and vote before the damage; `owner` is the
/// log's owner according to the meta record, with its number of starts. Returns `None` if the
/// latest term and vote are not certain.
pub(super) fn latest_hard_state<D: Disk>(
    disk: &D,
    number: u64,
    before: HardState,
    owner: &Identity,
) -> Option<HardState> {
    let bytes = disk.read(&segment::file_name(number)).ok()?;
    let (hard_state, incarnation) = last_state(&bytes, number, owner)?;
    // Otherwise the segment is an older copy. A start is recorded in the log before the meta
    // record, so the log may be one start ahead.
    let is_current = incarnation == owner.incarnation || incarnation == owner.incarnation + 1;
    (is_current && check_hard_state(before, hard_state).is_ok()).then_some(hard_state)
}

/// Returns the term and vote in the last block of a segment, and the replica's number of starts
/// when it wrote that block; those in the segment's header if the segment has no block. `None` if
/// it is not certain which block is the last one, or if the block's first sector is damaged.
fn last_state(bytes: &[u8], number: u64, owner: &Identity) -> Option<(HardState, u64)> {
    let header = SegmentHeader::decode("", bytes).ok();
    if header.is_some_and(|header| bytes.len() as u64 != sector::offset_of(header.sectors)) {
        return None;
    }
    let salt = segment::salt(owner.cluster, owner.replica, number);
    let read = |(at, bytes)| sector::read(salt, at, bytes);
    let sectors: Vec<Sector<'_>> = (0..).zip(bytes.chunks_exact(SECTOR_BYTES)).map(read).collect();
    let block_of = |sector: &Sector<'_>| match sector {
        Sector::Written { block, .. } => Some(*block),
        Sector::Unwritten | Sector::Damaged => None,
    };
    let is_blank = |at: usize| {
        let bytes = &bytes[at * SECTOR_BYTES..(at + 1) * SECTOR_BYTES];
        sectors[at] == Sector::Unwritten || sector::is_blank_with_flipped_bit(bytes)
    };
    let Some(last) = sectors.iter().skip(1).filter_map(block_of).max() else {
        let header = header.filter(|_| (1..sectors.len()).all(is_blank))?;
        let is_own = (header.cluster, header.replica, header.number)
            == (owner.cluster, owner.replica, number);
        return is_own.then_some((header.hard_state, header.incarnation));
    };
    let first = sectors.iter().skip(1).position(|sector| block_of(sector) == Some(last))? + 1;
    let follows = match last {
        1 => first == 1,
        _ => block_of(&sectors[first - 1]) == Some(last - 1),
    };
    let Sector::Written { payload, .. } = sectors[first] else { return None };
    let block = BlockHeader::decode(payload).ok()?;
    // A later block would begin right after this one, so nothing may have been written there.
    let end = first + sectors_for(block.length as usize);
    let is_last = end > first && end <= sectors.len() && (end..sectors.len()).all(is_blank);
    (follows && is_last).then_some((block.hard_state, block.incarnation))
}

/// Durably writes the latest term and vote to the file `repair`, before a repair removes them from
/// the log. `incarnation` is the number of starts according to the meta record.
pub(super) fn write_record<D: Disk>(
    disk: &mut D,
    incarnation: u64,
    hard_state: HardState,
) -> Result<(), StorageError> {
    let voted_for = hard_state.voted_for;
    let mut stream = RECORD_MAGIC.to_vec();
    stream.extend_from_slice(&incarnation.to_le_bytes());
    stream.extend_from_slice(&hard_state.term.0.to_le_bytes());
    stream.extend_from_slice(&voted_for.unwrap_or(NodeId(0)).0.to_le_bytes());
    stream.extend_from_slice(&[u8::from(voted_for.is_some()), 0]);
    let mut bytes = Vec::with_capacity(SECTOR_BYTES);
    sector::seal(0, 0, 0, &stream, &mut bytes);
    replace(disk, RECORD_FILE, RECORD_FILE_NEW, &bytes)
}

/// Deletes the file `repair` of a repair that is complete, if there is one.
pub(super) fn delete_record<D: Disk>(disk: &mut D) -> Result<(), StorageError> {
    let names = disk.list().map_err(io_error(disk, "list", ""))?;
    if names.iter().any(|name| name == RECORD_FILE) {
        disk.delete(RECORD_FILE).map_err(io_error(disk, "delete", RECORD_FILE))?;
    }
    Ok(())
}

/// Returns the latest term and vote that a repair has saved before a power cut interrupted it;
/// `None` if no repair was interrupted, or if they were not known. `meta` is the folder's meta
/// record.
pub(super) fn unfinished<D: Disk>(disk: &D, meta: &Meta) -> Option<HardState> {
    let bytes = disk.read(RECORD_FILE).ok().filter(|bytes| bytes.len() == SECTOR_BYTES)?;
    let Sector::Written { block: 0, payload } = sector::read(0, 0, &bytes) else { return None };
    let mut fields = Fields::of(payload);
    let is_record = fields.take::<16>() == *RECORD_MAGIC;
    // A completed repair has increased the number of starts in the meta record.
    let is_current = u64::from_le_bytes(fields.take()) == meta.identity.incarnation;
    let (hard_state, _) = fields.hard_state().ok()?;
    (is_record && is_current && meta.loss == Some(Loss::Votes)).then_some(hard_state)
}

/// Returns the names of the damaged snapshot files that the log does not cover, latest first: those
/// whose last entry is after `end`, the last entry of the latest undamaged snapshot, and not in the
/// log. If `resets` is true, the log is to be reset and covers none of them.
pub(super) fn lost_snapshots<'a>(
    names: &'a [String],
    end: Index,
    replay: &Replay,
    resets: bool,
) -> Vec<&'a String> {
    let is_lost = |last: EntryId| last.index > end && (resets || !replay.holds(last));
    let mut lost: Vec<_> = names.iter().filter(|name| end_of(name).is_some_and(is_lost)).collect();
    lost.sort_unstable_by(|one, other| other.cmp(one));
    lost
}

/// Keeps damaged files under other names: copies the log file `log`, unless the disk is full, and
/// renames the first of `snapshots`. Deletes the other `snapshots`, and the files kept by an
/// earlier repair, unless `is_interrupted` says that this is the same repair, continued. Makes the
/// changes durable.
pub(super) fn set_aside<D: Disk>(
    disk: &mut D,
    names: &[String],
    log: Option<&str>,
    snapshots: &[&String],
    is_interrupted: bool,
) -> Result<(), StorageError> {
    let is_replaced = |aside: &str| {
        !is_interrupted
            || log == Some(aside)
            || snapshots.first().is_some_and(|snapshot| *snapshot == aside)
    };
    for name in names.iter().filter(|name| name.strip_prefix(ASIDE).is_some_and(is_replaced)) {
        disk.delete(name).map_err(io_error(disk, "delete", name))?;
    }
    if let Some(log) = log.filter(|log| names.iter().any(|name| name == log)) {
        match copy(disk, log) {
            // The copy is only for the operator's information.
            Err(error) if error.is_disk_full() => {}
            copied => copied?,
        }
    }
    for (place, name) in snapshots.iter().enumerate() {
        if place == 0 {
            let aside = format!("{ASIDE}{name}");
            disk.rename(name, &aside).map_err(io_error(disk, "rename", name))?;
        } else {
            disk.delete(name).map_err(io_error(disk, "delete", name))?;
        }
    }
    disk.sync_dir().map_err(io_error(disk, "sync", ""))
}

fn copy<D: Disk>(disk: &mut D, name: &str) -> Result<(), StorageError> {
    let bytes = disk.read(name).map_err(io_error(disk, "read", name))?;
    let aside = format!("{ASIDE}{name}");
    let mut file = disk.create(&aside, 0).map_err(io_error(disk, "create", &aside))?;
    let written = disk.append(&mut file, 0, &bytes).and_then(|()| disk.sync(&mut file));
    drop(file);
    if written.is_err() {
        disk.delete(&aside).map_err(io_error(disk, "delete", &aside))?;
    }
    written.map_err(io_error(disk, "write", &aside))
}

/// Deletes the segments with numbers above `last`, latest first, and makes this durable. The meta
/// record still refers to them, so a start after a power cut in between finds that they are
/// missing.
pub(super) fn delete_segments_after<D: Disk>(
    disk: &mut D,
    names: &[String],
    last: u64,
) -> Result<(), StorageError> {
    let is_later = |name: &&String| segment::number_of(name).is_some_and(|number| number > last);
    for name in names.iter().rev().filter(is_later) {
        disk.delete(name).map_err(io_error(disk, "delete", name))?;
    }
    disk.sync_dir().map_err(io_error(disk, "sync", ""))
}

/// Returns the state of an empty log that continues after `snapshot`, the latest one. The log
/// begins with a new segment, which takes its owner and size from the header `first`. `names` are
/// the files of the folder.
pub(super) fn restart(
    first: SegmentHeader,
    meta: &Meta,
    names: &[String],
    hard_state: HardState,
    snapshot: Option<SnapshotId>,
) -> Replay {
    let last = names.iter().filter_map(|name| segment::number_of(name)).max().unwrap_or(0);
    let number = last.max(meta.last) + 1;
    let base = snapshot.map_or(EntryId::ZERO, |snapshot| snapshot.last);
    // The snapshot may have become durable before its term did. The replica cannot have voted in
    // this term, since a vote is durable before it is sent.
    let hard_state = if base.term > hard_state.term {
        HardState { term: base.term, voted_for: None }
    } else {
        hard_state
    };
    let header = SegmentHeader { number, base, hard_state, restart: true, ..first };
    Replay::restarted(meta.identity, header)
}

#[cfg(test)]
mod tests;
