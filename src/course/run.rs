//! One run of a scenario: the schedule of client requests and events, until the run ends. Both
//! simulators use it: the one that runs real processes and the one that runs replicas in virtual
//! time.
//!
//! A driver polls the run at the time that [`ScenarioRun::next_event`] returns, passes it the
//! messages from the replicas ([`ScenarioRun::route`], [`ScenarioRun::answer`]), and carries out
//! the resulting actions: delivers requests and kills replicas.

use std::time::Duration;

use rand::RngExt as _;
use rand::seq::SliceRandom as _;

use super::clients::{Answer, CLIENT_COUNT, Clients, Operation, Received, Request};
use super::referee::{Destination, Referee};
use super::scenario::{EventKind, Scenario};
use super::{Stream, generator};
use crate::types::{ClientId, Instant, NodeId, RequestId};

/// An action that a scenario run requests from the simulator. Actions must be carried out in the
/// order in which they are returned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Deliver this request to its replica. Clients' messages are never lost and are not affected
    /// by partitions.
    Send(Request),
    /// Kill this replica immediately, and ignore everything that it sends afterwards.
    Kill(NodeId),
}

/// The reason why a scenario run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The scenario's duration has passed: initial wait, request window and final wait.
    Time,
    /// The replicas have sent `max_packets` messages, the scenario's limit.
    TooManyMessages,
    /// The last living replica died.
    NoReplicaAlive,
}

/// An event of the scenario that has occurred, with the time for which puts were unavailable after
/// the event.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Outage {
    /// The type of the event.
    pub kind: EventKind,
    /// Time of the event, measured from the first request of the run.
    pub at: Duration,
    /// Id of the replica that the event killed; `None` if it killed no replica.
    pub killed: Option<NodeId>,
    /// Time from the event to the first `ok` answer to a put that was started after the event;
    /// `None` if there has been no such answer yet.
    pub until_first_put: Option<Duration>,
    began: Instant,
    /// Number of operations that clients had started before the event, to tell which puts were
    /// started after it.
    operations_before: u64,
}

/// A request in the run's schedule.
#[derive(Clone, Copy, Debug)]
struct Planned {
    /// Time of the request, measured from the first request of the run.
    at: Duration,
    /// Position of the sending client among the eight clients, from 0 to 7.
    client: u16,
    get: bool,
}

/// One run of a scenario: its clients, its referee (which counts and drops messages), and its
/// schedule of requests and events.
#[derive(Debug)]
pub struct ScenarioRun {
    pub(super) scenario: Scenario,
    pub(super) seed: u64,
    pub(super) clients: Clients,
    pub(super) referee: Referee,
    pub(super) outages: Vec<Outage>,
    pub(super) ended: Option<(Ending, Instant)>,
    pub(super) start: Instant,
    plan: Vec<Planned>,
    next_request: usize,
    next_event: usize,
}

impl ScenarioRun {
    /// Creates a run of `scenario` that starts at time `start` of the simulator's clock. The first
    /// request follows `scenario.start_wait` later. `seed` determines all random choices.
    #[must_use]
    pub fn new(scenario: &Scenario, seed: u64, start: Instant) -> ScenarioRun {
        ScenarioRun {
            scenario: scenario.clone(),
            seed,
            clients: Clients::new(scenario.replicas, generator(seed, Stream::Clients)),
            referee: Referee::new(
                scenario.replicas,
                scenario.drops,
                generator(seed, Stream::Drops),
                generator(seed, Stream::Events),
            ),
            outages: Vec::new(),
            ended: None,
            start,
            plan: plan(scenario, seed),
            next_request: 0,
            next_event: 0,
        }
    }

    /// Returns the start time of the run, by the simulator's clock.
    #[must_use]
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Returns the time at which [`ScenarioRun::poll`] must be called next, for a request, an event
    /// or the end of the run; [`Instant::MAX`] after the end.
    #[must_use]
    pub fn next_event(&self) -> Instant {
        if self.ended.is_some() {
            return Instant::MAX;
        }
        let request = self.plan.get(self.next_request).map(|planned| planned.at);
        let event = self.scenario.events.get(self.next_event).map(|event| event.at);
        let first = self.start + self.scenario.start_wait;
        let due = request.into_iter().chain(event).min().map(|at| first + at);
        due.unwrap_or(Instant::MAX).min(self.start + self.scenario.lifetime())
    }

    /// Performs the requests and events that are due at `now`, and ends the run if it is over. Adds
    /// the actions that the simulator must take to `out`.
    pub fn poll(&mut self, now: Instant, out: &mut Vec<Action>) {
        loop {
            self.check_end(now);
            if self.ended.is_some() || self.next_event() > now {
                return;
            }
            let request = self.plan.get(self.next_request).copied();
            let event = self.scenario.events.get(self.next_event).copied();
            match (request, event) {
                // At equal times the request comes first, as in the course's simulator, where
                // rounding errors have that effect: it reaches a leader that is killed right after.
                (Some(planned), event) if event.is_none_or(|event| planned.at <= event.at) => {
                    self.next_request += 1;
                    let (place, living) = (usize::from(planned.client), self.referee.living());
                    out.extend(
                        self.clients.start(now, place, planned.get, living).map(Action::Send),
                    );
                }
                (_, Some(event)) => {
                    self.next_event += 1;
                    self.apply_event(now, event.kind, out);
                }
                (_, None) => return,
            }
        }
    }

    fn check_end(&mut self, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        let ending = if self.referee.living().is_empty() {
            Ending::NoReplicaAlive
        } else if self.referee.traffic.total_msgs >= self.scenario.max_packets {
            Ending::TooManyMessages
        } else if now >= self.start + self.scenario.lifetime() {
            Ending::Time
        } else {
            return;
        };
        self.ended = Some((ending, now));
    }

    fn apply_event(&mut self, now: Instant, kind: EventKind, out: &mut Vec<Action>) {
        let effect = self.referee.apply_event(kind);
        if effect.leader_forgotten {
            self.clients.forget_leader();
        }
        self.outages.push(Outage {
            kind,
            at: now.since(self.start + self.scenario.start_wait),
            killed: effect.killed,
            until_first_put: None,
            began: now,
            operations_before: self.clients.operations(),
        });
        out.extend(effect.killed.map(Action::Kill));
    }

    /// Returns why the run ended; `None` while it is still running.
    #[must_use]
    pub fn ended(&self) -> Option<Ending> {
        self.ended.map(|(ending, _)| ending)
    }

    /// Counts a message between replicas, records the leader that it names, and adds the replicas
    /// that receive it to `deliver`. `src` (the sender's id) and `leader` are fields of the
    /// message.
    pub fn route(
        &mut self,
        src: NodeId,
        destination: Destination,
        leader: Option<NodeId>,
        deliver: &mut Vec<NodeId>,
    ) {
        self.referee.note_leader(src, leader);
        self.referee.route(src, destination, deliver);
    }

    /// Handles an answer to a client. If the client retries the request, adds the new request to
    /// `out`.
    pub fn answer(&mut self, now: Instant, answer: &Answer<'_>, out: &mut Vec<Action>) {
        self.referee.note_leader(answer.src, answer.leader);
        if !self.clients.has(answer.client) {
            let text = format!(
                "replica {} answered {:04X}, which is no client's id; copy `src` of the request to \
                 `dst`",
                answer.src, answer.client.0
            );
            return self.referee.incorrect(text);
        }
        let (received, acknowledged) = self.clients.receive(now, answer, self.referee.living());
        match received {
            Received::Done | Received::Duplicate => {}
            Received::Retry(request) => out.extend(request.map(Action::Send)),
            Received::Incorrect(what) => self.referee.incorrect(what),
        }
        if let Some(number) = acknowledged {
            for outage in &mut self.outages {
                if outage.until_first_put.is_none() && number >= outage.operations_before {
                    outage.until_first_put = Some(now.since(outage.began));
                }
            }
        }
    }

    /// Records the field `leader` of a message that is otherwise invalid. The university course's
    /// simulator, too, reads this field before it checks the destination.
    pub fn note_leader(&mut self, src: NodeId, leader: Option<NodeId>) {
        self.referee.note_leader(src, leader);
    }

    /// Counts a message that violates the rules of the university course. `what` describes the
    /// violation for the report.
    pub fn incorrect(&mut self, what: String) {
        self.referee.incorrect(what);
    }

    /// Records that a replica died although no event of the scenario killed it, for example because
    /// its process exited. `reason` is for the report.
    pub fn died(&mut self, replica: NodeId, reason: String) {
        self.referee.died(replica, reason);
    }

    /// Counts a message that the simulator could not deliver because a socket's send buffer was
    /// full.
    pub fn blocked(&mut self) {
        self.referee.traffic.blocked += 1;
    }

    /// Returns whether a replica is alive: it was neither killed nor reported dead.
    #[must_use]
    pub fn is_alive(&self, replica: NodeId) -> bool {
        self.referee.living().contains(&replica)
    }

    /// Returns whether a client of this run has this id.
    #[must_use]
    pub fn is_client(&self, id: ClientId) -> bool {
        self.clients.has(id)
    }

    /// Sets the probability, from 0 to 1, that a message between replicas is lost.
    pub fn set_drops(&mut self, drops: f64) {
        self.referee.set_drops(drops);
    }

    /// Returns the referee of the run, which counts and drops messages, applies partitions, and
    /// knows the leader that messages name.
    #[must_use]
    pub fn referee(&self) -> &Referee {
        &self.referee
    }

    /// Returns the clients of the run, with their counters and latency samples.
    #[must_use]
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Returns, for each unanswered request, its message id, the replica that it was sent to
    /// (`None` if no replica was alive) and its operation.
    pub fn open_requests(&self) -> impl Iterator<Item = (RequestId, Option<NodeId>, Operation)> {
        self.clients.open()
    }

    /// Returns the ids of all replicas except `id`, in the order in which replica `id`'s command
    /// line lists them. The order is random, so that replicas cannot derive a role from their
    /// position.
    #[must_use]
    pub fn others(&self, id: NodeId) -> Vec<NodeId> {
        let mut others: Vec<NodeId> =
            (0..self.scenario.replicas).map(NodeId).filter(|other| *other != id).collect();
        let mut generator = generator(self.seed, Stream::Order);
        generator.set_word_pos(u128::from(id.0) << 16);
        others.shuffle(&mut generator);
        others
    }

    /// Returns the number of planned gets and the number of planned puts.
    #[must_use]
    pub fn planned(&self) -> (u64, u64) {
        let gets = self.plan.iter().filter(|planned| planned.get).count() as u64;
        (gets, self.plan.len() as u64 - gets)
    }
}

/// Returns the scenario's schedule of requests, evenly spaced over the request window. Each request
/// is sent by a random client, and is a get with probability `scenario.mix`.
fn plan(scenario: &Scenario, seed: u64) -> Vec<Planned> {
    let mut generator = generator(seed, Stream::Plan);
    let window = scenario.window.as_nanos();
    (0..scenario.requests)
        .map(|place| {
            let nanos = window * u128::from(place) / u128::from(scenario.requests);
            Planned {
                at: Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
                get: generator.random_bool(scenario.mix),
                client: generator.random_range(..CLIENT_COUNT),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::clients::AnswerKind;
    use super::*;

    fn at(seconds: f64) -> Instant {
        Instant::ZERO + Duration::from_secs_f64(seconds)
    }

    /// Runs until `until` with a perfect cluster that answers each request immediately. Returns the
    /// actions of the run.
    fn play(run: &mut ScenarioRun, until: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut store = std::collections::BTreeMap::new();
        while run.ended().is_none() && run.next_event() <= until {
            let now = run.next_event();
            let mut new = Vec::new();
            run.poll(now, &mut new);
            for action in &new {
                if let Action::Send(request) = action {
                    let value = match request.operation {
                        Operation::Get { key } => Some(store[&key]),
                        Operation::Put { key, value } => {
                            store.insert(key, value);
                            None
                        }
                    };
                    let answer = Answer {
                        src: request.replica,
                        client: request.client,
                        leader: Some(NodeId(1)),
                        mid: request.mid,
                        kind: AnswerKind::Ok,
                        value: value.as_ref().map(|value| &value[..]),
                    };
                    run.answer(now, &answer, &mut Vec::new());
                }
            }
            actions.append(&mut new);
        }
        actions
    }

    fn run(name: &str) -> ScenarioRun {
        ScenarioRun::new(&Scenario::built_in(name).unwrap(), 3, Instant::ZERO)
    }

    #[test]
    fn scenario_requests_are_evenly_spaced_over_the_run() {
        let mut run = run("advanced-3");
        assert_eq!(run.next_event(), at(5.0));
        let mut out = Vec::new();
        run.poll(at(4.9), &mut out);
        assert!(out.is_empty());
        run.poll(at(5.0), &mut out);
        assert_eq!(out.len(), 1);
        assert_eq!(run.next_event(), at(5.15));
        run.poll(at(6.0), &mut out);
        assert_eq!(out.len(), 7, "a late poll catches up");
        let (gets, puts) = run.planned();
        assert_eq!(gets + puts, 200);
        assert!((20..65).contains(&gets), "{gets}");
    }

    #[test]
    fn scenario_run_ends_after_its_configured_duration() {
        let mut run = run("simple-1");
        let asked = play(&mut run, Instant::MAX);
        assert_eq!(asked.len(), 500);
        assert_eq!(run.ended(), Some(Ending::Time));
        assert_eq!(run.ended.unwrap().1, at(37.0));
        assert_eq!(run.next_event(), Instant::MAX);
    }

    #[test]
    fn request_due_at_a_scheduled_kill_is_sent_before_the_kill() {
        let mut run = run("crash-4");
        play(&mut run, at(12.9));
        assert_eq!(run.next_event(), at(13.0));
        let mut out = Vec::new();
        run.poll(at(13.0), &mut out);
        assert!(
            matches!(
                out[..],
                [Action::Send(Request { replica: NodeId(1), .. }), Action::Kill(NodeId(1))]
            ),
            "{out:?}"
        );
        assert_eq!(run.clients.unanswered().0 + run.clients.unanswered().1, 1);
        out.clear();
        run.poll(at(13.1), &mut out);
        let [Action::Send(request)] = out[..] else { panic!("{out:?}") };
        assert_eq!(request.leader, None, "the clients forget the dead leader");
        assert!(!run.is_alive(NodeId(1)));
    }

    #[test]
    fn scenario_run_ends_at_the_message_limit() {
        let mut run = run("simple-1");
        let mut deliver = Vec::new();
        for _ in 0..5_000 {
            run.route(NodeId(1), Destination::Broadcast, Some(NodeId(1)), &mut deliver);
        }
        run.poll(at(1.0), &mut Vec::new());
        assert_eq!(run.ended(), Some(Ending::TooManyMessages));
    }

    #[test]
    fn scenario_run_ends_when_no_replica_is_alive() {
        let mut run = run("simple-1");
        for replica in 0..5 {
            run.died(NodeId(replica), "it exited".to_owned());
        }
        run.poll(at(1.0), &mut Vec::new());
        assert_eq!(run.ended(), Some(Ending::NoReplicaAlive));
    }

    #[test]
    fn measured_outage_ends_only_with_a_put_sent_after_the_fault() {
        let mut run = run("crash-3");
        play(&mut run, at(14.95));
        let mut out = Vec::new();
        let put = loop {
            out.clear();
            let now = run.next_event();
            run.poll(now, &mut out);
            if let Some(Action::Send(request)) = out.first()
                && matches!(request.operation, Operation::Put { .. })
            {
                break *request;
            }
        };
        while run.outages.is_empty() {
            run.poll(run.next_event(), &mut Vec::new());
        }
        let answer = |request: Request| Answer {
            src: NodeId(2),
            client: request.client,
            leader: Some(NodeId(2)),
            mid: request.mid,
            kind: AnswerKind::Ok,
            value: None,
        };
        run.answer(at(16.0), &answer(put), &mut Vec::new());
        let before = put.mid;
        assert_eq!(run.outages[0].until_first_put, None, "{before:?} was started before the event");
        let put = loop {
            out.clear();
            let now = run.next_event();
            run.poll(now, &mut out);
            if let Some(Action::Send(request)) = out.first()
                && matches!(request.operation, Operation::Put { .. })
            {
                break *request;
            }
        };
        run.answer(at(17.0), &answer(put), &mut Vec::new());
        assert_eq!(run.outages[0].until_first_put, Some(Duration::from_secs(2)));
        assert_eq!(run.outages[0].killed, Some(NodeId(1)));
    }

    #[test]
    fn reply_to_unknown_client_is_incorrect_but_sets_known_leader() {
        let mut run = run("simple-1");
        let answer = Answer {
            src: NodeId(2),
            client: ClientId(0x14),
            leader: Some(NodeId(2)),
            mid: RequestId::default(),
            kind: AnswerKind::Ok,
            value: None,
        };
        run.answer(at(1.0), &answer, &mut Vec::new());
        assert_eq!((run.referee.traffic.incorrect, run.referee.leader()), (1, Some(NodeId(2))));
    }

    #[test]
    fn simulator_shuffles_the_peer_ids_passed_to_replicas() {
        let run = run("simple-1");
        let told: Vec<Vec<NodeId>> = (0..5).map(|id| run.others(NodeId(id))).collect();
        for (id, others) in told.iter().enumerate() {
            let mut sorted = others.clone();
            sorted.sort();
            let expected = (0..5).filter(|other| usize::from(*other) != id).map(NodeId);
            assert!(sorted.into_iter().eq(expected));
        }
        assert!(told.iter().any(|others| !others.is_sorted()));
    }

    #[test]
    fn same_seed_gives_the_same_scenario_requests() {
        let asked = |seed| {
            let scenario = Scenario::built_in("crash-2").unwrap();
            play(&mut ScenarioRun::new(&scenario, seed, Instant::ZERO), Instant::MAX)
        };
        assert_eq!(asked(5), asked(5));
        assert_ne!(asked(5), asked(6));
    }
}
