//! Generates one thread's operations and interprets the replies: which operation comes next, when
//! it is due, and what to do after its reply. The generator does no I/O; the engine calls it and
//! handles the sockets.

use std::sync::Arc;

use bowline::sim::rng::Rng;

use super::history::{Outcome, Record};
use super::keys::{Inserts, Keys, Values};
use super::options::Plan;
use super::reply::{Reply, error_code};
use super::resp;
use super::schedule::Schedule;
use super::stats::Stats;
use super::workload::Kind;

/// One operation of the load, such as a read or an insert, and its progress. All times are in
/// nanoseconds since the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    /// The operation's current request, which is to be sent or is waiting for its reply. A
    /// read-modify-write consists of a get and a put, and with `--wait-aof` a WAITAOF follows each
    /// put; other operations consist of one request.
    pub(crate) request: Request,
    pub(crate) key: u64,
    /// For a put, the unique number that identifies the value to write. For a scan, the number of
    /// keys to read. Otherwise unused.
    pub(crate) mark: u64,
    /// Time at which the operation should be sent according to the schedule of an open loop. In a
    /// closed loop, the time at which the operation was generated. In nanoseconds since the start
    /// of the run.
    pub(crate) intended: u64,
    /// Time at which the operation's first request was sent, in nanoseconds since the start of the
    /// run; 0 if it has not been sent.
    pub(crate) sent: u64,
    /// Time at which the operation's current request was sent, in nanoseconds since the start of
    /// the run; 0 if it has not been sent.
    pub(crate) request_sent: u64,
    /// Number of times that the operation has been redirected to another server.
    redirects: u8,
}

/// Kind of request that the load generator sends to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Get,
    Put,
    Scan,
    /// Redis's command WAITAOF, which waits until the preceding put is on disk.
    WaitAof,
}

/// What happens to an operation and its connection after a reply to the operation or a failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The operation is complete: it has succeeded or failed.
    Done,
    /// The operation has failed, because the server has no leader or is overloaded. The connection
    /// is paused for at most 50 ms.
    Pause,
    /// The given operation continues with its next request on the same connection: the put of a
    /// read-modify-write, or the WAITAOF after a put.
    Continue(Operation),
    /// The given operation must be sent again, to the current leader.
    Retry(Operation),
}

/// Where a load thread gets its operations from in the current phase of the run.
#[derive(Debug)]
enum Source {
    /// No operation is due: the preload or the load has not started yet, or the load has ended.
    Nothing,
    /// Preload: before the load, the thread writes each key of its share once. `next` is the number
    /// of the next key.
    Preload { next: u64 },
    /// Closed loop: an operation is due whenever a connection has capacity for it, until the time
    /// `end`, in nanoseconds since the start of the run.
    Closed { end: u64 },
    /// Open loop: operations are due at the times in the schedule.
    Open(Schedule),
}

/// Maximum number of redirects of an operation. At the next redirect, the operation fails.
const REDIRECTS_MAX: u8 = 16;
/// Maximum number of keys that a scan reads. The number is drawn uniformly from 1 to this maximum,
/// as in YCSB.
const SCAN_KEYS_MAX: u64 = 100;
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Generates the operations of one load thread, and counts their outcomes.
#[derive(Debug)]
pub(crate) struct Generator {
    plan: Arc<Plan>,
    thread: usize,
    inserts: Arc<Inserts>,
    rng: Rng,
    keys: Keys,
    pub(crate) values: Values,
    source: Source,
    /// Start of the measured window, in nanoseconds since the start of the run; `u64::MAX` until
    /// the load starts.
    begin: u64,
    /// Planned end of the measured window, in nanoseconds since the start of the run.
    end: u64,
    next_mark: u64,
    /// Statistics of the current second of the measured window.
    pub(crate) stats: Stats,
    /// End of the current second of the measured window, in nanoseconds since the start of the run.
    /// Before the window begins, this is the start of the window; before the load starts,
    /// `u64::MAX`.
    second_end: u64,
    number: Option<u64>,
    /// Completed seconds of the measured window that have not been sent to the main thread yet: the
    /// index of each second, from 0, and its statistics.
    pub(crate) over: Vec<(u64, Stats)>,
    /// Time at which the last successful reply arrived, in nanoseconds since the start of the run.
    pub(crate) last_success: u64,
    /// Latest error message from a server; empty if there has been none.
    pub(crate) last_error: String,
    history: Vec<Record>,
}

impl Generator {
    /// Creates the operation generator of load thread number `thread`. `run` is a number that
    /// identifies the run. It is part of every written value, so that different runs write
    /// different values.
    pub(crate) fn new(
        plan: &Arc<Plan>,
        thread: usize,
        run: u64,
        inserts: &Arc<Inserts>,
    ) -> Generator {
        let mut rng = Rng::new(plan.seed);
        // All threads encode values in the same way, because each may read values that another has
        // written.
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

    /// Starts the preload: [`Generator::next`] then returns one write for each key of this thread's
    /// share.
    pub(crate) fn start_preload(&mut self) {
        self.source = Source::Preload { next: self.thread as u64 };
    }

    /// Starts the load. The first operation is due at `first`, and the measured window begins at
    /// `begin`, both in nanoseconds since the start of the run.
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

    /// Ends the load at the time `now`. Operations of the measured window that were due but have
    /// not been sent are counted as unsent.
    pub(crate) fn stop(&mut self, now: u64) {
        self.roll(now);
        if let Source::Open(schedule) = self.source {
            self.stats.counts.unsent += schedule.unsent(self.begin, now);
        }
        self.source = Source::Nothing;
    }

    /// Returns whether the current phase of the run (preload or load) will generate no more
    /// operations.
    pub(crate) fn is_exhausted(&self, now: u64) -> bool {
        match &self.source {
            Source::Nothing => true,
            Source::Preload { next } => *next >= self.plan.keys,
            Source::Closed { end } => now >= *end,
            Source::Open(schedule) => schedule.due().is_none(),
        }
    }

    /// Returns the time at which the next operation of an open loop is due, in nanoseconds since
    /// the start of the run; `None` outside of an open loop, or if no operations are left.
    pub(crate) fn due(&self) -> Option<u64> {
        match &self.source {
            Source::Open(schedule) => schedule.due(),
            _ => None,
        }
    }

    /// Generates the next operation; returns `None` if no operation is due at the time `now`.
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
            Request::Get | Request::WaitAof => 0,
            Request::Put => self.new_mark(),
            Request::Scan => 1 + self.rng.below(SCAN_KEYS_MAX),
        };
        Operation { kind, request, key, mark, intended, sent: 0, request_sent: 0, redirects: 0 }
    }

    fn new_mark(&mut self) -> u64 {
        self.next_mark += 1;
        self.next_mark
    }

    /// Handles the reply to an operation's current request, received at the time `now`. Returns how
    /// the operation continues.
    pub(crate) fn on_reply(&mut self, operation: Operation, reply: Reply<'_>, now: u64) -> Next {
        self.roll(now);
        match (operation.request, reply) {
            (_, Reply::Error(text)) => self.on_error(operation, text, now),
            (Request::Get, Reply::Value(value)) => self.on_value(operation, value, now),
            (Request::Put, Reply::Done) if self.plan.wait_aof.is_some() => {
                // The WAITAOF is not sent together with the put: it makes replicas acknowledge at
                // once what they have already synced, and if that does not include the put, their
                // next acknowledgement follows up to a second later.
                Next::Continue(Operation {
                    request: Request::WaitAof,
                    request_sent: 0,
                    ..operation
                })
            }
            (Request::WaitAof, Reply::List(list)) => {
                if !resp::is_synced(list, self.plan.wait_aof.unwrap_or(0)) {
                    return self.failed(&operation, "WAITAOF", Outcome::Unknown);
                }
                self.succeeded(&operation, now);
                Next::Done
            }
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
        // These errors mean that the server has not applied the command, and ordinary clients retry
        // it.
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

    /// Handles an operation that will not receive a reply. `reason` is the error that the client
    /// detected, such as `timeout`. Returns how the operation continues.
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

    /// Returns whether the operation counts in the results. In an open loop it does if its
    /// scheduled time is in the measured window, in a closed loop if its reply arrived after the
    /// start of the window.
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

    /// Takes and returns the operations recorded for `--history`, leaving none.
    pub(crate) fn take_history(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.history)
    }

    /// Moves the statistics of each second of the measured window that has ended by the time `now`
    /// to `over`.
    pub(crate) fn roll(&mut self, now: u64) {
        while now >= self.second_end {
            self.close_second(self.second_end);
            self.number = Some(self.number.map_or(0, |number| number + 1));
            self.second_end += SECOND;
        }
    }

    /// Moves the statistics of the current second of the measured window to `over`, even if the
    /// second has not ended at the time `now`. Before the window, discards the statistics.
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

    /// Returns the planned end of the measured window, in nanoseconds since the start of the run.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }
}

/// Converts a duration to nanoseconds, at most `u64::MAX`.
pub(crate) fn nanoseconds(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
