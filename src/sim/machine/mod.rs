//! A simulated machine: a replica with its state machine, disk and clocks, and its waiting input.

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

/// Durations of a machine's operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delays {
    /// Duration of a sync.
    pub sync: DurationRange,
    /// Duration of an apply job.
    pub apply: DurationRange,
    /// Time from the first waiting message to the step that handles all waiting messages.
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

/// The activities of a replica that are held back.
#[allow(clippy::struct_excessive_bools, reason = "independent of each other")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// All activities: the replica is paused, and messages wait.
    pub all: bool,
    /// Timeouts (scripts only).
    pub timeouts: bool,
    /// The ends of syncs (scripts only).
    pub syncs: bool,
    /// Storing chunks of a leader's snapshot (scripts only).
    pub chunks: bool,
}

/// The events that are already queued for a replica.
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
    /// The state machine.
    pub store: StateMachine,
    /// The disk.
    pub disk: Disk,
    /// The snapshots.
    pub snapshots: Snapshots,
    /// The monotonic clock.
    pub clock: Clock,
    /// The wall clock.
    pub wall: WallClock,
    /// Time that a jump of the wall clock must last to be accepted; `None` if the run has no
    /// expirations.
    pub confirm_after: Option<Duration>,
    /// Durations of its operations.
    pub delays: Delays,
    /// The activities that are held back.
    pub held: Held,
    /// Duration of the next sync if it stalls.
    pub stalled: Option<Duration>,
    /// The openings of its folder: incarnation, and the identity presented to peers.
    pub(in crate::sim) openings: Vec<(u64, (u64, Vec<u64>))>,
    /// The last accepted incarnation of each peer.
    pub(in crate::sim) heard: BTreeMap<NodeId, u64>,
    pub(in crate::sim) peers: Vec<NodeId>,
    pub(in crate::sim) config: Config,
    pub(in crate::sim) rng: Rng,
    pub(in crate::sim) incarnation: u64,
    pub(in crate::sim) inbox: VecDeque<Msg>,
    /// Writes received from clients and not answered yet, with the number of times each arrived.
    pub(in crate::sim) pending_writes: BTreeMap<RequestKey, u32>,
    /// Received chunks of a leader's snapshot that are not stored yet, in order.
    pub(in crate::sim) storing: VecDeque<SnapshotChunk>,
    /// A partly received snapshot: the term of the last chunk, and the last index of the snapshot.
    pub(in crate::sim) receiving: Option<(Term, Index)>,
    /// Apply jobs, each with the time that the replicated clock must have reached for its reads,
    /// and the number of clock resets.
    pub(in crate::sim) applying: VecDeque<(ApplyJob, (u64, u64))>,
    /// The replicated clock while the replica runs; `None` if the run has no expirations.
    pub(in crate::sim) clock_gate: Option<Box<ClockGate>>,
    pub(in crate::sim) queued: Queued,
    /// Time of the earliest queued timer event.
    pub(in crate::sim) timer_at: Instant,
    /// The current time, and the number of steps at that time.
    pub(in crate::sim) steps_at_once: (Instant, u32),
}

impl Machine {
    /// Creates a machine that has never run.
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

    /// Removes one arrival of a write that is being answered. Returns whether there was one.
    pub(in crate::sim) fn take_pending_write(&mut self, key: RequestKey) -> bool {
        let Some(count) = self.pending_writes.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.pending_writes.remove(&key);
        }
        true
    }

    /// Returns the next timeout of the running replica, by its clock.
    pub(in crate::sim) fn next_timeout(&self, now: Instant) -> Instant {
        let Some(replica) = &self.replica else { return Instant::MAX };
        let gate = self.clock_gate.as_ref().filter(|_| replica.accepts_writes());
        let due = gate.and_then(|gate| gate.next_due(self.clock.read(now)));
        due.map_or(replica.next_timeout(), |due| due.min(replica.next_timeout()))
    }

    /// Number of starts and crashes. Events of another incarnation are ignored.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }
}
