//! Connections from peers: TCP connections and datagram streams. `transport::incoming` decides
//! which frames of which connections are read. This file contains the sockets, the check of a hello
//! (`handshake`) with its durable record, and the log lines about refused connections.

use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::feature_level::FeatureLevel;
use crate::runtime::boards::RuntimeCounters;
use crate::runtime::fatal::exit_on_disk_failure;
use crate::runtime::server::certificates::Certificates;
use crate::runtime::server::peers::datagram_keys::{IncomingKeys, PeerAddress};
use crate::runtime::server::peers::handshake::{PeerError, check};
use crate::runtime::server::refusal_log::RefusalLog;
use crate::runtime::server::sockets::datagram_socket::DatagramSocket;
use crate::runtime::server::sockets::socket::Socket;
use crate::storage::{Identity, PeerRecords, PeerStart, RealDisk, START_IDS_KEPT};
use crate::tls::PeerDomain;
use crate::transport::Outbox;
use crate::transport::incoming::{Ended, IncomingConnections, IncomingTransport};
use crate::types::{Instant, NodeId};
use crate::wire::datagram::{Data, StreamId};
use crate::wire::frame::{Frame, Hello, Lane};

/// Maximum receive window of a datagram stream, in bytes.
const WINDOW_MAX: usize = 4 << 20;

/// All incoming connections from peers.
#[derive(Debug)]
pub(crate) struct IncomingPeers {
    me: Identity,
    /// Ids of the members with which the cluster was created, in ascending order; empty if this
    /// replica joined later.
    members: Vec<NodeId>,
    /// Whether the membership has changed since the cluster was created. Then a replica that has
    /// lost its votes cannot rejoin, and this replica keeps its record of it, because the old data
    /// folder may still come back.
    members_changed: bool,
    /// The cluster's feature level as known to this replica. Peers whose program has a lower level
    /// are rejected.
    feature_level: FeatureLevel,
    /// For each peer, the durable record of the random numbers that identify its starts; the peer
    /// generates one each time it opens its log. The record makes it possible to detect an older
    /// copy of the peer's folder.
    records: PeerRecords<RealDisk>,
    connections: IncomingConnections<Socket, PeerAddress, PeerError>,
    first_token: usize,
    refusals: RefusalLog<PeerError>,
    certificates: Arc<Certificates>,
    /// Keys for datagrams from peers; empty if replicas use no certificates.
    keys: IncomingKeys,
    /// Buffer for encrypted datagrams. It is empty between passes (iterations of the stage's loop),
    /// and kept to reuse its memory.
    sealed: Outbox,
    counters: Arc<RuntimeCounters>,
}

impl IncomingPeers {
    pub(crate) fn new(
        me: Identity,
        members: Vec<NodeId>,
        records: PeerRecords<RealDisk>,
        first_token: usize,
        secret: [u8; 32],
        window: usize,
        counters: Arc<RuntimeCounters>,
    ) -> IncomingPeers {
        IncomingPeers {
            me,
            members,
            members_changed: false,
            feature_level: FeatureLevel::OLDEST,
            records,
            connections: IncomingConnections::new(secret, window.min(WINDOW_MAX)),
            first_token,
            refusals: RefusalLog::default(),
            certificates: Arc::default(),
            keys: IncomingKeys::default(),
            sealed: Outbox::default(),
            counters,
        }
    }

    /// Sets the certificates used to accept connections.
    pub(crate) fn with_certificates(mut self, certificates: Arc<Certificates>) -> IncomingPeers {
        self.certificates = certificates;
        self
    }

    /// Sets whether the membership has changed since the cluster was created.
    pub(crate) fn set_members_changed(&mut self, changed: bool) {
        self.members_changed = changed;
    }

    /// Sets the cluster's feature level, which peers must support.
    pub(crate) fn set_feature_level(&mut self, level: FeatureLevel) {
        self.feature_level = level;
    }

    /// Adds a new TCP connection from a peer. If too many connections have not sent a hello (first
    /// frame), closes the oldest of them.
    pub(crate) fn accept(&mut self, stream: TcpStream, now: Instant, registry: &Registry) {
        self.connections.evict_unidentified();
        self.close_ended(now, registry);
        let token = Token(self.first_token + self.connections.next_index());
        let session = self.certificates.accept_peer();
        if let Ok(socket) =
            session.and_then(|session| Socket::new(stream, registry, token, true, session))
        {
            self.connections.insert(IncomingTransport::Tcp(socket), now);
        }
    }

    /// Decrypts a peer's datagram in place and removes its header and tag. Returns false if it was
    /// not encrypted with a peer's keys, or has arrived before.
    pub(crate) fn open(&mut self, sealed: &mut Vec<u8>) -> bool {
        self.keys.open(sealed)
    }

    /// Closes all connections, so that peers open new ones.
    pub(crate) fn close_all(&mut self, now: Instant, registry: &Registry) {
        self.keys.clear();
        self.connections.close_all();
        self.close_ended(now, registry);
    }

    /// Handles a `Poll` event of an incoming connection.
    pub(crate) fn on_event(&mut self, token: usize, event: &mio::event::Event) {
        if let Some(socket) = self.connections.tcp_mut(token - self.first_token) {
            socket.on_event(event);
        }
    }

    /// Handles a peer's request to open a datagram stream: replies with the cookie (token) with
    /// which the peer can open it.
    pub(crate) fn on_open(&mut self, from: PeerAddress, id: StreamId, now: Instant) {
        self.connections.on_open(from, id, now);
    }

    /// Handles a datagram with data of a stream. If the stream is unknown but its cookie is valid,
    /// adds the stream as a new connection. `with_bulk` says whether connections for bulk messages
    /// are read in this pass; see [`IncomingPeers::receive`].
    pub(crate) fn on_data(
        &mut self,
        from: PeerAddress,
        id: StreamId,
        data: &Data<'_>,
        with_bulk: bool,
        now: Instant,
        registry: &Registry,
    ) {
        self.connections.on_data(from, id, data, with_bulk, now);
        self.close_ended(now, registry);
    }

    /// Returns the fraction of the latest datagrams from `peer` that were lost, in permille. If the
    /// peer has two streams, this is the higher value of the two; if it has none, 0.
    pub(crate) fn loss_from(&self, peer: NodeId) -> u32 {
        self.connections.loss_from(peer)
    }

    /// Returns the earliest time at which [`IncomingPeers::acknowledge`] must send an
    /// acknowledgement; `None` if no acknowledgement is to be sent.
    pub(crate) fn next_acknowledgement(&self) -> Option<Instant> {
        Some(self.connections.next_acknowledgement()).filter(|due| *due < Instant::MAX)
    }

    /// Sends the acknowledgements that are due on all datagram streams, the replies to requests to
    /// open a stream, and the replies to datagrams of unknown streams.
    pub(crate) fn acknowledge(&mut self, now: Instant, socket: &DatagramSocket) {
        let (keys, sealed) = (&mut self.keys, &mut self.sealed);
        self.connections.acknowledge(now, |to, out| match to.key {
            None => socket.send(to.address, out),
            Some(key) => {
                keys.seal(key, out, sealed);
                socket.send(to.address, sealed);
                sealed.clear();
            }
        });
    }

    /// Returns whether any connection may be read. Connections for bulk messages are considered
    /// only if `with_bulk` is true.
    pub(crate) fn is_readable(&self, with_bulk: bool) -> bool {
        self.connections.is_readable(with_bulk)
    }

    /// Returns the earliest time at which [`IncomingPeers::expire`] may close a connection; `None`
    /// if all connections have sent their hello (first frame of a connection).
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        Some(self.connections.next_expiry()).filter(|due| *due < Instant::MAX)
    }

    /// Closes connections that have not sent a hello in time.
    pub(crate) fn expire(&mut self, now: Instant, registry: &Registry) {
        self.connections.expire(now);
        self.close_ended(now, registry);
    }

    /// Receives frames. Calls `on_frame` for each frame with the peer, the random number that
    /// identifies the peer's current start, and the frame. The first frame of a connection is its
    /// hello. If `with_bulk` is false, connections for bulk messages are not read, so that their
    /// socket buffers fill up, which slows the peer down.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        with_bulk: bool,
        registry: &Registry,
        space: &mut [u8],
        mut on_frame: impl FnMut(NodeId, u64, Frame),
    ) {
        let (me, members, records) = (&self.me, &self.members, &mut self.records);
        let (members_changed, level) = (self.members_changed, self.feature_level);
        let (domain, keys) = (self.certificates.peer_domain(), &mut self.keys);
        self.connections.receive(
            with_bulk,
            space,
            |hello, transport| {
                // Checked before anything in the hello has an effect.
                if let Some(domain) = domain
                    && !is_certified(hello, transport, domain, keys)
                {
                    let name = domain.name_of(hello.from);
                    return Err(PeerError::Certificate { peer: hello.from, name });
                }
                let record = check(me, members, level, hello, |peer, history| {
                    records.check(peer, history, START_IDS_KEPT)
                })?;
                let accepted = accept(record, hello.rejoining && members_changed, records);
                if let IncomingTransport::Tcp(socket) = transport
                    && hello.lane == Lane::Urgent
                    && let Some(new) = socket.datagram_keys()
                {
                    keys.add(hello.from, new);
                }
                Ok(accepted)
            },
            |sender, frame| on_frame(sender.peer, sender.start_id, frame),
        );
        self.close_ended(now, registry);
    }

    /// Closes the sockets of the peer connections that have ended. Counts and logs those that this
    /// replica has refused, for example because of an invalid hello (first frame).
    fn close_ended(&mut self, now: Instant, registry: &Registry) {
        for Ended { mut transport, error } in self.connections.take_ended() {
            let failure = match &transport {
                IncomingTransport::Tcp(socket) => socket.tls_failure().cloned(),
                IncomingTransport::Datagrams { .. } => None,
            };
            if let Some(error) = failure.map(PeerError::Tls).or(error) {
                self.counters.peers_refused.add_one();
                if let Some(suppressed) = self.refusals.count(&error, now) {
                    let address = match &transport {
                        IncomingTransport::Tcp(socket) => socket.address(),
                        IncomingTransport::Datagrams { address, .. } => Some(address.address),
                    };
                    let address = address.map_or_else(String::new, |address| address.to_string());
                    tracing::warn!(
                        address,
                        suppressed,
                        reason = %error,
                        "peer connection rejected"
                    );
                }
            }
            if let IncomingTransport::Tcp(socket) = &mut transport {
                socket.close(registry);
            }
        }
    }
}

/// Returns whether the certificate names the replica that the hello claims to come from. For
/// datagrams, that is the certificate of the TLS connection that their keys were derived from.
fn is_certified(
    hello: &Hello,
    transport: &IncomingTransport<Socket, PeerAddress>,
    domain: &PeerDomain,
    keys: &IncomingKeys,
) -> bool {
    match transport {
        IncomingTransport::Tcp(socket) => {
            socket.certificate().is_some_and(|it| domain.names(it, hello.from))
        }
        IncomingTransport::Datagrams { address, .. } => {
            address.key.and_then(|key| keys.peer_of(key)) == Some(hello.from)
        }
    }
}

/// Durably records the start of a peer whose hello was accepted, unless the connection only serves
/// to tell the peer that it cannot rejoin. Returns the peer and the id of its start.
fn accept(
    record: PeerStart,
    cannot_rejoin: bool,
    records: &mut PeerRecords<RealDisk>,
) -> (NodeId, u64) {
    if cannot_rejoin {
        return (record.peer, record.start_id);
    }
    // Blocks the stage, once per start of a peer: nothing that the peer sends may be accepted
    // before the record is durable.
    match records.note(record) {
        // Until this replica restarts, the record is only in memory.
        Err(error) if error.is_disk_full() => {
            tracing::warn!(
                peer = %record.peer,
                %error,
                "start of a peer not stored, only kept in memory"
            );
        }
        Err(error) => exit_on_disk_failure(&error),
        Ok(()) => {}
    }
    (record.peer, record.start_id)
}
