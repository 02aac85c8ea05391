//! Pub/Sub subscriptions: those of one connection, and those of all clients of a replica.
//!
//! A published message goes through the log, so subscribers on every replica receive messages in
//! the same order. A client that is not connected when a message is applied misses that message.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::kv::glob;
use crate::wire::resp::Writer;

/// Estimated memory usage of one subscription in bytes, without the name of the channel or pattern.
const SUBSCRIPTION_BYTES: usize = 160;

/// Id of a subscriber: the number by which the server identifies the subscriber's connection.
pub type SubscriberId = u64;

/// A change of a connection's subscriptions: the connection subscribes to a channel or pattern, or
/// unsubscribes from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// Whether `name` is a glob pattern; otherwise it is the name of a channel.
    pub is_pattern: bool,
    /// Name of the channel, or the pattern.
    pub name: Bytes,
    /// True if the connection subscribes, false if it unsubscribes.
    pub subscribes: bool,
}

/// The Pub/Sub subscriptions of all clients of one replica, by channel and by pattern.
#[derive(Debug, Clone, Default)]
pub struct Subscriptions {
    channels: BTreeMap<Bytes, BTreeSet<SubscriberId>>,
    patterns: BTreeMap<Bytes, BTreeSet<SubscriberId>>,
}

/// The Pub/Sub channels and patterns to which one connection subscribes.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct ClientSubscriptions {
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
}

impl ClientSubscriptions {
    /// Returns whether the connection has no subscriptions.
    pub(in crate::redis) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Returns the number of channels and patterns to which the connection subscribes.
    pub(in crate::redis) fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Iterates over the subscriptions: whether each is a pattern, and its name.
    pub(in crate::redis) fn all(&self) -> impl Iterator<Item = (bool, &Bytes)> {
        let channels = self.channels.iter().map(|name| (false, name));
        channels.chain(self.patterns.iter().map(|name| (true, name)))
    }

    pub(in crate::redis) fn channel_count(&self) -> usize {
        self.channels.len()
    }

    pub(in crate::redis) fn pattern_count(&self) -> usize {
        self.patterns.len()
    }

    /// Estimates the memory usage of the connection's subscriptions in bytes, both in the state of
    /// the connection and in the replica's [`Subscriptions`].
    pub(in crate::redis) fn held_bytes(&self) -> usize {
        let names = self.channels.iter().chain(&self.patterns);
        names.map(|name| 2 * name.len() + SUBSCRIPTION_BYTES).sum()
    }

    /// Returns a mutable reference to the set of patterns to which the connection subscribes if
    /// `is_pattern` is true, otherwise to the set of channels.
    pub(in crate::redis) fn names(&mut self, is_pattern: bool) -> &mut BTreeSet<Bytes> {
        if is_pattern { &mut self.patterns } else { &mut self.channels }
    }

    /// Ends all subscriptions of the connection, and returns the changes, which must be applied to
    /// the replica's [`Subscriptions`].
    pub(super) fn clear(&mut self) -> Vec<SubscriptionChange> {
        let remove =
            |is_pattern| move |name| SubscriptionChange { is_pattern, name, subscribes: false };
        let ClientSubscriptions { channels, patterns } = std::mem::take(self);
        let channels = channels.into_iter().map(remove(false));
        channels.chain(patterns.into_iter().map(remove(true))).collect()
    }
}

impl Subscriptions {
    /// Adds and removes subscriptions of one subscriber, as listed in `changes`.
    pub fn apply(&mut self, subscriber: SubscriberId, changes: &[SubscriptionChange]) {
        for SubscriptionChange { is_pattern, name, subscribes } in changes {
            let names = if *is_pattern { &mut self.patterns } else { &mut self.channels };
            if *subscribes {
                names.entry(name.clone()).or_default().insert(subscriber);
            } else if let Some(subscribers) = names.get_mut(name) {
                subscribers.remove(&subscriber);
                if subscribers.is_empty() {
                    names.remove(name);
                }
            }
        }
    }

    /// Returns whether no client of this replica has any subscriptions.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty()
    }

    /// Returns the subscribers to which a message on `channel` is sent, each with the pattern that
    /// matches the channel, or `None` if it subscribes to the channel by name. A subscriber with
    /// several matching subscriptions is returned once for each, and receives the message several
    /// times, as in Redis.
    pub fn subscribers(
        &self,
        channel: &[u8],
    ) -> impl Iterator<Item = (Option<&Bytes>, SubscriberId)> {
        let by_name = self.channels.get(channel).into_iter().flatten();
        let matching = self.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel));
        let by_pattern = matching.flat_map(|(pattern, subscribers)| {
            subscribers.iter().map(move |subscriber| (Some(pattern), *subscriber))
        });
        by_name.map(|subscriber| (None, *subscriber)).chain(by_pattern)
    }

    /// Returns the channels to which at least one client subscribes by name.
    pub(in crate::redis) fn channels(&self) -> impl Iterator<Item = &Bytes> + Clone {
        self.channels.keys()
    }

    /// Returns the number of clients that subscribe to `channel` by name.
    pub(in crate::redis) fn subscriber_count(&self, channel: &[u8]) -> usize {
        self.channels.get(channel).map_or(0, BTreeSet::len)
    }

    /// Returns the number of channels to which at least one client subscribes by name.
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// Returns the number of distinct patterns to which at least one client subscribes.
    pub fn pattern_count(&self) -> usize {
        self.patterns.len()
    }
}

/// Writes a published message as it is sent to a subscriber. `pattern` is the subscriber's pattern
/// that matches the channel, or `None` if it subscribes to the channel by name.
pub fn write_message(
    pattern: Option<&Bytes>,
    channel: &[u8],
    message: &[u8],
    writer: &mut Writer<'_>,
) {
    if let Some(pattern) = pattern {
        writer.push(4);
        writer.bulk(b"pmessage");
        writer.bulk(pattern);
    } else {
        writer.push(3);
        writer.bulk(b"message");
    }
    writer.bulk(channel);
    writer.bulk(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pubsub_subscribers_match_by_channel_name_and_by_pattern() {
        let mut subscriptions = Subscriptions::default();
        let change = |is_pattern, name: &'static str, subscribes| SubscriptionChange {
            is_pattern,
            name: Bytes::from_static(name.as_bytes()),
            subscribes,
        };
        let found = |subscriptions: &Subscriptions, channel: &str| {
            let subscribers = subscriptions.subscribers(channel.as_bytes());
            subscribers.map(|(pattern, id)| (pattern.is_some(), id)).collect::<Vec<_>>()
        };
        subscriptions.apply(1, &[change(false, "news", true), change(true, "n*", true)]);
        subscriptions.apply(2, &[change(false, "news", true)]);
        assert_eq!(found(&subscriptions, "news"), [(false, 1), (false, 2), (true, 1)]);
        assert_eq!(found(&subscriptions, "none"), [(true, 1)]);
        subscriptions.apply(1, &[change(false, "news", false), change(true, "n*", false)]);
        subscriptions.apply(2, &[change(false, "news", false)]);
        assert!(subscriptions.is_empty());
    }
}
