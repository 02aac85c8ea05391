//! A client's request on its way to a reply: the request itself, its state, and the reply.

use bytes::Bytes;

use crate::kv::Outcome;
use crate::raft::RequestKind;
use crate::redis::{Failure, ReplyFormat};
use crate::types::Instant;

/// A client's request that the core must answer.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: RequestKind,
    /// The encoded operation.
    pub(crate) operation: Bytes,
    pub(crate) reply_format: ReplyFormat,
    /// Sequence number of the request, counted over all clients of this replica's process.
    pub(crate) sequence: u64,
    /// The hash slot of the key, if the client follows redirects to the leader; `None` if it does
    /// not, or the command has no key.
    pub(crate) redirect_slot: Option<u16>,
}

/// The state of a client's request until its reply is sent.
#[derive(Debug)]
pub(crate) enum RequestState {
    /// The request waits to be sent to the core or the leader. It was not sent yet, or certainly
    /// not applied and will be sent again.
    Waiting(Request),
    /// Sent to the core or the leader, so it may have been applied.
    InFlight(Request),
    /// The reply is known and waits for the replies of earlier requests.
    Done(Reply),
}

/// A reply that cannot be sent yet. Outcomes are encoded only when they can be sent: until then
/// they share their values with the keyspace, so a client that requests much and reads little costs
/// no copies.
#[derive(Debug)]
pub(crate) enum Reply {
    Encoded(Bytes),
    Outcome(ReplyFormat, Outcome),
    Failure(FailureReason),
}

/// One request of a connection, or its reply, in the order in which the requests arrived.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: RequestState,
    /// When the request was first sent to the core or leader; `None` if it was not sent yet, or if
    /// it is a read that must be repeated because its outcome exceeded the reply budget.
    pub(crate) sent_at: Option<Instant>,
}

/// What a request without a reply waits for, and since when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// The request waits to be sent.
    Queued {
        since: Instant,
        /// Whether other requests of the same client are in flight. The request may be waiting for
        /// them, so its timeout is `command_deadline` instead of `leader_wait`.
        behind_own: bool,
    },
    /// The request was sent and waits for its outcome.
    InFlight {
        since: Instant,
        /// Whether the request is a write.
        write: bool,
    },
}

/// The reason for an error reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FailureReason {
    /// The request was not applied; the client may retry.
    NotApplied,
    /// The request was not applied because the leader refused it while overloaded, or because it
    /// waited too long to be sent.
    Busy,
    /// The leader refused the request because its disk space is low.
    DiskFull,
    /// The leader refused the request because it is above its memory limit.
    OutOfMemory,
    /// No leader was known before the timeout, or the leader did not answer a read.
    NoLeader,
    /// The request may have been applied.
    Uncertain,
}

impl Slot {
    pub(crate) fn new(state: RequestState) -> Slot {
        Slot { state, sent_at: None }
    }

    /// Moves the request from waiting to in flight, without copying it.
    pub(crate) fn mark_sent(&mut self) {
        let placeholder = RequestState::Done(Reply::Encoded(Bytes::new()));
        self.state = match std::mem::replace(&mut self.state, placeholder) {
            RequestState::Waiting(request) => RequestState::InFlight(request),
            other => other,
        };
    }
}

impl Reply {
    /// Returns the encoded length of the reply in bytes; 0 for an error reply.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Reply::Encoded(bytes) => bytes.len(),
            Reply::Outcome(reply_format, outcome) => reply_format.reply_bytes(outcome),
            Reply::Failure(_) => 0,
        }
    }
}

impl FailureReason {
    /// Returns the error reply for this reason.
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
