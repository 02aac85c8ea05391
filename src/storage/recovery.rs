//! From the bytes of all segments to the log that they hold, or to what is wrong with them.
//!
//! Pure: takes bytes, gives facts; `log.rs` does what has to be done. One rule tells a torn tail,
//! which is cut, from damage, which is refused (design.md §7 item 6): each block was synced before
//! the next was begun, and a segment's last before the next segment was made. So sectors may be
//! missing in the last block of the last segment only, and anything written behind a missing
//! sector that is not of the same block proves that it was once there.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::config::Mutant;
use crate::raft::{Durable, HardState};
use crate::record::Entry;
use crate::types::{EntryId, Index, Term};

use super::Identity;
use super::error::StorageError;
use super::sector::{self, PAYLOAD_BYTES, SECTOR_BYTES, Sector, sectors_for};
use super::segment::{self, BLOCK_HEADER_BYTES, BlockHeader, SegmentHeader, check_owner};

/// What was read so far, block by block.
#[derive(Debug)]
pub(super) struct Replay {
    /// Whose log it must be.
    owner: Identity,
    /// The log as the blocks so far leave it, behind `base`.
    pub(super) durable: Durable,
    /// The entry before the log's first. Its term is zero where it is not known, since entries
    /// were replaced whose segments are deleted.
    pub(super) base: EntryId,
    /// The chain after the last block.
    pub(super) chain: u32,
    /// The last segment, if any, behind others that do not count since the log began anew with it.
    pub(super) restarted: Option<u64>,
    /// The opening that wrote the last block; zero before the first.
    pub(super) incarnation: u64,
    /// The last segment's file.
    file: String,
    /// The number of the next segment.
    pub(super) next: u64,
    /// Of each segment read its number, and the last index before it.
    pub(super) bases: VecDeque<(u64, Index)>,
    /// Bytes of the segments before the last.
    pub(super) bytes_before: u64,
    /// How many blocks the last segment has.
    pub(super) blocks: u32,
    /// The last segment's header.
    pub(super) header: Option<SegmentHeader>,
    /// The first sector of the last segment that no block fills.
    pub(super) end: u32,
    /// Behind `end`, where the last torn sector ends; equal to `end` if nothing was torn.
    pub(super) torn_end: u32,
    /// The first sector of the last segment's last block; equal to `end` if it has none.
    pub(super) last_block: u32,
    /// The sectors of that block as they are.
    pub(super) last_image: Vec<u8>,
    /// The rule that is to be broken, if any.
    pub(super) mutant: Option<Mutant>,
}

impl Replay {
    /// Nothing read yet of a log that begins with the segment `first`.
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

    /// Reads the next segment, whose file is `file`; `is_last` if no other follows.
    pub(super) fn segment(
        &mut self,
        file: &str,
        bytes: &[u8],
        is_last: bool,
    ) -> Result<(), StorageError> {
        let damaged = |sector: u32, what: String| StorageError::Damaged {
            file: file.to_owned(),
            offset: u64::from(sector) * SECTOR_BYTES as u64,
            what,
        };
        let header = SegmentHeader::decode(file, bytes)?;
        check_owner(file, (header.cluster, header.replica), &self.owner)?;
        self.check_header(file, &header)?;
        if bytes.len() as u64 != u64::from(header.sectors) * SECTOR_BYTES as u64 {
            let what = format!("{} bytes where {} sectors belong", bytes.len(), header.sectors);
            return Err(damaged(header.sectors, what));
        }
        let (salt, count, mutant) = (header.salt(), header.sectors, self.mutant);
        let sectors = Sectors { salt, count, bytes, mutant };
        file.clone_into(&mut self.file);
        if let Some(before) = self.header {
            self.bytes_before += u64::from(before.sectors) * SECTOR_BYTES as u64;
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
        self.next += 1;
        self.blocks = 0;
        self.header = Some(header);
        let mut at = 1;
        self.last_block = at;
        loop {
            let number = self.blocks + 1;
            match sectors.block(at, number) {
                Found::Whole { stream, end } => {
                    self.block(&stream).map_err(|what| damaged(at, what))?;
                    self.blocks = number;
                    (self.last_block, at) = (at, end);
                }
                Found::Damaged { sector, what } => return Err(damaged(sector, what)),
                Found::Missing { sector } => {
                    let torn_end = sectors
                        .behind(at, number, sector)
                        .map_err(|(sector, what)| damaged(sector, what))?;
                    if torn_end > at && !is_last {
                        let what = "the block is incomplete, though a later segment was begun";
                        return Err(damaged(at, what.to_owned()));
                    }
                    (self.end, self.torn_end) = (at, torn_end);
                    if is_last {
                        self.last_image = sectors.image(self.last_block, at).to_vec();
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Whether the segment follows those read so far.
    fn check_header(&self, file: &str, header: &SegmentHeader) -> Result<(), StorageError> {
        let damaged = |file: &str, sector: u32, what: String| {
            let offset = u64::from(sector) * SECTOR_BYTES as u64;
            Err(StorageError::Damaged { file: file.to_owned(), offset, what })
        };
        let number = self.next;
        if header.number != number {
            let found = header.number;
            let what = format!("it is segment {found} under the name of segment {number}");
            return damaged(file, 0, what);
        }
        if self.header.is_none() {
            let is_whole = number == 1 && !header.restart;
            if is_whole && (header.base, header.chain) != (EntryId::ZERO, 0) {
                let what = "it is the first segment and continues another".to_owned();
                return damaged(file, 0, what);
            }
            return Ok(());
        }
        let (before, blocks) = (header.blocks_before, self.blocks);
        if before > blocks {
            let what = format!("it ends after {blocks} blocks, {file} continues {before}");
            return damaged(&self.file, self.end, what);
        }
        if self.mutant == Some(Mutant::IgnoreChain) {
            return Ok(());
        }
        if (before, header.chain) != (blocks, self.chain) {
            let what = format!(
                "it continues {before} blocks with chain {:08x}, but {} has {blocks} with {:08x}: \
                 one of the two is an older copy, or of another log",
                header.chain, self.file, self.chain
            );
            return damaged(file, 0, what);
        }
        // The chain is that of the same blocks, so all that follows from them is the same.
        let state = (self.incarnation, self.durable.hard_state);
        let is_next = header.restart || header.base == self.last();
        if !is_next || (header.incarnation, header.hard_state) != state {
            let what = format!("it does not say what {} comes to", self.file);
            return damaged(file, 0, what);
        }
        Ok(())
    }

    /// The last entry, or the base.
    pub(super) fn last(&self) -> EntryId {
        self.durable.entries.last().map_or(self.base, Entry::id)
    }

    /// Whether the log holds that entry, and so all before it.
    pub(super) fn holds(&self, id: EntryId) -> bool {
        if id.index == self.base.index {
            // Where its term is not known it is committed all the same, and there is but one.
            return id == self.base || self.base.term == Term(0);
        }
        let place = id.index.0.checked_sub(self.base.index.0 + 1);
        let place = place.and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.durable.entries.get(place)).is_some_and(|it| it.id() == id)
    }

    /// Takes in a whole block.
    fn block(&mut self, stream: &[u8]) -> Result<(), String> {
        let header = BlockHeader::decode(stream)?;
        let chain = segment::chain(self.chain, stream);
        if chain != header.chain && self.mutant != Some(Mutant::IgnoreChain) {
            return Err(format!(
                "the block does not follow the one before it: chain {:08x}, expected {chain:08x}",
                header.chain
            ));
        }
        if header.incarnation < self.incarnation {
            return Err(format!(
                "the block was written by opening {} after one of opening {}",
                header.incarnation, self.incarnation
            ));
        }
        check_hard_state(self.durable.hard_state, header.hard_state)?;
        // A copy of the block's own size: a record shares its memory for as long as it lives,
        // and should not keep a segment's padding.
        let mut records = Bytes::copy_from_slice(&stream[BLOCK_HEADER_BYTES..]);
        for _ in 0..header.count {
            let entry = Entry::decode(&mut records).map_err(|error| error.to_string())?;
            self.entry(entry, header.hard_state.term)?;
        }
        if !records.is_empty() {
            return Err(format!("{} bytes behind the block's last record", records.len()));
        }
        self.durable.hard_state = header.hard_state;
        self.incarnation = header.incarnation;
        self.chain = chain;
        Ok(())
    }

    /// Puts an entry in its place; what was there and behind is replaced.
    fn entry(&mut self, entry: Entry, term: Term) -> Result<(), String> {
        let (last, entries) = (self.last(), &mut self.durable.entries);
        if entry.index() == Index::ZERO || entry.index() > last.index.next() {
            return Err(format!("entry {} leaves a gap behind {last}", entry.id()));
        }
        if entry.index() <= self.base.index {
            // It replaces what stood in segments that are deleted. That was possible because the
            // snapshot reaches further than they did; who opens the log checks that it does.
            entries.clear();
            self.base = EntryId { term: Term(0), index: entry.index().previous() };
        }
        let keep = usize::try_from(entry.index().0 - self.base.index.0 - 1).unwrap_or(usize::MAX);
        let before = keep.checked_sub(1).map_or(self.base.term, |place| entries[place].term());
        if entry.term() < before || entry.term() > term {
            return Err(format!(
                "entry {} of a block in term {term} follows one of term {before}",
                entry.id()
            ));
        }
        entries.truncate(keep);
        entries.push(entry);
        Ok(())
    }
}

/// A term never falls, and a vote once given in it stays (Figure 2).
pub(super) fn check_hard_state(before: HardState, after: HardState) -> Result<(), String> {
    let changed_vote = after.term == before.term
        && before.voted_for.is_some()
        && after.voted_for != before.voted_for;
    if after.term < before.term || changed_vote {
        return Err(format!("{after:?} after {before:?}"));
    }
    Ok(())
}

/// The sectors of one segment.
struct Sectors<'a> {
    salt: u32,
    count: u32,
    bytes: &'a [u8],
    mutant: Option<Mutant>,
}

/// What is at the place of a block.
enum Found {
    /// The block, and the sector behind it.
    Whole { stream: Vec<u8>, end: u32 },
    /// Its first unwritten sector.
    Missing { sector: u32 },
    /// Something that can't have come of a power cut.
    Damaged { sector: u32, what: String },
}

impl Sectors<'_> {
    fn image(&self, from: u32, to: u32) -> &[u8] {
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

    /// The block `number`, which begins at the sector `first`.
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
                    return Found::Damaged { sector: at, what: "a checksum differs".to_owned() };
                }
                Sector::Written { block, .. } if block != number => {
                    let what = format!("a sector of block {block} where {number} belongs");
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
        Found::Whole { stream, end }
    }

    /// Looks at all that stands behind the sector `missing` of block `number`, which begins at
    /// `first`: only other sectors of that block may. Returns where the last of them ends, or
    /// `first` if there is none at all.
    fn behind(&self, first: u32, number: u32, missing: u32) -> Result<u32, (u32, String)> {
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
                        "zeros in block {number}, which was whole when block {block} was begun"
                    );
                    return Err((missing, what));
                }
                Sector::Damaged => return Err((at, "a checksum differs".to_owned())),
            }
        }
        Ok(torn_end)
    }
}

/// Reads the bytes of a segment, whoever it belongs to, as the first of a log: for fuzzers, and to
/// look into one. Whatever the bytes are, they give a log or an error.
///
/// # Errors
/// If they are no segment that [`super::Log`] can have written.
pub fn check_segment(bytes: &[u8]) -> Result<Durable, StorageError> {
    let header = SegmentHeader::decode("the file", bytes)?;
    let owner = Identity { cluster: header.cluster, replica: header.replica, incarnation: 0 };
    let mut replay = Replay::new(owner, header.number);
    replay.segment("the file", bytes, true)?;
    Ok(replay.durable)
}
