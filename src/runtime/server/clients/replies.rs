//! From outcomes and refusals to replies: gives requests their outcome, fails them, or sends them
//! again after a leader change.

use crate::kv::Outcome;
use crate::redis::{CompletedRequest, SlowLogSettings};
use crate::types::{Instant, RequestKey};

use super::Clients;
use crate::runtime::server::clients::client::Client;
use crate::runtime::server::clients::in_flight::InFlight;
use crate::runtime::server::clients::request::{FailureReason, Request};
use crate::runtime::server::request_id::replica_and_sequence;

impl Clients {
    /// Passes the outcome of a request to its client.
    pub(crate) fn on_outcome(&mut self, key: RequestKey, outcome: Outcome) {
        let Some(request) = self.in_flight.get(key) else { return };
        let now = self.context.now;
        self.log_if_slow(request, now);
        self.finish(request, key, |client| client.on_outcome(request.slot, outcome, now));
    }

    /// Adds a slow request to the slow log (SLOWLOG) and to the latency samples (LATENCY), if
    /// enabled. The duration counts from when the request was sent to the core or leader.
    fn log_if_slow(&mut self, request: InFlight, now: Instant) {
        let SlowLogSettings { threshold, entries_max, latency_threshold } = self.slow_log;
        let elapsed = now.since(request.arrived_at);
        let is_slow = threshold.is_some_and(|limit| elapsed >= limit);
        let is_sample = latency_threshold.is_some_and(|limit| elapsed >= limit);
        if !is_slow && !is_sample {
            return;
        }
        let client = self.connected.get_mut(request.index);
        let Some((client, elapsed)) =
            client.filter(|client| client.id == request.client).and_then(|client| {
                let since = client.pending_since(request.slot, request.arrived_at)?;
                Some((client, now.since(since)))
            })
        else {
            return;
        };
        let wall_clock = self.context.wall_clock;
        if latency_threshold.is_some_and(|limit| elapsed >= limit) {
            self.context.slow_log.add_latency_sample(elapsed, wall_clock);
        }
        if threshold.is_some_and(|limit| elapsed >= limit)
            && let Some(payload) = client.payload(request.slot)
        {
            let connection = &client.connection;
            let completed = CompletedRequest { elapsed, wall_clock, payload, connection };
            self.context.slow_log.add(&completed, entries_max);
        }
    }

    /// Handles the refusal of one copy of a request: gives the request an error reply, unless more
    /// copies of it were sent, since another copy may be applied.
    pub(crate) fn on_refusal(&mut self, key: RequestKey, reason: FailureReason) {
        let Some(request) = self.in_flight.get(key) else { return };
        let client = self.connected.get_mut(request.index);
        if client.is_some_and(|it| it.id == key.client && !it.was_resent(request.slot)) {
            self.fail(key, reason);
        }
    }

    /// Gives a request an error reply with this reason.
    pub(crate) fn fail(&mut self, key: RequestKey, reason: FailureReason) {
        match reason {
            FailureReason::Uncertain => self.counters.uncertain.add_one(),
            FailureReason::NoLeader => self.counters.cluster_down.add_one(),
            FailureReason::DiskFull => self.counters.disk_full.add_one(),
            FailureReason::NotApplied | FailureReason::Busy | FailureReason::OutOfMemory => {}
        }
        if let Some(request) = self.in_flight.get(key) {
            self.finish(request, key, |client| client.fail(request.slot, reason));
        }
    }

    /// Calls `give` with the client that sent the request, to store its reply. `give` returns
    /// whether the request has a reply now; if so, the request is removed from the table of
    /// requests in flight.
    pub(super) fn finish(
        &mut self,
        request: InFlight,
        key: RequestKey,
        give: impl FnOnce(&mut Client) -> bool,
    ) {
        let (_, sequence) = replica_and_sequence(key.request);
        let index = request.index;
        let budget = self.memory.budget(self.connected.len());
        let client = self.connected.get_mut(index).filter(|client| client.id == request.client);
        let Some(client) = client else {
            self.in_flight.remove(sequence);
            return;
        };
        client.budget = budget;
        let done = give(client);
        let waiting = client.has_waiting();
        let has_input = client.has_input();
        if done {
            self.in_flight.remove(sequence);
        }
        self.mark_flush(index);
        if waiting {
            self.mark_dispatch(index);
        }
        if has_input {
            self.mark_read(index);
        }
        self.count_memory(index);
    }

    /// Makes requests that were sent and certainly not applied wait again, to be sent again. A
    /// request fails instead if a later request of the same client was or may have been applied.
    pub(crate) fn requeue(&mut self, keys: &[RequestKey]) {
        let mut indexes = Vec::new();
        for key in keys {
            let Some(request) = self.in_flight.get(*key) else { continue };
            let client = self.connected.get_mut(request.index);
            let Some(client) = client.filter(|client| client.id == request.client) else {
                continue;
            };
            client.requeue(request.slot);
            indexes.push(request.index);
        }
        indexes.sort_unstable();
        indexes.dedup();
        for index in indexes {
            let Some(client) = self.connected.get_mut(index) else { continue };
            let id = client.id;
            for sequence in client.overtaken() {
                self.fail(self.in_flight.key(id, sequence), FailureReason::NotApplied);
            }
            self.redirect_client(index);
            self.mark_dispatch(index);
        }
    }

    /// Returns the first forwarded write with a sequence number of at least `from` and no outcome,
    /// to be sent again after a leader change or a lost connection.
    pub(crate) fn next_to_resend(&mut self, mut from: u64) -> Option<(u64, RequestKey, Request)> {
        loop {
            let (sequence, request) = self.in_flight.next_since(from, Instant::MAX)?;
            from = sequence + 1;
            let client = self.connected.get_mut(request.index);
            let copy = client
                .filter(|client| client.id == request.client)
                .and_then(|client| client.resend(request.slot));
            if let Some(copy) = copy {
                return Some((sequence, self.in_flight.key(request.client, sequence), copy));
            }
        }
    }
}
