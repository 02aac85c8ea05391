//! Integers as Redis parses them: decimal digits with an optional minus sign, in canonical form
//! only. `+1`, `01`, `-0` and ` 1` are not integers.

/// Maximum length in bytes of a 64-bit integer as decimal text, including its sign.
const TEXT_BYTES_MAX: usize = "-9223372036854775808".len();

/// Parses a 64-bit integer in decimal; `None` if `text` is anything else, has leading zeros or
/// begins with `+`.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', ..] => text.len() <= TEXT_BYTES_MAX,
        _ => false,
    };
    if !canonical {
        return None;
    }
    // Also rejects other characters and values out of range.
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Splits an optional sign off the front of `text`. Returns two values: whether the sign is `-`,
/// and the remaining text.
pub(in crate::kv) fn split_sign(text: &[u8]) -> (bool, &[u8]) {
    let negative = text.first() == Some(&b'-');
    let signed = negative || text.first() == Some(&b'+');
    (negative, &text[usize::from(signed)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_integers_are_parsed() {
        for number in [0, 1, -1, 10, -10, i64::MAX, i64::MIN] {
            assert_eq!(parse_integer(number.to_string().as_bytes()), Some(number));
        }
        for text in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            "-01",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "0x1",
            "--1",
            "a",
            "1a",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999",
            "1\0",
        ] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_integer(b"\xFF"), None);
    }
}
