//! Fuzzes HTTP requests: the requests in any bytes must be the same however the bytes arrive, and
//! none may be longer than the limit.

use bowline::wire::http::{REQUEST_BYTES_MAX, Request, RequestError, parse};

/// The entry point of the fuzzer.
pub(crate) fn http(bytes: &[u8]) {
    let mut rest = bytes;
    // Each request is parsed at each length up to its own, so a few are enough.
    for _ in 0..4 {
        let whole = parse(rest);
        let Ok(Some(request)) = whole else {
            assert_prefixes(rest, whole);
            return;
        };
        assert!((1..=rest.len().min(REQUEST_BYTES_MAX)).contains(&request.length));
        assert!(request.path.starts_with('/') && !request.path.contains('?'), "{request:?}");
        let (own, next) = rest.split_at(request.length);
        assert_eq!(parse(own), whole, "without the bytes after it");
        assert_prefixes(own, whole);
        rest = next;
    }
}

/// Fails unless each beginning of `bytes` is incomplete or has the same result as the whole.
fn assert_prefixes(bytes: &[u8], whole: Result<Option<Request<'_>>, RequestError>) {
    for length in (0..bytes.len().min(REQUEST_BYTES_MAX + 1)).rev().take(256) {
        let part = parse(&bytes[..length]);
        assert!(part == Ok(None) || part == whole, "{part:?} of {length} bytes, not {whole:?}");
    }
}
