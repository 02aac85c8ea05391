//! The stages of a replica: plain objects, each with a pass that receives the waiting items, calls
//! pure code, and sends the results once. `threads.rs` assigns stages to threads.
//!
//! | stage | file | owns |
//! |---|---|---|
//! | network | the server's and the university course's; trait in `network.rs` | the sockets |
//! | core | `core/` | [`Replica`](crate::raft::Replica) and the monotonic clock |
//! | log writer | `log_writer.rs`, over the files of `disk_log.rs` | the log |
//! | applier | `applier.rs`, on a shared thread `shared_applier.rs` | the state machine |
//! | snapshots | `snapshots.rs` | the snapshot files |
//! | background deletion | `background_delete.rs` | removed values |

pub(crate) mod applier;
pub(crate) mod background_delete;
pub(crate) mod core;
pub(crate) mod disk_log;
pub(crate) mod disk_space;
pub(crate) mod log_writer;
pub(crate) mod network;
#[cfg(test)]
mod seeded_tests;
mod shared_applier;
pub(crate) mod snapshot_scheduler;
pub(crate) mod snapshots;
pub(crate) mod threads;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use self::applier::Applier;
use self::background_delete::BackgroundDelete;
use self::core::Core;
use self::log_writer::LogWriter;
use self::snapshots::SnapshotIo;

/// The stages of one replica, which are passed to the code that starts their threads.
pub(crate) struct Stages<N> {
    pub(crate) network: N,
    pub(crate) core: Core,
    pub(crate) log_writer: LogWriter,
    pub(crate) applier: Applier,
    /// The snapshots stage; `None` for a replica that takes no snapshots (under the university
    /// course's simulator).
    pub(crate) snapshots: Option<SnapshotIo>,
    /// The background deletion; `None` if the applier frees removed values itself (under the
    /// university course's simulator).
    pub(crate) background_delete: Option<BackgroundDelete>,
}

/// Returns a random seed for the replica, derived from the random keys of the standard library's
/// hash maps.
pub(crate) fn random_seed() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}
