//! What can be wrong with a replica's folder. Every message names the file, the place in it where
//! there is one, what was being done, and what the operator can do next.

use std::io;

use crate::types::{EntryId, Index, NodeId};

/// What to do about a folder that is not what the replica wrote. Advice that names the folder is
/// the command line's.
const REMEDY: &str = "nothing in the folder was changed, and the other replicas are not affected; \
                      replace this one by what they hold: `bowline cluster --replace ID`, or \
                      `bowline serve --rejoin` with an empty folder";

/// Why a log can't be made, opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused something.
    #[error("{doing} {file}: {source}; {}", io_advice(.source))]
    Io {
        /// What was being done, as in "syncing".
        doing: &'static str,
        /// The file.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// Another process has the folder open.
    #[error(
        "{folder} is in use by another process; stop that one, or give this one another folder"
    )]
    Locked {
        /// The folder.
        folder: String,
    },
    /// A folder to be made a replica's holds something already.
    #[error(
        "{file} is already there, so the folder is not empty; start without --bootstrap and \
         --rejoin if it is this replica's, or choose an empty folder"
    )]
    NotEmpty {
        /// What is there.
        file: String,
    },
    /// The folder has no meta record.
    #[error(
        "{file} is missing: this folder was never bootstrapped, or its disk was wiped; the \
         replicas of a new cluster start with --bootstrap, but one that has run before must not: \
         {REMEDY}"
    )]
    NoIdentity {
        /// The file that is missing.
        file: String,
    },
    /// The folder belongs to another cluster.
    #[error(
        "{file} belongs to cluster {found:032x}, not to {expected:032x}; check the folder and the \
         cluster id"
    )]
    OtherCluster {
        /// The file that says so.
        file: String,
        /// Whose it is.
        found: u128,
        /// Whose it should be.
        expected: u128,
    },
    /// The folder belongs to another replica.
    #[error(
        "{file} belongs to replica {found}, not to replica {expected}; check the folder and --id"
    )]
    OtherReplica {
        /// The file that says so.
        file: String,
        /// Whose it is.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// The members of the cluster are others.
    #[error(
        "--peers and --id name {}, but {file} belongs to a cluster of {}: the members of a cluster \
         are fixed when it is bootstrapped; name all of them in --peers, with the addresses at \
         which they are now, or check --dir",
        replicas(.expected), replicas(.found)
    )]
    OtherMembers {
        /// The file that says so.
        file: String,
        /// The ids in the folder.
        found: Vec<NodeId>,
        /// The ids that were given.
        expected: Vec<NodeId>,
    },
    /// A format that this version does not know.
    #[error(
        "{file} is in format {found}, this version of bowline knows {known} only; start it with \
         the version that wrote it"
    )]
    Version {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Bytes are not as they were written.
    #[error(
        "{file} is damaged at byte {offset}: {what}; what was written there may be committed, so \
         nothing is cut off; {REMEDY}"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where in it the damaged part begins.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A file of the log is not there.
    #[error("{file} is missing, though later ones or the meta record speak of it; {REMEDY}")]
    Missing {
        /// The file.
        file: String,
    },
    /// Files of the folder are of different ages: some were put back from a copy.
    #[error(
        "{file} is older than the rest of the folder: {what}; a folder restored from a copy has \
         forgotten what it acknowledged; {REMEDY}"
    )]
    RolledBack {
        /// The file that is too old.
        file: String,
        /// How that shows.
        what: String,
    },
    /// Entries are missing between a snapshot and the log.
    #[error(
        "the log in {folder} begins with entry {first}, but what the snapshots there hold ends \
         with entry {end}: a snapshot is missing or damaged; {REMEDY}"
    )]
    Uncovered {
        /// The folder.
        folder: String,
        /// The log's first entry.
        first: Index,
        /// The last entry of the latest whole snapshot; zero if there is none.
        end: Index,
    },
    /// A snapshot is not whole, and the log does not hold what it held.
    #[error(
        "{file} is damaged, and neither the log nor an older snapshot, which ends with entry \
         {end}, holds all that it did, up to {last}; {REMEDY}"
    )]
    SnapshotLost {
        /// The file.
        file: String,
        /// Its last entry.
        last: EntryId,
        /// The last entry of the latest whole snapshot; zero if there is none.
        end: Index,
    },
    /// A snapshot's bytes are not what they should be.
    #[error("{file} is no whole snapshot: {what}")]
    Snapshot {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// An earlier write or sync failed.
    #[error(
        "the log in {folder} refuses all work since a write or sync failed; the process must end \
         and read its disk anew"
    )]
    Failed {
        /// The folder.
        folder: String,
    },
}

impl StorageError {
    /// Whether files are not as they were written, and are named for it.
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

    /// Whether all that was wrong is that there was no room.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let StorageError::Io { source, .. } = self else { return false };
        matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    }
}

fn io_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on the disk, then start again: nothing acknowledged is lost"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "give this user write access to the folder, then start again"
        }
        io::ErrorKind::FileTooLarge => {
            "raise this user's limit on the size of files, then start again: nothing acknowledged \
             is lost"
        }
        io::ErrorKind::NotFound => "check the path of the folder",
        _ => "check the disk, then start again: nothing acknowledged is lost",
    }
}

/// Ids as a sentence has them: `replicas 1, 2, 3`.
pub(crate) fn replicas(ids: &[NodeId]) -> String {
    let names: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
    format!("replica{} {}", if ids.len() == 1 { "" } else { "s" }, names.join(", "))
}
