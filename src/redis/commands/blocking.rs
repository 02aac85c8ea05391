//! Commands that may wait: those that take an element of a list or a sorted set, such as `BLPOP`,
//! and those that wait for other replicas, `WAIT` and `WAITAOF`. Inside a transaction, none waits.

use std::time::Duration;

use bytes::Bytes;

use crate::kv::{CommandId, Operation, ValueType, parse_double, parse_integer};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::connection::{Blocked, ReplicaWait};
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::session::waits::{AwaitedKeys, PopWait, Wake};
use crate::redis::spec::{CommandSpec, command};

use super::passthrough::submit_unchanged;

const POP: &[&str] = &["write", "noscript", "blocking"];
const MOVE: &[&str] = &["write", "denyoom", "noscript", "blocking"];
const POP_MANY: &[&str] = &["write", "blocking", "movablekeys"];
const LIST: &[&str] = &["list", "blocking"];
const SORTED_SET: &[&str] = &["sortedset", "blocking"];

/// Returns a row of the command table for a command that runs under the same name in the state
/// machine.
const fn row(name: &'static str, arity: i8, run: fn(&mut Call<'_>) -> Action) -> CommandSpec {
    command(name, arity, run).runs(CommandId::of(name))
}

/// Rows of the command table for blocking commands (name, arity, flags, documentation and
/// function), sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    row("blmove", 6, blmove)
        .flags(MOVE)
        .categories(LIST)
        .since("6.2.0", "list")
        .costs("O(1)")
        .about("Pops an element from one list, pushes it to another and returns it, or waits."),
    row("blmpop", -5, blmpop)
        .flags(POP_MANY)
        .categories(LIST)
        .since("7.0.0", "list")
        .costs("O(N+M), N being the number of keys and M the number of elements popped")
        .about("Pops elements from the first of several lists that is not empty, or waits."),
    row("blpop", -3, pop_from_list)
        .flags(POP)
        .categories(LIST)
        .since("2.0.0", "list")
        .costs("O(N), N being the number of keys")
        .about("Pops the first element of one of several lists, or waits for an element."),
    row("brpop", -3, pop_from_list)
        .flags(POP)
        .categories(LIST)
        .since("2.0.0", "list")
        .costs("O(N), N being the number of keys")
        .about("Pops the last element of one of several lists, or waits for an element."),
    row("brpoplpush", 4, brpoplpush)
        .flags(MOVE)
        .categories(LIST)
        .since("2.2.0", "list")
        .costs("O(1)")
        .about("Pops the last element of a list and pushes it to the left of another, or waits."),
    row("bzmpop", -5, bzmpop)
        .flags(POP_MANY)
        .categories(SORTED_SET)
        .since("7.0.0", "sorted-set")
        .costs("O(K + M log N), K being the keys, N the members of one and M those popped")
        .about("Pops members of the first of several sorted sets that is not empty, or waits."),
    row("bzpopmax", -3, pop_from_sorted_set)
        .flags(&["write", "noscript", "blocking", "fast"])
        .categories(SORTED_SET)
        .since("5.0.0", "sorted-set")
        .costs("O(log N), N being the number of members")
        .about("Pops the member with the highest score of one of several sorted sets, or waits."),
    row("bzpopmin", -3, pop_from_sorted_set)
        .flags(&["write", "noscript", "blocking", "fast"])
        .categories(SORTED_SET)
        .since("5.0.0", "sorted-set")
        .costs("O(log N), N being the number of members")
        .about("Pops the member with the lowest score of one of several sorted sets, or waits."),
    command("wait", 3, wait)
        .flags(&["noscript"])
        .categories(&["connection"])
        .since("3.0.0", "generic")
        .costs("O(1)")
        .about("Waits until earlier writes of the connection are durable on other replicas."),
    command("waitaof", 4, waitaof)
        .flags(&["noscript"])
        .categories(&["connection"])
        .since("7.2.0", "generic")
        .costs("O(1)")
        .about("Waits until earlier writes are in the logs of this and of other replicas."),
];

/// Runs `BLPOP key [key ...] timeout` or `BRPOP`.
fn pop_from_list(call: &mut Call<'_>) -> Action {
    pop_from_any(call, ValueType::List)
}

/// Runs `BZPOPMIN key [key ...] timeout` or `BZPOPMAX`.
fn pop_from_sorted_set(call: &mut Call<'_>) -> Action {
    pop_from_any(call, ValueType::SortedSet)
}

fn pop_from_any(call: &mut Call<'_>, kind: ValueType) -> Action {
    let last = call.request.len() - 1;
    submit(call, last, 1..last, kind)
}

/// Runs `BLMOVE source destination LEFT | RIGHT LEFT | RIGHT timeout`.
fn blmove(call: &mut Call<'_>) -> Action {
    let is_end = |end: &[u8]| ["left", "right"].iter().any(|word| is(end, word));
    if !is_end(call.argument(3)) || !is_end(call.argument(4)) {
        return call.error(&"ERR syntax error");
    }
    submit(call, 5, 1..2, ValueType::List)
}

/// Runs `BRPOPLPUSH source destination timeout`.
fn brpoplpush(call: &mut Call<'_>) -> Action {
    submit(call, 3, 1..2, ValueType::List)
}

/// Runs `BLMPOP timeout numkeys key [key ...] LEFT | RIGHT [COUNT count]`.
fn blmpop(call: &mut Call<'_>) -> Action {
    pop_many(call, ["left", "right"], ValueType::List)
}

/// Runs `BZMPOP timeout numkeys key [key ...] MIN | MAX [COUNT count]`.
fn bzmpop(call: &mut Call<'_>) -> Action {
    pop_many(call, ["min", "max"], ValueType::SortedSet)
}

fn pop_many(call: &mut Call<'_>, ends: [&str; 2], kind: ValueType) -> Action {
    // As in Redis, an invalid timeout is reported only if the other arguments are valid.
    let above_0 = |text| parse_integer(text).filter(|number| *number > 0);
    let Some(count) = above_0(call.argument(2)) else {
        return call.error(&"ERR numkeys should be greater than 0");
    };
    let end = usize::try_from(count).unwrap_or(usize::MAX).saturating_add(3);
    let options: Vec<&[u8]> = call.request.rest(end.min(call.request.len())).collect();
    let Some((_, options)) =
        options.split_first().filter(|(from, _)| ends.iter().any(|word| is(from, word)))
    else {
        return call.error(&"ERR syntax error");
    };
    match options {
        [] => {}
        [name, count, rest @ ..] if is(name, "count") => {
            if above_0(count).is_none() {
                return call.error(&"ERR count should be greater than 0");
            }
            if !rest.is_empty() {
                return call.error(&"ERR syntax error");
            }
        }
        _ => return call.error(&"ERR syntax error"),
    }
    submit(call, 1, 3..end, kind)
}

fn is(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}

/// Submits the request. If it finds nothing, the client waits for values of type `kind` at the keys
/// at the positions `keys`, unless the command is inside another. The timeout in seconds is at the
/// position `timeout`.
fn submit(
    call: &mut Call<'_>,
    timeout: usize,
    keys: std::ops::Range<usize>,
    kind: ValueType,
) -> Action {
    let until = match seconds(call.argument(timeout)) {
        Ok(timeout) => timeout.map(|timeout| call.context.now + timeout),
        Err(error) => return call.error(&error),
    };
    let action = submit_unchanged(call);
    let Action::Submit { operation, .. } = &action else { return action };
    if call.batch.is_some() {
        return action;
    }
    let moves = call.command.is_some_and(|command| command.keys() == CommandId::of("lmove").keys());
    let keys = keys.map(|position| Bytes::copy_from_slice(call.argument(position))).collect();
    let (database, wake) = (call.connection.database, Wake::Elements);
    let keys = AwaitedKeys { kind, database, keys, wake, entries_max: 1, group: Bytes::new() };
    let wait = PopWait { until, keys, operation: operation.clone(), moves };
    call.connection.blocked = Some(Blocked::Pop(Box::new(wait)));
    action.blocking()
}

/// Parses a timeout in seconds; `None` if it is zero, for no limit. Redis's errors.
fn seconds(argument: &[u8]) -> Result<Option<Duration>, &'static str> {
    let seconds = parse_double(argument).ok_or("ERR timeout is not a float or out of range")?;
    let millis = (seconds * 1_000.0).ceil();
    // A timeout of 2^63 ms or more is negative in Redis, too.
    if !(0.0..9_223_372_036_854_775_808.0).contains(&millis) {
        return Err("ERR timeout is negative");
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
    let millis = millis as u64;
    // A wait of centuries has no end. The limit keeps the sum with the current time in range.
    let is_endless = millis == 0 || millis > ENDLESS_MILLIS;
    Ok((!is_endless).then(|| Duration::from_millis(millis)))
}

/// Timeout in milliseconds, about 140 years, above which a wait has no end.
pub(super) const ENDLESS_MILLIS: u64 = 1 << 42;

/// Runs `WAIT numreplicas timeout`.
fn wait(call: &mut Call<'_>) -> Action {
    let Some(count) = parse_integer(call.argument(1)) else {
        return call.error(&"ERR value is not an integer or out of range");
    };
    wait_for_replicas(call, usize::try_from(count).unwrap_or(0), 2, false)
}

/// Runs `WAITAOF numlocal numreplicas timeout`. This replica's log always has the writes.
fn waitaof(call: &mut Call<'_>) -> Action {
    if !parse_integer(call.argument(1)).is_some_and(|local| (0..=1).contains(&local)) {
        return call.error(&"ERR value is out of range, must be between 0 and 1");
    }
    let count = parse_integer(call.argument(2)).and_then(|count| usize::try_from(count).ok());
    let Some(count) = count else {
        return call.error(&"ERR value is out of range, must be positive");
    };
    wait_for_replicas(call, count, 3, true)
}

/// Waits for `count` other replicas. A read that goes through the log's order comes first, so that
/// the outcomes of the connection's earlier writes are known. The timeout in milliseconds is at
/// the position `timeout`.
fn wait_for_replicas(
    call: &mut Call<'_>,
    count: usize,
    timeout: usize,
    with_local: bool,
) -> Action {
    let Some(millis) = parse_integer(call.argument(timeout)) else {
        return call.error(&"ERR timeout is not an integer or out of range");
    };
    let Ok(millis) = u64::try_from(millis) else {
        return call.error(&"ERR timeout is negative");
    };
    let wait = (millis > 0 && millis <= ENDLESS_MILLIS).then(|| Duration::from_millis(millis));
    let until = wait.map(|wait| call.context.now + wait);
    if call.batch.is_some() {
        // As in Redis, without waiting. The entry of the transaction itself does not count.
        if with_local {
            call.writer.array(2);
            call.writer.integer(1);
        }
        return call.integer(call.context.replicas_with(call.context.applied_index));
    }
    let action = call.submit(Operation::call(CommandId::of("dbsize"), []), ReplyKind::Plain);
    if matches!(action, Action::Submit { .. }) {
        call.connection.blocked = Some(Blocked::Replicas(ReplicaWait { until, count, with_local }));
    }
    action.blocking()
}
