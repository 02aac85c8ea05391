//! Parsing and formatting of 64-bit floating-point numbers as in Redis, which uses C's `strtod` and
//! `printf`.

use crate::kv::values::number::split_sign;

/// Parses a floating-point number in decimal or hexadecimal, or `inf` or `infinity`. `None` if
/// `text` is anything else, is NaN, or is out of range.
pub fn parse_double(text: &[u8]) -> Option<f64> {
    let number = read(text)?;
    let named = matches!(split_sign(text).1, [b'i' | b'I', ..]);
    let is_zero = |byte: &u8| matches!(byte, b'0' | b'.' | b'x' | b'X');
    let (mantissa, _) = split_exponent(split_sign(text).1);
    let too_small = number == 0.0 && !mantissa.iter().all(is_zero);
    (!too_small && (number.is_finite() || named)).then_some(number)
}

/// Parses the minimum or maximum of a range of scores. Like Redis, accepts more than
/// [`parse_double`]: leading spaces, an empty text (0), any bytes after a NUL byte, and numbers
/// that are too large (infinite). `None` if `text` is not a number.
pub(in crate::kv) fn parse_bound(text: &[u8]) -> Option<f64> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    if text.is_empty() {
        return Some(0.0);
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let start = text.iter().position(|byte| !is_blank(byte)).unwrap_or(text.len());
    read(&text[start..])
}

/// Parses a floating-point number. A number that is out of range becomes 0 or infinite. `None` if
/// `text` is not a number.
fn read(text: &[u8]) -> Option<f64> {
    let (negative, digits) = split_sign(text);
    let number = match digits {
        [b'0', b'x' | b'X', digits @ ..] => read_hexadecimal(digits)?,
        // A second sign is not allowed.
        [b'0'..=b'9' | b'.' | b'i' | b'I', ..] => {
            std::str::from_utf8(digits).ok()?.parse::<f64>().ok()?
        }
        _ => return None,
    };
    Some(if negative { -number } else { number })
}

/// Splits the text of a number into its mantissa and its exponent; `None` if it has no exponent.
fn split_exponent(digits: &[u8]) -> (&[u8], Option<&[u8]>) {
    let letters: &[u8] = match digits {
        [b'0', b'x' | b'X', ..] => b"pP",
        _ => b"eE",
    };
    match digits.iter().position(|byte| letters.contains(byte)) {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits, None),
    }
}

/// Parses the part of a hexadecimal number after `0x`, which may contain a point and a binary
/// exponent such as `p3`; `None` if it is malformed.
fn read_hexadecimal(digits: &[u8]) -> Option<f64> {
    let at = digits.iter().position(|byte| matches!(byte, b'p' | b'P'));
    let (mantissa, exponent) = at.map_or((digits, None), |at| {
        let (mantissa, exponent) = digits.split_at(at);
        (mantissa, Some(&exponent[1..]))
    });
    let mut power: i64 = match exponent {
        None => 0,
        Some(exponent) => {
            let (negative, digits) = split_sign(exponent);
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return None;
            }
            // Exponents that do not fit into 64 bits are out of range anyway.
            let power: i64 = std::str::from_utf8(digits).ok()?.parse().unwrap_or(1 << 40);
            if negative { -power.min(1 << 40) } else { power.min(1 << 40) }
        }
    };
    let (mut value, mut behind_point, mut count) = (0_u64, false, 0);
    for byte in mantissa {
        if *byte == b'.' && !behind_point {
            behind_point = true;
            continue;
        }
        let digit = char::from(*byte).to_digit(16)?;
        count += 1;
        if value >> 59 == 0 {
            value = value << 4 | u64::from(digit);
            power -= if behind_point { 4 } else { 0 };
        } else {
            // Digits beyond the precision only matter for rounding: a sticky bit stands for them.
            value |= u64::from(digit != 0);
            power += if behind_point { 0 } else { 4 };
        }
    }
    if count == 0 {
        return None;
    }
    let mut number = value as f64;
    // Multiplies in steps, because a single factor may be out of range even if the result is not.
    let mut power = power.clamp(-3_000, 3_000);
    while power != 0 && number != 0.0 && number.is_finite() {
        let step = power.clamp(-500, 500);
        number *= 2_f64.powi(i32::try_from(step).expect("it is at most 500"));
        power -= step;
    }
    Some(number)
}

/// Number of significant digits of a formatted number: enough to distinguish all 64-bit
/// floating-point numbers.
const DIGITS: usize = 17;

/// Formats a number like C's `%.17g`: 0.1 becomes `0.10000000000000001`.
pub fn write_double(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // Fast path: most scores are integers.
    #[allow(clippy::cast_possible_truncation, reason = "it is in range")]
    if number.abs() < 1e15 && number.fract() == 0.0 && (number != 0.0 || number.is_sign_positive())
    {
        return (number as i64).to_string();
    }
    let scientific = format!("{number:.*e}", DIGITS - 1);
    let (mantissa, exponent) = scientific.split_once('e').expect("it has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    let digits_max = i32::try_from(DIGITS).expect("it is small");
    if (-4..digits_max).contains(&exponent) {
        let decimals = usize::try_from(digits_max - 1 - exponent).expect("it is not below 0");
        return trimmed(&format!("{number:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(mantissa), exponent.unsigned_abs())
}

/// Formats a number like C's `%.17f`, without trailing zeros: never with an exponent.
pub fn write_decimal(number: f64) -> String {
    let text = format!("{number:.DIGITS$}");
    match trimmed(&text) {
        "-0" => "0".to_owned(),
        text => text.to_owned(),
    }
}

/// Returns the text of a decimal number without trailing zeros after the point.
fn trimmed(decimal: &str) -> &str {
    if decimal.contains('.') {
        decimal.trim_end_matches('0').trim_end_matches('.')
    } else {
        decimal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_formatted_as_by_c_printf() {
        for (number, wanted) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-17.0, "-17"),
            (0.1, "0.10000000000000001"),
            (3.1, "3.1000000000000001"),
            (0.5, "0.5"),
            (1e15, "1000000000000000"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e300, "1.0000000000000001e+300"),
            (1e-4, "0.0001"),
            (0.000_012_5, "1.2500000000000001e-05"),
            (5e-324, "4.9406564584124654e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(write_double(number), wanted);
        }
    }

    #[test]
    fn decimal_numbers_have_17_digits_after_the_point() {
        for (number, wanted) in [
            (0.0, "0"),
            (-0.0, "0"),
            (-17.0, "-17"),
            (0.1, "0.10000000000000001"),
            (13.361_389_338_970_184, "13.36138933897018433"),
            (1e-20, "0"),
            (-1e-20, "0"),
            (1e20, "100000000000000000000"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(write_decimal(number), wanted);
        }
    }

    #[test]
    fn floats_are_parsed_as_by_c_strtod() {
        for (text, wanted) in [
            ("0", Some(0.0)),
            ("-0", Some(-0.0)),
            ("+1.5", Some(1.5)),
            ("5.", Some(5.0)),
            (".5", Some(0.5)),
            ("3.0e3", Some(3_000.0)),
            ("1e+2", Some(100.0)),
            ("0e999999", Some(0.0)),
            ("inf", Some(f64::INFINITY)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("0x10", Some(16.0)),
            ("-0x1.8p3", Some(-12.0)),
            ("0x.8", Some(0.5)),
            ("0x1p-1074", Some(5e-324)),
            ("0x1fffffffffffffffffp0", Some(590_295_810_358_705_651_712.0)),
            ("0x0p0", Some(0.0)),
            ("0x1p99999999999999999999", None),
            ("0x1p-5000", None),
            ("1e400", None),
            ("-1e400", None),
            ("1e-400", None),
            ("nan", None),
            ("-nan", None),
            ("", None),
            (".", None),
            ("-", None),
            ("+-1", None),
            ("--1", None),
            ("1e", None),
            ("e1", None),
            ("0x", None),
            ("0x1p", None),
            ("0x1.8.1", None),
            (" 1", None),
            ("1 ", None),
            ("1\0", None),
            ("1_000", None),
            ("infin", None),
        ] {
            let found = parse_double(text.as_bytes());
            assert_eq!(found.map(f64::to_bits), wanted.map(f64::to_bits), "{text:?}: {found:?}");
        }
    }

    #[test]
    fn sorted_set_score_bounds_are_parsed_as_in_redis() {
        for (text, wanted) in [
            ("", Some(0.0)),
            (" 1", Some(1.0)),
            ("\n-2.5", Some(-2.5)),
            ("1\0x", Some(1.0)),
            ("1e400", Some(f64::INFINITY)),
            ("1e-400", Some(0.0)),
            (" ", None),
            ("1 ", None),
            ("nan", None),
            ("x", None),
        ] {
            assert_eq!(parse_bound(text.as_bytes()), wanted, "{text:?}");
        }
    }
}
