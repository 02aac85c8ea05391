//! Commands on hashes.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{Answer, ONE_KEY, Row, Scale, read, write};
use crate::kv::commands::scan::{self, Options};
use crate::kv::keyspace::Keyspace;
use crate::kv::values::element::{Element, share_all};
use crate::kv::values::extended::Extended;
use crate::kv::values::hash::Hash;
use crate::kv::values::number::parse_integer;

/// The hash commands of the state machine: number, name, key positions and function of each. Append
/// new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(112, "hset", ONE_KEY, hset),
    read(113, "hget", ONE_KEY, hget),
    write(114, "hdel", ONE_KEY, hdel),
    read(115, "hlen", ONE_KEY, hlen),
    read(116, "hgetall", ONE_KEY, hgetall).per(Scale::Values),
    write(117, "hsetnx", ONE_KEY, hsetnx),
    write(118, "hmset", ONE_KEY, hmset),
    read(119, "hmget", ONE_KEY, hmget),
    read(120, "hkeys", ONE_KEY, hkeys).per(Scale::Values),
    read(121, "hvals", ONE_KEY, hvals).per(Scale::Values),
    read(122, "hexists", ONE_KEY, hexists),
    read(123, "hstrlen", ONE_KEY, hstrlen),
    write(124, "hincrby", ONE_KEY, hincrby),
    write(125, "hincrbyfloat", ONE_KEY, hincrbyfloat),
    read(126, "hrandfield", ONE_KEY, hrandfield).per(Scale::Count),
    read(127, "hscan", ONE_KEY, hscan),
];

/// Maximum number of fields that `HRANDFIELD` returns with a negative count, which allows
/// repetitions.
const REPEATED_MAX: usize = 1 << 20;

/// Runs `HSET key field value [field value ...]`: sets fields of a hash, and returns the number of
/// new fields.
fn hset(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    set_many(keyspace, args, "hset")
}

/// Runs `HMSET key field value [field value ...]`: sets fields of a hash.
fn hmset(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    Ok(match set_many(keyspace, args, "hmset")? {
        Outcome::Integer(_) => Outcome::Done,
        error => error,
    })
}

/// Sets fields of a hash, and returns the number of new fields. `command` is the name of the
/// command in error messages.
fn set_many(keyspace: &mut Keyspace, args: &Args<'_>, command: &str) -> Answer {
    let key = args.get(0)?;
    let (pairs, rest) = args.rest(1).as_chunks::<2>();
    if !rest.is_empty() {
        return Ok(Outcome::wrong_number(command));
    }
    let added = keyspace.update(key, |hash: &mut Hash| {
        let added = pairs.iter().filter(|[field, value]| hash.set(field, value)).count();
        (added, true)
    })?;
    keyspace.notify("hset", key);
    Ok(Outcome::count(added))
}

/// Runs `HSETNX key field value`: sets a field of a hash only if the field does not exist.
fn hsetnx(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, field, value) = (args.get(0)?, args.get(1)?, args.get(2)?);
    if value_of(keyspace, key, field)?.is_some() {
        return Ok(Outcome::flag(false));
    }
    keyspace.update(key, |hash: &mut Hash| (hash.set(field, value), true))?;
    keyspace.notify("hset", key);
    Ok(Outcome::flag(true))
}

/// Runs `HGET key field`: returns the value of a field of a hash; null if the field does not exist.
fn hget(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::Value(value_of(keyspace, args.get(0)?, args.get(1)?)?.map(Element::to_shared)))
}

/// Runs `HMGET key field [field ...]`: returns the values of fields of a hash, with null for each
/// missing field.
fn hmget(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let hash = keyspace.collection::<Hash>(args.get(0)?)?;
    let value = |field: &&[u8]| hash.and_then(|hash| hash.get(field)).map(Element::to_shared);
    Ok(Outcome::Values(args.rest(1).iter().map(value).collect()))
}

/// Runs `HEXISTS key field`: returns 1 if a hash has the field, otherwise 0.
fn hexists(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::flag(value_of(keyspace, args.get(0)?, args.get(1)?)?.is_some()))
}

/// Runs `HSTRLEN key field`: returns the length in bytes of the value of a field.
fn hstrlen(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::count(
        value_of(keyspace, args.get(0)?, args.get(1)?)?.map_or(0, |value| value.len()),
    ))
}

fn value_of<'s>(
    keyspace: &'s Keyspace,
    key: &[u8],
    field: &[u8],
) -> Result<Option<&'s Element>, Refusal> {
    Ok(keyspace.collection::<Hash>(key)?.and_then(|hash| hash.get(field)))
}

/// Runs `HDEL key field [field ...]`: removes fields of a hash, and returns the number of removed
/// fields.
fn hdel(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let removed = keyspace.update_existing(key, |hash: &mut Hash| {
        let removed = args.rest(1).iter().filter(|field| hash.remove(field)).count();
        (removed, removed > 0)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        keyspace.notify("hdel", key);
        keyspace.notify_if_removed(key);
    }
    Ok(Outcome::count(removed))
}

/// Runs `HINCRBY key field amount`: adds `amount` to the integer in a field of a hash.
fn hincrby(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, field) = (args.get(0)?, args.get(1)?);
    let amount = parse_integer(args.get(2)?).ok_or(Refusal::NotAnInteger)?;
    let old = match value_of(keyspace, key, field)? {
        None => 0,
        Some(value) => parse_integer(value).ok_or(Refusal::HashNotAnInteger)?,
    };
    let sum = old.checked_add(amount).ok_or(Refusal::Overflow)?;
    let text = sum.to_string();
    keyspace.update(key, |hash: &mut Hash| (hash.set(field, text.as_bytes()), true))?;
    keyspace.notify("hincrby", key);
    Ok(Outcome::Integer(sum))
}

/// Runs `HINCRBYFLOAT key field amount`: adds `amount` to the floating-point number in a field of a
/// hash.
fn hincrbyfloat(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, field) = (args.get(0)?, args.get(1)?);
    let amount = Extended::parse(args.get(2)?).ok_or(Refusal::NotAFloat)?;
    if amount.is_infinite() {
        return Ok(Outcome::error("ERR value is NaN or Infinity"));
    }
    let sum = match value_of(keyspace, key, field)?.map(|value| Extended::parse(value)) {
        None => amount,
        Some(None) => return Ok(Outcome::error("ERR hash value is not a float")),
        Some(Some(old)) => old + amount,
    };
    if sum.is_infinite() {
        return Ok(Outcome::error("ERR increment would produce NaN or Infinity"));
    }
    let text = Bytes::from(sum.to_string());
    keyspace.update(key, |hash: &mut Hash| (hash.set(field, &text), true))?;
    keyspace.notify("hincrbyfloat", key);
    Ok(Outcome::Value(Some(text)))
}

/// Runs `HLEN key`: returns the number of fields of a hash.
fn hlen(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let hash = keyspace.collection::<Hash>(args.get(0)?)?;
    Ok(Outcome::count(hash.map_or(0, Hash::len)))
}

/// Returns the fields and their values as pairs of outcomes.
fn text_pairs<'h>(
    fields: impl Iterator<Item = (&'h Element, &'h Element)>,
) -> Vec<(Outcome, Outcome)> {
    let mut texts = share_all(fields.flat_map(|(field, value)| [field, value]));
    let mut text = || texts.next().map(|text| Outcome::Value(Some(text)));
    std::iter::from_fn(|| text().zip(text())).collect()
}

/// Runs `HGETALL key`: returns all fields of a hash with their values.
fn hgetall(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let hash = keyspace.collection::<Hash>(args.get(0)?)?;
    let fields = hash.into_iter().flat_map(Hash::iter);
    Ok(Outcome::Map(text_pairs(fields)))
}

/// Runs `HKEYS key`: returns all fields of a hash.
fn hkeys(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let hash = keyspace.collection::<Hash>(args.get(0)?)?;
    let fields = hash.into_iter().flat_map(Hash::iter);
    Ok(Outcome::Values(share_all(fields.map(|(field, _)| field)).map(Some).collect()))
}

/// Runs `HVALS key`: returns the values of all fields of a hash.
fn hvals(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let hash = keyspace.collection::<Hash>(args.get(0)?)?;
    let fields = hash.into_iter().flat_map(Hash::iter);
    Ok(Outcome::Values(share_all(fields.map(|(_, value)| value)).map(Some).collect()))
}

/// Runs `HRANDFIELD key [count [WITHVALUES]]`: returns up to `count` distinct random fields of a
/// hash. If `count` is negative, returns exactly `-count` fields, possibly with repetitions.
fn hrandfield(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let hash = |key| keyspace.collection::<Hash>(key);
    let Some(count) = args.rest(1).first() else {
        let Some(hash) = hash(args.get(0)?)? else { return Ok(Outcome::Value(None)) };
        let found = hash.at(&[args.below(0, hash.len())]);
        return Ok(Outcome::Value(found.first().map(|(field, _)| field.to_shared())));
    };
    let count = parse_integer(count).ok_or(Refusal::NotAnInteger)?;
    if count == i64::MIN {
        return Err(Refusal::NotAbsolute);
    }
    let with_values = match args.rest(2) {
        [] => false,
        [word] if word.eq_ignore_ascii_case(b"WITHVALUES") => true,
        _ => return Err(Refusal::Syntax),
    };
    let number = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if with_values && number > usize::MAX / 4 {
        return Err(Refusal::OutOfRange);
    }
    let none = Hash::default();
    let hash = hash(args.get(0)?)?.unwrap_or(&none);
    let length = hash.len();
    let places: Vec<usize> = if count >= 0 {
        args.different(number, length)
    } else if length == 0 {
        Vec::new()
    } else if number > REPEATED_MAX {
        // Without this limit, which Redis does not have, the reply could take unbounded memory.
        return Err(Refusal::OutOfRange);
    } else {
        (0..).take(number).map(|turn| args.below(turn, length)).collect()
    };
    let chosen = hash.at(&places).into_iter();
    Ok(if with_values {
        Outcome::Pairs(text_pairs(chosen))
    } else {
        Outcome::Values(share_all(chosen.map(|(field, _)| field)).map(Some).collect())
    })
}

/// Runs `HSCAN key cursor [MATCH pattern] [COUNT count]`: returns the next cursor and some fields
/// of a hash with their values.
fn hscan(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let cursor = match scan::cursor(args.get(1)?) {
        Ok(cursor) => cursor,
        Err(error) => return Ok(error),
    };
    let Some(hash) = keyspace.collection::<Hash>(args.get(0)?)? else {
        return Ok(scan::reply(0, Vec::new()));
    };
    let options = Options::read(args, 2)?;
    let (cursor, part) = hash.scan(cursor, options.count);
    let fitting = part.into_iter().filter(|(field, _)| options.fits(field));
    let texts = share_all(fitting.flat_map(|(field, value)| [field, value]));
    Ok(scan::reply(cursor, texts.map(Some).collect()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kv::state_machine::tests::Feeder;
    use crate::kv::values::hash::{SMALL_BYTES_MAX, SMALL_FIELDS_MAX};

    /// Returns a state with a hash of `count` fields `f0`, `f1` and so on, whose values are their
    /// numbers.
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

    /// Runs `HSCAN` and returns the next cursor and the elements.
    fn scan(feeder: &mut Feeder, cursor: &str, options: &[&str]) -> (String, Vec<String>) {
        let outcome = feeder.call("hscan", &[&["h", cursor], options].concat());
        let Outcome::List(parts) = outcome else { panic!("{outcome:?}") };
        (texts(&parts[0]).remove(0), texts(&parts[1]))
    }

    #[test]
    fn small_hash_returns_fields_in_insertion_order() {
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
    fn hscan_returns_each_field_present_during_the_whole_scan() {
        let mut feeder = filled(1_000);
        let (mut cursor, mut returned) = ("0".to_owned(), BTreeSet::new());
        let mut rounds = 0;
        loop {
            let (next, found) = scan(&mut feeder, &cursor, &["COUNT", "7"]);
            returned.extend(found.chunks(2).map(|pair| pair[0].clone()));
            rounds += 1;
            // Remove from both ends and the middle, except multiples of 5.
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
            assert!(returned.contains(&format!("f{number}")), "f{number}");
        }
    }

    #[test]
    fn hscan_returns_all_fields_and_filters_by_pattern() {
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
    fn hincrby_and_hincrbyfloat_return_and_store_sums() {
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
    fn hrandfield_returns_distinct_fields_unless_count_is_negative() {
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
    fn state_digest_of_a_hash_depends_only_on_fields_and_values() {
        let (mut one, mut other) = (filled(3), Feeder::new());
        one.call("hdel", &["h", "f1"]);
        for args in [["h", "f2", "x"], ["h", "f0", "0"], ["h", "f2", "2"]] {
            other.call("hset", &args);
        }
        other.call("hlen", &["h"]);
        assert_eq!(one.store.digest(), other.store.digest());
        one.call("hset", &["h", "f0", "2", "f2", "0"]);
        other.call("hlen", &["h"]);
        assert_ne!(one.store.digest(), other.store.digest());
    }

    #[test]
    fn snapshot_keeps_the_field_order_of_hashes() {
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
