//! The operations of the workload, which are drawn at random and encoded as requests.

use bytes::Bytes;

use super::{ClientAction, FIRST_CLIENT, OpenRequest, Workload};
use crate::kv::{BatchBuffer, CommandId, ItemsBuffer, Operation};
use crate::raft::{ClientRequest, RequestKind};
use crate::sim::checkers::linearizability::{Call, OperationId};
use crate::sim::keys::{ACCOUNT_START, COUNTER, EXPIRING, account, expires, is_account};
use crate::sim::machine::wall_clock::correct_time;
use crate::types::{ClientId, RequestId, RequestKey};

const INCR: CommandId = CommandId::of("incr");
const REVISIONS: CommandId = CommandId::of("revisions");
const TRANSFER: CommandId = CommandId::of("transfer");

/// An operation that a simulated client performs with one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ClientOperation {
    Get(String),
    Put(String, String),
    /// Sets a key to a value, with a TTL in milliseconds.
    PutWithTtl(String, String, u64),
    /// Sets a key to a value, with an expiration time in milliseconds since 1970.
    PutUntil(String, String, u64),
    Delete(String),
    Transfer(String, String, u64),
    OpenSession,
    /// Increments the counter in a client session, with the session id and the sequence number of
    /// the request, so that the increment is applied once.
    Increment(u64, u64),
    /// Reads the revisions of two accounts (numbers that change with each write). A transaction
    /// then transfers this amount between the accounts if the revisions are unchanged.
    Watch([String; 2], u64),
    /// Reads two watched accounts in a transaction: their keys, the revisions that they must still
    /// have, and the amount to transfer.
    ReadWatched([String; 2], [u64; 2], u64),
    /// Writes two watched accounts in a transaction: their keys, the revisions that they must still
    /// have, and their new balances.
    WriteWatched([String; 2], [u64; 2], [u64; 2]),
    /// Several reads, or several writes, in one batch.
    Several(Vec<ClientOperation>),
}

impl Workload {
    /// Returns a random next operation for a client.
    pub(super) fn draw_operation(&mut self, client: usize) -> ClientOperation {
        self.serial += 1;
        if self.load.sessions && client >= self.load.readers && self.rng.permille(300) {
            return self.draw_session_operation(client);
        }
        if self.load.expiring && self.rng.permille(400) {
            return self.draw_expiring();
        }
        if self.load.batches && self.rng.permille(300) {
            let count = self.rng.below(4) + 2;
            let first = self.draw_simple(client);
            let is_read = matches!(first, ClientOperation::Get(_));
            let mut operations = vec![first];
            while (operations.len() as u64) < count {
                let next = self.draw_simple(client);
                if matches!(next, ClientOperation::Get(_)) == is_read {
                    operations.push(next);
                }
            }
            return ClientOperation::Several(operations);
        }
        self.draw_simple(client)
    }

    /// Returns a random operation on keys that do not expire.
    fn draw_simple(&mut self, client: usize) -> ClientOperation {
        let key = format!("k{}", self.rng.below(self.load.keys));
        let number = self.rng.below(if client < self.load.readers { 35 } else { 100 });
        match number {
            0..35 => ClientOperation::Get(key),
            35..70 => {
                self.serial += u64::from(self.load.batches);
                let value = format!("v{}{:.<2$}", self.serial, "", self.load.padding);
                ClientOperation::Put(key, value)
            }
            70..80 => ClientOperation::Delete(key),
            _ if self.load.accounts == 0 => ClientOperation::Get(key),
            80..92 => {
                let (from, to) =
                    (self.rng.below(self.load.accounts), self.rng.below(self.load.accounts));
                let amount = self.rng.below(ACCOUNT_START);
                ClientOperation::Transfer(account(from), account(to), amount)
            }
            _ => ClientOperation::Get(account(self.rng.below(self.load.accounts))),
        }
    }

    /// Returns a random operation on a key that expires.
    fn draw_expiring(&mut self) -> ClientOperation {
        let key = format!("{EXPIRING}{}", self.rng.below(3));
        let value = format!("x{}", self.serial);
        let millis = *self.rng.choose(&[20, 100, 500, 2_000]);
        match self.rng.below(10) {
            0..2 => ClientOperation::PutWithTtl(key, value, millis),
            2..4 => ClientOperation::PutUntil(key, value, correct_time(self.now) + millis),
            _ => ClientOperation::Get(key),
        }
    }

    /// Returns a random operation that uses a transaction or a client session, in which numbered
    /// requests are applied once.
    fn draw_session_operation(&mut self, client: usize) -> ClientOperation {
        if self.load.accounts > 0 && self.rng.permille(500) {
            let from = self.rng.below(self.load.accounts);
            let to = self.rng.below(self.load.accounts);
            let amount = self.rng.below(ACCOUNT_START);
            return ClientOperation::Watch([account(from), account(to)], amount);
        }
        let client = &mut self.clients[client];
        let Some(session) = client.session else { return ClientOperation::OpenSession };
        // Sometimes, an answered request is repeated, as if its answer had been lost.
        if client.sequence == 0 || client.sum.is_some() && !self.rng.permille(300) {
            client.sequence += 1;
            client.sum = None;
        }
        ClientOperation::Increment(session, client.sequence)
    }

    /// Starts an operation of a client: encodes it as a request with a new key, and sends the
    /// request.
    pub(super) fn start_operation(
        &mut self,
        client: usize,
        client_operation: ClientOperation,
        out: &mut Vec<ClientAction>,
    ) {
        self.serial += 1;
        let mut id = [b'0'; 16];
        for (position, digit) in self.serial.to_string().bytes().rev().enumerate() {
            id[15 - position] = digit;
        }
        let number = FIRST_CLIENT + u32::try_from(client).expect("a few clients");
        let key = RequestKey { client: ClientId(number), request: RequestId(id) };
        let mut buffer = BatchBuffer::default();
        let alone = std::slice::from_ref(&client_operation);
        let operations = match &client_operation {
            ClientOperation::Several(operations) => operations,
            _ => alone,
        };
        let (mut kind, mut history_ids) = (RequestKind::Read, Vec::new());
        for operation in operations {
            let (is_read, history_id) = self.add_operation(operation, &mut buffer);
            kind = if is_read { kind } else { RequestKind::Write };
            history_ids.push(history_id);
        }
        let payload = buffer.finish(key, true);
        let request = ClientRequest { key, kind, payload };
        let open = OpenRequest { client, operation: client_operation, request, history_ids };
        self.open.insert(key, open);
        self.clients[client].waits_for = Some(key);
        self.send(client, key, out);
    }

    /// Adds an operation of a client to a batch. Returns whether it is a read, and its id in the
    /// history (`None` if the linearizability checker does not check it).
    fn add_operation(
        &mut self,
        client_operation: &ClientOperation,
        buffer: &mut BatchBuffer,
    ) -> (bool, Option<OperationId>) {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let (watched, list) = lists(client_operation);
        let increment = Operation::call(INCR, [COUNTER]).encode();
        let (amount, transfer);
        let (operation, call) = match client_operation {
            ClientOperation::OpenSession => (Operation::OpenSession, None),
            &ClientOperation::Increment(session, sequence) => {
                (Operation::Once { session, sequence, operation: &increment }, None)
            }
            ClientOperation::Watch(..) => (Operation::call(REVISIONS, list.items()), None),
            ClientOperation::ReadWatched(..) | ClientOperation::WriteWatched(..) => {
                let (watched, operations) = (watched.items(), list.items());
                (Operation::Transaction { watched, operations }, None)
            }
            ClientOperation::PutWithTtl(..) | ClientOperation::PutUntil(..) => {
                (Operation::call(CommandId::SET, list.items()), None)
            }
            ClientOperation::Get(name) => {
                (Operation::get(name.as_bytes()), Some((name, Call::Get)))
            }
            ClientOperation::Put(name, value) => (
                Operation::set(name.as_bytes(), value.as_bytes()),
                Some((name, Call::Put(bytes(value)))),
            ),
            ClientOperation::Delete(name) => {
                (Operation::del(name.as_bytes()), Some((name, Call::Delete)))
            }
            ClientOperation::Transfer(from, to, number) => {
                amount = number.to_string();
                transfer = [from.as_bytes(), to.as_bytes(), amount.as_bytes()];
                (Operation::call(TRANSFER, &transfer[..]), None)
            }
            ClientOperation::Several(_) => unreachable!("batches are not nested"),
        };
        // The linearizability checker knows neither transfers nor expirations.
        let call =
            call.filter(|(name, _)| !is_account(name.as_bytes()) && !expires(name.as_bytes()));
        let history_id = call.map(|(name, call)| self.history.call(bytes(name), call));
        buffer.push(&operation.encode());
        (operation.is_read(), history_id)
    }
}

/// Returns the two lists of a request, either of which may be empty: the watched keys with their
/// revisions, and the arguments of a command or the operations of a transaction.
fn lists(operation: &ClientOperation) -> (ItemsBuffer, ItemsBuffer) {
    let (mut watched, mut list) = (ItemsBuffer::default(), ItemsBuffer::default());
    match operation {
        ClientOperation::PutWithTtl(name, value, millis)
        | ClientOperation::PutUntil(name, value, millis) => {
            let is_ttl = matches!(operation, ClientOperation::PutWithTtl(..));
            let option = if is_ttl { "PX" } else { "PXAT" };
            for arg in [name, value, option, &millis.to_string()] {
                list.push(arg.as_bytes());
            }
        }
        ClientOperation::Watch(names, _) => {
            for name in names {
                list.push(name.as_bytes());
            }
        }
        ClientOperation::ReadWatched(names, revisions, _)
        | ClientOperation::WriteWatched(names, revisions, _) => {
            for (name, revision) in names.iter().zip(revisions) {
                watched.push(name.as_bytes());
                watched.push(&revision.to_le_bytes());
            }
        }
        _ => {}
    }
    match operation {
        ClientOperation::ReadWatched(names, ..) => {
            for name in names {
                list.push(&Operation::get(name.as_bytes()).encode());
            }
        }
        ClientOperation::WriteWatched(names, _, values) => {
            for (name, value) in names.iter().zip(values) {
                let value = value.to_string();
                list.push(&Operation::set(name.as_bytes(), value.as_bytes()).encode());
            }
            list.push(&Operation::get(names[0].as_bytes()).encode());
        }
        _ => {}
    }
    (watched, list)
}
