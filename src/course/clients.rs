//! The course's eight clients: what they ask whom, and what they make of an answer.
//!
//! They follow the original to the letter, oddities included: a client repeats a redirected
//! request under a new id at once and for ever, never repeats an unanswered one, and judges a
//! get by its own last acknowledged put of that key at the moment the answer arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::types::{ClientId, Instant, NodeId, RequestId};

/// How many clients there are.
pub const CLIENT_COUNT: u16 = 8;

/// Keys and values: 32 printable characters each.
pub type Text32 = [u8; 32];

/// What a client wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// The value of a key.
    Get {
        /// Which key: one whose put was acknowledged to this client.
        key: Text32,
    },
    /// To set a key.
    Put {
        /// Which key.
        key: Text32,
        /// To what.
        value: Text32,
    },
}

/// A request on its way to a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Who asks.
    pub client: ClientId,
    /// Who is asked.
    pub replica: NodeId,
    /// Whom the client believes to lead.
    pub leader: Option<NodeId>,
    /// Its id, new for every attempt: 16 letters and digits.
    pub mid: RequestId,
    /// What is asked.
    pub operation: Operation,
}

/// What a replica answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnswerKind {
    /// Done; a get's answer carries the value.
    Ok,
    /// Ask the leader.
    Redirect,
    /// It did not work; ask again.
    Fail,
}

/// An answer as it arrives at a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer<'a> {
    /// Who answers. Nobody compares that with who was asked.
    pub src: NodeId,
    /// Whom.
    pub client: ClientId,
    /// Who leads, as the replica believes.
    pub leader: Option<NodeId>,
    /// Which request.
    pub mid: RequestId,
    /// What.
    pub kind: AnswerKind,
    /// The value, if it carries one.
    pub value: Option<&'a [u8]>,
}

/// What an answer comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// The request is done.
    Done,
    /// The client asks again, if anybody is left to ask.
    Again(Option<Request>),
    /// That request had its answer already.
    Duplicate,
    /// Against the rules; the text says what.
    Wrong(String),
}

/// An `ok`: when it came, and how long it took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// When it arrived.
    pub answered: Instant,
    /// From the attempt that was answered.
    pub latency: Duration,
    /// From the first attempt, over all redirects.
    pub operation_latency: Duration,
}

/// What the clients counted. Gets and puts apart where the course does so.
#[derive(Clone, Debug, Default)]
pub struct ClientCounts {
    /// Attempts that were gets.
    pub gets_sent: u64,
    /// Attempts that were puts.
    pub puts_sent: u64,
    /// Gets that became puts because the client had nothing to get.
    pub gets_not_generated: u64,
    /// Those of them that no replica could have prevented: the client had not asked for any put
    /// before.
    pub gets_not_generated_by_luck: u64,
    /// `fail` answers to gets.
    pub gets_failed: u64,
    /// `fail` answers to puts.
    pub puts_failed: u64,
    /// Redirects and `fail` answers.
    pub redirects: u64,
    /// The most of them that one operation met.
    pub redirects_max: u32,
    /// Answers to what had been answered.
    pub duplicates: u64,
    /// Time to each answer that closed an attempt, redirects and fails included: the latency that
    /// the course takes the median of.
    pub latencies: Vec<Duration>,
    /// The `ok` of gets.
    pub gets: Vec<Sample>,
    /// The `ok` of puts.
    pub puts: Vec<Sample>,
}

/// One operation over all its attempts.
#[derive(Clone, Copy, Debug)]
struct Asked {
    operation: Operation,
    /// Its place among all operations, from 0.
    number: u64,
    started: Instant,
    redirects: u32,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    asked: Asked,
    sent: Instant,
    /// Whom it went to, if anybody lived.
    replica: Option<NodeId>,
}

#[derive(Debug, Default)]
struct Client {
    leader: Option<NodeId>,
    /// Attempts without an answer.
    open: BTreeMap<RequestId, Attempt>,
    /// Acknowledged keys, in the order of their first acknowledgement, for a fair draw.
    keys: Vec<Text32>,
    /// The last acknowledged value of each.
    values: BTreeMap<Text32, Text32>,
    /// Whether it ever asked for a put.
    has_put: bool,
}

/// All clients of a run.
#[derive(Debug)]
pub struct Clients {
    first: u16,
    each: Vec<Client>,
    generator: ChaCha8Rng,
    operations: u64,
    /// Requests that had their `ok`, of all clients.
    completed: BTreeSet<RequestId>,
    /// What was counted so far.
    pub counts: ClientCounts,
}

impl Clients {
    /// Clients of a run with `replicas` replicas: numbered from 16 above their count.
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

    /// The id of the client at this place.
    #[must_use]
    pub fn id(&self, place: usize) -> ClientId {
        ClientId(u32::from(self.first) + u32::try_from(place).expect("eight clients"))
    }

    fn place(&self, id: ClientId) -> Option<usize> {
        let place = id.0.checked_sub(u32::from(self.first))? as usize;
        (place < self.each.len()).then_some(place)
    }

    /// Whether one of them has this id.
    #[must_use]
    pub fn has(&self, id: ClientId) -> bool {
        self.place(id).is_some()
    }

    /// How many operations were started.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Open attempts: gets and puts.
    #[must_use]
    pub fn unanswered(&self) -> (u64, u64) {
        let open = self.each.iter().flat_map(|client| client.open.values());
        open.fold((0, 0), |(gets, puts), attempt| match attempt.asked.operation {
            Operation::Get { .. } => (gets + 1, puts),
            Operation::Put { .. } => (gets, puts + 1),
        })
    }

    /// Open attempts: their ids, whom they were sent to, and what they ask.
    pub fn open(&self) -> impl Iterator<Item = (RequestId, Option<NodeId>, Operation)> {
        self.each
            .iter()
            .flat_map(|client| &client.open)
            .map(|(mid, attempt)| (*mid, attempt.replica, attempt.asked.operation))
    }

    /// How many keys were acknowledged.
    #[must_use]
    pub fn acknowledged_keys(&self) -> usize {
        self.each.iter().map(|client| client.keys.len()).sum()
    }

    /// Nobody knows the leader any more.
    pub fn forget_leader(&mut self) {
        for client in &mut self.each {
            client.leader = None;
        }
    }

    /// The client at `place` starts an operation: a get if `get` says so and it has a key to get.
    /// `None` if no replica lives; it stays open all the same.
    pub fn ask(
        &mut self,
        now: Instant,
        place: usize,
        get: bool,
        living: &BTreeSet<NodeId>,
    ) -> Option<Request> {
        let operation = self.choose(place, get);
        let number = self.operations;
        self.operations += 1;
        self.send(now, place, Asked { operation, number, started: now, redirects: 0 }, living)
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
        asked: Asked,
        living: &BTreeSet<NodeId>,
    ) -> Option<Request> {
        match asked.operation {
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
        client.open.insert(mid, Attempt { asked, sent: now, replica });
        let (leader, operation) = (client.leader, asked.operation);
        replica.map(|replica| Request { client: id, replica, leader, mid, operation })
    }

    /// Takes an answer to a client that exists. With a put that is now acknowledged comes its
    /// place among all operations, from 0.
    ///
    /// # Panics
    /// If there is no such client.
    pub fn receive(
        &mut self,
        now: Instant,
        answer: &Answer<'_>,
        living: &BTreeSet<NodeId>,
    ) -> (Received, Option<u64>) {
        let place = self.place(answer.client).expect("the caller looked the client up");
        if self.completed.contains(&answer.mid) {
            self.counts.duplicates += 1;
            return (Received::Duplicate, None);
        }
        let client = &mut self.each[place];
        let Some(Attempt { mut asked, sent, .. }) = client.open.remove(&answer.mid) else {
            let text = format!(
                "replica {} answers {:?}, which this client does not wait for (a second answer \
                 after a redirect or a fail, or an answer to somebody else)",
                answer.src, answer.mid
            );
            return (Received::Wrong(text), None);
        };
        client.leader = answer.leader;
        self.counts.latencies.push(now.since(sent));
        if answer.kind != AnswerKind::Ok {
            asked.redirects += 1;
            self.counts.redirects += 1;
            self.counts.redirects_max = self.counts.redirects_max.max(asked.redirects);
            if answer.kind == AnswerKind::Fail {
                match asked.operation {
                    Operation::Get { .. } => self.counts.gets_failed += 1,
                    Operation::Put { .. } => self.counts.puts_failed += 1,
                }
            }
            return (Received::Again(self.send(now, place, asked, living)), None);
        }
        self.completed.insert(answer.mid);
        let sample = Sample {
            answered: now,
            latency: now.since(sent),
            operation_latency: now.since(asked.started),
        };
        match asked.operation {
            Operation::Get { key } => {
                self.counts.gets.push(sample);
                (judge_value(answer, &client.values[&key]), None)
            }
            Operation::Put { key, value } => {
                self.counts.puts.push(sample);
                if client.values.insert(key, value).is_none() {
                    client.keys.push(key);
                }
                (Received::Done, Some(asked.number))
            }
        }
    }
}

/// A get's answer must carry what this client last had acknowledged for the key.
fn judge_value(answer: &Answer<'_>, expected: &Text32) -> Received {
    match answer.value {
        Some(value) if value == expected => Received::Done,
        Some(value) => Received::Wrong(format!(
            "replica {} answers the get {:?} with the value `{}`, but the client's last \
             acknowledged put of that key wrote `{}`",
            answer.src,
            answer.mid,
            String::from_utf8_lossy(&value[..value.len().min(64)]),
            String::from_utf8_lossy(expected)
        )),
        None => Received::Wrong(format!(
            "replica {} answers the get {:?} with `ok` and no value",
            answer.src, answer.mid
        )),
    }
}

fn letters_and_digits<const N: usize>(generator: &mut ChaCha8Rng) -> [u8; N] {
    const ALPHABET: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    std::array::from_fn(|_| ALPHABET[generator.random_range(..ALPHABET.len())])
}

/// The value that follows another (or a key): 32 hex digits that look random and depend on it
/// alone. The course takes MD5; what counts is only that two puts over the same old value write
/// the same new one, so that either order of them satisfies the client.
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
    /// The key.
    #[must_use]
    pub const fn key(&self) -> &Text32 {
        match self {
            Operation::Get { key } | Operation::Put { key, .. } => key,
        }
    }
}

impl Request {
    /// Appends the request as the course's simulator writes it, byte for byte: the JSON of
    /// Python's `json.dumps`, with its spaces and in its order.
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
        clients.ask(at(0), 0, false, living).unwrap()
    }

    #[test]
    fn ids_follow_the_replicas() {
        let (clients, _) = setup();
        assert_eq!((clients.id(0), clients.id(7)), (ClientId(0x15), ClientId(0x1C)));
        assert!(clients.has(ClientId(0x1C)) && !clients.has(ClientId(0x1D)));
        assert!(!clients.has(ClientId(4)));
    }

    #[test]
    fn a_get_without_a_key_becomes_a_put_and_is_counted() {
        let (mut clients, living) = setup();
        let first = clients.ask(at(0), 0, true, &living).unwrap();
        assert!(matches!(first.operation, Operation::Put { .. }));
        // Now a put is under way: that the second get finds no key is no longer mere luck.
        clients.ask(at(1), 0, true, &living).unwrap();
        assert_eq!(clients.counts.gets_not_generated, 2);
        assert_eq!(clients.counts.gets_not_generated_by_luck, 1);
        clients.receive(at(2), &reply(&first, AnswerKind::Ok), &living);
        let third = clients.ask(at(3), 0, true, &living).unwrap();
        assert_eq!(third.operation, Operation::Get { key: *first.operation.key() });
        assert_eq!((clients.counts.gets_sent, clients.counts.puts_sent), (1, 2));
    }

    #[test]
    fn every_answer_names_the_leader_for_the_next_request() {
        let (mut clients, mut living) = setup();
        let first = put(&mut clients, &living);
        assert_eq!(first.leader, None);
        clients.receive(at(1), &reply(&first, AnswerKind::Ok), &living);
        let second = put(&mut clients, &living);
        assert_eq!((second.replica, second.leader), (NodeId(3), Some(NodeId(3))));
        living.remove(&NodeId(3));
        assert_eq!(put(&mut clients, &living).leader, None, "the dead are not asked");
        clients.forget_leader();
        assert_eq!(put(&mut clients, &living).leader, None);
        living.clear();
        assert_eq!(clients.ask(at(9), 0, false, &living), None);
        assert_eq!(clients.unanswered(), (0, 4), "asked of nobody is unanswered");
    }

    #[test]
    fn a_redirect_asks_again_at_once_under_a_new_id() {
        let (mut clients, living) = setup();
        let first = put(&mut clients, &living);
        let (received, _) = clients.receive(at(5), &reply(&first, AnswerKind::Redirect), &living);
        let Received::Again(Some(second)) = received else { panic!("{received:?}") };
        assert_eq!((second.operation, second.replica), (first.operation, NodeId(3)));
        assert_ne!(second.mid, first.mid);
        let (received, _) = clients.receive(at(6), &reply(&second, AnswerKind::Fail), &living);
        let Received::Again(Some(third)) = received else { panic!("{received:?}") };
        let (received, number) = clients.receive(at(9), &reply(&third, AnswerKind::Ok), &living);
        assert_eq!((received, number), (Received::Done, Some(0)));
        let counts = &clients.counts;
        assert_eq!((counts.redirects, counts.redirects_max, counts.puts_failed), (2, 2, 1));
        assert_eq!(counts.latencies.iter().map(Duration::as_millis).collect::<Vec<_>>(), [5, 1, 3]);
        assert_eq!(counts.puts[0].latency.as_millis(), 3, "the course measures each attempt");
        assert_eq!(counts.puts[0].operation_latency.as_millis(), 9, "the client waits for all");
        assert_eq!(clients.operations(), 1);
    }

    /// §1.8 item 2: after an `ok` a second answer is a duplicate, after a redirect a fault.
    #[test]
    fn a_second_answer_is_a_duplicate_only_after_an_ok() {
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
        assert!(matches!(received, Received::Wrong(_)));
        assert_eq!(clients.counts.duplicates, 2);
        // An answer to another client's request is unexpected too.
        let third = put(&mut clients, &living);
        let stray = Answer { client: clients.id(1), ..reply(&third, AnswerKind::Ok) };
        assert!(matches!(clients.receive(at(5), &stray, &living).0, Received::Wrong(_)));
    }

    /// §1.8 item 1: what counts is the last acknowledged put when the get's answer arrives.
    #[test]
    fn a_get_is_judged_by_the_last_acknowledged_put_on_arrival() {
        let (mut clients, living) = setup();
        let first = put(&mut clients, &living);
        clients.receive(at(1), &reply(&first, AnswerKind::Ok), &living);
        let old = successor(first.operation.key());
        let get = clients.ask(at(2), 0, true, &living).unwrap();
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
        let Received::Wrong(text) = received else { panic!("{received:?}") };
        assert!(text.contains("last acknowledged put"));
        let get = clients.ask(at(5), 0, true, &living).unwrap();
        let new = successor(&old);
        let good = Answer { value: Some(&new), ..reply(&get, AnswerKind::Ok) };
        assert_eq!(clients.receive(at(6), &good, &living).0, Received::Done);
        let get = clients.ask(at(7), 0, true, &living).unwrap();
        let bare = clients.receive(at(8), &reply(&get, AnswerKind::Ok), &living).0;
        assert!(matches!(bare, Received::Wrong(_)));
        assert_eq!(clients.counts.duplicates, 0);
    }

    #[test]
    fn requests_are_written_as_the_course_writes_them() {
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
