//! From a request to what is to be done about it.

use bytes::BytesMut;

use crate::kv::{Command, Operation, slot_of};
use crate::types::RequestKey;
use crate::wire::resp::{Request, Version, Writer};

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::pubsub;
use crate::redis::commands::transactions;
use crate::redis::context::Context;
use crate::redis::failure::Failure;
use crate::redis::registry as table;
use crate::redis::session::connection::Connection;
use crate::redis::settings::Settings;
use crate::redis::spec::{CommandSpec, NAME_BYTES_MAX};

/// Most bytes of a name that an error quotes, and of all arguments together.
const QUOTED_BYTES_MAX: usize = 128;

/// Commands that are not queued behind `MULTI`.
const AT_ONCE: &[&str] = &["exec", "discard", "multi", "watch", "quit", "reset"];

/// Redis's word for commands that may add to what is in memory.
const DENIED_WHEN_FULL: &str = "denyoom";

/// Whether a command may add to what is in memory. A payload that is none adds nothing.
pub fn may_add_data(payload: &[u8]) -> bool {
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
    ) -> Action {
        self.replies.begin();
        let mut writer = Writer::new(out, self.version);
        let spec = match self.choose(request, context, &mut writer) {
            Ok(spec) => spec,
            Err(action) => {
                self.transaction.abort();
                return action;
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
            return Action::Reply;
        }
        let slot = self.slot_to_redirect(spec, request);
        if queues && spec.flags.contains(&"no_multi") {
            self.transaction.abort();
            writer.error(b"ERR Command not allowed inside a transaction");
            return Action::Reply;
        }
        if let Some(moved) = context.moved(slot) {
            self.transaction.abort();
            writer.error(moved.to_string().as_bytes());
            return Action::Reply;
        }
        if context.is_full && spec.flags.contains(&DENIED_WHEN_FULL) {
            self.transaction.abort();
            writer.error(Failure::OutOfMemory.to_string().as_bytes());
            return Action::Reply;
        }
        let batch = None;
        let mut call =
            Call { connection: self, spec, request, key, context, settings, writer, batch };
        if queues {
            return transactions::queue(&mut call);
        }
        let mut action = (spec.run)(&mut call);
        if let Action::Submit { redirect_slot, .. } = &mut action {
            *redirect_slot = redirect_slot.or(slot);
        }
        action
    }

    /// The command or subcommand that a request is for, if it has as many words as that takes.
    pub(super) fn choose(
        &mut self,
        request: Request<'_>,
        context: &Context,
        writer: &mut Writer<'_>,
    ) -> Result<&'static CommandSpec, Action> {
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
        Err(Action::Reply)
    }

    /// The command of that name, in lower case; mostly it is the one of the request before.
    fn find(&mut self, name: &[u8]) -> Option<&'static CommandSpec> {
        if self.last_found.is_none_or(|spec| spec.name.as_bytes() != name) {
            self.last_found = Some(table::find(name)?);
        }
        self.last_found
    }

    /// The slot of the request's first key, if this client wants to be told that another replica
    /// leads. It reads here if it said so: by a read index, so it reads nothing old.
    pub(super) fn slot_to_redirect(&self, spec: &CommandSpec, request: Request<'_>) -> Option<u16> {
        let here = !self.follows_redirects
            || self.reads_from_followers && spec.flags.contains(&"readonly");
        if here {
            return None;
        }
        let first = spec.keys(request.len(), &|at| request.get(at))?.next()?;
        Some(slot_of(request.get(first)?))
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
fn unknown(request: Request<'_>, writer: &mut Writer<'_>) -> Action {
    let name = request.name();
    // What a browser sends that was lured here: no reply may come to it, and nothing else of what
    // it sent may be taken for commands.
    if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
        return Action::Close;
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
    Action::Reply
}

/// What Redis's errors show of a word: to it, which is written in C, a NUL ends it.
fn quoted(word: &[u8], most: usize) -> &[u8] {
    let end = word.iter().position(|byte| *byte == 0).unwrap_or(word.len());
    &word[..end.min(most)]
}

fn unknown_subcommand(spec: &CommandSpec, name: &[u8], writer: &mut Writer<'_>) -> Action {
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(quoted(name, QUOTED_BYTES_MAX));
    text.extend_from_slice(format!("'. Try {} HELP.", spec.name.to_uppercase()).as_bytes());
    writer.error(&text);
    Action::Reply
}
