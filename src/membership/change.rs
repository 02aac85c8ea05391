//! A change of the members: its parts, its result, and why it may be refused.

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::types::{Index, NodeId};

use super::{ADDRESS_BYTES_MAX, Configuration, ID_STEP_MAX, Promotion, REPLICAS_MAX};

/// One part of a change of the members. Several of them are done in one step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberChange {
    /// Adds a learner. Its id must be higher than those of all earlier members, also of those that
    /// have been removed: a replica that has not heard of a removal may count the vote of the id.
    AddLearner {
        /// Id of the new member.
        id: NodeId,
        /// How the learner becomes a voter.
        promotion: Promotion,
        /// Whether the new member is a witness. This cannot be changed later.
        is_witness: bool,
        /// Where the new member is reached.
        address: Bytes,
    },
    /// Makes a voter of a learner, which must have caught up. Only learners become voters: an empty
    /// replica that counted at once would reduce the number of failures that the cluster survives.
    Promote(NodeId),
    /// Makes a learner of a voter.
    Demote(NodeId),
    /// Removes a member.
    Remove(NodeId),
    /// Changes where a member is reached.
    SetAddress {
        /// Id of the member.
        id: NodeId,
        /// The new address.
        address: Bytes,
    },
}

/// The result of a change of the members that the leader would make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangePlan {
    /// The configuration that the leader would append: a joint one if the voters change.
    pub next: Configuration,
    /// The configuration after the change.
    pub result: Configuration,
}

/// The reason why a change of the members is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeRefusal {
    /// This replica does not lead.
    #[error("this replica is not the leader")]
    NotLeader {
        /// The leader of the current term; `None` if it is unknown.
        leader: Option<NodeId>,
    },
    /// The leader has not committed an entry of its own term yet, so it may not know of a change
    /// that an earlier leader has begun.
    #[error("the leader has just been elected; try again")]
    NewLeader,
    /// Another change is not complete.
    #[error("another change of the members is under way since entry {0}")]
    UnderWay(Index),
    /// The leader is transferring its leadership.
    #[error("the leader is transferring its leadership")]
    Transfer,
    /// A learner that is to be promoted lacks too many entries or bytes, or does not answer.
    #[error(
        "learner {} has not caught up: it lacks {entries} entries, or does not answer; try again \
         when it has", .id.0
    )]
    Behind {
        /// Id of the learner.
        id: NodeId,
        /// Number of entries that the learner has not acknowledged.
        entries: u64,
    },
    /// The leader is a witness, which leads only until a replica with data takes over.
    #[error("a witness leads until a replica with data takes over; try again")]
    Witness,
    /// Too few voters of the new configuration answer, so nothing could be committed.
    #[error("no quorum of the new voters is answering")]
    NoQuorum,
    /// The cluster's feature level does not allow the new configuration yet.
    #[error(
        "this needs every replica to run {}; see cluster_feature_level in INFO",
        .0.needed_version()
    )]
    FeatureLevel(FeatureLevel),
    /// The change makes no valid configuration.
    #[error(transparent)]
    Invalid(PlanError),
}

/// The reason why a change of the members makes no valid configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// The change names a replica that is no member.
    #[error("replica {} is not a member", .0.0)]
    Unknown(NodeId),
    /// The change adds a replica that is a member already, or names a member twice.
    #[error("replica {} is a member already, or named twice", .0.0)]
    Duplicate(NodeId),
    /// The change adds a replica whose id an earlier member may have had.
    #[error(
        "the id {} may be that of an earlier member, and ids are not used again; the lowest \
         possible id is {}", .id.0, .last.0 + 1
    )]
    Used {
        /// Id of the replica.
        id: NodeId,
        /// Highest id that any member has ever had.
        last: NodeId,
    },
    /// The change adds a replica with a needlessly high id.
    #[error(
        "the id {} is more than {ID_STEP_MAX} above {}, the highest id so far; ids cannot be used \
         again, so choose one close to it", .id.0, .last.0
    )]
    TooHigh {
        /// Id of the replica.
        id: NodeId,
        /// Highest id that any member has ever had.
        last: NodeId,
    },
    /// The change promotes a voter.
    #[error("replica {} is a voter already", .0.0)]
    Voter(NodeId),
    /// The change demotes a learner.
    #[error("replica {} is a learner already", .0.0)]
    Learner(NodeId),
    /// The configuration would have no voter.
    #[error("no voter would be left")]
    NoVoter,
    /// Half of the voters or more would be witnesses.
    #[error(
        "half of the voters or more would be witnesses; fewer must be, so that every quorum has a \
         replica with data"
    )]
    Witnesses,
    /// The configuration would have too many members, counting those that are being removed.
    #[error("{0} members, but at most {REPLICAS_MAX} are possible")]
    TooMany(usize),
    /// The address of a member is too long.
    #[error("the address of replica {} is longer than {ADDRESS_BYTES_MAX} bytes", .0.0)]
    Address(NodeId),
    /// The change changes nothing.
    #[error("the members would stay the same")]
    Nothing,
}

impl MemberChange {
    /// Returns the id of the member that is changed.
    pub fn id(&self) -> NodeId {
        match self {
            MemberChange::AddLearner { id, .. }
            | MemberChange::SetAddress { id, .. }
            | MemberChange::Promote(id)
            | MemberChange::Demote(id)
            | MemberChange::Remove(id) => *id,
        }
    }

    /// Returns the change that replaces the voter `old` by the learner `new`.
    pub fn replace(old: NodeId, new: NodeId) -> [MemberChange; 2] {
        [MemberChange::Promote(new), MemberChange::Remove(old)]
    }
}
