//! What the run of a script has to report besides its reply and its effects: the lines that it has
//! logged, and the commands that it has called, for the statistics. It is reported once the reply
//! is known to be right: a run that must be repeated reports nothing.

use std::time::Duration;

use bytes::Bytes;

use crate::lua::LogLevel;

use super::acl_log::Denial;
use super::statistics::{CommandNumber, CommandStatistics};

/// Maximum number of lines that the log gets from one run. The rest is dropped.
const LINES_MAX: usize = 1_000;
/// Maximum total length in bytes of these lines.
const LINE_BYTES_MAX: usize = 256 << 10;
/// Maximum number of errors of calls that are counted by their code.
const ERRORS_MAX: usize = 1_000;

/// Maximum number of denied calls that are logged.
const DENIALS_MAX: usize = 128;

/// The reports of one run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScriptNotes {
    /// The lines for the replica's log, in order.
    pub lines: Vec<(LogLevel, Vec<u8>)>,
    line_bytes: usize,
    /// The commands that were called, each once.
    calls: Vec<NotedCalls>,
    /// The error codes of failed or refused calls.
    errors: Vec<Vec<u8>>,
    /// The calls that the user may not make.
    pub denials: Vec<Denial>,
    /// The lines that show the calls to monitors.
    pub shown: Bytes,
}

/// The calls of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NotedCalls {
    command: CommandNumber,
    calls: u64,
    failed: u64,
    rejected: u64,
    elapsed: Duration,
}

impl ScriptNotes {
    /// Adds a line for the log, unless there are too many.
    pub(super) fn log(&mut self, level: LogLevel, text: &[u8]) {
        if self.lines.len() < LINES_MAX && self.line_bytes + text.len() <= LINE_BYTES_MAX {
            self.line_bytes += text.len();
            self.lines.push((level, text.to_vec()));
        }
    }

    fn calls_of(&mut self, command: CommandNumber) -> &mut NotedCalls {
        let found = self.calls.iter().position(|noted| noted.command == command);
        let at = found.unwrap_or_else(|| {
            let elapsed = Duration::ZERO;
            self.calls.push(NotedCalls { command, calls: 0, failed: 0, rejected: 0, elapsed });
            self.calls.len() - 1
        });
        &mut self.calls[at]
    }

    /// Adds a call that took `elapsed`.
    pub(super) fn note_call(&mut self, command: CommandNumber, failed: bool, elapsed: Duration) {
        let noted = self.calls_of(command);
        noted.calls += 1;
        noted.failed += u64::from(failed);
        noted.elapsed += elapsed;
    }

    /// Adds a call that the user may not make, unless there are too many.
    pub(super) fn deny(&mut self, denial: Denial) {
        if self.denials.len() < DENIALS_MAX {
            self.denials.push(denial);
        }
    }

    /// Adds a call that was refused before the command ran.
    pub(super) fn note_rejected(&mut self, command: CommandNumber) {
        self.calls_of(command).rejected += 1;
    }

    /// Adds an error that a call has returned, by its text.
    pub(super) fn note_error(&mut self, text: &[u8]) {
        if self.errors.len() < ERRORS_MAX {
            let code = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
            self.errors.push(code.to_vec());
        }
    }

    /// Adds the calls and the errors to the statistics.
    pub fn count(&self, statistics: &mut CommandStatistics) {
        for NotedCalls { command, calls, failed, rejected, elapsed } in &self.calls {
            statistics.count_calls(*command, (*calls, *failed, *rejected), *elapsed);
        }
        self.errors.iter().for_each(|code| statistics.count_error(code));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_a_run_are_bounded_and_count_each_call() {
        let (mut notes, mut statistics) = (ScriptNotes::default(), CommandStatistics::default());
        let (get, set) = (CommandNumber(3), CommandNumber(7));
        for number in 0..5_000 {
            notes.log(LogLevel::Notice, &[b'x'; 100]);
            notes.note_call(get, number % 5 == 0, Duration::from_micros(2));
            notes.note_error(b"ERR some text");
        }
        notes.note_rejected(set);
        notes.log(LogLevel::Warning, &vec![b'x'; LINE_BYTES_MAX]);
        assert_eq!((notes.lines.len(), notes.calls.len()), (LINES_MAX, 2));
        notes.count(&mut statistics);
        let (_, value) = statistics.command(get, "get").unwrap();
        assert!(value.starts_with("calls=5000,usec=10000,"), "{value}");
        assert!(value.ends_with("rejected_calls=0,failed_calls=1000"), "{value}");
        let (_, value) = statistics.command(set, "set").unwrap();
        assert!(value.starts_with("calls=0,") && value.contains("rejected_calls=1"), "{value}");
        assert_eq!(statistics.error_count(), ERRORS_MAX as u64);
    }
}
