//! The commands of the Redis protocol: their descriptions, their replies, and the operations of the
//! state machine that they submit. Pure: no socket, no clock, no thread. `runtime/server` calls it.
//!
//! Each layer imports only from those above it:
//!
//! | file | contents |
//! |---|---|
//! | `statistics`, `traffic` | what `INFO` and the metrics count |
//! | `acl_log` | the log of denied requests and logins |
//! | `permissions` | what one user may do |
//! | `session/` | the state of one client's connection |
//! | `access` | the users that clients can log in as |
//! | `key_access` | what each command does with its keys |
//! | `action` | what the server does with a request |
//! | `notifications`, `settings`, `slow_log`, `failure` | state of the replica, errors |
//! | `context` | the state of the replica and its cluster that replies depend on |
//! | `call` | the arguments of a command's function |
//! | `spec`, `lookup` | the description of a command; finding the command of a request |
//! | `authorization` | whether a user may send a request |
//! | `resolve_users` | from the rules of users to their permissions |
//! | `library_check` | the code of libraries of functions |
//! | `commands/` | one file for each group of commands: rows and functions |
//! | `registry` | the table of all commands |
//! | `dispatch` | [`Connection::execute`] |
//! | `script_notes`, `script_host` | what a script reports; the commands that it calls |
//! | `script_found`, `script_runner` | finding a script or function; its run |
//! | `readiness` | why a replica is not ready |
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

mod access;
mod acl_log;
mod action;
mod authorization;
mod call;
mod commands;
mod context;
mod dispatch;
mod failure;
mod key_access;
mod library_check;
mod lookup;
mod notifications;
mod permissions;
mod readiness;
mod registry;
mod resolve_users;
mod script_found;
mod script_host;
mod script_notes;
mod script_runner;
mod session;
mod settings;
mod slow_log;
mod spec;
mod statistics;
mod traffic;
mod unknown_users;
mod unsupported_settings;
mod write_traces;

pub use access::{Access, hash_password};
pub use acl_log::{AclLog, Denial, DenialReason};
pub use action::{
    Action, AdminAnswer, AdminRequest, FileRequest, LocalWrite, MembersOutcome, Statistics,
};
pub use commands::administration::write_admin_reply;
pub use commands::functions::{RunningScript, write_function_stats};
pub use commands::info::{digest_result, disk_name, member_role, role_name};
pub use commands::sentinel::{SWITCH_MASTER_CHANNEL, switch_master_message};
pub use commands::snapshot::write_snapshot_part;
pub use context::{
    ClockStatus, Context, MembersInfo, PathStatus, Pause, ProgramInfo, RaftCounters,
    RejoinProgress, ReplicaInfo, SnapshotInfo, SystemInfo,
};
pub use failure::Failure;
pub use notifications::KeyspaceNotifications;
pub use readiness::Unready;
pub use registry::{
    command_totals, may_add_data, operation_may_add_data, operations_adding_data,
    unauthorized_request,
};
pub use resolve_users::resolve_users;
pub use script_host::ScriptClock;
pub use script_notes::ScriptNotes;
pub use script_runner::{
    ScriptBudget, ScriptFacts, ScriptRequest, ScriptRun, ScriptRunner, ScriptUser,
};
pub use session::client_info::{ClientKill, ClientList, ClientQuery};
pub use session::connection::{BufferBytes, Connection};
pub use session::reply_format::{ReplyFormat, error_text, is_error};
pub use session::subscriptions::{
    SubscriberId, SubscriptionChange, SubscriptionKind, Subscriptions, write_message,
    write_shard_message,
};
pub use session::tracking::{Tracking, TrackingStatus, write_invalidation};
pub use session::waits::{AwaitedKeys, Taken, Wait, WaitOn, Wake};
pub use session::wide_reply::WideReply;
pub use settings::{
    CLIENTS_BYTES_MIN, PASSWORD_BYTES_MAX, REWRITE_BYTES_LEAST, Settings, SlowLogSettings,
    parse_bytes,
};
pub use slow_log::{CompletedRequest, LoggedRequest, SlowLog};
pub use statistics::{
    CallStatus, CommandNumber, CommandStatistics, CommandTotals, DURATION_BUCKETS,
    DurationHistogram,
};
pub use traffic::{Rates, SAMPLE_INTERVAL, Traffic};
pub use unknown_users::{USERS_UNKNOWN, UsersNeed};
pub use write_traces::{WRITE_STEPS, WriteTrace, WriteTraces};
