//! Messages between replicas as bytes: a header archived by rkyv, then the entries' records exactly
//! as they are in the log and on disk, or a chunk of a snapshot.
//!
//! ```text
//!  0         1               3
//!  +---------+---------------+------------------------+-------+----------+----------+-----
//!  | version | header length |  header (rkyv archive) | level |  record  |  record  | ...
//!  +---------+---------------+------------------------+-------+----------+----------+-----
//! ```
//!
//! Version 2 is that of version 9 of the protocol, and has no level. In version 3 the header's
//! length covers the archive and what follows it, up to the records: 2 bytes with the feature level
//! of the sender of an append reply (0 in other messages), and fields that a later version adds,
//! which are skipped.
//!
//! The container of a message (a datagram, a frame or a JSON field) determines where the message
//! ends, who sent it and who receives it. The header is a flat archive of one fixed length, which
//! is read only through rkyv's checked access.

mod header;
#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rkyv::Archived;
use rkyv::api::low;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::Buffer;

use crate::feature_level::FeatureLevel;
use crate::raft::PeerMsg;
use crate::record::{Entry, RecordError};
use crate::types::{EntryId, Term};

use super::protocol::{self, ProtocolVersion};

use self::header::{ArchivedHeader, Header, header_of, message_of};

/// Version of the encoding of messages in version 9 of the protocol between replicas.
const VERSION_OLDEST: u8 = 2;
/// Version of the encoding of messages in later versions of the protocol.
const VERSION: u8 = 3;
/// Length in bytes of the fields before a message's header: the encoding version and the header's
/// length.
const PREFIX_BYTES: usize = 3;
/// Length in bytes of the fields that version 3 adds to the header.
const ADDED_BYTES: usize = 2;
/// Length in bytes of a message's header, as rkyv serializes it.
const HEADER_BYTES: usize = size_of::<Archived<Header>>();

/// Reason why received bytes are not a valid message between replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The message is too short to hold a header.
    #[error("peer message of {length} bytes is too short; it must have at least {needed} bytes")]
    Short {
        /// Length of the message in bytes.
        length: usize,
        /// Minimum length of a message in bytes, which includes a header.
        needed: usize,
    },
    /// The message states another encoding version or header length than this program supports.
    #[error(
        "peer message has version {version} and a header of {length} bytes, expected \
         {VERSION_OLDEST} to {VERSION} and {HEADER_BYTES} or more; upgrade the older of the two \
         replicas"
    )]
    Version {
        /// Encoding version that the message states.
        version: u8,
        /// Length of the header in bytes that the message states.
        length: usize,
    },
    /// The message's header is not a valid rkyv archive.
    #[error("peer message has a malformed header")]
    Header,
    /// A number in the message's header is out of range.
    #[error("peer message has an invalid {field}: {value}")]
    Number {
        /// Name of the header field whose number is out of range.
        field: &'static str,
        /// The number that is out of range.
        value: u64,
    },
    /// The id (term and index) of a log entry in the message is impossible: only one of term and
    /// index is zero, the index is too large, or the term is later than the message allows.
    #[error("peer message of term {term} has an invalid {field}: {id}")]
    Place {
        /// Name of the field that contains the impossible entry id.
        field: &'static str,
        /// The impossible entry id.
        id: EntryId,
        /// Term of the message.
        term: Term,
    },
    /// The message contains fewer bytes of the snapshot chunk than its header states.
    #[error("peer message states a snapshot chunk of {claimed} bytes, but contains {bytes} bytes")]
    Chunk {
        /// Length of the chunk in bytes according to the header.
        claimed: usize,
        /// Number of bytes in the message after the header.
        bytes: usize,
    },
    /// The message's header states more log entries than the message can contain.
    #[error("peer message states {claimed} log entries, which do not fit in its {bytes} bytes")]
    Count {
        /// Number of log entries according to the header.
        claimed: usize,
        /// Number of bytes in the message after the header.
        bytes: usize,
    },
    /// A log entry in the message is corrupt.
    #[error("invalid log entry at position {position} of a peer message: {source}")]
    Record {
        /// Position of the corrupt entry among the message's entries, from 0.
        position: usize,
        /// What is wrong with the entry.
        source: RecordError,
    },
    /// A log entry in the message is out of order: its index does not follow that of the previous
    /// entry, or its term is lower than the previous entry's or later than the message's.
    #[error(
        "peer message of term {term} has entry {found} after {previous}, which is out of order"
    )]
    Order {
        /// Id (term and index) of the entry before the one that is out of order.
        previous: EntryId,
        /// Id (term and index) of the entry that is out of order.
        found: EntryId,
        /// Term of the message.
        term: Term,
    },
    /// The message is followed by unexpected bytes.
    #[error("{bytes} unexpected bytes after the end of a peer message")]
    Trailing {
        /// Number of bytes after the end of the message.
        bytes: usize,
    },
}

/// Returns the length of the header that messages have in this version of the protocol.
fn header_bytes(protocol: ProtocolVersion) -> usize {
    if protocol == protocol::V9 { HEADER_BYTES } else { HEADER_BYTES + ADDED_BYTES }
}

/// Returns the length in bytes of `message`, encoded for this version of the protocol.
pub fn encoded_len(message: &PeerMsg, protocol: ProtocolVersion) -> usize {
    let parts = parts_of(message).map(Bytes::len).sum::<usize>();
    PREFIX_BYTES + header_bytes(protocol) + parts
}

/// Appends a message to `out`, completely encoded for this version of the protocol.
pub fn encode(message: &PeerMsg, protocol: ProtocolVersion, out: &mut BytesMut) {
    out.reserve(encoded_len(message, protocol));
    encode_head(message, protocol, out);
    for part in parts_of(message) {
        out.put_slice(part);
    }
}

/// Returns the large contents of a message: the records of log entries, or a snapshot chunk. In the
/// encoded message they follow the bytes of [`encode_head`].
pub fn parts_of(message: &PeerMsg) -> impl Iterator<Item = &Bytes> {
    let (entries, chunk): (&[Entry], Option<&Bytes>) = match message {
        PeerMsg::AppendEntries(append) => (&append.entries, None),
        PeerMsg::InstallSnapshot(install) => (&[], Some(&install.chunk)),
        PeerMsg::AppendReply(_)
        | PeerMsg::RequestVote(_)
        | PeerMsg::VoteReply(_)
        | PeerMsg::InstallReply(_)
        | PeerMsg::TimeoutNow(_)
        | PeerMsg::Rejoin(_)
        | PeerMsg::RejoinReply(_) => (&[], None),
    };
    entries.iter().map(Entry::record).chain(chunk)
}

/// Appends a message to `out`, encoded for this version of the protocol, except for its large
/// contents, [`parts_of`], which the caller must send next. This avoids copying them.
pub fn encode_head(message: &PeerMsg, protocol: ProtocolVersion, out: &mut BytesMut) {
    let header = header_of(message);
    let mut space = [0; HEADER_BYTES];
    let archive = low::to_bytes_in_with_alloc::<_, _, Failure>(
        &header,
        Buffer::from(&mut space),
        SubAllocator::empty(),
    )
    .expect("the buffer has the archive's size, and a flat archive needs no scratch space");
    let is_oldest = protocol == protocol::V9;
    let length = header_bytes(protocol);
    out.put_u8(if is_oldest { VERSION_OLDEST } else { VERSION });
    out.put_u16_le(u16::try_from(length).expect("the header is small"));
    out.put_slice(&archive);
    if !is_oldest {
        out.put_u16_le(match message {
            PeerMsg::AppendReply(reply) => reply.level.number(),
            _ => 0,
        });
    }
}

/// Decodes one message, which takes up all of `bytes`. Its log entries share the memory of `bytes`.
///
/// # Errors
/// If the bytes are not exactly one message, or the message contradicts itself. A valid message may
/// still be stale or misdirected; the Raft code checks that.
pub fn decode(mut bytes: Bytes) -> Result<PeerMsg, PeerError> {
    let needed = PREFIX_BYTES + HEADER_BYTES;
    let length = bytes.len();
    if length < PREFIX_BYTES {
        return Err(PeerError::Short { length, needed });
    }
    let version = bytes.get_u8();
    let header_length = usize::from(bytes.get_u16_le());
    let is_known = match version {
        VERSION_OLDEST => header_length == HEADER_BYTES,
        VERSION => header_length >= HEADER_BYTES + ADDED_BYTES,
        _ => false,
    };
    if !is_known {
        return Err(PeerError::Version { version, length: header_length });
    }
    let needed = PREFIX_BYTES + header_length;
    if length < needed {
        return Err(PeerError::Short { length, needed });
    }
    let archive = bytes.split_to(HEADER_BYTES);
    let mut added = bytes.split_to(header_length - HEADER_BYTES);
    let header =
        low::access::<ArchivedHeader, Failure>(&archive).map_err(|Failure| PeerError::Header)?;
    let mut message = message_of(header, &mut bytes)?;
    if let PeerMsg::AppendReply(reply) = &mut message
        && version == VERSION
    {
        let number = added.get_u16_le();
        let level = FeatureLevel::from_number(number);
        reply.level =
            level.ok_or(PeerError::Number { field: "feature level", value: number.into() })?;
    }
    if !bytes.is_empty() {
        return Err(PeerError::Trailing { bytes: bytes.len() });
    }
    Ok(message)
}
