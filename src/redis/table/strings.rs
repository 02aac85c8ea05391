//! Commands on strings that have no form of their own, bits among them; the others are in
//! `entries.rs`.

use super::{Keys, ONE_KEY, PAIRS, READ_FAST, Spec, TWO_KEYS, WRITE_FAST, verb};

const WRITE: &[&str] = &["write", "denyoom"];
const READ: &[&str] = &["readonly"];
/// Behind the operation.
const FROM_SECOND: Keys = Keys { first: 2, last: -1, step: 1 };

const fn of_strings(name: &'static str, arity: i8, since: &'static str) -> Spec {
    verb(name, arity).keys_at(ONE_KEY).categories(&["string"]).since(since, "string")
}

const fn of_bits(name: &'static str, arity: i8, since: &'static str) -> Spec {
    verb(name, arity).keys_at(ONE_KEY).categories(&["bitmap"]).since(since, "bitmap")
}

/// In order of their names.
pub(super) const COMMANDS: &[Spec] = &[
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
    of_strings("delex", -2, "8.4.0")
        .flags(&["write", "fast"])
        .costs("O(N), N being the value's length")
        .about("Removes a key if its value is, or is not, a certain one."),
    of_bits("getbit", 3, "2.2.0").flags(READ_FAST).costs("O(1)").about("Tells a bit of a value."),
    of_strings("getex", -2, "6.2.0")
        .flags(&["write", "fast"])
        .costs("O(1)")
        .about("Tells a value and moves its key's end."),
    of_strings("getrange", 4, "2.4.0").flags(READ).costs("O(1)").about("Tells a part of a value."),
    of_strings("incrbyfloat", 3, "2.6.0")
        .flags(WRITE_FAST)
        .costs("O(1)")
        .about("Adds to a number with a fraction."),
    of_strings("lcs", -3, "7.0.0")
        .keys_at(TWO_KEYS)
        .flags(READ)
        .costs("O(N*M), N and M being the values' lengths")
        .about("Finds the longest bytes that two values have in common, in order."),
    of_strings("msetnx", -3, "1.0.1")
        .keys_at(PAIRS)
        .flags(WRITE)
        .costs("O(N), N being the number of keys")
        .about("Sets several keys if none of them exists."),
    of_strings("psetex", 4, "2.6.0")
        .flags(WRITE)
        .costs("O(1)")
        .about("Sets a key that ends in so many milliseconds."),
    of_bits("setbit", 4, "2.2.0")
        .flags(WRITE)
        .costs("O(N), N being the value's length")
        .about("Sets a bit of a value."),
    of_strings("setex", 4, "2.0.0")
        .flags(WRITE)
        .costs("O(1)")
        .about("Sets a key that ends in so many seconds."),
    of_strings("setrange", 4, "2.2.0")
        .flags(WRITE)
        .costs("O(N), N being the value's length")
        .about("Overwrites a part of a value."),
    of_strings("substr", 4, "1.0.0").flags(READ).costs("O(1)").about("GETRANGE by its old name."),
];
