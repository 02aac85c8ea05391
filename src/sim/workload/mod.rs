//! The workload of simulated runs with faults: clients that read, write and delete keys, and
//! transfer amounts between accounts. A client resends a request without an answer under the same
//! key, follows redirects, and sometimes abandons a request. Calls and replies are recorded in a
//! history, which is checked at the end of the run.
//!
//! With the course's protocol a request is sent only once; a refused request is retried under a new
//! key, as the course's clients do.

mod operations;
mod replies;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use operations::ClientOperation;

use crate::raft::ClientRequest;
use crate::sim::checkers::linearizability::{History, OperationId};
use crate::sim::cluster::{Answer, AnswerKind, ClientProtocol};
use crate::sim::keys::{ACCOUNT_START, PROBE, account};
use crate::sim::rng::DurationRange;
use crate::sim::rng::Rng;
use crate::sim::violation::Violation;
use crate::types::{Instant, NodeId, RequestKey};

/// Id of the first simulated client. Smaller ids belong to replicas.
const FIRST_CLIENT: u32 = 0x100;

/// Parameters of the simulated clients' workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Number of clients. Each client waits for the answer to at most one request at a time.
    pub clients: usize,
    /// Number of clients that only read. They can detect stale reads: a client that also writes
    /// would wait forever for a deposed leader's answer to a write, but a client that only reads
    /// could go on and get stale values.
    pub readers: usize,
    /// Number of plain keys that clients read, write and delete.
    pub keys: u64,
    /// Number of padding bytes added to each written value.
    pub padding: usize,
    /// Number of accounts (keys with a balance) between which clients transfer amounts.
    pub accounts: u64,
    /// Range of the random time between an answer and the client's next request. Clients that only
    /// read wait an eighth of this time.
    pub think_time: DurationRange,
    /// Range of the random time that a client waits for an answer before it resends or abandons the
    /// request.
    pub timeout: DurationRange,
    /// Probability, in permille, that a client abandons an unanswered request instead of resending
    /// it.
    pub abandon_permille: u32,
    /// Whether clients also use transactions with watched keys, and client sessions, in which
    /// numbered requests are applied once.
    pub sessions: bool,
    /// Whether clients also write and read keys that expire.
    pub expiring: bool,
    /// Whether clients also send batches of several reads or several writes. Always false with the
    /// protocol of the university course's simulator, which has no batches.
    pub batches: bool,
}

/// An action that a simulated client asks the simulation to carry out.
#[derive(Debug)]
pub enum ClientAction {
    /// Send a client's request to a replica.
    Send {
        /// The replica to send the request to.
        to: NodeId,
        /// The client's request.
        request: ClientRequest,
    },
    /// Call [`Workload::wake`] for the client after some time.
    Wake {
        /// Index of the client in the workload.
        client: usize,
        /// Sequence number of the wake-up. Only a client's latest wake-up has an effect.
        turn: u32,
        /// Time from now to the wake-up.
        after: Duration,
    },
}

/// The clients of a simulated run with faults, and the history of their operations.
#[derive(Debug)]
pub struct Workload {
    protocol: ClientProtocol,
    load: Load,
    rng: Rng,
    /// The replicas that clients send their requests to.
    targets: Vec<NodeId>,
    clients: Vec<Client>,
    /// The unanswered requests, including those that clients have abandoned.
    open: BTreeMap<RequestKey, OpenRequest>,
    history: History,
    /// Counter that is incremented for each operation, to make values and request keys unique.
    serial: u64,
    /// The current virtual time.
    now: Instant,
    /// Whether clients start no more operations, because the run is ending.
    stopped: bool,
    /// Number of answers that clients have received, not counting refusals.
    answered: u64,
    /// Number of times that a client has resent a request.
    resent: u64,
    /// Number of refusals that clients have received.
    refused: u64,
}

#[derive(Debug, Default)]
struct Client {
    /// Key of the request that the client is waiting for; `None` if it is waiting for none.
    waits_for: Option<RequestKey>,
    /// Operations that the client performs next, before it draws further ones at random.
    planned: VecDeque<ClientOperation>,
    /// The leader named by the last answer to the client; `None` if the answer named no leader.
    leader: Option<NodeId>,
    /// Id of the client's open session; `None` if the client has no open session.
    session: Option<u64>,
    /// Sequence number of the client's latest request in its session; 0 before the first.
    sequence: u64,
    /// The counter's value according to the answer to the client's latest request in its session;
    /// `None` if that request is unanswered.
    sum: Option<i64>,
    /// Sequence number of the client's latest scheduled wake-up. Earlier ones have no effect.
    turn: u32,
    /// Whether the client's request was just refused, so that its next wake-up is a retry rather
    /// than a timeout.
    refused: bool,
}

/// A client's request that is not answered yet.
#[derive(Debug)]
struct OpenRequest {
    client: usize,
    operation: ClientOperation,
    request: ClientRequest,
    /// For each operation of the request, the id under which the history records it; `None` for
    /// operations that the linearizability checker does not check.
    history_ids: Vec<Option<OperationId>>,
}

impl Workload {
    /// Creates the clients, which send their requests to the replicas `targets`. The first client
    /// starts by writing the initial balances of the accounts.
    pub fn new(protocol: ClientProtocol, load: Load, targets: &[NodeId], rng: Rng) -> Workload {
        let mut clients: Vec<Client> = (0..load.clients).map(|_| Client::default()).collect();
        clients[0].planned.extend(
            (0..load.accounts).map(|i| ClientOperation::Put(account(i), ACCOUNT_START.to_string())),
        );
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
            answered: 0,
            resent: 0,
            refused: 0,
        }
    }

    /// Starts the clients by scheduling a first wake-up for each, after a random think time.
    pub fn start(&mut self, out: &mut Vec<ClientAction>) {
        for client in 0..self.clients.len() {
            let after = self.load.think_time.draw(&mut self.rng);
            self.wake_later(client, after, out);
        }
    }

    /// Makes the clients complete their current operations and start no others. From now on they
    /// send only to the replicas `targets` and to leaders that answers name.
    pub fn stop(&mut self, targets: &[NodeId]) {
        self.stopped = true;
        self.targets = targets.to_vec();
    }

    /// Makes one client write a new value and read it, to show that the cluster makes progress
    /// after the clients have been stopped.
    pub fn probe(&mut self, out: &mut Vec<ClientAction>) {
        self.serial += 1;
        let value = format!("probe {}", self.serial);
        let client =
            (0..self.clients.len()).find(|&client| self.clients[client].waits_for.is_none());
        let client = client.unwrap_or_else(|| {
            self.clients.push(Client::default());
            self.clients.len() - 1
        });
        let operations =
            [ClientOperation::Put(PROBE.into(), value), ClientOperation::Get(PROBE.into())];
        self.clients[client].planned.extend(operations);
        self.wake_later(client, Duration::ZERO, out);
    }

    /// Returns whether any client still has planned operations to perform.
    pub fn has_plans(&self) -> bool {
        self.clients.iter().any(|client| !client.planned.is_empty())
    }

    /// Returns the keys of the unanswered requests in ascending order, including those that clients
    /// have abandoned.
    pub fn unanswered(&self) -> impl Iterator<Item = RequestKey> {
        self.open.keys().copied()
    }

    /// Returns the keys of the requests that clients are waiting for.
    pub fn waiting(&self) -> impl Iterator<Item = RequestKey> {
        self.clients.iter().filter_map(|client| client.waits_for)
    }

    /// Makes a client give up a request that was lost in a replica's crash; it may have been
    /// applied. The client repeats the operation only if it is an increment or part of the final
    /// check for progress.
    pub fn give_up(&mut self, key: RequestKey, out: &mut Vec<ClientAction>) {
        if let Some(open) = self.open.remove(&key) {
            let client = &mut self.clients[open.client];
            client.waits_for = None;
            let repeats = match &open.operation {
                ClientOperation::Increment(..) => true,
                ClientOperation::Put(name, _) | ClientOperation::Get(name) => name == PROBE,
                _ => false,
            };
            if repeats {
                client.planned.push_front(open.operation);
            }
            self.wake_later(open.client, Duration::ZERO, out);
        }
    }

    /// Returns the history of the operations on single keys, for the linearizability checker.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Returns the number of answers that clients have received, not counting refusals, and the
    /// number of refusals.
    pub fn answer_counts(&self) -> (u64, u64) {
        (self.answered, self.refused)
    }

    /// Returns how many times clients have resent a request.
    pub fn resend_count(&self) -> u64 {
        self.resent
    }

    /// Wakes the client, which starts its next operation or handles the timeout of its request.
    /// Does nothing unless `turn` is the client's latest wake-up.
    pub fn wake(&mut self, client: usize, turn: u32, out: &mut Vec<ClientAction>) {
        if self.clients[client].turn != turn {
            return;
        }
        let Some(key) = self.clients[client].waits_for else { return self.begin_next(client, out) };
        let refused = std::mem::take(&mut self.clients[client].refused);
        // Abandoning a request after each of hundreds of refusals would leave more writes with an
        // unknown outcome than the linearizability checker can handle.
        if self.rng.permille(self.load.abandon_permille) && !self.stopped && !refused {
            self.clients[client].waits_for = None;
            if let Some(operation @ ClientOperation::Increment(..)) =
                self.open.get(&key).map(|open| open.operation.clone())
            {
                // An increment must be completed: the same session request under a new key.
                self.clients[client].planned.push_front(operation);
            }
            return self.begin_next(client, out);
        }
        if self.protocol == ClientProtocol::Connection {
            self.resent += 1;
            self.send(client, key, out);
        } else {
            // The course's protocol does not resend: the client keeps waiting.
            self.wait_for_answer(client, out);
        }
    }

    fn begin_next(&mut self, client: usize, out: &mut Vec<ClientAction>) {
        let operation = match self.clients[client].planned.pop_front() {
            Some(operation) => operation,
            None if self.stopped => return,
            None => self.draw_operation(client),
        };
        self.start_operation(client, operation, out);
    }

    /// Sets the current virtual time, from which clients compute expiration times.
    pub fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    fn send(&mut self, client: usize, key: RequestKey, out: &mut Vec<ClientAction>) {
        let leader = self.clients[client].leader.take();
        let to = leader.unwrap_or_else(|| *self.rng.choose(&self.targets));
        out.push(ClientAction::Send { to, request: self.open[&key].request.clone() });
        self.wait_for_answer(client, out);
    }

    fn wait_for_answer(&mut self, client: usize, out: &mut Vec<ClientAction>) {
        let after = self.load.timeout.draw(&mut self.rng);
        self.wake_later(client, after, out);
    }

    fn wake_later(&mut self, client: usize, after: Duration, out: &mut Vec<ClientAction>) {
        self.clients[client].turn += 1;
        out.push(ClientAction::Wake { client, turn: self.clients[client].turn, after });
    }

    /// Handles the arrival of a replica's answer at its client. Ignores duplicates.
    ///
    /// # Errors
    /// If the answer violates a safety rule.
    pub fn on_answer(
        &mut self,
        answer: &Answer,
        out: &mut Vec<ClientAction>,
    ) -> Result<(), Violation> {
        // The answer is a duplicate.
        let Some(open) = self.open.get(&answer.key) else { return Ok(()) };
        let client = open.client;
        let waits = self.clients[client].waits_for == Some(answer.key);
        if waits {
            self.clients[client].leader = answer.leader;
        }
        match &answer.kind {
            AnswerKind::Done(outcomes) => {
                self.answered += 1;
                let open = self.open.remove(&answer.key).expect("the request is open");
                self.check_replies(&open, outcomes)?;
                if waits {
                    self.clients[client].waits_for = None;
                    let think_time = self.load.think_time.draw(&mut self.rng);
                    let after =
                        if client < self.load.readers { think_time / 8 } else { think_time };
                    self.wake_later(client, after, out);
                } else if self.stopped && self.clients[client].waits_for.is_none() {
                    // The answer to an abandoned request may have planned another operation.
                    self.wake_later(client, Duration::ZERO, out);
                }
            }
            AnswerKind::Refused(_) => {
                self.refused += 1;
                if self.protocol == ClientProtocol::Course {
                    let open = self.open.remove(&answer.key).expect("the request is open");
                    for id in open.history_ids.into_iter().flatten() {
                        self.history.refuse(id);
                    }
                    if waits {
                        self.clients[client].waits_for = None;
                        self.clients[client].planned.push_front(open.operation);
                    }
                }
                if waits {
                    self.clients[client].refused = true;
                    // Retries soon if the answer named a leader, otherwise after up to 50 ms.
                    let millis = if answer.leader.is_some() { 1 } else { 50 };
                    let after = self.rng.duration(Duration::ZERO, Duration::from_millis(millis));
                    self.wake_later(client, after, out);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::kv::{Batch, Outcome};
    use crate::raft::RefusalReason;

    const IDS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn workload(protocol: ClientProtocol) -> Workload {
        let load = Load {
            clients: 1,
            readers: 0,
            keys: 2,
            padding: 0,
            accounts: 1,
            think_time: DurationRange::always(Duration::from_millis(1)),
            timeout: DurationRange::always(Duration::from_secs(1)),
            sessions: false,
            expiring: false,
            batches: false,
            abandon_permille: 0,
        };
        Workload::new(protocol, load, &IDS, Rng::new(1))
    }

    /// Performs the latest wake-up in `actions`. Returns the request that the client sends, if any,
    /// and the replica that it is sent to.
    fn wake(
        workload: &mut Workload,
        actions: &mut Vec<ClientAction>,
    ) -> Option<(NodeId, ClientRequest)> {
        let turn = actions.iter().rev().find_map(|action| match action {
            ClientAction::Wake { turn, .. } => Some(*turn),
            ClientAction::Send { .. } => None,
        });
        actions.clear();
        workload.wake(0, turn.unwrap(), actions);
        actions.iter().find_map(|action| match action {
            ClientAction::Send { to, request } => Some((*to, request.clone())),
            ClientAction::Wake { .. } => None,
        })
    }

    fn answer(key: RequestKey, leader: Option<NodeId>, kind: AnswerKind) -> Answer {
        Answer { from: NodeId(1), key, leader, kind }
    }

    #[test]
    fn simulated_client_resends_an_unanswered_request_unchanged() {
        let mut workload = workload(ClientProtocol::Connection);
        let mut actions = Vec::new();
        workload.start(&mut actions);
        let (_, first) = wake(&mut workload, &mut actions).unwrap();
        let (_, second) = wake(&mut workload, &mut actions).unwrap();
        assert_eq!(first, second);
        let refused = AnswerKind::Refused(RefusalReason::NotLeader);
        workload.on_answer(&answer(first.key, Some(NodeId(3)), refused), &mut actions).unwrap();
        let (to, third) = wake(&mut workload, &mut actions).unwrap();
        assert_eq!((to, third), (NodeId(3), first.clone()));
        let done = AnswerKind::Done(vec![Outcome::Done]);
        workload.on_answer(&answer(first.key, Some(NodeId(3)), done), &mut actions).unwrap();
        assert_eq!(workload.unanswered().count(), 0);
        let (_, next) = wake(&mut workload, &mut actions).unwrap();
        assert_ne!(next.key, first.key);
    }

    #[test]
    fn json_protocol_client_retries_under_a_new_request_id() {
        let mut workload = workload(ClientProtocol::Course);
        let mut actions = Vec::new();
        workload.start(&mut actions);
        let (_, first) = wake(&mut workload, &mut actions).unwrap();
        assert!(wake(&mut workload, &mut actions).is_none(), "the client waits");
        let refused = AnswerKind::Refused(RefusalReason::NotLeader);
        workload.on_answer(&answer(first.key, Some(NodeId(2)), refused), &mut actions).unwrap();
        let (to, second) = wake(&mut workload, &mut actions).unwrap();
        assert_eq!(to, NodeId(2));
        assert_ne!(second.key, first.key);
        let operation = |request: &ClientRequest| {
            let batch = Batch::decode(&request.payload).unwrap();
            format!("{:?}", batch.operations().collect::<Vec<_>>())
        };
        assert_eq!(operation(&first), operation(&second), "the same operation");
        assert_eq!(workload.unanswered().count(), 1);
    }

    #[test]
    fn simulated_client_detects_an_impossible_account_balance() {
        let mut workload = workload(ClientProtocol::Connection);
        let mut actions = Vec::new();
        workload.clients[0].planned = [ClientOperation::Get(account(0))].into();
        workload.start(&mut actions);
        let (_, get) = wake(&mut workload, &mut actions).unwrap();
        let value = AnswerKind::Done(vec![Outcome::Value(Some(Bytes::from_static(b"101")))]);
        assert!(workload.on_answer(&answer(get.key, None, value), &mut actions).is_err());
    }
}
