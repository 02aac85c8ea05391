//! Connects the state machine's snapshot format (module `kv`) with snapshot files (module
//! `storage`), which do not depend on each other: a snapshot file is either loaded into a state
//! machine or only verified.

use crate::kv::{SnapshotMark, SnapshotReader, StateMachine};
use crate::raft::SnapshotId;
use crate::storage::SnapshotCheck;

/// Decodes a snapshot file into a state machine, verifying its checksums.
#[derive(Debug, Default)]
pub struct SnapshotLoader(SnapshotReader);

/// Verifies a snapshot file without building a state machine from it, and so without using the
/// memory that this would need.
#[derive(Debug)]
pub struct SnapshotVerifier(SnapshotReader);

impl Default for SnapshotVerifier {
    fn default() -> SnapshotVerifier {
        SnapshotVerifier(SnapshotReader::checking())
    }
}

#[cfg(feature = "mutants")]
impl SnapshotLoader {
    /// Returns a loader that deliberately does not verify checksums, for mutation testing.
    pub fn trusting() -> SnapshotLoader {
        let mut reader = SnapshotReader::default();
        reader.trust();
        SnapshotLoader(reader)
    }
}

#[cfg(feature = "mutants")]
impl SnapshotVerifier {
    /// Returns a verifier that deliberately does not verify checksums, for mutation testing.
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

/// Converts `mark`, a snapshot's id in the state machine, to the snapshot's id in Raft messages.
/// Both contain the id of the last entry, the length and the checksum.
pub fn snapshot_id(mark: SnapshotMark) -> SnapshotId {
    SnapshotId { last: mark.last, bytes: mark.bytes, checksum: mark.checksum }
}
