//! One request on its way through its command's function.

use std::fmt::Display;

use bytes::Bytes;

use crate::kv::{Command, CommandId, ItemsBuffer, Operation};
use crate::types::{RequestKey, RequestKind};
use crate::wire::resp::{Request, Version, Writer};

use super::action::Action;
use super::context::Context;
use super::session::connection::Connection;
use super::session::reply_format::{ReplyFormat, ReplyKind};
use super::settings::Settings;

/// A request on its way through its command's function.
#[derive(Debug)]
pub(super) struct Call<'c> {
    pub(super) connection: &'c mut Connection,
    /// The command of the state machine that runs the request, if the table of commands names one.
    pub(super) command: Option<CommandId>,
    pub(super) request: Request<'c>,
    pub(super) key: RequestKey,
    pub(super) context: &'c Context,
    pub(super) settings: &'c mut Settings,
    pub(super) writer: Writer<'c>,
    /// Collects operations instead of submitting them, for a request inside `EXEC` or `ONCE`.
    pub(super) batch: Option<&'c mut ItemsBuffer>,
}

impl<'c> Call<'c> {
    /// The argument at `index`, counted from the command's name at 0.
    ///
    /// # Panics
    /// If there is none: only for arguments that the command's arity guarantees.
    pub(super) fn argument(&self, index: usize) -> &'c [u8] {
        self.request.get(index).expect("the arity was checked")
    }

    /// Submits an operation, or adds it to the batch inside `EXEC` and `ONCE`. `kind` converts its
    /// outcome into the reply.
    pub(super) fn submit(&mut self, operation: Operation<'_>, kind: ReplyKind) -> Action {
        let reply_format = ReplyFormat { kind, version: self.writer.version(), muted: false };
        if let Some(batch) = &mut self.batch {
            batch.push(&operation.encode());
            return Action::Submit {
                kind: RequestKind::Write,
                payload: Bytes::new(),
                reply_format,
                redirect_slot: None,
                blocks: false,
            };
        }
        if let Some(text) = self.too_large(operation) {
            return self.error(&format_args!("ERR the command is too large: {text}"));
        }
        let command = Command { key: self.key, operation };
        let kind = if operation.is_read() { RequestKind::Read } else { RequestKind::Write };
        let payload = command.encode_in(self.writer.buffer());
        Action::Submit { kind, payload, reply_format, redirect_slot: None, blocks: false }
    }

    /// The reason if an operation is larger than a log entry may be; `None` if it fits.
    pub(super) fn too_large(&self, operation: Operation<'_>) -> Option<String> {
        let length = Command { key: self.key, operation }.encoded_len();
        let max = self.context.payload_bytes_max;
        (length > max)
            .then(|| format!("it takes {length} bytes in the log, at most {max} are allowed"))
    }

    /// Replies with an error. `text` begins with the error's code, such as `ERR`.
    pub(super) fn error(&mut self, text: &dyn Display) -> Action {
        self.writer.error(text.to_string().as_bytes());
        Action::Reply
    }

    /// Replies `OK`.
    pub(super) fn ok(&mut self) -> Action {
        self.writer.ok();
        Action::Reply
    }

    /// Replies with an integer, `i64::MAX` if the number is larger.
    pub(super) fn integer(&mut self, number: impl TryInto<i64>) -> Action {
        self.writer.integer(number.try_into().unwrap_or(i64::MAX));
        Action::Reply
    }

    /// Changes the protocol version of this reply and all later ones.
    pub(super) fn set_version(&mut self, version: Version) {
        self.connection.version = version;
        self.writer.set_version(version);
    }
}
