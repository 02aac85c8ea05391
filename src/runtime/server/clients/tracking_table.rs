//! Client-side caching: the keys that clients have read and may have in their caches, and the
//! prefixes of clients in broadcasting mode. Knows no connections; `tracking` uses it.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use indexmap::IndexMap;

use crate::redis::SubscriberId;

use super::prefixes::prefixes_of;

/// Estimated memory usage of a key in bytes, without the key's own bytes and its readers.
const KEY_BYTES: usize = 128;

/// The keys that clients have read, each with its readers, and the prefixes of clients in
/// broadcasting mode.
///
/// Invariant: each key has at least one reader. The readers of a key are sorted. Readers that are
/// not connected any more may remain. `items` is the number of all readers, and `bytes` the
/// estimated memory usage of the keys.
#[derive(Debug, Default)]
pub(super) struct TrackingTable {
    keys: IndexMap<Bytes, Vec<SubscriberId>, RandomState>,
    items: usize,
    bytes: usize,
    prefixes: BTreeMap<Bytes, BTreeSet<usize>>,
    /// A pseudorandom number, which chooses the next key to evict.
    evict_at: u64,
}

fn bytes_of(key: &Bytes, readers: usize) -> usize {
    KEY_BYTES + key.len() + readers * size_of::<SubscriberId>()
}

impl TrackingTable {
    pub(super) fn key_count(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn item_count(&self) -> usize {
        self.items
    }

    pub(super) fn prefix_count(&self) -> usize {
        self.prefixes.len()
    }

    /// Returns the estimated memory usage of the keys, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records that `reader` has read `key`. Before the list of the key's readers grows, removes
    /// those for which `is_current` returns false.
    pub(super) fn add(
        &mut self,
        key: Bytes,
        reader: SubscriberId,
        is_current: impl FnMut(&SubscriberId) -> bool,
    ) {
        let key_bytes = bytes_of(&key, 0);
        let readers = self.keys.entry(key).or_insert_with(|| {
            self.bytes += key_bytes;
            Vec::new()
        });
        let Err(mut position) = readers.binary_search(&reader) else { return };
        if readers.len() == readers.capacity() && !readers.is_empty() {
            let before = readers.len();
            readers.retain(is_current);
            let removed = before - readers.len();
            self.items -= removed;
            self.bytes -= removed * size_of::<SubscriberId>();
            position = readers.partition_point(|other| *other < reader);
        }
        readers.insert(position, reader);
        self.items += 1;
        self.bytes += size_of::<SubscriberId>();
    }

    /// Removes a key, and returns its readers.
    pub(super) fn take(&mut self, key: &[u8]) -> Vec<SubscriberId> {
        let removed = self.keys.swap_remove_entry(key);
        removed.map_or_else(Vec::new, |(key, readers)| self.removed(&key, readers))
    }

    fn removed(&mut self, key: &Bytes, readers: Vec<SubscriberId>) -> Vec<SubscriberId> {
        self.items -= readers.len();
        self.bytes -= bytes_of(key, readers.len());
        readers
    }

    /// Removes a key if there are more than `keys_max`, or if they use more than `bytes_max` bytes.
    /// Returns the key and its readers; `None` if the table is small enough.
    pub(super) fn evict(
        &mut self,
        keys_max: usize,
        bytes_max: usize,
    ) -> Option<(Bytes, Vec<SubscriberId>)> {
        if self.keys.len() <= keys_max && self.bytes <= bytes_max {
            return None;
        }
        // Which key is chosen matters little, as long as it is not always one of the oldest, which
        // may be the ones that are read most. The constants are Knuth's for MMIX.
        self.evict_at = self
            .evict_at
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let count = self.keys.len() as u64;
        let index = usize::try_from((self.evict_at >> 32) % count).expect("below the count");
        let (key, readers) = self.keys.swap_remove_index(index).expect("below the count");
        let readers = self.removed(&key, readers);
        Some((key, readers))
    }

    /// Removes all keys, but no prefixes.
    pub(super) fn clear(&mut self) {
        self.keys = IndexMap::default();
        (self.items, self.bytes) = (0, 0);
    }

    /// Adds a prefix of the client at `index`, which is in broadcasting mode.
    pub(super) fn add_prefix(&mut self, prefix: &Bytes, index: usize) {
        self.prefixes.entry(prefix.clone()).or_default().insert(index);
    }

    /// Removes a prefix of the client at `index`.
    pub(super) fn remove_prefix(&mut self, prefix: &Bytes, index: usize) {
        if let Some(clients) = self.prefixes.get_mut(prefix) {
            clients.remove(&index);
            if clients.is_empty() {
                self.prefixes.remove(prefix);
            }
        }
    }

    /// Returns the prefixes of `key`, each with the indexes of its clients.
    pub(super) fn prefixes_of(&self, key: &[u8]) -> Vec<(&Bytes, &BTreeSet<usize>)> {
        prefixes_of(&self.prefixes, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Bytes {
        Bytes::copy_from_slice(name.as_bytes())
    }

    fn check(table: &TrackingTable) {
        assert_eq!(table.items, table.keys.values().map(Vec::len).sum::<usize>());
        let bytes = table.keys.iter().map(|(key, readers)| bytes_of(key, readers.len()));
        assert_eq!(table.bytes, bytes.sum::<usize>());
        assert!(table.keys.values().all(|readers| readers.is_sorted() && !readers.is_empty()));
    }

    #[test]
    fn keys_are_taken_with_all_their_readers() {
        let mut table = TrackingTable::default();
        for (name, reader) in [("a", 3), ("b", 1), ("a", 1), ("a", 3), ("a", 2)] {
            table.add(key(name), reader, |_| true);
            check(&table);
        }
        assert_eq!((table.key_count(), table.item_count()), (2, 4));
        assert_eq!((table.take(b"a"), table.take(b"a")), (vec![1, 2, 3], vec![]));
        check(&table);
        table.clear();
        assert_eq!((table.key_count(), table.item_count(), table.bytes()), (0, 0, 0));
    }

    #[test]
    fn readers_that_have_left_are_removed_before_the_list_grows() {
        let mut table = TrackingTable::default();
        for reader in 0..10_000 {
            table.add(key("a"), reader, |other| *other + 3 > reader);
            check(&table);
        }
        let readers = table.take(b"a");
        assert!(readers.len() < 10 && readers.ends_with(&[9_997, 9_998, 9_999]), "{readers:?}");
    }

    #[test]
    fn keys_above_a_limit_are_evicted() {
        let mut table = TrackingTable::default();
        for number in 0..1_000 {
            table.add(key(&number.to_string()), 7, |_| true);
        }
        let mut evicted = BTreeSet::new();
        while let Some((key, readers)) = table.evict(400, usize::MAX) {
            assert_eq!(readers, [7]);
            assert!(evicted.insert(key));
        }
        assert_eq!((table.key_count(), evicted.len()), (400, 600));
        let early = evicted.iter().filter(|key| key.len() < 3).count();
        assert!((20..90).contains(&early), "{early} of the 100 oldest");
        while table.evict(usize::MAX, 5_000).is_some() {
            check(&table);
        }
        assert!(table.bytes() <= 5_000 && table.bytes() > 4_500, "{}", table.bytes());
    }
}
