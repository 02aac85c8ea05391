//! A simulated replica's folder: the real storage code (log, snapshots, peer records) over a disk
//! in memory that tears unsynced writes at a crash, fails, fills up, and gets corrupted.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | the folder, faults of running disks, log writes, peers |
//! | `snapshot_files.rs` | writing, receiving, installing and sending snapshots |
//! | `opening.rs` | crashes during disk operations, and recovery |
//! | `corruption.rs` | corruption at rest, old copies |
//!
//! The calls into the storage code are those of the server's stages, in the same order.

mod corruption;
mod opening;
mod snapshot_files;

pub(in crate::sim) use opening::{Found, Opening, Work};

use std::collections::BTreeMap;

use crate::raft::{AppendJob, SnapshotId};
use crate::sim::disk::statistics::{DiskFault, FaultEffect, FaultStatistics};
use crate::sim::rng::Rng;
use crate::storage::{
    AppendFault, DiskFaultCounts, Log, LogOptions, MemDisk, PeerRecords, SharedDisk,
    SnapshotWriter, Snapshots, StartHistory, StorageError, mark_state_wrong,
};
use crate::types::NodeId;

/// Cluster id of all simulated replicas.
const CLUSTER: u128 = 0x0051_BB1E;
/// Maximum number of disk operations in one sync of the log, reached by a sync that begins a log
/// segment and replaces the file `meta`.
const SYNC_OPERATIONS_MAX: u64 = 12;
/// Maximum length of a simulated replica's list of its latest starts (one random number per start),
/// which peers use to detect old copies of its folder. It is small enough that old copies are often
/// started more times than this, but larger than the number of starts of one replica while another
/// one is down.
const START_IDS_KEPT: usize = 48;

/// A leader's snapshot that the replica is receiving.
#[derive(Debug)]
struct Incoming {
    id: SnapshotId,
    /// The snapshot file being written; `None` once all bytes have been received.
    file: Option<SnapshotWriter<usize>>,
    received: u64,
}

/// Files that corruption at rest must not damage.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::sim) enum Spared {
    #[default]
    Nothing,
    /// The files that contain the only copy of the latest term and vote. Without these, the replica
    /// would have to be replaced, because the members have changed.
    Votes,
    /// All files, because too few other replicas could restore them.
    Files,
}

/// The open storage of a running replica: its log, snapshots and peer records.
#[derive(Debug)]
struct Process {
    log: Log<SharedDisk>,
    snapshots: Snapshots<SharedDisk>,
    notes: PeerRecords<SharedDisk>,
    incoming: Option<Incoming>,
    /// The snapshot being sent to each follower, by follower id.
    outgoing: BTreeMap<NodeId, SnapshotId>,
}

/// The folder of a simulated replica on a disk in memory, with its open files and fault statistics.
#[derive(Debug)]
pub(in crate::sim) struct Folder {
    disk: SharedDisk,
    /// The open files of the replica; `None` while the replica is down.
    process: Option<Process>,
    replica: NodeId,
    options: LogOptions,
    pub(in crate::sim) statistics: FaultStatistics,
    /// The fault counters of the simulated disk when they were last added to the fault statistics.
    seen: DiskFaultCounts,
    /// Types of faults injected since the folder was last opened successfully.
    new_faults: Vec<DiskFault>,
    /// Types of faults injected between the last two successful openings of the folder.
    old_faults: Vec<DiskFault>,
    /// Name and original content of each file that the simulator has damaged.
    undamaged: Vec<(String, Vec<u8>)>,
    /// Whether the last attempt to open the folder failed because its files were damaged.
    is_refused: bool,
    /// Whether a start began to repair damage in the folder, but did not finish.
    is_half_repaired: bool,
    /// Whether the state in the folder is marked as wrong, and no start has completed since.
    discards_state: bool,
    pub(in crate::sim) spared: Spared,
    /// An old copy of the folder, and how many times the replica had been started when the copy was
    /// made; `None` if there is no copy.
    copy: Option<(MemDisk, u64)>,
    /// Error of an invalid snapshot that was written to this disk without an injected fault, which
    /// means that the storage code is wrong; `None` if there is none.
    bad_snapshot: Option<String>,
    /// Snapshots that the replica has begun to make durable since the last crash. The next start
    /// may find any of them.
    finished: Vec<SnapshotId>,
    /// For each peer, how many times it had been started according to this replica's last durable
    /// record of the peer.
    noted: BTreeMap<NodeId, u64>,
}

impl Folder {
    /// Creates the folder of a replica that has never been started, with log segments of
    /// `segment_bytes` bytes.
    pub(in crate::sim) fn new(replica: NodeId, members: &[NodeId], segment_bytes: u64) -> Folder {
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, CLUSTER, replica, members)
            .expect("a disk in memory does not fail");
        Folder {
            disk: SharedDisk::new(disk),
            process: None,
            replica,
            options: LogOptions { segment_bytes, start_ids_kept: START_IDS_KEPT },
            statistics: FaultStatistics::default(),
            seen: DiskFaultCounts::default(),
            new_faults: Vec::new(),
            old_faults: Vec::new(),
            undamaged: Vec::new(),
            is_refused: false,
            is_half_repaired: false,
            discards_state: false,
            spared: Spared::default(),
            copy: None,
            bad_snapshot: None,
            finished: Vec::new(),
            noted: BTreeMap::new(),
        }
    }

    /// Makes the storage code break the safety rule of `mutant` on purpose, to test that the
    /// checkers detect it (mutation testing); `None` to break none.
    #[cfg(feature = "mutants")]
    pub(in crate::sim) fn set_mutant(&mut self, mutant: Option<crate::config::Mutant>) {
        self.disk.disk().set_mutant(mutant);
    }

    /// Returns whether the last attempt to open the folder failed because its files were damaged.
    pub(in crate::sim) fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Returns whether a start has begun to repair damage in the folder, but did not finish.
    pub(in crate::sim) fn is_half_repaired(&self) -> bool {
        self.is_half_repaired
    }

    /// Marks the state in the folder as wrong, so that the next start removes it.
    pub(in crate::sim) fn mark_state_wrong(&mut self) -> Result<(), StorageError> {
        // Even if this fails, the mark may have become durable.
        self.discards_state = true;
        mark_state_wrong(&mut self.disk)
    }

    /// Returns whether the state in the folder was marked as wrong, and no start has finished
    /// since.
    pub(in crate::sim) fn discards_state(&self) -> bool {
        self.discards_state
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the replica runs")
    }

    /// Makes one of the next disk operations fail, chosen at random.
    pub(in crate::sim) fn fail_soon(&mut self, rng: &mut Rng) {
        self.disk.disk().fail_in(rng.below(SYNC_OPERATIONS_MAX));
    }

    /// Makes the disk almost full until [`Folder::free_space`] is called.
    pub(in crate::sim) fn fill(&mut self, rng: &mut Rng) {
        let mut disk = self.disk.disk();
        let used = disk.used_bytes();
        disk.set_capacity(Some(used + rng.below(3_000)));
    }

    /// Frees space on the disk that [`Folder::fill`] has made almost full.
    pub(in crate::sim) fn free_space(&mut self) {
        self.disk.disk().set_capacity(None);
    }

    /// Corrupts the next write to a snapshot file: the disk stores wrong bytes without reporting an
    /// error.
    pub(in crate::sim) fn corrupt_snapshot_write(&mut self, rng: &mut Rng) {
        let all = [AppendFault::FlippedBit, AppendFault::Lost, AppendFault::Misdirected];
        self.disk.disk().corrupt_next_append(*rng.choose(&all));
    }

    /// Ends all faults of the disk and restores the original contents of damaged files.
    pub(in crate::sim) fn end_faults(&mut self) {
        self.disk.disk().clear_faults();
        self.restore();
    }

    /// Adds the faults that the simulated disk has injected since the previous call to the fault
    /// statistics.
    fn collect_faults(&mut self) {
        let now = self.disk.disk().fault_counts();
        let before = std::mem::replace(&mut self.seen, now);
        for (kind, count) in [
            (DiskFault::FailedWrite, now.failed_writes - before.failed_writes),
            (DiskFault::FailedSync, now.failed_syncs - before.failed_syncs),
            (DiskFault::FailedNames, now.failed_names - before.failed_names),
            (DiskFault::FullDisk, now.no_room - before.no_room),
            (DiskFault::BadSnapshotWrite, now.bad_appends - before.bad_appends),
            (DiskFault::TornWrite, now.torn - before.torn),
            (DiskFault::LostUnsynced, now.lost - before.lost),
            (DiskFault::NameLost, now.names_lost - before.names_lost),
            (DiskFault::NameBack, now.names_back - before.names_back),
        ] {
            if count > 0 {
                self.statistics.inject(kind, count);
                self.add_fault(kind);
            }
        }
    }

    fn add_fault(&mut self, kind: DiskFault) {
        if !self.new_faults.contains(&kind) {
            self.new_faults.push(kind);
        }
    }

    /// Adds to the fault statistics that the replica's process stops because of a disk fault.
    fn count_stop(&mut self) {
        self.collect_faults();
        for kind in [
            DiskFault::FailedWrite,
            DiskFault::FailedSync,
            DiskFault::FailedNames,
            DiskFault::FullDisk,
        ] {
            if self.new_faults.contains(&kind) {
                self.statistics.cause(kind, FaultEffect::Stopped);
            }
        }
    }

    /// Returns `result` unchanged. If it is an error, adds to the fault statistics that the
    /// replica's process stops because of a disk fault.
    fn count_if_fatal<T>(&mut self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if result.is_err() {
            self.count_stop();
        }
        result
    }

    /// Makes the jobs (log writes) durable with one sync, as the server's log writer does.
    pub(in crate::sim) fn sync<'a>(
        &mut self,
        jobs: impl Iterator<Item = &'a AppendJob>,
    ) -> Result<(), StorageError> {
        let synced = self.try_sync(jobs);
        self.count_if_fatal(synced)
    }

    fn try_sync<'a>(
        &mut self,
        jobs: impl Iterator<Item = &'a AppendJob>,
    ) -> Result<(), StorageError> {
        let statistics = &mut self.statistics;
        let log = &mut self.process.as_mut().expect("the replica runs").log;
        let (mut compact_to, mut rejoined) = (None, false);
        for job in jobs {
            rejoined |= job.rejoined;
            log.raise_feature_level(job.feature_level)?;
            log.append(job.hard_state, &[])?;
            if let Some(last) = job.restart_after {
                log.restart_after(last)?;
                statistics.restarts += 1;
            }
            log.append(None, &job.entries)?;
            compact_to = compact_to.max(job.compact_to);
        }
        log.sync()?;
        if rejoined {
            log.end_rejoining()?;
        }
        let before = log.stats().segments_deleted;
        if let Some(index) = compact_to {
            log.compact_to(index)?;
        }
        statistics.segments_deleted += log.stats().segments_deleted - before;
        Ok(())
    }

    /// Checks the list of starts that `peer` sends after a restart: `incarnation` is the number of
    /// its starts, and `start_ids` are random numbers that identify the latest of them, oldest
    /// first. Returns false if the list is incomplete or lacks the peer's latest start that this
    /// replica has recorded: the peer may then be running from an old copy of its folder. Otherwise
    /// records the peer's latest start durably (only in memory if the disk is full) and returns
    /// true.
    ///
    /// # Errors
    /// If the disk failed, so that this replica's process must stop.
    pub(in crate::sim) fn check_peer(
        &mut self,
        peer: NodeId,
        incarnation: u64,
        start_ids: &[u64],
    ) -> Result<bool, StorageError> {
        let notes = &mut self.process().notes;
        let history = StartHistory { incarnation, start_ids };
        let Ok(sighting) = notes.check(peer, history, START_IDS_KEPT) else { return Ok(false) };
        match notes.note(sighting) {
            Ok(()) => {
                self.noted.insert(peer, incarnation);
            }
            // The record stays in memory, and is written together with the next one.
            Err(error) if error.is_disk_full() => self.collect_faults(),
            Err(error) => {
                self.count_stop();
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Returns the history of starts that the replica sends to its peers, so that they detect old
    /// copies of its folder: the number of its starts, and random numbers that identify the latest
    /// of them, oldest first.
    pub(in crate::sim) fn start_history(&self) -> (u64, Vec<u64>) {
        let log = &self.process.as_ref().expect("the replica runs").log;
        (log.identity().incarnation, log.start_ids().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use crate::feature_level::FeatureLevel;
    use crate::raft::{AppendJob, HardState};
    use crate::record::{EntryKind, RecordBuffer};
    use crate::sim::disk::{Disk, Started};
    use crate::sim::rng::Rng;
    use crate::types::{EntryId, JobSequence, NodeId, Term};

    /// Returns the number of entries that a synced disk holds after a crash, or an error that
    /// describes the loss of durable data.
    fn after_crash(lies: bool, seed: u64) -> Result<usize, String> {
        let mut disk = Disk::with_files(NodeId(1), &[NodeId(1)], 4 << 10);
        let (mut latest, mut rng) = (None, Rng::new(seed));
        assert!(matches!(disk.open(&mut latest, &mut rng), Started::Ok(_)));
        if lies {
            disk.files().expect("it was made with files").disk.disk().ignore_syncs();
        }
        let mut buffer = RecordBuffer::default();
        for index in 1..=5 {
            let id = EntryId::new(1, index);
            disk.write(AppendJob {
                sequence: JobSequence(index),
                hard_state: Some(HardState { term: Term(1), voted_for: None }),
                restart_after: None,
                compact_to: None,
                entries: vec![buffer.encode(id, EntryKind::Command, &[7; 700])],
                feature_level: FeatureLevel::OLDEST,
                rejoined: false,
                release: Vec::new(),
            });
            assert!(disk.begin_sync());
            while disk.end_sync().expect("a disk in memory does not fail").is_some() {}
        }
        disk.crash(None, None, &mut rng);
        match disk.open(&mut latest, &mut rng) {
            Started::Ok(start) => Ok(start.durable.entries.len()),
            Started::Unavailable(why) | Started::Violation(why) => Err(why),
        }
    }

    #[test]
    fn writes_lost_by_an_fsync_that_lies_are_detected() {
        assert!((0..20).all(|seed| after_crash(false, seed) == Ok(5)));
        let crashes: Vec<_> = (0..20).map(|seed| after_crash(true, seed)).collect();
        // Every loss is detected; in about every other crash nothing is lost.
        assert!(crashes.iter().all(|crash| crash.as_ref().map_or(true, |&entries| entries == 5)));
        let found_out = crashes.iter().filter(|crash| crash.is_err()).count();
        assert!(found_out >= 5, "only {found_out} of 20 crashes show it");
    }
}
