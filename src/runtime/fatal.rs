//! How a failing stage ends the process.

use std::thread;

use crate::storage::StorageError;

/// Exit code of a process whose disk failed.
const EXIT_DISK: i32 = 74;

/// Ends the process after a failed write.
pub(crate) fn exit_on_disk_failure(error: &StorageError) -> ! {
    tracing::error!("the disk can't be written, so this replica ends here: {error}");
    std::process::exit(EXIT_DISK)
}

/// Ends the process if its thread unwinds, for a replica with a dead core and a live network is
/// worse than a dead replica. The message has been printed by then.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
