//! The transitions between roles, and the state that a replica starts from. Roles never build one
//! another: they return a [`Transition`], which `Replica::enter` performs.

use crate::record::Entry;
use crate::types::{NodeId, Term};

use super::effects::HardState;
use super::message::SnapshotId;

pub use crate::types::RoleName;

/// The state that a replica finds on its disk at start. The default is that of an empty disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// The highest term that the replica has seen, and its vote in that term.
    pub hard_state: HardState,
    /// The latest complete snapshot; `None` if there is none.
    pub snapshot: Option<SnapshotId>,
    /// Consecutive log entries. The first one follows the last entry that the snapshot covers, or
    /// has index 1 if there is no snapshot.
    pub entries: Vec<Entry>,
    /// Whether the replica lost its disk and has not rejoined its group since. Such a replica has
    /// forgotten votes and acknowledgements.
    pub rejoining: bool,
}

/// The role change that results from a message or a timeout.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transition {
    /// Stay in the current role.
    Stay,
    /// Become a follower in `term`, or stay a follower.
    Follow {
        /// The replica's current term or a higher one.
        term: Term,
        /// The leader of `term`, if known.
        leader: Option<NodeId>,
    },
    /// Become a candidate that asks for pre-votes.
    Campaign,
    /// Start an election in the next term, because a quorum has granted pre-votes.
    Stand,
    /// Start an election in the next term, without pre-votes, because the current leader is
    /// transferring its leadership to this replica.
    TakeOver,
    /// Become the leader of the current term.
    Lead,
}
