//! Messages to and from a simulator of the course, on the one socket that peers and clients share
//! there. Sends the hello, counts what it cannot use, and bounds what one pass receives.
//! `wire::course` encodes and decodes the messages, `connection` owns the socket.

use std::sync::Arc;
use std::time::Duration;

use crate::kv::Outcome;
use crate::raft::{ClientRequest, Envelope, Refusal};
use crate::types::{Instant, NodeId};
use crate::wire::course::{self, CourseError, Incoming};

use crate::runtime::boards::RuntimeCounters;
use crate::runtime::channels::{Answer, BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use crate::runtime::course::connection::{Connection, Delivery, Kind, Received, Sent};

/// Interval at which the hello is repeated while the simulator has sent nothing.
const HELLO_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum repetitions of the hello.
const HELLO_REPEATS: u32 = 3;

/// The outcome of one pass over the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrivals {
    /// Every message was received, or as many as one pass receives.
    Received,
    /// The simulator has closed the socket.
    Closed,
}

/// The transport of one replica.
#[derive(Debug)]
pub(super) struct CourseTransport {
    me: NodeId,
    pub(super) connection: Connection,
    /// Buffer of outgoing messages.
    text: Vec<u8>,
    /// When the next hello is due, and how many are left. `None` once the simulator has answered.
    hello: Option<(Instant, u32)>,
    /// Whether the next pass receives a single message; see [`CourseTransport::receive`].
    one_at_a_time: bool,
    counters: Arc<RuntimeCounters>,
}

impl CourseTransport {
    pub(super) fn new(
        me: NodeId,
        connection: Connection,
        counters: Arc<RuntimeCounters>,
    ) -> CourseTransport {
        // Over UNIX sockets the simulator knows its peer, and would broadcast a hello.
        let hello =
            (connection.kind() == Kind::Datagram).then_some((Instant::ZERO, HELLO_REPEATS + 1));
        CourseTransport {
            me,
            connection,
            text: Vec::with_capacity(4 << 10),
            hello,
            one_at_a_time: true,
            counters,
        }
    }

    /// When [`CourseTransport::send_hello`] is due; `None` if no more is needed.
    pub(super) fn hello_due(&self) -> Option<Instant> {
        self.hello.map(|(due, _)| due)
    }

    /// Sends a hello if it is due.
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

    /// Receives messages until there are none, or enough for one pass.
    ///
    /// While messages arrive one by one, it returns after the first and leaves it to the next pass
    /// to find the socket empty: the reply is sent before that system call.
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
                Ok(Incoming::Peer(envelope)) => messages.push(envelope),
                Ok(Incoming::Ignored(_)) => self.counters.ignored.add_one(),
                Err(_) => self.counters.unreadable.add_one(),
            }
            if bytes >= BATCH_BYTES_MAX {
                break;
            }
        }
        Arrivals::Received
    }

    /// Sends a message to a peer.
    pub(super) fn send_peer(&mut self, envelope: &Envelope) {
        self.text.clear();
        course::encode_peer(envelope, &mut self.text);
        self.send(Delivery::MayBeLost);
    }

    /// Sends an outcome to a client.
    pub(super) fn send_answer(&mut self, answer: &Answer, leader: Option<NodeId>) {
        self.text.clear();
        let value = value_of(&answer.outcome);
        let encoded = course::encode_ok(self.me, answer.key, leader, value, &mut self.text);
        self.send_encoded(&encoded);
    }

    /// Redirects a client to the leader.
    pub(super) fn send_refusal(&mut self, refusal: &Refusal) {
        self.text.clear();
        let encoded = course::encode_redirect(self.me, refusal.key, refusal.leader, &mut self.text);
        self.send_encoded(&encoded);
    }

    /// Sends the encoded reply. Counts an error instead if the request is not from a client of the
    /// course, since a peer's log may contain any request.
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

/// The value in a reply. A key without a value reads as empty, as the course's protocol requires.
fn value_of(outcome: &Outcome) -> Option<&[u8]> {
    match outcome {
        Outcome::Value(value) => Some(value.as_deref().unwrap_or_default()),
        _ => None,
    }
}
