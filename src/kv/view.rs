//! Copy-on-write views of the state, for writing snapshots while more log entries are applied.

use std::fmt;
use std::sync::Arc;

use crate::feature_level::FeatureLevel;
use crate::kv::client_sessions::ClientSession;
use crate::kv::dedup::DedupView;
use crate::kv::keyspace::clock::ReplicatedClock;
use crate::kv::keyspace::databases::SharedDatabase;
use crate::kv::keyspace::functions::Functions;
use crate::kv::keyspace::scripts::Scripts;
use crate::kv::partial_batch::PartialBatch;
use crate::kv::users::table::Users;
use crate::membership::Configuration;
use crate::types::EntryId;

/// An immutable copy-on-write view of the state machine's state, from which a snapshot is written.
/// Memory that the view shares with the state stays allocated until the view releases it, even if
/// the state changes.
pub struct View {
    /// Id of the last log entry whose effects the view contains.
    pub(super) last: EntryId,
    /// Number of operations that had been applied to the state when the view was taken.
    pub(super) revision: u64,
    pub(super) digest: u64,
    pub(super) clock: ReplicatedClock,
    pub(super) key_count: usize,
    pub(super) databases: Vec<SharedDatabase>,
    /// View of the deduplication table (stored outcomes of recent batches).
    pub(super) dedup: DedupView,
    /// All client sessions with their ids, ordered by id.
    pub(super) client_sessions: Vec<(u64, Arc<ClientSession>)>,
    pub(super) partial: PartialBatch,
    pub(super) users: Users,
    pub(super) scripts: Scripts,
    pub(super) functions: Functions,
    pub(super) configuration: Option<Configuration>,
    pub(super) feature_level: FeatureLevel,
}

impl View {
    /// Returns the id of the last log entry whose effects the view contains.
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
