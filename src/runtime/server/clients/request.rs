//! A client's request on its way to a reply: the request itself, its state, and its reply.

use std::time::Duration;

use bytes::Bytes;

use crate::kv::Outcome;
use crate::raft::RequestKind;
use crate::redis::{Failure, ReplyFormat, ScriptNotes, WideReply};
use crate::types::Instant;

/// A client's request that reads or writes the replicated state, so that the Raft core must handle
/// it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: RequestKind,
    /// The operation of the request, in encoded form.
    pub(crate) operation: Bytes,
    pub(crate) reply_format: ReplyFormat,
    /// Sequence number of the request among the requests of all clients of this process.
    pub(crate) sequence: u64,
    /// The hash slot of the request's key if the client follows redirects to the leader; `None` if
    /// the client does not follow redirects, or if the command has no key.
    pub(crate) redirect_slot: Option<u16>,
    /// The lag of this replica's own state that the client accepts, if this is a read of a client
    /// that has sent `READONLY MAXLAG`.
    pub(crate) lag_max: Option<Duration>,
    /// Whether the client caches the values in the reply (`CLIENT TRACKING`).
    pub(crate) is_cached: bool,
    /// What the run of a request with scripts has left to do; `None` before the run, and for any
    /// other request.
    pub(crate) script: Option<Box<ScriptReply>>,
}

/// The reply of a request with scripts that has run, until it is known to be right.
#[derive(Clone, Debug)]
pub(crate) struct ScriptReply {
    pub(crate) reply: Bytes,
    /// The encoded read that must be sent to check the reply; `None` if the effects of the run are
    /// on their way to the log.
    pub(crate) check: Option<Bytes>,
    /// The revision of the users under which the request has run.
    pub(crate) users_revision: u64,
    /// The keys that the scripts have read, if the client caches their values.
    pub(crate) read: Vec<Bytes>,
    /// What the run reports once the reply is known to be right.
    pub(crate) notes: Box<ScriptNotes>,
}

/// The state of a client's request until its reply is sent.
#[derive(Debug)]
pub(crate) enum RequestState {
    /// The request is waiting to be sent to the Raft core or the leader: either it was not sent
    /// yet, or it was certainly not applied and will be sent again.
    Waiting(Request),
    /// The request was sent to the Raft core or the leader, so it may have been applied.
    InFlight(Request),
    /// The reply is known and is waiting for the replies to earlier requests to be sent.
    Done(Reply),
}

/// A reply that is waiting for the replies to earlier requests to be sent. An outcome is encoded
/// only when it is sent: until then it shares its values with the keyspace instead of copying them.
#[derive(Debug)]
pub(crate) enum Reply {
    Encoded(Bytes),
    Outcome(ReplyFormat, Outcome),
    /// A reply that is encoded in parts, and its length in bytes.
    Wide(WideReply, usize),
    Failure(FailureReason),
}

/// One request of a connection, or the reply to it. Slots are in the order in which the requests
/// arrived.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: RequestState,
    /// When the request was first sent to the Raft core or the leader; `None` if it was not sent
    /// yet, or if it is a read that must be repeated because its outcome exceeded the reply budget
    /// (limit on unsent replies).
    pub(crate) sent_at: Option<Instant>,
}

/// What a request without a reply is waiting for, and since when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// The request is waiting to be sent to the Raft core or the leader.
    Queued {
        since: Instant,
        /// Whether other requests of the same client are in flight. If so, the request may be
        /// waiting for them, so its timeout is `command_deadline` instead of `leader_wait`.
        behind_own: bool,
    },
    /// The request was sent to the Raft core or the leader, and has no outcome yet.
    InFlight {
        since: Instant,
        /// Whether the request that was sent is a write.
        write: bool,
    },
}

/// The reason why a client's request gets an error reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FailureReason {
    /// The request was not applied; the client may retry.
    NotApplied,
    /// The request was not applied, either because the overloaded leader refused it or because the
    /// request waited too long to be sent to the leader.
    Busy,
    /// The leader refused the request because the leader's free disk space is low.
    DiskFull,
    /// The leader refused the request because the leader's memory usage is above its limit.
    OutOfMemory,
    /// No leader was known before the request's timeout, or the leader did not answer a read in
    /// time.
    NoLeader,
    /// The request has waited too long for the runs of other clients' scripts.
    BusyScript,
    /// The request may have been applied; its outcome is not known.
    Uncertain,
}

impl Slot {
    pub(crate) fn new(state: RequestState) -> Slot {
        Slot { state, sent_at: None }
    }

    /// Moves the request from the waiting state to the in-flight state, without copying it.
    pub(crate) fn mark_sent(&mut self) {
        let placeholder = RequestState::Done(Reply::Encoded(Bytes::new()));
        self.state = match std::mem::replace(&mut self.state, placeholder) {
            RequestState::Waiting(request) => RequestState::InFlight(request),
            other => other,
        };
    }
}

impl Reply {
    /// Returns the reply for `outcome`, whose length is `bytes` according to
    /// [`ReplyFormat::reply_bytes`].
    pub(crate) fn new(reply_format: &ReplyFormat, outcome: Outcome, bytes: usize) -> Reply {
        match WideReply::new(reply_format, outcome) {
            Ok(wide) => Reply::Wide(wide, bytes),
            Err(outcome) => Reply::Outcome(reply_format.clone(), outcome),
        }
    }

    /// Returns the encoded length of the reply in bytes; 0 for an error reply.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Reply::Encoded(bytes) => bytes.len(),
            Reply::Outcome(reply_format, outcome) => reply_format.reply_bytes(outcome),
            Reply::Wide(_, bytes) => *bytes,
            Reply::Failure(_) => 0,
        }
    }
}

impl FailureReason {
    /// Returns whether a client that has waited before its request was refused for this reason, and
    /// certainly not applied, waits again.
    pub(crate) fn may_wait_again(self) -> bool {
        match self {
            FailureReason::NotApplied
            | FailureReason::Busy
            | FailureReason::DiskFull
            | FailureReason::NoLeader => true,
            FailureReason::OutOfMemory | FailureReason::BusyScript | FailureReason::Uncertain => {
                false
            }
        }
    }

    /// Returns the error reply that the client of a request gets for this reason.
    pub(crate) fn failure(self) -> Failure<'static> {
        match self {
            FailureReason::NotApplied => Failure::Lost,
            FailureReason::Busy => Failure::Busy,
            FailureReason::DiskFull => Failure::DiskFull,
            FailureReason::OutOfMemory => Failure::OutOfMemory,
            FailureReason::NoLeader => Failure::NoLeader,
            FailureReason::BusyScript => Failure::BusyScript,
            FailureReason::Uncertain => Failure::Uncertain { index: None },
        }
    }
}
