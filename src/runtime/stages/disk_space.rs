//! Measures free disk space for the log writer, between the log writer's jobs. The log writer is
//! the stage that uses the space, and it runs whenever space is used, so a lack of space is noticed
//! before a write fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::raft::DiskSpace;
use crate::runtime::boards::DiskSpaceBoard;
use crate::runtime::channels::DiskSpaceReport;
use crate::storage::{FreeSpace, RealDisk, StorageError};

/// Time between two measurements of free disk space.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which the log writer repeats its report to the Raft core that disk space is scarce,
/// as long as nothing changes.
const REMIND_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum size in bytes of the reserve file, which is the part of the disk reserve that is
/// allocated for the log's next segments, so that no other program can use it.
const RESERVE_FILE_BYTES_MAX: u64 = 16 << 20;
/// Bytes of disk space kept free for the small files in the replica's folder, that is, all files
/// except the log and the snapshots.
const SMALL_FILES_BYTES: u64 = 2 << 20;

/// Returns the size in bytes of the reserve file for a disk reserve of `reserve` bytes: half of the
/// reserve, up to a maximum.
pub(crate) fn reserve_file_bytes(reserve: u64) -> u64 {
    (reserve / 2).min(RESERVE_FILE_BYTES_MAX)
}

/// Measures free disk space, publishes the result for the other stages, and reports changes that
/// the Raft core must handle.
pub(crate) struct DiskSpaceMonitor {
    board: Arc<DiskSpaceBoard>,
    measured_at: Option<Instant>,
    /// Whether free disk space is low. It becomes low when it falls below the disk reserve, and
    /// stays low until it is a quarter above the reserve.
    low: bool,
    /// The last report on free disk space to the Raft core, and the time at which it was made;
    /// `None` before the first report.
    reported: Option<(DiskSpaceReport, Instant)>,
    /// Whether the last measurement failed. Only the first of several consecutive failures is
    /// logged.
    failed: bool,
}

impl DiskSpaceMonitor {
    pub(crate) fn new(board: Arc<DiskSpaceBoard>) -> DiskSpaceMonitor {
        DiskSpaceMonitor { board, measured_at: None, low: false, reported: None, failed: false }
    }

    /// Measures free disk space if [`INTERVAL`] has passed since the last measurement. Returns a
    /// report if space has become low or is no longer low, if the number of bytes that may still be
    /// stored has changed while space is low, or if space is still scarce [`REMIND_INTERVAL`] after
    /// the last report.
    pub(crate) fn measure(
        &mut self,
        disk: &RealDisk,
        segment_count: u64,
    ) -> Option<DiskSpaceReport> {
        let now = Instant::now();
        if self.measured_at.is_some_and(|at| now < at + INTERVAL) {
            return None;
        }
        self.measured_at = Some(now);
        match disk.free_space().and_then(|free| self.refill_reserve(disk, free)) {
            Ok(free) => {
                self.failed = false;
                self.board.write(free);
                self.judge(free, segment_count, now)
            }
            Err(error) => {
                if !self.failed {
                    tracing::error!(
                        folder = %disk.folder().display(),
                        %error,
                        "cannot measure free disk space; the last measurement stays in force"
                    );
                }
                self.failed = true;
                None
            }
        }
    }

    /// If disk space is no longer low and the log has used a part of the reserve file, allocates
    /// that part again. Returns the free space afterwards.
    fn refill_reserve(&self, disk: &RealDisk, free: FreeSpace) -> Result<FreeSpace, StorageError> {
        if free.held >= reserve_file_bytes(self.board.reserve) || self.is_low(free) {
            return Ok(free);
        }
        disk.refill_reserve()?;
        disk.free_space()
    }

    /// Returns whether disk space is low. It becomes low when it falls below the disk reserve, and
    /// stays low until it is a quarter above the reserve, so that the state does not flap.
    fn is_low(&self, free: FreeSpace) -> bool {
        let reserve = self.board.reserve;
        free.bytes() < if self.low { reserve + reserve / 4 } else { reserve }
    }

    fn judge(
        &mut self,
        free: FreeSpace,
        segment_count: u64,
        now: Instant,
    ) -> Option<DiskSpaceReport> {
        let low = self.is_low(free);
        let was_low = std::mem::replace(&mut self.low, low);
        let is_scarce = free.bytes() / 2 < self.board.reserve;
        // Only half of it counts, since entries take more bytes on disk than in memory, and
        // segments are allocated as a whole.
        let bytes = (free.bytes() / 2).saturating_sub(SMALL_FILES_BYTES);
        let space = DiskSpace { low, bytes };
        let free_bytes = self.board.read().free;
        let report = DiskSpaceReport { space, is_scarce, free_bytes, segment_count };
        let is_new = match self.reported {
            None => low || is_scarce,
            Some((last, at)) => {
                low != was_low
                    || low && last.space != space
                    || is_scarce && now >= at + REMIND_INTERVAL
            }
        };
        if is_new {
            self.reported = Some((report, now));
        }
        is_new.then_some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn low_disk_space_state_ends_at_125_percent_of_the_reserve() {
        let mut monitor = DiskSpaceMonitor::new(Arc::new(DiskSpaceBoard::new(100 * MIB)));
        let now = Instant::now();
        let mut judge = |free: u64, held: u64, after: u64| {
            let free = FreeSpace { free: free * MIB, held: held * MIB };
            monitor.board.write(free);
            let report = monitor.judge(free, 3, now + Duration::from_secs(after));
            report.map(|report| (report.space.low, report.is_scarce))
        };
        assert_eq!(judge(900, 32, 0), None, "more than enough");
        assert_eq!(judge(100, 32, 0), Some((false, true)), "less than twice the reserve");
        assert_eq!(judge(90, 32, 1), None, "it was reported");
        assert_eq!(judge(90, 32, 9), Some((false, true)), "long ago");
        assert_eq!(judge(60, 32, 9), Some((true, true)));
        assert_eq!(judge(60, 32, 9), None);
        assert_eq!(judge(50, 32, 9), Some((true, true)), "a low replica may store fewer bytes");
        assert_eq!(judge(90, 32, 9), Some((true, true)), "not yet a quarter more");
        assert_eq!(judge(93, 32, 9), Some((false, true)));
        assert_eq!(judge(70, 32, 9), None, "not below the reserve");
        assert_eq!(judge(0, 0, 9), Some((true, true)));
        assert_eq!(judge(900, 0, 9), Some((false, false)));
    }

    #[test]
    fn disk_space_is_never_low_without_a_configured_reserve() {
        let mut monitor = DiskSpaceMonitor::new(Arc::new(DiskSpaceBoard::new(0)));
        assert_eq!(monitor.judge(FreeSpace::default(), 3, Instant::now()), None);
        assert_eq!(reserve_file_bytes(0), 0);
    }
}
