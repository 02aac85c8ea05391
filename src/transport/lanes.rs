//! The two connections to a peer, on which a replica only sends: one for urgent frames and one for
//! bulk frames.

use crate::types::Instant;
use crate::wire::datagram::{Ack, StreamId};
use crate::wire::frame::{Frame, Hello, Lane};
use crate::wire::protocol::{ProtocolVersion, ProtocolVersions};

use super::connection::TcpConnection;
use super::outgoing::{Established, Outgoing};

/// Maximum number of bytes queued on a peer's connection for urgent messages; [`BULK_BYTES_MAX`] is
/// the maximum for bulk messages. While the queue is full, further frames are dropped.
const URGENT_BYTES_MAX: usize = 1 << 20;
const BULK_BYTES_MAX: usize = 96 << 20;

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
    start_id: Option<u64>,
    /// The protocol versions that this replica may use.
    own_versions: ProtocolVersions,
    /// The peer's protocol versions according to its latest hello; `None` before its first.
    peer_versions: Option<ProtocolVersions>,
}

impl<T: TcpConnection> OutgoingLanes<T> {
    /// Creates the connections without establishing them.
    pub(crate) fn new() -> OutgoingLanes<T> {
        OutgoingLanes {
            lanes: [Outgoing::new(), Outgoing::new()],
            connection_count: 0,
            start_id: None,
            own_versions: ProtocolVersions::OWN,
            peer_versions: None,
        }
    }

    /// Sets the protocol versions that this replica may use. Existing connections keep theirs.
    pub(crate) fn set_versions(&mut self, versions: ProtocolVersions) {
        self.own_versions = versions;
    }

    /// Returns the protocol version for the next connection: the highest common one. If the peer's
    /// versions are unknown, or none is common, returns this replica's lowest version.
    pub(crate) fn version(&self) -> ProtocolVersion {
        let own = self.own_versions;
        let common = self.peer_versions.and_then(|versions| own.highest_common(versions));
        common.unwrap_or(own.oldest)
    }

    /// Returns the connection for urgent or bulk messages.
    pub(crate) fn lane(&self, lane: Lane) -> &Outgoing<T> {
        &self.lanes[lane as usize]
    }

    /// Returns the connection for urgent or bulk messages.
    pub(crate) fn lane_mut(&mut self, lane: Lane) -> &mut Outgoing<T> {
        &mut self.lanes[lane as usize]
    }

    /// Returns both connections.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Outgoing<T>> {
        self.lanes.iter()
    }

    /// Returns both connections, each with its lane.
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

    /// Handles the cookie of a datagram stream, which establishes the stream. Returns the lane of
    /// the connection; `None` if the stream does not belong to this peer. `hello` returns the first
    /// frame of a connection.
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

    /// Handles the hello of the peer, which has just connected to this replica: makes the next
    /// connection attempt due at once, and resets the delay between attempts. `start_id` identifies
    /// the peer's current start; if the peer has restarted, the datagram streams to it are closed,
    /// because the new process does not know them, and cannot even say so if they are encrypted. A
    /// stream that is already one to the new process is opened again. `versions` are the peer's
    /// protocol versions: connections that do not use the highest common one are closed, too.
    /// Returns the TCP connections among them, which the caller must close.
    #[must_use]
    pub(crate) fn on_hello(
        &mut self,
        start_id: u64,
        versions: ProtocolVersions,
        now: Instant,
    ) -> Vec<T> {
        let has_restarted = self.start_id.replace(start_id).is_some_and(|it| it != start_id);
        for outgoing in self.lanes.iter_mut().filter(|_| has_restarted) {
            if outgoing.sender().is_some() {
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

    /// Returns when a connection attempt must next be started or aborted, or datagrams must be
    /// sent; [`Instant::MAX`] if nothing is pending.
    pub(crate) fn next_due(&self) -> Instant {
        let [urgent, bulk] = &self.lanes;
        urgent.next_due().min(bulk.next_due())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::feature_level::FeatureLevel;
    use crate::transport::Outbox;
    use crate::transport::connection::ReadResult;
    use crate::transport::outgoing::{
        CANDIDATE_INTERVAL, CONNECT_TIMEOUT, OutgoingTransport, STABLE_AFTER,
    };
    use crate::transport::sender::Sender;
    use crate::types::NodeId;
    use crate::wire::datagram::{self, Datagram};
    use crate::wire::frame::Decoder;
    use crate::wire::outbound_queue::OutboundQueue;
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
            start_ids: vec![1],
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
    fn on_hello(lanes: &mut OutgoingLanes<FakeTcp>, start_id: u64, now: Instant) {
        let closed = lanes.on_hello(start_id, ProtocolVersions::OWN, now);
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
    fn hello_of_a_restarted_peer_closes_streams_of_any_age() {
        let mut lanes = new_lanes();
        let now = NOW + STABLE_AFTER;
        connect_stream(&mut lanes, Lane::Urgent, 1, NOW);
        connect_stream(&mut lanes, Lane::Bulk, 2, now);
        let is_stream = |lanes: &OutgoingLanes<FakeTcp>| {
            [Lane::Urgent, Lane::Bulk].map(|lane| lanes.lane(lane).is_stream())
        };
        on_hello(&mut lanes, 1, now);
        on_hello(&mut lanes, 1, now);
        assert_eq!(is_stream(&lanes), [true, true], "the peer has not restarted");
        on_hello(&mut lanes, 2, now);
        assert_eq!(is_stream(&lanes), [false, false]);
        assert!([Lane::Urgent, Lane::Bulk].iter().all(|it| lanes.lane(*it).is_attempt_due(now)));
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
    fn connections_are_reopened_when_the_peer_supports_a_higher_version() {
        let mut lanes = OutgoingLanes::<FakeTcp>::new();
        assert_eq!(lanes.version(), V9, "before the first hello");
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
        assert_eq!(lanes.version(), V10, "without a common version");
    }
}
