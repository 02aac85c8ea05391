//! Commands on keys, whatever they hold.

use super::super::{calls, commands, strings};
use super::{
    ALL_KEYS, ONE_KEY, READ_FAST, SECOND_KEY, Spec, command, subcommand, timed_verb, verb,
};
/// Frees no memory of the server's for long, and adds none.
const CHANGE_FAST: &[&str] = &["write", "fast"];

/// In order of their names.
pub(super) const COMMANDS: &[Spec] = &[
    command("del", -2, strings::del)
        .keys_at(ALL_KEYS)
        .flags(&["write"])
        .categories(&["keyspace"])
        .since("1.0.0", "generic")
        .costs("O(N), N being the number of keys")
        .about("Removes keys."),
    command("exists", -2, strings::exists)
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
    command("memory", -2, commands::help)
        .since("4.0.0", "server")
        .about("Commands about what takes memory.")
        .with(MEMORY),
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
    command("unlink", -2, strings::del)
        .keys_at(ALL_KEYS)
        .flags(CHANGE_FAST)
        .categories(&["keyspace"])
        .since("4.0.0", "generic")
        .costs("O(N), N being the number of keys")
        .about("Removes keys."),
];

const MEMORY: &[Spec] = &[
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
