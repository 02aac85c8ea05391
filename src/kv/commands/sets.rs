//! Commands on sets.

use std::sync::Arc;

use foldhash::fast::FixedState;
use indexmap::IndexSet;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{
    ALL_KEYS, Answer, NO_KEYS, ONE_KEY, Row, Scale, TWO_KEYS, read, write,
};
use crate::kv::commands::scan::{self, Options};
use crate::kv::keyspace::Keyspace;
use crate::kv::values::collection::CollectionType as _;
use crate::kv::values::element::{Element, share_all};
use crate::kv::values::number::parse_integer;
use crate::kv::values::set::{SCANNED_AT_ONCE_MAX, Set};

/// The set commands of the state machine: number, name, key positions and function of each. Append
/// new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(192, "sadd", ONE_KEY, sadd),
    write(193, "srem", ONE_KEY, srem),
    read(194, "scard", ONE_KEY, scard),
    read(195, "sismember", ONE_KEY, sismember),
    read(196, "smismember", ONE_KEY, smismember),
    read(197, "smembers", ONE_KEY, smembers).per(Scale::Values),
    write(198, "spop", ONE_KEY, spop).per(Scale::Count),
    read(199, "srandmember", ONE_KEY, srandmember).per(Scale::Count),
    write(200, "smove", TWO_KEYS, smove),
    read(201, "sinter", ALL_KEYS, sinter).per(Scale::Values),
    read(202, "sunion", ALL_KEYS, sunion).per(Scale::Values),
    read(203, "sdiff", ALL_KEYS, sdiff).per(Scale::Values),
    write(204, "sinterstore", ALL_KEYS, sinterstore).per(Scale::Values),
    write(205, "sunionstore", ALL_KEYS, sunionstore).per(Scale::Values),
    write(206, "sdiffstore", ALL_KEYS, sdiffstore).per(Scale::Values),
    read(207, "sintercard", NO_KEYS.and_counted_at(0), sintercard).per(Scale::Values),
    read(208, "sscan", ONE_KEY, sscan),
];

/// Maximum number of random members that a command such as `SRANDMEMBER` returns if its count is
/// negative, which allows repetitions.
pub(in crate::kv) const REPEATED_MAX: usize = 1 << 20;

/// Runs `SADD key member [member ...]`: adds members to a set, and returns the number of new
/// members.
fn sadd(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, members) = (args.get(0)?, args.rest(1));
    if members.is_empty() {
        return Err(Refusal::Syntax);
    }
    let added = keyspace.update(key, |set: &mut Set| {
        let added = members.iter().filter(|member| set.add(member)).count();
        (added, added > 0)
    })?;
    if added > 0 {
        keyspace.notify("sadd", key);
    }
    Ok(Outcome::count(added))
}

/// Runs `SREM key member [member ...]`: removes members from a set, and returns the number of
/// removed members.
fn srem(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let removed = keyspace.update_existing(key, |set: &mut Set| {
        let removed = args.rest(1).iter().filter(|member| set.remove(member)).count();
        (removed, removed > 0)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        keyspace.notify("srem", key);
        keyspace.notify_if_removed(key);
    }
    Ok(Outcome::count(removed))
}

/// Runs `SCARD key`: returns the number of members of a set.
fn scard(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::count(keyspace.collection::<Set>(args.get(0)?)?.map_or(0, Set::len)))
}

/// Runs `SISMEMBER key member`: returns 1 if a set contains the member, otherwise 0.
fn sismember(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let set = keyspace.collection::<Set>(args.get(0)?)?;
    let member = args.get(1)?;
    Ok(Outcome::flag(set.is_some_and(|set| set.contains(member))))
}

/// Runs `SMISMEMBER key member [member ...]`: returns 1 for each member that a set contains, 0 for
/// the others.
fn smismember(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let set = keyspace.collection::<Set>(args.get(0)?)?;
    let is_there = |member: &&[u8]| Outcome::flag(set.is_some_and(|set| set.contains(member)));
    Ok(Outcome::List(args.rest(1).iter().map(is_there).collect()))
}

fn texts<'e>(members: impl IntoIterator<Item = &'e Element>) -> Vec<Outcome> {
    share_all(members).map(|member| Outcome::Value(Some(member))).collect()
}

/// Runs `SMEMBERS key`: returns all members of a set.
fn smembers(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let set = keyspace.collection::<Set>(args.get(0)?)?;
    Ok(Outcome::Set(texts(set.into_iter().flat_map(Set::iter))))
}

/// Runs `SPOP key [count]`: removes and returns random members of a set.
fn spop(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let (count, is_one) = match args.rest(1) {
        [] => (1, true),
        [count] => {
            let count = parse_integer(count).and_then(|count| usize::try_from(count).ok());
            (count.ok_or(Refusal::NotPositive)?, false)
        }
        _ => return Err(Refusal::Syntax),
    };
    let taken = keyspace.update_existing(key, |set: &mut Set| {
        // Members are removed from the last position to the first, because the removal of a member
        // moves only members behind it.
        let places = args.different(count, set.len());
        let taken: Vec<_> = places.into_iter().rev().filter_map(|place| set.take(place)).collect();
        let changed = !taken.is_empty();
        (taken, changed)
    })?;
    let taken = taken.unwrap_or_default();
    if !taken.is_empty() {
        keyspace.notify("spop", key);
        keyspace.notify_if_removed(key);
    }
    Ok(if is_one {
        Outcome::Value(taken.first().map(Element::to_shared))
    } else {
        Outcome::Set(texts(&taken))
    })
}

/// Runs `SRANDMEMBER key [count]`: returns up to `count` distinct random members of a set. If
/// `count` is negative, returns exactly `-count` members, possibly with repetitions.
fn srandmember(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let set = |key| keyspace.collection::<Set>(key);
    let count = match args.rest(1) {
        [] => {
            let set = set(args.get(0)?)?;
            let some = |set: &Set| set.get_index(args.below(0, set.len())).map(Element::to_shared);
            return Ok(Outcome::Value(set.and_then(some)));
        }
        [count] => parse_integer(count).ok_or(Refusal::NotAnInteger)?,
        _ => return Err(Refusal::Syntax),
    };
    if count == i64::MIN {
        return Err(Refusal::NotAbsolute);
    }
    let Some(set) = set(args.get(0)?)? else { return Ok(Outcome::List(Vec::new())) };
    let places = places(args, count, set.len())?;
    let chosen = places.iter().filter_map(|place| set.get_index(*place));
    Ok(Outcome::List(texts(chosen)))
}

/// Returns random positions from 0 to `length - 1`; `length` must not be 0. Returns up to `count`
/// distinct positions or, if `count` is negative, exactly `-count` positions, possibly with
/// repetitions.
///
/// # Errors
/// If `count` is negative and `-count` exceeds [`REPEATED_MAX`], which limits the memory usage of
/// the reply. (Redis has no such limit.)
pub(in crate::kv) fn places(
    args: &Args<'_>,
    count: i64,
    length: usize,
) -> Result<Vec<usize>, Refusal> {
    let number = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if count >= 0 {
        Ok(args.different(number, length))
    } else if number > REPEATED_MAX {
        Err(Refusal::OutOfRange)
    } else {
        Ok((0..).take(number).map(|turn| args.below(turn, length)).collect())
    }
}

/// Runs `SMOVE source destination member`: moves a member from one set to another.
fn smove(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (from, to, member) = (args.get(0)?, args.get(1)?, args.get(2)?);
    let Some(source) = keyspace.collection::<Set>(from)? else { return Ok(Outcome::flag(false)) };
    let is_there = source.contains(member);
    keyspace.collection::<Set>(to)?;
    if from == to || !is_there {
        return Ok(Outcome::flag(is_there));
    }
    keyspace.update_existing(from, |set: &mut Set| (set.remove(member), true))?;
    keyspace.notify("srem", from);
    keyspace.notify_if_removed(from);
    // As in Redis, this counts as a change even if the destination already contains the member.
    if keyspace.update(to, |set: &mut Set| (set.add(member), true))? {
        keyspace.notify("sadd", to);
    }
    Ok(Outcome::flag(true))
}

/// A set operation on several sets: union, intersection or difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Join {
    Inter,
    Union,
    Diff,
}

/// Returns the sets at `keys`, in the same order; `None` for a key that does not exist.
///
/// # Errors
/// If the value of a key is not a set.
fn sets<'s>(keyspace: &'s Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<&'s Set>>, Refusal> {
    keys.iter().map(|key| Ok(keyspace.collection::<Set>(key)?)).collect()
}

/// Iterates over the intersection of `sets`: the members that all of them contain. `None` stands
/// for an empty set.
fn common<'s>(sets: &[Option<&'s Set>]) -> impl Iterator<Item = &'s Element> {
    let mut there: Vec<&Set> = sets.iter().copied().flatten().collect();
    let all = there.len() == sets.len();
    // The smallest set comes first: its members are looked up in all others.
    there.sort_by_key(|set| set.len());
    let smallest = there.first().copied().filter(|_| all);
    let members = smallest.into_iter().flat_map(Set::iter);
    members.filter(move |member| there[1..].iter().all(|set| set.contains(member)))
}

/// Returns the members of the union, intersection or difference of the sets at `keys`, each member
/// once. `how` selects the set operation.
fn join(keyspace: &Keyspace, keys: &[&[u8]], how: Join) -> Result<Vec<Element>, Refusal> {
    let sets = sets(keyspace, keys)?;
    Ok(match how {
        Join::Inter => common(&sets).cloned().collect(),
        Join::Union => {
            let members = sets.into_iter().flatten().flat_map(Set::iter);
            let different: IndexSet<&Element, FixedState> = members.collect();
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

fn joined(keyspace: &Keyspace, args: &Args<'_>, how: Join) -> Answer {
    let members = join(keyspace, args.rest(0), how)?;
    Ok(Outcome::Set(texts(&members)))
}

/// Applies the set operation `how` to the sets at the keys from the second argument on. Stores the
/// result at the key in the first argument, or removes this key if the result is empty. Returns the
/// number of members of the result. `event` is the name of the keyspace notification.
fn join_into(keyspace: &mut Keyspace, args: &Args<'_>, how: Join, event: &'static str) -> Answer {
    let to = args.get(0)?;
    let members = join(keyspace, args.rest(1), how)?;
    if members.is_empty() {
        keyspace.delete(to);
        return Ok(Outcome::Integer(0));
    }
    let mut set = Set::default();
    for member in members {
        set.insert(member);
    }
    let count = set.len();
    keyspace.put_collection(to, Set::wrap(Arc::new(set)));
    keyspace.notify(event, to);
    Ok(Outcome::count(count))
}

/// Runs `SINTER key [key ...]`: returns the intersection of sets.
fn sinter(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    joined(keyspace, args, Join::Inter)
}

/// Runs `SUNION key [key ...]`: returns the union of sets.
fn sunion(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    joined(keyspace, args, Join::Union)
}

/// Runs `SDIFF key [key ...]`: returns the difference between the first set and the others.
fn sdiff(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    joined(keyspace, args, Join::Diff)
}

/// Runs `SINTERSTORE destination key [key ...]`: stores the intersection of sets.
fn sinterstore(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    join_into(keyspace, args, Join::Inter, "sinterstore")
}

/// Runs `SUNIONSTORE destination key [key ...]`: stores the union of sets.
fn sunionstore(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    join_into(keyspace, args, Join::Union, "sunionstore")
}

/// Runs `SDIFFSTORE destination key [key ...]`: stores the difference between the first set and the
/// others.
fn sdiffstore(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    join_into(keyspace, args, Join::Diff, "sdiffstore")
}

/// Runs `SINTERCARD numkeys key [key ...] [LIMIT limit]`: counts the members of the intersection of
/// sets, up to `limit`.
fn sintercard(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let count = parse_integer(args.get(0)?).and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|count| *count > 0).ok_or(Refusal::NoKeys)?;
    let behind = args.rest(1);
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
    Ok(Outcome::count(common(&sets(keyspace, keys)?).take(most).count()))
}

/// Runs `SSCAN key cursor [MATCH pattern] [COUNT count]`: returns the next cursor and some members
/// of a set. A small set is returned in one call. A large set is scanned from the end of its order
/// to the start, and the cursor is the number of members that have not been visited yet. Removals
/// move members only towards the start, so the scan visits every member that stays in the set.
fn sscan(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let cursor = match scan::cursor(args.get(1)?) {
        Ok(cursor) => cursor,
        Err(error) => return Ok(error),
    };
    let Some(set) = keyspace.collection::<Set>(args.get(0)?)? else {
        return Ok(scan::reply(0, Vec::new()));
    };
    let options = Options::read(args, 2)?;
    let (from, to) = scanned(cursor, options.count, set.len());
    let fitting = set.range(from..to).filter(|member| options.fits(member));
    Ok(scan::reply(from as u64, share_all(fitting).map(Some).collect()))
}

/// Returns the range of positions that one call of a scan visits in a collection of `length`
/// elements, as its start (inclusive) and its end (exclusive). A scan goes from the end of the
/// collection to the start. `cursor` is the number of elements that have not been visited yet, or 0
/// in the first call. `count` is the number of elements to visit.
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
    fn set_has_unique_members_and_is_deleted_when_empty() {
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
    fn spop_removes_random_members_and_srandmember_keeps_them() {
        let mut feeder = Feeder::new();
        let all: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        let mut args = vec!["s"];
        args.extend(all.iter().map(String::as_str));
        feeder.call("sadd", &args);
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
    fn sscan_returns_each_member_present_during_the_whole_scan() {
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
            // Removes odd members from both ends and the middle, while new members are added.
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
    fn state_digest_of_a_set_depends_only_on_its_members() {
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
