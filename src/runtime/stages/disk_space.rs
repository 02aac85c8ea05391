//! How much room the disk has, measured by the log writer between its jobs: it is who takes room,
//! and it is awake whenever that happens. So want of room is foreseen and no write fails for it
//! (safety.md D2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::raft::DiskSpace;
use crate::storage::{FreeSpace, RealDisk, StorageError};

use crate::runtime::boards::DiskSpaceBoard;
use crate::runtime::channels::DiskSpaceReport;

/// From one measurement to the next.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);
/// How often the core is told that room is scarce, though nothing has changed.
const REMIND_INTERVAL: Duration = Duration::from_secs(5);
/// Most bytes that a file holds in reserve: for the log's next segments, whatever others do.
const HELD_BYTES_MAX: u64 = 16 << 20;
/// What small files may need.
const SMALL_FILES_BYTES: u64 = 2 << 20;

/// How much of the reserve a file holds.
pub(crate) fn reserve_file_bytes(reserve: u64) -> u64 {
    (reserve / 2).min(HELD_BYTES_MAX)
}

/// Who measures.
pub(crate) struct DiskSpaceMonitor {
    board: Arc<DiskSpaceBoard>,
    measured_at: Option<Instant>,
    low: bool,
    told: Option<(DiskSpaceReport, Instant)>,
    failed: bool,
}

impl DiskSpaceMonitor {
    pub(crate) fn new(board: Arc<DiskSpaceBoard>) -> DiskSpaceMonitor {
        DiskSpaceMonitor { board, measured_at: None, low: false, told: None, failed: false }
    }

    /// Measures if it is time. What the core must hear of it.
    pub(crate) fn measure(&mut self, disk: &RealDisk, segments: u64) -> Option<DiskSpaceReport> {
        let now = Instant::now();
        if self.measured_at.is_some_and(|at| now < at + INTERVAL) {
            return None;
        }
        self.measured_at = Some(now);
        match disk.free_space().and_then(|room| self.refill(disk, room)) {
            Ok(room) => {
                self.failed = false;
                self.board.write(room);
                self.judge(room, segments, now)
            }
            Err(error) => {
                if !self.failed {
                    tracing::error!("nobody knows how much room there is: {error}");
                }
                self.failed = true;
                None
            }
        }
    }

    /// Makes the reserve whole again once there is room.
    fn refill(&self, disk: &RealDisk, room: FreeSpace) -> Result<FreeSpace, StorageError> {
        if room.held >= reserve_file_bytes(self.board.reserve) || self.is_low(room) {
            return Ok(room);
        }
        disk.refill_reserve()?;
        disk.free_space()
    }

    /// It ends being low with a little more than it begins with, lest it change all the time.
    fn is_low(&self, room: FreeSpace) -> bool {
        let reserve = self.board.reserve;
        room.bytes() < if self.low { reserve + reserve / 4 } else { reserve }
    }

    fn judge(&mut self, room: FreeSpace, segments: u64, now: Instant) -> Option<DiskSpaceReport> {
        let low = self.is_low(room);
        let before = std::mem::replace(&mut self.low, low);
        let tight = room.bytes() / 2 < self.board.reserve;
        // Entries take more on the disk than in memory, and segments are made whole.
        let bytes = (room.bytes() / 2).saturating_sub(SMALL_FILES_BYTES);
        let room = DiskSpace { low: self.low, bytes };
        let news = DiskSpaceReport { room, tight, free: self.board.read().free, segments };
        let is_new = match self.told {
            None => self.low || tight,
            Some((told, at)) => {
                self.low != before
                    || self.low && told.room != room
                    || tight && now >= at + REMIND_INTERVAL
            }
        };
        if is_new {
            self.told = Some((news, now));
        }
        is_new.then_some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn low_begins_below_the_reserve_and_ends_with_a_quarter_more() {
        let mut watch = DiskSpaceMonitor::new(Arc::new(DiskSpaceBoard::new(100 * MIB)));
        let now = Instant::now();
        let mut judge = |free: u64, held: u64, after: u64| {
            let room = FreeSpace { free: free * MIB, held: held * MIB };
            watch.board.write(room);
            let news = watch.judge(room, 3, now + Duration::from_secs(after));
            news.map(|news| (news.room.low, news.tight))
        };
        assert_eq!(judge(900, 32, 0), None, "there is enough");
        assert_eq!(judge(100, 32, 0), Some((false, true)), "less than twice the reserve");
        assert_eq!(judge(90, 32, 1), None, "it was told of that");
        assert_eq!(judge(90, 32, 9), Some((false, true)), "but long ago");
        assert_eq!(judge(60, 32, 9), Some((true, true)));
        assert_eq!(judge(60, 32, 9), None);
        assert_eq!(judge(50, 32, 9), Some((true, true)), "followers count what they may store");
        assert_eq!(judge(90, 32, 9), Some((true, true)), "not yet a quarter more");
        assert_eq!(judge(93, 32, 9), Some((false, true)));
        assert_eq!(judge(70, 32, 9), None, "not below the reserve");
        assert_eq!(judge(0, 0, 9), Some((true, true)));
        assert_eq!(judge(900, 0, 9), Some((false, false)));
    }

    #[test]
    fn without_a_reserve_nothing_is_ever_low() {
        let mut watch = DiskSpaceMonitor::new(Arc::new(DiskSpaceBoard::new(0)));
        assert_eq!(watch.judge(FreeSpace::default(), 3, Instant::now()), None);
        assert_eq!(reserve_file_bytes(0), 0);
    }
}
