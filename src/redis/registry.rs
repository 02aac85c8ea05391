//! The table of all commands. Requests are looked up in it, and `COMMAND` and `HELP` describe it.
//! Flags and categories are those of Redis, because clients depend on them; summaries are our own.

use std::sync::LazyLock;

use crate::kv::{Batch, Operation};

use super::commands::{
    acl, bitmaps, blocking, changes, client, cluster, command, config, connection, debug, dump,
    failover, functions, generic, geo, hashes, hyperloglog, info, lists, lolwut, members, memory,
    monitor, once, pubsub, replication, scripting, sentinel, server, sets, slow_log, snapshot,
    sort, sorted_sets, streams, strings, transactions,
};
use super::session::connection::Connection;
use super::spec::{CommandSpec, CommandTable, DENY_OOM};
use super::statistics::{CommandNumber, CommandStatistics, CommandTotals};

/// The rows of the command table (one for each command that clients can send), in groups such as
/// list commands or hash commands. Each group is sorted by name.
const GROUPS: &[&[CommandSpec]] = &[
    acl::COMMANDS,
    bitmaps::COMMANDS,
    blocking::COMMANDS,
    changes::COMMANDS,
    client::COMMANDS,
    cluster::COMMANDS,
    command::COMMANDS,
    config::COMMANDS,
    connection::COMMANDS,
    dump::COMMANDS,
    debug::COMMANDS,
    failover::COMMANDS,
    functions::COMMANDS,
    generic::COMMANDS,
    geo::COMMANDS,
    hashes::COMMANDS,
    hyperloglog::COMMANDS,
    info::COMMANDS,
    lists::COMMANDS,
    lolwut::COMMANDS,
    members::COMMANDS,
    memory::COMMANDS,
    monitor::COMMANDS,
    once::COMMANDS,
    pubsub::COMMANDS,
    replication::COMMANDS,
    scripting::COMMANDS,
    sentinel::COMMANDS,
    server::COMMANDS,
    sets::COMMANDS,
    slow_log::COMMANDS,
    snapshot::COMMANDS,
    sort::COMMANDS,
    sorted_sets::COMMANDS,
    streams::COMMANDS,
    strings::COMMANDS,
    transactions::COMMANDS,
];

static TABLE: LazyLock<CommandTable> =
    LazyLock::new(|| CommandTable::new(GROUPS.iter().copied().flatten().collect()));

/// Returns the command table, which describes all commands.
pub(super) fn table() -> &'static CommandTable {
    &TABLE
}

/// Returns the statistics of each command and subcommand that was called or rejected, by its full
/// name, such as `get` or `config|set`. Only names in the command table occur, so their number is
/// bounded whatever clients send.
pub fn command_totals(
    statistics: &CommandStatistics,
) -> impl Iterator<Item = (&'static str, CommandTotals<'_>)> {
    let rows = table().numbered();
    rows.filter_map(|(number, spec)| Some((spec.full_name, statistics.totals(number)?)))
}

/// Returns whether an operation in the encoded [`Batch`] `payload` can add data, in which case the
/// whole batch is refused while memory usage exceeds `maxmemory`. False for a payload that cannot
/// be decoded.
pub fn may_add_data(payload: &[u8]) -> bool {
    let Ok(batch) = Batch::decode(payload) else { return false };
    batch.operations().flatten().any(|operation| adds_data(&operation))
}

/// Returns for each operation in the encoded [`Batch`] `payload` whether it can add data. Empty for
/// a payload that cannot be decoded.
pub fn operations_adding_data(payload: &[u8]) -> Vec<bool> {
    let Ok(batch) = Batch::decode(payload) else { return Vec::new() };
    batch.operations().map(|operation| operation.is_some_and(|it| adds_data(&it))).collect()
}

/// Returns whether an encoded operation can add data, in which case it is refused while memory
/// usage exceeds `maxmemory`. False for an operation that cannot be decoded.
pub fn operation_may_add_data(operation: &[u8]) -> bool {
    Operation::decode(operation).is_ok_and(|operation| adds_data(&operation))
}

/// Returns the text of the error reply if the user of a connection may not send this request any
/// more, because the user's permissions have changed since; `None` if the user may. `operation` is
/// the encoded operation that `command` has submitted.
pub fn unauthorized_request(
    connection: &mut Connection,
    command: CommandNumber,
    operation: &[u8],
) -> Option<String> {
    connection.unauthorized_operation(command, operation, table())
}

fn adds_data(operation: &Operation<'_>) -> bool {
    let inner =
        |bytes| Operation::decode_nested(bytes).is_ok_and(|operation| adds_data(&operation));
    match operation {
        Operation::Call { command, .. } => {
            let spec = || table().find_full(command.sent_name().as_bytes());
            !command.is_read() && spec().is_none_or(|spec| spec.has_flag(DENY_OOM))
        }
        Operation::OpenSession => true,
        Operation::Effects { needs_memory, .. } => *needs_memory,
        Operation::Transaction { operations, .. } => operations.iter().any(inner),
        Operation::Once { operation, .. } => inner(operation),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::NAME_BYTES_MAX;
    use super::*;

    #[test]
    fn command_table_names_are_sorted_unique_and_short() {
        for group in GROUPS {
            assert!(group.is_sorted_by_key(|spec| spec.name));
        }
        let table = table();
        assert!(table.all().is_sorted_by(|one, next| one.name < next.name), "duplicate name");
        for spec in table.all() {
            assert_eq!(spec.name, spec.full_name);
            assert!(spec.name.len() <= NAME_BYTES_MAX, "{}", spec.name);
            assert_eq!(table.find(spec.name.as_bytes()).map(|found| found.name), Some(spec.name));
            for sub in spec.subcommands {
                assert!(sub.name.len() <= NAME_BYTES_MAX, "{}", sub.full_name);
                assert_eq!(sub.full_name, format!("{}|{}", spec.name, sub.name));
                let found = table.find_full(sub.full_name.to_uppercase().as_bytes());
                assert_eq!(found.map(|found| found.full_name), Some(sub.full_name));
            }
        }
        assert!(table.find(b"nonesuch").is_none() && table.find_full(b"get|x").is_none());
    }

    #[test]
    fn command_arity_and_key_positions_match_redis() {
        let keys = |request: &str| {
            let arguments: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            let spec = table().find(arguments[0]).unwrap();
            let keys = spec.keys(arguments.len(), &|index| arguments.get(index).copied());
            keys.map(Iterator::collect::<Vec<_>>)
        };
        assert_eq!(keys("get a"), Some(vec![1]));
        assert_eq!(keys("mget a b c"), Some(vec![1, 2, 3]));
        assert_eq!(keys("mset a 1 b 2"), Some(vec![1, 3]));
        assert_eq!(keys("ping hello"), Some(vec![]));
        assert_eq!(keys("sintercard 2 a b LIMIT 1"), Some(vec![2, 3]));
        for count in ["0", "3", "-1", "x"] {
            assert_eq!(keys(&format!("sintercard {count} a b")), None);
        }
        let accepts = |name: &str, count| table().find(name.as_bytes()).unwrap().accepts(count);
        assert!(accepts("get", 2) && !accepts("get", 1) && !accepts("get", 3));
        assert!(accepts("set", 3) && accepts("set", 9) && !accepts("set", 2));
    }

    /// Returns the rows of the compatibility page: command name, version of Redis, difference from
    /// Redis.
    fn documented() -> Vec<(String, &'static str, &'static str)> {
        let page = include_str!("../guide/compatibility.md");
        let rows = page.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            let (since, rest) = rest.split_once(" |")?;
            Some((name.to_lowercase(), since, rest))
        });
        rows.collect()
    }

    #[test]
    fn compatibility_guide_lists_every_command() {
        let rows = documented();
        for spec in table().all() {
            let found: Vec<_> = rows.iter().filter(|(name, ..)| name == spec.name).collect();
            let [(_, since, difference)] = found[..] else {
                panic!("src/guide/compatibility.md has {} rows for {}", found.len(), spec.name);
            };
            // Our own commands were not introduced by a version of Redis.
            let own = ["changes", "clock", "keyrange", "members", "once", "snapshot"];
            let is_own = own.contains(&spec.name);
            let wanted = if is_own { "own" } else { spec.since };
            assert_eq!(*since, wanted, "the version of {}", spec.name);
            let named = difference
                .split_once("Subcommands: ")
                .map_or("", |(_, rest)| rest.split_once('.').map_or(rest, |(names, _)| names));
            let named: Vec<String> =
                named.split('`').skip(1).step_by(2).map(str::to_lowercase).collect();
            let mut known: Vec<&str> = spec.subcommands.iter().map(|sub| sub.name).collect();
            known.sort_unstable();
            assert_eq!(named, known, "subcommands of {}, in alphabetical order", spec.name);
        }
        for (name, ..) in &rows {
            assert!(table().find(name.as_bytes()).is_some(), "{name} is not a command");
        }
    }
}
