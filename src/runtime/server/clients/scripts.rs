//! Requests with scripts or functions: from their runs by the applier to their effects.
//!
//! The applier runs a group of requests on the state of this replica. Their effects go to the log
//! as one batch, in the order of the runs and without gaps, since a script may have seen the
//! effects of those before it. The effects of a long script are a batch of their own. One batch is
//! sent at a time, so that the scripts of this replica's clients never contradict each other. A
//! script that has changed nothing is checked by a read instead. A request whose effects or reply
//! turn out to be wrong, because a key has changed meanwhile, runs again with the next group.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::kv::{Outcome, ScriptEffects};
use crate::lua::LogLevel;
use crate::redis::{ScriptNotes, ScriptRun, write_function_stats};
use crate::runtime::channels::{ScriptJobs, ScriptResults};
use crate::runtime::long_script::NotKilled;
use crate::storage::failpoint::reach;
use crate::types::RequestKey;
use crate::wire::resp::{Version, Writer};

use super::Clients;
use super::batches::Batches;
use super::in_flight::InFlight;
use super::replies::sender;
use super::request::ScriptReply;
use super::requests::Target;

/// The group of requests with scripts that is being run, or whose effects are on their way.
#[derive(Debug, Default)]
pub(super) struct Scripts {
    /// Whether the applier has a group.
    is_running: bool,
    /// The effects that are to be sent, in groups, each as one batch.
    ready: VecDeque<Group>,
    /// The batch with the effects of the group that was sent last.
    sent: Option<RequestKey>,
    /// Indexes of the clients whose requests wait for the next group, first those that must run
    /// first.
    held: VecDeque<usize>,
    /// Indexes of the clients whose requests wait for the end of a pause.
    paused: Vec<usize>,
}

/// The effects of the scripts that have run on one overlay, or of one long script.
#[derive(Debug)]
struct Group {
    /// The effects, by the sequence numbers of the requests.
    effects: Vec<(u64, Bytes)>,
    /// The revision of the users under which the requests have run.
    users_revision: u64,
}

impl Scripts {
    /// Returns whether the requests of a group have no outcomes yet.
    pub(super) fn are_busy(&self, batches: &Batches) -> bool {
        self.is_running
            || !self.ready.is_empty()
            || self.sent.is_some_and(|key| batches.is_in_flight(key))
    }

    /// Makes a client wait for the next group.
    pub(super) fn hold(&mut self, index: usize) {
        self.held.push_back(index);
    }

    /// Makes a client wait for the end of the pause.
    pub(super) fn pause(&mut self, index: usize) {
        self.paused.push(index);
    }

    /// Returns whether a client waits for the end of the pause.
    pub(super) fn has_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    /// Records the group that was sent to the applier, if there is one.
    pub(super) fn begin(&mut self, jobs: Option<&ScriptJobs>) {
        if jobs.is_some() {
            self.is_running = true;
        }
    }
}

impl Clients {
    /// Sends the effects of a group as a batch, if there are some. Lets the clients that wait for
    /// the next group continue, if there is no group.
    pub(super) fn send_effects(&mut self, target: Target) {
        while !matches!(target, Target::Own(_))
            && !self.scripts.sent.is_some_and(|key| self.batches.is_in_flight(key))
            && let Some(Group { effects, users_revision }) = self.scripts.ready.pop_front()
        {
            let is_unanswered = |(sequence, _): &(u64, Bytes)| {
                let request = self.in_flight.get(*sequence);
                request.is_some_and(|request| sender(&mut self.connected, request).is_some())
            };
            // An operation without a request must not be applied any more, and those after it may
            // have seen its effects.
            if effects.iter().all(is_unanswered)
                && users_revision == self.context.access.users_revision()
            {
                self.scripts.sent = Some(self.batches.add_effects(&effects));
                reach("script", "sent");
            } else {
                for (sequence, _) in effects {
                    self.run_again(sequence, false);
                }
            }
        }
        if !self.scripts.held.is_empty() && !self.scripts.are_busy(&self.batches) {
            for index in std::mem::take(&mut self.scripts.held) {
                self.mark_dispatch(index);
            }
        }
    }

    /// Handles the results of the applier's runs.
    pub(crate) fn on_script_results(&mut self, results: ScriptResults) {
        let ScriptResults { users_revision, is_group, runs } = results;
        reach("script", "result");
        if is_group {
            self.scripts.is_running = false;
        }
        let is_current = users_revision == self.context.access.users_revision();
        let mut effects = Vec::new();
        for (sequence, run) in runs.into_iter().rev() {
            match run {
                ScriptRun::Moved => {}
                ScriptRun::Ended { .. } if !is_current => self.run_again(sequence, false),
                ScriptRun::Ended { reply, effects: ScriptEffects::None, notes, .. } => {
                    self.finish_script(sequence, reply, &notes);
                }
                ScriptRun::Ended { reply, effects: ScriptEffects::Check(check), read, notes } => {
                    let check = Some(check);
                    let reply = ScriptReply { reply, check, users_revision, read, notes };
                    self.set_script_reply(sequence, reply);
                }
                ScriptRun::Ended {
                    reply,
                    effects: ScriptEffects::Apply(operation),
                    read,
                    notes,
                } => {
                    let reply = ScriptReply { reply, check: None, users_revision, read, notes };
                    self.set_script_reply(sequence, reply);
                    effects.push((sequence, operation));
                }
                ScriptRun::NotFirst => self.run_again(sequence, true),
                ScriptRun::OverBudget => self
                    .fail_script(sequence, "ERR nothing was applied: the script runs for too long"),
                // Redis's text.
                ScriptRun::Stopped => self.fail_script(
                    sequence,
                    "ERR Error running script: Script killed by user with SCRIPT KILL.",
                ),
            }
        }
        // Those that must run first were put at the front in reverse, and so were the effects.
        effects.reverse();
        if !effects.is_empty() {
            self.scripts.ready.push_back(Group { effects, users_revision });
        }
    }

    fn set_script_reply(&mut self, sequence: u64, reply: ScriptReply) {
        let Some(request) = self.in_flight.get(sequence) else { return };
        let Some(client) = sender(&mut self.connected, request) else { return };
        let is_sent_again = reply.check.is_some();
        client.set_script_reply(request.slot, reply, self.context.now);
        if is_sent_again {
            self.mark_dispatch(request.index);
        }
    }

    /// Handles the outcome of a request with scripts whose run has made `reply`.
    pub(super) fn on_script_outcome(
        &mut self,
        sequence: u64,
        request: InFlight,
        reply: ScriptReply,
        outcome: &Outcome,
    ) {
        reach("script", "outcome");
        let is_right = match outcome {
            Outcome::Done => true,
            // No condition has failed. A change of the users, which the check does not notice, may
            // have withdrawn permissions.
            Outcome::List(_) => reply.users_revision == self.context.access.users_revision(),
            _ => false,
        };
        if is_right {
            self.finish_script(sequence, reply.reply, &reply.notes);
            if self.tracking.is_active() {
                self.note_writer(request);
                self.track(request, reply.read);
            }
            return;
        }
        let Some(client) = sender(&mut self.connected, request) else {
            self.in_flight.remove(sequence);
            return;
        };
        let since = request.arrived_at.max(client.progressed_at());
        if self.context.now >= since + self.timeouts.command_deadline {
            self.fail_script(
                sequence,
                "ERR nothing was applied: other clients have changed the keys of the script again \
                 and again; send it again",
            );
        } else {
            self.run_again(sequence, false);
        }
    }

    /// Sends the request to the applier again: with the next group, as its first one if `first`.
    fn run_again(&mut self, sequence: u64, first: bool) {
        let Some(request) = self.in_flight.get(sequence) else { return };
        let Some(client) = sender(&mut self.connected, request) else {
            self.in_flight.remove(sequence);
            return;
        };
        client.run_again(request.slot);
        if first {
            self.scripts.held.push_front(request.index);
        } else {
            self.scripts.held.push_back(request.index);
        }
    }

    fn finish_script(&mut self, sequence: u64, reply: Bytes, notes: &ScriptNotes) {
        let Some(request) = self.in_flight.get(sequence) else { return };
        notes.count(&mut self.context.statistics);
        for (level, text) in &notes.lines {
            let text = String::from_utf8_lossy(text);
            match level {
                LogLevel::Debug => tracing::trace!(?text, "script log"),
                LogLevel::Verbose => tracing::debug!(?text, "script log"),
                LogLevel::Notice => tracing::info!(?text, "script log"),
                LogLevel::Warning => tracing::warn!(?text, "script log"),
            }
        }
        if let Some(client) =
            self.connected.get_mut(request.index).filter(|_| !notes.denials.is_empty())
        {
            let description = client.connection.description(self.context.now);
            for denial in &notes.denials {
                let (log, now) = (&mut self.context.acl_log, self.context.wall_clock);
                log.add(denial.clone(), description.clone(), now);
            }
        }
        if !notes.shown.is_empty() {
            self.show(&notes.shown);
        }
        let is_error = reply.starts_with(b"-");
        self.context.statistics.note_call(request.command, is_error);
        if is_error {
            self.context.statistics.count_error(&reply[1..]);
        }
        self.finish(sequence, |client, slot| client.finish_script(slot, reply));
        reach("script", "answered");
    }

    fn fail_script(&mut self, sequence: u64, text: &str) {
        let mut reply = BytesMut::new();
        Writer::new(&mut reply, Version::Two).error(text.as_bytes());
        self.finish_script(sequence, reply.freeze(), &ScriptNotes::default());
    }

    /// Lets the clients continue whose requests have waited for the end of a pause. Their timeouts
    /// begin anew.
    pub(super) fn resume_scripts(&mut self) {
        for index in std::mem::take(&mut self.scripts.paused) {
            if let Some(client) = self.connected.get_mut(index) {
                client.on_budget_freed(self.context.now);
                self.mark_dispatch(index);
            }
        }
    }

    /// Runs `SCRIPT KILL`, or `FUNCTION KILL` if `is_function`.
    pub(super) fn kill_script(&mut self, is_function: bool) {
        let mut writer = Writer::new(&mut self.reply, Version::Two);
        match self.board.long_script().kill(is_function) {
            Ok(()) => writer.ok(),
            // Redis's texts.
            Err(NotKilled::NotRunning) => {
                writer.error(b"NOTBUSY No scripts in execution right now.");
            }
            Err(NotKilled::IsOther) => {
                let other = if is_function { "SCRIPT" } else { "FUNCTION" };
                let text = format!(
                    "BUSY Redis is busy running a script. You can only call {other} KILL or \
                     SHUTDOWN NOSAVE."
                );
                writer.error(text.as_bytes());
            }
        }
    }

    /// Runs `FUNCTION STATS`.
    pub(super) fn show_function_stats(&mut self, version: Version) {
        let running = self.board.long_script().running();
        let now = self.context.now;
        let running = running.map(|(script, began_at)| (script, now.since(began_at)));
        write_function_stats(running, self.context.kept_scripts, version, &mut self.reply);
    }
}
