//! The durable state of one replica in one folder: the log in segment files, snapshots, and two
//! small records. A start reads and checks everything before it uses anything.
//!
//! | file | contents |
//! |---|---|
//! | `identity` | [`Identity`]: the owner of a folder |
//! | `error` | [`StorageError`]: which file, which offset, what failed, what to do |
//! | [`failpoint`] | places at which tests make the process kill itself |
//! | `sector` | the unit that a disk writes atomically, with its own checksum |
//! | [`disk`] | [`Disk`]: the operations on files that everything here needs |
//! | `segment` | the format of segment files: segment headers and blocks |
//! | `reserve` | a file that reserves disk space for what must be stored on a full disk |
//! | `background_delete` | deletes large files piece by piece on a thread |
//! | `real_disk` | [`RealDisk`]: a folder of the file system |
//! | [`mem_disk`] | [`MemDisk`]: a disk in memory with power cuts and faults |
//! | [`shared_disk`] | [`SharedDisk`]: several handles to one [`MemDisk`] |
//! | `meta` | the meta record: owner, members, openings |
//! | `peers` | [`PeerRecords`]: the last known opening of each peer |
//! | `recovery` | from the bytes of all segments to the log, or to the damage in them |
//! | `active_segment` | the segment file that the log appends to |
//! | `log` | [`Log`]: bootstrap, append, sync, compact |
//! | `snapshots` | [`Snapshots`]: snapshot files |
//! | `opening` | opening a log: read and check all, then repair and count ([`Recovered`]) |
//!
//! All files but `real_disk`, `reserve`, `background_delete` and `failpoint` are pure over the
//! [`Disk`] trait: the simulator and the crash tests run the same code over [`MemDisk`].
//!
//! Invariants:
//!
//! - What a completed [`Log::sync`] covers survives any later power cut.
//! - A power cut during a sync leaves a prefix of the log; the torn rest is truncated at the next
//!   opening.
//! - Any other difference from what was written is found when the log is opened, reported with file
//!   and offset, and refused: without an acknowledged entry a committed write could be lost.
//! - After a failed write or sync the [`Log`] refuses everything. The contents of the disk are
//!   unknown then, and a second sync that succeeds proves nothing.

#![deny(clippy::disallowed_types)]

mod active_segment;
mod background_delete;
pub mod disk;
mod error;
pub mod failpoint;
mod identity;
mod log;
pub mod mem_disk;
mod meta;
mod opening;
mod peers;
mod real_disk;
mod recovery;
mod reserve;
mod sector;
mod segment;
pub mod shared_disk;
mod snapshots;

pub use disk::Disk;
pub use error::StorageError;
pub(crate) use error::replicas;
pub use identity::{Identity, cluster_fingerprint};
pub use log::{Log, LogOptions, LogStats};
pub use mem_disk::{AppendFault, DiskFaultCounts, MemDisk};
pub use meta::OPENINGS_KEPT;
pub use opening::{Expected, Recovered};
pub use peers::{HistoryError, OpeningHistory, PeerOpening, PeerRecords};
pub use real_disk::{RealDisk, make_folder};
pub use recovery::check_segment;
pub use reserve::{FreeSpace, RESERVE_FILE};
pub use shared_disk::SharedDisk;
pub use snapshots::{Loaded, SnapshotCheck, SnapshotSource, SnapshotWriter, Snapshots};
