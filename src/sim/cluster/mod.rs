//! A cluster in virtual time: simulated machines with replicas, and one event queue. It runs on one
//! thread, reads no real clock, and draws all random numbers from one seed, so the same seed gives
//! the same run, byte for byte.
//!
//! The cluster runs the replicas and checks them after every step. It does not deliver messages.
//! Its driver (a run with faults, a script, a scenario of the university course) does: after each
//! event it takes the messages from [`Cluster::sent`], decides the fate of each message, and calls
//! [`Cluster::deliver`] to schedule the arrival of those that are not lost.

mod answer;
mod apply;
mod disk_io;
mod lifecycle;
pub mod network;
mod queue;
mod state_check;
mod step;
pub mod trace;

pub use answer::{Answer, AnswerKind, ClientProtocol};
use lifecycle::add_counters;

use crate::config::Config;
use crate::membership::{Configuration, MemberChange};
use crate::raft::{
    ClientRequest, DiskSpace, Effects, Envelope, Msg, RoleName, TransferRefusal, TransferRequest,
};
use crate::sim::checkers::client_model::ClientModel;
use crate::sim::checkers::safety::SafetyChecker;
use crate::sim::cluster::queue::{Event, Queue};
use crate::sim::cluster::trace::Trace;
use crate::sim::coverage::{Coverage, Situation};
use crate::sim::machine::Machine;
use crate::sim::rng::Rng;
use crate::sim::violation::Violation;
use crate::types::{Instant, NodeId};

/// The kind of event that [`Cluster::advance`] has handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advance {
    /// An event inside the cluster, such as the arrival of a message or the end of a sync.
    Internal,
    /// An alarm that the driver of the simulation set with [`Cluster::alarm`] under this number,
    /// and which the driver must handle.
    Alarm(u64),
    /// No event was handled: the queue is empty.
    Idle,
}

/// A simulated cluster in virtual time, with its event queue and its checkers.
#[derive(Debug)]
pub struct Cluster {
    now: Instant,
    protocol: ClientProtocol,
    queue: Queue,
    machines: Vec<Machine>,
    /// Messages that replicas have sent, until the driver of the simulation takes them from here to
    /// deliver or drop them.
    pub sent: Vec<Envelope>,
    /// Operations that replicas have forwarded to the leader during the last event, each with its
    /// sender and the leader, until the simulation's driver takes them.
    pub forwards: Vec<(NodeId, NodeId, ClientRequest)>,
    /// Answers that replicas gave to clients, until the driver of the simulation takes them from
    /// here.
    pub answers: Vec<Answer>,
    /// Checks the safety rules about replicas.
    pub checker: SafetyChecker,
    /// Checks the answers to clients against a model.
    pub client_model: ClientModel,
    /// Replicas that stopped because their disks failed, until the driver of the simulation takes
    /// them from here to restart them.
    pub stopped: Vec<NodeId>,
    /// The trace of the run's events.
    pub trace: Trace,
    effects: Effects,
    /// Number of events handled so far.
    events: u64,
    /// How often the run has reached each situation that tests must cover. Excludes the counters of
    /// running replicas and of the client model, which [`Cluster::coverage`] adds.
    coverage: Coverage,
    /// Whether a script has forged messages. Rejecting a message is then not a violation.
    pub forged: bool,
}

impl Cluster {
    /// Creates a cluster at time zero, with one machine for each of `ids`. The replicas `members`
    /// are its initial members; the others may join later. All replicas are down until the caller
    /// starts them with [`Cluster::start`].
    pub fn new(
        ids: &[NodeId],
        members: &[NodeId],
        config: &Config,
        protocol: ClientProtocol,
        rng: &mut Rng,
    ) -> Cluster {
        let machine = |(slot, &id): (usize, &NodeId)| Machine::new(slot, id, members, config, rng);
        Cluster {
            now: Instant::ZERO,
            protocol,
            queue: Queue::default(),
            machines: ids.iter().enumerate().map(machine).collect(),
            sent: Vec::new(),
            answers: Vec::new(),
            checker: SafetyChecker::new(ids.len(), members, config),
            client_model: ClientModel::default(),
            forwards: Vec::new(),
            stopped: Vec::new(),
            trace: Trace::default(),
            effects: Effects::default(),
            events: 0,
            coverage: Coverage::default(),
            forged: false,
        }
    }

    /// Makes these replicas witnesses, whether they are initial members or join later. Must be
    /// called before any replica starts.
    pub fn set_witnesses(&mut self, witnesses: &[NodeId]) {
        for machine in &mut self.machines {
            assert!(machine.replica.is_none(), "replica {} is running", machine.id);
            machine.config.is_witness = witnesses.contains(&machine.id);
            let members: Vec<NodeId> = machine.bootstrap.members().keys().copied().collect();
            machine.bootstrap = Configuration::of_members(members, witnesses);
        }
        self.checker.set_witnesses(witnesses);
    }

    /// Returns how often the run has reached each situation in which a safety rule could be
    /// violated.
    pub fn coverage(&self) -> Coverage {
        let mut coverage = self.coverage;
        for replica in self.machines.iter().filter_map(|machine| machine.replica.as_ref()) {
            add_counters(&mut coverage, replica);
        }
        let gates = self.machines.iter().filter_map(|machine| machine.clock_gate.as_ref());
        coverage.add(Situation::ClockJump, gates.map(|gate| gate.jumps()).sum());
        let (expired, across_leaders) = self.client_model.expired();
        coverage.add(Situation::Expiration, expired);
        coverage.add(Situation::ExpirationAcrossLeaders, across_leaders);
        coverage
    }

    /// Returns a replica that has lost all or part of its disk and has not finished rejoining,
    /// running or not; `None` if there is none.
    pub fn rejoining(&self) -> Option<NodeId> {
        let rejoining = self.machines.iter().find(|machine| machine.disk.is_rejoining());
        rejoining.map(|machine| machine.id)
    }

    /// Returns the wall clock reading that replica `id` reports to its peers, in milliseconds since
    /// 1970; `None` if the replica is down or paused, or if the run does not use expirations.
    pub fn report_wall_clock(&mut self, id: NodeId) -> Option<u64> {
        let (slot, now) = (self.slot(id), self.now);
        let machine = &mut self.machines[slot];
        if machine.held.all {
            return None;
        }
        let wall = machine.wall.read(now);
        machine.clock_gate.as_mut()?.observe(machine.clock.read(now), wall)
    }

    /// Delivers to replica `to` a report that the wall clock of peer `from` shows `millis`
    /// milliseconds since 1970. Does nothing if `to` is down or paused, or if the run does not use
    /// expirations.
    pub fn deliver_wall_clock(&mut self, to: NodeId, from: NodeId, millis: u64) {
        let (slot, now) = (self.slot(to), self.now);
        let machine = &mut self.machines[slot];
        if let Some(gate) = machine.clock_gate.as_mut().filter(|_| !machine.held.all) {
            gate.on_report(from, machine.clock.read(now), millis);
        }
    }

    /// Returns the virtual time since the start of the run.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Returns the number of events handled so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Returns all machines, ordered by their index in the cluster.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// Returns the machine that runs replica `id`.
    pub fn machine(&self, id: NodeId) -> &Machine {
        &self.machines[self.slot(id)]
    }

    /// Returns the machine that runs replica `id`, so that the caller can change its delays and
    /// clocks, or suspend its activities ([`Machine::held`]).
    pub fn machine_mut(&mut self, id: NodeId) -> &mut Machine {
        let slot = self.slot(id);
        &mut self.machines[slot]
    }

    fn slot(&self, id: NodeId) -> usize {
        self.machines
            .iter()
            .position(|machine| machine.id == id)
            .expect("a replica of this cluster")
    }

    /// Returns the running leader with the highest term; `None` if no leader is running.
    pub fn leader(&self) -> Option<NodeId> {
        let statuses =
            self.machines.iter().filter_map(|machine| Some(machine.replica.as_ref()?.status()));
        let leaders = statuses.filter(|status| status.role == RoleName::Leader);
        leaders.max_by_key(|status| status.term).map(|status| status.id)
    }

    /// Requests a membership change from the replica `id`. Does nothing if it is down or paused.
    ///
    /// # Errors
    /// If a safety rule is violated.
    pub fn change_members(
        &mut self,
        id: NodeId,
        changes: &[MemberChange],
    ) -> Result<(), Violation> {
        let slot = self.slot(id);
        if self.machines[slot].held.all {
            return Ok(());
        }
        self.machines[slot].change = Some(changes.to_vec());
        self.step(slot)?;
        self.machines[slot].change = None;
        Ok(())
    }

    /// Returns the time of the next event; `None` if the queue is empty.
    pub fn next_at(&self) -> Option<Instant> {
        self.queue.next_at()
    }

    /// Returns the number of queued messages, requests and disk operations: all events except
    /// timers and alarms.
    pub fn in_flight(&self) -> usize {
        self.queue.in_flight
    }

    /// Schedules the arrival of a message at its receiver at time `at`.
    pub fn deliver(&mut self, at: Instant, envelope: Envelope) {
        let sender = self.machines[self.slot(envelope.from)].incarnation;
        self.deliver_from(at, sender, envelope);
    }

    /// Schedules the arrival at time `at` of a message that its sender sent in incarnation `sender`
    /// (number of starts and crashes).
    pub(in crate::sim) fn deliver_from(&mut self, at: Instant, sender: u64, envelope: Envelope) {
        let slot = self.slot(envelope.to);
        self.queue.push(at.max(self.now), Event::Deliver { slot, sender, envelope });
    }

    /// Schedules the arrival of a client's request at replica `to` at time `at`.
    pub fn request(&mut self, at: Instant, to: NodeId, request: ClientRequest) {
        let slot = self.slot(to);
        self.queue.push(at.max(self.now), Event::Request { slot, request });
    }

    /// Schedules an alarm: at time `at`, [`Cluster::advance`] returns [`Advance::Alarm`] with this
    /// `number`.
    pub fn alarm(&mut self, at: Instant, number: u64) {
        self.queue.push(at.max(self.now), Event::Alarm(number));
    }

    /// Advances the virtual time to `at`, which must not be later than the next event.
    pub fn skip_to(&mut self, at: Instant) {
        assert!(self.next_at().is_none_or(|next| next >= at), "an event is due before {at:?}");
        self.now = self.now.max(at);
    }

    /// Advances the virtual time to the next event and handles it.
    ///
    /// # Errors
    /// If a safety rule is violated.
    pub fn advance(&mut self) -> Result<Advance, Violation> {
        let Some((at, event)) = self.queue.pop() else { return Ok(Advance::Idle) };
        assert!(at >= self.now, "time must not go backwards");
        self.now = at;
        self.events += 1;
        match event {
            Event::Alarm(number) => return Ok(Advance::Alarm(number)),
            Event::Deliver { slot, sender, envelope } => {
                if self.understands(slot, &envelope)
                    && self.accepts_peer(slot, envelope.from, sender)?
                {
                    self.on_message(slot, Msg::Peer(envelope))?;
                }
            }
            Event::Request { slot, request } => self.on_request(slot, request)?,
            Event::Step { slot, incarnation } => {
                if self.machines[slot].incarnation == incarnation {
                    self.machines[slot].queued.step = false;
                    self.step(slot)?;
                }
            }
            Event::Timer { slot, incarnation } => {
                let machine = &mut self.machines[slot];
                if machine.incarnation == incarnation && machine.timer_at == at {
                    machine.timer_at = Instant::MAX;
                    let held = machine.held.all || machine.held.timeouts;
                    let due = machine.clock.when(machine.next_timeout(at));
                    if due <= at && !held {
                        self.step(slot)?;
                    } else if due > at {
                        self.set_timer(slot);
                    }
                }
            }
            Event::Synced { slot, incarnation } => {
                if self.machines[slot].incarnation == incarnation {
                    self.machines[slot].queued.sync = false;
                    self.on_synced(slot)?;
                }
            }
            Event::Apply { slot, incarnation } => {
                if self.machines[slot].incarnation == incarnation {
                    self.machines[slot].queued.apply = false;
                    self.apply(slot)?;
                }
            }
            Event::SnapshotTaken { slot, incarnation } => {
                if self.machines[slot].incarnation == incarnation {
                    self.machines[slot].queued.taken = false;
                    self.on_snapshot_taken(slot)?;
                }
            }
            Event::ChunksStored { slot, incarnation } => {
                if self.machines[slot].incarnation == incarnation {
                    self.machines[slot].queued.store = false;
                    self.store_chunks(slot);
                    self.step_soon(slot)?;
                }
            }
            Event::Install { slot, incarnation } => {
                if self.machines[slot].incarnation == incarnation {
                    self.machines[slot].queued.install = false;
                    self.install(slot)?;
                }
            }
            Event::Stop { slot, incarnation } => {
                if self.machines[slot].incarnation == incarnation {
                    let id = self.machines[slot].id;
                    self.crash(id);
                    self.stopped.push(id);
                }
            }
        }
        Ok(Advance::Internal)
    }

    /// Reports to a replica how much free space its disk has.
    ///
    /// # Errors
    /// If a safety rule is violated.
    pub fn set_disk_space(&mut self, id: NodeId, space: DiskSpace) -> Result<(), Violation> {
        let slot = self.slot(id);
        self.on_message(slot, Msg::DiskSpace(space))
    }

    /// Requests a leadership transfer, or the abort of one, from a replica, and returns its answer.
    /// A replica that is down or paused answers as if it were not the leader.
    ///
    /// # Errors
    /// If a safety rule is violated.
    pub fn request_transfer(
        &mut self,
        id: NodeId,
        request: TransferRequest,
    ) -> Result<Result<NodeId, TransferRefusal>, Violation> {
        let slot = self.slot(id);
        let machine = &mut self.machines[slot];
        let running = machine.replica.as_mut().filter(|_| !machine.held.all);
        let Some(replica) = running else { return Ok(Err(TransferRefusal::NotLeader)) };
        let answer = replica.request_transfer(machine.clock.read(self.now), request);
        self.step_soon(slot)?;
        Ok(answer)
    }

    /// Reschedules the replica's next timeout after a change of its clock rate or of its suspended
    /// activities.
    pub fn reset_timer(&mut self, id: NodeId) {
        let slot = self.slot(id);
        self.machines[slot].timer_at = Instant::MAX;
        self.set_timer(slot);
    }
}
