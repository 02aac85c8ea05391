//! A listening socket. When the process runs out of file descriptors, the socket pauses accepting
//! for a while instead of spinning.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use crate::types::Instant;

/// Time for which no further connection is accepted after an error in accepting one.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket that accepts connections without blocking.
#[derive(Debug)]
pub(crate) struct Listener {
    /// `None` once the socket is closed.
    socket: Option<TcpListener>,
    /// Whether connections may be waiting to be accepted. Set by `Poll` events; cleared when an
    /// accept would block.
    acceptable: bool,
    paused_until: Instant,
}

impl Listener {
    /// Binds a socket to `address` and listens on it.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = TcpListener::bind(address)?;
        Ok(Listener { socket: Some(socket), acceptable: true, paused_until: Instant::ZERO })
    }

    /// Returns the address on which the socket listens.
    #[cfg(test)]
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.as_ref().ok_or(ErrorKind::NotConnected)?.local_addr()
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        registry.register(socket, token, Interest::READABLE)
    }

    /// Closes the socket. Connections that wait to be accepted are reset.
    pub(crate) fn close(&mut self, registry: &Registry) {
        self.acceptable = false;
        if let Some(mut socket) = self.socket.take() {
            // Closing the socket deregisters it, too.
            let _ = registry.deregister(&mut socket);
        }
    }

    /// Records a `Poll` event of this socket, which means that connections may be waiting to be
    /// accepted.
    pub(crate) fn on_event(&mut self) {
        self.acceptable = true;
    }

    /// Returns whether a connection may be waiting to be accepted at `now`. False during the pause
    /// after an error.
    pub(crate) fn is_acceptable(&self, now: Instant) -> bool {
        self.acceptable && now >= self.paused_until
    }

    /// Returns the earliest time at which pending connections may be accepted; `None` if no
    /// connections are pending.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.acceptable.then_some(self.paused_until)
    }

    /// Accepts one pending connection without blocking. Returns `None` if no connection is pending,
    /// if accepting is paused after an error, or if accepting fails.
    pub(crate) fn accept(&mut self, now: Instant) -> Option<TcpStream> {
        let socket = self.socket.as_ref().filter(|_| self.is_acceptable(now))?;
        match socket.accept() {
            Ok((stream, _)) => return Some(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.acceptable = false,
            // The connection was closed before it was accepted, or a signal arrived: the next
            // connection may be pending.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; `ulimit -n` may be too low");
                self.paused_until = now + PAUSE;
            }
        }
        None
    }
}
