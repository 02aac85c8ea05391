//! The end of a simulated replica's process and its next start: crashes during disk operations, and
//! recovery.

use std::collections::BTreeMap;

use super::snapshot_files::loader;
use super::{CLUSTER, Folder, Process, SYNC_OPERATIONS_MAX, Spared};
use crate::kv::StateMachine;
use crate::raft::{AppendJob, Durable, Loss, SnapshotId};
use crate::record::Entry;
use crate::sim::disk::snapshots::Snapshot;
use crate::sim::disk::statistics::{DiskFault, FaultEffect};
use crate::sim::rng::Rng;
use crate::storage::{Expected, Log, LogOptions, PeerRecords, SharedDisk, Snapshots, StorageError};
use crate::types::{EntryId, NodeId};

/// Maximum number of disk operations for a reset of the log after a snapshot, a compaction of the
/// log, or the writing of a snapshot.
const COMPACTION_OPERATIONS_MAX: u64 = 30;
/// Maximum number of disk operations for a start that opens the folder, removes a torn block and
/// creates a log segment, but does not reset the log after a snapshot.
const OPEN_OPERATIONS_MAX: u64 = 26;
/// Maximum number of disk operations for a start that opens the folder, removes a torn block,
/// creates a log segment and resets the log after a snapshot.
const OPEN_RESTART_OPERATIONS_MAX: u64 = 46;
/// Maximum number of disk operations for a start that also repairs the folder.
const OPEN_REPAIR_OPERATIONS_MAX: u64 = 80;

/// The state that a replica finds in its folder at a start.
#[derive(Debug)]
pub(in crate::sim) struct Found {
    pub(in crate::sim) durable: Durable,
    /// The snapshot that was loaded: its id, and the state machine decoded from it; `None` if there
    /// is no snapshot.
    pub(in crate::sim) snapshot: Option<(SnapshotId, StateMachine)>,
    /// Whether the loaded snapshot may be older than the latest one, because files were damaged.
    pub(in crate::sim) may_be_older: bool,
    /// If the replica is rejoining: the entry before the first one in its log, and all entries of
    /// the log, which may begin before the end of the snapshot.
    pub(in crate::sim) log: Option<(EntryId, Vec<Entry>)>,
}

/// The outcome of opening a simulated replica's folder at a start.
#[derive(Debug)]
pub(in crate::sim) enum Opening {
    /// The folder was opened, with this content.
    Opened(Box<Found>),
    /// The folder was not opened because the disk is full.
    DiskFull,
    /// The folder was refused with this error, correctly, because files were damaged.
    Refused(StorageError),
    /// The storage code misbehaved, as this text describes: it refused an undamaged folder, or did
    /// not detect damage.
    Violation(String),
}

/// The disk operations in progress when a replica's process ends.
#[derive(Debug, Clone)]
pub(in crate::sim) struct Work<'a, J> {
    /// The jobs (log writes) that the current sync covers.
    pub(in crate::sim) jobs: J,
    /// The latest durable snapshot; `None` if there is none.
    pub(in crate::sim) latest: Option<SnapshotId>,
    /// The replica's own snapshot that is being written; `None` if there is none.
    pub(in crate::sim) own: Option<&'a Snapshot>,
    /// Whether the process has already stopped because of a disk error.
    pub(in crate::sim) stopped: bool,
}

impl Folder {
    /// Ends the replica's process with a random fault (a kill, a power cut, a failed disk operation
    /// or a full disk) at a random disk operation of `work`.
    pub(in crate::sim) fn crash<'a, J>(&mut self, work: &Work<'a, J>, rng: &mut Rng)
    where
        J: Iterator<Item = &'a AppendJob> + Clone,
    {
        let opened = self.process().log.identity().incarnation;
        let fails = !work.stopped && self.fail_during_work(work, rng);
        self.process = None;
        let killed = fails || rng.permille(if work.stopped { 700 } else { 300 });
        self.stop(killed, rng);
        if rng.permille(400) && !self.new_faults.iter().any(|kind| kind.is_damage()) {
            self.copy = Some((self.disk.disk().copy(), opened));
        }
    }

    /// Performs the disk operations of `work` until a randomly chosen fault occurs. Returns true if
    /// the fault is a failed operation or a full disk, and false if it is a power cut.
    fn fail_during_work<'a, J>(&mut self, work: &Work<'a, J>, rng: &mut Rng) -> bool
    where
        J: Iterator<Item = &'a AppendJob> + Clone,
    {
        // The log may be compacted up to the snapshot, whether or not the replica has requested it.
        let compacted = work.latest.filter(|_| rng.permille(700));
        let truncates = compacted.is_some()
            || work.own.is_some()
            || self.process().incoming.is_some()
            || work.jobs.clone().any(|job| job.restart_after.is_some());
        let longest = if truncates { COMPACTION_OPERATIONS_MAX } else { SYNC_OPERATIONS_MAX };
        let limit = if rng.permille(if truncates { 300 } else { 800 }) { 3 } else { longest };
        let operations = rng.below(limit + 1);
        let fails = match rng.below(10) {
            0 => {
                self.fill(rng);
                true
            }
            1 | 2 => {
                self.disk.disk().fail_in(operations);
                true
            }
            3 => {
                self.disk.disk().fail_next_dir_sync();
                true
            }
            _ => {
                self.disk.disk().power_cut_in(operations);
                false
            }
        };
        // The order is random. If the fault does not occur during the work, it occurs afterwards.
        let mut parts = [0, 1, 2, 3];
        rng.shuffle(&mut parts);
        let done = parts.iter().try_for_each(|part| match (part, compacted, work.own) {
            (0, ..) => self.try_sync(work.jobs.clone()),
            (1, Some(latest), _) => self.process().log.compact_to(latest.last.index),
            (2, _, Some(own)) => self.try_write_snapshot(own),
            (3, ..) => self.try_install().map(drop),
            _ => Ok(()),
        });
        self.free_space();
        if let Err(error) = done {
            self.statistics.interrupted_compactions += u64::from(truncates);
            if fails && !matches!(error, StorageError::Snapshot { .. }) {
                self.count_stop();
            }
        }
        fails
    }

    /// Ends the replica's process: by a kill, which loses no writes, if `killed` is true; otherwise
    /// by a power cut.
    pub(super) fn stop(&mut self, killed: bool, rng: &mut Rng) {
        let kind = if killed { DiskFault::Kill } else { DiskFault::PowerCut };
        if killed {
            self.disk.disk().kill();
        } else {
            self.disk.disk().restart(&mut |states| rng.index(states));
        }
        self.statistics.inject(kind, 1);
        self.add_fault(kind);
        self.collect_faults();
    }

    /// Opens the folder for a start of the replica, whose latest snapshot is `latest`. If
    /// `may_corrupt` is true, first corrupts files at random, and interrupts some attempts to open
    /// the folder by faults. `log_holds_latest` says whether the log contains the last entry of the
    /// latest snapshot.
    pub(in crate::sim) fn open(
        &mut self,
        latest: Option<SnapshotId>,
        may_corrupt: bool,
        log_holds_latest: bool,
        rng: &mut Rng,
    ) -> Opening {
        // Opening a folder is most difficult if a killed process has left unsynced file names.
        while may_corrupt && rng.permille(if self.has_unsynced_names() { 800 } else { 200 }) {
            self.interrupt_opening(latest, rng);
        }
        let may_damage = may_corrupt
            && self.spared != Spared::Files
            && !self.is_refused
            && !self.is_half_repaired
            && !self.discards_state;
        let damage = if may_damage && rng.permille(200) {
            self.corrupt(log_holds_latest, rng)
        } else {
            None
        };
        // A repair must be safe to interrupt.
        while (damage.is_some() || self.discards_state) && rng.permille(300) {
            self.interrupt_opening(latest, rng);
        }
        let has_lost_notes = self.has_lost_notes();
        let opened = open_folder(&self.disk, self.replica, self.options);
        self.collect_faults();
        let was_refused = std::mem::take(&mut self.is_refused);
        let is_damaged = self.needs_repair();
        match opened {
            Ok(opened) => {
                if has_lost_notes || opened.process.notes.damage().is_some() {
                    // The storage code rebuilds the peer records, without what it had recorded of
                    // peers before.
                    self.noted.clear();
                }
                let detected = opened.damaged_snapshots > 0 || opened.log.is_some();
                let is_repaired = opened.log.is_some();
                if let Some(damage) =
                    damage.filter(|it| it.in_log && !is_repaired || it.in_latest && !detected)
                {
                    return Opening::Violation(format!("{} was not detected", damage.what));
                }
                Opening::Opened(Box::new(self.on_opened(opened)))
            }
            Err(error) if error.is_disk_full() => {
                self.is_refused = was_refused;
                self.is_half_repaired |= is_damaged;
                Opening::DiskFull
            }
            Err(error) if is_damaged && error.is_damage() => {
                self.is_refused = true;
                if !was_refused {
                    for &kind in self.new_faults.iter().filter(|kind| kind.is_damage()) {
                        self.statistics.cause(kind, FaultEffect::Refused);
                    }
                }
                Opening::Refused(error)
            }
            Err(error) => {
                let what =
                    damage.map_or_else(|| "an undamaged folder".to_owned(), |damage| damage.what);
                Opening::Violation(format!("{what} was refused with an unrelated error: {error}"))
            }
        }
    }

    /// Hands the opened files to the running replica, and adds to the fault statistics how earlier
    /// faults affected this start. Returns the log and the snapshot found in the folder.
    fn on_opened(&mut self, opened: Opened) -> Found {
        let Opened { process, durable, snapshot, damaged_snapshots, log } = opened;
        let damaged = self.new_faults.iter().any(|kind| kind.is_damage());
        let effect = if damaged && log.is_some() {
            FaultEffect::Repaired
        } else if damaged_snapshots > 0 {
            FaultEffect::OlderSnapshot
        } else if process.log.stats().torn_bytes > 0 {
            FaultEffect::TailRemoved
        } else {
            FaultEffect::Intact
        };
        self.old_faults = std::mem::take(&mut self.new_faults);
        for &kind in &self.old_faults {
            let of_damage = matches!(effect, FaultEffect::OlderSnapshot | FaultEffect::Repaired);
            if kind.is_damage() == of_damage || effect == FaultEffect::Intact {
                self.statistics.cause(kind, effect);
            }
        }
        self.process = Some(process);
        self.is_half_repaired = false;
        self.forget_undamaged();
        let discarded = std::mem::take(&mut self.discards_state);
        let may_be_older = damaged || discarded;
        Found { durable, snapshot, may_be_older, log }
    }

    /// Returns whether a start removes damaged files, or snapshots with a wrong state.
    fn needs_repair(&self) -> bool {
        self.discards_state || self.new_faults.iter().any(|kind| kind.is_damage())
    }

    pub(super) fn has_unsynced_names(&self) -> bool {
        self.disk.disk().has_unsynced_names()
    }

    /// Opens the folder while a power cut or a failed operation occurs at a random disk operation,
    /// and then ends the process.
    fn interrupt_opening(&mut self, latest: Option<SnapshotId>, rng: &mut Rng) {
        let is_damaged = self.needs_repair();
        let longest = match latest {
            _ if is_damaged => OPEN_REPAIR_OPERATIONS_MAX,
            Some(_) => OPEN_RESTART_OPERATIONS_MAX,
            None => OPEN_OPERATIONS_MAX,
        };
        let unsynced = self.has_unsynced_names();
        let operations = rng.below(if unsynced { 4 } else { longest });
        let fails = !unsynced && rng.permille(300);
        if fails {
            self.disk.disk().fail_in(operations);
        } else {
            self.disk.disk().power_cut_in(operations);
        }
        let opened = open_folder(&self.disk, self.replica, self.options);
        self.is_half_repaired |= is_damaged && !opened.as_ref().is_err_and(StorageError::is_damage);
        if opened.is_err() {
            self.statistics.inject(DiskFault::CutOpening, 1);
            self.add_fault(DiskFault::CutOpening);
        }
        drop(opened);
        self.stop(fails, rng);
    }
}

/// An opened folder: its open files, and the contents found in them.
pub(super) struct Opened {
    pub(super) process: Process,
    pub(super) durable: Durable,
    pub(super) snapshot: Option<(SnapshotId, StateMachine)>,
    damaged_snapshots: usize,
    /// If the replica is rejoining: the entry before the first one in its log, and all entries of
    /// the log.
    pub(super) log: Option<(EntryId, Vec<Entry>)>,
}

/// Returns whether a start with this folder would find the replica's votes lost.
pub(super) fn would_lose_votes(folder: &SharedDisk, replica: NodeId, options: LogOptions) -> bool {
    let opened = open_folder(folder, replica, options);
    opened.is_ok_and(|opened| opened.durable.loss == Some(Loss::Votes))
}

/// Opens a simulated replica's folder with the storage code of the server.
pub(super) fn open_folder(
    folder: &SharedDisk,
    replica: NodeId,
    options: LogOptions,
) -> Result<Opened, StorageError> {
    let expected = Expected { cluster: Some(CLUSTER), replica, members: None };
    let mut recovered = Log::recover(folder.clone(), options, &expected)?;
    let mut snapshots = Snapshots::open(folder.clone())?;
    let loaded = snapshots.load(|| loader(folder))?;
    let latest = loaded.latest.as_ref().map(|(id, _)| *id);
    recovered.check_snapshot(latest)?;
    let notes = PeerRecords::open(folder.clone(), recovered.identity())?;
    let (log, durable) = recovered.open(latest)?;
    let again =
        durable.loss.map(|_| Log::recover(folder.clone(), options, &expected)).transpose()?;
    let whole_log = again.map(|again| {
        let (base, entries) = again.entries();
        (base, entries.to_vec())
    });
    let process = Process { log, snapshots, notes, incoming: None, outgoing: BTreeMap::new() };
    let damaged_snapshots = loaded.damaged.len();
    Ok(Opened { process, durable, snapshot: loaded.latest, damaged_snapshots, log: whole_log })
}
