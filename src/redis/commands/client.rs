//! `CLIENT`: the client's own connection, and commands about other connections.

use crate::kv::parse_integer;
use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::client_info::{ClientKill, ClientQuery, ClientType};
use crate::redis::session::connection::{BufferBytes, Eviction, ReplyMode};
use crate::redis::spec::{ADMIN, CommandSpec, subcommand};

use super::client_pause::{pause, unpause};
use super::client_tracking::{caching, getredir, tracking, trackinginfo};
use super::help::{container, help_row};

const OWN_CONNECTION: &[&str] = &["noscript", "loading", "stale"];

pub(super) const NAME_ERROR: &str =
    "ERR Client names cannot contain spaces, newlines or special characters.";

/// Row of the command table for `CLIENT` (name, arity, flags, documentation and function), with its
/// subcommands.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[container("client")
    .since("2.4.0", "connection")
    .about("A container for client connection commands.")
    .with(CLIENT)];

const CLIENT: &[CommandSpec] = &[
    own_connection("caching", "client|caching", 3, caching, "6.0.0")
        .about("Says whether the client caches the values of the next request."),
    own_connection("getname", "client|getname", 2, getname, "2.6.9")
        .about("Returns the name of the connection."),
    own_connection("getredir", "client|getredir", 2, getredir, "6.0.0")
        .about("Returns the id of the connection that gets the invalidations."),
    help_row("client|help").categories(&["connection"]).since("5.0.0", "connection"),
    own_connection("id", "client|id", 2, id, "5.0.0").about("Returns the id of the connection."),
    own_connection("info", "client|info", 2, info, "6.2.0")
        .about("Returns details about the connection."),
    all_connections("kill", "client|kill", -3, kill, "2.4.0")
        .about("Closes the connections that match a filter."),
    all_connections("list", "client|list", -2, list, "2.4.0")
        .about("Lists the connections to this replica."),
    own_connection("no-evict", "client|no-evict", 3, no_evict, "7.0.0")
        .flags(ADMIN)
        .categories(&["dangerous", "connection"])
        .about("Sets whether the client stays connected when all clients use too much memory."),
    own_connection("no-touch", "client|no-touch", 3, no_effect, "7.2.0")
        .about("Has no effect: access times of keys are not recorded."),
    all_connections("pause", "client|pause", -3, pause, "3.0.0")
        .about("Postpones the requests of this replica's clients for some time."),
    own_connection("reply", "client|reply", 3, reply, "3.2.0")
        .about("Turns replies on or off, or suppresses the next one."),
    own_connection("setinfo", "client|setinfo", 4, setinfo, "7.2.0")
        .about("Sets the name or the version of the client library."),
    own_connection("setname", "client|setname", 3, setname, "2.6.9")
        .about("Sets the name of the connection."),
    own_connection("tracking", "client|tracking", -3, tracking, "6.0.0")
        .about("Begins or ends invalidations for values that the client caches."),
    own_connection("trackinginfo", "client|trackinginfo", 2, trackinginfo, "6.2.0")
        .about("Returns what the client has asked for with CLIENT TRACKING."),
    all_connections("unblock", "client|unblock", -3, unblock, "5.0.0")
        .about("Ends the wait of a blocked connection."),
    all_connections("unpause", "client|unpause", 2, unpause, "6.2.0")
        .about("Ends the pause of this replica's clients."),
];

const fn own_connection(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
    since: &'static str,
) -> CommandSpec {
    subcommand(name, full_name, arity, run)
        .flags(OWN_CONNECTION)
        .categories(&["connection"])
        .since(since, "connection")
        .costs("O(1)")
}

const fn all_connections(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
    since: &'static str,
) -> CommandSpec {
    subcommand(name, full_name, arity, run)
        .flags(ADMIN)
        .categories(&["dangerous", "connection"])
        .since(since, "connection")
        .costs("O(N), N being the number of connections")
}

/// Runs `CLIENT KILL address` (the old form) or `CLIENT KILL <filter value> ...`: closes the
/// connections that match the address or the filters.
fn kill(call: &mut Call<'_>) -> Action {
    let is_old_form = call.request.len() == 3;
    let mut kill = ClientKill {
        version: call.writer.version(),
        own_id: call.connection.id,
        is_old_form,
        id: None,
        address: None,
        local_address: None,
        user: None,
        client_type: None,
        skip_own: !is_old_form,
        count: 0,
    };
    if is_old_form {
        kill.address = Some(call.argument(2).to_vec());
        return Action::KillClients(Box::new(kill));
    }
    let mut arguments = call.request.rest(2);
    if !arguments.len().is_multiple_of(2) {
        return call.error(&"ERR syntax error");
    }
    while let (Some(filter), Some(value)) = (arguments.next(), arguments.next()) {
        let is = |word: &str| filter.eq_ignore_ascii_case(word.as_bytes());
        let value_is = |word: &str| value.eq_ignore_ascii_case(word.as_bytes());
        if is("ID") {
            let id = parse_integer(value).filter(|id| *id > 0);
            let Some(id) = id.and_then(|id| u64::try_from(id).ok()) else {
                return call.error(&"ERR client-id should be greater than 0");
            };
            kill.id = Some(id);
        } else if is("ADDR") {
            kill.address = Some(value.to_vec());
        } else if is("LADDR") {
            kill.local_address = Some(value.to_vec());
        } else if is("TYPE") {
            let Some(client_type) = ClientType::parse(value) else {
                return unknown_type(call, value);
            };
            kill.client_type = Some(client_type);
        } else if is("USER") {
            if call.context.access.get(value).is_none() {
                let value = String::from_utf8_lossy(value);
                return call.error(&format_args!("ERR No such user '{value}'"));
            }
            kill.user = Some(value.to_vec());
        } else if is("SKIPME") && (value_is("yes") || value_is("no")) {
            kill.skip_own = value_is("yes");
        } else {
            return call.error(&"ERR syntax error");
        }
    }
    Action::KillClients(Box::new(kill))
}

fn unknown_type(call: &mut Call<'_>, name: &[u8]) -> Action {
    call.error(&format_args!("ERR Unknown client type '{}'", String::from_utf8_lossy(name)))
}

/// Runs `CLIENT LIST [TYPE type] [ID id ...]`: describes all connections, or those of this type or
/// with these ids, one per line.
fn list(call: &mut Call<'_>) -> Action {
    let version = call.writer.version();
    let own = (call.connection.id, request_bytes(call));
    let mut query = ClientQuery { version, own, ids: Vec::new(), client_type: None };
    let mut options = call.request.rest(2);
    let Some(option) = options.next() else { return Action::ListClients(query) };
    if option.eq_ignore_ascii_case(b"TYPE") && options.len() == 1 {
        let name = options.next().unwrap_or_default();
        query.client_type = ClientType::parse(name);
        if query.client_type.is_none() {
            return unknown_type(call, name);
        }
        return Action::ListClients(query);
    }
    if option.eq_ignore_ascii_case(b"ID") && options.len() > 0 {
        for id in options {
            let Some(id) = parse_integer(id).and_then(|id| u64::try_from(id).ok()) else {
                return call.error(&"ERR Invalid client ID");
            };
            query.ids.push(id);
        }
        return Action::ListClients(query);
    }
    call.error(&"ERR syntax error")
}

/// Runs `CLIENT UNBLOCK id [TIMEOUT | ERROR]`: ends the wait of a connection, as if its time were
/// over or with an error.
fn unblock(call: &mut Call<'_>) -> Action {
    let option = call.request.get(3).unwrap_or(b"TIMEOUT");
    let is = |word: &str| option.eq_ignore_ascii_case(word.as_bytes());
    let with_error = is("ERROR");
    if !with_error && !is("TIMEOUT") || call.request.len() > 4 {
        return call.error(&"ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
    }
    let Some(id) = parse_integer(call.argument(2)) else {
        return call.error(&"ERR value is not an integer or out of range");
    };
    match u64::try_from(id) {
        Ok(id) => Action::Unblock { id, with_error },
        Err(_) => call.integer(0),
    }
}

/// Runs `CLIENT REPLY <ON | OFF | SKIP>`: turns replies on or off, or suppresses the reply to the
/// next command.
fn reply(call: &mut Call<'_>) -> Action {
    let argument = call.argument(2);
    let is = |word: &str| argument.eq_ignore_ascii_case(word.as_bytes());
    let mode = &mut call.connection.reply_mode;
    if is("ON") {
        *mode = ReplyMode::default();
        return call.ok();
    }
    if is("OFF") {
        (mode.off, mode.muted) = (true, true);
    } else if is("SKIP") {
        // No effect after OFF: there is no reply to skip.
        (mode.skip_next, mode.muted) = (!mode.off, true);
    } else {
        return call.error(&"ERR syntax error");
    }
    Action::Reply
}

/// Runs `CLIENT NO-EVICT <ON | OFF>`: with `ON`, the client is not disconnected if all clients
/// together use more memory than `maxmemory-clients`.
fn no_evict(call: &mut Call<'_>) -> Action {
    let is = |word: &[u8]| call.argument(2).eq_ignore_ascii_case(word);
    let eviction = match (is(b"ON"), is(b"OFF")) {
        (true, _) => Eviction::Never,
        (_, true) => Eviction::Allowed,
        _ => return call.error(&"ERR syntax error"),
    };
    call.connection.eviction = eviction;
    call.ok()
}

/// Runs `CLIENT NO-TOUCH <ON | OFF>`: replies `OK`. There are no access times that the client's
/// commands could change.
fn no_effect(call: &mut Call<'_>) -> Action {
    let argument = call.argument(2);
    if ["ON", "OFF"].iter().any(|word| argument.eq_ignore_ascii_case(word.as_bytes())) {
        return call.ok();
    }
    call.error(&"ERR syntax error")
}

/// Returns whether `name` is a valid name of a client or a library, or a valid version of a
/// library: it contains only printable ASCII characters without spaces.
pub(super) fn is_valid_name(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}

/// Runs `CLIENT ID`: returns the id of the client's connection.
fn id(call: &mut Call<'_>) -> Action {
    let id = call.connection.id;
    call.integer(id)
}

/// Runs `CLIENT GETNAME`: returns the name of the client's connection; null if it has none.
fn getname(call: &mut Call<'_>) -> Action {
    let name = &call.connection.name;
    call.writer.bulk_or_null((!name.is_empty()).then_some(name));
    Action::Reply
}

/// Runs `CLIENT SETNAME name`: sets the name of the client's connection; an empty name removes it.
fn setname(call: &mut Call<'_>) -> Action {
    let name = call.argument(2);
    if !is_valid_name(name) {
        return call.error(&NAME_ERROR);
    }
    call.connection.name = name.to_vec();
    call.ok()
}

/// Runs `CLIENT SETINFO <LIB-NAME | LIB-VER> value`: sets the name or the version of the client
/// library.
fn setinfo(call: &mut Call<'_>) -> Action {
    let (option, value) = (call.argument(2), call.argument(3));
    let (known, field) = if option.eq_ignore_ascii_case(b"lib-name") {
        ("lib-name", &mut call.connection.library_name)
    } else if option.eq_ignore_ascii_case(b"lib-ver") {
        ("lib-ver", &mut call.connection.library_version)
    } else {
        let option = String::from_utf8_lossy(option);
        return call.error(&format_args!("ERR Unrecognized option '{option}'"));
    };
    if !is_valid_name(value) {
        return call.error(&format_args!(
            "ERR {known} cannot contain spaces, newlines or special characters."
        ));
    }
    *field = value.to_vec();
    call.ok()
}

/// Runs `CLIENT INFO`: describes the client's own connection in one line, as `CLIENT LIST` does.
fn info(call: &mut Call<'_>) -> Action {
    let mut text = String::new();
    let buffers = BufferBytes { incoming: request_bytes(call), ..BufferBytes::default() };
    call.connection.describe(call.context.now, buffers, &mut text);
    call.writer.verbatim(&text);
    Action::Reply
}

/// Returns the length of the request in bytes, as clients encode it. It is part of what `CLIENT
/// LIST` and `CLIENT INFO` show of the client that has sent them, as in Redis.
fn request_bytes(call: &Call<'_>) -> usize {
    let header = |count: usize| 1 + count.to_string().len() + 2;
    let argument = |argument: &[u8]| header(argument.len()) + argument.len() + 2;
    header(call.request.len()) + call.request.iter().map(argument).sum::<usize>()
}
