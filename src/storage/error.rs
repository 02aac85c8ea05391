//! Errors of operations on a replica's folder. Each message names the operation, the file, the
//! offset if there is one, the reason, and what the operator can do.

use std::io;

use crate::feature_level::FeatureLevel;
use crate::types::{EntryId, Index, NodeId};

/// Advice at the end of error messages about a folder that the replica cannot repair itself. The
/// command-line tool adds the paths and commands.
const REMEDY: &str = "nothing in the folder was changed, and the other replicas are not affected; \
                      rebuild this replica from them: `bowline cluster --replace ID`, or \
                      `bowline serve --rejoin` with an empty folder";

/// Reason why a replica's data folder cannot be created, opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// An operation on the folder or on one of its files failed with an error from the operating
    /// system.
    #[error("cannot {action} {file}: {source}; {}", io_advice(.source))]
    Io {
        /// The failed operation, as a verb for the error message, such as "sync".
        action: &'static str,
        /// Path of the file or folder on which the operation failed.
        file: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// Another process has the replica's folder open.
    #[error(
        "{folder} is in use by another process; stop that process, or choose another folder with \
         --dir"
    )]
    Locked {
        /// Path of the folder that is in use.
        folder: String,
    },
    /// The folder is marked because its state differs from that of a majority.
    #[error(
        "the state of this replica is wrong according to {file}: a majority of the replicas had \
         another one at the same log index; start the replica, so that it rebuilds its state from \
         theirs"
    )]
    WrongState {
        /// Path of the marker file.
        file: String,
    },
    /// `--bootstrap` or `--rejoin` was given, but the replica's folder is not empty.
    #[error(
        "{file} already exists, so the folder is not empty; start without --bootstrap and \
         --rejoin if it is this replica's folder, or choose an empty one"
    )]
    NotEmpty {
        /// Path of a file that makes the folder non-empty.
        file: String,
    },
    /// The file `meta`, which holds the ids of the cluster and the replica, is missing: the folder
    /// was never bootstrapped, or its disk was wiped.
    #[error(
        "{file} is missing: this folder was never bootstrapped, or its disk was wiped; start the \
         replicas of a new cluster with --bootstrap, but never one that has run before: {REMEDY}"
    )]
    NoIdentity {
        /// Path of the missing file `meta`.
        file: String,
    },
    /// The data folder belongs to a replica of another cluster.
    #[error(
        "{file} belongs to cluster {found:032x}, not to {expected:032x}; check --dir and \
         --cluster"
    )]
    OtherCluster {
        /// Path of the file that contains the other cluster's id.
        file: String,
        /// Id of the cluster to which the folder belongs, as stored in the file.
        found: u128,
        /// Id of the cluster that this replica is configured to join.
        expected: u128,
    },
    /// The data folder belongs to another replica of the same cluster.
    #[error("{file} belongs to replica {found}, not to replica {expected}; check --dir and --id")]
    OtherReplica {
        /// Path of the file that contains the other replica's id.
        file: String,
        /// Id of the replica to which the folder belongs, as stored in the file.
        found: NodeId,
        /// Id of this replica, as given on the command line.
        expected: NodeId,
    },
    /// The replica ids on the command line differ from the cluster's members that are stored in the
    /// folder.
    #[error(
        "--peers and --id name {}, but {file} belongs to a cluster of {}: the members of a cluster \
         are fixed when it is bootstrapped; name all of them in --peers with their current \
         addresses, or check --dir",
        replicas(.expected), replicas(.found)
    )]
    OtherMembers {
        /// Path of the file that lists the cluster's members.
        file: String,
        /// Replica ids of the cluster's members, as stored in the file.
        found: Vec<NodeId>,
        /// Replica ids of the cluster's members, as given on the command line.
        expected: Vec<NodeId>,
    },
    /// A file has a format version that this program cannot read.
    #[error(
        "{file} has format version {found}, which this version of bowline cannot read (it writes \
         {known}); start the replica with the version that wrote the file"
    )]
    Version {
        /// Path of the file with the unsupported format version.
        file: String,
        /// Format version of the file, which this program cannot read.
        found: u32,
        /// The only format version in which this program reads and writes this kind of file.
        known: u32,
    },
    /// The cluster that the folder belongs to has a feature level that this program does not
    /// support.
    #[error(
        "{file} belongs to a cluster with feature level {level}: start the replica with {} of \
         bowline; nothing in the folder was changed",
        .level.needed_version()
    )]
    FeatureLevel {
        /// Path of the file that records the level.
        file: String,
        /// Feature level of the cluster.
        level: FeatureLevel,
    },
    /// A log segment, the file `meta` or the file `peers` is corrupt: its contents differ from what
    /// the replica wrote.
    #[error("{file} is damaged at byte {offset}: {what}")]
    Damaged {
        /// Path of the damaged file.
        file: String,
        /// Byte offset of the damage in the file.
        offset: u64,
        /// Description of the damage, for the error message.
        what: String,
    },
    /// A segment file of the log is missing.
    #[error("{file} is missing, but the meta record or a later segment refers to it")]
    Missing {
        /// Path of the missing segment file.
        file: String,
    },
    /// The folder's files contradict each other, because at least one was restored from an older
    /// copy.
    #[error(
        "{file} is older than the rest of the folder: {what}; a folder restored from a copy lacks \
         entries that it acknowledged; {REMEDY}"
    )]
    RolledBack {
        /// Path of the file that was restored from an older copy.
        file: String,
        /// Description of the contradiction between the older file and the rest of the folder.
        what: String,
    },
    /// Gap between snapshot and log: the log does not contain the entry that follows the latest
    /// snapshot.
    #[error(
        "the log in {folder} starts with entry {first}, but its snapshots end with entry {end}: a \
         snapshot is missing or damaged"
    )]
    Uncovered {
        /// Path of the folder that contains the log and the snapshots.
        folder: String,
        /// Index of the first entry in the log.
        first: Index,
        /// Index of the last entry in the latest complete snapshot; zero if there is no snapshot.
        end: Index,
    },
    /// A snapshot is damaged, and its state cannot be rebuilt from an older snapshot and the log.
    #[error(
        "{file} is damaged, and its state up to entry {last} is not in the log or in an older \
         snapshot, which ends with entry {end}"
    )]
    SnapshotLost {
        /// Path of the damaged snapshot.
        file: String,
        /// Id (term and index) of the last entry in the damaged snapshot.
        last: EntryId,
        /// Index of the last entry in the latest undamaged snapshot; zero if there is none.
        end: Index,
    },
    /// A snapshot file is damaged or incomplete.
    #[error("snapshot {file} is damaged or incomplete: {what}")]
    Snapshot {
        /// Path of the damaged snapshot file.
        file: String,
        /// Description of the damage to the snapshot, for the error message.
        what: String,
    },
    /// The log refuses all further operations because an earlier write or sync failed.
    #[error(
        "the log in {folder} accepts no more work because a write or sync failed; restart the \
         process so that it reads its disk again"
    )]
    Failed {
        /// Path of the folder that contains the log.
        folder: String,
    },
}

impl StorageError {
    /// Returns whether the folder is damaged, incomplete or out of date, so that lost data must be
    /// recovered from the other replicas.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            StorageError::Damaged { .. }
                | StorageError::Missing { .. }
                | StorageError::NoIdentity { .. }
                | StorageError::RolledBack { .. }
                | StorageError::Uncovered { .. }
                | StorageError::SnapshotLost { .. }
                | StorageError::WrongState { .. }
        )
    }

    /// Returns whether the error means that the disk is full or that a file exceeds a size limit.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let StorageError::Io { source, .. } = self else { return false };
        matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    }
}

/// Returns advice to the operator about an error of the operating system, to be appended to the
/// error message.
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
        io::ErrorKind::NotFound => {
            "check the path of the folder; a replica of a new cluster creates it with --bootstrap"
        }
        _ => "check the disk, then start again: no acknowledged write is lost",
    }
}

/// Formats replica ids for an error message, such as `replicas 1, 2, 3`.
pub(crate) fn replicas(ids: &[NodeId]) -> String {
    let names: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
    format!("replica{} {}", if ids.len() == 1 { "" } else { "s" }, names.join(", "))
}
