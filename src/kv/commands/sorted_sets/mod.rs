//! Commands on sorted sets.

mod combine;
pub(in crate::kv) mod members;
pub(in crate::kv) mod ranges;

use std::sync::Arc;

use crate::kv::commands::outcome::{Double, Outcome};
use crate::kv::commands::row::{NO_KEYS, ONE_KEY, Row, Scale, TWO_KEYS, read, write};
use crate::kv::keyspace::Keyspace;
use crate::kv::values::collection::CollectionType as _;
use crate::kv::values::element::share_all;
use crate::kv::values::score_tree::Scored;
use crate::kv::values::sorted_set::SortedSet;

/// The sorted-set commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(224, "zadd", ONE_KEY, members::zadd),
    write(225, "zincrby", ONE_KEY, members::zincrby),
    write(226, "zrem", ONE_KEY, members::zrem),
    read(227, "zcard", ONE_KEY, members::zcard),
    read(228, "zscore", ONE_KEY, members::zscore),
    read(229, "zmscore", ONE_KEY, members::zmscore),
    read(230, "zrank", ONE_KEY, members::zrank),
    read(231, "zrevrank", ONE_KEY, members::zrevrank),
    write(232, "zpopmin", ONE_KEY, members::zpopmin).per(Scale::Count),
    write(233, "zpopmax", ONE_KEY, members::zpopmax).per(Scale::Count),
    write(234, "zmpop", NO_KEYS.and_counted_at(0), members::zmpop).per(Scale::Count),
    read(235, "zrandmember", ONE_KEY, members::zrandmember).per(Scale::Count),
    read(236, "zscan", ONE_KEY, members::zscan),
    read(237, "zcount", ONE_KEY, ranges::zcount),
    read(238, "zlexcount", ONE_KEY, ranges::zlexcount),
    read(239, "zrange", ONE_KEY, ranges::zrange).per(Scale::Values),
    write(240, "zrangestore", TWO_KEYS, ranges::zrangestore).per(Scale::Values),
    read(241, "zrangebyscore", ONE_KEY, ranges::zrangebyscore).per(Scale::Values),
    read(242, "zrevrangebyscore", ONE_KEY, ranges::zrevrangebyscore).per(Scale::Values),
    read(243, "zrangebylex", ONE_KEY, ranges::zrangebylex).per(Scale::Values),
    read(244, "zrevrangebylex", ONE_KEY, ranges::zrevrangebylex).per(Scale::Values),
    read(245, "zrevrange", ONE_KEY, ranges::zrevrange).per(Scale::Values),
    write(246, "zremrangebyrank", ONE_KEY, ranges::zremrangebyrank).per(Scale::Values),
    write(247, "zremrangebyscore", ONE_KEY, ranges::zremrangebyscore).per(Scale::Values),
    write(248, "zremrangebylex", ONE_KEY, ranges::zremrangebylex).per(Scale::Values),
    read(249, "zunion", NO_KEYS.and_counted_at(0), combine::zunion).per(Scale::Values),
    read(250, "zinter", NO_KEYS.and_counted_at(0), combine::zinter).per(Scale::Values),
    read(251, "zdiff", NO_KEYS.and_counted_at(0), combine::zdiff).per(Scale::Values),
    write(252, "zunionstore", ONE_KEY.and_counted_at(1), combine::zunionstore).per(Scale::Values),
    write(253, "zinterstore", ONE_KEY.and_counted_at(1), combine::zinterstore).per(Scale::Values),
    write(254, "zdiffstore", ONE_KEY.and_counted_at(1), combine::zdiffstore).per(Scale::Values),
    read(255, "zintercard", NO_KEYS.and_counted_at(0), combine::zintercard).per(Scale::Values),
];

/// Stores a sorted set at a key, or removes the key if the set is empty. Returns the number of
/// members. `event` is the name of the keyspace notification to record if the set is not empty.
pub(in crate::kv) fn put(
    keyspace: &mut Keyspace,
    key: &[u8],
    set: SortedSet,
    event: &'static str,
) -> Outcome {
    let count = set.len();
    if count == 0 {
        keyspace.delete(key);
    } else {
        keyspace.put_collection(key, SortedSet::wrap(Arc::new(set)));
        keyspace.notify(event, key);
    }
    Outcome::count(count)
}

fn text(scored: &Scored) -> Outcome {
    Outcome::Value(Some(scored.member.to_shared()))
}

fn text_and_score(scored: &Scored) -> (Outcome, Outcome) {
    (text(scored), Outcome::Double(Double(scored.score)))
}

/// Returns an outcome that lists the members, with their scores if `with_scores` is true.
fn members_reply<'s>(members: impl Iterator<Item = &'s Scored>, with_scores: bool) -> Outcome {
    if with_scores {
        Outcome::Pairs(members.map(text_and_score).collect())
    } else {
        Outcome::Values(share_all(members.map(|scored| &scored.member)).map(Some).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::kv::state_machine::tests::Feeder;

    #[test]
    fn state_digest_of_a_sorted_set_depends_only_on_members_and_scores() {
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
