//! Messages from replicas, checked as in the university course's simulator. Parses only the fields
//! that routing needs; all other fields are forwarded unchanged.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::course::clients::{Answer, AnswerKind};
use crate::course::referee::Destination;
use crate::types::{ClientId, NodeId, RequestId};

/// Maximum number of bytes of a message that are quoted in an error.
const QUOTE_BYTES_MAX: usize = 120;

/// A valid message from a replica, with the fields that are needed for routing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// A hello message, whose UDP source address is the replica's address.
    Hello,
    /// A message from replica `src` to one or all other replicas. `leader` is the leader that the
    /// message names; `None` if the message names no leader.
    Peer { src: NodeId, leader: Option<NodeId>, destination: Destination },
    /// An answer to a client's request, to be delivered to the client.
    Answer { answer: Answer<'a> },
}

/// The reason why a message that a replica has sent is invalid.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The message is not valid UTF-8, so the simulator stops the replica. Contains the message
    /// with its invalid bytes replaced, for the report.
    NotText(String),
    /// The message violates the university course's message format or has an unknown destination.
    /// It is counted as incorrect in the run's report.
    Incorrect {
        /// Description of the fault, which quotes the message.
        what: String,
        /// The sender of the message (`src`) and the leader that the message names (`None` if it
        /// names no leader). The whole tuple is `None` if these fields could not be parsed.
        leader: Option<(NodeId, Option<NodeId>)>,
    },
}

/// The ids of the replicas and clients of a run, for checking the sources and destinations of
/// messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    /// Number of replicas, whose ids start at 0.
    pub(super) replicas: u16,
    /// Number of clients, whose ids start at `replicas` + 16.
    pub(super) clients: u16,
    /// Whether hello messages are meant for the simulator (UDP). With UNIX sockets, they are routed
    /// like other messages.
    pub(super) hello: bool,
}

/// Parses and checks a replica's message. Returns an error that describes the fault if the message
/// is invalid.
pub(super) fn inspect(bytes: &[u8], addresses: Addresses) -> Result<Message<'_>, Fault> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(Fault::NotText(format!("sent bytes that are not UTF-8: {}", quote(bytes))));
    };
    let wrong =
        |what: &str| Fault::Incorrect { what: format!("{what}: {}", quote(bytes)), leader: None };
    // Serde would accept a JSON array in place of an object.
    if !text.trim_start().starts_with('{') {
        let problem = match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => "a message that is not a JSON object",
            Err(_) => "a message that is not valid JSON",
        };
        return Err(wrong(problem));
    }
    let fields: Fields<'_> = serde_json::from_str(text)
        .map_err(|problem| wrong(&format!("a message that is not valid JSON ({problem})")))?;
    let leader = address(fields.leader.as_ref(), "leader").map_err(|what| wrong(&what))?;
    let dst = address(fields.dst.as_ref(), "dst").map_err(|what| wrong(&what))?;
    let src = address(fields.src.as_ref(), "src").map_err(|what| wrong(&what))?;
    let Some(kind) = fields.kind else { return Err(wrong("a message without `type`")) };
    let kind = kind.text();
    if addresses.hello && kind == Some("hello") {
        return Ok(Message::Hello);
    }
    let (src, leader) = (NodeId(src.number), NodeId(leader.number));
    let leader = (leader.0 != 0xFFFF).then_some(leader);
    // From here on, errors include the leader that the message names, although the message is
    // invalid.
    let wrong = |what: &str| Fault::Incorrect {
        what: format!("{what}: {}", quote(bytes)),
        leader: Some((src, leader)),
    };
    let to_replica = dst.exact && dst.number < addresses.replicas;
    let first_client = addresses.replicas + 16;
    let client = dst.number.wrapping_sub(first_client);
    if to_replica {
        let destination = Destination::Replica(NodeId(dst.number));
        Ok(Message::Peer { src, leader, destination })
    } else if dst.exact && dst.number == 0xFFFF {
        Ok(Message::Peer { src, leader, destination: Destination::Broadcast })
    } else if dst.exact && dst.number >= first_client && client < addresses.clients {
        let Some(mid) = fields.mid else { return Err(wrong("an answer without `MID`")) };
        let kind = match kind {
            Some("ok") => AnswerKind::Ok,
            Some("redirect") => AnswerKind::Redirect,
            Some("fail") => AnswerKind::Fail,
            _ => return Err(wrong("an answer whose `type` is not ok, redirect or fail")),
        };
        let mid = mid.text().and_then(|mid| <[u8; 16]>::try_from(mid.as_bytes()).ok());
        let Some(mid) = mid else {
            return Err(wrong("an answer whose `MID` is not that of a request"));
        };
        let value = fields.value.map(Loose::into_text);
        let value = match value {
            None => None,
            Some(Some(Cow::Borrowed(text))) => Some(text.as_bytes()),
            // A string with escapes, or not a string at all: no client writes such a value.
            Some(_) => Some(&b"(not the text of a value)"[..]),
        };
        let client = ClientId(u32::from(dst.number));
        let mid = RequestId(mid);
        Ok(Message::Answer { answer: Answer { src, client, leader, mid, kind, value } })
    } else {
        Err(wrong("a message to an unknown `dst` (not a replica, not a client, not FFFF)"))
    }
}

/// Returns the first [`QUOTE_BYTES_MAX`] bytes of a message as one line of text, for an error.
fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTE_BYTES_MAX)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if bytes.len() > QUOTE_BYTES_MAX {
        format!("`{text}`... ({} bytes)", bytes.len())
    } else {
        format!("`{text}`")
    }
}

/// The id of a replica or client as written in a message: four hexadecimal digits.
struct Address {
    number: u16,
    /// Whether all hexadecimal letters of the id are upper case. The university course's simulator
    /// compares ids as text, so an id in lower case matches no destination.
    exact: bool,
}

fn address(field: Option<&Loose<'_>>, name: &str) -> Result<Address, String> {
    let Some(field) = field else { return Err(format!("a message without `{name}`")) };
    let text = field.text().filter(|text| text.len() == 4);
    let number = text.and_then(|text| u16::from_str_radix(text, 16).ok());
    match (text, number) {
        (Some(text), Some(number)) => {
            Ok(Address { number, exact: !text.bytes().any(|byte| byte.is_ascii_lowercase()) })
        }
        _ => Err(format!("a message whose `{name}` is not four hexadecimal digits")),
    }
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    src: Option<Loose<'a>>,
    #[serde(borrow)]
    dst: Option<Loose<'a>>,
    #[serde(borrow)]
    leader: Option<Loose<'a>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Loose<'a>>,
    #[serde(borrow, rename = "MID")]
    mid: Option<Loose<'a>>,
    #[serde(borrow)]
    value: Option<Loose<'a>>,
}

/// The value of a JSON field: a string, or a value of any other type, which is accepted only in
/// fields that are not needed to route the message.
enum Loose<'a> {
    Text(Cow<'a, str>),
    Other,
}

impl<'a> Loose<'a> {
    fn text(&self) -> Option<&str> {
        match self {
            Loose::Text(text) => Some(text),
            Loose::Other => None,
        }
    }

    fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Loose::Text(text) => Some(text),
            Loose::Other => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Loose<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Loose<'a>, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Loose<'de>, E> {
        Ok(Loose::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Loose<'de>, E> {
        Ok(Loose::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Loose<'de>, E> {
        Ok(Loose::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Loose<'de>, E> {
        Ok(Loose::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Loose<'de>, E> {
        Ok(Loose::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Loose<'de>, E> {
        Ok(Loose::Other)
    }

    fn visit_unit<E>(self) -> Result<Loose<'de>, E> {
        Ok(Loose::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Loose<'de>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const COURSE: Addresses = Addresses { replicas: 5, clients: 8, hello: true };

    fn incorrect(text: &str) -> (String, Option<(NodeId, Option<NodeId>)>) {
        match inspect(text.as_bytes(), COURSE) {
            Err(Fault::Incorrect { what, leader }) => (what, leader),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn json_message_between_replicas_is_parsed() {
        let text =
            br#"{"src":"0001","dst":"0002","leader":"FFFF","type":"x","body":[1,{"a":null}]}"#;
        let peer = |leader, destination| Ok(Message::Peer { src: NodeId(1), leader, destination });
        assert_eq!(inspect(text, COURSE), peer(None, Destination::Replica(NodeId(2))));
        let text = br#" {"type": 7, "src": "0001", "dst": "FFFF", "leader": "0003"}"#;
        assert_eq!(inspect(text, COURSE), peer(Some(NodeId(3)), Destination::Broadcast));
    }

    #[test]
    fn hello_message_registers_a_replica_only_over_udp() {
        let text = br#"{"src":"0001","dst":"FFFF","leader":"FFFF","type":"hello"}"#;
        assert_eq!(inspect(text, COURSE), Ok(Message::Hello));
        let unix = Addresses { hello: false, ..COURSE };
        assert!(matches!(inspect(text, unix), Ok(Message::Peer { .. })));
    }

    #[test]
    fn json_reply_to_a_client_is_parsed() {
        let written = |dst: &str, leader: &str, kind: &str, value: &str| {
            let mid = "ABCDEFGHIJKLMNOP";
            format!(
                r#"{{"src":"0001","dst":"{dst}","leader":"{leader}","type":"{kind}","MID":"{mid}","#
            ) + &format!(r#""value":{value}}}"#)
        };
        let text = written("0015", "0002", "ok", r#""v""#);
        let Ok(Message::Answer { answer }) = inspect(text.as_bytes(), COURSE) else { panic!() };
        assert_eq!(answer.client, ClientId(0x15));
        assert_eq!((answer.leader, answer.kind), (Some(NodeId(2)), AnswerKind::Ok));
        assert_eq!((answer.mid.0, answer.value), (*b"ABCDEFGHIJKLMNOP", Some(&b"v"[..])));
        let text = written("001C", "FFFF", "fail", "1");
        let Ok(Message::Answer { answer }) = inspect(text.as_bytes(), COURSE) else { panic!() };
        assert_eq!((answer.kind, answer.leader), (AnswerKind::Fail, None));
        assert_ne!(answer.value, None, "a number is a value, though a wrong one");
    }

    #[test]
    fn error_for_an_invalid_message_quotes_it_and_names_the_fault() {
        for (text, what) in [
            ("{", "not valid JSON ("),
            ("nonsense", "that is not valid JSON:"),
            ("[1]", "not a JSON object"),
            (r#"{"dst":"0002","leader":"0001","type":"x"}"#, "without `src`"),
            (r#"{"src":"0001","leader":"0001","type":"x"}"#, "without `dst`"),
            (r#"{"src":"0001","dst":"0002","type":"x"}"#, "without `leader`"),
            (r#"{"src":"0001","dst":"0002","leader":"0001"}"#, "without `type`"),
            (r#"{"src":"0001","dst":"2","leader":"0001","type":"x"}"#, "`dst` is not four"),
            (r#"{"src":"0001","dst":"0002","leader":null,"type":"x"}"#, "without `leader`"),
            (r#"{"src":"0001","dst":"0002","leader":1,"type":"x"}"#, "`leader` is not four"),
            (r#"{"src":"000G","dst":"0002","leader":"0001","type":"x"}"#, "`src` is not four"),
        ] {
            let (error, leader) = incorrect(text);
            assert!(error.contains(what) && error.contains(text), "{error}");
            assert_eq!(leader, None);
        }
    }

    #[test]
    fn message_to_unknown_id_is_rejected_but_its_leader_field_used() {
        for dst in ["0005", "0014", "001D", "001c", "ffff"] {
            let text = format!(r#"{{"src":"0001","dst":"{dst}","leader":"0003","type":"ok"}}"#);
            let (error, leader) = incorrect(&text);
            assert!(error.contains("unknown `dst`"), "{error}");
            assert_eq!(leader, Some((NodeId(1), Some(NodeId(3)))));
        }
        let answer = |rest: &str| {
            incorrect(&format!(r#"{{"src":"0001","dst":"0015","leader":"0003",{rest}}}"#)).0
        };
        assert!(answer(r#""type":"ok""#).contains("without `MID`"));
        assert!(answer(r#""type":"yes","MID":"ABCDEFGHIJKLMNOP""#).contains("not ok, redirect"));
        assert!(answer(r#""type":"ok","MID":"short""#).contains("not that of a request"));
    }

    #[test]
    fn long_invalid_message_is_shortened_in_the_error() {
        let (error, _) = incorrect(&"x".repeat(5_000));
        assert!(error.len() < 200 && error.contains("(5000 bytes)"), "{error}");
        let fault = inspect(b"{\xFF}", COURSE).unwrap_err();
        assert!(matches!(fault, Fault::NotText(what) if what.contains("not UTF-8")));
    }

    /// Generates valid and invalid members of a JSON object.
    fn member() -> impl Strategy<Value = String> {
        let name = prop_oneof![
            Just("src"),
            Just("dst"),
            Just("leader"),
            Just("type"),
            Just("MID"),
            Just("value"),
            Just("d\\u0073t"),
            Just("other"),
        ];
        let value = prop_oneof![
            6 => (0_u16..32).prop_map(|id| format!("\"{id:04X}\"")),
            2 => Just("\"FFFF\"".to_owned()),
            3 => "(ok|redirect|fail|hello|append)".prop_map(|kind| format!("\"{kind}\"")),
            2 => "[A-Z0-9]{15,17}".prop_map(|mid| format!("\"{mid}\"")),
            3 => "(null|-1e999|\\[\\[1],\\{\\}\\]|\"\\PC{0,4}\"|\\PC{0,3}|\"\\\\ud800\")",
        ];
        (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"))
    }

    proptest! {
        #[test]
        fn parsing_arbitrary_bytes_as_a_message_never_panics(
            members in vec(member(), 0..8),
            cut in any::<prop::sample::Index>(),
            noise in vec(any::<u8>(), 0..40),
        ) {
            let text = format!("{{{}}}", members.join(","));
            let cut = &text.as_bytes()[..cut.index(text.len() + 1)];
            for bytes in [text.as_bytes(), cut, &noise] {
                match inspect(bytes, COURSE) {
                    Ok(Message::Hello) => prop_assert!(text.contains("hello")),
                    Ok(Message::Peer { destination: Destination::Replica(id), .. }) => {
                        prop_assert!(id.0 < COURSE.replicas);
                    }
                    Ok(Message::Peer { .. }) => {}
                    Ok(Message::Answer { answer }) => {
                        prop_assert!((0x15..0x1D).contains(&answer.client.0));
                    }
                    Err(Fault::Incorrect { what, .. } | Fault::NotText(what)) => {
                        prop_assert!(!what.contains('\n'), "{what}");
                    }
                }
            }
        }
    }
}
