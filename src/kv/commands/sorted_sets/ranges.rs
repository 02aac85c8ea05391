//! Commands on ranges of a sorted set: by place, by score and by bytes.

use std::ops::Range;

use super::{put, told};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::registry::Answer;
use crate::kv::state_machine::StateMachine;
use crate::kv::values::double::parse_end;
use crate::kv::values::number::parse_integer;
use crate::kv::values::order::Scored;
use crate::kv::values::sorted_set::SortedSet;

/// By what a range is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Place,
    Score,
    /// By bytes, which means something only where all scores are equal.
    Lex,
}

/// A range. One that ends before it begins has nothing in it.
#[derive(Debug, Clone, Copy)]
enum Ends<'w> {
    /// Counted from the last if below 0.
    Places(i64, i64),
    Scores(Score, Score),
    Lex(Lex<'w>, Lex<'w>),
}

/// An end of a range of scores.
#[derive(Debug, Clone, Copy)]
struct Score {
    score: f64,
    /// The score itself is out of range.
    open: bool,
}

/// An end of a range of members.
#[derive(Debug, Clone, Copy)]
enum Lex<'w> {
    /// Before all.
    Least,
    /// Behind all.
    Most,
    At {
        member: &'w [u8],
        /// The member itself is out of range.
        open: bool,
    },
}

impl Score {
    fn read(word: &[u8]) -> Result<Score, Refusal> {
        let (open, score) = word.strip_prefix(b"(").map_or((false, word), |score| (true, score));
        let score = parse_end(score).ok_or(Refusal::EndNotAFloat)?;
        Ok(Score { score, open })
    }
}

impl<'w> Lex<'w> {
    fn read(word: &'w [u8]) -> Result<Lex<'w>, Refusal> {
        match word {
            // To Redis, which is written in C, a NUL ends the word.
            [b'-'] | [b'-', 0, ..] => Ok(Lex::Least),
            [b'+'] | [b'+', 0, ..] => Ok(Lex::Most),
            [b'(', member @ ..] => Ok(Lex::At { member, open: true }),
            [b'[', member @ ..] => Ok(Lex::At { member, open: false }),
            _ => Err(Refusal::EndNotLex),
        }
    }

    /// Whether a member is before this, as the lower end of a range.
    fn excludes_below(self, there: &[u8]) -> bool {
        match self {
            Lex::Least => false,
            Lex::Most => true,
            Lex::At { member, open } => there < member || open && there == member,
        }
    }

    /// Whether a member is not behind this, as the upper end of a range.
    fn includes(self, there: &[u8]) -> bool {
        match self {
            Lex::Least => false,
            Lex::Most => true,
            Lex::At { member, open } => there < member || !open && there == member,
        }
    }
}

impl<'w> Ends<'w> {
    fn read(by: By, min: &'w [u8], max: &'w [u8]) -> Result<Ends<'w>, Refusal> {
        let place = |word| parse_integer(word).ok_or(Refusal::NotAnInteger);
        Ok(match by {
            By::Place => Ends::Places(place(min)?, place(max)?),
            By::Score => Ends::Scores(Score::read(min)?, Score::read(max)?),
            By::Lex => Ends::Lex(Lex::read(min)?, Lex::read(max)?),
        })
    }

    /// Which places of a set are in it. With `rev` places are counted from the last on.
    #[allow(clippy::float_cmp, reason = "an end is that very number")]
    fn places(self, set: &SortedSet, rev: bool) -> Range<usize> {
        let order = &set.order;
        let (start, end) = match self {
            Ends::Places(first, last) => {
                let length = i64::try_from(set.len()).expect("there are fewer bytes than 2^63");
                let counted =
                    |place: i64| if place < 0 { place.saturating_add(length) } else { place };
                let (first, last) = (counted(first).max(0), counted(last).min(length - 1));
                if first > last {
                    return 0..0;
                }
                let (start, end) =
                    if rev { (length - 1 - last, length - first) } else { (first, last + 1) };
                let place = |place| usize::try_from(place).expect("it is within the set");
                (place(start), place(end))
            }
            Ends::Scores(min, max) => {
                let is_below = |there: &Scored| {
                    there.score < min.score || min.open && there.score == min.score
                };
                let is_in = |there: &Scored| {
                    there.score < max.score || !max.open && there.score == max.score
                };
                (order.count_while(is_below), order.count_while(is_in))
            }
            Ends::Lex(min, max) => {
                let is_below = |there: &Scored| min.excludes_below(&there.member);
                let is_in = |there: &Scored| max.includes(&there.member);
                (order.count_while(is_below), order.count_while(is_in))
            }
        };
        start..end.max(start)
    }
}

/// What a command asks for.
#[derive(Debug, Clone, Copy)]
struct Asked<'w> {
    ends: Ends<'w>,
    /// From the last to the first.
    rev: bool,
    with_scores: bool,
    /// How many are left out.
    offset: i64,
    /// How many there are then; all of them if it is below 0.
    limit: i64,
}

impl<'w> Asked<'w> {
    /// From the words behind the key. What the command's name does not say, options may.
    fn read(
        words: &[&'w [u8]],
        by: Option<By>,
        rev: Option<bool>,
        stores: bool,
    ) -> Result<Asked<'w>, Refusal> {
        let [min, max, options @ ..] = words else { return Err(Refusal::Syntax) };
        let (mut chosen_by, mut chosen_rev) = (by, rev);
        let (mut with_scores, mut offset, mut limit) = (false, 0, -1);
        let mut rest = options;
        while let [option, behind @ ..] = rest {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            rest = behind;
            if !stores && is("WITHSCORES") {
                with_scores = true;
            } else if is("LIMIT")
                && let [skipped, most, behind @ ..] = behind
            {
                offset = parse_integer(skipped).ok_or(Refusal::NotAnInteger)?;
                limit = parse_integer(most).ok_or(Refusal::NotAnInteger)?;
                rest = behind;
            } else if chosen_rev.is_none() && is("REV") {
                chosen_rev = Some(true);
            } else if chosen_by.is_none() && is("BYLEX") {
                chosen_by = Some(By::Lex);
            } else if chosen_by.is_none() && is("BYSCORE") {
                chosen_by = Some(By::Score);
            } else {
                return Err(Refusal::Syntax);
            }
        }
        let (by, rev) = (chosen_by.unwrap_or(By::Place), chosen_rev.unwrap_or(false));
        if limit != -1 && by == By::Place {
            return Err(Refusal::LimitOfPlaces);
        }
        if by == By::Place {
            // All of them were asked for, so Redis does not look at it.
            offset = 0;
        }
        if with_scores && by == By::Lex {
            return Err(Refusal::ScoresOfLex);
        }
        // Then the greater end comes first.
        let (min, max) = if rev && by != By::Place { (max, min) } else { (min, max) };
        Ok(Asked { ends: Ends::read(by, min, max)?, rev, with_scores, offset, limit })
    }

    /// The places in a set, without those that the limit leaves out.
    fn places(&self, set: &SortedSet) -> Range<usize> {
        let Range { start, end } = self.ends.places(set, self.rev);
        let Ok(offset) = usize::try_from(self.offset) else { return start..start };
        let offset = offset.min(end - start);
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX).min(end - start - offset);
        if self.rev {
            end - offset - limit..end - offset
        } else {
            start + offset..start + offset + limit
        }
    }
}

/// Tells what a command asks for.
fn tell(store: &StateMachine, words: &Args<'_>, by: Option<By>, rev: Option<bool>) -> Answer {
    let key = words.get(0)?;
    let asked = Asked::read(words.rest(1), by, rev, false)?;
    let Some(set) = store.content::<SortedSet>(key)? else {
        return Ok(Outcome::List(Vec::new()));
    };
    let members = set.order.range(asked.places(set));
    Ok(if asked.rev {
        told(members.rev(), asked.with_scores)
    } else {
        told(members, asked.with_scores)
    })
}

/// `ZRANGE key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]`
pub(in crate::kv) fn zrange(store: &StateMachine, words: &Args<'_>) -> Answer {
    tell(store, words, None, None)
}

/// `ZREVRANGE key start stop [WITHSCORES]`
pub(in crate::kv) fn zrevrange(store: &StateMachine, words: &Args<'_>) -> Answer {
    tell(store, words, Some(By::Place), Some(true))
}

/// `ZRANGEBYSCORE key min max [WITHSCORES] [LIMIT offset count]`
pub(in crate::kv) fn zrangebyscore(store: &StateMachine, words: &Args<'_>) -> Answer {
    tell(store, words, Some(By::Score), Some(false))
}

/// `ZREVRANGEBYSCORE key max min [WITHSCORES] [LIMIT offset count]`
pub(in crate::kv) fn zrevrangebyscore(store: &StateMachine, words: &Args<'_>) -> Answer {
    tell(store, words, Some(By::Score), Some(true))
}

/// `ZRANGEBYLEX key min max [LIMIT offset count]`
pub(in crate::kv) fn zrangebylex(store: &StateMachine, words: &Args<'_>) -> Answer {
    tell(store, words, Some(By::Lex), Some(false))
}

/// `ZREVRANGEBYLEX key max min [LIMIT offset count]`
pub(in crate::kv) fn zrevrangebylex(store: &StateMachine, words: &Args<'_>) -> Answer {
    tell(store, words, Some(By::Lex), Some(true))
}

/// `ZRANGESTORE destination source min max [BYSCORE | BYLEX] [REV] [LIMIT offset count]`
pub(in crate::kv) fn zrangestore(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (to, from) = (words.get(0)?, words.get(1)?);
    let asked = Asked::read(words.rest(2), None, None, true)?;
    let set = match store.content::<SortedSet>(from)? {
        Some(set) => SortedSet::of(set.order.range(asked.places(set)).cloned()),
        None => SortedSet::default(),
    };
    Ok(put(store, to, set, "zrangestore"))
}

fn count(store: &StateMachine, words: &Args<'_>, by: By) -> Answer {
    let ends = Ends::read(by, words.get(1)?, words.get(2)?)?;
    let set = store.content::<SortedSet>(words.get(0)?)?;
    Ok(Outcome::count(set.map_or(0, |set| ends.places(set, false).len())))
}

/// `ZCOUNT key min max`
pub(in crate::kv) fn zcount(store: &StateMachine, words: &Args<'_>) -> Answer {
    count(store, words, By::Score)
}

/// `ZLEXCOUNT key min max`
pub(in crate::kv) fn zlexcount(store: &StateMachine, words: &Args<'_>) -> Answer {
    count(store, words, By::Lex)
}

fn remove(store: &mut StateMachine, words: &Args<'_>, by: By, event: &'static str) -> Answer {
    let key = words.get(0)?;
    let ends = Ends::read(by, words.get(1)?, words.get(2)?)?;
    let removed = store.change_there(key, |set: &mut SortedSet| {
        let removed = set.take(ends.places(set, false)).len();
        (removed, removed > 0)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        store.note(event, key);
        store.note_if_gone(key);
    }
    Ok(Outcome::count(removed))
}

/// `ZREMRANGEBYRANK key start stop`
pub(in crate::kv) fn zremrangebyrank(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    remove(store, words, By::Place, "zremrangebyrank")
}

/// `ZREMRANGEBYSCORE key min max`
pub(in crate::kv) fn zremrangebyscore(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    remove(store, words, By::Score, "zremrangebyscore")
}

/// `ZREMRANGEBYLEX key min max`
pub(in crate::kv) fn zremrangebylex(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    remove(store, words, By::Lex, "zremrangebylex")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    /// What a command tells, as words.
    fn ask(feeder: &mut Feeder, request: &str) -> String {
        let mut words = request.split(' ');
        let verb = words.next().unwrap();
        let text = |value: &Option<bytes::Bytes>| {
            String::from_utf8(value.as_ref().unwrap().to_vec()).unwrap()
        };
        match feeder.call(verb, &words.collect::<Vec<_>>()) {
            Outcome::Values(values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
            Outcome::Integer(number) => number.to_string(),
            Outcome::Refused(refusal) => format!("{refusal:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ranges_are_those_of_their_ends() {
        let mut feeder = Feeder::new();
        feeder.call("zadd", &["z", "1", "a", "2", "b", "2", "c", "3", "d", "inf", "e"]);
        feeder.call("zadd", &["l", "0", "a", "0", "b", "0", "c", "0", "d"]);
        for (request, wanted) in [
            ("zrange z 0 -1", "a b c d e"),
            ("zrange z -2 100", "d e"),
            ("zrange z 3 1", ""),
            ("zrange z 1 2 REV", "d c"),
            ("zrevrange z 0 0", "e"),
            ("zrange z (1 2 BYSCORE", "b c"),
            ("zrange z 3 (1 BYSCORE REV LIMIT 1 1", "c"),
            ("zrangebyscore z -inf +inf LIMIT 1 -1", "b c d e"),
            ("zrangebyscore z -inf +inf LIMIT -1 2", ""),
            ("zrangebyscore z -inf +inf LIMIT 1 0", ""),
            ("zrevrangebyscore z (3 -inf LIMIT 0 2", "c b"),
            ("zrange l [b (d BYLEX", "b c"),
            ("zrange l + [c BYLEX REV", "d c"),
            ("zrangebylex l - +", "a b c d"),
            ("zrangebylex l + -", ""),
            ("zrevrangebylex l (c -", "b a"),
            ("zcount z 2 (inf", "3"),
            ("zcount z (2 (2", "0"),
            ("zlexcount l (a [c", "2"),
            ("zrange z 0 -1 LIMIT 0 1", "LimitOfPlaces"),
            ("zrange l - + BYLEX WITHSCORES", "ScoresOfLex"),
            ("zrange z a b BYSCORE", "EndNotAFloat"),
            ("zrange z 1 2 BYLEX", "EndNotLex"),
            ("zrange z 1 x", "NotAnInteger"),
            ("zrangestore y z 2 3 BYSCORE REV", "0"),
            ("zrangestore y z 3 2 BYSCORE REV LIMIT 0 2", "2"),
            ("zrange y 0 -1", "c d"),
            ("zrangestore y z 5 10", "0"),
            ("zcount y -inf inf", "0"),
            ("zremrangebyscore z (2 3", "1"),
            ("zremrangebyrank z -1 -1", "1"),
            ("zrange z 0 -1", "a b c"),
            ("zremrangebylex l [b +", "3"),
            ("zremrangebylex l - +", "1"),
            ("zlexcount l - +", "0"),
        ] {
            assert_eq!(ask(&mut feeder, request), wanted, "{request}");
        }
    }
}
