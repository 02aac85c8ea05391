//! Commands on lists.

use crate::redis::commands::passthrough::verb;
use crate::redis::spec::{CommandSpec, ONE_KEY, READ_FAST, TWO_KEYS, WRITE_FAST};

/// In order of their names.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    verb("lindex", 3)
        .keys_at(ONE_KEY)
        .flags(&["readonly"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the distance from the nearer end")
        .about("Tells the value at a place."),
    verb("linsert", 5)
        .keys_at(ONE_KEY)
        .flags(&["write", "denyoom"])
        .categories(&["list"])
        .since("2.2.0", "list")
        .costs("O(N), N being the distance of the pivot from the first")
        .about("Puts a value before or behind another."),
    verb("llen", 2)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(1)")
        .about("Tells how many values there are."),
    verb("lmove", 5)
        .keys_at(TWO_KEYS)
        .flags(&["write", "denyoom"])
        .categories(&["list"])
        .since("6.2.0", "list")
        .costs("O(1)")
        .about("Moves a value from an end of a list to one of another."),
    verb("lmpop", -4)
        .keys_counted_at(1)
        .flags(&["write", "movablekeys"])
        .categories(&["list"])
        .since("7.0.0", "list")
        .costs("O(N+M), N being the number of keys and M the number of values taken")
        .about("Takes values off the first list that there is."),
    verb("lpop", -2)
        .keys_at(ONE_KEY)
        .flags(&["write", "fast"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the count, or 1")
        .about("Takes the first values."),
    verb("lpos", -3)
        .keys_at(ONE_KEY)
        .flags(&["readonly"])
        .categories(&["list"])
        .since("6.0.6", "list")
        .costs("O(N), N being the number of values looked at")
        .about("Tells where values lie that are equal to one."),
    verb("lpush", -3)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the number of values")
        .about("Puts values before the first."),
    verb("lpushx", -3)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["list"])
        .since("2.2.0", "list")
        .costs("O(N), N being the number of values")
        .about("Puts values before the first, if there is a list."),
    verb("lrange", 4)
        .keys_at(ONE_KEY)
        .flags(&["readonly"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(S+N), S being the distance from the nearer end and N the number of values told")
        .about("Tells the values in a range."),
    verb("lrem", 4)
        .keys_at(ONE_KEY)
        .flags(&["write"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the length of the list")
        .about("Removes values that are equal to one."),
    verb("lset", 4)
        .keys_at(ONE_KEY)
        .flags(&["write", "denyoom"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the distance from the nearer end")
        .about("Puts another value at a place."),
    verb("ltrim", 4)
        .keys_at(ONE_KEY)
        .flags(&["write"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the number of values removed")
        .about("Keeps the values in a range."),
    verb("rpop", -2)
        .keys_at(ONE_KEY)
        .flags(&["write", "fast"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the count, or 1")
        .about("Takes the last values."),
    verb("rpoplpush", 3)
        .keys_at(TWO_KEYS)
        .flags(&["write", "denyoom"])
        .categories(&["list"])
        .since("1.2.0", "list")
        .costs("O(1)")
        .about("Moves the last value before the first of another list."),
    verb("rpush", -3)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the number of values")
        .about("Puts values behind the last."),
    verb("rpushx", -3)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["list"])
        .since("2.2.0", "list")
        .costs("O(N), N being the number of values")
        .about("Puts values behind the last, if there is a list."),
];
