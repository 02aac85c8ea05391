//! A line that somebody typed, cut into words: blanks part them, double quotes know escapes, single
//! quotes only `\'`. The rules are those of Redis's own splitter.

use std::ops::Range;

/// Appends the words of `line` to `words` and where each of them is to `ranges`. False if quotes
/// are not closed, or something other than a blank follows a closing one.
pub(super) fn split_words(
    line: &[u8],
    words: &mut Vec<u8>,
    ranges: &mut Vec<Range<usize>>,
) -> bool {
    // There it is text of the C language: it ends at the first NUL.
    let end = line.iter().position(|byte| *byte == 0).unwrap_or(line.len());
    let mut rest = trim_start(&line[..end]);
    while !rest.is_empty() {
        let start = words.len();
        let Some(behind) = take_word(rest, words) else { return false };
        ranges.push(start..words.len());
        rest = trim_start(behind);
    }
    true
}

/// Appends the word that `text` begins with to `words`; what is behind it.
fn take_word<'a>(mut text: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match text {
            [] | [b' ' | b'\t' | b'\r' | b'\n', ..] => return Some(text),
            [b'"', quoted @ ..] => return closed(take_double_quoted(quoted, words)?),
            [b'\'', quoted @ ..] => return closed(take_single_quoted(quoted, words)?),
            [byte, behind @ ..] => {
                words.push(*byte);
                text = behind;
            }
        }
    }
}

/// Quotes end a word, so nothing but a blank may follow.
fn closed(behind: &[u8]) -> Option<&[u8]> {
    behind.first().is_none_or(|byte| is_space(*byte)).then_some(behind)
}

fn take_double_quoted<'a>(mut text: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        text = match text {
            [] => return None,
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', b'x', high, low, behind @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                words.push(hex(*high) << 4 | hex(*low));
                behind
            }
            [b'\\', escaped, behind @ ..] => {
                words.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                behind
            }
            [byte, behind @ ..] => {
                words.push(*byte);
                behind
            }
        }
    }
}

fn take_single_quoted<'a>(mut text: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        text = match text {
            [] => return None,
            [b'\'', behind @ ..] => return Some(behind),
            [b'\\', b'\'', behind @ ..] => {
                words.push(b'\'');
                behind
            }
            [byte, behind @ ..] => {
                words.push(*byte);
                behind
            }
        }
    }
}

fn trim_start(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|byte| is_space(**byte)).count()..]
}

/// What C's `isspace` takes. Redis asks it between words; a vertical tab or form feed within a
/// word belongs to it there.
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
        let (mut words, mut ranges) = (Vec::new(), Vec::new());
        let whole = split_words(line, &mut words, &mut ranges);
        whole.then(|| ranges.into_iter().map(|range| words[range].to_vec()).collect())
    }

    #[track_caller]
    fn check(line: &[u8], wanted: &[&[u8]]) {
        let wanted = wanted.iter().map(|word| word.to_vec()).collect();
        assert_eq!(split(line), Some(wanted));
    }

    #[test]
    fn blanks_part_words() {
        check(b"", &[]);
        check(b" \t ", &[]);
        check(b"  set\tkey   value ", &[b"set", b"key", b"value"]);
        check(b"a\0b c", &[b"a"]);
        check(b"\x0Ba\x0Bb\x0C", &[b"a\x0Bb\x0C"]);
    }

    #[test]
    fn quotes_keep_them_together() {
        check(br#"set "a b" 'c d'"#, &[b"set", b"a b", b"c d"]);
        check(br#""" ''"#, &[b"", b""]);
        check(br#"k"e y""#, &[b"ke y"]);
        check(br#""\x41\xfF\n\r\t\a\b\"\\\q\x4""#, &[b"A\xFF\n\r\t\x07\x08\"\\qx4"]);
        check(br"'it\'s \n'", &[br"it's \n"]);
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in
            [&br#"set "a"#[..], b"'a", br#""a"b"#, b"'a'b", br#""a\"#, br#""a""b""#, b"\"a\0\""]
        {
            assert_eq!(split(line), None, "{}", line.escape_ascii());
        }
    }
}
