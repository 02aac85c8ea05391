//! Pub/Sub commands.

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::{CommandId, Operation, glob};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::session::subscriptions::{SubscriptionChange, SubscriptionKind};
use crate::redis::spec::{ALL_KEYS, CommandSpec, KeyRange, command, subcommand};

use super::help::{container, help_row};

const PUBLISH: CommandId = CommandId::of("publish");

/// The third argument of the state machine's `publish` for shard channels.
const SHARDED: &[u8] = b"shard";

const SUBSCRIBE: &[&str] = &["pubsub", "noscript", "loading", "stale"];
const INTROSPECTION: &[&str] = &["pubsub", "loading", "stale"];

/// Rows of the command table for Pub/Sub commands (name, arity, flags, documentation and function),
/// sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    row("psubscribe", -2, psubscribe)
        .costs("O(N), N being the number of patterns")
        .about("Subscribes to all channels that match one or more patterns."),
    row("publish", 3, publish)
        .flags(&["pubsub", "loading", "stale", "fast"])
        .costs("O(N+M), N being the subscribers and M the patterns at this replica")
        .about("Publishes a message to the subscribers of a channel at every replica."),
    container("pubsub")
        .since("2.8.0", "pubsub")
        .about("A container for Pub/Sub commands.")
        .with(PUBSUB),
    row("punsubscribe", -1, punsubscribe)
        .costs("O(N), N being the number of patterns")
        .about("Unsubscribes from the given patterns, or from all of them."),
    sharded("spublish", 3, FIRST_CHANNEL, spublish)
        .flags(&["pubsub", "loading", "stale", "fast"])
        .needs(FeatureLevel::V0_2)
        .costs("O(N), N being the subscribers at this replica")
        .about("Publishes a message to the subscribers of a shard channel at every replica."),
    sharded("ssubscribe", -2, ALL_KEYS, ssubscribe)
        .costs("O(N), N being the number of channels")
        .about("Subscribes to one or more shard channels."),
    row("subscribe", -2, subscribe)
        .costs("O(N), N being the number of channels")
        .about("Subscribes to one or more channels."),
    sharded("sunsubscribe", -1, ALL_KEYS, sunsubscribe)
        .costs("O(N), N being the number of channels")
        .about("Unsubscribes from the given shard channels, or from all of them."),
    row("unsubscribe", -1, unsubscribe)
        .costs("O(N), N being the number of channels")
        .about("Unsubscribes from the given channels, or from all of them."),
];

const PUBSUB: &[CommandSpec] = &[
    introspection("channels", "pubsub|channels", -2, channels)
        .costs("O(N), N being the number of channels")
        .about("Returns the channels that have subscribers at this replica."),
    help_row("pubsub|help"),
    introspection("numpat", "pubsub|numpat", 2, numpat)
        .costs("O(1)")
        .about("Returns the number of patterns that have subscribers at this replica."),
    introspection("numsub", "pubsub|numsub", -2, numsub)
        .costs("O(N), N being the number of channels")
        .about("Returns the number of subscribers of each given channel at this replica."),
    introspection("shardchannels", "pubsub|shardchannels", -2, shardchannels)
        .since("7.0.0", "pubsub")
        .costs("O(N), N being the number of shard channels")
        .about("Returns the shard channels that have subscribers at this replica."),
    introspection("shardnumsub", "pubsub|shardnumsub", -2, shardnumsub)
        .since("7.0.0", "pubsub")
        .costs("O(N), N being the number of channels")
        .about("Returns the number of subscribers of each given shard channel at this replica."),
];

/// The first argument is a channel, as in `SPUBLISH`.
const FIRST_CHANNEL: KeyRange = KeyRange { first: 1, last: 1, step: 1 };

const fn row(name: &'static str, arity: i8, run: fn(&mut Call<'_>) -> Action) -> CommandSpec {
    command(name, arity, run).flags(SUBSCRIBE).categories(&["pubsub"]).since("2.0.0", "pubsub")
}

/// Returns a row for a command on shard channels, by which cluster clients find the shard of a
/// channel. `channels` are the positions of the channels.
const fn sharded(
    name: &'static str,
    arity: i8,
    channels: KeyRange,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    row(name, arity, run).since("7.0.0", "pubsub").channels_at(channels)
}

const fn introspection(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, full_name, arity, run)
        .flags(INTROSPECTION)
        .categories(&["pubsub"])
        .since("2.8.0", "pubsub")
}

/// Runs `SUBSCRIBE channel [channel ...]`: subscribes the client to channels.
fn subscribe(call: &mut Call<'_>) -> Action {
    add(call, SubscriptionKind::Channel, "subscribe")
}

/// Runs `PSUBSCRIBE pattern [pattern ...]`: subscribes the client to all channels that match a
/// pattern.
fn psubscribe(call: &mut Call<'_>) -> Action {
    add(call, SubscriptionKind::Pattern, "psubscribe")
}

/// Runs `SSUBSCRIBE channel [channel ...]`: subscribes the client to shard channels.
fn ssubscribe(call: &mut Call<'_>) -> Action {
    add(call, SubscriptionKind::Shard, "ssubscribe")
}

/// Runs `SUNSUBSCRIBE [channel ...]`: ends the client's subscriptions to the named shard channels,
/// or to all shard channels.
fn sunsubscribe(call: &mut Call<'_>) -> Action {
    remove(call, SubscriptionKind::Shard, "sunsubscribe")
}

/// Runs `UNSUBSCRIBE [channel ...]`: ends the client's subscriptions to the named channels, or to
/// all channels.
fn unsubscribe(call: &mut Call<'_>) -> Action {
    remove(call, SubscriptionKind::Channel, "unsubscribe")
}

/// Runs `PUNSUBSCRIBE [pattern ...]`: ends the client's subscriptions to the named patterns, or to
/// all patterns.
fn punsubscribe(call: &mut Call<'_>) -> Action {
    remove(call, SubscriptionKind::Pattern, "punsubscribe")
}

fn add(call: &mut Call<'_>, kind: SubscriptionKind, command: &str) -> Action {
    let mut changes = Vec::new();
    for name in call.request.rest(1) {
        let name = Bytes::copy_from_slice(name);
        if call.connection.subscriptions.names(kind).insert(name.clone()) {
            changes.push(SubscriptionChange { kind, name: name.clone(), subscribes: true });
        }
        confirm(call, kind, command, Some(&name));
    }
    Action::UpdateSubscriptions(changes)
}

fn remove(call: &mut Call<'_>, kind: SubscriptionKind, command: &str) -> Action {
    let names: Vec<Bytes> = if call.request.len() > 1 {
        call.request.rest(1).map(Bytes::copy_from_slice).collect()
    } else {
        call.connection.subscriptions.names(kind).iter().cloned().collect()
    };
    if names.is_empty() {
        confirm(call, kind, command, None);
    }
    let mut changes = Vec::new();
    for name in names {
        if call.connection.subscriptions.names(kind).remove(&name) {
            changes.push(SubscriptionChange { kind, name: name.clone(), subscribes: false });
        }
        confirm(call, kind, command, Some(&name));
    }
    Action::UpdateSubscriptions(changes)
}

/// Writes the confirmation that a subscription has begun or ended, with the number of the client's
/// subscriptions afterwards; shard channels are counted separately. `command` is the name of the
/// confirmed command. `name` is the channel or pattern; `None` if the client had no subscription to
/// end.
fn confirm(call: &mut Call<'_>, kind: SubscriptionKind, command: &str, name: Option<&[u8]>) {
    let subscriptions = &call.connection.subscriptions;
    let count = match kind {
        SubscriptionKind::Channel | SubscriptionKind::Pattern => subscriptions.count(),
        SubscriptionKind::Shard => subscriptions.shard_channel_count(),
    };
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    call.writer.push(3);
    call.writer.bulk(command.as_bytes());
    call.writer.bulk_or_null(name);
    call.writer.integer(count);
}

/// Runs `PUBLISH channel message`: submits the message, and replies with the number of subscribers
/// that are connected to this replica. Subscribers at other replicas also receive the message.
fn publish(call: &mut Call<'_>) -> Action {
    let (channel, message) = (call.argument(1), call.argument(2));
    let count = call.context.subscriptions.subscribers(channel).count();
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    call.submit(Operation::call(PUBLISH, [channel, message]), ReplyKind::Number(count))
}

/// Runs `SPUBLISH channel message`: publishes like `PUBLISH`, to the subscribers of the shard
/// channel.
fn spublish(call: &mut Call<'_>) -> Action {
    let (channel, message) = (call.argument(1), call.argument(2));
    let count = call.context.subscriptions.subscriber_count(channel, true);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let arguments = [channel, message, SHARDED];
    call.submit(Operation::call(PUBLISH, &arguments[..]), ReplyKind::Number(count))
}

/// Runs `PUBSUB CHANNELS [pattern]`: replies with the channels to which clients of this replica
/// subscribe by name, or with those that match the pattern.
fn channels(call: &mut Call<'_>) -> Action {
    write_channels(call, false)
}

/// Runs `PUBSUB SHARDCHANNELS [pattern]`: replies with the shard channels to which clients of this
/// replica subscribe, or with those that match the pattern.
fn shardchannels(call: &mut Call<'_>) -> Action {
    write_channels(call, true)
}

fn write_channels(call: &mut Call<'_>, are_sharded: bool) -> Action {
    let pattern = call.request.get(2);
    let matches = |name: &&Bytes| pattern.is_none_or(|pattern| glob::matches(pattern, name));
    let channels = call.context.subscriptions.channels(are_sharded).filter(matches);
    call.writer.array(channels.clone().count());
    for name in channels {
        call.writer.bulk(name);
    }
    Action::Reply
}

/// Runs `PUBSUB NUMSUB [channel ...]`: replies with the number of this replica's subscribers to
/// each channel.
fn numsub(call: &mut Call<'_>) -> Action {
    write_counts(call, false)
}

/// Runs `PUBSUB SHARDNUMSUB [channel ...]`: replies with the number of this replica's subscribers
/// to each shard channel.
fn shardnumsub(call: &mut Call<'_>) -> Action {
    write_counts(call, true)
}

fn write_counts(call: &mut Call<'_>, are_sharded: bool) -> Action {
    let names = call.request.rest(2);
    call.writer.array(2 * names.len());
    for name in names {
        let count = call.context.subscriptions.subscriber_count(name, are_sharded);
        call.writer.bulk(name);
        call.writer.integer(i64::try_from(count).unwrap_or(i64::MAX));
    }
    Action::Reply
}

/// Runs `PUBSUB NUMPAT`: replies with the number of patterns to which clients of this replica
/// subscribe.
fn numpat(call: &mut Call<'_>) -> Action {
    let count = call.context.subscriptions.pattern_count();
    call.integer(count)
}
