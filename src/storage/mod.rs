//! The durable log of one replica: segment files of checked sectors in one folder, group commit,
//! and a start that reads and checks everything before it trusts anything (design.md §8).
//!
//! | file | what it holds |
//! |---|---|
//! | [`disk`] | what a log needs of a disk ([`Disk`]), and a real one ([`RealDisk`]) |
//! | `sector` | the unit that a disk writes whole or not at all, with its own checksum |
//! | `segment` | the format of segment files, drawn; blocks and segment headers |
//! | `meta` | who this folder belongs to: cluster, replica, incarnation, members |
//! | `opening` | the start of a log: reads everything, then repairs and counts ([`Recovered`]) |
//! | `peers` | which openings of other replicas this one has heard ([`PeerRecords`]) |
//! | `recovery` | from the bytes of all segments to the log, or to what is wrong with them |
//! | `log` | [`Log`]: bootstrap, append, sync |
//! | `snapshots` | [`Snapshots`]: the state's snapshots in files, the log's other half |
//! | `background_delete` | deletes large files a piece at a time |
//! | [`failpoint`] | where tests let a process kill itself |
//! | `error` | [`StorageError`]: which file, which place, what was done, what to do next |
//!
//! Everything but `disk`, `reserve`, `background_delete` and `failpoint` is pure over the trait:
//! the
//! simulator and the crash tests run the same code over [`MemDisk`], all of it over one
//! ([`SharedDisk`]). What holds:
//!
//! - What a returned [`Log::sync`] covers survives any power cut after it.
//! - A power cut in the middle of a sync leaves a beginning of the log; what it tore is cut off.
//! - Anything else that is not as it was written is found when the log is opened, named, and
//!   refused: to go on without an entry that was vouched for could lose a committed write.
//! - After a failed write or sync the [`Log`] refuses everything: nobody knows what the disk holds
//!   then, and a second sync that succeeds proves nothing (safety.md D1).

#![deny(clippy::disallowed_types)]

mod background_delete;
pub mod disk;
mod error;
pub mod failpoint;
mod log;
pub mod mem_disk;
mod meta;
mod opening;
mod peers;
mod recovery;
mod reserve;
mod sector;
mod segment;
pub mod shared_disk;
mod snapshots;

pub use disk::{Disk, RealDisk, make_folder};
pub use error::StorageError;
pub(crate) use error::replicas;
pub use log::{Log, LogOptions, LogStats};
pub use mem_disk::{AppendFault, DiskFaultCounts, MemDisk};
pub use meta::OPENINGS_KEPT;
pub use opening::{Expected, Recovered};
pub use peers::{HistoryError, OpeningHistory, PeerOpening, PeerRecords};
pub use recovery::check_segment;
pub use reserve::{FreeSpace, RESERVE_FILE};
pub use shared_disk::SharedDisk;
pub use snapshots::{Loaded, SnapshotCheck, SnapshotSource, SnapshotWriter, Snapshots};

use sha2::{Digest as _, Sha256};

use crate::types::NodeId;

/// Whose log a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, drawn once when it was made.
    pub cluster: u128,
    /// The replica in it.
    pub replica: NodeId,
    /// How often the log was opened, this time included: never the same twice, so that peers can
    /// tell a replica from its own past (safety.md D6).
    pub incarnation: u64,
}

/// The fingerprint of a cluster's id, which clients and logs may show: half of its SHA-256. The id
/// itself is a secret of the replicas, because a sender that knows it can pose as one of them.
pub fn cluster_fingerprint(cluster: u128) -> u128 {
    let mut hash = Sha256::new();
    hash.update(b"bowline cluster fingerprint\n");
    hash.update(cluster.to_le_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let (half, _) = hash.split_first_chunk().expect("32 bytes");
    u128::from_be_bytes(*half)
}
