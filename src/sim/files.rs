//! A simulated replica's log in files: the storage code that ships, over a disk in memory that
//! tears at a crash what was not synced.

use super::dice::Dice;
use crate::raft::{AppendJob, Durable};
use crate::storage::{Log, LogOptions, MemDisk, StorageError};
use crate::types::NodeId;

/// The cluster that all simulated replicas belong to.
const CLUSTER: u128 = 0x0051_BB1E;
/// Operations of the longest sync, which begins a segment and replaces the meta record for it.
const SYNC_OPERATIONS_MAX: u64 = 12;
/// Operations of the longest opening: the traces of a torn block removed, a segment begun.
const OPEN_OPERATIONS_MAX: u64 = 26;

/// The log, and what is needed to open it again.
#[derive(Debug)]
pub(super) struct Files {
    /// `None` only if it could not be opened after a crash: nothing is written then.
    log: Option<Log<MemDisk>>,
    replica: NodeId,
    options: LogOptions,
}

impl Files {
    /// A replica's first start.
    pub(super) fn new(replica: NodeId, segment_bytes: u64) -> Files {
        let options = LogOptions { segment_bytes };
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, CLUSTER, replica).expect("memory does not fail");
        let opened = Log::open(disk, Some(CLUSTER), replica, options);
        let (log, ..) = opened.expect("memory does not fail");
        Files { log: Some(log), replica, options }
    }

    /// Makes the jobs durable, as the log writer stage does it: all of them in one sync.
    pub(super) fn sync<'a>(
        &mut self,
        jobs: impl Iterator<Item = &'a AppendJob>,
    ) -> Result<(), StorageError> {
        let Some(log) = &mut self.log else { return Ok(()) };
        for job in jobs {
            log.append(job.hard_state, &job.entries)?;
        }
        log.sync()
    }

    /// Ends the process while it syncs the jobs, at a place that the dice choose, mostly by a power
    /// cut; and opens the log again, perhaps with more of them on the way. Returns what it holds.
    pub(super) fn crash<'a>(
        &mut self,
        jobs: impl Iterator<Item = &'a AppendJob>,
        dice: &mut Dice,
    ) -> Result<Durable, StorageError> {
        let Some(log) = &mut self.log else { return Ok(Durable::default()) };
        let before = log.identity();
        let limit = if dice.chance(800) { 3 } else { SYNC_OPERATIONS_MAX };
        log.disk_mut().cut_in(dice.below(limit + 1));
        // Where the crash comes first that is an error, and else it comes after the sync.
        let _ = self.sync(jobs);
        let mut disk = self.log.take().expect("it was there").into_disk();
        if dice.chance(300) {
            disk.kill();
        } else {
            disk.restart(&mut |states| dice.place(states));
        }
        while dice.chance(200) {
            disk.cut_in(dice.below(OPEN_OPERATIONS_MAX));
            let _ = Log::open(&mut disk, Some(CLUSTER), self.replica, self.options);
            disk.restart(&mut |states| dice.place(states));
        }
        let (log, durable, identity) = Log::open(disk, Some(CLUSTER), self.replica, self.options)?;
        assert!(identity.incarnation > before.incarnation, "{identity:?} after {before:?}");
        self.log = Some(log);
        Ok(durable)
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
                entries: vec![buffer.encode(id, EntryKind::Command, &[7; 700])],
                release: Vec::new(),
            });
            assert!(disk.begin_sync());
            while disk.end_sync().is_some() {}
        }
        disk.crash(&mut Dice::new(seed));
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
