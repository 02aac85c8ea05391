//! What a server does with a request once its command has run.

use crate::redis::commands::client::{ClientKill, ClientQuery};
use crate::redis::commands::pubsub::SubscriptionChange;
use crate::redis::session::reply_format::ReplyFormat;
use crate::types::RequestKind;
use bytes::Bytes;
use std::time::Duration;

/// What a door does with a request.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing more: the reply is written.
    Reply,
    /// Hands it to the core. No reply is written yet.
    Submit {
        /// Whether it goes through the log.
        kind: RequestKind,
        /// A [`Command`] under the request's key.
        payload: Bytes,
        /// How its outcome becomes a reply.
        reply_format: ReplyFormat,
        /// The slot of its first key, if the client is to be told so
        /// ([`Failure::Moved`](super::Failure::Moved)) should another replica lead by the time when
        /// it can be handed on.
        redirect_slot: Option<u16>,
        /// Whether the connection waits for its reply: see [`Connection::complete_blocked`].
        blocks: bool,
    },
    /// Answers from all connections, with a [`ClientList`](super::ClientList).
    ListClients(ClientQuery),
    /// What the connection listens to has changed. The reply is written.
    UpdateSubscriptions(Vec<SubscriptionChange>),
    /// Closes connections, and tells how many: see [`ClientKill`].
    KillClients(Box<ClientKill>),
    /// Forgets what was recorded. The reply is written.
    ResetStatistics(Statistics),
    /// Does nothing at all for so long, and answers then. The reply is written.
    Sleep(Duration),
    /// Takes a snapshot. The reply is written.
    TakeSnapshot,
    /// Settings have changed. Nothing is written.
    ApplySettings,
    /// Several, one after the other. Those before the last have no reply of their own.
    Sequence(Vec<Action>),
    /// Closes the connection, once what is written has been sent. Later requests on it are not
    /// looked at.
    Close,
}

/// What is recorded of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// Those that took long.
    SlowLogEntry,
    /// When there were some that took long.
    Latency,
    /// How many there were.
    Traffic,
}
