//! Runs clients' requests with scripts on an overlay of the applied state.
//!
//! The requests of one group run one after another in one pass, each on the effects of those before
//! it, and their effects go to the log as one batch. So what they do in total is bounded: requests
//! for which no time is left run first in the next group.

use std::collections::VecDeque;
use std::time::Duration;

use super::Applier;
use crate::kv::ScriptEffects;
use crate::lua::StopFlag;
use crate::redis::{ScriptBudget, ScriptRun, ScriptRunner};
use crate::runtime::channels::{ScriptJobs, ScriptResults};

/// Number of Lua instructions that a request may take on the applier's thread: about 5 ms.
const INSTRUCTIONS_MAX: u64 = 400_000;
/// Number of steps of about 50 ns that the commands of a request may take on the applier's thread.
const STEPS_MAX: u64 = 100_000;
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
    /// Number of runs so far, from which random seeds are made.
    run_count: u64,
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
        let runner = self.scripts.runner.get_or_insert_default();
        let began_at = self.clock.now();
        runner.begin(&self.store, &facts);
        let (mut bytes, mut is_over) = (0, false);
        let mut results = Vec::with_capacity(jobs.len());
        for (sequence, request) in jobs {
            if is_over {
                results.push((sequence, ScriptRun::NotFirst));
                continue;
            }
            self.scripts.run_count += 1;
            let budget = ScriptBudget {
                instructions: INSTRUCTIONS_MAX,
                steps: STEPS_MAX,
                stop: StopFlag::default(),
                seed: began_at.0.rotate_left(32) ^ self.scripts.run_count,
            };
            let run = runner.run(&self.store, &request, &budget);
            if let ScriptRun::Ended { effects: ScriptEffects::Apply(effects), .. } = &run {
                bytes += effects.len();
            }
            results.push((sequence, run));
            is_over = bytes >= GROUP_BYTES
                || !runner.may_continue()
                || self.clock.now().since(began_at) >= GROUP_TIME;
        }
        results
    }
}
