//! Commands on the bits of strings.

use crate::redis::commands::passthrough::verb;
use crate::redis::spec::{CommandSpec, KeyRange, ONE_KEY, READ_FAST};

const WRITE: &[&str] = &["write", "denyoom"];

const READ: &[&str] = &["readonly"];

/// Behind the operation.
const FROM_SECOND: KeyRange = KeyRange { first: 2, last: -1, step: 1 };

const fn of_bits(name: &'static str, arity: i8, since: &'static str) -> CommandSpec {
    verb(name, arity).keys_at(ONE_KEY).categories(&["bitmap"]).since(since, "bitmap")
}

/// In order of their names.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    of_bits("bitcount", -2, "2.6.0")
        .flags(READ)
        .costs("O(N), N being the number of bytes")
        .about("Counts the bits of a value that are set."),
    of_bits("bitfield", -2, "3.2.0")
        .flags(WRITE)
        .costs("O(N), N being the number of actions and the value's length")
        .about("Reads and changes numbers of a few bits in a value."),
    of_bits("bitfield_ro", -2, "6.0.0")
        .flags(READ_FAST)
        .costs("O(N), N being the number of actions")
        .about("Reads numbers of a few bits in a value."),
    of_bits("bitop", -4, "2.6.0")
        .keys_at(FROM_SECOND)
        .flags(WRITE)
        .costs("O(N), N being the number of bytes")
        .about("Sets a key to what comes of others' bits."),
    of_bits("bitpos", -3, "2.8.7")
        .flags(READ)
        .costs("O(N), N being the number of bytes")
        .about("Finds the first bit that is set, or that is not."),
    of_bits("getbit", 3, "2.2.0").flags(READ_FAST).costs("O(1)").about("Tells a bit of a value."),
    of_bits("setbit", 4, "2.2.0")
        .flags(WRITE)
        .costs("O(N), N being the value's length")
        .about("Sets a bit of a value."),
];
