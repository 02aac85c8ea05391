//! The state machine: applies committed batches of operations to the keyspace, each batch once. On
//! every replica, the applier or the simulator calls it with the same payloads in the same order.

mod operations;
mod status;
#[cfg(test)]
pub(super) mod tests;

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::batch::{Batch, Group, Piece};
use crate::kv::client_sessions::ClientSessions;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::dedup::{DEDUP_ENTRIES_MAX, DedupTable, StoredOutcomes};
use crate::kv::digest_check::{DigestCheck, DigestComparison};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::clock::ReplicatedClock;
use crate::kv::keyspace::events::{Event, RecordedEvents};
use crate::kv::keyspace::expiration::{REMOVED_BY_CLOCK_MAX, REMOVED_MAX};
use crate::kv::keyspace::history::ChangedKeys;
use crate::kv::keyspace::statistics::KeyspaceStatistics;
use crate::kv::keyspace::unlinked::Unlinked;
use crate::kv::operation::Operation;
use crate::kv::partial_batch::PartialBatch;
use crate::kv::users::table::Users;
use crate::kv::values::digest::{Digest, mix};
use crate::kv::work;
use crate::membership::Configuration;
use crate::record::{Entry, EntryKind};
use crate::types::{Index, RequestKey};

pub use status::KeptScripts;

/// The result of applying a log entry: the outcomes (results) of the operations in the entry's
/// batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Key that identifies the batch of the log entry; all zeros if the entry neither was nor
    /// completed a valid batch.
    pub key: RequestKey,
    /// The outcomes of the batch's operations, in order. If the batch was already applied by an
    /// earlier log entry, these are the stored outcomes. Empty if the log entry neither was nor
    /// completed a valid batch.
    pub outcomes: Vec<Outcome>,
    /// Whether an earlier log entry had already applied the same batch. If so, `outcomes` are the
    /// stored outcomes, and this log entry changed nothing.
    pub repeated: bool,
}

/// The state machine: applies log entries to the replicated state (keys, client sessions and the
/// stored results of requests). Replicas that have applied the same log entries have equal states.
pub struct StateMachine {
    pub(super) keyspace: Keyspace,
    dedup: DedupTable,
    pub(super) client_sessions: ClientSessions,
    pub(super) partial: PartialBatch,
    /// The users of the cluster. They are kept here to be the same on all replicas; nothing here
    /// depends on what they may do.
    pub(super) users: Users,
    /// The members of the cluster as of the last applied entry; `None` if they have not changed
    /// since the cluster was created. They are kept here only to be part of snapshots.
    pub(super) configuration: Option<Configuration>,
    /// The cluster's feature level. It decides nothing here: what needs a level is refused before
    /// it becomes an entry. It is part of snapshots, whose format depends on it.
    feature_level: FeatureLevel,
    /// Whether this is the state of a witness, which applies only configurations of the members.
    pub(super) is_witness: bool,
    applied_index: Index,
    /// The comparison of this replica's state with the others, which is not part of the state.
    digest_check: DigestCheck,
}

/// Returns a hash of a configuration of the members; 0 if there is none.
pub(super) fn hash_of_members(configuration: Option<&Configuration>) -> u64 {
    let hash = |members: &Configuration| u64::from(crc32c::crc32c(&members.encode())) | 1 << 32;
    configuration.map_or(0, hash)
}

/// Returns a digest (hash) for comparing the states of replicas. `content` is the digest of the
/// state's keys, client sessions and pieces of a batch, `index` the last applied log index, `clock`
/// the state's replicated clock, `level` the feature level, and `others` the hashes of the
/// configuration of the members, the users, the scripts and the functions. The lowest level, and a
/// hash of 0, do not change the digest, which is then that of version 0.1.
pub(super) fn digest_of(
    content: Digest,
    index: Index,
    clock: ReplicatedClock,
    level: FeatureLevel,
    others: [u64; 4],
) -> u64 {
    let level = if level == FeatureLevel::V0_1 { 0 } else { u64::from(level.number()) };
    let [members, users, scripts, functions] = others;
    [clock.millis, clock.resets, members, level, users, scripts, functions]
        .into_iter()
        .filter(|number| *number != 0)
        .fold(content.salted(index.0), mix)
}

/// Returns random seeds for the operations of the batch with this key, one for each operation,
/// starting with that at index `position`. The seeds of different operations differ, and all
/// replicas compute the same seeds.
fn seeds_from(key: &RequestKey, position: usize) -> impl Iterator<Item = u64> {
    let (halves, _) = key.request.0.as_chunks::<8>();
    let batch =
        halves.iter().fold(key.client.0.into(), |seed, half| mix(seed, u64::from_le_bytes(*half)));
    (position as u64..).map(move |position| mix(batch, position))
}

impl Default for StateMachine {
    fn default() -> StateMachine {
        StateMachine::with_dedup_capacity(DEDUP_ENTRIES_MAX)
    }
}

impl StateMachine {
    /// Returns an empty state whose deduplication table stores the outcomes of up to `capacity`
    /// batches.
    fn with_dedup_capacity(capacity: usize) -> StateMachine {
        StateMachine {
            keyspace: Keyspace::default(),
            dedup: DedupTable::new(capacity),
            client_sessions: ClientSessions::default(),
            partial: PartialBatch::default(),
            users: Users::default(),
            configuration: None,
            feature_level: FeatureLevel::OLDEST,
            is_witness: false,
            applied_index: Index::ZERO,
            digest_check: DigestCheck::default(),
        }
    }

    /// Returns the state of a witness as of the log entry at `index`: it has no data, only the
    /// members and the feature level, and stays without data whatever is applied.
    pub fn of_witness(
        index: Index,
        configuration: Option<Configuration>,
        level: FeatureLevel,
    ) -> StateMachine {
        StateMachine {
            configuration,
            feature_level: level,
            is_witness: true,
            applied_index: index,
            ..StateMachine::default()
        }
    }

    /// Deliberate bug for mutation testing: returns an empty state without a deduplication table,
    /// so a batch that is in the log twice is applied twice.
    #[cfg(feature = "mutants")]
    pub fn forgetful() -> StateMachine {
        StateMachine::with_dedup_capacity(0)
    }

    /// Deliberate bug for mutation testing: drops all client sessions, as if a snapshot without
    /// them had been installed.
    #[cfg(feature = "mutants")]
    pub fn forget_sessions(&mut self) {
        self.client_sessions = ClientSessions::default();
    }

    /// Deliberate bug for mutation testing: drops the pieces of an incomplete batch, as if a
    /// snapshot without them had been installed.
    #[cfg(feature = "mutants")]
    pub fn forget_pieces(&mut self) {
        self.partial = PartialBatch::default();
    }

    /// Applies a log entry, which must follow the last applied entry, and frees what it removes.
    /// An entry without a batch, or with a piece that completes none, has no outcomes.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        let nothing = Applied { key: RequestKey::default(), outcomes: vec![], repeated: false };
        self.begin(entry).map_or(nothing, |payload| self.apply_batch(&payload))
    }

    /// Applies `payload` at the next index, and frees what it removes. A payload that is not a
    /// valid batch changes nothing except the applied index.
    pub fn apply_batch(&mut self, payload: &[u8]) -> Applied {
        let index = self.applied_index.next();
        let Ok(batch) = Batch::decode(payload) else {
            self.skip(index);
            let key = RequestKey::default();
            return Applied { key, outcomes: vec![], repeated: false };
        };
        if let Some(outcomes) = self.outcomes_of(&batch) {
            self.skip(index);
            return Applied { key: batch.key, outcomes, repeated: true };
        }
        let mut outcomes = Vec::with_capacity(batch.len());
        for group in batch.groups_after(0) {
            self.apply_group(&batch, &group, &mut outcomes);
        }
        self.finish(index, &batch, &outcomes);
        drop(self.take_unlinked());
        Applied { key: batch.key, outcomes, repeated: false }
    }

    /// Begins to apply a log entry, which must follow the last applied entry. Returns the payload
    /// that the caller must apply as a batch, or skip, before it begins the next entry: that of the
    /// entry, or the whole batch whose last piece it is. Returns `None`, and advances the applied
    /// index, if there is none: the entry is a no-op, a configuration of the members or a feature
    /// level, which become part of later snapshots, or a piece of an incomplete batch, which is
    /// kept. A witness applies nothing but configurations and levels.
    pub fn begin(&mut self, entry: &Entry) -> Option<Bytes> {
        let next = self.applied_index.next();
        assert_eq!(entry.index(), next, "entries are applied in order");
        match entry.kind() {
            EntryKind::NoOp => {
                // An earlier leader has not completed the batch, and this one will not.
                self.partial = PartialBatch::default();
                self.advance(next);
                return None;
            }
            EntryKind::Configuration => {
                self.configuration = entry.configuration();
                self.advance(next);
                return None;
            }
            EntryKind::FeatureLevel => {
                let level = entry.feature_level().expect("an entry of this kind");
                self.raise_feature_level(level);
                self.advance(next);
                return None;
            }
            EntryKind::Command if self.is_witness => {
                self.advance(next);
                return None;
            }
            EntryKind::Command => {}
        }
        let Some(piece) = Piece::decode(entry.payload()) else {
            return Some(entry.shared_payload());
        };
        let whole = self.partial.complete(entry.term(), &piece);
        if whole.is_none() {
            let bytes = entry.shared_payload().slice(..piece.bytes.len());
            debug_assert_eq!(*piece.bytes, bytes, "a piece begins with its part of the batch");
            self.partial.add(entry.term(), &piece, bytes);
            self.advance(next);
        }
        whole
    }

    /// Applies the next group of operations of `batch`, a batch that has not been applied before.
    /// Appends the operations' outcomes (results) to `outcomes`, which must contain the outcomes of
    /// all earlier groups of the batch. After the last group, the caller must call
    /// [`StateMachine::finish`], and from time to time [`StateMachine::take_unlinked`].
    pub fn apply_group(
        &mut self,
        batch: &Batch<'_>,
        group: &Group<'_>,
        outcomes: &mut Vec<Outcome>,
    ) {
        let seeds = seeds_from(&batch.key, outcomes.len());
        for (operation, seed) in group.operations().iter().zip(seeds) {
            let operation = operation.as_ref();
            // Only the number is compared, so the outcome is the same on all replicas.
            let is_current = match batch.users_revision {
                Some(revision) => revision == self.users.revision(),
                // Of version 0.1, which has no users, or of a replica that did not know yet that
                // the feature level was raised.
                None => self.users.revision() == 0 || operation.is_some_and(Operation::is_internal),
            };
            outcomes.push(if is_current {
                self.apply_operation(operation, seed)
            } else {
                Outcome::Refused(Refusal::UsersChanged)
            });
        }
    }

    fn apply_operation(&mut self, operation: Option<&Operation<'_>>, seed: u64) -> Outcome {
        self.keyspace.begin_command();
        let Some(operation) = operation else { return Outcome::Malformed };
        let mut removed_max = REMOVED_MAX;
        let clock_before = self.clock();
        if let &Operation::Clock { millis, resets } = operation
            && resets == self.clock_resets()
        {
            self.keyspace.advance_clock(millis);
            removed_max = REMOVED_BY_CLOCK_MAX;
        }
        self.keyspace.remove_expired(removed_max);
        self.keyspace.report_expired(clock_before);
        self.answer(operation, seed).unwrap_or_else(|| self.perform(operation, seed))
    }

    /// Completes the log entry at `index` after all operations of its batch have been applied with
    /// the given outcomes: advances the applied index, and stores the outcomes in the deduplication
    /// table if the batch may be in the log more than once.
    pub fn finish(&mut self, index: Index, batch: &Batch<'_>, outcomes: &[Outcome]) {
        assert!(
            outcomes.len() == batch.len(),
            "{} outcomes of {} operations",
            outcomes.len(),
            batch.len()
        );
        self.advance(index);
        if batch.may_repeat {
            self.dedup.insert(batch.key, outcomes);
        }
        if self.digest_check.take_new_mark() {
            self.digest_check.begin(index, self.digest());
        }
    }

    /// Returns the latest mark in the log that this replica has to report on: its index, and the
    /// digest of the state there. Returns it only once; `None` if there is none.
    pub fn take_digest_report(&mut self) -> Option<(Index, u64)> {
        self.digest_check.take_report()
    }

    /// Compares the state with those of the other replicas, as far as they have reported them. Must
    /// be called after each entry. `first_members` are the members with which the cluster was
    /// created. Returns a new result; `None` if there is none.
    pub fn compare_digests(&mut self, first_members: &Configuration) -> Option<DigestComparison> {
        let members = self.configuration.as_ref().unwrap_or(first_members);
        self.digest_check.compare(members)
    }

    /// Makes this replica report digests that no other replica has, because the state is known to
    /// contradict its digest: the memory of a value has changed. `salt`, which must not be 0, must
    /// differ from those of other replicas, so that replicas with such states never agree.
    pub fn distrust(&mut self, salt: u64) {
        self.digest_check.distrust(salt);
    }

    /// Returns the stored outcomes of a batch that has been applied before. `None` if the batch has
    /// not been applied, or if its outcomes are not stored: because it cannot be in the log more
    /// than once, or because it is no longer in the deduplication table.
    pub fn outcomes_of(&self, batch: &Batch<'_>) -> Option<Vec<Outcome>> {
        batch.may_repeat.then(|| self.stored_outcomes(batch.key))?
    }

    /// Returns the outcomes in the deduplication table of the batch with this key; `None` if the
    /// table does not contain the batch.
    pub fn stored_outcomes(&self, key: RequestKey) -> Option<Vec<Outcome>> {
        Some(self.dedup.outcomes(&key)?.to_vec())
    }

    /// Loads the keyspace entries that the operations of `group` will access into the processor's
    /// cache, so that their cache misses overlap. Does not change the state.
    pub fn prefetch(&self, group: &Group<'_>) {
        work::prefetch(&self.keyspace, group);
    }

    /// Prefetches like [`StateMachine::prefetch`], and returns an estimate of the time that the
    /// operations of `group` will take, in steps of about 50 ns. Does not change the state.
    pub fn estimate(&self, group: &Group<'_>) -> u64 {
        work::estimate(&self.keyspace, group)
    }

    /// Advances the applied index to `index` for a log entry that has no effect: an invalid batch,
    /// or a batch that an earlier log entry has applied.
    pub fn skip(&mut self, index: Index) {
        self.advance(index);
    }

    /// Raises the feature level to `level`, unless it is as high already.
    pub(super) fn raise_feature_level(&mut self, level: FeatureLevel) {
        self.feature_level = self.feature_level.max(level);
    }

    /// Builds the next piece of the indexes of keys, which reads of key ranges have needed, and
    /// returns whether they are complete. A piece takes one or two milliseconds. The indexes are
    /// not part of the state, but of its memory usage.
    pub fn build_key_index(&mut self) -> bool {
        self.keyspace.build_key_index()
    }

    /// Returns whether a read has used the index of keys since the last call.
    pub fn take_key_index_used(&mut self) -> bool {
        self.keyspace.take_key_index_used()
    }

    /// Drops the indexes of keys, if there are any. [`StateMachine::take_unlinked`] returns them.
    pub fn drop_key_indexes(&mut self) {
        self.keyspace.drop_key_indexes();
    }

    /// Adds a batch and its stored outcomes, read from a snapshot, to the deduplication table.
    /// Returns false, without adding them, if the table already contains the batch.
    pub(super) fn restore_batch(&mut self, key: RequestKey, outcomes: StoredOutcomes) -> bool {
        let fresh = self.dedup.outcomes(&key).is_none();
        if fresh {
            self.dedup.insert_stored(key, outcomes);
        }
        fresh
    }

    /// Sets the applied index, the number of applied operations (`revision`) and the replicated
    /// clock of a state that is being restored from a snapshot.
    pub(super) fn move_to(&mut self, index: Index, revision: u64, clock: ReplicatedClock) {
        self.applied_index = index;
        self.keyspace.restore_revision(revision);
        self.keyspace.restore_clock(clock);
    }

    /// Drops what belongs to the cluster that the state comes from, and has no meaning in another
    /// one: the deduplication table, the client sessions, the pieces of an incomplete batch and the
    /// members.
    pub(super) fn leave_cluster(&mut self) {
        self.dedup = DedupTable::new(DEDUP_ENTRIES_MAX);
        self.client_sessions = ClientSessions::default();
        self.partial = PartialBatch::default();
        self.configuration = None;
    }

    fn advance(&mut self, index: Index) {
        let next = self.applied_index.next();
        assert_eq!(index, next, "entries are applied in order");
        self.applied_index = next;
    }

    /// Sets which events are recorded for the Pub/Sub subscribers connected to this replica.
    pub fn listen(&mut self, recorded: RecordedEvents) {
        self.keyspace.record_events(recorded);
    }

    /// Begins a new history of the changes of keys, of at most `bytes_max` bytes of memory; 0 to
    /// record no changes. The history is not part of the state, but of its memory usage.
    pub fn keep_history(&mut self, bytes_max: usize) {
        self.keyspace.keep_history(bytes_max);
    }

    /// Sets whether changed keys are collected, because clients wait for changes or cache values.
    pub fn report_changes(&mut self, reports: bool) {
        self.keyspace.report_changes(reports);
    }

    /// Returns the keys that were changed since the last call, as far as they are collected.
    pub fn take_changed(&mut self) -> ChangedKeys {
        self.keyspace.take_changed()
    }

    /// Returns the numbers of lookups and of expired keys since the last call. These numbers are
    /// not part of the state.
    pub fn take_statistics(&mut self) -> KeyspaceStatistics {
        self.keyspace.take_statistics()
    }

    /// Returns the large values that were removed since the last call, which the caller must free.
    /// They are not part of the state, nor of its memory usage.
    pub fn take_unlinked(&mut self) -> Unlinked {
        self.keyspace.take_unlinked()
    }

    /// Removes and returns all recorded events for Pub/Sub subscribers, oldest first.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.keyspace.take_events()
    }
}
