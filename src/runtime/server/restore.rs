//! Creates the folders of a new cluster from a backup, and turns the folder of a replica whose
//! cluster is lost into a backup.
//!
//! A restored folder has a snapshot with a higher log index and higher revisions than the one in
//! the backup ([`NEW_CLUSTER_GAP`](crate::kv::NEW_CLUSTER_GAP)), no log, and the new cluster's id
//! and members. The file `meta`, without which no replica starts, is written last. So an
//! interrupted restore leaves a folder that is refused.

use std::io::{self, Read, Write};
use std::path::Path;

use crate::backup::{BackupError, BackupHeader, BackupReader, BackupSummary, BackupWriter};
use crate::kv::{SnapshotError, SnapshotReader, StateMachine};
use crate::snapshot_check::{SnapshotLoader, SnapshotVerifier, snapshot_id};
use crate::storage::{
    Expected, Identity, Log, LogOptions, ReadOnlyDisk, RealDisk, SnapshotSource, Snapshots,
    StorageError, cluster_fingerprint, failpoint, identity_in,
};
use crate::types::{EntryId, Index, NodeId, Term};

use super::folder::choose_failpoint;

/// Number of bytes of a snapshot that are written at once.
const SLICE_BYTES: usize = 1 << 20;

/// Reason why a backup cannot be read or restored, or a folder cannot be turned into one.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A replica's folder cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A file is not an intact backup.
    #[error("the backup {file} {source}")]
    Backup {
        /// Name of the backup file.
        file: String,
        /// What is wrong with it.
        source: BackupError,
    },
    /// The checksums of a backup are correct, but the snapshot in it is invalid.
    #[error("the backup {file} contains no valid snapshot: {source}")]
    Contents {
        /// Name of the backup file.
        file: String,
        /// What is wrong with the snapshot in the backup.
        source: SnapshotError,
    },
    /// A backup contains another snapshot than its header says.
    #[error("the backup {file} contains another snapshot than its header says")]
    OtherSnapshot {
        /// Name of the backup file.
        file: String,
    },
    /// The new cluster would have the id of the cluster that the backup was taken from.
    #[error(
        "the backup was taken from a cluster with the same id: its replicas could join the new \
         cluster; give another --cluster, or none"
    )]
    SameCluster,
    /// The folder is that of a witness, which has no data.
    #[error(
        "the folder {folder} is that of a witness, which has no data; use that of another replica"
    )]
    Witness {
        /// Path of the folder.
        folder: String,
    },
    /// The folder for the restored replica is not empty.
    #[error(
        "{file} already exists, so the folder is not empty; choose another folder, or delete it if \
         it is left over from a restore that was interrupted"
    )]
    NotEmpty {
        /// Path of a file in the folder.
        file: String,
    },
    /// A folder has neither a snapshot nor a log entry.
    #[error("{folder} contains neither a snapshot nor a log entry: there is nothing to keep")]
    Nothing {
        /// Path of the folder.
        folder: String,
    },
}

impl RestoreError {
    /// Returns whether the error means that a backup or a folder is damaged.
    pub fn is_damage(&self) -> bool {
        match self {
            RestoreError::Storage(error) => error.is_damage(),
            RestoreError::Backup { source, .. } => source.is_damage(),
            RestoreError::Contents { .. } | RestoreError::OtherSnapshot { .. } => true,
            RestoreError::SameCluster
            | RestoreError::NotEmpty { .. }
            | RestoreError::Nothing { .. }
            | RestoreError::Witness { .. } => false,
        }
    }
}

/// A verified backup, loaded as the initial state of a new cluster.
#[derive(Debug)]
pub struct LoadedBackup {
    /// Header, size and checksum of the backup file.
    pub summary: BackupSummary,
    state: StateMachine,
}

impl LoadedBackup {
    /// Returns the number of keys in the backup.
    pub fn key_count(&self) -> usize {
        self.state.key_count()
    }

    /// Returns the id of the last log entry that the initial snapshot of the new cluster covers.
    /// Its index is [`NEW_CLUSTER_GAP`](crate::kv::NEW_CLUSTER_GAP) higher than in the backup.
    pub fn last(&self) -> EntryId {
        let term = self.summary.header.snapshot.last.term;
        EntryId { term, index: self.state.applied_index() }
    }
}

/// Reads a whole backup from `input` and verifies it, without keeping its contents. `file` is the
/// name used in errors.
///
/// # Errors
/// If the backup cannot be read, or is damaged.
pub fn check_backup(file: &str, input: impl Read) -> Result<BackupSummary, RestoreError> {
    let mut reader = SnapshotReader::checking();
    let summary = read_backup(file, input, &mut reader)?;
    let mark = reader.mark().map_err(|source| contents(file, source))?;
    if mark == summary.header.snapshot {
        Ok(summary)
    } else {
        Err(RestoreError::OtherSnapshot { file: file.to_owned() })
    }
}

/// Reads a whole backup from `input`, verifies it, and loads it as the initial state of a new
/// cluster. `file` is the name used in errors.
///
/// # Errors
/// If the backup cannot be read, or is damaged.
pub fn load_backup(file: &str, input: impl Read) -> Result<LoadedBackup, RestoreError> {
    let mut reader = SnapshotReader::for_new_cluster();
    let summary = read_backup(file, input, &mut reader)?;
    let (state, mark) = reader.finish().map_err(|source| contents(file, source))?;
    let has_entry = mark.last.index > Index::ZERO && (1..Term::MAX.0).contains(&mark.last.term.0);
    if mark == summary.header.snapshot && has_entry {
        Ok(LoadedBackup { summary, state })
    } else {
        Err(RestoreError::OtherSnapshot { file: file.to_owned() })
    }
}

fn contents(file: &str, source: SnapshotError) -> RestoreError {
    RestoreError::Contents { file: file.to_owned(), source }
}

/// Reads and verifies a backup, and passes the snapshot in it to `reader`.
fn read_backup(
    file: &str,
    input: impl Read,
    reader: &mut SnapshotReader,
) -> Result<BackupSummary, RestoreError> {
    let damaged = |source| RestoreError::Backup { file: file.to_owned(), source };
    let mut backup = BackupReader::new(input).map_err(damaged)?;
    while let Some(block) = backup.next_block().map_err(damaged)? {
        reader.feed(block).map_err(|source| contents(file, source))?;
    }
    backup.finish().map_err(damaged)
}

/// Checks that a replica can be restored into `folder`: that it does not exist, or is empty.
///
/// # Errors
/// If the folder is not empty or cannot be read.
pub fn check_empty(folder: &Path) -> Result<(), RestoreError> {
    if !folder.exists() {
        return Ok(());
    }
    refuse_files(&ReadOnlyDisk::open(folder)?)
}

fn refuse_files(disk: &impl crate::storage::Disk) -> Result<(), RestoreError> {
    let names = disk.list().map_err(|source| StorageError::Io {
        action: "list",
        file: disk.describe(""),
        source,
    })?;
    match names.first() {
        Some(name) => Err(RestoreError::NotEmpty { file: disk.describe(name) }),
        None => Ok(()),
    }
}

/// Creates the folder of the replica `id` of a new cluster that begins with `backup`. `cluster` is
/// the id of the new cluster, and `members` are its replicas, including this one. The same backup
/// gives every replica the same initial state.
///
/// # Errors
/// If the folder is not empty or cannot be written, or if the new cluster's id is that of the
/// cluster that the backup was taken from. A folder that was not empty is unchanged; one that is
/// left incomplete is refused by a start.
pub fn restore(
    backup: &LoadedBackup,
    folder: &Path,
    cluster: u128,
    id: NodeId,
    members: &[NodeId],
) -> Result<(), RestoreError> {
    choose_failpoint();
    if cluster_fingerprint(cluster) == backup.summary.header.cluster_fingerprint {
        return Err(RestoreError::SameCluster);
    }
    check_empty(folder)?;
    let disk = RealDisk::create(folder)?;
    refuse_files(&disk)?;
    let mut snapshots = Snapshots::open(disk)?;
    let mut writer = snapshots.begin(SnapshotSource::Own)?;
    let mut slice = Vec::with_capacity(2 * SLICE_BYTES);
    let mut written = Ok(());
    let mark = backup.state.write_snapshot(backup.last(), &mut |piece| {
        slice.extend_from_slice(piece);
        if slice.len() >= SLICE_BYTES && written.is_ok() {
            written = snapshots.write(&mut writer, &slice);
            slice.clear();
        }
    });
    written?;
    snapshots.write(&mut writer, &slice)?;
    snapshots.finish(writer, snapshot_id(mark), SnapshotVerifier::default())?;
    failpoint::reach("restore", "snapshot-complete");
    let level = backup.state.feature_level();
    Log::bootstrap_with_snapshot(&mut snapshots.into_disk(), cluster, id, members, level)?;
    failpoint::reach("restore", "complete");
    Ok(())
}

/// The data of a replica whose cluster has lost its majority: the state after all log entries,
/// including those that are not known to be committed. Keeps the replica's folder locked.
#[derive(Debug)]
pub struct Survivor {
    /// Owner of the folder.
    pub identity: Identity,
    /// Ids of the lost cluster's voters.
    pub members: Vec<NodeId>,
    /// Whether the replica was rejoining, so that its folder lacks entries that it may have
    /// acknowledged.
    pub rejoining: bool,
    /// Index of the last entry that is known to be committed, because a snapshot covers it; 0 if
    /// there is no snapshot.
    pub committed: Index,
    /// The last log entry.
    pub last: EntryId,
    state: StateMachine,
    folder: ReadOnlyDisk,
}

impl Survivor {
    /// Reads the folder of a replica that is not running, without changing it.
    ///
    /// # Errors
    /// If the folder cannot be read, is damaged, is in use by a running replica, or contains no log
    /// entry.
    pub fn read(folder: &Path) -> Result<Survivor, RestoreError> {
        let mut disk = ReadOnlyDisk::open(folder)?;
        let owner = identity_in(&disk)?;
        let loaded = Snapshots::open(&mut disk)?.load(SnapshotLoader::default)?.latest;
        if loaded.as_ref().is_some_and(|(_, store)| store.is_witness()) {
            return Err(RestoreError::Witness { folder: folder.display().to_string() });
        }
        let (snapshot, mut state) = match loaded {
            Some((snapshot, state)) => (Some(snapshot), state),
            None => (None, StateMachine::default()),
        };
        let expected = Expected { cluster: None, replica: owner.replica, members: None };
        let mut recovered = Log::recover(&mut disk, LogOptions::default(), &expected)?;
        recovered.check_snapshot(snapshot)?;
        let recovered = recovered.refuse_damage()?;
        let committed = snapshot.map_or(EntryId::ZERO, |snapshot| snapshot.last);
        let mut last = committed;
        for entry in recovered.entries_after(snapshot) {
            state.apply(entry);
            last = entry.id();
        }
        if last == EntryId::ZERO {
            return Err(RestoreError::Nothing { folder: folder.display().to_string() });
        }
        let voters = state.configuration().map(|members| members.voters().collect());
        let members = voters.unwrap_or_else(|| recovered.members().to_vec());
        let rejoining = recovered.loss().is_some();
        drop(recovered);
        let committed = committed.index;
        Ok(Survivor { identity: owner, members, rejoining, committed, last, state, folder: disk })
    }

    /// Frees the state, and keeps the folder locked until the returned value is dropped.
    pub fn keep_locked(self) -> ReadOnlyDisk {
        self.folder
    }

    /// Returns the replicated clock as of the last log entry, in milliseconds since 1970; `None` if
    /// it was never set.
    pub fn clock(&self) -> Option<u64> {
        Some(self.state.clock()).filter(|millis| *millis > 0)
    }

    /// Returns the number of keys.
    pub fn key_count(&self) -> usize {
        self.state.key_count()
    }

    /// Writes the state as a backup to `output`. `created_at` is the current time in milliseconds
    /// since 1970.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn write_backup<W: Write>(&self, output: W, created_at: u64) -> io::Result<W> {
        // The header precedes the snapshot, but contains its length and checksum, so the snapshot
        // is written twice: first only to compute them.
        let snapshot = self.state.write_snapshot(self.last, &mut |_| {});
        let cluster_fingerprint = cluster_fingerprint(self.identity.cluster);
        let header = BackupHeader { cluster_fingerprint, created_at, snapshot };
        let mut writer = BackupWriter::new(output, header)?;
        let mut written = Ok(());
        self.state.write_snapshot(self.last, &mut |piece| {
            if written.is_ok() {
                written = writer.write(piece);
            }
        });
        written?;
        Ok(writer.finish()?.0)
    }
}
