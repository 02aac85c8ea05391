//! The course's door: how a simulator starts this replica, and its messages on the one socket that
//! peers and clients share there. Reading and writing JSON is `wire::course`'s, sockets are
//! `conn`'s; this file says hello, counts what it can't use, and bounds what one pass takes in.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::kv::Outcome;
use crate::raft::{ClientRequest, Envelope, Refusal};
use crate::types::{Instant, NodeId};
use crate::wire::course::{self, CourseError, Incoming};

use crate::runtime::boards::RuntimeCounters;
use crate::runtime::channels::{Answer, BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use crate::runtime::course::connection::{Connection, Delivery, Kind, Received, Sent};

/// Most replicas that the simulators start.
const REPLICAS_MAX: usize = 21;
/// How often hello is said again while nothing at all has come from the simulator.
const HELLO_AGAIN: Duration = Duration::from_secs(1);
/// How many times; by then it is not the hello that is missing.
const HELLO_REPEATS: u32 = 3;

/// Proof that this process answers to a simulator of the course, which never starts a replica
/// again under the name of one that it has killed. Only there may a replica forget what it
/// vouched for, so only this file can make one, and only together with a [`CourseArguments`].
#[derive(Debug)]
pub(crate) struct NeverRestarts(());

/// How a simulator called us: read from the command line, nothing opened yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CourseArguments {
    /// This replica.
    pub me: NodeId,
    /// The others, in the order given, which is random.
    pub others: Vec<NodeId>,
    address: Address,
}

/// Where the simulator listens.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Address {
    /// A UDP port of this machine.
    Udp(u16),
    /// A UNIX socket in the current folder.
    Unix(PathBuf),
}

/// Why a command line is no invitation.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CourseArgumentsError {
    /// Too few arguments.
    #[error("an id is missing")]
    Missing,
    /// The first argument leads nowhere.
    #[error("`{0}` is neither a UDP port nor the name of a socket in the current folder")]
    Address(String),
    /// An argument that should be an id is none.
    #[error("`{0}` is no replica's id: four hexadecimal digits, and not FFFF")]
    Id(String),
    /// An id is there twice.
    #[error("{0} is named twice")]
    Twice(NodeId),
    /// More ids than any simulator gives.
    #[error("{0} replicas are more than {REPLICAS_MAX}")]
    TooMany(usize),
}

impl CourseArguments {
    /// Reads `[PORT] MY_ID OTHER_ID...`. If the first argument has four hexadecimal digits and
    /// there is a socket of that name in the current folder, it is the own id and the address in
    /// one; a port may look the same, but then there is no such socket.
    ///
    /// # Errors
    /// If it is none, with the argument that is wrong.
    pub fn from_arguments(arguments: &[String]) -> Result<CourseArguments, CourseArgumentsError> {
        let (first, rest) = arguments.split_first().ok_or(CourseArgumentsError::Missing)?;
        let (address, me, others) = if parse_id(first).is_ok() && is_socket(first) {
            (Address::Unix(PathBuf::from(first)), first, rest)
        } else {
            let port = first.parse().ok().filter(|port| *port != 0);
            let port = port.ok_or_else(|| CourseArgumentsError::Address(first.clone()))?;
            let (me, others) = rest.split_first().ok_or(CourseArgumentsError::Missing)?;
            (Address::Udp(port), me, others)
        };
        let me = parse_id(me)?;
        let others = others.iter().map(|id| parse_id(id)).collect::<Result<Vec<_>, _>>()?;
        let mut all = others.clone();
        all.push(me);
        all.sort_unstable();
        if let Some(pair) = all.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(CourseArgumentsError::Twice(pair[0]));
        }
        if all.len() > REPLICAS_MAX {
            return Err(CourseArgumentsError::TooMany(all.len()));
        }
        Ok(CourseArguments { me, others, address })
    }

    /// Connects, and says hello where that is how the simulator learns of us.
    pub(super) fn accept(
        &self,
        now: Instant,
        counters: Arc<RuntimeCounters>,
    ) -> std::io::Result<(CourseTransport, NeverRestarts)> {
        let connection = match &self.address {
            Address::Udp(port) => Connection::open_udp(*port)?,
            Address::Unix(path) => Connection::open_unix(path)?,
        };
        let mut door = CourseTransport::new(self.me, connection, counters);
        door.say_hello(now);
        Ok((door, NeverRestarts(())))
    }
}

fn parse_id(text: &str) -> Result<NodeId, CourseArgumentsError> {
    let wrong = || CourseArgumentsError::Id(text.to_owned());
    if text.len() != 4 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let id = NodeId(u16::from_str_radix(text, 16).map_err(|_| wrong())?);
    if id == course::BROADCAST { Err(wrong()) } else { Ok(id) }
}

fn is_socket(name: &str) -> bool {
    fs::metadata(name).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// What a pass over the socket came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrivals {
    /// All that was there, or as much as one pass takes.
    Taken,
    /// The simulator has closed the socket, or is gone.
    Closed,
}

/// The door.
#[derive(Debug)]
pub(super) struct CourseTransport {
    me: NodeId,
    pub(super) connection: Connection,
    /// Reused for every message that leaves.
    text: Vec<u8>,
    /// When to say hello again, and how many times.
    hello: Option<(Instant, u32)>,
    /// Whether the next pass stops after one message, see [`CourseTransport::receive`].
    one_at_a_time: bool,
    counters: Arc<RuntimeCounters>,
}

impl CourseTransport {
    fn new(me: NodeId, connection: Connection, counters: Arc<RuntimeCounters>) -> CourseTransport {
        // The other simulators know whom they are connected with, and would take a hello for a
        // message to all replicas.
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

    /// When [`CourseTransport::say_hello`] is due again, if ever.
    pub(super) fn hello_due(&self) -> Option<Instant> {
        self.hello.map(|(due, _)| due)
    }

    /// Says hello, if it is due.
    pub(super) fn say_hello(&mut self, now: Instant) {
        let Some((due, left)) = self.hello else { return };
        if now < due {
            return;
        }
        self.hello = (left > 1).then(|| (now + HELLO_AGAIN, left - 1));
        self.text.clear();
        course::encode_hello(self.me, &mut self.text);
        self.send(Delivery::MayBeLost);
    }

    /// Takes messages off the socket, until there are none or enough for one pass.
    ///
    /// Where messages come singly, as they mostly do here, it takes one and leaves it to the next
    /// pass to find that there is no other: by then the answer is on its way.
    pub(super) fn receive(
        &mut self,
        messages: &mut Vec<Envelope>,
        requests: &mut Vec<ClientRequest>,
    ) -> Arrivals {
        let mut bytes = 0;
        let limit = if self.one_at_a_time { 1 } else { BATCH_MESSAGES_MAX };
        self.one_at_a_time = false;
        for taken in 0..limit {
            let text = match self.connection.receive() {
                Received::Message(text) => text,
                Received::TooLong => {
                    self.counters.unreadable.add_one();
                    continue;
                }
                Received::Drained => {
                    self.one_at_a_time = taken <= 1;
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
        Arrivals::Taken
    }

    /// Sends a message to a peer.
    pub(super) fn send_peer(&mut self, envelope: &Envelope) {
        self.text.clear();
        course::encode_peer(envelope, &mut self.text);
        self.send(Delivery::MayBeLost);
    }

    /// Answers a client.
    pub(super) fn send_answer(&mut self, answer: &Answer, leader: Option<NodeId>) {
        self.text.clear();
        let value = value_of(&answer.outcome);
        let encoded = course::encode_ok(self.me, answer.key, leader, value, &mut self.text);
        self.send_if(&encoded);
    }

    /// Tells a client to ask another.
    pub(super) fn send_refusal(&mut self, refusal: &Refusal) {
        self.text.clear();
        let encoded = course::encode_redirect(self.me, refusal.key, refusal.leader, &mut self.text);
        self.send_if(&encoded);
    }

    /// Sends the text, unless there is none because the request was not from this door: a peer's
    /// log may hold anything.
    fn send_if(&mut self, encoded: &Result<(), CourseError>) {
        match encoded {
            Ok(()) => self.send(Delivery::MustArrive),
            Err(_) => self.counters.send_failures.add_one(),
        }
    }

    fn send(&mut self, delivery: Delivery) {
        match self.connection.send(&mut self.text, delivery) {
            Sent::Accepted => {}
            Sent::NoRoom => self.counters.unsent.add_one(),
            Sent::Failed => self.counters.send_failures.add_one(),
        }
    }
}

/// What an answer carries: a key without a value reads as empty, which is how the course's
/// protocol says it.
fn value_of(outcome: &Outcome) -> Option<&[u8]> {
    match outcome {
        Outcome::Value(value) => Some(value.as_deref().unwrap_or_default()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation(words: &str) -> Result<CourseArguments, CourseArgumentsError> {
        let arguments: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        CourseArguments::from_arguments(&arguments)
    }

    #[test]
    fn a_port_and_ids_are_an_invitation() {
        let expected = CourseArguments {
            me: NodeId(0x0A),
            others: vec![NodeId(2), NodeId(0)],
            address: Address::Udp(40_000),
        };
        assert_eq!(invitation("40000 000A 0002 0000"), Ok(expected));
        // Four hexadecimal digits, but no socket of that name here: a port.
        let invited = invitation("9000 0001 0002").unwrap();
        assert_eq!((invited.me, invited.address), (NodeId(1), Address::Udp(9_000)));
    }

    #[test]
    fn what_is_none_is_refused_by_name() {
        use CourseArgumentsError::{Address, Id, Missing, TooMany, Twice};
        assert_eq!(invitation(""), Err(Missing));
        assert_eq!(invitation("40000"), Err(Missing));
        for address in ["0", "65536", "000A", "-1", "localhost"] {
            assert_eq!(invitation(&format!("{address} 0001")), Err(Address(address.to_owned())));
        }
        for id in ["1", "00001", "00G1", "+001", "FFFF", "ffff"] {
            assert_eq!(invitation(&format!("40000 0001 {id}")), Err(Id(id.to_owned())));
            assert_eq!(invitation(&format!("40000 {id} 0001")), Err(Id(id.to_owned())));
        }
        assert_eq!(invitation("40000 0001 0002 0001"), Err(Twice(NodeId(1))));
        assert_eq!(invitation("40000 0001 0002 0002"), Err(Twice(NodeId(2))));
        let many: Vec<String> = (0..22).map(|id| format!("{id:04X}")).collect();
        assert_eq!(invitation(&format!("40000 {}", many.join(" "))), Err(TooMany(22)));
    }
}
