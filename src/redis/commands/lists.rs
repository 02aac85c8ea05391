//! Commands on lists.

use crate::redis::commands::passthrough::passed_on;
use crate::redis::spec::{CommandSpec, READ_FAST, WRITE_FAST};

/// Rows of the command table for list commands (name, arity, flags, documentation and function),
/// sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    passed_on("lindex", 3)
        .flags(&["readonly"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the distance from the nearer end")
        .about("Returns an element of a list by its index."),
    passed_on("linsert", 5)
        .flags(&["write", "denyoom"])
        .categories(&["list"])
        .since("2.2.0", "list")
        .costs("O(N), N being the distance of the pivot from the left")
        .about("Inserts an element before or after another element of a list."),
    passed_on("llen", 2)
        .flags(READ_FAST)
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(1)")
        .about("Returns the length of a list."),
    passed_on("lmove", 5)
        .flags(&["write", "denyoom"])
        .categories(&["list"])
        .since("6.2.0", "list")
        .costs("O(1)")
        .about("Pops an element from one list, pushes it to another and returns it."),
    passed_on("lmpop", -4)
        .flags(&["write", "movablekeys"])
        .categories(&["list"])
        .since("7.0.0", "list")
        .costs("O(N+M), N being the number of keys and M the number of elements popped")
        .about("Pops one or more elements from the first of several lists that is not empty."),
    passed_on("lpop", -2)
        .flags(&["write", "fast"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the count, or 1")
        .about("Pops one or more elements from the left of a list."),
    passed_on("lpos", -3)
        .flags(&["readonly"])
        .categories(&["list"])
        .since("6.0.6", "list")
        .costs("O(N), N being the number of elements compared")
        .about("Returns the indexes of matching elements of a list."),
    passed_on("lpush", -3)
        .flags(WRITE_FAST)
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the number of elements")
        .about("Prepends one or more elements to a list. Creates the key if it does not exist."),
    passed_on("lpushx", -3)
        .flags(WRITE_FAST)
        .categories(&["list"])
        .since("2.2.0", "list")
        .costs("O(N), N being the number of elements")
        .about("Prepends one or more elements to a list if the list exists."),
    passed_on("lrange", 4)
        .flags(&["readonly"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(S+N), S being the offset from the nearer end, N the elements returned")
        .about("Returns a range of elements of a list."),
    passed_on("lrem", 4)
        .flags(&["write"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the length of the list")
        .about("Removes elements that equal a value from a list."),
    passed_on("lset", 4)
        .flags(&["write", "denyoom"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the distance from the nearer end")
        .about("Sets the element of a list at an index."),
    passed_on("ltrim", 4)
        .flags(&["write"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the number of elements removed")
        .about("Trims a list to a range of indexes."),
    passed_on("rpop", -2)
        .flags(&["write", "fast"])
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the count, or 1")
        .about("Pops one or more elements from the right of a list."),
    passed_on("rpoplpush", 3)
        .flags(&["write", "denyoom"])
        .categories(&["list"])
        .since("1.2.0", "list")
        .costs("O(1)")
        .about("Pops the last element of a list, pushes it to the left of another and returns it."),
    passed_on("rpush", -3)
        .flags(WRITE_FAST)
        .categories(&["list"])
        .since("1.0.0", "list")
        .costs("O(N), N being the number of elements")
        .about("Appends one or more elements to a list. Creates the key if it does not exist."),
    passed_on("rpushx", -3)
        .flags(WRITE_FAST)
        .categories(&["list"])
        .since("2.2.0", "list")
        .costs("O(N), N being the number of elements")
        .about("Appends one or more elements to a list if the list exists."),
];
