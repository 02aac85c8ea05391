//! Connects the state machine's snapshot format (module `kv`) with snapshot files (module
//! `storage`), which do not depend on each other: a snapshot file is either loaded into a state
//! machine or only verified.

use crate::kv::{SnapshotError, SnapshotMark, SnapshotReader, StateMachine};
use crate::raft::SnapshotId;
use crate::storage::SnapshotCheck;

/// Loads a snapshot file into a new state machine, and verifies the file's checksums.
#[derive(Debug, Default)]
pub struct SnapshotLoader(SnapshotReader);

/// Verifies a snapshot file without loading it into a state machine, which would take much memory.
#[derive(Debug)]
pub struct SnapshotVerifier(SnapshotReader);

/// Verifies a snapshot file like [`SnapshotVerifier`], and finds out whether it is that of a
/// witness, which has no data.
#[derive(Debug)]
pub struct SnapshotInspector(SnapshotReader);

impl Default for SnapshotInspector {
    fn default() -> SnapshotInspector {
        SnapshotInspector(SnapshotReader::checking())
    }
}

impl SnapshotCheck for SnapshotInspector {
    type Whole = bool;

    fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        self.0.feed(piece).map_err(|error| error.to_string())
    }

    fn finish(self) -> Result<(SnapshotId, bool), String> {
        let mark = self.0.mark().map_err(|error| error.to_string())?;
        Ok((snapshot_id(mark), self.0.is_witness()))
    }
}

impl Default for SnapshotVerifier {
    fn default() -> SnapshotVerifier {
        SnapshotVerifier(SnapshotReader::checking())
    }
}

impl SnapshotVerifier {
    /// Returns whether the snapshot, which must be complete, has the right checksums, but not the
    /// contents that its digest says: the state that was written contradicts its digest.
    pub fn contradicts(&self) -> bool {
        matches!(self.0.mark(), Err(SnapshotError::Contents { .. }))
    }
}

#[cfg(feature = "mutants")]
impl SnapshotLoader {
    /// Deliberate bug for mutation testing: returns a loader that does not verify checksums.
    pub fn trusting() -> SnapshotLoader {
        let mut reader = SnapshotReader::default();
        reader.trust();
        SnapshotLoader(reader)
    }
}

#[cfg(feature = "mutants")]
impl SnapshotVerifier {
    /// Deliberate bug for mutation testing: returns a verifier that does not verify checksums.
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

/// Converts the snapshot id of Raft messages to the id by which the state machine identifies a
/// snapshot.
pub fn snapshot_mark(id: SnapshotId) -> SnapshotMark {
    SnapshotMark { last: id.last, bytes: id.bytes, checksum: id.checksum }
}

/// Converts the id by which the state machine identifies a snapshot (`SnapshotMark`) to the
/// snapshot id of Raft messages. Both contain the id of the last log entry, the length and the
/// checksum.
pub fn snapshot_id(mark: SnapshotMark) -> SnapshotId {
    SnapshotId { last: mark.last, bytes: mark.bytes, checksum: mark.checksum }
}
