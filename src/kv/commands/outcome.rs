//! What comes of commands. An outcome is a fact of the log: the same on every replica, and also
//! where a command is refused. It is answered to the client and kept in the memory of requests.

use bytes::Bytes;

use crate::kv::values::object::ValueType;

/// What came of a command: the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A key's value, if it has one; or had, before the command.
    Value(Option<Bytes>),
    /// The key is set.
    Done,
    /// The key has no value now; whether it had one.
    Deleted(bool),
    /// Whether the amount was moved.
    Transferred(bool),
    /// The payload was no command; nothing was done.
    Malformed,
    /// The condition did not hold; nothing was done.
    Unchanged,
    /// A number: a sum, a length or a count.
    Integer(i64),
    /// The values of several keys, in the order in which they were asked for.
    Values(Vec<Option<Bytes>>),
    /// It can't be done with the values there are; nothing was done.
    Refused(Refusal),
    /// It was done, but long ago: what came of it is no longer remembered.
    Forgotten,
    /// What a key holds, if anything.
    Type(Option<ValueType>),
    /// A number with a fraction.
    Double(Double),
    /// No list, where there could have been one.
    NoList,
    /// It can't be done, in words that quote what was asked; nothing was done.
    Error(Bytes),
    /// Several outcomes in order.
    List(Vec<Outcome>),
    /// The same two by two, in order: a list of lists of two, which older protocols write as one.
    Pairs(Vec<(Outcome, Outcome)>),
    /// The same as keys and what belongs to them, in an order that says nothing.
    Map(Vec<(Outcome, Outcome)>),
    /// The same in an order that says nothing.
    Set(Vec<Outcome>),
}

/// A number with a fraction that is never "not a number"; equal if it is the same bits.
#[derive(Debug, Clone, Copy)]
pub struct Double(pub f64);

impl PartialEq for Double {
    fn eq(&self, other: &Double) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Double {}

/// Why a command can't be done, with the values there are or at all. New ones go to the end of
/// `Refusal::ALL`: the place there is the byte in snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The value, or an argument, is no whole number of 64 bits.
    NotAnInteger,
    /// The sum would be none.
    Overflow,
    /// The value would be longer than [`VALUE_BYTES_MAX`](super::VALUE_BYTES_MAX).
    TooLong,
    /// The key holds another kind of value.
    WrongType,
    /// Args in an order or number that means nothing.
    Syntax,
    /// The argument is no number.
    NotAFloat,
    /// The member's value in a hash is no whole number.
    HashNotAnInteger,
    /// There is no such key, and there must be.
    NoSuchKey,
    /// The argument must be above 0.
    NotPositive,
    /// Not a number that a count may be.
    OutOfRange,
    /// The argument must be a number whose sign can be changed.
    NotAbsolute,
    /// It takes at least one key.
    NoKeys,
    /// It says that there are more keys than there are words.
    TooManyKeys,
    /// A limit must not be below 0.
    NegativeLimit,
    /// The sum would be infinite, or none.
    NotFinite,
    /// Both keys are one, and must not be.
    SameObject,
    /// The sum of scores would be no number.
    ScoreNaN,
    /// A weight is no number.
    WeightNotAFloat,
    /// An end of a range of scores is no number.
    EndNotAFloat,
    /// An end of a range of members does not begin as one.
    EndNotLex,
    /// Only if it is there, and only if it is not.
    AbsentAndPresent,
    /// Conditions that exclude each other.
    ManyConditions,
    /// One member can be added to, not several.
    ManyIncrements,
    /// A range of places has no limit.
    LimitOfPlaces,
    /// A range of members tells no scores.
    ScoresOfLex,
    /// It takes a count above 0.
    NoCount,
}

impl Refusal {
    /// All of them, by the byte that stands for each.
    pub(in crate::kv) const ALL: &[Refusal] = &[
        Refusal::NotAnInteger,
        Refusal::Overflow,
        Refusal::TooLong,
        Refusal::WrongType,
        Refusal::Syntax,
        Refusal::NotAFloat,
        Refusal::HashNotAnInteger,
        Refusal::NoSuchKey,
        Refusal::NotPositive,
        Refusal::OutOfRange,
        Refusal::NotAbsolute,
        Refusal::NoKeys,
        Refusal::TooManyKeys,
        Refusal::NegativeLimit,
        Refusal::NotFinite,
        Refusal::SameObject,
        Refusal::ScoreNaN,
        Refusal::WeightNotAFloat,
        Refusal::EndNotAFloat,
        Refusal::EndNotLex,
        Refusal::AbsentAndPresent,
        Refusal::ManyConditions,
        Refusal::ManyIncrements,
        Refusal::LimitOfPlaces,
        Refusal::ScoresOfLex,
        Refusal::NoCount,
    ];
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Outcome {
        Outcome::Refused(refusal)
    }
}

impl Outcome {
    /// A count of things in memory.
    pub(in crate::kv) fn count(count: usize) -> Outcome {
        Outcome::Integer(i64::try_from(count).expect("there are fewer bytes than 2^63"))
    }

    /// An error in words, which begin with its code.
    pub(in crate::kv) fn error(text: impl Into<String>) -> Outcome {
        Outcome::Error(Bytes::from(text.into()))
    }

    /// The same with a word quoted at its end: as far as C sees it, which is up to its first NUL.
    pub(in crate::kv) fn error_quoting(text: &str, word: &[u8]) -> Outcome {
        let end = word.iter().position(|byte| *byte == 0).unwrap_or(word.len());
        Outcome::Error(Bytes::from([text.as_bytes(), &word[..end]].concat()))
    }

    /// What a client hears whose words are too many or too few in a way that arity can't say.
    pub(in crate::kv) fn wrong_number(command: &str) -> Outcome {
        Outcome::error(format!("ERR wrong number of arguments for '{command}' command"))
    }

    /// 1 or 0.
    pub(in crate::kv) fn flag(truth: bool) -> Outcome {
        Outcome::Integer(truth.into())
    }

    /// Bytes of values that it holds in memory.
    pub fn value_bytes(&self) -> usize {
        let both = |(one, other): &(Outcome, Outcome)| one.value_bytes() + other.value_bytes();
        match self {
            Outcome::List(outcomes) | Outcome::Set(outcomes) => {
                size_of_val(&outcomes[..])
                    + outcomes.iter().map(Outcome::value_bytes).sum::<usize>()
            }
            Outcome::Pairs(pairs) | Outcome::Map(pairs) => {
                size_of_val(&pairs[..]) + pairs.iter().map(both).sum::<usize>()
            }
            Outcome::Value(value) => value.as_ref().map_or(0, Bytes::len),
            Outcome::Error(text) => text.len(),
            Outcome::Values(values) => values.iter().flatten().map(Bytes::len).sum(),
            Outcome::Done
            | Outcome::Deleted(_)
            | Outcome::Transferred(_)
            | Outcome::Malformed
            | Outcome::Unchanged
            | Outcome::Integer(_)
            | Outcome::Refused(_)
            | Outcome::Forgotten
            | Outcome::Type(_)
            | Outcome::Double(_)
            | Outcome::NoList => 0,
        }
    }
}
