//! The durable log on the machine's own disk: what a group commit costs by how much it gathers, and
//! what the format alone costs, in memory.

use std::path::Path;
use std::time::Duration;

use bowline::raft::HardState;
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::storage::{Disk, Log, LogOptions, MemDisk, RealDisk};
use bowline::types::{EntryId, NodeId, Term};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// A payload as the course's puts have it: key and value of 32 bytes.
const PAYLOAD: &[u8] = &[7; 109];
const ME: NodeId = NodeId(1);
const CLUSTER: u128 = 1;

fn folder() -> tempfile::TempDir {
    // Under the build's folder, for the usual place of temporary files is often in memory.
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(parent).expect("the build's folder is writable")
}

fn open<D: Disk>(mut disk: D, bootstrap: bool) -> Log<D> {
    if bootstrap {
        Log::bootstrap(&mut disk, CLUSTER, ME).expect("the folder is empty");
    }
    let opened = Log::open(disk, Some(CLUSTER), ME, LogOptions::default(), None);
    opened.expect("the log is in order").0
}

/// Entries from `first` on.
fn entries(buffer: &mut RecordBuffer, first: u64, count: u64) -> Vec<Entry> {
    let encode = |index| buffer.encode(EntryId::new(1, index), EntryKind::Command, PAYLOAD);
    (first..first + count).map(encode).collect()
}

fn begin<D: Disk>(log: &mut Log<D>) {
    let hard_state = HardState { term: Term(1), voted_for: Some(ME) };
    log.append(Some(hard_state), &[]).expect("the log works");
}

fn group_commit<D: Disk>(c: &mut Criterion, name: &str, mut log: Log<D>) {
    let mut group = c.benchmark_group(name);
    begin(&mut log);
    let mut buffer = RecordBuffer::default();
    let mut next = 1;
    for batch in [1, 25, 400] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(batch), |b| {
            b.iter(|| {
                let some = entries(&mut buffer, next, batch);
                next += batch;
                log.append(None, &some).expect("the log works");
                log.sync().expect("the log works");
            });
        });
        // What follows replaces the entries, as another leader's would.
        next = 1;
    }
    group.finish();
}

fn append_and_sync(c: &mut Criterion) {
    let folder = folder();
    let disk = RealDisk::create(folder.path()).expect("the build's folder is writable");
    group_commit(c, "append_sync", open(disk, true));
    group_commit(c, "append_in_memory", open(MemDisk::default(), true));
}

/// Quick rather than exact, as a disk's figures are anyway.
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
    targets = append_and_sync
}
criterion_main!(benches);
