//! Writing, receiving, installing and sending snapshots in a simulated replica's folder.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Folder, Incoming, Process};
use crate::config::Mutant;
use crate::kv::StateMachine;
use crate::raft::{ChunkStored, SnapshotChunk, SnapshotId};
use crate::sim::disk::snapshots::Snapshot;
use crate::sim::disk::statistics::{DiskFault, FaultEffect};
use crate::snapshot_check::{SnapshotLoader, SnapshotVerifier};
use crate::storage::{Disk as _, SharedDisk, SnapshotSource, Snapshots, StorageError};
use crate::types::NodeId;

/// Number of snapshot bytes per write to a snapshot file.
const PIECE_BYTES: usize = 700;

impl Folder {
    /// Writes the replica's own snapshot to a file and makes it durable. Returns false if the
    /// snapshot was abandoned, because the disk is full or the written file is invalid.
    ///
    /// # Errors
    /// If the disk failed, so that the process must stop.
    pub(in crate::sim) fn write_snapshot(
        &mut self,
        snapshot: &Snapshot,
    ) -> Result<bool, StorageError> {
        let saved = self.try_write_snapshot(snapshot);
        self.tolerate(saved).map(|saved| saved.is_some())
    }

    pub(super) fn try_write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StorageError> {
        let Process { snapshots, outgoing, .. } = self.process.as_mut().expect("the replica runs");
        let mut file = snapshots.begin(SnapshotSource::Own)?;
        for piece in snapshot.bytes.chunks(PIECE_BYTES) {
            if let Err(error) = snapshots.write(&mut file, piece) {
                snapshots.abandon(file)?;
                return Err(error);
            }
        }
        keep_open(snapshots, outgoing);
        self.finished.push(snapshot.id);
        snapshots.finish(file, snapshot.id, verifier(&self.disk))?;
        snapshots.drop_previous()?;
        self.statistics.snapshots_taken += 1;
        Ok(())
    }

    /// Converts an error that the replica's process survives (a full disk or an invalid snapshot)
    /// to `None`; passes on other errors.
    fn tolerate<T>(&mut self, result: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(error)
                if error.is_disk_full() || matches!(error, StorageError::Snapshot { .. }) =>
            {
                self.collect_faults();
                let kind = if error.is_disk_full() {
                    DiskFault::FullDisk
                } else if self.new_faults.contains(&DiskFault::BadSnapshotWrite) {
                    DiskFault::BadSnapshotWrite
                } else {
                    // The only valid reason is damage on the disk of the replica that sent the
                    // snapshot.
                    self.bad_snapshot = Some(error.to_string());
                    DiskFault::CorruptSnapshot
                };
                self.statistics.cause(kind, FaultEffect::Abandoned);
                Ok(None)
            }
            Err(error) => {
                self.count_stop();
                Err(error)
            }
        }
    }

    /// Stores a chunk of a leader's snapshot. Returns the report that tells the replica how many
    /// bytes are stored, and whether the snapshot is now complete; `None` if the snapshot was
    /// abandoned, for example because the disk is full.
    ///
    /// # Errors
    /// If the disk failed, so that the process must stop.
    pub(in crate::sim) fn store_chunk(
        &mut self,
        chunk: &SnapshotChunk,
    ) -> Result<Option<(ChunkStored, bool)>, StorageError> {
        let stored = self.try_store_chunk(chunk);
        self.tolerate(stored)
    }

    pub(super) fn try_store_chunk(
        &mut self,
        chunk: &SnapshotChunk,
    ) -> Result<(ChunkStored, bool), StorageError> {
        let SnapshotChunk { term, snapshot, round, offset, ref chunk } = *chunk;
        let mixes = self.disk.mutant() == Some(Mutant::MixChunks);
        let is_other = |incoming: &Incoming| incoming.id != snapshot && !mixes;
        if self.process().incoming.as_ref().is_none_or(is_other) {
            self.abandon_incoming()?;
            let process = self.process();
            let file = Some(process.snapshots.begin(SnapshotSource::Incoming)?);
            process.incoming = Some(Incoming { id: snapshot, file, received: 0 });
        }
        let Process { snapshots, incoming, .. } = self.process();
        let there = incoming.as_mut().expect("it was created above");
        if let Some(file) = &mut there.file
            && there.received == offset
            && !chunk.is_empty()
        {
            if let Err(error) = snapshots.write(file, chunk) {
                self.abandon_incoming()?;
                return Err(error);
            }
            there.received += chunk.len() as u64;
        }
        let whole = there.file.is_some() && there.received == snapshot.bytes;
        Ok((ChunkStored { term, snapshot, round, received: there.received }, whole))
    }

    pub(super) fn abandon_incoming(&mut self) -> Result<(), StorageError> {
        let Process { snapshots, incoming, .. } = self.process();
        match incoming.take() {
            Some(Incoming { file: Some(file), .. }) => snapshots.abandon(file),
            _ => Ok(()),
        }
    }

    /// Makes a leader's snapshot durable and loads it, if it has been received in full. Returns its
    /// id and the state machine decoded from it; `None` if it is incomplete or was abandoned.
    ///
    /// # Errors
    /// If the disk failed, so that the process must stop.
    pub(in crate::sim) fn install(
        &mut self,
    ) -> Result<Option<(SnapshotId, StateMachine)>, StorageError> {
        let installed = self.try_install();
        let installed = self.tolerate(installed)?.flatten();
        if installed.is_some() {
            self.statistics.snapshots_installed += 1;
            for kind in std::mem::take(&mut self.old_faults) {
                self.statistics.cause(kind, FaultEffect::CaughtUp);
            }
        }
        Ok(installed)
    }

    pub(super) fn try_install(
        &mut self,
    ) -> Result<Option<(SnapshotId, StateMachine)>, StorageError> {
        let Process { snapshots, outgoing, incoming, .. } =
            self.process.as_mut().expect("the replica runs");
        let Some(there) = incoming.as_mut().filter(|it| it.received == it.id.bytes) else {
            // Another snapshot has been started in the meantime.
            return Ok(None);
        };
        let (id, Some(file)) = (there.id, there.file.take()) else { return Ok(None) };
        keep_open(snapshots, outgoing);
        self.finished.push(id);
        let finished = snapshots.finish(file, id, loader(&self.disk));
        if finished.is_err() {
            // The leader sends the snapshot again from the start.
            *incoming = None;
        }
        let store = finished?;
        snapshots.drop_previous()?;
        Ok(Some((id, store)))
    }

    /// Returns and clears the error of an invalid snapshot that was written to this disk without an
    /// injected fault; `None` if there is none.
    pub(in crate::sim) fn take_bad_snapshot(&mut self) -> Option<String> {
        self.bad_snapshot.take()
    }

    /// Returns, and then forgets, the snapshots that the replica has begun to make durable since
    /// the previous call.
    pub(in crate::sim) fn take_finished(&mut self) -> Vec<SnapshotId> {
        std::mem::take(&mut self.finished)
    }

    /// Returns a chunk of a snapshot, of at most `bytes_max` bytes, to be sent to the follower
    /// `to`; `None` if the snapshot cannot be read.
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

    /// Verifies a snapshot on this replica's disk after a follower has discarded it. Returns true
    /// if this snapshot is the latest one and is damaged, so that it must be replaced.
    pub(in crate::sim) fn recheck(&mut self, id: SnapshotId) -> bool {
        let lost = self
            .process
            .as_mut()
            .is_some_and(|process| process.snapshots.recheck(id, verifier(&self.disk)).is_err());
        if lost {
            self.statistics.cause(DiskFault::CorruptSnapshot, FaultEffect::Replaced);
        }
        lost
    }

    /// Returns whether the snapshot `id` was found damaged and has not been replaced yet.
    pub(in crate::sim) fn is_still_damaged(&self, id: SnapshotId) -> bool {
        self.process.as_ref().is_some_and(|process| process.snapshots.is_lost(id))
    }
}

/// Opens the snapshots that are being sent to followers, so that they stay readable after a new
/// snapshot is finished and their files are deleted.
fn keep_open(snapshots: &mut Snapshots<SharedDisk>, outgoing: &BTreeMap<NodeId, SnapshotId>) {
    for &id in outgoing.values() {
        // An error will occur again when the next chunk is read.
        let _ = snapshots.read(id, 0, 0);
    }
}

/// Returns the loader that decodes a snapshot file into a state machine. The loader verifies
/// checksums, except in mutation tests that break this rule.
pub(super) fn loader(folder: &SharedDisk) -> SnapshotLoader {
    #[cfg(feature = "mutants")]
    if folder.mutant() == Some(Mutant::IgnoreSnapshotChecksum) {
        return SnapshotLoader::trusting();
    }
    let _ = folder;
    SnapshotLoader::default()
}

/// Returns the verifier that checks a snapshot file for damage. It verifies checksums, except in
/// mutation tests that break this rule.
pub(super) fn verifier(folder: &SharedDisk) -> SnapshotVerifier {
    #[cfg(feature = "mutants")]
    if folder.mutant() == Some(Mutant::IgnoreSnapshotChecksum) {
        return SnapshotVerifier::trusting();
    }
    let _ = folder;
    SnapshotVerifier::default()
}
