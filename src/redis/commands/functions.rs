//! `FUNCTION`, which manages the libraries of functions that the cluster keeps, and `FCALL`, which
//! submits a function to be run.
//!
//! The replica that receives a library checks its code, and submits it with the functions that it
//! registers.

use std::time::Duration;

use bytes::BytesMut;

use crate::feature_level::FeatureLevel;
use crate::kv::{CommandId, KeptScripts, Operation};
use crate::rdb::{LibrariesError, decode_libraries};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::library_check::LibraryChecker;
use crate::redis::session::reply_format::ReplyKind;
use crate::redis::spec::{CommandSpec, subcommand};
use crate::wire::resp::{Version, Writer};

use super::help::{container, help_row};
use super::passthrough::subcommand_passed_on;
use super::scripting::{READS, WRITES, script_row};

const LOAD: CommandId = CommandId::of("function|load");
const FLUSH: CommandId = CommandId::of("function|flush");
const RESTORE: CommandId = CommandId::of("function|restore");
const LIST: CommandId = CommandId::of("function|list");
const DUMP: CommandId = CommandId::of("function|dump");

/// Rows of the command table for functions (name, arity, flags, documentation and function), sorted
/// by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    script_row("fcall", WRITES).since("7.0.0", "scripting").about("Calls a function."),
    script_row("fcall_ro", READS)
        .since("7.0.0", "scripting")
        .about("Calls a function that writes nothing."),
    container("function")
        .since("7.0.0", "scripting")
        .costs("Depends on the subcommand")
        .about("A container for commands on functions.")
        .with(FUNCTION),
];

const FUNCTION: &[CommandSpec] = &[
    subcommand_passed_on("delete", "function|delete", 3)
        .flags(&["write", "noscript"])
        .categories(&["scripting"])
        .since("7.0.0", "scripting")
        .costs("O(1)")
        .about("Deletes a library with its functions."),
    subcommand("dump", "function|dump", 2, dump)
        .flags(&["noscript"])
        .categories(&["scripting"])
        .since("7.0.0", "scripting")
        .costs("O(N), N being the number of functions")
        .needs(FeatureLevel::V0_2)
        .about("Returns all libraries as a payload for FUNCTION RESTORE."),
    subcommand("flush", "function|flush", -2, flush)
        .flags(&["write", "noscript"])
        .categories(&["scripting"])
        .since("7.0.0", "scripting")
        .costs("O(1)")
        .about("Deletes all libraries."),
    help_row("function|help").categories(&["scripting"]).since("7.0.0", "scripting"),
    subcommand("kill", "function|kill", 2, kill)
        .flags(&["noscript", "allow_busy"])
        .categories(&["scripting"])
        .since("7.0.0", "scripting")
        .costs("O(1)")
        .about("Ends the function that has been running for long on this replica."),
    subcommand("list", "function|list", -2, list)
        .flags(&["noscript"])
        .categories(&["scripting"])
        .since("7.0.0", "scripting")
        .costs("O(N), N being the number of functions")
        .needs(FeatureLevel::V0_2)
        .about("Returns the libraries and their functions."),
    subcommand("load", "function|load", -3, load)
        .flags(&["write", "denyoom", "noscript"])
        .categories(&["scripting"])
        .since("7.0.0", "scripting")
        .costs("O(1), and the time in which the code registers its functions")
        .needs(FeatureLevel::V0_2)
        .about("Creates a library of functions from its code."),
    subcommand("restore", "function|restore", -3, restore)
        .flags(&["write", "denyoom", "noscript"])
        .categories(&["scripting"])
        .since("7.0.0", "scripting")
        .costs("O(N), N being the number of functions")
        .needs(FeatureLevel::V0_2)
        .about("Creates the libraries in a payload of FUNCTION DUMP."),
    subcommand("stats", "function|stats", 2, stats)
        .flags(&["noscript", "allow_busy"])
        .categories(&["scripting"])
        .since("7.0.0", "scripting")
        .costs("O(1)")
        .about("Returns the function that is running for long on this replica, and counts."),
];

fn syntax_error(call: &mut Call<'_>) -> Action {
    let name = String::from_utf8_lossy(call.argument(1)).into_owned();
    call.error(&format_args!(
        "ERR unknown subcommand or wrong number of arguments for '{name}'. Try FUNCTION HELP."
    ))
}

fn failed(call: &mut Call<'_>, text: &[u8]) -> Action {
    call.writer.error(text);
    Action::Reply
}

/// Runs `FUNCTION LOAD [REPLACE] code`.
fn load(call: &mut Call<'_>) -> Action {
    let (code, options) = (call.argument(call.request.len() - 1), 2..call.request.len() - 1);
    let replaces = if options.is_empty() { &b"0"[..] } else { b"1" };
    for index in options {
        let option = call.argument(index);
        if !option.eq_ignore_ascii_case(b"REPLACE") {
            let option = String::from_utf8_lossy(option);
            return call.error(&format_args!("ERR Unknown option given: {option}"));
        }
    }
    match LibraryChecker::new(1, code.len()).and_then(|mut checker| checker.check(code)) {
        Ok(library) => {
            let library = library.encode();
            call.submit(Operation::call(LOAD, [replaces, &library]), ReplyKind::Plain)
        }
        Err(text) => failed(call, &text),
    }
}

/// Runs `FUNCTION FLUSH [ASYNC | SYNC]`.
fn flush(call: &mut Call<'_>) -> Action {
    if call.request.len() > 3 {
        return syntax_error(call);
    }
    let is_known = |option: &[u8]| {
        option.eq_ignore_ascii_case(b"ASYNC") || option.eq_ignore_ascii_case(b"SYNC")
    };
    if !call.request.rest(2).all(is_known) {
        return call.error(&"ERR FUNCTION FLUSH only supports SYNC|ASYNC option");
    }
    if call.context.members.feature_level < FeatureLevel::V0_2 {
        // There are no functions yet, and test suites send this command to clean up.
        return call.ok();
    }
    call.submit(Operation::call(FLUSH, []), ReplyKind::Plain)
}

/// Runs `FUNCTION LIST [LIBRARYNAME pattern] [WITHCODE]`.
fn list(call: &mut Call<'_>) -> Action {
    let (mut pattern, mut with_code, mut index) = (None, false, 2);
    while let Some(option) = call.request.get(index) {
        index += 1;
        if !with_code && option.eq_ignore_ascii_case(b"WITHCODE") {
            with_code = true;
        } else if pattern.is_none() && option.eq_ignore_ascii_case(b"LIBRARYNAME") {
            let Some(given) = call.request.get(index) else {
                return call.error(&"ERR library name argument was not given");
            };
            pattern = Some(given);
            index += 1;
        } else {
            let option = String::from_utf8_lossy(option);
            return call.error(&format_args!("ERR Unknown argument {option}"));
        }
    }
    let shows_code = if with_code { &b"1"[..] } else { b"0" };
    let operation = Operation::call(LIST, [pattern.unwrap_or(b"*"), shows_code]);
    call.submit(operation, ReplyKind::FunctionList { with_code })
}

/// Runs `FUNCTION DUMP`.
fn dump(call: &mut Call<'_>) -> Action {
    call.submit(Operation::call(DUMP, []), ReplyKind::FunctionDump)
}

/// Runs `FUNCTION RESTORE payload [FLUSH | APPEND | REPLACE]`.
fn restore(call: &mut Call<'_>) -> Action {
    if call.request.len() > 4 {
        return syntax_error(call);
    }
    let policy = call.request.get(3).unwrap_or(b"APPEND").to_ascii_uppercase();
    if ![&b"FLUSH"[..], b"APPEND", b"REPLACE"].contains(&&policy[..]) {
        return call.error(
            &"ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
        );
    }
    let codes = match decode_libraries(call.argument(2)) {
        Ok(codes) => codes,
        Err(error) => return call.error(&payload_error(error)),
    };
    let bytes = codes.iter().map(Vec::len).sum();
    let mut checker = match LibraryChecker::new(codes.len(), bytes) {
        Ok(checker) => checker,
        Err(text) => return failed(call, &text),
    };
    let mut args = vec![policy];
    for code in codes {
        match checker.check(&code) {
            Ok(library) => args.push(library.encode()),
            Err(text) => return failed(call, &text),
        }
    }
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    call.submit(Operation::call(RESTORE, &args[..]), ReplyKind::Plain)
}

/// Returns Redis's text for an error in a payload.
fn payload_error(error: LibrariesError) -> &'static str {
    match error {
        LibrariesError::Payload(_) => "ERR DUMP payload version or checksum are wrong",
        LibrariesError::OtherRecord => "ERR given type is not a function",
        LibrariesError::Malformed => "ERR failed loading the given functions payload",
    }
}

/// Runs `FUNCTION KILL`.
fn kill(_call: &mut Call<'_>) -> Action {
    Action::KillScript { is_function: true }
}

/// Runs `FUNCTION STATS`.
fn stats(call: &mut Call<'_>) -> Action {
    Action::ShowFunctionStats(call.writer.version())
}

/// A script or function that runs for long.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunningScript {
    /// Whether it is a function.
    pub is_function: bool,
    /// Name of the function, or SHA-1 of the script.
    pub name: Vec<u8>,
    /// The command that runs it, with all arguments.
    pub command: Vec<Vec<u8>>,
}

/// Writes the reply to `FUNCTION STATS`: the function that is running, with the time for which it
/// has been running, and how many libraries and functions there are.
pub fn write_function_stats(
    running: Option<(RunningScript, Duration)>,
    kept: KeptScripts,
    version: Version,
    out: &mut BytesMut,
) {
    let mut writer = Writer::new(out, version);
    writer.map(2);
    writer.bulk(b"running_script");
    match running.filter(|(running, _)| running.is_function) {
        None => writer.null(),
        Some((running, duration)) => {
            writer.map(3);
            writer.bulk(b"name");
            writer.bulk(&running.name);
            writer.bulk(b"command");
            writer.array(running.command.len());
            running.command.iter().for_each(|argument| writer.bulk(argument));
            writer.bulk(b"duration_ms");
            writer.integer(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
        }
    }
    writer.bulk(b"engines");
    writer.map(1);
    writer.bulk(b"LUA");
    writer.map(2);
    for (name, count) in
        [("libraries_count", kept.library_count), ("functions_count", kept.function_count)]
    {
        writer.bulk(name.as_bytes());
        writer.integer(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
