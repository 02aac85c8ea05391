//! `ONCE`: requests that are done once however often a client sends them.
//!
//! Whatever is wrong with the command behind the number is answered under that number, too: so a
//! client counts on with every answer that is not about the session itself.

use bytes::BytesMut;

use crate::kv::{CommandId, ItemsBuffer, Operation, parse_integer};

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::transactions::Batch;
use crate::redis::session::reply_format::Kind;

const REFUSE: CommandId = CommandId::of("refuse");
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// Words before the command.
const WORDS_BEFORE: usize = 3;

/// `ONCE OPEN`, and `ONCE session number command [word ...]`
pub(in crate::redis) fn once(call: &mut Call<'_>) -> Action {
    if call.request.len() == 2 && call.argument(1).eq_ignore_ascii_case(b"OPEN") {
        return call.submit(Operation::OpenSession, Kind::Plain);
    }
    if call.request.len() <= WORDS_BEFORE {
        return call.error(&"ERR wrong number of arguments for 'once' command");
    }
    let number =
        |at| parse_integer(call.argument(at)).and_then(|number| u64::try_from(number).ok());
    let (Some(session), Some(sequence)) = (number(1), number(2)) else {
        return call.error(&NOT_AN_INTEGER);
    };
    let (operation, kind) = match operation_of(call) {
        Ok(found) => found,
        Err(text) => (refusal(&text), Kind::Plain),
    };
    let once = Operation::Once { session, sequence, operation: &operation };
    if let Some((length, most)) = call.exceeds(once) {
        let text =
            format!("ERR the command takes {length} bytes in the log, where {most} are allowed");
        let operation = refusal(text.as_bytes());
        let once = Operation::Once { session, sequence, operation: &operation };
        return call.submit(once, Kind::Plain);
    }
    call.submit(once, kind)
}

/// The bytes of an operation that does nothing but give an error.
fn refusal(text: &[u8]) -> Vec<u8> {
    let mut words = ItemsBuffer::default();
    words.push(text);
    Operation::Call { verb: REFUSE, words: words.items() }.encode()
}

/// What the store has to do for the command behind the numbers, and what its reply looks like.
///
/// # Errors
/// If that is nothing: in the words of the reply.
fn operation_of(call: &mut Call<'_>) -> Result<(Vec<u8>, Kind), Vec<u8>> {
    let request = call.request.from(WORDS_BEFORE).expect("there are more words");
    let mut out = BytesMut::new();
    let Some(spec) = call.find_within(request, &mut out) else {
        let nothing = out.is_empty();
        return Err(if nothing { b"ERR unknown command".to_vec() } else { error_in(&out) });
    };
    let writes = spec.flags.contains(&"write");
    if !writes || spec.flags.contains(&"no_multi") {
        return Err(b"ERR ONCE takes commands that write".to_vec());
    }
    let mut batch = Batch::default();
    let action = call.within(spec, request, &mut batch, &mut out);
    let mut operations = batch.operations.items().iter();
    match (action, operations.next(), operations.next()) {
        (Action::Submit { reply_format, .. }, Some(operation), None) => {
            Ok((operation.to_vec(), reply_format.kind))
        }
        _ if out.starts_with(b"-") => Err(error_in(&out)),
        _ => Err(b"ERR ONCE takes commands that write keys".to_vec()),
    }
}

/// The text of an error reply.
fn error_in(reply: &[u8]) -> Vec<u8> {
    let reply = reply.strip_prefix(b"-").unwrap_or(reply);
    reply.strip_suffix(b"\r\n").unwrap_or(reply).to_vec()
}
