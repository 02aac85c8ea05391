//! The end of a process and its next start: crashes during disk operations, and recovery.

use std::collections::BTreeMap;

use super::snapshot_files::loader;
use super::{CLUSTER, Folder, Process, SYNC_OPERATIONS_MAX};
use crate::kv::StateMachine;
use crate::raft::{AppendJob, Durable, SnapshotId};
use crate::sim::disk::snapshots::Snapshot;
use crate::sim::disk::statistics::{DiskFault, FaultEffect};
use crate::sim::rng::Rng;
use crate::storage::{Expected, Log, LogOptions, PeerRecords, SharedDisk, Snapshots, StorageError};
use crate::types::NodeId;

/// Disk operations of the longest log restart, compaction, or snapshot write.
const COMPACTION_OPERATIONS_MAX: u64 = 30;
/// Disk operations of the longest opening: one that removes a torn block and begins a segment. The
/// second limit includes a log restart after a snapshot.
const OPEN_OPERATIONS_MAX: u64 = 26;
const OPEN_RESTART_OPERATIONS_MAX: u64 = 46;

/// The content found in a folder.
#[derive(Debug)]
pub(in crate::sim) struct Found {
    pub(in crate::sim) durable: Durable,
    /// The snapshot to start from, with its state.
    pub(in crate::sim) snapshot: Option<(SnapshotId, StateMachine)>,
    /// Whether the snapshot may be older than the latest one because files were damaged.
    pub(in crate::sim) may_be_older: bool,
}

/// The outcome of opening a folder.
#[derive(Debug)]
pub(in crate::sim) enum Opening {
    /// The folder was opened.
    Opened(Box<Found>),
    /// The disk is full.
    DiskFull,
    /// The folder was damaged and is refused, as it must be.
    Refused(StorageError),
    /// An undamaged folder was refused, or damage was not detected.
    Violation(String),
}

/// Work in progress when a process ends.
#[derive(Debug, Clone)]
pub(in crate::sim) struct Work<'a, J> {
    /// The jobs of the sync in progress.
    pub(in crate::sim) jobs: J,
    /// The latest durable snapshot.
    pub(in crate::sim) latest: Option<SnapshotId>,
    /// The snapshot being written.
    pub(in crate::sim) own: Option<&'a Snapshot>,
    /// Whether the process had already stopped itself.
    pub(in crate::sim) stopped: bool,
}

impl Folder {
    /// Ends the process by a random fault at a random operation of its work: a kill, a power cut, a
    /// failed operation or a full disk.
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
            self.copy = Some((self.folder.disk().copy(), opened));
        }
    }

    /// Performs the work until a random fault. Returns true if an operation failed, and false if
    /// the power was cut.
    fn fail_during_work<'a, J>(&mut self, work: &Work<'a, J>, rng: &mut Rng) -> bool
    where
        J: Iterator<Item = &'a AppendJob> + Clone,
    {
        // The log may be compacted behind the snapshot whether the replica has requested it or not.
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
                self.folder.disk().fail_in(operations);
                true
            }
            3 => {
                self.folder.disk().fail_next_dir_sync();
                true
            }
            _ => {
                self.folder.disk().power_cut_in(operations);
                false
            }
        };
        // The order is random. If the fault does not occur during the work, it comes after it.
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

    /// Records the end of the process, by a kill or by a power cut.
    pub(super) fn stop(&mut self, killed: bool, rng: &mut Rng) {
        let kind = if killed { DiskFault::Kill } else { DiskFault::PowerCut };
        if killed {
            self.folder.disk().kill();
        } else {
            self.folder.disk().restart(&mut |states| rng.index(states));
        }
        self.statistics.inject(kind, 1);
        self.add_fault(kind);
        self.collect_faults();
    }

    /// Opens the folder. With `may_corrupt`, files may be corrupted first, and the opening may be
    /// cut short and repeated. `log_holds_latest`: the log contains the last entry of the latest
    /// snapshot.
    pub(in crate::sim) fn open(
        &mut self,
        latest: Option<SnapshotId>,
        may_corrupt: bool,
        log_holds_latest: bool,
        rng: &mut Rng,
    ) -> Opening {
        // File names that a killed process has not synced are the difficult case for an opening.
        while may_corrupt && rng.permille(if self.has_unsynced_names() { 800 } else { 200 }) {
            self.interrupt_opening(latest, rng);
        }
        let damage = if may_corrupt && !self.is_refused && rng.permille(200) {
            self.corrupt(log_holds_latest, rng)
        } else {
            None
        };
        let has_lost_notes = self.has_lost_notes();
        let opened = open_folder(&self.folder, self.replica, self.options);
        self.collect_faults();
        let was_refused = std::mem::take(&mut self.is_refused);
        let is_damaged = self.new_faults.iter().any(|kind| kind.is_damage());
        match opened {
            Ok(opened) => {
                if has_lost_notes || opened.process.notes.damage().is_some() {
                    // The peer records are rebuilt, without earlier peers.
                    self.noted.clear();
                }
                let detected = opened.damaged_snapshots > 0;
                if let Some(damage) = damage.filter(|it| it.in_log || it.in_latest && !detected) {
                    return Opening::Violation(format!("{} was not detected", damage.what));
                }
                Opening::Opened(Box::new(self.on_opened(opened)))
            }
            Err(error) if error.is_disk_full() => {
                self.is_refused = was_refused;
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

    /// Records the effects of earlier faults after a successful opening.
    fn on_opened(&mut self, opened: Opened) -> Found {
        let Opened { process, durable, snapshot, damaged_snapshots } = opened;
        let damaged = self.new_faults.iter().any(|kind| kind.is_damage());
        let effect = if damaged_snapshots > 0 {
            FaultEffect::OlderSnapshot
        } else if process.log.stats().torn_bytes > 0 {
            FaultEffect::TailRemoved
        } else {
            FaultEffect::Intact
        };
        self.old_faults = std::mem::take(&mut self.new_faults);
        for &kind in &self.old_faults {
            let of_damage = effect == FaultEffect::OlderSnapshot;
            if kind.is_damage() == of_damage || effect == FaultEffect::Intact {
                self.statistics.cause(kind, effect);
            }
        }
        self.process = Some(process);
        self.forget_undamaged();
        Found { durable, snapshot, may_be_older: damaged }
    }

    pub(super) fn has_unsynced_names(&self) -> bool {
        self.folder.disk().has_unsynced_names()
    }

    /// Opens the folder, with a power cut or a failed operation on the way.
    fn interrupt_opening(&mut self, latest: Option<SnapshotId>, rng: &mut Rng) {
        let longest = latest.map_or(OPEN_OPERATIONS_MAX, |_| OPEN_RESTART_OPERATIONS_MAX);
        let unsynced = self.has_unsynced_names();
        let operations = rng.below(if unsynced { 4 } else { longest });
        let fails = !unsynced && rng.permille(300);
        if fails {
            self.folder.disk().fail_in(operations);
        } else {
            self.folder.disk().power_cut_in(operations);
        }
        let opened = open_folder(&self.folder, self.replica, self.options);
        if opened.is_err() {
            self.statistics.inject(DiskFault::CutOpening, 1);
            self.add_fault(DiskFault::CutOpening);
        }
        drop(opened);
        self.stop(fails, rng);
    }
}

/// An opened folder.
pub(super) struct Opened {
    pub(super) process: Process,
    pub(super) durable: Durable,
    pub(super) snapshot: Option<(SnapshotId, StateMachine)>,
    damaged_snapshots: usize,
}

/// Opens a folder like the server.
pub(super) fn open_folder(
    folder: &SharedDisk,
    replica: NodeId,
    options: LogOptions,
) -> Result<Opened, StorageError> {
    let expected = Expected { cluster: Some(CLUSTER), replica, members: None };
    let recovered = Log::recover(folder.clone(), options, &expected)?;
    let mut snapshots = Snapshots::open(folder.clone())?;
    let loaded = snapshots.load(|| loader(folder))?;
    let latest = loaded.latest.as_ref().map(|(id, _)| *id);
    recovered.check_snapshot(latest)?;
    let notes = PeerRecords::open(folder.clone(), recovered.identity())?;
    let (log, durable) = recovered.open(latest)?;
    let process = Process { log, snapshots, notes, incoming: None, outgoing: BTreeMap::new() };
    let damaged_snapshots = loaded.damaged.len();
    Ok(Opened { process, durable, snapshot: loaded.latest, damaged_snapshots })
}
