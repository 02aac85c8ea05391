//! Wall clocks of simulated machines, and the stage of a simulated replica that moves the
//! replicated clock, as the server's core stage does it: requests wait for the clocks of a quorum,
//! reads for an entry where a key has expired.

use std::time::Duration;

use crate::clock::{AppliedClock, ReplicatedClock};
use crate::config::Mutant;
use crate::kv::{Command, Operation};
use crate::raft::{ClientRequest, Msg, RequestKind};
use crate::sim::machine::Machine;
use crate::types::{Instant, NodeId, RequestKey, Term};

/// The right wall clock at the true time zero, in milliseconds since 1970.
pub const EPOCH: u64 = 1_700_000_000_000;

/// The right wall clock, in milliseconds since 1970.
pub fn right_clock(now: Instant) -> u64 {
    EPOCH + now.0 / 1_000_000
}

/// A machine's wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wall {
    /// By how many milliseconds it is ahead of the right one.
    pub skew: i64,
    /// The same in addition, for a moment.
    pub glitch: i64,
}

impl Wall {
    /// What it shows, in milliseconds since 1970.
    pub fn read(&self, now: Instant) -> u64 {
        right_clock(now).saturating_add_signed(self.skew.saturating_add(self.glitch))
    }
}

/// The replicated clock of a replica that runs, and what waits for it.
#[derive(Debug)]
pub(in crate::sim) struct ClockStage {
    clock: ReplicatedClock,
    /// Requests that came before the clocks of a quorum were known.
    held: Vec<Msg>,
    /// Reads that wait for an entry, with what the clock must show for them, and how often it had
    /// been reset.
    pub(in crate::sim) unclocked: Vec<(u64, u64, ClientRequest)>,
    leader: (Term, Option<NodeId>),
    reads_early: bool,
}

impl ClockStage {
    /// The stage of a replica that starts now, on its state.
    pub(in crate::sim) fn start(
        machine: &Machine,
        confirm_after: Duration,
        now: Instant,
    ) -> ClockStage {
        let mut clock = ReplicatedClock::new(&machine.peers, confirm_after);
        if machine.config.breaks(Mutant::FollowWallClock) {
            clock.follow_wall_clock();
        }
        let reading = machine.clock.read(now);
        clock.observe(reading, machine.wall.read(now));
        let (millis, resets, next_expiry) = machine.store.shown();
        clock.note_applied(reading, AppliedClock { millis, resets, next_expiry });
        ClockStage {
            clock,
            held: Vec::new(),
            unclocked: Vec::new(),
            leader: (Term(0), None),
            reads_early: machine.config.breaks(Mutant::ReadBeforeClock),
        }
    }

    /// Looks at the wall clock; what peers are told of it.
    pub(in crate::sim) fn observe(&mut self, now: Instant, wall: u64) -> Option<u64> {
        self.clock.observe(now, wall);
        self.clock.wall().read(now)
    }

    /// Jumps of the wall clock that were seen.
    pub(in crate::sim) fn jumps(&self) -> u64 {
        self.clock.wall().jumps()
    }

    /// A peer tells of its wall clock.
    pub(in crate::sim) fn hear(&mut self, from: NodeId, now: Instant, millis: u64) {
        self.clock.note_report(from, now, millis);
    }

    /// Notes the state, and for which time reads wait.
    pub(in crate::sim) fn note(&mut self, now: Instant, shown: (u64, u64, Option<u64>)) {
        let (millis, resets, next_expiry) = shown;
        self.clock.note_applied(now, AppliedClock { millis, resets, next_expiry });
        self.clock.set_read_target(self.unclocked.iter().map(|(millis, ..)| *millis).max());
    }

    /// Notes who leads; requests that waited, if they need not any more.
    pub(in crate::sim) fn lead(
        &mut self,
        now: Instant,
        term: Term,
        leader: Option<NodeId>,
        leads: bool,
    ) -> Vec<Msg> {
        if std::mem::replace(&mut self.leader, (term, leader)) != (term, leader) {
            self.clock.leader_changed();
        }
        let waits = leads && !self.clock.is_ready(now, term);
        if waits { Vec::new() } else { std::mem::take(&mut self.held) }
    }

    /// Holds a request at a leader that does not know the clocks of a quorum; else gives it back.
    pub(in crate::sim) fn hold(&mut self, now: Instant, term: Term, message: Msg) -> Option<Msg> {
        if self.clock.is_ready(now, term) {
            return Some(message);
        }
        self.held.push(message);
        None
    }

    /// What goes to the log before a write.
    pub(in crate::sim) fn before_write(&mut self, now: Instant) -> Option<Msg> {
        let millis = self.clock.entry_before_write(now)?;
        Some(self.entry(millis))
    }

    /// The log did not take in what was proposed last.
    pub(in crate::sim) fn proposal_refused(&mut self) {
        self.clock.proposal_refused();
    }

    /// What goes to the log because a key has expired, or for reads.
    pub(in crate::sim) fn due(&mut self, now: Instant) -> Option<Msg> {
        let millis = self.clock.entry_at_expiry(now).or_else(|| self.clock.entry_for_reads(now))?;
        Some(self.entry(millis))
    }

    /// When [`ClockStage::due`] may have something.
    pub(in crate::sim) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.clock.next_due(now)
    }

    /// What the clock must show in the state for reads that are let go now.
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
