//! Membership changes: their parts, the resulting configurations, and the reasons to reject one.

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::types::{Index, NodeId};

use super::{ADDRESS_BYTES_MAX, Configuration, ID_STEP_MAX, Promotion, REPLICAS_MAX};

/// One part of a membership change. Several parts are applied together, as one change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberChange {
    /// Adds a learner. Its id must be higher than the ids of all earlier members, including removed
    /// ones: a replica that has not learned of a removal may still count that id's vote.
    AddLearner {
        /// Id of the new member.
        id: NodeId,
        /// When the learner becomes a voter.
        promotion: Promotion,
        /// Whether the new member is a witness. This never changes.
        is_witness: bool,
        /// Address of the new member as `host:port`.
        address: Bytes,
    },
    /// Promotes a learner that has caught up to a voter. Only learners can become voters: an empty
    /// replica that counted at once would reduce the number of failures that the cluster survives.
    Promote(NodeId),
    /// Demotes a voter to a learner.
    Demote(NodeId),
    /// Removes a member.
    Remove(NodeId),
    /// Changes the address of a member.
    SetAddress {
        /// Id of the member.
        id: NodeId,
        /// The new address as `host:port`.
        address: Bytes,
    },
}

/// The configurations that a membership change leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangePlan {
    /// The configuration that the leader appends first: a joint one if the set of voters changes.
    pub next: Configuration,
    /// The final configuration.
    pub result: Configuration,
}

/// Why a membership change is rejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeRefusal {
    /// This replica is not the leader.
    #[error("this replica is not the leader")]
    NotLeader {
        /// The leader of the current term; `None` if it is unknown.
        leader: Option<NodeId>,
    },
    /// The leader has not committed an entry of its term yet, so it may not know of a change that
    /// the previous leader started.
    #[error("the leader has just been elected; try again")]
    NewLeader,
    /// The change whose configuration is at this index of the log is still in progress.
    #[error("another membership change is in progress since entry {0}; try again")]
    InProgress(Index),
    /// The leader is transferring its leadership.
    #[error("the leader is transferring its leadership")]
    Transfer,
    /// The learner to be promoted does not answer, or lacks too many entries or bytes.
    #[error(
        "learner {} has not caught up: it lacks {entries} entries, or does not answer; try again \
         when it has", .id.0
    )]
    Behind {
        /// Id of the learner.
        id: NodeId,
        /// Number of entries that the learner is not known to have.
        entries: u64,
    },
    /// The leader is a witness. It leads only until a replica with data takes over.
    #[error("a witness leads until a replica with data takes over; try again")]
    Witness,
    /// Fewer voters of the new configuration than a quorum are answering, so nothing could be
    /// committed.
    #[error("no quorum of the new voters is answering")]
    NoQuorum,
    /// The feature level of the cluster is too low for the new configuration.
    #[error(
        "this needs every replica to run {}; see cluster_feature_level in INFO",
        .0.needed_version()
    )]
    FeatureLevel(FeatureLevel),
    /// The change would lead to an invalid configuration.
    #[error(transparent)]
    Invalid(PlanError),
}

/// Why a change would lead to an invalid configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// The change names a replica that is not a member.
    #[error("replica {} is not a member", .0.0)]
    Unknown(NodeId),
    /// The change adds a replica that is already a member, or names a member twice.
    #[error("replica {} is a member already, or named twice", .0.0)]
    Duplicate(NodeId),
    /// The new id is not higher than the ids of all earlier members.
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
    /// The new id skips too many ids.
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
    /// The replica to be promoted is a voter already.
    #[error("replica {} is a voter already", .0.0)]
    Voter(NodeId),
    /// The replica to be demoted is a learner already.
    #[error("replica {} is a learner already", .0.0)]
    Learner(NodeId),
    /// No voter would be left.
    #[error("no voter would be left")]
    NoVoter,
    /// Half of the voters or more would be witnesses.
    #[error(
        "half of the voters or more would be witnesses; fewer must be, so that every quorum has a \
         replica with data"
    )]
    Witnesses,
    /// There would be too many members, including those that are being removed.
    #[error("{0} members, but at most {REPLICAS_MAX} are possible")]
    TooMany(usize),
    /// The address is longer than [`ADDRESS_BYTES_MAX`](super::ADDRESS_BYTES_MAX).
    #[error("the address of replica {} is longer than {ADDRESS_BYTES_MAX} bytes", .0.0)]
    Address(NodeId),
    /// The change has no effect.
    #[error("the members would stay the same")]
    Nothing,
}

impl MemberChange {
    /// Returns the id of the member that this part changes.
    pub fn id(&self) -> NodeId {
        match self {
            MemberChange::AddLearner { id, .. }
            | MemberChange::SetAddress { id, .. }
            | MemberChange::Promote(id)
            | MemberChange::Demote(id)
            | MemberChange::Remove(id) => *id,
        }
    }

    /// Returns the change that replaces the voter `old` with the learner `new`.
    pub fn replace(old: NodeId, new: NodeId) -> [MemberChange; 2] {
        [MemberChange::Promote(new), MemberChange::Remove(old)]
    }
}
