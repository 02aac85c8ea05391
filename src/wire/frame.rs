//! Frames: the contents of a TCP connection between two replicas. It is used in one direction only
//! and begins with a preamble; the first frame, the hello, identifies the sender. Bytes to frames
//! and back, without sockets.
//!
//! ```text
//!  preamble                    frame, repeated
//!  0        4         6        0        4         8      9
//!  +--------+---------+        +--------+---------+------+----------+
//!  | "BOWL" | version |        | length | crc32c  | kind |   body   |
//!  +--------+---------+        +--------+---------+------+----------+
//! ```
//!
//! Little endian. Length and checksum cover the kind and the body. A length above
//! [`FRAME_BYTES_MAX`] is rejected as soon as it is read; below, memory grows with the bytes that
//! have arrived and never with the length that is claimed. Before the hello no frame may be longer
//! than a hello.
//!
//! | kind | body |
//! |---|---|
//! | 1 hello | cluster (16), from, to, incarnation (8), lane, flags (1), counts, lists, address |
//! | 2 peer message | see [`peer`] |
//! | 3 forwarded write | client (4), request (16), attempt (8), command |
//! | 4 rejected forwarded write | client (4), request (16), reason (1) |
//! | 5 read index request | ticket (8) |
//! | 6 read index reply | ticket (8), index (8); without an index the sender is not leader |
//! | 9 wall clock | milliseconds since 1970 (8) |
//!
//! The counts of a hello are the number of members (1) and of openings (2); the lists have 2 and 8
//! bytes for each.
//!
//! The attempt of a forwarded write is a log index when the write is sent again. The first time it
//! is a term with the highest bit set.

mod decoder;
#[cfg(test)]
mod tests;

use bytes::{BufMut, Bytes, BytesMut};

use crate::raft::{PeerMsg, REPLICAS_MAX, RefusalReason};
use crate::record::RECORD_BYTES_MAX;
use crate::types::{Index, NodeId, RequestKey, Term};

use super::peer::{self, PeerError};

pub use decoder::Decoder;

/// The first bytes of every connection between replicas.
const MAGIC: [u8; 4] = *b"BOWL";
/// The version of this layout, and of peer messages and commands inside.
pub const VERSION: u16 = 4;
/// Length of the preamble in bytes.
pub const PREAMBLE_BYTES: usize = 6;
/// Length of a frame's header: its length and checksum.
const HEADER_BYTES: usize = 8;
/// Longest frame without its header, in bytes: the largest record and 1 MiB for the rest.
pub const FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX + (1 << 20);
/// Longest client address in a hello, in bytes.
const ADDRESS_BYTES_MAX: usize = 256;
/// Most openings in a hello: as many as a replica keeps.
pub const OPENINGS_MAX: usize = 4_096;
/// Length of a hello's body without members, openings and address, in bytes.
const HELLO_BYTES: usize = 33;
/// Longest first frame of an unknown peer, in bytes.
const FIRST_FRAME_BYTES_MAX: usize =
    1 + HELLO_BYTES + REPLICAS_MAX * 2 + OPENINGS_MAX * 8 + ADDRESS_BYTES_MAX;
/// The flag of a replica that rejoins.
const REJOINING: u8 = 1;

/// The first frame: identifies the sender and says what the connection is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster that the sender belongs to.
    pub cluster: u128,
    /// The sender.
    pub from: NodeId,
    /// The replica that the sender means to talk to.
    pub to: NodeId,
    /// How often the sender's log has been opened. Distinguishes a restarted replica from its
    /// earlier runs.
    pub incarnation: u64,
    /// The random numbers drawn at the latest openings of the sender's log, the newest last; at
    /// most [`OPENINGS_MAX`]. Distinguish a replica from an older copy of its folder.
    pub openings: Vec<u64>,
    /// The ids of all voters of the sender's cluster, ascending; the sender is one of them.
    pub members: Vec<NodeId>,
    /// The sender has lost its disk and does not vote before it holds again what it may have
    /// acknowledged.
    pub rejoining: bool,
    /// The frames that the connection carries.
    pub lane: Lane,
    /// The address for the sender's clients, for redirections; empty if unknown.
    pub client_address: String,
}

/// The frames of a connection: small messages must not wait behind large ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Heartbeats, votes, replies.
    Urgent,
    /// Entries, snapshots and forwarded writes.
    Bulk,
}

/// Which attempt a forwarded write is. The leader appends it only if another copy in the log would
/// still be in the deduplication table, so each attempt bounds how far back a copy can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The first attempt, valid only for the leader of this term: a delayed copy that arrives after
    /// the sender has tried another leader must not be taken for a new write.
    First {
        /// The term in which the sender believes the receiver to be leader.
        term: Term,
    },
    /// The outcome of the previous attempt is unknown.
    Again {
        /// There is no copy in the log up to this index.
        since: Index,
    },
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first frame of a connection.
    Hello(Hello),
    /// A message of the consensus core.
    Peer(PeerMsg),
    /// A client's write, from the replica that the client is connected to, to the leader. There is
    /// a reply only if it is rejected: otherwise the sender sees the write applied.
    Forward {
        /// Identifies the write, so that it is not applied twice.
        key: RequestKey,
        /// Whether there may be another copy.
        attempt: Attempt,
        /// An encoded command of the state machine.
        payload: Bytes,
    },
    /// A forwarded write was not applied and will not be.
    Refused {
        /// The write's key.
        key: RequestKey,
        /// The reason.
        reason: RefusalReason,
    },
    /// Asks the leader for a read index: the index that the sender must have applied before it
    /// serves the reads that have arrived so far.
    AskReadIndex {
        /// Identifies the request.
        ticket: u64,
    },
    /// The reply to [`Frame::AskReadIndex`].
    ReadIndex {
        /// The request's ticket.
        ticket: u64,
        /// The read index; `None` if the sender is not leader.
        index: Option<Index>,
    },
    /// The sender's wall clock, without its jumps.
    WallClock {
        /// Milliseconds since 1970.
        millis: u64,
    },
}

/// Why bytes are not a frame. The connection has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The preamble does not begin with [`MAGIC`].
    #[error(
        "not a connection from a replica: it begins with {0:02x?} instead of \"BOWL\"; check what \
         connects to the port for peers"
    )]
    Magic([u8; 4]),
    /// The preamble has another version.
    #[error(
        "the peer speaks version {0} of the protocol, this replica version {VERSION}; run the same \
         version of bowline everywhere"
    )]
    Version(u16),
    /// The frame is empty or too long.
    #[error("frame of {claimed} bytes from a peer, 1 to {max} are allowed")]
    Length {
        /// The length that the frame claims.
        claimed: usize,
        /// The longest frame allowed now.
        max: usize,
    },
    /// The frame was damaged in transit.
    #[error(
        "frame from a peer is damaged: its checksum is {computed:08x}, not {stored:08x}; check \
         the network"
    )]
    Checksum {
        /// The checksum of the bytes received.
        computed: u32,
        /// The checksum sent with them.
        stored: u32,
    },
    /// This version does not know the kind.
    #[error("frame of unknown kind {0} from a peer; run the same version of bowline everywhere")]
    Kind(u8),
    /// The body is malformed.
    #[error("malformed frame of kind {0} from a peer")]
    Body(u8),
    /// The peer message inside is malformed.
    #[error(transparent)]
    Message(#[from] PeerError),
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Frame::Hello(_) => 1,
            Frame::Peer(_) => 2,
            Frame::Forward { .. } => 3,
            Frame::Refused { .. } => 4,
            Frame::AskReadIndex { .. } => 5,
            Frame::ReadIndex { .. } => 6,
            Frame::WallClock { .. } => 9,
        }
    }

    /// The connection that the frame is sent on.
    pub fn lane(&self) -> Lane {
        match self {
            Frame::Peer(PeerMsg::AppendEntries(append)) if !append.entries.is_empty() => Lane::Bulk,
            Frame::Peer(PeerMsg::InstallSnapshot(_)) | Frame::Forward { .. } => Lane::Bulk,
            Frame::Hello(_)
            | Frame::Peer(_)
            | Frame::Refused { .. }
            | Frame::AskReadIndex { .. }
            | Frame::ReadIndex { .. }
            | Frame::WallClock { .. } => Lane::Urgent,
        }
    }

    /// The large parts, which follow the head in this order.
    pub fn parts(&self) -> impl Iterator<Item = &Bytes> {
        let message = match self {
            Frame::Peer(message) => Some(peer::parts_of(message)),
            _ => None,
        };
        let payload = match self {
            Frame::Forward { payload, .. } => Some(payload),
            _ => None,
        };
        message.into_iter().flatten().chain(payload)
    }
}

/// Appends the preamble.
pub fn encode_preamble(out: &mut BytesMut) {
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
}

/// Appends `frame` without its [`Frame::parts`], whose bytes must follow. Parts can be large, so
/// they are sent without being copied.
pub fn encode_head(frame: &Frame, out: &mut BytesMut) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    out.put_u8(frame.kind());
    match frame {
        Frame::Hello(hello) => {
            out.put_u128_le(hello.cluster);
            out.put_u16_le(hello.from.0);
            out.put_u16_le(hello.to.0);
            out.put_u64_le(hello.incarnation);
            out.put_u8(match hello.lane {
                Lane::Urgent => 0,
                Lane::Bulk => 1,
            });
            out.put_u8(if hello.rejoining { REJOINING } else { 0 });
            let (members, openings) = (&hello.members, &hello.openings);
            assert!(members.len() <= REPLICAS_MAX, "{} members", members.len());
            assert!(openings.len() <= OPENINGS_MAX, "{} openings", openings.len());
            out.put_u8(u8::try_from(members.len()).expect("at most REPLICAS_MAX"));
            out.put_u16_le(u16::try_from(openings.len()).expect("at most OPENINGS_MAX"));
            for member in members {
                out.put_u16_le(member.0);
            }
            for opening in openings {
                out.put_u64_le(*opening);
            }
            out.put_slice(hello.client_address.as_bytes());
        }
        Frame::Peer(message) => peer::encode_head(message, out),
        Frame::Forward { key, attempt, .. } => {
            put_key(*key, out);
            out.put_u64_le(match attempt {
                Attempt::First { term } => FIRST_ATTEMPT | term.0,
                Attempt::Again { since } => since.0,
            });
        }
        Frame::Refused { key, reason } => {
            put_key(*key, out);
            out.put_u8(match reason {
                RefusalReason::NotLeader => 0,
                RefusalReason::Replaced => 1,
                RefusalReason::Busy => 2,
                RefusalReason::DiskFull => 3,
                RefusalReason::OutOfMemory => 4,
            });
        }
        Frame::AskReadIndex { ticket } => out.put_u64_le(*ticket),
        Frame::WallClock { millis } => out.put_u64_le(*millis),
        Frame::ReadIndex { ticket, index } => {
            out.put_u64_le(*ticket);
            if let Some(index) = index {
                out.put_u64_le(index.0);
            }
        }
    }
    let head = &out[start + HEADER_BYTES..];
    let (mut checksum, mut length) = (crc32c::crc32c(head), head.len());
    for part in frame.parts() {
        checksum = crc32c::crc32c_append(checksum, part);
        length += part.len();
    }
    let length = u32::try_from(length).expect("a frame stays below FRAME_BYTES_MAX");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// Appends `frame` with its parts.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    encode_head(frame, out);
    for part in frame.parts() {
        out.put_slice(part);
    }
}

/// Set in a forwarded write's attempt if the other bits are a term. Terms and indexes are smaller.
const FIRST_ATTEMPT: u64 = 1 << 63;
const _: () = assert!(Term::MAX.0 & FIRST_ATTEMPT == 0 && Index::MAX.0 & FIRST_ATTEMPT == 0);
/// Length of a request's key in bytes.
const KEY_BYTES: usize = 20;

fn put_key(key: RequestKey, out: &mut BytesMut) {
    out.put_u32_le(key.client.0);
    out.put_slice(&key.request.0);
}
