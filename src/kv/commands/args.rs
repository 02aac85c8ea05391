//! The arguments of a command, without its name.

use crate::kv::commands::items::Items;
use crate::kv::commands::outcome::Refusal;
use crate::kv::values::number::parse_integer;

/// The words of a call, without the verb. Their number was checked against the command's arity.
#[derive(Debug)]
pub(in crate::kv) struct Args<'a> {
    pub(in crate::kv) words: Vec<&'a [u8]>,
    /// A number that no other call has: what is left to chance is decided by it, so that it is
    /// the same everywhere.
    pub(in crate::kv) seed: u64,
}

impl<'a> Args<'a> {
    pub(in crate::kv) fn new(words: Items<'a>, seed: u64) -> Args<'a> {
        Args { words: words.iter().collect(), seed }
    }

    /// The word at that place.
    ///
    /// # Errors
    /// If there are not so many: the door checks that, but bytes in a log may say anything.
    pub(in crate::kv) fn get(&self, at: usize) -> Result<&'a [u8], Refusal> {
        self.words.get(at).copied().ok_or(Refusal::Syntax)
    }

    /// How many there are.
    pub(in crate::kv) fn len(&self) -> usize {
        self.words.len()
    }

    /// The whole number at that place.
    ///
    /// # Errors
    /// If it is none.
    pub(in crate::kv) fn integer(&self, at: usize) -> Result<i64, Refusal> {
        parse_integer(self.get(at)?).ok_or(Refusal::NotAnInteger)
    }

    /// Those from there on; none if there are not so many.
    pub(in crate::kv) fn rest(&self, from: usize) -> &[&'a [u8]] {
        self.words.get(from..).unwrap_or_default()
    }
}
