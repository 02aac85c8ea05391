//! What travels on a TCP connection between two replicas: one way only, a preamble, then frames,
//! the first of which says who speaks. Bytes in, frames out; sockets are the runtime's.
//!
//! ```text
//!  preamble                    frame, as often as wanted
//!  0        4         6        0        4         8      9
//!  +--------+---------+        +--------+---------+------+----------+
//!  | "BOWL" | version |        | length | crc32c  | kind |   body   |
//!  +--------+---------+        +--------+---------+------+----------+
//! ```
//!
//! Little endian. `length` counts the kind and the body, and so does the checksum. A length beyond
//! [`FRAME_BYTES_MAX`] is refused as it is read; below, memory grows with the bytes that have come
//! and never with what the length claims (safety.md H2). Of one who has not said who it is, no
//! frame longer than a hello is taken at all.
//!
//! | kind | body |
//! |---|---|
//! | 1 hello | cluster (16), from, to, incarnation (8), lane, flags (1), counts, lists, address |
//! | 2 peer message | as [`peer`] has it |
//! | 3 forwarded write | client (4), request (16), attempt (8), command |
//! | 4 refusal of one | client (4), request (16), reason (1) |
//! | 5 question for a read index | ticket (8) |
//! | 6 the answer | ticket (8), index (8); no index: not asked the leader |
//! | 9 wall clock | milliseconds since 1970 (8) |
//!
//! The counts of a hello are those of its members (1) and of its openings (2); the lists have 2 and
//! 8 bytes for each of them.
//!
//! An attempt is an index where the write is sent again; the first time it is a term, and its
//! highest bit is set.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::raft::{PeerMsg, REPLICAS_MAX, RefusalReason};
use crate::record::RECORD_BYTES_MAX;
use crate::types::{ClientId, Index, NodeId, RequestId, RequestKey, Term};

use super::peer::{self, PeerError};

/// What every connection between replicas begins with.
const MAGIC: [u8; 4] = *b"BOWL";
/// The version of this layout and of all that it carries.
pub const VERSION: u16 = 3;
/// Bytes of the preamble.
pub const PREAMBLE_BYTES: usize = 6;
/// Bytes before a frame's kind.
const HEADER_BYTES: usize = 8;
/// Longest frame, its header apart: the largest record, or an append of the usual 1 MiB.
pub const FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX + (1 << 20);
/// Longest client address in a hello.
const ADDRESS_BYTES_MAX: usize = 256;
/// Most openings in a hello: all that a replica remembers.
pub const OPENINGS_MAX: usize = 4_096;
/// Bytes of a hello without members, openings and address, the kind apart.
const HELLO_BYTES: usize = 33;
/// Longest first frame of a stranger.
const FIRST_FRAME_BYTES_MAX: usize =
    1 + HELLO_BYTES + REPLICAS_MAX * 2 + OPENINGS_MAX * 8 + ADDRESS_BYTES_MAX;
/// The flag of a replica that rejoins.
const REJOINING: u8 = 1;

/// Who opens a connection, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which cluster the sender belongs to.
    pub cluster: u128,
    /// The sender.
    pub from: NodeId,
    /// Whom it believes to talk to.
    pub to: NodeId,
    /// How often the sender's log was opened: tells it from its own past.
    pub incarnation: u64,
    /// The random numbers of the latest openings, the newest last: tells it from an older copy.
    /// At most [`OPENINGS_MAX`].
    pub openings: Vec<u64>,
    /// The ids of all voters of the sender's cluster, ascending; the sender is one of them.
    pub members: Vec<NodeId>,
    /// The sender has lost what it had acknowledged, and does not vote before it holds it again.
    pub rejoining: bool,
    /// What the connection is for.
    pub lane: Lane,
    /// Where the sender's clients connect, for those that are sent there; may be empty.
    pub client_address: String,
}

/// Small messages must not wait behind large ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Heartbeats, votes, answers.
    Urgent,
    /// Entries and forwarded writes.
    Bulk,
}

/// Which copy of a forwarded write this is. Whoever appends it must be sure that another copy, if
/// there is one in the log, is remembered; so each copy says what bounds the distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The only one so far. For the leader of this term and nobody else: one that comes to light
    /// when its sender has long tried elsewhere must not be taken for a new write.
    First {
        /// In which its sender believes that the addressee leads.
        term: Term,
    },
    /// Nobody knows what became of the copy before.
    Again {
        /// No copy is in the log up to here.
        since: Index,
    },
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first one.
    Hello(Hello),
    /// Of the consensus core.
    Peer(PeerMsg),
    /// A client's write, from the replica that it is connected with to the leader. Answered only
    /// if it is refused: else its sender sees it applied.
    Forward {
        /// Names it for good, so that it is not applied twice.
        key: RequestKey,
        /// Whether another copy of it may be about.
        attempt: Attempt,
        /// For the state machine.
        payload: Bytes,
    },
    /// A forwarded write that was not and will not be applied.
    Refused {
        /// Which.
        key: RequestKey,
        /// Why.
        reason: RefusalReason,
    },
    /// How far must my state be for the reads that have come by now?
    AskReadIndex {
        /// Names the question.
        ticket: u64,
    },
    /// So far.
    ReadIndex {
        /// Which question.
        ticket: u64,
        /// How far; `None` if the one asked could not tell.
        index: Option<Index>,
    },
    /// The sender's wall clock, jumps filtered out.
    WallClock {
        /// Milliseconds since 1970.
        millis: u64,
    },
}

/// Why bytes are no frame. Whatever it is, the connection is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Somebody else's protocol.
    #[error("no connection of a replica: it begins with {0:02x?}")]
    Magic([u8; 4]),
    /// Another version than ours.
    #[error(
        "a peer speaks version {0} of the protocol, here it is {VERSION}: run the same \
             version of bowline everywhere"
    )]
    Version(u16),
    /// A frame without a kind, or too long.
    #[error("a peer's frame claims {claimed} bytes; 1 to {most} are possible")]
    Length {
        /// What it claims.
        claimed: usize,
        /// What is possible here.
        most: usize,
    },
    /// Damaged on its way.
    #[error("a peer's frame is damaged: checksum {computed:08x}, expected {stored:08x}")]
    Checksum {
        /// Over the bytes as they are.
        computed: u32,
        /// As sent.
        stored: u32,
    },
    /// A kind that this version does not know.
    #[error("a peer's frame has the unknown kind {0}")]
    Kind(u8),
    /// A body of a known kind that is none.
    #[error("a peer's frame of kind {0} is malformed")]
    Body(u8),
    /// A message of the core that is none.
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

    /// Which connection it takes.
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

    /// The large parts, in order, which follow the head.
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

/// Appends what a connection begins with.
pub fn encode_preamble(out: &mut BytesMut) {
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
}

/// Appends `frame` without its [`Frame::parts`], whose bytes must follow as they are: they can be
/// large, and are sent from where they lie.
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
                Attempt::First { term } => FIRST_TIME | term.0,
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

/// Appends the whole of `frame`.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    encode_head(frame, out);
    for part in frame.parts() {
        out.put_slice(part);
    }
}

/// Puts the frames of one connection together from the pieces in which they come.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    greeted: bool,
    /// Longest frame that is taken.
    most: usize,
}

impl Default for Decoder {
    /// One that takes any frame from the start.
    fn default() -> Decoder {
        Decoder { buffer: BytesMut::new(), greeted: false, most: FRAME_BYTES_MAX }
    }
}

impl Decoder {
    /// For a connection of somebody unknown: until its first frame, which ought to be a hello, no
    /// frame longer than that is taken, and so no memory for one.
    pub fn for_unknown_peer() -> Decoder {
        Decoder { most: FIRST_FRAME_BYTES_MAX, ..Decoder::default() }
    }

    /// Takes in what has come.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that wait for the rest of their frame.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The next frame, if all of it has come. Its large parts share the memory of what was fed.
    ///
    /// # Errors
    /// If there is none and never will be: the connection is to be closed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if !self.greeted {
            if self.buffer.len() < PREAMBLE_BYTES {
                return Ok(None);
            }
            let mut preamble = self.buffer.split_to(PREAMBLE_BYTES);
            let mut magic = [0; 4];
            preamble.copy_to_slice(&mut magic);
            if magic != MAGIC {
                return Err(FrameError::Magic(magic));
            }
            let version = preamble.get_u16_le();
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            self.greeted = true;
        }
        let Some(mut header) = self.buffer.get(..HEADER_BYTES) else { return Ok(None) };
        let length = header.get_u32_le() as usize;
        let stored = header.get_u32_le();
        if !(1..=self.most).contains(&length) {
            return Err(FrameError::Length { claimed: length, most: self.most });
        }
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let mut body = self.buffer.split_to(length).freeze();
        let computed = crc32c::crc32c(&body);
        if computed != stored {
            return Err(FrameError::Checksum { computed, stored });
        }
        let kind = body.get_u8();
        let frame = decode_body(kind, body)?;
        self.most = FRAME_BYTES_MAX;
        Ok(Some(frame))
    }
}

fn decode_body(kind: u8, mut body: Bytes) -> Result<Frame, FrameError> {
    let exactly = |wanted: bool| if wanted { Ok(()) } else { Err(FrameError::Body(kind)) };
    Ok(match kind {
        1 => {
            exactly(body.len() >= HELLO_BYTES)?;
            let cluster = body.get_u128_le();
            let (from, to) = (NodeId(body.get_u16_le()), NodeId(body.get_u16_le()));
            let incarnation = body.get_u64_le();
            let lane = match body.get_u8() {
                0 => Lane::Urgent,
                1 => Lane::Bulk,
                _ => return Err(FrameError::Body(kind)),
            };
            let flags = body.get_u8();
            exactly(flags & !REJOINING == 0)?;
            let member_count = usize::from(body.get_u8());
            let count = usize::from(body.get_u16_le());
            exactly(member_count <= REPLICAS_MAX && count <= OPENINGS_MAX)?;
            exactly(body.len() >= member_count * 2 + count * 8)?;
            let members: Vec<NodeId> =
                (0..member_count).map(|_| NodeId(body.get_u16_le())).collect();
            exactly(members.is_sorted_by(|one, next| one < next) && members.contains(&from))?;
            let openings = (0..count).map(|_| body.get_u64_le()).collect();
            exactly(body.len() <= ADDRESS_BYTES_MAX)?;
            let address = std::str::from_utf8(&body).map_err(|_| FrameError::Body(kind))?;
            // It is shown to clients: no more than an address, then.
            exactly(address.bytes().all(|byte| byte.is_ascii_graphic()))?;
            Frame::Hello(Hello {
                cluster,
                from,
                to,
                incarnation,
                openings,
                members,
                rejoining: flags == REJOINING,
                lane,
                client_address: address.to_owned(),
            })
        }
        2 => Frame::Peer(peer::decode(body)?),
        3 => {
            exactly(body.len() >= KEY_BYTES + 8)?;
            let key = get_key(&mut body);
            let number = body.get_u64_le();
            let attempt = if number & FIRST_TIME == 0 {
                Attempt::Again { since: Index(number) }
            } else {
                Attempt::First { term: Term(number & !FIRST_TIME) }
            };
            Frame::Forward { key, attempt, payload: body }
        }
        4 => {
            exactly(body.len() == KEY_BYTES + 1)?;
            let key = get_key(&mut body);
            let reason = match body.get_u8() {
                0 => RefusalReason::NotLeader,
                1 => RefusalReason::Replaced,
                2 => RefusalReason::Busy,
                3 => RefusalReason::DiskFull,
                4 => RefusalReason::OutOfMemory,
                _ => return Err(FrameError::Body(kind)),
            };
            Frame::Refused { key, reason }
        }
        5 => {
            exactly(body.len() == 8)?;
            Frame::AskReadIndex { ticket: body.get_u64_le() }
        }
        9 => {
            exactly(body.len() == 8)?;
            Frame::WallClock { millis: body.get_u64_le() }
        }
        6 => {
            exactly(body.len() == 8 || body.len() == 16)?;
            let ticket = body.get_u64_le();
            let index = (!body.is_empty()).then(|| Index(body.get_u64_le()));
            Frame::ReadIndex { ticket, index }
        }
        other => return Err(FrameError::Kind(other)),
    })
}

/// Marks a term: the write is sent for the first time. Terms end below it, indexes far below.
const FIRST_TIME: u64 = 1 << 63;
const _: () = assert!(Term::MAX.0 & FIRST_TIME == 0 && Index::MAX.0 & FIRST_TIME == 0);
/// Bytes of a request's key.
const KEY_BYTES: usize = 20;

fn put_key(key: RequestKey, out: &mut BytesMut) {
    out.put_u32_le(key.client.0);
    out.put_slice(&key.request.0);
}

fn get_key(body: &mut Bytes) -> RequestKey {
    let client = ClientId(body.get_u32_le());
    let mut request = [0; 16];
    body.copy_to_slice(&mut request);
    RequestKey { client, request: RequestId(request) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{AppendEntries, RequestVote};
    use crate::record::{EntryKind, RecordBuffer};
    use crate::types::{EntryId, Round, Term};

    fn key() -> RequestKey {
        RequestKey {
            client: ClientId(7),
            request: RequestId(*b"\0\x01\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03"),
        }
    }

    fn frames() -> Vec<Frame> {
        let mut buffer = RecordBuffer::default();
        let entries = (3..6)
            .map(|index| buffer.encode(EntryId::new(2, index), EntryKind::Command, b"payload"))
            .collect();
        let append = AppendEntries {
            term: Term(2),
            round: Round(4),
            prev: EntryId::new(1, 2),
            commit_index: Index(2),
            loss_permille: 0,
            transfer_to: None,
            entries,
        };
        let last = EntryId::new(2, 5);
        let vote = RequestVote { term: Term(3), pre: true, transfer: false, last };
        let hello = Hello {
            cluster: 0xFEED,
            from: NodeId(1),
            to: NodeId(2),
            incarnation: 9,
            openings: vec![7, u64::MAX],
            members: vec![NodeId(1), NodeId(2), NodeId(9)],
            rejoining: true,
            lane: Lane::Bulk,
            client_address: "127.0.0.1:7001".to_owned(),
        };
        vec![
            Frame::Hello(hello),
            Frame::Peer(PeerMsg::AppendEntries(append)),
            Frame::Peer(PeerMsg::RequestVote(vote)),
            Frame::Forward {
                key: key(),
                attempt: Attempt::First { term: Term(2) },
                payload: Bytes::from_static(b"command"),
            },
            Frame::Forward {
                key: key(),
                attempt: Attempt::Again { since: Index(8) },
                payload: Bytes::new(),
            },
            Frame::Refused { key: key(), reason: RefusalReason::Busy },
            Frame::Refused { key: key(), reason: RefusalReason::OutOfMemory },
            Frame::AskReadIndex { ticket: 11 },
            Frame::ReadIndex { ticket: 11, index: Some(Index(5)) },
            Frame::ReadIndex { ticket: 12, index: None },
            Frame::WallClock { millis: 1_700_000_000_000 },
        ]
    }

    fn encoded(frames: &[Frame]) -> BytesMut {
        let mut bytes = BytesMut::new();
        encode_preamble(&mut bytes);
        for frame in frames {
            encode(frame, &mut bytes);
        }
        bytes
    }

    #[test]
    fn frames_come_back_however_they_were_cut() {
        let bytes = encoded(&frames());
        for piece in [1, 3, 17, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for part in bytes.chunks(piece) {
                decoder.feed(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, frames(), "in pieces of {piece}");
            assert_eq!(decoder.buffered_bytes(), 0);
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error_or_a_frame_that_never_ends() {
        let bytes = encoded(&frames()[1..2]);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut decoder = Decoder::default();
            decoder.feed(&damaged);
            assert!(!matches!(decoder.next_frame(), Ok(Some(_))), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn a_length_is_refused_before_anything_is_kept_for_it() {
        let longest = u32::try_from(FRAME_BYTES_MAX).unwrap();
        for length in [0, longest + 1, u32::MAX] {
            let mut decoder = Decoder::default();
            let mut bytes = encoded(&[]);
            bytes.put_u32_le(length);
            bytes.put_u32_le(0);
            decoder.feed(&bytes);
            let (claimed, most) = (length as usize, FRAME_BYTES_MAX);
            assert_eq!(decoder.next_frame(), Err(FrameError::Length { claimed, most }));
        }
        let mut decoder = Decoder::default();
        let mut bytes = encoded(&[]);
        bytes.put_u32_le(longest);
        bytes.put_u32_le(0);
        decoder.feed(&bytes);
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(decoder.buffer.capacity() < 1 << 10, "memory was kept for a mere claim");
    }

    #[test]
    fn a_stranger_may_say_no_more_than_who_it_is() {
        let mut frames = frames();
        let Frame::Hello(hello) = &mut frames[0] else { panic!("the first one is a hello") };
        hello.client_address = "x".repeat(ADDRESS_BYTES_MAX);
        hello.openings = vec![5; OPENINGS_MAX];
        hello.members = (1..=u16::try_from(REPLICAS_MAX).unwrap()).map(NodeId).collect();
        let mut large = RecordBuffer::default();
        let entries =
            vec![large.encode(EntryId::new(2, 3), EntryKind::Command, &[7; FIRST_FRAME_BYTES_MAX])];
        let Frame::Peer(PeerMsg::AppendEntries(append)) = &mut frames[1] else { panic!("it is") };
        append.entries = entries;
        let mut decoder = Decoder::for_unknown_peer();
        decoder.feed(&encoded(&frames[1..2]));
        assert!(matches!(
            decoder.next_frame(),
            Err(FrameError::Length { most: FIRST_FRAME_BYTES_MAX, .. })
        ));
        let mut decoder = Decoder::for_unknown_peer();
        decoder.feed(&encoded(&frames));
        let found: Vec<_> = std::iter::from_fn(|| decoder.next_frame().unwrap()).collect();
        assert_eq!(found, frames, "after its hello it is no stranger");
    }

    #[test]
    fn hello_that_contradicts_itself_is_refused() {
        let hello = |members: &[u16]| {
            let Frame::Hello(hello) = &frames()[0] else { panic!("the first one is a hello") };
            let members = members.iter().copied().map(NodeId).collect();
            Frame::Hello(Hello { members, ..hello.clone() })
        };
        for (members, is_sound) in [
            (&[1][..], true),
            (&[1, 7], true),
            (&[], false),
            (&[2, 3], false),
            (&[2, 1], false),
            (&[1, 1], false),
        ] {
            let mut decoder = Decoder::for_unknown_peer();
            decoder.feed(&encoded(&[hello(members)]));
            let found = decoder.next_frame();
            if is_sound {
                assert_eq!(found, Ok(Some(hello(members))), "{members:?}");
            } else {
                assert_eq!(found, Err(FrameError::Body(1)), "{members:?}");
            }
        }
        // A count beyond the bounds, and more openings than bytes.
        let whole = encoded(&[hello(&[1, 2])]);
        let counts = PREAMBLE_BYTES + HEADER_BYTES + HELLO_BYTES - 2;
        for (place, byte) in [(counts, 200), (counts + 1, 100), (counts + 2, 0x80)] {
            let mut bytes = whole.clone();
            bytes[place] = byte;
            let body = &bytes[PREAMBLE_BYTES + HEADER_BYTES..];
            let checksum = crc32c::crc32c(body).to_le_bytes();
            bytes[PREAMBLE_BYTES + 4..PREAMBLE_BYTES + 8].copy_from_slice(&checksum);
            let mut decoder = Decoder::for_unknown_peer();
            decoder.feed(&bytes);
            assert_eq!(decoder.next_frame(), Err(FrameError::Body(1)), "byte {place}");
        }
    }

    #[test]
    fn strangers_and_other_versions_are_told_apart() {
        let mut decoder = Decoder::default();
        decoder.feed(b"GET / HTTP/1.1");
        assert_eq!(decoder.next_frame(), Err(FrameError::Magic(*b"GET ")));
        let mut decoder = Decoder::default();
        decoder.feed(b"BOWL\x02\x00");
        assert_eq!(decoder.next_frame(), Err(FrameError::Version(2)));
    }

    #[test]
    fn large_parts_stay_out_of_the_head() {
        for frame in frames() {
            let (mut head, mut whole) = (BytesMut::new(), BytesMut::new());
            encode_head(&frame, &mut head);
            encode(&frame, &mut whole);
            for part in frame.parts() {
                head.put_slice(part);
            }
            assert_eq!(head, whole);
        }
    }
}
