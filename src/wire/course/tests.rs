//! Tests of the messages of the university course's simulator, by example. Property tests are in
//! `tests/props.rs`.

use serde_json::{Value, json};

use super::*;
use crate::feature_level::FeatureLevel;
use crate::raft::{
    AppendEntries, DiskState, InstallReply, InstallSnapshot, Rejoin, RejoinReply, SnapshotId,
    TimeoutNow,
};
use crate::record::{EntryKind, RecordBuffer};
use crate::types::{EntryId, Index, Round, Term};

const ME: NodeId = NodeId(0x0001);
const MID: &str = "ABCDEFGHIJKLMN01";

fn key() -> RequestKey {
    RequestKey { client: ClientId(0x1A), request: RequestId(*b"ABCDEFGHIJKLMN01") }
}

fn put() -> Value {
    json!({"src": "001A", "dst": "0001", "leader": "FFFF", "type": "put", "MID": MID,
           "key": "K", "value": "V"})
}

fn with(mut message: Value, member: &str, value: Value) -> Value {
    message[member] = value;
    message
}

fn without(mut message: Value, member: &str) -> Value {
    message.as_object_mut().unwrap().remove(member);
    message
}

fn decoded(message: &Value) -> Result<Incoming, CourseError> {
    decode(message.to_string().as_bytes(), ME)
}

fn refused(message: &Value) -> CourseError {
    decoded(message).unwrap_err()
}

fn envelope() -> Envelope {
    let entry = RecordBuffer::default().encode(EntryId::new(2, 8), EntryKind::Command, b"payload");
    let message = PeerMsg::AppendEntries(AppendEntries {
        term: Term(2),
        round: Round(1),
        prev: EntryId::new(1, 7),
        commit_index: Index(7),
        loss_permille: 0,
        transfer_to: None,
        entries: vec![entry],
    });
    Envelope { from: NodeId(0), to: ME, leader: Some(NodeId(0)), message }
}

fn peer_json(envelope: &Envelope) -> Value {
    let mut out = Vec::new();
    encode_peer(envelope, &mut out);
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn json_client_requests_are_decoded_to_commands() {
    let operation = Operation::set(b"K", b"V");
    let payload = Batch::one(key(), &operation);
    let request = ClientRequest { key: key(), kind: RequestKind::Write, payload };
    assert_eq!(decoded(&put()), Ok(Incoming::Request { client: ClientId(0x1A), request }));

    let get = json!({"src": "001a", "dst": "0001", "type": "get", "MID": MID, "key": "é\"\\\n"});
    let operation = Operation::get("é\"\\\n".as_bytes());
    let payload = Batch::one(key(), &operation);
    let request = ClientRequest { key: key(), kind: RequestKind::Read, payload };
    assert_eq!(decoded(&get), Ok(Incoming::Request { client: ClientId(0x1A), request }));
}

#[test]
fn unknown_json_fields_are_ignored() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let text = put().to_string();
    let noisy =
        format!(" {{\"body\":null,\"x\":{{\"src\":[1,2e9]}},\"deep\":{deep},{}\n", &text[1..]);
    assert_eq!(decode(noisy.as_bytes(), ME), decoded(&put()));
}

#[test]
fn invalid_json_client_request_is_rejected_with_the_reason() {
    for member in ["src", "dst", "type", "MID", "key", "value"] {
        assert_eq!(refused(&without(put(), member)), CourseError::Missing(member));
        assert_eq!(refused(&with(put(), member, Value::Null)), CourseError::Missing(member));
        let error = refused(&with(put(), member, json!(7)));
        assert!(matches!(error, CourseError::Json(_)), "{error}");
    }
    for (member, text) in
        [("src", "1A"), ("src", "+01A"), ("dst", "00001"), ("dst", "é00"), ("src", "")]
    {
        let text = text.to_owned();
        let error = refused(&with(put(), member, json!(text)));
        assert_eq!(error, CourseError::Address { member, text });
    }
    for mid in ["", "ABCDEFGHIJKLMN0", "ABCDEFGHIJKLMN012", "ABCDEFGHIJKLMN0\n", "ABCDEFGHIJKLMNé"]
    {
        let error = refused(&with(put(), "MID", json!(mid)));
        assert_eq!(error, CourseError::RequestId(mid.to_owned()));
    }
    let error = refused(&with(put(), "src", json!("FFFF")));
    assert_eq!(error, CourseError::Sender(BROADCAST));
    let error = refused(&with(put(), "type", json!("ok")));
    assert_eq!(error, CourseError::Type("ok".to_owned()));
    let error = refused(&with(put(), "value", json!("x".repeat(COMMAND_BYTES_MAX))));
    assert!(matches!(error, CourseError::TooLarge { .. }));
}

#[test]
fn message_that_is_not_a_json_object_is_rejected() {
    let array = r#"["001A","0001","FFFF","put"]"#;
    for text in ["", " ", "{", "{}x", "null", "7", array, "\"put\"", "{\"src\":\"\\ud800\"}"] {
        let error = decode(text.as_bytes(), ME).unwrap_err();
        assert!(matches!(error, CourseError::Json(_)), "{text}: {error}");
    }
    assert!(matches!(decode(b"{\"src\":\"\xFF\"}", ME), Err(CourseError::Json(_))));
    assert!(matches!(decode(b"\0", ME), Err(CourseError::Json(_))));
}

#[test]
fn json_message_for_another_replica_is_ignored() {
    let other = with(put(), "dst", json!("0002"));
    assert_eq!(decoded(&other), Ok(Incoming::Ignored(Ignored::Misdirected(NodeId(2)))));
    let mut hello = Vec::new();
    encode_hello(NodeId(2), &mut hello);
    assert_eq!(decode(&hello, ME), Ok(Incoming::Ignored(Ignored::Hello)));
}

#[test]
fn peer_messages_round_trip_in_a_json_envelope() {
    let sent = envelope();
    assert_eq!(decoded(&peer_json(&sent)), Ok(Incoming::Peer(sent.clone())));
    let unled = Envelope { leader: None, ..sent.clone() };
    assert_eq!(decoded(&peer_json(&unled)), Ok(Incoming::Peer(unled)));
    let to_all = Envelope { to: BROADCAST, ..sent.clone() };
    assert_eq!(decoded(&peer_json(&to_all)), Ok(Incoming::Peer(sent)));
}

#[test]
fn invalid_json_peer_message_is_rejected_with_the_reason() {
    let sent = peer_json(&envelope());
    assert_eq!(refused(&without(sent.clone(), "leader")), CourseError::Missing("leader"));
    assert_eq!(refused(&without(sent.clone(), "body")), CourseError::Missing("body"));
    let error = refused(&with(sent.clone(), "body", json!("?")));
    assert!(matches!(error, CourseError::Base64(_)));
    let error = refused(&with(sent.clone(), "body", json!("")));
    assert!(matches!(error, CourseError::Peer(PeerError::Short { length: 0, .. })));
    let error = refused(&with(sent, "type", json!("vote")));
    assert_eq!(error, CourseError::TypeOfBody { found: "vote".to_owned(), expected: "append" });
}

#[test]
fn encoded_messages_match_the_expected_json_text() {
    let mut out = Vec::new();
    encode_hello(NodeId(0xAB), &mut out);
    assert_eq!(out, br#"{"src":"00AB","dst":"FFFF","leader":"FFFF","type":"hello"}"#);

    out.clear();
    encode_ok(ME, key(), Some(ME), None, &mut out).unwrap();
    let ok = r#"{"src":"0001","dst":"001A","leader":"0001","type":"ok","MID":"ABCDEFGHIJKLMN01"}"#;
    assert_eq!(String::from_utf8(out.clone()).unwrap(), ok);

    out.clear();
    encode_ok(ME, key(), Some(ME), Some(b"a\"b"), &mut out).unwrap();
    let value = ok.replace('}', r#","value":"a\"b"}"#);
    assert_eq!(String::from_utf8(out.clone()).unwrap(), value);

    out.clear();
    encode_redirect(ME, key(), None, &mut out).unwrap();
    let redirect = ok.replace(r#""leader":"0001""#, r#""leader":"FFFF""#).replace("ok", "redirect");
    assert_eq!(String::from_utf8(out).unwrap(), redirect);
}

#[test]
fn every_peer_message_type_round_trips_as_json() {
    let reply = |outcome| AppendReply {
        term: Term(1),
        round: Round(0),
        level: FeatureLevel::OLDEST,
        disk: DiskState::Healthy,
        outcome,
    };
    let (refused, hint) = (Index(1), EntryId::ZERO);
    let mut messages = vec![
        envelope().message,
        PeerMsg::AppendReply(reply(AppendOutcome::Match { index: Index(1) })),
        PeerMsg::AppendReply(reply(AppendOutcome::Reject { refused, hint })),
    ];
    for pre in [false, true] {
        messages.push(PeerMsg::RequestVote(RequestVote {
            term: Term(1),
            pre,
            transfer: false,
            last: EntryId::ZERO,
        }));
        messages.push(PeerMsg::VoteReply(VoteReply { term: Term(1), pre, granted: true }));
    }
    let snapshot = SnapshotId { last: EntryId::new(1, 2), bytes: 9, checksum: 7 };
    let (term, round) = (Term(1), Round(4));
    let chunk = Bytes::from_static(b"part");
    messages.push(PeerMsg::InstallSnapshot(InstallSnapshot {
        term,
        round,
        snapshot,
        offset: 5,
        chunk,
    }));
    messages.push(PeerMsg::InstallReply(InstallReply { term, round, snapshot, received: 9 }));
    let last = EntryId::new(1, 2);
    messages.push(PeerMsg::TimeoutNow(TimeoutNow { term, last }));
    messages.push(PeerMsg::Rejoin(Rejoin { nonce: 5, term, last }));
    let reply = RejoinReply { nonce: 5, term, leads: true, last, members_changed: false };
    messages.push(PeerMsg::RejoinReply(reply));
    let types: std::collections::BTreeSet<_> = messages.iter().map(peer_type).collect();
    assert_eq!(types, PEER_TYPES.into_iter().collect());
    for message in messages {
        let sent = Envelope { message, ..envelope() };
        assert_eq!(decoded(&peer_json(&sent)), Ok(Incoming::Peer(sent)));
    }
}

#[test]
fn encoding_a_reply_to_invalid_client_or_request_id_fails() {
    let to = |client, request: &[u8; 16]| {
        let key = RequestKey { client: ClientId(client), request: RequestId(*request) };
        let mut out = Vec::new();
        let ok = encode_ok(ME, key, None, None, &mut out);
        assert_eq!(ok, encode_redirect(ME, key, None, &mut out));
        assert_eq!((ok, out.is_empty()), (Err(CourseError::Unaddressable(key)), true));
    };
    to(0xFFFF, b"ABCDEFGHIJKLMN01");
    to(0x1_0000, b"ABCDEFGHIJKLMN01");
    to(0x0001, b"ABCDEFGHIJKLMN01");
    to(0x001A, b"ABCDEFGHIJKLMN0\0");
}
