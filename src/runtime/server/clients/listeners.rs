//! Clients that listen to channels: what happens is told to them between their replies.

use bytes::Bytes;
use mio::Registry;

use crate::kv::Event;
use crate::redis::{KeyspaceNotifications, SubscriberId, SubscriptionChange, write_message};
use crate::types::ClientId;
use crate::wire::resp::Writer;

use super::{Client, Clients, mark};

/// A listener that leaves more unread than this is closed: nobody waits for it, and what it has
/// missed it could not know.
const UNREAD_BYTES_MAX: usize = 32 << 20;

/// Its number, by which it is found again.
fn number_of(place: usize, id: ClientId) -> SubscriberId {
    (place as u64) << 32 | u64::from(id.0)
}

impl Clients {
    /// What a connection listens to has changed.
    pub(super) fn change_listening(&mut self, place: usize, changes: &[SubscriptionChange]) {
        let Some(client) = self.connected.get_mut(place) else { return };
        let listener = number_of(place, client.id);
        self.context.subscriptions.apply(listener, changes);
        self.publish_subscribers();
    }

    /// A connection has ended.
    pub(super) fn end_listening(&mut self, place: usize, client: &mut Client) {
        let changes = client.connection.unsubscribe_all();
        if !changes.is_empty() {
            self.context.subscriptions.apply(number_of(place, client.id), &changes);
            self.publish_subscribers();
        }
    }

    /// Says to the applier what is worth collecting.
    pub(super) fn publish_subscribers(&self) {
        let listens = !self.context.subscriptions.is_empty();
        self.subscribers.set(listens, listens && self.settings.notifications().is_enabled());
    }

    /// Tells what has happened to whoever listens.
    pub(in crate::runtime::server) fn tell(&mut self, event: &Event) {
        match event {
            Event::Message { channel, message } => self.tell_channel(channel, message),
            Event::Key { name, key } => {
                let KeyspaceNotifications { keyspace_channel, keyevent_channel, .. } =
                    self.settings.notifications();
                if !self.settings.notifications().includes(name) {
                    return;
                }
                if keyspace_channel {
                    let channel = [b"__keyspace@0__:", &key[..]].concat();
                    self.tell_channel(&channel, name.as_bytes());
                }
                if keyevent_channel {
                    let channel = format!("__keyevent@0__:{name}");
                    self.tell_channel(channel.as_bytes(), key);
                }
            }
        }
    }

    /// Tells a message to whoever listens to a channel here.
    pub(in crate::runtime::server) fn tell_channel(&mut self, channel: &[u8], message: &[u8]) {
        let listeners: Vec<(Option<Bytes>, SubscriberId)> = self
            .context
            .subscriptions
            .subscribers(channel)
            .map(|(pattern, listener)| (pattern.cloned(), listener))
            .collect();
        for (pattern, listener) in listeners {
            let place = usize::try_from(listener >> 32).expect("it was a place before");
            let Some(client) = self.connected.get_mut(place) else { continue };
            if number_of(place, client.id) != listener || client.closing {
                continue;
            }
            let version = client.connection.version();
            let mut writer = Writer::new(client.socket.outbox.open(), version);
            write_message(pattern.as_ref(), channel, message, &mut writer);
            if client.socket.outbox.len() > UNREAD_BYTES_MAX {
                let id = client.id;
                self.doomed.push((place, id));
                tracing::warn!(
                    client = client.connection.id(),
                    "a client is closed: it listens to channels and does not read"
                );
            }
            mark(&mut self.connected, &mut self.to_flush, place, |client| &mut client.marks.flush);
            self.add_up(place);
        }
    }

    /// Closes those that are to be closed whatever they are owed.
    pub(super) fn close_doomed(&mut self, registry: &Registry) {
        for (place, id) in std::mem::take(&mut self.doomed) {
            if self.connected.get_mut(place).is_some_and(|client| client.id == id) {
                self.counters.clients_closed.add_one();
                self.close(place, registry);
            }
        }
    }
}
