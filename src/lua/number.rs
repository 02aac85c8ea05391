//! Numbers as C's `printf` writes them.

/// Returns a number as `%.{digits}g` writes it: with that many significant digits, without trailing
/// zeros, and with an exponent if it is below -4 or not below `digits`.
pub(super) fn general(number: f64, digits: usize) -> String {
    if number.is_nan() {
        return if number.is_sign_negative() { "-nan" } else { "nan" }.to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let digits = digits.max(1);
    let scientific = format!("{number:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let precision = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= precision {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", without_zeros(mantissa), exponent.abs());
    }
    let places = usize::try_from(precision - 1 - exponent).unwrap_or(0);
    without_zeros(&format!("{number:.places$}")).to_owned()
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Returns a number without its fraction, as C converts it on x86-64: numbers without an integer of
/// 64 bits become the smallest one.
pub(super) fn to_integer(number: f64) -> i64 {
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    if !(-BOUND..BOUND).contains(&number) {
        return i64::MIN;
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "In range, and the fraction is cut on purpose"
    )]
    let integer = number as i64;
    integer
}

/// Reads a number at the front of `text`, as C's `strtod` does: decimal, hexadecimal, `inf` or
/// `nan`. Returns it with its length in bytes.
pub(super) fn parse_prefix(text: &[u8]) -> Option<(f64, usize)> {
    let signed = usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let sign = if text.first() == Some(&b'-') { -1.0 } else { 1.0 };
    let rest = &text[signed..];
    let begins =
        |word: &[u8]| rest.len() >= word.len() && rest[..word.len()].eq_ignore_ascii_case(word);
    if begins(b"infinity") {
        return Some((sign * f64::INFINITY, signed + 8));
    }
    if begins(b"inf") {
        return Some((sign * f64::INFINITY, signed + 3));
    }
    if begins(b"nan") {
        return Some((sign * f64::NAN, signed + 3));
    }
    if begins(b"0x")
        && let Some((number, len)) = parse_hexadecimal(&rest[2..])
    {
        return Some((sign * number, signed + 2 + len));
    }
    let digits = |from: usize| {
        rest.get(from..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let whole = digits(0);
    let mut len = whole;
    if rest.get(len) == Some(&b'.') {
        let fraction = digits(len + 1);
        if whole + fraction > 0 {
            len += 1 + fraction;
        }
    }
    if len == 0 {
        return None;
    }
    if matches!(rest.get(len), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(rest.get(len + 1), Some(b'+' | b'-')));
        let exponent = digits(len + 1 + sign);
        if exponent > 0 {
            len += 1 + sign + exponent;
        }
    }
    let number: f64 = std::str::from_utf8(&rest[..len]).ok()?.parse().ok()?;
    Some((sign * number, signed + len))
}

/// Reads the digits after `0x`, with a fraction and a binary exponent.
fn parse_hexadecimal(text: &[u8]) -> Option<(f64, usize)> {
    let mut number = 0.0;
    let mut len = 0;
    let mut scale = 0;
    let mut digits = 0;
    let mut fraction = false;
    loop {
        let byte = text.get(len).copied().unwrap_or(0);
        if let Some(digit) = char::from(byte).to_digit(16) {
            number = number * 16.0 + f64::from(digit);
            digits += 1;
            scale -= i32::from(fraction) * 4;
        } else if byte == b'.' && !fraction {
            fraction = true;
        } else {
            break;
        }
        len += 1;
    }
    if digits == 0 {
        return None;
    }
    if matches!(text.get(len), Some(b'p' | b'P')) {
        let sign = usize::from(matches!(text.get(len + 1), Some(b'+' | b'-')));
        let from = len + 1 + sign;
        let count = text.get(from..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count > 0 {
            let exponent = std::str::from_utf8(&text[from..from + count]).ok()?;
            let exponent = exponent.parse::<i32>().unwrap_or(i32::MAX / 2);
            let negative = text.get(len + 1) == Some(&b'-');
            scale = scale.saturating_add(if negative { -exponent } else { exponent });
            len = from + count;
        }
    }
    Some((number * f64::from(scale).exp2(), len))
}

#[cfg(test)]
mod tests {
    use super::general;

    #[test]
    fn numbers_are_written_as_printf_writes_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (1e14, "1e+14"),
            (99_999_999_999_999.0, "99999999999999"),
            (123_456_789_012_345.0, "1.2345678901234e+14"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1e100, "1e+100"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (1.0 / 3.0, "0.33333333333333"),
        ];
        for (number, text) in cases {
            assert_eq!(general(number, 14), text);
        }
        assert_eq!(general(3.333, 17), "3.3330000000000002");
    }
}
