//! A client's request on its way to a reply: the request itself, its state, and the reply.

use bytes::Bytes;

use crate::kv::Outcome;
use crate::raft::RequestKind;
use crate::redis::{Failure, ReplyFormat};
use crate::types::{Index, Instant};

/// A request for the core.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: RequestKind,
    pub(crate) payload: Bytes,
    pub(crate) reply_format: ReplyFormat,
    /// Its sequence number, part of its key.
    pub(crate) sequence: u64,
    /// The applied index of this replica when the request was sent: its entry has a larger index.
    pub(crate) since: Index,
    /// The hash slot of its key, if the client follows redirects to the leader.
    pub(crate) redirect_slot: Option<u16>,
}

/// The state of a request.
#[derive(Debug)]
pub(crate) enum RequestState {
    /// Not sent: not applied.
    Waiting(Request),
    /// Sent to the core or to the leader: may have been applied.
    InFlight(Request),
    /// It has its reply.
    Done(Reply),
}

/// A reply that cannot be sent yet. It is encoded only when it can be: until then it shares the
/// values with the store, so a client that requests much and reads little costs no copies.
#[derive(Debug)]
pub(crate) enum Reply {
    Encoded(Bytes),
    Outcome(ReplyFormat, Outcome),
    Failure(FailureReason),
}

/// A request and its place in the order of the connection's replies.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: RequestState,
    /// When the request was first sent; `None` if it never was. Later requests must not be applied
    /// before it.
    pub(crate) sent_at: Option<Instant>,
    /// Whether it was sent to another replica.
    pub(crate) forwarded: bool,
    /// Whether more than one copy was sent, so that the refusal of one copy does not mean that the
    /// request was not applied.
    pub(crate) resent: bool,
}

/// How long a request has waited, and for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// To be sent.
    Queued {
        since: Instant,
        /// Whether it waits for an earlier request of the same client.
        behind_own: bool,
    },
    /// For its outcome.
    InFlight {
        since: Instant,
        /// Whether it is a write.
        write: bool,
    },
}

/// Why a request has no outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FailureReason {
    /// Not applied: the client may retry.
    NotApplied,
    /// Refused by a leader with too many requests in flight.
    Busy,
    /// Refused because disk space is low.
    DiskFull,
    /// Refused because the leader is above its memory limit.
    OutOfMemory,
    /// No leader was known in time.
    NoLeader,
    /// May have been applied.
    Uncertain,
}

impl Slot {
    pub(crate) fn new(state: RequestState) -> Slot {
        Slot { state, sent_at: None, forwarded: false, resent: false }
    }

    /// Changes the state from waiting to in flight, without a copy of the request.
    pub(crate) fn mark_sent(&mut self) {
        let placeholder = RequestState::Done(Reply::Encoded(Bytes::new()));
        self.state = match std::mem::replace(&mut self.state, placeholder) {
            RequestState::Waiting(request) => RequestState::InFlight(request),
            other => other,
        };
    }
}

impl Reply {
    /// Bytes of the encoded reply, 0 for a failure.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Reply::Encoded(bytes) => bytes.len(),
            Reply::Outcome(reply_format, outcome) => reply_format.reply_bytes(outcome),
            Reply::Failure(_) => 0,
        }
    }
}

impl FailureReason {
    /// The error that the client gets.
    pub(crate) fn failure(self) -> Failure<'static> {
        match self {
            FailureReason::NotApplied => Failure::Lost,
            FailureReason::Busy => Failure::Busy,
            FailureReason::DiskFull => Failure::DiskFull,
            FailureReason::OutOfMemory => Failure::OutOfMemory,
            FailureReason::NoLeader => Failure::NoLeader,
            FailureReason::Uncertain => Failure::Uncertain { index: None },
        }
    }
}
