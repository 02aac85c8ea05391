//! Commands on sets.

use crate::redis::commands::passthrough::verb;
use crate::redis::spec::{ALL_KEYS, CommandSpec, ONE_KEY, READ_FAST, TWO_KEYS, WRITE_FAST};

/// In order of their names.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    verb("sadd", -3)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the number of members")
        .about("Adds members."),
    verb("scard", 2)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(1)")
        .about("Tells how many members there are."),
    verb("sdiff", -2)
        .keys_at(ALL_KEYS)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the members of all sets")
        .about("Tells the members of a set that no other one has."),
    verb("sdiffstore", -3)
        .keys_at(ALL_KEYS)
        .flags(&["write", "denyoom"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the members of all sets")
        .about("Stores the members of a set that no other one has."),
    verb("sinter", -2)
        .keys_at(ALL_KEYS)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N*M), N being the members of the smallest set and M the number of sets")
        .about("Tells the members that all sets have."),
    verb("sintercard", -3)
        .keys_counted_at(1)
        .flags(&["readonly", "movablekeys"])
        .categories(&["set"])
        .since("7.0.0", "set")
        .costs("O(N*M), N being the members of the smallest set and M the number of sets")
        .about("Tells how many members all sets have in common."),
    verb("sinterstore", -3)
        .keys_at(ALL_KEYS)
        .flags(&["write", "denyoom"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N*M), N being the members of the smallest set and M the number of sets")
        .about("Stores the members that all sets have."),
    verb("sismember", 3)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(1)")
        .about("Tells whether a member is there."),
    verb("smembers", 2)
        .keys_at(ONE_KEY)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the number of members")
        .about("Tells all members."),
    verb("smismember", -3)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["set"])
        .since("6.2.0", "set")
        .costs("O(N), N being the number of members asked for")
        .about("Tells of each member whether it is there."),
    verb("smove", 4)
        .keys_at(TWO_KEYS)
        .flags(&["write", "fast"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(1)")
        .about("Moves a member to another set."),
    verb("spop", -2)
        .keys_at(ONE_KEY)
        .flags(&["write", "fast"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the count, or 1")
        .about("Takes out members that chance finds."),
    verb("srandmember", -2)
        .keys_at(ONE_KEY)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the count, or 1")
        .about("Tells members that chance finds."),
    verb("srem", -3)
        .keys_at(ONE_KEY)
        .flags(&["write", "fast"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the number of members")
        .about("Removes members."),
    verb("sscan", -3)
        .keys_at(ONE_KEY)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("2.8.0", "set")
        .costs("O(1) a call, O(N) for all, N being the number of members")
        .about("Tells members, some in each call."),
    verb("sunion", -2)
        .keys_at(ALL_KEYS)
        .flags(&["readonly"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the members of all sets")
        .about("Tells the members that at least one set has."),
    verb("sunionstore", -3)
        .keys_at(ALL_KEYS)
        .flags(&["write", "denyoom"])
        .categories(&["set"])
        .since("1.0.0", "set")
        .costs("O(N), N being the members of all sets")
        .about("Stores the members that at least one set has."),
];
