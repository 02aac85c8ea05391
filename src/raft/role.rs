//! The transitions between roles, and the state that a replica starts from. Roles never build one
//! another: they return a [`Transition`], which `Replica::enter` performs.

use crate::feature_level::FeatureLevel;
use crate::membership::Configuration;
use crate::record::Entry;
use crate::types::{NodeId, Term};

use super::effects::HardState;
use super::message::SnapshotId;

pub use crate::types::RoleName;

/// The state on a replica's disk at start. The default is the state of an empty disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// The highest term that the replica has seen, and its vote in that term.
    pub hard_state: HardState,
    /// The latest complete snapshot; `None` if there is none.
    pub snapshot: Option<SnapshotId>,
    /// The members as of the snapshot's last entry; `None` without a snapshot, or if the members
    /// had not changed by then since the cluster was created.
    pub configuration: Option<Configuration>,
    /// The cluster's feature level as of the snapshot's last entry.
    pub feature_level: FeatureLevel,
    /// Consecutive log entries. The first one follows the last entry that the snapshot covers;
    /// without a snapshot it has index 1.
    pub entries: Vec<Entry>,
    /// What the disk has lost and the replica has not recovered from the other replicas yet; `None`
    /// if nothing is missing.
    pub loss: Option<Loss>,
}

/// What a replica's disk has lost of what the replica had acknowledged. Until the replica has
/// recovered it from the other replicas, it is rejoining the cluster. A later variant includes the
/// loss of an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Loss {
    /// Log entries or a snapshot. The latest term and the vote in it are known.
    Entries,
    /// Also the latest term or vote.
    Votes,
}

/// The role change that a message or a timeout causes.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transition {
    /// Stay in the current role.
    Stay,
    /// Become a follower in `term`, or stay a follower.
    Follow {
        /// The replica's current term or a higher one.
        term: Term,
        /// The leader of `term`; `None` if unknown.
        leader: Option<NodeId>,
    },
    /// Become a pre-candidate, which requests pre-votes.
    Campaign,
    /// Become a candidate in the next term, because a quorum has granted pre-votes.
    Stand,
    /// Become a candidate in the next term without a pre-vote, because the current leader is
    /// transferring its leadership to this replica.
    TakeOver,
    /// Become the leader of the current term.
    Lead,
}
