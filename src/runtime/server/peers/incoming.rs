//! Connections from peers, on which this replica only receives: TCP connections, or streams of
//! datagrams. Each begins with a hello, and no other frame is accepted before the hello has been
//! checked (`handshake`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::runtime::boards::RuntimeCounters;
use crate::runtime::fatal::exit_on_disk_failure;
use crate::runtime::server::peers::handshake::{PeerError, RefusalLog, check};
use crate::runtime::server::sockets::datagram_socket::DatagramSocket;
use crate::runtime::server::sockets::slab::Slab;
use crate::runtime::server::sockets::socket::{ReadResult, Socket};
use crate::storage::{Identity, OPENINGS_KEPT, PeerOpening, PeerRecords, RealDisk};
use crate::transport::Outbox;
use crate::transport::cookies::Cookies;
use crate::transport::receiver::Receiver;
use crate::types::{Instant, NodeId};
use crate::wire::datagram::{Data, Datagram, StreamId};
use crate::wire::frame::{Decoder, Frame, Lane};

/// Time limit within which a new connection must send its hello (the first frame, which identifies
/// the peer).
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of connections that have not sent a hello (the first frame, which identifies the
/// peer). A further connection replaces the oldest of them, so that idle connections cannot keep
/// out a peer that sends its hello at once.
const UNIDENTIFIED_MAX: usize = 64;
/// Maximum number of bytes read from one connection in one pass (iteration of the stage's loop), so
/// that no connection delays the others.
const PASS_BYTES_MAX: usize = 1 << 20;

/// Number of closed streams of datagrams whose ids are kept, so that no late datagram opens one of
/// these streams again.
const CLOSED_MAX: usize = 1_024;
/// Maximum number of datagrams sent in one pass (iteration of the stage's loop) in reply to
/// requests to open a stream and to datagrams of unknown streams. Further ones get no reply, and
/// their senders try again.
const REPLIES_MAX: usize = 64;
/// Maximum receive window of a stream of datagrams, in bytes.
const WINDOW_MAX: usize = 4 << 20;

/// The transport of a connection from a peer: a TCP socket, or a stream of datagrams over UDP.
#[derive(Debug)]
enum Carrier {
    Tcp(Socket),
    Datagrams { receiver: Box<Receiver>, address: SocketAddr },
}

/// One connection from a peer, on which this replica only receives.
#[derive(Debug)]
struct Incoming {
    carrier: Carrier,
    /// Number of bytes that were passed to the frame decoder as soon as their datagrams arrived,
    /// and whose frames this replica has not handled yet.
    fed: usize,
    decoder: Decoder,
    /// The peer that made this connection; `None` until the connection's hello (first frame) is
    /// accepted.
    sender: Option<Sender>,
    accepted_at: Instant,
}

/// The identity of an incoming connection, taken from its hello (first frame): the peer, and which
/// of the peer's connections this is.
#[derive(Clone, Copy, Debug)]
struct Sender {
    peer: NodeId,
    /// The random number that identifies the peer's current start. The peer drew it when it opened
    /// its log.
    opening: u64,
    lane: Lane,
    /// Number of this connection among those that the peer has made since its start. Of two
    /// connections for the same kind of messages (urgent or bulk), the one with the higher number
    /// replaces the other.
    number: u64,
}

impl Incoming {
    fn is_readable(&self, with_bulk: bool) -> bool {
        let has_bytes = match &self.carrier {
            Carrier::Tcp(socket) => socket.is_readable(),
            Carrier::Datagrams { receiver, .. } => receiver.is_readable(),
        };
        (has_bytes || self.fed > 0) && (with_bulk || !self.is_bulk())
    }

    /// Reads once from the connection and passes the bytes to the decoder. `space` is the buffer
    /// for reads from a TCP socket.
    fn read(&mut self, space: &mut [u8]) -> ReadResult {
        match &mut self.carrier {
            Carrier::Tcp(socket) => {
                let result = socket.read(space);
                if let ReadResult::Bytes(count) = result {
                    self.decoder.feed(&space[..count]);
                }
                result
            }
            Carrier::Datagrams { .. } if self.fed > 0 => {
                ReadResult::Bytes(std::mem::take(&mut self.fed))
            }
            Carrier::Datagrams { receiver, .. } => {
                let Some(bytes) = receiver.read() else { return ReadResult::WouldBlock };
                self.decoder.feed(&bytes);
                ReadResult::Bytes(bytes.len())
            }
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        match &self.carrier {
            Carrier::Tcp(socket) => socket.address(),
            Carrier::Datagrams { address, .. } => Some(*address),
        }
    }

    fn stream(&self) -> Option<StreamId> {
        match &self.carrier {
            Carrier::Tcp(_) => None,
            Carrier::Datagrams { receiver, .. } => Some(receiver.id()),
        }
    }

    fn is_bulk(&self) -> bool {
        self.sender.is_some_and(|sender| sender.lane == Lane::Bulk)
    }
}

/// All incoming connections from peers.
#[derive(Debug)]
pub(crate) struct IncomingPeers {
    me: Identity,
    /// The ids of all members, including this replica, in ascending order.
    members: Vec<NodeId>,
    /// For each peer, the durable record of the random numbers that identify its starts, drawn each
    /// time the peer opened its log. With this record, an older copy of the peer's folder is
    /// detected.
    records: PeerRecords<RealDisk>,
    connections: Slab<Incoming>,
    /// The latest accepted connection of each peer for each kind of messages (urgent or bulk). Kept
    /// when the connection is closed, so that an earlier connection that was delayed is refused.
    latest: Vec<Sender>,
    first_token: usize,
    cookies: Cookies,
    /// Receive window of each stream of datagrams, in bytes: the number of bytes that a peer may
    /// send ahead of those that this replica has read.
    window: usize,
    /// The most recently closed streams of datagrams, oldest first; at most [`CLOSED_MAX`]. No late
    /// datagram opens one of them again.
    closed: VecDeque<StreamId>,
    /// Replies to be sent at the end of the pass, each with its destination; at most
    /// [`REPLIES_MAX`].
    replies: Vec<(SocketAddr, Datagram<'static>)>,
    /// Buffer for datagrams to be sent. Empty between passes (iterations of the stage's loop), and
    /// kept to reuse its memory.
    out: Outbox,
    refusals: RefusalLog,
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
            records,
            connections: Slab::default(),
            latest: Vec::new(),
            first_token,
            cookies: Cookies::new(secret),
            window: window.min(WINDOW_MAX),
            closed: VecDeque::new(),
            replies: Vec::new(),
            out: Outbox::default(),
            refusals: RefusalLog::default(),
            counters,
        }
    }

    /// Adds a new TCP connection from a peer. If too many connections have not sent a hello (first
    /// frame), closes the oldest of them.
    pub(crate) fn accept(&mut self, stream: TcpStream, now: Instant, registry: &Registry) {
        self.evict_unidentified(now, registry);
        let token = Token(self.first_token + self.connections.next_index());
        if let Ok(socket) = Socket::new(stream, registry, token, true) {
            self.insert(Carrier::Tcp(socket), now);
        }
    }

    fn insert(&mut self, carrier: Carrier, now: Instant) -> usize {
        let decoder = Decoder::for_unknown_peer();
        let sender = None;
        self.connections.insert(Incoming { carrier, fed: 0, decoder, sender, accepted_at: now })
    }

    /// If too many connections have not sent a hello (the first frame, which identifies the peer),
    /// closes the oldest of them.
    fn evict_unidentified(&mut self, now: Instant, registry: &Registry) {
        let unidentified = self.connections.iter_mut().filter(|(_, it)| it.sender.is_none());
        let unidentified: Vec<_> =
            unidentified.map(|(index, it)| (it.accepted_at, index)).collect();
        if unidentified.len() >= UNIDENTIFIED_MAX
            && let Some(&(_, oldest)) = unidentified.iter().min()
        {
            self.refuse(oldest, &PeerError::NoHello, now, registry);
        }
    }

    /// Handles a `Poll` event of an incoming connection.
    pub(crate) fn on_event(&mut self, token: usize, event: &mio::event::Event) {
        let connection = self.connections.get_mut(token - self.first_token);
        if let Some(Incoming { carrier: Carrier::Tcp(socket), .. }) = connection {
            socket.on_event(event);
        }
    }

    /// Handles a peer's request to open a stream of datagrams: replies with the cookie (token) that
    /// the peer needs to open it.
    pub(crate) fn on_open(&mut self, from: SocketAddr, id: StreamId, now: Instant) {
        let id = self.cookies.issue(&from.to_string(), id.stream, now);
        self.reply(from, Datagram::Cookie(id));
    }

    /// Handles a datagram with data of a stream. If the stream is unknown but its cookie is valid,
    /// adds it as a new connection. `with_bulk` says whether connections for bulk messages are read
    /// in this pass, see [`IncomingPeers::receive`].
    pub(crate) fn on_data(
        &mut self,
        from: SocketAddr,
        id: StreamId,
        data: &Data<'_>,
        with_bulk: bool,
        now: Instant,
        registry: &Registry,
    ) {
        let known = self.connections.iter_mut().find(|(_, it)| it.stream() == Some(id));
        let index = match known.map(|(index, _)| index) {
            Some(index) => index,
            None if self.cookies.is_valid(&from.to_string(), id, now)
                && !self.closed.contains(&id) =>
            {
                self.evict_unidentified(now, registry);
                let receiver = Box::new(Receiver::new(id, self.window));
                self.insert(Carrier::Datagrams { receiver, address: from }, now)
            }
            None => {
                self.reply(from, Datagram::Reset(id));
                return;
            }
        };
        let Some(connection) = self.connections.get_mut(index) else { return };
        let feeds = with_bulk || !connection.is_bulk();
        if let Carrier::Datagrams { receiver, address } = &mut connection.carrier {
            // The cookie is for this address only. A peer with a new address must connect again.
            if *address != from {
                self.reply(from, Datagram::Reset(id));
                return;
            }
            if feeds && receiver.on_next(data, now) {
                connection.decoder.feed(data.payload);
                connection.fed += data.payload.len();
            } else {
                receiver.on_data(data, now);
            }
        }
    }

    fn reply(&mut self, to: SocketAddr, datagram: Datagram<'static>) {
        if self.replies.len() < REPLIES_MAX {
            self.replies.push((to, datagram));
        }
    }

    /// Returns the share of the latest datagrams from `peer` that were lost, in permille: the
    /// higher value if the peer has two streams, 0 if the peer has no stream.
    pub(crate) fn loss_from(&mut self, peer: NodeId) -> u32 {
        let streams = self.connections.iter_mut().filter_map(|(_, it)| match &it.carrier {
            Carrier::Datagrams { receiver, .. } if it.sender.is_some_and(|at| at.peer == peer) => {
                Some(receiver.loss_permille())
            }
            _ => None,
        });
        streams.max().unwrap_or(0)
    }

    /// Returns the earliest time at which [`IncomingPeers::acknowledge`] must send an
    /// acknowledgement; `None` if no acknowledgement is to be sent.
    pub(crate) fn next_acknowledgement(&mut self) -> Option<Instant> {
        let due = self.connections.iter_mut().filter_map(|(_, it)| match &it.carrier {
            Carrier::Datagrams { receiver, .. } => Some(receiver.next_timeout()),
            Carrier::Tcp(_) => None,
        });
        due.min().filter(|due| *due < Instant::MAX)
    }

    /// Sends the acknowledgements that are due on all streams of datagrams. Also sends the replies
    /// to requests to open a stream and to datagrams of unknown streams.
    pub(crate) fn acknowledge(&mut self, now: Instant, socket: &DatagramSocket) {
        for (to, datagram) in self.replies.drain(..) {
            self.out.push(&datagram);
            socket.send(to, &self.out);
            self.out.clear();
        }
        for (_, connection) in self.connections.iter_mut() {
            if let Carrier::Datagrams { receiver, address } = &mut connection.carrier {
                receiver.acknowledge(now, &mut self.out);
                if !self.out.is_empty() {
                    socket.send(*address, &self.out);
                    self.out.clear();
                }
            }
        }
    }

    /// Returns whether any connection may be read. Connections for bulk messages are considered
    /// only if `with_bulk` is true.
    pub(crate) fn is_readable(&mut self, with_bulk: bool) -> bool {
        self.connections.iter_mut().any(|(_, connection)| connection.is_readable(with_bulk))
    }

    /// Returns the earliest time at which [`IncomingPeers::expire`] may close a connection; `None`
    /// if all connections have sent their hello (first frame of a connection).
    pub(crate) fn next_expiry(&mut self) -> Option<Instant> {
        let unidentified = self.connections.iter_mut().filter(|(_, it)| it.sender.is_none());
        unidentified.map(|(_, it)| it.accepted_at + HELLO_TIMEOUT).min()
    }

    /// Closes connections that have not sent a hello (first frame of a connection) within
    /// [`HELLO_TIMEOUT`].
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

    /// Receives frames, at most about [`PASS_BYTES_MAX`] bytes from each connection. Calls
    /// `on_frame` for each frame with the peer, the random number that identifies the peer's
    /// current start, and the frame. The first frame of a connection is its hello. Connections for
    /// bulk messages are read only if `with_bulk` is true: otherwise their socket buffers fill,
    /// which slows the peer down.
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
            let was_identified = self.is_identified(index);
            let read = self.read(index, space, &mut on_frame);
            if !was_identified && self.is_identified(index) {
                self.close_replaced(index, registry);
            }
            match read {
                Ok(true) => {}
                Ok(false) => self.close(index, registry),
                Err(error) => self.refuse(index, &error, now, registry),
            }
        }
    }

    /// Returns whether the connection at `index` has sent a hello (its first frame) that was
    /// accepted.
    fn is_identified(&mut self, index: usize) -> bool {
        self.connections.get_mut(index).is_some_and(|it| it.sender.is_some())
    }

    /// Reads frames from one connection and passes them to `on_frame`. Returns false if the peer
    /// has closed the connection, and an error if the connection must be refused.
    fn read(
        &mut self,
        index: usize,
        space: &mut [u8],
        on_frame: &mut impl FnMut(NodeId, u64, Frame),
    ) -> Result<bool, PeerError> {
        let connection = self.connections.get_mut(index).expect("the connection exists");
        let mut bytes = 0;
        while bytes < PASS_BYTES_MAX && connection.is_readable(true) {
            match connection.read(space) {
                ReadResult::Bytes(count) => bytes += count,
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
                                tracing::warn!(
                                    peer = %record.peer,
                                    %error,
                                    "latest start of a peer not written to the full disk, only \
                                     kept in memory; free disk space"
                                );
                            }
                            Err(error) => exit_on_disk_failure(&error),
                            Ok(()) => {}
                        }
                        let PeerOpening { peer, opening, .. } = record;
                        let (lane, number) = (hello.lane, hello.connection);
                        let sender = Sender { peer, opening, lane, number };
                        if !note_latest(&mut self.latest, sender) {
                            return Err(PeerError::Late(peer));
                        }
                        connection.sender = Some(sender);
                        on_frame(peer, opening, frame);
                    }
                    (None, _) => return Err(PeerError::Order),
                }
            }
        }
        Ok(true)
    }

    /// Closes the connections of a peer that are replaced by its new connection, the one at index
    /// `by`: the earlier connection for the same kind of messages (urgent or bulk), and all
    /// connections from before the peer's last restart. Their unread frames are discarded, since
    /// the peer may have sent the same writes again.
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

    /// Counts and logs the refusal of a connection, and closes it.
    fn refuse(&mut self, index: usize, error: &PeerError, now: Instant, registry: &Registry) {
        self.counters.peers_refused.add_one();
        if let Some(suppressed) = self.refusals.count(error, now) {
            let address = self.connections.get_mut(index).and_then(|it| it.address());
            let address = address.map_or_else(String::new, |address| address.to_string());
            tracing::warn!(address, suppressed, reason = %error, "connection of a peer refused");
        }
        self.close(index, registry);
    }

    fn close(&mut self, index: usize, registry: &Registry) {
        match self.connections.remove(index).map(|connection| connection.carrier) {
            Some(Carrier::Tcp(mut socket)) => socket.close(registry),
            Some(Carrier::Datagrams { receiver, address }) => {
                if self.closed.len() == CLOSED_MAX {
                    self.closed.pop_front();
                }
                self.closed.push_back(receiver.id());
                self.reply(address, Datagram::Reset(receiver.id()));
            }
            None => {}
        }
    }
}

/// Records `sender` in `latest` as the peer's newest connection for its kind of messages (urgent or
/// bulk). Returns false if the peer has already made a later connection since the same start: this
/// connection was delayed, and the peer may have sent its messages again on the later one.
fn note_latest(latest: &mut Vec<Sender>, sender: Sender) -> bool {
    let same = |it: &&mut Sender| it.peer == sender.peer && it.lane == sender.lane;
    match latest.iter_mut().find(same) {
        Some(last) if last.opening == sender.opening && last.number > sender.number => false,
        Some(last) => {
            *last = sender;
            true
        }
        None => {
            latest.push(sender);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delayed_peer_connection_is_not_read_after_a_later_one() {
        let mut latest = Vec::new();
        let of = |peer, opening, lane, number| Sender { peer: NodeId(peer), opening, lane, number };
        let mut note = |sender| note_latest(&mut latest, sender);
        assert!(note(of(1, 7, Lane::Bulk, 2)) && note(of(1, 7, Lane::Urgent, 1)));
        assert!(!note(of(1, 7, Lane::Bulk, 1)), "it was made before");
        assert!(note(of(1, 7, Lane::Bulk, 3)) && note(of(2, 7, Lane::Bulk, 1)));
        assert!(!note(of(1, 7, Lane::Bulk, 2)));
        assert!(note(of(1, 8, Lane::Bulk, 0)), "a restart begins anew");
    }
}
