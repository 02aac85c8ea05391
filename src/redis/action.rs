//! What the server does after a command's function has run.

use std::time::Duration;

use bytes::Bytes;

use crate::types::RequestKind;

use super::session::client_info::{ClientKill, ClientQuery};
use super::session::reply_format::ReplyFormat;
use super::session::subscriptions::SubscriptionChange;

/// What the server does with a request.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Sends the reply, which is in the buffer. Nothing else.
    Reply,
    /// Submits the request to the consensus core. There is no reply yet.
    Submit {
        /// Whether the request goes through the log.
        kind: RequestKind,
        /// An encoded [`Command`](crate::kv::Command) under the request's key.
        payload: Bytes,
        /// Converts the outcome into the reply.
        reply_format: ReplyFormat,
        /// The slot of the request's first key if the client follows redirects: the reply is
        /// [`Failure::Moved`](super::Failure::Moved) if another replica leads by the time the
        /// request can be submitted. `None` to forward the request instead.
        redirect_slot: Option<u16>,
        /// Whether the connection is blocked until the outcome is known: no later request of it may
        /// be looked at before [`Connection::complete_blocked`](super::Connection) or
        /// `cancel_blocked`.
        blocks: bool,
    },
    /// Collects a [`ClientList`](super::ClientList) over all connections and sends it.
    ListClients(ClientQuery),
    /// Updates the replica's subscriptions, then sends the reply.
    UpdateSubscriptions(Vec<SubscriptionChange>),
    /// Closes the connections that [`ClientKill::matches`], then sends the reply that
    /// [`ClientKill::finish`] writes.
    KillClients(Box<ClientKill>),
    /// Resets statistics, then sends the reply.
    ResetStatistics(Statistics),
    /// Stops the whole replica for this time, then sends the reply.
    Sleep(Duration),
    /// Starts a snapshot and sends the reply.
    TakeSnapshot,
    /// Applies changed settings. There is no reply.
    ApplySettings,
    /// Performs several actions in order. Only the last one has a reply.
    Sequence(Vec<Action>),
    /// Sends what is in the buffer, closes the connection, and ignores its later requests.
    Close,
}

/// Statistics that clients can reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// The slow log (`SLOWLOG RESET`).
    SlowLog,
    /// Latency samples (`LATENCY RESET`).
    Latency,
    /// Counts of connections, commands and bytes (`CONFIG RESETSTAT`).
    Traffic,
}
