//! The command registry: each command that the state machine can run has a row in the table of its
//! group's file. A row contains the command's number, which identifies it in log entries and
//! snapshots, its name, the positions of its keys, and the function that runs it.

use std::fmt;

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::items::Arguments;
use crate::kv::commands::outcome::Outcome;
use crate::kv::commands::row::{KeyPositions, NO_KEYS, Row, Run, Scale};
use crate::kv::commands::{
    bitfields, bitmaps, blocking, databases, debug, dump, expiration, functions, generic, geo,
    hashes, hyperloglog, internal, keys, lcs, lists, pubsub, scripts, sets, sort, sorted_sets,
    streams, strings, users,
};
use crate::kv::keyspace::Keyspace;
use crate::kv::users::table::Users;

/// All commands of the state machine, in groups such as list commands or hash commands. Each group
/// has a range of command numbers, which the test
/// `command_numbers_are_contiguous_within_each_group` lists.
const GROUPS: &[&[Row]] = &[
    generic::COMMANDS,
    keys::COMMANDS,
    expiration::COMMANDS,
    strings::COMMANDS,
    lcs::COMMANDS,
    bitmaps::COMMANDS,
    bitfields::COMMANDS,
    hashes::COMMANDS,
    lists::COMMANDS,
    sets::COMMANDS,
    sorted_sets::COMMANDS,
    pubsub::COMMANDS,
    internal::COMMANDS,
    users::COMMANDS,
    scripts::COMMANDS,
    blocking::COMMANDS,
    streams::COMMANDS,
    databases::COMMANDS,
    keys::OF_SLOT,
    geo::COMMANDS,
    hyperloglog::COMMANDS,
    sort::COMMANDS,
    dump::COMMANDS,
    streams::WAITING,
    functions::COMMANDS,
    debug::COMMANDS,
];

/// Exclusive upper bound of the numbers that identify commands in the log.
const NUMBERS: usize = 512;

/// All registered commands, indexed by their ids; `None` for an unused id.
static BY_NUMBER: [Option<CommandId>; NUMBERS] = by_number();

const fn by_number() -> [Option<CommandId>; NUMBERS] {
    let mut all = [None; NUMBERS];
    let mut group = 0;
    while group < GROUPS.len() {
        let rows = GROUPS[group];
        let mut at = 0;
        while at < rows.len() {
            let number = rows[at].number as usize;
            assert!(number < NUMBERS, "a command's number is too large");
            assert!(all[number].is_none(), "two commands have one number");
            all[number] = Some(CommandId(&rows[at]));
            at += 1;
        }
        group += 1;
    }
    all
}

/// A command of the state machine, as a reference to its row (number, name, key positions and
/// function) in the table of all commands.
#[derive(Clone, Copy)]
pub struct CommandId(&'static Row);

impl CommandId {
    /// The command `GET key`.
    pub const GET: CommandId = CommandId::of("get");
    /// The command `SET key value [option ...]`.
    pub const SET: CommandId = CommandId::of("set");
    /// The command `DEL key [key ...]`.
    pub const DEL: CommandId = CommandId::of("del");
    /// The command `CHANGES`, whose arguments
    /// [`ChangesQuery::with_arguments`](crate::kv::ChangesQuery::with_arguments) makes.
    pub const CHANGES: CommandId = CommandId::of("changes");
    /// The command `KEYRANGE min max [option ...]`.
    pub(in crate::kv) const KEYRANGE: CommandId = CommandId::of("keyrange");

    /// Returns the command with this number; `None` if the number is unused.
    pub(in crate::kv) fn numbered(number: u16) -> Option<CommandId> {
        *BY_NUMBER.get(usize::from(number))?
    }

    /// Returns the number that identifies the command in log entries and snapshots.
    pub(in crate::kv) fn number(self) -> u16 {
        self.0.number
    }

    /// Returns the command with this name, which must be in lower case; `None` if there is none.
    /// Slow, because it compares the name with those of all commands.
    pub const fn named(name: &str) -> Option<CommandId> {
        let mut group = 0;
        while group < GROUPS.len() {
            let rows = GROUPS[group];
            let mut at = 0;
            while at < rows.len() {
                if is_same(rows[at].name.as_bytes(), name.as_bytes()) {
                    return Some(CommandId(&rows[at]));
                }
                at += 1;
            }
            group += 1;
        }
        None
    }

    /// Returns the command with this name, for use in constants: an unknown name is a compile-time
    /// error.
    pub const fn of(name: &str) -> CommandId {
        CommandId::named(name).expect("no such command")
    }

    /// Returns the name of the command in lower case, of the form `command|subcommand` for a
    /// subcommand.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// Returns the name of the command that a client has sent, if it was submitted as this one:
    /// what a client that waits submits again has a name of its own.
    pub fn sent_name(self) -> &'static str {
        self.0.name.strip_suffix("|wait").unwrap_or(self.0.name)
    }

    /// Returns the positions of the keys among the command's arguments.
    pub const fn keys(self) -> KeyPositions {
        self.0.keys
    }

    /// Returns the feature level that the cluster must have before a replica accepts the command
    /// from a client. The state machine does not check it: what is in the log is applied.
    pub const fn feature_level(self) -> FeatureLevel {
        self.0.level
    }

    /// Returns what the running time of the command is proportional to.
    pub(in crate::kv) fn scale(self) -> Scale {
        self.0.scale
    }

    /// Returns whether the command is read-only, so that it needs no log entry.
    pub fn is_read(self) -> bool {
        !matches!(self.0.run, Run::Write(_) | Run::Users(_))
    }

    /// Returns the keys among the arguments `args`; `None` if the arguments are malformed, or if
    /// the command may also access other keys.
    pub(in crate::kv) fn keys_in(self, args: Arguments<'_>) -> Option<Vec<&[u8]>> {
        if self.0.keys == NO_KEYS {
            return None;
        }
        let args: Vec<&[u8]> = args.iter().collect();
        self.0.keys.keys(&args)
    }

    /// Returns whether the command with these arguments may read keys that are not among them,
    /// because a value names them.
    pub(in crate::kv) fn reads_other_keys(self, args: Arguments<'_>) -> bool {
        self.0.scale == Scale::Sort && sort::reads_other_keys(&args.iter().collect::<Vec<_>>())
    }

    /// Returns the keys that the command with these arguments may read although they are not among
    /// them, because a value in `keyspace` names them.
    pub(in crate::kv) fn other_keys(
        self,
        keyspace: &Keyspace,
        args: Arguments<'_>,
    ) -> Vec<Vec<u8>> {
        if !self.reads_other_keys(args) {
            return Vec::new();
        }
        sort::keys_by_patterns(keyspace, &args.iter().collect::<Vec<_>>())
    }

    /// Runs the command if it is read-only, and returns its outcome; `None` if the command may
    /// change the state.
    pub(in crate::kv) fn read(self, keyspace: &Keyspace, args: &Args<'_>) -> Option<Outcome> {
        match self.0.run {
            Run::Read(run) => {
                Some(keyspace.counting_lookups(|it| run(it, args)).unwrap_or_else(Outcome::Refused))
            }
            Run::RangeRead(_) | Run::OwnRead(_) => Some(Outcome::Malformed),
            Run::Write(_) | Run::Users(_) => None,
        }
    }

    /// Runs the command if it reads a range of keys, or what only this replica has, and returns its
    /// outcome; `None` for any other command.
    ///
    /// # Errors
    /// If the keyspace has no index of keys, which [`Keyspace::build_key_index`] builds.
    pub(in crate::kv) fn read_own(
        self,
        keyspace: &Keyspace,
        args: Arguments<'_>,
    ) -> Result<Option<Outcome>, NoKeyIndex> {
        match self.0.run {
            Run::RangeRead(_) if !keyspace.wants_key_index() => Err(NoKeyIndex),
            Run::RangeRead(run) | Run::OwnRead(run) => {
                Ok(Some(run(keyspace, &Args::new(args, 0)).unwrap_or_else(Outcome::Refused)))
            }
            Run::Read(_) | Run::Write(_) | Run::Users(_) => Ok(None),
        }
    }

    /// Runs the command if it changes the users, and returns its outcome; `None` for any other.
    pub(in crate::kv) fn run_on_users(
        self,
        users: &mut Users,
        args: Arguments<'_>,
    ) -> Option<Outcome> {
        let Run::Users(run) = self.0.run else { return None };
        Some(run(users, &Args::new(args, 0)).unwrap_or_else(Outcome::Refused))
    }

    /// Runs the command, which may change the keyspace, and returns its outcome.
    pub(in crate::kv) fn run(self, keyspace: &mut Keyspace, args: &Args<'_>) -> Outcome {
        let answer = match self.0.run {
            Run::Read(run) => keyspace.counting_lookups(|it| run(it, args)),
            // Only a corrupt entry has one. Its outcome must not depend on what this replica alone
            // has.
            Run::RangeRead(_) | Run::OwnRead(_) | Run::Users(_) => return Outcome::Malformed,
            Run::Write(run) => run(keyspace, args),
        };
        answer.unwrap_or_else(Outcome::Refused)
    }
}

/// Error: the command reads a range of keys, and the keyspace has no index of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) struct NoKeyIndex;

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

impl PartialEq for CommandId {
    fn eq(&self, other: &CommandId) -> bool {
        self.0.number == other.0.number
    }
}

impl Eq for CommandId {}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn command_names_and_numbers_are_unique() {
        let mut names = BTreeSet::new();
        for row in GROUPS.iter().copied().flatten() {
            assert!(names.insert(row.name), "{} is registered twice", row.name);
            let command = CommandId::named(row.name).unwrap();
            assert_eq!(command.number(), row.number);
            assert_eq!(CommandId::numbered(row.number), Some(command));
        }
        assert_eq!((CommandId::named("nonesuch"), CommandId::numbered(u16::MAX)), (None, None));
    }

    #[test]
    fn operations_guide_lists_the_long_running_commands() {
        let page = include_str!("../../guide/operations.md");
        for (row, scale) in [
            ("| all values at the command's keys |", Scale::Values),
            ("| the count in an argument (constant without one) |", Scale::Count),
            ("| the option `COUNT` (all values at the keys without it) |", Scale::OptionalCount),
            ("| the values at the command's key, which it sorts |", Scale::Sort),
            ("| the number of all keys |", Scale::Keyspace),
        ] {
            let line = page.lines().find_map(|line| line.strip_prefix(row)).unwrap();
            let listed: Vec<String> =
                line.split('`').skip(1).step_by(2).map(str::to_lowercase).collect();
            let commands = GROUPS.iter().copied().flatten();
            // What a waiting client sends again is not a command of its own.
            let commands =
                commands.filter(|row| row.scale == scale && !row.name.ends_with("|wait"));
            let names: BTreeSet<String> = commands.map(|row| row.name.replace('|', " ")).collect();
            assert!(listed.iter().eq(&names), "{listed:?} instead of {names:?}");
        }
    }

    /// Tests the numbers because log entries contain them.
    #[test]
    fn command_numbers_are_contiguous_within_each_group() {
        for (group, from) in [
            (generic::COMMANDS, 0),
            (keys::COMMANDS, 24),
            (expiration::COMMANDS, 32),
            (strings::COMMANDS, 48),
            (lcs::COMMANDS, 88),
            (bitmaps::COMMANDS, 96),
            (bitfields::COMMANDS, 104),
            (hashes::COMMANDS, 112),
            (lists::COMMANDS, 152),
            (sets::COMMANDS, 192),
            (sorted_sets::COMMANDS, 224),
            (pubsub::COMMANDS, 288),
            (internal::COMMANDS, 296),
            (users::COMMANDS, 304),
            (streams::COMMANDS, 312),
            (scripts::COMMANDS, 336),
            (blocking::COMMANDS, 352),
            (databases::COMMANDS, 400),
            (keys::OF_SLOT, 404),
            (geo::COMMANDS, 360),
            (hyperloglog::COMMANDS, 370),
            (sort::COMMANDS, 374),
            (dump::COMMANDS, 390),
            (streams::WAITING, 420),
            (functions::COMMANDS, 410),
            (debug::COMMANDS, 496),
        ] {
            let numbers: Vec<u16> = group.iter().map(|row| row.number).collect();
            let wanted: Vec<u16> = (from..).take(numbers.len()).collect();
            assert_eq!(numbers, wanted);
        }
    }

    #[test]
    fn keys_of_a_command_are_extracted_from_its_arguments() {
        let keys = |name: &str, args: &str| {
            let args: Vec<&[u8]> = args.split(' ').map(str::as_bytes).collect();
            let keys = CommandId::named(name).unwrap().keys_in(args[..].into())?;
            Some(keys.into_iter().map(|key| str::from_utf8(key).unwrap().to_owned()).collect())
        };
        let some = |keys: &[&str]| Some(keys.iter().map(|key| (*key).to_owned()).collect());
        let all = |name, args| -> Option<Vec<String>> { keys(name, args) };
        assert_eq!(all("get", "a"), some(&["a"]));
        assert_eq!(all("mget", "a b c"), some(&["a", "b", "c"]));
        assert_eq!(all("mset", "a 1 b 2"), some(&["a", "b"]));
        assert_eq!(all("bitop", "and d a b"), some(&["d", "a", "b"]));
        assert_eq!(all("zunionstore", "d 2 a b"), some(&["d", "a", "b"]));
        assert_eq!(all("sintercard", "2 a b LIMIT 1"), some(&["a", "b"]));
        assert_eq!(all("sintercard", "3 a b"), None);
        assert_eq!(all("georadius", "a 1 1 1 m COUNT 1 STORE d STOREDIST e"), some(&["a", "e"]));
        assert_eq!(all("georadius", "a 1 1 1 m STORE"), some(&["a"]));
        assert_eq!(all("sort", "a BY STORE GET STORE LIMIT 1 2 STORE d"), some(&["a", "d"]));
        assert_eq!(all("sort_ro", "a STORE d"), some(&["a"]));
        assert_eq!(all("pfdebug", "GETREG a"), some(&["a"]));
        assert_eq!(all("pfmerge", "d a b limit"), some(&["d", "a", "b"]));
        assert_eq!(all("keys", "*"), None);
        assert_eq!(all("blpop", "a b 0"), some(&["a", "b"]));
        assert_eq!(all("blmpop", "0 2 a b LEFT"), some(&["a", "b"]));
    }
}
