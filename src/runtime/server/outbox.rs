//! What waits to be written to one socket: small things gathered in one buffer, large ones as they
//! lie, all of it handed over by vectored writes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};

use bytes::{Buf, Bytes, BytesMut};

/// A part up to this size is copied: a copy costs less than a slice of its own in the write.
pub(super) const COPY_BYTES_MAX: usize = 1 << 10;
/// Slices handed over in one write.
const SLICES_MAX: usize = 64;
/// A buffer that has grown beyond this is given back when it is empty.
const KEPT_BYTES: usize = 1 << 10;

/// Bytes in order.
///
/// Invariant: `sealed_bytes` is the sum of the lengths of `sealed`, none of which is empty; `open`
/// comes behind them.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    sealed: VecDeque<Bytes>,
    sealed_bytes: usize,
    open: BytesMut,
}

impl Outbox {
    /// Where to append what is small.
    pub(super) fn open(&mut self) -> &mut BytesMut {
        &mut self.open
    }

    /// Appends `part` without copying it, if that pays.
    pub(super) fn push(&mut self, part: &Bytes) {
        if part.len() <= COPY_BYTES_MAX {
            self.open.extend_from_slice(part);
            return;
        }
        self.seal();
        self.sealed_bytes += part.len();
        self.sealed.push_back(part.clone());
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.sealed_bytes + self.open.len()
    }

    /// Bytes of memory that it takes.
    pub(super) fn held_bytes(&self) -> usize {
        self.sealed_bytes + self.open.capacity()
    }

    /// Whether none do.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes until nothing waits or `to` takes no more.
    ///
    /// # Errors
    /// Whatever `to` says but that it would have to wait.
    pub(super) fn write_to(&mut self, to: &mut impl Write) -> io::Result<()> {
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
                Ok(written) => self.take(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sealed = VecDeque::new();
        self.open = BytesMut::new();
        Ok(())
    }

    /// The usual case: something small, that the socket takes at once. Nothing is given away then,
    /// so the buffer can be used again. True if there is something left, and more to be tried.
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

    fn take(&mut self, mut written: usize) {
        self.sealed_bytes -= written;
        while written > 0 {
            let front = self.sealed.front_mut().expect("no more is written than there was");
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

    /// Takes a few bytes at a time, and now and then none.
    #[derive(Default)]
    struct Trickle {
        taken: Vec<u8>,
        calls: usize,
    }

    impl Write for Trickle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(3) {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(700);
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn everything_arrives_in_order_however_little_is_taken() {
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for number in 0..20_u8 {
            outbox.open().extend_from_slice(&[number; 10]);
            expected.extend_from_slice(&[number; 10]);
            let part = Bytes::from(vec![100 + number; usize::from(number) * 200]);
            outbox.push(&part);
            expected.extend_from_slice(&part);
        }
        assert_eq!(outbox.len(), expected.len());
        let mut socket = Trickle::default();
        while !outbox.is_empty() {
            outbox.write_to(&mut socket).unwrap();
        }
        assert_eq!(socket.taken, expected);
    }

    #[test]
    fn a_socket_that_is_gone_is_an_error() {
        let mut outbox = Outbox::default();
        outbox.open().extend_from_slice(b"x");
        let mut full: &mut [u8] = &mut [];
        assert!(outbox.write_to(&mut full).is_err());
    }
}
