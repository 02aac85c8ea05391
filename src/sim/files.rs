//! A simulated replica's log in files: the storage code that ships, over a disk in memory that
//! tears at a crash what was not synced, whose operations fail, that is full, and that rots.

use super::dice::Dice;
use crate::raft::{AppendJob, Durable, SnapshotId};
use crate::storage::mem_disk::SECTOR_BYTES;
use crate::storage::{Disk as DiskFace, Identity, Log, LogOptions, MemDisk, StorageError};
use crate::types::NodeId;

/// The cluster that all simulated replicas belong to.
const CLUSTER: u128 = 0x0051_BB1E;
/// Operations of the longest sync, which begins a segment and replaces the meta record for it.
const SYNC_OPERATIONS_MAX: u64 = 12;
/// The same where the log begins anew behind a snapshot or its first segments are deleted.
const CUT_OPERATIONS_MAX: u64 = 30;
/// Operations of the longest opening: the traces of a torn block removed, a segment begun, and
/// another for a log that begins anew.
const OPEN_OPERATIONS_MAX: u64 = 26;
const OPEN_ANEW_OPERATIONS_MAX: u64 = 46;

/// How often disks went wrong, by how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// The power failed.
    pub power_cuts: u64,
    /// A block was found torn afterwards.
    pub torn: u64,
    /// Names of files were made or changed, and were as before afterwards.
    pub names_lost: u64,
    /// The process was killed, and its disk went on.
    pub kills: u64,
    /// A write, a sync or a change of names failed, which ends the process.
    pub failures: u64,
    /// There was no room.
    pub full: u64,
    /// The power failed, or an operation, while the log was opened.
    pub cut_openings: u64,
    /// A bit was flipped while the replica was down.
    pub flips: u64,
    /// A sector was lost though its sync had returned.
    pub lost_writes: u64,
    /// A sector was written to the place of another.
    pub misdirected: u64,
    /// A log was being cut, or begun anew, when that happened.
    pub cut_short: u64,
    /// A log began anew behind a snapshot. Not a fault, but what faults are to hit.
    pub restarts: u64,
    /// A segment was deleted since a snapshot held its entries.
    pub segments_deleted: u64,
}

impl DiskFaults {
    /// Each kind by name.
    pub fn counts(&self) -> [(&'static str, u64); 10] {
        [
            ("power cuts", self.power_cuts),
            ("torn blocks", self.torn),
            ("lost names", self.names_lost),
            ("kills", self.kills),
            ("failed operations", self.failures),
            ("full disks", self.full),
            ("cut openings", self.cut_openings),
            ("flipped bits", self.flips),
            ("lost writes", self.lost_writes),
            ("misdirected writes", self.misdirected),
        ]
    }

    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: &DiskFaults) {
        self.power_cuts += other.power_cuts;
        self.torn += other.torn;
        self.names_lost += other.names_lost;
        self.kills += other.kills;
        self.failures += other.failures;
        self.full += other.full;
        self.cut_openings += other.cut_openings;
        self.flips += other.flips;
        self.lost_writes += other.lost_writes;
        self.misdirected += other.misdirected;
        self.cut_short += other.cut_short;
        self.restarts += other.restarts;
        self.segments_deleted += other.segments_deleted;
    }
}

/// What became of a log at a crash.
#[derive(Debug)]
pub(super) enum Reopened {
    /// It holds this.
    Holds(Durable),
    /// It was damaged, and is refused as it must be.
    Refused,
    /// It is refused without having been damaged, or damage was not noticed.
    Broken(String),
}

/// The log, and what is needed to open it again.
#[derive(Debug)]
pub(super) struct Files {
    /// `None` once it could not be opened after a crash: nothing is written then.
    log: Option<Log<MemDisk>>,
    replica: NodeId,
    options: LogOptions,
    pub(super) faults: DiskFaults,
}

impl Files {
    /// A replica's first start.
    pub(super) fn new(replica: NodeId, segment_bytes: u64) -> Files {
        let options = LogOptions { segment_bytes };
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, CLUSTER, replica).expect("memory does not fail");
        let opened = Log::open(disk, Some(CLUSTER), replica, options, None);
        let (log, ..) = opened.expect("memory does not fail");
        Files { log: Some(log), replica, options, faults: DiskFaults::default() }
    }

    /// Makes the jobs durable, as the log writer stage does it: all of them in one sync.
    pub(super) fn sync<'a>(
        &mut self,
        jobs: impl Iterator<Item = &'a AppendJob>,
    ) -> Result<(), StorageError> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let mut compact_to = None;
        for job in jobs {
            log.append(job.hard_state, &[])?;
            if let Some(last) = job.restart_after {
                log.restart_after(last)?;
                self.faults.restarts += 1;
            }
            log.append(None, &job.entries)?;
            compact_to = compact_to.max(job.compact_to);
        }
        log.sync()?;
        let before = log.stats().segments_deleted;
        if let Some(index) = compact_to {
            log.compact_to(index)?;
        }
        self.faults.segments_deleted += log.stats().segments_deleted - before;
        Ok(())
    }

    /// Ends the process while it syncs the jobs, at a place and in a way that the dice choose, and
    /// opens the log again behind `snapshot`, perhaps with more trouble on the way. With `may_rot`
    /// the files may be damaged meanwhile.
    pub(super) fn crash<'a>(
        &mut self,
        jobs: impl Iterator<Item = &'a AppendJob> + Clone,
        snapshot: Option<SnapshotId>,
        may_rot: bool,
        dice: &mut Dice,
    ) -> Reopened {
        let Some(log) = &self.log else { return Reopened::Refused };
        let before = log.identity();
        let mut disk = self.end(jobs, snapshot, dice);
        while dice.chance(200) {
            let longest = snapshot.map_or(OPEN_OPERATIONS_MAX, |_| OPEN_ANEW_OPERATIONS_MAX);
            let operations = dice.below(longest);
            let fails = dice.chance(300);
            if fails {
                disk.fail_in(operations);
            } else {
                disk.cut_in(operations);
            }
            let opened = self.open(&mut disk, snapshot);
            self.faults.cut_openings += u64::from(opened.is_err());
            drop(opened);
            self.stop(&mut disk, fails, dice);
        }
        let damage = if may_rot { self.rot(&mut disk, snapshot, dice) } else { None };
        let opened = self.open(disk, snapshot);
        let (log, durable, identity) = match (opened, damage) {
            (Ok(opened), None) => opened,
            (Err(error), None) => return Reopened::Broken(error.to_string()),
            (Err(StorageError::Damaged { .. }), Some(_)) => return Reopened::Refused,
            (Err(error), Some(damage)) => {
                return Reopened::Broken(format!("{damage} is taken for something else: {error}"));
            }
            (Ok(_), Some(damage)) => return Reopened::Broken(format!("{damage} is not noticed")),
        };
        self.faults.torn += u64::from(log.stats().torn_bytes > 0);
        assert!(identity.incarnation > before.incarnation, "{identity:?} after {before:?}");
        self.log = Some(log);
        Reopened::Holds(durable)
    }

    fn open<D: DiskFace>(
        &self,
        disk: D,
        snapshot: Option<SnapshotId>,
    ) -> Result<(Log<D>, Durable, Identity), StorageError> {
        Log::open(disk, Some(CLUSTER), self.replica, self.options, snapshot)
    }

    /// Ends the process during a sync of the jobs, or while what is in the snapshot is deleted. The
    /// log is gone then.
    fn end<'a>(
        &mut self,
        jobs: impl Iterator<Item = &'a AppendJob> + Clone,
        snapshot: Option<SnapshotId>,
        dice: &mut Dice,
    ) -> MemDisk {
        // What is in the snapshot may go from the files whether the core has asked for it or not.
        let compacted = snapshot.filter(|_| dice.chance(700));
        let cuts = compacted.is_some() || jobs.clone().any(|job| job.restart_after.is_some());
        let longest = if cuts { CUT_OPERATIONS_MAX } else { SYNC_OPERATIONS_MAX };
        let disk = self.log.as_mut().expect("only called with a log").disk_mut();
        let limit = if dice.chance(if cuts { 300 } else { 800 }) { 3 } else { longest };
        let operations = dice.below(limit + 1);
        let fails = match dice.below(10) {
            0 => {
                disk.set_capacity(Some(disk.used_bytes() + dice.below(600)));
                true
            }
            1 | 2 => {
                disk.fail_in(operations);
                true
            }
            _ => {
                disk.cut_in(operations);
                false
            }
        };
        // Where the trouble comes first that is an error, and else it comes after the sync.
        let mut done = self.sync(jobs);
        if let (Ok(()), Some(log), Some(snapshot)) = (&done, &mut self.log, compacted) {
            done = log.compact_to(snapshot.last.index);
        }
        if let Err(StorageError::Io { source, .. }) = done {
            self.faults.cut_short += u64::from(cuts);
            if fails {
                let is_full = source.kind() == std::io::ErrorKind::StorageFull;
                *(if is_full { &mut self.faults.full } else { &mut self.faults.failures }) += 1;
            }
        }
        let mut disk = self.log.take().expect("it was there").into_disk();
        disk.set_capacity(None);
        let killed = fails || dice.chance(300);
        self.stop(&mut disk, killed, dice);
        disk
    }

    /// A process has ended, and perhaps its machine.
    fn stop(&mut self, disk: &mut MemDisk, killed: bool, dice: &mut Dice) {
        if killed {
            self.faults.kills += 1;
            disk.kill();
            return;
        }
        self.faults.power_cuts += 1;
        let names = disk.names_lost();
        disk.restart(&mut |states| dice.place(states));
        self.faults.names_lost += disk.names_lost() - names;
    }

    /// Damages the files in some cases, in a way that must be noticed. Says what it did.
    fn rot(
        &mut self,
        disk: &mut MemDisk,
        snapshot: Option<SnapshotId>,
        dice: &mut Dice,
    ) -> Option<String> {
        if !dice.chance(200) {
            return None;
        }
        let mut names = disk.list().expect("memory does not fail");
        // What was never completed counts for nothing, nor what a snapshot took the place of.
        names.retain(|name| name.strip_suffix(".new").is_none());
        let mut opened = disk.clone();
        if self.open(&mut opened, snapshot).is_ok() {
            let left = opened.list().expect("memory does not fail");
            names.retain(|name| left.contains(name));
        }
        let read = |disk: &MemDisk, name: &str| disk.read(name).expect("memory does not fail");
        let name = dice.pick(&names).clone();
        let bytes = read(disk, &name);
        if dice.chance(400) {
            let bit = dice.place(bytes.len() * 8);
            disk.tamper(&name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            self.faults.flips += 1;
            return Some(format!("bit {bit} of {name}, flipped,"));
        }
        // The others concern a sector that was written and synced, and is not of the very last
        // block: of that one nothing can tell whether its sync had returned.
        let block = |sector: &[u8]| u32::from_le_bytes(sector[8..12].try_into().expect("4 bytes"));
        let last = bytes.chunks(SECTOR_BYTES).map(block).max();
        let is_last_file = names.last() == Some(&name);
        let written: Vec<usize> = (0..bytes.len() / SECTOR_BYTES)
            .filter(|&sector| {
                let content = &bytes[sector * SECTOR_BYTES..][..SECTOR_BYTES];
                content.iter().any(|&byte| byte != 0)
                    && (sector == 0 || !is_last_file || Some(block(content)) != last)
            })
            .collect();
        if written.is_empty() {
            return None;
        }
        let sector = *dice.pick(&written);
        let place = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        let content = bytes[place.clone()].to_vec();
        if dice.chance(500) {
            disk.tamper(&name, |bytes| bytes[place].fill(0));
            self.faults.lost_writes += 1;
            return Some(format!("sector {sector} of {name}, lost,"));
        }
        let other = dice.pick(&names).clone();
        let there = read(disk, &other);
        let target = dice.place(there.len() / SECTOR_BYTES);
        let target_place = target * SECTOR_BYTES..(target + 1) * SECTOR_BYTES;
        if there[target_place.clone()] == content[..] {
            return None;
        }
        disk.tamper(&other, |bytes| bytes[target_place].copy_from_slice(&content));
        self.faults.misdirected += 1;
        Some(format!("sector {sector} of {name}, written to sector {target} of {other},"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::raft::HardState;
    use crate::record::{EntryKind, RecordBuffer};
    use crate::sim::fault_run;
    use crate::sim::faults::Profile;
    use crate::sim::machine::Disk;
    use crate::sim::trace::Trace;
    use crate::types::{EntryId, JobSequence, Term};

    #[test]
    fn crashes_of_replicas_with_their_logs_in_files_break_no_rule() {
        for seed in 1..=40 {
            let result = fault_run::run(Profile::Storage, seed, Trace::default(), &|_| ());
            assert!(result.is_ok(), "seed {seed}: {:?}", result.err());
        }
    }

    /// What a synced disk holds after a crash, or how it broke its promise.
    fn after_crash(lies: bool, seed: u64) -> Result<usize, String> {
        let mut files = Files::new(NodeId(1), 4 << 10);
        if lies {
            files.log.as_mut().expect("it was opened").disk_mut().set_lying();
        }
        let mut disk = Disk::over(files);
        let mut buffer = RecordBuffer::default();
        for index in 1..=5 {
            let id = EntryId::new(1, index);
            disk.write(AppendJob {
                sequence: JobSequence(index),
                hard_state: Some(HardState { term: Term(1), voted_for: None }),
                restart_after: None,
                compact_to: None,
                entries: vec![buffer.encode(id, EntryKind::Command, &[7; 700])],
                release: Vec::new(),
            });
            assert!(disk.begin_sync());
            while disk.end_sync().is_some() {}
        }
        disk.crash(None, &mut Dice::new(seed));
        disk.broken().map_or(Ok(disk.image().entries.len()), |broken| Err(broken.to_owned()))
    }

    #[test]
    fn a_disk_that_says_synced_and_has_not_is_found_out() {
        assert!((0..20).all(|seed| after_crash(false, seed) == Ok(5)));
        let found_out = (0..20).filter(|&seed| after_crash(true, seed).is_err()).count();
        assert!(found_out >= 10, "only {found_out} of 20 crashes show it");
    }

    #[test]
    fn the_same_seed_is_the_same_run() {
        let run = || fault_run::run(Profile::Storage, 3, Trace::default(), &|_: &mut Config| ());
        assert_eq!(run(), run());
    }
}
