//! Events of the state machine for this replica's subscribers: messages to channels, and keyspace
//! notifications. The subscribers are not part of the replicated state and do not affect it.

use std::cell::RefCell;

use bytes::Bytes;

use super::Keyspace;
use super::databases::DatabaseId;
use super::history::{FLUSH, History};

/// Maximum number of recorded events (published messages and keyspace notifications) that are
/// waiting for delivery to this replica's subscribers. Further events are dropped.
const EVENTS_MAX: usize = 1 << 16;

/// An event for Pub/Sub subscribers: a published message, or a change of a key, which can cause
/// keyspace notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message was published to a channel.
    Message {
        /// Channel that the message was published to.
        channel: Bytes,
        /// Content of the message.
        message: Bytes,
        /// Whether it is a shard channel (`SPUBLISH`).
        is_sharded: bool,
    },
    /// A key was changed or removed, or has expired.
    Key {
        /// Name of the event in Redis's keyspace notifications, such as `set` or `expired`.
        name: &'static str,
        /// Database of the key.
        database: DatabaseId,
        /// Name of the key that was changed or removed, or has expired.
        key: Bytes,
    },
}

/// Which kinds of events are recorded for this replica's Pub/Sub subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordedEvents {
    /// Published messages.
    pub messages: bool,
    /// Changes of keys (keyspace notifications).
    pub keys: bool,
    /// Lookups of missing keys by read commands (the keyspace notification `keymiss`).
    pub misses: bool,
}

/// The events for this replica's Pub/Sub subscribers: which kinds of events are recorded, and the
/// recorded events that are waiting for delivery. Reads, which have only a shared reference to the
/// keyspace, also record events.
#[derive(Debug, Default)]
pub(super) struct Events {
    recorded: RecordedEvents,
    pending: RefCell<Vec<Event>>,
    /// The history of changes, which has the events of keys as well.
    pub(super) history: History,
}

impl Events {
    /// Records a change of a key by the operation with the number `revision`: in the history of
    /// changes, and as a keyspace notification if these are being recorded.
    pub(super) fn note_key(&mut self, revision: u64, name: &'static str, key: (DatabaseId, &[u8])) {
        self.history.add(revision, name, key);
        self.notify(name, key);
    }

    /// Records the keyspace notification `new` for a key that is created, if keyspace notifications
    /// are being recorded. The event of the command that creates the key follows.
    pub(super) fn note_new(&self, database: DatabaseId, key: &[u8]) {
        self.notify("new", (database, key));
    }

    /// Records the removal of all keys of a database by the operation with the number `revision`,
    /// in the history of changes. As in Redis, it causes no keyspace notification.
    pub(super) fn note_flush(&mut self, revision: u64, database: DatabaseId) {
        self.history.add(revision, FLUSH, (database, b""));
    }

    /// Records that the keys of two databases were exchanged: any key may have changed. As in
    /// Redis, it causes no keyspace notification.
    pub(super) fn note_swap(&mut self) {
        self.history.report_others();
    }

    fn notify(&self, name: &'static str, key: (DatabaseId, &[u8])) {
        if self.recorded.keys {
            self.record_key(name, key);
        }
    }

    /// Records the keyspace notification `keymiss` for a key, if misses are being recorded.
    pub(super) fn note_miss(&self, database: DatabaseId, key: &[u8]) {
        if self.recorded.misses {
            self.record_key("keymiss", (database, key));
        }
    }

    fn record_key(&self, name: &'static str, (database, key): (DatabaseId, &[u8])) {
        self.record(|| Event::Key { name, database, key: Bytes::copy_from_slice(key) });
    }

    fn record(&self, event: impl FnOnce() -> Event) {
        let mut pending = self.pending.borrow_mut();
        if pending.len() < EVENTS_MAX {
            pending.push(event());
        }
    }
}

impl Keyspace {
    /// Sets which events are recorded for this replica's subscribers.
    pub(in crate::kv) fn record_events(&mut self, recorded: RecordedEvents) {
        self.events.recorded = recorded;
    }

    /// Removes and returns all recorded events, oldest first.
    pub(in crate::kv) fn take_events(&mut self) -> Vec<Event> {
        self.events.pending.take()
    }

    /// Records a change of a key, as a keyspace notification and in the history of changes. `name`
    /// is the name of the event, such as `set`.
    pub(in crate::kv) fn notify(&mut self, name: &'static str, key: &[u8]) {
        self.events.note_key(self.revision, name, (self.databases.id(), key));
    }

    /// Records a change of a key for which Redis has no keyspace notification, only in the history
    /// of changes. `name` is the name of the command in lower case.
    pub(in crate::kv) fn note_change(&mut self, name: &'static str, key: &[u8]) {
        self.events.history.add(self.revision, name, (self.databases.id(), key));
    }

    /// Records the change `del` of `key` if the key does not exist any more.
    pub(in crate::kv) fn notify_if_removed(&mut self, key: &[u8]) {
        let are_recorded = self.events.recorded.keys || self.events.history.is_used();
        if are_recorded && self.entry(key).is_none() {
            self.notify("del", key);
        }
    }

    /// Records a message that was published to a channel, or to a shard channel, if messages are
    /// being recorded.
    pub(in crate::kv) fn publish(&mut self, channel: &[u8], message: &[u8], is_sharded: bool) {
        if self.events.recorded.messages {
            let [channel, message] = [channel, message].map(Bytes::copy_from_slice);
            self.events.record(|| Event::Message { channel, message, is_sharded });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::keyspace::expiration::REMOVED_MAX;

    #[test]
    fn only_enabled_keyspace_events_are_recorded_in_order() {
        let mut keyspace = Keyspace::default();
        let change = |keyspace: &mut Keyspace| {
            keyspace.publish(b"c", b"m", false);
            keyspace.put(b"k", b"v");
            keyspace.put(b"k", b"w");
            keyspace.notify("set", b"k");
            keyspace.notify_if_removed(b"k");
            keyspace.remove(b"k");
            keyspace.notify_if_removed(b"k");
        };
        let database = DatabaseId::FIRST;
        let key = |name| Event::Key { name, database, key: Bytes::from_static(b"k") };
        let [channel, message] = [&b"c"[..], b"m"].map(Bytes::from_static);
        let message = Event::Message { channel, message, is_sharded: false };
        for (messages, keys, expected) in [
            (false, false, vec![]),
            (true, true, vec![message.clone(), key("new"), key("set"), key("del")]),
            (true, false, vec![message]),
            (false, true, vec![key("new"), key("set"), key("del")]),
        ] {
            keyspace.record_events(RecordedEvents { messages, keys, misses: false });
            change(&mut keyspace);
            assert_eq!(keyspace.take_events(), expected);
        }
    }

    #[test]
    fn deleting_an_expired_key_records_expired_event_not_del() {
        let mut keyspace = Keyspace::default();
        keyspace.put_expiring(b"k", b"v", Some(5));
        keyspace.put_expiring(b"l", b"v", Some(6));
        keyspace.advance_clock(5);
        keyspace.record_events(RecordedEvents { messages: false, keys: true, misses: false });
        assert!(!keyspace.delete(b"k"));
        assert!(keyspace.delete(b"l"));
        let database = DatabaseId::FIRST;
        let key = |name, key| Event::Key { name, database, key: Bytes::from_static(key) };
        assert_eq!(keyspace.take_events(), [key("expired", b"k"), key("del", b"l")]);
    }

    #[test]
    fn recording_keyspace_events_does_not_change_the_state_digest() {
        let (mut silent, mut recording) = (Keyspace::default(), Keyspace::default());
        recording.record_events(RecordedEvents { messages: true, keys: true, misses: true });
        for keyspace in [&mut silent, &mut recording] {
            keyspace.put_expiring(b"k", b"v", Some(5));
            keyspace.put_expiring(b"l", b"v", Some(6));
            keyspace.counting_lookups(|it| it.entry(b"missing").is_some());
            keyspace.advance_clock(7);
            keyspace.put(b"l", b"w");
            keyspace.remove_expired(REMOVED_MAX);
        }
        assert_eq!(silent.digest(), recording.digest());
        let events = recording.take_events().into_iter().map(|event| match event {
            Event::Key { name, key, .. } => (name, key),
            Event::Message { .. } => panic!("no message was published"),
        });
        let events: Vec<_> = events.collect();
        let wanted = [
            ("new", &b"k"[..]),
            ("new", b"l"),
            ("keymiss", b"missing"),
            // The write finds that the key has expired.
            ("expired", b"l"),
            ("new", b"l"),
            ("expired", b"k"),
        ];
        assert_eq!(events, wanted.map(|(name, key)| (name, Bytes::from_static(key))));
    }
}
