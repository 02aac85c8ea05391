//! The server's transport in a simulated cluster: each replica has an *endpoint*, which sends the
//! replica's messages over datagram streams and receives those of its peers. All of it is the
//! server's code (`transport`, `wire::frame`) without sockets, as with `--peer-transport udp`:
//! without TCP, and without the change between TCP connections and streams. A crash of the replica
//! loses it.
//!
//! Streams are checked by what they deliver: the messages of each connection in the order in which
//! they were sent, without a gap and without a duplicate. A connection may end at any message.
//! Messages are compared by their contents. If one of several equal messages in a row is lost, that
//! is noticed at the next message that differs, or once all bytes of the connection have arrived;
//! if one is duplicated, at the next message that differs, or once more messages were delivered
//! than sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::Mutant;
use crate::feature_level::FeatureLevel;
use crate::raft::PeerMsg;
use crate::sim::coverage::{Coverage, Situation};
use crate::sim::rng::Rng;
use crate::sim::violation::{Violation, ensure};
use crate::transport::Outbox;
use crate::transport::connection::NoTcp;
use crate::transport::incoming::{
    ConnectionError, ConnectionSender, IncomingConnections, IncomingTransport,
};
use crate::transport::lanes::OutgoingLanes;
use crate::transport::outgoing::OutgoingTransport;
use crate::transport::sender::Sender;
use crate::types::{Instant, NodeId};
use crate::wire::datagram::{self, Datagram, PAYLOAD_BYTES_MAX};
use crate::wire::frame::{Frame, Hello, Lane};
use crate::wire::protocol::{self, ProtocolVersions};

/// Id of the simulated cluster in hellos.
const CLUSTER: u128 = 1;
/// Time after which a replica that was too busy to read bulk messages, such as log entries, reads
/// them again.
const BUSY_FOR: Duration = Duration::from_millis(1);

/// The sizes of the streams of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamPlan {
    /// Maximum number of bytes in flight on a stream.
    pub send_window: usize,
    /// Number of bytes that a peer may send ahead of what a replica has read.
    pub receive_window: usize,
    /// Probability, in permille, that a replica reads only urgent messages, and no bulk messages
    /// such as log entries, from its peers in one run of its endpoint. A server does this while its
    /// consensus core accepts no more requests.
    pub busy_permille: u32,
    /// The rule that the streams break on purpose (mutation testing); `None` for no rule.
    pub mutant: Option<Mutant>,
}

/// A connection between two replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Connection {
    to: NodeId,
    /// The replica that made the connection, with its incarnation (number of starts and crashes),
    /// and which of its connections this is.
    sender: ConnectionSender,
}

impl Connection {
    /// Returns whether the hello of `newest` replaces this connection at replica `to`: once `to`
    /// has accepted that hello, no more messages can arrive on this connection.
    fn is_replaced(&self, to: NodeId, newest: ConnectionSender) -> bool {
        let ConnectionSender { peer, start_id, lane, number } = self.sender;
        let is_earlier =
            start_id != newest.start_id || lane == newest.lane && number < newest.number;
        self.to == to && peer == newest.peer && is_earlier
    }
}

/// Why an endpoint refuses a connection.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("a hello for replica {0} arrived")]
    Addressee(NodeId),
    #[error("a hello of replica {0} is from before the replica's last restart")]
    OldIncarnation(NodeId),
}

impl Refusal {
    /// Returns whether streams without faults can lead to this refusal, because a hello was delayed
    /// or lost.
    fn is_expected(&self) -> bool {
        match self {
            Refusal::Connection(ConnectionError::NoHello) | Refusal::OldIncarnation(_) => true,
            Refusal::Connection(ConnectionError::Frame(_) | ConnectionError::Order)
            | Refusal::Addressee(_) => false,
        }
    }
}

/// A message that has arrived.
#[derive(Debug)]
pub(in crate::sim) struct Received {
    pub(in crate::sim) from: NodeId,
    /// The incarnation (number of starts and crashes) of the replica that sent it.
    pub(in crate::sim) incarnation: u64,
    pub(in crate::sim) message: PeerMsg,
}

/// The ends of all streams of one running replica.
#[derive(Debug)]
pub(in crate::sim) struct Endpoint {
    plan: StreamPlan,
    /// The replica's hello. Its recipient, lane and connection number are those of the last hello
    /// that was sent.
    hello: Hello,
    rng: Rng,
    incoming: IncomingConnections<NoTcp, NodeId, Refusal>,
    outgoing: BTreeMap<NodeId, OutgoingLanes<NoTcp>>,
    /// The sequence number of the latest connection to a peer for urgent (false) or bulk (true)
    /// messages.
    numbers: BTreeMap<(NodeId, bool), u64>,
    /// The highest incarnation (number of starts and crashes) of each peer that has connected.
    heard: BTreeMap<NodeId, u64>,
    /// Datagrams that have arrived but that the endpoint has not read yet, each with its sender.
    pub(in crate::sim) waiting: VecDeque<(NodeId, Vec<u8>)>,
    /// Whether the endpoint must be run, see [`Streams::run`].
    pub(in crate::sim) is_due: bool,
    /// True (virtual) time at which the endpoint must be run if nothing happens before.
    pub(in crate::sim) timer_at: Instant,
}

impl Endpoint {
    /// Creates the endpoint of the replica `me`, which has just been started.
    fn new(
        me: NodeId,
        members: &[NodeId],
        incarnation: u64,
        plan: StreamPlan,
        mut rng: Rng,
    ) -> Endpoint {
        let mut secret = [0; 32];
        for part in secret.chunks_mut(8) {
            part.copy_from_slice(&rng.next_u64().to_le_bytes());
        }
        let peers = members.iter().filter(|&&id| id != me);
        let mut incoming = IncomingConnections::new(secret, plan.receive_window);
        incoming.mutant = plan.mutant;
        Endpoint {
            plan,
            hello: Hello {
                cluster: CLUSTER,
                from: me,
                to: me,
                incarnation,
                connection: protocol::SPEAKS_V10,
                start_ids: vec![incarnation],
                members: members.to_vec(),
                rejoining: false,
                lane: Lane::Urgent,
                client_address: String::new(),
                peer_address: String::new(),
                versions: ProtocolVersions::OWN,
                level: FeatureLevel::NEWEST,
                program: String::new(),
            },
            rng,
            incoming,
            outgoing: peers.map(|&peer| (peer, OutgoingLanes::new())).collect(),
            numbers: BTreeMap::new(),
            heard: BTreeMap::new(),
            waiting: VecDeque::new(),
            is_due: true,
            timer_at: Instant::MAX,
        }
    }

    /// Handles a datagram from the replica `from`.
    fn on_datagram(
        &mut self,
        from: NodeId,
        bytes: &[u8],
        with_bulk: bool,
        now: Instant,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let datagram = datagram::decode(bytes)
            .map_err(|error| Violation(format!("streams: a datagram of {from}: {error}")))?;
        let Endpoint { incoming, outgoing, hello, numbers, .. } = self;
        let lanes = outgoing.get_mut(&from).expect("all replicas are peers");
        match datagram {
            Datagram::Open(id) => incoming.on_open(from, id, now),
            Datagram::Data(id, data) => incoming.on_data(from, id, &data, with_bulk, now),
            Datagram::Ack(id, ack) => lanes.on_ack(id, &ack, now),
            Datagram::Reset(id) => {
                coverage.add(Situation::StreamReset, u64::from(lanes.on_reset(id, now)));
            }
            Datagram::Cookie(id) => {
                let established =
                    lanes.on_cookie(id, now, |lane| next_hello(hello, numbers, from, lane));
                coverage.add(Situation::StreamOpened, u64::from(established.is_some()));
            }
        }
        Ok(())
    }

    /// Begins the attempts to connect that are due, and gives up those that take too long.
    fn connect(&mut self, now: Instant) {
        let Endpoint { outgoing, hello, numbers, rng, plan, .. } = self;
        for (&peer, lanes) in outgoing {
            let version = lanes.version();
            for (lane, outgoing) in lanes.iter_mut() {
                if outgoing.has_timed_out(now) {
                    let None = outgoing.close(now);
                }
                if outgoing.is_attempt_due(now) {
                    let mut sender = Box::new(Sender::new(rng.next_u64(), plan.send_window, now));
                    sender.mutant = plan.mutant;
                    let hello = next_hello(hello, numbers, peer, lane);
                    outgoing.attempt(OutgoingTransport::stream(sender), version, hello, now);
                }
            }
        }
    }

    /// Sends the datagrams that are due with `send`.
    fn flush(&mut self, now: Instant, mut send: impl FnMut(NodeId, &Outbox)) {
        self.incoming.acknowledge(now, &mut send);
        let mut out = Outbox::default();
        for (&peer, lanes) in &mut self.outgoing {
            for (_, outgoing) in lanes.iter_mut() {
                if !outgoing.flush(now, &mut out) {
                    let None = outgoing.close(now);
                }
                if !out.is_empty() {
                    send(peer, &out);
                    out.clear();
                }
            }
        }
    }

    /// Returns the latest connection to a peer for messages of this lane (urgent or bulk); `None`
    /// before the first.
    fn latest(&self, to: NodeId, lane: Lane) -> Option<ConnectionSender> {
        let &number = self.numbers.get(&(to, lane == Lane::Bulk))?;
        let (peer, start_id) = (self.hello.from, self.hello.incarnation);
        Some(ConnectionSender { peer, start_id, lane, number })
    }

    fn next_due(&self) -> Instant {
        let outgoing = self.outgoing.values().map(OutgoingLanes::next_due);
        let incoming = self.incoming.next_acknowledgement().min(self.incoming.next_expiry());
        outgoing.min().unwrap_or(Instant::MAX).min(incoming)
    }
}

/// Returns the hello for a new connection to replica `to`. Gives the connection a higher sequence
/// number than all earlier connections of this replica, and records it in `numbers`.
fn next_hello(
    hello: &mut Hello,
    numbers: &mut BTreeMap<(NodeId, bool), u64>,
    to: NodeId,
    lane: Lane,
) -> Hello {
    hello.connection += 1;
    numbers.insert((to, lane == Lane::Bulk), hello.connection);
    Hello { to, lane, ..hello.clone() }
}

/// The endpoints of all replicas, and what their streams must deliver.
#[derive(Debug)]
pub(in crate::sim) struct Streams {
    plan: StreamPlan,
    members: Vec<NodeId>,
    rng: Rng,
    endpoints: BTreeMap<NodeId, Endpoint>,
    /// The messages of each connection that were sent and have not arrived, oldest first. Without
    /// connections on which nothing more may arrive.
    unread: Vec<(Connection, VecDeque<PeerMsg>)>,
    /// For each stream by its id, the position up to which bytes have been sent on it at least
    /// once.
    sent: BTreeMap<u64, u64>,
    coverage: Coverage,
}

impl Streams {
    /// Creates the streams of a cluster in which no replica is running.
    pub(in crate::sim) fn new(members: &[NodeId], plan: StreamPlan, rng: Rng) -> Streams {
        Streams {
            plan,
            members: members.to_vec(),
            rng,
            endpoints: BTreeMap::new(),
            unread: Vec::new(),
            sent: BTreeMap::new(),
            coverage: Coverage::default(),
        }
    }

    /// Returns the number of times that the run reached each situation concerning streams.
    pub(in crate::sim) fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Replaces the endpoint of a replica that has restarted, and removes that of one that is down.
    /// `incarnation` is the number of the replica's starts and crashes while it is running, and
    /// `None` while it is down.
    pub(in crate::sim) fn follow(&mut self, id: NodeId, incarnation: Option<u64>) {
        let known = self.endpoints.get(&id).map(|there| there.hello.incarnation);
        if known == incarnation {
            return;
        }
        if self.endpoints.remove(&id).is_some() {
            self.unread.retain(|(connection, _)| connection.to != id);
        }
        if let Some(incarnation) = incarnation {
            let rng = self.rng.split();
            let endpoint = Endpoint::new(id, &self.members, incarnation, self.plan, rng);
            self.endpoints.insert(id, endpoint);
        }
    }

    /// Returns the endpoint of a replica; `None` while the replica is down.
    pub(in crate::sim) fn endpoint_mut(&mut self, id: NodeId) -> Option<&mut Endpoint> {
        self.endpoints.get_mut(&id)
    }

    /// Queues a message on a stream. Returns false if there is no stream to the receiver.
    pub(in crate::sim) fn send(&mut self, from: NodeId, to: NodeId, message: PeerMsg) -> bool {
        let Some(endpoint) = self.endpoints.get_mut(&from) else { return false };
        endpoint.is_due = true;
        let frame = Frame::Peer(message);
        let lanes = endpoint.outgoing.get_mut(&to).expect("all replicas are peers");
        if !lanes.send(&frame) {
            self.coverage.add(Situation::UnsentMessage, 1);
            return false;
        }
        let bytes: usize = frame.parts().map(bytes::Bytes::len).sum();
        self.coverage.add(Situation::SplitMessage, u64::from(bytes > PAYLOAD_BYTES_MAX));
        let sender = endpoint.latest(to, frame.lane()).expect("the message was queued on it");
        let Frame::Peer(message) = frame else { unreachable!("it was made above") };
        let connection = Connection { to, sender };
        match self.unread.iter_mut().find(|(it, _)| *it == connection) {
            Some((_, unread)) => unread.push_back(message),
            None => self.unread.push((connection, VecDeque::from([message]))),
        }
        true
    }

    /// Runs the endpoint of a replica at `now`, by the replica's clock: reads the datagrams that
    /// wait, sends what is due with `send`, and appends the messages that have arrived to
    /// `received`. Returns when the endpoint must be run again, at the latest.
    pub(in crate::sim) fn run(
        &mut self,
        id: NodeId,
        now: Instant,
        received: &mut Vec<Received>,
        mut send: impl FnMut(NodeId, &[u8]),
    ) -> Result<Instant, Violation> {
        let Streams { endpoints, unread, sent, coverage, .. } = self;
        let Some(endpoint) = endpoints.get_mut(&id) else { return Ok(Instant::MAX) };
        endpoint.is_due = false;
        let with_bulk = !endpoint.rng.permille(endpoint.plan.busy_permille);
        while let Some((from, bytes)) = endpoint.waiting.pop_front() {
            endpoint.on_datagram(from, &bytes, with_bulk, now, coverage)?;
        }
        let mut frames = Vec::new();
        let heard = &mut endpoint.heard;
        let accept = |hello: &Hello, _: &IncomingTransport<NoTcp, NodeId>| {
            if hello.to != id {
                return Err(Refusal::Addressee(hello.to));
            }
            let latest = heard.entry(hello.from).or_default();
            if hello.incarnation < *latest {
                return Err(Refusal::OldIncarnation(hello.from));
            }
            *latest = hello.incarnation;
            Ok((hello.from, hello.incarnation))
        };
        endpoint.incoming.receive(with_bulk, &mut [], accept, |sender, frame| {
            frames.push((sender, frame));
        });
        for ended in endpoint.incoming.take_ended() {
            if let Some(error) = ended.error.filter(|error| !error.is_expected()) {
                return Err(Violation(format!(
                    "streams: replica {id} refused a connection: {error}"
                )));
            }
        }
        for (sender, frame) in frames {
            let ConnectionSender { peer, start_id, .. } = sender;
            match frame {
                Frame::Hello(hello) => {
                    let lanes = endpoint.outgoing.get_mut(&peer).expect("all are peers");
                    let closed = lanes.on_hello(hello.incarnation, hello.versions, now);
                    assert!(closed.is_empty(), "TCP connections without TCP: {closed:?}");
                    unread.retain(|(connection, _)| !connection.is_replaced(id, sender));
                }
                Frame::Peer(message) => {
                    check_order(unread, id, sender, &message)?;
                    received.push(Received { from: peer, incarnation: start_id, message });
                }
                other => return Err(Violation(format!("streams: {peer} never sent {other:?}"))),
            }
        }
        endpoint.incoming.expire(now);
        endpoint.connect(now);
        endpoint.flush(now, |to, out| {
            for (bytes, length) in out.runs(usize::MAX) {
                for datagram in bytes.chunks(length) {
                    count_retransmission(sent, coverage, datagram);
                    send(to, datagram);
                }
            }
        });
        let retry = endpoint.incoming.is_readable(true).then(|| now + BUSY_FOR);
        let due = endpoint.next_due().min(retry.unwrap_or(Instant::MAX));
        self.check_completeness(id)?;
        Ok(due)
    }

    /// Checks that each connection to replica `to` has delivered all its messages, if all its bytes
    /// have arrived and were read.
    fn check_completeness(&self, to: NodeId) -> Result<(), Violation> {
        let unread = self.unread.iter().filter(|(connection, _)| connection.to == to);
        for (Connection { sender, .. }, unread) in unread {
            let Some(message) = unread.front() else { continue };
            let is_complete = self.endpoints.get(&sender.peer).is_some_and(|endpoint| {
                endpoint.latest(to, sender.lane) == Some(*sender)
                    && endpoint.outgoing[&to].lane(sender.lane).is_complete()
            });
            ensure!(
                !is_complete || !self.endpoints[&to].incoming.is_read(*sender),
                "streams: connection {} of replica {} never delivered {message:?} to {to}, \
                 although all its bytes have arrived",
                sender.number,
                sender.peer
            );
        }
        Ok(())
    }
}

/// Checks that a message which has arrived at replica `to` is the oldest one of its connection that
/// had not arrived.
fn check_order(
    unread: &mut [(Connection, VecDeque<PeerMsg>)],
    to: NodeId,
    sender: ConnectionSender,
    message: &PeerMsg,
) -> Result<(), Violation> {
    let ConnectionSender { peer, number, .. } = sender;
    let connection = unread.iter_mut().find(|(it, _)| *it == Connection { to, sender });
    let next = connection.and_then(|(_, unread)| unread.pop_front());
    ensure!(
        next.as_ref() == Some(message),
        "streams: connection {number} of replica {peer} delivered {message:?} to {to}, and the \
         next message that was sent on it is {next:?}"
    );
    Ok(())
}

/// Counts a data datagram whose bytes were sent before.
fn count_retransmission(sent: &mut BTreeMap<u64, u64>, coverage: &mut Coverage, datagram: &[u8]) {
    if let Ok(Datagram::Data(id, data)) = datagram::decode(datagram) {
        let end = sent.entry(id.stream).or_default();
        let is_repeated = !data.payload.is_empty() && data.offset < *end;
        coverage.add(Situation::Retransmission, u64::from(is_repeated));
        *end = (*end).max(data.offset + data.payload.len() as u64);
    }
}

/// Describes a datagram in traces.
pub(in crate::sim) fn describe(bytes: &[u8]) -> String {
    match datagram::decode(bytes) {
        Ok(Datagram::Open(id)) => format!("open {:x}", id.stream),
        Ok(Datagram::Cookie(id)) => format!("cookie {:x}", id.stream),
        Ok(Datagram::Data(id, data)) => {
            let end = data.offset + data.payload.len() as u64;
            format!("data {:x} #{} bytes {}..{end}", id.stream, data.number, data.offset)
        }
        Ok(Datagram::Ack(id, ack)) => format!(
            "ack {:x} #{} received {} limit {}",
            id.stream, ack.largest, ack.received, ack.limit
        ),
        Ok(Datagram::Reset(id)) => format!("reset {:x}", id.stream),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::TimeoutNow;
    use crate::types::{EntryId, Term};

    const IDS: [NodeId; 2] = [NodeId(1), NodeId(2)];

    /// Runs both replicas for a while, and returns the number of messages that have arrived.
    fn run(streams: &mut Streams, from: Instant) -> Result<usize, Violation> {
        let mut received = Vec::new();
        for step in 0..20 {
            let now = from + Duration::from_millis(10) * step;
            for id in IDS {
                let mut sent = Vec::new();
                streams.run(id, now, &mut received, |to, bytes| sent.push((to, bytes.to_vec())))?;
                for (to, bytes) in sent {
                    streams.endpoints.get_mut(&to).unwrap().waiting.push_back((id, bytes));
                }
            }
        }
        Ok(received.len())
    }

    fn streams() -> Streams {
        let plan = StreamPlan {
            send_window: 1 << 20,
            receive_window: 1 << 20,
            busy_permille: 0,
            mutant: None,
        };
        Streams::new(&IDS, plan, Rng::new(1))
    }

    /// Sends the same message three times, changes with `change` what should arrive, and returns
    /// how many messages have arrived.
    fn run_with(change: impl FnOnce(&mut VecDeque<PeerMsg>)) -> Result<usize, Violation> {
        let [one, other] = IDS;
        let mut streams = streams();
        streams.follow(one, Some(1));
        streams.follow(other, Some(1));
        run(&mut streams, Instant(1_000_000_000))?;
        for _ in 0..3 {
            assert!(streams.send(
                one,
                other,
                PeerMsg::TimeoutNow(TimeoutNow { term: Term(1), last: EntryId::ZERO })
            ));
        }
        change(&mut streams.unread[0].1);
        run(&mut streams, Instant(2_000_000_000))
    }

    #[test]
    fn simulator_detects_loss_or_duplication_of_equal_messages() {
        assert_eq!(run_with(|_| ()).ok(), Some(3));
        let lost = run_with(|unread| unread.push_back(unread[0].clone())).unwrap_err();
        assert!(lost.0.contains("never delivered"), "{}", lost.0);
        let duplicated = run_with(|unread| drop(unread.pop_back())).unwrap_err();
        assert!(duplicated.0.contains("sent on it is None"), "{}", duplicated.0);
    }

    #[test]
    fn simulator_forgets_messages_of_closed_connections() {
        let [one, other] = IDS;
        let mut streams = streams();
        for incarnation in 1..6 {
            let now = Instant(incarnation * 10_000_000_000);
            // One of the two restarts.
            streams.follow(one, Some(incarnation / 2));
            streams.follow(other, Some(incarnation.div_ceil(2)));
            run(&mut streams, now).unwrap();
            run(&mut streams, now + Duration::from_secs(2)).unwrap();
            for (from, to) in [(one, other), (other, one)] {
                let message = PeerMsg::TimeoutNow(TimeoutNow {
                    term: Term(incarnation),
                    last: EntryId::ZERO,
                });
                assert!(streams.send(from, to, message));
            }
            assert_eq!(streams.unread.len(), 2);
        }
    }
}
