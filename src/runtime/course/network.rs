//! The network stage: owns `Poll`, the socket and its buffers. Moves messages between the socket
//! and the other stages, and decides nothing but what to do when one of both is full.

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
use crate::runtime::stages::StageState;
use crate::runtime::stages::network::NetworkStage;
use crate::runtime::wake::{OUTBOUND, RELEASED, REPLIES, Wake};

const SOCKET: Token = Token(0);
/// The token of the waker, which whoever makes the `Poll` registers.
pub(super) const WAKER: Token = Token(1);
/// How soon to look again whether the core has room for what waits here.
const RETRY: Duration = Duration::from_millis(1);
/// Bytes lent to the applier for reads alone are given back in such portions: telling the core of
/// every read would cost a pass of it each.
const GIVE_BACK_BYTES: usize = JOB_BYTES_MAX / 8;

/// The stage.
///
/// Invariant: the core learns of an applied index only after every reply up to it was handed to
/// the socket, for the commit index that it shows to peers must not pass what was answered.
pub(super) struct Network {
    poll: Poll,
    events: Events,
    wake: Arc<Wake>,
    door: CourseTransport,
    ends: NetworkEnds,
    clock: Clock,
    /// When the socket was last looked at, as read before that.
    looked_at: Instant,
    /// Requests that wait for the core's queue.
    held: Vec<ClientRequest>,
    /// What the core may know once the socket has so many of the accepted messages.
    notes: VecDeque<(u64, Applied)>,
    /// Given back with the next portion.
    read_bytes: usize,
    /// Queues that may hold something.
    marks: u32,
    waits_to_write: bool,
    counters: Arc<RuntimeCounters>,
}

impl Network {
    /// Of a `poll` whose waker is in `wake`.
    pub(super) fn new(
        poll: Poll,
        wake: Arc<Wake>,
        door: CourseTransport,
        ends: NetworkEnds,
        clock: Clock,
        counters: Arc<RuntimeCounters>,
    ) -> io::Result<Network> {
        let socket = door.connection.raw_fd();
        poll.registry().register(&mut SourceFd(&socket), SOCKET, Interest::READABLE)?;
        Ok(Network {
            poll,
            events: Events::with_capacity(4),
            wake,
            door,
            ends,
            clock,
            looked_at: Instant::ZERO,
            held: Vec::new(),
            notes: VecDeque::new(),
            read_bytes: 0,
            marks: 0,
            waits_to_write: false,
            counters,
        })
    }

    fn patience(&self, mut patience: Option<Duration>) -> Option<Duration> {
        let mut at_most = |limit: Duration| {
            patience = Some(patience.map_or(limit, |patience| patience.min(limit)));
        };
        if !self.held.is_empty() || self.note_is_due() {
            at_most(RETRY);
        }
        if let Some(due) = self.door.hello_due() {
            at_most(due.since(self.clock.now()));
        }
        patience
    }

    /// Clients and peers share the socket, so that not to read from the ones is not to read from
    /// the others: a last resort.
    fn may_read(&self) -> bool {
        self.held.len() < HELD_REQUESTS_MAX
    }

    /// To the core: what peers say at once, clients' requests only while the queue for those is
    /// under half full.
    fn hand_over(&mut self, messages: Vec<Envelope>, mut requests: Vec<ClientRequest>) {
        if !messages.is_empty()
            && let Err(TrySendError::Full(CoreItem::Peers(messages))) =
                self.ends.to_core.try_send(CoreItem::Peers(messages))
        {
            self.counters.arrivals_dropped.add(messages.len());
        }
        if !self.held.is_empty() {
            self.held.append(&mut requests);
            requests = std::mem::take(&mut self.held);
        }
        if requests.is_empty() {
            return;
        }
        if self.ends.requests.len() >= QUEUE_LEN / 2 {
            self.held = requests;
        } else if let Err(TrySendError::Full(Requests::Clients(requests))) =
            self.ends.requests.try_send(Requests::Clients(requests))
        {
            self.held = requests;
        }
    }

    /// Hands replies to the socket while it has room, until the pass is over.
    fn send_replies(&mut self) {
        let mut pass = Pass::of_large(self.clock, QUEUE_LEN);
        while self.door.connection.has_room() {
            let Some(batch) = pass.next(|| self.ends.replies.try_recv().ok()) else {
                if self.ends.replies.is_empty() {
                    self.marks &= !REPLIES;
                }
                return;
            };
            for answer in &batch.answers {
                self.door.send_answer(answer, batch.leader);
            }
            let after = self.door.connection.accepted();
            match self.notes.back_mut() {
                Some((same, note)) if *same == after => note.merge(batch.applied),
                _ => self.notes.push_back((after, batch.applied)),
            }
        }
    }

    fn note_is_due(&self) -> bool {
        let written = self.door.connection.written();
        self.notes.front().is_some_and(|(after, _)| *after <= written)
    }

    fn tell_applied(&mut self) {
        while self.note_is_due()
            && let Some((after, mut note)) = self.notes.pop_front()
        {
            note.bytes += std::mem::take(&mut self.read_bytes);
            if note.index.is_none() && note.bytes < GIVE_BACK_BYTES {
                self.read_bytes = note.bytes;
            } else if self.ends.to_core.try_send(CoreItem::Applied(note)).is_err() {
                self.notes.push_front((after, note));
                return;
            }
        }
    }

    /// Asks `Poll` to tell when the socket takes more, only while something waits for that: else
    /// each message that the simulator reads would wake us.
    fn watch_socket(&mut self) -> io::Result<()> {
        let waits = self.door.connection.has_outgoing();
        if waits == self.waits_to_write {
            return Ok(());
        }
        self.waits_to_write = waits;
        let interest =
            if waits { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let socket = self.door.connection.raw_fd();
        self.poll.registry().reregister(&mut SourceFd(&socket), SOCKET, interest)
    }
}

impl NetworkStage for Network {
    /// Sleeps until there is something to do, but not longer than `patience`.
    fn wait(&mut self, patience: Option<Duration>) -> io::Result<()> {
        self.looked_at = self.clock.now();
        if self.may_read() && self.door.connection.is_readable() {
            // The last pass did not empty the socket: there is nothing that `Poll` could tell.
            return Ok(());
        }
        // Replies that the socket has no room for wait for the socket and not for us.
        let idle =
            self.marks & !REPLIES == 0 && (self.marks == 0 || !self.door.connection.has_room());
        let asleep = idle && self.wake.begin_sleep();
        let patience = self.patience(patience);
        let timeout = if asleep { patience } else { Some(Duration::ZERO) };
        let polled = self.poll.poll(&mut self.events, timeout);
        self.wake.end_sleep();
        match polled {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // Whatever the event is, a look at the socket does no harm: it may be an end or an error.
        if self.events.iter().any(|event| event.token() == SOCKET) {
            self.door.connection.set_readable();
        }
        Ok(())
    }

    /// The same on a thread that no other stage has to wake: there the socket itself is a better
    /// place to wait in, unless we want to hear when it takes more.
    fn wait_alone(&mut self, patience: Duration) -> io::Result<()> {
        self.looked_at = self.clock.now();
        let connection = &mut self.door.connection;
        if self.marks != 0 || connection.has_outgoing() || connection.is_readable() {
            return self.wait(Some(patience));
        }
        match self.patience(Some(patience)) {
            Some(patience) if !patience.is_zero() => self.door.connection.wait(patience),
            // A look at the socket all the same.
            Some(_) | None => self.wait(Some(Duration::ZERO)),
        }
    }

    /// One pass in: takes what the socket holds and hands it to the core. Stops for good once the
    /// simulator has closed the socket.
    fn receive(&mut self) -> StageState {
        if self.door.hello_due().is_some() {
            self.door.say_hello(self.clock.now());
        }
        let (mut messages, mut requests) = (Vec::new(), Vec::new());
        if self.may_read()
            && self.door.connection.is_readable()
            && self.door.receive(&mut messages, &mut requests) == Arrivals::Closed
        {
            return StageState::Stopped;
        }
        self.hand_over(messages, requests);
        if !self.door.connection.is_readable() {
            self.ends.peers_read.note(self.looked_at);
        }
        StageState::Running
    }

    /// One pass out: what was left, replies, refusals, then what goes to peers; at last the core
    /// is told what has been answered.
    fn send(&mut self) -> io::Result<()> {
        if self.door.connection.has_outgoing() {
            self.door.connection.flush();
        }
        self.marks |= self.wake.take_marks();
        if self.marks & REPLIES != 0 {
            self.send_replies();
        }
        if self.marks & OUTBOUND != 0 {
            for batch in self.ends.outbound.try_iter().take(QUEUE_LEN) {
                for refusal in &batch.refusals {
                    self.door.send_refusal(refusal);
                }
                for envelope in &batch.peers {
                    self.door.send_peer(envelope);
                }
            }
        }
        if self.marks & RELEASED != 0 {
            for batch in self.ends.released.try_iter().take(QUEUE_LEN) {
                for envelope in &batch {
                    self.door.send_peer(envelope);
                }
            }
        }
        self.marks &= REPLIES;
        // What came while these were emptied has its turn in the next pass.
        if !self.ends.outbound.is_empty() {
            self.marks |= OUTBOUND;
        }
        if !self.ends.released.is_empty() {
            self.marks |= RELEASED;
        }
        self.tell_applied();
        self.watch_socket()
    }

    /// The last word to the core, after which all stages end.
    fn stop_others(self) {
        // An error means that it has ended already.
        let _ = self.ends.to_core.send(CoreItem::Stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Outcome;
    use crate::raft::{
        AppendOutcome, AppendReply, DiskState, Envelope, PeerMsg, Refusal, RefusalReason,
    };
    use crate::runtime::channels::{
        Answer, ApplierEnds, BATCH_MESSAGES_MAX, CoreEnds, Ends, LogWriterEnds, Outbound,
        ReplyBatch, channels,
    };
    use crate::runtime::course::transport::CourseArguments;
    use crate::types::{ClientId, Index, NodeId, RequestId, RequestKey, Round, Term};
    use std::net::{SocketAddr, UdpSocket};

    /// A network stage with a test in the place of all others, and of the simulator.
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
            let invitation = CourseArguments::from_arguments(&arguments).unwrap();
            let clock = Clock::start();
            let counters = Arc::new(RuntimeCounters::default());
            let (door, _) = invitation.accept(clock.now(), Arc::clone(&counters)).unwrap();
            let poll = Poll::new().unwrap();
            let wake = Arc::new(Wake::new(mio::Waker::new(poll.registry(), WAKER).unwrap()));
            let Ends { network, core, log_writer, applier, .. } = channels(&wake, false);
            let network = Network::new(poll, wake, door, network, clock, counters).unwrap();
            let (hello, address) = receive(&simulator);
            assert!(hello.contains("\"hello\""), "{hello}");
            Rig { network, simulator, address, core, log_writer, applier }
        }

        /// Throws a datagram at it and lets it look.
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

        /// Fills the core's queue up to `items`.
        fn fill(&self, items: usize) {
            while self.core.inbox.len() < items {
                let item = CoreItem::Persisted { completions: Vec::new(), bytes: 0 };
                self.log_writer.to_core.send(item).unwrap();
            }
        }

        /// Fills the queue of requests up to `items`.
        fn fill_requests(&self, items: usize) {
            while self.core.requests.len() < items {
                let sent = self.network.ends.requests.try_send(Requests::Clients(Vec::new()));
                sent.expect("it is not full");
            }
        }

        /// The peers' messages that the core would receive now.
        fn messages(&self) -> Vec<Envelope> {
            let items = self.core.inbox.try_iter();
            items
                .filter_map(|item| match item {
                    CoreItem::Peers(messages) => Some(messages),
                    CoreItem::Persisted { .. }
                    | CoreItem::Applied(_)
                    | CoreItem::IndexedReads(_)
                    | CoreItem::TakeSnapshot
                    | CoreItem::Snapshot(_)
                    | CoreItem::DiskSpace(_)
                    | CoreItem::Stop => None,
                })
                .flatten()
                .collect()
        }

        /// The requests that the core would receive now, by their keys.
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
                Ok(item) => unreachable!("{item:?} is no note"),
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
        let reply =
            AppendReply { term: Term(1), round: Round(1), disk: DiskState::Healthy, outcome };
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
    fn requests_wait_while_their_queue_is_half_full_and_peers_do_not() {
        let mut rig = Rig::new();
        rig.fill_requests(QUEUE_LEN / 2);
        rig.put(1);
        rig.say(&peer_text());
        assert_eq!((rig.messages().len(), rig.requests()), (1, vec![]));
        rig.put(2);
        assert_eq!(rig.requests(), [key(1), key(2)], "in the order in which they came");
    }

    #[test]
    fn peers_are_dropped_and_counted_when_the_core_is_full() {
        let mut rig = Rig::new();
        rig.fill(QUEUE_LEN);
        rig.say(&peer_text());
        rig.put(1);
        assert_eq!(rig.network.counters.arrivals_dropped.get(), 1);
        assert_eq!((rig.messages(), rig.requests()), (vec![], vec![key(1)]));
    }

    #[test]
    fn a_core_that_takes_nothing_ends_the_reading_from_clients() {
        let mut rig = Rig::new();
        rig.fill_requests(QUEUE_LEN);
        for number in 0..HELD_REQUESTS_MAX + 10 {
            rig.put(number);
        }
        assert_eq!(rig.network.held.len(), HELD_REQUESTS_MAX);
        let mut count = rig.requests().len();
        assert_eq!(count, 0);
        // What it did not read, the kernel kept for us.
        for _ in 0..10 {
            rig.network.wait(Some(Duration::ZERO)).unwrap();
            rig.network.receive();
            count += rig.requests().len();
        }
        assert_eq!(count, HELD_REQUESTS_MAX + 10);
        assert!(rig.network.held.is_empty());
    }

    #[test]
    fn the_core_is_told_when_the_socket_was_found_empty() {
        let mut rig = Rig::new();
        let before = rig.network.clock.now();
        rig.say(&peer_text());
        rig.network.wait(Some(Duration::ZERO)).unwrap();
        rig.network.receive();
        assert!(rig.core.peers_read.at() >= before);
        assert_eq!(rig.messages().len(), 1);
        // More than one look at the socket takes: it is not empty, so nothing is told.
        let told = rig.core.peers_read.at();
        for _ in 0..2 * BATCH_MESSAGES_MAX {
            rig.simulator.send_to(&peer_text(), rig.address).unwrap();
        }
        rig.network.wait(Some(Duration::ZERO)).unwrap();
        rig.network.receive();
        assert_eq!(rig.core.peers_read.at(), told);
    }

    #[test]
    fn replies_leave_before_appends_and_the_core_learns_of_them_last() {
        let mut rig = Rig::new();
        let peers = vec![envelope(1)];
        let refusal = Refusal { key: key(2), reason: RefusalReason::NotLeader, leader: None };
        let outbound = Outbound { peers, refusals: vec![refusal], leadership: None };
        rig.core.to_network.try_send(outbound).unwrap();
        rig.log_writer.to_network.try_send(vec![envelope(2)]).unwrap();
        let answers = vec![Answer { key: key(1), outcome: Outcome::Done }];
        let applied = Applied { index: Some(Index(4)), bytes: 9, ..Applied::default() };
        let leader = Some(NodeId(0));
        let batch = ReplyBatch { answers, leader, applied, ..ReplyBatch::default() };
        rig.applier.to_network.send(batch).unwrap();
        assert_eq!(rig.applied(), None, "nothing has left yet");
        rig.network.send().unwrap();
        let order = ["\"ok\"", "\"redirect\"", "\"dst\":\"0001\"", "\"dst\":\"0002\""];
        for mark in order {
            let (text, _) = receive(&rig.simulator);
            assert!(text.contains(mark), "{text} where {mark} was expected");
        }
        assert_eq!(rig.applied(), Some(applied));
    }

    #[test]
    fn reads_alone_are_given_back_in_portions() {
        let mut rig = Rig::new();
        for _ in 0..8 {
            let applied = Applied { bytes: GIVE_BACK_BYTES / 4, ..Applied::default() };
            rig.applier.to_network.send(ReplyBatch { applied, ..ReplyBatch::default() }).unwrap();
            rig.network.send().unwrap();
        }
        assert_eq!(rig.applied().map(|applied| applied.bytes), Some(GIVE_BACK_BYTES));
        assert_eq!(rig.applied().map(|applied| applied.bytes), Some(GIVE_BACK_BYTES));
        assert_eq!(rig.applied(), None);
    }

    #[test]
    fn a_note_waits_for_room_at_the_core() {
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
    fn rubbish_is_counted_and_survived() {
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
    fn hello_is_repeated_until_the_simulator_is_heard() {
        let mut rig = Rig::new();
        let (now, mut repeats) = (rig.network.clock.now(), 0);
        while let Some(due) = rig.network.door.hello_due() {
            assert!(due > now, "it was said just now");
            rig.network.door.say_hello(due);
            assert!(receive(&rig.simulator).0.contains("\"hello\""));
            repeats += 1;
        }
        assert_eq!(repeats, 3);
        let mut rig = Rig::new();
        rig.put(1);
        assert_eq!(rig.network.door.hello_due(), None);
    }
}
