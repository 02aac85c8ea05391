//! The store: keys and values, the place in the log up to which they have come, and the memory of
//! requests. Called by the apply stage and by the simulator, with the same bytes in the same order
//! on every replica.

use std::fmt;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use crate::types::{Index, RequestKey};

use super::command::{Command, CommandError, Operation};
use super::digest::{Digest, fingerprint};
use super::outcome::Outcome;
use super::sessions::{REMEMBERED_MAX, Sessions};
use super::slot::slot_of;

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
/// pair.
pub struct Store {
    pairs: HashMap<Box<[u8]>, Stored, FixedState>,
    digest: Digest,
    sessions: Sessions,
    applied_index: Index,
}

/// A value, with the number of its pair so that it need not be read again to be taken off the
/// digest.
struct Stored {
    value: Bytes,
    fingerprint: u64,
}

impl Default for Store {
    fn default() -> Store {
        Store::remembering(REMEMBERED_MAX)
    }
}

impl Store {
    /// An empty store that remembers so many requests.
    fn remembering(requests: usize) -> Store {
        Store {
            pairs: HashMap::with_hasher(FixedState::with_seed(super::HASH_SEED)),
            digest: Digest::default(),
            sessions: Sessions::new(requests),
            applied_index: Index::ZERO,
        }
    }

    /// An empty store that breaks rule C6: it remembers no request and applies retries again.
    #[cfg(feature = "mutants")]
    pub fn forgetful() -> Store {
        Store::remembering(0)
    }

    /// Applies the command entry at `index`, the place right after the last one.
    ///
    /// A payload that is no command is a fact of the log like any other: all replicas pass over it
    /// in the same way.
    pub fn apply(&mut self, index: Index, payload: &[u8]) -> Applied {
        self.advance(index);
        let Ok(Command { key, operation }) = Command::decode(payload) else {
            let key = RequestKey::default();
            return Applied { key, outcome: Outcome::Malformed, repeated: false };
        };
        // A read that came through the log changes nothing, so doing it again is as good as
        // remembering it, and values don't pile up in memory.
        if let Some(outcome) = self.answer(&operation) {
            return Applied { key, outcome, repeated: false };
        }
        if let Some(outcome) = self.sessions.outcome(&key) {
            return Applied { key, outcome: outcome.clone(), repeated: true };
        }
        let outcome = self.perform(&operation);
        self.sessions.remember(key, outcome.clone());
        Applied { key, outcome, repeated: false }
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
        let Command { key, operation } = Command::decode(payload)?;
        Ok((key, self.answer(&operation).ok_or(CommandError::NotARead)?))
    }

    /// Up to here the log is in the state.
    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// The state as a number: equal pairs at an equal applied index give an equal number on every
    /// replica, and different ones in all likelihood a different one. Costs nothing to ask.
    pub fn digest(&self) -> u64 {
        self.digest.at(self.applied_index.0)
    }

    /// How many keys have a value.
    pub fn key_count(&self) -> usize {
        self.pairs.len()
    }

    fn advance(&mut self, index: Index) {
        let next = self.applied_index.next();
        assert_eq!(index, next, "entries are applied in order, each once");
        self.applied_index = next;
    }

    /// What a read gives; `None` for what may change the state.
    fn answer(&self, operation: &Operation<'_>) -> Option<Outcome> {
        Some(match operation {
            Operation::Get { key } => Outcome::Value(self.value(key).cloned()),
            Operation::GetMany { keys } => {
                Outcome::Values(keys.iter().map(|key| self.value(key).cloned()).collect())
            }
            Operation::Exists { keys } => {
                Outcome::count(keys.iter().filter(|key| self.value(key).is_some()).count())
            }
            Operation::Length { key } => Outcome::count(self.value(key).map_or(0, Bytes::len)),
            Operation::Count => Outcome::count(self.pairs.len()),
            Operation::CountInSlot { slot } => {
                Outcome::count(self.pairs.keys().filter(|key| slot_of(key) == *slot).count())
            }
            _ => return None,
        })
    }

    /// Does what changes the state.
    fn perform(&mut self, operation: &Operation<'_>) -> Outcome {
        match *operation {
            Operation::Put { key, value } => {
                self.put(key, value);
                Outcome::Done
            }
            Operation::Delete { key } => Outcome::Deleted(self.remove(key).is_some()),
            Operation::Transfer { from, to, amount } => {
                Outcome::Transferred(self.transfer(from, to, amount))
            }
            Operation::Set { key, value, condition, tell_old } => {
                self.set(key, value, condition, tell_old)
            }
            Operation::Take { key } => Outcome::Value(self.remove(key)),
            Operation::Append { key, value } => self.append(key, value),
            Operation::Add { key, amount } => self.add(key, amount),
            Operation::PutMany { pairs } => {
                pairs.pairs().for_each(|(key, value)| self.put(key, value));
                Outcome::Done
            }
            Operation::DeleteMany { keys } => {
                Outcome::count(keys.iter().filter(|key| self.remove(key).is_some()).count())
            }
            Operation::Clear => {
                self.clear();
                Outcome::Done
            }
            Operation::Get { .. }
            | Operation::GetMany { .. }
            | Operation::Exists { .. }
            | Operation::Length { .. }
            | Operation::Count
            | Operation::CountInSlot { .. } => unreachable!("`answer` takes every read"),
        }
    }

    /// A key's value, if it has one.
    pub(super) fn value(&self, key: &[u8]) -> Option<&Bytes> {
        self.pairs.get(key).map(|stored| &stored.value)
    }

    /// Sets a key to a copy of `value`. Copied, not shared with the log record: that lies among
    /// its batch's other records, and one small value would keep the whole batch in memory.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_owned(key, Bytes::copy_from_slice(value));
    }

    /// Sets a key to a value that shares its memory with nothing else.
    pub(super) fn put_owned(&mut self, key: &[u8], value: Bytes) {
        let fingerprint = fingerprint(key, &value);
        let stored = Stored { value, fingerprint };
        match self.pairs.entry_ref(key) {
            EntryRef::Occupied(mut old) => {
                self.digest.remove(old.insert(stored).fingerprint);
            }
            EntryRef::Vacant(place) => {
                place.insert_with_key(key.into(), stored);
            }
        }
        self.digest.add(fingerprint);
    }

    /// Removes a key; its value, if it had one.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        let old = self.pairs.remove(key)?;
        self.digest.remove(old.fingerprint);
        Some(old.value)
    }

    fn clear(&mut self) {
        self.pairs.clear();
        self.digest = Digest::default();
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
        self.put(from, left.to_string().as_bytes());
        self.put(to, sum.to_string().as_bytes());
        true
    }

    /// The number that a key holds as decimal digits, if it does.
    fn balance(&self, key: &[u8]) -> Option<u64> {
        std::str::from_utf8(&self.pairs.get(key)?.value).ok()?.parse().ok()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("applied_index", &self.applied_index)
            .field("keys", &self.pairs.len())
            .field("remembered", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClientId, RequestId};

    /// Applies one operation after another under fresh names.
    struct Feeder {
        store: Store,
        requests: u8,
    }

    impl Feeder {
        fn new() -> Feeder {
            Feeder { store: Store::default(), requests: 0 }
        }

        fn apply(&mut self, operation: Operation<'_>) -> Outcome {
            self.requests += 1;
            let applied = self.apply_as(self.requests, operation);
            assert!(!applied.repeated);
            applied.outcome
        }

        fn apply_as(&mut self, request: u8, operation: Operation<'_>) -> Applied {
            let payload = Command { key: name(request), operation }.encode();
            self.store.apply(self.store.applied_index().next(), &payload)
        }

        fn get(&self, key: &[u8]) -> Option<Bytes> {
            let command = Command { key: name(0), operation: Operation::Get { key } };
            match self.store.read(&command.encode()) {
                Ok((_, Outcome::Value(value))) => value,
                other => panic!("{other:?}"),
            }
        }
    }

    fn name(request: u8) -> RequestKey {
        RequestKey { client: ClientId(1), request: RequestId([request; 16]) }
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
        let mut feeder = Feeder { store: Store::forgetful(), requests: 0 };
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
        Store::default().skip(Index(2));
    }
}
