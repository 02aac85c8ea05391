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

/// Progress of a running snapshot, as a fraction of [`PROGRESS_DONE`], when all of it is written.
/// The rest counts reading it back to verify it.
pub(crate) const PROGRESS_WRITTEN: u64 = 768;
const PROGRESS_DONE: u64 = 1_024;
/// Minimum slack in bytes: by how much the log may grow faster than the progress of a running
/// snapshot allows before the log writer waits.
const SLACK_BYTES_MIN: u64 = 1 << 20;
/// How long the log writer waits for each multiple of the slack, beyond the first, by which the log
/// has grown faster than a running snapshot's progress allows. The slack is the tolerated excess in
/// bytes.
const DELAY: Duration = Duration::from_millis(60);
/// Maximum time that the log writer waits for a running snapshot before it writes again.
const DELAY_MAX: Duration = Duration::from_millis(200);
/// Maximum bytes that the log writer writes before it checks again whether it must wait for a
/// running snapshot: enough for an efficient sync.
const PASS_BYTES_MAX: usize = 2 << 20;

/// Positions in the log, in bytes counted since its first byte, including bytes that were removed.
///
/// Invariant: `cut <= begun <= end`, but for readings during an update.
#[derive(Debug, Default)]
struct Positions {
    /// Position of the end of the log, after the last byte that was written.
    end: AtomicU64,
    /// Position of the end of the log when the latest complete snapshot was begun. The log may be
    /// compacted up to this position.
    cut: AtomicU64,
    /// Position of the end of the log when a snapshot was last begun, whether or not the snapshot
    /// was completed.
    begun: AtomicU64,
    /// Bytes by which the log grew while the latest complete snapshot was taken.
    grown: AtomicU64,
    /// Progress of the running snapshot, from 0 to [`PROGRESS_DONE`].
    progress: AtomicU64,
}

/// Decides when snapshots are taken, how fast they are written, and how long the log writer waits
/// for them. Clones share their state.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotScheduler {
    /// `--snapshot-log-bytes`: the log growth within which a snapshot must complete, unless 7/16 of
    /// the snapshot's size is more.
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
    /// Creates a scheduler of snapshots, each of which completes before the log has grown by
    /// `log_bytes` since the previous one was begun, or by 7/16 of the snapshot's size if that is
    /// more.
    pub(crate) fn new(
        log_bytes: u64,
        board: Arc<SnapshotBoard>,
        memory: Arc<MemoryBoard>,
    ) -> SnapshotScheduler {
        SnapshotScheduler { log_bytes, board, memory, positions: Arc::default() }
    }

    /// Returns the shared record of the latest snapshot's status.
    pub(crate) fn board(&self) -> &SnapshotBoard {
        &self.board
    }

    /// Returns the shared record of the memory use of keyspace and log.
    pub(crate) fn memory(&self) -> &MemoryBoard {
        &self.memory
    }

    /// Records `end`, the position of the end of the log in bytes since its first byte. Called by
    /// the log writer.
    pub(crate) fn note_end(&self, end: u64) {
        let before = self.positions.end.swap(end, Ordering::Relaxed);
        assert!(before <= end, "the log's end went back from {before} to {end}");
    }

    /// Returns by how many bytes the log may grow between the beginning of one snapshot and the
    /// completion of the next: more for larger snapshots, which bounds write amplification, but at
    /// most a quarter of the limit on the log in memory.
    fn allowed(&self) -> u64 {
        let wanted = self.log_bytes.max(self.board.bytes() / 16 * 7);
        wanted.min(self.memory.log_bytes_max() / 4)
    }

    /// Returns by how many bytes the log has grown since the latest complete snapshot was begun.
    fn growth(&self) -> u64 {
        get(&self.positions.end).saturating_sub(get(&self.positions.cut))
    }

    /// Returns whether a snapshot must begin now, because of the log's growth or because one was
    /// `requested`. False while one is being taken. After a failed attempt, growth counts again
    /// once the log has grown further.
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

    /// Records that a snapshot has begun.
    pub(crate) fn begin(&self) {
        set(&self.positions.progress, 0);
        set(&self.positions.begun, get(&self.positions.end));
        self.board.begin();
    }

    /// Records the progress of the running snapshot: the fraction `done` / `all` of it has been
    /// written.
    pub(crate) fn note_written(&self, done: u64, all: u64) {
        set(&self.positions.progress, done.min(all) * PROGRESS_WRITTEN / all.max(1));
    }

    /// Records that `bytes` of `all` bytes of the running snapshot have been read back.
    pub(crate) fn note_read(&self, bytes: u64, all: u64) {
        let read = bytes.min(all) * (PROGRESS_DONE - PROGRESS_WRITTEN) / all.max(1);
        set(&self.positions.progress, PROGRESS_WRITTEN + read);
    }

    /// Records that the running snapshot is complete, so that the log may be compacted up to its
    /// beginning.
    pub(crate) fn succeed(&self) {
        let begun = get(&self.positions.begun);
        set(&self.positions.grown, get(&self.positions.end).saturating_sub(begun));
        set(&self.positions.cut, begun);
        self.board.end(false);
    }

    /// Records that the running snapshot was given up: because it failed, or if `failed` is false,
    /// because it was no longer needed.
    pub(crate) fn give_up(&self, failed: bool) {
        self.board.end(failed);
    }

    /// Records that a leader's snapshot has replaced the state, so that the log restarts after the
    /// snapshot's last entry.
    pub(crate) fn installed(&self) {
        let end = get(&self.positions.end);
        set(&self.positions.cut, end);
        set(&self.positions.begun, end);
    }

    /// Returns how many bytes the log has grown beyond what the running snapshot's progress allows
    /// (half of the permitted growth at half of the progress, for example). 0 if no snapshot is
    /// running.
    fn ahead(&self) -> u64 {
        if !self.board.is_taking() {
            return 0;
        }
        let before = get(&self.positions.begun).saturating_sub(get(&self.positions.cut));
        let rest = self.allowed().saturating_sub(before);
        let fair_share = before + rest / PROGRESS_DONE * get(&self.positions.progress);
        self.growth().saturating_sub(fair_share)
    }

    /// Returns whether the log has grown faster than the running snapshot's progress allows, so
    /// that the snapshot must be written without pauses.
    pub(crate) fn is_late(&self) -> bool {
        self.ahead() > 0
    }

    /// Returns how long the log writer must wait for the running snapshot before it writes again;
    /// `None` for no wait.
    pub(crate) fn delay(&self) -> Option<Duration> {
        Some(self.full_delay()?.min(DELAY_MAX))
    }

    /// Returns how many bytes the log writer may write before it checks again whether it must wait:
    /// [`PASS_BYTES_MAX`], or less where the wait would exceed [`DELAY_MAX`], but at least an
    /// eighth, so that clients get replies in time.
    pub(crate) fn pass_bytes_max(&self) -> usize {
        let parts = self.full_delay().map_or(1, |delay| delay.as_millis() / DELAY_MAX.as_millis());
        PASS_BYTES_MAX >> parts.clamp(1, 8).ilog2()
    }

    /// Returns how long the log writer would wait without the limit [`DELAY_MAX`]; `None` for no
    /// wait.
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

    /// Grows the log in steps of 1 MiB, beginning at `from`, until a snapshot is due, and begins
    /// the snapshot. Returns the end of the log in MiB.
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
    fn failed_snapshot_is_retried_after_log_grows_by_an_eighth() {
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
    fn log_writer_is_throttled_while_snapshot_is_late() {
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
    fn memory_limit_caps_log_growth_between_snapshots() {
        let board = Arc::new(SnapshotBoard::default());
        let memory = Arc::new(MemoryBoard::new(256 * MIB, Arc::clone(&board)));
        assert_eq!(SnapshotScheduler::new(64 * MIB, board, memory).allowed(), 32 * MIB);
    }
}
