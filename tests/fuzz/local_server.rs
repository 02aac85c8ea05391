//! A server with a single connection, without sockets and other replicas: it handles Redis requests
//! with a store that applies writes at once. Used for fuzzing, and for comparisons with a real
//! Redis.

use std::sync::Arc;
use std::time::Duration;

use bowline::feature_level::FeatureLevel;
use bowline::kv::{Batch, BatchBuffer, Operation, Outcome, ScriptEffects, StateMachine};
use bowline::lua::StopFlag;
use bowline::membership::ChangeRefusal;
use bowline::raft::{DiskState, RequestKind, TransferRefusal};
use bowline::redis::{
    Action, AdminAnswer, AdminRequest, BufferBytes, ClientList, ClientQuery, Connection, Context,
    MembersOutcome, ReplicaInfo, ReplyFormat, ScriptBudget, ScriptClock, ScriptFacts,
    ScriptRequest, ScriptRun, ScriptRunner, ScriptUser, Settings, Statistics, resolve_users,
    write_admin_reply, write_function_stats, write_snapshot_part,
};
use bowline::types::{ClientId, Instant, NodeId, RequestId, RequestKey};
use bowline::wire::resp::{Limits, Parser, Version, Writer};
use bytes::{Bytes, BytesMut};

/// The server, its store, and its only connection.
pub(crate) struct LocalServer {
    parser: Parser,
    connection: Connection,
    context: Context,
    settings: Settings,
    store: StateMachine,
    /// The setting `requirepass` that the users have.
    password: String,
    runner: Option<Box<ScriptRunner>>,
    unused: Vec<u8>,
    replies: BytesMut,
    closed: bool,
}

impl LocalServer {
    /// Creates a server with an empty store.
    pub(crate) fn new(limits: Limits) -> LocalServer {
        let (id, host) = (NodeId(1), "127.0.0.1".to_owned());
        let me = ReplicaInfo {
            id,
            host,
            port: 7001,
            peer_port: 8001,
            connected: true,
            match_index: None,
            path: None,
            disk: DiskState::Healthy,
            program: None,
        };
        let mut context = Context::alone(me, 7, Instant::ZERO);
        context.members.feature_level = FeatureLevel::NEWEST;
        context.leader = Some(id);
        context.wall_clock = Duration::from_micros(1_700_000_000_123_456);
        let (address, local_address) = ("127.0.0.1:50000".to_owned(), "127.0.0.1:7001".to_owned());
        LocalServer {
            parser: Parser::new(limits),
            connection: Connection::new(3, address, local_address, Instant::ZERO),
            context,
            settings: Settings::new(&limits, "127.0.0.1", 7001, "data"),
            store: StateMachine::default(),
            password: String::new(),
            runner: None,
            unused: Vec::new(),
            replies: BytesMut::new(),
            closed: false,
        }
    }

    /// Closes the connection and opens a new one to the same store.
    #[allow(dead_code, reason = "not all users need several connections")]
    pub(crate) fn connect_again(&mut self, limits: Limits) {
        let (address, here) = ("127.0.0.1:50000".to_owned(), "127.0.0.1:7001".to_owned());
        self.connection = Connection::new(3, address, here, self.context.now);
        self.connection.begin_login(&self.context.access);
        self.parser = Parser::new(limits);
        self.parser.limit_before_login(!self.connection.is_logged_in());
        self.unused.clear();
        self.closed = false;
    }

    /// Sets the maximum size of a command in the log, in bytes.
    #[allow(dead_code, reason = "only the test of the limit needs it")]
    pub(crate) fn allow_payload(&mut self, bytes: usize) {
        self.context.payload_bytes_max = bytes;
    }

    /// Returns the memory usage of the connection in bytes.
    #[allow(dead_code, reason = "not all users need it")]
    pub(crate) fn held_bytes(&self) -> usize {
        self.connection.held_bytes()
    }

    /// Processes bytes that the client has sent.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.unused.extend_from_slice(bytes);
        let mut used = 0;
        while !self.closed {
            let request = match self.parser.next(&self.unused, &mut used) {
                Ok(Some(request)) => request,
                Ok(None) => break,
                Err(error) => {
                    let mut writer = Writer::new(&mut self.replies, Version::Two);
                    writer.error(error.to_string().as_bytes());
                    self.closed = true;
                    break;
                }
            };
            let index = self.store.applied_index().next();
            let key = RequestKey {
                client: ClientId(3),
                request: RequestId(u128::from(index.0).to_le_bytes()),
            };
            let (context, settings) = (&self.context, &mut self.settings);
            let (connection, out) = (&mut self.connection, &mut self.replies);
            let step = connection.execute(request, context, settings, out);
            self.act(key, step);
            if let Some(denial) = self.connection.take_denial() {
                let client = self.connection.description(self.context.now);
                self.context.acl_log.add(*denial, client, self.context.wall_clock);
            }
            self.follow_users();
            self.parser.limit_before_login(!self.connection.is_logged_in());
        }
        self.unused.drain(..used);
    }

    /// Performs the action `step` for a request.
    fn act(&mut self, key: RequestKey, step: Action) {
        let (connection, out) = (&mut self.connection, &mut self.replies);
        match step {
            Action::ResetStatistics(Statistics::AclLog) => self.context.acl_log.clear(),
            Action::GeneratePassword(digits) => {
                Writer::new(out, connection.version()).bulk(&vec![b'0'; digits]);
            }
            Action::Reply
            | Action::TakeSnapshot
            | Action::ResetStatistics(_)
            | Action::Sleep(_)
            | Action::PauseClients { .. }
            | Action::UnpauseClients
            | Action::ReturnFreeMemory
            | Action::WriteOnlyHere(_)
            | Action::Log(_)
            | Action::CountNestedCalls(_)
            | Action::ApplySettings => {}
            Action::Sequence(steps) => {
                for step in steps {
                    self.act(key, step);
                }
            }
            Action::ShowFunctionStats(version) => {
                write_function_stats(None, self.store.kept_scripts(), version, out);
            }
            Action::KillScript { .. } => {
                Writer::new(out, Version::Two).error(b"NOTBUSY No scripts in execution right now.");
            }
            Action::Postpone => unreachable!("clients are never paused here"),
            // Its own connection does not wait.
            Action::Unblock { .. } => out.extend_from_slice(b":0\r\n"),
            Action::UpdateSubscriptions(changes) => {
                Arc::make_mut(&mut self.context.subscriptions).apply(1, &changes);
            }
            Action::KillClients(mut kill) => {
                self.closed |= kill.matches(connection);
                kill.finish(out);
            }
            Action::Submit { operation, reply_format, .. } if reply_format.is_script() => {
                self.run_script(key, operation, &reply_format);
            }
            Action::Submit { kind, operation, mut reply_format, blocks, .. } => {
                let mut buffer = BatchBuffer::default();
                buffer.push(&operation);
                if kind == RequestKind::Write {
                    buffer.set_users_revision(Some(self.context.access.users_revision()));
                }
                let payload = buffer.finish(key, true);
                reply_format.list_clients(|query| list(query, connection, &self.context));
                let (named, outcomes) = if kind == RequestKind::Write {
                    let applied = self.store.apply_batch(&payload);
                    assert!(!applied.repeated);
                    (applied.key, applied.outcomes)
                } else {
                    self.store.read(&payload).expect("it was submitted as a read")
                };
                assert_eq!((named, outcomes.len()), (key, 1));
                if blocks {
                    connection.complete_blocked(&reply_format, &outcomes[0], out);
                } else {
                    reply_format.encode(&outcomes[0], out);
                }
            }
            Action::Administer { request, reply_format } => {
                let answer = match request {
                    AdminRequest::Transfer(_) => {
                        AdminAnswer::Transfer(Err(TransferRefusal::NoTarget))
                    }
                    AdminRequest::ChangeMembers { .. } => {
                        AdminAnswer::Members(MembersOutcome::Refused(ChangeRefusal::NewLeader))
                    }
                };
                if !reply_format.is_muted() {
                    write_admin_reply(answer, &self.context, out);
                }
            }
            Action::ReadSnapshot { reply_format, .. } => {
                if !reply_format.is_muted() {
                    write_snapshot_part(None, out);
                }
            }
            Action::ListClients(query) => {
                out.extend_from_slice(&list(query, connection, &self.context));
            }
            Action::SendKeys(_) | Action::Close => self.closed = true,
        }
    }

    /// Runs a request with scripts, and applies its effects.
    fn run_script(&mut self, key: RequestKey, operation: Bytes, reply_format: &ReplyFormat) {
        let runner = self.runner.get_or_insert_default();
        runner.begin(&self.store, &ScriptFacts::new(&self.context, &self.settings));
        let user = ScriptUser::of(&self.connection);
        let request = ScriptRequest::new(user, operation, reply_format, false);
        let (instructions, steps, stop) = (10_000_000, 10_000_000, StopFlag::default());
        let clock = ScriptClock::new(|| Instant::ZERO);
        let (time, code_bytes) = (Duration::from_secs(1), usize::MAX);
        let budget = ScriptBudget { instructions, steps, time, code_bytes, stop, seed: 1, clock };
        match runner.run(&self.store, &request, &budget) {
            ScriptRun::Ended { reply, effects, .. } => {
                let (mut buffer, mut is_write) = (BatchBuffer::default(), false);
                match effects {
                    ScriptEffects::None => {}
                    ScriptEffects::Check(check) => buffer.push(&check),
                    ScriptEffects::Apply(effects) => {
                        buffer.push(&effects);
                        buffer.set_users_revision(Some(self.context.access.users_revision()));
                        is_write = true;
                    }
                }
                if is_write {
                    let outcomes = self.store.apply_batch(&buffer.finish(key, true)).outcomes;
                    assert_eq!(outcomes, [Outcome::Done], "nothing else changes the store");
                } else if !buffer.is_empty() {
                    let (_, outcomes) = self.store.read(&buffer.finish(key, true)).expect("reads");
                    assert_ne!(outcomes, [Outcome::NoList], "nothing else changes the store");
                }
                self.connection.complete_scripts(&reply);
                self.connection.cancel_blocked();
                if !reply_format.is_muted() {
                    self.replies.extend_from_slice(&reply);
                }
            }
            _ => self.replies.extend_from_slice(b"-ERR the script runs for too long\r\n"),
        }
    }

    /// Takes over changes of the users and of the password in the settings.
    fn follow_users(&mut self) {
        let (users, password) = (self.store.users(), self.settings.password());
        let is_current = users.revision() == self.context.access.users_revision();
        if !is_current || self.password != password {
            password.clone_into(&mut self.password);
            self.context.access = resolve_users(users, password);
            self.closed |= !self.connection.follow_users(&self.context.access);
        }
    }

    /// Sets the wall clock and the replicated clock to `now`, the time since 1970.
    #[allow(dead_code, reason = "not all users need clocks")]
    pub(crate) fn move_clock(&mut self, now: Duration) {
        self.context.wall_clock = now;
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.context.clocks.replicated = millis;
        let operation = Operation::Clock { millis, resets: 0 };
        let payload = Batch::encode(RequestKey::default(), false, &[operation]);
        self.store.apply_batch(&payload);
    }

    /// Returns the replies since the last call.
    pub(crate) fn replies(&mut self) -> Vec<u8> {
        self.replies.split().to_vec()
    }

    /// Returns whether the server has closed the connection.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }
}

/// Returns the reply to `CLIENT LIST`.
fn list(query: ClientQuery, connection: &Connection, context: &Context) -> Bytes {
    let (mut list, mut out) = (ClientList::new(query), BytesMut::new());
    list.add(connection, context.now, BufferBytes::default());
    list.finish(&mut out);
    out.freeze()
}
