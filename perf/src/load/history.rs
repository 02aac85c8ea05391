//! What was asked and answered, key by key, and whether that is linearizable: `--history` writes
//! it, `perf check` judges it.
//!
//! The file: a line of JSON that says what it is, then one line an operation, with tabs between:
//! the moment of the call and of the answer in nanoseconds of one clock (`-`: no answer came, so it
//! may have taken effect or not; `x`: certainly refused), `r` or `w`, the key's number, and what
//! was written or read (`-`: nothing was there). Values are known by the marks that they carry.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use bowline::sim::checkers::linearizability::{Call, History, Reply, STEPS_MAX};
use bytes::Bytes;

/// The first line.
const HEAD: &str = r#"{"schema":"bowline-history","schema_version":1}"#;

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) called: u64,
    pub(crate) end: End,
    pub(crate) key: u64,
    /// The mark of what a write wrote; `None` for a read.
    pub(crate) wrote: Option<u64>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nobody knows.
    Unknown,
    /// It took no effect and never will.
    Refused,
    /// Answered, with the mark of what a read found.
    Answered { at: u64, found: Option<u64> },
}

/// Writes all operations of a run.
pub(crate) fn write(out: &mut dyn Write, records: &[Record]) -> std::io::Result<()> {
    writeln!(out, "{HEAD}")?;
    for record in records {
        write!(out, "{}\t", record.called)?;
        match record.end {
            End::Unknown => write!(out, "-")?,
            End::Refused => write!(out, "x")?,
            End::Answered { at, .. } => write!(out, "{at}")?,
        }
        let (letter, value) = match (record.wrote, record.end) {
            (Some(mark), _) => ('w', Some(mark)),
            (None, End::Answered { found, .. }) => ('r', found),
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

/// Writes them to a file.
pub(crate) fn write_file(path: &Path, records: &[Record]) -> anyhow::Result<()> {
    let file = File::create(path).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out, records)
    });
    file.with_context(|| format!("can't write the history {}", path.display()))
}

fn parse(line: &str) -> Option<Record> {
    let mut parts = line.split('\t');
    let mut next = || parts.next();
    let (called, end, letter, key, value) = (next()?, next()?, next()?, next()?, next()?);
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
    let end = match end {
        "-" => End::Unknown,
        "x" => End::Refused,
        at => End::Answered {
            at: at.parse().ok()?,
            found: if wrote.is_some() { None } else { value },
        },
    };
    Some(Record { called: called.parse().ok()?, end, key: key.parse().ok()?, wrote })
}

/// The history in the checker's terms, in the order of time.
fn history(records: &[Record]) -> History {
    // At the same nanosecond calls come first: then the two overlap, which accuses nobody falsely.
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(records.len() * 2);
    for (place, record) in records.iter().enumerate() {
        moments.push((record.called, false, place));
        if let End::Answered { at, .. } = record.end {
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
            if record.end == End::Refused {
                history.refuse(id);
            }
            ids[place] = Some(id);
        } else if let (End::Answered { found, .. }, Some(id)) = (record.end, ids[place]) {
            let reply = match record.wrote {
                Some(_) => Reply::Done,
                None => Reply::Value(found.map(text)),
            };
            history.answer(id, reply);
        }
    }
    history
}

/// What `perf check` takes.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// A history, as `perf load --history` writes it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// `perf check`: exit code 0 if the history is linearizable, 1 if not.
pub(crate) fn check(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.file;
    let file = File::open(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut lines = BufReader::new(file).lines();
    let head = lines.next().transpose().unwrap_or_default();
    ensure!(
        head.as_deref() == Some(HEAD),
        "{} is no history of `perf load --history`: its first line is not {HEAD}",
        path.display()
    );
    let mut records = Vec::new();
    for (number, line) in lines.enumerate() {
        let line = line.with_context(|| format!("can't read {}", path.display()))?;
        let Some(record) = parse(&line) else {
            bail!("{}, line {}: no operation: {line:?}", path.display(), number + 2);
        };
        // An answer before its call would turn the checker's order of time around.
        if let End::Answered { at, .. } = record.end {
            let line = number + 2;
            ensure!(at >= record.called, "{}, line {line}: answered early", path.display());
        }
        records.push(record);
    }
    let unknown = records.iter().filter(|record| record.end == End::Unknown).count();
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
            error @ bowline::sim::checkers::linearizability::LinearError::NotLinearizable { .. },
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
        let end = End::Answered { at, found: None };
        Record { called, end, key, wrote: Some(mark) }
    }

    fn read_of(key: u64, found: Option<u64>, called: u64, at: u64) -> Record {
        Record { called, end: End::Answered { at, found }, key, wrote: None }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let records = [
            write_of(3, 0xFFFF_0000_0000_0001, 5, 9),
            read_of(3, Some(7), 1, 2),
            read_of(4, None, 1, 2),
            Record { called: 1, end: End::Unknown, key: 3, wrote: Some(8) },
            Record { called: 1, end: End::Refused, key: 3, wrote: Some(8) },
            Record { called: 1, end: End::Unknown, key: 3, wrote: None },
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
    fn a_stale_read_is_found_and_an_overlapping_one_is_not_accused() {
        let judge = |records: &[Record]| history(records).check(STEPS_MAX).is_ok();
        let (first, second) = (write_of(1, 1, 0, 10), write_of(1, 2, 20, 30));
        assert!(judge(&[first, second, read_of(1, Some(2), 31, 40)]));
        assert!(!judge(&[first, second, read_of(1, Some(1), 31, 40)]), "stale");
        assert!(judge(&[first, second, read_of(1, Some(1), 30, 40)]), "called as it was answered");
        assert!(!judge(&[first, read_of(1, None, 11, 12)]), "lost");
        let unknown = Record { called: 0, end: End::Unknown, key: 1, wrote: Some(3) };
        assert!(judge(&[unknown, first, read_of(1, Some(3), 90, 91)]));
        let refused = Record { end: End::Refused, ..unknown };
        assert!(!judge(&[refused, first, read_of(1, Some(3), 90, 91)]));
    }
}
