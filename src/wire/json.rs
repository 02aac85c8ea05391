//! JSON strings: encoding any bytes, and decoding without copies.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Appends `text` as a JSON string with quotes. Bytes that are not UTF-8 become U+FFFD, because
/// JSON can't represent them.
pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        write_escaped(chunk.valid().as_bytes(), out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
    out.push(b'"');
}

/// Appends `text` to a JSON string. Escapes the characters that JSON does not allow in a string.
fn write_escaped(text: &[u8], out: &mut Vec<u8>) {
    let mut written = 0;
    for (position, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[written..position]);
        written = position + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                out.extend_from_slice(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    digit(byte >> 4),
                    digit(byte & 15),
                ]);
            }
        }
    }
    out.extend_from_slice(&text[written..]);
}

/// A decoded JSON string, borrowed from the input unless it contains escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'de>, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &[u8]) -> String {
        let mut out = Vec::new();
        write_string(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_strings_round_trip_with_escapes() {
        let all: String =
            (0..0x3000u32).chain(0x1_F600..0x1_F680).filter_map(char::from_u32).collect();
        assert_eq!(serde_json::from_str::<String>(&written(all.as_bytes())).unwrap(), all);
        assert_eq!(written(b"a\"b\\c\nd\x01"), r#""a\"b\\c\nd\u0001""#);
    }

    #[test]
    fn invalid_utf8_in_a_json_string_is_replaced() {
        assert_eq!(written(b"a\xFFb\xE2\x82"), "\"a\u{FFFD}b\u{FFFD}\"");
        assert_eq!(written(b""), "\"\"");
    }

    #[test]
    fn json_strings_are_decoded_without_copying_unless_escaped() {
        let Text(plain) = serde_json::from_str("\"plain\"").unwrap();
        assert!(matches!(plain, Cow::Borrowed("plain")));
        let Text(escaped) = serde_json::from_str(r#""\u0041""#).unwrap();
        assert_eq!(escaped, "A");
        assert!(serde_json::from_str::<Text<'_>>("5").is_err());
    }
}
