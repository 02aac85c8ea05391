//! What ties the store's snapshots to the files that keep them: the store knows nothing of files,
//! and the files nothing of what is in them.

use crate::kv::{SnapshotMark, SnapshotReader, Store};
use crate::raft::SnapshotId;
use crate::storage::SnapshotCheck;

/// Makes a state of a snapshot's bytes.
#[derive(Debug, Default)]
pub struct Load(SnapshotReader);

/// Only looks whether bytes are a snapshot: a second state would need as much memory as the first.
#[derive(Debug)]
pub struct Look(SnapshotReader);

impl Default for Look {
    fn default() -> Look {
        Look(SnapshotReader::checking())
    }
}

#[cfg(feature = "mutants")]
impl Load {
    /// One that believes checksums as they are written.
    pub fn trusting() -> Load {
        let mut reader = SnapshotReader::default();
        reader.trust();
        Load(reader)
    }
}

#[cfg(feature = "mutants")]
impl Look {
    /// The same.
    pub fn trusting() -> Look {
        let mut reader = SnapshotReader::checking();
        reader.trust();
        Look(reader)
    }
}

impl SnapshotCheck for Load {
    type Whole = Store;

    fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        self.0.feed(piece).map_err(|error| error.to_string())
    }

    fn finish(self) -> Result<(SnapshotId, Store), String> {
        let (store, mark) = self.0.finish().map_err(|error| error.to_string())?;
        Ok((id_of(mark), store))
    }
}

impl SnapshotCheck for Look {
    type Whole = ();

    fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        self.0.feed(piece).map_err(|error| error.to_string())
    }

    fn finish(self) -> Result<(SnapshotId, ()), String> {
        let mark = self.0.mark().map_err(|error| error.to_string())?;
        Ok((id_of(mark), ()))
    }
}

/// A snapshot's name among replicas, by what the store tells it by.
pub fn id_of(mark: SnapshotMark) -> SnapshotId {
    SnapshotId { last: mark.last, bytes: mark.bytes, checksum: mark.checksum }
}
