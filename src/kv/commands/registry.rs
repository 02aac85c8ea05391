//! The registry: every command that the state machine can run is one row in the table of its
//! group's file. A row has a number, which stands for the command in logs and snapshots, a name,
//! the positions of its keys, and the function that runs it.

use std::fmt;

use crate::kv::commands::args::Args;
use crate::kv::commands::items::Arguments;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::{
    bitfields, bitmaps, expiration, generic, hashes, internal, keys, lcs, lists, pubsub, sets,
    sorted_sets, strings,
};
use crate::kv::keyspace::Keyspace;

/// What a command's function returns; after a refusal nothing has changed.
pub(in crate::kv) type Answer = Result<Outcome, Refusal>;

/// The tables of all groups. The numbers of each group's commands are listed in
/// `numbers_are_grouped` below.
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
];

/// One more than the greatest number that a command may have.
const NUMBERS: usize = 512;

/// Each command at its number.
static BY_NUMBER: [Option<CommandId>; NUMBERS] = by_number();

/// A command of the registry.
#[derive(Debug)]
pub(in crate::kv) struct Row {
    /// Stands for the command in logs and snapshots: never changed, and not reused if the command
    /// is removed.
    number: u16,
    /// In lower case; a subcommand's after its command's and a bar.
    name: &'static str,
    keys: KeyPositions,
    run: Run,
}

/// How a command runs.
#[derive(Debug, Clone, Copy)]
enum Run {
    /// Changes nothing, so it needs no log entry.
    Read(fn(&Keyspace, &Args<'_>) -> Answer),
    /// May change the state.
    Write(fn(&mut Keyspace, &Args<'_>) -> Answer),
}

/// Which arguments are keys. Positions count from 0 and without the command's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPositions {
    /// How many keys there are from `first` on: a fixed number, or all arguments to the end.
    count: Count,
    /// The position of the first of them.
    first: u8,
    /// The distance between two keys.
    step: u8,
    /// The position of an argument that says how many keys follow it, besides those above.
    counted_at: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Fixed(u8),
    ToEnd,
}

/// No keys.
pub(in crate::kv) const NO_KEYS: KeyPositions = KeyPositions::fixed(0);
/// The first argument.
pub(in crate::kv) const ONE_KEY: KeyPositions = KeyPositions::fixed(1);
/// The first two arguments.
pub(in crate::kv) const TWO_KEYS: KeyPositions = KeyPositions::fixed(2);
/// All arguments.
pub(in crate::kv) const ALL_KEYS: KeyPositions = KeyPositions::to_end(0, 1);
/// All arguments but the first.
pub(in crate::kv) const ALL_BUT_FIRST: KeyPositions = KeyPositions::to_end(1, 1);
/// Every other argument, from the first.
pub(in crate::kv) const KEYS_AND_VALUES: KeyPositions = KeyPositions::to_end(0, 2);

impl KeyPositions {
    const fn fixed(count: u8) -> KeyPositions {
        KeyPositions { count: Count::Fixed(count), first: 0, step: 1, counted_at: None }
    }

    const fn to_end(first: u8, step: u8) -> KeyPositions {
        KeyPositions { count: Count::ToEnd, first, step, counted_at: None }
    }

    /// These, and as many as the argument at `position` says, which follow it.
    pub(in crate::kv) const fn and_counted_at(mut self, position: u8) -> KeyPositions {
        self.counted_at = Some(position);
        self
    }

    /// The first key's position, the last one's and the distance between two, as Redis's `COMMAND`
    /// reports them: counted from 1, from the end if the last is negative; all 0 without keys.
    /// Counted keys are not among them.
    pub const fn range(&self) -> (i8, i8, i8) {
        let (first, step) = (self.first.cast_signed() + 1, self.step.cast_signed());
        match self.count {
            Count::Fixed(0) => (0, 0, 0),
            Count::Fixed(count) => (first, first + (count.cast_signed() - 1) * step, step),
            Count::ToEnd => (first, -1, step),
        }
    }

    /// The position of the argument that says how many keys follow it.
    pub const fn counted_at(&self) -> Option<u8> {
        self.counted_at
    }

    /// Whether the first argument is a key.
    pub(in crate::kv) fn starts_at_first(&self) -> bool {
        self.first == 0 && self.count != Count::Fixed(0)
    }

    /// The keys among a command's arguments; `None` if they are counted and the count is wrong.
    fn keys<'a>(&self, args: &[&'a [u8]]) -> Option<Vec<&'a [u8]>> {
        let from = args.get(usize::from(self.first)..).unwrap_or_default();
        let fixed = match self.count {
            Count::Fixed(count) => usize::from(count),
            Count::ToEnd => usize::MAX,
        };
        let keys = from.iter().step_by(usize::from(self.step)).take(fixed);
        let counted = match self.counted_at {
            None => &[],
            Some(at) => {
                let (count, behind) = args.get(usize::from(at)..)?.split_first()?;
                let count: usize = std::str::from_utf8(count).ok()?.parse().ok()?;
                behind.get(..count)?
            }
        };
        Some(keys.chain(counted).copied().collect())
    }
}

/// The row of a command that changes nothing.
pub(in crate::kv) const fn read(
    number: u16,
    name: &'static str,
    keys: KeyPositions,
    run: fn(&Keyspace, &Args<'_>) -> Answer,
) -> Row {
    Row { number, name, keys, run: Run::Read(run) }
}

/// The row of a command that may change the state.
pub(in crate::kv) const fn write(
    number: u16,
    name: &'static str,
    keys: KeyPositions,
    run: fn(&mut Keyspace, &Args<'_>) -> Answer,
) -> Row {
    Row { number, name, keys, run: Run::Write(run) }
}

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

/// A command of the registry.
#[derive(Clone, Copy)]
pub struct CommandId(&'static Row);

impl CommandId {
    /// `GET key`
    pub const GET: CommandId = CommandId::of("get");
    /// `SET key value [option ...]`
    pub const SET: CommandId = CommandId::of("set");
    /// `DEL key [key ...]`
    pub const DEL: CommandId = CommandId::of("del");

    /// The command of that number.
    pub(in crate::kv) fn numbered(number: u16) -> Option<CommandId> {
        *BY_NUMBER.get(usize::from(number))?
    }

    /// The command's number in logs and snapshots.
    pub(in crate::kv) fn number(self) -> u16 {
        self.0.number
    }

    /// The command of that name, in lower case. A search through all commands.
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

    /// The command of that name, for constants: an unknown name does not compile.
    pub const fn of(name: &str) -> CommandId {
        CommandId::named(name).expect("no such command")
    }

    /// Its name, in lower case; a subcommand's after its command's and a bar.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// Which of its arguments are keys.
    pub const fn keys(self) -> KeyPositions {
        self.0.keys
    }

    /// Whether it leaves the state as it is.
    pub fn is_read(self) -> bool {
        matches!(self.0.run, Run::Read(_))
    }

    /// The keys among its arguments; `None` if it looks at other keys, too, or the arguments are
    /// wrong.
    pub(in crate::kv) fn keys_in<'a>(self, args: Arguments<'a>) -> Option<Vec<&'a [u8]>> {
        if self.0.keys == NO_KEYS {
            return None;
        }
        let args: Vec<&[u8]> = args.iter().collect();
        self.0.keys.keys(&args)
    }

    /// Runs a command that changes nothing; `None` if it may change something.
    pub(in crate::kv) fn read(self, keyspace: &Keyspace, args: &Args<'_>) -> Option<Outcome> {
        match self.0.run {
            Run::Read(run) => Some(run(keyspace, args).unwrap_or_else(Outcome::Refused)),
            Run::Write(_) => None,
        }
    }

    /// Runs a command of either kind.
    pub(in crate::kv) fn run(self, keyspace: &mut Keyspace, args: &Args<'_>) -> Outcome {
        let answer = match self.0.run {
            Run::Read(run) => run(keyspace, args),
            Run::Write(run) => run(keyspace, args),
        };
        answer.unwrap_or_else(Outcome::Refused)
    }
}

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
    fn each_command_has_its_own_name_and_number() {
        let mut names = BTreeSet::new();
        for row in GROUPS.iter().copied().flatten() {
            assert!(names.insert(row.name), "{} is registered twice", row.name);
            let command = CommandId::named(row.name).unwrap();
            assert_eq!(command.number(), row.number);
            assert_eq!(CommandId::numbered(row.number), Some(command));
        }
        assert_eq!((CommandId::named("nonesuch"), CommandId::numbered(u16::MAX)), (None, None));
    }

    /// Logs hold these numbers.
    #[test]
    fn numbers_are_grouped() {
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
        ] {
            let numbers: Vec<u16> = group.iter().map(|row| row.number).collect();
            let wanted: Vec<u16> = (from..).take(numbers.len()).collect();
            assert_eq!(numbers, wanted);
        }
    }

    #[test]
    fn keys_are_found_among_arguments() {
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
        assert_eq!(all("keys", "*"), None);
    }
}
