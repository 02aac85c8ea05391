//! The index of all keys in byte order, for reads of key ranges. The hash tables of the keyspace
//! have no order, so without the index such a read would examine all keys.
//!
//! The index is not part of the replicated state: each replica builds its own when a client first
//! reads a range there, and until then it costs nothing. It is built in pieces, so that no other
//! command waits for long, and keeps up with changes of the keyspace from the first piece on.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Bound;

use super::Keyspace;
use super::shards::{SCAN_END, Shards};

/// Minimum number of keys in each piece of the index, except the last. A piece consists of whole
/// hash tables, and takes one or two milliseconds to build.
const PIECE_KEYS_MIN: usize = 1_024;
/// Approximate memory usage of a key in the index, in bytes, in addition to the length of the key:
/// its place in a node of the tree, which is two thirds full on average, and its allocation.
const KEY_BYTES: usize = 40;

/// The keys of the keyspace in byte order, or a part of them while the index is being built.
///
/// Invariant: `bytes` is the sum of the memory usage of all keys in the index. While it is being
/// built, the index contains every key whose scan position is below that of `Progress::Building`.
/// It contains no key that the keyspace does not.
#[derive(Debug, Default)]
pub(super) struct KeyIndex {
    progress: Progress,
    keys: BTreeSet<Box<[u8]>>,
    bytes: usize,
    /// Whether a read has used the index since the last call of
    /// [`Keyspace::take_key_index_used`].
    used: Cell<bool>,
    /// Whether a read has needed the index, so that it must be built.
    is_wanted: Cell<bool>,
}

/// How far the index has been built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Progress {
    /// There is no index, and changes of the keyspace do not update it.
    #[default]
    None,
    /// All keys with lower scan positions than this one are in the index.
    Building(u64),
    /// All keys are in the index.
    Complete,
}

impl KeyIndex {
    /// Adds a key that was added to the keyspace. Has no effect if there is no index, or if it has
    /// the key already.
    pub(super) fn insert(&mut self, key: &[u8]) {
        if self.progress != Progress::None && self.keys.insert(key.into()) {
            self.bytes += KEY_BYTES + key.len();
        }
    }

    /// Removes a key that was removed from the keyspace.
    pub(super) fn remove(&mut self, key: &[u8]) {
        if self.progress != Progress::None && self.keys.remove(key) {
            self.bytes -= KEY_BYTES + key.len();
        }
    }

    /// Removes all keys because the keyspace was cleared, and returns them. An index that was
    /// complete still is.
    pub(super) fn clear(&mut self) -> BTreeSet<Box<[u8]>> {
        self.bytes = 0;
        std::mem::take(&mut self.keys)
    }

    /// Returns the approximate memory usage of the index, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next piece of the keys in `shards`, which must be those of the database of the
    /// index. Returns whether the index is complete.
    fn build_piece(&mut self, shards: &Shards) -> bool {
        let mut position = match self.progress {
            Progress::None => 0,
            Progress::Building(position) => position,
            Progress::Complete => return true,
        };
        let mut added = 0;
        while position < SCAN_END && added < PIECE_KEYS_MIN {
            let (entries, next) = shards.table_from(position);
            self.progress = Progress::Building(next);
            added += entries.len();
            for entry in entries {
                self.insert(entry.key());
            }
            position = next;
        }
        if position == SCAN_END {
            self.progress = Progress::Complete;
        }
        position == SCAN_END
    }
}

impl Keyspace {
    /// Returns whether there is an index of all keys of the selected database, so that ranges of
    /// them can be read. If there is none, [`Keyspace::build_key_index`] builds it from now on.
    pub(in crate::kv) fn wants_key_index(&self) -> bool {
        self.databases.selected().key_index.is_wanted.set(true);
        self.has_key_index()
    }

    /// Returns whether there is an index of all keys of the selected database.
    pub(in crate::kv) fn has_key_index(&self) -> bool {
        self.databases.selected().key_index.progress == Progress::Complete
    }

    /// Iterates over the keys between `min` and `max` in byte order, including keys that have
    /// expired but have not been removed yet.
    ///
    /// # Panics
    /// If there is no complete index.
    pub(in crate::kv) fn keys_between<'k>(
        &'k self,
        min: Bound<&[u8]>,
        max: Bound<&[u8]>,
    ) -> impl Iterator<Item = &'k [u8]> + use<'k> {
        let key_index = &self.databases.selected().key_index;
        assert!(self.has_key_index(), "the index of keys is {:?}", key_index.progress);
        key_index.used.set(true);
        let range = (!is_inverted(min, max))
            .then(|| key_index.keys.range::<[u8], (Bound<&[u8]>, Bound<&[u8]>)>((min, max)));
        range.into_iter().flatten().map(|key| &**key)
    }

    /// Adds the next piece of at least [`PIECE_KEYS_MIN`] keys to the index of the first database
    /// whose index is wanted and not complete. Returns whether there is no such index any more.
    pub(in crate::kv) fn build_key_index(&mut self) -> bool {
        let wanted = self.databases.used().filter(|(_, database)| {
            database.key_index.is_wanted.get() && database.key_index.progress != Progress::Complete
        });
        let next: Vec<_> = wanted.map(|(id, _)| id).collect();
        let Some(&id) = next.first() else { return true };
        let is_last = next.len() == 1;
        let database = self.databases.get_mut(id);
        database.key_index.build_piece(&database.shards) && is_last
    }

    /// Drops the indexes of all databases; the next read of a range builds a new one. Their memory
    /// is freed in the background, like that of removed values.
    pub(in crate::kv) fn drop_key_indexes(&mut self) {
        for id in self.databases.used_ids() {
            let index = std::mem::take(&mut self.databases.get_mut(id).key_index);
            self.unlinked.add_keys(index.keys, index.bytes);
        }
    }

    /// Returns whether any database has an index, or a part of one.
    pub(in crate::kv) fn has_any_key_index(&self) -> bool {
        self.databases.used().any(|(_, database)| database.key_index.progress != Progress::None)
    }

    /// Returns whether a read has used an index since the last call.
    pub(in crate::kv) fn take_key_index_used(&mut self) -> bool {
        let uses = self.databases.used().map(|(_, database)| database.key_index.used.take());
        uses.fold(false, |any, used| any | used)
    }
}

/// Returns whether no key can be between the bounds. `BTreeSet::range` panics on some of these.
fn is_inverted(min: Bound<&[u8]>, max: Bound<&[u8]>) -> bool {
    match (min, max) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(min), Bound::Included(max)) => min > max,
        (
            Bound::Included(min) | Bound::Excluded(min),
            Bound::Included(max) | Bound::Excluded(max),
        ) => min >= max,
    }
}

#[cfg(test)]
impl Keyspace {
    /// Asserts that a complete index has exactly the keys of the keyspace, and that the memory
    /// usage of the index is the sum over its keys.
    pub(super) fn check_key_index(&self) {
        let index = &self.databases.selected().key_index;
        let bytes: usize = index.keys.iter().map(|key| KEY_BYTES + key.len()).sum();
        assert_eq!(index.bytes, bytes);
        if self.has_key_index() {
            let keys: BTreeSet<&[u8]> = self.entries().map(super::entry::KeyEntry::key).collect();
            assert!(index.keys.iter().map(|key| &**key).eq(keys), "other keys than the keyspace");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::keyspace::databases::DatabaseId;
    use crate::kv::keyspace::expiration::REMOVED_MAX;

    fn key(number: usize) -> Vec<u8> {
        format!("key:{number:05}").into_bytes()
    }

    /// Builds the index, calling `between` with the number of each piece after it was added.
    /// Returns the number of pieces.
    fn build(keyspace: &mut Keyspace, mut between: impl FnMut(&mut Keyspace, usize)) -> usize {
        assert!(!keyspace.wants_key_index());
        let mut pieces = 1;
        while !keyspace.build_key_index() {
            between(keyspace, pieces);
            pieces += 1;
        }
        pieces
    }

    #[test]
    fn key_index_is_exact_after_changes_while_it_is_built() {
        let mut keyspace = Keyspace::default();
        for number in 0..10_000 {
            keyspace.put_expiring(&key(number), b"v", (number % 10 == 0).then_some(5));
        }
        let pieces = build(&mut keyspace, |keyspace, piece| {
            keyspace.check_key_index();
            for number in (piece..10_000).step_by(97) {
                keyspace.remove(&key(number));
                keyspace.put(&key(number + 20_000), b"v");
                keyspace.put(&key(number + 1), b"w");
            }
            keyspace.advance_clock(5);
            keyspace.remove_expired(REMOVED_MAX);
        });
        assert!((5..=10).contains(&pieces), "{pieces} pieces of at least 1,024 keys");
        keyspace.check_sums();
        assert!(keyspace.build_key_index(), "a complete index stays");
        keyspace.remove_expired(usize::MAX);
        keyspace.check_sums();
        keyspace.clear();
        keyspace.put(b"after", b"v");
        keyspace.check_sums();
        assert_eq!(
            keyspace.keys_between(Bound::Unbounded, Bound::Unbounded).collect::<Vec<_>>(),
            [b"after"]
        );
    }

    #[test]
    fn keyspace_without_range_reads_has_no_index() {
        let mut keyspace = Keyspace::default();
        keyspace.put(b"a", b"v");
        let memory = keyspace.memory();
        assert!(keyspace.build_key_index(), "there is nothing to build");
        assert_eq!((keyspace.wants_key_index(), keyspace.memory()), (false, memory));
        assert!(keyspace.build_key_index());
        assert_eq!(keyspace.memory(), memory + KEY_BYTES + 1);
        assert!(!keyspace.take_key_index_used());
        assert_eq!(keyspace.keys_between(Bound::Unbounded, Bound::Unbounded).count(), 1);
        assert!(keyspace.take_key_index_used() && !keyspace.take_key_index_used());
        keyspace.drop_key_indexes();
        assert_eq!((keyspace.has_key_index(), keyspace.memory()), (false, memory));
        keyspace.put(b"b", b"v");
        keyspace.remove(b"a");
        assert_eq!(keyspace.databases.selected().key_index.keys.len(), 0);
        keyspace.wants_key_index();
        assert!(keyspace.build_key_index());
        keyspace.check_sums();
    }

    #[test]
    fn each_database_has_its_own_key_index() {
        let mut keyspace = Keyspace::default();
        let [one, two] = [1, 2].map(|number| DatabaseId::new(number).unwrap());
        let all = |keyspace: &Keyspace, id| {
            keyspace.within(id, |it| {
                let keys = it.keys_between(Bound::Unbounded, Bound::Unbounded);
                keys.map(<[u8]>::to_vec).collect::<Vec<_>>()
            })
        };
        keyspace.put(b"zero", b"v");
        keyspace.within_mut(one, |it| it.put(b"one", b"v"));
        for id in [one, two] {
            assert!(!keyspace.within(id, Keyspace::wants_key_index));
        }
        assert!(!keyspace.build_key_index() && keyspace.build_key_index());
        assert!(!keyspace.has_key_index(), "no read has needed that of database 0");
        assert_eq!((all(&keyspace, one), all(&keyspace, two)), (vec![b"one".to_vec()], vec![]));
        keyspace.swap_databases(one, two);
        keyspace.within_mut(one, |it| it.put(b"new", b"v"));
        assert_eq!(all(&keyspace, one), [b"new"]);
        assert_eq!(all(&keyspace, two), [b"one"]);
        keyspace.check_sums();
        keyspace.drop_key_indexes();
        assert!(!keyspace.within(one, Keyspace::has_key_index));
    }

    #[test]
    fn inverted_key_range_is_empty() {
        let mut keyspace = Keyspace::default();
        for key in [b"a", b"b", b"c"] {
            keyspace.put(key, b"v");
        }
        keyspace.wants_key_index();
        keyspace.build_key_index();
        let between = |min, max| keyspace.keys_between(min, max).map(|key| key[0]).collect();
        let [a, b, c] = [&b"a"[..], b"b", b"c"];
        for (min, max, wanted) in [
            (Bound::Included(a), Bound::Included(b), &b"ab"[..]),
            (Bound::Excluded(a), Bound::Included(c), b"bc"),
            (Bound::Included(a), Bound::Excluded(c), b"ab"),
            (Bound::Excluded(a), Bound::Excluded(b), b""),
            (Bound::Excluded(b), Bound::Excluded(b), b""),
            (Bound::Included(b), Bound::Excluded(b), b""),
            (Bound::Included(b), Bound::Included(b), b"b"),
            (Bound::Included(c), Bound::Included(a), b""),
            (Bound::Excluded(b), Bound::Unbounded, b"c"),
        ] {
            let found: Vec<u8> = between(min, max);
            assert_eq!(found, wanted, "{min:?} {max:?}");
        }
    }
}
