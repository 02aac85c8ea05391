//! Traces of recent writes (`LATENCY TRACE`): when each step on the way from the client's request
//! to its reply was done.
//!
//! The server traces one write at a time, and at most ten per second, so that tracing costs
//! nothing that can be measured and is always on.

use std::collections::VecDeque;
use std::time::Duration;

use super::statistics::CommandNumber;

/// Maximum number of traces that are kept. The oldest is removed first.
const TRACES_MAX: usize = 16;

/// The steps of a write, in order. [`WriteTrace::steps`] has the time of each.
pub const WRITE_STEPS: [&str; 6] =
    ["sent", "appended", "durable", "committed", "applied", "answered"];

/// A write of one of this replica's clients whose reply has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteTrace {
    /// The command of the request.
    pub command: CommandNumber,
    /// Number of requests in the batch with which the request was sent to the core or the leader.
    pub requests: usize,
    /// For each of [`WRITE_STEPS`], the time from the arrival of the request until the step was
    /// done. `None` if this replica does not know it: only a leader knows when a write was
    /// appended, durable on its own disk, committed and applied, and a majority of other replicas
    /// may have been faster than its own disk.
    pub steps: [Option<Duration>; WRITE_STEPS.len()],
}

/// The traces of recent writes of this replica's clients.
#[derive(Debug, Clone, Default)]
pub struct WriteTraces {
    /// Latest first.
    traces: VecDeque<WriteTrace>,
}

impl WriteTraces {
    /// Adds a trace.
    pub fn add(&mut self, trace: WriteTrace) {
        self.traces.truncate(TRACES_MAX - 1);
        self.traces.push_front(trace);
    }

    /// Returns the traces, latest first.
    pub(super) fn latest_first(&self) -> impl ExactSizeIterator<Item = &WriteTrace> {
        self.traces.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_trace_is_removed_first() {
        let mut traces = WriteTraces::default();
        for requests in 1..=TRACES_MAX + 1 {
            traces.add(WriteTrace {
                command: CommandNumber::default(),
                requests,
                steps: [None; WRITE_STEPS.len()],
            });
        }
        let kept: Vec<usize> = traces.latest_first().map(|trace| trace.requests).collect();
        assert_eq!(kept, (2..=TRACES_MAX + 1).rev().collect::<Vec<_>>());
    }
}
