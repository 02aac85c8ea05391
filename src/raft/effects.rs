//! All that can come out of the core. A driver reuses one [`Effects`] and drains it after each
//! flush.

use crate::record::Entry;
use crate::types::{JobSequence, NodeId, RequestKey, Term};

use super::message::{ClientRequest, Envelope};

/// What the driver has to do, in any order between the fields, in order within each.
#[derive(Debug, Default)]
pub struct Effects {
    /// May leave at once.
    pub send: Vec<Envelope>,
    /// For the log writer: filled by `flush`, at most one job a batch.
    pub append: Option<AppendJob>,
    /// For the apply stage: filled by `flush`, at most one job a batch.
    pub apply: ApplyJob,
    /// Requests that are refused here and now. They are in nobody's log.
    pub refusals: Vec<Refusal>,
}

/// The term and the vote: one record, durable before any message shows it (Figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term seen.
    pub term: Term,
    /// Who got this replica's vote in that term.
    pub voted_for: Option<NodeId>,
}

/// What must be durable, and what may leave only then. Jobs are done in order.
#[derive(Debug, PartialEq, Eq)]
pub struct AppendJob {
    /// Its number, one more than the job's before.
    pub sequence: JobSequence,
    /// New hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries in order without gaps. The first replaces whatever the log held from its index on.
    pub entries: Vec<Entry>,
    /// Messages to peers that vouch for what this job and the ones before it make durable.
    pub release: Vec<Envelope>,
}

/// What goes to the state machine: first all entries, in order, then the reads.
#[derive(Debug, Default)]
pub struct ApplyJob {
    /// Committed entries, without gaps over all jobs.
    pub entries: Vec<Committed>,
    /// Reads that may be answered from the state after `entries`.
    pub reads: Vec<ClientRequest>,
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// Whether this replica led when it committed. Under the course's door the leader that
    /// commits an entry answers it, its own and inherited ones alike.
    pub as_leader: bool,
}

/// Why a request is refused. In every case it is certain that it was not and will not be applied
/// by this attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which request.
    pub key: RequestKey,
    /// Why.
    pub reason: RefusalReason,
    /// Whom to ask instead, if anybody is known.
    pub leader: Option<NodeId>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// Another replica leads, or nobody was found to in time.
    NotLeader,
    /// It was appended here, but another entry was committed in its place.
    Replaced,
    /// Too much is under way.
    Busy,
}

impl ApplyJob {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.reads.is_empty()
    }
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.send.is_empty()
            && self.append.is_none()
            && self.apply.is_empty()
            && self.refusals.is_empty()
    }
}
