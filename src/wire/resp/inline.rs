//! Inline commands: a line split into arguments. White space separates them, double quotes allow
//! escapes, single quotes only `\'`. The rules are those of Redis's `sdssplitargs`.

use std::ops::Range;

/// Splits the line of an inline command into arguments. Appends the bytes of the arguments to
/// `arguments`, and the range of each argument in `arguments` to `ranges`. Returns false if a quote
/// is not closed, or a closing quote is not followed by white space.
pub fn split_arguments(
    line: &[u8],
    arguments: &mut Vec<u8>,
    ranges: &mut Vec<Range<usize>>,
) -> bool {
    // Redis handles the line as a C string, which ends at the first NUL.
    let end = line.iter().position(|byte| *byte == 0).unwrap_or(line.len());
    let mut rest = trim_start(&line[..end]);
    while !rest.is_empty() {
        let start = arguments.len();
        let Some(after) = take_argument(rest, arguments) else { return false };
        ranges.push(start..arguments.len());
        rest = trim_start(after);
    }
    true
}

/// Takes the first argument of an inline command, at the start of `text`: appends it to `arguments`
/// without quotes and escapes, and returns the rest of `text`. Returns `None` if a quote is not
/// closed, or a closing quote is not followed by white space.
fn take_argument<'a>(mut text: &'a [u8], arguments: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match text {
            [] | [b' ' | b'\t' | b'\r' | b'\n', ..] => return Some(text),
            [b'"', quoted @ ..] => return closed(take_double_quoted(quoted, arguments)?),
            [b'\'', quoted @ ..] => return closed(take_single_quoted(quoted, arguments)?),
            [byte, rest @ ..] => {
                arguments.push(*byte);
                text = rest;
            }
        }
    }
}

/// Checks the text after a closing quote in an inline command, which must be empty or begin with
/// white space. Returns `rest` if so; `None` otherwise.
fn closed(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(|byte| is_space(*byte)).then_some(rest)
}

fn take_double_quoted<'a>(mut text: &'a [u8], arguments: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        text = match text {
            [] => return None,
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', b'x', high, low, rest @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                arguments.push(hex(*high) << 4 | hex(*low));
                rest
            }
            [b'\\', escaped, rest @ ..] => {
                arguments.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest
            }
            [byte, rest @ ..] => {
                arguments.push(*byte);
                rest
            }
        }
    }
}

fn take_single_quoted<'a>(mut text: &'a [u8], arguments: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        text = match text {
            [] => return None,
            [b'\'', rest @ ..] => return Some(rest),
            [b'\\', b'\'', rest @ ..] => {
                arguments.push(b'\'');
                rest
            }
            [byte, rest @ ..] => {
                arguments.push(*byte);
                rest
            }
        }
    }
}

fn trim_start(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|byte| is_space(**byte)).count()..]
}

/// Returns whether a byte is white space as defined by C's `isspace`. Between arguments all of
/// these characters are skipped, but an unquoted argument may contain a vertical tab or form feed,
/// as in Redis.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        other => (other | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
        let (mut arguments, mut ranges) = (Vec::new(), Vec::new());
        let is_valid = split_arguments(line, &mut arguments, &mut ranges);
        is_valid.then(|| ranges.into_iter().map(|range| arguments[range].to_vec()).collect())
    }

    #[track_caller]
    fn check(line: &[u8], wanted: &[&[u8]]) {
        let wanted = wanted.iter().map(|argument| argument.to_vec()).collect();
        assert_eq!(split(line), Some(wanted));
    }

    #[test]
    fn white_space_separates_inline_command_arguments() {
        check(b"", &[]);
        check(b" \t ", &[]);
        check(b"  set\tkey   value ", &[b"set", b"key", b"value"]);
        check(b"a\0b c", &[b"a"]);
        check(b"\x0Ba\x0Bb\x0C", &[b"a\x0Bb\x0C"]);
    }

    #[test]
    fn quoted_inline_command_arguments_are_unescaped() {
        check(br#"set "a b" 'c d'"#, &[b"set", b"a b", b"c d"]);
        check(br#""" ''"#, &[b"", b""]);
        check(br#"k"e y""#, &[b"ke y"]);
        check(br#""\x41\xfF\n\r\t\a\b\"\\\q\x4""#, &[b"A\xFF\n\r\t\x07\x08\"\\qx4"]);
        check(br"'it\'s \n'", &[br"it's \n"]);
    }

    #[test]
    fn unbalanced_quotes_in_inline_commands_are_rejected() {
        for line in
            [&br#"set "a"#[..], b"'a", br#""a"b"#, b"'a'b", br#""a\"#, br#""a""b""#, b"\"a\0\""]
        {
            assert_eq!(split(line), None, "{}", line.escape_ascii());
        }
    }
}
