//! A simulated machine: a replica with its state machine, disk and clocks, and the input that waits
//! for it.

pub mod clock;
pub(in crate::sim) mod replicated_clock;
pub mod wall_clock;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::Config;
use crate::kv::StateMachine;
use crate::raft::{ApplyJob, Msg, Replica, SnapshotChunk};
use crate::sim::disk::Disk;
use crate::sim::disk::snapshots::Snapshots;
use crate::sim::machine::clock::Clock;
use crate::sim::machine::replicated_clock::ClockGate;
use crate::sim::machine::wall_clock::WallClock;
use crate::sim::rng::{DurationRange, Rng};
use crate::types::{Index, Instant, NodeId, RequestKey, Term};

/// How long the operations of a simulated machine take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delays {
    /// Duration of a sync of the disk.
    pub sync: DurationRange,
    /// Duration of an apply job (applying committed entries and executing reads).
    pub apply: DurationRange,
    /// Time that a replica collects messages, from the first one that waits to the step that
    /// handles all of them.
    pub batch: DurationRange,
}

impl Delays {
    /// No delays: each message is a batch of its own.
    pub const ZERO: Delays = Delays {
        sync: DurationRange::ZERO,
        apply: DurationRange::ZERO,
        batch: DurationRange::ZERO,
    };
}

/// Which activities of a replica are held back for now.
#[allow(clippy::struct_excessive_bools, reason = "independent of each other")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Whether the replica is paused: all its activities are held back, and its messages wait.
    pub all: bool,
    /// Whether the replica's timeouts, such as election timeouts, are held back (only used by
    /// scripts).
    pub timeouts: bool,
    /// Whether the ends of syncs are held back, so that nothing becomes durable (only used by
    /// scripts).
    pub syncs: bool,
    /// Whether the replica holds back storing the chunks of a leader's snapshot (only used by
    /// scripts).
    pub chunks: bool,
}

/// Which types of events are already in the event queue for a replica.
#[allow(clippy::struct_excessive_bools, reason = "independent of each other")]
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::sim) struct Queued {
    pub(in crate::sim) step: bool,
    pub(in crate::sim) sync: bool,
    pub(in crate::sim) apply: bool,
    pub(in crate::sim) taken: bool,
    pub(in crate::sim) store: bool,
    pub(in crate::sim) install: bool,
}

/// A simulated machine with its replica.
#[derive(Debug)]
pub struct Machine {
    /// Id of the replica.
    pub id: NodeId,
    /// Position among the cluster's machines, from 0.
    pub slot: usize,
    /// The replica; `None` while it is down.
    pub replica: Option<Replica>,
    /// The replica's state machine.
    pub store: StateMachine,
    /// The disk of the machine.
    pub disk: Disk,
    /// The replica's snapshots.
    pub snapshots: Snapshots,
    /// The monotonic clock of the machine.
    pub clock: Clock,
    /// The wall clock of the machine.
    pub wall: WallClock,
    /// Time that a jump of the wall clock must last before the replica accepts the new time; `None`
    /// if the run has no expirations.
    pub confirm_after: Option<Duration>,
    /// How long the operations of the machine take.
    pub delays: Delays,
    /// The activities of the replica that are held back for now.
    pub held: Held,
    /// Duration of the machine's next sync if that is to stall; `None` for the usual duration.
    pub stalled: Option<Duration>,
    /// For each start of the replica: the machine's `incarnation` (number of starts and crashes)
    /// then, and the history of starts that the replica sends to its peers: the number of its
    /// starts, and the random numbers that it drew at the latest of them.
    pub(in crate::sim) openings: Vec<(u64, (u64, Vec<u64>))>,
    /// For each peer, its highest incarnation (number of starts and crashes) from which this
    /// replica has accepted a message.
    pub(in crate::sim) heard: BTreeMap<NodeId, u64>,
    pub(in crate::sim) peers: Vec<NodeId>,
    pub(in crate::sim) config: Config,
    pub(in crate::sim) rng: Rng,
    pub(in crate::sim) incarnation: u64,
    pub(in crate::sim) inbox: VecDeque<Msg>,
    /// Keys of the writes that the replica has received from clients and not answered yet, each
    /// with the number of times that it arrived.
    pub(in crate::sim) pending_writes: BTreeMap<RequestKey, u32>,
    /// Chunks of a leader's snapshot that the replica has received and not stored yet, in order of
    /// arrival.
    pub(in crate::sim) storing: VecDeque<SnapshotChunk>,
    /// The leader's snapshot that the replica is receiving: the term of its last chunk, and the
    /// last log index that it covers; `None` if the replica receives none.
    pub(in crate::sim) receiving: Option<(Term, Index)>,
    /// Jobs for the state machine (entries to apply, reads to execute). The two numbers are what
    /// the job's reads wait for: the time of the replicated clock, in milliseconds since 1970, and
    /// the number of times that the clock had been set back when the reads were confirmed.
    pub(in crate::sim) applying: VecDeque<(ApplyJob, (u64, u64))>,
    /// The replicated clock while the replica runs; `None` if the run has no expirations.
    pub(in crate::sim) clock_gate: Option<Box<ClockGate>>,
    pub(in crate::sim) queued: Queued,
    /// Time of the earliest timer event of the machine in the event queue; the maximum if there is
    /// none.
    pub(in crate::sim) timer_at: Instant,
    /// Time of the replica's last step, and the number of its steps at this time so far.
    pub(in crate::sim) steps_at_once: (Instant, u32),
}

impl Machine {
    /// Creates a machine whose replica has never run.
    pub(in crate::sim) fn new(
        slot: usize,
        id: NodeId,
        ids: &[NodeId],
        config: &Config,
        rng: &mut Rng,
    ) -> Machine {
        Machine {
            id,
            slot,
            replica: None,
            store: StateMachine::default(),
            disk: Disk::default(),
            snapshots: Snapshots::default(),
            clock: Clock::new(Instant::ZERO, Instant::ZERO, 0),
            wall: WallClock::default(),
            confirm_after: None,
            delays: Delays::ZERO,
            held: Held::default(),
            stalled: None,
            openings: Vec::new(),
            heard: BTreeMap::new(),
            peers: ids.iter().copied().filter(|&other| other != id).collect(),
            config: config.clone(),
            rng: rng.split(),
            incarnation: 0,
            inbox: VecDeque::new(),
            pending_writes: BTreeMap::new(),
            applying: VecDeque::new(),
            storing: VecDeque::new(),
            receiving: None,
            clock_gate: None,
            queued: Queued::default(),
            timer_at: Instant::MAX,
            steps_at_once: (Instant::ZERO, 0),
        }
    }

    /// Removes one arrival of the write `key` from the writes that the replica has not answered
    /// yet, because the replica is answering it. Returns false if there was none.
    pub(in crate::sim) fn take_pending_write(&mut self, key: RequestKey) -> bool {
        let Some(count) = self.pending_writes.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.pending_writes.remove(&key);
        }
        true
    }

    /// Returns when the next timeout of the replica is due, by the machine's monotonic clock; the
    /// maximum if the replica is down.
    pub(in crate::sim) fn next_timeout(&self, now: Instant) -> Instant {
        let Some(replica) = &self.replica else { return Instant::MAX };
        let gate = self.clock_gate.as_ref().filter(|_| replica.accepts_writes());
        let due = gate.and_then(|gate| gate.next_due(self.clock.read(now)));
        due.map_or(replica.next_timeout(), |due| due.min(replica.next_timeout()))
    }

    /// Returns the number of starts and crashes of the replica so far. Events that were queued
    /// under another incarnation are ignored.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }
}
