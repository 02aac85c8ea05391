//! What a client's connection remembers between requests.

use std::fmt::Write as _;

use crate::types::Instant;
use crate::wire::resp::Version;

use crate::redis::commands::pubsub::{ClientSubscriptions, SubscriptionChange};
use crate::redis::commands::transactions::Transaction;
use crate::redis::spec::CommandSpec;

/// Whether a client wants replies (`CLIENT REPLY`).
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::redis) struct Replies {
    /// None until it says otherwise.
    pub(in crate::redis) off: bool,
    /// None to the next request.
    pub(in crate::redis) skip_next: bool,
    /// None to the present one.
    pub(in crate::redis) muted: bool,
}

impl Replies {
    /// A request begins.
    pub(in crate::redis) fn begin(&mut self) {
        self.muted = self.off || std::mem::take(&mut self.skip_next);
    }
}

/// The protocol's state of one client connection.
#[derive(Debug, Clone)]
pub struct Connection {
    pub(in crate::redis) id: u64,
    /// The client's address and ours, as `host:port`.
    pub(in crate::redis) address: String,
    pub(in crate::redis) local_address: String,
    pub(in crate::redis) version: Version,
    pub(in crate::redis) name: Vec<u8>,
    pub(in crate::redis) library_name: Vec<u8>,
    pub(in crate::redis) library_version: Vec<u8>,
    /// It asked how the slots lie, so it knows what to do with `MOVED`.
    pub(in crate::redis) follows_redirects: bool,
    /// After `READONLY`: it wants to read from whom it asks, who need not lead.
    pub(in crate::redis) reads_from_followers: bool,
    pub(in crate::redis) listening: ClientSubscriptions,
    /// It came in where this replica is a Sentinel and nothing else.
    pub(in crate::redis) is_on_sentinel_port: bool,
    pub(in crate::redis) transaction: Transaction,
    pub(in crate::redis) replies: Replies,
    pub(in crate::redis) since: Instant,
    /// The table's row for the last request that has one.
    pub(in crate::redis) last_found: Option<&'static CommandSpec>,
    pub(in crate::redis) last_command: &'static str,
    pub(in crate::redis) last_command_at: Instant,
}

/// Bytes that wait in a connection's buffers, for `CLIENT LIST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BufferBytes {
    /// Read and not yet understood.
    pub incoming: usize,
    /// Written and not yet sent.
    pub outgoing: usize,
    /// All that the connection takes in memory.
    pub memory: usize,
}

impl Connection {
    /// A client has connected. `id` is what `CLIENT ID` tells: never given twice by one process.
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
            listening: ClientSubscriptions::default(),
            is_on_sentinel_port: false,
            transaction: Transaction::default(),
            replies: Replies::default(),
            since: now,
            last_found: None,
            last_command: "NULL",
            last_command_at: now,
        }
    }

    /// It came in at the port at which this replica is a Sentinel.
    #[must_use]
    pub fn on_sentinel_port(mut self) -> Connection {
        self.is_on_sentinel_port = true;
        self
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it asked for `CLUSTER SLOTS`, `SHARDS` or `NODES`: such a client is told at once
    /// who leads, and its requests are not forwarded. [`Connection::execute`] does so itself; this
    /// is for requests that wait when a leader becomes known.
    pub fn follows_redirects(&self) -> bool {
        self.follows_redirects
    }

    /// What it listens to comes to an end with it.
    pub fn unsubscribe_all(&mut self) -> Vec<SubscriptionChange> {
        self.listening.end()
    }

    /// Bytes of memory that it takes beside its own size, about.
    pub fn held_bytes(&self) -> usize {
        self.listening.bytes() + self.transaction.held_bytes()
    }

    /// Whether the client wants no reply to the last request (`CLIENT REPLY`).
    pub fn is_muted(&self) -> bool {
        self.replies.muted
    }

    /// The full name of the last command that there is.
    pub fn last_command(&self) -> &'static str {
        self.last_command
    }

    /// Which version it speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// As after connecting (`RESET`).
    pub(in crate::redis) fn reset(&mut self) {
        self.version = Version::Two;
        self.name.clear();
        self.follows_redirects = false;
        self.reads_from_followers = false;
        self.transaction.discard();
        self.replies = Replies::default();
    }

    /// Its line in `CLIENT LIST`. Fields of what does not exist here have the values that mean
    /// nothing, for tools expect them.
    pub(in crate::redis) fn describe(&self, now: Instant, buffered: BufferBytes, out: &mut String) {
        let seconds = |earlier| now.since(earlier).as_secs();
        let mut flags = String::new();
        for (flag, is_so) in [
            ('P', self.listening.count() > 0),
            ('x', self.transaction.is_begun()),
            ('r', self.reads_from_followers),
        ] {
            if is_so {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let queued = self.transaction.queued().and_then(|count| i64::try_from(count).ok());
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
            seconds(self.since),
            seconds(self.last_command_at),
            self.listening.channel_count(),
            self.listening.pattern_count(),
            queued.unwrap_or(-1),
            buffered.incoming,
            self.transaction.queued_bytes(),
            buffered.outgoing,
            buffered.memory,
            self.last_command,
            self.version.number(),
            text(&self.library_name),
            text(&self.library_version),
        )
        .expect("a string takes all");
    }
}
