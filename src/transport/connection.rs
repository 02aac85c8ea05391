//! What the connections between replicas need of a TCP connection. The server's socket provides it;
//! a driver without TCP uses [`NoTcp`].

use std::convert::Infallible;
use std::io;

use crate::wire::outbound_queue::OutboundQueue;

/// The result of a read from a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadResult {
    /// The read returned this number of bytes.
    Bytes(usize),
    /// The read would block because no bytes have arrived.
    WouldBlock,
    /// The peer has closed the connection, or the connection has failed.
    Closed,
}

/// A non-blocking TCP connection with its readiness and its outbound queue.
pub(crate) trait TcpConnection {
    /// Returns whether a read may return bytes or the end of the connection.
    fn is_readable(&self) -> bool;

    /// Reads once into the buffer `space`, without blocking.
    fn read(&mut self, space: &mut [u8]) -> ReadResult;

    /// Returns the bytes that wait to be written to the connection.
    fn outbound(&mut self) -> &mut OutboundQueue;

    /// Returns whether the outbound queue is not empty and the connection may accept some of its
    /// bytes.
    fn can_flush(&self) -> bool;

    /// Writes queued bytes until the queue is empty or a write would block.
    ///
    /// # Errors
    /// If the connection has failed.
    fn flush(&mut self) -> io::Result<()>;
}

/// The TCP connection of a driver that has none: it has no values.
pub(crate) type NoTcp = Infallible;

impl TcpConnection for NoTcp {
    fn is_readable(&self) -> bool {
        match *self {}
    }

    fn read(&mut self, _: &mut [u8]) -> ReadResult {
        match *self {}
    }

    fn outbound(&mut self) -> &mut OutboundQueue {
        match *self {}
    }

    fn can_flush(&self) -> bool {
        match *self {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match *self {}
    }
}
