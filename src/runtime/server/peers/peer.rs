//! One peer, as this replica connects to it: its addresses and its two connections, whether bulk
//! messages use TCP or datagrams, and log lines about changes.

use std::net::SocketAddr;
use std::time::Duration;

use mio::Registry;

use crate::feature_level::FeatureLevel;
use crate::redis::PathStatus;
use crate::runtime::server::peers::addresses::PeerAddresses;
use crate::runtime::server::sockets::socket::Socket;
use crate::tls::{DatagramKeys, PeerDomain};
use crate::transport::connection::ReadResult;
use crate::transport::lanes::OutgoingLanes;
use crate::transport::outgoing::Outgoing;
use crate::transport::sender::Sender;
use crate::types::{Instant, NodeId};
use crate::wire::frame::Lane;
use crate::wire::protocol::ProtocolVersions;

/// Time without a connection after which a non-member is forgotten. The connections to a removed
/// member are kept for the same time.
const NON_MEMBER_AGE_MAX: Duration = Duration::from_mins(1);
/// A peer without a connection is logged as unreachable after this time.
const LOG_DOWN_AFTER: Duration = Duration::from_secs(5);
/// Maximum time for which data sent over TCP may remain unacknowledged. Then the connection is
/// closed and opened again.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Datagram loss, in permille, from which bulk messages use a datagram stream instead of TCP with
/// [`PeerTransport::Auto`]. TCP is much slower at this loss.
const LOSSY_PERMILLE: u32 = 10;
/// Duration of failing TCP connection attempts after which bulk messages use a datagram stream
/// instead, with [`PeerTransport::Auto`]. If the peer is down, its datagram streams have failed by
/// then, too.
const TCP_FAILING_MIN: Duration = Duration::from_secs(7);
/// Time after which TCP is tried again for bulk messages that use a datagram stream because TCP
/// failed. Trying interrupts the connection.
const TCP_RETRY_AFTER: Duration = Duration::from_mins(30);
/// Datagram loss, in permille, below which bulk messages return to TCP, once the loss has been this
/// low for [`LOSSLESS_FOR`].
const LOSSLESS_PERMILLE: u32 = 3;
const LOSSLESS_FOR: Duration = Duration::from_mins(1);

/// A peer, with the two outgoing connections to it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) addresses: PeerAddresses,
    /// The address of the last attempt to connect, as `host:port`.
    pub(super) attempted: Option<String>,
    /// The last address over which both connections were stable, as `host:port`.
    pub(super) proven: Option<String>,
    /// Number of connection attempts since the last stable connection. Each uses the next address.
    pub(super) failed_attempts: usize,
    /// Whether both connections have been stable since the last attempt to connect.
    pub(super) is_reached: bool,
    /// The resolved address of the last attempt to connect; `None` if no address is known, or if
    /// its host name has not been resolved yet.
    pub(super) address: Option<SocketAddr>,
    /// Whether the peer is known to be a member of the cluster. A non-member may be a member in a
    /// later configuration. It is forgotten after some time without a connection.
    pub(super) is_member: bool,
    /// Time at which this replica learned that the peer is no longer a member. The connections are
    /// kept for [`NON_MEMBER_AGE_MAX`], so that the peer learns of its removal, and a removed
    /// leader can transfer its leadership.
    pub(super) removed_at: Option<Instant>,
    /// Version and feature level of the peer's program according to its latest hello. The version
    /// is empty if the hello does not contain it.
    pub(super) program: Option<(String, FeatureLevel)>,
    /// The two outgoing connections to the peer.
    pub(super) lanes: OutgoingLanes<Socket>,
    /// Keys for datagrams to and from the peer, from the latest TLS connection for urgent messages;
    /// `None` before the first, or if replicas use no certificates.
    pub(super) keys: Option<DatagramKeys>,
    /// Whether the network path to the peer is considered lossy, so that bulk messages use a
    /// datagram stream. It is while the loss is high, and for [`LOSSLESS_FOR`] afterwards.
    pub(super) is_lossy: bool,
    /// When the datagram loss was last at least [`LOSSLESS_PERMILLE`]. After a failure of TCP this
    /// is a time in the future, which delays the return of bulk messages to TCP.
    lossy_at: Instant,
    /// The peer's state according to the latest log line about it.
    logged: Logged,
    /// When the connection to the peer was lost; when the process started if the peer has never
    /// been connected.
    down_since: Instant,
}

/// State of the connections to a peer as logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Logged {
    /// The connection to the peer was lost. Also the initial state, before any log line.
    Lost,
    /// The peer is connected.
    Up,
    /// The peer is unreachable: there has been no connection to it for at least [`LOG_DOWN_AFTER`].
    Down,
}

impl Peer {
    pub(super) fn new(
        id: NodeId,
        addresses: PeerAddresses,
        is_member: bool,
        versions: ProtocolVersions,
        now: Instant,
    ) -> Peer {
        let mut lanes = OutgoingLanes::new();
        lanes.set_versions(versions);
        Peer {
            id,
            addresses,
            attempted: None,
            proven: None,
            failed_attempts: 0,
            is_reached: true,
            address: None,
            is_member,
            removed_at: None,
            program: None,
            lanes,
            keys: None,
            is_lossy: false,
            lossy_at: Instant::ZERO,
            logged: Logged::Lost,
            down_since: now,
        }
    }

    /// Returns whether a non-member is to be forgotten: a removed member [`NON_MEMBER_AGE_MAX`]
    /// after its removal, any other after that time without a connection.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        if let Some(at) = self.removed_at {
            return now.since(at) >= NON_MEMBER_AGE_MAX;
        }
        self.logged != Logged::Up
            && !self.lanes.iter().any(Outgoing::is_connected)
            && now.since(self.down_since) >= NON_MEMBER_AGE_MAX
    }

    /// Updates whether the path to the peer is considered lossy, from the measured datagram loss to
    /// the peer and from the peer (`incoming_permille`). A path is also considered lossy if TCP
    /// fails but datagrams get through.
    pub(super) fn note_loss(&mut self, incoming_permille: u32, now: Instant) {
        let is_stream = self.lanes.lane(Lane::Urgent).is_stream();
        let bulk = self.lanes.lane_mut(Lane::Bulk);
        let fails = bulk.failing_since.is_some_and(|since| now.since(since) >= TCP_FAILING_MIN);
        let tcp_fails = fails && is_stream;
        if tcp_fails {
            (bulk.failing_since, self.lossy_at) = (None, now + TCP_RETRY_AFTER);
        }
        let loss = self.lanes.iter().filter_map(Outgoing::sender).map(Sender::loss_permille);
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

    /// Logs a change of the peer's state: connected, lost or unreachable. Individual failed
    /// attempts are not logged.
    pub(super) fn log_changes(&mut self, now: Instant) {
        let peer = self.id;
        let address = self.address.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
        match self.logged {
            Logged::Lost | Logged::Down if self.lanes.iter().all(|it| it.is_stable(now)) => {
                tracing::info!(%peer, %address, "connected to a peer");
                self.logged = Logged::Up;
                self.is_reached = true;
                self.proven.clone_from(&self.attempted);
            }
            Logged::Up if !self.lanes.iter().all(Outgoing::is_connected) => {
                tracing::warn!(%peer, %address, "connection to a peer lost");
                (self.logged, self.down_since) = (Logged::Lost, now);
            }
            Logged::Lost if self.is_member && now.since(self.down_since) >= LOG_DOWN_AFTER => {
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

    /// Returns the round-trip time, the loss and the number of retransmissions measured on the
    /// datagram streams to the peer; `None` if there is no stream. With two streams, these are the
    /// shorter round-trip time, the higher loss and the sum of the retransmissions.
    pub(super) fn path(&self) -> Option<PathStatus> {
        let senders = self.lanes.iter().filter_map(Outgoing::sender);
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

    /// Closes both connections and schedules the next connection attempts.
    pub(super) fn close(&mut self, now: Instant, registry: &Registry) {
        for (_, outgoing) in self.lanes.iter_mut() {
            close(outgoing, now, registry);
        }
    }
}

/// Closes a connection and schedules the next connection attempt.
pub(super) fn close(outgoing: &mut Outgoing<Socket>, now: Instant, registry: &Registry) {
    if let Some(mut socket) = outgoing.close(now) {
        socket.close(registry);
    }
}

/// Checks a connection to `peer` if it uses TCP. Returns false if it has failed or was closed.
/// `domain` is the domain of the names in certificates; `None` if peers use no certificates.
pub(super) fn check(
    outgoing: &mut Outgoing<Socket>,
    peer: NodeId,
    domain: Option<&PeerDomain>,
) -> bool {
    let was_connected = outgoing.is_connected();
    let Some(socket) = outgoing.tcp() else { return true };
    if !was_connected {
        match socket.is_connected() {
            Ok(true) => {
                // The TLS handshake has verified the name, but accepts wildcard certificates.
                let is_certified = |domain: &PeerDomain| {
                    socket.certificate().is_some_and(|it| domain.names(it, peer))
                };
                if !domain.is_none_or(is_certified) {
                    return false;
                }
                socket.set_no_delay();
                socket.set_user_timeout(USER_TIMEOUT);
                outgoing.on_tcp_connected();
            }
            Ok(false) => return true,
            Err(_) => return false,
        }
    }
    // Peers send nothing on these connections, except that they close them.
    let mut space = [0; 16];
    while let Some(socket) = outgoing.tcp().filter(|socket| socket.is_readable()) {
        match socket.read(&mut space) {
            ReadResult::Bytes(_) | ReadResult::Closed => return false,
            ReadResult::WouldBlock => {}
        }
    }
    true
}
