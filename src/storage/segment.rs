//! The format of a segment file: one header, then blocks, each of them what one sync made durable.
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
//!  block, from the beginning of a sector on; its stream runs through the sectors' payloads
//!  0        4       8              16      24         26    27   28      32
//!  +--------+-------+--------------+-------+----------+-----+----+-------+----------------+
//!  | length | chain | incarnation  | term  | voted_for| has | 0  | count | records ..     |
//!  +--------+-------+--------------+-------+----------+-----+----+-------+----------------+
//! ```
//!
//! Little endian. `length` counts the stream, `count` the records, which are those of `record.rs`
//! unchanged. A record at an index that the log holds replaces that entry and all behind it; no
//! byte is ever written twice, so nothing that was vouched for is at risk while a tail is
//! replaced. Term and vote stand in every block: the last block's are those that hold.
//!
//! `chain` is the checksum over this block's stream (itself taken as zeros), begun with the
//! chain of the block before it, through all segments: so no block can be left out, repeated,
//! moved or be of another log. A segment's header says where the chain stood and how many
//! blocks the segment before it has, so that the end of each but the last is known. It also repeats
//! what the log came to before it: the last entry (`base`), the opening that wrote the last block,
//! term and vote. So the segments before it may be deleted once a snapshot holds their entries.
//! With `restart` the log begins anew behind `base`, the end of a snapshot, and what was before
//! counts no more.
//!
//! `sectors` is the file's length. A segment is written under another name and renamed when its
//! header is durable: a torn header can't be.

use crate::raft::HardState;
use crate::record::Entry;
use crate::types::{EntryId, NodeId, Term};

use super::Identity;
use super::error::StorageError;
use super::sector::{self, SECTOR_BYTES, Sector};

/// The format that this version writes and reads.
pub(super) const VERSION: u32 = 2;
/// Bytes of a block before its records.
pub(super) const BLOCK_HEADER_BYTES: usize = 32;
const MAGIC: &[u8; 16] = b"bowline segment\n";
const HEADER_BYTES: usize = 94;
const PREFIX: &str = "segment-";

/// The name of a segment's file; names sort as numbers do.
pub(super) fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:010}")
}

/// The number of the segment with that name.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix(PREFIX)?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// What a segment's first sector says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) cluster: u128,
    pub(super) replica: NodeId,
    /// From 1, without gaps.
    pub(super) number: u64,
    /// The file's length.
    pub(super) sectors: u32,
    /// The chain of the last block before it; zero if there is none.
    pub(super) chain: u32,
    /// How many blocks the segment before it has.
    pub(super) blocks_before: u32,
    /// The last entry before it; [`EntryId::ZERO`] if there is none.
    pub(super) base: EntryId,
    /// The opening that wrote the last block before it; zero if there is none.
    pub(super) incarnation: u64,
    /// Term and vote before it.
    pub(super) hard_state: HardState,
    /// Whether the log begins anew behind `base`.
    pub(super) restart: bool,
}

impl SegmentHeader {
    /// Sector 0.
    pub(super) fn encode(&self) -> Vec<u8> {
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
        out
    }

    /// Reads sector 0 of the segment `file`.
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
            return Err(damaged("the header contradicts itself".to_owned()));
        }
        Ok(SegmentHeader { hard_state, restart: flag == 1, ..header })
    }

    /// What the sectors' checksums begin with: a sector of another log or segment is not valid
    /// in this one.
    pub(super) fn salt(&self) -> u32 {
        let salt = crc32c::crc32c(&self.cluster.to_le_bytes());
        let salt = crc32c::crc32c_append(salt, &self.replica.0.to_le_bytes());
        crc32c::crc32c_append(salt, &self.number.to_le_bytes())
    }
}

/// Reads fields one after the other from bytes that were checked.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields in `bytes`.
    pub(super) fn of(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }
}

impl Fields<'_> {
    /// The next `N` bytes. Callers stay within what they have checked.
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("a sector holds every header");
        self.0 = rest;
        *field
    }

    /// The next eight bytes as a number.
    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// The next twelve bytes: term, vote, whether there is one, and a byte that is the caller's.
    fn hard_state(&mut self) -> Result<(HardState, u8), String> {
        let term = Term(self.number());
        let voted_for = NodeId(u16::from_le_bytes(self.take()));
        let [has, rest] = self.take();
        let voted_for = match has {
            0 if voted_for == NodeId(0) => None,
            1 => Some(voted_for),
            other => return Err(format!("it says {other} about its vote for {voted_for}")),
        };
        Ok((HardState { term, voted_for }, rest))
    }
}

/// Checks the first sector of a file and returns what stands behind magic and version. Every
/// format to come keeps this frame, so that an older version can name a newer one.
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

/// What a block says before its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BlockHeader {
    /// Bytes of the stream, this header among them.
    pub(super) length: u32,
    pub(super) chain: u32,
    /// Which opening of the log wrote it.
    pub(super) incarnation: u64,
    pub(super) hard_state: HardState,
    /// How many records follow.
    pub(super) count: u32,
}

impl BlockHeader {
    /// Reads the beginning of a block's stream.
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
            return Err(format!("{rest} in place of a zero behind its vote"));
        }
        let count = u32::from_le_bytes(fields.take());
        Ok(BlockHeader { length, chain, incarnation, hard_state, count })
    }
}

/// A block in the making: its stream, with room for the header.
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
    /// Adds a record as it is.
    pub(super) fn push(&mut self, entry: &Entry) {
        self.stream.extend_from_slice(entry.record());
        self.count += 1;
    }

    /// Bytes of the stream.
    pub(super) fn len(&self) -> usize {
        self.stream.len()
    }

    /// How many records it has.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Completes the header and gives the stream and its chain.
    pub(super) fn finish(
        &mut self,
        previous_chain: u32,
        incarnation: u64,
        hard_state: HardState,
    ) -> (&[u8], u32) {
        let length = u32::try_from(self.stream.len()).expect("blocks are kept small");
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
        (&self.stream, chain)
    }

    /// Makes it empty, keeping its memory unless it is much.
    pub(super) fn clear(&mut self) {
        const KEPT_BYTES_MAX: usize = 1 << 20;
        if self.stream.capacity() > KEPT_BYTES_MAX {
            *self = BlockBuilder::default();
        }
        self.stream.clear();
        self.stream.resize(BLOCK_HEADER_BYTES, 0);
        self.count = 0;
    }
}

/// The chain after a block with this stream.
pub(super) fn chain(previous: u32, stream: &[u8]) -> u32 {
    let chain = crc32c::crc32c_append(previous, &stream[..4]);
    crc32c::crc32c_append(chain, &stream[8..])
}

/// The identity that a file claims, against the one that is expected.
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
    fn a_header_comes_back_and_a_newer_one_is_called_newer() {
        let mut bytes = HEADER.encode();
        assert_eq!(SegmentHeader::decode("file", &bytes).unwrap(), HEADER);
        let mut stream = bytes[12..].to_vec();
        stream[16] += 1;
        bytes.clear();
        sector::seal(0, 0, 0, &stream, &mut bytes);
        let error = SegmentHeader::decode("file", &bytes).unwrap_err();
        assert!(matches!(error, StorageError::Version { found: 3, known: 2, .. }), "{error}");
        assert!(error.to_string().contains("with the version that wrote it"), "{error}");
    }

    #[test]
    fn names_are_numbers_and_nothing_else_is_a_segment() {
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
        assert_eq!(salts.len(), 4, "each segment of each log has its own");
    }
}
