//! Log entries and their encoding. The leader that appends an entry encodes it once; the same bytes
//! then go to the peers, to disk and to the state machine.
//!
//! ```text
//!  0        4        8                16               24     25 ..
//!  +--------+--------+----------------+----------------+------+-------------------+
//!  | length | crc32c |      term      |     index      | kind | payload (opaque)  |
//!  +--------+--------+----------------+----------------+------+-------------------+
//! ```
//!
//! Integers are little endian. `length` is the length of the whole record in bytes; the checksum
//! covers everything after it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::types::{EntryId, Index, Term};

/// Length of a record's header, which precedes the payload.
pub const HEADER_BYTES: usize = 25;
/// Largest record that [`Entry::decode`] accepts: a header and 64 MiB of payload.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + (64 << 20);
/// Smallest allocation of a [`RecordBuffer`].
const BUFFER_BYTES: usize = 64 << 10;

/// The purpose of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A new leader's first entry; applying it has no effect (§8).
    NoOp,
    /// A command for the state machine.
    Command,
}

/// A log entry with its encoded record. Clones share the bytes.
///
/// Invariant: `record` is a complete, valid record with this id and kind.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    id: EntryId,
    kind: EntryKind,
    record: Bytes,
}

/// The reason why bytes were not decoded as a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end before the header or the record does.
    #[error("truncated log record: {have} bytes of {need}")]
    Short {
        /// Bytes present.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The length field is below [`HEADER_BYTES`] or above [`RECORD_BYTES_MAX`].
    #[error("log record with length {length}, not within {HEADER_BYTES}..={RECORD_BYTES_MAX}")]
    Length {
        /// Value of the length field, in bytes.
        length: usize,
    },
    /// The checksum does not match.
    #[error("damaged log record: checksum {computed:08x}, expected {stored:08x}")]
    Checksum {
        /// Checksum of the bytes.
        computed: u32,
        /// Checksum in the header.
        stored: u32,
    },
    /// The kind is unknown to this version.
    #[error("log record with unknown kind {0}; was it written by a newer version?")]
    Kind(u8),
    /// The term or the index is zero.
    #[error("log record with invalid id {0}: term and index start at 1")]
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
    /// Returns the entry's id.
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// Returns the entry's term.
    pub fn term(&self) -> Term {
        self.id.term
    }

    /// Returns the entry's index.
    pub fn index(&self) -> Index {
        self.id.index
    }

    /// Returns the entry's purpose.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// Returns the encoded record, as on the wire and on disk.
    pub fn record(&self) -> &Bytes {
        &self.record
    }

    /// Returns the payload: the encoded command, or nothing for a no-op.
    pub fn payload(&self) -> &[u8] {
        &self.record[HEADER_BYTES..]
    }

    /// Removes the first record from `bytes` and validates it. The entry shares their memory.
    ///
    /// # Errors
    /// If `bytes` does not start with a complete, valid record. `bytes` is then unchanged.
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

/// The buffer in which a leader encodes entries: many small entries share one allocation.
#[derive(Debug, Default)]
pub struct RecordBuffer {
    buffer: BytesMut,
}

impl RecordBuffer {
    /// Encodes an entry, copying the payload. The record must not exceed [`RECORD_BYTES_MAX`]:
    /// callers reject larger requests.
    pub fn encode(&mut self, id: EntryId, kind: EntryKind, payload: &[u8]) -> Entry {
        let length = HEADER_BYTES + payload.len();
        assert!(
            length <= RECORD_BYTES_MAX,
            "a payload of {} bytes exceeds the largest record",
            payload.len()
        );
        if self.buffer.capacity() < length {
            self.buffer.reserve(length.max(BUFFER_BYTES));
        }
        self.buffer.put_u32_le(u32::try_from(length).expect("checked against RECORD_BYTES_MAX"));
        self.buffer.put_u32_le(0);
        self.buffer.put_u64_le(id.term.0);
        self.buffer.put_u64_le(id.index.0);
        self.buffer.put_u8(kind.to_byte());
        self.buffer.put_slice(payload);
        assert!(self.buffer.len() == length, "{} bytes of {length}", self.buffer.len());
        let checksum = crc32c::crc32c(&self.buffer[8..length]);
        self.buffer[4..8].copy_from_slice(&checksum.to_le_bytes());
        Entry { id, kind, record: self.buffer.split().freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_entries_decode_to_themselves() {
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
    fn every_flipped_bit_and_truncation_is_detected() {
        let entry = RecordBuffer::default().encode(EntryId::new(1, 2), EntryKind::Command, b"abc");
        let record = entry.record().to_vec();
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::decode(&mut Bytes::from(damaged)).is_err(), "bit {bit} flipped");
        }
        for length in 0..record.len() {
            let mut truncated = Bytes::copy_from_slice(&record[..length]);
            assert!(Entry::decode(&mut truncated).is_err(), "truncated to {length} bytes");
            assert_eq!(truncated.len(), length, "a rejected record consumes nothing");
        }
    }
}
