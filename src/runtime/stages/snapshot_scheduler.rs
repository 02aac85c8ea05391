//! When snapshots are taken, how fast they are written, and when the log writer waits for them, so
//! that a replica's folder stays small, however much is written and however fast.
//!
//! While a snapshot is taken, the folder holds the latest one, a part of the next one, and the log
//! from where the latest ends. Each snapshot is about as large as the state. The log is allowed
//! 7/16 of a snapshot or `--snapshot-log-bytes`, whichever is more. So if the state takes S bytes
//! as a snapshot, the folder stays under
//!
//! ```text
//!   2 S + L + L/4 + 4 segments + the reserve     L = max(7/16 S, --snapshot-log-bytes)
//! ```
//!
//! plus one append, because a segment ends after it, however long it is then.
//!
//! A snapshot is begun early enough to be complete before the log has grown to L: the more the log
//! grew during the last one, the earlier. It is written slowly, and without pauses once the log
//! grows faster than the snapshot. If that is not enough, because the disk or the processors are
//! busy, the log writer waits for the snapshot, longer the further the log is ahead, so clients see
//! a slower disk. It waits at most [`DELAY_MAX`] at a time, which is too short for a follower to
//! suspect its leader. It always writes an eighth of a pass in that time, 1.25 MiB a second. With a
//! disk so slow that this matters while a snapshot is taken, the folder exceeds its bound. The core
//! applies no committed entries while the log is too far behind it. While no snapshot is being
//! taken, for want of disk space or after a failure, nothing waits, and the bounds of
//! [`MemoryBoard`] hold.
//!
//! All of this is arithmetic over positions that the log writer, the applier and the snapshots
//! stage share. The growth of the log is counted in bytes of its files, in which a small write
//! fills a whole sector.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::runtime::boards::{MemoryBoard, SnapshotBoard};

/// The progress of a snapshot when all of it has been written, and when it has been read back too.
pub(crate) const PROGRESS_WRITTEN: u64 = 768;
const PROGRESS_DONE: u64 = 1_024;
/// How far the log may be ahead of a running snapshot before the log writer waits, at least.
const SLACK_BYTES_MIN: u64 = 1 << 20;
/// How long the log writer waits for each time that the log is ahead by the slack once more.
const DELAY: Duration = Duration::from_millis(60);
/// The longest wait.
const DELAY_MAX: Duration = Duration::from_millis(200);
/// Bytes after which a pass of the log writer ends. Whether the log writer has to wait is checked
/// between passes, and a sync of this much is as efficient as one of more.
const PASS_BYTES_MAX: usize = 2 << 20;

/// Positions in the stream of bytes that the log has ever written to its files.
///
/// Invariant: `cut <= begun <= end`, but for readings during an update.
#[derive(Debug, Default)]
struct Positions {
    /// The end of the log.
    end: AtomicU64,
    /// The end of the log when the latest snapshot was begun: the log is compacted up to there.
    cut: AtomicU64,
    /// The end of the log when a snapshot was last begun, complete or not.
    begun: AtomicU64,
    /// By how much the log grew while the latest snapshot was taken.
    grown: AtomicU64,
    /// The progress of the running snapshot, of [`PROGRESS_DONE`].
    progress: AtomicU64,
}

/// Decides when snapshots are taken and how fast. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotScheduler {
    /// `--snapshot-log-bytes`.
    log_bytes: u64,
    board: Arc<SnapshotBoard>,
    memory: Arc<MemoryBoard>,
    positions: Arc<Positions>,
}

fn get(position: &AtomicU64) -> u64 {
    position.load(Ordering::Relaxed)
}

fn set(position: &AtomicU64, value: u64) {
    position.store(value, Ordering::Relaxed);
}

impl SnapshotScheduler {
    /// A scheduler that lets the log grow by `log_bytes`, or more for a large snapshot.
    pub(crate) fn new(
        log_bytes: u64,
        board: Arc<SnapshotBoard>,
        memory: Arc<MemoryBoard>,
    ) -> SnapshotScheduler {
        SnapshotScheduler { log_bytes, board, memory, positions: Arc::default() }
    }

    /// The board of the snapshots stage.
    pub(crate) fn board(&self) -> &SnapshotBoard {
        &self.board
    }

    /// The board on which the sizes of state and log are published.
    pub(crate) fn memory(&self) -> &MemoryBoard {
        &self.memory
    }

    /// Notes the end of the log (the log writer's side).
    pub(crate) fn note_end(&self, end: u64) {
        let before = self.positions.end.swap(end, Ordering::Relaxed);
        assert!(before <= end, "the log's end went back from {before} to {end}");
    }

    /// How far the log may grow between the beginning of one snapshot and the completion of the
    /// next. More for a large snapshot, so that the disk does not write ever more for each byte of
    /// the log, but at most a quarter of the log's share of memory.
    fn allowed(&self) -> u64 {
        let wanted = self.log_bytes.max(self.board.bytes() / 16 * 7);
        wanted.min(self.memory.log_bytes_max() / 4)
    }

    /// How far the log has grown since the latest snapshot was begun.
    fn growth(&self) -> u64 {
        get(&self.positions.end).saturating_sub(get(&self.positions.cut))
    }

    /// Whether a snapshot is to be begun, by the growth of the log or because it was `requested`.
    /// After a failure it is tried again, not at once but soon.
    pub(crate) fn is_due(&self, requested: bool) -> bool {
        if self.board.is_taking() {
            return false;
        }
        let allowed = self.allowed();
        let expected_growth = get(&self.positions.grown).saturating_mul(5) / 4;
        let begin_at = allowed - expected_growth.clamp(allowed / 8, allowed / 2);
        let (cut, begun) = (get(&self.positions.cut), get(&self.positions.begun));
        let since_attempt = get(&self.positions.end).saturating_sub(begun);
        let may_retry = begun == cut || since_attempt > allowed / 8;
        requested || self.growth() > begin_at && may_retry
    }

    /// Notes that a snapshot is begun.
    pub(crate) fn begin(&self) {
        set(&self.positions.progress, 0);
        set(&self.positions.begun, get(&self.positions.end));
        self.board.begin();
    }

    /// Notes how much of the running snapshot has been written: `done` parts of `all`.
    pub(crate) fn note_written(&self, done: u64, all: u64) {
        set(&self.positions.progress, done.min(all) * PROGRESS_WRITTEN / all.max(1));
    }

    /// Notes how much of the running snapshot has been read back.
    pub(crate) fn note_read(&self, bytes: u64, all: u64) {
        let read = bytes.min(all) * (PROGRESS_DONE - PROGRESS_WRITTEN) / all.max(1);
        set(&self.positions.progress, PROGRESS_WRITTEN + read);
    }

    /// Notes that the running snapshot is complete, so that the log may be compacted behind it.
    pub(crate) fn succeed(&self) {
        let begun = get(&self.positions.begun);
        set(&self.positions.grown, get(&self.positions.end).saturating_sub(begun));
        set(&self.positions.cut, begun);
        self.board.end(false);
    }

    /// Notes that the running snapshot will not be completed, and whether that is a failure.
    pub(crate) fn give_up(&self, failed: bool) {
        self.board.end(failed);
    }

    /// Notes that a leader's snapshot has replaced the state, so that the log starts again after
    /// it.
    pub(crate) fn installed(&self) {
        let end = get(&self.positions.end);
        set(&self.positions.cut, end);
        set(&self.positions.begun, end);
    }

    /// By how many bytes the log is ahead of the running snapshot. It is not ahead while it grows
    /// no faster than the snapshot progresses, up to what it is allowed.
    fn ahead(&self) -> u64 {
        if !self.board.is_taking() {
            return 0;
        }
        let before = get(&self.positions.begun).saturating_sub(get(&self.positions.cut));
        let rest = self.allowed().saturating_sub(before);
        let fair_share = before + rest / PROGRESS_DONE * get(&self.positions.progress);
        self.growth().saturating_sub(fair_share)
    }

    /// Whether the running snapshot must be written without pauses.
    pub(crate) fn is_late(&self) -> bool {
        self.ahead() > 0
    }

    /// How long the log writer waits for the running snapshot before its next pass.
    pub(crate) fn delay(&self) -> Option<Duration> {
        Some(self.full_delay()?.min(DELAY_MAX))
    }

    /// Bytes after which a pass of the log writer ends. Fewer where it would have to wait for
    /// longer than [`DELAY_MAX`], but at least an eighth, so that clients get replies in time.
    pub(crate) fn pass_bytes_max(&self) -> usize {
        let parts = self.full_delay().map_or(1, |delay| delay.as_millis() / DELAY_MAX.as_millis());
        PASS_BYTES_MAX >> parts.clamp(1, 8).ilog2()
    }

    /// How long the log writer would have to wait if there were no [`DELAY_MAX`].
    fn full_delay(&self) -> Option<Duration> {
        let slack = (self.allowed() / 16).max(SLACK_BYTES_MIN);
        let excess = self.ahead().checked_sub(slack)?;
        let sixteenths = u32::try_from(excess * 16 / slack + 1).unwrap_or(u32::MAX);
        Some((DELAY / 16).saturating_mul(sixteenths))
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

    /// The end of the log in MiB at which the next snapshot is begun.
    fn begun_at(scheduler: &SnapshotScheduler, from: u64) -> u64 {
        let is_due = |mib: &u64| {
            scheduler.note_end(mib * MIB);
            scheduler.is_due(false)
        };
        let found = (from..from + 1_000).find(is_due).expect("it is begun in the end");
        scheduler.begin();
        found
    }

    #[test]
    fn next_snapshot_begins_earlier_if_the_log_grew_faster() {
        let scheduler = scheduler(160);
        // 70 MiB are allowed, and an eighth is left for growth that is not known yet.
        assert_eq!(begun_at(&scheduler, 0), 62);
        assert!(!scheduler.is_due(false) && !scheduler.is_due(true), "a snapshot is being taken");
        scheduler.note_end(66 * MIB);
        scheduler.succeed();
        assert_eq!(begun_at(&scheduler, 66), 62 + 62, "it grew by 4 MiB");
        scheduler.note_end(144 * MIB);
        scheduler.succeed();
        assert_eq!(begun_at(&scheduler, 144), 124 + 46, "it grew by 20 MiB, so 25 are left");
        scheduler.note_end(270 * MIB);
        scheduler.succeed();
        assert!(scheduler.is_due(false), "it grew by 100 MiB, so at most half is left");
        scheduler.installed();
        assert!(!scheduler.is_due(false) && scheduler.is_due(true), "requested");
    }

    #[test]
    fn failed_snapshot_is_retried_after_an_eighth() {
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
    fn log_writer_waits_while_the_log_is_ahead() {
        let scheduler = scheduler(160);
        assert_eq!(begun_at(&scheduler, 0), 62);
        assert!(!scheduler.is_late());
        scheduler.note_end(63 * MIB);
        assert!(scheduler.is_late(), "nothing is written yet");
        assert_eq!(scheduler.delay(), None, "first it is written without pauses");
        scheduler.note_written(1, 2);
        assert!(!scheduler.is_late(), "three eighths of 8 MiB are done");
        scheduler.note_end(75 * MIB);
        let early = scheduler.delay().unwrap();
        scheduler.note_written(2, 2);
        let late = scheduler.delay().unwrap();
        assert!(late < early && early < DELAY_MAX, "{late:?}, {early:?}");
        scheduler.note_read(160, 160);
        assert!(scheduler.delay().unwrap() < late);
        assert_eq!(scheduler.pass_bytes_max(), PASS_BYTES_MAX, "waiting is enough");
        scheduler.note_end(900 * MIB);
        assert_eq!(
            (scheduler.delay(), scheduler.pass_bytes_max()),
            (Some(DELAY_MAX), PASS_BYTES_MAX / 8)
        );
        scheduler.give_up(true);
        assert_eq!(
            (scheduler.is_late(), scheduler.delay()),
            (false, None),
            "no snapshot is being taken"
        );
    }

    #[test]
    fn memory_limit_bounds_the_growth_of_the_log() {
        let board = Arc::new(SnapshotBoard::default());
        let memory = Arc::new(MemoryBoard::new(256 * MIB, Arc::clone(&board)));
        assert_eq!(SnapshotScheduler::new(64 * MIB, board, memory).allowed(), 32 * MIB);
    }
}
