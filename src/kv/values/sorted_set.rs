//! Sorted sets: members with scores under one key, in the order of the scores.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use foldhash::fast::FixedState;
use indexmap::IndexMap;

use super::codec::{put_bytes, take_bytes};
use super::digest::{Digest, fingerprint, key_hash};
use super::object::{Content, Object};
use super::order::{Order, Scored};
use super::set::SCANNED_AT_ONCE_MAX;

/// What a member takes in memory beside its bytes, about.
pub(in crate::kv) const MEMBER_BYTES: usize = 160;

/// Longest member of a set that Redis packs.
pub(in crate::kv) const PACKED_BYTES_MAX: usize = 64;

/// Members with their scores: found by their bytes in a table, and by place or score in an order.
///
/// The first change while a view has it copies the table (not the members' bytes, and of the order
/// only what lies on the way to the change), in time in proportion to the number of members.
///
/// Invariant: both hold the same members with the same scores, of which none is "not a number" or
/// -0.
/// `digest` is the sum of the members' fingerprints, `bytes` of what they take. The table's own
/// order, in which one that goes leaves its place to the last, is the same on every replica: it is
/// that of the log, and snapshots keep it.
#[derive(Debug, Clone, Default)]
pub(in crate::kv) struct SortedSet {
    pub(in crate::kv) scores: IndexMap<Bytes, f64, FixedState>,
    pub(in crate::kv) order: Order,
    pub(in crate::kv) digest: Digest,
    pub(in crate::kv) bytes: usize,
}

/// What came of setting a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) enum Change {
    Added,
    Moved,
    Nothing,
}

pub(in crate::kv) fn member_print(member: &[u8], score: f64) -> u64 {
    fingerprint(key_hash(member), &score.to_bits().to_le_bytes())
}

/// Redis keeps 0 for -0, in small sets.
pub(in crate::kv) fn without_minus_0(score: f64) -> f64 {
    score + 0.0
}

impl SortedSet {
    /// One of these members, each there once and with a number.
    pub(in crate::kv) fn of(members: impl IntoIterator<Item = Scored>) -> SortedSet {
        let mut set = SortedSet::default();
        for Scored { score, member } in members {
            set.add(member, score);
        }
        set
    }

    pub(in crate::kv) fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether Redis would pack it, if it never was larger.
    pub(in crate::kv) fn is_packed(&self) -> bool {
        let is_short = |member: &Bytes| member.len() <= PACKED_BYTES_MAX;
        self.len() <= SCANNED_AT_ONCE_MAX && self.scores.keys().all(is_short)
    }

    pub(in crate::kv) fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).copied()
    }

    /// How many members are before that one.
    pub(in crate::kv) fn place(&self, member: &[u8]) -> Option<usize> {
        Some(self.order.place(self.score(member)?, member))
    }

    /// Gives a member that score, which is a number; one that is not there comes.
    pub(in crate::kv) fn set(&mut self, member: &[u8], score: f64) -> Change {
        let score = without_minus_0(score);
        let Some((place, member, old)) = self.scores.get_full_mut(member) else {
            self.add(Bytes::copy_from_slice(member), score);
            return Change::Added;
        };
        #[allow(clippy::float_cmp, reason = "it is about that very number")]
        if *old == score {
            return Change::Nothing;
        }
        let member = member.clone();
        let old = std::mem::replace(old, score);
        debug_assert!(place < self.scores.len());
        self.digest.remove(member_print(&member, old));
        self.digest.add(member_print(&member, score));
        self.order.remove(old, &member);
        self.order.insert(Scored { score, member });
        Change::Moved
    }

    /// Adds a member that is not there.
    pub(in crate::kv) fn add(&mut self, member: Bytes, score: f64) {
        debug_assert!(!score.is_nan());
        let score = without_minus_0(score);
        self.digest.add(member_print(&member, score));
        self.bytes += member.len() + MEMBER_BYTES;
        self.scores.insert(member.clone(), score);
        self.order.insert(Scored { score, member });
    }

    /// Takes a member out; whether it was there.
    pub(in crate::kv) fn remove(&mut self, member: &[u8]) -> bool {
        let Some((member, score)) = self.scores.swap_remove_entry(member) else { return false };
        self.order.remove(score, &member);
        self.digest.remove(member_print(&member, score));
        self.bytes -= member.len() + MEMBER_BYTES;
        true
    }

    /// Takes out the members at those places, which are in range.
    pub(in crate::kv) fn take(&mut self, places: Range<usize>) -> Vec<Scored> {
        let taken: Vec<Scored> = self.order.range(places).cloned().collect();
        for scored in &taken {
            self.remove(&scored.member);
        }
        taken
    }

    /// All members with their scores, in the table's order.
    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = (&Bytes, f64)> {
        self.scores.iter().map(|(member, score)| (member, *score))
    }
}

impl Content for SortedSet {
    fn wrap(content: Arc<SortedSet>) -> Object {
        Object::SortedSet(content)
    }

    fn of(object: &Object) -> Option<&Arc<SortedSet>> {
        if let Object::SortedSet(set) = object { Some(set) } else { None }
    }

    fn of_mut(object: &mut Object) -> Option<&mut Arc<SortedSet>> {
        if let Object::SortedSet(set) = object { Some(set) } else { None }
    }

    fn digest(&self) -> u64 {
        self.digest.at(0)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    fn encoding(&self) -> &'static str {
        if self.is_packed() { "listpack" } else { "skiplist" }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.scores.len() as u64);
        for (member, score) in self.iter() {
            put_bytes(member, out);
            out.put_u64_le(score.to_bits());
        }
    }

    fn read(from: &mut &[u8]) -> Option<SortedSet> {
        let mut set = SortedSet::default();
        for _ in 0..from.try_get_u64_le().ok()? {
            let member = take_bytes(from)?;
            let score = f64::from_bits(from.try_get_u64_le().ok()?);
            if score.is_nan() || set.set(member, score) != Change::Added {
                return None;
            }
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_written_and_read_back() {
        let mut set = SortedSet::default();
        for number in 0..1_000_u32 {
            set.set(&number.to_be_bytes(), f64::from(number % 10) - 4.5);
        }
        set.set(b"great", f64::INFINITY);
        set.set(b"zero", -0.0);
        set.set(b"great", f64::NEG_INFINITY);
        assert!(set.remove(&7_u32.to_be_bytes()) && !set.remove(b"nothing"));
        let mut bytes = Vec::new();
        set.write(&mut bytes);
        let mut from = &bytes[..];
        let back = SortedSet::read(&mut from).unwrap();
        assert!(from.is_empty());
        assert!(back.iter().eq(set.iter()), "in the same order");
        assert!(back.order.range(0..back.len()).eq(set.order.range(0..set.len())));
        assert_eq!((back.digest(), back.bytes()), (set.digest(), set.bytes()));
        assert!(SortedSet::read(&mut &bytes[..bytes.len() - 1]).is_none());
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&f64::NAN.to_bits().to_le_bytes());
        assert!(SortedSet::read(&mut &bytes[..]).is_none(), "no score is that");
        while !set.is_empty() {
            set.take(0..set.len().min(100));
        }
        let empty = SortedSet::default();
        assert_eq!((set.digest(), set.bytes()), (empty.digest(), empty.bytes()));
    }
}
