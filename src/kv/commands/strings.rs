//! What can be done with a value beyond setting it, as Redis does it with strings. Called by the
//! store when it applies an entry; like all of it, the same on every replica.

use std::ops::Range;

use bytes::Bytes;

use crate::kv::command::Condition;
use crate::kv::commands::args::Args;
use crate::kv::commands::expiration::{From, Unit, invalid, moment};
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::registry::{Answer, Row, Run};
use crate::kv::keyspace::expiration::Millis;
use crate::kv::state_machine::StateMachine;
use crate::kv::values::extended::Extended;
use crate::kv::values::number::parse_integer;

pub(in crate::kv) const COMMANDS: Row = &[
    ("set", Run::Write(set_with_options)),
    ("setex", Run::Write(setex)),
    ("psetex", Run::Write(psetex)),
    ("getex", Run::Write(getex)),
    ("msetnx", Run::Write(msetnx)),
    ("setrange", Run::Write(setrange)),
    ("getrange", Run::Read(getrange)),
    ("substr", Run::Read(getrange)),
    ("incrbyfloat", Run::Write(incrbyfloat)),
    ("delex", Run::Write(delex)),
];

/// Most bytes of a value. Redis's default for its longest string; part of the state machine, so
/// no replica may have another.
pub const VALUE_BYTES_MAX: usize = 512 << 20;

impl StateMachine {
    /// Sets a key under a condition.
    pub(in crate::kv) fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        condition: Condition,
        tell_old: bool,
    ) -> Outcome {
        let outcome = match self.shared_string(key) {
            Ok(old) if tell_old => Some(Outcome::Value(old)),
            Err(refusal) if tell_old => return Outcome::Refused(refusal),
            _ => None,
        };
        let is_there = self.pair(key).is_some();
        let sets = match condition {
            Condition::Always => true,
            Condition::IfAbsent => !is_there,
            Condition::IfPresent => is_there,
        };
        if sets {
            self.put(key, value);
            self.note("set", key);
        }
        outcome.unwrap_or(if sets { Outcome::Done } else { Outcome::Unchanged })
    }

    /// Makes a value longer.
    pub(in crate::kv) fn append(&mut self, key: &[u8], more: &[u8]) -> Outcome {
        let old = match self.string(key) {
            Ok(old) => old.map_or(0, <[u8]>::len),
            Err(refusal) => return Outcome::Refused(refusal),
        };
        // As in Redis, nothing is never too much.
        if old + more.len() > VALUE_BYTES_MAX && !more.is_empty() {
            return Outcome::Refused(Refusal::TooLong);
        }
        let length = self.extend(key, more);
        self.note("append", key);
        Outcome::count(length)
    }

    /// Adds to a number.
    pub(in crate::kv) fn add(&mut self, key: &[u8], amount: i64) -> Outcome {
        let old = match self.string(key) {
            Ok(None) => Some(0),
            Ok(Some(value)) => parse_integer(value),
            Err(refusal) => return Outcome::Refused(refusal),
        };
        let Some(old) = old else { return Outcome::Refused(Refusal::NotAnInteger) };
        let Some(sum) = old.checked_add(amount) else {
            return Outcome::Refused(Refusal::Overflow);
        };
        self.put_keep_ttl(key, sum.to_string().as_bytes());
        self.note("incrby", key);
        Outcome::Integer(sum)
    }
}

/// What becomes of a key's end when it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End<'w> {
    /// It has none.
    Never,
    /// It stays as it is.
    Kept,
    /// So much time, in that unit's word.
    At(&'static str, &'w [u8]),
}

impl<'w> End<'w> {
    /// Takes an option that says when a key ends, with the word behind it; false if it is none, or
    /// if another was said before. The same again is allowed, and the last counts.
    fn take(&mut self, option: &[u8], next: Option<&&'w [u8]>) -> bool {
        let is = |word: &str| option.eq_ignore_ascii_case(word.as_bytes());
        let Some((unit, number)) =
            ["EX", "PX", "EXAT", "PXAT"].into_iter().find(|unit| is(unit)).zip(next)
        else {
            return false;
        };
        let allowed = match *self {
            End::Never => true,
            End::Kept => false,
            End::At(said, _) => said == unit,
        };
        if allowed {
            *self = End::At(unit, number);
        }
        allowed
    }
}

/// `SET key value [NX | XX | IFEQ text | IFNE text] [GET] [EX seconds | PX milliseconds | EXAT
/// seconds | PXAT milliseconds | KEEPTTL]`. `IFEQ` and `IFNE` are of Redis 8.4.
fn set_with_options(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (key, value) = (words.get(0)?, words.get(1)?);
    let (mut condition, mut compare, mut tell_old) = (Condition::Always, None, false);
    let mut end = End::Never;
    let mut options = words.rest(2).iter();
    while let Some(option) = options.next() {
        let is = |word: &str| option.eq_ignore_ascii_case(word.as_bytes());
        let unconditional = condition == Condition::Always && compare.is_none();
        if is("NX") && (unconditional || condition == Condition::IfAbsent) {
            condition = Condition::IfAbsent;
        } else if is("XX") && (unconditional || condition == Condition::IfPresent) {
            condition = Condition::IfPresent;
        } else if (is("IFEQ") || is("IFNE")) && unconditional {
            compare = Some((is("IFEQ"), *options.next().ok_or(Refusal::Syntax)?));
        } else if is("GET") {
            tell_old = true;
        } else if is("KEEPTTL") && !matches!(end, End::At(..)) {
            end = End::Kept;
        } else if end.take(option, options.as_slice().first()) {
            options.next();
        } else {
            return Err(Refusal::Syntax);
        }
    }
    let until = match end {
        End::Never => None,
        End::Kept => store.expires_at(key),
        End::At(unit, number) => {
            let number = parse_integer(number).ok_or(Refusal::NotAnInteger)?;
            let Some(until) = until(store, number, unit) else { return Ok(invalid("set")) };
            Some(until)
        }
    };
    let old = match store.shared_string(key) {
        Err(refusal) if tell_old || compare.is_some() => return Err(refusal),
        old => old.ok(),
    };
    let is_there = store.pair(key).is_some();
    let sets = match (condition, compare) {
        (_, Some((equal, text))) => {
            let same = old.iter().flatten().any(|old| old == text);
            is_there && same == equal || !is_there && !equal
        }
        (Condition::Always, None) => true,
        (Condition::IfAbsent, None) => !is_there,
        (Condition::IfPresent, None) => is_there,
    };
    if sets {
        store.put_expiring(key, value, until);
        store.note("set", key);
        if matches!(end, End::At(..)) {
            store.note("expire", key);
        }
        // It may be over already: then nobody sees it, and it is gone with the next entry.
    }
    Ok(match (tell_old, sets) {
        (true, _) => Outcome::Value(old.flatten()),
        (false, true) => Outcome::Done,
        (false, false) => Outcome::Unchanged,
    })
}

/// `SETEX key seconds value`
fn setex(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    set_for(store, words, "setex", "EX")
}

/// `PSETEX key milliseconds value`
fn psetex(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    set_for(store, words, "psetex", "PX")
}

fn set_for(store: &mut StateMachine, words: &Args<'_>, command: &str, unit: &str) -> Answer {
    let (key, number, value) = (words.get(0)?, words.integer(1)?, words.get(2)?);
    let Some(until) = until(store, number, unit) else { return Ok(invalid(command)) };
    store.put_expiring(key, value, Some(until));
    store.note("set", key);
    store.note("expire", key);
    Ok(Outcome::Done)
}

/// `GETEX key [EX seconds | PX milliseconds | EXAT seconds | PXAT milliseconds | PERSIST]`
fn getex(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let key = words.get(0)?;
    let (mut end, mut stays) = (End::Kept, false);
    let mut options = words.rest(1).iter();
    while let Some(option) = options.next() {
        if option.eq_ignore_ascii_case(b"PERSIST") && end == End::Kept {
            stays = true;
            continue;
        }
        // What was said last, if anything.
        let mut said = if end == End::Kept { End::Never } else { end };
        if stays || !said.take(option, options.as_slice().first()) {
            return Err(Refusal::Syntax);
        }
        end = said;
        options.next();
    }
    let value = store.shared_string(key)?;
    if value.is_none() {
        return Ok(Outcome::Value(None));
    }
    if let End::At(unit, number) = end {
        let number = parse_integer(number).ok_or(Refusal::NotAnInteger)?;
        let Some(until) = until(store, number, unit) else { return Ok(invalid("getex")) };
        if until <= store.clock() {
            store.delete(key);
        } else {
            store.set_expiry(key, Some(until));
            store.note("expire", key);
        }
    } else if stays && store.expires_at(key).is_some() {
        store.set_expiry(key, None);
        store.note("persist", key);
    }
    Ok(Outcome::Value(value))
}

/// `MSETNX key value [key value ...]`
#[allow(clippy::unnecessary_wraps, reason = "as all verbs")]
fn msetnx(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (pairs, []) = words.rest(0).as_chunks::<2>() else {
        return Ok(Outcome::wrong_number("msetnx"));
    };
    if pairs.iter().any(|[key, _]| store.pair(key).is_some()) {
        return Ok(Outcome::flag(false));
    }
    for [key, value] in pairs {
        store.put(key, value);
        store.note("set", key);
    }
    Ok(Outcome::flag(true))
}

/// `SETRANGE key offset value`
fn setrange(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (key, from, value) = (words.get(0)?, words.integer(1)?, words.get(2)?);
    let Ok(from) = usize::try_from(from) else {
        return Ok(Outcome::error("ERR offset is out of range"));
    };
    let old = store.string(key)?.unwrap_or_default();
    if value.is_empty() {
        return Ok(Outcome::count(old.len()));
    }
    let until = from.saturating_add(value.len());
    if until > VALUE_BYTES_MAX {
        return Err(Refusal::TooLong);
    }
    let mut new = Vec::with_capacity(until.max(old.len()));
    new.extend_from_slice(old);
    new.resize(until.max(old.len()), 0);
    new[from..until].copy_from_slice(value);
    store.put_keep_ttl(key, &new);
    store.note("setrange", key);
    Ok(Outcome::count(new.len()))
}

/// `GETRANGE key start end` and `SUBSTR`, as it was once called.
fn getrange(store: &StateMachine, words: &Args<'_>) -> Answer {
    let (first, last) = (words.integer(1)?, words.integer(2)?);
    let value = store.shared_string(words.get(0)?)?.unwrap_or_default();
    let range = range(first, last, value.len());
    Ok(Outcome::Value(Some(range.map_or_else(Bytes::new, |range| value.slice(range)))))
}

/// Which of so many are meant by a first and a last, which count from the end if negative; `None`
/// if none is.
pub(in crate::kv) fn range(first: i64, last: i64, length: usize) -> Option<Range<usize>> {
    if first < 0 && last < 0 && first > last {
        return None;
    }
    let length = i64::try_from(length).ok()?;
    let place = |at: i64| if at < 0 { (length + at).max(0) } else { at };
    let (first, last) = (place(first), place(last).min(length - 1));
    (first <= last).then(|| Some(usize::try_from(first).ok()?..usize::try_from(last).ok()? + 1))?
}

/// `INCRBYFLOAT key increment`
fn incrbyfloat(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (key, increment) = (words.get(0)?, words.get(1)?);
    let parse = |text| Extended::parse(text).ok_or(Refusal::NotAFloat);
    let old = store.string(key)?.map(parse).transpose()?;
    let increment = parse(increment)?;
    let sum = old.map_or(increment, |old| old + increment);
    if sum.is_infinite() {
        return Err(Refusal::NotFinite);
    }
    let sum = sum.to_string();
    store.put_keep_ttl(key, sum.as_bytes());
    store.note("incrbyfloat", key);
    Ok(Outcome::Value(Some(Bytes::from(sum))))
}

/// `DELEX key [IFEQ text | IFNE text]`, of Redis 8.4.
fn delex(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let key = words.get(0)?;
    let (equal, text) = match *words.rest(1) {
        [] => return Ok(Outcome::flag(store.delete(key))),
        [condition, text] if condition.eq_ignore_ascii_case(b"IFEQ") => (true, text),
        [condition, text] if condition.eq_ignore_ascii_case(b"IFNE") => (false, text),
        [_, _] => return Ok(Outcome::error("ERR Invalid condition. Use IFEQ or IFNE")),
        _ => return Ok(Outcome::wrong_number("delex")),
    };
    let goes = store.string(key)?.is_some_and(|old| (old == text) == equal);
    if goes {
        store.delete(key);
    }
    Ok(Outcome::flag(goes))
}

/// A moment in the words of `SET`; `None` if it can't be one.
pub(in crate::kv) fn until(store: &StateMachine, number: i64, unit: &str) -> Option<Millis> {
    let (unit, from) = match unit {
        "EX" => (Unit::Seconds, From::Now),
        "PX" => (Unit::Millis, From::Now),
        "EXAT" => (Unit::Seconds, From::Epoch),
        _ => (Unit::Millis, From::Epoch),
    };
    let end = moment(store, number, unit, from).filter(|_| number > 0)?;
    Millis::try_from(end).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Command, ItemsBuffer, Operation};
    use crate::types::{ClientId, RequestId, RequestKey};

    /// Applies operations one after another, each under a name of its own.
    #[derive(Default)]
    struct Feeder(StateMachine);

    impl Feeder {
        fn apply(&mut self, operation: Operation<'_>) -> Outcome {
            let index = self.0.applied_index().next();
            let request = RequestId(u128::from(index.0).to_le_bytes());
            let key = RequestKey { client: ClientId(1), request };
            self.0.apply(index, &Command { key, operation }.encode()).outcome
        }

        fn set(&mut self, value: &[u8], condition: Condition, tell_old: bool) -> Outcome {
            self.apply(Operation::Set { key: b"k", value, condition, tell_old })
        }

        fn add(&mut self, amount: i64) -> Outcome {
            self.apply(Operation::Add { key: b"n", amount })
        }
    }

    fn value(text: &'static str) -> Outcome {
        Outcome::Value(Some(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn conditions_decide_and_the_old_value_is_told_either_way() {
        use Condition::{Always, IfAbsent, IfPresent};
        let mut feeder = Feeder::default();
        assert_eq!(feeder.set(b"1", IfPresent, false), Outcome::Unchanged);
        assert_eq!(feeder.set(b"1", IfPresent, true), Outcome::Value(None));
        assert_eq!(feeder.set(b"1", IfAbsent, false), Outcome::Done);
        assert_eq!(feeder.set(b"2", IfAbsent, false), Outcome::Unchanged);
        assert_eq!(feeder.set(b"2", IfAbsent, true), value("1"));
        assert_eq!(feeder.set(b"3", IfPresent, true), value("1"));
        assert_eq!(feeder.set(b"4", Always, true), value("3"));
        assert_eq!(feeder.apply(Operation::Take { key: b"k" }), value("4"));
        assert_eq!(feeder.apply(Operation::Take { key: b"k" }), Outcome::Value(None));
        assert_eq!(feeder.set(b"5", IfAbsent, true), Outcome::Value(None));
        assert_eq!(feeder.apply(Operation::Get { key: b"k" }), value("5"));
    }

    #[test]
    fn sums_stay_numbers_or_are_refused() {
        let mut feeder = Feeder::default();
        assert_eq!(feeder.add(1), Outcome::Integer(1));
        assert_eq!(feeder.add(i64::MAX - 1), Outcome::Integer(i64::MAX));
        assert_eq!(feeder.add(1), Outcome::Refused(Refusal::Overflow));
        assert_eq!(feeder.add(i64::MIN), Outcome::Integer(-1));
        assert_eq!(feeder.add(i64::MIN), Outcome::Refused(Refusal::Overflow));
        assert_eq!(feeder.apply(Operation::Get { key: b"n" }), value("-1"));
        for text in ["", "1.5", " 1", "01", "9223372036854775808"] {
            feeder.apply(Operation::Put { key: b"n", value: text.as_bytes() });
            assert_eq!(feeder.add(1), Outcome::Refused(Refusal::NotAnInteger), "{text}");
        }
    }

    #[test]
    fn appending_starts_from_nothing() {
        let mut feeder = Feeder::default();
        assert_eq!(feeder.apply(Operation::Length { key: b"k" }), Outcome::Integer(0));
        let append = |value| Operation::Append { key: b"k", value };
        assert_eq!(feeder.apply(append(b"")), Outcome::Integer(0));
        assert_eq!(feeder.apply(append(b"ab")), Outcome::Integer(2));
        assert_eq!(feeder.apply(append(b"cd")), Outcome::Integer(4));
        assert_eq!(feeder.apply(Operation::Get { key: b"k" }), value("abcd"));
        assert_eq!(feeder.apply(Operation::Length { key: b"k" }), Outcome::Integer(4));
    }

    #[test]
    fn many_keys_are_one_command() {
        let mut feeder = Feeder::default();
        let list = |items: &[&'static str]| -> ItemsBuffer {
            items.iter().map(|item| item.as_bytes()).collect()
        };
        let pairs = list(&["a", "1", "b", "2", "a", "3"]);
        assert_eq!(feeder.apply(Operation::PutMany { pairs: pairs.items() }), Outcome::Done);
        let keys = list(&["a", "x", "b", "a"]);
        let one = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let values = vec![one("3"), None, one("2"), one("3")];
        let keys = keys.items();
        assert_eq!(feeder.apply(Operation::GetMany { keys }), Outcome::Values(values));
        assert_eq!(feeder.apply(Operation::Exists { keys }), Outcome::Integer(3));
        assert_eq!(feeder.apply(Operation::Count), Outcome::Integer(2));
        let slot = crate::kv::slot_of(b"a");
        assert_eq!(feeder.apply(Operation::CountInSlot { slot }), Outcome::Integer(1));
        assert_eq!(feeder.apply(Operation::DeleteMany { keys }), Outcome::Integer(2));
        assert_eq!(feeder.apply(Operation::Count), Outcome::Integer(0));
    }

    #[test]
    fn clearing_leaves_nothing_in_the_digest() {
        let (mut cleared, mut empty) = (Feeder::default(), Feeder::default());
        cleared.apply(Operation::Put { key: b"k", value: b"v" });
        assert_eq!(cleared.apply(Operation::Clear), Outcome::Done);
        empty.apply(Operation::Clear);
        empty.apply(Operation::Clear);
        assert_eq!(cleared.0.digest(), empty.0.digest());
        assert_eq!(cleared.0.key_count(), 0);
    }
}
