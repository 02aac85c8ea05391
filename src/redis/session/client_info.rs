//! `CLIENT LIST` and `CLIENT KILL`: commands about other connections. The types here only say which
//! connections a command selects; the server applies them to every connection.

use bytes::BytesMut;

use crate::types::Instant;
use crate::wire::resp::{Version, Writer};

use super::connection::{BufferBytes, Connection};

/// The query of a `CLIENT LIST` command: which connections the reply lists, and in which protocol
/// version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientQuery {
    /// Protocol version in which the reply is written.
    pub(in crate::redis) version: Version,
    /// Ids of the connections to list (option `ID`); empty for all connections.
    pub(in crate::redis) ids: Vec<u64>,
    /// Type of the clients to list (option `TYPE`); `None` for all types.
    pub(in crate::redis) client_type: Option<ClientType>,
}

/// Type of a client, as given in the option `TYPE` of `CLIENT LIST` and `CLIENT KILL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redis) enum ClientType {
    /// A client without Pub/Sub subscriptions.
    Normal,
    /// A client with at least one Pub/Sub subscription.
    Pubsub,
    /// A replication connection. The option `TYPE` accepts this type, but no connection matches it,
    /// because replicas do not connect to the port for clients.
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

/// Selects the connections that `CLIENT KILL` closes, and counts them. The server calls
/// [`ClientKill::matches`] for each connection, then [`ClientKill::finish`] to write the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKill {
    /// Protocol version in which the reply is written.
    pub(in crate::redis) version: Version,
    /// Id of the connection that sent `CLIENT KILL`.
    pub(in crate::redis) own_id: u64,
    /// Whether the command has the old form `CLIENT KILL <address>`, whose reply is `OK` or an
    /// error instead of a count.
    pub(in crate::redis) is_old_form: bool,
    /// Id of the connection that `CLIENT KILL` closes (option `ID`); `None` for any id.
    pub(in crate::redis) id: Option<u64>,
    /// Client address, as `host:port`, of the connections that `CLIENT KILL` closes (option
    /// `ADDR`); `None` for any address.
    pub(in crate::redis) address: Option<Vec<u8>>,
    /// Server address, as `host:port`, of the connections that `CLIENT KILL` closes (option
    /// `LADDR`); `None` for any address.
    pub(in crate::redis) local_address: Option<Vec<u8>>,
    /// Type of the clients whose connections `CLIENT KILL` closes (option `TYPE`); `None` for any
    /// type.
    pub(in crate::redis) client_type: Option<ClientType>,
    /// Whether the connection that sent `CLIENT KILL` is kept open (option `SKIPME`).
    pub(in crate::redis) skip_own: bool,
    /// Number of connections that have matched `CLIENT KILL` so far.
    pub(in crate::redis) count: i64,
}

impl ClientType {
    /// Parses the value of the option `TYPE`; `None` if Redis defines no such type.
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
    /// Creates an empty list of connections for the reply to `query`. [`ClientList::add`] adds
    /// connections to it.
    pub fn new(query: ClientQuery) -> ClientList {
        ClientList { query, text: String::new() }
    }

    /// Appends the connection's line to the list if the query selects the connection.
    pub fn add(&mut self, connection: &Connection, now: Instant, buffers: BufferBytes) {
        let ClientQuery { ids, client_type, .. } = &self.query;
        if (ids.is_empty() || ids.contains(&connection.id))
            && client_type.is_none_or(|wanted| wanted == ClientType::of(connection))
        {
            connection.describe(now, buffers, &mut self.text);
        }
    }

    /// Writes the reply of `CLIENT LIST`, the lines of all added connections, to `out`.
    pub fn finish(self, out: &mut BytesMut) {
        Writer::new(out, self.query.version).verbatim(&self.text);
    }
}

impl ClientKill {
    /// Returns whether `CLIENT KILL` closes `connection`; if so, also counts the connection.
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

    /// Writes the reply of `CLIENT KILL` to `out`: the number of matching connections, or `OK` or
    /// an error for the old form.
    pub fn finish(self, out: &mut BytesMut) {
        let mut writer = Writer::new(out, self.version);
        match (self.is_old_form, self.count) {
            (true, 0) => writer.error(b"ERR No such client"),
            (true, _) => writer.ok(),
            (false, count) => writer.integer(count),
        }
    }
}
