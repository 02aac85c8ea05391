//! Cuts a stream of bytes into lines: the buffer behind a stream socket. No socket here, so that
//! every way in which reads can cut lines is easy to test.

use std::ops::Range;

/// Bytes that were read and the lines in them.
///
/// Invariant: `start <= end <= bytes.len()`; what is in `start..end` was read and not handed out.
#[derive(Debug)]
pub(super) struct LineBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// A line longer than the buffer is being thrown away, up to its newline.
    skipping: bool,
}

/// What [`LineBuffer::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line without its newline, to be had from [`LineBuffer::get`] until the next call.
    Whole(Range<usize>),
    /// The end of a line that was too long.
    TooLong,
}

impl LineBuffer {
    /// For lines of up to `bytes` bytes.
    pub(super) fn new(bytes: usize) -> LineBuffer {
        LineBuffer { bytes: vec![0; bytes].into(), start: 0, end: 0, skipping: false }
    }

    /// The next line that has come to its end.
    pub(super) fn next(&mut self) -> Option<Line> {
        let waiting = &self.bytes[self.start..self.end];
        let length = waiting.iter().position(|byte| *byte == b'\n')?;
        let line = self.start..self.start + length;
        self.start = line.end + 1;
        if std::mem::take(&mut self.skipping) {
            return Some(Line::TooLong);
        }
        Some(Line::Whole(line))
    }

    /// The bytes of a line.
    pub(super) fn get(&self, line: Range<usize>) -> &[u8] {
        &self.bytes[line]
    }

    /// Where to read to. Never empty; to be called when [`LineBuffer::next`] has found nothing.
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

    /// So many bytes were read into [`LineBuffer::free`].
    pub(super) fn filled(&mut self, length: usize) {
        self.end += length;
        assert!(self.end <= self.bytes.len(), "more was read than fits");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` in pieces of `piece` bytes through a buffer of `size` bytes.
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
    fn lines_come_whole_however_they_were_cut() {
        let text = b"one\ntwo\n\nthree four five\nsix";
        for piece in 1..=text.len() {
            for size in 16..40 {
                let found = lines(text, piece, size);
                assert_eq!(found, ["one", "two", "", "three four five"], "{piece} of {size}");
            }
        }
    }

    #[test]
    fn a_line_that_does_not_fit_is_skipped_and_the_next_one_taken() {
        let text = b"one\n0123456789ABCDEF0123456789\ntwo\n";
        for piece in 1..=text.len() {
            for size in 4..16 {
                let found = lines(text, piece, size);
                assert_eq!(found, ["one", "TOO LONG", "two"], "{piece} of {size}");
            }
        }
    }
}
