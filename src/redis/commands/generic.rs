//! Commands on keys, whatever they hold.

use crate::kv::{ItemsBuffer, Operation};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::command as commands;
use crate::redis::commands::passthrough as calls;
use crate::redis::commands::passthrough::{timed_verb, verb};
use crate::redis::session::reply_format::Kind;
use crate::redis::spec::{
    ALL_KEYS, CommandSpec, ONE_KEY, READ_FAST, SECOND_KEY, TWO_KEYS, command, subcommand,
};

/// Frees no memory of the server's for long, and adds none.
const CHANGE_FAST: &[&str] = &["write", "fast"];

const MEMORY: &[CommandSpec] = &[
    subcommand("help", "memory|help", 2, commands::help)
        .flags(&["loading", "stale"])
        .about("Tells of these."),
    subcommand("usage", "memory|usage", -3, calls::of_subcommand)
        .keys_at(SECOND_KEY)
        .flags(&["readonly"])
        .since("4.0.0", "server")
        .costs("O(1)")
        .about("Tells how much memory a key takes, about.")
        .does("memory|usage"),
];

const OBJECT: &[CommandSpec] = &[
    of_value("encoding", "object|encoding", "2.2.3").about("Tells how Redis would keep a value."),
    of_value("freq", "object|freq", "4.0.0")
        .about("Says that nobody counts how often a key is read."),
    subcommand("help", "object|help", 2, commands::help)
        .flags(&["loading", "stale"])
        .categories(&["keyspace"])
        .since("6.2.0", "generic")
        .costs("O(1)")
        .about("Tells the subcommands."),
    of_value("idletime", "object|idletime", "2.2.3")
        .about("Tells 0: nobody keeps when a key is read."),
    of_value("refcount", "object|refcount", "2.2.3").about("Tells how many keys share a value."),
];

const fn of_value(name: &'static str, full_name: &'static str, since: &'static str) -> CommandSpec {
    subcommand(name, full_name, 3, calls::of_subcommand)
        .does(full_name)
        .keys_at(SECOND_KEY)
        .flags(&["readonly"])
        .categories(&["keyspace"])
        .since(since, "generic")
        .costs("O(1)")
}

/// `DEL key [key ...]` and `UNLINK`, which is the same here: memory is freed by the apply stage,
/// away from sockets and heartbeats.
pub(in crate::redis) fn del(call: &mut Call<'_>) -> Action {
    if call.request.len() == 2 {
        return call.submit(Operation::Delete { key: call.argument(1) }, Kind::Plain);
    }
    let keys: ItemsBuffer = call.request.rest(1).collect();
    call.submit(Operation::DeleteMany { keys: keys.items() }, Kind::Plain)
}

/// `EXISTS key [key ...]`
pub(in crate::redis) fn exists(call: &mut Call<'_>) -> Action {
    let keys: ItemsBuffer = call.request.rest(1).collect();
    call.submit(Operation::Exists { keys: keys.items() }, Kind::Plain)
}

/// In order of their names.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    verb("copy", -3)
        .keys_at(TWO_KEYS)
        .flags(&["write", "denyoom"])
        .categories(&["keyspace"])
        .since("6.2.0", "generic")
        .costs("O(1)")
        .about("Copies what a key holds to another key."),
    command("del", -2, del)
        .keys_at(ALL_KEYS)
        .flags(&["write"])
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(N), N being the number of keys")
        .about("Removes keys."),
    command("exists", -2, exists)
        .keys_at(ALL_KEYS)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(N), N being the number of keys")
        .about("Tells how many of the keys exist."),
    verb("expire", -3)
        .keys_at(ONE_KEY)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Lets a key end in so many seconds."),
    verb("expireat", -3)
        .keys_at(ONE_KEY)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("1.2.0", "generic")
        .costs("O(1)")
        .about("Lets a key end at a moment, in seconds since 1970."),
    verb("expiretime", 2)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("7.0.0", "generic")
        .costs("O(1)")
        .about("Tells when a key ends, in seconds since 1970."),
    verb("keys", 2)
        .flags(&["readonly"])
        .categories(&["keyspace", "dangerous"])
        .since("1.0.0", "generic")
        .costs("O(N), N being the number of all keys; everybody waits")
        .about("Tells all keys that fit a pattern."),
    command("memory", -2, commands::help)
        .since("4.0.0", "server")
        .about("Commands about what takes memory.")
        .with(MEMORY),
    command("object", -2, commands::help)
        .since("2.2.3", "generic")
        .about("Commands about how values are kept.")
        .with(OBJECT),
    verb("persist", 2)
        .keys_at(ONE_KEY)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("2.2.0", "generic")
        .costs("O(1)")
        .about("Lets a key stay that would have ended."),
    verb("pexpire", -3)
        .keys_at(ONE_KEY)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("2.6.0", "generic")
        .costs("O(1)")
        .about("Lets a key end in so many milliseconds."),
    verb("pexpireat", -3)
        .keys_at(ONE_KEY)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("2.6.0", "generic")
        .costs("O(1)")
        .about("Lets a key end at a moment, in milliseconds since 1970."),
    verb("pexpiretime", 2)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("7.0.0", "generic")
        .costs("O(1)")
        .about("Tells when a key ends, in milliseconds since 1970."),
    timed_verb("pttl", 2)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("2.6.0", "generic")
        .costs("O(1)")
        .about("Tells how many milliseconds a key stays."),
    verb("randomkey", 1)
        .flags(&["readonly"])
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Tells some key."),
    verb("rename", 3)
        .keys_at(TWO_KEYS)
        .flags(&["write"])
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Gives a key another name, whatever had that."),
    verb("renamenx", 3)
        .keys_at(TWO_KEYS)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Gives a key another name that is free."),
    verb("scan", -2)
        .flags(&["readonly"])
        .categories(&["keyspace"])
        .since("2.8.0", "generic")
        .costs("O(N), N being the number of keys looked at, 16384 at most")
        .about("Goes through all keys, some at a time."),
    command("touch", -2, exists)
        .keys_at(ALL_KEYS)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("3.2.1", "generic")
        .costs("O(N), N being the number of keys")
        .about("Tells how many of the keys exist."),
    timed_verb("ttl", 2)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Tells how many seconds a key stays."),
    verb("type", 2)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(1)")
        .about("Tells what kind of value a key has."),
    command("unlink", -2, del)
        .keys_at(ALL_KEYS)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("4.0.0", "generic")
        .costs("O(N), N being the number of keys")
        .about("Removes keys."),
];
