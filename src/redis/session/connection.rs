//! All state of one client's connection, and the connection's line in `CLIENT LIST`.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::types::Instant;
use crate::wire::resp::Version;

use super::subscriptions::{ClientSubscriptions, SubscriptionChange};
use super::transaction::Transaction;

/// Which replies to the client are suppressed, as set by `CLIENT REPLY`.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::redis) struct ReplyMode {
    /// Whether all replies are suppressed until `CLIENT REPLY ON` (set by `CLIENT REPLY OFF`).
    pub(in crate::redis) off: bool,
    /// Whether the reply to the next request is suppressed (set by `CLIENT REPLY SKIP`).
    pub(in crate::redis) skip_next: bool,
    /// Whether the reply to the request that is being executed is suppressed, because of `off` or
    /// `skip_next`.
    pub(in crate::redis) muted: bool,
}

impl ReplyMode {
    /// Decides at the start of a request whether its reply is suppressed, and sets `muted`
    /// accordingly.
    pub(in crate::redis) fn begin_request(&mut self) {
        self.muted = self.off || std::mem::take(&mut self.skip_next);
    }
}

/// The protocol state of one client's connection: everything that a request can read or change,
/// except for the store, the settings and the context.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Id of the connection as returned by `CLIENT ID`; unique within the process.
    pub(in crate::redis) id: u64,
    /// Address of the client, as `host:port`.
    pub(in crate::redis) address: String,
    /// Address of the server's end of the connection, as `host:port`.
    pub(in crate::redis) local_address: String,
    /// Protocol version (RESP2 or RESP3) in which replies are written, set by `HELLO`.
    pub(in crate::redis) version: Version,
    /// Name of the connection, set by `CLIENT SETNAME`; empty if unset.
    pub(in crate::redis) name: Vec<u8>,
    /// Name of the client library, set by `CLIENT SETINFO`; empty if unset.
    pub(in crate::redis) library_name: Vec<u8>,
    pub(in crate::redis) library_version: Vec<u8>,
    /// Whether the client has asked for the cluster's hash slots (for example with `CLUSTER
    /// SLOTS`), which means that it can follow `MOVED` redirects.
    pub(in crate::redis) follows_redirects: bool,
    /// Whether the client has sent `READONLY`, so that the replica that receives a read from the
    /// client serves it even if that replica is not the leader.
    pub(in crate::redis) reads_from_followers: bool,
    pub(in crate::redis) subscriptions: ClientSubscriptions,
    /// Whether the client is connected to the Sentinel port, on which `ROLE` replies as a Sentinel
    /// does.
    pub(in crate::redis) is_on_sentinel_port: bool,
    pub(in crate::redis) transaction: Transaction,
    /// The command that blocks the connection, so that no later request runs before the command's
    /// outcome is known; `None` if the connection is not blocked.
    pub(in crate::redis) blocked: Option<Blocked>,
    pub(in crate::redis) reply_mode: ReplyMode,
    pub(in crate::redis) connected_at: Instant,
    /// Position of the connection's last command in the command table. The next lookup tries this
    /// position first.
    pub(in crate::redis) last_position: usize,
    /// Full name of the last valid command that the client sent, such as `config|set`, for `CLIENT
    /// LIST`.
    pub(in crate::redis) last_command: &'static str,
    pub(in crate::redis) last_command_at: Instant,
}

/// A command that blocks its connection until the command's outcome is known.
#[derive(Debug, Clone)]
pub(in crate::redis) enum Blocked {
    /// A `WATCH` of the given keys. Their revisions are not known yet. A key's revision is a number
    /// that changes whenever the key changes.
    Watch(Vec<Bytes>),
    /// An `EXEC` with watched keys. The queued commands have already changed the connection's
    /// state. If the transaction aborts, the connection returns to the earlier state, which is
    /// saved here.
    Exec(Box<Connection>),
}

/// Memory usage of one connection and its buffers, in bytes, for `CLIENT LIST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BufferBytes {
    /// Number of bytes received from the client that have not been parsed yet.
    pub incoming: usize,
    /// Number of bytes of replies to the client that have not been sent yet.
    pub outgoing: usize,
    /// Total memory usage of the connection, in bytes, including its buffers.
    pub memory: usize,
}

impl Connection {
    /// Returns the state of a new connection, which uses RESP2. `id` must be unique within the
    /// process; `address` is the client's address and `local_address` the server's, both as
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
            reads_from_followers: false,
            subscriptions: ClientSubscriptions::default(),
            is_on_sentinel_port: false,
            transaction: Transaction::default(),
            blocked: None,
            reply_mode: ReplyMode::default(),
            connected_at: now,
            last_position: 0,
            last_command: "NULL",
            last_command_at: now,
        }
    }

    /// Marks the connection as one to the Sentinel port, on which `ROLE` replies as a Sentinel
    /// does.
    #[must_use]
    pub fn on_sentinel_port(mut self) -> Connection {
        self.is_on_sentinel_port = true;
        self
    }

    /// Returns the connection's id, as `CLIENT ID` reports it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns whether the client has sent `CLUSTER SLOTS`, `SHARDS` or `NODES`, so that its
    /// requests are answered with `MOVED` instead of being forwarded to the leader. The server
    /// checks this for requests that have waited for a leader; [`Connection::execute`] checks it
    /// for all others.
    pub fn follows_redirects(&self) -> bool {
        self.follows_redirects
    }

    /// Ends all subscriptions of a connection that is being closed, and returns the changes to
    /// apply to the replica's [`Subscriptions`](super::subscriptions::Subscriptions).
    pub fn unsubscribe_all(&mut self) -> Vec<SubscriptionChange> {
        self.subscriptions.clear()
    }

    /// Estimates the memory usage of the connection's state on the heap, in bytes, without the
    /// struct itself and without buffers.
    pub fn held_bytes(&self) -> usize {
        self.subscriptions.held_bytes() + self.transaction.held_bytes()
    }

    /// Returns whether the reply to the latest request is suppressed because of `CLIENT REPLY`.
    pub fn is_muted(&self) -> bool {
        self.reply_mode.muted
    }

    /// Returns the full name of the last valid command that the client sent, such as `config|set`;
    /// `NULL` if there is none.
    pub fn last_command(&self) -> &'static str {
        self.last_command
    }

    /// Returns the protocol version (RESP2 or RESP3) in which replies are written.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Resets the protocol version, name, redirects, transaction and reply mode to those of a new
    /// connection, for `RESET`. The caller must end the subscriptions.
    pub(in crate::redis) fn reset(&mut self) {
        self.version = Version::Two;
        self.name.clear();
        self.follows_redirects = false;
        self.reads_from_followers = false;
        self.transaction.discard();
        self.reply_mode = ReplyMode::default();
    }

    /// Appends the connection's line in `CLIENT LIST` to `out`. Fields for features that this
    /// server lacks are included with neutral values, because tools expect these fields.
    pub(in crate::redis) fn describe(&self, now: Instant, buffers: BufferBytes, out: &mut String) {
        let seconds_since = |earlier| now.since(earlier).as_secs();
        let mut flags = String::new();
        for (flag, is_set) in [
            ('P', !self.subscriptions.is_empty()),
            ('x', self.transaction.is_open()),
            ('r', self.reads_from_followers),
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
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db=0 sub={} psub={} \
             ssub=0 multi={} qbuf={} qbuf-free=0 argv-mem=0 multi-mem={} rbs=0 rbp=0 obl=0 oll=0 \
             omem={} tot-mem={} events=r cmd={} user=default redir=-1 resp={} lib-name={} \
             lib-ver={}",
            self.id,
            self.address,
            self.local_address,
            text(&self.name),
            seconds_since(self.connected_at),
            seconds_since(self.last_command_at),
            self.subscriptions.channel_count(),
            self.subscriptions.pattern_count(),
            queue_len.unwrap_or(-1),
            buffers.incoming,
            self.transaction.queue_bytes(),
            buffers.outgoing,
            buffers.memory,
            self.last_command,
            self.version.number(),
            text(&self.library_name),
            text(&self.library_version),
        )
        .expect("writing to a string succeeds");
    }
}
