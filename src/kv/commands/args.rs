//! The arguments that are passed to a command's function.

use crate::kv::commands::items::Arguments;
use crate::kv::commands::outcome::Refusal;
use crate::kv::values::number::parse_integer;

/// Maximum length of a string value, in bytes, as in Redis. Operations contain the lower limit
/// `proto-max-bulk-len` if it applies to them.
pub const VALUE_BYTES_MAX: usize = 512 << 20;

/// Maximum number of arguments that [`Args`] stores in an array instead of a heap allocation.
const INLINE: usize = 4;

/// The arguments of a command, without its name, and a random seed for commands that choose
/// randomly.
#[derive(Debug)]
pub(in crate::kv) struct Args<'a> {
    inline: [&'a [u8]; INLINE],
    /// Number of arguments in the array `inline`. 0 if the arguments do not fit into the array, in
    /// which case the vector `many` contains all of them.
    len: usize,
    many: Vec<&'a [u8]>,
    /// Random seed of the command, from which it derives all random choices. The seed of a command
    /// in the log is the same on every replica.
    pub(in crate::kv) seed: u64,
}

impl<'a> Args<'a> {
    pub(in crate::kv) fn new(arguments: Arguments<'a>, seed: u64) -> Args<'a> {
        let mut args = Args { inline: [&[]; INLINE], len: 0, many: Vec::new(), seed };
        arguments.for_each(|argument| args.push(argument));
        args
    }

    fn push(&mut self, argument: &'a [u8]) {
        if self.many.is_empty() && self.len < INLINE {
            self.inline[self.len] = argument;
            self.len += 1;
        } else {
            if self.many.is_empty() {
                self.many.extend(self.inline);
                self.len = 0;
            }
            self.many.push(argument);
        }
    }

    /// Returns all arguments, without the command's name.
    pub(in crate::kv) fn all(&self) -> &[&'a [u8]] {
        if self.many.is_empty() { &self.inline[..self.len] } else { &self.many }
    }

    /// Returns the argument at index `at`, counted from 0.
    ///
    /// # Errors
    /// If there are not enough arguments. The server checks the number of arguments of clients'
    /// commands, but commands in the log are untrusted.
    pub(in crate::kv) fn get(&self, at: usize) -> Result<&'a [u8], Refusal> {
        self.all().get(at).copied().ok_or(Refusal::Syntax)
    }

    /// Parses the argument at index `at`, counted from 0, as a 64-bit integer.
    ///
    /// # Errors
    /// If the argument is missing or not an integer.
    pub(in crate::kv) fn integer(&self, at: usize) -> Result<i64, Refusal> {
        parse_integer(self.get(at)?).ok_or(Refusal::NotAnInteger)
    }

    /// Returns the arguments from index `from` on, counted from 0; an empty slice if there are
    /// none.
    pub(in crate::kv) fn rest(&self, from: usize) -> &[&'a [u8]] {
        self.all().get(from..).unwrap_or_default()
    }

    /// Returns the maximum length, in bytes, of a string that the command may create. This is the
    /// argument at index `at`, which the server adds to the client's arguments before it submits
    /// the command, or [`VALUE_BYTES_MAX`] if there is no such argument.
    pub(in crate::kv) fn value_bytes_max(&self, at: usize) -> usize {
        split_limit(self.rest(at)).0
    }

    /// Returns the number of arguments, without the command's name.
    pub(in crate::kv) fn len(&self) -> usize {
        self.all().len()
    }
}

/// Splits off the last argument if it is a maximum string length in the form in which the server
/// appends it: 8 bytes, little endian, of which the last is zero (text has no zero bytes). Returns
/// the maximum length, at most [`VALUE_BYTES_MAX`], and the other arguments. Without such an
/// argument, returns [`VALUE_BYTES_MAX`] and all arguments.
pub(in crate::kv) fn split_limit<'s, 'a>(args: &'s [&'a [u8]]) -> (usize, &'s [&'a [u8]]) {
    if let Some((last, rest)) = args.split_last()
        && let Ok(limit @ [.., 0]) = <[u8; 8]>::try_from(*last)
    {
        let limit = usize::try_from(u64::from_le_bytes(limit)).unwrap_or(VALUE_BYTES_MAX);
        return (limit.min(VALUE_BYTES_MAX), rest);
    }
    (VALUE_BYTES_MAX, args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_size_limit_appended_to_arguments_is_parsed_and_clamped() {
        let limit = |limit: usize| (limit as u64).to_le_bytes();
        for (last, expected) in [
            (&limit(5)[..], Some(5)),
            (&limit(VALUE_BYTES_MAX), Some(VALUE_BYTES_MAX)),
            (&limit(VALUE_BYTES_MAX + 1), Some(VALUE_BYTES_MAX)),
            (b"10000000", None),
            (b"5", None),
        ] {
            let args = [b"u8", last];
            let rest = if expected.is_some() { &args[..1] } else { &args[..] };
            assert_eq!(split_limit(&args), (expected.unwrap_or(VALUE_BYTES_MAX), rest));
            let args = Args::new((&args[..]).into(), 1);
            assert_eq!(args.value_bytes_max(1), expected.unwrap_or(VALUE_BYTES_MAX));
            assert_eq!(args.value_bytes_max(2), VALUE_BYTES_MAX);
        }
    }

    #[test]
    fn command_arguments_of_any_count_keep_their_order() {
        let all: Vec<String> = (0..9).map(|number| number.to_string()).collect();
        let all: Vec<&[u8]> = all.iter().map(String::as_bytes).collect();
        for count in 0..all.len() {
            let args = Args::new(all[..count].into(), 1);
            assert_eq!((args.all(), args.len()), (&all[..count], count));
            assert_eq!(args.get(count), Err(Refusal::Syntax));
            assert_eq!(args.rest(1), all[..count].get(1..).unwrap_or_default());
        }
    }
}
