//! Opening a log, in two steps: [`Log::recover`] reads and checks the whole folder without changing
//! it, and [`Recovered::open`] repairs it and records the start of the replica.
//!
//! Between the two steps, the caller does everything else that can fail during a start. A start
//! that fails before [`Recovered::open`] leaves the log and the meta record unchanged: a start is
//! counted only if peers may learn of it.

use crate::config::Mutant;
use crate::raft::{Durable, HardState, SnapshotId};
use crate::record::{Entry, EntryKind};
use crate::types::{EntryId, Index, NodeId};

use super::active_segment::{ActiveSegment, Tail, UNFINISHED};
use super::disk::{Disk, io_error};
use super::error::StorageError;
use super::identity::Identity;
use super::log::{Log, LogOptions, first_segment};
use super::meta::{Found, META_FILE, Meta};
use super::recovery::Replay;
use super::segment::{self, check_owner};
use super::snapshots::newest_snapshot;

/// Owner and members that the caller expects to find in a replica's folder. Recovery fails if the
/// folder belongs to another owner or lists other members.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Id of the cluster that the folder must belong to; `None` accepts any cluster.
    pub cluster: Option<u128>,
    /// Id of the replica that the folder must belong to.
    pub replica: NodeId,
    /// Ids of all voters that the folder must list, this replica included, in any order; `None`
    /// accepts any members.
    pub members: Option<&'a [NodeId]>,
}

/// A replica's Raft log that has been read from its folder and checked. The folder has not been
/// changed yet.
#[derive(Debug)]
pub struct Recovered<D: Disk> {
    disk: D,
    options: LogOptions,
    names: Vec<String>,
    /// Contents of the file `meta` (owner, members and the random number of each process start) as
    /// read from the folder.
    found: Meta,
    /// Contents that [`Recovered::open`] writes to the file `meta`: those of `found`, with the
    /// random number of the replica's current start added.
    next: Meta,
    replay: Replay,
    is_meta_intact: bool,
}

/// The log in a replica's folder, before a start has changed anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundLog {
    /// Term and vote.
    pub hard_state: HardState,
    /// Index of the first entry, if there is one.
    pub first: Index,
    /// Id of the last entry; of the entry before `first` if there is none.
    pub last: EntryId,
    /// Number of segment files.
    pub segment_count: usize,
    /// Whether a power cut left an incomplete write at the end of the log, which a start removes.
    pub has_torn_block: bool,
    /// Names of the files that a start removes.
    pub obsolete: Vec<String>,
}

/// Returns the identity of the replica that owns a folder, without checking the rest of the folder.
///
/// # Errors
/// If the folder cannot be read, or its file `meta` is missing or damaged beyond repair.
pub fn identity_in<D: Disk>(disk: &D) -> Result<Identity, StorageError> {
    let names = disk.list().map_err(io_error(disk, "list", ""))?;
    Ok(read_meta(disk, &names)?.meta.identity)
}

impl<D: Disk> Log<D> {
    /// Recovers and opens a replica's log in one call, whatever members the folder lists. Combines
    /// [`Log::recover`] and [`Recovered::open`]. Returns the log, the replica's durable state and
    /// the replica's identity.
    ///
    /// # Errors
    /// As with [`Log::recover`], [`Recovered::check_snapshot`] and [`Recovered::open`].
    pub fn open(
        disk: D,
        cluster: Option<u128>,
        replica: NodeId,
        options: LogOptions,
        snapshot: Option<SnapshotId>,
    ) -> Result<(Log<D>, Durable, Identity), StorageError> {
        let expected = Expected { cluster, replica, members: None };
        let recovered = Log::recover(disk, options, &expected)?;
        recovered.check_snapshot(snapshot)?;
        let (log, durable) = recovered.open(snapshot)?;
        let identity = log.identity();
        Ok((log, durable, identity))
    }

    /// Reads and checks a replica's whole log without changing the folder.
    ///
    /// # Errors
    /// If the folder cannot be read or contradicts `expected`, or if its log or its file `meta` is
    /// damaged beyond repair.
    pub fn recover(
        mut disk: D,
        options: LogOptions,
        expected: &Expected<'_>,
    ) -> Result<Recovered<D>, StorageError> {
        let names = disk.list().map_err(io_error(&disk, "list", ""))?;
        let Found { meta: found, is_intact: is_meta_intact } = read_meta(&disk, &names)?;
        let cluster = expected.cluster.unwrap_or(found.identity.cluster);
        let identity = Identity { cluster, replica: expected.replica, ..found.identity };
        let owner = (found.identity.cluster, found.identity.replica);
        check_owner(&disk.describe(META_FILE), owner, &identity)?;
        check_members(&disk, &found, expected)?;
        let replay = read_segments(&disk, &names, &found)?;
        let mut next = found.clone();
        // Peers reject zero, which is no random number.
        next.open(disk.draw().max(1), options.openings_kept);
        let (incarnation, written) = (next.identity.incarnation, replay.incarnation);
        assert!(incarnation >= written, "opening {incarnation} of a log written by {written}");
        Ok(Recovered { disk, options, names, found, next, replay, is_meta_intact })
    }
}

impl<D: Disk> Recovered<D> {
    /// Returns the ids of the cluster and the replica that own the log, and the number of times
    /// that the replica has been started, the current start included.
    pub fn identity(&self) -> Identity {
        self.next.identity
    }

    /// Returns the random numbers that the replica drew at its latest starts, one per start; the
    /// last belongs to the current start. Peers use them to distinguish this folder from an older
    /// copy of it.
    pub fn openings(&self) -> &[u64] {
        &self.next.openings
    }

    /// Returns whether the log contains a change of the members.
    pub fn has_configuration(&self) -> bool {
        let mut entries = self.replay.durable.entries.iter();
        entries.any(|entry| entry.kind() == EntryKind::Configuration)
    }

    /// Checks that `expected`, which must include this replica, are the members with which the
    /// cluster was created.
    ///
    /// # Errors
    /// If they are others.
    pub fn check_members(&self, expected: &[NodeId]) -> Result<(), StorageError> {
        let replica = self.next.identity.replica;
        let expected = Expected { cluster: None, replica, members: Some(expected) };
        check_members(&self.disk, &self.found, &expected)
    }

    /// Returns the ids of the voters with which the cluster was created, in ascending order, this
    /// replica included; none if the replica was added to an existing cluster.
    pub fn members(&self) -> &[NodeId] {
        &self.next.members
    }

    /// Returns whether the replica is rejoining: its previous folder was lost, and it may still
    /// lack entries that it had acknowledged, so it must not vote.
    pub fn is_rejoining(&self) -> bool {
        self.next.rejoining
    }

    /// Returns what was found in the log.
    pub fn log(&self) -> FoundLog {
        let Recovered { replay, names, found, .. } = self;
        let obsolete = names.iter().filter(|name| is_obsolete(name, found));
        FoundLog {
            hard_state: replay.durable.hard_state,
            first: replay.base.index.next(),
            last: replay.last(),
            segment_count: replay.bases.len(),
            has_torn_block: replay.torn_end > replay.end,
            obsolete: obsolete.cloned().collect(),
        }
    }

    /// Returns the entries of the log that follow `snapshot`, committed or not.
    pub fn entries_after(&self, snapshot: Option<SnapshotId>) -> &[Entry] {
        let entries = &self.replay.durable.entries;
        match snapshot {
            None => entries,
            Some(SnapshotId { last, .. }) if self.replay.holds(last) => {
                &entries[entries.partition_point(|entry| entry.index() <= last.index)..]
            }
            Some(_) => &[],
        }
    }

    /// Returns whether [`Recovered::open`] will repair the file `meta`, because one of the two
    /// copies of the record in this file is damaged.
    pub fn repairs_meta(&self) -> bool {
        !self.is_meta_intact
    }

    /// Checks that there is no gap between the log and `snapshot`, the latest complete snapshot as
    /// returned by [`Snapshots::load`](super::Snapshots::load); `None` if there is no snapshot.
    ///
    /// # Errors
    /// If entries are missing between the snapshot and the log, or the folder has a later, damaged
    /// snapshot whose last entry the log lacks.
    pub fn check_snapshot(&self, snapshot: Option<SnapshotId>) -> Result<(), StorageError> {
        let Recovered { disk, names, replay, .. } = self;
        let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        let (first, folder) = (replay.base.index.next(), disk.describe(""));
        if first > end.next() {
            return Err(StorageError::Uncovered { folder, first, end });
        }
        match newest_snapshot(names) {
            Some((name, last)) if last.index > end && !replay.holds(last) => {
                let file = disk.describe(name);
                Err(StorageError::SnapshotLost { file, last, end })
            }
            _ => Ok(()),
        }
    }

    /// Opens the log for appends: removes an incomplete write that a power cut left at its end, and
    /// durably records the current start of the replica. Returns the log and the durable state,
    /// whose entries begin after `snapshot`. [`Recovered::check_snapshot`] must have succeeded for
    /// this snapshot. If the log lacks the snapshot's last entry, because the power failed during
    /// the snapshot's installation, the log is reset to begin after the snapshot.
    ///
    /// # Errors
    /// If the folder cannot be written. The current start of the replica is then not recorded, and
    /// the next start draws another random number.
    pub fn open(self, snapshot: Option<SnapshotId>) -> Result<(Log<D>, Durable), StorageError> {
        let Recovered { mut disk, options, names, found, next, replay, .. } = self;
        let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        let base = replay.base.index;
        assert!(base <= end, "the log starts after {base}, the snapshot ends at {end}: unchecked");
        let early = disk.mutant() == Some(Mutant::DeleteBeforeSync);
        for name in names.iter().filter(|name| early && is_obsolete(name, &found)) {
            disk.delete(name).map_err(io_error(&disk, "delete", name))?;
        }
        // Files that a killed process created or renamed without a sync of the directory are
        // visible too. No file may be deleted before the name of the meta record or snapshot that
        // makes it obsolete is durable.
        disk.sync_dir().map_err(io_error(&disk, "sync", ""))?;
        for name in names.iter().filter(|name| !early && is_obsolete(name, &found)) {
            disk.delete(name).map_err(io_error(&disk, "delete", name))?;
        }
        let segment = match replay.header {
            Some(header) => ActiveSegment::reopen(&mut disk, &header, tail_of(&replay))?,
            None => ActiveSegment::create(&mut disk, &first_segment(&found, options))?,
        };
        let mut meta = Meta { members: next.members.clone(), ..found };
        if meta.last != segment.number() {
            // The power failed after the creation of the last segment.
            meta.last = segment.number();
            meta.write(&mut disk)?;
        }
        let mut log = Log::resume(disk, options, meta, segment, &replay);
        // The start is recorded first in the log, then in the meta record: if one of them is
        // restored from an older copy, the other shows it. If the power failed between these two
        // writes of the previous start, no peer learned of that start, and the current start
        // replaces it.
        log.write_block(next.identity.incarnation)?;
        let (identity, openings) = (next.identity, next.openings);
        log.meta = Meta { identity, openings, ..log.meta };
        log.meta.write(&mut log.disk)?;
        if let Some(number) = replay.restarted {
            // The power failed before the segments of the old log were deleted.
            log.delete_before(number)?;
        }
        let durable = follow_snapshot(&mut log, snapshot, replay)?;
        let first = durable.entries.first().map(Entry::index);
        assert!(first.is_none_or(|first| first == end.next()), "{first:?} after {end}");
        assert!(durable.hard_state == log.hard_state(), "{:?}", durable.hard_state);
        Ok((log, durable))
    }
}

/// Returns where the log's last segment ends: the position and the contents of its last complete
/// block (the entries of one sync), and the position of a torn block after it.
fn tail_of(replay: &Replay) -> Tail<'_> {
    Tail {
        last_block: replay.last_block,
        last_image: &replay.last_image,
        end: replay.end,
        torn_end: replay.torn_end,
        block_count: replay.blocks,
    }
}

/// Returns a replica's durable state with only the log entries after `snapshot`, its latest
/// snapshot. If the log lacks the snapshot's last entry, resets the log to begin after that entry.
fn follow_snapshot<D: Disk>(
    log: &mut Log<D>,
    snapshot: Option<SnapshotId>,
    replay: Replay,
) -> Result<Durable, StorageError> {
    let holds_end = snapshot.is_none_or(|snapshot| replay.holds(snapshot.last));
    let rejoining = log.is_rejoining();
    let mut durable = Durable { snapshot, rejoining, ..replay.durable };
    let Some(SnapshotId { last, .. }) = snapshot else { return Ok(durable) };
    if holds_end {
        let covered = durable.entries.partition_point(|entry| entry.index() <= last.index);
        durable.entries.drain(..covered);
        return Ok(durable);
    }
    if last.term > log.hard_state().term {
        log.adopt_term(last.term);
        durable.hard_state = log.hard_state();
    }
    log.restart_after(last)?;
    durable.entries.clear();
    Ok(durable)
}

/// Checks that the cluster members stored in the folder's file `meta` equal the members that the
/// caller expects. Accepts any members if `expected.members` is `None`.
fn check_members<D: Disk>(
    disk: &D,
    found: &Meta,
    expected: &Expected<'_>,
) -> Result<(), StorageError> {
    let Some(members) = expected.members else { return Ok(()) };
    let mut members = members.to_vec();
    members.sort_unstable();
    assert!(members.contains(&expected.replica), "{members:?} without {}", expected.replica);
    if found.members == members {
        return Ok(());
    }
    let file = disk.describe(META_FILE);
    Err(StorageError::OtherMembers { file, found: found.members.clone(), expected: members })
}

/// Returns whether a file is obsolete and can be deleted. Obsolete files are unfinished versions of
/// log segments and of the file `meta`, and log segments before segment number `meta.first`, whose
/// entries are in a snapshot.
fn is_obsolete(name: &str, meta: &Meta) -> bool {
    if let Some(number) = segment::number_of(name) {
        return number < meta.first;
    }
    let complete = name.strip_suffix(UNFINISHED);
    complete.is_some_and(|name| name == META_FILE || segment::number_of(name).is_some())
}

fn read_meta<D: Disk>(disk: &D, names: &[String]) -> Result<Found, StorageError> {
    let file = disk.describe(META_FILE);
    if !names.iter().any(|name| name == META_FILE) {
        return Err(StorageError::NoIdentity { file });
    }
    let bytes = disk.read(META_FILE).map_err(io_error(disk, "read", META_FILE))?;
    Meta::decode(&file, &bytes)
}

/// Reads all log segments, and checks them against the file `meta`: no segment may be missing, and
/// no file may come from an older copy of the folder.
fn read_segments<D: Disk>(disk: &D, names: &[String], meta: &Meta) -> Result<Replay, StorageError> {
    let mut replay = Replay::new(meta.identity, meta.first);
    replay.mutant = disk.mutant();
    let numbers = names.iter().filter_map(|name| segment::number_of(name));
    let numbers: Vec<u64> = numbers.filter(|&number| number >= meta.first).collect();
    let count = numbers.last().copied().unwrap_or(0).max(meta.last);
    for number in meta.first..=count {
        let name = segment::file_name(number);
        let file = disk.describe(&name);
        if numbers.binary_search(&number).is_err() {
            return Err(StorageError::Missing { file });
        }
        let bytes = disk.read(&name).map_err(io_error(disk, "read", &name))?;
        replay.segment(&file, &bytes, number == count)?;
    }
    let expected = count.saturating_add(1).saturating_sub(meta.first);
    assert!(replay.bases.len() as u64 == expected, "{} of {expected} segments", replay.bases.len());
    let (opened, written) = (meta.identity.incarnation, replay.incarnation);
    if written < opened {
        let file = disk.describe(&segment::file_name(count));
        let what = format!("it ends with opening {written}, the meta record with opening {opened}");
        return Err(StorageError::RolledBack { file, what });
    }
    if written > opened.saturating_add(1) || count > meta.last.saturating_add(1) {
        let file = disk.describe(META_FILE);
        let what = format!(
            "it ends with opening {opened} and segment {}, the log with opening {written} and \
             segment {count}",
            meta.last
        );
        return Err(StorageError::RolledBack { file, what });
    }
    Ok(replay)
}
