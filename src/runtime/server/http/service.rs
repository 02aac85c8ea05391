//! The HTTP thread: accepts connections, answers requests, and asks the network stage. It blocks
//! only in `Poll`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::Receiver;
use mio::{Events, Poll, Token, Waker};

use crate::redis::Unready;
use crate::runtime::clock::Clock;
use crate::runtime::server::sockets::listener::Listener;
use crate::runtime::server::sockets::slab::Slab;
use crate::runtime::server::sockets::socket::Socket;
use crate::types::Instant;
use crate::wire::http::Status;

use super::connection::{Connection, State, Step, TimeLimits};
use super::exchange::{Answer, Asked, Question, Serving, Shared};
use super::metrics::{HttpCounts, Source, encode, samples_as_json};
use super::pages::{Content, PAGES, Page, warning};
use super::report::Report;

const WAKER: Token = Token(0);
const LISTENER: Token = Token(1);
/// `Poll` token of the first connection slot; later slots have the following tokens.
const CONNECTIONS_FROM: usize = 2;
/// Maximum number of connections. When another client connects, the longest-idle connection is
/// closed; if none is idle, the new connection is.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Number of file descriptors that the thread may use.
pub(crate) const DESCRIPTORS: u64 = CONNECTIONS_MAX as u64 + 6;
/// Maximum number of connections to accept per pass.
const ACCEPTED_MAX: usize = 16;
/// The thread wakes up at least this often.
const WAKE_INTERVAL: Duration = Duration::from_millis(500);
/// Polling interval while the thread waits for the Raft core to publish its status.
const CORE_INTERVAL: Duration = Duration::from_millis(2);
/// Time limit for the answer of the network stage or the Raft core.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// Time limit for the network stage's answer about readiness. It is longer than that stage's own
/// time limit for finding out.
const READINESS_TIME: Duration = Duration::from_secs(2);
/// Minimum interval between two reports. It bounds the network stage's work under a flood of
/// requests.
const REPORT_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum number of event streams. A further one is refused, so event streams cannot use up the
/// connections that probes and scrapes need.
pub(super) const STREAMS_MAX: usize = 16;
/// Interval between the events of a stream. All streams get their events at the same time, from the
/// same report.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// A pass of the applier that takes longer than this makes `/livez` fail. Long operations of
/// clients must fit into it.
const APPLIER_PASS_MAX: Duration = Duration::from_secs(10);
/// Size in bytes of the receive buffer, which all connections share.
const SPACE_BYTES: usize = 8 << 10;

/// State of the HTTP thread.
pub(super) struct Service {
    poll: Poll,
    listener: Listener,
    clock: Clock,
    shared: Arc<Shared>,
    answers: Receiver<Answer>,
    connections: Slab<Connection>,
    limits: TimeLimits,
    /// Indexes of connections to advance in the next pass, even without a socket event.
    to_advance: Vec<usize>,
    space: Vec<u8>,
    reports: Asked,
    readiness: Asked,
    liveness: Asked,
    /// Number of times that the Raft core had published its status when the unanswered liveness
    /// question was asked.
    published_before: u64,
    /// Whether the network stage has answered the liveness question, and the Raft core has not
    /// published its status since.
    network_is_alive: bool,
    counts: HttpCounts,
}

impl Service {
    pub(super) fn new(
        mut listener: Listener,
        limits: TimeLimits,
    ) -> io::Result<(Service, Arc<Shared>)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        listener.register(poll.registry(), LISTENER)?;
        let (shared, answers) = Shared::new(waker);
        let shared = Arc::new(shared);
        let service = Service {
            poll,
            listener,
            clock: Clock::start(),
            shared: Arc::clone(&shared),
            answers,
            connections: Slab::default(),
            limits,
            to_advance: Vec::new(),
            space: vec![0; SPACE_BYTES],
            reports: Asked::default(),
            readiness: Asked::default(),
            liveness: Asked::default(),
            published_before: 0,
            network_is_alive: false,
            counts: HttpCounts::default(),
        };
        Ok((service, shared))
    }

    /// Serves HTTP requests until the server stops.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(2 * CONNECTIONS_MAX);
        while !self.shared.is_stopping.load(Ordering::Acquire) {
            let timeout = self.timeout();
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "cannot poll HTTP sockets, stopping metrics and probes");
                return;
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    LISTENER => self.listener.on_event(),
                    Token(token) => {
                        let index = token - CONNECTIONS_FROM;
                        if let Some(connection) = self.connections.get_mut(index) {
                            connection.socket.on_event(event);
                            self.to_advance.push(index);
                        }
                    }
                }
            }
            self.run_once();
        }
    }

    /// Runs one pass: does everything that is possible without blocking.
    fn run_once(&mut self) {
        let now = self.clock.now();
        // Before new requests are read: earlier questions must not serve them.
        self.receive_answers(now);
        self.accept(now);
        for index in std::mem::take(&mut self.to_advance) {
            self.advance(index, now);
        }
        self.expire(now);
        self.ask(now);
    }

    /// Returns how long the thread may sleep.
    fn timeout(&mut self) -> Duration {
        let now = self.clock.now();
        if !self.to_advance.is_empty() || self.listener.is_acceptable(now) {
            return Duration::ZERO;
        }
        let mut due = now + WAKE_INTERVAL;
        if let Some(at) = self.listener.next_due() {
            due = due.min(at);
        }
        if self.network_is_alive {
            due = due.min(now + CORE_INTERVAL);
        }
        let unasked = self.reports.at + REPORT_INTERVAL;
        for (_, connection) in self.connections.iter_mut() {
            due = due.min(connection.deadline);
            if let State::Waiting(page, number) = connection.state
                && page.question() == Question::Report
                && !self.reports.was_asked(number)
            {
                due = due.min(unasked);
            }
        }
        due.since(now)
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTED_MAX {
            let Some(stream) = self.listener.accept(now) else { return };
            if self.connections.len() >= CONNECTIONS_MAX && !self.close_idle() {
                continue;
            }
            let index = self.connections.next_index();
            let token = Token(CONNECTIONS_FROM + index);
            if let Ok(socket) = Socket::new(stream, self.poll.registry(), token, true, None) {
                self.connections.insert(Connection::new(socket, self.limits, now));
                self.to_advance.push(index);
            }
        }
    }

    /// Closes the idle connection whose deadline is next. Returns false if no connection is idle.
    fn close_idle(&mut self) -> bool {
        let idle = self.connections.iter_mut().filter(|(_, connection)| connection.is_idle());
        let first = idle.min_by_key(|(_, connection)| connection.deadline).map(|(index, _)| index);
        first.is_some_and(|index| {
            self.close(index);
            true
        })
    }

    fn close(&mut self, index: usize) {
        if let Some(connection) = self.connections.remove(index) {
            connection.close(self.poll.registry());
        }
    }

    fn advance(&mut self, index: usize, now: Instant) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        match connection.advance(&mut self.space, now) {
            Step::Wait => {}
            Step::Close => self.close(index),
            Step::Respond(Err(error)) => {
                self.counts.rejected += 1;
                self.respond(index, &Content::text(error.status(), error.to_string()), now);
            }
            Step::Respond(Ok(path)) => self.on_request(index, &path, now),
        }
    }

    fn on_request(&mut self, index: usize, path: &str, now: Instant) {
        if let Some(file) = Content::file(path) {
            self.counts.files += 1;
            self.respond(index, &file, now);
            return;
        }
        let Some(page) = Page::at(path) else {
            self.counts.rejected += 1;
            let known = PAGES.map(|(path, _)| path).join("\n");
            self.respond(index, &Content::text(Status::NotFound, known), now);
            return;
        };
        self.counts.requests[page as usize] += 1;
        if self.shared.serving().is_none() {
            let content = match page {
                Page::Live => Content::text(Status::Ok, "alive\nloading"),
                _ => Content::ready(&Err(Unready::Loading), None),
            };
            self.respond(index, &content, now);
            return;
        }
        if page == Page::Events && self.stream_count() >= STREAMS_MAX {
            let reason = format!("too many event streams: the limit is {STREAMS_MAX}");
            self.respond(index, &Content::text(Status::Unavailable, reason), now);
            return;
        }
        self.wait_for_answer(index, page, now);
    }

    /// Returns the number of connections that have, or wait for, an event stream.
    fn stream_count(&mut self) -> usize {
        let is_stream = |state| matches!(state, State::Streaming | State::Waiting(Page::Events, _));
        self.connections.iter_mut().filter(|(_, it)| is_stream(it.state)).count()
    }

    /// Lets a connection wait for the answer to the page's next question.
    fn wait_for_answer(&mut self, index: usize, page: Page, now: Instant) {
        let (asked, time) = match page.question() {
            Question::Report => (&self.reports, ANSWER_TIME),
            Question::Liveness => (&self.liveness, ANSWER_TIME),
            Question::Readiness => (&self.readiness, READINESS_TIME),
        };
        let number = asked.next();
        if let Some(connection) = self.connections.get_mut(index) {
            connection.state = State::Waiting(page, number);
            connection.deadline = now + time;
        }
    }

    fn respond(&mut self, index: usize, content: &Content, now: Instant) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let Content { status, media_type, body } = content;
        connection.respond(*status, media_type, body, now);
        self.to_advance.push(index);
    }

    /// Sends an event of an event stream.
    fn send_event(&mut self, index: usize, event: &Content, now: Instant) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let interval = u64::try_from(EVENT_INTERVAL.as_nanos()).expect("one second");
        let next = Instant((now.0 / interval + 1) * interval);
        connection.stream(&event.body, next, now);
        self.to_advance.push(index);
    }

    /// Lets an event stream wait for its next event. Closes the connection if the client has not
    /// received all of the previous one.
    fn continue_stream(&mut self, index: usize, now: Instant) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.socket.outbound.is_empty() {
            self.wait_for_answer(index, Page::Events, now);
        } else {
            self.close(index);
        }
    }

    /// Asks the questions that requests wait for, at most one of each kind.
    fn ask(&mut self, now: Instant) {
        let Some(serving) = self.shared.serving() else { return };
        for question in [Question::Report, Question::Readiness, Question::Liveness] {
            let asked = match question {
                Question::Report => &mut self.reports,
                Question::Readiness => &mut self.readiness,
                Question::Liveness => &mut self.liveness,
            };
            let is_wanted = |state: State| {
                matches!(state, State::Waiting(page, number)
                    if page.question() == question && !asked.was_asked(number))
            };
            let is_early = question == Question::Report
                && asked.next() > 1
                && now < asked.at + REPORT_INTERVAL;
            if asked.is_open()
                || is_early
                || !self.connections.iter_mut().any(|(_, it)| is_wanted(it.state))
            {
                continue;
            }
            if question == Question::Liveness {
                self.published_before = serving.status.write_count();
            }
            // Fails only if the network stage has stopped. Then the requests time out.
            if serving.questions.try_send(question).is_ok() {
                asked.ask(now);
            }
        }
    }

    fn receive_answers(&mut self, now: Instant) {
        while let Ok(answer) = self.answers.try_recv() {
            match answer {
                Answer::Report(report) => {
                    let number = self.reports.answer();
                    self.on_report(&report, number, now);
                }
                Answer::Readiness(readiness) => {
                    let number = self.readiness.answer();
                    let disk = self.read_board(|serving| serving.status.read().map(|it| it.disk));
                    let warning = disk.and_then(warning);
                    let content = Content::ready(&readiness, warning);
                    self.respond_to_all(number, Question::Readiness, |_| content.clone(), now);
                }
                Answer::Liveness => self.network_is_alive = true,
            }
        }
        let published = self.read_board(|serving| Some(serving.status.write_count()));
        if self.network_is_alive && published.is_some_and(|count| count > self.published_before) {
            self.network_is_alive = false;
            let number = self.liveness.answer();
            let content = self.alive_page();
            self.respond_to_all(number, Question::Liveness, |_| content.clone(), now);
        }
    }

    fn read_board<T>(&self, read: impl FnOnce(&Serving) -> Option<T>) -> Option<T> {
        self.shared.serving().and_then(read)
    }

    fn on_report(&mut self, report: &Report, number: u64, now: Instant) {
        let Some(serving) = self.shared.serving() else { return };
        let status = serving.status.read();
        let source = Source {
            report,
            counters: &serving.counters,
            status: status.as_ref(),
            http: self.counts,
        };
        // Encoded once for all requests, and only if a request needs it.
        let waiting: Vec<State> = self.connections.iter_mut().map(|(_, it)| it.state).collect();
        let is_wanted = |page| {
            waiting.iter().any(|it| matches!(it, State::Waiting(wanted, _) if *wanted == page))
        };
        let metrics = is_wanted(Page::Metrics).then(|| Content::metrics(encode(source)));
        let event = is_wanted(Page::Events)
            .then(|| Content::event(&report.context, &samples_as_json(source)));
        let contents = |page| match (page, &metrics, &event) {
            (Page::Metrics, Some(metrics), _) => metrics.clone(),
            (Page::Events, _, Some(event)) => event.clone(),
            _ => Content::status(&report.context),
        };
        self.respond_to_all(number, Question::Report, contents, now);
    }

    /// Responds to all requests that wait for the question `number` of this kind or an earlier one.
    fn respond_to_all(
        &mut self,
        number: u64,
        question: Question,
        content: impl Fn(Page) -> Content,
        now: Instant,
    ) {
        let served = |connection: &Connection| match connection.state {
            State::Waiting(page, needed) if page.question() == question && needed <= number => {
                Some(page)
            }
            _ => None,
        };
        let waiting = self.connections.iter_mut();
        let waiting: Vec<(usize, Page)> =
            waiting.filter_map(|(index, it)| Some((index, served(it)?))).collect();
        for (index, page) in waiting {
            match page {
                Page::Events => self.send_event(index, &content(page), now),
                _ => self.respond(index, &content(page), now),
            }
        }
    }

    /// Returns the page `/livez` for a replica whose network stage and Raft core have answered.
    fn alive_page(&self) -> Content {
        let pass_time = self.read_board(|it| Some(it.applier.pass_time(it.clock.now())));
        match pass_time {
            Some(time) if time > APPLIER_PASS_MAX => Content::text(
                Status::Unavailable,
                format!("the applier has been busy with one operation for {} s", time.as_secs()),
            ),
            _ => Content::text(Status::Ok, "alive"),
        }
    }

    /// Responds to requests whose answers are late, continues event streams that are due, and
    /// closes connections whose clients are too slow.
    fn expire(&mut self, now: Instant) {
        let expired = self.connections.iter_mut().filter(|(_, it)| now >= it.deadline);
        let expired: Vec<(usize, State, bool)> =
            expired.map(|(index, it)| (index, it.state, it.is_stream)).collect();
        for (index, state, is_stream) in expired {
            let page = match state {
                State::Waiting(page, _) => page,
                State::Streaming => {
                    self.continue_stream(index, now);
                    continue;
                }
                _ => {
                    self.close(index);
                    continue;
                }
            };
            if is_stream {
                self.send_event(index, &Content::late_event(&Unready::Busy.to_string()), now);
                continue;
            }
            let content = match page {
                Page::Ready => Content::ready(&Err(Unready::Busy), None),
                Page::Live if self.network_is_alive => {
                    Content::text(Status::Unavailable, "the core has not answered in time")
                }
                _ => Content::text(Status::Unavailable, Unready::Busy.to_string()),
            };
            self.respond(index, &content, now);
            self.advance(index, now);
        }
    }
}
