//! The whole state as it was at one moment, for whoever writes it somewhere while the store goes
//! on.

use std::fmt;
use std::sync::Arc;

use crate::kv::client_sessions::ClientSession;
use crate::kv::dedup::DedupView;
use crate::kv::keyspace::expiration::Millis;
use crate::kv::keyspace::shards::Table;
use crate::types::EntryId;

/// A state that does not change any more. What the store had in memory stays there as long as this
/// does, so it is best taken apart on the way.
pub struct View {
    /// The last entry that is in it.
    pub(super) last: EntryId,
    pub(super) digest: u64,
    pub(super) clock: Millis,
    pub(super) clock_resets: u64,
    pub(super) key_count: usize,
    pub(super) tables: Vec<Arc<Table>>,
    /// The requests remembered.
    pub(super) remembered: DedupView,
    /// The sessions that clients opened.
    pub(super) sessions: Vec<(u64, Arc<ClientSession>)>,
}

impl View {
    /// The last entry that is in it.
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
