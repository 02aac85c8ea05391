//! What happens in the store, for who listens at this replica: messages to channels, and what
//! befalls keys. Whether anybody listens is no part of the state, and changes nothing in it.

use bytes::Bytes;

use crate::kv::state_machine::StateMachine;

/// Most events that are kept until they are taken; what happens beyond that is not told.
const EVENTS_MAX: usize = 1 << 16;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message to a channel.
    Message {
        /// Which channel.
        channel: Bytes,
        /// The message.
        message: Bytes,
    },
    /// Something that befell a key.
    Key {
        /// What, as Redis names it.
        name: &'static str,
        /// Which key.
        key: Bytes,
    },
}

/// What is listened to, and what has happened of it.
#[derive(Debug, Default)]
pub(in crate::kv) struct Events {
    messages: bool,
    keys: bool,
    happened: Vec<Event>,
}

impl StateMachine {
    /// Says what is listened to from now on.
    pub fn listen(&mut self, messages: bool, keys: bool) {
        self.events.messages = messages;
        self.events.keys = keys;
    }

    /// What has happened of that since this was last asked.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events.happened)
    }

    /// Something happened to a key.
    pub(in crate::kv) fn note(&mut self, name: &'static str, key: &[u8]) {
        if self.events.keys {
            self.happened(|| Event::Key { name, key: Bytes::copy_from_slice(key) });
        }
    }

    /// The same, if that has left no key.
    pub(in crate::kv) fn note_if_gone(&mut self, key: &[u8]) {
        if self.events.keys && self.pair(key).is_none() {
            self.note("del", key);
        }
    }

    /// A message was told to a channel.
    pub(in crate::kv) fn tell(&mut self, channel: &[u8], message: &[u8]) {
        if self.events.messages {
            let [channel, message] = [channel, message].map(Bytes::copy_from_slice);
            self.happened(|| Event::Message { channel, message });
        }
    }

    fn happened(&mut self, event: impl FnOnce() -> Event) {
        if self.events.happened.len() < EVENTS_MAX {
            self.events.happened.push(event());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Operation;
    use crate::kv::state_machine::tests::Feeder;

    #[test]
    fn what_is_listened_to_is_told_in_order_and_nothing_else() {
        let mut feeder = Feeder::new();
        let publish = Operation::Publish { channel: b"c", message: b"m" };
        feeder.apply(publish);
        feeder.call("hset", &["h", "f", "v"]);
        assert_eq!(feeder.store.take_events(), []);
        feeder.store.listen(true, true);
        feeder.apply(publish);
        feeder.call("hset", &["h", "f", "v"]);
        feeder.call("hdel", &["h", "f", "g"]);
        feeder.call("hdel", &["h", "f", "g"]);
        let key = |name| Event::Key { name, key: Bytes::from_static(b"h") };
        let [channel, message] = [&b"c"[..], b"m"].map(Bytes::from_static);
        let told = Event::Message { channel, message };
        assert_eq!(feeder.store.take_events(), [told, key("hset"), key("hdel"), key("del")]);
        feeder.store.listen(false, true);
        feeder.apply(publish);
        assert_eq!(feeder.store.take_events(), []);
    }

    #[test]
    fn who_listens_makes_no_difference_to_the_state() {
        let (mut deaf, mut listening) = (Feeder::new(), Feeder::new());
        listening.store.listen(true, true);
        for feeder in [&mut deaf, &mut listening] {
            feeder.call("set", &["k", "v", "PX", "5"]);
            feeder.apply(Operation::Publish { channel: b"c", message: b"m" });
            feeder.apply(Operation::Clock { millis: 7, resets: 0 });
        }
        assert_eq!(deaf.store.digest(), listening.store.digest());
        let events = listening.store.take_events().len();
        assert_eq!(events, 4, "it is set, it ends some day, the message, it has ended");
    }
}
