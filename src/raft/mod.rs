//! The consensus core: Raft, pure. It takes `(now, message)` or `(now, timeout)` and gives
//! [`Effects`]; it reads no clock, starts no thread, opens no file or socket, and draws its
//! randomness from a seed it was given.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod effects;
mod message;
mod status;

pub use effects::{AppendJob, ApplyJob, Committed, Effects, HardState, Refusal, RefusalReason};
pub use message::{
    AppendEntries, AppendOutcome, AppendReply, ClientRequest, Envelope, Msg, PeerMsg, Persisted,
    RequestKind, RequestVote, VoteReply,
};
pub use status::{Counters, PeerStatus, RoleName, Status};
