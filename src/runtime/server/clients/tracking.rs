//! Client-side caching: which clients cache values, and the invalidations that they get.
//!
//! The applier reports changed keys with their revisions, and says for each batch of answers in
//! which state they were run. So the answers and the changes are handled in the order of the log:
//! a client gets the invalidation of a change before any reply that reflects the change, and after
//! any earlier reply. A key is added to the table together with the reply that a client may cache.
//! Where the order is not known, for example because reads of one batch were run in several passes
//! of the applier, the keys are invalidated right after the reply.
//!
//! A client's own write is answered before the invalidation of the keys that it has changed, as in
//! Redis.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use crate::kv::{ChangedKeys, Operation, Outcome, Refusal, read_keys};
use crate::raft::RequestKind;
use crate::redis::{SubscriberId, Tracking, TrackingStatus, write_invalidation};
use crate::types::RequestKey;
use crate::wire::resp::{Version, Writer};

use super::Clients;
use super::pubsub::subscriber_id;
use super::tracking_table::TrackingTable;
use crate::runtime::server::clients::in_flight::InFlight;

/// Maximum number of keys that are evicted from the table after a batch of replies.
const EVICTED_MAX: usize = 10_000;

/// The state of client-side caching of all clients.
#[derive(Debug, Default)]
pub(super) struct TrackingClients {
    /// The prefixes of each client that caches values, by the index of its connection. Empty for a
    /// client that is not in broadcasting mode.
    clients: BTreeMap<usize, Vec<Bytes>>,
    table: TrackingTable,
    /// The changes that belong to the replies being handled, and how many of them have been sent.
    changed: ChangedKeys,
    sent: usize,
    /// Whether a client has got a value that it may cache since all keys were invalidated.
    is_any_cached: bool,
    /// The highest revision of a change that has been sent.
    sent_revision: u64,
    answers: Answers,
    /// The revision of a write that has just been answered, and the client that sent it.
    writer: Option<(u64, SubscriberId)>,
    /// Number of messages sent since the process started.
    invalidations: u64,
}

/// The answers that are being handled: those of one batch of requests.
#[derive(Debug, Clone, Copy, Default)]
struct Answers {
    /// The revision that the applier has reported for the batch; `None` if there is none.
    reported: Option<u64>,
    /// The revision of the state in which the current request was run, or of the current write;
    /// `None` if it is not known.
    current: Option<u64>,
    are_writes: bool,
}

impl TrackingClients {
    /// Returns whether any client caches values.
    pub(super) fn is_active(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Returns the estimated memory usage of the table of keys, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        self.table.bytes()
    }

    fn status(&self) -> TrackingStatus {
        TrackingStatus {
            clients: self.clients.len() as u64,
            keys: self.table.key_count() as u64,
            items: self.table.item_count() as u64,
            prefixes: self.table.prefix_count() as u64,
            invalidations: self.invalidations,
        }
    }
}

/// The changes that a broadcast is about: the keys with one prefix, each with the client that has
/// changed it, if it is the sender of the latest write.
type Broadcast = BTreeMap<Bytes, Option<SubscriberId>>;

impl Clients {
    /// Updates the tables after the client at `index` has begun or ended to cache values or to be a
    /// monitor.
    #[cold]
    pub(super) fn follow_observation(&mut self, index: usize) {
        let client = self.connected.get_mut(index).expect("the client exists");
        client.observed = client.connection.observation_changes();
        let is_monitor = client.connection.is_monitor();
        let tracking = client.connection.tracking();
        let prefixes = tracking.map(|tracking| {
            tracking.prefixes().into_iter().flatten().cloned().collect::<Vec<Bytes>>()
        });
        self.set_monitor(index, is_monitor);
        self.forget_tracking(index);
        if let Some(prefixes) = prefixes {
            let tracking = &mut self.tracking;
            for prefix in &prefixes {
                tracking.table.add_prefix(prefix, index);
            }
            tracking.clients.insert(index, prefixes);
            self.report_changes();
        }
        self.context.tracking = self.tracking.status();
        self.count_memory(index);
    }

    /// Removes the client at `index` from those that cache values.
    pub(super) fn forget_tracking(&mut self, index: usize) {
        let tracking = &mut self.tracking;
        let Some(prefixes) = tracking.clients.remove(&index) else { return };
        for prefix in &prefixes {
            tracking.table.remove_prefix(prefix, index);
        }
        if !tracking.is_active() {
            tracking.table.clear();
        }
        self.context.tracking = self.tracking.status();
    }

    /// Begins to handle a batch of replies from the applier, with the changes of the same time.
    pub(crate) fn begin_changes(&mut self, changed: ChangedKeys) {
        let others = changed.others;
        self.tracking.changed = changed;
        self.tracking.sent = 0;
        if others && self.tracking.is_active() {
            self.invalidate_all();
        }
    }

    /// Ends the handling of a batch of replies: sends the remaining invalidations, and those of the
    /// keys for which the table has no space. Returns the changes.
    pub(crate) fn end_changes(&mut self) -> ChangedKeys {
        if self.tracking.is_active() {
            self.send_changes_before(u64::MAX);
            if self.tracking.changed.others && self.tracking.is_any_cached {
                // Again, because the values may have been read before that.
                self.invalidate_all();
            }
            self.limit_table();
            self.context.tracking = self.tracking.status();
        }
        self.tracking.answers.reported = None;
        std::mem::take(&mut self.tracking.changed)
    }

    /// Passes the outcomes of the batch with this key to the clients that sent the batch's
    /// requests. `revision` is that which the applier has reported.
    pub(crate) fn on_answer(
        &mut self,
        key: RequestKey,
        outcomes: Vec<Outcome>,
        revision: Option<u64>,
    ) {
        self.tracking.answers.reported = revision;
        self.on_outcomes(key, outcomes);
    }

    /// Begins to handle the outcomes of a batch of requests.
    pub(super) fn begin_answers(&mut self, kind: RequestKind, outcomes: &[Outcome]) {
        let are_writes = kind == RequestKind::Write;
        let reported = self.tracking.answers.reported;
        let current = if are_writes {
            // Such an operation may or may not have a number.
            let refused = Outcome::Refused(Refusal::UsersChanged);
            let are_numbered = !outcomes.contains(&refused);
            let count = outcomes.len() as u64;
            reported.filter(|_| are_numbered).map(|revision| revision.saturating_sub(count))
        } else {
            reported
        };
        self.tracking.answers = Answers { reported, current, are_writes };
        match current {
            Some(_) if are_writes => {}
            Some(revision) => self.send_changes_before(revision.saturating_add(1)),
            // The replies may reflect any of the changes.
            None => self.send_changes_before(u64::MAX),
        }
    }

    /// Sends the invalidations that the next reply of the batch must not overtake.
    pub(super) fn begin_answer(&mut self) {
        let answers = &mut self.tracking.answers;
        if answers.are_writes {
            answers.current = answers.current.map(|revision| revision + 1);
            if let Some(revision) = answers.current {
                self.send_changes_before(revision);
            }
            self.tracking.writer = None;
        }
    }

    /// Sends the invalidations of the last write of a batch.
    pub(super) fn end_answers(&mut self) {
        let Answers { current, are_writes, .. } = self.tracking.answers;
        if are_writes && let Some(revision) = current {
            self.send_changes_before(revision.saturating_add(1));
        }
        self.tracking.writer = None;
    }

    /// Records that the client of `request` is the sender of the write that is being answered.
    pub(super) fn note_writer(&mut self, request: InFlight) {
        let Answers { current, are_writes, .. } = self.tracking.answers;
        if are_writes {
            let client = subscriber_id(request.index, request.client);
            self.tracking.writer = current.map(|revision| (revision, client));
        }
    }

    /// Returns the keys whose values the client may cache after the reply to `request`.
    pub(super) fn cached_keys(&mut self, request: InFlight) -> Vec<Bytes> {
        let client = self.connected.get_mut(request.index);
        let Some(client) = client.filter(|client| client.id == request.client) else {
            return Vec::new();
        };
        let operation = client.cached_operation(request.slot);
        let operation = operation.and_then(|operation| Operation::decode(operation).ok());
        operation.map_or_else(Vec::new, |operation| {
            read_keys(&operation).into_iter().map(Bytes::copy_from_slice).collect()
        })
    }

    /// Records that the client of `request` has just been sent the values of these keys.
    pub(super) fn track(&mut self, request: InFlight, keys: Vec<Bytes>) {
        if keys.is_empty() || !self.tracking.clients.contains_key(&request.index) {
            return;
        }
        self.tracking.is_any_cached = true;
        let TrackingClients { sent_revision, answers, .. } = self.tracking;
        let is_known = answers.current.is_some_and(|revision| {
            // The changes of a write itself follow its reply.
            if answers.are_writes { revision > sent_revision } else { revision >= sent_revision }
        });
        let prefixes = &self.tracking.clients[&request.index];
        let client = self.connected.get_mut(request.index).expect("it has just got a reply");
        let tracking = client.connection.tracking();
        let broadcasts = tracking.is_some_and(|tracking| tracking.prefixes().is_some());
        if !is_known {
            let has_prefix =
                |key: &&Bytes| !broadcasts || prefixes.iter().any(|prefix| key.starts_with(prefix));
            let keys: Vec<Bytes> = keys.iter().filter(has_prefix).cloned().collect();
            for key in keys {
                self.invalidate(request.index, Some(&[&key]));
            }
            return;
        }
        if broadcasts {
            return;
        }
        let reader = subscriber_id(request.index, request.client);
        let connected = &mut self.connected;
        for key in keys {
            self.tracking.table.add(key, reader, |other| {
                let index = index_of(*other);
                connected.get_mut(index).is_some_and(|it| subscriber_id(index, it.id) == *other)
            });
        }
    }

    /// Sends the invalidations of the changes with revisions below `revision`.
    fn send_changes_before(&mut self, revision: u64) {
        let from = self.tracking.sent;
        let rest = &self.tracking.changed.changes[from..];
        let count = rest.iter().take_while(|change| change.revision < revision).count();
        if count == 0 {
            return;
        }
        let changes = std::mem::take(&mut self.tracking.changed.changes);
        self.tracking.sent = from + count;
        let mut broadcasts: BTreeMap<Bytes, (BTreeSet<usize>, Broadcast)> = BTreeMap::new();
        for change in &changes[from..from + count] {
            self.tracking.sent_revision = self.tracking.sent_revision.max(change.revision);
            let writer = self.tracking.writer.filter(|(at, _)| *at == change.revision);
            let writer = writer.map(|(_, writer)| writer);
            for (prefix, clients) in self.tracking.table.prefixes_of(&change.key) {
                let new = || (clients.clone(), Broadcast::new());
                let (_, keys) = broadcasts.entry(prefix.clone()).or_insert_with(new);
                keys.insert(change.key.clone(), writer);
            }
            let readers = self.tracking.table.take(&change.key);
            self.invalidate_for(&readers, &change.key, writer);
        }
        self.tracking.changed.changes = changes;
        for (clients, changed) in broadcasts.values() {
            for index in clients {
                self.broadcast(*index, changed);
            }
        }
    }

    /// Sends the invalidation of a key to its readers, except to `writer` if that does not want to
    /// know of its own changes.
    fn invalidate_for(
        &mut self,
        readers: &[SubscriberId],
        key: &Bytes,
        writer: Option<SubscriberId>,
    ) {
        for reader in readers {
            let index = index_of(*reader);
            let Some(client) = self.connected.get_mut(index) else { continue };
            let is_reader = subscriber_id(index, client.id) == *reader;
            let tracking = client.connection.tracking().filter(|it| it.prefixes().is_none());
            let Some(tracking) = tracking.filter(|_| is_reader) else { continue };
            if !(tracking.is_without_loop() && writer == Some(*reader)) {
                self.invalidate(index, Some(&[key]));
            }
        }
    }

    /// Sends the client at `index`, which is in broadcasting mode, the invalidations of keys with
    /// one of its prefixes.
    fn broadcast(&mut self, index: usize, changed: &Broadcast) {
        let Some(client) = self.connected.get_mut(index) else { return };
        let id = subscriber_id(index, client.id);
        let tracking = client.connection.tracking();
        let is_without_loop = tracking.is_some_and(Tracking::is_without_loop);
        let is_told = |writer: &Option<SubscriberId>| !is_without_loop || *writer != Some(id);
        let keys = changed.iter().filter(|(_, writer)| is_told(writer));
        let keys: Vec<&[u8]> = keys.map(|(key, _)| &key[..]).collect();
        if !keys.is_empty() {
            self.invalidate(index, Some(&keys));
        }
    }

    /// Tells all clients that cache values that every key may have changed, and clears the table.
    fn invalidate_all(&mut self) {
        self.tracking.table.clear();
        self.tracking.is_any_cached = false;
        let indexes: Vec<usize> = self.tracking.clients.keys().copied().collect();
        for index in indexes {
            self.invalidate(index, None);
        }
    }

    /// Evicts keys from the table until it is within its limits, with invalidations.
    fn limit_table(&mut self) {
        let keys_max = self.settings.tracked_keys_max().unwrap_or(usize::MAX);
        let bytes_max = self.settings.clients_bytes_max() / 4;
        for _ in 0..EVICTED_MAX {
            let Some((key, readers)) = self.tracking.table.evict(keys_max, bytes_max) else {
                return;
            };
            self.invalidate_for(&readers, &key, None);
        }
    }

    /// Sends the client at `index`, or the connection that gets its invalidations, the message that
    /// these keys have changed, or all (`None`).
    fn invalidate(&mut self, index: usize, keys: Option<&[&[u8]]>) {
        let Some(client) = self.connected.get_mut(index) else { return };
        let Some(tracking) = client.connection.tracking() else { return };
        let redirect = tracking.redirect();
        let target = redirect.map_or(Some(&index), |id| self.context.client_indexes.get(&id));
        let mut message = BytesMut::new();
        let Some(target) = target.copied() else {
            let mut writer = Writer::new(&mut message, client.connection.version());
            client.connection.break_redirect(&mut writer);
            if client.connection.version() == Version::Three {
                self.send_invalidation(index, &message.freeze());
            }
            return;
        };
        let Some(client) = self.connected.get_mut(target) else { return };
        let version = client.connection.version();
        let receives = version == Version::Three
            || redirect.is_some() && client.connection.has_subscriptions();
        if !receives || client.closing {
            return;
        }
        write_invalidation(keys, &mut Writer::new(&mut message, version));
        self.send_invalidation(target, &message.freeze());
    }

    /// Sends an invalidation to the client at `index`: at once, because the client may have the
    /// value already, and again after the replies that are known but not sent yet, because these
    /// may contain the value from before the change.
    fn send_invalidation(&mut self, index: usize, message: &Bytes) {
        self.tracking.invalidations += 1;
        let client = self.connected.get_mut(index).expect("the caller has found it");
        client.send_after_known_replies(message);
        self.send_message(index, message);
    }
}

fn index_of(client: SubscriberId) -> usize {
    usize::try_from(client >> 32).expect("the id begins with an index")
}
