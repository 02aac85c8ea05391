//! Recovery time by log size: `Log::open` on a real disk, with entries of 100 bytes. The log is in
//! the page cache, so this measures the validation.
//!
//! `BOWLINE_RECOVERY_ENTRIES=10000000` measures this number of entries instead: it writes 150 bytes
//! per entry and needs as much memory.

use std::path::Path;
use std::time::Duration;

use bowline::raft::HardState;
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::storage::{Log, LogOptions, RealDisk};
use bowline::types::{EntryId, NodeId, Term};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const PAYLOAD: &[u8] = &[7; 100];
const ME: NodeId = NodeId(1);
const CLUSTER: u128 = 1;
/// Entries per sync, as in a busy log.
const BATCH: u64 = 100;
const ENTRIES_VARIABLE: &str = "BOWLINE_RECOVERY_ENTRIES";

fn open(disk: RealDisk) -> (Log<RealDisk>, u64) {
    let opened = Log::open(disk, Some(CLUSTER), ME, LogOptions::default(), None);
    let (log, durable, _) = opened.expect("the log is in order");
    (log, durable.entries.len() as u64)
}

/// Creates a log with `count` entries.
fn fill(folder: &Path, count: u64) {
    let mut disk = RealDisk::create(folder).expect("the build's folder is writable");
    Log::bootstrap(&mut disk, CLUSTER, ME, &[ME]).expect("the folder is empty");
    let (mut log, _) = open(disk);
    let hard_state = HardState { term: Term(1), voted_for: Some(ME) };
    log.append(Some(hard_state), &[]).expect("the log works");
    let mut buffer = RecordBuffer::default();
    for first in (1..=count).step_by(usize::try_from(BATCH).expect("a small number")) {
        let encode = |index| buffer.encode(EntryId::new(1, index), EntryKind::Command, PAYLOAD);
        let some: Vec<Entry> = (first..(first + BATCH).min(count + 1)).map(encode).collect();
        log.append(None, &some).expect("the log works");
        log.sync().expect("the log works");
    }
}

fn recovery(c: &mut Criterion) {
    let wanted = std::env::var(ENTRIES_VARIABLE).ok();
    let wanted = wanted.map(|text| text.parse::<u64>().expect("a number of entries"));
    let mut group = c.benchmark_group("recovery");
    for count in wanted.map_or(vec![0, 10_000, 1_000_000], |count| vec![count]) {
        // In the target folder, because the system's temporary folder is often in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.expect("the build's folder is writable");
        fill(folder.path(), count);
        group.throughput(Throughput::Elements(count.max(1)));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter_batched(
                || RealDisk::open(folder.path()).expect("nobody else has it"),
                |disk| {
                    let (log, found) = open(disk);
                    assert_eq!(found, count);
                    log
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Short runs: disk latencies vary anyway.
fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
}

criterion_group! {
    name = benches;
    config = quick();
    targets = recovery
}
criterion_main!(benches);
