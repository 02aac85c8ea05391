//! Replies to bytes, in the version that the connection speaks. What only RESP3 has comes out in
//! RESP2 as Redis writes it there: maps as flat arrays, truth as 1 and 0, doubles as strings.

use std::io::Write as _;

use bytes::{BufMut, BytesMut};

use crate::kv::write_double;

/// Which version of the protocol a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// RESP2, with which every connection begins.
    #[default]
    Two,
    /// RESP3, after `HELLO 3`.
    Three,
}

/// Writes replies behind what is in a buffer. Whoever begins an array, map or set of `n` writes
/// its `n` items (`2 n` for a map) next; nothing checks that.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut BytesMut,
    version: Version,
}

impl Version {
    /// Its number, as in `HELLO`.
    pub fn number(self) -> i64 {
        match self {
            Version::Two => 2,
            Version::Three => 3,
        }
    }
}

impl<'a> Writer<'a> {
    /// Writes to `out` in `version`.
    pub fn new(out: &'a mut BytesMut, version: Version) -> Writer<'a> {
        Writer { out, version }
    }

    /// In which version it writes.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Writes in another version from here on.
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// What it writes to, for bytes that are no reply; whoever adds some takes them off again.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.out
    }

    /// `+text`; without line ends in it.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']), "{text:?} would end the reply");
        self.line(b'+', text.as_bytes());
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.put_slice(b"+OK\r\n");
    }

    /// `-text`, which begins with the error's code, as in `ERR no such key`. What of a request is
    /// quoted in it may hold line ends; they become blanks, as in Redis.
    pub fn error(&mut self, text: &[u8]) {
        self.out.put_u8(b'-');
        let blank = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
        self.out.extend(text.iter().map(blank));
        self.out.put_slice(b"\r\n");
    }

    /// `:number`.
    pub fn integer(&mut self, number: i64) {
        self.number(b':', number);
    }

    /// A string of any bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() + 16);
        self.count(b'$', bytes.len());
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
    }

    /// A string of any bytes, or null.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Null where a string could be.
    pub fn null(&mut self) {
        self.out.put_slice(match self.version {
            Version::Two => b"$-1\r\n",
            Version::Three => b"_\r\n",
        });
    }

    /// Null where an array could be.
    pub fn null_array(&mut self) {
        self.out.put_slice(match self.version {
            Version::Two => b"*-1\r\n",
            Version::Three => b"_\r\n",
        });
    }

    /// Begins an array of so many items.
    pub fn array(&mut self, count: usize) {
        self.count(b'*', count);
    }

    /// Begins a map of so many pairs.
    pub fn map(&mut self, count: usize) {
        match self.version {
            Version::Two => self.count(b'*', 2 * count),
            Version::Three => self.count(b'%', count),
        }
    }

    /// Begins a set of so many items.
    pub fn set(&mut self, count: usize) {
        self.count(if self.version == Version::Two { b'*' } else { b'~' }, count);
    }

    /// Begins a message that nobody asked for, between replies, of so many items.
    pub fn push(&mut self, count: usize) {
        self.count(if self.version == Version::Two { b'*' } else { b'>' }, count);
    }

    /// True or false.
    pub fn boolean(&mut self, truth: bool) {
        match self.version {
            Version::Two => self.integer(truth.into()),
            Version::Three => self.line(b'#', if truth { b"t" } else { b"f" }),
        }
    }

    /// A number with a fraction, in as many digits as Redis 7.0 writes.
    pub fn double(&mut self, number: f64) {
        let text = write_double(number);
        match self.version {
            Version::Two => self.bulk(text.as_bytes()),
            Version::Three => self.line(b',', text.as_bytes()),
        }
    }

    /// A whole number of any length, in digits.
    pub fn big_number(&mut self, digits: &str) {
        match self.version {
            Version::Two => self.bulk(digits.as_bytes()),
            Version::Three => self.line(b'(', digits.as_bytes()),
        }
    }

    /// Plain text for people, as `INFO` gives it.
    pub fn verbatim(&mut self, text: &str) {
        match self.version {
            Version::Two => self.bulk(text.as_bytes()),
            Version::Three => {
                self.out.reserve(text.len() + 16);
                self.count(b'=', text.len() + 4);
                self.out.put_slice(b"txt:");
                self.out.put_slice(text.as_bytes());
                self.out.put_slice(b"\r\n");
            }
        }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.reserve(text.len() + 3);
        self.out.put_u8(kind);
        self.out.put_slice(text);
        self.out.put_slice(b"\r\n");
    }

    fn count(&mut self, kind: u8, count: usize) {
        self.number(kind, i64::try_from(count).expect("there are fewer bytes than 2^63"));
    }

    fn number(&mut self, kind: u8, number: i64) {
        // Room for the longest number, so that no part of it is appended by itself.
        let mut line = [0; 24];
        let mut rest = &mut line[..];
        write!(rest, "{}{number}\r\n", char::from(kind)).expect("it has 21 characters at most");
        let unused = rest.len();
        let length = line.len() - unused;
        self.out.put_slice(&line[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(write: fn(&mut Writer<'_>), two: &str, three: &str) {
        for (version, wanted) in [(Version::Two, two), (Version::Three, three)] {
            let mut out = BytesMut::new();
            write(&mut Writer::new(&mut out, version));
            assert_eq!(out.escape_ascii().to_string(), wanted.escape_debug().to_string());
        }
    }

    #[test]
    fn every_kind_in_both_versions() {
        check(|writer| writer.simple("PONG"), "+PONG\r\n", "+PONG\r\n");
        check(|writer| writer.error(b"ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n");
        check(
            |writer| writer.integer(i64::MIN),
            ":-9223372036854775808\r\n",
            ":-9223372036854775808\r\n",
        );
        check(|writer| writer.bulk(b"a\r\n"), "$3\r\na\r\n\r\n", "$3\r\na\r\n\r\n");
        let nulls = |writer: &mut Writer<'_>| {
            writer.ok();
            writer.null_array();
        };
        check(nulls, "+OK\r\n*-1\r\n", "+OK\r\n_\r\n");
        check(|writer| writer.bulk_or_null(None), "$-1\r\n", "_\r\n");
        check(|writer| writer.bulk_or_null(Some(b"")), "$0\r\n\r\n", "$0\r\n\r\n");
        check(|writer| writer.array(2), "*2\r\n", "*2\r\n");
        check(|writer| writer.map(2), "*4\r\n", "%2\r\n");
        check(|writer| writer.set(2), "*2\r\n", "~2\r\n");
        check(|writer| writer.push(2), "*2\r\n", ">2\r\n");
        check(|writer| writer.boolean(true), ":1\r\n", "#t\r\n");
        check(|writer| writer.boolean(false), ":0\r\n", "#f\r\n");
        let long = ("$19\r\n0.10000000000000001\r\n", ",0.10000000000000001\r\n");
        check(|writer| writer.double(0.1), long.0, long.1);
        check(|writer| writer.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n");
        check(|writer| writer.double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n");
        check(|writer| writer.double(f64::INFINITY), "$3\r\ninf\r\n", ",inf\r\n");
        check(|writer| writer.double(f64::NAN), "$3\r\nnan\r\n", ",nan\r\n");
        check(|writer| writer.big_number("123"), "$3\r\n123\r\n", "(123\r\n");
        check(|writer| writer.verbatim("a\n"), "$2\r\na\n\r\n", "=6\r\ntxt:a\n\r\n");
    }
}
