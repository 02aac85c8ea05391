//! `CLIENT LIST` and `CLIENT KILL`: commands about other connections. They only describe which
//! connections are meant; the server applies them to every connection.

use bytes::BytesMut;

use crate::types::Instant;
use crate::wire::resp::{Version, Writer};

use super::connection::{BufferBytes, Connection};

/// The connections that `CLIENT LIST` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientQuery {
    /// The protocol version of the reply.
    pub(in crate::redis) version: Version,
    /// `ID`: connections with these ids, all if empty.
    pub(in crate::redis) ids: Vec<u64>,
    /// `TYPE`: connections of this type, all if `None`.
    pub(in crate::redis) client_type: Option<ClientType>,
}

/// The type of a client, as `TYPE` selects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redis) enum ClientType {
    /// A client without subscriptions.
    Normal,
    /// A client with subscriptions.
    Pubsub,
    /// A replication connection. None connects to the port for clients.
    Replication,
}

/// Builds the reply to a [`ClientQuery`]:
///
/// ```
/// # use bowline::redis::{BufferBytes, ClientList, ClientQuery, Connection};
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

/// The connections that `CLIENT KILL` closes. [`ClientKill::matches`] is called for each
/// connection, then [`ClientKill::finish`] writes the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKill {
    /// The protocol version of the reply.
    pub(in crate::redis) version: Version,
    /// The connection that sent the command.
    pub(in crate::redis) own_id: u64,
    /// Sent in the old form `CLIENT KILL <address>`, whose reply is `OK` or an error.
    pub(in crate::redis) is_old_form: bool,
    /// `ID`; any if `None`, as for all filters below.
    pub(in crate::redis) id: Option<u64>,
    /// `ADDR`
    pub(in crate::redis) address: Option<Vec<u8>>,
    /// `LADDR`
    pub(in crate::redis) local_address: Option<Vec<u8>>,
    /// `TYPE`
    pub(in crate::redis) client_type: Option<ClientType>,
    /// `SKIPME`: keeps the connection that sent the command.
    pub(in crate::redis) skip_own: bool,
    /// The number of connections that matched so far.
    pub(in crate::redis) count: i64,
}

impl ClientType {
    /// Parses the value of `TYPE`; `None` if Redis does not know it.
    pub(in crate::redis) fn parse(text: &[u8]) -> Option<ClientType> {
        let is = |word: &str| text.eq_ignore_ascii_case(word.as_bytes());
        if is("normal") {
            Some(ClientType::Normal)
        } else if is("pubsub") {
            Some(ClientType::Pubsub)
        } else {
            let known = ["replica", "slave", "master"].into_iter().any(is);
            known.then_some(ClientType::Replication)
        }
    }

    fn of(connection: &Connection) -> ClientType {
        if connection.subscriptions.is_empty() { ClientType::Normal } else { ClientType::Pubsub }
    }
}

impl ClientList {
    /// A list without connections.
    pub fn new(query: ClientQuery) -> ClientList {
        ClientList { query, text: String::new() }
    }

    /// Adds a connection if the query asks for it.
    pub fn add(&mut self, connection: &Connection, now: Instant, buffers: BufferBytes) {
        let ClientQuery { ids, client_type, .. } = &self.query;
        if (ids.is_empty() || ids.contains(&connection.id))
            && client_type.is_none_or(|wanted| wanted == ClientType::of(connection))
        {
            connection.describe(now, buffers, &mut self.text);
        }
    }

    /// Writes the reply.
    pub fn finish(self, out: &mut BytesMut) {
        Writer::new(out, self.query.version).verbatim(&self.text);
    }
}

impl ClientKill {
    /// Whether `connection` has to be closed. Counts it if so.
    pub fn matches(&mut self, connection: &Connection) -> bool {
        let is = |wanted: &Option<Vec<u8>>, text: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == text.as_bytes())
        };
        let matches = self.id.is_none_or(|id| id == connection.id)
            && is(&self.address, &connection.address)
            && is(&self.local_address, &connection.local_address)
            && self.client_type.is_none_or(|wanted| wanted == ClientType::of(connection))
            && !(self.skip_own && connection.id == self.own_id);
        self.count += i64::from(matches);
        matches
    }

    /// Writes the reply.
    pub fn finish(self, out: &mut BytesMut) {
        let mut writer = Writer::new(out, self.version);
        match (self.is_old_form, self.count) {
            (true, 0) => writer.error(b"ERR No such client"),
            (true, _) => writer.ok(),
            (false, count) => writer.integer(count),
        }
    }
}
