//! Commands that combine several sorted sets. The scores of a plain set are all 1.

use foldhash::fast::FixedState;
use indexmap::IndexMap;

use super::{members_reply, put};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::values::collection::Collection;
use crate::kv::values::double::parse_double;
use crate::kv::values::element::Element;
use crate::kv::values::number::parse_integer;
use crate::kv::values::score_tree::Scored;
use crate::kv::values::set::Set;
use crate::kv::values::sorted_set::SortedSet;

/// A set operation on sets and sorted sets: union, intersection or difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Join {
    Union,
    Inter,
    Diff,
}

/// What a command does with the result of a set operation: returns the members (`Tell`), stores
/// them (`Keyspace`), or returns their number (`Count`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Tell,
    Keyspace,
    Count,
}

/// The option `AGGREGATE`: how the scores of a member that several of the input sets contain are
/// combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

/// The value at an input key of a set operation: a set, a sorted set, or `Nothing` if the key does
/// not exist.
#[derive(Debug, Clone, Copy)]
enum Source<'s> {
    Sorted(&'s SortedSet),
    Plain(&'s Set),
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Input<'s> {
    source: Source<'s>,
    weight: f64,
}

/// The parsed arguments of a command that combines several sorted sets, such as `ZUNION`.
#[derive(Debug)]
struct Query<'s> {
    inputs: Vec<Input<'s>>,
    aggregate: Aggregate,
    with_scores: bool,
    /// Option `LIMIT` of `ZINTERCARD`: maximum number of members to count; 0 for no limit.
    limit: usize,
}

/// Returns `score`, or 0 if it is NaN, as Redis does for the sum of infinity and minus infinity.
fn number_or_0(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

impl Aggregate {
    fn of(self, one: f64, other: f64) -> f64 {
        match self {
            Aggregate::Sum => number_or_0(one + other),
            // Not `f64::min`, because it may return either of -0 and 0, whereas this code keeps the
            // first one.
            Aggregate::Min => {
                if other < one {
                    other
                } else {
                    one
                }
            }
            Aggregate::Max => {
                if other > one {
                    other
                } else {
                    one
                }
            }
        }
    }
}

impl<'s> Source<'s> {
    fn at(keyspace: &'s Keyspace, key: &[u8]) -> Result<Source<'s>, Refusal> {
        match keyspace.entry(key).map(KeyEntry::collection) {
            None => Ok(Source::Nothing),
            Some(Some(Collection::SortedSet(set))) => Ok(Source::Sorted(set)),
            Some(Some(Collection::Set(set))) => Ok(Source::Plain(set)),
            Some(_) => Err(Refusal::WrongType),
        }
    }

    fn len(self) -> usize {
        match self {
            Source::Sorted(set) => set.len(),
            Source::Plain(set) => set.len(),
            Source::Nothing => 0,
        }
    }

    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Source::Sorted(set) => set.score(member),
            Source::Plain(set) => set.contains(member).then_some(1.0),
            Source::Nothing => None,
        }
    }

    fn iter(self) -> impl Iterator<Item = (&'s Element, f64)> {
        let (sorted, plain) = match self {
            Source::Sorted(set) => (Some(set), None),
            Source::Plain(set) => (None, Some(set)),
            Source::Nothing => (None, None),
        };
        let sorted = sorted.into_iter().flat_map(SortedSet::iter);
        sorted.chain(plain.into_iter().flat_map(Set::iter).map(|member| (member, 1.0)))
    }
}

impl<'s> Query<'s> {
    /// Parses the arguments starting with `numkeys`, and looks up the values at the input keys.
    /// Checks the types of the values before it parses the options, so that it reports the same
    /// error as Redis.
    fn read(
        keyspace: &'s Keyspace,
        args: &[&[u8]],
        join: Join,
        purpose: Purpose,
        name: &str,
    ) -> Result<Query<'s>, Outcome> {
        let [count, behind @ ..] = args else { return Err(Refusal::Syntax.into()) };
        let count = parse_integer(count).ok_or(Refusal::NotAnInteger)?;
        if count < 1 {
            let text = format!("ERR at least 1 input key is needed for '{name}' command");
            return Err(Outcome::error(text));
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let (keys, mut rest) = behind.split_at_checked(count).ok_or(Refusal::Syntax)?;
        let mut inputs = Vec::with_capacity(keys.len());
        for key in keys {
            inputs.push(Input { source: Source::at(keyspace, key)?, weight: 1.0 });
        }
        let (mut aggregate, mut with_scores, mut limit) = (Aggregate::Sum, false, 0);
        let weighs = join != Join::Diff && purpose != Purpose::Count;
        while let [option, behind @ ..] = rest {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            rest = behind;
            if weighs
                && is("WEIGHTS")
                && let Some((weights, behind)) = behind.split_at_checked(inputs.len())
            {
                for (input, weight) in inputs.iter_mut().zip(weights) {
                    input.weight = parse_double(weight).ok_or(Refusal::WeightNotAFloat)?;
                }
                rest = behind;
            } else if weighs
                && is("AGGREGATE")
                && let [word, behind @ ..] = behind
            {
                let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
                let known =
                    [("SUM", Aggregate::Sum), ("MIN", Aggregate::Min), ("MAX", Aggregate::Max)];
                let found = known.into_iter().find(|(name, _)| is(name));
                aggregate = found.ok_or(Refusal::Syntax)?.1;
                rest = behind;
            } else if purpose == Purpose::Tell && is("WITHSCORES") {
                with_scores = true;
            } else if purpose == Purpose::Count
                && is("LIMIT")
                && let [most, behind @ ..] = behind
            {
                let most = parse_integer(most).and_then(|most| usize::try_from(most).ok());
                limit = most.ok_or(Refusal::NegativeLimit)?;
                rest = behind;
            } else {
                return Err(Refusal::Syntax.into());
            }
        }
        Ok(Query { inputs, aggregate, with_scores, limit })
    }

    /// Returns the members of the union, intersection or difference of the input sets. Each member
    /// occurs once, with its combined score.
    fn join(mut self, join: Join) -> Vec<Scored> {
        match join {
            Join::Union => self.union(),
            Join::Inter => self.inter().collect(),
            Join::Diff => self.diff().collect(),
        }
    }

    /// Sorts the input sets by size, the smallest first. Redis does the same, and the order affects
    /// the rounding when scores are added.
    fn sort(&mut self) {
        self.inputs.sort_by_key(|input| input.source.len());
    }

    fn union(&mut self) -> Vec<Scored> {
        self.sort();
        let mut scores: IndexMap<&Element, f64, FixedState> = IndexMap::default();
        for Input { source, weight } in &self.inputs {
            for (member, score) in source.iter() {
                let score = number_or_0(weight * score);
                let so_far = scores.entry(member);
                so_far
                    .and_modify(|there| *there = self.aggregate.of(*there, score))
                    .or_insert(score);
            }
        }
        let own = |(member, score): (&Element, f64)| Scored { score, member: member.clone() };
        scores.into_iter().map(own).collect()
    }

    fn inter(&mut self) -> impl Iterator<Item = Scored> {
        self.sort();
        let (first, others) = self.inputs.split_first().expect("at least one key was checked");
        let aggregate = self.aggregate;
        first.source.iter().filter_map(move |(member, score)| {
            let mut sum = number_or_0(first.weight * score);
            for other in others {
                sum = aggregate.of(sum, other.weight * other.source.score(member)?);
            }
            Some(Scored { score: sum, member: member.clone() })
        })
    }

    fn diff(&self) -> impl Iterator<Item = Scored> {
        let (first, others) = self.inputs.split_first().expect("at least one key was checked");
        let is_elsewhere =
            |member: &Element| others.iter().any(|other| other.source.score(member).is_some());
        let left = first.source.iter().filter(move |(member, _)| !is_elsewhere(member));
        left.map(|(member, score)| Scored { score, member: member.clone() })
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn reply(keyspace: &Keyspace, args: &Args<'_>, join: Join, name: &str) -> Answer {
    let query = match Query::read(keyspace, args.rest(0), join, Purpose::Tell, name) {
        Ok(query) => query,
        Err(outcome) => return Ok(outcome),
    };
    let with_scores = query.with_scores;
    let mut members = query.join(join);
    members.sort_unstable_by(|one, other| one.compare(other.score, &other.member));
    Ok(members_reply(members.iter(), with_scores))
}

fn join_into(keyspace: &mut Keyspace, args: &Args<'_>, join: Join, name: &'static str) -> Answer {
    let to = args.get(0)?;
    let set = match Query::read(keyspace, args.rest(1), join, Purpose::Keyspace, name) {
        Ok(query) => SortedSet::from_members(query.join(join)),
        Err(outcome) => return Ok(outcome),
    };
    Ok(put(keyspace, to, set, name))
}

/// Runs `ZUNION numkeys key [key ...] [WEIGHTS weight ...] [AGGREGATE SUM | MIN | MAX]
/// [WITHSCORES]`: returns the union of sorted sets.
pub(in crate::kv) fn zunion(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    reply(keyspace, args, Join::Union, "zunion")
}

/// Runs `ZINTER numkeys key [key ...] [WEIGHTS weight ...] [AGGREGATE SUM | MIN | MAX]
/// [WITHSCORES]`: returns the intersection of sorted sets.
pub(in crate::kv) fn zinter(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    reply(keyspace, args, Join::Inter, "zinter")
}

/// Runs `ZDIFF numkeys key [key ...] [WITHSCORES]`: returns the difference between the first sorted
/// set and the others.
pub(in crate::kv) fn zdiff(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    reply(keyspace, args, Join::Diff, "zdiff")
}

/// Runs `ZUNIONSTORE destination numkeys key [key ...] [WEIGHTS weight ...] [AGGREGATE SUM | MIN |
/// MAX]`: stores the union of sorted sets.
pub(in crate::kv) fn zunionstore(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    join_into(keyspace, args, Join::Union, "zunionstore")
}

/// Runs `ZINTERSTORE destination numkeys key [key ...] [WEIGHTS weight ...] [AGGREGATE SUM | MIN |
/// MAX]`: stores the intersection of sorted sets.
pub(in crate::kv) fn zinterstore(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    join_into(keyspace, args, Join::Inter, "zinterstore")
}

/// Runs `ZDIFFSTORE destination numkeys key [key ...]`: stores the difference between the first
/// sorted set and the others.
pub(in crate::kv) fn zdiffstore(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    join_into(keyspace, args, Join::Diff, "zdiffstore")
}

/// Runs `ZINTERCARD numkeys key [key ...] [LIMIT limit]`: counts the members of the intersection of
/// sorted sets, up to `limit`.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
pub(in crate::kv) fn zintercard(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let query = Query::read(keyspace, args.rest(0), Join::Inter, Purpose::Count, "zintercard");
    match query {
        Ok(mut query) => {
            let most = if query.limit == 0 { usize::MAX } else { query.limit };
            Ok(Outcome::count(query.inter().take(most).count()))
        }
        Err(outcome) => Ok(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::commands::outcome::Double;
    use crate::kv::state_machine::tests::Feeder;

    fn pairs(pairs: &[(&'static str, f64)]) -> Outcome {
        let pair = |(member, score): &(&'static str, f64)| {
            (Outcome::Value(Some((*member).into())), Outcome::Double(Double(*score)))
        };
        Outcome::Pairs(pairs.iter().map(pair).collect())
    }

    #[test]
    fn zunion_zinter_and_zdiff_return_correctly_combined_scores() {
        let mut feeder = Feeder::new();
        feeder.call("zadd", &["x", "1", "a", "2", "b", "inf", "c"]);
        feeder.call("zadd", &["y", "10", "b", "-inf", "c", "5", "d", "0", "e"]);
        feeder.call("sadd", &["s", "b", "e"]);
        let mut ask = |request: &str| {
            let (command, args) = request.split_once(' ').unwrap();
            feeder.call(command, &args.split(' ').collect::<Vec<_>>())
        };
        assert_eq!(
            ask("zunion 3 x y s WITHSCORES"),
            pairs(&[("c", 0.0), ("a", 1.0), ("e", 1.0), ("d", 5.0), ("b", 13.0)])
        );
        assert_eq!(
            ask("zinter 2 x y WEIGHTS 0 -1 AGGREGATE MIN WITHSCORES"),
            pairs(&[("b", -10.0), ("c", 0.0)])
        );
        assert_eq!(ask("zdiff 2 y x WITHSCORES"), pairs(&[("e", 0.0), ("d", 5.0)]));
        assert_eq!(ask("zintercard 2 y x LIMIT 1"), Outcome::Integer(1));
        assert_eq!(ask("zinterstore x 2 x s AGGREGATE MAX"), Outcome::Integer(1));
        assert_eq!(ask("zunion 1 x WITHSCORES"), pairs(&[("b", 2.0)]));
        assert_eq!(ask("zdiffstore x 2 x y"), Outcome::Integer(0));
        assert_eq!(ask("zunion 2 x nothing WITHSCORES"), pairs(&[]));
        assert_eq!(
            ask("zunion 0 x"),
            Outcome::error("ERR at least 1 input key is needed for 'zunion' command")
        );
        assert_eq!(ask("zunion 2 x"), Outcome::Refused(Refusal::Syntax));
        assert_eq!(ask("zunion 1 x WEIGHTS heavy"), Outcome::Refused(Refusal::WeightNotAFloat));
        assert_eq!(ask("zdiff 1 x WEIGHTS 1"), Outcome::Refused(Refusal::Syntax));
    }
}
