//! The store: keys and values, the place in the log up to which they have come, and the memory of
//! requests. Called by the apply stage and by the simulator, with the same bytes in the same order
//! on every replica.

use std::fmt;
use std::hint::black_box;

use bytes::Bytes;
use hashbrown::hash_table::Entry;

use crate::types::{EntryId, Index, RequestKey};

use super::command::{Command, CommandError, Operation};
use super::digest::{Digest, fingerprint, key_number};
use super::outcome::Outcome;
use super::sessions::{REMEMBERED_MAX, Sessions};
use super::shards::Shards;
use super::slot::slot_of;
use super::view::View;

/// Most commands that [`Store::warm`] takes: about as many waits as a processor has at once.
pub const WARMED_MAX: usize = 16;

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
/// pair. Nothing is decided by the order in which `pairs` has them.
pub struct Store {
    pairs: Shards,
    digest: Digest,
    sessions: Sessions,
    applied_index: Index,
}

/// A key and its value, behind each other in one piece of memory: whoever looks up the one is
/// about to read or write the other, and on its way here each piece costs a wait for memory.
#[derive(Clone)]
pub(super) struct Pair {
    bytes: Bytes,
    key_bytes: usize,
    /// Of the key: where it is in the table.
    pub(super) number: u64,
    /// Kept so that the value need not be read again to be taken off the digest.
    fingerprint: u64,
}

impl Pair {
    pub(super) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_bytes]
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.bytes[self.key_bytes..]
    }

    /// The value, sharing the pair's memory.
    fn shared_value(&self) -> Bytes {
        self.bytes.slice(self.key_bytes..)
    }
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
            pairs: Shards::default(),
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
        self.apply_decoded(index, Command::decode(payload).ok().as_ref())
    }

    /// The same with the payload decoded already; `None` if it is no command.
    pub fn apply_decoded(&mut self, index: Index, command: Option<&Command<'_>>) -> Applied {
        self.advance(index);
        let Some(&Command { key, operation }) = command else {
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

    /// Has the memory fetched that some commands are about to work on, [`WARMED_MAX`] at most.
    /// Changes nothing. The waits for memory then go on side by side; one after the other they
    /// would be the larger part of all the work.
    pub fn warm(&self, commands: &[Option<Command<'_>>]) {
        // In short loops, so that a processor that looks ahead sees several rounds at once.
        let mut numbers = [None; WARMED_MAX];
        for (number, command) in numbers.iter_mut().zip(commands) {
            if let Some(Command { operation, .. }) = command
                && let Operation::Put { key, .. } | Operation::Get { key } = operation
            {
                *number = Some(key_number(key));
            }
        }
        let mut pairs = [None; WARMED_MAX];
        for (pair, number) in pairs.iter_mut().zip(numbers) {
            let find = |number| self.pairs.find(number, |pair| pair.number == number);
            *pair = number.and_then(find);
        }
        for pair in pairs.into_iter().flatten() {
            // Used for something, or the compiler would leave it out.
            black_box((pair.bytes.first().copied(), pair.bytes.last().copied()));
        }
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
        Ok((command.key, self.answer(&command.operation).ok_or(CommandError::NotARead)?))
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

    /// The same, if the state were that at `index`.
    pub(super) fn digest_at(&self, index: Index) -> u64 {
        self.digest.at(index.0)
    }

    /// How many keys have a value.
    pub fn key_count(&self) -> usize {
        self.pairs.len()
    }

    /// What came of a request, if it is remembered.
    pub fn outcome_of(&self, key: &RequestKey) -> Option<&Outcome> {
        self.sessions.outcome(key)
    }

    /// The state as it is now, after the entry `last`, to be looked at while it changes. Takes no
    /// longer for a large state than for a small one; but what is written to first after it costs
    /// a copy of what lies near it.
    pub fn view(&mut self, last: EntryId) -> View {
        assert_eq!(last.index, self.applied_index, "the state ends with another entry");
        let remembered = self.remembered().map(|(key, outcome)| (*key, outcome.clone()));
        let (digest, key_count) = (self.digest(), self.key_count());
        let remembered = remembered.collect();
        View { last, digest, key_count, tables: self.pairs.share(), remembered }
    }

    /// All pairs, in an order that says nothing.
    pub(super) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter()
    }

    /// The requests remembered, oldest first, with their outcomes.
    pub(super) fn remembered(&self) -> impl Iterator<Item = (&RequestKey, &Outcome)> {
        self.sessions.iter()
    }

    /// Puts back a pair of a snapshot. False if the key has a value already.
    pub(super) fn restore_pair(&mut self, key: &[u8], value: &[u8]) -> bool {
        let fresh = self.value(key).is_none();
        self.put(key, value);
        fresh
    }

    /// Puts back a remembered request of a snapshot. False if it is known.
    pub(super) fn restore_request(&mut self, key: RequestKey, outcome: Outcome) -> bool {
        let fresh = self.sessions.outcome(&key).is_none();
        if fresh {
            self.sessions.remember(key, outcome);
        }
        fresh
    }

    /// The state that was put back is that after the entry at `index`.
    pub(super) fn move_to(&mut self, index: Index) {
        self.applied_index = index;
    }

    fn advance(&mut self, index: Index) {
        let next = self.applied_index.next();
        assert_eq!(index, next, "entries are applied in order, each once");
        self.applied_index = next;
    }

    /// What a read gives; `None` for what may change the state.
    fn answer(&self, operation: &Operation<'_>) -> Option<Outcome> {
        Some(match operation {
            Operation::Get { key } => Outcome::Value(self.shared_value(key)),
            Operation::GetMany { keys } => {
                Outcome::Values(keys.iter().map(|key| self.shared_value(key)).collect())
            }
            Operation::Exists { keys } => {
                Outcome::count(keys.iter().filter(|key| self.value(key).is_some()).count())
            }
            Operation::Length { key } => Outcome::count(self.value(key).map_or(0, <[u8]>::len)),
            Operation::Count => Outcome::count(self.pairs.len()),
            Operation::CountInSlot { slot } => {
                let is_there = |pair: &&Pair| slot_of(pair.key()) == *slot;
                Outcome::count(self.pairs.iter().filter(is_there).count())
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

    fn pair(&self, key: &[u8]) -> Option<&Pair> {
        self.pairs.find(key_number(key), |pair| pair.key() == key)
    }

    /// A key's value, if it has one.
    pub(super) fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.pair(key).map(Pair::value)
    }

    /// The same, to be kept.
    pub(super) fn shared_value(&self, key: &[u8]) -> Option<Bytes> {
        self.pair(key).map(Pair::shared_value)
    }

    /// Sets a key to a copy of `value`. Copied, not shared with the log record: that lies among
    /// its batch's other records, and one small value would keep the whole batch in memory.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        let number = key_number(key);
        let fingerprint = fingerprint(number, value);
        self.place(key, number, fingerprint, |old| match old {
            Some(old) => overwritten(old, key, value),
            None => [key, value].concat().into(),
        });
    }

    /// Makes a key's value longer; its length then.
    pub(super) fn extend(&mut self, key: &[u8], more: &[u8]) -> usize {
        let bytes = Bytes::from([key, self.value(key).unwrap_or_default(), more].concat());
        let (number, value) = (key_number(key), &bytes[key.len()..]);
        let (fingerprint, length) = (fingerprint(number, value), value.len());
        self.place(key, number, fingerprint, |_| bytes);
        length
    }

    /// Puts a pair in, whose bytes `make` gives for those that are there.
    fn place(
        &mut self,
        key: &[u8],
        number: u64,
        fingerprint: u64,
        make: impl FnOnce(Option<Bytes>) -> Bytes,
    ) {
        let digest = &mut self.digest;
        self.pairs.put(
            number,
            |pair| pair.key() == key,
            |place| match place {
                Entry::Occupied(mut place) => {
                    let pair = place.get_mut();
                    digest.remove(pair.fingerprint);
                    pair.fingerprint = fingerprint;
                    pair.bytes = make(Some(std::mem::take(&mut pair.bytes)));
                }
                Entry::Vacant(place) => {
                    place.insert(Pair {
                        bytes: make(None),
                        key_bytes: key.len(),
                        number,
                        fingerprint,
                    });
                }
            },
        );
        self.digest.add(fingerprint);
    }

    /// Removes a key; its value, if it had one.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        let pair = self.pairs.remove(key_number(key), |pair| pair.key() == key)?;
        self.digest.remove(pair.fingerprint);
        Some(pair.shared_value())
    }

    fn clear(&mut self) {
        self.pairs = Shards::default();
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
        std::str::from_utf8(self.value(key)?).ok()?.parse().ok()
    }
}

/// The pair with another value; in the memory of the old one, if that fits and no reply that is on
/// its way still has it.
fn overwritten(old: Bytes, key: &[u8], value: &[u8]) -> Bytes {
    if old.len() == key.len() + value.len()
        && let Ok(mut bytes) = old.try_into_mut()
    {
        bytes[key.len()..].copy_from_slice(value);
        return bytes.freeze();
    }
    [key, value].concat().into()
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
