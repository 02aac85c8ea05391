//! Replays the committed corpus of the fuzz targets through the same entry points, as an ordinary
//! test.
//!
//! `tests/fuzz/corpus/TARGET/` holds seeds, which this file creates (their names describe them; run
//! with `UPDATE_CORPUS=1` after a change of a format), and inputs that a fuzzer found (their names
//! are hashes).

use std::fs;
use std::path::{Path, PathBuf};

use bowline::backup::{BackupHeader, BackupWriter};
use bowline::feature_level::FeatureLevel;
use bowline::kv::{Batch, CommandId, Operation, PIECE_BYTES, Piece, SnapshotMark};
use bowline::membership::{Configuration, MemberChange, Promotion};
use bowline::raft::{
    AppendEntries, AppendOutcome, AppendReply, DiskState, Envelope, HardState, InstallReply,
    InstallSnapshot, PeerMsg, RefusalReason, Rejoin, RejoinReply, RequestVote, SnapshotId,
    TimeoutNow, VoteReply,
};
use bowline::rdb::check_payload;
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::storage::{Disk as _, Log, LogOptions, MemDisk, check_segment};
use bowline::types::{ClientId, EntryId, Index, NodeId, RequestId, RequestKey, Round, Term};
use bowline::wire::datagram::{Ack, Data, Datagram, StreamId, encode};
use bowline::wire::frame::{self, Attempt, Frame, Hello, Lane};
use bowline::wire::protocol::{ProtocolVersions, V10};
use bowline::wire::{course, peer};
use bytes::{Bytes, BytesMut};

use crate::entries;

/// Maximum length of an input found by fuzzing, in bytes. The inputs stay few and small, so that
/// the replay is fast.
const INPUT_BYTES_MAX: u64 = 4 << 10;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

#[test]
fn decoders_never_panic_on_the_committed_fuzz_corpus() {
    for (target, _) in entries::TARGETS {
        let mut count = 0;
        for file in fs::read_dir(folder(target)).expect("each target has a corpus") {
            let file = file.expect("the corpus is readable");
            let size = file.metadata().expect("the corpus is readable").len();
            let name = file.path();
            assert!(size <= INPUT_BYTES_MAX, "{} has {size} bytes", name.display());
            entries::run(target, &fs::read(&name).expect("the corpus is readable"));
            count += 1;
        }
        assert!(count >= 5, "{target} has only {count} inputs");
    }
}

#[test]
fn fuzz_corpus_seeds_use_the_current_formats() {
    for (target, name, bytes) in seeds() {
        let path = folder(target).join(name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::create_dir_all(folder(target)).expect("the corpus is writable");
            fs::write(&path, &bytes).expect("the corpus is writable");
        }
        let found = fs::read(&path).unwrap_or_default();
        let path = path.display();
        assert!(found == bytes, "{path} is old; run with UPDATE_CORPUS=1 and look at the change");
    }
}

#[test]
fn every_fuzz_target_has_a_source_file() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let mut files: Vec<String> = fs::read_dir(manifest.join("targets"))
        .expect("the targets are there")
        .map(|file| file.expect("readable").file_name().into_string().expect("a plain name"))
        .collect();
    files.sort();
    assert_eq!(files, entries::TARGETS.map(|(target, _)| format!("{target}.rs")));
    let manifest = fs::read_to_string(manifest.join("Cargo.toml")).expect("the package is there");
    for (target, _) in entries::TARGETS {
        assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target}");
    }
}

fn append(entries: Vec<Entry>) -> PeerMsg {
    PeerMsg::AppendEntries(AppendEntries {
        term: Term(3),
        round: Round(5),
        prev: EntryId::new(1, 7),
        commit_index: Index(7),
        loss_permille: 100,
        transfer_to: Some(NodeId(2)),
        entries,
    })
}

/// Returns seeds for the target `backup`: backup files of snapshots of some lengths, whole and
/// damaged. Each seed has its target, name and contents.
fn backups() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let backup = |content: &[u8]| {
        let (last, bytes) = (EntryId::new(3, 17), content.len() as u64);
        let snapshot = SnapshotMark { last, bytes, checksum: 0xABCD };
        let header = BackupHeader { cluster_fingerprint: 7, created_at: 1_700_000, snapshot };
        let mut writer = BackupWriter::new(Vec::new(), header).expect("memory is writable");
        writer.write(content).expect("memory is writable");
        writer.finish().expect("memory is writable").0
    };
    let whole = backup(&[b's'; 100]);
    let cut = whole[..whole.len() - 7].to_vec();
    let longer = [&whole[..], b"more"].concat();
    let mut flipped = whole.clone();
    flipped[90] ^= 1;
    let mut of_any_length = whole.clone();
    of_any_length[60..68].fill(0xFF);
    vec![
        ("backup", "empty", backup(b"")),
        ("backup", "one_block", whole),
        ("backup", "cut", cut),
        ("backup", "longer", longer),
        ("backup", "flipped", flipped),
        ("backup", "of_any_length", of_any_length),
    ]
}

/// Returns seeds for the target `datagram`: datagrams, each preceded by its length. Each seed has
/// its target, name and contents.
fn datagrams() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let id = StreamId { stream: 1, cookie: 2 };
    let data = |number, offset, payload| Datagram::Data(id, Data { number, offset, payload });
    let mut bitmap = Ack::default().bitmap;
    bitmap[0] = 1;
    let ack = Ack { largest: 2, bitmap, received: 100, limit: 5_000, delay: 30 };
    let inputs: [(&str, &[Datagram<'_>]); 5] = [
        ("open", &[Datagram::Open(StreamId { cookie: 0, ..id }), Datagram::Cookie(id)]),
        ("data", &[data(0, 0, b"abc"), data(1, 3, b"def"), data(2, 6, b"")]),
        ("gap", &[data(5, 6, b"ghi"), data(0, 0, b"abc"), Datagram::Cookie(id)]),
        ("acknowledgement", &[Datagram::Cookie(id), Datagram::Cookie(id), Datagram::Ack(id, ack)]),
        ("reset", &[data(0, 0, b"abc"), Datagram::Reset(id)]),
    ];
    let encoded = |datagrams: &[Datagram<'_>]| {
        let mut bytes = Vec::new();
        for datagram in datagrams {
            let mut one = Vec::new();
            encode(datagram, &mut one);
            bytes.push(u8::try_from(one.len()).expect("a small one"));
            bytes.extend(one);
        }
        bytes
    };
    inputs.map(|(name, datagrams)| ("datagram", name, encoded(datagrams))).into()
}

/// Returns seeds for the target `rdb`: the values of the recorded payloads. Each seed has its
/// target, name and contents.
fn rdb_values() -> impl Iterator<Item = (&'static str, &'static str, Vec<u8>)> {
    let recorded = include_str!("../../src/rdb/tests/recorded.txt");
    let lines = recorded.lines().filter(|line| !line.starts_with(['#', ' ']));
    lines.map(|line| {
        let (name, digits) = line.split_once(' ').expect("a name and a payload");
        let pair = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
        let payload: Vec<u8> = (0..digits.len()).step_by(2).map(pair).collect();
        ("rdb", name, check_payload(&payload).expect("a valid payload").to_vec())
    })
}

/// Returns seeds for the target `user_rules`: rules of users, one per line. Each seed has its
/// target, name and contents.
fn user_rules() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let rules = [
        ("permissions", "on\nnopass\n~a:*\n%R~b\n+@all\n-@write\n+config|get"),
        ("selectors", "(~x +get)\n(%W~y &c -@all)\nclearselectors\n()"),
        ("replaced", "+config|get\n+config\n%R~*\n%W~*\nresetkeys\nallchannels\n&x"),
        ("hash", "#00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\nreset"),
        ("refused", "~a b\n%~x\n#12\n>secret\n+\nnonsense"),
    ];
    rules.map(|(name, rules)| ("user_rules", name, rules.into())).into()
}

/// A batch, its pieces, and a batch of one long operation.
fn large_batches(key: RequestKey, whole: &[u8]) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (of_one, _) = Batch::of_one(Operation::get(b"k").encode().into(), key, true, None);
    vec![
        ("batch", "several", whole.to_vec()),
        ("batch", "first_piece", Piece::encode(key, whole, 0, PIECE_BYTES).to_vec()),
        ("batch", "last_piece", Piece::encode(key, whole, 1, PIECE_BYTES).to_vec()),
        ("batch", "of_one", of_one.to_vec()),
    ]
}

/// Well-formed inputs of every kind, from which a fuzzer starts.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    let key = RequestKey { client: ClientId(0x1A), request: RequestId(*b"ABCDEFGHIJ012345") };
    for (name, operation) in [
        ("get", Operation::get(b"k")),
        ("put", Operation::set(b"k", b"value")),
        ("put_nothing", Operation::set(b"", b"")),
        ("delete", Operation::del(b"k")),
        (
            "transfer",
            Operation::call(CommandId::of("transfer"), [&b"a"[..], b"b", b"7"].as_slice()),
        ),
    ] {
        seeds.push(("batch", name, Batch::one(key, &operation).to_vec()));
    }
    let several = [Operation::get(b"k"), Operation::del(b"k"), Operation::set(b"k", b"v")];
    seeds.extend(large_batches(key, &Batch::encode(key, false, &several)));

    seeds.extend(backups());
    seeds.extend(user_rules().into_iter().chain(rdb_values()));
    seeds.extend(datagrams());

    let put = Operation::set(b"k", b"v");
    let payload = Batch::one(key, &put);
    let mut buffer = RecordBuffer::default();
    let first = buffer.encode(EntryId::new(2, 8), EntryKind::NoOp, b"");
    let second = buffer.encode(EntryId::new(3, 9), EntryKind::Command, &payload);
    let both = [&first.record()[..], &second.record()[..]].concat();
    seeds.push(("record", "no_operation", first.record().to_vec()));
    seeds.push(("record", "command", second.record().to_vec()));
    let mut members = Configuration::of_voters([1, 2, 3].map(NodeId));
    for changes in [
        vec![MemberChange::AddLearner {
            id: NodeId(4),
            promotion: Promotion::Automatic { replaces: Some(NodeId(1)) },
            is_witness: false,
            address: Bytes::from_static(b"host:7001"),
        }],
        MemberChange::replace(NodeId(1), NodeId(4)).to_vec(),
    ] {
        members = members.plan(&changes).expect("a valid change");
        let name = if members.is_joint() { "joint_configuration" } else { "configuration" };
        let id = EntryId::new(3, 10);
        let entry = buffer.encode(id, EntryKind::Configuration, &members.encode());
        seeds.push(("record", name, entry.record().to_vec()));
    }
    seeds.push(("record", "cut", both[..both.len() - 1].to_vec()));
    seeds.push(("record", "two", both));
    seeds.push(("record", "empty", Vec::new()));

    let reply = |outcome| AppendReply {
        term: Term(3),
        round: Round(5),
        level: FeatureLevel::V0_2,
        disk: DiskState::Healthy,
        outcome,
    };
    let (refused, hint) = (Index(7), EntryId::new(1, 4));
    let last = EntryId::new(2, 8);
    let (term, round) = (Term(3), Round(8));
    let snapshot = SnapshotId { last: EntryId::new(2, 8), bytes: 100, checksum: 0x1234_5678 };
    let chunk = Bytes::from_static(b"twenty bytes of many");
    let install = InstallSnapshot { term, round, snapshot, offset: 40, chunk };
    let stored = InstallReply { term, round, snapshot, received: 60 };
    let vote = RequestVote { term, pre: false, transfer: false, last };
    let answer =
        RejoinReply { nonce: 77, term: last.term, leads: true, last, members_changed: true };
    for (name, message) in [
        ("append", append(vec![first, second])),
        ("heartbeat", append(Vec::new())),
        ("append_ok", PeerMsg::AppendReply(reply(AppendOutcome::Match { index: Index(9) }))),
        ("append_no", PeerMsg::AppendReply(reply(AppendOutcome::Reject { refused, hint }))),
        ("vote", PeerMsg::RequestVote(vote)),
        ("prevote", PeerMsg::RequestVote(RequestVote { pre: true, ..vote })),
        ("vote_transfer", PeerMsg::RequestVote(RequestVote { transfer: true, ..vote })),
        ("timeout_now", PeerMsg::TimeoutNow(TimeoutNow { term, last })),
        ("vote_reply", PeerMsg::VoteReply(VoteReply { term: Term(3), pre: false, granted: true })),
        ("rejoin", PeerMsg::Rejoin(Rejoin { nonce: 77, term, last })),
        ("rejoin_reply", PeerMsg::RejoinReply(answer)),
        ("install", PeerMsg::InstallSnapshot(install)),
        ("install_reply", PeerMsg::InstallReply(stored)),
    ] {
        let mut bytes = BytesMut::new();
        peer::encode(&message, V10, &mut bytes);
        seeds.push(("peer", name, bytes.to_vec()));
        let (from, to, leader) = (NodeId(0), NodeId(1), Some(NodeId(0)));
        let mut out = Vec::new();
        course::encode_peer(&Envelope { from, to, leader, message }, &mut out);
        seeds.push(("course", name, out));
    }
    let mut hello = Vec::new();
    course::encode_hello(NodeId(2), &mut hello);
    seeds.push(("course", "hello", hello));
    let address = r#""src":"001A","dst":"0001","leader":"FFFF","MID":"ABCDEFGHIJ012345""#;
    let get = format!(r#"{{{address},"type":"get","key":"\"\\\u00e9"}}"#);
    let put = format!(r#"{{{address},"type":"put","key":"k","value":"v","x":[1e9,{{}}]}}"#);
    seeds.push(("course", "get", get.into_bytes()));
    seeds.push(("course", "put", put.into_bytes()));

    scenarios(&mut seeds);
    frames(&mut seeds);
    segments(&mut seeds);
    requests(&mut seeds);
    http_requests(&mut seeds);
    seeds
}

/// Adds seeds of scenario files: valid ones, and two that are no scenarios.
fn scenarios(seeds: &mut Vec<(&'static str, &'static str, Vec<u8>)>) {
    let benchmarks = r#""total_msgs":[1,2,3],"failures":[0,1,2],"duplicates":[0,1,2],
        "median_latency":[0.1,0.2,0.3]"#;
    let plain = r#""lifetime":5,"replicas":3,"requests":10"#;
    let events = r#""events":[{"type":"part_easy","time":1},{"type":"kill_leader","time":2.5},
        {"type":"part_hard","time":3},{"type":"kill_non_leader","time":4},
        {"type":"part_end","time":5}]"#;
    let full = r#""seed":1,"mix":0.2,"drops":0.3,"start_wait":1,"end_wait":0,"max_packets":50,
        "maximum_get_generation_fail_fraction":0.2"#;
    let limits = r#""maximum_get_fail_fraction":0.4,"maximum_appends_batched_fraction":1"#;
    for (name, text) in [
        ("plain", format!(r#"{{{plain},"tests":{{"benchmarks":{{{benchmarks}}}}}}}"#)),
        (
            "full",
            format!(
                r#"{{{plain},{full},{events},"tests":{{{limits},"benchmarks":{{{benchmarks}}}}}}}"#
            ),
        ),
        ("no_tests", format!("{{{plain}}}")),
        ("no_object", "[5]".to_owned()),
        ("no_json", "{\"lifetime\": 5,}".to_owned()),
    ] {
        seeds.push(("scenario", name, text.into_bytes()));
    }
}

/// Adds seeds of frames between replicas: one frame of each kind, and two with a broken end.
fn frames(seeds: &mut Vec<(&'static str, &'static str, Vec<u8>)>) {
    let key = RequestKey { client: ClientId(3), request: RequestId(*b"ABCDEFGHIJ012345") };
    let last = EntryId::new(2, 8);
    let (from, to, client_address) = (NodeId(1), NodeId(2), "127.0.0.1:7001".to_owned());
    let start_ids = vec![2, 3];
    let lane = Lane::Bulk;
    let members = vec![NodeId(1), NodeId(2)];
    let hello = Hello {
        cluster: 5,
        from,
        to,
        incarnation: 3,
        connection: 3,
        start_ids,
        members,
        rejoining: false,
        lane,
        client_address,
        peer_address: "127.0.0.1:8001".to_owned(),
        versions: ProtocolVersions::OWN,
        level: FeatureLevel::V0_2,
        program: "0.2.0".to_owned(),
    };
    let vote = RequestVote { term: Term(3), pre: true, transfer: false, last };
    let vote = PeerMsg::RequestVote(vote);
    let payload = Bytes::from_static(b"command");
    let (ticket, reason) = (1 << 32, RefusalReason::Replaced);
    for (name, frame) in [
        ("hello", Frame::Hello(hello)),
        ("vote", Frame::Peer(vote)),
        ("forward", Frame::Forward { key, attempt: Attempt::Again { since: Index(7) }, payload }),
        ("refused", Frame::Refused { key, reason }),
        ("read_index", Frame::ReadIndex { ticket, index: Some(Index(9)) }),
        ("ask", Frame::AskReadIndex { ticket }),
        ("wall_clock", Frame::WallClock { millis: 1_700_000_000_000 }),
    ] {
        let mut bytes = BytesMut::new();
        frame::encode(&frame, V10, &mut bytes);
        seeds.push(("frame", name, bytes.to_vec()));
    }
    let mut stream = BytesMut::new();
    frame::encode_preamble(V10, &mut stream);
    frame::encode(&Frame::AskReadIndex { ticket }, V10, &mut stream);
    seeds.push(("frame", "stream", stream.to_vec()));
    seeds.push(("frame", "claim", b"BOWL\x02\0\xFF\xFF\xFF\xFF\0\0\0\0\x02".to_vec()));
}

/// Adds seeds of input from Redis clients: handshakes, inline commands, and malformed requests.
fn requests(seeds: &mut Vec<(&'static str, &'static str, Vec<u8>)>) {
    for (name, text) in [
        ("greeting", "*2\r\n$5\r\nhello\r\n$1\r\n3\r\nCLIENT SETINFO LIB-NAME x\r\ninfo\r\n"),
        (
            "pipeline",
            "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n17\r\n*2\r\n$4\r\nINCR\r\n$1\r\nk\r\nGET k\r\n",
        ),
        ("typed", "set \"a b\" 'c'\r\n\r\nmget \"a b\" \\x00 k\nset k v nx get\r\n"),
        ("cluster", "cluster slots\r\ncluster shards\r\ncluster nodes\r\nrole\r\n"),
        ("table", "command docs get\r\ncommand info set config|get x\r\nconfig get m*[a-p]?y\r\n"),
        ("unknown", "hello 3 setname a\r\nget\r\nfoo 'bar\r\n"),
        ("count", "*100\r\n"),
        ("bulk", "*2\r\n$3\r\nGET\r\n$101\r\n"),
        ("quit", "quit\r\nget k\r\n"),
    ] {
        seeds.push(("resp", name, text.as_bytes().to_vec()));
    }
}

/// Adds seeds of HTTP requests: valid ones, and malformed ones.
fn http_requests(seeds: &mut Vec<(&'static str, &'static str, Vec<u8>)>) {
    for (name, text) in [
        ("scrape", "GET /metrics?x=1 HTTP/1.1\r\nHost: a:9121\r\nAccept: */*\r\n\r\n"),
        ("probe", "GET /livez HTTP/1.1\r\nhost: a\r\nConnection: keep-alive, Close\r\n\r\n"),
        ("old", "HEAD / HTTP/1.0\r\n\r\n"),
        (
            "pipeline",
            "GET /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /b HTTP/1.1\nHost: a\n\nGET /c HTTP/1.1\r\nH",
        ),
        ("body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde"),
        ("chunked", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("method", "POST / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("absolute", "GET http://localhost/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ] {
        seeds.push(("http", name, text.as_bytes().to_vec()));
    }
}

/// Adds seeds of segment files, complete or torn by a power cut, and of single blocks, which the
/// target puts into a file.
fn segments(seeds: &mut Vec<(&'static str, &'static str, Vec<u8>)>) {
    const SEGMENT: &str = "segment-0000000001";
    const SECTOR: usize = 512;
    let (cluster, replica) = (1, NodeId(2));
    let mut disk = MemDisk::default();
    Log::bootstrap(&mut disk, cluster, replica, &[replica]).expect("the disk is empty");
    let options = LogOptions::with_segment_bytes(7 * SECTOR as u64);
    let (mut log, ..) =
        Log::open(disk, Some(cluster), replica, options, None).expect("it was made");
    let mut buffer = RecordBuffer::default();
    let mut entry = |term, index, bytes| {
        buffer.encode(EntryId::new(term, index), EntryKind::Command, &vec![0; bytes])
    };
    let state = |term| Some(HardState { term: Term(term), voted_for: Some(replica) });
    log.append(state(1), &[entry(1, 1, 5), entry(1, 2, 30)]).expect("in order");
    log.sync().expect("a disk in memory does not fail");
    log.append(state(2), &[entry(2, 2, 700)]).expect("in order");
    log.sync().expect("a disk in memory does not fail");
    let mut disk = log.into_disk();
    let file = disk.read(SEGMENT).expect("the first segment");
    seeds.push(("segment", "whole", file.clone()));
    // The last block is preceded by the block of the start and that of the entries.
    for (name, sector) in [("torn_end", 4), ("torn_start", 3), ("lost", 1)] {
        disk.tamper(SEGMENT, |bytes| bytes[sector * SECTOR..(sector + 1) * SECTOR].fill(0));
        let bytes = disk.read(SEGMENT).expect("the first segment");
        assert_eq!(check_segment(&bytes).is_ok(), name != "lost", "{name}");
        seeds.push(("segment", name, bytes));
        disk.tamper(SEGMENT, |bytes| bytes.clone_from(&file));
    }
    let mut blocks = Vec::new();
    for sectors in [1..2, 2..3, 3..5] {
        let mut stream: Vec<u8> = sectors
            .flat_map(|at: usize| file[at * SECTOR + 12..(at + 1) * SECTOR].to_vec())
            .collect();
        let length = u32::from_le_bytes(stream[..4].try_into().expect("four bytes"));
        stream.truncate(length as usize);
        blocks.extend(u16::try_from(length).expect("a small block").to_le_bytes());
        blocks.extend(stream);
    }
    seeds.push(("segment", "blocks", blocks));
}
