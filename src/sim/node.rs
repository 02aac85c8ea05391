//! A replica with all that it runs on: core, state machine, clock, disk, and what waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::dice::Dice;
use super::machine::{Clock, Disk, Pace};
use super::snapshots::Snapshots;
use super::wall_clocks::{ClockStage, Wall};
use crate::config::Config;
use crate::kv::Store;
use crate::raft::{ApplyJob, Msg, Replica, SnapshotChunk};
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
pub(super) struct Due {
    pub(super) step: bool,
    pub(super) sync: bool,
    pub(super) apply: bool,
    pub(super) taken: bool,
    pub(super) store: bool,
    pub(super) install: bool,
}

/// A replica and all that it runs on.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its place among the world's nodes.
    pub place: usize,
    /// The core; `None` while it is down.
    pub replica: Option<Replica>,
    /// Its state machine.
    pub store: Store,
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
    pub(super) openings: Vec<(u64, (u64, Vec<u64>))>,
    /// The incarnation of each peer that was heard last.
    pub(super) heard: BTreeMap<NodeId, u64>,
    pub(super) peers: Vec<NodeId>,
    pub(super) config: Config,
    pub(super) dice: Dice,
    pub(super) incarnation: u64,
    pub(super) inbox: VecDeque<Msg>,
    /// Writes that came in here and may be answered here, how often each.
    pub(super) connections: BTreeMap<RequestKey, u32>,
    /// Chunks of a leader's snapshot that are not stored yet, in the order in which they came.
    pub(super) storing: VecDeque<SnapshotChunk>,
    /// Of a snapshot that it has received in part: the term of the last chunk, and where the
    /// snapshot ends.
    pub(super) receiving: Option<(Term, Index)>,
    /// With each job what the replicated clock must show for its reads, and how often it had been
    /// reset.
    pub(super) applying: VecDeque<(ApplyJob, (u64, u64))>,
    /// The replicated clock, while the replica runs and keys expire.
    pub(super) clock_stage: Option<Box<ClockStage>>,
    pub(super) due: Due,
    /// The earliest time for which a timer event is in the queue.
    pub(super) timer_at: Instant,
    pub(super) steps_at_once: (Instant, u32),
}

impl Node {
    /// A machine that has never run.
    pub(super) fn new(
        place: usize,
        id: NodeId,
        ids: &[NodeId],
        config: &Config,
        dice: &mut Dice,
    ) -> Node {
        Node {
            id,
            place,
            replica: None,
            store: Store::default(),
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
            dice: dice.split(),
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
    pub(super) fn disconnect(&mut self, key: RequestKey) -> bool {
        let Some(count) = self.connections.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.connections.remove(&key);
        }
        true
    }

    /// When the replica, which runs, has to do something by itself: by its clock.
    pub(super) fn next_timeout(&self, now: Instant) -> Instant {
        let Some(replica) = &self.replica else { return Instant::MAX };
        let stage = self.clock_stage.as_ref().filter(|_| replica.takes_writes());
        let due = stage.and_then(|stage| stage.next_due(self.clock.read(now)));
        due.map_or(replica.next_timeout(), |due| due.min(replica.next_timeout()))
    }

    /// Counts starts and crashes: what was sent to another incarnation is lost.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }
}
