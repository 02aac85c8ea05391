//! The replicated clock of a simulated replica: requests wait until the wall clocks of a quorum are
//! known, and where a key has expired, reads wait until an entry that advances the clock is
//! applied.

use std::time::Duration;

use crate::clock::{AppliedClock, ReplicatedClock};
use crate::config::Mutant;
use crate::kv::{Batch, Operation};
use crate::raft::{ClientRequest, Msg, RequestKind};
use crate::sim::machine::Machine;
use crate::types::{Instant, NodeId, RequestKey, Term};

/// The replicated clock of a running replica, and the requests that wait for it. Behaves as the
/// server's core stage does.
#[derive(Debug)]
pub(in crate::sim) struct ClockGate {
    clock: ReplicatedClock,
    /// Requests that wait until the leader knows the wall clocks of a quorum.
    held: Vec<Msg>,
    /// Reads that wait until an entry that advances the replicated clock is applied. Each has the
    /// time in milliseconds since 1970 that the clock must have reached, and the number of times
    /// that the clock had been set back when the read was confirmed.
    pub(in crate::sim) deferred_reads: Vec<(u64, u64, ClientRequest)>,
    /// The term and its leader (`None` if unknown) at the replica's last step.
    leader: (Term, Option<NodeId>),
    /// Whether reads do not wait for the replicated clock: a safety rule that is broken on purpose
    /// to test the checkers (mutation testing).
    reads_early: bool,
}

impl ClockGate {
    /// Creates the replicated clock of a replica that starts at the true time `now`.
    pub(in crate::sim) fn start(
        machine: &Machine,
        confirm_after: Duration,
        now: Instant,
    ) -> ClockGate {
        let mut clock = ReplicatedClock::new(&machine.peers, confirm_after);
        if machine.config.breaks(Mutant::FollowWallClock) {
            clock.follow_wall_clock();
        }
        let reading = machine.clock.read(now);
        clock.observe(reading, machine.wall.read(now));
        let (millis, resets, next_expiry) = machine.store.shown();
        clock.note_applied(reading, AppliedClock { millis, resets, next_expiry });
        ClockGate {
            clock,
            held: Vec::new(),
            deferred_reads: Vec::new(),
            leader: (Term(0), None),
            reads_early: machine.config.breaks(Mutant::ReadBeforeClock),
        }
    }

    /// Reads the wall clock, which shows `wall` milliseconds since 1970. Returns the time to report
    /// to peers, in milliseconds since 1970, which follows a jump of the wall clock only once the
    /// jump has lasted for some time.
    pub(in crate::sim) fn observe(&mut self, now: Instant, wall: u64) -> Option<u64> {
        self.clock.observe(now, wall);
        self.clock.wall().read(now)
    }

    /// Returns the number of wall clock jumps that were detected.
    pub(in crate::sim) fn jumps(&self) -> u64 {
        self.clock.wall().jumps()
    }

    /// Handles a wall clock report: peer `from` reads `millis` milliseconds since 1970.
    pub(in crate::sim) fn on_report(&mut self, from: NodeId, now: Instant, millis: u64) {
        self.clock.note_report(from, now, millis);
    }

    /// Updates the clock after the state machine has applied entries. `shown` is what the state
    /// machine now knows of the replicated clock: its time in milliseconds since 1970, the number
    /// of times that it was set back, and the next expiration of a key (`None`: no key expires).
    pub(in crate::sim) fn on_applied(&mut self, now: Instant, shown: (u64, u64, Option<u64>)) {
        let (millis, resets, next_expiry) = shown;
        self.clock.note_applied(now, AppliedClock { millis, resets, next_expiry });
        self.clock.set_read_target(self.deferred_reads.iter().map(|(millis, ..)| *millis).max());
    }

    /// Records the current term and leader, as this replica knows them (`leader` is `None` if
    /// unknown). Returns the held-back requests and no longer holds them, unless this replica leads
    /// and does not know the wall clocks of a quorum yet; then returns none.
    pub(in crate::sim) fn on_leader(
        &mut self,
        now: Instant,
        term: Term,
        leader: Option<NodeId>,
        is_leader: bool,
    ) -> Vec<Msg> {
        if std::mem::replace(&mut self.leader, (term, leader)) != (term, leader) {
            self.clock.leader_changed();
        }
        let waits = is_leader && !self.clock.is_ready(now, term);
        if waits { Vec::new() } else { std::mem::take(&mut self.held) }
    }

    /// Returns the request, or holds it back and returns `None` if the leader does not know the
    /// wall clocks of a quorum yet.
    pub(in crate::sim) fn hold(&mut self, now: Instant, term: Term, message: Msg) -> Option<Msg> {
        if self.clock.is_ready(now, term) {
            return Some(message);
        }
        self.held.push(message);
        None
    }

    /// Returns the entry that advances the replicated clock and must be proposed before a write;
    /// `None` if none is needed.
    pub(in crate::sim) fn before_write(&mut self, now: Instant) -> Option<Msg> {
        let millis = self.clock.entry_before_write(now)?;
        Some(self.entry(millis))
    }

    /// Records that the replica refused the last proposed entry of the clock.
    pub(in crate::sim) fn proposal_refused(&mut self) {
        self.clock.proposal_refused();
    }

    /// Returns the entry of the replicated clock to propose because a key has expired or reads
    /// wait; `None` if none is needed now.
    pub(in crate::sim) fn due(&mut self, now: Instant) -> Option<Msg> {
        let millis = self.clock.entry_at_expiry(now).or_else(|| self.clock.entry_for_reads(now))?;
        Some(self.entry(millis))
    }

    /// Returns the time at which [`ClockGate::due`] may next return an entry; `None` if no time is
    /// known.
    pub(in crate::sim) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.clock.next_due(now)
    }

    /// Returns what reads that are confirmed now must wait for: the time in milliseconds since 1970
    /// that the replicated clock must have reached, and the number of times that the clock has been
    /// set back so far. Returns zeros, so that reads do not wait, if `reads_early` is set.
    pub(in crate::sim) fn for_reads(&mut self, now: Instant) -> (u64, u64) {
        if self.reads_early {
            return (0, 0);
        }
        (self.clock.advance(now), self.clock.applied().resets)
    }

    fn entry(&self, millis: u64) -> Msg {
        let key = RequestKey::default();
        let operation = Operation::Clock { millis, resets: self.clock.applied().resets };
        let payload = Batch::encode(key, false, &[operation]);
        Msg::Client(ClientRequest { key, kind: RequestKind::Write, payload })
    }
}
