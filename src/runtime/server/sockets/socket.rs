//! A non-blocking TCP connection, plain or with TLS, with its readiness and its outbound queue.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::pki_types::CertificateDer;
use socket2::{SockRef, TcpKeepalive};

use crate::tls::{DatagramKeys, Failure, Session, SessionRead};
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
    /// The state of TLS; `None` if the connection is plain.
    tls: Option<Box<Session>>,
    /// Bytes waiting to be written to the connection, before encryption.
    pub(crate) outbound: OutboundQueue,
}

impl Socket {
    /// Registers a connection with `Poll`. `connected` is false if the connection is still being
    /// established. `tls` is the state of TLS before the handshake; `None` for a plain connection.
    pub(crate) fn new(
        mut stream: TcpStream,
        registry: &Registry,
        token: Token,
        connected: bool,
        tls: Option<Session>,
    ) -> io::Result<Socket> {
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let socket = Socket {
            stream,
            readable: connected,
            writable: connected,
            ending: false,
            tls: tls.map(Box::new),
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
        // A connection on which this replica only receives is never flushed.
        let _ = self.write_encrypted();
    }

    /// Returns whether a read may return bytes or the end of the stream.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable || self.tls.as_ref().is_some_and(|tls| tls.has_decrypted())
    }

    /// Returns whether the connection uses TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns whether the handshake of TLS is not complete; false on a plain connection.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Returns why TLS has failed; `None` if it has not.
    pub(crate) fn tls_failure(&self) -> Option<&Failure> {
        self.tls.as_ref()?.failure()
    }

    /// Returns the verified certificate of the other side; `None` if it has presented none.
    pub(crate) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.tls.as_ref()?.certificate()
    }

    /// Returns keys for datagrams between the two sides of the connection; `None` on a plain one,
    /// or before the end of the handshake.
    pub(crate) fn datagram_keys(&self) -> Option<DatagramKeys> {
        self.tls.as_ref()?.datagram_keys()
    }

    /// Returns the memory usage of the buffers and of TLS, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.outbound.held_bytes() + self.tls.as_ref().map_or(0, |tls| tls.held_bytes())
    }

    /// Returns whether the system has accepted everything that was to be written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outbound.is_empty() && !self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Returns whether the peer is known to have closed its end of the connection.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending
    }

    /// Returns whether the peer has closed its end of the connection. Asks the system, because
    /// `Poll` may not have reported it yet. Unread bytes of the peer hide it.
    pub(crate) fn check_ending(&mut self) -> bool {
        if !self.ending {
            self.ending = match self.stream.peek(&mut [0]) {
                Ok(count) => count == 0,
                Err(error) => {
                    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
                }
            };
            self.readable |= self.ending;
        }
        self.ending
    }

    /// Makes the next read ask the system, although no `Poll` event has reported bytes.
    pub(crate) fn assume_readable(&mut self) {
        self.readable = true;
    }

    /// Returns whether bytes wait to be written and the socket may accept some of them.
    pub(crate) fn can_flush(&self) -> bool {
        self.writable
            && match &self.tls {
                None => !self.outbound.is_empty(),
                Some(tls) if tls.is_handshaking() => tls.wants_write(),
                Some(_) => !self.is_flushed(),
            }
    }

    /// Returns whether the connection is established, including the handshake of TLS; false while
    /// the attempt to connect is in progress. Continues the handshake.
    ///
    /// # Errors
    /// If the connection cannot be established.
    pub(crate) fn is_connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) if self.tls.is_none() => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(error),
        }
        self.write_encrypted()?;
        while self.is_handshaking() && self.readable {
            // There can be no bytes before the end of the handshake.
            if self.read(&mut [0]) != ReadResult::WouldBlock {
                return Err(ErrorKind::ConnectionAborted.into());
            }
        }
        Ok(!self.is_handshaking())
    }

    /// Reads once into the buffer `space`, without blocking.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> ReadResult {
        if self.tls.is_some() {
            return self.read_encrypted(space);
        }
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

    /// Reads until there are decrypted bytes or the socket has none.
    fn read_encrypted(&mut self, space: &mut [u8]) -> ReadResult {
        loop {
            let Some(tls) = &mut self.tls else { return ReadResult::Closed };
            let mut is_empty = false;
            let read = tls.read(&mut self.stream, space, &mut is_empty);
            if is_empty {
                // As after a partial read of a plain connection.
                self.readable = self.ending;
            }
            // For example the answer in a handshake, or an alert. If it fails, so does a read.
            let _ = self.write_encrypted();
            return match read {
                Ok(SessionRead::Bytes(count)) => ReadResult::Bytes(count),
                Ok(SessionRead::Nothing) if self.readable => continue,
                Ok(SessionRead::Nothing) => ReadResult::WouldBlock,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    ReadResult::WouldBlock
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => ReadResult::WouldBlock,
                Ok(SessionRead::Closed) | Err(_) => ReadResult::Closed,
            };
        }
    }

    /// Writes queued bytes until the queue is empty or a write would block.
    ///
    /// # Errors
    /// If the connection has failed.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.tls.is_none() {
            self.outbound.write_to(&mut self.stream)?;
            self.writable = self.outbound.is_empty();
            return Ok(());
        }
        self.write_encrypted()?;
        while let Some(tls) = &mut self.tls
            && self.writable
            && !tls.is_handshaking()
            && !self.outbound.is_empty()
        {
            self.outbound.write_to(&mut tls.writer())?;
            self.write_encrypted()?;
        }
        Ok(())
    }

    /// Writes encrypted bytes until none are left or the socket would block.
    fn write_encrypted(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls
            && self.writable
        {
            self.writable = tls.write(&mut self.stream)?;
        }
        Ok(())
    }

    /// Closes this end of the connection for writing, so that the peer finds the end of the stream.
    pub(crate) fn shutdown_write(&self) {
        // Fails only if the connection is closed already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes the connection.
    pub(crate) fn close(&mut self, registry: &Registry) {
        if let Some(tls) = &mut self.tls {
            tls.end();
            // One attempt: the connection is closed in any case.
            let _ = self.write_encrypted();
        }
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
