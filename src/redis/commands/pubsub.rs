//! Channels: who listens to which at this replica, the commands about them, and what befalls keys
//! as messages. A message goes through the log, so it reaches the listeners at every replica, all
//! in the same order; who was not connected when it came by does not get it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::kv::Operation;
use crate::wire::resp::{Version, Writer};

use crate::kv::glob;
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::reply_format::Kind;

/// What a listener costs in memory beside the name it listens to, about.
const INTEREST_BYTES: usize = 160;

/// Names a listener: the door's own number for a connection.
pub type SubscriberId = u64;

/// Something that a connection listens to, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// Whether the name is a pattern.
    pub pattern: bool,
    /// The channel's name, or the pattern.
    pub name: Bytes,
    /// From now on, or no longer.
    pub on: bool,
}

/// Who listens to what, at one replica.
#[derive(Debug, Clone, Default)]
pub struct Subscriptions {
    channels: BTreeMap<Bytes, BTreeSet<SubscriberId>>,
    patterns: BTreeMap<Bytes, BTreeSet<SubscriberId>>,
}

/// What one connection listens to.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct ClientSubscriptions {
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
}

impl ClientSubscriptions {
    pub(in crate::redis) fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    pub(in crate::redis) fn channel_count(&self) -> usize {
        self.channels.len()
    }

    pub(in crate::redis) fn pattern_count(&self) -> usize {
        self.patterns.len()
    }

    /// Bytes of memory that it takes here and in [`Subscriptions`], about.
    pub(in crate::redis) fn bytes(&self) -> usize {
        let names = self.channels.iter().chain(&self.patterns);
        names.map(|name| 2 * name.len() + INTEREST_BYTES).sum()
    }

    fn of(&mut self, pattern: bool) -> &mut BTreeSet<Bytes> {
        if pattern { &mut self.patterns } else { &mut self.channels }
    }

    /// All of it comes to an end.
    pub(in crate::redis) fn end(&mut self) -> Vec<SubscriptionChange> {
        let end = |pattern| move |name| SubscriptionChange { pattern, name, on: false };
        let ClientSubscriptions { channels, patterns } = std::mem::take(self);
        channels.into_iter().map(end(false)).chain(patterns.into_iter().map(end(true))).collect()
    }
}

impl Subscriptions {
    /// A connection listens to something from now on, or no longer.
    pub fn apply(&mut self, listener: SubscriberId, changes: &[SubscriptionChange]) {
        for SubscriptionChange { pattern, name, on } in changes {
            let names = if *pattern { &mut self.patterns } else { &mut self.channels };
            if *on {
                names.entry(name.clone()).or_default().insert(listener);
            } else if let Some(listeners) = names.get_mut(name) {
                listeners.remove(&listener);
                if listeners.is_empty() {
                    names.remove(name);
                }
            }
        }
    }

    /// Whether nobody listens to anything.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty()
    }

    /// Who gets a message to a channel, and by which pattern if not by its name. A connection gets
    /// it once for each way.
    pub fn subscribers(
        &self,
        channel: &[u8],
    ) -> impl Iterator<Item = (Option<&Bytes>, SubscriberId)> {
        let by_name = self.channels.get(channel).into_iter().flatten();
        let matching = self.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel));
        let by_pattern = matching.flat_map(|(pattern, listeners)| {
            listeners.iter().map(move |listener| (Some(pattern), *listener))
        });
        by_name.map(|listener| (None, *listener)).chain(by_pattern)
    }
}

/// Writes a message as a listener gets it.
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

/// Which of the things that befall keys are told, of `notify-keyspace-events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyspaceNotifications {
    /// By the key's own channel.
    pub keyspace_channel: bool,
    /// By the event's channel.
    pub keyevent_channel: bool,
    classes: u16,
}

/// Redis's letters for classes of events; `A` stands for all but the last two.
const CLASSES: &[u8] = b"g$lshzxetdmn";
const ALL_CLASSES: u16 = (1 << 10) - 1;

impl KeyspaceNotifications {
    /// Reads the setting; `None` if it is none.
    pub fn read(text: &str) -> Option<KeyspaceNotifications> {
        let mut events = KeyspaceNotifications::default();
        for letter in text.bytes() {
            match letter {
                b'K' => events.keyspace_channel = true,
                b'E' => events.keyevent_channel = true,
                b'A' => events.classes |= ALL_CLASSES,
                _ => {
                    events.classes |= 1 << CLASSES.iter().position(|class| *class == letter)?;
                }
            }
        }
        Some(events)
    }

    /// Whether any is told.
    pub fn is_enabled(self) -> bool {
        (self.keyspace_channel || self.keyevent_channel) && self.classes != 0
    }

    /// Whether the event of that name is.
    pub fn includes(self, name: &str) -> bool {
        let class = class_of(name);
        CLASSES
            .iter()
            .position(|there| *there == class)
            .is_some_and(|at| self.classes >> at & 1 == 1)
    }
}

/// To which class an event belongs.
fn class_of(name: &str) -> u8 {
    match name {
        "del" | "rename_from" | "rename_to" | "copy_to" | "move_from" | "move_to" | "expire"
        | "persist" | "restore" => b'g',
        "expired" => b'x',
        "evicted" => b'e',
        "new" => b'n',
        "set" | "setrange" | "append" | "incrby" | "decrby" | "incrbyfloat" | "setbit" => b'$',
        _ => match name.as_bytes().first() {
            Some(b'h') => b'h',
            Some(b'z') => b'z',
            Some(b'l' | b'r') => b'l',
            // What is left begins as the commands on sets do.
            _ => b's',
        },
    }
}

/// `SUBSCRIBE channel [channel ...]`
pub(in crate::redis) fn subscribe(call: &mut Call<'_>) -> Action {
    begin(call, false, "subscribe")
}

/// `PSUBSCRIBE pattern [pattern ...]`
pub(in crate::redis) fn psubscribe(call: &mut Call<'_>) -> Action {
    begin(call, true, "psubscribe")
}

/// `UNSUBSCRIBE [channel ...]`
pub(in crate::redis) fn unsubscribe(call: &mut Call<'_>) -> Action {
    end(call, false, "unsubscribe")
}

/// `PUNSUBSCRIBE [pattern ...]`
pub(in crate::redis) fn punsubscribe(call: &mut Call<'_>) -> Action {
    end(call, true, "punsubscribe")
}

fn begin(call: &mut Call<'_>, pattern: bool, word: &str) -> Action {
    let mut changes = Vec::new();
    for name in call.request.rest(1) {
        let name = Bytes::copy_from_slice(name);
        if call.connection.listening.of(pattern).insert(name.clone()) {
            changes.push(SubscriptionChange { pattern, name: name.clone(), on: true });
        }
        confirm(call, word, Some(&name));
    }
    Action::UpdateSubscriptions(changes)
}

fn end(call: &mut Call<'_>, pattern: bool, word: &str) -> Action {
    let named: Vec<Bytes> = if call.request.len() > 1 {
        call.request.rest(1).map(Bytes::copy_from_slice).collect()
    } else {
        call.connection.listening.of(pattern).iter().cloned().collect()
    };
    if named.is_empty() {
        confirm(call, word, None);
    }
    let mut changes = Vec::new();
    for name in named {
        if call.connection.listening.of(pattern).remove(&name) {
            changes.push(SubscriptionChange { pattern, name: name.clone(), on: false });
        }
        confirm(call, word, Some(&name));
    }
    Action::UpdateSubscriptions(changes)
}

fn confirm(call: &mut Call<'_>, word: &str, name: Option<&[u8]>) {
    let count = i64::try_from(call.connection.listening.count()).unwrap_or(i64::MAX);
    call.writer.push(3);
    call.writer.bulk(word.as_bytes());
    call.writer.bulk_or_null(name);
    call.writer.integer(count);
}

/// `PUBLISH channel message`: how many get it here; those at other replicas are not counted.
pub(in crate::redis) fn publish(call: &mut Call<'_>) -> Action {
    let (channel, message) = (call.argument(1), call.argument(2));
    let count = call.context.subscriptions.subscribers(channel).count();
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    call.submit(Operation::Publish { channel, message }, Kind::Number(count))
}

/// `PUBSUB CHANNELS [pattern]`
pub(in crate::redis) fn channels(call: &mut Call<'_>) -> Action {
    let pattern = call.request.get(2);
    let fits = |name: &&Bytes| pattern.is_none_or(|pattern| glob::matches(pattern, name));
    let channels = call.context.subscriptions.channels.keys().filter(fits);
    call.writer.array(channels.clone().count());
    for name in channels {
        call.writer.bulk(name);
    }
    Action::Reply
}

/// `PUBSUB NUMSUB [channel ...]`
pub(in crate::redis) fn numsub(call: &mut Call<'_>) -> Action {
    let names = call.request.rest(2);
    call.writer.array(2 * names.len());
    for name in names {
        let count = call.context.subscriptions.channels.get(name).map_or(0, BTreeSet::len);
        call.writer.bulk(name);
        call.writer.integer(i64::try_from(count).unwrap_or(i64::MAX));
    }
    Action::Reply
}

/// `PUBSUB NUMPAT`
pub(in crate::redis) fn numpat(call: &mut Call<'_>) -> Action {
    let count = call.context.subscriptions.patterns.len();
    call.writer.integer(i64::try_from(count).unwrap_or(i64::MAX));
    Action::Reply
}

/// What an older client that listens may still ask: a reply to anything else it would take for a
/// message.
pub(in crate::redis) fn may_ask_while_listening(name: &str) -> bool {
    matches!(
        name,
        "subscribe" | "psubscribe" | "unsubscribe" | "punsubscribe" | "ping" | "quit" | "reset"
    )
}

/// `PING` of an older client that listens.
pub(in crate::redis) fn pong(writer: &mut Writer<'_>, message: &[u8]) {
    debug_assert_eq!(writer.version(), Version::Two);
    writer.array(2);
    writer.bulk(b"pong");
    writer.bulk(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_reach_who_listens_by_name_and_by_pattern() {
        let mut subscriptions = Subscriptions::default();
        let change = |pattern, name: &'static str, on| SubscriptionChange {
            pattern,
            name: Bytes::from_static(name.as_bytes()),
            on,
        };
        let ways = |subscriptions: &Subscriptions, channel: &str| {
            let listeners = subscriptions.subscribers(channel.as_bytes());
            listeners.map(|(pattern, id)| (pattern.is_some(), id)).collect::<Vec<_>>()
        };
        subscriptions.apply(1, &[change(false, "news", true), change(true, "n*", true)]);
        subscriptions.apply(2, &[change(false, "news", true)]);
        assert_eq!(ways(&subscriptions, "news"), [(false, 1), (false, 2), (true, 1)]);
        assert_eq!(ways(&subscriptions, "none"), [(true, 1)]);
        subscriptions.apply(1, &[change(false, "news", false), change(true, "n*", false)]);
        subscriptions.apply(2, &[change(false, "news", false)]);
        assert!(subscriptions.is_empty());
    }

    #[test]
    fn the_letters_choose_what_is_told_of_keys() {
        let told = |text, name| KeyspaceNotifications::read(text).unwrap().includes(name);
        assert!(told("KEA", "set") && told("KEA", "hset") && told("Kx", "expired"));
        assert!(!told("Kx", "set") && !told("KEA", "new") && told("Ezl", "rpush"));
        assert!(KeyspaceNotifications::read("KEA").unwrap().is_enabled());
        assert!(
            !KeyspaceNotifications::read("A").unwrap().is_enabled()
                && !KeyspaceNotifications::read("K").unwrap().is_enabled()
        );
        assert_eq!(KeyspaceNotifications::read("q"), None);
    }
}
