//! The course's scenarios in virtual time: the replicas that ship, configured as the replica
//! program configures them, under the [`ScenarioRun`] that also drives real programs. Every message
//! passes the simulator, as there: one way to it and one way from it, in order on each.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::course::clients::{Answer as Heard, AnswerKind as Kind, Operation as Wish, Request};
use crate::course::referee::Destination;
use crate::course::report::Report;
use crate::course::run::{Action, ScenarioRun};
use crate::course::scenario::Scenario;
use crate::kv::{Command, Operation, Outcome};
use crate::raft::{ClientRequest, Envelope, RequestKind};
use crate::sim::checkers::safety::Violation;
use crate::sim::cluster::trace::Trace;
use crate::sim::cluster::{Answer, AnswerKind, ClientProtocol, Cluster, Happening};
use crate::sim::rng::Rng;
use crate::types::{Instant, NodeId, RequestId, RequestKey, Term};

/// One way between a replica and the simulator: half of a routed hop, which takes 100 to 300 us.
const WAY_MIN: Duration = Duration::from_micros(50);
const WAY_MAX: Duration = Duration::from_micros(150);
/// From the start of one replica program to that of the next, at most.
const SPAWN_MAX: Duration = Duration::from_millis(10);

/// How to run a scenario.
#[derive(Debug, Default)]
pub struct Options {
    /// No message is lost any more in so much time before the end.
    pub lossless_tail: Duration,
    /// Where events are written down.
    pub trace: Trace,
}

/// A run that is over.
#[derive(Debug)]
pub struct CourseRun {
    /// What it came to. A broken safety rule fails it.
    pub report: Report,
    /// The finished run, for its samples.
    pub scenario_run: ScenarioRun,
    /// Requests that were never answered although their replica lives.
    pub hanging: Vec<(RequestId, NodeId)>,
    /// The events that were traced.
    pub trace: Vec<String>,
    /// Virtual time that passed.
    pub virtual_time: Duration,
}

/// What is on its way to the simulator, or is to happen in it.
#[derive(Debug)]
enum Coming {
    Start(NodeId),
    Message(Envelope),
    Answer(Answer),
    Poll,
    DropsEnd,
}

#[derive(Debug)]
struct Driver {
    scenario_run: ScenarioRun,
    cluster: Cluster,
    rng: Rng,
    coming: BTreeMap<u64, Coming>,
    next_alarm: u64,
    /// When the last message of each replica comes to the simulator, and the last one to it.
    last_out: Vec<Instant>,
    last_in: Vec<Instant>,
    actions: Vec<Action>,
    deliver: Vec<NodeId>,
}

/// Runs a scenario with a seed.
pub fn run(scenario: &Scenario, seed: u64, options: Options) -> CourseRun {
    let mut driver = Driver::new(scenario, seed, options.trace);
    let drops_end = scenario.lifetime().saturating_sub(options.lossless_tail);
    if options.lossless_tail > Duration::ZERO {
        driver.alarm(Instant::ZERO + drops_end, Coming::DropsEnd);
    }
    if let Err(violation) = driver.play() {
        driver.scenario_run.incorrect(format!("a safety rule is broken: {violation}"));
    }
    driver.finish()
}

impl Driver {
    fn new(scenario: &Scenario, seed: u64, trace: Trace) -> Driver {
        // Not the run's own draws: what replicas do must not change what the clients ask.
        let mut rng = Rng::new(seed ^ 0x636f_7572_7365);
        let ids: Vec<NodeId> = (0..scenario.replicas).map(NodeId).collect();
        let mut cluster = Cluster::new(&ids, &Config::course(), ClientProtocol::Course, &mut rng);
        cluster.trace = trace;
        Driver {
            scenario_run: ScenarioRun::new(scenario, seed, Instant::ZERO),
            cluster,
            rng,
            coming: BTreeMap::new(),
            next_alarm: 0,
            last_out: vec![Instant::ZERO; ids.len()],
            last_in: vec![Instant::ZERO; ids.len()],
            actions: Vec::new(),
            deliver: Vec::new(),
        }
    }

    fn alarm(&mut self, at: Instant, coming: Coming) {
        self.next_alarm += 1;
        self.coming.insert(self.next_alarm, coming);
        self.cluster.alarm(at, self.next_alarm);
    }

    fn play(&mut self) -> Result<(), Violation> {
        let mut at = Instant::ZERO;
        for place in 0..self.cluster.machines().len() {
            let id = self.cluster.machines()[place].id;
            self.alarm(at, Coming::Start(id));
            at = at + self.rng.span(Duration::from_millis(1), SPAWN_MAX);
        }
        self.alarm(self.scenario_run.next_event(), Coming::Poll);
        while self.scenario_run.ended().is_none() {
            match self.cluster.advance()? {
                Happening::Alarm(number) => {
                    let coming = self.coming.remove(&number).expect("an alarm goes off once");
                    self.come(coming)?;
                }
                Happening::Inside => {}
                Happening::Nothing => return Ok(()),
            }
            self.carry();
        }
        Ok(())
    }

    /// Brings what replicas sent on its way to the simulator.
    fn carry(&mut self) {
        let mut sent = std::mem::take(&mut self.cluster.sent);
        for envelope in sent.drain(..) {
            let at = self.way_out(envelope.from);
            self.alarm(at, Coming::Message(envelope));
        }
        self.cluster.sent = sent;
        let mut answers = std::mem::take(&mut self.cluster.answers);
        for answer in answers.drain(..) {
            let at = self.way_out(answer.from);
            self.alarm(at, Coming::Answer(answer));
        }
        self.cluster.answers = answers;
    }

    fn way_out(&mut self, from: NodeId) -> Instant {
        let at = self.cluster.now() + self.rng.span(WAY_MIN, WAY_MAX);
        let last = &mut self.last_out[usize::from(from.0)];
        *last = at.max(*last);
        *last
    }

    fn way_in(&mut self, to: NodeId) -> Instant {
        let at = self.cluster.now() + self.rng.span(WAY_MIN, WAY_MAX);
        let last = &mut self.last_in[usize::from(to.0)];
        *last = at.max(*last);
        *last
    }

    fn come(&mut self, coming: Coming) -> Result<(), Violation> {
        let now = self.cluster.now();
        match coming {
            Coming::Start(id) => self.cluster.start(id)?,
            Coming::Message(envelope) => self.route(envelope),
            Coming::Answer(answer) => self.hear(now, &answer),
            Coming::Poll => {
                self.scenario_run.poll(now, &mut self.actions);
                let next = self.scenario_run.next_event();
                if next < Instant::MAX {
                    self.alarm(next.max(now), Coming::Poll);
                }
            }
            Coming::DropsEnd => self.scenario_run.set_drops(0.0),
        }
        self.act();
        Ok(())
    }

    fn route(&mut self, envelope: Envelope) {
        let (from, to) = (envelope.from, envelope.to);
        let mut deliver = std::mem::take(&mut self.deliver);
        self.scenario_run.route(from, Destination::Replica(to), envelope.leader, &mut deliver);
        if self.cluster.trace.is_on() {
            let arrow = if deliver.is_empty() { "~->" } else { "->" };
            let replica = self.cluster.machine(from).replica.as_ref();
            let term = replica.map_or(Term(0), |replica| replica.status().term);
            self.cluster.trace.sent(self.cluster.now(), term, &envelope, arrow);
        }
        if deliver.pop().is_some() {
            let at = self.way_in(to);
            self.cluster.deliver(at, envelope);
        }
        self.deliver = deliver;
    }

    fn hear(&mut self, now: Instant, answer: &Answer) {
        let value = match &answer.kind {
            AnswerKind::Done(Outcome::Value(value)) => Some(value.as_deref().unwrap_or(b"")),
            AnswerKind::Done(_) | AnswerKind::Refused(_) => None,
        };
        let kind = match answer.kind {
            AnswerKind::Done(_) => Kind::Ok,
            AnswerKind::Refused(_) => Kind::Redirect,
        };
        let heard = Heard {
            src: answer.from,
            client: answer.key.client,
            leader: answer.leader,
            mid: answer.key.request,
            kind,
            value,
        };
        self.scenario_run.answer(now, &heard, &mut self.actions);
    }

    fn act(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Ask(request) => {
                    let at = self.way_in(request.replica);
                    let asked = client_request(&request);
                    self.cluster.trace.asked(&asked);
                    self.cluster.request(at, request.replica, asked);
                }
                Action::Kill(id) => {
                    if self.cluster.machine(id).replica.is_some() {
                        self.cluster.crash(id);
                    }
                }
            }
        }
        self.actions = actions;
    }

    fn finish(mut self) -> CourseRun {
        let mut report = self.scenario_run.report();
        report.elections = Some(self.cluster.checker.leader_count() as u64);
        let open = self.scenario_run.open_requests();
        let hanging = open
            .filter_map(|(mid, replica, _)| Some((mid, replica?)))
            .filter(|&(_, replica)| self.scenario_run.is_alive(replica))
            .collect();
        CourseRun {
            report,
            scenario_run: self.scenario_run,
            hanging,
            trace: self.cluster.trace.take(),
            virtual_time: self.cluster.now().since(Instant::ZERO),
        }
    }
}

fn client_request(request: &Request) -> ClientRequest {
    let key = RequestKey { client: request.client, request: request.mid };
    let (operation, kind) = match &request.operation {
        Wish::Get { key } => (Operation::Get { key }, RequestKind::Read),
        Wish::Put { key, value } => (Operation::Put { key, value }, RequestKind::Write),
    };
    ClientRequest { key, kind, payload: Command { key, operation }.encode() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(name: &str, seed: u64) -> CourseRun {
        run(&Scenario::built_in(name).unwrap(), seed, Options::default())
    }

    #[test]
    fn a_quiet_scenario_passes_with_few_messages() {
        let run = play("simple-1", 1);
        assert!(run.report.passed, "{:?}", run.report.reasons);
        assert_eq!((run.report.failures, run.report.duplicates), (0, 0));
        assert!(run.report.total_msgs < 1_200, "{} messages", run.report.total_msgs);
        assert_eq!(run.report.elections, Some(1));
        assert_eq!(run.virtual_time, Duration::from_secs(37));
    }

    #[test]
    fn a_seed_is_a_run() {
        assert_eq!(play("advanced-1", 3).report, play("advanced-1", 3).report);
        assert_ne!(play("advanced-1", 3).report, play("advanced-1", 4).report);
    }
}
