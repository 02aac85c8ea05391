//! Commands about the server and its whole data set.

use std::time::Duration;

use crate::kv::Operation;
use crate::redis::action::{Action, LocalWrite};
use crate::redis::call::Call;
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::spec::{ADMIN, ANYTIME_FAST, CommandSpec, READ_FAST, command, subcommand};

use super::help::{container, help_row};
use super::passthrough::{passed_on, passed_on_as};

const SNAPSHOT: &[&str] = &["admin", "noscript", "no_async_loading"];

/// Rows of the command table for server commands (name, arity, flags, documentation and function),
/// sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    command("bgsave", -1, bgsave)
        .flags(SNAPSHOT)
        .categories(&["dangerous"])
        .since("1.0.0", "server")
        .costs("O(1)")
        .about("Starts a snapshot in the background."),
    container("clock")
        .flags(ADMIN)
        .categories(&["dangerous"])
        .about("A container for commands on the replicated clock, by which keys expire.")
        .with(CLOCK),
    passed_on("dbsize", 1)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "server")
        .costs("O(1)")
        .about("Returns the number of keys."),
    container("debug")
        .flags(ADMIN)
        .categories(&["dangerous"])
        .since("1.0.0", "server")
        .about("A container for debugging commands.")
        .with(DEBUG),
    passed_on("flushall", -1)
        .flags(&["write"])
        .categories(&["keyspace", "dangerous"])
        .since("1.0.0", "server")
        .costs("O(N), N being the number of keys")
        .about("Removes all keys."),
    passed_on_as("flushdb", -1, "flushall")
        .flags(&["write"])
        .categories(&["keyspace", "dangerous"])
        .since("1.0.0", "server")
        .costs("O(N), N being the number of keys")
        .about("Removes all keys."),
    command("lastsave", 1, lastsave)
        .flags(ANYTIME_FAST)
        .categories(&["admin", "dangerous"])
        .since("1.0.0", "server")
        .costs("O(1)")
        .about("Returns the Unix time of the latest snapshot."),
    command("save", 1, save)
        .flags(&["admin", "noscript", "no_async_loading", "no_multi"])
        .categories(&["dangerous"])
        .since("1.0.0", "server")
        .costs("O(1)")
        .about("Starts a snapshot without waiting for its end."),
    command("time", 1, time)
        .flags(ANYTIME_FAST)
        .since("2.6.0", "server")
        .costs("O(1)")
        .about("Returns the time of this replica's wall clock."),
];

const CLOCK: &[CommandSpec] = &[
    help_row("clock|help"),
    subcommand("reset", "clock|reset", 2, reset_clock)
        .flags(&["write", "admin", "noscript", "no_multi"])
        .categories(&["dangerous"])
        .costs("O(N), N being the number of keys that expire")
        .about(
            "Sets the replicated clock back to the wall clocks if it is ahead of them, and moves \
             expiration times with it. Returns the milliseconds by which it was set back.",
        ),
];

const DEBUG: &[CommandSpec] = &[
    subcommand("diverge", "debug|diverge", -4, debug_diverge)
        .flags(ADMIN)
        .costs("O(1)")
        .about("Sets a key in the state of this replica only, so that it differs from the others."),
    help_row("debug|help"),
    subcommand("sleep", "debug|sleep", 3, debug_sleep)
        .flags(ADMIN)
        .costs("O(1)")
        .about("Blocks the whole replica for the given number of seconds."),
];

/// Runs `BGSAVE [SCHEDULE]`: starts a snapshot; replies with an error if one is already being
/// taken.
fn bgsave(call: &mut Call<'_>) -> Action {
    if let Some(option) = call.request.get(1)
        && (call.request.len() > 2 || !option.eq_ignore_ascii_case(b"schedule"))
    {
        return call.error(&"ERR syntax error");
    }
    if call.context.snapshot.taking {
        return call.error(&"ERR Background save already in progress");
    }
    call.writer.simple("Background saving started");
    Action::TakeSnapshot
}

/// Runs `SAVE`: starts a snapshot, and replies `OK` without waiting for it, because acknowledged
/// writes are durable in the log.
fn save(call: &mut Call<'_>) -> Action {
    call.writer.ok();
    Action::TakeSnapshot
}

/// Runs `LASTSAVE`: replies with the time of the latest snapshot, as Unix time in seconds.
fn lastsave(call: &mut Call<'_>) -> Action {
    let saved_at = call.context.snapshot.saved_at;
    call.integer(saved_at)
}

/// Runs `TIME`: replies with this replica's wall clock, in seconds and microseconds.
fn time(call: &mut Call<'_>) -> Action {
    let now = call.context.wall_clock;
    call.writer.array(2);
    call.writer.bulk(now.as_secs().to_string().as_bytes());
    call.writer.bulk(now.subsec_micros().to_string().as_bytes());
    Action::Reply
}

/// Runs `CLOCK RESET`: submits an operation that sets the replicated clock back if it is ahead of
/// the wall clocks of a quorum.
fn reset_clock(call: &mut Call<'_>) -> Action {
    call.submit(Operation::ResetClock { millis: 0 }, ReplyKind::Plain)
}

fn refuse_debug(call: &mut Call<'_>) -> Action {
    call.error(
        &"ERR DEBUG command not allowed. If the enable-debug-command option is set to \"yes\", \
          you can run it; start the replica with --enable-debug-command yes",
    )
}

/// Runs `DEBUG DIVERGE key value [SILENT]`, if `DEBUG` is enabled: sets the key in the state of
/// this replica only, without a log entry; with `SILENT`, without a change of the digest. For tests
/// of how a wrong state is found and replaced.
fn debug_diverge(call: &mut Call<'_>) -> Action {
    if !call.context.debug {
        return refuse_debug(call);
    }
    let silently = call.request.get(4).is_some();
    if call.request.len() > 5
        || call.request.get(4).is_some_and(|option| !option.eq_ignore_ascii_case(b"silent"))
    {
        return call.error(&"ERR syntax error");
    }
    let (key, value) = (call.argument(2).to_vec(), call.argument(3).to_vec());
    call.writer.ok();
    Action::WriteOnlyHere(LocalWrite { key, value, silently })
}

/// Runs `DEBUG SLEEP seconds`, if `DEBUG` is enabled: blocks the whole replica for this time. A
/// blocked leader does not answer its peers, so it can lose its leadership.
fn debug_sleep(call: &mut Call<'_>) -> Action {
    if !call.context.debug {
        return refuse_debug(call);
    }
    let seconds = std::str::from_utf8(call.argument(2)).ok().and_then(|text| text.parse().ok());
    let time = seconds.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    let Some(time) = time else { return call.error(&"ERR value is not a valid float") };
    call.writer.ok();
    Action::Sleep(time)
}
