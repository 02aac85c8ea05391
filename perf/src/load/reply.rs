//! Replies of a server, independent of the protocol.

/// A server's reply to the load generator, in a form common to all protocols.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reply<'a> {
    /// The request succeeded. The reply contains no value, or only a number, which is ignored.
    Done,
    /// The request succeeded and returned the value of a key; `None` if the key does not exist.
    Value(Option<&'a [u8]>),
    /// The request succeeded and returned this array, which is not decoded yet.
    List(&'a [u8]),
    /// The reply is malformed and cannot be decoded.
    Damaged,
    /// The request failed with this error message from the server. Its first word is the error
    /// code.
    Error(&'a [u8]),
}

/// Returns the error code, which is the first word of an error message. Returns `ERROR` if that
/// word does not look like an error code, so that a misbehaving server cannot fill the results with
/// arbitrary codes.
pub(crate) fn error_code(text: &[u8]) -> &str {
    const LENGTH_MAX: usize = 24;
    let word = text.split(|&byte| byte == b' ').next().unwrap_or_default();
    let plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    match std::str::from_utf8(word) {
        Ok(code) if (1..=LENGTH_MAX).contains(&word.len()) && word.iter().all(plain) => code,
        _ => "ERROR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_error_code_is_the_first_word_of_the_error_message() {
        assert_eq!(error_code(b"MOVED 12 127.0.0.1:7002"), "MOVED");
        assert_eq!(error_code(b"UNCERTAIN"), "UNCERTAIN");
        assert_eq!(error_code(b""), "ERROR");
        assert_eq!(error_code(b"something went wrong"), "ERROR");
        assert_eq!(error_code(&[b'A'; 99]), "ERROR");
    }
}
