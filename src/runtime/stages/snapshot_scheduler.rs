//! When snapshots are taken, how fast they are written, and what waits for them: so that a
//! replica's folder stays small, however much is written and however fast.
//!
//! While a snapshot is taken a folder holds the latest one, as far as it has come the next one, and
//! the log from where the latest ends: each snapshot about as large as the state, and the log as
//! large as is allowed here, 7/16 of a snapshot or `--snapshot-log-bytes`, whichever is more. So
//! with a state that takes S bytes as a snapshot, a folder stays under
//!
//! ```text
//!   2 S + L + L/4 + 4 segments + the reserve     L = max(7/16 S, --snapshot-log-bytes)
//! ```
//!
//! plus what comes in one append: a segment ends behind it, however long it is then.
//!
//! A snapshot is begun early enough to be whole before the log has grown to L: the earlier, the
//! more the log grew during the last one. It is written slowly, and without a pause as soon as the
//! log gains on it. Where that is not enough, for the disk or the processors are busy, the log
//! writer waits for it, a little longer for each piece that the log is ahead: so clients wait as
//! they would for a slower disk, and no longer than [`DELAY_MAX`] at a time, which no follower
//! takes for a dead leader. (An eighth of a pass every 200 ms, 1.25 MiB a second, it writes all the
//! same: with a disk so slow that a snapshot takes long enough for that to matter, a folder exceeds
//! its bound.) The core answers nobody while the log is too far behind it (`core.rs`). Nobody waits
//! where none is being taken, be it for want of room or because it failed; then other bounds hold
//! (`memory.rs`).
//!
//! All of this is arithmetic over words that the log writer, the applier and the snapshots stage
//! share. What the log has grown by is counted in bytes of its files: a small write alone fills a
//! sector.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::runtime::boards::{MemoryBoard, SnapshotBoard};

/// A snapshot's parts: so many are written, and so many are there when it was read back too.
pub(crate) const WRITTEN: u64 = 768;
const PARTS: u64 = 1_024;
/// How far the log may be ahead of a snapshot that is being taken before it waits, at least.
const SLACK_BYTES_MIN: u64 = 1 << 20;
/// How long the log writer waits when it is so far ahead once more.
const DELAY: Duration = Duration::from_millis(60);
/// And at most, whatever it is ahead.
const DELAY_MAX: Duration = Duration::from_millis(200);
/// One pass of the log writer takes no more in when it has so many bytes: between passes it is seen
/// whether the log is to wait, and a sync of that much is as good as one of more.
const PASS_BYTES: usize = 2 << 20;

/// Where log and snapshots stand, in bytes that the log is long.
#[derive(Debug, Default)]
struct Places {
    /// The log's end.
    end: AtomicU64,
    /// Its end when the latest snapshot was begun.
    cut: AtomicU64,
    /// Its end when one was last begun, whatever came of it.
    begun: AtomicU64,
    /// What it grew by while the latest was taken.
    grown: AtomicU64,
    /// How many parts of the one being taken are done.
    done: AtomicU64,
}

/// When snapshots are taken, and at which pace. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotScheduler {
    /// What the log may grow by, at least.
    log_bytes: u64,
    /// What the snapshots stage has and does.
    board: Arc<SnapshotBoard>,
    /// What the state and the log may take in memory.
    memory: Arc<MemoryBoard>,
    places: Arc<Places>,
}

fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

impl SnapshotScheduler {
    pub(crate) fn new(
        log_bytes: u64,
        board: Arc<SnapshotBoard>,
        memory: Arc<MemoryBoard>,
    ) -> SnapshotScheduler {
        SnapshotScheduler { log_bytes, board, memory, places: Arc::default() }
    }

    /// What the snapshots stage has and does.
    pub(crate) fn board(&self) -> &SnapshotBoard {
        &self.board
    }

    /// What state and log take in memory.
    pub(crate) fn memory(&self) -> &MemoryBoard {
        &self.memory
    }

    /// The log is so long.
    pub(crate) fn note_end(&self, end: u64) {
        set(&self.places.end, end);
    }

    /// What the log may grow by from where one snapshot ends until the next is whole. More for a
    /// large one, so that the disk does not write ever more for each byte that comes in, as long
    /// as the log has its room in memory.
    fn allowed(&self) -> u64 {
        let wanted = self.log_bytes.max(self.board.bytes() / 16 * 7);
        wanted.min(self.memory.log_bytes_max() / 4)
    }

    /// How far the log is from where the latest snapshot ends.
    fn since(&self) -> u64 {
        get(&self.places.end).saturating_sub(get(&self.places.cut))
    }

    /// Whether it is time to take one. One that failed, or was put off, is not tried again at once,
    /// and not long waited with.
    pub(crate) fn is_due(&self, wanted: bool) -> bool {
        if self.board.is_taking() {
            return false;
        }
        let allowed = self.allowed();
        let growth = get(&self.places.grown).saturating_mul(5) / 4;
        let begin_at = allowed - growth.clamp(allowed / 8, allowed / 2);
        let (cut, begun) = (get(&self.places.cut), get(&self.places.begun));
        let since_try = get(&self.places.end).saturating_sub(begun);
        let rested = begun == cut || since_try > allowed / 8;
        wanted || self.since() > begin_at && rested
    }

    /// One is begun.
    pub(crate) fn begin(&self) {
        set(&self.places.done, 0);
        set(&self.places.begun, get(&self.places.end));
        self.board.begin();
    }

    /// So many parts of it are done, of [`WRITTEN`] or behind them.
    pub(crate) fn note_written(&self, share: u64, of: u64) {
        set(&self.places.done, share.min(of) * WRITTEN / of.max(1));
    }

    /// So much of it was read back.
    pub(crate) fn note_read(&self, bytes: u64, of: u64) {
        set(&self.places.done, WRITTEN + bytes.min(of) * (PARTS - WRITTEN) / of.max(1));
    }

    /// It is whole, and the log can be cut behind it.
    pub(crate) fn succeed(&self) {
        let begun = get(&self.places.begun);
        set(&self.places.grown, get(&self.places.end).saturating_sub(begun));
        set(&self.places.cut, begun);
        self.board.end(false);
    }

    /// It will not be taken. It failed, or was put off for something else.
    pub(crate) fn give_up(&self, failed: bool) {
        self.board.end(failed);
    }

    /// A leader's snapshot took the place of the state, and the log begins anew.
    pub(crate) fn installed(&self) {
        let end = get(&self.places.end);
        set(&self.places.cut, end);
        set(&self.places.begun, end);
    }

    /// By how much the log is ahead of the snapshot that is being taken: if it grows by what is
    /// still allowed while the rest is taken, by nothing.
    fn ahead(&self) -> u64 {
        if !self.board.is_taking() {
            return 0;
        }
        let before = get(&self.places.begun).saturating_sub(get(&self.places.cut));
        let rest = self.allowed().saturating_sub(before);
        let now = before + rest / PARTS * get(&self.places.done);
        self.since().saturating_sub(now)
    }

    /// Whether the snapshot that is being taken must be hurried with.
    pub(crate) fn is_late(&self) -> bool {
        self.ahead() > 0
    }

    /// How long the log writer waits for it before it writes on.
    pub(crate) fn delay(&self) -> Option<Duration> {
        Some(self.whole_delay()?.min(DELAY_MAX))
    }

    /// How much it writes before it asks again, for 2 MiB at most: what it does not wait any longer
    /// it writes less. Never less than an eighth, so that clients hear something in time.
    pub(crate) fn pass_bytes(&self) -> usize {
        let parts = self.whole_delay().map_or(1, |delay| delay.as_millis() / DELAY_MAX.as_millis());
        PASS_BYTES >> parts.clamp(1, 8).ilog2()
    }

    /// How long it would wait if nobody took it for dead.
    fn whole_delay(&self) -> Option<Duration> {
        let slack = (self.allowed() / 16).max(SLACK_BYTES_MIN);
        let too_much = self.ahead().checked_sub(slack)?;
        let times = u32::try_from(too_much * 16 / slack + 1).unwrap_or(u32::MAX);
        Some((DELAY / 16).saturating_mul(times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::SnapshotId;

    const MIB: u64 = 1 << 20;

    fn scheduler(snapshot_mib: u64) -> SnapshotScheduler {
        let board = Arc::new(SnapshotBoard::default());
        board.note(SnapshotId { bytes: snapshot_mib * MIB, ..SnapshotId::default() });
        let memory = Arc::new(MemoryBoard::new(0, Arc::clone(&board)));
        SnapshotScheduler::new(64 * MIB, board, memory)
    }

    /// How long the log is, in MiB, when the next one is begun.
    fn begun_at(scheduler: &SnapshotScheduler, from: u64) -> u64 {
        let is_due = |mib: &u64| {
            scheduler.note_end(mib * MIB);
            scheduler.is_due(false)
        };
        let found = (from..from + 1_000).find(is_due).expect("it is begun one day");
        scheduler.begin();
        found
    }

    #[test]
    fn the_more_the_log_grew_during_the_last_one_the_earlier_the_next_is_begun() {
        let scheduler = scheduler(160);
        // 70 MiB are allowed; an eighth is left for what nobody knows yet.
        assert_eq!(begun_at(&scheduler, 0), 62);
        assert!(!scheduler.is_due(false) && !scheduler.is_due(true), "one is being taken");
        scheduler.note_end(66 * MIB);
        scheduler.succeed();
        assert_eq!(begun_at(&scheduler, 66), 62 + 62, "it grew by 4 MiB");
        scheduler.note_end(144 * MIB);
        scheduler.succeed();
        assert_eq!(begun_at(&scheduler, 144), 124 + 46, "by 20, and 25 are left for it");
        scheduler.note_end(270 * MIB);
        scheduler.succeed();
        assert!(scheduler.is_due(false), "by 100, so it is time, as it is after 40");
        scheduler.installed();
        assert!(!scheduler.is_due(false) && scheduler.is_due(true), "asked for");
    }

    #[test]
    fn one_that_failed_is_tried_again_soon_but_not_at_once() {
        let scheduler = scheduler(0);
        let first = begun_at(&scheduler, 0);
        assert_eq!(first, 57);
        scheduler.give_up(true);
        assert!(!scheduler.is_due(false) && scheduler.is_due(true));
        assert_eq!(begun_at(&scheduler, first), first + 9);
        scheduler.succeed();
        assert_eq!(begun_at(&scheduler, first + 9), first + 9 + 57);
    }

    #[test]
    fn the_log_waits_for_a_snapshot_that_it_would_leave_behind() {
        let scheduler = scheduler(160);
        assert_eq!(begun_at(&scheduler, 0), 62);
        assert!(!scheduler.is_late());
        scheduler.note_end(63 * MIB);
        assert!(scheduler.is_late(), "nothing is written yet");
        assert_eq!(scheduler.delay(), None, "but it is hurried with first");
        scheduler.note_written(1, 2);
        assert!(!scheduler.is_late(), "three eighths of what is to be done, of 8 MiB");
        scheduler.note_end(75 * MIB);
        let early = scheduler.delay().unwrap();
        scheduler.note_written(2, 2);
        let late = scheduler.delay().unwrap();
        assert!(late < early && early < DELAY_MAX, "{late:?}, {early:?}");
        scheduler.note_read(160, 160);
        assert!(scheduler.delay().unwrap() < late);
        assert_eq!(scheduler.pass_bytes(), PASS_BYTES, "it only waits");
        scheduler.note_end(900 * MIB);
        assert_eq!((scheduler.delay(), scheduler.pass_bytes()), (Some(DELAY_MAX), PASS_BYTES / 8));
        scheduler.give_up(true);
        assert_eq!(
            (scheduler.is_late(), scheduler.delay()),
            (false, None),
            "there is none to wait for"
        );
    }

    #[test]
    fn memory_bounds_what_the_log_may_grow_by() {
        let board = Arc::new(SnapshotBoard::default());
        let memory = Arc::new(MemoryBoard::new(256 * MIB, Arc::clone(&board)));
        assert_eq!(SnapshotScheduler::new(64 * MIB, board, memory).allowed(), 32 * MIB);
    }
}
