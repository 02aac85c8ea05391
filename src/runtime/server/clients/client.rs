//! One client's connection, and its requests in order.
//!
//! Replies are sent in the order of the requests. The requests of a connection that are in flight
//! at one time are either all reads or all writes: a read sees every earlier write of the
//! connection and no later one, although reads and writes take different paths through the cluster.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::kv::Outcome;
use crate::raft::RequestKind;
use crate::redis::Connection;
use crate::runtime::server::clients::in_flight::InFlight;
use crate::runtime::server::clients::memory::ReplyBudget;
use crate::runtime::server::clients::request::{
    FailureReason, Reply, Request, RequestState, Slot, Wait,
};
use crate::runtime::server::sockets::socket::Socket;
use crate::types::{ClientId, Index, Instant};
use crate::wire::resp::Parser;

/// Maximum requests of one client without a sent reply. Further requests are not parsed.
const SLOTS_MAX: usize = 1_024;
/// An empty queue of slots with a larger capacity is freed.
const SLOTS_KEPT: usize = 16;

/// One connection.
///
/// Invariant: slot number `front + n` is at `slots[n]`; no slot before `next` is waiting;
/// `in_flight` counts the slots in flight, all of which are of `in_flight_kind`; `request_bytes`
/// and `reply_bytes` are the sums over all slots.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) socket: Socket,
    pub(crate) connection: Connection,
    pub(crate) parser: Parser,
    /// Received bytes that are not parsed yet.
    pub(crate) input: BytesMut,
    slots: VecDeque<Slot>,
    front: u64,
    next: u64,
    in_flight: usize,
    in_flight_kind: RequestKind,
    /// Maximum requests in flight. Halved when outcomes exceed the budget for replies.
    window: usize,
    /// Whether outcomes have exceeded the budget, so that nothing is sent until no request is in
    /// flight.
    draining: bool,
    /// When an outcome arrived, or the budget had space again.
    progressed_at: Instant,
    /// When bytes were last received or sent.
    pub(crate) active_at: Instant,
    /// When the first part of an incomplete request arrived; `None` if there is none.
    pub(crate) partial_since: Option<Instant>,
    /// The current budget for replies.
    pub(crate) budget: ReplyBudget,
    /// The slot whose reply must arrive before later requests are parsed.
    pub(crate) blocked_on: Option<u64>,
    /// Whether the client has closed its end.
    pub(crate) ended: bool,
    /// Whether to parse no more requests and close the connection when all replies are sent.
    pub(crate) closing: bool,
    /// Bytes of the requests in slots.
    request_bytes: usize,
    /// Bytes that the replies in slots will have.
    reply_bytes: usize,
    /// Bytes that `ClientMemory` counts for this client.
    pub(crate) counted_bytes: usize,
    pub(crate) marks: Marks,
}

/// Which work lists of `Clients` this client is on.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    pub(crate) read: bool,
    pub(crate) dispatch: bool,
    pub(crate) flush: bool,
}

impl Client {
    pub(crate) fn new(
        id: ClientId,
        socket: Socket,
        connection: Connection,
        parser: Parser,
        now: Instant,
        budget: ReplyBudget,
    ) -> Client {
        Client {
            id,
            socket,
            connection,
            parser,
            input: BytesMut::new(),
            slots: VecDeque::new(),
            front: 0,
            next: 0,
            in_flight: 0,
            in_flight_kind: RequestKind::Read,
            window: SLOTS_MAX,
            draining: false,
            progressed_at: now,
            active_at: now,
            partial_since: None,
            budget,
            blocked_on: None,
            ended: false,
            closing: false,
            request_bytes: 0,
            reply_bytes: 0,
            counted_bytes: 0,
            marks: Marks::default(),
        }
    }

    /// Whether another request may be parsed.
    pub(crate) fn may_parse(&self) -> bool {
        !self.closing
            && self.blocked_on.is_none()
            && self.slots.len() < SLOTS_MAX
            && !self.is_over_budget()
    }

    /// Whether the replies that wait for the client, or for earlier replies, use up the budget.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.socket.outbound.len() + self.reply_bytes >= self.budget.output_bytes
    }

    /// Bytes of memory in use.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Client>()
            + self.input.capacity()
            + self.parser.held_bytes()
            + self.request_bytes
            + self.reply_bytes
            + self.slots.capacity() * (size_of::<Slot>() + size_of::<Option<InFlight>>())
            + self.socket.outbound.held_bytes()
            + self.connection.held_bytes()
    }

    /// Whether there may be a request to read or to parse.
    pub(crate) fn has_input(&self) -> bool {
        self.may_parse() && (self.is_readable() || !self.input.is_empty())
    }

    /// Whether a read may return bytes.
    pub(crate) fn is_readable(&self) -> bool {
        self.socket.is_readable() && !self.ended
    }

    /// Whether a request is in flight.
    pub(crate) fn has_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether the client is closing and has all its replies.
    pub(crate) fn is_finished(&self) -> bool {
        self.closing && self.slots.is_empty() && self.socket.outbound.is_empty()
    }

    /// Whether a request waits to be sent.
    pub(crate) fn has_waiting(&self) -> bool {
        self.next < self.front + self.slots.len() as u64
    }

    /// The number of the next slot.
    pub(crate) fn next_slot(&self) -> u64 {
        self.front + self.slots.len() as u64
    }

    /// Adds a request for the core.
    pub(crate) fn push_request(&mut self, request: Request) {
        self.request_bytes += request.payload.len();
        self.slots.push_back(Slot::new(RequestState::Waiting(request)));
    }

    /// Whether a reply may be sent at once, because no earlier one is missing.
    pub(crate) fn has_no_slots(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds a reply behind those of earlier requests.
    pub(crate) fn push_reply(&mut self, reply: Bytes) {
        self.reply_bytes += reply.len();
        self.slots.push_back(Slot::new(RequestState::Done(Reply::Encoded(reply))));
        self.encode_replies();
    }

    /// Sends the waiting requests that may be sent now, oldest first, until `send` returns false.
    /// `forwarded` tells whether they go to another replica; `since` is the applied index here.
    pub(crate) fn dispatch(
        &mut self,
        forwarded: bool,
        since: Index,
        now: Instant,
        mut send: impl FnMut(ClientId, &Request) -> bool,
    ) {
        while let Some(at) = self.at(self.next).filter(|at| *at < self.slots.len()) {
            let fits = self.reply_fits(self.next);
            let slot = &mut self.slots[at];
            if let RequestState::Waiting(request) = &mut slot.state {
                let other_kind = self.in_flight > 0 && self.in_flight_kind != request.kind;
                if other_kind || self.draining || self.in_flight >= self.window || !fits {
                    return;
                }
                request.since = since;
                if !send(self.id, request) {
                    return;
                }
                self.in_flight += 1;
                self.in_flight_kind = request.kind;
                slot.sent_at.get_or_insert(now);
                slot.forwarded = forwarded;
                slot.mark_sent();
            }
            self.next += 1;
        }
    }

    /// Whether the budget admits a reply. The reply that all others wait for needs only space in
    /// the outbound queue.
    fn reply_fits(&self, slot: u64) -> bool {
        !self.is_over_budget()
            || slot == self.front && self.socket.outbound.len() < self.budget.output_bytes
    }

    /// Handles the outcome of a request. Returns false if the request had its reply already, or if
    /// it is a read whose reply exceeds the budget and which is therefore repeated later.
    pub(crate) fn on_outcome(&mut self, slot: u64, outcome: Outcome, now: Instant) -> bool {
        let Some(at) = self.at(slot).filter(|at| *at < self.slots.len()) else { return false };
        let (reply_format, kind, repeat) = match &self.slots[at].state {
            RequestState::Waiting(request) => (&request.reply_format, request.kind, false),
            RequestState::InFlight(request) => {
                let none_later = self.slots.range(at + 1..).all(|later| {
                    later.sent_at.is_none() || !matches!(later.state, RequestState::Done(_))
                });
                let too_much = self.draining || !self.reply_fits(slot);
                let reads = request.kind == RequestKind::Read;
                // Not if a later read has its outcome: this one would then see a newer state.
                (&request.reply_format, request.kind, too_much && reads && none_later)
            }
            RequestState::Done(_) => return false,
        };
        if !self.draining && self.is_over_budget() {
            self.window = (self.window / 2).max(1);
        }
        self.progressed_at = now;
        if repeat {
            self.draining = true;
            self.requeue(slot);
            // Its wait for a leader begins anew: so far it waited for its own client.
            self.slots[at].sent_at = None;
            return false;
        }
        let bytes = reply_format.reply_bytes(&outcome);
        let reply = if bytes > self.budget.reply_bytes {
            let limit = self.budget.reply_bytes;
            // Any error other than UNCERTAIN would mean that the write was not applied.
            let error = match kind {
                RequestKind::Read => "ERR the reply is too large",
                RequestKind::Write => "UNCERTAIN applied, but the reply is too large",
            };
            Reply::Encoded(format!("-{error}: {bytes} bytes, limit {limit}\r\n").into())
        } else if self.blocked_on == Some(slot) {
            let (reply_format, mut out) = (reply_format.clone(), BytesMut::new());
            self.connection.complete_blocked(&reply_format, &outcome, &mut out);
            Reply::Encoded(out.freeze())
        } else {
            Reply::Outcome(reply_format.clone(), outcome)
        };
        self.finish(slot, reply)
    }

    /// The payload of a request without a reply.
    pub(crate) fn payload(&self, slot: u64) -> Option<&Bytes> {
        match &self.slots.get(self.at(slot)?)?.state {
            RequestState::Waiting(request) | RequestState::InFlight(request) => {
                Some(&request.payload)
            }
            RequestState::Done(_) => None,
        }
    }

    /// When a request without a reply was sent, or arrived if it was not sent.
    pub(crate) fn pending_since(&self, slot: u64, arrived_at: Instant) -> Option<Instant> {
        let slot = self.slots.get(self.at(slot)?)?;
        let done = matches!(slot.state, RequestState::Done(_));
        (!done).then(|| slot.sent_at.unwrap_or(arrived_at))
    }

    /// Gives a request an error reply. Returns false if it had its reply already.
    pub(crate) fn fail(&mut self, slot: u64, reason: FailureReason) -> bool {
        self.finish(slot, Reply::Failure(reason))
    }

    /// Gives a request its reply. Returns false if it had one already.
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
        self.request_bytes -= request.payload.len();
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

    /// Counts one request less in flight.
    fn leave_flight(&mut self) {
        self.in_flight -= 1;
        if self.in_flight == 0 && !std::mem::take(&mut self.draining) && !self.is_over_budget() {
            self.window = (self.window * 2).min(SLOTS_MAX);
        }
    }

    /// Makes a request wait again that was sent, and was not and will not be applied.
    pub(crate) fn requeue(&mut self, slot: u64) {
        let Some(entry) = self.at(slot).and_then(|at| self.slots.get_mut(at)) else { return };
        if let RequestState::InFlight(request) = &entry.state
            && !entry.resent
        {
            entry.state = RequestState::Waiting(request.clone());
            self.next = self.next.min(slot);
            self.leave_flight();
        }
    }

    /// The requeued slots with a later request that was or may have been applied. To apply them now
    /// would reverse the order of the client's requests.
    pub(crate) fn overtaken(&self) -> Vec<u64> {
        let mut overtaken = Vec::new();
        let mut passed = false;
        for (at, slot) in self.slots.iter().enumerate().rev() {
            match &slot.state {
                RequestState::Waiting(_) if passed && slot.sent_at.is_some() => {
                    overtaken.push(self.front + at as u64);
                }
                RequestState::Waiting(_) => {}
                RequestState::InFlight(_) | RequestState::Done(_) => {
                    passed |= slot.sent_at.is_some();
                }
            }
        }
        overtaken
    }

    /// How long a request has waited, counted from when it could have been sent: time spent on
    /// earlier requests of the connection does not count. `None` if it has its reply, or waits for
    /// its own client to read replies.
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

    /// The budget for replies has space again.
    pub(crate) fn on_budget_freed(&mut self, now: Instant) {
        self.progressed_at = now;
    }

    /// Waiting requests of a client that follows redirects: slot, sequence number and hash slot.
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

    /// Returns a forwarded write without a reply, to be sent again. From then on there may be more
    /// than one copy of it.
    pub(crate) fn resend(&mut self, slot: u64) -> Option<Request> {
        let at = self.at(slot)?;
        let slot = self.slots.get_mut(at).filter(|slot| slot.forwarded)?;
        match &slot.state {
            RequestState::InFlight(request) if request.kind == RequestKind::Write => {
                slot.resent = true;
                Some(request.clone())
            }
            _ => None,
        }
    }

    /// Whether more than one copy of a request was sent.
    pub(crate) fn was_resent(&self, slot: u64) -> bool {
        self.at(slot).and_then(|at| self.slots.get(at)).is_some_and(|slot| slot.resent)
    }

    /// The sequence numbers of the requests without a reply.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().filter_map(|slot| match &slot.state {
            RequestState::Waiting(request) | RequestState::InFlight(request) => {
                Some(request.sequence)
            }
            RequestState::Done(_) => None,
        })
    }

    /// The position of a slot in `slots`; `None` if its reply was sent.
    fn at(&self, slot: u64) -> Option<usize> {
        usize::try_from(slot.checked_sub(self.front)?).ok()
    }

    /// Encodes the replies at the front into the outbound queue, as far as the budget allows.
    pub(crate) fn encode_replies(&mut self) {
        while self.socket.outbound.len() < self.budget.output_bytes
            && let Some(Slot { state: RequestState::Done(_), .. }) = self.slots.front()
            && let Some(Slot { state: RequestState::Done(reply), .. }) = self.slots.pop_front()
        {
            self.reply_bytes -= reply.bytes();
            match reply {
                Reply::Encoded(bytes) => self.socket.outbound.push(&bytes),
                Reply::Outcome(reply_format, outcome) => {
                    reply_format.encode(&outcome, self.socket.outbound.open());
                }
                Reply::Failure(reason) => reason.failure().encode(self.socket.outbound.open()),
            }
            self.front += 1;
        }
        self.next = self.next.max(self.front);
        if self.slots.is_empty() && self.slots.capacity() > SLOTS_KEPT {
            self.slots = VecDeque::new();
        }
    }
}
