//! Schedules the comparison of the replicas' states: when a replica proposes a mark (a log entry at
//! which every replica computes the digest of its state), and when it reports its digest. The
//! server and the simulator propose what this schedule returns; `kv/digest_check.rs` compares the
//! reports when they are applied.
//!
//! A mark or report that gets lost is not repeated: the next mark replaces it.

use std::time::Duration;

use crate::kv::Operation;
use crate::types::{Index, Instant, NodeId};

/// Maximum delay of the next mark after a leader change, a start or the installation of a snapshot.
const SOON: Duration = Duration::from_secs(1);

/// Schedule of the marks that this replica proposes, and of the reports of its digests.
#[derive(Debug, Default)]
pub(crate) struct DigestSchedule {
    /// Interval at which the leader proposes marks; zero to propose none.
    interval: Duration,
    /// When the next mark is due: the leader proposes it, a follower asks the leader for it. `None`
    /// if none is scheduled.
    mark_at: Option<Instant>,
    /// Whether this replica has started or installed a snapshot since it last asked for a mark.
    wants_mark: bool,
    /// The latest applied mark that this replica has not reported yet, and the digest of its state
    /// at that mark.
    report: Option<(Index, u64)>,
}

impl DigestSchedule {
    /// Creates the schedule of a replica that starts. `interval` is the interval of marks; zero
    /// turns the comparison off.
    pub(crate) fn new(interval: Duration) -> DigestSchedule {
        let wants_mark = !interval.is_zero();
        DigestSchedule { interval, wants_mark, ..DigestSchedule::default() }
    }

    /// Returns when the next mark is due; `None` if none is scheduled.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.mark_at
    }

    /// Sets the next report: the index of a mark, and the digest of this replica's state at that
    /// mark.
    pub(crate) fn set_report(&mut self, report: (Index, u64)) {
        self.report = Some(report);
    }

    /// Records that this replica has installed a snapshot, so that its state is compared soon.
    pub(crate) fn note_installed(&mut self) {
        self.wants_mark = !self.interval.is_zero();
    }

    /// Returns the next operation, due at `now`: to be proposed if this replica is the leader
    /// (`leads`), otherwise to be sent to the leader. `None` if nothing is due. `me` is the id of
    /// this replica.
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
        // Delayed, because the connection to the leader may not exist yet.
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
