//! A simulated replica's folder: the storage code that ships, log, snapshots and notes, over one
//! disk in memory that tears at a crash what was not synced, whose operations fail, that is full,
//! and that rots. What goes wrong at rest is in `rot`.
//!
//! The calls are those that the server's stages make, in their order; who calls is `machine` for
//! the log and `world` for all else.

mod rot;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::dice::Dice;
use super::snapshots::Snapshot;
use super::tally::{Effect, Kind, Tally};
use crate::config::Mutant;
use crate::kv::Store;
use crate::raft::{AppendJob, ChunkStored, Durable, SnapshotChunk, SnapshotId};
use crate::saved::{Load, Look};
use crate::storage::{
    BadAppend, Disk as _, Expected, History, Log, LogOptions, MemDisk, Mishaps, PeerNotes,
    SharedDisk, SnapshotSource, SnapshotWriter, Snapshots, StorageError,
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
    notes: PeerNotes<SharedDisk>,
    incoming: Option<Incoming>,
    /// Which snapshot each follower is being sent.
    outgoing: BTreeMap<NodeId, SnapshotId>,
}

/// What a folder was found to hold.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) durable: Durable,
    /// The snapshot that it starts with, and the state in it.
    pub(super) snapshot: Option<(SnapshotId, Store)>,
    /// Snapshots, or the log, are damaged so that an older snapshot may be what is left.
    pub(super) may_be_older: bool,
}

/// What came of an attempt to open a folder.
#[derive(Debug)]
pub(super) enum Opening {
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
pub(super) struct Work<'a, J> {
    /// Jobs of the sync under way.
    pub(super) jobs: J,
    /// The latest snapshot that is durable.
    pub(super) latest: Option<SnapshotId>,
    /// One that is being written.
    pub(super) own: Option<&'a Snapshot>,
    /// The process ended itself: it does nothing more.
    pub(super) stopped: bool,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Files {
    folder: SharedDisk,
    /// `None` while the replica is down.
    process: Option<Process>,
    replica: NodeId,
    options: LogOptions,
    pub(super) tally: Tally,
    /// What the disk counted when it was last looked at.
    seen: Mishaps,
    /// What went wrong since the folder was last opened.
    since: Vec<Kind>,
    /// What had gone wrong before that.
    before: Vec<Kind>,
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
    pub(super) fn new(replica: NodeId, members: &[NodeId], segment_bytes: u64) -> Files {
        let mut disk = MemDisk::default();
        Log::bootstrap(&mut disk, CLUSTER, replica, members).expect("memory does not fail");
        Files {
            folder: SharedDisk::new(disk),
            process: None,
            replica,
            options: LogOptions { segment_bytes, openings_kept: OPENINGS_KEPT },
            tally: Tally::default(),
            seen: Mishaps::default(),
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
    pub(super) fn set_mutant(&mut self, mutant: Option<Mutant>) {
        self.folder.disk().set_mutant(mutant);
    }

    /// Whether its damage was the last that was seen of it.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the replica runs")
    }

    // What goes wrong.

    /// Lets an operation fail soon.
    pub(super) fn fail_soon(&mut self, dice: &mut Dice) {
        self.folder.disk().fail_in(dice.below(SYNC_OPERATIONS_MAX));
    }

    /// There is only a little room from now on, until [`Files::make_room`].
    pub(super) fn fill(&mut self, dice: &mut Dice) {
        let mut disk = self.folder.disk();
        let used = disk.used_bytes();
        disk.set_capacity(Some(used + dice.below(3_000)));
    }

    /// There is room again.
    pub(super) fn make_room(&mut self) {
        self.folder.disk().set_capacity(None);
    }

    /// Lets the next write of a snapshot go wrong without anybody's being told.
    pub(super) fn spoil_snapshot(&mut self, dice: &mut Dice) {
        let all = [BadAppend::FlippedBit, BadAppend::Lost, BadAppend::Misdirected];
        self.folder.disk().spoil_append(*dice.pick(&all));
    }

    /// Nothing is to go wrong any more, and what was damaged is as it was.
    pub(super) fn calm(&mut self) {
        self.folder.disk().calm();
        self.restore();
    }

    /// Takes down what the disk has counted since the last look; true if there was an error.
    fn look(&mut self) {
        let now = self.folder.disk().mishaps();
        let before = std::mem::replace(&mut self.seen, now);
        for (kind, count) in [
            (Kind::FailedWrite, now.failed_writes - before.failed_writes),
            (Kind::FailedSync, now.failed_syncs - before.failed_syncs),
            (Kind::FailedNames, now.failed_names - before.failed_names),
            (Kind::FullDisk, now.no_room - before.no_room),
            (Kind::BadSnapshotWrite, now.bad_appends - before.bad_appends),
            (Kind::TornWrite, now.torn - before.torn),
            (Kind::LostUnsynced, now.lost - before.lost),
            (Kind::NameLost, now.names_lost - before.names_lost),
            (Kind::NameBack, now.names_back - before.names_back),
        ] {
            if count > 0 {
                self.tally.inject(kind, count);
                self.note(kind);
            }
        }
    }

    fn note(&mut self, kind: Kind) {
        if !self.since.contains(&kind) {
            self.since.push(kind);
        }
    }

    /// The process ends since its disk failed.
    fn stopped(&mut self) {
        self.look();
        for kind in [Kind::FailedWrite, Kind::FailedSync, Kind::FailedNames, Kind::FullDisk] {
            if self.since.contains(&kind) {
                self.tally.cause(kind, Effect::Stopped);
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
    pub(super) fn sync<'a>(
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
        let tally = &mut self.tally;
        let log = &mut self.process.as_mut().expect("the replica runs").log;
        let (mut compact_to, mut rejoined) = (None, false);
        for job in jobs {
            rejoined |= job.rejoined;
            log.append(job.hard_state, &[])?;
            if let Some(last) = job.restart_after {
                log.restart_after(last)?;
                tally.restarts += 1;
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
        tally.segments_deleted += log.stats().segments_deleted - before;
        Ok(())
    }

    // The snapshots stage.

    /// Writes one of the replica's own state. False if it had to be given up.
    ///
    /// # Errors
    /// If the process must end.
    pub(super) fn save(&mut self, snapshot: &Snapshot) -> Result<bool, StorageError> {
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
        self.tally.taken += 1;
        Ok(())
    }

    /// `None` in place of an error with which the snapshots stage goes on.
    fn bearable<T>(&mut self, result: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.is_no_room() || matches!(error, StorageError::Snapshot { .. }) => {
                self.look();
                let kind = if error.is_no_room() {
                    Kind::FullDisk
                } else if self.since.contains(&Kind::BadSnapshotWrite) {
                    Kind::BadSnapshotWrite
                } else {
                    // Another replica's, if anything is wrong at all.
                    self.bad_snapshot = Some(error.to_string());
                    Kind::RottenSnapshot
                };
                self.tally.cause(kind, Effect::GivenUp);
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
    pub(super) fn store_chunk(
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
    pub(super) fn install(&mut self) -> Result<Option<(SnapshotId, Store)>, StorageError> {
        let installed = self.try_install();
        let installed = self.bearable(installed)?.flatten();
        if installed.is_some() {
            self.tally.taken_in += 1;
            for kind in std::mem::take(&mut self.before) {
                self.tally.cause(kind, Effect::CaughtUp);
            }
        }
        Ok(installed)
    }

    fn try_install(&mut self) -> Result<Option<(SnapshotId, Store)>, StorageError> {
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
    pub(super) fn take_bad_snapshot(&mut self) -> Option<String> {
        self.bad_snapshot.take()
    }

    /// Snapshots that were to be finished since this was last asked.
    pub(super) fn take_finished(&mut self) -> Vec<SnapshotId> {
        std::mem::take(&mut self.finished)
    }

    /// A chunk for a follower, if the snapshot can be read.
    pub(super) fn read_chunk(
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
    pub(super) fn is_lost(&mut self, id: SnapshotId) -> bool {
        let lost = self
            .process
            .as_mut()
            .is_some_and(|process| process.snapshots.look_again(id, look(&self.folder)).is_err());
        if lost {
            self.tally.cause(Kind::RottenSnapshot, Effect::Replaced);
        }
        lost
    }

    /// Whether it was found to be lost, and none has taken its place yet.
    pub(super) fn is_lost_still(&self, id: SnapshotId) -> bool {
        self.process.as_ref().is_some_and(|process| process.snapshots.is_lost(id))
    }

    // Peers.

    /// A peer calls for the first time since it or this replica started. Whether it is believed.
    ///
    /// # Errors
    /// If the process must end.
    pub(super) fn hear(
        &mut self,
        peer: NodeId,
        incarnation: u64,
        openings: &[u64],
    ) -> Result<bool, StorageError> {
        let notes = &mut self.process().notes;
        let history = History { incarnation, openings };
        let Ok(sighting) = notes.check(peer, history, OPENINGS_KEPT) else { return Ok(false) };
        match notes.note(sighting) {
            Ok(()) => {
                self.noted.insert(peer, incarnation);
            }
            // It is remembered, and written with the next one.
            Err(error) if error.is_no_room() => self.look(),
            Err(error) => {
                self.stopped();
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Whose folder it is, and what its last openings drew.
    pub(super) fn opening(&self) -> (u64, Vec<u64>) {
        let log = &self.process.as_ref().expect("the replica runs").log;
        (log.identity().incarnation, log.openings().to_vec())
    }

    // Crashes and starts.

    /// Ends the process, and perhaps its machine, while it does its work, at a place and in a way
    /// that the dice choose.
    pub(super) fn end<'a, J>(&mut self, work: &Work<'a, J>, dice: &mut Dice)
    where
        J: Iterator<Item = &'a AppendJob> + Clone,
    {
        let opened = self.process().log.identity().incarnation;
        let fails = !work.stopped && self.go_wrong_at_work(work, dice);
        self.process = None;
        let killed = fails || dice.chance(if work.stopped { 700 } else { 300 });
        self.stop(killed, dice);
        if dice.chance(400) && !self.since.iter().any(|kind| kind.is_damage()) {
            self.copy = Some((self.folder.disk().copy(), opened));
        }
    }

    /// True if an operation failed, and the power did not.
    fn go_wrong_at_work<'a, J>(&mut self, work: &Work<'a, J>, dice: &mut Dice) -> bool
    where
        J: Iterator<Item = &'a AppendJob> + Clone,
    {
        // What is in the snapshot may go from the files whether the core has asked for it or not.
        let compacted = work.latest.filter(|_| dice.chance(700));
        let cuts = compacted.is_some()
            || work.own.is_some()
            || self.process().incoming.is_some()
            || work.jobs.clone().any(|job| job.restart_after.is_some());
        let longest = if cuts { CUT_OPERATIONS_MAX } else { SYNC_OPERATIONS_MAX };
        let limit = if dice.chance(if cuts { 300 } else { 800 }) { 3 } else { longest };
        let operations = dice.below(limit + 1);
        let fails = match dice.below(10) {
            0 => {
                self.fill(dice);
                true
            }
            1 | 2 => {
                self.folder.disk().fail_in(operations);
                true
            }
            3 => {
                self.folder.disk().fail_names();
                true
            }
            _ => {
                self.folder.disk().cut_in(operations);
                false
            }
        };
        // Where the trouble comes first that is an error, and else it comes after all work.
        let mut parts = [0, 1, 2, 3];
        dice.shuffle(&mut parts);
        let done = parts.iter().try_for_each(|part| match (part, compacted, work.own) {
            (0, ..) => self.try_sync(work.jobs.clone()),
            (1, Some(latest), _) => self.process().log.compact_to(latest.last.index),
            (2, _, Some(own)) => self.try_save(own),
            (3, ..) => self.try_install().map(drop),
            _ => Ok(()),
        });
        self.make_room();
        if let Err(error) = done {
            self.tally.cut_short += u64::from(cuts);
            if fails && !matches!(error, StorageError::Snapshot { .. }) {
                self.stopped();
            }
        }
        fails
    }

    /// A process has ended, and perhaps its machine.
    fn stop(&mut self, killed: bool, dice: &mut Dice) {
        let kind = if killed { Kind::Kill } else { Kind::PowerCut };
        if killed {
            self.folder.disk().kill();
        } else {
            self.folder.disk().restart(&mut |states| dice.place(states));
        }
        self.tally.inject(kind, 1);
        self.note(kind);
        self.look();
    }

    /// Opens the folder, perhaps with more trouble on the way. With `may_rot` its files may have
    /// been damaged while the replica was down; `log_holds_latest` says whether the log holds the
    /// end of the latest snapshot.
    pub(super) fn open(
        &mut self,
        latest: Option<SnapshotId>,
        may_rot: bool,
        log_holds_latest: bool,
        dice: &mut Dice,
    ) -> Opening {
        // Names that a killed process has left as they are in memory only are what an opening must
        // beware of.
        while may_rot && dice.chance(if self.has_unsynced_names() { 800 } else { 200 }) {
            self.cut_opening(latest, dice);
        }
        let damage = if may_rot && !self.is_refused && dice.chance(200) {
            self.rot(log_holds_latest, dice)
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
            Err(error) if error.is_no_room() => {
                self.is_refused = was_refused;
                Opening::NoRoom
            }
            Err(error) if is_damaged && error.is_damage() => {
                self.is_refused = true;
                if !was_refused {
                    for &kind in self.since.iter().filter(|kind| kind.is_damage()) {
                        self.tally.cause(kind, Effect::Refused);
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
            Effect::Older
        } else if process.log.stats().torn_bytes > 0 {
            Effect::Cut
        } else {
            Effect::Whole
        };
        self.before = std::mem::take(&mut self.since);
        for &kind in &self.before {
            let of_damage = effect == Effect::Older;
            if kind.is_damage() == of_damage || effect == Effect::Whole {
                self.tally.cause(kind, effect);
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
    fn cut_opening(&mut self, latest: Option<SnapshotId>, dice: &mut Dice) {
        let longest = latest.map_or(OPEN_OPERATIONS_MAX, |_| OPEN_ANEW_OPERATIONS_MAX);
        let unsynced = self.has_unsynced_names();
        let operations = dice.below(if unsynced { 4 } else { longest });
        let fails = !unsynced && dice.chance(300);
        if fails {
            self.folder.disk().fail_in(operations);
        } else {
            self.folder.disk().cut_in(operations);
        }
        let opened = open_folder(&self.folder, self.replica, self.options);
        if opened.is_err() {
            self.tally.inject(Kind::CutOpening, 1);
            self.note(Kind::CutOpening);
        }
        drop(opened);
        self.stop(fails, dice);
    }
}

/// Who reads a snapshot and makes a state of it.
fn load(folder: &SharedDisk) -> Load {
    #[cfg(feature = "mutants")]
    if folder.mutant() == Some(Mutant::IgnoreSnapshotChecksum) {
        return Load::trusting();
    }
    let _ = folder;
    Load::default()
}

/// Who only looks whether it is one.
fn look(folder: &SharedDisk) -> Look {
    #[cfg(feature = "mutants")]
    if folder.mutant() == Some(Mutant::IgnoreSnapshotChecksum) {
        return Look::trusting();
    }
    let _ = folder;
    Look::default()
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
    snapshot: Option<(SnapshotId, Store)>,
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
    let notes = PeerNotes::open(folder.clone(), recovered.identity())?;
    let (log, durable) = recovered.open(latest)?;
    let process = Process { log, snapshots, notes, incoming: None, outgoing: BTreeMap::new() };
    let damaged_snapshots = loaded.damaged.len();
    Ok(Opened { process, durable, snapshot: loaded.latest, damaged_snapshots })
}

#[cfg(test)]
mod tests {
    use crate::raft::{AppendJob, HardState};
    use crate::record::{EntryKind, RecordBuffer};
    use crate::sim::dice::Dice;
    use crate::sim::machine::{Disk, Started};
    use crate::types::{EntryId, JobSequence, NodeId, Term};

    /// What a synced disk holds after a crash, or how it broke its promise.
    fn after_crash(lies: bool, seed: u64) -> Result<usize, String> {
        let mut disk = Disk::with_files(NodeId(1), &[NodeId(1)], 4 << 10);
        let (mut latest, mut dice) = (None, Dice::new(seed));
        assert!(matches!(disk.open(&mut latest, &mut dice), Started::With(_)));
        if lies {
            disk.files().expect("it was made with files").folder.disk().set_lying();
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
        disk.crash(None, None, &mut dice);
        match disk.open(&mut latest, &mut dice) {
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
