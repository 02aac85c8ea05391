//! The safety rules that mutation tests break: one function for each rule, named in
//! [`guide::guarantees`](crate::guide). In a normal build [`Config::breaks`] is constantly false
//! and each function is its rule alone.

use crate::config::{Config, Mutant};
use crate::feature_level::FeatureLevel;
use crate::membership::{Configuration, Member};
use crate::types::{EntryId, Index, Instant, NodeId, Round, Term};

use super::quorum::quorum;

/// A follower's decision on acknowledging entries: up to which index, and whether at once or only
/// after a disk sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acknowledgement {
    /// Acknowledge the entries up to this index immediately.
    Now(Index),
    /// Acknowledge the entries up to this index once all entries now in the log are durable.
    WhenDurable(Index),
}

// Elections.

/// Returns whether a replica may vote for `candidate` if its vote in the term so far is
/// `voted_for`: only if it has not voted, or has voted for the same candidate (Raft paper, §5.2).
/// Implements the safety rule "One leader per term" of the guide (`guarantees.md`).
pub(super) fn vote_is_free(voted_for: Option<NodeId>, candidate: NodeId, config: &Config) -> bool {
    voted_for.is_none_or(|voted| voted == candidate) || config.breaks(Mutant::VoteTwice)
}

/// Returns whether a message that reveals the replica's term or vote may be sent: only when both
/// are durable (Figure 2 of the Raft paper). Implements the safety rule "Durable hard state" of the
/// guide (`guarantees.md`).
pub(super) fn may_show_hard_state(is_durable: bool, config: &Config) -> bool {
    is_durable || config.breaks(Mutant::VoteBeforeSync)
}

/// Returns whether a replica must not vote for another candidate yet, because it heard from its
/// leader (at `heard_at`) within the minimum election timeout and the leader may hold a lease (Raft
/// paper, §6; Raft dissertation, section 6.4.1). `heard_at` is `None` if it has heard from no
/// leader. Implements the safety rule "Stable leader" of the guide (`guarantees.md`).
pub(super) fn leader_is_protected(
    heard_at: Option<Instant>,
    now: Instant,
    config: &Config,
) -> bool {
    heard_at.is_some_and(|heard_at| now.since(heard_at) < config.election_timeout_min)
        && !config.breaks(Mutant::VoteUnderLease)
}

/// Returns whether a candidate's log, which ends with `candidate`, is at least as up to date as the
/// voter's log, which ends with `own`. If not, the voter must refuse its vote (Raft paper, §5.4.1).
/// Implements the safety rule "Election restriction" of the guide (`guarantees.md`).
pub(super) fn is_up_to_date(candidate: EntryId, own: EntryId, config: &Config) -> bool {
    candidate >= own || config.breaks(Mutant::VoteForShorterLog)
}

// Replication.

/// Returns whether a follower truncates its log before it compares entries. False in normal builds,
/// because a log is truncated only at a conflict (Raft paper, §5.3); true only in mutation tests.
/// Implements the safety rule "Truncate only at a conflict" of the guide (`guarantees.md`).
pub(super) fn truncates_unconditionally(config: &Config) -> bool {
    config.breaks(Mutant::TruncateAlways)
}

/// Returns whether a follower replaces an entry that conflicts with the leader's. True in normal
/// builds (Raft paper, §5.3); false only in mutation tests. Implements the safety rule "Truncate
/// only at a conflict" of the guide (`guarantees.md`).
pub(super) fn replaces_conflicts(config: &Config) -> bool {
    !config.breaks(Mutant::KeepConflicts)
}

/// Returns whether a completed disk sync makes the log durable up to the entry `synced`: only if
/// the log still contains this entry (`is_held`), because a leader may have replaced it since.
/// `last` is the log's last entry. Implements the safety rule "Completions name their entry" of the
/// guide (`guarantees.md`).
pub(super) fn sync_counts(is_held: bool, synced: EntryId, last: EntryId, config: &Config) -> bool {
    is_held || config.breaks(Mutant::SyncOfReplacedEntry) && synced.index <= last.index
}

/// Returns up to which index a follower acknowledges entries, and when. Only entries that are
/// durable and equal to the leader's are acknowledged: for an append with entries, after the disk
/// sync; for a heartbeat, at once and up to the durable index. Implements the safety rule "Durable
/// acknowledgement" of the guide (`guarantees.md`).
pub(super) fn acknowledgement(
    matched: Index,
    durable: Index,
    last: Index,
    has_entries: bool,
    config: &Config,
) -> Acknowledgement {
    assert!(matched <= last && durable <= last, "{matched} and {durable}, but last is {last}");
    if config.breaks(Mutant::AcknowledgeOwnLast) {
        return Acknowledgement::WhenDurable(last);
    }
    if config.breaks(Mutant::AcknowledgeBeforeSync) {
        return Acknowledgement::Now(matched);
    }
    if has_entries && matched > durable {
        Acknowledgement::WhenDurable(matched)
    } else {
        Acknowledgement::Now(matched.min(durable))
    }
}

/// Returns the leader's own match index: its durable index, because the leader may count its own
/// copy of an entry towards a quorum only if the entry is on its disk. Implements the safety rule
/// "Durable acknowledgement" of the guide (`guarantees.md`).
pub(super) fn own_match_index(durable: Index, last: Index, config: &Config) -> Index {
    assert!(durable <= last, "durable {durable}, but last is {last}");
    if config.breaks(Mutant::CountSelfEarly) { last } else { durable }
}

/// Returns whether the leader of term `own` may commit an entry of term `entry` that is stored on a
/// quorum: only if the terms are equal (Raft paper, §5.4.2). `entry` is `None` if the entry is no
/// longer in memory. Implements the safety rule "Commit by current term" of the guide
/// (`guarantees.md`).
pub(super) fn may_commit(entry: Option<Term>, own: Term, config: &Config) -> bool {
    entry == Some(own) || config.breaks(Mutant::CommitOldTerms)
}

/// Returns the index up to which a follower may commit: the leader's commit index, but at most
/// `matched`, the index up to which the follower's log is proven equal to the leader's (Figure 2 of
/// the Raft paper, `AppendEntries` rule 5). Implements the safety rule "Proven commit index" of the
/// guide (`guarantees.md`).
pub(super) fn proven_commit_index(
    leader_commit: Index,
    matched: Index,
    last: Index,
    config: &Config,
) -> Index {
    leader_commit.min(if config.breaks(Mutant::CommitUnclamped) { last } else { matched })
}

/// Returns whether a leader may use a follower's reply: only if the reply is of the leader's
/// current term. A reply of an earlier term says nothing about the current leader's log (Raft
/// paper, §5.1). Implements the safety rule "Completions name their entry" of the guide
/// (`guarantees.md`).
pub(super) fn reply_is_current(reply: Term, own: Term, config: &Config) -> bool {
    reply == own || config.breaks(Mutant::ReplyOfOldTerm)
}

/// Returns whether a follower may acknowledge a stored snapshot chunk to the current leader: only
/// if the chunk was sent in the current term. The sequence numbers of message rounds (batches of
/// messages), which the acknowledgement echoes, are unrelated in different terms. Implements the
/// safety rule "Completions name their entry" of the guide (`guarantees.md`).
pub(super) fn chunk_is_current(chunk: Term, own: Term, config: &Config) -> bool {
    chunk == own || config.breaks(Mutant::ChunkReplyOfOldTerm)
}

// Reads.

/// Returns whether a leader may serve reads: only once its term's first entry, at index
/// `first_of_term`, is committed (Raft paper, §8). Implements the safety rule "No reads before a
/// commit in the current term" of the guide (`guarantees.md`).
pub(super) fn may_serve_reads(commit: Index, first_of_term: Index, config: &Config) -> bool {
    commit >= first_of_term || config.breaks(Mutant::ReadBeforeOwnTerm)
}

/// Returns the message round (a numbered batch of messages) that a quorum must answer to confirm a
/// read that arrives now. It is the round after `current`, because only that one begins after the
/// read's arrival. Implements the safety rule "Fresh confirmation" of the guide (`guarantees.md`).
pub(super) fn confirming_round(current: Round, config: &Config) -> Round {
    if config.breaks(Mutant::ReadOnOldRound) { Round(0) } else { current.next() }
}

/// Returns whether a leader's lease is valid at `now`. The lease starts at `confirmed_at`, the
/// start of a message round (a numbered batch of messages) that a quorum has answered, and ends
/// before any member of that quorum may vote for another leader (Raft dissertation, section 6.4.1).
/// Implements the safety rule "Lease shorter than an election" of the guide (`guarantees.md`).
pub(super) fn lease_is_valid(confirmed_at: Instant, now: Instant, config: &Config) -> bool {
    let length = config.lease_length();
    assert!(
        length <= config.election_timeout_min,
        "a lease of {length:?}, but votes are given after {:?}",
        config.election_timeout_min
    );
    let factor = if config.breaks(Mutant::LeaseTooLong) { 2 } else { 1 };
    now < confirmed_at + length * factor
}

// Membership.

/// Returns whether a member counts for quorums: only if it is a voter. Implements the safety rule
/// "Learners count for nothing" of the guide (`guarantees.md`).
pub(super) fn counts_for_quorum(
    configuration: &Configuration,
    id: NodeId,
    config: &Config,
) -> bool {
    let is_learner = || !configuration.votes(id) && configuration.member(id).is_some();
    configuration.member(id).is_some_and(Member::is_voter)
        || config.breaks(Mutant::CountLearners) && is_learner()
}

/// Returns the voters before the change of a joint configuration, of which decisions need a quorum,
/// too (Raft paper, §6). Empty if the configuration is not joint. Implements the safety rule "Joint
/// quorums" of the guide (`guarantees.md`).
pub(super) fn voters_before_change(configuration: &Configuration, config: &Config) -> Vec<NodeId> {
    if config.breaks(Mutant::CountNewVotersOnly) {
        return Vec::new();
    }
    configuration.outgoing().collect()
}

/// Returns whether a replica that is no voter counts itself. Always false, except in mutation
/// tests. Implements the safety rule "Removed leader does not count" of the guide
/// (`guarantees.md`).
pub(super) fn counts_removed_leader(config: &Config) -> bool {
    config.breaks(Mutant::CountRemovedLeader)
}

/// Returns whether a configuration is in use from when its entry is appended (Raft paper, §6), not
/// only from when it is committed. Always true, except in mutation tests. Implements the safety
/// rule "Latest configuration" of the guide (`guarantees.md`).
pub(super) fn configuration_counts_when_appended(config: &Config) -> bool {
    !config.breaks(Mutant::ConfigurationAtCommit)
}

/// Returns whether a replica forgets a configuration whose entry is truncated. Always true, except
/// in mutation tests. Implements the safety rule "Latest configuration" of the guide
/// (`guarantees.md`).
pub(super) fn configuration_follows_the_log(config: &Config) -> bool {
    !config.breaks(Mutant::KeepTruncatedConfiguration)
}

/// Returns whether a replica whose latest configuration is `latest` may vote: not before it has
/// received a configuration. A voter always has one, because a learner becomes a voter only when it
/// durably has the configuration that made it a learner. So a replica without one has no vote, or
/// has lost its folder and was started as a new one, and has forgotten its votes. Implements the
/// safety rule "Learners count for nothing" of the guide (`guarantees.md`).
pub(super) fn may_vote(latest: &Configuration) -> bool {
    !latest.members().is_empty()
}

/// Returns whether a replica may campaign: only if it is a voter of its own configuration, or of an
/// earlier one as long as its removal is not known to be committed (`is_voter`). Implements the
/// safety rule "Learners count for nothing" of the guide (`guarantees.md`).
pub(super) fn may_campaign(is_voter: bool, config: &Config) -> bool {
    is_voter || config.breaks(Mutant::LearnerCampaigns)
}

/// Returns whether a leader may begin a membership change: only once its term's first entry, at
/// index `first_of_term`, is committed, because before it may not know of a change that an earlier
/// leader has begun. Implements the safety rule "One change at a time" of the guide
/// (`guarantees.md`).
pub(super) fn may_change_members(commit: Index, first_of_term: Index, config: &Config) -> bool {
    commit >= first_of_term || config.breaks(Mutant::ChangeBeforeOwnTerm)
}

/// Returns the configuration to which a membership change may be made: the `latest` in the log if
/// it `is_settled`, which means that no other change is under way; otherwise `None`. Implements the
/// safety rule "One change at a time" of the guide (`guarantees.md`).
pub(super) fn changeable_configuration(
    latest: &Configuration,
    is_settled: bool,
    config: &Config,
) -> Option<Configuration> {
    if config.breaks(Mutant::OverlappingChanges) {
        return Some(latest.after_joint());
    }
    is_settled.then(|| latest.clone())
}

/// Returns whether a leader may append the configuration after the joint one at index `joint`: only
/// once the joint one is committed (Raft paper, §6). Implements the safety rule "Joint quorums" of
/// the guide (`guarantees.md`).
pub(super) fn may_end_joint(joint: Index, commit: Index, config: &Config) -> bool {
    joint <= commit || config.breaks(Mutant::EndJointEarly)
}

/// Returns the feature level to which a leader may raise the cluster's: the lowest of all members.
/// `levels` are what the peers have told, `None` for one that has told nothing yet, and `own` is
/// that of the leader. Implements the safety rule "Level of all members" of the guide
/// (`guarantees.md`).
pub(super) fn level_of_members(
    levels: impl Iterator<Item = Option<FeatureLevel>>,
    own: FeatureLevel,
    config: &Config,
) -> FeatureLevel {
    let unknown = if config.breaks(Mutant::RaiseLevelEarly) { own } else { FeatureLevel::OLDEST };
    levels.map(|level| level.unwrap_or(unknown)).fold(own, FeatureLevel::min)
}

// Witnesses.

/// Returns whether this replica, while it leads, serves clients: not if it is a witness, which has
/// no data. Implements the safety rule "Witnesses serve nobody" of the guide (`guarantees.md`).
pub(super) fn leads_for_clients(config: &Config) -> bool {
    !config.is_witness || config.breaks(Mutant::WitnessServesClients)
}

/// Returns whether a leader may transfer its leadership to a replica: not to a witness, which leads
/// only if no other replica can be elected. Implements the safety rule "Witnesses lead last" of the
/// guide (`guarantees.md`).
pub(super) fn may_take_over(is_witness: bool, config: &Config) -> bool {
    !is_witness || config.breaks(Mutant::TransferToWitness)
}

/// Returns whether a leader sends a peer a snapshot without data: only to a witness. Implements the
/// safety rule "Data for replicas with data" of the guide (`guarantees.md`).
pub(super) fn needs_no_data(is_witness: bool, config: &Config) -> bool {
    is_witness || config.is_witness && config.breaks(Mutant::SnapshotWithoutDataForAll)
}

/// Returns how many bytes of its log a witness keeps when it drops older entries. Implements the
/// safety rule "Witnesses keep the latest entries" of the guide (`guarantees.md`).
pub(super) fn witness_log_bytes_kept(config: &Config) -> usize {
    if config.breaks(Mutant::WitnessDropsLog) { 0 } else { config.witness_log_bytes_max / 2 }
}

// Rejoining.

/// Returns whether a replica that is rejoining after the loss of its disk ignores vote requests.
/// Always true, except in mutation tests. Implements the safety rule "No vote while rejoining" of
/// the guide (`guarantees.md`).
pub(super) fn ignores_vote_requests_while_rejoining(config: &Config) -> bool {
    !config.breaks(Mutant::VoteWhileRejoining)
}

/// Returns how many of the `peers` other members must answer a replica that is rejoining after the
/// loss of its disk: all of them, except in mutation tests. Implements the safety rule "All members
/// answer first" of the guide (`guarantees.md`).
pub(super) fn rejoin_answers_needed(peers: usize, config: &Config) -> usize {
    if config.breaks(Mutant::RejoinWithoutAll) { quorum(peers + 1, config) - 1 } else { peers }
}

/// Returns whether a rejoining replica becomes a full member only after its log has reached the
/// last entry that the leader reported. Always true, except in mutation tests. Implements the
/// safety rule "Caught up before it counts" of the guide (`guarantees.md`).
pub(super) fn must_catch_up_to_rejoin(config: &Config) -> bool {
    !config.breaks(Mutant::RejoinBeforeCaughtUp)
}
