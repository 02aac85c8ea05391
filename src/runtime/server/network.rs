//! The network stage of the server: owns `Poll`, the listening sockets and all connections. Moves
//! what clients ask to whoever leads, here or elsewhere, and answers back; what must wait for what
//! is decided in `clients` and `read_asks`.
//!
//! In each pass peers come first, in both directions: their messages are read and handed to the
//! core before any client is looked at, and what goes to them is written before any reply. All work
//! for clients is bounded in time, and what is left of it waits for the next pass, so that a
//! heartbeat never waits for the end of a flood.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use crossbeam::channel::TrySendError;
use mio::{Events, Poll, Token};

use crate::raft::{
    ClientRequest, DiskState, Envelope, Refusal, RefusalReason, RequestKind, RoleName,
};
use crate::redis::{
    RaftCounters, RejoinProgress, ReplicaInfo, SWITCH_MASTER_CHANNEL, SnapshotInfo, may_add_data,
    switch_master_message,
};
use crate::runtime::boards::{
    ClockBoard, DiskSpaceBoard, MemoryBoard, RuntimeCounters, SnapshotBoard, SnapshotStatus,
    StatusBoard,
};
use crate::runtime::channels::{
    Applied, CoreItem, ForwardedWrite, IndexedReads, Leadership, NetworkEnds, QUEUE_LEN,
    ReplyBatch, Requests,
};
use crate::runtime::clock::Clock;
use crate::runtime::pass::Pass;
use crate::runtime::stages::StageState;
use crate::runtime::stages::network::NetworkStage;
use crate::runtime::wake::Wake;
use crate::types::{ClientId, Index, Instant, NodeId, RequestKey, Term};
use crate::wire::frame::{Attempt, Frame};

use super::client::{Pending, Reason};
use super::clients::Clients;
use super::flights::{origin_of, parts_of, request_id};
use super::inbound::Inbound;
use super::links::Links;
use super::listener::Listener;
use super::read_asks::ReadAsks;

/// The token of the waker, which whoever makes the `Poll` registers.
pub(super) const WAKER: Token = Token(0);
const CLIENT_LISTENER: Token = Token(1);
const PEER_LISTENER: Token = Token(2);
const SENTINEL_LISTENER: Token = Token(3);
/// Where the tokens of connections begin: to peers, from peers, of clients.
pub(super) const LINKS_FROM: usize = 16;
pub(super) const INBOUND_FROM: usize = 1 << 10;
pub(super) const CLIENTS_FROM: usize = 1 << 16;
/// How soon to look again whether the core has room for what waits here.
const RETRY: Duration = Duration::from_millis(1);
/// How long nothing more is sent to a replica that has just said that it does not lead: it knows
/// better, and the news is on its way here.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// How often to look for requests that have waited too long.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(50);
/// Requests looked at each time: clients that do not read may have a million.
const EXPIRY_COUNT: usize = 1 << 16;
/// How old the facts may be that clients are told.
const FACTS_AGE: Duration = Duration::from_millis(100);
/// Connections accepted in one pass, so that those that are there are not kept waiting.
const ACCEPTED_MAX: usize = 64;
/// Events that one look at `Poll` finds. Where there are as many, it may have left some of peers'
/// out, and is asked again, but not for ever.
const EVENTS_MAX: usize = 1_024;
const POLLS_MAX: usize = 16;
/// Clients served in one pass, in each direction, and events told to subscribers.
const PASS_CLIENTS_MAX: usize = 1 << 16;
const PASS_EVENTS_MAX: usize = 1 << 16;
/// Most bytes and requests of clients handed to the core at once, or to another replica.
const BATCH_BYTES_MAX: usize = 1 << 20;
const BATCH_REQUESTS_MAX: usize = 4_096;
/// How often peers are told of this replica's wall clock.
const WALL_CLOCK_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes read at once.
const SPACE_BYTES: usize = 64 << 10;

/// What the stage is made of.
pub(super) struct Parts {
    pub(super) poll: Poll,
    pub(super) wake: Arc<Wake>,
    pub(super) ends: NetworkEnds,
    pub(super) clock: Clock,
    pub(super) me: NodeId,
    /// The random number of this opening of the log.
    pub(super) opening: u64,
    pub(super) client_listener: Listener,
    /// For those who want a Sentinel that says it is one.
    pub(super) sentinel_listener: Option<Listener>,
    pub(super) peer_listener: Listener,
    pub(super) clients: Clients,
    pub(super) links: Links,
    pub(super) inbound: Inbound,
    pub(super) board: Arc<StatusBoard>,
    pub(super) saved: Arc<SnapshotBoard>,
    pub(super) room: Arc<DiskSpaceBoard>,
    pub(super) memory: Arc<MemoryBoard>,
    pub(super) clocks: Arc<ClockBoard>,
    pub(super) counters: Arc<RuntimeCounters>,
}

/// Where requests go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Route {
    /// To the core of this replica, which leads.
    Here,
    /// To another replica.
    To(NodeId),
    /// Nowhere for now: they wait.
    None,
}

/// The stage.
pub(super) struct ServerNetwork {
    parts: Parts,
    events: Events,
    reads: ReadAsks,
    leadership: Leadership,
    /// Who led when somebody last did.
    last_leader: Option<NodeId>,
    /// Where writes were last handed on: in which term, to whom, and over which connection.
    way: Option<(Term, NodeId, u64)>,
    /// From which request on those are still to be sent again that went another way.
    resend_from: Option<u64>,
    /// The replica that leads, as it seemed, has denied it; until then it is not asked again.
    refused_until: Instant,
    /// When `Poll` was last asked, as read before that, if it told of everything.
    polled_at: Option<Instant>,
    /// Requests wait only because a pass was over.
    dispatch_unfinished: bool,
    /// Replies of the applier whose events have not all been told.
    unfinished_replies: Option<ReplyBatch>,
    /// For the core, when it has room.
    indexed_reads: VecDeque<IndexedReads>,
    applied: Option<Applied>,
    /// A client wants a snapshot now.
    save: bool,
    facts_at: Option<Instant>,
    /// When peers are told of the wall clock next.
    wall_clock_at: Instant,
    /// When requests are looked at next that may have waited too long.
    expiry_at: Instant,
    space: Vec<u8>,
    /// An empty list, for its memory.
    frames: Vec<(NodeId, u64, Frame)>,
    /// How many requests were handed to the core last time: likely as many as the next time.
    batch_len: usize,
}

impl ServerNetwork {
    pub(super) fn new(mut parts: Parts) -> io::Result<ServerNetwork> {
        let registry = parts.poll.registry();
        parts.client_listener.register(registry, CLIENT_LISTENER)?;
        if let Some(listener) = &mut parts.sentinel_listener {
            listener.register(registry, SENTINEL_LISTENER)?;
        }
        parts.peer_listener.register(registry, PEER_LISTENER)?;
        let reads = ReadAsks::new(parts.opening);
        Ok(ServerNetwork {
            parts,
            events: Events::with_capacity(EVENTS_MAX),
            reads,
            leadership: Leadership::default(),
            last_leader: None,
            way: None,
            resend_from: None,
            refused_until: Instant::ZERO,
            polled_at: None,
            dispatch_unfinished: false,
            unfinished_replies: None,
            indexed_reads: VecDeque::new(),
            applied: None,
            save: false,
            facts_at: None,
            wall_clock_at: Instant::ZERO,
            expiry_at: Instant::ZERO,
            space: vec![0; SPACE_BYTES],
            frames: Vec::new(),
            batch_len: 0,
        })
    }

    fn route(&self) -> Route {
        match self.leadership.leader {
            Some(leader) if leader == self.parts.me => Route::Here,
            Some(leader) if self.parts.links.is_up(leader) => Route::To(leader),
            _ => Route::None,
        }
    }

    /// Whether requests wait because the leader denied that it leads.
    fn is_paused(&self, now: Instant) -> bool {
        now < self.refused_until && self.leadership.leader != Some(self.parts.me)
    }

    /// Whether the core's queues have room for what clients want, and for the large messages of
    /// peers; the rest of them is for small ones, and for what completes here.
    fn core_has_room(&self) -> bool {
        let NetworkEnds { to_core, requests, .. } = &self.parts.ends;
        to_core.len() < QUEUE_LEN / 2 && requests.len() < QUEUE_LEN / 2
    }

    fn patience(&mut self, patience: Option<Duration>) -> Option<Duration> {
        let now = self.parts.clock.now();
        let core_has_room = self.core_has_room();
        let is_paused = self.is_paused(now);
        let parts = &mut self.parts;
        if self.dispatch_unfinished
            || self.unfinished_replies.is_some()
            || !parts.ends.outbound.is_empty()
            || !parts.ends.released.is_empty()
            || !parts.ends.replies.is_empty()
            || parts.clients.is_readable()
            || parts.clients.is_writable()
            || parts.inbound.is_readable(core_has_room)
            || parts.client_listener.is_acceptable(now)
            || parts.sentinel_listener.as_ref().is_some_and(|there| there.is_acceptable(now))
            || parts.peer_listener.is_acceptable(now)
        {
            return Some(Duration::ZERO);
        }
        let expiry = parts.clients.next_due().map(|due| due.max(self.expiry_at));
        let due = [
            parts.links.next_due(),
            parts.inbound.next_due(),
            parts.client_listener.next_due(),
            parts.sentinel_listener.as_ref().and_then(Listener::next_due),
            parts.peer_listener.next_due(),
            self.reads.next_due(),
            expiry,
            parts.clients.next_sweep(),
            Some(self.wall_clock_at),
        ];
        let mut patience = patience;
        let mut at_most = |limit: Duration| {
            patience = Some(patience.map_or(limit, |patience| patience.min(limit)));
        };
        if let Some(due) = due.into_iter().flatten().min() {
            at_most(due.since(now));
        }
        if parts.clients.has_waiting() && is_paused {
            at_most(self.refused_until.since(now));
        }
        let waits_for_core = parts.clients.has_waiting() || parts.inbound.is_readable(true);
        if (waits_for_core && !core_has_room)
            || self.applied.is_some()
            || self.save
            || !self.indexed_reads.is_empty()
        {
            at_most(RETRY);
        }
        patience
    }

    /// Tells everybody whom it concerns of what `Poll` has found, and says how much that was.
    fn note_events(&mut self, connected: &mut Vec<NodeId>) -> usize {
        let parts = &mut self.parts;
        let now = parts.clock.now();
        let mut count = 0;
        for event in &self.events {
            count += 1;
            match event.token() {
                WAKER => {}
                CLIENT_LISTENER => parts.client_listener.wake(),
                SENTINEL_LISTENER => {
                    parts.sentinel_listener.iter_mut().for_each(Listener::wake);
                }
                PEER_LISTENER => parts.peer_listener.wake(),
                Token(token) if token >= CLIENTS_FROM => parts.clients.wake(token, event),
                Token(token) if token >= INBOUND_FROM => parts.inbound.wake(token, event),
                Token(token) => {
                    connected.extend(parts.links.wake(token, event, now, parts.poll.registry()));
                }
            }
        }
        count
    }

    /// Does what time alone calls for.
    fn tick(&mut self, now: Instant) {
        let parts = &mut self.parts;
        parts.clients.context.now = now;
        parts.clients.context.wall_clock =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (store_bytes, log_bytes) = parts.memory.store_and_log();
        parts.clients.note_memory(store_bytes, log_bytes);
        let context = &mut parts.clients.context;
        // In this order: an old number of resets with a newer clock does no harm.
        (context.clocks.jumps, context.clocks.resets) = parts.clocks.jumps_and_resets();
        context.clocks.replicated = parts.clocks.replicated(now).unwrap_or(0);
        let registry = parts.poll.registry();
        parts.links.connect(now, registry);
        parts.inbound.expire(now, registry);
        if now >= self.expiry_at {
            parts.clients.expire(now, &mut Pass::of_small(parts.clock, EXPIRY_COUNT));
            self.expiry_at = now + EXPIRY_INTERVAL;
        }
        parts.clients.sweep(now, registry);
        let lost = self.reads.overdue(now);
        parts.clients.take_back(&lost);
        if now >= self.wall_clock_at {
            self.wall_clock_at = now + WALL_CLOCK_INTERVAL;
            let peers: Vec<NodeId> = self.parts.links.peers().collect();
            for peer in peers {
                self.tell_wall_clock(peer, now);
            }
        }
        if self.facts_at.is_none_or(|at| now.since(at) >= FACTS_AGE) {
            self.refresh_facts(now);
        }
    }

    /// Tells a peer of this replica's wall clock, if it is connected. A new leader needs the
    /// wall clocks of a quorum at once.
    fn tell_wall_clock(&mut self, peer: NodeId, now: Instant) {
        if let Some(millis) = self.parts.clocks.own(now)
            && self.parts.links.is_heard(peer)
        {
            self.parts.links.send(peer, &Frame::WallClock { millis });
        }
    }

    /// Brings what clients are told up to date.
    fn refresh_facts(&mut self, now: Instant) {
        self.facts_at = Some(now);
        let parts = &mut self.parts;
        let status = parts.board.read();
        parts.memory.allow(parts.clients.memory_max());
        let context = &mut parts.clients.context;
        context.snapshot = SnapshotInfo::from(parts.saved.read());
        context.log_syncs = parts.counters.log_syncs.get();
        context.disk_free = parts.room.read().free;
        context.disk_reserve = parts.room.reserve;
        context.disk_refused = parts.counters.disk_full.get();
        context.resident_bytes = resident_bytes();
        context.clocks.agreed = parts.clocks.agreed(now);
        context.clocks.peers = parts.clocks.peers();
        if let Some(status) = status {
            context.first_index = status.base.index.next();
            context.term = status.term;
            context.role = status.role;
            context.durable_index = status.durable_index;
            context.disk = status.disk;
            let counters = &status.counters;
            context.counters = RaftCounters {
                disk_stalls: counters.disk_stalls,
                lease_reads: counters.lease_reads,
                read_index_reads: counters.read_index_reads,
                leadership_transfers: counters.leadership_transfers,
                terms_rejected: counters.terms_rejected,
                conflicts_rejected: counters.conflicts_rejected,
            };
            context.rejoining = status.rejoining.map(|status| RejoinProgress {
                waiting_for: status.waiting_for,
                target: status.target,
            });
            context.note_log(status.last.index, status.commit_index);
            for node in &mut context.nodes {
                let peer = status.peers.iter().find(|peer| peer.id == node.id);
                node.match_index = peer.map(|peer| peer.match_index);
                node.disk = peer.map_or(DiskState::Healthy, |peer| peer.disk);
                node.connected = node.id == parts.me || parts.links.is_up(node.id);
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        let parts = &mut self.parts;
        let registry = parts.poll.registry();
        for _ in 0..ACCEPTED_MAX {
            let Some(stream) = parts.client_listener.accept(now) else { break };
            parts.clients.accept(stream, false, now, registry);
        }
        if let Some(listener) = &mut parts.sentinel_listener {
            for _ in 0..ACCEPTED_MAX {
                let Some(stream) = listener.accept(now) else { break };
                parts.clients.accept(stream, true, now, registry);
            }
        }
        for _ in 0..ACCEPTED_MAX {
            let Some(stream) = parts.peer_listener.accept(now) else { break };
            parts.inbound.accept(stream, now, registry);
        }
    }

    /// What peers say: messages for the core, and requests that they pass on.
    fn receive_from_peers(&mut self, now: Instant) {
        let mut frames = std::mem::take(&mut self.frames);
        let core_has_room = self.core_has_room();
        let parts = &mut self.parts;
        parts.inbound.receive(
            now,
            core_has_room,
            parts.poll.registry(),
            &mut self.space,
            |from, opening, frame| {
                frames.push((from, opening, frame));
            },
        );
        if frames.is_empty() {
            self.frames = frames;
            return;
        }
        let leads = self.leadership.leader == Some(self.parts.me);
        let (mut messages, mut read_indexes) = (Vec::new(), Vec::new());
        let mut forwarded = Vec::new();
        let mut taken_back = Vec::new();
        for (from, opening, frame) in frames.drain(..) {
            match frame {
                Frame::Hello(hello) => {
                    self.parts.links.hurry(from, now);
                    self.introduce(from, &hello.client_address);
                }
                Frame::Peer(message) => {
                    let to = self.parts.me;
                    messages.push(Envelope { from, to, leader: None, message });
                }
                // By a reading after it came: what is older would make the peer's clock look later.
                Frame::WallClock { millis } => {
                    self.parts.clocks.hear(from, self.parts.clock.now(), millis);
                }
                // A peer speaks for its own clients only.
                Frame::Forward { key, .. } if parts_of(key.request).0 != from => {
                    self.parts.counters.ignored.add_one();
                }
                // Whoever passed it on may have room where this replica has none.
                Frame::Forward { key, attempt: Attempt::First { .. }, payload }
                    if leads && self.parts.clients.context.is_full && may_add_data(&payload) =>
                {
                    let reason = RefusalReason::OutOfMemory;
                    self.parts.links.send(from, &Frame::Refused { key, reason });
                }
                Frame::Forward { key, attempt, payload } if leads => {
                    let request = ClientRequest { key, kind: RequestKind::Write, payload };
                    forwarded.push(ForwardedWrite { attempt, request });
                }
                Frame::Forward { key, .. } => {
                    let reason = RefusalReason::NotLeader;
                    self.parts.links.send(from, &Frame::Refused { key, reason });
                }
                Frame::AskReadIndex { ticket } if leads => {
                    read_indexes.push(read_index_request(from, opening, ticket));
                }
                Frame::AskReadIndex { ticket } => {
                    self.parts.links.send(from, &Frame::ReadIndex { ticket, index: None });
                }
                Frame::Refused { key, reason } => {
                    if reason == RefusalReason::NotLeader {
                        self.refused_until = now + REFUSED_PAUSE;
                    }
                    self.refused(key, reason, &mut taken_back);
                }
                Frame::ReadIndex { ticket, index } => {
                    let reads = self.reads.take(from, ticket);
                    match index {
                        // Given up, or asked of another: the answer of an earlier leader says
                        // nothing of today's.
                        _ if reads.is_empty() => self.parts.counters.ignored.add_one(),
                        Some(index) => self.indexed_reads.push_back(IndexedReads { index, reads }),
                        None => {
                            self.refused_until = now + REFUSED_PAUSE;
                            taken_back.extend(reads.iter().map(|read| read.key));
                        }
                    }
                }
            }
        }
        self.parts.clients.take_back(&taken_back);
        if !messages.is_empty()
            && let Err(TrySendError::Full(CoreItem::Peers(messages))) =
                self.parts.ends.to_core.try_send(CoreItem::Peers(messages))
        {
            // They say it again by themselves.
            self.parts.counters.arrivals_dropped.add(messages.len());
        }
        self.hand_over_forwarded(forwarded);
        self.hand_over(read_indexes);
    }

    /// Tells the core that it has whatever peers had sent when `Poll` was last asked.
    fn note_peers_read(&mut self) {
        if let Some(polled_at) = self.polled_at.take()
            && !self.parts.inbound.is_readable(true)
        {
            self.parts.ends.peers_read.note(polled_at);
        }
    }

    /// Writes that were passed on, in the order in which they came, to the core. Where it has no
    /// room, only a first copy is known to come to nothing.
    fn hand_over_forwarded(&mut self, writes: Vec<ForwardedWrite>) {
        if writes.is_empty() {
            return;
        }
        let Err(TrySendError::Full(Requests::Forwarded(writes))) =
            self.parts.ends.requests.try_send(Requests::Forwarded(writes))
        else {
            return;
        };
        for ForwardedWrite { attempt, request } in writes {
            match attempt {
                Attempt::First { .. } => self.refuse_foreign(request.key, RefusalReason::Busy),
                Attempt::Again { .. } => self.parts.counters.again_dropped.add_one(),
            }
        }
    }

    /// Sends the writes again that another leader got, or that went a way which broke; true if that
    /// is done. Before anything new, so that nothing of one client overtakes anything else of it.
    fn resend(&mut self, route: Route) -> bool {
        let (leader, times) = match route {
            Route::Here => (self.parts.me, 0),
            Route::To(leader) => (leader, self.parts.links.times(leader)),
            Route::None => return false,
        };
        let way = Some((self.leadership.term, leader, times));
        if self.way != way {
            self.way = way;
            self.resend_from = Some(0);
        }
        let Some(mut from) = self.resend_from else { return true };
        let mut here = Vec::new();
        let mut pass = Pass::of_small(self.parts.clock, BATCH_REQUESTS_MAX);
        while let Some((number, key, pending)) =
            pass.next(|| self.parts.clients.next_to_resend(from))
        {
            from = number + 1;
            let Pending { payload, since, kind, .. } = pending;
            let attempt = Attempt::Again { since };
            if route == Route::Here {
                let request = ClientRequest { key, kind, payload };
                here.push(ForwardedWrite { attempt, request });
            } else if !self.parts.links.send(leader, &Frame::Forward { key, attempt, payload }) {
                self.parts.counters.again_dropped.add_one();
            }
        }
        self.resend_from = pass.is_over().then_some(from);
        self.hand_over_forwarded(here);
        self.resend_from.is_none()
    }

    /// Notes where a peer's clients connect.
    fn introduce(&mut self, peer: NodeId, address: &str) {
        let Some((host, port)) = address.rsplit_once(':') else { return };
        let Ok(port) = port.parse::<u16>() else { return };
        let context = &mut self.parts.clients.context;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if let Some(node) = context.nodes.iter_mut().find(|node| node.id == peer) {
            (node.host, node.port) = (host, port);
            return;
        }
        let peer_port = self.parts.links.port_of(peer);
        let (connected, match_index, disk) = (true, None, DiskState::Healthy);
        context.nodes.push(ReplicaInfo {
            id: peer,
            host,
            port,
            peer_port,
            connected,
            match_index,
            disk,
        });
        context.nodes.sort_by_key(|node| node.id);
    }

    /// Requests to the core. Where its queue is full, they are refused.
    fn hand_over(&mut self, requests: Vec<ClientRequest>) {
        if requests.is_empty() {
            return;
        }
        let Err(TrySendError::Full(Requests::Clients(requests))) =
            self.parts.ends.requests.try_send(Requests::Clients(requests))
        else {
            return;
        };
        let mut taken_back = Vec::new();
        for request in requests {
            if self.parts.clients.is_own(request.key) {
                taken_back.push(request.key);
            } else {
                self.refuse_foreign(request.key, RefusalReason::Busy);
            }
        }
        self.parts.clients.take_back(&taken_back);
    }

    /// Hands on what clients asked, as far as there is somebody to take it.
    fn dispatch(&mut self, now: Instant) {
        let route = self.route();
        self.dispatch_unfinished = false;
        if route == Route::None
            || (route == Route::Here && !self.core_has_room())
            || self.is_paused(now)
        {
            return;
        }
        if !self.resend(route) {
            self.dispatch_unfinished = true;
            return;
        }
        let attempt = Attempt::First { term: self.leadership.term };
        let to_core = route == Route::Here && self.parts.clients.has_waiting();
        let mut batch = Vec::with_capacity(if to_core { self.batch_len } else { 0 });
        let mut pass = Pass::of_small(self.parts.clock, BATCH_REQUESTS_MAX);
        let mut bytes = 0;
        let Parts { clients, links, .. } = &mut self.parts;
        let reads = &mut self.reads;
        clients.dispatch(route != Route::Here, |key, pending| {
            if bytes > BATCH_BYTES_MAX {
                pass.end();
            }
            let Some(payload) = pass.next(|| Some(pending.payload.clone())) else { return false };
            bytes += payload.len();
            let request = ClientRequest { key, kind: pending.kind, payload };
            match (route, pending.kind) {
                (Route::Here, _) => {
                    batch.push(request);
                    true
                }
                (Route::To(leader), RequestKind::Write) => {
                    links.send(leader, &Frame::Forward { key, attempt, payload: request.payload })
                }
                (Route::To(_), RequestKind::Read) => {
                    reads.gather(request);
                    true
                }
                (Route::None, _) => false,
            }
        });
        self.dispatch_unfinished = pass.is_over() && clients.has_waiting();
        if let Route::To(leader) = route
            && let Some(ticket) = reads.ask(leader, now)
            && !links.send(leader, &Frame::AskReadIndex { ticket })
        {
            let lost: Vec<RequestKey> =
                reads.take(leader, ticket).iter().map(|read| read.key).collect();
            clients.take_back(&lost);
        }
        if !batch.is_empty() {
            self.batch_len = batch.len();
            self.hand_over(batch);
        }
    }

    fn on_refusals(&mut self, refusals: &[Refusal]) {
        let mut taken_back = Vec::new();
        for refusal in refusals {
            if self.parts.clients.is_own(refusal.key) {
                self.refused(refusal.key, refusal.reason, &mut taken_back);
            } else {
                self.refuse_foreign(refusal.key, refusal.reason);
            }
        }
        self.parts.clients.take_back(&taken_back);
    }

    /// A request of a client here was refused, and certainly not done.
    fn refused(
        &mut self,
        key: RequestKey,
        reason: RefusalReason,
        taken_back: &mut Vec<RequestKey>,
    ) {
        match reason {
            RefusalReason::Busy => self.parts.clients.refused(key, Reason::Busy),
            RefusalReason::DiskFull => self.parts.clients.refused(key, Reason::DiskFull),
            RefusalReason::OutOfMemory => self.parts.clients.refused(key, Reason::OutOfMemory),
            RefusalReason::NotLeader | RefusalReason::Replaced => taken_back.push(key),
        }
    }

    /// A request that a peer passed on was refused.
    fn refuse_foreign(&mut self, key: RequestKey, reason: RefusalReason) {
        let (peer, number) = parts_of(key.request);
        let frame = if key.client == READ_INDEX_CLIENT {
            Frame::ReadIndex { ticket: number, index: None }
        } else {
            Frame::Refused { key, reason }
        };
        self.parts.links.send(peer, &frame);
    }

    /// Somebody else leads, or nobody. Who was asked before answers no more, or not for long.
    fn on_leadership(&mut self, leadership: Leadership) {
        self.leadership = leadership;
        self.refused_until = Instant::ZERO;
        let me = self.parts.me;
        let context = &mut self.parts.clients.context;
        (context.leader, context.term) = (leadership.leader, leadership.term);
        context.role =
            if leadership.leader == Some(me) { RoleName::Leader } else { RoleName::Follower };
        if let Some(leader) = leadership.leader {
            tracing::info!(term = leadership.term.0, %leader, "a leader is known");
            let before = self.last_leader.replace(leader).and_then(|before| context.node(before));
            let news = before.zip(context.node(leader)).filter(|(from, to)| from.id != to.id);
            if let Some((from, to)) = news {
                let message = switch_master_message(context, from, to);
                self.parts.clients.tell_channel(SWITCH_MASTER_CHANNEL, message.as_bytes());
            }
        } else {
            tracing::info!(term = leadership.term.0, "no leader is known");
        }
        let asked = self.reads.take_all();
        self.parts.clients.take_back(&asked);
        self.parts.clients.redirect();
    }

    /// Takes what the applier gives, until the pass is over.
    fn take_replies(&mut self, pass: &mut Pass) {
        while let Some(mut batch) = self
            .unfinished_replies
            .take()
            .or_else(|| pass.next(|| self.parts.ends.replies.try_recv().ok()))
        {
            // One event goes to any number of subscribers.
            while let Some(event) = pass.next(|| batch.events.pop_front()) {
                self.parts.clients.tell(&event);
            }
            if !batch.events.is_empty() {
                self.unfinished_replies = Some(batch);
                return;
            }
            self.on_replies(batch);
        }
    }

    /// Answers of the applier, for clients here and for peers.
    fn on_replies(&mut self, batch: ReplyBatch) {
        let context = &mut self.parts.clients.context;
        let installed = batch.applied.installed.map(|snapshot| snapshot.last.index);
        if let Some(index) = batch.applied.index.max(installed) {
            context.note_applied(index);
            context.key_count = batch.key_count as u64;
            context.expires_count = batch.expires_count as u64;
            context.state_digest = batch.digest;
        }
        for answer in batch.answers {
            self.parts.clients.answer(answer.key, answer.outcome);
        }
        for (key, index) in batch.read_indexes {
            let (peer, ticket) = parts_of(key.request);
            self.parts.links.send(peer, &Frame::ReadIndex { ticket, index: Some(index) });
        }
        self.applied.get_or_insert_default().merge(batch.applied);
    }

    fn send_to_peers(&mut self, envelopes: Vec<Envelope>) {
        for Envelope { to, message, .. } in envelopes {
            self.parts.links.send(to, &Frame::Peer(message));
        }
    }

    /// Tells the core what it can be told.
    fn tell_core(&mut self) {
        self.save |= std::mem::take(&mut self.parts.clients.save);
        if self.save && self.parts.ends.to_core.try_send(CoreItem::TakeSnapshot).is_ok() {
            self.save = false;
        }
        while let Some(reads) = self.indexed_reads.pop_front() {
            if let Err(refused) = self.parts.ends.to_core.try_send(CoreItem::IndexedReads(reads)) {
                if let CoreItem::IndexedReads(reads) = refused.into_inner() {
                    self.indexed_reads.push_front(reads);
                }
                break;
            }
        }
        if let Some(applied) = self.applied
            && self.parts.ends.to_core.try_send(CoreItem::Applied(applied)).is_ok()
        {
            self.applied = None;
        }
    }
}

impl NetworkStage for ServerNetwork {
    fn wait(&mut self, patience: Option<Duration>) -> io::Result<()> {
        let patience = self.patience(patience);
        let parts = &mut self.parts;
        let asleep = patience != Some(Duration::ZERO) && parts.wake.begin_sleep();
        let mut timeout = if asleep { patience } else { Some(Duration::ZERO) };
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
            if self.note_events(&mut connected) < EVENTS_MAX {
                self.polled_at = Some(now);
                break;
            }
            timeout = Some(Duration::ZERO);
        }
        // Before anything else: a vote must not come before the clock of who gives it.
        let now = self.parts.clock.now();
        for peer in connected {
            self.tell_wall_clock(peer, now);
        }
        Ok(())
    }

    fn receive(&mut self) -> StageState {
        let now = self.parts.clock.now();
        self.tick(now);
        self.accept(now);
        self.receive_from_peers(now);
        self.note_peers_read();
        let mut pass = Pass::of_large(self.parts.clock, PASS_CLIENTS_MAX);
        self.parts.clients.receive(self.parts.poll.registry(), &mut self.space, &mut pass);
        self.dispatch(now);
        self.tell_core();
        StageState::Running
    }

    fn send(&mut self) -> io::Result<()> {
        let now = self.parts.clock.now();
        // Whatever the marks are, each queue is looked into below, and again before we sleep; and
        // where the core shares this thread, it looks into its own before that.
        self.parts.wake.take_marks();
        self.parts.clients.context.now = now;
        let mut pass = Pass::of_small(self.parts.clock, 2 * QUEUE_LEN);
        while let Some(batch) = pass.next(|| self.parts.ends.outbound.try_recv().ok()) {
            if let Some(leadership) = batch.leadership {
                self.on_leadership(leadership);
            }
            self.on_refusals(&batch.refusals);
            self.send_to_peers(batch.peers);
        }
        while let Some(released) = pass.next(|| self.parts.ends.released.try_recv().ok()) {
            self.send_to_peers(released);
        }
        self.parts.links.flush(now, self.parts.poll.registry());
        let mut pass = Pass::of_large(self.parts.clock, PASS_EVENTS_MAX);
        self.take_replies(&mut pass);
        self.dispatch(now);
        let registry = self.parts.poll.registry();
        let mut pass = Pass::of_large(self.parts.clock, PASS_CLIENTS_MAX);
        self.parts.clients.flush(registry, &mut pass);
        // What clients asked, for the leader.
        self.parts.links.flush(now, registry);
        self.tell_core();
        Ok(())
    }

    fn stop_others(self) {
        // An error means that it has ended already.
        let _ = self.parts.ends.to_core.send(CoreItem::Stop);
    }
}

impl From<SnapshotStatus> for SnapshotInfo {
    fn from(facts: SnapshotStatus) -> SnapshotInfo {
        let SnapshotStatus { index, bytes, saved_at, taking, failed } = facts;
        SnapshotInfo { index: Index(index), bytes, saved_at, taking, failed }
    }
}

/// Memory that the system has given this process, 0 if it does not say.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// In the place of a client: a peer that asks for a read index. Clients are counted from 1.
const READ_INDEX_CLIENT: ClientId = ClientId(0);

/// A peer's question, as the core takes it: a read of nothing.
fn read_index_request(from: NodeId, opening: u64, ticket: u64) -> ClientRequest {
    let request = request_id(origin_of(from, opening), ticket);
    let key = RequestKey { client: READ_INDEX_CLIENT, request };
    ClientRequest { key, kind: RequestKind::Read, payload: Bytes::new() }
}
