//! Decompresses strings that Redis has compressed with LZF. The maintained crates allocate the
//! stated length before they look at the bytes, and this program never compresses.
//!
//! ```text
//!  000LLLLL                     followed by L + 1 bytes of the string
//!  LLLooooo oooooooo            a copy of L + 2 bytes, at the distance o + 1
//!  111ooooo LLLLLLLL oooooooo   a copy of L + 9 bytes, at the distance o + 1
//! ```

/// Returns the decompressed string; `None` if `bytes` are malformed or the string has another
/// length than `length`. Allocates no more than it has decompressed.
pub(super) fn decompress(mut bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut string = Vec::new();
    while let [control, rest @ ..] = bytes {
        let control = usize::from(*control);
        bytes = rest;
        if control < 32 {
            let (literal, rest) = bytes.split_at_checked(control + 1)?;
            string.extend_from_slice(literal);
            bytes = rest;
        } else {
            let mut count = control >> 5;
            if count == 7 {
                let (more, rest) = bytes.split_first()?;
                count += usize::from(*more);
                bytes = rest;
            }
            let (low, rest) = bytes.split_first()?;
            bytes = rest;
            let distance = ((control & 31) << 8 | usize::from(*low)) + 1;
            let start = string.len().checked_sub(distance)?;
            // The copy may overlap what it appends.
            for at in start..start + count + 2 {
                string.push(string[at]);
            }
        }
        if string.len() > length {
            return None;
        }
    }
    (string.len() == length).then_some(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_strings_are_decompressed() {
        assert_eq!(decompress(&[], 0), Some(vec![]));
        assert_eq!(decompress(&[1, b'a', b'b'], 2), Some(b"ab".to_vec()));
        // One byte, repeated 3 and 11 times.
        assert_eq!(decompress(&[0, b'a', 1 << 5, 0], 4), Some(b"aaaa".to_vec()));
        assert_eq!(decompress(&[0, b'a', 7 << 5, 2, 0], 12), Some(vec![b'a'; 12]));
    }

    #[test]
    fn malformed_compressed_strings_are_refused() {
        for (bytes, length) in [
            (&[1, b'a'][..], 2),
            (&[1, b'a', b'b'], 1),
            (&[1, b'a', b'b'], 3),
            (&[0, b'a', 1 << 5], 4),
            (&[0, b'a', 1 << 5, 1], 4),
            (&[7 << 5], 9),
            (&[0, b'a', 7 << 5, 255, 0], 4),
        ] {
            assert_eq!(decompress(bytes, length), None, "{bytes:?}");
        }
    }
}
