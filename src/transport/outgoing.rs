//! The two connections to a peer, on which a replica only sends: one for urgent frames and one for
//! bulk frames. Each is a TCP connection or a datagram stream, or a TCP connection that a
//! stream will replace once the peer answers it. The driver makes TCP connections, and decides
//! which connections are to be streams.

use std::time::Duration;

use bytes::Bytes;

use crate::types::Instant;
use crate::wire::datagram::{Ack, StreamId};
use crate::wire::frame::{self, Frame, Hello, Lane};
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
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which this replica tries again to open a datagram stream alongside a TCP
/// connection, if the peer did not answer the last attempt or the last stream has failed. Datagrams
/// may not get through; a hello of the peer ends the wait (`retry_now`).
const CANDIDATE_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of bytes queued on a peer's connection for urgent messages; [`BULK_BYTES_MAX`] is
/// the maximum for bulk messages. While the queue is full, further frames are dropped.
const URGENT_BYTES_MAX: usize = 1 << 20;
const BULK_BYTES_MAX: usize = 96 << 20;
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
    transport: Option<OutgoingTransport<T>>,
    /// Version of the protocol that `transport` uses, from its preamble on.
    version: ProtocolVersion,
    connected: bool,
    /// When the last attempt to establish the connection began.
    attempted_at: Instant,
    /// When the next attempt to connect is due. Used only while `transport` is `None`.
    retry_at: Instant,
    backoff: Duration,
    /// Time of the first failed attempt to connect since the connection was last established;
    /// `None` if no attempt has failed since then.
    pub(crate) failing_since: Option<Instant>,
    /// A datagram stream that is being opened, and that replaces `transport` once the peer
    /// answers; `None` if there is none.
    candidate: Option<Box<Sender>>,
    /// When `candidate` was created or, if there is none, the earliest time at which the next
    /// candidate may be created.
    candidate_at: Instant,
}

impl<T: TcpConnection> Outgoing<T> {
    fn new() -> Outgoing<T> {
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
    fn close_stream(&mut self, now: Instant) {
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
    fn sender_mut(&mut self) -> Option<&mut Sender> {
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
    fn send(&mut self, frame: &Frame, bytes_max: usize) -> bool {
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
    fn retry_now(&mut self, now: Instant) {
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
    fn on_cookie(
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
    fn next_due(&self) -> Instant {
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

/// The two connections to a peer. `T` is a TCP connection.
#[derive(Debug)]
pub(crate) struct OutgoingLanes<T> {
    /// At index 0 the connection for urgent messages, at index 1 the one for bulk messages.
    lanes: [Outgoing<T>; 2],
    /// Number of connections made to the peer since the process started. A change means that frames
    /// sent earlier may be lost.
    connection_count: u64,
    /// The random number that identifies the peer's process start according to the latest hello
    /// (first frame of a connection) from the peer; `None` before its first hello.
    opening: Option<u64>,
    /// The versions of the protocol that this replica may use.
    own_versions: ProtocolVersions,
    /// The versions that the peer speaks, according to its latest hello; `None` before its first.
    peer_versions: Option<ProtocolVersions>,
}

impl<T: TcpConnection> OutgoingLanes<T> {
    /// Creates the connections without establishing them.
    pub(crate) fn new() -> OutgoingLanes<T> {
        OutgoingLanes {
            lanes: [Outgoing::new(), Outgoing::new()],
            connection_count: 0,
            opening: None,
            own_versions: ProtocolVersions::OWN,
            peer_versions: None,
        }
    }

    /// Sets which versions of the protocol this replica may use. Connections that use another one
    /// stay.
    pub(crate) fn set_versions(&mut self, versions: ProtocolVersions) {
        self.own_versions = versions;
    }

    /// Returns the version of the protocol for the next connection: the highest that both replicas
    /// speak. For a peer that has not told which ones it speaks, or that speaks none of this
    /// replica's, this is the lowest of this replica's.
    pub(crate) fn version(&self) -> ProtocolVersion {
        let own = self.own_versions;
        let common = self.peer_versions.and_then(|versions| own.highest_common(versions));
        common.unwrap_or(own.oldest)
    }

    /// Returns the connection for messages of this lane (kind of message: urgent or bulk).
    pub(crate) fn lane(&self, lane: Lane) -> &Outgoing<T> {
        &self.lanes[lane as usize]
    }

    /// Returns a mutable reference to the connection for messages of this lane.
    pub(crate) fn lane_mut(&mut self, lane: Lane) -> &mut Outgoing<T> {
        &mut self.lanes[lane as usize]
    }

    /// Iterates over both connections.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Outgoing<T>> {
        self.lanes.iter()
    }

    /// Iterates over mutable references to both connections, each with its lane (kind of message).
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Lane, &mut Outgoing<T>)> {
        [Lane::Urgent, Lane::Bulk].into_iter().zip(&mut self.lanes)
    }

    /// Returns the number of connections made to the peer since the process started.
    pub(crate) fn connection_count(&self) -> u64 {
        self.connection_count
    }

    /// Counts a TCP connection that was established.
    pub(crate) fn count_connection(&mut self) {
        self.connection_count += 1;
    }

    /// Queues a frame on the connection for the frame's kind (urgent or bulk). Returns false if
    /// that connection is not established or its queue is full.
    pub(crate) fn send(&mut self, frame: &Frame) -> bool {
        let (lane, limit) = match frame.lane() {
            Lane::Urgent => (Lane::Urgent, URGENT_BYTES_MAX),
            Lane::Bulk => (Lane::Bulk, BULK_BYTES_MAX),
        };
        self.lanes[lane as usize].send(frame, limit)
    }

    /// Handles the cookie of a datagram stream, with which the stream is established. Returns
    /// which of the two connections it is; `None` if the stream is none of this peer's. `hello`
    /// returns the hello with which a connection begins.
    pub(crate) fn on_cookie(
        &mut self,
        id: StreamId,
        now: Instant,
        mut hello: impl FnMut(Lane) -> Hello,
    ) -> Option<(Lane, Established<T>)> {
        let version = self.version();
        let established = self
            .iter_mut()
            .find_map(|(lane, it)| Some((lane, it.on_cookie(id, version, now, || hello(lane))?)))?;
        self.connection_count += 1;
        Some(established)
    }

    /// Handles a peer's acknowledgement of datagrams of the stream `id`.
    pub(crate) fn on_ack(&mut self, id: StreamId, ack: &Ack, now: Instant) {
        if let Some(sender) = self.lane_of(id).and_then(Outgoing::sender_mut) {
            sender.on_ack(ack, now);
        }
    }

    /// Handles the reset of a datagram stream: the peer has closed it, or does not know it.
    /// Returns whether the stream was one of these connections.
    pub(crate) fn on_reset(&mut self, id: StreamId, now: Instant) -> bool {
        let lane = self.lane_of(id);
        lane.map(|outgoing| outgoing.close_stream(now)).is_some()
    }

    /// Returns the connection whose transport is the datagram stream `id`; `None` if there is
    /// none.
    fn lane_of(&mut self, id: StreamId) -> Option<&mut Outgoing<T>> {
        self.lanes.iter_mut().find(|lane| lane.sender().is_some_and(|sender| sender.id() == id))
    }

    /// Makes the next attempt to connect due at once and resets the delay between attempts. Called
    /// because the peer, whose current start `opening` identifies, has just connected to this
    /// replica, and speaks these versions of the protocol. If it has restarted, older streams of
    /// datagrams to it are closed: it does not know them. Connections whose version is not the one
    /// that both should use are closed too. Returns the TCP connections among them, which the
    /// caller must close.
    #[must_use]
    pub(crate) fn on_hello(
        &mut self,
        opening: u64,
        versions: ProtocolVersions,
        now: Instant,
    ) -> Vec<T> {
        let has_restarted = self.opening.replace(opening).is_some_and(|it| it != opening);
        for outgoing in self.lanes.iter_mut().filter(|_| has_restarted) {
            let is_old = now.since(outgoing.attempted_at) >= STABLE_AFTER;
            if is_old && outgoing.sender().is_some() {
                outgoing.close_stream(now);
            }
        }
        self.peer_versions = Some(versions);
        let version = self.version();
        let mut closed = Vec::new();
        for outgoing in &mut self.lanes {
            if outgoing.transport.is_some() && outgoing.version != version {
                closed.extend(outgoing.close(now));
            }
            outgoing.retry_now(now);
        }
        closed
    }

    /// Returns the earliest time at which an attempt to connect must begin or be given up, or
    /// datagrams must be sent; [`Instant::MAX`] if there is nothing to wait for.
    pub(crate) fn next_due(&self) -> Instant {
        let [urgent, bulk] = &self.lanes;
        urgent.next_due().min(bulk.next_due())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::feature_level::FeatureLevel;
    use crate::transport::connection::ReadResult;
    use crate::types::NodeId;
    use crate::wire::datagram::{self, Datagram};
    use crate::wire::frame::Decoder;
    use crate::wire::protocol::{V9, V10};

    const NOW: Instant = Instant(1_000_000_000);
    const STREAM: u64 = 7;

    /// A TCP connection to a peer that accepts everything.
    #[derive(Debug, Default)]
    struct FakeTcp {
        outbound: OutboundQueue,
    }

    impl TcpConnection for FakeTcp {
        fn is_readable(&self) -> bool {
            false
        }

        fn read(&mut self, _: &mut [u8]) -> ReadResult {
            ReadResult::WouldBlock
        }

        fn outbound(&mut self) -> &mut OutboundQueue {
            &mut self.outbound
        }

        fn can_flush(&self) -> bool {
            !self.outbound.is_empty()
        }

        fn flush(&mut self) -> io::Result<()> {
            self.outbound.write_to(&mut io::sink())
        }
    }

    fn hello(connection: u64) -> Hello {
        Hello {
            cluster: 1,
            from: NodeId(1),
            to: NodeId(2),
            incarnation: 1,
            connection,
            openings: vec![1],
            members: vec![NodeId(1), NodeId(2)],
            rejoining: false,
            lane: Lane::Urgent,
            client_address: String::new(),
            peer_address: String::new(),
            versions: ProtocolVersions::OWN,
            level: FeatureLevel::NEWEST,
            program: String::new(),
        }
    }

    /// Returns unestablished connections for version 10 of the protocol.
    fn new_lanes() -> OutgoingLanes<FakeTcp> {
        let mut lanes = OutgoingLanes::new();
        lanes.set_versions(ProtocolVersions { oldest: V10, newest: V10 });
        lanes
    }

    /// Handles a hello of the peer that changes no version.
    fn on_hello(lanes: &mut OutgoingLanes<FakeTcp>, opening: u64, now: Instant) {
        let closed = lanes.on_hello(opening, ProtocolVersions::OWN, now);
        assert!(closed.is_empty(), "{closed:?}");
    }

    fn stream() -> Box<Sender> {
        Box::new(Sender::new(STREAM, 1 << 20, NOW))
    }

    /// Returns the connections to a peer, of which the urgent one is an established TCP connection
    /// with the number 1.
    fn tcp_lanes() -> OutgoingLanes<FakeTcp> {
        let mut lanes = new_lanes();
        let urgent = lanes.lane_mut(Lane::Urgent);
        urgent.attempt(OutgoingTransport::Tcp(FakeTcp::default()), V10, hello(1), NOW);
        urgent.on_tcp_connected();
        lanes.count_connection();
        lanes
    }

    /// Establishes a connection as a datagram stream with this number.
    fn connect_stream(lanes: &mut OutgoingLanes<FakeTcp>, lane: Lane, number: u64, now: Instant) {
        let sender = Box::new(Sender::new(number, 1 << 20, now));
        let transport = OutgoingTransport::stream(sender);
        lanes.lane_mut(lane).attempt(transport, V10, hello(number), now);
        let id = StreamId { stream: number, cookie: 1 };
        assert!(lanes.on_cookie(id, now, |_| panic!("it has its hello")).is_some());
    }

    #[test]
    fn established_udp_stream_replaces_tcp_and_sends_a_new_hello() {
        let mut lanes = tcp_lanes();
        let urgent = lanes.lane_mut(Lane::Urgent);
        urgent.prepare_stream(true, NOW, stream);
        let mut out = Outbox::default();
        assert!(urgent.flush(NOW, &mut out) && !urgent.is_stream());
        let (request, _) = out.runs(1).next().expect("the candidate asks for its cookie");
        let id = StreamId { stream: STREAM, cookie: 0 };
        assert_eq!(datagram::decode(request), Ok(Datagram::Open(id)));
        out.clear();
        let mut number = 1;
        let mut next_hello = |_| {
            number += 1;
            hello(number)
        };
        let other = StreamId { stream: STREAM + 1, cookie: 3 };
        assert!(lanes.on_cookie(other, NOW, &mut next_hello).is_none());
        let id = StreamId { stream: STREAM, cookie: 3 };
        let (lane, Established { replaced }) =
            lanes.on_cookie(id, NOW, &mut next_hello).expect("the candidate is established");
        assert!(lane == Lane::Urgent && replaced.is_some());
        assert_eq!(lanes.connection_count(), 2);
        let urgent = lanes.lane_mut(Lane::Urgent);
        assert!(urgent.is_stream() && urgent.flush(NOW, &mut out));
        let (data, _) = out.runs(1).next().expect("the stream begins");
        let Ok(Datagram::Data(_, data)) = datagram::decode(data) else { panic!("{data:?}") };
        let mut decoder = Decoder::for_unknown_peer();
        decoder.feed(data.payload);
        assert_eq!(decoder.next_frame(), Ok(Some(Frame::Hello(hello(2)))));
    }

    #[test]
    fn unanswered_udp_stream_attempt_is_dropped_and_retried() {
        let mut lanes = tcp_lanes();
        let mut made = 0;
        let dropped_at = NOW + CONNECT_TIMEOUT;
        let again_at = dropped_at + CANDIDATE_INTERVAL;
        let just_before = |at: Instant| Instant(at.0 - 1);
        let steps = [
            (NOW, 1, true),
            (just_before(dropped_at), 1, true),
            (dropped_at, 1, false),
            (just_before(again_at), 1, false),
            (again_at, 2, true),
        ];
        for (now, count, is_open) in steps {
            let urgent = lanes.lane_mut(Lane::Urgent);
            urgent.prepare_stream(true, now, || {
                made += 1;
                stream()
            });
            assert_eq!((made, urgent.candidate.is_some()), (count, is_open), "at {now:?}");
            assert!(urgent.is_connected() && !urgent.is_stream());
        }
        lanes.lane_mut(Lane::Urgent).prepare_stream(false, again_at, stream);
        let id = StreamId { stream: STREAM, cookie: 3 };
        assert!(lanes.on_cookie(id, again_at, |_| hello(2)).is_none(), "it is not wanted any more");
    }

    #[test]
    fn hello_of_a_restarted_peer_closes_only_its_old_streams() {
        let mut lanes = new_lanes();
        let later = NOW + STABLE_AFTER / 2;
        connect_stream(&mut lanes, Lane::Urgent, 1, NOW);
        connect_stream(&mut lanes, Lane::Bulk, 2, later);
        let is_stream = |lanes: &OutgoingLanes<FakeTcp>| {
            [Lane::Urgent, Lane::Bulk].map(|lane| lanes.lane(lane).is_stream())
        };
        let now = NOW + STABLE_AFTER;
        on_hello(&mut lanes, 1, now);
        on_hello(&mut lanes, 1, now);
        assert_eq!(is_stream(&lanes), [true, true], "the peer has not restarted");
        on_hello(&mut lanes, 2, now);
        assert_eq!(is_stream(&lanes), [false, true], "the bulk stream may be to the new process");
        assert!(lanes.lane(Lane::Urgent).is_attempt_due(now));
        let mut lanes = tcp_lanes();
        on_hello(&mut lanes, 1, now);
        on_hello(&mut lanes, 2, now);
        assert!(lanes.lane(Lane::Urgent).is_connected(), "a TCP connection notices by itself");
    }

    #[test]
    fn connection_failure_time_starts_at_first_failed_attempt() {
        let mut outgoing = Outgoing::new();
        let mut now = NOW;
        for _ in 0..3 {
            outgoing.attempt(OutgoingTransport::Tcp(FakeTcp::default()), V10, hello(1), now);
            assert!(outgoing.close(now).is_some());
            assert_eq!(outgoing.failing_since, Some(NOW));
            now = now + Duration::from_secs(1);
        }
        outgoing.attempt(OutgoingTransport::Tcp(FakeTcp::default()), V10, hello(1), now);
        outgoing.on_tcp_connected();
        assert_eq!(outgoing.failing_since, None);
        assert!(outgoing.close(now).is_some());
        assert_eq!(outgoing.failing_since, None, "it was established");
    }

    #[test]
    fn connections_are_made_again_when_the_peer_speaks_a_higher_version() {
        let mut lanes = OutgoingLanes::<FakeTcp>::new();
        assert_eq!(lanes.version(), V9, "of a peer that is not known yet");
        let connect = |lanes: &mut OutgoingLanes<FakeTcp>| {
            let version = lanes.version();
            for lane in [Lane::Urgent, Lane::Bulk] {
                let outgoing = lanes.lane_mut(lane);
                let tcp = OutgoingTransport::Tcp(FakeTcp::default());
                outgoing.attempt(tcp, version, hello(1), NOW);
                outgoing.on_tcp_connected();
            }
        };
        let later = ProtocolVersions { oldest: V10, newest: V10 + 3 };
        for (versions, version, closed) in [
            (ProtocolVersions::V0_1, V9, 0),
            (ProtocolVersions::OWN, V10, 2),
            (ProtocolVersions::OWN, V10, 0),
            (later, V10, 0),
            (ProtocolVersions::V0_1, V9, 2),
        ] {
            if lanes.lane(Lane::Urgent).is_attempt_due(NOW) {
                connect(&mut lanes);
            }
            assert_eq!(lanes.on_hello(1, versions, NOW).len(), closed, "{versions}");
            assert_eq!(lanes.version(), version, "{versions}");
            assert_eq!(lanes.lane(Lane::Bulk).is_attempt_due(NOW), closed == 2, "{versions}");
        }
        lanes.set_versions(later);
        assert_eq!(lanes.version(), V10, "a peer without a common version is told which ones");
    }
}
