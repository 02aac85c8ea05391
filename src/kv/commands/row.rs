//! A row of the registry: a command's number, its name, the positions of its keys and the function
//! that runs it. Each group's file has a table of rows; `registry.rs` collects the tables.

use std::ops::Range;

use crate::feature_level::FeatureLevel;
use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::keyspace::Keyspace;
use crate::kv::users::table::Users;

/// The result of a command's function: an outcome, or the reason why the command was refused
/// without changing anything.
pub(in crate::kv) type Answer = Result<Outcome, Refusal>;

/// A row of the table of all commands of the state machine: a command's number, name, key positions
/// and function.
#[derive(Debug)]
pub(in crate::kv) struct Row {
    /// Number that identifies the command in log entries and snapshots. It must never change, and
    /// must not be reused if the command is removed.
    pub(in crate::kv) number: u16,
    /// Name of the command in lower case, of the form `command|subcommand` for a subcommand.
    pub(in crate::kv) name: &'static str,
    pub(in crate::kv) keys: KeyPositions,
    pub(in crate::kv) scale: Scale,
    /// The feature level that the cluster must have before a replica accepts the command from a
    /// client.
    pub(in crate::kv) level: FeatureLevel,
    pub(in crate::kv) run: Run,
}

/// What the running time of a command is proportional to, so that a long command can be recognized
/// before it runs. Removing or replacing a whole value takes constant time, and so does the copy of
/// the parts of a collection that a write changes while a snapshot shares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) enum Scale {
    /// The arguments of the command; each takes constant or logarithmic time.
    Arguments,
    /// The largest integer among the arguments after the first, if there is one: the number of
    /// elements to return or remove. At most the values at the command's keys, unless the number is
    /// negative.
    Count,
    /// The arguments, and all values at the command's keys.
    Values,
    /// The integer after the option `COUNT`, or all values at the command's keys without it.
    OptionalCount,
    /// All values at the command's first key, which it sorts.
    Sort,
    /// All keys of the keyspace.
    Keyspace,
}

/// The function that runs a command of the state machine.
#[derive(Debug, Clone, Copy)]
pub(in crate::kv) enum Run {
    /// The function of a read-only command, which needs no log entry.
    Read(fn(&Keyspace, &Args<'_>) -> Answer),
    /// The function of a read-only command that reads ranges of keys, and can run only while there
    /// is an index of keys. It has no meaning in a log entry, because other replicas may have no
    /// index.
    RangeRead(fn(&Keyspace, &Args<'_>) -> Answer),
    /// The function of a read-only command that reads what only this replica has, such as its
    /// history of changes. It has no meaning in a log entry.
    OwnRead(fn(&Keyspace, &Args<'_>) -> Answer),
    /// The function of a command that may change the state.
    Write(fn(&mut Keyspace, &Args<'_>) -> Answer),
    /// The function of a command that may change the users. It has no meaning in a transaction or a
    /// client session.
    Users(fn(&mut Users, &Args<'_>) -> Answer),
}

/// The positions of the keys among a command's arguments. Positions are counted from 0, without the
/// command's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPositions {
    /// Number of keys, starting at position `first`: either a fixed number, or all keys up to the
    /// last argument.
    count: Count,
    /// Position of the first key among the arguments, counted from 0.
    first: u8,
    /// Distance between the positions of two consecutive keys: 2 if every other argument is a key.
    step: u8,
    /// Position of the `numkeys` argument, counted from 0. Its value is the number of keys that
    /// follow it, in addition to those at `first`. `None` if the command has no `numkeys` argument.
    counted_at: Option<u8>,
    /// Further keys, whose positions depend on the options of the command.
    by_option: Option<KeysByOption>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Fixed(u8),
    ToEnd,
    /// All arguments but the last.
    ButLast,
}

/// Keys whose positions depend on the options of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysByOption {
    /// The first half of the arguments after the option `STREAMS` of `XREAD` or `XREADGROUP`.
    AfterStreams,
    /// The argument of the last option `STORE` or `STOREDIST` of `GEORADIUS`, if there is one.
    StoreOfRadius,
    /// The argument of the last option `STORE` of `SORT`, if there is one.
    StoreOfSort,
}

/// Key positions of a command without keys.
pub(in crate::kv) const NO_KEYS: KeyPositions = KeyPositions::fixed(0);
/// Key positions of a command whose only key is its first argument.
pub(in crate::kv) const ONE_KEY: KeyPositions = KeyPositions::fixed(1);
/// Key positions of a command whose first two arguments are keys.
pub(in crate::kv) const TWO_KEYS: KeyPositions = KeyPositions::fixed(2);
/// Key positions of a command whose only key is its second argument.
pub(in crate::kv) const SECOND_KEY: KeyPositions = KeyPositions::new(Count::Fixed(1), 1, 1);
/// Key positions of a command whose arguments are all keys.
pub(in crate::kv) const ALL_KEYS: KeyPositions = KeyPositions::to_end(0, 1);
/// Key positions of a command whose arguments are all keys, except for the last.
pub(in crate::kv) const ALL_BUT_LAST: KeyPositions = KeyPositions::new(Count::ButLast, 0, 1);
/// Key positions of a command whose arguments are all keys, except for the first.
pub(in crate::kv) const ALL_BUT_FIRST: KeyPositions = KeyPositions::to_end(1, 1);
/// Key positions of `XREAD` and `XREADGROUP`, whose keys follow the option `STREAMS`.
pub(in crate::kv) const KEYS_AFTER_STREAMS: KeyPositions =
    NO_KEYS.and_by_option(KeysByOption::AfterStreams);
/// Key positions of a command whose arguments are alternating keys and values, such as `MSET`.
pub(in crate::kv) const KEYS_AND_VALUES: KeyPositions = KeyPositions::to_end(0, 2);

impl KeyPositions {
    const fn new(count: Count, first: u8, step: u8) -> KeyPositions {
        KeyPositions { count, first, step, counted_at: None, by_option: None }
    }

    const fn fixed(count: u8) -> KeyPositions {
        KeyPositions::new(Count::Fixed(count), 0, 1)
    }

    const fn to_end(first: u8, step: u8) -> KeyPositions {
        KeyPositions::new(Count::ToEnd, first, step)
    }

    /// Returns these key positions, extended by the keys after the `numkeys` argument at
    /// `position`. The value of the `numkeys` argument is the number of these keys.
    pub(in crate::kv) const fn and_counted_at(mut self, position: u8) -> KeyPositions {
        self.counted_at = Some(position);
        self
    }

    /// Returns these key positions, extended by keys whose positions depend on options.
    pub(in crate::kv) const fn and_by_option(mut self, keys: KeysByOption) -> KeyPositions {
        self.by_option = Some(keys);
        self
    }

    /// Returns the position of the first key, the position of the last key, and the step between
    /// keys, as Redis's `COMMAND` reports them: counted from 1, negative from the end, all 0 if
    /// there are no keys. Excludes the keys after a `numkeys` argument, and those of options.
    pub const fn range(self) -> (i8, i8, i8) {
        let (first, step) = (self.first.cast_signed() + 1, self.step.cast_signed());
        match self.count {
            Count::Fixed(0) => (0, 0, 0),
            Count::Fixed(count) => (first, first + (count.cast_signed() - 1) * step, step),
            Count::ToEnd => (first, -1, step),
            Count::ButLast => (first, -2, step),
        }
    }

    /// Returns the position of the `numkeys` argument, counted from 0; `None` if the command has no
    /// such argument.
    pub const fn counted_at(self) -> Option<u8> {
        self.counted_at
    }

    /// Returns which keys depend on the options of the command; `None` for none.
    pub const fn by_option(self) -> Option<KeysByOption> {
        self.by_option
    }

    /// Returns whether the first argument of the command is a key.
    pub(in crate::kv) fn starts_at_first(self) -> bool {
        self.first == 0 && self.count != Count::Fixed(0)
    }

    /// Returns the distance between two keys if the command has keys from the first argument to the
    /// last, such as 2 for `MSET`; otherwise `None`.
    pub(in crate::kv) fn step_to_end(self) -> Option<usize> {
        (self.first == 0 && self.count == Count::ToEnd).then_some(usize::from(self.step))
    }

    /// Returns the keys among the arguments `args`; `None` if the `numkeys` argument is malformed
    /// or exceeds the number of arguments that follow it, or if the keys of an option are missing.
    pub(in crate::kv) fn keys<'a>(self, args: &[&'a [u8]]) -> Option<Vec<&'a [u8]>> {
        let from = args.get(usize::from(self.first)..).unwrap_or_default();
        let fixed = match self.count {
            Count::Fixed(count) => usize::from(count),
            Count::ToEnd => usize::MAX,
            Count::ButLast => from.len().saturating_sub(1),
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
        let by_option = match self.by_option {
            None => 0..0,
            Some(keys) => keys.positions(args.len(), &|at| args.get(at).copied())?,
        };
        Some(keys.chain(counted).chain(&args[by_option]).copied().collect())
    }
}

impl KeysByOption {
    /// Returns the positions of the keys among the `count` arguments of a command, without the
    /// command's name. `argument` returns the argument at a position. `None` if keys are missing
    /// that the command must have.
    pub fn positions<'a>(
        self,
        count: usize,
        argument: &dyn Fn(usize) -> Option<&'a [u8]>,
    ) -> Option<Range<usize>> {
        match self {
            KeysByOption::AfterStreams => keys_after_streams(count, argument),
            KeysByOption::StoreOfRadius => {
                Some(argument_of_last(&["STORE", "STOREDIST"], 4..count, &[], argument))
            }
            KeysByOption::StoreOfSort => {
                let others = [("LIMIT", 2), ("GET", 1), ("BY", 1)];
                Some(argument_of_last(&["STORE"], 1..count, &others, argument))
            }
        }
    }
}

/// Returns the position of the argument of the last of the options named in `names`, among the
/// arguments at the positions in `within`; an empty range if there is none. `others` are the names
/// of other options, each with the number of its arguments, which may look like options.
fn argument_of_last<'a>(
    names: &[&str],
    within: Range<usize>,
    others: &[(&str, usize)],
    argument: &dyn Fn(usize) -> Option<&'a [u8]>,
) -> Range<usize> {
    let (mut at, mut found) = (within.start, 0..0);
    while let Some(option) = argument(at).filter(|_| at + 1 < within.end) {
        let is = |name: &&str| option.eq_ignore_ascii_case(name.as_bytes());
        at += 1;
        if names.iter().any(is) {
            found = at..at + 1;
            at += 1;
        } else if let Some((_, count)) = others.iter().find(|(name, _)| is(name)) {
            at += count;
        }
    }
    found
}

/// Returns the positions of the keys among the `count` arguments of `XREAD` or `XREADGROUP`,
/// without the command's name: the first half of the arguments after the option `STREAMS`. `None`
/// if there are no such arguments.
fn keys_after_streams<'a>(
    count: usize,
    argument: &dyn Fn(usize) -> Option<&'a [u8]>,
) -> Option<Range<usize>> {
    let mut at = 0;
    loop {
        let option = argument(at)?;
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        at += 1;
        if is("STREAMS") {
            break;
        } else if is("GROUP") {
            // A group or a consumer may have the name `STREAMS`.
            at += 2;
        }
    }
    let keys = (count - at) / 2;
    (keys > 0).then_some(at..at + keys)
}

impl Row {
    /// Returns a copy of this row for a command whose running time is proportional to `scale`.
    pub(in crate::kv) const fn per(mut self, scale: Scale) -> Row {
        self.scale = scale;
        self
    }

    /// Returns a copy of this row for a command that was added with the feature level `level`.
    pub(in crate::kv) const fn since(mut self, level: FeatureLevel) -> Row {
        self.level = level;
        self
    }
}

/// Returns the row of a command whose work is in its arguments, and which every version knows.
const fn new(number: u16, name: &'static str, keys: KeyPositions, run: Run) -> Row {
    Row { number, name, keys, scale: Scale::Arguments, level: FeatureLevel::V0_1, run }
}

/// Returns the row of a read-only command for the table of all commands of the state machine.
/// `number` identifies the command in log entries.
pub(in crate::kv) const fn read(
    number: u16,
    name: &'static str,
    keys: KeyPositions,
    run: fn(&Keyspace, &Args<'_>) -> Answer,
) -> Row {
    new(number, name, keys, Run::Read(run))
}

/// Returns the row of a read-only command on a range of keys, which needs the index of keys, for
/// the table of all commands of the state machine. `number` identifies the command in reads.
pub(in crate::kv) const fn range_read(
    number: u16,
    name: &'static str,
    run: fn(&Keyspace, &Args<'_>) -> Answer,
) -> Row {
    new(number, name, NO_KEYS, Run::RangeRead(run))
}

/// Returns the row of a read-only command without keys that reads what only this replica has, for
/// the table of all commands of the state machine. `number` identifies the command in reads.
pub(in crate::kv) const fn own_read(
    number: u16,
    name: &'static str,
    run: fn(&Keyspace, &Args<'_>) -> Answer,
) -> Row {
    new(number, name, NO_KEYS, Run::OwnRead(run))
}

/// Returns the row of a command that may change the state, for the table of all commands of the
/// state machine. `number` identifies the command in log entries.
pub(in crate::kv) const fn write(
    number: u16,
    name: &'static str,
    keys: KeyPositions,
    run: fn(&mut Keyspace, &Args<'_>) -> Answer,
) -> Row {
    new(number, name, keys, Run::Write(run))
}

/// Returns the row of a command that may change the users of the cluster, for the table of all
/// commands of the state machine. `number` identifies the command in log entries.
pub(in crate::kv) const fn of_users(
    number: u16,
    name: &'static str,
    run: fn(&mut Users, &Args<'_>) -> Answer,
) -> Row {
    new(number, name, NO_KEYS, Run::Users(run))
}
