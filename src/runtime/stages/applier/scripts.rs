//! Runs clients' requests with scripts on an overlay of the applied state.
//!
//! The requests of one group run one after another in one pass, each on the effects of those before
//! it, and their effects go to the log as one batch. So what they do in total is bounded: requests
//! for which no time is left run first in the next group.
//!
//! A request that takes long is ended, which has no effect, and runs again on a thread of its own,
//! on a copy-on-write copy of the state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::Applier;
use crate::kv::{ScriptEffects, StateMachine};
use crate::lua::StopFlag;
use crate::redis::{
    ScriptBudget, ScriptClock, ScriptFacts, ScriptRequest, ScriptRun, ScriptRunner,
};
use crate::runtime::boards::ApplierBoard;
use crate::runtime::channels::{ScriptJobs, ScriptResults, ToNetwork};
use crate::storage::failpoint::reach;

/// Number of Lua instructions that a request may take on the applier's thread: about 5 ms.
const INSTRUCTIONS_MAX: u64 = 400_000;
/// Number of steps of about 50 ns that the commands of a request may take on the applier's thread.
const STEPS_MAX: u64 = 100_000;
/// Time that a request may take on the applier's thread: a few times what its instructions usually
/// take.
const TIME_MAX: Duration = Duration::from_millis(20);
/// Length of a script or library that is compiled on the applier's thread, in bytes: about 10 ms.
const CODE_BYTES_MAX: usize = 128 << 10;
/// Number of Lua instructions that a request may take on a thread of its own: about 2 s.
const LONG_INSTRUCTIONS_MAX: u64 = 150_000_000;
/// Number of steps of about 50 ns that the commands of a request may take on a thread of its own.
const LONG_STEPS_MAX: u64 = 40_000_000;
/// Time that a request may take on a thread of its own.
const LONG_TIME_MAX: Duration = Duration::from_secs(5);
/// Maximum number of long requests that wait for the thread. Further ones get an error.
const LONG_WAITING_MAX: usize = 16;
/// Time after which no further request of a group is run.
const GROUP_TIME: Duration = Duration::from_millis(5);
/// Length in bytes of the effects of a group from which on no further request is run, so that they
/// fit into one entry.
const GROUP_BYTES: usize = 512 << 10;

/// Clients' requests with scripts, and what runs them.
#[derive(Debug, Default)]
pub(super) struct Scripts {
    waiting: VecDeque<Box<ScriptJobs>>,
    /// Made for the first request.
    runner: Option<Box<ScriptRunner>>,
    /// The thread for long requests, which is started for the first one.
    to_thread: Option<Sender<LongJob>>,
    /// Number of runs so far, from which random seeds are made.
    run_count: u64,
}

/// A long request with scripts, for the thread that runs them.
#[derive(Debug)]
struct LongJob {
    state: Box<FrozenState>,
    facts: ScriptFacts,
    sequence: u64,
    request: ScriptRequest,
    seed: u64,
    clock: ScriptClock,
}

/// A copy of the state on which a long request runs.
struct FrozenState(StateMachine);

impl std::fmt::Debug for FrozenState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrozenState").finish_non_exhaustive()
    }
}

impl Scripts {
    /// Adds a group of requests, if there is one.
    pub(super) fn add(&mut self, jobs: Option<Box<ScriptJobs>>) {
        self.waiting.extend(jobs);
    }
}

impl Applier {
    /// Runs the groups of requests that are waiting, and sends the results to the network stage.
    pub(super) fn run_scripts(&mut self) {
        while let Some(jobs) = self.scripts.waiting.pop_front() {
            let results = self.run_group(*jobs);
            // An error means that the network has stopped, and then so does this stage.
            let _ = self.ends.script_results.send(results);
        }
    }

    fn run_group(&mut self, jobs: ScriptJobs) -> ScriptResults {
        let ScriptJobs { facts, jobs } = jobs;
        let mut runner = self.scripts.runner.take().unwrap_or_default();
        let began_at = self.clock.now();
        runner.begin(&self.store, &facts);
        let clock = self.clock;
        let clock = ScriptClock::new(move || clock.now());
        let (mut bytes, mut is_over) = (0, false);
        let mut runs = Vec::with_capacity(jobs.len());
        for (sequence, request) in jobs {
            if is_over {
                runs.push((sequence, ScriptRun::NotFirst));
                continue;
            }
            self.scripts.run_count += 1;
            let seed = began_at.0.rotate_left(32) ^ self.scripts.run_count;
            let budget = ScriptBudget {
                instructions: INSTRUCTIONS_MAX,
                steps: STEPS_MAX,
                time: TIME_MAX,
                code_bytes: CODE_BYTES_MAX,
                stop: StopFlag::default(),
                seed,
                clock: clock.clone(),
            };
            let mut run = runner.run(&self.store, &request, &budget);
            if let ScriptRun::Ended { effects: ScriptEffects::Apply(effects), .. } = &run {
                bytes += effects.len();
            } else if run == ScriptRun::OverBudget {
                let facts = facts.clone();
                let state = Box::new(FrozenState(self.store.copy_for_scripts()));
                let clock = clock.clone();
                run = self.move_to_thread(LongJob { state, facts, sequence, request, seed, clock });
            }
            runs.push((sequence, run));
            is_over = bytes >= GROUP_BYTES
                || !runner.may_continue()
                || self.clock.now().since(began_at) >= GROUP_TIME;
        }
        runner.end();
        self.scripts.runner = Some(runner);
        reach("script", "run");
        ScriptResults { users_revision: facts.users_revision, is_group: true, runs }
    }

    /// Gives a long request to the thread that runs them. Returns its result for now.
    fn move_to_thread(&mut self, job: LongJob) -> ScriptRun {
        let to_thread = self.scripts.to_thread.get_or_insert_with(|| {
            let (to_thread, jobs) = bounded(LONG_WAITING_MAX);
            let (board, results) = (Arc::clone(&self.board), self.ends.script_results.another());
            let thread = thread::Builder::new().name("scripts".to_owned());
            let run = move || run_long_scripts(&jobs, &board, &results);
            if let Err(error) = thread.spawn(run) {
                tracing::warn!(%error, "cannot start the thread for long scripts");
            }
            to_thread
        });
        match to_thread.try_send(job) {
            Ok(()) => ScriptRun::Moved,
            Err(_) => ScriptRun::OverBudget,
        }
    }
}

/// Runs long requests on the current thread until the applier has stopped.
fn run_long_scripts(
    jobs: &Receiver<LongJob>,
    board: &ApplierBoard,
    results: &ToNetwork<ScriptResults>,
) {
    let mut runner = ScriptRunner::default();
    for LongJob { state, facts, sequence, request, seed, clock } in jobs {
        let budget = ScriptBudget {
            instructions: LONG_INSTRUCTIONS_MAX,
            steps: LONG_STEPS_MAX,
            time: LONG_TIME_MAX,
            code_bytes: usize::MAX,
            stop: board.long_script().begin(request.script(), facts.sent_at()),
            seed,
            clock,
        };
        runner.begin(&state.0, &facts);
        let run = runner.run(&state.0, &request, &budget);
        runner.end();
        let was_killed = board.long_script().end();
        let run = if was_killed { ScriptRun::Stopped } else { run };
        let (users_revision, runs) = (facts.users_revision, vec![(sequence, run)]);
        if results.send(ScriptResults { users_revision, is_group: false, runs }).is_err() {
            return;
        }
    }
}
