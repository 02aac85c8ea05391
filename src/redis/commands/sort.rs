//! `SORT`: sorts the elements of lists, sets and sorted sets.

use crate::kv::CommandId;
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::passthrough::{passed_on, submit_unchanged};
use crate::redis::spec::{CommandSpec, command};

/// Rows of the command table for `SORT` and `SORT_RO` (name, arity, flags, documentation and
/// function), sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    described(command("sort", -2, sort))
        .runs(CommandId::of("sort"))
        .flags(&["write", "denyoom", "movablekeys"])
        .since("1.0.0", "generic")
        .about("Sorts the elements of a list, set or sorted set, and returns or stores them."),
    described(passed_on("sort_ro", -2))
        .flags(&["readonly", "movablekeys"])
        .since("7.0.0", "generic")
        .about("Returns the sorted elements of a list, set or sorted set."),
];

const fn described(spec: CommandSpec) -> CommandSpec {
    spec.categories(&["set", "sortedset", "list", "dangerous"])
        .costs("O(N log N), N being the number of elements")
}

/// Runs `SORT`. Without the option `STORE` it needs no log entry, except as a part of `EXEC` or
/// `ONCE`.
fn sort(call: &mut Call<'_>) -> Action {
    let stores = call.request.rest(2).any(|word| word.eq_ignore_ascii_case(b"STORE"));
    if !stores && call.batch.is_none() {
        call.command = CommandId::named("sort_ro");
    }
    submit_unchanged(call)
}
