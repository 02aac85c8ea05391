//! Tests of peer messages: round trips, damage, contradictions.

use super::header::NUMBER_MAX;
use super::*;
use crate::raft::{
    AppendEntries, AppendOutcome, AppendReply, DiskState, InstallReply, InstallSnapshot, Rejoin,
    RejoinReply, RequestVote, SnapshotId, TimeoutNow, VoteReply,
};
use crate::record::{EntryKind, RecordBuffer};
use crate::types::{Index, Round};
use crate::wire::protocol::{V9, V10};

fn entry(term: u64, index: u64) -> Entry {
    let id = EntryId::new(term, index);
    RecordBuffer::default().encode(id, EntryKind::Command, b"payload")
}

fn append(prev: EntryId, entries: Vec<Entry>) -> AppendEntries {
    AppendEntries {
        term: Term(5),
        round: Round(17),
        prev,
        commit_index: Index(40),
        loss_permille: 300,
        transfer_to: None,
        entries,
    }
}

const SNAPSHOT: SnapshotId =
    SnapshotId { last: EntryId::new(3, 1_000), bytes: 9_999, checksum: 0xDEAD_BEEF };

fn vote(term: u64, pre: bool, transfer: bool, last: EntryId) -> PeerMsg {
    PeerMsg::RequestVote(RequestVote { term: Term(term), pre, transfer, last })
}

fn rejoin_reply(term: u64, leads: bool, last: EntryId) -> RejoinReply {
    RejoinReply { nonce: 1 << 63, term: Term(term), leads, last, members_changed: !leads }
}

fn samples() -> Vec<PeerMsg> {
    let disk = DiskState::Stalled;
    let reply = |outcome| AppendReply {
        term: Term(5),
        round: Round(0),
        level: FeatureLevel::V0_2,
        disk,
        outcome,
    };
    let (refused, hint) = (Index(9), EntryId::new(3, 4));
    vec![
        PeerMsg::AppendEntries(append(EntryId::ZERO, vec![])),
        PeerMsg::AppendEntries(append(EntryId::new(5, 41), vec![])),
        PeerMsg::AppendEntries(append(EntryId::ZERO, vec![entry(1, 1)])),
        PeerMsg::AppendEntries(append(
            EntryId::new(2, 7),
            vec![entry(2, 8), entry(4, 9), entry(5, 10)],
        )),
        PeerMsg::AppendReply(reply(AppendOutcome::Match { index: Index::ZERO })),
        PeerMsg::AppendReply(reply(AppendOutcome::Match { index: Index(12) })),
        PeerMsg::AppendReply(reply(AppendOutcome::Reject { refused, hint })),
        PeerMsg::AppendReply(reply(AppendOutcome::Reject { refused, hint: EntryId::ZERO })),
        vote(1, true, false, EntryId::ZERO),
        vote(9, false, false, hint),
        vote(9, false, true, hint),
        PeerMsg::TimeoutNow(TimeoutNow { term: Term(5), last: EntryId::new(5, 4) }),
        PeerMsg::Rejoin(Rejoin { nonce: u64::MAX, term: Term(0), last: EntryId::ZERO }),
        PeerMsg::Rejoin(Rejoin { nonce: 0, term: Term(3), last: hint }),
        PeerMsg::RejoinReply(rejoin_reply(0, false, EntryId::ZERO)),
        PeerMsg::RejoinReply(rejoin_reply(7, false, hint)),
        PeerMsg::RejoinReply(rejoin_reply(3, true, hint)),
        PeerMsg::VoteReply(VoteReply { term: Term(9), pre: true, granted: false }),
        PeerMsg::VoteReply(VoteReply { term: Term(9), pre: false, granted: true }),
        PeerMsg::InstallSnapshot(InstallSnapshot {
            term: Term(5),
            round: Round(3),
            snapshot: SNAPSHOT,
            offset: 5_000,
            chunk: Bytes::from_static(b"a part of a snapshot"),
        }),
        PeerMsg::InstallReply(InstallReply {
            term: Term(5),
            round: Round(3),
            snapshot: SNAPSHOT,
            received: SNAPSHOT.bytes,
        }),
    ]
}

fn bytes_of(message: &PeerMsg) -> Bytes {
    let mut out = BytesMut::new();
    encode(message, V10, &mut out);
    assert_eq!(out.len(), encoded_len(message, V10));
    out.freeze()
}

#[test]
fn peer_messages_round_trip_at_any_memory_alignment() {
    for message in samples() {
        let bytes = bytes_of(&message);
        for offset in 0..8 {
            let shifted = Bytes::from([&vec![0; offset][..], &bytes].concat());
            assert_eq!(decode(shifted.slice(offset..)), Ok(message.clone()));
        }
    }
}

#[test]
fn decoding_damaged_peer_messages_never_panics() {
    for message in samples() {
        let bytes = bytes_of(&message);
        for length in 0..bytes.len() {
            assert!(decode(bytes.slice(..length)).is_err(), "{message:?} cut to {length}");
        }
        let padded = Bytes::from([&bytes[..], b"x"].concat());
        assert_eq!(decode(padded), Err(PeerError::Trailing { bytes: 1 }));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = decode(Bytes::from(damaged)) {
                assert_eq!(decode(bytes_of(&other)), Ok(other), "bit {bit}");
            }
        }
    }
}

#[test]
fn peer_message_with_out_of_order_entries_is_rejected() {
    let rejected = |prev, entries| {
        let bytes = bytes_of(&PeerMsg::AppendEntries(append(prev, entries)));
        decode(bytes).unwrap_err()
    };
    let prev = EntryId::new(2, 7);
    let order = |previous, found| PeerError::Order { previous, found, term: Term(5) };
    let gap = rejected(prev, vec![entry(2, 9)]);
    assert_eq!(gap, order(prev, EntryId::new(2, 9)));
    let repeated = rejected(prev, vec![entry(2, 8), entry(2, 8)]);
    assert_eq!(repeated, order(EntryId::new(2, 8), EntryId::new(2, 8)));
    let falling = rejected(prev, vec![entry(4, 8), entry(3, 9)]);
    assert_eq!(falling, order(EntryId::new(4, 8), EntryId::new(3, 9)));
    let below_prev = rejected(prev, vec![entry(1, 8)]);
    assert_eq!(below_prev, order(prev, EntryId::new(1, 8)));
    let later_term = rejected(prev, vec![entry(6, 8)]);
    assert_eq!(later_term, order(prev, EntryId::new(6, 8)));
}

#[test]
fn peer_message_with_invalid_numbers_or_entry_ids_is_rejected() {
    let rejected = |message: PeerMsg| decode(bytes_of(&message)).unwrap_err();
    let later = rejected(PeerMsg::AppendEntries(append(EntryId::new(6, 1), vec![])));
    assert!(matches!(later, PeerError::Place { field: "prev", .. }));
    let half = rejected(PeerMsg::AppendEntries(append(EntryId::new(0, 1), vec![])));
    assert!(matches!(half, PeerError::Place { field: "prev", .. }));
    let mut lossy = append(EntryId::ZERO, vec![]);
    lossy.loss_permille = 1_001;
    let lossy = rejected(PeerMsg::AppendEntries(lossy));
    assert_eq!(lossy, PeerError::Number { field: "loss_permille", value: 1_001 });
    let vote =
        |term, last| PeerMsg::RequestVote(RequestVote { term, pre: false, transfer: false, last });
    let own = rejected(vote(Term(3), EntryId::new(3, 1)));
    assert!(matches!(own, PeerError::Place { field: "last", .. }));
    let zero = rejected(vote(Term(0), EntryId::ZERO));
    assert_eq!(zero, PeerError::Number { field: "term", value: 0 });
    let end = rejected(vote(Term(u64::MAX), EntryId::ZERO));
    assert_eq!(end, PeerError::Number { field: "term", value: u64::MAX });
}

#[test]
fn peer_rejoin_message_with_invalid_numbers_is_rejected() {
    let rejected = |message: PeerMsg| decode(bytes_of(&message)).unwrap_err();
    let ask = |term| PeerMsg::Rejoin(Rejoin { nonce: 1, term, last: EntryId::new(3, 1) });
    assert!(matches!(rejected(ask(Term(2))), PeerError::Place { field: "last", .. }));
    let far = rejected(ask(Term(NUMBER_MAX)));
    assert_eq!(far, PeerError::Number { field: "term", value: NUMBER_MAX });
    let reply = |term, leads, last| PeerMsg::RejoinReply(rejoin_reply(term, leads, last));
    let term = rejected(reply(u64::MAX, false, EntryId::ZERO));
    assert_eq!(term, PeerError::Number { field: "term", value: u64::MAX });
    let newer = rejected(reply(3, false, EntryId::new(4, 1)));
    assert!(matches!(newer, PeerError::Place { field: "last", .. }));
    for (term, last) in [(0, EntryId::ZERO), (3, EntryId::ZERO), (3, EntryId::new(2, 1))] {
        let leads = rejected(reply(term, true, last));
        assert!(matches!(leads, PeerError::Place { field: "last", .. }), "{term} {last}");
    }
}

#[test]
fn entry_count_of_peer_message_is_checked_before_allocation() {
    let mut bytes = BytesMut::new();
    let message = append(EntryId::ZERO, vec![entry(1, 1)]);
    encode(&PeerMsg::AppendEntries(message), V10, &mut bytes);
    // The count is the last field of its kind, which need not be the longest one.
    let mut count = PREFIX_BYTES + HEADER_BYTES - 4;
    while bytes[count..count + 4] != 1u32.to_le_bytes() {
        count -= 1;
    }
    assert_eq!(bytes[count..count + 4], 1u32.to_le_bytes());
    bytes[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let claimed = u32::MAX as usize;
    let bytes_behind = entry(1, 1).record().len();
    assert_eq!(decode(bytes.freeze()), Err(PeerError::Count { claimed, bytes: bytes_behind }));
}

#[test]
fn peer_messages_are_read_in_the_encoding_of_both_protocol_versions() {
    for message in samples() {
        let mut old = BytesMut::new();
        encode(&message, V9, &mut old);
        assert_eq!(old.len(), encoded_len(&message, V9));
        assert_eq!(old.len() + ADDED_BYTES, encoded_len(&message, V10));
        let mut expected = message;
        if let PeerMsg::AppendReply(reply) = &mut expected {
            reply.level = FeatureLevel::V0_1;
        }
        assert_eq!(decode(old.freeze()), Ok(expected));
    }
}

#[test]
fn fields_that_later_versions_add_to_a_peer_message_are_skipped() {
    for message in samples() {
        let bytes = bytes_of(&message);
        let length = header_bytes(V10);
        let mut longer = BytesMut::from(&bytes[..PREFIX_BYTES + length]);
        longer[1..3].copy_from_slice(&u16::try_from(length + 5).unwrap().to_le_bytes());
        longer.put_bytes(9, 5);
        longer.put_slice(&bytes[PREFIX_BYTES + length..]);
        assert_eq!(decode(longer.freeze()), Ok(message));
    }
}

#[test]
fn append_reply_without_a_feature_level_is_rejected() {
    let reply = samples().into_iter().find(|it| matches!(it, PeerMsg::AppendReply(_))).unwrap();
    let mut bytes = BytesMut::from(&bytes_of(&reply)[..]);
    let level = PREFIX_BYTES + HEADER_BYTES;
    bytes[level..level + 2].fill(0);
    let error = PeerError::Number { field: "feature level", value: 0 };
    assert_eq!(decode(bytes.freeze()), Err(error));
}

#[test]
fn peer_message_of_another_version_is_rejected() {
    let mut bytes = BytesMut::from(&bytes_of(&samples()[0])[..]);
    bytes[0] = VERSION + 1;
    let error = decode(bytes.freeze()).unwrap_err();
    assert_eq!(error, PeerError::Version { version: VERSION + 1, length: header_bytes(V10) });
    assert!(error.to_string().contains("upgrade the older"));
}
