//! `CLIENT LIST` and `CLIENT KILL`: commands about other connections. The types here only say which
//! connections a command selects; the server applies them to every connection.

use bytes::BytesMut;

use crate::types::Instant;
use crate::wire::resp::{Version, Writer};

use super::connection::{BufferBytes, Connection};

/// The query of a `CLIENT LIST` command, which selects the connections to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientQuery {
    /// RESP protocol version in which the reply is written.
    pub(in crate::redis) version: Version,
    /// Id of the connection that has sent the request, and the length of the request in bytes.
    pub(in crate::redis) own: (u64, usize),
    /// Ids of the connections to list (option `ID`); empty for all connections.
    pub(in crate::redis) ids: Vec<u64>,
    /// Type of the clients to list (option `TYPE`); `None` for all types.
    pub(in crate::redis) client_type: Option<ClientType>,
}

/// Type of a client, as in the option `TYPE` of `CLIENT LIST` and `CLIENT KILL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redis) enum ClientType {
    /// A client that has no Pub/Sub subscriptions.
    Normal,
    /// A client that has at least one Pub/Sub subscription.
    Pubsub,
    /// A Redis replication connection. The option `TYPE` accepts this type, but there are no
    /// clients of this type, because replicas connect to each other on another port.
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

/// The query of a `CLIENT KILL` command, which selects the connections to close. The server calls
/// [`ClientKill::matches`] for each connection, then [`ClientKill::finish`] to write the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKill {
    /// RESP protocol version in which the reply is written.
    pub(in crate::redis) version: Version,
    /// Id of the connection that sent `CLIENT KILL`.
    pub(in crate::redis) own_id: u64,
    /// Whether the command has the old form `CLIENT KILL <address>`. Its reply is `OK` or an error,
    /// while the reply to the new form is the number of closed connections.
    pub(in crate::redis) is_old_form: bool,
    /// Id of the connection to close (option `ID`); `None` for any id.
    pub(in crate::redis) id: Option<u64>,
    /// Client address of the connections to close, as `host:port` (option `ADDR`); `None` for any
    /// address.
    pub(in crate::redis) address: Option<Vec<u8>>,
    /// Server address of the connections to close, as `host:port` (option `LADDR`); `None` for any
    /// address.
    pub(in crate::redis) local_address: Option<Vec<u8>>,
    /// Name of the user whose connections are closed (option `USER`); `None` for any user.
    pub(in crate::redis) user: Option<Vec<u8>>,
    /// Type of the clients whose connections are closed (option `TYPE`); `None` for any type.
    pub(in crate::redis) client_type: Option<ClientType>,
    /// Whether the connection that sent `CLIENT KILL` stays open even if it matches (option
    /// `SKIPME`).
    pub(in crate::redis) skip_own: bool,
    /// Number of connections that have matched so far, which is the reply to `CLIENT KILL`.
    pub(in crate::redis) count: i64,
}

impl ClientType {
    /// Parses the value of the option `TYPE` of `CLIENT LIST` and `CLIENT KILL`; `None` if Redis
    /// defines no such type.
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
    /// Returns an empty list for the reply to `query`, to which [`ClientList::add`] adds
    /// connections.
    pub fn new(query: ClientQuery) -> ClientList {
        ClientList { query, text: String::new() }
    }

    /// Adds the line that describes `connection` to the list, if the query selects this connection.
    pub fn add(&mut self, connection: &Connection, now: Instant, mut buffers: BufferBytes) {
        let ClientQuery { ids, client_type, own: (own_id, request_bytes), .. } = &self.query;
        if connection.id == *own_id {
            buffers.incoming += request_bytes;
        }
        if (ids.is_empty() || ids.contains(&connection.id))
            && client_type.is_none_or(|wanted| wanted == ClientType::of(connection))
        {
            connection.describe(now, buffers, &mut self.text);
        }
    }

    /// Writes the reply to `CLIENT LIST` to `out`: one line for each connection that was added.
    pub fn finish(self, out: &mut BytesMut) {
        Writer::new(out, self.query.version).verbatim(&self.text);
    }
}

impl ClientKill {
    /// Returns whether `CLIENT KILL` closes `connection`, and counts the connection if so.
    pub fn matches(&mut self, connection: &Connection) -> bool {
        let is = |wanted: &Option<Vec<u8>>, text: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == text.as_bytes())
        };
        let matches = self.id.is_none_or(|id| id == connection.id)
            && is(&self.address, &connection.address)
            && is(&self.local_address, &connection.local_address)
            && self.user.as_ref().is_none_or(|user| connection.user_name() == user)
            && self.client_type.is_none_or(|wanted| wanted == ClientType::of(connection))
            && !(self.skip_own && connection.id == self.own_id);
        self.count += i64::from(matches);
        matches
    }

    /// Writes the reply to `CLIENT KILL` to `out`: the number of matching connections or, for the
    /// old form of the command, `OK` or an error.
    pub fn finish(self, out: &mut BytesMut) {
        let mut writer = Writer::new(out, self.version);
        match (self.is_old_form, self.count) {
            (true, 0) => writer.error(b"ERR No such client"),
            (true, _) => writer.ok(),
            (false, count) => writer.integer(count),
        }
    }
}
