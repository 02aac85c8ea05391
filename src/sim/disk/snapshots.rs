//! A simulated replica's snapshots: what it took itself, what it puts together from a leader's
//! chunks, and what it reads for followers. The bytes are those of the server (`kv`). Their home is
//! memory, where what is whole is durable; or in files (`files`), and then only what is durable is
//! known here.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::{SnapshotError, SnapshotReader, StateMachine};
use crate::raft::{ChunkStored, Envelope, PeerMsg, SnapshotChunk, SnapshotId};
use crate::sim::disk::Disk;
use crate::snapshot_check::snapshot_id;
use crate::storage::StorageError;
use crate::types::{EntryId, Index, NodeId};

/// How a replica takes and sends snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotPlan {
    /// Entries applied between one and the next.
    pub every: u64,
    /// Most bytes in a chunk.
    pub chunk_bytes: usize,
}

/// A whole snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Snapshot {
    pub(in crate::sim) id: SnapshotId,
    pub(in crate::sim) bytes: Bytes,
}

/// All of one replica.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// When to take one; `None` for never.
    pub plan: Option<SnapshotPlan>,
    /// The latest that is durable.
    pub(in crate::sim) latest: Option<SnapshotId>,
    /// It, in memory.
    kept: Option<Snapshot>,
    /// Taken, and durable in a while.
    pub(in crate::sim) in_the_making: Option<Snapshot>,
    /// A leader's, as far as it has come. Whole it is taken in, in a while.
    incoming: Option<(SnapshotId, Vec<u8>)>,
    /// The latest is damaged: another is to be taken at once.
    lost: bool,
    /// Read for followers, whatever became the latest since.
    outgoing: BTreeMap<NodeId, Snapshot>,
}

impl Snapshots {
    /// Takes one of `store`, which ends with the entry `last`, if it is time and none is in the
    /// making. True if it did.
    pub(in crate::sim) fn take(&mut self, store: &StateMachine, last: EntryId) -> bool {
        let Some(plan) = self.plan else { return false };
        let due = self.lost || last.index.0 >= self.end().0 + plan.every;
        if self.in_the_making.is_some() || !due {
            return false;
        }
        let mut bytes = Vec::new();
        let id =
            snapshot_id(store.write_snapshot(last, &mut |piece| bytes.extend_from_slice(piece)));
        self.in_the_making = Some(Snapshot { id, bytes: Bytes::from(bytes) });
        true
    }

    /// All of them are gone, with the disk.
    pub(in crate::sim) fn lose(&mut self) {
        *self = Snapshots { plan: self.plan, ..Snapshots::default() };
    }

    /// Whether a snapshot that a follower threw away is damaged on this disk, too. Then it is time
    /// for another.
    pub(in crate::sim) fn is_lost(&mut self, disk: &mut Disk, id: SnapshotId) -> bool {
        let lost = disk.files().is_some_and(|files| files.is_lost(id));
        self.lost |= lost;
        lost
    }

    /// Whether it was found to be so, and none has taken its place yet: the one that was to may
    /// have been given up.
    pub(in crate::sim) fn is_lost_still(&mut self, disk: &mut Disk, id: SnapshotId) -> bool {
        let lost = disk.files().is_some_and(|files| files.is_lost_still(id));
        self.lost |= lost;
        lost
    }

    /// The one in the making is durable now, unless it had to be given up.
    ///
    /// # Errors
    /// If the process must end.
    pub(in crate::sim) fn taken(
        &mut self,
        disk: &mut Disk,
    ) -> Result<Option<SnapshotId>, StorageError> {
        let Some(made) = self.in_the_making.take() else { return Ok(None) };
        match disk.files() {
            Some(files) => {
                if !files.save(&made)? {
                    return Ok(None);
                }
                self.is_durable(made.id);
            }
            None => self.keep(made.clone()),
        }
        Ok(Some(made.id))
    }

    /// Takes in a chunk. What to tell the core, and whether all are here now; `None` if it can't be
    /// kept.
    ///
    /// # Errors
    /// If the process must end.
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
        let (_, bytes) = self.incoming.as_mut().expect("it was put there if it was not");
        let whole_before = bytes.len() as u64 == snapshot.bytes;
        if bytes.len() as u64 == offset {
            bytes.extend_from_slice(chunk);
        }
        let received = bytes.len() as u64;
        let whole = !whole_before && received == snapshot.bytes;
        Ok(Some((ChunkStored { term, snapshot, round, received }, whole)))
    }

    /// Reads the leader's snapshot that is whole, and keeps it.
    ///
    /// # Errors
    /// If the process must end.
    pub(in crate::sim) fn install(
        &mut self,
        disk: &mut Disk,
    ) -> Result<Option<(SnapshotId, StateMachine)>, StorageError> {
        if let Some(files) = disk.files() {
            let installed = files.install()?;
            if let Some((id, _)) = &installed {
                self.is_durable(*id);
            }
            return Ok(installed);
        }
        let Some((id, bytes)) = self.incoming.take() else { return Ok(None) };
        if bytes.len() as u64 != id.bytes {
            // Another one has begun meanwhile.
            self.incoming = Some((id, bytes));
            return Ok(None);
        }
        let (store, found) = read(&bytes).expect("nothing happens to it on its way");
        assert_eq!(found, id, "a snapshot that is another than it was said to be");
        self.keep(Snapshot { id, bytes: Bytes::from(bytes) });
        Ok(Some((id, store)))
    }

    /// Puts the chunk into a message that lacks it, if this replica has that snapshot.
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

    /// Up to here the log is in a durable snapshot.
    pub(in crate::sim) fn end(&self) -> Index {
        self.latest.map_or(Index::ZERO, |latest| latest.last.index)
    }

    /// What only the memory held is gone.
    pub(in crate::sim) fn crash(&mut self) {
        self.in_the_making = None;
        self.lost = false;
        self.incoming = None;
        self.outgoing.clear();
    }

    /// The state in the latest, where that is in memory.
    pub(in crate::sim) fn load(&self) -> StateMachine {
        let read = |snapshot: &Snapshot| read(&snapshot.bytes).expect("it was whole when kept").0;
        self.kept.as_ref().map_or_else(StateMachine::default, read)
    }

    fn keep(&mut self, snapshot: Snapshot) {
        if self.is_durable(snapshot.id) {
            self.kept = Some(snapshot);
        }
    }

    /// True if it is the latest now.
    fn is_durable(&mut self, id: SnapshotId) -> bool {
        let end = |latest: SnapshotId| latest.last.index;
        let is_latest = self.latest.is_none_or(|latest| {
            end(latest) < id.last.index || self.lost && end(latest) == id.last.index
        });
        if is_latest {
            (self.latest, self.lost) = (Some(id), false);
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
