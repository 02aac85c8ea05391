//! The actions that the server performs for a request after the command's function has run.

use std::time::Duration;

use bytes::Bytes;

use crate::types::RequestKind;

use super::session::client_info::{ClientKill, ClientQuery};
use super::session::reply_format::ReplyFormat;
use super::session::subscriptions::SubscriptionChange;

/// What the server has to do for a request after the command's function has run.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Sends the reply, which the command's function has already written to the output buffer.
    Reply,
    /// Submits the request to the consensus core. The reply is written later, from the outcome.
    Submit {
        /// Whether the request is a write, which goes through the log, or a read, which does not.
        kind: RequestKind,
        /// The request's operation, encoded by [`Operation::encode`](crate::kv::Operation::encode).
        /// Empty if the operation was added to the batch of an `EXEC` or `ONCE` instead.
        operation: Bytes,
        /// How the reply is written when the outcome of the request is known.
        reply_format: ReplyFormat,
        /// Redis Cluster hash slot of the request's first key, for a client that follows
        /// redirections: if another replica leads, the reply is
        /// [`Failure::Moved`](super::Failure::Moved) with this slot. `None` if the request is
        /// forwarded to the leader instead.
        redirect_slot: Option<u16>,
        /// Whether the connection is blocked until the outcome is known: the server must not
        /// execute a later request of the connection before it has called
        /// [`Connection::complete_blocked`](super::Connection) or `cancel_blocked`.
        blocks: bool,
    },
    /// Describes all connections that match the query in a [`ClientList`](super::ClientList) and
    /// sends the list as the reply (`CLIENT LIST`).
    ListClients(ClientQuery),
    /// Adds the connection's subscriptions to the replica's subscriptions or removes them, then
    /// sends the reply.
    UpdateSubscriptions(Vec<SubscriptionChange>),
    /// Closes every connection for which [`ClientKill::matches`] returns true, then sends the reply
    /// that [`ClientKill::finish`] writes.
    KillClients(Box<ClientKill>),
    /// Resets the given statistics of the replica, then sends the reply (`SLOWLOG RESET`, `LATENCY
    /// RESET`, `CONFIG RESETSTAT`).
    ResetStatistics(Statistics),
    /// Blocks the whole replica for the given time, then sends the reply (`DEBUG SLEEP`).
    Sleep(Duration),
    /// Starts a snapshot in the background and sends the reply without waiting for it.
    TakeSnapshot,
    /// Makes settings that `CONFIG SET` changed inside `EXEC` take effect. Sends no reply.
    ApplySettings,
    /// Performs several actions in order. Only the last action sends a reply.
    Sequence(Vec<Action>),
    /// Sends the replies in the output buffer, closes the connection, and ignores all later
    /// requests of the connection.
    Close,
}

/// A group of the server's statistics that clients can reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// The slow log (`SLOWLOG RESET`).
    SlowLog,
    /// The latency samples (`LATENCY RESET`).
    Latency,
    /// The counters of connections, commands and bytes (`CONFIG RESETSTAT`).
    Traffic,
}
