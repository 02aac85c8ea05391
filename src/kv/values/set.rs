//! Sets: distinct members.

use std::ops::Range;

use bytes::{Buf as _, BufMut as _};

use super::codec::{put_bytes, take_bytes};
use super::content::Content;
use super::digest::{Digest, key_hash};
use super::element::Element;
use super::number::parse_integer;
use super::shared_map::SharedMap;

/// Approximate memory usage of one member of a set, in bytes: its place in the hash table,
/// including the member if it is short.
const MEMBER_BYTES: usize = 64;

/// Maximum number of members of a set or sorted set that `SSCAN` or `ZSCAN` returns in one call. A
/// larger set is scanned in several calls.
pub(in crate::kv) const SCANNED_AT_ONCE_MAX: usize = 128;

/// Maximum number of members of a set for which `OBJECT ENCODING` returns `intset`, as in Redis, if
/// all members are integers.
const NUMBERS_MAX: usize = 512;

/// A set: distinct members in insertion order, except that the last member moves to the place of a
/// removed one. So members move only to lower indexes, on which `SSCAN` relies.
///
/// A change of a set that a snapshot or a script shares copies a few hundred members, and the lists
/// of the parts of the set.
///
/// Invariant: `digest` is the sum of the members' hashes, and `bytes` is their memory usage. The
/// order of members is equal on all replicas: it depends only on the log, and snapshots preserve
/// it.
#[derive(Debug, Clone, Default)]
pub(in crate::kv) struct Set {
    members: SharedMap<()>,
    digest: Digest,
    bytes: usize,
}

impl Set {
    pub(in crate::kv) fn len(&self) -> usize {
        self.members.len()
    }

    pub(in crate::kv) fn contains(&self, member: &[u8]) -> bool {
        self.members.position(member).is_some()
    }

    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = &Element> {
        self.members.iter().map(|(member, ())| member)
    }

    /// Returns the member at `index`, in the order of the set; `None` if `index` is out of range.
    pub(in crate::kv) fn get_index(&self, index: usize) -> Option<&Element> {
        self.members.at(index).map(|(member, ())| member)
    }

    /// Iterates over the members at the positions in `range`, in the order of the set. The range
    /// must not exceed the number of members.
    pub(in crate::kv) fn range(&self, range: Range<usize>) -> impl Iterator<Item = &Element> {
        self.members.range(range).map(|(member, ())| member)
    }

    /// Returns how many members and places of this set are not shared with `other`.
    #[cfg(test)]
    pub(in crate::kv) fn unshared(&self, other: &Set) -> usize {
        self.members.unshared(&other.members)
    }

    /// Adds a copy of `member` to the set. Returns whether the member is new.
    pub(in crate::kv) fn add(&mut self, member: &[u8]) -> bool {
        self.insert(member.into())
    }

    /// Adds `member` to the set, without copying its bytes. Returns whether the member is new.
    pub(in crate::kv) fn insert(&mut self, member: Element) -> bool {
        if self.contains(&member) {
            return false;
        }
        self.digest.add(key_hash(&member));
        self.bytes += member.allocated_bytes() + MEMBER_BYTES;
        self.members.push(member, ());
        true
    }

    /// Removes a member from the set. Returns whether the set contained it.
    pub(in crate::kv) fn remove(&mut self, member: &[u8]) -> bool {
        let index = self.members.position(member);
        index.is_some_and(|index| self.take(index).is_some())
    }

    /// Removes and returns the member at `index`, to which the last member of the set then moves;
    /// `None` if `index` is out of range.
    pub(in crate::kv) fn take(&mut self, index: usize) -> Option<Element> {
        let (member, ()) = self.members.swap_remove(index)?;
        self.digest.remove(key_hash(&member));
        self.bytes -= member.allocated_bytes() + MEMBER_BYTES;
        if self.members.is_empty() {
            assert_eq!((self.bytes, self.digest), (0, Digest::default()), "sums of an empty set");
        }
        Some(member)
    }
}

impl Content for Set {
    fn digest(&self) -> u64 {
        self.digest.salted(0)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn encoding(&self) -> &'static str {
        let numbers =
            self.len() <= NUMBERS_MAX && self.iter().all(|member| parse_integer(member).is_some());
        if numbers { "intset" } else { "hashtable" }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.members.len() as u64);
        self.iter().for_each(|member| put_bytes(member, out));
    }

    fn decode(from: &mut &[u8]) -> Option<Set> {
        let mut set = Set::default();
        for _ in 0..from.try_get_u64_le().ok()? {
            if !set.add(take_bytes(from)?) {
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
    fn set_round_trips_through_its_encoding() {
        let mut set = Set::default();
        for number in 0..300_u32 {
            set.add(&number.to_be_bytes());
        }
        set.remove(&7_u32.to_be_bytes());
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        let mut from = &bytes[..];
        let back = Set::decode(&mut from).unwrap();
        assert!(from.is_empty());
        assert!(back.iter().eq(set.iter()), "in the same order");
        assert_eq!((back.digest(), back.bytes()), (set.digest(), set.bytes()));
        assert!(Set::decode(&mut &bytes[..bytes.len() - 1]).is_none());
    }
}
