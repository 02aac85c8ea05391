//! When a replica proposes a mark, at which the states of the replicas are compared, and when it
//! reports the digest of its own state. The server and the simulator carry it out; the reports are
//! compared where they are applied (`kv/digest_check.rs`).
//!
//! A mark or a report may get lost. The next mark replaces it.

use std::time::Duration;

use crate::kv::Operation;
use crate::types::{Index, Instant, NodeId};

/// Maximum time from a leader change, a start or the installation of a snapshot to the next mark.
const SOON: Duration = Duration::from_secs(1);

/// When this replica proposes marks, and what it has to report.
#[derive(Debug, Default)]
pub(crate) struct DigestSchedule {
    /// Interval of the marks that the leader proposes; zero for none.
    interval: Duration,
    /// When this replica proposes the next mark or, if it does not lead, asks for one; `None` if it
    /// does neither.
    mark_at: Option<Instant>,
    /// Whether this replica has started or installed a snapshot since it last asked for a mark.
    wants_mark: bool,
    /// The mark that this replica has applied but not reported on, and the digest of its state
    /// there; `None` if there is none.
    report: Option<(Index, u64)>,
}

impl DigestSchedule {
    /// Creates the schedule of a replica that starts. An `interval` of zero means no comparisons.
    pub(crate) fn new(interval: Duration) -> DigestSchedule {
        let wants_mark = !interval.is_zero();
        DigestSchedule { interval, wants_mark, ..DigestSchedule::default() }
    }

    /// Returns when the next mark is due; `None` if none is.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.mark_at
    }

    /// Sets the digest of this replica's state at the mark at index `mark`, which it has to report.
    pub(crate) fn set_report(&mut self, report: (Index, u64)) {
        self.report = Some(report);
    }

    /// Records that this replica has installed a snapshot, whose state must be compared soon.
    pub(crate) fn note_installed(&mut self) {
        self.wants_mark = !self.interval.is_zero();
    }

    /// Returns the next operation to propose at `now`, if this replica `leads`, or otherwise to
    /// send to the leader; `None` if there is none. `me` is this replica.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        me: NodeId,
        leads: bool,
    ) -> Option<Operation<'static>> {
        if let Some((mark, digest)) = self.report.take() {
            return Some(Operation::DigestReport { replica: me, mark, digest });
        }
        if self.interval.is_zero() || !leads && !self.wants_mark {
            self.mark_at = None;
            return None;
        }
        // Not at once: the connection to the leader may not be there yet.
        let soon = now + SOON.min(self.interval);
        let mark_at = self.mark_at.unwrap_or(soon);
        let mark_at = if self.wants_mark { mark_at.min(soon) } else { mark_at };
        self.mark_at = Some(mark_at);
        if now < mark_at {
            return None;
        }
        self.mark_at = leads.then(|| now + self.interval);
        self.wants_mark = false;
        Some(Operation::DigestMark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(3);

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn leader_proposes_marks_soon_and_then_at_the_interval() {
        let mut schedule = DigestSchedule::new(Duration::from_mins(1));
        assert_eq!(schedule.next(at(10), ME, true), None);
        assert_eq!(schedule.next_due(), Some(at(11)));
        assert_eq!(schedule.next(at(11), ME, true), Some(Operation::DigestMark));
        assert_eq!(schedule.next(at(70), ME, true), None);
        assert_eq!(schedule.next_due(), Some(at(71)));
        schedule.note_installed();
        assert_eq!(schedule.next(at(30), ME, true), None);
        assert_eq!(schedule.next_due(), Some(at(31)), "soon after a snapshot");
    }

    #[test]
    fn follower_asks_for_a_mark_after_a_start_and_a_snapshot() {
        let mut schedule = DigestSchedule::new(Duration::from_mins(1));
        assert_eq!(schedule.next(at(1), ME, false), None);
        assert_eq!(schedule.next(at(2), ME, false), Some(Operation::DigestMark));
        assert_eq!(schedule.next(at(99), ME, false), None);
        assert_eq!(schedule.next_due(), None);
        schedule.note_installed();
        schedule.set_report((Index(4), 5));
        schedule.set_report((Index(9), 7));
        let report = Operation::DigestReport { replica: ME, mark: Index(9), digest: 7 };
        assert_eq!(schedule.next(at(99), ME, false), Some(report), "only the latest");
        assert_eq!(schedule.next(at(99), ME, false), None);
        assert_eq!(schedule.next(at(100), ME, false), Some(Operation::DigestMark));
        assert_eq!(schedule.next(at(199), ME, false), None);
    }

    #[test]
    fn without_an_interval_only_reports_are_sent() {
        let mut schedule = DigestSchedule::new(Duration::ZERO);
        for leads in [false, true] {
            schedule.note_installed();
            assert_eq!(schedule.next(at(1), ME, leads), None);
        }
        schedule.set_report((Index(4), 5));
        assert!(schedule.next(at(1), ME, true).is_some(), "another replica has the setting");
        assert_eq!(schedule.next_due(), None);
    }
}
