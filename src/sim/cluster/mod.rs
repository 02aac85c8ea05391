//! A cluster in virtual time: replicas with their machines, and one queue of events, earliest
//! first, in the order of their making where the time is equal. One thread, no clock, and every
//! draw from one seed: the same seed is the same run, byte for byte.
//!
//! The cluster runs replicas and checks them after every step. It does not carry messages: whoever
//! drives it (fault runs, scripts, the course's scenarios) takes what was sent out of
//! [`Cluster::sent`] after each event, decides what becomes of it, and puts what arrives back with
//! [`Cluster::deliver`].

pub mod network;
mod queue;
pub mod trace;

use crate::config::{Config, Mutant};
use crate::kv::{Command, Outcome, StateMachine};
use crate::raft::{
    AppendJob, ClientRequest, DiskSpace, Effects, Envelope, Msg, PeerMsg, Persisted, Refusal,
    RefusalReason, Replica, RequestKind, RoleName, SnapshotChunk,
};
use crate::record::EntryKind;
use crate::sim::checkers::client_model::ClientModel;
use crate::sim::checkers::safety::{SafetyChecker, Violation, demand};
use crate::sim::cluster::queue::{Event, Queue};
use crate::sim::cluster::trace::Trace;
use crate::sim::coverage::{Coverage, Situation};
use crate::sim::disk::Started;
use crate::sim::disk::folder::Files;
use crate::sim::disk::statistics::DiskFault;
use crate::sim::machine::wall_clock::ClockStage;
use crate::sim::machine::{Due, Held, Machine};
use crate::sim::rng::Rng;
use crate::storage::StorageError;
use crate::types::{EntryId, Index, Instant, NodeId, RequestKey, Term};

/// Messages that a replica's socket holds while nobody reads it; more are lost.
const INBOX_MAX: usize = 10_000;
/// Steps of one replica at one instant; more means that its time-outs never end.
const STEPS_AT_ONCE_MAX: u32 = 10_000;

/// Who answers a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientProtocol {
    /// The replica that holds the client's connection.
    Connection,
    /// The leader that commits it, whoever was asked (the course's protocol).
    Course,
}

/// What a client hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// From whom.
    pub from: NodeId,
    /// About which request.
    pub key: RequestKey,
    /// Whom the replica believes to lead.
    pub leader: Option<NodeId>,
    /// What.
    pub kind: AnswerKind,
}

/// What a client hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AnswerKind {
    /// It is done.
    Done(Outcome),
    /// This attempt has no effect.
    Refused(RefusalReason),
}

/// What an event was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Happening {
    /// Something inside the cluster.
    Inside,
    /// The alarm that the driver had set with this number.
    Alarm(u64),
    /// Nothing is left to happen.
    Nothing,
}

/// The cluster, its queue and its checks.
#[derive(Debug)]
pub struct Cluster {
    now: Instant,
    protocol: ClientProtocol,
    queue: Queue,
    machines: Vec<Machine>,
    /// What the replicas sent since the driver last took it.
    pub sent: Vec<Envelope>,
    /// What clients were told since the driver last took it.
    pub answers: Vec<Answer>,
    /// Rules about replicas.
    pub checker: SafetyChecker,
    /// Rules about clients.
    pub client_model: ClientModel,
    /// Replicas whose disks failed, so that they ended, since the driver last took them.
    pub stopped: Vec<NodeId>,
    /// Where events are written down, if anywhere.
    pub trace: Trace,
    effects: Effects,
    events: u64,
    /// Without what the replicas that run have counted themselves.
    coverage: Coverage,
    /// A script has forged messages, which replicas may refuse.
    pub forged: bool,
}

impl Cluster {
    /// A cluster of replicas that have never run. All of them start at time zero.
    pub fn new(
        ids: &[NodeId],
        config: &Config,
        protocol: ClientProtocol,
        rng: &mut Rng,
    ) -> Cluster {
        let machine = |(place, &id): (usize, &NodeId)| Machine::new(place, id, ids, config, rng);
        Cluster {
            now: Instant::ZERO,
            protocol,
            queue: Queue::default(),
            machines: ids.iter().enumerate().map(machine).collect(),
            sent: Vec::new(),
            answers: Vec::new(),
            checker: SafetyChecker::new(ids.len(), config),
            client_model: ClientModel::default(),
            stopped: Vec::new(),
            trace: Trace::default(),
            effects: Effects::default(),
            events: 0,
            coverage: Coverage::default(),
            forged: false,
        }
    }

    /// How often the situations were reached that the rules about replicas are about.
    pub fn coverage(&self) -> Coverage {
        let mut coverage = self.coverage;
        for replica in self.machines.iter().filter_map(|machine| machine.replica.as_ref()) {
            add_counters(&mut coverage, replica);
        }
        let stages = self.machines.iter().filter_map(|machine| machine.clock_stage.as_ref());
        coverage.add(Situation::ClockJump, stages.map(|stage| stage.jumps()).sum());
        let (expired, across_leaders) = self.client_model.expired();
        coverage.add(Situation::Expiration, expired);
        coverage.add(Situation::ExpirationAcrossLeaders, across_leaders);
        coverage
    }

    /// The replica that lost its disk and has not rejoined yet, running or not.
    pub fn rejoining(&self) -> Option<NodeId> {
        self.machines
            .iter()
            .find(|machine| machine.disk.image().rejoining)
            .map(|machine| machine.id)
    }

    /// What a replica tells its peers of its wall clock, if it runs and keys expire.
    pub fn wall_clock(&mut self, id: NodeId) -> Option<u64> {
        let (place, now) = (self.place(id), self.now);
        let machine = &mut self.machines[place];
        if machine.held.everything {
            return None;
        }
        let wall = machine.wall.read(now);
        machine.clock_stage.as_mut()?.observe(machine.clock.read(now), wall)
    }

    /// A replica hears of a peer's wall clock, if it runs.
    pub fn hear_wall_clock(&mut self, to: NodeId, from: NodeId, millis: u64) {
        let (place, now) = (self.place(to), self.now);
        let machine = &mut self.machines[place];
        if let Some(stage) = machine.clock_stage.as_mut().filter(|_| !machine.held.everything) {
            stage.hear(from, machine.clock.read(now), millis);
        }
    }

    /// The true time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How many events were handled.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// All replicas with their machines.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// One replica with its machine.
    pub fn machine(&self, id: NodeId) -> &Machine {
        &self.machines[self.place(id)]
    }

    /// One replica with its machine, to change its paces and what is held.
    pub fn machine_mut(&mut self, id: NodeId) -> &mut Machine {
        let place = self.place(id);
        &mut self.machines[place]
    }

    fn place(&self, id: NodeId) -> usize {
        self.machines
            .iter()
            .position(|machine| machine.id == id)
            .expect("a replica of this cluster")
    }

    /// The replica that leads in the highest term of those that run.
    pub fn leader(&self) -> Option<NodeId> {
        let statuses =
            self.machines.iter().filter_map(|machine| Some(machine.replica.as_ref()?.status()));
        let leaders = statuses.filter(|status| status.role == RoleName::Leader);
        leaders.max_by_key(|status| status.term).map(|status| status.id)
    }

    /// When the next event comes.
    pub fn next_at(&self) -> Option<Instant> {
        self.queue.next_at()
    }

    /// How many messages, requests, syncs and the like are on their way.
    pub fn under_way(&self) -> usize {
        self.queue.under_way
    }

    /// Lets a message arrive.
    pub fn deliver(&mut self, at: Instant, envelope: Envelope) {
        let place = self.place(envelope.to);
        let sender = self.machines[self.place(envelope.from)].incarnation;
        self.queue.push(at.max(self.now), Event::Deliver { place, sender, envelope });
    }

    /// Lets a client's request arrive.
    pub fn request(&mut self, at: Instant, to: NodeId, request: ClientRequest) {
        let place = self.place(to);
        self.queue.push(at.max(self.now), Event::Request { place, request });
    }

    /// Lets [`Cluster::advance`] return this number at that time.
    pub fn alarm(&mut self, at: Instant, number: u64) {
        self.queue.push(at.max(self.now), Event::Alarm(number));
    }

    /// Lets the time pass without any event, up to just before the next one.
    pub fn skip_to(&mut self, at: Instant) {
        assert!(self.next_at().is_none_or(|next| next >= at), "an event lies before {at:?}");
        self.now = self.now.max(at);
    }

    /// Handles the next event.
    ///
    /// # Errors
    /// If a rule was broken.
    pub fn advance(&mut self) -> Result<Happening, Violation> {
        let Some((at, event)) = self.queue.pop() else { return Ok(Happening::Nothing) };
        assert!(at >= self.now, "time runs backwards");
        self.now = at;
        self.events += 1;
        match event {
            Event::Alarm(number) => return Ok(Happening::Alarm(number)),
            Event::Deliver { place, sender, envelope } => {
                if self.believes(place, envelope.from, sender)? {
                    self.arrives(place, Msg::Peer(envelope))?;
                }
            }
            Event::Request { place, request } => self.asked(place, request)?,
            Event::Step { place, incarnation } => {
                if self.machines[place].incarnation == incarnation {
                    self.machines[place].due.step = false;
                    self.step(place)?;
                }
            }
            Event::Timer { place, incarnation } => {
                let machine = &mut self.machines[place];
                if machine.incarnation == incarnation && machine.timer_at == at {
                    machine.timer_at = Instant::MAX;
                    let held = machine.held.everything || machine.held.timeouts;
                    let due = machine.clock.when(machine.next_timeout(at));
                    if due <= at && !held {
                        self.step(place)?;
                    } else if due > at {
                        self.set_timer(place);
                    }
                }
            }
            Event::Synced { place, incarnation } => {
                if self.machines[place].incarnation == incarnation {
                    self.machines[place].due.sync = false;
                    self.synced(place)?;
                }
            }
            Event::Apply { place, incarnation } => {
                if self.machines[place].incarnation == incarnation {
                    self.machines[place].due.apply = false;
                    self.apply(place)?;
                }
            }
            Event::Taken { place, incarnation } => {
                if self.machines[place].incarnation == incarnation {
                    self.machines[place].due.taken = false;
                    self.snapshot_taken(place)?;
                }
            }
            Event::Stored { place, incarnation } => {
                if self.machines[place].incarnation == incarnation {
                    self.machines[place].due.store = false;
                    self.store_chunks(place);
                    self.step_soon(place)?;
                }
            }
            Event::Install { place, incarnation } => {
                if self.machines[place].incarnation == incarnation {
                    self.machines[place].due.install = false;
                    self.install(place)?;
                }
            }
            Event::Stop { place, incarnation } => {
                if self.machines[place].incarnation == incarnation {
                    let id = self.machines[place].id;
                    self.crash(id);
                    self.stopped.push(id);
                }
            }
        }
        Ok(Happening::Inside)
    }

    /// Starts a replica that has never run or has crashed. Its clock shows what the machine's
    /// clock shows then; `seed` is for its own draws. It stays down if its folder is damaged, or
    /// there is no room in it.
    ///
    /// # Errors
    /// If its disk does not hold what it had promised.
    pub fn start(&mut self, id: NodeId) -> Result<(), Violation> {
        let place = self.place(id);
        let machine = &mut self.machines[place];
        assert!(machine.replica.is_none(), "replica {id} runs");
        let start = match machine.disk.open(&mut machine.snapshots.latest, &mut machine.rng) {
            Started::With(start) => start,
            Started::NotNow(why) => {
                self.trace.note(self.now, format_args!("{} does not start: {why}", id.0));
                return Ok(());
            }
            Started::Broken(how) => {
                return Err(Violation(format!("D5: the folder of replica {id}: {how}")));
            }
        };
        machine.incarnation += 1;
        if let Some(files) = machine.disk.folder() {
            machine.openings.push((machine.incarnation, files.opening()));
        }
        machine.store = start.store.unwrap_or_else(|| machine.snapshots.load());
        let state = (machine.store.applied_index(), machine.store.digest());
        #[cfg(feature = "mutants")]
        if machine.config.mutant == Some(Mutant::ApplyTwice) {
            machine.store = crate::kv::StateMachine::forgetful();
        }
        #[cfg(feature = "mutants")]
        if machine.config.mutant == Some(Mutant::SnapshotWithoutSessions) {
            machine.store.forget_sessions();
        }
        let seed = machine.rng.number();
        let now = machine.clock.read(self.now);
        let (peers, config) = (&machine.peers, machine.config.clone());
        machine.replica = Some(Replica::new(id, peers, config, seed, start.durable, now));
        machine.timer_at = Instant::MAX;
        let true_now = self.now;
        let begin = |confirm_after| Box::new(ClockStage::start(machine, confirm_after, true_now));
        machine.clock_stage = machine.confirm_after.map(begin);
        self.trace.started(self.now, &self.machines[place]);
        self.checker.on_start(&self.machines[place])?;
        if state.0 > Index::ZERO {
            self.checker.applied(id, state.0, state.1)?;
        }
        self.set_timer(place);
        Ok(())
    }

    /// Whether a replica believes a message of this incarnation of a peer. It looks at a peer that
    /// has started anew as the server looks at a hello: whether it can be what it was before.
    fn believes(&mut self, place: usize, from: NodeId, sender: u64) -> Result<bool, Violation> {
        let from_place = self.place(from);
        let machine = &self.machines[place];
        // A crash counts too, and what left before it is of the incarnation before.
        let sender = sender - u64::from(sender.is_multiple_of(2));
        let heard = machine.heard.get(&from).copied().unwrap_or(0);
        if machine.replica.is_none() || machine.disk.folder().is_none() || sender <= heard {
            return Ok(true);
        }
        let openings = &self.machines[from_place].openings;
        let found = openings.iter().find(|(incarnation, _)| *incarnation == sender);
        let (incarnation, numbers) = found.expect("it had opened its folder").1.clone();
        // A connection ends with its process: what came late over one that this replica has
        // never heard over need not be believed.
        let latest = self.machines[from_place].incarnation;
        let machine = &mut self.machines[place];
        let files = machine.disk.files().expect("it was just looked at");
        match files.hear(from, incarnation, &numbers) {
            Ok(false) if sender < latest => return Ok(false),
            Ok(believed) => {
                demand!(
                    believed,
                    "D6: replica {} does not believe {from}, which has only started again",
                    machine.id
                );
                machine.heard.insert(from, sender);
            }
            Err(error) => {
                self.fail(place, &error);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A replica's disk failed: its process ends.
    fn fail(&mut self, place: usize, error: &StorageError) {
        let machine = &mut self.machines[place];
        machine.disk.fail();
        self.trace.note(self.now, format_args!("{}'s disk failed: {error}", machine.id.0));
        self.queue.push(self.now, Event::Stop { place, incarnation: machine.incarnation });
    }

    /// Puts an older copy of a replica's folder in its place while it is down, and lets it say
    /// hello to all others. Who has heard of what the copy has forgotten must not believe it; if
    /// all have, that is one more such copy. Then the folder is put back.
    ///
    /// # Errors
    /// If somebody believes it who must not.
    pub fn put_back_a_copy(&mut self, id: NodeId) -> Result<(), Violation> {
        let place = self.place(id);
        let Some(files) = self.machines[place].disk.files() else { return Ok(()) };
        let ghost = match files.put_back() {
            None => return Ok(()),
            Some(Ok(ghost)) => ghost,
            Some(Err(error)) => {
                return Err(Violation(format!("D6: an older copy of replica {id}: {error}")));
            }
        };
        let mut denied = true;
        for other in self.machines.iter().filter(|other| other.id != id) {
            let folder = other.disk.folder().expect("all have folders or none");
            let knows = folder.has_noted(id) > ghost.copied_at;
            denied &= knows;
            let believes = folder.believes(id, &ghost);
            demand!(
                !knows || believes != Some(true),
                "D6: replica {} believes a copy of replica {id}'s folder that was opened {} times, \
                 and had heard of opening {}",
                other.id,
                ghost.copied_at,
                folder.has_noted(id)
            );
        }
        if denied && self.machines.len() > 1 {
            self.machines[place].disk.files().expect("it was just there").note_denied();
            self.trace.note(self.now, format_args!("nobody believes an old copy of {}", id.0));
        }
        Ok(())
    }

    /// Stops a replica for good or until [`Cluster::start`]: all that is not on its disk is gone,
    /// and of what was being synced a part that its rng choose.
    pub fn crash(&mut self, id: NodeId) {
        let place = self.place(id);
        let machine = &mut self.machines[place];
        if let Some(replica) = machine.replica.take() {
            add_counters(&mut self.coverage, &replica);
        }
        machine.incarnation += 1;
        let snapshots = &machine.snapshots;
        machine.disk.crash(snapshots.latest, snapshots.in_the_making.as_ref(), &mut machine.rng);
        machine.snapshots.crash();
        machine.heard.clear();
        machine.stalled = None;
        machine.inbox.clear();
        machine.connections.clear();
        machine.applying.clear();
        machine.storing.clear();
        machine.receiving = None;
        if let Some(stage) = machine.clock_stage.take() {
            self.coverage.add(Situation::ClockJump, stage.jumps());
        }
        machine.due = Due::default();
        machine.held = Held { syncs: machine.held.syncs, ..Held::default() };
        self.trace.note(self.now, format_args!("{} crashes", id.0));
    }

    /// The disk of a replica that is down is lost; it is to start again under its id with an empty
    /// one. Two that are rejoining at once never come back.
    pub fn lose_disk(&mut self, id: NodeId) {
        let place = self.place(id);
        let machine = &mut self.machines[place];
        assert!(machine.replica.is_none(), "replica {id} runs");
        self.checker.on_disk_lost(machine);
        machine.disk.lose();
        machine.snapshots.lose();
        machine.store = StateMachine::default();
        self.coverage.add(Situation::DiskLoss, 1);
        self.trace.note(self.now, format_args!("{} has lost its disk", id.0));
    }

    /// Ends a pause: the replica does all that waited.
    ///
    /// # Errors
    /// If a rule was broken.
    pub fn resume(&mut self, id: NodeId) -> Result<(), Violation> {
        let place = self.place(id);
        self.machines[place].held.everything = false;
        if self.machines[place].replica.is_some() {
            self.synced_if_done(place)?;
            self.apply(place)?;
            if !self.machines[place].due.taken {
                self.snapshot_taken(place)?;
            }
            if !self.machines[place].due.store {
                self.store_chunks(place);
            }
            if !self.machines[place].due.install {
                self.install(place)?;
            }
            self.step(place)?;
        }
        Ok(())
    }

    /// A sync that ended while the replica was paused is noticed afterwards.
    fn synced_if_done(&mut self, place: usize) -> Result<(), Violation> {
        let machine = &self.machines[place];
        if machine.disk.is_syncing() && !machine.due.sync && !machine.held.syncs {
            self.synced(place)?;
        }
        Ok(())
    }

    /// A replica hears how much room its disk has.
    ///
    /// # Errors
    /// If a rule was broken.
    pub fn room(&mut self, id: NodeId, room: DiskSpace) -> Result<(), Violation> {
        let place = self.place(id);
        self.arrives(place, Msg::DiskSpace(room))
    }

    /// Ends the sync that a script holds, and begins the next one if something waits.
    ///
    /// # Errors
    /// If a rule was broken.
    pub fn sync(&mut self, id: NodeId) -> Result<(), Violation> {
        let place = self.place(id);
        self.machines[place].disk.begin_sync();
        self.synced(place)
    }

    /// Lets a replica look at its timers again, after its clock or what is held was changed.
    pub fn set_timer_of(&mut self, id: NodeId) {
        let place = self.place(id);
        self.machines[place].timer_at = Instant::MAX;
        self.set_timer(place);
    }

    fn asked(&mut self, place: usize, request: ClientRequest) -> Result<(), Violation> {
        let machine = &mut self.machines[place];
        if machine.replica.is_none() {
            return Ok(());
        }
        self.trace.request_arrives(self.now, machine, &request);
        self.client_model.asked(request.key, self.checker.commit_index(), self.now);
        if self.protocol == ClientProtocol::Connection && request.kind == RequestKind::Write {
            *machine.connections.entry(request.key).or_default() += 1;
        }
        self.arrives(place, Msg::Client(request))
    }

    fn arrives(&mut self, place: usize, message: Msg) -> Result<(), Violation> {
        let machine = &mut self.machines[place];
        if machine.replica.is_none() || machine.inbox.len() >= INBOX_MAX {
            return Ok(());
        }
        if let Msg::Peer(envelope) = &message {
            self.trace.arrives(self.now, machine, envelope);
        }
        machine.inbox.push_back(message);
        self.step_soon(place)
    }

    /// Handles what waits at the end of the batch; at once if batches take no time.
    fn step_soon(&mut self, place: usize) -> Result<(), Violation> {
        let machine = &mut self.machines[place];
        if machine.held.everything || machine.due.step {
            return Ok(());
        }
        if machine.paces.batch.is_zero() {
            return self.step(place);
        }
        machine.due.step = true;
        let at = self.now + machine.paces.batch.draw(&mut machine.rng);
        self.queue.push(at, Event::Step { place, incarnation: machine.incarnation });
        Ok(())
    }

    /// A driver's step: all that waits, the time-out if it is due, one flush, the effects. What
    /// these bring back at once is handled in further steps at the same time.
    fn step(&mut self, place: usize) -> Result<(), Violation> {
        loop {
            let machine = &mut self.machines[place];
            let Some(replica) = machine.replica.as_mut() else { return Ok(()) };
            if machine.held.everything {
                return Ok(());
            }
            let now = machine.clock.read(self.now);
            machine.steps_at_once = (
                self.now,
                if machine.steps_at_once.0 == self.now { machine.steps_at_once.1 + 1 } else { 0 },
            );
            demand!(
                machine.steps_at_once.1 < STEPS_AT_ONCE_MAX,
                "L6: replica {} takes step after step at {now:?}; its next time-out is {:?}",
                machine.id,
                replica.next_timeout()
            );
            self.trace.before_step(replica);
            let out = &mut self.effects;
            let mut waited = Vec::new();
            if let Some(stage) = &mut machine.clock_stage {
                stage.observe(now, machine.wall.read(self.now));
                let (term, leader, leads) = (replica.term(), replica.leader(), replica.is_leader());
                waited = stage.lead(now, term, leader, leads);
            }
            for message in waited.into_iter().chain(machine.inbox.drain(..)) {
                let append = append_of(&message);
                self.checker.receives(place, &message);
                let message = match (&mut machine.clock_stage, message) {
                    (Some(stage), Msg::Client(request)) => {
                        match pass_clock(stage, replica, now, request, out) {
                            Some(message) => message,
                            None => continue,
                        }
                    }
                    (_, message) => message,
                };
                replica.handle_msg(now, message, out);
                // A replica that is silent after its start names nobody, and hears nobody.
                if let Some((leader, term)) = append
                    && replica.term() == term
                    && replica.last_known_leader() == Some(leader)
                {
                    self.checker.heard_leader(place, now, term);
                }
            }
            if now >= replica.next_timeout() && !machine.held.timeouts {
                replica.handle_timeout(now, out);
            }
            if replica.accepts_writes()
                && let Some(entry) = machine.clock_stage.as_mut().and_then(|stage| stage.due(now))
            {
                replica.handle_msg(now, entry, out);
            }
            replica.flush(now, out);
            replica.check();
            let status = replica.status();
            if let Some((term, end)) = machine.receiving
                && term < status.term
            {
                machine.receiving = None;
                let interrupted = u64::from(status.commit_index < end);
                self.coverage.add(Situation::InterruptedInstall, interrupted);
            }
            self.checker.after_step(&self.machines, place, &status)?;
            self.trace.after_step(self.now, &self.machines[place], &status, &self.effects);
            self.carry_out(place, status.role)?;
            let machine = &self.machines[place];
            if machine.inbox.is_empty() {
                break;
            }
            if !machine.paces.batch.is_zero() {
                self.step_soon(place)?;
                break;
            }
        }
        self.set_timer(place);
        Ok(())
    }

    fn carry_out(&mut self, place: usize, role: RoleName) -> Result<(), Violation> {
        let mut effects = std::mem::take(&mut self.effects);
        for envelope in effects.send.drain(..) {
            self.send(place, envelope)?;
        }
        for rejected in effects.rejected.drain(..) {
            let machine = &self.machines[place];
            demand!(
                self.forged,
                "H3: replica {} rejects a message of {}: {}",
                machine.id,
                rejected.from,
                rejected.reason
            );
            let text =
                format_args!("{} rejects {}: {}", machine.id.0, rejected.from.0, rejected.reason);
            self.trace.note(self.now, text);
        }
        for refusal in effects.refusals.drain(..) {
            if refusal.key == RequestKey::default() {
                // An entry of the replicated clock: nobody waits for it.
                continue;
            }
            self.client_model.refused(self.machines[place].id, refusal.key)?;
            self.machines[place].disconnect(refusal.key);
            let kind = AnswerKind::Refused(refusal.reason);
            self.answer(place, refusal.key, refusal.leader, kind);
        }
        for mut envelope in effects.chunks_to_send.drain(..) {
            let machine = &mut self.machines[place];
            if machine.snapshots.fill(&mut machine.disk, &mut envelope) {
                self.send(place, envelope)?;
            } else if let PeerMsg::InstallSnapshot(install) = &envelope.message
                && machine.snapshots.is_lost_still(&mut machine.disk, install.snapshot)
            {
                self.take_another(place);
            }
        }
        for id in effects.suspect_snapshots.drain(..) {
            let machine = &mut self.machines[place];
            if machine.snapshots.is_lost(&mut machine.disk, id) {
                self.trace.note(self.now, format_args!("{} has lost {}", machine.id.0, id.last));
                self.take_another(place);
            }
        }
        if !effects.received_chunks.is_empty() {
            let machine = &mut self.machines[place];
            let begun = |chunk: &SnapshotChunk| (chunk.term, chunk.snapshot.last.index);
            machine.receiving = effects.received_chunks.last().map(begun);
            machine.storing.extend(effects.received_chunks.drain(..));
            self.store_soon(place);
        }
        if let Some(job) = effects.append.take() {
            self.write(place, role, job)?;
        }
        if !effects.apply.is_empty() {
            let machine = &mut self.machines[place];
            let now = machine.clock.read(self.now);
            let stage = machine.clock_stage.as_mut().filter(|_| !effects.apply.reads.is_empty());
            let read_clock = stage.map_or((0, 0), |stage| stage.for_reads(now));
            machine.applying.push_back((std::mem::take(&mut effects.apply), read_clock));
            if machine.paces.apply.is_zero() {
                self.apply(place)?;
            } else if !machine.due.apply {
                machine.due.apply = true;
                let at = self.now + machine.paces.apply.draw(&mut machine.rng);
                self.queue.push(at, Event::Apply { place, incarnation: machine.incarnation });
            }
        }
        // Its vectors are empty now; their memory is used again.
        self.effects = effects;
        Ok(())
    }

    /// Begins to store the chunks that wait, unless some are being stored. It takes as long as a
    /// sync, so the leader may be another one when it is done.
    fn store_soon(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        if machine.due.store || machine.held.chunks {
            return;
        }
        if machine.paces.sync.is_zero() {
            self.store_chunks(place);
            return;
        }
        machine.due.store = true;
        let at = self.now + machine.paces.sync.draw(&mut machine.rng);
        self.queue.push(at, Event::Stored { place, incarnation: machine.incarnation });
    }

    /// Stores the chunks that wait; the core hears of each in its next step.
    fn store_chunks(&mut self, place: usize) {
        if self.machines[place].held.everything || self.machines[place].held.chunks {
            return;
        }
        while let Some(chunk) = self.machines[place].storing.pop_front() {
            let machine = &mut self.machines[place];
            let (stored, whole) = match machine.snapshots.store_chunk(&mut machine.disk, &chunk) {
                Ok(Some(stored)) => stored,
                Ok(None) => continue,
                Err(error) => {
                    self.fail(place, &error);
                    break;
                }
            };
            machine.inbox.push_back(Msg::ChunkStored(stored));
            if whole && !machine.due.install {
                machine.due.install = true;
                let at = self.now + machine.paces.sync.draw(&mut machine.rng);
                self.queue.push(at, Event::Install { place, incarnation: machine.incarnation });
            }
        }
    }

    /// Stores the chunks that a script holds back.
    ///
    /// # Errors
    /// If a rule was broken.
    pub fn store_held_chunks(&mut self, id: NodeId) -> Result<(), Violation> {
        let place = self.place(id);
        self.machines[place].held.chunks = false;
        self.store_chunks(place);
        self.step_soon(place)
    }

    fn send(&mut self, place: usize, envelope: Envelope) -> Result<(), Violation> {
        self.checker.on_send(&self.machines, place, &envelope)?;
        self.sent.push(envelope);
        Ok(())
    }

    fn answer(&mut self, place: usize, key: RequestKey, leader: Option<NodeId>, kind: AnswerKind) {
        let answer = Answer { from: self.machines[place].id, key, leader, kind };
        self.trace.answers(self.now, &answer);
        self.answers.push(answer);
    }

    fn write(&mut self, place: usize, role: RoleName, job: AppendJob) -> Result<(), Violation> {
        let machine = &self.machines[place];
        self.checker.on_job(machine, role, &job, machine.clock.read(self.now))?;
        self.machines[place].disk.write(job);
        self.begin_sync(place)
    }

    fn begin_sync(&mut self, place: usize) -> Result<(), Violation> {
        let machine = &mut self.machines[place];
        if !machine.disk.begin_sync() || machine.held.syncs {
            return Ok(());
        }
        if machine.paces.sync.is_zero() && machine.stalled.is_none() {
            return self.end_sync(place);
        }
        machine.due.sync = true;
        let length = match machine.stalled.take() {
            Some(length) => {
                machine.disk.note_stall();
                length
            }
            None => machine.paces.sync.draw(&mut machine.rng),
        };
        let at = self.now + length;
        self.queue.push(at, Event::Synced { place, incarnation: machine.incarnation });
        Ok(())
    }

    /// A sync has ended, and the core hears of it in a step.
    fn synced(&mut self, place: usize) -> Result<(), Violation> {
        if self.machines[place].held.everything {
            return Ok(());
        }
        self.end_sync(place)?;
        self.begin_sync(place)?;
        self.step_soon(place)
    }

    /// What a sync made durable may be vouched for, job by job.
    fn end_sync(&mut self, place: usize) -> Result<(), Violation> {
        loop {
            let machine = &mut self.machines[place];
            let job = match machine.disk.end_sync() {
                Ok(Some(job)) => job,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.fail(place, &error);
                    return Ok(());
                }
            };
            self.trace.synced(self.now, machine, &job);
            if job.rejoined {
                self.trace.note(self.now, format_args!("{} has rejoined", machine.id.0));
            }
            let machine = &self.machines[place];
            self.checker.on_synced(machine)?;
            for envelope in job.release {
                self.send(place, envelope)?;
            }
            let last = job.entries.last().map(crate::record::Entry::id);
            let persisted = Persisted { sequence: job.sequence, last };
            self.machines[place].inbox.push_back(Msg::Persisted(persisted));
        }
    }

    /// The apply stage does all its jobs.
    fn apply(&mut self, place: usize) -> Result<(), Violation> {
        if self.machines[place].held.everything {
            return Ok(());
        }
        let mut last = None;
        while let Some((job, read_clock)) = self.machines[place].applying.pop_front() {
            for committed in &job.entries {
                let entry = &committed.entry;
                if entry.index() <= self.machines[place].store.applied_index() {
                    // A snapshot that was taken in meanwhile has it.
                    continue;
                }
                let result =
                    self.apply_entry(place, entry.index(), entry.kind(), entry.payload())?;
                last = Some(entry.id());
                let Some((key, outcome)) = result else { continue };
                let ours = match self.protocol {
                    ClientProtocol::Course => committed.as_leader,
                    ClientProtocol::Connection => self.machines[place].disconnect(key),
                };
                if ours {
                    self.client_model.answered_write(self.machines[place].id, key, &outcome)?;
                    let leader =
                        self.machines[place].replica.as_ref().and_then(Replica::last_known_leader);
                    self.answer(place, key, leader, AnswerKind::Done(outcome));
                }
            }
            let waited = self.machines[place].clock_stage.as_mut();
            let waited = waited.map(|stage| std::mem::take(&mut stage.unclocked));
            let reads = job.reads.into_iter().map(|read| (read_clock.0, read_clock.1, read));
            for (millis, resets, read) in waited.into_iter().flatten().chain(reads) {
                let machine = &mut self.machines[place];
                let command = Command::decode(&read.payload).ok();
                if let Some(stage) = &mut machine.clock_stage
                    && machine.store.is_behind(command.as_ref(), millis, resets)
                {
                    self.coverage.add(Situation::DeferredRead, 1);
                    stage.unclocked.push((millis, resets, read));
                } else {
                    self.read(place, &read)?;
                }
            }
        }
        let machine = &mut self.machines[place];
        let (now, shown) = (machine.clock.read(self.now), machine.store.shown());
        if let Some(stage) = &mut machine.clock_stage {
            stage.note(now, shown);
            self.set_timer(place);
        }
        if let Some(last) = last {
            self.machines[place].inbox.push_back(Msg::Applied { index: last.index });
            self.take_snapshot(place, last);
            if !self.machines[place].paces.apply.is_zero() {
                return self.step_soon(place);
            }
        }
        Ok(())
    }

    /// Takes a snapshot in the place of one that is lost.
    fn take_another(&mut self, place: usize) {
        let machine = &self.machines[place];
        let index = machine.store.applied_index();
        let last = machine.replica.as_ref().map(|replica| replica.log().id_at(index));
        self.take_snapshot(place, last.expect("it runs"));
    }

    /// Takes a snapshot of the state, which ends with this entry, if it is time.
    fn take_snapshot(&mut self, place: usize, last: EntryId) {
        let machine = &mut self.machines[place];
        if machine.snapshots.take(&machine.store, last) {
            machine.due.taken = true;
            let at = self.now + machine.paces.sync.draw(&mut machine.rng);
            self.queue.push(at, Event::Taken { place, incarnation: machine.incarnation });
            if machine.config.breaks(Mutant::CompactLogEarly)
                && let Some(made) = &machine.snapshots.in_the_making
            {
                machine.inbox.push_back(Msg::SnapshotTaken(made.id));
            }
        }
    }

    /// A snapshot that was taken is durable.
    fn snapshot_taken(&mut self, place: usize) -> Result<(), Violation> {
        let machine = &mut self.machines[place];
        if machine.held.everything {
            return Ok(());
        }
        let id = match machine.snapshots.taken(&mut machine.disk) {
            Ok(Some(id)) => id,
            Ok(None) => return self.given_up(place),
            Err(error) => {
                self.fail(place, &error);
                return Ok(());
            }
        };
        self.trace
            .note(self.now, format_args!("{} has a snapshot up to {}", machine.id.0, id.last));
        machine.inbox.push_back(Msg::SnapshotTaken(id));
        self.step_soon(place)
    }

    /// A leader's snapshot is whole: it takes the place of the state, unless that has come further.
    fn install(&mut self, place: usize) -> Result<(), Violation> {
        let machine = &mut self.machines[place];
        if machine.held.everything {
            return Ok(());
        }
        let (id, store) = match machine.snapshots.install(&mut machine.disk) {
            Ok(None) => return self.given_up(place),
            Ok(Some(installed)) => installed,
            Err(error) => {
                self.fail(place, &error);
                return Ok(());
            }
        };
        let older = id.last.index <= machine.store.applied_index();
        if !older || machine.config.breaks(Mutant::InstallOlderSnapshot) {
            machine.store = store;
            #[cfg(feature = "mutants")]
            if machine.config.mutant == Some(Mutant::SnapshotWithoutSessions) {
                machine.store.forget_sessions();
            }
            self.coverage.add(Situation::Install, 1);
            self.checker.applied(machine.id, id.last.index, machine.store.digest())?;
        }
        self.trace.note(self.now, format_args!("{} takes in {}", machine.id.0, id.last));
        machine.receiving = None;
        machine.inbox.push_back(Msg::Installed(id));
        self.step_soon(place)
    }

    /// A snapshot was given up. If its bytes were wrong, some disk must have damaged it.
    fn given_up(&mut self, place: usize) -> Result<(), Violation> {
        let folder = self.machines[place].disk.files();
        let Some(error) = folder.and_then(Files::take_bad_snapshot) else { return Ok(()) };
        let harmful = [DiskFault::RottenSnapshot, DiskFault::BadSnapshotWrite];
        let is_harmed = |machine: &Machine| {
            let statistics = machine.disk.statistics();
            harmful.iter().any(|&kind| statistics.injected(kind) > 0)
        };
        demand!(
            self.machines.iter().any(is_harmed),
            "D8: replica {} was sent or made a bad snapshot: {error}",
            self.machines[place].id
        );
        Ok(())
    }

    fn apply_entry(
        &mut self,
        place: usize,
        index: Index,
        kind: EntryKind,
        payload: &[u8],
    ) -> Result<Option<(RequestKey, Outcome)>, Violation> {
        let machine = &mut self.machines[place];
        demand!(
            index == machine.store.applied_index().next(),
            "S8: replica {} is to apply {index} after {}",
            machine.id,
            machine.store.applied_index()
        );
        let applied = match kind {
            EntryKind::NoOp => {
                machine.store.skip(index);
                None
            }
            EntryKind::Command => Some(machine.store.apply(index, payload)),
        };
        self.checker.applied(machine.id, index, machine.store.digest())?;
        let leaders = self.checker.leader_count();
        let now = (self.now, leaders);
        self.client_model.applied(machine.id, index, payload, applied.as_ref(), now)?;
        Ok(applied.map(|applied| (applied.key, applied.outcome)))
    }

    fn read(&mut self, place: usize, read: &ClientRequest) -> Result<(), Violation> {
        let machine = &self.machines[place];
        let (key, outcome) = machine
            .store
            .read(&read.payload)
            .map_err(|error| Violation(format!("C8: {:?} is no read: {error}", read.key)))?;
        let state = machine.store.applied_index();
        let now = (self.now, self.checker.leader_count());
        self.client_model.answered_read(machine.id, key, &read.payload, &outcome, state, now)?;
        let leader = machine.replica.as_ref().and_then(Replica::last_known_leader);
        self.answer(place, key, leader, AnswerKind::Done(outcome));
        Ok(())
    }

    /// Puts a timer event into the queue unless one is there that comes no later.
    fn set_timer(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        if machine.replica.is_none() {
            return;
        }
        let at = machine.clock.when(machine.next_timeout(self.now)).max(self.now);
        if at < machine.timer_at && at != Instant::MAX && !machine.held.timeouts {
            machine.timer_at = at;
            self.queue.push(at, Event::Timer { place, incarnation: machine.incarnation });
        }
    }
}
/// Lets a client's request pass the replicated clock, as the server's core stage does; `None` if it
/// was refused, or waits.
fn pass_clock(
    stage: &mut ClockStage,
    replica: &mut Replica,
    now: Instant,
    request: ClientRequest,
    out: &mut Effects,
) -> Option<Msg> {
    if !replica.is_leader() {
        // Not whom it knew last: a client would go back and forth between two that know no better.
        let (key, leader) = (request.key, replica.leader());
        out.refusals.push(Refusal { key, reason: RefusalReason::NotLeader, leader });
        return None;
    }
    let (key, is_write) = (request.key, request.kind == RequestKind::Write);
    let message = stage.hold(now, replica.term(), Msg::Client(request))?;
    if is_write
        && replica.accepts_writes()
        && let Some(entry) = stage.before_write(now)
    {
        let last = replica.log().last();
        replica.handle_msg(now, entry, out);
        if replica.log().last() == last {
            // The log is full, and the write must not be applied by a clock that is behind.
            stage.proposal_refused();
            let leader = replica.leader();
            out.refusals.push(Refusal { key, reason: RefusalReason::Busy, leader });
            return None;
        }
    }
    Some(message)
}

/// Adds what a replica has counted since it started.
fn add_counters(coverage: &mut Coverage, replica: &Replica) {
    let counters = replica.status().counters;
    coverage.add(Situation::LeaseRead, counters.lease_reads);
    coverage.add(Situation::ReadIndexRead, counters.read_index_reads);
}

/// Sender and term, if it is an append.
fn append_of(message: &Msg) -> Option<(NodeId, Term)> {
    match message {
        Msg::Peer(Envelope { from, message: PeerMsg::AppendEntries(append), .. }) => {
            Some((*from, append.term))
        }
        _ => None,
    }
}
