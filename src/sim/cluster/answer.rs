//! The answers of simulated replicas to clients' requests.

use crate::kv::Outcome;
use crate::raft::RefusalReason;
use crate::types::{NodeId, RequestKey};

/// The protocol between clients and replicas. It determines which replica answers a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientProtocol {
    /// The replica that received the client's request answers it (Redis protocol).
    Connection,
    /// The leader that commits a write answers it, whichever replica received the request (protocol
    /// of the university course's simulator).
    Course,
}

/// A replica's answer to a client's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Id of the replica that answers.
    pub from: NodeId,
    /// Key of the client's request that this answers.
    pub key: RequestKey,
    /// Id of the leader known to the answering replica; `None` if it knows no leader.
    pub leader: Option<NodeId>,
    /// The outcome of the request, or the reason why it was refused.
    pub kind: AnswerKind,
}

/// The content of a replica's answer to a client's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AnswerKind {
    /// The request was executed; the outcomes are in the order of its operations.
    Done(Vec<Outcome>),
    /// This attempt of the request was refused for this reason and has no effect.
    Refused(RefusalReason),
}
