//! Commands on streams.

use crate::kv::{CommandId, parse_integer};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::help::{container, help_row};
use crate::redis::commands::passthrough::{
    passed_on, passed_on_with_clock, subcommand_passed_on, subcommand_passed_on_with_clock,
    subcommand_passed_on_with_name, submit_unchanged,
};
use crate::redis::spec::{CommandSpec, READ_FAST, WRITE_FAST, command};

/// Redis flags of fast commands that write but add no data.
const CHANGE_FAST: &[&str] = &["write", "fast"];

const STREAM: &[&str] = &["stream"];

const XGROUP: &[CommandSpec] = &[
    of_group_with_name("create", "xgroup|create", -5)
        .flags(&["write", "denyoom"])
        .about("Creates a consumer group of a stream."),
    of_group("createconsumer", "xgroup|createconsumer", 5)
        .flags(&["write", "denyoom"])
        .since("6.2.0", "stream")
        .about("Creates a consumer of a consumer group."),
    of_group("delconsumer", "xgroup|delconsumer", 5)
        .costs("O(N log N), N being the pending entries of the consumer")
        .about("Removes a consumer, and returns the number of its pending entries."),
    of_group("destroy", "xgroup|destroy", 4).about("Removes a consumer group."),
    help_row("xgroup|help").categories(STREAM).since("5.0.0", "stream"),
    of_group_with_name("setid", "xgroup|setid", -5)
        .about("Sets the id of the last entry that a consumer group has read."),
];

const fn of_group(name: &'static str, full_name: &'static str, arity: i8) -> CommandSpec {
    described(subcommand_passed_on(name, full_name, arity))
}

const fn of_group_with_name(name: &'static str, full_name: &'static str, arity: i8) -> CommandSpec {
    described(subcommand_passed_on_with_name(name, full_name, arity))
}

const fn described(spec: CommandSpec) -> CommandSpec {
    spec.flags(&["write"]).categories(STREAM).since("5.0.0", "stream").costs("O(1)")
}

const XINFO: &[CommandSpec] = &[
    subcommand_passed_on_with_clock("consumers", "xinfo|consumers", 4)
        .flags(&["readonly"])
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(N), N being the number of consumers")
        .about("Returns the consumers of a consumer group."),
    subcommand_passed_on("groups", "xinfo|groups", 3)
        .flags(&["readonly"])
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(N), N being the number of groups")
        .about("Returns the consumer groups of a stream."),
    help_row("xinfo|help").categories(STREAM).since("5.0.0", "stream"),
    subcommand_passed_on_with_name("stream", "xinfo|stream", -3)
        .flags(&["readonly"])
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(1), or O(N) with FULL, N being the number of entries returned")
        .about("Returns facts about a stream."),
];

/// Rows of the command table for stream commands (name, arity, flags, documentation and function),
/// sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    passed_on("xack", -4)
        .flags(CHANGE_FAST)
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(log N) for each id, N being the number of pending entries")
        .about("Acknowledges entries that were delivered to a consumer of a group."),
    passed_on("xadd", -5)
        .flags(WRITE_FAST)
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(1), and O(N) to trim, N being the number of entries removed")
        .about("Appends an entry to a stream, and returns its id. Creates the key if needed."),
    passed_on("xautoclaim", -6)
        .flags(CHANGE_FAST)
        .categories(STREAM)
        .since("6.2.0", "stream")
        .costs("O(N log M), N being the entries visited and M those that are pending")
        .about("Makes entries that have been pending for long pending for another consumer."),
    passed_on("xclaim", -6)
        .flags(CHANGE_FAST)
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(log N) for each id, N being the number of pending entries")
        .about("Makes pending entries pending for another consumer."),
    passed_on("xdel", -3)
        .flags(CHANGE_FAST)
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(log N) for each id, N being the number of entries")
        .about("Removes entries from a stream."),
    container("xgroup")
        .since("5.0.0", "stream")
        .about("A container for commands on consumer groups.")
        .with(XGROUP),
    container("xinfo")
        .since("5.0.0", "stream")
        .about("A container for commands that describe streams.")
        .with(XINFO),
    passed_on("xlen", 2)
        .flags(READ_FAST)
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(1)")
        .about("Returns the number of entries of a stream."),
    passed_on_with_clock("xpending", -3)
        .flags(&["readonly"])
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(log N + M), N being the number of pending entries and M those visited")
        .about("Returns entries that were delivered to consumers and are not acknowledged yet."),
    passed_on("xrange", -4)
        .flags(&["readonly"])
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(log N + M), N being the number of entries and M those returned")
        .about("Returns the entries of a stream with ids in a range."),
    command("xread", -4, read_streams)
        .runs(CommandId::of("xread"))
        .flags(&["readonly", "blocking", "movablekeys"])
        .categories(&["stream", "blocking"])
        .since("5.0.0", "stream")
        .costs("O(log N + M) for each stream, N being its entries and M those returned")
        .about("Returns the entries of streams that follow given ids. Can wait for new entries."),
    command("xreadgroup", -7, read_streams)
        .runs(CommandId::of("xreadgroup"))
        .flags(&["write", "blocking", "movablekeys"])
        .categories(&["stream", "blocking"])
        .since("5.0.0", "stream")
        .costs("O(log N + M) for each stream, N being its entries and M those returned")
        .about("Returns entries of streams that no consumer of a group has read yet."),
    passed_on("xrevrange", -4)
        .flags(&["readonly"])
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(log N + M), N being the number of entries and M those returned")
        .about("Returns the entries of a stream with ids in a range, in reverse order."),
    passed_on("xsetid", -3)
        .flags(WRITE_FAST)
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(1)")
        .about("Sets the last id of a stream."),
    passed_on("xtrim", -4)
        .flags(&["write"])
        .categories(STREAM)
        .since("5.0.0", "stream")
        .costs("O(N), N being the number of entries removed")
        .about("Removes entries from the start of a stream."),
];

/// Runs `XREAD` or `XREADGROUP`. Refuses the option `BLOCK`, except in a transaction, in which it
/// never waits. The state machine reports errors in the arguments.
fn read_streams(call: &mut Call<'_>) -> Action {
    if call.batch.is_none() && has_timeout(call) {
        return call
            .error(&"ERR BLOCK is not supported; not applied, read again from time to time");
    }
    submit_unchanged(call)
}

/// Returns whether the request has the option `BLOCK` with a valid timeout.
fn has_timeout(call: &Call<'_>) -> bool {
    let mut options = call.request.rest(1);
    while let Some(option) = options.next() {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("STREAMS") {
            return false;
        } else if is("BLOCK") {
            return options.next().and_then(parse_integer).is_some_and(|timeout| timeout >= 0);
        } else if is("GROUP") {
            options.by_ref().take(2).for_each(drop);
        } else if is("COUNT") {
            options.next();
        }
    }
    false
}
