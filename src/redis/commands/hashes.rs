//! Commands on hashes.

use crate::redis::commands::passthrough::passed_on;
use crate::redis::spec::{CommandSpec, READ_FAST, WRITE_FAST};

/// Rows of the command table for hash commands (name, arity, flags, documentation and function),
/// sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    passed_on("hdel", -3)
        .flags(&["write", "fast"])
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Deletes one or more fields and their values from a hash."),
    passed_on("hexists", 3)
        .flags(READ_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(1)")
        .about("Returns whether a field exists in a hash."),
    passed_on("hget", 3)
        .flags(READ_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(1)")
        .about("Returns the value of a field of a hash."),
    passed_on("hgetall", 2)
        .flags(&["readonly"])
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Returns all fields and values of a hash."),
    passed_on("hincrby", 4)
        .flags(WRITE_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(1)")
        .about("Adds to the integer value of a hash field, 0 if the field does not exist."),
    passed_on("hincrbyfloat", 4)
        .flags(WRITE_FAST)
        .categories(&["hash"])
        .since("2.6.0", "hash")
        .costs("O(1)")
        .about("Adds to the floating-point value of a hash field, 0 if the field does not exist."),
    passed_on("hkeys", 2)
        .flags(&["readonly"])
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Returns all fields of a hash."),
    passed_on("hlen", 2)
        .flags(READ_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(1)")
        .about("Returns the number of fields of a hash."),
    passed_on("hmget", -3)
        .flags(READ_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Returns the values of one or more fields of a hash."),
    passed_on("hmset", -4)
        .flags(WRITE_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Sets the values of one or more fields of a hash."),
    passed_on("hrandfield", -2)
        .flags(&["readonly"])
        .categories(&["hash"])
        .since("6.2.0", "hash")
        .costs("O(N), N being the number of fields returned")
        .about("Returns one or more random fields of a hash."),
    passed_on("hscan", -3)
        .flags(&["readonly"])
        .categories(&["hash"])
        .since("2.8.0", "hash")
        .costs("O(N), N being the number of fields visited")
        .about("Iterates over the fields and values of a hash."),
    passed_on("hset", -4)
        .flags(WRITE_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Sets the values of one or more fields of a hash."),
    passed_on("hsetnx", 4)
        .flags(WRITE_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(1)")
        .about("Sets the value of a field of a hash if the field does not exist."),
    passed_on("hstrlen", 3)
        .flags(READ_FAST)
        .categories(&["hash"])
        .since("3.2.0", "hash")
        .costs("O(1)")
        .about("Returns the length of the value of a field of a hash."),
    passed_on("hvals", 2)
        .flags(&["readonly"])
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Returns all values of a hash."),
];
