//! The script runner: executes the statements of a script on a simulated cluster and returns the
//! trace.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kv::{Batch, CommandId, Operation};
use crate::large_writes::{LargeWrites, PieceLimits};
use crate::raft::{
    ClientRequest, DiskSpace, Envelope, PeerStatus, RejoinStatus, RequestKind, RoleName,
};
use crate::sim::cluster::network::{Fate, LinkQuality, Network};
use crate::sim::cluster::trace::{Trace, message_text};
use crate::sim::cluster::{Advance, ClientProtocol, Cluster};
use crate::sim::rng::DurationRange;
use crate::sim::rng::Rng;
use crate::sim::script::parser::{
    ClientOperation, ClusterOptions, Interception, MessageFilter, ScriptError, Statement, parse,
};
use crate::sim::violation::Violation;
use crate::types::{
    ClientId, Index, Instant, NodeId, RequestId, RequestKey, Term, TransferRequest,
};

const TRANSFER: CommandId = CommandId::of("transfer");

/// Maximum number of events that a `run` statement handles. More events mean that messages trigger
/// each other forever.
const EVENTS_MAX: usize = 100_000;
/// Maximum virtual time that a `timeout` statement waits for an election timeout.
const TIMEOUT_MAX: Duration = Duration::from_secs(20);

/// Executes a script on a simulated cluster and returns its trace, line by line.
///
/// # Errors
/// If a statement is invalid or fails, or a rule is violated. The error contains the trace so far.
pub fn run(text: &str) -> Result<Vec<String>, ScriptError> {
    let statements = parse(text)?;
    let mut statements = statements.into_iter();
    let runner = match statements.next() {
        Some((line, _, Statement::Cluster(options))) => {
            Runner::new(&options).map_err(|violation| ScriptError { line, what: violation.0 })
        }
        other => {
            let line = other.map_or(1, |(line, ..)| line);
            Err(ScriptError {
                line,
                what: "a script must begin with a cluster statement".to_owned(),
            })
        }
    };
    let mut runner = runner?;
    for (line, text, statement) in statements {
        runner.perform(&text, &statement).map_err(|violation| {
            let trace = runner.cluster.trace.take().join("\n");
            ScriptError { line, what: format!("{text}: {violation}\ntrace so far:\n{trace}") }
        })?;
    }
    Ok(runner.cluster.trace.take())
}

#[derive(Debug)]
struct Runner {
    cluster: Cluster,
    network: Network,
    ids: Vec<NodeId>,
    /// Active message interceptions, each with its filter and the number of messages that it may
    /// still intercept.
    interceptions: Vec<(Interception, MessageFilter, usize)>,
    /// Messages that an interception has withheld, and copies that it has made of delivered
    /// messages; `release` statements can deliver both.
    kept: Vec<Envelope>,
    last_request: Option<ClientRequest>,
    requests: u32,
    /// Number of messages sent since the last `count` statement, by sender, receiver and message
    /// type.
    sent: BTreeMap<(NodeId, NodeId, &'static str), u32>,
    /// Whether a `timeout` statement suspends the election timeouts of all replicas but one.
    holds_timeouts: bool,
}

impl Runner {
    fn new(options: &ClusterOptions) -> Result<Runner, Violation> {
        let mut rng = Rng::new(options.seed);
        let ids: Vec<NodeId> = (1..=options.replicas + options.spares).map(NodeId).collect();
        let members = ids[..usize::from(options.replicas)].to_vec();
        let protocol =
            if options.course { ClientProtocol::Course } else { ClientProtocol::Connection };
        let mut runner = Runner {
            cluster: Cluster::new(&ids, &members, &options.config, protocol, &mut rng),
            network: Network::new(rng.split(), &ids, LinkQuality::perfect(options.hop)),
            ids,
            interceptions: Vec::new(),
            kept: Vec::new(),
            last_request: None,
            requests: 0,
            sent: BTreeMap::new(),
            holds_timeouts: false,
        };
        runner.cluster.set_witnesses(options.witness.as_slice());
        for id in runner.ids.clone() {
            let machine = runner.cluster.machine_mut(id);
            machine.snapshots.plan = options.snapshots;
            if let Some(piece_bytes) = options.piece_bytes {
                machine.large_writes = LargeWrites::new(PieceLimits {
                    whole_bytes_max: 2 * piece_bytes,
                    piece_bytes,
                    uncommitted_bytes_max: 1,
                    ..PieceLimits::SERVER
                });
            }
            runner.cluster.start(id)?;
        }
        if let Some(leader) = options.leader {
            runner.elect(leader)?;
        }
        runner.sent.clear();
        runner.cluster.trace = Trace::golden();
        Ok(runner)
    }

    /// Makes the replica `leader` campaign, and runs until it is the leader and all replicas have
    /// applied its first entry.
    fn elect(&mut self, leader: NodeId) -> Result<(), Violation> {
        self.timeout(leader)?;
        let end = self.cluster.now() + TIMEOUT_MAX;
        let settled = |runner: &Runner| {
            runner
                .cluster
                .machines()
                .iter()
                .filter(|machine| machine.bootstrap.votes(machine.id))
                .all(|machine| machine.store.applied_index() == Index(1))
        };
        // On a slow network a message is always in flight. There, it is enough that all replicas
        // applied the entry at least 300 ms ago.
        let mut settled_steps = 0;
        while self.cluster.now() < end && settled_steps < 300 {
            let next = self.cluster.now() + Duration::from_millis(1);
            self.events_until(next)?;
            self.cluster.skip_to(next);
            settled_steps += u32::from(settled(self));
            if settled(self) && self.cluster.in_flight() == 0 {
                break;
            }
        }
        self.hold_timeouts(None);
        if self.cluster.leader() == Some(leader) && settled(self) {
            return Ok(());
        }
        Err(Violation(format!("{leader} does not become leader of all replicas")))
    }

    fn perform(&mut self, text: &str, statement: &Statement) -> Result<(), Violation> {
        let shown = !matches!(
            statement,
            Statement::Run
                | Statement::Timeouts
                | Statement::Quiet
                | Statement::Loud
                | Statement::Times
        );
        if shown {
            self.note(format_args!("> {text}"));
        }
        match statement {
            Statement::Cluster(_) => {
                return Err(Violation(
                    "only the first statement may be a cluster statement".to_owned(),
                ));
            }
            Statement::Request(id, operation) => {
                let request = self.request(operation);
                self.last_request = Some(request.clone());
                self.send_request(*id, request)?;
            }
            Statement::Again(id) => {
                let request = self.last_request.clone();
                let request = request.ok_or(Violation("no request was sent before".to_owned()))?;
                self.send_request(*id, request)?;
            }
            Statement::Part(groups) => self.network.part(groups),
            Statement::CutOneWay(from, to) => {
                for &one in from {
                    for &other in to.iter().filter(|&&other| other != one) {
                        self.network.cut(one, other);
                    }
                }
            }
            Statement::Heal => self.network.heal(),
            Statement::Intercept(interception, filter, count) => {
                self.interceptions.push((*interception, filter.clone(), *count));
            }
            Statement::Pass => self.interceptions.clear(),
            Statement::Release(filter, count) => self.release(filter, *count)?,
            Statement::Crash(id) => {
                let machine = self.cluster.machine_mut(*id);
                machine.held.syncs = false;
                machine.disk.lose_unsynced();
                self.cluster.crash(*id);
            }
            Statement::Lose(id) => {
                if self.cluster.machine(*id).replica.is_some() {
                    return Err(Violation(format!("{id} is running")));
                }
                self.cluster.lose_disk(*id)?;
            }
            Statement::Restart(id) => {
                self.cluster.start(*id)?;
                self.cluster.machine_mut(*id).held.timeouts = self.holds_timeouts;
            }
            Statement::Timeouts => self.hold_timeouts(None),
            Statement::Pause(id) => self.cluster.machine_mut(*id).held.all = true,
            Statement::Resume(id) => self.cluster.resume(*id)?,
            Statement::Slow(id) => self.cluster.machine_mut(*id).held.syncs = true,
            Statement::Sync(id) => self.cluster.end_held_sync(*id)?,
            Statement::SlowChunks(id) => self.cluster.machine_mut(*id).held.chunks = true,
            Statement::Store(id) => self.cluster.store_held_chunks(*id)?,
            Statement::Forge(envelope) => {
                self.cluster.forged = true;
                let now = self.cluster.now();
                self.cluster.deliver(now, Envelope::clone(envelope));
                self.events_until(now)?;
            }
            Statement::Fast(id) => {
                self.cluster.machine_mut(*id).held.syncs = false;
                self.cluster.end_held_sync(*id)?;
            }
            Statement::DiskSpace(id, bytes) => {
                let space = DiskSpace { low: bytes.is_some(), bytes: bytes.unwrap_or(0) };
                self.cluster.set_disk_space(*id, space)?;
            }
            Statement::Failover(id, request) => self.failover(*id, *request)?,
            Statement::Change(id, changes) => self.cluster.change_members(*id, changes)?,
            Statement::Lag(id, span) => {
                self.cluster.machine_mut(*id).delays.apply = DurationRange::always(*span);
            }
            Statement::Clock(id, ppm) => {
                let now = self.cluster.now();
                self.cluster.machine_mut(*id).clock.set_rate(now, *ppm);
                self.cluster.reset_timer(*id);
            }
            Statement::Timeout(id) => self.timeout(*id)?,
            Statement::Run => self.run()?,
            Statement::RunFor(span) => self.run_for(*span)?,
            Statement::Show => self.show(),
            Statement::Count => self.count(),
            Statement::Quiet => self.cluster.trace.set_messages(false),
            Statement::Loud => self.cluster.trace.set_messages(true),
            Statement::Times => self.cluster.trace.set_times(true),
        }
        self.route_messages();
        Ok(())
    }

    fn note(&mut self, text: std::fmt::Arguments<'_>) {
        self.cluster.trace.note(self.cluster.now(), text);
    }

    fn failover(&mut self, id: NodeId, request: TransferRequest) -> Result<(), Violation> {
        let answer = match self.cluster.request_transfer(id, request)? {
            Ok(target) => format!("target {}", target.0),
            Err(refusal) => format!("refused: {refusal:?}"),
        };
        self.note(format_args!("{} answers failover: {answer}", id.0));
        Ok(())
    }

    fn request(&mut self, operation: &ClientOperation) -> ClientRequest {
        self.requests += 1;
        let mut name = *b"request 00000000";
        let digits = format!("{:08}", self.requests);
        name[8..].copy_from_slice(digits.as_bytes());
        let key = RequestKey { client: ClientId(0x100), request: RequestId(name) };
        let amount = match operation {
            ClientOperation::Transfer(_, _, amount) => amount.to_string(),
            _ => String::new(),
        };
        let transfer;
        let operation = match operation {
            ClientOperation::Get(key) => Operation::get(key.as_bytes()),
            ClientOperation::Put(key, value) => Operation::set(key.as_bytes(), value.as_bytes()),
            ClientOperation::Delete(key) => Operation::del(key.as_bytes()),
            ClientOperation::Transfer(from, to, _) => {
                transfer = [from.as_bytes(), to.as_bytes(), amount.as_bytes()];
                Operation::call(TRANSFER, &transfer[..])
            }
        };
        let kind = if operation.is_read() { RequestKind::Read } else { RequestKind::Write };
        ClientRequest { key, kind, payload: Batch::one(key, &operation) }
    }

    fn send_request(&mut self, id: NodeId, request: ClientRequest) -> Result<(), Violation> {
        self.cluster.trace.request_sent(&request);
        let now = self.cluster.now();
        self.cluster.request(now, id, request);
        self.events_until(now)
    }

    fn release(&mut self, filter: &MessageFilter, mut count: usize) -> Result<(), Violation> {
        let wanted = |sent: &Envelope| {
            let wanted = count > 0 && filter.matches(sent);
            count -= usize::from(wanted);
            wanted
        };
        let (wanted, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.kept).into_iter().partition(wanted);
        self.kept = kept;
        if wanted.is_empty() {
            return Err(Violation("no matching message was kept".to_owned()));
        }
        let now = self.cluster.now();
        for envelope in wanted {
            let (from, to) = (envelope.from.0, envelope.to.0);
            let text = message_text(&envelope.message);
            self.note(format_args!("late {from} -> {to} {text}"));
            self.cluster.deliver(now, envelope);
            self.events_until(now)?;
        }
        Ok(())
    }

    /// Suspends the election timeouts of all replicas except `id` and the leaders. If `id` is
    /// `None`, lets all election timeouts fire again.
    fn hold_timeouts(&mut self, id: Option<NodeId>) {
        self.holds_timeouts = id.is_some();
        for other in self.ids.clone() {
            let held = self.holds_timeouts && Some(other) != id && !self.leads(other);
            self.cluster.machine_mut(other).held.timeouts = held;
            self.cluster.reset_timer(other);
        }
    }

    /// Runs until the election timeout of replica `id` makes it campaign. From now on, the other
    /// replicas' election timeouts do not fire.
    fn timeout(&mut self, id: NodeId) -> Result<(), Violation> {
        let end = self.cluster.now() + TIMEOUT_MAX;
        let campaigns = |runner: &Runner| {
            let replica = runner.cluster.machine(id).replica.as_ref();
            replica.map(|replica| replica.status().counters.pre_votes)
        };
        let before = campaigns(self).ok_or(Violation(format!("{id} is down")))?;
        self.hold_timeouts(Some(id));
        while campaigns(self) == Some(before) {
            if self.cluster.next_at().is_none_or(|at| at > end) {
                return Err(Violation(format!(
                    "{id} does not time out; does it receive a leader's messages?"
                )));
            }
            self.advance()?;
        }
        Ok(())
    }

    fn leads(&self, id: NodeId) -> bool {
        let replica = self.cluster.machine(id).replica.as_ref();
        replica.is_some_and(|replica| replica.status().role == RoleName::Leader)
    }

    /// Runs until no message, client request or disk operation is in flight.
    fn run(&mut self) -> Result<(), Violation> {
        for _ in 0..EVENTS_MAX {
            if self.cluster.in_flight() == 0 {
                return Ok(());
            }
            self.advance()?;
        }
        Err(Violation("the cluster does not settle".to_owned()))
    }

    fn run_for(&mut self, span: Duration) -> Result<(), Violation> {
        let end = self.cluster.now() + span;
        self.events_until(end)?;
        self.cluster.skip_to(end);
        Ok(())
    }

    fn events_until(&mut self, end: Instant) -> Result<(), Violation> {
        while self.cluster.next_at().is_some_and(|at| at <= end) {
            self.advance()?;
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<(), Violation> {
        let happening = self.cluster.advance()?;
        assert_ne!(happening, Advance::Idle, "the queue must not be empty");
        self.route_messages();
        // The trace already contains the answers.
        self.cluster.answers.clear();
        Ok(())
    }

    /// Decides the fate of the messages that were sent during the last event: applies
    /// interceptions, and schedules the arrival of the other messages.
    fn route_messages(&mut self) {
        let now = self.cluster.now();
        for envelope in std::mem::take(&mut self.cluster.sent) {
            let (from, to) = (envelope.from, envelope.to);
            *self.sent.entry((from, to, envelope.message.name())).or_default() += 1;
            let fate = self.network.fate(now, from, to);
            let interception = if fate == Fate::Cut { None } else { self.intercept(&envelope) };
            let arrow = match (fate, interception) {
                (Fate::Cut, _) => "x->",
                (Fate::Lost, _) | (_, Some(Interception::Drop)) => "~->",
                (_, Some(Interception::Hold)) => "=->",
                (_, Some(Interception::Copy)) => "+->",
                (Fate::Arrives { .. }, None) => "->",
            };
            let replica = self.cluster.machine(from).replica.as_ref();
            let term = replica.map_or(Term(0), |replica| replica.status().term);
            self.cluster.trace.sent(now, term, &envelope, arrow);
            if matches!(interception, Some(Interception::Hold | Interception::Copy)) {
                self.kept.push(envelope.clone());
            }
            if let Fate::Arrives { at, .. } = fate
                && matches!(interception, None | Some(Interception::Copy))
            {
                self.cluster.deliver(at, envelope);
            }
        }
    }

    /// Returns the interception that applies to a message, and reduces its remaining number of
    /// messages by one; `None` if no interception applies.
    fn intercept(&mut self, envelope: &Envelope) -> Option<Interception> {
        let (interception, _, left) = self
            .interceptions
            .iter_mut()
            .find(|(_, filter, left)| *left > 0 && filter.matches(envelope))?;
        *left -= 1;
        Some(*interception)
    }

    fn show(&mut self) {
        for place in 0..self.ids.len() {
            let id = self.ids[place].0;
            let machine = &self.cluster.machines()[place];
            let text = machine.replica.as_ref().map_or_else(
                || format!("{id} is down, its disk ends with {}", machine.disk.last()),
                |replica| {
                    let status = replica.status();
                    let first = status.base.index.next().0;
                    let ids: Vec<String> = (first..=status.last.index.0)
                        .map(|index| replica.log().id_at(Index(index)).to_string())
                        .collect();
                    let (index, members) = replica.configuration();
                    let members = match index {
                        Index::ZERO => String::new(),
                        _ => format!(" {members}"),
                    };
                    format!(
                        "{id}@{} {} log=[{}] durable={} commit={} applied={}{members}{}{}",
                        status.term,
                        format!("{:?}", status.role).to_lowercase(),
                        ids.join(" "),
                        status.durable_index,
                        status.commit_index,
                        machine.store.applied_index(),
                        peers_text(&status.peers),
                        rejoin_text(status.rejoining.as_ref())
                    )
                },
            );
            self.note(format_args!("  {text}"));
        }
    }

    fn count(&mut self) {
        let mut sent = std::mem::take(&mut self.sent);
        for ((from, to, name), count) in &mut sent {
            self.note(format_args!("  {} -> {} {name}: {count}", from.0, to.0));
        }
    }
}

/// Formats a leader's match indexes of its peers for the trace; empty if there are no peers.
fn peers_text(peers: &[PeerStatus]) -> String {
    let one = |peer: &PeerStatus| {
        let probing = if peer.probing { " probing" } else { "" };
        format!("{}:{}{probing}", peer.id.0, peer.match_index)
    };
    if peers.is_empty() {
        return String::new();
    }
    format!(" match=[{}]", peers.iter().map(one).collect::<Vec<_>>().join(" "))
}

/// Formats the progress of a replica that is rejoining after a disk loss, for the trace; empty if
/// it is not rejoining.
fn rejoin_text(rejoining: Option<&RejoinStatus>) -> String {
    match rejoining {
        None => String::new(),
        Some(RejoinStatus { waiting_for, .. }) if !waiting_for.is_empty() => {
            let ids: Vec<String> = waiting_for.iter().map(|id| id.0.to_string()).collect();
            format!(" rejoining: waits for {}", ids.join(" "))
        }
        Some(RejoinStatus { target: None, .. }) => " rejoining: waits for a leader".to_owned(),
        Some(RejoinStatus { target: Some(target), .. }) => format!(" rejoining: up to {target}"),
    }
}

impl MessageFilter {
    fn matches(&self, envelope: &Envelope) -> bool {
        self.from.is_none_or(|from| from == envelope.from)
            && self.to.is_none_or(|to| to == envelope.to)
            && self.kind.as_ref().is_none_or(|kind| kind == envelope.message.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn put_in_a_simulator_script_is_committed_and_answered() {
        let trace = run("cluster 3 leader=1\nput 1 a=1\nrun").unwrap();
        assert!(trace.contains(&"1 answers set a=1: done".to_owned()), "{trace:#?}");
    }

    #[test]
    fn simulator_script_reports_the_statement_that_fails() {
        for (script, part) in [
            ("put 1 a=1", "begin with a cluster statement"),
            ("cluster 3 leader=1\ntimeout 2", "does it receive a leader"),
            ("cluster 3 leader=1\nrelease", "no matching message"),
            ("cluster 3\nagain 1", "no request was sent"),
        ] {
            let error = run(script).unwrap_err().to_string();
            assert!(error.contains(part), "{script}: {error}");
        }
    }
}
