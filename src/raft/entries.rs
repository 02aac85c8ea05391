//! Entries in a queue that never copies what it holds: a log of a million entries grows and shrinks
//! without a pause, and has no more memory than it needs.
//!
//! (A `VecDeque` doubles: it has up to twice the memory it needs, three times while it moves.)

use std::collections::VecDeque;

use crate::record::Entry;

/// Entries in a piece.
const PIECE: usize = if cfg!(test) { 4 } else { 1_024 };

/// A queue of entries in pieces.
///
/// Invariant: no piece is empty; all but the first and the last hold [`PIECE`] entries.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pieces: VecDeque<VecDeque<Entry>>,
}

impl Entries {
    pub(super) fn back(&self) -> Option<&Entry> {
        self.pieces.back()?.back()
    }

    pub(super) fn get(&self, position: usize) -> Option<&Entry> {
        let (piece, place) = self.place(position);
        self.pieces.get(piece)?.get(place)
    }

    /// All from `position` on.
    pub(super) fn iter_from(&self, position: usize) -> impl Iterator<Item = &Entry> {
        let (piece, place) = self.place(position);
        let piece = piece.min(self.pieces.len());
        let first = self.pieces.get(piece).map_or(0, |first| place.min(first.len()));
        self.pieces.range(piece..).flatten().skip(first)
    }

    /// How many from the first on `holds` is true of, which must be false from some entry on.
    pub(super) fn partition_point(&self, holds: impl Fn(&Entry) -> bool) -> usize {
        let whole = self.pieces.partition_point(|piece| piece.back().is_none_or(&holds));
        let inside = self.pieces.get(whole).map_or(0, |piece| piece.partition_point(&holds));
        self.count(whole) + inside
    }

    pub(super) fn push_back(&mut self, entry: Entry) {
        if let Some(piece) = self.pieces.back_mut().filter(|piece| piece.len() < PIECE) {
            piece.push_back(entry);
            return;
        }
        // A log that stays short, as in most simulations, needs no whole piece.
        let room = if self.pieces.is_empty() { 1 } else { PIECE };
        let mut piece = VecDeque::with_capacity(room);
        piece.push_back(entry);
        self.pieces.push_back(piece);
    }

    pub(super) fn pop_front(&mut self) -> Option<Entry> {
        let first = self.pieces.front_mut()?;
        let entry = first.pop_front();
        if first.is_empty() {
            self.pieces.pop_front();
        }
        entry
    }

    pub(super) fn pop_back(&mut self) -> Option<Entry> {
        let last = self.pieces.back_mut()?;
        let entry = last.pop_back();
        if last.is_empty() {
            self.pieces.pop_back();
        }
        entry
    }

    pub(super) fn len(&self) -> usize {
        self.count(self.pieces.len())
    }

    /// Entries in the first so many pieces.
    fn count(&self, pieces: usize) -> usize {
        match pieces {
            0 => 0,
            1 => self.pieces[0].len(),
            _ => self.pieces[0].len() + (pieces - 2) * PIECE + self.pieces[pieces - 1].len(),
        }
    }

    /// The piece that a position is or would be in, and where in it.
    fn place(&self, position: usize) -> (usize, usize) {
        let first = self.pieces.front().map_or(0, VecDeque::len);
        match position.checked_sub(first) {
            None => (0, position),
            Some(behind) => (1 + behind / PIECE, behind % PIECE),
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
    enum Step {
        Push(usize),
        PopFront(usize),
        PopBack(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_usize..12).prop_map(Step::Push),
            (0_usize..9).prop_map(Step::PopFront),
            (0_usize..9).prop_map(Step::PopBack),
        ]
    }

    proptest! {
        /// Pieces beside one queue.
        #[test]
        fn pieces_are_as_one_queue(steps in proptest::collection::vec(step(), 0..40)) {
            let mut buffer = RecordBuffer::default();
            let mut pieces = Entries::default();
            let mut model: VecDeque<Entry> = VecDeque::new();
            let mut next = 1;
            for step in steps {
                match step {
                    Step::Push(count) => for _ in 0..count {
                        let entry =
                            buffer.encode(EntryId::new(1, next), EntryKind::Command, b"");
                        next += 1;
                        pieces.push_back(entry.clone());
                        model.push_back(entry);
                    },
                    Step::PopFront(count) => for _ in 0..count {
                        prop_assert_eq!(pieces.pop_front(), model.pop_front());
                    },
                    Step::PopBack(count) => for _ in 0..count {
                        prop_assert_eq!(pieces.pop_back(), model.pop_back());
                    },
                }
                prop_assert_eq!(pieces.len(), model.len());
                prop_assert_eq!(pieces.back(), model.back());
                for position in 0..model.len() + 6 {
                    prop_assert_eq!(pieces.get(position), model.get(position));
                    let there: Vec<_> = pieces.iter_from(position).collect();
                    let wanted: Vec<_> = model.iter().skip(position).collect();
                    prop_assert_eq!(there, wanted);
                    let bound = model.get(position).map_or(next, |entry| entry.index().0);
                    let below = |entry: &Entry| entry.index().0 < bound;
                    prop_assert_eq!(pieces.partition_point(below), model.partition_point(below));
                }
            }
        }
    }
}
