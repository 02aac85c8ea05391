//! One TCP connection that never blocks: what was read, what waits to be written, and whether it
//! is worth trying. Shared by the doors for clients and for peers.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, TcpKeepalive};

use super::outbox::Outbox;

/// A connection registered with `Poll`, edge-triggered: an event is remembered here until a read
/// or a write has found the end of it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// The other side says no more: what is left is read to its end.
    ending: bool,
    /// What waits to be written.
    pub(super) outbox: Outbox,
}

/// What a read found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrived {
    /// So many bytes.
    Some(usize),
    /// Nothing for now.
    Drained,
    /// Nothing ever again.
    Closed,
}

impl Socket {
    /// Takes the connection in. One that is still being made becomes writable when it is.
    pub(super) fn new(
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
            outbox: Outbox::default(),
        };
        if connected {
            socket.no_delay();
        }
        Ok(socket)
    }

    /// Small messages shall not wait for the answer to the one before. A refusal costs only time.
    pub(super) fn no_delay(&self) {
        let _ = self.stream.set_nodelay(true);
    }

    /// Has the system ask whoever is silent for so long whether it is still there; else the
    /// connection of a machine that was switched off would stay for ever.
    pub(super) fn keep_alive(&self, after: Option<Duration>) {
        if let Some(after) = after {
            let how = TcpKeepalive::new().with_time(after).with_interval(after / 3);
            // A refusal costs only that.
            let _ = SockRef::from(&self.stream).set_tcp_keepalive(&how);
        }
    }

    /// Gives the connection up when what was sent has not been taken in for so long: without that
    /// one that leads nowhere lasts for a quarter of an hour, and one through a network that was
    /// interrupted for a minute sleeps for another. Where the system has no such thing it is left
    /// out.
    pub(super) fn limit_silence(&self, patience: Duration) {
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        let _ = SockRef::from(&self.stream).set_tcp_user_timeout(Some(patience));
        #[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")))]
        let _ = patience;
    }

    /// Where the other side is.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    /// Notes an event.
    pub(super) fn wake(&mut self, event: &mio::event::Event) {
        self.ending |= event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// Whether a read may find something.
    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether a write may get rid of something.
    pub(super) fn can_flush(&self) -> bool {
        self.writable && !self.outbox.is_empty()
    }

    /// Whether the connection has been made; an error if it can't be.
    pub(super) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads once.
    pub(super) fn read(&mut self, space: &mut [u8]) -> Arrived {
        match self.stream.read(space) {
            Ok(0) => Arrived::Closed,
            Ok(count) => {
                // Less than there was room for: that was all. What comes later makes an event,
                // but an end that was told together with these bytes makes none.
                if count < space.len() {
                    self.readable = self.ending;
                }
                Arrived::Some(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Arrived::Drained
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Arrived::Drained,
            Err(_) => Arrived::Closed,
        }
    }

    /// Writes what waits, as far as the system takes it.
    ///
    /// # Errors
    /// If the connection is gone.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.outbox.write_to(&mut self.stream)?;
        self.writable = self.outbox.is_empty();
        Ok(())
    }

    /// Gives the connection up.
    pub(super) fn close(&mut self, registry: &Registry) {
        // Both can only say that it is gone already.
        let _ = registry.deregister(&mut self.stream);
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
