//! The durable state of one replica in one folder: the log in segment files, snapshots, and two
//! small records. When a replica starts, it reads and checks all of this state before it uses any
//! of it.
//!
//! | file | contents |
//! |---|---|
//! | `identity` | [`Identity`]: the owner of a folder |
//! | `error` | [`StorageError`]: which file, which offset, what failed, what to do |
//! | [`failpoint`] | places at which tests make the process kill itself |
//! | `sector` | the unit that a disk writes atomically, with its own checksum |
//! | [`disk`] | [`Disk`]: the file operations that this module uses |
//! | `segment` | the format of segment files: segment headers and blocks |
//! | `reserve` | a file that reserves disk space for new files on a full disk |
//! | `background_delete` | deletes large files piece by piece on a thread |
//! | `real_disk` | [`RealDisk`]: a folder of the file system |
//! | [`mem_disk`] | [`MemDisk`]: a disk in memory with power cuts and faults |
//! | [`shared_disk`] | [`SharedDisk`]: several handles to one [`MemDisk`] |
//! | `meta` | the meta record: owner, members, history of starts |
//! | `peers` | [`PeerRecords`]: the last known start of each peer |
//! | `recovery` | reads the log from the bytes of all segments, or reports their damage |
//! | `active_segment` | the segment file that the log appends to |
//! | `log` | [`Log`]: bootstrap, append, sync, compact |
//! | `snapshots` | [`Snapshots`]: snapshot files |
//! | `repair` | removes what is damaged, so that the other replicas can restore it ([`Repair`]) |
//! | `opening` | opens a log: read and check, then repair and record the start ([`Recovered`]) |
//!
//! All files except `real_disk`, `reserve`, `background_delete` and `failpoint` do I/O only through
//! the [`Disk`] trait: the simulator and the crash tests run the same code over [`MemDisk`].
//!
//! Invariants:
//!
//! - Everything that a completed [`Log::sync`] covers survives any later power cut.
//! - A power cut during a sync leaves a prefix of the log; the next start truncates the torn block
//!   after it, if there is one.
//! - Any other difference from what was written is damage. It is detected when the log is opened
//!   and reported with file and offset. An acknowledged entry may then be missing, so the replica
//!   does not vote until it has recovered from the others what is lost; if no others can restore
//!   it, the replica does not start.
//! - After a failed write or sync, the [`Log`] refuses all further operations: the contents of the
//!   disk are unknown, and a second sync that succeeds proves nothing.

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
mod read_only_disk;
mod real_disk;
mod recovery;
mod repair;
mod reserve;
mod sector;
mod segment;
pub mod shared_disk;
mod snapshots;
mod wrong_state;

pub use disk::Disk;
pub use error::StorageError;
pub(crate) use error::replicas;
pub use identity::{Identity, cluster_fingerprint};
pub use log::{Log, LogOptions, LogStats};
pub use mem_disk::{AppendFault, DiskFaultCounts, MemDisk};
pub use meta::START_IDS_KEPT;
pub use opening::{Expected, FoundLog, Recovered, identity_in};
pub use peers::{HistoryError, PeerRecords, PeerStart, StartHistory};
pub use read_only_disk::ReadOnlyDisk;
pub use real_disk::{RealDisk, make_folder};
pub use recovery::check_segment;
pub use repair::Repair;
pub use reserve::{FreeSpace, RESERVE_FILE};
pub use shared_disk::SharedDisk;
pub use snapshots::{Loaded, SnapshotCheck, SnapshotSource, SnapshotWriter, Snapshots};
pub use wrong_state::mark_state_wrong;
