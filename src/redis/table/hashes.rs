//! Commands on hashes.

use super::{ONE_KEY, READ_FAST, Spec, WRITE_FAST, verb};

/// In order of their names.
pub(super) const COMMANDS: &[Spec] = &[
    verb("hdel", -3)
        .keys_at(ONE_KEY)
        .flags(&["write", "fast"])
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Removes fields."),
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
    verb("hlen", 2)
        .keys_at(ONE_KEY)
        .flags(READ_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(1)")
        .about("Tells how many fields there are."),
    verb("hset", -4)
        .keys_at(ONE_KEY)
        .flags(WRITE_FAST)
        .categories(&["hash"])
        .since("2.0.0", "hash")
        .costs("O(N), N being the number of fields")
        .about("Sets fields."),
];
