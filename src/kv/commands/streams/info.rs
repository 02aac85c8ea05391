//! `XINFO`: facts about streams, consumer groups and consumers.

use super::arguments::{integer, is};
use super::{
    Attempt, attempt, entry_outcome, id_text, name, no_group_of_key, number, wrong_subcommand,
};
use crate::kv::commands::args::Args;
use crate::kv::commands::expiration::time_of_read;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::Answer;
use crate::kv::keyspace::Keyspace;
use crate::kv::values::element::Element;
use crate::kv::values::stream::Stream;
use crate::kv::values::stream::group::{Consumer, Group};
use crate::kv::values::stream::id::StreamId;

/// Default of the option `COUNT` of `XINFO STREAM key FULL`.
const COUNT: usize = 10;

fn existing<'k>(keyspace: &'k Keyspace, key: &[u8]) -> Attempt<&'k Stream> {
    Ok(keyspace.collection::<Stream>(key)?.ok_or(Refusal::NoSuchKey)?)
}

/// Runs `XINFO STREAM key [FULL [COUNT count]]`: returns facts about a stream, with its first
/// entries and its groups if `FULL` is given. The server adds a last argument, the name of the
/// subcommand, for the text of an error.
pub(in crate::kv) fn stream(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (subcommand, args) = args.all().split_last().ok_or(Refusal::Syntax)?;
        let [key, options @ ..] = args else { return Err(Refusal::Syntax.into()) };
        let stream = existing(keyspace, key)?;
        let count = match options {
            [] => return Ok(Outcome::Map(facts(stream).chain(ends(stream)).collect())),
            [full] if is(full, "FULL") => COUNT,
            [full, option, value] if is(full, "FULL") && is(option, "COUNT") => {
                match usize::try_from(integer(value)?) {
                    Ok(0) => usize::MAX,
                    Ok(count) => count,
                    Err(_) => COUNT,
                }
            }
            _ => return Err(wrong_subcommand(b"XINFO", subcommand)),
        };
        let entries = stream.entries().range(StreamId::MIN, StreamId::MAX).take(count);
        let entries = Outcome::List(entries.map(entry_outcome).collect());
        let groups = stream.groups.iter();
        let groups = groups.map(|(name, group)| full_group(stream, name, group, count));
        let rest = [("entries", entries), ("groups", Outcome::List(groups.collect()))];
        Ok(Outcome::Map(facts(stream).chain(rest.map(named)).collect()))
    })
}

fn named((title, value): (&'static str, Outcome)) -> (Outcome, Outcome) {
    (name(title), value)
}

/// Returns the facts that `XINFO STREAM` returns with and without `FULL`. The size of Redis's radix
/// tree stands for the number of chunks.
fn facts(stream: &Stream) -> impl Iterator<Item = (Outcome, Outcome)> {
    let chunks = stream.entries().chunk_count();
    let nodes = if chunks == 0 { 1 } else { chunks + 1 };
    [
        ("length", Outcome::count(stream.entries().len())),
        ("radix-tree-keys", Outcome::count(chunks)),
        ("radix-tree-nodes", Outcome::count(nodes)),
        ("last-generated-id", id_text(stream.last_id())),
        ("max-deleted-entry-id", id_text(stream.max_deleted_id())),
        ("entries-added", number(stream.entries_added())),
        ("recorded-first-entry-id", id_text(stream.first_id())),
    ]
    .into_iter()
    .map(named)
}

/// Returns the facts that `XINFO STREAM` returns only without `FULL`.
fn ends(stream: &Stream) -> impl Iterator<Item = (Outcome, Outcome)> {
    let entries = stream.entries();
    [
        ("groups", Outcome::count(stream.groups.len())),
        ("first-entry", entries.first().map_or(Outcome::Value(None), entry_outcome)),
        ("last-entry", entries.last().map_or(Outcome::Value(None), entry_outcome)),
    ]
    .into_iter()
    .map(named)
}

fn text(text: &Element) -> Outcome {
    Outcome::Value(Some(text.to_shared()))
}

fn optional(number: Option<i64>) -> Outcome {
    number.map_or(Outcome::Value(None), Outcome::Integer)
}

fn full_group(stream: &Stream, group_name: &Element, group: &Group, count: usize) -> Outcome {
    let rows = group.pending().iter().take(count).map(|(id, pending)| {
        let times = [number(pending.delivered_at), number(pending.deliveries)];
        let row = [id_text(id), text(&pending.consumer)].into_iter().chain(times);
        Outcome::List(row.collect())
    });
    let consumers =
        group.consumers().map(|(name, consumer)| full_consumer(group, name, consumer, count));
    let fields = [
        ("name", text(group_name)),
        ("last-delivered-id", id_text(group.last_id)),
        ("entries-read", optional(group.entries_read.map(u64::cast_signed))),
        ("lag", optional(stream.lag(group))),
        ("pel-count", Outcome::count(group.pending().len())),
        ("pending", Outcome::List(rows.collect())),
        ("consumers", Outcome::List(consumers.collect())),
    ];
    Outcome::Map(fields.map(named).into())
}

fn full_consumer(
    group: &Group,
    consumer_name: &Element,
    consumer: &Consumer,
    count: usize,
) -> Outcome {
    let pending = consumer.pending.iter().take(count);
    let rows = pending.filter_map(|(id, ())| {
        let pending = group.pending().get(id)?;
        let times = [number(pending.delivered_at), number(pending.deliveries)];
        Some(Outcome::List([id_text(id)].into_iter().chain(times).collect()))
    });
    let fields = [
        ("name", text(consumer_name)),
        ("seen-time", number(consumer.seen_at)),
        ("pel-count", Outcome::count(consumer.pending.len())),
        ("pending", Outcome::List(rows.collect())),
    ];
    Outcome::Map(fields.map(named).into())
}

/// Runs `XINFO GROUPS key`: returns facts about the groups of a stream.
pub(in crate::kv) fn groups(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let stream = existing(keyspace, args.get(0)?)?;
        let groups = stream.groups.iter().map(|(name, group)| {
            let fields = [
                ("name", text(name)),
                ("consumers", Outcome::count(group.consumers().len())),
                ("pending", Outcome::count(group.pending().len())),
                ("last-delivered-id", id_text(group.last_id)),
                ("entries-read", optional(group.entries_read.map(u64::cast_signed))),
                ("lag", optional(stream.lag(group))),
            ];
            Outcome::Map(fields.map(named).into())
        });
        Ok(Outcome::List(groups.collect()))
    })
}

/// Runs `XINFO CONSUMERS key group`: returns facts about the consumers of a group. The server adds
/// a last argument, a reading of the replicated clock, before it submits the command.
pub(in crate::kv) fn consumers(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    attempt(|| {
        let (key, group) = (args.get(0)?, args.get(1)?);
        let now = time_of_read(keyspace, args.get(2)?);
        let stream = existing(keyspace, key)?;
        let group = stream.groups.get(group).ok_or_else(|| no_group_of_key(key, group))?;
        let consumers = group.consumers().map(|(name, consumer)| {
            let fields = [
                ("name", text(name)),
                ("pending", Outcome::count(consumer.pending.len())),
                ("idle", number(now.saturating_sub(consumer.seen_at))),
            ];
            Outcome::Map(fields.map(named).into())
        });
        Ok(Outcome::List(consumers.collect()))
    })
}
