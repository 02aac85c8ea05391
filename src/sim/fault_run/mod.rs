//! A simulated run with faults: faults are injected into a cluster under a workload
//! (`injection.rs`); then, in a recovery phase, a majority without faults must make progress
//! (`recovery.rs`). In some runs messages between replicas use datagram streams
//! (`datagrams.rs`). Safety rules are checked during the run, and the clients' history at the end.

mod datagrams;
mod injection;
mod members;
mod recovery;

use datagrams::Datagrams;
use injection::draw_jump;
use recovery::clean_quality;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::config::Config;
use crate::feature_level::FeatureLevel;
use crate::large_writes::LargeWrites;
use crate::raft::{ClientRequest, Envelope};
use crate::sim::cluster::network::{Fate, Network};
use crate::sim::cluster::trace::Trace;
use crate::sim::cluster::{Advance, Answer, Cluster};
use crate::sim::coverage::{Coverage, Situation};
use crate::sim::disk::Disk;
use crate::sim::disk::statistics::FaultStatistics;
use crate::sim::faults::{Fault, Plan, Profile, draw_origin, draw_rate};
use crate::sim::machine::clock::Clock;
use crate::sim::rng::Rng;
use crate::sim::streams::Streams;
use crate::sim::violation::{Violation, ensure};
use crate::sim::workload::{ClientAction, Workload};
use crate::types::{Instant, NodeId, RequestKey, Term};
use crate::wire;
use crate::wire::protocol::ProtocolVersions;

/// Statistics of a simulated run with faults in which no rule was violated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Duration of the run in virtual time.
    pub virtual_time: Duration,
    /// Number of simulated events handled, such as message arrivals.
    pub events: u64,
    /// Number of terms that had a leader.
    pub leaders: usize,
    /// Number of committed log entries.
    pub committed: u64,
    /// Number of leadership transfers.
    pub leadership_transfers: usize,
    /// Number of answers to clients' requests, not counting refusals.
    pub answered: u64,
    /// Number of refusals of clients' requests.
    pub refused: u64,
    /// Digest of all messages and answers with their times, to check that equal seeds give equal
    /// runs.
    pub digest: u64,
    /// Disk faults by type, and their effects. Most are injected only in runs with the real storage
    /// code.
    pub disks: FaultStatistics,
    /// How often the run reached each situation in which a safety rule could be violated.
    pub coverage: Coverage,
}

/// The violation that ended a simulated run with faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The violated rule, and how it was violated.
    pub violation: Violation,
    /// Virtual time of the violation.
    pub at: Instant,
    /// The last traced events before the violation; empty if the run was not traced.
    pub trace: Vec<String>,
}

/// The alarms of a simulated run with faults: future events that the run schedules in the cluster's
/// event queue.
#[derive(Debug)]
enum Alarm {
    /// The client at index `client` wakes up, to start its next operation or to handle a timeout.
    /// `turn` is the sequence number of the wake-up; only the client's latest wake-up has an
    /// effect.
    Wake { client: usize, turn: u32 },
    /// A replica's answer arrives at its client.
    Answer(Answer),
    /// The next fault is injected.
    Fault,
    /// The pause of this replica ends.
    Resume(NodeId),
    /// This replica restarts after a crash.
    Restart(NodeId),
    /// The damaged files of this replica, which is down, are restored, and the replica restarts.
    Restore(NodeId),
    /// The disk of this replica, which was full, has free space again.
    FreeSpace(NodeId),
    /// All replicas report their wall clock readings to their peers.
    ReportClocks,
    /// A wall clock report arrives at replica `to`: the wall clock of `from` showed `millis`
    /// milliseconds since 1970.
    ClockReport { from: NodeId, to: NodeId, millis: u64 },
    /// A short jump of wall clocks (at most one second) ends.
    EndGlitch,
    /// The simulator checks again whether the cluster has two leaders at once; if so, a replica
    /// that voted for the newer one loses its disk. The number is the maximum number of further
    /// checks.
    LoseVoter(u32),
    /// An operation that a replica has forwarded arrives at the leader `to`.
    Forwarded { to: NodeId, request: ClientRequest },
    /// A datagram arrives at the replica `to`.
    Datagram { from: NodeId, to: NodeId, bytes: Vec<u8> },
    /// The streams of the replica `id` are due at the time `at`.
    StreamTimer { id: NodeId, at: Instant },
}

/// The time at which a client last sent a request, and the replica that it sent the request to.
#[derive(Clone, Copy, Debug)]
struct Sent {
    to: NodeId,
    /// Incarnation (number of starts and crashes) of the receiving replica when the request was
    /// sent.
    incarnation: u64,
    at: Instant,
}

/// The state of a simulated run with faults.
#[derive(Debug)]
struct FaultRun {
    plan: Plan,
    rng: Rng,
    cluster: Cluster,
    network: Network,
    client_rng: Rng,
    workload: Workload,
    alarms: BTreeMap<u64, Alarm>,
    next_alarm: u64,
    /// The replicas, at least a majority, whose faults have ended for the recovery phase; `None`
    /// before that phase.
    majority: Option<Vec<NodeId>>,
    /// Whether, in the recovery phase, the replicas outside the majority keep their faults but stay
    /// connected, so that one of them may be the leader.
    others_connected: bool,
    /// Time at which the recovery phase started.
    recovery_start: Instant,
    /// For each request, when a client last sent it and to which replica.
    sent: BTreeMap<RequestKey, Sent>,
    actions: Vec<ClientAction>,
    digest: u64,
    /// Replicas, a minority, whose wall clocks may be wrong for a long time.
    skewed: Vec<NodeId>,
    wall_rng: Rng,
    /// Whether a momentary jump of wall clocks (at most one second) is in progress.
    glitch: bool,
    /// Number of times that a replica lost its disk after it had voted for the newer of two
    /// leaders.
    voters_lost: u64,
    /// Number of leadership transfers that leaders started or aborted on request.
    requested_transfers: u64,
    /// The streams between replicas; `None` if messages are not sent over streams.
    datagrams: Option<Datagrams>,
    /// Number of datagrams that the network has lost at random.
    datagrams_lost: u64,
}

/// Performs the simulated run with faults that `profile` and `seed` determine. `change` may modify
/// the replicas' configuration before the run.
///
/// # Errors
/// If a safety rule is violated.
pub fn run(
    profile: Profile,
    seed: u64,
    trace: Trace,
    change: &dyn Fn(&mut Config),
) -> Result<Summary, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let mut plan = Plan::draw(profile, &mut rng);
    change(&mut plan.config);
    #[cfg(feature = "mutants")]
    if let Some(streams) = &mut plan.streams {
        streams.mutant = plan.config.mutant;
    }
    let mut run = FaultRun::new(plan, rng, trace, Rng::new(!seed));
    let outcome = run.run();
    outcome.map_err(|violation| {
        let trace = run.cluster.trace.take();
        Box::new(Failure { violation, at: run.cluster.now(), trace })
    })
}

impl FaultRun {
    fn new(plan: Plan, mut rng: Rng, trace: Trace, mut wall_rng: Rng) -> FaultRun {
        let mut skewed = plan.ids.clone();
        wall_rng.shuffle(&mut skewed);
        // A minority of all replicas may at some time be a majority of the voters.
        let changes_members = plan.faults.contains(&Fault::ChangeMembers);
        skewed.truncate(if changes_members { 0 } else { (plan.ids.len() - 1) / 2 });
        let (ids, members) = (&plan.ids, &plan.members);
        let mut cluster = Cluster::new(ids, members, &plan.config, plan.protocol, &mut rng);
        cluster.trace = trace;
        cluster.set_witnesses(&plan.witnesses);
        for &id in &plan.ids {
            let machine = cluster.machine_mut(id);
            machine.delays = plan.delays;
            if let Some(bytes) = plan.segment_bytes {
                machine.disk = Disk::with_files(id, &plan.ids, bytes);
                #[cfg(feature = "mutants")]
                machine.disk.files().expect("created with files").set_mutant(plan.config.mutant);
            }
            machine.confirm_after = plan.confirm_after;
            if plan.old.contains(&id) {
                machine.config.feature_level = FeatureLevel::OLDEST;
            }
            machine.upgrade_to = plan.config.feature_level;
            machine.digest_check = plan.digest_check;
            // Skewed clocks are ahead, never behind: with one that is behind and a correct one that
            // is disconnected, the quorum has no correct median, and no bound holds.
            machine.wall.skew = if skewed.contains(&id) {
                draw_jump(&mut wall_rng).abs()
            } else {
                i64::try_from(wall_rng.below(20)).expect("20")
            };
            machine.snapshots.plan = plan.snapshots;
            machine.large_writes = LargeWrites::new(plan.pieces);
            machine.clock = Clock::new(
                Instant::ZERO,
                draw_origin(&mut rng),
                draw_rate(plan.drift_ppm, &mut rng),
            );
        }
        let streams = plan.streams.map(|streams| Streams::new(&plan.ids, streams, rng.split()));
        let datagrams = streams.map(Datagrams::new);
        FaultRun {
            network: Network::new(rng.split(), &plan.ids, plan.quality),
            client_rng: rng.split(),
            workload: Workload::new(plan.protocol, plan.load, &plan.ids, rng.split()),
            cluster,
            rng,
            plan,
            alarms: BTreeMap::new(),
            next_alarm: 0,
            majority: None,
            others_connected: false,
            recovery_start: Instant::ZERO,
            sent: BTreeMap::new(),
            actions: Vec::new(),
            digest: 0,
            skewed,
            wall_rng,
            glitch: false,
            voters_lost: 0,
            requested_transfers: 0,
            datagrams,
            datagrams_lost: 0,
        }
    }

    fn run(&mut self) -> Result<Summary, Violation> {
        for id in self.plan.ids.clone() {
            self.cluster.start(id)?;
            self.cluster.machine_mut(id).disk.may_corrupt = self.plan.may_corrupt;
        }
        if self.plan.confirm_after.is_some() {
            self.set_alarm(Instant::ZERO, Alarm::ReportClocks);
        }
        self.workload.start(&mut self.actions);
        self.perform_actions();
        if !self.plan.faults.is_empty() {
            self.schedule_fault();
        }
        self.run_until(Instant::ZERO + self.plan.duration)?;
        self.begin_recovery()?;
        self.await_progress()?;
        self.check_history()?;
        let (answered, refused) = self.workload.answer_counts();
        let mut disks = FaultStatistics::default();
        self.cluster.machines().iter().for_each(|machine| disks.add(&machine.disk.statistics()));
        Ok(Summary {
            virtual_time: self.cluster.now().since(Instant::ZERO),
            events: self.cluster.events(),
            leaders: self.cluster.checker.leader_count(),
            committed: self.cluster.checker.commit_index().0,
            leadership_transfers: self.cluster.checker.transfer_count(),
            answered,
            refused,
            digest: self.digest,
            disks,
            coverage: self.coverage(),
        })
    }

    fn coverage(&self) -> Coverage {
        let mut coverage = self.cluster.coverage();
        coverage.add(Situation::Election, self.cluster.checker.leader_count() as u64);
        coverage.add(Situation::Rejoin, self.cluster.checker.rejoined());
        coverage.add(Situation::VoterDiskLoss, self.voters_lost);
        coverage.add(Situation::RequestedTransfer, self.requested_transfers);
        coverage.add(Situation::Resend, self.workload.resend_count());
        coverage.merge(&self.stream_coverage());
        coverage.merge(self.cluster.checker.coverage());
        coverage
    }

    fn run_until(&mut self, end: Instant) -> Result<(), Violation> {
        while self.cluster.next_at().is_some_and(|at| at <= end) {
            self.advance()?;
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<(), Violation> {
        if let Advance::Alarm(number) = self.cluster.advance()? {
            let alarm = self.alarms.remove(&number).expect("each alarm is set once");
            self.on_alarm(alarm)?;
        }
        for id in std::mem::take(&mut self.cluster.stopped) {
            self.restart_later(id);
        }
        self.route_messages()?;
        self.run_streams()?;
        self.route_forwards();
        self.route_answers();
        Ok(())
    }

    /// Decides the fate of each message that replicas sent during the last event, and schedules the
    /// arrival of those that are not lost.
    fn route_messages(&mut self) -> Result<(), Violation> {
        if self.cluster.sent.is_empty() {
            return Ok(());
        }
        let now = self.cluster.now();
        let mut sent = std::mem::take(&mut self.cluster.sent);
        for envelope in sent.drain(..) {
            self.update_digest(now, (u64::from(envelope.from.0) << 16) | u64::from(envelope.to.0));
            if self.datagrams.is_some() {
                self.send_over_stream(envelope);
                continue;
            }
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
            let Fate::Arrives { at, duplicate_at } = fate else { continue };
            let envelope = if self.plan.through_wire { through_wire(envelope)? } else { envelope };
            if let Some(duplicate_at) = duplicate_at {
                self.cluster.deliver(duplicate_at, envelope.clone());
            }
            self.cluster.deliver(at, envelope);
        }
        self.cluster.sent = sent;
        Ok(())
    }

    /// Schedules the arrival at the leader of the operations that replicas forwarded during the
    /// last event.
    fn route_forwards(&mut self) {
        let now = self.cluster.now();
        for (from, to, request) in std::mem::take(&mut self.cluster.forwards) {
            if let Fate::Arrives { at, .. } = self.network.fate(now, from, to) {
                self.set_alarm(at, Alarm::Forwarded { to, request });
            }
        }
    }

    /// Schedules the arrival at clients of the answers that replicas gave during the last event.
    fn route_answers(&mut self) {
        let now = self.cluster.now();
        for answer in std::mem::take(&mut self.cluster.answers) {
            self.update_digest(now, u64::from(answer.key.client.0));
            for at in self.client_arrivals() {
                self.set_alarm(at, Alarm::Answer(answer.clone()));
            }
        }
    }

    /// Returns random arrival times for a message between a client and a replica: none if it is
    /// lost, two if it is duplicated, otherwise one.
    fn client_arrivals(&mut self) -> Vec<Instant> {
        let quality = if self.majority.is_some() {
            clean_quality(&self.plan)
        } else {
            self.plan.client_quality
        };
        let (rng, now) = (&mut self.client_rng, self.cluster.now());
        if rng.permille(quality.loss_permille) {
            return Vec::new();
        }
        let copies = if rng.permille(quality.duplicate_permille) { 2 } else { 1 };
        let way = |_| {
            let late = rng.permille(quality.late_permille);
            now + rng.duration(
                quality.delay_min,
                if late { quality.late_max } else { quality.delay_max },
            )
        };
        (0..copies).map(way).collect()
    }

    /// Carries out the actions that clients have requested: sends their requests and schedules
    /// their wake-ups.
    fn perform_actions(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                ClientAction::Send { to, request } => {
                    self.cluster.trace.request_sent(&request);
                    let incarnation = self.cluster.machine(to).incarnation();
                    let at = self.cluster.now();
                    self.sent.insert(request.key, Sent { to, incarnation, at });
                    for at in self.client_arrivals() {
                        self.cluster.request(at, to, request.clone());
                    }
                }
                ClientAction::Wake { client, turn, after } => {
                    self.set_alarm(self.cluster.now() + after, Alarm::Wake { client, turn });
                }
            }
        }
    }

    fn update_digest(&mut self, now: Instant, value: u64) {
        let state = self.digest ^ now.0.rotate_left(20) ^ value;
        self.digest = state.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    fn set_alarm(&mut self, at: Instant, alarm: Alarm) {
        self.next_alarm += 1;
        self.alarms.insert(self.next_alarm, alarm);
        self.cluster.alarm(at, self.next_alarm);
    }

    fn on_alarm(&mut self, alarm: Alarm) -> Result<(), Violation> {
        self.workload.set_now(self.cluster.now());
        match alarm {
            Alarm::Wake { client, turn } => self.workload.wake(client, turn, &mut self.actions),
            Alarm::Answer(answer) => self.workload.on_answer(&answer, &mut self.actions)?,
            Alarm::Fault if self.majority.is_none() => {
                let fault = *self.rng.choose(&self.plan.faults);
                self.inject(fault)?;
                self.schedule_fault();
            }
            Alarm::LoseVoter(polls) if self.majority.is_none() => self.lose_a_voter(polls)?,
            Alarm::Resume(id) if self.cluster.machine(id).held.all => {
                self.note(format_args!("{} resumes", id.0));
                self.cluster.resume(id)?;
            }
            Alarm::Restart(id) if self.cluster.machine(id).replica.is_none() => {
                // In the recovery phase, replicas outside the majority stay down.
                if self.majority.as_ref().is_none_or(|majority| majority.contains(&id)) {
                    self.restart(id)?;
                }
            }
            Alarm::Restore(id) if self.cluster.machine(id).replica.is_none() => {
                if self.majority.is_none() {
                    self.note(format_args!("the files of {} are restored", id.0));
                    self.cluster.machine_mut(id).disk.restore();
                    self.restart(id)?;
                }
            }
            Alarm::FreeSpace(id) => {
                self.note(format_args!("the disk of {} has free space again", id.0));
                self.cluster.machine_mut(id).disk.free_space();
            }
            Alarm::ReportClocks => self.report_clocks(),
            Alarm::ClockReport { from, to, millis } => {
                self.cluster.deliver_wall_clock(to, from, millis);
            }
            Alarm::EndGlitch => self.end_glitch(),
            Alarm::Forwarded { to, request } => self.cluster.deliver_forwarded(to, request)?,
            Alarm::Datagram { from, to, bytes } => self.on_datagram(from, to, bytes),
            Alarm::StreamTimer { id, at } => self.on_stream_timer(id, at),
            Alarm::Fault
            | Alarm::LoseVoter(_)
            | Alarm::Resume(_)
            | Alarm::Restart(_)
            | Alarm::Restore(_) => {}
        }
        self.perform_actions();
        Ok(())
    }

    fn note(&mut self, text: std::fmt::Arguments<'_>) {
        self.cluster.trace.note(self.cluster.now(), text);
    }
}

/// Encodes a message and decodes it again, as if it were sent over a connection, and returns the
/// decoded message. Checks that both are equal.
fn through_wire(mut envelope: Envelope) -> Result<Envelope, Violation> {
    let mut bytes = BytesMut::new();
    let version = ProtocolVersions::OWN.newest;
    wire::peer::encode(&envelope.message, version, &mut bytes);
    let bytes: Bytes = bytes.freeze();
    let message = wire::peer::decode(bytes).map_err(|error| {
        Violation(format!("wire encoding: {:?} can't be read: {error}", envelope.message))
    })?;
    ensure!(
        message == envelope.message,
        "wire encoding: {:?} arrives as {message:?}",
        envelope.message
    );
    envelope.message = message;
    Ok(envelope)
}
