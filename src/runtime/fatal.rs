//! How a failing stage ends the process. A replica with one dead stage and a live network stage is
//! worse than a dead replica: it keeps its clients and followers connected, but serves neither.

use std::thread;

use crate::storage::StorageError;
use crate::types::NodeId;

/// Exit code of the process after a failed write, sync or removal of a file (`EX_IOERR` in
/// `sysexits.h`).
const EXIT_DISK: i32 = 74;

/// Exit code of the process if its replica must be replaced (`EX_DATAERR` in `sysexits.h`).
const EXIT_REPLACE: i32 = 65;

/// Logs that this replica, which has lost its votes, cannot rejoin under its id, and exits the
/// process with code 65. `member` is the member that refused it.
pub(crate) fn exit_on_refused_rejoin(member: NodeId) -> ! {
    tracing::error!(
        %member,
        "cannot rejoin under this id: the folder was lost or damaged with votes in it, and the \
         members of the cluster have changed; replace this replica with a new one that is \
         started with --join under a new id (`bowline admin replace`); shutting down"
    );
    std::process::exit(EXIT_REPLACE)
}

/// Logs that the other replicas treat this one as a witness although it has data, or the other way
/// around (`is_witness` says what it is), and exits the process. A supervisor should not restart it
/// with the same flags.
pub(crate) fn exit_on_other_kind(is_witness: bool) -> ! {
    tracing::error!(
        is_witness,
        "the other replicas treat this replica as the other kind: a witness must be started with \
         --witness and added with `bowline admin add --witness`, any other replica without; to \
         change what it is, remove it, and add it under a new id with an empty folder; shutting \
         down"
    );
    std::process::exit(EXIT_REPLACE)
}

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
