//! `CONFIG`: reads and changes [`Settings`](crate::redis::settings::Settings).

use crate::kv::{DEFAULT_USER, glob};
use crate::redis::action::{Action, Statistics};
use crate::redis::call::Call;
use crate::redis::spec::{ADMIN, CommandSpec, subcommand};
use crate::redis::unsupported_settings::{KEY_LOAD_DELAY, canonical_name};

use super::help::{container, help_row};

/// Row of the command table for `CONFIG` (name, arity, flags, documentation and function), with its
/// subcommands.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[container("config")
    .since("2.0.0", "server")
    .about("A container for server configuration commands.")
    .with(CONFIG)];

const CONFIG: &[CommandSpec] = &[
    subcommand("get", "config|get", -3, get)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .since("2.0.0", "server")
        .costs("O(N), N being the number of settings")
        .about("Returns the values of the settings whose names match patterns."),
    help_row("config|help").since("5.0.0", "server"),
    subcommand("resetstat", "config|resetstat", 2, reset_statistics)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .since("2.0.0", "server")
        .costs("O(1)")
        .about("Resets the statistics that INFO shows."),
    subcommand("rewrite", "config|rewrite", 2, rewrite)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .since("2.8.0", "server")
        .costs("O(1)")
        .about(
            "Always returns an error: changes made by CONFIG SET are lost when the process exits, \
             and there is no Redis config file to rewrite.",
        ),
    subcommand("set", "config|set", -4, set)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .since("2.0.0", "server")
        .costs("O(N), N being the number of settings")
        .about("Sets one or more settings: all of them, or none on an error."),
];

/// Runs `CONFIG GET pattern [pattern ...]`: returns the names and values of the settings that match
/// a pattern.
fn get(call: &mut Call<'_>) -> Action {
    let patterns: Vec<Vec<u8>> = call.request.rest(2).map(<[u8]>::to_ascii_lowercase).collect();
    // As in Redis, a setting for tests is shown only under its full name.
    let matches = |pattern: &[u8], name: &str| {
        pattern == name.as_bytes()
            || name != KEY_LOAD_DELAY && glob::matches(pattern, name.as_bytes())
    };
    let is_wanted = |name: &str| patterns.iter().any(|pattern| matches(pattern, name));
    let chosen: Vec<(&str, &str)> =
        call.settings.all().filter(|(name, _)| is_wanted(name)).collect();
    call.writer.map(chosen.len());
    for (name, value) in chosen {
        call.writer.bulk(name.as_bytes());
        call.writer.bulk(value.as_bytes());
    }
    Action::Reply
}

/// Runs `CONFIG RESETSTAT`: resets the statistics that `INFO` shows, but only those that Redis
/// resets, too.
fn reset_statistics(call: &mut Call<'_>) -> Action {
    call.writer.ok();
    Action::ResetStatistics(Statistics::Counters)
}

/// Runs `CONFIG REWRITE`: always returns an error, because the server has no Redis config file that
/// it could rewrite.
fn rewrite(call: &mut Call<'_>) -> Action {
    call.error(&"ERR The server is running without a config file")
}

/// Runs `CONFIG SET name value [name value ...]`: changes settings. On an error, none of them is
/// changed.
fn set(call: &mut Call<'_>) -> Action {
    let mut arguments = call.request.rest(2);
    if !arguments.len().is_multiple_of(2) {
        return call.error(&"ERR syntax error");
    }
    let mut changed = call.settings.clone();
    let mut names: Vec<String> = Vec::with_capacity(arguments.len() / 2);
    while let (Some(argument), Some(value)) = (arguments.next(), arguments.next()) {
        let argument = String::from_utf8_lossy(argument);
        let lower = argument.to_ascii_lowercase();
        let name = canonical_name(&lower).to_owned();
        let outcome = changed.set(&name, value);
        let is_duplicate = names.contains(&name);
        names.push(name);
        let reason = match outcome {
            Err(None) => {
                return call.error(&format_args!(
                    "ERR Unknown option or number of arguments for CONFIG SET - '{argument}'"
                ));
            }
            _ if is_duplicate => "duplicate parameter".to_owned(),
            Err(Some(reason)) => reason,
            Ok(()) => continue,
        };
        return call.error(&format_args!(
            "ERR CONFIG SET failed (possibly related to argument '{argument}') - {reason}"
        ));
    }
    if changed.password() != call.settings.password()
        && call.context.access.users.get(DEFAULT_USER).is_some()
    {
        return call.error(
            &"ERR CONFIG SET failed (possibly related to argument 'requirepass') - the user \
              default is set on all replicas; change its password with ACL SETUSER",
        );
    }
    *call.settings = changed;
    call.writer.ok();
    Action::ApplySettings
}
