//! Bytes waiting to be written to one connection (a socket or a datagram stream). Small parts
//! are copied into a shared buffer, large parts are queued without a copy, and all parts are
//! written with vectored writes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};

use bytes::{Buf, Bytes, BytesMut};

/// Maximum length in bytes of a part (piece of a message) that is copied into the shared buffer. Up
/// to this length, a copy costs less than a separate slice in the vectored write.
pub(crate) const COPY_BYTES_MAX: usize = 1 << 10;
/// Maximum number of slices in one vectored write.
const SLICES_MAX: usize = 64;
/// Maximum capacity in bytes of an empty buffer that is kept for reuse. A larger buffer is freed.
const KEPT_BYTES: usize = 1 << 10;

/// Bytes waiting to be written to one connection (a socket or a datagram stream), in order.
///
/// Invariant: `sealed_bytes` is the total length of the parts in `sealed`, none of which is empty.
/// The bytes in `open` come after these parts.
#[derive(Debug, Default)]
pub(crate) struct OutboundQueue {
    sealed: VecDeque<Bytes>,
    sealed_bytes: usize,
    open: BytesMut,
}

impl OutboundQueue {
    /// Returns a mutable reference to the buffer at the end of the queue, to which the caller can
    /// append small pieces.
    pub(crate) fn open(&mut self) -> &mut BytesMut {
        &mut self.open
    }

    /// Appends `part` to the queue. A part of at most [`COPY_BYTES_MAX`] bytes is copied; a longer
    /// one is shared without a copy.
    pub(crate) fn push(&mut self, part: &Bytes) {
        if part.len() <= COPY_BYTES_MAX {
            self.open.extend_from_slice(part);
            return;
        }
        self.seal();
        self.sealed_bytes += part.len();
        self.sealed.push_back(part.clone());
    }

    /// Returns the parts that are queued without a copy.
    #[cfg(test)]
    pub(crate) fn shared_parts(&self) -> Vec<&Bytes> {
        self.sealed.iter().filter(|part| part.len() > COPY_BYTES_MAX).collect()
    }

    /// Returns the number of queued bytes.
    pub(crate) fn len(&self) -> usize {
        self.sealed_bytes + self.open.len()
    }

    /// Returns the memory usage of the queue, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.sealed_bytes + self.open.capacity()
    }

    /// Returns whether the queue is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes queued bytes to `to` until the queue is empty or the write would block.
    ///
    /// # Errors
    /// If the write fails with any other error.
    pub(crate) fn write_to(&mut self, to: &mut impl Write) -> io::Result<()> {
        if self.sealed.is_empty() && !self.write_open(to)? {
            return Ok(());
        }
        self.seal();
        while !self.sealed.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            for (slice, part) in slices.iter_mut().zip(&self.sealed) {
                *slice = IoSlice::new(part);
            }
            let count = self.sealed.len().min(SLICES_MAX);
            match to.write_vectored(&slices[..count]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.remove(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sealed = VecDeque::new();
        self.open = BytesMut::new();
        Ok(())
    }

    /// Fast path of [`OutboundQueue::write_to`] for a queue that consists of small pieces only: a
    /// single write of the buffer, which is then reused. Returns true if bytes are left and another
    /// write may succeed; false if all bytes were written or the write would block.
    fn write_open(&mut self, to: &mut impl Write) -> io::Result<bool> {
        if self.open.is_empty() {
            return Ok(false);
        }
        match to.write(&self.open) {
            Ok(written) if written == self.open.len() => {
                if self.open.capacity() > KEPT_BYTES {
                    self.open = BytesMut::new();
                }
                self.open.clear();
                Ok(false)
            }
            Ok(0) => Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                self.open.advance(written);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.sealed_bytes += self.open.len();
            self.sealed.push_back(self.open.split().freeze());
        }
    }

    fn remove(&mut self, mut written: usize) {
        self.sealed_bytes -= written;
        while written > 0 {
            let front = self.sealed.front_mut().expect("a write accepts no more than it is given");
            let part = written.min(front.len());
            front.advance(part);
            written -= part;
            if front.is_empty() {
                self.sealed.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that accepts 700 bytes at a time and would block on every third write.
    #[derive(Default)]
    struct SlowWriter {
        written: Vec<u8>,
        calls: usize,
    }

    impl Write for SlowWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(3) {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(700);
            self.written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn outbound_queue_keeps_byte_order_over_partial_socket_writes() {
        let mut queue = OutboundQueue::default();
        let mut expected = Vec::new();
        for number in 0..20_u8 {
            queue.open().extend_from_slice(&[number; 10]);
            expected.extend_from_slice(&[number; 10]);
            let part = Bytes::from(vec![100 + number; usize::from(number) * 200]);
            queue.push(&part);
            expected.extend_from_slice(&part);
        }
        assert_eq!(queue.len(), expected.len());
        let mut socket = SlowWriter::default();
        while !queue.is_empty() {
            queue.write_to(&mut socket).unwrap();
        }
        assert_eq!(socket.written, expected);
    }

    #[test]
    fn socket_write_of_zero_bytes_is_an_error() {
        let mut queue = OutboundQueue::default();
        queue.open().extend_from_slice(b"x");
        let mut full: &mut [u8] = &mut [];
        assert!(queue.write_to(&mut full).is_err());
    }
}
