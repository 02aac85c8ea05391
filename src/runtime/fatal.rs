//! How a failing stage ends the process. A replica with one dead stage and a live network stage is
//! worse than a dead replica: it keeps its clients and followers connected, but serves neither.

use std::thread;

use crate::storage::StorageError;

/// Exit code of the process after a failed write, sync or removal of a file (`EX_IOERR` in
/// `sysexits.h`).
const EXIT_DISK: i32 = 74;

/// Logs the error of a failed disk operation, and exits the process with code 74. The operation is
/// not retried, because after a failed sync the content of the disk is unknown, so the replica must
/// not acknowledge anything.
pub(crate) fn exit_on_disk_failure(error: &StorageError) -> ! {
    tracing::error!(%error, "disk write failed, shutting down");
    std::process::exit(EXIT_DISK)
}

/// Guard that aborts the process if it is dropped while its thread unwinds from a panic. By then,
/// the panic message has been printed.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
