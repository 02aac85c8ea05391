//! Sets: different members under one key, and what can be done with them.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::FixedState;
use indexmap::IndexSet;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::registry::{Answer, Row, Run};
use crate::kv::commands::scan::{self, Options};
use crate::kv::state_machine::StateMachine;
use crate::kv::values::number::parse_integer;
use crate::kv::values::object::Content as _;
use crate::kv::values::set::{SCANNED_AT_ONCE_MAX, Set};

pub(in crate::kv) const COMMANDS: Row = &[
    ("sadd", Run::Write(sadd)),
    ("srem", Run::Write(srem)),
    ("scard", Run::Read(scard)),
    ("sismember", Run::Read(sismember)),
    ("smismember", Run::Read(smismember)),
    ("smembers", Run::Read(smembers)),
    ("spop", Run::Write(spop)),
    ("srandmember", Run::Read(srandmember)),
    ("smove", Run::Write(smove)),
    ("sinter", Run::Read(sinter)),
    ("sunion", Run::Read(sunion)),
    ("sdiff", Run::Read(sdiff)),
    ("sinterstore", Run::Write(sinterstore)),
    ("sunionstore", Run::Write(sunionstore)),
    ("sdiffstore", Run::Write(sdiffstore)),
    ("sintercard", Run::Read(sintercard)),
    ("sscan", Run::Read(sscan)),
];

/// Most members that are told at random with some of them several times.
pub(in crate::kv) const REPEATED_MAX: usize = 1 << 20;

/// `SADD key member [member ...]`
fn sadd(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (key, members) = (words.get(0)?, words.rest(1));
    if members.is_empty() {
        return Err(Refusal::Syntax);
    }
    let added = store.change(key, |set: &mut Set| {
        let added = members.iter().filter(|member| set.add(member)).count();
        (added, added > 0)
    })?;
    if added > 0 {
        store.note("sadd", key);
    }
    Ok(Outcome::count(added))
}

/// `SREM key member [member ...]`
fn srem(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let key = words.get(0)?;
    let removed = store.change_there(key, |set: &mut Set| {
        let removed = words.rest(1).iter().filter(|member| set.remove(member)).count();
        (removed, removed > 0)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        store.note("srem", key);
        store.note_if_gone(key);
    }
    Ok(Outcome::count(removed))
}

/// `SCARD key`
fn scard(store: &StateMachine, words: &Args<'_>) -> Answer {
    Ok(Outcome::count(store.content::<Set>(words.get(0)?)?.map_or(0, Set::len)))
}

/// `SISMEMBER key member`
fn sismember(store: &StateMachine, words: &Args<'_>) -> Answer {
    let set = store.content::<Set>(words.get(0)?)?;
    let member = words.get(1)?;
    Ok(Outcome::flag(set.is_some_and(|set| set.contains(member))))
}

/// `SMISMEMBER key member [member ...]`
fn smismember(store: &StateMachine, words: &Args<'_>) -> Answer {
    let set = store.content::<Set>(words.get(0)?)?;
    let is_there = |member: &&[u8]| Outcome::flag(set.is_some_and(|set| set.contains(member)));
    Ok(Outcome::List(words.rest(1).iter().map(is_there).collect()))
}

fn text(member: &Bytes) -> Outcome {
    Outcome::Value(Some(member.clone()))
}

/// `SMEMBERS key`
fn smembers(store: &StateMachine, words: &Args<'_>) -> Answer {
    let set = store.content::<Set>(words.get(0)?)?;
    Ok(Outcome::Set(set.into_iter().flat_map(Set::iter).map(text).collect()))
}

/// `SPOP key [count]`
fn spop(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let key = words.get(0)?;
    let (count, is_one) = match words.rest(1) {
        [] => (1, true),
        [count] => {
            let count = parse_integer(count).and_then(|count| usize::try_from(count).ok());
            (count.ok_or(Refusal::NotPositive)?, false)
        }
        _ => return Err(Refusal::Syntax),
    };
    let taken = store.change_there(key, |set: &mut Set| {
        // From the last place to the first: taking one out moves only what is behind it.
        let places = words.different(count, set.len());
        let taken: Vec<_> = places.into_iter().rev().filter_map(|place| set.take(place)).collect();
        let changed = !taken.is_empty();
        (taken, changed)
    })?;
    let taken = taken.unwrap_or_default();
    if !taken.is_empty() {
        store.note("spop", key);
        store.note_if_gone(key);
    }
    Ok(if is_one {
        Outcome::Value(taken.into_iter().next())
    } else {
        Outcome::Set(taken.into_iter().map(|member| Outcome::Value(Some(member))).collect())
    })
}

/// `SRANDMEMBER key [count]`: as many different members as there are and `count` says; if that is
/// negative, so many, and a member may come again.
fn srandmember(store: &StateMachine, words: &Args<'_>) -> Answer {
    let set = |key| store.content::<Set>(key);
    let count = match words.rest(1) {
        [] => {
            let set = set(words.get(0)?)?;
            let some = |set: &Set| set.members.get_index(words.below(0, set.len())).cloned();
            return Ok(Outcome::Value(set.and_then(some)));
        }
        [count] => parse_integer(count).ok_or(Refusal::NotAnInteger)?,
        _ => return Err(Refusal::Syntax),
    };
    if count == i64::MIN {
        return Err(Refusal::NotAbsolute);
    }
    let Some(set) = set(words.get(0)?)? else { return Ok(Outcome::List(Vec::new())) };
    let places = places(words, count, set.len())?;
    let chosen = places.iter().filter_map(|place| set.members.get_index(*place));
    Ok(Outcome::List(chosen.map(text).collect()))
}

/// Places below `length`, which is not 0: so many different ones at most; if `count` is negative,
/// so many, and one may come again.
///
/// # Errors
/// If that would take memory without end, which Redis risks.
pub(in crate::kv) fn places(
    words: &Args<'_>,
    count: i64,
    length: usize,
) -> Result<Vec<usize>, Refusal> {
    let number = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if count >= 0 {
        Ok(words.different(number, length))
    } else if number > REPEATED_MAX {
        Err(Refusal::OutOfRange)
    } else {
        Ok((0..).take(number).map(|turn| words.below(turn, length)).collect())
    }
}

/// `SMOVE source destination member`
fn smove(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (from, to, member) = (words.get(0)?, words.get(1)?, words.get(2)?);
    let Some(source) = store.content::<Set>(from)? else { return Ok(Outcome::flag(false)) };
    let is_there = source.contains(member);
    store.content::<Set>(to)?;
    if from == to || !is_there {
        return Ok(Outcome::flag(is_there));
    }
    store.change_there(from, |set: &mut Set| (set.remove(member), true))?;
    store.note("srem", from);
    store.note_if_gone(from);
    // Redis counts it as a change even if the member is there already.
    if store.change(to, |set: &mut Set| (set.add(member), true))? {
        store.note("sadd", to);
    }
    Ok(Outcome::flag(true))
}

/// What several sets are made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Join {
    Inter,
    Union,
    Diff,
}

/// The sets at keys, in their order.
///
/// # Errors
/// If one holds something else.
fn sets<'s>(store: &'s StateMachine, keys: &[&[u8]]) -> Result<Vec<Option<&'s Set>>, Refusal> {
    keys.iter().map(|key| store.content::<Set>(key)).collect()
}

/// What is in all sets; nothing if one of them is not there.
fn common<'s>(sets: &[Option<&'s Set>]) -> impl Iterator<Item = &'s Bytes> {
    let mut there: Vec<&Set> = sets.iter().copied().flatten().collect();
    let all = there.len() == sets.len();
    // The smallest first, for its members are looked for in all others.
    there.sort_by_key(|set| set.len());
    let smallest = there.first().copied().filter(|_| all);
    let members = smallest.into_iter().flat_map(Set::iter);
    members.filter(move |member| there[1..].iter().all(|set| set.contains(member)))
}

/// What several sets make, without repetition.
fn join(store: &StateMachine, keys: &[&[u8]], how: Join) -> Result<Vec<Bytes>, Refusal> {
    let sets = sets(store, keys)?;
    Ok(match how {
        Join::Inter => common(&sets).cloned().collect(),
        Join::Union => {
            let members = sets.into_iter().flatten().flat_map(Set::iter);
            let different: IndexSet<&Bytes, FixedState> = members.collect();
            different.into_iter().cloned().collect()
        }
        Join::Diff => {
            let first = sets.first().copied().flatten();
            let others: Vec<&Set> = sets.iter().skip(1).copied().flatten().collect();
            let members = first.into_iter().flat_map(Set::iter);
            let left = members.filter(|member| !others.iter().any(|set| set.contains(member)));
            left.cloned().collect()
        }
    })
}

fn joined(store: &StateMachine, words: &Args<'_>, how: Join) -> Answer {
    let members = join(store, words.rest(0), how)?;
    Ok(Outcome::Set(members.into_iter().map(|member| Outcome::Value(Some(member))).collect()))
}

/// Puts what several sets make in the place of a key; `event` is what is told of it.
fn join_into(store: &mut StateMachine, words: &Args<'_>, how: Join, event: &'static str) -> Answer {
    let to = words.get(0)?;
    let members = join(store, words.rest(1), how)?;
    if members.is_empty() {
        store.delete(to);
        return Ok(Outcome::Integer(0));
    }
    let mut set = Set::default();
    for member in members {
        set.insert(member);
    }
    let count = set.len();
    store.begin(to, Set::wrap(Arc::new(set)));
    store.note(event, to);
    Ok(Outcome::count(count))
}

/// `SINTER key [key ...]`
fn sinter(store: &StateMachine, words: &Args<'_>) -> Answer {
    joined(store, words, Join::Inter)
}

/// `SUNION key [key ...]`
fn sunion(store: &StateMachine, words: &Args<'_>) -> Answer {
    joined(store, words, Join::Union)
}

/// `SDIFF key [key ...]`
fn sdiff(store: &StateMachine, words: &Args<'_>) -> Answer {
    joined(store, words, Join::Diff)
}

/// `SINTERSTORE destination key [key ...]`
fn sinterstore(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    join_into(store, words, Join::Inter, "sinterstore")
}

/// `SUNIONSTORE destination key [key ...]`
fn sunionstore(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    join_into(store, words, Join::Union, "sunionstore")
}

/// `SDIFFSTORE destination key [key ...]`
fn sdiffstore(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    join_into(store, words, Join::Diff, "sdiffstore")
}

/// `SINTERCARD numkeys key [key ...] [LIMIT limit]`
fn sintercard(store: &StateMachine, words: &Args<'_>) -> Answer {
    let count = parse_integer(words.get(0)?).and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|count| *count > 0).ok_or(Refusal::NoKeys)?;
    let behind = words.rest(1);
    let (keys, options) = behind.split_at_checked(count).ok_or(Refusal::TooManyKeys)?;
    let mut limit = 0;
    for pair in options.chunks(2) {
        let [name, value] = pair else { return Err(Refusal::Syntax) };
        if !name.eq_ignore_ascii_case(b"LIMIT") {
            return Err(Refusal::Syntax);
        }
        let number = parse_integer(value).and_then(|limit| usize::try_from(limit).ok());
        limit = number.ok_or(Refusal::NegativeLimit)?;
    }
    let most = if limit == 0 { usize::MAX } else { limit };
    Ok(Outcome::count(common(&sets(store, keys)?).take(most).count()))
}

/// `SSCAN key cursor [MATCH pattern] [COUNT count]`: a small set at once, a large one from its end
/// to its beginning. The cursor is how many members are left. Members come at the end and only
/// ever move towards the beginning, so no member that stays can get from the part that is left to
/// the part that was told.
fn sscan(store: &StateMachine, words: &Args<'_>) -> Answer {
    let cursor = match scan::cursor(words.get(1)?) {
        Ok(cursor) => cursor,
        Err(error) => return Ok(error),
    };
    let Some(set) = store.content::<Set>(words.get(0)?)? else {
        return Ok(scan::reply(0, Vec::new()));
    };
    let options = Options::read(words, 2)?;
    let (from, to) = scanned(cursor, options.count, set.len());
    let part = set.members.get_range(from..to).expect("it is within the members");
    let fitting = part.iter().filter(|member| options.fits(member));
    Ok(scan::reply(from as u64, fitting.cloned().map(Some).collect()))
}

/// Which places one call looks at of so many, from the end to the beginning.
pub(in crate::kv) fn scanned(cursor: u64, count: usize, length: usize) -> (usize, usize) {
    if length <= SCANNED_AT_ONCE_MAX {
        return (0, length);
    }
    let left = usize::try_from(cursor).unwrap_or(usize::MAX);
    let to = if left == 0 { length } else { left.min(length) };
    (to.saturating_sub(count), to)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    fn members(outcome: &Outcome) -> Vec<String> {
        let list = match outcome {
            Outcome::Set(list) | Outcome::List(list) => list,
            other => panic!("{other:?}"),
        };
        let text = |outcome: &Outcome| match outcome {
            Outcome::Value(Some(value)) => String::from_utf8(value.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        let mut texts: Vec<String> = list.iter().map(text).collect();
        texts.sort();
        texts
    }

    #[test]
    fn members_come_once_and_the_last_one_takes_the_key_along() {
        let mut feeder = Feeder::new();
        assert_eq!(feeder.call("sadd", &["s", "a", "b", "a"]), Outcome::Integer(2));
        assert_eq!(feeder.call("sadd", &["s", "b", "c"]), Outcome::Integer(1));
        assert_eq!(feeder.call("scard", &["s"]), Outcome::Integer(3));
        assert_eq!(members(&feeder.call("smembers", &["s"])), ["a", "b", "c"]);
        assert_eq!(feeder.call("sismember", &["s", "d"]), Outcome::Integer(0));
        let both = Outcome::List(vec![Outcome::Integer(1), Outcome::Integer(0)]);
        assert_eq!(feeder.call("smismember", &["s", "a", "x"]), both);
        assert_eq!(feeder.call("srem", &["s", "a", "x", "b", "c"]), Outcome::Integer(3));
        assert_eq!(feeder.call("scard", &["s"]), Outcome::Integer(0));
        assert_eq!(feeder.store.key_count(), 0);
        feeder.call("hset", &["h", "f", "1"]);
        let refused = Outcome::Refused(Refusal::WrongType);
        assert_eq!(feeder.call("sadd", &["h", "a"]), refused);
        assert_eq!(feeder.call("sinter", &["nothing", "h"]), refused);
    }

    #[test]
    fn what_chance_takes_was_there_and_is_gone() {
        let mut feeder = Feeder::new();
        let all: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        let mut words = vec!["s"];
        words.extend(all.iter().map(String::as_str));
        feeder.call("sadd", &words);
        let mut left: BTreeSet<String> = all.iter().cloned().collect();
        for count in ["0", "1", "7", "20"] {
            let taken = members(&feeder.call("spop", &["s", count]));
            assert_eq!(taken.len().to_string(), count);
            assert!(taken.iter().all(|member| left.remove(member)), "{taken:?}");
        }
        let some = members(&feeder.call("srandmember", &["s", "5"]));
        assert_eq!(some.iter().collect::<BTreeSet<_>>().len(), 5);
        assert_eq!(members(&feeder.call("srandmember", &["s", "-100"])).len(), 100);
        let Outcome::Value(Some(one)) = feeder.call("spop", &["s"]) else { panic!() };
        assert!(left.remove(&String::from_utf8(one.to_vec()).unwrap()));
        assert_eq!(members(&feeder.call("smembers", &["s"])), Vec::from_iter(left.clone()));
        assert_eq!(members(&feeder.call("spop", &["s", "1000"])), Vec::from_iter(left));
        assert_eq!(feeder.store.key_count(), 0);
        assert_eq!(feeder.call("spop", &["s"]), Outcome::Value(None));
        let refused = feeder.call("srandmember", &["s", "-9223372036854775808"]);
        assert_eq!(refused, Outcome::Refused(Refusal::NotAbsolute));
    }

    #[test]
    fn a_member_that_stays_is_scanned_whatever_comes_and_goes() {
        let mut feeder = Feeder::new();
        let (mut number, mut seen) = (0, BTreeSet::new());
        while number < 1_000 {
            feeder.call("sadd", &["s", &number.to_string()]);
            number += 1;
        }
        let (mut cursor, mut calls) = ("0".to_owned(), 0);
        loop {
            let Outcome::List(reply) = feeder.call("sscan", &["s", &cursor, "COUNT", "20"]) else {
                panic!()
            };
            let [Outcome::Value(Some(next)), Outcome::Values(found)] = &reply[..] else { panic!() };
            seen.extend(found.iter().flatten().cloned());
            calls += 1;
            // Odd ones go, from both ends, and new ones come.
            for gone in [2 * calls + 1, 999 - 2 * calls, 401 + 2 * calls] {
                feeder.call("srem", &["s", &gone.to_string()]);
            }
            feeder.call("sadd", &["s", &number.to_string()]);
            number += 1;
            if *next == "0" {
                break;
            }
            cursor = String::from_utf8(next.to_vec()).unwrap();
        }
        assert!(calls >= 40, "{calls}");
        for even in (0..1_000).step_by(2) {
            assert!(seen.contains(even.to_string().as_bytes()), "{even}");
        }
    }

    #[test]
    fn sets_that_were_made_in_other_ways_have_the_same_digest() {
        let mut one = Feeder::new();
        one.call("sadd", &["s", "a", "b"]);
        one.call("sadd", &["t", "c", "b"]);
        one.call("sunionstore", &["u", "s", "t", "nothing"]);
        one.call("sinterstore", &["i", "t", "u"]);
        one.call("sdiffstore", &["d", "u", "t"]);
        one.call("smove", &["t", "s", "c"]);
        let mut other = Feeder::new();
        other.call("sadd", &["u", "c", "x", "a", "b"]);
        other.call("sadd", &["s", "b", "c", "a"]);
        other.call("sadd", &["i", "b", "c"]);
        other.call("sadd", &["d", "a"]);
        other.call("sadd", &["t", "b"]);
        other.call("srem", &["u", "x"]);
        assert_eq!(one.store.digest(), other.store.digest());
        one.call("sinterstore", &["u", "s", "nothing"]);
        other.call("srem", &["u", "a", "b", "c"]);
        assert_eq!(one.store.digest(), other.store.digest());
    }
}
