//! What a client's connection remembers between requests.

use std::fmt::Write as _;

use crate::types::Instant;
use crate::wire::resp::Version;

use super::context::Context;
use super::pubsub::{Interest, Listening};
use super::table::Spec;
use super::transactions::Transaction;

/// Whether a client wants replies (`CLIENT REPLY`).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Replies {
    /// None until it says otherwise.
    pub(super) off: bool,
    /// None to the next request.
    pub(super) skip_next: bool,
    /// None to the present one.
    pub(super) muted: bool,
}

impl Replies {
    /// A request begins.
    pub(super) fn begin(&mut self) {
        self.muted = self.off || std::mem::take(&mut self.skip_next);
    }
}

/// The protocol's state of one client connection.
#[derive(Debug, Clone)]
pub struct Connection {
    pub(super) id: u64,
    /// The client's address and ours, as `host:port`.
    pub(super) address: String,
    pub(super) local_address: String,
    pub(super) version: Version,
    pub(super) name: Vec<u8>,
    pub(super) library_name: Vec<u8>,
    pub(super) library_version: Vec<u8>,
    /// It asked how the slots lie, so it knows what to do with `MOVED`.
    pub(super) follows_hints: bool,
    /// After `READONLY`: it wants to read from whom it asks, who need not lead.
    pub(super) reads_anywhere: bool,
    pub(super) listening: Listening,
    /// It came in where this replica is a Sentinel and nothing else.
    pub(super) asks_sentinel: bool,
    pub(super) transaction: Transaction,
    pub(super) replies: Replies,
    pub(super) since: Instant,
    /// The table's row for the last request that has one.
    pub(super) last_found: Option<&'static Spec>,
    pub(super) last_command: &'static str,
    pub(super) last_command_at: Instant,
}

/// Bytes that wait in a connection's buffers, for `CLIENT LIST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buffered {
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
            follows_hints: false,
            reads_anywhere: false,
            listening: Listening::default(),
            asks_sentinel: false,
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
    pub fn asking_sentinel(mut self) -> Connection {
        self.asks_sentinel = true;
        self
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it asked for `CLUSTER SLOTS`, `SHARDS` or `NODES`: such a client is told at once
    /// who leads, and its requests are not forwarded. [`Connection::execute`] does so itself; this
    /// is for requests that wait when a leader becomes known.
    pub fn follows_hints(&self) -> bool {
        self.follows_hints
    }

    /// What it listens to comes to an end with it.
    pub fn end_listening(&mut self) -> Vec<Interest> {
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
    pub(super) fn reset(&mut self) {
        self.version = Version::Two;
        self.name.clear();
        self.follows_hints = false;
        self.reads_anywhere = false;
        self.transaction.discard();
        self.replies = Replies::default();
    }

    /// Its line in `CLIENT LIST`. Fields of what does not exist here have the values that mean
    /// nothing, for tools expect them.
    pub(super) fn describe(&self, context: &Context, buffered: Buffered, out: &mut String) {
        let seconds = |earlier| context.now.since(earlier).as_secs();
        let mut flags = String::new();
        for (flag, is_so) in [
            ('P', self.listening.count() > 0),
            ('x', self.transaction.is_begun()),
            ('r', self.reads_anywhere),
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
