//! Every command there is: its name, how many arguments it takes, where its keys are, what it does.
//! One table for all: requests are looked up and checked in it, and `COMMAND` tells of it. Flags
//! and categories are Redis's own, for clients decide by them; summaries are ours, for
//! `COMMAND DOCS` and `HELP`.

mod admin;
mod entries;
mod faces;
mod generic;
mod hashes;
mod lists;
mod sets;
mod sorted_sets;
mod strings;
mod transactions;

use std::sync::LazyLock;

use crate::kv::Verb;

use super::calls;
use super::dispatch::{Call, Step};

/// Longest name of a command or subcommand.
pub(super) const NAME_BYTES_MAX: usize = 24;

/// A command or subcommand.
#[derive(Debug)]
pub(super) struct Spec {
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
    keys: Keys,
    /// The place of a word that says how many keys are behind it; 0 if there is none.
    counted_at: u8,
    pub(super) group: &'static str,
    pub(super) since: &'static str,
    pub(super) complexity: &'static str,
    pub(super) summary: &'static str,
    pub(super) subcommands: &'static [Spec],
    /// What the store does, if the words go there as they are.
    pub(super) verb: Option<Verb>,
    pub(super) run: fn(&mut Call<'_>) -> Step,
}

/// Where keys are among the words: from `first` to `last`, each `step`-th. Counted from the end if
/// `last` is negative; none if `first` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) first: i8,
    pub(super) last: i8,
    pub(super) step: i8,
}

const WRITE_FAST: &[&str] = &["write", "denyoom", "fast"];
const READ_FAST: &[&str] = &["readonly", "fast"];

const NO_KEYS: Keys = Keys { first: 0, last: 0, step: 0 };
const ONE_KEY: Keys = Keys { first: 1, last: 1, step: 1 };
const TWO_KEYS: Keys = Keys { first: 1, last: 2, step: 1 };
const SECOND_KEY: Keys = Keys { first: 2, last: 2, step: 1 };
const ALL_KEYS: Keys = Keys { first: 1, last: -1, step: 1 };
const PAIRS: Keys = Keys { first: 1, last: -1, step: 2 };

/// A command without keys, flags and words about it.
const fn command(name: &'static str, arity: i8, run: fn(&mut Call<'_>) -> Step) -> Spec {
    subcommand(name, name, arity, run)
}

/// The same for what the store has a verb of the same name for.
const fn verb(name: &'static str, arity: i8) -> Spec {
    command(name, arity, calls::call).does(name)
}

/// The same for a verb that is told the time.
const fn timed_verb(name: &'static str, arity: i8) -> Spec {
    let mut spec = verb(name, arity);
    spec.run = calls::with_time;
    spec
}

/// The same for a subcommand.
const fn subcommand(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Step,
) -> Spec {
    Spec {
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

impl Spec {
    const fn keys_at(mut self, keys: Keys) -> Spec {
        self.keys = keys;
        self
    }

    /// The word there says how many keys are behind it; there may be others before it.
    const fn keys_counted_at(mut self, place: u8) -> Spec {
        self.counted_at = place;
        self
    }

    const fn flags(mut self, flags: &'static [&'static str]) -> Spec {
        self.flags = flags;
        self
    }

    const fn categories(mut self, categories: &'static [&'static str]) -> Spec {
        self.categories = categories;
        self
    }

    const fn since(mut self, since: &'static str, group: &'static str) -> Spec {
        self.since = since;
        self.group = group;
        self
    }

    const fn costs(mut self, complexity: &'static str) -> Spec {
        self.complexity = complexity;
        self
    }

    const fn about(mut self, summary: &'static str) -> Spec {
        self.summary = summary;
        self
    }

    /// What the store does about it.
    const fn does(mut self, verb: &str) -> Spec {
        self.verb = Some(Verb::of(verb));
        self
    }

    const fn with(mut self, subcommands: &'static [Spec]) -> Spec {
        self.subcommands = subcommands;
        self
    }

    /// Whether a request may have so many words.
    pub(super) fn takes(&self, words: usize) -> bool {
        let least = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { words >= least } else { words == least }
    }

    /// Where keys are, as `COMMAND` tells it.
    pub(super) fn key_range(&self) -> Keys {
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
        let Keys { first, last, step } = self.keys;
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
    pub(super) fn subcommand(&self, name: &[u8]) -> Option<&'static Spec> {
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

/// The rooms that have commands.
const ROOMS: &[&[Spec]] = &[
    admin::COMMANDS,
    entries::COMMANDS,
    faces::COMMANDS,
    generic::COMMANDS,
    hashes::COMMANDS,
    lists::COMMANDS,
    sets::COMMANDS,
    sorted_sets::COMMANDS,
    transactions::COMMANDS,
    strings::COMMANDS,
];

static ALL: LazyLock<Vec<&Spec>> = LazyLock::new(|| {
    let mut all: Vec<&Spec> = ROOMS.iter().copied().flatten().collect();
    all.sort_unstable_by_key(|spec| spec.name);
    all
});

/// All commands, in order of their names.
pub(super) fn all() -> &'static [&'static Spec] {
    &ALL
}

/// The command of that name, in lower case.
pub(super) fn find(name: &[u8]) -> Option<&'static Spec> {
    let all = all();
    let at = all.binary_search_by(|spec| spec.name.as_bytes().cmp(name)).ok()?;
    Some(all[at])
}

/// The command, or with a bar the subcommand, of that name in any case.
pub(super) fn find_full(name: &[u8]) -> Option<&'static Spec> {
    let name = name.to_ascii_lowercase();
    match name.iter().position(|byte| *byte == b'|') {
        None => find(&name),
        Some(bar) => find(&name[..bar])?.subcommand(&name[bar + 1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for room in ROOMS {
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
