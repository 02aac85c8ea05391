//! The replicated clock of a simulated replica. Requests wait until the leader knows the wall
//! clocks of a quorum, and reads of a key that has expired wait until an entry that advances the
//! replicated clock is applied.

use std::time::Duration;

use crate::clock::{AppliedClock, ReplicatedClock};
use crate::config::Mutant;
use crate::kv::{Batch, Operation};
use crate::raft::{ClientRequest, Msg, RequestKind};
use crate::sim::machine::Machine;
use crate::types::{Instant, NodeId, RequestKey, Term};

/// The replicated clock of a running replica, and the requests that are waiting for it. It behaves
/// as in the server's core stage.
#[derive(Debug)]
pub(in crate::sim) struct ClockGate {
    clock: ReplicatedClock,
    /// Requests that are waiting until the leader knows the wall clocks of a quorum.
    held: Vec<Msg>,
    /// Reads that are waiting until an entry that advances the replicated clock is applied. Each
    /// comes with the time, in milliseconds since 1970, that the clock must reach first, and the
    /// number of times that the clock had been set back when the read was confirmed.
    pub(in crate::sim) deferred_reads: Vec<(u64, u64, ClientRequest)>,
    /// The term, and its leader (`None` if unknown), as of the replica's last step.
    leader: (Term, Option<NodeId>),
    /// Whether reads skip the wait for the replicated clock: a safety rule that is deliberately
    /// broken to test the checkers (mutation testing).
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

    /// Handles a reading of this machine's wall clock: `wall` milliseconds since 1970. Returns the
    /// time to report to peers, in milliseconds since 1970. That time follows a jump of the wall
    /// clock only once the jump has lasted for some time.
    pub(in crate::sim) fn observe(&mut self, now: Instant, wall: u64) -> Option<u64> {
        self.clock.observe(now, wall);
        self.clock.wall().read(now)
    }

    /// Returns the number of jumps of its wall clock that the replica has detected.
    pub(in crate::sim) fn jumps(&self) -> u64 {
        self.clock.wall().jumps()
    }

    /// Handles a wall clock report: the wall clock of peer `from` shows `millis` milliseconds since
    /// 1970.
    pub(in crate::sim) fn on_report(&mut self, from: NodeId, now: Instant, millis: u64) {
        self.clock.note_report(from, now, millis);
    }

    /// Updates the clock after the state machine has applied entries. `shown` is the replicated
    /// clock in the state machine: the clock's time in milliseconds since 1970, the number of times
    /// that the clock has been set back, and the time of the next expiration of a key (`None` if no
    /// key expires).
    pub(in crate::sim) fn on_applied(&mut self, now: Instant, shown: (u64, u64, Option<u64>)) {
        let (millis, resets, next_expiry) = shown;
        self.clock.note_applied(now, AppliedClock { millis, resets, next_expiry });
        self.clock.set_read_target(self.deferred_reads.iter().map(|(millis, ..)| *millis).max());
    }

    /// Records the current term and leader, as this replica knows them (`leader` is `None` if
    /// unknown). Returns the requests that were waiting, which the replica can handle now; returns
    /// none, and lets the requests wait on, if this replica is leader and does not know the wall
    /// clocks of a quorum yet.
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

    /// If the leader does not know the wall clocks of a quorum yet, queues the request `message`
    /// until it does, and returns `None`. Otherwise returns the request.
    pub(in crate::sim) fn hold(&mut self, now: Instant, term: Term, message: Msg) -> Option<Msg> {
        if self.clock.is_ready(now, term) {
            return Some(message);
        }
        self.held.push(message);
        None
    }

    /// Returns the entry that must be proposed before a write, to advance the replicated clock;
    /// `None` if the clock need not be advanced.
    pub(in crate::sim) fn before_write(&mut self, now: Instant) -> Option<ClientRequest> {
        let millis = self.clock.entry_before_write(now)?;
        Some(self.entry(millis))
    }

    /// Records that the entry that was to advance the replicated clock was not appended at `now`.
    pub(in crate::sim) fn proposal_refused(&mut self, now: Instant) {
        self.clock.proposal_refused(now);
    }

    /// Returns the entry to propose now because a key has expired or reads are waiting: it advances
    /// the replicated clock. `None` if no such entry is needed now.
    pub(in crate::sim) fn due(&mut self, now: Instant) -> Option<ClientRequest> {
        let millis = self.clock.entry_at_expiry(now).or_else(|| self.clock.entry_for_reads(now))?;
        Some(self.entry(millis))
    }

    /// Returns the time at which [`ClockGate::due`] may next return an entry; `None` if no time is
    /// known.
    pub(in crate::sim) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.clock.next_due(now)
    }

    /// Returns two numbers for the reads that are confirmed at `now`: the time, in milliseconds
    /// since 1970, that the replicated clock must have reached before they are executed, and the
    /// number of times that the clock has been set back so far. The reads do not wait if that
    /// number has changed since. Returns zeros if `self.reads_early` is set, so that no read waits.
    pub(in crate::sim) fn for_reads(&mut self, now: Instant) -> (u64, u64) {
        if self.reads_early {
            return (0, 0);
        }
        (self.clock.advance(now), self.clock.applied().resets)
    }

    fn entry(&self, millis: u64) -> ClientRequest {
        let key = RequestKey::default();
        let operation = Operation::Clock { millis, resets: self.clock.applied().resets };
        let payload = Batch::encode(key, false, &[operation]);
        ClientRequest { key, kind: RequestKind::Write, payload }
    }
}
