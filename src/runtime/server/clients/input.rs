//! Bytes received from a client that are not parsed yet.

use bytes::BytesMut;

/// Bytes received from a client that are not parsed yet. Parsed bytes are dropped once they are
/// more than half of the buffer, so that a large input that is parsed in many small parts is not
/// moved each time.
///
/// Invariant: at most half of `buffer` is parsed, so `buffer` is empty if nothing is unparsed.
#[derive(Debug, Default)]
pub(crate) struct Input {
    buffer: BytesMut,
    /// Number of bytes at the beginning of `buffer` that are parsed already.
    parsed: usize,
}

impl Input {
    /// Returns whether all bytes are parsed.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Returns the number of unparsed bytes.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len() - self.parsed
    }

    /// Returns the unparsed bytes.
    pub(crate) fn unparsed(&self) -> &[u8] {
        &self.buffer[self.parsed..]
    }

    /// Returns the memory usage, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Appends received bytes.
    pub(crate) fn extend(&mut self, received: &[u8]) {
        self.buffer.extend_from_slice(received);
    }

    /// Records that the first `count` unparsed bytes are parsed now.
    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "{count} bytes parsed of {}", self.len());
        self.parsed += count;
        if self.parsed > self.buffer.len() / 2 {
            // Copied, so that a few bytes do not pin the memory of a large request.
            self.buffer = BytesMut::from(self.unparsed());
            self.parsed = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed_bytes_are_freed_at_half_of_the_input_buffer() {
        let mut input = Input::default();
        input.extend(&[7; 1_000]);
        input.advance(400);
        assert_eq!((input.len(), input.buffer.len()), (600, 1_000));
        input.advance(200);
        assert_eq!((input.len(), input.buffer.len()), (400, 400));
        assert!(input.held_bytes() < 1_000);
        input.extend(b"last");
        input.advance(400);
        assert_eq!(input.unparsed(), b"last");
        input.advance(4);
        assert!(input.is_empty());
        assert_eq!(input.held_bytes(), 0);
    }
}
