//! Connections from peers, on which this replica only receives. Each begins with a hello; no other
//! frame is accepted before it is checked (`handshake`).

use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::runtime::boards::RuntimeCounters;
use crate::runtime::fatal::exit_on_disk_failure;
use crate::runtime::server::peers::handshake::{PeerError, RefusalLog, check};
use crate::runtime::server::sockets::slab::Slab;
use crate::runtime::server::sockets::socket::{ReadResult, Socket};
use crate::storage::{Identity, OPENINGS_KEPT, PeerOpening, PeerRecords, RealDisk};
use crate::types::{Instant, NodeId};
use crate::wire::frame::{Decoder, Frame, Lane};

/// Time for a new connection to send its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum connections without a hello. A further one replaces the oldest, so that idle connections
/// cannot keep out a peer that sends its hello at once. Accepted connections are at most two per
/// peer.
const UNIDENTIFIED_MAX: usize = 64;
/// Maximum bytes read from one connection in one pass, so that it does not delay the others.
const PASS_BYTES_MAX: usize = 1 << 20;

/// One connection.
#[derive(Debug)]
struct Incoming {
    socket: Socket,
    decoder: Decoder,
    /// `None` until the hello is accepted.
    sender: Option<Sender>,
    accepted_at: Instant,
}

/// The peer at the other end, and which of its connections this is.
#[derive(Clone, Copy, Debug)]
struct Sender {
    peer: NodeId,
    /// The random number of this opening of the peer's log.
    opening: u64,
    lane: Lane,
    /// Counts hellos: a later connection of the same lane replaces an earlier one.
    number: u64,
}

impl Incoming {
    fn is_readable(&self, with_bulk: bool) -> bool {
        self.socket.is_readable() && (with_bulk || !self.is_bulk())
    }

    fn is_bulk(&self) -> bool {
        self.sender.is_some_and(|sender| sender.lane == Lane::Bulk)
    }
}

/// All connections from peers.
#[derive(Debug)]
pub(crate) struct IncomingPeers {
    me: Identity,
    /// The ids of all members, this replica included, ascending.
    members: Vec<NodeId>,
    /// The latest opening of each peer.
    records: PeerRecords<RealDisk>,
    connections: Slab<Incoming>,
    hellos: u64,
    first_token: usize,
    refusals: RefusalLog,
    counters: Arc<RuntimeCounters>,
}

impl IncomingPeers {
    pub(crate) fn new(
        me: Identity,
        members: Vec<NodeId>,
        records: PeerRecords<RealDisk>,
        first_token: usize,
        counters: Arc<RuntimeCounters>,
    ) -> IncomingPeers {
        IncomingPeers {
            me,
            members,
            records,
            connections: Slab::default(),
            hellos: 0,
            first_token,
            refusals: RefusalLog::default(),
            counters,
        }
    }

    /// Adds a connection. Closes the oldest one without a hello if there are too many.
    pub(crate) fn accept(&mut self, stream: TcpStream, now: Instant, registry: &Registry) {
        let unidentified = self.connections.iter_mut().filter(|(_, it)| it.sender.is_none());
        let unidentified: Vec<_> =
            unidentified.map(|(index, it)| (it.accepted_at, index)).collect();
        if unidentified.len() >= UNIDENTIFIED_MAX
            && let Some(&(_, oldest)) = unidentified.iter().min()
        {
            self.refuse(oldest, &PeerError::NoHello, now, registry);
        }
        let token = Token(self.first_token + self.connections.next_index());
        if let Ok(socket) = Socket::new(stream, registry, token, true) {
            let decoder = Decoder::for_unknown_peer();
            self.connections.insert(Incoming { socket, decoder, sender: None, accepted_at: now });
        }
    }

    /// Handles an event of one of the tokens.
    pub(crate) fn on_event(&mut self, token: usize, event: &mio::event::Event) {
        if let Some(connection) = self.connections.get_mut(token - self.first_token) {
            connection.socket.on_event(event);
        }
    }

    /// Whether a connection may be read. `with_bulk` tells whether to include the bulk lane.
    pub(crate) fn is_readable(&mut self, with_bulk: bool) -> bool {
        self.connections.iter_mut().any(|(_, connection)| connection.is_readable(with_bulk))
    }

    /// The earliest time at which [`IncomingPeers::expire`] has something to do.
    pub(crate) fn next_expiry(&mut self) -> Option<Instant> {
        let unidentified = self.connections.iter_mut().filter(|(_, it)| it.sender.is_none());
        unidentified.map(|(_, it)| it.accepted_at + HELLO_TIMEOUT).min()
    }

    /// Closes the connections that sent no hello in time.
    pub(crate) fn expire(&mut self, now: Instant, registry: &Registry) {
        let expired: Vec<usize> = self
            .connections
            .iter_mut()
            .filter(|(_, it)| it.sender.is_none() && now >= it.accepted_at + HELLO_TIMEOUT)
            .map(|(index, _)| index)
            .collect();
        for index in expired {
            self.refuse(index, &PeerError::NoHello, now, registry);
        }
    }

    /// Receives frames, up to a bound. `on_frame` gets each with its sender and the sender's
    /// opening, first the hello. Without `with_bulk` the bulk lane is not read, so that the peer's
    /// socket fills.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        with_bulk: bool,
        registry: &Registry,
        space: &mut [u8],
        mut on_frame: impl FnMut(NodeId, u64, Frame),
    ) {
        let readable = self.connections.iter_mut().filter(|(_, it)| it.is_readable(with_bulk));
        let mut readable: Vec<(bool, usize)> =
            readable.map(|(index, it)| (it.is_bulk(), index)).collect();
        // Heartbeats and votes first.
        readable.sort_unstable();
        for (_, index) in readable {
            // The hello of a later connection may have closed this one.
            if self.connections.get_mut(index).is_none() {
                continue;
            }
            let hellos = self.hellos;
            let read = self.read(index, space, &mut on_frame);
            if self.hellos > hellos {
                self.close_replaced(index, registry);
            }
            match read {
                Ok(true) => {}
                Ok(false) => self.close(index, registry),
                Err(error) => self.refuse(index, &error, now, registry),
            }
        }
    }

    /// Reads from one connection. Returns false if it is closed.
    fn read(
        &mut self,
        index: usize,
        space: &mut [u8],
        on_frame: &mut impl FnMut(NodeId, u64, Frame),
    ) -> Result<bool, PeerError> {
        let connection = self.connections.get_mut(index).expect("the connection exists");
        let mut bytes = 0;
        while bytes < PASS_BYTES_MAX && connection.socket.is_readable() {
            match connection.socket.read(space) {
                ReadResult::Bytes(count) => {
                    bytes += count;
                    connection.decoder.feed(&space[..count]);
                }
                ReadResult::WouldBlock => break,
                ReadResult::Closed => return Ok(false),
            }
            while let Some(frame) = connection.decoder.next_frame()? {
                match (connection.sender, &frame) {
                    (Some(_), Frame::Hello(_)) => return Err(PeerError::Order),
                    (Some(sender), _) => on_frame(sender.peer, sender.opening, frame),
                    (None, Frame::Hello(hello)) => {
                        let record = check(&self.me, &self.members, hello, |peer, history| {
                            self.records.check(peer, history, OPENINGS_KEPT)
                        })?;
                        // Blocks this stage once per start of a peer: nothing that the peer sends
                        // may be accepted before the record is durable.
                        match self.records.note(record) {
                            // The record stays in memory until a restart.
                            Err(error) if error.is_disk_full() => {
                                tracing::warn!(%error, "cannot record the opening of a peer");
                            }
                            Err(error) => exit_on_disk_failure(&error),
                            Ok(()) => {}
                        }
                        self.hellos += 1;
                        let PeerOpening { peer, opening, .. } = record;
                        let (lane, number) = (hello.lane, self.hellos);
                        connection.sender = Some(Sender { peer, opening, lane, number });
                        on_frame(peer, opening, frame);
                    }
                    (None, _) => return Err(PeerError::Order),
                }
            }
        }
        Ok(true)
    }

    /// Closes the connections that a new one replaces: those of the same lane, and all of an
    /// earlier opening. Their unread frames must not be handled, since the peer may have sent the
    /// same writes again since.
    fn close_replaced(&mut self, by: usize, registry: &Registry) {
        let Some(newest) = self.connections.get_mut(by).and_then(|it| it.sender) else { return };
        let is_replaced = |sender: Sender| {
            sender.peer == newest.peer
                && (sender.opening != newest.opening
                    || (sender.lane == newest.lane && sender.number < newest.number))
        };
        let replaced: Vec<usize> = self
            .connections
            .iter_mut()
            .filter(|(_, it)| it.sender.is_some_and(is_replaced))
            .map(|(index, _)| index)
            .collect();
        for index in replaced {
            self.close(index, registry);
        }
    }

    /// Closes a connection and logs why.
    fn refuse(&mut self, index: usize, error: &PeerError, now: Instant, registry: &Registry) {
        self.counters.peers_refused.add_one();
        if let Some(suppressed) = self.refusals.count(error, now) {
            let address = self.connections.get_mut(index).and_then(|it| it.socket.address());
            let address = address.map_or_else(String::new, |address| address.to_string());
            tracing::warn!(address, suppressed, reason = %error, "connection of a peer refused");
        }
        self.close(index, registry);
    }

    fn close(&mut self, index: usize, registry: &Registry) {
        if let Some(mut connection) = self.connections.remove(index) {
            connection.socket.close(registry);
        }
    }
}
