//! Commands on sets.

use crate::redis::commands::passthrough::passed_on;
use crate::redis::spec::{CommandSpec, READ_FAST, WRITE_FAST};

/// Rows of the command table for set commands (name, arity, flags, documentation and function),
/// sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    passed_on("sadd", -3)
        .flags(WRITE_FAST)
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the number of members")
        .about("Adds one or more members to a set. Creates the key if it does not exist."),
    passed_on("scard", 2)
        .flags(READ_FAST)
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(1)")
        .about("Returns the number of members of a set."),
    passed_on("sdiff", -2)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the members of all sets")
        .about("Returns the difference of several sets."),
    passed_on("sdiffstore", -3)
        .flags(&["write", "denyoom"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the members of all sets")
        .about("Stores the difference of several sets in a key."),
    passed_on("sinter", -2)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N*M), N being the members of the smallest set and M the number of sets")
        .about("Returns the intersection of several sets."),
    passed_on("sintercard", -3)
        .flags(&["readonly", "movablekeys"])
        .categories(&["set"])
        .since("7.0.0", "set")
        .costs("O(N*M), N being the members of the smallest set and M the number of sets")
        .about("Returns the number of members of the intersection of several sets."),
    passed_on("sinterstore", -3)
        .flags(&["write", "denyoom"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N*M), N being the members of the smallest set and M the number of sets")
        .about("Stores the intersection of several sets in a key."),
    passed_on("sismember", 3)
        .flags(READ_FAST)
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(1)")
        .about("Returns whether a member belongs to a set."),
    passed_on("smembers", 2)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the number of members")
        .about("Returns all members of a set."),
    passed_on("smismember", -3)
        .flags(READ_FAST)
        .categories(&["set"])
        .since("6.2.0", "set")
        .costs("O(N), N being the number of members requested")
        .about("Returns for each of several members whether it belongs to a set."),
    passed_on("smove", 4)
        .flags(&["write", "fast"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(1)")
        .about("Moves a member from one set to another."),
    passed_on("spop", -2)
        .flags(&["write", "fast"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the count, or 1")
        .about("Removes and returns one or more random members of a set."),
    passed_on("srandmember", -2)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the count, or 1")
        .about("Returns one or more random members of a set."),
    passed_on("srem", -3)
        .flags(&["write", "fast"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the number of members")
        .about("Removes one or more members from a set."),
    passed_on("sscan", -3)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("2.8.0", "set")
        .costs("O(1) a call, O(N) for all, N being the number of members")
        .about("Iterates over the members of a set."),
    passed_on("sunion", -2)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the members of all sets")
        .about("Returns the union of several sets."),
    passed_on("sunionstore", -3)
        .flags(&["write", "denyoom"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the members of all sets")
        .about("Stores the union of several sets in a key."),
];
