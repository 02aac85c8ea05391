//! Maps from stream ids to values, divided into chunks: the pending entries of consumer groups.
//! Snapshots share the chunks of a large map, so a change copies one chunk instead of the whole
//! map.

use std::collections::VecDeque;
use std::sync::Arc;

use super::id::StreamId;

/// Maximum number of ids in a chunk of a map.
const CHUNK_LEN_MAX: usize = 128;
/// Maximum number of ids of two adjacent chunks that are merged after a removal.
const MERGED_LEN_MAX: usize = CHUNK_LEN_MAX / 2;

type Chunk<V> = Vec<(StreamId, V)>;

/// A map from ids to values, in the order of the ids.
///
/// Invariant: no chunk is empty, and the ids ascend, within chunks and from one chunk to the next.
/// `len` is the number of ids.
#[derive(Debug, Clone)]
pub(in crate::kv) struct IdMap<V> {
    chunks: VecDeque<Arc<Chunk<V>>>,
    len: usize,
}

impl<V> Default for IdMap<V> {
    fn default() -> IdMap<V> {
        IdMap { chunks: VecDeque::new(), len: 0 }
    }
}

impl<V: Clone> IdMap<V> {
    pub(in crate::kv) fn len(&self) -> usize {
        self.len
    }

    /// Returns the index of the chunk that contains `id` or into which `id` belongs; the number of
    /// chunks if all ids of the map are lower.
    fn chunk_of(&self, id: StreamId) -> usize {
        let is_before = |chunk: &Arc<Chunk<V>>| chunk[chunk.len() - 1].0 < id;
        // Most ids are added at the end.
        match self.chunks.back() {
            Some(last) if is_before(last) => self.chunks.len(),
            _ => self.chunks.partition_point(is_before),
        }
    }

    fn find(&self, id: StreamId) -> Option<(usize, usize)> {
        let at = self.chunk_of(id);
        let within = self.chunks.get(at)?.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some((at, within))
    }

    /// Returns the value of an id; `None` if the map does not contain the id.
    pub(in crate::kv) fn get(&self, id: StreamId) -> Option<&V> {
        let (at, within) = self.find(id)?;
        Some(&self.chunks[at][within].1)
    }

    /// Sets the value of an id. Returns the old value; `None` if the map did not contain the id.
    pub(in crate::kv) fn insert(&mut self, id: StreamId, value: V) -> Option<V> {
        let mut at = self.chunk_of(id);
        if at == self.chunks.len() {
            self.len += 1;
            match self.chunks.back_mut().filter(|chunk| chunk.len() < CHUNK_LEN_MAX) {
                Some(chunk) => Arc::make_mut(chunk).push((id, value)),
                None => self.chunks.push_back(Arc::new(vec![(id, value)])),
            }
            return None;
        }
        let mut within = match self.chunks[at].binary_search_by_key(&id, |(id, _)| *id) {
            Ok(within) => {
                let old = &mut Arc::make_mut(&mut self.chunks[at])[within].1;
                return Some(std::mem::replace(old, value));
            }
            Err(within) => within,
        };
        self.len += 1;
        if self.chunks[at].len() >= CHUNK_LEN_MAX {
            let half = CHUNK_LEN_MAX / 2;
            let behind = Arc::make_mut(&mut self.chunks[at]).split_off(half);
            self.chunks.insert(at + 1, Arc::new(behind));
            if within > half {
                (at, within) = (at + 1, within - half);
            }
        }
        Arc::make_mut(&mut self.chunks[at]).insert(within, (id, value));
        None
    }

    /// Removes an id, and returns its value; `None` if the map does not contain the id.
    pub(in crate::kv) fn remove(&mut self, id: StreamId) -> Option<V> {
        let (at, within) = self.find(id)?;
        self.len -= 1;
        let (_, value) = Arc::make_mut(&mut self.chunks[at]).remove(within);
        if self.chunks[at].is_empty() {
            self.chunks.remove(at);
        } else if let Some(next) = self.chunks.get(at + 1)
            && self.chunks[at].len() + next.len() <= MERGED_LEN_MAX
        {
            let next = self.chunks.remove(at + 1).expect("it is there");
            Arc::make_mut(&mut self.chunks[at]).extend(next.iter().cloned());
        }
        Some(value)
    }

    /// Iterates over the ids that are at least `from`, in ascending order, with their values.
    pub(in crate::kv) fn iter_from(&self, from: StreamId) -> impl Iterator<Item = (StreamId, &V)> {
        let at = self.chunk_of(from);
        let within = self.chunks.get(at).map_or(0, |chunk| chunk.partition_point(|it| it.0 < from));
        let items = self.chunks.range(at..).flat_map(|chunk| chunk.iter());
        items.skip(within).map(|(id, value)| (*id, value))
    }

    /// Iterates over all ids, in ascending order, with their values.
    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = (StreamId, &V)> {
        self.iter_from(StreamId::MIN)
    }

    /// Returns the lowest id; `None` if the map is empty.
    pub(in crate::kv) fn first(&self) -> Option<StreamId> {
        Some(self.chunks.front()?.first()?.0)
    }

    /// Returns the highest id; `None` if the map is empty.
    pub(in crate::kv) fn last(&self) -> Option<StreamId> {
        Some(self.chunks.back()?.last()?.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(map: &IdMap<u32>, model: &BTreeMap<StreamId, u32>) {
        assert_eq!(map.len(), model.len());
        assert!(map.iter().eq(model.iter().map(|(id, value)| (*id, value))));
        assert_eq!(map.first(), model.keys().next().copied());
        assert_eq!(map.last(), model.keys().next_back().copied());
        assert!(map.chunks.iter().all(|chunk| (1..=CHUNK_LEN_MAX).contains(&chunk.len())));
        for number in 0..40 {
            let from = StreamId::new(number * 17 / 10, number % 10);
            let wanted = model.range(from..).map(|(id, value)| (*id, value));
            assert!(map.iter_from(from).eq(wanted), "from {from}");
            assert_eq!(map.get(from), model.get(&from));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pending_entry_map_matches_an_ordered_map(
            runs in proptest::collection::vec(
                (any::<bool>(), 0..900_u64, 1..7_u64, 1..300_u64), 1..16,
            ),
        ) {
            let (mut map, mut model) = (IdMap::default(), BTreeMap::new());
            let mut seen = Vec::new();
            for (inserts, start, step, count) in runs {
                for turn in 0..count {
                    let number = (start + step * turn) % 900;
                    let id = StreamId::new(number / 10, number % 10);
                    if inserts {
                        let value = u32::try_from(turn).unwrap();
                        prop_assert_eq!(map.insert(id, value), model.insert(id, value));
                    } else {
                        prop_assert_eq!(map.remove(id), model.remove(&id));
                    }
                }
                check(&map, &model);
                seen.push((map.clone(), model.clone()));
            }
            // Clones that were made earlier have not changed.
            for (map, model) in &seen {
                check(map, model);
            }
        }
    }

    #[test]
    fn acknowledgement_copies_only_one_chunk_of_pending_entries() {
        let mut map = IdMap::default();
        (0..10_000).for_each(|number| assert_eq!(map.insert(StreamId::new(number, 0), 0), None));
        let view = map.clone();
        map.remove(StreamId::new(5_000, 0));
        let is_shared =
            |chunk: &&Arc<Chunk<i32>>| view.chunks.iter().any(|one| Arc::ptr_eq(one, chunk));
        let own = map.chunks.iter().filter(|chunk| !is_shared(chunk)).count();
        assert_eq!(own, 1, "of {}", map.chunks.len());
    }
}
