//! Greeting, and the small talk of a connection: who speaks, in which version, and goodbye.

use crate::kv::parse_integer;
use crate::wire::resp::Version;

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::commands::client::{NAME_ERROR, is_plain};
use crate::redis::commands::info::{MODE, VERSION};
use crate::redis::commands::pubsub;

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// `HELLO [version [AUTH user password] [SETNAME name]]`
pub(in crate::redis) fn hello(call: &mut Call<'_>) -> Action {
    let mut version = call.writer.version();
    if let Some(asked) = call.request.get(1) {
        version = match parse_integer(asked) {
            Some(2) => Version::Two,
            Some(3) => Version::Three,
            Some(_) => return call.error(&"NOPROTO unsupported protocol version"),
            None => {
                return call.error(&"ERR Protocol version is not an integer or out of range");
            }
        };
    }
    // All is looked at before anything is done.
    let (mut user, mut name) = (None, None);
    let mut options = call.request.rest(2);
    while let Some(option) = options.next() {
        let is = |word: &str| option.eq_ignore_ascii_case(word.as_bytes());
        if is("AUTH") && options.len() >= 2 {
            user = options.next();
            options.next();
        } else if is("SETNAME") && options.len() >= 1 {
            name = options.next();
        } else {
            return call.error(&format_args!(
                "ERR Syntax error in HELLO option '{}'",
                String::from_utf8_lossy(option)
            ));
        }
    }
    if user.is_some_and(|user| user != b"default") {
        return call.error(&WRONG_PASSWORD);
    }
    if name.is_some_and(|name| !is_plain(name)) {
        return call.error(&NAME_ERROR);
    }
    if let Some(name) = name {
        call.connection.name = name.to_vec();
    }
    call.set_version(version);
    let role = if call.context.leads() { "master" } else { "replica" };
    let id = i64::try_from(call.connection.id).unwrap_or(i64::MAX);
    let writer = &mut call.writer;
    writer.map(7);
    for (field, value) in [("server", "redis"), ("version", VERSION)] {
        writer.bulk(field.as_bytes());
        writer.bulk(value.as_bytes());
    }
    for (field, value) in [("proto", version.number()), ("id", id)] {
        writer.bulk(field.as_bytes());
        writer.integer(value);
    }
    for (field, value) in [("mode", MODE), ("role", role)] {
        writer.bulk(field.as_bytes());
        writer.bulk(value.as_bytes());
    }
    writer.bulk(b"modules");
    writer.array(0);
    Action::Reply
}

/// `AUTH [user] password`: there is no password, so the default user has any.
pub(in crate::redis) fn auth(call: &mut Call<'_>) -> Action {
    match call.request.len() {
        2 => call.error(
            &"ERR AUTH <password> called without any password configured for the default user. \
              Are you sure your configuration is correct?",
        ),
        3 if call.argument(1) == b"default" => call.ok(),
        3 => call.error(&WRONG_PASSWORD),
        _ => call.error(&"ERR syntax error"),
    }
}

/// `PING [message]`
pub(in crate::redis) fn ping(call: &mut Call<'_>) -> Action {
    let listens = call.connection.listening.count() > 0;
    match call.request.len() {
        1 | 2 if listens && call.writer.version() == Version::Two => {
            let message = call.request.get(1).unwrap_or_default();
            pubsub::pong(&mut call.writer, message);
        }
        1 => call.writer.simple("PONG"),
        2 => call.writer.bulk(call.request.get(1).unwrap_or_default()),
        _ => return call.error(&"ERR wrong number of arguments for 'ping' command"),
    }
    Action::Reply
}

/// `ECHO message`
pub(in crate::redis) fn echo(call: &mut Call<'_>) -> Action {
    let message = call.argument(1);
    call.writer.bulk(message);
    Action::Reply
}

/// `SELECT index`
pub(in crate::redis) fn select(call: &mut Call<'_>) -> Action {
    match parse_integer(call.argument(1)) {
        Some(0) => call.ok(),
        Some(number) if i32::try_from(number).is_ok() => {
            call.error(&"ERR DB index is out of range")
        }
        Some(_) => call.error(&format_args!(
            "ERR value is out of range, value must between {} and {}",
            i32::MIN,
            i32::MAX
        )),
        None => call.error(&"ERR value is not an integer or out of range"),
    }
}

/// `TIME`: this replica's wall clock.
pub(in crate::redis) fn time(call: &mut Call<'_>) -> Action {
    let now = call.context.wall_clock;
    call.writer.array(2);
    call.writer.bulk(now.as_secs().to_string().as_bytes());
    call.writer.bulk(now.subsec_micros().to_string().as_bytes());
    Action::Reply
}

/// `QUIT`
pub(in crate::redis) fn quit(call: &mut Call<'_>) -> Action {
    call.writer.ok();
    Action::Close
}

/// `RESET`
pub(in crate::redis) fn reset(call: &mut Call<'_>) -> Action {
    call.connection.reset();
    call.writer.simple("RESET");
    match call.connection.unsubscribe_all() {
        none if none.is_empty() => Action::Reply,
        changes => Action::UpdateSubscriptions(changes),
    }
}
