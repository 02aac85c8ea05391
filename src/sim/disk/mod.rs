//! What a simulated replica runs on: a clock that may go wrong within its bound, and a disk that
//! forgets at a crash what was not synced.

pub(in crate::sim) mod folder;
pub mod snapshots;
pub mod statistics;

use std::collections::VecDeque;
use std::time::Duration;

use crate::kv::StateMachine;
use crate::raft::{AppendJob, Durable, HardState, SnapshotId};
use crate::sim::disk::folder::{Files, Found, Opening, Work};
use crate::sim::disk::snapshots::Snapshot;
use crate::sim::disk::statistics::{DiskFault, FaultStatistics};
use crate::sim::rng::Rng;
use crate::storage::StorageError;
use crate::types::{EntryId, Index, Instant, NodeId};

/// A replica's monotonic clock: its own origin and its own rate.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// True time of the last change of rate.
    anchor: Instant,
    /// What the clock showed then.
    reading: Instant,
    /// How much too fast it goes, in parts per million; negative if too slow.
    rate_ppm: i64,
}

impl Clock {
    /// A clock that shows `reading` at the true time `now`.
    pub fn new(now: Instant, reading: Instant, rate_ppm: i64) -> Clock {
        assert!(rate_ppm > -1_000_000, "a monotonic clock does not go backwards");
        Clock { anchor: now, reading, rate_ppm }
    }

    /// What it shows at the true time `now`.
    pub fn read(&self, now: Instant) -> Instant {
        let passed = i128::from(now.0.saturating_sub(self.anchor.0));
        let shown = passed * i128::from(1_000_000 + self.rate_ppm) / 1_000_000;
        Instant(self.reading.0.saturating_add(u64::try_from(shown).unwrap_or(u64::MAX)))
    }

    /// The first true time at which it shows `reading` or more.
    pub fn when(&self, reading: Instant) -> Instant {
        if reading == Instant::MAX {
            return Instant::MAX;
        }
        let ahead = i128::from(reading.0.saturating_sub(self.reading.0));
        let rate = i128::from(1_000_000 + self.rate_ppm);
        let passed = (ahead * 1_000_000 + rate - 1) / rate;
        Instant(self.anchor.0.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    /// Changes the rate from `now` on; the reading does not jump.
    pub fn set_rate(&mut self, now: Instant, rate_ppm: i64) {
        *self = Clock::new(now, self.read(now), rate_ppm);
    }
}

/// A span drawn anew each time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pace {
    /// Shortest.
    pub min: Duration,
    /// Longest.
    pub max: Duration,
}

impl Pace {
    /// No time at all: what is begun is done.
    pub const AT_ONCE: Pace = Pace { min: Duration::ZERO, max: Duration::ZERO };

    /// Always the same.
    pub const fn always(span: Duration) -> Pace {
        Pace { min: span, max: span }
    }

    /// Whether it takes no time.
    pub fn is_zero(&self) -> bool {
        self.max.is_zero()
    }

    /// One draw.
    pub fn draw(&self, rng: &mut Rng) -> Duration {
        rng.span(self.min, self.max)
    }
}

/// A disk with the log writer in front of it.
///
/// Jobs become durable in order, and only when a sync ends; a sync covers the jobs that waited
/// when it began. Index `base.index + i` of the log is `image.entries[i - 1]`.
#[derive(Debug, Default)]
pub struct Disk {
    image: Durable,
    /// The log began anew behind this entry, the end of a snapshot.
    base: EntryId,
    waiting: VecDeque<AppendJob>,
    /// How many of the waiting jobs the sync under way covers.
    syncing: usize,
    /// The folder, in profiles that run the storage code; `image` is then what it must hold.
    files: Option<Files>,
    /// Whether the jobs that are being synced are in the files.
    in_files: bool,
    /// After a crash of files: all that the log may hold, what it must hold first.
    possible: Vec<(Durable, EntryId)>,
    /// All snapshots that files may hold.
    snapshots: Vec<SnapshotId>,
    /// Whether the files may be damaged while the replica is down.
    pub may_rot: bool,
    /// An operation failed: the process ends.
    failed: bool,
}

/// What a replica starts with.
#[derive(Debug)]
pub(in crate::sim) struct Start {
    pub(in crate::sim) durable: Durable,
    /// The state in its snapshot, where that is in a file.
    pub(in crate::sim) store: Option<StateMachine>,
}

/// How a start goes.
#[derive(Debug)]
pub(in crate::sim) enum Started {
    /// Well.
    With(Box<Start>),
    /// Not now: why.
    NotNow(String),
    /// The files broke their promise: how.
    Broken(String),
}

impl Disk {
    /// A replica's disk with its log in files of this size.
    pub fn with_files(replica: NodeId, members: &[NodeId], segment_bytes: u64) -> Disk {
        Disk::over(Files::new(replica, members, segment_bytes))
    }

    /// A disk with its log in these files, which are new.
    pub(in crate::sim) fn over(files: Files) -> Disk {
        Disk { files: Some(files), ..Disk::default() }
    }

    /// Whether the files were damaged, and the replica did not start for that.
    pub fn is_refused(&self) -> bool {
        self.files.as_ref().is_some_and(Files::is_refused)
    }

    /// The folder, in profiles that run the storage code.
    pub(in crate::sim) fn files(&mut self) -> Option<&mut Files> {
        self.files.as_mut()
    }

    /// The same to look at.
    pub(in crate::sim) fn folder(&self) -> Option<&Files> {
        self.files.as_ref()
    }

    /// How often the files went wrong, by how, and what it came to.
    pub fn statistics(&self) -> FaultStatistics {
        self.files.as_ref().map(|files| files.statistics).unwrap_or_default()
    }

    /// What would survive a crash now.
    pub fn image(&self) -> &Durable {
        &self.image
    }

    /// What a replica finds that starts now and has this snapshot: the entries behind it. Where
    /// the log does not hold its end, it begins anew there. In files another snapshot may be found,
    /// and is the latest then.
    pub(in crate::sim) fn open(
        &mut self,
        latest: &mut Option<SnapshotId>,
        rng: &mut Rng,
    ) -> Started {
        if self.files.is_some() {
            return self.open_files(latest, rng);
        }
        follow(&mut self.image, &mut self.base, *latest);
        Started::With(Box::new(Start { durable: behind(&self.image, *latest), store: None }))
    }

    /// The entry right before the first one that it holds.
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// The id of the last durable entry.
    pub fn last(&self) -> EntryId {
        self.image.entries.last().map_or(self.base, crate::record::Entry::id)
    }

    /// The id of the durable entry at `index`, from the base on.
    pub fn id_at(&self, index: Index) -> Option<EntryId> {
        if index == self.base.index {
            return Some(self.base);
        }
        let place = index.0.checked_sub(self.base.index.0 + 1)?;
        let place = usize::try_from(place).expect("a log in memory");
        self.image.entries.get(place).map(crate::record::Entry::id)
    }

    /// Whether the entry and so all before it are durable in the log.
    pub fn holds(&self, id: EntryId) -> bool {
        self.id_at(id.index) == Some(id)
    }

    /// Takes a job.
    pub fn write(&mut self, job: AppendJob) {
        self.waiting.push_back(job);
    }

    /// Begins a sync if none is under way and something waits. True if it did.
    pub fn begin_sync(&mut self) -> bool {
        if self.syncing > 0 || self.waiting.is_empty() || self.failed {
            return false;
        }
        self.syncing = self.waiting.len();
        self.in_files = false;
        true
    }

    /// Ends the sync under way for its first job; `None` once all its jobs are done. The job's
    /// messages may leave then.
    ///
    /// # Errors
    /// If it failed, and the process must end.
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
        let job = self.waiting.pop_front().expect("a sync covers jobs that wait");
        store(&mut self.image, &mut self.base, &job, job.entries.len());
        Ok(Some(job))
    }

    /// A sync takes longer than any election.
    pub(in crate::sim) fn note_stall(&mut self) {
        self.count(DiskFault::Stall);
    }

    /// Something is wrong with the disk that is not in the files.
    pub(in crate::sim) fn count(&mut self, kind: DiskFault) {
        if let Some(files) = &mut self.files {
            files.statistics.inject(kind, 1);
        }
    }

    /// Lets an operation fail soon.
    pub(in crate::sim) fn fail_soon(&mut self, rng: &mut Rng) {
        self.files.iter_mut().for_each(|files| files.fail_soon(rng));
    }

    /// Leaves little room.
    pub(in crate::sim) fn fill(&mut self, rng: &mut Rng) {
        self.files.iter_mut().for_each(|files| files.fill(rng));
    }

    /// There is room again.
    pub(in crate::sim) fn make_room(&mut self) {
        self.files.iter_mut().for_each(Files::make_room);
    }

    /// Lets the next write of a snapshot go wrong without anybody's being told.
    pub(in crate::sim) fn spoil_snapshot(&mut self, rng: &mut Rng) {
        self.files.iter_mut().for_each(|files| files.spoil_snapshot(rng));
    }

    /// Damages a snapshot while the replica runs.
    pub(in crate::sim) fn rot_snapshot(&mut self, rng: &mut Rng) {
        self.files.iter_mut().for_each(|files| files.rot_snapshot(rng));
    }

    /// What was damaged is as it was.
    pub(in crate::sim) fn restore(&mut self) {
        self.files.iter_mut().for_each(Files::restore);
    }

    /// Nothing goes wrong any more, and what was damaged is as it was.
    pub(in crate::sim) fn calm(&mut self) {
        self.may_rot = false;
        self.files.iter_mut().for_each(Files::calm);
    }

    /// An operation has failed: nothing is written any more.
    pub(in crate::sim) fn fail(&mut self) {
        self.failed = true;
    }

    /// Whether a sync is under way.
    pub fn is_syncing(&self) -> bool {
        self.syncing > 0
    }

    /// Whether the sync under way lets the log begin anew, or entries go.
    pub fn is_cutting(&self) -> bool {
        let mut jobs = self.waiting.iter().take(self.syncing);
        jobs.any(|job| job.restart_after.is_some() || job.compact_to.is_some())
    }

    /// How many jobs are not durable.
    pub fn unsynced(&self) -> usize {
        self.waiting.len()
    }

    /// Puts an empty disk in its place, marked as that of a replica which is rejoining.
    pub(in crate::sim) fn lose(&mut self) {
        assert!(self.files.is_none(), "the loss of files is not simulated");
        self.lose_unsynced();
        (self.base, self.failed) = (EntryId::ZERO, false);
        self.image = Durable { rejoining: true, ..Durable::default() };
    }

    /// Forgets what was not synced, as if nothing of it had reached the disk.
    pub fn lose_unsynced(&mut self) {
        self.waiting.clear();
        self.syncing = 0;
    }

    /// Cuts the power, on a disk whose latest snapshot is this one, while `own` is being written.
    /// Whatever was not synced may be there or not: up to a place that the rng choose it is, also
    /// in the middle of a job; nothing behind that place is.
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
        let written = rng.place(self.syncing + 1);
        for job in self.waiting.iter().take(written) {
            store(&mut self.image, &mut self.base, job, job.entries.len());
        }
        if written < self.syncing {
            // Hard state stands in the block's header, so a job torn in two has it.
            let torn = &self.waiting[written];
            if !torn.entries.is_empty() && rng.chance(500) {
                store(&mut self.image, &mut self.base, torn, rng.place(torn.entries.len()));
            }
        }
        self.lose_unsynced();
    }
}

impl Disk {
    /// The same for files. There a sync is one block, which is found whole or not at all, and a
    /// log that begins anew does so between two of them.
    fn crash_files(&mut self, latest: Option<SnapshotId>, own: Option<&Snapshot>, rng: &mut Rng) {
        let jobs = self.waiting.iter().take(self.syncing);
        let mut possible = vec![(self.image.clone(), self.base)];
        let (mut image, mut base) = possible[0].clone();
        for job in jobs.clone() {
            if job.restart_after.is_some() {
                image.hard_state = job.hard_state.unwrap_or(image.hard_state);
                possible.push((image.clone(), base));
                store(&mut image, &mut base, job, 0);
                possible.push((image.clone(), base));
            }
            store(&mut image, &mut base, job, job.entries.len());
        }
        possible.push((image, base));
        if self.in_files {
            possible.drain(..possible.len() - 1);
        }
        self.possible = possible;
        let files = self.files.as_mut().expect("only called with files");
        self.snapshots.extend(latest);
        let jobs = jobs.filter(|_| !self.in_files);
        files.end(&Work { jobs, latest, own, stopped: self.failed }, rng);
        // One that a power cut has undone since may still be found, in a copy that is put back.
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
        let may_rot = self.may_rot;
        if may_rot && rng.chance(250) {
            let files = self.files.as_mut().expect("only called with files");
            if let Some((what, result)) = files.put_files_back(rng) {
                let wrong = match result {
                    Ok(found) => self.mismatch(&found, *latest),
                    Err(error) if error.is_damage() => None,
                    Err(error) => Some(format!("are taken for something else: {error}")),
                };
                if let Some(wrong) = wrong {
                    return Started::Broken(format!("{what}: {wrong}"));
                }
            }
        }
        let files = self.files.as_mut().expect("only called with files");
        match files.open(*latest, may_rot, log_holds_latest, rng) {
            Opening::Holds(found) => {
                if let Some(wrong) = self.mismatch(&found, *latest) {
                    return Started::Broken(wrong);
                }
                (self.image, self.base) = self.held(&found).expect("it was just looked for");
                self.possible.clear();
                let (id, store) = found.snapshot.unzip();
                *latest = id;
                let store = Some(store.unwrap_or_default());
                Started::With(Box::new(Start { durable: found.durable, store }))
            }
            Opening::NoRoom => Started::NotNow("there is no room".to_owned()),
            Opening::Refused(error) => Started::NotNow(error.to_string()),
            Opening::Broken(how) => Started::Broken(how),
        }
    }

    /// What the log was at the crash, if that gives what was found.
    fn held(&self, found: &Found) -> Option<(Durable, EntryId)> {
        let snapshot = found.snapshot.as_ref().map(|(id, _)| *id);
        let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        let fitting = self.possible.iter().filter_map(|(image, base)| {
            let (mut image, mut base) = (image.clone(), *base);
            follow(&mut image, &mut base, snapshot);
            let fits = base.index <= end && behind(&image, snapshot) == found.durable;
            fits.then_some((image, base))
        });
        // Behind a snapshot a log that has begun anew looks like one that holds its end. What may
        // be there still is taken to be there: it is found again if the snapshot is not.
        fitting.max_by_key(|(image, _)| image.entries.len())
    }

    /// How what was found breaks the promise, if it does.
    fn mismatch(&self, found: &Found, latest: Option<SnapshotId>) -> Option<String> {
        let snapshot = found.snapshot.as_ref().map(|(id, _)| *id);
        let is_known = snapshot.is_none_or(|id| self.snapshots.contains(&id));
        let end = |snapshot: Option<SnapshotId>| snapshot.map(|snapshot| snapshot.last.index);
        if !is_known || !found.may_be_older && end(snapshot) < end(latest) {
            return Some(format!("the latest snapshot is {latest:?}, found {snapshot:?}"));
        }
        if self.held(found).is_none() {
            return Some(format!(
                "vouched for {:?} and {} entries behind {}, found {:?} and {} behind {:?}",
                self.image.hard_state,
                self.image.entries.len(),
                self.base,
                found.durable.hard_state,
                found.durable.entries.len(),
                snapshot.map(|snapshot| snapshot.last),
            ));
        }
        None
    }
}

/// Lets a log begin anew behind a snapshot whose end it does not hold. A term that came to the disk
/// with the snapshot only has no vote yet.
fn follow(image: &mut Durable, base: &mut EntryId, snapshot: Option<SnapshotId>) {
    let Some(SnapshotId { last, .. }) = snapshot.filter(|it| it.last.index > base.index) else {
        return;
    };
    let place = usize::try_from(last.index.0 - base.index.0 - 1).expect("a log in memory");
    if image.entries.get(place).is_none_or(|entry| entry.id() != last) {
        image.entries.clear();
        *base = last;
        if last.term > image.hard_state.term {
            image.hard_state = HardState { term: last.term, voted_for: None };
        }
    }
}

/// What a replica finds that has this snapshot.
fn behind(image: &Durable, snapshot: Option<SnapshotId>) -> Durable {
    let mut durable = Durable { snapshot, ..image.clone() };
    let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
    durable.entries.retain(|entry| entry.index() > end);
    durable
}

/// Writes a job's hard state and its first `count` entries; with all of them the mark of a replica
/// that is rejoining goes, if the job says so.
fn store(image: &mut Durable, base: &mut EntryId, job: &AppendJob, count: usize) {
    if let Some(hard_state) = job.hard_state {
        image.hard_state = hard_state;
    }
    if let Some(last) = job.restart_after {
        image.entries.clear();
        *base = last;
    }
    if job.rejoined && count == job.entries.len() {
        image.rejoining = false;
    }
    let Some(first) = job.entries[..count].first() else { return };
    let keep = usize::try_from(first.index().0 - base.index.0 - 1).expect("a log in memory");
    assert!(keep <= image.entries.len(), "job {} leaves a gap in the log", job.sequence);
    image.entries.truncate(keep);
    image.entries.extend_from_slice(&job.entries[..count]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EntryKind, RecordBuffer};
    use crate::types::{JobSequence, Term};

    #[test]
    fn a_clock_keeps_its_rate_and_finds_the_time_of_a_reading() {
        for rate in [-300_000, -2_000, 0, 7, 2_000, 500_000] {
            let mut clock = Clock::new(Instant(1_000), Instant(77), rate);
            assert_eq!(clock.read(Instant(1_000)), Instant(77));
            for reading in [77, 78, 1_000, 999_999_937] {
                let at = clock.when(Instant(reading));
                assert!(clock.read(at) >= Instant(reading));
                assert!(at == Instant(1_000) || clock.read(Instant(at.0 - 1)) < Instant(reading));
            }
            let before = clock.read(Instant(5_000_000));
            clock.set_rate(Instant(5_000_000), -rate);
            assert_eq!(clock.read(Instant(5_000_000)), before);
        }
        let fast = Clock::new(Instant::ZERO, Instant::ZERO, 2_000);
        assert_eq!(fast.read(Instant(1_000_000_000)), Instant(1_002_000_000));
        assert_eq!(fast.when(Instant::MAX), Instant::MAX);
    }

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
    fn a_sync_covers_what_waited_when_it_began() {
        let mut disk = Disk::default();
        assert!(!disk.begin_sync());
        disk.write(job(1, 1, &[(1, 1), (2, 1)]));
        assert!(disk.begin_sync());
        disk.write(job(2, 2, &[(2, 2)]));
        assert!(!disk.begin_sync(), "one is under way");
        assert_eq!(ended(&mut disk).map(|job| job.sequence), Some(JobSequence(1)));
        assert_eq!(ended(&mut disk), None);
        assert_eq!(ids(&disk), [(1, 1), (2, 1)]);
        assert!(disk.begin_sync());
        assert_eq!(ended(&mut disk).map(|job| job.sequence), Some(JobSequence(2)));
        assert_eq!(ids(&disk), [(1, 1), (2, 2)]);
        assert!(disk.holds(EntryId::new(2, 2)) && !disk.holds(EntryId::new(1, 2)));
    }

    #[test]
    fn a_crash_keeps_a_beginning_of_what_was_being_synced_and_nothing_else() {
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
