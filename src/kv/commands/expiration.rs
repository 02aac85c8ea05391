//! Commands on the expiration of keys. They use the replicated clock, which only log entries
//! advance. So a key expires at the same log entry on every replica, and an expired key never comes
//! back, whatever the wall clocks of machines show.

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{Answer, ONE_KEY, Row, read, write};
use crate::kv::keyspace::Keyspace;
use crate::kv::keyspace::clock::Millis;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::values::number::parse_integer;

/// The expiration commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(32, "expire", ONE_KEY, expire),
    write(33, "pexpire", ONE_KEY, pexpire),
    write(34, "expireat", ONE_KEY, expireat),
    write(35, "pexpireat", ONE_KEY, pexpireat),
    write(36, "persist", ONE_KEY, persist),
    read(37, "ttl", ONE_KEY, ttl),
    read(38, "pttl", ONE_KEY, pttl),
    read(39, "expiretime", ONE_KEY, expiretime),
    read(40, "pexpiretime", ONE_KEY, pexpiretime),
];

/// Unit of an expiration argument: seconds or milliseconds.
#[derive(Debug, Clone, Copy)]
pub(in crate::kv) enum Unit {
    Seconds,
    Millis,
}

/// The point in time from which an expiration argument is counted: the current time or 1970.
#[derive(Debug, Clone, Copy)]
pub(in crate::kv) enum From {
    /// The expiration argument is a TTL, counted from the current time of the replicated clock, as
    /// in `EXPIRE`.
    Now,
    /// The expiration argument is a Unix time, counted from the start of 1970, as in `EXPIREAT`.
    Epoch,
}

/// Converts an expiration argument `number` to milliseconds since 1970, which may be negative.
/// `unit` is the argument's unit, and `from` the point in time from which it is counted. `None` on
/// overflow.
pub(in crate::kv) fn moment(
    keyspace: &Keyspace,
    number: i64,
    unit: Unit,
    from: From,
) -> Option<i64> {
    let millis = match unit {
        Unit::Seconds => number.checked_mul(1_000)?,
        Unit::Millis => number,
    };
    match from {
        From::Now => millis.checked_add(i64::try_from(keyspace.clock()).ok()?),
        From::Epoch => Some(millis),
    }
}

/// Returns the error reply of `command` for an expiration time that is out of range or not
/// positive.
pub(in crate::kv) fn invalid(command: &str) -> Outcome {
    Outcome::error(format!("ERR invalid expire time in '{command}' command"))
}

/// Runs `EXPIRE key seconds [NX | XX | GT | LT]`: sets the TTL of a key.
fn expire(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    set_expiry(keyspace, args, "expire", Unit::Seconds, From::Now)
}

/// Runs `PEXPIRE key milliseconds [NX | XX | GT | LT]`: sets the TTL of a key.
fn pexpire(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    set_expiry(keyspace, args, "pexpire", Unit::Millis, From::Now)
}

/// Runs `EXPIREAT key seconds-since-1970 [NX | XX | GT | LT]`: sets the expiration time of a key.
fn expireat(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    set_expiry(keyspace, args, "expireat", Unit::Seconds, From::Epoch)
}

/// Runs `PEXPIREAT key milliseconds-since-1970 [NX | XX | GT | LT]`: sets the expiration time of a
/// key.
fn pexpireat(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    set_expiry(keyspace, args, "pexpireat", Unit::Millis, From::Epoch)
}

/// The options of `EXPIRE` and its variants, which are conditions under which the expiration time
/// is changed.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option, and most can be combined")]
struct Conditions {
    /// `NX`: sets the expiration time only if the key has none.
    if_none: bool,
    /// `XX`: sets the expiration time only if the key already has one.
    if_some: bool,
    /// `GT`: sets the expiration time only if the key has an earlier one.
    later: bool,
    /// `LT`: sets the expiration time only if the key has a later one or none.
    earlier: bool,
}

impl Conditions {
    /// Parses the options `NX`, `XX`, `GT` and `LT` of `EXPIRE`. Returns Redis's error for an
    /// unknown option or for options that exclude each other.
    fn read(args: &[&[u8]]) -> Result<Conditions, Outcome> {
        let mut conditions = Conditions::default();
        for word in args {
            let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
            if is("NX") {
                conditions.if_none = true;
            } else if is("XX") {
                conditions.if_some = true;
            } else if is("GT") {
                conditions.later = true;
            } else if is("LT") {
                conditions.earlier = true;
            } else {
                return Err(Outcome::error_quoting("ERR Unsupported option ", word));
            }
        }
        let Conditions { if_none, if_some, later, earlier } = conditions;
        if if_none && (if_some || later || earlier) {
            return Err(Outcome::error(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if later && earlier {
            return Err(Outcome::error(
                "ERR GT and LT options at the same time are not compatible",
            ));
        }
        Ok(conditions)
    }

    fn hold(&self, before: Option<Millis>, end: i64) -> bool {
        let end = Millis::try_from(end).unwrap_or(0);
        !(self.if_none && before.is_some()
            || self.if_some && before.is_none()
            || self.later && before.is_none_or(|before| end <= before)
            || self.earlier && before.is_some_and(|before| end >= before))
    }
}

fn set_expiry(
    keyspace: &mut Keyspace,
    args: &Args<'_>,
    command: &str,
    unit: Unit,
    from: From,
) -> Answer {
    let (key, number) = (args.get(0)?, args.get(1)?);
    let conditions = match Conditions::read(args.rest(2)) {
        Ok(conditions) => conditions,
        Err(outcome) => return Ok(outcome),
    };
    let number = parse_integer(number).ok_or(Refusal::NotAnInteger)?;
    let Some(end) = moment(keyspace, number, unit, from) else { return Ok(invalid(command)) };
    if keyspace.entry(key).is_none() || !conditions.hold(keyspace.expires_at(key), end) {
        return Ok(Outcome::Integer(0));
    }
    match Millis::try_from(end) {
        Ok(end) if end > keyspace.clock() => {
            keyspace.set_expiry(key, Some(end));
            keyspace.notify("expire", key);
        }
        // The time has passed.
        _ => {
            keyspace.delete(key);
        }
    }
    Ok(Outcome::Integer(1))
}

/// Runs `PERSIST key`: removes the expiration time of a key.
fn persist(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let ends = keyspace.expires_at(key).is_some();
    if ends {
        keyspace.set_expiry(key, None);
        keyspace.notify("persist", key);
    }
    Ok(Outcome::flag(ends))
}

/// Runs `TTL key`: returns the remaining TTL in seconds. Before it submits the command, the server
/// adds an argument: the current reading of the replicated clock, because the state machine's own
/// reading may be older.
fn ttl(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    left(keyspace, args, |millis| (millis + 500) / 1_000)
}

/// Runs `PTTL key`: returns the remaining TTL in milliseconds. Before it submits the command, the
/// server adds an argument: the current reading of the replicated clock, because the state
/// machine's own reading may be older.
fn pttl(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    left(keyspace, args, |millis| millis)
}

/// Runs `EXPIRETIME key`: returns the expiration time of a key, as Unix time in seconds.
fn expiretime(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(end(keyspace, args.get(0)?, |end| (end + 500) / 1_000))
}

/// Runs `PEXPIRETIME key`: returns the expiration time of a key, as Unix time in milliseconds.
fn pexpiretime(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    Ok(end(keyspace, args.get(0)?, |end| end))
}

/// Returns the remaining TTL of a key, converted from milliseconds by `round`; -1 if the key does
/// not expire, -2 if it does not exist. The server adds the second argument, a reading of the
/// replicated clock, before it submits the command.
fn left(keyspace: &Keyspace, args: &Args<'_>, round: fn(Millis) -> Millis) -> Answer {
    let now = time_of_read(keyspace, args.get(1)?);
    Ok(end(keyspace, args.get(0)?, |end| round(end.saturating_sub(now).max(1))))
}

/// Returns the time, in milliseconds since 1970, by which a read computes durations. `reading`
/// contains the current reading of the replicated clock on the server that received the command,
/// and the number of times that the clock has been reset (8 bytes each, little endian). The time is
/// this reading, or the state machine's own reading if that is later or the numbers of resets
/// differ.
pub(in crate::kv) fn time_of_read(keyspace: &Keyspace, reading: &[u8]) -> Millis {
    let reading = reading.split_first_chunk::<8>();
    let (millis, resets) =
        reading.map_or((0, &[][..]), |(it, rest)| (Millis::from_le_bytes(*it), rest));
    let resets = resets.try_into().map_or(0, u64::from_le_bytes);
    if resets == keyspace.replicated_clock().resets {
        keyspace.clock().max(millis)
    } else {
        keyspace.clock()
    }
}

fn end(keyspace: &Keyspace, key: &[u8], round: impl FnOnce(Millis) -> Millis) -> Outcome {
    Outcome::Integer(match keyspace.entry(key).map(KeyEntry::expires_at) {
        None => -2,
        Some(None) => -1,
        Some(Some(end)) => i64::try_from(round(end)).unwrap_or(i64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Operation;
    use crate::kv::batch::Batch;
    use crate::kv::keyspace::expiration::{REMOVED_BY_CLOCK_MAX, REMOVED_MAX};
    use crate::kv::state_machine::tests::Feeder;

    fn at(feeder: &mut Feeder, millis: u64) {
        let resets = feeder.store.clock_resets();
        feeder.apply(Operation::Clock { millis, resets });
    }

    fn number(outcome: &Outcome) -> i64 {
        match outcome {
            Outcome::Integer(number) => *number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn expired_key_stays_expired_when_the_wall_clock_goes_back() {
        let mut feeder = Feeder::new();
        at(&mut feeder, 1_000);
        feeder.call("set", &["k", "v", "PX", "50"]);
        assert_eq!(feeder.store.next_expiry(), Some(1_050));
        at(&mut feeder, 1_049);
        assert_eq!(feeder.get(b"k").as_deref(), Some(&b"v"[..]));
        at(&mut feeder, 1_050);
        assert_eq!((feeder.get(b"k"), feeder.store.key_count()), (None, 0));
        assert_eq!(feeder.store.next_expiry(), None);
        // A leader's wall clock is hours behind.
        at(&mut feeder, 10);
        assert_eq!(feeder.get(b"k"), None);
        feeder.call("set", &["k", "w", "PX", "5"]);
        assert_eq!(feeder.store.next_expiry(), Some(1_055));
    }

    #[test]
    fn read_must_wait_if_replicated_clock_lags_a_due_expiration() {
        let mut feeder = Feeder::new();
        at(&mut feeder, 1_000);
        feeder.call("set", &["k", "v", "PX", "50"]);
        feeder.call("set", &["other", "v", "PX", "500"]);
        let behind = |feeder: &Feeder, operation, millis, resets| {
            let payload = Batch::one(crate::types::RequestKey::default(), &operation);
            let batch = Batch::decode(&payload).unwrap();
            feeder.store.is_behind(Some(&batch), millis, resets)
        };
        let get = |key| Operation::get(key);
        let dbsize = Operation::call(crate::kv::CommandId::of("dbsize"), []);
        assert!(!behind(&feeder, get(b"k"), 1_049, 0) && behind(&feeder, get(b"k"), 1_050, 0));
        assert!(
            !behind(&feeder, get(b"other"), 1_050, 0) && !behind(&feeder, get(b"no"), 1_050, 0)
        );
        assert!(behind(&feeder, dbsize, 1_050, 0));
        assert!(feeder.store.is_behind(None, 1_050, 0) && !feeder.store.is_behind(None, 1_049, 0));
        // This reading is from before the reset.
        assert!(!behind(&feeder, get(b"k"), 1_050, 1));
        at(&mut feeder, 1_050);
        assert!(!behind(&feeder, get(b"k"), 1_050, 0) && !behind(&feeder, dbsize, 1_060, 0));
    }

    #[test]
    fn replicated_clock_reset_keeps_remaining_ttls() {
        let mut feeder = Feeder::new();
        at(&mut feeder, 9_000_000);
        feeder.call("set", &["k", "v", "PX", "50"]);
        feeder.call("set", &["plain", "v"]);
        let before = feeder.store.digest();
        let reset =
            |feeder: &mut Feeder, millis| number(&feeder.apply(Operation::ResetClock { millis }));
        assert_eq!(reset(&mut feeder, 9_000_001), 0);
        assert_eq!(reset(&mut feeder, 1_000), 8_999_000);
        assert_ne!(feeder.store.digest(), before);
        assert_eq!((feeder.store.clock_resets(), feeder.store.next_expiry()), (1, Some(1_050)));
        // A leader that does not know of the reset yet proposes this clock reading, which has no
        // effect.
        feeder.apply(Operation::Clock { millis: 9_000_000, resets: 0 });
        assert_eq!(feeder.get(b"k").as_deref(), Some(&b"v"[..]));
        at(&mut feeder, 1_050);
        assert_eq!((feeder.get(b"k"), feeder.store.key_count()), (None, 1));
        let unknown = feeder.apply(Operation::ResetClock { millis: 0 });
        assert!(matches!(unknown, Outcome::Error(_)), "{unknown:?}");
    }

    #[test]
    fn expired_keys_are_hidden_at_once_and_deleted_in_batches() {
        let mut feeder = Feeder::new();
        let count = 2 * REMOVED_BY_CLOCK_MAX + REMOVED_MAX;
        for number in 0..count {
            feeder.call("set", &[&number.to_string(), "v", "PX", "5"]);
        }
        let before = feeder.store.digest();
        at(&mut feeder, 5);
        assert_eq!((feeder.get(b"0"), feeder.get(b"100")), (None, None));
        assert_eq!(feeder.store.key_count(), REMOVED_BY_CLOCK_MAX + REMOVED_MAX);
        // A wall clock that is behind brings no key back.
        at(&mut feeder, 1);
        assert_eq!((feeder.get(b"0"), feeder.get(b"2000")), (None, None));
        assert_eq!(feeder.store.key_count(), REMOVED_MAX);
        feeder.call("incr", &["n"]);
        assert_eq!((feeder.store.key_count(), feeder.store.expires_count()), (1, 0));
        assert_ne!(feeder.store.digest(), before);
    }

    #[test]
    fn modifying_a_value_keeps_the_ttl_and_overwriting_clears_it() {
        let mut feeder = Feeder::new();
        let left = |feeder: &mut Feeder| {
            let args = [&b"k"[..], &0_u64.to_le_bytes()];
            number(&feeder.call_bytes("pttl", &args))
        };
        feeder.call("set", &["k", "1", "PX", "70"]);
        feeder.call("incr", &["k"]);
        feeder.call("append", &["k", "0"]);
        assert_eq!((left(&mut feeder), feeder.store.expires_count()), (70, 1));
        feeder.call("set", &["k", "2", "KEEPTTL"]);
        assert_eq!(left(&mut feeder), 70);
        feeder.apply(Operation::set(b"k", b"3"));
        assert_eq!((left(&mut feeder), feeder.store.expires_count()), (-1, 0));
        feeder.call("pexpire", &["k", "9"]);
        assert_eq!(left(&mut feeder), 9);
        feeder.call("persist", &["k"]);
        assert_eq!(left(&mut feeder), -1);
        feeder.call("pexpireat", &["k", "0"]);
        assert_eq!((left(&mut feeder), feeder.store.key_count()), (-2, 0));
    }

    #[test]
    fn expire_options_behave_as_in_redis() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::set(b"k", b"v"));
        for (millis, condition, wanted) in [
            ("100", "XX", 0),
            ("100", "GT", 0),
            ("100", "LT", 1),
            ("90", "NX", 0),
            ("90", "GT", 0),
            ("110", "GT", 1),
            ("120", "LT", 0),
            ("120", "XX", 1),
        ] {
            let outcome = feeder.call("pexpire", &["k", millis, condition]);
            assert_eq!(number(&outcome), wanted, "{millis} {condition}");
        }
        assert_eq!(feeder.store.next_expiry(), Some(120));
        for args in [&["k", "1", "NX", "GT"][..], &["k", "1", "GT", "LT"], &["k", "1", "no"]] {
            assert!(matches!(feeder.call("pexpire", args), Outcome::Error(_)), "{args:?}");
        }
        let late = i64::MAX.to_string();
        assert_eq!(feeder.call("expire", &["k", &late]), invalid("expire"));
    }
}
