//! All state of one client's connection, and its line in `CLIENT LIST`.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::types::Instant;
use crate::wire::resp::Version;

use super::subscriptions::{ClientSubscriptions, SubscriptionChange};
use super::transaction::Transaction;

/// Which replies the client wants (`CLIENT REPLY`).
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::redis) struct ReplyMode {
    /// `OFF`: no replies until `ON`.
    pub(in crate::redis) off: bool,
    /// `SKIP`: no reply to the next request.
    pub(in crate::redis) skip_next: bool,
    /// Whether the reply to the current request is suppressed.
    pub(in crate::redis) muted: bool,
}

impl ReplyMode {
    /// Decides whether the reply to the request that begins now is suppressed.
    pub(in crate::redis) fn begin_request(&mut self) {
        self.muted = self.off || std::mem::take(&mut self.skip_next);
    }
}

/// The protocol state of one client's connection.
#[derive(Debug, Clone)]
pub struct Connection {
    /// `CLIENT ID`; unique within the process.
    pub(in crate::redis) id: u64,
    /// The client's address, as `host:port`.
    pub(in crate::redis) address: String,
    /// The server's end of the connection, as `host:port`.
    pub(in crate::redis) local_address: String,
    /// The protocol version of replies, set by `HELLO`.
    pub(in crate::redis) version: Version,
    /// `CLIENT SETNAME`; empty if unset.
    pub(in crate::redis) name: Vec<u8>,
    /// `CLIENT SETINFO`; empty if unset.
    pub(in crate::redis) library_name: Vec<u8>,
    pub(in crate::redis) library_version: Vec<u8>,
    /// The client has asked for the cluster's slots, so it understands `MOVED`.
    pub(in crate::redis) follows_redirects: bool,
    /// After `READONLY`: reads are served by the replica that receives them, leader or not.
    pub(in crate::redis) reads_from_followers: bool,
    pub(in crate::redis) subscriptions: ClientSubscriptions,
    /// The client connected to the port that serves Sentinel clients only.
    pub(in crate::redis) is_on_sentinel_port: bool,
    pub(in crate::redis) transaction: Transaction,
    /// The command whose outcome the connection is waiting for before its next request.
    pub(in crate::redis) blocked: Option<Blocked>,
    pub(in crate::redis) reply_mode: ReplyMode,
    pub(in crate::redis) connected_at: Instant,
    /// Position of the last command in the command table, where the next lookup begins.
    pub(in crate::redis) last_position: usize,
    /// The full name of the last known command, as `CLIENT LIST` shows it.
    pub(in crate::redis) last_command: &'static str,
    pub(in crate::redis) last_command_at: Instant,
}

/// A command that blocks its connection.
#[derive(Debug, Clone)]
pub(in crate::redis) enum Blocked {
    /// `WATCH`: the revisions of these keys are being read.
    Watch(Vec<Bytes>),
    /// `EXEC` with watched keys: commands that change this connection have already run. If a
    /// watched key has changed, the connection goes back to this state.
    Exec(Box<Connection>),
}

/// Bytes in a connection's buffers, for `CLIENT LIST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BufferBytes {
    /// Received and not yet parsed.
    pub incoming: usize,
    /// Replies that have not been sent.
    pub outgoing: usize,
    /// All memory that the connection takes.
    pub memory: usize,
}

impl Connection {
    /// The state of a new connection. `id` must be unique within the process.
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

    /// The same for a connection to the Sentinel port.
    #[must_use]
    pub fn on_sentinel_port(mut self) -> Connection {
        self.is_on_sentinel_port = true;
        self
    }

    /// The connection's id, as `CLIENT ID` returns it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the client has asked for `CLUSTER SLOTS`, `SHARDS` or `NODES`. The requests of such
    /// a client are answered with `MOVED` instead of being forwarded to the leader.
    /// [`Connection::execute`] does that itself; this is for requests that are already waiting when
    /// a leader becomes known.
    pub fn follows_redirects(&self) -> bool {
        self.follows_redirects
    }

    /// Ends all subscriptions, for a connection that closes, and returns the changes.
    pub fn unsubscribe_all(&mut self) -> Vec<SubscriptionChange> {
        self.subscriptions.clear()
    }

    /// Bytes of memory that the connection takes besides its own size (estimate).
    pub fn held_bytes(&self) -> usize {
        self.subscriptions.held_bytes() + self.transaction.held_bytes()
    }

    /// Whether the reply to the last request is suppressed (`CLIENT REPLY`).
    pub fn is_muted(&self) -> bool {
        self.reply_mode.muted
    }

    /// The full name of the last known command, such as `config|set`; `NULL` before the first.
    pub fn last_command(&self) -> &'static str {
        self.last_command
    }

    /// The protocol version of replies.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Restores the state of a new connection, except for subscriptions (`RESET`).
    pub(in crate::redis) fn reset(&mut self) {
        self.version = Version::Two;
        self.name.clear();
        self.follows_redirects = false;
        self.reads_from_followers = false;
        self.transaction.discard();
        self.reply_mode = ReplyMode::default();
    }

    /// Appends the connection's line of `CLIENT LIST`. Fields of features that do not exist here
    /// are present with their neutral values, because tools expect them.
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
