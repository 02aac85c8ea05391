//! Reads what a replica prints, so that the replica is never blocked by a full pipe. Keeps the last
//! lines, and the first lines of a Rust panic. Uses one thread per replica, separate from the loop
//! that routes messages.

use std::collections::VecDeque;
use std::io::{PipeReader, Read as _};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use crate::types::NodeId;

/// Number of lines kept from the end of a replica's output.
const LINES_MAX: usize = 5;
/// Text that identifies the first line of a Rust panic message.
const PANIC: &str = "panicked at";
/// Number of lines kept from the start of a Rust panic message; a long backtrace may follow.
const PANIC_LINES: usize = 2;
/// Maximum length of a line of a replica's output, in bytes. Longer lines are split.
const LINE_BYTES_MAX: usize = 300;

/// The last lines of a replica's output. Shared with the thread that reads the output and updates
/// them.
#[derive(Clone, Debug, Default)]
pub(super) struct OutputTail(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    panic: Vec<String>,
    last: VecDeque<String>,
}

impl OutputTail {
    /// Returns the kept lines of the replica's output, joined by ` | `; `None` if it has printed
    /// nothing.
    pub(super) fn quote(&self) -> Option<String> {
        let lines = self.0.lock();
        let lines: Vec<&str> = lines.panic.iter().chain(&lines.last).map(String::as_str).collect();
        (!lines.is_empty()).then(|| lines.join(" | "))
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock();
        let panicked = line.contains(PANIC) || !lines.panic.is_empty();
        if panicked && lines.panic.len() < PANIC_LINES {
            lines.panic.push(line);
            return;
        }
        if lines.last.len() == LINES_MAX {
            lines.last.pop_front();
        }
        lines.last.push_back(line);
    }
}

/// Starts a thread that reads a replica's output until all processes that write to the pipe have
/// closed it. If `show` is true, the thread also prints each line on stderr. Returns the last lines
/// of the output, which the thread keeps up to date.
pub(super) fn drain(replica: NodeId, mut pipe: PipeReader, show: bool) -> OutputTail {
    let tail = OutputTail::default();
    let sink = tail.clone();
    let reader = move || {
        let mut lines = LineSplitter::default();
        let mut bytes = [0_u8; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut bytes) {
            lines.push(&bytes[..length], |line| {
                if show {
                    eprintln!("[{replica}] {line}");
                }
                sink.push(line);
            });
        }
    };
    // If the thread cannot be started, the replica may block when it prints, and then seems slow.
    drop(thread::Builder::new().name(format!("output {replica}")).spawn(reader));
    tail
}

/// Splits a replica's output into lines of at most [`LINE_BYTES_MAX`] bytes.
#[derive(Default)]
struct LineSplitter {
    partial: Vec<u8>,
}

impl LineSplitter {
    fn push(&mut self, bytes: &[u8], mut on_line: impl FnMut(String)) {
        for byte in bytes {
            if *byte != b'\n' {
                self.partial.push(*byte);
            }
            if *byte == b'\n' || self.partial.len() == LINE_BYTES_MAX {
                let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
                self.partial.clear();
                if !line.is_empty() {
                    on_line(line);
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
    fn replica_output_is_split_into_bounded_lines() {
        let mut seen = Vec::new();
        let mut lines = LineSplitter::default();
        for bytes in [&b"one\ntw"[..], b"o\n\n", &[b'x'; 700], b"\xFF\n"] {
            lines.push(bytes, |line| seen.push(line));
        }
        assert_eq!(seen[..2], ["one", "two"]);
        assert_eq!(
            seen[2..].iter().map(|line| line.chars().count()).collect::<Vec<_>>(),
            [300, 300, 101]
        );
    }

    #[test]
    fn last_lines_of_replica_output_are_kept() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        for line in 0..20 {
            writeln!(writer, "line {line}").unwrap();
        }
        drop(writer);
        let tail = drain(NodeId(1), reader, false);
        while !tail.quote().is_some_and(|quote| quote.contains("line 19")) {
            thread::yield_now();
        }
        assert_eq!(tail.quote().unwrap(), "line 15 | line 16 | line 17 | line 18 | line 19");
    }

    #[test]
    fn panic_message_of_a_replica_is_kept_before_a_long_backtrace() {
        let tail = OutputTail::default();
        for line in ["hello", "thread 'core' panicked at a.rs:1:2:", "a reason"] {
            tail.push(line.to_owned());
        }
        for line in 0..20 {
            tail.push(format!("frame {line}"));
        }
        let quote = tail.quote().unwrap();
        assert!(quote.starts_with("thread 'core' panicked at a.rs:1:2: | a reason | frame 15"));
    }
}
