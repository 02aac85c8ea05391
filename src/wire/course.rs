//! The messages of the course's simulator: one JSON object each, with the members `src`, `dst`,
//! `leader` and `type` and what the type asks for. A message between replicas carries the bytes of
//! [`peer`] in base64 in one more member, so the simulator sees only its address.
//!
//! What is written is compact: no blank between tokens, the last byte is `}`. What is read may be
//! any JSON from anybody, and is told apart into a client's request, a peer's message, something
//! that does not concern us, and errors. Neither way builds a tree of the JSON.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bytes::{Bytes, BytesMut};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::kv::{Command, Operation};
use crate::raft::{
    AppendOutcome, AppendReply, ClientRequest, Envelope, PeerMsg, RequestKind, RequestVote,
    VoteReply,
};
use crate::types::{ClientId, NodeId, RequestId, RequestKey};

use super::json::{Text, write_string};
use super::peer::{self, PeerError};

/// The address of all, and the leader nobody knows.
pub const BROADCAST: NodeId = NodeId(0xFFFF);
/// Largest command taken from a client. A replica must be able to pass it on to others, alone in
/// one message of at most 16,384 bytes, where base64 makes four bytes out of three.
pub const COMMAND_BYTES_MAX: usize = 10 << 10;

/// A message that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A client wants something.
    Request {
        /// Who.
        client: ClientId,
        /// What.
        request: ClientRequest,
    },
    /// Another replica has something to say.
    Peer(Envelope),
    /// It is in order, and nothing is to be done.
    Ignored(Ignored),
}

/// Why a message that is in order does not concern us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// Another replica says hello. Transports on which the simulator does not take a hello for
    /// itself hand it on to everybody.
    Hello,
    /// It is for somebody else.
    Misdirected(NodeId),
}

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CourseError {
    /// No JSON object, or a member that we read is no string.
    #[error("no JSON object with text members: {0}")]
    Json(String),
    /// A member is missing that its type asks for.
    #[error("the member `{0}` is missing")]
    Missing(&'static str),
    /// An address that is not four hex digits.
    #[error("the member `{member}` is {text:?}, not four hex digits")]
    Address {
        /// Which member.
        member: &'static str,
        /// What it says.
        text: String,
    },
    /// The sender is ourselves, or everybody.
    #[error("the sender {0} can't send to us")]
    Sender(NodeId),
    /// A type that is neither a client's request nor a peer's message.
    #[error("the type {0:?} is none that a replica takes")]
    Type(String),
    /// A message id that is not 16 printable ASCII characters.
    #[error("the message id {0:?} is not 16 printable ASCII characters")]
    RequestId(String),
    /// A command that could not be passed on to the other replicas.
    #[error("a command of {bytes} bytes is too large, {COMMAND_BYTES_MAX} fit in a message")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
    /// The body of a peer's message is not base64.
    #[error("the body of a peer message: {0}")]
    Base64(#[from] base64::DecodeError),
    /// The body of a peer's message is wrong.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The type of a peer's message is not that of its body.
    #[error("the type is {found:?}, but the body is of type {expected:?}")]
    TypeOfBody {
        /// What the type member says.
        found: String,
        /// What it should say.
        expected: &'static str,
    },
    /// A client or a request id that the course can't have given out, so nothing can be sent.
    #[error("request {0:?} has no address under the course's simulator")]
    Unaddressable(RequestKey),
}

/// The members of a message that anything is read from; the last one counts where one comes twice.
#[derive(Debug, Default)]
struct Members<'a> {
    src: Option<Text<'a>>,
    dst: Option<Text<'a>>,
    leader: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    mid: Option<Text<'a>>,
    key: Option<Text<'a>>,
    value: Option<Text<'a>>,
    body: Option<Text<'a>>,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members::default();
        while let Some(Text(name)) = map.next_key()? {
            let member = match &*name {
                "src" => &mut members.src,
                "dst" => &mut members.dst,
                "leader" => &mut members.leader,
                "type" => &mut members.kind,
                "MID" => &mut members.mid,
                "key" => &mut members.key,
                "value" => &mut members.value,
                "body" => &mut members.body,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *member = map.next_value()?;
        }
        Ok(members)
    }
}

/// Reads one message that came to replica `me`: all of `bytes`, but for blanks around it.
///
/// # Errors
/// If it is not one JSON object, lacks something its type needs, or says something that can't be.
pub fn decode(bytes: &[u8], me: NodeId) -> Result<Incoming, CourseError> {
    let members: Members<'_> =
        serde_json::from_slice(bytes).map_err(|error| CourseError::Json(error.to_string()))?;
    let from = address("src", members.src.as_ref())?;
    let to = address("dst", members.dst.as_ref())?;
    let kind = text("type", members.kind.as_ref())?;
    if to != me && to != BROADCAST {
        return Ok(Incoming::Ignored(Ignored::Misdirected(to)));
    }
    if from == me || from == BROADCAST {
        return Err(CourseError::Sender(from));
    }
    match kind {
        "get" | "put" => {
            let client = ClientId(u32::from(from.0));
            let request = request(client, kind, &members)?;
            Ok(Incoming::Request { client, request })
        }
        "hello" => Ok(Incoming::Ignored(Ignored::Hello)),
        _ if PEER_TYPES.contains(&kind) => {
            let leader = address("leader", members.leader.as_ref())?;
            let message = peer_message(kind, &members)?;
            let leader = (leader != BROADCAST).then_some(leader);
            Ok(Incoming::Peer(Envelope { from, to: me, leader, message }))
        }
        _ => Err(CourseError::Type(kind.to_owned())),
    }
}

/// Appends a message between replicas.
pub fn encode_peer(envelope: &Envelope, out: &mut Vec<u8>) {
    let mut body = BytesMut::new();
    peer::encode(&envelope.message, &mut body);
    let encoded_len = base64::encoded_len(body.len(), false).expect("far below the address space");
    out.reserve(ADDRESS_BYTES + encoded_len);
    open(envelope.from, envelope.to, envelope.leader, peer_type(&envelope.message), out);
    out.extend_from_slice(b",\"body\":\"");
    let start = out.len();
    out.resize(start + encoded_len, 0);
    let written = BASE64.encode_slice(&body, &mut out[start..]).expect("resized to its length");
    assert_eq!(written, encoded_len, "base64 miscounted");
    out.extend_from_slice(b"\"}");
}

/// Appends the message by which a replica makes itself known.
pub fn encode_hello(me: NodeId, out: &mut Vec<u8>) {
    open(me, BROADCAST, None, "hello", out);
    out.push(b'}');
}

/// Appends the answer to a request that was done. A get's answer has a value, empty if the key has
/// none; a put's has not.
///
/// # Errors
/// If the request can't have come from the course's simulator. Nothing is appended then.
pub fn encode_ok(
    me: NodeId,
    key: RequestKey,
    leader: Option<NodeId>,
    value: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<(), CourseError> {
    answer(me, key, leader, "ok", out)?;
    if let Some(value) = value {
        out.extend_from_slice(b",\"value\":");
        write_string(value, out);
    }
    out.push(b'}');
    Ok(())
}

/// Appends the answer that sends a client to `leader`, or to anybody if that is unknown.
///
/// # Errors
/// If the request can't have come from the course's simulator. Nothing is appended then.
pub fn encode_redirect(
    me: NodeId,
    key: RequestKey,
    leader: Option<NodeId>,
    out: &mut Vec<u8>,
) -> Result<(), CourseError> {
    answer(me, key, leader, "redirect", out)?;
    out.push(b'}');
    Ok(())
}

/// Bytes of a message between replicas beside its body, and a few to spare.
const ADDRESS_BYTES: usize = 96;

/// The types of messages between replicas, as [`peer_type`] gives them.
const PEER_TYPES: [&str; 12] = [
    "append",
    "append_ok",
    "append_no",
    "vote",
    "prevote",
    "vote_reply",
    "prevote_reply",
    "install",
    "install_reply",
    "timeout_now",
    "rejoin",
    "rejoin_reply",
];

fn peer_type(message: &PeerMsg) -> &'static str {
    match message {
        PeerMsg::AppendEntries(_) => "append",
        PeerMsg::AppendReply(AppendReply { outcome: AppendOutcome::Match { .. }, .. }) => {
            "append_ok"
        }
        PeerMsg::AppendReply(AppendReply { outcome: AppendOutcome::Reject { .. }, .. }) => {
            "append_no"
        }
        PeerMsg::RequestVote(RequestVote { pre: false, .. }) => "vote",
        PeerMsg::RequestVote(RequestVote { pre: true, .. }) => "prevote",
        PeerMsg::VoteReply(VoteReply { pre: false, .. }) => "vote_reply",
        PeerMsg::VoteReply(VoteReply { pre: true, .. }) => "prevote_reply",
        PeerMsg::InstallSnapshot(_) => "install",
        PeerMsg::InstallReply(_) => "install_reply",
        PeerMsg::TimeoutNow(_) => "timeout_now",
        PeerMsg::Rejoin(_) => "rejoin",
        PeerMsg::RejoinReply(_) => "rejoin_reply",
    }
}

fn text<'m>(member: &'static str, text: Option<&'m Text<'_>>) -> Result<&'m str, CourseError> {
    text.map(|Text(text)| &**text).ok_or(CourseError::Missing(member))
}

fn address(member: &'static str, found: Option<&Text<'_>>) -> Result<NodeId, CourseError> {
    let text = text(member, found)?;
    // Not left to the parser of numbers alone: that one takes a sign, too.
    let hex = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u16::from_str_radix(text, 16) {
        Ok(number) if hex => Ok(NodeId(number)),
        _ => Err(CourseError::Address { member, text: text.to_owned() }),
    }
}

fn request(
    client: ClientId,
    kind: &str,
    members: &Members<'_>,
) -> Result<ClientRequest, CourseError> {
    let mid = text("MID", members.mid.as_ref())?;
    let request = mid
        .as_bytes()
        .try_into()
        .ok()
        .filter(|id: &[u8; 16]| printable(id))
        .map(RequestId)
        .ok_or_else(|| CourseError::RequestId(mid.to_owned()))?;
    let pair = text("key", members.key.as_ref())?.as_bytes();
    let operation = if kind == "get" {
        Operation::Get { key: pair }
    } else {
        let value = text("value", members.value.as_ref())?.as_bytes();
        Operation::Put { key: pair, value }
    };
    let key = RequestKey { client, request };
    let command = Command { key, operation };
    let bytes = command.encoded_len();
    if bytes > COMMAND_BYTES_MAX {
        return Err(CourseError::TooLarge { bytes });
    }
    let kind = if operation.is_read() { RequestKind::Read } else { RequestKind::Write };
    Ok(ClientRequest { key, kind, payload: command.encode() })
}

fn printable(id: &[u8; 16]) -> bool {
    id.iter().all(|byte| (b' '..=b'~').contains(byte))
}

fn peer_message(kind: &str, members: &Members<'_>) -> Result<PeerMsg, CourseError> {
    let body = BASE64.decode(text("body", members.body.as_ref())?)?;
    let message = peer::decode(Bytes::from(body))?;
    let expected = peer_type(&message);
    if kind != expected {
        return Err(CourseError::TypeOfBody { found: kind.to_owned(), expected });
    }
    Ok(message)
}

/// Starts an answer to a client, up to its message id.
fn answer(
    me: NodeId,
    key: RequestKey,
    leader: Option<NodeId>,
    kind: &str,
    out: &mut Vec<u8>,
) -> Result<(), CourseError> {
    // Entries come from peers, too: one that was made up elsewhere must not stop us here, and an
    // answer to the address of all would be handed to every replica.
    let client = u16::try_from(key.client.0).map_or(BROADCAST, NodeId);
    if client == BROADCAST || client == me || !printable(&key.request.0) {
        return Err(CourseError::Unaddressable(key));
    }
    open(me, client, leader, kind, out);
    out.extend_from_slice(b",\"MID\":");
    write_string(&key.request.0, out);
    Ok(())
}

/// Starts a message: all that every message has, without the closing brace.
fn open(src: NodeId, dst: NodeId, leader: Option<NodeId>, kind: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"src\":\"");
    write_address(src, out);
    out.extend_from_slice(b"\",\"dst\":\"");
    write_address(dst, out);
    out.extend_from_slice(b"\",\"leader\":\"");
    write_address(leader.unwrap_or(BROADCAST), out);
    out.extend_from_slice(b"\",\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
}

/// Four upper-case hex digits: the simulator compares addresses as text.
fn write_address(id: NodeId, out: &mut Vec<u8>) {
    let digit = |shift: u32| b"0123456789ABCDEF"[usize::from(id.0 >> shift & 15)];
    out.extend_from_slice(&[digit(12), digit(8), digit(4), digit(0)]);
}

#[cfg(test)]
mod tests;
