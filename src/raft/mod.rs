//! The consensus core: Raft as a pure state machine, `(now, input) -> Effects`.
//!
//! It reads no clock, starts no thread, opens no file or socket, and draws its randomness from a
//! seed. Section numbers (§) refer to the extended version of the Raft paper, "thesis" to Ongaro's
//! dissertation; see [Sources](#sources). All times are settings of
//! [`Config`](crate::config::Config).
//!
//! # Interface
//!
//! A driver passes inputs to [`Replica::handle_msg`] and due timeouts to
//! [`Replica::handle_timeout`], then ends the batch with [`Replica::flush`] and carries out the
//! [`Effects`]: messages to peers, one job for the log writer, one job for the applier. It reports
//! back when a job is durable ([`Msg::Persisted`]) and when entries are applied ([`Msg::Applied`]).
//!
//! Inputs from peers and clients may contain anything. They are validated where they enter, counted
//! and dropped if invalid; a message that no correct peer can have sent is reported as a
//! [`RejectedMessage`]. Past that check, invariants are asserted.
//!
//! # Terms and roles (§5.1)
//!
//! Time is divided into terms, each with at most one leader. A replica is a follower, a candidate
//! or a leader. A message with a higher term makes every replica a follower in that term; a message
//! of a lower term is answered with the current term, or dropped.
//!
//! The term and the vote in it are the *hard state*. No message that reveals them is sent before
//! they are durable (Figure 2). The commit index is not stored: after a restart it is the end of
//! the snapshot until a leader announces a higher one.
//!
//! # The log (§5.3)
//!
//! An entry is identified by its term and index. Two logs that contain the same entry are identical
//! up to it. A follower truncates its log only at the first entry that differs from the leader's
//! log. It never removes an entry that is committed or known to be equal to the leader's. Entries
//! at or below the log's *base* have been compacted; a snapshot covers them.
//!
//! The cursors of a log are ordered `base <= applied <= commit <= last` and `base <= durable <=
//! last`. Commit and durable are independent: a quorum of other replicas can commit an entry that
//! is not on this replica's disk yet.
//!
//! # Elections (§5.2, §5.4.1, thesis 9.6)
//!
//! A follower campaigns when it has neither heard its leader nor granted a vote for an election
//! timeout. Timeouts are random, and longer while the leader measures message loss.
//!
//! 1. **Pre-vote.** The candidate asks all peers for a vote in the next term, without starting that
//!    term. A peer grants the pre-vote if it would grant the vote: its own term is lower, it has
//!    not heard a leader within the minimum election timeout, and the candidate's log is at least
//!    as up to date as its own. A follower with a longer log campaigns itself instead; a leader
//!    answers with an append. Of two pre-candidates that hear each other, the one with the shorter
//!    log, or with the lower id if the logs are equal, yields.
//! 2. **Vote.** With pre-votes of a quorum, and after a short delay in which a longer log can
//!    object, the candidate starts the next term and votes for itself. When that is durable it asks
//!    for votes. A replica votes once in a term, for a log that is at least as up to date as its
//!    own. The candidate leads when a quorum has voted for it and its own vote is durable.
//!
//! Requests get lost, so a candidate repeats them within one campaign to the peers that have not
//! granted them. Refusals are silent, except that a request with a lower term is answered with the
//! current one: only granted votes count. A campaign without a winner is followed by another one,
//! after a random pause that grows while the candidate hears from no quorum.
//!
//! **Stable leader** (§6). A replica that has heard a leader within the minimum election timeout
//! ignores vote requests and does not adopt their term. So a replica that returns from a partition
//! deposes no leader, and leases are safe. A replica that restarts counts as having heard a leader
//! at its start.
//!
//! # Replication (§5.3)
//!
//! A new leader appends a no-op and keeps a `Progress` for each peer: `match_index`, up to
//! which the peer's log is durable and equal, and `next_index`, the next entry to send. A peer is
//! in one of three states:
//!
//! - **Probe**: the last matching entry is unknown. One append at a time, until one is
//!   acknowledged. A rejection carries a hint, the follower's last entry that may match, so each
//!   rejection skips at least one term of either log.
//! - **Replicate**: appends are pipelined, within a window of messages and of bytes. When a reply
//!   is overdue, everything after `match_index` is sent again; after three timeouts in a row the
//!   peer is probed.
//! - **Snapshot**: the peer lacks compacted entries, and gets the chunks of a snapshot.
//!
//! All appends of one flush carry the same *round* number, and each snapshot chunk begins a round
//! of its own; replies echo the number. A reply to a round proves that the peer still followed this
//! leader after the round began. Rounds also give the round-trip time, from which the
//! retransmission timeout follows as in TCP, and the share of lost messages.
//!
//! A peer that was sent nothing for a heartbeat interval gets an empty append; a peer that has left
//! several messages unanswered gets them less often. With `FanOut::All` entries go to all peers at
//! once; with `FanOut::Thrifty`, for networks where messages are expensive, they go to only as many
//! peers as a quorum needs, starting with those that the leader sent to least recently. A follower
//! whose disk is almost full gets entries only if they cannot be committed without it.
//!
//! # Durable acknowledgements (thesis 10.2.1)
//!
//! The leader sends entries while its own log writer stores them, and counts itself towards the
//! quorum once they are durable. A follower acknowledges entries that are durable and proven equal
//! to the leader's log; the acknowledgement is attached to the log writer's job and leaves when the
//! job is done. A heartbeat is acknowledged at once, up to what is durable. The log writer's report
//! on a job names the last entry written and that entry's term, so the report does not count for an
//! entry that has since replaced it.
//!
//! # Commit (§5.4.2)
//!
//! An entry is committed when a quorum holds it durably and it is of the leader's term; the entries
//! before it are committed with it. The leader sends its commit index with every append, and in a
//! message of its own to peers that have not received it with other messages within
//! `commit_notice_after`. With `FanOut::Thrifty` that message gets no reply, and is sent only if it
//! saves the next leader from answering requests again. A follower commits up to that index, but no
//! further than the leader's messages of this term have proven its log equal. Committed entries go
//! to the applier once and in order.
//!
//! # Client requests (§8)
//!
//! The leader appends writes, up to a limit of uncommitted bytes. A follower redirects clients to
//! the leader. Requests that arrive while no leader is known wait for one, for a limited time. A
//! refused request is in no log, or has certainly been replaced there: another entry is committed
//! at its index, or an entry of a later term before it.
//!
//! # Reads (§8, thesis 6.4)
//!
//! A read is no log entry. A new leader serves reads when its no-op is committed: before that it
//! does not know what earlier terms committed. Then it must be sure that it still leads:
//!
//! - **Read index**: the read waits until a quorum has answered a round that began after the read
//!   arrived. The round is begun at the end of the batch, and serves all waiting reads.
//! - **Lease** (`lease_reads`): if a quorum has answered a round that began less than a lease
//!   length ago, the read is served at once. A lease is shorter, by the clock drift and a margin,
//!   than the minimum election timeout, during which these replicas vote for no other leader.
//!
//! The read is then answered from the state after everything committed at that time.
//!
//! # Check-quorum (thesis 6.2)
//!
//! A leader that has not had replies from a quorum within a window steps down, so its clients look
//! for another leader. After 5/8 of the window it sends to all peers, at growing intervals, instead
//! of sending each new entry, which could not be committed. When it steps down, its unconfirmed
//! reads wait for the next leader.
//!
//! # Leadership transfer (thesis 3.10)
//!
//! A leader transfers its leadership on request. If its disk is stalled or almost full, or if it
//! has been removed, it does so by itself, to a voter with a healthy disk, if the voters that could
//! take over are a quorum. It refuses requests, announces the target in its appends, and sends
//! [`TimeoutNow`] when the target has its whole log. The target starts an election without a
//! pre-vote. Voters do not wait for the old leader's lease to end, because that leader has given up
//! its lease; they believe only a transfer that the leader itself has announced.
//!
//! # Snapshots (§7)
//!
//! The driver takes snapshots of the applied state. When one is durable, the log is compacted up to
//! its end: some bytes are kept for followers that are only a little behind, and entries that a
//! follower still needs are kept as long as the log is within its maximum size. Chunks of a
//! snapshot are sent at a limited rate, each after the one before is acknowledged. When a follower
//! has stored and installed the snapshot, its log stays if it contains the snapshot's last entry,
//! and otherwise restarts after it (Figure 13).
//!
//! # Membership changes (§6)
//!
//! A *configuration* lists the members: voters, and learners, which have the log but count for
//! nothing. It is a log entry. The configuration in use is the latest in the log, committed or not,
//! and the one before it again if that entry is truncated. A snapshot contains the configuration as
//! of its last entry. The configuration with which the cluster was created is no entry: the driver
//! passes it to each of its members, and a replica that joins later starts without one.
//!
//! 1. A leader that has committed an entry of its term, and knows of no other change under way,
//!    appends the configuration for a change. If the voters change it is *joint*: from now on, each
//!    election, commit, lease, read index and check-quorum needs a quorum of the voters before the
//!    change and one of the voters after it.
//! 2. When the joint configuration is committed, the leader, or a later one, appends the
//!    configuration without the voters before the change.
//! 3. When that is committed, a leader that is no voter any longer transfers its leadership. Until
//!    then it leads without counting itself.
//!
//! A replica becomes a learner first, and a voter when it has caught up, so a new voter never holds
//! up commits. Joint consensus is used for single voters, too: replacing a voter, or several
//! changes in one step, are the same mechanism, and no quorums of overlapping changes under
//! different leaders can be disjoint, because both contain a majority of the same old voters.
//!
//! A replica that is no voter of its own configuration does not campaign, except while its removal
//! is not known to be committed: then the remaining voters may lack entries that only it has, and
//! it may have to lead once more, without counting itself (thesis 4.2.2). Votes are granted to any
//! candidate, and appends, snapshots and requests of leaders are accepted from any sender, because
//! the sender may know a later configuration. A replica that has been removed disturbs nobody,
//! because replicas that hear a leader ignore its campaigns. The leader sends it the entry that
//! removes it, until that is committed, and then the commit index once; a replica that misses them
//! keeps asking for pre-votes.
//!
//! # Witnesses (thesis 11.7.2)
//!
//! A *witness* is a voter without data. It stores the log and acknowledges entries like any voter,
//! but applies none, serves no client, and keeps only the latest part of the log. Every quorum
//! contains a replica with data, because fewer than half of the voters are witnesses. The protocol
//! and the reasons are in `witness.rs`.
//!
//! # Rejoining after a loss on the disk
//!
//! A member with an empty or damaged folder has forgotten acknowledgements and perhaps votes. If it
//! has forgotten votes, it first learns the terms of all other members and adopts the highest, with
//! its vote spent; once the members have changed, it must be replaced by a new member instead. Then
//! it follows without voting until its log is durable up to the leader's last entry. The protocol
//! and its proof are in `rejoin.rs`.
//!
//! # Terms in messages
//!
//! A forged term could exhaust the range of terms. A message raises the term only within a budget
//! that refills with time (`term_budget.rs`). A second leader of a known term, and an append or
//! snapshot that contradicts an entry that cannot be replaced, are rejected. Peers are not
//! authenticated otherwise.
//!
//! # Rules
//!
//! `rules.rs` contains the safety rules that mutation tests break, one function for each.
//!
//! | rule | file |
//! |---|---|
//! | rule of terms (§5.1), answers to pre-votes (thesis 9.6) | `replica/admission.rs` |
//! | role changes, inputs and outputs of the core | `replica.rs`, `role.rs` |
//! | one vote per term (§5.2), durable hard state (Figure 2) | `hard_state.rs` |
//! | election restriction (§5.4.1), stable leader (§6) | `follower.rs`, `shared.rs` |
//! | pre-vote, repeated requests, counting votes | `candidate.rs` |
//! | random timeouts (§5.2), longer under loss | `timing.rs` |
//! | log matching, truncation at conflicts only (§5.3) | `log.rs`, `entries.rs` |
//! | receiver rules of `AppendEntries`, acknowledgements | `follower.rs` |
//! | commit by current term (§5.4.2), check-quorum (thesis 6.2), rounds | `leader.rs` |
//! | Probe, Replicate, Snapshot; retransmission | `progress.rs` |
//! | window of entries in flight; round-trip time and loss | `inflights.rs`, `link.rs` |
//! | when and to whom the leader sends | `fanout.rs` |
//! | jobs of the log writer, messages that wait for them (thesis 10.2.1) | `append_jobs.rs` |
//! | client requests that wait for a leader, or for their entry's fate | `pending.rs` |
//! | reads by read index and lease (§8, thesis 6.4) | `reads.rs` |
//! | snapshots and compaction (§7) | `snapshots.rs` |
//! | leadership transfer (thesis 3.10) | `transfer.rs` |
//! | configurations in the log, and their quorums (§6) | `membership.rs` |
//! | membership changes, promotion of learners (§6, thesis 4.2.1) | `change.rs` |
//! | stalled and full disks | `disk_health.rs` |
//! | witnesses: their elections, leadership and log | `witness.rs` |
//! | rejoining under the old id with an empty or damaged disk | `rejoin.rs` |
//! | bounds on terms in messages | `term_budget.rs` |
//! | majorities | `quorum.rs` |
//!
//! # Left out
//!
//! - Changing a single voter without a joint configuration (thesis 4.1).
//! - Balancing of leaders: there is one group.
//! - Sessions and deduplication of requests: they are in the state machine (`kv`).
//!
//! # Sources
//!
//! - D. Ongaro, J. Ousterhout: *In Search of an Understandable Consensus Algorithm (Extended
//!   Version)*, 2014.
//! - D. Ongaro: *Consensus: Bridging Theory and Practice*, dissertation, Stanford, 2014.
//! - B. Liskov, J. Cowling: *Viewstamped Replication Revisited*, 2012, section 4.3, for rejoining.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod append_jobs;
mod candidate;
mod change;
mod disk_health;
mod effects;
mod entries;
mod fanout;
mod feature_level;
mod follower;
mod hard_state;
mod inflights;
mod leader;
mod link;
mod log;
mod membership;
mod message;
mod pending;
mod progress;
mod quorum;
mod reads;
mod rejoin;
mod replica;
mod role;
mod rules;
mod shared;
mod snapshots;
mod status;
mod term_budget;
mod timing;
mod transfer;
mod witness;

pub use effects::{
    AppendJob, ApplyJob, Committed, Effects, HardState, LogStart, Refusal, RefusalReason,
    RejectReason, RejectedMessage, SnapshotChunk,
};
pub use log::{LogTail, Spliced};
pub use message::{
    AppendEntries, AppendOutcome, AppendReply, ChunkStored, ClientRequest, DiskSpace, DiskState,
    Envelope, InstallReply, InstallSnapshot, Msg, PeerMsg, Persisted, Rejoin, RejoinReply,
    RequestKind, RequestVote, SnapshotId, TimeoutNow, VoteReply,
};
pub use quorum::{REPLICAS_MAX, quorum, reached_by_quorum};
pub use replica::Replica;
pub use role::{Durable, Loss, RoleName};
pub use status::{Counters, PeerStatus, RejoinStatus, Status};
pub use transfer::{TransferRefusal, TransferRequest};
