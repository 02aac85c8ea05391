//! Commands on strings as bitmaps. Bit 0 is the highest bit of the first byte.

use std::ops::Range;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{ALL_BUT_FIRST, Answer, ONE_KEY, Row, Scale, read, write};
use crate::kv::commands::strings::range;
use crate::kv::keyspace::Keyspace;
use crate::kv::values::number::parse_integer;
use crate::kv::values::string::StringRef;

/// The bitmap commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    write(96, "setbit", ONE_KEY, setbit),
    read(97, "getbit", ONE_KEY, getbit),
    read(98, "bitcount", ONE_KEY, bitcount).per(Scale::Values),
    read(99, "bitpos", ONE_KEY, bitpos).per(Scale::Values),
    write(100, "bitop", ALL_BUT_FIRST, bitop).per(Scale::Values),
];

/// Parses the offset of a bit in a string of at most `value_bytes_max` bytes.
///
/// # Errors
/// If the offset is not an integer, is negative, or exceeds the maximum length of a string.
pub(in crate::kv) fn bit_offset(word: &[u8], value_bytes_max: usize) -> Result<u64, Outcome> {
    let offset = parse_integer(word).and_then(|offset| u64::try_from(offset).ok());
    let is_inside = |offset: &u64| offset / 8 < value_bytes_max as u64;
    offset.filter(is_inside).ok_or_else(not_an_offset)
}

pub(in crate::kv) fn not_an_offset() -> Outcome {
    Outcome::error("ERR bit offset is not an integer or out of range")
}

/// Returns the index of the byte that contains the bit at `offset`, and the mask of the bit within
/// this byte.
fn place(offset: u64) -> (usize, u8) {
    let byte = usize::try_from(offset / 8).expect("offsets are limited by the length of values");
    (byte, 0x80 >> (offset % 8))
}

/// Returns the bit at `offset` of a string; false if the string is shorter.
fn bit(value: &[u8], offset: u64) -> bool {
    let (byte, mask) = place(offset);
    value.get(byte).is_some_and(|byte| byte & mask != 0)
}

/// Runs `SETBIT key offset value`: sets or clears a bit of the string at a key, and returns its old
/// value. Before it replicates the command, the server adds an argument: the maximum permitted
/// length of a string.
fn setbit(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let key = args.get(0)?;
    let offset = match bit_offset(args.get(1)?, args.value_bytes_max(3)) {
        Ok(offset) => offset,
        Err(outcome) => return Ok(outcome),
    };
    let set = match args.get(2)? {
        b"0" => false,
        b"1" => true,
        _ => return Ok(Outcome::error("ERR bit is not an integer or out of range")),
    };
    let (byte, mask) = place(offset);
    let (was, changed) = keyspace.edit_string(key, byte + 1, |string| {
        let mut bits = [0];
        string.read(byte, &mut bits);
        let was = bits[0] & mask != 0;
        if was != set {
            string.write(byte, &[bits[0] ^ mask]);
        }
        (was, was != set)
    })?;
    if changed {
        keyspace.notify("setbit", key);
    }
    Ok(Outcome::flag(was))
}

/// Runs `GETBIT key offset`: returns a bit of the string at a key. Before it submits the command,
/// the server adds an argument: the maximum permitted length of a string.
fn getbit(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let offset = match bit_offset(args.get(1)?, args.value_bytes_max(2)) {
        Ok(offset) => offset,
        Err(outcome) => return Ok(outcome),
    };
    let (byte, mask) = place(offset);
    let value = keyspace.string(args.get(0)?)?.unwrap_or_default();
    Ok(Outcome::flag(value.byte(byte) & mask != 0))
}

/// Parses the unit argument of `BITCOUNT` and `BITPOS`: returns true for `BIT`, false for `BYTE`,
/// and a syntax error for anything else.
fn means_bits(word: &[u8]) -> Result<bool, Refusal> {
    if word.eq_ignore_ascii_case(b"BIT") {
        Ok(true)
    } else if word.eq_ignore_ascii_case(b"BYTE") {
        Ok(false)
    } else {
        Err(Refusal::Syntax)
    }
}

/// Runs `BITCOUNT key [start end [BYTE | BIT]]`: counts the bits that are 1 in a string or a range
/// of it.
fn bitcount(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let Some(value) = keyspace.string(args.get(0)?)? else { return Ok(Outcome::count(0)) };
    let (first, last, bits) = match args.len() {
        1 => (0, -1, false),
        3 | 4 => {
            let (first, last) = (args.integer(1)?, args.integer(2)?);
            // Reported before the last argument is parsed, as in Redis.
            if first < 0 && last < 0 && first > last {
                return Ok(Outcome::count(0));
            }
            (first, last, args.rest(3).first().map_or(Ok(false), |word| means_bits(word))?)
        }
        _ => return Err(Refusal::Syntax),
    };
    let unit = if bits { 1 } else { 8 };
    let Some(range) = range(first, last, value.len() * 8 / unit) else {
        return Ok(Outcome::count(0));
    };
    let (first, end) = (range.start * unit, range.end * unit);
    let pieces = pieces(value, first..end);
    Ok(Outcome::count(pieces.map(|piece| ones(piece.bytes, piece.bits)).sum()))
}

/// A slice of a string, and the bits in the slice that a command examines.
struct Piece<'s> {
    bytes: &'s [u8],
    /// Offset of the first bit of the slice in the string.
    start: usize,
    /// Range of the examined bits, counted from the start of the slice.
    bits: Range<usize>,
}

/// Iterates over the slices of a string that contain the bits whose offsets are in `bits`.
fn pieces(value: StringRef<'_>, bits: Range<usize>) -> impl Iterator<Item = Piece<'_>> {
    let mut next = bits.start / 8 * 8;
    value.slices(bits.start / 8..bits.end.div_ceil(8)).map(move |bytes| {
        let start = next;
        next += bytes.len() * 8;
        let bits = bits.start.max(start) - start..bits.end.min(next) - start;
        Piece { bytes, start, bits }
    })
}

/// Returns the number of bits that are 1 at the bit offsets in `bits`.
fn ones(value: &[u8], bits: Range<usize>) -> usize {
    let Range { start: first, end } = bits;
    let whole = first.div_ceil(8)..end / 8;
    let slow = |from: usize, to: usize| (from..to).filter(|at| bit(value, *at as u64)).count();
    if whole.start >= whole.end {
        return slow(first, end);
    }
    let (args, rest) = value[whole.clone()].as_chunks::<8>();
    let ones = args.iter().map(|word| u64::from_ne_bytes(*word).count_ones()).sum::<u32>()
        + rest.iter().map(|byte| byte.count_ones()).sum::<u32>();
    slow(first, whole.start * 8) + ones as usize + slow(whole.end * 8, end)
}

/// Runs `BITPOS key bit [start [end [BYTE | BIT]]]`: returns the offset of the first bit that is 0
/// or 1 in a string or a range of it.
fn bitpos(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let wanted = match args.integer(1)? {
        0 => false,
        1 => true,
        _ => return Ok(Outcome::error("ERR The bit argument must be 1 or 0.")),
    };
    let Some(value) = keyspace.string(args.get(0)?)? else {
        return Ok(Outcome::Integer(if wanted { -1 } else { 0 }));
    };
    let (first, last, bits) = match args.len() {
        2 => (0, -1, false),
        3 => (args.integer(2)?, -1, false),
        4 | 5 => {
            let first = args.integer(2)?;
            let bits = args.rest(4).first().map_or(Ok(false), |word| means_bits(word))?;
            (first, args.integer(3)?, bits)
        }
        _ => return Err(Refusal::Syntax),
    };
    let unit = if bits { 1 } else { 8 };
    let length = value.len() * 8 / unit;
    // Unlike in other commands, two indexes before the beginning both mean the first byte.
    let clipped =
        |at: i64| if at < 0 { at.max(-i64::try_from(length).unwrap_or(i64::MAX)) } else { at };
    let Some(range) = range(clipped(first), clipped(last), length) else {
        return Ok(Outcome::Integer(-1));
    };
    let (first, end) = (range.start * unit, range.end * unit);
    let found = pieces(value, first..end)
        .find_map(|piece| Some(piece.start + first_bit(piece.bytes, wanted, piece.bits)?));
    Ok(match found {
        Some(at) => Outcome::count(at),
        // Without an explicit end, the string is treated as if zeros followed it.
        None if !wanted && args.len() < 4 => Outcome::count(end),
        None => Outcome::Integer(-1),
    })
}

/// Returns the offset of the first bit that equals `wanted` among the bits with offsets in `bits`;
/// `None` if there is no such bit.
fn first_bit(value: &[u8], wanted: bool, bits: Range<usize>) -> Option<usize> {
    let Range { start: mut at, end } = bits;
    while at < end {
        // Bytes without such a bit are skipped as a whole.
        let without = if wanted { 0 } else { 0xFF };
        if at.is_multiple_of(8) && value[at / 8] == without {
            let run = value[at / 8..].iter().take_while(|byte| **byte == without).count();
            at += run * 8;
            continue;
        }
        if bit(value, at as u64) == wanted {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Runs `BITOP AND | OR | XOR | NOT destination key [key ...]`: combines strings bit by bit and
/// stores the result.
fn bitop(keyspace: &mut Keyspace, args: &Args<'_>) -> Answer {
    let (operation, destination, keys) = (args.get(0)?, args.get(1)?, args.rest(2));
    let is = |word: &str| operation.eq_ignore_ascii_case(word.as_bytes());
    let combine: fn(u8, u8) -> u8 = match () {
        () if is("AND") => |one, other| one & other,
        () if is("OR") => |one, other| one | other,
        () if is("XOR") => |one, other| one ^ other,
        () if is("NOT") => |one, _| !one,
        () => return Err(Refusal::Syntax),
    };
    if is("NOT") && keys.len() != 1 {
        return Ok(Outcome::error("ERR BITOP NOT must be called with a single source key."));
    }
    let mut values: Vec<StringRef<'_>> = Vec::with_capacity(keys.len());
    for key in keys {
        values.push(keyspace.string(key)?.unwrap_or_default());
    }
    let length = values.iter().map(|value| value.len()).max().unwrap_or(0);
    let mut result = vec![0; length];
    values.first().copied().unwrap_or_default().read(0, &mut result);
    if is("NOT") {
        for byte in &mut result {
            *byte = combine(*byte, 0);
        }
    }
    for value in values.iter().skip(1) {
        // Shorter strings are treated as if padded with zeros.
        let mut rest = &mut result[..];
        for slice in value.slices(0..value.len()) {
            let (there, behind) = rest.split_at_mut(slice.len());
            there.iter_mut().zip(slice).for_each(|(byte, other)| *byte = combine(*byte, *other));
            rest = behind;
        }
        for byte in rest {
            *byte = combine(*byte, 0);
        }
    }
    if length == 0 {
        keyspace.delete(destination);
    } else {
        keyspace.put(destination, &result);
        keyspace.notify("set", destination);
    }
    Ok(Outcome::count(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    #[test]
    fn bitcount_and_bitpos_match_a_bit_by_bit_model() {
        let value: Vec<u8> =
            (0..40_u8).map(|at| at.wrapping_mul(at) ^ (at / 9).wrapping_mul(0xFF)).collect();
        let value = [&[0xFF; 20][..], &value, &[0; 20]].concat();
        let bits = value.len() * 8;
        for first in (0..bits).step_by(5) {
            for end in (first..=bits).step_by(7) {
                let all = first..end;
                let count = all.clone().filter(|at| bit(&value, *at as u64)).count();
                assert_eq!(ones(&value, all.clone()), count, "{first} {end}");
                for wanted in [false, true] {
                    let place = all.clone().find(|at| bit(&value, *at as u64) == wanted);
                    let found = first_bit(&value, wanted, all.clone());
                    assert_eq!(found, place, "{first} {end} {wanted}");
                }
            }
        }
    }

    #[test]
    fn bitmap_writes_without_a_change_keep_the_key_revision() {
        let mut feeder = Feeder::new();
        feeder.call("setbit", &["k", "7", "1"]);
        let revision = feeder.store.keyspace.revision_of(b"k");
        assert_eq!(feeder.call("setbit", &["k", "7", "1"]), Outcome::Integer(1));
        assert_eq!(feeder.store.keyspace.revision_of(b"k"), revision);
        assert_eq!(feeder.call("setbit", &["k", "8", "0"]), Outcome::Integer(0));
        assert_ne!(feeder.store.keyspace.revision_of(b"k"), revision);
        assert_eq!(feeder.get(b"k").as_deref(), Some(&[1, 0][..]));
    }
}
