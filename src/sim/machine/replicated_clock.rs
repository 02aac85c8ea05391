//! The replicated clock of a simulated replica. Requests wait until the leader knows the wall
//! clocks of a quorum, and reads of a key that has expired wait until an entry that advances the
//! replicated clock is applied.

use std::time::Duration;

use crate::clock::{AppliedClock, ReplicatedClock};
use crate::config::Mutant;
use crate::kv::{Batch, Operation};
use crate::raft::{ClientRequest, Msg, Replica, RequestKind};
use crate::sim::machine::Machine;
use crate::types::{Instant, NodeId, RequestKey, Term};

/// The replicated clock of a running replica, with the requests that are waiting for it. It works
/// as in the server's core stage, which runs the consensus core.
#[derive(Debug)]
pub(in crate::sim) struct ClockGate {
    clock: ReplicatedClock,
    /// The replica's `members_version` when the clock was last given the members; `None` before
    /// that.
    members_version: Option<u64>,
    /// Client requests that wait until the leader knows the wall clocks of a quorum.
    held: Vec<Msg>,
    /// Reads that wait until the replicated clock has advanced. Each comes with the time that the
    /// clock must reach, in milliseconds since 1970, and with the number of times that the clock
    /// had been set back when the read was confirmed.
    pub(in crate::sim) deferred_reads: Vec<(u64, u64, ClientRequest)>,
    /// The term and its leader (`None` if unknown) at the replica's last step, to detect leader
    /// changes.
    leader: (Term, Option<NodeId>),
    /// Whether reads skip the wait for the replicated clock. True only in mutation tests, which
    /// break this safety rule to test the checkers.
    reads_early: bool,
}

impl ClockGate {
    /// Creates the replicated clock of a replica that starts at the virtual time `now`.
    pub(in crate::sim) fn start(
        machine: &Machine,
        confirm_after: Duration,
        now: Instant,
    ) -> ClockGate {
        let mut clock = ReplicatedClock::new(confirm_after);
        if machine.config.breaks(Mutant::FollowWallClock) {
            clock.follow_wall_clock();
        }
        let reading = machine.clock.read(now);
        clock.observe(reading, machine.wall.read(now));
        let (millis, resets, next_expiry) = machine.store.shown();
        clock.note_applied(reading, AppliedClock { millis, resets, next_expiry });
        ClockGate {
            clock,
            members_version: None,
            held: Vec::new(),
            deferred_reads: Vec::new(),
            leader: (Term(0), None),
            reads_early: machine.config.breaks(Mutant::ReadBeforeClock),
        }
    }

    /// Handles a reading of this machine's wall clock, `wall` milliseconds since 1970. Returns the
    /// time to report to peers, also in milliseconds since 1970, which follows a wall clock jump
    /// only after the jump has lasted for some time.
    pub(in crate::sim) fn observe(&mut self, now: Instant, wall: u64) -> Option<u64> {
        self.clock.observe(now, wall);
        self.clock.wall().read(now)
    }

    /// Returns how many jumps of its wall clock the replica has detected.
    pub(in crate::sim) fn jumps(&self) -> u64 {
        self.clock.wall().jumps()
    }

    /// Handles a report that the wall clock of peer `from` shows `millis` milliseconds since 1970.
    pub(in crate::sim) fn on_report(&mut self, from: NodeId, now: Instant, millis: u64) {
        self.clock.note_report(from, now, millis);
    }

    /// Updates the clock after the state machine has applied entries. The three numbers in `shown`
    /// are the replicated clock's time in milliseconds since 1970, the number of times that the
    /// clock has been set back, and the next expiration time of a key (`None` if no key expires).
    pub(in crate::sim) fn on_applied(&mut self, now: Instant, shown: (u64, u64, Option<u64>)) {
        let (millis, resets, next_expiry) = shown;
        self.clock.note_applied(now, AppliedClock { millis, resets, next_expiry });
        self.clock.set_read_target(self.deferred_reads.iter().map(|(millis, ..)| *millis).max());
    }

    /// Records the current term, its leader and the members. Returns the waiting requests, for the
    /// replica to handle now. Returns none, and keeps the requests waiting, if this replica is the
    /// leader and does not know the wall clocks of a quorum yet.
    pub(in crate::sim) fn follow(&mut self, now: Instant, replica: &Replica) -> Vec<Msg> {
        let (term, leader, is_leader) = (replica.term(), replica.leader(), replica.is_leader());
        let version = replica.members_version();
        if self.members_version.replace(version) != Some(version) {
            let (_, configuration) = replica.configuration();
            let members = configuration.members().iter();
            let members = members.map(|(id, member)| (*id, member.is_voter()));
            self.clock.set_members(replica.id(), members);
        }
        if std::mem::replace(&mut self.leader, (term, leader)) != (term, leader) {
            self.clock.leader_changed();
        }
        let waits = is_leader && !self.clock.is_ready(now, term);
        if waits { Vec::new() } else { std::mem::take(&mut self.held) }
    }

    /// Returns the request `message` if the leader knows the wall clocks of a quorum. Otherwise
    /// queues the request until the leader knows them, and returns `None`.
    pub(in crate::sim) fn hold(&mut self, now: Instant, term: Term, message: Msg) -> Option<Msg> {
        if self.clock.is_ready(now, term) {
            return Some(message);
        }
        self.held.push(message);
        None
    }

    /// Returns the entry to append before a write to advance the replicated clock; `None` if the
    /// clock is recent enough.
    pub(in crate::sim) fn before_write(&mut self, now: Instant) -> Option<ClientRequest> {
        let millis = self.clock.entry_before_write(now)?;
        Some(self.entry(millis))
    }

    /// Records that an entry to advance the replicated clock could not be appended at time `now`.
    pub(in crate::sim) fn proposal_refused(&mut self, now: Instant) {
        self.clock.proposal_refused(now);
    }

    /// Returns the entry to append now to advance the replicated clock, because a key has expired
    /// or reads are waiting; `None` if no entry is needed.
    pub(in crate::sim) fn due(&mut self, now: Instant) -> Option<ClientRequest> {
        let millis = self.clock.entry_at_expiry(now).or_else(|| self.clock.entry_for_reads(now))?;
        Some(self.entry(millis))
    }

    /// Returns the next time at which [`ClockGate::due`] may return an entry; `None` if no time is
    /// known.
    pub(in crate::sim) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.clock.next_due(now)
    }

    /// Returns what reads that are confirmed at `now` must wait for: the time, in milliseconds
    /// since 1970, that the replicated clock must reach, and the number of times that the clock has
    /// been set back so far. If the clock is set back again, the reads do not wait. Returns zeros,
    /// so that no read waits, if `self.reads_early` is set.
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
