//! Commands on single members of a sorted set, and commands that pop, sample or scan members.

use super::{members_reply, text, text_and_score};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Double, Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::commands::scan::{self, Options};
use crate::kv::commands::sets::{places, scanned};
use crate::kv::keyspace::Keyspace;
use crate::kv::values::double::{parse_double, write_double};
use crate::kv::values::element::Element;
use crate::kv::values::number::parse_integer;
use crate::kv::values::score_tree::Scored;
use crate::kv::values::sorted_set::{Change, SortedSet};

/// Runs `ZADD key [NX | XX] [GT | LT] [CH] [INCR] score member [score member ...]`: adds members to
/// a sorted set, or changes their scores.
pub(in crate::kv) fn zadd(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    add(keyspace, args, false)
}

/// Runs `ZINCRBY key increment member`, which is the same as `ZADD key INCR increment member`. As
/// in Redis, an increment that is the name of an option of `ZADD` is parsed as this option.
pub(in crate::kv) fn zincrby(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    add(keyspace, args, true)
}

/// The options of a `ZADD` command. Each field says whether the option was given.
#[allow(clippy::struct_excessive_bools, reason = "each is an option that is given or not")]
#[derive(Debug, Clone, Copy, Default)]
struct Rules {
    if_absent: bool,
    if_present: bool,
    if_greater: bool,
    if_less: bool,
    /// Option `CH`: whether the reply counts both added members and members whose score was
    /// changed. Without this option, it counts only added members.
    counts_moved: bool,
    adds_up: bool,
}

impl Rules {
    /// Parses `word` as an option of `ZADD` and records it. Returns false, and records nothing, if
    /// `word` is not an option.
    fn take(&mut self, word: &[u8]) -> bool {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let option = if is("NX") {
            &mut self.if_absent
        } else if is("XX") {
            &mut self.if_present
        } else if is("GT") {
            &mut self.if_greater
        } else if is("LT") {
            &mut self.if_less
        } else if is("CH") {
            &mut self.counts_moved
        } else if is("INCR") {
            &mut self.adds_up
        } else {
            return false;
        };
        *option = true;
        true
    }

    /// Returns the new score of a member; `None` if the options of `ZADD` forbid the change. `old`
    /// is the member's current score (`None` if the set does not contain the member), and `score`
    /// is the given score or increment.
    ///
    /// # Errors
    /// If the sum of the old score and the increment is NaN.
    fn new_score(self, old: Option<f64>, score: f64) -> Result<Option<f64>, Refusal> {
        let Some(old) = old else { return Ok(Some(score).filter(|_| !self.if_present)) };
        if self.if_absent {
            return Ok(None);
        }
        let new = if self.adds_up { old + score } else { score };
        if new.is_nan() {
            return Err(Refusal::ScoreNaN);
        }
        let stays = self.if_less && new >= old || self.if_greater && new <= old;
        Ok(Some(new).filter(|_| !stays))
    }
}

fn add(keyspace: &mut Keyspace, args: &Args<'_>, adds_up: bool) -> Answer {
    let key = args.get(0)?;
    let mut rules = Rules { adds_up, ..Rules::default() };
    let mut at = 1;
    while args.rest(at).first().is_some_and(|word| rules.take(word)) {
        at += 1;
    }
    let (pairs, left_over) = args.rest(at).as_chunks::<2>();
    if pairs.is_empty() || !left_over.is_empty() {
        return Err(Refusal::Syntax);
    }
    if rules.if_absent && rules.if_present {
        return Err(Refusal::AbsentAndPresent);
    }
    let conditions = [rules.if_absent, rules.if_greater, rules.if_less];
    if conditions.into_iter().filter(|is_set| *is_set).count() > 1 {
        return Err(Refusal::ManyConditions);
    }
    if rules.adds_up && pairs.len() > 1 {
        return Err(Refusal::ManyIncrements);
    }
    let scores: Option<Vec<f64>> = pairs.iter().map(|[score, _]| parse_double(score)).collect();
    let scores = scores.ok_or(Refusal::NotAFloat)?;
    let set = keyspace.collection::<SortedSet>(key)?;
    let is_there = set.is_some();
    // `INCR` is computed before anything is changed, because a refused command must change nothing.
    let tried = match (rules.adds_up, pairs) {
        (true, [[_, member]]) => {
            rules.new_score(set.and_then(|set| set.score(member)), scores[0])?
        }
        _ => None,
    };
    let (mut added, mut moved) = (0, 0);
    if is_there || !rules.if_present {
        keyspace.update(key, |set: &mut SortedSet| {
            for ([_, member], given) in pairs.iter().zip(scores) {
                let Ok(Some(new)) = rules.new_score(set.score(member), given) else { continue };
                match set.set(member, new) {
                    Change::Added => added += 1,
                    Change::Moved => moved += 1,
                    Change::Nothing => {}
                }
            }
            ((), added + moved > 0)
        })?;
    }
    if added + moved > 0 {
        keyspace.notify(if rules.adds_up { "zincr" } else { "zadd" }, key);
    }
    Ok(if rules.adds_up {
        tried.map_or(Outcome::Value(None), |score| Outcome::Double(Double(score)))
    } else {
        Outcome::count(added + if rules.counts_moved { moved } else { 0 })
    })
}

/// Runs `ZREM key member [member ...]`: removes members from a sorted set, and returns the number
/// of removed members.
pub(in crate::kv) fn zrem(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let removed = keyspace.update_existing(key, |set: &mut SortedSet| {
        let removed = args.rest(1).iter().filter(|member| set.remove(member)).count();
        (removed, removed > 0)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        keyspace.notify("zrem", key);
        keyspace.notify_if_removed(key);
    }
    Ok(Outcome::count(removed))
}

/// Runs `ZCARD key`: returns the number of members of a sorted set.
pub(in crate::kv) fn zcard(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::count(keyspace.collection::<SortedSet>(args.get(0)?)?.map_or(0, SortedSet::len)))
}

fn score_or_nothing(score: Option<f64>) -> Outcome {
    score.map_or(Outcome::Value(None), |score| Outcome::Double(Double(score)))
}

/// Runs `ZSCORE key member`: returns the score of a member; null if the sorted set does not contain
/// it.
pub(in crate::kv) fn zscore(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let set = keyspace.collection::<SortedSet>(args.get(0)?)?;
    let member = args.get(1)?;
    Ok(score_or_nothing(set.and_then(|set| set.score(member))))
}

/// Runs `ZMSCORE key member [member ...]`: returns the scores of members, with null for each
/// missing member.
pub(in crate::kv) fn zmscore(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let set = keyspace.collection::<SortedSet>(args.get(0)?)?;
    let tell = |member: &&[u8]| score_or_nothing(set.and_then(|set| set.score(member)));
    Ok(Outcome::List(args.rest(1).iter().map(tell).collect()))
}

/// Runs `ZRANK key member`: returns the rank of a member, where rank 0 has the lowest score; null
/// if the sorted set does not contain the member.
pub(in crate::kv) fn zrank(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let set = keyspace.collection::<SortedSet>(args.get(0)?)?;
    let member = args.get(1)?;
    Ok(set.and_then(|set| set.rank(member)).map_or(Outcome::Value(None), Outcome::count))
}

/// Runs `ZREVRANK key member`: returns the rank of a member, where rank 0 has the highest score;
/// null if the sorted set does not contain the member.
pub(in crate::kv) fn zrevrank(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let set = keyspace.collection::<SortedSet>(args.get(0)?)?;
    let member = args.get(1)?;
    let place = set.and_then(|set| Some(set.len() - 1 - set.rank(member)?));
    Ok(place.map_or(Outcome::Value(None), Outcome::count))
}

/// The end of a sorted set from which members are popped: `Min` is the end with the lowest score,
/// `Max` that with the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) enum End {
    Min,
    Max,
}

/// Removes up to `count` members from one end of the sorted set at a key, and returns them, the
/// member nearest to that end first. Returns an empty vector if the key does not exist.
fn pop(
    keyspace: &mut Keyspace,
    key: &[u8],
    end: End,
    count: usize,
) -> Result<Vec<Scored>, Refusal> {
    let taken = keyspace.update_existing(key, |set: &mut SortedSet| {
        let length = set.len();
        let count = count.min(length);
        let taken = match end {
            End::Min => set.take(0..count),
            End::Max => {
                let mut taken = set.take(length - count..length);
                taken.reverse();
                taken
            }
        };
        (taken, count > 0)
    })?;
    let taken = taken.unwrap_or_default();
    if !taken.is_empty() {
        keyspace.notify(if end == End::Min { "zpopmin" } else { "zpopmax" }, key);
        keyspace.notify_if_removed(key);
    }
    Ok(taken)
}

/// Runs `ZPOPMIN key [count]`: removes and returns the members with the lowest scores.
pub(in crate::kv) fn zpopmin(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    pop_some(keyspace, args, End::Min)
}

/// Runs `ZPOPMAX key [count]`: removes and returns the members with the highest scores.
pub(in crate::kv) fn zpopmax(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    pop_some(keyspace, args, End::Max)
}

fn pop_some(keyspace: &mut Keyspace, args: &Args<'_>, end: End) -> Answer {
    let key = args.get(0)?;
    match args.rest(1) {
        [] => {
            let taken = pop(keyspace, key, end, 1)?;
            let flat = taken.iter().map(text_and_score);
            Ok(Outcome::List(flat.flat_map(|(member, score)| [member, score]).collect()))
        }
        [count] => {
            let count = parse_integer(count).and_then(|count| usize::try_from(count).ok());
            let taken = pop(keyspace, key, end, count.ok_or(Refusal::NotPositive)?)?;
            Ok(Outcome::Pairs(taken.iter().map(text_and_score).collect()))
        }
        _ => Err(Refusal::Syntax),
    }
}

/// Removes the member with the lowest or highest score from the first of these keys that holds a
/// sorted set. Returns the key, the member and its score; null if none of the keys exists.
pub(in crate::kv) fn pop_one_of(keyspace: &mut Keyspace, keys: &[&[u8]], end: End) -> Answer {
    for key in keys {
        if let [taken] = &pop(keyspace, key, end, 1)?[..] {
            let (member, score) = text_and_score(taken);
            let key = Outcome::Value(Some(bytes::Bytes::copy_from_slice(key)));
            return Ok(Outcome::List(vec![key, member, score]));
        }
    }
    Ok(Outcome::NoList)
}

/// Runs `ZMPOP numkeys key [key ...] <MIN | MAX> [COUNT count]`: removes and returns members from
/// one end of the first sorted set that exists.
pub(in crate::kv) fn zmpop(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    pop_from_first(keyspace, args.all())
}

/// Runs a command like `ZMPOP`, with these arguments.
pub(in crate::kv) fn pop_from_first(keyspace: &mut Keyspace, args: &[&[u8]]) -> Answer {
    let above_0 = |word: &[u8]| {
        let number = parse_integer(word).and_then(|number| usize::try_from(number).ok());
        number.filter(|number| *number > 0)
    };
    let (number, behind) = args.split_first().ok_or(Refusal::Syntax)?;
    let number = above_0(number).ok_or(Refusal::NoKeys)?;
    let (keys, options) = behind.split_at_checked(number).ok_or(Refusal::Syntax)?;
    let [end, options @ ..] = options else { return Err(Refusal::Syntax) };
    let end = if end.eq_ignore_ascii_case(b"MIN") {
        End::Min
    } else if end.eq_ignore_ascii_case(b"MAX") {
        End::Max
    } else {
        return Err(Refusal::Syntax);
    };
    let count = match options {
        [] => 1,
        [name, count, more @ ..] if name.eq_ignore_ascii_case(b"COUNT") => {
            let count = above_0(count).ok_or(Refusal::NoCount)?;
            if !more.is_empty() {
                return Err(Refusal::Syntax);
            }
            count
        }
        _ => return Err(Refusal::Syntax),
    };
    for key in keys {
        let taken = pop(keyspace, key, end, count)?;
        if taken.is_empty() {
            continue;
        }
        let pair = |scored: &Scored| {
            let pair = text_and_score(scored);
            Outcome::List(vec![pair.0, pair.1])
        };
        let key = Outcome::Value(Some(bytes::Bytes::copy_from_slice(key)));
        return Ok(Outcome::List(vec![key, Outcome::List(taken.iter().map(pair).collect())]));
    }
    Ok(Outcome::NoList)
}

/// Runs `ZRANDMEMBER key [count [WITHSCORES]]`: returns up to `count` distinct random members of a
/// sorted set. If `count` is negative, returns exactly `-count` members, possibly with repetitions.
pub(in crate::kv) fn zrandmember(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let set = |key| keyspace.collection::<SortedSet>(key);
    let Some(count) = args.rest(1).first() else {
        let set = set(args.get(0)?)?;
        let some = set.and_then(|set| set.by_rank().get(args.below(0, set.len())));
        return Ok(some.map_or(Outcome::Value(None), text));
    };
    let count = parse_integer(count).ok_or(Refusal::NotAnInteger)?;
    if count == i64::MIN {
        return Err(Refusal::NotAbsolute);
    }
    let with_scores = match args.rest(2) {
        [] => false,
        [word] if word.eq_ignore_ascii_case(b"WITHSCORES") => true,
        _ => return Err(Refusal::Syntax),
    };
    if with_scores && count.unsigned_abs() > i64::MAX.unsigned_abs() / 2 {
        return Err(Refusal::OutOfRange);
    }
    let Some(set) = set(args.get(0)?)? else { return Ok(Outcome::List(Vec::new())) };
    let places = places(args, count, set.len())?;
    Ok(members_reply(places.iter().filter_map(|place| set.by_rank().get(*place)), with_scores))
}

/// Runs `ZSCAN key cursor [MATCH pattern] [COUNT count]`: returns the next cursor and some members
/// of a sorted set with their scores. A small sorted set is returned in one call. A large one is
/// scanned from the end of its hash table, in insertion order, to the start, as `SSCAN` does.
pub(in crate::kv) fn zscan(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let cursor = match scan::cursor(args.get(1)?) {
        Ok(cursor) => cursor,
        Err(error) => return Ok(error),
    };
    let Some(set) = keyspace.collection::<SortedSet>(args.get(0)?)? else {
        return Ok(scan::reply(0, Vec::new()));
    };
    let options = Options::read(args, 2)?;
    if set.len() <= crate::kv::values::set::SCANNED_AT_ONCE_MAX {
        // Redis returns the members of small sets in order of scores, and formats integer scores
        // without an exponent if no member is long.
        let write = if set.is_packed() { write_whole } else { write_double };
        let all = set.by_rank().range(0..set.len()).map(|scored| (&scored.member, scored.score));
        return Ok(scan_reply(0, all, &options, write));
    }
    let (from, to) = scanned(cursor, options.count, set.len());
    Ok(scan_reply(from as u64, set.range(from..to), &options, write_double))
}

/// Formats a score as text. An integer with a magnitude of at most 2^62 has no exponent; any other
/// score is formatted like C's `%.17g`. Redis does the same for small sorted sets.
fn write_whole(score: f64) -> String {
    #[allow(clippy::cast_possible_truncation, reason = "the range was checked")]
    if score.fract() == 0.0 && score.abs() <= (i64::MAX / 2) as f64 {
        return (score as i64).to_string();
    }
    write_double(score)
}

fn scan_reply<'s>(
    cursor: u64,
    part: impl Iterator<Item = (&'s Element, f64)>,
    options: &Options<'_>,
    write: fn(f64) -> String,
) -> Outcome {
    let fitting = part.filter(|(member, _)| options.fits(member));
    let texts =
        fitting.flat_map(|(member, score)| [member.to_shared(), write(score).into()].map(Some));
    scan::reply(cursor, texts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    fn double(score: f64) -> Outcome {
        Outcome::Double(Double(score))
    }

    #[test]
    fn zadd_options_nx_xx_gt_lt_decide_which_scores_are_set() {
        let mut feeder = Feeder::new();
        let nothing = Outcome::Value(None);
        assert_eq!(feeder.call("zadd", &["z", "XX", "1", "a"]), Outcome::Integer(0));
        assert_eq!(feeder.store.key_count(), 0);
        assert_eq!(feeder.call("zadd", &["z", "1", "a", "2", "b"]), Outcome::Integer(2));
        assert_eq!(feeder.call("zadd", &["z", "NX", "5", "a", "3", "c"]), Outcome::Integer(1));
        assert_eq!(
            feeder.call("zadd", &["z", "GT", "CH", "0", "a", "4", "b"]),
            Outcome::Integer(1)
        );
        assert_eq!(feeder.call("zadd", &["z", "lt", "incr", "1", "a"]), nothing);
        assert_eq!(feeder.call("zadd", &["z", "INCR", "1", "a"]), double(2.0));
        assert_eq!(feeder.call("zincrby", &["z", "inf", "a"]), double(f64::INFINITY));
        let digest = feeder.store.digest();
        let refused = feeder.call("zincrby", &["z", "-inf", "a"]);
        assert_eq!(refused, Outcome::Refused(Refusal::ScoreNaN));
        assert_ne!(feeder.store.digest(), digest, "another place in the log");
        assert_eq!(feeder.call("zscore", &["z", "a"]), double(f64::INFINITY));
        assert_eq!(feeder.call("zadd", &["y", "-0", "a"]), Outcome::Integer(1));
        assert_eq!(feeder.call("zadd", &["y", "CH", "0", "a"]), Outcome::Integer(0));
        assert_eq!(feeder.call("zscore", &["y", "a"]), double(0.0));
        let refused = feeder.call("zadd", &["y", "1", "a", "x", "b"]);
        assert_eq!(refused, Outcome::Refused(Refusal::NotAFloat));
        assert_eq!(feeder.call("zscore", &["y", "a"]), double(0.0));
    }

    #[test]
    fn zrank_and_zpop_count_from_lowest_and_highest_score() {
        let mut feeder = Feeder::new();
        feeder.call("zadd", &["z", "2", "c", "1", "b", "1", "a", "-inf", "d"]);
        assert_eq!(feeder.call("zrank", &["z", "b"]), Outcome::Integer(2));
        assert_eq!(feeder.call("zrevrank", &["z", "b"]), Outcome::Integer(1));
        assert_eq!(feeder.call("zrank", &["z", "x"]), Outcome::Value(None));
        let member = |text: &'static str| Outcome::Value(Some(text.into()));
        let flat = Outcome::List(vec![member("c"), double(2.0)]);
        assert_eq!(feeder.call("zpopmax", &["z"]), flat);
        let pair = |text, score| Outcome::List(vec![member(text), double(score)]);
        let pairs = Outcome::List(vec![pair("d", f64::NEG_INFINITY), pair("a", 1.0)]);
        let popped = feeder.call("zmpop", &["2", "nothing", "z", "MIN", "COUNT", "2"]);
        assert_eq!(popped, Outcome::List(vec![member("z"), pairs]));
        let last = Outcome::Pairs(vec![(member("b"), double(1.0))]);
        assert_eq!(feeder.call("zpopmin", &["z", "10"]), last);
        assert_eq!(feeder.store.key_count(), 0);
        assert_eq!(feeder.call("zmpop", &["1", "z", "MAX"]), Outcome::NoList);
    }
}
