//! The entry points of the fuzzers: one function for each decoder, which accepts any bytes. It must
//! not panic, and must be able to encode what it decodes. Used by the fuzz targets beside this
//! file, the replay of the committed corpus, and the property tests.

#[path = "backups.rs"]
mod backups;
#[path = "datagrams.rs"]
mod datagrams;
#[path = "frames.rs"]
mod frames;
#[path = "http.rs"]
mod http;
#[path = "local_server.rs"]
mod local_server;
#[path = "rdb.rs"]
mod rdb;
#[path = "requests.rs"]
mod requests;
#[path = "segments.rs"]
mod segments;
#[path = "user_rules.rs"]
mod user_rules;

use bowline::course::run::ScenarioRun;
use bowline::course::scenario::{Overrides, Scenario};
use bowline::kv::{Batch, BatchBuffer, Operation, Piece, StateMachine};
use bowline::raft::RequestKind;
use bowline::record::{self, Entry, EntryKind, RecordBuffer};
use bowline::types::{EntryId, Instant, NodeId};
use bowline::wire::course::{self, Incoming};
use bowline::wire::peer;
use bowline::wire::protocol::V10;
use bytes::{Bytes, BytesMut};

/// The entry point of a decoder, which accepts any bytes.
type Decoder = fn(&[u8]);

/// The entry points of all decoders, each with the name of its fuzz target and corpus.
pub(crate) const TARGETS: [(&str, Decoder); 13] = [
    ("backup", backups::backup),
    ("batch", batch),
    ("course", course),
    ("datagram", datagrams::datagram),
    ("frame", frames::frame),
    ("http", http::http),
    ("peer", peer),
    ("rdb", rdb::rdb),
    ("record", record),
    ("resp", requests::resp),
    ("scenario", scenario),
    ("segment", segments::segment),
    ("user_rules", user_rules::user_rules),
];

/// Runs the entry point of the fuzz target `target` on these bytes.
pub(crate) fn run(target: &str, bytes: &[u8]) {
    let known = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, decoder) = known.unwrap_or_else(|| panic!("there is no fuzz target {target}"));
    decoder(bytes);
}

/// Id of the replica that receives the messages.
const ME: NodeId = NodeId(1);

/// Decodes log records, both unchanged and with corrected checksums, because a fuzzer cannot guess
/// checksums.
fn record(bytes: &[u8]) {
    records(bytes);
    records(&mended(bytes, 0));
}

/// Returns the bytes with corrected checksums of the records from `start` on.
fn mended(bytes: &[u8], start: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut rest = bytes.get_mut(start..).unwrap_or_default();
    while let Some(length) = rest.first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if !(record::HEADER_BYTES..=rest.len()).contains(&length) {
            break;
        }
        let (found, behind) = rest.split_at_mut(length);
        let checksum = crc32c::crc32c(&found[8..]);
        found[4..8].copy_from_slice(&checksum.to_le_bytes());
        rest = behind;
    }
    bytes
}

fn records(bytes: &[u8]) {
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut buffer = RecordBuffer::default();
    loop {
        let before = rest.clone();
        let Ok(entry) = Entry::decode(&mut rest) else {
            assert_eq!(rest, before, "a refused record was taken off");
            return;
        };
        assert_eq!(entry.record()[..], before[..before.len() - rest.len()]);
        assert_eq!(buffer.encode(entry.id(), entry.kind(), entry.payload()), entry);
    }
}

/// Decodes a message between replicas, both unchanged and with corrected checksums of its entries.
fn peer(bytes: &[u8]) {
    message(bytes);
    if let [_, low, high, ..] = bytes {
        message(&mended(bytes, 3 + usize::from(u16::from_le_bytes([*low, *high]))));
    }
}

fn message(bytes: &[u8]) {
    let Ok(message) = peer::decode(Bytes::copy_from_slice(bytes)) else { return };
    let mut again = BytesMut::new();
    peer::encode(&message, V10, &mut again);
    assert_eq!(peer::decode(again.freeze()), Ok(message));
}

/// Decodes a message of the university course's simulator.
fn course(bytes: &[u8]) {
    let mut out = Vec::new();
    match course::decode(bytes, ME) {
        Ok(Incoming::Peer(envelope)) => {
            course::encode_peer(&envelope, &mut out);
            assert_eq!(course::decode(&out, ME), Ok(Incoming::Peer(envelope)));
        }
        Ok(Incoming::Request { client, request }) => {
            assert_eq!(client, request.key.client);
            assert!(request.payload.len() <= course::COMMAND_BYTES_MAX);
            let batch = Batch::decode(&request.payload).expect("made by us");
            assert_eq!((batch.key, batch.len()), (request.key, 1));
            let is_read = batch.operations().flatten().all(|operation| operation.is_read());
            assert_eq!(is_read, request.kind == RequestKind::Read);
            let value = Some(bytes);
            course::encode_ok(ME, request.key, None, value, &mut out).expect("the file was listed");
            assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
        }
        Ok(Incoming::Ignored(_)) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Decodes a batch of operations, and applies it to a state machine.
fn batch(bytes: &[u8]) {
    let mut store = StateMachine::default();
    let entry = |index, payload: &[u8]| {
        RecordBuffer::default().encode(EntryId::new(1, index), EntryKind::Command, payload)
    };
    let applied = store.apply(&entry(1, bytes));
    let Ok(batch) = Batch::decode(bytes) else {
        assert_eq!(applied.outcomes, []);
        if let Some(piece) = Piece::decode(bytes) {
            assert_eq!(store.begin(&entry(2, bytes)), None);
            let is_kept = piece.is_first && piece.following > 0;
            assert_eq!(store.piece_bytes(), if is_kept { piece.bytes.len() } else { 0 });
        }
        return;
    };
    let mut buffer = BatchBuffer::default();
    batch.encoded_operations().for_each(|operation| buffer.push(operation));
    let again = buffer.finish(batch.key, batch.may_repeat);
    let copy = Batch::decode(&again).expect("made by us");
    assert_eq!((copy.key, copy.may_repeat, copy.len()), (batch.key, batch.may_repeat, batch.len()));
    assert!(copy.encoded_operations().eq(batch.encoded_operations()));
    for operation in batch.operations().flatten() {
        let bytes = operation.encode();
        assert_eq!(Operation::decode(&bytes), Ok(operation));
    }
    assert_eq!((applied.key, applied.outcomes.len()), (batch.key, batch.len()));
    let is_read = |operation: Option<Operation<'_>>| operation.is_some_and(|it| it.is_read());
    assert_eq!(store.read(bytes).is_ok(), batch.operations().all(is_read));
    let retried = store.apply(&entry(2, bytes));
    assert_eq!(retried.repeated, batch.may_repeat);
    assert!(!retried.repeated || retried.outcomes == applied.outcomes);
}

/// Decodes a scenario file. A small scenario is also run to its end, without replies, because later
/// code relies on the checks.
fn scenario(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let scenario = match Scenario::parse("FILE", text) {
        Ok(scenario) => scenario,
        Err(error) => {
            assert!(error.to_string().contains("FILE"), "{error}");
            return;
        }
    };
    assert!((3..=21).contains(&scenario.replicas));
    assert!((0.0..=1.0).contains(&scenario.drops) && (0.0..=1.0).contains(&scenario.mix));
    let overrides = Overrides { rate: Some(10.0), seconds: Some(3.0), ..Overrides::default() };
    let short = scenario.clone().with(&overrides).expect("30 requests fit any scenario");
    play(&short);
    if scenario.requests <= 1_000 {
        play(&scenario);
    }
}

fn play(scenario: &Scenario) {
    let mut scenario_run = ScenarioRun::new(scenario, 1, Instant::ZERO);
    let mut actions = Vec::new();
    let mut now = Instant::ZERO;
    loop {
        let next = scenario_run.next_event();
        assert!(next >= now, "the run goes backwards");
        now = next;
        if now == Instant::MAX {
            return;
        }
        scenario_run.poll(now, &mut actions);
    }
}
