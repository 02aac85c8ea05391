//! Reads a [`Value`] from RESP2 or RESP3 bytes.

use super::Value;

/// How deep arrays may be nested.
const DEPTH_MAX: usize = 32;

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The reply goes on after the last byte.
    #[error("the reply is not complete")]
    Incomplete,
    /// The bytes do not follow the protocol.
    #[error("the bytes are no reply in RESP")]
    Malformed,
    /// Arrays in arrays, more than 32 deep.
    #[error("the reply is nested more than {DEPTH_MAX} deep")]
    TooDeep,
}

/// Reads one value from the front of `bytes`, and returns it with its length in bytes.
///
/// Attributes (`|`) are skipped. Nothing larger than `bytes` is allocated, whatever the lengths in
/// it say.
///
/// # Errors
///
/// If the bytes are no reply, or only the beginning of one.
pub fn read_value(bytes: &[u8]) -> Result<(Value, usize), ReadError> {
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.value(0)?;
    Ok((value, reader.at))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, ReadError> {
        if depth > DEPTH_MAX {
            return Err(ReadError::TooDeep);
        }
        let line = self.line()?;
        let (&kind, rest) = line.split_first().ok_or(ReadError::Malformed)?;
        Ok(match kind {
            b'+' => Value::Status(rest.to_vec()),
            b'-' => Value::Error(rest.to_vec()),
            b':' => Value::Integer(parse(rest)?),
            b'$' => match self.blob(rest)? {
                Some(bytes) => Value::Bulk(bytes.to_vec()),
                None => Value::Null,
            },
            b'*' => match self.count(rest)? {
                Some(count) => Value::Array(self.values(count, depth)?),
                None => Value::NullArray,
            },
            b'_' => Value::Null,
            b'#' if rest == b"t" => Value::Boolean(true),
            b'#' if rest == b"f" => Value::Boolean(false),
            b',' => Value::Double(parse(rest)?),
            b'(' => Value::BigNumber(rest.to_vec()),
            b'=' => {
                let blob = self.blob(rest)?.ok_or(ReadError::Malformed)?;
                if blob.len() < 4 || blob[3] != b':' {
                    return Err(ReadError::Malformed);
                }
                Value::Verbatim { format: blob[..3].to_vec(), text: blob[4..].to_vec() }
            }
            b'~' | b'>' => {
                let count = self.count(rest)?.ok_or(ReadError::Malformed)?;
                Value::Set(self.values(count, depth)?)
            }
            b'%' => {
                let count = self.count(rest)?.ok_or(ReadError::Malformed)?;
                Value::Map(self.pairs(count, depth)?)
            }
            b'|' => {
                let count = self.count(rest)?.ok_or(ReadError::Malformed)?;
                self.pairs(count, depth)?;
                self.value(depth + 1)?
            }
            _ => return Err(ReadError::Malformed),
        })
    }

    fn values(&mut self, count: usize, depth: usize) -> Result<Vec<Value>, ReadError> {
        // Each value has at least three bytes.
        let mut values = Vec::with_capacity(count.min((self.bytes.len() - self.at) / 3));
        for _ in 0..count {
            values.push(self.value(depth + 1)?);
        }
        Ok(values)
    }

    fn pairs(&mut self, count: usize, depth: usize) -> Result<Vec<(Value, Value)>, ReadError> {
        let mut pairs = Vec::with_capacity(count.min((self.bytes.len() - self.at) / 6));
        for _ in 0..count {
            pairs.push((self.value(depth + 1)?, self.value(depth + 1)?));
        }
        Ok(pairs)
    }

    /// Returns the number of elements that a line announces; `None` for -1.
    fn count(&self, text: &[u8]) -> Result<Option<usize>, ReadError> {
        let count: i64 = parse(text)?;
        if count == -1 {
            return Ok(None);
        }
        let count = usize::try_from(count).map_err(|_| ReadError::Malformed)?;
        // A count beyond the bytes that are left is found out without reading them all.
        if count > self.bytes.len() - self.at {
            return Err(ReadError::Incomplete);
        }
        Ok(Some(count))
    }

    /// Returns as many bytes as a line announces; `None` for -1.
    fn blob(&mut self, text: &[u8]) -> Result<Option<&'a [u8]>, ReadError> {
        let Some(len) = self.count(text)? else { return Ok(None) };
        let rest = &self.bytes[self.at..];
        if rest.len() < len + 2 {
            return Err(ReadError::Incomplete);
        }
        if &rest[len..len + 2] != b"\r\n" {
            return Err(ReadError::Malformed);
        }
        self.at += len + 2;
        Ok(Some(&rest[..len]))
    }

    fn line(&mut self) -> Result<&'a [u8], ReadError> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\r').ok_or(ReadError::Incomplete)?;
        match rest.get(end + 1) {
            None => Err(ReadError::Incomplete),
            Some(b'\n') => {
                self.at += end + 2;
                Ok(&rest[..end])
            }
            Some(_) => Err(ReadError::Malformed),
        }
    }
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Result<T, ReadError> {
    let text = std::str::from_utf8(text).map_err(|_| ReadError::Malformed)?;
    text.parse().map_err(|_| ReadError::Malformed)
}
