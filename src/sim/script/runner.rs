//! Performs scripts (`script.rs`) on a cluster and gives the trace: what golden traces are made of.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kv::{Command, Operation};
use crate::raft::{
    ClientRequest, DiskSpace, Envelope, PeerStatus, RejoinStatus, RequestKind, RoleName,
};
use crate::sim::checkers::safety::Violation;
use crate::sim::cluster::network::{Fate, LinkQuality, Network};
use crate::sim::cluster::trace::{Trace, message_text};
use crate::sim::cluster::{ClientProtocol, Cluster, Happening};
use crate::sim::disk::Pace;
use crate::sim::rng::Rng;
use crate::sim::script::parser::{
    Catch, ClusterOptions, ScriptError, Statement, Which, Wish, parse,
};
use crate::types::{ClientId, Index, Instant, NodeId, RequestId, RequestKey, Term};

/// Events after which a `run` is given up: something talks without end.
const EVENTS_MAX: usize = 100_000;
/// Longest wait for an election timeout.
const TIMEOUT_MAX: Duration = Duration::from_secs(20);

/// Performs a script.
///
/// # Errors
/// If a statement can't be understood or done, or a rule was broken. The trace so far is in
/// the error's text.
pub fn run(text: &str) -> Result<Vec<String>, ScriptError> {
    let statements = parse(text)?;
    let mut statements = statements.into_iter();
    let runner = match statements.next() {
        Some((line, _, Statement::Cluster(options))) => {
            Runner::new(&options).map_err(|violation| ScriptError { line, what: violation.0 })
        }
        other => {
            let line = other.map_or(1, |(line, ..)| line);
            Err(ScriptError { line, what: "a script begins with its cluster".to_owned() })
        }
    };
    let mut runner = runner?;
    for (line, words, statement) in statements {
        runner.perform(&words, &statement).map_err(|violation| {
            let trace = runner.cluster.trace.take().join("\n");
            ScriptError { line, what: format!("{words}: {violation}\nafter\n{trace}") }
        })?;
    }
    Ok(runner.cluster.trace.take())
}

#[derive(Debug)]
struct Runner {
    cluster: Cluster,
    network: Network,
    ids: Vec<NodeId>,
    catches: Vec<(Catch, Which, usize)>,
    kept: Vec<Envelope>,
    last_request: Option<ClientRequest>,
    requests: u32,
    sent: BTreeMap<(NodeId, NodeId, &'static str), u32>,
    /// Only who is told to stands for election.
    patient: bool,
}

impl Runner {
    fn new(options: &ClusterOptions) -> Result<Runner, Violation> {
        let mut rng = Rng::new(options.seed);
        let ids: Vec<NodeId> = (1..=options.replicas).map(NodeId).collect();
        let protocol =
            if options.course { ClientProtocol::Course } else { ClientProtocol::Connection };
        let mut runner = Runner {
            cluster: Cluster::new(&ids, &options.config, protocol, &mut rng),
            network: Network::new(rng.split(), &ids, LinkQuality::perfect(options.hop)),
            ids,
            catches: Vec::new(),
            kept: Vec::new(),
            last_request: None,
            requests: 0,
            sent: BTreeMap::new(),
            patient: false,
        };
        for id in runner.ids.clone() {
            runner.cluster.machine_mut(id).snapshots.plan = options.snapshots;
            runner.cluster.start(id)?;
        }
        if let Some(leader) = options.leader {
            runner.elect(leader)?;
        }
        runner.sent.clear();
        runner.cluster.trace = Trace::golden();
        Ok(runner)
    }

    /// Makes a replica the leader, and lets everybody know what it committed.
    fn elect(&mut self, leader: NodeId) -> Result<(), Violation> {
        self.timeout(leader)?;
        let end = self.cluster.now() + TIMEOUT_MAX;
        let settled = |runner: &Runner| {
            runner
                .cluster
                .machines()
                .iter()
                .all(|machine| machine.store.applied_index() == Index(1))
        };
        // On a slow network something is always on its way: there a while must do.
        let mut calm = 0;
        while self.cluster.now() < end && calm < 300 {
            let next = self.cluster.now() + Duration::from_millis(1);
            self.events_until(next)?;
            self.cluster.skip_to(next);
            calm += u32::from(settled(self));
            if settled(self) && self.cluster.under_way() == 0 {
                break;
            }
        }
        self.set_patient(None);
        if self.cluster.leader() == Some(leader) && settled(self) {
            return Ok(());
        }
        Err(Violation(format!("{leader} does not come to lead everybody")))
    }

    fn perform(&mut self, words: &str, statement: &Statement) -> Result<(), Violation> {
        let shown = !matches!(
            statement,
            Statement::Run
                | Statement::Impatient
                | Statement::Quiet
                | Statement::Loud
                | Statement::Times
        );
        if shown {
            self.note(format_args!("> {words}"));
        }
        match statement {
            Statement::Cluster(_) => {
                return Err(Violation("a script has one cluster, at its beginning".to_owned()));
            }
            Statement::Ask(id, wish) => {
                let request = self.request(wish);
                self.last_request = Some(request.clone());
                self.ask(*id, request)?;
            }
            Statement::Again(id) => {
                let request = self.last_request.clone();
                let request = request.ok_or(Violation("nothing was asked yet".to_owned()))?;
                self.ask(*id, request)?;
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
            Statement::Catch(catch, which, count) => {
                self.catches.push((*catch, which.clone(), *count));
            }
            Statement::Pass => self.catches.clear(),
            Statement::Release(which, count) => self.release(which, *count)?,
            Statement::Crash(id) => {
                let machine = self.cluster.machine_mut(*id);
                machine.held.syncs = false;
                machine.disk.lose_unsynced();
                self.cluster.crash(*id);
            }
            Statement::Lose(id) => {
                if self.cluster.machine(*id).replica.is_some() {
                    return Err(Violation(format!("{id} runs")));
                }
                self.cluster.lose_disk(*id);
            }
            Statement::Restart(id) => {
                self.cluster.start(*id)?;
                self.cluster.machine_mut(*id).held.timeouts = self.patient;
            }
            Statement::Impatient => self.set_patient(None),
            Statement::Pause(id) => self.cluster.machine_mut(*id).held.everything = true,
            Statement::Resume(id) => self.cluster.resume(*id)?,
            Statement::Slow(id) => self.cluster.machine_mut(*id).held.syncs = true,
            Statement::Sync(id) => self.cluster.sync(*id)?,
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
                self.cluster.sync(*id)?;
            }
            Statement::Room(id, bytes) => {
                let room = DiskSpace { low: bytes.is_some(), bytes: bytes.unwrap_or(0) };
                self.cluster.room(*id, room)?;
            }
            Statement::Lag(id, span) => {
                self.cluster.machine_mut(*id).paces.apply = Pace::always(*span);
            }
            Statement::Clock(id, ppm) => {
                let now = self.cluster.now();
                self.cluster.machine_mut(*id).clock.set_rate(now, *ppm);
                self.cluster.set_timer_of(*id);
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
        self.carry();
        Ok(())
    }

    fn note(&mut self, text: std::fmt::Arguments<'_>) {
        self.cluster.trace.note(self.cluster.now(), text);
    }

    fn request(&mut self, wish: &Wish) -> ClientRequest {
        self.requests += 1;
        let mut name = *b"request 00000000";
        let digits = format!("{:08}", self.requests);
        name[8..].copy_from_slice(digits.as_bytes());
        let key = RequestKey { client: ClientId(0x100), request: RequestId(name) };
        let operation = match wish {
            Wish::Get(key) => Operation::Get { key: key.as_bytes() },
            Wish::Put(key, value) => {
                Operation::Put { key: key.as_bytes(), value: value.as_bytes() }
            }
            Wish::Delete(key) => Operation::Delete { key: key.as_bytes() },
            Wish::Transfer(from, to, amount) => {
                Operation::Transfer { from: from.as_bytes(), to: to.as_bytes(), amount: *amount }
            }
        };
        let kind = if operation.is_read() { RequestKind::Read } else { RequestKind::Write };
        ClientRequest { key, kind, payload: Command { key, operation }.encode() }
    }

    fn ask(&mut self, id: NodeId, request: ClientRequest) -> Result<(), Violation> {
        self.cluster.trace.asked(&request);
        let now = self.cluster.now();
        self.cluster.request(now, id, request);
        self.events_until(now)
    }

    fn release(&mut self, which: &Which, mut count: usize) -> Result<(), Violation> {
        let wanted = |sent: &Envelope| {
            let wanted = count > 0 && which.means(sent);
            count -= usize::from(wanted);
            wanted
        };
        let (wanted, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.kept).into_iter().partition(wanted);
        self.kept = kept;
        if wanted.is_empty() {
            return Err(Violation("nothing like that was kept".to_owned()));
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

    /// Keeps their own timeouts from all but `id` and leaders; from nobody if that is none.
    fn set_patient(&mut self, id: Option<NodeId>) {
        self.patient = id.is_some();
        for other in self.ids.clone() {
            let held = self.patient && Some(other) != id && !self.leads(other);
            self.cluster.machine_mut(other).held.timeouts = held;
            self.cluster.set_timer_of(other);
        }
    }

    /// Lets time pass until a replica stands for election, and keeps the others from it from now
    /// on.
    fn timeout(&mut self, id: NodeId) -> Result<(), Violation> {
        let end = self.cluster.now() + TIMEOUT_MAX;
        let campaigns = |runner: &Runner| {
            let replica = runner.cluster.machine(id).replica.as_ref();
            replica.map(|replica| replica.status().counters.pre_votes)
        };
        let before = campaigns(self).ok_or(Violation(format!("{id} is down")))?;
        self.set_patient(Some(id));
        while campaigns(self) == Some(before) {
            if self.cluster.next_at().is_none_or(|at| at > end) {
                return Err(Violation(format!("{id} does not time out; does it hear a leader?")));
            }
            self.advance()?;
        }
        Ok(())
    }

    fn leads(&self, id: NodeId) -> bool {
        let replica = self.cluster.machine(id).replica.as_ref();
        replica.is_some_and(|replica| replica.status().role == RoleName::Leader)
    }

    /// Until nothing is on its way.
    fn run(&mut self) -> Result<(), Violation> {
        for _ in 0..EVENTS_MAX {
            if self.cluster.under_way() == 0 {
                return Ok(());
            }
            self.advance()?;
        }
        Err(Violation("it never comes to rest".to_owned()))
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
        assert_ne!(happening, Happening::Nothing, "there was an event");
        self.carry();
        // The trace has them; nobody here waits for them.
        self.cluster.answers.clear();
        Ok(())
    }

    fn carry(&mut self) {
        let now = self.cluster.now();
        for envelope in std::mem::take(&mut self.cluster.sent) {
            let (from, to) = (envelope.from, envelope.to);
            *self.sent.entry((from, to, envelope.message.name())).or_default() += 1;
            let fate = self.network.fate(now, from, to);
            let catch = if fate == Fate::Cut { None } else { self.caught(&envelope) };
            let arrow = match (fate, catch) {
                (Fate::Cut, _) => "x->",
                (Fate::Lost, _) | (_, Some(Catch::Drop)) => "~->",
                (_, Some(Catch::Hold)) => "=->",
                (_, Some(Catch::Copy)) => "+->",
                (Fate::Arrives { .. }, None) => "->",
            };
            let replica = self.cluster.machine(from).replica.as_ref();
            let term = replica.map_or(Term(0), |replica| replica.status().term);
            self.cluster.trace.sent(now, term, &envelope, arrow);
            if matches!(catch, Some(Catch::Hold | Catch::Copy)) {
                self.kept.push(envelope.clone());
            }
            if let Fate::Arrives { at, .. } = fate
                && matches!(catch, None | Some(Catch::Copy))
            {
                self.cluster.deliver(at, envelope);
            }
        }
    }

    fn caught(&mut self, envelope: &Envelope) -> Option<Catch> {
        let (catch, _, left) =
            self.catches.iter_mut().find(|(_, which, left)| *left > 0 && which.means(envelope))?;
        *left -= 1;
        Some(*catch)
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
                    format!(
                        "{id}@{} {} log=[{}] durable={} commit={} applied={}{}{}",
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

/// What a leader knows of its peers.
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

/// How far a replica has come that lost its disk.
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

impl Which {
    fn means(&self, envelope: &Envelope) -> bool {
        self.from.is_none_or(|from| from == envelope.from)
            && self.to.is_none_or(|to| to == envelope.to)
            && self.kind.as_ref().is_none_or(|kind| kind == envelope.message.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_goes_through() {
        let trace = run("cluster 3 leader=1\nput 1 a=1\nrun").unwrap();
        assert!(trace.contains(&"1 answers put a=1: done".to_owned()), "{trace:#?}");
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        for (script, part) in [
            ("put 1 a=1", "begins with its cluster"),
            ("cluster 3 leader=1\ntimeout 2", "does it hear a leader?"),
            ("cluster 3 leader=1\nrelease", "nothing like that"),
            ("cluster 3\nagain 1", "nothing was asked"),
        ] {
            let error = run(script).unwrap_err().to_string();
            assert!(error.contains(part), "{script}: {error}");
        }
    }
}
