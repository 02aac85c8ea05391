//! What ties the store's snapshots to the files that keep them: the store knows nothing of files,
//! and the files nothing of what is in them.

use crate::kv::{SnapshotMark, SnapshotReader, StateMachine};
use crate::raft::SnapshotId;
use crate::storage::SnapshotCheck;

/// Makes a state of a snapshot's bytes.
#[derive(Debug, Default)]
pub struct SnapshotLoader(SnapshotReader);

/// Only looks whether bytes are a snapshot: a second state would need as much memory as the first.
#[derive(Debug)]
pub struct SnapshotVerifier(SnapshotReader);

impl Default for SnapshotVerifier {
    fn default() -> SnapshotVerifier {
        SnapshotVerifier(SnapshotReader::checking())
    }
}

#[cfg(feature = "mutants")]
impl SnapshotLoader {
    /// One that believes checksums as they are written.
    pub fn trusting() -> SnapshotLoader {
        let mut reader = SnapshotReader::default();
        reader.trust();
        SnapshotLoader(reader)
    }
}

#[cfg(feature = "mutants")]
impl SnapshotVerifier {
    /// The same.
    pub fn trusting() -> SnapshotVerifier {
        let mut reader = SnapshotReader::checking();
        reader.trust();
        SnapshotVerifier(reader)
    }
}

impl SnapshotCheck for SnapshotLoader {
    type Whole = StateMachine;

    fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        self.0.feed(piece).map_err(|error| error.to_string())
    }

    fn finish(self) -> Result<(SnapshotId, StateMachine), String> {
        let (store, mark) = self.0.finish().map_err(|error| error.to_string())?;
        Ok((snapshot_id(mark), store))
    }
}

impl SnapshotCheck for SnapshotVerifier {
    type Whole = ();

    fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        self.0.feed(piece).map_err(|error| error.to_string())
    }

    fn finish(self) -> Result<(SnapshotId, ()), String> {
        let mark = self.0.mark().map_err(|error| error.to_string())?;
        Ok((snapshot_id(mark), ()))
    }
}

/// A snapshot's name among replicas, by what the store tells it by.
pub fn snapshot_id(mark: SnapshotMark) -> SnapshotId {
    SnapshotId { last: mark.last, bytes: mark.bytes, checksum: mark.checksum }
}
