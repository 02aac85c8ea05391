//! The commands of the Redis protocol: their descriptions, their replies, and the operations of the
//! state machine that they submit. Pure: no socket, no clock, no thread. `runtime/server` calls it.
//!
//! Each layer imports only from those above it:
//!
//! | file | contents |
//! |---|---|
//! | `statistics`, `traffic` | what `INFO` counts |
//! | `session/` | the state of one client's connection |
//! | `action` | what the server does with a request |
//! | `notifications`, `settings`, `slow_log`, `failure` | state of the replica, errors |
//! | `context` | the state of the replica and its cluster that replies depend on |
//! | `call` | the arguments of a command's function |
//! | `spec`, `lookup` | the description of a command; finding the command of a request |
//! | `commands/` | one file for each group of commands: rows and functions |
//! | `registry` | the table of all commands |
//! | `dispatch` | [`Connection::execute`] |
//!
//! # How a server uses it
//!
//! The server keeps a [`Connection`] and a [`Parser`](crate::wire::resp::Parser) for each client,
//! and one [`Settings`] and one [`Context`] for all clients. It updates the context before it
//! executes the requests that it has received. For each request that the parser returns, it calls
//! [`Connection::execute`] with a buffer for the reply, then performs the [`Action`].
//!
//! After [`Action::Submit`] the server keeps the [`ReplyFormat`]. When the outcome is known, the
//! server calls [`ReplyFormat::encode`]; if there will be no outcome, it calls [`Failure::encode`].
//! If the request `blocks`, the server executes no later request of the connection until then, and
//! calls [`Connection::complete_blocked`] or [`Connection::cancel_blocked`] instead.
//!
//! Replies are sent in the order of the requests. While an earlier request of a connection is in
//! flight, the replies that `execute` writes have to wait in another buffer. The server
//! decides whether a later request may be submitted meanwhile: a read must see the writes before it
//! on the same connection.
//!
//! When the parser fails, the server writes the error and closes the connection, as Redis does.
//!
//! The server submits operations in [batches](crate::kv::Batch), which may combine requests of many
//! connections.

mod action;
mod call;
mod commands;
mod context;
mod dispatch;
mod failure;
mod lookup;
mod notifications;
mod registry;
mod session;
mod settings;
mod slow_log;
mod spec;
mod statistics;
mod traffic;

pub use action::{Action, AdminAnswer, AdminRequest, LocalWrite, Statistics};
pub use commands::administration::write_admin_reply;
pub use commands::sentinel::{SWITCH_MASTER_CHANNEL, switch_master_message};
pub use commands::snapshot::write_snapshot_part;
pub use context::{
    ClockStatus, Context, MembersInfo, PathStatus, ProgramInfo, RaftCounters, RejoinProgress,
    ReplicaInfo, SnapshotInfo, SystemInfo,
};
pub use failure::Failure;
pub use notifications::KeyspaceNotifications;
pub use registry::{may_add_data, operation_may_add_data};
pub use session::changes_wait::Wait;
pub use session::client_info::{ClientKill, ClientList, ClientQuery};
pub use session::connection::{BufferBytes, Connection};
pub use session::reply_format::{ReplyFormat, error_text, is_error};
pub use session::subscriptions::{SubscriberId, SubscriptionChange, Subscriptions, write_message};
pub use session::wide_reply::WideReply;
pub use settings::{
    CLIENTS_BYTES_MIN, REWRITE_BYTES_LEAST, Settings, SlowLogSettings, parse_bytes,
};
pub use slow_log::{CompletedRequest, SlowLog};
pub use statistics::{CallStatus, CommandNumber, CommandStatistics};
pub use traffic::{Rates, SAMPLE_INTERVAL, Traffic};
