//! Splits a stream of bytes into lines. The buffer owns no socket, so that tests can end a read at
//! any position within a line.

use std::ops::Range;

/// Buffer that splits the bytes received from a stream socket into lines.
///
/// Invariant: `start <= end <= bytes.len()`; the bytes in `start..end` were received but not
/// returned yet.
#[derive(Debug)]
pub(super) struct LineBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// Whether received bytes are being discarded up to the next newline, because they belong to a
    /// line that is too long for the buffer.
    skipping: bool,
}

/// The result of [`LineBuffer::next`]: a complete line, or a line that was skipped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Range of a complete line in the buffer, without its newline, for [`LineBuffer::get`]. Valid
    /// until the next call of [`LineBuffer::next`].
    Whole(Range<usize>),
    /// A line was longer than the buffer, and was skipped.
    TooLong,
}

impl LineBuffer {
    /// Creates a buffer for lines of up to `bytes` bytes, including the newline.
    pub(super) fn new(bytes: usize) -> LineBuffer {
        LineBuffer { bytes: vec![0; bytes].into(), start: 0, end: 0, skipping: false }
    }

    /// Returns the next complete line, or reports that a line was too long. Returns `None` if the
    /// unread bytes contain no newline.
    pub(super) fn next(&mut self) -> Option<Line> {
        let pending = &self.bytes[self.start..self.end];
        let length = pending.iter().position(|byte| *byte == b'\n')?;
        let line = self.start..self.start + length;
        self.start = line.end + 1;
        if std::mem::take(&mut self.skipping) {
            return Some(Line::TooLong);
        }
        Some(Line::Whole(line))
    }

    /// Returns the bytes of the line at the range that [`LineBuffer::next`] has returned.
    pub(super) fn get(&self, line: Range<usize>) -> &[u8] {
        &self.bytes[line]
    }

    /// Returns the free part of the buffer, into which the caller receives bytes. That part is
    /// never empty. Must be called only after [`LineBuffer::next`] has returned `None`.
    pub(super) fn free(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.bytes.len() {
            self.skipping = true;
            self.end = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Records that the first `length` bytes of [`LineBuffer::free`] were received.
    pub(super) fn filled(&mut self, length: usize) {
        self.end += length;
        assert!(self.end <= self.bytes.len(), "received more bytes than fit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes `text` through a line buffer of `size` bytes, in pieces of `piece` bytes, and returns
    /// the lines found.
    fn lines(text: &[u8], piece: usize, size: usize) -> Vec<String> {
        let mut buffer = LineBuffer::new(size);
        let mut found = Vec::new();
        for mut part in text.chunks(piece) {
            while !part.is_empty() {
                let free = buffer.free();
                let length = part.len().min(free.len());
                free[..length].copy_from_slice(&part[..length]);
                buffer.filled(length);
                part = &part[length..];
                while let Some(line) = buffer.next() {
                    found.push(match line {
                        Line::Whole(line) => String::from_utf8_lossy(buffer.get(line)).into(),
                        Line::TooLong => "TOO LONG".to_owned(),
                    });
                }
            }
        }
        found
    }

    #[test]
    fn lines_are_complete_however_socket_reads_split_them() {
        let text = b"one\ntwo\n\nthree four five\nsix";
        for piece in 1..=text.len() {
            for size in 16..40 {
                let found = lines(text, piece, size);
                assert_eq!(found, ["one", "two", "", "three four five"], "{piece} of {size}");
            }
        }
    }

    #[test]
    fn too_long_line_is_skipped_and_the_next_one_returned() {
        let text = b"one\n0123456789ABCDEF0123456789\ntwo\n";
        for piece in 1..=text.len() {
            for size in 4..16 {
                let found = lines(text, piece, size);
                assert_eq!(found, ["one", "TOO LONG", "two"], "{piece} of {size}");
            }
        }
    }
}
