//! The scenarios of the university course in virtual time: replicas with the configuration of the
//! replica program, driven by the same [`ScenarioRun`] as real programs. As in the course's process
//! simulator, every message passes through the simulator: it is delayed on the way to the simulator
//! and on the way from it, and messages are not reordered on either way.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::course::clients::{
    Answer as CourseAnswer, AnswerKind as CourseAnswerKind, Operation as CourseOperation, Request,
};
use crate::course::referee::Destination;
use crate::course::report::Report;
use crate::course::run::{Action, ScenarioRun};
use crate::course::scenario::Scenario;
use crate::kv::{Batch, Operation};
use crate::raft::{ClientRequest, Envelope, RequestKind};
use crate::sim::cluster::trace::Trace;
use crate::sim::cluster::{Advance, Answer, AnswerKind, ClientProtocol, Cluster};
use crate::sim::rng::Rng;
use crate::sim::violation::Violation;
use crate::types::{Instant, NodeId, RequestId, RequestKey, Term};

/// Minimum delay of a message between a replica and the course's simulator, through which all
/// messages pass. So a message from replica to replica takes twice as long: 100 to 300 us.
const DELAY_MIN: Duration = Duration::from_micros(50);
const DELAY_MAX: Duration = Duration::from_micros(150);
/// Maximum time between the starts of two successive replicas.
const SPAWN_MAX: Duration = Duration::from_millis(10);

/// Options for running a scenario of the university course in virtual time.
#[derive(Debug, Default)]
pub struct Options {
    /// Duration of the final part of the run, in which no message is lost.
    pub lossless_tail: Duration,
    /// The trace that records the run's events.
    pub trace: Trace,
}

/// The result of a run of a course scenario in virtual time.
#[derive(Debug)]
pub struct CourseRun {
    /// The report on the run. A violated safety rule makes it a failed run.
    pub report: Report,
    /// The completed scenario run, with its latency samples.
    pub scenario_run: ScenarioRun,
    /// Unanswered requests to replicas that are still running, each with its replica.
    pub hanging: Vec<(RequestId, NodeId)>,
    /// The lines of the run's trace.
    pub trace: Vec<String>,
    /// Duration of the run in virtual time.
    pub virtual_time: Duration,
}

/// A scheduled event at the university course's simulator, through which all messages pass.
#[derive(Debug)]
enum Event {
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
    events: BTreeMap<u64, Event>,
    next_alarm: u64,
    /// For each replica, the arrival time of its latest message at the course's simulator. Later
    /// messages must not overtake it.
    last_out: Vec<Instant>,
    /// For each replica, the arrival time of the latest message from the course's simulator. Later
    /// messages must not overtake it.
    last_in: Vec<Instant>,
    actions: Vec<Action>,
    deliver: Vec<NodeId>,
}

/// Runs a scenario of the university course in virtual time. `seed` determines all random choices,
/// so equal seeds give equal runs.
pub fn run(scenario: &Scenario, seed: u64, options: Options) -> CourseRun {
    let mut driver = Driver::new(scenario, seed, options.trace);
    let drops_end = scenario.lifetime().saturating_sub(options.lossless_tail);
    if options.lossless_tail > Duration::ZERO {
        driver.set_alarm(Instant::ZERO + drops_end, Event::DropsEnd);
    }
    if let Err(violation) = driver.play() {
        driver.scenario_run.incorrect(format!("safety rule violated: {violation}"));
    }
    driver.finish()
}

impl Driver {
    fn new(scenario: &Scenario, seed: u64, trace: Trace) -> Driver {
        // The replicas have a random number generator of their own, so that they cannot influence
        // the clients' requests.
        let mut rng = Rng::new(seed ^ 0x636f_7572_7365);
        let ids: Vec<NodeId> = (0..scenario.replicas).map(NodeId).collect();
        let mut cluster =
            Cluster::new(&ids, &ids, &Config::course(), ClientProtocol::Course, &mut rng);
        cluster.trace = trace;
        Driver {
            scenario_run: ScenarioRun::new(scenario, seed, Instant::ZERO),
            cluster,
            rng,
            events: BTreeMap::new(),
            next_alarm: 0,
            last_out: vec![Instant::ZERO; ids.len()],
            last_in: vec![Instant::ZERO; ids.len()],
            actions: Vec::new(),
            deliver: Vec::new(),
        }
    }

    fn set_alarm(&mut self, at: Instant, event: Event) {
        self.next_alarm += 1;
        self.events.insert(self.next_alarm, event);
        self.cluster.alarm(at, self.next_alarm);
    }

    fn play(&mut self) -> Result<(), Violation> {
        let mut at = Instant::ZERO;
        for place in 0..self.cluster.machines().len() {
            let id = self.cluster.machines()[place].id;
            self.set_alarm(at, Event::Start(id));
            at = at + self.rng.duration(Duration::from_millis(1), SPAWN_MAX);
        }
        self.set_alarm(self.scenario_run.next_event(), Event::Poll);
        while self.scenario_run.ended().is_none() {
            match self.cluster.advance()? {
                Advance::Alarm(number) => {
                    let event = self.events.remove(&number).expect("each alarm is set once");
                    self.on_event(event)?;
                }
                Advance::Internal => {}
                Advance::Idle => return Ok(()),
            }
            self.collect_sent();
        }
        Ok(())
    }

    /// Takes the messages and answers that replicas have sent, and schedules their arrival at the
    /// course's simulator.
    fn collect_sent(&mut self) {
        let mut sent = std::mem::take(&mut self.cluster.sent);
        for envelope in sent.drain(..) {
            let at = self.arrival_at_simulator(envelope.from);
            self.set_alarm(at, Event::Message(envelope));
        }
        self.cluster.sent = sent;
        let mut answers = std::mem::take(&mut self.cluster.answers);
        for answer in answers.drain(..) {
            let at = self.arrival_at_simulator(answer.from);
            self.set_alarm(at, Event::Answer(answer));
        }
        self.cluster.answers = answers;
    }

    /// Returns a random arrival time at the course's simulator for a message from replica `from`,
    /// not before the replica's earlier messages.
    fn arrival_at_simulator(&mut self, from: NodeId) -> Instant {
        let at = self.cluster.now() + self.rng.duration(DELAY_MIN, DELAY_MAX);
        let last = &mut self.last_out[usize::from(from.0)];
        *last = at.max(*last);
        *last
    }

    /// Returns a random arrival time at replica `to` for a message from the course's simulator, not
    /// before the simulator's earlier messages to this replica.
    fn arrival_at_replica(&mut self, to: NodeId) -> Instant {
        let at = self.cluster.now() + self.rng.duration(DELAY_MIN, DELAY_MAX);
        let last = &mut self.last_in[usize::from(to.0)];
        *last = at.max(*last);
        *last
    }

    fn on_event(&mut self, event: Event) -> Result<(), Violation> {
        let now = self.cluster.now();
        match event {
            Event::Start(id) => self.cluster.start(id)?,
            Event::Message(envelope) => self.route(envelope),
            Event::Answer(answer) => self.on_answer(now, &answer),
            Event::Poll => {
                self.scenario_run.poll(now, &mut self.actions);
                let next = self.scenario_run.next_event();
                if next < Instant::MAX {
                    self.set_alarm(next.max(now), Event::Poll);
                }
            }
            Event::DropsEnd => self.scenario_run.set_drops(0.0),
        }
        self.perform_actions();
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
            let at = self.arrival_at_replica(to);
            self.cluster.deliver(at, envelope);
        }
        self.deliver = deliver;
    }

    fn on_answer(&mut self, now: Instant, answer: &Answer) {
        let value = match &answer.kind {
            AnswerKind::Done(outcomes) => match &outcomes[..] {
                [outcome] => outcome.value(),
                _ => None,
            },
            AnswerKind::Refused(_) => None,
        };
        let kind = match answer.kind {
            AnswerKind::Done(_) => CourseAnswerKind::Ok,
            AnswerKind::Refused(_) => CourseAnswerKind::Redirect,
        };
        let answer_of_course = CourseAnswer {
            src: answer.from,
            client: answer.key.client,
            leader: answer.leader,
            mid: answer.key.request,
            kind,
            value: value.as_deref(),
        };
        self.scenario_run.answer(now, &answer_of_course, &mut self.actions);
    }

    fn perform_actions(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Send(request) => {
                    let at = self.arrival_at_replica(request.replica);
                    let client_request = client_request(&request);
                    self.cluster.trace.request_sent(&client_request);
                    self.cluster.request(at, request.replica, client_request);
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
        CourseOperation::Get { key } => (Operation::get(key), RequestKind::Read),
        CourseOperation::Put { key, value } => (Operation::set(key, value), RequestKind::Write),
    };
    ClientRequest { key, kind, payload: Batch::one(key, &operation) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(name: &str, seed: u64) -> CourseRun {
        run(&Scenario::built_in(name).unwrap(), seed, Options::default())
    }

    #[test]
    fn simulated_scenario_without_faults_uses_few_messages() {
        let run = play("simple-1", 1);
        assert!(run.report.passed, "{:?}", run.report.reasons);
        assert_eq!((run.report.failures, run.report.duplicates), (0, 0));
        assert!(run.report.total_msgs < 1_200, "{} messages", run.report.total_msgs);
        assert_eq!(run.report.elections, Some(1));
        assert_eq!(run.virtual_time, Duration::from_secs(37));
    }

    #[test]
    fn same_seed_gives_the_same_simulated_scenario_run() {
        assert_eq!(play("advanced-1", 3).report, play("advanced-1", 3).report);
        assert_ne!(play("advanced-1", 3).report, play("advanced-1", 4).report);
    }
}
