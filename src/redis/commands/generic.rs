//! Commands on keys with values of any type.

use crate::feature_level::FeatureLevel;
use crate::kv::{CommandId, EncodingLimits, Operation, parse_integer};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::help::{container, help_row};
use crate::redis::commands::passthrough::{
    passed_on, passed_on_as, passed_on_blocking, passed_on_with_clock, subcommand_passed_on,
    submit_subcommand, submit_unchanged,
};
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::spec::{CommandSpec, READ_FAST, command, subcommand};

/// Redis flags of fast commands that write but add no data. The flag `denyoom` is missing, so these
/// commands run even while memory usage exceeds `maxmemory`.
const CHANGE_FAST: &[&str] = &["write", "fast"];

const OBJECT: &[CommandSpec] = &[
    subcommand("encoding", "object|encoding", 3, encoding)
        .runs(CommandId::of("object|encoding"))
        .flags(&["readonly"])
        .categories(&["keyspace"])
        .since("2.2.3", "generic")
        .costs("O(1); O(N) with other limits than Redis's defaults, N being the size of the value")
        .about("Returns the encoding that Redis would use for a value."),
    of_value("freq", "object|freq", "4.0.0")
        .about("Returns an error: access frequencies are not recorded."),
    help_row("object|help").categories(&["keyspace"]).since("6.2.0", "generic"),
    of_value("idletime", "object|idletime", "2.2.3")
        .about("Returns 0: access times are not recorded."),
    of_value("refcount", "object|refcount", "2.2.3")
        .about("Returns the reference count of a value."),
    of_value("revision", "object|revision", "7.2.0")
        .about("Returns the number of the operation that last changed a key."),
];

const fn of_value(name: &'static str, full_name: &'static str, since: &'static str) -> CommandSpec {
    subcommand_passed_on(name, full_name, 3)
        .flags(&["readonly"])
        .categories(&["keyspace"])
        .since(since, "generic")
        .costs("O(1)")
}

/// The state machine's command that copies a key to a database.
const COPY_TO_DATABASE: CommandId = CommandId::of("copydb");

/// Runs `COPY source destination [DB number] [REPLACE]`.
fn copy(call: &mut Call<'_>) -> Action {
    let options: Vec<&[u8]> = call.request.rest(3).collect();
    let databases = options.windows(2).filter(|pair| pair[0].eq_ignore_ascii_case(b"DB"));
    let databases: Vec<_> = databases.filter_map(|pair| parse_integer(pair[1])).collect();
    if call.connection.follows_redirects && databases.iter().any(|number| *number != 0) {
        return call.error(&"ERR Copying to another database is not allowed in cluster mode");
    }
    // Before all replicas know other databases, the command that knows only database 0.
    if databases.is_empty() || call.context.members.feature_level < FeatureLevel::V0_2 {
        return submit_unchanged(call);
    }
    let arguments: Vec<&[u8]> = call.request.rest(1).collect();
    call.submit(Operation::call(COPY_TO_DATABASE, &arguments[..]), ReplyKind::Plain)
}

/// Runs `MOVE key db`.
fn move_key(call: &mut Call<'_>) -> Action {
    if call.connection.follows_redirects {
        return call.error(&"ERR MOVE is not allowed in cluster mode");
    }
    submit_unchanged(call)
}

/// Rows of the command table for generic commands (name, arity, flags, documentation and function),
/// sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    command("copy", -3, copy)
        .runs(CommandId::of("copy"))
        .flags(&["write", "denyoom"])
        .categories(&["keyspace"])
        .since("6.2.0", "generic")
        .costs("O(1)")
        .about("Copies the value of a key to another key."),
    passed_on("del", -2)
        .flags(&["write"])
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(N), N being the number of keys")
        .about("Deletes one or more keys."),
    passed_on("exists", -2)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(N), N being the number of keys")
        .about("Returns how many of the keys exist."),
    passed_on("expire", -3)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Sets the expiration of a key in seconds."),
    passed_on("expireat", -3)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("1.2.0", "generic")
        .costs("O(1)")
        .about("Sets the expiration of a key to a Unix time in seconds."),
    passed_on("expiretime", 2)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("7.0.0", "generic")
        .costs("O(1)")
        .about("Returns the expiration of a key as a Unix time in seconds."),
    passed_on_blocking("keyrange", -3)
        .flags(&["readonly", "no_multi"])
        .categories(&["keyspace"])
        .since("7.2.0", "generic")
        .costs(
            "O(log(N)+M), N being the number of keys and M the number of keys visited, 4096 at \
                most; the first call on a replica is O(N*log(N))",
        )
        .about("Returns a page of the keys between two bounds, in byte order."),
    passed_on("keys", 2)
        .flags(&["readonly"])
        .categories(&["keyspace", "dangerous"])
        .since("1.0.0", "generic")
        .costs("O(N), N being the number of keys; no other command is applied meanwhile")
        .about("Returns all keys that match a pattern."),
    command("move", 3, move_key)
        .runs(CommandId::of("move"))
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Moves a key to another database."),
    container("object")
        .since("2.2.3", "generic")
        .about("A container for commands on the representation of values.")
        .with(OBJECT),
    passed_on("persist", 2)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("2.2.0", "generic")
        .costs("O(1)")
        .about("Removes the expiration of a key."),
    passed_on("pexpire", -3)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("2.6.0", "generic")
        .costs("O(1)")
        .about("Sets the expiration of a key in milliseconds."),
    passed_on("pexpireat", -3)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("2.6.0", "generic")
        .costs("O(1)")
        .about("Sets the expiration of a key to a Unix time in milliseconds."),
    passed_on("pexpiretime", 2)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("7.0.0", "generic")
        .costs("O(1)")
        .about("Returns the expiration of a key as a Unix time in milliseconds."),
    passed_on_with_clock("pttl", 2)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("2.6.0", "generic")
        .costs("O(1)")
        .about("Returns the remaining time to live of a key in milliseconds."),
    passed_on("randomkey", 1)
        .flags(&["readonly"])
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Returns a random key."),
    passed_on("rename", 3)
        .flags(&["write"])
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Renames a key and overwrites the destination."),
    passed_on("renamenx", 3)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Renames a key if the new name does not exist."),
    passed_on("scan", -2)
        .flags(&["readonly"])
        .categories(&["keyspace"])
        .since("2.8.0", "generic")
        .costs("O(N), N being the number of keys visited, 16384 at most")
        .about("Iterates over the keys."),
    passed_on_as("touch", -2, "exists")
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("3.2.1", "generic")
        .costs("O(N), N being the number of keys")
        .about("Returns how many of the keys exist. Access times are not recorded."),
    passed_on_with_clock("ttl", 2)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Returns the remaining time to live of a key in seconds."),
    passed_on("type", 2)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Returns the type of a key's value."),
    passed_on_as("unlink", -2, "del")
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("4.0.0", "generic")
        .costs("O(N), N being the number of keys")
        .about("Deletes one or more keys. The same as DEL."),
];

/// Runs `OBJECT ENCODING key`: returns the name of the encoding that Redis would use for the value,
/// with the limits that are set on this replica.
fn encoding(call: &mut Call<'_>) -> Action {
    let limits = call.settings.encoding_limits().map(EncodingLimits::to_bytes);
    submit_subcommand(call, limits.as_ref().map(|limits| &limits[..]))
}
