//! Connections from peers, on which a replica only receives: TCP connections, or streams of
//! datagrams. Each begins with a hello, and no other frame is accepted before the driver has
//! accepted the hello. A later connection of a peer replaces its earlier ones.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::time::Duration;

use crate::config::Mutant;
use crate::types::{Instant, NodeId};
use crate::wire::datagram::{Data, Datagram, StreamId};
use crate::wire::frame::{Decoder, Frame, FrameError, Hello, Lane};

use super::Outbox;
use super::connection::{ReadResult, TcpConnection};
use super::cookies::Cookies;
use super::receiver::Receiver;

/// Time limit within which a new connection must send its hello (the first frame, which identifies
/// the peer).
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of connections that have not sent a hello (the first frame, which identifies the
/// peer). A further connection replaces the oldest of them, so that idle connections cannot keep
/// out a peer that sends its hello at once.
const UNIDENTIFIED_MAX: usize = 64;
/// Maximum number of bytes read from one connection in one pass (iteration of the driver's loop),
/// so that no connection delays the others.
const PASS_BYTES_MAX: usize = 1 << 20;
/// Number of closed datagram streams whose ids are kept, so that no late datagram opens one of
/// these streams again.
const CLOSED_MAX: usize = 1_024;
/// Maximum number of replies in one pass (iteration of the driver's loop) to requests to open a
/// stream, and to datagrams of unknown streams. Further datagrams get none; their senders send
/// again.
const REPLIES_MAX: usize = 64;

/// Minimum number of datagrams of a stream from which the loss on the path from a peer is measured.
/// With fewer, a single lost datagram would be a high share: from this number on, two lost
/// datagrams are less than 1 %.
const LOSS_MEASURED_MIN: u64 = 256;

/// Why this module refuses a connection. A driver has further reasons (its `accept`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a peer sent another frame before its hello frame, or a second hello")]
    Order,
    #[error(
        "no hello frame arrived in time on a connection for peers; check who connects to \
         --peer-listen"
    )]
    NoHello,
}

/// What a connection from a peer is made of: a TCP connection, or a datagram stream from an
/// address.
#[derive(Debug)]
pub(crate) enum IncomingTransport<T, A> {
    Tcp(T),
    Datagrams { receiver: Box<Receiver>, address: A },
}

/// One connection from a peer, on which this replica only receives.
#[derive(Debug)]
struct Connection<T, A> {
    transport: IncomingTransport<T, A>,
    /// Number of bytes that were passed to the frame decoder as soon as their datagrams arrived,
    /// and whose frames this replica has not handled yet.
    fed: usize,
    decoder: Decoder,
    /// The peer that made this connection; `None` until the connection's hello (first frame) is
    /// accepted.
    sender: Option<ConnectionSender>,
    accepted_at: Instant,
}

/// The identity of an incoming connection, taken from its hello (first frame): the peer, and which
/// of the peer's connections this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionSender {
    pub(crate) peer: NodeId,
    /// The random number that identifies the peer's current start. The peer drew it when it opened
    /// its log.
    pub(crate) start_id: u64,
    pub(crate) lane: Lane,
    /// Sequence number of this connection among those that the peer has made since its start. Of
    /// two connections on the same lane (urgent or bulk messages), the one with the higher number
    /// replaces the other.
    pub(crate) number: u64,
}

/// A connection that was closed.
#[derive(Debug)]
pub(crate) struct Ended<T, A, E> {
    /// The connection. The driver must close a TCP connection.
    pub(crate) transport: IncomingTransport<T, A>,
    /// Why it was refused; `None` if the peer has closed it, or a later one has replaced it (also
    /// before its hello arrived, which is normal on a network that loses packets).
    pub(crate) error: Option<E>,
}

/// A driver's answer to a hello: the peer and the random number that identifies its start.
pub(crate) type Accepted<E> = Result<(NodeId, u64), E>;

impl<T: TcpConnection, A: Copy> Connection<T, A> {
    fn is_readable(&self, with_bulk: bool) -> bool {
        let has_bytes = match &self.transport {
            IncomingTransport::Tcp(tcp) => tcp.is_readable(),
            IncomingTransport::Datagrams { receiver, .. } => receiver.is_readable(),
        };
        (has_bytes || self.fed > 0) && (with_bulk || !self.is_bulk())
    }

    /// Reads once from the connection and passes the bytes to the decoder. `space` is the buffer
    /// for reads from a TCP socket.
    fn read(&mut self, space: &mut [u8]) -> ReadResult {
        match &mut self.transport {
            IncomingTransport::Tcp(tcp) => {
                let result = tcp.read(space);
                if let ReadResult::Bytes(count) = result {
                    self.decoder.feed(&space[..count]);
                }
                result
            }
            IncomingTransport::Datagrams { .. } if self.fed > 0 => {
                ReadResult::Bytes(std::mem::take(&mut self.fed))
            }
            IncomingTransport::Datagrams { receiver, .. } => {
                let Some(bytes) = receiver.read() else { return ReadResult::WouldBlock };
                self.decoder.feed(&bytes);
                ReadResult::Bytes(bytes.len())
            }
        }
    }

    fn stream(&self) -> Option<StreamId> {
        match &self.transport {
            IncomingTransport::Tcp(_) => None,
            IncomingTransport::Datagrams { receiver, .. } => Some(receiver.id()),
        }
    }

    fn is_bulk(&self) -> bool {
        self.sender.is_some_and(|sender| sender.lane == Lane::Bulk)
    }
}

/// All incoming connections from peers. `T` is a TCP connection, `A` the address of a peer's
/// datagrams, and `E` the reason why a connection is refused.
#[derive(Debug)]
pub(crate) struct IncomingConnections<T, A, E> {
    connections: BTreeMap<usize, Connection<T, A>>,
    /// The latest accepted connection of each peer on each lane (urgent or bulk messages). Kept
    /// when the connection is closed, so that an earlier connection that was delayed is refused.
    latest: Vec<ConnectionSender>,
    cookies: Cookies,
    /// Receive window of each datagram stream, in bytes: the number of bytes that a peer may
    /// send ahead of those that this replica has read.
    window: usize,
    /// The most recently closed datagram streams, oldest first; at most [`CLOSED_MAX`]. No late
    /// datagram opens one of them again.
    closed: VecDeque<StreamId>,
    /// Replies to be sent at the end of the pass, each with its destination; at most
    /// [`REPLIES_MAX`].
    replies: Vec<(A, Datagram<'static>)>,
    ended: Vec<Ended<T, A, E>>,
    /// Buffer for datagrams to be sent. Empty between passes (iterations of the stage's loop), and
    /// kept to reuse its memory.
    out: Outbox,
    /// The rule that the streams break on purpose (mutation testing); `None` for no rule.
    pub(crate) mutant: Option<Mutant>,
}

impl<T, A, E> IncomingConnections<T, A, E>
where
    T: TcpConnection,
    A: Copy + PartialEq + Display,
    E: From<ConnectionError>,
{
    /// Creates an empty list of connections. `secret`, which must be random, is for the cookies of
    /// datagram streams; each has a window of `window` bytes.
    pub(crate) fn new(secret: [u8; 32], window: usize) -> IncomingConnections<T, A, E> {
        IncomingConnections {
            connections: BTreeMap::new(),
            latest: Vec::new(),
            cookies: Cookies::new(secret),
            window,
            closed: VecDeque::new(),
            replies: Vec::new(),
            ended: Vec::new(),
            out: Outbox::default(),
            mutant: None,
        }
    }

    /// Returns the index that the next connection will get.
    pub(crate) fn next_index(&self) -> usize {
        let free = (0..=self.connections.len()).find(|it| !self.connections.contains_key(it));
        free.expect("one index more than connections")
    }

    /// Returns the TCP connection at `index`; `None` if there is none.
    pub(crate) fn tcp_mut(&mut self, index: usize) -> Option<&mut T> {
        match &mut self.connections.get_mut(&index)?.transport {
            IncomingTransport::Tcp(tcp) => Some(tcp),
            IncomingTransport::Datagrams { .. } => None,
        }
    }

    /// Takes the connections that were closed since the last call.
    pub(crate) fn take_ended(&mut self) -> Vec<Ended<T, A, E>> {
        std::mem::take(&mut self.ended)
    }

    /// Adds a connection at [`IncomingConnections::next_index`], and returns the index.
    pub(crate) fn insert(&mut self, transport: IncomingTransport<T, A>, now: Instant) -> usize {
        let index = self.next_index();
        let decoder = Decoder::for_unknown_peer();
        let connection = Connection { transport, fed: 0, decoder, sender: None, accepted_at: now };
        self.connections.insert(index, connection);
        index
    }

    /// If too many connections have not sent a hello, closes the oldest of them. To be called
    /// before a new one is added.
    pub(crate) fn evict_unidentified(&mut self) {
        let unidentified = self.connections.iter().filter(|(_, it)| it.sender.is_none());
        let unidentified: Vec<_> =
            unidentified.map(|(&index, it)| (it.accepted_at, index)).collect();
        if unidentified.len() >= UNIDENTIFIED_MAX
            && let Some(&(_, oldest)) = unidentified.iter().min()
        {
            self.refuse(oldest, ConnectionError::NoHello);
        }
    }

    /// Handles a peer's request to open a datagram stream: replies with the cookie (token) that
    /// the peer needs to open it.
    pub(crate) fn on_open(&mut self, from: A, id: StreamId, now: Instant) {
        let id = self.cookies.issue(&from.to_string(), id.stream, now);
        self.reply(from, Datagram::Cookie(id));
    }

    /// Handles a datagram of a stream. The first one with a valid cookie makes it a connection.
    /// `with_bulk` is whether connections for bulk messages are read in this pass, see
    /// [`IncomingConnections::receive`].
    pub(crate) fn on_data(
        &mut self,
        from: A,
        id: StreamId,
        data: &Data<'_>,
        with_bulk: bool,
        now: Instant,
    ) {
        let known = self.connections.iter().find(|(_, it)| it.stream() == Some(id));
        let index = match known.map(|(&index, _)| index) {
            Some(index) => index,
            None if self.cookies.is_valid(&from.to_string(), id, now)
                && !self.closed.contains(&id) =>
            {
                self.evict_unidentified();
                let mut receiver = Box::new(Receiver::new(id, self.window));
                receiver.mutant = self.mutant;
                self.insert(IncomingTransport::Datagrams { receiver, address: from }, now)
            }
            None => {
                self.reply(from, Datagram::Reset(id));
                return;
            }
        };
        let Some(connection) = self.connections.get_mut(&index) else { return };
        let feeds = with_bulk || !connection.is_bulk();
        if let IncomingTransport::Datagrams { receiver, address } = &mut connection.transport {
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

    fn reply(&mut self, to: A, datagram: Datagram<'static>) {
        if self.replies.len() < REPLIES_MAX {
            self.replies.push((to, datagram));
        }
    }

    /// Returns the share of the latest datagrams from `peer` that were lost, in permille: the
    /// higher value if the peer has two streams, 0 if the peer has no stream with at least
    /// [`LOSS_MEASURED_MIN`] datagrams.
    pub(crate) fn loss_from(&self, peer: NodeId) -> u32 {
        let streams = self.connections.values().filter_map(|it| match &it.transport {
            IncomingTransport::Datagrams { receiver, .. }
                if it.sender.is_some_and(|at| at.peer == peer)
                    && receiver.sent_before() >= LOSS_MEASURED_MIN =>
            {
                Some(receiver.loss_permille())
            }
            _ => None,
        });
        streams.max().unwrap_or(0)
    }

    /// Returns the earliest time at which [`IncomingConnections::acknowledge`] must send an
    /// acknowledgement; [`Instant::MAX`] if none is to be sent.
    pub(crate) fn next_acknowledgement(&self) -> Instant {
        let due = self.connections.values().filter_map(|it| match &it.transport {
            IncomingTransport::Datagrams { receiver, .. } => Some(receiver.next_timeout()),
            IncomingTransport::Tcp(_) => None,
        });
        due.min().unwrap_or(Instant::MAX)
    }

    /// Sends the acknowledgements of all datagram streams, and the replies to datagrams of
    /// unknown ones, with `send`.
    pub(crate) fn acknowledge(&mut self, now: Instant, mut send: impl FnMut(A, &Outbox)) {
        for (to, datagram) in self.replies.drain(..) {
            self.out.push(&datagram);
            send(to, &self.out);
            self.out.clear();
        }
        for connection in self.connections.values_mut() {
            if let IncomingTransport::Datagrams { receiver, address } = &mut connection.transport {
                receiver.acknowledge(now, &mut self.out);
                if !self.out.is_empty() {
                    send(*address, &self.out);
                    self.out.clear();
                }
            }
        }
    }

    /// Returns whether the connection of `sender` is open and everything that has arrived on it was
    /// read.
    pub(crate) fn is_read(&self, sender: ConnectionSender) -> bool {
        let connection = self.connections.values().find(|it| it.sender == Some(sender));
        connection.is_some_and(|it| !it.is_readable(true))
    }

    /// Returns whether any connection may be read. Connections for bulk messages are considered
    /// only if `with_bulk` is true.
    pub(crate) fn is_readable(&self, with_bulk: bool) -> bool {
        self.connections.values().any(|connection| connection.is_readable(with_bulk))
    }

    /// Returns the earliest time at which [`IncomingConnections::expire`] may close a connection;
    /// [`Instant::MAX`] if all connections have sent their hello.
    pub(crate) fn next_expiry(&self) -> Instant {
        let unidentified = self.connections.values().filter(|it| it.sender.is_none());
        unidentified.map(|it| it.accepted_at + HELLO_TIMEOUT).min().unwrap_or(Instant::MAX)
    }

    /// Closes connections that have not sent a hello (first frame of a connection) within
    /// [`HELLO_TIMEOUT`].
    pub(crate) fn expire(&mut self, now: Instant) {
        let expired: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, it)| it.sender.is_none() && now >= it.accepted_at + HELLO_TIMEOUT)
            .map(|(&index, _)| index)
            .collect();
        for index in expired {
            self.refuse(index, ConnectionError::NoHello);
        }
    }

    /// Receives frames, at most about [`PASS_BYTES_MAX`] bytes from each connection. `accept`
    /// decides about each hello, which is the first frame of a connection, with the transport of
    /// the connection; `on_frame` is then called for it and for all later frames. Connections for
    /// bulk messages are read only if `with_bulk` is true: otherwise their buffers fill, which
    /// slows the peer down.
    pub(crate) fn receive(
        &mut self,
        with_bulk: bool,
        space: &mut [u8],
        mut accept: impl FnMut(&Hello, &IncomingTransport<T, A>) -> Accepted<E>,
        mut on_frame: impl FnMut(ConnectionSender, Frame),
    ) {
        let readable = self.connections.iter().filter(|(_, it)| it.is_readable(with_bulk));
        let mut readable: Vec<(bool, usize)> =
            readable.map(|(&index, it)| (it.is_bulk(), index)).collect();
        // Heartbeats and votes first.
        readable.sort_unstable();
        for (_, index) in readable {
            // The hello of a later connection may have closed this one.
            let Some(connection) = self.connections.get_mut(&index) else { continue };
            let was_identified = connection.sender.is_some();
            let read = connection.read_frames(&mut self.latest, space, &mut accept, &mut on_frame);
            let newest = connection.sender.filter(|_| !was_identified);
            if let Some(newest) = newest {
                self.close_replaced(newest);
            }
            match read {
                Ok(true) => {}
                Ok(false) => self.close(index, None),
                Err(error) => self.close(index, Some(error)),
            }
        }
    }

    /// Closes the connections of a peer that are replaced by its new connection: the earlier
    /// connection on the same lane (urgent or bulk messages), and all connections from before the
    /// peer's last restart. Their unread frames are discarded, since the peer may have sent the
    /// same writes again.
    fn close_replaced(&mut self, newest: ConnectionSender) {
        let is_replaced = |sender: ConnectionSender| {
            sender.peer == newest.peer
                && (sender.start_id != newest.start_id
                    || (sender.lane == newest.lane && sender.number < newest.number))
        };
        let replaced: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, it)| it.sender.is_some_and(is_replaced))
            .map(|(&index, _)| index)
            .collect();
        for index in replaced {
            self.close(index, None);
        }
    }

    /// Closes all connections, without an error.
    pub(crate) fn close_all(&mut self) {
        for index in self.connections.keys().copied().collect::<Vec<_>>() {
            self.close(index, None);
        }
    }

    fn refuse(&mut self, index: usize, error: ConnectionError) {
        self.close(index, Some(error.into()));
    }

    fn close(&mut self, index: usize, error: Option<E>) {
        let Some(Connection { transport, .. }) = self.connections.remove(&index) else { return };
        if let IncomingTransport::Datagrams { receiver, address } = &transport {
            if self.closed.len() == CLOSED_MAX {
                self.closed.pop_front();
            }
            self.closed.push_back(receiver.id());
            let (address, reset) = (*address, Datagram::Reset(receiver.id()));
            self.reply(address, reset);
        }
        self.ended.push(Ended { transport, error });
    }
}

impl<T: TcpConnection, A: Copy> Connection<T, A> {
    /// Reads frames and passes them to `on_frame`. Returns false if the connection must be closed
    /// without an error: either the peer has closed it, or the hello of a newer connection of this
    /// peer on the same lane (urgent or bulk messages) arrived before the hello of this connection.
    /// Returns an error if the connection must be refused.
    fn read_frames<E: From<ConnectionError>>(
        &mut self,
        latest: &mut Vec<ConnectionSender>,
        space: &mut [u8],
        accept: &mut impl FnMut(&Hello, &IncomingTransport<T, A>) -> Accepted<E>,
        on_frame: &mut impl FnMut(ConnectionSender, Frame),
    ) -> Result<bool, E> {
        let mut bytes = 0;
        while bytes < PASS_BYTES_MAX && self.is_readable(true) {
            match self.read(space) {
                ReadResult::Bytes(count) => bytes += count,
                ReadResult::WouldBlock => break,
                ReadResult::Closed => return Ok(false),
            }
            while let Some(frame) = self.decoder.next_frame().map_err(ConnectionError::from)? {
                match (self.sender, &frame) {
                    (Some(_), Frame::Hello(_)) => return Err(ConnectionError::Order.into()),
                    (Some(sender), _) => on_frame(sender, frame),
                    (None, Frame::Hello(hello)) => {
                        let (peer, start_id) = accept(hello, &self.transport)?;
                        let (lane, number) = (hello.lane, hello.connection);
                        let sender = ConnectionSender { peer, start_id, lane, number };
                        if !note_latest(latest, sender) {
                            return Ok(false);
                        }
                        self.sender = Some(sender);
                        on_frame(sender, frame);
                    }
                    (None, _) => return Err(ConnectionError::Order.into()),
                }
            }
        }
        Ok(true)
    }
}

/// Records `sender` in `latest` as the peer's newest connection on its lane (urgent or bulk
/// messages). Returns false if the peer has already made a later connection since the same start:
/// this connection was delayed, and the peer may have sent its messages again on the later one.
fn note_latest(latest: &mut Vec<ConnectionSender>, sender: ConnectionSender) -> bool {
    let same = |it: &&mut ConnectionSender| it.peer == sender.peer && it.lane == sender.lane;
    match latest.iter_mut().find(same) {
        Some(last) if last.start_id == sender.start_id && last.number > sender.number => false,
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
    use bytes::BytesMut;

    use super::*;
    use crate::feature_level::FeatureLevel;
    use crate::transport::connection::NoTcp;
    use crate::wire::protocol::{ProtocolVersions, V10};
    use crate::wire::{datagram, frame};

    const PEER: NodeId = NodeId(2);
    const NOW: Instant = Instant(1_000_000_000);

    type Connections = IncomingConnections<NoTcp, NodeId, ConnectionError>;

    fn connections() -> Connections {
        IncomingConnections::new([7; 32], 0)
    }

    /// Returns the datagrams that are sent to the peer.
    fn sent(connections: &mut Connections) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        connections.acknowledge(NOW + Duration::from_secs(1), |to, out| {
            assert_eq!(to, PEER);
            for (bytes, length) in out.runs(64) {
                sent.extend(bytes.chunks(length).map(<[u8]>::to_vec));
            }
        });
        sent
    }

    fn resets(connections: &mut Connections) -> Vec<StreamId> {
        let resets = sent(connections).into_iter().filter_map(|it| match datagram::decode(&it) {
            Ok(Datagram::Reset(id)) => Some(id),
            _ => None,
        });
        resets.collect()
    }

    /// Asks for a cookie, and returns the id of the stream with it.
    fn open(connections: &mut Connections, stream: u64) -> StreamId {
        connections.on_open(PEER, StreamId { stream, cookie: 0 }, NOW);
        match datagram::decode(&sent(connections)[0]) {
            Ok(Datagram::Cookie(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    /// The connection with this number begins with its hello on the stream `id`.
    fn begin(connections: &mut Connections, id: StreamId, connection: u64) {
        let hello = Hello {
            cluster: 1,
            from: PEER,
            to: NodeId(1),
            incarnation: 1,
            connection,
            start_ids: vec![1],
            members: vec![NodeId(1), PEER],
            rejoining: false,
            lane: Lane::Bulk,
            client_address: String::new(),
            peer_address: String::new(),
            versions: ProtocolVersions::OWN,
            level: FeatureLevel::NEWEST,
            program: String::new(),
        };
        let mut payload = BytesMut::new();
        frame::encode_preamble(V10, &mut payload);
        frame::encode(&Frame::Hello(hello), V10, &mut payload);
        let data = Data { number: 0, offset: 0, payload: &payload };
        connections.on_data(PEER, id, &data, true, NOW);
        let accept =
            |hello: &Hello, _: &IncomingTransport<_, _>| Ok((hello.from, hello.incarnation));
        connections.receive(true, &mut [], accept, |_, _| ());
    }

    /// Returns the streams of the connections.
    fn streams(connections: &Connections) -> Vec<StreamId> {
        connections.connections.values().filter_map(Connection::stream).collect()
    }

    /// Returns the streams that were closed, all of them without an error.
    fn closed(connections: &mut Connections) -> Vec<StreamId> {
        let ended = connections.take_ended().into_iter().map(|Ended { transport, error }| {
            assert_eq!(error, None);
            let IncomingTransport::Datagrams { receiver, .. } = transport;
            receiver.id()
        });
        ended.collect()
    }

    #[test]
    fn newer_udp_stream_of_a_peer_replaces_the_older_one() {
        let mut connections = connections();
        let [earlier, later] = [8, 9].map(|stream| open(&mut connections, stream));
        begin(&mut connections, earlier, 1);
        assert_eq!(streams(&connections), [earlier]);
        begin(&mut connections, later, 2);
        assert_eq!(streams(&connections), [later]);
        assert_eq!(closed(&mut connections), [earlier]);
        assert_eq!(resets(&mut connections), [earlier]);
    }

    #[test]
    fn late_hello_of_a_replaced_udp_stream_closes_that_stream() {
        let mut connections = connections();
        let [earlier, later] = [8, 9].map(|stream| open(&mut connections, stream));
        begin(&mut connections, later, 2);
        begin(&mut connections, earlier, 1);
        assert_eq!(streams(&connections), [later]);
        assert_eq!(closed(&mut connections), [earlier]);
    }

    #[test]
    fn delayed_datagram_does_not_reopen_a_closed_udp_stream() {
        let mut connections = connections();
        let [earlier, later] = [8, 9].map(|stream| open(&mut connections, stream));
        begin(&mut connections, earlier, 1);
        begin(&mut connections, later, 2);
        assert_eq!(resets(&mut connections), [earlier]);
        let data = Data { number: 0, offset: 0, payload: b"late" };
        connections.on_data(PEER, earlier, &data, true, NOW);
        assert_eq!(streams(&connections), [later]);
        assert_eq!(resets(&mut connections), [earlier]);
    }

    #[test]
    fn packet_loss_rate_is_zero_until_many_datagrams_arrived() {
        let mut connections = connections();
        let id = open(&mut connections, 8);
        begin(&mut connections, id, 1);
        for number in (1..400).filter(|number| number % 50 != 7) {
            let data = Data { number, offset: 0, payload: b"" };
            connections.on_data(PEER, id, &data, true, NOW);
            let loss = connections.loss_from(PEER);
            match number {
                0..256 => assert_eq!(loss, 0, "of {number} datagrams"),
                _ => assert!((15..25).contains(&loss), "{loss} of {number} datagrams"),
            }
        }
    }

    #[test]
    fn older_connection_of_a_peer_is_not_read_after_a_newer_one() {
        let mut latest = Vec::new();
        let of = |peer, start_id, lane, number| ConnectionSender {
            peer: NodeId(peer),
            start_id,
            lane,
            number,
        };
        let mut note = |sender| note_latest(&mut latest, sender);
        assert!(note(of(1, 7, Lane::Bulk, 2)) && note(of(1, 7, Lane::Urgent, 1)));
        assert!(!note(of(1, 7, Lane::Bulk, 1)), "it was made before");
        assert!(note(of(1, 7, Lane::Bulk, 3)) && note(of(2, 7, Lane::Bulk, 1)));
        assert!(!note(of(1, 7, Lane::Bulk, 2)));
        assert!(note(of(1, 8, Lane::Bulk, 0)), "a restart begins anew");
    }
}
