//! One connection to a peer, on which a replica only sends: a TCP connection or a datagram stream,
//! or a TCP connection that a stream will replace once the peer answers it. The driver opens TCP
//! connections, and decides which connections use streams.

use std::time::Duration;

use bytes::Bytes;

use crate::types::Instant;
use crate::wire::datagram::StreamId;
use crate::wire::frame::{self, Frame, Hello};
use crate::wire::outbound_queue::{COPY_BYTES_MAX, OutboundQueue};
use crate::wire::protocol::{ProtocolVersion, ProtocolVersions};

use super::Outbox;
use super::connection::TcpConnection;
use super::sender::{Sender, StreamState};

/// Minimum delay between two attempts to connect to a peer ([`BACKOFF_MAX`] is the maximum). Both
/// are short: a refused attempt costs little on a local network, and a restarted replica should be
/// reachable soon.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Time after which a new connection is considered stable, so that the delay before the next
/// reconnection is reset to its minimum.
pub(crate) const STABLE_AFTER: Duration = Duration::from_secs(1);
/// Time limit for establishing a connection to a peer.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which this replica tries again to open a datagram stream alongside a TCP
/// connection, if the peer did not answer the last attempt or the last stream has failed. Datagrams
/// may not get through; a hello of the peer ends the wait (`retry_now`).
pub(super) const CANDIDATE_INTERVAL: Duration = Duration::from_secs(10);
/// Approximate encoded size of a frame (one message to a peer) without its payload, in bytes.
const HEAD_BYTES: usize = 128;

/// The transport of a connection to a peer: a TCP socket, or a datagram stream over UDP with
/// the queue of bytes to be sent on it.
#[derive(Debug)]
pub(crate) enum OutgoingTransport<T> {
    Tcp(T),
    Datagrams { sender: Box<Sender>, outbound: OutboundQueue },
}

impl<T> OutgoingTransport<T> {
    /// Returns a connection that is a datagram stream.
    pub(crate) fn stream(sender: Box<Sender>) -> OutgoingTransport<T> {
        OutgoingTransport::Datagrams { sender, outbound: OutboundQueue::default() }
    }
}

/// One of the two outgoing connections to a peer: either the one for urgent messages or the one for
/// bulk messages. `T` is a TCP connection.
#[derive(Debug)]
pub(crate) struct Outgoing<T> {
    /// The transport that is established or being established; `None` between two attempts to
    /// connect.
    pub(super) transport: Option<OutgoingTransport<T>>,
    /// Version of the protocol that `transport` uses, from its preamble on.
    pub(super) version: ProtocolVersion,
    connected: bool,
    /// When the last attempt to establish the connection began.
    pub(super) attempted_at: Instant,
    /// When the next attempt to connect is due. Used only while `transport` is `None`.
    retry_at: Instant,
    backoff: Duration,
    /// Time of the first failed attempt to connect since the connection was last established;
    /// `None` if no attempt has failed since then.
    pub(crate) failing_since: Option<Instant>,
    /// A datagram stream that is being opened, and that replaces `transport` once the peer
    /// answers; `None` if there is none.
    pub(super) candidate: Option<Box<Sender>>,
    /// When `candidate` was created or, if there is none, the earliest time at which the next
    /// candidate may be created.
    candidate_at: Instant,
}

impl<T: TcpConnection> Outgoing<T> {
    pub(super) fn new() -> Outgoing<T> {
        Outgoing {
            transport: None,
            version: ProtocolVersions::OWN.oldest,
            connected: false,
            attempted_at: Instant::ZERO,
            retry_at: Instant::ZERO,
            backoff: BACKOFF_MIN,
            failing_since: None,
            candidate: None,
            candidate_at: Instant::ZERO,
        }
    }

    /// Returns whether the connection is established.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Returns whether the connection is established, and has been for a while.
    pub(crate) fn is_stable(&self, now: Instant) -> bool {
        self.connected && now.since(self.attempted_at) >= STABLE_AFTER
    }

    /// Returns whether the next attempt to connect is due.
    pub(crate) fn is_attempt_due(&self, now: Instant) -> bool {
        self.transport.is_none() && now >= self.retry_at
    }

    /// Returns whether the attempt to connect has exceeded [`CONNECT_TIMEOUT`], so that the
    /// connection must be closed.
    pub(crate) fn has_timed_out(&self, now: Instant) -> bool {
        let is_attempt = self.transport.is_some() && !self.connected;
        is_attempt && now >= self.attempted_at + CONNECT_TIMEOUT
    }

    /// Begins an attempt to connect with `transport`, in this version of the protocol. The first
    /// frame is `hello`.
    pub(crate) fn attempt(
        &mut self,
        transport: OutgoingTransport<T>,
        version: ProtocolVersion,
        hello: Hello,
        now: Instant,
    ) {
        self.attempted_at = now;
        self.transport = Some(transport);
        self.queue_hello(version, hello);
    }

    /// Queues the preamble and the hello with which every connection begins.
    fn queue_hello(&mut self, version: ProtocolVersion, hello: Hello) {
        self.version = version;
        let outbound = self.outbound().expect("the connection was just made");
        frame::encode_preamble(version, outbound.open());
        frame::encode(&Frame::Hello(hello), version, outbound.open());
    }

    /// Handles the end of the attempt to establish a TCP connection: it is established.
    pub(crate) fn on_tcp_connected(&mut self) {
        (self.connected, self.failing_since) = (true, None);
    }

    /// Closes the connection and schedules the next attempt to connect. Returns the TCP connection
    /// if it was one, which the caller must close.
    #[must_use]
    pub(crate) fn close(&mut self, now: Instant) -> Option<T> {
        let tcp = match self.transport.take() {
            Some(OutgoingTransport::Tcp(tcp)) => Some(tcp),
            Some(OutgoingTransport::Datagrams { .. }) => {
                // Datagrams may not get through; a hello of the peer ends the wait (`retry_now`).
                self.candidate_at = now + CANDIDATE_INTERVAL;
                None
            }
            None => None,
        };
        self.backoff =
            if self.is_stable(now) { BACKOFF_MIN } else { (self.backoff * 2).min(BACKOFF_MAX) };
        let failing_since = self.failing_since.unwrap_or(now);
        self.failing_since = (!self.connected).then_some(failing_since);
        self.connected = false;
        self.retry_at = now + self.backoff;
        tcp
    }

    /// Closes a connection that is a datagram stream.
    pub(super) fn close_stream(&mut self, now: Instant) {
        let tcp = self.close(now);
        assert!(tcp.is_none(), "the connection is a datagram stream");
    }

    /// Closes a datagram stream, and makes the next attempt to connect due at once.
    pub(crate) fn replace_stream(&mut self, now: Instant) {
        self.close_stream(now);
        self.retry_at = now;
    }

    /// Returns the sender of the datagram stream; `None` if the connection does not use one: it
    /// uses TCP, or it is neither established nor being established.
    pub(crate) fn sender(&self) -> Option<&Sender> {
        match &self.transport {
            Some(OutgoingTransport::Datagrams { sender, .. }) => Some(sender),
            _ => None,
        }
    }

    /// Returns a mutable reference to the sender of the datagram stream; `None` if the connection
    /// does not use one (see [`Outgoing::sender`]).
    pub(super) fn sender_mut(&mut self) -> Option<&mut Sender> {
        match &mut self.transport {
            Some(OutgoingTransport::Datagrams { sender, .. }) => Some(sender),
            _ => None,
        }
    }

    /// Returns a mutable reference to the TCP connection; `None` if the connection does not use
    /// TCP: it uses a datagram stream, or it is neither established nor being established.
    pub(crate) fn tcp(&mut self) -> Option<&mut T> {
        match &mut self.transport {
            Some(OutgoingTransport::Tcp(tcp)) => Some(tcp),
            _ => None,
        }
    }

    fn outbound(&mut self) -> Option<&mut OutboundQueue> {
        match &mut self.transport {
            Some(OutgoingTransport::Tcp(tcp)) => Some(tcp.outbound()),
            Some(OutgoingTransport::Datagrams { outbound, .. }) => Some(outbound),
            None => None,
        }
    }

    /// Queues a frame. Returns false if the connection is not established, its version of the
    /// protocol does not have the frame, or `bytes_max` bytes or more are queued.
    pub(super) fn send(&mut self, frame: &Frame, bytes_max: usize) -> bool {
        let version = self.version;
        let connected = self.connected && frame.oldest_version() <= version;
        let Some(outbound) = self.outbound().filter(|it| connected && it.len() < bytes_max) else {
            return false;
        };
        // Small parts are copied there, so it reserves for all of them at once.
        let small = frame.parts().map(Bytes::len).filter(|bytes| *bytes <= COPY_BYTES_MAX);
        outbound.open().reserve(small.sum::<usize>() + HEAD_BYTES);
        frame::encode_head(frame, version, outbound.open());
        for part in frame.parts() {
            outbound.push(part);
        }
        true
    }

    /// Writes as many queued bytes as the connection accepts. Appends the datagrams that are due to
    /// `out`, including retransmissions. Returns false if the connection has failed.
    pub(crate) fn flush(&mut self, now: Instant, out: &mut Outbox) -> bool {
        if let Some(candidate) = &mut self.candidate
            && now >= candidate.next_timeout()
        {
            candidate.transmit(now, out);
        }
        match &mut self.transport {
            Some(OutgoingTransport::Tcp(tcp)) => {
                !self.connected || !tcp.can_flush() || tcp.flush().is_ok()
            }
            Some(OutgoingTransport::Datagrams { sender, outbound }) => {
                if !outbound.is_empty() && outbound.write_to(sender.as_mut()).is_err() {
                    return false;
                }
                if now >= sender.next_timeout() {
                    sender.transmit(now, out);
                }
                sender.state() != StreamState::Failed
            }
            None => true,
        }
    }

    /// Returns whether the connection is an established datagram stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.connected && matches!(self.transport, Some(OutgoingTransport::Datagrams { .. }))
    }

    /// Returns whether the connection is an established datagram stream, and all bytes that
    /// were queued on it have arrived.
    pub(crate) fn is_complete(&self) -> bool {
        match &self.transport {
            Some(OutgoingTransport::Datagrams { sender, outbound }) => {
                self.connected && outbound.is_empty() && sender.is_complete()
            }
            _ => false,
        }
    }

    /// If `wanted` is true, begins to open a candidate: a datagram stream, created by `make`,
    /// that replaces the TCP connection once the peer answers. Drops a candidate that the peer has
    /// not answered in time or that is no longer wanted.
    pub(crate) fn prepare_stream(
        &mut self,
        wanted: bool,
        now: Instant,
        make: impl FnOnce() -> Box<Sender>,
    ) {
        if !wanted || matches!(self.transport, Some(OutgoingTransport::Datagrams { .. })) {
            self.candidate = None;
        } else if self.candidate.is_some() && now >= self.candidate_at + CONNECT_TIMEOUT {
            self.candidate = None;
            self.candidate_at = now + CANDIDATE_INTERVAL;
        } else if self.candidate.is_none() && now >= self.candidate_at {
            self.candidate = Some(make());
            self.candidate_at = now;
        }
    }

    /// Makes the next attempt to connect due at once, because the peer has just connected, and
    /// resets the delay between attempts.
    pub(super) fn retry_now(&mut self, now: Instant) {
        if self.transport.is_none() {
            self.retry_at = self.retry_at.min(now);
            self.backoff = BACKOFF_MIN;
        }
        if self.candidate.is_none() {
            self.candidate_at = self.candidate_at.min(now);
        }
    }

    /// Handles the cookie of a datagram stream. Returns how the connection was established with
    /// it, or `None` if the stream is another connection's. A candidate replaces the connection,
    /// and begins with the hello that `hello` returns.
    pub(super) fn on_cookie(
        &mut self,
        id: StreamId,
        version: ProtocolVersion,
        now: Instant,
        hello: impl FnOnce() -> Hello,
    ) -> Option<Established<T>> {
        let is_for = |sender: &Sender| {
            sender.id().stream == id.stream && sender.state() == StreamState::Opening
        };
        if let Some(mut candidate) = self.candidate.take_if(|candidate| is_for(candidate)) {
            candidate.on_cookie(id.cookie, now);
            let replaced = self.transport.replace(OutgoingTransport::stream(candidate));
            (self.connected, self.attempted_at) = (true, now);
            self.failing_since = None;
            self.queue_hello(version, hello());
            return Some(Established {
                replaced: match replaced {
                    Some(OutgoingTransport::Tcp(tcp)) => Some(tcp),
                    _ => None,
                },
            });
        }
        let sender = self.sender_mut().filter(|sender| is_for(sender))?;
        sender.on_cookie(id.cookie, now);
        self.connected = true;
        Some(Established { replaced: None })
    }

    /// Returns the earliest time at which an attempt to connect must be started or given up, or
    /// datagrams must be sent; [`Instant::MAX`] if there is nothing to wait for.
    pub(super) fn next_due(&self) -> Instant {
        let candidate = self.candidate.as_ref().map_or(Instant::MAX, |candidate| {
            candidate.next_timeout().min(self.candidate_at + CONNECT_TIMEOUT)
        });
        let datagrams = match &self.transport {
            None => return self.retry_at.min(candidate),
            Some(OutgoingTransport::Tcp(_)) => candidate,
            Some(OutgoingTransport::Datagrams { sender, .. }) => sender.next_timeout(),
        };
        let give_up = self.attempted_at + CONNECT_TIMEOUT;
        if self.connected { datagrams } else { datagrams.min(give_up) }
    }
}

/// A datagram stream has been established.
#[derive(Debug)]
pub(crate) struct Established<T> {
    /// The TCP connection that the stream has replaced, which the caller must close.
    pub(crate) replaced: Option<T>,
}
