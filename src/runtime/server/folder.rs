//! The folder of a replica: creates it, checks it, and opens it when the replica starts.

use std::path::Path;

use crate::feature_level::FeatureLevel;
use crate::kv::StateMachine;
use crate::raft::{Loss, SnapshotId};
use crate::runtime::boards::DiskSpaceBoard;
use crate::runtime::error::RunError;
use crate::runtime::server::options::{Bootstrap, ServerOptions};
use crate::runtime::server::retry::retry_while;
use crate::runtime::stages::disk_space::reserve_file_bytes;
use crate::runtime::stages::snapshots::{self, LoadedSnapshots};
use crate::snapshot_check::SnapshotInspector;
use crate::storage::{
    Expected, FoundLog, Identity, Log, LogOptions, PeerRecords, ReadOnlyDisk, RealDisk, Recovered,
    Repair, Snapshots, StorageError, failpoint, identity_in,
};
use crate::types::{EntryId, Index, NodeId};

/// The content of a replica's folder, read when the process starts.
pub(crate) struct OpenedFolder {
    pub(crate) recovered: Recovered<RealDisk>,
    pub(crate) peers: PeerRecords<RealDisk>,
    pub(crate) snapshots: Snapshots<RealDisk>,
    /// The id of the latest snapshot; `None` if there is no snapshot.
    pub(crate) snapshot: Option<SnapshotId>,
    /// The state loaded from the latest snapshot; an empty state if there is no snapshot.
    pub(crate) store: StateMachine,
    /// The folder's disk, for the mark that the state is wrong.
    pub(crate) marks: RealDisk,
}

/// Selects the failpoint that the environment names, if it names one.
pub(super) fn choose_failpoint() {
    if let Ok(failpoint) = std::env::var(failpoint::VARIABLE) {
        tracing::warn!(
            failpoint,
            "failpoint set: this process will kill itself there, to test crash recovery"
        );
        failpoint::choose(&failpoint);
    }
}

/// Opens the folder of a replica: reads the log and the latest snapshot. Writes only the reserve
/// file (disk space allocated in advance) and the file `peers` (the last known start of each peer).
/// The log is opened for writing later.
pub(crate) fn open(
    options: &ServerOptions,
    disk_space: &DiskSpaceBoard,
) -> Result<OpenedFolder, RunError> {
    choose_failpoint();
    // A process that was killed keeps its folder locked until its last disk write has completed.
    let disk = retry_while(
        || RealDisk::open(&options.folder),
        |error| matches!(error, StorageError::Locked { .. }),
    )?;
    let shared = disk.share()?;
    let expected = Expected { cluster: options.cluster, replica: options.id, members: None };
    let mut recovered = Log::recover(disk, LogOptions::default(), &expected)?;
    let LoadedSnapshots { files, latest } = snapshots::load_latest(shared.share()?)?;
    let snapshot = latest.as_ref().map(|(id, _)| *id);
    recovered.check_snapshot(snapshot)?;
    let is_witness = options.config.is_witness;
    let store = match latest {
        Some((_, store)) if store.is_witness() == is_witness => store,
        Some(_) => return Err(RunError::OtherKind { is_witness: !is_witness }),
        None if is_witness => StateMachine::of_witness(Index::ZERO, None, FeatureLevel::OLDEST),
        None => StateMachine::default(),
    };
    let members_changed = recovered.has_configuration() || store.configuration().is_some();
    let is_damaged = recovered.repair(snapshot).is_some();
    if !members_changed && !is_damaged && !recovered.members().is_empty() {
        recovered.check_members(&options.members())?;
    }
    if recovered.discards_state() {
        tracing::warn!(
            keeps_log = recovered.repair(snapshot).is_none(),
            "wrong state removed; this replica rebuilds its state from the log and from the other \
             replicas"
        );
    }
    if let Some(Repair { damage, loss, last_kept }) = recovered.repair(snapshot) {
        tracing::warn!(
            %damage,
            kept_to = %last_kept,
            lost = loss_text(loss),
            "damaged folder repaired; this replica does not vote until it has copied from the \
             others what is lost; check the disk"
        );
    }
    if recovered.repairs_meta() {
        tracing::warn!(
            folder = %options.folder.display(),
            "damaged copy of the record in the file `meta` repaired from the second copy; check \
             the disk"
        );
    }
    // Opening the log frees the reserve again if the log needs the space.
    shared.keep_reserve(reserve_file_bytes(options.disk_reserve))?;
    disk_space.write(shared.free_space()?);
    let marks = shared.share()?;
    let peers = PeerRecords::open(shared, recovered.identity())?;
    if let Some(damage) = peers.damage() {
        tracing::warn!(
            %damage,
            "damaged file `peers` ignored; its records, which are used to detect that a peer runs \
             on an outdated copy of its folder, are rebuilt as peers connect; check the disk"
        );
    }
    Ok(OpenedFolder { recovered, peers, snapshots: files, snapshot, store, marks })
}

/// Creates a replica's files in a folder that is empty or does not exist.
///
/// # Errors
/// If the folder is not empty or cannot be written.
pub fn bootstrap(
    folder: &Path,
    cluster: u128,
    id: NodeId,
    members: &[NodeId],
    how: Bootstrap,
) -> Result<(), RunError> {
    let mut disk = RealDisk::create(folder)?;
    match how {
        Bootstrap::New => Log::bootstrap(&mut disk, cluster, id, members)?,
        Bootstrap::Join => Log::create_joining(&mut disk, cluster, id)?,
        Bootstrap::Rejoin => Log::bootstrap_rejoining(&mut disk, cluster, id, members)?,
    }
    Ok(())
}

/// Returns which part of a replica's state is lost, for messages.
fn loss_text(loss: Loss) -> &'static str {
    match loss {
        Loss::Entries => "later entries",
        Loss::Votes => "later entries, and perhaps the latest vote",
    }
}

/// The condition of a folder with which a replica can start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FolderState {
    /// The folder is undamaged and complete.
    Intact,
    /// The folder is undamaged, but the replica is rejoining: it has not yet received everything
    /// that it may have acknowledged before a loss.
    Rejoining,
    /// The folder is damaged as the text says. The next start repairs it, and the replica then
    /// rejoins.
    Damaged(String),
}

/// What is in a replica's folder, and what a start with it would do.
#[derive(Clone, Debug)]
pub struct FolderReport {
    /// Owner of the folder.
    pub identity: Identity,
    /// Ids of the cluster's members.
    pub members: Vec<NodeId>,
    /// Whether a start rejoins, after a loss in this folder or of an earlier one.
    pub rejoining: bool,
    /// Damage of which a start removes what it cannot trust; `None` if there is none.
    pub damage: Option<FolderDamage>,
    /// The log.
    pub log: FoundLog,
    /// The snapshot that a start loads; `None` if there is none.
    pub snapshot: Option<SnapshotId>,
    /// Whether the snapshot is that of a witness, which has no data.
    pub is_witness: bool,
    /// Damage with which a start is possible: copies that it restores or ignores.
    pub repairable: Vec<String>,
}

/// Damage with which a replica starts and then rejoins the cluster.
#[derive(Clone, Debug)]
pub struct FolderDamage {
    /// The damaged file, the position in it, and what is wrong.
    pub what: String,
    /// What is lost.
    pub lost: &'static str,
    /// Id of the last entry that a start keeps.
    pub last_kept: EntryId,
}

/// Reads a replica's whole folder and verifies every checksum, except those of snapshots older than
/// the latest undamaged one. Changes nothing.
///
/// # Errors
/// If a replica could not start with the folder, or if another process is using it.
pub fn check(folder: &Path) -> Result<FolderReport, RunError> {
    let mut disk = ReadOnlyDisk::open(folder)?;
    let owner = identity_in(&disk)?;
    let loaded = Snapshots::open(&mut disk)?.load(SnapshotInspector::default)?;
    let (snapshot, is_witness) = loaded.latest.unzip();
    let expected = Expected { cluster: None, replica: owner.replica, members: None };
    let mut recovered = Log::recover(&mut disk, LogOptions::default(), &expected)?;
    recovered.check_snapshot(snapshot)?;
    let (mut log, members) = (recovered.log(), recovered.members().to_vec());
    let (rejoining, repairs_meta) = (recovered.loss().is_some(), recovered.repairs_meta());
    let damage = recovered.repair(snapshot).map(|repair| FolderDamage {
        what: repair.damage.to_string(),
        lost: loss_text(repair.loss),
        last_kept: repair.last_kept,
    });
    let discards_state = recovered.discards_state();
    drop(recovered);
    let mut repairable: Vec<String> = loaded.damaged.iter().map(ToString::to_string).collect();
    if discards_state {
        repairable.push(
            "the state is marked as wrong: a start removes the snapshots and rebuilds it"
                .to_owned(),
        );
    }
    if repairs_meta {
        repairable.push("one of the two copies in the file `meta` is damaged".to_owned());
    }
    if let Some(damage) = PeerRecords::open(&mut disk, owner)?.damage() {
        repairable.push(damage.to_string());
    }
    log.obsolete.extend_from_slice(disk.deleted());
    Ok(FolderReport {
        identity: owner,
        members,
        rejoining,
        damage,
        log,
        snapshot,
        is_witness: is_witness.unwrap_or(false),
        repairable,
    })
}

/// Checks a replica's folder in the same way as when the replica starts. Changes nothing except
/// that it removes incomplete snapshots.
///
/// # Errors
/// If the replica could not start with the folder, or if another process is using it.
pub fn inspect(
    folder: &Path,
    cluster: u128,
    id: NodeId,
    members: &[NodeId],
) -> Result<FolderState, RunError> {
    let disk = RealDisk::open(folder)?;
    let shared = disk.share()?;
    let expected = Expected { cluster: Some(cluster), replica: id, members: Some(members) };
    let mut recovered = Log::recover(disk, LogOptions::default(), &expected)?;
    let latest = snapshots::load_latest(shared)?.latest.map(|(id, _)| id);
    recovered.check_snapshot(latest)?;
    Ok(match (recovered.repair(latest), recovered.loss()) {
        (Some(repair), _) => FolderState::Damaged(repair.damage.to_string()),
        (None, Some(_)) => FolderState::Rejoining,
        (None, None) => FolderState::Intact,
    })
}
