//! How a failing stage ends the process. A replica with one dead stage and a live network is worse
//! than a dead replica: it holds its clients, and its followers, and serves neither.

use std::thread;

use crate::storage::StorageError;

/// Exit code after a failed write, sync or removal (`EX_IOERR` of `sysexits.h`).
const EXIT_DISK: i32 = 74;

/// Exits after a failed disk operation. It is not tried again: after a failed sync the process
/// can't know what the disk holds, so it must not acknowledge anything any more.
pub(crate) fn exit_on_disk_failure(error: &StorageError) -> ! {
    tracing::error!(%error, "disk write failed, shutting down; check the disk, then start again");
    std::process::exit(EXIT_DISK)
}

/// Aborts the process if its thread unwinds. The panic's message has been printed by then.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
