//! Extended-precision floating-point numbers in x86's 80-bit format with 64 significant bits, which
//! Redis uses for `INCRBYFLOAT` and `HINCRBYFLOAT`. Implemented with integer arithmetic, so that
//! the results are the same on every processor.

#![allow(clippy::cast_possible_truncation, reason = "what is cut off is meant to be")]

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::ops::Add;

use crate::kv::values::number::split_sign;

/// Maximum length in bytes of the text of a floating-point number, as in Redis. A longer text is
/// rejected.
const TEXT_BYTES_MAX: usize = 5 * 1024 - 1;
/// Exponent of the smallest power of 2 that is too large for x86's 80-bit format. A number of at
/// least this magnitude becomes infinite.
const BITS_MAX: i32 = 16_384;
/// Exponent of the smallest power of 2 that is accepted. A smaller number other than 0 is rejected,
/// because x86's 80-bit format would round it to 0.
const BITS_MIN: i32 = -16_446;
/// Maximum number of digits after the decimal point of a formatted number.
const FRACTION_DIGITS: usize = 17;
/// Number of decimal digits that always fit into a 32-bit word. Decimal text is converted in groups
/// of this many digits.
const NINE: usize = 9;

/// A floating-point number with the range and precision of x86's 80-bit format, which Redis uses
/// for `INCRBYFLOAT`.
///
/// Invariant: `digits` is 0, or its highest bit is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) enum Extended {
    /// Infinity, or minus infinity if `negative` is true.
    Infinite { negative: bool },
    /// A finite number: `digits` times 2 to the power of `exponent`, negated if `negative` is true.
    Finite { negative: bool, digits: u64, exponent: i32 },
}

const ZERO: Extended = Extended::Finite { negative: false, digits: 0, exponent: 0 };

impl Extended {
    /// Parses a number in a format of C's `strtold`; `None` if `text` is not a number, is NaN, or
    /// is out of range.
    pub(in crate::kv) fn parse(text: &[u8]) -> Option<Extended> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (negative, unsigned) = split_sign(text);
        let is = |word: &str| unsigned.eq_ignore_ascii_case(word.as_bytes());
        if is("inf") || is("infinity") {
            return Some(Extended::Infinite { negative });
        }
        match unsigned {
            [b'0', b'x' | b'X', hex @ ..] => parse_hex(negative, hex),
            decimal => parse_decimal(negative, decimal),
        }
    }

    pub(in crate::kv) fn is_infinite(self) -> bool {
        matches!(self, Extended::Infinite { .. })
    }

    /// Returns the number nearest to `bits` times 2 to the power of `exponent`, negated if
    /// `negative` is true. Ties round to even. `more` is true if nonzero bits below the lowest bit
    /// of `bits` were cut off.
    fn rounded(negative: bool, bits: u128, exponent: i32, more: bool) -> Extended {
        if bits == 0 {
            return ZERO;
        }
        let lead = bits.leading_zeros();
        let (bits, exponent) = (bits << lead, exponent - lead.cast_signed() + 64);
        let (mut digits, rest) = ((bits >> 64) as u64, bits as u64);
        let mut exponent = exponent;
        let half = 1 << 63;
        if rest > half || rest == half && (more || digits & 1 == 1) {
            digits = digits.wrapping_add(1);
            if digits == 0 {
                (digits, exponent) = (half, exponent + 1);
            }
        }
        if exponent + 64 > BITS_MAX {
            return Extended::Infinite { negative };
        }
        Extended::Finite { negative, digits, exponent }
    }

    /// Returns the number; `None` if it is infinite, or so small that the 80-bit format would round
    /// it to 0.
    fn in_range(self) -> Option<Extended> {
        match self {
            Extended::Infinite { .. } => None,
            Extended::Finite { digits, exponent, .. } => {
                (digits == 0 || exponent + 63 >= BITS_MIN).then_some(self)
            }
        }
    }
}

/// Splits the digits, which may contain a point, off the front of the text of a number. Returns
/// three values: the digits, the number of digits after the point, and the remaining text. `None`
/// if there is no digit.
fn split_digits(text: &[u8], radix: u32) -> Option<(Vec<u32>, i64, &[u8])> {
    let (mut digits, mut behind, mut point) = (Vec::new(), 0, false);
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        if let Some(digit) = char::from(*byte).to_digit(radix) {
            digits.push(digit);
            behind += i64::from(point);
        } else if *byte == b'.' && !point {
            point = true;
        } else {
            break;
        }
        rest = after;
    }
    (!digits.is_empty()).then_some((digits, behind, rest))
}

/// Parses the exponent at the end of a number: `letter`, such as `e`, followed by an integer.
/// Returns 0 if `text` is empty, and `None` if it is malformed.
fn parse_exponent(text: &[u8], letter: u8) -> Option<i64> {
    let [first, text @ ..] = text else { return Some(0) };
    if !first.eq_ignore_ascii_case(&letter) {
        return None;
    }
    let (negative, digits) = split_sign(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Capping the exponent does not change the result, because such exponents are far out of range.
    let exponent =
        digits.iter().fold(0_i64, |sum, byte| (sum * 10 + i64::from(byte - b'0')).min(1 << 40));
    Some(if negative { -exponent } else { exponent })
}

fn parse_hex(negative: bool, text: &[u8]) -> Option<Extended> {
    let (digits, behind, rest) = split_digits(text, 16)?;
    let exponent = parse_exponent(rest, b'p')? - 4 * behind;
    let (mut bits, mut dropped, mut more) = (0_u128, 0_i64, false);
    for digit in digits {
        if bits >> 120 == 0 {
            bits = bits << 4 | u128::from(digit);
        } else {
            dropped += 4;
            more |= digit != 0;
        }
    }
    if bits == 0 {
        return Some(ZERO);
    }
    let exponent = (exponent + dropped).clamp(-(1 << 20), 1 << 20);
    let exponent = i32::try_from(exponent).expect("it was clamped");
    Extended::rounded(negative, bits, exponent, more).in_range()
}

fn parse_decimal(negative: bool, text: &[u8]) -> Option<Extended> {
    let (digits, behind, rest) = split_digits(text, 10)?;
    let exponent = parse_exponent(rest, b'e')? - behind;
    let Some(first) = digits.iter().position(|digit| *digit != 0) else { return Some(ZERO) };
    let digits = &digits[first..];
    // Numbers beyond these limits are certainly out of range. The limits also bound the size of the
    // integers below.
    let size = exponent + i64::try_from(digits.len()).ok()?;
    if !(-4_970..4_940).contains(&size) {
        return None;
    }
    let exponent = i32::try_from(exponent).ok()?;
    let mut number = Whole::default();
    for some in digits.chunks(NINE) {
        let summand = some.iter().fold(0, |sum, digit| sum * 10 + digit);
        number.multiply_add(10_u32.pow(some.len() as u32), summand);
    }
    let (bits, shift, more) = if exponent >= 0 {
        number.multiply_by_tens(exponent.unsigned_abs());
        number.top_bits()
    } else {
        let mut divisor = Whole::default();
        divisor.multiply_add(1, 1);
        divisor.multiply_by_tens(exponent.unsigned_abs());
        number.divide(divisor)
    };
    Extended::rounded(negative, bits, shift, more).in_range()
}

impl Add for Extended {
    type Output = Extended;

    fn add(self, other: Extended) -> Extended {
        use Extended::{Finite, Infinite};
        match (self, other) {
            // The sum of opposite infinities would be NaN, but callers reject NaN and infinity
            // alike.
            (Infinite { negative }, _) | (_, Infinite { negative }) => Infinite { negative },
            (Finite { digits: 0, .. }, other) => other,
            (one, Finite { digits: 0, .. }) => one,
            (
                Finite { negative, digits, exponent },
                Finite { negative: other_negative, digits: other_digits, exponent: other_exponent },
            ) => {
                if (exponent, digits) < (other_exponent, other_digits) {
                    return other + self;
                }
                let distance = (exponent - other_exponent).unsigned_abs();
                let large = u128::from(digits) << 63;
                let small = u128::from(other_digits) << 63;
                // The bits shifted out are far below the last significant bit, so it only matters
                // whether one of them is set.
                let shifted = small.checked_shr(distance).unwrap_or(0);
                let lost = shifted.checked_shl(distance).unwrap_or(0) != small;
                let small = shifted | u128::from(lost);
                let sum = if negative == other_negative { large + small } else { large - small };
                Extended::rounded(negative, sum, exponent - 63, false)
            }
        }
    }
}

/// Formats the number in decimal, as Redis does: up to 17 digits after the point, without trailing
/// zeros.
impl fmt::Display for Extended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Extended::Finite { negative, digits, exponent } = *self else {
            let Extended::Infinite { negative } = *self else { unreachable!("it is not finite") };
            return f.write_str(if negative { "-inf" } else { "inf" });
        };
        let (mut whole, mut fraction) = (Whole::default(), 0);
        let unit = 10_u128.pow(17);
        if exponent >= 0 {
            whole.multiply_add(1, 0);
            whole.words = vec![digits as u32, (digits >> 32) as u32];
            whole.shift_left(exponent.unsigned_abs());
        } else {
            let shift = exponent.unsigned_abs();
            let before = digits.checked_shr(shift).unwrap_or(0);
            let behind = digits - before.checked_shl(shift).unwrap_or(0);
            whole.words = vec![before as u32, (before >> 32) as u32];
            let product = u128::from(behind) * unit;
            fraction = product.checked_shr(shift).unwrap_or(0);
            let rest = product - fraction.checked_shl(shift).unwrap_or(0);
            let half = 1_u128.checked_shl(shift - 1).unwrap_or(u128::MAX);
            if rest > half || rest == half && fraction & 1 == 1 {
                fraction += 1;
            }
            if fraction == unit {
                fraction = 0;
                whole.multiply_add(1, 1);
            }
        }
        let whole = whole.into_decimal();
        let fraction = format!("{fraction:0FRACTION_DIGITS$}");
        let fraction = fraction.trim_end_matches('0');
        if negative && !(whole == "0" && fraction.is_empty()) {
            f.write_str("-")?;
        }
        f.write_str(&whole)?;
        if fraction.is_empty() { Ok(()) } else { write!(f, ".{fraction}") }
    }
}

/// An unsigned integer of any size, stored as 32-bit words, the lowest word first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Whole {
    words: Vec<u32>,
}

impl Whole {
    fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for word in &mut self.words {
            let product = u64::from(*word) * u64::from(factor) + carry;
            *word = product as u32;
            carry = product >> 32;
        }
        if carry != 0 {
            self.words.push(carry as u32);
        }
    }

    /// Multiplies the integer by 10 to the power of `zeros`.
    fn multiply_by_tens(&mut self, zeros: u32) {
        (0..zeros / NINE as u32).for_each(|_| self.multiply_add(10_u32.pow(NINE as u32), 0));
        self.multiply_add(10_u32.pow(zeros % NINE as u32), 0);
    }

    fn shift_left(&mut self, bits: u32) {
        let few = bits % 32;
        if few != 0 {
            self.multiply_add(1 << few, 0);
        }
        self.words.splice(0..0, std::iter::repeat_n(0, (bits / 32) as usize));
    }

    /// Returns the number of bits of the integer, without leading zeros.
    fn bits(&self) -> u32 {
        let Some(top) = self.words.iter().rposition(|word| *word != 0) else { return 0 };
        32 * u32::try_from(top + 1).expect("numbers are not so long")
            - self.words[top].leading_zeros()
    }

    /// Returns three values: the highest 128 bits of the integer, the number of lower bits that
    /// were cut off, and whether any of these is 1.
    fn top_bits(&self) -> (u128, i32, bool) {
        let drop = self.bits().saturating_sub(128);
        let (skipped, few) = ((drop / 32) as usize, drop % 32);
        let mut bits = 0;
        for (place, word) in (0_u32..).zip(self.words[skipped..].iter().take(5)) {
            let word = u128::from(*word);
            let left = 32 * place;
            bits |= if left >= few { word << (left - few) } else { word >> (few - left) };
        }
        let low = self.words[..skipped].iter().any(|word| *word != 0);
        let more = low || few != 0 && self.words[skipped] & ((1 << few) - 1) != 0;
        (bits, drop.cast_signed(), more)
    }

    /// Divides the integer by `divisor`, with enough bits for correct rounding. Returns three
    /// values: the highest 70 or 71 bits of the quotient, the exponent of the power of 2 by which
    /// to multiply them, and whether there is a remainder.
    fn divide(mut self, mut divisor: Whole) -> (u128, i32, bool) {
        const BITS: u32 = 70;
        // Shifted so that the quotient has `BITS` bits, or one more.
        let shift = (divisor.bits() + BITS).cast_signed() - self.bits().cast_signed();
        if shift >= 0 {
            self.shift_left(shift.unsigned_abs());
        } else {
            divisor.shift_left(shift.unsigned_abs());
        }
        let mut bits = 0_u128;
        divisor.shift_left(BITS);
        for _ in 0..=BITS {
            bits <<= 1;
            if self.compare(&divisor) != Ordering::Less {
                self.subtract(&divisor);
                bits |= 1;
            }
            divisor.halve();
        }
        (bits, -shift, self.bits() != 0)
    }

    fn compare(&self, other: &Whole) -> Ordering {
        let length = self.words.len().max(other.words.len());
        let word = |number: &Whole, at: usize| number.words.get(at).copied().unwrap_or(0);
        let differ = (0..length).rev().find(|at| word(self, *at) != word(other, *at));
        differ.map_or(Ordering::Equal, |at| word(self, at).cmp(&word(other, at)))
    }

    /// Subtracts `other`, which must not be greater than this integer.
    fn subtract(&mut self, other: &Whole) {
        let mut borrow = false;
        for (at, word) in self.words.iter_mut().enumerate() {
            let other = other.words.get(at).copied().unwrap_or(0);
            let (left, one) = word.overflowing_sub(other);
            let (left, two) = left.overflowing_sub(borrow.into());
            *word = left;
            borrow = one || two;
        }
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for word in self.words.iter_mut().rev() {
            let low = *word & 1;
            *word = *word >> 1 | carry << 31;
            carry = low;
        }
    }

    /// Formats the integer in decimal.
    fn into_decimal(mut self) -> String {
        let nine_digits = 10_u64.pow(NINE as u32);
        let mut groups = Vec::new();
        loop {
            let mut rest = 0;
            for word in self.words.iter_mut().rev() {
                let number = rest << 32 | u64::from(*word);
                *word = (number / nine_digits) as u32;
                rest = number % nine_digits;
            }
            groups.push(rest);
            if self.bits() == 0 {
                break;
            }
        }
        let mut text = groups.pop().expect("there is one at least").to_string();
        for group in groups.iter().rev() {
            write!(text, "{group:09}").expect("a string takes it");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Extended {
        Extended::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text} is no number"))
    }

    #[test]
    fn long_doubles_are_formatted_as_in_redis() {
        for (text, wanted) in [
            ("0", "0"),
            ("-0", "0"),
            ("1", "1"),
            ("-1.50", "-1.5"),
            ("0.1", "0.1"),
            ("3.0e3", "3000"),
            ("1e-17", "0.00000000000000001"),
            ("-4e-18", "0"),
            ("0x1.8p1", "3"),
            (".5", "0.5"),
            ("5.", "5"),
            ("9223372036854775807", "9223372036854775807"),
            ("18446744073709551617", "18446744073709551616"),
            ("0.99999999999999999999", "1"),
            ("1e23", "100000000000000000000000"),
            ("1e30", "1000000000000000000024696061952"),
            ("123456789.987654321", "123456789.98765432099753525"),
            ("INFinity", "inf"),
            ("-inf", "-inf"),
        ] {
            assert_eq!(parse(text).to_string(), wanted, "{text}");
        }
    }

    #[test]
    fn long_double_sums_are_rounded_only_once() {
        for (one, other, wanted) in [
            ("0.1", "0.2", "0.3"),
            ("1", "-1", "0"),
            ("10.5", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("1e400", "-1e400", "0"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("18446744073709551616", "1", "18446744073709551616"),
            ("18446744073709551616", "3", "18446744073709551620"),
            ("18446744073709551616", "-1", "18446744073709551615"),
            ("1e-4900", "1", "1"),
            ("17179869184", "17179869184", "34359738368"),
        ] {
            assert_eq!((parse(one) + parse(other)).to_string(), wanted, "{one} + {other}");
        }
        assert!((parse("1e4932") + parse("9e4931")).is_infinite());
    }

    #[test]
    fn parsing_an_invalid_long_double_fails() {
        for text in [
            "",
            " 1",
            "1 ",
            "x",
            "1x",
            "0x",
            "0xp1",
            "1e",
            "1e+",
            "--1",
            ".",
            "nan",
            "1e5000",
            "-1e4933",
            "1e-4951",
            "1e-99999999999999999999",
            "1,5",
            "1\0",
            "0x1p",
            "1e1.5",
        ] {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Extended::parse(&[b'0'; TEXT_BYTES_MAX + 1]), None);
        assert!(Extended::parse(&[b'0'; TEXT_BYTES_MAX]).is_some());
        assert_eq!(parse("1e4932").to_string().len(), 4_933);
        assert_eq!(parse("0e99999999999999999999"), ZERO);
    }

    #[test]
    fn formatted_long_double_parses_to_the_same_value() {
        for text in ["1e4932", "-3e100", "0.5", "12345678901234567890", "1e18"] {
            let number = parse(text);
            assert_eq!(parse(&number.to_string()), number, "{text}");
        }
    }
}
