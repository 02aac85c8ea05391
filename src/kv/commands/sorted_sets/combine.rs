//! Commands that make one sorted set of several. A plain set counts as one whose scores are all 1.

use bytes::Bytes;
use foldhash::fast::FixedState;
use indexmap::IndexMap;

use super::{put, told};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::registry::Answer;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::state_machine::StateMachine;
use crate::kv::values::double::parse_double;
use crate::kv::values::number::parse_integer;
use crate::kv::values::object::Object;
use crate::kv::values::order::Scored;
use crate::kv::values::set::Set;
use crate::kv::values::sorted_set::SortedSet;

/// What several sets are made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Join {
    Union,
    Inter,
    Diff,
}

/// What a command does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Tell,
    StateMachine,
    Count,
}

/// How the scores of one member become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

/// One of the sets.
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

/// What a command asks for.
#[derive(Debug)]
struct Asked<'s> {
    inputs: Vec<Input<'s>>,
    aggregate: Aggregate,
    with_scores: bool,
    /// How many are counted at most; 0 for all.
    limit: usize,
}

/// No number is 0, as where something infinite is taken no time at all.
fn number_or_0(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

impl Aggregate {
    fn of(self, one: f64, other: f64) -> f64 {
        match self {
            Aggregate::Sum => number_or_0(one + other),
            // Not `min`: what is "not a number" is left out, and of -0 and 0 the first stays.
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
    fn at(store: &'s StateMachine, key: &[u8]) -> Result<Source<'s>, Refusal> {
        match store.pair(key).map(KeyEntry::object) {
            None => Ok(Source::Nothing),
            Some(Some(Object::SortedSet(set))) => Ok(Source::Sorted(set)),
            Some(Some(Object::Set(set))) => Ok(Source::Plain(set)),
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

    fn iter(self) -> impl Iterator<Item = (&'s Bytes, f64)> {
        let (sorted, plain) = match self {
            Source::Sorted(set) => (Some(set), None),
            Source::Plain(set) => (None, Some(set)),
            Source::Nothing => (None, None),
        };
        let sorted = sorted.into_iter().flat_map(SortedSet::iter);
        sorted.chain(plain.into_iter().flat_map(Set::iter).map(|member| (member, 1.0)))
    }
}

impl<'s> Asked<'s> {
    /// From the words from `numkeys` on. What is wrong is found in Redis's order: the keys are
    /// looked at before the options.
    fn read(
        store: &'s StateMachine,
        words: &[&[u8]],
        join: Join,
        purpose: Purpose,
        name: &str,
    ) -> Result<Asked<'s>, Outcome> {
        let [count, behind @ ..] = words else { return Err(Refusal::Syntax.into()) };
        let count = parse_integer(count).ok_or(Refusal::NotAnInteger)?;
        if count < 1 {
            let text = format!("ERR at least 1 input key is needed for '{name}' command");
            return Err(Outcome::error(text));
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let (keys, mut rest) = behind.split_at_checked(count).ok_or(Refusal::Syntax)?;
        let mut inputs = Vec::with_capacity(keys.len());
        for key in keys {
            inputs.push(Input { source: Source::at(store, key)?, weight: 1.0 });
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
        Ok(Asked { inputs, aggregate, with_scores, limit })
    }

    /// What the sets make; each member once.
    fn join(mut self, join: Join) -> Vec<Scored> {
        match join {
            Join::Union => self.union(),
            Join::Inter => self.inter().collect(),
            Join::Diff => self.diff().collect(),
        }
    }

    /// The smallest first. Sums of fractions depend on it, so it is done as Redis does it.
    fn sort(&mut self) {
        self.inputs.sort_by_key(|input| input.source.len());
    }

    fn union(&mut self) -> Vec<Scored> {
        self.sort();
        let mut scores: IndexMap<&Bytes, f64, FixedState> = IndexMap::default();
        for Input { source, weight } in &self.inputs {
            for (member, score) in source.iter() {
                let score = number_or_0(weight * score);
                let so_far = scores.entry(member);
                so_far
                    .and_modify(|there| *there = self.aggregate.of(*there, score))
                    .or_insert(score);
            }
        }
        let own = |(member, score): (&Bytes, f64)| Scored { score, member: member.clone() };
        scores.into_iter().map(own).collect()
    }

    fn inter(&mut self) -> impl Iterator<Item = Scored> {
        self.sort();
        let (first, others) = self.inputs.split_first().expect("there is at least one");
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
        let (first, others) = self.inputs.split_first().expect("there is at least one");
        let is_elsewhere =
            |member: &Bytes| others.iter().any(|other| other.source.score(member).is_some());
        let left = first.source.iter().filter(move |(member, _)| !is_elsewhere(member));
        left.map(|(member, score)| Scored { score, member: member.clone() })
    }
}

#[allow(clippy::unnecessary_wraps, reason = "as all verbs")]
fn tell(store: &StateMachine, words: &Args<'_>, join: Join, name: &str) -> Answer {
    let asked = match Asked::read(store, words.rest(0), join, Purpose::Tell, name) {
        Ok(asked) => asked,
        Err(outcome) => return Ok(outcome),
    };
    let with_scores = asked.with_scores;
    let mut members = asked.join(join);
    members.sort_unstable_by(|one, other| one.compare(other.score, &other.member));
    Ok(told(members.iter(), with_scores))
}

fn join_into(store: &mut StateMachine, words: &Args<'_>, join: Join, name: &'static str) -> Answer {
    let to = words.get(0)?;
    let set = match Asked::read(store, words.rest(1), join, Purpose::StateMachine, name) {
        Ok(asked) => SortedSet::of(asked.join(join)),
        Err(outcome) => return Ok(outcome),
    };
    Ok(put(store, to, set, name))
}

/// `ZUNION numkeys key [key ...] [WEIGHTS weight ...] [AGGREGATE SUM | MIN | MAX] [WITHSCORES]`
pub(in crate::kv) fn zunion(store: &StateMachine, words: &Args<'_>) -> Answer {
    tell(store, words, Join::Union, "zunion")
}

/// `ZINTER numkeys key [key ...] [WEIGHTS weight ...] [AGGREGATE SUM | MIN | MAX] [WITHSCORES]`
pub(in crate::kv) fn zinter(store: &StateMachine, words: &Args<'_>) -> Answer {
    tell(store, words, Join::Inter, "zinter")
}

/// `ZDIFF numkeys key [key ...] [WITHSCORES]`
pub(in crate::kv) fn zdiff(store: &StateMachine, words: &Args<'_>) -> Answer {
    tell(store, words, Join::Diff, "zdiff")
}

/// `ZUNIONSTORE destination numkeys key [key ...] [WEIGHTS weight ...] [AGGREGATE SUM | MIN | MAX]`
pub(in crate::kv) fn zunionstore(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    join_into(store, words, Join::Union, "zunionstore")
}

/// `ZINTERSTORE destination numkeys key [key ...] [WEIGHTS weight ...] [AGGREGATE SUM | MIN | MAX]`
pub(in crate::kv) fn zinterstore(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    join_into(store, words, Join::Inter, "zinterstore")
}

/// `ZDIFFSTORE destination numkeys key [key ...]`
pub(in crate::kv) fn zdiffstore(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    join_into(store, words, Join::Diff, "zdiffstore")
}

/// `ZINTERCARD numkeys key [key ...] [LIMIT limit]`
#[allow(clippy::unnecessary_wraps, reason = "as all verbs")]
pub(in crate::kv) fn zintercard(store: &StateMachine, words: &Args<'_>) -> Answer {
    let asked = Asked::read(store, words.rest(0), Join::Inter, Purpose::Count, "zintercard");
    match asked {
        Ok(mut asked) => {
            let most = if asked.limit == 0 { usize::MAX } else { asked.limit };
            Ok(Outcome::count(asked.inter().take(most).count()))
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
    fn several_sets_become_one() {
        let mut feeder = Feeder::new();
        feeder.call("zadd", &["x", "1", "a", "2", "b", "inf", "c"]);
        feeder.call("zadd", &["y", "10", "b", "-inf", "c", "5", "d", "0", "e"]);
        feeder.call("sadd", &["s", "b", "e"]);
        let mut ask = |request: &str| {
            let (verb, words) = request.split_once(' ').unwrap();
            feeder.call(verb, &words.split(' ').collect::<Vec<_>>())
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
