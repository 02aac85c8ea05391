//! The replicated clock as one replica knows it, and the entries that a leader proposes to move it.

use std::time::Duration;

use crate::types::{Instant, NodeId, Term};

use super::wall::{Jump, WallClock, millis_of};

/// How far the clock in the state may be behind when a write arrives. Writes alone cause at most
/// one clock entry in this time.
const ENTRY_INTERVAL: Duration = Duration::from_millis(10);
/// A report of a peer's wall clock counts for this long.
const REPORT_AGE_MAX: Duration = Duration::from_secs(10);
/// How long a new leader waits for the wall clocks of all members if those of the quorum that it
/// knows differ by more than [`DIFFERENCE_MAX`]: one of these may be behind.
const DIFFERENCE_WAIT: Duration = Duration::from_secs(1);
/// Wall clocks that differ by at most this many milliseconds count as equal.
const DIFFERENCE_MAX: u64 = 500;
/// How many reports of a peer are kept. The least delayed of them counts.
const REPORTS: usize = 4;
/// A clock that is ahead of the agreed time runs this much slower (parts per million).
const SLEW_PPM: u128 = 1_000;
/// Nanoseconds in a millisecond.
const NANOS: u128 = 1_000_000;

/// The replicated clock in the state machine, after the entries applied so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AppliedClock {
    /// The time in milliseconds since 1970; 0 before the first clock entry.
    pub millis: u64,
    /// How often the clock was reset.
    pub resets: u64,
    /// When the next key expires, in milliseconds since 1970; `None` if no key has an expiration.
    pub next_expiry: Option<u64>,
}

/// A report of a peer's wall clock.
#[derive(Clone, Copy, Debug)]
struct Report {
    /// The peer's wall clock less our monotonic clock when the report arrived, in milliseconds.
    /// Delay makes it smaller.
    offset: i64,
    at: Instant,
}

/// A peer and its latest [`REPORTS`] reports, newest first.
#[derive(Clone, Debug)]
struct Peer {
    id: NodeId,
    reports: Vec<Report>,
}

/// The clock entry that this replica proposed last.
#[derive(Clone, Copy, Debug)]
struct Proposed {
    millis: u64,
    at: Instant,
}

/// The replicated clock as one replica knows it.
///
/// Invariant: the time in `base`, extrapolated by the monotonic clock, only decreases by a reset.
#[derive(Clone, Debug)]
pub struct ReplicatedClock {
    quorum: usize,
    wall: WallClock,
    peers: Vec<Peer>,
    applied: AppliedClock,
    /// The time in nanoseconds since 1970, and the monotonic reading at which it was that; `None`
    /// before the first entry was applied or proposed.
    base: Option<(u128, Instant)>,
    proposed: Option<Proposed>,
    /// The latest term in which this replica, as the leader, knew the clocks of a quorum.
    ready: Option<Term>,
    /// The term in which it waits for them, and since when.
    waiting: Option<(Term, Instant)>,
    /// The time that waiting reads need, in milliseconds since 1970.
    read_target: Option<u64>,
    /// For a mutant of the simulator: the own wall clock counts as it is, and alone.
    follows_wall_clock: bool,
    /// The last observation less the monotonic clock, for that mutant.
    raw_offset: i64,
}

impl ReplicatedClock {
    /// The clock of a replica with these peers. A jump of its wall clock counts after
    /// `confirm_after`.
    pub fn new(peers: &[NodeId], confirm_after: Duration) -> ReplicatedClock {
        ReplicatedClock {
            quorum: peers.len().div_ceil(2) + 1,
            wall: WallClock::new(confirm_after),
            peers: peers.iter().map(|&id| Peer { id, reports: Vec::new() }).collect(),
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

    /// Makes the clock follow the own wall clock, with its jumps and without a quorum (a mutant of
    /// the simulator).
    pub fn follow_wall_clock(&mut self) {
        self.follows_wall_clock = true;
    }

    /// Notes that the own wall clock showed `wall`, in milliseconds since 1970, at `now`.
    pub fn observe(&mut self, now: Instant, wall: u64) -> Option<Jump> {
        self.raw_offset = i64::try_from(wall).unwrap_or(i64::MAX).saturating_sub(millis_of(now));
        self.wall.observe(now, wall)
    }

    /// The own wall clock without its jumps, as it is reported to peers.
    pub fn wall(&self) -> &WallClock {
        &self.wall
    }

    /// Notes a peer's report of its wall clock, in milliseconds since 1970. `now` must have been
    /// read after the report arrived. A report of a replica that is not a peer is ignored.
    pub fn note_report(&mut self, from: NodeId, now: Instant, millis: u64) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from) else { return };
        let offset = i64::try_from(millis).unwrap_or(i64::MAX).saturating_sub(millis_of(now));
        peer.reports.truncate(REPORTS - 1);
        peer.reports.insert(0, Report { offset, at: now });
    }

    /// By how many milliseconds a peer's wall clock is ahead of the own one; `None` without a
    /// recent report.
    pub fn ahead_of_own(&self, peer: NodeId, now: Instant) -> Option<i64> {
        let peer = self.peers.iter().find(|there| there.id == peer)?;
        let own = i64::try_from(self.wall.read(now)?).ok()?;
        Some(peer.offset(now)?.saturating_add(millis_of(now)).saturating_sub(own))
    }

    /// Notes the clock in the state. `now` must have been read after that state was reached: an
    /// earlier reading would put the clock ahead.
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

    /// The clock in the state, as last noted.
    pub fn applied(&self) -> AppliedClock {
        self.applied
    }

    /// Notes that the log refused the entry that was proposed last, so that the next write needs an
    /// entry of its own.
    pub fn proposal_refused(&mut self) {
        self.proposed = None;
    }

    /// Notes a leader change: the entry that was proposed last may be lost.
    pub fn leader_changed(&mut self) {
        self.proposed = None;
    }

    /// Whether this replica, which leads `term`, may admit requests: it has known the wall clocks
    /// of a quorum in this term. Before that, the clock in the state may be far behind, and keys
    /// that are set by it would expire too early when it catches up. For the same reason the leader
    /// waits a little for the clocks of the other members if those that it knows differ.
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
        let all_known = self.clocks(now).count() == self.peers.len() + 1;
        if waited || all_known || near >= self.quorum {
            self.ready = Some(term);
        }
        self.ready == Some(term)
    }

    /// The known wall clocks of all members, in milliseconds since 1970.
    fn clocks(&self, now: Instant) -> impl Iterator<Item = u64> {
        let own = millis_of(now);
        let peers = self.peers.iter().filter_map(move |peer| peer.offset(now));
        peers
            .map(move |offset| u64::try_from(own.saturating_add(offset)).unwrap_or(0))
            .chain(self.wall.read(now))
    }

    /// The agreed time in milliseconds since 1970: the latest that the wall clocks of a quorum have
    /// reached. `None` if too few are known. Message delay makes a peer's clock look earlier, never
    /// later.
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

    /// Advances the clock to `now` and returns its time in milliseconds since 1970: the last time
    /// and the monotonic time since then, or the agreed time if that is later.
    pub fn advance(&mut self, now: Instant) -> u64 {
        let nanos = self.extrapolate(now);
        self.base = Some((nanos, self.base.map_or(now, |(_, at)| at.max(now))));
        u64::try_from(nanos / NANOS).unwrap_or(u64::MAX)
    }

    /// The time at `now` in nanoseconds since 1970.
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

    /// The time of a clock entry to be proposed before a write that arrives now; `None` if none is
    /// needed.
    pub fn entry_before_write(&mut self, now: Instant) -> Option<u64> {
        let due = self.proposed.is_none_or(|proposed| now >= proposed.at + ENTRY_INTERVAL);
        if due {
            let time = self.advance(now);
            return Some(self.propose(now, time));
        }
        self.entry_at_expiry(now)
    }

    /// The time of a clock entry to be proposed because a key has expired; `None` if none is
    /// needed.
    pub fn entry_at_expiry(&mut self, now: Instant) -> Option<u64> {
        let expiry = self.applied.next_expiry?;
        self.propose_if_reached(now, expiry)
    }

    /// The time of a clock entry to be proposed for waiting reads; `None` if none wait, if their
    /// time has not come, or if an entry for them is on its way.
    pub fn entry_for_reads(&mut self, now: Instant) -> Option<u64> {
        let target = self.read_target?;
        self.propose_if_reached(now, target)
    }

    /// Notes which time waiting reads need, in milliseconds since 1970; `None` if none wait.
    pub fn set_read_target(&mut self, millis: Option<u64>) {
        self.read_target = millis.filter(|millis| *millis > self.applied.millis);
    }

    /// Proposes an entry if the time has reached `millis` and no entry on its way shows that.
    fn propose_if_reached(&mut self, now: Instant, millis: u64) -> Option<u64> {
        if !self.may_propose(now, millis) {
            return None;
        }
        let time = self.advance(now);
        (millis <= time).then(|| self.propose(now, time))
    }

    /// Whether an entry may be proposed for `millis`: only one is on its way at a time, unless it
    /// was proposed so long ago that it may be lost.
    fn may_propose(&self, now: Instant, millis: u64) -> bool {
        self.proposed.is_none_or(|proposed| {
            now >= proposed.at + ENTRY_INTERVAL
                || self.applied.millis >= proposed.millis && proposed.millis < millis
        })
    }

    fn propose(&mut self, now: Instant, millis: u64) -> u64 {
        self.proposed = Some(Proposed { millis, at: now });
        millis
    }

    /// When [`ReplicatedClock::entry_at_expiry`] or [`ReplicatedClock::entry_for_reads`] may return
    /// an entry; `None` for not before the state changes.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let millis = [self.applied.next_expiry, self.read_target].into_iter().flatten().min()?;
        let time = u64::try_from(self.extrapolate(now) / NANOS).unwrap_or(u64::MAX);
        let left = Duration::from_millis(millis.saturating_sub(time));
        let due = now + left;
        let again = self.proposed.map_or(now, |proposed| proposed.at + ENTRY_INTERVAL);
        Some(if self.may_propose(now, millis) { due } else { due.max(again) })
    }
}

impl Peer {
    /// The peer's wall clock less our monotonic clock in milliseconds, by the least delayed of the
    /// recent reports; `None` without one.
    fn offset(&self, now: Instant) -> Option<i64> {
        let recent = self.reports.iter().filter(|report| now.since(report.at) <= REPORT_AGE_MAX);
        recent.map(|report| report.offset).max()
    }
}

/// Nanoseconds from one reading to a later one.
fn since(from: Instant, to: Instant) -> u128 {
    to.since(from).as_nanos()
}

#[cfg(test)]
mod tests {
    use super::super::CONFIRM_AFTER;
    use super::*;

    /// The wall clock at the monotonic reading 0.
    const EPOCH: u64 = 1_700_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn clock(peers: u16) -> ReplicatedClock {
        let peers: Vec<NodeId> = (2..2 + peers).map(NodeId).collect();
        ReplicatedClock::new(&peers, CONFIRM_AFTER)
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
    fn one_wrong_clock_of_three_does_not_count() {
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
    fn new_leader_waits_for_all_clocks_if_known_ones_differ() {
        let mut clock = clock(2);
        clock.observe(at(0), EPOCH);
        clock.note_report(NodeId(2), at(0), EPOCH - HOUR);
        assert_eq!(clock.agreed(at(0)), Some(EPOCH - HOUR));
        assert!(!clock.is_ready(at(0), Term(1)) && !clock.is_ready(at(999), Term(1)));
        let mut alone = clock.clone();
        clock.note_report(NodeId(3), at(999), EPOCH + 999);
        assert!(clock.is_ready(at(999), Term(1)) && clock.advance(at(999)) == EPOCH + 999);
        // Without a report of the third member it waits for a second.
        assert!(alone.is_ready(at(1_000), Term(1)) && !alone.is_ready(at(1_000), Term(2)));
    }

    #[test]
    fn agreed_time_of_four_members_needs_three() {
        let mut clock = clock(3);
        clock.observe(at(0), EPOCH + HOUR);
        clock.note_report(NodeId(2), at(0), EPOCH + HOUR);
        assert_eq!(clock.agreed(at(0)), None);
        clock.note_report(NodeId(3), at(0), EPOCH);
        clock.note_report(NodeId(9), at(0), EPOCH + HOUR);
        assert_eq!(clock.agreed(at(0)), Some(EPOCH));
    }

    #[test]
    fn clock_runs_at_the_monotonic_rate_and_is_slewed() {
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
    fn expirations_and_reads_share_one_entry_in_flight() {
        let mut clock = single();
        assert_eq!((clock.entry_at_expiry(at(1)), clock.next_due(at(1))), (None, None));
        clock.note_applied(at(1), shown(EPOCH + 1, Some(EPOCH + 100)));
        assert_eq!(clock.next_due(at(40)), Some(at(100)));
        assert_eq!(clock.entry_at_expiry(at(99)), None);
        assert_eq!(clock.entry_at_expiry(at(100)), Some(EPOCH + 100));
        clock.set_read_target(Some(EPOCH + 103));
        assert_eq!((clock.entry_at_expiry(at(103)), clock.entry_for_reads(at(103))), (None, None));
        assert_eq!(clock.next_due(at(103)), Some(at(110)));
        clock.note_applied(at(104), shown(EPOCH + 100, None));
        assert_eq!(clock.entry_for_reads(at(104)), Some(EPOCH + 104));
        clock.note_applied(at(105), shown(EPOCH + 104, None));
        assert_eq!((clock.entry_for_reads(at(200)), clock.next_due(at(200))), (None, None));
    }

    #[test]
    fn writes_propose_one_entry_per_interval() {
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
    fn clock_goes_back_only_by_a_reset() {
        let mut clock = single();
        clock.note_applied(at(1), shown(EPOCH + HOUR, Some(EPOCH + HOUR + 5)));
        assert!(clock.advance(at(3)) > EPOCH + HOUR);
        let reset = AppliedClock { millis: EPOCH + 4, resets: 1, next_expiry: Some(EPOCH + 7) };
        clock.note_applied(at(4), reset);
        assert_eq!((clock.advance(at(4)), clock.next_due(at(4))), (EPOCH + 4, Some(at(7))));
    }
}
