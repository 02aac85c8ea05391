//! A progress line on stderr with the figures of the last second. Nothing is printed if stderr is
//! not a terminal.

use std::io::{IsTerminal as _, Write as _};

use super::options::Plan;
use super::schema::Second;

/// The line on stderr that shows the progress of a load run; hidden if stderr is not a terminal.
#[derive(Debug)]
pub(crate) struct ProgressLine {
    shown: bool,
    colour: bool,
}

impl ProgressLine {
    /// Creates a progress line. It is visible if stderr is a terminal, and in colour unless
    /// `NO_COLOR` is set.
    pub(crate) fn new() -> ProgressLine {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        ProgressLine { shown: std::io::stderr().is_terminal(), colour }
    }

    /// Shows the name of the current phase of the run, such as the preload.
    pub(crate) fn phase(&mut self, text: &str) {
        if self.shown {
            // Progress output is optional: a failed write is ignored.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text} ...");
        }
    }

    /// Shows the results of the second that has just ended. `failed` is the number of operations
    /// that have failed so far.
    pub(crate) fn second(&mut self, second: &Second, plan: &Plan, failed: u64) {
        if !self.shown {
            return;
        }
        let errors = if failed == 0 {
            "no errors".to_owned()
        } else if self.colour {
            format!("\x1b[31m{failed} errors\x1b[0m")
        } else {
            format!("{failed} errors")
        };
        let backlog = match second.backlog {
            0 => String::new(),
            backlog => format!(", backlog {backlog}"),
        };
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{:>4} of {:.0} s: {:>8}/s, p50 {:.3} ms, p99 {:.3} ms, {errors}{backlog}",
            second.number + 1,
            plan.length.as_secs_f64().ceil(),
            second.succeeded,
            second.latency.p50_s * 1e3,
            second.latency.p99_s * 1e3,
        );
    }

    /// Removes the progress line from the terminal.
    pub(crate) fn clear(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
