//! Commands on single members of a sorted set, and those that take or tell some of them.

use super::{text, text_and_score, told};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Double, Outcome, Refusal};
use crate::kv::commands::registry::Answer;
use crate::kv::commands::scan::{self, Options};
use crate::kv::commands::sets::{places, scanned};
use crate::kv::state_machine::StateMachine;
use crate::kv::values::double::{parse_double, write_double};
use crate::kv::values::number::parse_integer;
use crate::kv::values::order::Scored;
use crate::kv::values::sorted_set::{Change, SortedSet};

/// `ZADD key [NX | XX] [GT | LT] [CH] [INCR] score member [score member ...]`
pub(in crate::kv) fn zadd(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    add(store, words, false)
}

/// `ZINCRBY key amount member`, which is `ZADD` with `INCR`; so what looks like another option of
/// that is taken for one.
pub(in crate::kv) fn zincrby(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    add(store, words, true)
}

/// The options of `ZADD`.
#[allow(clippy::struct_excessive_bools, reason = "they are so many words, each there or not")]
#[derive(Debug, Clone, Copy, Default)]
struct Rules {
    if_absent: bool,
    if_present: bool,
    if_greater: bool,
    if_less: bool,
    /// Tells also how many were moved.
    counts_moved: bool,
    adds_up: bool,
}

impl Rules {
    /// Takes in a word; whether it is an option.
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

    /// What becomes of a score; `None` if it stays.
    ///
    /// # Errors
    /// If the sum is no number.
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

fn add(store: &mut StateMachine, words: &Args<'_>, adds_up: bool) -> Answer {
    let key = words.get(0)?;
    let mut rules = Rules { adds_up, ..Rules::default() };
    let mut at = 1;
    while words.rest(at).first().is_some_and(|word| rules.take(word)) {
        at += 1;
    }
    let (pairs, left_over) = words.rest(at).as_chunks::<2>();
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
    let set = store.content::<SortedSet>(key)?;
    let is_there = set.is_some();
    // The only sum there may be is tried first: a refusal must change nothing.
    let tried = match (rules.adds_up, pairs) {
        (true, [[_, member]]) => {
            rules.new_score(set.and_then(|set| set.score(member)), scores[0])?
        }
        _ => None,
    };
    let (mut added, mut moved) = (0, 0);
    if is_there || !rules.if_present {
        store.change(key, |set: &mut SortedSet| {
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
        store.note(if rules.adds_up { "zincr" } else { "zadd" }, key);
    }
    Ok(if rules.adds_up {
        tried.map_or(Outcome::Value(None), |score| Outcome::Double(Double(score)))
    } else {
        Outcome::count(added + if rules.counts_moved { moved } else { 0 })
    })
}

/// `ZREM key member [member ...]`
pub(in crate::kv) fn zrem(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let key = words.get(0)?;
    let removed = store.change_there(key, |set: &mut SortedSet| {
        let removed = words.rest(1).iter().filter(|member| set.remove(member)).count();
        (removed, removed > 0)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        store.note("zrem", key);
        store.note_if_gone(key);
    }
    Ok(Outcome::count(removed))
}

/// `ZCARD key`
pub(in crate::kv) fn zcard(store: &StateMachine, words: &Args<'_>) -> Answer {
    Ok(Outcome::count(store.content::<SortedSet>(words.get(0)?)?.map_or(0, SortedSet::len)))
}

fn score_or_nothing(score: Option<f64>) -> Outcome {
    score.map_or(Outcome::Value(None), |score| Outcome::Double(Double(score)))
}

/// `ZSCORE key member`
pub(in crate::kv) fn zscore(store: &StateMachine, words: &Args<'_>) -> Answer {
    let set = store.content::<SortedSet>(words.get(0)?)?;
    let member = words.get(1)?;
    Ok(score_or_nothing(set.and_then(|set| set.score(member))))
}

/// `ZMSCORE key member [member ...]`
pub(in crate::kv) fn zmscore(store: &StateMachine, words: &Args<'_>) -> Answer {
    let set = store.content::<SortedSet>(words.get(0)?)?;
    let tell = |member: &&[u8]| score_or_nothing(set.and_then(|set| set.score(member)));
    Ok(Outcome::List(words.rest(1).iter().map(tell).collect()))
}

/// `ZRANK key member`
pub(in crate::kv) fn zrank(store: &StateMachine, words: &Args<'_>) -> Answer {
    let set = store.content::<SortedSet>(words.get(0)?)?;
    let member = words.get(1)?;
    Ok(set.and_then(|set| set.place(member)).map_or(Outcome::Value(None), Outcome::count))
}

/// `ZREVRANK key member`
pub(in crate::kv) fn zrevrank(store: &StateMachine, words: &Args<'_>) -> Answer {
    let set = store.content::<SortedSet>(words.get(0)?)?;
    let member = words.get(1)?;
    let place = set.and_then(|set| Some(set.len() - 1 - set.place(member)?));
    Ok(place.map_or(Outcome::Value(None), Outcome::count))
}

/// At which end members are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Min,
    Max,
}

/// Takes so many members at one end, if there are so many.
fn pop(
    store: &mut StateMachine,
    key: &[u8],
    end: End,
    count: usize,
) -> Result<Vec<Scored>, Refusal> {
    let taken = store.change_there(key, |set: &mut SortedSet| {
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
        store.note(if end == End::Min { "zpopmin" } else { "zpopmax" }, key);
        store.note_if_gone(key);
    }
    Ok(taken)
}

/// `ZPOPMIN key [count]`
pub(in crate::kv) fn zpopmin(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    pop_some(store, words, End::Min)
}

/// `ZPOPMAX key [count]`
pub(in crate::kv) fn zpopmax(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    pop_some(store, words, End::Max)
}

fn pop_some(store: &mut StateMachine, words: &Args<'_>, end: End) -> Answer {
    let key = words.get(0)?;
    match words.rest(1) {
        [] => {
            let taken = pop(store, key, end, 1)?;
            let flat = taken.iter().map(text_and_score);
            Ok(Outcome::List(flat.flat_map(|(member, score)| [member, score]).collect()))
        }
        [count] => {
            let count = parse_integer(count).and_then(|count| usize::try_from(count).ok());
            let taken = pop(store, key, end, count.ok_or(Refusal::NotPositive)?)?;
            Ok(Outcome::Pairs(taken.iter().map(text_and_score).collect()))
        }
        _ => Err(Refusal::Syntax),
    }
}

/// `ZMPOP numkeys key [key ...] <MIN | MAX> [COUNT count]`
pub(in crate::kv) fn zmpop(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let above_0 = |word: &[u8]| {
        let number = parse_integer(word).and_then(|number| usize::try_from(number).ok());
        number.filter(|number| *number > 0)
    };
    let number = above_0(words.get(0)?).ok_or(Refusal::NoKeys)?;
    let behind = words.rest(1);
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
        let taken = pop(store, key, end, count)?;
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

/// `ZRANDMEMBER key [count [WITHSCORES]]`: as many different members as there are and `count` says;
/// if that is negative, so many, and a member may come again.
pub(in crate::kv) fn zrandmember(store: &StateMachine, words: &Args<'_>) -> Answer {
    let set = |key| store.content::<SortedSet>(key);
    let Some(count) = words.rest(1).first() else {
        let set = set(words.get(0)?)?;
        let some = set.and_then(|set| set.order.get(words.below(0, set.len())));
        return Ok(some.map_or(Outcome::Value(None), text));
    };
    let count = parse_integer(count).ok_or(Refusal::NotAnInteger)?;
    if count == i64::MIN {
        return Err(Refusal::NotAbsolute);
    }
    let with_scores = match words.rest(2) {
        [] => false,
        [word] if word.eq_ignore_ascii_case(b"WITHSCORES") => true,
        _ => return Err(Refusal::Syntax),
    };
    if with_scores && count.unsigned_abs() > i64::MAX.unsigned_abs() / 2 {
        return Err(Refusal::OutOfRange);
    }
    let Some(set) = set(words.get(0)?)? else { return Ok(Outcome::List(Vec::new())) };
    let places = places(words, count, set.len())?;
    Ok(told(places.iter().filter_map(|place| set.order.get(*place)), with_scores))
}

/// `ZSCAN key cursor [MATCH pattern] [COUNT count]`: in the table's order, as `SSCAN` does it.
pub(in crate::kv) fn zscan(store: &StateMachine, words: &Args<'_>) -> Answer {
    let cursor = match scan::cursor(words.get(1)?) {
        Ok(cursor) => cursor,
        Err(error) => return Ok(error),
    };
    let Some(set) = store.content::<SortedSet>(words.get(0)?)? else {
        return Ok(scan::reply(0, Vec::new()));
    };
    let options = Options::read(words, 2)?;
    if set.len() <= crate::kv::values::set::SCANNED_AT_ONCE_MAX {
        // In order and, if no member is long, with whole numbers in full, as Redis does it.
        let write = if set.is_packed() { write_whole } else { write_double };
        let all = set.order.range(0..set.len()).map(|scored| (&scored.member, &scored.score));
        return Ok(scan_reply(0, all, &options, write));
    }
    let (from, to) = scanned(cursor, options.count, set.len());
    let part = set.scores.get_range(from..to).expect("it is within the members");
    Ok(scan_reply(from as u64, part.iter(), &options, write_double))
}

/// A score in all its digits if it is a whole number that is not too large.
fn write_whole(score: f64) -> String {
    #[allow(clippy::cast_possible_truncation, reason = "it is in range")]
    if score.fract() == 0.0 && score.abs() <= (i64::MAX / 2) as f64 {
        return (score as i64).to_string();
    }
    write_double(score)
}

fn scan_reply<'s>(
    cursor: u64,
    part: impl Iterator<Item = (&'s bytes::Bytes, &'s f64)>,
    options: &Options<'_>,
    write: fn(f64) -> String,
) -> Outcome {
    let fitting = part.filter(|(member, _)| options.fits(member));
    let texts =
        fitting.flat_map(|(member, score)| [member.clone(), write(*score).into()].map(Some));
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
    fn scores_are_set_under_conditions() {
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
    fn places_are_told_from_both_ends_and_members_taken_there() {
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
