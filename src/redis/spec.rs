//! The description of a command, one row of the table of commands: name, arity, flags, the
//! positions of its keys, what `COMMAND DOCS` says about it, and the function that runs it.

use crate::kv::{CommandId, ItemsBuffer};
use crate::wire::resp::{Request, Writer};

use super::action::Action;
use super::call::Call;

/// Length of the longest name of a command or subcommand, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 24;

/// A command or subcommand.
#[derive(Debug)]
pub(super) struct CommandSpec {
    /// In lower case.
    pub(super) name: &'static str,
    /// The same; `<command>|<subcommand>` for a subcommand.
    pub(super) full_name: &'static str,
    /// The number of arguments, names included. If negative, the minimum.
    pub(super) arity: i8,
    /// Redis's flags, such as `write` and `fast`.
    pub(super) flags: &'static [&'static str],
    /// Redis's ACL categories, without those that follow from `flags`.
    pub(super) categories: &'static [&'static str],
    keys: KeyRange,
    /// Index of the argument that holds the number of keys, which follow it; 0 if there is none.
    key_count_index: u8,
    pub(super) group: &'static str,
    pub(super) since: &'static str,
    pub(super) complexity: &'static str,
    pub(super) summary: &'static str,
    pub(super) subcommands: &'static [CommandSpec],
    /// The command of the state machine that takes the arguments as they are, if there is one.
    command: Option<CommandId>,
    run: Run,
}

/// The function of a command.
#[derive(Debug, Clone, Copy)]
enum Run {
    /// Needs the request only.
    Call(fn(&mut Call<'_>) -> Action),
    /// Looks up other commands as well.
    WithTable(fn(&mut Call<'_>, &'static CommandTable) -> Action),
}

/// All commands, sorted by name.
#[derive(Debug)]
pub(super) struct CommandTable {
    commands: Vec<&'static CommandSpec>,
}

/// The indexes of arguments that are keys: `first` to `last` in steps of `step`. A negative `last`
/// counts from the end, -1 being the last argument. No keys if `first` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub(super) first: i8,
    pub(super) last: i8,
    pub(super) step: i8,
}

pub(super) const WRITE_FAST: &[&str] = &["write", "denyoom", "fast"];
pub(super) const READ_FAST: &[&str] = &["readonly", "fast"];
pub(super) const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];
pub(super) const ANYTIME: &[&str] = &["loading", "stale"];
pub(super) const ANYTIME_FAST: &[&str] = &["loading", "stale", "fast"];

/// The flag of commands that are refused while memory is full.
pub(super) const DENY_OOM: &str = "denyoom";

pub(super) const NO_KEYS: KeyRange = KeyRange { first: 0, last: 0, step: 0 };
/// All arguments.
pub(super) const ALL_KEYS: KeyRange = KeyRange { first: 1, last: -1, step: 1 };

/// A row for a command. Flags, keys and documentation are empty until set.
pub(super) const fn command(
    name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, name, arity, run)
}

/// A row for a command whose function looks up other commands.
pub(super) const fn command_with_table(
    name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>, &'static CommandTable) -> Action,
) -> CommandSpec {
    subcommand_with_table(name, name, arity, run)
}

/// A row for a subcommand.
pub(super) const fn subcommand(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    row(name, full_name, arity, Run::Call(run))
}

/// A row for a subcommand whose function looks up other commands.
pub(super) const fn subcommand_with_table(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>, &'static CommandTable) -> Action,
) -> CommandSpec {
    row(name, full_name, arity, Run::WithTable(run))
}

const fn row(name: &'static str, full_name: &'static str, arity: i8, run: Run) -> CommandSpec {
    CommandSpec {
        name,
        full_name,
        arity,
        flags: &[],
        categories: &[],
        keys: NO_KEYS,
        key_count_index: 0,
        group: "",
        since: "",
        complexity: "",
        summary: "",
        subcommands: &[],
        command: None,
        run,
    }
}

impl CommandSpec {
    pub(super) const fn keys_at(mut self, keys: KeyRange) -> CommandSpec {
        self.keys = keys;
        self
    }

    pub(super) const fn flags(mut self, flags: &'static [&'static str]) -> CommandSpec {
        self.flags = flags;
        self
    }

    pub(super) const fn categories(mut self, categories: &'static [&'static str]) -> CommandSpec {
        self.categories = categories;
        self
    }

    /// The version of Redis that introduced the command, and its group in Redis's documentation.
    pub(super) const fn since(mut self, since: &'static str, group: &'static str) -> CommandSpec {
        self.since = since;
        self.group = group;
        self
    }

    /// The time complexity.
    pub(super) const fn costs(mut self, complexity: &'static str) -> CommandSpec {
        self.complexity = complexity;
        self
    }

    /// The summary for `COMMAND DOCS` and `HELP`.
    pub(super) const fn about(mut self, summary: &'static str) -> CommandSpec {
        self.summary = summary;
        self
    }

    /// The command of the state machine that takes the arguments as they are. It also says where
    /// the keys are.
    pub(super) const fn runs(mut self, command: CommandId) -> CommandSpec {
        // `range` counts the command's name, `counted_at` does not. A subcommand has a second name.
        let offset = if self.name.len() == self.full_name.len() { 0 } else { 1 };
        let (first, last, step) = command.keys().range();
        self.keys = KeyRange {
            first: if first == 0 { 0 } else { first + offset },
            last: if last > 0 { last + offset } else { last },
            step,
        };
        self.key_count_index = match command.keys().counted_at() {
            Some(index) => index + 1 + offset.cast_unsigned(),
            None => 0,
        };
        self.command = Some(command);
        self
    }

    pub(super) const fn with(mut self, subcommands: &'static [CommandSpec]) -> CommandSpec {
        self.subcommands = subcommands;
        self
    }

    /// Whether a request may have `count` arguments, names included.
    pub(super) fn accepts(&self, count: usize) -> bool {
        let min = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { count >= min } else { count == min }
    }

    pub(super) fn has_flag(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    /// The positions of keys that do not depend on the request, for `COMMAND`.
    pub(super) fn key_range(&self) -> KeyRange {
        self.keys
    }

    /// Whether the command can have keys.
    pub(super) fn has_keys(&self) -> bool {
        self.keys != NO_KEYS || self.key_count_index > 0
    }

    /// The indexes of the keys among the `count` arguments that `argument` returns. `None` if the
    /// request has fewer keys than its key count says.
    pub(super) fn keys<'w>(
        &self,
        count: usize,
        argument: &dyn Fn(usize) -> Option<&'w [u8]>,
    ) -> Option<impl Iterator<Item = usize> + Clone + use<'w>> {
        let counted = match usize::from(self.key_count_index) {
            0 => 0..0,
            index => {
                let key_count = leading_digits(argument(index)?);
                let rest = count - 1 - index;
                (1..=rest).contains(&key_count).then_some(index + 1..index + 1 + key_count)?
            }
        };
        Some(self.keys_in_range(count).chain(counted))
    }

    fn keys_in_range(&self, count: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let KeyRange { first, last, step } = self.keys;
        let distance = usize::from(last.unsigned_abs());
        let end = match (first, last < 0) {
            (0, _) => 0,
            (_, true) => (count + 1).saturating_sub(distance),
            (_, false) => count.min(distance + 1),
        };
        let step = usize::from(step.unsigned_abs()).max(1);
        (usize::from(first.unsigned_abs())..end).step_by(step)
    }

    /// The subcommand of that name, in lower case.
    pub(super) fn subcommand(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        self.subcommands.iter().find(|spec| spec.name.as_bytes() == name)
    }

    /// Runs the command.
    pub(super) fn run(&self, call: &mut Call<'_>, table: &'static CommandTable) -> Action {
        call.command = self.command;
        match self.run {
            Run::Call(run) => run(call),
            Run::WithTable(run) => run(call, table),
        }
    }

    /// Runs the command for a request inside another one (`EXEC`, `ONCE`). Operations are added to
    /// `batch` instead of being submitted, and `writer` takes the reply.
    pub(super) fn run_within(
        &self,
        outer: &mut Call<'_>,
        request: Request<'_>,
        table: &'static CommandTable,
        batch: &mut ItemsBuffer,
        writer: Writer<'_>,
    ) -> Action {
        let mut call = Call {
            connection: outer.connection,
            command: None,
            request,
            key: outer.key,
            context: outer.context,
            settings: outer.settings,
            writer,
            batch: Some(batch),
        };
        self.run(&mut call, table)
    }
}

impl CommandTable {
    /// The table of `commands`, which need not be sorted.
    pub(super) fn new(mut commands: Vec<&'static CommandSpec>) -> CommandTable {
        commands.sort_unstable_by_key(|spec| spec.name);
        CommandTable { commands }
    }

    /// All commands, sorted by name.
    pub(super) fn all(&self) -> &[&'static CommandSpec] {
        &self.commands
    }

    /// The position of the command of that name, in lower case.
    pub(super) fn position(&self, name: &[u8]) -> Option<usize> {
        self.commands.binary_search_by(|spec| spec.name.as_bytes().cmp(name)).ok()
    }

    /// The command of that name, in lower case.
    pub(super) fn find(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        self.position(name).map(|position| self.commands[position])
    }

    /// The command, or the subcommand `<command>|<subcommand>`, of that name in any case.
    pub(super) fn find_full(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        let name = name.to_ascii_lowercase();
        match name.iter().position(|byte| *byte == b'|') {
            None => self.find(&name),
            Some(bar) => self.find(&name[..bar])?.subcommand(&name[bar + 1..]),
        }
    }
}

/// The number at the start of an argument, as C's `atoi` reads it for Redis: what follows the
/// digits is ignored, and no digits are 0.
fn leading_digits(argument: &[u8]) -> usize {
    let text = argument.trim_ascii_start();
    let digits = text.strip_prefix(b"+").unwrap_or(text).iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0, |sum: usize, digit| sum.saturating_mul(10).saturating_add((digit - b'0').into()))
}
