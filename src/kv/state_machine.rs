//! The store: keys and values, the place in the log up to which they have come, and the memory of
//! requests. Called by the apply stage and by the simulator, with the same bytes in the same order
//! on every replica.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::hash_table::Entry;

use crate::kv::client_sessions::ClientSessions;
use crate::kv::command::{Command, CommandError, Operation};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::Outcome;
use crate::kv::dedup::{DEDUP_ENTRIES_MAX, DedupTable};
use crate::kv::keyspace::entry::{Facts, Held, KeyEntry};
use crate::kv::keyspace::events::Events;
use crate::kv::keyspace::expiration::{ExpirationIndex, Millis};
use crate::kv::keyspace::shards::Shards;
use crate::kv::keyspace::slot::slot_of;
use crate::kv::values::digest::{Digest, key_hash, mix};
use crate::kv::values::object::{Content, Object};
use crate::kv::view::View;
use crate::types::{EntryId, Index, RequestKey};

/// Most commands per call of [`StateMachine::prefetch`]: about as many memory accesses as a
/// processor keeps in flight.
pub const PREFETCH_MAX: usize = 16;

/// What came of a log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Which request it was; all zero if the payload was no command.
    pub key: RequestKey,
    /// What came of it, now or when it was first applied.
    pub outcome: Outcome,
    /// The request had been applied before: it was answered from memory and nothing was changed.
    pub repeated: bool,
}

/// The state machine.
///
/// Invariant: `digest` is the sum of the fingerprints in `pairs`, and each of those belongs to its
/// pair; `pair_bytes` is the sum of what they point to. `expiry` has the keys that end, each once.
/// Nothing is decided by the order in which `pairs` has them.
pub struct StateMachine {
    pairs: Shards,
    digest: Digest,
    pair_bytes: usize,
    pub(super) expiry: ExpirationIndex,
    dedup: DedupTable,
    /// The sessions that clients opened.
    pub(super) client_sessions: ClientSessions,
    /// The replicated clock.
    pub(super) clock: Millis,
    /// How often it was reset.
    pub(super) clock_resets: u64,
    pub(super) events: Events,
    applied_index: Index,
}

/// A state's number by its pairs', its place in the log, the replicated clock and how often that
/// was reset.
pub(super) fn digest_of(pairs: Digest, index: Index, clock: Millis, resets: u64) -> u64 {
    let there = pairs.at(index.0);
    // As it always was where no clock has come by.
    let there = if clock == 0 { there } else { mix(there, clock) };
    if resets == 0 { there } else { mix(there, resets) }
}

/// The number by which a request's chances are decided: no other request has the same.
fn seed_of(key: &RequestKey) -> u64 {
    let (halves, _) = key.request.0.as_chunks::<8>();
    halves.iter().fold(key.client.0.into(), |state, half| mix(state, u64::from_le_bytes(*half)))
}

impl Default for StateMachine {
    fn default() -> StateMachine {
        StateMachine::remembering(DEDUP_ENTRIES_MAX)
    }
}

impl StateMachine {
    /// An empty store that remembers so many requests.
    fn remembering(requests: usize) -> StateMachine {
        StateMachine {
            pairs: Shards::default(),
            digest: Digest::default(),
            pair_bytes: 0,
            expiry: ExpirationIndex::default(),
            dedup: DedupTable::new(requests),
            client_sessions: ClientSessions::default(),
            clock: 0,
            clock_resets: 0,
            events: Events::default(),
            applied_index: Index::ZERO,
        }
    }

    /// An empty store that breaks rule C6: it remembers no request and applies retries again.
    #[cfg(feature = "mutants")]
    pub fn forgetful() -> StateMachine {
        StateMachine::remembering(0)
    }

    /// Breaks rule C6: forgets which sessions clients have, as a store would whose snapshots have
    /// none.
    #[cfg(feature = "mutants")]
    pub fn forget_sessions(&mut self) {
        self.client_sessions = ClientSessions::default();
    }

    /// Applies the command entry at `index`, the place right after the last one.
    ///
    /// A payload that is no command is a fact of the log like any other: all replicas pass over it
    /// in the same way.
    pub fn apply(&mut self, index: Index, payload: &[u8]) -> Applied {
        self.apply_decoded(index, Command::decode(payload).ok().as_ref())
    }

    /// The same with the payload decoded already; `None` if it is no command.
    pub fn apply_decoded(&mut self, index: Index, command: Option<&Command<'_>>) -> Applied {
        self.advance(index);
        let Some(&Command { key, operation }) = command else {
            let key = RequestKey::default();
            return Applied { key, outcome: Outcome::Malformed, repeated: false };
        };
        if let Operation::Clock { millis, resets } = operation
            && resets == self.clock_resets
        {
            self.move_clock(millis);
        }
        self.remove_expired();
        let seed = seed_of(&key);
        // A read that came through the log changes nothing, so doing it again is as good as
        // remembering it, and values don't pile up in memory. The clock is nobody's request.
        if let Some(outcome) = self.answer(&operation, seed) {
            return Applied { key, outcome, repeated: false };
        }
        if let Some(outcome) = self.dedup.outcome(&key) {
            return Applied { key, outcome: outcome.clone(), repeated: true };
        }
        let outcome = self.perform(&operation, seed);
        self.dedup.remember(key, outcome.clone());
        Applied { key, outcome, repeated: false }
    }

    /// Has the memory fetched that some commands are about to work on, [`PREFETCH_MAX`] at most.
    /// Changes nothing. The waits for memory then go on side by side; one after the other they
    /// would be the larger part of all the work.
    pub fn prefetch(&self, commands: &[Option<Command<'_>>]) {
        // In short loops, so that a processor that looks ahead sees several rounds at once.
        let mut numbers = [None; PREFETCH_MAX];
        for (number, command) in numbers.iter_mut().zip(commands) {
            if let Some(Command { operation, .. }) = command
                && let Operation::Put { key, .. } | Operation::Get { key } = operation
            {
                *number = Some(key_hash(key));
            }
        }
        let mut pairs = [None; PREFETCH_MAX];
        for (pair, number) in pairs.iter_mut().zip(numbers) {
            // The first of that number in its table is the one, in all likelihood.
            *pair = number.and_then(|number| self.pairs.find(number, |_| true));
        }
        pairs.into_iter().flatten().for_each(KeyEntry::fetch);
    }

    /// Passes over the entry at `index`, which is none of a client's.
    pub fn skip(&mut self, index: Index) {
        self.advance(index);
    }

    /// Answers a read from the state as it is.
    ///
    /// # Errors
    /// If the payload is no command, or one that would change the state.
    pub fn read(&self, payload: &[u8]) -> Result<(RequestKey, Outcome), CommandError> {
        self.read_decoded(&Command::decode(payload)?)
    }

    /// The same with the payload decoded already.
    ///
    /// # Errors
    /// If the command would change the state.
    pub fn read_decoded(
        &self,
        command: &Command<'_>,
    ) -> Result<(RequestKey, Outcome), CommandError> {
        let Command { key, operation } = command;
        let outcome = match operation {
            // It takes no part in the state and is no read for all that.
            Operation::Clock { .. } => None,
            Operation::Transaction { watched, operations } => {
                self.read_together(*watched, *operations, seed_of(key))
            }
            _ => self.answer(operation, seed_of(key)),
        };
        Ok((*key, outcome.ok_or(CommandError::NotARead)?))
    }

    /// Up to here the log is in the state.
    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// The state as a number: equal pairs at an equal applied index give an equal number on every
    /// replica, and different ones in all likelihood a different one. Costs nothing to ask.
    pub fn digest(&self) -> u64 {
        self.digest_as(self.applied_index, self.clock, self.clock_resets)
    }

    /// The same, if the state were that at `index`, with the replicated clock there.
    pub(super) fn digest_as(&self, index: Index, clock: Millis, resets: u64) -> u64 {
        digest_of(self.digest.and(self.client_sessions.digest()), index, clock, resets)
    }

    /// How many keys have a value.
    pub fn key_count(&self) -> usize {
        self.pairs.len()
    }

    /// Bytes of memory that the state takes, about. Costs nothing to ask.
    pub fn memory(&self) -> usize {
        self.pair_bytes
            + self.pairs.table_bytes()
            + self.dedup.memory()
            + self.client_sessions.bytes()
    }

    /// What came of a request, if it is remembered.
    pub fn outcome_of(&self, key: &RequestKey) -> Option<&Outcome> {
        self.dedup.outcome(key)
    }

    /// The state as it is now, after the entry `last`, to be looked at while it changes. Takes no
    /// longer for a large state than for a small one; but what is written to first after it costs
    /// a copy of what lies near it.
    pub fn view(&mut self, last: EntryId) -> View {
        assert_eq!(last.index, self.applied_index, "the state ends with another entry");
        let (digest, key_count) = (self.digest(), self.key_count());
        let (remembered, sessions) = (self.dedup.share(), self.client_sessions.share());
        let (clock, clock_resets) = (self.clock, self.clock_resets);
        let tables = self.pairs.share();
        View { last, digest, clock, clock_resets, key_count, tables, remembered, sessions }
    }

    /// See [`Shards::some_table`].
    pub(super) fn some_table(
        &self,
        number: u64,
        wanted: impl Fn(&KeyEntry) -> bool,
    ) -> impl Iterator<Item = &KeyEntry> {
        self.pairs.some_table(number, wanted)
    }

    /// See [`Shards::table_from`].
    pub(super) fn table_from(&self, rank: u64) -> (Vec<&KeyEntry>, u64) {
        self.pairs.table_from(rank)
    }

    /// Whether a pair is there no more, though it was not removed yet.
    pub(super) fn is_expired(&self, pair: &KeyEntry) -> bool {
        pair.is_expired(self.clock)
    }

    /// Puts what a key holds under another, with its end; what that held is gone. False if there
    /// is no such key.
    pub(super) fn copy(&mut self, from: &[u8], to: &[u8]) -> bool {
        let Some(pair) = self.pair(from) else { return false };
        let (pair, end) = (pair.clone(), pair.expires_at());
        let held = pair.object().cloned().map_or(Held::String(pair.value()), Held::Object);
        self.place(to, held, end);
        true
    }

    /// All pairs, in an order that says nothing.
    pub(super) fn pairs(&self) -> impl Iterator<Item = &KeyEntry> {
        self.pairs.iter()
    }

    /// The requests remembered, oldest first, with their outcomes.
    pub(super) fn remembered(&self) -> impl Iterator<Item = (&RequestKey, &Outcome)> {
        self.dedup.iter()
    }

    /// Puts back a pair of a snapshot. False if the key is there already.
    pub(super) fn restore_pair(&mut self, restored: Restored<'_>) -> bool {
        let Restored { key, held, revision, end } = restored;
        let is_it = |pair: &KeyEntry| pair.key() == key;
        let fresh = self.pairs.find(key_hash(key), is_it).is_none();
        let applied = std::mem::replace(&mut self.applied_index, revision);
        self.place(key, held, end);
        self.applied_index = applied;
        fresh
    }

    /// Puts back a remembered request of a snapshot. False if it is known.
    pub(super) fn restore_request(&mut self, key: RequestKey, outcome: Outcome) -> bool {
        let fresh = self.dedup.outcome(&key).is_none();
        if fresh {
            self.dedup.remember(key, outcome);
        }
        fresh
    }

    /// The state that was put back is that after the entry at `index`, with the replicated clock
    /// there.
    pub(super) fn move_to(&mut self, index: Index, clock: Millis, resets: u64) {
        self.applied_index = index;
        self.clock = clock;
        self.clock_resets = resets;
    }

    fn advance(&mut self, index: Index) {
        let next = self.applied_index.next();
        assert_eq!(index, next, "entries are applied in order, each once");
        self.applied_index = next;
    }

    /// What a read gives; `None` for what may change the state.
    pub(super) fn answer(&self, operation: &Operation<'_>, seed: u64) -> Option<Outcome> {
        let value = |key| self.shared_string(key).map_or_else(Outcome::Refused, Outcome::Value);
        Some(match operation {
            Operation::Get { key } => value(key),
            Operation::GetMany { keys } => {
                let value = |key| self.shared_string(key).unwrap_or_default();
                Outcome::Values(keys.iter().map(value).collect())
            }
            Operation::Exists { keys } => {
                Outcome::count(keys.iter().filter(|key| self.pair(key).is_some()).count())
            }
            Operation::Length { key } => match self.string(key) {
                Ok(value) => Outcome::count(value.map_or(0, <[u8]>::len)),
                Err(refusal) => Outcome::Refused(refusal),
            },
            Operation::Count => Outcome::count(self.pairs.len()),
            Operation::CountInSlot { slot } => {
                let is_there = |pair: &&KeyEntry| slot_of(pair.key()) == *slot;
                Outcome::count(self.pairs.iter().filter(is_there).count())
            }
            Operation::Call { verb, words } if verb.is_read() => {
                verb.read(self, &Args::new(*words, seed)).ok()?
            }
            Operation::Clock { .. } => Outcome::Done,
            _ => return None,
        })
    }

    /// Does what changes the state.
    pub(super) fn perform(&mut self, operation: &Operation<'_>, seed: u64) -> Outcome {
        match *operation {
            Operation::Put { key, value } => {
                self.put(key, value);
                self.note("set", key);
                Outcome::Done
            }
            Operation::Delete { key } => Outcome::Deleted(self.delete(key)),
            Operation::Transfer { from, to, amount } => {
                Outcome::Transferred(self.transfer(from, to, amount))
            }
            Operation::Set { key, value, condition, tell_old } => {
                self.set(key, value, condition, tell_old)
            }
            Operation::Take { key } => match self.shared_string(key) {
                Ok(value) => {
                    self.delete(key);
                    Outcome::Value(value)
                }
                Err(refusal) => Outcome::Refused(refusal),
            },
            Operation::Append { key, value } => self.append(key, value),
            Operation::Add { key, amount } => self.add(key, amount),
            Operation::PutMany { pairs } => {
                for (key, value) in pairs.pairs() {
                    self.put(key, value);
                    self.note("set", key);
                }
                Outcome::Done
            }
            Operation::DeleteMany { keys } => {
                Outcome::count(keys.iter().filter(|key| self.delete(key)).count())
            }
            Operation::Clear => {
                self.clear();
                Outcome::Done
            }
            Operation::Call { verb, words } => verb.run(self, &Args::new(words, seed)),
            Operation::Transaction { watched, operations } => {
                self.transact(watched, operations, seed)
            }
            Operation::Publish { channel, message } => {
                self.tell(channel, message);
                Outcome::Done
            }
            Operation::OpenSession => self.open_session(),
            Operation::ResetClock { millis } => self.reset_clock(millis),
            Operation::Once { session, sequence, operation } => {
                self.do_once(session, sequence, operation, seed)
            }
            Operation::Get { .. }
            | Operation::GetMany { .. }
            | Operation::Exists { .. }
            | Operation::Length { .. }
            | Operation::Count
            | Operation::CountInSlot { .. }
            | Operation::Clock { .. } => unreachable!("`answer` takes every read, and the clock"),
        }
    }

    /// A key and what it holds, if it is there and its time is not over.
    pub(super) fn pair(&self, key: &[u8]) -> Option<&KeyEntry> {
        self.pairs
            .find(key_hash(key), |pair| pair.key() == key)
            .filter(|pair| !pair.is_expired(self.clock))
    }

    /// Sets a key to a copy of `value`; whatever it held, and its end, are gone. Copied, not
    /// shared with the log record: that lies among its batch's other records, and one small value
    /// would keep the whole batch in memory.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_expiring(key, value, None);
    }

    /// The same, and the key ends at a moment, or never.
    pub(super) fn put_expiring(&mut self, key: &[u8], value: &[u8], end: Option<Millis>) {
        self.place(key, Held::String(value), end);
    }

    /// The same, and the key ends when it did before.
    pub(super) fn put_keep_ttl(&mut self, key: &[u8], value: &[u8]) {
        self.put_expiring(key, value, self.expires_at(key));
    }

    /// Makes a key's string longer, which ends when it did; its length then.
    pub(super) fn extend(&mut self, key: &[u8], more: &[u8]) -> usize {
        let (old, end) =
            self.pair(key).map_or((&[][..], None), |pair| (pair.value(), pair.expires_at()));
        let value = [old, more].concat();
        self.place(key, Held::String(&value), end);
        value.len()
    }

    /// A key that holds this object and does not end.
    pub(super) fn begin(&mut self, key: &[u8], object: Object) {
        self.place(key, Held::Object(object), None);
    }

    /// Changes the content of a key that is there and holds one of this kind. See
    /// [`StateMachine::change`].
    pub(super) fn change_pair<C: Content, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut C) -> (R, bool),
    ) -> R {
        let is_it = |pair: &KeyEntry| pair.key() == key;
        let pair = self.pairs.find_mut(key_hash(key), is_it).expect("the key is there");
        self.pair_bytes -= pair.bytes_behind();
        let change = |object: &mut Object| {
            let content = Arc::make_mut(C::of_mut(object)?);
            let (result, changed) = change(content);
            Some((result, changed, content.is_empty()))
        };
        let done = pair.change_object(change).flatten();
        let (result, changed, is_empty) = done.expect("it is of that kind");
        self.pair_bytes += pair.bytes_behind();
        if changed {
            self.digest.remove(pair.fingerprint());
            pair.has_changed(self.applied_index);
            self.digest.add(pair.fingerprint());
        }
        if is_empty {
            self.remove(key);
        }
        result
    }

    /// Moves the end of a key that is there; `None` for never.
    pub(super) fn set_expiry(&mut self, key: &[u8], end: Option<Millis>) {
        let is_it = |pair: &KeyEntry| pair.key() == key;
        let pair = self.pairs.find_mut(key_hash(key), is_it).expect("the key is there");
        let before = pair.expires_at();
        self.digest.remove(pair.fingerprint());
        self.pair_bytes -= pair.bytes_behind();
        pair.set_expiry(end);
        self.pair_bytes += pair.bytes_behind();
        pair.has_changed(self.applied_index);
        self.expiry.moved(key_hash(key), before, pair.expires_at());
        self.digest.add(pair.fingerprint());
    }

    /// Puts a pair in, or another value in the place of what the key held.
    fn place(&mut self, key: &[u8], held: Held<'_>, end: Option<Millis>) {
        let number = key_hash(key);
        let facts = Facts::new(held.print(number), end, self.applied_index);
        let (digest, expiry) = (&mut self.digest, &mut self.expiry);
        let pair_bytes = &mut self.pair_bytes;
        digest.add(facts.fingerprint());
        self.pairs.put(
            number,
            |pair| pair.key() == key,
            |place| match place {
                Entry::Occupied(mut place) => {
                    let pair = place.get_mut();
                    digest.remove(pair.fingerprint());
                    *pair_bytes -= pair.bytes_behind();
                    let before = pair.expires_at();
                    pair.replace(held, facts);
                    expiry.moved(number, before, pair.expires_at());
                    *pair_bytes += pair.bytes_behind();
                }
                Entry::Vacant(place) => {
                    let pair = KeyEntry::new(key, held, facts);
                    expiry.moved(number, None, pair.expires_at());
                    *pair_bytes += pair.bytes_behind();
                    place.insert(pair);
                }
            },
        );
    }

    /// Removes a key on a client's behalf; whether it was there.
    pub(super) fn delete(&mut self, key: &[u8]) -> bool {
        let was = self.remove(key);
        if was {
            self.note("del", key);
        }
        was
    }

    /// Removes a key; whether it was there.
    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        let Some(pair) = self.pairs.remove(key_hash(key), |pair| pair.key() == key) else {
            return false;
        };
        self.gone(&pair);
        !pair.is_expired(self.clock)
    }

    /// Moves the expiration of the key of that number that expires at `from`.
    pub(super) fn move_expiration(&mut self, number: u64, from: Millis, to: Millis) {
        let is_it = |pair: &KeyEntry| pair.expires_at() == Some(from) && pair.number() == number;
        let pair = self.pairs.find_mut(number, is_it).expect("each key that expires is there");
        self.digest.remove(pair.fingerprint());
        self.pair_bytes -= pair.bytes_behind();
        pair.set_expiry(Some(to));
        self.pair_bytes += pair.bytes_behind();
        pair.has_changed(self.applied_index);
        self.expiry.moved(number, Some(from), pair.expires_at());
        self.digest.add(pair.fingerprint());
    }

    /// Removes the key of that number that ends at that moment; the key.
    pub(super) fn take_expired(&mut self, number: u64, end: Millis) -> Bytes {
        let is_it = |pair: &KeyEntry| pair.expires_at() == Some(end) && pair.number() == number;
        let pair = self.pairs.remove(number, is_it).expect("each key that ends is there");
        self.gone(&pair);
        pair.shared_key()
    }

    /// A pair has been taken out.
    fn gone(&mut self, pair: &KeyEntry) {
        self.digest.remove(pair.fingerprint());
        self.expiry.moved(pair.number(), pair.expires_at(), None);
        self.pair_bytes -= pair.bytes_behind();
    }

    fn clear(&mut self) {
        self.pairs = Shards::default();
        self.digest = Digest::default();
        self.expiry.clear();
        self.pair_bytes = 0;
    }

    fn transfer(&mut self, from: &[u8], to: &[u8], amount: u64) -> bool {
        let (Some(holds), Some(held)) = (self.balance(from), self.balance(to)) else {
            return false;
        };
        let Some(left) = holds.checked_sub(amount) else { return false };
        if from == to {
            return true;
        }
        let Some(sum) = held.checked_add(amount) else { return false };
        self.put_keep_ttl(from, left.to_string().as_bytes());
        self.put_keep_ttl(to, sum.to_string().as_bytes());
        true
    }

    /// The number that a key holds as decimal digits, if it does.
    fn balance(&self, key: &[u8]) -> Option<u64> {
        std::str::from_utf8(self.string(key).ok()??).ok()?.parse().ok()
    }
}

/// A pair as it was in a snapshot.
pub(super) struct Restored<'r> {
    pub(super) key: &'r [u8],
    pub(super) held: Held<'r>,
    pub(super) revision: Index,
    pub(super) end: Option<Millis>,
}

impl Restored<'_> {
    /// Its number in the digest.
    pub(super) fn print(&self) -> u64 {
        let content = self.held.print(key_hash(self.key));
        Facts::new(content, self.end, self.revision).fingerprint()
    }
}

impl fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMachine")
            .field("applied_index", &self.applied_index)
            .field("keys", &self.pairs.len())
            .field("clock", &self.clock)
            .field("remembered", &self.dedup.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kv::commands::items::ItemsBuffer;
    use crate::kv::commands::registry::CommandId;
    use crate::kv::snapshot::SnapshotReader;
    use crate::types::{ClientId, RequestId, Term};

    /// Applies one operation after another under fresh names.
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
            applied.outcome
        }

        /// One with the state as a snapshot brings it.
        pub(in crate::kv) fn restored(&self) -> Feeder {
            let last = EntryId { term: Term(1), index: self.store.applied_index() };
            let mut reader = SnapshotReader::default();
            self.store.write_snapshot(last, &mut |piece| reader.feed(piece).unwrap());
            Feeder { store: reader.finish().unwrap().0, requests: self.requests }
        }

        fn apply_as(&mut self, request: u32, operation: Operation<'_>) -> Applied {
            let payload = Command { key: name(request), operation }.encode();
            self.store.apply(self.store.applied_index().next(), &payload)
        }

        /// Does a verb through the log.
        pub(in crate::kv) fn call(&mut self, verb: &str, words: &[&str]) -> Outcome {
            let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            self.call_bytes(verb, &words)
        }

        pub(in crate::kv) fn call_bytes(&mut self, verb: &str, words: &[&[u8]]) -> Outcome {
            let words: ItemsBuffer = words.iter().copied().collect();
            self.apply(Operation::Call { verb: CommandId::of(verb), words: words.items() })
        }

        pub(in crate::kv) fn get(&self, key: &[u8]) -> Option<Bytes> {
            let command = Command { key: name(0), operation: Operation::Get { key } };
            match self.store.read(&command.encode()) {
                Ok((_, Outcome::Value(value))) => value,
                other => panic!("{other:?}"),
            }
        }
    }

    fn name(request: u32) -> RequestKey {
        let request = RequestId(u128::from(request).to_be_bytes());
        RequestKey { client: ClientId(1), request }
    }

    #[test]
    fn what_is_put_is_there_until_it_is_deleted() {
        let mut feeder = Feeder::new();
        assert_eq!(feeder.get(b"k"), None);
        assert_eq!(feeder.apply(Operation::Put { key: b"k", value: b"1" }), Outcome::Done);
        assert_eq!(feeder.apply(Operation::Put { key: b"k", value: b"2" }), Outcome::Done);
        assert_eq!(feeder.get(b"k").as_deref(), Some(&b"2"[..]));
        let through_the_log = feeder.apply(Operation::Get { key: b"k" });
        assert_eq!(through_the_log, Outcome::Value(Some(Bytes::from_static(b"2"))));
        assert_eq!(feeder.apply(Operation::Delete { key: b"k" }), Outcome::Deleted(true));
        assert_eq!(feeder.apply(Operation::Delete { key: b"k" }), Outcome::Deleted(false));
        assert_eq!(feeder.get(b"k"), None);
        assert_eq!(feeder.store.applied_index(), Index(5));
    }

    #[test]
    fn a_retry_is_answered_and_not_applied_again() {
        let mut feeder = Feeder::new();
        feeder.apply_as(1, Operation::Put { key: b"k", value: b"1" });
        feeder.apply_as(2, Operation::Delete { key: b"k" });
        let retry = feeder.apply_as(1, Operation::Put { key: b"k", value: b"1" });
        assert_eq!(retry, Applied { key: name(1), outcome: Outcome::Done, repeated: true });
        assert_eq!(feeder.get(b"k"), None);
        let retry = feeder.apply_as(2, Operation::Delete { key: b"k" });
        assert_eq!((retry.outcome, retry.repeated), (Outcome::Deleted(true), true));
        assert_eq!(feeder.store.applied_index(), Index(4), "a retry takes its place in the log");
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn the_forgetful_store_applies_retries_again() {
        let mut feeder = Feeder { store: StateMachine::forgetful(), ..Feeder::default() };
        feeder.apply_as(1, Operation::Put { key: b"k", value: b"1" });
        feeder.apply_as(2, Operation::Delete { key: b"k" });
        assert!(!feeder.apply_as(1, Operation::Put { key: b"k", value: b"1" }).repeated);
        assert!(feeder.get(b"k").is_some());
    }

    #[test]
    fn a_transfer_moves_or_leaves_everything() {
        let mut feeder = Feeder::new();
        let transfer = |from, to, amount| Operation::Transfer { from, to, amount };
        feeder.apply(Operation::Put { key: b"a", value: b"10" });
        feeder.apply(Operation::Put { key: b"b", value: b"5" });
        feeder.apply(Operation::Put { key: b"full", value: u64::MAX.to_string().as_bytes() });
        feeder.apply(Operation::Put { key: b"text", value: b"much" });
        assert_eq!(feeder.apply(transfer(b"a", b"b", 7)), Outcome::Transferred(true));
        assert_eq!(feeder.apply(transfer(b"a", b"b", 4)), Outcome::Transferred(false));
        assert_eq!(feeder.apply(transfer(b"a", b"a", 3)), Outcome::Transferred(true));
        assert_eq!(feeder.apply(transfer(b"a", b"full", 1)), Outcome::Transferred(false));
        assert_eq!(feeder.apply(transfer(b"a", b"text", 1)), Outcome::Transferred(false));
        assert_eq!(feeder.apply(transfer(b"nobody", b"a", 0)), Outcome::Transferred(false));
        assert_eq!(feeder.get(b"a").as_deref(), Some(&b"3"[..]));
        assert_eq!(feeder.get(b"b").as_deref(), Some(&b"12"[..]));
    }

    #[test]
    fn what_it_takes_is_counted_by_and_by_as_it_would_be_at_once() {
        let mut feeder = Feeder::new();
        let (empty, mut most) = (feeder.store.memory(), 0);
        for number in 0..2_000_u32 {
            let key = format!("key:{}", number * 7 % 300);
            let value = "x".repeat(number as usize * 13 % 500);
            let (verb, words) = match number % 9 {
                0 | 1 => ("hset", vec!["hash", &key, &value]),
                2 => ("hset", vec![&key, "field", &value]),
                3 => ("hdel", vec![&key, "field"]),
                4 => ("del", vec![&key, "nothing"]),
                5 => ("pexpireat", vec![&key, "1"]),
                _ => ("", vec![]),
            };
            if verb.is_empty() || verb == "del" {
                let (key, value) = (key.as_bytes(), value.as_bytes());
                let pairs = [key, value, b"other", b"1"].into_iter().collect::<ItemsBuffer>();
                feeder.apply(match number % 9 {
                    4 => Operation::Delete { key },
                    6 if number == 1_005 => Operation::Clear,
                    6 => Operation::PutMany { pairs: pairs.items() },
                    7 => Operation::Append { key, value },
                    _ => Operation::Put { key, value },
                });
            } else {
                feeder.call(verb, &words);
            }
            let store = &feeder.store;
            let behind: usize = store.pairs().map(KeyEntry::bytes_behind).sum();
            let rest = store.pairs.table_bytes() + store.dedup.memory();
            assert_eq!(store.memory(), behind + rest, "after {number}");
            most = most.max(store.memory());
        }
        assert!(most > empty + 20_000);
    }

    #[test]
    fn a_payload_that_is_no_command_changes_nothing_but_the_index() {
        let mut feeder = Feeder::new();
        let applied = feeder.store.apply(Index(1), b"no command");
        assert_eq!((applied.outcome, applied.key), (Outcome::Malformed, RequestKey::default()));
        assert_eq!(feeder.store.applied_index(), Index(1));
        assert!(matches!(feeder.store.read(b"?"), Err(CommandError::Damaged { length: 1 })));
        let put = Command { key: name(1), operation: Operation::Put { key: b"k", value: b"" } };
        assert_eq!(feeder.store.read(&put.encode()), Err(CommandError::NotARead));
    }

    #[test]
    fn the_digest_follows_the_state_and_not_the_way_there() {
        let (mut one, mut two) = (Feeder::new(), Feeder::new());
        let empty = one.store.digest();
        one.apply(Operation::Put { key: b"a", value: b"1" });
        one.apply(Operation::Put { key: b"b", value: b"2" });
        one.apply(Operation::Put { key: b"b", value: b"3" });
        assert_ne!(one.store.digest(), empty);
        two.apply(Operation::Put { key: b"b", value: b"3" });
        two.apply(Operation::Put { key: b"a", value: b"1" });
        assert_ne!(one.store.digest(), two.store.digest(), "another place in the log");
        two.store.skip(Index(3));
        assert_eq!(one.store.digest(), two.store.digest());
        one.apply(Operation::Delete { key: b"a" });
        two.apply(Operation::Delete { key: b"b" });
        assert_ne!(one.store.digest(), two.store.digest());
    }

    #[test]
    #[should_panic(expected = "applied in order")]
    fn a_gap_in_the_log_stops_us() {
        StateMachine::default().skip(Index(2));
    }
}
