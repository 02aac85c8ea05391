//! An ordered map from elements to values whose clones share memory. Sets and sorted sets are made
//! of it.
//!
//! The entries have positions, as in a vector: a new one is the last, and the last one moves to the
//! place of a removed one. A small map is one table. A large one has its entries in chunks, and
//! finds the position of an element in an index of buckets; clones share the chunks and the
//! buckets. So a change of a shared map copies a few hundred entries, and the lists of chunks and
//! of buckets.

use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use indexmap::IndexMap;

use super::digest::key_hash;
use super::element::Element;
use super::hash::{bucket_bits, bucket_of};

/// Maximum number of entries of a map that is one table.
const SMALL_LEN_MAX: usize = 1 << 10;
/// Number of entries of each chunk but the last.
const CHUNK_LEN: usize = 1 << 8;
/// Average number of entries per bucket above which there are more buckets.
const BUCKET_LEN: usize = 1 << 9;

type Entries<V> = IndexMap<Element, V, FixedState>;

/// An ordered map from elements to values. The order depends only on the insertions and removals,
/// not on whether the map is small or was cloned.
#[derive(Debug, Clone)]
pub(super) enum SharedMap<V> {
    Small(Entries<V>),
    Large(Large<V>),
}

/// A map in chunks.
///
/// Invariant: all chunks but the last have [`CHUNK_LEN`] entries, the last has at least one. Each
/// entry has a place in the bucket of its hash, and there are no other places.
#[derive(Debug, Clone)]
pub(super) struct Large<V> {
    chunks: Vec<Arc<Vec<(Element, V)>>>,
    buckets: Vec<Arc<HashTable<Place>>>,
    len: usize,
}

/// Where the entry of an element is.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The hash of the element.
    hash: u64,
    position: usize,
}

impl<V> Default for SharedMap<V> {
    fn default() -> SharedMap<V> {
        SharedMap::Small(Entries::default())
    }
}

impl<V: Clone> SharedMap<V> {
    pub(super) fn len(&self) -> usize {
        match self {
            SharedMap::Small(entries) => entries.len(),
            SharedMap::Large(large) => large.len,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the position of an element; `None` if the map does not have it.
    pub(super) fn position(&self, element: &[u8]) -> Option<usize> {
        match self {
            SharedMap::Small(entries) => entries.get_index_of(element),
            SharedMap::Large(large) => large.position(key_hash(element), element),
        }
    }

    /// Returns the value of an element; `None` if the map does not have it.
    pub(super) fn get(&self, element: &[u8]) -> Option<&V> {
        match self {
            SharedMap::Small(entries) => entries.get(element),
            SharedMap::Large(large) => {
                Some(&large.at(large.position(key_hash(element), element)?).1)
            }
        }
    }

    /// Returns the entry at a position; `None` if the position is not below the number of entries.
    pub(super) fn at(&self, position: usize) -> Option<(&Element, &V)> {
        match self {
            SharedMap::Small(entries) => entries.get_index(position),
            SharedMap::Large(large) => (position < large.len).then(|| {
                let (element, value) = large.at(position);
                (element, value)
            }),
        }
    }

    /// Returns a mutable reference to the value at a position, which must exist. Copies its chunk
    /// if it is shared.
    pub(super) fn value_mut(&mut self, position: usize) -> &mut V {
        match self {
            SharedMap::Small(entries) => &mut entries[position],
            SharedMap::Large(large) => &mut large.at_mut(position).1,
        }
    }

    /// Adds an element, which the map must not have, with its value.
    pub(super) fn push(&mut self, element: Element, value: V) {
        match self {
            SharedMap::Small(entries) if entries.len() < SMALL_LEN_MAX => {
                let (_, replaced) = entries.insert_full(element, value);
                assert!(replaced.is_none(), "the element is in the map");
            }
            SharedMap::Small(entries) => {
                let mut large = Large::of(std::mem::take(entries));
                large.push(element, value);
                *self = SharedMap::Large(large);
            }
            SharedMap::Large(large) => large.push(element, value),
        }
    }

    /// Removes and returns the entry at a position, to which the last entry then moves; `None` if
    /// the position is not below the number of entries.
    pub(super) fn swap_remove(&mut self, position: usize) -> Option<(Element, V)> {
        match self {
            SharedMap::Small(entries) => entries.swap_remove_index(position),
            SharedMap::Large(large) => (position < large.len).then(|| large.swap_remove(position)),
        }
    }

    /// Iterates over the entries at the positions in `range`, which must not exceed their number.
    pub(super) fn range(&self, range: Range<usize>) -> impl Iterator<Item = (&Element, &V)> {
        range.map(|position| self.at(position).expect("within the map"))
    }

    /// Iterates over all entries.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Element, &V)> {
        let (small, large) = match self {
            SharedMap::Small(entries) => (Some(entries), None),
            SharedMap::Large(large) => (None, Some(large)),
        };
        let in_chunks = large.into_iter().flat_map(|large| large.chunks.iter());
        let in_chunks = in_chunks.flat_map(|chunk| chunk.iter().map(|(key, value)| (key, value)));
        small.into_iter().flatten().chain(in_chunks)
    }
}

impl<V: Clone> Large<V> {
    fn of(entries: Entries<V>) -> Large<V> {
        let mut large = Large { chunks: Vec::new(), buckets: vec![Arc::default()], len: 0 };
        for (element, value) in entries {
            large.push(element, value);
        }
        large
    }

    fn at(&self, position: usize) -> &(Element, V) {
        &self.chunks[position / CHUNK_LEN][position % CHUNK_LEN]
    }

    fn at_mut(&mut self, position: usize) -> &mut (Element, V) {
        &mut Arc::make_mut(&mut self.chunks[position / CHUNK_LEN])[position % CHUNK_LEN]
    }

    fn position(&self, hash: u64, element: &[u8]) -> Option<usize> {
        let bucket = &self.buckets[bucket_of(bucket_bits(hash), self.buckets.len())];
        let is_it = |place: &Place| place.hash == hash && self.at(place.position).0[..] == *element;
        bucket.find(hash, is_it).map(|place| place.position)
    }

    fn bucket_mut(&mut self, hash: u64) -> &mut HashTable<Place> {
        let bucket = bucket_of(bucket_bits(hash), self.buckets.len());
        Arc::make_mut(&mut self.buckets[bucket])
    }

    fn push(&mut self, element: Element, value: V) {
        let (hash, position) = (key_hash(&element), self.len);
        debug_assert!(self.position(hash, &element).is_none(), "the element is in the map");
        if position.is_multiple_of(CHUNK_LEN) {
            self.chunks.push(Arc::new(Vec::with_capacity(CHUNK_LEN)));
        }
        let chunk = self.chunks.last_mut().expect("one was added for the first entry");
        Arc::make_mut(chunk).push((element, value));
        self.bucket_mut(hash).insert_unique(hash, Place { hash, position }, |place| place.hash);
        self.len += 1;
        if self.len > self.buckets.len() * BUCKET_LEN {
            self.split();
        }
    }

    /// Adds a bucket, and moves some places of one existing bucket to it (linear hashing).
    fn split(&mut self) {
        let new = self.buckets.len();
        let old = &mut self.buckets[new - (1 << new.ilog2())];
        let (mut kept, mut moved) = (HashTable::new(), HashTable::new());
        for place in old.iter() {
            let is_moved = bucket_of(bucket_bits(place.hash), new + 1) == new;
            let table = if is_moved { &mut moved } else { &mut kept };
            table.insert_unique(place.hash, *place, |place| place.hash);
        }
        *old = Arc::new(kept);
        self.buckets.push(Arc::new(moved));
    }

    fn swap_remove(&mut self, position: usize) -> (Element, V) {
        let last = self.len - 1;
        let hash = key_hash(&self.at(position).0);
        let place = self.bucket_mut(hash).find_entry(hash, |place| place.position == position);
        place.expect("each entry has a place").remove();
        let chunk = Arc::make_mut(self.chunks.last_mut().expect("it has the last entry"));
        let mut entry = chunk.pop().expect("a chunk has entries");
        if chunk.is_empty() {
            self.chunks.pop();
        }
        self.len = last;
        if position < last {
            let hash = key_hash(&entry.0);
            let place = self.bucket_mut(hash).find_mut(hash, |place| place.position == last);
            place.expect("each entry has a place").position = position;
            entry = std::mem::replace(self.at_mut(position), entry);
        }
        entry
    }
}

#[cfg(test)]
impl<V: Clone> SharedMap<V> {
    /// Returns how many entries and places of this map are not shared with `other`: an upper bound
    /// of those that were copied.
    pub(super) fn unshared(&self, other: &SharedMap<V>) -> usize {
        let (SharedMap::Large(one), SharedMap::Large(two)) = (self, other) else {
            return self.len();
        };
        let chunks = one.chunks.iter().enumerate().filter(|(at, chunk)| {
            two.chunks.get(*at).is_none_or(|other| !Arc::ptr_eq(chunk, other))
        });
        let buckets = one.buckets.iter().enumerate().filter(|(at, bucket)| {
            two.buckets.get(*at).is_none_or(|other| !Arc::ptr_eq(bucket, other))
        });
        chunks.map(|(_, chunk)| chunk.len()).sum::<usize>()
            + buckets.map(|(_, bucket)| bucket.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: usize) -> Element {
        Element::from(format!("element {number}").as_bytes())
    }

    fn filled(count: usize) -> SharedMap<usize> {
        let mut map = SharedMap::default();
        (0..count).for_each(|number| map.push(name(number), number));
        map
    }

    /// Asserts that the map has the entries of its naive twin in the same order.
    fn check(map: &SharedMap<usize>, twin: &Entries<usize>) {
        assert!(map.iter().eq(twin.iter()));
        assert!(map.range(0..map.len()).eq(twin.iter()));
        assert_eq!((map.len(), map.at(twin.len())), (twin.len(), None));
        for (position, (element, value)) in twin.iter().enumerate() {
            assert_eq!(map.position(element), Some(position));
            assert_eq!(map.get(element), Some(value));
        }
        if let SharedMap::Large(large) = map {
            let places: usize = large.buckets.iter().map(|bucket| bucket.len()).sum();
            assert_eq!(places, twin.len());
            let full = large.chunks.iter().filter(|chunk| chunk.len() == CHUNK_LEN).count();
            assert!(full + 1 >= large.chunks.len() && large.chunks.iter().all(|it| !it.is_empty()));
        }
    }

    proptest! {
        #[test]
        fn shared_map_has_the_order_of_an_index_map(
            steps in proptest::collection::vec((any::<u16>(), 0..4_u8), 0..400),
            start in 0..3_000_usize,
        ) {
            let (mut map, mut twin) = (filled(start), Entries::default());
            twin.extend((0..start).map(|number| (name(number), number)));
            let before = (map.clone(), twin.clone());
            for (number, step) in steps {
                let number = usize::from(number);
                let position = number % twin.len().max(1);
                match step {
                    0 | 1 => prop_assert_eq!(
                        map.swap_remove(position), twin.swap_remove_index(position)
                    ),
                    2 if position < twin.len() => {
                        *map.value_mut(position) += 7;
                        twin[position] += 7;
                    }
                    _ => {
                        let element = name(start + number);
                        if twin.insert(element.clone(), number).is_none() {
                            map.push(element, number);
                        } else {
                            *map.value_mut(twin.get_index_of(&element).unwrap()) = number;
                        }
                    }
                }
            }
            check(&map, &twin);
            check(&before.0, &before.1);
        }
    }

    #[test]
    fn change_of_a_shared_map_copies_a_few_hundred_entries() {
        let map = filled(100_000);
        let mut added = map.clone();
        assert_eq!(added.unshared(&map), 0);
        added.push(name(100_000), 1);
        let mut changed = map.clone();
        *changed.value_mut(50_000) = 1;
        let mut removed = map.clone();
        removed.swap_remove(70_000);
        for (what, copy) in [("added", added), ("changed", changed), ("removed", removed)] {
            let copied = copy.unshared(&map);
            assert!((1..4_000).contains(&copied), "{what}: {copied}");
        }
        let mut emptied = map.clone();
        for number in 0..100_000 {
            assert!(emptied.swap_remove(emptied.len() / 2).is_some(), "{number}");
        }
        assert!(emptied.is_empty() && emptied.swap_remove(0).is_none());
        assert_eq!(map.get(&name(99_999)), Some(&99_999));
    }
}
