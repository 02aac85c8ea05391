//! Blocked clients: requests that wait until a key changes, such as `CHANGES` with `BLOCK`.
//!
//! Waiting is local to the replica, and not replicated. A request that finds nothing to return is
//! taken out of the table of requests in flight and listed here, so a waiting client costs memory
//! only. When a key changes for which it waits, the request is sent again like a new one, and may
//! have to wait again. A change cannot be missed: the applier reports the keys that have changed
//! together with or after the outcome that made the request wait, and reports begin before the
//! request is sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::{Bytes, BytesMut};

use crate::kv::{ChangedKeys, Outcome};
use crate::redis::{CommandNumber, Wait};
use crate::types::{ClientId, Instant};
use crate::wire::resp::Writer;

use super::Clients;
use super::in_flight::InFlight;
use super::prefixes::prefixes_of;
use super::request::Reply;

/// Maximum number of clients whose waits end by their timeouts in one pass (iteration of the
/// stage's loop).
const ENDED_MAX: usize = 1_000;

/// A client that waits for the change of a key.
#[derive(Debug)]
struct Waiting {
    client: ClientId,
    /// Sequence number of the slot of the request that waits.
    slot: u64,
    /// The command of the request, for the statistics.
    command: CommandNumber,
    /// The client waits for changes of keys with this prefix.
    prefix: Bytes,
    /// When the wait ends without a change; `None` for never.
    until: Option<Instant>,
    /// The operation to run when a key has changed.
    operation: Bytes,
    /// The outcome of the request if its wait ends without a change.
    outcome: Outcome,
}

/// The clients that wait for changes of keys, by the indexes of their connections.
///
/// Invariant: each client is in `by_index`, in `by_prefix`, and in `by_end` if its wait has an end.
#[derive(Debug, Default)]
pub(super) struct WaitingClients {
    by_index: HashMap<usize, Waiting>,
    by_prefix: BTreeMap<Bytes, BTreeSet<usize>>,
    by_end: BTreeSet<(Instant, usize)>,
    /// Whether no client may begin to wait any more, because the server stops.
    are_refused: bool,
    /// Whether the applier reports changed keys.
    pub(super) are_changes_reported: bool,
}

impl WaitingClients {
    pub(super) fn len(&self) -> usize {
        self.by_index.len()
    }

    fn add(&mut self, index: usize, waiting: Waiting) {
        self.by_prefix.entry(waiting.prefix.clone()).or_default().insert(index);
        self.by_end.extend(waiting.until.map(|until| (until, index)));
        let earlier = self.by_index.insert(index, waiting);
        assert!(earlier.is_none(), "client {index} waits twice");
    }

    fn remove(&mut self, index: usize) -> Option<Waiting> {
        let waiting = self.by_index.remove(&index)?;
        if let Some(until) = waiting.until {
            self.by_end.remove(&(until, index));
        }
        let others = self.by_prefix.get_mut(&waiting.prefix).expect("it has this client");
        others.remove(&index);
        if others.is_empty() {
            self.by_prefix.remove(&waiting.prefix);
        }
        Some(waiting)
    }

    /// Returns the clients that wait for changes of `key`.
    fn matching(&self, key: &[u8]) -> Vec<usize> {
        let found = prefixes_of(&self.by_prefix, key).into_iter();
        found.flat_map(|(_, clients)| clients).copied().collect()
    }

    /// Returns a client whose wait has ended at `now`; `None` if there is none.
    fn ended(&self, now: Instant) -> Option<usize> {
        self.by_end.first().filter(|(until, _)| *until <= now).map(|(_, index)| *index)
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

    /// If this outcome of the request says that there is nothing to return yet, makes the client
    /// wait and returns true. Returns false if the client must get its reply.
    pub(super) fn wait_if_empty(
        &mut self,
        sequence: u64,
        request: InFlight,
        outcome: &Outcome,
    ) -> bool {
        let InFlight { index, client: id, slot, command, .. } = request;
        let client = self.client(index);
        if client.blocked_on != Some(slot) || !client.is_in_flight(slot) {
            return false;
        }
        let Some(Wait { prefix, until, operation }) = client.connection.wait_after(outcome) else {
            return false;
        };
        let is_over = until.is_some_and(|until| self.context.now >= until);
        if is_over || self.waiting.are_refused || self.client(index).has_left() {
            return false;
        }
        self.in_flight.remove(sequence);
        let outcome = outcome.clone();
        let waiting = Waiting { client: id, slot, command, prefix, until, operation, outcome };
        self.waiting.add(index, waiting);
        self.count_blocked();
        self.count_memory(index);
        true
    }

    /// Sends the requests again that wait for changes of these keys.
    pub(crate) fn wake(&mut self, changed: &ChangedKeys) {
        if self.waiting.len() == 0 {
            return;
        }
        let mut woken: BTreeSet<usize> = BTreeSet::new();
        if changed.others {
            woken.extend(self.waiting.by_index.keys());
        }
        for change in &changed.keys {
            woken.extend(self.waiting.matching(&change.key));
        }
        let mut sent = Vec::new();
        for index in woken {
            let Some(waiting) = self.take_waiting(index) else { continue };
            let Waiting { client: id, slot, command, operation, .. } = waiting;
            let arrived_at = self.context.now;
            let request = InFlight { index, client: id, slot, arrived_at, command };
            let sequence = self.in_flight.add(request);
            self.client(index).resume(slot, sequence, operation);
            // It may be answered from this replica's own state.
            self.lagging_reads = true;
            self.mark_dispatch(index);
            sent.push(sequence);
        }
        // The permissions of their users may have changed while they waited.
        self.check_again(sent);
    }

    /// Returns the earliest time at which a wait ends; `None` if no wait has an end.
    pub(crate) fn next_wait_end(&self) -> Option<Instant> {
        self.waiting.by_end.first().map(|(until, _)| *until)
    }

    /// Replies to the clients whose waits have ended at `now`, up to a number of them.
    pub(crate) fn end_waits(&mut self, now: Instant) {
        for _ in 0..ENDED_MAX {
            let Some(index) = self.waiting.ended(now) else { return };
            self.end_wait(index);
        }
    }

    /// Replies to all clients that wait, and lets none wait from now on, because the server stops.
    /// Also ends a pause of the clients.
    pub(crate) fn refuse_waits(&mut self) {
        self.unpause_clients();
        self.waiting.are_refused = true;
        let indexes: Vec<usize> = self.waiting.by_index.keys().copied().collect();
        for index in indexes {
            self.end_wait(index);
        }
    }

    /// Ends the wait of the client at `index`, if it waits, as if nothing had changed in time.
    pub(super) fn end_wait(&mut self, index: usize) {
        let Some(waiting) = self.take_waiting(index) else { return };
        self.client(index).finish_wait(waiting.slot, &waiting.outcome);
        self.context.statistics.note_call(waiting.command, false);
        self.after_reply(index);
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
        if !with_error {
            self.end_wait(index);
            return true;
        }
        let waiting = self.take_waiting(index).expect("it was found");
        let client = self.client(index);
        let mut reply = BytesMut::new();
        // Redis's text.
        let text = b"UNBLOCKED client unblocked via CLIENT UNBLOCK";
        Writer::new(&mut reply, client.connection.version()).error(text);
        client.finish(waiting.slot, Reply::Encoded(reply.freeze()));
        self.context.statistics.note_call(waiting.command, true);
        self.context.statistics.count_error(text);
        self.after_reply(index);
        true
    }

    /// Ends the wait of the client at `index`, if it waits, without a reply: its connection is
    /// closed.
    pub(super) fn forget_wait(&mut self, index: usize) {
        drop(self.take_waiting(index));
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
        Waiting {
            client: ClientId(1),
            slot: 0,
            command: CommandNumber::default(),
            prefix: Bytes::copy_from_slice(prefix.as_bytes()),
            until: until.map(Instant),
            operation: Bytes::new(),
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
            let mut found = clients.matching(key.as_bytes());
            found.sort_unstable();
            let wanted = (0..prefixes.len()).filter(|index| key.starts_with(prefixes[*index]));
            assert!(found.into_iter().eq(wanted), "{key}");
        }
        (0..prefixes.len()).for_each(|index| drop(clients.remove(index)));
        assert!(clients.by_prefix.is_empty() && clients.matching(b"abc").is_empty());
    }

    #[test]
    fn waits_end_in_the_order_of_their_times() {
        let mut clients = WaitingClients::default();
        for (index, until) in [Some(30), None, Some(10), Some(20)].into_iter().enumerate() {
            clients.add(index, waiting("p", until));
        }
        assert_eq!(clients.ended(Instant(9)), None);
        let mut ended = Vec::new();
        while let Some(index) = clients.ended(Instant(20)) {
            clients.remove(index);
            ended.push(index);
        }
        assert_eq!((ended, clients.len()), (vec![2, 3], 2));
        assert!(clients.remove(0).is_some() && clients.remove(0).is_none());
        assert!(clients.by_end.is_empty() && clients.ended(Instant::MAX).is_none());
    }
}
