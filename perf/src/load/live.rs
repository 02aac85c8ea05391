//! The live line on a terminal: what the last second was like. Nothing where stderr is no terminal.

use std::io::{IsTerminal as _, Write as _};

use super::options::Plan;
use super::schema::Second;

/// Says on stderr how it goes.
#[derive(Debug)]
pub(crate) struct Live {
    shown: bool,
    colour: bool,
}

impl Live {
    /// Shown if stderr is a terminal; in colour unless `NO_COLOR` is set.
    pub(crate) fn new() -> Live {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Live { shown: std::io::stderr().is_terminal(), colour }
    }

    /// Shows what is done now.
    pub(crate) fn say(&mut self, text: &str) {
        if self.shown {
            // Where nobody can be told how it goes, it goes on.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text} ...");
        }
    }

    /// Shows the second that is over.
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
        let waiting = match second.backlog {
            0 => String::new(),
            backlog => format!(", {backlog} waiting"),
        };
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{:>4} of {:.0} s: {:>8}/s, p50 {:.3} ms, p99 {:.3} ms, {errors}{waiting}",
            second.number + 1,
            plan.length.as_secs_f64().ceil(),
            second.succeeded,
            second.latency.p50_s * 1e3,
            second.latency.p99_s * 1e3,
        );
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
