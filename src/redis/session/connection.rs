//! All state of one client's connection, and the connection's line in `CLIENT LIST`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::kv::{DEFAULT_USER, DatabaseId};
use crate::redis::acl_log::{Denial, DenialContext, DenialReason};
use crate::redis::permissions::Permissions;
use crate::redis::statistics::CallStatus;
use crate::types::Instant;
use crate::wire::resp::Version;

use super::changes_wait::ChangesWait;
use super::file_options::FileOptions;
use super::stream_wait::StreamWait;
use super::subscriptions::{ClientSubscriptions, SubscriptionChange};
use super::tracking::Observation;
use super::transaction::Transaction;
use super::waits::PopWait;

/// Which replies to the client are suppressed because of `CLIENT REPLY`.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::redis) struct ReplyMode {
    /// Whether all replies are suppressed, from `CLIENT REPLY OFF` to `CLIENT REPLY ON`.
    pub(in crate::redis) off: bool,
    /// Whether the reply to the next request is suppressed, after `CLIENT REPLY SKIP`.
    pub(in crate::redis) skip_next: bool,
    /// Whether the reply to the current request is suppressed, because of `off` or `skip_next`.
    pub(in crate::redis) muted: bool,
}

impl ReplyMode {
    /// Sets `muted` at the start of a request, according to whether the reply to this request is
    /// suppressed.
    pub(in crate::redis) fn begin_request(&mut self) {
        self.muted = self.off || std::mem::take(&mut self.skip_next);
    }
}

/// The protocol state of one client's connection, such as its name, its transaction and its
/// subscriptions.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Id of the connection, which `CLIENT ID` returns; unique within the process.
    pub(in crate::redis) id: u64,
    /// Address of the client, as `host:port`.
    pub(in crate::redis) address: String,
    /// Address of the server on this connection, as `host:port`.
    pub(in crate::redis) local_address: String,
    /// RESP protocol version in which replies are written (RESP2 or RESP3), set by `HELLO`.
    pub(in crate::redis) version: Version,
    /// Name of the connection, set by `CLIENT SETNAME`; empty if it has none.
    pub(in crate::redis) name: Vec<u8>,
    /// Name of the client library, set by `CLIENT SETINFO`; empty if unknown.
    pub(in crate::redis) library_name: Vec<u8>,
    pub(in crate::redis) library_version: Vec<u8>,
    /// Whether the client has asked for the hash slots of the cluster, for example with `CLUSTER
    /// SLOTS`, and therefore can follow `MOVED` redirects.
    pub(in crate::redis) follows_redirects: bool,
    /// The database in which the connection's commands run. A connection that follows redirects
    /// always uses database 0.
    pub(in crate::redis) database: DatabaseId,
    /// The database that the client has asked for, if it was refused although Redis has it: no
    /// command may run in another one in its place. Clients overlook the refusal.
    pub(in crate::redis) refused_database: Option<DatabaseId>,
    /// Whether the client has sent `READONLY`, so that this replica answers the client's reads even
    /// if it is not the leader.
    pub(in crate::redis) reads_from_followers: bool,
    /// The lag that the client accepts for its reads at a follower (`READONLY MAXLAG`); `None` if
    /// it accepts none.
    pub(in crate::redis) lag_max: Option<Duration>,
    pub(in crate::redis) subscriptions: ClientSubscriptions,
    /// Whether the client is connected to the Sentinel port, on which `ROLE` returns the role
    /// `sentinel`.
    pub(in crate::redis) is_on_sentinel_port: bool,
    pub(in crate::redis) transaction: Transaction,
    /// The command that blocks the connection: no later request is executed before the command's
    /// outcome is known. `None` if the connection is not blocked.
    pub(in crate::redis) blocked: Option<Blocked>,
    pub(in crate::redis) reply_mode: ReplyMode,
    pub(in crate::redis) connected_at: Instant,
    /// Position of the connection's previous command in the command table, where the lookup of the
    /// next command looks first.
    pub(in crate::redis) last_position: usize,
    /// Full name of the last valid command of the client, such as `config|set`, for `CLIENT LIST`.
    pub(in crate::redis) last_command: &'static str,
    pub(in crate::redis) last_command_at: Instant,
    /// How the latest request counts in the statistics of commands.
    pub(in crate::redis) call_status: CallStatus,
    /// The permissions of the user that the client is logged in as; `None` if it must log in
    /// first.
    pub(in crate::redis) permissions: Option<Arc<Permissions>>,
    /// What was denied to the latest request; `None` if nothing was.
    pub(in crate::redis) denial: Option<Box<Denial>>,
    /// Client-side caching, and whether the client is a monitor.
    pub(in crate::redis) observation: Observation,
    /// What the client has said about the file that `SYNC` returns.
    pub(in crate::redis) file_options: FileOptions,
    pub(in crate::redis) eviction: Eviction,
}

/// Whether the server may disconnect a client because all clients together use too much memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::redis) enum Eviction {
    #[default]
    Allowed,
    /// The client has sent `CLIENT NO-EVICT ON`.
    Never,
}

/// A command that blocks its connection: no later request is executed before the command's outcome
/// is known.
#[derive(Debug, Clone)]
pub(in crate::redis) enum Blocked {
    /// A `WATCH` of these keys of the connection's database, which waits for the keys' revisions.
    /// A key's revision is a number that changes whenever the key changes.
    Watch(Vec<Bytes>),
    /// An `EXEC` with watched keys. Contains the state of the connection before the `EXEC`, which
    /// is restored if the transaction aborts, because the queued commands may already have changed
    /// the state of the connection.
    Exec(Box<Connection>),
    /// A `CHANGES` that waits for a change.
    Changes(Box<ChangesWait>),
    /// A request such as `BLPOP` that waits for an element to take.
    Pop(Box<PopWait>),
    /// An `XREAD` or `XREADGROUP` that waits for entries.
    Streams(Box<StreamWait>),
    /// A `WAIT` or `WAITAOF` that waits for other replicas.
    Replicas(ReplicaWait),
}

/// A `WAIT` or `WAITAOF`, which waits until earlier writes are durable on other replicas.
#[derive(Debug, Clone, Copy)]
pub(in crate::redis) struct ReplicaWait {
    /// When the wait ends; `None` for never.
    pub(in crate::redis) until: Option<Instant>,
    /// Number of other replicas to wait for.
    pub(in crate::redis) count: usize,
    /// Whether the reply also has the number of local logs that have the writes (`WAITAOF`).
    pub(in crate::redis) with_local: bool,
}

/// Memory usage of one connection in bytes, for `CLIENT LIST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BufferBytes {
    /// Number of received bytes that have not been parsed yet.
    pub incoming: usize,
    /// Number of bytes of replies that have not been sent to the client yet.
    pub outgoing: usize,
    /// Total memory usage of the connection, in bytes, including its buffers.
    pub memory: usize,
}

impl Connection {
    /// Returns whether the client may be disconnected because all clients together use too much
    /// memory.
    pub fn may_be_evicted(&self) -> bool {
        self.eviction == Eviction::Allowed
    }

    /// Returns the state of a new connection, which uses RESP2 and may send all commands until
    /// [`Connection::begin_login`] is called. `id` must be unique within the
    /// process. `address` is the client's address and `local_address` the server's, both as
    /// `host:port`.
    pub fn new(id: u64, address: String, local_address: String, now: Instant) -> Connection {
        Connection {
            id,
            address,
            local_address,
            version: Version::Two,
            name: Vec::new(),
            library_name: Vec::new(),
            library_version: Vec::new(),
            follows_redirects: false,
            database: DatabaseId::FIRST,
            refused_database: None,
            reads_from_followers: false,
            lag_max: None,
            subscriptions: ClientSubscriptions::default(),
            is_on_sentinel_port: false,
            transaction: Transaction::default(),
            blocked: None,
            reply_mode: ReplyMode::default(),
            connected_at: now,
            last_position: 0,
            last_command: "NULL",
            last_command_at: now,
            call_status: CallStatus::NotCounted,
            permissions: Some(Permissions::unrestricted()),
            denial: None,
            observation: Observation::default(),
            file_options: FileOptions::default(),
            eviction: Eviction::default(),
        }
    }

    /// Marks the connection as connected to the Sentinel port, on which `ROLE` returns the role
    /// `sentinel`.
    #[must_use]
    pub fn on_sentinel_port(mut self) -> Connection {
        self.is_on_sentinel_port = true;
        self
    }

    /// Returns whether the client has logged in, or need not.
    pub fn is_logged_in(&self) -> bool {
        self.permissions.is_some()
    }

    /// Returns whether the client may send every request.
    pub(in crate::redis) fn is_unrestricted(&self) -> bool {
        self.permissions.as_ref().is_some_and(|permissions| permissions.are_unrestricted)
    }

    /// Returns whether something was denied to the latest request.
    pub fn has_denial(&self) -> bool {
        self.denial.is_some()
    }

    /// Returns what was denied to the latest request, once.
    pub fn take_denial(&mut self) -> Option<Box<Denial>> {
        self.denial.take()
    }

    /// Logs the client in as a user, or stores that it has failed to do so with `command`. Returns
    /// whether it has logged in.
    pub(in crate::redis) fn log_in(
        &mut self,
        permissions: Option<Arc<Permissions>>,
        user: &[u8],
        command: &'static str,
    ) -> bool {
        // A transaction is one attempt: after a failure no later login in it succeeds.
        if self.has_failed_login() {
            return false;
        }
        let has_succeeded = permissions.is_some();
        if has_succeeded {
            self.permissions = permissions;
        } else {
            self.denial = Some(Box::new(Denial {
                reason: DenialReason::Login,
                context: DenialContext::TopLevel,
                object: Bytes::from_static(command.as_bytes()),
                user: Bytes::copy_from_slice(user),
            }));
        }
        has_succeeded
    }

    /// Returns whether a login in the current request, which may be a transaction, has failed.
    pub(in crate::redis) fn has_failed_login(&self) -> bool {
        self.denial.as_ref().is_some_and(|denial| denial.reason == DenialReason::Login)
    }

    /// Returns the name of the connection's user, which is `default` before a login.
    pub fn user_name(&self) -> &[u8] {
        self.permissions.as_ref().map_or(DEFAULT_USER, |permissions| &permissions.name)
    }

    /// Returns the id of the connection, which is also the reply to `CLIENT ID`.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the address of the client, as `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the line that describes the connection in `CLIENT LIST`, without its buffers.
    pub fn description(&self, now: Instant) -> String {
        let mut text = String::new();
        self.describe(now, BufferBytes::default(), &mut text);
        text
    }

    /// Returns the database in which the connection's commands run.
    pub fn database(&self) -> DatabaseId {
        self.database
    }

    /// Returns whether the client can follow `MOVED` redirects, because it has sent `CLUSTER
    /// SLOTS`, `SHARDS` or `NODES`. [`Connection::execute`] checks this itself; the server must
    /// check it again for a request that has waited until a leader was known.
    pub fn follows_redirects(&self) -> bool {
        self.follows_redirects
    }

    /// Returns whether the client has Pub/Sub subscriptions.
    pub fn has_subscriptions(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// Ends all subscriptions of a connection that is being closed, and returns the changes, which
    /// must be applied to the replica's [`Subscriptions`](super::subscriptions::Subscriptions).
    pub fn unsubscribe_all(&mut self) -> Vec<SubscriptionChange> {
        self.subscriptions.clear()
    }

    /// Estimates the heap memory usage of the connection's state in bytes, without its network
    /// buffers.
    pub fn held_bytes(&self) -> usize {
        let waits = match &self.blocked {
            Some(Blocked::Changes(wait)) => size_of::<ChangesWait>() + wait.prefix.len(),
            Some(Blocked::Pop(wait)) => wait.held_bytes(),
            Some(Blocked::Streams(wait)) => wait.held_bytes(),
            Some(Blocked::Watch(_) | Blocked::Exec(_) | Blocked::Replicas(_)) | None => 0,
        };
        let tracking = self.observation.tracking.as_ref();
        let caching = tracking.map_or(0, |tracking| tracking.held_bytes());
        self.subscriptions.held_bytes() + self.transaction.held_bytes() + waits + caching
    }

    /// Handles a request that was refused before it was parsed: an open transaction is aborted, as
    /// after any request that cannot be queued. The server writes the error reply.
    pub fn refuse_unparsed(&mut self) {
        self.reply_mode.begin_request();
        self.call_status = CallStatus::NotCounted;
        self.transaction.abort();
    }

    /// Returns whether the reply to the latest request is suppressed because of `CLIENT REPLY`.
    pub fn is_muted(&self) -> bool {
        self.reply_mode.muted
    }

    /// Lets the reply to the current request be sent in spite of `CLIENT REPLY`.
    pub fn unmute(&mut self) {
        self.reply_mode.muted = false;
    }

    /// Returns how the latest request counts in the statistics of commands.
    pub fn call_status(&self) -> CallStatus {
        self.call_status
    }

    /// Returns the lag that the client accepts for its reads at a replica that is not the leader;
    /// `None` if its reads must be linearizable.
    pub fn lag_max(&self) -> Option<Duration> {
        self.lag_max
    }

    /// Returns the RESP protocol version in which replies are written.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Resets the connection's protocol version, name, redirects, database, transaction,
    /// suppression of replies, and what it observes, for `RESET`. The caller must end the
    /// subscriptions.
    pub(in crate::redis) fn reset(&mut self) {
        self.version = Version::Two;
        self.name.clear();
        self.follows_redirects = false;
        self.database = DatabaseId::FIRST;
        self.refused_database = None;
        self.reads_from_followers = false;
        self.lag_max = None;
        self.transaction.discard();
        self.reply_mode = ReplyMode::default();
        let changes = self.observation.changes.wrapping_add(1);
        self.observation = Observation { changes, ..Observation::default() };
    }

    /// Appends the line that describes the connection in `CLIENT LIST` to `out`. Includes fields
    /// for features that this server lacks, with neutral values, because tools expect them.
    pub(in crate::redis) fn describe(&self, now: Instant, buffers: BufferBytes, out: &mut String) {
        let seconds_since = |earlier| now.since(earlier).as_secs();
        let mut flags = String::new();
        let tracking = self.observation.tracking.as_ref();
        for (flag, is_set) in [
            ('O', self.observation.is_monitor),
            ('P', !self.subscriptions.is_empty()),
            ('x', self.transaction.is_open()),
            ('b', self.may_wait()),
            ('t', tracking.is_some()),
            ('R', tracking.is_some_and(|tracking| tracking.is_redirect_broken)),
            ('B', tracking.is_some_and(|tracking| tracking.prefixes().is_some())),
            ('r', self.reads_from_followers),
            ('e', self.eviction == Eviction::Never),
        ] {
            if is_set {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let queue_len = self.transaction.queue_len().and_then(|count| i64::try_from(count).ok());
        let text = String::from_utf8_lossy;
        writeln!(
            out,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db={} sub={} \
             psub={} ssub={} multi={} qbuf={} qbuf-free=0 argv-mem=0 multi-mem={} rbs=0 rbp=0 \
             obl=0 oll=0 omem={} tot-mem={} events=r cmd={} user={} redir={} resp={} lib-name={} \
             lib-ver={}",
            self.id,
            self.address,
            self.local_address,
            text(&self.name),
            seconds_since(self.connected_at),
            seconds_since(self.last_command_at),
            self.database,
            self.subscriptions.channel_count(),
            self.subscriptions.pattern_count(),
            self.subscriptions.shard_channel_count(),
            queue_len.unwrap_or(-1),
            buffers.incoming,
            self.transaction.queue_bytes(),
            buffers.outgoing,
            buffers.memory,
            self.last_command,
            text(self.user_name()),
            tracking.map_or(-1, |tracking| tracking.redirect_number()),
            self.version.number(),
            text(&self.library_name),
            text(&self.library_version),
        )
        .expect("writing to a string succeeds");
    }
}
