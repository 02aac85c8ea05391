//! The cluster that receives the keys: sends numbered requests of a client session, several at a
//! time, and repeats them after a failure.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use bowline::kv::DatabaseId;

use crate::cli::connection::Connection;

/// A command with its arguments.
pub(super) type Command = Vec<Vec<u8>>;

/// Maximum number of requests without a reply. The session remembers the replies to 64.
const WINDOW_MAX: usize = 32;
/// Total length of the requests without a reply from which on no more are sent, in bytes.
const WINDOW_BYTES: usize = 32 << 20;
/// Maximum time for one reply. A large value takes a while in the log.
const REPLY_MAX: Duration = Duration::from_secs(30);
/// Maximum time without any success after which the import gives up.
const FAILING_MAX: Duration = Duration::from_mins(2);
/// Pause before a request is repeated.
const PAUSE: Duration = Duration::from_millis(200);
/// Codes of the errors after which the same request is sent again. In a client session, that is
/// safe after an unknown outcome as well.
const TEMPORARY: &[&str] = &[
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MOVED",
    "NOSESSION",
    "SEQGAP",
    "TRYAGAIN",
    "UNCERTAIN",
];

/// A request without a reply.
struct Sent {
    command: Command,
    database: DatabaseId,
    /// Whether a `SELECT` was sent before it on the present connection.
    selects: bool,
    bytes: usize,
    /// Number of bytes of the source up to the end of the command.
    offset: u64,
}

/// The connection to the cluster.
pub(super) struct Target {
    address: String,
    /// `None` after a failure.
    connection: Option<Connection>,
    /// The database of the last request that was sent on the connection.
    selected: DatabaseId,
    /// The database of the commands that follow.
    pub(super) database: DatabaseId,
    session: String,
    /// The number of the first request in `sent`.
    first: u64,
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    /// When the last request was successful.
    succeeded_at: Instant,
    /// Number of bytes of the source whose commands are applied.
    pub(super) applied_offset: u64,
}

impl Target {
    /// Connects to the replica at `address`, and opens a client session.
    pub(super) fn connect(address: &str) -> anyhow::Result<Target> {
        let mut target = Target {
            address: address.to_owned(),
            connection: None,
            selected: DatabaseId::FIRST,
            database: DatabaseId::FIRST,
            session: String::new(),
            first: 1,
            sent: VecDeque::new(),
            sent_bytes: 0,
            succeeded_at: Instant::now(),
            applied_offset: 0,
        };
        target.reconnect(true)?;
        Ok(target)
    }

    /// Sends a command that writes.
    pub(super) fn send(&mut self, command: Command) -> anyhow::Result<()> {
        self.send_at(command, 0)
    }

    /// Sends a command that writes, which ends at `offset` in the stream of the source.
    pub(super) fn send_at(&mut self, command: Command, offset: u64) -> anyhow::Result<()> {
        let bytes = command.iter().map(Vec::len).sum();
        while self.sent.len() >= WINDOW_MAX
            || !self.sent.is_empty() && self.sent_bytes + bytes > WINDOW_BYTES
        {
            self.receive()?;
        }
        let database = self.database;
        self.sent.push_back(Sent { command, database, selects: false, bytes, offset });
        self.sent_bytes += bytes;
        let request = self.next_request(self.sent.len() - 1);
        if let Some(connection) = &mut self.connection
            && connection.send(&request).is_err()
        {
            self.connection = None;
        }
        Ok(())
    }

    /// Encodes the request at this position of those without a reply, after the selection of its
    /// database if the last one on the connection has used another.
    fn next_request(&mut self, at: usize) -> Vec<u8> {
        let sent = &mut self.sent[at];
        sent.selects = sent.database != self.selected;
        self.selected = sent.database;
        let mut request = Vec::new();
        if sent.selects {
            let number = sent.database.to_string();
            request = Connection::encode(&[b"SELECT", number.as_bytes()]);
        }
        let number = (self.first + at as u64).to_string();
        let head = [&b"ONCE"[..], self.session.as_bytes(), number.as_bytes()];
        let command = sent.command.iter().map(|argument| &argument[..]);
        let arguments: Vec<&[u8]> = head.into_iter().chain(command).collect();
        request.extend(Connection::encode(&arguments));
        request
    }

    /// Waits until all commands are applied.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        while !self.sent.is_empty() {
            self.receive()?;
        }
        Ok(())
    }

    /// Returns whether a command has no reply yet.
    pub(super) fn is_busy(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Runs a command that may be refused, after all others.
    pub(super) fn ask(&mut self, command: &[Vec<u8>]) -> anyhow::Result<Result<(), String>> {
        self.finish()?;
        let arguments: Vec<&[u8]> = command.iter().map(|argument| &argument[..]).collect();
        let connection = self.connection.as_mut().context("the connection was lost")?;
        connection.send(&Connection::encode(&arguments))?;
        connection.receive()
    }

    /// Waits for the reply to the first command without one. Connects and sends again after a
    /// temporary failure.
    pub(super) fn receive(&mut self) -> anyhow::Result<()> {
        let failure = match &mut self.connection {
            None => "the connection was lost".to_owned(),
            Some(connection) => match connection.receive() {
                Ok(Ok(())) => {
                    self.note_success();
                    return Ok(());
                }
                Ok(Err(error)) => {
                    let code = error.split(' ').next().unwrap_or_default();
                    if !TEMPORARY.contains(&code) {
                        bail!("is refused by the cluster: {} {error}", self.refused_command());
                    }
                    error
                }
                Err(error) => format!("{error:#}"),
            },
        };
        self.connection = None;
        ensure!(
            self.succeeded_at.elapsed() < FAILING_MAX,
            "cannot be written to the cluster: {failure}"
        );
        thread::sleep(PAUSE);
        // A failure to connect is repeated by the next call.
        let _ = self.reconnect(failure.starts_with("NOSESSION"));
        Ok(())
    }

    /// Records that the next command without a reply was successful, or the `SELECT` before it.
    fn note_success(&mut self) {
        self.succeeded_at = Instant::now();
        let sent = self.sent.front_mut().expect("a reply follows a request");
        if std::mem::take(&mut sent.selects) {
            return;
        }
        let sent = self.sent.pop_front().expect("there is one");
        self.sent_bytes -= sent.bytes;
        self.first += 1;
        self.applied_offset = self.applied_offset.max(sent.offset);
    }

    /// Describes the first command without a reply: its name and its key.
    fn refused_command(&self) -> String {
        let Some(first) = self.sent.front() else { return String::new() };
        if first.selects {
            return format!("SELECT {}", first.database);
        }
        let command = &first.command;
        let shown =
            command.iter().take(2).map(|it| it[..it.len().min(100)].escape_ascii().to_string());
        shown.collect::<Vec<_>>().join(" ")
    }

    /// Connects again and repeats all requests without a reply. Opens a new session if there is
    /// none, or if it is gone.
    fn reconnect(&mut self, needs_session: bool) -> anyhow::Result<()> {
        let mut connection = Connection::open(&self.address, REPLY_MAX)?;
        if needs_session {
            let session = connection.call(&["ONCE", "OPEN"])?;
            self.session = session.map_err(|error| anyhow!("cannot open a session: {error}"))?;
            self.first = 1;
        }
        self.selected = DatabaseId::FIRST;
        for at in 0..self.sent.len() {
            connection.send(&self.next_request(at))?;
        }
        self.connection = Some(connection);
        Ok(())
    }
}
