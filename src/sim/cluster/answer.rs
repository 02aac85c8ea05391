//! Answers of replicas to clients.

use crate::kv::Outcome;
use crate::raft::RefusalReason;
use crate::types::{NodeId, RequestKey};

/// The protocol between clients and replicas, which determines the replica that answers a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientProtocol {
    /// The replica that holds the client's connection answers (Redis protocol).
    Connection,
    /// The leader that commits the write answers, no matter which replica received the request (the
    /// course's protocol).
    Course,
}

/// An answer of a replica to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The replica that answers.
    pub from: NodeId,
    /// The key of the request.
    pub key: RequestKey,
    /// The leader that the answering replica knows; `None` if it knows none.
    pub leader: Option<NodeId>,
    /// The outcome of the request, or the reason for refusing it.
    pub kind: AnswerKind,
}

/// What a replica answers to a client's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AnswerKind {
    /// The operations of the request were executed with these outcomes.
    Done(Vec<Outcome>),
    /// The request was refused for this reason: this attempt has no effect.
    Refused(RefusalReason),
}
