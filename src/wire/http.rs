//! HTTP/1.1 requests to the pages of a replica (metrics, probes), and the heads of the responses.
//!
//! A request has a method, a path and headers, but no body: a request that announces one is
//! rejected, so the end of a request is never in doubt, also between a proxy and this replica. Only
//! GET and HEAD are accepted. The parser keeps no state, and allocates nothing.

use std::fmt::Write as _;

use bytes::BytesMut;

/// Maximum length in bytes of a request: its first line and its headers.
pub const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Maximum number of headers of a request.
const HEADERS_MAX: usize = 64;

/// What a browser may do with a response: load files from this replica only, and run no scripts but
/// those files.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// A request for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Whether only the head of the response is wanted (the method HEAD, not GET).
    pub is_head: bool,
    /// The path, without the query. It begins with `/`.
    pub path: &'a str,
    /// Whether the client may send another request on the same connection.
    pub keeps_open: bool,
    /// Length of the request in bytes. The bytes after it belong to the next request.
    pub length: usize,
}

/// A request that is rejected. The connection must be closed, because the beginning of the next
/// request is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The bytes are not a request, or the request announces a body.
    #[error("malformed request, or one with a body")]
    Malformed,
    /// The method is neither GET nor HEAD.
    #[error("only GET and HEAD are allowed")]
    Method,
    /// The first line and the headers are longer than [`REQUEST_BYTES_MAX`], or there are too many
    /// headers.
    #[error("request longer than {REQUEST_BYTES_MAX} bytes, or more than {HEADERS_MAX} headers")]
    TooLarge,
}

impl RequestError {
    /// Returns the status with which the request is answered.
    pub fn status(self) -> Status {
        match self {
            RequestError::Malformed => Status::BadRequest,
            RequestError::Method => Status::MethodNotAllowed,
            RequestError::TooLarge => Status::TooLarge,
        }
    }
}

/// The status of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// 200: the page.
    Ok,
    /// 400: the request is malformed.
    BadRequest,
    /// 404: there is no such page.
    NotFound,
    /// 405: the method is neither GET nor HEAD.
    MethodNotAllowed,
    /// 431: the request is too large.
    TooLarge,
    /// 503: the replica is not ready, not alive, or too busy to answer.
    Unavailable,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::TooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
        }
    }
}

/// Parses the request at the beginning of `bytes`; returns `None` if it is incomplete.
///
/// # Errors
/// If the request is rejected. More bytes never change that.
pub fn parse(bytes: &[u8]) -> Result<Option<Request<'_>>, RequestError> {
    let is_cut = bytes.len() >= REQUEST_BYTES_MAX;
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(&bytes[..bytes.len().min(REQUEST_BYTES_MAX)]) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if is_cut => return Err(RequestError::TooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(RequestError::TooLarge),
        Err(_) => return Err(RequestError::Malformed),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(RequestError::Malformed);
    };
    let is_head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(RequestError::Method),
    };
    if !target.starts_with('/') {
        return Err(RequestError::Malformed);
    }
    let path = target.split(['?', '#']).next().unwrap_or(target);
    let is_latest = version == 1;
    let keeps_open = check_headers(parsed.headers, is_latest)? && is_latest;
    Ok(Some(Request { is_head, path, keeps_open, length }))
}

/// Checks the headers of a request. Returns whether they allow another request on the same
/// connection. `is_latest` says whether the version is 1.1, which requires a host.
fn check_headers(headers: &[httparse::Header<'_>], is_latest: bool) -> Result<bool, RequestError> {
    let mut hosts = 0;
    let mut keeps_open = true;
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("host") {
            hosts += 1;
        } else if is("transfer-encoding") || is("content-length") && header.value != b"0" {
            return Err(RequestError::Malformed);
        } else if is("connection") {
            let mut options = header.value.split(|byte| *byte == b',');
            keeps_open &= !options.any(|it| it.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
    }
    if hosts > 1 || is_latest && hosts == 0 {
        return Err(RequestError::Malformed);
    }
    Ok(keeps_open)
}

/// Appends the head of a response to `out`. `body_bytes` is the length of the body, which follows
/// unless the request was for the head only.
pub fn write_head(
    out: &mut BytesMut,
    status: Status,
    content_type: &str,
    body_bytes: usize,
    keeps_open: bool,
) {
    let allow = if status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
    let connection = if keeps_open { "" } else { "Connection: close\r\n" };
    write!(
        out,
        "HTTP/1.1 {}\r\nContent-Type: {content_type}\r\nContent-Length: {body_bytes}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Security-Policy: {CONTENT_POLICY}\r\n{allow}{connection}\r\n",
        status.line()
    )
    .expect("memory is writable");
}

/// Appends the head of a stream of server-sent events to `out`. The events follow until the
/// connection ends.
pub fn write_stream_head(out: &mut BytesMut) {
    out.extend_from_slice(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
          X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
    );
}

/// Returns the server-sent event with this data, which must be one line.
pub fn event(data: &str) -> String {
    assert!(!data.contains(['\r', '\n']), "data of more than one line: {data}");
    format!("data: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Result<Option<&str>, RequestError> {
        parse(text.as_bytes()).map(|request| request.map(|request| request.path))
    }

    #[test]
    fn http_requests_have_a_method_a_path_and_an_end() {
        let text = "GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\nHEAD /livez HTTP/1.1\r\n";
        let request = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!((request.path, request.is_head, request.keeps_open), ("/metrics", false, true));
        assert!(text[request.length..].starts_with("HEAD"));
        assert_eq!(path(&text[request.length..]), Ok(None));
        for end in 0..request.length {
            assert_eq!(path(&text[..end]), Ok(None), "a request of {end} bytes");
        }
        let head = parse(b"HEAD / HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert!(head.is_head && !head.keeps_open, "version 1.0 closes the connection");
        let close = b"GET / HTTP/1.1\r\nhost: a\r\nConnection: TE, Close\r\n\r\n";
        assert!(!parse(close).unwrap().unwrap().keeps_open);
    }

    #[test]
    fn http_request_with_a_body_or_an_ambiguous_end_is_malformed() {
        for headers in [
            "Content-Length: 5\r\n",
            "Content-Length: 00\r\n",
            "Content-Length: 0\r\nContent-Length: 7\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Host: b\r\n",
            " folded: x\r\n",
            "Na me: x\r\n",
            "no colon\r\n",
            "a: \0\r\n",
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
            assert_eq!(path(&text), Err(RequestError::Malformed), "{headers}");
        }
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET http://localhost/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "\x16\x03\x01\x02\0\x01",
            "GET /\r\n\r\n",
        ] {
            assert_eq!(path(text), Err(RequestError::Malformed), "{text}");
        }
        assert_eq!(path("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"), Ok(Some("/")));
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
            let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(path(&text), Err(RequestError::Method), "{method}");
        }
    }

    #[test]
    fn http_request_beyond_the_limits_is_too_large() {
        let with = |header: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{header}\r\n");
        let longest = REQUEST_BYTES_MAX - with("a: \r\n").len();
        assert_eq!(path(&with(&format!("a: {}\r\n", "x".repeat(longest)))), Ok(Some("/")));
        let longer = with(&format!("a: {}\r\n", "x".repeat(longest + 1)));
        assert_eq!(path(&longer), Err(RequestError::TooLarge));
        assert_eq!(path(&longer[..REQUEST_BYTES_MAX - 1]), Ok(None));
        assert_eq!(path(&"G".repeat(REQUEST_BYTES_MAX)), Err(RequestError::TooLarge));
        assert_eq!(path(&with(&"a: b\r\n".repeat(HEADERS_MAX - 1))), Ok(Some("/")));
        assert_eq!(path(&with(&"a: b\r\n".repeat(HEADERS_MAX))), Err(RequestError::TooLarge));
    }

    #[test]
    fn http_response_head_says_how_long_the_body_is() {
        let mut out = BytesMut::new();
        write_head(&mut out, Status::MethodNotAllowed, "text/plain", 12, false);
        let text = String::from_utf8(out.to_vec()).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{text}");
        for line in ["Content-Length: 12", "Allow: GET, HEAD", "Connection: close"] {
            assert!(text.contains(&format!("\r\n{line}\r\n")), "{text}");
        }
        assert!(text.ends_with("\r\n\r\n"));
    }
}
