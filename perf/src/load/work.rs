//! One thread's share of the work, without sockets: which operation comes next and when, and what
//! an answer means for it. The engine asks; this decides and counts.

use std::sync::Arc;

use bowline::sim::rng::Rng;

use super::answer::{Answer, error_kind};
use super::history::{End, Record};
use super::keys::{Inserts, Keys, Values};
use super::options::Plan;
use super::schedule::Schedule;
use super::tally::Tally;
use super::workload::Kind;

/// An operation on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    /// What is asked right now: a read-modify-write begins with a read.
    pub(crate) step: Step,
    pub(crate) key: u64,
    /// Of the value that a write writes; how many keys a scan wants.
    pub(crate) mark: u64,
    /// When it should have been sent; in a closed loop, when it was drawn.
    pub(crate) intended: u64,
    /// When it was first sent; 0 before that.
    pub(crate) sent: u64,
    /// When the present step was first sent; 0 before that.
    pub(crate) step_sent: u64,
    /// How often it was sent elsewhere.
    redirects: u8,
}

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Get,
    Put,
    Scan,
}

/// What becomes of an operation after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is over, well or not.
    Over,
    /// Over, as the server has no leader or too much to do: better not ask at once again.
    Pause,
    /// Its next step follows on the same connection.
    Step(Operation),
    /// To be sent again, to the server that leads now.
    Moved(Operation),
}

/// Where operations come from.
#[derive(Debug)]
enum Source {
    /// Nowhere.
    Nothing,
    /// Each key of this thread once.
    Preload { next: u64 },
    /// As fast as the server answers, until a moment.
    Closed { end: u64 },
    /// At the moments of a schedule.
    Open(Schedule),
}

/// An operation that is redirected more often than this fails.
const REDIRECTS_MAX: u8 = 16;
/// Longest scan; lengths are uniform, as YCSB's are.
const SCAN_KEYS_MAX: u64 = 100;
pub(crate) const SECOND: u64 = 1_000_000_000;

/// One thread's work.
#[derive(Debug)]
pub(crate) struct Work {
    plan: Arc<Plan>,
    thread: usize,
    inserts: Arc<Inserts>,
    rng: Rng,
    keys: Keys,
    pub(crate) values: Values,
    source: Source,
    /// Start of the measured window.
    begin: u64,
    /// Its planned end.
    end: u64,
    next_mark: u64,
    /// What was counted in the present second.
    pub(crate) tally: Tally,
    /// When the present second ends; before the window, at its start.
    second_end: u64,
    number: Option<u64>,
    /// Seconds that are over, to be handed on; the number of each from the window's start.
    pub(crate) over: Vec<(u64, Tally)>,
    /// When a good answer last came.
    pub(crate) last_success: u64,
    /// What the server last said was wrong.
    pub(crate) last_error: String,
    history: Vec<Record>,
}

impl Work {
    /// Of thread `thread`. `run` tells the values of this run from those of others.
    pub(crate) fn new(plan: &Arc<Plan>, thread: usize, run: u64, inserts: &Arc<Inserts>) -> Work {
        let mut rng = Rng::new(plan.seed);
        // The same for all threads: any of them may read what another wrote.
        let values = Values::new(plan.value_bytes, &mut rng.split());
        let mut rng = (0..=thread).map(|_| rng.split()).last().expect("one at least");
        let keys = Keys::new(plan.distribution, plan.theta, plan.keys, thread, plan.threads);
        Work {
            plan: Arc::clone(plan),
            thread,
            inserts: Arc::clone(inserts),
            rng: rng.split(),
            keys,
            values,
            source: Source::Nothing,
            begin: u64::MAX,
            end: u64::MAX,
            next_mark: (run & 0xFF_FFFF) << 40 | (thread as u64) << 32,
            tally: Tally::new(),
            second_end: u64::MAX,
            number: None,
            over: Vec::new(),
            last_success: 0,
            last_error: String::new(),
            history: Vec::new(),
        }
    }

    /// Write each key once from now on.
    pub(crate) fn start_preload(&mut self) {
        self.source = Source::Preload { next: self.thread as u64 };
    }

    /// Do what is measured, from `first` on; the window begins at `begin`.
    pub(crate) fn start(&mut self, first: u64, begin: u64) {
        let length = nanoseconds(self.plan.length);
        (self.begin, self.end, self.second_end) = (begin, begin + length, begin);
        self.tally = Tally::new();
        self.source = match self.plan.rate {
            Some(rate) => Source::Open(Schedule::new(
                first,
                begin - first + length,
                rate,
                self.thread,
                self.plan.threads,
            )),
            None => Source::Closed { end: self.end },
        };
    }

    /// Nothing new from now on; what was due by now was never sent.
    pub(crate) fn stop(&mut self, now: u64) {
        self.roll(now);
        if let Source::Open(schedule) = self.source {
            self.tally.counts.unsent += schedule.unsent(self.begin, now);
        }
        self.source = Source::Nothing;
    }

    /// Whether no operation will ever come again.
    pub(crate) fn is_exhausted(&self, now: u64) -> bool {
        match &self.source {
            Source::Nothing => true,
            Source::Preload { next } => *next >= self.plan.keys,
            Source::Closed { end } => now >= *end,
            Source::Open(schedule) => schedule.due().is_none(),
        }
    }

    /// When the next operation is due, if a moment is set for it.
    pub(crate) fn due(&self) -> Option<u64> {
        match &self.source {
            Source::Open(schedule) => schedule.due(),
            _ => None,
        }
    }

    /// The next operation, if one is to be sent now.
    pub(crate) fn next(&mut self, now: u64) -> Option<Operation> {
        let intended = match &mut self.source {
            Source::Nothing => return None,
            Source::Preload { next } => {
                let key = *next;
                if key >= self.plan.keys {
                    return None;
                }
                *next += self.plan.threads as u64;
                return Some(self.operation(Kind::Update, Step::Put, key, now));
            }
            Source::Closed { end } => {
                if now >= *end {
                    return None;
                }
                now
            }
            Source::Open(schedule) => {
                let due = schedule.due().filter(|&due| due <= now)?;
                schedule.take();
                due
            }
        };
        let kind = self.plan.mix.draw(&mut self.rng);
        let step = match kind {
            Kind::Read | Kind::ReadModifyWrite => Step::Get,
            Kind::Update | Kind::Insert => Step::Put,
            Kind::Scan => Step::Scan,
        };
        let key = match kind {
            Kind::Insert => self.inserts.take(),
            _ => self.keys.draw(&mut self.rng, &self.inserts),
        };
        Some(self.operation(kind, step, key, intended))
    }

    fn operation(&mut self, kind: Kind, step: Step, key: u64, intended: u64) -> Operation {
        let mark = match step {
            Step::Get => 0,
            Step::Put => self.new_mark(),
            Step::Scan => 1 + self.rng.below(SCAN_KEYS_MAX),
        };
        Operation { kind, step, key, mark, intended, sent: 0, step_sent: 0, redirects: 0 }
    }

    fn new_mark(&mut self) -> u64 {
        self.next_mark += 1;
        self.next_mark
    }

    /// Notes that an operation's answer is there.
    pub(crate) fn answered(&mut self, operation: Operation, answer: Answer<'_>, now: u64) -> Next {
        self.roll(now);
        match (operation.step, answer) {
            (_, Answer::Error(text)) => self.refused(operation, text, now),
            (Step::Get, Answer::Value(value)) => self.got(operation, value, now),
            (Step::Put, Answer::Done) => {
                self.record(&operation, End::Answered { at: now, found: None });
                self.succeeded(&operation, now);
                Next::Over
            }
            (Step::Scan, Answer::List(_)) => {
                self.succeeded(&operation, now);
                Next::Over
            }
            _ => self.failed(&operation, "corrupt", End::Unknown),
        }
    }

    fn got(&mut self, mut operation: Operation, value: Option<&[u8]>, now: u64) -> Next {
        let mut found = None;
        if self.plan.verify || self.plan.history {
            found = value.and_then(|value| self.values.mark(value));
            if value.is_some() && found.is_none() {
                return self.failed(&operation, "corrupt", End::Unknown);
            }
        }
        self.record(&operation, End::Answered { at: now, found });
        if value.is_none() && self.counts(&operation, now) {
            self.tally.counts.not_found += 1;
        }
        if operation.kind == Kind::ReadModifyWrite {
            operation.step = Step::Put;
            operation.step_sent = 0;
            operation.mark = self.new_mark();
            return Next::Step(operation);
        }
        self.succeeded(&operation, now);
        Next::Over
    }

    fn refused(&mut self, mut operation: Operation, text: &[u8], now: u64) -> Next {
        let kind = error_kind(text);
        // What clients try again by themselves was surely not done.
        let refused = matches!(kind, "MOVED" | "CLUSTERDOWN" | "TRYAGAIN" | "LOADING" | "READONLY");
        let preload = matches!(self.source, Source::Preload { .. });
        if kind == "MOVED" && operation.redirects < REDIRECTS_MAX {
            operation.redirects += 1;
            if self.counts(&operation, now) {
                self.tally.counts.redirects += 1;
            }
            return Next::Moved(operation);
        }
        let end = if refused { End::Refused } else { End::Unknown };
        self.last_error = String::from_utf8_lossy(text).into_owned();
        self.failed(&operation, kind, end);
        if preload {
            // It has to be there: again, under another mark.
            let again = self.operation(operation.kind, Step::Put, operation.key, now);
            return Next::Moved(again);
        }
        // etcd's word for having no leader; it may come after the fact.
        if refused || kind == "UNAVAILABLE" { Next::Pause } else { Next::Over }
    }

    /// Notes that no answer will come, for a reason of ours.
    pub(crate) fn lost(&mut self, operation: &Operation, reason: &str, now: u64) -> Next {
        self.roll(now);
        let end = if operation.step_sent == 0 { End::Refused } else { End::Unknown };
        self.failed(operation, reason, end);
        if matches!(self.source, Source::Preload { .. }) {
            let again = self.operation(operation.kind, Step::Put, operation.key, now);
            return Next::Moved(again);
        }
        Next::Over
    }

    fn succeeded(&mut self, operation: &Operation, now: u64) {
        self.last_success = now;
        if operation.kind == Kind::Insert {
            self.inserts.acknowledge();
        }
        if !self.counts(operation, now) {
            return;
        }
        let (tally, place) = (&mut self.tally, operation.kind.place());
        tally.counts.succeeded += 1;
        tally.last = tally.last.max(now);
        tally.service[place].saturating_record((now - operation.sent).max(1));
        if self.plan.rate.is_some() {
            tally.response[place].saturating_record((now - operation.intended).max(1));
            tally.lag.saturating_record((operation.sent - operation.intended).max(1));
        }
    }

    fn failed(&mut self, operation: &Operation, kind: &str, end: End) -> Next {
        self.record(operation, end);
        if self.counts(operation, self.begin) {
            self.tally.fail(kind);
        }
        Next::Over
    }

    /// Whether an operation is in what is measured: by its intended moment in an open loop, by
    /// that of its answer in a closed one.
    fn counts(&self, operation: &Operation, now: u64) -> bool {
        match self.plan.rate {
            Some(_) => operation.intended >= self.begin,
            None => now >= self.begin && self.number.is_some(),
        }
    }

    fn record(&mut self, operation: &Operation, end: End) {
        if !self.plan.history {
            return;
        }
        let wrote = (operation.step == Step::Put).then_some(operation.mark);
        let called = operation.step_sent;
        self.history.push(Record { called, end, key: operation.key, wrote });
    }

    /// What was recorded.
    pub(crate) fn take_history(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.history)
    }

    /// Ends the seconds that are over at `now`.
    pub(crate) fn roll(&mut self, now: u64) {
        while now >= self.second_end {
            self.close_second(self.second_end);
            self.number = Some(self.number.map_or(0, |number| number + 1));
            self.second_end += SECOND;
        }
    }

    /// Ends the present second, which may be one that has just begun.
    pub(crate) fn close_second(&mut self, now: u64) {
        if let Source::Open(schedule) = &self.source {
            self.tally.backlog = schedule.backlog(now);
        }
        if let Some(number) = self.number {
            let tally = std::mem::replace(&mut self.tally, Tally::new());
            self.over.push((number, tally));
        } else {
            self.tally = Tally::new();
        }
    }

    /// When the measured window is planned to end.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }
}

/// A span as a whole number.
pub(crate) fn nanoseconds(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
