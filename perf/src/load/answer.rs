//! What a server answered, whatever its protocol.

/// One answer, as far as a run looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer<'a> {
    /// Done, or a number.
    Done,
    /// A value, or that there is none.
    Value(Option<&'a [u8]>),
    /// Several things, as the protocol writes them.
    List(&'a [u8]),
    /// Something that makes no sense.
    Damaged,
    /// An error: its text, of which the first word is its kind.
    Error(&'a [u8]),
}

/// The first word of an error, if it could be a kind: anything else is called `ERROR`, so that a
/// confused server can't fill the results with kinds.
pub(crate) fn error_kind(text: &[u8]) -> &str {
    const LENGTH_MAX: usize = 24;
    let word = text.split(|&byte| byte == b' ').next().unwrap_or_default();
    let plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    match std::str::from_utf8(word) {
        Ok(kind) if (1..=LENGTH_MAX).contains(&word.len()) && word.iter().all(plain) => kind,
        _ => "ERROR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_known_by_its_first_word() {
        assert_eq!(error_kind(b"MOVED 12 127.0.0.1:7002"), "MOVED");
        assert_eq!(error_kind(b"UNCERTAIN"), "UNCERTAIN");
        assert_eq!(error_kind(b""), "ERROR");
        assert_eq!(error_kind(b"something went wrong"), "ERROR");
        assert_eq!(error_kind(&[b'A'; 99]), "ERROR");
    }
}
