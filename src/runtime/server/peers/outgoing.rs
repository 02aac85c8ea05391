//! Connections to peers, on which this replica only sends: two per peer, one for urgent frames and
//! one for bulk frames. Each is a TCP connection or a datagram stream. A lost connection is
//! reestablished, with a growing delay between attempts. Frames for a peer without a connection are
//! dropped and counted; the core sends them again.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::feature_level::FeatureLevel;
use crate::redis::PathStatus;
use crate::runtime::boards::RuntimeCounters;
use crate::types::{Instant, NodeId};
use crate::wire::frame::{Frame, Hello, Lane};
use crate::wire::protocol::{ProtocolVersions, V10};

use crate::runtime::server::certificates::Certificates;
use crate::runtime::server::options::is_loopback;
use crate::runtime::server::peers::PeerTransport;
use crate::runtime::server::peers::addresses::{PeerAddresses, Resolver};
use crate::runtime::server::peers::datagram_keys::{open, seal};
use crate::runtime::server::peers::peer::{Peer, check, close};
use crate::runtime::server::refusal_log::RefusalLog;
use crate::runtime::server::sockets::datagram_socket::DatagramSocket;
use crate::runtime::server::sockets::socket::Socket;
use crate::runtime::stages::random_seed;
use crate::tls::{Failure, key_id};
use crate::transport::Outbox;
use crate::transport::outgoing::{Established, Outgoing, OutgoingTransport};
use crate::transport::sender::Sender;
use crate::wire::datagram::{Ack, StreamId};

/// Maximum number of connected peers that are not known to be members. This replica does not
/// connect to more of them.
const NON_MEMBERS_MAX: usize = 32;
/// Maximum congestion window of a datagram stream, in bytes.
const WINDOW_MAX: usize = 8 << 20;

/// The outgoing connections to all peers.
#[derive(Debug)]
pub(crate) struct OutgoingPeers {
    /// The hello (first frame of a connection) that this replica sends. Its recipient, its lane
    /// (urgent or bulk) and whether the replica is rejoining are filled in for each connection.
    hello: Hello,
    /// Whether this replica is rejoining after losing its votes. The log writer clears the flag
    /// when the replica is a full member again.
    rejoining: Arc<AtomicBool>,
    /// The peers, at the positions that their `Poll` tokens refer to; `None` where a peer was
    /// removed.
    slots: Vec<Option<Peer>>,
    /// The ids and addresses of the replicas in this replica's options.
    listed: Vec<(NodeId, String)>,
    resolver: Resolver,
    transport: PeerTransport,
    /// Maximum congestion window of each datagram stream, in bytes.
    window_max: usize,
    first_token: usize,
    certificates: Arc<Certificates>,
    /// Whether this replica sends only to loopback addresses, because it has no certificates for
    /// peers (protected mode).
    is_on_loopback_only: bool,
    /// Rate limit of log lines about peers whose address is not a loopback address.
    unprotected: RefusalLog<(NodeId, SocketAddr)>,
    /// Rate limit of log lines about peers with a wildcard certificate.
    misnamed: RefusalLog<NodeId>,
    refusals: RefusalLog<(NodeId, Failure)>,
    counters: Arc<RuntimeCounters>,
    /// Buffer for datagrams to be sent. It is empty between passes (iterations of the stage's
    /// loop), and kept to reuse its memory.
    out: Outbox,
    /// Buffer for the same datagrams, encrypted.
    sealed: Outbox,
}

impl OutgoingPeers {
    /// Creates the connections to the replicas in the options, `listed`, without establishing them.
    /// They use two `Poll` tokens per peer, starting at `first_token`.
    pub(crate) fn new(
        hello: Hello,
        rejoining: Arc<AtomicBool>,
        listed: &[(NodeId, String)],
        transport: PeerTransport,
        window_max: usize,
        first_token: usize,
        counters: Arc<RuntimeCounters>,
    ) -> OutgoingPeers {
        let mut peers = OutgoingPeers {
            hello,
            rejoining,
            slots: Vec::new(),
            listed: listed.to_vec(),
            resolver: Resolver::default(),
            transport,
            window_max: window_max.min(WINDOW_MAX),
            first_token,
            certificates: Arc::default(),
            is_on_loopback_only: false,
            unprotected: RefusalLog::default(),
            misnamed: RefusalLog::default(),
            refusals: RefusalLog::default(),
            counters,
            out: Outbox::default(),
            sealed: Outbox::default(),
        };
        for (id, _) in listed {
            peers.add(*id, true, Instant::ZERO);
        }
        peers
    }

    /// Sets the certificates used to open connections.
    pub(crate) fn with_certificates(mut self, certificates: Arc<Certificates>) -> OutgoingPeers {
        self.certificates = certificates;
        self
    }

    /// Sets whether this replica sends only to peers with loopback addresses.
    pub(crate) fn on_loopback_only(mut self, is_on_loopback_only: bool) -> OutgoingPeers {
        self.is_on_loopback_only = is_on_loopback_only;
        self
    }

    /// Decrypts a peer's datagram in place and removes its header and tag. Returns false if it was
    /// not encrypted with a peer's keys, or has arrived before.
    pub(crate) fn open(&mut self, sealed: &mut Vec<u8>) -> bool {
        let Some(id) = key_id(sealed) else { return false };
        let mut keys = self.slots.iter_mut().flatten().filter_map(|peer| peer.keys.as_mut());
        keys.find(|keys| keys.id() == id).is_some_and(|keys| open(keys, sealed))
    }

    /// Closes all connections, so that new ones are opened.
    pub(crate) fn close_all(&mut self, now: Instant, registry: &Registry) {
        for peer in self.slots.iter_mut().flatten() {
            peer.keys = None;
            peer.close(now, registry);
        }
    }

    /// Sets the other members of the cluster, each with its address in the configuration, if there
    /// is one. Adds missing peers. Closes the connections to removed members after
    /// a minute.
    pub(crate) fn set_members(&mut self, members: &[(NodeId, Option<String>)], now: Instant) {
        for peer in self.slots.iter_mut().flatten() {
            if peer.is_member && members.iter().all(|(id, _)| *id != peer.id) {
                tracing::info!(peer = %peer.id, "replica is no longer a member of the cluster");
                (peer.is_member, peer.removed_at) = (false, Some(now));
            }
        }
        for (id, address) in members {
            if self.peer(*id).is_none() {
                self.add(*id, true, now);
            }
            for peer in self.slots.iter_mut().flatten().filter(|peer| peer.id == *id) {
                (peer.is_member, peer.removed_at) = (true, None);
                peer.addresses.configured.clone_from(address);
            }
        }
    }

    /// Sets the peer address that this replica announces in its hello, if its options set none.
    pub(crate) fn announce(&mut self, address: &str) {
        if self.hello.peer_address.is_empty() {
            address.clone_into(&mut self.hello.peer_address);
        }
    }

    /// Sets the cluster's feature level. From level 2 on, this replica no longer uses protocol
    /// versions that exist for programs of a lower level.
    pub(crate) fn set_feature_level(&mut self, level: FeatureLevel) {
        self.hello.versions = versions_at(level);
        for peer in self.slots.iter_mut().flatten() {
            peer.lanes.set_versions(self.hello.versions);
        }
    }

    /// Returns the version and feature level of the peer's program; `None` if unknown.
    pub(crate) fn program_of(&self, peer: NodeId) -> Option<(&str, FeatureLevel)> {
        let (program, level) = self.peer(peer)?.program.as_ref()?;
        Some((program, *level))
    }

    /// Adds a peer, in the first free slot.
    fn add(&mut self, id: NodeId, is_member: bool, now: Instant) {
        let listed = self.listed.iter().find(|(listed, _)| *listed == id);
        let listed = listed.map(|(_, address)| address.clone());
        let addresses = PeerAddresses { listed, ..PeerAddresses::default() };
        let peer = Peer::new(id, addresses, is_member, self.hello.versions, now);
        match self.slots.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(peer),
            None => self.slots.push(Some(peer)),
        }
    }

    /// Returns the known addresses of `peer`; `None` if the peer is unknown.
    pub(crate) fn addresses_of(&self, peer: NodeId) -> Option<&PeerAddresses> {
        self.peer(peer).map(|peer| &peer.addresses)
    }

    /// Returns the last address over which both connections to `peer` were stable, as `host:port`;
    /// `None` if there is none.
    pub(crate) fn proven_address_of(&self, peer: NodeId) -> Option<&str> {
        self.peer(peer)?.proven.as_deref()
    }

    /// Returns the port of the peer's first address; 0 if no address is known.
    pub(crate) fn port_of(&self, peer: NodeId) -> u16 {
        let address = self.peer(peer).and_then(|peer| peer.addresses.for_attempt(0));
        let port = address.and_then(|address| address.rsplit_once(':'));
        port.and_then(|(_, port)| port.parse().ok()).unwrap_or(0)
    }

    /// Returns the ids of all peers.
    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.peers().map(|peer| peer.id)
    }

    /// Returns the number of connections to `peer` opened since the process started.
    pub(crate) fn connection_count(&self, peer: NodeId) -> u64 {
        self.peer(peer).map_or(0, |peer| peer.lanes.connection_count())
    }

    /// Returns whether both connections to `peer` (the ones for urgent and for bulk messages) are
    /// established.
    pub(crate) fn is_up(&self, peer: NodeId) -> bool {
        self.peer(peer).is_some_and(|peer| peer.lanes.iter().all(Outgoing::is_connected))
    }

    /// Returns whether the connection for urgent messages to `peer` is established.
    pub(crate) fn is_urgent_up(&self, peer: NodeId) -> bool {
        self.peer(peer).is_some_and(|peer| peer.lanes.lane(Lane::Urgent).is_connected())
    }

    /// Returns what the datagram streams to `peer` have measured; `None` if there is none.
    pub(crate) fn path_to(&self, peer: NodeId) -> Option<PathStatus> {
        self.peer(peer)?.path()
    }

    fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten()
    }

    fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.peers().find(|peer| peer.id == id)
    }

    /// Returns when [`OutgoingPeers::connect`] must next start or abort a connection attempt, or
    /// [`OutgoingPeers::flush`] must send datagrams; `None` if nothing is pending.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let due = self.peers().map(|peer| peer.lanes.next_due());
        due.min().filter(|due| *due < Instant::MAX)
    }

    /// Starts the connection attempts that are due, and aborts those that take too long. With
    /// [`PeerTransport::Auto`], also prepares the datagram streams that are to replace TCP
    /// connections. `incoming_permille` returns the loss of datagrams from a peer, in permille.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        registry: &Registry,
        mut incoming_permille: impl FnMut(NodeId) -> u32,
    ) {
        let window_max = self.window_max;
        let stream = || Box::new(Sender::new(random_seed(), window_max, now));
        for (position, slot) in self.slots.iter_mut().enumerate() {
            let Some(peer) = slot else { continue };
            peer.log_changes(now);
            if !peer.is_member && peer.is_forgotten(now) {
                peer.close(now, registry);
                *slot = None;
                continue;
            }
            // With certificates, datagrams need keys from a TCP connection.
            let is_encrypted = self.certificates.peer_domain().is_some();
            let is_auto =
                self.transport == PeerTransport::Auto && (!is_encrypted || peer.keys.is_some());
            if is_auto {
                peer.note_loss(incoming_permille(peer.id), now);
            }
            let (is_lossy, version) = (peer.is_lossy, peer.lanes.version());
            for (lane, outgoing) in peer.lanes.iter_mut() {
                let wants_stream = is_auto && (lane == Lane::Urgent || is_lossy);
                outgoing.prepare_stream(wants_stream, now, stream);
                if is_auto && !wants_stream && outgoing.is_stream() {
                    outgoing.replace_stream(now);
                }
                if outgoing.has_timed_out(now) {
                    close(outgoing, now, registry);
                }
                if !outgoing.is_attempt_due(now) {
                    continue;
                }
                if lane == Lane::Urgent {
                    peer.failed_attempts += usize::from(!peer.is_reached);
                    peer.is_reached = false;
                    let attempted = peer.addresses.for_attempt(peer.failed_attempts);
                    peer.attempted = attempted.map(str::to_owned);
                    peer.address = attempted.and_then(|text| self.resolver.address_of(text));
                    if self.is_on_loopback_only
                        && let Some(address) = peer.address.take_if(|it| !is_loopback(it.ip()))
                        && let Some(suppressed) = self.unprotected.count(&(peer.id, address), now)
                    {
                        log_unprotected(peer.id, address, suppressed);
                    }
                }
                let token = Token(self.first_token + position * 2 + lane as usize);
                let made = match (self.transport, peer.address) {
                    (_, None) => Err(ErrorKind::NotFound.into()),
                    (PeerTransport::Tcp | PeerTransport::Auto, Some(address)) => {
                        let session = self.certificates.connect_to_peer(peer.id);
                        session
                            .and_then(|session| {
                                let stream = TcpStream::connect(address)?;
                                Socket::new(stream, registry, token, false, session)
                            })
                            .map(OutgoingTransport::Tcp)
                    }
                    (PeerTransport::Udp, Some(_)) => Ok(OutgoingTransport::stream(stream())),
                };
                match made {
                    Ok(transport) => {
                        let hello = next_hello(&mut self.hello, &self.rejoining, peer.id, lane);
                        outgoing.attempt(transport, version, hello, now);
                    }
                    Err(_) => close(outgoing, now, registry),
                }
            }
        }
    }

    /// Handles the hello of `peer`, which has just connected to this replica: makes the next
    /// connection attempt due at once, and resets the delay between attempts. `start_id` identifies
    /// the peer's current start; if the peer has restarted, the datagram streams to it are
    /// closed. The hello also contains the address that the peer announces, if any, and its
    /// protocol versions: connections that do not use the best common version are opened again. An
    /// unknown peer is added as a non-member, unless there are [`NON_MEMBERS_MAX`] of those.
    pub(crate) fn on_hello(
        &mut self,
        peer: NodeId,
        start_id: u64,
        hello: &Hello,
        now: Instant,
        registry: &Registry,
    ) {
        let announced = Some(hello.peer_address.clone()).filter(|text| !text.is_empty());
        if self.peer(peer).is_none() {
            let non_members = self.peers().filter(|peer| !peer.is_member).count();
            if non_members >= NON_MEMBERS_MAX {
                return;
            }
            self.add(peer, false, now);
        }
        for peer in self.slots.iter_mut().flatten().filter(|it| it.id == peer) {
            if announced.is_some() {
                peer.addresses.announced.clone_from(&announced);
            }
            let program = (hello.program.clone(), hello.level);
            if peer.program.as_ref() != Some(&program) {
                let (peer, version) = (peer.id, &hello.program);
                tracing::info!(%peer, level = %hello.level, version, "program of a peer");
            }
            peer.program = Some(program);
            for mut socket in peer.lanes.on_hello(start_id, hello.versions, now) {
                socket.close(registry);
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
        let Peer { id, lanes, keys, .. } = self.slots.get_mut(at / 2)?.as_mut()?;
        let lane = if at % 2 == Lane::Urgent as usize { Lane::Urgent } else { Lane::Bulk };
        let outgoing = lanes.lane_mut(lane);
        let was_connected = outgoing.is_connected();
        if let Some(socket) = outgoing.tcp() {
            socket.on_event(event);
        }
        let domain = self.certificates.peer_domain();
        if !check(outgoing, *id, domain) {
            if let Some(domain) = domain
                && let Some(socket) = outgoing.tcp()
                && socket.certificate().is_some_and(|it| !domain.names(it, *id))
                && let Some(suppressed) = self.misnamed.count(id, now)
            {
                tracing::warn!(
                    peer = %id,
                    suppressed,
                    name = domain.name_of(*id),
                    "not connecting to a peer whose certificate is for all replicas of its domain; \
                     give it one that names it alone"
                );
            }
            let failure = outgoing.tcp().and_then(|socket| socket.tls_failure().cloned());
            if let Some(failure) = failure
                && let Some(suppressed) = self.refusals.count(&(*id, failure.clone()), now)
            {
                tracing::warn!(
                    peer = %id,
                    suppressed,
                    reason = %failure,
                    "connection to a peer failed in TLS; check --peer-tls-cert-file and \
                     --peer-tls-ca-cert-file on both sides"
                );
            }
            close(outgoing, now, registry);
        } else if !was_connected && outgoing.is_connected() {
            if lane == Lane::Urgent {
                *keys = outgoing.tcp().and_then(|socket| socket.datagram_keys());
            }
            lanes.count_connection();
            return (lane == Lane::Urgent).then_some(*id);
        }
        None
    }

    /// Handles a cookie, the peer's reply to a request to open a datagram stream, which establishes
    /// the stream. Returns the peer if the stream is its connection for urgent messages, otherwise
    /// `None`.
    pub(crate) fn on_cookie(
        &mut self,
        id: StreamId,
        now: Instant,
        registry: &Registry,
    ) -> Option<NodeId> {
        let (hello, rejoining) = (&mut self.hello, &self.rejoining);
        for Peer { id: peer, lanes, .. } in self.slots.iter_mut().flatten() {
            let hello = |lane| next_hello(hello, rejoining, *peer, lane);
            if let Some((lane, Established { replaced })) = lanes.on_cookie(id, now, hello) {
                if let Some(mut socket) = replaced {
                    socket.close(registry);
                }
                return (lane == Lane::Urgent).then_some(*peer);
            }
        }
        None
    }

    /// Handles a peer's acknowledgement of datagrams of the stream `id`.
    pub(crate) fn on_ack(&mut self, id: StreamId, ack: &Ack, now: Instant) {
        for peer in self.slots.iter_mut().flatten() {
            peer.lanes.on_ack(id, ack, now);
        }
    }

    /// Handles the reset of a datagram stream: the peer has closed it, or does not know it.
    pub(crate) fn on_reset(&mut self, id: StreamId, now: Instant) {
        for peer in self.slots.iter_mut().flatten() {
            peer.lanes.on_reset(id, now);
        }
    }

    /// Queues a frame on the peer's connection for the frame's kind (urgent or bulk). Returns
    /// false, and counts the frame as unsent, if that connection is not established or its queue is
    /// full.
    pub(crate) fn send(&mut self, to: NodeId, frame: &Frame) -> bool {
        let peer = self.slots.iter_mut().flatten().find(|peer| peer.id == to);
        let is_sent = peer.is_some_and(|peer| peer.lanes.send(frame));
        if !is_sent {
            self.counters.unsent.add_one();
        }
        is_sent
    }

    /// Writes the queued frames of all connections to their sockets.
    pub(crate) fn flush(&mut self, now: Instant, registry: &Registry, socket: &DatagramSocket) {
        let is_encrypted = self.certificates.peer_domain().is_some();
        for peer in self.slots.iter_mut().flatten() {
            for (_, outgoing) in peer.lanes.iter_mut() {
                if !outgoing.flush(now, &mut self.out) {
                    close(outgoing, now, registry);
                }
                if !self.out.is_empty() {
                    match (peer.address, &mut peer.keys) {
                        (Some(address), Some(keys)) => {
                            seal(keys, &self.out, &mut self.sealed);
                            socket.send(address, &self.sealed);
                            self.sealed.clear();
                        }
                        (Some(address), None) if !is_encrypted => socket.send(address, &self.out),
                        // The stream started with keys; new ones will come from the next TLS
                        // connection.
                        (_, None) | (None, _) => {}
                    }
                    self.out.clear();
                }
            }
        }
    }
}

/// Logs that this replica does not connect to a peer whose address is not a loopback address.
fn log_unprotected(peer: NodeId, address: SocketAddr, suppressed: u64) {
    tracing::warn!(
        %peer,
        %address,
        suppressed,
        "not connecting to a peer on another machine without certificates (protected mode); set \
         --peer-tls-cert-file, --peer-tls-key-file and --peer-tls-ca-cert-file on all replicas, or \
         --protected-mode no"
    );
}

/// Returns the protocol versions that a replica may use in a cluster of this feature level.
pub(crate) fn versions_at(level: FeatureLevel) -> ProtocolVersions {
    let own = ProtocolVersions::OWN;
    if level == FeatureLevel::V0_1 { own } else { ProtocolVersions { oldest: V10, ..own } }
}

/// Returns the hello for a new connection, with a higher number than all hellos before it.
fn next_hello(hello: &mut Hello, rejoining: &AtomicBool, to: NodeId, lane: Lane) -> Hello {
    hello.connection += 1;
    let rejoining = rejoining.load(Ordering::Acquire);
    Hello { to, rejoining, lane, ..hello.clone() }
}
