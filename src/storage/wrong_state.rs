//! The wrong-state mark: a file in the folder of a replica whose state differs from that of a
//! majority at the same log index. The next start deletes the snapshots, which may contain the
//! wrong state, and rebuilds the state from the log and from the other replicas. The log itself is
//! right; it is kept if it begins with the first entry.
//!
//! The mark is a separate file, so that it becomes durable at once, independently of the log
//! writer. A start deletes it last, so a start that a power cut interrupts is repeated.

use super::disk::{Disk, io_error};
use super::error::StorageError;
use super::meta::replace;
use super::sector::{self, SECTOR_BYTES};

pub(super) const FILE: &str = "wrong-state";
const FILE_NEW: &str = "wrong-state.new";
const MAGIC: &[u8; 16] = b"bowline wrong\n\n\n";

/// Durably marks the state in the folder as wrong, so that no start uses the snapshots in it.
///
/// # Errors
/// If the folder cannot be written.
pub fn mark_state_wrong<D: Disk>(disk: &mut D) -> Result<(), StorageError> {
    let mut bytes = Vec::with_capacity(SECTOR_BYTES);
    sector::seal(0, 0, 0, MAGIC, &mut bytes);
    replace(disk, FILE, FILE_NEW, &bytes)
}

/// Returns whether `names`, the files of a folder, include the mark.
pub(super) fn is_marked(names: &[String]) -> bool {
    names.iter().any(|name| name == FILE)
}

/// Returns the error that describes the mark, if `names` include it.
pub(super) fn error_in<D: Disk>(disk: &D, names: &[String]) -> Option<StorageError> {
    is_marked(names).then(|| StorageError::WrongState { file: disk.describe(FILE) })
}

/// Durably deletes the mark, as the last step of the start that has removed the wrong state.
pub(super) fn delete_mark<D: Disk>(disk: &mut D) -> Result<(), StorageError> {
    disk.delete(FILE).map_err(io_error(disk, "delete", FILE))?;
    disk.sync_dir().map_err(io_error(disk, "sync", ""))
}
