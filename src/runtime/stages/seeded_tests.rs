//! The runtime's stages under a scheduler that one seed decides. The simulator has drivers of its
//! own in the place of these stages, so what goes wrong between them, such as an item that is
//! received and not handled or a reading of the clock that is too old, is looked for here.
//!
//! Three replicas of core, log writer and applier run as they are, joined by their channels. The
//! network is a script. The scheduler draws which stage runs next, how much it takes, how full the
//! queues get, and how much time passes. Each reading of the clock is a place where the thread may
//! be put aside: time passes right behind it, and other stages go on.
//!
//! A seed that fails is run again by
//!
//! ```sh
//! STAGE_SEED=17 cargo test --lib runtime::stages::seeded_tests
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::kv::{Command, Operation, Outcome};
use crate::raft::{ClientRequest, Durable, Envelope, PeerMsg, RefusalReason, Replica, RequestKind};
use crate::types::{ClientId, Instant, NodeId, RequestId, RequestKey, Term};
use crate::wire::frame::Attempt;

use crate::runtime::channels::{
    Applied, CoreItem, Ends, ForwardedWrite, NetworkEnds, QUEUE_LEN, Requests,
};
use crate::runtime::clock::{Clock, TestClock};
use crate::runtime::stages::StageState;
use crate::runtime::stages::applier::{Applier, ORIGIN_BYTES, ReplyPolicy};
use crate::runtime::stages::core::{Core, NonLeaderPolicy, PASS_REQUESTS_MAX};
use crate::runtime::stages::log_writer::LogWriter;
use crate::runtime::wake::tests::unused_wake;

const REPLICAS: usize = 3;
/// Seeds of one test; each takes some milliseconds.
const SEEDS: u64 = 150;
/// Steps of the scheduler before the faults end.
const STEPS: usize = 2_500;
/// Steps within which all must come to rest then.
const CALM_STEPS: usize = 60_000;

/// Names one seed, to be run alone.
const SEED_VARIABLE: &str = "STAGE_SEED";
/// Another number of seeds.
const SEEDS_VARIABLE: &str = "STAGE_SEEDS";

thread_local! {
    /// The run of this thread, for the clock.
    static RUN: RefCell<Option<Rc<Run>>> = const { RefCell::new(None) };
}

/// The clock of all replicas of a run.
#[derive(Debug)]
struct InterruptingClock;

impl TestClock for InterruptingClock {
    fn read(&self) -> Instant {
        let Some(run) = RUN.with(|run| run.borrow().clone()) else {
            // The stages are only being made.
            return Instant::ZERO;
        };
        let now = run.now.get();
        if let Some(at) = run.running.get() {
            run.replicas[at].read_at.set(now);
        }
        run.interrupt();
        now
    }
}

/// A message between replicas on its way.
struct Flying {
    arrives_at: Instant,
    envelope: Envelope,
}

/// A replica's network, as the script plays it.
struct Network {
    ends: NetworkEnds,
    /// Messages in its sockets.
    arrived: VecDeque<Envelope>,
    /// Requests of its clients that the core had no room for yet.
    held: VecDeque<ClientRequest>,
    /// For the core, when it has room.
    applied: Option<Applied>,
    /// Whom the core believes to lead, if that is itself: in which term.
    leads: Option<Term>,
}

struct Stages {
    core: RefCell<Core>,
    log_writer: RefCell<LogWriter>,
    applier: RefCell<Applier>,
    network: RefCell<Network>,
    /// When its core last read the clock.
    read_at: Cell<Instant>,
    /// A vote that it has given to another: when, and in which term.
    votes: RefCell<Vec<(Instant, Term)>>,
    /// What it has promised leaders: by term, the latest start of a round that it has answered.
    promises: RefCell<BTreeMap<Term, Instant>>,
}

/// What a request is for.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// The write of this number.
    Write(u64),
    /// A read of what this write wrote, which was acknowledged before the read was asked.
    Read(u64),
    /// The same of a write that was certainly not applied.
    ReadRefused(u64),
}

/// What a run came across, so that no test passes because nothing happened.
#[derive(Clone, Copy, Debug, Default)]
struct Coverage {
    answered: usize,
    refused: usize,
    reads: usize,
    votes: usize,
    /// Answers to rounds whose start is known.
    promises: usize,
    full_queues: usize,
    interrupts: usize,
    /// Passes that left requests over.
    slices: usize,
}

struct Run {
    seed: u64,
    random: Cell<u64>,
    config: Config,
    now: Cell<Instant>,
    /// Interrupts within interrupts.
    depth: Cell<usize>,
    /// Whose core is at work.
    running: Cell<Option<usize>>,
    replicas: Vec<Stages>,
    flying: RefCell<Vec<Flying>>,
    /// Which way no message goes.
    cut: RefCell<[[bool; REPLICAS]; REPLICAS]>,
    /// No more faults.
    calm: Cell<bool>,
    /// How often each kind of stage runs: what is in front of a slow one finds full queues.
    weights: [u64; 5],
    /// Whether what leaves the core is looked at at once, to know when rounds began.
    knows_rounds: bool,
    /// Requests without an answer.
    open: RefCell<BTreeMap<RequestKey, Asked>>,
    next_request: Cell<u64>,
    acknowledged: RefCell<Vec<u64>>,
    refused: RefCell<Vec<u64>>,
    /// When rounds began, where that is known.
    rounds: RefCell<BTreeMap<(NodeId, Term, u64), Instant>>,
    coverage: Cell<Coverage>,
}

fn id_of(at: usize) -> NodeId {
    NodeId(u16::try_from(at).expect("few replicas") + 1)
}

fn position_of(id: NodeId) -> usize {
    usize::from(id.0) - 1
}

fn origin_of(at: usize) -> [u8; ORIGIN_BYTES] {
    let mut origin = [0; ORIGIN_BYTES];
    origin[..2].copy_from_slice(&id_of(at).0.to_be_bytes());
    origin
}

fn name_of(write: u64) -> Vec<u8> {
    format!("key {write}").into_bytes()
}

impl Run {
    fn new(seed: u64, change: &dyn Fn(&mut Config)) -> Rc<Run> {
        // A slow log writer is slow here for as long as the scheduler likes, and no stalled disk.
        let mut config = Config { lease_reads: true, disk_stall_timeout: None, ..Config::server() };
        change(&mut config);
        let clock = Clock::for_test(&InterruptingClock);
        let replicas = (0..REPLICAS).map(|at| {
            let Ends { network, core, log_writer, applier, .. } =
                crate::runtime::channels::channels(&unused_wake(), false);
            let peers: Vec<NodeId> = (0..REPLICAS).filter(|it| *it != at).map(id_of).collect();
            let durable = Durable::default();
            let random = seed * REPLICAS as u64 + at as u64;
            let now = Instant::ZERO;
            let replica = Replica::new(id_of(at), &peers, config.clone(), random, durable, now);
            let refuse = NonLeaderPolicy::Refuse;
            Stages {
                core: RefCell::new(Core::new(
                    replica,
                    clock,
                    core,
                    refuse,
                    Arc::default(),
                    Arc::default(),
                )),
                log_writer: RefCell::new(LogWriter::in_memory(log_writer)),
                applier: RefCell::new(Applier::new(
                    ReplyPolicy::Origin(origin_of(at)),
                    clock,
                    applier,
                )),
                network: RefCell::new(Network {
                    ends: network,
                    arrived: VecDeque::new(),
                    held: VecDeque::new(),
                    applied: None,
                    leads: None,
                }),
                read_at: Cell::new(now),
                votes: RefCell::default(),
                promises: RefCell::default(),
            }
        });
        let replicas = replicas.collect();
        let mut run = Run {
            seed,
            random: Cell::new(seed),
            config,
            now: Cell::new(Instant::ZERO),
            depth: Cell::new(0),
            running: Cell::new(None),
            replicas,
            flying: RefCell::default(),
            cut: RefCell::default(),
            calm: Cell::new(false),
            weights: [0; 5],
            knows_rounds: true,
            open: RefCell::default(),
            next_request: Cell::new(0),
            acknowledged: RefCell::default(),
            refused: RefCell::default(),
            rounds: RefCell::default(),
            coverage: Cell::default(),
        };
        run.weights = [(); 5].map(|()| 20 + run.draw(100));
        if run.draw(2) == 0 {
            run.weights[run.draw_count(5)] = 1;
        }
        run.knows_rounds = run.draw(4) > 0;
        let run = Rc::new(run);
        RUN.with(|there| *there.borrow_mut() = Some(Rc::clone(&run)));
        run
    }

    /// A number below `limit` (splitmix64).
    fn draw(&self, limit: u64) -> u64 {
        let state = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// The same for what is counted.
    fn draw_count(&self, limit: usize) -> usize {
        usize::try_from(self.draw(limit as u64)).expect("below a limit of that type")
    }

    fn draw_position(&self) -> usize {
        self.draw_count(REPLICAS)
    }

    fn cover(&self, change: impl FnOnce(&mut Coverage)) {
        let mut coverage = self.coverage.get();
        change(&mut coverage);
        self.coverage.set(coverage);
    }

    fn pass_time(&self, micros_max: u64) {
        self.now.set(self.now.get() + Duration::from_micros(self.draw(micros_max + 1)));
    }

    /// The thread that has just read the clock is put aside, or not.
    fn interrupt(&self) {
        if self.calm.get() || self.depth.get() >= 2 {
            return;
        }
        // For long, in which much happens elsewhere, or for a moment.
        let steps = match self.draw(1_024) {
            0..2 if self.depth.get() == 0 => self.draw(300),
            2..100 => self.draw(6),
            _ => return,
        };
        self.cover(|coverage| coverage.interrupts += 1);
        self.depth.set(self.depth.get() + 1);
        let running = self.running.take();
        for _ in 0..steps {
            self.step();
        }
        self.running.set(running);
        self.depth.set(self.depth.get() - 1);
    }

    fn step(&self) {
        if !self.calm.get() {
            match self.draw(2_000) {
                0..20 => {
                    // A leader loses its followers one after the other.
                    let leader = self.replicas.iter().position(|it| {
                        it.core.try_borrow().is_ok_and(|core| core.replica().is_leader())
                    });
                    let from = leader.unwrap_or_else(|| self.draw_position());
                    self.cut.borrow_mut()[from][self.draw_position()] = true;
                }
                20..30 => {
                    let (from, to) = (self.draw_position(), self.draw_position());
                    self.cut.borrow_mut()[from][to] = true;
                }
                30..34 => *self.cut.borrow_mut() = Default::default(),
                34..36 => self.pass_time(400_000),
                36..40 => self.pass_time(60_000),
                _ => {}
            }
        }
        self.pass_time(if self.draw(4) == 0 { 3_000 } else { 50 });
        self.deliver();
        let at = self.draw_position();
        let weights = if self.calm.get() { [1; 5] } else { self.weights };
        let mut drawn = self.draw(weights.iter().sum());
        let stage = weights.iter().position(|weight| {
            let is_it = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            is_it
        });
        match stage {
            Some(0) => self.run_core(at),
            Some(1) => {
                if let Ok(mut log_writer) = self.replicas[at].log_writer.try_borrow_mut() {
                    log_writer.run_ready(true);
                }
            }
            Some(2) => {
                if let Ok(mut applier) = self.replicas[at].applier.try_borrow_mut() {
                    applier.run_ready(true);
                }
            }
            Some(3) => self.receive(at),
            _ => self.send(at),
        }
    }

    fn run_core(&self, at: usize) {
        let stages = &self.replicas[at];
        let Ok(mut core) = stages.core.try_borrow_mut() else { return };
        let before = core.replica().status();
        let full = stages.network.borrow().ends.outbound.is_full();
        self.running.set(Some(at));
        assert_eq!(core.run_once(None), StageState::Running);
        self.running.set(None);
        core.replica().check();
        let after = core.replica().status();
        let read_at = stages.read_at.get();
        if before.leader == Some(id_of(at)) && after.leader == before.leader {
            let more = after.last.index.0 - before.last.index.0;
            // And entries of the log's clock.
            assert!(more <= PASS_REQUESTS_MAX as u64 + 500, "{more} requests in one pass");
            if core.has_work() {
                self.cover(|coverage| coverage.slices += 1);
            }
        }
        if after.voted_for.is_some_and(|vote| vote != id_of(at))
            && (before.term, before.voted_for) != (after.term, after.voted_for)
        {
            stages.votes.borrow_mut().push((read_at, after.term));
            self.cover(|coverage| coverage.votes += 1);
            self.check_promises(at);
        }
        if full {
            self.cover(|coverage| coverage.full_queues += 1);
        }
        let may_vote_at = core.replica().may_vote_at();
        drop(core);
        // What has just left the core: its rounds began at the last reading, and the answers to
        // rounds of others promise what the replica promises now.
        let is_all = stages.network.try_borrow().is_ok_and(|it| it.ends.outbound.len() == 1);
        if is_all && self.knows_rounds {
            self.take_outbound(at, Some((read_at, may_vote_at)));
        }
    }

    /// Takes what the core gives to the network. With `known`: when its rounds began, and the end
    /// of the promise that its answers make.
    fn take_outbound(&self, at: usize, known: Option<(Instant, Option<Instant>)>) {
        let Ok(mut network) = self.replicas[at].network.try_borrow_mut() else { return };
        let Ok(outbound) = network.ends.outbound.try_recv() else { return };
        if let Some(leadership) = outbound.leadership {
            network.leads = (leadership.leader == Some(id_of(at))).then_some(leadership.term);
        }
        drop(network);
        for refusal in outbound.refusals {
            self.refused(refusal.key, refusal.reason);
        }
        for envelope in outbound.peers {
            match (&envelope.message, known) {
                (PeerMsg::AppendEntries(append), Some((read_at, _))) => {
                    let round = (envelope.from, append.term, append.round.0);
                    self.rounds.borrow_mut().entry(round).or_insert(read_at);
                }
                (PeerMsg::AppendReply(reply), Some((_, may_vote_at))) => {
                    let round = (envelope.to, reply.term, reply.round.0);
                    if let Some(began_at) = self.rounds.borrow().get(&round) {
                        let ends_at = *began_at + self.config.lease_length();
                        assert!(
                            may_vote_at.is_some_and(|at| at >= ends_at),
                            "{} promises until {may_vote_at:?}, and a lease ends at {ends_at:?}",
                            id_of(at)
                        );
                    }
                }
                _ => {}
            }
            self.fly(envelope);
        }
    }

    fn fly(&self, envelope: Envelope) {
        let (from, to) = (position_of(envelope.from), position_of(envelope.to));
        if let PeerMsg::AppendReply(reply) = &envelope.message {
            let round = (envelope.to, reply.term, reply.round.0);
            if let Some(began_at) = self.rounds.borrow().get(&round) {
                let mut promises = self.replicas[from].promises.borrow_mut();
                let promise = promises.entry(reply.term).or_default();
                *promise = (*promise).max(*began_at);
                self.cover(|coverage| coverage.promises += 1);
            }
            self.check_promises(from);
        }
        if self.cut.borrow()[from][to] {
            return;
        }
        let delay = if self.draw(20) == 0 { 20_000 } else { 500 };
        let arrives_at = self.now.get() + Duration::from_micros(self.draw(delay));
        self.flying.borrow_mut().push(Flying { arrives_at, envelope });
    }

    /// Who has answered a leader's round votes for nobody else while that leader may count on a
    /// lease from the start of the round.
    fn check_promises(&self, at: usize) {
        let stages = &self.replicas[at];
        let (votes, promises) = (stages.votes.borrow(), stages.promises.borrow());
        for (voted_at, term) in votes.iter() {
            for (_, began_at) in promises.range(..*term) {
                let ends_at = *began_at + self.config.lease_length();
                assert!(
                    *voted_at >= ends_at,
                    "{} votes in term {term} at {voted_at:?}, before the end of a lease at \
                     {ends_at:?}",
                    id_of(at)
                );
            }
        }
    }

    fn deliver(&self) {
        let now = self.now.get();
        let mut flying = self.flying.borrow_mut();
        for Flying { envelope, .. } in flying.extract_if(.., |it| it.arrives_at <= now) {
            let network = self.replicas[position_of(envelope.to)].network.try_borrow_mut();
            // A network that is at work reads it the next time, or it is lost.
            if let Ok(mut network) = network {
                network.arrived.push_back(envelope);
            }
        }
    }

    /// A network's pass in.
    fn receive(&self, at: usize) {
        let Ok(mut network) = self.replicas[at].network.try_borrow_mut() else { return };
        let began_at = self.now.get();
        let singly = self.draw(4) == 0;
        let most = if self.calm.get() { usize::MAX } else { 1 + self.draw_count(100) };
        let count = most.min(network.arrived.len());
        let messages: Vec<Envelope> = network.arrived.drain(..count).collect();
        if singly {
            for message in messages {
                let _ = network.ends.to_core.try_send(CoreItem::Peers(vec![message]));
            }
        } else if !messages.is_empty() {
            let _ = network.ends.to_core.try_send(CoreItem::Peers(messages));
        }
        if network.arrived.is_empty() {
            network.ends.peers_read.note(began_at);
        }
        if !self.calm.get() {
            self.ask(at, &mut network);
            // A client that wants snapshots all the time.
            if self.draw(30) == 0 {
                while network.ends.to_core.try_send(CoreItem::TakeSnapshot).is_ok() {}
            }
        }
        if network.ends.requests.len() < QUEUE_LEN / 2 && !network.held.is_empty() {
            let most = if self.draw(4) == 0 { PASS_REQUESTS_MAX } else { self.draw_count(200) };
            let count = network.held.len().min(1 + most);
            let requests = network.held.drain(..count).collect();
            network.ends.requests.try_send(Requests::Clients(requests)).expect("half empty");
        }
    }

    /// Clients ask something.
    fn ask(&self, at: usize, network: &mut Network) {
        let count = match self.draw(1_000) {
            // A flood, where it leads to something.
            0 if network.leads.is_some() => 3 * PASS_REQUESTS_MAX as u64,
            1..50 => self.draw(200),
            _ => self.draw(6),
        };
        let mut requests = Vec::new();
        for _ in 0..count {
            let acknowledged = self.acknowledged.borrow();
            let refused = self.refused.borrow();
            let asked = match self.draw(8) {
                0..3 if !acknowledged.is_empty() => {
                    let latest = acknowledged.len() - 1;
                    Asked::Read(acknowledged[latest - self.draw_count(3).min(latest)])
                }
                3 if !refused.is_empty() => {
                    Asked::ReadRefused(refused[self.draw_count(refused.len())])
                }
                _ => Asked::Write(self.next_request.get()),
            };
            requests.push(self.request(at, asked));
        }
        match network.leads {
            // Some come from another replica.
            Some(term) if self.draw(4) == 0 => {
                let from = (at + 1) % REPLICAS;
                let write = |_| {
                    let request = self.request(from, Asked::Write(self.next_request.get()));
                    ForwardedWrite { attempt: Attempt::First { term }, request }
                };
                let writes = (0..self.draw(20)).map(write).collect();
                if let Err(error) = network.ends.requests.try_send(Requests::Forwarded(writes))
                    && let Requests::Forwarded(writes) = error.into_inner()
                {
                    for write in writes {
                        self.refused(write.request.key, RefusalReason::Busy);
                    }
                }
            }
            _ => {}
        }
        network.held.extend(requests);
    }

    fn request(&self, at: usize, asked: Asked) -> ClientRequest {
        let number = self.next_request.replace(self.next_request.get() + 1);
        let mut request = [0; 16];
        request[..ORIGIN_BYTES].copy_from_slice(&origin_of(at));
        request[ORIGIN_BYTES..].copy_from_slice(&number.to_be_bytes());
        let key = RequestKey { client: ClientId(1), request: RequestId(request) };
        let (Asked::Write(write) | Asked::Read(write) | Asked::ReadRefused(write)) = asked;
        let name = name_of(write);
        let (kind, operation) = match asked {
            Asked::Write(_) => (RequestKind::Write, Operation::Put { key: &name, value: &name }),
            Asked::Read(_) | Asked::ReadRefused(_) => {
                (RequestKind::Read, Operation::Get { key: &name })
            }
        };
        self.open.borrow_mut().insert(key, asked);
        ClientRequest { key, kind, payload: Command { key, operation }.encode() }
    }

    /// A network's pass out.
    fn send(&self, at: usize) {
        for _ in 0..=self.draw(4) {
            self.take_outbound(at, None);
        }
        let Ok(mut network) = self.replicas[at].network.try_borrow_mut() else { return };
        let most = 1 + self.draw_count(8);
        let released: Vec<_> = network.ends.released.try_iter().take(most).flatten().collect();
        for _ in 0..=self.draw(4) {
            let Ok(batch) = network.ends.replies.try_recv() else { break };
            for answer in batch.answers {
                self.answered(answer.key, &answer.outcome);
            }
            network.applied.get_or_insert_default().merge(batch.applied);
        }
        if let Some(applied) = network.applied
            && network.ends.to_core.try_send(CoreItem::Applied(applied)).is_ok()
        {
            network.applied = None;
        }
        drop(network);
        for envelope in released {
            self.fly(envelope);
        }
    }

    fn close(&self, key: RequestKey) -> Asked {
        let asked = self.open.borrow_mut().remove(&key);
        asked.unwrap_or_else(|| panic!("a second answer to {key:?}"))
    }

    fn answered(&self, key: RequestKey, outcome: &Outcome) {
        self.cover(|coverage| coverage.answered += 1);
        match (self.close(key), outcome) {
            (Asked::Write(write), Outcome::Done) => self.acknowledged.borrow_mut().push(write),
            (Asked::Read(write), Outcome::Value(value)) => {
                self.cover(|coverage| coverage.reads += 1);
                assert_eq!(value.as_deref(), Some(&name_of(write)[..]), "a stale read");
            }
            (Asked::ReadRefused(write), Outcome::Value(value)) => {
                assert_eq!(value.as_deref(), None, "write {write} was refused, and is there");
            }
            (asked, outcome) => panic!("{outcome:?} in answer to {asked:?}"),
        }
    }

    fn refused(&self, key: RequestKey, _reason: RefusalReason) {
        if key == RequestKey::default() {
            // The log's clock is nobody's request.
            return;
        }
        self.cover(|coverage| coverage.refused += 1);
        if let Asked::Write(write) = self.close(key) {
            self.refused.borrow_mut().push(write);
        }
    }

    /// Faults first, then none: everything must be answered and given back.
    fn play(&self) {
        for _ in 0..STEPS {
            self.step();
        }
        self.calm.set(true);
        *self.cut.borrow_mut() = Default::default();
        for _ in 0..CALM_STEPS / 100 {
            for _ in 0..100 {
                self.step();
            }
            if self.is_at_rest() {
                return;
            }
        }
        let open: Vec<_> = self.open.borrow().iter().take(3).map(|it| format!("{it:?}")).collect();
        let under_way: Vec<_> =
            self.replicas.iter().map(|it| it.core.borrow().under_way()).collect();
        panic!(
            "{} requests are open ({open:?}), under way: {under_way:?}",
            self.open.borrow().len()
        );
    }

    fn is_at_rest(&self) -> bool {
        let leads = |it: &Stages| it.core.borrow().replica().is_leader();
        self.open.borrow().is_empty()
            && self.replicas.iter().any(leads)
            && self.replicas.iter().all(|it| it.core.borrow().under_way() == (0, 0))
    }
}

/// Plays a seed, and says what it came across.
fn play(seed: u64, change: &dyn Fn(&mut Config)) -> Coverage {
    let run = Run::new(seed, change);
    let played = catch_unwind(AssertUnwindSafe(|| run.play()));
    RUN.with(|there| *there.borrow_mut() = None);
    if let Err(panic) = played {
        eprintln!("seed {} failed; run it alone with {SEED_VARIABLE}={}", run.seed, run.seed);
        resume_unwind(panic);
    }
    run.coverage.get()
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn stages_lose_nothing_and_keep_promises() {
    if let Some(seed) = number_of(SEED_VARIABLE) {
        eprintln!("{:?}", play(seed, &|_| {}));
        return;
    }
    let mut all = Coverage::default();
    for seed in 1..=number_of(SEEDS_VARIABLE).unwrap_or(SEEDS) {
        let one = play(seed, &|_| {});
        all.answered += one.answered;
        all.refused += one.refused;
        all.reads += one.reads;
        all.votes += one.votes;
        all.promises += one.promises;
        all.full_queues += one.full_queues;
        all.interrupts += one.interrupts;
        all.slices += one.slices;
    }
    eprintln!("{all:?}");
    assert!(all.answered > 0 && all.refused > 0 && all.reads > 0 && all.votes > 0, "{all:?}");
    assert!(all.promises > 0 && all.full_queues > 0 && all.interrupts > 0, "{all:?}");
    assert!(all.slices > 0, "{all:?}");
}

/// The driver notices a promise that counts from before its message was received.
#[cfg(feature = "mutants")]
#[test]
fn promises_from_before_receipt_are_noticed() {
    use crate::config::Mutant;
    let change = |config: &mut Config| config.mutant = Some(Mutant::PromiseBeforeReceipt);
    let noticed = (1..=4 * SEEDS)
        .find(|seed| catch_unwind(AssertUnwindSafe(|| play(*seed, &change))).is_err());
    eprintln!("noticed by seed {noticed:?}");
    assert!(noticed.is_some(), "no seed notices");
}
