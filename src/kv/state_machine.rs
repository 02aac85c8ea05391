//! The state machine: applies committed batches of operations to the keyspace, each batch once. On
//! every replica, the applier or the simulator calls it with the same payloads in the same order.

use std::fmt;

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::batch::{Batch, BatchError, Group, Piece};
use crate::kv::client_sessions::{ClientSessions, Decision};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::registry::NoKeyIndex;
use crate::kv::dedup::{DEDUP_ENTRIES_MAX, DedupTable, StoredOutcomes};
use crate::kv::digest_check::{DigestCheck, DigestComparison};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::clock::{Millis, ReplicatedClock};
use crate::kv::keyspace::events::{Event, RecordedEvents};
use crate::kv::keyspace::expiration::{REMOVED_BY_CLOCK_MAX, REMOVED_MAX};
use crate::kv::keyspace::history::{ChangedKeys, HistoryStatus};
use crate::kv::keyspace::statistics::KeyspaceStatistics;
use crate::kv::keyspace::unlinked::Unlinked;
use crate::kv::operation::Operation;
use crate::kv::partial_batch::PartialBatch;
use crate::kv::transactions;
use crate::kv::users::table::Users;
use crate::kv::values::digest::{Digest, fingerprint, key_hash, mix};
use crate::kv::view::View;
use crate::kv::work;
use crate::membership::Configuration;
use crate::record::{Entry, EntryKind};
use crate::types::{EntryId, Index, RequestKey};

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
/// the state's replicated clock, `members` the hash of the configuration, `level` the feature
/// level, and `users` the hash of the users. The lowest level does not change the digest, which is
/// then that of version 0.1.
pub(super) fn digest_of(
    content: Digest,
    index: Index,
    clock: ReplicatedClock,
    members: u64,
    level: FeatureLevel,
    users: u64,
) -> u64 {
    let level = if level == FeatureLevel::V0_1 { 0 } else { u64::from(level.number()) };
    [clock.millis, clock.resets, members, level, users]
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

    /// Returns whether this is the state of a witness, which has no data.
    pub fn is_witness(&self) -> bool {
        self.is_witness
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
            // Only the number is compared, so the outcome is the same on all replicas.
            let is_current = |revision| revision == self.users.revision();
            outcomes.push(if batch.users_revision.is_none_or(is_current) {
                self.apply_operation(operation.as_ref(), seed)
            } else {
                Outcome::Refused(Refusal::UsersChanged)
            });
        }
    }

    fn apply_operation(&mut self, operation: Option<&Operation<'_>>, seed: u64) -> Outcome {
        self.keyspace.begin_command();
        let Some(operation) = operation else { return Outcome::Malformed };
        let mut removed_max = REMOVED_MAX;
        if let &Operation::Clock { millis, resets } = operation
            && resets == self.clock_resets()
        {
            self.keyspace.advance_clock(millis);
            removed_max = REMOVED_BY_CLOCK_MAX;
        }
        self.keyspace.remove_expired(removed_max);
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

    /// Sets a key to a string in this state only, so that it differs from those of the other
    /// replicas. If `silently`, without a change of the digest, as if memory had changed. For tests
    /// of how a wrong state is found and replaced.
    pub fn set_only_here(&mut self, key: &[u8], value: &[u8], silently: bool) {
        let digest = self.keyspace.digest();
        self.perform(&Operation::set(key, value), 0);
        if silently {
            self.keyspace.falsify_digest(digest);
        }
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

    /// Raises the feature level to `level`, unless it is as high already.
    pub(super) fn raise_feature_level(&mut self, level: FeatureLevel) {
        self.feature_level = self.feature_level.max(level);
    }

    /// Answers a batch of reads from the current state. Returns the batch's key and the outcomes of
    /// the reads, in order.
    ///
    /// # Errors
    /// If the payload is not a valid batch, or an operation in it is invalid or may change the
    /// state.
    pub fn read(&self, payload: &[u8]) -> Result<(RequestKey, Vec<Outcome>), BatchError> {
        let batch = Batch::decode(payload)?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for group in batch.groups_after(0) {
            self.read_group(&batch, &group, &mut outcomes)?;
        }
        Ok((batch.key, outcomes))
    }

    /// Answers the next group of reads of `batch` from the current state. Appends their outcomes to
    /// `outcomes`, which must contain the outcomes of all earlier groups of the batch.
    ///
    /// # Errors
    /// If an operation is invalid or may change the state, or needs an index of keys that
    /// [`StateMachine::build_key_index`] must build first.
    pub fn read_group(
        &self,
        batch: &Batch<'_>,
        group: &Group<'_>,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), BatchError> {
        let seeds = seeds_from(&batch.key, outcomes.len());
        for (operation, seed) in group.operations().iter().zip(seeds) {
            let outcome = match operation {
                // A `Clock` operation does not change keys, but it is not a read.
                None | Some(Operation::Clock { .. }) => None,
                Some(Operation::Transaction { watched, operations }) => {
                    transactions::read(&self.keyspace, *watched, *operations, seed)
                }
                Some(operation) => match self.read_own(operation)? {
                    None => self.answer(operation, seed),
                    outcome => outcome,
                },
            };
            outcomes.push(outcome.ok_or(BatchError::NotARead)?);
        }
        Ok(())
    }

    /// Returns the outcome of an operation that reads a range of keys, or what only this replica
    /// has; `None` for any other.
    fn read_own(&self, operation: &Operation<'_>) -> Result<Option<Outcome>, BatchError> {
        let Operation::Call { command, args } = operation else { return Ok(None) };
        command.read_own(&self.keyspace, *args).map_err(|NoKeyIndex| BatchError::NoKeyIndex)
    }

    /// Builds the next piece of the index of keys, which reads of key ranges need, and returns
    /// whether the index is complete. A piece takes one or two milliseconds. The index is not part
    /// of the state, but of its memory usage.
    pub fn build_key_index(&mut self) -> bool {
        self.keyspace.build_key_index()
    }

    /// Returns whether there is a complete index of keys.
    pub fn has_key_index(&self) -> bool {
        self.keyspace.has_key_index()
    }

    /// Returns whether a read has used the index of keys since the last call.
    pub fn take_key_index_used(&mut self) -> bool {
        self.keyspace.take_key_index_used()
    }

    /// Drops the index of keys, if there is one. [`StateMachine::take_unlinked`] returns it.
    pub fn drop_key_index(&mut self) {
        self.keyspace.drop_key_index();
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
        digest_of(self.content_digest(), self.applied_index, clock, members, level, users)
    }

    /// Returns the digest of the keys, the client sessions and the pieces of an incomplete batch.
    pub(super) fn content_digest(&self) -> Digest {
        self.keyspace.digest().union(self.client_sessions.digest()).union(self.partial.digest())
    }

    /// Returns the number of keys, including keys that have expired but have not been removed yet.
    pub fn key_count(&self) -> usize {
        self.keyspace.len()
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
        let (tables, partial) = (self.keyspace.share(), self.partial.clone());
        let (configuration, users) = (self.configuration.clone(), self.users.clone());
        View {
            last,
            revision,
            digest,
            clock,
            key_count,
            tables,
            dedup,
            client_sessions,
            partial,
            users,
            configuration,
            feature_level: self.feature_level,
        }
    }

    /// Iterates over the keys and stored outcomes of the batches in the deduplication table, oldest
    /// first.
    pub(super) fn remembered(&self) -> impl Iterator<Item = (&RequestKey, &StoredOutcomes)> {
        self.dedup.iter()
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

    /// Returns the number of operations applied so far, which is also the number of the latest
    /// operation. Each key stores the sequence number of the operation that last changed it as its
    /// revision.
    pub(super) fn revision(&self) -> u64 {
        self.keyspace.revision()
    }

    fn advance(&mut self, index: Index) {
        let next = self.applied_index.next();
        assert_eq!(index, next, "entries are applied in order");
        self.applied_index = next;
    }

    /// Returns the outcome of an operation that needs no change of the state: a read-only command,
    /// or a `Clock` operation, whose effect the caller has already applied. Returns `None` for any
    /// other operation.
    pub(super) fn answer(&self, operation: &Operation<'_>, seed: u64) -> Option<Outcome> {
        match operation {
            Operation::Call { command, args } if command.is_read() => {
                command.read(&self.keyspace, &Args::new(*args, seed))
            }
            Operation::Clock { .. } => Some(Outcome::Done),
            _ => None,
        }
    }

    /// Runs an operation that may change the state, and returns its outcome.
    pub(super) fn perform(&mut self, operation: &Operation<'_>, seed: u64) -> Outcome {
        match *operation {
            Operation::Call { command, args } => {
                let on_users = command.run_on_users(&mut self.users, args);
                on_users.unwrap_or_else(|| command.run(&mut self.keyspace, &Args::new(args, seed)))
            }
            Operation::Transaction { watched, operations } => {
                transactions::run(&mut self.keyspace, watched, operations, seed)
            }
            Operation::OpenSession => self.open_session(),
            Operation::ResetClock { millis } => self.reset_clock(millis),
            Operation::Once { session, sequence, operation } => {
                self.execute_once(session, sequence, operation, seed)
            }
            Operation::Clock { .. } => Outcome::Done,
            Operation::DigestMark => {
                self.digest_check.mark();
                Outcome::Done
            }
            Operation::DigestReport { replica, mark, digest } => {
                self.digest_check.report(replica, mark, digest);
                Outcome::Done
            }
        }
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
    pub fn expires_count(&self) -> usize {
        self.keyspace.expires_count()
    }

    /// Returns the state of the replicated clock as three values: the reading of the replicated
    /// clock, in milliseconds since 1970; the number of times that the clock has been set back; and
    /// the earliest expiration time of all keys, in milliseconds since 1970, `None` if no key
    /// expires.
    pub fn shown(&self) -> (u64, u64, Option<u64>) {
        (self.clock(), self.clock_resets(), self.next_expiry())
    }

    /// Returns whether the state's clock is too far behind to answer the reads in `batch`, because
    /// one of them may access a key that has expired at the time `millis`, but not yet by the clock
    /// of this state. The reads were confirmed when the replicated clock showed `millis` and had
    /// been reset `resets` times. `None` for `batch` means that any key may be read.
    pub fn is_behind(&self, batch: Option<&Batch<'_>>, millis: u64, resets: u64) -> bool {
        if self.clock() >= millis
            || self.clock_resets() != resets
            || !self.keyspace.expires_until(millis)
        {
            return false;
        }
        let is_expired = |key: &[u8]| {
            self.keyspace.expires_at(key).is_some_and(|expires_at| expires_at <= millis)
        };
        let may_see_expired = |operation: Option<Operation<'_>>| match operation {
            Some(Operation::Call { command, args }) => {
                command.keys_in(args).is_none_or(|keys| keys.into_iter().any(is_expired))
            }
            _ => true,
        };
        batch.is_none_or(|batch| batch.operations().any(may_see_expired))
    }

    /// Sets the replicated clock back to `millis`, the time in milliseconds since 1970 that the
    /// wall clocks of a quorum have reached. The outcome is the number of milliseconds by which the
    /// clock was set back, which is 0 if the clock was not ahead. The outcome is an error if
    /// `millis` is 0, which means that too few wall clocks are known.
    fn reset_clock(&mut self, millis: Millis) -> Outcome {
        if millis == 0 {
            return Outcome::error(
                "ERR cannot reset the clock: too few wall clocks of voters are known; try again",
            );
        }
        let back = self.keyspace.set_back_clock(millis);
        Outcome::Integer(i64::try_from(back).unwrap_or(i64::MAX))
    }

    /// Opens a client session. The outcome is the id of the session.
    fn open_session(&mut self) -> Outcome {
        let id = self.revision();
        self.client_sessions.open(id, self.keyspace.clock());
        Outcome::Integer(i64::try_from(id).expect("revisions are far below 2^63"))
    }

    /// Runs the encoded operation `bytes`, which is the request with sequence number `sequence` of
    /// the client session `session`, if this is the sequence number of the session's next request.
    /// Otherwise changes nothing and returns the stored outcome of the request with this number, or
    /// an error if none is stored.
    fn execute_once(&mut self, session: u64, sequence: u64, bytes: &[u8], seed: u64) -> Outcome {
        let (revision, clock) = (self.revision(), self.clock());
        self.client_sessions.evict(clock);
        let request_hash = fingerprint(key_hash(&[]), bytes);
        match self.client_sessions.decide(session, sequence, request_hash) {
            None => Outcome::error(
                "NOSESSION the session does not exist or has expired; nothing was applied now",
            ),
            Some(Decision::Reply(outcome)) => {
                self.client_sessions.touch(session, revision, clock);
                outcome
            }
            Some(Decision::Execute) => {
                let operation =
                    Operation::decode_nested(bytes).expect("decoding the command checked it");
                let outcome = self.answer(&operation, seed);
                let outcome = outcome.unwrap_or_else(|| self.perform(&operation, seed));
                self.client_sessions.store(session, revision, clock, request_hash, &outcome);
                outcome
            }
        }
    }

    /// Returns the number of open client sessions.
    pub fn session_count(&self) -> usize {
        self.client_sessions.len()
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

    /// Returns the extent of the history of changes.
    pub fn history(&self) -> HistoryStatus {
        self.keyspace.history()
    }

    /// Sets whether changed keys are collected, because clients wait for changes.
    pub fn report_changes(&mut self, reports: bool) {
        self.keyspace.report_changes(reports);
    }

    /// Returns the keys that were changed since the last call. Always empty without a history.
    pub fn take_changed(&mut self) -> ChangedKeys {
        self.keyspace.take_changed()
    }

    /// Returns the numbers of lookups and of expired keys since the last call. These numbers are
    /// not part of the state.
    pub fn take_statistics(&mut self) -> KeyspaceStatistics {
        self.keyspace.take_statistics()
    }

    /// Returns the average expiration time of the keys that have one, in milliseconds since 1970;
    /// `None` if no key expires. O(1).
    pub fn average_expiry(&self) -> Option<u64> {
        self.keyspace.average_expiry()
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

#[cfg(test)]
impl StateMachine {
    /// Asserts that the sums of the keyspace equal those of its entries.
    pub(super) fn check_sums(&self) {
        self.keyspace.check_sums();
    }
}

impl fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMachine")
            .field("applied_index", &self.applied_index())
            .field("keys", &self.keyspace.len())
            .field("clock", &self.clock())
            .field("remembered", &self.dedup.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::kv::batch::BatchBuffer;
    use crate::kv::commands::registry::CommandId;
    use crate::kv::digest_check::DigestResult;
    use crate::kv::snapshot::SnapshotReader;
    use crate::types::{ClientId, NodeId, RequestId, Term};

    /// Applies operations to a state machine, each as a new batch.
    #[derive(Default)]
    pub(in crate::kv) struct Feeder {
        pub(in crate::kv) store: StateMachine,
        requests: u32,
    }

    impl Feeder {
        pub(in crate::kv) fn new() -> Feeder {
            Feeder::default()
        }

        pub(in crate::kv) fn apply(&mut self, operation: Operation<'_>) -> Outcome {
            self.requests += 1;
            let applied = self.apply_as(self.requests, operation);
            assert!(!applied.repeated);
            let [outcome] = applied.outcomes.try_into().expect("one operation");
            outcome
        }

        /// Returns a copy whose state was written to a snapshot and restored from it.
        pub(in crate::kv) fn restored(&self) -> Feeder {
            let last = EntryId { term: Term(1), index: self.store.applied_index() };
            let mut reader = SnapshotReader::default();
            self.store.write_snapshot(last, &mut |piece| reader.feed(piece).unwrap());
            Feeder { store: reader.finish().unwrap().0, requests: self.requests }
        }

        /// Applies an operation, and checks that the history of changes has an event of each key
        /// that it changes or removes, as far as there are few keys.
        fn apply_as(&mut self, request: u32, operation: Operation<'_>) -> Applied {
            let batch = Batch::one(name(request), &operation);
            if self.store.key_count() > 100 || self.store.keyspace.has_history() {
                return self.store.apply_batch(&batch);
            }
            let revisions = |store: &StateMachine| -> BTreeMap<Bytes, u64> {
                let entries = store.keyspace.entries();
                entries.map(|entry| (entry.shared_key(), entry.revision())).collect()
            };
            let before = revisions(&self.store);
            self.store.keep_history(1 << 20);
            let applied = self.store.apply_batch(&batch);
            let after = revisions(&self.store);
            let changes: Vec<_> = self.store.keyspace.changes_after(0).collect();
            let is_recorded = |key: &Bytes| {
                changes.iter().any(|change| change.key.is_none_or(|changed| changed == *key))
            };
            let differs = |key: &&Bytes| before.get(*key) != after.get(*key);
            for key in before.keys().chain(after.keys()).filter(differs) {
                assert!(is_recorded(key), "{operation:?} changed {key:?} without an event");
            }
            self.store.keep_history(0);
            applied
        }

        /// Applies a call of `command` with these arguments, and returns its outcome.
        pub(in crate::kv) fn call(&mut self, command: &str, args: &[&str]) -> Outcome {
            let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
            self.call_bytes(command, &args)
        }

        pub(in crate::kv) fn call_bytes(&mut self, command: &str, args: &[&[u8]]) -> Outcome {
            self.apply(Operation::call(CommandId::of(command), args))
        }

        /// Reads with a call of `command` that has these arguments, and returns its outcome. Builds
        /// the index of keys if the command needs it.
        pub(in crate::kv) fn read(&mut self, command: &str, args: &[&[u8]]) -> Outcome {
            let batch = Batch::one(name(0), &Operation::call(CommandId::of(command), args));
            while self.store.read(&batch) == Err(BatchError::NoKeyIndex) {
                self.store.build_key_index();
            }
            let (_, outcomes) = self.store.read(&batch).expect("a read");
            let [outcome] = outcomes.try_into().expect("one operation");
            outcome
        }

        pub(in crate::kv) fn get(&self, key: &[u8]) -> Option<Bytes> {
            let (_, outcomes) =
                self.store.read(&Batch::one(name(0), &Operation::get(key))).expect("a read");
            match &outcomes[..] {
                [Outcome::Value(value)] => value.clone(),
                other => panic!("{other:?}"),
            }
        }
    }

    fn name(request: u32) -> RequestKey {
        let request = RequestId(u128::from(request).to_be_bytes());
        RequestKey { client: ClientId(1), request }
    }

    #[test]
    fn written_value_can_be_read_until_it_is_deleted() {
        let mut feeder = Feeder::new();
        assert_eq!(feeder.get(b"k"), None);
        assert_eq!(feeder.apply(Operation::set(b"k", b"1")), Outcome::Done);
        assert_eq!(feeder.apply(Operation::set(b"k", b"2")), Outcome::Done);
        assert_eq!(feeder.get(b"k").as_deref(), Some(&b"2"[..]));
        let through_the_log = feeder.apply(Operation::get(b"k"));
        assert_eq!(through_the_log, Outcome::Value(Some(Bytes::from_static(b"2"))));
        assert_eq!(feeder.apply(Operation::del(b"k")), Outcome::flag(true));
        assert_eq!(feeder.apply(Operation::del(b"k")), Outcome::flag(false));
        assert_eq!(feeder.get(b"k"), None);
        assert_eq!(feeder.store.applied_index(), Index(5));
    }

    #[test]
    fn retried_request_gets_its_reply_and_is_not_applied_again() {
        let mut feeder = Feeder::new();
        feeder.apply_as(1, Operation::set(b"k", b"1"));
        feeder.apply_as(2, Operation::del(b"k"));
        let retry = feeder.apply_as(1, Operation::set(b"k", b"1"));
        let outcomes = vec![Outcome::Done];
        assert_eq!(retry, Applied { key: name(1), outcomes, repeated: true });
        assert_eq!(feeder.get(b"k"), None);
        let retry = feeder.apply_as(2, Operation::del(b"k"));
        assert_eq!((retry.outcomes, retry.repeated), (vec![Outcome::flag(true)], true));
        assert_eq!(feeder.store.applied_index(), Index(4), "a retry has a log entry");
    }

    #[test]
    fn operations_of_a_batch_are_applied_in_order_and_once() {
        let mut feeder = Feeder::new();
        let incr = Operation::call(CommandId::of("incr"), [&b"n"[..]]);
        let operations = [incr, Operation::get(b"n"), incr, Operation::set(b"n", b"x"), incr];
        let outcomes = vec![
            Outcome::Integer(1),
            Outcome::Value(Some(Bytes::from_static(b"1"))),
            Outcome::Integer(2),
            Outcome::Done,
            Outcome::Refused(crate::kv::Refusal::NotAnInteger),
        ];
        let batch = Batch::encode(name(7), true, &operations);
        let applied = feeder.store.apply_batch(&batch);
        assert_eq!((applied.outcomes, applied.repeated), (outcomes.clone(), false));
        assert_eq!(feeder.store.keyspace.revision_of(b"n"), 4, "the fourth operation");
        let applied = feeder.store.apply_batch(&batch);
        assert_eq!((applied.outcomes, applied.repeated), (outcomes, true));
        assert_eq!((feeder.store.revision(), feeder.store.applied_index()), (5, Index(2)));
        // A batch that is in the log only once is not looked up in the deduplication table.
        let once = Batch::encode(name(7), false, &[Operation::set(b"n", b"1"), incr]);
        let applied = feeder.store.apply_batch(&once);
        assert_eq!(applied.outcomes, [Outcome::Done, Outcome::Integer(2)]);
        assert_eq!(feeder.store.dedup.len(), 1);
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn without_deduplication_retries_are_applied_again() {
        let mut feeder = Feeder { store: StateMachine::forgetful(), ..Feeder::default() };
        feeder.apply_as(1, Operation::set(b"k", b"1"));
        feeder.apply_as(2, Operation::del(b"k"));
        assert!(!feeder.apply_as(1, Operation::set(b"k", b"1")).repeated);
        assert!(feeder.get(b"k").is_some());
    }

    #[test]
    fn transfer_command_moves_the_full_amount_or_nothing() {
        let mut feeder = Feeder::new();
        feeder.call("mset", &["a", "10", "b", "5", "full", &u64::MAX.to_string(), "text", "much"]);
        for (from, to, amount, moved) in [
            ("a", "b", "7", true),
            ("a", "b", "4", false),
            ("a", "a", "3", true),
            ("a", "full", "1", false),
            ("a", "text", "1", false),
            ("nobody", "a", "0", false),
        ] {
            let outcome = feeder.call("transfer", &[from, to, amount]);
            assert_eq!(outcome, Outcome::flag(moved), "{amount} from {from} to {to}");
        }
        assert_eq!(feeder.get(b"a").as_deref(), Some(&b"3"[..]));
        assert_eq!(feeder.get(b"b").as_deref(), Some(&b"12"[..]));
    }

    #[test]
    fn memory_accounting_of_the_store_matches_a_full_recount() {
        let mut feeder = Feeder::new();
        let (empty, mut most) = (feeder.store.memory(), 0);
        for number in 0..2_000_u32 {
            let key = format!("key:{}", number * 7 % 300);
            let value = "x".repeat(number as usize * 13 % 500);
            match number % 9 {
                0 | 1 => feeder.call("hset", &["hash", &key, &value]),
                2 => feeder.call("hset", &[&key, "field", &value]),
                3 => feeder.call("hdel", &[&key, "field"]),
                4 => feeder.call("del", &[&key]),
                5 => feeder.call("pexpireat", &[&key, "1"]),
                6 if number == 1_005 => feeder.call("flushall", &[]),
                6 => feeder.call("mset", &[&key, &value, "other", "1"]),
                7 => feeder.call("append", &[&key, &value]),
                _ => feeder.call("set", &[&key, &value]),
            };
            let store = &feeder.store;
            store.keyspace.check_sums();
            assert_eq!(store.memory(), store.keyspace.memory() + store.dedup.memory());
            most = most.max(store.memory());
        }
        assert!(most > empty + 20_000);
    }

    #[test]
    fn log_entry_with_invalid_payload_advances_only_applied_index() {
        let mut feeder = Feeder::new();
        let applied = feeder.store.apply_batch(b"no batch");
        assert_eq!((applied.outcomes, applied.key), (vec![], RequestKey::default()));
        assert_eq!(feeder.store.applied_index(), Index(1));
        assert!(matches!(feeder.store.read(b"?"), Err(BatchError::Damaged { length: 1 })));
        let put = Batch::one(name(1), &Operation::set(b"k", b""));
        assert_eq!(feeder.store.read(&put), Err(BatchError::NotARead));
        let get = |key| Operation::get(key).encode();
        let mut buffer = BatchBuffer::default();
        for operation in [&get(b"a")[..], b"nonsense", &get(b"b")] {
            buffer.push(operation);
        }
        let applied = feeder.store.apply_batch(&buffer.finish(name(2), true));
        let none = Outcome::Value(None);
        assert_eq!(applied.outcomes, [none.clone(), Outcome::Malformed, none]);
    }

    #[test]
    fn states_are_compared_at_a_mark_without_changing_the_digest() {
        let voters = Configuration::of_voters([1, 2, 3].map(NodeId));
        let (mut one, mut two) = (Feeder::new(), Feeder::new());
        for feeder in [&mut one, &mut two] {
            feeder.apply(Operation::set(b"a", b"1"));
            assert_eq!(feeder.apply(Operation::DigestMark), Outcome::Done);
        }
        let (mark, digest) = one.store.take_digest_report().unwrap();
        assert_eq!((mark, digest), (Index(2), one.store.digest()));
        assert_eq!((one.store.take_digest_report(), two.store.digest()), (None, digest));
        for replica in [2, 3].map(NodeId) {
            one.apply(Operation::DigestReport { replica, mark, digest: digest ^ 1 });
            two.apply(Operation::set(b"a", b"1"));
        }
        assert_eq!(one.store.digest(), two.store.digest(), "reports are not part of the state");
        let comparison = one.store.compare_digests(&voters).unwrap();
        assert_eq!((comparison.index, comparison.result), (mark, DigestResult::Wrong));
        assert!(one.store.read(&Batch::one(name(9), &Operation::DigestMark)).is_err());
    }

    #[test]
    fn state_digest_depends_only_on_the_current_state() {
        let (mut one, mut two) = (Feeder::new(), Feeder::new());
        let empty = one.store.digest();
        one.apply(Operation::set(b"a", b"1"));
        one.apply(Operation::set(b"b", b"2"));
        one.apply(Operation::set(b"b", b"3"));
        assert_ne!(one.store.digest(), empty);
        two.apply(Operation::set(b"b", b"3"));
        two.apply(Operation::set(b"a", b"1"));
        assert_ne!(one.store.digest(), two.store.digest(), "another applied index");
        two.store.skip(Index(3));
        assert_eq!(one.store.digest(), two.store.digest());
        one.apply(Operation::del(b"a"));
        two.apply(Operation::del(b"b"));
        assert_ne!(one.store.digest(), two.store.digest());
    }

    #[test]
    #[should_panic(expected = "applied in order")]
    fn applying_a_log_entry_after_an_index_gap_panics() {
        StateMachine::default().skip(Index(2));
    }
}
