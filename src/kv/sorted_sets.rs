//! Sorted sets: members with scores, in the order of these. Here is what they are; the commands
//! are in files of their own.

mod members;
mod order;
mod ranges;
mod several;

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use foldhash::fast::FixedState;
use indexmap::IndexMap;

use super::digest::{Digest, fingerprint, key_number};
use super::object::{Content, Object};
use super::outcome::{Double, Outcome};
use super::sets::SCANNED_AT_ONCE_MAX;
use super::snapshot::{put_bytes, take_bytes};
use super::store::Store;
use super::verbs::{Row, Run};
use order::{Order, Scored};

pub(super) const VERBS: Row = &[
    ("zadd", Run::Write(members::zadd)),
    ("zincrby", Run::Write(members::zincrby)),
    ("zrem", Run::Write(members::zrem)),
    ("zcard", Run::Read(members::zcard)),
    ("zscore", Run::Read(members::zscore)),
    ("zmscore", Run::Read(members::zmscore)),
    ("zrank", Run::Read(members::zrank)),
    ("zrevrank", Run::Read(members::zrevrank)),
    ("zpopmin", Run::Write(members::zpopmin)),
    ("zpopmax", Run::Write(members::zpopmax)),
    ("zmpop", Run::Write(members::zmpop)),
    ("zrandmember", Run::Read(members::zrandmember)),
    ("zscan", Run::Read(members::zscan)),
    ("zcount", Run::Read(ranges::zcount)),
    ("zlexcount", Run::Read(ranges::zlexcount)),
    ("zrange", Run::Read(ranges::zrange)),
    ("zrangestore", Run::Write(ranges::zrangestore)),
    ("zrangebyscore", Run::Read(ranges::zrangebyscore)),
    ("zrevrangebyscore", Run::Read(ranges::zrevrangebyscore)),
    ("zrangebylex", Run::Read(ranges::zrangebylex)),
    ("zrevrangebylex", Run::Read(ranges::zrevrangebylex)),
    ("zrevrange", Run::Read(ranges::zrevrange)),
    ("zremrangebyrank", Run::Write(ranges::zremrangebyrank)),
    ("zremrangebyscore", Run::Write(ranges::zremrangebyscore)),
    ("zremrangebylex", Run::Write(ranges::zremrangebylex)),
    ("zunion", Run::Read(several::zunion)),
    ("zinter", Run::Read(several::zinter)),
    ("zdiff", Run::Read(several::zdiff)),
    ("zunionstore", Run::Write(several::zunionstore)),
    ("zinterstore", Run::Write(several::zinterstore)),
    ("zdiffstore", Run::Write(several::zdiffstore)),
    ("zintercard", Run::Read(several::zintercard)),
];

/// What a member takes in memory beside its bytes, about.
const MEMBER_BYTES: usize = 160;

/// Longest member of a set that Redis packs.
const PACKED_BYTES_MAX: usize = 64;

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
pub(super) struct SortedSet {
    scores: IndexMap<Bytes, f64, FixedState>,
    order: Order,
    digest: Digest,
    bytes: usize,
}

/// What came of setting a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Added,
    Moved,
    Nothing,
}

fn member_print(member: &[u8], score: f64) -> u64 {
    fingerprint(key_number(member), &score.to_bits().to_le_bytes())
}

/// Redis keeps 0 for -0, in small sets.
fn without_minus_0(score: f64) -> f64 {
    score + 0.0
}

impl SortedSet {
    /// One of these members, each there once and with a number.
    fn of(members: impl IntoIterator<Item = Scored>) -> SortedSet {
        let mut set = SortedSet::default();
        for Scored { score, member } in members {
            set.add(member, score);
        }
        set
    }

    pub(super) fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether Redis would pack it, if it never was larger.
    fn is_packed(&self) -> bool {
        let is_short = |member: &Bytes| member.len() <= PACKED_BYTES_MAX;
        self.len() <= SCANNED_AT_ONCE_MAX && self.scores.keys().all(is_short)
    }

    fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).copied()
    }

    /// How many members are before that one.
    fn place(&self, member: &[u8]) -> Option<usize> {
        Some(self.order.place(self.score(member)?, member))
    }

    /// Gives a member that score, which is a number; one that is not there comes.
    fn set(&mut self, member: &[u8], score: f64) -> Change {
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
    fn add(&mut self, member: Bytes, score: f64) {
        debug_assert!(!score.is_nan());
        let score = without_minus_0(score);
        self.digest.add(member_print(&member, score));
        self.bytes += member.len() + MEMBER_BYTES;
        self.scores.insert(member.clone(), score);
        self.order.insert(Scored { score, member });
    }

    /// Takes a member out; whether it was there.
    fn remove(&mut self, member: &[u8]) -> bool {
        let Some((member, score)) = self.scores.swap_remove_entry(member) else { return false };
        self.order.remove(score, &member);
        self.digest.remove(member_print(&member, score));
        self.bytes -= member.len() + MEMBER_BYTES;
        true
    }

    /// Takes out the members at those places, which are in range.
    fn take(&mut self, places: Range<usize>) -> Vec<Scored> {
        let taken: Vec<Scored> = self.order.range(places).cloned().collect();
        for scored in &taken {
            self.remove(&scored.member);
        }
        taken
    }

    /// All members with their scores, in the table's order.
    fn iter(&self) -> impl Iterator<Item = (&Bytes, f64)> {
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

/// Puts a set in the place of a key, or removes it if there is nothing in it; how many members it
/// has. `event` is what is told of it.
fn put(store: &mut Store, key: &[u8], set: SortedSet, event: &'static str) -> Outcome {
    let count = set.len();
    if count == 0 {
        store.delete(key);
    } else {
        store.begin(key, SortedSet::wrap(Arc::new(set)));
        store.note(event, key);
    }
    Outcome::count(count)
}

fn text(scored: &Scored) -> Outcome {
    Outcome::Value(Some(scored.member.clone()))
}

fn text_and_score(scored: &Scored) -> (Outcome, Outcome) {
    (text(scored), Outcome::Double(Double(scored.score)))
}

/// Members as a reply, maybe with their scores.
fn told<'s>(members: impl Iterator<Item = &'s Scored>, with_scores: bool) -> Outcome {
    if with_scores {
        Outcome::Pairs(members.map(text_and_score).collect())
    } else {
        Outcome::Values(members.map(|scored| Some(scored.member.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::Feeder;
    use super::*;

    #[test]
    fn sets_that_were_made_in_other_ways_have_the_same_digest() {
        let mut one = Feeder::new();
        one.call("zadd", &["z", "1", "a", "2", "b"]);
        one.call("zincrby", &["z", "1.5", "b"]);
        one.call("zunionstore", &["u", "2", "z", "z", "WEIGHTS", "1", "2"]);
        one.call("zrangestore", &["r", "u", "0", "0"]);
        let mut other = Feeder::new();
        other.call("zadd", &["u", "10.5", "b", "7", "x", "3", "a"]);
        other.call("zadd", &["z", "3.5", "b", "1", "a"]);
        other.call("zrem", &["u", "x"]);
        other.call("zadd", &["r", "3", "a"]);
        assert_eq!(one.store.digest(), other.store.digest());
        one.call("zadd", &["z", "1.25", "a"]);
        other.call("zadd", &["z", "1.5", "a"]);
        assert_ne!(one.store.digest(), other.store.digest());
    }

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
