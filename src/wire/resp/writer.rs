//! Encoding replies in the connection's protocol version. RESP3 types are written in RESP2 as Redis
//! does: maps as flat arrays, booleans as 1 and 0, doubles as strings.

use std::io::Write as _;

use bytes::{BufMut, BytesMut};

use crate::kv::{write_decimal, write_double};

/// Version of the Redis protocol that a connection uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// RESP2, the protocol version of every new connection.
    #[default]
    Two,
    /// RESP3, to which a client switches with `HELLO 3`.
    Three,
}

/// Encodes replies to a client in one version of the Redis protocol, and appends them to a buffer.
/// After the header of an array, map or set of `n` elements the caller must write `n` values (`2 n`
/// for a map); this is not checked.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut BytesMut,
    version: Version,
}

impl Version {
    /// Returns the protocol version as a number, 2 or 3, as used by the command `HELLO`.
    pub fn number(self) -> i64 {
        match self {
            Version::Two => 2,
            Version::Three => 3,
        }
    }
}

impl<'a> Writer<'a> {
    /// Creates a writer that appends to `out` in the given protocol version.
    pub fn new(out: &'a mut BytesMut, version: Version) -> Writer<'a> {
        Writer { out, version }
    }

    /// Returns the protocol version in which replies are written.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Changes the protocol version in which later replies are written.
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// Returns a mutable reference to the buffer to which the writer appends replies. The caller
    /// may use it as scratch space, but must remove everything that it has appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.out
    }

    /// Writes a simple string reply, `+text`. `text` must not contain line endings.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']), "{text:?} would end the reply");
        self.line(b'+', text.as_bytes());
    }

    /// Writes `+OK`.
    pub fn ok(&mut self) {
        self.out.put_slice(b"+OK\r\n");
    }

    /// Writes an error reply, `-text`. `text` begins with an error code, as in `ERR no such key`.
    /// Line endings in `text` become spaces, as in Redis.
    pub fn error(&mut self, text: &[u8]) {
        self.out.put_u8(b'-');
        let escape = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
        self.out.extend(text.iter().map(escape));
        self.out.put_slice(b"\r\n");
    }

    /// Writes an integer reply, `:number`.
    pub fn integer(&mut self, number: i64) {
        self.number(b':', number);
    }

    /// Writes a bulk string, which may contain any bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.bulk_in_slices(bytes.len(), [bytes]);
    }

    /// Writes a bulk string of `length` bytes, which consists of the given slices.
    pub fn bulk_in_slices<'b>(
        &mut self,
        length: usize,
        slices: impl IntoIterator<Item = &'b [u8]>,
    ) {
        self.out.reserve(length + 16);
        self.count(b'$', length);
        for slice in slices {
            self.out.put_slice(slice);
        }
        self.out.put_slice(b"\r\n");
    }

    /// Writes a bulk string, or null if `bytes` is `None`.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Writes a null string. RESP2 encodes null strings and null arrays differently, RESP3 alike.
    pub fn null(&mut self) {
        self.out.put_slice(match self.version {
            Version::Two => b"$-1\r\n",
            Version::Three => b"_\r\n",
        });
    }

    /// Writes a null array. RESP2 encodes null strings and null arrays differently, RESP3 alike.
    pub fn null_array(&mut self) {
        self.out.put_slice(match self.version {
            Version::Two => b"*-1\r\n",
            Version::Three => b"_\r\n",
        });
    }

    /// Writes the header of an array; the caller then writes `count` values.
    pub fn array(&mut self, count: usize) {
        self.count(b'*', count);
    }

    /// Writes the header of a map; the caller then writes `count` keys, each followed by its value.
    /// In RESP2 the map is written as an array.
    pub fn map(&mut self, count: usize) {
        match self.version {
            Version::Two => self.count(b'*', 2 * count),
            Version::Three => self.count(b'%', count),
        }
    }

    /// Writes the header of a set; the caller then writes `count` values. In RESP2 the set is
    /// written as an array.
    pub fn set(&mut self, count: usize) {
        self.count(if self.version == Version::Two { b'*' } else { b'~' }, count);
    }

    /// Writes the header of a push message; the caller then writes `count` values. Push messages,
    /// such as Pub/Sub messages, are not replies to a request. In RESP2 they are written as arrays.
    pub fn push(&mut self, count: usize) {
        self.count(if self.version == Version::Two { b'*' } else { b'>' }, count);
    }

    /// Writes the header of `count` attributes of the next reply, in RESP3 only: in RESP2, replies
    /// have no attributes.
    pub fn attributes(&mut self, count: usize) {
        self.count(b'|', count);
    }

    /// Writes a boolean; in RESP2, as the integer 1 or 0.
    pub fn boolean(&mut self, value: bool) {
        match self.version {
            Version::Two => self.integer(value.into()),
            Version::Three => self.line(b'#', if value { b"t" } else { b"f" }),
        }
    }

    /// Writes a floating-point number with as many digits as Redis 7.0; in RESP2, as a bulk string.
    pub fn double(&mut self, number: f64) {
        self.float(&write_double(number));
    }

    /// Writes a floating-point number like [`Writer::double`], but without an exponent.
    pub fn decimal(&mut self, number: f64) {
        self.float(&write_decimal(number));
    }

    fn float(&mut self, text: &str) {
        match self.version {
            Version::Two => self.bulk(text.as_bytes()),
            Version::Three => self.line(b',', text.as_bytes()),
        }
    }

    /// Writes an integer of any size, given as a string of decimal digits; in RESP2, as a bulk
    /// string.
    pub fn big_number(&mut self, digits: &str) {
        match self.version {
            Version::Two => self.bulk(digits.as_bytes()),
            Version::Three => self.line(b'(', digits.as_bytes()),
        }
    }

    /// Writes human-readable text, such as the reply to `INFO`: a verbatim string in RESP3, a bulk
    /// string in RESP2.
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
        // Formatted on the stack, so that the buffer is extended once and not for every part.
        let mut line = [0; 24];
        let mut rest = &mut line[..];
        write!(rest, "{}{number}\r\n", char::from(kind)).expect("an i64 has at most 20 characters");
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
    fn every_reply_type_is_encoded_in_resp2_and_resp3() {
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
