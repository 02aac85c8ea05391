//! Errors of a replica's folder. Each message names the operation, the file, the offset if there is
//! one, the reason, and what the operator can do.

use std::io;

use crate::types::{EntryId, Index, NodeId};

/// How to recover from a damaged folder. Advice with concrete paths is added by the command line.
const REMEDY: &str = "nothing in the folder was changed, and the other replicas are not affected; \
                      rebuild this replica from them: `bowline cluster --replace ID`, or \
                      `bowline serve --rejoin` with an empty folder";

/// Why a replica's folder cannot be created, opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// An operation on a file or the folder failed.
    #[error("cannot {action} {file}: {source}; {}", io_advice(.source))]
    Io {
        /// The operation, as the verb of a sentence: "sync".
        action: &'static str,
        /// Path of the file or folder.
        file: String,
        /// The system's error.
        source: io::Error,
    },
    /// Another process has the folder open.
    #[error(
        "{folder} is in use by another process; stop that one, or give this one another folder"
    )]
    Locked {
        /// Path of the folder.
        folder: String,
    },
    /// A folder to be bootstrapped is not empty.
    #[error(
        "{file} already exists, so the folder is not empty; start without --bootstrap and \
         --rejoin if it is this replica's folder, or choose an empty one"
    )]
    NotEmpty {
        /// A file that exists.
        file: String,
    },
    /// The folder has no meta record.
    #[error(
        "{file} is missing: this folder was never bootstrapped, or its disk was wiped; start the \
         replicas of a new cluster with --bootstrap, but never one that has run before: {REMEDY}"
    )]
    NoIdentity {
        /// Path of the missing file.
        file: String,
    },
    /// The folder belongs to another cluster.
    #[error(
        "{file} belongs to cluster {found:032x}, not to {expected:032x}; check --dir and the \
         cluster id"
    )]
    OtherCluster {
        /// Path of the file with the id.
        file: String,
        /// The cluster in the file.
        found: u128,
        /// This replica's cluster.
        expected: u128,
    },
    /// The folder belongs to another replica.
    #[error("{file} belongs to replica {found}, not to replica {expected}; check --dir and --id")]
    OtherReplica {
        /// Path of the file with the id.
        file: String,
        /// The replica in the file.
        found: NodeId,
        /// This replica.
        expected: NodeId,
    },
    /// The folder's members differ from the expected ones.
    #[error(
        "--peers and --id name {}, but {file} belongs to a cluster of {}: the members of a cluster \
         are fixed when it is bootstrapped; name all of them in --peers with their current \
         addresses, or check --dir",
        replicas(.expected), replicas(.found)
    )]
    OtherMembers {
        /// Path of the file with the id.
        file: String,
        /// The ids in the folder.
        found: Vec<NodeId>,
        /// The ids from the command line.
        expected: Vec<NodeId>,
    },
    /// The file's format version is unknown.
    #[error(
        "{file} has format version {found}, but this version of bowline reads only {known}; start \
         it with the version that wrote the file"
    )]
    Version {
        /// Path of the file.
        file: String,
        /// The file's format version.
        found: u32,
        /// The format version that this program writes.
        known: u32,
    },
    /// Bytes differ from what was written.
    #[error(
        "{file} is damaged at byte {offset}: {what}; the entries there may be committed, so \
         nothing is truncated; {REMEDY}"
    )]
    Damaged {
        /// Path of the file.
        file: String,
        /// Byte offset of the damage.
        offset: u64,
        /// The damage.
        what: String,
    },
    /// A segment of the log is missing.
    #[error("{file} is missing, but the meta record or a later segment refers to it; {REMEDY}")]
    Missing {
        /// Path of the missing file.
        file: String,
    },
    /// Files of the folder are of different ages: some were restored from a copy.
    #[error(
        "{file} is older than the rest of the folder: {what}; a folder restored from a copy lacks \
         entries that it acknowledged; {REMEDY}"
    )]
    RolledBack {
        /// Path of the older file.
        file: String,
        /// The contradiction that shows it.
        what: String,
    },
    /// Entries are missing between a snapshot and the log.
    #[error(
        "the log in {folder} starts with entry {first}, but its snapshots end with entry {end}: a \
         snapshot is missing or damaged; {REMEDY}"
    )]
    Uncovered {
        /// Path of the folder.
        folder: String,
        /// Index of the log's first entry.
        first: Index,
        /// Last index of the latest complete snapshot; zero without one.
        end: Index,
    },
    /// A snapshot is damaged, and the log does not reach back far enough to do without it.
    #[error(
        "{file} is damaged, and its state up to entry {last} is not in the log or in an older \
         snapshot, which ends with entry {end}; {REMEDY}"
    )]
    SnapshotLost {
        /// Path of the damaged snapshot.
        file: String,
        /// The last entry in it.
        last: EntryId,
        /// Last index of the latest complete snapshot; zero without one.
        end: Index,
    },
    /// A file is not a complete snapshot.
    #[error("{file} is not a complete snapshot: {what}")]
    Snapshot {
        /// Path of the file.
        file: String,
        /// The damage.
        what: String,
    },
    /// An earlier write or sync failed.
    #[error(
        "the log in {folder} accepts no more work because a write or sync failed; restart the \
         process so that it reads its disk again"
    )]
    Failed {
        /// Path of the folder.
        folder: String,
    },
}

impl StorageError {
    /// Whether files are damaged, missing or out of date: the replica must be rebuilt.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            StorageError::Damaged { .. }
                | StorageError::Missing { .. }
                | StorageError::NoIdentity { .. }
                | StorageError::RolledBack { .. }
                | StorageError::Uncovered { .. }
                | StorageError::SnapshotLost { .. }
        )
    }

    /// Whether the operation failed only for lack of disk space, or at a limit on file sizes.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let StorageError::Io { source, .. } = self else { return false };
        matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    }
}

/// What the operator can do about a system's error.
fn io_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free disk space, then start again: no acknowledged write is lost"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "give this user write access to the folder, then start again"
        }
        io::ErrorKind::FileTooLarge => {
            "raise this user's limit on file sizes, then start again: no acknowledged write is lost"
        }
        io::ErrorKind::NotFound => "check the path of the folder",
        _ => "check the disk, then start again: no acknowledged write is lost",
    }
}

/// Replica ids for a message: `replicas 1, 2, 3`.
pub(crate) fn replicas(ids: &[NodeId]) -> String {
    let names: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
    format!("replica{} {}", if ids.len() == 1 { "" } else { "s" }, names.join(", "))
}
