//! Frames: the contents of a connection between two replicas. A connection is used in one
//! direction only and begins with a preamble; the first frame, the hello, identifies the sender.
//! This module converts bytes to frames and back, without sockets.
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
//! [`FRAME_BYTES_MAX`] is rejected as soon as it is read; for other frames, memory grows with the
//! bytes that have arrived and never with the claimed length. The first frame from an unknown peer
//! may not be longer than a hello.
//!
//! | kind | body |
//! |---|---|
//! | 1 hello | cluster (16), ids, incarnation, connection (8), lane, flags, counts, lists, rest |
//! | 2 peer message | see [`peer`] |
//! | 3 forwarded write | client (4), request (16), attempt (8), batch |
//! | 4 rejected forwarded write | client (4), request (16), reason (1) |
//! | 5 read index request | ticket (8) |
//! | 6 read index reply | ticket (8), index (8); without an index the sender is not leader |
//! | 9 wall clock | milliseconds since 1970 (8) |
//!
//! A hello has the ids of its sender and of its receiver. The counts are the number of members (1
//! byte) and the number of start ids (2 bytes), which are the random numbers that the sender drew
//! at its latest starts. The lists have 2 bytes for each member and 8 for each start id. The rest
//! depends on the version of the protocol (see [`protocol`]). In version 9 it is the sender's
//! addresses for clients and for peers as text, separated by a space. In version 10:
//!
//! ```text
//!  +--------+--------+-------+----------------+--------------+-----------------+-----
//!  | oldest | newest | level | client address | peer address | program version | ...
//!  +--------+--------+-------+----------------+--------------+-----------------+-----
//! ```
//!
//! The oldest and the newest version of the protocol that the sender speaks, the feature level of
//! its program (2 bytes each), and three texts, each with a length of 2 bytes before it. A later
//! version may add fields behind them, which are skipped; so a hello of version 10 is all that two
//! replicas need to agree on a version.
//!
//! The attempt of a forwarded write is a term with the highest bit set if the write is sent for the
//! first time, or a log index if it is sent again.

mod decoder;
#[cfg(test)]
mod tests;

use bytes::{BufMut, Bytes, BytesMut};

use crate::feature_level::FeatureLevel;
use crate::raft::{PeerMsg, REPLICAS_MAX, RefusalReason};
use crate::record::RECORD_BYTES_MAX;
use crate::types::{Index, NodeId, RequestKey, Term};

use super::peer::{self, PeerError};
use super::protocol::{self, ProtocolVersion, ProtocolVersions};

pub use decoder::Decoder;

/// Magic number: the first bytes of every connection between replicas.
const MAGIC: [u8; 4] = *b"BOWL";
/// Length in bytes of the preamble at the start of a connection between replicas: magic number and
/// protocol version.
pub const PREAMBLE_BYTES: usize = 6;
/// Length in bytes of the header of each frame: the frame's length and checksum.
const HEADER_BYTES: usize = 8;
/// Maximum length of a frame in bytes, excluding its header: the largest log record plus 1 MiB for
/// all other fields.
pub const FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX + (1 << 20);
/// Maximum length in bytes of each address in a hello message.
const ADDRESS_BYTES_MAX: usize = 512;
/// Maximum length in bytes of the program's version in a hello message.
const PROGRAM_BYTES_MAX: usize = 64;
/// Maximum length in bytes of what later versions add to a hello message.
const HELLO_ADDED_BYTES_MAX: usize = 4_096;
/// Maximum number of starts of the sender for which a hello message contains the random number that
/// was drawn. A replica's folder records at most the same number of starts.
pub const START_IDS_MAX: usize = 4_096;
/// Length in bytes of the fixed-length fields of a hello message, without members, starts and
/// addresses.
const HELLO_BYTES: usize = 41;
/// Maximum length in bytes, excluding the frame's header, of the first frame from a peer that has
/// not identified itself yet.
const FIRST_FRAME_BYTES_MAX: usize = 1
    + HELLO_BYTES
    + REPLICAS_MAX * 2
    + START_IDS_MAX * 8
    + 6 * 2
    + 2 * ADDRESS_BYTES_MAX
    + PROGRAM_BYTES_MAX
    + HELLO_ADDED_BYTES_MAX;
/// Bit in the flags of a hello message: the sender is rejoining the cluster after losing its disk.
const REJOINING: u8 = 1;

/// The hello message, the first frame of a connection between replicas. It identifies the sender,
/// and says which kind of frames follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Id of the cluster that the sender belongs to.
    pub cluster: u128,
    /// Id of the replica that sends the hello.
    pub from: NodeId,
    /// Id of the replica that the sender wants to connect to.
    pub to: NodeId,
    /// Number of times that the sender has been started. If it is higher than in an earlier hello,
    /// the sender has been restarted since.
    pub incarnation: u64,
    /// Sequence number of this connection among all connections that the sender has made since its
    /// start. If two connections exist for the same lane, the receiver reads only from the one with
    /// the higher number.
    pub connection: u64,
    /// Random numbers that the sender drew at its latest starts, one per start, newest last; at
    /// most [`START_IDS_MAX`]. They let the receiver detect a sender that runs on an older copy of
    /// its folder.
    pub start_ids: Vec<u64>,
    /// Ids of the voters with which the sender's cluster was created, in ascending order, including
    /// the sender; empty if the sender joined later.
    pub members: Vec<NodeId>,
    /// Whether the sender is rejoining the cluster after losing its disk. A rejoining replica does
    /// not vote until its log again contains everything that it may have acknowledged.
    pub rejoining: bool,
    /// Kind of frames that this connection carries: small urgent ones or large ones.
    pub lane: Lane,
    /// Address at which the sender accepts clients, to which other replicas redirect clients; empty
    /// if unknown.
    pub client_address: String,
    /// Address at which the sender accepts other replicas; empty if unknown.
    pub peer_address: String,
    /// Versions of the protocol that the sender speaks. Version 9 does not state them: from it they
    /// are [`ProtocolVersions::V0_1`], or with [`protocol::SPEAKS_V10`] in the connection's number
    /// [`ProtocolVersions::OWN`].
    pub versions: ProtocolVersions,
    /// Feature level of the sender's program. Version 9 does not state it: from it this is the
    /// level of version 0.1, or with [`protocol::SPEAKS_V10`] that of version 0.2.
    pub level: FeatureLevel,
    /// Version of the sender's program, such as `0.2.0`; empty if unknown.
    pub program: String,
}

/// Kind of frames that a connection carries. Each replica has one connection per lane to each peer,
/// so that small urgent messages do not wait for large ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Small frames: heartbeats, votes and replies.
    Urgent,
    /// Large frames: log entries, snapshots and forwarded writes.
    Bulk,
}

/// Whether a forwarded write is sent for the first time or again, so that the leader applies it
/// only once. The leader appends the write only if the deduplication table would still contain an
/// earlier copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The write is sent for the first time. Only the leader of the term `term` accepts it, because
    /// a delayed copy that arrives at a later leader could be a duplicate.
    First {
        /// Term in which the receiver is believed to be the leader.
        term: Term,
    },
    /// The write is sent again, because the outcome of the previous attempt is unknown.
    Again {
        /// Log index up to which the log contains no earlier copy of the write.
        since: Index,
    },
}

/// A frame: one message on a connection between replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First frame of a connection, which identifies the sender.
    Hello(Hello),
    /// A Raft message from one replica to another.
    Peer(PeerMsg),
    /// A client's write that a replica forwards to the leader. The leader replies only if it
    /// rejects the write; otherwise the sender learns the outcome by applying the write's log
    /// entry.
    Forward {
        /// Unique key of the request, by which duplicates of the write are detected.
        key: RequestKey,
        /// Whether the write is sent for the first time or again, in which case the log may contain
        /// an earlier copy.
        attempt: Attempt,
        /// The write commands, encoded as a batch.
        payload: Bytes,
    },
    /// Reply to [`Frame::Forward`] if the leader rejects the write: the write was not applied and
    /// never will be.
    Refused {
        /// Unique key of the rejected write's request.
        key: RequestKey,
        /// Reason why the write was rejected.
        reason: RefusalReason,
    },
    /// Asks the leader for a read index: the log index up to which the sender must apply entries
    /// before it serves the reads that it has received so far.
    AskReadIndex {
        /// Number chosen by the sender, which the reply repeats.
        ticket: u64,
    },
    /// The reply to [`Frame::AskReadIndex`].
    ReadIndex {
        /// The number in the request that this reply answers.
        ticket: u64,
        /// Read index: log index up to which entries must be applied before reads are served.
        /// `None` if the replying replica is not the leader.
        index: Option<Index>,
    },
    /// States the time of the sender's wall clock, smoothed so that it has no sudden jumps.
    WallClock {
        /// Unix time in milliseconds.
        millis: u64,
    },
}

/// Reason why bytes received from a peer are not a valid frame. The connection must be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The connection does not begin with the magic number, so it does not come from a replica.
    #[error(
        "not a connection from a replica: it begins with {0:02x?} instead of \"BOWL\"{hint}; check \
         what connects to the port for peers", hint = tls_hint(.0)
    )]
    Magic([u8; 4]),
    /// The peer uses a version of the protocol between replicas that this program does not speak.
    #[error(
        "the peer speaks version {0} of the protocol, this replica versions {own}: upgrade the \
         older of the two to a version of bowline that is not more than one step behind the other",
        own = ProtocolVersions::OWN
    )]
    Version(ProtocolVersion),
    /// The frame has no contents, or is longer than allowed.
    #[error("frame of {claimed} bytes from a peer; the length must be from 1 to {max} bytes")]
    Length {
        /// Length of the frame in bytes according to its header.
        claimed: usize,
        /// Maximum length of a frame at this point of the connection, in bytes.
        max: usize,
    },
    /// The frame's checksum is wrong: the frame was damaged in transit.
    #[error(
        "frame from a peer is damaged: its checksum is {computed:08x}, not {stored:08x}; check \
         the network"
    )]
    Checksum {
        /// Checksum computed from the received bytes.
        computed: u32,
        /// Checksum in the frame's header.
        stored: u32,
    },
    /// The frame is of an unknown kind, whose number is given.
    #[error(
        "frame of unknown kind {0} from a peer; its version of bowline does not follow the protocol"
    )]
    Kind(u8),
    /// The contents of a frame of the given kind are malformed.
    #[error("malformed contents of a frame of kind {0} from a peer")]
    Body(u8),
    /// The Raft message in the frame is malformed.
    #[error(transparent)]
    Message(#[from] PeerError),
}

/// Returns what is to be added to the error if a connection begins with a handshake of TLS.
fn tls_hint(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(&[0x16, 0x03]) {
        ", which is TLS, but this replica has no --peer-tls-cert-file"
    } else {
        ""
    }
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

    /// Returns the lane of the frame: which of the two connections to a peer, one for small urgent
    /// frames and one for large frames, carries it.
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

    /// Returns the lowest version of the protocol that has the frame. It is not sent to a peer that
    /// does not speak this version.
    pub fn oldest_version(&self) -> ProtocolVersion {
        protocol::V9
    }

    /// Returns the large contents of the frame: log records, a snapshot chunk, or a write's
    /// payload. On the connection they follow the bytes of [`encode_head`], in this order.
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

/// Appends the preamble of a connection between replicas to `out`: magic number and protocol
/// version.
pub fn encode_preamble(version: ProtocolVersion, out: &mut BytesMut) {
    out.put_slice(&MAGIC);
    out.put_u16_le(version);
}

/// Appends a frame to `out`, encoded in this version of the protocol, except for its large
/// contents, [`Frame::parts`], which the caller must send next. This avoids copying them.
pub fn encode_head(frame: &Frame, version: ProtocolVersion, out: &mut BytesMut) {
    assert!(ProtocolVersions::OWN.contains(version), "version {version} of the protocol");
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    out.put_u8(frame.kind());
    match frame {
        Frame::Hello(hello) => put_hello(hello, version, out),
        Frame::Peer(message) => peer::encode_head(message, version, out),
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

/// Appends a frame to `out`, completely encoded in this version of the protocol, including its
/// large contents.
pub fn encode(frame: &Frame, version: ProtocolVersion, out: &mut BytesMut) {
    encode_head(frame, version, out);
    for part in frame.parts() {
        out.put_slice(part);
    }
}

/// Bit that marks a term in a forwarded write's field `attempt`: if it is set, the other bits are a
/// term ([`Attempt::First`]), otherwise a log index ([`Attempt::Again`]). Terms and indexes never
/// use this bit.
const FIRST_ATTEMPT: u64 = 1 << 63;
const _: () = assert!(Term::MAX.0 & FIRST_ATTEMPT == 0 && Index::MAX.0 & FIRST_ATTEMPT == 0);
/// Length in bytes of an encoded request key, which identifies a write.
const KEY_BYTES: usize = 20;

fn put_hello(hello: &Hello, version: ProtocolVersion, out: &mut BytesMut) {
    out.put_u128_le(hello.cluster);
    out.put_u16_le(hello.from.0);
    out.put_u16_le(hello.to.0);
    out.put_u64_le(hello.incarnation);
    out.put_u64_le(hello.connection);
    out.put_u8(match hello.lane {
        Lane::Urgent => 0,
        Lane::Bulk => 1,
    });
    out.put_u8(if hello.rejoining { REJOINING } else { 0 });
    let (members, start_ids) = (&hello.members, &hello.start_ids);
    assert!(members.len() <= REPLICAS_MAX, "{} members", members.len());
    assert!(start_ids.len() <= START_IDS_MAX, "{} start ids", start_ids.len());
    out.put_u8(u8::try_from(members.len()).expect("at most REPLICAS_MAX"));
    out.put_u16_le(u16::try_from(start_ids.len()).expect("at most START_IDS_MAX"));
    for member in members {
        out.put_u16_le(member.0);
    }
    for start_id in start_ids {
        out.put_u64_le(*start_id);
    }
    if version == protocol::V9 {
        out.put_slice(hello.client_address.as_bytes());
        out.put_u8(b' ');
        out.put_slice(hello.peer_address.as_bytes());
        return;
    }
    out.put_u16_le(hello.versions.oldest);
    out.put_u16_le(hello.versions.newest);
    out.put_u16_le(hello.level.number());
    for text in [&hello.client_address, &hello.peer_address, &hello.program] {
        out.put_u16_le(u16::try_from(text.len()).expect("a short text"));
        out.put_slice(text.as_bytes());
    }
}

fn put_key(key: RequestKey, out: &mut BytesMut) {
    out.put_u32_le(key.client.0);
    out.put_slice(&key.request.0);
}
