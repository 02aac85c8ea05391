//! Commands about the server and its whole data set.

use crate::feature_level::FeatureLevel;
use crate::kv::{CommandId, Operation};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::spec::{ADMIN, ANYTIME_FAST, CommandSpec, READ_FAST, command, subcommand};

use super::help::{container, help_row};
use super::passthrough::{passed_on, submit_unchanged};

/// The state machine's command that removes the keys of one database.
const FLUSHDB: CommandId = CommandId::of("flushdb");
/// The state machine's command that removes all keys. Before all replicas know other databases,
/// these are the keys of database 0.
const FLUSHALL: CommandId = CommandId::of("flushall");

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
    passed_on("flushall", -1)
        .flags(&["write"])
        .categories(&["keyspace", "dangerous"])
        .since("1.0.0", "server")
        .costs("O(N), N being the number of keys")
        .about("Removes all keys of all databases."),
    command("flushdb", -1, flushdb)
        .runs(FLUSHDB)
        .needs(FeatureLevel::OLDEST)
        .flags(&["write"])
        .categories(&["keyspace", "dangerous"])
        .since("1.0.0", "server")
        .costs("O(N), N being the number of keys of the database")
        .about("Removes all keys of the database."),
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
    command("swapdb", 3, swapdb)
        .runs(CommandId::of("swapdb"))
        .flags(&["write", "fast"])
        .categories(&["keyspace", "dangerous"])
        .since("4.0.0", "server")
        .costs("O(1)")
        .about("Exchanges the keys of two databases."),
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

/// Runs `FLUSHDB [ASYNC | SYNC]`.
fn flushdb(call: &mut Call<'_>) -> Action {
    let knows_databases = call.context.members.feature_level >= FeatureLevel::V0_2;
    let arguments: Vec<&[u8]> = call.request.rest(1).collect();
    let command = if knows_databases { FLUSHDB } else { FLUSHALL };
    call.submit(Operation::call(command, &arguments[..]), ReplyKind::Plain)
}

/// Runs `SWAPDB index1 index2`.
fn swapdb(call: &mut Call<'_>) -> Action {
    if call.connection.follows_redirects {
        return call.error(&"ERR SWAPDB is not allowed in cluster mode");
    }
    submit_unchanged(call)
}

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
