//! Questions of the HTTP thread to the network stage, and the answers.
//!
//! At most one question of each kind is unanswered at a time, so neither queue is ever full. An
//! answer serves all HTTP requests that had arrived before its question was asked. It therefore
//! reflects every reply that any client had received when the HTTP request was sent.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use crossbeam::channel::{self, Receiver, Sender};

use crate::redis::Unready;
use crate::runtime::boards::{ApplierBoard, RuntimeCounters, StatusBoard};
use crate::runtime::channels::ToNetwork;
use crate::runtime::clock::Clock;
use crate::runtime::wake::{QUESTIONS, Wake};
use crate::types::Instant;

use super::report::Report;

/// Number of kinds of questions. It is the capacity of the queues of questions and of answers.
pub(super) const KINDS: usize = 3;

/// A question to the network stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// The state of the replica, for metrics and status.
    Report,
    /// Whether the replica is ready to serve clients.
    Readiness,
    /// Whether the network stage is running. It also asks the Raft core to publish its status.
    Liveness,
}

/// The network stage's answer to a [`Question`].
#[derive(Debug)]
pub(crate) enum Answer {
    Report(Box<Report>),
    Readiness(Result<(), Unready>),
    Liveness,
}

/// What the HTTP thread shares with the rest of the process.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Access to the stages of the replica; empty while the replica loads its data folder.
    serving: OnceLock<Serving>,
    pub(super) is_stopping: AtomicBool,
    /// Wakes the HTTP thread.
    waker: mio::Waker,
    answers: Sender<Answer>,
}

/// Access to a serving replica: the queue of questions to the network stage, and the status boards
/// of other stages that the HTTP thread reads.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(super) questions: ToNetwork<Question>,
    pub(super) status: Arc<StatusBoard>,
    pub(super) applier: Arc<ApplierBoard>,
    pub(super) counters: Arc<RuntimeCounters>,
    /// The clock that the stages use.
    pub(super) clock: Clock,
}

/// The network stage's side: it receives questions and sends answers.
#[derive(Debug)]
pub(crate) struct HttpEnds {
    pub(crate) questions: Receiver<Question>,
    shared: Arc<Shared>,
}

impl Shared {
    pub(super) fn new(waker: mio::Waker) -> (Shared, Receiver<Answer>) {
        let (answers, received) = channel::bounded(KINDS);
        let (serving, is_stopping) = (OnceLock::new(), AtomicBool::new(false));
        (Shared { serving, is_stopping, waker, answers }, received)
    }

    /// Returns access to the stages of the replica; `None` while it loads its data folder.
    pub(super) fn serving(&self) -> Option<&Serving> {
        self.serving.get()
    }

    pub(super) fn attach(&self, serving: Serving) {
        // This function is called only once, so the cell is empty.
        let _ = self.serving.set(serving);
    }

    /// Wakes the HTTP thread.
    pub(super) fn wake(&self) {
        // If this fails, the thread notices within the interval at which it wakes up anyway.
        let _ = self.waker.wake();
    }
}

impl Serving {
    /// Creates the queue of questions to the network stage, which `wake` wakes.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        wake: &Arc<Wake>,
        (status, applier): (&Arc<StatusBoard>, &Arc<ApplierBoard>),
        counters: &Arc<RuntimeCounters>,
        clock: Clock,
    ) -> (Serving, HttpEnds) {
        let (sender, questions) = channel::bounded(KINDS);
        let serving = Serving {
            questions: ToNetwork::new(sender, QUESTIONS, wake),
            status: Arc::clone(status),
            applier: Arc::clone(applier),
            counters: Arc::clone(counters),
            clock,
        };
        (serving, HttpEnds { questions, shared: Arc::clone(shared) })
    }
}

impl HttpEnds {
    /// Sends an answer to the HTTP thread, without blocking.
    pub(crate) fn answer(&self, answer: Answer) {
        // Fails only if the HTTP thread has ended.
        if self.shared.answers.try_send(answer).is_ok() {
            self.shared.wake();
        }
    }
}

/// Numbers of the questions of one kind, counted from 1. At most one is unanswered.
///
/// Invariant: `answered <= latest <= answered + 1`.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Number of the latest question; 0 before the first.
    latest: u64,
    /// Number of the latest answered question.
    answered: u64,
    /// When the latest question was asked.
    pub(super) at: Instant,
}

impl Asked {
    /// Returns the number of the next question. Its answer is recent enough for a request that
    /// arrives now.
    pub(super) fn next(&self) -> u64 {
        self.latest + 1
    }

    /// Returns whether the latest question is unanswered.
    pub(super) fn is_open(&self) -> bool {
        self.latest > self.answered
    }

    /// Returns whether the question `number` has been asked.
    pub(super) fn was_asked(&self, number: u64) -> bool {
        number <= self.latest
    }

    /// Records that the next question is asked at `now`.
    pub(super) fn ask(&mut self, now: Instant) {
        assert!(!self.is_open(), "one question at a time: {self:?}");
        self.latest += 1;
        self.at = now;
    }

    /// Records the answer to the unanswered question, and returns the question's number.
    pub(super) fn answer(&mut self) -> u64 {
        assert!(self.is_open(), "an answer without a question: {self:?}");
        self.answered = self.latest;
        self.answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_that_arrives_after_a_question_waits_for_the_next_one() {
        let mut asked = Asked::default();
        let early = asked.next();
        asked.ask(Instant(5));
        let late = asked.next();
        assert!(asked.is_open() && asked.was_asked(early) && !asked.was_asked(late));
        assert_eq!(asked.answer(), early);
        asked.ask(Instant(7));
        assert_eq!((asked.answer(), asked.is_open()), (late, false));
    }
}
