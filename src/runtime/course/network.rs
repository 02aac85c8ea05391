//! The network stage under a simulator of the university course. It owns `Poll` and the socket, and
//! moves messages between the socket and the other stages. It makes only one kind of decision: what
//! to do when a queue or the socket is full.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::TrySendError;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::raft::{ClientRequest, Envelope};
use crate::types::Instant;

use crate::runtime::boards::RuntimeCounters;
use crate::runtime::channels::{
    Applied, CoreItem, HELD_REQUESTS_MAX, JOB_BYTES_MAX, NetworkEnds, QUEUE_LEN, Requests,
};
use crate::runtime::clock::Clock;
use crate::runtime::course::transport::{Arrivals, CourseTransport};
use crate::runtime::pass::Pass;
use crate::runtime::pass::StageState;
use crate::runtime::stages::network::NetworkStage;
use crate::runtime::wake::{OUTBOUND, RELEASED, REPLIES, Wake};

const SOCKET: Token = Token(0);
/// The `mio` token of the waker by which other stages wake this stage. The code that creates the
/// `Poll` registers the waker.
pub(super) const WAKER: Token = Token(1);
/// Interval at which the network stage retries sending to the Raft core while the core's queue is
/// full.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);
/// Total size, in bytes, of answered reads at which the network stage reports them to the Raft core
/// separately. Below that size, they are part of the next report on applied entries, because each
/// report costs the core one iteration of its loop.
const READ_REPORT_BYTES: usize = JOB_BYTES_MAX / 8;

/// The network stage of a replica under a simulator of the university course.
///
/// Invariant: an applied index is reported to the Raft core only after the socket has accepted all
/// replies up to that index, so that the core's messages to peers never contain a commit index
/// beyond an entry whose client has no reply yet.
pub(super) struct Network {
    poll: Poll,
    events: Events,
    wake: Arc<Wake>,
    transport: CourseTransport,
    ends: NetworkEnds,
    clock: Clock,
    /// Reading of the monotonic clock that was taken before the socket was last checked for
    /// messages.
    checked_at: Instant,
    /// Clients' requests, in order of arrival, that are waiting until the Raft core's request queue
    /// has space.
    waiting: Vec<ClientRequest>,
    /// Reports on applied entries for the Raft core, which wait until the socket has accepted the
    /// replies to the entries. Each report has a message count, and is sent once the connection has
    /// written this number of messages.
    reports: VecDeque<(u64, Applied)>,
    /// Total size, in bytes, of the answered reads that have not been reported to the Raft core
    /// yet.
    read_bytes: usize,
    /// Bit set with one bit for each queue to this stage, which is set if the queue may have items;
    /// see `Wake`.
    marks: u32,
    /// Whether `Poll` reports when the socket becomes writable; true only while messages are queued
    /// for the socket.
    polls_writable: bool,
    counters: Arc<RuntimeCounters>,
}

impl Network {
    /// Creates the network stage. `wake` must contain the waker that is registered with `poll`.
    pub(super) fn new(
        poll: Poll,
        wake: Arc<Wake>,
        transport: CourseTransport,
        ends: NetworkEnds,
        clock: Clock,
        counters: Arc<RuntimeCounters>,
    ) -> io::Result<Network> {
        let socket = transport.connection.raw_fd();
        poll.registry().register(&mut SourceFd(&socket), SOCKET, Interest::READABLE)?;
        Ok(Network {
            poll,
            events: Events::with_capacity(4),
            wake,
            transport,
            ends,
            clock,
            checked_at: Instant::ZERO,
            waiting: Vec::new(),
            reports: VecDeque::new(),
            read_bytes: 0,
            marks: 0,
            polls_writable: false,
            counters,
        })
    }

    /// Returns `timeout`, or the time until this stage must retry or send a hello (first message to
    /// the simulator) if that is shorter. `None` means no limit.
    fn limit_timeout(&self, mut timeout: Option<Duration>) -> Option<Duration> {
        let mut at_most = |limit: Duration| {
            timeout = Some(timeout.map_or(limit, |timeout| timeout.min(limit)));
        };
        if !self.waiting.is_empty() || self.report_is_due() {
            at_most(RETRY_INTERVAL);
        }
        if let Some(due) = self.transport.hello_due() {
            at_most(due.since(self.clock.now()));
        }
        timeout
    }

    /// Returns whether this stage may receive messages: false while [`HELD_REQUESTS_MAX`] or more
    /// requests are waiting for the Raft core. Clients and peers share the socket, so peers'
    /// messages wait, too.
    fn may_receive(&self) -> bool {
        self.waiting.len() < HELD_REQUESTS_MAX
    }

    /// Sends peers' messages to the Raft core, and also clients' requests if the core's request
    /// queue is less than half full. Otherwise the requests wait in this stage.
    fn send_to_core(&mut self, messages: Vec<Envelope>, mut requests: Vec<ClientRequest>) {
        if !messages.is_empty()
            && let Err(TrySendError::Full(CoreItem::Peers(messages))) =
                self.ends.to_core.try_send(CoreItem::Peers(messages))
        {
            self.counters.arrivals_dropped.add(messages.len());
        }
        if !self.waiting.is_empty() {
            self.waiting.append(&mut requests);
            requests = std::mem::take(&mut self.waiting);
        }
        if requests.is_empty() {
            return;
        }
        if self.ends.requests.len() >= QUEUE_LEN / 2 {
            self.waiting = requests;
        } else if let Err(TrySendError::Full(Requests::Clients(requests))) =
            self.ends.requests.try_send(Requests::Clients(requests))
        {
            self.waiting = requests;
        }
    }

    /// Sends queued replies while the socket accepts them, within the bounds of one pass (iteration
    /// of the stage's loop).
    fn send_replies(&mut self) {
        let mut pass = Pass::of_large(self.clock, QUEUE_LEN);
        while self.transport.connection.can_queue() {
            let Some(batch) = pass.next(|| self.ends.replies.try_recv().ok()) else {
                if self.ends.replies.is_empty() {
                    self.marks &= !REPLIES;
                }
                return;
            };
            for answer in &batch.answers {
                self.transport.send_answer(answer, batch.leader);
            }
            let after = self.transport.connection.accepted();
            match self.reports.back_mut() {
                Some((same, report)) if *same == after => report.merge(batch.applied),
                _ => self.reports.push_back((after, batch.applied)),
            }
        }
    }

    fn report_is_due(&self) -> bool {
        let written = self.transport.connection.written();
        self.reports.front().is_some_and(|(after, _)| *after <= written)
    }

    /// Sends the Raft core the reports on those entries whose replies the socket has accepted.
    fn report_applied(&mut self) {
        while self.report_is_due()
            && let Some((after, mut report)) = self.reports.pop_front()
        {
            report.bytes += std::mem::take(&mut self.read_bytes);
            if report.index.is_none() && report.bytes < READ_REPORT_BYTES {
                self.read_bytes = report.bytes;
            } else if self.ends.to_core.try_send(CoreItem::Applied(report.clone())).is_err() {
                self.reports.push_front((after, report));
                return;
            }
        }
    }

    /// Makes `Poll` report that the socket has become writable only while messages are queued.
    /// Otherwise each message that the simulator receives would wake this thread.
    fn update_interest(&mut self) -> io::Result<()> {
        let queued = self.transport.connection.has_outgoing();
        if queued == self.polls_writable {
            return Ok(());
        }
        self.polls_writable = queued;
        let interest =
            if queued { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let socket = self.transport.connection.raw_fd();
        self.poll.registry().reregister(&mut SourceFd(&socket), SOCKET, interest)
    }
}

impl NetworkStage for Network {
    /// Sleeps until the socket or a queue of this stage has work, but at most for `timeout`.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.checked_at = self.clock.now();
        if self.may_receive() && self.transport.connection.is_readable() {
            // The last pass did not empty the socket, so there is no need to poll.
            return Ok(());
        }
        // Replies that the socket does not accept wait for the socket, not for this thread.
        let idle = self.marks & !REPLIES == 0
            && (self.marks == 0 || !self.transport.connection.can_queue());
        let asleep = idle && self.wake.begin_sleep();
        let timeout = if asleep { self.limit_timeout(timeout) } else { Some(Duration::ZERO) };
        let polled = self.poll.poll(&mut self.events, timeout);
        self.wake.end_sleep();
        match polled {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // Any event makes the socket readable, because it may also be a close or an error.
        if self.events.iter().any(|event| event.token() == SOCKET) {
            self.transport.connection.set_readable();
        }
        Ok(())
    }

    /// Waits like [`Network::wait`], but may be called only if no other thread ever wakes this one:
    /// blocks in a receive on the socket instead of in `Poll`, unless messages are queued for the
    /// socket.
    fn wait_alone(&mut self, timeout: Duration) -> io::Result<()> {
        self.checked_at = self.clock.now();
        let connection = &mut self.transport.connection;
        if self.marks != 0 || connection.has_outgoing() || connection.is_readable() {
            return self.wait(Some(timeout));
        }
        match self.limit_timeout(Some(timeout)) {
            Some(timeout) if !timeout.is_zero() => self.transport.connection.wait(timeout),
            // Checks the socket without sleeping.
            Some(_) | None => self.wait(Some(Duration::ZERO)),
        }
    }

    /// Receives messages and sends them to the Raft core: the first half of a pass (iteration of
    /// the stage's loop). Returns [`StageState::Stopped`] when the simulator has closed the socket.
    fn receive(&mut self) -> StageState {
        if self.transport.hello_due().is_some() {
            self.transport.send_hello(self.clock.now());
        }
        let (mut messages, mut requests) = (Vec::new(), Vec::new());
        if self.may_receive()
            && self.transport.connection.is_readable()
            && self.transport.receive(&mut messages, &mut requests) == Arrivals::Closed
        {
            return StageState::Stopped;
        }
        self.send_to_core(messages, requests);
        if !self.transport.connection.is_readable() {
            self.ends.peers_read.note(self.checked_at);
        }
        StageState::Running
    }

    /// Writes queued messages to the socket, then replies, refusals and messages to peers, and then
    /// reports to the Raft core the entries whose replies were sent. This is the second half of a
    /// pass (iteration of the stage's loop).
    fn send(&mut self) -> io::Result<()> {
        if self.transport.connection.has_outgoing() {
            self.transport.connection.flush();
        }
        self.marks |= self.wake.take_marks();
        if self.marks & REPLIES != 0 {
            self.send_replies();
        }
        if self.marks & OUTBOUND != 0 {
            for batch in self.ends.outbound.try_iter().take(QUEUE_LEN) {
                for refusal in &batch.refusals {
                    self.transport.send_refusal(refusal);
                }
                for envelope in &batch.peers {
                    self.transport.send_peer(envelope);
                }
            }
        }
        if self.marks & RELEASED != 0 {
            for batch in self.ends.released.try_iter().take(QUEUE_LEN) {
                for envelope in &batch {
                    self.transport.send_peer(envelope);
                }
            }
        }
        self.marks &= REPLIES;
        // Items that arrived in the meantime are left to the next pass.
        if !self.ends.outbound.is_empty() {
            self.marks |= OUTBOUND;
        }
        if !self.ends.released.is_empty() {
            self.marks |= RELEASED;
        }
        self.report_applied();
        self.update_interest()
    }

    /// Tells the Raft core to stop. The core then stops all other stages.
    fn stop_others(self) {
        // Fails if the core has stopped already.
        let _ = self.ends.to_core.send(CoreItem::Stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature_level::FeatureLevel;
    use crate::kv::Outcome;
    use crate::raft::{
        AppendOutcome, AppendReply, DiskState, Envelope, PeerMsg, Refusal, RefusalReason,
    };
    use crate::runtime::channels::{
        Answer, ApplierEnds, BATCH_MESSAGES_MAX, CoreEnds, Ends, LogWriterEnds, Outbound,
        ReplyBatch, channels,
    };
    use crate::runtime::course::CourseArguments;
    use crate::types::{ClientId, Index, NodeId, RequestId, RequestKey, Round, Term};
    use std::net::{SocketAddr, UdpSocket};

    /// A network stage under test. The test plays the roles of the other stages and of the
    /// simulator.
    struct Rig {
        network: Network,
        simulator: UdpSocket,
        address: SocketAddr,
        core: CoreEnds,
        log_writer: LogWriterEnds,
        applier: ApplierEnds,
    }

    impl Rig {
        fn new() -> Rig {
            let simulator = UdpSocket::bind("127.0.0.1:0").unwrap();
            let port = simulator.local_addr().unwrap().port();
            let arguments = [port.to_string(), "0000".into(), "0001".into(), "0002".into()];
            let arguments = CourseArguments::from_arguments(&arguments).unwrap();
            let clock = Clock::start();
            let counters = Arc::new(RuntimeCounters::default());
            let (transport, _) = arguments.connect(clock.now(), Arc::clone(&counters)).unwrap();
            let poll = Poll::new().unwrap();
            let wake = Arc::new(Wake::new(mio::Waker::new(poll.registry(), WAKER).unwrap()));
            let Ends { network, core, log_writer, applier, .. } = channels(&wake, false);
            let network = Network::new(poll, wake, transport, network, clock, counters).unwrap();
            let (hello, address) = receive(&simulator);
            assert!(hello.contains("\"hello\""), "{hello}");
            Rig { network, simulator, address, core, log_writer, applier }
        }

        /// Sends the network stage `text` as a datagram from the simulator, and lets the stage
        /// receive the datagram.
        fn say(&mut self, text: &[u8]) {
            self.simulator.send_to(text, self.address).unwrap();
            self.network.wait(Some(Duration::ZERO)).unwrap();
            assert_eq!(self.network.receive(), StageState::Running);
        }

        fn put(&mut self, number: usize) {
            let address = r#""src":"0015","dst":"0000","leader":"FFFF""#;
            let text =
                format!(r#"{{{address},"type":"put","MID":"{number:016}","key":"k","value":"v"}}"#);
            self.say(text.as_bytes());
        }

        /// Fills the Raft core's queue until it holds `items` items.
        fn fill(&self, items: usize) {
            while self.core.inbox.len() < items {
                let item = CoreItem::Persisted { completions: Vec::new(), bytes: 0 };
                self.log_writer.to_core.send(item).unwrap();
            }
        }

        /// Fills the Raft core's request queue until it holds `items` items.
        fn fill_requests(&self, items: usize) {
            while self.core.requests.len() < items {
                let sent = self.network.ends.requests.try_send(Requests::Clients(Vec::new()));
                sent.expect("the queue is not full");
            }
        }

        /// Removes the peers' messages from the Raft core's queue and returns them.
        fn messages(&self) -> Vec<Envelope> {
            let items = self.core.inbox.try_iter();
            items
                .filter_map(|item| match item {
                    CoreItem::Peers(messages) => Some(messages),
                    CoreItem::Persisted { .. }
                    | CoreItem::Applied(_)
                    | CoreItem::IndexedReads(_)
                    | CoreItem::TakeSnapshot
                    | CoreItem::Admin(_)
                    | CoreItem::Snapshot(_)
                    | CoreItem::DiskSpace(_)
                    | CoreItem::PublishStatus
                    | CoreItem::Stop => None,
                })
                .flatten()
                .collect()
        }

        /// Removes the requests from the Raft core's request queue and returns their keys.
        fn requests(&self) -> Vec<RequestKey> {
            let items = self.core.requests.try_iter();
            items
                .flat_map(|item| match item {
                    Requests::Clients(requests) => requests,
                    Requests::Forwarded(_) => Vec::new(),
                })
                .map(|request| request.key)
                .collect()
        }

        fn applied(&self) -> Option<Applied> {
            match self.core.inbox.try_recv() {
                Ok(CoreItem::Applied(applied)) => Some(applied),
                Ok(item) => unreachable!("{item:?} is no report"),
                Err(_) => None,
            }
        }
    }

    fn receive(simulator: &UdpSocket) -> (String, SocketAddr) {
        simulator.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut buffer = [0; 4096];
        let (length, address) = simulator.recv_from(&mut buffer).expect("a datagram");
        (String::from_utf8(buffer[..length].to_vec()).unwrap(), address)
    }

    fn key(number: usize) -> RequestKey {
        let request = RequestId(format!("{number:016}").into_bytes().try_into().unwrap());
        RequestKey { client: ClientId(0x15), request }
    }

    fn envelope(to: u16) -> Envelope {
        let outcome = AppendOutcome::Match { index: Index::ZERO };
        let reply = AppendReply {
            term: Term(1),
            round: Round(1),
            level: FeatureLevel::OLDEST,
            disk: DiskState::Healthy,
            outcome,
        };
        let message = PeerMsg::AppendReply(reply);
        Envelope { from: NodeId(0), to: NodeId(to), leader: None, message }
    }

    fn peer_text() -> Vec<u8> {
        let mut text = Vec::new();
        let from_peer = Envelope { from: NodeId(1), to: NodeId(0), ..envelope(0) };
        crate::wire::course::encode_peer(&from_peer, &mut text);
        text
    }

    #[test]
    fn half_full_raft_queue_delays_client_requests_not_peer_messages() {
        let mut rig = Rig::new();
        rig.fill_requests(QUEUE_LEN / 2);
        rig.put(1);
        rig.say(&peer_text());
        assert_eq!((rig.messages().len(), rig.requests()), (1, vec![]));
        rig.put(2);
        assert_eq!(rig.requests(), [key(1), key(2)], "in order of arrival");
    }

    #[test]
    fn peer_messages_are_dropped_when_the_raft_core_queue_is_full() {
        let mut rig = Rig::new();
        rig.fill(QUEUE_LEN);
        rig.say(&peer_text());
        rig.put(1);
        assert_eq!(rig.network.counters.arrivals_dropped.get(), 1);
        assert_eq!((rig.messages(), rig.requests()), (vec![], vec![key(1)]));
    }

    #[test]
    fn socket_reading_pauses_while_raft_core_accepts_no_requests() {
        let mut rig = Rig::new();
        rig.fill_requests(QUEUE_LEN);
        for number in 0..HELD_REQUESTS_MAX + 10 {
            rig.put(number);
        }
        assert_eq!(rig.network.waiting.len(), HELD_REQUESTS_MAX);
        let mut count = rig.requests().len();
        assert_eq!(count, 0);
        // The kernel has kept the messages that were not received.
        for _ in 0..10 {
            rig.network.wait(Some(Duration::ZERO)).unwrap();
            rig.network.receive();
            count += rig.requests().len();
        }
        assert_eq!(count, HELD_REQUESTS_MAX + 10);
        assert!(rig.network.waiting.is_empty());
    }

    #[test]
    fn network_stage_tells_raft_core_when_socket_was_last_drained() {
        let mut rig = Rig::new();
        let before = rig.network.clock.now();
        rig.say(&peer_text());
        rig.network.wait(Some(Duration::ZERO)).unwrap();
        rig.network.receive();
        assert!(rig.core.peers_read.at() >= before);
        assert_eq!(rig.messages().len(), 1);
        // There are more messages than one pass receives: the socket is not empty, so the recorded
        // time stays the same.
        let noted = rig.core.peers_read.at();
        for _ in 0..2 * BATCH_MESSAGES_MAX {
            rig.simulator.send_to(&peer_text(), rig.address).unwrap();
        }
        rig.network.wait(Some(Duration::ZERO)).unwrap();
        rig.network.receive();
        assert_eq!(rig.core.peers_read.at(), noted);
    }

    #[test]
    fn client_replies_are_sent_before_messages_to_peers() {
        let mut rig = Rig::new();
        let peers = vec![envelope(1)];
        let refusal = Refusal { key: key(2), reason: RefusalReason::NotLeader, leader: None };
        let outbound = Outbound { peers, refusals: vec![refusal], ..Outbound::default() };
        rig.core.to_network.try_send(outbound).unwrap();
        rig.log_writer.to_network.try_send(vec![envelope(2)]).unwrap();
        let answers = vec![Answer { key: key(1), outcomes: vec![Outcome::Done], revision: None }];
        let applied = Applied { index: Some(Index(4)), bytes: 9, ..Applied::default() };
        let leader = Some(NodeId(0));
        let applied_too = applied.clone();
        let batch = ReplyBatch { answers, leader, applied, ..ReplyBatch::default() };
        rig.applier.to_network.send(batch).unwrap();
        assert_eq!(rig.applied(), None, "nothing was sent yet");
        rig.network.send().unwrap();
        let order = ["\"ok\"", "\"redirect\"", "\"dst\":\"0001\"", "\"dst\":\"0002\""];
        for mark in order {
            let (text, _) = receive(&rig.simulator);
            assert!(text.contains(mark), "{text} where {mark} was expected");
        }
        assert_eq!(rig.applied(), Some(applied_too));
    }

    #[test]
    fn completed_reads_are_reported_to_the_raft_core_in_batches() {
        let mut rig = Rig::new();
        for _ in 0..8 {
            let applied = Applied { bytes: READ_REPORT_BYTES / 4, ..Applied::default() };
            rig.applier.to_network.send(ReplyBatch { applied, ..ReplyBatch::default() }).unwrap();
            rig.network.send().unwrap();
        }
        assert_eq!(rig.applied().map(|applied| applied.bytes), Some(READ_REPORT_BYTES));
        assert_eq!(rig.applied().map(|applied| applied.bytes), Some(READ_REPORT_BYTES));
        assert_eq!(rig.applied(), None);
    }

    #[test]
    fn applied_index_report_waits_while_raft_core_queue_is_full() {
        let mut rig = Rig::new();
        rig.fill(QUEUE_LEN);
        for index in 1..=2 {
            let applied = Applied { index: Some(Index(index)), bytes: 1, ..Applied::default() };
            rig.applier.to_network.send(ReplyBatch { applied, ..ReplyBatch::default() }).unwrap();
            rig.network.send().unwrap();
        }
        assert_eq!(rig.messages(), []);
        rig.network.send().unwrap();
        assert_eq!(
            rig.applied(),
            Some(Applied { index: Some(Index(2)), bytes: 2, ..Applied::default() })
        );
        assert_eq!(rig.applied(), None);
    }

    #[test]
    fn invalid_json_messages_are_counted_and_ignored() {
        let mut rig = Rig::new();
        let long = vec![b'['; 65_000];
        let other = peer_text().escape_ascii().to_string().replace("0000", "0002");
        for text in [&b""[..], b"{", b"\xff\xfe", b"null", b"{\"src\":1}", &long] {
            rig.say(text);
        }
        assert_eq!(rig.network.counters.unreadable.get(), 6);
        rig.say(other.replace('\\', "").as_bytes());
        assert_eq!(rig.network.counters.ignored.get(), 1);
        rig.put(1);
        assert_eq!(rig.requests().len(), 1);
    }

    #[test]
    fn replica_repeats_its_hello_3_times_until_a_message_arrives() {
        let mut rig = Rig::new();
        let (now, mut repeats) = (rig.network.clock.now(), 0);
        while let Some(due) = rig.network.transport.hello_due() {
            assert!(due > now, "one was sent just now");
            rig.network.transport.send_hello(due);
            assert!(receive(&rig.simulator).0.contains("\"hello\""));
            repeats += 1;
        }
        assert_eq!(repeats, 3);
        let mut rig = Rig::new();
        rig.put(1);
        assert_eq!(rig.network.transport.hello_due(), None);
    }
}
