//! Commands on strings.

use crate::redis::commands::passthrough::{passed_on, passed_on_with_limit};
use crate::redis::spec::{CommandSpec, READ_FAST, WRITE_FAST};

const WRITE: &[&str] = &["write", "denyoom"];

const READ: &[&str] = &["readonly"];

const fn of_strings(name: &'static str, arity: i8, since: &'static str) -> CommandSpec {
    passed_on(name, arity).categories(&["string"]).since(since, "string")
}

/// Rows of the command table for string commands (name, arity, flags, documentation and function),
/// sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    passed_on_with_limit("append", 3)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("2.0.0", "string")
        .costs("O(1)")
        .about("Appends a string to the value of a key. Creates the key if it does not exist."),
    passed_on("decr", 2)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Decrements the integer value of a key by one. A missing key counts as 0."),
    passed_on("decrby", 3)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Decrements the integer value of a key by a number. A missing key counts as 0."),
    of_strings("delex", -2, "8.4.0")
        .flags(&["write", "fast"])
        .costs("O(N), N being the value's length")
        .about("Deletes a key if its value equals, or does not equal, a string."),
    passed_on("get", 2)
        .flags(READ_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Returns the string value of a key."),
    passed_on("getdel", 2)
        .flags(&["write", "fast"])
        .categories(&["string"])
        .since("6.2.0", "string")
        .costs("O(1)")
        .about("Returns the string value of a key after deleting the key."),
    of_strings("getex", -2, "6.2.0")
        .flags(&["write", "fast"])
        .costs("O(1)")
        .about("Returns the string value of a key after setting or removing its expiration."),
    of_strings("getrange", 4, "2.4.0")
        .flags(READ)
        .costs("O(1)")
        .about("Returns a substring of the value of a key."),
    passed_on("getset", 3)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Returns the previous string value of a key after setting it to a new value."),
    passed_on("incr", 2)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Increments the integer value of a key by one. A missing key counts as 0."),
    passed_on("incrby", 3)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Increments the integer value of a key by a number. A missing key counts as 0."),
    of_strings("incrbyfloat", 3, "2.6.0").flags(WRITE_FAST).costs("O(1)").about(
        "Increments the floating-point value of a key by a number. A missing key counts as 0.",
    ),
    of_strings("lcs", -3, "7.0.0")
        .flags(READ)
        .costs("O(N*M), N and M being the values' lengths")
        .about("Finds the longest common subsequence of two strings."),
    passed_on("mget", -2)
        .flags(READ_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(N), N being the number of keys")
        .about("Returns the string values of one or more keys."),
    passed_on("mset", -3)
        .flags(&["write", "denyoom"])
        .categories(&["string"])
        .since("1.0.1", "string")
        .costs("O(N), N being the number of keys")
        .about("Sets the string values of one or more keys."),
    of_strings("msetnx", -3, "1.0.1")
        .flags(WRITE)
        .costs("O(N), N being the number of keys")
        .about("Sets the string values of one or more keys if none of the keys exists."),
    of_strings("psetex", 4, "2.6.0")
        .flags(WRITE)
        .costs("O(1)")
        .about("Sets the string value and the expiration in milliseconds of a key."),
    passed_on("set", -3)
        .flags(&["write", "denyoom"])
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Sets the string value of a key. A value of any type is overwritten."),
    of_strings("setex", 4, "2.0.0")
        .flags(WRITE)
        .costs("O(1)")
        .about("Sets the string value and the expiration in seconds of a key."),
    passed_on("setnx", 3)
        .flags(WRITE_FAST)
        .categories(&["string"])
        .since("1.0.0", "string")
        .costs("O(1)")
        .about("Sets the string value of a key if the key does not exist."),
    passed_on_with_limit("setrange", 4)
        .categories(&["string"])
        .since("2.2.0", "string")
        .flags(WRITE)
        .costs("O(N), N being the length of the new part")
        .about("Overwrites a part of a string value, beginning at an offset."),
    passed_on("strlen", 2)
        .flags(READ_FAST)
        .categories(&["string"])
        .since("2.2.0", "string")
        .costs("O(1)")
        .about("Returns the length of a string value."),
    of_strings("substr", 4, "1.0.0")
        .flags(READ)
        .costs("O(1)")
        .about("Returns a substring of a string value. The old name of GETRANGE."),
];
