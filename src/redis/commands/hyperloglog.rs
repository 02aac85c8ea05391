//! Commands that estimate numbers of distinct elements.

use crate::kv::{CommandId, hyperloglog_self_test};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::passthrough::{passed_on, submit_with};
use crate::redis::spec::{ALL_KEYS, CommandSpec, WRITE_FAST, command};

/// Rows of the command table for HyperLogLog commands (name, arity, flags, documentation and
/// function), sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    with_limit("pfadd", -2)
        .flags(WRITE_FAST)
        .costs("O(1) for each element")
        .about("Adds elements to a HyperLogLog. Creates the key if it does not exist."),
    of_hyperloglogs(passed_on("pfcount", -2))
        .flags(&["readonly"])
        .costs("O(N), N being the number of keys")
        .about("Estimates the number of distinct elements of HyperLogLogs."),
    of_hyperloglogs(passed_on("pfdebug", 3))
        .flags(&["write", "denyoom", "admin"])
        .categories(&["hyperloglog", "dangerous"])
        .costs("O(1)")
        .about("Returns the encoding of a HyperLogLog, for debugging."),
    with_limit("pfmerge", -2)
        .keys_at(ALL_KEYS)
        .flags(&["write", "denyoom"])
        .costs("O(N), N being the number of keys")
        .about("Adds the elements of HyperLogLogs to another."),
    of_hyperloglogs(command("pfselftest", 1, self_test))
        .flags(&["admin"])
        .categories(&["hyperloglog", "dangerous"])
        .costs("O(1)")
        .about("Tests the implementation of HyperLogLogs."),
];

const fn of_hyperloglogs(spec: CommandSpec) -> CommandSpec {
    spec.categories(&["hyperloglog"]).since("2.8.9", "hyperloglog")
}

const fn with_limit(name: &'static str, arity: i8) -> CommandSpec {
    of_hyperloglogs(command(name, arity, pass_on_with_limit)).runs(CommandId::of(name))
}

/// Submits a command with an additional last argument, the setting `hll-sparse-max-bytes` of the
/// replica that received the command, so that all replicas agree on the encoding.
fn pass_on_with_limit(call: &mut Call<'_>) -> Action {
    let limit = call.settings.sparse_bytes_max().to_le_bytes();
    submit_with(call, &limit)
}

/// Runs `PFSELFTEST`: tests the implementation of HyperLogLogs.
fn self_test(call: &mut Call<'_>) -> Action {
    match hyperloglog_self_test() {
        Ok(()) => call.ok(),
        Err(reason) => call.error(&format_args!("TESTFAILED {reason}")),
    }
}
