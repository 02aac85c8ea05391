//! What can be done with keys whatever they hold.

use super::outcome::Outcome;
use super::store::{Pair, Store};
use super::verbs::{Answer, Row, Run, Words};

pub(super) const VERBS: Row = &[
    ("type", Run::Read(kind)),
    ("randomkey", Run::Read(random_key)),
    ("memory|usage", Run::Read(memory_usage)),
];

/// `TYPE key`
fn kind(store: &Store, words: &Words<'_>) -> Answer {
    Ok(Outcome::Type(store.kind(words.get(0)?)))
}

/// `RANDOMKEY`: of the keys in a table that chance finds, the one that it finds next. So it does
/// not depend on how keys lie in tables.
#[allow(clippy::unnecessary_wraps, reason = "as all verbs")]
fn random_key(store: &Store, words: &Words<'_>) -> Answer {
    let near = store.some_table(words.chance, |pair| store.pair(pair.key()).is_some());
    let next = near.min_by_key(|pair| pair.number ^ words.chance.rotate_left(32));
    Ok(Outcome::Value(next.map(Pair::shared_key)))
}

/// `MEMORY USAGE key [SAMPLES count]`
fn memory_usage(store: &Store, words: &Words<'_>) -> Answer {
    let pair = store.pair(words.get(0)?);
    Ok(pair.map_or(Outcome::Value(None), |pair| Outcome::count(pair.memory())))
}
