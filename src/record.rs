//! The bytes of one log entry. An entry is encoded once, by the leader that takes it in; these
//! bytes then travel to the peers, to the disk and into apply unchanged.
//!
//! ```text
//!  0        4        8                16               24     25 ..
//!  +--------+--------+----------------+----------------+------+-------------------+
//!  | length | crc32c |      term      |     index      | kind | payload (opaque)  |
//!  +--------+--------+----------------+----------------+------+-------------------+
//! ```
//!
//! Little endian. `length` counts the whole record; the checksum covers everything behind it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::types::{EntryId, Index, Term};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 25;
/// Largest record that [`Entry::decode`] takes: a header and 64 MiB.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + (64 << 20);
/// Size of the pieces in which [`RecordBuffer`] asks for memory.
const BUFFER_BYTES: usize = 64 << 10;

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A new leader's first entry; applying it does nothing (§8).
    NoOp,
    /// A command of a client, for the state machine.
    Command,
}

/// One entry of the log: its id and its encoded record.
///
/// Invariant: `record` is a whole, valid record of this id and kind. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    id: EntryId,
    kind: EntryKind,
    record: Bytes,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than the header or the length field asks for.
    #[error("a log record is cut short: {have} bytes where {need} are needed")]
    Short {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// A length below the header's or above [`RECORD_BYTES_MAX`].
    #[error(
        "a log record claims {length} bytes; {HEADER_BYTES} to {RECORD_BYTES_MAX} are possible"
    )]
    Length {
        /// What it claims.
        length: usize,
    },
    /// The checksum differs.
    #[error("a log record is damaged: checksum {computed:08x}, expected {stored:08x}")]
    Checksum {
        /// Over the bytes as they are.
        computed: u32,
        /// As written.
        stored: u32,
    },
    /// A kind that this version does not know.
    #[error("a log record has the unknown kind {0}; was it written by a newer version?")]
    Kind(u8),
    /// Term or index is zero, which no entry has.
    #[error("a log record has the impossible id {0}")]
    Id(EntryId),
}

impl EntryKind {
    fn to_byte(self) -> u8 {
        match self {
            EntryKind::NoOp => 1,
            EntryKind::Command => 2,
        }
    }

    fn from_byte(byte: u8) -> Result<EntryKind, RecordError> {
        match byte {
            1 => Ok(EntryKind::NoOp),
            2 => Ok(EntryKind::Command),
            other => Err(RecordError::Kind(other)),
        }
    }
}

impl Entry {
    /// The entry's id.
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// The entry's term.
    pub fn term(&self) -> Term {
        self.id.term
    }

    /// The entry's place.
    pub fn index(&self) -> Index {
        self.id.index
    }

    /// What it is for.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// The whole record, as it goes on the wire and on disk.
    pub fn record(&self) -> &Bytes {
        &self.record
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.record[HEADER_BYTES..]
    }

    /// Takes the first record off `bytes`, checked, sharing their memory.
    ///
    /// # Errors
    /// If the bytes do not start with a whole, undamaged record. `bytes` is then as before.
    pub fn decode(bytes: &mut Bytes) -> Result<Entry, RecordError> {
        let have = bytes.len();
        if have < HEADER_BYTES {
            return Err(RecordError::Short { have, need: HEADER_BYTES });
        }
        let mut header = &bytes[..HEADER_BYTES];
        let length = header.get_u32_le() as usize;
        let stored = header.get_u32_le();
        let id = EntryId::new(header.get_u64_le(), header.get_u64_le());
        let kind_byte = header.get_u8();
        if !(HEADER_BYTES..=RECORD_BYTES_MAX).contains(&length) {
            return Err(RecordError::Length { length });
        }
        if have < length {
            return Err(RecordError::Short { have, need: length });
        }
        let computed = crc32c::crc32c(&bytes[8..length]);
        if computed != stored {
            return Err(RecordError::Checksum { computed, stored });
        }
        let kind = EntryKind::from_byte(kind_byte)?;
        if id.term == Term(0) || id.index == Index::ZERO {
            return Err(RecordError::Id(id));
        }
        Ok(Entry { id, kind, record: bytes.split_to(length) })
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({:?}, {} bytes)", self.id, self.kind, self.record.len())
    }
}

/// Where a leader encodes its entries: one buffer, so that a batch of small entries costs one
/// allocation and not one each.
#[derive(Debug, Default)]
pub struct RecordBuffer {
    buffer: BytesMut,
}

impl RecordBuffer {
    /// Encodes one entry. The payload is copied here, once; callers keep it below
    /// [`RECORD_BYTES_MAX`].
    pub fn encode(&mut self, id: EntryId, kind: EntryKind, payload: &[u8]) -> Entry {
        let length = HEADER_BYTES + payload.len();
        assert!(length <= RECORD_BYTES_MAX, "a payload of {} bytes got this far", payload.len());
        if self.buffer.capacity() < length {
            self.buffer.reserve(length.max(BUFFER_BYTES));
        }
        self.buffer.put_u32_le(u32::try_from(length).expect("checked against RECORD_BYTES_MAX"));
        self.buffer.put_u32_le(0);
        self.buffer.put_u64_le(id.term.0);
        self.buffer.put_u64_le(id.index.0);
        self.buffer.put_u8(kind.to_byte());
        self.buffer.put_slice(payload);
        let checksum = crc32c::crc32c(&self.buffer[8..length]);
        self.buffer[4..8].copy_from_slice(&checksum.to_le_bytes());
        Entry { id, kind, record: self.buffer.split().freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_comes_back() {
        let mut buffer = RecordBuffer::default();
        let first = buffer.encode(EntryId::new(3, 7), EntryKind::Command, b"payload");
        let second = buffer.encode(EntryId::new(3, 8), EntryKind::NoOp, b"");
        let mut bytes = Bytes::from([&first.record()[..], &second.record()[..]].concat());
        assert_eq!(Entry::decode(&mut bytes), Ok(first.clone()));
        assert_eq!(Entry::decode(&mut bytes), Ok(second));
        assert!(bytes.is_empty());
        assert_eq!(first.payload(), b"payload");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = RecordBuffer::default().encode(EntryId::new(1, 2), EntryKind::Command, b"abc");
        let record = whole.record().to_vec();
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::decode(&mut Bytes::from(damaged)).is_err(), "bit {bit} flipped");
        }
        for length in 0..record.len() {
            let mut cut = Bytes::copy_from_slice(&record[..length]);
            assert!(Entry::decode(&mut cut).is_err(), "cut to {length} bytes");
            assert_eq!(cut.len(), length, "a refused record takes nothing");
        }
    }
}
