//! `CLIENT`: what is told of connections.

use bytes::BytesMut;

use crate::kv::parse_integer;
use crate::types::Instant;
use crate::wire::resp::{Version, Writer};

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::session::connection::{BufferBytes, Connection, Replies};

pub(in crate::redis) const NAME_ERROR: &str =
    "ERR Client names cannot contain spaces, newlines or special characters.";

/// Which connections a client wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientQuery {
    version: Version,
    /// Only these, unless it is empty.
    ids: Vec<u64>,
    /// Only those that listen to channels, or only those that do not.
    listening: Option<bool>,
    /// None at all: the kind that was asked for does not exist here.
    none: bool,
}

/// Collects the answer to a [`ClientQuery`]:
///
/// ```
/// # use bowline::redis::{ClientList, ClientQuery, Connection, BufferBytes};
/// # use bowline::types::Instant;
/// # use bytes::BytesMut;
/// fn answer(query: ClientQuery, all: &[Connection], now: Instant, out: &mut BytesMut) {
///     let mut list = ClientList::new(query);
///     for connection in all {
///         list.add(connection, now, BufferBytes::default());
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
    pub fn add(&mut self, connection: &Connection, now: Instant, buffered: BufferBytes) {
        let ClientQuery { ids, listening, none, .. } = &self.query;
        let listens = connection.listening.count() > 0;
        if !none
            && (ids.is_empty() || ids.contains(&connection.id))
            && listening.is_none_or(|wanted| wanted == listens)
        {
            connection.describe(now, buffered, &mut self.text);
        }
    }

    /// Writes the reply.
    pub fn finish(self, out: &mut BytesMut) {
        Writer::new(out, self.query.version).verbatim(&self.text);
    }
}

/// Which connections are to be closed; asked of each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKill {
    version: Version,
    /// Whoever asks.
    me: u64,
    /// Asked in the old form, which knows an address only and wants to hear OK.
    old: bool,
    id: Option<u64>,
    address: Option<Vec<u8>>,
    local_address: Option<Vec<u8>>,
    /// Those that listen to channels, or those that do not.
    listening: Option<bool>,
    /// Of another kind, or another user, than there is.
    none: bool,
    skip_me: bool,
    count: i64,
}

impl ClientKill {
    /// Whether this one is to be closed.
    pub fn matches(&mut self, connection: &Connection) -> bool {
        let is = |wanted: &Option<Vec<u8>>, text: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == text.as_bytes())
        };
        let takes = !self.none
            && self.id.is_none_or(|id| id == connection.id)
            && is(&self.address, &connection.address)
            && is(&self.local_address, &connection.local_address)
            && self.listening.is_none_or(|wanted| wanted == (connection.listening.count() > 0))
            && !(self.skip_me && connection.id == self.me);
        self.count += i64::from(takes);
        takes
    }

    /// Writes the reply.
    pub fn finish(self, out: &mut BytesMut) {
        let mut writer = Writer::new(out, self.version);
        match (self.old, self.count) {
            (true, 0) => writer.error(b"ERR No such client"),
            (true, _) => writer.ok(),
            (false, count) => writer.integer(count),
        }
    }
}

/// `CLIENT KILL address`, or `CLIENT KILL <filter value> ...`
pub(in crate::redis) fn kill(call: &mut Call<'_>) -> Action {
    let mut kill = ClientKill {
        version: call.writer.version(),
        me: call.connection.id,
        old: call.request.len() == 3,
        id: None,
        address: None,
        local_address: None,
        listening: None,
        none: false,
        skip_me: call.request.len() > 3,
        count: 0,
    };
    if kill.old {
        kill.address = Some(call.argument(2).to_vec());
        return Action::KillClients(Box::new(kill));
    }
    let mut words = call.request.rest(2);
    if !words.len().is_multiple_of(2) {
        return call.error(&"ERR syntax error");
    }
    while let (Some(filter), Some(value)) = (words.next(), words.next()) {
        let is = |word: &str| filter.eq_ignore_ascii_case(word.as_bytes());
        let says = |word: &str| value.eq_ignore_ascii_case(word.as_bytes());
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
            let known = ["normal", "replica", "slave", "master", "pubsub"];
            if !known.into_iter().any(says) {
                let value = String::from_utf8_lossy(value);
                return call.error(&format_args!("ERR Unknown client type '{value}'"));
            }
            kill.none |= !says("normal") && !says("pubsub");
            kill.listening = Some(says("pubsub"));
        } else if is("USER") {
            if !says("default") {
                let value = String::from_utf8_lossy(value);
                return call.error(&format_args!("ERR No such user '{value}'"));
            }
        } else if is("SKIPME") && (says("yes") || says("no")) {
            kill.skip_me = says("yes");
        } else {
            return call.error(&"ERR syntax error");
        }
    }
    Action::KillClients(Box::new(kill))
}

/// `CLIENT REPLY <ON | OFF | SKIP>`
pub(in crate::redis) fn reply(call: &mut Call<'_>) -> Action {
    let word = call.argument(2);
    let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
    let replies = &mut call.connection.replies;
    if is("ON") {
        *replies = Replies::default();
        return call.ok();
    }
    if is("OFF") {
        (replies.off, replies.muted) = (true, true);
    } else if is("SKIP") {
        // Where there are none at all, none is left out.
        (replies.skip_next, replies.muted) = (!replies.off, true);
    } else {
        return call.error(&"ERR syntax error");
    }
    Action::Reply
}

/// `CLIENT NO-EVICT <ON | OFF>` and `NO-TOUCH`: no client is closed to make room for keys here, and
/// nobody counts when a key was last used.
pub(in crate::redis) fn no_effect(call: &mut Call<'_>) -> Action {
    let word = call.argument(2);
    if ["ON", "OFF"].iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes())) {
        return call.ok();
    }
    call.error(&"ERR syntax error")
}

/// Whether every byte can be seen, as names must be.
pub(in crate::redis) fn is_plain(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}

/// `CLIENT ID`
pub(in crate::redis) fn id(call: &mut Call<'_>) -> Action {
    let id = i64::try_from(call.connection.id).unwrap_or(i64::MAX);
    call.writer.integer(id);
    Action::Reply
}

/// `CLIENT GETNAME`
pub(in crate::redis) fn getname(call: &mut Call<'_>) -> Action {
    let name = &call.connection.name;
    call.writer.bulk_or_null((!name.is_empty()).then_some(name));
    Action::Reply
}

/// `CLIENT SETNAME name`; an empty one takes it away.
pub(in crate::redis) fn setname(call: &mut Call<'_>) -> Action {
    let name = call.argument(2);
    if !is_plain(name) {
        return call.error(&NAME_ERROR);
    }
    call.connection.name = name.to_vec();
    call.ok()
}

/// `CLIENT SETINFO <LIB-NAME | LIB-VER> value`
pub(in crate::redis) fn setinfo(call: &mut Call<'_>) -> Action {
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
pub(in crate::redis) fn info(call: &mut Call<'_>) -> Action {
    let mut text = String::new();
    call.connection.describe(call.context.now, BufferBytes::default(), &mut text);
    call.writer.verbatim(&text);
    Action::Reply
}

/// `CLIENT LIST [TYPE type] [ID id ...]`
pub(in crate::redis) fn list(call: &mut Call<'_>) -> Action {
    let version = call.writer.version();
    let mut query = ClientQuery { version, ids: Vec::new(), listening: None, none: false };
    let mut options = call.request.rest(2);
    let option = options.next().unwrap_or_default();
    if option.is_empty() && options.len() == 0 {
        return Action::ListClients(query);
    }
    if option.eq_ignore_ascii_case(b"TYPE") && options.len() == 1 {
        let kind = options.next().unwrap_or_default();
        let known = ["normal", "replica", "slave", "master", "pubsub"];
        if !known.iter().any(|known| kind.eq_ignore_ascii_case(known.as_bytes())) {
            let kind = String::from_utf8_lossy(kind);
            return call.error(&format_args!("ERR Unknown client type '{kind}'"));
        }
        // Replicas don't come through this door.
        let is = |known: &str| kind.eq_ignore_ascii_case(known.as_bytes());
        query.none = !is("normal") && !is("pubsub");
        query.listening = Some(is("pubsub"));
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
