//! The replicated clock as one replica knows it, and the entries that a leader proposes to move it.

use std::time::Duration;

use crate::types::{Instant, NodeId, Term};

use super::wall::{Jump, WallClock, millis_of};

/// Minimum interval between clock entries (log entries that set the replicated clock) that are
/// proposed for writes. Writes that follow a clock entry within this time share its clock time,
/// unless a key has expired since.
const ENTRY_INTERVAL: Duration = Duration::from_millis(10);
/// Maximum age of a peer's wall clock report. Older reports are ignored.
const REPORT_AGE_MAX: Duration = Duration::from_secs(10);
/// How long a new leader waits for the wall clocks of all members if the known ones differ by more
/// than [`DIFFERENCE_MAX`]. After this time, the known wall clocks of a quorum suffice.
const DIFFERENCE_WAIT: Duration = Duration::from_secs(1);
/// Largest difference, in milliseconds, between two wall clocks that count as equal.
const DIFFERENCE_MAX: u64 = 500;
/// Number of wall clock reports kept per peer. Of the recent ones, the report with the shortest
/// network delay is used.
const REPORTS: usize = 4;
/// Rate, in parts per million, by which the replicated clock runs slower than the monotonic clock
/// while it is ahead of the time that the members' wall clocks agree on.
const SLEW_PPM: u128 = 1_000;
/// Number of nanoseconds in a millisecond.
const NANOS: u128 = 1_000_000;

/// The replicated clock as stored in the state machine, after all entries applied so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AppliedClock {
    /// The replicated clock's time in milliseconds since 1970; 0 before the first clock entry is
    /// applied.
    pub millis: u64,
    /// Number of times that the replicated clock has been reset with `CLOCK RESET`.
    pub resets: u64,
    /// Earliest time at which a key expires, in milliseconds since 1970; `None` if no key has an
    /// expiration.
    pub next_expiry: Option<u64>,
}

/// A report of a peer's wall clock, stored relative to this replica's monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Report {
    /// The peer's wall clock reading minus this replica's monotonic clock reading when the report
    /// arrived, in milliseconds. Network delay makes this difference smaller.
    offset: i64,
    at: Instant,
}

/// A peer and its latest [`REPORTS`] wall clock reports, newest first.
#[derive(Clone, Debug)]
struct Peer {
    id: NodeId,
    /// Whether the peer is a voter. Only the wall clocks of voters count for the agreed time.
    is_voter: bool,
    reports: Vec<Report>,
}

/// A clock entry (log entry that sets the replicated clock) proposed by this replica: the time that
/// it sets, in milliseconds since 1970, and when it was proposed.
#[derive(Clone, Copy, Debug)]
struct Proposed {
    millis: u64,
    at: Instant,
    /// Whether the entry was not appended to the log, because the limit on uncommitted bytes was
    /// reached.
    refused: bool,
}

/// A replica's view of the replicated clock: its time, the members' wall clocks, and the last
/// proposed clock entry.
///
/// Invariant: the time in `base`, extrapolated by the monotonic clock, decreases only when the
/// clock is reset.
#[derive(Clone, Debug)]
pub struct ReplicatedClock {
    /// Number of voters that are a quorum.
    quorum: usize,
    /// Whether this replica is a voter.
    is_voter: bool,
    wall: WallClock,
    peers: Vec<Peer>,
    applied: AppliedClock,
    /// The replicated time, in nanoseconds since 1970, with the reading of the monotonic clock at
    /// that time; `None` while no time is known.
    base: Option<(u128, Instant)>,
    proposed: Option<Proposed>,
    /// The latest term in which this replica was leader and knew the wall clocks of a quorum;
    /// `None` if there was no such term.
    ready: Option<Term>,
    /// The latest term in which this replica, as leader, waited until it knew the wall clocks of a
    /// quorum, and when the wait began; `None` if it has never waited.
    waiting: Option<(Term, Instant)>,
    /// The time, in milliseconds since 1970, that the applied replicated clock must reach before
    /// waiting reads can be served; `None` if no read is waiting for the clock.
    read_target: Option<u64>,
    /// Whether the replicated clock follows this replica's own wall clock, jumps included. True
    /// only in mutation tests.
    follows_wall_clock: bool,
    /// This replica's last wall clock reading minus its monotonic clock reading, in milliseconds.
    /// Used only in mutation tests.
    raw_offset: i64,
}

impl ReplicatedClock {
    /// Creates the replicated clock of a replica that does not know its members yet. A jump of this
    /// replica's wall clock is accepted only after it has lasted for `confirm_after`.
    pub fn new(confirm_after: Duration) -> ReplicatedClock {
        ReplicatedClock {
            quorum: 1,
            is_voter: false,
            wall: WallClock::new(confirm_after),
            peers: Vec::new(),
            applied: AppliedClock::default(),
            base: None,
            proposed: None,
            ready: None,
            waiting: None,
            read_target: None,
            follows_wall_clock: false,
            raw_offset: 0,
        }
    }

    /// Sets the members of the cluster, each with whether it is a voter, and keeps the reports of
    /// those that were members before. `me` is this replica.
    pub fn set_members(&mut self, me: NodeId, members: impl Iterator<Item = (NodeId, bool)>) {
        let mut before = std::mem::take(&mut self.peers);
        (self.quorum, self.is_voter) = (0, false);
        for (id, is_voter) in members {
            self.quorum += usize::from(is_voter);
            if id == me {
                self.is_voter = is_voter;
                continue;
            }
            let known = before.iter_mut().find(|peer| peer.id == id);
            let reports = known.map_or_else(Vec::new, |peer| std::mem::take(&mut peer.reports));
            self.peers.push(Peer { id, is_voter, reports });
        }
        self.quorum = self.quorum / 2 + 1;
    }

    /// Makes the replicated clock follow this replica's own wall clock, jumps included and without
    /// a quorum. Used only in mutation tests.
    pub fn follow_wall_clock(&mut self) {
        self.follows_wall_clock = true;
    }

    /// Records a reading of this replica's wall clock: `wall`, in milliseconds since 1970, when its
    /// monotonic clock shows `now`. Returns the jump of the wall clock that the reading reveals;
    /// `None` if there is none.
    pub fn observe(&mut self, now: Instant, wall: u64) -> Option<Jump> {
        self.raw_offset = i64::try_from(wall).unwrap_or(i64::MAX).saturating_sub(millis_of(now));
        self.wall.observe(now, wall)
    }

    /// Returns this replica's filtered wall clock, which is reported to the peers. A jump takes
    /// effect in it only after the jump has lasted long enough.
    pub fn wall(&self) -> &WallClock {
        &self.wall
    }

    /// Records a peer's report of its wall clock, in milliseconds since 1970. `now` must be read
    /// after the report has arrived. Ignores reports from replicas that are not peers.
    pub fn note_report(&mut self, from: NodeId, now: Instant, millis: u64) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from) else { return };
        let offset = i64::try_from(millis).unwrap_or(i64::MAX).saturating_sub(millis_of(now));
        peer.reports.truncate(REPORTS - 1);
        peer.reports.insert(0, Report { offset, at: now });
    }

    /// Returns for each peer how many milliseconds its wall clock is ahead of this replica's,
    /// negative if it is behind; `None` if there is no recent report.
    pub fn peers_ahead(&self, now: Instant) -> impl Iterator<Item = (NodeId, Option<i64>)> {
        let own = self.wall.read(now).and_then(|own| i64::try_from(own).ok());
        self.peers.iter().map(move |peer| {
            let theirs = peer.offset(now).map(|offset| offset.saturating_add(millis_of(now)));
            (peer.id, theirs.zip(own).map(|(theirs, own)| theirs.saturating_sub(own)))
        })
    }

    /// Records the replicated clock's state in the state machine after entries were applied. `now`
    /// must be read from the monotonic clock after they were applied, because an earlier reading
    /// would make the extrapolated clock run ahead.
    pub fn note_applied(&mut self, now: Instant, applied: AppliedClock) {
        debug_assert!(
            applied.resets >= self.applied.resets,
            "{} resets after {}",
            applied.resets,
            self.applied.resets
        );
        let was_reset = applied.resets > self.applied.resets;
        let nanos = u128::from(applied.millis) * NANOS;
        if was_reset || self.base.is_none_or(|(base, at)| base + since(at, now) < nanos) {
            self.base = Some((nanos, now));
        }
        if was_reset {
            self.proposed = None;
        }
        self.applied = applied;
        self.read_target = self.read_target.filter(|target| *target > applied.millis);
    }

    /// Returns the replicated clock's state in the state machine, as last recorded with
    /// [`ReplicatedClock::note_applied`].
    pub fn applied(&self) -> AppliedClock {
        self.applied
    }

    /// Records that the proposed clock entry (log entry that sets the replicated clock) was not
    /// appended at `now`, because the limit on uncommitted bytes was reached. The next write makes
    /// the replica propose a new clock entry at once; for expired keys and waiting reads, it
    /// proposes one after `ENTRY_INTERVAL`.
    pub fn proposal_refused(&mut self, now: Instant) {
        self.proposed = Some(Proposed { millis: 0, at: now, refused: true });
    }

    /// Records that the leader has changed. The last proposed clock entry may then be lost, so a
    /// new leader may propose it again.
    pub fn leader_changed(&mut self) {
        self.proposed = None;
    }

    /// Returns whether this replica, as leader of `term`, may accept client requests: only once it
    /// knows the wall clocks of a quorum. Until then, the replicated clock may be far behind; a key
    /// whose TTL is set then would expire too early, when the clock catches up. For the same
    /// reason, if the known wall clocks differ, the leader waits up to one second for the other
    /// members' clocks.
    pub fn is_ready(&mut self, now: Instant, term: Term) -> bool {
        if self.ready == Some(term) {
            return true;
        }
        if self.waiting.is_none_or(|(waiting, _)| waiting != term) {
            self.waiting = Some((term, now));
        }
        let waited = self.waiting.is_some_and(|(_, at)| now.since(at) >= DIFFERENCE_WAIT);
        let Some(agreed) = self.agreed(now) else { return false };
        let is_near = |clock: &u64| clock.abs_diff(agreed) <= DIFFERENCE_MAX;
        let near = self.clocks(now).filter(is_near).count();
        let all_known = self.clocks(now).count() == self.voter_count();
        if waited || all_known || near >= self.quorum {
            self.ready = Some(term);
        }
        self.ready == Some(term)
    }

    fn voter_count(&self) -> usize {
        usize::from(self.is_voter) + self.peers.iter().filter(|peer| peer.is_voter).count()
    }

    /// Returns the times that the wall clocks of the voters show at `now`, in milliseconds since
    /// 1970, as far as they are known. Includes this replica's own wall clock if it is a voter.
    fn clocks(&self, now: Instant) -> impl Iterator<Item = u64> {
        let own = millis_of(now);
        let voters = self.peers.iter().filter(|peer| peer.is_voter);
        let peers = voters.filter_map(move |peer| peer.offset(now));
        peers
            .map(move |offset| u64::try_from(own.saturating_add(offset)).unwrap_or(0))
            .chain(self.wall.read(now).filter(|_| self.is_voter))
    }

    /// Returns the agreed time in milliseconds since 1970: the latest time that the wall clocks of
    /// a quorum of voters have reached; `None` if too few clocks are known. Network delay makes a
    /// peer's clock look earlier, never later.
    pub fn agreed(&self, now: Instant) -> Option<u64> {
        if self.follows_wall_clock {
            return Some(
                u64::try_from(millis_of(now).saturating_add(self.raw_offset)).unwrap_or(0),
            );
        }
        // Quadratic, but there are few clocks, and a sorted list would have to be allocated.
        let reached =
            |time: &u64| self.clocks(now).filter(|clock| clock >= time).count() >= self.quorum;
        self.clocks(now).filter(reached).max()
    }

    /// Advances the replicated clock to `now` and returns its time in milliseconds since 1970: the
    /// last known time plus the monotonic time since, or the time that a quorum's wall clocks agree
    /// on if that is later.
    pub fn advance(&mut self, now: Instant) -> u64 {
        let nanos = self.extrapolate(now);
        self.base = Some((nanos, self.base.map_or(now, |(_, at)| at.max(now))));
        u64::try_from(nanos / NANOS).unwrap_or(u64::MAX)
    }

    /// Returns the replicated time at `now`, in nanoseconds since 1970.
    fn extrapolate(&self, now: Instant) -> u128 {
        let agreed = self.agreed(now).map(|millis| u128::from(millis) * NANOS);
        let mut nanos = 0;
        if let Some((base, at)) = self.base {
            let passed = since(at, now);
            nanos = base + passed;
            if agreed.is_some_and(|agreed| agreed < nanos) {
                nanos -= passed * SLEW_PPM / 1_000_000;
            }
        }
        nanos.max(agreed.unwrap_or(0))
    }

    /// Returns the time, in milliseconds since 1970, of the clock entry to propose before a write
    /// that arrives at `now`; `None` if no clock entry is needed, because one was proposed recently
    /// and no key has expired since.
    pub fn entry_before_write(&mut self, now: Instant) -> Option<u64> {
        let is_due = |it: Proposed| it.refused || now >= it.at + ENTRY_INTERVAL;
        if self.proposed.is_none_or(is_due) {
            let time = self.advance(now);
            return Some(self.propose(now, time));
        }
        self.entry_at_expiry(now)
    }

    /// Returns the time, in milliseconds since 1970, of the clock entry to propose because a key
    /// has expired; `None` if no key has expired, or if a proposed entry is not applied yet.
    pub fn entry_at_expiry(&mut self, now: Instant) -> Option<u64> {
        let expiry = self.applied.next_expiry?;
        self.propose_if_reached(now, expiry)
    }

    /// Returns the time, in milliseconds since 1970, of the clock entry to propose for waiting
    /// reads; `None` if no read is waiting, if the replicated clock has not reached the time that
    /// the reads need, or if a proposed entry is not applied yet.
    pub fn entry_for_reads(&mut self, now: Instant) -> Option<u64> {
        let target = self.read_target?;
        self.propose_if_reached(now, target)
    }

    /// Sets the time, in milliseconds since 1970, that the applied replicated clock must reach
    /// before waiting reads can be served; `None` if no read is waiting.
    pub fn set_read_target(&mut self, millis: Option<u64>) {
        self.read_target = millis.filter(|millis| *millis > self.applied.millis);
    }

    /// Proposes a clock entry if the replicated clock has reached `millis`, and returns the entry's
    /// time in milliseconds since 1970; `None` if the clock has not reached `millis` or a proposed
    /// entry is not applied yet.
    fn propose_if_reached(&mut self, now: Instant, millis: u64) -> Option<u64> {
        if !self.may_propose(now, millis) {
            return None;
        }
        let time = self.advance(now);
        (millis <= time).then(|| self.propose(now, time))
    }

    /// Returns whether a clock entry may be proposed to make the applied clock reach `millis`.
    /// Returns false while an earlier proposal is still to be applied, however old it is: only a
    /// leader change can lose it, and further proposals would fill a slow log.
    fn may_propose(&self, now: Instant, millis: u64) -> bool {
        self.proposed.is_none_or(|proposed| {
            let is_applied = proposed.refused || self.applied.millis >= proposed.millis;
            is_applied && now >= proposed.next_at(millis)
        })
    }

    fn propose(&mut self, now: Instant, millis: u64) -> u64 {
        self.proposed = Some(Proposed { millis, at: now, refused: false });
        millis
    }

    /// Returns when [`ReplicatedClock::entry_at_expiry`] or [`ReplicatedClock::entry_for_reads`]
    /// may next return an entry; `None` if no key expires and no read is waiting, or if a proposed
    /// entry must be applied first.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let millis = [self.applied.next_expiry, self.read_target].into_iter().flatten().min()?;
        let time = u64::try_from(self.extrapolate(now) / NANOS).unwrap_or(u64::MAX);
        let left = Duration::from_millis(millis.saturating_sub(time));
        let due = now + left;
        let due = self.proposed.map_or(due, |proposed| due.max(proposed.next_at(millis)));
        // Once the proposed entry is applied, the next one may be due.
        self.may_propose(due, millis).then_some(due)
    }
}

impl Proposed {
    /// Returns the earliest time of the next proposal that must reach `millis`: at once, except
    /// after a refused proposal, and after one that has reached `millis` already. In the latter
    /// case more keys have expired than one entry removes.
    fn next_at(&self, millis: u64) -> Instant {
        if self.refused || self.millis >= millis { self.at + ENTRY_INTERVAL } else { self.at }
    }
}

impl Peer {
    /// Returns the peer's wall clock minus this replica's monotonic clock, in milliseconds, from
    /// the recent report with the shortest network delay; `None` if there is no recent report.
    fn offset(&self, now: Instant) -> Option<i64> {
        let recent = self.reports.iter().filter(|report| now.since(report.at) <= REPORT_AGE_MAX);
        recent.map(|report| report.offset).max()
    }
}

/// Returns the time between two readings of the monotonic clock, `from` and the later `to`, in
/// nanoseconds.
fn since(from: Instant, to: Instant) -> u128 {
    to.since(from).as_nanos()
}

#[cfg(test)]
mod tests {
    use super::super::CONFIRM_AFTER;
    use super::*;

    /// Time of the wall clock when the monotonic clock reads 0, in milliseconds since 1970.
    const EPOCH: u64 = 1_700_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn clock(peers: u16) -> ReplicatedClock {
        let mut clock = ReplicatedClock::new(CONFIRM_AFTER);
        clock.set_members(NodeId(1), (1..2 + peers).map(|id| (NodeId(id), true)));
        clock
    }

    fn single() -> ReplicatedClock {
        let mut clock = clock(0);
        clock.observe(at(0), EPOCH);
        clock
    }

    fn shown(millis: u64, next_expiry: Option<u64>) -> AppliedClock {
        AppliedClock { millis, resets: 0, next_expiry }
    }

    #[test]
    fn one_faulty_wall_clock_of_three_replicas_is_outvoted() {
        for wrong in [EPOCH + 5 * HOUR, EPOCH - 5 * HOUR, u64::MAX, 0] {
            let mut clock = clock(2);
            clock.observe(at(0), wrong);
            assert_eq!((clock.agreed(at(0)), clock.is_ready(at(0), Term(1))), (None, false));
            clock.note_report(NodeId(2), at(1), EPOCH);
            clock.note_report(NodeId(3), at(1), EPOCH + 1);
            let agreed = clock.agreed(at(1)).expect("all are known");
            assert!((EPOCH..=EPOCH + 1).contains(&agreed), "{agreed} with {wrong}");
            assert!(clock.is_ready(at(1), Term(1)));
            // No recent reports: there is no agreed time, but the clock goes on.
            let later = at(60_000);
            assert_eq!(clock.agreed(later), None);
            assert!(clock.is_ready(later, Term(1)) && !clock.is_ready(later, Term(2)));
        }
    }

    #[test]
    fn only_the_wall_clocks_of_voters_count() {
        let mut clock = clock(2);
        clock.observe(at(0), EPOCH);
        clock.note_report(NodeId(2), at(0), EPOCH);
        assert_eq!(clock.agreed(at(0)), Some(EPOCH));
        let set = |clock: &mut ReplicatedClock, members: [(u16, bool); 4]| {
            clock
                .set_members(NodeId(1), members.map(|(id, votes)| (NodeId(id), votes)).into_iter());
        };
        set(&mut clock, [(1, true), (2, true), (3, true), (4, false)]);
        assert_eq!(clock.agreed(at(0)), Some(EPOCH), "the report of a member is kept");
        clock.note_report(NodeId(4), at(0), EPOCH + HOUR);
        let shown: Vec<_> = clock.peers_ahead(at(0)).collect();
        let hour = Some(3_600_000);
        assert_eq!(shown, [(NodeId(2), Some(0)), (NodeId(3), None), (NodeId(4), hour)]);
        set(&mut clock, [(1, true), (2, true), (3, true), (4, true)]);
        assert_eq!(clock.agreed(at(0)), Some(EPOCH), "three of four");
        set(&mut clock, [(1, false), (2, true), (3, true), (4, true)]);
        assert_eq!(clock.agreed(at(0)), Some(EPOCH), "two of three, without its own");
        set(&mut clock, [(1, false), (2, false), (3, true), (4, true)]);
        assert_eq!(clock.agreed(at(0)), None);
        let unknown = ReplicatedClock::new(CONFIRM_AFTER);
        assert_eq!(unknown.agreed(at(0)), None);
    }

    #[test]
    fn new_leader_waits_for_a_third_clock_reading_if_two_disagree() {
        let mut clock = clock(2);
        clock.observe(at(0), EPOCH);
        clock.note_report(NodeId(2), at(0), EPOCH - HOUR);
        assert_eq!(clock.agreed(at(0)), Some(EPOCH - HOUR));
        assert!(!clock.is_ready(at(0), Term(1)) && !clock.is_ready(at(999), Term(1)));
        let mut alone = clock.clone();
        clock.note_report(NodeId(3), at(999), EPOCH + 999);
        assert!(clock.is_ready(at(999), Term(1)) && clock.advance(at(999)) == EPOCH + 999);
        // Without a report from the third member, the replica waits for a second.
        assert!(alone.is_ready(at(1_000), Term(1)) && !alone.is_ready(at(1_000), Term(2)));
    }

    #[test]
    fn agreed_time_of_four_replicas_needs_three_clock_reports() {
        let mut clock = clock(3);
        clock.observe(at(0), EPOCH + HOUR);
        clock.note_report(NodeId(2), at(0), EPOCH + HOUR);
        assert_eq!(clock.agreed(at(0)), None);
        clock.note_report(NodeId(3), at(0), EPOCH);
        clock.note_report(NodeId(9), at(0), EPOCH + HOUR);
        assert_eq!(clock.agreed(at(0)), Some(EPOCH));
    }

    #[test]
    fn replicated_clock_ahead_of_agreed_time_is_slewed_not_set_back() {
        let mut clock = single();
        // The clock in the state is an hour ahead.
        clock.note_applied(at(10), shown(EPOCH + HOUR, None));
        assert_eq!(clock.advance(at(10)), EPOCH + HOUR);
        let later = clock.advance(at(1_010));
        assert!((EPOCH + HOUR + 999..=EPOCH + HOUR + 1_000).contains(&later), "{later}");
        // It runs slower until the agreed time has caught up, and does not stand still.
        let much_later = clock.advance(at(1_001_010)) - later;
        assert!((999_000..1_000_000).contains(&much_later), "{much_later}");
        // A short jump of the wall clock changes nothing.
        clock.observe(at(1_001_020), EPOCH + 9_000 * HOUR);
        assert!(clock.advance(at(1_001_030)) < EPOCH + 2 * HOUR);
    }

    #[test]
    fn expiration_and_read_share_one_pending_replicated_clock_entry() {
        let mut clock = single();
        assert_eq!((clock.entry_at_expiry(at(1)), clock.next_due(at(1))), (None, None));
        clock.note_applied(at(1), shown(EPOCH + 1, Some(EPOCH + 100)));
        assert_eq!(clock.next_due(at(40)), Some(at(100)));
        assert_eq!(clock.entry_at_expiry(at(99)), None);
        assert_eq!(clock.entry_at_expiry(at(100)), Some(EPOCH + 100));
        clock.set_read_target(Some(EPOCH + 103));
        assert_eq!((clock.entry_at_expiry(at(103)), clock.entry_for_reads(at(103))), (None, None));
        // This holds regardless of how long the log takes.
        assert_eq!((clock.next_due(at(103)), clock.next_due(at(150))), (None, None));
        assert_eq!(clock.entry_at_expiry(at(150)), None);
        clock.note_applied(at(104), shown(EPOCH + 100, None));
        assert_eq!(clock.entry_for_reads(at(104)), Some(EPOCH + 104));
        clock.note_applied(at(105), shown(EPOCH + 104, None));
        assert_eq!((clock.entry_for_reads(at(200)), clock.next_due(at(200))), (None, None));
    }

    /// Bug: when more keys expired at once than one entry removes, the others stayed in memory
    /// until the next write.
    #[test]
    fn clock_entries_repeat_until_all_expired_keys_are_removed() {
        let mut clock = single();
        clock.note_applied(at(1), shown(EPOCH + 1, Some(EPOCH + 100)));
        assert_eq!(clock.entry_at_expiry(at(100)), Some(EPOCH + 100));
        assert_eq!(clock.next_due(at(101)), None, "the entry is not applied");
        clock.note_applied(at(102), shown(EPOCH + 100, Some(EPOCH + 100)));
        assert_eq!(
            (clock.entry_at_expiry(at(103)), clock.next_due(at(103))),
            (None, Some(at(110)))
        );
        assert_eq!(clock.entry_at_expiry(at(110)), Some(EPOCH + 110));
        clock.note_applied(at(111), shown(EPOCH + 110, Some(EPOCH + 500)));
        assert_eq!(clock.next_due(at(112)), Some(at(500)));
    }

    #[test]
    fn write_adds_replicated_clock_entry_per_interval_or_expiration() {
        let mut clock = single();
        assert_eq!(clock.entry_before_write(at(5)), Some(EPOCH + 5));
        assert_eq!(clock.entry_before_write(at(14)), None);
        assert_eq!(clock.entry_before_write(at(15)), Some(EPOCH + 15));
        // A write must not see a key that has expired.
        clock.note_applied(at(16), shown(EPOCH + 15, Some(EPOCH + 18)));
        assert_eq!(clock.entry_before_write(at(17)), None);
        assert_eq!(clock.entry_before_write(at(18)), Some(EPOCH + 18));
        clock.leader_changed();
        assert_eq!(clock.entry_before_write(at(18)), Some(EPOCH + 18));
    }

    #[test]
    fn refused_replicated_clock_entry_is_retried_at_once_for_writes() {
        let mut clock = single();
        clock.note_applied(at(1), shown(EPOCH + 1, Some(EPOCH + 2)));
        assert_eq!(clock.entry_at_expiry(at(2)), Some(EPOCH + 2));
        clock.proposal_refused(at(2));
        assert_eq!((clock.entry_at_expiry(at(11)), clock.next_due(at(11))), (None, Some(at(12))));
        assert_eq!(clock.entry_before_write(at(11)), Some(EPOCH + 11));
        clock.proposal_refused(at(11));
        assert_eq!((clock.entry_at_expiry(at(20)), clock.next_due(at(20))), (None, Some(at(21))));
        assert_eq!(clock.entry_at_expiry(at(21)), Some(EPOCH + 21));
    }

    #[test]
    fn replicated_clock_moves_back_only_on_a_reset() {
        let mut clock = single();
        clock.note_applied(at(1), shown(EPOCH + HOUR, Some(EPOCH + HOUR + 5)));
        assert!(clock.advance(at(3)) > EPOCH + HOUR);
        let reset = AppliedClock { millis: EPOCH + 4, resets: 1, next_expiry: Some(EPOCH + 7) };
        clock.note_applied(at(4), reset);
        assert_eq!((clock.advance(at(4)), clock.next_due(at(4))), (EPOCH + 4, Some(at(7))));
    }
}
