//! Opening a log, in two steps: [`Log::recover`] reads and checks the whole folder without changing
//! it, and [`Recovered::open`] repairs it and records the start of the replica.
//!
//! Between the two steps, the caller does everything else that can fail during a start. A start
//! that fails before [`Recovered::open`] leaves the log and the meta record unchanged: a start is
//! counted only if peers may learn of it.

use crate::config::Mutant;
use crate::feature_level::FeatureLevel;
use crate::raft::{Durable, HardState, Loss, SnapshotId};
use crate::record::{Entry, EntryKind};
use crate::types::{EntryId, Index, NodeId, Term};

use super::active_segment::{ActiveSegment, Tail, UNFINISHED};
use super::disk::{Disk, io_error};
use super::error::StorageError;
use super::failpoint::reach;
use super::identity::Identity;
use super::log::{Log, LogOptions, first_segment};
use super::meta::{Found, META_FILE, Meta};
use super::recovery::Replay;
use super::repair::{self, LogDamage, Repair};
use super::segment::{self, check_owner};
use super::snapshots::newest_snapshot;
use super::wrong_state;

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
    /// The contents of the file `meta` as read from the folder: owner, members and start history.
    found: Meta,
    /// Contents that [`Recovered::open`] writes to the file `meta`: those of `found`, with the
    /// random numbers of a repair that begins now and of the replica's current start added.
    next: Meta,
    /// Random number of a repair that begins with this start; `None` if there is none.
    repair_start_id: Option<u64>,
    replay: Replay,
    is_meta_intact: bool,
    /// The first damage in the log; `replay` then has the log before it.
    damage: Option<LogDamage>,
    /// The gap between the latest undamaged snapshot and the log; `None` if there is none.
    gap: Option<StorageError>,
    /// The term and vote saved by a repair that a power cut interrupted; `None` if there was none
    /// or it did not know them.
    unfinished: Option<HardState>,
    /// Term of the last entry of the latest undamaged snapshot; 0 if there is none.
    snapshot_term: Term,
    /// The error that describes the wrong-state mark; `None` if the folder has no such mark.
    wrong_state: Option<StorageError>,
}

/// The contents of a log as found in the folder, before a start has changed anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundLog {
    /// The latest term and vote.
    pub hard_state: HardState,
    /// Index of the first entry; the index where the next entry would be if there is none.
    pub first: Index,
    /// Id of the last entry; if the log is empty, of the entry before `first`.
    pub last: EntryId,
    /// Number of segment files.
    pub segment_count: usize,
    /// Whether the log ends with an incomplete write, which a start removes. A power cut leaves
    /// one.
    pub has_torn_block: bool,
    /// Names of files that a start deletes because they are obsolete.
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
        let mut recovered = Log::recover(disk, options, &expected)?;
        recovered.check_snapshot(snapshot)?;
        let (log, durable) = recovered.open(snapshot)?;
        let identity = log.identity();
        Ok((log, durable, identity))
    }

    /// Reads and checks a replica's whole log without changing the folder. If the log is damaged,
    /// but the other replicas can restore it, reads the part before the damage; see
    /// [`Recovered::repair`].
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
        let (replay, damage) = read_segments(&disk, &names, &found)?;
        let mut next = found.clone();
        // Peers reject zero, which is no random number.
        next.open(disk.draw().max(1), options.start_ids_kept);
        let (incarnation, written) = (next.identity.incarnation, replay.incarnation);
        assert!(incarnation >= written, "start {incarnation} of a log written by start {written}");
        let unfinished = repair::unfinished(&disk, &found);
        let wrong_state = wrong_state::error_in(&disk, &names);
        Ok(Recovered {
            disk,
            options,
            names,
            found,
            next,
            repair_start_id: None,
            replay,
            is_meta_intact,
            damage,
            gap: None,
            unfinished,
            snapshot_term: Term::default(),
            wrong_state,
        })
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
    pub fn start_ids(&self) -> &[u64] {
        &self.next.start_ids
    }

    /// Returns whether the log contains a membership change.
    pub fn has_configuration(&self) -> bool {
        let mut entries = self.replay.durable.entries.iter();
        entries.any(|entry| entry.kind() == EntryKind::Configuration)
    }

    /// Returns the feature level that a program needs to read the folder.
    pub fn feature_level(&self) -> FeatureLevel {
        self.next.feature_level
    }

    /// Checks that the cluster was created with the members `expected`, which must include this
    /// replica.
    ///
    /// # Errors
    /// If it was created with other members.
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

    /// Returns the data that the replica has lost and not recovered yet, whether this start found
    /// the loss or an earlier one: until it is recovered, the replica is rejoining and must not
    /// vote. `None` if nothing is missing.
    pub fn loss(&self) -> Option<Loss> {
        let mutant = self.disk.mutant();
        if !self.loses_entries() || mutant == Some(Mutant::RepairUnmarked) {
            return self.found.loss;
        }
        let kept_votes = self.found.loss != Some(Loss::Votes) || self.unfinished.is_some();
        let knows_vote =
            self.latest_hard_state().is_some() || mutant == Some(Mutant::TrustDamagedVote);
        Some(if kept_votes && knows_vote { Loss::Entries } else { Loss::Votes })
    }

    fn loses_entries(&self) -> bool {
        self.damage.is_some() || self.gap.is_some() || self.unfinished.is_some()
    }

    fn needs_repair(&self) -> bool {
        self.loses_entries() || self.discards_state()
    }

    /// Returns whether [`Recovered::open`] deletes all snapshots, because the state in them is
    /// marked as wrong.
    pub fn discards_state(&self) -> bool {
        self.wrong_state.is_some()
    }

    /// Returns the latest term and vote of a folder that needs repair; `None` if they are lost.
    fn latest_hard_state(&self) -> Option<HardState> {
        let in_log = || match &self.damage {
            Some(damage) => damage.hard_state,
            None => Some(self.replay.durable.hard_state),
        };
        // A log that has not reached the snapshot's term may be an older copy, and lack a vote.
        self.unfinished.or_else(in_log).filter(|state| state.term >= self.snapshot_term)
    }

    /// Returns the damage that [`Recovered::open`] will repair with the help of the other replicas;
    /// `None` if the folder is undamaged. `snapshot` is the one that was passed to
    /// [`Recovered::check_snapshot`].
    pub fn repair(&self, snapshot: Option<SnapshotId>) -> Option<Repair<'_>> {
        let damage = self.damage.as_ref().map(|damage| &damage.error).or(self.gap.as_ref())?;
        let damage = self.wrong_state.as_ref().unwrap_or(damage);
        let snapshot_end = snapshot.map_or(EntryId::ZERO, |snapshot| snapshot.last);
        let is_kept = !self.resets_log(snapshot) && self.replay.holds(snapshot_end);
        let last_kept = if is_kept { self.replay.last() } else { snapshot_end };
        Some(Repair { damage, loss: self.loss()?, last_kept })
    }

    /// Returns an error if [`Recovered::repair`] finds damage or if the state is marked as wrong.
    ///
    /// # Errors
    /// If the folder is damaged, or its state is wrong.
    pub fn refuse_damage(self) -> Result<Recovered<D>, StorageError> {
        match self {
            Recovered { wrong_state: Some(error), .. } => Err(error),
            Recovered { damage: Some(damage), .. } => Err(damage.error),
            Recovered { gap: Some(gap), .. } => Err(gap),
            undamaged => Ok(undamaged),
        }
    }

    /// Returns whether the whole log must be discarded, because its beginning is damaged or entries
    /// between the snapshot and the log are missing.
    fn resets_log(&self, snapshot: Option<SnapshotId>) -> bool {
        let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        self.damage.is_some() && self.replay.header.is_none() || self.replay.base.index > end
    }

    /// Returns a summary of the log as found.
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

    /// Returns the entry before the first one in the log, and all entries of the log.
    pub(crate) fn entries(&self) -> (EntryId, &[Entry]) {
        (self.replay.base, &self.replay.durable.entries)
    }

    /// Returns whether [`Recovered::open`] will repair the file `meta`, because one of the two
    /// copies of the record in this file is damaged.
    pub fn repairs_meta(&self) -> bool {
        !self.is_meta_intact
    }

    /// Checks that there is no gap between the log and `snapshot`, the latest complete snapshot as
    /// returned by [`Snapshots::load`](super::Snapshots::load); `None` if there is no snapshot. A
    /// gap that the other replicas can fill is noted; see [`Recovered::repair`].
    ///
    /// # Errors
    /// If entries are missing between the snapshot and the log, or the folder has a later, damaged
    /// snapshot whose last entry the log lacks, and the other replicas cannot restore them.
    pub fn check_snapshot(&mut self, snapshot: Option<SnapshotId>) -> Result<(), StorageError> {
        self.gap = self.find_gap(snapshot).err();
        self.snapshot_term = snapshot.map(|snapshot| snapshot.last.term).unwrap_or_default();
        // If the state is marked as wrong, there are other replicas with the right state.
        if self.found.can_repair() || self.discards_state() {
            self.count_repair();
            Ok(())
        } else {
            self.gap.take().map_or(Ok(()), Err)
        }
    }

    /// Counts the repair that this start begins as an additional start. The log is then two starts
    /// ahead of any copy of `meta` from before the repair, which lacks the mark that the replica is
    /// rejoining. An interrupted start explains a difference of only one start.
    fn count_repair(&mut self) {
        // While votes count as lost, every copy made since the repair that lost them has the mark.
        let is_marked = self.needs_repair() && self.loss().is_some();
        let begins = is_marked && self.found.loss != Some(Loss::Votes);
        if begins && self.repair_start_id.is_none() {
            let number = self.disk.draw().max(1);
            self.repair_start_id = Some(number);
            let current = self.next.start_ids.pop().expect("the current start");
            self.next = self.found.clone();
            self.next.open(number, self.options.start_ids_kept);
            self.next.open(current, self.options.start_ids_kept);
        }
    }

    fn find_gap(&self, snapshot: Option<SnapshotId>) -> Result<(), StorageError> {
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
    /// the snapshot's installation, the log is reset to begin after the snapshot. If the folder is
    /// damaged, removes what it cannot trust, and marks the replica as rejoining.
    ///
    /// # Errors
    /// If the folder cannot be written. The current start of the replica is then not recorded, and
    /// the next start draws another random number.
    pub fn open(self, snapshot: Option<SnapshotId>) -> Result<(Log<D>, Durable), StorageError> {
        let (loss, resets) = (self.loss(), self.resets_log(snapshot));
        let (is_damaged, is_interrupted) = (self.needs_repair(), self.unfinished.is_some());
        let discards_state = self.discards_state();
        assert!(!discards_state || snapshot.is_none(), "a snapshot with a wrong state is loaded");
        let latest = self.latest_hard_state().filter(|_| is_damaged);
        let Recovered { mut disk, options, names, mut found, next, mut replay, damage, .. } = self;
        if let Some(number) = self.repair_start_id {
            found.open(number, options.start_ids_kept);
        }
        let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        let base = replay.base.index;
        assert!(
            base <= end || is_damaged,
            "the log starts after {base}, the snapshot ends at {end}: unchecked"
        );
        delete_obsolete(&mut disk, &found)?;
        if is_damaged {
            if loss == Some(Loss::Entries) {
                let hard_state = latest.unwrap_or(replay.durable.hard_state);
                repair::write_record(&mut disk, found.identity.incarnation, hard_state)?;
            }
            // A segment that was created just before a power cut may not be counted yet. If the
            // log is reset, the new segment follows it.
            let numbers = names.iter().filter_map(|name| segment::number_of(name));
            found.last = numbers.max().unwrap_or(0).max(found.last);
            // Until the repair is complete, it is unknown how much of the log it has removed.
            found.loss = loss.and(Some(Loss::Votes));
            found.write(&mut disk)?;
            let log = damage.as_ref().map(|damage| damage.name.as_str());
            let loses_all = resets || discards_state;
            let snapshots = repair::lost_snapshots(&names, end, &replay, loses_all);
            repair::set_aside(&mut disk, &names, log, &snapshots, is_interrupted)?;
        }
        let segment = match replay.header {
            _ if resets => {
                let hard_state = latest.unwrap_or(replay.durable.hard_state);
                let first = first_segment(&found, options);
                replay = repair::restart(first, &found, &names, hard_state, snapshot);
                let header = replay.header.expect("a log that begins with this segment");
                ActiveSegment::create(&mut disk, &header)?
            }
            Some(header) => ActiveSegment::reopen(&mut disk, &header, tail_of(&replay))?,
            None => ActiveSegment::create(&mut disk, &first_segment(&found, options))?,
        };
        if is_damaged && !resets {
            repair::delete_segments_after(&mut disk, &names, segment.number())?;
        }
        let mut meta = found;
        if meta.last != segment.number() {
            // The power failed after the creation of the last segment, or the log was repaired.
            meta.last = segment.number();
            meta.first = if resets { meta.last } else { meta.first };
            meta.write(&mut disk)?;
        }
        if resets {
            delete_obsolete(&mut disk, &meta)?;
        }
        let mut log = Log::resume(disk, options, meta, segment, &replay);
        if let Some(latest) = latest {
            log.adopt(latest);
        }
        // The start is recorded first in the log, then in the meta record: if one of them is
        // restored from an older copy, the other shows it. If the power failed between these two
        // writes of the previous start, no peer learned of that start, and the current start
        // replaces it.
        log.write_block(next.identity.incarnation)?;
        let (identity, start_ids) = (next.identity, next.start_ids);
        log.meta = Meta { identity, loss, start_ids, ..log.meta };
        log.meta.write(&mut log.disk)?;
        repair::delete_record(&mut log.disk)?;
        if discards_state {
            reach("wrong-state", "removed");
            wrong_state::delete_mark(&mut log.disk)?;
        }
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

/// Deletes the files that are obsolete according to the meta record.
fn delete_obsolete<D: Disk>(disk: &mut D, meta: &Meta) -> Result<(), StorageError> {
    let names = disk.list().map_err(io_error(disk, "list", ""))?;
    let is_early = disk.mutant() == Some(Mutant::DeleteBeforeSync);
    // Files that a killed process created or renamed without a sync of the directory are visible
    // too. No file may be deleted before the name of the meta record or snapshot that makes it
    // obsolete is durable.
    if !is_early {
        disk.sync_dir().map_err(io_error(disk, "sync", ""))?;
    }
    for name in names.iter().filter(|name| is_obsolete(name, meta)) {
        disk.delete(name).map_err(io_error(disk, "delete", name))?;
    }
    if is_early {
        disk.sync_dir().map_err(io_error(disk, "sync", ""))?;
    }
    Ok(())
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
    let (hard_state, loss) = (log.hard_state(), log.loss());
    let mut durable = Durable { hard_state, snapshot, loss, ..replay.durable };
    let Some(SnapshotId { last, .. }) = snapshot else { return Ok(durable) };
    if holds_end {
        let covered = durable.entries.partition_point(|entry| entry.index() <= last.index);
        durable.entries.drain(..covered);
        return Ok(durable);
    }
    if last.term > log.hard_state().term {
        // The replica cannot have voted in this term, since a vote is durable before it is sent.
        log.adopt(HardState { term: last.term, voted_for: None });
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
/// log segments and of the files `meta`, `repair` and `wrong-state`, and log segments before
/// segment number `meta.first`, whose entries are in a snapshot.
fn is_obsolete(name: &str, meta: &Meta) -> bool {
    if let Some(number) = segment::number_of(name) {
        return number < meta.first;
    }
    let complete = name.strip_suffix(UNFINISHED);
    complete.is_some_and(|name| {
        let replaced = [META_FILE, repair::RECORD_FILE, wrong_state::FILE];
        replaced.contains(&name) || segment::number_of(name).is_some()
    })
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
/// no file may come from an older copy of the folder. If the log is damaged and the other replicas
/// can restore it, returns the log before the damage, and the damage.
fn read_segments<D: Disk>(
    disk: &D,
    names: &[String],
    meta: &Meta,
) -> Result<(Replay, Option<LogDamage>), StorageError> {
    let mut replay = Replay::new(meta.identity, meta.first);
    replay.mutant = disk.mutant();
    let numbers = names.iter().filter_map(|name| segment::number_of(name));
    let numbers: Vec<u64> = numbers.filter(|&number| number >= meta.first).collect();
    let count = numbers.last().copied().unwrap_or(0).max(meta.last);
    let mut damage = None;
    for number in meta.first..=count {
        let is_present = numbers.binary_search(&number).is_ok();
        match read_segment(disk, number, is_present, number == count, &mut replay) {
            Err(error) if error.is_damage() && meta.can_repair() => {
                let before = replay.durable.hard_state;
                let hard_state = repair::latest_hard_state(disk, count, before, &meta.identity);
                if hard_state.is_none() && meta.members.is_empty() {
                    // The replica was added later, so it may have voted for members that it does
                    // not know.
                    return Err(error);
                }
                let name = segment::file_name(number);
                damage = Some(LogDamage { name, error, hard_state });
                break;
            }
            read => read?,
        }
    }
    let expected = count.saturating_add(1).saturating_sub(meta.first);
    let read = replay.bases.len() as u64;
    assert!(read == expected || damage.is_some(), "{read} of {expected} segments");
    let (opened, written) = (meta.identity.incarnation, replay.incarnation);
    // A replica that may have lost votes has lost the end of its log, too, or a power cut has
    // interrupted a repair.
    if written < opened && damage.is_none() && meta.loss != Some(Loss::Votes) {
        let file = disk.describe(&segment::file_name(count));
        let what = format!("it ends with start {written}, the meta record with start {opened}");
        return Err(StorageError::RolledBack { file, what });
    }
    if written > opened.saturating_add(1) || count > meta.last.saturating_add(1) {
        let file = disk.describe(META_FILE);
        let what = format!(
            "it ends with start {opened} and segment {}, the log with start {written} and \
             segment {count}",
            meta.last
        );
        return Err(StorageError::RolledBack { file, what });
    }
    Ok((replay, damage))
}

fn read_segment<D: Disk>(
    disk: &D,
    number: u64,
    is_present: bool,
    is_last: bool,
    replay: &mut Replay,
) -> Result<(), StorageError> {
    let name = segment::file_name(number);
    let file = disk.describe(&name);
    if !is_present {
        return Err(StorageError::Missing { file });
    }
    let bytes = disk.read(&name).map_err(io_error(disk, "read", &name))?;
    replay.segment(&file, &bytes, is_last)
}
