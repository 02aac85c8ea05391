//! Glob-style patterns as in Redis: `*`, `?`, `[a-z]`, `[^a]`, and `\` to escape a character.

/// Returns whether the whole `text` matches the glob-style `pattern`, as in Redis. The time is at
/// most proportional to the product of their lengths.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // In Redis 7.0 nothing but the empty pattern matches an empty text, not even `*`.
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut at, mut pattern_at) = (0, 0);
    // Where to resume if the pattern after the last `*` does not match: `*` then matches one more
    // byte of text. Backtracking to an earlier `*` could not match more.
    let mut retry = None;
    loop {
        if pattern.get(pattern_at) == Some(&b'*') {
            pattern_at += 1;
            retry = Some((pattern_at, at));
            continue;
        }
        if at == text.len() {
            return pattern_at == pattern.len();
        }
        if let Some(length) = one(&pattern[pattern_at..], text[at]) {
            pattern_at += length;
            at += 1;
            continue;
        }
        let Some((pattern_start, start)) = retry else { return false };
        (pattern_at, at) = (pattern_start, start + 1);
        retry = Some((pattern_start, at));
    }
}

/// Returns the length in bytes of the first element of `pattern` (a literal, `?`, or a class such
/// as `[a-z]`) if `byte` matches it, otherwise `None`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    let (length, fits) = match pattern {
        [] => return None,
        [b'?', ..] => (1, true),
        [b'[', class @ ..] => {
            let (length, fits) = in_class(class, byte);
            (1 + length, fits)
        }
        [b'\\', literal, ..] => (2, *literal == byte),
        [literal, ..] => (1, *literal == byte),
    };
    fits.then_some(length)
}

/// Parses a character class such as `[a-z]`, of which `class` starts after the `[`. Returns two
/// values: the length of the class in bytes, including the `]` if there is one, and whether `byte`
/// is in the class.
fn in_class(class: &[u8], byte: u8) -> (usize, bool) {
    let negated = class.first() == Some(&b'^');
    let (mut at, mut found) = (usize::from(negated), false);
    loop {
        match class[at..] {
            [] => return (at, found != negated),
            [b']', ..] => return (at + 1, found != negated),
            [b'\\', literal, ..] => {
                found |= literal == byte;
                at += 2;
            }
            [one, b'-', other, ..] => {
                found |= (one.min(other)..=one.max(other)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= literal == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_patterns_match_as_in_redis() {
        for (pattern, fits, not) in [
            ("", &[""][..], &["a"][..]),
            ("*", &["a", "abc"], &[""]),
            ("**", &["a"], &[""]),
            ("a*c", &["ac", "abc", "abcc"], &["a", "abcd"]),
            ("*a*b", &["ab", "xaxb", "abab"], &["ba", "aba"]),
            ("a?c", &["abc", "a?c"], &["ac", "abbc"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
            ("[c-a]", &["b"], &["d"]),
            ("[^a]", &["b", "^"], &["a", ""]),
            (r"\*", &["*"], &["a"]),
            (r"[\]]", &["]"], &["a"]),
            ("[a", &["a"], &["b"]),
            ("max*", &["maxmemory", "maxclients"], &["min"]),
        ] {
            for text in fits {
                assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
            }
            for text in not {
                assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn glob_matching_avoids_exponential_backtracking() {
        let pattern = b"*a".repeat(30);
        let text = vec![b'a'; 20_000];
        assert!(matches(&pattern, &text));
        assert!(!matches(&[&pattern[..], b"b"].concat(), &text));
    }
}
