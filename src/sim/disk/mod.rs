//! The simulated disk of a machine, including the log writer. A crash loses what was not synced.

pub(in crate::sim) mod folder;
pub mod snapshots;
pub mod statistics;

use std::collections::VecDeque;

use crate::kv::StateMachine;
use crate::raft::{AppendJob, Durable, HardState, Loss, SnapshotId};
use crate::sim::disk::folder::{Folder, Found, Opening, Work};
use crate::sim::disk::snapshots::Snapshot;
use crate::sim::disk::statistics::{DiskFault, FaultStatistics};
use crate::sim::rng::Rng;
use crate::storage::StorageError;
use crate::types::{EntryId, Index, NodeId};

/// A simulated disk with its log writer.
///
/// Jobs (log writes) become durable in order, at the end of a sync. A sync covers the jobs that
/// were waiting when it began. The entry with index `base.index + i` is `image.entries[i - 1]`.
#[derive(Debug, Default)]
pub struct Disk {
    image: Durable,
    /// Id of the entry just before the log's first entry: the last entry of the snapshot after
    /// which the log was reset, or zero.
    base: EntryId,
    waiting: VecDeque<AppendJob>,
    /// Number of jobs (log writes) that the current sync covers; 0 while there is no sync.
    syncing: usize,
    /// The replica's folder, in runs with the real storage code; its content must equal `image`.
    /// `None` in runs that model the disk only by `image`.
    files: Option<Folder>,
    /// Whether the jobs that the current sync covers are already written to the files of the
    /// folder.
    in_files: bool,
    /// After a crash in a run with the real storage code, the contents that the log may have at the
    /// next start, in the order in which they were written. Each content comes with the id of the
    /// entry just before the log's first entry. Empty in all other cases.
    possible: Vec<(Durable, EntryId)>,
    /// Snapshots that the replica may find in its folder at its next start.
    snapshots: Vec<SnapshotId>,
    /// Whether the simulator may corrupt files of the replica while it is down.
    pub may_corrupt: bool,
    /// Whether a disk operation has failed, so that the process must stop.
    failed: bool,
}

/// The state from which a replica starts.
#[derive(Debug)]
pub(in crate::sim) struct Start {
    pub(in crate::sim) durable: Durable,
    /// The state machine decoded from the snapshot file; `None` if snapshots are kept only in
    /// memory.
    pub(in crate::sim) store: Option<StateMachine>,
    /// The durable data before the start repaired the folder; `None` if it did not need repair.
    pub(in crate::sim) lost: Option<LostLog>,
}

/// Durable data of a folder that was damaged and then repaired.
#[derive(Debug)]
pub(in crate::sim) struct LostLog {
    pub(in crate::sim) image: Durable,
    pub(in crate::sim) base: EntryId,
}

/// The outcome of opening a replica's disk for a start.
#[derive(Debug)]
pub(in crate::sim) enum Started {
    /// The disk was opened, and the replica starts from this state.
    Ok(Box<Start>),
    /// The replica cannot start now, for this reason, because its files are damaged or its disk is
    /// full.
    Unavailable(String),
    /// The start violated a safety rule, as this text describes: durable data is missing, or damage
    /// was not detected.
    Violation(String),
}

impl Disk {
    /// Creates an empty disk that runs the real storage code, with log segments of `segment_bytes`
    /// bytes.
    pub fn with_files(replica: NodeId, members: &[NodeId], segment_bytes: u64) -> Disk {
        Disk::over(Folder::new(replica, members, segment_bytes))
    }

    /// Creates a disk that runs the real storage code on this new folder.
    pub(in crate::sim) fn over(files: Folder) -> Disk {
        Disk { files: Some(files), ..Disk::default() }
    }

    /// Returns whether the replica's last start failed because its files were damaged.
    pub fn is_refused(&self) -> bool {
        self.files.as_ref().is_some_and(Folder::is_refused)
    }

    /// Returns whether the replica has lost all or part of its disk and has not finished rejoining,
    /// or whether its next start may lead to this because its state is wrong.
    pub(in crate::sim) fn is_rejoining(&self) -> bool {
        let will_rejoin = |files: &Folder| files.is_half_repaired() || files.discards_state();
        self.image.loss.is_some() || self.files.as_ref().is_some_and(will_rejoin)
    }

    /// Returns the replica's folder; `None` in runs without the real storage code.
    pub(in crate::sim) fn files(&mut self) -> Option<&mut Folder> {
        self.files.as_mut()
    }

    /// Returns the replica's folder, read-only; `None` in runs without the real storage code.
    pub(in crate::sim) fn folder(&self) -> Option<&Folder> {
        self.files.as_ref()
    }

    /// Returns how many disk faults of each type were injected into this disk, and their effects.
    pub fn statistics(&self) -> FaultStatistics {
        self.files.as_ref().map(|files| files.statistics).unwrap_or_default()
    }

    /// Returns the durable term, vote and log: what would remain if the machine crashed now.
    pub fn image(&self) -> &Durable {
        &self.image
    }

    /// Opens the disk for a start of the replica, whose latest snapshot is `latest`. With the real
    /// storage code, `latest` is set to the snapshot found in the files, which may be another one.
    /// If the log does not contain the snapshot's last entry, resets the log to begin after that
    /// entry.
    pub(in crate::sim) fn open(
        &mut self,
        latest: &mut Option<SnapshotId>,
        rng: &mut Rng,
    ) -> Started {
        if self.files.is_some() {
            return self.open_files(latest, rng);
        }
        restart_after(&mut self.image, &mut self.base, *latest);
        let durable = after_snapshot(&self.image, *latest);
        Started::Ok(Box::new(Start { durable, store: None, lost: None }))
    }

    /// Returns the id of the entry just before the log's first entry: the last entry of a snapshot,
    /// or zero.
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// Returns the id of the last durable entry, or [`Disk::base`] if the log is empty.
    pub fn last(&self) -> EntryId {
        self.image.entries.last().map_or(self.base, crate::record::Entry::id)
    }

    /// Returns the id of the durable entry at `index`; `None` if there is none. For the index just
    /// before the log's first entry, returns [`Disk::base`].
    pub fn id_at(&self, index: Index) -> Option<EntryId> {
        if index == self.base.index {
            return Some(self.base);
        }
        let place = index.0.checked_sub(self.base.index.0 + 1)?;
        let place = usize::try_from(place).expect("fits in memory");
        self.image.entries.get(place).map(crate::record::Entry::id)
    }

    /// Returns whether the log on disk durably contains the entry `id`, and therefore every entry
    /// before it.
    pub fn holds(&self, id: EntryId) -> bool {
        self.id_at(id.index) == Some(id)
    }

    /// Queues a job of the log writer (a log write) for the next sync.
    pub fn write(&mut self, job: AppendJob) {
        self.waiting.push_back(job);
    }

    /// Begins a sync of the waiting jobs. Does nothing and returns false if a sync is in progress,
    /// no job is waiting, or the disk has failed.
    pub fn begin_sync(&mut self) -> bool {
        if self.syncing > 0 || self.waiting.is_empty() || self.failed {
            return false;
        }
        self.syncing = self.waiting.len();
        self.in_files = false;
        true
    }

    /// Completes the next job of the current sync and returns it, so that the caller can send the
    /// messages that were waiting for this job; `None` if the sync has no more jobs.
    ///
    /// # Errors
    /// If the disk failed, so that the process must stop.
    pub fn end_sync(&mut self) -> Result<Option<AppendJob>, StorageError> {
        if self.syncing == 0 || self.failed {
            return Ok(None);
        }
        let jobs = self.waiting.iter().take(self.syncing);
        if let Some(files) = self.files.as_mut().filter(|_| !self.in_files) {
            files.sync(jobs)?;
            self.in_files = true;
        }
        self.syncing -= 1;
        let job = self.waiting.pop_front().expect("a sync covers waiting jobs");
        write_job(&mut self.image, &mut self.base, &job, job.entries.len());
        Ok(Some(job))
    }

    /// Adds a stall, a sync that takes longer than an election, to the fault statistics.
    pub(in crate::sim) fn count_stall(&mut self) {
        self.count_fault(DiskFault::Stall);
    }

    /// Adds a fault that does not affect files, such as a slow disk, to the fault statistics.
    pub(in crate::sim) fn count_fault(&mut self, kind: DiskFault) {
        if let Some(files) = &mut self.files {
            files.statistics.inject(kind, 1);
        }
    }

    /// Makes one of the next disk operations fail, chosen at random.
    pub(in crate::sim) fn fail_soon(&mut self, rng: &mut Rng) {
        self.files.iter_mut().for_each(|files| files.fail_soon(rng));
    }

    /// Makes the disk almost full until [`Disk::free_space`] is called.
    pub(in crate::sim) fn fill(&mut self, rng: &mut Rng) {
        self.files.iter_mut().for_each(|files| files.fill(rng));
    }

    /// Frees space on the disk that [`Disk::fill`] has made almost full.
    pub(in crate::sim) fn free_space(&mut self) {
        self.files.iter_mut().for_each(Folder::free_space);
    }

    /// Corrupts the next write to a snapshot file: the disk stores wrong bytes without reporting an
    /// error.
    pub(in crate::sim) fn corrupt_snapshot_write(&mut self, rng: &mut Rng) {
        self.files.iter_mut().for_each(|files| files.corrupt_snapshot_write(rng));
    }

    /// Flips a random bit of a snapshot file of a running replica.
    pub(in crate::sim) fn corrupt_snapshot(&mut self, rng: &mut Rng) {
        self.files.iter_mut().for_each(|files| files.corrupt_snapshot(rng));
    }

    /// Restores the original contents of the files that the simulator has damaged.
    pub(in crate::sim) fn restore(&mut self) {
        self.files.iter_mut().for_each(Folder::restore);
    }

    /// Ends all faults of this disk, and restores the original contents of damaged files.
    pub(in crate::sim) fn end_faults(&mut self) {
        self.may_corrupt = false;
        self.files.iter_mut().for_each(Folder::end_faults);
    }

    /// Records that a disk operation failed. From then on, nothing is written until the machine has
    /// crashed.
    pub(in crate::sim) fn fail(&mut self) {
        self.failed = true;
    }

    /// Returns whether a sync is in progress.
    pub fn is_syncing(&self) -> bool {
        self.syncing > 0
    }

    /// Returns whether the current sync includes a reset of the log after a snapshot, or a
    /// compaction of the log.
    pub fn is_truncating(&self) -> bool {
        let mut jobs = self.waiting.iter().take(self.syncing);
        jobs.any(|job| job.restart_after.is_some() || job.compact_to.is_some())
    }

    /// Returns the number of queued jobs (log writes) that are not durable yet.
    pub fn unsynced(&self) -> usize {
        self.waiting.len()
    }

    /// Simulates the loss of the disk: replaces it with an empty one that is marked as rejoining.
    pub(in crate::sim) fn lose(&mut self) {
        assert!(self.files.is_none(), "the loss of files is not simulated");
        self.lose_unsynced();
        (self.base, self.failed) = (EntryId::ZERO, false);
        self.image = Durable { loss: Some(Loss::Votes), ..Durable::default() };
    }

    /// Drops all jobs (log writes) that were not synced, as a crash does.
    pub fn lose_unsynced(&mut self) {
        self.waiting.clear();
        self.syncing = 0;
    }

    /// Crashes the machine. Keeps a random prefix of the jobs being synced, which may end in the
    /// middle of a job. `own` is the replica's own snapshot that is being written (`None` if there
    /// is none), and `latest` the latest durable snapshot.
    pub(in crate::sim) fn crash(
        &mut self,
        latest: Option<SnapshotId>,
        own: Option<&Snapshot>,
        rng: &mut Rng,
    ) {
        if self.files.is_some() {
            self.crash_files(latest, own, rng);
            return;
        }
        let written = rng.index(self.syncing + 1);
        for job in self.waiting.iter().take(written) {
            write_job(&mut self.image, &mut self.base, job, job.entries.len());
        }
        if written < self.syncing {
            // The hard state is in the block's header, so a torn job has it.
            let torn = &self.waiting[written];
            if !torn.entries.is_empty() && rng.permille(500) {
                write_job(&mut self.image, &mut self.base, torn, rng.index(torn.entries.len()));
            }
        }
        self.lose_unsynced();
    }
}

impl Disk {
    /// Crashes a machine that runs the real storage code, and computes the contents that its log
    /// may have afterwards: those before and after the sync in progress, and before and after each
    /// reset of the log within it.
    fn crash_files(&mut self, latest: Option<SnapshotId>, own: Option<&Snapshot>, rng: &mut Rng) {
        let jobs = self.waiting.iter().take(self.syncing);
        let mut possible = vec![(self.image.clone(), self.base)];
        let (mut image, mut base) = possible[0].clone();
        for job in jobs.clone() {
            if job.restart_after.is_some() {
                image.hard_state = job.hard_state.unwrap_or(image.hard_state);
                possible.push((image.clone(), base));
                write_job(&mut image, &mut base, job, 0);
                possible.push((image.clone(), base));
            }
            write_job(&mut image, &mut base, job, job.entries.len());
        }
        possible.push((image, base));
        if self.in_files {
            possible.drain(..possible.len() - 1);
        }
        self.possible = possible;
        let files = self.files.as_mut().expect("only called with files");
        self.snapshots.extend(latest);
        let jobs = jobs.filter(|_| !self.in_files);
        files.crash(&Work { jobs, latest, own, stopped: self.failed }, rng);
        // A snapshot that was lost in a power cut may be found again in an old copy.
        self.snapshots.extend(files.take_finished());
        self.snapshots.dedup();
        self.lose_unsynced();
        self.failed = false;
    }

    fn open_files(&mut self, latest: &mut Option<SnapshotId>, rng: &mut Rng) -> Started {
        if self.possible.is_empty() {
            self.possible.push((self.image.clone(), self.base));
        }
        let holds = |(image, base): &(Durable, EntryId), last: EntryId| {
            *base == last || image.entries.iter().any(|entry| entry.id() == last)
        };
        let log_holds_latest =
            latest.is_none_or(|latest| self.possible.iter().all(|one| holds(one, latest.last)));
        let may_corrupt = self.may_corrupt;
        if may_corrupt && rng.permille(250) {
            let files = self.files.as_mut().expect("only called with files");
            if !files.discards_state()
                && let Some((what, result)) = files.open_with_old_files(rng)
            {
                let wrong = match result {
                    Ok(found) => self.mismatch(&found, *latest),
                    Err(error) if error.is_damage() => None,
                    Err(error) => Some(format!("are rejected with an unrelated error: {error}")),
                };
                if let Some(wrong) = wrong {
                    return Started::Violation(format!("{what}: {wrong}"));
                }
            }
        }
        let files = self.files.as_mut().expect("only called with files");
        match files.open(*latest, may_corrupt, log_holds_latest, rng) {
            Opening::Opened(found) => {
                if let Some(wrong) = self.mismatch(&found, *latest) {
                    return Started::Violation(wrong);
                }
                let (image, base) = match (self.matching_content(&found), &found.log) {
                    (Some(content), _) => content,
                    (None, Some((base, entries))) => {
                        (Durable { entries: entries.clone(), ..found.durable.clone() }, *base)
                    }
                    (None, None) => unreachable!("a match was found above"),
                };
                let is_repaired = self.matching_content(&found).is_none();
                let lost = LostLog {
                    image: std::mem::replace(&mut self.image, image),
                    base: std::mem::replace(&mut self.base, base),
                };
                self.possible.clear();
                let (id, store) = found.snapshot.unzip();
                *latest = id;
                let store = Some(store.unwrap_or_default());
                let lost = is_repaired.then_some(lost);
                Started::Ok(Box::new(Start { durable: found.durable, store, lost }))
            }
            Opening::DiskFull => Started::Unavailable("the disk is full".to_owned()),
            Opening::Refused(error) => Started::Unavailable(error.to_string()),
            Opening::Violation(how) => Started::Violation(how),
        }
    }

    /// Returns that possible content of the log after a crash which equals the content found at the
    /// start, and the id of the entry just before the log's first entry. If several match, returns
    /// the longest log; `None` if none matches.
    fn matching_content(&self, found: &Found) -> Option<(Durable, EntryId)> {
        let snapshot = found.snapshot.as_ref().map(|(id, _)| *id);
        let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        let fitting = self.possible.iter().filter_map(|(image, base)| {
            let (mut image, mut base) = (image.clone(), *base);
            restart_after(&mut image, &mut base, snapshot);
            let fits = base.index <= end && after_snapshot(&image, snapshot) == found.durable;
            fits.then_some((image, base))
        });
        // After a snapshot, a log that was reset cannot be distinguished from one that contains the
        // snapshot's last entry. The longer one is assumed: its entries are found if the snapshot
        // is not.
        fitting.max_by_key(|(image, _)| image.entries.len())
    }

    /// Returns a description of what is wrong with the content found in the folder at a start;
    /// `None` if it is correct.
    fn mismatch(&self, found: &Found, latest: Option<SnapshotId>) -> Option<String> {
        let snapshot = found.snapshot.as_ref().map(|(id, _)| *id);
        let is_known = snapshot.is_none_or(|id| self.snapshots.contains(&id));
        let end = |snapshot: Option<SnapshotId>| snapshot.map(|snapshot| snapshot.last.index);
        if !is_known || !found.may_be_older && end(snapshot) < end(latest) {
            return Some(format!("expected the snapshot {latest:?}, found {snapshot:?}"));
        }
        if self.matching_content(found).is_none() && !self.is_repaired(found) {
            return Some(format!(
                "expected {:?} and {} entries after {}, found {:?} and {} entries after {:?}, with \
                 the loss {:?}",
                self.image.hard_state,
                self.image.entries.len(),
                self.base,
                found.durable.hard_state,
                found.durable.entries.len(),
                snapshot.map(|snapshot| snapshot.last),
                found.durable.loss,
            ));
        }
        None
    }

    /// Returns whether the content found at a start is a correct repair of a damaged folder: the
    /// replica is marked as rejoining, and if it is not marked as having lost its votes, its term
    /// and vote are the latest ones. The safety checker checks what is left of the log.
    fn is_repaired(&self, found: &Found) -> bool {
        let snapshot = found.snapshot.as_ref().map(|(id, _)| *id);
        let is_latest = |(image, base): &(Durable, EntryId)| {
            let (mut image, mut base) = (image.clone(), *base);
            restart_after(&mut image, &mut base, snapshot);
            image.hard_state == found.durable.hard_state
        };
        let is_earlier = |(image, _): &(Durable, EntryId)| {
            found.durable.hard_state.term <= image.hard_state.term
        };
        let may_be_repaired = found.may_be_older && found.durable.loss >= self.image.loss;
        may_be_repaired
            && match found.durable.loss {
                None => false,
                Some(Loss::Entries) => self.possible.iter().any(is_latest),
                Some(Loss::Votes) => self.possible.iter().any(is_earlier),
            }
    }
}

/// Resets the log to begin after a snapshot if the log (`image`) does not contain the snapshot's
/// last entry: removes all entries, and makes that entry the new `base`, the entry just before the
/// log's first one. In this case, if that entry has a later term than the hard state, also moves
/// the hard state to that term, without a vote.
fn restart_after(image: &mut Durable, base: &mut EntryId, snapshot: Option<SnapshotId>) {
    let Some(SnapshotId { last, .. }) = snapshot.filter(|it| it.last.index > base.index) else {
        return;
    };
    let place = usize::try_from(last.index.0 - base.index.0 - 1).expect("fits in memory");
    if image.entries.get(place).is_none_or(|entry| entry.id() != last) {
        image.entries.clear();
        *base = last;
        if last.term > image.hard_state.term {
            image.hard_state = HardState { term: last.term, voted_for: None };
        }
    }
}

/// Returns the durable state from which a replica with this snapshot starts. Its log contains only
/// the entries after the snapshot.
fn after_snapshot(image: &Durable, snapshot: Option<SnapshotId>) -> Durable {
    let mut durable = Durable { snapshot, ..image.clone() };
    let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
    durable.entries.retain(|entry| entry.index() > end);
    durable
}

/// Applies a job (log write) to `image`, the durable content of a disk: writes the job's term and
/// vote, and its first `count` entries. If that is the whole job and it completes rejoining, also
/// clears `loss` in `image`.
fn write_job(image: &mut Durable, base: &mut EntryId, job: &AppendJob, count: usize) {
    if let Some(hard_state) = job.hard_state {
        image.hard_state = hard_state;
    }
    if let Some(last) = job.restart_after {
        image.entries.clear();
        *base = last;
    }
    if job.rejoined && count == job.entries.len() {
        image.loss = None;
    }
    let Some(first) = job.entries[..count].first() else { return };
    let keep = usize::try_from(first.index().0 - base.index.0 - 1).expect("fits in memory");
    assert!(keep <= image.entries.len(), "job {} would leave a gap in the log", job.sequence);
    image.entries.truncate(keep);
    image.entries.extend_from_slice(&job.entries[..count]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature_level::FeatureLevel;
    use crate::record::{EntryKind, RecordBuffer};
    use crate::types::{JobSequence, Term};

    fn job(sequence: u64, term: u64, ids: &[(u64, u64)]) -> AppendJob {
        let mut buffer = RecordBuffer::default();
        let encode = |&(index, term): &(u64, u64)| {
            buffer.encode(EntryId::new(term, index), EntryKind::Command, b"x")
        };
        AppendJob {
            sequence: JobSequence(sequence),
            hard_state: Some(HardState { term: Term(term), voted_for: None }),
            restart_after: None,
            compact_to: None,
            entries: ids.iter().map(encode).collect(),
            feature_level: FeatureLevel::OLDEST,
            rejoined: false,
            release: Vec::new(),
        }
    }

    fn ended(disk: &mut Disk) -> Option<AppendJob> {
        disk.end_sync().expect("memory does not fail")
    }

    fn ids(disk: &Disk) -> Vec<(u64, u64)> {
        disk.image.entries.iter().map(|entry| (entry.index().0, entry.term().0)).collect()
    }

    #[test]
    fn simulated_disk_sync_covers_only_writes_before_its_start() {
        let mut disk = Disk::default();
        assert!(!disk.begin_sync());
        disk.write(job(1, 1, &[(1, 1), (2, 1)]));
        assert!(disk.begin_sync());
        disk.write(job(2, 2, &[(2, 2)]));
        assert!(!disk.begin_sync(), "a sync is in progress");
        assert_eq!(ended(&mut disk).map(|job| job.sequence), Some(JobSequence(1)));
        assert_eq!(ended(&mut disk), None);
        assert_eq!(ids(&disk), [(1, 1), (2, 1)]);
        assert!(disk.begin_sync());
        assert_eq!(ended(&mut disk).map(|job| job.sequence), Some(JobSequence(2)));
        assert_eq!(ids(&disk), [(1, 1), (2, 2)]);
        assert!(disk.holds(EntryId::new(2, 2)) && !disk.holds(EntryId::new(1, 2)));
    }

    #[test]
    fn simulated_crash_keeps_a_prefix_of_log_writes_being_synced() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut disk = Disk::default();
            disk.write(job(1, 1, &[(1, 1), (2, 1)]));
            disk.write(job(2, 2, &[(2, 2)]));
            assert!(disk.begin_sync());
            disk.write(job(3, 3, &[(3, 3)]));
            disk.crash(None, None, &mut Rng::new(seed));
            assert_eq!(disk.unsynced(), 0);
            seen.insert((disk.image.hard_state.term.0, ids(&disk)));
        }
        let expected = [
            (0, vec![]),
            (1, vec![]),
            (1, vec![(1, 1)]),
            (1, vec![(1, 1), (2, 1)]),
            (2, vec![(1, 1), (2, 1)]),
            (2, vec![(1, 1), (2, 2)]),
        ];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    }
}
