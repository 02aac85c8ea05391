//! The actions that the server performs for a request after the command's function has run.

use std::time::Duration;

use bytes::Bytes;

use crate::kv::{DatabaseId, SnapshotMark};
use crate::membership::{ChangePlan, ChangeRefusal, MemberChange};
use crate::types::{Index, Instant, NodeId, RequestKind, TransferRefusal, TransferRequest};
use crate::wire::resp::Version;

use super::session::client_info::{ClientKill, ClientQuery};
use super::session::reply_format::ReplyFormat;
use super::session::subscriptions::SubscriptionChange;

/// What the server must do for a request after the function of its command has run.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Send the reply, which the command's function has written to the output buffer.
    Reply,
    /// Submit the request to the consensus core. The reply is written later, when the outcome of
    /// the request is known.
    Submit {
        /// Whether the request is a write, which goes through the log, or a read, which needs no
        /// log entry.
        kind: RequestKind,
        /// The operation to apply, encoded by [`Operation::encode`](crate::kv::Operation::encode).
        /// Empty for a command inside `EXEC` or `ONCE`, which collect the operations of their
        /// commands and submit them together.
        operation: Bytes,
        /// How to write the reply from the outcome of the request.
        reply_format: ReplyFormat,
        /// Redis Cluster hash slot of the request's first key, if the client must be redirected
        /// when another replica is the leader: the reply is then
        /// [`Failure::Moved`](super::Failure::Moved) with this slot. `None` if the request is
        /// forwarded to the leader instead.
        redirect_slot: Option<u16>,
        /// Whether the request blocks the connection: the server must not execute a later request
        /// of the connection before the outcome of this request is known. The server then calls
        /// [`Connection::complete_blocked`](super::Connection), or `cancel_blocked` if the request
        /// has failed.
        blocks: bool,
    },
    /// Describe all connections that match the query in a [`ClientList`](super::ClientList), and
    /// send the list as the reply (`CLIENT LIST`).
    ListClients(ClientQuery),
    /// Add or remove Pub/Sub subscriptions of the connection in the replica's table of
    /// subscriptions, then send the reply (`SUBSCRIBE`, `UNSUBSCRIBE`).
    UpdateSubscriptions(Vec<SubscriptionChange>),
    /// Close every connection for which [`ClientKill::matches`] returns true, then send the reply
    /// that [`ClientKill::finish`] writes (`CLIENT KILL`).
    KillClients(Box<ClientKill>),
    /// End the wait of the connection with this id, then send the reply: 1, or 0 if it does not
    /// wait (`CLIENT UNBLOCK`).
    Unblock {
        /// Id of the connection.
        id: u64,
        /// Whether the waiting request gets an error, instead of the reply that it gets when its
        /// time is over.
        with_error: bool,
    },
    /// End the script or function that has been running for long on this replica, then send the
    /// reply (`SCRIPT KILL`, `FUNCTION KILL`).
    KillScript {
        /// Whether a function is to be ended; otherwise a script.
        is_function: bool,
    },
    /// Write the reply to `FUNCTION STATS`, in this protocol version, with
    /// [`write_function_stats`](super::write_function_stats).
    ShowFunctionStats(Version),
    /// Postpone requests of this replica's clients until a time, then send the reply (`CLIENT
    /// PAUSE`). If they are postponed already, the later time and the stricter mode apply.
    PauseClients {
        /// When the pause ends.
        until: Instant,
        /// Whether all requests are postponed, not only those that may change the state.
        is_all: bool,
    },
    /// End the pause of this replica's clients, then send the reply (`CLIENT UNPAUSE`).
    UnpauseClients,
    /// Execute the request again when the pause of the clients is over. It has had no effect.
    Postpone,
    /// Return free memory to the operating system in the background, and send the reply without
    /// waiting for it (`MEMORY PURGE`).
    ReturnFreeMemory,
    /// Write a random password of this many hexadecimal digits as the reply (`ACL GENPASS`).
    GeneratePassword(usize),
    /// Reset the given statistics of the replica, then send the reply (`SLOWLOG RESET`, `LATENCY
    /// RESET`, `CONFIG RESETSTAT`).
    ResetStatistics(Statistics),
    /// Block the whole replica for this time, then send the reply (`DEBUG SLEEP`).
    Sleep(Duration),
    /// Set a key in the state of this replica only, so that it differs from those of the other
    /// replicas (`DEBUG DIVERGE`). The reply is sent before that.
    WriteOnlyHere(LocalWrite),
    /// Write a text to the log of the replica, then send the reply (`DEBUG LOG`).
    Log(String),
    /// Start a snapshot in the background, and send the reply without waiting for it (`BGSAVE`,
    /// `SAVE`).
    TakeSnapshot,
    /// Ask the consensus core to do something that only the leader can do. The reply is written by
    /// [`write_admin_reply`](super::write_admin_reply) when the core has answered. Until then,
    /// the request blocks the connection.
    Administer {
        /// The request for the consensus core.
        request: AdminRequest,
        /// The reply format of the request, which says whether the reply is suppressed.
        reply_format: ReplyFormat,
    },
    /// Open the latest snapshot on this replica's disk (`SNAPSHOT OPEN`), or read a part of one
    /// (`SNAPSHOT READ`). The reply is written by
    /// [`write_snapshot_part`](super::write_snapshot_part) when the id or the part is known. Until
    /// then, the request blocks the connection.
    ReadSnapshot {
        /// The snapshot to read, and the offset of the part from its start, in bytes; `None` to
        /// open the latest one.
        part: Option<(SnapshotMark, u64)>,
        /// The reply format of the request, which says whether the reply is suppressed.
        reply_format: ReplyFormat,
    },
    /// Send all keys of this replica as a file in Redis's RDB format, then close the connection
    /// (`SYNC`, `PSYNC`).
    SendKeys(FileRequest),
    /// Apply the settings that `CONFIG SET` has changed, then send the reply.
    ApplySettings,
    /// Count the commands of an `EXEC` that is not submitted, because none of its replies depends
    /// on the state machine. [`ReplyFormat::nested_calls`], called with an empty list of outcomes,
    /// returns the commands to count. Sends no reply.
    CountNestedCalls(ReplyFormat),
    /// Perform several actions in order. Only the last action sends a reply.
    Sequence(Vec<Action>),
    /// Send the replies in the output buffer, close the connection, and ignore its later requests.
    Close,
}

/// A request for a file of all keys (`SYNC`, `PSYNC`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRequest {
    /// Whether the file follows a line as in the reply to `PSYNC`.
    pub is_psync: bool,
    /// The reply format of the request.
    pub reply_format: ReplyFormat,
}

/// A change of the state of one replica, for tests (`DEBUG DIVERGE`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalWrite {
    /// The database of the key.
    pub database: DatabaseId,
    /// The key.
    pub key: Vec<u8>,
    /// Its new value, a string.
    pub value: Vec<u8>,
    /// Whether the digest of the state is not changed, as if memory had changed.
    pub silently: bool,
}

/// A request that only the leader can carry out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminRequest {
    /// Transfer the leadership, or abort the transfer (`FAILOVER`).
    Transfer(TransferRequest),
    /// Change the members of the cluster (`MEMBERS`).
    ChangeMembers {
        /// The parts of the change, which are made in one step.
        changes: Vec<MemberChange>,
        /// Whether only the result is wanted, without the change.
        dry_run: bool,
    },
}

/// The answer of the consensus core to an [`AdminRequest`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminAnswer {
    /// The target of the transfer, or why there is none.
    Transfer(Result<NodeId, TransferRefusal>),
    /// The outcome of a membership change.
    Members(MembersOutcome),
}

/// The outcome of a requested membership change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MembersOutcome {
    /// A dry run: the change was planned, but not made.
    Planned(Box<ChangePlan>),
    /// The first configuration of the change is committed, in the entry at this index. If it is
    /// joint, this leader or a later one completes the change.
    Committed(Index, Box<ChangePlan>),
    /// The change was refused, and has no effect.
    Refused(ChangeRefusal),
    /// The leader changed before the configuration was committed: the change may have been made.
    Uncertain,
}

impl Action {
    /// Makes a submitted request block its connection: sets the field `blocks` of an
    /// `Action::Submit`. Returns any other action unchanged.
    pub(super) fn blocking(mut self) -> Action {
        if let Action::Submit { blocks, .. } = &mut self {
            *blocks = true;
        }
        self
    }

    /// Returns whether the request is submitted to the consensus core, so that its outcome is not
    /// known yet.
    pub fn submits(&self) -> bool {
        match self {
            Action::Submit { .. } => true,
            Action::Sequence(actions) => actions.iter().any(Action::submits),
            _ => false,
        }
    }
}

/// A group of the server's statistics that a client can reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// The slow log (`SLOWLOG RESET`).
    SlowLog,
    /// The latency samples (`LATENCY RESET`).
    Latency,
    /// The log of denied requests and logins (`ACL LOG RESET`).
    AclLog,
    /// All counters that `INFO` shows as in Redis (`CONFIG RESETSTAT`).
    Counters,
}
