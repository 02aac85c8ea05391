//! From received bytes to requests: parses the requests in the bytes, lets `redis` execute them,
//! performs the resulting actions, and sends the requests that the core must answer.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::feature_level::FeatureLevel;
use crate::kv::Outcome;
use crate::raft::{ClientRequest, RequestKind};
use crate::redis::{
    Action, BufferBytes, CallStatus, ClientKill, ClientList, ClientQuery, CommandNumber,
    Connection, Context, LoggedRequest, ReplyFormat, ScriptFacts, ScriptRequest, SlowLogSettings,
    USERS_UNKNOWN,
};
use crate::wire::resp::{Limits, Writer};

use super::Clients;
use crate::runtime::channels::{AdminCall, AdminCaller, QUEUE_LEN, ScriptJobs, SnapshotRead};
use crate::runtime::pass::Pass;
use crate::runtime::server::clients::batches::is_large;
use crate::runtime::server::clients::client::{Client, SentTo};
use crate::runtime::server::clients::in_flight::InFlight;
use crate::runtime::server::clients::request::Request;
use crate::runtime::server::clients::unconfirmed_users::{Held, hold_for_users};
use crate::runtime::server::freshness::{LagCheck, StateAge};
use crate::runtime::server::sockets::descriptors;
use crate::runtime::server::sockets::slab::Slab;
use crate::snapshot_check::snapshot_id;

/// Maximum capacity in bytes of the shared reply buffer that is kept for reuse. A larger buffer is
/// freed after use.
const REPLY_BYTES_KEPT: usize = 64 << 10;

/// The destination of the requests that [`Clients::dispatch`] takes from the clients' queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// All requests are sent to the Raft core of this replica, which is the leader.
    Core,
    /// Only reads are sent to the Raft core of this replica, which is the leader. Writes wait so
    /// that more of them fit into one batch.
    CoreReads,
    /// All requests go to the leader, which is another replica: writes are forwarded to it, and for
    /// reads a read index is requested from it, except for those that accept the lag of this
    /// replica's own state.
    Leader(StateAge),
    /// Only reads that accept the lag of this replica's own state are answered, from that state. No
    /// leader can be asked, so all other requests wait.
    Own(StateAge),
}

impl Target {
    /// Decides whether a request may be answered from this replica's own state.
    fn check(self, request: &Request) -> LagCheck {
        match (self, request.lag_max) {
            (Target::Leader(age) | Target::Own(age), Some(lag_max)) => age.check(lag_max),
            _ => LagCheck::TooOld,
        }
    }
}

/// Maximum number of requests with scripts that are sent together, as a group.
const SCRIPTS_MAX: usize = 256;

/// Requests to be sent, in batches, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Dispatched {
    /// Batches for the Raft core or the leader.
    pub(crate) batches: Vec<ClientRequest>,
    /// Batches of reads that this replica answers from its own state.
    pub(crate) lagging_reads: Vec<ClientRequest>,
    /// Whether the state will soon be too old for reads like these (see [`LagCheck::Aging`]).
    pub(crate) is_aging: bool,
    /// Requests with scripts for the applier; `None` for none.
    pub(crate) scripts: Option<Box<ScriptJobs>>,
}

impl Clients {
    /// Parses and executes the complete requests of the client at `index`, as far as the client's
    /// reply budget (limit on unsent replies) allows. The bytes in `received` follow the unparsed
    /// input that earlier calls have kept. Input that this call does not parse is kept for later
    /// calls.
    pub(super) fn parse(&mut self, index: usize, received: &[u8], pass: &Pass) {
        let commands_before = self.context.traffic.commands;
        let mut answered_here = false;
        let mut used = 0;
        let client = self.connected.get_mut(index).expect("the client exists");
        // Usually no input is kept, and the received bytes are parsed without a copy.
        let directly = client.input.is_empty();
        let mut incomplete = false;
        if !directly {
            let available = client.input.len() + received.len();
            client.input.extend(received, client.parser.missing_bytes(available));
        }
        while self.may_parse_next(index) {
            let client = self.connected.get_mut(index).expect("the client exists");
            let Client { parser, connection, input, held_until, .. } = client;
            let bytes = if directly { received } else { input.unparsed() };
            let used_before = used;
            let request = match parser.next(bytes, &mut used) {
                Ok(Some(request)) => request,
                Ok(None) => {
                    // The rest of a partial request can no longer arrive.
                    client.closing |= client.ended;
                    incomplete = true;
                    break;
                }
                Err(error) => {
                    Writer::new(&mut self.reply, connection.version())
                        .error(error.to_string().as_bytes());
                    if error.is_fatal() {
                        self.counters.clients_closed.add_one();
                        client.closing = true;
                        self.send_reply(index);
                        break;
                    }
                    connection.refuse_unparsed();
                    self.send_reply(index);
                    continue;
                }
            };
            if self.unconfirmed_users.is_some() {
                let (now, wait) = (self.context.now, self.timeouts.leader_wait);
                match hold_for_users(Connection::needs_users(request), held_until, now, wait) {
                    Held::No => {}
                    Held::Until(until) => {
                        used = used_before;
                        self.pause(index, until);
                        break;
                    }
                    Held::TooLong => {
                        Writer::new(&mut self.reply, connection.version())
                            .error(USERS_UNKNOWN.as_bytes());
                        self.send_reply(index);
                        continue;
                    }
                }
            }
            self.context.traffic.commands += 1;
            let logged = self.slow_log.are_all_logged().then(|| LoggedRequest::new(request));
            let action =
                connection.execute(request, &self.context, &mut self.settings, &mut self.reply);
            if action == Action::Postpone {
                used = used_before;
                self.postpone(index);
                break;
            }
            let shown = connection.take_shown();
            let status = connection.call_status();
            let submits = action.submits();
            self.failed = false;
            match status {
                CallStatus::Called(command) => {
                    self.perform(index, action, command);
                    if !submits {
                        self.context.statistics.note_call(command, self.failed);
                        self.log_answered_here(index, logged, pass);
                        answered_here = true;
                    }
                }
                CallStatus::Rejected(command) => {
                    self.perform(index, action, command);
                    self.context.statistics.count_rejected(command);
                }
                CallStatus::NotCounted => self.perform(index, action, CommandNumber::default()),
            }
            self.finish_request(index, &shown);
        }
        if answered_here {
            self.count_answered(commands_before, pass);
        }
        let client = self.connected.get_mut(index).expect("the client exists");
        if directly {
            client.input.extend(&received[used..], 0);
        } else if used > 0 {
            client.input.advance(used);
        }
        client.partial_since = match client.partial_since {
            _ if client.input.is_empty() || !incomplete => None,
            Some(since) if used == 0 => Some(since),
            _ => Some(self.context.now),
        };
    }

    /// Adds a request that was answered without the state machine to the slow log, if that has
    /// every request (`slowlog-log-slower-than 0`); otherwise, `request` is `None`.
    fn log_answered_here(&mut self, index: usize, request: Option<LoggedRequest>, pass: &Pass) {
        let Some(request) = request else { return };
        let (wall_clock, entries_max) = (self.context.wall_clock, self.slow_log.entries_max);
        let client = self.connected.get_mut(index).expect("the client exists");
        let (elapsed, connection) = (pass.since_reading(), &client.connection);
        let log = &mut self.context.slow_log;
        log.add_answered(request, elapsed, wall_clock, connection, entries_max);
    }

    /// Blocks the replica for `time` (`DEBUG SLEEP`), and replies to the client at `index`. Adds
    /// the request to the slow log and to the latency samples, where these are enabled.
    fn sleep(&mut self, index: usize, time: Duration) {
        std::thread::sleep(time);
        let SlowLogSettings { threshold, entries_max, latency_threshold } = self.slow_log;
        let wall_clock = self.context.wall_clock;
        if latency_threshold.is_some_and(|limit| time >= limit) {
            self.context.slow_log.add_latency_sample(time, wall_clock);
        }
        // With a threshold of 0, every request is added after its reply.
        if threshold.is_some_and(|limit| !limit.is_zero() && time >= limit) {
            let client = self.connected.get_mut(index).expect("the client exists");
            let seconds = time.as_secs_f64().to_string();
            let request = LoggedRequest::of_arguments(&[b"debug", b"sleep", seconds.as_bytes()]);
            let log = &mut self.context.slow_log;
            log.add_answered(request, time, wall_clock, &client.connection, entries_max);
        }
        self.send_reply(index);
    }

    /// Counts the calls of requests that were answered without the state machine. All requests of
    /// the input, whose number was `commands_before` at its start, get the same share of the time.
    fn count_answered(&mut self, commands_before: u64, pass: &Pass) {
        // If the clock were read for each request, that would take longer than most of them.
        let commands = self.context.traffic.commands.saturating_sub(commands_before).max(1);
        let share = pass.since_reading() / u32::try_from(commands).unwrap_or(u32::MAX);
        self.context.statistics.count_noted(share);
    }

    /// Does what remains to be done after a request of the client at `index` was executed. `shown`
    /// are the commands that monitors are shown.
    fn finish_request(&mut self, index: usize, shown: &Bytes) {
        let client = self.client(index);
        if client.observed != client.connection.observation_changes() {
            self.follow_observation(index);
        }
        if !shown.is_empty() {
            self.show(shown);
        }
        let client = self.client(index);
        if client.connection.has_denial() {
            self.log_denial(index);
        } else if client.parser.is_before_login() == client.connection.is_logged_in() {
            self.limit_before_login(index);
        }
    }

    /// Returns the maximum length of an argument of a request, in bytes: at most the default limit,
    /// because longer arguments would not fit into a log entry.
    pub(super) fn bulk_bytes_max(&self) -> usize {
        Limits::default().bulk_bytes_max.min(self.settings.value_bytes_max())
    }

    /// Performs `action`, which is the result of executing `command` for the client at `index`. If
    /// the command already has its reply, the reply is in `self.reply`.
    fn perform(&mut self, index: usize, action: Action, command: CommandNumber) {
        match action {
            Action::Reply => self.send_reply(index),
            Action::Submit { kind, operation, mut reply_format, redirect_slot, blocks } => {
                reply_format
                    .list_clients(|query| list_clients(&mut self.connected, query, &self.context));
                let client = self.connected.get_mut(index).expect("the client exists");
                if client.connection.is_muted() {
                    reply_format.mute();
                }
                let is_read = kind == RequestKind::Read;
                let lag_max = client.connection.lag_max().filter(|_| is_read);
                self.lagging_reads |= lag_max.is_some();
                let slot = client.next_slot();
                client.blocked_on = blocks.then_some(slot);
                let may_wait = blocks && client.connection.may_wait();
                let is_cached = client.connection.caches_reads();
                let arrived_at = self.context.now;
                let request = InFlight { index, client: client.id, slot, arrived_at, command };
                let sequence = self.in_flight.add(request);
                client.push_request(Request {
                    kind,
                    operation,
                    reply_format,
                    sequence,
                    redirect_slot,
                    lag_max,
                    script: None,
                    is_cached,
                });
                if may_wait {
                    self.begin_blocking(index, slot, command);
                }
            }
            Action::ListClients(query) => {
                let list = list_clients(&mut self.connected, query, &self.context);
                self.reply.extend_from_slice(&list);
                self.send_reply(index);
            }
            Action::KillClients(kill) => self.kill_clients(index, *kill),
            Action::Unblock { id, with_error } => self.reply_to_unblock(index, id, with_error),
            Action::KillScript { .. }
            | Action::ShowFunctionStats(_)
            | Action::PauseClients { .. }
            | Action::UnpauseClients
            | Action::Log(_)
            | Action::ReturnFreeMemory => {
                self.administer_here(&action);
                self.send_reply(index);
            }
            Action::Postpone => unreachable!("the request is kept in the input"),
            Action::GeneratePassword(digits) => {
                self.write_password(index, digits);
                self.send_reply(index);
            }
            Action::ResetStatistics(statistics) => {
                self.context.reset(statistics);
                self.send_reply(index);
            }
            Action::Sleep(time) => self.sleep(index, time),
            Action::WriteOnlyHere(write) => {
                self.board.write_locally(write);
                self.send_reply(index);
            }
            Action::UpdateSubscriptions(changes) => {
                self.update_subscriptions(index, &changes);
                // As in Redis, these confirmations count as messages.
                self.client(index).connection.unmute();
                self.send_reply(index);
            }
            Action::TakeSnapshot => {
                self.snapshot_requested = true;
                self.send_reply(index);
            }
            Action::Administer { request, reply_format } => {
                let caller = AdminCaller::Client(self.block(index, command, reply_format));
                self.admin_calls.push_back(AdminCall { caller, request });
            }
            Action::ReadSnapshot { part, reply_format } => {
                let sequence = self.block(index, command, reply_format);
                let part = part.map(|(snapshot, offset)| (snapshot_id(snapshot), offset));
                self.add_snapshot_read(SnapshotRead { sequence, part });
            }
            Action::SendKeys(request) => self.begin_file(index, command, request),
            Action::ApplySettings => {
                self.apply_settings();
                self.send_reply(index);
            }
            Action::CountNestedCalls(reply_format) => {
                self.note_nested_calls(reply_format.nested_calls(&Outcome::List(Vec::new())));
            }
            Action::Sequence(actions) => {
                for action in actions {
                    self.perform(index, action, command);
                }
            }
            Action::Close => {
                self.client(index).closing = true;
                self.send_reply(index);
            }
        }
    }

    pub(super) fn add_snapshot_read(&mut self, read: SnapshotRead) {
        if self.snapshot_reads.len() >= QUEUE_LEN {
            // Some may have exceeded their timeouts.
            let in_flight = &self.in_flight;
            self.snapshot_reads.retain(|read| in_flight.get(read.sequence).is_some());
        }
        self.snapshot_reads.push_back(read);
    }

    /// Closes the connections that `kill` selects, and replies to the client at `index`, which
    /// asked for it and may be one of them.
    fn kill_clients(&mut self, index: usize, mut kill: ClientKill) {
        for (other, client) in self.connected.iter_mut() {
            if kill.matches(&client.connection) {
                if other == index {
                    client.closing = true;
                } else {
                    self.to_close.push((other, client.id));
                }
            }
        }
        kill.finish(&mut self.reply);
        self.send_reply(index);
    }

    /// Blocks the client at `index` until its request, which is not an operation of the state
    /// machine, has a reply. Returns the sequence number of the request.
    pub(super) fn block(
        &mut self,
        index: usize,
        command: CommandNumber,
        mut reply_format: ReplyFormat,
    ) -> u64 {
        let arrived_at = self.context.now;
        let client = self.connected.get_mut(index).expect("the client exists");
        if client.connection.is_muted() {
            reply_format.mute();
        }
        let slot = client.next_slot();
        client.blocked_on = Some(slot);
        let entry = InFlight { index, client: client.id, slot, arrived_at, command };
        let sequence = self.in_flight.add(entry);
        client.push_sent(Request {
            kind: RequestKind::Read,
            operation: Bytes::new(),
            reply_format,
            sequence,
            redirect_slot: None,
            lag_max: None,
            script: None,
            is_cached: false,
        });
        sequence
    }

    /// Adapts the number of clients that fit, since peers need file descriptors, too.
    pub(crate) fn follow_member_count(&mut self) {
        let reserved = self.reserved_descriptors();
        let clients_max = descriptors::raise_limit(self.settings.clients_max(), reserved);
        self.settings.set_clients_allowed(descriptors::clients_allowed(reserved));
        self.settings.set_clients_max(clients_max);
    }

    fn reserved_descriptors(&self) -> u64 {
        descriptors::reserved(self.context.peer_count(), self.other_descriptors)
    }

    /// Applies the settings that `CONFIG SET` may have changed: those of the slow log, statistics,
    /// keyspace notifications, number of clients and length of arguments.
    fn apply_settings(&mut self) {
        self.slow_log = self.settings.slow_log();
        self.context.slow_log.shorten(self.slow_log.entries_max);
        self.context.statistics.track_latency(self.settings.tracks_latency());
        descriptors::raise_limit(self.settings.clients_max(), self.reserved_descriptors());
        let bulk_bytes_max = self.bulk_bytes_max();
        for (_, client) in self.connected.iter_mut() {
            client.parser.set_bulk_bytes_max(bulk_bytes_max);
        }
        self.publish_subscribers();
        let users = self.context.access.users().clone();
        self.set_users(&users);
    }

    /// Sends `self.reply` to the client at `index`, after the replies to the client's earlier
    /// requests.
    pub(super) fn send_reply(&mut self, index: usize) {
        if self.reply.is_empty() {
            return;
        }
        if self.reply[0] == b'-' {
            self.failed = true;
            self.context.statistics.count_error(&self.reply[1..]);
        }
        let client = self.connected.get_mut(index).expect("the client exists");
        if client.connection.is_muted() {
            self.reply.clear();
            return;
        }
        if client.has_no_slots() {
            client.socket.outbound.open().extend_from_slice(&self.reply);
        } else {
            client.push_reply(Bytes::copy_from_slice(&self.reply));
        }
        self.reply.clear();
        if self.reply.capacity() > REPLY_BYTES_KEPT {
            self.reply = BytesMut::new();
        }
    }

    /// Takes the clients' waiting requests that may be sent now, until `admits` returns false for
    /// the length in bytes of the next request's operation. Returns the requests in order, in
    /// batches of at most `operations_max`. The caller must send all of them to the Raft core, the
    /// leader or the applier, or return them by calling [`Clients::requeue`].
    pub(crate) fn dispatch(
        &mut self,
        target: Target,
        operations_max: usize,
        mut admits: impl FnMut(usize) -> bool,
    ) -> Dispatched {
        if !self.batches.has_many_bytes() {
            // Those that have waited come first.
            let later = std::mem::take(&mut self.to_dispatch);
            for index in std::mem::take(&mut self.held) {
                self.mark_dispatch(index);
            }
            self.to_dispatch.extend(later);
        }
        let mut refused = false;
        self.begin_batches(target, operations_max);
        self.send_effects(target);
        // After those that may continue were added.
        let mut indexes = std::mem::replace(&mut self.to_dispatch, std::mem::take(&mut self.spare));
        let mut jobs = Vec::new();
        let runs_scripts = !self.scripts.are_busy(&self.batches);
        let mut is_aging = false;
        for index in indexes.drain(..) {
            let Some(client) = self.connected.get_mut(index) else { continue };
            client.marks.dispatch = false;
            if target == Target::CoreReads && client.next_kind() == Some(RequestKind::Write) {
                self.mark_dispatch(index);
                continue;
            }
            let mut has_no_leader = false;
            if !refused {
                let (batches, context) = (&mut self.batches, &mut self.context);
                let (mut waits, mut waits_for_scripts, mut is_paused) = (false, false, false);
                let user = client.next_script_user();
                client.dispatch(context.now, |request, may_lag| {
                    let check = if may_lag { target.check(request) } else { LagCheck::TooOld };
                    has_no_leader = check == LagCheck::TooOld && matches!(target, Target::Own(_));
                    if has_no_leader {
                        return SentTo::None;
                    }
                    let Request { kind, sequence, operation, script, .. } = request;
                    if request.reply_format.is_script() && script.is_none() {
                        let now = context.now;
                        is_paused =
                            context.pause.is_some_and(|pause| pause.holds_script(now, operation));
                        if is_paused {
                            return SentTo::None;
                        }
                        waits_for_scripts = !runs_scripts || jobs.len() >= SCRIPTS_MAX;
                        let Some(user) = user.clone().filter(|_| !waits_for_scripts) else {
                            return SentTo::None;
                        };
                        let operation = operation.clone();
                        let (format, is_cached) = (&request.reply_format, request.is_cached);
                        let job = ScriptRequest::new(user, operation, format, is_cached);
                        jobs.push((*sequence, job));
                        return SentTo::Script;
                    }
                    let script_check = script.as_mut().and_then(|script| script.check.as_mut());
                    let operation = script_check.unwrap_or(operation);
                    let is_large = *kind == RequestKind::Write && is_large(operation);
                    waits = *kind == RequestKind::Write && batches.must_wait(operation);
                    if waits {
                        return SentTo::None;
                    }
                    refused = !admits(operation.len());
                    if refused {
                        return SentTo::None;
                    }
                    if check != LagCheck::TooOld {
                        batches.add_lagging_read(*sequence, operation);
                        context.lagging_reads += 1;
                        is_aging |= check == LagCheck::Aging;
                        return SentTo::OwnState;
                    }
                    if is_large {
                        *operation = batches.add_large(*sequence, std::mem::take(operation));
                    } else {
                        batches.add(*kind, *sequence, operation);
                    }
                    SentTo::Leader
                });
                if waits {
                    self.held.push(index);
                }
                if waits_for_scripts {
                    self.scripts.hold(index);
                } else if is_paused {
                    self.scripts.pause(index);
                }
            }
            // A client that waits for outcomes of its own is marked again when these arrive.
            if (refused || has_no_leader) && client.has_waiting() {
                self.mark_dispatch(index);
            }
        }
        self.spare = indexes;
        self.finish_batches(jobs, is_aging)
    }

    fn begin_batches(&mut self, target: Target, operations_max: usize) {
        let now = (self.context.applied_index, self.context.now);
        // Version 0.1 does not know the field, and its users never change.
        let has_field = self.context.members.feature_level >= FeatureLevel::V0_2;
        let revision = has_field.then(|| self.context.access.users_revision());
        self.batches.begin(matches!(target, Target::Leader(_)), now, operations_max, revision);
    }

    /// Returns the batches that were begun, and the requests with scripts that are to be run.
    fn finish_batches(&mut self, jobs: Vec<(u64, ScriptRequest)>, is_aging: bool) -> Dispatched {
        let (batches, lagging_reads) = self.batches.finish();
        self.begin_trace(&batches);
        let facts = || ScriptFacts::new(&self.context, &self.settings);
        let scripts = (!jobs.is_empty()).then(|| Box::new(ScriptJobs { facts: facts(), jobs }));
        self.scripts.begin(scripts.as_deref());
        Dispatched { batches, lagging_reads, is_aging, scripts }
    }
}

/// Returns the reply to a command that lists clients, such as `CLIENT LIST` or `CLIENT INFO`.
fn list_clients(connected: &mut Slab<Client>, query: ClientQuery, context: &Context) -> Bytes {
    let mut list = ClientList::new(query);
    for (_, client) in connected.iter_mut() {
        let buffers = BufferBytes {
            incoming: client.input.len(),
            outgoing: client.socket.outbound.len(),
            memory: client.counted_bytes,
        };
        list.add(&client.connection, context.now, buffers);
    }
    let mut out = BytesMut::new();
    list.finish(&mut out);
    out.freeze()
}
