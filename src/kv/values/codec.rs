//! The encoding of numbers and byte strings in snapshots. Decoders remove the bytes that they read
//! from the front of `from`, return `None` for malformed input, and never allocate more memory than
//! the input's length.

use bytes::{Buf as _, BufMut as _};

/// Appends `number` to `out` in LEB128, a variable-length encoding with seven bits per byte, the
/// lowest bits first; the highest bit of each byte except the last is set.
pub(in crate::kv) fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Decodes a number that [`put_number`] encoded, and removes it from the front of `from`; `None` if
/// the bytes are malformed.
pub(in crate::kv) fn take_number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        let bits = u64::from(byte & 0x7F);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Appends the length of a byte string to `out`, followed by the bytes.
pub(in crate::kv) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_number(bytes.len() as u64, out);
    out.put_slice(bytes);
}

/// Decodes a byte string that [`put_bytes`] encoded, and removes it from the front of `from`;
/// `None` if the bytes are malformed.
pub(in crate::kv) fn take_bytes<'b>(from: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(take_number(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

/// Decodes a boolean, encoded as the byte 0 or 1, and removes it from the front of `from`; `None`
/// if there is no byte or it has another value.
pub(in crate::kv) fn take_flag(from: &mut &[u8]) -> Option<bool> {
    match from.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}
