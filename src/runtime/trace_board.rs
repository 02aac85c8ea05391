//! The trace of a write through the stages. The network stage chooses a batch of writes; then the
//! core, the log writer and the applier note when they are done with it.
//!
//! There is at most one trace at a time. While there is none, a stage reads one atomic number per
//! batch. A stage that notes a step while the network stage begins the next trace may note it for
//! the wrong trace; such a time is earlier than the write was appended, and is left out.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::{Index, Instant, RequestId};

use super::clock::Clock;

/// A step of a write that has an index in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TracedStep {
    /// The log writer has synced the entry.
    Durable,
    /// The core knows that a majority has the entry on disk.
    Committed,
    /// The applier has applied the entry.
    Applied,
}

/// When the steps of a traced write were done; `None` for steps that this replica does not know.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct TracedTimes {
    pub(super) appended: Option<Instant>,
    pub(super) durable: Option<Instant>,
    pub(super) committed: Option<Instant>,
    pub(super) applied: Option<Instant>,
}

/// The write that is being traced.
#[derive(Debug)]
pub(super) struct TraceBoard {
    clock: Clock,
    /// The two halves of the id of the traced batch; 0 for none.
    batch: [AtomicU64; 2],
    /// Index of the batch in the log; 0 while it has none.
    index: AtomicU64,
    /// In nanoseconds of the clock; 0 for unknown. So are the times in `steps`.
    appended_at: AtomicU64,
    /// One for each [`TracedStep`].
    steps: [AtomicU64; 3],
}

impl Default for TraceBoard {
    fn default() -> TraceBoard {
        TraceBoard::new(Clock::start())
    }
}

impl TraceBoard {
    /// Creates a board without a trace, whose times are those of `clock`.
    pub(super) fn new(clock: Clock) -> TraceBoard {
        TraceBoard {
            clock,
            batch: Default::default(),
            index: AtomicU64::default(),
            appended_at: AtomicU64::default(),
            steps: Default::default(),
        }
    }

    /// Begins the trace of the batch with this id, instead of the trace before. Called by the
    /// network stage before it sends the batch.
    pub(super) fn begin(&self, batch: RequestId) {
        self.index.store(0, Ordering::Relaxed);
        self.appended_at.store(0, Ordering::Relaxed);
        for step in &self.steps {
            step.store(0, Ordering::Relaxed);
        }
        self.set_batch(halves(batch));
    }

    fn set_batch(&self, [high, low]: [u64; 2]) {
        self.batch[0].store(high, Ordering::Relaxed);
        self.batch[1].store(low, Ordering::Release);
    }

    /// Returns whether the batch with this id is traced. Called by the core.
    pub(super) fn is_traced(&self, batch: RequestId) -> bool {
        let [high, low] = halves(batch);
        let is_low = self.batch[1].load(Ordering::Acquire) == low;
        is_low && self.batch[0].load(Ordering::Relaxed) == high && (high, low) != (0, 0)
    }

    /// Notes that the traced batch has been appended to the log at this index. Called by the core.
    pub(super) fn note_appended(&self, index: Index) {
        self.appended_at.store(self.clock.now().0, Ordering::Relaxed);
        self.index.store(index.0, Ordering::Release);
    }

    /// Notes that a step is done for all entries up to this index.
    pub(super) fn note(&self, step: TracedStep, index: Index) {
        let wanted = self.index.load(Ordering::Acquire);
        let noted = &self.steps[step as usize];
        if wanted != 0 && wanted <= index.0 && noted.load(Ordering::Relaxed) == 0 {
            noted.store(self.clock.now().0, Ordering::Relaxed);
        }
    }

    /// Ends the trace, and returns the time now and the times of the steps. Called by the network
    /// stage.
    pub(super) fn end(&self) -> (Instant, TracedTimes) {
        self.set_batch([0, 0]);
        self.index.store(0, Ordering::Relaxed);
        let appended_at = self.appended_at.load(Ordering::Relaxed);
        let time = |step: TracedStep| {
            let at = self.steps[step as usize].load(Ordering::Relaxed);
            (at != 0 && at >= appended_at).then_some(Instant(at))
        };
        let times = TracedTimes {
            appended: Some(Instant(appended_at)).filter(|at| at.0 != 0),
            durable: time(TracedStep::Durable),
            committed: time(TracedStep::Committed),
            applied: time(TracedStep::Applied),
        };
        (self.clock.now(), times)
    }
}

/// Returns the first and the last eight bytes of an id. The last are the sequence number, in which
/// ids of one replica differ.
fn halves(id: RequestId) -> [u64; 2] {
    let [high, low] = [0, 8].map(|at| id.0[at..].first_chunk().expect("an id has 16 bytes"));
    [u64::from_be_bytes(*high), u64::from_be_bytes(*low)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> RequestId {
        RequestId([number; 16])
    }

    #[test]
    fn steps_count_from_the_index_of_the_traced_batch() {
        let board = TraceBoard::default();
        board.note(TracedStep::Durable, Index(100));
        board.begin(id(7));
        assert!(board.is_traced(id(7)) && !board.is_traced(id(8)));
        board.note(TracedStep::Durable, Index(100));
        board.note_appended(Index(101));
        board.note(TracedStep::Durable, Index(100));
        board.note(TracedStep::Committed, Index(101));
        board.note(TracedStep::Applied, Index(102));
        let (now, times) = board.end();
        assert_eq!(times.durable, None, "the entry is not synced");
        let known = [times.appended, times.committed, times.applied].map(Option::unwrap);
        assert!(known.is_sorted() && known[2] <= now, "{known:?}, {now:?}");
        assert!(!board.is_traced(id(7)));
    }

    #[test]
    fn step_of_the_trace_before_is_left_out() {
        let board = TraceBoard::default();
        board.begin(id(7));
        board.note_appended(Index(1));
        // Noted by a stage that has read the index of the trace before.
        board.begin(id(8));
        board.steps[TracedStep::Durable as usize].store(1, Ordering::Relaxed);
        board.note_appended(Index(2));
        assert_eq!(board.end().1.durable, None);
    }

    #[test]
    fn no_batch_is_traced_while_there_is_no_trace() {
        let board = TraceBoard::default();
        assert!(!board.is_traced(id(0)));
        board.begin(id(1));
        assert_eq!(board.end().1, TracedTimes::default());
        assert!(!board.is_traced(id(0)) && !board.is_traced(id(1)));
    }
}
