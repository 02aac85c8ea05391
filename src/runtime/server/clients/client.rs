//! One client's connection, with its requests in order of arrival.
//!
//! Replies are sent in the order of the requests. At any time, the in-flight requests of a
//! connection are either all reads or all writes. So a read sees every earlier write of its
//! connection and no later one, although reads and writes take different paths through the cluster.

mod output;
mod requests;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::raft::RequestKind;
use crate::redis::{Connection, ScriptUser};
use crate::runtime::server::clients::batches::is_large;
use crate::runtime::server::clients::in_flight::InFlight;
use crate::runtime::server::clients::input::Input;
use crate::runtime::server::clients::key_file::KeyFile;
use crate::runtime::server::clients::memory::ReplyBudget;
use crate::runtime::server::clients::request::{Reply, Request, RequestState, Slot};
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

    /// Records that the reply budget (limit on unsent replies) has space again. The timeouts of the
    /// client's requests are measured from `now`, so that the time without space does not count.
    pub(crate) fn on_budget_freed(&mut self, now: Instant) {
        self.progressed_at = now;
    }

    /// Returns the position in `slots` of the slot with this number; `None` if the slot was removed
    /// because its reply is in the outbound queue. For a slot that does not exist yet, the position
    /// is beyond the end of `slots`.
    fn at(&self, slot: u64) -> Option<usize> {
        usize::try_from(slot.checked_sub(self.front)?).ok()
    }
}
