//! The replicated clock in the server: the core observes the wall clock, hears what peers report of
//! theirs, and has the log say what [`crate::clock`] decides. Beside it the board by which network
//! and core tell each other of clocks.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::clock::{AppliedClock, CONFIRM_AFTER, Jump, ReplicatedClock};
use crate::kv::{Command, Operation, StateMachine};
use crate::raft::{ClientRequest, Msg, RequestKind};
use crate::types::{Instant, NodeId, RequestKey, Term};

use crate::runtime::boards::{ClockBoard, write_offset};
use crate::runtime::channels::{ForwardedWrite, ReadTimestamp};
use crate::runtime::clock::Clock;

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
/// The core's replicated clock, with the requests that must wait for it.
#[derive(Debug)]
pub(crate) struct CoreClock {
    clock: ReplicatedClock,
    peers: Vec<NodeId>,
    board: Arc<ClockBoard>,
    observed_at: Option<Instant>,
    published_at: Option<Instant>,
    /// What was said of it in the log: whether it differs much from the own wall clock.
    told: bool,
    /// Requests that came before the clocks of a quorum were known, in order.
    held: Vec<Msg>,
    held_forwarded: Vec<ForwardedWrite>,
}

impl CoreClock {
    /// The same with a board of its own.
    pub(crate) fn with_board(
        peers: &[NodeId],
        store: &StateMachine,
        clock: &Clock,
    ) -> (Arc<ClockBoard>, CoreClock) {
        let board = Arc::<ClockBoard>::default();
        (Arc::clone(&board), CoreClock::new(peers, board, store, clock))
    }

    /// The clock of a replica with these peers that has found this state on its disk.
    pub(crate) fn new(
        peers: &[NodeId],
        board: Arc<ClockBoard>,
        store: &StateMachine,
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
    pub(crate) fn hear(&mut self, from: NodeId, now: Instant, millis: u64) {
        self.board.hear(from, now, millis);
    }

    /// Looks at clocks, at the beginning of a pass.
    pub(crate) fn tick(&mut self, now: Instant, clock: &Clock) {
        if self.board.has_reports.swap(false, Ordering::Acquire) {
            let mut reports = self.board.reports.lock().unwrap_or_else(PoisonError::into_inner);
            for (from, at, millis) in reports.drain(..) {
                self.clock.note_report(from, at, millis);
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
        let time = self.clock.advance(now);
        write_offset(&self.board.own, now, own);
        write_offset(&self.board.agreed, now, agreed);
        write_offset(&self.board.replicated, now, Some(time));
        self.board.jumps.store(self.clock.wall().jumps(), Ordering::Relaxed);
        // After the clock: a reader that sees this flag sees no older clock.
        self.board.resets.store(self.clock.applied().resets, Ordering::Release);
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
    pub(crate) fn note(&mut self, now: Instant, shown: AppliedClock) {
        self.clock.note_applied(now, shown);
    }

    /// Reads wait in the applier until the clock shows so much.
    pub(crate) fn want(&mut self, millis: Option<u64>) {
        self.clock.set_read_target(millis);
    }

    /// The log did not take in what was proposed last.
    pub(crate) fn proposal_refused(&mut self) {
        self.clock.proposal_refused();
    }

    /// Another replica leads now, or this one has just begun to.
    pub(crate) fn leader_changed(&mut self) {
        self.clock.leader_changed();
    }

    /// What a state must show from which reads are answered that were let go now.
    pub(crate) fn for_reads(&mut self, now: Instant) -> ReadTimestamp {
        ReadTimestamp { millis: self.clock.advance(now), resets: self.clock.applied().resets }
    }

    /// What goes to the log before a write that has come now.
    pub(crate) fn before_write(&mut self, now: Instant) -> Option<ClientRequest> {
        let millis = self.clock.entry_before_write(now)?;
        Some(self.entry(millis))
    }

    /// What goes to the log because a key has expired, or because reads wait for it.
    pub(crate) fn due(&mut self, now: Instant) -> Option<ClientRequest> {
        let millis = self.clock.entry_at_expiry(now).or_else(|| self.clock.entry_for_reads(now))?;
        Some(self.entry(millis))
    }

    /// When [`CoreClock::due`] may have something.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.clock.next_due(now)
    }

    fn entry(&self, millis: u64) -> ClientRequest {
        // Nobody's request: no client waits for it.
        let key = RequestKey::default();
        let operation = Operation::Clock { millis, resets: self.clock.applied().resets };
        let payload = Command { key, operation }.encode();
        ClientRequest { key, kind: RequestKind::Write, payload }
    }

    /// Fills the agreed time into a request that resets the clock; 0 if that is not known, and the
    /// time that the clock shows if it is not ahead.
    pub(crate) fn fill_reset(&mut self, now: Instant, request: &mut ClientRequest) {
        let time = self.clock.advance(now);
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
    pub(crate) fn must_wait(&mut self, now: Instant, term: Term) -> bool {
        !self.clock.is_ready(now, term)
    }

    /// Holds a request; gives it back if too many are held.
    pub(crate) fn hold(&mut self, message: Msg) -> Result<(), Msg> {
        if self.held.len() >= HELD_MAX {
            return Err(message);
        }
        self.held.push(message);
        Ok(())
    }

    /// The same for one that was passed on.
    pub(crate) fn hold_forwarded(&mut self, write: ForwardedWrite) -> Result<(), ForwardedWrite> {
        if self.held_forwarded.len() >= HELD_MAX {
            return Err(write);
        }
        self.held_forwarded.push(write);
        Ok(())
    }

    /// Whether requests are held.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty() || !self.held_forwarded.is_empty()
    }

    /// All requests that are held.
    pub(crate) fn release(&mut self) -> (Vec<ForwardedWrite>, Vec<Msg>) {
        (std::mem::take(&mut self.held_forwarded), std::mem::take(&mut self.held))
    }
}

/// The replicated clock as a state has it.
pub(crate) fn shown_by(store: &StateMachine) -> AppliedClock {
    let (millis, resets, next_expiry) = store.shown();
    AppliedClock { millis, resets, next_expiry }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::boards::REPORTS_MAX;
    use crate::types::{ClientId, RequestId};

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    #[test]
    fn a_board_translates_offsets_and_knows_what_it_does_not_know() {
        let board = ClockBoard::default();
        assert_eq!((board.own(at(5)), board.agreed(at(5))), (None, None));
        write_offset(&board.own, at(5), Some(1_005));
        assert_eq!(board.own(at(7)), Some(1_007));
        write_offset(&board.own, at(5), None);
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
        let mut core =
            CoreClock::new(&[NodeId(2)], Arc::clone(&board), &StateMachine::default(), &clock);
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
        core.note(now, AppliedClock { millis: ahead, resets: 0, next_expiry: None });
        assert_eq!(filled(&mut core, now), 0, "the peer's clock is not known");
        let (_, wall) = clock.wall_millis().expect("two readings that lie close together");
        board.hear(NodeId(2), now, wall);
        core.tick(clock.now(), &clock);
        let agreed = filled(&mut core, now);
        assert!(agreed > 0 && agreed <= wall + 1_000, "{agreed} at {wall}");
        core.note(now, AppliedClock { millis: agreed, resets: 1, next_expiry: None });
        assert!(filled(&mut core, now) >= agreed);
    }
}
