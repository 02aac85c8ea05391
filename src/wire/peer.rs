//! Messages between replicas as bytes: a header archived by rkyv, then the entries' records exactly
//! as they are in the log and on disk, or a chunk of a snapshot.
//!
//! ```text
//!  0         1               3
//!  +---------+---------------+------------------------+----------+----------+-----
//!  | version | header length |  header (rkyv archive) |  record  |  record  | ...
//!  +---------+---------------+------------------------+----------+----------+-----
//! ```
//!
//! The end of a message follows from its container: a datagram, a frame, a JSON field. So do its
//! sender and receiver. The header is a flat archive of one fixed length, read through rkyv's
//! checked access only.

mod header;
#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rkyv::Archived;
use rkyv::api::low;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::Buffer;

use crate::raft::PeerMsg;
use crate::record::{Entry, RecordError};
use crate::types::{EntryId, Term};

use self::header::{ArchivedHeader, Header, header_of, message_of};

/// The version of this layout.
const VERSION: u8 = 2;
/// Length of the version and the header length, in bytes.
const PREFIX_BYTES: usize = 3;
/// Length of the header in bytes.
const HEADER_BYTES: usize = size_of::<Archived<Header>>();

/// Why bytes are not a message of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The message is shorter than its header.
    #[error("peer message of {length} bytes is too short, at least {needed} are needed")]
    Short {
        /// Length of the message in bytes.
        length: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// The message has another layout.
    #[error(
        "peer message has version {version} and a header of {length} bytes, expected {VERSION} and \
         {HEADER_BYTES}; run the same version of bowline everywhere"
    )]
    Version {
        /// The version in the message.
        version: u8,
        /// The header length in the message.
        length: usize,
    },
    /// The header is not a valid archive.
    #[error("peer message has a malformed header")]
    Header,
    /// A number is out of range.
    #[error("peer message has an invalid {field}: {value}")]
    Number {
        /// The name of the number.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// An entry id is not one that a log can have, or is of a later term than possible.
    #[error("peer message of term {term} has an invalid {field}: {id}")]
    Place {
        /// The name of the entry id.
        field: &'static str,
        /// Its value.
        id: EntryId,
        /// The message's term.
        term: Term,
    },
    /// The snapshot chunk is shorter than the header claims.
    #[error("peer message claims a chunk of {claimed} bytes, but has {bytes}")]
    Chunk {
        /// Length of the chunk in bytes as the header claims.
        claimed: usize,
        /// Bytes after the header.
        bytes: usize,
    },
    /// The header claims more entries than fit in the message.
    #[error("peer message claims {claimed} entries, which do not fit in its {bytes} bytes")]
    Count {
        /// The number of entries that the header claims.
        claimed: usize,
        /// Bytes after the header.
        bytes: usize,
    },
    /// An entry is damaged.
    #[error("entry {position} of a peer message: {source}")]
    Record {
        /// The entry's position in the message, from 0.
        position: usize,
        /// The damage.
        source: RecordError,
    },
    /// An entry does not follow the previous one, or is of a later term than the message.
    #[error(
        "peer message of term {term} has entry {found} after {previous}, which is out of order"
    )]
    Order {
        /// The previous entry.
        previous: EntryId,
        /// The entry.
        found: EntryId,
        /// The message's term.
        term: Term,
    },
    /// There are bytes after the end of the message.
    #[error("{bytes} unexpected bytes after the end of a peer message")]
    Trailing {
        /// The number of bytes.
        bytes: usize,
    },
}

/// The number of bytes that [`encode`] appends for `message`.
pub fn encoded_len(message: &PeerMsg) -> usize {
    PREFIX_BYTES + HEADER_BYTES + parts_of(message).map(Bytes::len).sum::<usize>()
}

/// Appends `message` to `out`.
pub fn encode(message: &PeerMsg, out: &mut BytesMut) {
    out.reserve(encoded_len(message));
    encode_head(message, out);
    for part in parts_of(message) {
        out.put_slice(part);
    }
}

/// The parts of a message that follow its head: the records of entries, or a chunk.
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

/// Appends `message` without its [`parts_of`] to `out`, for callers that send these without copying
/// them.
pub fn encode_head(message: &PeerMsg, out: &mut BytesMut) {
    let header = header_of(message);
    let mut space = [0; HEADER_BYTES];
    let archive = low::to_bytes_in_with_alloc::<_, _, Failure>(
        &header,
        Buffer::from(&mut space),
        SubAllocator::empty(),
    )
    .expect("the buffer has the archive's size, and a flat archive needs no scratch space");
    out.put_u8(VERSION);
    out.put_u16_le(u16::try_from(HEADER_BYTES).expect("the header is small"));
    out.put_slice(&archive);
}

/// Decodes a message, which has to be all of `bytes`. Its entries share their memory.
///
/// # Errors
/// If the bytes are not exactly one message, or the message contradicts itself. A valid message may
/// still be stale or misdirected: the consensus core checks that.
pub fn decode(mut bytes: Bytes) -> Result<PeerMsg, PeerError> {
    let needed = PREFIX_BYTES + HEADER_BYTES;
    let length = bytes.len();
    if length < PREFIX_BYTES {
        return Err(PeerError::Short { length, needed });
    }
    let version = bytes.get_u8();
    let header_length = usize::from(bytes.get_u16_le());
    if version != VERSION || header_length != HEADER_BYTES {
        return Err(PeerError::Version { version, length: header_length });
    }
    if length < needed {
        return Err(PeerError::Short { length, needed });
    }
    let archive = bytes.split_to(HEADER_BYTES);
    let header =
        low::access::<ArchivedHeader, Failure>(&archive).map_err(|Failure| PeerError::Header)?;
    let message = message_of(header, &mut bytes)?;
    if !bytes.is_empty() {
        return Err(PeerError::Trailing { bytes: bytes.len() });
    }
    Ok(message)
}
