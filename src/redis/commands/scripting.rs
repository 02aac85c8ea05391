//! `EVAL` and its relatives, which submit a script to be run, and `SCRIPT`, which manages the
//! scripts that the cluster keeps.

use crate::feature_level::FeatureLevel;
use crate::kv::{CommandId, Operation, parse_integer};
use crate::lua::{Interpreter, Script, Value, sha1_hex};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::spec::{CommandSpec, command, subcommand};

use super::help::{container, help_row};
use super::passthrough::subcommand_passed_on;

/// Position of the number of keys among the arguments of `EVAL`.
pub(in crate::redis) const KEY_COUNT_INDEX: u8 = 2;

pub(super) const WRITES: &[&str] =
    &["noscript", "stale", "skip_monitor", "no_mandatory_keys", "movablekeys"];
pub(super) const READS: &[&str] =
    &["readonly", "noscript", "stale", "skip_monitor", "no_mandatory_keys", "movablekeys"];

/// A request that waits until the applier runs it on a state of its own.
pub(in crate::redis) const UNRESOLVED: CommandId = CommandId::of("unresolved");
const LOAD: CommandId = CommandId::of("script|load");
const FLUSH: CommandId = CommandId::of("script|flush");

/// Rows of the command table for scripts (name, arity, flags, documentation and function), sorted
/// by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    script_row("eval", WRITES).since("2.6.0", "scripting").about("Runs a Lua script."),
    script_row("eval_ro", READS)
        .since("7.0.0", "scripting")
        .about("Runs a Lua script that writes nothing."),
    script_row("evalsha", WRITES)
        .since("2.6.0", "scripting")
        .about("Runs a Lua script that the cluster keeps, by its SHA-1."),
    script_row("evalsha_ro", READS)
        .since("7.0.0", "scripting")
        .about("Runs a Lua script that the cluster keeps and that writes nothing, by its SHA-1."),
    container("script")
        .since("2.6.0", "scripting")
        .costs("Depends on the subcommand")
        .about("A container for commands on Lua scripts.")
        .with(SCRIPT),
];

const SCRIPT: &[CommandSpec] = &[
    subcommand_passed_on("exists", "script|exists", -3)
        .flags(&["noscript"])
        .categories(&["scripting"])
        .about("Returns which scripts the cluster keeps, by their SHA-1."),
    subcommand("flush", "script|flush", -2, flush)
        .flags(&["noscript"])
        .categories(&["scripting"])
        .needs(FeatureLevel::V0_2)
        .about("Drops all scripts that the cluster keeps."),
    help_row("script|help").categories(&["scripting"]),
    subcommand("kill", "script|kill", 2, kill)
        .flags(&["noscript", "allow_busy"])
        .categories(&["scripting"])
        .about("Ends the script that has been running for long on this replica."),
    subcommand("load", "script|load", 3, load)
        .flags(&["noscript", "stale"])
        .categories(&["scripting"])
        .needs(FeatureLevel::V0_2)
        .about("Keeps a script for EVALSHA, and returns its SHA-1."),
];

/// Returns the row of a command that runs a script or calls a function.
pub(super) const fn script_row(name: &'static str, flags: &'static [&'static str]) -> CommandSpec {
    command(name, -3, eval)
        .counted_at(KEY_COUNT_INDEX)
        .flags(flags)
        .categories(&["scripting"])
        .needs(FeatureLevel::V0_2)
        .costs("Depends on the script")
}

/// Returns whether the command with this name runs a script or calls a function.
pub(in crate::redis) fn runs_script(full_name: &str) -> bool {
    matches!(full_name, "eval" | "eval_ro" | "evalsha" | "evalsha_ro") || is_function(full_name)
}

/// Returns whether the command with this name calls a function.
pub(in crate::redis) fn is_function(full_name: &str) -> bool {
    matches!(full_name, "fcall" | "fcall_ro")
}

/// Returns the error text if the number of keys in these arguments of `EVAL`, or of `FCALL` if
/// `is_function`, is wrong.
pub(in crate::redis) fn key_count_error(
    is_function: bool,
    key_count: &[u8],
    rest: usize,
) -> Option<&'static str> {
    match parse_integer(key_count) {
        None if is_function => Some("ERR Bad number of keys provided"),
        None => Some("ERR value is not an integer or out of range"),
        Some(count) if count < 0 => Some("ERR Number of keys can't be negative"),
        Some(count) if usize::try_from(count).is_ok_and(|count| count <= rest) => None,
        Some(_) => Some("ERR Number of keys can't be greater than number of args"),
    }
}

/// Runs `EVAL script numkeys [key ...] [argument ...]` and its relatives: submits the request to be
/// run by the applier.
fn eval(call: &mut Call<'_>) -> Action {
    let (index, name) = (usize::from(KEY_COUNT_INDEX), call.request.name().to_ascii_lowercase());
    let rest = call.request.len() - index - 1;
    // That a function does not exist is the more important error.
    if !is_function(&String::from_utf8_lossy(&name))
        && let Some(error) = key_count_error(false, call.argument(index), rest)
    {
        return call.error(&error);
    }
    let args: Vec<&[u8]> = call.request.iter().collect();
    call.submit(Operation::call(UNRESOLVED, &args[..]), ReplyKind::Script)
}

/// Runs `SCRIPT LOAD script`.
fn load(call: &mut Call<'_>) -> Action {
    let source = call.argument(2);
    let sha = sha1_hex(source);
    if let Err(error) = Interpreter::new().load(&Script { sha: &sha, source }) {
        let Value::Error(text) = error.reply() else { unreachable!("an error is an error") };
        call.writer.error(&text);
        return Action::Reply;
    }
    call.submit(Operation::call(LOAD, [sha.as_bytes(), source]), ReplyKind::Plain)
}

/// Runs `SCRIPT FLUSH [ASYNC|SYNC]`.
fn flush(call: &mut Call<'_>) -> Action {
    let is_known = |option: &[u8]| {
        option.eq_ignore_ascii_case(b"ASYNC") || option.eq_ignore_ascii_case(b"SYNC")
    };
    match call.request.get(2) {
        Some(option) if !is_known(option) || call.request.len() > 3 => {
            call.error(&"ERR SCRIPT FLUSH only support SYNC|ASYNC option")
        }
        _ => call.submit(Operation::call(FLUSH, []), ReplyKind::Plain),
    }
}

/// Runs `SCRIPT KILL`.
fn kill(_call: &mut Call<'_>) -> Action {
    Action::KillScript { is_function: false }
}
