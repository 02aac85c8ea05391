//! Going through all keys: at once, or a few at a time in an order that no change disturbs.
//!
//! The order is that of the last 52 bits of keys' numbers, which is also the order of the store's
//! tables. A cursor is the least such number that was not looked at yet, so it means the same on
//! every replica and whatever has come and gone: a key that is there all the time comes exactly
//! once. It fits into the numbers of JavaScript.

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::Outcome;
use crate::kv::commands::registry::{Answer, Row, Run};
use crate::kv::commands::scan::{self, Options};
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::keyspace::shards::RANKS;
use crate::kv::state_machine::StateMachine;
use crate::kv::values::glob;

pub(in crate::kv) const COMMANDS: Row =
    &[("keys", Run::Read(keys)), ("scan", Run::Read(scan_keys))];

/// Most keys that one call of `SCAN` looks at (if not very many have numbers that are alike),
/// whatever it asks for.
const LOOKED_AT_MAX: usize = 1 << 14;

/// `KEYS pattern`. One step however many keys there are, of some tenths of a second with a million
/// (`FLUSHALL` takes as long); nothing else is applied meanwhile. `SCAN` is for where that matters.
fn keys(store: &StateMachine, words: &Args<'_>) -> Answer {
    let pattern = words.get(0)?;
    if !pattern.iter().any(|byte| b"*?[\\".contains(byte)) {
        let key = store.pair(pattern).map(KeyEntry::shared_key);
        return Ok(Outcome::Values(key.into_iter().map(Some).collect()));
    }
    let mut found: Vec<&KeyEntry> =
        store.pairs().filter(|pair| glob::matches(pattern, pair.key())).collect();
    found.retain(|pair| !store.is_expired(pair));
    // In an order that is the same everywhere; that of tables they have already, nearly.
    found.sort_by_key(|pair| (pair.rank(), pair.key()));
    Ok(Outcome::Values(found.into_iter().map(|pair| Some(pair.shared_key())).collect()))
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE kind]`
fn scan_keys(store: &StateMachine, words: &Args<'_>) -> Answer {
    let mut cursor = match scan::cursor(words.get(0)?) {
        Ok(cursor) => cursor,
        Err(outcome) => return Ok(outcome),
    };
    let wanted = Options::read_of_keys(words, 1)?;
    let mut left = wanted.count.min(LOOKED_AT_MAX);
    let mut found = Vec::new();
    while left > 0 && cursor < RANKS {
        let (mut pairs, next_table) = store.table_from(cursor);
        pairs.sort_unstable_by_key(|pair| (pair.rank(), pair.key()));
        let mut taken = pairs.len().min(left);
        // Keys of one rank come together, or a cursor could not tell them apart.
        while taken > 0 && pairs.get(taken).is_some_and(|p| p.rank() == pairs[taken - 1].rank()) {
            taken += 1;
        }
        left = left.saturating_sub(taken);
        cursor = pairs.get(taken).map_or(next_table, |next| next.rank());
        let is_wanted = |pair: &&&KeyEntry| {
            !store.is_expired(pair)
                && wanted.fits(pair.key())
                && wanted
                    .kind
                    .is_none_or(|k| pair.value_type().name().as_bytes().eq_ignore_ascii_case(k))
        };
        found.extend(pairs[..taken].iter().filter(is_wanted).map(|pair| Some(pair.shared_key())));
    }
    let cursor = if cursor < RANKS { cursor } else { 0 };
    Ok(scan::reply(cursor, found))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    fn step(feeder: &mut Feeder, cursor: u64, options: &[&str]) -> (u64, Vec<Bytes>) {
        let cursor = cursor.to_string();
        let words = [&[&cursor[..]], options].concat();
        match feeder.call("scan", &words) {
            Outcome::List(outcomes) => match &outcomes[..] {
                [Outcome::Value(Some(cursor)), Outcome::Values(keys)] => {
                    let cursor = str::from_utf8(cursor).unwrap().parse().unwrap();
                    (cursor, keys.iter().flatten().cloned().collect())
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_there_all_the_time_comes_once() {
        for count in ["1", "10", "9999999"] {
            let mut feeder = Feeder::new();
            for number in 0..1_500 {
                feeder.call("set", &[&format!("key:{number}"), "v"]);
            }
            let (mut cursor, mut times, mut steps) = (0, BTreeMap::new(), 0);
            loop {
                let (next, keys) = step(&mut feeder, cursor, &["COUNT", count]);
                assert!(keys.len() <= count.parse().unwrap());
                assert!(next == 0 || next > cursor, "it goes on");
                for key in keys {
                    *times.entry(key).or_insert(0) += 1;
                }
                cursor = next;
                // Others come and go meanwhile.
                feeder.call("set", &[&format!("new:{steps}"), "v"]);
                if steps % 3 == 0 && steps < 500 {
                    feeder.call("delex", &[&format!("key:{}", 1_000 + steps)]);
                }
                steps += 1;
                if cursor == 0 {
                    break;
                }
            }
            for number in 0..1_000 {
                let key = format!("key:{number}");
                assert_eq!(times.get(key.as_bytes()), Some(&1), "{key}, {count} at once");
            }
            assert!(times.values().all(|times| *times == 1), "none comes twice");
        }
    }

    #[test]
    fn few_keys_are_one_step() {
        let mut feeder = Feeder::new();
        assert_eq!(step(&mut feeder, 0, &[]), (0, vec![]));
        for key in ["a", "b", "c"] {
            feeder.call("set", &[key, "v"]);
        }
        feeder.call("hset", &["h", "f", "v"]);
        let (cursor, keys) = step(&mut feeder, 0, &[]);
        assert_eq!((cursor, keys.len()), (0, 4));
        assert_eq!(step(&mut feeder, 0, &["TYPE", "hash"]).1, [Bytes::from_static(b"h")]);
        assert_eq!(step(&mut feeder, 0, &["MATCH", "[ab]"]).1.len(), 2);
        assert_eq!(step(&mut feeder, u64::MAX, &[]), (0, vec![]));
    }

    #[test]
    fn no_call_looks_at_more_than_its_share() {
        let mut feeder = Feeder::new();
        for number in 0..LOOKED_AT_MAX + 1_000 {
            feeder.call("set", &[&number.to_string(), "v"]);
        }
        let (cursor, keys) = step(&mut feeder, 0, &["COUNT", "1000000000"]);
        assert_eq!(keys.len(), LOOKED_AT_MAX);
        assert_ne!(cursor, 0);
    }
}
