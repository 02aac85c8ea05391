//! One request on its way through the function of its command.

use crate::kv::{Command, Operation};
use crate::redis::action::Action;
use crate::redis::commands::transactions::Batch;
use crate::redis::context::Context;
use crate::redis::session::connection::Connection;
use crate::redis::session::reply_format::{Kind, ReplyFormat};
use crate::redis::settings::Settings;
use crate::redis::spec::CommandSpec;
use crate::types::RequestKey;
use crate::types::RequestKind;
use crate::wire::resp::{Request, Version, Writer};
use bytes::{Bytes, BytesMut};
use std::fmt::Display;

/// A request on its way through its command's function.
#[derive(Debug)]
pub(super) struct Call<'c> {
    pub(super) connection: &'c mut Connection,
    /// The command's row of the table, or the subcommand's.
    pub(super) spec: &'static CommandSpec,
    pub(super) request: Request<'c>,
    pub(super) key: RequestKey,
    pub(super) context: &'c Context,
    pub(super) settings: &'c mut Settings,
    pub(super) writer: Writer<'c>,
    /// Where its operation goes, if the request is part of another.
    pub(super) batch: Option<&'c mut Batch>,
}

impl<'c> Call<'c> {
    /// An argument that the command's arity promises.
    pub(super) fn argument(&self, at: usize) -> &'c [u8] {
        self.request.get(at).expect("the arity was checked")
    }

    /// Hands an operation to the core; or, if this request is part of another, adds it to that
    /// one's.
    pub(super) fn submit(&mut self, operation: Operation<'_>, kind: Kind) -> Action {
        let reply_format = ReplyFormat { kind, version: self.writer.version(), muted: false };
        if let Some(batch) = &mut self.batch {
            batch.operations.push(&operation.encode());
            let (kind, payload) = (RequestKind::Write, Bytes::new());
            return Action::Submit {
                kind,
                payload,
                reply_format,
                redirect_slot: None,
                blocks: false,
            };
        }
        if let Some((length, most)) = self.exceeds(operation) {
            return self.error(&format_args!(
                "ERR the command takes {length} bytes in the log, where {most} are allowed"
            ));
        }
        let command = Command { key: self.key, operation };
        let kind = if operation.is_read() { RequestKind::Read } else { RequestKind::Write };
        let payload = command.encode_in(self.writer.buffer());
        Action::Submit { kind, payload, reply_format, redirect_slot: None, blocks: false }
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
    ) -> Option<&'static CommandSpec> {
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
        spec: &'static CommandSpec,
        request: Request<'_>,
        batch: &mut Batch,
        out: &mut BytesMut,
    ) -> Action {
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
    pub(super) fn error(&mut self, text: &dyn Display) -> Action {
        self.writer.error(text.to_string().as_bytes());
        Action::Reply
    }

    /// Answers `OK`.
    pub(super) fn ok(&mut self) -> Action {
        self.writer.ok();
        Action::Reply
    }

    /// Speaks another version from this reply on.
    pub(super) fn set_version(&mut self, version: Version) {
        self.connection.version = version;
        self.writer.set_version(version);
    }
}
