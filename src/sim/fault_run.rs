//! One fault run: a cluster under a workload while things go wrong, then a chosen majority
//! without faults, of which progress is demanded. Every rule is checked on the way, and what the
//! clients saw is judged at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::config::Config;
use crate::raft::{Envelope, Replica};
use crate::sim::checkers::linearizability;
use crate::sim::checkers::safety::{Violation, demand};
use crate::sim::cluster::network::{Fate, LinkQuality, Network};
use crate::sim::cluster::trace::Trace;
use crate::sim::cluster::{Answer, ClientProtocol, Cluster, Happening};
use crate::sim::coverage::{Coverage, Situation};
use crate::sim::disk::statistics::{DiskFault, FaultStatistics};
use crate::sim::disk::{Clock, Disk, Pace};
use crate::sim::faults::{Fault, Plan, Profile, draw_origin, draw_rate};
use crate::sim::machine::Paces;
use crate::sim::rng::Rng;
use crate::sim::workload::{ACCOUNT_START, Order, Workload, is_account};
use crate::types::{Instant, NodeId, RequestKey, Term};
use crate::wire;

/// How often to look for two leaders, and at which interval: together longer than most elections,
/// and than a leader leads on without a quorum.
const VOTER_POLLS: u32 = 300;
const VOTER_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// As a chunk this is any snapshot as a whole.
const WHOLE_BYTES: usize = 1 << 20;

/// How often replicas tell their peers of their wall clocks, and how late a report may come.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);
const REPORT_DELAY_MAX: Duration = Duration::from_millis(100);

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Virtual time that passed.
    pub virtual_time: Duration,
    /// Events handled.
    pub events: u64,
    /// Terms that had a leader.
    pub leaders: usize,
    /// Entries committed.
    pub committed: u64,
    /// Times that a leader told a successor to take over.
    pub handovers: usize,
    /// Requests answered.
    pub answered: u64,
    /// Attempts refused.
    pub refused: u64,
    /// A digest of all that was sent and answered, and when: equal for equal runs.
    pub fingerprint: u64,
    /// What went wrong with disks, in profiles that run the storage code.
    pub disks: FaultStatistics,
    /// How often the situations were reached that the rules are about.
    pub coverage: Coverage,
}

/// A run that broke a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which rule, with the facts.
    pub violation: Violation,
    /// When.
    pub at: Instant,
    /// The last events before, if they were traced.
    pub trace: Vec<String>,
}

/// The driver's alarms.
#[derive(Debug)]
enum Alarm {
    Wake {
        client: usize,
        turn: u32,
    },
    Answer(Answer),
    Fault,
    Resume(NodeId),
    Restart(NodeId),
    /// The operator has put back what was damaged.
    Restore(NodeId),
    /// There is room on the disk again.
    Room(NodeId),
    /// Replicas tell their peers of their wall clocks.
    TellClocks,
    HearClock {
        from: NodeId,
        to: NodeId,
        millis: u64,
    },
    /// Wall clocks that have jumped for a moment are what they were.
    EndGlitch,
    /// Look whether two replicas lead, this many more times.
    LoseVoter(u32),
}

/// Whom a request was sent to.
#[derive(Clone, Copy, Debug)]
struct Asked {
    to: NodeId,
    /// Of the replica, then.
    incarnation: u64,
    at: Instant,
}

/// A run under way.
#[derive(Debug)]
struct FaultRun {
    plan: Plan,
    rng: Rng,
    cluster: Cluster,
    network: Network,
    client_network: Rng,
    workload: Workload,
    alarms: BTreeMap<u64, Alarm>,
    next_alarm: u64,
    /// Who could be asked, once only a majority counts.
    core: Option<Vec<NodeId>>,
    /// Others may still be heard then, and one of them may lead.
    outsiders: bool,
    calm_since: Instant,
    /// Whom each request was last sent to.
    asked: BTreeMap<RequestKey, Asked>,
    orders: Vec<Order>,
    fingerprint: u64,
    /// Whose wall clocks may be wrong for long: fewer than half of all.
    wrong: Vec<NodeId>,
    wall_rng: Rng,
    /// Wall clocks have jumped for a moment.
    glitch: bool,
    /// Times a voter for the newer of two leaders lost its disk.
    voters_lost: u64,
}

/// Runs one seed of a profile. `change` may alter the configuration that was drawn, and the last
/// `trace_lines` events are kept for a failure.
///
/// # Errors
/// If a rule was broken.
pub fn run(
    profile: Profile,
    seed: u64,
    trace: Trace,
    change: &dyn Fn(&mut Config),
) -> Result<Summary, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let mut plan = Plan::draw(profile, &mut rng);
    change(&mut plan.config);
    let mut run = FaultRun::new(plan, rng, trace, Rng::new(!seed));
    let outcome = run.play();
    outcome.map_err(|violation| {
        let trace = run.cluster.trace.take();
        Box::new(Failure { violation, at: run.cluster.now(), trace })
    })
}

impl FaultRun {
    fn new(plan: Plan, mut rng: Rng, trace: Trace, mut wall_rng: Rng) -> FaultRun {
        let mut wrong = plan.ids.clone();
        wall_rng.shuffle(&mut wrong);
        wrong.truncate((plan.ids.len() - 1) / 2);
        let mut cluster = Cluster::new(&plan.ids, &plan.config, plan.protocol, &mut rng);
        cluster.trace = trace;
        for &id in &plan.ids {
            let machine = cluster.machine_mut(id);
            machine.paces = plan.paces;
            if let Some(bytes) = plan.segment_bytes {
                machine.disk = Disk::with_files(id, &plan.ids, bytes);
                #[cfg(feature = "mutants")]
                machine.disk.files().expect("it was made so").set_mutant(plan.config.mutant);
            }
            machine.confirm_after = plan.confirm_after;
            // Ahead: with one that is behind, and a right one that can't be heard, the clocks of a
            // quorum are not right, and no bound holds.
            machine.wall.skew = if wrong.contains(&id) {
                draw_jump(&mut wall_rng).abs()
            } else {
                i64::try_from(wall_rng.below(20)).expect("20")
            };
            machine.snapshots.plan = plan.snapshots;
            machine.clock = Clock::new(
                Instant::ZERO,
                draw_origin(&mut rng),
                draw_rate(plan.drift_ppm, &mut rng),
            );
        }
        FaultRun {
            network: Network::new(rng.split(), &plan.ids, plan.quality),
            client_network: rng.split(),
            workload: Workload::new(plan.protocol, plan.load, &plan.ids, rng.split()),
            cluster,
            rng,
            plan,
            alarms: BTreeMap::new(),
            next_alarm: 0,
            core: None,
            outsiders: false,
            calm_since: Instant::ZERO,
            asked: BTreeMap::new(),
            orders: Vec::new(),
            fingerprint: 0,
            wrong,
            wall_rng,
            glitch: false,
            voters_lost: 0,
        }
    }

    fn play(&mut self) -> Result<Summary, Violation> {
        for id in self.plan.ids.clone() {
            self.cluster.start(id)?;
            self.cluster.machine_mut(id).disk.may_rot = self.plan.may_rot;
        }
        if self.plan.confirm_after.is_some() {
            self.set_alarm(Instant::ZERO, Alarm::TellClocks);
        }
        self.workload.begin(&mut self.orders);
        self.give_orders();
        if !self.plan.faults.is_empty() {
            self.next_fault();
        }
        self.run_until(Instant::ZERO + self.plan.duration)?;
        self.calm_down()?;
        self.demand_progress()?;
        self.judge()?;
        let (answered, refused) = self.workload.heard();
        let mut disks = FaultStatistics::default();
        self.cluster.machines().iter().for_each(|machine| disks.add(&machine.disk.statistics()));
        Ok(Summary {
            virtual_time: self.cluster.now().since(Instant::ZERO),
            events: self.cluster.events(),
            leaders: self.cluster.checker.leader_count(),
            committed: self.cluster.checker.commit_index().0,
            handovers: self.cluster.checker.handover_count(),
            answered,
            refused,
            fingerprint: self.fingerprint,
            disks,
            coverage: self.coverage(),
        })
    }

    fn coverage(&self) -> Coverage {
        let mut coverage = self.cluster.coverage();
        coverage.add(Situation::Election, self.cluster.checker.leader_count() as u64);
        coverage.add(Situation::Rejoin, self.cluster.checker.rejoined());
        coverage.add(Situation::VoterDiskLoss, self.voters_lost);
        coverage.add(Situation::Resend, self.workload.resend_count());
        coverage
    }

    fn run_until(&mut self, end: Instant) -> Result<(), Violation> {
        while self.cluster.next_at().is_some_and(|at| at <= end) {
            self.advance()?;
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<(), Violation> {
        if let Happening::Alarm(number) = self.cluster.advance()? {
            let alarm = self.alarms.remove(&number).expect("an alarm goes off once");
            self.on_alarm(alarm)?;
        }
        for id in std::mem::take(&mut self.cluster.stopped) {
            self.start_later(id);
        }
        self.carry_messages()?;
        self.carry_answers();
        Ok(())
    }

    // Messages.

    fn carry_messages(&mut self) -> Result<(), Violation> {
        if self.cluster.sent.is_empty() {
            return Ok(());
        }
        let now = self.cluster.now();
        let mut sent = std::mem::take(&mut self.cluster.sent);
        for envelope in sent.drain(..) {
            self.mix(now, (u64::from(envelope.from.0) << 16) | u64::from(envelope.to.0));
            let fate = self.network.fate(now, envelope.from, envelope.to);
            if self.cluster.trace.is_on() {
                let replica = self.cluster.machine(envelope.from).replica.as_ref();
                let term = replica.map_or(Term(0), |replica| replica.status().term);
                let arrow = match fate {
                    Fate::Cut => "x->",
                    Fate::Lost => "~->",
                    Fate::Arrives { .. } => "->",
                };
                self.cluster.trace.sent(now, term, &envelope, arrow);
            }
            let Fate::Arrives { at, again } = fate else { continue };
            let envelope = if self.plan.through_wire { through_wire(envelope)? } else { envelope };
            if let Some(again) = again {
                self.cluster.deliver(again, envelope.clone());
            }
            self.cluster.deliver(at, envelope);
        }
        self.cluster.sent = sent;
        Ok(())
    }

    fn carry_answers(&mut self) {
        let now = self.cluster.now();
        for answer in std::mem::take(&mut self.cluster.answers) {
            self.mix(now, u64::from(answer.key.client.0));
            for at in self.way_of_client_message() {
                self.set_alarm(at, Alarm::Answer(answer.clone()));
            }
        }
    }

    /// When a message between a client and a replica arrives: once, twice or never.
    fn way_of_client_message(&mut self) -> Vec<Instant> {
        let quality =
            if self.core.is_some() { clean(&self.plan) } else { self.plan.client_quality };
        let (rng, now) = (&mut self.client_network, self.cluster.now());
        if rng.chance(quality.loss_permille) {
            return Vec::new();
        }
        let copies = if rng.chance(quality.duplicate_permille) { 2 } else { 1 };
        let way = |_| {
            let late = rng.chance(quality.late_permille);
            now + rng
                .span(quality.delay_min, if late { quality.late_max } else { quality.delay_max })
        };
        (0..copies).map(way).collect()
    }

    fn give_orders(&mut self) {
        for order in std::mem::take(&mut self.orders) {
            match order {
                Order::Ask { to, request } => {
                    self.cluster.trace.asked(&request);
                    let incarnation = self.cluster.machine(to).incarnation();
                    let at = self.cluster.now();
                    self.asked.insert(request.key, Asked { to, incarnation, at });
                    for at in self.way_of_client_message() {
                        self.cluster.request(at, to, request.clone());
                    }
                }
                Order::Wake { client, turn, after } => {
                    self.set_alarm(self.cluster.now() + after, Alarm::Wake { client, turn });
                }
            }
        }
    }

    fn mix(&mut self, now: Instant, what: u64) {
        let state = self.fingerprint ^ now.0.rotate_left(20) ^ what;
        self.fingerprint = state.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    fn set_alarm(&mut self, at: Instant, alarm: Alarm) {
        self.next_alarm += 1;
        self.alarms.insert(self.next_alarm, alarm);
        self.cluster.alarm(at, self.next_alarm);
    }

    fn on_alarm(&mut self, alarm: Alarm) -> Result<(), Violation> {
        self.workload.set_now(self.cluster.now());
        match alarm {
            Alarm::Wake { client, turn } => self.workload.wake(client, turn, &mut self.orders),
            Alarm::Answer(answer) => self.workload.hear(&answer, &mut self.orders)?,
            Alarm::Fault if self.core.is_none() => {
                let fault = *self.rng.pick(&self.plan.faults);
                self.happen(fault);
                self.next_fault();
            }
            Alarm::LoseVoter(polls) if self.core.is_none() => self.lose_a_voter(polls),
            Alarm::Resume(id) if self.cluster.machine(id).held.everything => {
                self.note(format_args!("{} goes on", id.0));
                self.cluster.resume(id)?;
            }
            Alarm::Restart(id) if self.cluster.machine(id).replica.is_none() => {
                // Those that the second phase leaves out stay as they are.
                if self.core.is_none() {
                    self.restart(id)?;
                }
            }
            Alarm::Restore(id) if self.cluster.machine(id).replica.is_none() => {
                if self.core.is_none() {
                    self.note(format_args!("{}'s files are as they were", id.0));
                    self.cluster.machine_mut(id).disk.restore();
                    self.restart(id)?;
                }
            }
            Alarm::Room(id) => {
                self.note(format_args!("there is room on {}'s disk", id.0));
                self.cluster.machine_mut(id).disk.make_room();
            }
            Alarm::TellClocks => self.tell_clocks(),
            Alarm::HearClock { from, to, millis } => self.cluster.hear_wall_clock(to, from, millis),
            Alarm::EndGlitch => self.end_glitch(),
            Alarm::Fault
            | Alarm::LoseVoter(_)
            | Alarm::Resume(_)
            | Alarm::Restart(_)
            | Alarm::Restore(_) => {}
        }
        self.give_orders();
        Ok(())
    }

    fn note(&mut self, text: std::fmt::Arguments<'_>) {
        self.cluster.trace.note(self.cluster.now(), text);
    }

    // Faults.

    fn next_fault(&mut self) {
        let at = self.cluster.now() + self.plan.fault_pause.draw(&mut self.rng);
        self.set_alarm(at, Alarm::Fault);
    }

    /// Any replica, or in half of the cases the leader.
    fn victim(&mut self) -> NodeId {
        let leader = self.cluster.leader().filter(|_| self.rng.chance(500));
        leader.unwrap_or_else(|| *self.rng.pick(&self.plan.ids))
    }

    fn happen(&mut self, fault: Fault) {
        match fault {
            Fault::Split | Fault::Isolate | Fault::Deafen | Fault::CutSome => self.cut(fault),
            Fault::Heal => {
                self.note(format_args!("all links are whole"));
                self.network.heal();
            }
            Fault::Pause => {
                let id = self.victim();
                if self.cluster.machine(id).replica.is_some()
                    && !self.cluster.machine(id).held.everything
                {
                    self.note(format_args!("{} pauses", id.0));
                    self.cluster.machine_mut(id).held.everything = true;
                    let at = self.cluster.now() + self.plan.outage.draw(&mut self.rng);
                    self.set_alarm(at, Alarm::Resume(id));
                }
            }
            Fault::Crash => {
                let id = self.victim();
                // Where one just cuts its log, it is that one.
                let cutting = |id: &NodeId| self.cluster.machine(*id).disk.is_cutting();
                let id = self.plan.ids.iter().copied().find(cutting).unwrap_or(id);
                self.crash(id);
            }
            Fault::CrashLeader => {
                if let Some(id) = self.cluster.leader() {
                    self.crash(id);
                }
            }
            Fault::CrashAll => {
                for id in self.plan.ids.clone() {
                    self.crash(id);
                }
            }
            Fault::LoseDisk => self.lose_disk(),
            Fault::SlowDisk => {
                let id = self.victim();
                let slow = self.plan.slow_sync;
                let machine = self.cluster.machine_mut(id);
                let now_slow = machine.paces.sync != slow;
                machine.paces.sync = if now_slow { slow } else { self.plan.paces.sync };
                if now_slow {
                    machine.disk.count(DiskFault::SlowDisk);
                }
                let how = if now_slow { "slow" } else { "well" };
                self.note(format_args!("{}'s disk is {how}", id.0));
            }
            Fault::Stall
            | Fault::FailDisk
            | Fault::FillDisk
            | Fault::SpoilSnapshot
            | Fault::RotSnapshot => self.harm_disk(fault),
            Fault::Clock => {
                let id = self.victim();
                let rate = draw_rate(self.plan.drift_ppm, &mut self.rng);
                let now = self.cluster.now();
                self.cluster.machine_mut(id).clock.set_rate(now, rate);
                self.cluster.set_timer_of(id);
                self.note(format_args!("{}'s clock goes {rate} ppm too fast", id.0));
            }
            Fault::WallClock => self.jump_clocks(),
            Fault::Weather => {
                let loss_permille =
                    if self.rng.chance(500) { 700 } else { self.plan.quality.loss_permille };
                self.note(format_args!("{loss_permille} of 1000 messages are lost"));
                self.network.set_quality(LinkQuality { loss_permille, ..self.plan.quality });
            }
        }
    }

    /// Lets one wall clock of the wrong ones jump, or any for a moment.
    fn jump_clocks(&mut self) {
        let jump = draw_jump(&mut self.wall_rng);
        if !self.wrong.is_empty() && self.wall_rng.chance(500) {
            let id = *self.wall_rng.pick(&self.wrong);
            let jump = jump.abs();
            self.cluster.machine_mut(id).wall.skew = jump;
            self.note(format_args!("{}'s wall clock is {jump} ms ahead", id.0));
            return;
        }
        // One that is not undone before a replica looks at its clock again is not a moment's.
        if self.glitch || self.cluster.machines().iter().any(|machine| machine.held.everything) {
            return;
        }
        self.glitch = true;
        let all = self.wall_rng.chance(500);
        for id in self.plan.ids.clone() {
            if all || self.wall_rng.chance(300) {
                self.cluster.machine_mut(id).wall.glitch = jump;
                self.note(format_args!("{}'s wall clock jumps by {jump} ms for a moment", id.0));
                // It is looked at all the time.
                self.cluster.wall_clock(id);
            }
        }
        let length = self.wall_rng.span(Duration::from_millis(10), Duration::from_secs(1));
        self.set_alarm(self.cluster.now() + length, Alarm::EndGlitch);
    }

    fn end_glitch(&mut self) {
        self.glitch = false;
        for id in self.plan.ids.clone() {
            self.cluster.machine_mut(id).wall.glitch = 0;
            self.cluster.wall_clock(id);
        }
    }

    /// All replicas that run tell the others of their wall clocks.
    fn tell_clocks(&mut self) {
        let now = self.cluster.now();
        for from in self.plan.ids.clone() {
            let Some(millis) = self.cluster.wall_clock(from) else { continue };
            for to in self.plan.ids.clone() {
                // A report that is late for long is as good as lost: bounds are for prompt ones.
                if to != from
                    && let Fate::Arrives { at, .. } = self.network.fate(now, from, to)
                    && at.since(now) <= REPORT_DELAY_MAX
                {
                    self.set_alarm(at, Alarm::HearClock { from, to, millis });
                }
            }
        }
        self.set_alarm(now + REPORT_INTERVAL, Alarm::TellClocks);
    }

    /// Lets the disk of a replica that runs go wrong.
    fn harm_disk(&mut self, fault: Fault) {
        let id = self.victim();
        let now = self.cluster.now();
        let machine = self.cluster.machine_mut(id);
        if machine.replica.is_none() {
            return;
        }
        self.note(format_args!("{}'s disk: {fault:?}", id.0));
        let machine = self.cluster.machine_mut(id);
        match fault {
            Fault::Stall => {
                let most = self.plan.config.election_timeout_max;
                machine.stalled = Some(self.rng.span(most, most * 3));
            }
            Fault::FailDisk => machine.disk.fail_soon(&mut self.rng),
            Fault::FillDisk => {
                machine.disk.fill(&mut self.rng);
                let at = now + self.plan.outage.draw(&mut self.rng);
                self.set_alarm(at, Alarm::Room(id));
            }
            Fault::SpoilSnapshot => machine.disk.spoil_snapshot(&mut self.rng),
            _ => machine.disk.rot_snapshot(&mut self.rng),
        }
    }

    fn cut(&mut self, fault: Fault) {
        let mut ids = self.plan.ids.clone();
        if ids.len() < 2 {
            return;
        }
        match fault {
            Fault::Split => {
                self.rng.shuffle(&mut ids);
                let rest = ids.split_off(1 + self.rng.place(ids.len() - 1));
                self.note(format_args!("cut {} | {}", names(&ids), names(&rest)));
                self.network.part(&[ids, rest]);
            }
            Fault::Isolate => {
                let id = self.victim();
                ids.retain(|&other| other != id);
                self.note(format_args!("cut {} off", id.0));
                self.network.part(&[vec![id], ids]);
            }
            Fault::Deafen => {
                let (id, deaf) = (self.victim(), self.rng.chance(500));
                self.note(format_args!("{} is {}", id.0, if deaf { "deaf" } else { "mute" }));
                for &other in ids.iter().filter(|&&other| other != id) {
                    let (from, to) = if deaf { (other, id) } else { (id, other) };
                    self.network.cut(from, to);
                }
            }
            _ => {
                for _ in 0..self.rng.between(1, ids.len() as u64) {
                    self.rng.shuffle(&mut ids);
                    self.note(format_args!("cut {} -> {}", ids[0].0, ids[1].0));
                    self.network.cut(ids[0], ids[1]);
                    if self.rng.chance(500) {
                        self.network.cut(ids[1], ids[0]);
                    }
                }
            }
        }
    }

    fn crash(&mut self, id: NodeId) {
        if self.cluster.machine(id).replica.is_some() {
            self.cluster.crash(id);
            self.start_later(id);
        }
    }

    /// Lets a replica lose its disk unless another is without its own: nothing brings two back.
    fn lose_disk(&mut self) {
        if self.cluster.rejoining().is_some() {
            return;
        }
        if let Some(leader) = self.cluster.leader()
            && self.plan.faults.contains(&Fault::Heal)
            && self.rng.chance(400)
        {
            // A minority keeps the leader, and the others are to elect another one.
            let mut ids: Vec<NodeId> =
                self.plan.ids.iter().copied().filter(|&id| id != leader).collect();
            self.rng.shuffle(&mut ids);
            let new = ids.split_off(self.plan.ids.len().div_ceil(2) - 2);
            ids.push(leader);
            self.note(format_args!("cut {} | {} only", names(&ids), names(&new)));
            self.network.heal();
            self.network.part(&[ids, new]);
            self.lose_a_voter(VOTER_POLLS);
        } else {
            let id = self.victim();
            self.crash(id);
            self.cluster.lose_disk(id);
        }
    }

    /// Waits until two replicas lead, and then lets one that voted for the newer leader lose its
    /// disk and come back on the side of the older one.
    fn lose_a_voter(&mut self, polls: u32) {
        let now = self.cluster.now();
        match self.voter_against_a_leader() {
            _ if self.cluster.rejoining().is_some() => {}
            None if polls == 0 => {}
            None => self.set_alarm(now + VOTER_POLL_INTERVAL, Alarm::LoseVoter(polls - 1)),
            Some((id, old, new)) => {
                self.voters_lost += 1;
                self.crash(id);
                self.cluster.lose_disk(id);
                self.note(format_args!("cut {} | {}", names(&old), names(&new)));
                self.network.heal();
                self.network.part(&[old, new]);
                // While the older leader leads.
                self.set_alarm(now + self.plan.outage.min, Alarm::Restart(id));
            }
        }
    }

    /// While two replicas lead, a voter for the one of the later term. Together with the older
    /// leader and all others that know no later term it must not commit anything any more, also
    /// if it has forgotten its vote. Those, and the others.
    fn voter_against_a_leader(&self) -> Option<(NodeId, Vec<NodeId>, Vec<NodeId>)> {
        let newest = self.cluster.leader()?;
        let replica_of = |id: NodeId| self.cluster.machine(id).replica.as_ref();
        let term = replica_of(newest)?.term();
        let is_older = |id: &NodeId| replica_of(*id).is_some_and(|there| there.term() < term);
        let (mut old, mut new): (Vec<NodeId>, Vec<NodeId>) =
            self.plan.ids.iter().partition(|id| is_older(id));
        let voted = |id: &NodeId| {
            let status = replica_of(*id).map(Replica::status);
            *id != newest
                && status.is_some_and(|it| it.term == term && it.voted_for == Some(newest))
        };
        if !old.iter().any(|&id| replica_of(id).is_some_and(Replica::is_leader)) {
            return None;
        }
        let place = new.iter().position(voted)?;
        let id = new.remove(place);
        old.push(id);
        Some((id, old, new))
    }

    fn start_later(&mut self, id: NodeId) {
        let at = self.cluster.now() + self.plan.outage.draw(&mut self.rng);
        self.set_alarm(at, Alarm::Restart(id));
    }

    /// Starts a replica after a crash; its machine's clock may have a new origin.
    fn restart(&mut self, id: NodeId) -> Result<(), Violation> {
        let now = self.cluster.now();
        let clock = Clock::new(
            now,
            draw_origin(&mut self.rng),
            draw_rate(self.plan.drift_ppm, &mut self.rng),
        );
        let machine = self.cluster.machine_mut(id);
        machine.clock = clock;
        // A replica believes the wall clock that it starts with.
        machine.wall.glitch = 0;
        if self.cluster.machine(id).disk.may_rot && self.rng.chance(250) {
            self.cluster.put_back_a_copy(id)?;
        }
        self.cluster.start(id)?;
        if self.cluster.machine(id).disk.is_refused() {
            let away = self.plan.outage.draw(&mut self.rng) * 3;
            self.set_alarm(self.cluster.now() + away, Alarm::Restore(id));
        } else if self.cluster.machine(id).replica.is_none() {
            self.start_later(id);
        }
        Ok(())
    }

    // The second phase.

    /// Faults end for a majority, or for more. The others are down, cut off, or left with
    /// whatever is wrong with them but cut links: somebody outside may lead on, and a member that
    /// was cut off from that leader alone could never catch up.
    fn calm_down(&mut self) -> Result<(), Violation> {
        let mut ids = self.plan.ids.clone();
        self.rng.shuffle(&mut ids);
        let majority = ids.len() / 2 + 1;
        // One that lost its disk needs the answers of all.
        let rest = if self.cluster.rejoining().is_some() {
            Vec::new()
        } else {
            ids.split_off(majority + self.rng.place(ids.len() - majority + 1))
        };
        ids.sort_unstable();
        self.note(format_args!("faults end for {}", names(&ids)));
        self.core = Some(ids.clone());
        self.calm_since = self.cluster.now();
        // A leader outside may lead on for good; at most so much of what it sends is lost, or it
        // would need longer than anybody waits here.
        let loss_permille = self.plan.quality.loss_permille.min(150);
        // And none of it is late by several elections, or it would wait as long for each answer.
        let quality = LinkQuality { loss_permille, late_permille: 0, ..self.plan.quality };
        self.network.set_quality(quality);
        let clean = clean(&self.plan);
        for &one in &ids {
            for &other in ids.iter().filter(|&&other| other != one) {
                self.network.heal_link(one, other);
                self.network.set_link_quality(one, other, clean);
            }
        }
        let fate_of_rest = self.rng.below(3);
        self.outsiders = fate_of_rest > 1 && !rest.is_empty();
        for &id in &rest {
            match fate_of_rest {
                0 if self.cluster.machine(id).replica.is_some() => self.cluster.crash(id),
                1 => self.network.part(&[vec![id], ids.clone()]),
                _ => {
                    for &other in &ids {
                        self.network.heal_link(id, other);
                        self.network.heal_link(other, id);
                    }
                }
            }
        }
        self.workload.stop(&ids);
        for id in self.plan.ids.clone() {
            // A leader outside may lose one chunk in three: of a hundred small ones too many.
            if let Some(plan) = &mut self.cluster.machine_mut(id).snapshots.plan {
                plan.chunk_bytes = WHOLE_BYTES;
            }
        }
        for id in ids {
            let machine = self.cluster.machine_mut(id);
            machine.paces = Paces { sync: fast(machine.paces.sync), ..self.plan.paces };
            machine.stalled = None;
            machine.disk.calm();
            if machine.replica.is_none() {
                self.restart(id)?;
                demand!(
                    self.cluster.machine(id).replica.is_some(),
                    "D2: replica {id} does not start, though all is well with its disk"
                );
            } else if machine.held.everything {
                self.cluster.resume(id)?;
            }
        }
        Ok(())
    }

    fn demand_progress(&mut self) -> Result<(), Violation> {
        // Over a bad link one message at a time takes its time.
        let end = self.cluster.now() + self.plan.patience() * if self.outsiders { 3 } else { 1 };
        let mut probed = false;
        loop {
            self.forget_the_lost();
            if self.workload.waiting().next().is_none()
                && !self.workload.has_plans()
                && self.owed().is_none()
                && self.disagreement().is_none()
            {
                if probed {
                    break;
                }
                probed = true;
                self.workload.probe(&mut self.orders);
                self.give_orders();
            }
            let next = (self.cluster.now() + Duration::from_millis(20)).min(end);
            self.run_until(next)?;
            self.cluster.skip_to(next);
            if next == end {
                return Err(self.no_progress(probed));
            }
        }
        Ok(())
    }

    fn no_progress(&self, probed: bool) -> Violation {
        let waiting: Vec<_> =
            self.workload.waiting().map(|key| (key, self.asked[&key].to)).collect();
        let statuses: Vec<String> = self
            .cluster
            .machines()
            .iter()
            .filter_map(|machine| Some(format!("{:?}", machine.replica.as_ref()?.status())))
            .collect();
        Violation(format!(
            "L3: no progress {:?} after the faults ended{}; waiting: {waiting:?}; owed: {:?}; {}; \
             replicas:\n  {}",
            self.cluster.now().since(self.calm_since),
            if probed { ", a fresh put and get hang" } else { "" },
            self.owed().map(|key| (key, self.asked[&key])),
            self.disagreement().unwrap_or_else(|| "the replicas agree".to_owned()),
            statuses.join("\n  ")
        ))
    }

    /// Under the course's protocol a request that went into a replica which crashed is gone: nobody
    /// sends it again, and nobody owes an answer.
    fn forget_the_lost(&mut self) {
        if self.plan.protocol == ClientProtocol::Connection {
            return;
        }
        let excused = |key: &RequestKey| {
            let Asked { to, at, .. } = self.asked[key];
            let long_ago = self.cluster.now().since(at) > self.plan.load.patience.max;
            !self.is_owed(*key) && (long_ago || self.cluster.machine(to).replica.is_none())
        };
        let lost: Vec<_> = self.workload.waiting().filter(excused).collect();
        for key in lost {
            self.workload.lost(key, &mut self.orders);
        }
        self.give_orders();
    }

    /// Whether one of the majority's replicas has the request and has not crashed since.
    fn is_owed(&self, key: RequestKey) -> bool {
        let core = self.core.as_ref().expect("the second phase");
        let Asked { to, incarnation, .. } = self.asked[&key];
        core.contains(&to) && self.cluster.machine(to).incarnation() == incarnation
    }

    /// Under the course's protocol, where nobody asks again: a request that a replica of the
    /// majority
    /// owes an answer, given up ones too (L12).
    fn owed(&self) -> Option<RequestKey> {
        let mut unanswered = self.workload.unanswered();
        unanswered.find(|&key| self.plan.protocol == ClientProtocol::Course && self.is_owed(key))
    }

    /// What the majority's replicas do not agree upon yet.
    fn disagreement(&self) -> Option<String> {
        if let Some(id) = self.cluster.rejoining() {
            return Some(format!("{id} has not rejoined"));
        }
        let core = self.core.as_ref().expect("the second phase");
        let mut seen = None;
        for &id in core {
            let machine = self.cluster.machine(id);
            let status = machine.replica.as_ref().expect("the majority runs").status();
            let state = (status.last, machine.store.digest());
            if status.commit_index != status.last.index
                || machine.store.applied_index() != status.last.index
                || *seen.get_or_insert(state) != state
            {
                return Some(format!("{id} does not agree with the others or with itself"));
            }
        }
        None
    }

    fn judge(&self) -> Result<(), Violation> {
        let accounts = self.cluster.client_model.count(is_account);
        let sum = self.cluster.client_model.sum(is_account);
        demand!(
            sum == accounts * ACCOUNT_START,
            "C6: {accounts} accounts hold {sum} together, {} were put in",
            accounts * ACCOUNT_START
        );
        let judged = self.workload.history().check(linearizability::STEPS_MAX);
        judged.map_err(|error| Violation(format!("C1: {error}")))
    }
}

/// By how many milliseconds a wall clock jumps: seconds to years, forward and back.
fn draw_jump(rng: &mut Rng) -> i64 {
    let second = 1_000;
    let length = *rng.pick(&[second, 60 * second, 86_400 * second, 4 * 365 * 86_400 * second]);
    let jump = i64::try_from(rng.between(length, 3 * length)).expect("some years");
    if rng.chance(500) { jump } else { -jump }
}

/// Replicas as traces name them.
fn names(ids: &[NodeId]) -> String {
    ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(" ")
}

/// Links inside the majority of the second phase.
fn clean(plan: &Plan) -> LinkQuality {
    let delay_min = plan.quality.delay_min;
    LinkQuality { delay_min, delay_max: delay_min * 3, ..LinkQuality::perfect(delay_min) }
}

fn fast(pace: Pace) -> Pace {
    Pace {
        min: pace.min.min(Duration::from_millis(1)),
        max: pace.max.min(Duration::from_millis(2)),
    }
}

/// A message as its bytes would bring it.
fn through_wire(mut envelope: Envelope) -> Result<Envelope, Violation> {
    let mut bytes = BytesMut::new();
    wire::peer::encode(&envelope.message, &mut bytes);
    let bytes: Bytes = bytes.freeze();
    let message = wire::peer::decode(bytes)
        .map_err(|error| Violation(format!("H1: {:?} can't be read: {error}", envelope.message)))?;
    demand!(message == envelope.message, "H1: {:?} arrives as {message:?}", envelope.message);
    envelope.message = message;
    Ok(envelope)
}
