//! What a state machine tells about its state: clock, sizes, digest, history, and a copy-on-write
//! view.

use std::fmt;

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::dedup::StoredOutcomes;
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::clock::Millis;
use crate::kv::keyspace::databases::DatabaseSize;
use crate::kv::keyspace::history::HistoryStatus;
use crate::kv::users::table::Users;
use crate::kv::values::digest::Digest;
use crate::kv::view::View;
use crate::membership::Configuration;
use crate::types::{EntryId, Index, RequestKey};

use super::{StateMachine, digest_of, hash_of_members};

/// How many scripts and functions the cluster keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeptScripts {
    /// Number of scripts.
    pub script_count: usize,
    /// Approximate memory usage of the scripts, in bytes.
    pub script_bytes: usize,
    /// Number of libraries of functions.
    pub library_count: usize,
    /// Number of functions in all libraries.
    pub function_count: usize,
    /// Approximate memory usage of the libraries, in bytes.
    pub function_bytes: usize,
}

impl StateMachine {
    /// Returns whether this is the state of a witness, which has no data.
    pub fn is_witness(&self) -> bool {
        self.is_witness
    }

    /// Returns the total length in bytes of the pieces of an incomplete batch; 0 if there are none.
    pub fn piece_bytes(&self) -> usize {
        self.partial.bytes()
    }

    /// Returns the users of the cluster.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Returns the members of the cluster as of the last applied entry; `None` if they have not
    /// changed since the cluster was created.
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    /// Returns the cluster's feature level as of the last applied entry.
    pub fn feature_level(&self) -> FeatureLevel {
        self.feature_level
    }

    /// Returns whether there is an index of keys, or a part of one.
    pub fn has_key_index(&self) -> bool {
        self.keyspace.has_any_key_index()
    }

    /// Returns the index of the last applied log entry.
    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// Returns a digest (hash) of the state, for comparing replicas. At the same applied index,
    /// equal states have equal digests, and different states very probably have different digests.
    /// O(1).
    pub fn digest(&self) -> u64 {
        let (clock, members) = (self.keyspace.replicated_clock(), self.configuration.as_ref());
        let members = hash_of_members(members);
        let (level, users) = (self.feature_level, self.users.hash());
        let (content, keyspace) = (self.content_digest(), &self.keyspace);
        let others = [members, users, keyspace.scripts.hash(), keyspace.functions.hash()];
        digest_of(content, self.applied_index, clock, level, others)
    }

    /// Returns the digest of the keys, the client sessions and the pieces of an incomplete batch.
    pub(in crate::kv) fn content_digest(&self) -> Digest {
        self.keyspace.digest().union(self.client_sessions.digest()).union(self.partial.digest())
    }

    /// Returns an immutable copy of the keys, the clock, the scripts and the functions, on which
    /// scripts can run while the state changes. It must only be read.
    #[must_use]
    pub fn copy_for_scripts(&mut self) -> StateMachine {
        StateMachine { keyspace: self.keyspace.frozen(), ..StateMachine::default() }
    }

    /// Returns the source of a script that the cluster keeps, by its SHA-1 in lower-case
    /// hexadecimal digits; `None` if it keeps no such script.
    pub fn script(&self, sha: &[u8]) -> Option<&Bytes> {
        self.keyspace.scripts.get(sha)
    }

    /// Returns how many scripts and functions the cluster keeps.
    pub fn kept_scripts(&self) -> KeptScripts {
        let Keyspace { scripts, functions, .. } = &self.keyspace;
        let (library_count, function_count) = functions.counts();
        KeptScripts {
            script_count: scripts.len(),
            script_bytes: scripts.bytes(),
            library_count,
            function_count,
            function_bytes: functions.memory(),
        }
    }

    /// Returns the number of keys of all databases, including keys that have expired but have not
    /// been removed yet.
    pub fn key_count(&self) -> usize {
        self.keyspace.total_len()
    }

    /// Returns the sizes of the databases that have keys, in the order of their numbers.
    pub fn database_sizes(&self) -> Vec<DatabaseSize> {
        self.keyspace.sizes()
    }

    /// Returns the approximate memory usage of the state, in bytes, including the index of keys and
    /// the history of changes. O(1).
    pub fn memory(&self) -> usize {
        self.keyspace.memory()
            + self.dedup.memory()
            + self.client_sessions.bytes()
            + self.partial.bytes()
            + self.keyspace.history().bytes
            + self.users.bytes()
    }

    /// Returns an immutable copy-on-write view of the state. `last` must be the id of the last
    /// applied log entry. Takes little time even for a large state, because nothing is copied now:
    /// a later write copies only the part that it changes, such as one hash table.
    pub fn view(&mut self, last: EntryId) -> View {
        assert_eq!(last.index, self.applied_index(), "a view is of the current state");
        let (digest, key_count) = (self.digest(), self.key_count());
        let (dedup, client_sessions) = (self.dedup.share(), self.client_sessions.share());
        let (clock, revision) = (self.keyspace.replicated_clock(), self.revision());
        let (databases, partial) = (self.keyspace.share(), self.partial.clone());
        let (configuration, users) = (self.configuration.clone(), self.users.clone());
        View {
            last,
            revision,
            digest,
            clock,
            key_count,
            databases,
            dedup,
            client_sessions,
            partial,
            users,
            scripts: self.keyspace.scripts.clone(),
            functions: self.keyspace.functions.clone(),
            configuration,
            feature_level: self.feature_level,
        }
    }

    /// Iterates over the keys and stored outcomes of the batches in the deduplication table, oldest
    /// first.
    pub(in crate::kv) fn remembered(&self) -> impl Iterator<Item = (&RequestKey, &StoredOutcomes)> {
        self.dedup.iter()
    }

    /// Returns the number of operations applied so far, which is also the number of the latest
    /// operation. Each key stores the sequence number of the operation that last changed it as its
    /// revision.
    pub fn revision(&self) -> u64 {
        self.keyspace.revision()
    }

    /// Returns the reading of the replicated clock, by which keys expire, in milliseconds since
    /// 1970.
    pub fn clock(&self) -> Millis {
        self.keyspace.clock()
    }

    /// Returns the number of times that the replicated clock has been set back.
    pub fn clock_resets(&self) -> u64 {
        self.keyspace.replicated_clock().resets
    }

    /// Returns the earliest expiration time of all keys, in milliseconds since 1970; `None` if no
    /// key expires. The leader has to advance the replicated clock to this time, which may already
    /// have passed.
    pub fn next_expiry(&self) -> Option<u64> {
        self.keyspace.next_expiry()
    }

    /// Returns the number of keys that have an expiration time.
    #[cfg(test)]
    pub(in crate::kv) fn expires_count(&self) -> usize {
        self.keyspace.sizes().iter().map(|size| size.expires_count).sum()
    }

    /// Returns the state of the replicated clock as three values: the reading of the replicated
    /// clock, in milliseconds since 1970; the number of times that the clock has been set back; and
    /// the earliest expiration time of all keys, in milliseconds since 1970, `None` if no key
    /// expires.
    pub fn shown(&self) -> (u64, u64, Option<u64>) {
        (self.clock(), self.clock_resets(), self.next_expiry())
    }

    /// Returns the number of open client sessions.
    pub fn session_count(&self) -> usize {
        self.client_sessions.len()
    }

    /// Returns the extent of the history of changes.
    pub fn history(&self) -> HistoryStatus {
        self.keyspace.history()
    }
}

#[cfg(test)]
impl StateMachine {
    /// Asserts that the sums of the keyspace equal those of its entries.
    pub(in crate::kv) fn check_sums(&self) {
        self.keyspace.check_sums();
    }
}

impl fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMachine")
            .field("applied_index", &self.applied_index())
            .field("keys", &self.key_count())
            .field("clock", &self.clock())
            .field("remembered", &self.dedup.len())
            .finish_non_exhaustive()
    }
}
