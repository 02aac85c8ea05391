//! The eight clients of the university course's simulator: the requests they send, and how they
//! check the answers.
//!
//! They behave exactly like the course's own clients, oddities included: a client retries a
//! redirected request immediately, without limit and under a new id; it never retries an unanswered
//! one; and it expects a get to return the value of its own latest put of that key whose
//! acknowledgement arrived before the answer to the get.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::types::{ClientId, Instant, NodeId, RequestId};

/// Number of clients in every scenario run.
pub const CLIENT_COUNT: u16 = 8;

/// A key or value in the university course's protocol: 32 printable characters.
pub type Text32 = [u8; 32];

/// A client's operation on one key: a get or a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Reads the value of a key.
    Get {
        /// The key to read, one of those for which the client has an acknowledged put.
        key: Text32,
    },
    /// Sets the value of a key.
    Put {
        /// The key to set.
        key: Text32,
        /// The value to set.
        value: Text32,
    },
}

/// A request that a client sends to a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Id of the client that sends the request.
    pub client: ClientId,
    /// Id of the replica that receives the request.
    pub replica: NodeId,
    /// The leader known to the client; `None` if the client knows no leader.
    pub leader: Option<NodeId>,
    /// Message id of the request: 16 letters and digits. Each attempt of an operation has a new
    /// one.
    pub mid: RequestId,
    /// The requested operation.
    pub operation: Operation,
}

/// The type of a replica's answer to a client's request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnswerKind {
    /// The operation was executed. The answer to a get contains the value.
    Ok,
    /// The client must retry the operation at the leader named in the answer.
    Redirect,
    /// The operation failed, and the client must retry it.
    Fail,
}

/// A replica's answer to a client's request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer<'a> {
    /// Id of the replica that answers, which need not be the one that received the request.
    pub src: NodeId,
    /// Id of the client that the answer is addressed to.
    pub client: ClientId,
    /// The leader known to the answering replica; `None` if that replica knows no leader.
    pub leader: Option<NodeId>,
    /// The message id of the request that is answered.
    pub mid: RequestId,
    /// The type of the answer: `ok`, `redirect` or `fail`.
    pub kind: AnswerKind,
    /// The value of the key that was read; `None` if the answer contains no value.
    pub value: Option<&'a [u8]>,
}

/// A client's reaction to an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// The client's operation is complete, without a violation of a rule.
    Done,
    /// The client retries the operation with this request; `None` if no replica is alive.
    Retry(Option<Request>),
    /// The client ignores the answer, because the same request was already answered with `ok`.
    Duplicate,
    /// The answer violates a rule of the university course, as the text describes.
    Incorrect(String),
}

/// The latencies of one operation that was answered with `ok`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Time at which the answer arrived at the client.
    pub answered: Instant,
    /// Time from the operation's last attempt to the `ok` answer.
    pub latency: Duration,
    /// Time from the operation's first attempt to the `ok` answer, including all retries.
    pub operation_latency: Duration,
}

/// Counters and latency samples of all clients of a run.
#[derive(Clone, Debug, Default)]
pub struct ClientCounts {
    /// Number of get requests sent, including retries.
    pub gets_sent: u64,
    /// Number of put requests sent, including retries.
    pub puts_sent: u64,
    /// Number of planned gets that became puts because the client had no acknowledged put yet, so
    /// that there was no key to read.
    pub gets_not_generated: u64,
    /// Number of planned gets that became puts because the client had not even sent a put yet,
    /// which no replica can prevent. Included in `gets_not_generated`.
    pub gets_not_generated_by_luck: u64,
    /// Number of `fail` answers to gets.
    pub gets_failed: u64,
    /// Number of `fail` answers to puts.
    pub puts_failed: u64,
    /// Number of `redirect` and `fail` answers, to gets and puts together.
    pub redirects: u64,
    /// The highest number of `redirect` and `fail` answers to a single operation.
    pub redirects_max: u32,
    /// Number of duplicate answers: answers to requests that had already been answered with `ok`.
    pub duplicates: u64,
    /// Latency of every answered request, including `redirect` and `fail` answers. The university
    /// course grades the median of these latencies.
    pub latencies: Vec<Duration>,
    /// Latency samples of the gets that were answered with `ok`, one per get.
    pub gets: Vec<Sample>,
    /// Latency samples of the puts that were answered with `ok`, one per put.
    pub puts: Vec<Sample>,
}

/// An operation that a client has not completed yet, with counts over all attempts to execute it.
#[derive(Clone, Copy, Debug)]
struct Ongoing {
    operation: Operation,
    /// Position of the operation among all operations of the run, from 0.
    number: u64,
    started: Instant,
    redirects: u32,
}

/// An attempt to execute an operation: one request, which has not been answered yet.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    ongoing: Ongoing,
    sent: Instant,
    /// Id of the replica that the request was sent to; `None` if no replica was alive.
    replica: Option<NodeId>,
}

#[derive(Debug, Default)]
struct Client {
    leader: Option<NodeId>,
    /// Unanswered attempts of the client's operations, by message id.
    open: BTreeMap<RequestId, Attempt>,
    /// Keys for which the client has an acknowledged put, in the order of their first
    /// acknowledgement. A get reads a random one of them, all with equal probability.
    keys: Vec<Text32>,
    /// For each key in `keys`, the value of the client's last acknowledged put.
    values: BTreeMap<Text32, Text32>,
    /// Whether the client has sent at least one put, acknowledged or not.
    has_put: bool,
}

/// The eight clients of a scenario run, with their requests and counters.
#[derive(Debug)]
pub struct Clients {
    first: u16,
    each: Vec<Client>,
    generator: ChaCha8Rng,
    operations: u64,
    /// Message ids of all requests that were answered with `ok`, to recognise duplicate answers.
    completed: BTreeSet<RequestId>,
    /// Counters and latency samples of all clients so far.
    pub counts: ClientCounts,
}

impl Clients {
    /// Creates the clients of a run with `replicas` replicas. Client ids start at `replicas + 16`;
    /// all random choices of the clients are drawn from `generator`.
    #[must_use]
    pub fn new(replicas: u16, generator: ChaCha8Rng) -> Clients {
        Clients {
            first: replicas + 16,
            each: (0..CLIENT_COUNT).map(|_| Client::default()).collect(),
            generator,
            operations: 0,
            completed: BTreeSet::new(),
            counts: ClientCounts::default(),
        }
    }

    /// Returns the id of the client at position `place`, from 0 to 7.
    #[must_use]
    pub fn id(&self, place: usize) -> ClientId {
        ClientId(u32::from(self.first) + u32::try_from(place).expect("eight clients"))
    }

    fn place(&self, id: ClientId) -> Option<usize> {
        let place = id.0.checked_sub(u32::from(self.first))? as usize;
        (place < self.each.len()).then_some(place)
    }

    /// Returns whether a client of this run has this id.
    #[must_use]
    pub fn has(&self, id: ClientId) -> bool {
        self.place(id).is_some()
    }

    /// Returns the number of operations that the clients have started so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Returns the number of unanswered get requests and the number of unanswered put requests.
    #[must_use]
    pub fn unanswered(&self) -> (u64, u64) {
        let open = self.each.iter().flat_map(|client| client.open.values());
        open.fold((0, 0), |(gets, puts), attempt| match attempt.ongoing.operation {
            Operation::Get { .. } => (gets + 1, puts),
            Operation::Put { .. } => (gets, puts + 1),
        })
    }

    /// Returns, for each unanswered request, its message id, the replica that it was sent to
    /// (`None` if no replica was alive) and its operation.
    pub fn open(&self) -> impl Iterator<Item = (RequestId, Option<NodeId>, Operation)> {
        self.each
            .iter()
            .flat_map(|client| &client.open)
            .map(|(mid, attempt)| (*mid, attempt.replica, attempt.ongoing.operation))
    }

    /// Returns the number of keys for which a client has an acknowledged put, summed over all
    /// clients.
    #[must_use]
    pub fn acknowledged_keys(&self) -> usize {
        self.each.iter().map(|client| client.keys.len()).sum()
    }

    /// Makes all clients forget the leader. They then send requests to random replicas until an
    /// answer names a leader.
    pub fn forget_leader(&mut self) {
        for client in &mut self.each {
            client.leader = None;
        }
    }

    /// Starts an operation of the client at position `place` (0 to 7): a get if `get` is true and
    /// the client has an acknowledged put, otherwise a put. `living` are the replicas that are
    /// alive. Returns the request to send. Returns `None` if no replica is alive; the operation
    /// then stays unanswered.
    pub fn start(
        &mut self,
        now: Instant,
        place: usize,
        get: bool,
        living: &BTreeSet<NodeId>,
    ) -> Option<Request> {
        let operation = self.choose(place, get);
        let number = self.operations;
        self.operations += 1;
        let ongoing = Ongoing { operation, number, started: now, redirects: 0 };
        self.send(now, place, ongoing, living)
    }

    fn choose(&mut self, place: usize, get: bool) -> Operation {
        let client = &mut self.each[place];
        let known = client.keys.len();
        if get {
            if known > 0 {
                return Operation::Get { key: client.keys[self.generator.random_range(..known)] };
            }
            self.counts.gets_not_generated += 1;
            if !client.has_put {
                self.counts.gets_not_generated_by_luck += 1;
            }
        }
        client.has_put = true;
        if known == 0 || self.generator.random_bool(0.5) {
            let key = letters_and_digits(&mut self.generator);
            Operation::Put { key, value: successor(&key) }
        } else {
            let key = client.keys[self.generator.random_range(..known)];
            Operation::Put { key, value: successor(&client.values[&key]) }
        }
    }

    fn send(
        &mut self,
        now: Instant,
        place: usize,
        ongoing: Ongoing,
        living: &BTreeSet<NodeId>,
    ) -> Option<Request> {
        match ongoing.operation {
            Operation::Get { .. } => self.counts.gets_sent += 1,
            Operation::Put { .. } => self.counts.puts_sent += 1,
        }
        let mid = RequestId(letters_and_digits(&mut self.generator));
        let id = self.id(place);
        let client = &mut self.each[place];
        client.leader = client.leader.filter(|leader| living.contains(leader));
        let replica = match client.leader {
            Some(leader) => Some(leader),
            None if living.is_empty() => None,
            None => living.iter().nth(self.generator.random_range(..living.len())).copied(),
        };
        client.open.insert(mid, Attempt { ongoing, sent: now, replica });
        let (leader, operation) = (client.leader, ongoing.operation);
        replica.map(|replica| Request { client: id, replica, leader, mid, operation })
    }

    /// Counts an answer and returns the client's reaction. If the answer acknowledges a put, also
    /// returns the position of that put among all operations of the run, counted from 0; otherwise
    /// `None`.
    ///
    /// # Panics
    /// If no client has the id in the answer.
    pub fn receive(
        &mut self,
        now: Instant,
        answer: &Answer<'_>,
        living: &BTreeSet<NodeId>,
    ) -> (Received, Option<u64>) {
        let place = self.place(answer.client).expect("an answer to an existing client");
        if self.completed.contains(&answer.mid) {
            self.counts.duplicates += 1;
            return (Received::Duplicate, None);
        }
        let client = &mut self.each[place];
        let Some(Attempt { mut ongoing, sent, .. }) = client.open.remove(&answer.mid) else {
            let text = format!(
                "replica {} answered request {:?}, which is not pending at client {:04X}: it was \
                 already answered with redirect or fail, or belongs to another client",
                answer.src, answer.mid, answer.client.0
            );
            return (Received::Incorrect(text), None);
        };
        client.leader = answer.leader;
        self.counts.latencies.push(now.since(sent));
        if answer.kind != AnswerKind::Ok {
            ongoing.redirects += 1;
            self.counts.redirects += 1;
            self.counts.redirects_max = self.counts.redirects_max.max(ongoing.redirects);
            if answer.kind == AnswerKind::Fail {
                match ongoing.operation {
                    Operation::Get { .. } => self.counts.gets_failed += 1,
                    Operation::Put { .. } => self.counts.puts_failed += 1,
                }
            }
            return (Received::Retry(self.send(now, place, ongoing, living)), None);
        }
        self.completed.insert(answer.mid);
        let sample = Sample {
            answered: now,
            latency: now.since(sent),
            operation_latency: now.since(ongoing.started),
        };
        match ongoing.operation {
            Operation::Get { key } => {
                self.counts.gets.push(sample);
                (check_value(answer, &client.values[&key]), None)
            }
            Operation::Put { key, value } => {
                self.counts.puts.push(sample);
                if client.values.insert(key, value).is_none() {
                    client.keys.push(key);
                }
                (Received::Done, Some(ongoing.number))
            }
        }
    }
}

/// Checks the value in the answer to a get: it must be `expected`, the value of the client's last
/// acknowledged put of the key.
fn check_value(answer: &Answer<'_>, expected: &Text32) -> Received {
    match answer.value {
        Some(value) if value == expected => Received::Done,
        Some(value) => Received::Incorrect(format!(
            "replica {} answered get {:?} with the value `{}`, but the client's last acknowledged \
             put of that key wrote `{}`",
            answer.src,
            answer.mid,
            String::from_utf8_lossy(&value[..value.len().min(64)]),
            String::from_utf8_lossy(expected)
        )),
        None => Received::Incorrect(format!(
            "replica {} answered get {:?} with `ok` but without a value",
            answer.src, answer.mid
        )),
    }
}

fn letters_and_digits<const N: usize>(generator: &mut ChaCha8Rng) -> [u8; N] {
    const ALPHABET: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    std::array::from_fn(|_| ALPHABET[generator.random_range(..ALPHABET.len())])
}

/// Returns the value that a put writes to a key whose value is `before` (the key itself if it is
/// new): 32 pseudo-random hexadecimal digits. Two concurrent puts that replace the same old value
/// therefore write the same new value, so the client can accept either order. The university course
/// uses MD5, but any function of `before` will do.
#[must_use]
pub fn successor(before: &Text32) -> Text32 {
    let mut digest = [0_u8; 16];
    ChaCha8Rng::from_seed(*before).fill_bytes(&mut digest);
    std::array::from_fn(|place| {
        let byte = digest[place / 2];
        let digit = if place % 2 == 0 { byte >> 4 } else { byte & 15 };
        b"0123456789abcdef"[usize::from(digit)]
    })
}

impl Operation {
    /// Returns the key that the operation reads or writes.
    #[must_use]
    pub const fn key(&self) -> &Text32 {
        match self {
            Operation::Get { key } | Operation::Put { key, .. } => key,
        }
    }
}

impl Request {
    /// Appends the request to `out` as JSON, byte for byte as the university course's simulator
    /// writes it (Python's `json.dumps`).
    pub fn write_json(&self, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let leader = self.leader.map_or(0xFFFF, |leader| leader.0);
        let mid = String::from_utf8_lossy(&self.mid.0);
        let written = match &self.operation {
            Operation::Get { key } => write!(
                out,
                "{{\"src\": \"{:04X}\", \"dst\": \"{}\", \"leader\": \"{leader:04X}\", \"type\": \
                 \"get\", \"MID\": \"{mid}\", \"key\": \"{}\"}}",
                self.client.0,
                self.replica,
                String::from_utf8_lossy(key)
            ),
            Operation::Put { key, value } => write!(
                out,
                "{{\"src\": \"{:04X}\", \"dst\": \"{}\", \"leader\": \"{leader:04X}\", \"type\": \
                 \"put\", \"MID\": \"{mid}\", \"key\": \"{}\", \"value\": \"{}\"}}",
                self.client.0,
                self.replica,
                String::from_utf8_lossy(key),
                String::from_utf8_lossy(value)
            ),
        };
        written.expect("writing to memory never fails");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Stream, generator};
    use super::*;

    fn setup() -> (Clients, BTreeSet<NodeId>) {
        (Clients::new(5, generator(1, Stream::Clients)), (0..5).map(NodeId).collect())
    }

    fn reply(request: &Request, kind: AnswerKind) -> Answer<'static> {
        Answer {
            src: request.replica,
            client: request.client,
            leader: Some(NodeId(3)),
            mid: request.mid,
            kind,
            value: None,
        }
    }

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn put(clients: &mut Clients, living: &BTreeSet<NodeId>) -> Request {
        clients.start(at(0), 0, false, living).unwrap()
    }

    #[test]
    fn simulated_client_ids_begin_at_replica_count_plus_16() {
        let (clients, _) = setup();
        assert_eq!((clients.id(0), clients.id(7)), (ClientId(0x15), ClientId(0x1C)));
        assert!(clients.has(ClientId(0x1C)) && !clients.has(ClientId(0x1D)));
        assert!(!clients.has(ClientId(4)));
    }

    #[test]
    fn simulated_client_sends_put_instead_of_get_if_no_key_exists() {
        let (mut clients, living) = setup();
        let first = clients.start(at(0), 0, true, &living).unwrap();
        assert!(matches!(first.operation, Operation::Put { .. }));
        // A put has been sent: that the second get finds no key is no longer bad luck.
        clients.start(at(1), 0, true, &living).unwrap();
        assert_eq!(clients.counts.gets_not_generated, 2);
        assert_eq!(clients.counts.gets_not_generated_by_luck, 1);
        clients.receive(at(2), &reply(&first, AnswerKind::Ok), &living);
        let third = clients.start(at(3), 0, true, &living).unwrap();
        assert_eq!(third.operation, Operation::Get { key: *first.operation.key() });
        assert_eq!((clients.counts.gets_sent, clients.counts.puts_sent), (1, 2));
    }

    #[test]
    fn simulated_clients_learn_the_leader_from_replies() {
        let (mut clients, mut living) = setup();
        let first = put(&mut clients, &living);
        assert_eq!(first.leader, None);
        clients.receive(at(1), &reply(&first, AnswerKind::Ok), &living);
        let second = put(&mut clients, &living);
        assert_eq!((second.replica, second.leader), (NodeId(3), Some(NodeId(3))));
        living.remove(&NodeId(3));
        assert_eq!(put(&mut clients, &living).leader, None, "dead replicas receive no requests");
        clients.forget_leader();
        assert_eq!(put(&mut clients, &living).leader, None);
        living.clear();
        assert_eq!(clients.start(at(9), 0, false, &living), None);
        assert_eq!(clients.unanswered(), (0, 4), "a request that could not be sent is unanswered");
    }

    #[test]
    fn simulated_client_retries_a_redirect_under_a_new_request_id() {
        let (mut clients, living) = setup();
        let first = put(&mut clients, &living);
        let (received, _) = clients.receive(at(5), &reply(&first, AnswerKind::Redirect), &living);
        let Received::Retry(Some(second)) = received else { panic!("{received:?}") };
        assert_eq!((second.operation, second.replica), (first.operation, NodeId(3)));
        assert_ne!(second.mid, first.mid);
        let (received, _) = clients.receive(at(6), &reply(&second, AnswerKind::Fail), &living);
        let Received::Retry(Some(third)) = received else { panic!("{received:?}") };
        let (received, number) = clients.receive(at(9), &reply(&third, AnswerKind::Ok), &living);
        assert_eq!((received, number), (Received::Done, Some(0)));
        let counts = &clients.counts;
        assert_eq!((counts.redirects, counts.redirects_max, counts.puts_failed), (2, 2, 1));
        assert_eq!(counts.latencies.iter().map(Duration::as_millis).collect::<Vec<_>>(), [5, 1, 3]);
        assert_eq!(counts.puts[0].latency.as_millis(), 3, "latency of the last attempt");
        assert_eq!(
            counts.puts[0].operation_latency.as_millis(),
            9,
            "latency since the first attempt"
        );
        assert_eq!(clients.operations(), 1);
    }

    /// A second answer is a duplicate after `ok`, and incorrect after a redirect.
    #[test]
    fn second_reply_after_ok_is_duplicate_and_after_redirect_wrong() {
        let (mut clients, living) = setup();
        let first = put(&mut clients, &living);
        clients.receive(at(1), &reply(&first, AnswerKind::Ok), &living);
        for kind in [AnswerKind::Ok, AnswerKind::Redirect] {
            let (received, _) = clients.receive(at(2), &reply(&first, kind), &living);
            assert_eq!(received, Received::Duplicate);
        }
        let second = put(&mut clients, &living);
        clients.receive(at(3), &reply(&second, AnswerKind::Redirect), &living);
        let (received, _) = clients.receive(at(4), &reply(&second, AnswerKind::Ok), &living);
        assert!(matches!(received, Received::Incorrect(_)));
        assert_eq!(clients.counts.duplicates, 2);
        // An answer addressed to the wrong client is incorrect, too.
        let third = put(&mut clients, &living);
        let stray = Answer { client: clients.id(1), ..reply(&third, AnswerKind::Ok) };
        assert!(matches!(clients.receive(at(5), &stray, &living).0, Received::Incorrect(_)));
    }

    #[test]
    fn get_reply_without_the_last_acknowledged_value_is_incorrect() {
        let (mut clients, living) = setup();
        let first = put(&mut clients, &living);
        clients.receive(at(1), &reply(&first, AnswerKind::Ok), &living);
        let old = successor(first.operation.key());
        let get = clients.start(at(2), 0, true, &living).unwrap();
        let overwrite = loop {
            let request = put(&mut clients, &living);
            if request.operation.key() == first.operation.key() {
                break request;
            }
        };
        assert_eq!(
            overwrite.operation,
            Operation::Put { key: *first.operation.key(), value: successor(&old) }
        );
        clients.receive(at(3), &reply(&overwrite, AnswerKind::Ok), &living);
        let late = Answer { value: Some(&old), ..reply(&get, AnswerKind::Ok) };
        let (received, _) = clients.receive(at(4), &late, &living);
        let Received::Incorrect(text) = received else { panic!("{received:?}") };
        assert!(text.contains("last acknowledged put"));
        let get = clients.start(at(5), 0, true, &living).unwrap();
        let new = successor(&old);
        let good = Answer { value: Some(&new), ..reply(&get, AnswerKind::Ok) };
        assert_eq!(clients.receive(at(6), &good, &living).0, Received::Done);
        let get = clients.start(at(7), 0, true, &living).unwrap();
        let bare = clients.receive(at(8), &reply(&get, AnswerKind::Ok), &living).0;
        assert!(matches!(bare, Received::Incorrect(_)));
        assert_eq!(clients.counts.duplicates, 0);
    }

    #[test]
    fn client_request_json_matches_the_reference_encoding() {
        let (mut clients, living) = setup();
        let request = put(&mut clients, &living);
        let mut text = Vec::new();
        request.write_json(&mut text);
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["src"], "0015");
        assert_eq!(value["leader"], "FFFF");
        assert_eq!(value["type"], "put");
        assert_eq!(value["MID"].as_str().unwrap().len(), 16);
        assert_eq!(value["value"].as_str().unwrap().as_bytes(), successor(request.operation.key()));
        assert!(text.starts_with(b"{\"src\": \"0015\", \"dst\": \"000"));
    }
}
