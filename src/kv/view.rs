//! Copy-on-write views of the state, for writing snapshots while the state machine goes on.

use std::fmt;
use std::sync::Arc;

use crate::kv::client_sessions::ClientSession;
use crate::kv::dedup::DedupView;
use crate::kv::keyspace::clock::ReplicatedClock;
use crate::kv::keyspace::shards::Table;
use crate::types::EntryId;

/// An immutable copy-on-write view of the state. It pins the memory that it shares with the state
/// machine, so its owner should release it part by part.
pub struct View {
    /// The last log entry in the view.
    pub(super) last: EntryId,
    pub(super) digest: u64,
    pub(super) clock: ReplicatedClock,
    pub(super) key_count: usize,
    pub(super) tables: Vec<Arc<Table>>,
    /// The deduplication table.
    pub(super) dedup: DedupView,
    /// Client sessions by id.
    pub(super) client_sessions: Vec<(u64, Arc<ClientSession>)>,
}

impl View {
    /// The last log entry in the view.
    pub fn last(&self) -> EntryId {
        self.last
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("last", &self.last)
            .field("keys", &self.key_count)
            .finish_non_exhaustive()
    }
}
