//! The snapshots stage, which performs snapshot I/O. It writes snapshots of this replica's own
//! state, sends the latest one to followers that are far behind and to clients that request its
//! parts, and stores a snapshot that a leader sends. It owns the snapshot files, and always has a
//! thread of its own, because reading and writing snapshots takes seconds.
//!
//! This stage may fall behind, but must not delay other stages: it writes in small slices, slowly
//! while the log grows slowly (`snapshot_scheduler.rs`), syncs the file after every few slices, and
//! runs at a low priority.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::RecvTimeoutError;

use crate::kv::{SnapshotWriter, StateMachine, View};
use crate::raft::{ChunkStored, Envelope, LogStart, PeerMsg, SnapshotChunk, SnapshotId};
use crate::runtime::boards::{DiskSpaceBoard, RuntimeCounters};
use crate::runtime::channels::{
    CoreItem, QUEUE_LEN, ReceivedSnapshot, SnapshotEnds, SnapshotEvent, SnapshotJob, SnapshotPart,
    SnapshotRead,
};
use crate::runtime::fatal::exit_on_disk_failure;
use crate::snapshot_check::{SnapshotLoader, SnapshotVerifier, snapshot_id, snapshot_mark};
use crate::storage::failpoint::reach;
use crate::storage::{
    self, RealDisk, SnapshotCheck, SnapshotSource, Snapshots as Files, StorageError,
};

use super::snapshot_scheduler::SnapshotScheduler;

/// Maximum number of bytes of a snapshot in one message (chunk) to a follower.
const CHUNK_BYTES: usize = 256 << 10;
/// Number of bytes of a snapshot that are written at once. Pauses between the writes limit the rate
/// to 64 MiB per second; while the log grows faster than the snapshot, there are no pauses.
const SLICE_BYTES: usize = 256 << 10;
/// Number of bytes of a slice at which they are written although the slice is not complete.
const UNWRITTEN_BYTES_MAX: usize = 1 << 20;
const SLICE_INTERVAL: Duration = Duration::from_millis(4);
/// Time for which a snapshot file stays readable after a chunk of it was last sent to a follower,
/// even if a newer snapshot has replaced it. This allows the transfer to the follower to complete.
const OUTGOING_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for which a snapshot file stays readable after a client last read a part of it, even if a
/// newer snapshot has replaced it. A client that writes a backup may have to wait for the receiver
/// of the parts that it has read.
const CLIENT_TIMEOUT: Duration = Duration::from_mins(1);
/// Maximum number of snapshots that stay readable for clients. If there are more, the one that was
/// not read for the longest time does not, so that clients cannot fill the disk with old snapshots.
const CLIENT_SNAPSHOTS_MAX: usize = 2;
/// Time without a chunk after which a follower assumes that the leader has stopped sending its
/// snapshot. A snapshot of the follower's own state may then replace the part that was received.
const INCOMING_TIMEOUT: Duration = Duration::from_secs(10);
/// Minimum time between two reports to the Raft core that the latest snapshot is damaged.
const LOST_INTERVAL: Duration = Duration::from_secs(1);
/// Niceness (Unix scheduling priority; higher means less urgent) of the snapshots stage's thread,
/// on systems where each thread has its own niceness.
const NICENESS: i32 = 10;

/// Writer for a snapshot file that is not complete yet.
type Writer = storage::SnapshotWriter<<RealDisk as storage::Disk>::File>;

/// The snapshot files found in the replica's folder when the process started, and the state loaded
/// from the latest of them.
pub(crate) struct LoadedSnapshots {
    pub(crate) files: Files<RealDisk>,
    /// The id of the latest undamaged snapshot and the state loaded from it; `None` if there is no
    /// such snapshot.
    pub(crate) latest: Option<(SnapshotId, StateMachine)>,
}

/// Loads the latest undamaged snapshot in the folder of `disk`. Logs an error for each damaged
/// snapshot.
///
/// # Errors
/// If the folder can't be read.
pub(crate) fn load_latest(disk: RealDisk) -> Result<LoadedSnapshots, StorageError> {
    let mut files = Files::open(disk)?;
    let loaded = files.load(SnapshotLoader::default)?;
    for error in &loaded.damaged {
        tracing::error!(%error, "snapshot damaged; trying the previous snapshot");
    }
    Ok(LoadedSnapshots { files, latest: loaded.latest })
}

/// A snapshot of this replica's own state while it is being written.
struct Taking {
    source: SnapshotWriter,
    file: Writer,
    /// The earliest time at which the next slice (part of the file) may be written.
    next_at: Instant,
    /// Buffer for the slice (part of the file) that is being written. Empty between slices, and
    /// kept to reuse its memory.
    slice: Vec<u8>,
}

/// A leader's snapshot that this replica is receiving in chunks.
struct Incoming {
    snapshot: SnapshotId,
    /// The file to which received chunks of the snapshot are written; `None` once the snapshot is
    /// complete.
    file: Option<Writer>,
    received_bytes: u64,
    /// Time at which the most recent chunk of the snapshot was received.
    heard_at: Instant,
}

/// The snapshots stage: takes, sends and receives snapshots.
pub(crate) struct SnapshotIo {
    files: Files<RealDisk>,
    taking: Option<Taking>,
    incoming: Option<Incoming>,
    /// Snapshots that are being sent to followers, each with the time at which one of its chunks
    /// was last read.
    outgoing: Vec<(SnapshotId, Instant)>,
    /// Snapshots that clients are reading, at most [`CLIENT_SNAPSHOTS_MAX`], each with the time of
    /// the last read. The most recent read is last.
    opened: Vec<(SnapshotId, Instant)>,
    /// The leader's snapshot that was last refused because of a lack of disk space, so that each
    /// refusal is logged only once; `None` if no snapshot was refused.
    refused: Option<SnapshotId>,
    /// Time at which the stage last reported to the Raft core that the latest snapshot is damaged;
    /// `None` if it has never done so.
    lost_at: Option<Instant>,
    scheduler: SnapshotScheduler,
    disk_space: Arc<DiskSpaceBoard>,
    ends: SnapshotEnds,
    counters: Arc<RuntimeCounters>,
}

/// Verifies a snapshot file as it is read back, and reports the progress to the scheduler.
struct ReadBack<'s> {
    verifier: SnapshotVerifier,
    scheduler: &'s SnapshotScheduler,
    read_bytes: u64,
    all_bytes: u64,
}

impl SnapshotCheck for ReadBack<'_> {
    type Whole = ();

    fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        self.read_bytes += piece.len() as u64;
        self.scheduler.note_read(self.read_bytes, self.all_bytes);
        self.verifier.feed(piece)
    }

    fn finish(self) -> Result<(SnapshotId, ()), String> {
        if self.verifier.contradicts() {
            self.scheduler.board().note_contradiction();
        }
        self.verifier.finish()
    }
}

impl SnapshotIo {
    pub(crate) fn new(
        files: Files<RealDisk>,
        scheduler: SnapshotScheduler,
        disk_space: Arc<DiskSpaceBoard>,
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
            opened: Vec::new(),
            refused: None,
            lost_at: None,
            scheduler,
            disk_space,
            ends,
            counters,
        }
    }

    /// Runs the stage's loop on the current thread until core and applier have stopped.
    pub(crate) fn run(&mut self) {
        // Without the permission to change its priority, the stage runs at normal priority.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        loop {
            let job = match &self.taking {
                Some(taking) => self.ends.jobs.recv_deadline(taking.next_at),
                None => self.ends.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match job {
                Ok(job) => self.run_once(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.taking.as_ref().is_some_and(|taking| Instant::now() >= taking.next_at) {
                self.write_slice();
            }
        }
    }

    /// Runs one pass (iteration of the stage's loop): handles `first` and the jobs in the queue, up
    /// to a limit. The running snapshot is written between passes, one slice (part of the file) at
    /// a time.
    fn run_once(&mut self, first: SnapshotJob) {
        let mut next = Some(first);
        for _ in 0..QUEUE_LEN {
            let Some(job) = next.take().or_else(|| self.ends.jobs.try_recv().ok()) else { break };
            match job {
                SnapshotJob::SendChunks(envelopes) => self.send_chunks(envelopes),
                SnapshotJob::StoreChunks(chunks) => {
                    for chunk in chunks {
                        self.store_chunk(&chunk);
                    }
                }
                SnapshotJob::StoreLogStart(start) => self.store_log_start(start),
                SnapshotJob::Verify(suspects) => {
                    for id in suspects {
                        self.verify(id);
                    }
                }
                SnapshotJob::Write(view) => self.begin(*view),
                SnapshotJob::Read(read) => self.read_part(read),
            }
        }
    }

    fn report(&self, event: SnapshotEvent) {
        // An error means that the core has stopped, and then so does this stage.
        let _ = self.ends.to_core.send(CoreItem::Snapshot(event));
    }

    // Snapshots of this replica's own state.

    fn begin(&mut self, view: View) {
        if let Some(Incoming { file: Some(_), snapshot, heard_at, .. }) = &self.incoming {
            // Three snapshots in the folder would be too many. But if this state has meanwhile come
            // as far through the log, the leader sends no more chunks, and waiting would be in
            // vain.
            let is_further = snapshot.last.index > view.last().index;
            if is_further && heard_at.elapsed() < INCOMING_TIMEOUT {
                self.scheduler.give_up(false);
                return;
            }
            self.abandon_incoming();
        }
        // The new snapshot will be about as large as the latest one.
        if !self.disk_space.fits_snapshot(self.scheduler.board().bytes()) {
            self.skip_for_space();
            return;
        }
        let source = SnapshotWriter::new(view);
        match self.files.begin(SnapshotSource::Own) {
            Ok(file) => {
                let next_at = Instant::now();
                self.taking = Some(Taking { source, file, next_at, slice: Vec::new() });
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Writes the next slice (part of the file) of the running snapshot, and completes the snapshot
    /// after its last slice.
    fn write_slice(&mut self) {
        let Some(mut taking) = self.taking.take() else { return };
        let Taking { source, file, slice, .. } = &mut taking;
        let (files, disk_space) = (&mut self.files, &self.disk_space);
        // Whether there was space for what has been written.
        let mut written = Ok(true);
        let mut write_out = |slice: &mut Vec<u8>| {
            if let Ok(true) = written {
                let fits = disk_space.fits_snapshot(slice.len() as u64);
                written = if fits { files.write(file, slice).map(|()| true) } else { Ok(false) };
            }
            slice.clear();
        };
        let mut end = None;
        while end.is_none() && slice.len() < SLICE_BYTES {
            end = source.write(&mut |piece| {
                slice.extend_from_slice(piece);
                // A large value is not collected in memory.
                if slice.len() >= UNWRITTEN_BYTES_MAX {
                    write_out(slice);
                }
            });
        }
        write_out(slice);
        if !matches!(written, Ok(true)) {
            let abandoned = self.files.abandon(taking.file);
            match written {
                Ok(_) => self.skip_for_space(),
                Err(error) => self.fail(&error),
            }
            abandoned.unwrap_or_else(|error| exit_on_disk_failure(&error));
            return;
        }
        let (tables, all_tables) = source.progress();
        self.scheduler.note_written(tables, all_tables);
        slice.shrink_to(SLICE_BYTES * 2);
        let Some(end) = end else {
            let pause = if self.scheduler.is_late() { Duration::ZERO } else { SLICE_INTERVAL };
            taking.next_at = Instant::now() + pause;
            self.taking = Some(taking);
            return;
        };
        let Taking { source, file, .. } = taking;
        // Frees the memory that the view shares with the state.
        drop(source);
        let id = snapshot_id(end);
        self.keep_outgoing_open();
        let read_back = ReadBack {
            verifier: SnapshotVerifier::default(),
            scheduler: &self.scheduler,
            read_bytes: 0,
            all_bytes: id.bytes,
        };
        match self.files.finish(file, id, read_back) {
            Ok(()) => {
                tracing::info!(last_included = %id.last, bytes = id.bytes, "snapshot taken");
                self.publish_latest();
                self.scheduler.succeed();
                self.report(SnapshotEvent::Taken(id));
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Abandons the running snapshot after an error that the replica can tolerate: the disk is
    /// full, or the file reads back differently. The log still has all entries then. Any other disk
    /// error ends the process.
    fn fail(&self, error: &StorageError) {
        if !is_tolerable(error) {
            exit_on_disk_failure(error);
        }
        tracing::error!(%error, "cannot take a snapshot, so the log is not compacted");
        self.scheduler.give_up(true);
    }

    /// Logs that there is too little disk space for a snapshot, and records that the snapshot was
    /// given up as failed.
    fn skip_for_space(&self) {
        let free_bytes = self.disk_space.read().free;
        tracing::warn!(
            free_bytes,
            "not enough free disk space for a snapshot, so the log is not compacted"
        );
        self.scheduler.give_up(true);
    }

    /// Publishes the status of the new latest snapshot, which has been read back and verified, and
    /// removes the previous snapshot's file.
    fn publish_latest(&mut self) {
        if let Some(latest) = self.files.latest() {
            self.scheduler.board().note(latest);
        }
        self.files.drop_previous().unwrap_or_else(|error| exit_on_disk_failure(&error));
    }

    // The log of a witness.

    /// Stores the point at which the log of this witness is to begin, as a snapshot without data,
    /// and reports it to the Raft core. If it cannot be stored now, the core or the leader tries
    /// again.
    fn store_log_start(&mut self, start: LogStart) {
        let LogStart { last, configuration, level, is_received } = start;
        if self.files.latest().is_some_and(|latest| latest.last.index >= last.index) {
            return;
        }
        let store = StateMachine::of_witness(last.index, configuration, level);
        let mut bytes = Vec::new();
        let id = snapshot_id(store.write_snapshot(last, &mut |piece| bytes.extend(piece)));
        if let Err(error) = self.write_log_start(id, &bytes) {
            refuse(&error);
            return;
        }
        self.publish_latest();
        if is_received {
            tracing::info!(last_included = %last, "start of the log received from the leader");
            self.report(SnapshotEvent::Received(Box::new(ReceivedSnapshot { id, store })));
        } else {
            tracing::info!(last_included = %last, "log of this witness shortened");
            self.report(SnapshotEvent::Taken(id));
        }
    }

    fn write_log_start(&mut self, id: SnapshotId, bytes: &[u8]) -> Result<(), StorageError> {
        let mut file = self.files.begin(SnapshotSource::Own)?;
        if let Err(error) = self.files.write(&mut file, bytes) {
            self.files.abandon(file)?;
            return Err(error);
        }
        self.files.finish(file, id, SnapshotVerifier::default())
    }

    // Snapshots for followers.

    /// Sends messages with snapshot chunks to followers: reads the chunk that each message names
    /// from the snapshot's file, and adds it to the message.
    fn send_chunks(&mut self, mut envelopes: Vec<Envelope>) {
        let mut lost = false;
        envelopes.retain_mut(|envelope| {
            let PeerMsg::InstallSnapshot(install) = &mut envelope.message else { return false };
            self.outgoing.retain(|(id, _)| *id != install.snapshot);
            self.outgoing.push((install.snapshot, Instant::now()));
            match self.files.read(install.snapshot, install.offset, CHUNK_BYTES) {
                Ok(Some(chunk)) => {
                    debug_assert!(chunk.len() <= CHUNK_BYTES, "a chunk of {}", chunk.len());
                    install.chunk = chunk;
                    true
                }
                // The core will send a later snapshot. If this one is damaged and no other could be
                // taken yet, its loss is reported again, because nothing else might request a new
                // one.
                Ok(None) => {
                    lost |= self.files.is_lost(install.snapshot);
                    false
                }
                Err(error) => {
                    let follower = envelope.to;
                    tracing::error!(
                        %follower,
                        %error,
                        "cannot read the snapshot that a follower requested"
                    );
                    false
                }
            }
        });
        if let Err(refused) = self.ends.to_network.try_send(envelopes) {
            self.counters.outbound_dropped.add(refused.into_inner().len());
        }
        if lost && self.lost_at.is_none_or(|at| at.elapsed() >= LOST_INTERVAL) {
            self.report_lost();
        }
    }

    fn report_lost(&mut self) {
        self.lost_at = Some(Instant::now());
        self.report(SnapshotEvent::Lost);
    }

    /// Verifies a snapshot that a follower has received in full and found damaged. If the snapshot
    /// is damaged on this replica's disk too, asks the Raft core for another one, taken from the
    /// undamaged state in memory.
    fn verify(&mut self, id: SnapshotId) {
        if let Err(error) = self.files.recheck(id, SnapshotVerifier::default()) {
            tracing::error!(%error, "latest snapshot damaged, taking a new one from memory");
            self.report_lost();
        }
    }

    /// Reads what a client has requested, the id of the latest snapshot or a part of one, and sends
    /// it to the network stage. The snapshot then stays readable for [`CLIENT_TIMEOUT`].
    fn read_part(&mut self, read: SnapshotRead) {
        let SnapshotRead { sequence, part } = read;
        let part = match part {
            Some((id, offset)) => self.read_for_client(id, offset, CHUNK_BYTES),
            None => self.files.latest().and_then(|latest| {
                self.read_for_client(latest, 0, 0)
                    .map(|_| Bytes::from(snapshot_mark(latest).to_string()))
            }),
        };
        // An error means that the network stage has stopped, and then so does this stage.
        let _ = self.ends.parts.send(SnapshotPart { sequence, part });
    }

    fn read_for_client(&mut self, id: SnapshotId, offset: u64, bytes_max: usize) -> Option<Bytes> {
        match self.files.read(id, offset, bytes_max) {
            Ok(Some(bytes)) => {
                self.opened.retain(|(known, _)| *known != id);
                self.opened.push((id, Instant::now()));
                if self.opened.len() > CLIENT_SNAPSHOTS_MAX {
                    self.opened.remove(0);
                }
                Some(bytes)
            }
            Ok(None) => None,
            Err(error) => {
                tracing::error!(%error, "cannot read the snapshot that a client requested");
                None
            }
        }
    }

    /// Opens the files of the snapshots that followers or clients are reading, so that they stay
    /// readable when the next snapshot replaces them.
    fn keep_outgoing_open(&mut self) {
        self.outgoing.retain(|(_, read_at)| read_at.elapsed() < OUTGOING_TIMEOUT);
        self.opened.retain(|(_, read_at)| read_at.elapsed() < CLIENT_TIMEOUT);
        for (id, _) in self.outgoing.iter().chain(&self.opened) {
            // An error shows again when a chunk is read.
            let _ = self.files.read(*id, 0, 0);
        }
    }

    // Snapshots from a leader.

    /// Stores a chunk of the leader's snapshot if it follows the bytes stored so far, and reports
    /// to the Raft core how many bytes of the snapshot are stored.
    fn store_chunk(&mut self, chunk: &SnapshotChunk) {
        let SnapshotChunk { term, snapshot, round, offset, ref chunk } = *chunk;
        if self.incoming.as_ref().is_none_or(|incoming| incoming.snapshot != snapshot)
            && !self.begin_incoming(snapshot)
        {
            // The leader sends the chunk again.
            return;
        }
        let Some(incoming) = &mut self.incoming else { return };
        incoming.heard_at = Instant::now();
        if let Some(file) = &mut incoming.file
            && incoming.received_bytes == offset
            && !chunk.is_empty()
        {
            if let Err(error) = self.files.write(file, chunk) {
                self.abandon_incoming();
                refuse(&error);
                return;
            }
            incoming.received_bytes += chunk.len() as u64;
            reach("snapshot-incoming", "chunk-kept");
        }
        let received = incoming.received_bytes;
        self.report(SnapshotEvent::ChunkStored(ChunkStored { term, snapshot, round, received }));
        if received == snapshot.bytes {
            self.complete_incoming(snapshot);
        }
    }

    /// Begins to receive a leader's snapshot, and abandons any other snapshot that is being
    /// written. Returns false if the new snapshot cannot be stored now.
    fn begin_incoming(&mut self, snapshot: SnapshotId) -> bool {
        self.abandon_incoming();
        self.abandon_taking();
        let bytes = snapshot.bytes;
        if !self.disk_space.fits_snapshot(bytes) {
            if self.refused.replace(snapshot) != Some(snapshot) {
                let free_bytes = self.disk_space.read().free;
                tracing::warn!(
                    last_included = %snapshot.last,
                    bytes,
                    free_bytes,
                    "not enough free disk space to receive the leader's snapshot"
                );
            }
            return false;
        }
        match self.files.begin(SnapshotSource::Incoming) {
            Ok(file) => {
                tracing::info!(
                    last_included = %snapshot.last,
                    bytes,
                    "receiving the leader's snapshot");
                let heard_at = Instant::now();
                let file = Some(file);
                self.incoming = Some(Incoming { snapshot, file, received_bytes: 0, heard_at });
                true
            }
            Err(error) => {
                refuse(&error);
                false
            }
        }
    }

    /// Makes a leader's snapshot durable once it has been received in full, verifies it, and sends
    /// the state loaded from it to the Raft core.
    fn complete_incoming(&mut self, snapshot: SnapshotId) {
        let Some(file) = self.incoming.as_mut().and_then(|incoming| incoming.file.take()) else {
            return;
        };
        self.keep_outgoing_open();
        match self.files.finish(file, snapshot, SnapshotLoader::default()) {
            Ok(store) => {
                tracing::info!(last_included = %snapshot.last, keys = store.key_count(),
                    "leader's snapshot received");
                self.publish_latest();
                let received = Box::new(ReceivedSnapshot { id: snapshot, store });
                reach("snapshot-incoming", "read");
                self.report(SnapshotEvent::Received(received));
            }
            Err(error) => {
                // The leader sends the snapshot again from the beginning.
                self.incoming = None;
                refuse(&error);
            }
        }
    }

    /// Abandons the running snapshot of this replica's own state, if any, because a snapshot from
    /// the leader replaces it.
    fn abandon_taking(&mut self) {
        if let Some(Taking { file, .. }) = self.taking.take() {
            self.files.abandon(file).unwrap_or_else(|error| exit_on_disk_failure(&error));
            self.scheduler.give_up(false);
        }
    }

    fn abandon_incoming(&mut self) {
        if let Some(Incoming { file: Some(file), .. }) = self.incoming.take() {
            self.files.abandon(file).unwrap_or_else(|error| exit_on_disk_failure(&error));
        }
    }
}

/// Logs that a leader's snapshot cannot be stored now, for example because the disk is full. If the
/// replica cannot continue after the error, ends the process instead.
fn refuse(error: &StorageError) {
    if !is_tolerable(error) {
        exit_on_disk_failure(error);
    }
    tracing::error!(%error, "cannot store the leader's snapshot");
}

/// Returns whether the replica can continue without a snapshot after this error: true if the
/// snapshot is damaged or the disk is full.
fn is_tolerable(error: &StorageError) -> bool {
    match error {
        StorageError::Snapshot { .. } => true,
        StorageError::Io { source, .. } => matches!(
            source.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
        ),
        _ => false,
    }
}
