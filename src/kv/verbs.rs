//! What can be done beside the operations that have a form of their own: a verb and words, as the
//! client said them. A verb has a number, which is what the log and the snapshot know it by, and a
//! function that does it. One room for each kind of value has its row of verbs.

use std::fmt;

use super::bitfields;
use super::bits;
use super::command::CommandError;
use super::expiry;
use super::generic;
use super::hashes;
use super::items::Items;
use super::keys;
use super::lcs;
use super::lists;
use super::number::parse_integer;
use super::outcome::{Outcome, Refusal};
use super::sets;
use super::sorted_sets;
use super::store::Store;
use super::strings;
use super::transactions;

/// What comes of a verb; a refusal changes nothing.
pub(super) type Answer = Result<Outcome, Refusal>;

/// A row of verbs. New ones go to the end: the place is half of the number.
pub(super) type Row = &'static [(&'static str, Run)];

/// All rows. New ones go to the end: the place is the other half of the number.
const ROWS: &[Row] = &[
    generic::VERBS,
    expiry::VERBS,
    strings::VERBS,
    hashes::VERBS,
    sets::VERBS,
    transactions::VERBS,
    lists::VERBS,
    bits::VERBS,
    bitfields::VERBS,
    lcs::VERBS,
    keys::VERBS,
    sorted_sets::VERBS,
];

/// How a verb is done.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// Changes nothing, so it needs no place in the log.
    Read(fn(&Store, &Words<'_>) -> Answer),
    /// May change the state.
    Write(fn(&mut Store, &Words<'_>) -> Answer),
}

/// A verb.
///
/// Invariant: it is in its row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verb {
    row: u8,
    place: u8,
}

/// The words of a call, without the verb. Their number was checked against the command's arity.
#[derive(Debug)]
pub(super) struct Words<'a> {
    words: Vec<&'a [u8]>,
    /// A number that no other call has: what is left to chance is decided by it, so that it is
    /// the same everywhere.
    pub(super) chance: u64,
}

impl<'a> Words<'a> {
    pub(super) fn new(words: Items<'a>, chance: u64) -> Words<'a> {
        Words { words: words.iter().collect(), chance }
    }

    /// The word at that place.
    ///
    /// # Errors
    /// If there are not so many: the door checks that, but bytes in a log may say anything.
    pub(super) fn get(&self, at: usize) -> Result<&'a [u8], Refusal> {
        self.words.get(at).copied().ok_or(Refusal::Syntax)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// The whole number at that place.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn integer(&self, at: usize) -> Result<i64, Refusal> {
        parse_integer(self.get(at)?).ok_or(Refusal::NotAnInteger)
    }

    /// Those from there on; none if there are not so many.
    pub(super) fn rest(&self, from: usize) -> &[&'a [u8]] {
        self.words.get(from..).unwrap_or_default()
    }
}

impl Verb {
    /// The verb of that number.
    pub(super) fn numbered(number: u16) -> Option<Verb> {
        let [row, place] = number.to_be_bytes();
        ROWS.get(usize::from(row))?.get(usize::from(place))?;
        Some(Verb { row, place })
    }

    /// Its number in the log.
    pub(super) fn number(self) -> u16 {
        u16::from_be_bytes([self.row, self.place])
    }

    /// The verb of that name, in lower case. Looks through all: to be asked once.
    pub const fn named(name: &str) -> Option<Verb> {
        let mut row = 0;
        while row < ROWS.len() {
            let mut place = 0;
            while place < ROWS[row].len() {
                if is_same(ROWS[row][place].0.as_bytes(), name.as_bytes()) {
                    assert!(row <= 255 && place <= 255, "a row or its number is too large");
                    #[allow(clippy::cast_possible_truncation, reason = "checked; it is constant")]
                    return Some(Verb { row: row as u8, place: place as u8 });
                }
                place += 1;
            }
            row += 1;
        }
        None
    }

    /// The same for tables of constants, which don't compile where there is none.
    pub const fn of(name: &str) -> Verb {
        Verb::named(name).expect("there is no such verb")
    }

    fn entry(self) -> &'static (&'static str, Run) {
        &ROWS[usize::from(self.row)][usize::from(self.place)]
    }

    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// Whether it leaves the state as it is.
    pub fn is_read(self) -> bool {
        matches!(self.entry().1, Run::Read(_))
    }

    /// Asks the store.
    ///
    /// # Errors
    /// If it may change the state.
    pub(super) fn read(self, store: &Store, words: &Words<'_>) -> Result<Outcome, CommandError> {
        match self.entry().1 {
            Run::Read(run) => Ok(run(store, words).unwrap_or_else(Outcome::Refused)),
            Run::Write(_) => Err(CommandError::NotARead),
        }
    }

    /// Does it.
    pub(super) fn run(self, store: &mut Store, words: &Words<'_>) -> Outcome {
        let answer = match self.entry().1 {
            Run::Read(run) => run(store, words),
            Run::Write(run) => run(store, words),
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

impl fmt::Debug for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_verb_has_a_name_and_a_number_of_its_own() {
        let mut names = BTreeSet::new();
        for (row, verbs) in (0_u8..).zip(ROWS) {
            for (place, (name, _)) in (0_u8..).zip(*verbs) {
                assert!(names.insert(*name), "{name} is there twice");
                let verb = Verb::named(name).unwrap();
                assert_eq!(verb, Verb { row, place });
                assert_eq!(Verb::numbered(verb.number()), Some(verb));
            }
        }
        assert_eq!((Verb::named("nonesuch"), Verb::numbered(u16::MAX)), (None, None));
    }
}
