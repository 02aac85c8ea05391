//! A simulated machine: a replica with its state machine, disk and clocks, and the input that is
//! waiting for the replica.

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

/// Ranges from which the durations of a simulated machine's operations are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delays {
    /// Duration of a sync of the log on the disk.
    pub sync: DurationRange,
    /// Duration of an apply job (applying committed entries and executing reads).
    pub apply: DurationRange,
    /// Time during which a replica collects messages into a batch: from the arrival of the first
    /// message to the step that handles all of them.
    pub batch: DurationRange,
}

impl Delays {
    /// No delays: all operations end when they begin, and each message is a batch of its own.
    pub const ZERO: Delays = Delays {
        sync: DurationRange::ZERO,
        apply: DurationRange::ZERO,
        batch: DurationRange::ZERO,
    };
}

/// Which activities of a replica are currently suspended by the simulation.
#[allow(clippy::struct_excessive_bools, reason = "independent of each other")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// True while the replica is paused: all its activities are suspended, and its messages are
    /// waiting.
    pub all: bool,
    /// True while the replica's timeouts, such as election timeouts, do not fire even when they are
    /// due (only used by scripts).
    pub timeouts: bool,
    /// True while syncs of the replica's disk do not complete, so that nothing becomes durable
    /// (only used by scripts).
    pub syncs: bool,
    /// True while the replica does not store the snapshot chunks that it receives from a leader
    /// (only used by scripts).
    pub chunks: bool,
}

/// For each type of event, whether the event queue already contains such an event of a replica.
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
    /// Index of this machine in the cluster's list of machines.
    pub slot: usize,
    /// The replica's consensus core; `None` while the replica is down.
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
    /// Ranges from which the durations of the machine's operations are drawn.
    pub delays: Delays,
    /// The activities of the replica that are currently suspended.
    pub held: Held,
    /// Duration of the next sync of the machine's disk if that sync is to stall; `None` for the
    /// usual duration.
    pub stalled: Option<Duration>,
    /// For each start of the replica, the machine's `incarnation` (number of starts and crashes) at
    /// that time, and the history of starts that the replica sent to its peers: the number of its
    /// starts, and the random numbers that identify the latest of them.
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
    /// with the number of times that the write has arrived.
    pub(in crate::sim) pending_writes: BTreeMap<RequestKey, u32>,
    /// Chunks of a leader's snapshot that the replica has received and not stored yet, in order of
    /// arrival.
    pub(in crate::sim) storing: VecDeque<SnapshotChunk>,
    /// The snapshot that the replica is receiving from a leader: the term of the leader that sent
    /// the most recently received chunk, and the last log index that the snapshot covers. `None` if
    /// the replica is not receiving a snapshot.
    pub(in crate::sim) receiving: Option<(Term, Index)>,
    /// Jobs for the state machine (entries to apply, reads to execute). The reads of a job wait
    /// until the replicated clock has reached the first number, in milliseconds since 1970. The
    /// second number says how often the clock had been set back when the reads were confirmed; if
    /// that has changed, they do not wait.
    pub(in crate::sim) applying: VecDeque<(ApplyJob, (u64, u64))>,
    /// The replicated clock while the replica is running; `None` while it is down, or if the run
    /// has no expirations.
    pub(in crate::sim) clock_gate: Option<Box<ClockGate>>,
    pub(in crate::sim) queued: Queued,
    /// Time of the machine's earliest timer event in the event queue; [`Instant::MAX`] if there is
    /// none.
    pub(in crate::sim) timer_at: Instant,
    /// Time of the replica's latest step, and the number of steps that it has performed at this
    /// time.
    pub(in crate::sim) steps_at_once: (Instant, u32),
}

impl Machine {
    /// Creates a machine whose replica has never been started.
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

    /// Records that the replica is answering the write `key`: removes one arrival of it from the
    /// pending writes. Returns false if no arrival of the write was pending.
    pub(in crate::sim) fn take_pending_write(&mut self, key: RequestKey) -> bool {
        let Some(count) = self.pending_writes.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.pending_writes.remove(&key);
        }
        true
    }

    /// Returns the time, by the machine's monotonic clock, at which the replica's next timeout is
    /// due; [`Instant::MAX`] if the replica is down.
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
