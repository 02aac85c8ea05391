//! A random workload, drawn from a seed, for a replica's log and snapshots in one folder, with an
//! account of what must be durable. The replica takes snapshots, installs those of leaders,
//! compacts the log and resets it after a snapshot, with several of these in progress at a time.
#![allow(clippy::unwrap_used, reason = "a test whose helpers can't go on fails")]

use std::collections::BTreeMap;

use bowline::raft::{Durable, HardState, SnapshotId};
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::sim::rng::Rng;
use bowline::storage::{
    Loaded, Log, SharedDisk, SnapshotCheck, SnapshotSource, SnapshotWriter, Snapshots, StorageError,
};
use bowline::types::{EntryId, Index, Term};

use crate::workload::{CLUSTER, ME, OPTIONS, draw_payload};

/// Returns a snapshot of the state after the entries in `history`: its id, and its bytes, which are
/// the id of the last entry, a checksum over all entries, `filler` bytes, and a checksum over all
/// that.
pub(crate) fn snapshot_of(history: &[Entry], filler: usize) -> (SnapshotId, Vec<u8>) {
    let last = history.last().expect("nobody takes a snapshot of nothing").id();
    let mut bytes = [last.term.0, last.index.0].map(u64::to_le_bytes).concat();
    bytes.extend(digest(history).to_le_bytes());
    bytes.resize(bytes.len() + filler, 7);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend(checksum.to_le_bytes());
    (SnapshotId { last, bytes: bytes.len() as u64, checksum }, bytes)
}

fn digest(history: &[Entry]) -> u32 {
    history.iter().fold(0, |digest, entry| crc32c::crc32c_append(digest, entry.record()))
}

/// Checks a snapshot made by [`snapshot_of`]. The result is the checksum over all entries.
#[derive(Default)]
pub(crate) struct Check(Vec<u8>);

impl SnapshotCheck for Check {
    type Whole = u32;

    fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        self.0.extend_from_slice(piece);
        Ok(())
    }

    fn finish(self) -> Result<(SnapshotId, u32), String> {
        let Some((covered, checksum)) = self.0.split_last_chunk::<4>() else {
            return Err("it is too short".to_owned());
        };
        let checksum = u32::from_le_bytes(*checksum);
        if covered.len() < 20 || crc32c::crc32c(covered) != checksum {
            return Err("its checksum is another".to_owned());
        }
        let number = |at: usize| u64::from_le_bytes(covered[at..at + 8].try_into().unwrap());
        let last = EntryId::new(number(0), number(8));
        let digest = u32::from_le_bytes(covered[16..20].try_into().unwrap());
        Ok((SnapshotId { last, bytes: self.0.len() as u64, checksum }, digest))
    }
}

/// A complete log, without compaction, and the term and vote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    hard_state: HardState,
    /// The entries of the log, from index 1 on.
    entries: Vec<Entry>,
}

impl Whole {
    fn last(&self) -> EntryId {
        self.entries.last().map_or(EntryId::ZERO, Entry::id)
    }

    fn holds(&self, id: EntryId) -> bool {
        let place = usize::try_from(id.index.0).unwrap();
        place > 0 && self.entries.get(place - 1).is_some_and(|entry| entry.id() == id)
    }
}

/// Counts of events, to show that the runs covered every case.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) taken: u64,
    pub(crate) installed: u64,
    pub(crate) restarts: u64,
    pub(crate) deleted: u64,
    /// Number of runs that reset the log to begin after a snapshot when they opened it.
    pub(crate) cut_installs: u64,
    /// Number of runs that found a snapshot whose completion was not reported.
    pub(crate) untold: u64,
}

/// What a replica must find in its folder, kept over several runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    acknowledged: Whole,
    attempted: Whole,
    /// State between `acknowledged` and `attempted`, if making the attempt durable takes two syncs.
    between: Option<Whole>,
    /// The latest snapshot that was reported as durable.
    latest: Option<SnapshotId>,
    /// The snapshot whose completion was in progress.
    finishing: Option<SnapshotId>,
    /// For every snapshot ever taken, identified by its last entry: the log entries that it covers.
    histories: BTreeMap<(Index, Term), Vec<Entry>>,
    /// Index up to which entries are committed.
    commit: Index,
    /// Number of terms drawn so far. Each leader has a term of its own.
    terms: u64,
    bootstrapped: bool,
    pub(crate) counts: Counts,
}

/// A leader's snapshot that is being received.
struct Incoming {
    id: SnapshotId,
    bytes: Vec<u8>,
    writer: SnapshotWriter<usize>,
}

impl Account {
    /// Simulates one process: opens the folder, checks what is found, and works for `steps` steps.
    pub(crate) fn live(
        &mut self,
        disk: &SharedDisk,
        seed: u64,
        steps: usize,
    ) -> Result<(), StorageError> {
        if !self.bootstrapped {
            match Log::bootstrap(&mut disk.clone(), CLUSTER, ME, &[ME]) {
                // The power failed after the bootstrap and before its report.
                Err(StorageError::NotEmpty { file }) if file == "meta" => {}
                other => other?,
            }
            self.bootstrapped = true;
        }
        let (mut log, mut snapshots) = self.open(disk)?;
        let mut rng = Rng::new(seed);
        let mut own: Option<(SnapshotId, Vec<u8>, SnapshotWriter<usize>)> = None;
        let mut incoming: Option<Incoming> = None;
        let mut restart: Option<EntryId> = None;
        for _ in 0..steps {
            match rng.below(12) {
                0 if own.is_none() && self.commit > Index::ZERO => {
                    // A snapshot covers committed entries, whether they are durable here or not.
                    let end = usize::try_from(self.commit.0).unwrap();
                    let history = self.attempted.entries[..end].to_vec();
                    let (id, bytes) = self.draw_snapshot(history, &mut rng);
                    own = Some((id, bytes, snapshots.begin(SnapshotSource::Own)?));
                }
                0 | 1 => {
                    if let Some((id, bytes, mut writer)) = own.take() {
                        write_rest(&mut snapshots, &mut writer, &bytes, &mut rng)?;
                        if writer.bytes() < id.bytes {
                            own = Some((id, bytes, writer));
                        } else {
                            self.finish(&mut snapshots, writer, id)?;
                            self.counts.taken += 1;
                        }
                    }
                }
                2 if incoming.is_none() && restart.is_none() && rng.permille(500) => {
                    let history = self.draw_leaders_history(&mut rng);
                    let (id, bytes) = self.draw_snapshot(history, &mut rng);
                    let writer = snapshots.begin(SnapshotSource::Incoming)?;
                    incoming = Some(Incoming { id, bytes, writer });
                }
                2 | 3 => {
                    if let Some(Incoming { id, bytes, mut writer }) = incoming.take() {
                        write_rest(&mut snapshots, &mut writer, &bytes, &mut rng)?;
                        if writer.bytes() < id.bytes {
                            incoming = Some(Incoming { id, bytes, writer });
                        } else if id.last.index <= self.commit {
                            snapshots.abandon(writer)?;
                        } else {
                            self.finish(&mut snapshots, writer, id)?;
                            self.counts.installed += 1;
                            if self.attempted.holds(id.last) {
                                self.commit = id.last.index;
                            } else {
                                restart = Some(id.last);
                            }
                        }
                    }
                }
                4 if restart.is_some() => {
                    let last = restart.take().expect("it was asked");
                    // If the term is new, it is appended first.
                    if last.term > self.attempted.hard_state.term {
                        let hard_state = HardState { term: last.term, voted_for: None };
                        self.attempted.hard_state = hard_state;
                        log.append(Some(hard_state), &[])?;
                    }
                    // The waiting entries may be durable without the restart.
                    self.between = Some(self.attempted.clone());
                    self.attempted.entries.clone_from(&self.histories[&(last.index, last.term)]);
                    log.restart_after(last)?;
                    self.between = None;
                    self.acknowledged.clone_from(&self.attempted);
                    self.commit = last.index;
                    self.counts.restarts += 1;
                }
                5 => {
                    let end = self.latest.map_or(Index::ZERO, |latest| latest.last.index);
                    let end = end.min(self.durable_index()).min(self.commit);
                    let before = log.stats().segments_deleted;
                    log.compact_to(Index(rng.below(end.0 + 1)))?;
                    self.counts.deleted += log.stats().segments_deleted - before;
                }
                6 if restart.is_none() => {
                    let last = self.attempted.last().index.0;
                    self.commit = Index(rng.between(self.commit.0, last));
                }
                7 | 8 => {
                    log.sync()?;
                    self.acknowledged.clone_from(&self.attempted);
                }
                _ => {
                    let (hard_state, entries) = self.draw_job(&mut rng);
                    log.append(hard_state, &entries)?;
                }
            }
        }
        log.sync()?;
        self.acknowledged.clone_from(&self.attempted);
        Ok(())
    }

    /// Opens the folder, and asserts that it contains what was reported as durable or what was
    /// attempted.
    pub(crate) fn open(
        &mut self,
        disk: &SharedDisk,
    ) -> Result<(Log<SharedDisk>, Snapshots<SharedDisk>), StorageError> {
        let mut snapshots = Snapshots::open(disk.clone())?;
        let Loaded { latest, damaged } = snapshots.load(Check::default)?;
        assert!(damaged.is_empty(), "{damaged:?}");
        let snapshot = latest.map(|(id, found)| {
            assert_eq!(found, digest(&self.histories[&(id.last.index, id.last.term)]));
            id
        });
        let is_known = snapshot == self.latest || snapshot == self.finishing;
        assert!(
            is_known,
            "{snapshot:?}, reported {:?}, attempted {:?}",
            self.latest, self.finishing
        );
        let (log, durable, _) = Log::open(disk.clone(), Some(CLUSTER), ME, OPTIONS, snapshot)?;
        let possible = [Some(&self.acknowledged), self.between.as_ref(), Some(&self.attempted)];
        let found = possible.into_iter().flatten().find_map(|whole| self.cut(whole, &durable));
        let Some((whole, follows)) = found else {
            panic!(
                "acknowledged {:?}, attempted {:?}, found {durable:?}",
                self.acknowledged, self.attempted
            )
        };
        self.counts.untold += u64::from(snapshot != self.latest);
        self.counts.cut_installs += u64::from(!follows);
        let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last.index);
        self.commit = self.commit.min(agreement(&whole, &self.attempted)).max(end);
        (self.latest, self.finishing, self.between) = (snapshot, None, None);
        self.acknowledged.clone_from(&whole);
        self.attempted = whole;
        Ok((log, snapshots))
    }

    /// Returns the complete log if the folder contained `whole` and `found` is the part of it after
    /// the snapshot, and whether the log contains the snapshot's last entry; if not, the log was
    /// restarted after the snapshot. `None` if `found` does not match.
    fn cut(&self, whole: &Whole, found: &Durable) -> Option<(Whole, bool)> {
        let mut whole = whole.clone();
        let end = found.snapshot.map_or(EntryId::ZERO, |snapshot| snapshot.last);
        let place = usize::try_from(end.index.0).unwrap();
        let follows = place == 0 || whole.holds(end);
        if !follows {
            whole.entries.clone_from(&self.histories[&(end.index, end.term)]);
            if end.term > whole.hard_state.term {
                whole.hard_state = HardState { term: end.term, voted_for: None };
            }
        }
        let is_it = whole.hard_state == found.hard_state && whole.entries[place..] == found.entries;
        is_it.then_some((whole, follows))
    }

    fn finish(
        &mut self,
        snapshots: &mut Snapshots<SharedDisk>,
        writer: SnapshotWriter<usize>,
        id: SnapshotId,
    ) -> Result<(), StorageError> {
        self.finishing = Some(id);
        let found = snapshots.finish(writer, id, Check::default())?;
        assert_eq!(found, digest(&self.histories[&(id.last.index, id.last.term)]));
        if self.latest.is_none_or(|latest| latest.last.index < id.last.index) {
            self.latest = Some(id);
        }
        self.finishing = None;
        assert_eq!(snapshots.latest(), self.latest);
        Ok(())
    }

    /// Returns the last index up to which the attempted log equals the durable one.
    fn durable_index(&self) -> Index {
        agreement(&self.acknowledged, &self.attempted)
    }

    fn draw_snapshot(&mut self, history: Vec<Entry>, rng: &mut Rng) -> (SnapshotId, Vec<u8>) {
        let made = snapshot_of(&history, usize::try_from(rng.below(1_500)).unwrap());
        let last = made.0.last;
        self.histories.insert((last.index, last.term), history);
        made
    }

    /// Draws a history that a leader may have committed: everything committed here, and possibly
    /// more entries.
    fn draw_leaders_history(&mut self, rng: &mut Rng) -> Vec<Entry> {
        let shared = rng.between(self.commit.0, self.attempted.last().index.0);
        let mut history = self.attempted.entries[..usize::try_from(shared).unwrap()].to_vec();
        let more = if shared == 0 { 1 } else { rng.below(6) };
        self.terms += 1;
        history.extend(draw_entries(self.terms, shared + 1..shared + 1 + more, rng));
        history
    }

    /// Draws a job that the core may give to the log writer next.
    fn draw_job(&mut self, rng: &mut Rng) -> (Option<HardState>, Vec<Entry>) {
        let Whole { hard_state, entries } = &mut self.attempted;
        let changed = hard_state.term == Term(0) || rng.permille(300);
        if changed {
            self.terms += 1;
            let voted_for = rng.permille(500).then_some(ME);
            *hard_state = HardState { term: Term(self.terms), voted_for };
            if rng.permille(400) {
                // Entries of another leader replace the end of the log.
                let committed = usize::try_from(self.commit.0).unwrap();
                let tail = (entries.len() - committed).min(8);
                entries.truncate(entries.len() - rng.index(tail + 1));
            }
        }
        let first = entries.len() as u64 + 1;
        let new = draw_entries(hard_state.term.0, first..first + rng.between(1, 4), rng);
        entries.extend_from_slice(&new);
        (changed.then_some(*hard_state), new)
    }
}

fn draw_entries(term: u64, indexes: std::ops::Range<u64>, rng: &mut Rng) -> Vec<Entry> {
    let mut buffer = RecordBuffer::default();
    let mut encode = |index| {
        let payload = draw_payload(rng);
        buffer.encode(EntryId::new(term, index), EntryKind::Command, &payload)
    };
    indexes.map(&mut encode).collect()
}

/// Returns the last index up to which both logs have the same entries.
fn agreement(one: &Whole, other: &Whole) -> Index {
    let both = one.entries.iter().zip(&other.entries);
    Index(both.take_while(|(one, other)| one == other).count() as u64)
}

/// Writes a part of the rest of a snapshot, or all of the rest.
fn write_rest(
    snapshots: &mut Snapshots<SharedDisk>,
    writer: &mut SnapshotWriter<usize>,
    bytes: &[u8],
    rng: &mut Rng,
) -> Result<(), StorageError> {
    let rest = &bytes[usize::try_from(writer.bytes()).unwrap()..];
    let much = if rng.permille(500) { rest.len() } else { rng.index(rest.len() + 1) };
    snapshots.write(writer, &rest[..much])
}
