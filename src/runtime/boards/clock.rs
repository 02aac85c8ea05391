//! The readings of this replica's clocks, and the reports of the wall clocks of its peers.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use parking_lot::Mutex;

use crate::types::{Instant, NodeId};

/// Maximum number of wall clock reports from peers that are queued for the Raft core. While the
/// queue is full, further reports are dropped; each peer soon sends a newer one.
const REPORTS_MAX: usize = 256;
/// Value that stands for an unknown difference between two clocks. Known differences are stored in
/// milliseconds.
const UNKNOWN: i64 = i64::MIN;

/// Clock readings that the Raft core publishes for other stages, and the queue in which the network
/// stage passes peers' wall clock reports to the core.
#[derive(Debug)]
pub(in crate::runtime) struct ClockBoard {
    own: Offset,
    agreed: Offset,
    replicated: Offset,
    jumps: AtomicU64,
    resets: AtomicU64,
    /// For each peer, by how many milliseconds its wall clock is ahead of this replica's; `None` if
    /// the peer has not reported its clock recently.
    peers: Mutex<Vec<(NodeId, Option<i64>)>>,
    /// Queue of wall clock reports from peers, for the Raft core. Each element holds the id of the
    /// peer, a reading of this replica's monotonic clock after the report was received, and the
    /// peer's wall clock in milliseconds since 1970.
    reports: ArrayQueue<(NodeId, Instant, u64)>,
}

/// Readings of the Raft core's clocks, all taken at the same instant, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(in crate::runtime) struct ClockReadings {
    /// This replica's wall clock in milliseconds since 1970. A jump of the clock is ignored until
    /// it has lasted for some time. `None` if the clock could not be read yet.
    pub(in crate::runtime) own: Option<u64>,
    /// The latest time, in milliseconds since 1970, that the wall clocks of a quorum have reached;
    /// `None` if the wall clocks of a quorum are not known.
    pub(in crate::runtime) agreed: Option<u64>,
    /// The replicated clock, which log entries advance and which decides when keys expire, in
    /// milliseconds since 1970.
    pub(in crate::runtime) replicated: u64,
    /// Number of jumps of this replica's wall clock since the process started, including jumps that
    /// were soon undone.
    pub(in crate::runtime) jumps: u64,
    /// Number of times that the command `CLOCK RESET` has reset the replicated clock (which decides
    /// when keys expire).
    pub(in crate::runtime) resets: u64,
}

impl Default for ClockBoard {
    /// Returns the clock readings that the stages share, all unknown at first.
    fn default() -> ClockBoard {
        ClockBoard {
            own: Offset::default(),
            agreed: Offset::default(),
            replicated: Offset::default(),
            jumps: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            peers: Mutex::default(),
            reports: ArrayQueue::new(REPORTS_MAX),
        }
    }
}

impl ClockBoard {
    /// Queues a report of a peer's wall clock for the Raft core. Called by the network stage.
    /// `from` is the peer, `millis` its wall clock in milliseconds since 1970, and `now` a reading
    /// of this replica's monotonic clock after the report was received.
    pub(in crate::runtime) fn report(&self, from: NodeId, now: Instant, millis: u64) {
        // If the queue is full, the report is dropped: the core has enough reports.
        let _ = self.reports.push((from, now, millis));
    }

    /// Removes and returns the oldest queued report of a peer's wall clock; `None` if the queue is
    /// empty. A report contains the peer, a reading of this replica's monotonic clock after the
    /// report was received, and the peer's wall clock in milliseconds since 1970. Called by the
    /// Raft core.
    pub(in crate::runtime) fn next_report(&self) -> Option<(NodeId, Instant, u64)> {
        self.reports.pop()
    }

    /// Publishes clock readings taken at `now`. Called by the Raft core. `peers` has, for each
    /// peer, by how many milliseconds its wall clock is ahead of this replica's; `None` if unknown.
    pub(in crate::runtime) fn publish(
        &self,
        now: Instant,
        readings: ClockReadings,
        peers: impl Iterator<Item = (NodeId, Option<i64>)>,
    ) {
        self.own.write(now, readings.own);
        self.agreed.write(now, readings.agreed);
        self.replicated.write(now, Some(readings.replicated));
        self.jumps.store(readings.jumps, Ordering::Relaxed);
        // Stored after the replicated clock: a reader that sees this reset must not see an older
        // clock.
        self.resets.store(readings.resets, Ordering::Release);
        let mut published = self.peers.lock();
        published.clear();
        published.extend(peers);
    }

    /// Returns this replica's wall clock at `now`, in milliseconds since 1970; `None` if unknown. A
    /// jump of the clock is ignored until it has lasted for some time.
    pub(in crate::runtime) fn own(&self, now: Instant) -> Option<u64> {
        self.own.read(now)
    }

    /// Returns the latest time, in milliseconds since 1970, that the wall clocks of a quorum have
    /// reached at `now`; `None` if the wall clocks of a quorum are not known.
    pub(in crate::runtime) fn agreed(&self, now: Instant) -> Option<u64> {
        self.agreed.read(now)
    }

    /// Returns the replicated clock (which decides when keys expire) at `now`, in milliseconds
    /// since 1970; `None` before the Raft core has published it.
    pub(in crate::runtime) fn replicated(&self, now: Instant) -> Option<u64> {
        self.replicated.read(now)
    }

    /// Returns the number of jumps of this replica's wall clock and the number of resets of the
    /// replicated clock (which decides when keys expire), in this order.
    pub(in crate::runtime) fn jumps_and_resets(&self) -> (u64, u64) {
        (self.jumps.load(Ordering::Relaxed), self.resets.load(Ordering::Acquire))
    }

    /// Returns, for each peer, its id and by how many milliseconds its wall clock is ahead of this
    /// replica's (negative if behind); the latter is `None` if the peer has not reported its clock
    /// recently.
    pub(in crate::runtime) fn peers(&self) -> Vec<(NodeId, Option<i64>)> {
        self.peers.lock().clone()
    }
}

/// A clock, stored as its offset in milliseconds from the monotonic clock, so that a reader gets
/// the time at the instant of reading rather than at the last update. [`UNKNOWN`] if the clock is
/// not known.
#[derive(Debug)]
struct Offset(AtomicI64);

impl Default for Offset {
    fn default() -> Offset {
        Offset(AtomicI64::new(UNKNOWN))
    }
}

impl Offset {
    fn read(&self, now: Instant) -> Option<u64> {
        let offset = Some(self.0.load(Ordering::Relaxed)).filter(|offset| *offset != UNKNOWN)?;
        u64::try_from(offset.saturating_add(millis_of(now))).ok()
    }

    fn write(&self, now: Instant, millis: Option<u64>) {
        let known = millis.and_then(|millis| i64::try_from(millis).ok());
        self.0.store(known.map_or(UNKNOWN, |millis| millis - millis_of(now)), Ordering::Relaxed);
    }
}

fn millis_of(now: Instant) -> i64 {
    i64::try_from(now.0 / 1_000_000).expect("2^64 nanoseconds are 2^44 milliseconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_without_a_reading_is_not_extrapolated() {
        let at = |millis: u64| Instant(millis * 1_000_000);
        let board = ClockBoard::default();
        assert_eq!((board.own(at(5)), board.agreed(at(5))), (None, None));
        let mut readings =
            ClockReadings { own: Some(1_005), agreed: None, replicated: 9, jumps: 1, resets: 2 };
        let peers = [(NodeId(2), None), (NodeId(3), Some(-7))];
        board.publish(at(5), readings, peers.into_iter());
        assert_eq!((board.own(at(7)), board.agreed(at(7))), (Some(1_007), None));
        assert_eq!((board.replicated(at(6)), board.jumps_and_resets()), (Some(10), (1, 2)));
        assert_eq!(board.peers(), peers);
        readings.own = None;
        board.publish(at(7), readings, std::iter::empty());
        assert_eq!(board.own(at(7)), None);
    }

    #[test]
    fn wall_clock_reports_beyond_queue_capacity_are_dropped() {
        let board = ClockBoard::default();
        for millis in 0..2 * REPORTS_MAX as u64 {
            board.report(NodeId(2), Instant(millis), millis);
        }
        assert_eq!(board.next_report(), Some((NodeId(2), Instant(0), 0)));
        assert_eq!(std::iter::from_fn(|| board.next_report()).count(), REPORTS_MAX - 1);
    }
}
