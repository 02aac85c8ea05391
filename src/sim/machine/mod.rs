//! A replica with all that it runs on: core, state machine, clock, disk, and what waits for it.

pub mod wall_clock;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::Config;
use crate::kv::StateMachine;
use crate::raft::{ApplyJob, Msg, Replica, SnapshotChunk};
use crate::sim::disk::snapshots::Snapshots;
use crate::sim::disk::{Clock, Disk, Pace};
use crate::sim::machine::wall_clock::{ClockStage, Wall};
use crate::sim::rng::Rng;
use crate::types::{Index, Instant, NodeId, RequestKey, Term};

/// How fast the parts of a replica's machine are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paces {
    /// From the beginning of a sync to its end.
    pub sync: Pace,
    /// From the handing over of an apply job to its end.
    pub apply: Pace,
    /// From the first waiting message to the step that handles all that wait by then.
    pub batch: Pace,
}

impl Paces {
    /// Everything at once, each message a batch of its own.
    pub const AT_ONCE: Paces =
        Paces { sync: Pace::AT_ONCE, apply: Pace::AT_ONCE, batch: Pace::AT_ONCE };
}

/// What is held back of a replica's doings.
#[allow(clippy::struct_excessive_bools, reason = "each for itself: what is held")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// All of them, for a pause: messages wait.
    pub everything: bool,
    /// Its time-outs (scripts).
    pub timeouts: bool,
    /// The ends of its syncs, until they are let to come (scripts).
    pub syncs: bool,
    /// The storing of chunks of a leader's snapshot, until it is let go on (scripts).
    pub chunks: bool,
}

/// What is in the queue for a replica already.
#[allow(clippy::struct_excessive_bools, reason = "each for itself: what is in the queue")]
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::sim) struct Due {
    pub(in crate::sim) step: bool,
    pub(in crate::sim) sync: bool,
    pub(in crate::sim) apply: bool,
    pub(in crate::sim) taken: bool,
    pub(in crate::sim) store: bool,
    pub(in crate::sim) install: bool,
}

/// A replica and all that it runs on.
#[derive(Debug)]
pub struct Machine {
    /// Its number.
    pub id: NodeId,
    /// Its place among the cluster's machines.
    pub place: usize,
    /// The core; `None` while it is down.
    pub replica: Option<Replica>,
    /// Its state machine.
    pub store: StateMachine,
    /// Its disk.
    pub disk: Disk,
    /// Its snapshots.
    pub snapshots: Snapshots,
    /// Its clock.
    pub clock: Clock,
    /// Its wall clock.
    pub wall: Wall,
    /// How long a jump of that must last to be believed; `None` if no key expires.
    pub confirm_after: Option<Duration>,
    /// How fast its machine is.
    pub paces: Paces,
    /// What is held back of its doings.
    pub held: Held,
    /// How long the next sync takes, if it is to stall.
    pub stalled: Option<Duration>,
    /// Each opening of its folder: in which incarnation, and what it says of itself.
    pub(in crate::sim) openings: Vec<(u64, (u64, Vec<u64>))>,
    /// The incarnation of each peer that was heard last.
    pub(in crate::sim) heard: BTreeMap<NodeId, u64>,
    pub(in crate::sim) peers: Vec<NodeId>,
    pub(in crate::sim) config: Config,
    pub(in crate::sim) rng: Rng,
    pub(in crate::sim) incarnation: u64,
    pub(in crate::sim) inbox: VecDeque<Msg>,
    /// Writes that came in here and may be answered here, how often each.
    pub(in crate::sim) connections: BTreeMap<RequestKey, u32>,
    /// Chunks of a leader's snapshot that are not stored yet, in the order in which they came.
    pub(in crate::sim) storing: VecDeque<SnapshotChunk>,
    /// Of a snapshot that it has received in part: the term of the last chunk, and where the
    /// snapshot ends.
    pub(in crate::sim) receiving: Option<(Term, Index)>,
    /// With each job what the replicated clock must show for its reads, and how often it had been
    /// reset.
    pub(in crate::sim) applying: VecDeque<(ApplyJob, (u64, u64))>,
    /// The replicated clock, while the replica runs and keys expire.
    pub(in crate::sim) clock_stage: Option<Box<ClockStage>>,
    pub(in crate::sim) due: Due,
    /// The earliest time for which a timer event is in the queue.
    pub(in crate::sim) timer_at: Instant,
    pub(in crate::sim) steps_at_once: (Instant, u32),
}

impl Machine {
    /// A machine that has never run.
    pub(in crate::sim) fn new(
        place: usize,
        id: NodeId,
        ids: &[NodeId],
        config: &Config,
        rng: &mut Rng,
    ) -> Machine {
        Machine {
            id,
            place,
            replica: None,
            store: StateMachine::default(),
            disk: Disk::default(),
            snapshots: Snapshots::default(),
            clock: Clock::new(Instant::ZERO, Instant::ZERO, 0),
            wall: Wall::default(),
            confirm_after: None,
            paces: Paces::AT_ONCE,
            held: Held::default(),
            stalled: None,
            openings: Vec::new(),
            heard: BTreeMap::new(),
            peers: ids.iter().copied().filter(|&other| other != id).collect(),
            config: config.clone(),
            rng: rng.split(),
            incarnation: 0,
            inbox: VecDeque::new(),
            connections: BTreeMap::new(),
            applying: VecDeque::new(),
            storing: VecDeque::new(),
            receiving: None,
            clock_stage: None,
            due: Due::default(),
            timer_at: Instant::MAX,
            steps_at_once: (Instant::ZERO, 0),
        }
    }

    /// Takes one claim to an answer off the connections; true if there was one.
    pub(in crate::sim) fn disconnect(&mut self, key: RequestKey) -> bool {
        let Some(count) = self.connections.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.connections.remove(&key);
        }
        true
    }

    /// When the replica, which runs, has to do something by itself: by its clock.
    pub(in crate::sim) fn next_timeout(&self, now: Instant) -> Instant {
        let Some(replica) = &self.replica else { return Instant::MAX };
        let stage = self.clock_stage.as_ref().filter(|_| replica.accepts_writes());
        let due = stage.and_then(|stage| stage.next_due(self.clock.read(now)));
        due.map_or(replica.next_timeout(), |due| due.min(replica.next_timeout()))
    }

    /// Counts starts and crashes: what was sent to another incarnation is lost.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }
}
