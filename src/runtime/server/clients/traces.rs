//! Which writes of this replica's clients are traced, for `LATENCY TRACE`.

use std::sync::Arc;
use std::time::Duration;

use crate::raft::{ClientRequest, RequestKind};
use crate::redis::{CommandNumber, WriteTrace};
use crate::runtime::trace_board::TraceBoard;
use crate::types::{Instant, RequestKey};

use super::Clients;

/// Minimum time between the beginnings of two traces.
const INTERVAL: Duration = Duration::from_millis(100);
/// Time after which a trace without an outcome is given up.
const TIME_MAX: Duration = Duration::from_secs(10);

/// A batch whose first request is traced.
#[derive(Debug, Clone, Copy)]
pub(super) struct TracedBatch {
    key: RequestKey,
    command: CommandNumber,
    requests: usize,
    arrived_at: Instant,
    sent_at: Instant,
}

/// The trace that is in progress, and when the next may begin.
#[derive(Debug, Default)]
pub(super) struct Traces {
    board: Arc<TraceBoard>,
    current: Option<TracedBatch>,
    next_at: Instant,
}

impl Traces {
    pub(super) fn new(board: Arc<TraceBoard>) -> Traces {
        Traces { board, ..Traces::default() }
    }

    /// Returns whether a trace may begin now.
    fn is_due(&self, now: Instant) -> bool {
        let limit = if self.current.is_some() { TIME_MAX } else { Duration::ZERO };
        now >= self.next_at + limit
    }

    fn begin(&mut self, batch: TracedBatch) {
        self.next_at = batch.sent_at + INTERVAL;
        self.board.begin(batch.key.request);
        self.current = Some(batch);
    }

    /// Returns the batch with this key if it is traced. It is not any more.
    pub(super) fn take(&mut self, key: RequestKey) -> Option<TracedBatch> {
        self.current.take_if(|batch| batch.key == key)
    }

    /// Ends the trace of a batch whose replies have been written.
    pub(super) fn end(&self, batch: &TracedBatch) -> WriteTrace {
        let (now, times) = self.board.end();
        let steps = [
            Some(batch.sent_at),
            times.appended,
            times.durable,
            times.committed,
            times.applied,
            Some(now),
        ];
        WriteTrace {
            command: batch.command,
            requests: batch.requests,
            steps: steps.map(|at| Some(at?.since(batch.arrived_at))),
        }
    }
}

impl Clients {
    /// Begins to trace the first of these batches that has writes, if a trace is due. The batches
    /// are about to be sent.
    pub(super) fn begin_trace(&mut self, batches: &[ClientRequest]) {
        let now = self.context.now;
        if batches.is_empty() || !self.traces.is_due(now) {
            return;
        }
        let Some(batch) = batches.iter().find(|batch| batch.kind == RequestKind::Write) else {
            return;
        };
        let requests = self.batches.requests_of(batch.key);
        let first = requests.first().and_then(|sequence| self.in_flight.get(*sequence));
        let Some(first) = first else { return };
        self.traces.begin(TracedBatch {
            key: batch.key,
            command: first.command,
            requests: requests.len(),
            arrived_at: first.arrived_at,
            sent_at: now,
        });
    }
}
