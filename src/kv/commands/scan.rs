//! What `HSCAN` and its kin are told: where to go on, how much to look at and what to leave out.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::values::glob;
use crate::kv::values::number::{parse_integer, split_sign};

/// How many are looked at in one call, unless the client says so.
const COUNT: usize = 10;

/// Where to begin; 0 is the beginning, and in a reply the end. C's `strtoul` reads it in Redis:
/// signs are taken, and nothing is 0.
///
/// # Errors
/// In Redis's words, if it is none.
pub(in crate::kv) fn cursor(text: &[u8]) -> Result<u64, Outcome> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let (negative, digits) = split_sign(text);
    let number = if text.is_empty() {
        Some(0)
    } else if digits.iter().all(u8::is_ascii_digit) {
        std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok())
    } else {
        None
    };
    let number = number.ok_or_else(|| Outcome::error("ERR invalid cursor"))?;
    Ok(if negative { number.wrapping_neg() } else { number })
}

/// What was found, and where to go on.
pub(in crate::kv) fn reply(cursor: u64, found: Vec<Option<Bytes>>) -> Outcome {
    let cursor = Outcome::Value(Some(cursor.to_string().into()));
    Outcome::List(vec![cursor, Outcome::Values(found)])
}

/// The words behind the cursor.
#[derive(Debug)]
pub(in crate::kv) struct Options<'w> {
    /// How many to look at, about; at least one.
    pub(in crate::kv) count: usize,
    pattern: Option<&'w [u8]>,
    /// The name of the kind of values that is wanted.
    pub(in crate::kv) kind: Option<&'w [u8]>,
}

impl<'w> Options<'w> {
    /// Those from that word on: `[MATCH pattern] [COUNT count]`.
    ///
    /// # Errors
    /// If there are others.
    pub(in crate::kv) fn read(words: &Args<'w>, from: usize) -> Result<Options<'w>, Refusal> {
        let options = Options::read_of_keys(words, from)?;
        if options.kind.is_some() { Err(Refusal::Syntax) } else { Ok(options) }
    }

    /// The same, and `[TYPE kind]`, which only keys have.
    ///
    /// # Errors
    /// If there are others.
    pub(in crate::kv) fn read_of_keys(
        words: &Args<'w>,
        from: usize,
    ) -> Result<Options<'w>, Refusal> {
        let mut options = Options { count: COUNT, pattern: None, kind: None };
        for pair in words.rest(from).chunks(2) {
            let [name, value] = pair else { return Err(Refusal::Syntax) };
            if name.eq_ignore_ascii_case(b"COUNT") {
                let count = parse_integer(value).ok_or(Refusal::NotAnInteger)?;
                let count = usize::try_from(count).ok().filter(|count| *count > 0);
                options.count = count.ok_or(Refusal::Syntax)?;
            } else if name.eq_ignore_ascii_case(b"MATCH") {
                options.pattern = Some(value);
            } else if name.eq_ignore_ascii_case(b"TYPE") {
                options.kind = Some(value);
            } else {
                return Err(Refusal::Syntax);
            }
        }
        Ok(options)
    }

    /// Whether this is not to be left out.
    pub(in crate::kv) fn fits(&self, text: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_redis_does() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("", Some(0)),
            ("17", Some(17)),
            ("+5", Some(5)),
            ("-1", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("7\0x", Some(7)),
            ("18446744073709551616", None),
            (" 1", None),
            ("1 ", None),
            ("-", None),
            ("x", None),
            ("1x", None),
        ] {
            assert_eq!(cursor(text.as_bytes()).ok(), wanted, "{text}");
        }
    }
}
