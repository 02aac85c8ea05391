//! Cost of each encoding on the path of a write: the Redis protocol, command, log record, peer
//! message, and the course's JSON around it.

use std::hint::black_box;
use std::time::Duration;

use bowline::feature_level::FeatureLevel;
use bowline::kv::{Batch, Operation};
use bowline::raft::{AppendEntries, AppendOutcome, AppendReply, DiskState, Envelope, PeerMsg};
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::types::{ClientId, EntryId, Index, NodeId, RequestId, RequestKey, Round, Term};
use bowline::wire::protocol::V10;
use bowline::wire::resp::{Limits, Parser};
use bowline::wire::{course, peer};
use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const ME: NodeId = NodeId(1);
const MID: &[u8; 16] = b"ABCDEFGHIJ012345";
/// Length of the course's keys and values in bytes.
const TEXT: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

fn request_key() -> RequestKey {
    RequestKey { client: ClientId(0x1A), request: RequestId(*MID) }
}

fn put(value: &[u8]) -> Bytes {
    Batch::one(request_key(), &Operation::set(TEXT, value))
}

fn append(entry_count: u64) -> PeerMsg {
    let payload = put(TEXT);
    let mut buffer = RecordBuffer::default();
    let entries = (1..=entry_count)
        .map(|index| buffer.encode(EntryId::new(1, index), EntryKind::Command, &payload))
        .collect();
    PeerMsg::AppendEntries(AppendEntries {
        term: Term(1),
        round: Round(1),
        prev: EntryId::ZERO,
        commit_index: Index(0),
        loss_permille: 0,
        transfer_to: None,
        entries,
    })
}

fn reply() -> PeerMsg {
    let outcome = AppendOutcome::Match { index: Index(7) };
    PeerMsg::AppendReply(AppendReply {
        term: Term(1),
        round: Round(1),
        level: FeatureLevel::OLDEST,
        disk: DiskState::Healthy,
        outcome,
    })
}

fn messages() -> [(&'static str, PeerMsg); 4] {
    [
        ("reply", reply()),
        ("heartbeat", append(0)),
        ("append_1", append(1)),
        ("append_25", append(25)),
    ]
}

/// Requests of redis-benchmark, 16 at a time.
fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("resp");
    for value_bytes in [3, 128, 4_096] {
        let value = "x".repeat(value_bytes);
        let one =
            format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000001\r\n${value_bytes}\r\n{value}\r\n");
        let bytes = one.repeat(16).into_bytes();
        let mut parser = Parser::new(Limits::default());
        group.throughput(Throughput::Elements(16));
        group.bench_function(BenchmarkId::new("parse_16_sets", value_bytes), |b| {
            b.iter(|| {
                let (mut used, mut count) = (0, 0);
                while let Ok(Some(request)) = parser.next(black_box(&bytes), &mut used) {
                    count += request.len();
                }
                assert_eq!(count, 48);
            });
        });
    }
    group.finish();
}

fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    for value_bytes in [32, 1_024, 65_536] {
        let value = vec![b'v'; value_bytes];
        let bytes = put(&value);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("encode", value_bytes), |b| {
            b.iter(|| put(black_box(&value)));
        });
        group.bench_function(BenchmarkId::new("decode", value_bytes), |b| {
            b.iter(|| Batch::decode(black_box(&bytes)).map(|batch| batch.operations().count()));
        });
    }
    group.finish();
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("record");
    for value_bytes in [32, 1_024] {
        let payload = put(&vec![b'v'; value_bytes]);
        let id = EntryId::new(1, 1);
        let mut buffer = RecordBuffer::default();
        let entry = buffer.encode(id, EntryKind::Command, &payload);
        group.throughput(Throughput::Bytes(entry.record().len() as u64));
        group.bench_function(BenchmarkId::new("encode", value_bytes), |b| {
            b.iter(|| buffer.encode(id, EntryKind::Command, black_box(&payload)));
        });
        group.bench_function(BenchmarkId::new("decode", value_bytes), |b| {
            b.iter(|| Entry::decode(&mut black_box(entry.record()).clone()));
        });
    }
    group.finish();
}

fn peers(c: &mut Criterion) {
    let mut group = c.benchmark_group("peer");
    for (name, message) in messages() {
        let mut encoded = BytesMut::new();
        peer::encode(&message, V10, &mut encoded);
        let bytes = encoded.freeze();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut out = BytesMut::with_capacity(1 << 16);
        group.bench_function(BenchmarkId::new("encode", name), |b| {
            b.iter(|| {
                out.clear();
                peer::encode(black_box(&message), V10, &mut out);
            });
        });
        group.bench_function(BenchmarkId::new("decode", name), |b| {
            b.iter(|| peer::decode(black_box(&bytes).clone()));
        });
    }
    group.finish();
}

fn course_messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("course");
    let mut out = Vec::with_capacity(1 << 16);
    for (name, message) in messages() {
        let envelope = Envelope { from: NodeId(0), to: ME, leader: Some(ME), message };
        let mut bytes = Vec::new();
        course::encode_peer(&envelope, &mut bytes);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("encode", name), |b| {
            b.iter(|| {
                out.clear();
                course::encode_peer(black_box(&envelope), &mut out);
            });
        });
        group.bench_function(BenchmarkId::new("decode", name), |b| {
            b.iter(|| course::decode(black_box(&bytes), ME));
        });
    }
    let text = std::str::from_utf8(TEXT).expect("digits");
    let put = format!(
        r#"{{"src": "001A", "dst": "0001", "leader": "0001", "type": "put",
            "MID": "ABCDEFGHIJ012345", "key": "{text}", "value": "{text}"}}"#
    );
    group.throughput(Throughput::Bytes(put.len() as u64));
    group.bench_function(BenchmarkId::new("decode", "put"), |b| {
        b.iter(|| course::decode(black_box(put.as_bytes()), ME));
    });
    group.bench_function(BenchmarkId::new("encode", "ok"), |b| {
        b.iter(|| {
            out.clear();
            course::encode_ok(ME, request_key(), Some(ME), Some(black_box(TEXT)), &mut out)
        });
    });
    group.finish();
}

/// The complete path of one append on a follower under the course's simulator: decodes the JSON,
/// the entry and the payload.
fn follower_path(c: &mut Criterion) {
    let envelope = Envelope { from: NodeId(0), to: ME, leader: Some(ME), message: append(1) };
    let mut bytes = Vec::new();
    course::encode_peer(&envelope, &mut bytes);
    c.bench_function("follower_path", |b| {
        b.iter_batched(
            || Bytes::copy_from_slice(&bytes),
            |bytes| {
                let Ok(course::Incoming::Peer(envelope)) = course::decode(&bytes, ME) else {
                    panic!("our own message");
                };
                let PeerMsg::AppendEntries(append) = envelope.message else {
                    panic!("our own append");
                };
                let payload = append.entries[0].payload();
                Batch::decode(payload).map(|batch| batch.operations().count())
            },
            BatchSize::SmallInput,
        );
    });
}

/// Short runs: the figures are for spotting large differences.
fn quick() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .without_plots()
}

criterion_group! {
    name = benches;
    config = quick();
    targets = requests, commands, records, peers, course_messages, follower_path
}
criterion_main!(benches);
