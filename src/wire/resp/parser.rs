//! The request parser: arrays of bulk strings, and inline commands as typed by hand.
//!
//! Nothing is copied: a request's arguments are ranges of the received bytes, except for inline
//! commands, which may have escapes. Bytes are scanned once even if they arrive in pieces, so a
//! request of a million arguments costs the same in one piece and in many. Error messages are those
//! of Redis; the limit on the length of a request is stricter. A longer request is skipped as it
//! arrives, so it needs no memory.

use std::fmt;
use std::ops::Range;

use crate::kv::parse_integer;

use super::inline::split_arguments;

/// Maximum length in bytes of a line in a request: an inline command, or the count or length in
/// front of arguments. The limit is that of Redis.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Maximum number of arguments of a request before the client has logged in, as in Redis.
const COUNT_BEFORE_LOGIN_MAX: usize = 10;
/// Maximum length of an argument in bytes before the client has logged in, as in Redis.
const BYTES_BEFORE_LOGIN_MAX: usize = 16 << 10;
/// Length in bytes of the line ending `\r\n`.
const LINE_END_BYTES: usize = 2;
/// Number of arguments whose positions the parser can store without allocating memory for each
/// request. After a request with more arguments, the additional memory is freed.
const ARGUMENTS_KEPT: usize = 64;
/// Size in bytes of the buffer for an inline command's arguments that stays allocated between
/// requests.
const INLINE_BYTES_KEPT: usize = 1 << 10;

/// Limits on the size of a client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum length of an argument in bytes (`proto-max-bulk-len`).
    pub bulk_bytes_max: usize,
    /// Maximum number of arguments of one request, including the command's name.
    pub items_max: usize,
    /// Maximum length of a request in bytes, including the protocol's length prefixes and line
    /// endings.
    pub request_bytes_max: usize,
}

/// Reason why received bytes are not a valid Redis request. It is formatted as the error reply of
/// Redis; the replica sends this reply with [`Writer::error`](super::Writer::error) and closes the
/// connection, except after [`ProtocolError::RequestTooBig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolError {
    /// An inline command's line is longer than 64 KiB.
    InlineTooBig,
    /// An inline command has an unclosed quote, or a closing quote that is not followed by white
    /// space.
    UnbalancedQuotes,
    /// The line with the number of arguments, `*n`, is longer than 64 KiB.
    CountTooBig,
    /// The number of arguments, `*n`, is malformed or exceeds the limit.
    InvalidCount,
    /// The line with an argument's length, `$n`, is longer than 64 KiB.
    LengthTooBig,
    /// An argument begins with this byte instead of `$`.
    ExpectedBulk(u8),
    /// An argument's length, `$n`, is malformed or exceeds the limit.
    InvalidLength,
    /// The request of a client that has not logged in has too many arguments.
    CountBeforeLogin,
    /// The request of a client that has not logged in has an argument that is too long.
    LengthBeforeLogin,
    /// The whole request is longer than [`Limits::request_bytes_max`], whose value is given. The
    /// request was skipped, and the parser continues with the next one.
    RequestTooBig(usize),
}

/// A parsed Redis request: the command's name, which counts as the first argument, and the other
/// arguments. Has at least one argument.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    bytes: &'a [u8],
    arguments: &'a [Range<usize>],
}

/// Incremental parser for the Redis requests of one connection.
///
/// Invariant: all positions are offsets from the end of the previous request, and never exceed the
/// number of bytes received. Between two requests all positions are 0.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    /// Number of bytes of the current request that have been parsed.
    position: usize,
    /// Offset up to which the current line has been searched for a line ending without success. The
    /// next call continues the search there.
    searched: usize,
    /// Number of arguments of the current request that have not been parsed yet; `None` before the
    /// argument count has been parsed.
    missing: Option<usize>,
    /// Length in bytes of the argument whose contents begin at `position`; `None` if its length has
    /// not been parsed yet.
    bulk_bytes: Option<usize>,
    /// Whether the current request is too long. Its bytes are dropped as soon as they are parsed,
    /// so `position` and `bulk_bytes` do not count those of earlier calls.
    skips: bool,
    /// Whether the client has not logged in, so that lower limits apply.
    is_before_login: bool,
    arguments: Vec<Range<usize>>,
    /// Concatenated arguments of an inline command, without quotes and escapes.
    inline: Vec<u8>,
}

/// Result of parsing: whether the current request is complete, and where its arguments are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The request is incomplete: more bytes are needed.
    Incomplete,
    /// A request in the form of a RESP array is complete. Its arguments, of which there may be
    /// none, are ranges of the received bytes.
    Array,
    /// An inline command is complete. Its arguments are ranges of the buffer `Parser::inline`.
    Inline,
}

impl Default for Limits {
    fn default() -> Limits {
        let bulk_bytes_max = 64 << 20;
        // The number of arguments is limited by the length of the request.
        let items_max = i32::MAX as usize;
        Limits { bulk_bytes_max, items_max, request_bytes_max: bulk_bytes_max + (1 << 20) }
    }
}

impl<'a> Request<'a> {
    /// Creates a request from the ranges of its arguments in `bytes`, without parsing. At least one
    /// argument is required: the command's name. For tests and for commands queued by MULTI.
    pub fn new(bytes: &'a [u8], arguments: &'a [Range<usize>]) -> Request<'a> {
        assert!(!arguments.is_empty(), "a request has at least a name");
        Request { bytes, arguments }
    }

    /// Returns the request that is nested in this one: the arguments from index `first` on, which
    /// begin with the nested command's name. `None` if there is no such argument.
    pub fn from(self, first: usize) -> Option<Request<'a>> {
        let arguments = self.arguments.get(first..).filter(|rest| !rest.is_empty())?;
        Some(Request { bytes: self.bytes, arguments })
    }

    /// Returns the number of arguments, including the command's name.
    #[expect(clippy::len_without_is_empty, reason = "a request is never empty")]
    pub fn len(&self) -> usize {
        self.arguments.len()
    }

    /// Returns the command's name, in upper or lower case as the client sent it.
    pub fn name(&self) -> &'a [u8] {
        &self.bytes[self.arguments[0].clone()]
    }

    /// Returns the argument at `index`, where index 0 is the command's name; `None` if the request
    /// has fewer arguments.
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        Some(&self.bytes[self.arguments.get(index)?.clone()])
    }

    /// Returns all arguments in order, beginning with the command's name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        self.arguments.iter().map(move |range| &bytes[range.clone()])
    }

    /// Returns the arguments from index `first` on; an empty iterator if there are none.
    pub fn rest(&self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        let arguments = self.arguments.get(first..).unwrap_or_default();
        arguments.iter().map(move |range| &bytes[range.clone()])
    }
}

impl Parser {
    /// Creates a parser for a new client connection, with limits on the size of a request.
    pub fn new(limits: Limits) -> Parser {
        Parser {
            limits,
            position: 0,
            searched: 0,
            missing: None,
            bulk_bytes: None,
            skips: false,
            is_before_login: false,
            arguments: Vec::new(),
            inline: Vec::new(),
        }
    }

    /// Changes the maximum length of an argument (`proto-max-bulk-len`), in bytes, from the next
    /// argument on.
    pub fn set_bulk_bytes_max(&mut self, bytes: usize) {
        self.limits.bulk_bytes_max = bytes;
    }

    /// Sets whether the client has not logged in. If so, a request may have at most 10
    /// arguments of at most 16 KiB.
    pub fn limit_before_login(&mut self, is_before_login: bool) {
        self.is_before_login = is_before_login;
    }

    /// Returns whether the limits for a client that has not logged in apply.
    pub fn is_before_login(&self) -> bool {
        self.is_before_login
    }

    /// Parses and returns the next complete request in `bytes`; `None` if more bytes are needed.
    ///
    /// Parsing starts after the first `used` bytes. `used` grows by the length of the returned
    /// request and of skipped empty lines and empty arrays. Between two calls the caller may remove
    /// used bytes from the front of `bytes` and append new bytes at the end.
    ///
    /// # Errors
    /// If the bytes are not the beginning of a request, or if a request was too long. The parser
    /// must not be used after an error, except after [`ProtocolError::RequestTooBig`].
    pub fn next<'a>(
        &'a mut self,
        bytes: &'a [u8],
        used: &mut usize,
    ) -> Result<Option<Request<'a>>, ProtocolError> {
        loop {
            let bytes = &bytes[*used..];
            if self.position == 0 {
                self.clear();
            }
            let progress = self.advance(bytes)?;
            if progress == Progress::Incomplete {
                if self.skips {
                    *used += std::mem::take(&mut self.position);
                    self.searched = 0;
                }
                return Ok(None);
            }
            *used += self.position;
            (self.position, self.searched, self.missing) = (0, 0, None);
            if std::mem::take(&mut self.skips) {
                return Err(ProtocolError::RequestTooBig(self.limits.request_bytes_max));
            }
            if !self.arguments.is_empty() {
                let bytes = if progress == Progress::Inline { &self.inline } else { bytes };
                return Ok(Some(Request { bytes, arguments: &self.arguments }));
            }
        }
    }

    /// Returns whether the next byte begins a request.
    pub fn is_between_requests(&self) -> bool {
        self.position == 0 && self.missing.is_none() && !self.skips
    }

    /// Returns how many bytes are missing to complete the argument whose length is known, if
    /// `available` bytes of the request have been received; 0 if no argument is incomplete.
    pub fn missing_bytes(&self, available: usize) -> usize {
        let end = self.bulk_bytes.map_or(0, |length| self.position + length + LINE_END_BYTES);
        end.saturating_sub(available)
    }

    /// Returns the number of bytes that the parser has allocated on the heap.
    pub fn held_bytes(&self) -> usize {
        self.arguments.capacity() * size_of::<Range<usize>>() + self.inline.capacity()
    }

    /// Resets the parser for the next request. After a very long request, frees most of the
    /// parser's memory.
    fn clear(&mut self) {
        self.arguments.clear();
        self.arguments.shrink_to(ARGUMENTS_KEPT);
        if self.inline.capacity() > INLINE_BYTES_KEPT {
            self.inline = Vec::new();
        }
    }

    /// Continues to parse the current request until it is complete or more bytes are needed.
    fn advance(&mut self, bytes: &[u8]) -> Result<Progress, ProtocolError> {
        if self.missing.is_none() {
            match bytes.first() {
                None => return Ok(Progress::Incomplete),
                Some(b'*') => {
                    let Some(line) = self.line(bytes, ProtocolError::CountTooBig)? else {
                        return Ok(Progress::Incomplete);
                    };
                    let count = parse_integer(&line[1..]).ok_or(ProtocolError::InvalidCount)?;
                    // Zero and negative counts are empty requests.
                    let count = usize::try_from(count).unwrap_or(0);
                    if count > self.limits.items_max {
                        return Err(ProtocolError::InvalidCount);
                    }
                    if self.is_before_login && count > COUNT_BEFORE_LOGIN_MAX {
                        return Err(ProtocolError::CountBeforeLogin);
                    }
                    self.missing = Some(count);
                }
                Some(_) => return self.parse_inline(bytes),
            }
        }
        while let Some(missing) = self.missing.filter(|missing| *missing > 0) {
            let Some(argument) = self.bulk(bytes)? else { return Ok(Progress::Incomplete) };
            if !self.skips {
                self.arguments.push(argument);
            }
            self.missing = Some(missing - 1);
        }
        Ok(Progress::Array)
    }

    /// Parses the next argument of a RESP array and returns its range in `bytes`; `None` if more
    /// bytes are needed.
    fn bulk(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, ProtocolError> {
        let Some(length) = self.bulk_length(bytes)? else { return Ok(None) };
        let (start, end) = (self.position, self.position + length);
        // As in Redis, the two bytes after the argument are skipped without a check.
        if bytes.len() < end + LINE_END_BYTES {
            if self.skips {
                let skipped = bytes.len().min(end) - start;
                self.position += skipped;
                self.searched = self.position;
                self.bulk_bytes = Some(length - skipped);
            }
            return Ok(None);
        }
        self.bulk_bytes = None;
        self.position = end + LINE_END_BYTES;
        self.searched = self.position;
        Ok(Some(start..end))
    }

    /// Parses the length prefix, `$n`, of the next argument and returns the length in bytes; `None`
    /// if more bytes are needed.
    fn bulk_length(&mut self, bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        if self.bulk_bytes.is_some() {
            return Ok(self.bulk_bytes);
        }
        // The first byte is enough to detect the error, but Redis waits for the whole line.
        let Some(line) = self.line(bytes, ProtocolError::LengthTooBig)? else { return Ok(None) };
        let digits = match line {
            [b'$', digits @ ..] => digits,
            [other, ..] => return Err(ProtocolError::ExpectedBulk(*other)),
            [] => return Err(ProtocolError::ExpectedBulk(b'\r')),
        };
        let length = parse_integer(digits)
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length <= self.limits.bulk_bytes_max)
            .ok_or(ProtocolError::InvalidLength)?;
        if self.is_before_login && length > BYTES_BEFORE_LOGIN_MAX {
            return Err(ProtocolError::LengthBeforeLogin);
        }
        // Checked before the argument's bytes arrive, which would be buffered otherwise.
        if self.position + length + LINE_END_BYTES > self.limits.request_bytes_max {
            self.skips = true;
            self.arguments = Vec::new();
        }
        self.bulk_bytes = Some(length);
        Ok(self.bulk_bytes)
    }

    /// Parses the next line and returns it without its line ending; `None` if more bytes are
    /// needed. As in Redis, any byte is accepted after `\r`.
    fn line<'b>(
        &mut self,
        bytes: &'b [u8],
        too_big: ProtocolError,
    ) -> Result<Option<&'b [u8]>, ProtocolError> {
        let start = self.position;
        let from = self.searched.max(start);
        let found = bytes[from..].iter().position(|byte| *byte == b'\r').map(|at| from + at);
        let length = found.unwrap_or(bytes.len()) - start;
        if length > LINE_BYTES_MAX {
            return Err(too_big);
        }
        let Some(end) = found.filter(|end| bytes.len() >= end + LINE_END_BYTES) else {
            // The next search has to find the `\r` again.
            self.searched = found.unwrap_or(bytes.len());
            return Ok(None);
        };
        self.position = end + LINE_END_BYTES;
        self.searched = self.position;
        Ok(Some(&bytes[start..end]))
    }

    /// Parses the current line as an inline command; returns [`Progress::Incomplete`] if its end
    /// has not arrived yet.
    fn parse_inline(&mut self, bytes: &[u8]) -> Result<Progress, ProtocolError> {
        let from = self.searched;
        let found = bytes[from..].iter().position(|byte| *byte == b'\n').map(|at| from + at);
        self.searched = found.unwrap_or(bytes.len());
        if self.searched > LINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooBig);
        }
        let Some(end) = found else { return Ok(Progress::Incomplete) };
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        self.inline.clear();
        if !split_arguments(line, &mut self.inline, &mut self.arguments) {
            return Err(ProtocolError::UnbalancedQuotes);
        }
        self.position = end + 1;
        Ok(Progress::Inline)
    }
}

impl ProtocolError {
    /// Returns whether the bytes after the error cannot be parsed, so that the connection must be
    /// closed.
    pub fn is_fatal(self) -> bool {
        !matches!(self, ProtocolError::RequestTooBig(_))
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let ProtocolError::RequestTooBig(max) = self {
            return write!(f, "ERR the request is too large: at most {max} bytes are allowed");
        }
        f.write_str("ERR Protocol error: ")?;
        match self {
            ProtocolError::InlineTooBig => f.write_str("too big inline request"),
            ProtocolError::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            ProtocolError::CountTooBig => f.write_str("too big mbulk count string"),
            ProtocolError::InvalidCount => f.write_str("invalid multibulk length"),
            ProtocolError::LengthTooBig => f.write_str("too big bulk count string"),
            ProtocolError::ExpectedBulk(found) => {
                write!(f, "expected '$', got '{}'", char::from(*found))
            }
            ProtocolError::InvalidLength => f.write_str("invalid bulk length"),
            ProtocolError::CountBeforeLogin => f.write_str("unauthenticated multibulk length"),
            ProtocolError::LengthBeforeLogin => f.write_str("unauthenticated bulk length"),
            ProtocolError::RequestTooBig(_) => unreachable!("it is no protocol error"),
        }
    }
}

impl std::error::Error for ProtocolError {}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(<[u8]>::escape_ascii)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Requests = Vec<Vec<Vec<u8>>>;

    /// Parses `bytes`, which arrive in pieces of `piece` bytes. Returns all requests, and the error
    /// that ended the parsing, if any.
    fn parse(bytes: &[u8], piece: usize, limits: Limits) -> (Requests, Option<ProtocolError>) {
        let mut parser = Parser::new(limits);
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            let mut used = 0;
            loop {
                match parser.next(&buffer, &mut used) {
                    Ok(Some(request)) => found.push(request.iter().map(<[u8]>::to_vec).collect()),
                    Ok(None) => break,
                    Err(error) if error.is_fatal() => return (found, Some(error)),
                    Err(error) => found.push(vec![error.to_string().into_bytes()]),
                }
            }
            buffer.drain(..used);
        }
        (found, None)
    }

    #[track_caller]
    fn check(bytes: &[u8], wanted: &[&[&[u8]]], error: Option<&str>) {
        for piece in [1, 2, 3, 7, bytes.len().max(1)] {
            let (found, failed) = parse(bytes, piece, Limits::default());
            assert_eq!(found, wanted, "in pieces of {piece}");
            assert_eq!(failed.map(|error| error.to_string()).as_deref(), error);
        }
    }

    #[test]
    fn resp_arrays_and_inline_commands_may_alternate() {
        check(
            b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n*1\r\n$4\r\nquit\r\necho 'a b'\n",
            &[&[b"GET", b"k"], &[b"PING"], &[b"quit"], &[b"echo", b"a b"]],
            None,
        );
        check(b"*3\r\n$1\r\na\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n", &[&[b"a", b"", b"\r\n\r\n"]], None);
    }

    #[test]
    fn empty_resp_requests_are_skipped() {
        check(b"\r\n\n*0\r\n*-1\r\n*-5\r\n  \r\nPING\r\n\r\n", &[&[b"PING"]], None);
        let mut parser = Parser::new(Limits::default());
        let mut used = 0;
        assert!(parser.next(b"\r\n\r\n", &mut used).unwrap().is_none());
        assert_eq!(used, 4, "all bytes are consumed");
    }

    #[test]
    fn resp_protocol_errors_match_those_of_redis() {
        let error = |text| Some(text);
        check(
            b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n",
            &[],
            error("ERR Protocol error: expected '$', got 'f'"),
        );
        check(b"*abc\r\n", &[], error("ERR Protocol error: invalid multibulk length"));
        check(b"*\r\n", &[], error("ERR Protocol error: invalid multibulk length"));
        check(b"*2147483648\r\n", &[], error("ERR Protocol error: invalid multibulk length"));
        check(
            b"PING\r\n*1\r\n$-1\r\n",
            &[&[b"PING"]],
            error("ERR Protocol error: invalid bulk length"),
        );
        check(b"*1\r\n$2000000000\r\n", &[], error("ERR Protocol error: invalid bulk length"));
        check(b"*1\r\n$x\r\n", &[], error("ERR Protocol error: invalid bulk length"));
        check(b"*1\r\n\r\n", &[], error("ERR Protocol error: expected '$', got '\r'"));
        check(b"set \"a\r\n", &[], error("ERR Protocol error: unbalanced quotes in request"));
        let long = vec![b'1'; LINE_BYTES_MAX + 1];
        check(&long, &[], error("ERR Protocol error: too big inline request"));
        check(
            &[b"*", &long[..]].concat(),
            &[],
            error("ERR Protocol error: too big mbulk count string"),
        );
        let count = [b"*1\r\n$", &long[..]].concat();
        check(&count, &[], error("ERR Protocol error: too big bulk count string"));
    }

    #[test]
    fn resp_request_above_a_size_limit_is_rejected() {
        let limits = Limits { bulk_bytes_max: 10, items_max: 3, request_bytes_max: 40 };
        let small = b"*2\r\n$10\r\n0123456789\r\n$1\r\nx\r\n";
        assert_eq!(parse(small, 1, limits).1, None);
        for (bytes, error) in [
            (&b"*1\r\n$11\r\n"[..], ProtocolError::InvalidLength),
            (b"*4\r\n", ProtocolError::InvalidCount),
        ] {
            for piece in [1, bytes.len()] {
                assert_eq!(parse(bytes, piece, limits), (vec![], Some(error)));
            }
        }
    }

    #[test]
    fn too_long_request_is_skipped_as_it_arrives() {
        let limits = Limits { bulk_bytes_max: 10, items_max: 9, request_bytes_max: 40 };
        let long =
            b"*4\r\n$10\r\n0123456789\r\n$10\r\n01\r\n*1\r\n$1\r\n$9\r\n012345678\r\n$0\r\n\r\n";
        let bytes = [&b"*1\r\n$1\r\na\r\n"[..], long, long, b"*1\r\n$1\r\nb\r\n"].concat();
        let error = ProtocolError::RequestTooBig(40).to_string().into_bytes();
        let wanted =
            vec![vec![b"a".to_vec()], vec![error.clone()], vec![error], vec![b"b".to_vec()]];
        for piece in [1, 2, 3, 7, 20, bytes.len()] {
            assert_eq!(
                parse(&bytes, piece, limits),
                (wanted.clone(), None),
                "in pieces of {piece}"
            );
        }
        // No more is kept of it than of a line.
        let mut parser = Parser::new(limits);
        let (mut buffer, mut most) = (Vec::new(), 0);
        for byte in long {
            buffer.push(*byte);
            let mut used = 0;
            let end = parser.next(&buffer, &mut used).map(|request| request.is_some());
            buffer.drain(..used);
            most = most.max(buffer.len());
            assert_ne!(end, Ok(true), "it was not refused");
        }
        assert!(most <= limits.request_bytes_max + 10, "{most} bytes, with a line");
    }

    #[test]
    fn resp_request_arguments_are_accessible_by_index() {
        let mut parser = Parser::new(Limits::default());
        let request = parser.next(b"mset a 1 b 2\n", &mut 0).unwrap().unwrap();
        assert_eq!(
            (request.len(), request.name(), request.get(2)),
            (5, &b"mset"[..], Some(&b"1"[..]))
        );
        assert_eq!(request.get(5), None);
        assert_eq!(request.rest(3).collect::<Vec<_>>(), [b"b", b"2"]);
        assert_eq!(request.rest(9).len(), 0);
    }
}
