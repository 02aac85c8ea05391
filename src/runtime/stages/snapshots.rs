//! The snapshots stage: writes this replica's own, sends the latest to followers that are far
//! behind, and puts a leader's together. It owns their files beside the log, and has a thread of
//! its own in every arrangement, for to write, read and check them takes seconds.
//!
//! What it does may be late, but must not make others late: it writes in small pieces, slowly as
//! long as the log grows slowly (`saving.rs`), syncs them on the way, and lets every other thread
//! go first.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::RecvTimeoutError;

use crate::kv::{SnapshotWriter, StateMachine, View};
use crate::raft::{ChunkStored, Envelope, PeerMsg, SnapshotChunk, SnapshotId};
use crate::snapshot_check::{SnapshotLoader, SnapshotVerifier, snapshot_id};
use crate::storage::failpoint::reach;
use crate::storage::{
    self, RealDisk, SnapshotCheck, SnapshotSource, Snapshots as Files, StorageError,
};

use crate::runtime::boards::{DiskSpaceBoard, RuntimeCounters};
use crate::runtime::channels::{
    CoreItem, QUEUE_LEN, ReceivedSnapshot, SnapshotEnds, SnapshotEvent, SnapshotJob,
};
use crate::runtime::fatal::exit_on_disk_failure;
use crate::runtime::stages::snapshot_scheduler::SnapshotScheduler;

/// Bytes of a snapshot in one message to a follower.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes written at once, and the pause behind them: at most 64 MiB a second, so that the log's
/// syncs find a disk that is not busy, and clients a processor. There is none while the log grows
/// so fast that the snapshot would be late.
const SLICE_BYTES: usize = 256 << 10;
const SLICE_INTERVAL: Duration = Duration::from_millis(4);
/// A snapshot that was asked for within this stays readable, whatever was taken since: the core
/// asks for the next chunk of one for some seconds before it takes a later one instead.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(10);
/// A leader that has sent nothing for so long sends its snapshot from the beginning, or another's.
const SENT_AGAIN_WITHIN: Duration = Duration::from_secs(10);
/// So long after another snapshot was wanted in the place of a lost one it is wanted again, if
/// there is still none.
const LOST_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How much this thread lets others go first, where the system has such a thing.
const NICENESS: i32 = 10;

/// The file of a snapshot in the making.
type Writer = storage::SnapshotWriter<<RealDisk as storage::Disk>::File>;

/// What a replica finds of its snapshots when it starts.
pub(crate) struct LoadedSnapshots {
    pub(crate) files: Files<RealDisk>,
    /// The latest one that is whole, and the state in it.
    pub(crate) latest: Option<(SnapshotId, StateMachine)>,
}

/// Reads the latest snapshot.
pub(crate) fn load_latest(disk: RealDisk) -> Result<LoadedSnapshots, StorageError> {
    let mut files = Files::open(disk)?;
    let loaded = files.load(SnapshotLoader::default)?;
    for error in &loaded.damaged {
        tracing::error!("{error}; the one before it is taken, if the log reaches back to it");
    }
    Ok(LoadedSnapshots { files, latest: loaded.latest })
}

/// One being written of this replica's own state.
struct Taking {
    source: SnapshotWriter,
    file: Writer,
    /// Not before then is more written.
    next_at: Instant,
    /// Bytes that wait to be written.
    slice: Vec<u8>,
}

/// A leader's, in parts.
struct Incoming {
    snapshot: SnapshotId,
    /// `None` once it is whole, and handed on.
    file: Option<Writer>,
    received: u64,
    /// When its last chunk came.
    heard_at: Instant,
}

/// The stage.
pub(crate) struct SnapshotIo {
    files: Files<RealDisk>,
    taking: Option<Taking>,
    incoming: Option<Incoming>,
    /// Which snapshots followers are being sent, and when a chunk was last asked for.
    outgoing: Vec<(SnapshotId, Instant)>,
    /// A leader's that there was no room for, so that it is told of once.
    refused: Option<SnapshotId>,
    /// When the core was last told that the latest is lost.
    lost_at: Option<Instant>,
    scheduler: SnapshotScheduler,
    room: Arc<DiskSpaceBoard>,
    ends: SnapshotEnds,
    counters: Arc<RuntimeCounters>,
}

/// Reads a snapshot back, and tells how far it has come.
struct ReadBack<'s> {
    look: SnapshotVerifier,
    scheduler: &'s SnapshotScheduler,
    bytes: u64,
    of: u64,
}

impl SnapshotCheck for ReadBack<'_> {
    type Whole = ();

    fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        self.bytes += piece.len() as u64;
        self.scheduler.note_read(self.bytes, self.of);
        self.look.feed(piece)
    }

    fn finish(self) -> Result<(SnapshotId, ()), String> {
        self.look.finish()
    }
}

impl SnapshotIo {
    pub(crate) fn new(
        files: Files<RealDisk>,
        scheduler: SnapshotScheduler,
        room: Arc<DiskSpaceBoard>,
        ends: SnapshotEnds,
        counters: Arc<RuntimeCounters>,
    ) -> SnapshotIo {
        if let Some(latest) = files.latest() {
            scheduler.board().note(latest);
        }
        SnapshotIo {
            files,
            taking: None,
            incoming: None,
            outgoing: Vec::new(),
            refused: None,
            lost_at: None,
            scheduler,
            room,
            ends,
            counters,
        }
    }

    /// Passes without end, on a thread of its own, until core and applier have ended.
    pub(crate) fn run(&mut self) {
        // It may not be ours to set; then all goes on as it is.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        loop {
            let work = match &self.taking {
                Some(taking) => self.ends.work.recv_deadline(taking.next_at),
                None => self.ends.work.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match work {
                Ok(work) => self.run_once(work),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.taking.as_ref().is_some_and(|taking| Instant::now() >= taking.next_at) {
                self.write_slice();
            }
        }
    }

    /// `first` and all that waits behind it.
    fn run_once(&mut self, first: SnapshotJob) {
        let mut next = Some(first);
        // What comes meanwhile waits for the next pass, for a snapshot in the making goes on
        // between passes.
        for _ in 0..QUEUE_LEN {
            let Some(work) = next.take().or_else(|| self.ends.work.try_recv().ok()) else { break };
            match work {
                SnapshotJob::SendChunks(envelopes) => self.send(envelopes),
                SnapshotJob::StoreChunks(chunks) => {
                    for chunk in chunks {
                        self.keep(&chunk);
                    }
                }
                SnapshotJob::Verify(doubted) => {
                    for id in doubted {
                        self.recheck(id);
                    }
                }
                SnapshotJob::Write(view) => self.take(*view),
                SnapshotJob::Drop(store) => drop(store),
            }
        }
    }

    fn tell_core(&self, news: SnapshotEvent) {
        // An error means that the core has ended, and then so do we.
        let _ = self.ends.to_core.send(CoreItem::Snapshot(news));
    }

    // This replica's own.

    fn take(&mut self, view: View) {
        if let Some(Incoming { file: Some(_), snapshot, heard_at, .. }) = &self.incoming {
            // Three at once are too many. If this state has come as far by the log meanwhile, the
            // leader sends no more of its own, and that one would be waited for in vain.
            let is_further = snapshot.last.index > view.last().index;
            if is_further && heard_at.elapsed() < SENT_AGAIN_WITHIN {
                self.scheduler.give_up(false);
                return;
            }
            self.forget_incoming();
        }
        // About as large as the last one: where that does not fit, this one is not begun.
        if !self.room.fits_snapshot(self.scheduler.board().bytes()) {
            self.do_without_room();
            return;
        }
        let source = SnapshotWriter::new(view);
        match self.files.begin(SnapshotSource::Own) {
            Ok(file) => {
                let next_at = Instant::now();
                self.taking = Some(Taking { source, file, next_at, slice: Vec::new() });
            }
            Err(error) => self.do_without(&error),
        }
    }

    /// Writes a little more.
    fn write_slice(&mut self) {
        let Some(mut taking) = self.taking.take() else { return };
        let Taking { source, file, slice, .. } = &mut taking;
        let mut mark = None;
        while mark.is_none() && slice.len() < SLICE_BYTES {
            mark = source.write(&mut |piece| slice.extend_from_slice(piece));
        }
        if !self.room.fits_snapshot(slice.len() as u64) {
            let abandoned = self.files.abandon(taking.file);
            self.do_without_room();
            abandoned.unwrap_or_else(|error| exit_on_disk_failure(&error));
            return;
        }
        if let Err(error) = self.files.write(file, slice) {
            let abandoned = self.files.abandon(taking.file);
            self.do_without(&error);
            abandoned.unwrap_or_else(|error| exit_on_disk_failure(&error));
            return;
        }
        let (tables, of) = source.progress();
        self.scheduler.note_written(tables, of);
        slice.clear();
        slice.shrink_to(SLICE_BYTES * 2);
        let Some(mark) = mark else {
            let pause = if self.scheduler.is_late() { Duration::ZERO } else { SLICE_INTERVAL };
            taking.next_at = Instant::now() + pause;
            self.taking = Some(taking);
            return;
        };
        let Taking { source, file, .. } = taking;
        drop(source);
        let id = snapshot_id(mark);
        self.hold_outgoing();
        let look = SnapshotVerifier::default();
        let read_back = ReadBack { look, scheduler: &self.scheduler, bytes: 0, of: id.bytes };
        match self.files.finish(file, id, read_back) {
            Ok(()) => {
                tracing::info!(last = %id.last, bytes = id.bytes, "a snapshot is taken");
                self.note_latest();
                self.scheduler.succeed();
                self.tell_core(SnapshotEvent::Taken(id));
            }
            Err(error) => self.do_without(&error),
        }
    }

    /// A snapshot was not taken. For want of room, or because what was written reads back as
    /// something else, that can be borne: the log holds all that it should have held. What else
    /// goes wrong with the disk can't.
    fn do_without(&self, error: &StorageError) {
        if !can_be_borne(error) {
            exit_on_disk_failure(error);
        }
        tracing::error!("a snapshot could not be taken, so the log grows: {error}");
        self.scheduler.give_up(true);
    }

    /// A snapshot was not taken, or not to its end, for what room there is has to be left.
    fn do_without_room(&self) {
        let free_bytes = self.room.read().free;
        tracing::warn!(free_bytes, "there is no room for a snapshot, so the log is not cut");
        self.scheduler.give_up(true);
    }

    /// There is a new one, whole and read back: the one before is not needed any more.
    fn note_latest(&mut self) {
        if let Some(latest) = self.files.latest() {
            self.scheduler.board().note(latest);
        }
        self.files.drop_previous().unwrap_or_else(|error| exit_on_disk_failure(&error));
    }

    // For followers.

    /// Fills chunks in and sends them.
    fn send(&mut self, mut envelopes: Vec<Envelope>) {
        let mut lost = false;
        envelopes.retain_mut(|envelope| {
            let PeerMsg::InstallSnapshot(install) = &mut envelope.message else { return false };
            self.outgoing.retain(|(id, _)| *id != install.snapshot);
            self.outgoing.push((install.snapshot, Instant::now()));
            match self.files.read(install.snapshot, install.offset, CHUNK_BYTES) {
                Ok(Some(chunk)) => {
                    install.chunk = chunk;
                    true
                }
                // The core asks for a later one in the end. If that was to be taken since this is
                // lost, and could not, it is tried again: perhaps nothing else calls for one.
                Ok(None) => {
                    lost |= self.files.is_lost(install.snapshot);
                    false
                }
                Err(error) => {
                    tracing::error!("a snapshot can't be read for a follower: {error}");
                    false
                }
            }
        });
        if let Err(refused) = self.ends.to_network.try_send(envelopes) {
            self.counters.outbound_dropped.add(refused.into_inner().len());
        }
        if lost && self.lost_at.is_none_or(|at| at.elapsed() >= LOST_AGAIN_AFTER) {
            self.tell_lost();
        }
    }

    fn tell_lost(&mut self) {
        self.lost_at = Some(Instant::now());
        self.tell_core(SnapshotEvent::Lost);
    }

    /// A follower had all of a snapshot and threw it away. Where it is damaged here too, the state
    /// in memory is not, and another is taken of that.
    fn recheck(&mut self, id: SnapshotId) {
        if let Err(error) = self.files.recheck(id, SnapshotVerifier::default()) {
            tracing::error!("another snapshot is taken, for the latest is lost: {error}");
            self.tell_lost();
        }
    }

    /// Has what is being sent stay open when the next one is finished.
    fn hold_outgoing(&mut self) {
        self.outgoing.retain(|(_, asked)| asked.elapsed() < ASKED_AGAIN_WITHIN);
        for (id, _) in &self.outgoing {
            // An error shows when there is something to read.
            let _ = self.files.read(*id, 0, 0);
        }
    }

    // Of a leader.

    /// Takes in a chunk, if it is the next one, and says how much is here.
    fn keep(&mut self, chunk: &SnapshotChunk) {
        let SnapshotChunk { term, snapshot, round, offset, ref chunk } = *chunk;
        if self.incoming.as_ref().is_none_or(|incoming| incoming.snapshot != snapshot) {
            self.forget_incoming();
            self.forget_taking();
            if !self.room.fits_snapshot(snapshot.bytes) {
                if self.refused.replace(snapshot) != Some(snapshot) {
                    let free_bytes = self.room.read().free;
                    tracing::warn!(last = %snapshot.last, bytes = snapshot.bytes, free_bytes,
                        "there is no room for the leader's snapshot");
                }
                // The leader asks again.
                return;
            }
            match self.files.begin(SnapshotSource::Incoming) {
                Ok(file) => {
                    tracing::info!(last = %snapshot.last, bytes = snapshot.bytes,
                        "a leader sends its snapshot");
                    let heard_at = Instant::now();
                    let file = Some(file);
                    self.incoming = Some(Incoming { snapshot, file, received: 0, heard_at });
                }
                Err(error) => return refuse(&error),
            }
        }
        let Some(incoming) = &mut self.incoming else { return };
        incoming.heard_at = Instant::now();
        if let Some(file) = &mut incoming.file
            && incoming.received == offset
            && !chunk.is_empty()
        {
            if let Err(error) = self.files.write(file, chunk) {
                self.forget_incoming();
                return refuse(&error);
            }
            incoming.received += chunk.len() as u64;
            reach("snapshot-incoming", "chunk-kept");
        }
        let received = incoming.received;
        self.tell_core(SnapshotEvent::ChunkStored(ChunkStored { term, snapshot, round, received }));
        if received == snapshot.bytes {
            self.install(snapshot);
        }
    }

    /// All of it is here: makes it durable and hands on the state in it.
    fn install(&mut self, snapshot: SnapshotId) {
        let Some(file) = self.incoming.as_mut().and_then(|incoming| incoming.file.take()) else {
            return;
        };
        self.hold_outgoing();
        match self.files.finish(file, snapshot, SnapshotLoader::default()) {
            Ok(store) => {
                tracing::info!(last = %snapshot.last, keys = store.key_count(),
                    "a leader's snapshot is here");
                self.note_latest();
                let install = Box::new(ReceivedSnapshot { snapshot, store });
                reach("snapshot-incoming", "read");
                self.tell_core(SnapshotEvent::Received(install));
            }
            Err(error) => {
                // It comes again, from the beginning.
                self.incoming = None;
                refuse(&error);
            }
        }
    }

    /// What a leader sends is further than what this replica has of its own.
    fn forget_taking(&mut self) {
        if let Some(Taking { file, .. }) = self.taking.take() {
            self.files.abandon(file).unwrap_or_else(|error| exit_on_disk_failure(&error));
            self.scheduler.give_up(false);
        }
    }

    fn forget_incoming(&mut self) {
        if let Some(Incoming { file: Some(file), .. }) = self.incoming.take() {
            self.files.abandon(file).unwrap_or_else(|error| exit_on_disk_failure(&error));
        }
    }
}

/// A leader's snapshot can't be kept, for a reason that passes.
fn refuse(error: &StorageError) {
    if !can_be_borne(error) {
        exit_on_disk_failure(error);
    }
    tracing::error!("a leader's snapshot can't be taken in: {error}");
}

fn can_be_borne(error: &StorageError) -> bool {
    match error {
        StorageError::Snapshot { .. } => true,
        StorageError::Io { source, .. } => matches!(
            source.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
        ),
        _ => false,
    }
}
