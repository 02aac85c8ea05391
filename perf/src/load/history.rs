//! Histories of operations: `perf load --history` writes one to a file, and `perf check` checks
//! whether it is linearizable.
//!
//! File format: a JSON line that identifies the format, then one line per operation with
//! tab-separated fields: the time of the call in nanoseconds; the time of the reply by the same
//! clock (`-` if there was no reply, so that the outcome is unknown; `x` if the operation was
//! rejected and not applied); `r` for a read or `w` for a write; the index of the key; and the
//! value written or read (`-` for no value). Values are represented by their marks, which are
//! unique numbers.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use bowline::sim::checkers::linearizability::{Call, History, Reply, STEPS_MAX};
use bytes::Bytes;

/// First line of a history file: identifies the format and its version.
const HEAD: &str = r#"{"schema":"bowline-history","schema_version":1}"#;

/// A read or write of one key in a recorded history. Times are in nanoseconds since the start of
/// the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) called: u64,
    pub(crate) outcome: Outcome,
    pub(crate) key: u64,
    /// Unique number that identifies the value written; `None` for a read.
    pub(crate) wrote: Option<u64>,
}

/// Outcome of an operation in a recorded history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The client received no definite reply, so the operation may have been applied, or may be
    /// applied later.
    Unknown,
    /// The operation was rejected: it was not applied, and never will be.
    Rejected,
    /// The operation succeeded, and its reply arrived at the time `at`, in nanoseconds since the
    /// start of the run. For a read, `found` is the unique number that identifies the value; `None`
    /// for a missing key or a write.
    Completed { at: u64, found: Option<u64> },
}

/// Writes a recorded history of operations to `out`, in the format of history files.
pub(crate) fn write(out: &mut dyn Write, records: &[Record]) -> std::io::Result<()> {
    writeln!(out, "{HEAD}")?;
    for record in records {
        write!(out, "{}\t", record.called)?;
        match record.outcome {
            Outcome::Unknown => write!(out, "-")?,
            Outcome::Rejected => write!(out, "x")?,
            Outcome::Completed { at, .. } => write!(out, "{at}")?,
        }
        let (letter, value) = match (record.wrote, record.outcome) {
            (Some(mark), _) => ('w', Some(mark)),
            (None, Outcome::Completed { found, .. }) => ('r', found),
            (None, _) => ('r', None),
        };
        write!(out, "\t{letter}\t{}\t", record.key)?;
        match value {
            Some(mark) => writeln!(out, "{mark:016x}")?,
            None => writeln!(out, "-")?,
        }
    }
    out.flush()
}

/// Writes a recorded history of operations to the file at `path`.
pub(crate) fn write_file(path: &Path, records: &[Record]) -> anyhow::Result<()> {
    let file = File::create(path).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out, records)
    });
    file.with_context(|| {
        format!("cannot write history file {}; check free space and permissions", path.display())
    })
}

fn parse(line: &str) -> Option<Record> {
    let mut parts = line.split('\t');
    let mut next = || parts.next();
    let (called, outcome, letter, key, value) = (next()?, next()?, next()?, next()?, next()?);
    if parts.next().is_some() {
        return None;
    }
    let value = match value {
        "-" => None,
        mark => Some(u64::from_str_radix(mark, 16).ok()?),
    };
    let wrote = match letter {
        "w" => Some(value?),
        "r" => None,
        _ => return None,
    };
    let outcome = match outcome {
        "-" => Outcome::Unknown,
        "x" => Outcome::Rejected,
        at => Outcome::Completed {
            at: at.parse().ok()?,
            found: if wrote.is_some() { None } else { value },
        },
    };
    Some(Record { called: called.parse().ok()?, outcome, key: key.parse().ok()?, wrote })
}

/// Converts recorded operations to the input of the linearizability checker: calls and replies,
/// sorted by time.
fn history(records: &[Record]) -> History {
    // If a call and a reply have the same time, the call sorts first. The two operations then
    // overlap, so that the check has no false positives.
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(records.len() * 2);
    for (place, record) in records.iter().enumerate() {
        moments.push((record.called, false, place));
        if let Outcome::Completed { at, .. } = record.outcome {
            moments.push((at, true, place));
        }
    }
    moments.sort_unstable();
    let text = |number: u64| Bytes::from(format!("{number:x}"));
    let mut history = History::default();
    let mut ids = vec![None; records.len()];
    for (_, answered, place) in moments {
        let record = records[place];
        if !answered {
            let call = record.wrote.map_or(Call::Get, |mark| Call::Put(text(mark)));
            let id = history.call(Bytes::from(record.key.to_string()), call);
            if record.outcome == Outcome::Rejected {
                history.refuse(id);
            }
            ids[place] = Some(id);
        } else if let (Outcome::Completed { found, .. }, Some(id)) = (record.outcome, ids[place]) {
            let reply = match record.wrote {
                Some(_) => Reply::Done,
                None => Reply::Value(found.map(text)),
            };
            history.answer(id, reply);
        }
    }
    history
}

/// Arguments of `perf check`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// History file written by `perf load --history`.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs `perf check`. Returns exit code 0 if the history is linearizable, and 1 if it is not.
///
/// # Errors
/// If the file is not a valid history, or the check reached its limit of search steps without a
/// result.
pub(crate) fn check(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.file;
    let file = File::open(path).with_context(|| {
        format!("cannot read history file {}; check its path and permissions", path.display())
    })?;
    let mut lines = BufReader::new(file).lines();
    let head = lines.next().transpose().unwrap_or_default();
    ensure!(
        head.as_deref() == Some(HEAD),
        "{} was not written by `perf load --history`: its first line is not {HEAD}",
        path.display()
    );
    let mut records = Vec::new();
    for (number, line) in lines.enumerate() {
        let line = line.with_context(|| format!("cannot read history file {}", path.display()))?;
        let Some(record) = parse(&line) else {
            bail!(
                "history file {}, line {}: {line:?} is not a recorded operation",
                path.display(),
                number + 2
            );
        };
        // The checker relies on every reply being later than its call.
        if let Outcome::Completed { at, .. } = record.outcome {
            let line = number + 2;
            ensure!(
                at >= record.called,
                "history file {}, line {line}: the reply has an earlier time than its request",
                path.display()
            );
        }
        records.push(record);
    }
    let unknown = records.iter().filter(|record| record.outcome == Outcome::Unknown).count();
    let mut keys: Vec<u64> = records.iter().map(|record| record.key).collect();
    keys.sort_unstable();
    keys.dedup();
    match history(&records).check(STEPS_MAX) {
        Ok(()) => {
            println!(
                "linearizable: {} operations on {} keys, {unknown} of them with unknown outcome",
                records.len(),
                keys.len()
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(
            error
            @ bowline::sim::checkers::linearizability::LinearizabilityError::NotLinearizable {
                ..
            },
        ) => {
            println!("NOT linearizable: {error}");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_of(key: u64, mark: u64, called: u64, at: u64) -> Record {
        let outcome = Outcome::Completed { at, found: None };
        Record { called, outcome, key, wrote: Some(mark) }
    }

    fn read_of(key: u64, found: Option<u64>, called: u64, at: u64) -> Record {
        Record { called, outcome: Outcome::Completed { at, found }, key, wrote: None }
    }

    #[test]
    fn operation_history_round_trips_through_its_file_format() {
        let records = [
            write_of(3, 0xFFFF_0000_0000_0001, 5, 9),
            read_of(3, Some(7), 1, 2),
            read_of(4, None, 1, 2),
            Record { called: 1, outcome: Outcome::Unknown, key: 3, wrote: Some(8) },
            Record { called: 1, outcome: Outcome::Rejected, key: 3, wrote: Some(8) },
            Record { called: 1, outcome: Outcome::Unknown, key: 3, wrote: None },
        ];
        let mut out = Vec::new();
        write(&mut out, &records).unwrap();
        let text = String::from_utf8(out).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(HEAD));
        assert_eq!(lines.map(|line| parse(line).unwrap()).collect::<Vec<_>>(), records);
        for line in ["", "1\t2\tr\t3", "1\t2\tq\t3\t-", "1\t2\tw\t3\t-", "1\t2\tr\t3\t-\t4"] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn history_check_rejects_stale_but_not_concurrent_reads() {
        let judge = |records: &[Record]| history(records).check(STEPS_MAX).is_ok();
        let (first, second) = (write_of(1, 1, 0, 10), write_of(1, 2, 20, 30));
        assert!(judge(&[first, second, read_of(1, Some(2), 31, 40)]));
        assert!(!judge(&[first, second, read_of(1, Some(1), 31, 40)]), "stale");
        assert!(
            judge(&[first, second, read_of(1, Some(1), 30, 40)]),
            "called at the time of the reply"
        );
        assert!(!judge(&[first, read_of(1, None, 11, 12)]), "lost");
        let unknown = Record { called: 0, outcome: Outcome::Unknown, key: 1, wrote: Some(3) };
        assert!(judge(&[unknown, first, read_of(1, Some(3), 90, 91)]));
        let refused = Record { outcome: Outcome::Rejected, ..unknown };
        assert!(!judge(&[refused, first, read_of(1, Some(3), 90, 91)]));
    }
}
