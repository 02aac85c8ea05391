//! Pub/Sub: messages to subscribed clients, sent between the clients' replies.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::kv::{Event, RecordedEvents};
use crate::redis::{
    KeyspaceNotifications, SubscriberId, SubscriptionChange, write_message, write_shard_message,
};
use crate::types::{ClientId, Instant};
use crate::wire::resp::{Version, Writer};

use super::Clients;
use crate::runtime::server::clients::client::Client;

/// Number of unsent bytes above which a subscriber is disconnected. If messages were dropped
/// instead, the subscriber would not notice the loss.
const UNSENT_BYTES_MAX: usize = 32 << 20;

/// Number of unsent bytes that a subscriber may exceed only for [`BACKLOG_TIME_MAX`] without
/// interruption, before it is disconnected.
const BACKLOG_BYTES: usize = 8 << 20;
/// Maximum time for which a subscriber may have more than [`BACKLOG_BYTES`] unsent bytes. The
/// limits are those of Redis's `client-output-buffer-limit pubsub`.
const BACKLOG_TIME_MAX: Duration = Duration::from_mins(1);

/// Returns the id of a subscriber, which combines the index of its connection and the client's id.
pub(super) fn subscriber_id(index: usize, id: ClientId) -> SubscriberId {
    (index as u64) << 32 | u64::from(id.0)
}

impl Clients {
    /// Adds and removes subscriptions of the client at `index`, as its commands have requested.
    pub(super) fn update_subscriptions(&mut self, index: usize, changes: &[SubscriptionChange]) {
        let Some(client) = self.connected.get_mut(index) else { return };
        let subscriber = subscriber_id(index, client.id);
        Arc::make_mut(&mut self.context.subscriptions).apply(subscriber, changes);
        self.publish_subscribers();
    }

    /// Removes all subscriptions of the client at `index`, whose connection is being closed.
    pub(super) fn unsubscribe_all(&mut self, index: usize, client: &mut Client) {
        let changes = client.connection.unsubscribe_all();
        if !changes.is_empty() {
            let subscriber = subscriber_id(index, client.id);
            Arc::make_mut(&mut self.context.subscriptions).apply(subscriber, &changes);
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
        self.board.set(RecordedEvents { messages, keys, misses });
    }

    /// Sends an event of the state machine (a Pub/Sub message or a change of a key) to the
    /// subscribers on this replica whose channels match.
    pub(crate) fn publish(&mut self, event: &Event) {
        match event {
            Event::Message { channel, message, is_sharded: false } => {
                self.publish_message(channel, message);
            }
            Event::Message { channel, message, is_sharded: true } => {
                self.publish_shard_message(channel, message);
            }
            Event::Key { name, database, key } => {
                let KeyspaceNotifications { keyspace_channel, keyevent_channel, .. } =
                    self.settings.notifications();
                if !self.settings.notifications().includes(name) {
                    return;
                }
                if keyspace_channel {
                    let prefix = format!("__keyspace@{database}__:");
                    let channel = [prefix.as_bytes(), key].concat();
                    self.publish_message(&channel, name.as_bytes());
                }
                if keyevent_channel {
                    let channel = format!("__keyevent@{database}__:{name}");
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
        // The same bytes go to all subscribers that need the same encoding, so that a large message
        // is in memory once. Subscribers of the same pattern follow each other.
        let mut current = None;
        let mut encodings: [Option<Bytes>; 2] = [None, None];
        for (pattern, subscriber) in subscribers {
            let index = usize::try_from(subscriber >> 32).expect("the id begins with an index");
            let Some(client) = self.connected.get_mut(index) else { continue };
            if subscriber_id(index, client.id) != subscriber || client.closing {
                continue;
            }
            if current != pattern {
                (current, encodings) = (pattern, [None, None]);
            }
            let version = client.connection.version();
            let bytes =
                encodings[usize::from(version == Version::Three)].get_or_insert_with(|| {
                    let mut bytes = BytesMut::new();
                    let mut writer = Writer::new(&mut bytes, version);
                    write_message(current.as_ref(), channel, message, &mut writer);
                    bytes.freeze()
                });
            let bytes = bytes.clone();
            self.send_message(index, &bytes);
        }
    }

    /// Sends a message to the subscribers of the shard channel `channel` on this replica.
    fn publish_shard_message(&mut self, channel: &[u8], message: &[u8]) {
        let subscribers = self.context.subscriptions.shard_subscribers(channel);
        let encoded = [Version::Two, Version::Three].map(|version| {
            let mut bytes = BytesMut::new();
            write_shard_message(channel, message, &mut Writer::new(&mut bytes, version));
            bytes.freeze()
        });
        for subscriber in subscribers.collect::<Vec<SubscriberId>>() {
            let index = usize::try_from(subscriber >> 32).expect("the id begins with an index");
            let Some(client) = self.connected.get_mut(index) else { continue };
            if subscriber_id(index, client.id) == subscriber && !client.closing {
                let is_new = client.connection.version() == Version::Three;
                self.send_message(index, &encoded[usize::from(is_new)]);
            }
        }
    }

    /// Sends the client at `index` a message that is not a reply. Disconnects the client if it does
    /// not read its messages fast enough.
    pub(super) fn send_message(&mut self, index: usize, message: &Bytes) {
        let now = self.context.now;
        let client = self.client(index);
        let unsent = client.send_message(message);
        if unsent > BACKLOG_BYTES {
            client.backlog_since.get_or_insert(now);
        }
        if unsent > UNSENT_BYTES_MAX {
            let closed = (index, client.id);
            if !client.closing {
                client.warn_of_backlog();
            }
            client.closing = true;
            self.to_close.push(closed);
        }
        self.mark_flush(index);
        self.count_memory(index);
    }
}

impl Client {
    /// Clears the backlog time of this client, a subscriber, if its number of unsent bytes is small
    /// enough. Must be called after bytes were sent.
    pub(super) fn update_backlog(&mut self) {
        if self.socket.outbound.len() <= BACKLOG_BYTES {
            self.backlog_since = None;
        }
    }

    /// Returns whether the client, a subscriber, has had too many unsent bytes for too long at
    /// `now`.
    pub(super) fn is_backlog_overdue(&self, now: Instant) -> bool {
        self.backlog_since.is_some_and(|since| now >= since + BACKLOG_TIME_MAX)
    }

    /// Logs that the client, a subscriber, is disconnected because of its unsent bytes.
    pub(super) fn warn_of_backlog(&self) {
        tracing::warn!(
            client = self.connection.id(),
            unsent_bytes = self.socket.outbound.len(),
            "subscriber disconnected because it does not read its messages fast enough"
        );
    }
}
