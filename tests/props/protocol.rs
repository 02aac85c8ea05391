//! Frames as earlier versions of the program write them. `tests/formats/protocol-N` has one file
//! for each kind of frame and message in version N of the protocol between replicas: the preamble
//! of a connection and the frame. This version must read them, and write the same bytes to a peer
//! that speaks version N.
//!
//! `UPDATE_PROTOCOL=1 cargo test --test props recorded_frames` writes the files of the newest
//! version. Do so for a release, and never for a version that was released.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bowline::feature_level::FeatureLevel;
use bowline::membership::{Configuration, MemberChange, Promotion};
use bowline::raft::{
    AppendEntries, AppendOutcome, AppendReply, DiskState, InstallReply, InstallSnapshot, PeerMsg,
    RefusalReason, Rejoin, RejoinReply, RequestVote, SnapshotId, TimeoutNow, VoteReply,
};
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::types::{ClientId, EntryId, Index, NodeId, RequestId, RequestKey, Round, Term};
use bowline::wire::frame::{Attempt, Decoder, Frame, Hello, Lane, encode, encode_preamble};
use bowline::wire::protocol::{ProtocolVersion, ProtocolVersions, V9};
use bytes::{Bytes, BytesMut};

fn samples() -> Vec<(&'static str, Frame)> {
    let key = RequestKey { client: ClientId(7), request: RequestId(*b"ABCDEFGHIJ012345") };
    let (term, round, last) = (Term(5), Round(17), EntryId::new(3, 8));
    let snapshot = SnapshotId { last, bytes: 9_999, checksum: 0xDEAD_BEEF };
    let payload = Bytes::from_static(b"command");
    let mut samples = vec![
        ("hello", Frame::Hello(hello())),
        ("forward", Frame::Forward { key, attempt: Attempt::First { term }, payload }),
        (
            "forward_again",
            Frame::Forward {
                key,
                attempt: Attempt::Again { since: Index(8) },
                payload: Bytes::new(),
            },
        ),
        ("ask_read_index", Frame::AskReadIndex { ticket: 11 }),
        ("read_index", Frame::ReadIndex { ticket: 11, index: Some(Index(5)) }),
        ("no_read_index", Frame::ReadIndex { ticket: 12, index: None }),
        ("wall_clock", Frame::WallClock { millis: 1_700_000_000_000 }),
    ];
    for (name, reason) in [
        ("refused_not_leader", RefusalReason::NotLeader),
        ("refused_replaced", RefusalReason::Replaced),
        ("refused_busy", RefusalReason::Busy),
        ("refused_disk_full", RefusalReason::DiskFull),
        ("refused_out_of_memory", RefusalReason::OutOfMemory),
    ] {
        samples.push((name, Frame::Refused { key, reason }));
    }
    let vote = RequestVote { term, pre: false, transfer: false, last };
    let answer = RejoinReply { nonce: 77, term, leads: false, last, members_changed: true };
    let chunk = Bytes::from_static(b"a part of a snapshot");
    for (name, message) in [
        ("append", append(entries())),
        ("heartbeat", append(Vec::new())),
        ("match_healthy", reply(DiskState::Healthy, AppendOutcome::Match { index: Index(12) })),
        ("match_low", reply(DiskState::Low, AppendOutcome::Match { index: Index(0) })),
        (
            "reject_stalled",
            reply(DiskState::Stalled, AppendOutcome::Reject { refused: Index(9), hint: last }),
        ),
        ("vote", PeerMsg::RequestVote(vote)),
        ("pre_vote", PeerMsg::RequestVote(RequestVote { pre: true, ..vote })),
        ("vote_transfer", PeerMsg::RequestVote(RequestVote { transfer: true, ..vote })),
        ("vote_reply", PeerMsg::VoteReply(VoteReply { term, pre: false, granted: true })),
        ("pre_vote_reply", PeerMsg::VoteReply(VoteReply { term, pre: true, granted: false })),
        (
            "install_snapshot",
            PeerMsg::InstallSnapshot(InstallSnapshot { term, round, snapshot, offset: 40, chunk }),
        ),
        (
            "install_reply",
            PeerMsg::InstallReply(InstallReply { term, round, snapshot, received: 60 }),
        ),
        ("timeout_now", PeerMsg::TimeoutNow(TimeoutNow { term, last: EntryId::new(5, 8) })),
        ("rejoin", PeerMsg::Rejoin(Rejoin { nonce: 77, term, last })),
        ("rejoin_reply", PeerMsg::RejoinReply(answer)),
    ] {
        samples.push((name, Frame::Peer(message)));
    }
    samples
}

/// Returns entries of all kinds that the oldest feature level has.
fn entries() -> Vec<Entry> {
    let members = Configuration::of_voters([1, 2, 9].map(NodeId));
    let learner = MemberChange::AddLearner {
        id: NodeId(10),
        promotion: Promotion::Automatic { replaces: Some(NodeId(2)) },
        is_witness: false,
        address: Bytes::from_static(b"127.0.0.1:8010"),
    };
    let joint = members.plan(&[MemberChange::Demote(NodeId(9))]).expect("a valid change");
    let with_learner = members.plan(&[learner]).expect("a valid change");
    let mut buffer = RecordBuffer::default();
    vec![
        buffer.encode(EntryId::new(3, 9), EntryKind::NoOp, b""),
        buffer.encode(EntryId::new(3, 10), EntryKind::Command, b"payload"),
        buffer.encode(EntryId::new(3, 11), EntryKind::Configuration, &members.encode()),
        buffer.encode(EntryId::new(4, 12), EntryKind::Configuration, &joint.encode()),
        buffer.encode(EntryId::new(5, 13), EntryKind::Configuration, &with_learner.encode()),
    ]
}

fn append(entries: Vec<Entry>) -> PeerMsg {
    PeerMsg::AppendEntries(AppendEntries {
        term: Term(5),
        round: Round(17),
        prev: EntryId::new(3, 8),
        commit_index: Index(40),
        loss_permille: 300,
        transfer_to: Some(NodeId(2)),
        entries,
    })
}

fn reply(disk: DiskState, outcome: AppendOutcome) -> PeerMsg {
    let level = FeatureLevel::V0_1;
    PeerMsg::AppendReply(AppendReply { term: Term(5), round: Round(17), disk, level, outcome })
}

fn hello() -> Hello {
    Hello {
        cluster: 0xFEED,
        from: NodeId(1),
        to: NodeId(2),
        incarnation: 9,
        connection: 4,
        start_ids: vec![7, u64::MAX],
        members: vec![NodeId(1), NodeId(2), NodeId(9)],
        rejoining: true,
        lane: Lane::Bulk,
        client_address: "127.0.0.1:7001".to_owned(),
        peer_address: "127.0.0.1:8001".to_owned(),
        versions: ProtocolVersions::V0_1,
        level: FeatureLevel::V0_1,
        program: String::new(),
    }
}

/// Returns the samples for this version of the protocol, in which a hello has other fields.
fn samples_of(version: ProtocolVersion) -> Vec<(&'static str, Frame)> {
    let mut samples = samples();
    for (_, frame) in &mut samples {
        if let Frame::Hello(hello) = frame
            && version > V9
        {
            hello.versions = ProtocolVersions { oldest: version - 1, newest: version };
            "0.2.0".clone_into(&mut hello.program);
        }
    }
    samples
}

fn encoded(frame: &Frame, version: ProtocolVersion) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode_preamble(version, &mut bytes);
    encode(frame, version, &mut bytes);
    bytes
}

fn folder_of(version: ProtocolVersion) -> PathBuf {
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats");
    formats.join(format!("protocol-{version}"))
}

#[test]
fn recorded_frames_of_earlier_versions_are_read_and_written() {
    let ProtocolVersions { oldest, newest } = ProtocolVersions::OWN;
    if std::env::var_os("UPDATE_PROTOCOL").is_some() {
        fs::create_dir_all(folder_of(newest)).unwrap();
        for (name, frame) in samples_of(newest) {
            fs::write(folder_of(newest).join(name), encoded(&frame, newest)).unwrap();
        }
    }
    for version in oldest..newest {
        let samples = samples_of(version);
        let files = fs::read_dir(folder_of(version)).unwrap();
        let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let names = samples.iter().map(|(name, _)| (*name).to_owned());
        assert_eq!(files.collect::<BTreeSet<_>>(), names.collect(), "version {version}");
        for (name, frame) in samples {
            let recorded = fs::read(folder_of(version).join(name)).unwrap();
            assert_eq!(encoded(&frame, version), recorded, "{name} of version {version}");
            let mut decoder = Decoder::for_unknown_peer();
            decoder.feed(&recorded);
            assert_eq!(decoder.next_frame(), Ok(Some(frame)), "{name} of version {version}");
            assert_eq!(decoder.buffered_bytes(), 0, "{name} of version {version}");
        }
    }
}
