//! Blocked clients: requests that wait until a key changes, such as `BLPOP` or `CHANGES` with
//! `BLOCK`, or until other replicas have the log (`WAIT`).
//!
//! Waiting is local to the replica, and not replicated. A request that finds nothing to return is
//! taken out of the table of requests in flight and listed here, so a waiting client costs memory
//! only. When a key changes for which it waits, the request is sent again like a new one, and may
//! have to wait again. A change cannot be missed: the applier reports the keys that have changed
//! together with or after the outcome that made the request wait, and reports begin before the
//! request is sent.
//!
//! Requests that take something, such as `BLPOP`, and reads of streams wait in the queues of their
//! keys (`key_queues`). Each try of a request that takes something is an ordinary write: if the
//! connection is closed before the try is sent, nothing is taken. A try that was certainly not
//! applied, for example because the leader has changed, is repeated; the outcome of one that may
//! have been applied is uncertain, as that of any write.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::kv::{ChangedKeys, DatabaseId, Outcome};
use crate::redis::{CommandNumber, Taken, Wait, WaitOn, is_error};
use crate::types::{ClientId, Index, Instant};
use crate::wire::resp::Writer;

use super::Clients;
use super::in_flight::InFlight;
use super::key_queues::{KeyQueues, Woken};
use super::prefixes::prefixes_of;
use super::request::Reply;

/// Maximum number of clients whose waits end by their timeouts in one pass (iteration of the
/// stage's loop).
const ENDED_MAX: usize = 1_000;
/// Time after which a request is submitted again whose last try was refused without being applied,
/// for example because the leader has changed.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Interval at which the server checks the logs of the other replicas while clients wait for them.
const REPLICAS_INTERVAL: Duration = Duration::from_millis(2);
/// Redis's error for a client that waits when its server stops to serve it.
const FORCED: &[u8] =
    b"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";

/// A client that waits.
#[derive(Debug)]
struct Waiting {
    client: ClientId,
    /// Sequence number of the slot of the request that waits.
    slot: u64,
    /// The command of the request, for the statistics.
    command: CommandNumber,
    on: WaitedFor,
    /// When the wait ends; `None` for never.
    until: Option<Instant>,
    /// The outcome of the request if its wait ends now.
    outcome: Outcome,
}

/// What a client in the table waits for.
#[derive(Debug)]
enum WaitedFor {
    /// Changes of keys of a database with this prefix.
    Prefix(DatabaseId, Bytes),
    /// Changes of the keys in whose queues it is.
    Keys,
    /// It is in the queues of its keys, and its request is to be submitted again, for this key
    /// (`None` for all of its keys), at a time.
    Retry(Option<Bytes>, Instant),
    /// A number of other replicas whose logs are durable up to an index.
    Replicas(usize, Index),
}

impl Waiting {
    /// Returns the next time at which something is to be done for the client; `None` if there is
    /// none.
    fn due_at(&self) -> Option<Instant> {
        match &self.on {
            WaitedFor::Retry(_, at) => Some(self.until.map_or(*at, |until| until.min(*at))),
            _ => self.until,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// Returns the key for which the client was to try again; `None` if there is none.
    fn retries_at(&self) -> Option<Bytes> {
        match &self.on {
            WaitedFor::Retry(key, _) => key.clone(),
            _ => None,
        }
    }
}

/// The clients that wait, by the indexes of their connections.
///
/// Invariant: each client is in `by_index`, in `by_due` if it has a time at which something is to
/// be done, in `by_prefix` if it waits for a prefix, in `for_replicas` if it waits for replicas,
/// and otherwise in `queues`. Clients in `queues` whose requests are on their way through the log
/// are in none of the others.
#[derive(Debug, Default)]
pub(super) struct WaitingClients {
    by_index: HashMap<usize, Waiting>,
    by_prefix: BTreeMap<Bytes, BTreeSet<usize>>,
    by_due: BTreeSet<(Instant, usize)>,
    for_replicas: BTreeSet<usize>,
    queues: KeyQueues,
    /// The clients of `queues` that are to be woken, each with the key that has changed.
    woken: VecDeque<Woken>,
    /// Those that are to be woken when the clients are not paused any more.
    paused: VecDeque<Woken>,
    /// Indexes of the clients in `by_prefix` that are to be woken then.
    paused_by_prefix: BTreeSet<usize>,
    /// When the clients in `for_replicas` were last checked.
    replicas_checked_at: Instant,
    /// Whether no client may begin to wait any more, because the server stops.
    are_refused: bool,
    /// Whether the applier reports changed keys.
    pub(super) are_changes_reported: bool,
}

impl WaitingClients {
    pub(super) fn len(&self) -> usize {
        self.by_index.len()
    }

    /// Returns whether a client is to be woken when the clients are not paused any more.
    pub(super) fn has_paused(&self) -> bool {
        !self.paused.is_empty() || !self.paused_by_prefix.is_empty()
    }

    /// Returns the sequence number of the slot of a client that waits.
    fn slot_of(&self, index: usize) -> Option<u64> {
        self.by_index.get(&index).map(|waiting| waiting.slot)
    }

    fn add(&mut self, index: usize, waiting: Waiting) {
        match &waiting.on {
            WaitedFor::Prefix(_, prefix) => {
                self.by_prefix.entry(prefix.clone()).or_default().insert(index);
            }
            WaitedFor::Replicas(..) => {
                self.for_replicas.insert(index);
            }
            WaitedFor::Keys | WaitedFor::Retry(..) => {}
        }
        self.by_due.extend(waiting.due_at().map(|at| (at, index)));
        let earlier = self.by_index.insert(index, waiting);
        assert!(earlier.is_none(), "client {index} waits twice");
    }

    fn remove(&mut self, index: usize) -> Option<Waiting> {
        let waiting = self.by_index.remove(&index)?;
        if let Some(at) = waiting.due_at() {
            self.by_due.remove(&(at, index));
        }
        match &waiting.on {
            WaitedFor::Prefix(_, prefix) => {
                let others = self.by_prefix.get_mut(prefix).expect("it has this client");
                others.remove(&index);
                if others.is_empty() {
                    self.by_prefix.remove(prefix);
                }
            }
            WaitedFor::Replicas(..) => {
                self.for_replicas.remove(&index);
            }
            WaitedFor::Keys | WaitedFor::Retry(..) => {}
        }
        Some(waiting)
    }

    /// Returns the clients that wait for changes of `key` in `database`.
    fn matching(&self, database: DatabaseId, key: &[u8]) -> Vec<usize> {
        let found = prefixes_of(&self.by_prefix, key).into_iter();
        let is_of_database = |index: &usize| match self.by_index[index].on {
            WaitedFor::Prefix(of, _) => of == database,
            _ => false,
        };
        found.flat_map(|(_, clients)| clients).copied().filter(is_of_database).collect()
    }

    /// Returns a client for which something is to be done at `now`; `None` if there is none.
    fn due(&self, now: Instant) -> Option<usize> {
        self.by_due.first().filter(|(at, _)| *at <= now).map(|(_, index)| *index)
    }
}

impl Clients {
    /// Makes the applier report changed keys, before the request of a client that may have to wait
    /// for them is sent.
    pub(super) fn report_changes(&mut self) {
        self.waiting.are_changes_reported = true;
        self.board.set_reports_changes(true);
    }

    /// Ends the applier's reports of changed keys if no client caches values, waits for changes or
    /// is about to wait.
    pub(super) fn end_reports(&mut self) {
        if self.waiting.are_changes_reported
            && !self.tracking.is_active()
            && !self.connected.iter_mut().any(|(_, client)| client.connection.may_wait())
        {
            self.waiting.are_changes_reported = false;
            self.board.set_reports_changes(false);
        }
    }

    /// Prepares the client at `index` for its request in this slot, just added, which may have to
    /// wait. If other clients wait for the same keys already, it waits behind them without a try.
    pub(super) fn begin_blocking(&mut self, index: usize, slot: u64, command: CommandNumber) {
        let Some(Wait { on, until }) = self.client(index).connection.wait() else { return };
        self.report_changes();
        let WaitOn::Keys(keys) = on else { return };
        // An earlier request of the same client might change the keys.
        let must_try = self.client(index).front_slot() != slot || self.waiting.are_refused;
        if self.waiting.queues.join(index, keys, must_try) {
            return;
        }
        let client = self.client(index);
        let (id, sequence) = (client.id, client.park(slot));
        self.in_flight.remove(sequence);
        let (on, outcome) = (WaitedFor::Keys, Outcome::NoList);
        self.add_waiting(index, Waiting { client: id, slot, command, on, until, outcome });
    }

    /// If this outcome of the request says that there is nothing to return yet, makes the client
    /// wait and returns true. Returns false if the client must get its reply.
    pub(super) fn wait_if_empty(
        &mut self,
        sequence: u64,
        request: InFlight,
        outcome: &Outcome,
    ) -> bool {
        let InFlight { index, client: id, slot, command, .. } = request;
        let is_again = self.waiting.queues.last_outcome(index).is_some();
        let client = self.client(index);
        let finds_nothing = client.blocked_on == Some(slot)
            && client.is_in_flight(slot)
            && client.connection.must_wait(outcome, is_again);
        let Some(Wait { on, until }) = client.connection.wait().filter(|_| finds_nothing) else {
            return false;
        };
        client.connection.note_nothing_found(outcome);
        let has_left = client.has_left();
        let is_over = until.is_some_and(|until| self.context.now >= until);
        let on = match on {
            WaitOn::Prefix(database, prefix) => WaitedFor::Prefix(database, prefix),
            WaitOn::Replicas(count) => WaitedFor::Replicas(count, self.context.applied_index),
            WaitOn::Keys(_) => {
                if let Some(key) = self.waiting.queues.on_nothing_found(index, outcome)
                    && !is_over
                    && !has_left
                {
                    self.in_flight.remove(sequence);
                    let again = Waiting {
                        client: id,
                        slot,
                        command,
                        on: WaitedFor::Keys,
                        until,
                        outcome: outcome.clone(),
                    };
                    if self.is_try_paused(index, slot) {
                        self.waiting.paused.push_back((index, key));
                        self.add_waiting(index, again);
                        return true;
                    }
                    let sent = self.send_again(index, &again, Some(&key));
                    // The permissions of its user may have changed since the first try.
                    self.check_again(vec![sent]);
                    return true;
                }
                WaitedFor::Keys
            }
        };
        let is_refused = self.waiting.are_refused;
        if matches!(on, WaitedFor::Prefix(..)) && (is_over || has_left || is_refused) {
            return false;
        }
        let outcome = outcome.clone();
        let waiting = Waiting { client: id, slot, command, on, until, outcome };
        self.in_flight.remove(sequence);
        if is_refused && matches!(waiting.on, WaitedFor::Keys) {
            self.finish_with_error(index, &waiting, FORCED);
        } else if self.must_go_on(&waiting) && !is_over && !has_left {
            self.add_waiting(index, waiting);
        } else {
            self.finish_waiting(index, &waiting);
        }
        true
    }

    /// Returns whether a client that waits for other replicas must still wait; true for any other.
    /// A replica that is not the leader replies at once, because it does not know the others' logs.
    fn must_go_on(&self, waiting: &Waiting) -> bool {
        let WaitedFor::Replicas(count, index) = waiting.on else { return true };
        self.context.leads() && self.context.replicas_with(index) < count
    }

    fn add_waiting(&mut self, index: usize, waiting: Waiting) {
        self.waiting.add(index, waiting);
        self.count_blocked();
        self.count_memory(index);
    }

    /// Submits the request of a client again that was taken from those that wait. `woken_by` is the
    /// key that has changed; `None` if unknown. Returns the sequence number of the request.
    fn send_again(&mut self, index: usize, waiting: &Waiting, woken_by: Option<&[u8]>) -> u64 {
        let Waiting { client: id, slot, command, .. } = *waiting;
        let arrived_at = self.context.now;
        let sequence =
            self.in_flight.add(InFlight { index, client: id, slot, arrived_at, command });
        let client = self.connected.get_mut(index).expect("the client exists");
        let operation = client.connection.operation_again(&waiting.outcome, woken_by);
        // A read may be answered from this replica's own state.
        self.lagging_reads |= client.resume(slot, sequence, operation);
        self.mark_dispatch(index);
        sequence
    }

    /// Sends the requests again that wait for changes of these keys.
    pub(crate) fn wake(&mut self, changed: &ChangedKeys) {
        if !self.waiting.are_changes_reported {
            return;
        }
        let mut woken: BTreeSet<usize> = BTreeSet::new();
        if changed.others {
            woken.extend(self.waiting.by_prefix.values().flatten());
            self.waiting.queues.on_any_change(&mut self.waiting.woken);
        }
        for changed in &changed.keys {
            if !self.waiting.by_prefix.is_empty() {
                woken.extend(self.waiting.matching(changed.database, &changed.key));
            }
            self.waiting.queues.on_changed(changed, &mut self.waiting.woken);
        }
        self.wake_by_prefix(woken);
        self.wake_queued();
    }

    fn wake_by_prefix(&mut self, woken: BTreeSet<usize>) {
        let mut sent = Vec::new();
        for index in woken {
            let Some(slot) = self.waiting.slot_of(index) else { continue };
            if self.is_try_paused(index, slot) {
                self.waiting.paused_by_prefix.insert(index);
            } else if let Some(waiting) = self.take_waiting(index) {
                sent.push(self.send_again(index, &waiting, None));
            }
        }
        // The permissions of their users may have changed while they waited.
        self.check_again(sent);
    }

    /// Wakes the clients that were to be woken during a pause, which is over.
    pub(super) fn resume_waits(&mut self) {
        let mut by_prefix = std::mem::take(&mut self.waiting.paused_by_prefix);
        // Another client may have its place by now.
        let waits = |index: &usize| {
            let waiting = self.waiting.by_index.get(index);
            waiting.is_some_and(|waiting| matches!(waiting.on, WaitedFor::Prefix(..)))
        };
        by_prefix.retain(waits);
        self.wake_by_prefix(by_prefix);
        let paused = std::mem::take(&mut self.waiting.paused);
        self.waiting.woken.extend(paused);
        self.wake_queued();
    }

    /// Submits the requests of the clients that were chosen to be woken in the queues of their
    /// keys. A client whose connection is closed takes nothing, and the next one has its turn.
    fn wake_queued(&mut self) {
        let mut sent = Vec::new();
        while let Some((index, key)) = self.waiting.woken.pop_front() {
            // Another client may have its place by now.
            if !self.waiting.queues.is_trying(index) {
                continue;
            }
            let Some(slot) = self.waiting.slot_of(index) else { continue };
            if self.is_try_paused(index, slot) {
                self.waiting.paused.push_back((index, key));
                continue;
            }
            let waiting = self.take_waiting(index).expect("it waits");
            if self.client(index).is_gone() {
                self.finish_waiting(index, &waiting);
                self.mark_read(index);
            } else {
                sent.push(self.send_again(index, &waiting, Some(&key)));
            }
        }
        self.check_again(sent);
    }

    /// If the request with this sequence number, which was certainly not applied, is that of a
    /// client that has waited before, makes the client wait again, and returns true.
    pub(super) fn wait_again(&mut self, sequence: u64) -> bool {
        let Some(request) = self.in_flight.get(sequence) else { return false };
        let InFlight { index, client: id, slot, command, .. } = request;
        let now = self.context.now;
        let Some(outcome) = self.waiting.queues.last_outcome(index) else { return false };
        let Some(client) = self.connected.get_mut(index).filter(|client| client.id == id) else {
            return false;
        };
        let Some(Wait { until, .. }) = client.connection.wait() else { return false };
        client.park(slot);
        self.in_flight.remove(sequence);
        let key = self.waiting.queues.stop_trying(index);
        let on = WaitedFor::Retry(key, now + RETRY_DELAY);
        let waiting = Waiting { client: id, slot, command, on, until, outcome };
        if self.waiting.are_refused {
            self.finish_with_error(index, &waiting, FORCED);
        } else if until.is_some_and(|until| now >= until) {
            self.finish_waiting(index, &waiting);
        } else {
            self.add_waiting(index, waiting);
        }
        true
    }

    /// Submits the requests of clients that follow redirects and wait for keys, so that they are
    /// redirected to the new leader.
    pub(super) fn try_redirected(&mut self) {
        let waiting = self.waiting.by_index.keys().copied();
        let connected = &mut self.connected;
        let follows = |index: &usize| {
            connected.get_mut(*index).is_some_and(|client| client.connection.follows_redirects())
        };
        for index in waiting.filter(follows).collect::<Vec<_>>() {
            if self.waiting.queues.begin_try(index, None) {
                let waiting = self.take_waiting(index).expect("it waits");
                self.send_again(index, &waiting, None);
            }
        }
    }

    /// Returns the earliest time at which [`Clients::end_waits`] has something to do; `None` if
    /// there is none.
    pub(crate) fn next_wait_end(&self) -> Option<Instant> {
        let waiting = &self.waiting;
        let due = waiting.by_due.first().map(|(at, _)| *at);
        let is_checked = !waiting.for_replicas.is_empty();
        let replicas = is_checked.then(|| waiting.replicas_checked_at + REPLICAS_INTERVAL);
        let woken = (!waiting.woken.is_empty()).then_some(Instant::ZERO);
        [due, replicas, woken].into_iter().flatten().min()
    }

    /// Replies to the clients whose waits have ended at `now`, up to a number of them, and submits
    /// the requests that are due to be tried again.
    pub(crate) fn end_waits(&mut self, now: Instant) {
        // Those that were to be woken during a pause have their turn first.
        self.end_pause(now);
        for _ in 0..ENDED_MAX {
            let Some(index) = self.waiting.due(now) else { break };
            self.on_due(index, now);
        }
        if !self.waiting.for_replicas.is_empty()
            && now >= self.waiting.replicas_checked_at + REPLICAS_INTERVAL
        {
            self.waiting.replicas_checked_at = now;
            for index in self.waiting.for_replicas.clone() {
                if !self.must_go_on(&self.waiting.by_index[&index]) {
                    self.end_wait(index);
                }
            }
        }
        self.wake_queued();
    }

    fn on_due(&mut self, index: usize, now: Instant) {
        let slot = self.waiting.by_index[&index].slot;
        let is_paused = self.is_try_paused(index, slot);
        let waiting = &self.waiting.by_index[&index];
        if self.waiting.queues.is_trying(index) && !is_paused {
            // Its turn has just come.
            return self.wake_queued();
        }
        if is_paused && !waiting.is_over(now) {
            let mut waiting = self.take_waiting(index).expect("it waits");
            waiting.on = WaitedFor::Retry(waiting.retries_at(), now + RETRY_DELAY);
            return self.add_waiting(index, waiting);
        }
        if is_paused {
            return self.end_wait(index);
        }
        // One that has waited behind others has not looked at its keys.
        let has_looked = self.waiting.queues.has_tried(index);
        let key = match &waiting.on {
            WaitedFor::Retry(key, _) if !waiting.is_over(now) => key.clone(),
            WaitedFor::Keys | WaitedFor::Retry(..) if !has_looked => None,
            _ => return self.end_wait(index),
        };
        let waiting = self.take_waiting(index).expect("it waits");
        let begins = self.waiting.queues.begin_try(index, key.clone());
        assert!(begins, "client {index} tries already");
        let sequence = self.send_again(index, &waiting, key.as_deref());
        self.check_again(vec![sequence]);
    }

    /// Replies to all clients that wait, and lets none wait from now on, because the server stops.
    /// Also ends a pause of the clients.
    pub(crate) fn refuse_waits(&mut self) {
        self.unpause_clients();
        self.waiting.are_refused = true;
        let indexes: Vec<usize> = self.waiting.by_index.keys().copied().collect();
        for index in indexes {
            if self.waiting.queues.contains(index) {
                let waiting = self.take_waiting(index).expect("it waits");
                self.finish_with_error(index, &waiting, FORCED);
            } else {
                self.end_wait(index);
            }
        }
    }

    /// Ends the wait of the client at `index`, if it waits, as if nothing had changed in time.
    pub(super) fn end_wait(&mut self, index: usize) {
        if let Some(waiting) = self.take_waiting(index) {
            self.finish_waiting(index, &waiting);
        }
    }

    /// Replies to a client that was taken from those that wait, as if nothing had changed in time.
    fn finish_waiting(&mut self, index: usize, waiting: &Waiting) {
        let outcome = match waiting.on {
            WaitedFor::Replicas(_, index) => {
                let count = i64::try_from(self.context.replicas_with(index));
                Outcome::Integer(count.unwrap_or(i64::MAX))
            }
            // A value of another type does not end a wait.
            WaitedFor::Keys | WaitedFor::Retry(..) if is_error(&waiting.outcome) => Outcome::NoList,
            _ => waiting.outcome.clone(),
        };
        self.client(index).finish_wait(waiting.slot, &outcome);
        self.context.statistics.note_call(waiting.command, false);
        self.leave_queues(index, Taken::Nothing, waiting.retries_at());
        self.after_reply(index);
    }

    /// Replies with an error to a client that was taken from those that wait.
    fn finish_with_error(&mut self, index: usize, waiting: &Waiting, text: &[u8]) {
        let client = self.client(index);
        let mut reply = BytesMut::new();
        Writer::new(&mut reply, client.connection.version()).error(text);
        client.finish(waiting.slot, Reply::Encoded(reply.freeze()));
        self.context.statistics.note_call(waiting.command, true);
        self.context.statistics.count_error(text);
        self.leave_queues(index, Taken::Nothing, waiting.retries_at());
        self.after_reply(index);
    }

    /// Removes a client from the queues of its keys, if it is there, because its request has a
    /// reply or its connection is closed. `taken` is what the request has taken.
    pub(super) fn leave_queues(&mut self, index: usize, taken: Taken, due_at: Option<Bytes>) {
        let WaitingClients { queues, woken, .. } = &mut self.waiting;
        queues.leave(index, taken, due_at, woken);
    }

    /// Runs `CLIENT UNBLOCK` for the client at `index`: ends the wait of the client with this
    /// connection id, and replies whether it waited.
    pub(super) fn reply_to_unblock(&mut self, index: usize, id: u64, with_error: bool) {
        let unblocked = self.unblock(id, with_error);
        let version = self.client(index).connection.version();
        Writer::new(&mut self.reply, version).integer(unblocked.into());
        self.send_reply(index);
    }

    /// Ends the wait of the client with this connection id: as if nothing had changed in time, or
    /// with an error. Returns false if it does not wait.
    fn unblock(&mut self, id: u64, with_error: bool) -> bool {
        let mut indexes = self.waiting.by_index.keys().copied();
        let connected = &mut self.connected;
        let is_it = |index: &usize| {
            connected.get_mut(*index).is_some_and(|client| client.connection.id() == id)
        };
        let Some(index) = indexes.find(is_it) else { return false };
        let waiting = self.take_waiting(index).expect("it was found");
        if with_error {
            // Redis's text.
            let text = b"UNBLOCKED client unblocked via CLIENT UNBLOCK";
            self.finish_with_error(index, &waiting, text);
        } else {
            self.finish_waiting(index, &waiting);
        }
        true
    }

    /// Ends the wait of the client at `index`, if it waits, without a reply: its connection is
    /// closed.
    pub(super) fn forget_wait(&mut self, index: usize) {
        let waiting = self.take_waiting(index);
        self.leave_queues(index, Taken::Nothing, waiting.and_then(|waiting| waiting.retries_at()));
    }

    /// Removes the client at `index` from those that wait.
    fn take_waiting(&mut self, index: usize) -> Option<Waiting> {
        let waiting = self.waiting.remove(index)?;
        self.count_blocked();
        let client = self.connected.get_mut(index).map(|client| client.id);
        assert!(client.is_none_or(|id| id == waiting.client), "the wait of another client");
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(prefix: &str, until: Option<u64>) -> Waiting {
        in_database(DatabaseId::FIRST, prefix, until)
    }

    fn in_database(database: DatabaseId, prefix: &str, until: Option<u64>) -> Waiting {
        Waiting {
            client: ClientId(1),
            slot: 0,
            command: CommandNumber::default(),
            on: WaitedFor::Prefix(database, Bytes::copy_from_slice(prefix.as_bytes())),
            until: until.map(Instant),
            outcome: Outcome::Integer(0),
        }
    }

    #[test]
    fn clients_are_found_by_all_prefixes_of_a_key() {
        let mut clients = WaitingClients::default();
        let prefixes = ["", "a", "a", "ab", "abc", "abd", "b", "ab\u{7f}", "abcdef", "aa"];
        for (index, prefix) in prefixes.into_iter().enumerate() {
            clients.add(index, waiting(prefix, None));
        }
        for key in ["", "a", "ab", "abc", "abcd", "abcdef", "abcdefg", "abe", "b", "c", "aa", "az"]
        {
            let mut found = clients.matching(DatabaseId::FIRST, key.as_bytes());
            found.sort_unstable();
            let wanted = (0..prefixes.len()).filter(|index| key.starts_with(prefixes[*index]));
            assert!(found.into_iter().eq(wanted), "{key}");
        }
        (0..prefixes.len()).for_each(|index| drop(clients.remove(index)));
        let found = clients.matching(DatabaseId::FIRST, b"abc");
        assert!(clients.by_prefix.is_empty() && found.is_empty());
    }

    #[test]
    fn clients_are_found_only_for_keys_of_their_database() {
        let mut clients = WaitingClients::default();
        let id = |number: usize| DatabaseId::new(number).expect("a database");
        for index in 0..4 {
            clients.add(index, in_database(id(index / 2), "k", None));
        }
        assert_eq!(clients.matching(id(0), b"key"), [0, 1]);
        assert_eq!(clients.matching(id(1), b"key"), [2, 3]);
        assert!(clients.matching(id(2), b"key").is_empty());
    }

    #[test]
    fn waits_end_in_the_order_of_their_times() {
        let mut clients = WaitingClients::default();
        for (index, until) in [Some(30), None, Some(10), Some(20)].into_iter().enumerate() {
            clients.add(index, waiting("p", until));
        }
        assert_eq!(clients.due(Instant(9)), None);
        let mut ended = Vec::new();
        while let Some(index) = clients.due(Instant(20)) {
            clients.remove(index);
            ended.push(index);
        }
        assert_eq!((ended, clients.len()), (vec![2, 3], 2));
        assert!(clients.remove(0).is_some() && clients.remove(0).is_none());
        assert!(clients.by_due.is_empty() && clients.due(Instant::MAX).is_none());
    }
}
