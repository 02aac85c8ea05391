//! Tests of the runtime's stages under a scheduler whose decisions follow from one random seed. The
//! simulator replaces these stages with its own drivers, so these tests search for faults between
//! the stages, such as an item that is received and not handled, or a clock reading that is too
//! old.
//!
//! Three replicas run the real core, log writer and applier, connected by their channels; the
//! network and the clients are scripted. The scheduler draws which stage runs next, how much work
//! it gets, how full the queues get, and how much time passes. After each reading of the clock the
//! thread may be paused, so that time passes and other stages run.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | the scheduler, the clock and the replicas |
//! | `network.rs` | messages, the network stage, and what replicas promise each other |
//! | `clients.rs` | requests, and whether their replies are right |
//!
//! To run one seed again:
//!
//! ```sh
//! STAGE_SEED=17 cargo test --lib runtime::stages::seeded_tests
//! ```

mod clients;
mod network;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::large_writes::PieceLimits;
use crate::raft::{Durable, Replica};
use crate::runtime::channels::{Ends, channels};
use crate::runtime::clock::{Clock, TestClock};
use crate::runtime::pass::StageState;
use crate::runtime::stages::applier::{Applier, ORIGIN_BYTES, ReplyPolicy};
use crate::runtime::stages::core::{Core, NonLeaderPolicy, PASS_REQUESTS_MAX};
use crate::runtime::stages::log_writer::LogWriter;
use crate::runtime::stages::log_writer::tests::NoStorage;
use crate::runtime::wake::tests::unused_wake;
use crate::types::{Instant, NodeId, RequestKey, Term};

use self::clients::Expectation;
use self::network::{InTransit, ScriptedNetwork};

/// Number of random seeds that each test runs, one run per seed.
const SEEDS: u64 = 150;

/// Name of the environment variable that selects a single seed to run.
const SEED_VARIABLE: &str = "STAGE_SEED";
/// Name of the environment variable that sets the number of seeds in place of [`SEEDS`].
const SEEDS_VARIABLE: &str = "STAGE_SEEDS";

const REPLICAS: usize = 3;
/// Number of scheduler steps of a run in which faults are injected.
const STEPS: usize = 2_500;
/// Maximum number of scheduler steps after the faults of a run have ended. By then every request
/// must have a reply.
const HEALED_STEPS: usize = 60_000;

/// Counts how often a run has reached certain situations. A test fails if a situation that it must
/// cover was never reached.
#[derive(Clone, Copy, Debug, Default)]
struct Coverage {
    /// Number of requests that got a reply other than a refusal.
    answered: usize,
    /// Number of requests that were refused.
    refused: usize,
    /// Number of reads whose returned value was compared with the expected one.
    reads: usize,
    /// Number of votes that replicas granted to other replicas.
    votes: usize,
    /// Number of acknowledgements of a leader's round (numbered broadcast) for which the test knows
    /// when the round began. Each acknowledgement promises the leader a lease.
    promises: usize,
    /// Number of iterations of a core's loop that began with a full queue to the network stage.
    full_queues: usize,
    /// Number of times that a thread was paused right after it had read the clock.
    pauses: usize,
    /// Number of times that a leader's core handled only a part of the waiting requests in one
    /// iteration of its loop, and left the rest for the next iteration.
    slices: usize,
    /// Number of iterations of a core's loop after which a large write was not completely in the
    /// leader's log.
    incomplete: usize,
}

/// Limits with which long batches are large writes, which are appended in pieces.
const PIECES: PieceLimits = PieceLimits {
    whole_bytes_max: 2_000,
    piece_bytes: 1_000,
    uncommitted_bytes_max: 10_000,
    lag_pieces_max: 16,
};

thread_local! {
    /// The run in progress on this thread, whose time the test clock returns; `None` between runs.
    static RUN: RefCell<Option<Rc<Run>>> = const { RefCell::new(None) };
}

/// The test clock shared by all replicas in a run. After each reading it may pause the thread, so
/// that time passes and other stages run.
#[derive(Debug)]
struct PausingClock;

impl TestClock for PausingClock {
    fn read(&self) -> Instant {
        let Some(run) = RUN.with(|run| run.borrow().clone()) else {
            // The stages are being created.
            return Instant::ZERO;
        };
        let now = run.now.get();
        if let Some(at) = run.running_core.get() {
            run.replicas[at].read_at.set(now);
        }
        run.pause();
        now
    }
}

/// The stages of one replica. Also records its promises (leases granted to leaders) and its votes,
/// which the test compares with each other.
struct ReplicaStages {
    core: RefCell<Core>,
    log_writer: RefCell<LogWriter>,
    applier: RefCell<Applier>,
    network: RefCell<ScriptedNetwork>,
    /// Time at which the Raft core of this replica last read the clock.
    read_at: Cell<Instant>,
    /// The votes that this replica granted to other replicas, each as the time and the term of the
    /// vote.
    votes: RefCell<Vec<(Instant, Term)>>,
    /// For each term, the start of the latest of the leader's rounds (numbered broadcasts) that
    /// this replica has acknowledged. An acknowledgement promises the leader a lease that begins
    /// with the round.
    promises: RefCell<BTreeMap<Term, Instant>>,
}

/// A run of one seed: the replicas, the clock and the scheduler's random state.
struct Run {
    random: Cell<u64>,
    config: Config,
    now: Cell<Instant>,
    /// Number of pauses that are nested in each other now: while one stage is paused, another one
    /// may be paused, too.
    pause_depth: Cell<usize>,
    /// Index in `replicas` of the replica whose core stage the scheduler is running now; `None`
    /// while it runs no core.
    running_core: Cell<Option<usize>>,
    replicas: Vec<ReplicaStages>,
    in_transit: RefCell<Vec<InTransit>>,
    /// One-way partitions: `[from][to]` says whether all messages from the replica `from` to the
    /// replica `to` are lost.
    partitioned: RefCell<[[bool; REPLICAS]; REPLICAS]>,
    /// Whether fault injection has ended in this run.
    healed: Cell<bool>,
    /// Relative frequency with which the scheduler runs each of the five stages. The queues to a
    /// stage with a low frequency fill up.
    weights: [u64; 5],
    /// Whether the test takes a core's output right after each iteration of its loop, so that it
    /// knows when each of the leader's rounds (numbered broadcasts) began.
    knows_rounds: bool,
    /// Requests that have no reply yet, each with the expected reply.
    open: RefCell<BTreeMap<RequestKey, Expectation>>,
    next_request: Cell<u64>,
    /// Ids of the acknowledged writes. Writes that were certainly not applied are in `refused`
    /// instead.
    acknowledged: RefCell<Vec<u64>>,
    refused: RefCell<Vec<u64>>,
    /// Known start times of leaders' rounds (numbered broadcasts), by leader, term and round
    /// number.
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

impl Run {
    /// Creates the run of one seed, with its replicas, and makes it the current run of this thread.
    fn start(seed: u64, change: &dyn Fn(&mut Config)) -> Rc<Run> {
        // The scheduler makes the log writer as slow as it likes, which does not count as a stalled
        // disk.
        let mut config = Config { lease_reads: true, disk_stall_timeout: None, ..Config::server() };
        change(&mut config);
        let replicas = (0..REPLICAS).map(|at| replica_stages(at, seed, &config)).collect();
        let mut run = Run {
            random: Cell::new(seed),
            config,
            now: Cell::new(Instant::ZERO),
            pause_depth: Cell::new(0),
            running_core: Cell::new(None),
            replicas,
            in_transit: RefCell::default(),
            partitioned: RefCell::default(),
            healed: Cell::new(false),
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

    /// Clears the current run of this thread.
    fn end() {
        RUN.with(|there| *there.borrow_mut() = None);
    }

    /// Runs the scheduler first with faults, then without. Panics unless, at the end, every request
    /// has a reply and no bytes are in flight.
    fn run(&self) {
        for _ in 0..STEPS {
            self.step();
        }
        self.healed.set(true);
        *self.partitioned.borrow_mut() = Default::default();
        for _ in 0..HEALED_STEPS / 100 {
            for _ in 0..100 {
                self.step();
            }
            if self.is_done() {
                return;
            }
        }
        let open: Vec<_> = self.open.borrow().iter().take(3).map(|it| format!("{it:?}")).collect();
        let in_flight: Vec<_> =
            self.replicas.iter().map(|it| it.core.borrow().in_flight()).collect();
        panic!(
            "{} requests have no reply ({open:?}), in flight: {in_flight:?}",
            self.open.borrow().len()
        );
    }

    fn is_done(&self) -> bool {
        let leads = |it: &ReplicaStages| it.core.borrow().replica().is_leader();
        self.open.borrow().is_empty()
            && self.replicas.iter().any(leads)
            && self.replicas.iter().all(|it| it.core.borrow().in_flight() == (0, 0))
    }

    fn coverage(&self) -> Coverage {
        self.coverage.get()
    }

    fn cover(&self, change: impl FnOnce(&mut Coverage)) {
        let mut coverage = self.coverage.get();
        change(&mut coverage);
        self.coverage.set(coverage);
    }

    /// Returns a random number below `limit` (splitmix64).
    fn draw(&self, limit: u64) -> u64 {
        let state = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn draw_count(&self, limit: usize) -> usize {
        usize::try_from(self.draw(limit as u64)).expect("below a limit of that type")
    }

    fn draw_position(&self) -> usize {
        self.draw_count(REPLICAS)
    }

    fn pass_time(&self, micros_max: u64) {
        self.now.set(self.now.get() + Duration::from_micros(self.draw(micros_max + 1)));
    }

    /// Randomly pauses the thread that has just read the clock: other stages run and time passes
    /// before the reading is returned.
    fn pause(&self) {
        if self.healed.get() || self.pause_depth.get() >= 2 {
            return;
        }
        // The pause is either long, with many events elsewhere, or very short.
        let steps = match self.draw(1_024) {
            0..2 if self.pause_depth.get() == 0 => self.draw(300),
            2..100 => self.draw(6),
            _ => return,
        };
        self.cover(|coverage| coverage.pauses += 1);
        self.pause_depth.set(self.pause_depth.get() + 1);
        let running_core = self.running_core.take();
        for _ in 0..steps {
            self.step();
        }
        self.running_core.set(running_core);
        self.pause_depth.set(self.pause_depth.get() - 1);
    }

    /// Runs one step of the scheduler: may inject a fault, advances the clock, delivers messages,
    /// and runs one stage.
    fn step(&self) {
        if !self.healed.get() {
            self.inject_fault();
        }
        self.pass_time(if self.draw(4) == 0 { 3_000 } else { 50 });
        self.deliver();
        let at = self.draw_position();
        let weights = if self.healed.get() { [1; 5] } else { self.weights };
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

    fn inject_fault(&self) {
        match self.draw(2_000) {
            0..20 => {
                // A leader loses its followers one after the other.
                let leader = self.replicas.iter().position(|it| {
                    it.core.try_borrow().is_ok_and(|core| core.replica().is_leader())
                });
                let from = leader.unwrap_or_else(|| self.draw_position());
                self.partitioned.borrow_mut()[from][self.draw_position()] = true;
            }
            20..30 => {
                let (from, to) = (self.draw_position(), self.draw_position());
                self.partitioned.borrow_mut()[from][to] = true;
            }
            30..34 => *self.partitioned.borrow_mut() = Default::default(),
            34..36 => self.pass_time(400_000),
            36..40 => self.pass_time(60_000),
            _ => {}
        }
    }

    fn run_core(&self, at: usize) {
        let stages = &self.replicas[at];
        let Ok(mut core) = stages.core.try_borrow_mut() else { return };
        let before = core.replica().status();
        let is_full = stages.network.borrow().is_full();
        self.running_core.set(Some(at));
        assert_eq!(core.run_once(None), StageState::Running);
        self.running_core.set(None);
        core.replica().check();
        let after = core.replica().status();
        let read_at = stages.read_at.get();
        if before.leader == Some(id_of(at)) && after.leader == before.leader {
            let added = after.last.index.0 - before.last.index.0;
            // The number includes clock entries, and requests that waited for a clock or a leader.
            assert!(added <= PASS_REQUESTS_MAX as u64 + 500, "{added} requests in one pass");
            if core.has_work() {
                self.cover(|coverage| coverage.slices += 1);
            }
            if core.has_large_writes() {
                self.cover(|coverage| coverage.incomplete += 1);
            }
        }
        if after.voted_for.is_some_and(|vote| vote != id_of(at))
            && (before.term, before.voted_for) != (after.term, after.voted_for)
        {
            stages.votes.borrow_mut().push((read_at, after.term));
            self.cover(|coverage| coverage.votes += 1);
            self.check_promises(at);
        }
        if is_full {
            self.cover(|coverage| coverage.full_queues += 1);
        }
        let may_vote_at = core.replica().may_vote_at();
        drop(core);
        // The only batch there is what this pass sent: its rounds began at the last reading, and
        // its acknowledgements promise what the replica promises now.
        let is_known = stages.network.try_borrow().is_ok_and(|it| it.outbound_len() == 1);
        if is_known && self.knows_rounds {
            self.take_outbound(at, Some((read_at, may_vote_at)));
        }
    }
}

/// Creates the stages of one replica with an empty state.
fn replica_stages(at: usize, seed: u64, config: &Config) -> ReplicaStages {
    let clock = Clock::for_test(&PausingClock);
    let Ends { network, core, log_writer, applier, .. } = channels(&unused_wake(), false);
    let peers: Vec<NodeId> = (0..REPLICAS).filter(|it| *it != at).map(id_of).collect();
    let random = seed * REPLICAS as u64 + at as u64;
    let replica =
        Replica::new(id_of(at), &peers, config.clone(), random, Durable::default(), Instant::ZERO);
    let policy = NonLeaderPolicy::Refuse;
    let core = Core::new(replica, clock, core, policy, Arc::default(), Arc::default());
    let core = core.with_piece_limits(PIECES);
    let log_writer = LogWriter::new(Box::new(NoStorage), log_writer, Arc::default());
    let applier = Applier::new(ReplyPolicy::Origin(origin_of(at)), clock, applier);
    ReplicaStages {
        core: RefCell::new(core),
        log_writer: RefCell::new(log_writer),
        applier: RefCell::new(applier),
        network: RefCell::new(ScriptedNetwork::new(network)),
        read_at: Cell::new(Instant::ZERO),
        votes: RefCell::default(),
        promises: RefCell::default(),
    }
}

/// Runs the scheduler with one random seed, under a configuration modified by `change`. Returns how
/// often the run reached each situation that the tests must cover.
fn run(seed: u64, change: &dyn Fn(&mut Config)) -> Coverage {
    let run = Run::start(seed, change);
    let result = catch_unwind(AssertUnwindSafe(|| run.run()));
    Run::end();
    if let Err(panic) = result {
        eprintln!("seed {seed} failed; run it alone with {SEED_VARIABLE}={seed}");
        resume_unwind(panic);
    }
    run.coverage()
}

fn number_in(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn random_thread_schedules_lose_no_request_and_break_no_lease() {
    if let Some(seed) = number_in(SEED_VARIABLE) {
        eprintln!("{:?}", run(seed, &|_| {}));
        return;
    }
    let mut all = Coverage::default();
    for seed in 1..=number_in(SEEDS_VARIABLE).unwrap_or(SEEDS) {
        let one = run(seed, &|_| {});
        all.answered += one.answered;
        all.refused += one.refused;
        all.reads += one.reads;
        all.votes += one.votes;
        all.promises += one.promises;
        all.full_queues += one.full_queues;
        all.pauses += one.pauses;
        all.slices += one.slices;
        all.incomplete += one.incomplete;
    }
    eprintln!("{all:?}");
    assert!(all.answered > 0 && all.refused > 0 && all.reads > 0 && all.votes > 0, "{all:?}");
    assert!(all.promises > 0 && all.full_queues > 0 && all.pauses > 0, "{all:?}");
    assert!(all.slices > 0 && all.incomplete > 0, "{all:?}");
}

/// Tests that a deliberate bug is detected: a follower measures its promise to the leader (the
/// lease) from a time before it received the leader's message.
#[cfg(feature = "mutants")]
#[test]
fn random_schedules_detect_a_lease_that_predates_its_heartbeat() {
    use crate::config::Mutant;
    let change = |config: &mut Config| config.mutant = Some(Mutant::PromiseBeforeReceipt);
    let noticed = (1..=4 * SEEDS)
        .find(|seed| catch_unwind(AssertUnwindSafe(|| run(*seed, &change))).is_err());
    eprintln!("noticed by seed {noticed:?}");
    assert!(noticed.is_some(), "no seed notices");
}
