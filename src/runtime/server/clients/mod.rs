//! Connections of Redis clients: reads and parses the clients' requests, lets `redis` execute them,
//! submits those that the core must answer, and sends all replies in order.
//!
//! | file | contents |
//! |---|---|
//! | `requests` | from received bytes to requests for the core |
//! | `replies` | from outcomes and refusals to replies |
//! | `client`, `request` | one connection; one request and its state |
//! | `input` | received bytes that are not parsed yet |
//! | `scripts` | requests with scripts, from their runs to their effects |
//! | `batches` | batches of requests, from building to their outcomes |
//! | `in_flight` | requests without an outcome, by sequence number |
//! | `memory` | the memory usage of all clients combined |
//! | `pubsub` | messages to subscribers |
//! | `tracking`, `tracking_table` | invalidations for clients that cache values |
//! | `monitors`, `pause` | `MONITOR`, `CLIENT PAUSE` |
//! | `prefixes` | the search for the prefixes of a key |
//! | `tls` | connections on which TLS has failed |
//! | `users`, `logins` | changes of the users; failed logins |
//! | `unconfirmed_users` | requests that arrive before the users are known |
//! | `waiting` | clients that wait for changes of keys, or for other replicas |
//! | `key_files`, `key_file` | files of all keys for `SYNC` |
//! | `key_queues` | the order in which clients that wait for a key are woken |
//! | `timeouts` | requests that wait too long, idle connections, redirects to a new leader |
//!
//! Everything is bounded: the replies to one client, the replies that it leaves unread, and the
//! memory of all clients combined. At a bound no more requests of the client are executed, and its
//! socket is no longer read, so that its buffers fill up. A client that reads no replies at all may
//! be about to send all its requests first, so after a while they are received, but not executed.

mod batches;
mod client;
mod in_flight;
mod input;
mod key_file;
mod key_files;
mod key_queues;
mod logins;
mod memory;
mod monitors;
mod pause;
mod prefixes;
mod pubsub;
mod replies;
pub(crate) mod request;
mod requests;
mod scripts;
#[cfg(test)]
mod tests;
mod timeouts;
mod tls;
mod traces;
mod tracking;
mod tracking_table;
mod unconfirmed_users;
mod users;
mod waiting;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::redis::{Connection, Context, Settings, SlowLogSettings};
use crate::runtime::boards::{ApplierBoard, RuntimeCounters};
use crate::runtime::channels::{AdminCall, SnapshotRead};
use crate::runtime::pass::Pass;
use crate::runtime::server::refusal_log::RefusalLog;
use crate::runtime::server::sockets::slab::Slab;
use crate::runtime::server::sockets::socket::Socket;
use crate::runtime::stages::applier::ORIGIN_BYTES;
use crate::runtime::trace_board::TraceBoard;
use crate::tls::Session;
use crate::transport::connection::ReadResult;
use crate::types::{ClientId, Instant, RequestKey};
use crate::wire::resp::{Limits, Parser, Version, Writer};

use self::batches::Batches;
use self::client::{Client, READ_AHEAD_DELAY};
use self::in_flight::InFlightTable;
use self::logins::FailedLogins;
use self::memory::ClientMemory;
use self::scripts::Scripts;
use self::traces::Traces;
use self::tracking::TrackingClients;
use self::waiting::WaitingClients;

pub(crate) use self::batches::SentBatch;
pub(crate) use self::requests::{Dispatched, Target};
pub use self::timeouts::Timeouts;

/// Number of bytes after which a pass (iteration of the stage's loop) stops reading from clients,
/// so that peers are not delayed. Both the received bytes and the memory growth that they cause are
/// counted towards this limit.
const PASS_BYTES_MAX: usize = 4 << 20;
/// Time without a request after which a client that follows redirects is taken to have moved to the
/// new leader, when this server stops.
const REDIRECTED_IDLE: Duration = Duration::from_millis(50);

/// The connections of all clients, with their requests and subscriptions.
pub(crate) struct Clients {
    connected: Slab<Client>,
    in_flight: InFlightTable,
    waiting: WaitingClients,
    scripts: Scripts,
    tracking: TrackingClients,
    /// Indexes of the clients that are monitors.
    monitors: BTreeSet<usize>,
    /// Indexes of the clients whose next request is postponed by `CLIENT PAUSE`.
    postponed: BTreeSet<usize>,
    batches: Batches,
    first_token: usize,
    next_id: u32,
    timeouts: Timeouts,
    settings: Settings,
    /// The values that commands such as `INFO` report about this replica.
    pub(crate) context: Context,
    memory: ClientMemory,
    logins: FailedLogins,
    /// The clients whose requests are not parsed until a time, because a login has failed.
    paused: Vec<(Instant, usize, ClientId)>,
    /// The revision of the users with which this process started, as long as no leader has
    /// confirmed that the users are current; `None` once one has.
    unconfirmed_users: Option<u64>,
    /// Time of the last search for idle connections.
    swept_at: Instant,
    /// The sequence number of the request with which the next call of [`Clients::expire`]
    /// continues.
    expire_from: u64,
    /// Indexes of the clients that have input to read or to parse.
    to_read: Vec<usize>,
    /// Indexes of the clients that have input to read, but must wait because memory is scarce and
    /// they use more than a small amount of it.
    stalled: Vec<usize>,
    /// Indexes of the clients that have input to read, but whose reply budget (limit on unsent
    /// replies) is used up.
    unread: Vec<usize>,
    /// When the clients in `unread` were last checked.
    read_ahead_at: Instant,
    /// Indexes of the clients that have requests to send to the Raft core or to the leader.
    to_dispatch: Vec<usize>,
    /// Indexes of the clients whose next request is a write that waits for the outcomes of others.
    held: Vec<usize>,
    /// Indexes of the clients that have replies waiting to be written to their sockets.
    to_flush: Vec<usize>,
    /// An empty list that is swapped with one of the index lists to reuse its memory.
    spare: Vec<usize>,
    /// Buffer for the reply to the command that is being executed.
    reply: BytesMut,
    /// Whether the reply to the command that is being executed is an error.
    failed: bool,
    /// Whether a client has ever sent a read that accepts a lag.
    lagging_reads: bool,
    /// Whether a client has requested a snapshot (`BGSAVE`) since the network stage last checked.
    pub(crate) snapshot_requested: bool,
    /// Number of requests for free memory to be returned to the operating system (`MEMORY PURGE`)
    /// since the network stage last checked.
    pub(crate) trim_requests: u64,
    /// Administrative requests that the network stage has not sent to the Raft core yet, oldest
    /// first.
    pub(crate) admin_calls: VecDeque<AdminCall>,
    /// Clients' reads of a snapshot (`SNAPSHOT READ`) that the network stage has not sent to the
    /// snapshots stage yet, oldest first; at most one for each client.
    pub(crate) snapshot_reads: VecDeque<SnapshotRead>,
    /// Clients to disconnect in the next pass (iteration of the stage's loop), even if they have
    /// not received all their replies.
    to_close: Vec<(usize, ClientId)>,
    slow_log: SlowLogSettings,
    board: Arc<ApplierBoard>,
    /// Limits the log lines about connections on which TLS has failed.
    tls_refusals: RefusalLog<tls::Refusal>,
    /// When the last outcomes of writes arrived.
    outcomes_at: Instant,
    /// The last time at which the applier was seen to be running a long operation.
    applier_resumed_at: Instant,
    counters: Arc<RuntimeCounters>,
    traces: Traces,
    /// Number of file descriptors that are neither for clients nor for peers, and that not every
    /// replica needs.
    other_descriptors: u64,
}

impl Clients {
    /// Creates an empty table of clients. `origin` is the beginning of the ids of all batches of
    /// clients' requests; the `Poll` tokens of the connections start at `first_token`.
    pub(crate) fn new(
        origin: [u8; ORIGIN_BYTES],
        first_token: usize,
        timeouts: Timeouts,
        context: Context,
        settings: Settings,
        board: Arc<ApplierBoard>,
        counters: Arc<RuntimeCounters>,
    ) -> Clients {
        let memory = ClientMemory::new(settings.clients_bytes_max());
        let slow_log = settings.slow_log();
        Clients {
            connected: Slab::default(),
            in_flight: InFlightTable::default(),
            waiting: WaitingClients::default(),
            scripts: Scripts::default(),
            tracking: TrackingClients::default(),
            monitors: BTreeSet::new(),
            postponed: BTreeSet::new(),
            batches: Batches::new(origin),
            first_token,
            next_id: 1,
            timeouts,
            settings,
            context,
            memory,
            logins: FailedLogins::default(),
            paused: Vec::new(),
            unconfirmed_users: None,
            swept_at: Instant::ZERO,
            expire_from: 0,
            to_read: Vec::new(),
            stalled: Vec::new(),
            unread: Vec::new(),
            read_ahead_at: Instant::ZERO,
            to_dispatch: Vec::new(),
            held: Vec::new(),
            to_flush: Vec::new(),
            spare: Vec::new(),
            reply: BytesMut::new(),
            failed: false,
            lagging_reads: false,
            snapshot_requested: false,
            trim_requests: 0,
            admin_calls: VecDeque::new(),
            snapshot_reads: VecDeque::new(),
            to_close: Vec::new(),
            slow_log,
            board,
            tls_refusals: RefusalLog::default(),
            outcomes_at: Instant::ZERO,
            applier_resumed_at: Instant::ZERO,
            counters,
            traces: Traces::default(),
            other_descriptors: 0,
        }
    }

    /// Reserves `count` more file descriptors for other purposes than clients and peers.
    pub(crate) fn with_other_descriptors(mut self, count: u64) -> Clients {
        self.other_descriptors = count;
        self
    }

    /// Sets the board that has the write that is being traced.
    pub(crate) fn with_trace(mut self, board: Arc<TraceBoard>) -> Clients {
        self.traces = Traces::new(board);
        self
    }

    /// Returns whether a client has ever sent a read that accepts a lag.
    pub(crate) fn has_lagging_reads(&self) -> bool {
        self.lagging_reads
    }

    /// Adds a client's connection, or closes it with an error if the maximum number of clients is
    /// connected. `tls` is the state of TLS before the handshake; `None` for a plain connection.
    /// `on_sentinel_port` says whether the client has connected to the additional
    /// address for Sentinel commands.
    pub(crate) fn accept(
        &mut self,
        stream: TcpStream,
        tls: Option<Session>,
        on_sentinel_port: bool,
        now: Instant,
        registry: &Registry,
    ) {
        let peer = stream.peer_addr().ok();
        let ip = peer.map(|peer| peer.ip().to_canonical());
        let address = peer.map(|address| address.to_string()).unwrap_or_default();
        let local = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
        let token = Token(self.first_token + self.connected.next_index());
        let Ok(mut socket) = Socket::new(stream, registry, token, true, tls) else { return };
        if self.connected.len() as u64 >= self.settings.clients_max() {
            self.counters.clients_refused.add_one();
            self.context.traffic.connections_refused += 1;
            Writer::new(socket.outbound.open(), Version::Two)
                .error(b"ERR max number of clients reached");
            // One attempt: the connection is closed in any case. With TLS, it would be before the
            // handshake, so the client gets no error.
            let _ = socket.flush();
            socket.close(registry);
            return;
        }
        socket.set_keep_alive(self.settings.keep_alive());
        self.counters.clients_accepted.add_one();
        let id = ClientId(self.next_id);
        // Never 0, which stands for peers that request a read index.
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let connection = Connection::new(self.counters.clients_accepted.get(), address, local, now);
        let mut connection =
            if on_sentinel_port { connection.on_sentinel_port() } else { connection };
        connection.begin_login(&self.context.access);
        let mut parser = Parser::new(Limits::default());
        parser.set_bulk_bytes_max(self.bulk_bytes_max());
        let budget = self.memory.budget(self.connected.len() + 1);
        let mut client = Client::new(id, socket, connection, parser, now, budget);
        client.address = ip;
        let number = client.connection.id();
        let index = self.connected.insert(client);
        self.context.client_indexes.insert(number, index);
        self.context.traffic.clients = self.connected.len() as u64;
        self.context.traffic.connections += 1;
        if !self.client(index).connection.is_logged_in() {
            self.limit_before_login(index);
            self.pause_new_client(index);
        }
        self.count_memory(index);
        self.mark_read(index);
    }

    /// Handles a `Poll` event of the client connection with this token.
    pub(crate) fn on_event(&mut self, token: usize, event: &mio::event::Event) {
        let index = token - self.first_token;
        let Some(client) = self.connected.get_mut(index) else { return };
        client.socket.on_event(event);
        let (reads, flushes) = (client.is_readable(), client.socket.can_flush());
        let leaves = client.has_left();
        if reads {
            self.mark_read(index);
        }
        if flushes {
            self.mark_flush(index);
        }
        if leaves {
            // Its socket is not read while it waits.
            self.end_wait(index);
        }
    }

    /// Returns whether the socket of any client may be read now.
    pub(crate) fn is_readable(&self) -> bool {
        !self.to_read.is_empty() || !self.stalled.is_empty() && self.memory.admits_large()
    }

    /// Returns whether replies of any client can be written now.
    pub(crate) fn is_writable(&self) -> bool {
        !self.to_flush.is_empty()
    }

    /// Returns whether any client has requests that are waiting to be sent.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.to_dispatch.is_empty()
    }

    /// Returns whether clients' waiting writes should be delayed to form a larger batch, because
    /// small batches of writes are already in flight.
    pub(crate) fn gathers_writes(&self) -> bool {
        self.batches.are_small_batches_ahead()
    }

    /// Returns whether the batch with this key was created by this process.
    pub(crate) fn is_own(&self, key: RequestKey) -> bool {
        self.batches.is_own(key)
    }

    /// Returns the key of a batch of operations of the replica itself, for which no client waits.
    pub(crate) fn key_without_client(&self) -> RequestKey {
        self.batches.key_without_client()
    }

    /// Returns whether the applier has found that the state of this replica is wrong.
    pub(crate) fn state_is_wrong(&self) -> bool {
        self.board.state_is_wrong()
    }

    /// Reads once from each client that has input, and parses the client's requests, until the
    /// limits of `pass` (number of clients and time) or [`PASS_BYTES_MAX`] are reached.
    pub(crate) fn receive(&mut self, registry: &Registry, space: &mut [u8], pass: &mut Pass) {
        if self.memory.admits_large() {
            self.to_read.append(&mut self.stalled);
        }
        let mut indexes = std::mem::replace(&mut self.to_read, std::mem::take(&mut self.spare));
        let mut bytes_left = PASS_BYTES_MAX;
        let mut served = 0;
        while let Some(index) = pass.next(|| indexes.get(served).copied()) {
            served += 1;
            let Some(client) = self.connected.get_mut(index) else { continue };
            client.marks.read = false;
            let before = self.memory.used_bytes();
            let count = self.read(index, registry, space, pass);
            let grown = self.memory.used_bytes().saturating_sub(before);
            if self.memory.is_exceeded() {
                self.close_largest(registry);
            }
            bytes_left = bytes_left.saturating_sub(count + grown);
            if bytes_left == 0 {
                pass.end();
            }
        }
        // Clients that were not served come first in the next pass.
        indexes.drain(..served);
        indexes.append(&mut self.to_read);
        self.spare = std::mem::replace(&mut self.to_read, indexes);
    }

    /// Reads the socket of the client at `index` once and parses all complete requests. Returns the
    /// number of bytes read.
    fn read(&mut self, index: usize, registry: &Registry, space: &mut [u8], pass: &Pass) -> usize {
        let budget = self.memory.budget(self.connected.len());
        let now = self.context.now;
        let client = self.client(index);
        client.set_budget(budget);
        let may_parse = client.may_parse();
        if !may_parse && !client.may_read_ahead(now) {
            let is_full = client.is_full_and_readable();
            if is_full && !std::mem::replace(&mut client.marks.unread, true) {
                self.unread.push(index);
            }
            self.memory.release_turn(index);
            return 0;
        }
        let counted_bytes = client.counted_bytes;
        if !self.memory.may_grow(index, counted_bytes) {
            self.client(index).marks.read = true;
            self.stalled.push(index);
            return 0;
        }
        let mut count = 0;
        let client = self.connected.get_mut(index).expect("the client exists");
        if client.is_readable() {
            match client.socket.read(space) {
                ReadResult::Bytes(length) => {
                    count = length;
                    client.active_at = self.context.now;
                    self.context.traffic.bytes_in += count as u64;
                    self.context.traffic.reads += 1;
                }
                ReadResult::WouldBlock => {}
                ReadResult::Closed if client.socket.tls_failure().is_some() => {
                    self.close_failed(index, registry);
                    return 0;
                }
                ReadResult::Closed if client.has_no_slots() && client.input.is_empty() => {
                    self.close(index, registry);
                    return 0;
                }
                // The client may still want its replies.
                ReadResult::Closed => client.ended = true,
            }
        }
        if self.is_stray_handshake(index, &space[..count]) {
            self.close_stray(index, registry);
            return 0;
        }
        self.parse(index, &space[..count], pass);
        let client = self.client(index);
        let again = client.is_readable() && (client.may_parse() || client.is_over_budget());
        let waiting = client.has_waiting();
        if again {
            self.mark_read(index);
        }
        if waiting {
            self.mark_dispatch(index);
        }
        self.mark_flush(index);
        self.count_memory(index);
        if !may_parse {
            // Other clients may receive large requests in the meantime.
            self.memory.release_turn(index);
        }
        count
    }

    /// Returns the time at which [`Clients::read_ahead`] is due; `None` if no client has requests
    /// in its socket while its reply budget (limit on unsent replies) is used up.
    pub(crate) fn next_read_ahead(&self) -> Option<Instant> {
        (!self.unread.is_empty()).then(|| self.read_ahead_at + READ_AHEAD_DELAY)
    }

    /// Allows the server to receive requests from those clients whose reply budget (limit on unsent
    /// replies) is used up and that have read no replies for some time.
    pub(crate) fn read_ahead(&mut self, now: Instant) {
        if now < self.read_ahead_at + READ_AHEAD_DELAY {
            return;
        }
        self.read_ahead_at = now;
        for index in std::mem::take(&mut self.unread) {
            let Some(client) = self.connected.get_mut(index) else { continue };
            client.marks.unread = false;
            // If it is too early, this adds the client to `unread` again.
            self.mark_read(index);
        }
    }

    /// Updates the memory usage of the client at `index` in the total memory usage of all clients.
    fn count_memory(&mut self, index: usize) {
        let Some(client) = self.connected.get_mut(index) else { return };
        let bytes = client.memory_bytes();
        self.memory.update(index, client.counted_bytes, bytes);
        client.counted_bytes = bytes;
        let bytes = self.memory.used_bytes() + self.tracking.table_bytes();
        self.context.clients_bytes = bytes as u64;
    }

    /// Disconnects the clients that use the most memory, until the total memory usage of all
    /// clients is within the limit.
    fn close_largest(&mut self, registry: &Registry) {
        while self.memory.is_exceeded() {
            let clients = self.connected.iter_mut();
            let evictable = clients.filter(|(_, client)| client.connection.may_be_evicted());
            let largest = evictable.max_by_key(|(_, client)| client.counted_bytes);
            let Some((index, client)) = largest else { return };
            tracing::warn!(
                client = client.connection.id(),
                bytes = client.counted_bytes,
                "client disconnected: maxmemory-clients is exceeded, and it uses the most memory"
            );
            self.counters.clients_closed.add_one();
            self.context.traffic.clients_evicted += 1;
            self.close(index, registry);
        }
    }

    /// Stores the memory usage of the keyspace and of the log, in bytes, for `INFO` and the memory
    /// limit.
    pub(crate) fn set_memory(&mut self, store_bytes: u64, log_bytes: u64) {
        let context = &mut self.context;
        context.dataset_bytes = store_bytes;
        context.log_bytes = log_bytes;
        context.used_memory = store_bytes + log_bytes + context.clients_bytes;
        context.used_memory_peak = context.used_memory_peak.max(context.used_memory);
        let limit = self.settings.memory_max();
        context.is_full = limit > 0 && context.used_memory > limit;
    }

    /// Returns the current settings of this replica.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the memory limit of the replica, in bytes; 0 for no limit.
    pub(crate) fn memory_max(&self) -> u64 {
        self.settings.memory_max()
    }

    /// Returns the log growth after which a snapshot begins: a percentage of the latest snapshot's
    /// size (0 if only the memory limit bounds the growth), and a minimum in bytes.
    pub(crate) fn rewrite_growth(&self) -> (u64, u64) {
        self.settings.rewrite_growth()
    }

    /// Writes once to each client that has replies to send, until the limits of `pass` (number of
    /// clients and time) are reached. Closes the connections of clients that are finished. While
    /// the memory usage of all clients combined exceeds the limit, also closes the connections of
    /// the clients that use the most memory.
    pub(crate) fn flush(&mut self, registry: &Registry, pass: &mut Pass) {
        let now = self.context.now;
        self.close_marked(registry);
        let mut indexes = std::mem::replace(&mut self.to_flush, std::mem::take(&mut self.spare));
        let mut served = 0;
        while let Some(index) = pass.next(|| indexes.get(served).copied()) {
            served += 1;
            let Some(client) = self.connected.get_mut(index) else { continue };
            client.marks.flush = false;
            let was_over_budget = client.is_over_budget();
            let before = client.socket.outbound.len();
            let failed = client.socket.can_flush() && client.socket.flush().is_err();
            let sent = before - client.socket.outbound.len();
            self.context.traffic.bytes_out += sent as u64;
            if sent > 0 {
                (client.active_at, client.written_at) = (now, now);
                client.update_backlog();
                self.context.traffic.writes += 1;
            }
            // The remaining replies are written in the next pass, so that a client with many
            // replies does not delay the others.
            client.encode_replies();
            let again = client.socket.can_flush();
            if failed || client.is_finished() {
                self.close(index, registry);
                continue;
            }
            if again {
                self.mark_flush(index);
            }
            self.count_memory(index);
            let client = self.client(index);
            let has_input = client.has_input();
            let waiting = client.has_waiting();
            if was_over_budget && !client.is_over_budget() {
                client.on_budget_freed(now);
            }
            if was_over_budget && sent > 0 && waiting {
                self.mark_dispatch(index);
            }
            if before > 0 && has_input {
                self.mark_read(index);
            }
        }
        if self.memory.is_exceeded() {
            self.close_largest(registry);
        }
        // Clients that were not served come first in the next pass.
        indexes.drain(..served);
        indexes.append(&mut self.to_flush);
        self.spare = std::mem::replace(&mut self.to_flush, indexes);
    }

    /// Returns the number of connected clients.
    pub(crate) fn len(&self) -> usize {
        self.connected.len()
    }

    /// Closes the connections of all clients whose requests have their replies, after reading each
    /// socket once more, before the server stops. If `spares_redirected` is true, spares clients
    /// that follow redirects until they have sent nothing for [`REDIRECTED_IDLE`], since they move
    /// to the new leader.
    pub(crate) fn close_drained(
        &mut self,
        spares_redirected: bool,
        registry: &Registry,
        space: &mut [u8],
        pass: &mut Pass,
    ) {
        let now = self.context.now;
        let is_spared = |client: &Client| {
            spares_redirected
                && client.connection.follows_redirects()
                && now < client.active_at + REDIRECTED_IDLE
        };
        let drained = self.connected.iter_mut().filter_map(|(index, client)| {
            (client.is_drained() && !is_spared(client)).then_some(index)
        });
        for index in drained.collect::<Vec<_>>() {
            self.client(index).socket.assume_readable();
            self.read(index, registry, space, pass);
            // `read` closes a connection that the client has closed.
            if self.connected.get_mut(index).is_some_and(|client| client.is_drained()) {
                self.close(index, registry);
            }
        }
    }

    fn close(&mut self, index: usize, registry: &Registry) {
        let Some(mut client) = self.connected.remove(index) else { return };
        self.unsubscribe_all(index, &mut client);
        self.forget_wait(index);
        self.forget_tracking(index);
        self.forget_postponed(index);
        self.set_monitor(index, false);
        self.context.client_indexes.remove(&client.connection.id());
        client.socket.close(registry);
        self.memory.update(index, client.counted_bytes, 0);
        self.context.traffic.clients = self.connected.len() as u64;
        for sequence in client.unanswered() {
            self.in_flight.remove(sequence);
        }
    }

    /// Disconnects the clients in `to_close`, even if they have not received all their replies.
    fn close_marked(&mut self, registry: &Registry) {
        for (index, id) in std::mem::take(&mut self.to_close) {
            if self.connected.get_mut(index).is_some_and(|client| client.id == id) {
                self.counters.clients_closed.add_one();
                self.close(index, registry);
            }
        }
    }

    /// Returns the client at `index`, which must exist.
    fn client(&mut self, index: usize) -> &mut Client {
        self.connected.get_mut(index).expect("the client exists")
    }

    /// Adds the client at `index` to the list of clients to read, unless it is already listed.
    fn mark_read(&mut self, index: usize) {
        if let Some(client) = self.connected.get_mut(index)
            && !std::mem::replace(&mut client.marks.read, true)
        {
            self.to_read.push(index);
        }
    }

    /// Adds the client at `index` to the list of clients with requests to send, unless it is
    /// already listed.
    fn mark_dispatch(&mut self, index: usize) {
        if let Some(client) = self.connected.get_mut(index)
            && !std::mem::replace(&mut client.marks.dispatch, true)
        {
            self.to_dispatch.push(index);
        }
    }

    /// Adds the client at `index` to the list of clients to write to, unless it is already listed.
    fn mark_flush(&mut self, index: usize) {
        if let Some(client) = self.connected.get_mut(index)
            && !std::mem::replace(&mut client.marks.flush, true)
        {
            self.to_flush.push(index);
        }
    }
}
