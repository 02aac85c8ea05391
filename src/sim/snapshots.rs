//! A simulated replica's snapshots: what it took itself, what it puts together from a leader's
//! chunks, and what it reads for followers. The bytes are those of the server (`kv`); only their
//! home is memory, where what is whole is durable.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::{SnapshotError, SnapshotMark, SnapshotReader, Store};
use crate::raft::{ChunkStored, Envelope, PeerMsg, SnapshotChunk, SnapshotId};
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
pub(super) struct Snapshot {
    pub(super) id: SnapshotId,
    pub(super) bytes: Bytes,
}

/// All of one replica.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// When to take one; `None` for never.
    pub plan: Option<SnapshotPlan>,
    /// The latest that is durable.
    pub(super) latest: Option<Snapshot>,
    /// Taken, and durable in a while.
    pub(super) in_the_making: Option<Snapshot>,
    /// A leader's, as far as it has come. Whole it is taken in, in a while.
    incoming: Option<(SnapshotId, Vec<u8>)>,
    /// Read for followers, whatever became the latest since.
    outgoing: BTreeMap<NodeId, Snapshot>,
}

impl Snapshots {
    /// Takes one of `store`, which ends with the entry `last`, if it is time and none is in the
    /// making. True if it did.
    pub(super) fn take(&mut self, store: &Store, last: EntryId) -> bool {
        let Some(plan) = self.plan else { return false };
        if self.in_the_making.is_some() || last.index.0 < self.end().0 + plan.every {
            return false;
        }
        let mut bytes = Vec::new();
        let id = id_of(store.write_snapshot(last, &mut |piece| bytes.extend_from_slice(piece)));
        self.in_the_making = Some(Snapshot { id, bytes: Bytes::from(bytes) });
        true
    }

    /// The one in the making is durable now.
    pub(super) fn taken(&mut self) -> Option<SnapshotId> {
        let made = self.in_the_making.take()?;
        self.keep(made.clone());
        Some(made.id)
    }

    /// Takes in a chunk. What to tell the core, and whether all are here now.
    pub(super) fn store_chunk(&mut self, chunk: &SnapshotChunk) -> (ChunkStored, bool) {
        let SnapshotChunk { snapshot, round, offset, ref chunk } = *chunk;
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
        (ChunkStored { snapshot, round, received }, whole)
    }

    /// Reads the leader's snapshot that is whole, and keeps it.
    ///
    /// # Errors
    /// If its bytes are no snapshot.
    pub(super) fn install(&mut self) -> Option<Result<(SnapshotId, Store), SnapshotError>> {
        let (id, bytes) = self.incoming.take()?;
        if bytes.len() as u64 != id.bytes {
            // Another one has begun meanwhile.
            self.incoming = Some((id, bytes));
            return None;
        }
        let read = read(&bytes);
        if let Ok((_, found)) = &read {
            assert_eq!(*found, id, "a snapshot that is another than it was said to be");
            self.keep(Snapshot { id, bytes: Bytes::from(bytes) });
        }
        Some(read.map(|(store, _)| (id, store)))
    }

    /// Puts the chunk into a message that lacks it, if this replica has that snapshot.
    pub(super) fn fill(&mut self, envelope: &mut Envelope) -> bool {
        let Some(plan) = self.plan else { return false };
        let PeerMsg::InstallSnapshot(install) = &mut envelope.message else { return false };
        if self.outgoing.get(&envelope.to).is_none_or(|out| out.id != install.snapshot) {
            let Some(latest) = self.latest.clone().filter(|it| it.id == install.snapshot) else {
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
    pub(super) fn end(&self) -> Index {
        self.latest.as_ref().map_or(Index::ZERO, |latest| latest.id.last.index)
    }

    /// What only the memory held is gone.
    pub(super) fn crash(&mut self) {
        self.in_the_making = None;
        self.incoming = None;
        self.outgoing.clear();
    }

    /// The state in the latest.
    pub(super) fn load(&self) -> Store {
        let read = |snapshot: &Snapshot| read(&snapshot.bytes).expect("it was whole when kept").0;
        self.latest.as_ref().map_or_else(Store::default, read)
    }

    fn keep(&mut self, snapshot: Snapshot) {
        if self.latest.as_ref().is_none_or(|latest| latest.id.last.index < snapshot.id.last.index) {
            self.latest = Some(snapshot);
        }
    }
}

fn read(bytes: &[u8]) -> Result<(Store, SnapshotId), SnapshotError> {
    let mut reader = SnapshotReader::default();
    reader.feed(bytes)?;
    let (store, mark) = reader.finish()?;
    Ok((store, id_of(mark)))
}

fn id_of(mark: SnapshotMark) -> SnapshotId {
    SnapshotId { last: mark.last, bytes: mark.bytes, checksum: mark.checksum }
}
