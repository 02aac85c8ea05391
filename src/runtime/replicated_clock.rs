//! The replicated clock in the server: the core observes the wall clock, hears what peers report of
//! theirs, and has the log say what [`crate::clock`] decides. Beside it the board by which network
//! and core tell each other of clocks.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{CONFIRM_AFTER, Jump, ReplicatedClock, Shown};
use crate::kv::{Command, Operation, Store};
use crate::raft::{ClientRequest, Msg, RequestKind};
use crate::types::{Instant, NodeId, RequestKey, Term};

use super::channels::{Forwarded, ReadClock};
use super::clock::Clock;

/// How often the wall clock is looked at, while there are passes.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(10);
/// How often the board is brought up to date for INFO and the log.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// Most requests that wait for the clocks of a quorum; more are refused.
const HELD_MAX: usize = 4_096;
/// By how many milliseconds the agreed time must differ from the own wall clock, or the replicated
/// clock from the agreed time, to be worth a warning.
const WARN_MILLIS: i64 = 1_000;
/// A clock that is less far ahead is not reset.
const RESET_MIN: u64 = 1_000;
/// Reports of peers that wait for the core; more are dropped, for newer ones follow.
const REPORTS_MAX: usize = 256;
/// An offset that is not known.
const UNKNOWN: i64 = i64::MIN;

/// What network and core tell each other of clocks, beside the path of requests. Offsets are to
/// this process's monotonic clock, in milliseconds.
#[derive(Debug)]
pub(super) struct ClockBoard {
    own: AtomicI64,
    agreed: AtomicI64,
    replicated: AtomicI64,
    jumps: AtomicU64,
    resets: AtomicU64,
    /// From peers, for the core.
    reports: Mutex<Vec<(NodeId, Instant, u64)>>,
    has_reports: AtomicBool,
    /// How far each peer's wall clock is ahead of the own one.
    peers: Mutex<Vec<(NodeId, Option<i64>)>>,
}

impl Default for ClockBoard {
    fn default() -> ClockBoard {
        ClockBoard {
            own: AtomicI64::new(UNKNOWN),
            agreed: AtomicI64::new(UNKNOWN),
            replicated: AtomicI64::new(UNKNOWN),
            jumps: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            reports: Mutex::default(),
            has_reports: AtomicBool::new(false),
            peers: Mutex::default(),
        }
    }
}

impl ClockBoard {
    /// Takes in a peer's report of its wall clock.
    pub(super) fn hear(&self, from: NodeId, now: Instant, millis: u64) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() < REPORTS_MAX {
            reports.push((from, now, millis));
        }
        self.has_reports.store(true, Ordering::Release);
    }

    /// The own wall clock, jumps filtered out, in milliseconds since 1970; `None` if unknown.
    pub(super) fn own(&self, now: Instant) -> Option<u64> {
        read(&self.own, now)
    }

    /// What a quorum's wall clocks have reached.
    pub(super) fn agreed(&self, now: Instant) -> Option<u64> {
        read(&self.agreed, now)
    }

    /// What the replicated clock shows by now, as far as this replica knows.
    pub(super) fn replicated(&self, now: Instant) -> Option<u64> {
        read(&self.replicated, now)
    }

    /// Jumps of the own wall clock, and resets of the replicated clock.
    pub(super) fn jumps_and_resets(&self) -> (u64, u64) {
        (self.jumps.load(Ordering::Relaxed), self.resets.load(Ordering::Acquire))
    }

    /// How far each peer's wall clock is ahead of the own one, in milliseconds.
    pub(super) fn peers(&self) -> Vec<(NodeId, Option<i64>)> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn millis_of(now: Instant) -> i64 {
    i64::try_from(now.0 / 1_000_000).expect("2^64 nanoseconds are 2^44 milliseconds")
}

fn read(offset: &AtomicI64, now: Instant) -> Option<u64> {
    let offset = Some(offset.load(Ordering::Relaxed)).filter(|offset| *offset != UNKNOWN)?;
    u64::try_from(offset.saturating_add(millis_of(now))).ok()
}

fn write(offset: &AtomicI64, now: Instant, millis: Option<u64>) {
    let known = millis.and_then(|millis| i64::try_from(millis).ok());
    offset.store(known.map_or(UNKNOWN, |millis| millis - millis_of(now)), Ordering::Relaxed);
}

/// The core's replicated clock, with the requests that must wait for it.
#[derive(Debug)]
pub(super) struct CoreClock {
    clock: ReplicatedClock,
    peers: Vec<NodeId>,
    board: Arc<ClockBoard>,
    observed_at: Option<Instant>,
    published_at: Option<Instant>,
    /// What was said of it in the log: whether it differs much from the own wall clock.
    told: bool,
    /// Requests that came before the clocks of a quorum were known, in order.
    held: Vec<Msg>,
    held_forwarded: Vec<Forwarded>,
}

impl CoreClock {
    /// The same with a board of its own.
    pub(super) fn with_board(
        peers: &[NodeId],
        store: &Store,
        clock: &Clock,
    ) -> (Arc<ClockBoard>, CoreClock) {
        let board = Arc::<ClockBoard>::default();
        (Arc::clone(&board), CoreClock::new(peers, board, store, clock))
    }

    /// The clock of a replica with these peers that has found this state on its disk.
    pub(super) fn new(
        peers: &[NodeId],
        board: Arc<ClockBoard>,
        store: &Store,
        clock: &Clock,
    ) -> CoreClock {
        let mut this = CoreClock {
            clock: ReplicatedClock::new(peers, CONFIRM_AFTER),
            peers: peers.to_vec(),
            board,
            observed_at: None,
            published_at: None,
            told: false,
            held: Vec::new(),
            held_forwarded: Vec::new(),
        };
        let now = clock.now();
        this.note(now, shown_by(store));
        // Peers are told of it before the core's first pass.
        this.tick(now, clock);
        this
    }

    /// Takes in a peer's report of its wall clock.
    #[cfg(test)]
    pub(super) fn hear(&mut self, from: NodeId, now: Instant, millis: u64) {
        self.board.hear(from, now, millis);
    }

    /// Looks at clocks, at the beginning of a pass.
    pub(super) fn tick(&mut self, now: Instant, clock: &Clock) {
        if self.board.has_reports.swap(false, Ordering::Acquire) {
            let mut reports = self.board.reports.lock().unwrap_or_else(PoisonError::into_inner);
            for (from, at, millis) in reports.drain(..) {
                self.clock.hear(from, at, millis);
            }
        }
        if self.observed_at.is_none_or(|at| now >= at + OBSERVE_INTERVAL)
            && let Some((at, wall)) = clock.wall_millis()
        {
            self.observed_at = Some(now);
            match self.clock.observe(at, wall) {
                Some(Jump::Seen(by)) => tracing::warn!(
                    by_ms = by,
                    "the wall clock jumped; it is not believed until the jump has lasted {} s",
                    CONFIRM_AFTER.as_secs()
                ),
                Some(Jump::Accepted(by)) => {
                    tracing::warn!(by_ms = by, "the wall clock's jump has lasted and is believed");
                }
                Some(Jump::Undone) => tracing::info!("the wall clock's jump was undone"),
                None => {}
            }
        }
        if self.published_at.is_none_or(|at| now >= at + PUBLISH_INTERVAL) {
            self.published_at = Some(now);
            self.publish(now);
        }
    }

    fn publish(&mut self, now: Instant) {
        let (own, agreed) = (self.clock.wall().read(now), self.clock.agreed(now));
        let time = self.clock.time(now);
        write(&self.board.own, now, own);
        write(&self.board.agreed, now, agreed);
        write(&self.board.replicated, now, Some(time));
        self.board.jumps.store(self.clock.wall().jumps(), Ordering::Relaxed);
        // After the clock: a reader that sees this flag sees no older clock.
        self.board.resets.store(self.clock.shown().resets, Ordering::Release);
        let ahead = self.peers.iter().map(|&peer| (peer, self.clock.ahead_of_own(peer, now)));
        *self.board.peers.lock().unwrap_or_else(PoisonError::into_inner) = ahead.collect();
        let difference = |one: u64, other: u64| {
            i64::try_from(one).unwrap_or(i64::MAX) - i64::try_from(other).unwrap_or(i64::MAX)
        };
        let Some((own, agreed)) = own.zip(agreed) else { return };
        let (own_ahead, ahead) = (difference(own, agreed), difference(time, agreed));
        let differs = own_ahead.abs() >= WARN_MILLIS || ahead >= WARN_MILLIS;
        if differs && !self.told {
            tracing::warn!(
                wall_clock_ahead_ms = own_ahead,
                replicated_clock_ahead_ms = ahead,
                "clocks differ from the time that the wall clocks of a quorum agree on; set this \
                 machine's clock, or use CLOCK RESET if it is the replicated clock"
            );
        }
        self.told = differs;
    }

    /// Takes in what the state shows.
    pub(super) fn note(&mut self, now: Instant, shown: Shown) {
        self.clock.note(now, shown);
    }

    /// Reads wait in the applier until the clock shows so much.
    pub(super) fn want(&mut self, millis: Option<u64>) {
        self.clock.want(millis);
    }

    /// The log did not take in what was proposed last.
    pub(super) fn proposal_refused(&mut self) {
        self.clock.proposal_refused();
    }

    /// Another replica leads now, or this one has just begun to.
    pub(super) fn leader_changed(&mut self) {
        self.clock.leader_changed();
    }

    /// What a state must show from which reads are answered that were let go now.
    pub(super) fn for_reads(&mut self, now: Instant) -> ReadClock {
        ReadClock { millis: self.clock.time(now), resets: self.clock.shown().resets }
    }

    /// What goes to the log before a write that has come now.
    pub(super) fn before_write(&mut self, now: Instant) -> Option<ClientRequest> {
        let millis = self.clock.before_write(now)?;
        Some(self.entry(millis))
    }

    /// What goes to the log because a key has expired, or because reads wait for it.
    pub(super) fn due(&mut self, now: Instant) -> Option<ClientRequest> {
        let millis = self.clock.at_expiry(now).or_else(|| self.clock.for_reads(now))?;
        Some(self.entry(millis))
    }

    /// When [`CoreClock::due`] may have something.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.clock.next_due(now)
    }

    fn entry(&self, millis: u64) -> ClientRequest {
        // Nobody's request: no client waits for it.
        let key = RequestKey::default();
        let operation = Operation::Clock { millis, resets: self.clock.shown().resets };
        let payload = Command { key, operation }.encode();
        ClientRequest { key, kind: RequestKind::Write, payload }
    }

    /// Fills the agreed time into a request that resets the clock; 0 if that is not known, and the
    /// time that the clock shows if it is not ahead.
    pub(super) fn fill_reset(&mut self, now: Instant, request: &mut ClientRequest) {
        let time = self.clock.time(now);
        let agreed = self.clock.agreed(now).unwrap_or(0);
        let is_ahead = time.saturating_sub(agreed) >= RESET_MIN;
        let operation = Operation::ResetClock { millis: if is_ahead { agreed } else { time } };
        request.payload = Command { key: request.key, operation }.encode();
        if is_ahead && agreed > 0 {
            tracing::warn!(ahead_ms = time - agreed, "the replicated clock is reset");
        }
    }

    /// Whether requests must wait at this replica, which leads `term`, until it knows the clocks of
    /// a quorum.
    pub(super) fn must_wait(&mut self, now: Instant, term: Term) -> bool {
        !self.clock.is_ready(now, term)
    }

    /// Holds a request; gives it back if too many are held.
    pub(super) fn hold(&mut self, message: Msg) -> Result<(), Msg> {
        if self.held.len() >= HELD_MAX {
            return Err(message);
        }
        self.held.push(message);
        Ok(())
    }

    /// The same for one that was passed on.
    pub(super) fn hold_forwarded(&mut self, write: Forwarded) -> Result<(), Forwarded> {
        if self.held_forwarded.len() >= HELD_MAX {
            return Err(write);
        }
        self.held_forwarded.push(write);
        Ok(())
    }

    /// Whether requests are held.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty() || !self.held_forwarded.is_empty()
    }

    /// All requests that are held.
    pub(super) fn release(&mut self) -> (Vec<Forwarded>, Vec<Msg>) {
        (std::mem::take(&mut self.held_forwarded), std::mem::take(&mut self.held))
    }
}

/// The replicated clock as a state has it.
pub(super) fn shown_by(store: &Store) -> Shown {
    let (millis, resets, next_expiry) = store.shown();
    Shown { millis, resets, next_expiry }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClientId, RequestId};

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    #[test]
    fn a_board_translates_offsets_and_knows_what_it_does_not_know() {
        let board = ClockBoard::default();
        assert_eq!((board.own(at(5)), board.agreed(at(5))), (None, None));
        write(&board.own, at(5), Some(1_005));
        assert_eq!(board.own(at(7)), Some(1_007));
        write(&board.own, at(5), None);
        assert_eq!(board.own(at(7)), None);
        for number in 0..2 * REPORTS_MAX {
            board.hear(NodeId(2), at(number as u64), 7);
        }
        assert_eq!(board.reports.lock().unwrap().len(), REPORTS_MAX);
    }

    #[test]
    fn a_reset_gets_the_agreed_time_and_only_where_the_clock_is_ahead() {
        let board = Arc::<ClockBoard>::default();
        let clock = Clock::start();
        let mut core = CoreClock::new(&[NodeId(2)], Arc::clone(&board), &Store::default(), &clock);
        let key = RequestKey { client: ClientId(1), request: RequestId([1; 16]) };
        let filled = |core: &mut CoreClock, now| {
            let payload = Command { key, operation: Operation::ResetClock { millis: 0 } }.encode();
            assert!(Command::resets_clock(&payload));
            let mut request = ClientRequest { key, kind: RequestKind::Write, payload };
            core.fill_reset(now, &mut request);
            match Command::decode(&request.payload).unwrap().operation {
                Operation::ResetClock { millis } => millis,
                other => panic!("{other:?}"),
            }
        };
        let now = clock.now();
        let ahead = 1 << 50;
        core.note(now, Shown { millis: ahead, resets: 0, next_expiry: None });
        assert_eq!(filled(&mut core, now), 0, "the peer's clock is not known");
        let (_, wall) = clock.wall_millis().expect("two readings that lie close together");
        board.hear(NodeId(2), now, wall);
        core.tick(clock.now(), &clock);
        let agreed = filled(&mut core, now);
        assert!(agreed > 0 && agreed <= wall + 1_000, "{agreed} at {wall}");
        core.note(now, Shown { millis: agreed, resets: 1, next_expiry: None });
        assert!(filled(&mut core, now) >= agreed);
    }
}
