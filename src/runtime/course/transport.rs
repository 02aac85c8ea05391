//! Messages to and from a simulator of the university course, on the single socket that peers and
//! clients share. Sends the hello, counts messages that cannot be used, and bounds how much one
//! pass receives. `wire::course` encodes and decodes the messages, `connection` owns the socket.

use std::sync::Arc;
use std::time::Duration;

use crate::kv::Outcome;
use crate::raft::{ClientRequest, Envelope, Refusal};
use crate::types::{Instant, NodeId};
use crate::wire::course::{self, CourseError, Incoming};

use crate::runtime::boards::RuntimeCounters;
use crate::runtime::channels::{Answer, BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use crate::runtime::course::connection::{Connection, Delivery, Kind, Received, Sent};

/// Interval at which the hello (first message to the simulator) is repeated until the simulator has
/// sent a message.
const HELLO_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of times that the hello (first message to the simulator) is repeated.
const HELLO_REPEATS: u32 = 3;

/// The result of [`CourseTransport::receive`]: whether the socket to the simulator is still open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrivals {
    /// The call has received all available messages, or as many as one call may receive.
    Received,
    /// The simulator has closed the socket.
    Closed,
}

/// Sends and receives the messages of one replica over its socket to a simulator of the university
/// course.
#[derive(Debug)]
pub(super) struct CourseTransport {
    me: NodeId,
    /// The other replicas. Messages from any other sender are ignored.
    peers: Vec<NodeId>,
    pub(super) connection: Connection,
    /// Buffer in which each outgoing message is encoded; reused for all messages.
    text: Vec<u8>,
    /// Time at which the next hello (first message to the simulator) is due, and how many more
    /// hellos may be sent. `None` if no more are to be sent, for example because the simulator has
    /// sent a message.
    hello: Option<(Instant, u32)>,
    /// Whether the next call of [`CourseTransport::receive`] returns after one message, because
    /// messages are arriving one at a time.
    one_at_a_time: bool,
    counters: Arc<RuntimeCounters>,
}

impl CourseTransport {
    pub(super) fn new(
        me: NodeId,
        peers: Vec<NodeId>,
        connection: Connection,
        counters: Arc<RuntimeCounters>,
    ) -> CourseTransport {
        // Over UNIX sockets, no hello is sent: the simulator already knows its peer, and would
        // broadcast the hello.
        let hello =
            (connection.kind() == Kind::Datagram).then_some((Instant::ZERO, HELLO_REPEATS + 1));
        CourseTransport {
            me,
            peers,
            connection,
            text: Vec::with_capacity(4 << 10),
            hello,
            one_at_a_time: true,
            counters,
        }
    }

    /// Returns the time at which the next hello (first message to the simulator) is due; `None` if
    /// no more hellos are to be sent.
    pub(super) fn hello_due(&self) -> Option<Instant> {
        self.hello.map(|(due, _)| due)
    }

    /// Sends the simulator a hello if one is due at `now`. The hello is the replica's first
    /// message, repeated a few times until the simulator has sent a message.
    pub(super) fn send_hello(&mut self, now: Instant) {
        let Some((due, left)) = self.hello else { return };
        if now < due {
            return;
        }
        self.hello = (left > 1).then(|| (now + HELLO_INTERVAL, left - 1));
        self.text.clear();
        course::encode_hello(self.me, &mut self.text);
        self.send(Delivery::MayBeLost);
    }

    /// Receives messages until the socket is empty or the limit of one call is reached. Appends
    /// peers' messages to `messages` and clients' requests to `requests`.
    ///
    /// While messages are arriving one at a time, the function returns after the first one without
    /// checking whether the socket is empty, so that the reply is sent before another system call.
    pub(super) fn receive(
        &mut self,
        messages: &mut Vec<Envelope>,
        requests: &mut Vec<ClientRequest>,
    ) -> Arrivals {
        let mut bytes = 0;
        let limit = if self.one_at_a_time { 1 } else { BATCH_MESSAGES_MAX };
        self.one_at_a_time = false;
        for count in 0..limit {
            let text = match self.connection.receive() {
                Received::Message(text) => text,
                Received::TooLong => {
                    self.counters.unreadable.add_one();
                    continue;
                }
                Received::Drained => {
                    self.one_at_a_time = count <= 1;
                    break;
                }
                Received::Closed => return Arrivals::Closed,
            };
            self.hello = None;
            bytes += text.len();
            match course::decode(text, self.me) {
                Ok(Incoming::Request { request, .. }) => requests.push(request),
                // The core accepts some messages of any sender, because the members may have
                // changed; here they are fixed.
                Ok(Incoming::Peer(envelope)) if self.peers.contains(&envelope.from) => {
                    messages.push(envelope);
                }
                Ok(Incoming::Peer(_) | Incoming::Ignored(_)) => self.counters.ignored.add_one(),
                Err(_) => self.counters.unreadable.add_one(),
            }
            if bytes >= BATCH_BYTES_MAX {
                break;
            }
        }
        Arrivals::Received
    }

    /// Sends a message to a peer. The message may be lost.
    pub(super) fn send_peer(&mut self, envelope: &Envelope) {
        self.text.clear();
        course::encode_peer(envelope, &mut self.text);
        self.send(Delivery::MayBeLost);
    }

    /// Sends the outcome of a client's request to the client. The reply names the leader `leader`,
    /// or no leader if `leader` is `None` (unknown).
    pub(super) fn send_answer(&mut self, answer: &Answer, leader: Option<NodeId>) {
        self.text.clear();
        let value = answer.outcomes.first().and_then(Outcome::value);
        let value = value.as_deref();
        let encoded = course::encode_ok(self.me, answer.key, leader, value, &mut self.text);
        self.send_encoded(&encoded);
    }

    /// Sends a redirect to a client instead of an outcome. The redirect names the leader if one is
    /// known.
    pub(super) fn send_refusal(&mut self, refusal: &Refusal) {
        self.text.clear();
        let encoded = course::encode_redirect(self.me, refusal.key, refusal.leader, &mut self.text);
        self.send_encoded(&encoded);
    }

    /// Sends the encoded reply in the buffer. If `encoded` is an error, because the simulator's
    /// protocol cannot express the reply, counts a send failure instead.
    fn send_encoded(&mut self, encoded: &Result<(), CourseError>) {
        match encoded {
            Ok(()) => self.send(Delivery::MustArrive),
            Err(_) => self.counters.send_failures.add_one(),
        }
    }

    fn send(&mut self, delivery: Delivery) {
        match self.connection.send(&mut self.text, delivery) {
            Sent::Accepted => {}
            Sent::Dropped => self.counters.unsent.add_one(),
            Sent::Failed => self.counters.send_failures.add_one(),
        }
    }
}
