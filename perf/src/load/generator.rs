//! Generates one thread's operations and interprets their replies, without sockets: which operation
//! comes next, when it is due, and what a reply means for it. The engine calls this and does the
//! I/O.

use std::sync::Arc;

use bowline::sim::rng::Rng;

use super::history::{Outcome, Record};
use super::keys::{Inserts, Keys, Values};
use super::options::Plan;
use super::reply::{Reply, error_code};
use super::schedule::Schedule;
use super::stats::Stats;
use super::workload::Kind;

/// An operation. Times are in nanoseconds of the run's [`Clock`](super::engine::Clock).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    /// The current request: a read-modify-write starts with a get and continues with a put.
    pub(crate) request: Request,
    pub(crate) key: u64,
    /// Mark of the value that a put writes; for a scan, the number of keys.
    pub(crate) mark: u64,
    /// When the operation should have been sent; in a closed loop, when it was generated.
    pub(crate) intended: u64,
    /// When its first request was sent; 0 if it was not.
    pub(crate) sent: u64,
    /// When the current request was sent; 0 if it was not.
    pub(crate) request_sent: u64,
    /// Redirects so far.
    redirects: u8,
}

/// Request to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Get,
    Put,
    Scan,
}

/// What happens to an operation after a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The operation is finished, successfully or not.
    Done,
    /// Finished, because the server has no leader or is overloaded: the connection pauses.
    Pause,
    /// Its next request follows on the same connection.
    Continue(Operation),
    /// Send it retry, to the current leader.
    Retry(Operation),
}

/// What determines the next operation.
#[derive(Debug)]
enum Source {
    /// No operations.
    Nothing,
    /// Write each key of this thread once.
    Preload { next: u64 },
    /// Closed loop until `end`.
    Closed { end: u64 },
    /// Open loop.
    Open(Schedule),
}

/// An operation that is redirected more often than this fails.
const REDIRECTS_MAX: u8 = 16;
/// Longest scan; lengths are uniform, as YCSB's are.
const SCAN_KEYS_MAX: u64 = 100;
pub(crate) const SECOND: u64 = 1_000_000_000;

/// One thread's operation generator and its statistics.
#[derive(Debug)]
pub(crate) struct Generator {
    plan: Arc<Plan>,
    thread: usize,
    inserts: Arc<Inserts>,
    rng: Rng,
    keys: Keys,
    pub(crate) values: Values,
    source: Source,
    /// Start of the measured window.
    begin: u64,
    /// Planned end of the measured window.
    end: u64,
    next_mark: u64,
    /// Statistics of the current second.
    pub(crate) stats: Stats,
    /// End of the current second; before the window, the window's start.
    second_end: u64,
    number: Option<u64>,
    /// Finished seconds that were not passed on yet, numbered from the start of the window.
    pub(crate) over: Vec<(u64, Stats)>,
    /// When the last successful reply arrived.
    pub(crate) last_success: u64,
    /// The last error message of the server.
    pub(crate) last_error: String,
    history: Vec<Record>,
}

impl Generator {
    /// The generator of thread `thread`. `run` distinguishes this run's values from those of other
    /// runs.
    pub(crate) fn new(
        plan: &Arc<Plan>,
        thread: usize,
        run: u64,
        inserts: &Arc<Inserts>,
    ) -> Generator {
        let mut rng = Rng::new(plan.seed);
        // The same for all threads: each of them may read what another one wrote.
        let values = Values::new(plan.value_bytes, &mut rng.split());
        let mut rng = (0..=thread).map(|_| rng.split()).last().expect("one at least");
        let keys = Keys::new(plan.distribution, plan.theta, plan.keys, thread, plan.threads);
        Generator {
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
            stats: Stats::new(),
            second_end: u64::MAX,
            number: None,
            over: Vec::new(),
            last_success: 0,
            last_error: String::new(),
            history: Vec::new(),
        }
    }

    /// Starts the preload, which writes each key once.
    pub(crate) fn start_preload(&mut self) {
        self.source = Source::Preload { next: self.thread as u64 };
    }

    /// Starts the load at `first`; the measured window begins at `begin`.
    pub(crate) fn start(&mut self, first: u64, begin: u64) {
        let length = nanoseconds(self.plan.length);
        (self.begin, self.end, self.second_end) = (begin, begin + length, begin);
        self.stats = Stats::new();
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

    /// Ends the load. Operations that were due by now and not taken count as unsent.
    pub(crate) fn stop(&mut self, now: u64) {
        self.roll(now);
        if let Source::Open(schedule) = self.source {
            self.stats.counts.unsent += schedule.unsent(self.begin, now);
        }
        self.source = Source::Nothing;
    }

    /// Whether there will be no more operations.
    pub(crate) fn is_exhausted(&self, now: u64) -> bool {
        match &self.source {
            Source::Nothing => true,
            Source::Preload { next } => *next >= self.plan.keys,
            Source::Closed { end } => now >= *end,
            Source::Open(schedule) => schedule.due().is_none(),
        }
    }

    /// When the next operation is due; `None` outside an open loop.
    pub(crate) fn due(&self) -> Option<u64> {
        match &self.source {
            Source::Open(schedule) => schedule.due(),
            _ => None,
        }
    }

    /// The next operation, if one is due.
    pub(crate) fn next(&mut self, now: u64) -> Option<Operation> {
        let intended = match &mut self.source {
            Source::Nothing => return None,
            Source::Preload { next } => {
                let key = *next;
                if key >= self.plan.keys {
                    return None;
                }
                *next += self.plan.threads as u64;
                return Some(self.operation(Kind::Update, Request::Put, key, now));
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
        let request = match kind {
            Kind::Read | Kind::ReadModifyWrite => Request::Get,
            Kind::Update | Kind::Insert => Request::Put,
            Kind::Scan => Request::Scan,
        };
        let key = match kind {
            Kind::Insert => self.inserts.take(),
            _ => self.keys.draw(&mut self.rng, &self.inserts),
        };
        Some(self.operation(kind, request, key, intended))
    }

    fn operation(&mut self, kind: Kind, request: Request, key: u64, intended: u64) -> Operation {
        let mark = match request {
            Request::Get => 0,
            Request::Put => self.new_mark(),
            Request::Scan => 1 + self.rng.below(SCAN_KEYS_MAX),
        };
        Operation { kind, request, key, mark, intended, sent: 0, request_sent: 0, redirects: 0 }
    }

    fn new_mark(&mut self) -> u64 {
        self.next_mark += 1;
        self.next_mark
    }

    /// Handles the reply to an operation.
    pub(crate) fn on_reply(&mut self, operation: Operation, reply: Reply<'_>, now: u64) -> Next {
        self.roll(now);
        match (operation.request, reply) {
            (_, Reply::Error(text)) => self.on_error(operation, text, now),
            (Request::Get, Reply::Value(value)) => self.on_value(operation, value, now),
            (Request::Put, Reply::Done) => {
                self.record(&operation, Outcome::Completed { at: now, found: None });
                self.succeeded(&operation, now);
                Next::Done
            }
            (Request::Scan, Reply::List(_)) => {
                self.succeeded(&operation, now);
                Next::Done
            }
            _ => self.failed(&operation, "corrupt", Outcome::Unknown),
        }
    }

    fn on_value(&mut self, mut operation: Operation, value: Option<&[u8]>, now: u64) -> Next {
        let mut found = None;
        if self.plan.verify || self.plan.history {
            found = value.and_then(|value| self.values.mark(value));
            if value.is_some() && found.is_none() {
                return self.failed(&operation, "corrupt", Outcome::Unknown);
            }
        }
        self.record(&operation, Outcome::Completed { at: now, found });
        if value.is_none() && self.is_measured(&operation, now) {
            self.stats.counts.not_found += 1;
        }
        if operation.kind == Kind::ReadModifyWrite {
            operation.request = Request::Put;
            operation.request_sent = 0;
            operation.mark = self.new_mark();
            return Next::Continue(operation);
        }
        self.succeeded(&operation, now);
        Next::Done
    }

    fn on_error(&mut self, mut operation: Operation, text: &[u8], now: u64) -> Next {
        let code = error_code(text);
        // Errors that clients retry by themselves: the command was not applied.
        let rejected =
            matches!(code, "MOVED" | "CLUSTERDOWN" | "TRYAGAIN" | "LOADING" | "READONLY");
        let preload = matches!(self.source, Source::Preload { .. });
        if code == "MOVED" && operation.redirects < REDIRECTS_MAX {
            operation.redirects += 1;
            if self.is_measured(&operation, now) {
                self.stats.counts.redirects += 1;
            }
            return Next::Retry(operation);
        }
        let outcome = if rejected { Outcome::Rejected } else { Outcome::Unknown };
        self.last_error = String::from_utf8_lossy(text).into_owned();
        self.failed(&operation, code, outcome);
        if preload {
            // Preloaded keys must exist: retry with a new mark.
            let retry = self.operation(operation.kind, Request::Put, operation.key, now);
            return Next::Retry(retry);
        }
        // UNAVAILABLE is etcd's error for having no leader; the request may have been applied.
        if rejected || code == "UNAVAILABLE" { Next::Pause } else { Next::Done }
    }

    /// Handles an operation that gets no reply, for a reason on the client's side.
    pub(crate) fn on_lost(&mut self, operation: &Operation, reason: &str, now: u64) -> Next {
        self.roll(now);
        let outcome =
            if operation.request_sent == 0 { Outcome::Rejected } else { Outcome::Unknown };
        self.failed(operation, reason, outcome);
        if matches!(self.source, Source::Preload { .. }) {
            let retry = self.operation(operation.kind, Request::Put, operation.key, now);
            return Next::Retry(retry);
        }
        Next::Done
    }

    fn succeeded(&mut self, operation: &Operation, now: u64) {
        self.last_success = now;
        if operation.kind == Kind::Insert {
            self.inserts.acknowledge();
        }
        if !self.is_measured(operation, now) {
            return;
        }
        let (stats, place) = (&mut self.stats, operation.kind.place());
        stats.counts.succeeded += 1;
        stats.last = stats.last.max(now);
        stats.service[place].saturating_record((now - operation.sent).max(1));
        if self.plan.rate.is_some() {
            stats.response[place].saturating_record((now - operation.intended).max(1));
            stats.lag.saturating_record((operation.sent - operation.intended).max(1));
        }
    }

    fn failed(&mut self, operation: &Operation, reason: &str, outcome: Outcome) -> Next {
        self.record(operation, outcome);
        if self.is_measured(operation, self.begin) {
            self.stats.fail(reason);
        }
        Next::Done
    }

    /// Whether an operation falls into the measured window: by its intended time in an open loop,
    /// by the time of its reply in a closed one.
    fn is_measured(&self, operation: &Operation, now: u64) -> bool {
        match self.plan.rate {
            Some(_) => operation.intended >= self.begin,
            None => now >= self.begin && self.number.is_some(),
        }
    }

    fn record(&mut self, operation: &Operation, outcome: Outcome) {
        if !self.plan.history {
            return;
        }
        let wrote = (operation.request == Request::Put).then_some(operation.mark);
        let called = operation.request_sent;
        self.history.push(Record { called, outcome, key: operation.key, wrote });
    }

    /// Takes the recorded history.
    pub(crate) fn take_history(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.history)
    }

    /// Closes the seconds that ended by `now`.
    pub(crate) fn roll(&mut self, now: u64) {
        while now >= self.second_end {
            self.close_second(self.second_end);
            self.number = Some(self.number.map_or(0, |number| number + 1));
            self.second_end += SECOND;
        }
    }

    /// Closes the current second, which may have just begun.
    pub(crate) fn close_second(&mut self, now: u64) {
        if let Source::Open(schedule) = &self.source {
            self.stats.backlog = schedule.backlog(now);
        }
        if let Some(number) = self.number {
            let stats = std::mem::replace(&mut self.stats, Stats::new());
            self.over.push((number, stats));
        } else {
            self.stats = Stats::new();
        }
    }

    /// Planned end of the measured window.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }
}

/// A duration in nanoseconds.
pub(crate) fn nanoseconds(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
