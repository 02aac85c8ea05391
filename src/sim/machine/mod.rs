//! A simulated machine: a replica with its state machine, disk and clocks, and the input that is
//! waiting for the replica.

pub mod clock;
pub(in crate::sim) mod replicated_clock;
pub mod wall_clock;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::Config;
use crate::digest_schedule::DigestSchedule;
use crate::feature_level::FeatureLevel;
use crate::kv::StateMachine;
use crate::large_writes::LargeWrites;
use crate::membership::{Configuration, MemberChange};
use crate::raft::{ApplyJob, LogStart, Msg, Replica, SnapshotChunk};
use crate::sim::disk::Disk;
use crate::sim::disk::snapshots::Snapshots;
use crate::sim::machine::clock::Clock;
use crate::sim::machine::replicated_clock::ClockGate;
use crate::sim::machine::wall_clock::WallClock;
use crate::sim::rng::{DurationRange, Rng};
use crate::types::{Index, Instant, NodeId, RequestKey, Term};

/// Ranges of the random durations of a simulated machine's operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delays {
    /// Duration of a sync of the log on the disk.
    pub sync: DurationRange,
    /// Duration of an apply job, which applies committed entries and executes reads.
    pub apply: DurationRange,
    /// Time for which a replica collects messages into a batch before it handles them, from the
    /// arrival of the first one.
    pub batch: DurationRange,
}

impl Delays {
    /// No delays: operations complete at once, and each message is a batch of its own.
    pub const ZERO: Delays = Delays {
        sync: DurationRange::ZERO,
        apply: DurationRange::ZERO,
        batch: DurationRange::ZERO,
    };
}

/// The activities of a replica that the simulation has suspended.
#[allow(clippy::struct_excessive_bools, reason = "independent of each other")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Whether the replica is paused: all its activities are suspended, and arriving messages wait.
    pub all: bool,
    /// Whether the replica's timeouts, such as election timeouts, are suspended. Used only by
    /// scripts.
    pub timeouts: bool,
    /// Whether syncs of the replica's disk are kept from completing, so that nothing becomes
    /// durable. Used only by scripts.
    pub syncs: bool,
    /// Whether the storing of received snapshot chunks is suspended. Used only by scripts.
    pub chunks: bool,
}

/// One flag per type of event: whether the event queue already contains an event of this type for
/// the replica.
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

/// A simulated machine, which runs one replica.
#[derive(Debug)]
pub struct Machine {
    /// Id of the machine's replica.
    pub id: NodeId,
    /// Index of this machine in the cluster.
    pub slot: usize,
    /// The replica's consensus core; `None` while it is down.
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
    /// How long a wall clock jump must last before the replica accepts the new time; `None` if the
    /// run does not use expirations.
    pub confirm_after: Option<Duration>,
    /// Ranges of the random durations of the machine's operations.
    pub delays: Delays,
    /// The activities of the replica that the simulation has suspended.
    pub held: Held,
    /// Duration of the machine's next sync if that sync is to stall; `None` for a normal sync.
    pub stalled: Option<Duration>,
    /// One element per start of the replica: the incarnation (number of starts and crashes), and
    /// the history that the replica then sends to its peers, so that they detect old copies of its
    /// folder. The history consists of the number of its starts, and random numbers that identify
    /// the latest of them.
    pub(in crate::sim) start_ids: Vec<(u64, (u64, Vec<u64>))>,
    /// The highest incarnation (number of starts and crashes) of each peer from which this replica
    /// has accepted a message.
    pub(in crate::sim) heard: BTreeMap<NodeId, u64>,
    /// The initial configuration of the cluster; without members if this machine's replica joins
    /// later.
    pub(in crate::sim) bootstrap: Configuration,
    pub(in crate::sim) config: Config,
    /// Feature level of the program that the machine runs after its next restart.
    pub(in crate::sim) upgrade_to: FeatureLevel,
    pub(in crate::sim) rng: Rng,
    pub(in crate::sim) incarnation: u64,
    /// Whether another replica has refused to let this replica rejoin, so that it must be replaced.
    pub(in crate::sim) must_be_replaced: bool,
    pub(in crate::sim) inbox: VecDeque<Msg>,
    /// Large writes that the replica is appending in pieces as leader.
    pub(in crate::sim) large_writes: LargeWrites,
    /// Writes that clients have sent to this replica and that are not answered yet: the request
    /// key, and the number of times that the write has arrived.
    pub(in crate::sim) pending_writes: BTreeMap<RequestKey, u32>,
    /// Received chunks of a leader's snapshot that are not stored yet, in order of arrival.
    pub(in crate::sim) storing: VecDeque<SnapshotChunk>,
    /// The leader's snapshot that the replica is receiving: the term in which the last chunk was
    /// sent, and the index of the last entry that the snapshot covers. `None` if it is receiving
    /// none.
    pub(in crate::sim) receiving: Option<(Term, Index)>,
    /// The point at which the log of this witness will begin, while it is being stored; `None`
    /// otherwise.
    pub(in crate::sim) log_start: Option<LogStart>,
    /// The membership change to request from the replica in its next step; `None` if none is
    /// requested.
    pub(in crate::sim) change: Option<Vec<MemberChange>>,
    /// Jobs for the state machine: entries to apply and reads to execute. Each job comes with the
    /// time, in milliseconds since 1970, that the replicated clock must reach before the job's
    /// reads are executed, and with the number of times that the clock had been set back when the
    /// reads were confirmed. If the clock has been set back since then, the reads do not wait.
    pub(in crate::sim) applying: VecDeque<(ApplyJob, (u64, u64))>,
    /// The replicated clock of the running replica; `None` while it is down, or if the run does not
    /// use expirations.
    pub(in crate::sim) clock_gate: Option<Box<ClockGate>>,
    /// Interval at which the replicas' states are compared; zero for never.
    pub(in crate::sim) digest_check: Duration,
    /// Schedule of the marks and reports for the comparison of states.
    pub(in crate::sim) digest_schedule: DigestSchedule,
    /// Whether a fault has changed the replica's state, so that it differs from the others.
    pub(in crate::sim) has_changed_state: bool,
    /// Whether the replica has detected that its state is wrong, so that it stops.
    pub(in crate::sim) state_is_wrong: bool,
    pub(in crate::sim) queued: Queued,
    /// Time of the earliest queued timer event of this machine; [`Instant::MAX`] if there is none.
    pub(in crate::sim) timer_at: Instant,
    /// Time of the replica's latest step, and the number of earlier steps at the same time.
    pub(in crate::sim) steps_at_once: (Instant, u32),
}

impl Machine {
    /// Creates a machine whose replica has never been started.
    pub(in crate::sim) fn new(
        slot: usize,
        id: NodeId,
        members: &[NodeId],
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
            start_ids: Vec::new(),
            heard: BTreeMap::new(),
            bootstrap: if members.contains(&id) {
                Configuration::of_voters(members.iter().copied())
            } else {
                Configuration::default()
            },
            config: config.clone(),
            upgrade_to: config.feature_level,
            rng: rng.split(),
            incarnation: 0,
            must_be_replaced: false,
            inbox: VecDeque::new(),
            large_writes: LargeWrites::default(),
            pending_writes: BTreeMap::new(),
            applying: VecDeque::new(),
            storing: VecDeque::new(),
            receiving: None,
            log_start: None,
            change: None,
            clock_gate: None,
            digest_check: Duration::ZERO,
            digest_schedule: DigestSchedule::default(),
            has_changed_state: false,
            state_is_wrong: false,
            queued: Queued::default(),
            timer_at: Instant::MAX,
            steps_at_once: (Instant::ZERO, 0),
        }
    }

    /// Removes one arrival of the write `key` from the pending writes, because the replica now
    /// answers it. Returns false if no arrival was pending.
    pub(in crate::sim) fn take_pending_write(&mut self, key: RequestKey) -> bool {
        let Some(count) = self.pending_writes.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.pending_writes.remove(&key);
        }
        true
    }

    /// Returns when the replica's next timeout is due, by the machine's monotonic clock;
    /// [`Instant::MAX`] if the replica is down.
    pub(in crate::sim) fn next_timeout(&self, now: Instant) -> Instant {
        let Some(replica) = &self.replica else { return Instant::MAX };
        let gate = self.clock_gate.as_ref().filter(|_| replica.accepts_writes());
        let due = gate.and_then(|gate| gate.next_due(self.clock.read(now)));
        let timeout = due.map_or(replica.next_timeout(), |due| due.min(replica.next_timeout()));
        let mark_at = self.digest_schedule.next_due().filter(|_| replica.accepts_writes());
        mark_at.map_or(timeout, |due| due.min(timeout))
    }

    /// Returns the replica's incarnation: the number of its starts and crashes so far. Queued
    /// events of an earlier incarnation are ignored.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }
}
