//! The snapshots of a simulated replica: its own, one that it is receiving from a leader, and those
//! that it is sending to followers. Snapshots have the same format as the server's. They are kept
//! in files in runs with the real storage code, and otherwise in memory.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::{SnapshotError, SnapshotReader, StateMachine};
use crate::raft::{ChunkStored, Envelope, PeerMsg, SnapshotChunk, SnapshotId};
use crate::sim::disk::Disk;
use crate::snapshot_check::snapshot_id;
use crate::storage::StorageError;
use crate::types::{EntryId, Index, NodeId};

/// Snapshot settings of a simulated replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotPlan {
    /// Number of entries that a replica applies between two of its own snapshots.
    pub every: u64,
    /// Maximum number of bytes in one snapshot chunk.
    pub chunk_bytes: usize,
}

/// A complete snapshot in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Snapshot {
    pub(in crate::sim) id: SnapshotId,
    pub(in crate::sim) bytes: Bytes,
}

/// The snapshots of one simulated replica.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Snapshot interval and chunk size; `None` if the replica takes no snapshots.
    pub plan: Option<SnapshotPlan>,
    /// Id of the latest durable snapshot; `None` if there is none.
    pub(in crate::sim) latest: Option<SnapshotId>,
    /// The latest durable snapshot with its content; `None` if there is none, or in runs with the
    /// real storage code, which keeps it in a file.
    kept: Option<Snapshot>,
    /// The replica's own snapshot that is being written; `None` if no snapshot is being written.
    pub(in crate::sim) pending: Option<Snapshot>,
    /// The leader's snapshot that is being received, with the bytes received so far; `None` if
    /// there is none, or in runs with the real storage code.
    incoming: Option<(SnapshotId, Vec<u8>)>,
    /// Whether the latest snapshot is damaged, so that a new one must be taken at once.
    damaged: bool,
    /// The snapshot being sent to each follower, by follower id; empty in runs with the real
    /// storage code.
    outgoing: BTreeMap<NodeId, Snapshot>,
}

impl Snapshots {
    /// Starts writing a snapshot of `store`, whose last applied entry is `last`, if a snapshot is
    /// due and no other one is being written. Returns whether a snapshot was started.
    pub(in crate::sim) fn take(&mut self, store: &StateMachine, last: EntryId) -> bool {
        let Some(plan) = self.plan else { return false };
        let due = self.damaged || last.index.0 >= self.end().0 + plan.every;
        if self.pending.is_some() || !due {
            return false;
        }
        self.write(store, last);
        true
    }

    /// Starts writing a snapshot of `store`, whose last applied entry is `last`. No other one may
    /// be being written.
    pub(in crate::sim) fn write(&mut self, store: &StateMachine, last: EntryId) {
        assert!(self.pending.is_none(), "two snapshots are written at once");
        let mut bytes = Vec::new();
        let id =
            snapshot_id(store.write_snapshot(last, &mut |piece| bytes.extend_from_slice(piece)));
        self.pending = Some(Snapshot { id, bytes: Bytes::from(bytes) });
    }

    /// Drops all snapshots, because the replica has lost its disk.
    pub(in crate::sim) fn lose(&mut self) {
        *self = Snapshots { plan: self.plan, ..Snapshots::default() };
    }

    /// Verifies a snapshot on this replica's disk after a follower has discarded it. Returns true
    /// if this snapshot is the latest one and is damaged, so that a new one must be taken.
    pub(in crate::sim) fn recheck(&mut self, disk: &mut Disk, id: SnapshotId) -> bool {
        let damaged = disk.files().is_some_and(|files| files.recheck(id));
        self.damaged |= damaged;
        damaged
    }

    /// Returns whether the snapshot `id` was found damaged and has not been replaced yet, for
    /// example because the replacement was abandoned.
    pub(in crate::sim) fn is_still_damaged(&mut self, disk: &mut Disk, id: SnapshotId) -> bool {
        let damaged = disk.files().is_some_and(|files| files.is_still_damaged(id));
        self.damaged |= damaged;
        damaged
    }

    /// Makes the replica's own snapshot, which is being written, durable, and returns its id;
    /// `None` if no snapshot was being written or it was abandoned.
    ///
    /// # Errors
    /// If the disk failed, so that the process must stop.
    pub(in crate::sim) fn finish_pending(
        &mut self,
        disk: &mut Disk,
    ) -> Result<Option<SnapshotId>, StorageError> {
        let Some(pending) = self.pending.take() else { return Ok(None) };
        match disk.files() {
            Some(files) => {
                if !files.write_snapshot(&pending)? {
                    return Ok(None);
                }
                self.set_durable(pending.id);
            }
            None => self.keep(pending.clone()),
        }
        Ok(Some(pending.id))
    }

    /// Stores a chunk of a leader's snapshot. Returns the report that tells the replica how many
    /// bytes are stored, and whether the snapshot is now complete; `None` if the snapshot was
    /// abandoned, for example because the disk is full.
    ///
    /// # Errors
    /// If the disk failed, so that the process must stop.
    pub(in crate::sim) fn store_chunk(
        &mut self,
        disk: &mut Disk,
        chunk: &SnapshotChunk,
    ) -> Result<Option<(ChunkStored, bool)>, StorageError> {
        if let Some(files) = disk.files() {
            return files.store_chunk(chunk);
        }
        let SnapshotChunk { term, snapshot, round, offset, ref chunk } = *chunk;
        let known = self.incoming.as_ref().is_some_and(|(id, _)| *id == snapshot);
        if !known {
            self.incoming = Some((snapshot, Vec::new()));
        }
        let (_, bytes) = self.incoming.as_mut().expect("it was created above");
        let whole_before = bytes.len() as u64 == snapshot.bytes;
        if bytes.len() as u64 == offset {
            bytes.extend_from_slice(chunk);
        }
        let received = bytes.len() as u64;
        let whole = !whole_before && received == snapshot.bytes;
        Ok(Some((ChunkStored { term, snapshot, round, received }, whole)))
    }

    /// Makes a leader's snapshot the latest one and loads it, if it has been received in full.
    /// Returns its id and the state machine decoded from it; `None` if it is incomplete or was
    /// abandoned.
    ///
    /// # Errors
    /// If the disk failed, so that the process must stop.
    pub(in crate::sim) fn install(
        &mut self,
        disk: &mut Disk,
    ) -> Result<Option<(SnapshotId, StateMachine)>, StorageError> {
        if let Some(files) = disk.files() {
            let installed = files.install()?;
            if let Some((id, _)) = &installed {
                self.set_durable(*id);
            }
            return Ok(installed);
        }
        let Some((id, bytes)) = self.incoming.take() else { return Ok(None) };
        if bytes.len() as u64 != id.bytes {
            // Another snapshot has been started in the meantime.
            self.incoming = Some((id, bytes));
            return Ok(None);
        }
        let (store, found) = read(&bytes).expect("chunks in memory are not damaged");
        assert_eq!(found, id, "the snapshot must match its id");
        self.keep(Snapshot { id, bytes: Bytes::from(bytes) });
        Ok(Some((id, store)))
    }

    /// Adds the chunk's bytes to an outgoing `InstallSnapshot` message. Returns false if this
    /// replica does not have the snapshot, so that the message cannot be sent.
    pub(in crate::sim) fn fill(&mut self, disk: &mut Disk, envelope: &mut Envelope) -> bool {
        let Some(plan) = self.plan else { return false };
        let PeerMsg::InstallSnapshot(install) = &mut envelope.message else { return false };
        if let Some(files) = disk.files() {
            let (id, offset) = (install.snapshot, install.offset);
            let chunk = files.read_chunk(envelope.to, id, offset, plan.chunk_bytes);
            install.chunk = chunk.clone().unwrap_or_default();
            return chunk.is_some();
        }
        if self.outgoing.get(&envelope.to).is_none_or(|out| out.id != install.snapshot) {
            let Some(latest) = self.kept.clone().filter(|it| it.id == install.snapshot) else {
                return false;
            };
            self.outgoing.insert(envelope.to, latest);
        }
        let bytes = &self.outgoing[&envelope.to].bytes;
        let start = usize::try_from(install.offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = (start + plan.chunk_bytes).min(bytes.len());
        install.chunk = bytes.slice(start..end);
        true
    }

    /// Returns the index of the last entry covered by the latest durable snapshot; 0 if there is
    /// none.
    pub(in crate::sim) fn end(&self) -> Index {
        self.latest.map_or(Index::ZERO, |latest| latest.last.index)
    }

    /// Drops all snapshots that are not durable, as a crash does.
    pub(in crate::sim) fn crash(&mut self) {
        self.pending = None;
        self.damaged = false;
        self.incoming = None;
        self.outgoing.clear();
    }

    /// Returns the state machine decoded from the latest snapshot in memory, or an empty one if
    /// there is no snapshot. Used in runs without the real storage code.
    pub(in crate::sim) fn load(&self) -> StateMachine {
        let read = |snapshot: &Snapshot| {
            read(&snapshot.bytes).expect("only complete snapshots are kept").0
        };
        self.kept.as_ref().map_or_else(StateMachine::default, read)
    }

    fn keep(&mut self, snapshot: Snapshot) {
        if self.set_durable(snapshot.id) {
            self.kept = Some(snapshot);
        }
    }

    /// Records that the snapshot `id` is durable. Returns whether it has become the latest
    /// snapshot.
    fn set_durable(&mut self, id: SnapshotId) -> bool {
        let end = |latest: SnapshotId| latest.last.index;
        let is_latest = self.latest.is_none_or(|latest| {
            end(latest) < id.last.index || self.damaged && end(latest) == id.last.index
        });
        if is_latest {
            (self.latest, self.damaged) = (Some(id), false);
        }
        is_latest
    }
}

fn read(bytes: &[u8]) -> Result<(StateMachine, SnapshotId), SnapshotError> {
    let mut reader = SnapshotReader::default();
    reader.feed(bytes)?;
    let (store, mark) = reader.finish()?;
    Ok((store, snapshot_id(mark)))
}
