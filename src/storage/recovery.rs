//! Recovery: reads the log from the bytes of all its segments, or reports the damage in them.
//!
//! This module does no I/O: `opening.rs` reads the files and acts on the result. A torn tail, which
//! is a last block that a power cut left incomplete, is truncated; damage is reported as an error.
//! One rule distinguishes the two: each block was synced before the next one was written, and the
//! last block of a segment was synced before the next segment was created. So unwritten sectors are
//! normal only in the last block of the last segment. Any sector that is unwritten although a later
//! block has a written sector was lost after its sync.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::config::Mutant;
use crate::raft::{Durable, HardState};
use crate::record::Entry;
use crate::types::{EntryId, Index, Term};

use super::error::StorageError;
use super::identity::Identity;
use super::sector::{self, PAYLOAD_BYTES, SECTOR_BYTES, Sector, offset_of, sectors_for};
use super::segment::{self, BLOCK_HEADER_BYTES, BlockHeader, SegmentHeader, check_owner};

/// State of log recovery while the segments are read one after the other: the entries recovered so
/// far, and the position in the segment files.
#[derive(Debug)]
pub(super) struct Replay {
    /// Ids of the cluster and the replica that the segments must belong to.
    owner: Identity,
    /// Term, vote and log entries recovered so far. The entries start after `base`.
    pub(super) durable: Durable,
    /// Id of the entry before the first one in `durable`. Its term is zero if unknown, which
    /// happens when a later entry replaced entries whose segments have been deleted.
    pub(super) base: EntryId,
    /// Checksum of the last block read (the entries of one sync), on which the checksum of the next
    /// block builds; zero before the first block.
    pub(super) chain: u32,
    /// Sequence number of the segment that follows the latest installed snapshot by which the log
    /// was replaced; all earlier segments are obsolete. `None` if the log was never replaced.
    pub(super) restarted: Option<u64>,
    /// Number of times that the replica had been started when it wrote the last block read (the
    /// entries of one sync); zero before the first block.
    pub(super) incarnation: u64,
    /// Path of the last segment file read.
    file: String,
    /// Sequence number of the segment file to read next.
    pub(super) next: u64,
    /// Sequence number and base index of each segment read. The base index is the index that the
    /// log's last entry had when the segment file was created.
    pub(super) bases: VecDeque<(u64, Index)>,
    /// Total length in bytes of all segment files read, except the last one.
    pub(super) bytes_before: u64,
    /// Number of complete blocks (each written by one sync) in the last segment read.
    pub(super) blocks: u32,
    /// Header of the last segment read; `None` before the first segment.
    pub(super) header: Option<SegmentHeader>,
    /// Index of the sector after the last complete block (the entries of one sync) in the last
    /// segment read.
    pub(super) end: u32,
    /// Index of the sector after a torn block at the end of the log: the entries of a sync that a
    /// power cut left incomplete; equal to `end` if there is no torn block.
    pub(super) torn_end: u32,
    /// Index of the first sector of the last complete block (the entries of one sync) in the last
    /// segment read; equal to `end` if the segment has no blocks.
    pub(super) last_block: u32,
    /// Contents of the sectors of the last complete block (the entries of one sync) in the last
    /// segment read.
    pub(super) last_image: Vec<u8>,
    /// Safety rule that recovery breaks on purpose, for mutation tests of the correctness checkers;
    /// `None` outside of such tests.
    pub(super) mutant: Option<Mutant>,
}

impl Replay {
    /// Returns the state of recovery before any segment has been read. `first` is the number of the
    /// first segment to read.
    pub(super) fn new(owner: Identity, first: u64) -> Replay {
        Replay {
            owner,
            durable: Durable::default(),
            base: EntryId::ZERO,
            chain: 0,
            incarnation: 0,
            file: String::new(),
            next: first,
            bases: VecDeque::new(),
            restarted: None,
            bytes_before: 0,
            blocks: 0,
            header: None,
            end: 0,
            torn_end: 0,
            last_block: 0,
            last_image: Vec::new(),
            mutant: None,
        }
    }

    /// Returns the state of a log that begins with a segment with this header and has no blocks
    /// yet.
    pub(super) fn restarted(owner: Identity, header: SegmentHeader) -> Replay {
        let durable = Durable { hard_state: header.hard_state, ..Durable::default() };
        Replay {
            durable,
            base: header.base,
            next: header.number + 1,
            bases: [(header.number, header.base.index)].into(),
            header: Some(header),
            end: 1,
            torn_end: 1,
            last_block: 1,
            ..Replay::new(owner, header.number)
        }
    }

    /// Recovers the entries of the next segment, the file at the path `file` with the contents
    /// `bytes`. `is_last` says whether it is the log's last segment, the only one that may end with
    /// a torn block.
    pub(super) fn segment(
        &mut self,
        file: &str,
        bytes: &[u8],
        is_last: bool,
    ) -> Result<(), StorageError> {
        let damaged = |sector: u32, what: String| StorageError::Damaged {
            file: file.to_owned(),
            offset: offset_of(sector),
            what,
        };
        let header = SegmentHeader::decode(file, bytes)?;
        check_owner(file, (header.cluster, header.replica), &self.owner)?;
        self.check_header(file, &header)?;
        if bytes.len() as u64 != offset_of(header.sectors) {
            let what = format!("{} bytes instead of {} sectors", bytes.len(), header.sectors);
            return Err(damaged(header.sectors, what));
        }
        let (salt, count, mutant) = (header.salt(), header.sectors, self.mutant);
        let sectors = Sectors { salt, count, bytes, mutant };
        file.clone_into(&mut self.file);
        if let Some(before) = self.header {
            self.bytes_before += offset_of(before.sectors);
        }
        if self.header.is_none() {
            (self.chain, self.incarnation) = (header.chain, header.incarnation);
            self.durable.hard_state = header.hard_state;
            self.base = header.base;
        } else if header.restart {
            self.durable.entries.clear();
            self.base = header.base;
            self.restarted = Some(header.number);
        }
        self.bases.push_back((header.number, header.base.index));
        self.next = self.next.saturating_add(1);
        self.blocks = 0;
        self.header = Some(header);
        let read = self.segment_blocks(&sectors, is_last);
        // A later segment may turn out to be damaged, so this may be the last one.
        self.last_image = sectors.image(self.last_block, self.end).to_vec();
        read.map_err(|(sector, what)| damaged(sector, what))
    }

    /// Recovers the entries of all blocks of a segment. The error is the index of a damaged sector,
    /// and a description of the damage; the state is then that before the damaged block, with all
    /// sectors from that block on as the torn tail.
    fn segment_blocks(
        &mut self,
        sectors: &Sectors<'_>,
        is_last: bool,
    ) -> Result<(), (u32, String)> {
        let count = sectors.count;
        (self.last_block, self.end, self.torn_end) = (1, 1, count);
        loop {
            let (at, number) = (self.end, self.blocks + 1);
            match sectors.block(at, number) {
                Found::Whole { stream, end } => {
                    assert!(at < end && end <= count, "block from {at} to {end} of {count}");
                    self.block(&stream).map_err(|what| (at, what))?;
                    assert!(number == self.blocks + 1, "block {number} after {}", self.blocks);
                    self.blocks = number;
                    (self.last_block, self.end) = (at, end);
                }
                Found::Damaged { sector, what } => return Err((sector, what)),
                Found::Missing { sector } => {
                    let torn_end = sectors.torn_end(at, number, sector)?;
                    if torn_end > at && !is_last {
                        let what = "the block is incomplete, but a later segment exists";
                        return Err((at, what.to_owned()));
                    }
                    assert!(
                        self.last_block <= at && at <= torn_end && torn_end <= count,
                        "block at {}, end {at}, torn to {torn_end} of {count} sectors",
                        self.last_block
                    );
                    self.torn_end = torn_end;
                    return Ok(());
                }
            }
        }
    }

    /// Checks that the segment with this header directly continues the segments read before.
    fn check_header(&self, file: &str, header: &SegmentHeader) -> Result<(), StorageError> {
        let damaged = |file: &str, sector: u32, what: String| {
            let (file, offset) = (file.to_owned(), offset_of(sector));
            Err(StorageError::Damaged { file, offset, what })
        };
        let number = self.next;
        if header.number != number {
            let found = header.number;
            let what = format!("segment {found} under the name of segment {number}");
            return damaged(file, 0, what);
        }
        if self.header.is_none() {
            let is_whole = number == 1 && !header.restart;
            if is_whole && (header.base, header.chain) != (EntryId::ZERO, 0) {
                let what = "the first segment claims to continue another one".to_owned();
                return damaged(file, 0, what);
            }
            return Ok(());
        }
        let (before, blocks) = (header.blocks_before, self.blocks);
        if before > blocks {
            let what =
                format!("the file ends after {blocks} blocks, but {file} continues after {before}");
            return damaged(&self.file, self.end, what);
        }
        if self.mutant == Some(Mutant::IgnoreChain) {
            return Ok(());
        }
        if (before, header.chain) != (blocks, self.chain) {
            let what = format!(
                "the segment continues {before} blocks with chain {:08x}, but {} has {blocks} \
                 blocks with chain {:08x}: one of them is an older copy or of another log",
                header.chain, self.file, self.chain
            );
            return damaged(file, 0, what);
        }
        // With the same chain, the state before the segment must be the same.
        let state = (self.incarnation, self.durable.hard_state);
        let is_next = header.restart || header.base == self.last();
        if !is_next || (header.incarnation, header.hard_state) != state {
            let what = format!("the header contradicts the state at the end of {}", self.file);
            return damaged(file, 0, what);
        }
        Ok(())
    }

    /// Returns the id of the last recovered entry; `base`, the entry before the log, if there are
    /// no entries.
    pub(super) fn last(&self) -> EntryId {
        self.durable.entries.last().map_or(self.base, Entry::id)
    }

    /// Returns whether the recovered log contains the entry `id` or starts right after it. If so,
    /// all earlier entries match too (the Log Matching Property in Figure 3 of the Raft paper).
    pub(super) fn holds(&self, id: EntryId) -> bool {
        if id.index == self.base.index {
            // An entry with an unknown term is committed, so there is only one.
            return id == self.base || self.base.term == Term(0);
        }
        let place = id.index.0.checked_sub(self.base.index.0 + 1);
        let place = place.and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.durable.entries.get(place)).is_some_and(|it| it.id() == id)
    }

    /// Adds the entries, the term and the vote of a complete block (one sync) to the recovered
    /// state. `stream` is the encoded block: its header and records.
    fn block(&mut self, stream: &[u8]) -> Result<(), String> {
        let header = BlockHeader::decode(stream)?;
        assert!(header.length as usize == stream.len(), "{} bytes", stream.len());
        let chain = segment::chain(self.chain, stream);
        if chain != header.chain && self.mutant != Some(Mutant::IgnoreChain) {
            return Err(format!(
                "the block does not continue the one before it: chain {:08x}, expected {chain:08x}",
                header.chain
            ));
        }
        if header.incarnation < self.incarnation {
            return Err(format!(
                "a block of start {} after one of start {}",
                header.incarnation, self.incarnation
            ));
        }
        check_hard_state(self.durable.hard_state, header.hard_state)?;
        // A copy of exactly the block's size: records share its memory while they live, and must
        // not keep a whole segment's.
        let mut records = Bytes::copy_from_slice(&stream[BLOCK_HEADER_BYTES..]);
        if let Err(what) = self.block_entries(&mut records, &header) {
            // Some of the block's entries may have replaced others.
            self.forget_log();
            return Err(what);
        }
        self.durable.hard_state = header.hard_state;
        self.incarnation = header.incarnation;
        self.chain = chain;
        Ok(())
    }

    fn block_entries(&mut self, records: &mut Bytes, header: &BlockHeader) -> Result<(), String> {
        for _ in 0..header.count {
            let entry = Entry::decode(records).map_err(|error| error.to_string())?;
            self.entry(entry, header.hard_state.term)?;
        }
        if !records.is_empty() {
            return Err(format!("{} bytes after the block's last record", records.len()));
        }
        Ok(())
    }

    /// Discards all entries and segments, so that a repair keeps none of them.
    fn forget_log(&mut self) {
        self.durable.entries.clear();
        self.bases.clear();
        (self.base, self.header) = (EntryId::ZERO, None);
    }

    /// Adds an entry to the recovered log. Replaces an earlier entry at the same index, and removes
    /// all entries after it. `term` is the current term of the replica when it wrote the entry.
    fn entry(&mut self, entry: Entry, term: Term) -> Result<(), String> {
        let (last, entries) = (self.last(), &mut self.durable.entries);
        if entry.index() == Index::ZERO || entry.index() > last.index.next() {
            return Err(format!("entry {} leaves a gap after {last}", entry.id()));
        }
        if entry.index() <= self.base.index {
            // It replaces entries of deleted segments. These were deleted because of a snapshot
            // with a later end; `Recovered::check_snapshot` checks that it exists.
            entries.clear();
            self.base = EntryId { term: Term(0), index: entry.index().previous() };
        }
        let keep = usize::try_from(entry.index().0 - self.base.index.0 - 1).unwrap_or(usize::MAX);
        assert!(keep <= entries.len(), "entry {} after {} entries", entry.id(), entries.len());
        let before = keep.checked_sub(1).map_or(self.base.term, |place| entries[place].term());
        if entry.term() < before || entry.term() > term {
            return Err(format!(
                "entry {} of a block in term {term} follows one of term {before}",
                entry.id()
            ));
        }
        entries.truncate(keep);
        entries.push(entry);
        debug_assert_eq!(entries.len(), keep + 1);
        Ok(())
    }
}

/// Checks that the replica's term does not decrease from the state `before` to the later state
/// `after`, and that the vote does not change within a term (Figure 2 of the Raft paper).
pub(super) fn check_hard_state(before: HardState, after: HardState) -> Result<(), String> {
    let changed_vote = after.term == before.term
        && before.voted_for.is_some()
        && after.voted_for != before.voted_for;
    if after.term < before.term || changed_vote {
        return Err(format!("{after:?} after {before:?}"));
    }
    Ok(())
}

/// Contents of one segment file, split into sectors.
struct Sectors<'a> {
    salt: u32,
    count: u32,
    bytes: &'a [u8],
    mutant: Option<Mutant>,
}

/// State of the block (the entries of one sync) that should start at a given sector of a segment
/// file.
enum Found {
    /// The block is complete: `stream` is its contents (header and records), and `end` the index of
    /// the sector after it.
    Whole { stream: Vec<u8>, end: u32 },
    /// The block is absent or incomplete; `sector` is the index of the first unwritten sector.
    Missing { sector: u32 },
    /// The block is damaged in a way that a power cut cannot cause; `sector` is the index of the
    /// damaged sector, and `what` describes the damage.
    Damaged { sector: u32, what: String },
}

impl Sectors<'_> {
    fn image(&self, from: u32, to: u32) -> &[u8] {
        assert!(from <= to && to <= self.count, "sectors {from} to {to} of {}", self.count);
        &self.bytes[from as usize * SECTOR_BYTES..to as usize * SECTOR_BYTES]
    }

    fn read(&self, number: u32) -> Sector<'_> {
        let bytes = self.image(number, number + 1);
        match sector::read(self.salt, number, bytes) {
            Sector::Damaged if self.mutant == Some(Mutant::IgnoreSectorChecksum) => {
                sector::read_unchecked(bytes)
            }
            Sector::Damaged if self.mutant == Some(Mutant::TruncateDamagedSector) => {
                Sector::Unwritten
            }
            found => found,
        }
    }

    /// Reads block number `number` (the entries of one sync) of the segment; it starts at sector
    /// `first`.
    fn block(&self, first: u32, number: u32) -> Found {
        let mut stream = Vec::new();
        let (mut at, mut end) = (first, first + 1);
        while at < end {
            if at >= self.count {
                return Found::Missing { sector: self.count };
            }
            match self.read(at) {
                Sector::Unwritten => return Found::Missing { sector: at },
                Sector::Damaged => {
                    return Found::Damaged { sector: at, what: "wrong checksum".to_owned() };
                }
                Sector::Written { block, .. } if block != number => {
                    let what = format!("a sector of block {block} instead of {number}");
                    return Found::Damaged { sector: at, what };
                }
                Sector::Written { payload, .. } => stream.extend_from_slice(payload),
            }
            if at == first {
                let length = u32::from_le_bytes(stream[..4].try_into().expect("a whole sector"));
                let sectors = sectors_for(length as usize);
                if (length as usize) < BLOCK_HEADER_BYTES
                    || sectors as u64 > u64::from(self.count - first)
                {
                    let what = format!("block {number} claims {length} bytes");
                    return Found::Damaged { sector: first, what };
                }
                end = first + u32::try_from(sectors).expect("within the segment");
                stream.reserve_exact((sectors - 1) * PAYLOAD_BYTES);
            }
            at += 1;
        }
        let length = u32::from_le_bytes(stream[..4].try_into().expect("a whole sector"));
        stream.truncate(length as usize);
        assert!(stream.len() == length as usize, "{} of {length} bytes", stream.len());
        Found::Whole { stream, end }
    }

    /// Checks that an incomplete block at the end of the log is torn by a power cut rather than
    /// damaged. `number` is the block's number, `first` its first sector, and `missing` its first
    /// unwritten sector; all written sectors after `missing` must belong to this block. Returns the
    /// sector after the last written one, or `first` if none was written. The error is the index of
    /// a damaged sector, and a description of the damage.
    fn torn_end(&self, first: u32, number: u32, missing: u32) -> Result<u32, (u32, String)> {
        assert!(
            first <= missing && missing <= self.count,
            "block at {first}, missing {missing} of {} sectors",
            self.count
        );
        let mut torn_end = if missing > first { missing } else { first };
        for at in missing..self.count {
            match self.read(at) {
                Sector::Unwritten => {}
                Sector::Written { block, .. } if block == number => torn_end = at + 1,
                Sector::Written { .. } if self.mutant == Some(Mutant::TruncateDamage) => {
                    torn_end = at + 1;
                }
                Sector::Written { block, .. } => {
                    let what = format!(
                        "zeros in block {number}, which was complete when block {block} was written"
                    );
                    return Err((missing, what));
                }
                Sector::Damaged => return Err((at, "wrong checksum".to_owned())),
            }
        }
        Ok(torn_end)
    }
}

/// Decodes a log segment of any replica on its own, without the rest of its log. For fuzz tests.
///
/// # Errors
/// If [`Log`](super::Log) cannot have written these bytes.
pub fn check_segment(bytes: &[u8]) -> Result<Durable, StorageError> {
    let header = SegmentHeader::decode("the file", bytes)?;
    let owner = Identity { cluster: header.cluster, replica: header.replica, incarnation: 0 };
    let mut replay = Replay::new(owner, header.number);
    replay.segment("the file", bytes, true)?;
    Ok(replay.durable)
}
