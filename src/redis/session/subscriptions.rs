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

/// What a client can subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubscriptionKind {
    /// A channel, by its name (`SUBSCRIBE`).
    Channel,
    /// All channels that match a glob pattern (`PSUBSCRIBE`).
    Pattern,
    /// A shard channel, by its name (`SSUBSCRIBE`). All shard channels belong to the only shard.
    Shard,
}

/// A change of a connection's subscriptions: the connection subscribes to a channel or pattern, or
/// unsubscribes from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// What `name` is.
    pub kind: SubscriptionKind,
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
    shard_channels: BTreeMap<Bytes, BTreeSet<SubscriberId>>,
}

/// The Pub/Sub channels and patterns to which one connection subscribes.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct ClientSubscriptions {
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
    shard_channels: BTreeSet<Bytes>,
}

impl ClientSubscriptions {
    /// Returns whether the connection has no subscriptions.
    pub(in crate::redis) fn is_empty(&self) -> bool {
        self.count() == 0 && self.shard_channels.is_empty()
    }

    /// Returns the number of channels and patterns to which the connection subscribes, without
    /// shard channels.
    pub(in crate::redis) fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Iterates over the subscriptions: the kind of each, and its name.
    pub(in crate::redis) fn all(&self) -> impl Iterator<Item = (SubscriptionKind, &Bytes)> {
        let channels = self.channels.iter().map(|name| (SubscriptionKind::Channel, name));
        let patterns = self.patterns.iter().map(|name| (SubscriptionKind::Pattern, name));
        let sharded = self.shard_channels.iter().map(|name| (SubscriptionKind::Shard, name));
        channels.chain(patterns).chain(sharded)
    }

    pub(in crate::redis) fn shard_channel_count(&self) -> usize {
        self.shard_channels.len()
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
        let names = self.all().map(|(_, name)| name);
        names.map(|name| 2 * name.len() + SUBSCRIPTION_BYTES).sum()
    }

    /// Returns a mutable reference to the set of the connection's subscriptions of this kind.
    pub(in crate::redis) fn names(&mut self, kind: SubscriptionKind) -> &mut BTreeSet<Bytes> {
        match kind {
            SubscriptionKind::Channel => &mut self.channels,
            SubscriptionKind::Pattern => &mut self.patterns,
            SubscriptionKind::Shard => &mut self.shard_channels,
        }
    }

    /// Ends all subscriptions of the connection, and returns the changes, which must be applied to
    /// the replica's [`Subscriptions`].
    pub(super) fn clear(&mut self) -> Vec<SubscriptionChange> {
        let subscriptions = std::mem::take(self);
        let remove = |(kind, name): (SubscriptionKind, &Bytes)| SubscriptionChange {
            kind,
            name: name.clone(),
            subscribes: false,
        };
        subscriptions.all().map(remove).collect()
    }
}

impl Subscriptions {
    /// Adds and removes subscriptions of one subscriber, as listed in `changes`.
    pub fn apply(&mut self, subscriber: SubscriberId, changes: &[SubscriptionChange]) {
        for SubscriptionChange { kind, name, subscribes } in changes {
            let names = match kind {
                SubscriptionKind::Channel => &mut self.channels,
                SubscriptionKind::Pattern => &mut self.patterns,
                SubscriptionKind::Shard => &mut self.shard_channels,
            };
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
        self.channels.is_empty() && self.patterns.is_empty() && self.shard_channels.is_empty()
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

    /// Returns the subscribers of a shard channel.
    pub fn shard_subscribers(&self, channel: &[u8]) -> impl Iterator<Item = SubscriberId> {
        self.shard_channels.get(channel).into_iter().flatten().copied()
    }

    /// Returns the channels, or the shard channels, to which at least one client subscribes by
    /// name.
    pub(in crate::redis) fn channels(
        &self,
        are_sharded: bool,
    ) -> impl Iterator<Item = &Bytes> + Clone {
        if are_sharded { self.shard_channels.keys() } else { self.channels.keys() }
    }

    /// Returns the number of clients that subscribe to a channel, or a shard channel, by name.
    pub(in crate::redis) fn subscriber_count(&self, channel: &[u8], is_sharded: bool) -> usize {
        let channels = if is_sharded { &self.shard_channels } else { &self.channels };
        channels.get(channel).map_or(0, BTreeSet::len)
    }

    /// Returns the number of shard channels to which at least one client subscribes.
    pub fn shard_channel_count(&self) -> usize {
        self.shard_channels.len()
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

/// Writes a message that was published to a shard channel as it is sent to a subscriber.
pub fn write_shard_message(channel: &[u8], message: &[u8], writer: &mut Writer<'_>) {
    writer.push(3);
    writer.bulk(b"smessage");
    writer.bulk(channel);
    writer.bulk(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pubsub_subscribers_match_by_channel_name_and_by_pattern() {
        let mut subscriptions = Subscriptions::default();
        let change = |kind, name: &'static str, subscribes| SubscriptionChange {
            kind,
            name: Bytes::from_static(name.as_bytes()),
            subscribes,
        };
        let found = |subscriptions: &Subscriptions, channel: &str| {
            let subscribers = subscriptions.subscribers(channel.as_bytes());
            subscribers.map(|(pattern, id)| (pattern.is_some(), id)).collect::<Vec<_>>()
        };
        let (by_name, pattern) = (SubscriptionKind::Channel, SubscriptionKind::Pattern);
        subscriptions.apply(1, &[change(by_name, "news", true), change(pattern, "n*", true)]);
        subscriptions.apply(2, &[change(by_name, "news", true)]);
        subscriptions.apply(3, &[change(SubscriptionKind::Shard, "news", true)]);
        assert_eq!(found(&subscriptions, "news"), [(false, 1), (false, 2), (true, 1)]);
        assert_eq!(found(&subscriptions, "none"), [(true, 1)]);
        assert!(subscriptions.shard_subscribers(b"news").eq([3]));
        subscriptions.apply(1, &[change(by_name, "news", false), change(pattern, "n*", false)]);
        subscriptions.apply(2, &[change(by_name, "news", false)]);
        assert!(!subscriptions.is_empty());
        subscriptions.apply(3, &[change(SubscriptionKind::Shard, "news", false)]);
        assert!(subscriptions.is_empty());
    }
}
