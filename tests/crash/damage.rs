//! Damaged folders: flipped bits, and truncated, swapped, restored and foreign files. All of them
//! are refused, with an error that names the file.

use bowline::storage::{Disk as _, Log, MemDisk, StorageError};
use bowline::types::NodeId;

use crate::workload::{Account, CLUSTER, ME, OPTIONS};
use crate::{SEED, faultless_run};

const SECTOR: usize = bowline::storage::mem_disk::SECTOR_BYTES;

fn open(disk: &MemDisk) -> Result<bowline::raft::Durable, StorageError> {
    Log::open(disk.clone(), Some(CLUSTER), ME, OPTIONS, None).map(|(_, durable, _)| durable)
}

/// Asserts that opening the log fails with an error that names the file, and returns the error.
#[track_caller]
fn assert_refused(disk: &MemDisk, file: &str, case: &str) -> StorageError {
    match open(disk) {
        Ok(durable) => panic!("{file}, {case}: taken, with {durable:?}"),
        Err(error) => {
            assert!(error.to_string().contains(file), "{file}, {case}: {error}");
            error
        }
    }
}

/// Asserts that the log opens although one copy of the meta record is damaged, and that both copies
/// are intact afterwards.
#[track_caller]
fn assert_repaired(disk: &MemDisk, acknowledged: &bowline::raft::Durable, case: &str) {
    let mut disk = disk.clone();
    for _ in 0..2 {
        let opened = Log::open(&mut disk, Some(CLUSTER), ME, OPTIONS, None);
        let (_, durable, _) = opened.unwrap_or_else(|error| panic!("meta, {case}: {error}"));
        assert!(durable == *acknowledged, "meta, {case}: {durable:?}");
        let middle = disk.read("meta").expect("a disk in memory does not fail").len() / 2;
        // This holds from now on, whatever the state of the first copy.
        disk.tamper("meta", |bytes| bytes[..middle].fill(0xEE));
    }
}

#[test]
fn flipped_bit_in_any_storage_file_is_detected_and_file_named() {
    let (mut disk, mut account) = (MemDisk::default(), Account::default());
    account.live(&mut disk, SEED, 12).unwrap();
    let names = disk.list().unwrap();
    assert!(names.len() >= 4, "{names:?} are too few to show anything");
    for name in &names {
        for bit in 0..disk.read(name).unwrap().len() * 8 {
            let flip = |bytes: &mut Vec<u8>| bytes[bit / 8] ^= 1 << (bit % 8);
            disk.tamper(name, flip);
            if name == "meta" {
                if bit % 5 == 0 {
                    assert_repaired(&disk, &account.acknowledged, &format!("bit {bit} flipped"));
                }
                disk.tamper(name, flip);
                continue;
            }
            let error = assert_refused(&disk, name, &format!("bit {bit} flipped"));
            let StorageError::Damaged { offset, .. } = error else {
                panic!("{name}, bit {bit}: not found as damage: {error}");
            };
            assert_eq!(offset, (bit / 8 / SECTOR * SECTOR) as u64, "{name}, bit {bit}: {error}");
            disk.tamper(name, flip);
        }
    }
    assert_eq!(open(&disk).unwrap(), account.acknowledged);
}

#[test]
fn truncated_storage_files_are_refused_unless_a_copy_is_intact() {
    let (disk, account) = faultless_run();
    for name in disk.list().unwrap() {
        let whole = disk.read(&name).unwrap();
        for length in (0..whole.len()).step_by(64).chain([whole.len() - 1, whole.len() + SECTOR]) {
            let mut disk = disk.clone();
            disk.tamper(&name, |bytes| bytes.resize(length, 0));
            if name == "meta" && length >= whole.len() / 2 {
                assert_repaired(
                    &disk,
                    &account.acknowledged,
                    &format!("truncated to {length} bytes"),
                );
                continue;
            }
            assert_refused(&disk, &name, &format!("truncated to {length} bytes"));
        }
    }
}

/// A sector was not written although its sync returned. The loss is detected if a later block or
/// segment proves that the sector had been synced. In the very last block nothing proves that: the
/// sector looks like a torn tail.
#[test]
fn log_with_a_lost_sector_before_a_later_block_is_refused() {
    let (disk, account) = faultless_run();
    let names = disk.list().unwrap();
    let last = names.last().unwrap();
    let whole = disk.read(last).unwrap();
    let number = |sector: usize| whole[sector * SECTOR + 8..sector * SECTOR + 12].to_vec();
    let sectors = whole.len() / SECTOR;
    let last_block = (1..sectors).map(number).max().expect("the last segment has a block");
    let mut refused = 0;
    for name in &names {
        let bytes = disk.read(name).unwrap();
        for sector in 0..bytes.len() / SECTOR {
            let place = sector * SECTOR..(sector + 1) * SECTOR;
            let unwritten = bytes[place.clone()].iter().all(|&byte| byte == 0);
            if unwritten || (name == last && sector > 0 && number(sector) == last_block) {
                continue;
            }
            let mut disk = disk.clone();
            disk.tamper(name, |bytes| bytes[place].fill(0));
            if name == "meta" {
                assert_repaired(&disk, &account.acknowledged, &format!("sector {sector} is zeros"));
                continue;
            }
            assert_refused(&disk, name, &format!("sector {sector} is zeros"));
            refused += 1;
        }
    }
    assert!(refused > 100, "only {refused} sectors were tried");
}

#[test]
fn log_with_swapped_sectors_is_refused() {
    let (mut disk, mut account) = (MemDisk::default(), Account::default());
    account.live(&mut disk, SEED, 25).unwrap();
    let names = disk.list().unwrap();
    let places: Vec<(String, usize, Vec<u8>)> = names
        .iter()
        .flat_map(|name| {
            let bytes = disk.read(name).unwrap();
            let sectors = bytes.chunks(SECTOR).map(<[u8]>::to_vec).enumerate();
            sectors.map(|(sector, bytes)| (name.clone(), sector, bytes)).collect::<Vec<_>>()
        })
        .collect();
    let mut put = |(name, sector, _): &(String, usize, Vec<u8>), new: &[u8]| {
        disk.tamper(name, |bytes| {
            bytes[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(new);
        });
        disk.clone()
    };
    for (at, one) in places.iter().enumerate() {
        for other in places[at + 1..].iter().filter(|other| other.2 != one.2) {
            put(one, &other.2);
            let swapped = put(other, &one.2);
            let found = open(&swapped);
            assert!(found.is_err(), "{} {} <-> {} {}", one.0, one.1, other.0, other.1);
            put(one, &one.2);
            put(other, &other.2);
        }
    }
}

/// One file is restored from an older copy of the folder. All restored files are refused except
/// one: the last segment, from a copy made since the log was last opened. Such a copy is a complete
/// earlier log, and no other file of the folder is written with each sync; only peers that have
/// seen later entries detect it.
#[test]
fn storage_files_restored_from_old_copies_are_refused() {
    let (mut disk, mut account) = (MemDisk::default(), Account::default());
    let mut copies = Vec::new();
    for seed in 0..12 {
        account.live(&mut disk, seed, 3).unwrap();
        copies.push(disk.clone());
    }
    let mut refused = 0;
    for copy in &copies[..copies.len() - 1] {
        for name in copy.list().unwrap() {
            let old = copy.read(&name).unwrap();
            if old != disk.read(&name).unwrap() {
                let mut disk = disk.clone();
                disk.replace(&name, Some(old));
                assert!(open(&disk).is_err(), "an old {name} is taken");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "only {refused} copies were tried");
}

#[test]
fn log_segment_under_another_file_name_is_refused() {
    let (disk, _) = faultless_run();
    let names = disk.list().unwrap();
    for name in &names {
        for other in names.iter().filter(|other| *other != name) {
            let mut disk = disk.clone();
            let bytes = disk.read(other).unwrap();
            disk.replace(name, Some(bytes));
            assert_refused(&disk, name, &format!("it is a copy of {other}"));
        }
    }
}

#[test]
fn missing_storage_file_is_named_in_the_error() {
    let (disk, _) = faultless_run();
    let names = disk.list().unwrap();
    for name in &names {
        let mut disk = disk.clone();
        disk.replace(name, None);
        let error = assert_refused(&disk, name, "it is missing");
        let kind = matches!(error, StorageError::Missing { .. } | StorageError::NoIdentity { .. });
        assert!(kind, "{error}");
    }
    let mut wiped = disk.clone();
    for name in &names {
        wiped.replace(name, None);
    }
    assert!(matches!(open(&wiped), Err(StorageError::NoIdentity { .. })));
    // Bootstrapped again under the same id, the log is empty, but the new meta record does not make
    // the old segments valid.
    let mut log_only = disk.clone();
    log_only.replace("meta", None);
    let error = Log::bootstrap(&mut log_only, CLUSTER, ME, &[ME]).unwrap_err();
    assert!(matches!(error, StorageError::NotEmpty { .. }), "{error}");
}

#[test]
fn storage_files_of_another_replica_or_cluster_are_refused() {
    let (disk, _) = faultless_run();
    let stranger = |cluster, replica| {
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, cluster, replica, &[replica]).unwrap();
        drop(Log::open(&mut disk, Some(cluster), replica, OPTIONS, None).unwrap());
        disk
    };
    for (theirs, is_cluster) in
        [(stranger(CLUSTER, NodeId(8)), false), (stranger(CLUSTER + 1, ME), true)]
    {
        for name in theirs.list().unwrap() {
            let mut disk = disk.clone();
            disk.replace(&name, Some(theirs.read(&name).unwrap()));
            let error = assert_refused(&disk, &name, "it is another's");
            assert_eq!(matches!(error, StorageError::OtherCluster { .. }), is_cluster, "{error}");
            assert_eq!(matches!(error, StorageError::OtherReplica { .. }), !is_cluster, "{error}");
        }
    }
}
