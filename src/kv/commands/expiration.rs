//! Expiration of keys. Time is the replicated clock, which only entries of the log move: so a key
//! expires at the same entry on every replica, and one that was seen to have expired never comes
//! back, whatever the clocks of machines say.

use crate::kv::command::{Command, Operation};
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::registry::{Answer, Row, Run};
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::keyspace::expiration::Millis;
use crate::kv::state_machine::StateMachine;
use crate::kv::values::number::parse_integer;

pub(in crate::kv) const COMMANDS: Row = &[
    ("expire", Run::Write(expire)),
    ("pexpire", Run::Write(pexpire)),
    ("expireat", Run::Write(expireat)),
    ("pexpireat", Run::Write(pexpireat)),
    ("persist", Run::Write(persist)),
    ("ttl", Run::Read(ttl)),
    ("pttl", Run::Read(pttl)),
    ("expiretime", Run::Read(expiretime)),
    ("pexpiretime", Run::Read(pexpiretime)),
];

/// Most keys that one entry removes because their time is over. A key whose time is over is not
/// there for anybody, removed or not.
const REMOVED_MAX: usize = 64;

impl StateMachine {
    /// When the next key ends, or did: in milliseconds since 1970. A leader moves the log's clock
    /// on when it is time.
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiry.first().map(|(end, _)| end)
    }

    /// How many keys end some day.
    pub fn expires_count(&self) -> usize {
        self.expiry.len()
    }

    /// What a leader has to know of the replicated clock.
    pub fn shown(&self) -> (u64, u64, Option<u64>) {
        (self.clock, self.clock_resets, self.next_expiry())
    }

    /// How often the replicated clock was reset.
    pub fn clock_resets(&self) -> u64 {
        self.clock_resets
    }

    /// Whether the state is too old for a read that came when the replicated clock was at `millis`
    /// and had been reset `resets` times: a key that it may look at had expired by then, and is
    /// still there by the clock of the state. `None` stands for a read by another replica.
    pub fn is_behind(&self, command: Option<&Command<'_>>, millis: u64, resets: u64) -> bool {
        if self.clock >= millis
            || self.clock_resets != resets
            || self.expiry.first_after(self.clock).is_none_or(|first| first > millis)
        {
            return false;
        }
        let is_over = |key: &[u8]| self.expires_at(key).is_some_and(|end| end <= millis);
        match command.map(|command| &command.operation) {
            Some(Operation::Get { key } | Operation::Length { key }) => is_over(key),
            Some(Operation::GetMany { keys } | Operation::Exists { keys }) => {
                keys.iter().any(is_over)
            }
            _ => true,
        }
    }

    /// The replicated clock moves forward; never back.
    pub(in crate::kv) fn move_clock(&mut self, millis: Millis) {
        self.clock = self.clock.max(millis);
    }

    /// Sets the replicated clock back to the agreed time, if it is ahead of that, and each
    /// expiration by as much: what was to live for an hour still lives for an hour. An expiration
    /// that was given as a date comes as much too early then; while the clock was ahead, dates
    /// were not what they seemed.
    pub(in crate::kv) fn reset_clock(&mut self, millis: Millis) -> Outcome {
        if millis == 0 {
            return Outcome::error("ERR the wall clocks of a quorum are not known; try again");
        }
        let back = self.clock.saturating_sub(millis);
        if back == 0 {
            return Outcome::Integer(0);
        }
        for (end, number) in self.expiry.ends.clone() {
            self.move_expiration(number, end, end.saturating_sub(back).max(1));
        }
        self.clock = millis;
        self.clock_resets += 1;
        Outcome::Integer(i64::try_from(back).unwrap_or(i64::MAX))
    }

    /// Removes keys whose time is over, some at a time.
    pub(in crate::kv) fn remove_expired(&mut self) {
        for _ in 0..REMOVED_MAX {
            let Some((end, number)) = self.expiry.first().filter(|(end, _)| *end <= self.clock)
            else {
                return;
            };
            let key = self.take_expired(number, end);
            self.note("expired", &key);
        }
    }
}

/// How a moment is said.
#[derive(Debug, Clone, Copy)]
pub(in crate::kv) enum Unit {
    Seconds,
    Millis,
}

/// From when it counts.
#[derive(Debug, Clone, Copy)]
pub(in crate::kv) enum From {
    /// From now, by the log's clock.
    Now,
    /// From 1970.
    Epoch,
}

/// The moment that `number` says; `None` if no clock will show it.
pub(in crate::kv) fn moment(
    store: &StateMachine,
    number: i64,
    unit: Unit,
    from: From,
) -> Option<i64> {
    let millis = match unit {
        Unit::Seconds => number.checked_mul(1_000)?,
        Unit::Millis => number,
    };
    match from {
        From::Now => millis.checked_add(i64::try_from(store.clock()).ok()?),
        From::Epoch => Some(millis),
    }
}

/// What a client hears of a moment that can't be.
pub(in crate::kv) fn invalid(command: &str) -> Outcome {
    Outcome::error(format!("ERR invalid expire time in '{command}' command"))
}

/// `EXPIRE key seconds [NX | XX | GT | LT]`
fn expire(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    set_expiry(store, words, "expire", Unit::Seconds, From::Now)
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`
fn pexpire(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    set_expiry(store, words, "pexpire", Unit::Millis, From::Now)
}

/// `EXPIREAT key seconds-since-1970 [NX | XX | GT | LT]`
fn expireat(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    set_expiry(store, words, "expireat", Unit::Seconds, From::Epoch)
}

/// `PEXPIREAT key milliseconds-since-1970 [NX | XX | GT | LT]`
fn pexpireat(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    set_expiry(store, words, "pexpireat", Unit::Millis, From::Epoch)
}

/// Under which conditions a key's end is moved.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a word of its own, and most go together")]
struct Conditions {
    /// Only if it does not end.
    if_none: bool,
    /// Only if it does.
    if_some: bool,
    /// Only to later; a key that does not end ends later than any.
    later: bool,
    /// Only to earlier.
    earlier: bool,
}

impl Conditions {
    /// Reads them, in Redis's words for what is none.
    fn read(words: &[&[u8]]) -> Result<Conditions, Outcome> {
        let mut conditions = Conditions::default();
        for word in words {
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
    store: &mut StateMachine,
    words: &Args<'_>,
    command: &str,
    unit: Unit,
    from: From,
) -> Answer {
    let (key, number) = (words.get(0)?, words.get(1)?);
    let conditions = match Conditions::read(words.rest(2)) {
        Ok(conditions) => conditions,
        Err(outcome) => return Ok(outcome),
    };
    let number = parse_integer(number).ok_or(Refusal::NotAnInteger)?;
    let Some(end) = moment(store, number, unit, from) else { return Ok(invalid(command)) };
    if store.pair(key).is_none() || !conditions.hold(store.expires_at(key), end) {
        return Ok(Outcome::Integer(0));
    }
    match Millis::try_from(end) {
        Ok(end) if end > store.clock() => {
            store.set_expiry(key, Some(end));
            store.note("expire", key);
        }
        // It is over already.
        _ => {
            store.delete(key);
        }
    }
    Ok(Outcome::Integer(1))
}

/// `PERSIST key`
fn persist(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let key = words.get(0)?;
    let ends = store.expires_at(key).is_some();
    if ends {
        store.set_expiry(key, None);
        store.note("persist", key);
    }
    Ok(Outcome::flag(ends))
}

/// `TTL key`; the last argument is the replicated clock as the door knows it.
fn ttl(store: &StateMachine, words: &Args<'_>) -> Answer {
    left(store, words, |millis| (millis + 500) / 1_000)
}

/// `PTTL key`; the last argument is the replicated clock as the door knows it.
fn pttl(store: &StateMachine, words: &Args<'_>) -> Answer {
    left(store, words, |millis| millis)
}

/// `EXPIRETIME key`
fn expiretime(store: &StateMachine, words: &Args<'_>) -> Answer {
    Ok(end(store, words.get(0)?, |end| (end + 500) / 1_000))
}

/// `PEXPIRETIME key`
fn pexpiretime(store: &StateMachine, words: &Args<'_>) -> Answer {
    Ok(end(store, words.get(0)?, |end| end))
}

/// The remaining TTL of a key. The clock in the state stands still while no entry moves it, so the
/// network stage passes the current reading of the replicated clock with the command, and how often
/// that had been reset: a reading from before a reset does not count. Whether the key exists
/// depends on the state's clock alone.
fn left(store: &StateMachine, words: &Args<'_>, tell: fn(Millis) -> Millis) -> Answer {
    let told = words.get(1)?.split_first_chunk::<8>();
    let (millis, resets) =
        told.map_or((0, &[][..]), |(it, rest)| (Millis::from_le_bytes(*it), rest));
    let resets = resets.try_into().map_or(0, u64::from_le_bytes);
    let now =
        if resets == store.clock_resets() { store.clock().max(millis) } else { store.clock() };
    Ok(end(store, words.get(0)?, |end| tell(end.saturating_sub(now).max(1))))
}

fn end(store: &StateMachine, key: &[u8], tell: impl FnOnce(Millis) -> Millis) -> Outcome {
    Outcome::Integer(match store.pair(key).map(KeyEntry::expires_at) {
        None => -2,
        Some(None) => -1,
        Some(Some(end)) => i64::try_from(tell(end)).unwrap_or(i64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Operation;
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
    fn a_key_ends_by_the_logs_clock_and_stays_ended_when_a_clock_is_behind() {
        let mut feeder = Feeder::new();
        at(&mut feeder, 1_000);
        feeder.call("set", &["k", "v", "PX", "50"]);
        assert_eq!(feeder.store.next_expiry(), Some(1_050));
        at(&mut feeder, 1_049);
        assert_eq!(feeder.get(b"k").as_deref(), Some(&b"v"[..]));
        at(&mut feeder, 1_050);
        assert_eq!((feeder.get(b"k"), feeder.store.key_count()), (None, 0));
        assert_eq!(feeder.store.next_expiry(), None);
        // A leader whose clock is hours behind.
        at(&mut feeder, 10);
        assert_eq!(feeder.get(b"k"), None);
        feeder.call("set", &["k", "w", "PX", "5"]);
        assert_eq!(feeder.store.next_expiry(), Some(1_055));
    }

    #[test]
    fn a_read_waits_for_a_clock_that_has_passed_an_expiration() {
        let mut feeder = Feeder::new();
        at(&mut feeder, 1_000);
        feeder.call("set", &["k", "v", "PX", "50"]);
        feeder.call("set", &["other", "v", "PX", "500"]);
        let behind = |feeder: &Feeder, operation, millis, resets| {
            let command = Command { key: crate::types::RequestKey::default(), operation };
            feeder.store.is_behind(Some(&command), millis, resets)
        };
        let get = |key| Operation::Get { key };
        assert!(!behind(&feeder, get(b"k"), 1_049, 0) && behind(&feeder, get(b"k"), 1_050, 0));
        assert!(
            !behind(&feeder, get(b"other"), 1_050, 0) && !behind(&feeder, get(b"no"), 1_050, 0)
        );
        assert!(behind(&feeder, Operation::Count, 1_050, 0));
        assert!(feeder.store.is_behind(None, 1_050, 0) && !feeder.store.is_behind(None, 1_049, 0));
        // Of before a reset.
        assert!(!behind(&feeder, get(b"k"), 1_050, 1));
        at(&mut feeder, 1_050);
        assert!(
            !behind(&feeder, get(b"k"), 1_050, 0) && !behind(&feeder, Operation::Count, 1_060, 0)
        );
    }

    #[test]
    fn a_reset_keeps_the_time_that_keys_have_left() {
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
        // An entry of a leader that did not know of it changes nothing.
        feeder.apply(Operation::Clock { millis: 9_000_000, resets: 0 });
        assert_eq!(feeder.get(b"k").as_deref(), Some(&b"v"[..]));
        at(&mut feeder, 1_050);
        assert_eq!((feeder.get(b"k"), feeder.store.key_count()), (None, 1));
        let unknown = feeder.apply(Operation::ResetClock { millis: 0 });
        assert!(matches!(unknown, Outcome::Error(_)), "{unknown:?}");
    }

    #[test]
    fn many_that_end_at_once_are_gone_at_once_and_removed_in_turn() {
        let mut feeder = Feeder::new();
        for number in 0..3 * REMOVED_MAX {
            feeder.call("set", &[&number.to_string(), "v", "PX", "5"]);
        }
        let before = feeder.store.digest();
        at(&mut feeder, 5);
        assert_eq!((feeder.get(b"0"), feeder.get(b"100")), (None, None));
        assert_eq!(feeder.store.key_count(), 2 * REMOVED_MAX);
        // A clock that is behind brings none of them back.
        at(&mut feeder, 1);
        assert_eq!((feeder.get(b"0"), feeder.get(b"150")), (None, None));
        assert_eq!(feeder.store.key_count(), REMOVED_MAX);
        at(&mut feeder, 5);
        assert_eq!((feeder.store.key_count(), feeder.store.expires_count()), (0, 0));
        assert_ne!(feeder.store.digest(), before);
    }

    #[test]
    fn what_touches_a_key_keeps_its_end_and_what_sets_it_does_not() {
        let mut feeder = Feeder::new();
        let left = |feeder: &mut Feeder| {
            let words = [&b"k"[..], &0_u64.to_le_bytes()];
            number(&feeder.call_bytes("pttl", &words))
        };
        feeder.call("set", &["k", "1", "PX", "70"]);
        feeder.apply(Operation::Add { key: b"k", amount: 1 });
        feeder.apply(Operation::Append { key: b"k", value: b"0" });
        assert_eq!((left(&mut feeder), feeder.store.expires_count()), (70, 1));
        feeder.call("set", &["k", "2", "KEEPTTL"]);
        assert_eq!(left(&mut feeder), 70);
        feeder.apply(Operation::Put { key: b"k", value: b"3" });
        assert_eq!((left(&mut feeder), feeder.store.expires_count()), (-1, 0));
        feeder.call("pexpire", &["k", "9"]);
        assert_eq!(left(&mut feeder), 9);
        feeder.call("persist", &["k"]);
        assert_eq!(left(&mut feeder), -1);
        feeder.call("pexpireat", &["k", "0"]);
        assert_eq!((left(&mut feeder), feeder.store.key_count()), (-2, 0));
    }

    #[test]
    fn conditions_on_an_end_are_those_of_redis() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::Put { key: b"k", value: b"v" });
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
        for words in [&["k", "1", "NX", "GT"][..], &["k", "1", "GT", "LT"], &["k", "1", "no"]] {
            assert!(matches!(feeder.call("pexpire", words), Outcome::Error(_)), "{words:?}");
        }
        let late = i64::MAX.to_string();
        assert_eq!(feeder.call("expire", &["k", &late]), invalid("expire"));
    }
}
