//! Replies of commands and of scripts, in RESP2 and RESP3.

use std::io::Write as _;

/// Everything that RESP2 and RESP3 can say.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value: `$-1` in RESP2, `_` in RESP3.
    Null,
    /// No array: `*-1` in RESP2, `_` in RESP3.
    NullArray,
    /// A status such as `OK`, without line breaks.
    Status(Vec<u8>),
    /// An error with its code, such as `ERR syntax error`, without line breaks.
    Error(Vec<u8>),
    /// An integer.
    Integer(i64),
    /// A string of any bytes.
    Bulk(Vec<u8>),
    /// A list of values.
    Array(Vec<Value>),
    /// Pairs of a key and a value; a flat array in RESP2.
    Map(Vec<(Value, Value)>),
    /// A set of values; an array in RESP2.
    Set(Vec<Value>),
    /// A floating-point number; a string in RESP2.
    Double(f64),
    /// A truth value; 1 or 0 in RESP2.
    Boolean(bool),
    /// Digits of an integer of any size; a string in RESP2.
    BigNumber(Vec<u8>),
    /// A text with its format, such as `txt` or `mkd`; a string in RESP2.
    Verbatim {
        /// Name of the format, three bytes.
        format: Vec<u8>,
        /// The text.
        text: Vec<u8>,
    },
}

impl Value {
    /// Returns an error with the code `ERR`.
    pub fn error(text: &str) -> Self {
        Self::Error(format!("ERR {text}").into_bytes())
    }

    /// Returns whether this is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// Appends this value to `out`, in RESP3 if `resp3` is set and in RESP2 otherwise.
    pub fn write(&self, resp3: bool, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
            Self::NullArray => out.extend_from_slice(if resp3 { b"_\r\n" } else { b"*-1\r\n" }),
            Self::Status(text) => line(b'+', text, out),
            Self::Error(text) => line(b'-', text, out),
            Self::Integer(number) => line(b':', number.to_string().as_bytes(), out),
            Self::Bulk(bytes) => bulk(bytes, out),
            Self::Array(items) => {
                length(b'*', items.len(), out);
                for item in items {
                    item.write(resp3, out);
                }
            }
            Self::Map(pairs) => {
                if resp3 {
                    length(b'%', pairs.len(), out);
                } else {
                    length(b'*', pairs.len() * 2, out);
                }
                for (key, value) in pairs {
                    key.write(resp3, out);
                    value.write(resp3, out);
                }
            }
            Self::Set(items) => {
                length(if resp3 { b'~' } else { b'*' }, items.len(), out);
                for item in items {
                    item.write(resp3, out);
                }
            }
            Self::Double(number) if resp3 => line(b',', double_text(*number).as_bytes(), out),
            Self::Double(number) => bulk(double_text(*number).as_bytes(), out),
            Self::Boolean(truth) if resp3 => line(b'#', if *truth { b"t" } else { b"f" }, out),
            Self::Boolean(truth) => line(b':', if *truth { b"1" } else { b"0" }, out),
            Self::BigNumber(digits) if resp3 => line(b'(', digits, out),
            Self::BigNumber(digits) => bulk(digits, out),
            Self::Verbatim { format, text } if resp3 => {
                length(b'=', text.len() + 4, out);
                out.extend_from_slice(format);
                out.push(b':');
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            Self::Verbatim { text, .. } => bulk(text, out),
        }
    }
}

fn line(kind: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

fn length(kind: u8, count: usize, out: &mut Vec<u8>) {
    out.push(kind);
    // Writing to a vector does not fail.
    let _ = write!(out, "{count}\r\n");
}

fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    length(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Returns a number as Redis 7.0 writes it: with 17 significant digits.
pub(super) fn double_text(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    super::number::general(number, 17)
}
