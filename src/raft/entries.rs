//! A queue of log entries in fixed-size chunks. A `VecDeque` copies its contents when it grows, and
//! then occupies up to twice the memory it needs. This queue never moves an entry, so a log of a
//! million entries grows and shrinks without a pause.

use std::collections::VecDeque;

use crate::record::Entry;

/// Number of log entries in a full chunk of [`Entries`]; only 4 in tests, so that short logs fill
/// several chunks.
const CHUNK_LEN: usize = if cfg!(test) { 4 } else { 1_024 };

/// A queue of log entries, stored in chunks. The queue never moves an entry when it grows or
/// shrinks.
///
/// Invariant: no chunk is empty; all but the first and the last contain [`CHUNK_LEN`] entries.
#[derive(Debug, Default)]
pub(super) struct Entries {
    chunks: VecDeque<VecDeque<Entry>>,
}

impl Entries {
    pub(super) fn back(&self) -> Option<&Entry> {
        self.chunks.back()?.back()
    }

    pub(super) fn get(&self, position: usize) -> Option<&Entry> {
        let (chunk, offset) = self.locate(position);
        self.chunks.get(chunk)?.get(offset)
    }

    /// Returns an iterator over the entries from `position` on; position 0 is the front of the
    /// queue.
    pub(super) fn iter_from(&self, position: usize) -> impl Iterator<Item = &Entry> {
        let (chunk, offset) = self.locate(position);
        let chunk = chunk.min(self.chunks.len());
        let first = self.chunks.get(chunk).map_or(0, |first| offset.min(first.len()));
        self.chunks.range(chunk..).flatten().skip(first)
    }

    /// Returns the position of the first entry for which `predicate` is false, or the queue's
    /// length if there is none. The predicate must be true for a prefix of the queue and false for
    /// the rest.
    pub(super) fn partition_point(&self, predicate: impl Fn(&Entry) -> bool) -> usize {
        let full = self.chunks.partition_point(|chunk| chunk.back().is_none_or(&predicate));
        let inside = self.chunks.get(full).map_or(0, |chunk| chunk.partition_point(&predicate));
        self.count(full) + inside
    }

    pub(super) fn push_back(&mut self, entry: Entry) {
        if let Some(chunk) = self.chunks.back_mut().filter(|chunk| chunk.len() < CHUNK_LEN) {
            chunk.push_back(entry);
            return;
        }
        // Most simulations have a short log, which needs no full chunk.
        let capacity = if self.chunks.is_empty() { 1 } else { CHUNK_LEN };
        let mut chunk = VecDeque::with_capacity(capacity);
        chunk.push_back(entry);
        self.chunks.push_back(chunk);
        self.check_full_before_last();
    }

    pub(super) fn pop_front(&mut self) -> Option<Entry> {
        let first = self.chunks.front_mut()?;
        let entry = first.pop_front();
        assert!(entry.is_some(), "the first of {} chunks is empty", self.chunks.len());
        if first.is_empty() {
            self.chunks.pop_front();
        }
        entry
    }

    pub(super) fn pop_back(&mut self) -> Option<Entry> {
        let last = self.chunks.back_mut()?;
        let entry = last.pop_back();
        assert!(entry.is_some(), "the last of {} chunks is empty", self.chunks.len());
        if last.is_empty() {
            self.chunks.pop_back();
        }
        entry
    }

    pub(super) fn len(&self) -> usize {
        self.count(self.chunks.len())
    }

    /// Returns the number of entries in the first `chunks` chunks of the queue.
    fn count(&self, chunks: usize) -> usize {
        match chunks {
            0 => 0,
            1 => self.chunks[0].len(),
            _ => self.chunks[0].len() + (chunks - 2) * CHUNK_LEN + self.chunks[chunks - 1].len(),
        }
    }

    /// Returns the index of the chunk that holds the entry at `position`, and the entry's offset in
    /// that chunk. For a position past the end, returns where the entry would be.
    fn locate(&self, position: usize) -> (usize, usize) {
        let first = self.chunks.front().map_or(0, VecDeque::len);
        match position.checked_sub(first) {
            None => (0, position),
            Some(rest) => (1 + rest / CHUNK_LEN, rest % CHUNK_LEN),
        }
    }

    /// Panics if the second-to-last chunk of the queue is not full. Only the first and the last
    /// chunk may contain fewer than [`CHUNK_LEN`] entries.
    fn check_full_before_last(&self) {
        if let Some(before) = self.chunks.len().checked_sub(2).filter(|&chunk| chunk > 0) {
            let len = self.chunks[before].len();
            assert!(len == CHUNK_LEN, "an inner chunk has {len} entries of {CHUNK_LEN}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EntryKind, RecordBuffer};
    use crate::types::EntryId;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Action {
        Push(usize),
        PopFront(usize),
        PopBack(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            (0_usize..12).prop_map(Action::Push),
            (0_usize..9).prop_map(Action::PopFront),
            (0_usize..9).prop_map(Action::PopBack),
        ]
    }

    proptest! {
        /// Compares the queue in chunks with a `VecDeque`.
        #[test]
        fn chunked_log_entry_queue_matches_a_vecdeque(
            actions in proptest::collection::vec(action(), 0..40),
        ) {
            let mut buffer = RecordBuffer::default();
            let mut chunks = Entries::default();
            let mut model: VecDeque<Entry> = VecDeque::new();
            let mut next = 1;
            for action in actions {
                match action {
                    Action::Push(count) => for _ in 0..count {
                        let entry =
                            buffer.encode(EntryId::new(1, next), EntryKind::Command, b"");
                        next += 1;
                        chunks.push_back(entry.clone());
                        model.push_back(entry);
                    },
                    Action::PopFront(count) => for _ in 0..count {
                        prop_assert_eq!(chunks.pop_front(), model.pop_front());
                    },
                    Action::PopBack(count) => for _ in 0..count {
                        prop_assert_eq!(chunks.pop_back(), model.pop_back());
                    },
                }
                prop_assert_eq!(chunks.len(), model.len());
                prop_assert_eq!(chunks.back(), model.back());
                for position in 0..model.len() + 6 {
                    prop_assert_eq!(chunks.get(position), model.get(position));
                    let rest: Vec<_> = chunks.iter_from(position).collect();
                    let expected: Vec<_> = model.iter().skip(position).collect();
                    prop_assert_eq!(rest, expected);
                    let bound = model.get(position).map_or(next, |entry| entry.index().0);
                    let below = |entry: &Entry| entry.index().0 < bound;
                    prop_assert_eq!(chunks.partition_point(below), model.partition_point(below));
                }
            }
        }
    }
}
