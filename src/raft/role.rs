//! The transitions between roles, and the state that a replica starts from. Roles never build one
//! another: they return a [`Transition`], which `Replica::enter` performs.

use crate::record::Entry;
use crate::types::{NodeId, Term};

use super::effects::HardState;
use super::message::SnapshotId;

pub use crate::types::RoleName;

/// The state on a replica's disk at start. The default is an empty disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// Term and vote.
    pub hard_state: HardState,
    /// The latest complete snapshot; `None` if there is none.
    pub snapshot: Option<SnapshotId>,
    /// The log without gaps: from the entry after the snapshot's last one, or from index 1.
    pub entries: Vec<Entry>,
    /// Whether the replica lost its disk and has not rejoined since. It has then forgotten votes
    /// and acknowledgements.
    pub rejoining: bool,
}

/// The change of role that a step results in.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transition {
    /// Keep the role.
    Stay,
    /// Become a follower, or stay one, in `term`.
    Follow {
        /// The replica's term or a higher one.
        term: Term,
        /// The leader of that term, if known.
        leader: Option<NodeId>,
    },
    /// Ask for pre-votes.
    Campaign,
    /// Start an election in the next term.
    Stand,
    /// Start an election in the next term because this term's leader asked for it.
    TakeOver,
    /// Lead the current term.
    Lead,
}
