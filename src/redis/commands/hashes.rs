//! Commands on hashes.

use crate::redis::commands::passthrough::verb;
use crate::redis::spec::{CommandSpec, ONE_KEY, READ_FAST, WRITE_FAST};

/// In order of their names.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    verb("hdel", -3)
        .keys_at(ONE_KEY)
        .flags(&["write", "fast"])
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Removes fields."),
    verb("hexists", 3)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(1)")
        .about("Tells whether a field is there."),
    verb("hget", 3)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(1)")
        .about("Tells a field's value."),
    verb("hgetall", 2)
        .keys_at(ONE_KEY)
        .flags(&["readonly"])
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Tells all fields and their values."),
    verb("hincrby", 4)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(1)")
        .about("Adds to the whole number in a field."),
    verb("hincrbyfloat", 4)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["hash"])
        .since("2.6.0", "hash")
        .costs("O(1)")
        .about("Adds to the number in a field."),
    verb("hkeys", 2)
        .keys_at(ONE_KEY)
        .flags(&["readonly"])
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Tells all fields."),
    verb("hlen", 2)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(1)")
        .about("Tells how many fields there are."),
    verb("hmget", -3)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Tells values of fields."),
    verb("hmset", -4)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Sets fields."),
    verb("hrandfield", -2)
        .keys_at(ONE_KEY)
        .flags(&["readonly"])
        .categories(&["hash"])
        .since("6.2.0", "hash")
        .costs("O(N), N being the number of fields told")
        .about("Tells some fields, by chance."),
    verb("hscan", -3)
        .keys_at(ONE_KEY)
        .flags(&["readonly"])
        .categories(&["hash"])
        .since("2.8.0", "hash")
        .costs("O(N), N being the number of fields looked at")
        .about("Tells fields and values, some at a time."),
    verb("hset", -4)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Sets fields."),
    verb("hsetnx", 4)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(1)")
        .about("Sets a field that is not there."),
    verb("hstrlen", 3)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["hash"])
        .since("3.2.0", "hash")
        .costs("O(1)")
        .about("Tells the length of a field's value."),
    verb("hvals", 2)
        .keys_at(ONE_KEY)
        .flags(&["readonly"])
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Tells the values of all fields."),
];
