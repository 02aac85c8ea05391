//! The format of a segment file: a header, then blocks, one per sync of the log.
//!
//! ```text
//!  sector 0   sector 1 ..             ..                    ..        last sector
//!  +--------+--------------+--------+-----------------------+----------------------+
//!  | header |   block 1    | block 2|        block 3        |  zeros, preallocated |
//!  +--------+--------------+--------+-----------------------+----------------------+
//!
//!  header, 94 bytes of the payload of sector 0, the rest zeros
//!  +--------+---------+---------+---------+--------+---------+-------+---------------+
//!  | magic  | version | cluster | replica | number | sectors | chain | blocks_before | ..
//!  |   16   |    4    |   16    |    2    |   8    |    4    |   4   |       4       |
//!  +--------+---------+---------+---------+--------+---------+-------+---------------+
//!     +-----------+------------+-------------+------+-----------+-----+---------+
//!  .. | base term | base index | incarnation | term | voted_for | has | restart |
//!     |     8     |     8      |      8      |  8   |     2     |  1  |    1    |
//!     +-----------+------------+-------------+------+-----------+-----+---------+
//!
//!  block, starts at a sector; its stream runs through the payloads of the sectors
//!  0        4       8              16      24         26    27   28      32
//!  +--------+-------+--------------+-------+----------+-----+----+-------+----------------+
//!  | length | chain | incarnation  | term  | voted_for| has | 0  | count | records ..     |
//!  +--------+-------+--------------+-------+----------+-----+----+-------+----------------+
//! ```
//!
//! Little endian. `length` is the length of the stream in bytes, `count` the number of records,
//! whose format is that of `record.rs`. A record at an index that the log already has replaces that
//! entry and all later ones. Complete blocks are never overwritten, so replacing a tail cannot harm
//! acknowledged entries. Term and vote are in every block; those of the last block are current.
//!
//! `chain` is the checksum of this block's stream without the chain itself, seeded with the chain
//! of the block before it, across all segments: so a block that is missing, repeated, moved, or
//! from another log is detected. A segment's header contains the chain and the number of blocks of
//! the segment before it, so the end of every segment but the last is known. It also contains the
//! state of the log before the segment: the last entry (`base`), the incarnation of the replica
//! when it wrote the last block, term and vote. So earlier segments may be deleted once a snapshot
//! contains their entries. With `restart`, the log was reset to begin after `base`, the last entry
//! of a snapshot, and all earlier segments are obsolete.
//!
//! `sectors` is the length of the file. A segment is written under a temporary name and renamed
//! once its header is durable, so there are no torn headers.

use crate::raft::HardState;
use crate::record::Entry;
use crate::types::{EntryId, NodeId, Term};

use super::Identity;
use super::error::StorageError;
use super::sector::{self, SECTOR_BYTES, Sector};

/// Format version of the log's segment files and of the file `peers`.
pub(super) const VERSION: u32 = 5;
/// Length in bytes of the header of a block (the entries of one sync), which precedes the block's
/// records.
pub(super) const BLOCK_HEADER_BYTES: usize = 32;
const MAGIC: &[u8; 16] = b"bowline segment\n";
const HEADER_BYTES: usize = 94;
const PREFIX: &str = "segment-";

/// Returns the file name of the log segment `number`. File names sort in the order of segment
/// numbers.
pub(super) fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:010}")
}

/// Returns the sequence number of the log segment with this file name; `None` if the file is not a
/// segment.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix(PREFIX)?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// Header of a log segment file, stored in the file's first sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) cluster: u128,
    pub(super) replica: NodeId,
    /// Sequence number of the segment. The segments of a log are numbered from 1 without gaps.
    pub(super) number: u64,
    /// Length of the segment file in sectors, including preallocated sectors.
    pub(super) sectors: u32,
    /// Checksum of the last block (the entries of one sync) before this segment, on which the
    /// checksum of this segment's first block builds; zero if there is no earlier block.
    pub(super) chain: u32,
    /// Number of blocks (one per sync) in the preceding segment, used to detect missing blocks;
    /// zero if there is no preceding segment.
    pub(super) blocks_before: u32,
    /// Id of the log's last entry before this segment; [`EntryId::ZERO`] if there is none.
    pub(super) base: EntryId,
    /// Number of times that the replica had been started when it last wrote to an earlier segment
    /// of the log; zero if there was no such write.
    pub(super) incarnation: u64,
    /// Raft term and vote at the end of the preceding segment.
    pub(super) hard_state: HardState,
    /// Whether an installed snapshot replaced the log before this segment: the log then begins
    /// after `base`, the snapshot's last entry, and all earlier segments are obsolete.
    pub(super) restart: bool,
}

impl SegmentHeader {
    /// Encodes the header as the first sector of the segment file.
    pub(super) fn encode(&self) -> Vec<u8> {
        assert!(self.number > 0, "segments are numbered from 1");
        assert!(self.sectors > 1, "segment {} has {} sectors", self.number, self.sectors);
        assert!(
            self.base.term <= self.hard_state.term,
            "entry {} before segment {} is beyond term {}",
            self.base,
            self.number,
            self.hard_state.term
        );
        let mut stream = Vec::with_capacity(HEADER_BYTES);
        stream.extend_from_slice(MAGIC);
        stream.extend_from_slice(&VERSION.to_le_bytes());
        stream.extend_from_slice(&self.cluster.to_le_bytes());
        stream.extend_from_slice(&self.replica.0.to_le_bytes());
        stream.extend_from_slice(&self.number.to_le_bytes());
        stream.extend_from_slice(&self.sectors.to_le_bytes());
        stream.extend_from_slice(&self.chain.to_le_bytes());
        stream.extend_from_slice(&self.blocks_before.to_le_bytes());
        stream.extend_from_slice(&self.base.term.0.to_le_bytes());
        stream.extend_from_slice(&self.base.index.0.to_le_bytes());
        stream.extend_from_slice(&self.incarnation.to_le_bytes());
        let voted_for = self.hard_state.voted_for;
        stream.extend_from_slice(&self.hard_state.term.0.to_le_bytes());
        stream.extend_from_slice(&voted_for.unwrap_or(NodeId(0)).0.to_le_bytes());
        stream.extend_from_slice(&[u8::from(voted_for.is_some()), u8::from(self.restart)]);
        assert!(stream.len() == HEADER_BYTES, "a header of {} bytes", stream.len());
        let mut out = Vec::with_capacity(SECTOR_BYTES);
        sector::seal(0, 0, 0, &stream, &mut out);
        assert!(out.len() == SECTOR_BYTES, "a header in {} bytes", out.len());
        out
    }

    /// Decodes the header from `bytes`, which start with the first sector of the segment file at
    /// the path `file`.
    pub(super) fn decode(file: &str, bytes: &[u8]) -> Result<SegmentHeader, StorageError> {
        let mut fields = header_fields(file, bytes, MAGIC)?;
        let damaged = |what| StorageError::Damaged { file: file.to_owned(), offset: 0, what };
        let header = SegmentHeader {
            cluster: u128::from_le_bytes(fields.take()),
            replica: NodeId(u16::from_le_bytes(fields.take())),
            number: u64::from_le_bytes(fields.take()),
            sectors: u32::from_le_bytes(fields.take()),
            chain: u32::from_le_bytes(fields.take()),
            blocks_before: u32::from_le_bytes(fields.take()),
            base: EntryId::new(fields.number(), fields.number()),
            incarnation: fields.number(),
            hard_state: HardState::default(),
            restart: false,
        };
        let (hard_state, flag) = fields.hard_state().map_err(damaged)?;
        if flag > 1 || header.base.term > hard_state.term {
            return Err(damaged("the fields of the header contradict one another".to_owned()));
        }
        Ok(SegmentHeader { hard_state, restart: flag == 1, ..header })
    }

    /// Returns the seed of the checksums of this segment's sectors, so that a sector from another
    /// log or segment fails the check.
    pub(super) fn salt(&self) -> u32 {
        salt(self.cluster, self.replica, self.number)
    }
}

/// Returns the seed of the sector checksums in segment `number` of a replica.
pub(super) fn salt(cluster: u128, replica: NodeId, number: u64) -> u32 {
    let salt = crc32c::crc32c(&cluster.to_le_bytes());
    let salt = crc32c::crc32c_append(salt, &replica.0.to_le_bytes());
    crc32c::crc32c_append(salt, &number.to_le_bytes())
}

/// Reads fixed-size fields one after the other from a byte slice whose length was checked before.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Returns a reader that starts at the first field in `bytes`.
    pub(super) fn of(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }
}

impl Fields<'_> {
    /// Reads and returns the next `N` bytes. The caller must have checked that they exist.
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the caller has checked the length");
        self.0 = rest;
        *field
    }

    /// Reads the next eight bytes as a little-endian number.
    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// Reads the next twelve bytes, in which headers store Raft's term and vote: term, vote, a flag
    /// for whether there is a vote, and one byte that depends on the header. Returns term and vote,
    /// and that last byte. Fails if the flag is invalid.
    pub(super) fn hard_state(&mut self) -> Result<(HardState, u8), String> {
        let term = Term(self.number());
        let voted_for = NodeId(u16::from_le_bytes(self.take()));
        let [has, rest] = self.take();
        let voted_for = match has {
            0 if voted_for == NodeId(0) => None,
            1 => Some(voted_for),
            other => return Err(format!("the vote for {voted_for} has the flag {other}")),
        };
        Ok((HardState { term, voted_for }, rest))
    }
}

/// Checks checksum, magic number and format version in the first sector of the file at the path
/// `file`. Returns a reader of the fields that follow. Magic number and version must keep their
/// position in later formats, so that this program can report a newer version.
pub(super) fn header_fields<'a>(
    file: &str,
    bytes: &'a [u8],
    magic: &[u8; 16],
) -> Result<Fields<'a>, StorageError> {
    let damaged =
        |what: String| Err(StorageError::Damaged { file: file.to_owned(), offset: 0, what });
    let Some(first) = bytes.get(..SECTOR_BYTES) else {
        return damaged(format!("{} bytes are too few for a header", bytes.len()));
    };
    let payload = match sector::read(0, 0, first) {
        Sector::Written { block: 0, payload } => payload,
        Sector::Written { block, .. } => {
            return damaged(format!("a sector of block {block} in place of the header"));
        }
        Sector::Unwritten => return damaged("zeros in place of the header".to_owned()),
        Sector::Damaged => return damaged("the header's checksum differs".to_owned()),
    };
    let mut fields = Fields(payload);
    let found: [u8; 16] = fields.take();
    if found != *magic {
        return damaged("the header is that of another kind of file".to_owned());
    }
    let version = u32::from_le_bytes(fields.take());
    if version != VERSION {
        let file = file.to_owned();
        return Err(StorageError::Version { file, found: version, known: VERSION });
    }
    Ok(fields)
}

/// Header of a block, which holds the log entries of one sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BlockHeader {
    /// Length of the block in bytes, including this header.
    pub(super) length: u32,
    pub(super) chain: u32,
    /// Number of times that the replica had been started when it wrote the block.
    pub(super) incarnation: u64,
    pub(super) hard_state: HardState,
    /// Number of records (log entries) in the block.
    pub(super) count: u32,
}

impl BlockHeader {
    /// Decodes the header of `stream`, an encoded block (the entries of one sync).
    pub(super) fn decode(stream: &[u8]) -> Result<BlockHeader, String> {
        let Some(bytes) = stream.get(..BLOCK_HEADER_BYTES) else {
            return Err(format!("{} bytes are too few for a block", stream.len()));
        };
        let mut fields = Fields(bytes);
        let length = u32::from_le_bytes(fields.take());
        let chain = u32::from_le_bytes(fields.take());
        let incarnation = u64::from_le_bytes(fields.take());
        let (hard_state, rest) = fields.hard_state()?;
        if rest != 0 {
            return Err(format!("{rest} instead of a zero after the vote"));
        }
        let count = u32::from_le_bytes(fields.take());
        Ok(BlockHeader { length, chain, incarnation, hard_state, count })
    }
}

/// The next block of the log (the entries of one sync) while entries are being added to it.
///
/// Invariant: `stream` starts with space for the block's header.
#[derive(Debug)]
pub(super) struct BlockBuilder {
    stream: Vec<u8>,
    count: u32,
}

impl Default for BlockBuilder {
    fn default() -> BlockBuilder {
        BlockBuilder { stream: vec![0; BLOCK_HEADER_BYTES], count: 0 }
    }
}

impl BlockBuilder {
    /// Appends a log entry to the block.
    pub(super) fn push(&mut self, entry: &Entry) {
        assert!(!entry.record().is_empty(), "{} has no record", entry.id());
        self.stream.extend_from_slice(entry.record());
        self.count += 1;
    }

    /// Returns the length of the block in bytes, header included.
    pub(super) fn len(&self) -> usize {
        self.stream.len()
    }

    /// Returns the number of log entries in the block.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Completes the block by writing its header. Returns the encoded block and its checksum, which
    /// also covers `previous_chain`, the checksum of the preceding block.
    pub(super) fn finish(
        &mut self,
        previous_chain: u32,
        incarnation: u64,
        hard_state: HardState,
    ) -> (&[u8], u32) {
        assert!(incarnation > 0, "starts are counted from 1");
        assert!(self.stream.len() >= BLOCK_HEADER_BYTES, "{} bytes", self.stream.len());
        let length = u32::try_from(self.stream.len()).expect("blocks are below 4 GiB");
        let voted_for = hard_state.voted_for.unwrap_or(NodeId(0));
        let mut put = |at: usize, field: &[u8]| {
            self.stream[at..at + field.len()].copy_from_slice(field);
        };
        put(0, &length.to_le_bytes());
        put(8, &incarnation.to_le_bytes());
        put(16, &hard_state.term.0.to_le_bytes());
        put(24, &voted_for.0.to_le_bytes());
        put(26, &[u8::from(hard_state.voted_for.is_some()), 0]);
        put(28, &self.count.to_le_bytes());
        let chain = chain(previous_chain, &self.stream);
        self.stream[4..8].copy_from_slice(&chain.to_le_bytes());
        debug_assert_eq!(
            BlockHeader::decode(&self.stream),
            Ok(BlockHeader { length, chain, incarnation, hard_state, count: self.count })
        );
        (&self.stream, chain)
    }

    /// Empties the block for reuse. Keeps at most 1 MiB of its memory allocated.
    pub(super) fn clear(&mut self) {
        const KEPT_BYTES_MAX: usize = 1 << 20;
        if self.stream.capacity() > KEPT_BYTES_MAX {
            *self = BlockBuilder::default();
        }
        self.stream.clear();
        self.stream.resize(BLOCK_HEADER_BYTES, 0);
        self.count = 0;
        assert!(self.stream.capacity() <= KEPT_BYTES_MAX, "{} bytes", self.stream.capacity());
    }
}

/// Returns the checksum (CRC-32C) of the encoded block (the entries of one sync) `stream` without
/// the header field that holds it. It is seeded with `previous`, the checksum of the preceding
/// block, so that the checksums form a chain.
pub(super) fn chain(previous: u32, stream: &[u8]) -> u32 {
    assert!(stream.len() >= BLOCK_HEADER_BYTES, "a block of {} bytes", stream.len());
    let chain = crc32c::crc32c_append(previous, &stream[..4]);
    crc32c::crc32c_append(chain, &stream[8..])
}

/// Checks that the owner of a file, `found` (cluster and replica), is the expected one.
pub(super) fn check_owner(
    file: &str,
    found: (u128, NodeId),
    expected: &Identity,
) -> Result<(), StorageError> {
    let file = file.to_owned();
    if found.0 != expected.cluster {
        let (found, expected) = (found.0, expected.cluster);
        return Err(StorageError::OtherCluster { file, found, expected });
    }
    if found.1 != expected.replica {
        let (found, expected) = (found.1, expected.replica);
        return Err(StorageError::OtherReplica { file, found, expected });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader {
        cluster: 1 << 100,
        replica: NodeId(3),
        number: 7,
        sectors: 9,
        chain: 0xDEAD_BEEF,
        blocks_before: 5,
        base: EntryId::new(3, 1 << 40),
        incarnation: 12,
        hard_state: HardState { term: Term(4), voted_for: Some(NodeId(2)) },
        restart: true,
    };

    #[test]
    fn log_segment_header_round_trips_and_newer_version_is_refused() {
        let mut bytes = HEADER.encode();
        assert_eq!(SegmentHeader::decode("file", &bytes).unwrap(), HEADER);
        let mut stream = bytes[12..].to_vec();
        stream[16] += 1;
        bytes.clear();
        sector::seal(0, 0, 0, &stream, &mut bytes);
        let error = SegmentHeader::decode("file", &bytes).unwrap_err();
        assert!(matches!(error, StorageError::Version { found: 6, known: 5, .. }), "{error}");
        assert!(error.to_string().contains("with the version that wrote the file"), "{error}");
    }

    #[test]
    fn segment_file_names_round_trip_and_checksum_salts_differ() {
        assert_eq!(number_of(&file_name(12)), Some(12));
        assert_eq!(number_of(&file_name(u64::MAX)), Some(u64::MAX));
        for other in
            ["meta", "segment-", "segment-1", "segment-+000000001", "segment-0000000001.new"]
        {
            assert_eq!(number_of(other), None, "{other}");
        }
        let mut salts = vec![HEADER.salt()];
        salts.push(SegmentHeader { cluster: 1, ..HEADER }.salt());
        salts.push(SegmentHeader { replica: NodeId(4), ..HEADER }.salt());
        salts.push(SegmentHeader { number: 8, ..HEADER }.salt());
        salts.dedup();
        assert_eq!(salts.len(), 4, "salts repeat");
    }

    #[test]
    fn operations_guide_names_the_log_segment_format_version() {
        let page = include_str!("../guide/operations.md");
        let wanted = format!("The formats now are {VERSION} for log segments,");
        assert!(page.contains(&wanted), "src/guide/operations.md lacks: {wanted}");
    }
}
