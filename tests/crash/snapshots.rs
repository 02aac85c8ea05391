//! Tests of the log and the snapshots in one folder under damage, and under power cuts, kills and
//! failures at every operation: together they contain what must be durable, or are refused.
#![allow(clippy::unwrap_used, reason = "a test whose helpers can't go on fails")]

use bowline::raft::{Durable, HardState, SnapshotId};
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::sim::rng::Rng;
use bowline::storage::{
    Disk as _, Log, MemDisk, SharedDisk, SnapshotSource, Snapshots, StorageError,
};
use bowline::types::{EntryId, Index, Term};

use crate::Luck;
use crate::log_and_snapshots::{Account, Check, Counts, snapshot_of};
use crate::workload::{CLUSTER, ME, OPTIONS};

const STEPS: usize = 150;
const SEEDS: std::ops::Range<u64> = 0..4;

/// Runs the workload on a disk with the fault that `trouble` plans. Returns the disk and the
/// account.
fn faulty_run(seed: u64, trouble: impl FnOnce(&mut MemDisk)) -> (MemDisk, Account) {
    let (mut disk, mut account) = (MemDisk::default(), Account::default());
    trouble(&mut disk);
    let disk = SharedDisk::new(disk);
    let error = account.live(&disk, seed, STEPS).expect_err("this run has a fault");
    assert_is_the_disks(&error);
    (disk.snapshot(), account)
}

fn assert_is_the_disks(error: &StorageError) {
    let expected = matches!(error, StorageError::Io { .. } | StorageError::Failed { .. });
    assert!(expected, "unexpected error: {error}");
}

/// Runs the workload twice more; both runs must find everything that is durable. Only the first of
/// them writes.
fn run_twice_more(disk: MemDisk, account: &mut Account, seed: u64, case: &str) {
    let disk = SharedDisk::new(disk);
    let error = account.live(&disk, seed + 100, 12).err();
    assert!(error.is_none(), "seed {seed}, {case}: {}", error.unwrap());
    Luck::Nothing.restart(&mut disk.disk());
    let error = account.live(&disk, seed + 200, 0).err();
    assert!(error.is_none(), "seed {seed}, again after {case}: {}", error.unwrap());
}

fn operations_of(seed: u64) -> u64 {
    let (disk, mut account) = (SharedDisk::default(), Account::default());
    account.live(&disk, seed, STEPS).expect("no fault is planned");
    disk.snapshot().operations()
}

fn add(counts: &mut Counts, more: Counts) {
    counts.taken += more.taken;
    counts.installed += more.installed;
    counts.restarts += more.restarts;
    counts.deleted += more.deleted;
    counts.cut_installs += more.cut_installs;
    counts.untold += more.untold;
}

#[test]
fn power_cut_leaves_snapshot_and_log_consistent() {
    let mut counts = Counts::default();
    for seed in SEEDS {
        for cut in 0..operations_of(seed) {
            for luck in [Luck::Nothing, Luck::All, Luck::Some(cut), Luck::Some(cut + 7)] {
                let (mut disk, mut account) = faulty_run(seed, |disk| disk.power_cut_at(cut));
                luck.restart(&mut disk);
                run_twice_more(disk, &mut account, seed, &format!("power cut at {cut}, {luck:?}"));
                add(&mut counts, account.counts);
            }
        }
    }
    let few = [counts.taken, counts.installed, counts.restarts, counts.deleted];
    assert!(few.iter().all(|&count| count > 1_000), "{counts:?}");
    assert!(counts.cut_installs > 50 && counts.untold > 20, "{counts:?}");
}

#[test]
fn power_cut_during_recovery_leaves_snapshot_and_log_consistent() {
    let (mut rng, mut cut_again) = (Rng::new(5), 0);
    let seed = 1;
    for cut in 0..operations_of(seed) {
        let (mut disk, account) = faulty_run(seed, |disk| disk.power_cut_at(cut));
        Luck::Some(rng.next_u64()).restart(&mut disk);
        let opened = SharedDisk::new(disk.clone());
        account.clone().live(&opened, seed, 0).unwrap();
        for operation in disk.operations()..opened.snapshot().operations() {
            let (mut disk, mut account) = (disk.clone(), account.clone());
            disk.power_cut_at(operation);
            let disk = SharedDisk::new(disk);
            assert_is_the_disks(&account.live(&disk, seed, 0).unwrap_err());
            let mut disk = disk.snapshot();
            Luck::Some(rng.next_u64()).restart(&mut disk);
            run_twice_more(
                disk,
                &mut account,
                seed,
                &format!("power cuts at {cut} and {operation}"),
            );
            cut_again += 1;
        }
    }
    assert!(cut_again > 1_000, "{cut_again} cuts");
}

#[test]
fn kill_or_disk_failure_leaves_snapshot_and_log_consistent() {
    for seed in SEEDS {
        for at in 0..operations_of(seed) {
            let (mut disk, mut account) = faulty_run(seed, |disk| disk.power_cut_at(at));
            disk.kill();
            run_twice_more(disk, &mut account, seed, &format!("a kill at {at}"));
            let (mut disk, mut account) = faulty_run(seed, |disk| disk.fail_at(at));
            disk.kill();
            run_twice_more(disk, &mut account, seed, &format!("a failure at {at}"));
        }
    }
}

/// A folder with a log and snapshots that a test builds step by step.
struct Folder {
    disk: SharedDisk,
    log: Log<SharedDisk>,
    snapshots: Snapshots<SharedDisk>,
    history: Vec<Entry>,
}

/// The result of opening a folder: the durable state, including the log's entries after the
/// snapshot, and the number of damaged snapshots.
type Found = Result<(Durable, usize), StorageError>;

type Folders = (Log<SharedDisk>, Snapshots<SharedDisk>, Durable, usize);

fn open(disk: &SharedDisk) -> Result<Folders, StorageError> {
    let mut snapshots = Snapshots::open(disk.clone())?;
    let loaded = snapshots.load(Check::default)?;
    for error in &loaded.damaged {
        assert!(error.to_string().contains("snapshot-"), "{error}");
    }
    let snapshot = loaded.latest.map(|(id, _)| id);
    let (log, durable, _) = Log::open(disk.clone(), Some(CLUSTER), ME, OPTIONS, snapshot)?;
    Ok((log, snapshots, durable, loaded.damaged.len()))
}

fn found(disk: &MemDisk) -> Found {
    open(&SharedDisk::new(disk.clone())).map(|(_, _, durable, damaged)| (durable, damaged))
}

impl Folder {
    fn new() -> Folder {
        let disk = SharedDisk::default();
        Log::bootstrap(&mut disk.clone(), CLUSTER, ME, &[ME]).unwrap();
        let (log, snapshots, ..) = open(&disk).unwrap();
        Folder { disk, log, snapshots, history: Vec::new() }
    }

    /// Writes the entries from `first` to `last`, each with its own sync. They replace all entries
    /// from `first` on.
    fn write(&mut self, term: u64, first: u64, last: u64) {
        let mut buffer = RecordBuffer::default();
        self.history.truncate(usize::try_from(first - 1).unwrap());
        let hard_state = HardState { term: Term(term), voted_for: None };
        for index in first..=last {
            let id = EntryId::new(term, index);
            let entry = buffer.encode(id, EntryKind::Command, &[1; 100]);
            self.log.append(Some(hard_state), std::slice::from_ref(&entry)).unwrap();
            self.log.sync().unwrap();
            self.history.push(entry);
        }
    }

    /// Returns the history of another leader: equal to this log before index `from`, with entries
    /// of `term` from there to `last`.
    fn others(&self, term: u64, from: u64, last: u64) -> Vec<Entry> {
        let mut buffer = RecordBuffer::default();
        let mut encode =
            |index| buffer.encode(EntryId::new(term, index), EntryKind::Command, &[2; 50]);
        let shared = &self.history[..usize::try_from(from - 1).unwrap()];
        shared.iter().cloned().chain((from..=last).map(&mut encode)).collect()
    }

    fn keep(&mut self, history: &[Entry]) -> SnapshotId {
        let (id, bytes) = snapshot_of(history, 900);
        let mut writer = self.snapshots.begin(SnapshotSource::Own).unwrap();
        for piece in bytes.chunks(300) {
            self.snapshots.write(&mut writer, piece).unwrap();
        }
        self.snapshots.finish(writer, id, Check::default()).unwrap();
        id
    }

    fn take(&mut self, last: usize) -> SnapshotId {
        let history = self.history[..last].to_vec();
        self.keep(&history)
    }

    fn files(&self, prefix: &str) -> Vec<String> {
        let mut names = self.disk.snapshot().list().unwrap();
        names.retain(|name| name.starts_with(prefix));
        names
    }

    /// Returns a copy of the disk on which one file of the folder is changed.
    fn with(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> MemDisk {
        let mut disk = self.disk.snapshot();
        disk.tamper(name, change);
        disk
    }
}

#[test]
fn recovery_from_a_damaged_snapshot_uses_the_previous_one() {
    let mut folder = Folder::new();
    folder.write(1, 1, 20);
    let first = folder.take(10);
    folder.log.compact_to(Index(9)).unwrap();
    assert!(folder.log.stats().segments_deleted > 0);
    folder.take(15);
    let [_, latest] = &folder.files("snapshot-")[..] else { panic!("there are two") };
    let length = folder.disk.read(latest).unwrap().len();
    for bit in (0..length * 8).step_by(13) {
        let disk = folder.with(latest, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let (durable, damaged) = found(&disk).unwrap();
        assert_eq!((durable.snapshot, damaged), (Some(first), 1), "bit {bit}");
        assert_eq!(durable.entries, folder.history[10..], "bit {bit}");
    }
    let disk = SharedDisk::new(folder.with(latest, |bytes| bytes.truncate(600)));
    let (log, snapshots, ..) = open(&disk).unwrap();
    let mut folder = Folder { disk, log, snapshots, history: folder.history };
    let second = folder.take(18);
    let names = folder.files("snapshot-");
    assert!(
        names.len() == 2 && !names.contains(latest),
        "{names:?}: the damaged one must be deleted"
    );
    let (durable, damaged) = found(&folder.disk.snapshot()).unwrap();
    assert_eq!((durable.snapshot, damaged), (Some(second), 0));
    assert_eq!(durable.entries, folder.history[18..]);
}

#[test]
fn start_with_damaged_snapshot_not_covered_by_log_is_refused() {
    let mut folder = Folder::new();
    folder.write(1, 1, 40);
    folder.take(10);
    folder.take(30);
    folder.log.compact_to(Index(30)).unwrap();
    let [first, latest] = &folder.files("snapshot-")[..] else { panic!("there are two") };
    for change in [None, Some(600), Some(1)] {
        let mut disk = folder.disk.snapshot();
        match change {
            None => disk.replace(latest, None),
            Some(length) => disk.tamper(latest, |bytes| bytes.truncate(length)),
        }
        let error = found(&disk).unwrap_err();
        assert!(matches!(error, StorageError::Uncovered { .. }), "{error}");
        assert!(error.to_string().contains("end with entry 10"), "{error}");
        disk.replace(first, None);
        let error = found(&disk).unwrap_err();
        assert!(error.to_string().contains("end with entry 0"), "{error}");
    }
    let mut disk = folder.disk.snapshot();
    disk.replace(first, None);
    assert_eq!(found(&disk).unwrap().0.entries, folder.history[30..], "it is not needed");
}

#[test]
fn start_with_damaged_snapshot_from_the_leader_is_refused() {
    let mut folder = Folder::new();
    folder.write(1, 1, 20);
    folder.take(10);
    let leaders = folder.others(2, 15, 30);
    let id = folder.keep(&leaders);
    let latest = folder.files("snapshot-").pop().unwrap();
    let disk = folder.with(&latest, |bytes| bytes[100] ^= 1);
    let error = found(&disk).unwrap_err();
    assert!(matches!(error, StorageError::SnapshotLost { .. }), "{error}");
    assert!(error.to_string().contains(&latest), "{error}");
    // With the complete snapshot, the log is reset to begin after it, although the log lacks the
    // snapshot's term.
    let (durable, _) = found(&folder.disk.snapshot()).unwrap();
    let hard_state = HardState { term: Term(2), voted_for: None };
    assert_eq!(durable, Durable { hard_state, snapshot: Some(id), ..Durable::default() });
    folder.log.append(Some(hard_state), &[]).unwrap();
    folder.log.restart_after(id.last).unwrap();
    assert_eq!(folder.log.stats().segments, 1);
    let disk = folder.with(&latest, |bytes| bytes[100] ^= 1);
    let error = found(&disk).unwrap_err();
    assert!(matches!(error, StorageError::Uncovered { .. }), "{error}");
    folder.history = leaders;
    folder.write(2, 31, 33);
    let (durable, _) = found(&folder.disk.snapshot()).unwrap();
    assert_eq!(durable.entries, folder.history[30..]);
}

/// The first entries of a segment may replace the last entries of the deleted segment before it.
#[test]
fn log_segment_may_replace_entries_of_a_deleted_segment() {
    let mut folder = Folder::new();
    folder.write(1, 1, 10);
    let segments = folder.log.stats().segments;
    while folder.log.stats().segments == segments {
        let next = folder.history.len() as u64 + 1;
        folder.write(1, next, next);
    }
    // All entries except the last one, which starts the newest segment, are in older segments.
    let end = folder.history.len() as u64 - 1;
    folder.write(2, end - 1, end + 8);
    let back = usize::try_from(end - 2).unwrap();
    let first = folder.take(back);
    let second = folder.take(back + 3);
    folder.log.compact_to(second.last.index).unwrap();
    let first_left = folder.files("segment-").remove(0);
    assert_eq!(
        first_left,
        format!("segment-{:010}", segments + 1),
        "the one that replaces is left"
    );
    let (durable, _) = found(&folder.disk.snapshot()).unwrap();
    assert_eq!(
        (durable.snapshot, &durable.entries[..]),
        (Some(second), &folder.history[back + 3..])
    );
    let latest = folder.files("snapshot-").pop().unwrap();
    let (durable, _) = found(&folder.with(&latest, |bytes| bytes[0] ^= 1)).unwrap();
    assert_eq!((durable.snapshot, &durable.entries[..]), (Some(first), &folder.history[back..]));
}

#[test]
fn damage_to_a_compacted_log_is_detected() {
    let mut folder = Folder::new();
    folder.write(1, 1, 30);
    let others = folder.others(2, 20, 50);
    let id = folder.keep(&others);
    folder.log.append(Some(HardState { term: Term(2), voted_for: None }), &[]).unwrap();
    folder.log.restart_after(id.last).unwrap();
    folder.history = others;
    folder.write(2, 51, 70);
    folder.take(65);
    folder.log.compact_to(Index(55)).unwrap();
    let whole = found(&folder.disk.snapshot()).unwrap();
    let mut names = folder.files("segment-");
    assert!(names.len() >= 3, "{names:?} are too few to show anything");
    names.push("meta".to_owned());
    for name in &names {
        let bits = folder.disk.read(name).unwrap().len() * 8;
        for bit in (0..bits).step_by(3) {
            let disk = folder.with(name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            if name == "meta" {
                // The first copy of the meta record is replaced by the other copy.
                assert_eq!(found(&disk).unwrap(), whole, "meta, bit {bit}");
                continue;
            }
            let error = found(&disk).unwrap_err();
            let is_damage = matches!(error, StorageError::Damaged { .. });
            assert!(is_damage && error.to_string().contains(name), "{name}, bit {bit}: {error}");
        }
        let mut disk = folder.disk.snapshot();
        disk.replace(name, None);
        let error = found(&disk).unwrap_err();
        assert!(error.to_string().contains(name), "{name} is missing: {error}");
    }
    // A segment that a power cut brought back after its deletion is ignored, whatever it contains.
    let mut disk = folder.disk.snapshot();
    disk.replace("segment-0000000001", Some(vec![3; 512]));
    assert_eq!(found(&disk).unwrap(), whole);
}

#[test]
fn invalid_snapshot_from_the_leader_modifies_no_file() {
    let mut folder = Folder::new();
    folder.write(1, 1, 20);
    let latest = folder.take(10);
    let (id, mut bytes) = snapshot_of(&folder.history[..15], 2_000);
    let older = snapshot_of(&folder.history[..5], 0);
    bytes[700] ^= 4;
    let wrong_end = SnapshotId { last: EntryId::new(1, 16), ..id };
    for (id, bytes) in [(id, &bytes), (id, &bytes[..900].to_vec()), (wrong_end, &older.1)] {
        let mut writer = folder.snapshots.begin(SnapshotSource::Incoming).unwrap();
        folder.snapshots.write(&mut writer, bytes).unwrap();
        let error = folder.snapshots.finish(writer, id, Check::default()).unwrap_err();
        assert!(matches!(error, StorageError::Snapshot { .. }), "{error}");
        assert_eq!(folder.snapshots.latest(), Some(latest));
        assert_eq!(folder.files("snapshot-").len(), 1);
    }
    // A snapshot that is older than the latest one is complete, but is not kept.
    let mut writer = folder.snapshots.begin(SnapshotSource::Incoming).unwrap();
    folder.snapshots.write(&mut writer, &older.1).unwrap();
    folder.snapshots.finish(writer, older.0, Check::default()).unwrap();
    assert_eq!(folder.snapshots.latest(), Some(latest));
    assert_eq!(folder.files("snapshot-").len(), 1);
}

#[test]
fn snapshot_stays_readable_while_it_is_replaced() {
    let mut folder = Folder::new();
    folder.write(1, 1, 20);
    let old = folder.take(5);
    let whole = snapshot_of(&folder.history[..5], 900).1;
    let read = |folder: &mut Folder, offset| folder.snapshots.read(old, offset, 400).unwrap();
    assert_eq!(read(&mut folder, 0).unwrap(), whole[..400]);
    for last in 6..9 {
        let latest = folder.take(last);
        assert_eq!(read(&mut folder, 800).unwrap(), whole[800..], "{last}");
        assert!(folder.snapshots.read(latest, 0, 1).unwrap().is_some());
    }
    assert_eq!(read(&mut folder, old.bytes).unwrap().len(), 0, "after its end");
    folder.take(9);
    folder.take(10);
    assert!(read(&mut folder, 0).is_none(), "nobody had read it since the last one");
    let other = SnapshotId { checksum: 1, ..folder.snapshots.latest().unwrap() };
    assert!(folder.snapshots.read(other, 0, 1).unwrap().is_none(), "another of the same name");
}

#[test]
fn damaged_snapshot_in_use_is_replaced() {
    let mut folder = Folder::new();
    folder.write(1, 1, 20);
    let (before, latest) = (folder.take(5), folder.take(12));
    assert!(folder.snapshots.recheck(latest, Check::default()).is_ok());
    assert!(folder.snapshots.read(latest, 0, 10).unwrap().is_some());
    let name = folder.files("snapshot-").remove(1);
    folder.disk.disk().tamper(&name, |bytes| bytes[100] ^= 1);
    assert!(folder.snapshots.recheck(before, Check::default()).is_ok(), "nobody needs it");
    let error = folder.snapshots.recheck(latest, Check::default()).unwrap_err();
    assert!(matches!(error, StorageError::Snapshot { .. }), "{error}");
    assert!(folder.snapshots.read(latest, 0, 10).unwrap().is_none(), "sent to nobody");
    assert_eq!(folder.files("snapshot-").len(), 2, "what a start must name is still there");
    // A snapshot that ends earlier would leave a gap before the log.
    let (id, bytes) = snapshot_of(&folder.history[..8], 900);
    let mut writer = folder.snapshots.begin(SnapshotSource::Incoming).unwrap();
    folder.snapshots.write(&mut writer, &bytes).unwrap();
    folder.snapshots.finish(writer, id, Check::default()).unwrap();
    assert_eq!(folder.snapshots.latest(), Some(before));
    // A snapshot with the same end replaces it.
    assert_eq!(folder.take(12), latest);
    assert_eq!(folder.snapshots.latest(), Some(latest));
    assert!(folder.snapshots.read(latest, 0, 10).unwrap().is_some());
    assert_eq!(found(&folder.disk.snapshot()).unwrap().1, 0);
}

#[test]
fn file_count_stays_bounded_under_writes_with_snapshots() {
    let mut folder = Folder::new();
    for round in 1..=50 {
        folder.write(1, round * 20 - 19, round * 20);
        folder.take(folder.history.len() - 5);
        folder.log.compact_to(Index(round * 20 - 10)).unwrap();
        // Twenty entries fill a few segments; there are also two snapshots and the meta record.
        let names = folder.disk.snapshot().list().unwrap();
        assert!(names.len() <= 13, "{names:?}");
    }
    assert!(folder.log.stats().segments_deleted > 150, "{:?}", folder.log.stats());
    let (durable, _) = found(&folder.disk.snapshot()).unwrap();
    assert_eq!(durable.entries, folder.history[995..]);
}
