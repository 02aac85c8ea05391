//! `ONCE`: writes of a client session that are applied once, regardless of how often the client
//! sends them.
//!
//! An error of the numbered command is stored as the reply for its number. So a client must
//! increase the number after every reply, except after errors about the session itself.

use bytes::BytesMut;

use crate::kv::{CommandId, ItemsBuffer, Operation, parse_integer};
use crate::redis::action::Action;
use crate::redis::authorization::Checked;
use crate::redis::call::Call;
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::spec::{CommandSpec, CommandTable, KeyRange, command_with_table};
use crate::redis::statistics::CallStatus;
use crate::wire::resp::Writer;

/// The state machine's command that changes nothing and returns its argument as an error.
const REFUSE: CommandId = CommandId::of("refuse");
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// Index of the name of the inner command among the arguments of `ONCE session number command ...`.
pub(super) const COMMAND_INDEX: usize = 3;
/// Key range of `ONCE session number command ...`: the first argument of the inner command, which
/// is its first key for nearly all commands that write.
const FOURTH_KEY: KeyRange = KeyRange { first: 4, last: 4, step: 1 };

/// Row of the command table for `ONCE`, a command that Redis does not have: it applies a client's
/// write only once, even if the client sends it several times.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[command_with_table("once", -2, once)
    .keys_at(FOURTH_KEY)
    .flags(&["write", "denyoom", "no_multi"])
    .categories(&["transaction"])
    .since("7.2.0", "transactions")
    .costs("That of the command")
    .about("Applies a numbered command of a client session at most once. OPEN opens a session.")];

/// Runs `ONCE OPEN`, which opens a client session, and `ONCE session number command [argument
/// ...]`, which applies a command that writes. The command is applied only once, even if the client
/// sends it again with the same number.
fn once(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    if call.request.len() == 2 && call.argument(1).eq_ignore_ascii_case(b"OPEN") {
        return call.submit(Operation::OpenSession, ReplyKind::Plain);
    }
    if call.request.len() <= COMMAND_INDEX {
        return call.error(&"ERR wrong number of arguments for 'once' command");
    }
    let number =
        |index| parse_integer(call.argument(index)).and_then(|number| u64::try_from(number).ok());
    let (Some(session), Some(sequence)) = (number(1), number(2)) else {
        return call.error(&NOT_AN_INTEGER);
    };
    let (operation, kind) = match numbered_operation(call, table) {
        Ok(found) => found,
        Err(text) => (refusal(&text), ReplyKind::Plain),
    };
    let once = Operation::Once { session, sequence, operation: &operation };
    if let Some(text) = call.too_large(once) {
        let operation = refusal(format!("ERR the command is too large: {text}").as_bytes());
        let once = Operation::Once { session, sequence, operation: &operation };
        return call.submit(once, ReplyKind::Plain);
    }
    call.submit(once, kind)
}

/// Returns an encoded operation that changes nothing and has the error `text` as its outcome.
fn refusal(text: &[u8]) -> Vec<u8> {
    Operation::call(REFUSE, [text]).encode()
}

/// Returns the encoded operation of the command inside `ONCE`, and how to write the reply from its
/// outcome.
///
/// # Errors
/// If the command is unknown, malformed or not a write, with the text of the error reply.
fn numbered_operation(
    call: &mut Call<'_>,
    table: &'static CommandTable,
) -> Result<(Vec<u8>, ReplyKind), Vec<u8>> {
    let request = call.request.from(COMMAND_INDEX).expect("the length was checked");
    let mut reply = BytesMut::new();
    let mut writer = Writer::new(&mut reply, call.connection.version);
    // CLIENT LIST shows ONCE, not the command inside.
    let connection = &mut *call.connection;
    let (last_command, last_command_at) = (connection.last_command, connection.last_command_at);
    let resolved = table.resolve(connection, request, call.context.now, &mut writer);
    (connection.last_command, connection.last_command_at) = (last_command, last_command_at);
    let Ok(spec) = resolved else {
        let is_empty = reply.is_empty();
        return Err(if is_empty { b"ERR unknown command".to_vec() } else { error_text(&reply) });
    };
    let argument = |index| request.get(index);
    let CallStatus::Called(number) = call.connection.call_status else {
        unreachable!("the command was found")
    };
    let checked = Checked { spec, number, count: request.len(), argument: &argument };
    if let Some(text) = call.connection.unauthorized(checked, false) {
        return Err(text.into_bytes());
    }
    if !spec.has_flag("write") || spec.has_flag("no_multi") {
        return Err(b"ERR ONCE takes commands that write".to_vec());
    }
    if let Some(text) = call.context.refusal_below(spec.feature_level) {
        return Err(text.into_bytes());
    }
    let mut batch = ItemsBuffer::default();
    let writer = Writer::new(&mut reply, call.connection.version);
    let action = spec.run_within(call, request, table, &mut batch, writer);
    let mut operations = batch.items().iter();
    match (action, operations.next(), operations.next()) {
        (Action::Submit { reply_format, .. }, Some(operation), None) => {
            Ok((operation.to_vec(), reply_format.kind))
        }
        _ if reply.starts_with(b"-") => Err(error_text(&reply)),
        _ => Err(b"ERR ONCE takes commands that write keys".to_vec()),
    }
}

/// Returns the text of an encoded error reply, without the leading `-` and the line ending.
fn error_text(reply: &[u8]) -> Vec<u8> {
    let reply = reply.strip_prefix(b"-").unwrap_or(reply);
    reply.strip_suffix(b"\r\n").unwrap_or(reply).to_vec()
}
