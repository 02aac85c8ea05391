//! The commands that wait on a replica until they find something, such as `BLPOP`. The state
//! machine does not wait: a command that finds nothing changes nothing, and its outcome is null.
//! The replica that the client is connected to then keeps the client waiting, and submits the
//! command again when one of its keys has changed. Arguments for the wait, such as the timeout, are
//! ignored here.

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::lists;
use crate::kv::commands::outcome::Refusal;
use crate::kv::commands::row::{ALL_BUT_LAST, Answer, NO_KEYS, Row, Scale, TWO_KEYS, write};
use crate::kv::commands::sorted_sets::members;
use crate::kv::keyspace::Keyspace;
use crate::kv::values::list;

/// The blocking commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(352, "blmove", TWO_KEYS, lists::lmove).since(FeatureLevel::V0_2),
    write(353, "blmpop", NO_KEYS.and_counted_at(1), blmpop)
        .per(Scale::Count)
        .since(FeatureLevel::V0_2),
    write(354, "blpop", ALL_BUT_LAST, blpop).since(FeatureLevel::V0_2),
    write(355, "brpop", ALL_BUT_LAST, brpop).since(FeatureLevel::V0_2),
    write(356, "brpoplpush", TWO_KEYS, lists::rpoplpush).since(FeatureLevel::V0_2),
    write(357, "bzmpop", NO_KEYS.and_counted_at(1), bzmpop)
        .per(Scale::Count)
        .since(FeatureLevel::V0_2),
    write(358, "bzpopmax", ALL_BUT_LAST, bzpopmax).since(FeatureLevel::V0_2),
    write(359, "bzpopmin", ALL_BUT_LAST, bzpopmin).since(FeatureLevel::V0_2),
];

/// Runs `BLPOP key [key ...] timeout`: removes the value at the left end of the first list that
/// exists. Returns the key and the value.
fn blpop(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    lists::pop_one_of(keyspace, keys(args)?, list::End::Left)
}

/// Runs `BRPOP key [key ...] timeout`: removes the value at the right end of the first list that
/// exists. Returns the key and the value.
fn brpop(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    lists::pop_one_of(keyspace, keys(args)?, list::End::Right)
}

/// Runs `BLMPOP timeout numkeys key [key ...] LEFT | RIGHT [COUNT count]`, like `LMPOP`.
fn blmpop(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    lists::pop_from_first(keyspace, args.rest(1))
}

/// Runs `BZPOPMIN key [key ...] timeout`: removes the member with the lowest score from the first
/// sorted set that exists. Returns the key, the member and its score.
fn bzpopmin(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    members::pop_one_of(keyspace, keys(args)?, members::End::Min)
}

/// Runs `BZPOPMAX key [key ...] timeout`: removes the member with the highest score from the first
/// sorted set that exists. Returns the key, the member and its score.
fn bzpopmax(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    members::pop_one_of(keyspace, keys(args)?, members::End::Max)
}

/// Runs `BZMPOP timeout numkeys key [key ...] MIN | MAX [COUNT count]`, like `ZMPOP`.
fn bzmpop(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    members::pop_from_first(keyspace, args.rest(1))
}

/// Returns the arguments without the last, the timeout.
fn keys<'s, 'a>(args: &'s Args<'a>) -> Result<&'s [&'a [u8]], Refusal> {
    args.all().split_last().map(|(_, keys)| keys).ok_or(Refusal::Syntax)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::kv::state_machine::tests::Feeder;
    use crate::kv::{Double, Outcome, Refusal};

    fn value(text: &str) -> Outcome {
        Outcome::Value(Some(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn values(texts: &[&str]) -> Outcome {
        let value = |text: &&str| Some(Bytes::copy_from_slice(text.as_bytes()));
        Outcome::Values(texts.iter().map(value).collect())
    }

    #[test]
    fn blocking_pop_takes_one_element_of_the_first_key_that_exists() {
        let mut feeder = Feeder::new();
        feeder.call("rpush", &["b", "1", "2", "3"]);
        feeder.call("rpush", &["c", "9"]);
        assert_eq!(feeder.call("blpop", &["a", "b", "c", "0"]), values(&["b", "1"]));
        assert_eq!(feeder.call("brpop", &["a", "b", "c", "0"]), values(&["b", "3"]));
        assert_eq!(feeder.call("blmove", &["b", "c", "LEFT", "LEFT", "0"]), value("2"));
        assert_eq!(feeder.call("brpoplpush", &["c", "c", "0"]), value("9"));
        let wanted = Outcome::List(vec![value("c"), values(&["9", "2"])]);
        assert_eq!(feeder.call("blmpop", &["0", "2", "a", "c", "LEFT", "COUNT", "5"]), wanted);
        assert_eq!(feeder.store.key_count(), 0);
    }

    #[test]
    fn blocking_pop_of_a_sorted_set_returns_key_member_and_score() {
        let mut feeder = Feeder::new();
        feeder.call("zadd", &["z", "1", "one", "2", "two", "3", "three"]);
        let taken = |member, score| {
            Outcome::List(vec![value("z"), value(member), Outcome::Double(Double(score))])
        };
        assert_eq!(feeder.call("bzpopmin", &["y", "z", "0"]), taken("one", 1.0));
        assert_eq!(feeder.call("bzpopmax", &["y", "z", "0"]), taken("three", 3.0));
        let pair = Outcome::List(vec![value("two"), Outcome::Double(Double(2.0))]);
        let wanted = Outcome::List(vec![value("z"), Outcome::List(vec![pair])]);
        assert_eq!(feeder.call("bzmpop", &["0", "1", "z", "MIN"]), wanted);
    }

    #[test]
    fn blocking_command_that_finds_nothing_changes_nothing() {
        let mut feeder = Feeder::new();
        feeder.call("set", &["s", "v"]);
        feeder.call("rpush", &["l", "v"]);
        let revisions = ["s", "l"].map(|key| feeder.store.keyspace.revision_of(key.as_bytes()));
        for (command, args, wanted) in [
            ("blpop", &["a", "b", "0"][..], Outcome::NoList),
            ("brpop", &["a", "0"], Outcome::NoList),
            ("blmpop", &["0", "1", "a", "LEFT"], Outcome::NoList),
            ("blmove", &["a", "b", "LEFT", "LEFT", "0"], Outcome::Value(None)),
            ("brpoplpush", &["a", "b", "0"], Outcome::Value(None)),
            ("bzpopmin", &["a", "0"], Outcome::NoList),
            ("bzpopmax", &["a", "b", "0"], Outcome::NoList),
            ("bzmpop", &["0", "1", "a", "MIN"], Outcome::NoList),
            ("blpop", &["a", "s", "l", "0"], Outcome::Refused(Refusal::WrongType)),
            ("bzpopmin", &["a", "l", "0"], Outcome::Refused(Refusal::WrongType)),
            ("blmove", &["l", "s", "LEFT", "LEFT", "0"], Outcome::Refused(Refusal::WrongType)),
            ("blmpop", &["0", "3", "a", "LEFT"], Outcome::Refused(Refusal::Syntax)),
            ("blpop", &[], Outcome::Refused(Refusal::Syntax)),
        ] {
            assert_eq!(feeder.call(command, args), wanted, "{command} {args:?}");
        }
        let now = ["s", "l"].map(|key| feeder.store.keyspace.revision_of(key.as_bytes()));
        assert_eq!((now, feeder.store.key_count()), (revisions, 2));
    }
}
