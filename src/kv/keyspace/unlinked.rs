//! Values that were removed from the keyspace but not freed yet. Freeing a large value takes time
//! for each of its elements, so the keyspace only collects it, and its driver frees it elsewhere.

use std::collections::BTreeSet;
use std::fmt;

use super::Keyspace;
use super::entry::KeyEntry;
use super::expiration::ExpirationIndex;
use super::shards::Shards;
use crate::kv::values::digest::Digest;

/// Minimum memory usage in bytes of an entry or a keyspace that is collected. A smaller one is
/// freed at once, in a few microseconds.
const COLLECTED_BYTES_MIN: usize = 4 << 10;
/// Maximum memory usage in bytes of all collected entries, unless there is only one. Further ones
/// are freed at once: a transaction may replace the same large value any number of times before its
/// driver takes them.
const COLLECTED_BYTES_MAX: usize = 256 << 20;

/// Large values that commands have removed or replaced, or that have expired. Dropping this frees
/// them, which takes time for each of their elements.
#[derive(Default)]
pub struct Unlinked {
    entries: Vec<KeyEntry>,
    /// The content of keyspaces that were cleared.
    cleared: Vec<(Shards, ExpirationIndex)>,
    /// Indexes of the keys of keyspaces that were cleared, or that need none any more.
    keys: Vec<BTreeSet<Box<[u8]>>>,
    objects: usize,
    bytes: usize,
}

impl Unlinked {
    /// Returns whether it contains no value.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.cleared.is_empty() && self.keys.is_empty()
    }

    /// Returns the number of values.
    pub fn objects(&self) -> usize {
        self.objects
    }

    /// Returns the approximate memory usage of the values, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes an entry that was removed from the keyspace and uses `bytes` of memory. Drops it at
    /// once if it is small, if a snapshot or another key still uses its value, or if the collected
    /// entries use too much memory already.
    pub(super) fn add(&mut self, entry: KeyEntry, bytes: usize) {
        let fits = self.is_empty() || self.bytes + bytes <= COLLECTED_BYTES_MAX;
        if bytes >= COLLECTED_BYTES_MIN && fits && !entry.is_value_shared() {
            self.entries.push(entry);
            self.objects += 1;
            self.bytes += bytes;
        }
    }

    fn add_cleared(&mut self, shards: Shards, expirations: ExpirationIndex, bytes: usize) {
        if bytes >= COLLECTED_BYTES_MIN {
            self.objects += shards.len();
            self.bytes += bytes;
            self.cleared.push((shards, expirations));
        }
    }

    /// Takes an index of keys, which uses `bytes` of memory. Drops it at once if it is small.
    pub(super) fn add_keys(&mut self, keys: BTreeSet<Box<[u8]>>, bytes: usize) {
        if bytes >= COLLECTED_BYTES_MIN {
            self.bytes += bytes;
            self.keys.push(keys);
        }
    }
}

impl fmt::Debug for Unlinked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unlinked")
            .field("objects", &self.objects)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Keyspace {
    /// Removes all keys, without keyspace notifications. The time does not depend on the number of
    /// keys.
    pub(in crate::kv) fn clear(&mut self) {
        let key_bytes = self.key_index.bytes();
        let bytes = self.memory() - key_bytes - self.kept_bytes();
        let keys = self.key_index.clear();
        self.unlinked.add_keys(keys, key_bytes);
        let shards = std::mem::take(&mut self.shards);
        let expirations = std::mem::take(&mut self.expirations);
        self.unlinked.add_cleared(shards, expirations, bytes);
        self.digest = Digest::default();
        self.entry_bytes = 0;
        self.events.note_flush(self.revision);
    }

    /// Returns the large values that were removed since the last call.
    pub(in crate::kv) fn take_unlinked(&mut self) -> Unlinked {
        std::mem::take(&mut self.unlinked)
    }
}

#[cfg(test)]
mod tests {
    use super::COLLECTED_BYTES_MAX;
    use crate::kv::batch::Batch;
    use crate::kv::commands::registry::CommandId;
    use crate::kv::operation::Operation;
    use crate::kv::state_machine::StateMachine;
    use crate::types::{EntryId, RequestKey, Term};

    /// Applies a batch of one operation. Returns the number and the memory usage of the collected
    /// values.
    fn apply(state: &mut StateMachine, operation: &Operation<'_>) -> (usize, usize) {
        apply_all(state, &[*operation])
    }

    /// Applies a batch as the applier does, which then takes the removed values.
    fn apply_all(state: &mut StateMachine, operations: &[Operation<'_>]) -> (usize, usize) {
        let bytes = Batch::encode(RequestKey::default(), false, operations);
        let batch = Batch::decode(&bytes).unwrap();
        let mut outcomes = Vec::new();
        batch.groups_after(0).for_each(|group| state.apply_group(&batch, &group, &mut outcomes));
        state.finish(state.applied_index().next(), &batch, &outcomes);
        let unlinked = state.take_unlinked();
        assert_eq!(unlinked.is_empty(), unlinked.objects() == 0);
        (unlinked.objects(), unlinked.bytes())
    }

    fn call(state: &mut StateMachine, name: &str, args: &[&[u8]]) -> (usize, usize) {
        apply(state, &Operation::call(CommandId::of(name), args))
    }

    /// A state with a large set, a large string that expires, and a small set.
    fn state() -> StateMachine {
        let mut state = StateMachine::default();
        let members: Vec<Vec<u8>> = (0..2_000_u32).map(|it| it.to_be_bytes().to_vec()).collect();
        let mut args: Vec<&[u8]> = vec![b"set"];
        args.extend(members.iter().map(|member| &member[..]));
        call(&mut state, "sadd", &args);
        call(&mut state, "set", &[b"string", &vec![b'a'; 100_000], b"PXAT", b"5"]);
        args.truncate(20);
        args[0] = b"small";
        call(&mut state, "sadd", &args);
        state
    }

    #[test]
    fn removed_large_values_are_collected_to_be_freed() {
        for (name, args, objects) in [
            ("del", &[&b"set"[..], b"string", b"small"][..], 2),
            ("set", &[b"set", b"v"], 1),
            ("set", &[b"string", b"v"], 1),
            ("mset", &[b"set", b"v", b"string", b"v", b"small", b"v"], 2),
            ("sunionstore", &[b"set", b"small"], 1),
            ("rename", &[b"small", b"set"], 1),
            ("copy", &[b"small", b"set", b"REPLACE"], 1),
            ("flushall", &[], 3),
            // The value is small, or still in use, by a key or a reply.
            ("getdel", &[b"string"], 0),
            ("rename", &[b"set", b"new"], 0),
            ("del", &[b"small"], 0),
            ("sadd", &[b"set", b"another"], 0),
            ("append", &[b"string", b"more"], 0),
        ] {
            let mut state = state();
            let before = state.memory();
            let (removed, bytes) = call(&mut state, name, args);
            assert_eq!(removed, objects, "{name} {args:?}");
            // Nothing counts twice, but the small set may have been copied.
            assert!(state.memory() + bytes <= before + 10_000, "{name} {args:?}");
            assert!(objects == 0 || state.memory() + bytes + 20_000 > before, "{name} {args:?}");
            state.check_sums();
        }
        assert_eq!(apply(&mut state(), &Operation::Clock { millis: 5, resets: 0 }).0, 1, "expired");
    }

    #[test]
    fn few_of_many_large_values_are_collected_at_once() {
        let mut state = StateMachine::default();
        let args: &[&[u8]] = &[b"k", b"62914559", b"v"];
        let set = Operation::call(CommandId::of("setrange"), args);
        let remove = Operation::del(b"k");
        let operations: Vec<Operation<'_>> = [set, remove].repeat(10);
        let (objects, bytes) = apply_all(&mut state, &operations);
        assert_eq!(objects, 4, "of 60 MiB each");
        assert!((240 << 20..=COLLECTED_BYTES_MAX).contains(&bytes), "{bytes}");
    }

    #[test]
    fn value_shared_with_a_key_or_a_snapshot_is_not_collected() {
        let mut state = state();
        call(&mut state, "copy", &[b"set", b"other"]);
        assert_eq!(call(&mut state, "del", &[b"set"]), (0, 0));
        let index = state.applied_index();
        let view = state.view(EntryId { term: Term(1), index });
        assert_eq!(call(&mut state, "del", &[b"other"]), (0, 0), "the snapshot has it");
        drop(view);
        assert_eq!(call(&mut state, "del", &[b"string"]).0, 1);
    }

    #[test]
    fn applying_a_whole_entry_frees_what_it_removes() {
        let mut state = state();
        state.apply_batch(&Batch::one(RequestKey::default(), &Operation::del(b"set")));
        assert!(state.take_unlinked().is_empty());
    }
}
