//! One thread of the load generator: its connections, and the event loop that sends due requests
//! and reads replies. The submodule `replies` handles the replies.
//!
//! The engine shares the machine with the servers that it measures, so it is cheap by design: per
//! wake-up and connection it makes one read and one write, regardless of the number of requests; it
//! reads the clock once for each of these; and it allocates nothing per request. The clock is read
//! before a request is written and after a reply is read, so service times omit nothing.
//!
//! Finding the leader: each new connection sends `CLUSTER SLOTS`. A `MOVED` reply names the leader,
//! and every connection is then reopened to that leader as soon as it has no requests in flight.

mod replies;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::{Events, Poll, Token};

use super::connection::{Connection, Input, State};
use super::encoder::RequestEncoder;
use super::generator::{Generator, Next, Operation, Request, nanoseconds};
use super::history::Record;
use super::options::{Plan, Protocol};
use super::resp;
use super::timer::Timer;

/// Clock of a load run: counts nanoseconds since the start of the run. All threads share the same
/// start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Creates a clock that starts now.
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Returns the nanoseconds since the clock was started, plus 1, so that 0 can mean that no time
    /// has been recorded.
    pub(crate) fn now(self) -> u64 {
        nanoseconds(self.0.elapsed()) + 1
    }
}

/// Reason why a load run ended early, as text for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndedEarly(pub(crate) String);

/// An event during the run to be marked in charts, such as a leader change; `at` is in nanoseconds
/// since the start of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) at: u64,
    pub(crate) what: String,
}

/// Interval in nanoseconds at which a load thread checks timeouts, reconnects and the stop flag.
const HOUSEKEEPING_INTERVAL: u64 = 50_000_000;
/// Requests that are due within this time, in nanoseconds, are sent together. This delays a request
/// by at most 50 µs, but saves wake-ups at rates above ten thousand requests per second.
const TICK: u64 = 50_000;
/// Maximum time, in nanoseconds, to establish a connection. A shorter request timeout takes
/// precedence.
const CONNECT_TIMEOUT: u64 = 2_000_000_000;
/// Pause before a connection is reopened after its first failure, in nanoseconds. The pause doubles
/// with each further failure, up to `RETRY_PAUSE_MAX`.
const RETRY_PAUSE: u64 = 20_000_000;
const RETRY_PAUSE_MAX: u64 = 640_000_000;
const BUFFER_BYTES: usize = 256 << 10;
const TIMER: Token = Token(usize::MAX);
/// Minimum pipeline depth (requests in flight per connection) during the preload, which writes all
/// keys before the run.
const PRELOAD_PIPELINE: usize = 32;

/// One thread of the load generator: its source of operations, its connections and its event loop.
#[derive(Debug)]
pub(crate) struct Engine {
    plan: Arc<Plan>,
    pub(crate) generator: Generator,
    clock: Clock,
    stop: Arc<AtomicBool>,
    poll: Poll,
    events: Events,
    timer: Timer,
    connections: Vec<Connection>,
    /// Indexes of the connections that may have capacity for more requests, without duplicates.
    /// Some of these connections may have been closed since they were added.
    ready: VecDeque<usize>,
    /// Operations to be sent again, for example after a redirect. They take precedence over new
    /// operations.
    retries: VecDeque<Operation>,
    /// Indexes of the connections whose output buffers have new bytes, to be written to the sockets
    /// soon.
    dirty: Vec<usize>,
    requests: RequestEncoder,
    addresses: Vec<SocketAddr>,
    /// Index in `addresses` of the server that is believed to be the leader.
    leader: usize,
    /// Index in `addresses` of the leader to which a connection was last established; `None` before
    /// the first connection. A connection to a different leader is reported as a leader change.
    announced_leader: Option<usize>,
    pipeline: usize,
    buffer: Vec<u8>,
    next_housekeeping: u64,
    /// Reason for the latest connection failure, as text; empty if no connection has failed.
    last_failure: String,
    pub(crate) notices: Vec<Notice>,
}

impl Engine {
    /// Creates the state of one load thread, with its share of the run's connections, which are
    /// still closed.
    pub(crate) fn new(
        plan: &Arc<Plan>,
        generator: Generator,
        thread: usize,
        clock: Clock,
        stop: &Arc<AtomicBool>,
    ) -> anyhow::Result<Engine> {
        let poll = Poll::new().context("cannot create an epoll instance; check `ulimit -n`")?;
        let timer = Timer::new(poll.registry(), TIMER)
            .context("cannot create the timer for scheduled requests; check `ulimit -n`")?;
        let mine = (thread..plan.connections).step_by(plan.threads);
        let connections = mine
            .map(|number| {
                let address = if plan.follow { 0 } else { number % plan.sockets.len() };
                Connection::new(address, plan.pipeline)
            })
            .collect::<Vec<_>>();
        Ok(Engine {
            plan: Arc::clone(plan),
            generator,
            clock,
            stop: Arc::clone(stop),
            poll,
            events: Events::with_capacity(1024),
            timer,
            ready: VecDeque::with_capacity(connections.len()),
            connections,
            retries: VecDeque::new(),
            dirty: Vec::new(),
            requests: RequestEncoder::new(
                plan.key_bytes,
                plan.value_bytes,
                plan.wait,
                plan.wait_aof,
            ),
            addresses: plan.sockets.clone(),
            leader: 0,
            announced_leader: None,
            pipeline: plan.pipeline,
            buffer: vec![0; BUFFER_BYTES],
            next_housekeeping: 0,
            last_failure: String::new(),
            notices: Vec::new(),
        })
    }

    /// Opens all connections and, if the plan has a preload, writes this thread's share of the
    /// keys.
    ///
    /// # Errors
    /// If no successful reply arrives within `--give-up` seconds, or the run is interrupted.
    pub(crate) fn prepare(&mut self) -> anyhow::Result<()> {
        self.generator.last_success = self.clock.now();
        if self.plan.preload {
            self.generator.start_preload();
            self.pipeline = self.plan.pipeline.max(PRELOAD_PIPELINE);
        }
        loop {
            let now = self.poll_once()?;
            let up = self.connections.iter().all(|connection| connection.state == State::Up);
            if up && self.is_done(now) {
                break;
            }
            if let Some(EndedEarly(why)) = self.ended_early(now, !up) {
                anyhow::bail!("{why}");
            }
        }
        self.pipeline = self.plan.pipeline;
        Ok(())
    }

    /// Applies the load until the measured window ends. The first request is due at `first`, and
    /// the window begins at `begin`, both in nanoseconds since the start of the run. Calls `each`
    /// whenever at least one more second of the window has ended. If the run ended early, returns
    /// the reason; otherwise `None`.
    pub(crate) fn measure(
        &mut self,
        first: u64,
        begin: u64,
        mut each: impl FnMut(&mut Engine),
    ) -> anyhow::Result<Option<EndedEarly>> {
        // Nothing is due before `first`.
        let wait = first.saturating_sub(self.clock.now());
        std::thread::sleep(Duration::from_nanos(wait));
        self.generator.last_success = self.clock.now();
        self.generator.start(first, begin);
        for number in 0..self.connections.len() {
            self.enqueue_ready(number);
        }
        let last = self.generator.end() + nanoseconds(self.plan.timeout);
        let ended = loop {
            let now = self.poll_once()?;
            if !self.generator.over.is_empty() {
                each(self);
            }
            if self.is_done(now) && now >= self.generator.end() {
                break None;
            }
            if let Some(ended) = self.ended_early(now, false) {
                break Some(ended);
            }
            if now >= last {
                break None;
            }
        };
        let now = self.clock.now();
        self.generator.stop(now.min(self.generator.end()));
        for number in 0..self.connections.len() {
            self.connections[number].close(u64::MAX, |operation| {
                self.generator.on_lost(&operation, "timeout", now);
            });
        }
        for operation in std::mem::take(&mut self.retries) {
            self.generator.on_lost(&operation, "timeout", now);
        }
        self.generator.close_second(now);
        each(self);
        Ok(ended)
    }

    /// Takes and returns the operations recorded for `--history`, leaving none.
    pub(crate) fn take_history(&mut self) -> Vec<Record> {
        self.generator.take_history()
    }

    fn in_flight(&self) -> usize {
        self.connections.iter().map(|connection| connection.in_flight.len()).sum()
    }

    fn is_done(&self, now: u64) -> bool {
        self.generator.is_exhausted(now) && self.retries.is_empty() && self.in_flight() == 0
    }

    fn ended_early(&mut self, now: u64, waiting: bool) -> Option<EndedEarly> {
        if self.stop.load(Ordering::Relaxed) {
            return Some(EndedEarly("interrupted".to_owned()));
        }
        let due = self.generator.due().is_some_and(|due| due <= now);
        if !waiting && !due && self.retries.is_empty() && self.in_flight() == 0 {
            // If no operation was due, the lack of replies is no problem. In a closed loop an
            // operation is always due, so while all connections are down, the time without replies
            // counts towards `--give-up`.
            if self.connections.iter().any(|connection| connection.state == State::Up) {
                self.generator.last_success = now;
            }
        }
        let silent = now.saturating_sub(self.generator.last_success);
        if silent < nanoseconds(self.plan.give_up) {
            return None;
        }
        let said = [&self.last_failure, &self.generator.last_error];
        let said: Vec<&str> =
            said.into_iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        let said = if said.is_empty() { String::new() } else { format!(": {}", said.join("; ")) };
        Some(EndedEarly(format!(
            "no successful reply from {} for {:.1} s{said}",
            self.plan.addresses.join(", "),
            silent as f64 / 1e9
        )))
    }

    /// Waits for the first of: a socket event, the due time of the next request, and the next
    /// periodic check. Handles socket events. Returns the current time in nanoseconds since the
    /// start of the run.
    fn poll_once(&mut self) -> anyhow::Result<u64> {
        let now = self.clock.now();
        if let Some(due) = self.generator.due().filter(|_| !self.ready.is_empty()) {
            let moment = due.max(now + TICK);
            self.timer.set(moment, now).context("cannot set the timer for scheduled requests")?;
        }
        let wait = Duration::from_nanos(self.next_housekeeping.saturating_sub(now));
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(error).context("cannot wait for replies on the sockets (epoll_wait)");
            }
            _ => {}
        }
        for event in &events {
            if event.token() != TIMER {
                self.on_event(event.token().0, event.is_readable() || event.is_read_closed());
            }
        }
        self.events = events;
        let now = self.clock.now();
        self.dispatch(now);
        if now >= self.next_housekeeping {
            self.housekeeping(now);
        }
        Ok(now)
    }

    fn on_event(&mut self, number: usize, readable: bool) {
        let connection = &mut self.connections[number];
        if let State::Connecting { until } = connection.state {
            let is_connected = connection.is_connected();
            if let (Ok(true), Protocol::Redis, Some(login)) =
                (&is_connected, self.plan.protocol, &self.plan.login)
            {
                let mut request = Vec::new();
                let words: [&[u8]; 3] = [b"AUTH", login.user.as_bytes(), login.password.as_bytes()];
                resp::write_request(&mut request, &words);
                connection.push_bytes(&request);
                connection.is_logging_in = true;
            }
            match is_connected {
                Ok(true) if self.plan.protocol == Protocol::Etcd => {
                    let address = self.addresses[connection.address];
                    connection.start_http2(address.to_string());
                    self.mark_dirty(number);
                    self.on_up(number);
                }
                Ok(true) if self.plan.protocol == Protocol::Nats => {
                    connection.start_nats();
                    self.mark_dirty(number);
                    self.on_up(number);
                }
                Ok(true) if self.plan.follow => {
                    connection.state = State::FindingLeader { until };
                    let mut request = Vec::new();
                    resp::write_request(&mut request, &[b"CLUSTER", b"SLOTS"]);
                    connection.push_bytes(&request);
                }
                Ok(true) => self.on_up(number),
                Ok(false) => return,
                Err(error) => return self.on_failure(number, &error.to_string()),
            }
        }
        let connection = &mut self.connections[number];
        if connection.has_unsent_bytes()
            && let Err(error) = connection.flush(self.clock.now())
        {
            return self.on_failure(number, &error.to_string());
        }
        if readable {
            self.read(number);
        }
    }

    fn read(&mut self, number: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            let connection = &mut self.connections[number];
            let kept = connection.partial.len();
            if buffer.len() < kept + BUFFER_BYTES / 2 {
                buffer.resize(2 * (kept + BUFFER_BYTES), 0);
            }
            let count = match connection.read(&mut buffer[kept..]) {
                Input::Bytes(count) => count,
                Input::Nothing => break,
                Input::End => {
                    self.on_failure(number, "the server closed the connection");
                    break;
                }
            };
            buffer[..kept].copy_from_slice(&connection.partial);
            connection.partial.clear();
            let now = self.clock.now();
            if !self.on_bytes(number, &buffer[..kept + count], now) || kept + count < buffer.len() {
                // The read did not fill the buffer, so the socket is empty, and the next byte that
                // it receives wakes the poll.
                break;
            }
        }
        self.buffer = buffer;
        // Dispatched before the other connections are read, because a closed loop sends its next
        // request as soon as it has a reply.
        let now = self.clock.now();
        self.dispatch(now);
    }

    fn on_up(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        connection.state = State::Up;
        connection.failures = 0;
        if connection.was_up {
            self.generator.stats.counts.reconnects += 1;
        }
        connection.was_up = true;
        let address = connection.address;
        if self.plan.follow && self.announced_leader != Some(address) {
            // The change is announced only now, because the leader is known to be reachable.
            if self.announced_leader.is_some() {
                self.note(self.clock.now(), format!("{} is leader", self.addresses[address]));
            }
            self.announced_leader = Some(address);
        }
        self.enqueue_ready(number);
    }

    /// Records that the server `leader` is believed to be the leader. Connections to other servers
    /// are then gradually replaced with connections to it. Does nothing with `--no-follow`.
    fn follow(&mut self, leader: SocketAddr) {
        if !self.plan.follow || self.addresses[self.leader] == leader {
            return;
        }
        let known = self.addresses.iter().position(|&address| address == leader);
        self.leader = known.unwrap_or_else(|| {
            self.addresses.push(leader);
            self.addresses.len() - 1
        });
    }

    /// Closes connection `number` if its server is not the leader and it has no requests in flight,
    /// so that it is reopened to the leader. Returns whether it was closed.
    fn leave_old_leader(&mut self, number: usize) -> bool {
        let connection = &mut self.connections[number];
        let wrong = self.plan.follow && connection.address != self.leader;
        if !wrong || connection.state != State::Up || !connection.in_flight.is_empty() {
            return false;
        }
        connection.close(0, |_| unreachable!("nothing is in flight"));
        self.next_housekeeping = 0;
        true
    }

    fn on_failure(&mut self, number: usize, why: &str) {
        let address = self.addresses[self.connections[number].address];
        self.last_failure = format!("{address}: {why}");
        self.drop_connection(number, "connection");
    }

    fn drop_connection(&mut self, number: usize, reason: &str) {
        let now = self.clock.now();
        let connection = &mut self.connections[number];
        let address = connection.address;
        let pause = (RETRY_PAUSE << connection.failures.min(5)).min(RETRY_PAUSE_MAX);
        connection.failures += 1;
        let was_up = connection.state == State::Up;
        let (generator, retries) = (&mut self.generator, &mut self.retries);
        connection.close(now + pause, |operation| {
            // A WAITAOF cannot move to another connection, because it waits only for earlier writes
            // on its own connection.
            if operation.request_sent == 0 && operation.request != Request::WaitAof {
                retries.push_back(operation);
            } else if let Next::Retry(operation) = generator.on_lost(&operation, reason, now) {
                retries.push_back(operation);
            }
        });
        if self.plan.follow && address == self.leader {
            self.leader = (address + 1) % self.addresses.len();
        } else if !self.plan.follow {
            connection.address = (address + 1) % self.addresses.len();
        }
        if was_up {
            self.note(now, format!("connections to {} lost", self.addresses[address]));
        }
    }

    /// Records an event to be marked in charts: `what` happened at the time `at`. Ignores it if the
    /// same event was recorded within the last second.
    fn note(&mut self, at: u64, what: String) {
        const REPEAT_AFTER: u64 = 1_000_000_000;
        let last = self.notices.iter().rev().find(|notices| notices.what == what);
        if last.is_none_or(|last| at.saturating_sub(last.at) > REPEAT_AFTER) {
            self.notices.push(Notice { at, what });
        }
    }

    fn has_capacity(&self, number: usize) -> bool {
        let connection = &self.connections[number];
        connection.state == State::Up
            && !connection.paused
            && connection.in_flight.len() < self.pipeline
            && (!self.plan.follow || connection.address == self.leader)
    }

    fn enqueue_ready(&mut self, number: usize) {
        if !self.connections[number].queued && self.has_capacity(number) {
            self.connections[number].queued = true;
            self.ready.push_back(number);
        }
    }

    fn mark_dirty(&mut self, number: usize) {
        if !self.connections[number].dirty {
            self.connections[number].dirty = true;
            self.dirty.push(number);
        }
    }

    /// Assigns due operations to connections with capacity for more requests, and writes the
    /// requests to the sockets.
    fn dispatch(&mut self, now: u64) {
        while let Some(&number) = self.ready.front() {
            if !self.has_capacity(number) {
                self.connections[number].queued = false;
                self.ready.pop_front();
                continue;
            }
            let Some(operation) = self.retries.pop_front().or_else(|| self.generator.next(now))
            else {
                break;
            };
            self.connections[number].push(operation, &self.requests, &self.generator.values);
            self.mark_dirty(number);
            if self.plan.rate.is_some() {
                // Round robin, as if each connection belonged to a different user.
                self.ready.rotate_left(1);
            }
        }
        while let Some(number) = self.dirty.pop() {
            let connection = &mut self.connections[number];
            connection.dirty = false;
            if let Err(error) = connection.flush(self.clock.now()) {
                self.on_failure(number, &error.to_string());
            }
        }
    }

    /// Performs periodic work, at least every 50 ms: handles timeouts, opens closed connections,
    /// and resumes paused connections.
    fn housekeeping(&mut self, now: u64) {
        self.next_housekeeping = now + HOUSEKEEPING_INTERVAL;
        self.generator.roll(now);
        let timeout = nanoseconds(self.plan.timeout);
        for number in 0..self.connections.len() {
            let connection = &mut self.connections[number];
            connection.paused = false;
            match connection.state {
                State::Down { retry_at } if retry_at <= now => self.open(number, now),
                State::Down { retry_at } => {
                    self.next_housekeeping = self.next_housekeeping.min(retry_at);
                }
                State::Connecting { until } | State::FindingLeader { until } if until <= now => {
                    self.on_failure(number, "timed out while connecting");
                }
                State::Up => {
                    let first = connection.in_flight.front();
                    let late = |operation: &Operation| {
                        operation.request_sent > 0 && operation.request_sent + timeout <= now
                    };
                    if first.is_some_and(late) {
                        // The first operation in flight has timed out. Operations are in the order
                        // in which their requests were written, so all others count as lost too.
                        self.last_failure = format!(
                            "{}: request timed out",
                            self.addresses[self.connections[number].address]
                        );
                        self.drop_connection(number, "timeout");
                    } else {
                        self.leave_old_leader(number);
                        self.enqueue_ready(number);
                    }
                }
                _ => {}
            }
        }
        self.dispatch(now);
    }

    fn open(&mut self, number: usize, now: u64) {
        let connection = &mut self.connections[number];
        if self.plan.follow {
            connection.address = self.leader;
        }
        let socket = self.addresses[connection.address];
        let until = now + CONNECT_TIMEOUT.min(nanoseconds(self.plan.timeout));
        if let Err(error) = connection.open(socket, self.poll.registry(), Token(number), until) {
            self.on_failure(number, &error.to_string());
        }
    }
}
