//! Clients that listen to channels: what happens is told to them between their replies.

use bytes::Bytes;
use mio::Registry;

use crate::kv::Event;
use crate::redis::{Interest, KeyEvents, Listener, write_message};
use crate::types::ClientId;
use crate::wire::resp::Writer;

use super::{Client, Clients, mark};

/// A listener that leaves more unread than this is closed: nobody waits for it, and what it has
/// missed it could not know.
const UNREAD_BYTES_MAX: usize = 32 << 20;

/// Its number, by which it is found again.
fn number_of(place: usize, id: ClientId) -> Listener {
    (place as u64) << 32 | u64::from(id.0)
}

impl Clients {
    /// What a connection listens to has changed.
    pub(super) fn change_listening(&mut self, place: usize, interests: &[Interest]) {
        let Some(client) = self.connected.get_mut(place) else { return };
        let listener = number_of(place, client.id);
        self.context.subscriptions.change(listener, interests);
        self.set_ears();
    }

    /// A connection has ended.
    pub(super) fn end_listening(&mut self, place: usize, client: &mut Client) {
        let interests = client.connection.end_listening();
        if !interests.is_empty() {
            self.context.subscriptions.change(number_of(place, client.id), &interests);
            self.set_ears();
        }
    }

    /// Says to the applier what is worth collecting.
    pub(super) fn set_ears(&self) {
        let listens = !self.context.subscriptions.is_empty();
        self.ears.set(listens, listens && self.settings.key_events().is_any());
    }

    /// Tells what has happened to whoever listens.
    pub(in crate::runtime::server) fn tell(&mut self, event: &Event) {
        match event {
            Event::Message { channel, message } => self.tell_channel(channel, message),
            Event::Key { name, key } => {
                let KeyEvents { by_key, by_event, .. } = self.settings.key_events();
                if !self.settings.key_events().tells(name) {
                    return;
                }
                if by_key {
                    let channel = [b"__keyspace@0__:", &key[..]].concat();
                    self.tell_channel(&channel, name.as_bytes());
                }
                if by_event {
                    let channel = format!("__keyevent@0__:{name}");
                    self.tell_channel(channel.as_bytes(), key);
                }
            }
        }
    }

    /// Tells a message to whoever listens to a channel here.
    pub(in crate::runtime::server) fn tell_channel(&mut self, channel: &[u8], message: &[u8]) {
        let listeners: Vec<(Option<Bytes>, Listener)> = self
            .context
            .subscriptions
            .listeners(channel)
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
                self.counts.clients_closed.add_one();
                self.close(place, registry);
            }
        }
    }
}
