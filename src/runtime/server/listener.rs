//! A listening socket that survives a shortage of file descriptors: what can't be accepted now is
//! tried again a little later, and not in a circle.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use crate::types::Instant;

/// How long a shortage is waited out.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    acceptable: bool,
    paused_until: Instant,
}

impl Listener {
    /// Listens.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = TcpListener::bind(address)?;
        Ok(Listener { socket, acceptable: true, paused_until: Instant::ZERO })
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE)
    }

    /// Notes an event.
    pub(super) fn wake(&mut self) {
        self.acceptable = true;
    }

    /// Whether somebody may wait to be accepted.
    pub(super) fn is_acceptable(&self, now: Instant) -> bool {
        self.acceptable && now >= self.paused_until
    }

    /// When to try again after a shortage.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.acceptable.then_some(self.paused_until)
    }

    /// Accepts one, if there is one.
    pub(super) fn accept(&mut self, now: Instant) -> Option<TcpStream> {
        if !self.is_acceptable(now) {
            return None;
        }
        match self.socket.accept() {
            Ok((stream, _)) => return Some(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.acceptable = false,
            // Gone before it was accepted, or a signal: the next may be there already.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                tracing::warn!("can't accept a connection: {error}; is `ulimit -n` too low?");
                self.paused_until = now + PAUSE;
            }
        }
        None
    }
}
