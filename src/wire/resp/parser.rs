//! Requests from bytes: arrays of bulk strings, and inline commands as one types them.
//!
//! Nothing is copied: a request's arguments are ranges of the bytes that were read (but for inline
//! commands, which may hold escapes). What was looked at is not looked at again when more arrives,
//! so a request of a million arguments costs the same in one piece and in many. What Redis
//! refuses is refused in Redis's words; our own limits come on top of its.

use std::fmt;
use std::ops::Range;

use crate::kv::parse_integer;

use super::inline::split_words;

/// Longest inline command and longest line of a length, without their ends, as in Redis.
const LINE_BYTES_MAX: usize = 64 << 10;
/// A `\r\n`.
const LINE_END_BYTES: usize = 2;
/// Room for arguments, and bytes for words, that is kept between requests.
const ARGUMENTS_KEPT: usize = 64;
const WORDS_BYTES_KEPT: usize = 1 << 10;

/// How large a request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of one argument (`proto-max-bulk-len`).
    pub bulk_bytes_max: usize,
    /// Most arguments of one request.
    pub items_max: usize,
    /// Most bytes of one request with all that frames it.
    pub request_bytes_max: usize,
}

/// Bytes that are no request. The connection is of no use any more: say it
/// ([`Writer::error`](super::Writer::error) takes it as it prints), and close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolError {
    /// An inline command does not end.
    InlineTooBig,
    /// An inline command's quotes are not closed, or something follows right behind.
    UnbalancedQuotes,
    /// The line with the number of arguments does not end.
    CountTooBig,
    /// The number of arguments is none, or above the limit.
    InvalidCount,
    /// The line with an argument's length does not end.
    LengthTooBig,
    /// Where `$` belongs there is something else.
    ExpectedBulk(u8),
    /// An argument's length is none, or above the limit.
    InvalidLength,
    /// All arguments together are above the limit.
    RequestTooBig,
}

/// One request: its arguments, the command's name first. Never empty.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    bytes: &'a [u8],
    arguments: &'a [Range<usize>],
}

/// Finds requests in what was read. One for each connection.
///
/// Invariant: all places are counted from the first byte that no request has used, and none lies
/// beyond the bytes that were seen; between requests all are 0 and nothing is expected.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    /// Up to here the request is understood.
    position: usize,
    /// From `position` up to here there is no end of a line.
    searched: usize,
    /// How many arguments are still to come; `None` before their number is known.
    missing: Option<usize>,
    /// The length of the argument that begins at `position`, once that is known.
    bulk_bytes: Option<usize>,
    arguments: Vec<Range<usize>>,
    /// An inline command's arguments, without quotes and escapes.
    words: Vec<u8>,
}

/// How far the parser came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// More bytes are needed.
    Wait,
    /// A request is whole; it may have no arguments. They are in the caller's bytes.
    Array,
    /// The same, and they are in `words`.
    Inline,
}

impl Default for Limits {
    fn default() -> Limits {
        let bulk_bytes_max = 64 << 20;
        Limits { bulk_bytes_max, items_max: 1 << 20, request_bytes_max: bulk_bytes_max + (1 << 20) }
    }
}

impl<'a> Request<'a> {
    /// A request from parts, for tests and for commands inside commands: `arguments` are ranges of
    /// `bytes`, at least one.
    pub fn new(bytes: &'a [u8], arguments: &'a [Range<usize>]) -> Request<'a> {
        assert!(!arguments.is_empty(), "a request has at least a name");
        Request { bytes, arguments }
    }

    /// The request within this one whose name is at `first`, if there is such a word.
    pub fn from(self, first: usize) -> Option<Request<'a>> {
        let arguments = self.arguments.get(first..).filter(|rest| !rest.is_empty())?;
        Some(Request { bytes: self.bytes, arguments })
    }

    /// How many arguments there are, with the name.
    #[expect(clippy::len_without_is_empty, reason = "a request is never empty")]
    pub fn len(&self) -> usize {
        self.arguments.len()
    }

    /// The command's name as it was written.
    pub fn name(&self) -> &'a [u8] {
        &self.bytes[self.arguments[0].clone()]
    }

    /// An argument; the name is at 0.
    pub fn get(&self, at: usize) -> Option<&'a [u8]> {
        Some(&self.bytes[self.arguments.get(at)?.clone()])
    }

    /// All arguments in order, the name first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        self.arguments.iter().map(move |range| &bytes[range.clone()])
    }

    /// All arguments from the one at `first` on; none if there are fewer.
    pub fn rest(&self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        let arguments = self.arguments.get(first..).unwrap_or_default();
        arguments.iter().map(move |range| &bytes[range.clone()])
    }
}

impl Parser {
    /// One for a new connection.
    pub fn new(limits: Limits) -> Parser {
        Parser {
            limits,
            position: 0,
            searched: 0,
            missing: None,
            bulk_bytes: None,
            arguments: Vec::new(),
            words: Vec::new(),
        }
    }

    /// The next whole request in `bytes`, or `None` if there is none yet.
    ///
    /// The first `used` bytes are taken as done with; what the request takes is added to that, and
    /// so are empty lines and empty arrays, which are passed over as in Redis. Between two calls
    /// the caller may take the used bytes off and append new ones, and must change no others.
    ///
    /// # Errors
    /// If the bytes can't be the beginning of a request. Not to be called again then.
    pub fn next<'a>(
        &'a mut self,
        bytes: &'a [u8],
        used: &mut usize,
    ) -> Result<Option<Request<'a>>, ProtocolError> {
        loop {
            let bytes = &bytes[*used..];
            if self.position == 0 {
                self.forget();
            }
            let step = self.step(bytes)?;
            if self.position > self.limits.request_bytes_max {
                return Err(ProtocolError::RequestTooBig);
            }
            if step == Step::Wait {
                return Ok(None);
            }
            *used += self.position;
            (self.position, self.searched, self.missing) = (0, 0, None);
            if !self.arguments.is_empty() {
                let bytes = if step == Step::Inline { &self.words } else { bytes };
                return Ok(Some(Request { bytes, arguments: &self.arguments }));
            }
        }
    }

    /// Bytes of memory that it takes, beside itself.
    pub fn held_bytes(&self) -> usize {
        self.arguments.capacity() * size_of::<Range<usize>>() + self.words.capacity()
    }

    /// Of the last request nothing is needed any more; nor the room that a very long one took.
    fn forget(&mut self) {
        self.arguments.clear();
        self.arguments.shrink_to(ARGUMENTS_KEPT);
        if self.words.capacity() > WORDS_BYTES_KEPT {
            self.words = Vec::new();
        }
    }

    /// Goes on until a request is whole or the bytes end.
    fn step(&mut self, bytes: &[u8]) -> Result<Step, ProtocolError> {
        if self.missing.is_none() {
            match bytes.first() {
                None => return Ok(Step::Wait),
                Some(b'*') => {
                    let Some(line) = self.line(bytes, ProtocolError::CountTooBig)? else {
                        return Ok(Step::Wait);
                    };
                    let count = parse_integer(&line[1..]).ok_or(ProtocolError::InvalidCount)?;
                    // Zero and below ask for nothing.
                    let count = usize::try_from(count).unwrap_or(0);
                    if count > self.limits.items_max {
                        return Err(ProtocolError::InvalidCount);
                    }
                    self.missing = Some(count);
                }
                Some(_) => return self.inline(bytes),
            }
        }
        while let Some(missing) = self.missing.filter(|missing| *missing > 0) {
            let Some(argument) = self.bulk(bytes)? else { return Ok(Step::Wait) };
            self.arguments.push(argument);
            self.missing = Some(missing - 1);
        }
        Ok(Step::Array)
    }

    /// The next argument of an array.
    fn bulk(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, ProtocolError> {
        let Some(length) = self.bulk_length(bytes)? else { return Ok(None) };
        let (start, end) = (self.position, self.position + length);
        // As Redis does, the line's end behind is counted and not looked at.
        if bytes.len() < end + LINE_END_BYTES {
            return Ok(None);
        }
        self.bulk_bytes = None;
        self.position = end + LINE_END_BYTES;
        self.searched = self.position;
        Ok(Some(start..end))
    }

    /// The length of the argument that begins at `position`.
    fn bulk_length(&mut self, bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        if self.bulk_bytes.is_some() {
            return Ok(self.bulk_bytes);
        }
        // What kind it is shows before the line has an end, but Redis waits for that.
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
        // Before its bytes are waited for, or they would pile up first.
        if self.position + length > self.limits.request_bytes_max {
            return Err(ProtocolError::RequestTooBig);
        }
        self.bulk_bytes = Some(length);
        Ok(self.bulk_bytes)
    }

    /// The line at `position` without its end, once that has come; goes behind it. As Redis does,
    /// the byte behind `\r` is counted and not looked at.
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
            // The `\r` itself is to be found again.
            self.searched = found.unwrap_or(bytes.len());
            return Ok(None);
        };
        self.position = end + LINE_END_BYTES;
        self.searched = self.position;
        Ok(Some(&bytes[start..end]))
    }

    /// A command on one line.
    fn inline(&mut self, bytes: &[u8]) -> Result<Step, ProtocolError> {
        let from = self.searched;
        let found = bytes[from..].iter().position(|byte| *byte == b'\n').map(|at| from + at);
        self.searched = found.unwrap_or(bytes.len());
        if self.searched > LINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooBig);
        }
        let Some(end) = found else { return Ok(Step::Wait) };
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        self.words.clear();
        if !split_words(line, &mut self.words, &mut self.arguments) {
            return Err(ProtocolError::UnbalancedQuotes);
        }
        self.position = end + 1;
        Ok(Step::Inline)
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
            ProtocolError::RequestTooBig => f.write_str("too big request"),
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

    /// All requests in `bytes`, which arrive in pieces of `piece` bytes, and what ended it.
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
                    Err(error) => return (found, Some(error)),
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
    fn arrays_and_lines_take_turns() {
        check(
            b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n*1\r\n$4\r\nquit\r\necho 'a b'\n",
            &[&[b"GET", b"k"], &[b"PING"], &[b"quit"], &[b"echo", b"a b"]],
            None,
        );
        check(b"*3\r\n$1\r\na\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n", &[&[b"a", b"", b"\r\n\r\n"]], None);
    }

    #[test]
    fn what_asks_nothing_is_passed_over() {
        check(b"\r\n\n*0\r\n*-1\r\n*-5\r\n  \r\nPING\r\n\r\n", &[&[b"PING"]], None);
        let mut parser = Parser::new(Limits::default());
        let mut used = 0;
        assert!(parser.next(b"\r\n\r\n", &mut used).unwrap().is_none());
        assert_eq!(used, 4, "nothing stays behind");
    }

    #[test]
    fn errors_are_in_the_words_of_redis() {
        let error = |text| Some(text);
        check(
            b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n",
            &[],
            error("ERR Protocol error: expected '$', got 'f'"),
        );
        check(b"*abc\r\n", &[], error("ERR Protocol error: invalid multibulk length"));
        check(b"*\r\n", &[], error("ERR Protocol error: invalid multibulk length"));
        check(b"*20000000\r\n", &[], error("ERR Protocol error: invalid multibulk length"));
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
    fn a_request_has_a_limit_as_a_whole() {
        let limits = Limits { bulk_bytes_max: 10, items_max: 3, request_bytes_max: 40 };
        let small = b"*2\r\n$10\r\n0123456789\r\n$1\r\nx\r\n";
        assert_eq!(parse(small, 1, limits).1, None);
        for (bytes, error) in [
            (&b"*1\r\n$11\r\n"[..], ProtocolError::InvalidLength),
            (b"*4\r\n", ProtocolError::InvalidCount),
            (
                b"*3\r\n$10\r\n0123456789\r\n$10\r\n0123456789\r\n$10\r\n",
                ProtocolError::RequestTooBig,
            ),
            (
                b"*3\r\n$10\r\n0123456789\r\n$9\r\n012345678\r\n$0\r\n\r\n",
                ProtocolError::RequestTooBig,
            ),
        ] {
            for piece in [1, bytes.len()] {
                assert_eq!(parse(bytes, piece, limits), (vec![], Some(error)));
            }
        }
    }

    #[test]
    fn a_request_can_be_looked_at_in_parts() {
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
