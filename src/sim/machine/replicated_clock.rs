//! The replicated clock of a simulated replica: requests wait until the wall clocks of a quorum are
//! known, and reads wait for an entry of the clock where a key has expired.

use std::time::Duration;

use crate::clock::{AppliedClock, ReplicatedClock};
use crate::config::Mutant;
use crate::kv::{Command, Operation};
use crate::raft::{ClientRequest, Msg, RequestKind};
use crate::sim::machine::Machine;
use crate::types::{Instant, NodeId, RequestKey, Term};

/// The replicated clock of a running replica, and the requests that wait for it. It does what the
/// server's core stage does.
#[derive(Debug)]
pub(in crate::sim) struct ClockGate {
    clock: ReplicatedClock,
    /// Requests that arrived before the clocks of a quorum were known.
    held: Vec<Msg>,
    /// Reads that wait for an entry of the clock, with the time that it must have reached, and the
    /// number of clock resets.
    pub(in crate::sim) deferred_reads: Vec<(u64, u64, ClientRequest)>,
    /// Term and leader at the last step.
    leader: (Term, Option<NodeId>),
    /// Breaks the rule that reads wait (mutant).
    reads_early: bool,
}

impl ClockGate {
    /// Creates the clock of a replica that starts at `now`.
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

    /// Reads the wall clock. Returns the time to report to peers, if any.
    pub(in crate::sim) fn observe(&mut self, now: Instant, wall: u64) -> Option<u64> {
        self.clock.observe(now, wall);
        self.clock.wall().read(now)
    }

    /// Number of jumps of the wall clock that were detected.
    pub(in crate::sim) fn jumps(&self) -> u64 {
        self.clock.wall().jumps()
    }

    /// Handles a report of a peer's wall clock.
    pub(in crate::sim) fn on_report(&mut self, from: NodeId, now: Instant, millis: u64) {
        self.clock.note_report(from, now, millis);
    }

    /// Records the clock in the applied state, and the time that deferred reads wait for.
    pub(in crate::sim) fn on_applied(&mut self, now: Instant, shown: (u64, u64, Option<u64>)) {
        let (millis, resets, next_expiry) = shown;
        self.clock.note_applied(now, AppliedClock { millis, resets, next_expiry });
        self.clock.set_read_target(self.deferred_reads.iter().map(|(millis, ..)| *millis).max());
    }

    /// Records the leader. Returns the requests that no longer have to wait.
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

    /// Holds a request back while the leader does not know the clocks of a quorum; else returns it.
    pub(in crate::sim) fn hold(&mut self, now: Instant, term: Term, message: Msg) -> Option<Msg> {
        if self.clock.is_ready(now, term) {
            return Some(message);
        }
        self.held.push(message);
        None
    }

    /// Returns the clock entry to propose before a write, if one is needed.
    pub(in crate::sim) fn before_write(&mut self, now: Instant) -> Option<Msg> {
        let millis = self.clock.entry_before_write(now)?;
        Some(self.entry(millis))
    }

    /// Records that the last proposed entry was refused.
    pub(in crate::sim) fn proposal_refused(&mut self) {
        self.clock.proposal_refused();
    }

    /// Returns the clock entry to propose because a key has expired or reads wait, if any.
    pub(in crate::sim) fn due(&mut self, now: Instant) -> Option<Msg> {
        let millis = self.clock.entry_at_expiry(now).or_else(|| self.clock.entry_for_reads(now))?;
        Some(self.entry(millis))
    }

    /// Time at which [`ClockGate::due`] may return an entry.
    pub(in crate::sim) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.clock.next_due(now)
    }

    /// Returns the time that the clock must have reached for reads confirmed now, and the number of
    /// clock resets.
    pub(in crate::sim) fn for_reads(&mut self, now: Instant) -> (u64, u64) {
        if self.reads_early {
            return (0, 0);
        }
        (self.clock.advance(now), self.clock.applied().resets)
    }

    fn entry(&self, millis: u64) -> Msg {
        let key = RequestKey::default();
        let operation = Operation::Clock { millis, resets: self.clock.applied().resets };
        let payload = Command { key, operation }.encode();
        Msg::Client(ClientRequest { key, kind: RequestKind::Write, payload })
    }
}
