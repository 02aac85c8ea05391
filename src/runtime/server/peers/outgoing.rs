//! Connections to peers, on which this replica only sends: two per peer, one for urgent frames and
//! one for bulk frames. Each is a TCP connection or a stream of datagrams. A lost connection is
//! reestablished, with a growing delay between attempts. Frames for a peer without a connection are
//! dropped and counted; the core sends them again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::redis::PathStatus;
use crate::runtime::boards::RuntimeCounters;
use crate::types::{Instant, NodeId};
use crate::wire::frame::{self, Frame, Hello, Lane};

use crate::runtime::server::peers::PeerTransport;
use crate::runtime::server::sockets::datagram_socket::DatagramSocket;
use crate::runtime::server::sockets::outbound_queue::{COPY_BYTES_MAX, OutboundQueue};
use crate::runtime::server::sockets::socket::{ReadResult, Socket};
use crate::runtime::stages::random_seed;
use crate::transport::Outbox;
use crate::transport::sender::{Sender, StreamState};
use crate::wire::datagram::{Ack, StreamId};

/// Minimum delay between two attempts to connect to a peer ([`BACKOFF_MAX`] is the maximum). Both
/// are short: a refused attempt costs little on a local network, and a restarted replica should be
/// reachable soon.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Time after which a new connection is considered stable, so that the delay before the next
/// reconnection is reset to its minimum.
const STABLE_AFTER: Duration = Duration::from_secs(1);
/// Maximum time for which sent data may remain unacknowledged. After it, the connection is closed
/// and reestablished.
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a connection to a peer after which the peer is logged as unreachable.
const LOG_DOWN_AFTER: Duration = Duration::from_secs(5);
/// Time limit for establishing a connection to a peer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest window of a stream of datagrams, in bytes.
const WINDOW_MAX: usize = 8 << 20;
/// Maximum number of bytes queued on the connection to a peer that carries urgent messages
/// ([`BULK_BYTES_MAX`] applies to the one for bulk messages). While more bytes are queued, further
/// frames are dropped.
const URGENT_BYTES_MAX: usize = 1 << 20;
const BULK_BYTES_MAX: usize = 96 << 20;

/// Approximate encoded size of a frame without its payload, in bytes.
const HEAD_BYTES: usize = 128;

/// What a connection to a peer is made of.
#[derive(Debug)]
enum Carrier {
    Tcp(Socket),
    Datagrams { sender: Box<Sender>, outbound: OutboundQueue },
}

/// One of the two outgoing connections to a peer: either the one for urgent messages or the one for
/// bulk messages.
#[derive(Debug)]
struct Outgoing {
    /// `None` between two attempts to connect.
    carrier: Option<Carrier>,
    connected: bool,
    /// When the last attempt to establish the connection began.
    attempted_at: Instant,
    /// When the next attempt to connect is due. Used only while `carrier` is `None`.
    retry_at: Instant,
    backoff: Duration,
}

/// A peer, with the two outgoing connections to it.
#[derive(Debug)]
struct Peer {
    id: NodeId,
    address: SocketAddr,
    /// The two outgoing connections to the peer: at index 0 the one for urgent messages, at index 1
    /// the one for bulk messages.
    lanes: [Outgoing; 2],
    /// Number of connections made to the peer since the process started. A change means that frames
    /// sent earlier may be lost.
    connection_count: u64,
    /// The random number that identifies the peer's latest known start; `None` before its first
    /// hello.
    opening: Option<u64>,
    /// The state of the connections to this peer (connected, lost or unreachable) according to the
    /// last log line about it.
    logged: Logged,
    /// When the connection to the peer was lost, or when the process started if the peer has never
    /// been connected.
    down_since: Instant,
}

/// The state of the connections to a peer that the last log line about the peer reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Logged {
    /// The connection to the peer was lost. Also the initial state, before any log line.
    Lost,
    /// The peer is connected.
    Up,
    /// The peer is unreachable: it had not been connected for [`LOG_DOWN_AFTER`].
    Down,
}

/// The outgoing connections to all peers.
#[derive(Debug)]
pub(crate) struct OutgoingPeers {
    /// The hello (first frame of a connection) that this replica sends. Its recipient, its lane
    /// (urgent or bulk) and whether the replica is rejoining are filled in for each connection.
    hello: Hello,
    /// Whether this replica is rejoining after the loss of its folder. The log writer sets the flag
    /// to false when the replica has become a full member again.
    rejoining: Arc<AtomicBool>,
    peers: Vec<Peer>,
    transport: PeerTransport,
    /// Largest window of a stream of datagrams, in bytes.
    window_max: usize,
    first_token: usize,
    counters: Arc<RuntimeCounters>,
    /// Empty between passes, and kept to reuse its memory.
    out: Outbox,
}

impl Outgoing {
    fn new() -> Outgoing {
        Outgoing {
            carrier: None,
            connected: false,
            attempted_at: Instant::ZERO,
            retry_at: Instant::ZERO,
            backoff: BACKOFF_MIN,
        }
    }

    /// Closes the connection and schedules the next attempt to connect.
    fn close(&mut self, now: Instant, registry: &Registry) {
        if let Some(Carrier::Tcp(mut socket)) = self.carrier.take() {
            socket.close(registry);
        }
        let was_stable = self.connected && now.since(self.attempted_at) >= STABLE_AFTER;
        self.backoff = if was_stable { BACKOFF_MIN } else { (self.backoff * 2).min(BACKOFF_MAX) };
        self.connected = false;
        self.retry_at = now + self.backoff;
    }

    fn sender(&mut self) -> Option<&mut Sender> {
        match &mut self.carrier {
            Some(Carrier::Datagrams { sender, .. }) => Some(sender),
            _ => None,
        }
    }

    fn outbound(&mut self) -> Option<&mut OutboundQueue> {
        match &mut self.carrier {
            Some(Carrier::Tcp(socket)) => Some(&mut socket.outbound),
            Some(Carrier::Datagrams { outbound, .. }) => Some(outbound),
            None => None,
        }
    }

    /// Writes queued bytes as far as there is room for them. Datagrams, which may be due without
    /// new bytes, are added to `out`. Returns false if the connection has failed.
    fn flush(&mut self, now: Instant, out: &mut Outbox) -> bool {
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
    fn check(&mut self) -> bool {
        let Some(Carrier::Tcp(socket)) = &mut self.carrier else { return true };
        if !self.connected {
            match socket.is_connected() {
                Ok(true) => {
                    socket.set_no_delay();
                    socket.set_user_timeout(USER_TIMEOUT);
                    self.connected = true;
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
}

impl Peer {
    /// Logs changes of the peer's state: connected, lost or unreachable. Failed attempts to connect
    /// are not logged individually.
    fn log_changes(&mut self, now: Instant) {
        let is_stable =
            |lane: &Outgoing| lane.connected && now.since(lane.attempted_at) >= STABLE_AFTER;
        let (peer, address) = (self.id, self.address);
        match self.logged {
            Logged::Lost | Logged::Down if self.lanes.iter().all(is_stable) => {
                tracing::info!(%peer, %address, "connected to a peer");
                self.logged = Logged::Up;
            }
            Logged::Up if !self.lanes.iter().all(|lane| lane.connected) => {
                tracing::warn!(%peer, %address, "connection to a peer lost");
                (self.logged, self.down_since) = (Logged::Lost, now);
            }
            Logged::Lost if now.since(self.down_since) >= LOG_DOWN_AFTER => {
                tracing::warn!(
                    %peer,
                    %address,
                    "cannot connect to a peer: it is down or unreachable, or refuses this replica \
                     (see its log)"
                );
                self.logged = Logged::Down;
            }
            Logged::Lost | Logged::Up | Logged::Down => {}
        }
    }
}

impl OutgoingPeers {
    /// Creates the connections to `peers` without establishing them. They use two `Poll` tokens per
    /// peer, starting at `first_token`.
    pub(crate) fn new(
        hello: Hello,
        rejoining: Arc<AtomicBool>,
        peers: &[(NodeId, SocketAddr)],
        (transport, window_max): (PeerTransport, usize),
        first_token: usize,
        counters: Arc<RuntimeCounters>,
    ) -> OutgoingPeers {
        let peer = |&(id, address)| Peer {
            id,
            address,
            lanes: [Outgoing::new(), Outgoing::new()],
            connection_count: 0,
            opening: None,
            logged: Logged::Lost,
            down_since: Instant::ZERO,
        };
        let peers = peers.iter().map(peer).collect();
        let out = Outbox::default();
        let window_max = window_max.min(WINDOW_MAX);
        OutgoingPeers { hello, rejoining, peers, transport, window_max, first_token, counters, out }
    }

    /// Returns the port on which the replica `peer` listens for its peers; 0 if `peer` is not a
    /// peer of this replica.
    pub(crate) fn port_of(&self, peer: NodeId) -> u16 {
        self.peer(peer).map_or(0, |peer| peer.address.port())
    }

    /// Returns the ids of all peers.
    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().map(|peer| peer.id)
    }

    /// Returns the number of connections made to a peer since the process started.
    pub(crate) fn connection_count(&self, peer: NodeId) -> u64 {
        self.peer(peer).map_or(0, |peer| peer.connection_count)
    }

    /// Returns whether both connections to `peer` (the ones for urgent and for bulk messages) are
    /// established.
    pub(crate) fn is_up(&self, peer: NodeId) -> bool {
        self.peer(peer).is_some_and(|peer| peer.lanes.iter().all(|lane| lane.connected))
    }

    /// Returns whether the connection for urgent messages to `peer` is established.
    pub(crate) fn is_urgent_up(&self, peer: NodeId) -> bool {
        self.peer(peer).is_some_and(|peer| peer.lanes[Lane::Urgent as usize].connected)
    }

    /// Returns what is known about the way of datagrams to `peer`; `None` if the connections to it
    /// are not streams of datagrams. The loss is that of the stream that has more.
    pub(crate) fn path_to(&self, peer: NodeId) -> Option<PathStatus> {
        let lanes = &self.peer(peer)?.lanes;
        let senders = lanes.iter().filter_map(|lane| match &lane.carrier {
            Some(Carrier::Datagrams { sender, .. }) => Some(sender.as_ref()),
            _ => None,
        });
        let status = |sender: &Sender| PathStatus {
            round_trip_us: u64::try_from(sender.round_trip().as_micros()).unwrap_or(u64::MAX),
            loss_permille: sender.loss_permille(),
            resent: sender.repeated(),
        };
        senders.map(status).reduce(|one, other| PathStatus {
            round_trip_us: one.round_trip_us.min(other.round_trip_us),
            loss_permille: one.loss_permille.max(other.loss_permille),
            resent: one.resent + other.resent,
        })
    }

    fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    /// Returns the earliest time at which [`OutgoingPeers::connect`] must start or abort an attempt
    /// to connect, or [`OutgoingPeers::flush`] must send datagrams; `None` if there is nothing to
    /// wait for.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let lanes = self.peers.iter().flat_map(|peer| &peer.lanes);
        let due = lanes.map(|lane| {
            let datagrams = match &lane.carrier {
                None => return lane.retry_at,
                Some(Carrier::Tcp(_)) => Instant::MAX,
                Some(Carrier::Datagrams { sender, .. }) => sender.next_timeout(),
            };
            let give_up = lane.attempted_at + CONNECT_TIMEOUT;
            if lane.connected { datagrams } else { datagrams.min(give_up) }
        });
        due.min().filter(|due| *due < Instant::MAX)
    }

    /// Starts the attempts to connect that are due, and aborts those that exceed
    /// [`CONNECT_TIMEOUT`].
    pub(crate) fn connect(&mut self, now: Instant, registry: &Registry) {
        for (position, peer) in self.peers.iter_mut().enumerate() {
            peer.log_changes(now);
            for (lane, outgoing) in [Lane::Urgent, Lane::Bulk].into_iter().zip(&mut peer.lanes) {
                if outgoing.carrier.is_some() {
                    if !outgoing.connected && now >= outgoing.attempted_at + CONNECT_TIMEOUT {
                        outgoing.close(now, registry);
                    }
                    continue;
                }
                if now < outgoing.retry_at {
                    continue;
                }
                outgoing.attempted_at = now;
                let token = Token(self.first_token + position * 2 + lane as usize);
                let made = match self.transport {
                    PeerTransport::Tcp => TcpStream::connect(peer.address)
                        .and_then(|stream| Socket::new(stream, registry, token, false))
                        .map(Carrier::Tcp),
                    PeerTransport::Udp => Ok(Carrier::Datagrams {
                        sender: Box::new(Sender::new(random_seed(), self.window_max, now)),
                        outbound: OutboundQueue::default(),
                    }),
                };
                let Ok(carrier) = made else {
                    outgoing.close(now, registry);
                    continue;
                };
                outgoing.carrier = Some(carrier);
                let rejoining = self.rejoining.load(Ordering::Acquire);
                let hello = Hello { to: peer.id, lane, rejoining, ..self.hello.clone() };
                let outbound = outgoing.outbound().expect("it was just created");
                frame::encode_preamble(outbound.open());
                frame::encode(&Frame::Hello(hello), outbound.open());
            }
        }
    }

    /// Makes the next attempt to connect to a peer due at once and resets the delay between
    /// attempts. Called because the peer, whose current start `opening` identifies, has just
    /// connected to this replica. If it has restarted, older streams of datagrams to it are closed:
    /// it does not know them.
    pub(crate) fn on_hello(
        &mut self,
        peer: NodeId,
        opening: u64,
        now: Instant,
        registry: &Registry,
    ) {
        for peer in self.peers.iter_mut().filter(|it| it.id == peer) {
            let has_restarted = peer.opening.replace(opening).is_some_and(|it| it != opening);
            for outgoing in peer.lanes.iter_mut().filter(|_| has_restarted) {
                let is_old = now.since(outgoing.attempted_at) >= STABLE_AFTER;
                if is_old && outgoing.sender().is_some() {
                    outgoing.close(now, registry);
                }
            }
            for outgoing in peer.lanes.iter_mut().filter(|lane| lane.carrier.is_none()) {
                outgoing.retry_at = outgoing.retry_at.min(now);
                outgoing.backoff = BACKOFF_MIN;
            }
        }
    }

    /// Handles a `Poll` event of an outgoing connection. If the event has just established a peer's
    /// connection for urgent messages, returns the peer; otherwise returns `None`.
    pub(crate) fn on_event(
        &mut self,
        token: usize,
        event: &mio::event::Event,
        now: Instant,
        registry: &Registry,
    ) -> Option<NodeId> {
        let at = token - self.first_token;
        let Peer { id, lanes, connection_count, .. } = &mut self.peers[at / 2];
        let outgoing = &mut lanes[at % 2];
        let was_connected = outgoing.connected;
        if let Some(Carrier::Tcp(socket)) = &mut outgoing.carrier {
            socket.on_event(event);
        }
        if !outgoing.check() {
            outgoing.close(now, registry);
        } else if !was_connected && outgoing.connected {
            *connection_count += 1;
            return (at % 2 == Lane::Urgent as usize).then_some(*id);
        }
        None
    }

    /// Handles the cookie of a stream of datagrams, with which the stream is established. If it is
    /// a peer's connection for urgent messages, returns the peer; otherwise returns `None`.
    pub(crate) fn on_cookie(&mut self, id: StreamId, now: Instant) -> Option<NodeId> {
        for peer in &mut self.peers {
            for (lane, outgoing) in [Lane::Urgent, Lane::Bulk].into_iter().zip(&mut peer.lanes) {
                let Some(sender) = outgoing.sender() else { continue };
                if sender.id().stream == id.stream && sender.state() == StreamState::Opening {
                    sender.on_cookie(id.cookie, now);
                    outgoing.connected = true;
                    peer.connection_count += 1;
                    return (lane == Lane::Urgent).then_some(peer.id);
                }
            }
        }
        None
    }

    /// Handles an acknowledgement of a stream of datagrams. `None` is a reset: the peer has closed
    /// the stream, or does not know it.
    pub(crate) fn on_ack(
        &mut self,
        id: StreamId,
        ack: Option<&Ack>,
        now: Instant,
        registry: &Registry,
    ) {
        let lanes = self.peers.iter_mut().flat_map(|peer| &mut peer.lanes);
        for outgoing in lanes {
            if let Some(sender) = outgoing.sender().filter(|sender| sender.id() == id) {
                match ack {
                    Some(ack) => sender.on_ack(ack, now),
                    None => outgoing.close(now, registry),
                }
                return;
            }
        }
    }

    /// Queues a frame on the peer's connection for the frame's kind (urgent or bulk). Returns
    /// false, and counts the frame as unsent, if that connection is not established or its queue is
    /// full.
    pub(crate) fn send(&mut self, to: NodeId, frame: &Frame) -> bool {
        let lane = frame.lane();
        let peer = self.peers.iter_mut().find(|peer| peer.id == to);
        if let Some(outgoing) = peer.map(|peer| &mut peer.lanes[lane as usize])
            && outgoing.connected
            && let Some(outbound) = outgoing.outbound()
        {
            let limit = match lane {
                Lane::Urgent => URGENT_BYTES_MAX,
                Lane::Bulk => BULK_BYTES_MAX,
            };
            if outbound.len() < limit {
                // Small parts are copied there, so it reserves for all of them at once.
                let small = frame.parts().map(Bytes::len).filter(|bytes| *bytes <= COPY_BYTES_MAX);
                outbound.open().reserve(small.sum::<usize>() + HEAD_BYTES);
                frame::encode_head(frame, outbound.open());
                for part in frame.parts() {
                    outbound.push(part);
                }
                return true;
            }
        }
        self.counters.unsent.add_one();
        false
    }

    /// Writes the queued frames of all connections to their sockets.
    pub(crate) fn flush(&mut self, now: Instant, registry: &Registry, socket: &DatagramSocket) {
        for peer in &mut self.peers {
            for outgoing in &mut peer.lanes {
                if !outgoing.flush(now, &mut self.out) {
                    outgoing.close(now, registry);
                }
                if !self.out.is_empty() {
                    socket.send(peer.address, &self.out);
                    self.out.clear();
                }
            }
        }
    }
}
