//! Repairs of folders on an in-memory disk: damage at any position, and a power cut at any
//! operation.

use super::*;
use crate::raft::Durable;
use crate::record::{Entry, EntryKind, RecordBuffer};
use crate::storage::meta::{META_FILE, Meta};
use crate::storage::wrong_state::error_in;
use crate::storage::{Expected, Log, LogOptions, MemDisk, mark_state_wrong};
use crate::types::Term;

const OPTIONS: LogOptions = LogOptions::with_segment_bytes(8 << 10);
const BLOCK_ENTRIES: u64 = 10;
const BLOCKS: u64 = 23;

fn hard_state(term: u64) -> HardState {
    HardState { term: Term(term), voted_for: Some(NodeId(2)) }
}

/// Returns a folder whose log has [`BLOCKS`] blocks in several segments, each block in its own
/// term, and the entries of the log.
fn folder() -> (MemDisk, Vec<Entry>) {
    let mut disk = MemDisk::default();
    Log::bootstrap(&mut disk, 9, NodeId(1), &[1, 2, 3].map(NodeId)).unwrap();
    let (mut log, ..) = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, None).unwrap();
    let (mut buffer, mut all) = (RecordBuffer::default(), Vec::new());
    for term in 1..=BLOCKS {
        let indexes = (term - 1) * BLOCK_ENTRIES + 1..=term * BLOCK_ENTRIES;
        let encode = |index| buffer.encode(EntryId::new(term, index), EntryKind::Command, &[7; 90]);
        let entries: Vec<Entry> = indexes.map(encode).collect();
        log.append(Some(hard_state(term)), &entries).unwrap();
        log.sync().unwrap();
        all.extend(entries);
    }
    assert!(log.stats().segments > 3, "{} segments", log.stats().segments);
    (disk, all)
}

fn open(disk: &mut MemDisk) -> Durable {
    Log::open(disk, Some(9), NodeId(1), OPTIONS, None).unwrap().1
}

/// Asserts that a replica may safely start with `durable`, and returns what it has lost.
#[track_caller]
fn assert_safe(durable: &Durable, all: &[Entry], case: &str) -> Loss {
    let loss = durable.loss.unwrap_or_else(|| panic!("{case}: not marked"));
    assert!(all.starts_with(&durable.entries), "{case}: {} entries", durable.entries.len());
    match loss {
        Loss::Entries => assert_eq!(durable.hard_state, hard_state(BLOCKS), "{case}"),
        Loss::Votes => assert!(durable.hard_state.term <= Term(BLOCKS), "{case}"),
    }
    loss
}

fn segments(disk: &MemDisk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| segment::number_of(name).is_some());
    names
}

fn flip(disk: &mut MemDisk, name: &str, bit: usize) {
    disk.tamper(name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
}

/// Returns the file and the offset at which the last block of the last segment starts.
fn last_block(disk: &MemDisk) -> (String, usize) {
    let name = segments(disk).pop().unwrap();
    let bytes = disk.read(&name).unwrap();
    let block = |sector: &[u8]| u32::from_le_bytes(sector[8..12].try_into().unwrap());
    let blocks: Vec<u32> = bytes.chunks(SECTOR_BYTES).map(block).collect();
    let last = *blocks.iter().max().unwrap();
    let first = blocks.iter().position(|&block| block == last).unwrap();
    (name, first * SECTOR_BYTES)
}

#[test]
fn flipped_log_bit_loses_the_vote_only_in_the_last_block() {
    let (whole, all) = folder();
    let (last_segment, start) = last_block(&whole);
    assert!(start > SECTOR_BYTES, "the last block is the only one of its segment");
    let mut kept = 0;
    for name in segments(&whole) {
        for bit in (3..whole.read(&name).unwrap().len() * 8).step_by(517) {
            let case = format!("{name}, bit {bit}");
            let mut disk = whole.clone();
            flip(&mut disk, &name, bit);
            let damaged = disk.read(&name).unwrap();
            let durable = open(&mut disk);
            let loss = assert_safe(&durable, &all, &case);
            // The sector before the last block is needed, too, to locate the start of the block.
            let proof = start - SECTOR_BYTES..start + SECTOR_BYTES;
            let is_lost = name == last_segment && proof.contains(&(bit / 8));
            assert_eq!(loss == Loss::Votes, is_lost, "{case}");
            assert_eq!(disk.read(&format!("{ASIDE}{name}")).unwrap(), damaged, "{case}");
            assert_eq!(disk.read(RECORD_FILE).ok(), None, "{case}");
            kept += durable.entries.len();
            // The repaired folder is undamaged, and the replica still rejoining.
            let again = open(&mut disk);
            assert_eq!((again.loss, again.entries), (Some(loss), durable.entries), "{case}");
        }
    }
    assert!(kept > 0, "no entry is ever kept");
}

/// The copy of `meta` lacks the mark that the replica is rejoining, without which it would vote.
#[test]
fn copy_of_meta_from_before_a_repair_is_detected() {
    let (whole, _) = folder();
    let names = segments(&whole);
    let (last, start) = last_block(&whole);
    let lost_snapshot = format!("snapshot-{:020}-{}", BLOCKS * BLOCK_ENTRIES + 1, BLOCKS);
    let damages: [&dyn Fn(&mut MemDisk); 4] = [
        &|disk| flip(disk, &names[0], 800),
        &|disk| flip(disk, &names[1], 32_000),
        &|disk| flip(disk, &last, start * 8),
        // The whole log is kept.
        &|disk| disk.replace(&lost_snapshot, Some(vec![0; 100])),
    ];
    for (case, damage) in damages.iter().enumerate() {
        let mut disk = whole.clone();
        let before = disk.read(META_FILE).unwrap();
        damage(&mut disk);
        assert!(open(&mut disk).loss.is_some(), "damage {case}");
        disk.replace(META_FILE, Some(before));
        // The start either rejects the folder or detects damage and marks the replica as rejoining.
        match Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, None) {
            Ok((_, durable, _)) => assert!(durable.loss.is_some(), "damage {case}: not marked"),
            Err(error) => assert!(matches!(error, StorageError::RolledBack { .. }), "{error}"),
        }
    }
}

#[test]
fn repair_survives_a_power_cut_at_any_operation() {
    let (whole, all) = folder();
    let names = segments(&whole);
    let (last, start) = last_block(&whole);
    let places = [
        (names[0].clone(), 100),
        (names[1].clone(), 100),
        (names[1].clone(), 4_000),
        (last.clone(), start + 3 * SECTOR_BYTES),
        (last, start),
    ];
    for (place, (name, byte)) in places.into_iter().enumerate() {
        let mut damaged = whole.clone();
        if place == 0 {
            // The segment was created just before a power cut, so the meta record does not count it
            // yet.
            let mut meta = Meta::decode("", &damaged.read(META_FILE).unwrap()).unwrap().meta;
            meta.last -= 1;
            meta.write(&mut damaged).unwrap();
        }
        flip(&mut damaged, &name, byte * 8);
        let expected = assert_safe(&open(&mut damaged.clone()), &all, &name);
        let mut interrupted = 0;
        for cut in 0..60 {
            for draw in 0..10 {
                let case = format!("{name}, byte {byte}, cut {cut}, draw {draw}");
                let mut disk = damaged.clone();
                disk.power_cut_in(cut);
                let opened = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, None);
                interrupted += u64::from(opened.is_err());
                drop(opened);
                let mut state = cut * 20 + draw;
                disk.restart(&mut |states| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(draw + 1);
                    usize::try_from(state >> 33).unwrap() % states
                });
                let loss = assert_safe(&open(&mut disk), &all, &case);
                assert_eq!(loss, expected, "{case}");
            }
        }
        assert!(interrupted > 100, "{name}: only {interrupted} repairs were interrupted");
    }
}

#[test]
fn log_that_begins_after_a_lost_snapshot_is_reset() {
    let (mut disk, all) = folder();
    let last = all[99].id();
    let snapshot = Some(SnapshotId { last, bytes: 1, checksum: 1 });
    let (mut log, ..) = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, snapshot).unwrap();
    log.compact_to(last.index).unwrap();
    drop(log);
    let durable = open(&mut disk);
    assert_eq!(assert_safe(&durable, &all, "without the snapshot"), Loss::Entries);
    assert_eq!(durable.entries, []);
    assert_eq!(segments(&disk).len(), 1, "{:?}", segments(&disk));
    // The log continues from its beginning, or after a snapshot that the leader sends.
    let (mut log, ..) = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, None).unwrap();
    log.append(None, &all[..10]).unwrap();
    log.end_rejoining().unwrap();
    log.sync().unwrap();
    drop(log);
    let durable = open(&mut disk);
    assert_eq!((durable.loss, &durable.entries[..]), (None, &all[..10]));
}

/// The last segment may then be an older copy, which lacks the vote in the snapshot's term.
#[test]
fn damaged_log_that_has_not_reached_the_term_of_the_snapshot_loses_the_vote() {
    let (mut disk, _) = folder();
    let second = segments(&disk).swap_remove(1);
    flip(&mut disk, &second, 32_000);
    for (term, loss) in [(BLOCKS, Loss::Entries), (BLOCKS + 1, Loss::Votes)] {
        let last = EntryId::new(term, BLOCKS * BLOCK_ENTRIES + 1);
        let snapshot = Some(SnapshotId { last, bytes: 1, checksum: 1 });
        let mut disk = disk.clone();
        let opened = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, snapshot);
        assert_eq!(opened.unwrap().1.loss, Some(loss), "snapshot of term {term}");
    }
}

#[test]
fn damaged_log_of_one_of_two_replicas_is_refused() {
    let mut disk = MemDisk::default();
    Log::bootstrap(&mut disk, 9, NodeId(1), &[1, 2].map(NodeId)).unwrap();
    open(&mut disk);
    flip(&mut disk, "segment-0000000001", 5_000);
    let before = disk.clone();
    let error = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, None).unwrap_err();
    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
    for name in before.list().unwrap() {
        assert_eq!(disk.read(&name).unwrap(), before.read(&name).unwrap(), "{name}");
    }
}

/// Returns a folder like [`folder`], with a snapshot up to entry 100 that is marked as one with a
/// wrong state. If `compacts`, the log begins after the snapshot.
fn folder_with_wrong_state(compacts: bool) -> (MemDisk, Vec<Entry>) {
    let (mut disk, all) = folder();
    let last = all[99].id();
    if compacts {
        let snapshot = Some(SnapshotId { last, bytes: 1, checksum: 1 });
        let (mut log, ..) = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, snapshot).unwrap();
        log.compact_to(last.index).unwrap();
    }
    let name = format!("snapshot-{:020}-{}", last.index.0, last.term.0);
    assert_eq!(end_of(&name), Some(last));
    let _ = disk.create(&name, 0).unwrap();
    disk.sync_dir().unwrap();
    mark_state_wrong(&mut disk).unwrap();
    (disk, all)
}

/// Returns the number of snapshots that a start would find in the folder.
fn snapshot_count(disk: &MemDisk) -> usize {
    disk.list().unwrap().iter().filter(|name| end_of(name).is_some()).count()
}

#[test]
fn start_with_wrong_state_keeps_a_log_with_every_entry() {
    let (mut disk, all) = folder_with_wrong_state(false);
    assert_eq!(snapshot_count(&disk), 1);
    let durable = open(&mut disk);
    assert_eq!((durable.loss, durable.hard_state), (None, hard_state(BLOCKS)));
    assert_eq!(durable.entries, all);
    assert_eq!(
        (snapshot_count(&disk), error_in(&disk, &disk.list().unwrap()).is_some()),
        (0, false)
    );
    assert_eq!(open(&mut disk).entries, all);
}

#[test]
fn start_with_wrong_state_resets_a_log_that_needs_snapshots() {
    let (mut disk, all) = folder_with_wrong_state(true);
    let durable = open(&mut disk);
    assert_eq!(assert_safe(&durable, &all, "reset"), Loss::Entries);
    assert_eq!((durable.entries.len(), snapshot_count(&disk)), (0, 0));
}

#[test]
fn folder_with_a_wrong_state_is_no_source_of_a_backup() {
    let (mut disk, _) = folder_with_wrong_state(false);
    let expected = Expected { cluster: Some(9), replica: NodeId(1), members: None };
    let recovered = Log::recover(&mut disk, OPTIONS, &expected).unwrap();
    let error = recovered.refuse_damage().unwrap_err();
    assert!(matches!(error, StorageError::WrongState { .. }), "{error}");
}

#[test]
fn wrong_state_stays_removed_after_a_power_cut_at_any_operation() {
    for compacts in [false, true] {
        let (marked, all) = folder_with_wrong_state(compacts);
        let mut interrupted = 0;
        for cut in 0..60 {
            for draw in 0..10 {
                let case = format!("compacted: {compacts}, cut {cut}, draw {draw}");
                let mut disk = marked.clone();
                disk.power_cut_in(cut);
                let opened = Log::open(&mut disk, Some(9), NodeId(1), OPTIONS, None);
                interrupted += u64::from(opened.is_err());
                drop(opened);
                let mut state = cut * 20 + draw;
                disk.restart(&mut |states| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(draw + 1);
                    usize::try_from(state >> 33).unwrap() % states
                });
                let durable = open(&mut disk);
                let loss = compacts.then_some(Loss::Entries);
                assert_eq!(
                    (durable.loss, durable.hard_state),
                    (loss, hard_state(BLOCKS)),
                    "{case}"
                );
                assert!(compacts || durable.entries == all, "{case}");
                assert_eq!(snapshot_count(&disk), 0, "{case}");
            }
        }
        assert!(interrupted > 50, "only {interrupted} starts were interrupted");
    }
}
