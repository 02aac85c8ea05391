//! Commands on strings as arrays of integers of 1 to 64 bits: `BITFIELD`.

use crate::kv::commands::args::{Args, split_limit};
use crate::kv::commands::bitmaps::{bit_offset, not_an_offset};
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{Answer, ONE_KEY, Row, read, write};
use crate::kv::keyspace::Keyspace;
use crate::kv::values::number::parse_integer;
use crate::kv::values::string::{StringEdit, StringRef};

/// The bitfield commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] =
    &[write(104, "bitfield", ONE_KEY, bitfield), read(105, "bitfield_ro", ONE_KEY, bitfield_ro)];

/// Length in bytes of the number into which the bytes that contain a field (at most nine) are read.
const WORD_BYTES: usize = size_of::<i128>();

/// The `OVERFLOW` option of `BITFIELD`: what is stored if an integer does not fit into its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overflow {
    /// `OVERFLOW WRAP`: stores the lowest bits of the integer, as many as the field has.
    Wrap,
    /// `OVERFLOW SAT`: stores the largest or the smallest integer that fits into the field.
    Saturate,
    /// `OVERFLOW FAIL`: leaves the field unchanged and replies with null.
    Fail,
}

/// An integer field in a string, as used by `BITFIELD`: signed or unsigned, up to 64 bits wide, and
/// starting at any bit.
#[derive(Debug, Clone, Copy)]
struct Field {
    signed: bool,
    /// Width of the field in bits: 1 to 64 if signed, 1 to 63 if unsigned.
    bits: u32,
    offset: u64,
}

/// A subcommand of `BITFIELD`: `GET`, `SET` with the new value, or `INCRBY` with the increment.
/// `SET` and `INCRBY` include the `OVERFLOW` option that applies to them.
#[derive(Debug, Clone, Copy)]
enum Action {
    Get,
    Set(i64, Overflow),
    Increase(i64, Overflow),
}

impl Field {
    /// Parses a field of `BITFIELD` from its type, such as `i16`, and its offset. The offset is a
    /// number of bits, or `#` followed by a number that is multiplied by the field's width.
    fn read(kind: &[u8], offset: &[u8], value_bytes_max: usize) -> Result<Field, Outcome> {
        let (signed, bits) = match kind {
            [b'i', bits @ ..] => (true, bits),
            [b'u', bits @ ..] => (false, bits),
            _ => (false, &[][..]),
        };
        let bits = parse_integer(bits).and_then(|bits| u32::try_from(bits).ok());
        let bits = bits.filter(|bits| (1..=63 + u32::from(signed)).contains(bits));
        let Some(bits) = bits else {
            return Err(Outcome::error(
                "ERR Invalid bitfield type. Use something like i16 u8. \
                 Note that u64 is not supported but i64 is.",
            ));
        };
        let offset = match offset {
            [b'#', number @ ..] => {
                let number =
                    parse_integer(number).and_then(|number| number.checked_mul(bits.into()));
                let number = number.ok_or_else(not_an_offset)?.to_string();
                bit_offset(number.as_bytes(), value_bytes_max)?
            }
            offset => bit_offset(offset, value_bytes_max)?,
        };
        Ok(Field { signed, bits, offset })
    }

    /// Returns the index of the first byte that contains bits of the field, the number of such
    /// bytes, and the number of bits in these bytes that follow the field.
    fn place(self) -> (usize, usize, u32) {
        let end = self.offset + u64::from(self.bits);
        let (first, behind) = (self.offset / 8, end.div_ceil(8));
        let first = usize::try_from(first).expect("offsets are limited by the length of values");
        let unused = u32::try_from(behind * 8 - end).expect("below 8");
        (first, usize::try_from(behind).expect("at most 8 bytes more") - first, unused)
    }

    /// Reads the integer in the field. `read` copies bytes of the string, starting at the given
    /// index.
    fn get(self, read: impl Fn(usize, &mut [u8])) -> i128 {
        self.wrapped(self.word(read) >> self.place().2)
    }

    /// Returns the bytes that contain bits of the field as a big-endian number.
    fn word(self, read: impl Fn(usize, &mut [u8])) -> i128 {
        let (first, count, _) = self.place();
        let mut word = [0; WORD_BYTES];
        read(first, &mut word[WORD_BYTES - count..]);
        i128::from_be_bytes(word)
    }

    /// Stores an integer in the field.
    fn set(self, string: &mut StringEdit<'_>, number: i128) {
        let (first, count, unused) = self.place();
        let mask = ((1 << self.bits) - 1) << unused;
        let old = self.word(|at, out| string.read(at, out));
        let word = old & !mask | number << unused & mask;
        string.write(first, &word.to_be_bytes()[WORD_BYTES - count..]);
    }

    /// Truncates `number` to the width of the field, and interprets the remaining bits as a signed
    /// or unsigned integer, depending on the field's type.
    fn wrapped(self, number: i128) -> i128 {
        let unused = i128::BITS - self.bits;
        if self.signed { number << unused >> unused } else { number & ((1 << self.bits) - 1) }
    }

    /// Returns the integer to store in the field when `number` is assigned to it. `overflow` says
    /// what to do if `number` does not fit; `None` means that the field must not change.
    fn kept(self, number: i128, overflow: Overflow) -> Option<i128> {
        let wrapped = self.wrapped(number);
        if wrapped == number {
            return Some(number);
        }
        let lowest = if self.signed { -(1 << (self.bits - 1)) } else { 0 };
        match overflow {
            Overflow::Wrap => Some(wrapped),
            Overflow::Saturate if number < 0 => Some(lowest),
            Overflow::Saturate => Some((1 << (self.bits - u32::from(self.signed))) - 1),
            Overflow::Fail => None,
        }
    }
}

fn number(number: i128) -> Outcome {
    Outcome::Integer(i64::try_from(number).expect("a field has at most 64 bits with its sign"))
}

/// Parses the arguments of `BITFIELD`, including the maximum length of a string that the server
/// appends, into a list of subcommands, each with the field to which it applies.
fn parse(args: &[&[u8]]) -> Result<Vec<(Field, Action)>, Outcome> {
    let (mut actions, mut overflow) = (Vec::new(), Overflow::Wrap);
    let (value_bytes_max, mut rest) = split_limit(args);
    while let [action, behind @ ..] = rest {
        let is = |word: &str| action.eq_ignore_ascii_case(word.as_bytes());
        rest = match *behind {
            [kind, offset, ref behind @ ..] if is("GET") => {
                actions.push((Field::read(kind, offset, value_bytes_max)?, Action::Get));
                behind
            }
            [kind, offset, value, ref behind @ ..] if is("SET") || is("INCRBY") => {
                let field = Field::read(kind, offset, value_bytes_max)?;
                let value = parse_integer(value).ok_or(Refusal::NotAnInteger)?;
                let action = if is("SET") { Action::Set } else { Action::Increase };
                actions.push((field, action(value, overflow)));
                behind
            }
            [how, ref behind @ ..] if is("OVERFLOW") => {
                overflow = match () {
                    () if how.eq_ignore_ascii_case(b"WRAP") => Overflow::Wrap,
                    () if how.eq_ignore_ascii_case(b"SAT") => Overflow::Saturate,
                    () if how.eq_ignore_ascii_case(b"FAIL") => Overflow::Fail,
                    () => return Err(Outcome::error("ERR Invalid OVERFLOW type specified")),
                };
                behind
            }
            _ => return Err(Refusal::Syntax.into()),
        };
    }
    Ok(actions)
}

/// Runs `BITFIELD key [GET type offset | [OVERFLOW WRAP | SAT | FAIL] SET type offset value |
/// INCRBY type offset increment ...]`: reads or changes integer fields of the string at a key.
fn bitfield(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let actions = match parse(args.rest(1)) {
        Ok(actions) => actions,
        Err(outcome) => return Ok(outcome),
    };
    let written = actions.iter().filter(|(_, action)| !matches!(action, Action::Get));
    let ends = written.map(|(field, _)| (field.offset + u64::from(field.bits)).div_ceil(8));
    let Some(length) = ends.max() else {
        return Ok(get(keyspace.string(key)?.unwrap_or_default(), &actions));
    };
    let length = usize::try_from(length).expect("offsets are limited by the length of values");
    let (outcomes, changed) = keyspace.edit_string(key, length, |string| {
        let mut changed = false;
        let mut outcomes = Vec::with_capacity(actions.len());
        for (field, action) in actions {
            let (outcome, has_changed) = run(field, action, string);
            outcomes.push(outcome);
            changed |= has_changed;
        }
        (outcomes, changed)
    })?;
    if changed {
        keyspace.notify("setbit", key);
    }
    Ok(Outcome::List(outcomes))
}

/// Runs a subcommand of `BITFIELD` on a field. Returns its outcome, and whether it changed the
/// string.
fn run(field: Field, action: Action, string: &mut StringEdit<'_>) -> (Outcome, bool) {
    let before = field.get(|at, out| string.read(at, out));
    let (wanted, overflow) = match action {
        Action::Get => return (number(before), false),
        Action::Increase(increment, overflow) => (before + i128::from(increment), overflow),
        // As in C, a negative number is a very large unsigned one.
        Action::Set(value, overflow) if field.signed => (value.into(), overflow),
        Action::Set(value, overflow) => (value.cast_unsigned().into(), overflow),
    };
    let Some(kept) = field.kept(wanted, overflow) else { return (Outcome::Value(None), false) };
    if kept != before {
        field.set(string, kept);
    }
    (number(if matches!(action, Action::Set(..)) { before } else { kept }), kept != before)
}

/// Runs `BITFIELD_RO key [GET type offset ...]`: reads integer fields of the string at a key.
fn bitfield_ro(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let actions = match parse(args.rest(1)) {
        Ok(actions) => actions,
        Err(outcome) => return Ok(outcome),
    };
    if actions.iter().any(|(_, action)| !matches!(action, Action::Get)) {
        return Ok(Outcome::error("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    Ok(get(keyspace.string(args.get(0)?)?.unwrap_or_default(), &actions))
}

fn get(value: StringRef<'_>, actions: &[(Field, Action)]) -> Outcome {
    let number = |field: Field| number(field.get(|at, out| value.read(at, out)));
    Outcome::List(actions.iter().map(|(field, _)| number(*field)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    fn numbers(outcome: Outcome) -> Vec<Option<i64>> {
        let Outcome::List(outcomes) = outcome else { panic!("{outcome:?}") };
        let number = |outcome| match outcome {
            Outcome::Integer(number) => Some(number),
            Outcome::Value(None) => None,
            other => panic!("{other:?}"),
        };
        outcomes.into_iter().map(number).collect()
    }

    #[test]
    fn bitfield_overflow_wraps_saturates_or_fails_as_requested() {
        let mut feeder = Feeder::new();
        let mut call = |args: &str| {
            let args: Vec<&str> = args.split(' ').collect();
            numbers(feeder.call("bitfield", &args))
        };
        assert_eq!(call("k SET u8 4 255 GET u4 0 GET u8 #0 GET i8 4"), [0, 0, 15, -1].map(Some));
        assert_eq!(call("k INCRBY u8 4 2 OVERFLOW SAT INCRBY u8 4 -7"), [1, 0].map(Some));
        assert_eq!(
            call("k SET i64 #0 9223372036854775807 OVERFLOW FAIL INCRBY i64 #0 1"),
            [Some(0), None]
        );
        assert_eq!(
            call("k OVERFLOW WRAP INCRBY i64 #0 1 OVERFLOW SAT INCRBY i64 #0 -1"),
            [i64::MIN, i64::MIN].map(Some)
        );
    }
}
