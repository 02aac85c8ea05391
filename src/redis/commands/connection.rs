//! Commands about the connection itself, such as `HELLO`, `PING` and `QUIT`.

use crate::feature_level::FeatureLevel;
use crate::kv::{DEFAULT_USER, DatabaseId, parse_integer};
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::spec::{ANYTIME_FAST, CommandSpec, command};
use crate::wire::resp::Version;

use super::client::{NAME_ERROR, is_valid_name};
use super::info::{MODE, VERSION};

const GREETING: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];

/// Name of the command that selects a database.
pub(super) const SELECT: &str = "select";

/// Redis's error for `HELLO` of a client that must log in and does not.
const HELLO_WITHOUT_LOGIN: &str = "NOAUTH HELLO must be called with the client already \
     authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the \
     client and select the RESP protocol version at the same time";

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// Rows of the command table for connection commands (name, arity, flags, documentation and
/// function), sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    row("auth", -2, auth, "1.0.0").flags(GREETING).about("Authenticates the connection."),
    row("echo", 2, echo, "1.0.0").flags(ANYTIME_FAST).about("Returns the given string."),
    row("hello", -1, hello, "6.0.0")
        .flags(GREETING)
        .about("Sets the protocol version, and returns details about the server."),
    row("ping", -1, ping, "1.0.0").flags(&["fast"]).about("Returns PONG, or the given message."),
    row("quit", -1, quit, "1.0.0").flags(GREETING).about("Closes the connection."),
    row("reset", 1, reset, "6.2.0")
        .flags(GREETING)
        .about("Resets the connection to its initial state."),
    row(SELECT, 2, select, "1.0.0").flags(ANYTIME_FAST).about("Selects a database."),
];

const fn row(
    name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
    since: &'static str,
) -> CommandSpec {
    command(name, arity, run).categories(&["connection"]).since(since, "connection").costs("O(1)")
}

/// Runs `HELLO [version [AUTH user password] [SETNAME name]]`: sets the RESP protocol version and
/// the name of the connection, and returns details about the server.
fn hello(call: &mut Call<'_>) -> Action {
    let mut version = call.writer.version();
    if let Some(wanted) = call.request.get(1) {
        version = match parse_integer(wanted) {
            Some(2) => Version::Two,
            Some(3) => Version::Three,
            Some(_) => return call.error(&"NOPROTO unsupported protocol version"),
            None => {
                return call.error(&"ERR Protocol version is not an integer or out of range");
            }
        };
    }
    // All options are checked before any has an effect.
    let (mut login, mut name) = (None, None);
    let mut options = call.request.rest(2);
    while let Some(option) = options.next() {
        let is = |word: &str| option.eq_ignore_ascii_case(word.as_bytes());
        if is("AUTH") && options.len() >= 2 {
            login = options.next().zip(options.next());
        } else if is("SETNAME") && options.len() >= 1 {
            name = options.next();
        } else {
            return call.error(&format_args!(
                "ERR Syntax error in HELLO option '{}'",
                String::from_utf8_lossy(option)
            ));
        }
    }
    if let Some((user, password)) = login
        && !log_in(call, user, password, "HELLO")
    {
        return call.error(&WRONG_PASSWORD);
    }
    if !call.connection.is_logged_in() {
        return call.error(&HELLO_WITHOUT_LOGIN);
    }
    if name.is_some_and(|name| !is_valid_name(name)) {
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

/// Runs `AUTH [user] password`: logs the client in, as the user `default` if no other is named.
fn auth(call: &mut Call<'_>) -> Action {
    let (user, password) = match call.request.len() {
        2 if call.context.access.needs_no_password() => {
            return call.error(
                &"ERR AUTH <password> called without any password configured for the default \
                  user. Are you sure your configuration is correct?",
            );
        }
        2 => (DEFAULT_USER, call.argument(1)),
        3 => (call.argument(1), call.argument(2)),
        _ => return call.error(&"ERR syntax error"),
    };
    if log_in(call, user, password, "AUTH") { call.ok() } else { call.error(&WRONG_PASSWORD) }
}

/// Logs the client in as a user. Returns whether the user exists and has this password.
fn log_in(call: &mut Call<'_>, user: &[u8], password: &[u8], command: &'static str) -> bool {
    let permissions = call.context.access.log_in(user, password);
    call.connection.log_in(permissions, user, command)
}

/// Runs `PING [message]`: returns the message, or `PONG` without one. A RESP2 client with
/// subscriptions gets an array of `pong` and the message, which is empty if none was sent.
fn ping(call: &mut Call<'_>) -> Action {
    let has_subscriptions = !call.connection.subscriptions.is_empty();
    let message = call.request.get(1);
    match call.request.len() {
        // A RESP2 client with subscriptions expects every reply to have the form of a message.
        1 | 2 if has_subscriptions && call.writer.version() == Version::Two => {
            call.writer.array(2);
            call.writer.bulk(b"pong");
            call.writer.bulk(message.unwrap_or_default());
        }
        1 => call.writer.simple("PONG"),
        2 => call.writer.bulk(message.unwrap_or_default()),
        _ => return call.error(&"ERR wrong number of arguments for 'ping' command"),
    }
    Action::Reply
}

/// Runs `ECHO message`: returns the message.
fn echo(call: &mut Call<'_>) -> Action {
    let message = call.argument(1);
    call.writer.bulk(message);
    Action::Reply
}

/// Runs `SELECT index`: the commands that follow run in this database. If it is refused for another
/// reason than its number, commands on keys are refused until a `SELECT` succeeds.
fn select(call: &mut Call<'_>) -> Action {
    let database = match database(call.argument(1)) {
        Ok(database) => database,
        Err(error) => return call.error(&error),
    };
    if database != DatabaseId::FIRST {
        call.connection.refused_database = Some(database);
        if call.connection.follows_redirects {
            return call.error(&"ERR SELECT is not allowed in cluster mode");
        }
        if let Err(action) = call.require(FeatureLevel::V0_2) {
            return action;
        }
    }
    call.connection.refused_database = None;
    call.connection.database = database;
    call.ok()
}

/// Parses the number of a database.
///
/// # Errors
/// If it is not the number of a database, with Redis's error.
pub(super) fn database(argument: &[u8]) -> Result<DatabaseId, &'static str> {
    match parse_integer(argument) {
        Some(number) if i32::try_from(number).is_err() => {
            Err("ERR value is out of range, value must between -2147483648 and 2147483647")
        }
        Some(number) => DatabaseId::new(number).ok_or("ERR DB index is out of range"),
        None => Err("ERR value is not an integer or out of range"),
    }
}

/// Runs `QUIT`: replies `OK` and closes the connection.
fn quit(call: &mut Call<'_>) -> Action {
    call.writer.ok();
    Action::Close
}

/// Runs `RESET`: ends the client's transaction and subscriptions, and restores the initial state of
/// the connection.
fn reset(call: &mut Call<'_>) -> Action {
    call.connection.reset();
    call.connection.begin_login(&call.context.access);
    call.writer.simple("RESET");
    match call.connection.unsubscribe_all() {
        none if none.is_empty() => Action::Reply,
        changes => Action::UpdateSubscriptions(changes),
    }
}
