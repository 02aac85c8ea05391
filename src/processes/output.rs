//! Reads what a replica prints, so that a full pipe never blocks it, and remembers the end of it,
//! and what a program in Rust says first when it panics. One thread for each replica, away from the
//! loop that carries messages.

use std::collections::VecDeque;
use std::io::{PipeReader, Read as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::types::NodeId;

/// Lines remembered.
const LINES_MAX: usize = 5;
/// What a panic begins with, and how many lines from there on are remembered: a long backtrace
/// follows.
const PANIC: &str = "panicked at";
const PANIC_LINES: usize = 2;
/// Of each, so many bytes.
const LINE_BYTES_MAX: usize = 300;

/// The last lines that a replica printed.
#[derive(Clone, Debug, Default)]
pub(super) struct LastWords(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    panic: Vec<String>,
    last: VecDeque<String>,
}

impl LastWords {
    /// The lines in one, or nothing if there were none.
    pub(super) fn quote(&self) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = lines.panic.iter().chain(&lines.last).map(String::as_str).collect();
        (!lines.is_empty()).then(|| lines.join(" | "))
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = line.contains(PANIC) || !lines.panic.is_empty();
        if begun && lines.panic.len() < PANIC_LINES {
            lines.panic.push(line);
            return;
        }
        if lines.last.len() == LINES_MAX {
            lines.last.pop_front();
        }
        lines.last.push_back(line);
    }
}

/// Starts to read. The thread ends when the last process that holds the other end is gone; nobody
/// waits for it.
pub(super) fn drain(replica: NodeId, mut pipe: PipeReader, show: bool) -> LastWords {
    let words = LastWords::default();
    let sink = words.clone();
    let reader = move || {
        let mut lines = Lines::default();
        let mut bytes = [0_u8; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut bytes) {
            lines.take(&bytes[..length], |line| {
                if show {
                    eprintln!("[{replica}] {line}");
                }
                sink.push(line);
            });
        }
    };
    // Without a thread the replica may block on its output: rare, and then it is just slow.
    drop(thread::Builder::new().name(format!("output {replica}")).spawn(reader));
    words
}

/// Cuts bytes into lines of bounded length; what has no newline counts as a line when it is long.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], mut give: impl FnMut(String)) {
        for byte in bytes {
            if *byte != b'\n' {
                self.partial.push(*byte);
            }
            if *byte == b'\n' || self.partial.len() == LINE_BYTES_MAX {
                let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
                self.partial.clear();
                if !line.is_empty() {
                    give(line);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn lines_are_cut_and_bounded() {
        let mut seen = Vec::new();
        let mut lines = Lines::default();
        for bytes in [&b"one\ntw"[..], b"o\n\n", &[b'x'; 700], b"\xFF\n"] {
            lines.take(bytes, |line| seen.push(line));
        }
        assert_eq!(seen[..2], ["one", "two"]);
        assert_eq!(
            seen[2..].iter().map(|line| line.chars().count()).collect::<Vec<_>>(),
            [300, 300, 101]
        );
    }

    #[test]
    fn the_last_words_are_kept() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        for line in 0..20 {
            writeln!(writer, "line {line}").unwrap();
        }
        drop(writer);
        let words = drain(NodeId(1), reader, false);
        while !words.quote().is_some_and(|quote| quote.contains("line 19")) {
            thread::yield_now();
        }
        assert_eq!(words.quote().unwrap(), "line 15 | line 16 | line 17 | line 18 | line 19");
    }

    #[test]
    fn what_a_panic_says_is_kept_whatever_follows() {
        let words = LastWords::default();
        for line in ["hello", "thread 'core' panicked at a.rs:1:2:", "a reason"] {
            words.push(line.to_owned());
        }
        for line in 0..20 {
            words.push(format!("frame {line}"));
        }
        let quote = words.quote().unwrap();
        assert!(quote.starts_with("thread 'core' panicked at a.rs:1:2: | a reason | frame 15"));
    }
}
