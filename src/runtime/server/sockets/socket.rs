//! A non-blocking TCP connection with its readiness and its outbound queue.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, TcpKeepalive};

use crate::transport::connection::{ReadResult, TcpConnection};
use crate::wire::outbound_queue::OutboundQueue;

/// A connection registered with `Poll`. `Poll` is edge-triggered: it reports readiness once, so the
/// socket records its readiness until a read or a write would block.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// Whether the peer has closed its end of the connection. The socket then stays readable until
    /// a read returns the end of the stream.
    ending: bool,
    /// Bytes waiting to be written to the connection.
    pub(crate) outbound: OutboundQueue,
}

impl Socket {
    /// Registers a connection with `Poll`. `connected` is false if the connection is still being
    /// established.
    pub(crate) fn new(
        mut stream: TcpStream,
        registry: &Registry,
        token: Token,
        connected: bool,
    ) -> io::Result<Socket> {
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let socket = Socket {
            stream,
            readable: connected,
            writable: connected,
            ending: false,
            outbound: OutboundQueue::default(),
        };
        if connected {
            socket.set_no_delay();
        }
        Ok(socket)
    }

    /// Sets `TCP_NODELAY`, so that a small message does not wait for the acknowledgement of an
    /// earlier one. Errors are ignored, since they only cost latency.
    pub(crate) fn set_no_delay(&self) {
        let _ = self.stream.set_nodelay(true);
    }

    /// Enables TCP keep-alive probes after a time of `after` without traffic; `None` leaves them
    /// disabled. Without probes, a connection to a machine that was switched off would never be
    /// closed.
    pub(crate) fn set_keep_alive(&self, after: Option<Duration>) {
        if let Some(after) = after {
            let interval = (after / 3).max(Duration::from_secs(1));
            let parameters = TcpKeepalive::new().with_time(after).with_interval(interval);
            // If this fails, no probes are sent.
            let _ = SockRef::from(&self.stream).set_tcp_keepalive(&parameters);
        }
    }

    /// Returns the time without traffic after which keep-alive probes are sent; `None` if they are
    /// disabled.
    #[cfg(test)]
    pub(crate) fn keep_alive(&self) -> Option<Duration> {
        let socket = SockRef::from(&self.stream);
        let interval = socket.tcp_keepalive_interval().unwrap();
        let is_enabled = socket.keepalive().unwrap() && !interval.is_zero();
        is_enabled.then(|| socket.tcp_keepalive_time().unwrap())
    }

    /// Sets `TCP_USER_TIMEOUT`: the connection is closed when sent data is not acknowledged within
    /// `timeout`. By default, the system closes a broken connection only after about a quarter of
    /// an hour. Does nothing on systems without this option.
    pub(crate) fn set_user_timeout(&self, timeout: Duration) {
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        let _ = SockRef::from(&self.stream).set_tcp_user_timeout(Some(timeout));
        #[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")))]
        let _ = timeout;
    }

    /// Returns the address of the peer; `None` if the connection is closed.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    /// Records the readiness that a `Poll` event of this socket reports.
    pub(crate) fn on_event(&mut self, event: &mio::event::Event) {
        self.ending |= event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// Returns whether a read may return bytes or the end of the stream.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Returns whether the peer is known to have closed its end of the connection.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending
    }

    /// Makes the next read ask the system, although no `Poll` event has reported bytes.
    pub(crate) fn assume_readable(&mut self) {
        self.readable = true;
    }

    /// Returns whether the outbound queue is not empty and the socket may accept some of its bytes.
    pub(crate) fn can_flush(&self) -> bool {
        self.writable && !self.outbound.is_empty()
    }

    /// Returns whether the connection is established; false while the attempt to connect is in
    /// progress.
    ///
    /// # Errors
    /// If the connection cannot be established.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads once into the buffer `space`, without blocking.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> ReadResult {
        match self.stream.read(space) {
            Ok(0) => ReadResult::Closed,
            Ok(count) => {
                // After a partial read no more bytes are waiting, and later bytes cause an event. A
                // close that was reported with these bytes causes no further event.
                if count < space.len() {
                    self.readable = self.ending;
                }
                ReadResult::Bytes(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                ReadResult::WouldBlock
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => ReadResult::WouldBlock,
            Err(_) => ReadResult::Closed,
        }
    }

    /// Writes queued bytes until the queue is empty or a write would block.
    ///
    /// # Errors
    /// If the connection has failed.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.outbound.write_to(&mut self.stream)?;
        self.writable = self.outbound.is_empty();
        Ok(())
    }

    /// Closes the connection.
    pub(crate) fn close(&mut self, registry: &Registry) {
        // Both fail only if the connection is closed already.
        let _ = registry.deregister(&mut self.stream);
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl TcpConnection for Socket {
    fn is_readable(&self) -> bool {
        Socket::is_readable(self)
    }

    fn read(&mut self, space: &mut [u8]) -> ReadResult {
        Socket::read(self, space)
    }

    fn outbound(&mut self) -> &mut OutboundQueue {
        &mut self.outbound
    }

    fn can_flush(&self) -> bool {
        Socket::can_flush(self)
    }

    fn flush(&mut self) -> io::Result<()> {
        Socket::flush(self)
    }
}
