//! `CLIENT`: what is told of connections.

use bytes::BytesMut;

use crate::kv::parse_integer;
use crate::wire::resp::{Version, Writer};

use super::connection::{Buffered, Connection};
use super::context::Context;
use super::dispatch::{Call, Step};

pub(super) const NAME_ERROR: &str =
    "ERR Client names cannot contain spaces, newlines or special characters.";

/// Which connections a client wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientQuery {
    version: Version,
    /// Only these, unless it is empty.
    ids: Vec<u64>,
    /// None at all: the kind that was asked for does not exist here.
    none: bool,
}

/// Collects the answer to a [`ClientQuery`]:
///
/// ```
/// # use bowline::redis::{ClientList, ClientQuery, Connection, Context, Buffered};
/// # use bytes::BytesMut;
/// fn answer(query: ClientQuery, all: &[Connection], context: &Context, out: &mut BytesMut) {
///     let mut list = ClientList::new(query);
///     for connection in all {
///         list.add(connection, context, Buffered::default());
///     }
///     list.finish(out);
/// }
/// ```
#[derive(Debug)]
pub struct ClientList {
    query: ClientQuery,
    text: String,
}

impl ClientList {
    /// An empty one.
    pub fn new(query: ClientQuery) -> ClientList {
        ClientList { query, text: String::new() }
    }

    /// Takes a connection in, if it was asked for.
    pub fn add(&mut self, connection: &Connection, context: &Context, buffered: Buffered) {
        let ClientQuery { ids, none, .. } = &self.query;
        if !none && (ids.is_empty() || ids.contains(&connection.id)) {
            connection.describe(context, buffered, &mut self.text);
        }
    }

    /// Writes the reply.
    pub fn finish(self, out: &mut BytesMut) {
        Writer::new(out, self.query.version).verbatim(&self.text);
    }
}

/// Whether every byte can be seen, as names must be.
pub(super) fn is_plain(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}

/// `CLIENT ID`
pub(super) fn id(call: &mut Call<'_>) -> Step {
    let id = i64::try_from(call.connection.id).unwrap_or(i64::MAX);
    call.writer.integer(id);
    Step::Done
}

/// `CLIENT GETNAME`
pub(super) fn getname(call: &mut Call<'_>) -> Step {
    let name = &call.connection.name;
    call.writer.bulk_or_null((!name.is_empty()).then_some(name));
    Step::Done
}

/// `CLIENT SETNAME name`; an empty one takes it away.
pub(super) fn setname(call: &mut Call<'_>) -> Step {
    let name = call.argument(2);
    if !is_plain(name) {
        return call.error(&NAME_ERROR);
    }
    call.connection.name = name.to_vec();
    call.ok()
}

/// `CLIENT SETINFO <LIB-NAME | LIB-VER> value`
pub(super) fn setinfo(call: &mut Call<'_>) -> Step {
    let (option, value) = (call.argument(2), call.argument(3));
    let (known, field) = if option.eq_ignore_ascii_case(b"lib-name") {
        ("lib-name", &mut call.connection.library_name)
    } else if option.eq_ignore_ascii_case(b"lib-ver") {
        ("lib-ver", &mut call.connection.library_version)
    } else {
        let option = String::from_utf8_lossy(option);
        return call.error(&format_args!("ERR Unrecognized option '{option}'"));
    };
    if !is_plain(value) {
        return call.error(&format_args!(
            "ERR {known} cannot contain spaces, newlines or special characters."
        ));
    }
    *field = value.to_vec();
    call.ok()
}

/// `CLIENT INFO`
pub(super) fn info(call: &mut Call<'_>) -> Step {
    let mut text = String::new();
    call.connection.describe(call.context, Buffered::default(), &mut text);
    call.writer.verbatim(&text);
    Step::Done
}

/// `CLIENT LIST [TYPE type] [ID id ...]`
pub(super) fn list(call: &mut Call<'_>) -> Step {
    let mut query = ClientQuery { version: call.writer.version(), ids: Vec::new(), none: false };
    let mut options = call.request.rest(2);
    let option = options.next().unwrap_or_default();
    if option.is_empty() && options.len() == 0 {
        return Step::ListClients(query);
    }
    if option.eq_ignore_ascii_case(b"TYPE") && options.len() == 1 {
        let kind = options.next().unwrap_or_default();
        let known = ["normal", "replica", "slave", "master", "pubsub"];
        if !known.iter().any(|known| kind.eq_ignore_ascii_case(known.as_bytes())) {
            let kind = String::from_utf8_lossy(kind);
            return call.error(&format_args!("ERR Unknown client type '{kind}'"));
        }
        // Replicas don't come through this door, and nobody subscribes.
        query.none = !kind.eq_ignore_ascii_case(b"normal");
        return Step::ListClients(query);
    }
    if option.eq_ignore_ascii_case(b"ID") && options.len() > 0 {
        for id in options {
            let Some(id) = parse_integer(id).and_then(|id| u64::try_from(id).ok()) else {
                return call.error(&"ERR Invalid client ID");
            };
            query.ids.push(id);
        }
        return Step::ListClients(query);
    }
    call.error(&"ERR syntax error")
}
