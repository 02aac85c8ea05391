//! What Redis clients are answered: which commands there are, what they mean to the store, and all
//! the texts around them. Pure: no socket, no clock, no thread; `runtime/` calls it.
//!
//! # How a door uses it
//!
//! Each client's connection has a [`Connection`] beside its
//! [`Parser`](crate::wire::resp::Parser). The door keeps one [`Settings`] for all of them and one
//! [`Context`], which it brings up to date before each batch. For each request that the parser
//! finds it calls [`Connection::execute`] with a buffer for replies and acts on the [`Action`]:
//!
//! - [`Action::Reply`]: the reply is in the buffer.
//! - [`Action::Submit`]: a read or a write for the core. The door keeps the [`ReplyFormat`] and, when the
//!   outcome is there, calls [`ReplyFormat::encode`]; or, when it will not come, [`Failure::encode`].
//!   With `blocks` it looks at no later request of that connection before, and calls
//!   [`Connection::complete_blocked`] or [`Connection::cancel_blocked`].
//! - [`Action::ListClients`]: the reply needs all connections; see [`ClientList`].
//! - [`Action::UpdateSubscriptions`]: what the connection listens to has changed; the reply is in the buffer.
//! - [`Action::KillClients`], [`Action::ResetStatistics`], [`Action::Sleep`]: what they say; for the first the reply is
//!   written by [`ClientKill::finish`].
//! - [`Action::TakeSnapshot`]: a snapshot is to be taken; the reply is in the buffer.
//! - [`Action::Close`]: to be closed once the buffer's bytes have been sent.
//!
//! Replies go to a client in the order of its requests. So while an earlier request of a
//! connection is under way, what `execute` writes must wait behind it: give it a buffer of its
//! own then. Whether a later request may be *submitted* meanwhile is the door's choice: a read
//! must see the writes before it on the same connection.
//!
//! When the parser fails: `Writer::error` with the error as text, then close, as Redis does.
//!
//! A door gives every request a [`RequestKey`](crate::types::RequestKey) that no other request of
//! any replica ever had: the same key applied twice is answered from memory.

mod action;
mod call;
mod commands;
mod context;
mod dispatch;
mod failure;
mod registry;
mod session;
mod settings;
mod slow_log;
mod spec;

pub use action::{Action, Statistics};
pub use commands::client::{ClientKill, ClientList, ClientQuery};
pub use commands::pubsub::{
    KeyspaceNotifications, SubscriberId, SubscriptionChange, Subscriptions, write_message,
};
pub use commands::sentinel::{SWITCH_MASTER_CHANNEL, switch_master_message};
pub use context::{
    ClockStatus, Context, RaftCounters, RejoinProgress, ReplicaInfo, SnapshotInfo, Traffic,
};
pub use dispatch::may_add_data;
pub use failure::Failure;
pub use session::connection::{BufferBytes, Connection};
pub use session::reply_format::ReplyFormat;
pub use settings::{CLIENTS_BYTES_MIN, Settings, SlowLogSettings, parse_bytes};
pub use slow_log::{CompletedRequest, SlowLog};
