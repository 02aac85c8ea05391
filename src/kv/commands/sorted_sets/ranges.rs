//! Commands on ranges of a sorted set: by rank, by score and by member.

use std::ops::Range;

use super::{members_reply, put};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::keyspace::Keyspace;
use crate::kv::values::double::parse_bound;
use crate::kv::values::number::parse_integer;
use crate::kv::values::score_tree::Scored;
use crate::kv::values::sorted_set::SortedSet;

/// The property of members to which the bounds of a sorted-set range refer: the rank, the score, or
/// the member itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    /// The member itself, compared byte by byte (`BYLEX`). As in Redis, the range is meaningful
    /// only if all members of the set have the same score.
    Lex,
}

/// The minimum and the maximum of a sorted-set range. The range is empty if the maximum is less
/// than the minimum.
#[derive(Debug, Clone, Copy)]
enum Ends<'w> {
    /// First and last rank of the range, both inclusive. A negative rank counts from the end of the
    /// set: -1 is the last member.
    Places(i64, i64),
    Scores(Score, Score),
    Lex(Lex<'w>, Lex<'w>),
}

/// The minimum or the maximum of a range of scores.
#[derive(Debug, Clone, Copy)]
struct Score {
    score: f64,
    /// Whether the bound is exclusive: members with exactly this score are outside the range.
    open: bool,
}

/// The minimum or the maximum of a range of members (`BYLEX`) or of keys (`KEYRANGE`).
#[derive(Debug, Clone, Copy)]
pub(in crate::kv) enum Lex<'w> {
    /// The bound `-`, which is less than any member.
    Least,
    /// The bound `+`, which is greater than any member.
    Most,
    At {
        member: &'w [u8],
        /// Whether the bound is exclusive: `member` itself is outside the range.
        open: bool,
    },
}

impl Score {
    fn read(word: &[u8]) -> Result<Score, Refusal> {
        let (open, score) = word.strip_prefix(b"(").map_or((false, word), |score| (true, score));
        let score = parse_bound(score).ok_or(Refusal::EndNotAFloat)?;
        Ok(Score { score, open })
    }
}

impl<'w> Lex<'w> {
    /// Parses an argument: `-`, `+`, or `[` (inclusive) or `(` (exclusive) in front of a member.
    ///
    /// # Errors
    /// If the argument is none of these.
    pub(in crate::kv) fn read(word: &'w [u8]) -> Result<Lex<'w>, Refusal> {
        match word {
            // As in Redis, a NUL byte ends the argument.
            [b'-'] | [b'-', 0, ..] => Ok(Lex::Least),
            [b'+'] | [b'+', 0, ..] => Ok(Lex::Most),
            [b'(', member @ ..] => Ok(Lex::At { member, open: true }),
            [b'[', member @ ..] => Ok(Lex::At { member, open: false }),
            _ => Err(Refusal::EndNotLex),
        }
    }

    /// Returns whether the member `there` is outside a range of which this bound is the minimum.
    fn excludes_below(self, there: &[u8]) -> bool {
        match self {
            Lex::Least => false,
            Lex::Most => true,
            Lex::At { member, open } => there < member || open && there == member,
        }
    }

    /// Returns whether the member `there` is not above a range of which this bound is the maximum.
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
            By::Rank => Ends::Places(place(min)?, place(max)?),
            By::Score => Ends::Scores(Score::read(min)?, Score::read(max)?),
            By::Lex => Ends::Lex(Lex::read(min)?, Lex::read(max)?),
        })
    }

    /// Returns the ranks of the members of `set` that are in the range. The returned ranks are
    /// counted from the lowest score. If `rev` is true, the bounds of a range of ranks count from
    /// the highest score instead.
    #[allow(clippy::float_cmp, reason = "bounds are compared exactly")]
    fn places(self, set: &SortedSet, rev: bool) -> Range<usize> {
        let order = set.by_rank();
        let (start, end) = match self {
            Ends::Places(first, last) => {
                let length = i64::try_from(set.len()).expect("lengths are below 2^63");
                let counted =
                    |place: i64| if place < 0 { place.saturating_add(length) } else { place };
                let (first, last) = (counted(first).max(0), counted(last).min(length - 1));
                if first > last {
                    return 0..0;
                }
                let (start, end) =
                    if rev { (length - 1 - last, length - first) } else { (first, last + 1) };
                let place = |place| usize::try_from(place).expect("a rank within the set");
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

/// The parsed arguments of a sorted-set range command, such as `ZRANGE`.
#[derive(Debug, Clone, Copy)]
struct Query<'w> {
    ends: Ends<'w>,
    /// Option `REV`: whether members are returned in descending order.
    rev: bool,
    with_scores: bool,
    /// First argument of the option `LIMIT`: number of members to skip at the start of the range.
    offset: i64,
    /// Second argument of the option `LIMIT`: maximum number of members to return; no limit if it
    /// is negative.
    limit: i64,
}

impl<'w> Query<'w> {
    /// Parses the arguments of a range command after the key. `by` and `rev` are `Some` if the
    /// command's name determines them, as in `ZREVRANGEBYSCORE`. If `by` is `None`, the command has
    /// the options `BYSCORE` and `BYLEX`; if `rev` is `None`, it has the option `REV`. `stores` is
    /// true for a command that stores its result, which does not have the option `WITHSCORES`.
    fn read(
        args: &[&'w [u8]],
        by: Option<By>,
        rev: Option<bool>,
        stores: bool,
    ) -> Result<Query<'w>, Refusal> {
        let [min, max, options @ ..] = args else { return Err(Refusal::Syntax) };
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
        let (by, rev) = (chosen_by.unwrap_or(By::Rank), chosen_rev.unwrap_or(false));
        if limit != -1 && by == By::Rank {
            return Err(Refusal::LimitOfPlaces);
        }
        if by == By::Rank {
            // Without a limit, Redis does not check the offset.
            offset = 0;
        }
        if with_scores && by == By::Lex {
            return Err(Refusal::ScoresOfLex);
        }
        // With `REV`, the maximum is given first.
        let (min, max) = if rev && by != By::Rank { (max, min) } else { (min, max) };
        Ok(Query { ends: Ends::read(by, min, max)?, rev, with_scores, offset, limit })
    }

    /// Returns the ranks of the members of `set` that are in the range and selected by the option
    /// `LIMIT`. Ranks are counted from the lowest score.
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

/// Runs a range command and returns its reply. `by` and `rev` are `Some` if the command's name
/// determines them, as in `ZREVRANGEBYSCORE`; if `None`, they are parsed from options in `args`.
fn reply(keyspace: &Keyspace, args: &Args<'_>, by: Option<By>, rev: Option<bool>) -> Answer {
    let key = args.get(0)?;
    let query = Query::read(args.rest(1), by, rev, false)?;
    let Some(set) = keyspace.collection::<SortedSet>(key)? else {
        return Ok(Outcome::List(Vec::new()));
    };
    let members = set.by_rank().range(query.places(set));
    Ok(if query.rev {
        members_reply(members.rev(), query.with_scores)
    } else {
        members_reply(members, query.with_scores)
    })
}

/// Runs `ZRANGE key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]`: returns
/// the members in a range of ranks, scores or members.
pub(in crate::kv) fn zrange(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    reply(keyspace, args, None, None)
}

/// Runs `ZREVRANGE key start stop [WITHSCORES]`: returns the members in a range of ranks, in
/// descending order.
pub(in crate::kv) fn zrevrange(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    reply(keyspace, args, Some(By::Rank), Some(true))
}

/// Runs `ZRANGEBYSCORE key min max [WITHSCORES] [LIMIT offset count]`: returns the members in a
/// range of scores.
pub(in crate::kv) fn zrangebyscore(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    reply(keyspace, args, Some(By::Score), Some(false))
}

/// Runs `ZREVRANGEBYSCORE key max min [WITHSCORES] [LIMIT offset count]`: returns the members in a
/// range of scores, in descending order.
pub(in crate::kv) fn zrevrangebyscore(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    reply(keyspace, args, Some(By::Score), Some(true))
}

/// Runs `ZRANGEBYLEX key min max [LIMIT offset count]`: returns the members in a lexicographic
/// range.
pub(in crate::kv) fn zrangebylex(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    reply(keyspace, args, Some(By::Lex), Some(false))
}

/// Runs `ZREVRANGEBYLEX key max min [LIMIT offset count]`: returns the members in a lexicographic
/// range, in descending order.
pub(in crate::kv) fn zrevrangebylex(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    reply(keyspace, args, Some(By::Lex), Some(true))
}

/// Runs `ZRANGESTORE destination source min max [BYSCORE | BYLEX] [REV] [LIMIT offset count]`:
/// stores the members in a range of a sorted set.
pub(in crate::kv) fn zrangestore(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (to, from) = (args.get(0)?, args.get(1)?);
    let query = Query::read(args.rest(2), None, None, true)?;
    let set = match keyspace.collection::<SortedSet>(from)? {
        Some(set) => SortedSet::from_members(set.by_rank().range(query.places(set)).cloned()),
        None => SortedSet::default(),
    };
    Ok(put(keyspace, to, set, "zrangestore"))
}

fn count(keyspace: &Keyspace, args: &Args<'_>, by: By) -> Answer {
    let ends = Ends::read(by, args.get(1)?, args.get(2)?)?;
    let set = keyspace.collection::<SortedSet>(args.get(0)?)?;
    Ok(Outcome::count(set.map_or(0, |set| ends.places(set, false).len())))
}

/// Runs `ZCOUNT key min max`: returns the number of members in a range of scores.
pub(in crate::kv) fn zcount(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    count(keyspace, args, By::Score)
}

/// Runs `ZLEXCOUNT key min max`: returns the number of members in a lexicographic range.
pub(in crate::kv) fn zlexcount(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    count(keyspace, args, By::Lex)
}

fn remove(keyspace: &mut Keyspace, args: &Args<'_>, by: By, event: &'static str) -> Answer {
    let key = args.get(0)?;
    let ends = Ends::read(by, args.get(1)?, args.get(2)?)?;
    let removed = keyspace.update_existing(key, |set: &mut SortedSet| {
        let removed = set.take(ends.places(set, false)).len();
        (removed, removed > 0)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        keyspace.notify(event, key);
        keyspace.notify_if_removed(key);
    }
    Ok(Outcome::count(removed))
}

/// Runs `ZREMRANGEBYRANK key start stop`: removes the members in a range of ranks.
pub(in crate::kv) fn zremrangebyrank(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    remove(keyspace, args, By::Rank, "zremrangebyrank")
}

/// Runs `ZREMRANGEBYSCORE key min max`: removes the members in a range of scores.
pub(in crate::kv) fn zremrangebyscore(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    remove(keyspace, args, By::Score, "zremrangebyscore")
}

/// Runs `ZREMRANGEBYLEX key min max`: removes the members in a lexicographic range.
pub(in crate::kv) fn zremrangebylex(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    remove(keyspace, args, By::Lex, "zremrangebylex")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    /// Runs the command line `request`, and returns the reply as text.
    fn ask(feeder: &mut Feeder, request: &str) -> String {
        let mut args = request.split(' ');
        let verb = args.next().unwrap();
        let text = |value: &Option<bytes::Bytes>| {
            String::from_utf8(value.as_ref().unwrap().to_vec()).unwrap()
        };
        match feeder.call(verb, &args.collect::<Vec<_>>()) {
            Outcome::Values(values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
            Outcome::Integer(number) => number.to_string(),
            Outcome::Refused(refusal) => format!("{refusal:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn zrange_obeys_inclusive_and_exclusive_bounds() {
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
