//! What can be done beside the operations that have a form of their own: a verb and words, as the
//! client said them. A verb has a number, which is what the log and the snapshot know it by, and a
//! function that does it. One room for each kind of value has its row of verbs.

use std::fmt;

use super::args::Args;
use crate::kv::command::CommandError;
use crate::kv::commands::bitfields;
use crate::kv::commands::bitmaps;
use crate::kv::commands::expiration;
use crate::kv::commands::generic;
use crate::kv::commands::hashes;
use crate::kv::commands::keys;
use crate::kv::commands::lcs;
use crate::kv::commands::lists;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::sets;
use crate::kv::commands::sorted_sets;
use crate::kv::commands::strings;
use crate::kv::state_machine::StateMachine;
use crate::kv::transactions;

/// What comes of a verb; a refusal changes nothing.
pub(in crate::kv) type Answer = Result<Outcome, Refusal>;

/// A row of verbs. New ones go to the end: the place is half of the number.
pub(in crate::kv) type Row = &'static [(&'static str, Run)];

/// All rows. New ones go to the end: the place is the other half of the number.
const ROWS: &[Row] = &[
    generic::COMMANDS,
    expiration::COMMANDS,
    strings::COMMANDS,
    hashes::COMMANDS,
    sets::COMMANDS,
    transactions::COMMANDS,
    lists::COMMANDS,
    bitmaps::COMMANDS,
    bitfields::COMMANDS,
    lcs::COMMANDS,
    keys::COMMANDS,
    sorted_sets::COMMANDS,
];

/// How a verb is done.
#[derive(Clone, Copy)]
pub(in crate::kv) enum Run {
    /// Changes nothing, so it needs no place in the log.
    Read(fn(&StateMachine, &Args<'_>) -> Answer),
    /// May change the state.
    Write(fn(&mut StateMachine, &Args<'_>) -> Answer),
}

/// A verb.
///
/// Invariant: it is in its row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CommandId {
    row: u8,
    place: u8,
}

impl CommandId {
    /// The verb of that number.
    pub(in crate::kv) fn numbered(number: u16) -> Option<CommandId> {
        let [row, place] = number.to_be_bytes();
        ROWS.get(usize::from(row))?.get(usize::from(place))?;
        Some(CommandId { row, place })
    }

    /// Its number in the log.
    pub(in crate::kv) fn number(self) -> u16 {
        u16::from_be_bytes([self.row, self.place])
    }

    /// The verb of that name, in lower case. Looks through all: to be asked once.
    pub const fn named(name: &str) -> Option<CommandId> {
        let mut row = 0;
        while row < ROWS.len() {
            let mut place = 0;
            while place < ROWS[row].len() {
                if is_same(ROWS[row][place].0.as_bytes(), name.as_bytes()) {
                    assert!(row <= 255 && place <= 255, "a row or its number is too large");
                    #[allow(clippy::cast_possible_truncation, reason = "checked; it is constant")]
                    return Some(CommandId { row: row as u8, place: place as u8 });
                }
                place += 1;
            }
            row += 1;
        }
        None
    }

    /// The same for tables of constants, which don't compile where there is none.
    pub const fn of(name: &str) -> CommandId {
        CommandId::named(name).expect("there is no such verb")
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
    pub(in crate::kv) fn read(
        self,
        store: &StateMachine,
        words: &Args<'_>,
    ) -> Result<Outcome, CommandError> {
        match self.entry().1 {
            Run::Read(run) => Ok(run(store, words).unwrap_or_else(Outcome::Refused)),
            Run::Write(_) => Err(CommandError::NotARead),
        }
    }

    /// Does it.
    pub(in crate::kv) fn run(self, store: &mut StateMachine, words: &Args<'_>) -> Outcome {
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
    fn each_verb_has_a_name_and_a_number_of_its_own() {
        let mut names = BTreeSet::new();
        for (row, verbs) in (0_u8..).zip(ROWS) {
            for (place, (name, _)) in (0_u8..).zip(*verbs) {
                assert!(names.insert(*name), "{name} is there twice");
                let verb = CommandId::named(name).unwrap();
                assert_eq!(verb, CommandId { row, place });
                assert_eq!(CommandId::numbered(verb.number()), Some(verb));
            }
        }
        assert_eq!((CommandId::named("nonesuch"), CommandId::numbered(u16::MAX)), (None, None));
    }
}
