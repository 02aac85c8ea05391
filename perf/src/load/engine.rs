//! One thread of the load generator: a poll, its connections, and the loop that sends what is due
//! and reads what is answered.
//!
//! Cheap by design, as it shares the machine with the servers it measures: one read and one write
//! a connection and wake-up however many requests that holds, one clock reading for each, no
//! allocation a request. The moment of an answer is read after its bytes, that of a request before
//! them, so that service times leave nothing out.
//!
//! Followed leaders: each new connection asks `CLUSTER SLOTS`, and `MOVED` takes all connections to
//! the leader it names, each once what it had under way is answered.

use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::{Events, Poll, Token};

use super::answer::Answer;
use super::connection::{Connection, Input, State};
use super::etcd;
use super::history::Record;
use super::options::{Plan, Protocol};
use super::requests::Requests;
use super::resp;
use super::timer::Timer;
use super::work::{Next, Operation, Step, Work, nanoseconds};

/// Moments in nanoseconds since the program began, the same for all threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    /// The present moment; never 0, which stands for none.
    pub(crate) fn now(self) -> u64 {
        nanoseconds(self.0.elapsed()) + 1
    }
}

/// Why a run ended before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndedEarly(pub(crate) String);

/// Something worth a mark in a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) at: u64,
    pub(crate) what: String,
}

/// Between looks at timeouts, connections to be opened, and the stop flag.
const LOOK_INTERVAL: u64 = 50_000_000;
/// Requests due within this are sent together; costs so much lateness at most, and saves a
/// wake-up each at rates of ten thousands.
const TICK: u64 = 50_000;
/// How long opening a connection may take.
const CONNECT_PATIENCE: u64 = 2_000_000_000;
/// First pause before a connection is opened again; doubled each time.
const RETRY_PAUSE: u64 = 20_000_000;
const RETRY_PAUSE_MAX: u64 = 640_000_000;
const BUFFER_BYTES: usize = 256 << 10;
const TIMER: Token = Token(usize::MAX);
/// Depth of the preload, whatever the run's is.
const PRELOAD_PIPELINE: usize = 32;

/// One thread.
#[derive(Debug)]
pub(crate) struct Engine {
    plan: Arc<Plan>,
    pub(crate) work: Work,
    clock: Clock,
    stop: Arc<AtomicBool>,
    poll: Poll,
    events: Events,
    timer: Timer,
    connections: Vec<Connection>,
    /// Connections with room, each once. May hold some that went down meanwhile.
    ready: VecDeque<usize>,
    /// To be sent again, before anything new.
    again: VecDeque<Operation>,
    /// Connections with something to send.
    dirty: Vec<usize>,
    requests: Requests,
    addresses: Vec<SocketAddr>,
    /// Which of them leads, as far as we know.
    leader: usize,
    /// Who led when a connection last came up.
    led: Option<usize>,
    pipeline: usize,
    buffer: Vec<u8>,
    next_look: u64,
    /// Why the last connection failed.
    last_failure: String,
    pub(crate) noted: Vec<Noted>,
}

impl Engine {
    /// With this thread's share of the connections; none is open yet.
    pub(crate) fn new(
        plan: &Arc<Plan>,
        work: Work,
        thread: usize,
        clock: Clock,
        stop: &Arc<AtomicBool>,
    ) -> anyhow::Result<Engine> {
        let poll = Poll::new().context("can't wait for sockets")?;
        let timer = Timer::new(poll.registry(), TIMER).context("can't have a timer")?;
        let mine = (thread..plan.connections).step_by(plan.threads);
        let connections = mine
            .map(|number| {
                let address = if plan.follow { 0 } else { number % plan.sockets.len() };
                Connection::new(address, plan.pipeline)
            })
            .collect::<Vec<_>>();
        Ok(Engine {
            plan: Arc::clone(plan),
            work,
            clock,
            stop: Arc::clone(stop),
            poll,
            events: Events::with_capacity(1024),
            timer,
            ready: VecDeque::with_capacity(connections.len()),
            connections,
            again: VecDeque::new(),
            dirty: Vec::new(),
            requests: Requests::new(plan.key_bytes, plan.value_bytes, plan.wait),
            addresses: plan.sockets.clone(),
            leader: 0,
            led: None,
            pipeline: plan.pipeline,
            buffer: vec![0; BUFFER_BYTES],
            next_look: 0,
            last_failure: String::new(),
            noted: Vec::new(),
        })
    }

    /// Opens all connections, and writes all keys if that is planned.
    pub(crate) fn prepare(&mut self) -> anyhow::Result<()> {
        self.work.last_success = self.clock.now();
        if self.plan.preload {
            self.work.start_preload();
            self.pipeline = self.plan.pipeline.max(PRELOAD_PIPELINE);
        }
        loop {
            let now = self.turn()?;
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

    /// Does what is measured: from `first` on, with the window from `begin`. `each` is called with
    /// every second that is over.
    pub(crate) fn measure(
        &mut self,
        first: u64,
        begin: u64,
        mut each: impl FnMut(&mut Engine),
    ) -> anyhow::Result<Option<EndedEarly>> {
        // Asleep until then: what is due is due from `first` on only.
        let wait = first.saturating_sub(self.clock.now());
        std::thread::sleep(Duration::from_nanos(wait));
        self.work.last_success = self.clock.now();
        self.work.start(first, begin);
        for number in 0..self.connections.len() {
            self.make_ready(number);
        }
        let last = self.work.end() + nanoseconds(self.plan.timeout);
        let ended = loop {
            let now = self.turn()?;
            if !self.work.over.is_empty() {
                each(self);
            }
            if self.is_done(now) && now >= self.work.end() {
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
        self.work.stop(now.min(self.work.end()));
        for number in 0..self.connections.len() {
            self.connections[number].close(u64::MAX, |operation| {
                self.work.lost(&operation, "timeout", now);
            });
        }
        for operation in std::mem::take(&mut self.again) {
            self.work.lost(&operation, "timeout", now);
        }
        self.work.close_second(now);
        each(self);
        Ok(ended)
    }

    /// What was recorded.
    pub(crate) fn take_history(&mut self) -> Vec<Record> {
        self.work.take_history()
    }

    fn in_flight(&self) -> usize {
        self.connections.iter().map(|connection| connection.in_flight.len()).sum()
    }

    fn is_done(&self, now: u64) -> bool {
        self.work.is_exhausted(now) && self.again.is_empty() && self.in_flight() == 0
    }

    fn ended_early(&mut self, now: u64, waiting: bool) -> Option<EndedEarly> {
        if self.stop.load(Ordering::Relaxed) {
            return Some(EndedEarly("interrupted".to_owned()));
        }
        let due = self.work.due().is_some_and(|due| due <= now);
        if !waiting && !due && self.again.is_empty() && self.in_flight() == 0 {
            // Nothing is wanted, so nothing is missing. In a closed loop something always is,
            // but while all connections are down: then nothing good comes either.
            if self.connections.iter().any(|connection| connection.state == State::Up) {
                self.work.last_success = now;
            }
        }
        let silent = now.saturating_sub(self.work.last_success);
        if silent < nanoseconds(self.plan.give_up) {
            return None;
        }
        let said = [&self.last_failure, &self.work.last_error];
        let said: Vec<&str> =
            said.into_iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        let said = if said.is_empty() { String::new() } else { format!(": {}", said.join("; ")) };
        Some(EndedEarly(format!(
            "no good answer from {} for {:.1} s{said}",
            self.plan.addresses.join(", "),
            silent as f64 / 1e9
        )))
    }

    /// Waits for whatever comes next and deals with it.
    fn turn(&mut self) -> anyhow::Result<u64> {
        let now = self.clock.now();
        if let Some(due) = self.work.due().filter(|_| !self.ready.is_empty()) {
            let moment = due.max(now + TICK);
            self.timer.set(moment, now).context("can't set a timer")?;
        }
        let wait = Duration::from_nanos(self.next_look.saturating_sub(now));
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(error).context("can't wait for sockets");
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
        self.fill(now);
        if now >= self.next_look {
            self.look(now);
        }
        Ok(now)
    }

    fn on_event(&mut self, number: usize, readable: bool) {
        let connection = &mut self.connections[number];
        if let State::Connecting { until } = connection.state {
            match connection.is_connected() {
                Ok(true) if self.plan.protocol == Protocol::Etcd => {
                    let address = self.addresses[connection.address];
                    connection.start_http2(address.to_string());
                    self.make_dirty(number);
                    self.on_up(number);
                }
                Ok(true) if self.plan.follow => {
                    connection.state = State::Asking { until };
                    let mut greeting = Vec::new();
                    resp::write_request(&mut greeting, &[b"CLUSTER", b"SLOTS"]);
                    connection.greet(&greeting);
                }
                Ok(true) => self.on_up(number),
                Ok(false) => return,
                Err(error) => return self.on_failure(number, &error.to_string()),
            }
        }
        let connection = &mut self.connections[number];
        if connection.is_stuck()
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
                Input::Some(count) => count,
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
                // Less than there was room for: the socket is empty, and its next byte wakes us.
                break;
            }
        }
        self.buffer = buffer;
        // At once, and not after all other connections were read: a closed loop asks again when it
        // is answered.
        let now = self.clock.now();
        self.fill(now);
    }

    /// Takes answers from `bytes` and keeps the rest. False if the connection is down now.
    fn on_bytes(&mut self, number: usize, bytes: &[u8], now: u64) -> bool {
        if self.plan.protocol == Protocol::Etcd {
            return self.on_frames(number, bytes, now);
        }
        let mut at = 0;
        loop {
            let next = self.connections[number].in_flight.front();
            let wait = self.plan.wait.filter(|_| next.is_some_and(|it| it.step == Step::Put));
            let read = match wait {
                Some(replicas) => resp::read_waited(&bytes[at..], replicas),
                None => resp::read(&bytes[at..]),
            };
            match read {
                Ok(Some((answer, length))) => {
                    at += length;
                    if !self.on_answer(number, answer, now) {
                        return false;
                    }
                }
                Ok(None) => break,
                Err(resp::Broken) => {
                    self.on_failure(number, "what came is not the Redis protocol");
                    return false;
                }
            }
        }
        self.connections[number].partial.extend_from_slice(&bytes[at..]);
        self.make_ready(number);
        !self.retire(number)
    }

    /// The same for HTTP/2, where answers come in any order.
    fn on_frames(&mut self, number: usize, bytes: &[u8], now: u64) -> bool {
        let mut at = 0;
        loop {
            let connection = &mut self.connections[number];
            let ended = match connection.read_frame(&bytes[at..]) {
                Ok(Some((length, ended))) => {
                    at += length;
                    ended
                }
                Ok(None) => break,
                Err(resp::Broken) => {
                    self.on_failure(number, "what came is not HTTP/2, or its end");
                    return false;
                }
            };
            let Some(ended) = ended else { continue };
            let step = connection.in_flight.get(ended.place).map(|operation| operation.step);
            match &ended.result {
                Ok(message) => {
                    // What makes no sense is of the wrong kind for any operation.
                    let answer = step.and_then(|step| etcd::answer(step, message));
                    let answer = answer.unwrap_or(Answer::Damaged);
                    self.on_answer_at(number, ended.place, answer, now);
                }
                Err(text) => {
                    self.on_answer_at(number, ended.place, Answer::Error(text.as_bytes()), now);
                }
            }
            if let (Ok(message), Some(http2)) = (ended.result, &mut self.connections[number].http2)
            {
                http2.recycle(message);
            }
        }
        self.connections[number].partial.extend_from_slice(&bytes[at..]);
        // Acknowledgements, too, which nobody waits for.
        self.make_dirty(number);
        self.make_ready(number);
        !self.retire(number)
    }

    /// False if the connection is down now.
    fn on_answer(&mut self, number: usize, answer: Answer<'_>, now: u64) -> bool {
        let connection = &mut self.connections[number];
        if let State::Asking { .. } = connection.state {
            return self.on_slots(number, answer);
        }
        if connection.in_flight.is_empty() {
            self.on_failure(number, "an answer came that nobody had asked for");
            return false;
        }
        self.on_answer_at(number, 0, answer, now);
        true
    }

    /// The answer to the operation at `place` among those under way on the connection.
    fn on_answer_at(&mut self, number: usize, place: usize, answer: Answer<'_>, now: u64) {
        let connection = &mut self.connections[number];
        let Some(operation) = connection.in_flight.remove(place) else { return };
        match self.work.answered(operation, answer, now) {
            Next::Over => {}
            Next::Pause => connection.paused = self.plan.rate.is_none(),
            Next::Step(operation) => {
                connection.push(operation, &self.requests, &self.work.values);
                self.make_dirty(number);
            }
            Next::Moved(operation) => {
                self.again.push_back(operation);
                if let Answer::Error(text) = answer
                    && let Some(leader) = moved_to(text)
                {
                    self.follow(leader);
                }
            }
        }
    }

    /// The answer to who leads. False if the connection is down now.
    fn on_slots(&mut self, number: usize, answer: Answer<'_>) -> bool {
        let asked = self.addresses[self.connections[number].address];
        let now = self.clock.now();
        match answer {
            Answer::List(list) => {
                let Some(leader) = leader_of(list, asked) else {
                    self.on_failure(number, "no replica leads");
                    return false;
                };
                self.follow(leader);
                let connection = &mut self.connections[number];
                if connection.address != self.leader {
                    // Not at once: a follower names a leader that is gone until there is another.
                    connection.close(now + RETRY_PAUSE, |_| unreachable!("nothing is under way"));
                    return false;
                }
                self.on_up(number);
                true
            }
            Answer::Error(text) if text.starts_with(b"CLUSTERDOWN") => {
                self.on_failure(number, "no replica leads");
                false
            }
            // A server that is no cluster.
            _ => {
                self.on_up(number);
                true
            }
        }
    }

    fn on_up(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        connection.state = State::Up;
        connection.failures = 0;
        if connection.was_up {
            self.work.tally.counts.reconnects += 1;
        }
        connection.was_up = true;
        let address = connection.address;
        if self.plan.follow && self.led != Some(address) {
            // Only now is it sure that it is there.
            if self.led.is_some() {
                self.note(self.clock.now(), format!("{} leads", self.addresses[address]));
            }
            self.led = Some(address);
        }
        self.make_ready(number);
    }

    /// All connections shall go to `leader` from now on.
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

    /// Closes the connection if it goes to somebody who does not lead and has nothing under way,
    /// to open it to the leader.
    fn retire(&mut self, number: usize) -> bool {
        let connection = &mut self.connections[number];
        let wrong = self.plan.follow && connection.address != self.leader;
        if !wrong || connection.state != State::Up || !connection.in_flight.is_empty() {
            return false;
        }
        connection.close(0, |_| unreachable!("nothing is under way"));
        self.next_look = 0;
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
        let (work, again) = (&mut self.work, &mut self.again);
        connection.close(now + pause, |operation| {
            if operation.step_sent == 0 {
                again.push_back(operation);
            } else if let Next::Moved(operation) = work.lost(&operation, reason, now) {
                again.push_back(operation);
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

    /// Notes what happened, unless that was just said.
    fn note(&mut self, at: u64, what: String) {
        const SAME_AGAIN_AFTER: u64 = 1_000_000_000;
        let last = self.noted.iter().rev().find(|noted| noted.what == what);
        if last.is_none_or(|last| at.saturating_sub(last.at) > SAME_AGAIN_AFTER) {
            self.noted.push(Noted { at, what });
        }
    }

    fn has_room(&self, number: usize) -> bool {
        let connection = &self.connections[number];
        connection.state == State::Up
            && !connection.paused
            && connection.in_flight.len() < self.pipeline
            && (!self.plan.follow || connection.address == self.leader)
    }

    fn make_ready(&mut self, number: usize) {
        if !self.connections[number].queued && self.has_room(number) {
            self.connections[number].queued = true;
            self.ready.push_back(number);
        }
    }

    fn make_dirty(&mut self, number: usize) {
        if !self.connections[number].dirty {
            self.connections[number].dirty = true;
            self.dirty.push(number);
        }
    }

    /// Gives operations to connections with room, and sends them.
    fn fill(&mut self, now: u64) {
        while let Some(&number) = self.ready.front() {
            if !self.has_room(number) {
                self.connections[number].queued = false;
                self.ready.pop_front();
                continue;
            }
            let Some(operation) = self.again.pop_front().or_else(|| self.work.next(now)) else {
                break;
            };
            self.connections[number].push(operation, &self.requests, &self.work.values);
            self.make_dirty(number);
            if self.plan.rate.is_some() {
                // One each in turn, as if they came from as many users.
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

    /// What has to be looked at now and then.
    fn look(&mut self, now: u64) {
        self.next_look = now + LOOK_INTERVAL;
        self.work.roll(now);
        let timeout = nanoseconds(self.plan.timeout);
        for number in 0..self.connections.len() {
            let connection = &mut self.connections[number];
            connection.paused = false;
            match connection.state {
                State::Down { retry_at } if retry_at <= now => self.open(number, now),
                State::Down { retry_at } => self.next_look = self.next_look.min(retry_at),
                State::Connecting { until } | State::Asking { until } if until <= now => {
                    self.on_failure(number, "no connection in time");
                }
                State::Up => {
                    let first = connection.in_flight.front();
                    let late = |operation: &Operation| {
                        operation.step_sent > 0 && operation.step_sent + timeout <= now
                    };
                    if first.is_some_and(late) {
                        // Answers come in order: those behind it wait for as long.
                        self.last_failure = format!(
                            "{}: no answer in time",
                            self.addresses[self.connections[number].address]
                        );
                        self.drop_connection(number, "timeout");
                    } else {
                        self.retire(number);
                        self.make_ready(number);
                    }
                }
                _ => {}
            }
        }
        self.fill(now);
    }

    fn open(&mut self, number: usize, now: u64) {
        let connection = &mut self.connections[number];
        if self.plan.follow {
            connection.address = self.leader;
        }
        let socket = self.addresses[connection.address];
        let until = now + CONNECT_PATIENCE.min(nanoseconds(self.plan.timeout));
        if let Err(error) = connection.open(socket, self.poll.registry(), Token(number), until) {
            self.on_failure(number, &error.to_string());
        }
    }
}

/// The address in `MOVED slot host:port`.
fn moved_to(text: &[u8]) -> Option<SocketAddr> {
    let address = std::str::from_utf8(text).ok()?.split(' ').nth(2)?;
    address.to_socket_addrs().ok()?.next()
}

/// The first slot range's master in an answer to `CLUSTER SLOTS`; no host means that of whom was
/// asked.
fn leader_of(list: &[u8], asked: SocketAddr) -> Option<SocketAddr> {
    let Some(Answer::List(range)) = resp::parts(list)?.first().copied() else { return None };
    let Some(Answer::List(node)) = resp::parts(range)?.get(2).copied() else { return None };
    let node = resp::parts(node)?;
    let text = |place: usize| match node.get(place) {
        Some(Answer::Value(Some(text))) => std::str::from_utf8(text).ok(),
        _ => None,
    };
    let port: u16 = text(1)?.parse().ok()?;
    match text(0) {
        None | Some("" | "?") => Some(SocketAddr::new(asked.ip(), port)),
        Some(host) => (host, port).to_socket_addrs().ok()?.next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_are_read_from_what_servers_say() {
        let asked: SocketAddr = "127.0.0.1:7001".parse().unwrap();
        let other: SocketAddr = "127.0.0.1:7002".parse().unwrap();
        assert_eq!(moved_to(b"MOVED 12182 127.0.0.1:7002"), Some(other));
        assert_eq!(moved_to(b"MOVED 12182"), None);
        let slots =
            |host: &str| format!("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n{host}:7002\r\n$2\r\nid\r\n");
        assert_eq!(leader_of(slots("$9\r\n127.0.0.1\r\n").as_bytes(), asked), Some(other));
        assert_eq!(leader_of(slots("$-1\r\n").as_bytes(), asked), Some(other));
        assert_eq!(leader_of(b"*0\r\n", asked), None);
        assert_eq!(leader_of(b"*1\r\n:0\r\n", asked), None);
    }
}
