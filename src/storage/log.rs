//! [`Log`]: the durable log of one replica, as the log writer stage uses it.

use std::collections::VecDeque;

use crate::feature_level::FeatureLevel;
use crate::raft::{HardState, Loss};
use crate::record::{Entry, RECORD_BYTES_MAX};
use crate::types::{EntryId, Index, NodeId, Term};

use super::active_segment::ActiveSegment;
use super::disk::{Disk, io_error};
use super::error::StorageError;
use super::failpoint::reach;
use super::identity::Identity;
use super::meta::{META_FILE_NEW, Meta, START_IDS_KEPT};
use super::recovery::{Replay, check_hard_state};
use super::sector::{SECTOR_BYTES, sectors_for};
use super::segment::{self, BLOCK_HEADER_BYTES, BlockBuilder, SegmentHeader};
use super::snapshots::is_snapshot;

/// Maximum size in bytes of a block, the part of the log that one sync writes. Before a block would
/// exceed it, the entries collected so far are synced.
const BLOCK_BYTES_MAX: usize = 2 * RECORD_BYTES_MAX;

/// Options of the on-disk layout of a Raft log. They may change from one start of a replica to the
/// next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Size in bytes of a new segment file. If a single sync writes more than this, its segment
    /// file is made just large enough.
    pub segment_bytes: u64,
    /// Maximum length, from 1 to [`START_IDS_KEPT`], of the list of this replica's latest process
    /// starts. The replica stores this list and sends it to its peers, which use it to detect that
    /// the replica's folder is an older copy. All replicas of a cluster must use the same number.
    pub start_ids_kept: usize,
}

impl LogOptions {
    /// Returns the default options with segments of `segment_bytes` bytes.
    pub const fn with_segment_bytes(segment_bytes: u64) -> LogOptions {
        LogOptions { segment_bytes, start_ids_kept: START_IDS_KEPT }
    }
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions::with_segment_bytes(8 << 20)
    }
}

/// Statistics of a Raft log since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Number of syncs of the log, one per block written. Opening the log counts as one.
    pub syncs: u64,
    /// Number of bytes written to segment files by syncs, including zeros that are written in
    /// advance after small writes.
    pub bytes: u64,
    /// Number of log entries written since the log was opened. An entry that is written again
    /// counts again.
    pub records: u64,
    /// Position at which the log ends, in bytes from the start of the oldest segment file that
    /// existed when the log was opened. Includes segment headers and the unused ends of segments.
    pub end: u64,
    /// Number of segment files that the log currently has.
    pub segments: u64,
    /// Number of segment files deleted because a snapshot contains their entries.
    pub segments_deleted: u64,
    /// Number of times that an installed snapshot replaced all entries of the log.
    pub restarts: u64,
    /// Number of bytes of a torn write that were truncated when the log was opened; 0 if the last
    /// write was complete.
    pub torn_bytes: u64,
}

/// The durable Raft log of one replica, with the replica's term and vote.
///
/// [`Log::append`] collects entries in memory, and [`Log::sync`] makes them durable with one write,
/// called a block. Once any operation has failed, the log refuses all further operations: the
/// process must exit, and the next process recovers the log from the disk.
///
/// Invariants: `durable_last` and `durable_state` are the last entry, term and vote of the last
/// block on disk; `last` and `hard_state` also include unsynced changes.
#[derive(Debug)]
pub struct Log<D: Disk> {
    pub(super) disk: D,
    options: LogOptions,
    pub(super) meta: Meta,
    segment: ActiveSegment<D::File>,
    /// Sequence number and base index of each segment file, oldest first. The base index is the
    /// index that the log's last entry had when the file was created.
    bases: VecDeque<(u64, Index)>,
    /// Checksum of the last block (the entries of one sync). It also covers the preceding block's
    /// checksum, so that recovery detects a block that is missing or from another log.
    chain: u32,
    /// Number of times that the replica had been started when it last wrote to the log; zero if it
    /// has never written to it.
    written_by: u64,
    hard_state: HardState,
    /// The block that the next sync writes: the entries collected since the last sync.
    block: BlockBuilder,
    /// Whether entries, a term or a vote are waiting for the next sync.
    unsynced: bool,
    /// Id of the log's last entry, synced or not. Its term is zero if the term of this entry is
    /// unknown.
    last: EntryId,
    durable_last: EntryId,
    durable_state: HardState,
    /// Reusable write buffer for the sectors that one sync writes.
    image: Vec<u8>,
    failed: bool,
    stats: LogStats,
}

impl<D: Disk> Log<D> {
    /// Creates the files of a new replica in an empty folder. A replica must be bootstrapped only
    /// once. `members` are the ids of all voters, this replica included.
    ///
    /// # Errors
    /// If the folder is not empty or cannot be written.
    pub fn bootstrap(
        disk: &mut D,
        cluster: u128,
        replica: NodeId,
        members: &[NodeId],
    ) -> Result<(), StorageError> {
        create_meta(disk, &Meta::new(cluster, replica, sorted(members), None))
    }

    /// Creates the files of a replica that will be added to an existing cluster, in an empty
    /// folder.
    ///
    /// # Errors
    /// If the folder is not empty or cannot be written.
    pub fn create_joining(
        disk: &mut D,
        cluster: u128,
        replica: NodeId,
    ) -> Result<(), StorageError> {
        create_meta(disk, &Meta::new(cluster, replica, Vec::new(), None))
    }

    /// Creates the files of a new replica in a folder that contains only a snapshot, which is the
    /// initial state of a new cluster. The snapshot must be complete and durable; `level` is its
    /// feature level.
    ///
    /// # Errors
    /// If the folder contains other files or cannot be written.
    pub fn bootstrap_with_snapshot(
        disk: &mut D,
        cluster: u128,
        replica: NodeId,
        members: &[NodeId],
        level: FeatureLevel,
    ) -> Result<(), StorageError> {
        let meta = Meta::new(cluster, replica, sorted(members), None);
        let meta = Meta { feature_level: level, ..meta };
        create_meta_beside(disk, &meta, is_snapshot)
    }

    /// Creates files in an empty folder for a replica whose previous folder was lost, under its old
    /// id. The replica lacks entries and votes that it had acknowledged, so it is marked as
    /// rejoining, and must not vote, until [`Log::end_rejoining`].
    ///
    /// # Errors
    /// If the folder is not empty or cannot be written.
    pub fn bootstrap_rejoining(
        disk: &mut D,
        cluster: u128,
        replica: NodeId,
        members: &[NodeId],
    ) -> Result<(), StorageError> {
        assert!(members.len() > 2, "{} members cannot rebuild one of them", members.len());
        create_meta(disk, &Meta::new(cluster, replica, sorted(members), Some(Loss::Votes)))
    }

    /// Returns a log with the state that recovery has read from its files, and `segment`, its last
    /// one, open for appends. The caller must then immediately call [`Log::write_block`], which
    /// durably records the new start of the replica.
    pub(super) fn resume(
        disk: D,
        options: LogOptions,
        meta: Meta,
        segment: ActiveSegment<D::File>,
        replay: &Replay,
    ) -> Log<D> {
        let mut bases = replay.bases.clone();
        if bases.is_empty() {
            bases.push_back((segment.number(), Index::ZERO));
        }
        assert!(bases.back().is_some_and(|&(number, _)| number == segment.number()), "{bases:?}");
        let last = replay.last();
        let hard_state = replay.durable.hard_state;
        assert!(last.term <= hard_state.term, "{last} beyond term {}", hard_state.term);
        let stats = LogStats {
            end: replay.bytes_before + segment.used_bytes(),
            torn_bytes: u64::from(replay.torn_end - replay.end) * SECTOR_BYTES as u64,
            ..LogStats::default()
        };
        Log {
            disk,
            options,
            meta,
            segment,
            bases,
            chain: replay.chain,
            written_by: replay.incarnation,
            hard_state,
            block: BlockBuilder::default(),
            unsynced: true,
            last,
            durable_last: last,
            durable_state: hard_state,
            image: Vec::new(),
            failed: false,
            stats,
        }
    }

    /// Durably records that the replica is no longer rejoining. The caller must have checked that
    /// the replica again has every entry that it may have acknowledged before the loss.
    ///
    /// # Errors
    /// If this write or an earlier one failed; see [`Log::sync`].
    pub fn end_rejoining(&mut self) -> Result<(), StorageError> {
        self.check_usable()?;
        if self.meta.loss.is_none() {
            return Ok(());
        }
        self.failed = true;
        self.meta.loss = None;
        self.meta.write(&mut self.disk)?;
        self.failed = false;
        Ok(())
    }

    /// Durably records that reading the folder needs a program with the feature level `level`,
    /// unless this is recorded already. Must be called before writing anything that needs the
    /// level.
    ///
    /// # Errors
    /// If this write or an earlier one failed; see [`Log::sync`].
    pub fn raise_feature_level(&mut self, level: FeatureLevel) -> Result<(), StorageError> {
        self.check_usable()?;
        if level <= self.meta.feature_level {
            return Ok(());
        }
        self.failed = true;
        self.meta.feature_level = level;
        self.meta.write(&mut self.disk)?;
        self.failed = false;
        Ok(())
    }

    /// Adds changes to be made durable by the next [`Log::sync`]: a new term and vote (`None` if
    /// unchanged), and copies of consecutive entries. The first of `entries` replaces the log's
    /// entry at its index and all later entries.
    ///
    /// # Errors
    /// If a write failed earlier or during this call. The call itself syncs if more entries are
    /// waiting than one sync may write.
    pub fn append(
        &mut self,
        hard_state: Option<HardState>,
        entries: &[Entry],
    ) -> Result<(), StorageError> {
        self.check_usable()?;
        if let Some(hard_state) = hard_state {
            // What recovery would refuse must not be written.
            assert_eq!(check_hard_state(self.hard_state, hard_state), Ok(()));
            self.unsynced |= hard_state != self.hard_state;
            self.hard_state = hard_state;
        }
        if let Some(first) = entries.first() {
            let (first, last) = (first.index(), self.last.index);
            assert!(first > Index::ZERO && first <= last.next(), "{first} leaves a gap at {last}");
            self.last = EntryId { term: Term(0), index: first.previous() };
        }
        for entry in entries {
            let (last, term) = (self.last, self.hard_state.term);
            assert!(entry.index() == last.index.next(), "{} does not follow {last}", entry.id());
            assert!(entry.term() > Term(0), "{} has no term", entry.id());
            assert!(entry.term() <= term, "{} in a block of term {term}", entry.id());
            assert!(entry.term() >= last.term, "{} follows {last}", entry.id());
            if self.block.len() + entry.record().len() > BLOCK_BYTES_MAX {
                self.sync()?;
            }
            self.block.push(entry);
            self.last = entry.id();
            self.unsynced = true;
        }
        Ok(())
    }

    /// Makes all appended entries, the term and the vote durable with one write and one sync. Does
    /// nothing if they are durable already.
    ///
    /// # Errors
    /// If the write or the sync failed, now or earlier. The contents of the disk are then unknown,
    /// and the log refuses all further operations.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.check_usable()?;
        if self.unsynced { self.write_block(self.meta.identity.incarnation) } else { Ok(()) }
    }

    /// After a snapshot was installed, durably removes all entries from the log, so that it
    /// continues after `last`, the snapshot's last entry. Syncs first, so that an unsynced term or
    /// vote is not lost. A new term must be appended before this call, new entries after it.
    ///
    /// # Errors
    /// If a write or sync failed, now or earlier; see [`Log::sync`].
    pub fn restart_after(&mut self, last: EntryId) -> Result<(), StorageError> {
        self.sync()?;
        let term = self.hard_state.term;
        assert!(last.index > Index::ZERO && last.term <= term, "{last} in term {term}");
        assert!(self.durable_state == self.hard_state, "term {term} is not durable");
        self.failed = true;
        self.begin_segment(1, Some(last))?;
        reach("log", "restarted");
        (self.last, self.durable_last) = (last, last);
        self.delete_before(self.segment.number())?;
        reach("log", "restarted-compacted");
        self.stats.restarts += 1;
        self.failed = false;
        Ok(())
    }

    /// Deletes the segment files that contain only entries up to `index`, which must be durable
    /// both in a snapshot and in the log. Deletion takes time, so the caller should sync and
    /// acknowledge all appended entries first.
    ///
    /// # Errors
    /// If a write or deletion failed, now or earlier; see [`Log::sync`].
    pub fn compact_to(&mut self, index: Index) -> Result<(), StorageError> {
        self.check_usable()?;
        let needed = self.bases.iter().rposition(|&(_, base)| base <= index);
        let Some(place) = needed.filter(|&place| place > 0) else { return Ok(()) };
        self.failed = true;
        self.delete_before(self.bases[place].0)?;
        self.failed = false;
        Ok(())
    }

    /// Returns whether appended entries, a term or a vote are waiting for a sync.
    pub fn has_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Returns the log's statistics since it was opened.
    pub fn stats(&self) -> LogStats {
        LogStats { segments: self.bases.len() as u64, ..self.stats }
    }

    /// Returns the ids of the cluster and the replica that own the log, and how many times the
    /// replica has been started.
    pub fn identity(&self) -> Identity {
        self.meta.identity
    }

    /// Returns the random numbers that the replica drew at its latest starts, one per start; the
    /// last belongs to the current start. Peers use them to distinguish this log from an older copy
    /// of it.
    pub fn start_ids(&self) -> &[u64] {
        &self.meta.start_ids
    }

    /// Returns the ids of all voters of the cluster in ascending order, this replica included.
    pub fn members(&self) -> &[NodeId] {
        &self.meta.members
    }

    /// Returns what the replica has lost and not recovered yet; until then it is rejoining, and
    /// must not vote. `None` if nothing is missing.
    pub fn loss(&self) -> Option<Loss> {
        self.meta.loss
    }

    /// Returns the log's disk, so that a simulation can plan disk faults.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Closes the log and returns its disk. Unsynced entries and an unsynced term or vote are lost.
    pub fn into_disk(self) -> D {
        self.disk
    }

    pub(super) fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Replaces the term and vote with later ones that recovery has found outside of the log's
    /// blocks: in a snapshot that became durable before its term did, or after damage in the log.
    /// Ignores earlier ones.
    pub(super) fn adopt(&mut self, hard_state: HardState) {
        if check_hard_state(self.hard_state, hard_state).is_ok() {
            self.hard_state = hard_state;
            self.unsynced = true;
        }
    }

    fn check_usable(&self) -> Result<(), StorageError> {
        if self.failed {
            return Err(StorageError::Failed { folder: self.disk.describe("") });
        }
        Ok(())
    }

    /// Writes and syncs a block with the collected entries, the term and the vote. The block's
    /// header records `incarnation`, the number of times that the replica has been started.
    pub(super) fn write_block(&mut self, incarnation: u64) -> Result<(), StorageError> {
        assert!(
            incarnation >= self.written_by,
            "a block of start {incarnation} after one of start {}",
            self.written_by
        );
        // Cleared at the end, so that any error on the way fails the log.
        self.failed = true;
        let sectors = sectors_for(self.block.len());
        if !self.segment.fits(sectors) {
            self.begin_segment(sectors, None)?;
        }
        let record_count = self.block.count();
        let (stream, chain) = self.block.finish(self.chain, incarnation, self.hard_state);
        let used = self.segment.used_bytes();
        let written = self.segment.write_block(&mut self.disk, stream, &mut self.image)?;
        self.stats.end += self.segment.used_bytes() - used;
        self.stats.syncs += 1;
        self.stats.bytes += written;
        self.stats.records += u64::from(record_count);
        assert!(self.stats.end > used, "the log ends at {}", self.stats.end);
        self.chain = chain;
        self.written_by = incarnation;
        (self.durable_last, self.durable_state) = (self.last, self.hard_state);
        self.block.clear();
        self.unsynced = false;
        self.failed = false;
        Ok(())
    }

    /// Creates the log's next segment file, with space for a block (the entries of one sync) of
    /// `sectors` sectors. The segment continues after the last durable entry. If `snapshot_end`,
    /// the last entry of an installed snapshot, is given, the segment instead continues after that
    /// entry, and all earlier segments are obsolete.
    fn begin_segment(
        &mut self,
        sectors: usize,
        snapshot_end: Option<EntryId>,
    ) -> Result<(), StorageError> {
        let header = SegmentHeader {
            number: self.segment.number() + 1,
            sectors: segment_sectors(self.options, sectors),
            chain: self.chain,
            blocks_before: self.segment.block_count(),
            base: snapshot_end.unwrap_or(self.durable_last),
            incarnation: self.written_by,
            hard_state: self.durable_state,
            restart: snapshot_end.is_some(),
            ..first_segment(&self.meta, self.options)
        };
        self.stats.end += self.segment.unused_bytes();
        self.segment = ActiveSegment::create(&mut self.disk, &header)?;
        self.stats.end += self.segment.used_bytes();
        assert!(self.segment.fits(sectors), "segment {} is too small", header.number);
        let last = self.bases.back().map_or(0, |&(number, _)| number);
        assert!(last < header.number, "segment {} after {last}", header.number);
        self.bases.push_back((header.number, header.base.index));
        self.meta.last = header.number;
        self.meta.write(&mut self.disk)
    }

    /// Deletes the log segments with numbers below `first`, oldest first. Stores `first` in the
    /// file `meta` beforehand, so that recovery ignores deleted segments that reappear after a
    /// power cut.
    pub(super) fn delete_before(&mut self, first: u64) -> Result<(), StorageError> {
        let current = self.segment.number();
        assert!(first <= current, "segment {first} of {current}");
        assert!(first >= self.meta.first, "segment {first} before {}", self.meta.first);
        self.meta.first = first;
        self.meta.write(&mut self.disk)?;
        reach("log", "compaction-recorded");
        while self.bases[0].0 < first {
            let name = segment::file_name(self.bases[0].0);
            self.disk.delete_in_background(&name).map_err(io_error(&self.disk, "delete", &name))?;
            reach("log", "segment-deleted");
            self.bases.pop_front();
            self.stats.segments_deleted += 1;
        }
        assert!(!self.bases.is_empty(), "all segments were deleted");
        Ok(())
    }
}

/// Writes the first version of the file `meta` (owner, members and the random number of each
/// process start) into an empty folder. Fails if the folder is not empty.
fn create_meta<D: Disk>(disk: &mut D, meta: &Meta) -> Result<(), StorageError> {
    create_meta_beside(disk, meta, |_| false)
}

/// Like [`create_meta`], but the folder may contain files whose names `is_allowed` accepts.
fn create_meta_beside<D: Disk>(
    disk: &mut D,
    meta: &Meta,
    is_allowed: fn(&str) -> bool,
) -> Result<(), StorageError> {
    let names = disk.list().map_err(io_error(disk, "list", ""))?;
    // A bootstrap that a power cut ended leaves at most an unfinished meta record.
    let is_other = |name: &&String| *name != META_FILE_NEW && !is_allowed(name);
    if let Some(other) = names.iter().find(is_other) {
        return Err(StorageError::NotEmpty { file: disk.describe(other) });
    }
    if names.iter().any(|name| name == META_FILE_NEW) {
        disk.delete(META_FILE_NEW).map_err(io_error(disk, "delete", META_FILE_NEW))?;
    }
    meta.write(disk)
}

fn sorted(members: &[NodeId]) -> Vec<NodeId> {
    let mut members = members.to_vec();
    members.sort_unstable();
    members
}

/// Returns the length in sectors of a new log segment whose first block (the entries of one sync)
/// takes `block` sectors.
fn segment_sectors(options: LogOptions, block: usize) -> u32 {
    let wanted = options.segment_bytes / SECTOR_BYTES as u64;
    let needed = 1 + block.max(sectors_for(BLOCK_HEADER_BYTES)) as u64;
    assert!(needed > 1, "a segment needs more than its header");
    u32::try_from(wanted.max(needed)).expect("segments are below 2 TiB")
}

/// Returns the header of a new log's first segment.
pub(super) fn first_segment(meta: &Meta, options: LogOptions) -> SegmentHeader {
    SegmentHeader {
        cluster: meta.identity.cluster,
        replica: meta.identity.replica,
        number: 1,
        sectors: segment_sectors(options, 1),
        chain: 0,
        blocks_before: 0,
        base: EntryId::ZERO,
        incarnation: 0,
        hard_state: HardState::default(),
        restart: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Durable, SnapshotId};
    use crate::record::{EntryKind, RecordBuffer};
    use crate::storage::{Expected, MemDisk};

    const OPTIONS: LogOptions = LogOptions::with_segment_bytes(8 << 10);

    fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
        let mut buffer = RecordBuffer::default();
        let encode = |index| buffer.encode(EntryId::new(term, index), EntryKind::Command, &[7; 90]);
        indexes.map(encode).collect()
    }

    fn term(term: u64) -> HardState {
        HardState { term: Term(term), voted_for: Some(NodeId(2)) }
    }

    fn opened(disk: &mut MemDisk) -> (Log<&mut MemDisk>, Durable, Identity) {
        Log::open(disk, Some(9), NodeId(1), OPTIONS, None).unwrap()
    }

    #[test]
    fn restart_recovers_synced_log_entries_but_not_replaced_ones() {
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, 9, NodeId(1), &[NodeId(1), NodeId(2)]).unwrap();
        let (mut log, durable, identity) = opened(&mut disk);
        assert_eq!(durable, Durable::default());
        assert_eq!(identity, Identity { cluster: 9, replica: NodeId(1), incarnation: 1 });
        log.append(Some(term(3)), &entries(3, 1..100)).unwrap();
        log.append(None, &entries(3, 100..200)).unwrap();
        let before = log.stats().syncs;
        log.sync().unwrap();
        log.sync().unwrap();
        assert_eq!(log.stats().syncs, before + 1, "one block for both appends");
        log.append(Some(term(4)), &entries(4, 50..60)).unwrap();
        log.sync().unwrap();
        log.append(Some(term(5)), &entries(5, 60..61)).unwrap();
        assert!(log.has_unsynced());
        drop(log);
        let (log, durable, identity) = opened(&mut disk);
        assert_eq!(identity.incarnation, 2);
        assert_eq!(durable.hard_state, term(4));
        assert_eq!(durable.entries, [entries(3, 1..50), entries(4, 50..60)].concat());
        assert!(log.stats().segments > 1, "a block larger than a segment has a segment of its own");
    }

    /// A killed process may leave a meta record that is visible, but whose name is not durable
    /// because the folder was not synced.
    #[test]
    fn compacted_segments_are_kept_until_meta_record_is_durable() {
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, 9, NodeId(1), &[NodeId(1), NodeId(2)]).unwrap();
        let (mut log, ..) = opened(&mut disk);
        for first in (1..400).step_by(40) {
            log.append(Some(term(3)), &entries(3, first..first + 40)).unwrap();
            log.sync().unwrap();
        }
        assert!(log.stats().segments > 5);
        // The meta record is created, written, synced and renamed; then the sync of the folder
        // fails.
        log.disk_mut().fail_in(4);
        let error = log.compact_to(Index(300)).unwrap_err().to_string();
        assert!(error.contains("sync the folder"), "{error}");
        drop(log);
        disk.kill();
        let last = EntryId::new(3, 300);
        let snapshot = Some(SnapshotId { last, bytes: 1, checksum: 1 });
        for cut in 0..40 {
            for draw in 0..20 {
                let mut disk = disk.clone();
                disk.power_cut_in(cut);
                let _ = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, snapshot);
                let mut state = cut * 20 + draw;
                disk.restart(&mut |states| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(draw + 1);
                    usize::try_from(state >> 33).unwrap() % states
                });
                let opened = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, snapshot);
                let (_, durable, _) = opened.unwrap_or_else(|error| panic!("cut {cut}: {error}"));
                assert_eq!(durable.entries.len(), 100, "cut {cut}");
            }
        }
    }

    #[test]
    fn rejoining_flag_survives_restarts_until_it_is_cleared() {
        let mut disk = MemDisk::default();
        let members = [NodeId(3), NodeId(1), NodeId(2)];
        Log::bootstrap_rejoining(&mut disk, 9, NodeId(1), &members).unwrap();
        for _ in 0..2 {
            let (mut log, durable, _) = opened(&mut disk);
            assert_eq!((durable.loss, log.loss()), (Some(Loss::Votes), Some(Loss::Votes)));
            assert_eq!(log.members(), [1, 2, 3].map(NodeId));
            log.append(Some(term(3)), &entries(3, 1..2)).unwrap();
            log.sync().unwrap();
        }
        let (mut log, ..) = opened(&mut disk);
        log.end_rejoining().unwrap();
        log.end_rejoining().unwrap();
        drop(log);
        let (log, durable, _) = opened(&mut disk);
        assert_eq!((durable.loss, log.loss()), (None, None));
    }

    #[test]
    fn failure_to_clear_the_rejoining_flag_makes_the_log_unusable() {
        let mut disk = MemDisk::default();
        let members = [NodeId(3), NodeId(1), NodeId(2)];
        Log::bootstrap_rejoining(&mut disk, 9, NodeId(1), &members).unwrap();
        let (mut log, ..) = opened(&mut disk);
        log.disk_mut().fail_in(2);
        assert!(log.end_rejoining().is_err());
        assert!(matches!(log.sync(), Err(StorageError::Failed { .. })));
        drop(log);
        disk.kill();
        assert!(opened(&mut disk).1.loss.is_some(), "a failure before the rename changes nothing");
    }

    #[test]
    fn refused_start_modifies_no_file_and_is_not_counted() {
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, 9, NodeId(1), &[NodeId(1), NodeId(2)]).unwrap();
        drop(opened(&mut disk));
        let before = disk.clone();
        for members in [&[NodeId(1)][..], &[NodeId(1), NodeId(2), NodeId(3)]] {
            let expected = Expected { cluster: None, replica: NodeId(1), members: Some(members) };
            let error = Log::recover(&mut disk, OPTIONS, &expected).unwrap_err();
            assert!(matches!(error, StorageError::OtherMembers { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("belongs to a cluster of replicas 1, 2:"), "{text}");
        }
        let members = [NodeId(2), NodeId(1)];
        let expected = Expected { cluster: None, replica: NodeId(1), members: Some(&members) };
        // Simulates a start that fails elsewhere before it opens the log.
        drop(Log::recover(&mut disk, OPTIONS, &expected).unwrap());
        for name in before.list().unwrap() {
            assert_eq!(disk.read(&name).unwrap(), before.read(&name).unwrap(), "{name}");
        }
        // If any operation of a start fails, either the start is not counted or no peer has learned
        // of it.
        let mut fails = 0;
        loop {
            disk.fail_in(fails);
            let recovered = Log::recover(&mut disk, OPTIONS, &expected).unwrap();
            let opened = recovered.open(None).is_ok();
            disk.kill();
            disk.clear_faults();
            if opened {
                break;
            }
            fails += 1;
        }
        assert!(fails > 3, "only {fails} operations");
        let (log, _, identity) = opened(&mut disk);
        assert_eq!(identity.incarnation, log.start_ids().len() as u64);
        assert!(identity.incarnation <= 4, "{} start ids", identity.incarnation);
    }

    #[test]
    #[should_panic(expected = "leaves a gap")]
    fn appending_a_log_entry_after_an_index_gap_panics() {
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, 9, NodeId(1), &[NodeId(1), NodeId(2)]).unwrap();
        let (mut log, ..) = opened(&mut disk);
        let _ = log.append(Some(term(3)), &entries(3, 2..3));
    }
}
