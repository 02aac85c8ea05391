//! The description of a command: its name, its arity, its flags, where its keys are, and what
//! `COMMAND DOCS` says about it.

use crate::kv::CommandId;
use crate::redis::action::Action;
use crate::redis::call::Call;

/// Longest name of a command or subcommand.
pub(super) const NAME_BYTES_MAX: usize = 24;

/// A command or subcommand.
#[derive(Debug)]
pub(super) struct CommandSpec {
    /// In lower case.
    pub(super) name: &'static str,
    /// The same, with the command's name and a bar before it if it is a subcommand.
    pub(super) full_name: &'static str,
    /// How many words a request has, names too; if negative, at least so many.
    pub(super) arity: i8,
    /// Redis's words for its nature.
    pub(super) flags: &'static [&'static str],
    /// Redis's words for what it is about, as access rules name it; what follows from `flags` is
    /// not repeated here.
    pub(super) categories: &'static [&'static str],
    keys: KeyRange,
    /// The place of a word that says how many keys are behind it; 0 if there is none.
    counted_at: u8,
    pub(super) group: &'static str,
    pub(super) since: &'static str,
    pub(super) complexity: &'static str,
    pub(super) summary: &'static str,
    pub(super) subcommands: &'static [CommandSpec],
    /// What the store does, if the words go there as they are.
    pub(super) verb: Option<CommandId>,
    pub(super) run: fn(&mut Call<'_>) -> Action,
}

/// Where keys are among the words: from `first` to `last`, each `step`-th. Counted from the end if
/// `last` is negative; none if `first` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub(super) first: i8,
    pub(super) last: i8,
    pub(super) step: i8,
}

pub(super) const WRITE_FAST: &[&str] = &["write", "denyoom", "fast"];

pub(super) const READ_FAST: &[&str] = &["readonly", "fast"];

pub(super) const NO_KEYS: KeyRange = KeyRange { first: 0, last: 0, step: 0 };

pub(super) const ONE_KEY: KeyRange = KeyRange { first: 1, last: 1, step: 1 };

pub(super) const TWO_KEYS: KeyRange = KeyRange { first: 1, last: 2, step: 1 };

pub(super) const SECOND_KEY: KeyRange = KeyRange { first: 2, last: 2, step: 1 };

pub(super) const ALL_KEYS: KeyRange = KeyRange { first: 1, last: -1, step: 1 };

pub(super) const PAIRS: KeyRange = KeyRange { first: 1, last: -1, step: 2 };

/// A command without keys, flags and words about it.
pub(super) const fn command(
    name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, name, arity, run)
}

/// The same for a subcommand.
pub(super) const fn subcommand(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    CommandSpec {
        name,
        full_name,
        arity,
        flags: &[],
        categories: &[],
        keys: NO_KEYS,
        counted_at: 0,
        group: "",
        since: "",
        complexity: "",
        summary: "",
        subcommands: &[],
        verb: None,
        run,
    }
}

impl CommandSpec {
    pub(super) const fn keys_at(mut self, keys: KeyRange) -> CommandSpec {
        self.keys = keys;
        self
    }

    /// The word there says how many keys are behind it; there may be others before it.
    pub(super) const fn keys_counted_at(mut self, place: u8) -> CommandSpec {
        self.counted_at = place;
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

    pub(super) const fn since(mut self, since: &'static str, group: &'static str) -> CommandSpec {
        self.since = since;
        self.group = group;
        self
    }

    pub(super) const fn costs(mut self, complexity: &'static str) -> CommandSpec {
        self.complexity = complexity;
        self
    }

    pub(super) const fn about(mut self, summary: &'static str) -> CommandSpec {
        self.summary = summary;
        self
    }

    /// What the store does about it.
    pub(super) const fn does(mut self, verb: &str) -> CommandSpec {
        self.verb = Some(CommandId::of(verb));
        self
    }

    pub(super) const fn with(mut self, subcommands: &'static [CommandSpec]) -> CommandSpec {
        self.subcommands = subcommands;
        self
    }

    /// Whether a request may have so many words.
    pub(super) fn takes(&self, words: usize) -> bool {
        let least = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { words >= least } else { words == least }
    }

    /// Where keys are, as `COMMAND` tells it.
    pub(super) fn key_range(&self) -> KeyRange {
        self.keys
    }

    /// Whether it can have any.
    pub(super) fn has_keys(&self) -> bool {
        self.keys != NO_KEYS || self.counted_at > 0
    }

    /// Which of a request's words are keys, if it has so many as it says; there are `words` words,
    /// and `word` gives one.
    pub(super) fn keys<'w>(
        &self,
        words: usize,
        word: &dyn Fn(usize) -> Option<&'w [u8]>,
    ) -> Option<impl Iterator<Item = usize> + Clone + use<'w>> {
        let counted = match usize::from(self.counted_at) {
            0 => 0..0,
            at => {
                let count = digits_at_start(word(at)?);
                let behind = words - 1 - at;
                (1..=behind).contains(&count).then_some(at + 1..at + 1 + count)?
            }
        };
        Some(self.keys_in_range(words).chain(counted))
    }

    fn keys_in_range(&self, words: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let KeyRange { first, last, step } = self.keys;
        let back = usize::from(last.unsigned_abs());
        let end = match (first, last < 0) {
            (0, _) => 0,
            (_, true) => (words + 1).saturating_sub(back),
            (_, false) => words.min(back + 1),
        };
        let step = usize::from(step.unsigned_abs()).max(1);
        (usize::from(first.unsigned_abs())..end).step_by(step)
    }

    /// The subcommand of that name, in lower case.
    pub(super) fn subcommand(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        self.subcommands.iter().find(|spec| spec.name.as_bytes() == name)
    }
}

/// How many keys a word says there are, as C's `atoi` reads it for Redis: what does not belong to
/// the number does not matter, and no number is 0.
fn digits_at_start(word: &[u8]) -> usize {
    let word = word.trim_ascii_start();
    let digits = word.strip_prefix(b"+").unwrap_or(word).iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0, |sum: usize, digit| sum.saturating_mul(10).saturating_add((digit - b'0').into()))
}
