//! From a request to what is to be done about it.

use std::fmt::Display;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::kv::{Command, Operation, slot_of};
use crate::raft::RequestKind;
use crate::types::RequestKey;
use crate::wire::resp::{Request, Version, Writer};

use super::client::{ClientQuery, Killing};
use super::connection::Connection;
use super::context::Context;
use super::failure::Failure;
use super::pubsub::{self, Interest};
use super::settings::Settings;
use super::shape::{Kind, Shape};
use super::table::{self, NAME_BYTES_MAX, Spec};
use super::transactions::{self, Batch};

/// Most bytes of a name that an error quotes, and of all arguments together.
const QUOTED_BYTES_MAX: usize = 128;

/// Commands that are not queued behind `MULTI`.
const AT_ONCE: &[&str] = &["exec", "discard", "multi", "watch", "quit", "reset"];

/// Redis's word for commands that may add to what is in memory.
const DENIED_WHEN_FULL: &str = "denyoom";

/// Whether a command may add to what is in memory. A payload that is none adds nothing.
pub fn may_grow(payload: &[u8]) -> bool {
    Command::decode(payload).is_ok_and(|command| grows(&command.operation))
}

fn grows(operation: &Operation<'_>) -> bool {
    let inner = |bytes| Operation::decode(bytes).is_ok_and(|operation| grows(&operation));
    match operation {
        Operation::Put { .. }
        | Operation::Set { .. }
        | Operation::Append { .. }
        | Operation::Add { .. }
        | Operation::PutMany { .. }
        | Operation::Transfer { .. }
        | Operation::OpenSession => true,
        Operation::Call { verb, .. } => table::find(verb.name().as_bytes())
            .is_none_or(|spec| spec.flags.contains(&DENIED_WHEN_FULL)),
        Operation::Transaction { operations, .. } => operations.iter().any(inner),
        Operation::Once { operation, .. } => inner(operation),
        _ => false,
    }
}

/// What a door does with a request.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Nothing more: the reply is written.
    Done,
    /// Hands it to the core. No reply is written yet.
    Submit {
        /// Whether it goes through the log.
        kind: RequestKind,
        /// A [`Command`] under the request's key.
        payload: Bytes,
        /// How its outcome becomes a reply.
        shape: Shape,
        /// The slot of its first key, if the client is to be told so
        /// ([`Failure::Moved`](super::Failure::Moved)) should another replica lead by the time when
        /// it can be handed on.
        hint: Option<u16>,
        /// Whether the connection waits for its reply: see [`Connection::resume`].
        hold: bool,
    },
    /// Answers from all connections, with a [`ClientList`](super::ClientList).
    ListClients(ClientQuery),
    /// What the connection listens to has changed. The reply is written.
    Listen(Vec<Interest>),
    /// Closes connections, and tells how many: see [`Killing`].
    Kill(Box<Killing>),
    /// Forgets what was recorded. The reply is written.
    Forget(Record),
    /// Does nothing at all for so long, and answers then. The reply is written.
    Sleep(Duration),
    /// Takes a snapshot. The reply is written.
    Save,
    /// Settings have changed. Nothing is written.
    Configured,
    /// Several, one after the other. Those before the last have no reply of their own.
    Several(Vec<Step>),
    /// Closes the connection, once what is written has been sent. Later requests on it are not
    /// looked at.
    Close,
}

/// What is recorded of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Those that took long.
    Slow,
    /// When there were some that took long.
    Latency,
    /// How many there were.
    Traffic,
}

/// A request on its way through its command's function.
#[derive(Debug)]
pub(super) struct Call<'c> {
    pub(super) connection: &'c mut Connection,
    /// The command's row of the table, or the subcommand's.
    pub(super) spec: &'static Spec,
    pub(super) request: Request<'c>,
    pub(super) key: RequestKey,
    pub(super) context: &'c Context,
    pub(super) settings: &'c mut Settings,
    pub(super) writer: Writer<'c>,
    /// Where its operation goes, if the request is part of another.
    pub(super) batch: Option<&'c mut Batch>,
}

impl Connection {
    /// Does what can be done about a request here and now, and says what remains.
    ///
    /// What is answered at once is appended to `out`. `key` names the request in the cluster if it
    /// has to be submitted; where it has not, the door may use the key again.
    pub fn execute<'c>(
        &'c mut self,
        request: Request<'c>,
        key: RequestKey,
        context: &'c Context,
        settings: &'c mut Settings,
        out: &'c mut BytesMut,
    ) -> Step {
        self.replies.begin();
        let mut writer = Writer::new(out, self.version);
        let spec = match self.choose(request, context, &mut writer) {
            Ok(spec) => spec,
            Err(step) => {
                self.transaction.abort();
                return step;
            }
        };
        let queues = self.transaction.is_begun() && !AT_ONCE.contains(&spec.name);
        if self.version == Version::Two
            && self.listening.count() > 0
            && !pubsub::may_ask_while_listening(spec.full_name)
        {
            self.transaction.abort();
            writer.error(
                format!(
                    "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT \
                     / RESET are allowed in this context",
                    spec.full_name
                )
                .as_bytes(),
            );
            return Step::Done;
        }
        let slot = self.slot_to_hint_at(spec, request);
        if queues && spec.flags.contains(&"no_multi") {
            self.transaction.abort();
            writer.error(b"ERR Command not allowed inside a transaction");
            return Step::Done;
        }
        if let Some(moved) = context.moved(slot) {
            self.transaction.abort();
            writer.error(moved.to_string().as_bytes());
            return Step::Done;
        }
        if context.is_full && spec.flags.contains(&DENIED_WHEN_FULL) {
            self.transaction.abort();
            writer.error(Failure::OutOfMemory.to_string().as_bytes());
            return Step::Done;
        }
        let batch = None;
        let mut call =
            Call { connection: self, spec, request, key, context, settings, writer, batch };
        if queues {
            return transactions::queue(&mut call);
        }
        let mut step = (spec.run)(&mut call);
        if let Step::Submit { hint, .. } = &mut step {
            *hint = hint.or(slot);
        }
        step
    }

    /// The command or subcommand that a request is for, if it has as many words as that takes.
    fn choose(
        &mut self,
        request: Request<'_>,
        context: &Context,
        writer: &mut Writer<'_>,
    ) -> Result<&'static Spec, Step> {
        let Some(spec) = lower_case(request.name()).as_deref().and_then(|name| self.find(name))
        else {
            return Err(unknown(request, writer));
        };
        let sub = if spec.subcommands.is_empty() || request.len() == 1 {
            None
        } else {
            let name = request.get(1).expect("there are two");
            let found = lower_case(name).as_deref().and_then(|name| spec.subcommand(name));
            if found.is_none() {
                return Err(unknown_subcommand(spec, name, writer));
            }
            found
        };
        let chosen = sub.unwrap_or(spec);
        self.last_command = chosen.full_name;
        self.last_command_at = context.now;
        if chosen.takes(request.len()) {
            return Ok(chosen);
        }
        let name = chosen.full_name;
        let mut text = format!("wrong number of arguments for '{name}' command");
        if name == "exec" {
            self.transaction.discard();
            text.insert_str(0, "EXECABORT Transaction discarded because of: ");
        } else {
            text.insert_str(0, "ERR ");
        }
        writer.error(text.as_bytes());
        Err(Step::Done)
    }

    /// The command of that name, in lower case; mostly it is the one of the request before.
    fn find(&mut self, name: &[u8]) -> Option<&'static Spec> {
        if self.last_found.is_none_or(|spec| spec.name.as_bytes() != name) {
            self.last_found = Some(table::find(name)?);
        }
        self.last_found
    }

    /// The slot of the request's first key, if this client wants to be told that another replica
    /// leads. It reads here if it said so: by a read index, so it reads nothing old.
    pub(super) fn slot_to_hint_at(&self, spec: &Spec, request: Request<'_>) -> Option<u16> {
        let here = !self.follows_hints || self.reads_anywhere && spec.flags.contains(&"readonly");
        if here {
            return None;
        }
        let first = spec.keys(request.len(), &|at| request.get(at))?.next()?;
        Some(slot_of(request.get(first)?))
    }
}

impl<'c> Call<'c> {
    /// An argument that the command's arity promises.
    pub(super) fn argument(&self, at: usize) -> &'c [u8] {
        self.request.get(at).expect("the arity was checked")
    }

    /// Hands an operation to the core; or, if this request is part of another, adds it to that
    /// one's.
    pub(super) fn submit(&mut self, operation: Operation<'_>, kind: Kind) -> Step {
        let shape = Shape { kind, version: self.writer.version(), muted: false };
        if let Some(batch) = &mut self.batch {
            batch.operations.push(&operation.encode());
            let (kind, payload) = (RequestKind::Write, Bytes::new());
            return Step::Submit { kind, payload, shape, hint: None, hold: false };
        }
        if let Some((length, most)) = self.exceeds(operation) {
            return self.error(&format_args!(
                "ERR the command takes {length} bytes in the log, where {most} are allowed"
            ));
        }
        let command = Command { key: self.key, operation };
        let kind = if operation.is_read() { RequestKind::Read } else { RequestKind::Write };
        let payload = command.encode_in(self.writer.buffer());
        Step::Submit { kind, payload, shape, hint: None, hold: false }
    }

    /// What an operation takes in the log and what it may take, if that is less.
    pub(super) fn exceeds(&self, operation: Operation<'_>) -> Option<(usize, usize)> {
        let length = Command { key: self.key, operation }.encoded_len();
        let most = self.context.payload_bytes_max;
        (length > most).then_some((length, most))
    }

    /// The command or subcommand of another request that is part of this one; else the error is
    /// written to `out`.
    pub(super) fn find_within(
        &mut self,
        request: Request<'_>,
        out: &mut BytesMut,
    ) -> Option<&'static Spec> {
        let mut writer = Writer::new(out, self.connection.version);
        let connection = &mut *self.connection;
        let (last_command, last_command_at) = (connection.last_command, connection.last_command_at);
        let found = connection.choose(request, self.context, &mut writer).ok();
        (connection.last_command, connection.last_command_at) = (last_command, last_command_at);
        found
    }

    /// Does what is to be done about another request that is part of this one. What it asks of the
    /// store goes to `batch`, its reply to `out`.
    pub(super) fn within(
        &mut self,
        spec: &'static Spec,
        request: Request<'_>,
        batch: &mut Batch,
        out: &mut BytesMut,
    ) -> Step {
        let writer = Writer::new(out, self.connection.version);
        let mut call = Call {
            connection: self.connection,
            spec,
            request,
            key: self.key,
            context: self.context,
            settings: self.settings,
            writer,
            batch: Some(batch),
        };
        (spec.run)(&mut call)
    }

    /// Answers with an error.
    pub(super) fn error(&mut self, text: &dyn Display) -> Step {
        self.writer.error(text.to_string().as_bytes());
        Step::Done
    }

    /// Answers `OK`.
    pub(super) fn ok(&mut self) -> Step {
        self.writer.ok();
        Step::Done
    }

    /// Speaks another version from this reply on.
    pub(super) fn speak(&mut self, version: Version) {
        self.connection.version = version;
        self.writer.speak(version);
    }
}

/// A name in lower case on the stack, no longer than the table's longest.
pub(super) struct Name {
    bytes: [u8; NAME_BYTES_MAX],
    length: usize,
}

/// A name as the table has it, unless it is longer than any.
pub(super) fn lower_case(name: &[u8]) -> Option<Name> {
    let mut bytes = [0; NAME_BYTES_MAX];
    let lower = bytes.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    Some(Name { bytes, length: name.len() })
}

impl std::ops::Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// There is no such command: Redis quotes what it got, within limits.
fn unknown(request: Request<'_>, writer: &mut Writer<'_>) -> Step {
    let name = request.name();
    // What a browser sends that was lured here: no reply may come to it, and nothing else of what
    // it sent may be taken for commands.
    if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
        return Step::Close;
    }
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(quoted(name, QUOTED_BYTES_MAX));
    text.extend_from_slice(b"', with args beginning with: ");
    let start = text.len();
    for argument in request.rest(1) {
        let room = QUOTED_BYTES_MAX.saturating_sub(text.len() - start);
        if room == 0 {
            break;
        }
        text.push(b'\'');
        text.extend_from_slice(quoted(argument, room));
        text.extend_from_slice(b"' ");
    }
    writer.error(&text);
    Step::Done
}

/// What Redis's errors show of a word: to it, which is written in C, a NUL ends it.
fn quoted(word: &[u8], most: usize) -> &[u8] {
    let end = word.iter().position(|byte| *byte == 0).unwrap_or(word.len());
    &word[..end.min(most)]
}

fn unknown_subcommand(spec: &Spec, name: &[u8], writer: &mut Writer<'_>) -> Step {
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(quoted(name, QUOTED_BYTES_MAX));
    text.extend_from_slice(format!("'. Try {} HELP.", spec.name.to_uppercase()).as_bytes());
    writer.error(&text);
    Step::Done
}
