//! `MULTI`, `EXEC`, `DISCARD`, `WATCH` and `UNWATCH`.
//!
//! Commands after `MULTI` are queued unchanged. `EXEC` runs their functions and combines their
//! operations on the data into one [`Operation::Transaction`] of a batch. Replies that do not
//! depend on the data are written at once, but sent together with the others when the transaction's
//! log entry is applied.
//!
//! `WATCH` reads the revisions of its keys and blocks the connection until they are known. The next
//! `EXEC` sends these revisions with the transaction, which aborts if a revision differs when the
//! transaction is applied.
//!
//! A transaction with scripts is run by the applier, like one script.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::kv::{CommandId, DatabaseId, ItemsBuffer, Operation, Outcome, WatchedKey};
use crate::redis::action::Action;
use crate::redis::authorization::Checked;
use crate::redis::call::Call;
use crate::redis::failure::Failure;
use crate::redis::lookup::redirect_slot;
use crate::redis::session::connection::Blocked;
use crate::redis::session::reply_format::{ExecReply, ReplyFormat, ReplyKind};
use crate::redis::session::transaction::{CommandQueue, QueuedRequest, Transaction, WatchedKeys};
use crate::redis::spec::{
    ALL_KEYS, CommandSpec, CommandTable, DENY_OOM, command, command_with_table,
};
use crate::redis::statistics::CommandNumber;
use crate::wire::resp::{Request, Writer};

use super::connection::{SELECT, database};
use super::scripting::{UNRESOLVED, runs_script};

/// The state machine's command that returns the revisions of keys, for `WATCH`. A key's revision is
/// a number that changes whenever the key changes.
const REVISIONS: CommandId = CommandId::of("revisions");

const FAST: &[&str] = &["noscript", "loading", "stale", "fast", "allow_busy"];

/// Rows of the command table for transaction commands (name, arity, flags, documentation and
/// function), sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    command("discard", 1, discard)
        .flags(FAST)
        .categories(&["transaction"])
        .since("2.0.0", "transactions")
        .costs("O(N), N being the number of queued commands")
        .about("Discards the transaction and stops watching all keys."),
    command_with_table("exec", 1, exec)
        .flags(&["noscript", "loading", "stale", "skip_slowlog"])
        .categories(&["transaction"])
        .since("1.2.0", "transactions")
        .costs("That of all queued commands")
        .about("Executes all commands of the transaction atomically."),
    command("multi", 1, multi)
        .flags(FAST)
        .categories(&["transaction"])
        .since("1.2.0", "transactions")
        .costs("O(1)")
        .about("Starts a transaction: the commands that follow are queued until EXEC."),
    command("unwatch", 1, unwatch)
        .flags(FAST)
        .categories(&["transaction"])
        .since("2.2.0", "transactions")
        .costs("O(1)")
        .about("Stops watching all keys."),
    command("watch", -2, watch)
        .keys_at(ALL_KEYS)
        .flags(FAST)
        .categories(&["transaction"])
        .since("2.2.0", "transactions")
        .costs("O(N), N being the number of keys")
        .about("Watches keys: the next EXEC aborts if one of them has changed."),
];

/// Runs `MULTI`: opens a transaction.
fn multi(call: &mut Call<'_>) -> Action {
    if call.connection.transaction.is_open() {
        return call.error(&"ERR MULTI calls can not be nested");
    }
    call.connection.transaction.queue = Some(CommandQueue::default());
    call.ok()
}

/// Runs `DISCARD`: drops the queued commands and stops watching all keys.
fn discard(call: &mut Call<'_>) -> Action {
    if !call.connection.transaction.is_open() {
        return call.error(&"ERR DISCARD without MULTI");
    }
    call.connection.transaction.discard();
    call.ok()
}

/// Runs `UNWATCH`: stops watching all keys.
fn unwatch(call: &mut Call<'_>) -> Action {
    call.connection.transaction.watched = WatchedKeys::default();
    call.ok()
}

/// Runs `WATCH key [key ...]`: the next `EXEC` aborts if one of these keys has changed by then.
fn watch(call: &mut Call<'_>) -> Action {
    let transaction = &call.connection.transaction;
    if transaction.is_open() {
        return call.error(&"ERR WATCH inside MULTI is not allowed");
    }
    let mut keys: Vec<&[u8]> = call.request.rest(1).collect();
    keys.sort_unstable();
    keys.dedup();
    // A key that is watched already keeps its earlier revision.
    let database = call.connection.database;
    keys.retain(|key| !transaction.watched.contains(database, key));
    if keys.is_empty() {
        return call.ok();
    }
    if transaction.watched.bytes_with(&keys) > call.context.payload_bytes_max {
        return call.error(&"ERR too many keys are watched");
    }
    let action = call.submit(Operation::call(REVISIONS, &keys[..]), ReplyKind::Plain);
    if let Action::Submit { .. } = action {
        let keys = keys.into_iter().map(Bytes::copy_from_slice).collect();
        call.connection.blocked = Some(Blocked::Watch(keys));
    }
    action.blocking()
}

/// Queues a command inside a transaction (after `MULTI`), and replies `QUEUED`.
pub(in crate::redis) fn queue(call: &mut Call<'_>) -> Action {
    let max = call.context.payload_bytes_max;
    let queue = call.connection.transaction.queue.as_mut().expect("called inside MULTI");
    if let Err(bytes) = queue.push(QueuedRequest::new(call.request), max) {
        return call.error(&format_args!(
            "ERR the transaction takes {bytes} bytes, at most {max} are allowed"
        ));
    }
    call.writer.simple("QUEUED");
    Action::Reply
}

/// Runs `EXEC`: runs the functions of the queued commands, and submits their operations as one
/// transaction.
fn exec(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    let Some(queue) = call.connection.transaction.queue.take() else {
        return call.error(&"ERR EXEC without MULTI");
    };
    let Transaction { watched, .. } = std::mem::take(&mut call.connection.transaction);
    if queue.aborted || watched.failed {
        return call.error(&"EXECABORT Transaction discarded because of previous errors.");
    }
    let requests: Vec<_> = queue.requests.iter().map(QueuedRequest::request).collect();
    let (numbers, specs): (Vec<_>, Vec<_>) =
        requests.iter().map(|request| table.resolved(*request)).unzip();
    let slot = specs
        .iter()
        .zip(&requests)
        .find_map(|(spec, request)| redirect_slot(call.connection, spec, *request));
    if let Some(moved) = call.context.moved(slot) {
        return call.error(&moved);
    }
    if call.context.is_full && specs.iter().any(|spec| spec.has_flag(DENY_OOM)) {
        let full = Failure::OutOfMemory;
        return call.error(&format_args!("EXECABORT Transaction discarded because of: {full}"));
    }
    if specs.iter().any(|spec| runs_script(spec.full_name)) {
        return exec_with_scripts(call, table, &watched, &requests, slot);
    }
    let may_abort = !watched.revisions.is_empty();
    // A client that gets an error for a transaction with SELECT goes on in its database.
    let may_change = may_abort || specs.iter().any(|spec| spec.full_name == SELECT);
    let before = may_change.then(|| Box::new(call.connection.clone()));
    let mut run = ExecRun { batch: ItemsBuffer::default(), actions: Vec::new(), may_abort };
    let commands = numbers.iter().copied().zip(specs).zip(&requests);
    let replies: Vec<ExecReply> =
        commands.map(|(command, request)| run.command(call, command, *request, table)).collect();
    let ExecRun { batch, mut actions, .. } = run;
    let is_written = |reply: &ExecReply| matches!(reply, ExecReply::Written(_));
    let are_all_written = replies.iter().all(is_written);
    let changes_connection = replies.iter().any(|reply| !matches!(reply, ExecReply::Outcome(_)));
    let replies: Arc<[_]> = numbers.into_iter().zip(replies).collect();
    if watched.revisions.is_empty() && are_all_written {
        let kind = ReplyKind::Exec(replies);
        let reply_format = ReplyFormat { kind, version: call.writer.version(), muted: false };
        reply_format.encode(&Outcome::List(Vec::new()), call.writer.buffer());
        actions.push(Action::CountNestedCalls(reply_format));
        actions.push(Action::Reply);
        return sequence(actions);
    }
    let revisions = encode_watched(&watched);
    let operation =
        Operation::Transaction { watched: revisions.items(), operations: batch.items() };
    if let Some(text) = call.too_large(operation) {
        if let Some(before) = before {
            call.connection.restore(*before);
        }
        return call.error(&format_args!("EXECABORT Transaction discarded because {text}"));
    }
    // HELLO inside the transaction changes only the version of later replies.
    let version = before.as_ref().map_or(call.connection.version, |before| before.version);
    let mut action = call.submit(operation, ReplyKind::Exec(replies));
    if let Action::Submit { reply_format, redirect_slot, .. } = &mut action {
        reply_format.version = version;
        *redirect_slot = slot;
    }
    if let Some(before) = before.filter(|_| changes_connection) {
        call.connection.blocked = Some(Blocked::Exec(before));
        action = action.blocking();
    }
    actions.push(action);
    sequence(actions)
}

/// Returns the watched keys, each followed by its revision.
fn encode_watched(watched: &WatchedKeys) -> ItemsBuffer {
    let mut revisions = ItemsBuffer::default();
    for ((database, key), revision) in &watched.revisions {
        let (database, number) = (*database, *revision);
        WatchedKey { database, key, number }.push(&mut revisions);
    }
    revisions
}

/// Submits a transaction with scripts: the requests as the client has sent them, to be run one
/// after another like one script.
fn exec_with_scripts(
    call: &mut Call<'_>,
    table: &'static CommandTable,
    watched: &WatchedKeys,
    requests: &[Request<'_>],
    slot: Option<u16>,
) -> Action {
    let (revisions, mut operations) = (encode_watched(watched), ItemsBuffer::default());
    for request in requests {
        let args: Vec<&[u8]> = request.iter().collect();
        let operation = Operation::call(UNRESOLVED, &args[..]);
        operations.push(&operation.in_database(call.connection.database).encode());
    }
    let operation =
        Operation::Transaction { watched: revisions.items(), operations: operations.items() };
    if let Some(text) = call.too_large(operation) {
        return call.error(&format_args!("EXECABORT Transaction discarded because {text}"));
    }
    let mut action = call.submit(operation, ReplyKind::Script);
    for request in requests {
        call.connection.show(table.resolved(*request).1, *request, call.context);
    }
    if let Action::Submit { redirect_slot, .. } = &mut action {
        *redirect_slot = slot;
        if let Some(database) = selected_by(requests) {
            let before = Box::new(call.connection.clone());
            call.connection.database = database;
            call.connection.blocked = Some(Blocked::Exec(before));
            action = action.blocking();
        }
    }
    action
}

/// Returns the database that the last `SELECT` of a transaction selects; `None` if there is none.
fn selected_by(requests: &[Request<'_>]) -> Option<DatabaseId> {
    let selected = |request: &Request<'_>| {
        let is_select = request.name().eq_ignore_ascii_case(SELECT.as_bytes());
        database(request.get(1).filter(|_| is_select)?).ok()
    };
    requests.iter().rev().find_map(selected)
}

/// Returns the error reply to a queued command that the user may not send any more; `None` if the
/// user may.
fn no_longer_permitted(
    call: &mut Call<'_>,
    number: CommandNumber,
    spec: &'static CommandSpec,
    request: Request<'_>,
) -> Option<String> {
    let argument = |index| request.get(index);
    let checked = Checked { spec, number, count: request.len(), argument: &argument };
    let text = call.connection.unauthorized(checked, true)?;
    let reason = text.strip_prefix("NOPERM ").unwrap_or(&text);
    Some(format!(
        "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC \
         call. This command is no longer allowed for the following reason: {reason}"
    ))
}

/// Combines several actions into one that performs them in order. Only the last action sends a
/// reply.
fn sequence(mut actions: Vec<Action>) -> Action {
    if actions.len() > 1 {
        Action::Sequence(actions)
    } else {
        actions.pop().unwrap_or(Action::Reply)
    }
}

/// The state of an `EXEC` while it runs the functions of the queued commands.
struct ExecRun {
    /// The encoded operations of the commands that have run so far. `EXEC` submits them as one
    /// transaction.
    batch: ItemsBuffer,
    /// Actions that the server must perform before it sends the reply to `EXEC`.
    actions: Vec<Action>,
    /// Whether the transaction may still abort when its log entry is applied, because the
    /// connection watches keys. If so, actions that cannot be undone are refused.
    may_abort: bool,
}

impl ExecRun {
    /// Runs the function of one queued command. Returns the reply to this command or, if the reply
    /// depends on the outcome of the transaction, the format in which to write the reply then.
    fn command(
        &mut self,
        call: &mut Call<'_>,
        (number, spec): (CommandNumber, &'static CommandSpec),
        request: Request<'_>,
        table: &'static CommandTable,
    ) -> ExecReply {
        let refusal = no_longer_permitted(call, number, spec, request);
        if let Some(text) = refusal.or_else(|| call.connection.lacks_database(spec)) {
            let mut reply = BytesMut::new();
            Writer::new(&mut reply, call.connection.version).error(text.as_bytes());
            return ExecReply::Written(reply.freeze());
        }
        let subscriptions = self.may_abort.then(|| call.connection.subscriptions.clone());
        let mut reply = BytesMut::new();
        let writer = Writer::new(&mut reply, call.connection.version);
        let action = spec.run_within(call, request, table, &mut self.batch, writer);
        call.connection.show(spec, request, call.context);
        match action {
            Action::Submit { reply_format, .. } => ExecReply::Outcome(reply_format),
            Action::ListClients(query) => ExecReply::Clients(query),
            Action::Reply => ExecReply::Written(reply.freeze()),
            // Also if the transaction may abort, since the settings are changed already.
            Action::ApplySettings => {
                self.actions.push(action);
                ExecReply::Written(reply.freeze())
            }
            Action::UpdateSubscriptions(_)
            | Action::PauseClients { .. }
            | Action::UnpauseClients
            | Action::ResetStatistics(_)
            | Action::Sleep(_)
            | Action::WriteOnlyHere(_)
            | Action::Log(_)
            | Action::TakeSnapshot
            | Action::ReturnFreeMemory
                if !self.may_abort =>
            {
                self.actions.push(action);
                ExecReply::Written(reply.freeze())
            }
            // Refused, because the action could not be undone if the transaction aborts, or has no
            // reply yet.
            _ => {
                if let Some(subscriptions) = subscriptions {
                    call.connection.subscriptions = subscriptions;
                }
                reply.clear();
                let mut writer = Writer::new(&mut reply, call.connection.version);
                writer.error(b"ERR Command not allowed inside a transaction");
                ExecReply::Written(reply.freeze())
            }
        }
    }
}
