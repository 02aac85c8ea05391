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
use crate::runtime::server::peers::outgoing_lane::{
    CONNECT_TIMEOUT, Carrier, Established, Outgoing, STABLE_AFTER,
};
use crate::runtime::server::sockets::datagram_socket::DatagramSocket;
use crate::runtime::server::sockets::outbound_queue::{COPY_BYTES_MAX, OutboundQueue};
use crate::runtime::server::sockets::socket::Socket;
use crate::runtime::stages::random_seed;
use crate::transport::Outbox;
use crate::transport::sender::Sender;
use crate::wire::datagram::{Ack, StreamId};

/// Time without a connection to a peer after which the peer is logged as unreachable.
const LOG_DOWN_AFTER: Duration = Duration::from_secs(5);
/// Maximum congestion window of a stream of datagrams, in bytes.
const WINDOW_MAX: usize = 8 << 20;
/// Maximum number of bytes queued on a peer's connection for urgent messages; [`BULK_BYTES_MAX`] is
/// the maximum for bulk messages. While the queue is full, further frames are dropped.
const URGENT_BYTES_MAX: usize = 1 << 20;
const BULK_BYTES_MAX: usize = 96 << 20;

/// Minimum loss of datagrams, in permille, at which bulk messages use a stream of datagrams instead
/// of TCP, with [`PeerTransport::Auto`]. With more loss, TCP is much slower.
const LOSSY_PERMILLE: u32 = 10;
/// Time for which attempts to connect over TCP must fail before bulk messages use a stream of
/// datagrams instead, with [`PeerTransport::Auto`]. By then, the streams to a peer that is down
/// have failed too.
const TCP_FAILING_MIN: Duration = Duration::from_secs(7);
/// Time after which TCP is tried again for bulk messages if they use a stream of datagrams because
/// TCP had failed. The attempt interrupts the connection.
const TCP_RETRY_AFTER: Duration = Duration::from_mins(30);
/// Loss of datagrams, in permille, below which bulk messages use TCP again instead of a stream of
/// datagrams, once the loss has been lower for [`LOSSLESS_FOR`].
const LOSSLESS_PERMILLE: u32 = 3;
const LOSSLESS_FOR: Duration = Duration::from_mins(1);

/// Approximate encoded size of a frame (one message to a peer) without its payload, in bytes.
const HEAD_BYTES: usize = 128;

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
    /// The random number that identifies the peer's process start according to the latest hello
    /// (first frame of a connection) from the peer; `None` before its first hello.
    opening: Option<u64>,
    /// Whether the network path to the peer counts as lossy, so that bulk messages use a stream of
    /// datagrams: the loss is high, or was less than [`LOSSLESS_FOR`] ago.
    is_lossy: bool,
    /// When the loss of datagrams was last at least [`LOSSLESS_PERMILLE`]. After TCP has failed,
    /// this is instead a time in the future, until which bulk messages do not use TCP.
    lossy_at: Instant,
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
    /// The peer is unreachable: there was no connection to it for at least [`LOG_DOWN_AFTER`].
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
    /// Maximum congestion window of each stream of datagrams, in bytes.
    window_max: usize,
    first_token: usize,
    counters: Arc<RuntimeCounters>,
    /// Buffer for datagrams to be sent. Empty between passes (iterations of the stage's loop), and
    /// kept to reuse its memory.
    out: Outbox,
}

impl Peer {
    /// Decides whether the network path to the peer counts as lossy, from the measured loss of
    /// datagrams to the peer and from the peer (`incoming_permille`). A path also counts as lossy
    /// if TCP fails but datagrams get through.
    fn note_loss(&mut self, incoming_permille: u32, now: Instant) {
        let [urgent, bulk] = &mut self.lanes;
        let fails = bulk.failing_since.is_some_and(|since| now.since(since) >= TCP_FAILING_MIN);
        let tcp_fails = fails && urgent.is_stream();
        if tcp_fails {
            (bulk.failing_since, self.lossy_at) = (None, now + TCP_RETRY_AFTER);
        }
        let loss = self.lanes.iter_mut().filter_map(Outgoing::sender).map(|it| it.loss_permille());
        let loss = loss.max().unwrap_or(0).max(incoming_permille);
        if loss >= LOSSLESS_PERMILLE {
            self.lossy_at = self.lossy_at.max(now);
        }
        let was_lossy = self.is_lossy;
        self.is_lossy = tcp_fails
            || loss >= LOSSY_PERMILLE
            || self.is_lossy && now.since(self.lossy_at) < LOSSLESS_FOR;
        if self.is_lossy != was_lossy {
            let peer = self.id;
            if self.is_lossy {
                tracing::info!(
                    %peer,
                    loss_permille = loss,
                    "log entries to a peer switched from TCP to UDP: packets are lost or TCP fails"
                );
            } else {
                tracing::info!(
                    %peer,
                    loss_permille = loss,
                    "log entries to a peer switched from UDP back to TCP: few packets are lost now"
                );
            }
        }
    }

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
                    "cannot connect to a peer: the peer is down or unreachable, or refuses this \
                     replica (see the peer's log)"
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
        transport: PeerTransport,
        window_max: usize,
        first_token: usize,
        counters: Arc<RuntimeCounters>,
    ) -> OutgoingPeers {
        let peer = |&(id, address)| Peer {
            id,
            address,
            lanes: [Outgoing::new(), Outgoing::new()],
            connection_count: 0,
            opening: None,
            is_lossy: false,
            lossy_at: Instant::ZERO,
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

    /// Returns the round-trip time, the loss and the number of retransmissions measured on the
    /// streams of datagrams to `peer`; `None` if there is no stream. If there are two streams,
    /// returns the shorter round-trip time, the higher loss and the sum of the retransmissions.
    pub(crate) fn path_to(&self, peer: NodeId) -> Option<PathStatus> {
        let lanes = &self.peer(peer)?.lanes;
        let senders = lanes.iter().filter_map(|lane| match &lane.carrier {
            Some(Carrier::Datagrams { sender, .. }) => Some(sender.as_ref()),
            _ => None,
        });
        let status = |sender: &Sender| PathStatus {
            round_trip_us: u64::try_from(sender.round_trip().as_micros()).unwrap_or(u64::MAX),
            loss_permille: sender.loss_permille(),
            resent: sender.resent(),
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
        let due = lanes.map(Outgoing::next_due);
        due.min().filter(|due| *due < Instant::MAX)
    }

    /// Starts the attempts to connect that are due, and aborts those that exceed
    /// [`CONNECT_TIMEOUT`]. With [`PeerTransport::Auto`], also prepares the streams of datagrams
    /// that are to replace TCP connections; `incoming_permille` returns the loss of datagrams from
    /// a peer.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        registry: &Registry,
        mut incoming_permille: impl FnMut(NodeId) -> u32,
    ) {
        let window_max = self.window_max;
        let stream = || Box::new(Sender::new(random_seed(), window_max, now));
        for (position, peer) in self.peers.iter_mut().enumerate() {
            peer.log_changes(now);
            let is_auto = self.transport == PeerTransport::Auto;
            if is_auto {
                peer.note_loss(incoming_permille(peer.id), now);
            }
            let is_lossy = peer.is_lossy;
            for (lane, outgoing) in [Lane::Urgent, Lane::Bulk].into_iter().zip(&mut peer.lanes) {
                let wants_stream = is_auto && (lane == Lane::Urgent || is_lossy);
                outgoing.prepare_stream(wants_stream, now, stream);
                if is_auto && !wants_stream && outgoing.is_stream() {
                    outgoing.close(now, registry);
                    outgoing.retry_at = now;
                }
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
                    PeerTransport::Tcp | PeerTransport::Auto => TcpStream::connect(peer.address)
                        .and_then(|stream| Socket::new(stream, registry, token, false))
                        .map(Carrier::Tcp),
                    PeerTransport::Udp => {
                        let outbound = OutboundQueue::default();
                        Ok(Carrier::Datagrams { sender: stream(), outbound })
                    }
                };
                let Ok(carrier) = made else {
                    outgoing.close(now, registry);
                    continue;
                };
                outgoing.carrier = Some(carrier);
                queue_hello(&mut self.hello, &self.rejoining, peer.id, lane, outgoing);
            }
        }
    }

    /// Handles the hello (first frame) of a connection from a peer, whose current start is
    /// identified by `opening`: makes the next attempt to connect to the peer due at once, and
    /// resets the delay between attempts. If the peer has restarted, closes older streams of
    /// datagrams to it, which the peer no longer knows.
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
            for outgoing in &mut peer.lanes {
                outgoing.retry_now(now);
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

    /// Handles a cookie, the peer's reply to a request to open a stream of datagrams, with which
    /// the stream is established. If the stream is a peer's connection for urgent messages, returns
    /// the peer; otherwise returns `None`.
    pub(crate) fn on_cookie(
        &mut self,
        id: StreamId,
        now: Instant,
        registry: &Registry,
    ) -> Option<NodeId> {
        for peer in &mut self.peers {
            for (lane, outgoing) in [Lane::Urgent, Lane::Bulk].into_iter().zip(&mut peer.lanes) {
                let established = outgoing.on_cookie(id.stream, id.cookie, now, registry);
                if established == Some(Established::Replaced) {
                    queue_hello(&mut self.hello, &self.rejoining, peer.id, lane, outgoing);
                }
                if established.is_some() {
                    peer.connection_count += 1;
                    return (lane == Lane::Urgent).then_some(peer.id);
                }
            }
        }
        None
    }

    /// Handles a peer's acknowledgement of datagrams of the stream `id`.
    pub(crate) fn on_ack(&mut self, id: StreamId, ack: &Ack, now: Instant) {
        if let Some(sender) = self.lane_of(id).and_then(Outgoing::sender) {
            sender.on_ack(ack, now);
        }
    }

    /// Handles the reset of a stream of datagrams: the peer has closed it, or does not know it.
    pub(crate) fn on_reset(&mut self, id: StreamId, now: Instant, registry: &Registry) {
        if let Some(outgoing) = self.lane_of(id) {
            outgoing.close(now, registry);
        }
    }

    /// Returns the connection whose transport is the stream of datagrams `id`; `None` if there is
    /// none.
    fn lane_of(&mut self, id: StreamId) -> Option<&mut Outgoing> {
        let lanes = self.peers.iter_mut().flat_map(|peer| &mut peer.lanes);
        lanes.into_iter().find_map(|lane| {
            let is_it = lane.sender().is_some_and(|sender| sender.id() == id);
            is_it.then_some(lane)
        })
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

/// Queues the preamble and the hello (first frame) with which every connection begins. The hello
/// numbers the connections of this replica in ascending order.
fn queue_hello(
    hello: &mut Hello,
    rejoining: &AtomicBool,
    to: NodeId,
    lane: Lane,
    outgoing: &mut Outgoing,
) {
    hello.connection += 1;
    let rejoining = rejoining.load(Ordering::Acquire);
    let hello = Hello { to, rejoining, lane, ..hello.clone() };
    let outbound = outgoing.outbound().expect("the connection was just made");
    frame::encode_preamble(outbound.open());
    frame::encode(&Frame::Hello(hello), outbound.open());
}
