//! One connection to a peer, on which this replica only sends: a TCP connection or a stream of
//! datagrams, or a TCP connection that a stream will replace once the peer answers it.

use std::time::Duration;

use mio::Registry;

use crate::runtime::server::sockets::outbound_queue::OutboundQueue;
use crate::runtime::server::sockets::socket::{ReadResult, Socket};
use crate::transport::Outbox;
use crate::transport::sender::{Sender, StreamState};
use crate::types::Instant;

/// Minimum delay between two attempts to connect to a peer ([`BACKOFF_MAX`] is the maximum). Both
/// are short: a refused attempt costs little on a local network, and a restarted replica should be
/// reachable soon.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Time after which a new connection is considered stable, so that the delay before the next
/// reconnection is reset to its minimum.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(1);
/// Maximum time for which sent data may remain unacknowledged. After it, the connection is closed
/// and reestablished.
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for establishing a connection to a peer.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which this replica tries again to open a stream of datagrams alongside a TCP
/// connection, if the peer did not answer the last attempt or the last stream has failed. Datagrams
/// may not get through to the peer.
const CANDIDATE_INTERVAL: Duration = Duration::from_secs(10);

/// The transport of a connection to a peer: a TCP socket, or a stream of datagrams over UDP with
/// the queue of bytes to be sent on it.
#[derive(Debug)]
pub(super) enum Carrier {
    Tcp(Socket),
    Datagrams { sender: Box<Sender>, outbound: OutboundQueue },
}

/// One of the two outgoing connections to a peer: either the one for urgent messages or the one for
/// bulk messages.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The transport that is established or being established; `None` between two attempts to
    /// connect.
    pub(super) carrier: Option<Carrier>,
    pub(super) connected: bool,
    /// When the last attempt to establish the connection began.
    pub(super) attempted_at: Instant,
    /// When the next attempt to connect is due. Used only while `carrier` is `None`.
    pub(super) retry_at: Instant,
    backoff: Duration,
    /// Time of the first failed attempt to connect since the connection was last established;
    /// `None` if no attempt has failed since then.
    pub(super) failing_since: Option<Instant>,
    /// A stream of datagrams that is being opened, and that replaces `carrier` once the peer
    /// answers; `None` if there is none.
    candidate: Option<Box<Sender>>,
    /// When `candidate` was created or, if there is none, the earliest time at which the next
    /// candidate may be created.
    candidate_at: Instant,
}

impl Outgoing {
    pub(super) fn new() -> Outgoing {
        Outgoing {
            carrier: None,
            connected: false,
            attempted_at: Instant::ZERO,
            retry_at: Instant::ZERO,
            backoff: BACKOFF_MIN,
            failing_since: None,
            candidate: None,
            candidate_at: Instant::ZERO,
        }
    }

    /// Closes the connection and schedules the next attempt to connect.
    pub(super) fn close(&mut self, now: Instant, registry: &Registry) {
        match self.carrier.take() {
            Some(Carrier::Tcp(mut socket)) => socket.close(registry),
            // The next stream would fail as well, unless the peer connects first.
            Some(Carrier::Datagrams { .. }) => self.candidate_at = now + CANDIDATE_INTERVAL,
            None => {}
        }
        let was_stable = self.connected && now.since(self.attempted_at) >= STABLE_AFTER;
        self.backoff = if was_stable { BACKOFF_MIN } else { (self.backoff * 2).min(BACKOFF_MAX) };
        let failing_since = self.failing_since.unwrap_or(now);
        self.failing_since = (!self.connected).then_some(failing_since);
        self.connected = false;
        self.retry_at = now + self.backoff;
    }

    pub(super) fn sender(&mut self) -> Option<&mut Sender> {
        match &mut self.carrier {
            Some(Carrier::Datagrams { sender, .. }) => Some(sender),
            _ => None,
        }
    }

    pub(super) fn outbound(&mut self) -> Option<&mut OutboundQueue> {
        match &mut self.carrier {
            Some(Carrier::Tcp(socket)) => Some(&mut socket.outbound),
            Some(Carrier::Datagrams { outbound, .. }) => Some(outbound),
            None => None,
        }
    }

    /// Writes as many queued bytes as the connection accepts. Appends the datagrams that are due to
    /// `out`, including retransmissions. Returns false if the connection has failed.
    pub(super) fn flush(&mut self, now: Instant, out: &mut Outbox) -> bool {
        if let Some(candidate) = &mut self.candidate
            && now >= candidate.next_timeout()
        {
            candidate.transmit(now, out);
        }
        match &mut self.carrier {
            Some(Carrier::Tcp(socket)) => {
                !self.connected || !socket.can_flush() || socket.flush().is_ok()
            }
            Some(Carrier::Datagrams { sender, outbound }) => {
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

    /// Checks the state of the TCP connection. Returns false if it has failed or was closed.
    pub(super) fn check(&mut self) -> bool {
        let Some(Carrier::Tcp(socket)) = &mut self.carrier else { return true };
        if !self.connected {
            match socket.is_connected() {
                Ok(true) => {
                    socket.set_no_delay();
                    socket.set_user_timeout(USER_TIMEOUT);
                    (self.connected, self.failing_since) = (true, None);
                }
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
        // Peers send nothing on these connections.
        let mut space = [0; 16];
        while socket.is_readable() {
            match socket.read(&mut space) {
                ReadResult::Bytes(_) | ReadResult::Closed => return false,
                ReadResult::WouldBlock => {}
            }
        }
        true
    }

    /// Returns whether the connection is an established stream of datagrams.
    pub(super) fn is_stream(&self) -> bool {
        self.connected && matches!(self.carrier, Some(Carrier::Datagrams { .. }))
    }

    /// If `wanted` is true, begins to open a candidate: a stream of datagrams, created by `make`,
    /// that replaces the TCP connection once the peer answers. Drops a candidate that the peer has
    /// not answered in time or that is no longer wanted.
    pub(super) fn prepare_stream(
        &mut self,
        wanted: bool,
        now: Instant,
        make: impl FnOnce() -> Box<Sender>,
    ) {
        if !wanted || matches!(self.carrier, Some(Carrier::Datagrams { .. })) {
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
        if self.carrier.is_none() {
            self.retry_at = self.retry_at.min(now);
            self.backoff = BACKOFF_MIN;
        }
        if self.candidate.is_none() {
            self.candidate_at = self.candidate_at.min(now);
        }
    }

    /// Handles a cookie, the peer's reply to a request to open the stream of datagrams with the
    /// number `stream`. If this stream was being opened to replace the current transport
    /// (`candidate`), it replaces it now. Returns how the stream was established; `None` if the
    /// stream does not belong to this connection.
    pub(super) fn on_cookie(
        &mut self,
        stream: u64,
        cookie: u64,
        now: Instant,
        registry: &Registry,
    ) -> Option<Established> {
        let is_for = |sender: &Sender| {
            sender.id().stream == stream && sender.state() == StreamState::Opening
        };
        if let Some(mut candidate) = self.candidate.take_if(|candidate| is_for(candidate)) {
            candidate.on_cookie(cookie, now);
            let outbound = OutboundQueue::default();
            let carrier = Carrier::Datagrams { sender: candidate, outbound };
            if let Some(Carrier::Tcp(mut socket)) = self.carrier.replace(carrier) {
                socket.close(registry);
            }
            (self.connected, self.attempted_at) = (true, now);
            self.failing_since = None;
            return Some(Established::Replaced);
        }
        let sender = self.sender().filter(|sender| is_for(sender))?;
        sender.on_cookie(cookie, now);
        self.connected = true;
        Some(Established::AsPlanned)
    }

    /// Returns the earliest time at which an attempt to connect must be started or given up, or
    /// datagrams must be sent; [`Instant::MAX`] if there is nothing to wait for.
    pub(super) fn next_due(&self) -> Instant {
        let candidate = self.candidate.as_ref().map_or(Instant::MAX, |candidate| {
            candidate.next_timeout().min(self.candidate_at + CONNECT_TIMEOUT)
        });
        let datagrams = match &self.carrier {
            None => return self.retry_at.min(candidate),
            Some(Carrier::Tcp(_)) => candidate,
            Some(Carrier::Datagrams { sender, .. }) => sender.next_timeout(),
        };
        let give_up = self.attempted_at + CONNECT_TIMEOUT;
        if self.connected { datagrams } else { datagrams.min(give_up) }
    }
}

/// How a stream of datagrams was established as a connection to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Established {
    /// The connection used this stream from the beginning, so its hello (first frame) is queued
    /// already.
    AsPlanned,
    /// The stream was opened alongside the earlier transport of the connection and has now replaced
    /// it, so a hello (first frame) must still be queued.
    Replaced,
}
