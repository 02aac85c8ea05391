//! Every command there is: its name, how many arguments it takes, where its keys are, what it does.
//! One table for all: requests are looked up and checked in it, and `COMMAND` tells of it. Flags
//! and categories are Redis's own, for clients decide by them; summaries are ours, for
//! `COMMAND DOCS` and `HELP`.

use std::sync::LazyLock;

use super::commands::{bitmaps, generic, hashes, lists, rows, sets, sorted_sets, strings};
use super::spec::CommandSpec;

/// The rooms that have commands.
const GROUPS: &[&[CommandSpec]] = &[
    rows::admin::COMMANDS,
    bitmaps::COMMANDS,
    rows::entries::COMMANDS,
    rows::pubsub::COMMANDS,
    generic::COMMANDS,
    hashes::COMMANDS,
    lists::COMMANDS,
    sets::COMMANDS,
    sorted_sets::COMMANDS,
    rows::transactions::COMMANDS,
    strings::COMMANDS,
];

static ALL: LazyLock<Vec<&CommandSpec>> = LazyLock::new(|| {
    let mut all: Vec<&CommandSpec> = GROUPS.iter().copied().flatten().collect();
    all.sort_unstable_by_key(|spec| spec.name);
    all
});

/// All commands, in order of their names.
pub(super) fn all() -> &'static [&'static CommandSpec] {
    &ALL
}

/// The command of that name, in lower case.
pub(super) fn find(name: &[u8]) -> Option<&'static CommandSpec> {
    let all = all();
    let at = all.binary_search_by(|spec| spec.name.as_bytes().cmp(name)).ok()?;
    Some(all[at])
}

/// The command, or with a bar the subcommand, of that name in any case.
pub(super) fn find_full(name: &[u8]) -> Option<&'static CommandSpec> {
    let name = name.to_ascii_lowercase();
    match name.iter().position(|byte| *byte == b'|') {
        None => find(&name),
        Some(bar) => find(&name[..bar])?.subcommand(&name[bar + 1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::NAME_BYTES_MAX;
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for room in GROUPS {
            assert!(room.is_sorted_by_key(|spec| spec.name));
        }
        assert!(all().is_sorted_by(|one, next| one.name < next.name), "one is there twice");
        for spec in all() {
            assert_eq!(spec.name, spec.full_name);
            assert!(spec.name.len() <= NAME_BYTES_MAX, "{}", spec.name);
            assert_eq!(find(spec.name.as_bytes()).map(|found| found.name), Some(spec.name));
            for sub in spec.subcommands {
                assert!(sub.name.len() <= NAME_BYTES_MAX, "{}", sub.full_name);
                assert_eq!(sub.full_name, format!("{}|{}", spec.name, sub.name));
                let found = find_full(sub.full_name.to_uppercase().as_bytes());
                assert_eq!(found.map(|found| found.full_name), Some(sub.full_name));
            }
        }
        assert!(find(b"nonesuch").is_none() && find_full(b"get|x").is_none());
    }

    #[test]
    fn arity_and_keys_are_read_as_redis_does() {
        let keys = |request: &str| {
            let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            let spec = find(words[0]).unwrap();
            let keys = spec.keys(words.len(), &|at| words.get(at).copied());
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
        let takes = |name: &str, words| find(name.as_bytes()).unwrap().takes(words);
        assert!(takes("get", 2) && !takes("get", 1) && !takes("get", 3));
        assert!(takes("set", 3) && takes("set", 9) && !takes("set", 2));
    }

    /// The rows of the compatibility page: name, version of Redis, difference.
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
    fn the_compatibility_page_lists_every_command() {
        let rows = documented();
        for spec in all() {
            let found: Vec<_> = rows.iter().filter(|(name, ..)| name == spec.name).collect();
            let [(_, since, difference)] = found[..] else {
                panic!("src/guide/compatibility.md has {} rows for {}", found.len(), spec.name);
            };
            // Our own commands were not introduced by a version of Redis.
            let is_own = ["clock", "once"].contains(&spec.name);
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
            assert!(find(name.as_bytes()).is_some(), "{name} is no command");
        }
    }
}
