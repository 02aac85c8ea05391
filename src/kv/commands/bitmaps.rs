//! Strings as rows of bits, the highest of each byte first.

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::registry::{Answer, Row, Run};
use crate::kv::commands::strings::{VALUE_BYTES_MAX, range};
use crate::kv::state_machine::StateMachine;
use crate::kv::values::number::parse_integer;

pub(in crate::kv) const COMMANDS: Row = &[
    ("setbit", Run::Write(setbit)),
    ("getbit", Run::Read(getbit)),
    ("bitcount", Run::Read(bitcount)),
    ("bitpos", Run::Read(bitpos)),
    ("bitop", Run::Write(bitop)),
];

/// Most bits of a value.
const BITS_MAX: u64 = VALUE_BYTES_MAX as u64 * 8;

/// The place of a bit that a word says.
///
/// # Errors
/// If no value can have it.
pub(in crate::kv) fn bit_offset(word: &[u8]) -> Result<u64, Outcome> {
    let offset = parse_integer(word).and_then(|offset| u64::try_from(offset).ok());
    offset.filter(|offset| *offset < BITS_MAX).ok_or_else(not_an_offset)
}

pub(in crate::kv) fn not_an_offset() -> Outcome {
    Outcome::error("ERR bit offset is not an integer or out of range")
}

/// Where a bit is: its byte, and the byte with only this bit set.
fn place(offset: u64) -> (usize, u8) {
    let byte = usize::try_from(offset / 8).expect("no value has so many bytes");
    (byte, 0x80 >> (offset % 8))
}

pub(in crate::kv) fn bit(value: &[u8], offset: u64) -> bool {
    let (byte, mask) = place(offset);
    value.get(byte).is_some_and(|byte| byte & mask != 0)
}

/// Sets a bit that is there.
pub(in crate::kv) fn put_bit(value: &mut [u8], offset: u64, bit: bool) {
    let (byte, mask) = place(offset);
    if bit {
        value[byte] |= mask;
    } else {
        value[byte] &= !mask;
    }
}

/// `SETBIT key offset value`
fn setbit(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let key = words.get(0)?;
    let offset = match bit_offset(words.get(1)?) {
        Ok(offset) => offset,
        Err(outcome) => return Ok(outcome),
    };
    let set = match words.get(2)? {
        b"0" => false,
        b"1" => true,
        _ => return Ok(Outcome::error("ERR bit is not an integer or out of range")),
    };
    let old = store.string(key)?;
    let (length, is_there) = (place(offset).0 + 1, old.is_some());
    let old = old.unwrap_or_default();
    let was = bit(old, offset);
    if was != set || length > old.len() || !is_there {
        let mut new = old.to_vec();
        new.resize(length.max(new.len()), 0);
        put_bit(&mut new, offset, set);
        store.put_keep_ttl(key, &new);
        store.note("setbit", key);
    }
    Ok(Outcome::flag(was))
}

/// `GETBIT key offset`
fn getbit(store: &StateMachine, words: &Args<'_>) -> Answer {
    let offset = match bit_offset(words.get(1)?) {
        Ok(offset) => offset,
        Err(outcome) => return Ok(outcome),
    };
    let value = store.string(words.get(0)?)?.unwrap_or_default();
    Ok(Outcome::flag(bit(value, offset)))
}

/// Whether a word says that bits are meant, and not bytes.
fn means_bits(word: &[u8]) -> Result<bool, Refusal> {
    if word.eq_ignore_ascii_case(b"BIT") {
        Ok(true)
    } else if word.eq_ignore_ascii_case(b"BYTE") {
        Ok(false)
    } else {
        Err(Refusal::Syntax)
    }
}

/// `BITCOUNT key [start end [BYTE | BIT]]`
fn bitcount(store: &StateMachine, words: &Args<'_>) -> Answer {
    let Some(value) = store.string(words.get(0)?)? else { return Ok(Outcome::count(0)) };
    let (first, last, bits) = match words.len() {
        1 => (0, -1, false),
        3 | 4 => {
            let (first, last) = (words.integer(1)?, words.integer(2)?);
            // Told before the last word is looked at.
            if first < 0 && last < 0 && first > last {
                return Ok(Outcome::count(0));
            }
            (first, last, words.rest(3).first().map_or(Ok(false), |word| means_bits(word))?)
        }
        _ => return Err(Refusal::Syntax),
    };
    let unit = if bits { 1 } else { 8 };
    let Some(range) = range(first, last, value.len() * 8 / unit) else {
        return Ok(Outcome::count(0));
    };
    let (first, end) = (range.start * unit, range.end * unit);
    Ok(Outcome::count(ones(value, first, end)))
}

/// How many bits are set from one to before another.
fn ones(value: &[u8], first: usize, end: usize) -> usize {
    let whole = first.div_ceil(8)..end / 8;
    let slow = |from: usize, to: usize| (from..to).filter(|at| bit(value, *at as u64)).count();
    if whole.start >= whole.end {
        return slow(first, end);
    }
    let (words, rest) = value[whole.clone()].as_chunks::<8>();
    let ones = words.iter().map(|word| u64::from_ne_bytes(*word).count_ones()).sum::<u32>()
        + rest.iter().map(|byte| byte.count_ones()).sum::<u32>();
    slow(first, whole.start * 8) + ones as usize + slow(whole.end * 8, end)
}

/// `BITPOS key bit [start [end [BYTE | BIT]]]`
fn bitpos(store: &StateMachine, words: &Args<'_>) -> Answer {
    let wanted = match words.integer(1)? {
        0 => false,
        1 => true,
        _ => return Ok(Outcome::error("ERR The bit argument must be 1 or 0.")),
    };
    let Some(value) = store.string(words.get(0)?)? else {
        return Ok(Outcome::Integer(if wanted { -1 } else { 0 }));
    };
    let (first, last, bits) = match words.len() {
        2 => (0, -1, false),
        3 => (words.integer(2)?, -1, false),
        4 | 5 => {
            let first = words.integer(2)?;
            let bits = words.rest(4).first().map_or(Ok(false), |word| means_bits(word))?;
            (first, words.integer(3)?, bits)
        }
        _ => return Err(Refusal::Syntax),
    };
    let unit = if bits { 1 } else { 8 };
    let length = value.len() * 8 / unit;
    // Unlike elsewhere, two places before the beginning are the first one both.
    let clipped =
        |at: i64| if at < 0 { at.max(-i64::try_from(length).unwrap_or(i64::MAX)) } else { at };
    let Some(range) = range(clipped(first), clipped(last), length) else {
        return Ok(Outcome::Integer(-1));
    };
    let (first, end) = (range.start * unit, range.end * unit);
    Ok(match first_bit(value, wanted, first, end) {
        Some(at) => Outcome::count(at),
        // Where no end was said there are zeros behind the value.
        None if !wanted && words.len() < 4 => Outcome::count(end),
        None => Outcome::Integer(-1),
    })
}

/// The first bit of that kind from one to before another.
fn first_bit(value: &[u8], wanted: bool, first: usize, end: usize) -> Option<usize> {
    let mut at = first;
    while at < end {
        // Bytes in which there is none are passed over whole.
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

/// `BITOP AND | OR | XOR | NOT destination key [key ...]`
fn bitop(store: &mut StateMachine, words: &Args<'_>) -> Answer {
    let (operation, destination, keys) = (words.get(0)?, words.get(1)?, words.rest(2));
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
    let mut values = Vec::with_capacity(keys.len());
    for key in keys {
        values.push(store.string(key)?.unwrap_or_default());
    }
    let length = values.iter().map(|value| value.len()).max().unwrap_or(0);
    let mut result = values.first().map_or_else(Vec::new, |value| value.to_vec());
    result.resize(length, 0);
    if is("NOT") {
        for byte in &mut result {
            *byte = combine(*byte, 0);
        }
    }
    for value in values.iter().skip(1) {
        // What is not there is zero.
        let (there, behind) = result.split_at_mut(value.len());
        there.iter_mut().zip(*value).for_each(|(byte, other)| *byte = combine(*byte, *other));
        for byte in behind {
            *byte = combine(*byte, 0);
        }
    }
    if length == 0 {
        store.delete(destination);
    } else {
        store.put(destination, &result);
        store.note("set", destination);
    }
    Ok(Outcome::count(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    #[test]
    fn counting_and_looking_agree_with_going_bit_by_bit() {
        let value: Vec<u8> =
            (0..40_u8).map(|at| at.wrapping_mul(at) ^ (at / 9).wrapping_mul(0xFF)).collect();
        let value = [&[0xFF; 20][..], &value, &[0; 20]].concat();
        let bits = value.len() * 8;
        for first in (0..bits).step_by(5) {
            for end in (first..=bits).step_by(7) {
                let all = first..end;
                let count = all.clone().filter(|at| bit(&value, *at as u64)).count();
                assert_eq!(ones(&value, first, end), count, "{first} {end}");
                for wanted in [false, true] {
                    let place = all.clone().find(|at| bit(&value, *at as u64) == wanted);
                    let found = first_bit(&value, wanted, first, end);
                    assert_eq!(found, place, "{first} {end} {wanted}");
                }
            }
        }
    }

    #[test]
    fn what_changes_nothing_leaves_the_key_as_it_was() {
        let mut feeder = Feeder::new();
        feeder.call("setbit", &["k", "7", "1"]);
        let revision = feeder.store.revision(b"k");
        assert_eq!(feeder.call("setbit", &["k", "7", "1"]), Outcome::Integer(1));
        assert_eq!(feeder.store.revision(b"k"), revision);
        assert_eq!(feeder.call("setbit", &["k", "8", "0"]), Outcome::Integer(0));
        assert_ne!(feeder.store.revision(b"k"), revision);
        assert_eq!(feeder.get(b"k").as_deref(), Some(&[1, 0][..]));
    }
}
