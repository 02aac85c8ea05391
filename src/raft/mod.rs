//! The consensus core: Raft, pure. It takes `(now, message)` or `(now, timeout)` and gives
//! [`Effects`]; it reads no clock, starts no thread, opens no file or socket, and draws its
//! randomness from a seed it was given.
//!
//! | rule (paper, thesis) | where |
//! |---|---|
//! | terms (§5.1), changes of role, pre-votes answered (thesis 9.6) | `replica.rs` |
//! | votes and the election restriction (§5.2, §5.4.1) | `follower.rs`, `candidate.rs` |
//! | log matching, truncation at conflicts only (§5.3) | `log.rs`, `follower.rs` |
//! | commit by counting own terms' entries only (§5.4.2), check-quorum (thesis 6.2) | `leader.rs` |
//! | term and vote durable before they show (Figure 2), requests that wait | `shared.rs` |
//! | probing, pipelining, retransmission, loss | `progress.rs`, `fanout.rs` |
//! | linearizable reads by read index and lease (§8, thesis 6.4) | `reads.rs` |
//! | log compaction (§7): what may go, installing a leader's snapshot | `snapshots.rs` |
//! | handing the lead over (thesis 3.10) because of the own disk | `transfer.rs` |
//! | disks that are stalled or short of room | `disk_health.rs` |
//! | rejoining with an empty disk, under the old id | `rejoin.rs` |
//! | bounds on what messages may do to the term | `term_budget.rs` |
//!
//! Left out on purpose, until its issue comes: membership changes.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod candidate;
mod disk_health;
mod effects;
mod entries;
mod fanout;
mod follower;
mod leader;
mod log;
mod message;
mod progress;
mod quorum;
mod reads;
mod rejoin;
mod replica;
mod shared;
mod snapshots;
mod status;
mod term_budget;
mod timing;
mod transfer;

pub use effects::{
    AppendJob, ApplyJob, Committed, Effects, HardState, Refusal, RefusalReason, RejectReason,
    RejectedMessage, SnapshotChunk, SnapshotId,
};
pub use log::{LogTail, Spliced};
pub use message::{
    AppendEntries, AppendOutcome, AppendReply, ChunkStored, ClientRequest, DiskSpace, DiskState,
    Envelope, InstallReply, InstallSnapshot, Msg, PeerMsg, Persisted, Rejoin, RejoinReply,
    RequestKind, RequestVote, TimeoutNow, VoteReply,
};
pub use quorum::{REPLICAS_MAX, quorum, reached_by_quorum};
pub use replica::{Durable, Replica};
pub use status::{Counters, PeerStatus, RejoinStatus, RoleName, Status};
