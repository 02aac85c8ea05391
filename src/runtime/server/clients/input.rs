//! Bytes received from a client that are not parsed yet.

/// Bytes received from a client that are not parsed yet. Parsed bytes are dropped once they are
/// more than half of the buffer, so that a large input that is parsed in many small parts is not
/// moved each time.
///
/// Invariant: at most half of `buffer` is parsed, so `buffer` is empty if nothing is unparsed.
#[derive(Debug, Default)]
pub(crate) struct Input {
    buffer: Vec<u8>,
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

    /// Appends received bytes. At least `wanted` further bytes will follow if the client sends all
    /// of its request. The buffer doubles when it is full, but does not become larger than that:
    /// half of it would stay empty.
    pub(crate) fn extend(&mut self, received: &[u8], wanted: usize) {
        let length = self.buffer.len() + received.len();
        if length > self.buffer.capacity() && wanted > 0 {
            let capacity = (2 * self.buffer.capacity()).min(length + wanted).max(length);
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
        self.buffer.extend_from_slice(received);
    }

    /// Records that the first `count` unparsed bytes are parsed now.
    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "{count} bytes parsed of {}", self.len());
        self.parsed += count;
        if self.parsed > self.buffer.len() / 2 {
            // Copied, so that a few bytes do not pin the memory of a large request.
            self.buffer = self.unparsed().to_vec();
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
        input.extend(&[7; 1_000], 0);
        input.advance(400);
        assert_eq!((input.len(), input.buffer.len()), (600, 1_000));
        input.advance(200);
        assert_eq!((input.len(), input.buffer.len()), (400, 400));
        assert!(input.held_bytes() < 1_000);
        input.extend(b"last", 0);
        input.advance(400);
        assert_eq!(input.unparsed(), b"last");
        input.advance(4);
        assert!(input.is_empty());
        assert_eq!(input.held_bytes(), 0);
    }

    #[test]
    fn input_of_a_large_argument_grows_to_its_length_and_not_further() {
        let (mut input, total) = (Input::default(), 100_000);
        for received in 1..=total / 1_000 {
            input.extend(&[7; 1_000], total - received * 1_000);
            let held = input.held_bytes();
            assert!(held <= total && held <= 2 * input.len(), "{held} for {}", input.len());
        }
        assert_eq!(input.held_bytes(), total);
    }
}
