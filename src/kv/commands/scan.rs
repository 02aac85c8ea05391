//! Parsing of the cursor and the options of `SCAN`, `HSCAN`, `SSCAN` and `ZSCAN`, and their reply.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::values::glob;
use crate::kv::values::number::{parse_integer, split_sign};

/// Default of the option `COUNT` of `SCAN` and its variants: the number of elements that one call
/// examines.
const COUNT: usize = 10;

/// Parses the cursor argument of a scan command; 0 is the start of the scan. Like Redis, which uses
/// C's `strtoul`, accepts a sign and an empty argument.
///
/// # Errors
/// Redis's error if `text` is not a valid cursor.
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

/// Returns the reply to a scan command: the next cursor, which is 0 at the end of the scan, and the
/// elements `found`.
pub(in crate::kv) fn reply(cursor: u64, found: Vec<Option<Bytes>>) -> Outcome {
    let cursor = Outcome::Value(Some(cursor.to_string().into()));
    Outcome::List(vec![cursor, Outcome::Values(found)])
}

/// The options of `SCAN` and its variants `SSCAN`, `HSCAN` and `ZSCAN`.
#[derive(Debug)]
pub(in crate::kv) struct Options<'w> {
    /// Option `COUNT`: approximate number of elements that one call examines, at least 1.
    pub(in crate::kv) count: usize,
    pattern: Option<&'w [u8]>,
    /// Option `TYPE` of `SCAN`: name of the type of values whose keys are returned; `None` for all
    /// types.
    pub(in crate::kv) value_type: Option<&'w [u8]>,
}

impl<'w> Options<'w> {
    /// Parses the options of `SSCAN`, `HSCAN` or `ZSCAN`, which are the arguments from index `from`
    /// on: `[MATCH pattern] [COUNT count]`.
    ///
    /// # Errors
    /// If an option is unknown or malformed.
    pub(in crate::kv) fn read(args: &Args<'w>, from: usize) -> Result<Options<'w>, Refusal> {
        let options = Options::read_of_keys(args, from)?;
        if options.value_type.is_some() { Err(Refusal::Syntax) } else { Ok(options) }
    }

    /// Parses the options of `SCAN`, which are the arguments from index `from` on: `[MATCH pattern]
    /// [COUNT count] [TYPE type]`.
    ///
    /// # Errors
    /// If an option is unknown or malformed.
    pub(in crate::kv) fn read_of_keys(
        args: &Args<'w>,
        from: usize,
    ) -> Result<Options<'w>, Refusal> {
        let mut options = Options { count: COUNT, pattern: None, value_type: None };
        for pair in args.rest(from).chunks(2) {
            let [name, value] = pair else { return Err(Refusal::Syntax) };
            if name.eq_ignore_ascii_case(b"COUNT") {
                let count = parse_integer(value).ok_or(Refusal::NotAnInteger)?;
                let count = usize::try_from(count).ok().filter(|count| *count > 0);
                options.count = count.ok_or(Refusal::Syntax)?;
            } else if name.eq_ignore_ascii_case(b"MATCH") {
                options.pattern = Some(value);
            } else if name.eq_ignore_ascii_case(b"TYPE") {
                options.value_type = Some(value);
            } else {
                return Err(Refusal::Syntax);
            }
        }
        Ok(options)
    }

    /// Returns whether the element `text` matches the pattern of the option `MATCH`; true if the
    /// option is missing.
    pub(in crate::kv) fn fits(&self, text: &[u8]) -> bool {
        // Unlike in a pattern for channels, a pattern that is only `*` matches the empty text.
        self.pattern.is_none_or(|pattern| pattern == b"*" || glob::matches(pattern, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_cursors_are_parsed_as_in_redis() {
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
