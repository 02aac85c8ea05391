//! Events of the state machine for this replica's subscribers: messages to channels, and keyspace
//! notifications. The subscribers are not part of the replicated state and do not affect it.

use bytes::Bytes;

use super::Keyspace;

/// Maximum number of recorded events (published messages and keyspace notifications) that wait for
/// delivery to this replica's subscribers. Further events are dropped.
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
    },
    /// A key was changed or removed, or has expired.
    Key {
        /// Name of the event in Redis's keyspace notifications, such as `set` or `expired`.
        name: &'static str,
        /// Name of the key that was changed or removed, or has expired.
        key: Bytes,
    },
}

/// The events for this replica's Pub/Sub subscribers: which kinds of events are recorded, and the
/// recorded events that wait for delivery.
#[derive(Debug, Default)]
pub(super) struct Events {
    messages: bool,
    keys: bool,
    pending: Vec<Event>,
}

impl Keyspace {
    /// Sets which events are recorded for this replica's subscribers: published messages if
    /// `messages` is true, keyspace notifications if `keys` is true.
    pub(in crate::kv) fn record_events(&mut self, messages: bool, keys: bool) {
        self.events.messages = messages;
        self.events.keys = keys;
    }

    /// Removes and returns all recorded events, oldest first.
    pub(in crate::kv) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events.pending)
    }

    /// Records a keyspace notification for a key, if keyspace notifications are being recorded.
    /// `name` is the name of the event, such as `set`.
    pub(in crate::kv) fn notify(&mut self, name: &'static str, key: &[u8]) {
        if self.events.keys {
            self.record(|| Event::Key { name, key: Bytes::copy_from_slice(key) });
        }
    }

    /// Records a `del` keyspace notification for `key` if the key does not exist any more.
    pub(in crate::kv) fn notify_if_removed(&mut self, key: &[u8]) {
        if self.events.keys && self.entry(key).is_none() {
            self.notify("del", key);
        }
    }

    /// Records a message that was published to a channel, if messages are being recorded.
    pub(in crate::kv) fn publish(&mut self, channel: &[u8], message: &[u8]) {
        if self.events.messages {
            let [channel, message] = [channel, message].map(Bytes::copy_from_slice);
            self.record(|| Event::Message { channel, message });
        }
    }

    fn record(&mut self, event: impl FnOnce() -> Event) {
        if self.events.pending.len() < EVENTS_MAX {
            self.events.pending.push(event());
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enabled_keyspace_events_are_recorded_in_order() {
        let mut keyspace = Keyspace::default();
        let change = |keyspace: &mut Keyspace| {
            keyspace.publish(b"c", b"m");
            keyspace.put(b"k", b"v");
            keyspace.notify("set", b"k");
            keyspace.notify_if_removed(b"k");
            keyspace.remove(b"k");
            keyspace.notify_if_removed(b"k");
        };
        let key = |name| Event::Key { name, key: Bytes::from_static(b"k") };
        let [channel, message] = [&b"c"[..], b"m"].map(Bytes::from_static);
        let message = Event::Message { channel, message };
        for (messages, keys, expected) in [
            (false, false, vec![]),
            (true, true, vec![message.clone(), key("set"), key("del")]),
            (true, false, vec![message]),
            (false, true, vec![key("set"), key("del")]),
        ] {
            keyspace.record_events(messages, keys);
            change(&mut keyspace);
            assert_eq!(keyspace.take_events(), expected);
        }
    }

    #[test]
    fn recording_keyspace_events_does_not_affect_the_state() {
        let (mut silent, mut recording) = (Keyspace::default(), Keyspace::default());
        recording.record_events(true, true);
        for keyspace in [&mut silent, &mut recording] {
            keyspace.put_expiring(b"k", b"v", Some(5));
            keyspace.put(b"other", b"v");
            keyspace.advance_clock(7);
            keyspace.remove_expired();
        }
        assert_eq!(silent.digest(), recording.digest());
        let expired = Event::Key { name: "expired", key: Bytes::from_static(b"k") };
        assert_eq!(recording.take_events(), [expired]);
    }
}
