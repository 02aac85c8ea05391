//! When snapshots are taken, how fast they are written, and when the log writer waits for them. The
//! aim is that a replica's folder stays small, regardless of how much and how fast clients write.
//!
//! The policy is that of Redis with an append-only file: the next snapshot begins when the log has
//! grown by T since the last snapshot was completed. T is a percentage of the last snapshot's size
//! (`--snapshot-log-percentage`, 100 by default), but at least `--snapshot-log-bytes`. Unlike in
//! Redis, the log must not grow without limit while the snapshot is written. Therefore the snapshot
//! is written slowly at first, and without pauses once the log grows faster than the snapshot. If
//! that is not enough, because the disk or the processors are busy, the log writer waits for the
//! snapshot. The further the log is ahead, the longer it waits, so clients see a slower disk.
//!
//! While a snapshot is being taken, the folder holds the latest complete snapshot, a part of the
//! next one, and the log after the last entry of the latest one. This log consists of three parts:
//! its growth while the latest snapshot was written (of which at most 7/16 T count), then T, then
//! its growth while the next snapshot is written. Together, these parts are at most 15/8 T. So if a
//! snapshot of the state takes S bytes, the size of the folder stays below
//!
//! ```text
//!   2 S + 2 T + 4 segments + the reserve     T = max(S, --snapshot-log-bytes), by default
//! ```
//!
//! which is four times S if S is large. A follower that lags too far receives the leader's
//! snapshot. It keeps its own snapshot until the leader's is complete, and needs S more bytes for
//! that. The last eighth of T is for what the log writer writes before it waits long enough. It
//! waits at most [`DELAY_MAX`] at a time, which is too short for a follower to suspect its leader,
//! and always writes an eighth of a pass in that time, which is 1.25 MiB per second. If the disk is
//! so slow that this matters while a snapshot is taken, the folder exceeds its bound. The core
//! applies no committed entries while the log is too far behind it. While no snapshot is being
//! taken, because of a lack of disk space or after a failure, nothing waits, and the bounds of
//! [`MemoryBoard`] hold. These also limit T, because the log is in memory, too.
//!
//! All of this is arithmetic on positions that the log writer, the applier and the snapshots stage
//! share. The growth of the log is measured in bytes of its files, in which a small write fills a
//! whole sector.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::runtime::boards::{MemoryBoard, SnapshotBoard, SnapshotGrowth};

/// Progress of a running snapshot, out of [`PROGRESS_DONE`], at which its file has been written in
/// full. The rest of the progress is made while the file is read back and verified.
pub(crate) const PROGRESS_WRITTEN: u64 = 768;
const PROGRESS_DONE: u64 = 1_024;
/// Minimum slack in bytes. The slack is the number of bytes by which the log may outgrow what the
/// progress of a running snapshot allows, before the log writer must wait.
const SLACK_BYTES_MIN: u64 = 1 << 20;
/// Time that the log writer waits if the log has outgrown what the running snapshot's progress
/// allows by twice the slack (the excess in bytes for which it does not wait). For other excesses,
/// the time is proportional to the part of the excess above the slack.
const DELAY: Duration = Duration::from_millis(60);
/// Maximum time for which the log writer waits between two writes to the log, so that a running
/// snapshot gets its share of the disk.
const DELAY_MAX: Duration = Duration::from_millis(200);
/// Maximum number of bytes that the log writer writes before it checks again whether it must wait
/// for a running snapshot. It is large enough for an efficient sync.
const PASS_BYTES_MAX: usize = 2 << 20;

/// Positions in the log, in bytes from its first byte, including bytes that have since been
/// removed.
///
/// Invariant: `cut <= begun <= end`, except when read during an update.
#[derive(Debug, Default)]
struct Positions {
    /// Position of the end of the log, after the last byte that was written.
    end: AtomicU64,
    /// Position of the end of the log when the latest complete snapshot was begun. The log may be
    /// compacted up to this position.
    cut: AtomicU64,
    /// Position of the end of the log when a snapshot was last begun, whether or not that snapshot
    /// was completed.
    begun: AtomicU64,
    /// Bytes by which the log grew while the latest complete snapshot was being taken.
    grown: AtomicU64,
    /// Progress of the running snapshot, from 0 to [`PROGRESS_DONE`], including its verification.
    progress: AtomicU64,
}

/// Decides when snapshots are taken, how fast they are written, and how long the log writer waits
/// for them. Clones share their state.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotScheduler {
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

/// Returns the number of bytes by which the log may grow while a snapshot is being written, if a
/// snapshot begins each time the log has grown by `threshold` bytes.
fn while_taken(threshold: u64) -> u64 {
    threshold / 16 * 7
}

impl SnapshotScheduler {
    /// Creates a scheduler that begins a snapshot when the log has grown, since the completion of
    /// the latest snapshot, by at least that snapshot's size and at least `bytes_min` bytes.
    /// [`SnapshotBoard::set_growth`] changes both conditions.
    pub(crate) fn new(
        bytes_min: u64,
        board: Arc<SnapshotBoard>,
        memory: Arc<MemoryBoard>,
    ) -> SnapshotScheduler {
        board.set_growth(SnapshotGrowth { percentage: 100, bytes_min });
        SnapshotScheduler { board, memory, positions: Arc::default() }
    }

    /// Returns the shared record of the latest snapshot's status.
    pub(crate) fn board(&self) -> &SnapshotBoard {
        &self.board
    }

    /// Returns the shared record of the memory usage of keyspace and log.
    pub(crate) fn memory(&self) -> &MemoryBoard {
        &self.memory
    }

    /// Records the position of the end of the log, in bytes from its first byte. Called by the log
    /// writer.
    pub(crate) fn note_end(&self, end: u64) {
        let before = self.positions.end.swap(end, Ordering::Relaxed);
        assert!(before <= end, "the log's end went back from {before} to {end}");
    }

    /// Returns the number of bytes by which the log must grow after the completion of one snapshot
    /// before the next one begins. This is at most half of what memory allows, because the log may
    /// grow by almost as much again while snapshots are being written.
    fn threshold(&self) -> u64 {
        let most = self.memory.snapshot_log_bytes_max() / 2;
        match self.board.growth() {
            SnapshotGrowth { percentage: 0, .. } => most,
            SnapshotGrowth { percentage, bytes_min } => {
                (self.board.bytes().saturating_mul(percentage) / 100).max(bytes_min).min(most)
            }
        }
    }

    /// Returns the number of bytes by which the log may grow between the beginning of one snapshot
    /// and the completion of the next.
    fn allowed(&self) -> u64 {
        let threshold = self.threshold();
        threshold + 2 * while_taken(threshold)
    }

    /// Returns the number of bytes by which the log has grown since the beginning of the latest
    /// complete snapshot.
    fn growth(&self) -> u64 {
        get(&self.positions.end).saturating_sub(get(&self.positions.cut))
    }

    /// Returns whether a snapshot must begin now, because of the log's growth or because a snapshot
    /// was `requested`. False while a snapshot is being taken. After a failed attempt, the growth
    /// triggers another attempt only once the log has grown further.
    pub(crate) fn is_due(&self, requested: bool) -> bool {
        if self.board.is_taking() {
            return false;
        }
        let threshold = self.threshold();
        let begin_at = threshold + get(&self.positions.grown).min(while_taken(threshold));
        let (cut, begun) = (get(&self.positions.cut), get(&self.positions.begun));
        let since_attempt = get(&self.positions.end).saturating_sub(begun);
        let may_retry = begun == cut || since_attempt > threshold / 8;
        requested || self.growth() >= begin_at && may_retry
    }

    /// Records that a snapshot begins now, at the current end of the log.
    pub(crate) fn begin(&self) {
        set(&self.positions.progress, 0);
        set(&self.positions.begun, get(&self.positions.end));
        self.board.begin();
    }

    /// Records the progress of the running snapshot: `done` of its `all` parts have been written.
    pub(crate) fn note_written(&self, done: u64, all: u64) {
        set(&self.positions.progress, done.min(all) * PROGRESS_WRITTEN / all.max(1));
    }

    /// Records that `bytes` of the `all` bytes of the running snapshot have been read back for
    /// verification.
    pub(crate) fn note_read(&self, bytes: u64, all: u64) {
        let read = bytes.min(all) * (PROGRESS_DONE - PROGRESS_WRITTEN) / all.max(1);
        set(&self.positions.progress, PROGRESS_WRITTEN + read);
    }

    /// Records that the running snapshot is complete, so that the log may be compacted up to the
    /// position at which the snapshot was begun.
    pub(crate) fn succeed(&self) {
        let begun = get(&self.positions.begun);
        set(&self.positions.grown, get(&self.positions.end).saturating_sub(begun));
        set(&self.positions.cut, begun);
        self.board.note_saved();
        self.board.end(false);
    }

    /// Records that the running snapshot was given up, either because it failed (`failed` is true)
    /// or because it was no longer needed.
    pub(crate) fn give_up(&self, failed: bool) {
        self.board.end(failed);
    }

    /// Records that a leader's snapshot has replaced the state, so that the log is reset to begin
    /// after the snapshot's last entry.
    pub(crate) fn installed(&self) {
        let end = get(&self.positions.end);
        set(&self.positions.cut, end);
        set(&self.positions.begun, end);
        set(&self.positions.grown, 0);
    }

    /// Returns the number of bytes by which the log has outgrown what the running snapshot's
    /// progress allows; 0 if no snapshot is running. For example, when the snapshot is half done,
    /// about half of the permitted growth is allowed.
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
    /// `None` if it need not wait.
    pub(crate) fn delay(&self) -> Option<Duration> {
        Some(self.full_delay()?.min(DELAY_MAX))
    }

    /// Returns the number of bytes that the log writer may write before it checks again whether it
    /// must wait: [`PASS_BYTES_MAX`], or less if the wait would exceed [`DELAY_MAX`], but at least
    /// an eighth of [`PASS_BYTES_MAX`], so that clients get replies in time.
    pub(crate) fn pass_bytes_max(&self) -> usize {
        let parts = self.full_delay().map_or(1, |delay| delay.as_millis() / DELAY_MAX.as_millis());
        PASS_BYTES_MAX >> parts.clamp(1, 8).ilog2()
    }

    /// Returns how long the log writer would have to wait for the running snapshot without the
    /// limit [`DELAY_MAX`]; `None` if it need not wait.
    fn full_delay(&self) -> Option<Duration> {
        let slack = (self.threshold() / 32).max(SLACK_BYTES_MIN);
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

    /// Grows the log in steps of 1 MiB, starting at position `from`, until a snapshot is due, and
    /// begins the snapshot. Returns the position of the end of the log in MiB.
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
    fn snapshot_begins_when_log_grew_by_the_last_snapshot_size() {
        let scheduler = scheduler(160);
        assert_eq!(begun_at(&scheduler, 0), 160);
        assert!(!scheduler.is_due(false) && !scheduler.is_due(true), "a snapshot is being taken");
        scheduler.note_end(180 * MIB);
        scheduler.succeed();
        assert_eq!(begun_at(&scheduler, 180), 180 + 160, "counted since it was completed");
        scheduler.note_end(500 * MIB);
        scheduler.succeed();
        assert_eq!(begun_at(&scheduler, 500), 340 + 70 + 160, "of 160 MiB meanwhile 70 count");
        scheduler.succeed();
        scheduler.installed();
        assert!(!scheduler.is_due(false) && scheduler.is_due(true), "requested");
    }

    #[test]
    fn log_growth_before_snapshot_obeys_percentage_and_minimum() {
        let scheduler = scheduler(160);
        let set_growth = |percentage, bytes_min| {
            scheduler.board().set_growth(SnapshotGrowth { percentage, bytes_min });
            scheduler.threshold() / MIB
        };
        assert_eq!(set_growth(100, 64 * MIB), 160);
        assert_eq!(set_growth(50, 64 * MIB), 80);
        assert_eq!(set_growth(10, 64 * MIB), 64);
        assert_eq!(set_growth(100, 200 * MIB), 200);
        // Half of the 512 MiB that memory allows without `--maxmemory`.
        for percentage in [0, 1_000, u64::MAX] {
            assert_eq!(set_growth(percentage, 64 * MIB), 256);
        }
    }

    #[test]
    fn failed_snapshot_is_retried_after_log_grows_by_an_eighth() {
        let scheduler = scheduler(0);
        let first = begun_at(&scheduler, 0);
        assert_eq!(first, 64);
        scheduler.give_up(true);
        assert!(!scheduler.is_due(false) && scheduler.is_due(true));
        assert_eq!(begun_at(&scheduler, first), first + 9);
        scheduler.succeed();
        assert_eq!(begun_at(&scheduler, first + 9), first + 9 + 64);
    }

    /// Simulates a log writer that writes 4 GiB at `log_rate` MiB a second, with a snapshot of
    /// `snapshot_mib` MiB written at `snapshot_rate` MiB a second whenever one is due. Returns the
    /// number of snapshots taken, and the largest size in MiB of the latest snapshot, the running
    /// one and the log combined.
    fn largest_folder(snapshot_mib: u64, log_rate: u64, snapshot_rate: u64) -> (u64, u64) {
        const TICKS: u64 = 1_000;
        let scheduler = scheduler(snapshot_mib);
        let all = (snapshot_mib * MIB).max(1);
        let (mut end, mut paused_until, mut taken, mut most) = (0, 0, 0, 0);
        let mut written = None;
        for tick in 0.. {
            if tick >= paused_until {
                // A pass writes as much as the log writer may write at once.
                end += (log_rate * MIB / TICKS).min(scheduler.pass_bytes_max() as u64);
                scheduler.note_end(end);
                let delay = scheduler.delay().unwrap_or_default().as_millis();
                paused_until = tick + u64::try_from(delay).unwrap().max(1);
            }
            if scheduler.is_due(false) {
                scheduler.begin();
                written = Some(0);
            }
            let running = written.unwrap_or(0).min(all);
            most = most.max(all + running + scheduler.growth());
            if let Some(bytes) = &mut written {
                *bytes += snapshot_rate * MIB / TICKS;
                scheduler.note_written((*bytes).min(all), all);
                // Reading the snapshot back takes a third of the time.
                if *bytes > all {
                    scheduler.note_read(*bytes - all, all / 3);
                }
                if *bytes >= all / 3 * 4 {
                    scheduler.succeed();
                    (written, taken) = (None, taken + 1);
                }
            }
            if end >= 4 << 30 {
                break;
            }
        }
        (taken, most / MIB)
    }

    #[test]
    fn data_folder_stays_within_four_times_the_data_size() {
        for snapshot_mib in [1, 64, 160, 250] {
            for log_rate in [10, 80, 1_000] {
                for snapshot_rate in [20, 60, 500] {
                    let (_, most) = largest_folder(snapshot_mib, log_rate, snapshot_rate);
                    let bound = 2 * snapshot_mib + 2 * snapshot_mib.max(64);
                    let case = (snapshot_mib, log_rate, snapshot_rate);
                    assert!(most <= bound, "{case:?}: {most} MiB, above {bound}");
                }
            }
        }
    }

    #[test]
    fn number_of_snapshots_is_proportional_to_log_growth() {
        // A snapshot of 160 MiB is written in 0.4 s, in which the log grows by 16 MiB, so there is
        // one snapshot for each 176 MiB of the log.
        assert_eq!(largest_folder(160, 40, 500).0, 4_096 / 176);
        // The log writer waits for slow snapshots, so there is one snapshot for each 230 MiB of the
        // log.
        assert_eq!(largest_folder(160, 1_000, 100).0, 4_096 / 230);
        assert_eq!(largest_folder(1, 40, 500).0, 4_096 / 64 - 1);
    }

    #[test]
    fn log_writer_is_throttled_while_snapshot_is_late() {
        let scheduler = scheduler(160);
        // The log may grow by 300 MiB from the beginning of a snapshot to the end of the next.
        assert_eq!(begun_at(&scheduler, 0), 160);
        scheduler.note_end(230 * MIB);
        scheduler.succeed();
        assert_eq!(begun_at(&scheduler, 230), 390);
        assert!(!scheduler.is_late());
        scheduler.note_end(391 * MIB);
        assert!(scheduler.is_late(), "nothing is written yet");
        assert_eq!(scheduler.delay(), None, "first it is written without pauses");
        scheduler.note_written(1, 2);
        assert!(!scheduler.is_late(), "three eighths of 70 MiB are done");
        scheduler.note_end(427 * MIB);
        let early = scheduler.delay().unwrap();
        scheduler.note_written(3, 4);
        scheduler.note_end(432 * MIB);
        let late = scheduler.delay();
        assert!(late.is_none_or(|late| late < early) && early < DELAY_MAX, "{late:?}, {early:?}");
        scheduler.note_read(160, 160);
        assert_eq!(scheduler.delay(), None, "all is written");
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
        let scheduler = SnapshotScheduler::new(64 * MIB, board, memory);
        assert_eq!((scheduler.threshold(), scheduler.allowed()), (16 * MIB, 30 * MIB));
    }
}
