//! `DUMP` and `RESTORE`: values in Redis's RDB format.

use crate::kv::{CommandId, Operation};
use crate::rdb;
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::passthrough::passed_on;
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::spec::{CommandSpec, command};

/// Index of the payload among the arguments of `RESTORE key ttl payload ...`.
const PAYLOAD_INDEX: usize = 3;

/// Rows of the command table for the commands on serialized values (name, arity, flags,
/// documentation and function), sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    passed_on("dump", 2)
        .flags(&["readonly"])
        .categories(&["keyspace"])
        .since("2.6.0", "generic")
        .costs("O(N), N being the size of the value")
        .about("Returns the value of a key in Redis's serialization format."),
    command("restore", -4, restore)
        .runs(CommandId::of("restore"))
        .flags(&["write", "denyoom"])
        .categories(&["keyspace", "dangerous"])
        .since("2.6.0", "generic")
        .costs("O(N), N being the size of the value, or O(N log N) for sorted sets")
        .about("Creates a key from a value that DUMP has returned."),
];

/// Runs `RESTORE key ttl payload [option ...]`. A payload with a wrong checksum does not enter the
/// log: an empty one takes its place, for which the state machine reports the same errors.
fn restore(call: &mut Call<'_>) -> Action {
    let mut arguments: Vec<&[u8]> = call.request.rest(1).collect();
    let payload = &mut arguments[PAYLOAD_INDEX - 1];
    if rdb::check_payload(payload).is_err() {
        *payload = b"";
    }
    let command = CommandId::of("restore");
    call.submit(Operation::call(command, &arguments[..]), ReplyKind::Plain)
}
