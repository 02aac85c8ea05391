//! Sorted sets: distinct members with scores, ordered by score.

use std::ops::Range;

use bytes::{Buf as _, BufMut as _};

use super::codec::{put_bytes, take_bytes};
use super::content::Content;
use super::digest::{Digest, fingerprint, key_hash};
use super::element::Element;
use super::score_tree::{ScoreTree, Scored};
use super::set::SCANNED_AT_ONCE_MAX;
use super::shared_map::SharedMap;

/// Approximate memory usage of one member of a sorted set, in bytes: its places in the hash table
/// and in the tree, including the member if it is short.
const MEMBER_BYTES: usize = 128;

/// Maximum length in bytes of the members of a sorted set for which `OBJECT ENCODING` returns
/// `listpack`, as in Redis, if the set is also small.
const PACKED_BYTES_MAX: usize = 64;

/// A sorted set: distinct members with scores, stored both in a hash table by member and in a tree
/// by score.
///
/// A change of a sorted set that a snapshot or a script shares copies a few hundred members, one
/// path of the tree, and the lists of the parts of the hash table.
///
/// Invariant: the hash table and the tree contain the same members with the same scores, which are
/// never NaN or -0. `digest` is the sum of the members' hashes, and `bytes` is their memory usage.
/// In the hash table, the last member moves to the place of a removed one. Its order is equal on
/// all replicas: it depends only on the log, and snapshots preserve it.
#[derive(Debug, Clone, Default)]
pub(in crate::kv) struct SortedSet {
    scores: SharedMap<f64>,
    order: ScoreTree,
    digest: Digest,
    bytes: usize,
}

/// The effect of setting the score of a member: the member was added, its score was changed, or
/// nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) enum Change {
    Added,
    Moved,
    Nothing,
}

/// Returns a hash of a member and its score.
fn member_hash(member: &[u8], score: f64) -> u64 {
    fingerprint(key_hash(member), &score.to_bits().to_le_bytes())
}

/// Returns `score`, or 0 if it is -0, because Redis stores scores in this way in small sorted sets.
fn without_minus_0(score: f64) -> f64 {
    score + 0.0
}

impl SortedSet {
    /// Returns a sorted set of the given members, which must be distinct and have scores other than
    /// NaN.
    pub(in crate::kv) fn from_members(members: impl IntoIterator<Item = Scored>) -> SortedSet {
        let mut set = SortedSet::default();
        for Scored { score, member } in members {
            set.add(member, score);
        }
        set
    }

    pub(in crate::kv) fn len(&self) -> usize {
        self.scores.len()
    }

    /// Returns whether Redis would encode this sorted set as `listpack`, provided that the set has
    /// never exceeded the limits of this encoding.
    pub(in crate::kv) fn is_packed(&self) -> bool {
        let is_short = |member: &Element| member.len() <= PACKED_BYTES_MAX;
        self.len() <= SCANNED_AT_ONCE_MAX && self.iter().all(|(member, _)| is_short(member))
    }

    /// Returns the score of a member; `None` if the set does not contain the member.
    pub(in crate::kv) fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).copied()
    }

    /// Returns the rank of a member, which is the number of members before it; `None` if the set
    /// does not contain the member.
    pub(in crate::kv) fn rank(&self, member: &[u8]) -> Option<usize> {
        Some(self.order.rank(self.score(member)?, member))
    }

    /// Sets the score of a member, which is added if the set does not contain it. The score must
    /// not be NaN.
    pub(in crate::kv) fn set(&mut self, member: &[u8], score: f64) -> Change {
        let score = without_minus_0(score);
        let Some(position) = self.scores.position(member) else {
            self.add(member.into(), score);
            return Change::Added;
        };
        let (member, old) = self.scores.at(position).expect("it was found there");
        #[allow(clippy::float_cmp, reason = "an equal score is no change")]
        if *old == score {
            return Change::Nothing;
        }
        let member = member.clone();
        let old = std::mem::replace(self.scores.value_mut(position), score);
        self.digest.remove(member_hash(&member, old));
        self.digest.add(member_hash(&member, score));
        self.order.remove(old, &member);
        self.order.insert(Scored { score, member });
        Change::Moved
    }

    /// Adds a member, which the set must not contain yet. The score must not be NaN.
    fn add(&mut self, member: Element, score: f64) {
        assert!(!score.is_nan(), "score of {member:?}");
        let score = without_minus_0(score);
        self.digest.add(member_hash(&member, score));
        self.bytes += member.allocated_bytes() + MEMBER_BYTES;
        self.scores.push(member.clone(), score);
        self.order.insert(Scored { score, member });
    }

    /// Removes a member from the sorted set. Returns whether the set contained it.
    pub(in crate::kv) fn remove(&mut self, member: &[u8]) -> bool {
        let removed = self.scores.position(member).and_then(|at| self.scores.swap_remove(at));
        let Some((member, score)) = removed else { return false };
        self.order.remove(score, &member);
        self.digest.remove(member_hash(&member, score));
        self.bytes -= member.allocated_bytes() + MEMBER_BYTES;
        if self.scores.is_empty() {
            assert_eq!((self.bytes, self.digest), (0, Digest::default()), "sums of an empty set");
        }
        true
    }

    /// Removes the members whose ranks are in `ranks`, and returns them in ascending order. The
    /// range must not exceed the number of members.
    pub(in crate::kv) fn take(&mut self, ranks: Range<usize>) -> Vec<Scored> {
        let taken: Vec<Scored> = self.order.range(ranks).cloned().collect();
        for scored in &taken {
            self.remove(&scored.member);
        }
        taken
    }

    /// Iterates over all members with their scores, in the order of the hash table and not by
    /// score.
    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = (&Element, f64)> {
        self.scores.iter().map(|(member, score)| (member, *score))
    }

    /// Iterates over the members at the positions in `range`, with their scores. A position is an
    /// index in the order of [`SortedSet::iter`]. The range must not exceed the number of members.
    pub(in crate::kv) fn range(
        &self,
        range: Range<usize>,
    ) -> impl Iterator<Item = (&Element, f64)> {
        self.scores.range(range).map(|(member, score)| (member, *score))
    }

    /// Returns how many members and places of this set are not shared with `other`.
    #[cfg(test)]
    pub(in crate::kv) fn unshared(&self, other: &SortedSet) -> usize {
        self.scores.unshared(&other.scores)
    }

    /// Returns the tree of members, which is ordered by score and then by the bytes of the members.
    pub(in crate::kv) fn by_rank(&self) -> &ScoreTree {
        &self.order
    }
}

impl Content for SortedSet {
    fn digest(&self) -> u64 {
        self.digest.salted(0)
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

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.scores.len() as u64);
        for (member, score) in self.iter() {
            put_bytes(member, out);
            out.put_u64_le(score.to_bits());
        }
    }

    fn decode(from: &mut &[u8]) -> Option<SortedSet> {
        let mut set = SortedSet::default();
        for _ in 0..from.try_get_u64_le().ok()? {
            let member = take_bytes(from)?;
            let score = f64::from_bits(from.try_get_u64_le().ok()?);
            if score.is_nan() || set.set(member, score) != Change::Added {
                return None;
            }
        }
        Some(set).filter(|set| !set.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_set_round_trips_through_its_encoding() {
        let mut set = SortedSet::default();
        for number in 0..1_000_u32 {
            set.set(&number.to_be_bytes(), f64::from(number % 10) - 4.5);
        }
        set.set(b"great", f64::INFINITY);
        set.set(b"zero", -0.0);
        set.set(b"great", f64::NEG_INFINITY);
        assert!(set.remove(&7_u32.to_be_bytes()) && !set.remove(b"nothing"));
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        let mut from = &bytes[..];
        let back = SortedSet::decode(&mut from).unwrap();
        assert!(from.is_empty());
        assert!(back.iter().eq(set.iter()), "in the same order");
        assert!(back.order.range(0..back.len()).eq(set.order.range(0..set.len())));
        assert_eq!((back.digest(), back.bytes()), (set.digest(), set.bytes()));
        assert!(SortedSet::decode(&mut &bytes[..bytes.len() - 1]).is_none());
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&f64::NAN.to_bits().to_le_bytes());
        assert!(SortedSet::decode(&mut &bytes[..]).is_none(), "NaN is not a score");
        while !set.is_empty() {
            set.take(0..set.len().min(100));
        }
        let empty = SortedSet::default();
        assert_eq!((set.digest(), set.bytes()), (empty.digest(), empty.bytes()));
    }
}
