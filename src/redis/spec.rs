//! The description of a command, which is one row of the command table: its name, arity, flags, key
//! positions, documentation for `COMMAND DOCS`, and the function that runs it.

use crate::feature_level::FeatureLevel;
use crate::kv::{CommandId, ItemsBuffer, KeysByOption, Operation};
use crate::wire::resp::{Request, Writer};

use super::action::Action;
use super::call::Call;
use super::statistics::CommandNumber;

/// Maximum length in bytes of the name of a command or subcommand.
pub(super) const NAME_BYTES_MAX: usize = 32;

/// A row of the command table: the description of a command or subcommand, and the function that
/// runs it.
#[derive(Debug)]
pub(super) struct CommandSpec {
    /// Name of the command or subcommand in lower case, for example `set` for `CONFIG SET`.
    pub(super) name: &'static str,
    /// Full name of the command or subcommand in lower case, for example `config|set` for `CONFIG
    /// SET`.
    pub(super) full_name: &'static str,
    /// Number of arguments of a request, including the names of the command and the subcommand. A
    /// negative arity means a minimum: -2 is at least two arguments.
    pub(super) arity: i8,
    /// Flags of the command as in Redis, such as `write` and `fast`.
    pub(super) flags: &'static [&'static str],
    /// ACL categories of the command as in Redis, except for the categories that follow from
    /// `flags`.
    pub(super) categories: &'static [&'static str],
    keys: KeyRange,
    /// Which arguments are shard channels. Clients find the shard of a channel like that of a key.
    channels: KeyRange,
    /// Index of the argument that contains the number of keys, which follow it. 0 if the command
    /// has no such argument.
    key_count_index: u8,
    /// Further keys, whose positions depend on the options of the command.
    keys_by_option: Option<KeysByOption>,
    pub(super) group: &'static str,
    pub(super) since: &'static str,
    pub(super) complexity: &'static str,
    pub(super) summary: &'static str,
    pub(super) subcommands: &'static [CommandSpec],
    /// The state machine's command that runs with the client's arguments, unchanged. `None` if the
    /// command's function creates the operation itself, or if the command does not need the state
    /// machine.
    command: Option<CommandId>,
    /// The feature level that the cluster must have before the command is accepted.
    pub(super) feature_level: FeatureLevel,
    run: Run,
}

/// The function that runs a command.
#[derive(Debug, Clone, Copy)]
enum Run {
    /// A function that does not need the command table.
    Call(fn(&mut Call<'_>) -> Action),
    /// A function that needs the command table, because it looks up other commands.
    WithTable(fn(&mut Call<'_>, &'static CommandTable) -> Action),
}

/// The command table: the rows of all commands, sorted by name.
#[derive(Debug)]
pub(super) struct CommandTable {
    commands: Vec<&'static CommandSpec>,
    /// Id of each command, in the order of `commands`. The ids that follow a command's own id are
    /// those of its subcommands.
    numbers: Vec<u16>,
}

/// Which arguments of a request are keys: the arguments from `first` to `last`, in steps of `step`,
/// where argument 0 is the command's name. A negative `last` is counted from the end: -1 is the
/// last argument. If `first` is 0, the command has no keys.
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

/// The flag of commands that are refused while memory usage exceeds `maxmemory`.
pub(super) const DENY_OOM: &str = "denyoom";

pub(super) const NO_KEYS: KeyRange = KeyRange { first: 0, last: 0, step: 0 };
/// The key range of a command whose arguments are all keys.
pub(super) const ALL_KEYS: KeyRange = KeyRange { first: 1, last: -1, step: 1 };

/// Returns a row of the command table for a command. It has no flags, keys or documentation yet;
/// these are added by methods such as `flags`.
pub(super) const fn command(
    name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, name, arity, run)
}

/// Returns a row of the command table for a command whose function looks up other commands.
pub(super) const fn command_with_table(
    name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>, &'static CommandTable) -> Action,
) -> CommandSpec {
    subcommand_with_table(name, name, arity, run)
}

/// Returns a row of the command table for a subcommand. `full_name` has the form
/// `<command>|<subcommand>`.
pub(super) const fn subcommand(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    row(name, full_name, arity, Run::Call(run))
}

/// Returns a row of the command table for a subcommand whose function looks up other commands.
/// `full_name` has the form `<command>|<subcommand>`.
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
        channels: NO_KEYS,
        key_count_index: 0,
        keys_by_option: None,
        group: "",
        since: "",
        complexity: "",
        summary: "",
        subcommands: &[],
        command: None,
        feature_level: FeatureLevel::V0_1,
        run,
    }
}

impl CommandSpec {
    pub(super) const fn keys_at(mut self, keys: KeyRange) -> CommandSpec {
        self.keys = keys;
        self
    }

    pub(super) const fn channels_at(mut self, channels: KeyRange) -> CommandSpec {
        self.channels = channels;
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

    /// Sets the version of Redis that introduced the command, and the group of commands to which it
    /// belongs in Redis's documentation, such as `list`.
    pub(super) const fn since(mut self, since: &'static str, group: &'static str) -> CommandSpec {
        self.since = since;
        self.group = group;
        self
    }

    /// Sets the time complexity that `COMMAND DOCS` reports.
    pub(super) const fn costs(mut self, complexity: &'static str) -> CommandSpec {
        self.complexity = complexity;
        self
    }

    /// Sets the summary that `COMMAND DOCS` and `HELP` show.
    pub(super) const fn about(mut self, summary: &'static str) -> CommandSpec {
        self.summary = summary;
        self
    }

    /// Assigns the state machine's command `command` to this row, to run with the client's
    /// arguments unchanged. Copies the key positions of `command` to the row.
    pub(super) const fn runs(mut self, command: CommandId) -> CommandSpec {
        // Indexes in `range` include the command's name, those in `counted_at` do not. A subcommand
        // has a second name.
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
        self.keys_by_option = command.keys().by_option();
        self.command = Some(command);
        self.needs(command.feature_level())
    }

    /// Sets the index of the argument that contains the number of keys that follow it.
    pub(super) const fn counted_at(mut self, key_count_index: u8) -> CommandSpec {
        self.key_count_index = key_count_index;
        self
    }

    /// Sets the feature level that the cluster must have before the command is accepted, for a
    /// command that creates its operations itself.
    pub(super) const fn needs(mut self, level: FeatureLevel) -> CommandSpec {
        self.feature_level = level;
        self
    }

    pub(super) const fn with(mut self, subcommands: &'static [CommandSpec]) -> CommandSpec {
        self.subcommands = subcommands;
        self
    }

    /// Returns whether the command may change the state or publish a message. Redis says the same
    /// of `PFCOUNT`, and of scripts that it does not know to be read-only.
    pub(super) fn may_change(&self) -> bool {
        let others = ["eval", "evalsha", "fcall", "once", "pfcount", "publish", "spublish"];
        self.has_flag("write") || others.contains(&self.full_name)
    }

    /// Returns whether the arity of the command allows a request with `count` arguments, including
    /// the names of the command and the subcommand.
    pub(super) fn accepts(&self, count: usize) -> bool {
        let min = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { count >= min } else { count == min }
    }

    /// Returns the ACL categories of the command: those in its row of the command table, and those
    /// that follow from its flags, including `fast` or `slow`.
    pub(super) fn all_categories(&self) -> impl Iterator<Item = &'static str> {
        let by_flag = [("write", "write"), ("readonly", "read"), ("admin", "admin")];
        // As in Redis, scripts neither read nor write, but functions do.
        let is_script =
            self.categories.contains(&"scripting") && !self.full_name.starts_with("function");
        let by_flag =
            by_flag.map(|(flag, category)| (self.has_flag(flag) && !is_script).then_some(category));
        let speed = if self.has_flag("fast") { "fast" } else { "slow" };
        by_flag.into_iter().flatten().chain(self.categories.iter().copied()).chain([speed])
    }

    pub(super) fn has_flag(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    /// Returns the positions of the keys as in the reply to `COMMAND INFO`: first key, last key and
    /// step. Excludes keys that follow an argument with their number (`numkeys`), and includes
    /// shard channels.
    pub(super) fn key_range(&self) -> KeyRange {
        if self.channels == NO_KEYS { self.keys } else { self.channels }
    }

    /// Returns whether any argument of the command can be a key.
    pub(super) fn has_keys(&self) -> bool {
        self.keys != NO_KEYS || self.key_count_index > 0 || self.keys_by_option.is_some()
    }

    /// Returns the indexes of the keys among the `count` arguments of a request; `argument` returns
    /// the argument at an index. `None` if the argument that contains the number of keys is
    /// missing, is 0, or is greater than the number of arguments that follow it, or if the keys of
    /// an option are missing.
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
        let by_option = match self.keys_by_option {
            None => 0..0,
            Some(keys) => keys.positions(count - 1, &|index| argument(index + 1))?,
        };
        let by_option = by_option.map(|position| position + 1);
        Some(self.keys_in_range(count).chain(counted).chain(by_option))
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

    /// Returns the subcommand named `name`, which must be in lower case; `None` if there is no such
    /// subcommand.
    pub(super) fn subcommand(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        self.subcommand_position(name).map(|position| &self.subcommands[position])
    }

    /// Returns the position of the subcommand named `name`, which must be in lower case, in
    /// `subcommands`; `None` if there is no such subcommand.
    pub(super) fn subcommand_position(&self, name: &[u8]) -> Option<usize> {
        self.subcommands.iter().position(|spec| spec.name.as_bytes() == name)
    }

    /// Runs the command for the request in `call`. The number of arguments must have been checked.
    pub(super) fn run(&self, call: &mut Call<'_>, table: &'static CommandTable) -> Action {
        call.command = self.command;
        match self.run {
            Run::Call(run) => run(call),
            Run::WithTable(run) => run(call, table),
        }
    }

    /// Runs the command for a request inside another one (`EXEC` or `ONCE`). Adds the command's
    /// operations to `batch` instead of submitting them, and writes the reply to `writer`.
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
            context: outer.context,
            settings: outer.settings,
            writer,
            batch: Some(batch),
        };
        self.run(&mut call, table)
    }
}

impl CommandTable {
    /// Returns a command table of the given rows, which may be in any order.
    pub(super) fn new(mut commands: Vec<&'static CommandSpec>) -> CommandTable {
        commands.sort_unstable_by_key(|spec| spec.name);
        let mut next = 0;
        let number = |spec: &&CommandSpec| {
            let number = u16::try_from(next).expect("there are far fewer commands");
            next += 1 + spec.subcommands.len();
            number
        };
        let numbers = commands.iter().map(number).collect();
        CommandTable { commands, numbers }
    }

    /// Returns the id of a command by its position in the table, or the id of its subcommand by the
    /// subcommand's position in the command's row.
    pub(super) fn number(&self, position: usize, subcommand: Option<usize>) -> CommandNumber {
        let offset = subcommand.map_or(0, |position| position + 1);
        CommandNumber(self.numbers[position] + u16::try_from(offset).expect("they have numbers"))
    }

    /// Iterates over all commands and subcommands, in the order of their names, with their ids.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (CommandNumber, &'static CommandSpec)> {
        let rows = self.commands.iter().flat_map(|spec| {
            let spec: &'static CommandSpec = spec;
            std::iter::once(spec).chain(spec.subcommands)
        });
        (0..).map(CommandNumber).zip(rows)
    }

    /// Returns the commands that may have submitted this operation, a call of a command of the
    /// state machine. Slow, because it compares all commands.
    pub(super) fn specs_running(
        &self,
        operation: &Operation<'_>,
    ) -> Vec<(CommandNumber, &'static CommandSpec)> {
        let Operation::Call { command, .. } = operation else { return Vec::new() };
        let runs = |spec: &CommandSpec| match spec.command {
            Some(found) => found == *command || is_form_of(command.name(), spec.full_name),
            // Both publish.
            None if spec.full_name == "spublish" => command.name() == "publish",
            None => spec.full_name == command.name(),
        };
        self.numbered().filter(|(_, spec)| runs(spec)).collect()
    }

    /// Returns the rows of the command table, sorted by name.
    pub(super) fn all(&self) -> &[&'static CommandSpec] {
        &self.commands
    }

    /// Returns the position of a command in the command table; `None` if there is no such command.
    /// `name` must be in lower case.
    pub(super) fn position(&self, name: &[u8]) -> Option<usize> {
        self.commands.binary_search_by(|spec| spec.name.as_bytes().cmp(name)).ok()
    }

    /// Returns the command with this name, which must be in lower case; `None` if there is no such
    /// command.
    pub(super) fn find(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        self.position(name).map(|position| self.commands[position])
    }

    /// Returns a command or subcommand by its full name, such as `get` or `config|set`; `None` if
    /// there is none. Ignores case.
    pub(super) fn find_full(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        let name = name.to_ascii_lowercase();
        match name.iter().position(|byte| *byte == b'|') {
            None => self.find(&name),
            Some(bar) => self.find(&name[..bar])?.subcommand(&name[bar + 1..]),
        }
    }
}

/// Returns whether a command of the state machine is another form of that which the command `name`
/// usually runs.
fn is_form_of(command: &str, name: &str) -> bool {
    matches!((command, name), ("copydb", "copy") | ("flushall", "flushdb"))
}

/// Parses the number at the start of an argument like C's `atoi`: ignores everything after the
/// digits, and returns 0 if there are none.
fn leading_digits(argument: &[u8]) -> usize {
    let text = argument.trim_ascii_start();
    let digits = text.strip_prefix(b"+").unwrap_or(text).iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0, |sum: usize, digit| sum.saturating_mul(10).saturating_add((digit - b'0').into()))
}
