//! Hashes: fields and their values under one key, and what can be done with them.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::registry::{Answer, Row, Run};
use crate::kv::commands::scan::{self, Options};
use crate::kv::state_machine::StateMachine;
use crate::kv::values::extended::Extended;
use crate::kv::values::hash::Hash;
use crate::kv::values::number::parse_integer;

pub(in crate::kv) const COMMANDS: Row = &[
    ("hset", Run::Write(hset)),
    ("hget", Run::Read(hget)),
    ("hdel", Run::Write(hdel)),
    ("hlen", Run::Read(hlen)),
    ("hgetall", Run::Read(hgetall)),
    ("hsetnx", Run::Write(hsetnx)),
    ("hmset", Run::Write(hmset)),
    ("hmget", Run::Read(hmget)),
    ("hkeys", Run::Read(hkeys)),
    ("hvals", Run::Read(hvals)),
    ("hexists", Run::Read(hexists)),
    ("hstrlen", Run::Read(hstrlen)),
    ("hincrby", Run::Write(hincrby)),
    ("hincrbyfloat", Run::Write(hincrbyfloat)),
    ("hrandfield", Run::Read(hrandfield)),
    ("hscan", Run::Read(hscan)),
];

/// Most fields that are told at random with some of them several times.
const REPEATED_MAX: usize = 1 << 20;

/// `HSET key field value [field value ...]`
fn hset(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    set_many(store, words, "hset")
}

/// `HMSET key field value [field value ...]`
fn hmset(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    Ok(match set_many(store, words, "hmset")? {
        Outcome::Integer(_) => Outcome::Done,
        error => error,
    })
}

/// Sets fields; how many of them are new.
fn set_many(store: &mut StateMachine, words: &Args<'_>, command: &str) -> Answer {
    let key = words.get(0)?;
    let (pairs, rest) = words.rest(1).as_chunks::<2>();
    if !rest.is_empty() {
        return Ok(Outcome::wrong_number(command));
    }
    let added = store.change(key, |hash: &mut Hash| {
        let added = pairs.iter().filter(|[field, value]| hash.set(field, value)).count();
        (added, true)
    })?;
    store.note("hset", key);
    Ok(Outcome::count(added))
}

/// `HSETNX key field value`
fn hsetnx(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (key, field, value) = (words.get(0)?, words.get(1)?, words.get(2)?);
    if value_of(store, key, field)?.is_some() {
        return Ok(Outcome::flag(false));
    }
    store.change(key, |hash: &mut Hash| (hash.set(field, value), true))?;
    store.note("hset", key);
    Ok(Outcome::flag(true))
}

/// `HGET key field`
fn hget(store: &StateMachine, words: &Args<'_>) -> Answer {
    Ok(Outcome::Value(value_of(store, words.get(0)?, words.get(1)?)?.cloned()))
}

/// `HMGET key field [field ...]`
fn hmget(store: &StateMachine, words: &Args<'_>) -> Answer {
    let hash = store.content::<Hash>(words.get(0)?)?;
    let value = |field: &&[u8]| hash.and_then(|hash| hash.get(field)).cloned();
    Ok(Outcome::Values(words.rest(1).iter().map(value).collect()))
}

/// `HEXISTS key field`
fn hexists(store: &StateMachine, words: &Args<'_>) -> Answer {
    Ok(Outcome::flag(value_of(store, words.get(0)?, words.get(1)?)?.is_some()))
}

/// `HSTRLEN key field`
fn hstrlen(store: &StateMachine, words: &Args<'_>) -> Answer {
    Ok(Outcome::count(value_of(store, words.get(0)?, words.get(1)?)?.map_or(0, Bytes::len)))
}

fn value_of<'s>(
    store: &'s StateMachine,
    key: &[u8],
    field: &[u8],
) -> Result<Option<&'s Bytes>, Refusal> {
    Ok(store.content::<Hash>(key)?.and_then(|hash| hash.get(field)))
}

/// `HDEL key field [field ...]`
fn hdel(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let key = words.get(0)?;
    let removed = store.change_there(key, |hash: &mut Hash| {
        let removed = words.rest(1).iter().filter(|field| hash.remove(field)).count();
        (removed, removed > 0)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        store.note("hdel", key);
        store.note_if_gone(key);
    }
    Ok(Outcome::count(removed))
}

/// `HINCRBY key field amount`
fn hincrby(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (key, field) = (words.get(0)?, words.get(1)?);
    let amount = parse_integer(words.get(2)?).ok_or(Refusal::NotAnInteger)?;
    let old = match value_of(store, key, field)? {
        None => 0,
        Some(value) => parse_integer(value).ok_or(Refusal::HashNotAnInteger)?,
    };
    let sum = old.checked_add(amount).ok_or(Refusal::Overflow)?;
    let text = sum.to_string();
    store.change(key, |hash: &mut Hash| (hash.set(field, text.as_bytes()), true))?;
    store.note("hincrby", key);
    Ok(Outcome::Integer(sum))
}

/// `HINCRBYFLOAT key field amount`
fn hincrbyfloat(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (key, field) = (words.get(0)?, words.get(1)?);
    let amount = Extended::parse(words.get(2)?).ok_or(Refusal::NotAFloat)?;
    if amount.is_infinite() {
        return Ok(Outcome::error("ERR value is NaN or Infinity"));
    }
    let sum = match value_of(store, key, field)?.map(|value| Extended::parse(value)) {
        None => amount,
        Some(None) => return Ok(Outcome::error("ERR hash value is not a float")),
        Some(Some(old)) => old + amount,
    };
    if sum.is_infinite() {
        return Ok(Outcome::error("ERR increment would produce NaN or Infinity"));
    }
    let text = Bytes::from(sum.to_string());
    store.change(key, |hash: &mut Hash| (hash.set(field, &text), true))?;
    store.note("hincrbyfloat", key);
    Ok(Outcome::Value(Some(text)))
}

/// `HLEN key`
fn hlen(store: &StateMachine, words: &Args<'_>) -> Answer {
    let hash = store.content::<Hash>(words.get(0)?)?;
    Ok(Outcome::count(hash.map_or(0, Hash::len)))
}

fn text(bytes: &Bytes) -> Outcome {
    Outcome::Value(Some(bytes.clone()))
}

fn text_pair((field, value): (&Bytes, &Bytes)) -> (Outcome, Outcome) {
    (text(field), text(value))
}

/// `HGETALL key`
fn hgetall(store: &StateMachine, words: &Args<'_>) -> Answer {
    let hash = store.content::<Hash>(words.get(0)?)?;
    let fields = hash.into_iter().flat_map(Hash::iter);
    Ok(Outcome::Map(fields.map(text_pair).collect()))
}

/// `HKEYS key`
fn hkeys(store: &StateMachine, words: &Args<'_>) -> Answer {
    let hash = store.content::<Hash>(words.get(0)?)?;
    let fields = hash.into_iter().flat_map(Hash::iter);
    Ok(Outcome::Values(fields.map(|(field, _)| Some(field.clone())).collect()))
}

/// `HVALS key`
fn hvals(store: &StateMachine, words: &Args<'_>) -> Answer {
    let hash = store.content::<Hash>(words.get(0)?)?;
    let fields = hash.into_iter().flat_map(Hash::iter);
    Ok(Outcome::Values(fields.map(|(_, value)| Some(value.clone())).collect()))
}

/// `HRANDFIELD key [count [WITHVALUES]]`: as many different fields as there are and `count` says;
/// if that is negative, so many, and a field may come again.
fn hrandfield(store: &StateMachine, words: &Args<'_>) -> Answer {
    let hash = |key| store.content::<Hash>(key);
    let Some(count) = words.rest(1).first() else {
        let Some(hash) = hash(words.get(0)?)? else { return Ok(Outcome::Value(None)) };
        let found = hash.at(&[words.below(0, hash.len())]);
        return Ok(Outcome::Value(found.first().map(|(field, _)| (*field).clone())));
    };
    let count = parse_integer(count).ok_or(Refusal::NotAnInteger)?;
    if count == i64::MIN {
        return Err(Refusal::NotAbsolute);
    }
    let with_values = match words.rest(2) {
        [] => false,
        [word] if word.eq_ignore_ascii_case(b"WITHVALUES") => true,
        _ => return Err(Refusal::Syntax),
    };
    let number = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if with_values && number > usize::MAX / 4 {
        return Err(Refusal::OutOfRange);
    }
    let none = Hash::default();
    let hash = hash(words.get(0)?)?.unwrap_or(&none);
    let length = hash.len();
    let places: Vec<usize> = if count >= 0 {
        words.different(number, length)
    } else if length == 0 {
        Vec::new()
    } else if number > REPEATED_MAX {
        // It would take memory without end, which Redis risks.
        return Err(Refusal::OutOfRange);
    } else {
        (0..).take(number).map(|turn| words.below(turn, length)).collect()
    };
    let chosen = hash.at(&places).into_iter();
    Ok(if with_values {
        Outcome::Pairs(chosen.map(text_pair).collect())
    } else {
        Outcome::Values(chosen.map(|(field, _)| Some(field.clone())).collect())
    })
}

/// `HSCAN key cursor [MATCH pattern] [COUNT count]`
fn hscan(store: &StateMachine, words: &Args<'_>) -> Answer {
    let cursor = match scan::cursor(words.get(1)?) {
        Ok(cursor) => cursor,
        Err(error) => return Ok(error),
    };
    let Some(hash) = store.content::<Hash>(words.get(0)?)? else {
        return Ok(scan::reply(0, Vec::new()));
    };
    let options = Options::read(words, 2)?;
    let (cursor, part) = hash.scan(cursor, options.count);
    let fitting = part.into_iter().filter(|(field, _)| options.fits(field));
    let texts = fitting.flat_map(|(field, value)| [Some(field.clone()), Some(value.clone())]);
    Ok(scan::reply(cursor, texts.collect()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kv::state_machine::tests::Feeder;
    use crate::kv::values::hash::{SMALL_BYTES_MAX, SMALL_FIELDS_MAX};

    /// A hash of so many fields, `f0` and on, whose values are their numbers.
    fn filled(count: usize) -> Feeder {
        let mut feeder = Feeder::new();
        for number in 0..count {
            feeder.call("hset", &["h", &format!("f{number}"), &number.to_string()]);
        }
        feeder
    }

    fn texts(outcome: &Outcome) -> Vec<String> {
        let text = |text: &Bytes| String::from_utf8(text.to_vec()).unwrap();
        match outcome {
            Outcome::Values(values) => values.iter().flatten().map(text).collect(),
            Outcome::Value(value) => value.iter().map(text).collect(),
            Outcome::Map(pairs) | Outcome::Pairs(pairs) => {
                pairs.iter().flat_map(|(one, other)| [texts(one), texts(other)].concat()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// The cursor to go on with, and what was told.
    fn scan(feeder: &mut Feeder, cursor: &str, options: &[&str]) -> (String, Vec<String>) {
        let outcome = feeder.call("hscan", &[&["h", cursor], options].concat());
        let Outcome::List(parts) = outcome else { panic!("{outcome:?}") };
        (texts(&parts[0]).remove(0), texts(&parts[1]))
    }

    #[test]
    fn a_small_hash_keeps_its_order_and_a_large_one_is_as_good() {
        let mut feeder = filled(5);
        feeder.call("hset", &["h", "f1", "other"]);
        feeder.call("hdel", &["h", "f0", "f2", "nothing"]);
        assert_eq!(texts(&feeder.call("hkeys", &["h"])), ["f1", "f3", "f4"]);
        assert_eq!(texts(&feeder.call("hvals", &["h"])), ["other", "3", "4"]);
        feeder.call("hset", &["h", "f3", &"x".repeat(SMALL_BYTES_MAX + 1), "f5", ""]);
        feeder.call("hdel", &["h", "f1"]);
        let keys = texts(&feeder.call("hkeys", &["h"]));
        assert_eq!(keys, ["f5", "f3", "f4"], "the last one took its place");
        let mut feeder = filled(SMALL_FIELDS_MAX + 1);
        assert_eq!(feeder.call("hlen", &["h"]), Outcome::count(SMALL_FIELDS_MAX + 1));
    }

    #[test]
    fn a_scan_tells_every_field_that_stays_whatever_comes_and_goes() {
        let mut feeder = filled(1_000);
        let (mut cursor, mut told) = ("0".to_owned(), BTreeSet::new());
        let mut rounds = 0;
        loop {
            let (next, found) = scan(&mut feeder, &cursor, &["COUNT", "7"]);
            told.extend(found.chunks(2).map(|pair| pair[0].clone()));
            rounds += 1;
            // From both ends and the middle; those that are a multiple of 5 stay.
            for number in [rounds, 1_000 - rounds, 400 + rounds, 300 - rounds] {
                if number % 5 != 0 {
                    feeder.call("hdel", &["h", &format!("f{number}")]);
                }
            }
            feeder.call("hset", &["h", &format!("new{rounds}"), ""]);
            if next == "0" {
                break;
            }
            cursor = next;
        }
        assert!(rounds > 100, "{rounds}");
        for number in (0..1_000).step_by(5) {
            assert!(told.contains(&format!("f{number}")), "f{number}");
        }
    }

    #[test]
    fn a_scan_is_whole_where_nothing_changes_and_leaves_out_what_does_not_fit() {
        let mut feeder = filled(SMALL_FIELDS_MAX);
        let (cursor, found) = scan(&mut feeder, "77", &["COUNT", "1", "MATCH", "f1?"]);
        assert_eq!((cursor.as_str(), found.len()), ("0", 20), "small, so all at once");
        feeder.call("hset", &["h", "large", &"x".repeat(SMALL_BYTES_MAX + 1)]);
        let (mut cursor, mut fields) = ("0".to_owned(), Vec::new());
        loop {
            let (next, found) = scan(&mut feeder, &cursor, &["count", "100"]);
            fields.extend(found.chunks(2).map(|pair| pair[0].clone()));
            if next == "0" {
                break;
            }
            cursor = next;
        }
        assert_eq!(fields.len(), SMALL_FIELDS_MAX + 1);
        fields.sort_unstable();
        fields.dedup();
        assert_eq!(fields.len(), SMALL_FIELDS_MAX + 1, "none twice");
        let (cursor, _) = scan(&mut feeder, &u64::MAX.to_string(), &["count", "1000"]);
        assert_eq!(cursor, "0", "a cursor that none was given leads to the end");
    }

    #[test]
    fn sums_are_told_and_kept() {
        let mut feeder = Feeder::new();
        assert_eq!(feeder.call("hincrby", &["h", "n", "5"]), Outcome::Integer(5));
        assert_eq!(feeder.call("hincrby", &["h", "n", "-7"]), Outcome::Integer(-2));
        assert_eq!(texts(&feeder.call("hincrbyfloat", &["h", "n", "0.5"])), ["-1.5"]);
        let refused = feeder.call("hincrby", &["h", "n", "1"]);
        assert_eq!(refused, Outcome::Refused(Refusal::HashNotAnInteger));
        feeder.call("hset", &["h", "n", &i64::MIN.to_string(), "text", "a"]);
        let refused = feeder.call("hincrby", &["h", "n", "-1"]);
        assert_eq!(refused, Outcome::Refused(Refusal::Overflow));
        assert_eq!(texts(&feeder.call("hget", &["h", "n"])), [i64::MIN.to_string()]);
        let before = feeder.store.digest();
        for amount in ["inf", "nan", "x", "1"] {
            let outcome = feeder.call("hincrbyfloat", &["h", "text", amount]);
            let refused = matches!(outcome, Outcome::Error(_) | Outcome::Refused(_));
            assert!(refused, "{amount} {outcome:?}");
        }
        assert_ne!(before, feeder.store.digest(), "the place in the log");
        assert_eq!(texts(&feeder.call("hget", &["h", "text"])), ["a"]);
    }

    #[test]
    fn chance_finds_every_field_and_none_twice_unless_asked() {
        let mut feeder = filled(6);
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            let one = texts(&feeder.call("hrandfield", &["h"]));
            let some = texts(&feeder.call("hrandfield", &["h", "3"]));
            assert_eq!((one.len(), some.len()), (1, 3));
            assert_eq!(some.iter().collect::<BTreeSet<_>>().len(), 3, "{some:?}");
            seen.insert(some);
            assert_eq!(texts(&feeder.call("hrandfield", &["h", "-9", "withvalues"])).len(), 18);
        }
        assert_eq!(seen.len(), 20, "all the choices of 3 out of 6");
        assert_eq!(texts(&feeder.call("hrandfield", &["h", "7", "WITHVALUES"])).len(), 12);
        assert!(texts(&feeder.call("hrandfield", &["none", "-5"])).is_empty());
        let many = (REPEATED_MAX + 1).to_string();
        let refused = feeder.call("hrandfield", &["h", &format!("-{many}")]);
        assert_eq!(refused, Outcome::Refused(Refusal::OutOfRange));
    }

    #[test]
    fn equal_hashes_have_equal_digests_whatever_the_way_there() {
        let (mut one, mut other) = (filled(3), Feeder::new());
        one.call("hdel", &["h", "f1"]);
        for words in [["h", "f2", "x"], ["h", "f0", "0"], ["h", "f2", "2"]] {
            other.call("hset", &words);
        }
        other.call("hlen", &["h"]);
        assert_eq!(one.store.digest(), other.store.digest());
        one.call("hset", &["h", "f0", "2", "f2", "0"]);
        other.call("hlen", &["h"]);
        assert_ne!(one.store.digest(), other.store.digest());
    }

    #[test]
    fn a_snapshot_keeps_the_order_and_what_decides_it() {
        for large in [false, true] {
            let mut feeder = filled(20);
            if large {
                feeder.call("hset", &["h", "f3", &"x".repeat(SMALL_BYTES_MAX + 1)]);
                feeder.call("hset", &["h", "f3", "small again"]);
            }
            feeder.call("hdel", &["h", "f5"]);
            let mut copy = feeder.restored();
            assert_eq!(copy.store.digest(), feeder.store.digest());
            for feeder in [&mut feeder, &mut copy] {
                feeder.call("hdel", &["h", "f2"]);
            }
            let keys = texts(&feeder.call("hkeys", &["h"]));
            assert_eq!(texts(&copy.call("hkeys", &["h"])), keys);
            assert_eq!(keys[2], if large { "f18" } else { "f3" });
        }
    }
}
