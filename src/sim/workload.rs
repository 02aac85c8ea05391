//! Clients for fault runs: they put, get, delete and transfer, send a request again under the
//! same key where no answer comes, follow redirects, and sometimes give up. What they see goes
//! into a history that is judged at the end.
//!
//! Under the course's protocol an attempt is sent once and never again; a refused one is followed
//! by
//! a new attempt under a new key, as the course's clients do it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::kv::{Command, CommandId, ItemsBuffer, Operation, Outcome};
use crate::raft::{ClientRequest, RequestKind};
use crate::sim::checkers::linearizability::{Call, History, OperationId, Reply};
use crate::sim::checkers::safety::{Violation, demand};
use crate::sim::cluster::{Answer, AnswerKind, ClientProtocol};
use crate::sim::disk::Pace;
use crate::sim::machine::wall_clock::right_clock;
use crate::sim::rng::Rng;
use crate::types::{ClientId, Instant, NodeId, RequestId, RequestKey};

/// What each account holds at first.
pub const ACCOUNT_START: u64 = 100;
/// The key that shows, after all faults, that a value can be put and read.
const FRESH: &str = "fresh";
/// What keys that expire begin with.
const EXPIRING: &str = "expiring ";
/// What sessions count in.
const COUNT: &[u8] = b"count";
/// Number of the first client; below are the replicas'.
const FIRST_CLIENT: u32 = 0x100;

/// How many clients, and what they do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Clients, each with one request at a time.
    pub clients: usize,
    /// How many of them only read: they don't get stuck in a write at a deposed leader and go on
    /// asking it.
    pub readers: usize,
    /// Keys that they put, get and delete.
    pub keys: u64,
    /// Bytes that each value has besides what tells it from others.
    pub padding: usize,
    /// Accounts that they move money between.
    pub accounts: u64,
    /// From an answer to the next request. Readers are much quicker.
    pub think: Pace,
    /// How long a client waits for an answer.
    pub patience: Pace,
    /// Chance that it then gives up and goes on with something else, in a thousand.
    pub give_up_permille: u32,
    /// Whether they also watch accounts and move money in transactions, and count in sessions.
    pub client_model: bool,
    /// Whether they also set keys that expire, and read them.
    pub expiring: bool,
}

/// What the driver has to do for a client.
#[derive(Debug)]
pub enum Order {
    /// Bring a request to a replica.
    Ask {
        /// Which replica.
        to: NodeId,
        /// The request.
        request: ClientRequest,
    },
    /// Wake the client after a while.
    Wake {
        /// Which client.
        client: usize,
        /// Counts its wakes; an overtaken one does nothing.
        turn: u32,
        /// The while.
        after: Duration,
    },
}

/// All clients.
#[derive(Debug)]
pub struct Workload {
    protocol: ClientProtocol,
    load: Load,
    rng: Rng,
    /// Whom the clients ask.
    targets: Vec<NodeId>,
    clients: Vec<Client>,
    /// Every request that is not answered, also those that were given up.
    open: BTreeMap<RequestKey, Open>,
    history: History,
    serial: u64,
    /// The true time.
    now: Instant,
    stopped: bool,
    /// Answers heard, refusals apart.
    done: u64,
    resent: u64,
    refused: u64,
}

#[derive(Debug, Default)]
struct Client {
    /// What it waits for.
    waits_for: Option<RequestKey>,
    /// What it is to do next, before anything drawn.
    planned: VecDeque<Wish>,
    /// Whom it was told to ask.
    leader: Option<NodeId>,
    /// Its session, and the number of its latest request there with the answer to it.
    session: Option<u64>,
    sequence: u64,
    sum: Option<i64>,
    turn: u32,
    /// It was just refused: to ask again is no patience lost.
    refused: bool,
}

/// What a client wants.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Wish {
    Get(String),
    Put(String, String),
    /// Sets a key with a TTL in milliseconds, or with a date of expiration.
    PutFor(String, String, u64),
    PutUntil(String, String, u64),
    Delete(String),
    Transfer(String, String, u64),
    /// Opens a session.
    Open,
    /// Counts, as the session's request of that number.
    Once(u64, u64),
    /// Asks for the revisions of two accounts, to move something between them.
    Watch([String; 2], u64),
    /// Reads them, if they are as they were.
    Look([String; 2], [u64; 2], u64),
    /// Sets them, if they are as they were.
    Move([String; 2], [u64; 2], [u64; 2]),
}

/// A request without an answer.
#[derive(Debug)]
struct Open {
    client: usize,
    wish: Wish,
    request: ClientRequest,
    /// Its place in the history; requests about accounts have none.
    operation: Option<OperationId>,
}

impl Workload {
    /// Clients that have not begun. They first fill the accounts.
    pub fn new(protocol: ClientProtocol, load: Load, targets: &[NodeId], rng: Rng) -> Workload {
        let mut clients: Vec<Client> = (0..load.clients).map(|_| Client::default()).collect();
        clients[0]
            .planned
            .extend((0..load.accounts).map(|i| Wish::Put(account(i), ACCOUNT_START.to_string())));
        Workload {
            protocol,
            load,
            rng,
            targets: targets.to_vec(),
            clients,
            open: BTreeMap::new(),
            history: History::default(),
            serial: 0,
            now: Instant::ZERO,
            stopped: false,
            done: 0,
            resent: 0,
            refused: 0,
        }
    }

    /// Begins: every client is to be woken within its time to think.
    pub fn begin(&mut self, out: &mut Vec<Order>) {
        for client in 0..self.clients.len() {
            let after = self.load.think.draw(&mut self.rng);
            self.wake_later(client, after, out);
        }
    }

    /// From now on clients only bring to an end what they have begun, and ask only these and
    /// whom they are told to ask.
    pub fn stop(&mut self, targets: &[NodeId]) {
        self.stopped = true;
        self.targets = targets.to_vec();
    }

    /// Lets a client put a new value and get it back although all have stopped.
    pub fn probe(&mut self, out: &mut Vec<Order>) {
        self.serial += 1;
        let value = format!("fresh {}", self.serial);
        let client =
            (0..self.clients.len()).find(|&client| self.clients[client].waits_for.is_none());
        let client = client.unwrap_or_else(|| {
            self.clients.push(Client::default());
            self.clients.len() - 1
        });
        let wishes = [Wish::Put(FRESH.into(), value), Wish::Get(FRESH.into())];
        self.clients[client].planned.extend(wishes);
        self.wake_later(client, Duration::ZERO, out);
    }

    /// Whether some client still has something to do that was planned.
    pub fn has_plans(&self) -> bool {
        self.clients.iter().any(|client| !client.planned.is_empty())
    }

    /// Requests without an answer, in order of their keys.
    pub fn unanswered(&self) -> impl Iterator<Item = RequestKey> {
        self.open.keys().copied()
    }

    /// Requests that some client still waits for.
    pub fn waiting(&self) -> impl Iterator<Item = RequestKey> {
        self.clients.iter().filter_map(|client| client.waits_for)
    }

    /// Nothing that a replica knew of this request can be left: a crash took it. Its client goes
    /// on; it may still have taken effect. Only a fresh value is put again: to show that one can.
    pub fn lost(&mut self, key: RequestKey, out: &mut Vec<Order>) {
        if let Some(open) = self.open.remove(&key) {
            let client = &mut self.clients[open.client];
            client.waits_for = None;
            let insists = matches!(open.wish, Wish::Once(..));
            if insists
                || matches!(&open.wish, Wish::Put(pair, _) | Wish::Get(pair) if pair == FRESH)
            {
                client.planned.push_front(open.wish);
            }
            self.wake_later(open.client, Duration::ZERO, out);
        }
    }

    /// What the clients saw of single keys.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Answers and refusals heard.
    pub fn heard(&self) -> (u64, u64) {
        (self.done, self.refused)
    }

    /// Requests that were sent again.
    pub fn resend_count(&self) -> u64 {
        self.resent
    }

    /// A client wakes up.
    pub fn wake(&mut self, client: usize, turn: u32, out: &mut Vec<Order>) {
        if self.clients[client].turn != turn {
            return;
        }
        let Some(key) = self.clients[client].waits_for else { return self.begin_next(client, out) };
        let refused = std::mem::take(&mut self.clients[client].refused);
        // Who gave up after each of hundreds of refusals would leave more writes behind of which
        // nobody knows whether they happened than can be judged.
        if self.rng.chance(self.load.give_up_permille) && !self.stopped && !refused {
            self.clients[client].waits_for = None;
            if let Some(wish @ Wish::Once(..)) = self.open.get(&key).map(|open| open.wish.clone()) {
                // Who counts insists: the same request again, by another name.
                self.clients[client].planned.push_front(wish);
            }
            return self.begin_next(client, out);
        }
        if self.protocol == ClientProtocol::Connection {
            self.resent += 1;
            self.send(client, key, out);
        } else {
            // Nothing is sent twice here. It can only wait on.
            self.be_patient(client, out);
        }
    }

    fn begin_next(&mut self, client: usize, out: &mut Vec<Order>) {
        let wish = match self.clients[client].planned.pop_front() {
            Some(wish) => wish,
            None if self.stopped => return,
            None => self.draw_wish(client),
        };
        self.ask(client, wish, out);
    }

    fn draw_wish(&mut self, client: usize) -> Wish {
        self.serial += 1;
        if self.load.client_model && client >= self.load.readers && self.rng.chance(300) {
            return self.draw_promise(client);
        }
        if self.load.expiring && self.rng.chance(400) {
            return self.draw_expiring();
        }
        let key = format!("k{}", self.rng.below(self.load.keys));
        let number = self.rng.below(if client < self.load.readers { 35 } else { 100 });
        match number {
            0..35 => Wish::Get(key),
            35..70 => Wish::Put(key, format!("v{}{:.<2$}", self.serial, "", self.load.padding)),
            70..80 => Wish::Delete(key),
            _ if self.load.accounts == 0 => Wish::Get(key),
            80..92 => {
                let (from, to) =
                    (self.rng.below(self.load.accounts), self.rng.below(self.load.accounts));
                Wish::Transfer(account(from), account(to), self.rng.below(ACCOUNT_START))
            }
            _ => Wish::Get(account(self.rng.below(self.load.accounts))),
        }
    }

    /// Something about keys that expire.
    fn draw_expiring(&mut self) -> Wish {
        let key = format!("{EXPIRING}{}", self.rng.below(3));
        let value = format!("x{}", self.serial);
        let millis = *self.rng.pick(&[20, 100, 500, 2_000]);
        match self.rng.below(10) {
            0..2 => Wish::PutFor(key, value, millis),
            2..4 => Wish::PutUntil(key, value, right_clock(self.now) + millis),
            _ => Wish::Get(key),
        }
    }

    /// Tells what the true time is.
    pub fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// Something of what is promised beside single keys.
    fn draw_promise(&mut self, client: usize) -> Wish {
        if self.load.accounts > 0 && self.rng.chance(500) {
            let from = self.rng.below(self.load.accounts);
            let to = self.rng.below(self.load.accounts);
            return Wish::Watch([account(from), account(to)], self.rng.below(ACCOUNT_START));
        }
        let client = &mut self.clients[client];
        let Some(session) = client.session else { return Wish::Open };
        // Now and then one that was answered, as if the answer had been lost.
        if client.sequence == 0 || client.sum.is_some() && !self.rng.chance(300) {
            client.sequence += 1;
            client.sum = None;
        }
        Wish::Once(session, client.sequence)
    }

    /// Begins an operation under a new key.
    fn ask(&mut self, client: usize, wish: Wish, out: &mut Vec<Order>) {
        self.serial += 1;
        let mut name = [b'0'; 16];
        for (place, digit) in self.serial.to_string().bytes().rev().enumerate() {
            name[15 - place] = digit;
        }
        let number = FIRST_CLIENT + u32::try_from(client).expect("a few clients");
        let key = RequestKey { client: ClientId(number), request: RequestId(name) };
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let (mut watched, mut list) = (ItemsBuffer::default(), ItemsBuffer::default());
        match &wish {
            Wish::PutFor(pair, value, millis) | Wish::PutUntil(pair, value, millis) => {
                let option = if matches!(wish, Wish::PutFor(..)) { "PX" } else { "PXAT" };
                for word in [pair, value, option, &millis.to_string()] {
                    list.push(word.as_bytes());
                }
            }
            Wish::Watch(pairs, _) => pairs.iter().for_each(|pair| list.push(pair.as_bytes())),
            Wish::Look(pairs, revisions, _) | Wish::Move(pairs, revisions, _) => {
                for (pair, revision) in pairs.iter().zip(revisions) {
                    watched.push(pair.as_bytes());
                    watched.push(&revision.to_le_bytes());
                }
            }
            _ => {}
        }
        match &wish {
            Wish::Look(pairs, ..) => pairs.iter().for_each(|pair| {
                list.push(&Operation::Get { key: pair.as_bytes() }.encode());
            }),
            Wish::Move(pairs, _, values) => {
                for (pair, value) in pairs.iter().zip(values) {
                    let value = value.to_string();
                    let (key, value) = (pair.as_bytes(), value.as_bytes());
                    list.push(&Operation::Put { key, value }.encode());
                }
                list.push(&Operation::Get { key: pairs[0].as_bytes() }.encode());
            }
            _ => {}
        }
        let add = Operation::Add { key: COUNT, amount: 1 }.encode();
        let (operation, call) = match &wish {
            Wish::Open => (Operation::OpenSession, None),
            Wish::Once(session, sequence) => {
                (Operation::Once { session: *session, sequence: *sequence, operation: &add }, None)
            }
            Wish::Watch(..) => {
                let verb = CommandId::named("revisions").expect("there is such a verb");
                (Operation::Call { verb, words: list.items() }, None)
            }
            Wish::Look(..) | Wish::Move(..) => {
                let (watched, operations) = (watched.items(), list.items());
                (Operation::Transaction { watched, operations }, None)
            }
            Wish::PutFor(..) | Wish::PutUntil(..) => {
                let verb = CommandId::named("set").expect("there is such a verb");
                (Operation::Call { verb, words: list.items() }, None)
            }
            Wish::Get(pair) => (Operation::Get { key: pair.as_bytes() }, Some((pair, Call::Get))),
            Wish::Put(pair, value) => (
                Operation::Put { key: pair.as_bytes(), value: value.as_bytes() },
                Some((pair, Call::Put(bytes(value)))),
            ),
            Wish::Delete(pair) => {
                (Operation::Delete { key: pair.as_bytes() }, Some((pair, Call::Delete)))
            }
            Wish::Transfer(from, to, amount) => (
                Operation::Transfer { from: from.as_bytes(), to: to.as_bytes(), amount: *amount },
                None,
            ),
        };
        // Transfers change accounts in a way that the judge of single keys does not know.
        let call =
            call.filter(|(pair, _)| !pair.starts_with("account") && !expires(pair.as_bytes()));
        let operation_id = call.map(|(pair, call)| self.history.call(bytes(pair), call));
        let kind = if operation.is_read() { RequestKind::Read } else { RequestKind::Write };
        let payload = Command { key, operation }.encode();
        let request = ClientRequest { key, kind, payload };
        self.open.insert(key, Open { client, wish, request, operation: operation_id });
        self.clients[client].waits_for = Some(key);
        self.send(client, key, out);
    }

    fn send(&mut self, client: usize, key: RequestKey, out: &mut Vec<Order>) {
        let told = self.clients[client].leader.take();
        let to = told.unwrap_or_else(|| *self.rng.pick(&self.targets));
        out.push(Order::Ask { to, request: self.open[&key].request.clone() });
        self.be_patient(client, out);
    }

    fn be_patient(&mut self, client: usize, out: &mut Vec<Order>) {
        let after = self.load.patience.draw(&mut self.rng);
        self.wake_later(client, after, out);
    }

    fn wake_later(&mut self, client: usize, after: Duration, out: &mut Vec<Order>) {
        self.clients[client].turn += 1;
        out.push(Order::Wake { client, turn: self.clients[client].turn, after });
    }

    /// A client hears from a replica.
    ///
    /// # Errors
    /// If no right replica could have said that.
    pub fn hear(&mut self, answer: &Answer, out: &mut Vec<Order>) -> Result<(), Violation> {
        // A second answer to the same request is news to nobody here.
        let Some(open) = self.open.get(&answer.key) else { return Ok(()) };
        let client = open.client;
        let waits = self.clients[client].waits_for == Some(answer.key);
        if waits {
            self.clients[client].leader = answer.leader;
        }
        match &answer.kind {
            AnswerKind::Done(outcome) => {
                self.done += 1;
                let open = self.open.remove(&answer.key).expect("it was just there");
                self.note(&open, outcome)?;
                if waits {
                    self.clients[client].waits_for = None;
                    let think = self.load.think.draw(&mut self.rng);
                    let after = if client < self.load.readers { think / 8 } else { think };
                    self.wake_later(client, after, out);
                } else if self.stopped && self.clients[client].waits_for.is_none() {
                    // It had given that up and done all else, and now there is more to do.
                    self.wake_later(client, Duration::ZERO, out);
                }
            }
            AnswerKind::Refused(_) => {
                self.refused += 1;
                if self.protocol == ClientProtocol::Course {
                    let open = self.open.remove(&answer.key).expect("it was just there");
                    if let Some(operation) = open.operation {
                        self.history.refuse(operation);
                    }
                    if waits {
                        self.clients[client].waits_for = None;
                        self.clients[client].planned.push_front(open.wish);
                    }
                }
                if waits {
                    self.clients[client].refused = true;
                    // At once to a leader that was named, else after a while.
                    let millis = if answer.leader.is_some() { 1 } else { 50 };
                    let after = self.rng.span(Duration::ZERO, Duration::from_millis(millis));
                    self.wake_later(client, after, out);
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, open: &Open, outcome: &Outcome) -> Result<(), Violation> {
        let reply = match (&open.wish, outcome) {
            (Wish::Get(pair), Outcome::Value(value)) if pair.starts_with("account") => {
                let all = ACCOUNT_START * self.load.accounts;
                let holds =
                    value.as_ref().map(|value| std::str::from_utf8(value).ok()?.parse().ok());
                demand!(
                    holds.is_none_or(|holds| holds.is_some_and(|holds: u64| holds <= all)),
                    "C6: {pair} holds {value:?}, all accounts together {all}"
                );
                return Ok(());
            }
            (Wish::Get(_), Outcome::Value(value)) => Reply::Value(value.clone()),
            (Wish::Put(..) | Wish::PutFor(..) | Wish::PutUntil(..), Outcome::Done) => Reply::Done,
            (Wish::Delete(_), Outcome::Deleted(was)) => Reply::Deleted(*was),
            (Wish::Transfer(..), Outcome::Transferred(_)) => return Ok(()),
            (
                Wish::Open | Wish::Once(..) | Wish::Watch(..) | Wish::Look(..) | Wish::Move(..),
                _,
            ) => {
                return self.note_promise(open, outcome);
            }
            (wish, outcome) => {
                return Err(Violation(format!("C8: {wish:?} was answered with {outcome:?}")));
            }
        };
        if let Some(operation) = open.operation {
            self.history.answer(operation, reply);
        }
        Ok(())
    }
}

impl Workload {
    fn note_promise(&mut self, open: &Open, outcome: &Outcome) -> Result<(), Violation> {
        let client = &mut self.clients[open.client];
        match (&open.wish, outcome) {
            // A later one of the same client may have been answered first.
            (Wish::Open, Outcome::Integer(number)) => {
                client.session = Some(number.cast_unsigned());
                (client.sequence, client.sum) = (0, None);
            }
            (Wish::Once(session, sequence), Outcome::Integer(sum)) => {
                if (client.session, client.sequence) == (Some(*session), *sequence) {
                    demand!(
                        client.sum.is_none_or(|known| known == *sum),
                        "C6: request {sequence} of session {session} was answered with {:?}, and \
                         again with {sum}",
                        client.sum
                    );
                    client.sum = Some(*sum);
                }
            }
            // A late copy of one that was answered long ago.
            (Wish::Once(_, sequence), Outcome::Error(text))
                if *sequence < client.sequence && text.starts_with(b"STALESEQ ") => {}
            (Wish::Watch(pairs, amount), Outcome::List(revisions)) => {
                if let [Outcome::Integer(from), Outcome::Integer(to)] = revisions[..] {
                    let revisions = [from.cast_unsigned(), to.cast_unsigned()];
                    client.planned.push_back(Wish::Look(pairs.clone(), revisions, *amount));
                }
            }
            (Wish::Look(pairs, revisions, amount), Outcome::List(values)) => {
                let held = |value: &Outcome| match value {
                    Outcome::Value(Some(value)) => std::str::from_utf8(value).ok()?.parse().ok(),
                    _ => None,
                };
                let held: Vec<Option<u64>> = values.iter().map(held).collect();
                if let [Some(from), Some(to)] = held[..]
                    && from >= *amount
                    && pairs[0] != pairs[1]
                {
                    let values = [from - amount, to + amount];
                    client.planned.push_back(Wish::Move(pairs.clone(), *revisions, values));
                }
            }
            (Wish::Move(..), Outcome::List(outcomes)) => demand!(
                matches!(outcomes[..], [Outcome::Done, Outcome::Done, Outcome::Value(Some(_))]),
                "C8: a transaction gave {outcomes:?}"
            ),
            (Wish::Look(..) | Wish::Move(..), Outcome::NoList) => {}
            (wish, outcome) => {
                return Err(Violation(format!("C8: {wish:?} was answered with {outcome:?}")));
            }
        }
        Ok(())
    }
}

fn account(number: u64) -> String {
    format!("account {number}")
}

/// Whether a key is one of those that expire.
pub fn expires(key: &[u8]) -> bool {
    key.starts_with(EXPIRING.as_bytes())
}

/// Whether a key is one of the accounts.
pub fn is_account(key: &[u8]) -> bool {
    key.starts_with(b"account ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::RefusalReason;

    const IDS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn workload(protocol: ClientProtocol) -> Workload {
        let load = Load {
            clients: 1,
            readers: 0,
            keys: 2,
            padding: 0,
            accounts: 1,
            think: Pace::always(Duration::from_millis(1)),
            patience: Pace::always(Duration::from_secs(1)),
            client_model: false,
            expiring: false,
            give_up_permille: 0,
        };
        Workload::new(protocol, load, &IDS, Rng::new(1))
    }

    /// Wakes the client by the last order to do so; what it asks, if it asks.
    fn wake(workload: &mut Workload, orders: &mut Vec<Order>) -> Option<(NodeId, ClientRequest)> {
        let turn = orders.iter().rev().find_map(|order| match order {
            Order::Wake { turn, .. } => Some(*turn),
            Order::Ask { .. } => None,
        });
        orders.clear();
        workload.wake(0, turn.unwrap(), orders);
        orders.iter().find_map(|order| match order {
            Order::Ask { to, request } => Some((*to, request.clone())),
            Order::Wake { .. } => None,
        })
    }

    fn answer(key: RequestKey, leader: Option<NodeId>, kind: AnswerKind) -> Answer {
        Answer { from: NodeId(1), key, leader, kind }
    }

    #[test]
    fn without_an_answer_the_same_request_is_sent_again() {
        let mut workload = workload(ClientProtocol::Connection);
        let mut orders = Vec::new();
        workload.begin(&mut orders);
        let (_, first) = wake(&mut workload, &mut orders).unwrap();
        let (_, second) = wake(&mut workload, &mut orders).unwrap();
        assert_eq!(first, second);
        let refused = AnswerKind::Refused(RefusalReason::NotLeader);
        workload.hear(&answer(first.key, Some(NodeId(3)), refused), &mut orders).unwrap();
        let (to, third) = wake(&mut workload, &mut orders).unwrap();
        assert_eq!((to, third), (NodeId(3), first.clone()));
        let done = AnswerKind::Done(Outcome::Done);
        workload.hear(&answer(first.key, Some(NodeId(3)), done), &mut orders).unwrap();
        assert_eq!(workload.unanswered().count(), 0);
        let (_, next) = wake(&mut workload, &mut orders).unwrap();
        assert_ne!(next.key, first.key);
    }

    #[test]
    fn under_the_courses_door_an_attempt_is_sent_once() {
        let mut workload = workload(ClientProtocol::Course);
        let mut orders = Vec::new();
        workload.begin(&mut orders);
        let (_, first) = wake(&mut workload, &mut orders).unwrap();
        assert!(wake(&mut workload, &mut orders).is_none(), "it waits");
        let refused = AnswerKind::Refused(RefusalReason::NotLeader);
        workload.hear(&answer(first.key, Some(NodeId(2)), refused), &mut orders).unwrap();
        let (to, second) = wake(&mut workload, &mut orders).unwrap();
        assert_eq!(to, NodeId(2));
        assert_ne!(second.key, first.key);
        let operation = |request: &ClientRequest| {
            format!("{:?}", Command::decode(&request.payload).unwrap().operation)
        };
        assert_eq!(operation(&first), operation(&second), "the same wish");
        assert_eq!(workload.unanswered().count(), 1);
    }

    #[test]
    fn an_account_that_holds_more_than_all_is_noticed() {
        let mut workload = workload(ClientProtocol::Connection);
        let mut orders = Vec::new();
        workload.clients[0].planned = [Wish::Get(account(0))].into();
        workload.begin(&mut orders);
        let (_, get) = wake(&mut workload, &mut orders).unwrap();
        let value = AnswerKind::Done(Outcome::Value(Some(Bytes::from_static(b"101"))));
        assert!(workload.hear(&answer(get.key, None, value), &mut orders).is_err());
    }
}
