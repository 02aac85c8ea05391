//! From outcomes and refusals to replies: stores the outcomes of requests, fails requests, or sends
//! them again after a leader change.

use bytes::{Bytes, BytesMut};

use crate::kv::{Operation, Outcome, Refusal};
use crate::raft::RequestKind;
use crate::redis::{
    AdminAnswer, CommandNumber, CompletedRequest, SlowLogSettings, Taken, error_text, is_error,
    operation_may_add_data, operations_adding_data, write_admin_reply, write_snapshot_part,
};
use crate::types::{Instant, RequestKey};

use super::Clients;
use crate::runtime::server::clients::batches::SentBatch;
use crate::runtime::server::clients::client::{Client, OutcomeUse};
use crate::runtime::server::clients::in_flight::InFlight;
use crate::runtime::server::clients::request::{FailureReason, Reply};
use crate::runtime::server::sockets::slab::Slab;

/// Maximum number of entries that one batch of requests adds to the slow log.
const SLOW_COMMANDS_MAX: usize = 8;

/// Returns the client that sent this request; `None` if it has disconnected since.
pub(super) fn sender(connected: &mut Slab<Client>, request: InFlight) -> Option<&mut Client> {
    connected.get_mut(request.index).filter(|client| client.id == request.client)
}

impl Clients {
    /// Passes the outcomes of the batch with this key to the clients that sent the batch's
    /// requests.
    pub(crate) fn on_outcomes(&mut self, key: RequestKey, outcomes: Vec<Outcome>) {
        let Some(batch) = self.batches.remove(key) else { return };
        let now = self.context.now;
        if batch.kind == RequestKind::Write {
            self.outcomes_at = now;
        }
        self.log_if_slow(&batch, now);
        let trace = self.traces.take(key);
        let budget = self.memory.budget(self.connected.len());
        let is_followed = self.tracking.is_active();
        if is_followed {
            self.begin_answers(batch.kind, &outcomes);
        }
        let mut current = None;
        let mut outdated = Vec::new();
        // The number of consecutive successful calls of the same command.
        let (mut called, mut calls) = (CommandNumber::default(), 0);
        for (sequence, outcome) in batch.requests().zip(outcomes) {
            if is_followed {
                self.begin_answer();
            }
            let Some(request) = self.in_flight.get(sequence) else { continue };
            let Some(client) = sender(&mut self.connected, request) else {
                self.in_flight.remove(sequence);
                continue;
            };
            client.set_budget(budget);
            if let Some(reply) = client.script_reply(request.slot) {
                self.on_script_outcome(sequence, request, reply, &outcome);
                continue;
            }
            let is_blocked = client.blocked_on.is_some();
            if outcome == Outcome::Refused(Refusal::UsersChanged) {
                outdated.push(sequence);
            } else if is_blocked
                || is_followed
                || matches!(outcome, Outcome::List(_))
                || is_error(&outcome)
            {
                self.on_special_outcome(sequence, request, outcome);
            } else {
                match client.on_outcome(request.slot, outcome, now) {
                    OutcomeUse::Replied => {
                        self.in_flight.remove(sequence);
                        if request.command != called {
                            self.context.statistics.note_calls(called, calls);
                            (called, calls) = (request.command, 0);
                        }
                        calls += 1;
                    }
                    OutcomeUse::TooLarge(error) => {
                        self.in_flight.remove(sequence);
                        self.note_call(request.command, Some(error.as_bytes()));
                    }
                    OutcomeUse::Dropped => {}
                }
            }
            // Called once for consecutive requests of one client.
            if let Some(index) = current.replace(request.index)
                && index != request.index
            {
                self.after_reply(index);
            }
        }
        if let Some(index) = current {
            self.after_reply(index);
        }
        if is_followed {
            self.end_answers();
        }
        self.context.statistics.note_calls(called, calls);
        self.context.statistics.count_noted(now.since(batch.sent_at));
        if let Some(trace) = trace {
            self.context.write_traces.add(self.traces.end(&trace));
        }
        if !outdated.is_empty() {
            // This replica has the users by which they were refused.
            self.requeue_requests(outdated);
        }
    }

    /// Passes the outcome of a request to the client that sent it, if the request may wait for
    /// changes, if clients cache values, or if the outcome is an error or may be that of an `EXEC`.
    /// The statistics need the content of such an outcome.
    #[cold]
    fn on_special_outcome(&mut self, sequence: u64, request: InFlight, outcome: Outcome) {
        if self.wait_if_empty(sequence, request, &outcome) {
            return;
        }
        let is_followed = self.tracking.is_active();
        let cached = if is_followed { self.cached_keys(request) } else { Vec::new() };
        let Some(client) = sender(&mut self.connected, request) else { return };
        let error = error_text(&outcome);
        let nested = client.nested_calls(request.slot, &outcome);
        let blocks = client.blocked_on == Some(request.slot);
        let taken = client.connection.taken(&outcome);
        match client.on_outcome(request.slot, outcome, self.context.now) {
            OutcomeUse::Dropped => return,
            OutcomeUse::Replied => self.note_call(request.command, error.as_deref()),
            OutcomeUse::TooLarge(error) => self.note_call(request.command, Some(error.as_bytes())),
        }
        self.in_flight.remove(sequence);
        if blocks {
            self.leave_queues(request.index, taken, None);
        }
        self.note_nested_calls(nested);
        if is_followed {
            self.note_writer(request);
            self.track(request, cached);
        }
    }

    /// Answers a client's administrative request.
    pub(crate) fn on_admin_answer(&mut self, sequence: u64, answer: AdminAnswer) {
        let mut reply = BytesMut::new();
        write_admin_reply(answer, &self.context, &mut reply);
        self.finish_blocked(sequence, reply);
    }

    /// Answers a client's read of a snapshot with a part of it; `None` if the snapshot is not
    /// available.
    pub(crate) fn on_snapshot_part(&mut self, sequence: u64, part: Option<&[u8]>) {
        if self.on_file_part(sequence, part) {
            return;
        }
        let mut reply = BytesMut::new();
        write_snapshot_part(part, &mut reply);
        self.finish_blocked(sequence, reply);
    }

    /// Sends the reply to a request that was not an operation of the state machine.
    fn finish_blocked(&mut self, sequence: u64, reply: BytesMut) {
        if reply[0] == b'-' {
            self.context.statistics.count_error(&reply[1..]);
        }
        let reply = Reply::Encoded(reply.freeze());
        self.finish(sequence, |client, slot| client.finish(slot, reply));
    }

    /// Counts a call of `command` in the statistics. `error` is the text of the reply if that is an
    /// error.
    fn note_call(&mut self, command: CommandNumber, error: Option<&[u8]>) {
        self.context.statistics.note_call(command, error.is_some());
        if let Some(text) = error {
            self.context.statistics.count_error(text);
        }
    }

    /// Counts the calls inside an `EXEC` in the statistics.
    pub(super) fn note_nested_calls(&mut self, calls: Vec<(CommandNumber, Option<Bytes>)>) {
        for (command, error) in calls {
            self.note_call(command, error.as_deref());
        }
    }

    /// If the batch was slow, adds it to the slow log (`SLOWLOG`) and to the latency samples
    /// (`LATENCY`), where these are enabled. If the batch has several requests of the same command,
    /// only the first of them is added to the slow log, since all requests of a batch take the same
    /// time.
    fn log_if_slow(&mut self, batch: &SentBatch, now: Instant) {
        let SlowLogSettings { threshold, entries_max, latency_threshold } = self.slow_log;
        let elapsed = now.since(batch.sent_at);
        let wall_clock = self.context.wall_clock;
        if latency_threshold.is_some_and(|limit| elapsed >= limit) {
            self.context.slow_log.add_latency_sample(elapsed, wall_clock);
        }
        if threshold.is_none_or(|limit| elapsed < limit) {
            return;
        }
        let mut logged: Vec<Bytes> = Vec::new();
        for sequence in batch.requests() {
            let Some(request) = self.in_flight.get(sequence) else { continue };
            let Some(client) = sender(&mut self.connected, request) else { continue };
            let Some(operation) = client.operation(request.slot) else { continue };
            let is_same = |other: &Bytes| Operation::are_same_command(other, operation);
            if logged.iter().any(is_same) {
                continue;
            }
            let connection = &client.connection;
            let completed = CompletedRequest { elapsed, wall_clock, operation, connection };
            self.context.slow_log.add(&completed, entries_max);
            logged.push(operation.clone());
            if logged.len() >= SLOW_COMMANDS_MAX {
                return;
            }
        }
    }

    /// Handles the refusal of one copy of a batch. Gives the batch's requests an error reply,
    /// unless more copies of the batch were sent, since another copy may be applied.
    pub(crate) fn on_refusal(&mut self, key: RequestKey, reason: FailureReason) {
        let Some(batch) = self.batches.remove_refused(key) else { return };
        for sequence in batch.requests() {
            self.fail(sequence, reason);
        }
    }

    /// Handles the refusal of a batch by a leader whose memory is full. Gives the requests that can
    /// add data an error reply, and returns the others, such as `DEL`, to the waiting state, to be
    /// sent again. Of requests with scripts, the effects count.
    pub(crate) fn on_full_memory(&mut self, key: RequestKey) {
        let Some(batch) = self.batches.remove_refused(key) else { return };
        let mut requeued = Vec::new();
        let sent = operations_adding_data(&batch.payload);
        for (position, sequence) in batch.requests().enumerate() {
            let Some(request) = self.in_flight.get(sequence) else { continue };
            let client = sender(&mut self.connected, request);
            let operation = client.and_then(|client| client.operation(request.slot));
            let adds_data = operation.is_some_and(|operation| operation_may_add_data(operation));
            let adds_data = sent.get(position).copied().unwrap_or(adds_data);
            if adds_data {
                self.fail(sequence, FailureReason::OutOfMemory);
            } else {
                requeued.push(sequence);
            }
        }
        self.requeue_requests(requeued);
    }

    /// Gives the request with this sequence number an error reply for this reason.
    pub(crate) fn fail(&mut self, sequence: u64, reason: FailureReason) {
        if reason.may_wait_again() && self.wait_again(sequence) || self.repeat_file_part(sequence) {
            return;
        }
        match reason {
            FailureReason::Uncertain => self.counters.uncertain.add_one(),
            FailureReason::NoLeader => self.counters.cluster_down.add_one(),
            FailureReason::DiskFull => self.counters.disk_full.add_one(),
            FailureReason::NotApplied
            | FailureReason::Busy
            | FailureReason::OutOfMemory
            | FailureReason::BusyScript => {}
        }
        if let Some(request) = self.in_flight.get(sequence) {
            let statistics = &mut self.context.statistics;
            statistics.count_error(reason.failure().to_string().as_bytes());
            if reason == FailureReason::Uncertain {
                let client = sender(&mut self.connected, request);
                let sent_at = client.and_then(|client| client.sent_at(request.slot));
                let elapsed = self.context.now.since(sent_at.unwrap_or(request.arrived_at));
                statistics.count_failed(request.command, elapsed);
            } else {
                statistics.count_rejected(request.command);
            }
        }
        self.finish(sequence, |client, slot| client.fail(slot, reason));
    }

    /// Calls `give` to store the reply to the request with this sequence number. The arguments of
    /// `give` are the client that sent the request and the sequence number of the request's slot;
    /// it returns whether the request now has a reply. If it has, the request is removed from the
    /// table of requests in flight.
    pub(super) fn finish(&mut self, sequence: u64, give: impl FnOnce(&mut Client, u64) -> bool) {
        let Some(request) = self.in_flight.get(sequence) else { return };
        let budget = self.memory.budget(self.connected.len());
        let Some(client) = sender(&mut self.connected, request) else {
            self.in_flight.remove(sequence);
            return;
        };
        client.set_budget(budget);
        if give(client, request.slot) {
            self.in_flight.remove(sequence);
            if self.connected.get_mut(request.index).is_some_and(|it| it.blocked_on.is_none()) {
                self.leave_queues(request.index, Taken::Nothing, None);
            }
        }
        self.after_reply(request.index);
    }

    /// Adds the client at `index`, which just got replies, to those lists of clients (to read, to
    /// send requests, to write replies) for which it has work.
    pub(super) fn after_reply(&mut self, index: usize) {
        let Some(client) = self.connected.get_mut(index) else { return };
        if client.observed != client.connection.observation_changes() {
            self.follow_observation(index);
        }
        let Some(client) = self.connected.get_mut(index) else { return };
        let (waiting, has_input) = (client.has_waiting(), client.has_input());
        self.mark_flush(index);
        if waiting {
            self.mark_dispatch(index);
        }
        if has_input {
            self.mark_read(index);
        }
        self.count_memory(index);
    }

    /// Returns the requests of these batches, which were sent but certainly not applied, to the
    /// waiting state, to be sent again. A request fails instead if a later request of the same
    /// client was or may have been applied.
    pub(crate) fn requeue(&mut self, keys: &[RequestKey]) {
        let batches: Vec<SentBatch> =
            keys.iter().filter_map(|key| self.batches.remove_refused(*key)).collect();
        let requests: Vec<u64> = batches.iter().flat_map(SentBatch::requests).collect();
        self.requeue_requests(requests);
    }

    fn requeue_requests(&mut self, requests: Vec<u64>) {
        let mut indexes = Vec::new();
        for sequence in requests.iter().copied() {
            let Some(request) = self.in_flight.get(sequence) else { continue };
            let Some(client) = sender(&mut self.connected, request) else { continue };
            client.requeue(request.slot);
            indexes.push(request.index);
        }
        indexes.sort_unstable();
        indexes.dedup();
        for index in indexes {
            let Some(client) = self.connected.get_mut(index) else { continue };
            for sequence in client.overtaken() {
                self.fail(sequence, FailureReason::NotApplied);
            }
            self.redirect_client(index);
            self.mark_dispatch(index);
        }
        // The permissions of their users may have changed since they were sent, and the next batch
        // says that its requests were checked.
        self.check_again(requests);
    }

    /// Returns the first forwarded batch of writes that has a number of at least `from` and no
    /// outcomes yet, to be sent again after a leader change or a lost connection.
    pub(crate) fn next_to_resend(&mut self, from: u64) -> Option<(u64, RequestKey, SentBatch)> {
        let in_flight = &self.in_flight;
        self.batches.next_to_resend(from, |sequence| in_flight.get(sequence).is_some())
    }
}
