//! Commands on streams. The time at which an entry is added or delivered is that of the replicated
//! clock, so all replicas choose the same ids.

mod arguments;
mod claims;
mod entries;
mod groups;
mod info;
mod reads;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::Outcome;
use crate::kv::commands::row::{
    Answer, KEYS_AFTER_STREAMS, KeyPositions, ONE_KEY, Row, Scale, read, write,
};
use crate::kv::keyspace::Keyspace;
use crate::kv::values::stream::entries::StreamEntry;
use crate::kv::values::stream::id::StreamId;

/// The stream commands of the state machine: number, name, key positions and function of each.
/// Append new commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[
    change(312, "xadd", ONE_KEY, entries::xadd),
    look(313, "xlen", entries::xlen),
    look(314, "xrange", entries::xrange).per(Scale::OptionalCount),
    look(315, "xrevrange", entries::xrevrange).per(Scale::OptionalCount),
    change(316, "xdel", ONE_KEY, entries::xdel),
    change(317, "xtrim", ONE_KEY, entries::xtrim).per(Scale::Values),
    change(318, "xsetid", ONE_KEY, entries::xsetid),
    read(319, "xread", KEYS_AFTER_STREAMS, reads::xread)
        .per(Scale::OptionalCount)
        .since(FeatureLevel::V0_2),
    change(320, "xreadgroup", KEYS_AFTER_STREAMS, reads::xreadgroup).per(Scale::OptionalCount),
    change(321, "xgroup|create", ONE_KEY, groups::create),
    change(322, "xgroup|setid", ONE_KEY, groups::setid),
    change(323, "xgroup|destroy", ONE_KEY, groups::destroy).per(Scale::Values),
    change(324, "xgroup|createconsumer", ONE_KEY, groups::createconsumer),
    change(325, "xgroup|delconsumer", ONE_KEY, groups::delconsumer).per(Scale::Values),
    change(326, "xack", ONE_KEY, groups::xack),
    look(327, "xpending", groups::xpending).per(Scale::Count),
    change(328, "xclaim", ONE_KEY, claims::xclaim),
    change(329, "xautoclaim", ONE_KEY, claims::xautoclaim).per(Scale::Count),
    look(330, "xinfo|stream", info::stream).per(Scale::OptionalCount),
    look(331, "xinfo|groups", info::groups),
    look(332, "xinfo|consumers", info::consumers),
];

/// The commands of clients that wait for entries of streams.
pub(in crate::kv) const WAITING: &[Row] = &[
    read(420, "xread|wait", KEYS_AFTER_STREAMS, reads::xread_or_wait)
        .per(Scale::OptionalCount)
        .since(FeatureLevel::V0_2),
    change(421, "xreadgroup|wait", KEYS_AFTER_STREAMS, reads::xreadgroup_again)
        .per(Scale::OptionalCount),
];

/// Returns the row of a command that may change streams.
const fn change(
    number: u16,
    name: &'static str,
    keys: KeyPositions,
    run: fn(&mut Keyspace, &Args<'_>) -> Answer,
) -> Row {
    write(number, name, keys, run).since(FeatureLevel::V0_2)
}

/// Returns the row of a command that reads one stream.
const fn look(number: u16, name: &'static str, run: fn(&Keyspace, &Args<'_>) -> Answer) -> Row {
    read(number, name, ONE_KEY, run).since(FeatureLevel::V0_2)
}

/// The result of a part of a command. The error is the outcome of the command.
type Attempt<T> = Result<T, Outcome>;

/// Runs a command whose errors are outcomes.
#[allow(clippy::unnecessary_wraps, reason = "the result of all commands")]
fn attempt(run: impl FnOnce() -> Attempt<Outcome>) -> Answer {
    Ok(run().unwrap_or_else(|error| error))
}

/// Returns an error outcome with the text that consists of `parts`. As in Redis, a part ends at its
/// first NUL byte.
fn error_of(parts: &[&[u8]]) -> Outcome {
    let until_nul =
        |part: &&[u8]| part.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    Outcome::Error(Bytes::from(parts.iter().map(until_nul).collect::<Vec<_>>().concat()))
}

/// Returns the error outcome for a key that does not exist or has no such group.
fn no_group(key: &[u8], group: &[u8]) -> Outcome {
    error_of(&[b"NOGROUP No such key '", key, b"' or consumer group '", group, b"'"])
}

/// Returns the error outcome for a stream without such a group.
fn no_group_of_key(key: &[u8], group: &[u8]) -> Outcome {
    error_of(&[b"NOGROUP No such consumer group '", group, b"' for key name '", key, b"'"])
}

/// Returns the error outcome for unexpected arguments of a subcommand, whose name is that in the
/// request.
fn wrong_subcommand(command: &[u8], subcommand: &[u8]) -> Outcome {
    error_of(&[
        b"ERR unknown subcommand or wrong number of arguments for '",
        subcommand,
        b"'. Try ",
        command,
        b" HELP.",
    ])
}

fn text(bytes: &[u8]) -> Outcome {
    Outcome::Value(Some(Bytes::copy_from_slice(bytes)))
}

fn name(name: &'static str) -> Outcome {
    Outcome::Value(Some(Bytes::from_static(name.as_bytes())))
}

fn number(number: u64) -> Outcome {
    Outcome::Integer(number.cast_signed())
}

fn id_text(id: StreamId) -> Outcome {
    Outcome::Value(Some(Bytes::from(id.to_string())))
}

/// Returns the outcome for an entry: its id, and its fields and values.
fn entry_outcome(entry: &StreamEntry) -> Outcome {
    Outcome::List(vec![id_text(entry.id), Outcome::Values(entry.fields.to_shared())])
}
