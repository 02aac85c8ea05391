//! `LCS`: the longest common subsequence of two strings.

use bytes::Bytes;

use crate::kv::commands::args::Args;
use crate::kv::commands::outcome::{Outcome, Refusal};
use crate::kv::commands::row::{Answer, Row, Scale, TWO_KEYS, read};
use crate::kv::keyspace::Keyspace;
use crate::kv::values::number::parse_integer;

/// The `LCS` command of the state machine: its number, name, key positions and function. Append new
/// commands at the end with the next number, because log entries contain the numbers.
pub(in crate::kv) const COMMANDS: &[Row] = &[read(88, "lcs", TWO_KEYS, lcs).per(Scale::Values)];

/// Maximum size, in cells, of the table that `LCS` computes; it is about the product of the lengths
/// of the two strings in bytes. Longer strings are refused, because no other command is applied
/// while `LCS` runs. (Redis's limit is eight times higher.)
const TABLE_MAX: usize = 1 << 24;

/// Options of the `LCS` command.
#[derive(Debug, Default)]
struct Options {
    length: bool,
    matches: bool,
    with_lengths: bool,
    /// Option `MINMATCHLEN`: minimum length in bytes of the matches in the reply.
    shortest: i64,
}

impl Options {
    fn read(args: &[&[u8]]) -> Result<Options, Refusal> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(word) = args.next() {
            let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
            if is("IDX") {
                options.matches = true;
            } else if is("LEN") {
                options.length = true;
            } else if is("WITHMATCHLEN") {
                options.with_lengths = true;
            } else if is("MINMATCHLEN") {
                let number = args.next().ok_or(Refusal::Syntax)?;
                options.shortest = parse_integer(number).ok_or(Refusal::NotAnInteger)?.max(0);
            } else {
                return Err(Refusal::Syntax);
            }
        }
        Ok(options)
    }
}

/// Runs `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN length] [WITHMATCHLEN]`: returns the longest common
/// subsequence of two strings, its length or its matches.
fn lcs(keyspace: &Keyspace, args: &Args<'_>) -> Answer {
    let (Ok(one), Ok(other)) = (keyspace.string(args.get(0)?), keyspace.string(args.get(1)?))
    else {
        return Ok(Outcome::error("ERR The specified keys must contain string values"));
    };
    let (one, other) = (one.unwrap_or_default(), other.unwrap_or_default());
    let options = Options::read(args.rest(2))?;
    if options.matches && options.length {
        return Ok(Outcome::error(
            "ERR If you want both the length and indexes, please just use IDX.",
        ));
    }
    if (one.len() + 1).saturating_mul(other.len() + 1) > TABLE_MAX {
        return Ok(Outcome::error(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        ));
    }
    let (one, other) = (&*one.contiguous(), &*other.contiguous());
    let table = Table::of(one, other);
    let length = table.at(one.len(), other.len());
    if options.length {
        return Ok(Outcome::count(length as usize));
    }
    let (common, runs) = table.walk(one, other);
    if !options.matches {
        return Ok(Outcome::Value(Some(Bytes::from(common))));
    }
    let long_enough = |run: &&Piece| i64::try_from(run.length).is_ok_and(|l| l >= options.shortest);
    let place = |from: usize, length: usize| {
        Outcome::List(vec![Outcome::count(from), Outcome::count(from + length - 1)])
    };
    let matches = runs.iter().filter(long_enough).map(|run| {
        let mut found = vec![place(run.one, run.length), place(run.other, run.length)];
        if options.with_lengths {
            found.push(Outcome::count(run.length));
        }
        Outcome::List(found)
    });
    let text = |text: &'static str| Outcome::Value(Some(Bytes::from_static(text.as_bytes())));
    Ok(Outcome::Map(vec![
        (text("matches"), Outcome::List(matches.collect())),
        (text("len"), Outcome::count(length as usize)),
    ]))
}

/// The dynamic programming table of `LCS`: for each prefix of one string and each prefix of the
/// other, the length in bytes of their longest common subsequence.
struct Table {
    lengths: Vec<u32>,
    width: usize,
}

/// A match in the reply of `LCS`: a substring that both strings contain, with its position in each
/// string and its length in bytes.
#[derive(Debug)]
struct Piece {
    one: usize,
    other: usize,
    length: usize,
}

impl Table {
    fn of(one: &[u8], other: &[u8]) -> Table {
        let width = other.len() + 1;
        let mut lengths = vec![0_u32; (one.len() + 1) * width];
        for (row, byte) in one.iter().enumerate() {
            let (above, below) = lengths[row * width..].split_at_mut(width);
            let mut left = 0;
            for (column, against) in other.iter().enumerate() {
                left =
                    if byte == against { above[column] + 1 } else { above[column + 1].max(left) };
                below[column + 1] = left;
            }
        }
        Table { lengths, width }
    }

    fn at(&self, one: usize, other: usize) -> u32 {
        self.lengths[one * self.width + other]
    }

    /// Returns the longest common subsequence of the two strings and its matches, starting with the
    /// last match. If there are several subsequences of this length, returns the same one as Redis.
    fn walk(&self, one: &[u8], other: &[u8]) -> (Vec<u8>, Vec<Piece>) {
        let (mut common, mut runs) = (Vec::new(), Vec::<Piece>::new());
        let (mut row, mut column) = (one.len(), other.len());
        while row > 0 && column > 0 {
            if one[row - 1] == other[column - 1] {
                (row, column) = (row - 1, column - 1);
                common.push(one[row]);
                match runs.last_mut() {
                    Some(run) if run.one == row + 1 && run.other == column + 1 => {
                        (run.one, run.other, run.length) = (row, column, run.length + 1);
                    }
                    _ => runs.push(Piece { one: row, other: column, length: 1 }),
                }
            } else if self.at(row - 1, column) > self.at(row, column - 1) {
                row -= 1;
            } else {
                column -= 1;
            }
        }
        common.reverse();
        (common, runs)
    }
}
