//! The replicated clock as a replica knows it, and what a leader has the log say of it.

use std::time::Duration;

use crate::types::{Instant, NodeId, Term};

use super::wall::{Jump, WallClock, millis_of};

/// How far behind the state's clock may be when a write comes; there is no more than one entry in
/// this time for writes only.
const INTERVAL: Duration = Duration::from_millis(10);
/// A peer's wall clock counts for this long after its last report.
const REPORT_AGE_MAX: Duration = Duration::from_secs(10);
/// How long a new leader waits for the wall clocks of all members where those that it knows differ
/// by more than [`DIFFERENCE_MAX`]: one of the quorum that it can hear may be behind.
const DIFFERENCE_WAIT: Duration = Duration::from_secs(1);
/// Wall clocks that differ by at most this many milliseconds count as equal.
const DIFFERENCE_MAX: u64 = 500;
/// How many reports of each peer count: of these the one that was delayed least.
const REPORTS: usize = 4;
/// A leader whose clock is ahead of the agreed time counts so much slower, until it is not.
const SLEW_PPM: u128 = 1_000;
const NANOS: u128 = 1_000_000;

/// The replicated clock in the state of a replica, after the entries that it has applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AppliedClock {
    /// What it shows, in milliseconds since 1970.
    pub millis: u64,
    /// How often it was reset.
    pub resets: u64,
    /// When the next key expires by it; `None` if none will.
    pub next_expiry: Option<u64>,
}

/// A peer's wall clock, as it told it.
#[derive(Clone, Copy, Debug)]
struct Report {
    /// Its wall clock less our monotonic clock when the report came: the delay makes it smaller.
    offset: i64,
    at: Instant,
}

/// A peer and its latest reports, the newest first.
#[derive(Clone, Debug)]
struct Peer {
    id: NodeId,
    reports: Vec<Report>,
}

/// What a leader last had the log say.
#[derive(Clone, Copy, Debug)]
struct Proposed {
    millis: u64,
    at: Instant,
}

/// The replicated clock, as one replica knows it.
///
/// Invariant: `base` never falls but by a reset.
#[derive(Clone, Debug)]
pub struct ReplicatedClock {
    quorum: usize,
    wall: WallClock,
    peers: Vec<Peer>,
    shown: AppliedClock,
    /// What the clock shows by now, in nanoseconds since 1970, and the reading at which that was
    /// so; `None` before anything was applied or proposed.
    base: Option<(u128, Instant)>,
    proposed: Option<Proposed>,
    /// The term in which requests may be taken in, once that is known, if this replica leads it.
    ready: Option<Term>,
    /// The term for which that was asked, and since when.
    waiting: Option<(Term, Instant)>,
    /// What the clock must show for reads that wait.
    wanted: Option<u64>,
    /// A mutant's: the wall clock counts as it is, and alone.
    follows_wall: bool,
    /// The last observation, for that mutant.
    raw: i64,
}

impl ReplicatedClock {
    /// The clock of a replica with these peers.
    pub fn new(peers: &[NodeId], confirm_after: Duration) -> ReplicatedClock {
        ReplicatedClock {
            quorum: peers.len().div_ceil(2) + 1,
            wall: WallClock::new(confirm_after),
            peers: peers.iter().map(|&id| Peer { id, reports: Vec::new() }).collect(),
            shown: AppliedClock::default(),
            base: None,
            proposed: None,
            ready: None,
            waiting: None,
            wanted: None,
            follows_wall: false,
            raw: 0,
        }
    }

    /// Has it follow the leader's wall clock, unfiltered and without a quorum (a mutant of the
    /// simulator's).
    pub fn follow_wall_clock(&mut self) {
        self.follows_wall = true;
    }

    /// Takes in the own wall clock, in milliseconds since 1970.
    pub fn observe(&mut self, now: Instant, wall: u64) -> Option<Jump> {
        self.raw = i64::try_from(wall).unwrap_or(i64::MAX).saturating_sub(millis_of(now));
        self.wall.observe(now, wall)
    }

    /// The own wall clock, jumps filtered out: what peers are told.
    pub fn wall(&self) -> &WallClock {
        &self.wall
    }

    /// Takes in a peer's wall clock, as it reported it: in milliseconds since 1970. `now` must have
    /// been read after the report came. A report of a replica that is no peer is ignored.
    pub fn note_report(&mut self, from: NodeId, now: Instant, millis: u64) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from) else { return };
        let offset = i64::try_from(millis).unwrap_or(i64::MAX).saturating_sub(millis_of(now));
        peer.reports.truncate(REPORTS - 1);
        peer.reports.insert(0, Report { offset, at: now });
    }

    /// How far a peer's wall clock is ahead of the own one, in milliseconds; `None` if it was not
    /// heard lately.
    pub fn ahead_of_own(&self, peer: NodeId, now: Instant) -> Option<i64> {
        let peer = self.peers.iter().find(|there| there.id == peer)?;
        let own = i64::try_from(self.wall.read(now)?).ok()?;
        Some(peer.offset(now)?.saturating_add(millis_of(now)).saturating_sub(own))
    }

    /// Takes in what the state shows. `now` must have been read after that was known: an earlier
    /// reading would put the clock ahead.
    pub fn note_applied(&mut self, now: Instant, shown: AppliedClock) {
        let was_reset = shown.resets > self.shown.resets;
        let nanos = u128::from(shown.millis) * NANOS;
        if was_reset || self.base.is_none_or(|(base, at)| base + since(at, now) < nanos) {
            self.base = Some((nanos, now));
        }
        if was_reset {
            self.proposed = None;
        }
        self.shown = shown;
        self.wanted = self.wanted.filter(|wanted| *wanted > shown.millis);
    }

    /// What the state shows, as it was noted last.
    pub fn applied(&self) -> AppliedClock {
        self.shown
    }

    /// What was proposed last is not in the log, which took nothing in: the next write needs an
    /// entry of its own.
    pub fn proposal_refused(&mut self) {
        self.proposed = None;
    }

    /// Another replica leads now, or this one has just begun to: what it proposed may be lost.
    pub fn leader_changed(&mut self) {
        self.proposed = None;
    }

    /// Whether this replica, which leads `term`, may take requests in: a quorum's wall clocks were
    /// known at some time since it leads. Before, the state's clock may be far behind, and keys
    /// would expire too early when it catches up. For the same reason it waits a little for the
    /// clocks of the other members where those that it knows differ.
    pub fn is_ready(&mut self, now: Instant, term: Term) -> bool {
        if self.ready == Some(term) {
            return true;
        }
        if self.waiting.is_none_or(|(asked, _)| asked != term) {
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

    /// The wall clocks of all members that are known, in milliseconds since 1970.
    fn clocks(&self, now: Instant) -> impl Iterator<Item = u64> {
        let own = millis_of(now);
        let peers = self.peers.iter().filter_map(move |peer| peer.offset(now));
        peers
            .map(move |offset| u64::try_from(own.saturating_add(offset)).unwrap_or(0))
            .chain(self.wall.read(now))
    }

    /// The latest time that the wall clocks of a quorum have reached, in milliseconds since 1970;
    /// `None` if too few are known. Message delay makes a peer's clock look earlier, never later.
    pub fn agreed(&self, now: Instant) -> Option<u64> {
        if self.follows_wall {
            return Some(u64::try_from(millis_of(now).saturating_add(self.raw)).unwrap_or(0));
        }
        // Of a few clocks, several times a batch: without a list to be sorted.
        let reached =
            |time: &u64| self.clocks(now).filter(|clock| clock >= time).count() >= self.quorum;
        self.clocks(now).filter(reached).max()
    }

    /// What the clock should show now, in milliseconds since 1970: what it showed and the time
    /// since, or the agreed time where that is later.
    pub fn advance(&mut self, now: Instant) -> u64 {
        let nanos = self.reckon(now);
        self.base = Some((nanos, self.base.map_or(now, |(_, at)| at.max(now))));
        u64::try_from(nanos / NANOS).unwrap_or(u64::MAX)
    }

    /// The same in nanoseconds, to be looked at only.
    fn reckon(&self, now: Instant) -> u128 {
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

    /// What is to be in the log before a write that comes now; `None` if nothing need be.
    pub fn entry_before_write(&mut self, now: Instant) -> Option<u64> {
        let due = self.proposed.is_none_or(|proposed| now >= proposed.at + INTERVAL);
        if due {
            let time = self.advance(now);
            return Some(self.propose(now, time));
        }
        self.entry_at_expiry(now)
    }

    /// What is to be in the log because a key's time is over; `None` if nothing need be.
    pub fn entry_at_expiry(&mut self, now: Instant) -> Option<u64> {
        let expiry = self.shown.next_expiry?;
        self.reach(now, expiry)
    }

    /// What is to be in the log for reads that wait until the clock shows more; `None` if none
    /// wait, or if it is on its way.
    pub fn entry_for_reads(&mut self, now: Instant) -> Option<u64> {
        let wanted = self.wanted?;
        self.reach(now, wanted)
    }

    /// Reads wait until the clock shows so much; `None` for none.
    pub fn set_read_target(&mut self, millis: Option<u64>) {
        self.wanted = millis.filter(|millis| *millis > self.shown.millis);
    }

    /// The time now, if it has reached `millis` and no entry on its way says so.
    fn reach(&mut self, now: Instant, millis: u64) -> Option<u64> {
        if !self.may_propose(now, millis) {
            return None;
        }
        let time = self.advance(now);
        (millis <= time).then(|| self.propose(now, time))
    }

    /// One entry at a time: all that wait meanwhile wait for the next one. What was proposed long
    /// ago may be lost.
    fn may_propose(&self, now: Instant, millis: u64) -> bool {
        self.proposed.is_none_or(|proposed| {
            now >= proposed.at + INTERVAL
                || self.shown.millis >= proposed.millis && proposed.millis < millis
        })
    }

    fn propose(&mut self, now: Instant, millis: u64) -> u64 {
        self.proposed = Some(Proposed { millis, at: now });
        millis
    }

    /// When [`ReplicatedClock::at_expiry`] or [`ReplicatedClock::for_reads`] may have something;
    /// `None` for not before the state changes.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let millis = [self.shown.next_expiry, self.wanted].into_iter().flatten().min()?;
        let time = u64::try_from(self.reckon(now) / NANOS).unwrap_or(u64::MAX);
        let left = Duration::from_millis(millis.saturating_sub(time));
        let due = now + left;
        let again = self.proposed.map_or(now, |proposed| proposed.at + INTERVAL);
        Some(if self.may_propose(now, millis) { due } else { due.max(again) })
    }
}

impl Peer {
    /// Its wall clock less our monotonic clock, by the report that was delayed least of the last
    /// ones; `None` if it was not heard lately.
    fn offset(&self, now: Instant) -> Option<i64> {
        let recent = self.reports.iter().filter(|report| now.since(report.at) <= REPORT_AGE_MAX);
        recent.map(|report| report.offset).max()
    }
}

/// Nanoseconds from one reading to the other.
fn since(from: Instant, to: Instant) -> u128 {
    to.since(from).as_nanos()
}

#[cfg(test)]
mod tests {
    use super::super::CONFIRM_AFTER;
    use super::*;

    /// A wall clock at the reading zero.
    const EPOCH: u64 = 1_700_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn clock(peers: u16) -> ReplicatedClock {
        let peers: Vec<NodeId> = (2..2 + peers).map(NodeId).collect();
        ReplicatedClock::new(&peers, CONFIRM_AFTER)
    }

    fn alone() -> ReplicatedClock {
        let mut clock = clock(0);
        clock.observe(at(0), EPOCH);
        clock
    }

    fn shown(millis: u64, next_expiry: Option<u64>) -> AppliedClock {
        AppliedClock { millis, resets: 0, next_expiry }
    }

    #[test]
    fn one_wrong_clock_of_three_moves_nothing() {
        for wrong in [EPOCH + 5 * HOUR, EPOCH - 5 * HOUR, u64::MAX, 0] {
            let mut clock = clock(2);
            clock.observe(at(0), wrong);
            assert_eq!((clock.agreed(at(0)), clock.is_ready(at(0), Term(1))), (None, false));
            clock.note_report(NodeId(2), at(1), EPOCH);
            clock.note_report(NodeId(3), at(1), EPOCH + 1);
            let agreed = clock.agreed(at(1)).expect("all are known");
            assert!((EPOCH..=EPOCH + 1).contains(&agreed), "{agreed} with {wrong}");
            assert!(clock.is_ready(at(1), Term(1)));
            // Nobody was heard for long: no agreed time, but the clock goes on.
            let later = at(60_000);
            assert_eq!(clock.agreed(later), None);
            assert!(clock.is_ready(later, Term(1)) && !clock.is_ready(later, Term(2)));
        }
    }

    #[test]
    fn a_new_leader_waits_for_more_clocks_where_those_it_knows_differ() {
        let mut clock = clock(2);
        clock.observe(at(0), EPOCH);
        clock.note_report(NodeId(2), at(0), EPOCH - HOUR);
        assert_eq!(clock.agreed(at(0)), Some(EPOCH - HOUR));
        assert!(!clock.is_ready(at(0), Term(1)) && !clock.is_ready(at(999), Term(1)));
        let mut patient = clock.clone();
        clock.note_report(NodeId(3), at(999), EPOCH + 999);
        assert!(clock.is_ready(at(999), Term(1)) && clock.advance(at(999)) == EPOCH + 999);
        // The third member is not there.
        assert!(patient.is_ready(at(1_000), Term(1)) && !patient.is_ready(at(1_000), Term(2)));
    }

    #[test]
    fn a_quorum_of_four_is_three() {
        let mut clock = clock(3);
        clock.observe(at(0), EPOCH + HOUR);
        clock.note_report(NodeId(2), at(0), EPOCH + HOUR);
        assert_eq!(clock.agreed(at(0)), None);
        clock.note_report(NodeId(3), at(0), EPOCH);
        clock.note_report(NodeId(9), at(0), EPOCH + HOUR);
        assert_eq!(clock.agreed(at(0)), Some(EPOCH));
    }

    #[test]
    fn it_keeps_the_monotonic_rate_from_where_it_stands() {
        let mut clock = alone();
        // A clock before was an hour ahead.
        clock.note_applied(at(10), shown(EPOCH + HOUR, None));
        assert_eq!(clock.advance(at(10)), EPOCH + HOUR);
        let later = clock.advance(at(1_010));
        assert!((EPOCH + HOUR + 999..=EPOCH + HOUR + 1_000).contains(&later), "{later}");
        // It is slewed towards the agreed time, and does not stand still.
        let much_later = clock.advance(at(1_001_010)) - later;
        assert!((999_000..1_000_000).contains(&much_later), "{much_later}");
        // A momentary jump of the wall clock changes nothing.
        clock.observe(at(1_001_020), EPOCH + 9_000 * HOUR);
        assert!(clock.advance(at(1_001_030)) < EPOCH + 2 * HOUR);
    }

    #[test]
    fn a_key_expires_when_it_is_time_and_one_entry_is_in_flight() {
        let mut clock = alone();
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
    fn writes_move_it_but_not_each() {
        let mut clock = alone();
        assert_eq!(clock.entry_before_write(at(5)), Some(EPOCH + 5));
        assert_eq!(clock.entry_before_write(at(14)), None);
        assert_eq!(clock.entry_before_write(at(15)), Some(EPOCH + 15));
        // A key that has expired must not be seen by a write either.
        clock.note_applied(at(16), shown(EPOCH + 15, Some(EPOCH + 18)));
        assert_eq!(clock.entry_before_write(at(17)), None);
        assert_eq!(clock.entry_before_write(at(18)), Some(EPOCH + 18));
        clock.leader_changed();
        assert_eq!(clock.entry_before_write(at(18)), Some(EPOCH + 18));
    }

    #[test]
    fn a_reset_is_the_only_way_back() {
        let mut clock = alone();
        clock.note_applied(at(1), shown(EPOCH + HOUR, Some(EPOCH + HOUR + 5)));
        assert!(clock.advance(at(3)) > EPOCH + HOUR);
        let reset = AppliedClock { millis: EPOCH + 4, resets: 1, next_expiry: Some(EPOCH + 7) };
        clock.note_applied(at(4), reset);
        assert_eq!((clock.advance(at(4)), clock.next_due(at(4))), (EPOCH + 4, Some(at(7))));
    }
}
