//! One client's connection, with its requests in order of arrival.
//!
//! Replies are sent in the order of the requests. At any time, the in-flight requests of a
//! connection are either all reads or all writes. So a read sees every earlier write of its
//! connection and no later one, although reads and writes take different paths through the cluster.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::kv::Outcome;
use crate::raft::RequestKind;
use crate::redis::{CommandNumber, Connection, ScriptUser, WideReply};
use crate::runtime::server::clients::batches::is_large;
use crate::runtime::server::clients::in_flight::InFlight;
use crate::runtime::server::clients::input::Input;
use crate::runtime::server::clients::key_file::KeyFile;
use crate::runtime::server::clients::memory::ReplyBudget;
use crate::runtime::server::clients::request::{
    FailureReason, Reply, Request, RequestState, ScriptReply, Slot, Wait,
};
use crate::runtime::server::sockets::socket::Socket;
use crate::types::{ClientId, Instant};
use crate::wire::resp::Parser;
use std::net::IpAddr;

/// Maximum number of requests of one client whose replies have not been sent. At this number, the
/// server parses no further requests of the client.
const SLOTS_MAX: usize = 1_024;
/// Time after which the server receives more requests of a client, without parsing them, although
/// the client's reply budget (limit on unsent replies) is used up, if the client has read no
/// replies during this time. A slow reader is not affected, since it can send more requests as it
/// reads replies.
pub(crate) const READ_AHEAD_DELAY: Duration = Duration::from_millis(100);
/// Maximum total size of the unsent replies of a client that has not logged in, in bytes.
const OUTPUT_BEFORE_LOGIN_BYTES: usize = 16 << 10;
/// Number of bytes of a reply with many elements that are encoded at a time: about 1 ms of work.
const WIDE_BYTES_MAX: usize = 256 << 10;
/// Maximum capacity, in slots (each holds a request or its reply), that an empty queue keeps. The
/// memory of a larger queue is freed when the queue becomes empty.
const SLOTS_KEPT: usize = 16;

/// One client's connection, with its requests in order of arrival. Each request has a numbered
/// slot, which it keeps until its reply is in the outbound queue.
///
/// Invariant: slot number `front + n` is at `slots[n]`; no request in a slot before number `next`
/// is waiting to be sent; `in_flight` is the number of slots whose request was sent and has no
/// outcome, and all these requests are of kind `in_flight_kind`; `request_bytes` and `reply_bytes`
/// are sums over all slots.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) socket: Socket,
    pub(crate) connection: Connection,
    /// The client's IP address; `None` if unknown.
    pub(crate) address: Option<IpAddr>,
    /// Time until which no requests of the client are parsed, because a login has failed; `None` if
    /// none has, or the time has passed.
    pub(crate) paused_until: Option<Instant>,
    /// Time until which the first request waits that needs the users, if they were not known when
    /// it arrived; `None` if no request has waited for them.
    pub(crate) held_until: Option<Instant>,
    pub(crate) parser: Parser,
    /// Bytes received from the client that are not parsed yet.
    pub(crate) input: Input,
    slots: VecDeque<Slot>,
    front: u64,
    next: u64,
    in_flight: usize,
    in_flight_kind: InFlightKind,
    /// Maximum number of this client's requests in flight. Halved when the replies to them exceed
    /// the reply budget (limit on unsent replies); doubled again, up to [`SLOTS_MAX`], each time
    /// that no request is in flight any more.
    window: usize,
    /// Whether replies have exceeded the reply budget (limit on unsent replies). If so, no further
    /// request of this client is sent until none of its requests is in flight any more.
    draining: bool,
    /// The last time that this client's requests could make progress, because an outcome arrived or
    /// the reply budget (limit on unsent replies) had space again. For a request that was sent or
    /// arrived before this time, the timeout starts at this time.
    progressed_at: Instant,
    /// When bytes were last received from this client or sent to it.
    pub(crate) active_at: Instant,
    /// When this client last read replies: when bytes were last written to its socket.
    pub(crate) written_at: Instant,
    /// Time since which this client, a subscriber, has had a large number of unsent bytes; `None`
    /// if it has few or none.
    pub(crate) backlog_since: Option<Instant>,
    /// When the first part of an incomplete request arrived; `None` if no request is incomplete.
    pub(crate) partial_since: Option<Instant>,
    /// The current limits on the size of this client's replies.
    pub(crate) budget: ReplyBudget,
    /// Sequence number of the slot whose request, such as `WATCH`, blocks the connection: later
    /// requests are not parsed until this request has its reply. `None` if no request blocks the
    /// connection.
    pub(crate) blocked_on: Option<u64>,
    /// Whether the client has closed its sending side of the connection, so that no more requests
    /// will arrive.
    pub(crate) ended: bool,
    /// Whether the server is closing the connection: no more requests are parsed, and the
    /// connection is closed once all replies are sent.
    pub(crate) closing: bool,
    /// Total size, in bytes, of the encoded operations of the requests in `slots`.
    request_bytes: usize,
    /// The part of `request_bytes` that belongs to large operations, whose batches share their
    /// memory.
    large_bytes: usize,
    /// Total size, in bytes, of the replies in `slots`, which are not in the outbound queue yet.
    reply_bytes: usize,
    /// Memory usage of this client, in bytes, as last included in the total of all clients.
    pub(crate) counted_bytes: usize,
    /// The value of [`Connection::observation_changes`] that the tables of clients follow.
    pub(crate) observed: u32,
    /// Messages to be sent after the reply in a slot, by the number of the slot, in this order.
    later: VecDeque<(u64, Bytes)>,
    /// Total size of the messages in `later`, in bytes.
    later_bytes: usize,
    /// The file that is being sent to the client (`SYNC`); `None` if there is none.
    pub(crate) key_file: Option<Box<KeyFile>>,
    pub(crate) marks: Marks,
}

/// The kind of the requests of a client that are in flight, which are all reads or all writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InFlightKind {
    /// Reads, of which at least one was sent to the Raft core or the leader.
    Reads,
    /// Reads that this replica answers from its own state, which may lag behind.
    LaggingReads,
    /// Writes, none of them large.
    Writes,
    /// Writes of which the last is large.
    LargeWrite,
    /// One request with scripts.
    Script,
}

impl InFlightKind {
    /// Returns the kind of the requests in flight after `last` was sent.
    fn of(last: &Request, is_lagging: bool) -> InFlightKind {
        if last.reply_format.is_script() {
            return InFlightKind::Script;
        }
        match last.kind {
            RequestKind::Read if is_lagging => InFlightKind::LaggingReads,
            RequestKind::Read => InFlightKind::Reads,
            RequestKind::Write if is_large(&last.operation) => InFlightKind::LargeWrite,
            RequestKind::Write => InFlightKind::Writes,
        }
    }

    /// Returns whether a request of this kind may be sent after those in flight. None may follow a
    /// large write, because it could overtake it.
    fn may_add(self, kind: RequestKind) -> bool {
        match self {
            InFlightKind::Reads | InFlightKind::LaggingReads => kind == RequestKind::Read,
            InFlightKind::Writes => kind == RequestKind::Write,
            InFlightKind::LargeWrite | InFlightKind::Script => false,
        }
    }
}

/// Where a request was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SentTo {
    /// It could not be sent.
    None,
    /// To the Raft core or the leader.
    Leader,
    /// To the applier, to be answered from this replica's own state, which may lag behind.
    OwnState,
    /// To the applier, to be run on this replica's own state, which may lag behind.
    Script,
}

/// What [`Client::on_outcome`] has done with the outcome of a request.
#[derive(Debug)]
pub(crate) enum OutcomeUse {
    /// Nothing: the request already has a reply, or it will be executed again.
    Dropped,
    /// The outcome is the reply to the request.
    Replied,
    /// The reply would be too large, so the reply is an error that begins with this text.
    TooLarge(&'static str),
}

/// Whether this client is in each of the work lists of the client table: clients to read from
/// (`read`), clients with unread input whose reply budget is used up (`unread`), clients whose
/// requests are to be sent (`dispatch`), clients to write to (`flush`), and clients whose requests
/// are postponed by `CLIENT PAUSE` (`postponed`).
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "a client may be in any set of the lists")]
pub(crate) struct Marks {
    pub(crate) read: bool,
    pub(crate) unread: bool,
    pub(crate) dispatch: bool,
    pub(crate) flush: bool,
    pub(crate) postponed: bool,
}

/// Returns the length of an encoded operation if it is large, otherwise 0.
fn large_bytes(operation: &Bytes) -> usize {
    if is_large(operation) { operation.len() } else { 0 }
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
            address: None,
            paused_until: None,
            held_until: None,
            parser,
            input: Input::default(),
            slots: VecDeque::new(),
            front: 0,
            next: 0,
            in_flight: 0,
            in_flight_kind: InFlightKind::Reads,
            window: SLOTS_MAX,
            draining: false,
            progressed_at: now,
            active_at: now,
            written_at: now,
            backlog_since: None,
            partial_since: None,
            budget,
            blocked_on: None,
            ended: false,
            closing: false,
            request_bytes: 0,
            large_bytes: 0,
            reply_bytes: 0,
            counted_bytes: 0,
            observed: 0,
            later: VecDeque::new(),
            later_bytes: 0,
            key_file: None,
            marks: Marks::default(),
        }
    }

    /// Returns whether another request of this client may be parsed. False while the connection is
    /// closing or blocked, or while too many requests or reply bytes are waiting.
    pub(crate) fn may_parse(&self) -> bool {
        !self.closing
            && self.blocked_on.is_none()
            && self.paused_until.is_none()
            && !self.marks.postponed
            && self.slots.len() < SLOTS_MAX
            && !self.is_over_budget()
    }

    /// Sets the limits on the size of the client's replies, which are lower before it has logged
    /// in.
    pub(crate) fn set_budget(&mut self, budget: ReplyBudget) {
        self.budget = budget;
        if !self.connection.is_logged_in() {
            self.budget.output_bytes = budget.output_bytes.min(OUTPUT_BEFORE_LOGIN_BYTES);
        }
    }

    /// Sends no further request of this client until none of its requests is in flight any more.
    pub(crate) fn drain(&mut self) {
        self.draining |= self.in_flight > 0;
    }

    /// Returns the sequence numbers of the requests that can still be refused: those that were not
    /// sent, and reads.
    pub(crate) fn revocable(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().filter_map(|slot| match &slot.state {
            RequestState::Waiting(request) => Some(request.sequence),
            RequestState::InFlight(request) if request.kind == RequestKind::Read => {
                Some(request.sequence)
            }
            RequestState::InFlight(_) | RequestState::Done(_) => None,
        })
    }

    /// Returns whether the client's unsent replies, in the outbound queue and in slots, use up its
    /// reply budget (limit on unsent replies).
    pub(crate) fn is_over_budget(&self) -> bool {
        self.socket.outbound.len() + self.reply_bytes >= self.budget.output_bytes
    }

    /// Returns whether more requests of this client may be received, although they cannot be
    /// parsed. This is the case if the client has read no replies for some time while its reply
    /// budget (limit on unsent replies) is used up. Such a client may send all its requests before
    /// it reads the first reply, as pipelines of many client libraries do; if the server waited for
    /// the client to read, both would wait forever.
    pub(crate) fn may_read_ahead(&self, now: Instant) -> bool {
        self.is_full_and_readable() && now >= self.written_at + READ_AHEAD_DELAY
    }

    /// Returns whether requests of this client are waiting in its socket because its reply budget
    /// (limit on unsent replies) is used up.
    pub(crate) fn is_full_and_readable(&self) -> bool {
        !self.closing
            && self.connection.is_logged_in()
            && self.is_over_budget()
            && self.is_readable()
    }

    /// Returns the memory usage of this client, in bytes: buffers, requests, replies and fixed
    /// overhead.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Client>()
            + self.input.held_bytes()
            + self.parser.held_bytes()
            // Each operation, and its copy in a batch.
            + 2 * self.request_bytes
            - self.large_bytes
            + self.reply_bytes
            + self.later_bytes
            + self.slots.capacity() * (size_of::<Slot>() + size_of::<Option<InFlight>>())
            + self.socket.held_bytes()
            + self.connection.held_bytes()
    }

    /// Returns whether there may be something to read from the client's socket or to parse now.
    pub(crate) fn has_input(&self) -> bool {
        let has_more = self.is_readable() || !self.input.is_empty() || self.key_file.is_some();
        self.may_parse() && has_more || self.is_full_and_readable()
    }

    /// Returns whether a read from the client's socket may return more bytes.
    pub(crate) fn is_readable(&self) -> bool {
        self.socket.is_readable() && !self.ended
    }

    /// Returns whether the client is known to have closed its end of the connection.
    pub(crate) fn has_left(&self) -> bool {
        self.ended || self.socket.is_ending()
    }

    /// Returns whether the connection is closed at the client's end, as far as the system knows.
    pub(crate) fn is_gone(&mut self) -> bool {
        self.ended || self.socket.check_ending()
    }

    /// Returns whether any request of this client is in flight: sent, but without an outcome.
    pub(crate) fn has_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Returns whether the client is to be disconnected and all its replies have been written.
    pub(crate) fn is_finished(&self) -> bool {
        self.closing && self.slots.is_empty() && self.socket.is_flushed()
    }

    /// Returns whether everything that was received from the client has its reply, and all replies
    /// have been written.
    pub(crate) fn is_drained(&self) -> bool {
        self.slots.is_empty() && self.input.is_empty() && self.socket.is_flushed()
    }

    /// Returns whether a request of the client is waiting to be sent to the Raft core or to the
    /// leader.
    pub(crate) fn has_waiting(&self) -> bool {
        self.next < self.front + self.slots.len() as u64
    }

    /// Returns the sequence number of the oldest slot.
    pub(crate) fn front_slot(&self) -> u64 {
        self.front
    }

    /// Returns the sequence number of the slot that the next parsed request will get.
    pub(crate) fn next_slot(&self) -> u64 {
        self.front + self.slots.len() as u64
    }

    /// Adds a request in a new slot, to be sent to the Raft core or to the leader.
    pub(crate) fn push_request(&mut self, request: Request) {
        self.request_bytes += request.operation.len();
        self.large_bytes += large_bytes(&request.operation);
        self.slots.push_back(Slot::new(RequestState::Waiting(request)));
    }

    /// Adds a request in a new slot that is answered without being sent like other requests, such
    /// as a request for a leadership transfer. It has no effect on the order of the others.
    pub(crate) fn push_sent(&mut self, request: Request) {
        self.slots.push_back(Slot::new(RequestState::InFlight(request)));
        self.in_flight += 1;
    }

    /// Returns whether all requests parsed so far have their replies in the outbound queue, so that
    /// the next reply may be appended to that queue directly.
    pub(crate) fn has_no_slots(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds an encoded reply in a new slot, to be sent after the replies to all earlier requests.
    pub(crate) fn push_reply(&mut self, reply: Bytes) {
        self.reply_bytes += reply.len();
        self.slots.push_back(Slot::new(RequestState::Done(Reply::Encoded(reply))));
        self.encode_replies();
    }

    /// Returns the kind (read or write) of the next request to be sent; `None` if no request is
    /// waiting to be sent.
    pub(crate) fn next_kind(&self) -> Option<RequestKind> {
        let waiting = self.slots.range(self.at(self.next)?.min(self.slots.len())..);
        waiting.into_iter().find_map(|slot| match &slot.state {
            RequestState::Waiting(request) => Some(request.kind),
            RequestState::InFlight(_) | RequestState::Done(_) => None,
        })
    }

    /// Returns the user as whom the next request to be sent runs, if it contains scripts.
    pub(crate) fn next_script_user(&self) -> Option<ScriptUser> {
        let waiting = self.slots.range(self.at(self.next)?.min(self.slots.len())..);
        let mut requests = waiting.into_iter().filter_map(|slot| match &slot.state {
            RequestState::Waiting(request) => Some(request),
            RequestState::InFlight(_) | RequestState::Done(_) => None,
        });
        let is_script = requests.next()?.reply_format.is_script();
        is_script.then(|| ScriptUser::of(&self.connection))
    }

    /// Sends the waiting requests of this client that may be sent now, oldest first. Calls `send`
    /// for each of them, and stops when `send` could not send the request. The second argument of
    /// `send` is whether the request may be answered from this replica's own state, which may lag
    /// behind: not while the leader confirms an earlier read, because that could then be answered
    /// from a newer state.
    pub(crate) fn dispatch(
        &mut self,
        now: Instant,
        mut send: impl FnMut(&mut Request, bool) -> SentTo,
    ) {
        while let Some(at) = self.at(self.next).filter(|at| *at < self.slots.len()) {
            let fits = self.reply_fits(self.next);
            let slot = &mut self.slots[at];
            if let RequestState::Waiting(request) = &mut slot.state {
                let is_script = request.reply_format.is_script();
                let must_wait =
                    self.in_flight > 0 && (is_script || !self.in_flight_kind.may_add(request.kind));
                if must_wait || self.draining || self.in_flight >= self.window || !fits {
                    return;
                }
                let may_lag =
                    self.in_flight == 0 || self.in_flight_kind == InFlightKind::LaggingReads;
                let sent_to = send(request, may_lag);
                if sent_to == SentTo::None {
                    return;
                }
                self.in_flight += 1;
                self.in_flight_kind = InFlightKind::of(request, sent_to == SentTo::OwnState);
                slot.sent_at.get_or_insert(now);
                slot.mark_sent();
            }
            self.next += 1;
        }
    }

    /// Returns whether the client's reply budget (limit on the bytes of unsent replies) has space
    /// for the reply to the request in this slot. For the oldest request, only the bytes in the
    /// outbound queue are compared with the budget: stored replies to later requests can be sent
    /// only after the reply to this request.
    fn reply_fits(&self, slot: u64) -> bool {
        !self.is_over_budget()
            || slot == self.front && self.socket.outbound.len() < self.budget.output_bytes
    }

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

    /// Records that the reply budget (limit on unsent replies) has space again. The timeouts of the
    /// client's requests are measured from `now`, so that the time without space does not count.
    pub(crate) fn on_budget_freed(&mut self, now: Instant) {
        self.progressed_at = now;
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

    /// Returns whether a part of the oldest reply has been encoded, but not the whole.
    fn is_within_reply(&self) -> bool {
        let front = self.slots.front().map(|slot| &slot.state);
        matches!(front, Some(RequestState::Done(Reply::Wide(wide, _))) if wide.has_begun())
    }

    /// Sends a message that is not a reply, between two replies. Returns the number of bytes that
    /// the client has not been sent yet.
    pub(crate) fn send_message(&mut self, message: &Bytes) -> usize {
        if self.is_within_reply() {
            self.send_after(self.front, message);
        } else {
            self.socket.outbound.push(message);
        }
        self.socket.outbound.len() + self.later_bytes
    }

    /// Sends a message after the replies that are known, but are not in the outbound queue yet.
    /// Does nothing if there are none.
    pub(crate) fn send_after_known_replies(&mut self, message: &Bytes) {
        let is_known = |slot: &Slot| matches!(slot.state, RequestState::Done(_));
        let Some(last) = self.slots.iter().rposition(is_known) else { return };
        if last > 0 || !self.is_within_reply() {
            self.send_after(self.front + last as u64, message);
        }
    }

    fn send_after(&mut self, slot: u64, message: &Bytes) {
        let position = self.later.partition_point(|(other, _)| *other <= slot);
        self.later.insert(position, (slot, message.clone()));
        self.later_bytes += message.len();
    }

    /// Appends the messages to the outbound queue that were waiting for replies that are in it.
    fn send_later(&mut self) {
        while let Some((_, message)) = self.later.pop_front_if(|(slot, _)| *slot < self.front) {
            self.later_bytes -= message.len();
            self.socket.outbound.push(&message);
        }
    }

    /// Returns the position in `slots` of the slot with this number; `None` if the slot was removed
    /// because its reply is in the outbound queue. For a slot that does not exist yet, the position
    /// is beyond the end of `slots`.
    fn at(&self, slot: u64) -> Option<usize> {
        usize::try_from(slot.checked_sub(self.front)?).ok()
    }

    /// Encodes completed replies into the outbound queue, oldest first. Stops at the first request
    /// without a reply, when the reply budget (limit on unsent replies) is used up, or after a part
    /// of a reply with many elements. The next part follows when the queue has been written.
    pub(crate) fn encode_replies(&mut self) {
        let part_bytes = self.budget.output_bytes.min(WIDE_BYTES_MAX);
        while self.socket.outbound.len() < self.budget.output_bytes
            && let Some(Slot { state: RequestState::Done(reply), .. }) = self.slots.front_mut()
        {
            match reply {
                Reply::Encoded(bytes) => self.socket.outbound.push(bytes),
                Reply::Outcome(reply_format, outcome) => {
                    reply_format.encode(outcome, self.socket.outbound.open());
                }
                Reply::Wide(wide, _) => {
                    let bytes = part_bytes.saturating_sub(self.socket.outbound.len());
                    if !wide.encode(self.socket.outbound.open(), bytes) {
                        break;
                    }
                }
                Reply::Failure(reason) => reason.failure().encode(self.socket.outbound.open()),
            }
            self.reply_bytes -= reply.bytes();
            self.slots.pop_front();
            self.front += 1;
            self.send_later();
        }
        self.next = self.next.max(self.front);
        if self.slots.is_empty() && self.slots.capacity() > SLOTS_KEPT {
            self.slots = VecDeque::new();
        }
    }
}
