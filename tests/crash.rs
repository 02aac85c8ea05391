//! Tests of the durable log under power cuts, failing and full disks, damage, and foreign files: no
//! acknowledged entry is lost, and damage is reported and refused.

#[path = "crash/damage.rs"]
mod damage;
#[path = "crash/log_and_snapshots.rs"]
mod log_and_snapshots;
#[path = "crash/snapshots.rs"]
mod snapshots;
#[path = "crash/workload.rs"]
mod workload;

use bowline::sim::rng::Rng;
use bowline::storage::{Disk as _, Log, MemDisk, StorageError};

use workload::{Account, CLUSTER, ME, OPTIONS};

const SEED: u64 = 7;
const STEPS: usize = 60;

/// How much of the unsynced data is on the disk after a power cut: nothing, all of it, or a random
/// part drawn from a seed.
#[derive(Clone, Copy, Debug)]
enum Luck {
    Nothing,
    All,
    Some(u64),
}

impl Luck {
    fn restart(self, disk: &mut MemDisk) {
        match self {
            Luck::Nothing => disk.restart(&mut |_| 0),
            Luck::All => disk.restart(&mut |states| states - 1),
            Luck::Some(seed) => {
                let mut rng = Rng::new(seed);
                disk.restart(&mut |states| rng.index(states));
            }
        }
    }
}

/// Runs the workload without faults, and returns the disk and the account.
fn faultless_run() -> (MemDisk, Account) {
    let (mut disk, mut account) = (MemDisk::default(), Account::default());
    account.live(&mut disk, SEED, STEPS).expect("no fault is planned");
    (disk, account)
}

/// Runs the workload on a disk with a planned fault, which must end the run with a storage error.
fn faulty_run(disk: &mut MemDisk, account: &mut Account, seed: u64, steps: usize) {
    let error = account.live(disk, seed, steps).expect_err("this run has a fault");
    let expected = matches!(error, StorageError::Io { .. } | StorageError::Failed { .. });
    assert!(expected, "unexpected error: {error}");
}

#[test]
fn power_cut_at_any_disk_operation_loses_no_acknowledged_entry() {
    let operations = faultless_run().0.operations();
    assert!(operations > 150, "{operations} operations are too few to show anything");
    for cut in 0..operations {
        let lucks = [Luck::Nothing, Luck::All].into_iter().chain((0..8).map(Luck::Some));
        for luck in lucks {
            let (mut disk, mut account) = (MemDisk::default(), Account::default());
            disk.power_cut_at(cut);
            faulty_run(&mut disk, &mut account, SEED, STEPS);
            luck.restart(&mut disk);
            let error = account.live(&mut disk, SEED + 1, 4).err();
            assert!(error.is_none(), "power cut at {cut}, {luck:?}: {}", error.unwrap());
            Luck::Nothing.restart(&mut disk);
            let error = account.live(&mut disk, SEED + 2, 0).err();
            assert!(
                error.is_none(),
                "again after a power cut at {cut}, {luck:?}: {}",
                error.unwrap()
            );
        }
    }
}

#[test]
fn power_cut_during_log_recovery_loses_no_acknowledged_entry() {
    let operations = faultless_run().0.operations();
    let mut rng = Rng::new(SEED);
    let mut torn = 0;
    for cut in 0..operations {
        let (mut disk, mut account) = (MemDisk::default(), Account::default());
        disk.power_cut_at(cut);
        faulty_run(&mut disk, &mut account, SEED, STEPS);
        Luck::Some(rng.next_u64()).restart(&mut disk);
        let start = disk.operations();
        let opening = {
            let (mut disk, mut account) = (disk.clone(), account.clone());
            account.live(&mut disk, SEED + 1, 0).unwrap();
            disk.operations() - start
        };
        torn += u64::from(opening > 8);
        for cut in 0..opening {
            let (mut disk, mut account) = (disk.clone(), account.clone());
            disk.power_cut_at(start + cut);
            faulty_run(&mut disk, &mut account, SEED + 1, 0);
            Luck::Some(rng.next_u64()).restart(&mut disk);
            account.live(&mut disk, SEED + 2, 3).unwrap();
            Luck::Nothing.restart(&mut disk);
            account.live(&mut disk, SEED + 3, 0).unwrap();
        }
    }
    assert!(torn > 10, "only {torn} openings had something to remove");
}

#[test]
fn entries_recovered_after_a_kill_survive_a_later_power_cut() {
    for cut in 0..faultless_run().0.operations() {
        let (mut disk, mut account) = (MemDisk::default(), Account::default());
        disk.power_cut_at(cut);
        faulty_run(&mut disk, &mut account, SEED, STEPS);
        // No power cut yet: the next process reads what the first one wrote but did not sync.
        disk.kill();
        account.live(&mut disk, SEED + 1, 0).unwrap();
        Luck::Nothing.restart(&mut disk);
        account.live(&mut disk, SEED + 2, 0).unwrap();
    }
}

#[test]
fn acknowledged_entries_survive_any_failed_disk_operation() {
    for at in 0..faultless_run().0.operations() {
        let (mut disk, mut account) = (MemDisk::default(), Account::default());
        disk.fail_at(at);
        faulty_run(&mut disk, &mut account, SEED, STEPS);
        disk.kill();
        let error = account.live(&mut disk, SEED + 1, 2).err();
        assert!(error.is_none(), "failed at {at}: {}", error.unwrap());
        Luck::Nothing.restart(&mut disk);
        account.live(&mut disk, SEED + 2, 0).unwrap();
    }
}

#[test]
fn log_refuses_all_operations_after_a_failed_sync() {
    let (mut disk, account) = faultless_run();
    let entries = &account.acknowledged.entries[..1];
    for fault in [0, 1] {
        let mut disk = disk.clone();
        let mut counted = disk.clone();
        let log = Log::open(&mut counted, None, ME, OPTIONS, None).unwrap();
        drop(log);
        disk.fail_at(counted.operations() + fault);
        let (mut log, durable, _) = Log::open(&mut disk, None, ME, OPTIONS, None).unwrap();
        log.append(None, &[durable.entries.last().unwrap().clone()]).unwrap();
        let error = log.sync().unwrap_err().to_string();
        assert!(error.contains("segment-") && error.contains("the disk fails"), "{error}");
        for error in [log.sync().unwrap_err(), log.append(None, entries).unwrap_err()] {
            assert!(matches!(error, StorageError::Failed { .. }), "{error}");
            assert!(error.to_string().contains("restart the process"), "{error}");
        }
    }
    disk.restart(&mut |_| 0);
}

#[test]
fn full_disk_is_reported_and_loses_no_acknowledged_entry() {
    let (disk, account) = faultless_run();
    let used: usize = disk.list().unwrap().iter().map(|name| disk.read(name).unwrap().len()).sum();
    for spare in [0, 512, 1_024, 4_000, 9_000] {
        let (mut disk, mut account) = (disk.clone(), account.clone());
        disk.set_capacity(Some(used as u64 + spare));
        let error = account.live(&mut disk, SEED + 1, 500).unwrap_err().to_string();
        assert!(error.contains("free disk space"), "{error}");
        disk.set_capacity(None);
        account.live(&mut disk, SEED + 2, 5).unwrap();
        Luck::Nothing.restart(&mut disk);
        account.live(&mut disk, SEED + 3, 0).unwrap();
    }
}

#[test]
fn data_folder_is_bootstrapped_once_and_opened_only_by_owner() {
    let mut disk = MemDisk::default();
    let open = |disk: &mut MemDisk, cluster, replica| {
        Log::open(disk, cluster, replica, OPTIONS, None).map(|(log, ..)| drop(log)).unwrap_err()
    };
    let error = open(&mut disk, None, ME);
    assert!(matches!(error, StorageError::NoIdentity { .. }), "{error}");
    assert!(error.to_string().contains("--bootstrap"), "{error}");
    Log::bootstrap(&mut disk, CLUSTER, ME, &[ME]).unwrap();
    let error = Log::bootstrap(&mut disk, CLUSTER, ME, &[ME]).unwrap_err();
    assert!(matches!(error, StorageError::NotEmpty { .. }), "{error}");
    let error = open(&mut disk, Some(CLUSTER + 1), ME);
    assert!(matches!(error, StorageError::OtherCluster { .. }), "{error}");
    let error = open(&mut disk, None, bowline::types::NodeId(9));
    assert!(matches!(error, StorageError::OtherReplica { .. }), "{error}");
    let (_, durable, identity) = Log::open(&mut disk, None, ME, OPTIONS, None).unwrap();
    assert_eq!((durable, identity.incarnation), (bowline::raft::Durable::default(), 1));
}
