//! The network stage of the server: owns `Poll`, the listening sockets and all connections. Moves
//! clients' requests to the leader (this replica or another one), and replies back to the clients.
//!
//! | file | contents |
//! |---|---|
//! | `dispatch` | requests on their way to the core or to the leader; refusals |
//! | `members` | which peers this replica connects to, and the addresses of members |
//! | `peers` | frames from peers, and to them |
//! | `questions` | the questions of the HTTP thread |
//! | `stop` | the graceful stop |
//! | `context` | the facts that `INFO` and other commands report |
//!
//! In each pass peers come first, in both directions: their messages reach the core before any
//! client is read, and messages to peers are written before any reply. All work for clients is
//! bounded in time and continues in the next pass, so that load never delays a heartbeat.

mod context;
mod dispatch;
mod members;
mod peers;
mod questions;
mod stop;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll, Token};

use crate::redis::AdminAnswer;
use crate::runtime::boards::{
    ClockBoard, DiskSpaceBoard, MemoryBoard, RuntimeCounters, SnapshotBoard, StatusBoard,
};
use crate::runtime::channels::{
    AdminCaller, Applied, CoreItem, IndexedReads, Leadership, NetworkEnds, QUEUE_LEN, ReplyBatch,
    SNAPSHOT_READS_MAX, SnapshotJob, SnapshotPart,
};
use crate::runtime::clock::Clock;
use crate::runtime::pass::Pass;
use crate::runtime::pass::StageState;
use crate::runtime::server::certificates::Certificates;
use crate::runtime::server::clients::Clients;
use crate::runtime::server::freshness::Freshness;
use crate::runtime::server::http::HttpEnds;
use crate::runtime::server::listeners::Listeners;
use crate::runtime::server::peers::incoming::IncomingPeers;
use crate::runtime::server::peers::outgoing::OutgoingPeers;
use crate::runtime::server::read_index::ReadIndexRequests;
use crate::runtime::server::request_id::replica_and_sequence;
use crate::runtime::server::sockets::datagram_socket::DatagramSocket;
use crate::runtime::server::sockets::listener::Listener;
use crate::runtime::server::stop_handle::StopHandle;
use crate::runtime::stages::network::NetworkStage;
use crate::runtime::wake::Wake;
use crate::types::{Instant, NodeId, Term};
use crate::wire::frame::Frame;

use self::dispatch::{Gathering, WriteRoute};
use self::questions::{ReadinessCheck, UsersCheck};
use self::stop::Stopping;

/// The `Poll` token of the waker with which other stages wake the network stage. The code that
/// creates the `Poll` registers the waker.
pub(crate) const WAKER: Token = Token(0);
const CLIENT_LISTENER: Token = Token(1);
const PEER_LISTENER: Token = Token(2);
const SENTINEL_LISTENER: Token = Token(3);
const DATAGRAMS: Token = Token(4);
const TLS_LISTENER: Token = Token(5);
/// First `Poll` token of the outgoing connections to peers.
pub(crate) const OUTGOING_FROM: usize = 16;
/// First `Poll` token of the incoming connections from peers.
pub(crate) const INCOMING_FROM: usize = 1 << 10;
/// First `Poll` token of the connections of clients.
pub(crate) const CLIENTS_FROM: usize = 1 << 16;
/// Interval at which the stage tries again to send to the Raft core while the core's queue is full.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);
/// Interval between checks for requests that have exceeded their timeout.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum number of requests that one check for timeouts examines.
const EXPIRY_COUNT: usize = 1 << 16;
/// Maximum number of connections that one listener accepts per pass (iteration of the stage's
/// loop), so that established connections are not delayed.
const ACCEPTED_MAX: usize = 64;
/// Maximum number of events that one poll returns. If a poll returns this many events, more may be
/// pending, so the stage polls again.
const EVENTS_MAX: usize = 1_024;
/// Maximum number of consecutive polls that return [`EVENTS_MAX`] events each, before the stage
/// handles other work.
const POLLS_MAX: usize = 16;
/// Maximum number of clients that one pass (iteration of the stage's loop) reads from. The same
/// maximum applies to the clients that it writes to.
const PASS_CLIENTS_MAX: usize = 1 << 16;
/// Maximum number of batches of replies and of events for subscribers, added together, that one
/// pass (iteration of the stage's loop) handles.
const PASS_EVENTS_MAX: usize = 1 << 16;
/// Interval at which this replica sends the time of its wall clock to its peers.
const WALL_CLOCK_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum number of replicas whose address for clients is kept, members or not.
const CLIENT_ADDRESSES_MAX: usize = 256;
/// Size, in bytes, of the receive buffer that all connections share.
const SPACE_BYTES: usize = 64 << 10;

/// The parts from which the network stage is created: its sockets, its ends of the channels, and
/// the shared status records (boards) that other stages write and the network stage reads.
pub(crate) struct Parts {
    pub(crate) poll: Poll,
    pub(crate) wake: Arc<Wake>,
    pub(crate) stop: Arc<StopHandle>,
    pub(crate) ends: NetworkEnds,
    pub(crate) clock: Clock,
    pub(crate) me: NodeId,
    /// The address at which peers reach this replica, as `host:port`; empty if it is not known.
    pub(crate) announced: String,
    /// Whether `announced` is in the options; it may also be none then.
    pub(crate) is_address_set: bool,
    /// The random number that identifies the current start of this replica's process. It was
    /// generated when the process opened the replica's log.
    pub(crate) start_id: u64,
    pub(crate) listeners: Listeners,
    pub(crate) certificates: Arc<Certificates>,
    /// The socket for datagrams from and to peers.
    pub(crate) datagrams: DatagramSocket,
    pub(crate) clients: Clients,
    pub(crate) outgoing: OutgoingPeers,
    pub(crate) incoming: IncomingPeers,
    pub(crate) status: Arc<StatusBoard>,
    pub(crate) snapshots: Arc<SnapshotBoard>,
    pub(crate) disk_space: Arc<DiskSpaceBoard>,
    pub(crate) memory: Arc<MemoryBoard>,
    pub(crate) clocks: Arc<ClockBoard>,
    pub(crate) counters: Arc<RuntimeCounters>,
    /// The ends of the queues to and from the HTTP thread; `None` without such a thread.
    pub(crate) http: Option<HttpEnds>,
}

/// What the connections that one listener accepts are for.
#[derive(Clone, Copy)]
struct ClientPort {
    is_encrypted: bool,
    is_for_sentinel: bool,
}

/// The network stage of the server: moves requests, replies and messages between the sockets and
/// the other stages.
pub(crate) struct ServerNetwork {
    parts: Parts,
    events: Events,
    read_indexes: ReadIndexRequests,
    /// How current this replica's state is known to be, from the replies to these requests.
    freshness: Freshness,
    leadership: Leadership,
    /// The address for clients of each replica that has connected, as host and port; for at most
    /// [`CLIENT_ADDRESSES_MAX`] replicas.
    client_addresses: BTreeMap<NodeId, (String, u16)>,
    /// The replica that was last known to be the leader. Kept while no leader is known.
    last_leader: Option<NodeId>,
    /// The latest term of which this replica has known the leader.
    led_term: Option<Term>,
    /// The leader, its term and the connection to it when writes without an outcome were last sent
    /// again; `None` before the first leader.
    write_route: Option<WriteRoute>,
    /// Sequence number of the first batch of writes that must still be sent again after a change of
    /// the leader, its term or the connection to it; `None` if no batch must be sent again.
    resend_from: Option<u64>,
    /// Time until which no requests are sent to the replica that this one considers the leader,
    /// because that replica has answered that it is not the leader. The new leader should be known
    /// by then.
    leader_refused_until: Instant,
    /// Time at which the last poll began, if that poll returned all pending events; otherwise
    /// `None`.
    polled_at: Option<Instant>,
    /// Whether the last dispatch of requests to the Raft core or the leader reached its limit of
    /// bytes, requests or time while more requests could be sent.
    dispatch_unfinished: bool,
    /// A batch of replies from the applier whose events for subscribers have not all been published
    /// yet; `None` if there is none.
    unfinished_replies: Option<ReplyBatch>,
    /// Reads with a confirmed read index that are waiting for space in the Raft core's queue.
    indexed_reads: VecDeque<IndexedReads>,
    /// The report on applied entries that is waiting for space in the Raft core's queue; `None` if
    /// no report is waiting.
    applied: Option<Applied>,
    /// Whether a client has requested a snapshot (`BGSAVE`) and the request has not been sent to
    /// the Raft core yet.
    snapshot_requested: bool,
    /// Number of clients' reads of a snapshot that the snapshots stage has not completed yet.
    snapshot_reads: usize,
    /// Time at which the values that `INFO` reports were last refreshed; `None` if they have not
    /// been refreshed yet.
    refreshed_at: Option<Instant>,
    /// Time at which this replica next sends the time of its wall clock to its peers.
    wall_clock_at: Instant,
    /// Time at which this replica next compares the addresses of the members, if it leads.
    addresses_at: Instant,
    /// Time of the next check for requests that have exceeded their timeout.
    expiry_at: Instant,
    /// Number of changes of the peers' authorities after which all connections to and from peers
    /// were closed, to be made again.
    authority_changes: u64,
    /// The receive buffer that all connections share.
    space: Vec<u8>,
    /// Buffer in which datagrams are decrypted. Kept to reuse its memory.
    opened: Vec<u8>,
    /// Buffer for received frames. It is empty between passes (iterations of the stage's loop), and
    /// kept to reuse its memory.
    frames: Vec<(NodeId, u64, Frame)>,
    gathering: Gathering,
    /// The check of readiness for the HTTP thread; `None` if there is none.
    readiness: Option<ReadinessCheck>,
    /// The check whether the users are current, until it has succeeded.
    users_check: UsersCheck,
    /// Number of requests to this replica's own core that checks of readiness have made.
    readiness_count: u64,
    /// The progress of the graceful stop; `None` while this replica serves.
    stopping: Option<Stopping>,
}

impl ServerNetwork {
    pub(crate) fn new(mut parts: Parts) -> io::Result<ServerNetwork> {
        let registry = parts.poll.registry();
        let Listeners { clients, tls, sentinel, peers } = &mut parts.listeners;
        for (listener, token) in
            [(clients, CLIENT_LISTENER), (tls, TLS_LISTENER), (sentinel, SENTINEL_LISTENER)]
        {
            if let Some(listener) = listener {
                listener.register(registry, token)?;
            }
        }
        peers.register(registry, PEER_LISTENER)?;
        parts.datagrams.register(registry, DATAGRAMS)?;
        let read_indexes = ReadIndexRequests::new(parts.start_id);
        Ok(ServerNetwork {
            parts,
            events: Events::with_capacity(EVENTS_MAX),
            read_indexes,
            freshness: Freshness::default(),
            leadership: Leadership::default(),
            client_addresses: BTreeMap::new(),
            last_leader: None,
            led_term: None,
            write_route: None,
            resend_from: None,
            leader_refused_until: Instant::ZERO,
            polled_at: None,
            dispatch_unfinished: false,
            unfinished_replies: None,
            indexed_reads: VecDeque::new(),
            applied: None,
            snapshot_requested: false,
            snapshot_reads: 0,
            refreshed_at: None,
            wall_clock_at: Instant::ZERO,
            addresses_at: Instant::ZERO,
            expiry_at: Instant::ZERO,
            authority_changes: 0,
            space: vec![0; SPACE_BYTES],
            opened: Vec::new(),
            frames: Vec::new(),
            gathering: Gathering::default(),
            readiness: None,
            users_check: UsersCheck::default(),
            readiness_count: 0,
            stopping: None,
        })
    }

    /// Returns whether the Raft core's queues are less than half full. Requests are sent only then:
    /// the other half is reserved for messages from peers and for completions.
    fn core_accepts_requests(&self) -> bool {
        let NetworkEnds { to_core, requests, .. } = &self.parts.ends;
        to_core.len() < QUEUE_LEN / 2 && requests.len() < QUEUE_LEN / 2
    }

    /// Returns `timeout`, or the time until this stage must act next if that is shorter, for
    /// example because a request's timeout is due. `None` means no limit.
    fn limit_timeout(&mut self, mut timeout: Option<Duration>) -> Option<Duration> {
        let now = self.parts.clock.now();
        let core_accepts = self.core_accepts_requests();
        let is_paused = self.is_paused(now);
        let parts = &mut self.parts;
        if self.dispatch_unfinished
            || self.unfinished_replies.is_some()
            || !parts.ends.outbound.is_empty()
            || !parts.ends.released.is_empty()
            || !parts.ends.parts.is_empty()
            || !parts.ends.replies.is_empty()
            || parts.clients.is_readable()
            || parts.clients.is_writable()
            || parts.incoming.is_readable(core_accepts)
            || parts.datagrams.is_readable()
            || parts.listeners.iter().any(|it| it.is_acceptable(now))
        {
            return Some(Duration::ZERO);
        }
        let readiness_ends_at = self.readiness.as_ref().map(ReadinessCheck::ends_at);
        let stop_step_at = self.stopping.as_ref().map(|_| now + stop::STEP_INTERVAL);
        let expiry = parts.clients.next_expiry().map(|due| due.max(self.expiry_at));
        let due = [
            parts.outgoing.next_due(),
            parts.incoming.next_expiry(),
            parts.incoming.next_acknowledgement(),
            parts.listeners.iter().filter_map(Listener::next_due).min(),
            self.read_indexes.next_expiry(),
            expiry,
            parts.clients.next_sweep(),
            parts.clients.next_wait_end(),
            parts.clients.next_read_ahead(),
            parts.clients.next_resume(),
            parts.clients.next_pause_end(),
            parts.clients.awaits_users().then(|| self.users_check.next_attempt()),
            Some(self.wall_clock_at),
            readiness_ends_at,
            stop_step_at,
        ];
        let mut at_most = |limit: Duration| {
            timeout = Some(timeout.map_or(limit, |timeout| timeout.min(limit)));
        };
        if let Some(due) = due.into_iter().flatten().min() {
            at_most(due.since(now));
        }
        if parts.clients.has_waiting() && is_paused {
            at_most(self.leader_refused_until.since(now));
        }
        if let Some(ends_at) = self.gathering.ends_at() {
            at_most(ends_at.since(now));
        }
        let waits_for_core = parts.clients.has_waiting() || parts.incoming.is_readable(true);
        if (waits_for_core && !core_accepts)
            || self.applied.is_some()
            || self.snapshot_requested
            || !parts.clients.admin_calls.is_empty()
            || self.snapshot_reads < SNAPSHOT_READS_MAX && !parts.clients.snapshot_reads.is_empty()
            || !self.indexed_reads.is_empty()
        {
            at_most(RETRY_INTERVAL);
        }
        timeout
    }

    /// Passes the events of a poll to their connections, and returns the number of events. Adds
    /// each peer whose connection for urgent messages has just been established to `connected`.
    fn handle_events(&mut self, connected: &mut Vec<NodeId>) -> usize {
        let parts = &mut self.parts;
        let now = parts.clock.now();
        let mut count = 0;
        for event in &self.events {
            count += 1;
            match event.token() {
                WAKER => {}
                CLIENT_LISTENER => parts.listeners.clients.iter_mut().for_each(Listener::on_event),
                TLS_LISTENER => parts.listeners.tls.iter_mut().for_each(Listener::on_event),
                SENTINEL_LISTENER => {
                    parts.listeners.sentinel.iter_mut().for_each(Listener::on_event);
                }
                PEER_LISTENER => parts.listeners.peers.on_event(),
                DATAGRAMS => parts.datagrams.on_event(),
                Token(token) if token >= CLIENTS_FROM => parts.clients.on_event(token, event),
                Token(token) if token >= INCOMING_FROM => parts.incoming.on_event(token, event),
                Token(token) => {
                    let registry = parts.poll.registry();
                    connected.extend(parts.outgoing.on_event(token, event, now, registry));
                }
            }
        }
        count
    }

    /// Performs the periodic work that is due at `now`: checks timeouts, reconnects to peers, sends
    /// the reading of this replica's wall clock to its peers, and refreshes the values for `INFO`.
    fn tick(&mut self, now: Instant) {
        self.update_context(now);
        self.record_addresses(now);
        let parts = &mut self.parts;
        let registry = parts.poll.registry();
        let incoming = &mut parts.incoming;
        let authority_changes = parts.certificates.authority_changes();
        if self.authority_changes != authority_changes {
            self.authority_changes = authority_changes;
            tracing::info!("connections to and from peers are made again with the new authorities");
            incoming.close_all(now, registry);
            parts.outgoing.close_all(now, registry);
        }
        parts.outgoing.connect(now, registry, |peer| incoming.loss_from(peer));
        parts.incoming.expire(now, registry);
        if now >= self.expiry_at {
            parts.clients.expire(now, &mut Pass::of_small(parts.clock, EXPIRY_COUNT));
            self.expiry_at = now + EXPIRY_INTERVAL;
        }
        parts.clients.end_waits(now);
        parts.clients.sweep(now, registry);
        parts.clients.read_ahead(now);
        parts.clients.resume(now);
        parts.clients.end_pause(now);
        let lost = self.read_indexes.expire(now);
        parts.clients.requeue(&lost);
        if now >= self.wall_clock_at {
            self.wall_clock_at = now + WALL_CLOCK_INTERVAL;
            let peers: Vec<NodeId> = self.parts.outgoing.ids().collect();
            for peer in peers {
                self.send_wall_clock(peer, now);
            }
        }
        self.refresh_context(now);
    }

    fn accept(&mut self, now: Instant) {
        let parts = &mut self.parts;
        let registry = parts.poll.registry();
        let Listeners { clients, tls, sentinel, peers } = &mut parts.listeners;
        // Without the plain port there are no plain connections at all.
        let sentinel_kind = ClientPort { is_encrypted: clients.is_none(), is_for_sentinel: true };
        let accepting = [
            (clients, ClientPort { is_encrypted: false, is_for_sentinel: false }),
            (tls, ClientPort { is_encrypted: true, is_for_sentinel: false }),
            (sentinel, sentinel_kind),
        ];
        for (listener, port) in accepting {
            let Some(listener) = listener else { continue };
            for _ in 0..ACCEPTED_MAX {
                let Some(stream) = listener.accept(now) else { break };
                let session = port.is_encrypted.then(|| parts.certificates.accept_client());
                let Ok(session) = session.transpose() else { continue };
                parts.clients.accept(stream, session, port.is_for_sentinel, now, registry);
            }
        }
        for _ in 0..ACCEPTED_MAX {
            let Some(stream) = peers.accept(now) else { break };
            parts.incoming.accept(stream, now, registry);
        }
    }

    /// Tells the Raft core when the last poll began, if everything that peers had sent before the
    /// poll was read. The core then knows that no earlier message is still in a socket. Does
    /// nothing if unread bytes are left.
    fn note_peers_read(&mut self) {
        if let Some(polled_at) = self.polled_at.take()
            && !self.parts.incoming.is_readable(true)
            && !self.parts.datagrams.is_readable()
        {
            self.parts.ends.peers_read.note(polled_at);
        }
    }

    /// Handles batches of replies from the applier and publishes their events to subscribers, until
    /// no batches are left or the limits of `pass` (count and time) are reached.
    fn receive_replies(&mut self, pass: &mut Pass) {
        while let Some(mut batch) = self
            .unfinished_replies
            .take()
            .or_else(|| pass.next(|| self.parts.ends.replies.try_recv().ok()))
        {
            if let Some(users) = batch.users.take() {
                self.parts.clients.set_users(&users);
            }
            // One event may go to many subscribers.
            while let Some(event) = pass.next(|| batch.events.pop_front()) {
                self.parts.clients.publish(&event);
            }
            if !batch.events.is_empty() {
                self.unfinished_replies = Some(batch);
                return;
            }
            self.on_replies(batch);
        }
        while let Ok(results) = self.parts.ends.script_results.try_recv() {
            self.parts.clients.on_script_results(results);
        }
    }

    /// Passes the outcomes of requests to this replica's clients, and read indexes to the peers
    /// that requested them.
    fn on_replies(&mut self, batch: ReplyBatch) {
        let context = &mut self.parts.clients.context;
        let installed = batch.applied.installed.as_ref().map(|installed| installed.0.last.index);
        if let Some(index) = batch.applied.index.max(installed) {
            context.note_applied(index);
            context.databases = batch.databases;
            context.kept_scripts = batch.kept_scripts;
            context.state_digest = batch.digest;
        }
        context.note_digests(batch.digest_marks);
        context.digest_comparison = batch.comparison.or(context.digest_comparison.take());
        context.keyspace_statistics.add(batch.statistics);
        let clients = &mut self.parts.clients;
        clients.begin_changes(batch.changed);
        for answer in batch.answers {
            clients.on_answer(answer.key, answer.outcomes, answer.revision);
        }
        let changed = clients.end_changes();
        clients.context.history = batch.history;
        clients.wake(&changed);
        for (key, index) in batch.read_indexes {
            if self.on_own_read_index(key.request, Some(index)) {
                continue;
            }
            let (peer, ticket) = replica_and_sequence(key.request);
            self.parts.outgoing.send(peer, &Frame::ReadIndex { ticket, index: Some(index) });
        }
        if batch.applied.installed.is_some() {
            // Writes whose entries the snapshot covers get no reply from it: they are sent again,
            // and answered with the outcomes that the deduplication table has.
            self.resend_from = Some(0);
        }
        self.applied.get_or_insert_default().merge(batch.applied);
    }

    /// Passes on the answer to an administrative request.
    fn on_admin_answer(&mut self, caller: AdminCaller, answer: AdminAnswer) {
        match (caller, answer) {
            (AdminCaller::Client(sequence), answer) => {
                self.parts.clients.on_admin_answer(sequence, answer);
            }
            (AdminCaller::Network, AdminAnswer::Transfer(answer)) => {
                self.on_stop_transfer_answer(answer);
            }
            // The addresses are compared again later.
            (AdminCaller::Network, AdminAnswer::Members(outcome)) => {
                tracing::debug!(?outcome, "requested a change of members' addresses");
            }
        }
    }

    /// Sends to the Raft core, if its queue has space, a client's request for a snapshot
    /// (`BGSAVE`), administrative requests, the reads with a confirmed read index, and the report
    /// on applied entries. Sends clients' reads of a snapshot to the snapshots stage. What does not
    /// fit waits for the next call.
    fn report_to_core(&mut self) {
        self.snapshot_requested |= std::mem::take(&mut self.parts.clients.snapshot_requested);
        let to_core = &self.parts.ends.to_core;
        if self.snapshot_requested && to_core.try_send(CoreItem::TakeSnapshot).is_ok() {
            self.snapshot_requested = false;
        }
        if std::mem::take(&mut self.parts.clients.trim_requests) > 0 {
            self.parts.memory.request_trim();
        }
        while let Some(call) = self.parts.clients.admin_calls.pop_front() {
            let call = members::with_addresses(call, &self.parts);
            if let Err(refused) = to_core.try_send(CoreItem::Admin(call)) {
                if let CoreItem::Admin(call) = refused.into_inner() {
                    self.parts.clients.admin_calls.push_front(call);
                }
                break;
            }
        }
        let reads = &mut self.parts.clients.snapshot_reads;
        while self.snapshot_reads < SNAPSHOT_READS_MAX
            && let Some(read) = reads.front()
            && self.parts.ends.to_snapshots.try_send(SnapshotJob::Read(*read)).is_ok()
        {
            reads.pop_front();
            self.snapshot_reads += 1;
        }
        while let Some(reads) = self.indexed_reads.pop_front() {
            if let Err(refused) = to_core.try_send(CoreItem::IndexedReads(reads)) {
                if let CoreItem::IndexedReads(reads) = refused.into_inner() {
                    self.indexed_reads.push_front(reads);
                }
                break;
            }
        }
        if let Some(applied) = self.applied.clone()
            && to_core.try_send(CoreItem::Applied(applied)).is_ok()
        {
            self.applied = None;
        }
    }
}

impl NetworkStage for ServerNetwork {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = self.limit_timeout(timeout);
        let asleep = timeout != Some(Duration::ZERO) && self.parts.wake.begin_sleep();
        let mut timeout = if asleep { timeout } else { Some(Duration::ZERO) };
        let mut connected = Vec::new();
        self.polled_at = None;
        for _ in 0..POLLS_MAX {
            let now = self.parts.clock.now();
            let polled = self.parts.poll.poll(&mut self.events, timeout);
            self.parts.wake.end_sleep();
            match polled {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                Ok(()) | Err(_) => {}
            }
            if self.handle_events(&mut connected) < EVENTS_MAX {
                self.polled_at = Some(now);
                break;
            }
            timeout = Some(Duration::ZERO);
        }
        // The wall clock is sent before any other frame, so that a vote never arrives before the
        // voter's wall clock.
        let now = self.parts.clock.now();
        for peer in connected {
            self.send_wall_clock(peer, now);
        }
        Ok(())
    }

    fn receive(&mut self) -> StageState {
        let now = self.parts.clock.now();
        if self.advance_stop(now) == StageState::Stopped {
            return StageState::Stopped;
        }
        self.tick(now);
        self.accept(now);
        self.receive_datagrams(now);
        self.receive_from_peers(now);
        self.parts.incoming.acknowledge(now, &self.parts.datagrams);
        self.note_peers_read();
        let mut pass = Pass::of_large(self.parts.clock, PASS_CLIENTS_MAX);
        self.parts.clients.receive(self.parts.poll.registry(), &mut self.space, &mut pass);
        self.dispatch(now);
        self.report_to_core();
        StageState::Running
    }

    fn send(&mut self) -> io::Result<()> {
        let now = self.parts.clock.now();
        // The marks are not needed: every queue is checked below, and again before this thread
        // sleeps. A core on the same thread checks its own queues before that.
        self.parts.wake.take_marks();
        self.parts.clients.context.now = now;
        let mut pass = Pass::of_small(self.parts.clock, 2 * QUEUE_LEN);
        while let Some(batch) = pass.next(|| self.parts.ends.outbound.try_recv().ok()) {
            if let Some(leadership) = batch.leadership {
                self.on_leadership(leadership);
            }
            if let Some(members) = batch.members {
                self.on_members(*members);
            }
            for (caller, answer) in batch.answers {
                self.on_admin_answer(caller, answer);
            }
            self.on_refusals(&batch.refusals);
            self.forward_own(&batch.forwards);
            // After the new members, to some of which the messages are.
            self.send_to_peers(batch.peers);
        }
        while let Some(released) = pass.next(|| self.parts.ends.released.try_recv().ok()) {
            self.send_to_peers(released);
        }
        while let Ok(SnapshotPart { sequence, part }) = self.parts.ends.parts.try_recv() {
            self.snapshot_reads -= 1;
            self.parts.clients.on_snapshot_part(sequence, part.as_deref());
        }
        let parts = &mut self.parts;
        parts.outgoing.flush(now, parts.poll.registry(), &parts.datagrams);
        let mut pass = Pass::of_large(self.parts.clock, PASS_EVENTS_MAX);
        self.receive_replies(&mut pass);
        self.answer_questions(now);
        self.confirm_users(now);
        self.dispatch(now);
        let parts = &mut self.parts;
        let registry = parts.poll.registry();
        let mut pass = Pass::of_large(parts.clock, PASS_CLIENTS_MAX);
        parts.clients.flush(registry, &mut pass);
        if let Some(stopping) = &self.stopping {
            stopping.close_clients(&mut parts.clients, registry, &mut self.space, now, &mut pass);
            self.dispatch(now);
        }
        let parts = &mut self.parts;
        let registry = parts.poll.registry();
        // Writes requests that were forwarded to the leader.
        parts.outgoing.flush(now, registry, &parts.datagrams);
        self.report_to_core();
        Ok(())
    }

    fn stop_others(self) {
        // Fails if the core has stopped already.
        let _ = self.parts.ends.to_core.send(CoreItem::Stop);
    }
}
