//! Commands on the bits of strings.

use crate::redis::commands::passthrough::{passed_on, passed_on_with_limit};
use crate::redis::spec::{CommandSpec, READ_FAST};

const WRITE: &[&str] = &["write", "denyoom"];

const READ: &[&str] = &["readonly"];

const fn of_bits(name: &'static str, arity: i8, since: &'static str) -> CommandSpec {
    passed_on(name, arity).categories(&["bitmap"]).since(since, "bitmap")
}

/// Returns a row of the command table for a command with a bit offset among its arguments. The
/// setting `proto-max-bulk-len` limits the offset.
const fn with_offset(name: &'static str, arity: i8, since: &'static str) -> CommandSpec {
    passed_on_with_limit(name, arity).categories(&["bitmap"]).since(since, "bitmap")
}

/// Rows of the command table for bitmap commands (name, arity, flags, documentation and function),
/// sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    of_bits("bitcount", -2, "2.6.0")
        .flags(READ)
        .costs("O(N), N being the number of bytes")
        .about("Counts the set bits of a string."),
    with_offset("bitfield", -2, "3.2.0")
        .flags(WRITE)
        .costs("O(N), N being the number of subcommands")
        .about("Reads and changes integers of arbitrary width within a string."),
    with_offset("bitfield_ro", -2, "6.0.0")
        .flags(READ_FAST)
        .costs("O(N), N being the number of subcommands")
        .about("Reads integers of arbitrary width within a string."),
    of_bits("bitop", -4, "2.6.0")
        .flags(WRITE)
        .costs("O(N), N being the number of bytes")
        .about("Performs bitwise operations between strings and stores the result."),
    of_bits("bitpos", -3, "2.8.7")
        .flags(READ)
        .costs("O(N), N being the number of bytes")
        .about("Finds the first bit that is set, or clear, in a string."),
    with_offset("getbit", 3, "2.2.0")
        .flags(READ_FAST)
        .costs("O(1)")
        .about("Returns a bit of a string."),
    with_offset("setbit", 4, "2.2.0")
        .flags(WRITE)
        .costs("O(1)")
        .about("Sets or clears a bit of a string. Creates the key if it does not exist."),
];
