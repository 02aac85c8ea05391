//! The messages of the university course's simulator: JSON objects with the members `src`, `dst`,
//! `leader` and `type`, and further members that depend on the type. A message between replicas
//! contains the bytes encoded by [`peer`] as base64 in the member `body`, so the simulator sees
//! only its addresses.
//!
//! Encoded messages are compact: no white space between tokens, and the last byte is `}`. Decoding
//! accepts any JSON and distinguishes requests from clients, messages from peers, messages to
//! ignore, and errors. Neither encoding nor decoding builds a JSON tree.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bytes::{Bytes, BytesMut};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::kv::{Batch, Operation};
use crate::raft::{
    AppendOutcome, AppendReply, ClientRequest, Envelope, PeerMsg, RequestKind, RequestVote,
    VoteReply,
};
use crate::types::{ClientId, NodeId, RequestId, RequestKey};

use super::json::{Text, write_string};
use super::peer::{self, PeerError};
use super::protocol::ProtocolVersions;

/// Broadcast address in the university course's network simulator. As the value of the JSON member
/// `leader` it means that the sender knows no leader.
pub const BROADCAST: NodeId = NodeId(0xFFFF);
/// Maximum length in bytes of a command from a client of the university course's simulator. The
/// simulator limits messages to 16,384 bytes, and an `AppendEntries` message contains the command
/// in base64 encoding, which adds a third.
pub const COMMAND_BYTES_MAX: usize = 10 << 10;

/// A decoded message that a replica has received from the university course's network simulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A request from a client of the simulator.
    Request {
        /// Address of the client that sent the request.
        client: ClientId,
        /// The decoded request.
        request: ClientRequest,
    },
    /// A message from another replica, with its sender and receiver.
    Peer(Envelope),
    /// A valid message that this replica ignores, with the reason.
    Ignored(Ignored),
}

/// Reason why a valid message from the university course's simulator is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// The message with which another replica registers with the simulator. Some of the simulator's
    /// transports deliver it to all replicas.
    Hello,
    /// The message is addressed to another replica, whose id is given.
    Misdirected(NodeId),
}

/// Reason why a message from the university course's simulator is rejected or cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CourseError {
    /// The message is not a JSON object, or the value of one of its members is not a string.
    #[error("message is not a JSON object whose values are strings: {0}")]
    Json(String),
    /// The message lacks the JSON member with this name, which messages of its type must have.
    #[error("message lacks the JSON field `{0}`")]
    Missing(&'static str),
    /// The value of a JSON member that contains an address is not four hex digits.
    #[error("JSON field `{member}` is {text:?}, but must be an address of four hex digits")]
    Address {
        /// Name of the JSON member whose value is not an address.
        member: &'static str,
        /// The invalid value of the member, as text.
        text: String,
    },
    /// The message's sender has an invalid address: this replica's own or the broadcast address.
    #[error("JSON field `src` is {0}, which can't be the sender of a message to this replica")]
    Sender(NodeId),
    /// The message's type, given as text, is unknown: it is neither a client's request nor a
    /// message between replicas.
    #[error("JSON field `type` has the unknown value {0:?}")]
    Type(String),
    /// The message id of a client's request, given as text, is not 16 printable ASCII characters.
    #[error("JSON field `MID` is {0:?}, but must be 16 printable ASCII characters")]
    RequestId(String),
    /// The client's command is longer than [`COMMAND_BYTES_MAX`], so it would not fit in a message
    /// between replicas.
    #[error(
        "client's command of {bytes} bytes is too large; at most {COMMAND_BYTES_MAX} bytes are \
         allowed"
    )]
    TooLarge {
        /// Length of the rejected command in bytes.
        bytes: usize,
    },
    /// The JSON member `body` of a message between replicas is not valid base64.
    #[error("JSON field `body` of a message between replicas is not valid base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// The JSON member `body` of a message between replicas is not a valid encoded message.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The JSON member `type` of a message between replicas differs from the type of the message
    /// that the member `body` contains.
    #[error(
        "JSON field `type` is {found:?}, but the field `body` contains a message of type \
         {expected:?}"
    )]
    TypeOfBody {
        /// Message type that the JSON member `type` states.
        found: String,
        /// Type of the message that the JSON member `body` contains.
        expected: &'static str,
    },
    /// A reply cannot be sent, because the client's address or the request's id does not have the
    /// form that the university course's simulator uses.
    #[error(
        "cannot reply to request {0:?}: its client id and request id are not from the university \
         course's simulator"
    )]
    Unaddressable(RequestKey),
}

/// The members (name-value pairs) of a JSON message that this module uses. If a member occurs more
/// than once, its last value is used.
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

/// Decodes a message that replica `me` has received from the university course's simulator. `bytes`
/// must hold exactly one message; white space around it is allowed.
///
/// # Errors
/// If the message is not a JSON object, lacks a member that its type requires, or has an invalid
/// value.
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

/// Appends a message from one replica to another to `out`, encoded as JSON for the university
/// course's simulator.
pub fn encode_peer(envelope: &Envelope, out: &mut Vec<u8>) {
    let mut body = BytesMut::new();
    peer::encode(&envelope.message, ProtocolVersions::OWN.newest, &mut body);
    let encoded_len = base64::encoded_len(body.len(), false).expect("the length fits in memory");
    out.reserve(ADDRESS_BYTES + encoded_len);
    open(envelope.from, envelope.to, envelope.leader, peer_type(&envelope.message), out);
    out.extend_from_slice(b",\"body\":\"");
    let start = out.len();
    out.resize(start + encoded_len, 0);
    let written = BASE64.encode_slice(&body, &mut out[start..]).expect("resized to its length");
    assert_eq!(written, encoded_len, "base64 has another length");
    out.extend_from_slice(b"\"}");
}

/// Appends the `hello` message with which replica `me` registers with the university course's
/// simulator.
pub fn encode_hello(me: NodeId, out: &mut Vec<u8>) {
    open(me, BROADCAST, None, "hello", out);
    out.push(b'}');
}

/// Appends the reply `ok` to the client whose request, `key`, was applied. `value` is the value
/// that a get returns, empty if the key does not exist; `None` for a put.
///
/// # Errors
/// If `key` does not belong to a client of the university course's simulator. Nothing is appended
/// then.
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

/// Appends a reply that redirects a client to the replica `leader`; if `leader` is `None`, the
/// client is to try any replica.
///
/// # Errors
/// If `key` does not belong to a client of the university course's simulator. Nothing is appended
/// then.
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

/// Maximum length in bytes of a JSON message between replicas, excluding the value of the member
/// `body`.
const ADDRESS_BYTES: usize = 96;

/// All values that the JSON member `type` can have in messages between replicas.
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
    // The number parser alone would accept a sign.
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
    let key_name = text("key", members.key.as_ref())?.as_bytes();
    let operation = if kind == "get" {
        Operation::get(key_name)
    } else {
        let value = text("value", members.value.as_ref())?.as_bytes();
        Operation::set(key_name, value)
    };
    let key = RequestKey { client, request };
    let bytes = Batch::encoded_len_of_one(&operation);
    if bytes > COMMAND_BYTES_MAX {
        return Err(CourseError::TooLarge { bytes });
    }
    let kind = if operation.is_read() { RequestKind::Read } else { RequestKind::Write };
    Ok(ClientRequest { key, kind, payload: Batch::one(key, &operation) })
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

/// Appends the start of a JSON reply to a client: all members up to the request's id, `MID`. `kind`
/// is the type of the reply.
fn answer(
    me: NodeId,
    key: RequestKey,
    leader: Option<NodeId>,
    kind: &str,
    out: &mut Vec<u8>,
) -> Result<(), CourseError> {
    // The request may come from a peer's log entry and have any ids: that must not panic here, and
    // a reply to the broadcast address would reach every replica.
    let client = u16::try_from(key.client.0).map_or(BROADCAST, NodeId);
    if client == BROADCAST || client == me || !printable(&key.request.0) {
        return Err(CourseError::Unaddressable(key));
    }
    open(me, client, leader, kind, out);
    out.extend_from_slice(b",\"MID\":");
    write_string(&key.request.0, out);
    Ok(())
}

/// Appends the start of a JSON message: the opening brace and the members that every message has
/// (sender, receiver, leader and type).
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

/// Appends a replica's address as four upper-case hex digits. The simulator compares addresses as
/// text, so their case matters.
fn write_address(id: NodeId, out: &mut Vec<u8>) {
    let digit = |shift: u32| b"0123456789ABCDEF"[usize::from(id.0 >> shift & 15)];
    out.extend_from_slice(&[digit(12), digit(8), digit(4), digit(0)]);
}

#[cfg(test)]
mod tests;
