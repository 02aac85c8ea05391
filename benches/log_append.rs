//! The durable log on a real disk: the cost of a group commit by batch size; the cost of the format
//! alone, in memory; and the delay of syncs while another thread deletes a large file, as happens
//! after each snapshot.

use std::path::Path;
use std::time::{Duration, Instant};

use bowline::raft::HardState;
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::storage::{Disk, Log, LogOptions, MemDisk, RealDisk};
use bowline::types::{EntryId, NodeId, Term};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};

/// Payload of a put of the course: key and value of 32 bytes.
const PAYLOAD: &[u8] = &[7; 109];
const ME: NodeId = NodeId(1);
const CLUSTER: u128 = 1;

fn folder() -> tempfile::TempDir {
    // In the target folder, because the system's temporary folder is often in memory.
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(parent).expect("the target folder is writable")
}

fn open<D: Disk>(mut disk: D, bootstrap: bool) -> Log<D> {
    if bootstrap {
        Log::bootstrap(&mut disk, CLUSTER, ME, &[ME]).expect("the folder is empty");
    }
    let opened = Log::open(disk, Some(CLUSTER), ME, LogOptions::default(), None);
    opened.expect("the log is valid").0
}

/// `count` entries starting at index `first`.
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
        // The next batches overwrite the entries, as those of another leader would.
        next = 1;
    }
    group.finish();
}

fn append_and_sync(c: &mut Criterion) {
    let folder = folder();
    let disk = RealDisk::create(folder.path()).expect("the target folder is writable");
    group_commit(c, "append_sync", open(disk, true));
    group_commit(c, "append_in_memory", open(MemDisk::default(), true));
}

/// How the file is deleted.
#[derive(Clone, Copy)]
enum Deletion {
    /// Unlinked: the file system frees all blocks at once.
    AtOnce,
    /// Truncated in steps, then unlinked.
    InPieces,
    /// Not deleted: the baseline.
    None,
}

/// The longest of consecutive log syncs in the two seconds after another thread starts to delete a
/// file of 150 MiB.
fn longest_sync_beside(disk: &mut RealDisk, deletion: Deletion) -> Duration {
    const FILE_BYTES: usize = 150 << 20;
    const WRITE_BYTES: usize = 256 << 10;
    const LOG_BYTES: u64 = 8 << 20;
    let mut large = disk.create("large", 0).expect("the disk has space");
    let content = vec![7; WRITE_BYTES];
    for offset in (0..FILE_BYTES).step_by(WRITE_BYTES) {
        disk.append(&mut large, offset as u64, &content).expect("the disk has space");
    }
    disk.sync(&mut large).expect("the disk works");
    drop(large);
    let mut log = disk.create("log", LOG_BYTES).expect("the disk has space");
    let mut offset = 0;
    let mut sync = |disk: &mut RealDisk| {
        let started = Instant::now();
        disk.write_at(&mut log, offset, &[1; 4_096]).expect("the disk works");
        disk.sync(&mut log).expect("the disk works");
        offset = (offset + 4_096) % LOG_BYTES;
        started.elapsed()
    };
    // Lets the device finish writing the file, which is not measured.
    let settled = Instant::now() + Duration::from_millis(500);
    while Instant::now() < settled {
        sync(disk);
    }
    let mut longest = Duration::ZERO;
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        let mut beside = disk.share().expect("one more descriptor");
        scope.spawn(move || match deletion {
            Deletion::AtOnce => beside.delete("large").expect("the file exists"),
            Deletion::InPieces => beside.delete_in_background("large").expect("the file exists"),
            Deletion::None => {}
        });
        while Instant::now() < end {
            longest = longest.max(sync(disk));
        }
    });
    disk.delete("log").expect("the file exists");
    if matches!(deletion, Deletion::None) {
        disk.delete("large").expect("the file exists");
    }
    longest
}

fn sync_beside_deletion(c: &mut Criterion) {
    let folder = folder();
    let mut disk = RealDisk::create(folder.path()).expect("the target folder is writable");
    let mut group = c.benchmark_group("longest_sync_beside_deletion");
    group.sampling_mode(SamplingMode::Flat);
    for (name, deletion) in
        [("at_once", Deletion::AtOnce), ("in_pieces", Deletion::InPieces), ("none", Deletion::None)]
    {
        group.bench_function(name, |b| {
            b.iter_custom(|times| {
                (0..times).map(|_| longest_sync_beside(&mut disk, deletion)).sum()
            });
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
    targets = append_and_sync, sync_beside_deletion
}
criterion_main!(benches);
