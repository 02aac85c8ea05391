//! The durable log of one replica, as the log writer stage uses it.

use std::collections::VecDeque;

use crate::config::Mutant;
use crate::raft::{Durable, HardState, SnapshotId};
use crate::record::{Entry, RECORD_BYTES_MAX};
use crate::types::{EntryId, Index, NodeId, Term};

use super::Identity;
use super::disk::Disk;
use super::error::StorageError;
use super::failpoint::reach;
use super::meta::{META_FILE_NEW, Meta, OPENINGS_KEPT};
use super::opening::Expected;
use super::recovery::{Replay, check_hard_state};
use super::sector::{self, SECTOR_BYTES, sectors_for};
use super::segment::{self, BLOCK_HEADER_BYTES, BlockBuilder, SegmentHeader};

/// Most bytes that wait for a sync; one that would make them more is preceded by a sync.
const BLOCK_BYTES_MAX: usize = 2 * RECORD_BYTES_MAX;
/// How a segment is called before its header is durable.
pub(super) const UNFINISHED: &str = ".new";

/// How a log is laid out. Any log can be opened with any options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Size of a segment; one larger block gets a segment of its own size.
    pub segment_bytes: u64,
    /// How many openings are remembered, 1 to [`OPENINGS_KEPT`]. The same for all replicas of a
    /// cluster.
    pub openings_kept: usize,
}

impl LogOptions {
    /// Segments of this size, everything else as usual.
    pub const fn with_segment_bytes(segment_bytes: u64) -> LogOptions {
        LogOptions { segment_bytes, openings_kept: OPENINGS_KEPT }
    }
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions::with_segment_bytes(8 << 20)
    }
}

/// What a log has done since it was opened, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Blocks made durable, the one of the opening among them.
    pub syncs: u64,
    /// Bytes written for them.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// How long the log is, from the first segment that was there when it was opened on: with its
    /// headers and with what is left empty at segments' ends, but without what lies ahead.
    pub end: u64,
    /// Segments there are.
    pub segments: u64,
    /// How many were deleted from the front.
    pub segments_deleted: u64,
    /// How often the log began anew behind a snapshot.
    pub restarts: u64,
    /// Bytes of a torn tail that were cut off when the log was opened.
    pub torn_bytes: u64,
}

/// The durable log of one replica.
///
/// [`Log::append`] gathers, [`Log::sync`] makes all of it durable as one block. After an error of
/// either the log refuses everything: the process must end, and the next one reads what is there.
#[derive(Debug)]
pub struct Log<D: Disk> {
    pub(super) disk: D,
    pub(super) options: LogOptions,
    pub(super) meta: Meta,
    pub(super) segment: Segment<D::File>,
    /// Of each segment its number, and the last index before it when it was begun.
    pub(super) bases: VecDeque<(u64, Index)>,
    /// The chain after the last block.
    pub(super) chain: u32,
    /// The opening that wrote the last block.
    pub(super) written_by: u64,
    pub(super) hard_state: HardState,
    pub(super) block: BlockBuilder,
    /// Whether the block in the making says anything new.
    pub(super) waiting: bool,
    /// The last entry, those that wait included. Its term is zero where it is not known.
    pub(super) last: EntryId,
    /// The last entry that is durable.
    pub(super) durable_last: EntryId,
    /// Term and vote that are durable.
    pub(super) durable_state: HardState,
    /// Sectors of the block being written; kept for its memory.
    pub(super) image: Vec<u8>,
    pub(super) failed: bool,
    pub(super) stats: LogStats,
}

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Segment<F> {
    pub(super) file: F,
    pub(super) number: u64,
    pub(super) salt: u32,
    pub(super) sectors: u32,
    /// The first sector that no block fills.
    pub(super) next: u32,
    /// Before this sector all are written: with blocks, or with zeros again.
    pub(super) written: u32,
    /// How many blocks it has.
    pub(super) blocks: u32,
}

impl<D: Disk> Log<D> {
    /// Makes an empty folder the home of a replica of this cluster, whose members, this replica
    /// included, are these. Once in a replica's life.
    ///
    /// # Errors
    /// If the folder is not empty or can't be written.
    pub fn bootstrap(
        disk: &mut D,
        cluster: u128,
        replica: NodeId,
        members: &[NodeId],
    ) -> Result<(), StorageError> {
        make_meta(disk, &Meta::new(cluster, replica, sorted(members), false))
    }

    /// Makes an empty folder the new home of a replica that has lost its old one. It is marked as
    /// rejoining until [`Log::end_rejoining`]: it has forgotten what it acknowledged and voted.
    ///
    /// # Errors
    /// If the folder is not empty or can't be written.
    pub fn bootstrap_rejoining(
        disk: &mut D,
        cluster: u128,
        replica: NodeId,
        members: &[NodeId],
    ) -> Result<(), StorageError> {
        assert!(members.len() > 2, "{} members can't replace one of them", members.len());
        make_meta(disk, &Meta::new(cluster, replica, sorted(members), true))
    }

    /// Recovers a replica's log and opens it at once: [`Log::recover`] and
    /// [`Recovered::open`](super::Recovered::open) for callers with nothing to do in between, and
    /// for which the folder says who the members are.
    ///
    /// # Errors
    /// As these two.
    pub fn open(
        disk: D,
        cluster: Option<u128>,
        replica: NodeId,
        options: LogOptions,
        snapshot: Option<SnapshotId>,
    ) -> Result<(Log<D>, Durable, Identity), StorageError> {
        let expected = Expected { cluster, replica, members: None };
        let recovered = Log::recover(disk, options, &expected)?;
        recovered.check_snapshot(snapshot)?;
        let (log, durable) = recovered.open(snapshot)?;
        let identity = log.identity();
        Ok((log, durable, identity))
    }

    /// Durably ends the state in which [`Log::bootstrap_rejoining`] has left the replica: it holds
    /// again what it may have acknowledged.
    ///
    /// # Errors
    /// If that failed, now or earlier, as with [`Log::sync`].
    pub fn end_rejoining(&mut self) -> Result<(), StorageError> {
        self.check()?;
        if !self.meta.rejoining {
            return Ok(());
        }
        self.failed = true;
        self.meta.rejoining = false;
        self.meta.write(&mut self.disk)?;
        self.failed = false;
        Ok(())
    }

    /// What a replica starts with that has this snapshot. Makes the log follow it if it does not.
    pub(super) fn cut_behind(
        &mut self,
        snapshot: Option<SnapshotId>,
        replay: Replay,
    ) -> Result<Durable, StorageError> {
        let follows = snapshot.is_none_or(|snapshot| replay.holds(snapshot.last));
        let rejoining = self.meta.rejoining;
        let mut durable = Durable { snapshot, rejoining, ..replay.durable };
        let Some(SnapshotId { last, .. }) = snapshot else { return Ok(durable) };
        if !follows {
            if last.term > self.hard_state.term {
                // The snapshot came to the disk before the term in which it was sent did. In such
                // a term this replica has promised nothing: no promise leaves before it is durable.
                self.hard_state = HardState { term: last.term, voted_for: None };
                self.waiting = true;
                durable.hard_state = self.hard_state;
            }
            self.restart_after(last)?;
        }
        let in_snapshot = |entry: &Entry| entry.index() <= last.index;
        let count = durable.entries.partition_point(in_snapshot);
        durable.entries.drain(..if follows { count } else { durable.entries.len() });
        Ok(durable)
    }

    /// Takes in what the next sync is to make durable: term and vote if they changed, and entries
    /// in order without gaps, the first of which replaces whatever the log holds from its index
    /// on. Their records are copied; they are not durable before [`Log::sync`] has returned.
    ///
    /// # Errors
    /// If an earlier write failed, or one now: very much may make a sync of its own.
    pub fn append(
        &mut self,
        hard_state: Option<HardState>,
        entries: &[Entry],
    ) -> Result<(), StorageError> {
        self.check()?;
        if let Some(hard_state) = hard_state {
            // The pair of what recovery checks: a log that can't be read back must not be written.
            assert_eq!(check_hard_state(self.hard_state, hard_state), Ok(()));
            self.waiting |= hard_state != self.hard_state;
            self.hard_state = hard_state;
        }
        if let Some(first) = entries.first() {
            let (first, last) = (first.index(), self.last.index);
            assert!(first > Index::ZERO && first <= last.next(), "{first} leaves a gap at {last}");
            self.last = EntryId { term: Term(0), index: first.previous() };
        }
        for entry in entries {
            let last = self.last.index;
            let term = self.hard_state.term;
            assert!(entry.index() == last.next(), "{} does not follow {last}", entry.id());
            let fits = Term(0) < entry.term() && entry.term() <= term;
            assert!(fits, "{} in a block of term {term}", entry.id());
            if self.block.len() + entry.record().len() > BLOCK_BYTES_MAX {
                self.sync()?;
            }
            self.block.push(entry);
            self.last = entry.id();
            self.waiting = true;
        }
        Ok(())
    }

    /// Makes all of it durable: one write and one sync, or nothing if nothing new waits.
    ///
    /// # Errors
    /// If that failed, now or earlier. What the disk holds is unknown from then on, and the log
    /// refuses everything.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.check()?;
        if self.waiting { self.write_block(self.meta.identity.incarnation) } else { Ok(()) }
    }

    /// Lets the log begin anew behind `last`, the end of a snapshot that is durable, in place of
    /// all that it holds, and makes that durable. What waits is made durable first, for the log
    /// must not forget a term or a vote among it. So a job's term and vote are handed over before,
    /// and its entries after.
    ///
    /// # Errors
    /// If that failed, now or earlier, as with [`Log::sync`].
    pub fn restart_after(&mut self, last: EntryId) -> Result<(), StorageError> {
        self.sync()?;
        let term = self.hard_state.term;
        assert!(last.index > Index::ZERO && last.term <= term, "{last} in term {term}");
        // Until all has gone well.
        self.failed = true;
        self.begin_segment(1, Some(last))?;
        reach("log", "begun-anew");
        (self.last, self.durable_last) = (last, last);
        self.delete_before(self.segment.number)?;
        reach("log", "begun-anew-alone");
        self.stats.restarts += 1;
        self.failed = false;
        Ok(())
    }

    /// Deletes the segments all of whose entries are in a snapshot that is durable, which holds
    /// all up to `index`; what the log holds up to there must be durable too. For after a sync, and
    /// after what waits for that: to delete files takes time.
    ///
    /// # Errors
    /// If that failed, now or earlier, as with [`Log::sync`].
    pub fn compact_to(&mut self, index: Index) -> Result<(), StorageError> {
        self.check()?;
        let needed = self.bases.iter().rposition(|&(_, base)| base <= index);
        let Some(place) = needed.filter(|&place| place > 0) else { return Ok(()) };
        self.failed = true;
        self.delete_before(self.bases[place].0)?;
        self.failed = false;
        Ok(())
    }

    /// Whether anything waits for a sync.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// What it has done and holds.
    pub fn stats(&self) -> LogStats {
        LogStats { segments: self.bases.len() as u64, ..self.stats }
    }

    /// Whose log it is.
    pub fn identity(&self) -> Identity {
        self.meta.identity
    }

    /// The random numbers of the latest openings, this one's last: by these peers tell the log from
    /// an older copy of itself.
    pub fn openings(&self) -> &[u64] {
        &self.meta.openings
    }

    /// The ids of all voters of the cluster, ascending; this replica is one of them.
    pub fn members(&self) -> &[NodeId] {
        &self.meta.members
    }

    /// Whether the replica has lost what it had acknowledged, and does not hold it again yet.
    pub fn is_rejoining(&self) -> bool {
        self.meta.rejoining
    }

    /// The disk, for whoever simulates one and decides what goes wrong with it.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Gives the disk back, without whatever waits for a sync.
    pub fn into_disk(self) -> D {
        self.disk
    }

    fn check(&self) -> Result<(), StorageError> {
        if self.failed {
            return Err(StorageError::Failed { folder: self.disk.describe("") });
        }
        Ok(())
    }

    pub(super) fn write_block(&mut self, incarnation: u64) -> Result<(), StorageError> {
        // Until all has gone well.
        self.failed = true;
        let sectors = sectors_for(self.block.len());
        if sectors as u64 > u64::from(self.segment.sectors - self.segment.next) {
            self.begin_segment(sectors, None)?;
        }
        let count = self.block.count();
        let (stream, chain) = self.block.finish(self.chain, incarnation, self.hard_state);
        let segment = &mut self.segment;
        let (disk, first) = (&mut self.disk, segment.next);
        let end = first + as_sectors(sectors);
        let mut ahead = 0;
        if end > segment.written {
            if sectors * SECTOR_BYTES <= SMALL_BLOCK_BYTES {
                ahead = (segment.sectors - end).min(AHEAD_SECTORS);
            }
            segment.written = end + ahead;
        }
        let image = &mut self.image;
        image.clear();
        image.reserve((sectors + ahead as usize) * SECTOR_BYTES + IMAGE_ALIGN);
        // Some disks take bytes from where they lie, if that is at a round address.
        let start = image.as_ptr().align_offset(IMAGE_ALIGN).min(IMAGE_ALIGN);
        image.resize(start, 0);
        sector::seal(segment.salt, first, segment.blocks + 1, stream, image);
        image.resize(image.len() + ahead as usize * SECTOR_BYTES, 0);
        let image = &image[start..];
        let offset = u64::from(first) * SECTOR_BYTES as u64;
        let name = segment::file_name(segment.number);
        disk.write_at(&mut segment.file, offset, image)
            .map_err(|source| io(disk, "writing to", &name, source))?;
        let synced = disk.sync(&mut segment.file);
        if disk.mutant() != Some(Mutant::IgnoreFailedSync) {
            synced.map_err(|source| io(disk, "syncing", &name, source))?;
        }
        segment.next += as_sectors(sectors);
        segment.blocks += 1;
        self.stats.end += bytes_of(as_sectors(sectors));
        self.chain = chain;
        self.written_by = incarnation;
        (self.durable_last, self.durable_state) = (self.last, self.hard_state);
        self.stats.syncs += 1;
        self.stats.bytes += image.len() as u64;
        self.stats.records += u64::from(count);
        self.block.clear();
        if self.image.capacity() > IMAGE_BYTES_KEPT {
            self.image = Vec::new();
        }
        self.waiting = false;
        self.failed = false;
        Ok(())
    }

    /// Begins a segment that has room for a block of so many sectors, and that follows the ones
    /// before it, or the end of a snapshot. All blocks are durable.
    fn begin_segment(
        &mut self,
        sectors: usize,
        snapshot_end: Option<EntryId>,
    ) -> Result<(), StorageError> {
        let header = SegmentHeader {
            number: self.segment.number + 1,
            sectors: sectors_of(self.options, sectors),
            chain: self.chain,
            blocks_before: self.segment.blocks,
            base: snapshot_end.unwrap_or(self.durable_last),
            incarnation: self.written_by,
            hard_state: self.durable_state,
            restart: snapshot_end.is_some(),
            ..first_segment(&self.meta, self.options)
        };
        self.stats.end += bytes_of(self.segment.sectors - self.segment.next);
        self.segment = make_segment(&mut self.disk, &header)?;
        self.stats.end += bytes_of(self.segment.next);
        self.bases.push_back((header.number, header.base.index));
        self.meta.last = header.number;
        self.meta.write(&mut self.disk)
    }

    /// Deletes the segments before `first`, the oldest first. The meta record says before that
    /// they are not needed, so it is the same whether a power cut brings some of them back.
    pub(super) fn delete_before(&mut self, first: u64) -> Result<(), StorageError> {
        self.meta.first = first;
        self.meta.write(&mut self.disk)?;
        reach("log", "cut-noted");
        while self.bases[0].0 < first {
            let name = segment::file_name(self.bases[0].0);
            let disk = &mut self.disk;
            disk.delete_in_background(&name)
                .map_err(|source| io(disk, "deleting", &name, source))?;
            reach("log", "segment-deleted");
            self.bases.pop_front();
            self.stats.segments_deleted += 1;
        }
        Ok(())
    }
}

/// A file system sets room aside without writing it, and notes what has been written at the first
/// write to each place: with a sync that is one more write, to its journal, and one more wait. So a
/// small block has a stretch of zeros written behind it, and the next blocks find that done: a sync
/// of theirs takes two thirds of the time. Large blocks would gain little for twice the bytes.
const AHEAD_SECTORS: u32 = 512;
const SMALL_BLOCK_BYTES: usize = 32 << 10;

/// Where in memory a block's sectors begin: at a multiple of this.
const IMAGE_ALIGN: usize = 4_096;
/// Memory for a block's sectors that is kept from one block to the next.
const IMAGE_BYTES_KEPT: usize = 1 << 20;

/// Writes the first meta record of an empty folder.
fn make_meta<D: Disk>(disk: &mut D, meta: &Meta) -> Result<(), StorageError> {
    let names = disk.list().map_err(|source| io(disk, "listing", "", source))?;
    // A bootstrap that a power cut ended leaves at most an unfinished meta record.
    if let Some(other) = names.iter().find(|name| *name != META_FILE_NEW) {
        return Err(StorageError::NotEmpty { file: disk.describe(other) });
    }
    for name in &names {
        disk.delete(name).map_err(|source| io(disk, "deleting", name, source))?;
    }
    meta.write(disk)
}

/// The same ids, ascending.
fn sorted(members: &[NodeId]) -> Vec<NodeId> {
    let mut members = members.to_vec();
    members.sort_unstable();
    members
}

pub(super) fn io<D: Disk>(
    disk: &D,
    doing: &'static str,
    name: &str,
    source: std::io::Error,
) -> StorageError {
    StorageError::Io { doing, file: disk.describe(name), source }
}

pub(super) fn bytes_of(sectors: u32) -> u64 {
    u64::from(sectors) * SECTOR_BYTES as u64
}

fn as_sectors(count: usize) -> u32 {
    u32::try_from(count).expect("a block is within its segment")
}

/// How many sectors a segment gets whose first block fills so many.
fn sectors_of(options: LogOptions, block: usize) -> u32 {
    let wanted = options.segment_bytes / SECTOR_BYTES as u64;
    let needed = 1 + block.max(sectors_for(BLOCK_HEADER_BYTES)) as u64;
    u32::try_from(wanted.max(needed)).expect("segments are below 2 TiB")
}

pub(super) fn first_segment(meta: &Meta, options: LogOptions) -> SegmentHeader {
    SegmentHeader {
        cluster: meta.identity.cluster,
        replica: meta.identity.replica,
        number: 1,
        sectors: sectors_of(options, 1),
        chain: 0,
        blocks_before: 0,
        base: EntryId::ZERO,
        incarnation: 0,
        hard_state: HardState::default(),
        restart: false,
    }
}

/// Makes a segment's file, durable with its header and its name.
pub(super) fn make_segment<D: Disk>(
    disk: &mut D,
    header: &SegmentHeader,
) -> Result<Segment<D::File>, StorageError> {
    let name = segment::file_name(header.number);
    let unfinished = format!("{name}{UNFINISHED}");
    let bytes = u64::from(header.sectors) * SECTOR_BYTES as u64;
    let mut file = disk
        .create(&unfinished, bytes)
        .map_err(|source| io(disk, "making and preallocating", &unfinished, source))?;
    disk.write_at(&mut file, 0, &header.encode())
        .map_err(|source| io(disk, "writing to", &unfinished, source))?;
    disk.sync(&mut file).map_err(|source| io(disk, "syncing", &unfinished, source))?;
    disk.rename(&unfinished, &name).map_err(|source| io(disk, "renaming", &unfinished, source))?;
    if disk.mutant() != Some(Mutant::UnsyncedSegmentName) {
        disk.sync_dir().map_err(|source| io(disk, "syncing", "", source))?;
    }
    Ok(Segment {
        file,
        number: header.number,
        salt: header.salt(),
        sectors: header.sectors,
        next: 1,
        written: 1,
        blocks: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EntryKind, RecordBuffer};
    use crate::storage::MemDisk;
    use crate::types::EntryId;

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
    fn what_was_synced_is_there_again_and_a_replaced_tail_is_not() {
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
        assert_eq!(log.stats().syncs, before + 1, "one block for all that waited");
        log.append(Some(term(4)), &entries(4, 50..60)).unwrap();
        log.sync().unwrap();
        log.append(Some(term(5)), &entries(5, 60..61)).unwrap();
        assert!(log.is_waiting());
        drop(log);
        let (log, durable, identity) = opened(&mut disk);
        assert_eq!(identity.incarnation, 2);
        assert_eq!(durable.hard_state, term(4));
        assert_eq!(durable.entries, [entries(3, 1..50), entries(4, 50..60)].concat());
        assert!(log.stats().segments > 1, "a block larger than a segment got one of its own");
    }

    /// A meta record may be read out of memory whose name is not on the disk: a killed process had
    /// put it there, and did not come to sync the folder.
    #[test]
    fn nothing_is_deleted_since_a_meta_record_says_so_that_is_not_durable() {
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, 9, NodeId(1), &[NodeId(1), NodeId(2)]).unwrap();
        let (mut log, ..) = opened(&mut disk);
        for first in (1..400).step_by(40) {
            log.append(Some(term(3)), &entries(3, first..first + 40)).unwrap();
            log.sync().unwrap();
        }
        assert!(log.stats().segments > 5);
        // The meta record is made, written, synced and renamed; then the folder's sync fails.
        log.disk_mut().fail_in(4);
        let error = log.compact_to(Index(300)).unwrap_err().to_string();
        assert!(error.contains("syncing the folder"), "{error}");
        drop(log);
        disk.kill();
        let last = EntryId::new(3, 300);
        let snapshot = Some(SnapshotId { last, bytes: 1, checksum: 1 });
        for cut in 0..40 {
            for luck in 0..20 {
                let mut disk = disk.clone();
                disk.power_cut_in(cut);
                let _ = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, snapshot);
                let mut state = cut * 20 + luck;
                disk.restart(&mut |states| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(luck + 1);
                    usize::try_from(state >> 33).unwrap() % states
                });
                let opened = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, snapshot);
                let (_, durable, _) = opened.unwrap_or_else(|error| panic!("cut {cut}: {error}"));
                assert_eq!(durable.entries.len(), 100, "cut {cut}");
            }
        }
    }

    #[test]
    fn rejoining_mark_survives_restarts_until_it_is_ended() {
        let mut disk = MemDisk::default();
        let members = [NodeId(3), NodeId(1), NodeId(2)];
        Log::bootstrap_rejoining(&mut disk, 9, NodeId(1), &members).unwrap();
        for _ in 0..2 {
            let (mut log, durable, _) = opened(&mut disk);
            assert!(durable.rejoining && log.is_rejoining());
            assert_eq!(log.members(), [1, 2, 3].map(NodeId));
            log.append(Some(term(3)), &entries(3, 1..2)).unwrap();
            log.sync().unwrap();
        }
        let (mut log, ..) = opened(&mut disk);
        log.end_rejoining().unwrap();
        log.end_rejoining().unwrap();
        drop(log);
        let (log, durable, _) = opened(&mut disk);
        assert!(!durable.rejoining && !log.is_rejoining());
    }

    #[test]
    fn failed_rejoining_end_fails_the_log() {
        let mut disk = MemDisk::default();
        let members = [NodeId(3), NodeId(1), NodeId(2)];
        Log::bootstrap_rejoining(&mut disk, 9, NodeId(1), &members).unwrap();
        let (mut log, ..) = opened(&mut disk);
        log.disk_mut().fail_in(2);
        assert!(log.end_rejoining().is_err());
        assert!(matches!(log.sync(), Err(StorageError::Failed { .. })));
        drop(log);
        disk.kill();
        assert!(opened(&mut disk).1.rejoining, "what failed before the rename changed nothing");
    }

    #[test]
    fn start_that_fails_before_the_end_counts_no_opening() {
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
        // Whatever else fails before the log is opened.
        drop(Log::recover(&mut disk, OPTIONS, &expected).unwrap());
        for name in before.list().unwrap() {
            assert_eq!(disk.read(&name).unwrap(), before.read(&name).unwrap(), "{name}");
        }
        // An opening that fails at any operation is not counted either, or is known to nobody.
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
        assert_eq!(identity.incarnation, log.openings().len() as u64);
        assert!(identity.incarnation <= 4, "{} openings", identity.incarnation);
    }

    #[test]
    #[should_panic(expected = "leaves a gap")]
    fn a_gap_is_a_broken_protocol() {
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, 9, NodeId(1), &[NodeId(1), NodeId(2)]).unwrap();
        let (mut log, ..) = opened(&mut disk);
        let _ = log.append(Some(term(3)), &entries(3, 2..3));
    }
}
