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

use crate::feature_level::FeatureLevel;
use crate::membership::{Configuration, ConfigurationError};
use crate::types::{EntryId, Index, Term};

/// Length in bytes of the header of an encoded log entry (record). The payload follows the header.
pub const HEADER_BYTES: usize = 25;
/// Maximum length in bytes of an encoded log entry (record): a header and 64 MiB of payload.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + (64 << 20);
/// Minimum number of bytes that a [`RecordBuffer`] allocates at a time, so that many small entries
/// share one allocation.
const BUFFER_BYTES: usize = 64 << 10;

/// The kind of a log entry: a no-op, which begins a leader's term, a batch of operations, the
/// members of the cluster, or its feature level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// An entry without payload, which a new leader appends first (Raft paper, section 8). Applying
    /// it has no effect.
    NoOp,
    /// An entry that carries a batch of operations for the state machine.
    Command,
    /// An entry that carries the configuration of the cluster's members from this entry on.
    Configuration,
    /// An entry that raises the cluster's feature level. It is a kind of its own, and not an
    /// operation in a batch, so that a version that does not know it refuses the entry: its state
    /// would differ from then on.
    FeatureLevel,
}

/// A log entry, stored in its encoded form (record). Clones share the memory of the record.
///
/// Invariant: `record` is a complete, valid record with this id and kind. The payload of an entry
/// of kind [`EntryKind::Configuration`] is a valid configuration, that of one of kind
/// [`EntryKind::FeatureLevel`] a level that this program supports.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    id: EntryId,
    kind: EntryKind,
    record: Bytes,
}

/// The reason why bytes could not be decoded as a record (an encoded log entry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// There are fewer bytes than the header or the whole record needs.
    #[error("truncated record of a log entry: {have} of {need} bytes")]
    Short {
        /// Number of bytes that are present.
        have: usize,
        /// Number of bytes that the header or the whole record needs.
        need: usize,
    },
    /// The length field of the record is below [`HEADER_BYTES`] or above [`RECORD_BYTES_MAX`].
    #[error(
        "invalid log record: its length field is {length} bytes, it must be {HEADER_BYTES} to \
             {RECORD_BYTES_MAX}"
    )]
    Length {
        /// Value of the record's length field, in bytes.
        length: usize,
    },
    /// The checksum in the record's header does not match the record's bytes.
    #[error(
        "damaged record of a log entry: its bytes have checksum {computed:08x}, but it states \
         {stored:08x}"
    )]
    Checksum {
        /// CRC-32C checksum computed from the record's bytes.
        computed: u32,
        /// CRC-32C checksum stored in the record's header.
        stored: u32,
    },
    /// The kind byte of the record has a value that this version of the program does not know.
    #[error(
        "record of a log entry has unknown kind {0}; was it written by a newer version of bowline?"
    )]
    Kind(u8),
    /// The term or the index of the entry is zero.
    #[error("record of a log entry has invalid id {0}: term and index must be at least 1")]
    Id(EntryId),
    /// The entry raises the cluster to a feature level that this program does not support.
    #[error(
        "record of a log entry raises the cluster's feature level to {}: run {} of bowline",
        .0, .0.needed_version()
    )]
    FeatureLevel(FeatureLevel),
    /// The payload is not the feature level that the kind byte announces.
    #[error("record of a log entry is invalid: {0} bytes are no feature level")]
    LevelLength(usize),
    /// The payload is not the configuration that the kind byte announces.
    #[error("record of a log entry is invalid: {0}")]
    Configuration(ConfigurationError),
}

impl EntryKind {
    fn to_byte(self) -> u8 {
        match self {
            EntryKind::NoOp => 1,
            EntryKind::Command => 2,
            EntryKind::Configuration => 3,
            EntryKind::FeatureLevel => 4,
        }
    }

    fn from_byte(byte: u8) -> Result<EntryKind, RecordError> {
        match byte {
            1 => Ok(EntryKind::NoOp),
            2 => Ok(EntryKind::Command),
            3 => Ok(EntryKind::Configuration),
            4 => Ok(EntryKind::FeatureLevel),
            other => Err(RecordError::Kind(other)),
        }
    }
}

impl Entry {
    /// Returns the entry's id, which consists of its term and index.
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// Returns the entry's term, which is the term of the leader that created it.
    pub fn term(&self) -> Term {
        self.id.term
    }

    /// Returns the entry's index, which is its position in the log, starting with 1.
    pub fn index(&self) -> Index {
        self.id.index
    }

    /// Returns whether the entry is a no-op, or what it carries.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// Returns the encoded entry (record), as it is sent to peers and written to disk.
    pub fn record(&self) -> &Bytes {
        &self.record
    }

    /// Returns the entry's payload, which is an encoded batch of operations, configuration or
    /// feature level; empty for a no-op.
    pub fn payload(&self) -> &[u8] {
        &self.record[HEADER_BYTES..]
    }

    /// Returns the entry's payload like [`Entry::payload`], in shared memory.
    pub fn shared_payload(&self) -> Bytes {
        self.record.slice(HEADER_BYTES..)
    }

    /// Returns the members of the cluster from this entry on; `None` if the entry does not change
    /// them.
    pub fn configuration(&self) -> Option<Configuration> {
        (self.kind == EntryKind::Configuration).then(|| {
            Configuration::decode(self.payload()).expect("checked when the entry was decoded")
        })
    }

    /// Returns the feature level to which the entry raises the cluster; `None` for an entry of
    /// another kind.
    pub fn feature_level(&self) -> Option<FeatureLevel> {
        (self.kind == EntryKind::FeatureLevel)
            .then(|| level_of(self.payload()).expect("checked when the entry was decoded"))
    }

    /// Decodes and validates the record (encoded log entry) at the front of `bytes`, removes it,
    /// and returns the entry, which shares its memory.
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
        if kind == EntryKind::Configuration {
            Configuration::decode(&bytes[HEADER_BYTES..length])
                .map_err(RecordError::Configuration)?;
        }
        if kind == EntryKind::FeatureLevel {
            level_of(&bytes[HEADER_BYTES..length])?;
        }
        Ok(Entry { id, kind, record: bytes.split_to(length) })
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({:?}, {} bytes)", self.id, self.kind, self.record.len())
    }
}

/// Returns the payload of an entry that raises the cluster's feature level to `level`.
pub fn level_payload(level: FeatureLevel) -> [u8; 2] {
    level.number().to_le_bytes()
}

fn level_of(payload: &[u8]) -> Result<FeatureLevel, RecordError> {
    let number = payload.try_into().map(u16::from_le_bytes).ok();
    let level = number.and_then(FeatureLevel::from_number);
    let level = level.ok_or(RecordError::LevelLength(payload.len()))?;
    if level.is_supported() { Ok(level) } else { Err(RecordError::FeatureLevel(level)) }
}

/// Returns the length in bytes of the record (encoded log entry) with this payload.
pub fn record_bytes(payload: &[u8]) -> usize {
    HEADER_BYTES + payload.len()
}

/// A buffer in which a leader encodes log entries, so that many small entries share one allocation.
#[derive(Debug, Default)]
pub struct RecordBuffer {
    buffer: BytesMut,
}

impl RecordBuffer {
    /// Encodes and returns an entry with this id, kind and payload. Panics if its record would
    /// exceed [`RECORD_BYTES_MAX`], so callers must refuse larger requests.
    pub fn encode(&mut self, id: EntryId, kind: EntryKind, payload: &[u8]) -> Entry {
        let length = record_bytes(payload);
        assert!(
            length <= RECORD_BYTES_MAX,
            "a payload of {} bytes exceeds the largest record",
            payload.len()
        );
        assert!(
            kind != EntryKind::Configuration || Configuration::decode(payload).is_ok(),
            "an invalid configuration in entry {id}"
        );
        assert!(
            kind != EntryKind::FeatureLevel || level_of(payload).is_ok(),
            "an invalid feature level in entry {id}"
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
    use crate::types::NodeId;

    #[test]
    fn log_entries_round_trip_through_their_encoding() {
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
    fn log_entry_with_an_invalid_configuration_is_rejected() {
        let members = Configuration::of_voters([NodeId(1), NodeId(3)]);
        let mut buffer = RecordBuffer::default();
        let entry = buffer.encode(EntryId::new(2, 5), EntryKind::Configuration, &members.encode());
        assert_eq!(Entry::decode(&mut entry.record().clone()), Ok(entry.clone()));
        assert_eq!(entry.configuration(), Some(members));
        // A valid record of another kind, made one with an invalid configuration.
        let command = buffer.encode(EntryId::new(2, 5), EntryKind::Command, b"no configuration");
        let mut bytes = command.record().to_vec();
        bytes[HEADER_BYTES - 1] = EntryKind::Configuration.to_byte();
        let checksum = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        let error = Entry::decode(&mut Bytes::from(bytes)).unwrap_err();
        assert_eq!(error, RecordError::Configuration(ConfigurationError::Format(b'n')));
        assert_eq!(command.configuration(), None);
    }

    #[test]
    fn log_entry_with_an_unsupported_feature_level_is_rejected() {
        let mut buffer = RecordBuffer::default();
        let payload = level_payload(FeatureLevel::NEWEST);
        let entry = buffer.encode(EntryId::new(2, 5), EntryKind::FeatureLevel, &payload);
        assert_eq!(Entry::decode(&mut entry.record().clone()), Ok(entry.clone()));
        assert_eq!(entry.feature_level(), Some(FeatureLevel::NEWEST));
        let later = FeatureLevel::from_number(FeatureLevel::NEWEST.number() + 1).unwrap();
        for (payload, error) in [
            (&level_payload(later)[..], RecordError::FeatureLevel(later)),
            (&[0, 0], RecordError::LevelLength(2)),
            (&[2], RecordError::LevelLength(1)),
        ] {
            let command = buffer.encode(EntryId::new(2, 5), EntryKind::Command, payload);
            let mut bytes = command.record().to_vec();
            bytes[HEADER_BYTES - 1] = EntryKind::FeatureLevel.to_byte();
            let checksum = crc32c::crc32c(&bytes[8..]);
            bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
            assert_eq!(Entry::decode(&mut Bytes::from(bytes)), Err(error));
            assert_eq!(command.feature_level(), None);
        }
    }

    #[test]
    fn every_flipped_bit_and_truncation_of_a_log_entry_is_detected() {
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
