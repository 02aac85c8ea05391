//! Sorted sets: members with scores, in the order of these. Here is what they are; the commands
//! are in files of their own.

mod combine;
mod members;
mod ranges;

use std::sync::Arc;

use crate::kv::commands::outcome::{Double, Outcome};
use crate::kv::commands::registry::{Row, Run};
use crate::kv::state_machine::StateMachine;
use crate::kv::values::object::Content as _;
use crate::kv::values::order::Scored;
use crate::kv::values::sorted_set::SortedSet;

pub(in crate::kv) const COMMANDS: Row = &[
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
    ("zunion", Run::Read(combine::zunion)),
    ("zinter", Run::Read(combine::zinter)),
    ("zdiff", Run::Read(combine::zdiff)),
    ("zunionstore", Run::Write(combine::zunionstore)),
    ("zinterstore", Run::Write(combine::zinterstore)),
    ("zdiffstore", Run::Write(combine::zdiffstore)),
    ("zintercard", Run::Read(combine::zintercard)),
];

/// Puts a set in the place of a key, or removes it if there is nothing in it; how many members it
/// has. `event` is what is told of it.
fn put(store: &mut StateMachine, key: &[u8], set: SortedSet, event: &'static str) -> Outcome {
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
    use crate::kv::state_machine::tests::Feeder;

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
}
