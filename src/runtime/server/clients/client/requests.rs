//! The requests of a client after they were sent: their outcomes, failures and repetitions.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::kv::Outcome;
use crate::raft::RequestKind;
use crate::redis::{CommandNumber, WideReply};
use crate::runtime::server::clients::request::{
    FailureReason, Reply, Request, RequestState, ScriptReply, Wait,
};
use crate::types::Instant;

use super::{Client, OutcomeUse, SLOTS_MAX, large_bytes};

impl Client {
    /// Stores the outcome of the request in this slot as its reply. Does nothing if the request
    /// already has a reply, or if it is a read whose reply does not fit into the client's reply
    /// budget (limit on unsent replies). Such a read is executed again later.
    pub(crate) fn on_outcome(&mut self, slot: u64, outcome: Outcome, now: Instant) -> OutcomeUse {
        let Some(at) = self.at(slot).filter(|at| *at < self.slots.len()) else {
            return OutcomeUse::Dropped;
        };
        let (reply_format, kind, was_sent) = match &self.slots[at].state {
            RequestState::Waiting(request) => (&request.reply_format, request.kind, false),
            RequestState::InFlight(request) => (&request.reply_format, request.kind, true),
            RequestState::Done(_) => return OutcomeUse::Dropped,
        };
        let repeat = was_sent
            && kind == RequestKind::Read
            && (self.draining || !self.reply_fits(slot))
            // Does not hold if a later read already has its outcome, because this read would then
            // see a newer state than the later one.
            && self.slots.range(at + 1..).all(|later| {
                later.sent_at.is_none() || !matches!(later.state, RequestState::Done(_))
            });
        let is_next = at == 0 && was_sent && !repeat && self.blocked_on.is_none();
        let is_wide = WideReply::is_wide(reply_format, &outcome);
        if is_next && !is_wide && !reply_format.is_muted() && !self.is_over_budget() {
            let bytes = reply_format.reply_bytes(&outcome);
            if bytes <= self.budget.reply_bytes {
                reply_format.encode(&outcome, self.socket.outbound.open());
                self.drop_front();
                self.progressed_at = now;
                return OutcomeUse::Replied;
            }
        }
        if !self.draining && self.is_over_budget() {
            self.window = (self.window / 2).max(1);
        }
        self.progressed_at = now;
        if repeat {
            self.draining = true;
            self.requeue(slot);
            // The time limit on this read's wait for a leader begins anew, because so far the read
            // has waited for its own client.
            self.slots[at].sent_at = None;
            return OutcomeUse::Dropped;
        }
        let bytes = reply_format.reply_bytes(&outcome);
        let mut used = OutcomeUse::Replied;
        let reply = if bytes > self.budget.reply_bytes {
            let limit = self.budget.reply_bytes;
            // Any error other than UNCERTAIN would mean that the write was not applied.
            let error = match kind {
                RequestKind::Read => "ERR the reply is too large",
                RequestKind::Write => "UNCERTAIN applied, but the reply is too large",
            };
            used = OutcomeUse::TooLarge(error);
            Reply::Encoded(format!("-{error}: {bytes} bytes, limit {limit}\r\n").into())
        } else if self.blocked_on == Some(slot) {
            let (reply_format, mut out) = (reply_format.clone(), BytesMut::new());
            self.connection.complete_blocked(&reply_format, &outcome, &mut out);
            Reply::Encoded(out.freeze())
        } else {
            Reply::new(reply_format, outcome, bytes)
        };
        if self.finish(slot, reply) { used } else { OutcomeUse::Dropped }
    }

    /// Removes the oldest request, whose reply was just written to the outbound queue, and then
    /// writes the replies to later requests that were waiting for it.
    fn drop_front(&mut self) {
        let slot = self.slots.pop_front().expect("its reply was written");
        let RequestState::InFlight(request) = slot.state else {
            unreachable!("only a request that was sent has an outcome")
        };
        self.request_bytes -= request.operation.len();
        self.large_bytes -= large_bytes(&request.operation);
        self.front += 1;
        self.leave_flight();
        self.encode_replies();
    }

    /// Returns the time at which the request in this slot was first sent to the Raft core or to the
    /// leader; `None` if it was not sent, or if its reply is in the outbound queue.
    pub(crate) fn sent_at(&self, slot: u64) -> Option<Instant> {
        self.slots.get(self.at(slot)?)?.sent_at
    }

    /// Returns the encoded operation of the request in this slot; `None` if the request already has
    /// its reply.
    pub(crate) fn operation(&self, slot: u64) -> Option<&Bytes> {
        match &self.slots.get(self.at(slot)?)?.state {
            RequestState::Waiting(request) | RequestState::InFlight(request) => {
                Some(&request.operation)
            }
            RequestState::Done(_) => None,
        }
    }

    /// Returns the encoded operation of the request in this slot if the client caches the values in
    /// its reply.
    pub(crate) fn cached_operation(&self, slot: u64) -> Option<&Bytes> {
        match &self.slots.get(self.at(slot)?)?.state {
            RequestState::Waiting(request) | RequestState::InFlight(request) => {
                request.is_cached.then_some(&request.operation)
            }
            RequestState::Done(_) => None,
        }
    }

    /// If the request in this slot is an `EXEC` with this outcome, returns the commands that it
    /// ran, each with the text of its error reply if it failed. Otherwise returns an empty list.
    pub(crate) fn nested_calls(
        &self,
        slot: u64,
        outcome: &Outcome,
    ) -> Vec<(CommandNumber, Option<Bytes>)> {
        if !matches!(outcome, Outcome::List(_)) {
            return Vec::new();
        }
        let found = self.at(slot).and_then(|at| self.slots.get(at));
        match found.map(|slot| &slot.state) {
            Some(RequestState::Waiting(request) | RequestState::InFlight(request)) => {
                request.reply_format.nested_calls(outcome)
            }
            Some(RequestState::Done(_)) | None => Vec::new(),
        }
    }

    /// Sets the reply of the request in this slot to the error for `reason`. Returns false if the
    /// request already has a reply.
    pub(crate) fn fail(&mut self, slot: u64, reason: FailureReason) -> bool {
        self.finish(slot, Reply::Failure(reason))
    }

    /// Sets the reply of the request in this slot. Returns false if the request already has a
    /// reply.
    pub(crate) fn finish(&mut self, slot: u64, reply: Reply) -> bool {
        let Some(entry) = self.at(slot).and_then(|at| self.slots.get_mut(at)) else {
            return false;
        };
        let (request, was_in_flight) = match &entry.state {
            RequestState::Waiting(request) => (request, false),
            RequestState::InFlight(request) => (request, true),
            RequestState::Done(_) => return false,
        };
        let muted = request.reply_format.is_muted();
        let reply = if muted { Reply::Encoded(Bytes::new()) } else { reply };
        self.request_bytes -= request.operation.len();
        self.large_bytes -= large_bytes(&request.operation);
        self.reply_bytes += reply.bytes();
        entry.state = RequestState::Done(reply);
        if self.blocked_on == Some(slot) {
            self.blocked_on = None;
            // Does nothing after `complete_blocked`.
            self.connection.cancel_blocked();
        }
        if was_in_flight {
            self.leave_flight();
        }
        self.encode_replies();
        true
    }

    /// Decrements the number of this client's requests in flight. When that number reaches 0,
    /// doubles the maximum number in flight, unless the replies have exceeded the reply budget
    /// (limit on unsent replies).
    fn leave_flight(&mut self) {
        self.in_flight -= 1;
        if self.in_flight == 0 && !std::mem::take(&mut self.draining) && !self.is_over_budget() {
            self.window = (self.window * 2).min(SLOTS_MAX);
        }
    }

    /// Returns the in-flight request in this slot to the waiting state, so that it is sent again.
    /// The caller must know that the earlier copy was not applied and never will be.
    pub(crate) fn requeue(&mut self, slot: u64) {
        let Some(entry) = self.at(slot).and_then(|at| self.slots.get_mut(at)) else { return };
        if let RequestState::InFlight(request) = &entry.state {
            let mut request = request.clone();
            if request.reply_format.is_script() {
                // Its effects may be wrong by now.
                (request.kind, request.script) = (RequestKind::Read, None);
            }
            entry.state = RequestState::Waiting(request);
            self.next = self.next.min(slot);
            self.leave_flight();
        }
    }

    /// Returns the request in this slot, if it contains scripts and has no reply.
    fn script(&mut self, slot: u64) -> Option<&mut Request> {
        let at = self.at(slot)?;
        match &mut self.slots.get_mut(at)?.state {
            RequestState::Waiting(request) | RequestState::InFlight(request) => {
                Some(request).filter(|request| request.reply_format.is_script())
            }
            RequestState::Done(_) => None,
        }
    }

    /// Returns whether the request in this slot contains scripts that have not run.
    pub(crate) fn has_script_to_run(&mut self, slot: u64) -> bool {
        self.script(slot).is_some_and(|request| request.script.is_none())
    }

    /// Returns whether the request in this slot, which has no reply, is a write.
    pub(crate) fn is_write(&self, slot: u64) -> bool {
        match self.at(slot).and_then(|at| self.slots.get(at)).map(|slot| &slot.state) {
            Some(RequestState::Waiting(request) | RequestState::InFlight(request)) => {
                request.kind == RequestKind::Write
            }
            Some(RequestState::Done(_)) | None => false,
        }
    }

    /// Returns the reply of the request with scripts in this slot, if it has run.
    pub(crate) fn script_reply(&mut self, slot: u64) -> Option<ScriptReply> {
        Some(self.script(slot)?.script.as_deref()?.clone())
    }

    /// Stores the result of the run of a request with scripts. The request is sent again with
    /// `reply.check`; without it, its effects are sent instead, which makes it a write.
    pub(crate) fn set_script_reply(&mut self, slot: u64, reply: ScriptReply, now: Instant) {
        self.progressed_at = now;
        let is_checked = reply.check.is_some();
        if is_checked {
            self.requeue(slot);
        }
        if let Some(request) = self.script(slot) {
            request.kind = if is_checked { RequestKind::Read } else { RequestKind::Write };
            request.script = Some(Box::new(reply));
        }
    }

    /// Sends the request with scripts in this slot again, to be run again. Its timeout begins anew.
    pub(crate) fn run_again(&mut self, slot: u64) {
        self.requeue(slot);
        if let Some(entry) = self.at(slot).and_then(|at| self.slots.get_mut(at)) {
            entry.sent_at = None;
        }
    }

    /// Returns the time of the latest outcome of the client's requests.
    pub(crate) fn progressed_at(&self) -> Instant {
        self.progressed_at
    }

    /// Returns whether the request in this slot was sent and has no reply.
    pub(crate) fn is_in_flight(&self, slot: u64) -> bool {
        let slot = self.at(slot).and_then(|at| self.slots.get(at));
        slot.is_some_and(|slot| matches!(slot.state, RequestState::InFlight(_)))
    }

    /// Lets the request in this slot, the last one, wait until [`Client::resume`] is called.
    /// Returns its sequence number. The caller must know that it was not applied and never will be.
    ///
    /// # Panics
    /// If the request has a reply.
    pub(crate) fn park(&mut self, slot: u64) -> u64 {
        let at = self.at(slot).expect("the request has no reply");
        assert_eq!(at + 1, self.slots.len(), "requests behind one that blocks the connection");
        let entry = &mut self.slots[at];
        if let RequestState::Waiting(_) = entry.state {
            entry.mark_sent();
            self.in_flight += 1;
            self.next = slot + 1;
        }
        match &entry.state {
            RequestState::InFlight(request) => request.sequence,
            RequestState::Waiting(_) | RequestState::Done(_) => {
                unreachable!("it waits for its reply")
            }
        }
    }

    /// Sends the request in this slot again, which has waited for the change of a key, with this
    /// operation and under a new sequence number. Returns whether it is a read. A read may be
    /// answered from this replica's own state, which has the change.
    pub(crate) fn resume(&mut self, slot: u64, sequence: u64, operation: Bytes) -> bool {
        self.requeue(slot);
        let at = self.at(slot).expect("the request waits for its reply");
        let entry = &mut self.slots[at];
        let RequestState::Waiting(request) = &mut entry.state else {
            unreachable!("only a request without a reply waits")
        };
        self.request_bytes = self.request_bytes - request.operation.len() + operation.len();
        request.sequence = sequence;
        request.operation = operation;
        let is_read = request.kind == RequestKind::Read;
        request.lag_max = is_read.then_some(Duration::MAX);
        entry.sent_at = None;
        is_read
    }

    /// Sets the reply of the request in this slot, which has waited for the change of a key, from
    /// the outcome that made it wait.
    pub(crate) fn finish_wait(&mut self, slot: u64, outcome: &Outcome) {
        let at = self.at(slot).expect("the request waits for its reply");
        let RequestState::InFlight(request) = &self.slots[at].state else {
            unreachable!("only a request without a reply waits")
        };
        let (reply_format, mut out) = (request.reply_format.clone(), BytesMut::new());
        self.connection.complete_blocked(&reply_format, outcome, &mut out);
        self.finish(slot, Reply::Encoded(out.freeze()));
    }

    /// Sets the reply of the request with scripts in this slot. Returns false if the request
    /// already has a reply.
    pub(crate) fn finish_script(&mut self, slot: u64, reply: Bytes) -> bool {
        if self.blocked_on == Some(slot) {
            self.connection.complete_scripts(&reply);
        }
        self.finish(slot, Reply::Encoded(reply))
    }

    /// Returns the sequence numbers of requests that are waiting to be sent again although a later
    /// request of this client was, or may have been, applied. Applying these requests now would
    /// reverse the order of the client's requests.
    pub(crate) fn overtaken(&self) -> Vec<u64> {
        let mut overtaken = Vec::new();
        let mut passed = false;
        for slot in self.slots.iter().rev() {
            match &slot.state {
                RequestState::Waiting(request) if passed && slot.sent_at.is_some() => {
                    overtaken.push(request.sequence);
                }
                RequestState::Waiting(_) => {}
                RequestState::InFlight(_) | RequestState::Done(_) => {
                    passed |= slot.sent_at.is_some();
                }
            }
        }
        overtaken
    }

    /// Returns what the request in this slot is waiting for, and since when. The period starts
    /// after the last outcome of an earlier request of the same connection, so that a request does
    /// not exceed its timeout only because earlier requests took long. Returns `None` if the
    /// request has its reply, or if it is waiting because the client is not reading its replies.
    pub(crate) fn wait(&self, slot: u64, arrived_at: Instant) -> Option<Wait> {
        let slot = self.at(slot).and_then(|at| self.slots.get(at))?;
        let since = slot.sent_at.unwrap_or(arrived_at.max(self.progressed_at));
        match &slot.state {
            RequestState::Waiting(_) if slot.sent_at.is_none() && self.is_over_budget() => None,
            RequestState::Waiting(_) => {
                Some(Wait::Queued { since, behind_own: self.in_flight > 0 })
            }
            RequestState::InFlight(request) => {
                let write = request.kind == RequestKind::Write;
                Some(Wait::InFlight { since: since.max(self.progressed_at), write })
            }
            RequestState::Done(_) => None,
        }
    }

    /// Returns the waiting requests that may be redirected to the leader (`MOVED`). For each,
    /// returns its slot number, its sequence number, and the Redis Cluster hash slot of its first
    /// key. Empty unless the client follows redirects.
    pub(crate) fn redirectable(&self) -> Vec<(u64, u64, u16)> {
        let waiting =
            (self.front..).zip(&self.slots).filter_map(|(number, slot)| match &slot.state {
                RequestState::Waiting(request) => {
                    Some((number, request.sequence, request.redirect_slot?))
                }
                RequestState::InFlight(_) | RequestState::Done(_) => None,
            });
        waiting.collect()
    }

    /// Returns the sequence numbers of this client's requests that have no reply yet.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().filter_map(|slot| match &slot.state {
            RequestState::Waiting(request) | RequestState::InFlight(request) => {
                Some(request.sequence)
            }
            RequestState::Done(_) => None,
        })
    }
}
