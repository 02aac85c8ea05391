//! A simulated replica's folder: the storage code that ships, log, snapshots and notes, over one
//! disk in memory that tears at a crash what was not synced, whose operations fail, that is full,
//! and that rots. What goes wrong at rest is in `rot`.
//!
//! The calls are those that the server's stages make, in their order; who calls is `machine` for
//! the log and `cluster` for all else.

mod corruption;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::config::Mutant;
use crate::kv::StateMachine;
use crate::raft::{AppendJob, ChunkStored, Durable, SnapshotChunk, SnapshotId};
use crate::sim::disk::snapshots::Snapshot;
use crate::sim::disk::statistics::{DiskFault, FaultEffect, FaultStatistics};
use crate::sim::rng::Rng;
use crate::snapshot_check::{SnapshotLoader, SnapshotVerifier};
use crate::storage::{
    AppendFault, Disk as _, DiskFaultCounts, Expected, Log, LogOptions, MemDisk, OpeningHistory,
    PeerRecords, SharedDisk, SnapshotSource, SnapshotWriter, Snapshots, StorageError,
};
use crate::types::NodeId;

/// The cluster that all simulated replicas belong to.
const CLUSTER: u128 = 0x0051_BB1E;
/// Operations of the longest sync, which begins a segment and replaces the meta record for it.
const SYNC_OPERATIONS_MAX: u64 = 12;
/// The same where the log begins anew behind a snapshot or its first segments are deleted, or a
/// snapshot is written.
const CUT_OPERATIONS_MAX: u64 = 30;
/// Operations of the longest opening: the traces of a torn block removed, a segment begun, and
/// another for a log that begins anew.
const OPEN_OPERATIONS_MAX: u64 = 26;
const OPEN_ANEW_OPERATIONS_MAX: u64 = 46;
/// How many openings simulated replicas remember: few, so that copies are started more often than
/// that; and more than a replica is started while another one is down.
const OPENINGS_KEPT: usize = 48;
/// Bytes of a snapshot that are written at once.
const PIECE_BYTES: usize = 700;

/// A leader's snapshot, as far as it has come.
#[derive(Debug)]
struct Incoming {
    id: SnapshotId,
    /// `None` once it is whole.
    file: Option<SnapshotWriter<usize>>,
    received: u64,
}

/// What a running replica has open.
#[derive(Debug)]
struct Process {
    log: Log<SharedDisk>,
    snapshots: Snapshots<SharedDisk>,
    notes: PeerRecords<SharedDisk>,
    incoming: Option<Incoming>,
    /// Which snapshot each follower is being sent.
    outgoing: BTreeMap<NodeId, SnapshotId>,
}

/// What a folder was found to hold.
#[derive(Debug)]
pub(in crate::sim) struct Found {
    pub(in crate::sim) durable: Durable,
    /// The snapshot that it starts with, and the state in it.
    pub(in crate::sim) snapshot: Option<(SnapshotId, StateMachine)>,
    /// Snapshots, or the log, are damaged so that an older snapshot may be what is left.
    pub(in crate::sim) may_be_older: bool,
}

/// What came of an attempt to open a folder.
#[derive(Debug)]
pub(in crate::sim) enum Opening {
    /// It holds this.
    Holds(Box<Found>),
    /// There is no room for what an opening writes.
    NoRoom,
    /// It was damaged, and is refused as it must be.
    Refused(StorageError),
    /// It is refused without having been damaged, or damage was not noticed.
    Broken(String),
}

/// What was under way when a process ended.
#[derive(Debug, Clone)]
pub(in crate::sim) struct Work<'a, J> {
    /// Jobs of the sync under way.
    pub(in crate::sim) jobs: J,
    /// The latest snapshot that is durable.
    pub(in crate::sim) latest: Option<SnapshotId>,
    /// One that is being written.
    pub(in crate::sim) own: Option<&'a Snapshot>,
    /// The process ended itself: it does nothing more.
    pub(in crate::sim) stopped: bool,
}

/// The folder.
#[derive(Debug)]
pub(in crate::sim) struct Files {
    folder: SharedDisk,
    /// `None` while the replica is down.
    process: Option<Process>,
    replica: NodeId,
    options: LogOptions,
    pub(in crate::sim) statistics: FaultStatistics,
    /// What the disk counted when it was last looked at.
    seen: DiskFaultCounts,
    /// What went wrong since the folder was last opened.
    since: Vec<DiskFault>,
    /// What had gone wrong before that.
    before: Vec<DiskFault>,
    /// Files as they were before they were damaged.
    undamaged: Vec<(String, Vec<u8>)>,
    /// The last attempt to open it was refused.
    is_refused: bool,
    /// The folder as it was once when the replica was down, and how often it had been opened.
    copy: Option<(MemDisk, u64)>,
    /// A snapshot was no whole one, though this disk has written it as it was.
    bad_snapshot: Option<String>,
    /// Snapshots that were to be finished: each may be found at the next start.
    finished: Vec<SnapshotId>,
    /// Which opening of each peer was durably noted last.
    noted: BTreeMap<NodeId, u64>,
}

impl Files {
    /// The folder of a replica that has never run.
    pub(in crate::sim) fn new(replica: NodeId, members: &[NodeId], segment_bytes: u64) -> Files {
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, CLUSTER, replica, members).expect("memory does not fail");
        Files {
            folder: SharedDisk::new(disk),
            process: None,
            replica,
            options: LogOptions { segment_bytes, openings_kept: OPENINGS_KEPT },
            statistics: FaultStatistics::default(),
            seen: DiskFaultCounts::default(),
            since: Vec::new(),
            before: Vec::new(),
            undamaged: Vec::new(),
            is_refused: false,
            copy: None,
            bad_snapshot: None,
            finished: Vec::new(),
            noted: BTreeMap::new(),
        }
    }

    /// Has it break a rule.
    #[cfg(feature = "mutants")]
    pub(in crate::sim) fn set_mutant(&mut self, mutant: Option<Mutant>) {
        self.folder.disk().set_mutant(mutant);
    }

    /// Whether its damage was the last that was seen of it.
    pub(in crate::sim) fn is_refused(&self) -> bool {
        self.is_refused
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the replica runs")
    }

    // What goes wrong.

    /// Lets an operation fail soon.
    pub(in crate::sim) fn fail_soon(&mut self, rng: &mut Rng) {
        self.folder.disk().fail_in(rng.below(SYNC_OPERATIONS_MAX));
    }

    /// There is only a little room from now on, until [`Files::make_room`].
    pub(in crate::sim) fn fill(&mut self, rng: &mut Rng) {
        let mut disk = self.folder.disk();
        let used = disk.used_bytes();
        disk.set_capacity(Some(used + rng.below(3_000)));
    }

    /// There is room again.
    pub(in crate::sim) fn make_room(&mut self) {
        self.folder.disk().set_capacity(None);
    }

    /// Lets the next write of a snapshot go wrong without anybody's being told.
    pub(in crate::sim) fn spoil_snapshot(&mut self, rng: &mut Rng) {
        let all = [AppendFault::FlippedBit, AppendFault::Lost, AppendFault::Misdirected];
        self.folder.disk().corrupt_next_append(*rng.pick(&all));
    }

    /// Nothing is to go wrong any more, and what was damaged is as it was.
    pub(in crate::sim) fn calm(&mut self) {
        self.folder.disk().clear_faults();
        self.restore();
    }

    /// Takes down what the disk has counted since the last look; true if there was an error.
    fn look(&mut self) {
        let now = self.folder.disk().fault_counts();
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
                self.note(kind);
            }
        }
    }

    fn note(&mut self, kind: DiskFault) {
        if !self.since.contains(&kind) {
            self.since.push(kind);
        }
    }

    /// The process ends since its disk failed.
    fn stopped(&mut self) {
        self.look();
        for kind in [
            DiskFault::FailedWrite,
            DiskFault::FailedSync,
            DiskFault::FailedNames,
            DiskFault::FullDisk,
        ] {
            if self.since.contains(&kind) {
                self.statistics.cause(kind, FaultEffect::Stopped);
            }
        }
    }

    /// Of a fatal error it is noted what it came from.
    fn fatal<T>(&mut self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if result.is_err() {
            self.stopped();
        }
        result
    }

    // The log.

    /// Makes the jobs durable, as the log writer stage does it: all of them in one sync.
    pub(in crate::sim) fn sync<'a>(
        &mut self,
        jobs: impl Iterator<Item = &'a AppendJob>,
    ) -> Result<(), StorageError> {
        let synced = self.try_sync(jobs);
        self.fatal(synced)
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

    // The snapshots stage.

    /// Writes one of the replica's own state. False if it had to be given up.
    ///
    /// # Errors
    /// If the process must end.
    pub(in crate::sim) fn save(&mut self, snapshot: &Snapshot) -> Result<bool, StorageError> {
        let saved = self.try_save(snapshot);
        self.bearable(saved).map(|saved| saved.is_some())
    }

    fn try_save(&mut self, snapshot: &Snapshot) -> Result<(), StorageError> {
        let Process { snapshots, outgoing, .. } = self.process.as_mut().expect("the replica runs");
        let mut file = snapshots.begin(SnapshotSource::Own)?;
        for piece in snapshot.bytes.chunks(PIECE_BYTES) {
            if let Err(error) = snapshots.write(&mut file, piece) {
                snapshots.abandon(file)?;
                return Err(error);
            }
        }
        hold(snapshots, outgoing);
        self.finished.push(snapshot.id);
        snapshots.finish(file, snapshot.id, look(&self.folder))?;
        snapshots.drop_previous()?;
        self.statistics.taken += 1;
        Ok(())
    }

    /// `None` in place of an error with which the snapshots stage goes on.
    fn bearable<T>(&mut self, result: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(error)
                if error.is_disk_full() || matches!(error, StorageError::Snapshot { .. }) =>
            {
                self.look();
                let kind = if error.is_disk_full() {
                    DiskFault::FullDisk
                } else if self.since.contains(&DiskFault::BadSnapshotWrite) {
                    DiskFault::BadSnapshotWrite
                } else {
                    // Another replica's, if anything is wrong at all.
                    self.bad_snapshot = Some(error.to_string());
                    DiskFault::RottenSnapshot
                };
                self.statistics.cause(kind, FaultEffect::GivenUp);
                Ok(None)
            }
            Err(error) => {
                self.stopped();
                Err(error)
            }
        }
    }

    /// Takes in a chunk. What to tell the core, and whether all are here now.
    ///
    /// # Errors
    /// If the process must end.
    pub(in crate::sim) fn store_chunk(
        &mut self,
        chunk: &SnapshotChunk,
    ) -> Result<Option<(ChunkStored, bool)>, StorageError> {
        let stored = self.try_store_chunk(chunk);
        self.bearable(stored)
    }

    fn try_store_chunk(
        &mut self,
        chunk: &SnapshotChunk,
    ) -> Result<(ChunkStored, bool), StorageError> {
        let SnapshotChunk { term, snapshot, round, offset, ref chunk } = *chunk;
        let mixes = self.folder.mutant() == Some(Mutant::MixChunks);
        let is_another = |incoming: &Incoming| incoming.id != snapshot && !mixes;
        if self.process().incoming.as_ref().is_none_or(is_another) {
            self.forget_incoming()?;
            let process = self.process();
            let file = Some(process.snapshots.begin(SnapshotSource::Incoming)?);
            process.incoming = Some(Incoming { id: snapshot, file, received: 0 });
        }
        let Process { snapshots, incoming, .. } = self.process();
        let there = incoming.as_mut().expect("it was put there if it was not");
        if let Some(file) = &mut there.file
            && there.received == offset
            && !chunk.is_empty()
        {
            if let Err(error) = snapshots.write(file, chunk) {
                self.forget_incoming()?;
                return Err(error);
            }
            there.received += chunk.len() as u64;
        }
        let whole = there.file.is_some() && there.received == snapshot.bytes;
        Ok((ChunkStored { term, snapshot, round, received: there.received }, whole))
    }

    fn forget_incoming(&mut self) -> Result<(), StorageError> {
        let Process { snapshots, incoming, .. } = self.process();
        match incoming.take() {
            Some(Incoming { file: Some(file), .. }) => snapshots.abandon(file),
            _ => Ok(()),
        }
    }

    /// Makes the leader's snapshot durable if it is whole, and reads it.
    ///
    /// # Errors
    /// If the process must end.
    pub(in crate::sim) fn install(
        &mut self,
    ) -> Result<Option<(SnapshotId, StateMachine)>, StorageError> {
        let installed = self.try_install();
        let installed = self.bearable(installed)?.flatten();
        if installed.is_some() {
            self.statistics.taken_in += 1;
            for kind in std::mem::take(&mut self.before) {
                self.statistics.cause(kind, FaultEffect::CaughtUp);
            }
        }
        Ok(installed)
    }

    fn try_install(&mut self) -> Result<Option<(SnapshotId, StateMachine)>, StorageError> {
        let Process { snapshots, outgoing, incoming, .. } =
            self.process.as_mut().expect("the replica runs");
        let Some(there) = incoming.as_mut().filter(|it| it.received == it.id.bytes) else {
            // Another one has begun meanwhile.
            return Ok(None);
        };
        let (id, Some(file)) = (there.id, there.file.take()) else { return Ok(None) };
        hold(snapshots, outgoing);
        self.finished.push(id);
        let finished = snapshots.finish(file, id, load(&self.folder));
        if finished.is_err() {
            // It comes again, from the beginning.
            *incoming = None;
        }
        let store = finished?;
        snapshots.drop_previous()?;
        Ok(Some((id, store)))
    }

    /// How a snapshot was no whole one, though this disk has written it as it was.
    pub(in crate::sim) fn take_bad_snapshot(&mut self) -> Option<String> {
        self.bad_snapshot.take()
    }

    /// Snapshots that were to be finished since this was last asked.
    pub(in crate::sim) fn take_finished(&mut self) -> Vec<SnapshotId> {
        std::mem::take(&mut self.finished)
    }

    /// A chunk for a follower, if the snapshot can be read.
    pub(in crate::sim) fn read_chunk(
        &mut self,
        to: NodeId,
        id: SnapshotId,
        offset: u64,
        bytes_max: usize,
    ) -> Option<Bytes> {
        let Process { snapshots, outgoing, .. } = self.process.as_mut()?;
        outgoing.insert(to, id);
        snapshots.read(id, offset, bytes_max).ok().flatten()
    }

    /// Whether a snapshot that a follower threw away is the latest, and damaged.
    pub(in crate::sim) fn is_lost(&mut self, id: SnapshotId) -> bool {
        let lost = self
            .process
            .as_mut()
            .is_some_and(|process| process.snapshots.recheck(id, look(&self.folder)).is_err());
        if lost {
            self.statistics.cause(DiskFault::RottenSnapshot, FaultEffect::Replaced);
        }
        lost
    }

    /// Whether it was found to be lost, and none has taken its place yet.
    pub(in crate::sim) fn is_lost_still(&self, id: SnapshotId) -> bool {
        self.process.as_ref().is_some_and(|process| process.snapshots.is_lost(id))
    }

    // Peers.

    /// A peer calls for the first time since it or this replica started. Whether it is believed.
    ///
    /// # Errors
    /// If the process must end.
    pub(in crate::sim) fn hear(
        &mut self,
        peer: NodeId,
        incarnation: u64,
        openings: &[u64],
    ) -> Result<bool, StorageError> {
        let notes = &mut self.process().notes;
        let history = OpeningHistory { incarnation, openings };
        let Ok(sighting) = notes.check(peer, history, OPENINGS_KEPT) else { return Ok(false) };
        match notes.note(sighting) {
            Ok(()) => {
                self.noted.insert(peer, incarnation);
            }
            // It is remembered, and written with the next one.
            Err(error) if error.is_disk_full() => self.look(),
            Err(error) => {
                self.stopped();
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Whose folder it is, and what its last openings drew.
    pub(in crate::sim) fn opening(&self) -> (u64, Vec<u64>) {
        let log = &self.process.as_ref().expect("the replica runs").log;
        (log.identity().incarnation, log.openings().to_vec())
    }

    // Crashes and starts.

    /// Ends the process, and perhaps its machine, while it does its work, at a place and in a way
    /// that the rng choose.
    pub(in crate::sim) fn end<'a, J>(&mut self, work: &Work<'a, J>, rng: &mut Rng)
    where
        J: Iterator<Item = &'a AppendJob> + Clone,
    {
        let opened = self.process().log.identity().incarnation;
        let fails = !work.stopped && self.go_wrong_at_work(work, rng);
        self.process = None;
        let killed = fails || rng.chance(if work.stopped { 700 } else { 300 });
        self.stop(killed, rng);
        if rng.chance(400) && !self.since.iter().any(|kind| kind.is_damage()) {
            self.copy = Some((self.folder.disk().copy(), opened));
        }
    }

    /// True if an operation failed, and the power did not.
    fn go_wrong_at_work<'a, J>(&mut self, work: &Work<'a, J>, rng: &mut Rng) -> bool
    where
        J: Iterator<Item = &'a AppendJob> + Clone,
    {
        // What is in the snapshot may go from the files whether the core has asked for it or not.
        let compacted = work.latest.filter(|_| rng.chance(700));
        let cuts = compacted.is_some()
            || work.own.is_some()
            || self.process().incoming.is_some()
            || work.jobs.clone().any(|job| job.restart_after.is_some());
        let longest = if cuts { CUT_OPERATIONS_MAX } else { SYNC_OPERATIONS_MAX };
        let limit = if rng.chance(if cuts { 300 } else { 800 }) { 3 } else { longest };
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
        // Where the trouble comes first that is an error, and else it comes after all work.
        let mut parts = [0, 1, 2, 3];
        rng.shuffle(&mut parts);
        let done = parts.iter().try_for_each(|part| match (part, compacted, work.own) {
            (0, ..) => self.try_sync(work.jobs.clone()),
            (1, Some(latest), _) => self.process().log.compact_to(latest.last.index),
            (2, _, Some(own)) => self.try_save(own),
            (3, ..) => self.try_install().map(drop),
            _ => Ok(()),
        });
        self.make_room();
        if let Err(error) = done {
            self.statistics.cut_short += u64::from(cuts);
            if fails && !matches!(error, StorageError::Snapshot { .. }) {
                self.stopped();
            }
        }
        fails
    }

    /// A process has ended, and perhaps its machine.
    fn stop(&mut self, killed: bool, rng: &mut Rng) {
        let kind = if killed { DiskFault::Kill } else { DiskFault::PowerCut };
        if killed {
            self.folder.disk().kill();
        } else {
            self.folder.disk().restart(&mut |states| rng.place(states));
        }
        self.statistics.inject(kind, 1);
        self.note(kind);
        self.look();
    }

    /// Opens the folder, perhaps with more trouble on the way. With `may_rot` its files may have
    /// been damaged while the replica was down; `log_holds_latest` says whether the log holds the
    /// end of the latest snapshot.
    pub(in crate::sim) fn open(
        &mut self,
        latest: Option<SnapshotId>,
        may_rot: bool,
        log_holds_latest: bool,
        rng: &mut Rng,
    ) -> Opening {
        // Names that a killed process has left as they are in memory only are what an opening must
        // beware of.
        while may_rot && rng.chance(if self.has_unsynced_names() { 800 } else { 200 }) {
            self.cut_opening(latest, rng);
        }
        let damage = if may_rot && !self.is_refused && rng.chance(200) {
            self.rot(log_holds_latest, rng)
        } else {
            None
        };
        let has_lost_notes = self.has_lost_notes();
        let opened = open_folder(&self.folder, self.replica, self.options);
        self.look();
        let was_refused = std::mem::take(&mut self.is_refused);
        let is_damaged = self.since.iter().any(|kind| kind.is_damage());
        match opened {
            Ok(opened) => {
                if has_lost_notes || opened.process.notes.damage().is_some() {
                    // The cache is rebuilt; who was heard before is not known any more.
                    self.noted.clear();
                }
                let noticed = opened.damaged_snapshots > 0;
                if let Some(damage) = damage.filter(|it| it.in_log || it.in_latest && !noticed) {
                    return Opening::Broken(format!("{} is not noticed", damage.what));
                }
                Opening::Holds(Box::new(self.opened(opened)))
            }
            Err(error) if error.is_disk_full() => {
                self.is_refused = was_refused;
                Opening::NoRoom
            }
            Err(error) if is_damaged && error.is_damage() => {
                self.is_refused = true;
                if !was_refused {
                    for &kind in self.since.iter().filter(|kind| kind.is_damage()) {
                        self.statistics.cause(kind, FaultEffect::Refused);
                    }
                }
                Opening::Refused(error)
            }
            Err(error) => {
                let what = damage.map_or_else(|| "a folder".to_owned(), |damage| damage.what);
                Opening::Broken(format!("{what} is refused as something else: {error}"))
            }
        }
    }

    /// It is open. Takes down what became of all that went wrong before.
    fn opened(&mut self, opened: Opened) -> Found {
        let Opened { process, durable, snapshot, damaged_snapshots } = opened;
        let damaged = self.since.iter().any(|kind| kind.is_damage());
        let effect = if damaged_snapshots > 0 {
            FaultEffect::Older
        } else if process.log.stats().torn_bytes > 0 {
            FaultEffect::Cut
        } else {
            FaultEffect::Whole
        };
        self.before = std::mem::take(&mut self.since);
        for &kind in &self.before {
            let of_damage = effect == FaultEffect::Older;
            if kind.is_damage() == of_damage || effect == FaultEffect::Whole {
                self.statistics.cause(kind, effect);
            }
        }
        self.process = Some(process);
        self.forget_undamaged();
        Found { durable, snapshot, may_be_older: damaged }
    }

    fn has_unsynced_names(&self) -> bool {
        self.folder.disk().has_unsynced_names()
    }

    /// Tries to open the folder, and the power fails, or an operation.
    fn cut_opening(&mut self, latest: Option<SnapshotId>, rng: &mut Rng) {
        let longest = latest.map_or(OPEN_OPERATIONS_MAX, |_| OPEN_ANEW_OPERATIONS_MAX);
        let unsynced = self.has_unsynced_names();
        let operations = rng.below(if unsynced { 4 } else { longest });
        let fails = !unsynced && rng.chance(300);
        if fails {
            self.folder.disk().fail_in(operations);
        } else {
            self.folder.disk().power_cut_in(operations);
        }
        let opened = open_folder(&self.folder, self.replica, self.options);
        if opened.is_err() {
            self.statistics.inject(DiskFault::CutOpening, 1);
            self.note(DiskFault::CutOpening);
        }
        drop(opened);
        self.stop(fails, rng);
    }
}

/// Who reads a snapshot and makes a state of it.
fn load(folder: &SharedDisk) -> SnapshotLoader {
    #[cfg(feature = "mutants")]
    if folder.mutant() == Some(Mutant::IgnoreSnapshotChecksum) {
        return SnapshotLoader::trusting();
    }
    let _ = folder;
    SnapshotLoader::default()
}

/// Who only looks whether it is one.
fn look(folder: &SharedDisk) -> SnapshotVerifier {
    #[cfg(feature = "mutants")]
    if folder.mutant() == Some(Mutant::IgnoreSnapshotChecksum) {
        return SnapshotVerifier::trusting();
    }
    let _ = folder;
    SnapshotVerifier::default()
}

/// Has what is being sent stay open when another snapshot is finished.
fn hold(snapshots: &mut Snapshots<SharedDisk>, outgoing: &BTreeMap<NodeId, SnapshotId>) {
    for &id in outgoing.values() {
        // An error shows when there is something to read.
        let _ = snapshots.read(id, 0, 0);
    }
}

/// An open folder.
struct Opened {
    process: Process,
    durable: Durable,
    snapshot: Option<(SnapshotId, StateMachine)>,
    damaged_snapshots: usize,
}

/// Opens a folder as the server does.
fn open_folder(
    folder: &SharedDisk,
    replica: NodeId,
    options: LogOptions,
) -> Result<Opened, StorageError> {
    let expected = Expected { cluster: Some(CLUSTER), replica, members: None };
    let recovered = Log::recover(folder.clone(), options, &expected)?;
    let mut snapshots = Snapshots::open(folder.clone())?;
    let loaded = snapshots.load(|| load(folder))?;
    let latest = loaded.latest.as_ref().map(|(id, _)| *id);
    recovered.check_snapshot(latest)?;
    let notes = PeerRecords::open(folder.clone(), recovered.identity())?;
    let (log, durable) = recovered.open(latest)?;
    let process = Process { log, snapshots, notes, incoming: None, outgoing: BTreeMap::new() };
    let damaged_snapshots = loaded.damaged.len();
    Ok(Opened { process, durable, snapshot: loaded.latest, damaged_snapshots })
}

#[cfg(test)]
mod tests {
    use crate::raft::{AppendJob, HardState};
    use crate::record::{EntryKind, RecordBuffer};
    use crate::sim::disk::{Disk, Started};
    use crate::sim::rng::Rng;
    use crate::types::{EntryId, JobSequence, NodeId, Term};

    /// What a synced disk holds after a crash, or how it broke its promise.
    fn after_crash(lies: bool, seed: u64) -> Result<usize, String> {
        let mut disk = Disk::with_files(NodeId(1), &[NodeId(1)], 4 << 10);
        let (mut latest, mut rng) = (None, Rng::new(seed));
        assert!(matches!(disk.open(&mut latest, &mut rng), Started::With(_)));
        if lies {
            disk.files().expect("it was made with files").folder.disk().ignore_syncs();
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
                rejoined: false,
                release: Vec::new(),
            });
            assert!(disk.begin_sync());
            while disk.end_sync().expect("memory does not fail").is_some() {}
        }
        disk.crash(None, None, &mut rng);
        match disk.open(&mut latest, &mut rng) {
            Started::With(start) => Ok(start.durable.entries.len()),
            Started::NotNow(why) | Started::Broken(why) => Err(why),
        }
    }

    #[test]
    fn a_disk_that_says_synced_and_has_not_is_found_out() {
        assert!((0..20).all(|seed| after_crash(false, seed) == Ok(5)));
        let crashes: Vec<_> = (0..20).map(|seed| after_crash(true, seed)).collect();
        // What got lost is noticed; in about every other crash nothing gets lost.
        assert!(crashes.iter().all(|crash| crash.as_ref().map_or(true, |&entries| entries == 5)));
        let found_out = crashes.iter().filter(|crash| crash.is_err()).count();
        assert!(found_out >= 5, "only {found_out} of 20 crashes show it");
    }
}
