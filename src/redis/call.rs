//! The arguments of a command's function: a request and the state that its reply depends on.

use std::fmt::Display;

use bytes::Bytes;

use crate::feature_level::FeatureLevel;
use crate::kv::{Batch, CommandId, ItemsBuffer, Operation};
use crate::types::RequestKind;
use crate::wire::resp::{Request, Version, Writer};

use super::action::Action;
use super::context::Context;
use super::session::connection::Connection;
use super::session::reply_format::{ReplyFormat, ReplyKind};
use super::settings::Settings;

/// The input and output of the function that runs a command: the request, the state of its
/// connection and of the server, and a writer for the reply.
#[derive(Debug)]
pub(super) struct Call<'c> {
    pub(super) connection: &'c mut Connection,
    /// The state machine's command that the command table assigns to the request, to run with the
    /// client's arguments; `None` if there is none, because the function creates the operation
    /// itself.
    pub(super) command: Option<CommandId>,
    pub(super) request: Request<'c>,
    pub(super) context: &'c Context,
    pub(super) settings: &'c mut Settings,
    pub(super) writer: Writer<'c>,
    /// Buffer for the encoded operations of commands inside `EXEC` or `ONCE`, which are submitted
    /// together; `None` for a command that is not inside `EXEC` or `ONCE`.
    pub(super) batch: Option<&'c mut ItemsBuffer>,
}

impl<'c> Call<'c> {
    /// Returns the argument at `index`, counted from 0; argument 0 is the command's name.
    ///
    /// # Panics
    /// If the request has fewer arguments. Use it only for arguments that the command's arity
    /// guarantees.
    pub(super) fn argument(&self, index: usize) -> &'c [u8] {
        self.request.get(index).expect("the arity was checked")
    }

    /// Submits an operation to the consensus core, in the database of the connection. For a command
    /// inside `EXEC` or `ONCE`, only adds the operation to those that are submitted together.
    /// `kind` says how to write the reply to the client from the operation's outcome.
    pub(super) fn submit(&mut self, operation: Operation<'_>, kind: ReplyKind) -> Action {
        let operation = operation.in_database(self.connection.database);
        let reply_format = ReplyFormat { kind, version: self.writer.version(), muted: false };
        if let Some(batch) = &mut self.batch {
            batch.push(&operation.encode());
            return Action::Submit {
                kind: RequestKind::Write,
                operation: Bytes::new(),
                reply_format,
                redirect_slot: None,
                blocks: false,
            };
        }
        if let Err(action) = self.require(operation.feature_level()) {
            return action;
        }
        if let Some(text) = self.too_large(operation) {
            return self.error(&format_args!("ERR the command is too large: {text}"));
        }
        let kind = if operation.is_read() { RequestKind::Read } else { RequestKind::Write };
        let operation = operation.encode_in(self.writer.buffer());
        Action::Submit { kind, operation, reply_format, redirect_slot: None, blocks: false }
    }

    /// Writes an error reply, and returns the resulting action as an error, if the cluster's
    /// feature level is below `level`. For a command that needs a level only with certain
    /// arguments; see [`CommandSpec::needs`](super::spec::CommandSpec::needs) for others.
    pub(super) fn require(&mut self, level: FeatureLevel) -> Result<(), Action> {
        match self.context.refusal_below(level) {
            None => Ok(()),
            Some(refusal) => Err(self.error(&refusal)),
        }
    }

    /// Returns the error text for the reply if an operation is too large for a log entry; `None` if
    /// it fits.
    pub(super) fn too_large(&self, operation: Operation<'_>) -> Option<String> {
        let length = Batch::encoded_len_of_one(&operation);
        let max = self.context.payload_bytes_max;
        (length > max)
            .then(|| format!("it takes {length} bytes in the log, at most {max} are allowed"))
    }

    /// Writes an error reply. `text` must begin with an error code, such as `ERR`.
    pub(super) fn error(&mut self, text: &dyn Display) -> Action {
        self.writer.error(text.to_string().as_bytes());
        Action::Reply
    }

    /// Writes the reply `OK`.
    pub(super) fn ok(&mut self) -> Action {
        self.writer.ok();
        Action::Reply
    }

    /// Writes an integer reply, which is `i64::MAX` if `number` does not fit in an `i64`.
    pub(super) fn integer(&mut self, number: impl TryInto<i64>) -> Action {
        self.writer.integer(number.try_into().unwrap_or(i64::MAX));
        Action::Reply
    }

    /// Sets the RESP protocol version of this reply and of all later replies to the connection.
    pub(super) fn set_version(&mut self, version: Version) {
        self.connection.version = version;
        self.writer.set_version(version);
    }
}
