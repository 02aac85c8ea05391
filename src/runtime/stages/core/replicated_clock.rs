//! The core's part of the replicated clock: it reads the wall clock, collects the wall clock times
//! that peers report, and proposes the log entries that [`crate::clock`] requests.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{AppliedClock, CONFIRM_AFTER, Jump, ReplicatedClock};
use crate::kv::{Batch, Operation};
use crate::membership::Configuration;
use crate::raft::{ClientRequest, Msg, RequestKind};
use crate::runtime::boards::{ClockBoard, ClockReadings};
use crate::runtime::channels::{ForwardedWrite, ReadTimestamp};
use crate::runtime::clock::Clock;
use crate::types::{Instant, NodeId, RequestKey, Term};

/// Minimum time between two readings of the wall clock.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(10);
/// Minimum time between two publications of the clock readings for the other stages.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of batches of clients' requests that a new leader holds until it knows the wall
/// clocks of a quorum. The same maximum applies to forwarded writes. At the maximum, further
/// requests are refused, and repeated copies of forwarded writes are dropped.
const HELD_MAX: usize = 256;
/// Clock difference in milliseconds at which a warning is logged. This is the difference, in either
/// direction, between this replica's wall clock and the time that a quorum agrees on, or the amount
/// by which the replicated clock (which decides when keys expire) is ahead of that time.
const WARN_MILLIS: i64 = 1_000;
/// Minimum number of milliseconds by which the replicated clock (which decides when keys expire)
/// must be ahead of the time that a quorum agrees on before `CLOCK RESET` sets the replicated clock
/// back.
const RESET_MIN_MILLIS: u64 = 1_000;

/// The core's part of the replicated clock (the time that decides when keys expire), with the
/// requests that a new leader holds until it knows the wall clocks of a quorum.
#[derive(Debug)]
pub(crate) struct CoreClock {
    clock: ReplicatedClock,
    board: Arc<ClockBoard>,
    observed_at: Option<Instant>,
    published_at: Option<Instant>,
    /// Whether a warning about the current clock difference has been logged. Each difference is
    /// logged only once.
    warned: bool,
    /// Requests that arrived before this replica, as a new leader, knew the wall clocks of a
    /// quorum, in order of arrival.
    held: Vec<Msg>,
    held_forwarded: Vec<ForwardedWrite>,
}

impl CoreClock {
    /// Creates the core's part of the replicated clock (which decides when keys expire). `applied`
    /// is the reading of the replicated clock in the replica's applied state.
    pub(crate) fn new(board: Arc<ClockBoard>, applied: AppliedClock, clock: &Clock) -> CoreClock {
        let mut this = CoreClock {
            clock: ReplicatedClock::new(CONFIRM_AFTER),
            board,
            observed_at: None,
            published_at: None,
            warned: false,
            held: Vec::new(),
            held_forwarded: Vec::new(),
        };
        this.note_applied(clock.now(), applied);
        this
    }

    /// Sets the members of the cluster, whose wall clocks the replicated clock follows. `me` is
    /// this replica.
    pub(super) fn set_members(&mut self, me: NodeId, configuration: &Configuration) {
        let members = configuration.members().iter();
        self.clock.set_members(me, members.map(|(id, member)| (*id, member.is_voter())));
        // The agreed time may be another one now.
        self.published_at = None;
    }

    /// Processes peers' reports of their wall clocks. If due, also reads this replica's wall clock
    /// and publishes the readings for the other stages. Must be called at the beginning of each
    /// iteration of the core's loop.
    pub(super) fn tick(&mut self, now: Instant, clock: &Clock) {
        while let Some((from, at, millis)) = self.board.next_report() {
            self.clock.note_report(from, at, millis);
        }
        if self.observed_at.is_none_or(|at| now >= at + OBSERVE_INTERVAL)
            && let Some((at, wall)) = clock.wall_millis()
        {
            self.observed_at = Some(now);
            match self.clock.observe(at, wall) {
                Some(Jump::Seen(by)) => tracing::warn!(
                    by_ms = by,
                    "wall clock jumped; the jump counts once it has lasted {} s",
                    CONFIRM_AFTER.as_secs()
                ),
                Some(Jump::Accepted(by)) => {
                    tracing::warn!(by_ms = by, "wall clock jump accepted: it has lasted");
                }
                Some(Jump::Undone) => tracing::info!(
                    "wall clock jump undone: the clock has returned to its earlier course"
                ),
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
        let replicated = self.clock.advance(now);
        let jumps = self.clock.wall().jumps();
        let resets = self.clock.applied().resets;
        let readings = ClockReadings { own, agreed, replicated, jumps, resets };
        self.board.publish(now, readings, self.clock.peers_ahead(now));
        let difference = |one: u64, other: u64| {
            i64::try_from(one).unwrap_or(i64::MAX) - i64::try_from(other).unwrap_or(i64::MAX)
        };
        let Some((own, agreed)) = own.zip(agreed) else { return };
        let (own_ahead, ahead) = (difference(own, agreed), difference(replicated, agreed));
        let differs = own_ahead.abs() >= WARN_MILLIS || ahead >= WARN_MILLIS;
        if differs && !self.warned {
            tracing::warn!(
                wall_clock_ahead_ms = own_ahead,
                replicated_clock_ahead_ms = ahead,
                "clocks differ from the time that the wall clocks of a quorum agree on; set this \
                 machine's clock, or use CLOCK RESET if it is the replicated clock"
            );
        }
        self.warned = differs;
    }

    /// Records that the replicated clock (which decides when keys expire) in this replica's applied
    /// state shows `applied` at the time `now`.
    pub(super) fn note_applied(&mut self, now: Instant, applied: AppliedClock) {
        self.clock.note_applied(now, applied);
    }

    /// Sets the time, in milliseconds since 1970, that the replicated clock (which decides when
    /// keys expire) must reach for the reads that are waiting in the applier; `None` if no reads
    /// are waiting.
    pub(super) fn set_read_target(&mut self, millis: Option<u64>) {
        self.clock.set_read_target(millis);
    }

    /// Records that, at `now`, the last proposed clock entry (log entry that advances the
    /// replicated clock) was refused instead of being appended to the log.
    pub(super) fn proposal_refused(&mut self, now: Instant) {
        self.clock.proposal_refused(now);
    }

    /// Records a leader change, in which the last proposed clock entry (log entry that advances the
    /// replicated clock) may have been lost.
    pub(super) fn leader_changed(&mut self) {
        self.clock.leader_changed();
    }

    /// Returns the reading that the replicated clock (which decides when keys expire) in the
    /// applied state must reach before reads confirmed at `now` are answered.
    pub(super) fn for_reads(&mut self, now: Instant) -> ReadTimestamp {
        ReadTimestamp { millis: self.clock.advance(now), resets: self.clock.applied().resets }
    }

    /// Returns the clock entry (log entry that advances the replicated clock) to be proposed before
    /// a write that arrives at `now`; `None` if the clock need not advance.
    pub(super) fn before_write(&mut self, now: Instant) -> Option<ClientRequest> {
        let millis = self.clock.entry_before_write(now)?;
        Some(self.entry(millis))
    }

    /// Returns the clock entry (log entry that advances the replicated clock) that must be proposed
    /// now because a key has expired or reads are waiting for the clock; `None` if no entry is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<ClientRequest> {
        let millis = self.clock.entry_at_expiry(now).or_else(|| self.clock.entry_for_reads(now))?;
        Some(self.entry(millis))
    }

    /// Returns the earliest time at which [`CoreClock::due`] may return an entry; `None` if no key
    /// expires and no reads are waiting.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.clock.next_due(now)
    }

    fn entry(&self, millis: u64) -> ClientRequest {
        // No client waits for the entry, so it does not have the key of a request.
        let key = RequestKey::default();
        let operation = Operation::Clock { millis, resets: self.clock.applied().resets };
        let payload = Batch::encode(key, false, &[operation]);
        ClientRequest { key, kind: RequestKind::Write, payload }
    }

    /// Sets the new time in a `CLOCK RESET` request. If the replicated clock (which decides when
    /// keys expire) is ahead of the time that a quorum agrees on by at least [`RESET_MIN_MILLIS`],
    /// the new time is the agreed time (0 if unknown); otherwise it is the replicated clock's
    /// current time.
    pub(super) fn fill_reset(&mut self, now: Instant, request: &mut ClientRequest) {
        let time = self.clock.advance(now);
        let agreed = self.clock.agreed(now).unwrap_or(0);
        let is_ahead = time.saturating_sub(agreed) >= RESET_MIN_MILLIS;
        let millis = if is_ahead { agreed } else { time };
        // A malformed batch, which can only come from a peer, has no effect when it is applied.
        if let Ok(filled) = Batch::with_reset_time(&request.payload, millis) {
            request.payload = filled;
        }
        if is_ahead && agreed > 0 {
            tracing::warn!(
                ahead_ms = time - agreed,
                "replicated clock reset to the time that the wall clocks of a quorum agree on"
            );
        }
    }

    /// Returns whether requests must wait because this replica, the leader of `term`, does not yet
    /// know the wall clocks of a quorum.
    pub(super) fn must_wait(&mut self, now: Instant, term: Term) -> bool {
        !self.clock.is_ready(now, term)
    }

    /// Holds a request until the wall clocks of a quorum are known. If too many requests are held
    /// already, returns the request as the error.
    pub(super) fn hold(&mut self, message: Msg) -> Result<(), Msg> {
        if self.held.len() >= HELD_MAX {
            return Err(message);
        }
        self.held.push(message);
        Ok(())
    }

    /// Holds a forwarded write until the wall clocks of a quorum are known. If too many writes are
    /// held already, returns the write as the error.
    pub(super) fn hold_forwarded(&mut self, write: ForwardedWrite) -> Result<(), ForwardedWrite> {
        if self.held_forwarded.len() >= HELD_MAX {
            return Err(write);
        }
        self.held_forwarded.push(write);
        Ok(())
    }

    /// Returns whether any requests or forwarded writes are being held until the wall clocks of a
    /// quorum are known.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty() || !self.held_forwarded.is_empty()
    }

    /// Removes and returns everything that was held until the wall clocks of a quorum were known:
    /// first the forwarded writes, then the requests.
    pub(super) fn release(&mut self) -> (Vec<ForwardedWrite>, Vec<Msg>) {
        (std::mem::take(&mut self.held_forwarded), std::mem::take(&mut self.held))
    }

    /// Queues a report that the wall clock of the peer `from` showed `millis` (milliseconds since
    /// 1970) when this replica's monotonic clock showed `now`.
    #[cfg(test)]
    pub(super) fn report(&mut self, from: NodeId, now: Instant, millis: u64) {
        self.board.report(from, now, millis);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClientId, RequestId};

    #[test]
    fn clock_reset_sets_a_clock_that_is_ahead_to_the_agreed_time() {
        let board = Arc::<ClockBoard>::default();
        let clock = Clock::start();
        let applied = AppliedClock::default();
        let mut core = CoreClock::new(Arc::clone(&board), applied, &clock);
        core.set_members(NodeId(1), &Configuration::of_voters([1, 2].map(NodeId)));
        let key = RequestKey { client: ClientId(1), request: RequestId([1; 16]) };
        let filled = |core: &mut CoreClock, now| {
            let payload = Batch::one(key, &Operation::ResetClock { millis: 0 });
            assert!(Batch::resets_clock(&payload));
            let mut request = ClientRequest { key, kind: RequestKind::Write, payload };
            core.fill_reset(now, &mut request);
            let batch = Batch::decode(&request.payload).unwrap();
            match batch.operations().collect::<Vec<_>>()[..] {
                [Some(Operation::ResetClock { millis })] => millis,
                ref other => panic!("{other:?}"),
            }
        };
        let now = clock.now();
        let ahead = 1 << 50;
        core.note_applied(now, AppliedClock { millis: ahead, resets: 0, next_expiry: None });
        assert_eq!(filled(&mut core, now), 0, "the peer's clock is not known");
        let (_, wall) = clock.wall_millis().expect("two readings close together");
        board.report(NodeId(2), now, wall);
        core.tick(clock.now(), &clock);
        let agreed = filled(&mut core, now);
        assert!(agreed > 0 && agreed <= wall + 1_000, "{agreed} at {wall}");
        core.note_applied(now, AppliedClock { millis: agreed, resets: 1, next_expiry: None });
        assert!(filled(&mut core, now) >= agreed);
    }
}
