//! Sets: the members under one key.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use foldhash::fast::FixedState;
use indexmap::IndexSet;

use super::codec::{put_bytes, take_bytes};
use super::digest::{Digest, key_hash};
use super::number::parse_integer;
use super::object::{Content, Object};

/// What a member takes in memory beside its bytes, about.
pub(in crate::kv) const MEMBER_BYTES: usize = 72;

/// A set of no more members is told by one [`sscan`].
pub(in crate::kv) const SCANNED_AT_ONCE_MAX: usize = 128;

/// Most numbers that Redis keeps as such.
pub(in crate::kv) const NUMBERS_MAX: usize = 512;

/// Different members, in the order in which they came; one that goes leaves its place to the last.
/// So no member ever moves to a higher place: [`sscan`] depends on that.
///
/// The first change while a view has it copies the whole: a table and the handles of all members,
/// not their bytes, which takes time in proportion to their number.
///
/// Invariant: `digest` is the sum of the members' fingerprints, `bytes` of what they take. The
/// order is the same on every replica: it is that of the log, and snapshots keep it.
#[derive(Debug, Clone, Default)]
pub(in crate::kv) struct Set {
    pub(in crate::kv) members: IndexSet<Bytes, FixedState>,
    pub(in crate::kv) digest: Digest,
    pub(in crate::kv) bytes: usize,
}

impl Set {
    pub(in crate::kv) fn len(&self) -> usize {
        self.members.len()
    }

    pub(in crate::kv) fn contains(&self, member: &[u8]) -> bool {
        self.members.contains(member)
    }

    pub(in crate::kv) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.members.iter()
    }

    /// Adds a copy of a member; whether it is new.
    pub(in crate::kv) fn add(&mut self, member: &[u8]) -> bool {
        !self.contains(member) && self.insert(Bytes::copy_from_slice(member))
    }

    /// Adds a member; whether it is new.
    pub(in crate::kv) fn insert(&mut self, member: Bytes) -> bool {
        let (print, bytes) = (key_hash(&member), member.len() + MEMBER_BYTES);
        let is_new = self.members.insert(member);
        if is_new {
            self.digest.add(print);
            self.bytes += bytes;
        }
        is_new
    }

    /// Takes a member out; whether it was there.
    pub(in crate::kv) fn remove(&mut self, member: &[u8]) -> bool {
        let place = self.members.get_index_of(member);
        place.is_some_and(|place| self.take(place).is_some())
    }

    /// Takes out the member at that place.
    pub(in crate::kv) fn take(&mut self, place: usize) -> Option<Bytes> {
        let member = self.members.swap_remove_index(place)?;
        self.digest.remove(key_hash(&member));
        self.bytes -= member.len() + MEMBER_BYTES;
        Some(member)
    }
}

impl Content for Set {
    fn wrap(content: Arc<Set>) -> Object {
        Object::Set(content)
    }

    fn of(object: &Object) -> Option<&Arc<Set>> {
        if let Object::Set(set) = object { Some(set) } else { None }
    }

    fn of_mut(object: &mut Object) -> Option<&mut Arc<Set>> {
        if let Object::Set(set) = object { Some(set) } else { None }
    }

    fn digest(&self) -> u64 {
        self.digest.at(0)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn encoding(&self) -> &'static str {
        let numbers = self.len() <= NUMBERS_MAX
            && self.members.iter().all(|member| parse_integer(member).is_some());
        if numbers { "intset" } else { "hashtable" }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.members.len() as u64);
        self.members.iter().for_each(|member| put_bytes(member, out));
    }

    fn read(from: &mut &[u8]) -> Option<Set> {
        let mut set = Set::default();
        for _ in 0..from.try_get_u64_le().ok()? {
            if !set.add(take_bytes(from)?) {
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
        let mut set = Set::default();
        for number in 0..300_u32 {
            set.add(&number.to_be_bytes());
        }
        set.remove(&7_u32.to_be_bytes());
        let mut bytes = Vec::new();
        set.write(&mut bytes);
        let mut from = &bytes[..];
        let back = Set::read(&mut from).unwrap();
        assert!(from.is_empty());
        assert!(back.iter().eq(set.iter()), "in the same order");
        assert_eq!((back.digest(), back.bytes()), (set.digest(), set.bytes()));
        assert!(Set::read(&mut &bytes[..bytes.len() - 1]).is_none());
    }
}
