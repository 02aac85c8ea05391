//! Commands on streams.

use std::time::Duration;

use bytes::Bytes;

use crate::kv::{CommandId, DatabaseId, Operation, ValueType, parse_integer};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::blocking::ENDLESS_MILLIS;
use crate::redis::commands::help::{container, help_row};
use crate::redis::commands::passthrough::{
    passed_on, passed_on_with_clock, subcommand_passed_on, subcommand_passed_on_with_clock,
    subcommand_passed_on_with_name, submit_unchanged,
};
use crate::redis::session::connection::Blocked;
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::session::stream_wait::StreamWait;
use crate::redis::session::waits::{AwaitedKeys, Wake};
use crate::redis::spec::{CommandSpec, READ_FAST, WRITE_FAST, command};
use crate::types::Instant;
use crate::wire::resp::Request;

/// The command of the state machine that runs `XREAD` for a client that may wait.
const XREAD_OR_WAIT: CommandId = CommandId::of("xread|wait");
/// Maximum number of entries that a client which has waited gets from a stream without the option
/// `COUNT`, as in Redis.
const WAITING_COUNT: usize = 1_000;

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

/// Runs `XREAD` or `XREADGROUP`. With the option `BLOCK`, the client waits if there are no entries,
/// unless the command is inside another. The state machine reports errors in the arguments.
fn read_streams(call: &mut Call<'_>) -> Action {
    let Some(wait) = BlockingRead::parse(call).filter(|_| call.batch.is_none()) else {
        return submit_unchanged(call);
    };
    let wait = wait.wait(call.connection.database, call.context.now);
    let action = if wait.reader.is_none() {
        let args: Vec<&[u8]> = call.request.rest(1).collect();
        call.submit(Operation::call(XREAD_OR_WAIT, &args[..]), ReplyKind::Plain)
    } else {
        submit_unchanged(call)
    };
    if matches!(action, Action::Submit { .. }) {
        call.connection.blocked = Some(Blocked::Streams(Box::new(wait)));
    }
    action.blocking()
}

/// The valid arguments of an `XREAD` or `XREADGROUP` that may wait.
struct BlockingRead<'r> {
    /// `None` for no limit.
    timeout: Option<Duration>,
    entries_max: usize,
    /// The group and the consumer; `None` for `XREAD`.
    reader: Option<(&'r [u8], &'r [u8])>,
    needs_no_ack: bool,
    keys: Vec<&'r [u8]>,
    ids: Vec<&'r [u8]>,
}

impl<'r> BlockingRead<'r> {
    /// Parses the request. Returns `None` if it never waits, or if its arguments are malformed.
    fn parse(call: &Call<'r>) -> Option<BlockingRead<'r>> {
        let (mut timeout, mut count, mut reader, mut needs_no_ack) = (None, 0, None, false);
        let mut args = call.request.rest(1);
        loop {
            let option = args.next()?;
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            if is("STREAMS") {
                break;
            } else if is("BLOCK") {
                timeout = Some(u64::try_from(parse_integer(args.next()?)?).ok()?);
            } else if is("COUNT") {
                count = usize::try_from(parse_integer(args.next()?)?).unwrap_or(0);
            } else if is("GROUP") {
                reader = Some((args.next()?, args.next()?));
            } else if is("NOACK") {
                needs_no_ack = true;
            } else {
                return None;
            }
        }
        let mut keys: Vec<&[u8]> = args.collect();
        let ids = keys.split_off(keys.len() / 2);
        let is_group = call.request.get(0)?.eq_ignore_ascii_case(b"XREADGROUP");
        // A consumer's pending entries are there at once, even if there are none.
        let reads_new = |id: &&[u8]| !is_group || *id == b">";
        let is_valid = keys.len() == ids.len() && is_group == reader.is_some();
        let waits = !ids.is_empty() && ids.iter().all(reads_new);
        let timeout = timeout.filter(|_| is_valid && waits)?;
        let is_endless = timeout == 0 || timeout > ENDLESS_MILLIS;
        Some(BlockingRead {
            timeout: (!is_endless).then(|| Duration::from_millis(timeout)),
            entries_max: if count == 0 { WAITING_COUNT } else { count },
            reader,
            needs_no_ack,
            keys,
            ids,
        })
    }

    fn wait(self, database: DatabaseId, now: Instant) -> StreamWait {
        let copy = |texts: Vec<&[u8]>| texts.into_iter().map(Bytes::copy_from_slice).collect();
        let reader = self.reader.map(|(group, consumer)| {
            (Bytes::copy_from_slice(group), Bytes::copy_from_slice(consumer), self.needs_no_ack)
        });
        let keys = AwaitedKeys {
            kind: ValueType::Stream,
            database,
            keys: copy(self.keys),
            wake: if reader.is_some() { Wake::News } else { Wake::All },
            entries_max: self.entries_max,
            group: reader.as_ref().map_or_else(Bytes::new, |(group, ..)| group.clone()),
        };
        let until = self.timeout.map(|timeout| now + timeout);
        StreamWait { until, keys, ids: copy(self.ids), reader }
    }
}

/// Returns Redis's error for a script that calls `XREAD` or `XREADGROUP` with the option `BLOCK`;
/// `None` for any other call.
pub(in crate::redis) fn refusal_in_script(
    spec: &CommandSpec,
    request: Request<'_>,
) -> Option<String> {
    if !matches!(spec.full_name, "xread" | "xreadgroup") {
        return None;
    }
    let mut args = request.rest(1);
    loop {
        let option = args.next()?;
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("BLOCK") {
            args.next()?;
            let name = String::from_utf8_lossy(request.get(0)?);
            return Some(format!(
                "ERR {name} command is not allowed with BLOCK option from scripts"
            ));
        } else if is("COUNT") {
            parse_integer(args.next()?)?;
        } else if is("GROUP") {
            args.nth(1)?;
        } else if !is("NOACK") {
            return None;
        }
    }
}
