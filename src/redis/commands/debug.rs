//! `DEBUG`: commands for tests, which are refused unless the replica was started with
//! `--enable-debug-command yes`.

use std::time::Duration;

use crate::kv::CommandId;
use crate::redis::action::{Action, LocalWrite};
use crate::redis::call::Call;
use crate::redis::spec::{ADMIN, CommandSpec, subcommand};
use crate::wire::resp::Version;

use super::help::{container, help_row};
use super::passthrough::submit_subcommand;

/// Row of the command table for `DEBUG` (name, arity, flags, documentation and function), with its
/// subcommands.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[container("debug")
    .flags(ADMIN)
    .categories(&["dangerous"])
    .since("1.0.0", "server")
    .about("A container for debugging commands.")
    .with(DEBUG)];

const DEBUG: &[CommandSpec] = &[
    of_state("digest", "debug|digest", 2)
        .costs("O(1)")
        .about("Returns a digest of all keys, values and expiration times."),
    of_state("digest-value", "debug|digest-value", -2)
        .costs("O(N), N being the number of keys")
        .about("Returns a digest of the value and the expiration time of each key."),
    row("diverge", "debug|diverge", -4, diverge)
        .about("Sets a key in the state of this replica only, so that it differs from the others."),
    row("error", "debug|error", 3, error).about("Returns an error with the given text."),
    help_row("debug|help"),
    row("loadaof", "debug|loadaof", 2, reload)
        .about("Starts a snapshot, as SAVE does; the state in memory stays as it is."),
    row("log", "debug|log", 3, log).about("Writes a text to the log of this replica."),
    of_state("object", "debug|object", 3)
        .costs("O(1)")
        .about("Describes the value of a key: its encoding and its memory usage."),
    row("protocol", "debug|protocol", 3, protocol)
        .about("Returns an example of a type of replies."),
    row("quicklist-packed-threshold", "debug|quicklist-packed-threshold", 3, no_effect)
        .about("Has no effect: no value of a list is stored apart from the others."),
    row("reload", "debug|reload", -2, reload)
        .about("Starts a snapshot, as SAVE does; the state in memory stays as it is."),
    row("sleep", "debug|sleep", 3, sleep)
        .about("Blocks the whole replica for the given number of seconds."),
];

const fn row(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, full_name, arity, run).flags(ADMIN).costs("O(1)")
}

/// Returns a row for a subcommand that the state machine runs.
const fn of_state(name: &'static str, full_name: &'static str, arity: i8) -> CommandSpec {
    subcommand(name, full_name, arity, read_state).runs(CommandId::of(full_name)).flags(ADMIN)
}

/// Writes an error reply, and returns the resulting action as an error, unless the replica was
/// started with `--enable-debug-command yes`.
fn require_debug(call: &mut Call<'_>) -> Result<(), Action> {
    if call.context.debug {
        return Ok(());
    }
    Err(call.error(
        &"ERR DEBUG command not allowed. If the enable-debug-command option is set to \"yes\", \
          you can run it; start the replica with --enable-debug-command yes",
    ))
}

/// Runs a subcommand that reads the state: `DEBUG DIGEST`, `DEBUG DIGEST-VALUE [key ...]` or `DEBUG
/// OBJECT key`.
fn read_state(call: &mut Call<'_>) -> Action {
    match require_debug(call) {
        Ok(()) => submit_subcommand(call, None),
        Err(action) => action,
    }
}

/// Runs `DEBUG DIVERGE key value [SILENT]`: sets the key in the state of this replica only, without
/// a log entry; with `SILENT`, without a change of the digest. For tests of how a wrong state is
/// found and replaced.
fn diverge(call: &mut Call<'_>) -> Action {
    if let Err(action) = require_debug(call) {
        return action;
    }
    let silently = call.request.get(4).is_some();
    if call.request.len() > 5
        || call.request.get(4).is_some_and(|option| !option.eq_ignore_ascii_case(b"silent"))
    {
        return call.error(&"ERR syntax error");
    }
    let (key, value) = (call.argument(2).to_vec(), call.argument(3).to_vec());
    call.writer.ok();
    let database = call.connection.database;
    Action::WriteOnlyHere(LocalWrite { database, key, value, silently })
}

/// Runs `DEBUG ERROR text`: replies with an error.
fn error(call: &mut Call<'_>) -> Action {
    if let Err(action) = require_debug(call) {
        return action;
    }
    let text: Vec<u8> = call.argument(2).iter().map(|byte| byte.max(&b' ')).copied().collect();
    call.writer.error(&text);
    Action::Reply
}

/// Runs `DEBUG LOG text`: writes the text to the log of this replica.
fn log(call: &mut Call<'_>) -> Action {
    if let Err(action) = require_debug(call) {
        return action;
    }
    call.writer.ok();
    Action::Log(String::from_utf8_lossy(call.argument(2)).into_owned())
}

/// Runs `DEBUG RELOAD [option ...]` and `DEBUG LOADAOF`: starts a snapshot. Redis saves its data
/// and then loads it; here, each acknowledged write is in the log already.
fn reload(call: &mut Call<'_>) -> Action {
    if let Err(action) = require_debug(call) {
        return action;
    }
    let is_known = |option: &[u8]| {
        ["MERGE", "NOFLUSH", "NOSAVE"].iter().any(|it| option.eq_ignore_ascii_case(it.as_bytes()))
    };
    if !call.request.rest(2).all(is_known) {
        return call
            .error(&"ERR DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options.");
    }
    call.writer.ok();
    Action::TakeSnapshot
}

/// Runs a subcommand that changes a detail of Redis's memory layout that does not exist here.
fn no_effect(call: &mut Call<'_>) -> Action {
    match require_debug(call) {
        Ok(()) => call.ok(),
        Err(action) => action,
    }
}

/// Runs `DEBUG SLEEP seconds`: blocks the whole replica for this time. A blocked leader does not
/// answer its peers, so it can lose its leadership.
fn sleep(call: &mut Call<'_>) -> Action {
    if let Err(action) = require_debug(call) {
        return action;
    }
    let seconds = std::str::from_utf8(call.argument(2)).ok().and_then(|text| text.parse().ok());
    let time = seconds.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    let Some(time) = time else { return call.error(&"ERR value is not a valid float") };
    call.writer.ok();
    Action::Sleep(time)
}

/// Runs `DEBUG PROTOCOL type`: replies with the example that Redis has of this type.
fn protocol(call: &mut Call<'_>) -> Action {
    if let Err(action) = require_debug(call) {
        return action;
    }
    let name = call.argument(2).to_ascii_lowercase();
    let (version, writer) = (call.writer.version(), &mut call.writer);
    match &name[..] {
        b"string" => writer.bulk(b"Hello World"),
        b"integer" => writer.integer(12_345),
        b"double" => writer.double(3_141.0 / 1_000.0),
        b"bignum" => writer.big_number("1234567999999999999999999999999999999"),
        b"null" => writer.null(),
        b"array" => {
            writer.array(3);
            (0..3).for_each(|number| writer.integer(number));
        }
        b"set" => {
            writer.set(3);
            (0..3).for_each(|number| writer.integer(number));
        }
        b"map" => {
            writer.map(3);
            for number in 0..3 {
                writer.integer(number);
                writer.boolean(number == 1);
            }
        }
        b"attrib" => {
            if version == Version::Three {
                writer.attributes(1);
                writer.bulk(b"key-popularity");
                writer.array(2);
                writer.bulk(b"key:123");
                writer.integer(90);
            }
            writer.bulk(b"Some real reply following the attribute");
        }
        b"push" if version == Version::Two => {
            return call.error(&"ERR RESP2 is not supported by this command");
        }
        b"push" => {
            writer.push(2);
            writer.bulk(b"server-cpu-usage");
            writer.integer(42);
            writer.bulk(b"Some real reply following the push reply");
        }
        b"true" => writer.boolean(true),
        b"false" => writer.boolean(false),
        b"verbatim" => writer.verbatim("This is a verbatim\nstring"),
        _ => {
            return call.error(
                &"ERR Wrong protocol type name. Please use one of the following: \
                  string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false",
            );
        }
    }
    Action::Reply
}
