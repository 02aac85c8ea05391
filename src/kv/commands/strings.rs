//! Commands on strings.

use std::ops::Range;

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::expiration::{From, Unit, invalid, moment};
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{
    ALL_KEYS, Answer, KEYS_AND_VALUES, ONE_KEY, Row, Scale, read, write,
};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::clock::Millis;
use crate::kv::values::extended::Extended;
use crate::kv::values::number::parse_integer;
use crate::kv::values::string::StringRef;

/// The string commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(48, "set", ONE_KEY, set_with_options),
    write(49, "setex", ONE_KEY, setex),
    write(50, "psetex", ONE_KEY, psetex),
    write(51, "getex", ONE_KEY, getex),
    write(52, "msetnx", KEYS_AND_VALUES, msetnx),
    write(53, "setrange", ONE_KEY, setrange),
    read(54, "getrange", ONE_KEY, getrange),
    read(55, "substr", ONE_KEY, getrange),
    write(56, "incrbyfloat", ONE_KEY, incrbyfloat),
    write(57, "delex", ONE_KEY, delex).per(Scale::Values),
    read(58, "get", ONE_KEY, get),
    write(59, "setnx", ONE_KEY, setnx),
    write(60, "getset", ONE_KEY, getset),
    write(61, "getdel", ONE_KEY, getdel),
    read(62, "mget", ALL_KEYS, mget),
    write(63, "mset", KEYS_AND_VALUES, mset),
    write(64, "append", ONE_KEY, append),
    read(65, "strlen", ONE_KEY, strlen),
    write(66, "incr", ONE_KEY, incr),
    write(67, "decr", ONE_KEY, decr),
    write(68, "incrby", ONE_KEY, incrby),
    write(69, "decrby", ONE_KEY, decrby),
];

/// The condition of a `SET` command, given by the options `NX` and `XX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    /// `NX`: sets the key only if it does not exist.
    IfAbsent,
    /// `XX`: sets the key only if it exists.
    IfPresent,
}

/// The reply of a `SET` command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SetReply {
    /// `OK`, or null if the condition was not met.
    Status,
    /// `GET`: the old value.
    Old,
    /// `REVISION`: the new revision of the key, or null if the condition was not met.
    Revision,
}

/// Runs `GET key`: returns the value of a key; null if the key does not exist.
fn get(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::string(keyspace.shared_string(args.get(0)?)?))
}

/// Runs `SETNX key value`: sets a key if it does not exist.
fn setnx(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, value) = (args.get(0)?, args.get(1)?);
    let is_absent = keyspace.entry(key).is_none();
    if is_absent {
        set_plain(keyspace, key, value);
    }
    Ok(Outcome::flag(is_absent))
}

/// Runs `GETSET key value`: sets a key, and returns its old value.
fn getset(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, value) = (args.get(0)?, args.get(1)?);
    let old = keyspace.counting_lookups(|it| it.shared_string(key))?;
    set_plain(keyspace, key, value);
    Ok(Outcome::string(old))
}

/// Runs `GETDEL key`: removes a key, and returns its value.
fn getdel(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let old = keyspace.counting_lookups(|it| it.shared_string(key))?;
    keyspace.delete(key);
    Ok(Outcome::string(old))
}

/// Runs `MGET key [key ...]`: returns the values of keys, with null for each key that does not
/// exist or whose value is not a string.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn mget(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let value = |key: &&[u8]| keyspace.shared_string(key).unwrap_or_default();
    Ok(Outcome::strings(args.all().iter().map(value)))
}

/// Runs `MSET key value [key value ...]`: sets several keys.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn mset(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (pairs, []) = args.all().as_chunks::<2>() else {
        return Ok(Outcome::wrong_number("mset"));
    };
    for [key, value] in pairs {
        set_plain(keyspace, key, value);
    }
    Ok(Outcome::Done)
}

/// Sets a key to a string without expiration, and records a `set` keyspace notification.
fn set_plain(keyspace: &mut Keyspace, key: &[u8], value: &[u8]) {
    keyspace.put(key, value);
    keyspace.notify("set", key);
}

/// Runs `APPEND key value`: appends to a string, and returns the new length of the string. Before
/// it replicates the command, the server adds an argument: the maximum permitted length of a
/// string.
fn append(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, more) = (args.get(0)?, args.get(1)?);
    let old = keyspace.string(key)?.map_or(0, StringRef::len);
    let length = old + more.len();
    // As in Redis, appending an empty string never fails.
    if length > args.value_bytes_max(2) && !more.is_empty() {
        return Err(Refusal::TooLong);
    }
    keyspace.edit_string(key, length, |string| {
        string.write(old, more);
        ((), true)
    })?;
    keyspace.notify("append", key);
    Ok(Outcome::count(length))
}

/// Runs `STRLEN key`: returns the length of a string in bytes.
fn strlen(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(Outcome::count(keyspace.string(args.get(0)?)?.map_or(0, StringRef::len)))
}

/// Runs `INCR key`: adds 1 to the integer at a key.
fn incr(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    add(keyspace, args.get(0)?, 1)
}

/// Runs `DECR key`: subtracts 1 from the integer at a key.
fn decr(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    add(keyspace, args.get(0)?, -1)
}

/// Runs `INCRBY key increment`: adds `increment` to the integer at a key.
fn incrby(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    add(keyspace, args.get(0)?, args.integer(1)?)
}

/// Runs `DECRBY key decrement`: subtracts `decrement` from the integer at a key.
fn decrby(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let Some(amount) = args.integer(1)?.checked_neg() else {
        return Ok(Outcome::error("ERR decrement would overflow"));
    };
    add(keyspace, args.get(0)?, amount)
}

/// Adds `amount` to the integer at a key (0 if the key does not exist), and keeps the key's
/// expiration time. Returns the sum.
fn add(keyspace: &mut Keyspace, key: &[u8], amount: i64) -> Answer {
    let old = match keyspace.string(key)? {
        None => 0,
        Some(value) => value.short().and_then(parse_integer).ok_or(Refusal::NotAnInteger)?,
    };
    let sum = old.checked_add(amount).ok_or(Refusal::Overflow)?;
    keyspace.put_keep_ttl(key, sum.to_string().as_bytes());
    keyspace.notify("incrby", key);
    Ok(Outcome::Integer(sum))
}

/// What `SET` or `GETEX` does with the expiration time of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ttl<'w> {
    /// Removes the expiration time, so that the key never expires.
    Never,
    /// Keeps the current expiration time, if any (`KEEPTTL`).
    Kept,
    /// Sets a new expiration time, given by an option and its argument, such as `PX` and a number
    /// of milliseconds.
    At(&'static str, &'w [u8]),
}

impl<'w> Ttl<'w> {
    /// Parses `option` with its argument `next` if it is `EX`, `PX`, `EXAT` or `PXAT`. Returns
    /// false, and changes nothing, if it is another option, its argument is missing, or it
    /// contradicts an earlier option. If the same option is given more than once, the last argument
    /// is used.
    fn take(&mut self, option: &[u8], next: Option<&&'w [u8]>) -> bool {
        let is = |word: &str| option.eq_ignore_ascii_case(word.as_bytes());
        let Some((unit, number)) =
            ["EX", "PX", "EXAT", "PXAT"].into_iter().find(|unit| is(unit)).zip(next)
        else {
            return false;
        };
        let allowed = match *self {
            Ttl::Never => true,
            Ttl::Kept => false,
            Ttl::At(said, _) => said == unit,
        };
        if allowed {
            *self = Ttl::At(unit, number);
        }
        allowed
    }
}

/// Runs `SET key value [NX | XX | IFEQ text | IFNE text] [GET | REVISION] [EX seconds | PX
/// milliseconds | EXAT seconds | PXAT milliseconds | KEEPTTL]`: sets a key to a string. `IFEQ` and
/// `IFNE` are options of Redis 8.4; Redis has no `REVISION`.
fn set_with_options(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, value) = (args.get(0)?, args.get(1)?);
    if args.len() == 2 {
        set_plain(keyspace, key, value);
        return Ok(Outcome::Done);
    }
    let (mut condition, mut compare) = (Condition::Always, None);
    let mut reply = SetReply::Status;
    let mut end = Ttl::Never;
    let mut options = args.rest(2).iter();
    while let Some(option) = options.next() {
        let is = |word: &str| option.eq_ignore_ascii_case(word.as_bytes());
        let unconditional = condition == Condition::Always && compare.is_none();
        if is("NX") && (unconditional || condition == Condition::IfAbsent) {
            condition = Condition::IfAbsent;
        } else if is("XX") && (unconditional || condition == Condition::IfPresent) {
            condition = Condition::IfPresent;
        } else if (is("IFEQ") || is("IFNE")) && unconditional {
            compare = Some((is("IFEQ"), *options.next().ok_or(Refusal::Syntax)?));
        } else if is("GET") && reply != SetReply::Revision {
            reply = SetReply::Old;
        } else if is("REVISION") && reply != SetReply::Old {
            reply = SetReply::Revision;
        } else if is("KEEPTTL") && !matches!(end, Ttl::At(..)) {
            end = Ttl::Kept;
        } else if end.take(option, options.as_slice().first()) {
            options.next();
        } else {
            return Err(Refusal::Syntax);
        }
    }
    let until = match end {
        Ttl::Never => None,
        Ttl::Kept => keyspace.expires_at(key),
        Ttl::At(unit, number) => {
            let number = parse_integer(number).ok_or(Refusal::NotAnInteger)?;
            let Some(until) = expiration_of(keyspace, number, unit) else {
                return Ok(invalid("set"));
            };
            Some(until)
        }
    };
    let returns_old = reply == SetReply::Old;
    let old = if returns_old {
        keyspace.counting_lookups(|it| it.string(key))
    } else {
        keyspace.string(key)
    };
    let old = match old {
        Err(error) if returns_old || compare.is_some() => return Err(error.into()),
        old => old.unwrap_or_default(),
    };
    let exists = keyspace.entry(key).is_some();
    let is_set = match (condition, compare) {
        (_, Some((equal, text))) => {
            let same = old.is_some_and(|old| old == *text);
            exists && same == equal || !exists && !equal
        }
        (Condition::Always, None) => true,
        (Condition::IfAbsent, None) => !exists,
        (Condition::IfPresent, None) => exists,
    };
    let old = if returns_old { keyspace.shared_string(key)? } else { None };
    if is_set {
        keyspace.put_expiring(key, value, until);
        keyspace.notify("set", key);
        if matches!(end, Ttl::At(..)) {
            keyspace.notify("expire", key);
        }
        // The expiration time may already have passed. If so, the key does not exist for clients,
        // and the next log entry removes it.
    }
    Ok(match (reply, is_set) {
        (SetReply::Old, _) => Outcome::string(old),
        (SetReply::Status, true) => Outcome::Done,
        (SetReply::Revision, true) => Outcome::Integer(keyspace.revision().cast_signed()),
        (SetReply::Status | SetReply::Revision, false) => Outcome::Unchanged,
    })
}

/// Runs `SETEX key seconds value`: sets a key to a string with a TTL.
fn setex(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    set_for(keyspace, args, "setex", "EX")
}

/// Runs `PSETEX key milliseconds value`: sets a key to a string with a TTL.
fn psetex(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    set_for(keyspace, args, "psetex", "PX")
}

fn set_for(keyspace: &mut Keyspace, args: &Args<'_>, command: &str, unit: &str) -> Answer {
    let (key, number, value) = (args.get(0)?, args.integer(1)?, args.get(2)?);
    let Some(until) = expiration_of(keyspace, number, unit) else { return Ok(invalid(command)) };
    keyspace.put_expiring(key, value, Some(until));
    keyspace.notify("set", key);
    keyspace.notify("expire", key);
    Ok(Outcome::Done)
}

/// Runs `GETEX key [EX seconds | PX milliseconds | EXAT seconds | PXAT milliseconds | PERSIST]`:
/// returns the value of a key, and changes its expiration time.
fn getex(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let (mut end, mut stays) = (Ttl::Kept, false);
    let mut options = args.rest(1).iter();
    while let Some(option) = options.next() {
        if option.eq_ignore_ascii_case(b"PERSIST") && end == Ttl::Kept {
            stays = true;
            continue;
        }
        // The expiration time of the last option, if any.
        let mut said = if end == Ttl::Kept { Ttl::Never } else { end };
        if stays || !said.take(option, options.as_slice().first()) {
            return Err(Refusal::Syntax);
        }
        end = said;
        options.next();
    }
    let value = keyspace.counting_lookups(|it| it.shared_string(key))?;
    if value.is_none() {
        return Ok(Outcome::Value(None));
    }
    if let Ttl::At(unit, number) = end {
        let number = parse_integer(number).ok_or(Refusal::NotAnInteger)?;
        let Some(until) = expiration_of(keyspace, number, unit) else {
            return Ok(invalid("getex"));
        };
        if until <= keyspace.clock() {
            keyspace.delete(key);
        } else {
            keyspace.set_expiry(key, Some(until));
            keyspace.notify("expire", key);
        }
    } else if stays && keyspace.expires_at(key).is_some() {
        keyspace.set_expiry(key, None);
        keyspace.notify("persist", key);
    }
    Ok(Outcome::string(value))
}

/// Runs `MSETNX key value [key value ...]`: sets several keys if none of them exists.
#[allow(clippy::unnecessary_wraps, reason = "the signature of all commands")]
fn msetnx(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (pairs, []) = args.rest(0).as_chunks::<2>() else {
        return Ok(Outcome::wrong_number("msetnx"));
    };
    if pairs.iter().any(|[key, _]| keyspace.entry(key).is_some()) {
        return Ok(Outcome::flag(false));
    }
    for [key, value] in pairs {
        keyspace.put(key, value);
        keyspace.notify("set", key);
    }
    Ok(Outcome::flag(true))
}

/// Runs `SETRANGE key offset value`: overwrites a part of a string, and returns the new length of
/// the string. Before it replicates the command, the server adds an argument: the maximum permitted
/// length of a string.
fn setrange(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, from, value) = (args.get(0)?, args.integer(1)?, args.get(2)?);
    let Ok(from) = usize::try_from(from) else {
        return Ok(Outcome::error("ERR offset is out of range"));
    };
    let old = keyspace.string(key)?.map_or(0, StringRef::len);
    if value.is_empty() {
        return Ok(Outcome::count(old));
    }
    let until = from.saturating_add(value.len());
    if until > args.value_bytes_max(3) {
        return Err(Refusal::TooLong);
    }
    keyspace.edit_string(key, until, |string| {
        string.write(from, value);
        ((), true)
    })?;
    keyspace.notify("setrange", key);
    Ok(Outcome::count(until.max(old)))
}

/// Runs `GETRANGE key start end` and its old name `SUBSTR`: returns a part of a string.
fn getrange(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let (first, last) = (args.integer(1)?, args.integer(2)?);
    let value = keyspace.shared_string(args.get(0)?)?;
    let part = value.and_then(|value| Some(value.part(range(first, last, value.len())?)));
    Ok(part.map_or_else(|| Outcome::Value(Some(Bytes::new())), |part| Outcome::string(Some(part))))
}

/// Converts the first and the last index (inclusive) of a part of a string to a range of byte
/// offsets; `None` if the range is empty. A negative index counts from the end of the string, which
/// has `length` bytes: -1 is the last byte.
pub(in crate::kv) fn range(first: i64, last: i64, length: usize) -> Option<Range<usize>> {
    if first < 0 && last < 0 && first > last {
        return None;
    }
    let length = i64::try_from(length).ok()?;
    let place = |at: i64| if at < 0 { (length + at).max(0) } else { at };
    let (first, last) = (place(first), place(last).min(length - 1));
    (first <= last).then(|| Some(usize::try_from(first).ok()?..usize::try_from(last).ok()? + 1))?
}

/// Runs `INCRBYFLOAT key increment`: adds `increment` to the floating-point number at a key.
fn incrbyfloat(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (key, increment) = (args.get(0)?, args.get(1)?);
    let parse = |text: &[u8]| Extended::parse(text);
    let old =
        keyspace.string(key)?.map(|old| old.short().and_then(parse).ok_or(Refusal::NotAFloat));
    let old = old.transpose()?;
    let increment = parse(increment).ok_or(Refusal::NotAFloat)?;
    let sum = old.map_or(increment, |old| old + increment);
    if sum.is_infinite() {
        return Err(Refusal::NotFinite);
    }
    let sum = sum.to_string();
    keyspace.put_keep_ttl(key, sum.as_bytes());
    keyspace.notify("incrbyfloat", key);
    Ok(Outcome::Value(Some(Bytes::from(sum))))
}

/// Runs `DELEX key [IFEQ text | IFNE text]`, a command of Redis 8.4: removes a key if its value is
/// equal to `text` (`IFEQ`) or differs from it (`IFNE`).
fn delex(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let (equal, text) = match *args.rest(1) {
        [] => return Ok(Outcome::flag(keyspace.delete(key))),
        [condition, text] if condition.eq_ignore_ascii_case(b"IFEQ") => (true, text),
        [condition, text] if condition.eq_ignore_ascii_case(b"IFNE") => (false, text),
        [_, _] => return Ok(Outcome::error("ERR Invalid condition. Use IFEQ or IFNE")),
        _ => return Ok(Outcome::wrong_number("delex")),
    };
    let goes = keyspace.string(key)?.is_some_and(|old| (old == *text) == equal);
    if goes {
        keyspace.delete(key);
    }
    Ok(Outcome::flag(goes))
}

/// Returns the expiration time, in milliseconds since 1970, that an option specifies. `unit` is the
/// name of the option, such as `EX`, and `number` is its argument. Returns `None` if the argument
/// is not positive or too large.
pub(in crate::kv) fn expiration_of(keyspace: &Keyspace, number: i64, unit: &str) -> Option<Millis> {
    let (unit, from) = match unit {
        "EX" => (Unit::Seconds, From::Now),
        "PX" => (Unit::Millis, From::Now),
        "EXAT" => (Unit::Seconds, From::Epoch),
        _ => (Unit::Millis, From::Epoch),
    };
    let end = moment(keyspace, number, unit, from).filter(|_| number > 0)?;
    Millis::try_from(end).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;
    use crate::kv::values::long_string::{CHUNK_BYTES, LongString, touched};
    use crate::kv::values::string::LongValue;
    use crate::types::{EntryId, Term};

    fn value(text: &'static str) -> Outcome {
        Outcome::Value(Some(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn set_with_revision_returns_the_new_revision_of_the_key() {
        let mut feeder = Feeder::new();
        let set = |feeder: &mut Feeder, options: &[&str]| {
            feeder.call("set", &[&["k", "v"], options].concat())
        };
        let revision = |feeder: &mut Feeder| feeder.call("object|revision", &["k"]);
        assert_eq!(revision(&mut feeder), Outcome::Value(None));
        assert_eq!(set(&mut feeder, &["NX", "REVISION"]), Outcome::Integer(2));
        assert_eq!(set(&mut feeder, &["NX", "REVISION"]), Outcome::Unchanged);
        assert_eq!(revision(&mut feeder), Outcome::Integer(2));
        assert_eq!(set(&mut feeder, &["revision", "PXAT", "9"]), Outcome::Integer(5));
        feeder.call("del", &["k"]);
        assert_eq!(set(&mut feeder, &["NX", "REVISION"]), Outcome::Integer(7));
        let syntax = Outcome::Refused(Refusal::Syntax);
        assert_eq!(set(&mut feeder, &["GET", "REVISION"]), syntax);
        assert_eq!(set(&mut feeder, &["REVISION", "GET"]), syntax);
        assert_eq!(revision(&mut feeder.restored()), Outcome::Integer(7), "snapshots keep it");
    }

    #[test]
    fn set_obeys_nx_and_xx_and_returns_the_old_value_for_get() {
        let mut feeder = Feeder::new();
        for (args, outcome) in [
            (&["k", "1", "XX"][..], Outcome::Unchanged),
            (&["k", "1", "XX", "GET"], Outcome::Value(None)),
            (&["k", "1", "NX"], Outcome::Done),
            (&["k", "2", "NX"], Outcome::Unchanged),
            (&["k", "2", "GET", "NX"], value("1")),
            (&["k", "3", "XX", "GET"], value("1")),
            (&["k", "4", "GET"], value("3")),
        ] {
            assert_eq!(feeder.call("set", args), outcome, "{args:?}");
        }
        assert_eq!(feeder.call("getset", &["k", "5"]), value("4"));
        assert_eq!(feeder.call("setnx", &["k", "6"]), Outcome::flag(false));
        assert_eq!(feeder.call("getdel", &["k"]), value("5"));
        assert_eq!(feeder.call("getdel", &["k"]), Outcome::Value(None));
        assert_eq!(feeder.call("setnx", &["k", "7"]), Outcome::flag(true));
        assert_eq!(feeder.call("set", &["k", "8", "NX", "GET"]), value("7"));
        assert_eq!(feeder.call("get", &["k"]), value("7"));
    }

    #[test]
    fn incr_and_decr_reject_overflow_and_non_integers() {
        let mut feeder = Feeder::new();
        let mut add = |amount: i64| feeder.call("incrby", &["n", &amount.to_string()]);
        assert_eq!(add(1), Outcome::Integer(1));
        assert_eq!(add(i64::MAX - 1), Outcome::Integer(i64::MAX));
        assert_eq!(add(1), Outcome::Refused(Refusal::Overflow));
        assert_eq!(add(i64::MIN), Outcome::Integer(-1));
        assert_eq!(add(i64::MIN), Outcome::Refused(Refusal::Overflow));
        assert_eq!(feeder.call("get", &["n"]), value("-1"));
        assert_eq!(feeder.call("incr", &["n"]), Outcome::Integer(0));
        assert_eq!(feeder.call("decrby", &["n", "-7"]), Outcome::Integer(7));
        let refused = feeder.call("decrby", &["n", &i64::MIN.to_string()]);
        assert_eq!(refused, Outcome::error("ERR decrement would overflow"));
        for text in ["", "1.5", " 1", "01", "9223372036854775808"] {
            feeder.call("set", &["text", text]);
            let refused = Outcome::Refused(Refusal::NotAnInteger);
            assert_eq!(feeder.call("decr", &["text"]), refused, "{text}");
            assert_eq!(feeder.call("incrby", &["n", text]), refused, "{text}");
        }
    }

    #[test]
    fn append_treats_a_missing_key_as_an_empty_string() {
        let mut feeder = Feeder::new();
        assert_eq!(feeder.call("strlen", &["k"]), Outcome::Integer(0));
        assert_eq!(feeder.call("append", &["k", ""]), Outcome::Integer(0));
        assert_eq!(feeder.call("append", &["k", "ab"]), Outcome::Integer(2));
        assert_eq!(feeder.call("append", &["k", "cd"]), Outcome::Integer(4));
        assert_eq!(feeder.call("get", &["k"]), value("abcd"));
        assert_eq!(feeder.call("strlen", &["k"]), Outcome::Integer(4));
    }

    #[test]
    fn mget_mset_and_exists_accept_missing_and_repeated_keys() {
        let mut feeder = Feeder::new();
        assert_eq!(feeder.call("mset", &["a", "1", "b", "2", "a", "3"]), Outcome::Done);
        assert_eq!(feeder.call("mset", &["a", "1", "b"]), Outcome::wrong_number("mset"));
        let keys = &["a", "x", "b", "a"];
        let one = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let values = vec![one("3"), None, one("2"), one("3")];
        assert_eq!(feeder.call("mget", keys), Outcome::Values(values));
        assert_eq!(feeder.call("exists", keys), Outcome::Integer(3));
        assert_eq!(feeder.call("dbsize", &[]), Outcome::Integer(2));
        let slot = crate::kv::slot_of(b"a").to_string();
        let in_slot = feeder.call("cluster|countkeysinslot", &[&slot]);
        assert_eq!(in_slot, Outcome::Integer(1));
        for (count, wanted) in [("5", vec![one("a")]), ("0", Vec::new())] {
            let found = feeder.call("cluster|getkeysinslot", &[&slot, count]);
            assert_eq!(found, Outcome::Values(wanted));
        }
        assert_eq!(feeder.call("del", keys), Outcome::Integer(2));
        assert_eq!(feeder.call("dbsize", &[]), Outcome::Integer(0));
    }

    #[test]
    fn modifying_a_long_string_costs_work_independent_of_length() {
        let mut feeder = Feeder::new();
        feeder.call_bytes("set", &[b"k", &vec![7; 16 << 20]]);
        let last = |feeder: &Feeder| EntryId { term: Term(1), index: feeder.store.applied_index() };
        touched::take();
        for command in [
            "setbit k 80000000 1",
            "setrange k 5000000 abc",
            "append k abc",
            "bitfield k set u13 70000001 99",
        ] {
            let args: Vec<&str> = command.split(' ').collect();
            feeder.call(args[0], &args[1..]);
            assert!((1..100).contains(&touched::take()), "{command}");
        }
        for command in [
            "pexpireat k 9000000000000",
            "pexpireat k 9000000000001",
            "persist k",
            "copy k other",
            "rename other third",
            "getrange k 5000000 9000000",
            "get k",
            "strlen k",
            "setbit k 80000000 1",
        ] {
            let args: Vec<&str> = command.split(' ').collect();
            feeder.call(args[0], &args[1..]);
            assert_eq!(touched::take(), 0, "{command}");
        }
        // The other key shares all chunks, and so does a view of the state.
        let at = last(&feeder);
        let view = feeder.store.view(at);
        feeder.call("setbit", &["k", "80000000", "0"]);
        assert!((CHUNK_BYTES..CHUNK_BYTES + 100).contains(&touched::take()), "one chunk is copied");
        feeder.call("setbit", &["k", "80000001", "1"]);
        assert!(touched::take() < 100, "the same chunk is not copied again");
        feeder.store.keyspace.check_sums();
        drop(view);
    }

    #[test]
    fn reply_shares_long_string_and_is_unaffected_by_later_writes() {
        let mut feeder = Feeder::new();
        let long = vec![7; 100_000];
        feeder.call_bytes("set", &[b"k", &long]);
        let value = feeder.call("get", &["k"]);
        assert_eq!(value.value_bytes(), long.len());
        let list = feeder.call("mget", &["k", "nothing", "k"]);
        feeder.call("setrange", &["k", "50000", "x"]);
        let same = Outcome::LongValue(LongValue::new(LongString::from(&long[..]), 0..long.len()));
        assert_eq!(value, same);
        assert_eq!(list, Outcome::List(vec![same.clone(), Outcome::Value(None), same.clone()]));
        assert_ne!(feeder.call("get", &["k"]), same);
        let mut encoded = Vec::new();
        same.encode(&mut encoded);
        let restored = Outcome::decode(&mut &encoded[..]);
        assert_eq!(restored, Some(Outcome::Value(Some(Bytes::from(long)))));
    }

    #[test]
    fn value_size_limit_applies_to_all_string_and_bit_commands() {
        let mut feeder = Feeder::new();
        let limit = 1_000_u64.to_le_bytes();
        let mut call = |command: &str| {
            let mut args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
            let name = std::str::from_utf8(args.remove(0)).unwrap();
            args.push(&limit);
            feeder.call_bytes(name, &args)
        };
        let too_long = Outcome::Refused(Refusal::TooLong);
        let no_offset = crate::kv::commands::bitmaps::not_an_offset();
        assert_eq!(call("setrange k 1000 x"), too_long);
        assert_eq!(call("setrange k 999 x"), Outcome::Integer(1_000));
        assert_eq!(call("append k x"), too_long);
        assert_eq!(call("append other x"), Outcome::Integer(1));
        assert_eq!(call("setbit k 8000 1"), no_offset);
        assert_eq!(call("getbit k 8000"), no_offset);
        assert_eq!(call("getbit k 7999"), Outcome::Integer(0));
        assert_eq!(call("bitfield k set u8 8000 1"), no_offset);
        assert_eq!(call("bitfield_ro k get u8 #1000"), no_offset);
        assert_eq!(call("bitfield k set u8 #999 1"), Outcome::List(vec![Outcome::Integer(120)]));
        // Without an appended limit, the maximum length applies.
        assert_eq!(feeder.call("setrange", &["k", "1000", "x"]), Outcome::Integer(1_001));
        let refused = feeder.call("setrange", &["k", "536870912", "x"]);
        assert_eq!(refused, too_long);
    }

    #[test]
    fn digest_after_flushall_equals_that_of_an_empty_store() {
        let (mut cleared, mut empty) = (Feeder::new(), Feeder::new());
        cleared.call("set", &["k", "v"]);
        assert_eq!(cleared.call("flushall", &["async"]), Outcome::Done);
        let refused = cleared.call("flushall", &["now"]);
        assert_eq!(refused, Outcome::Refused(Refusal::Syntax));
        (0..3).for_each(|_| drop(empty.call("flushall", &[])));
        assert_eq!(cleared.store.digest(), empty.store.digest());
        assert_eq!(cleared.store.key_count(), 0);
    }
}
