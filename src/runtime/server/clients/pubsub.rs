//! Pub/Sub: messages to subscribed clients, sent between the clients' replies.

use bytes::Bytes;

use crate::kv::{Event, RecordedEvents};
use crate::redis::{KeyspaceNotifications, SubscriberId, SubscriptionChange, write_message};
use crate::types::ClientId;
use crate::wire::resp::Writer;

use super::Clients;
use crate::runtime::server::clients::client::Client;

/// Number of unsent bytes above which a subscriber is disconnected. If messages were dropped
/// instead, the subscriber would not notice the loss.
const UNSENT_BYTES_MAX: usize = 32 << 20;

/// Returns the id of a subscriber, which combines the index of its connection and the client's id.
fn subscriber_id(index: usize, id: ClientId) -> SubscriberId {
    (index as u64) << 32 | u64::from(id.0)
}

impl Clients {
    /// Adds and removes subscriptions of the client at `index`, as its commands have requested.
    pub(super) fn update_subscriptions(&mut self, index: usize, changes: &[SubscriptionChange]) {
        let Some(client) = self.connected.get_mut(index) else { return };
        let subscriber = subscriber_id(index, client.id);
        self.context.subscriptions.apply(subscriber, changes);
        self.publish_subscribers();
    }

    /// Removes all subscriptions of the client at `index`, whose connection is being closed.
    pub(super) fn unsubscribe_all(&mut self, index: usize, client: &mut Client) {
        let changes = client.connection.unsubscribe_all();
        if !changes.is_empty() {
            self.context.subscriptions.apply(subscriber_id(index, client.id), &changes);
            self.publish_subscribers();
        }
    }

    /// Tells the applier which events to collect: Pub/Sub messages if this replica has subscribers,
    /// and keyspace events if keyspace notifications are enabled as well.
    pub(super) fn publish_subscribers(&self) {
        let messages = !self.context.subscriptions.is_empty();
        let notifications = self.settings.notifications();
        let keys = messages && notifications.is_enabled();
        let misses = keys && notifications.includes("keymiss");
        self.subscribers.set(RecordedEvents { messages, keys, misses });
    }

    /// Sends an event of the state machine (a Pub/Sub message or a change of a key) to the
    /// subscribers on this replica whose channels match.
    pub(crate) fn publish(&mut self, event: &Event) {
        match event {
            Event::Message { channel, message } => self.publish_message(channel, message),
            Event::Key { name, key } => {
                let KeyspaceNotifications { keyspace_channel, keyevent_channel, .. } =
                    self.settings.notifications();
                if !self.settings.notifications().includes(name) {
                    return;
                }
                if keyspace_channel {
                    let channel = [b"__keyspace@0__:", &key[..]].concat();
                    self.publish_message(&channel, name.as_bytes());
                }
                if keyevent_channel {
                    let channel = format!("__keyevent@0__:{name}");
                    self.publish_message(channel.as_bytes(), key);
                }
            }
        }
    }

    /// Sends a message to the subscribers of `channel` on this replica.
    pub(crate) fn publish_message(&mut self, channel: &[u8], message: &[u8]) {
        let subscribers: Vec<(Option<Bytes>, SubscriberId)> = self
            .context
            .subscriptions
            .subscribers(channel)
            .map(|(pattern, subscriber)| (pattern.cloned(), subscriber))
            .collect();
        for (pattern, subscriber) in subscribers {
            let index = usize::try_from(subscriber >> 32).expect("the id begins with an index");
            let Some(client) = self.connected.get_mut(index) else { continue };
            if subscriber_id(index, client.id) != subscriber || client.closing {
                continue;
            }
            let version = client.connection.version();
            let mut writer = Writer::new(client.socket.outbound.open(), version);
            write_message(pattern.as_ref(), channel, message, &mut writer);
            let unsent = client.socket.outbound.len();
            if unsent > UNSENT_BYTES_MAX {
                self.to_close.push((index, client.id));
                tracing::warn!(
                    client = client.connection.id(),
                    unsent_bytes = unsent,
                    "subscriber disconnected: it does not read its messages"
                );
            }
            self.mark_flush(index);
            self.count_memory(index);
        }
    }
}
