//! The answers of simulated replicas to clients' requests.

use crate::kv::Outcome;
use crate::raft::RefusalReason;
use crate::types::{NodeId, RequestKey};

/// The protocol between clients and replicas, which determines the replica that answers a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientProtocol {
    /// The replica to which the client is connected answers (Redis protocol).
    Connection,
    /// The leader that commits a write answers, regardless of which replica received the request
    /// (the protocol of the university course's simulator).
    Course,
}

/// An answer of a replica to a client's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Id of the replica that answers.
    pub from: NodeId,
    /// Key of the client's request that is answered.
    pub key: RequestKey,
    /// Id of the leader, as far as the answering replica knows; `None` if it knows no leader.
    pub leader: Option<NodeId>,
    /// The outcome of the request, or the reason for refusing it.
    pub kind: AnswerKind,
}

/// The content of a replica's answer to a client's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AnswerKind {
    /// The operations of the request were executed, with these outcomes in the same order.
    Done(Vec<Outcome>),
    /// The request was refused for this reason, and this attempt has no effect.
    Refused(RefusalReason),
}
