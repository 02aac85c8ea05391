//! The safety rules that mutation tests break: one function for each rule, named in
//! [`guide::guarantees`](crate::guide). In a normal build [`Config::breaks`] is constantly false
//! and each function is its rule alone.

use crate::config::{Config, Mutant};
use crate::types::{EntryId, Index, Instant, NodeId, Round, Term};

use super::quorum::quorum;

/// When a follower acknowledges entries, and up to which index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acknowledgement {
    /// Acknowledge the entries up to this index now.
    Now(Index),
    /// Acknowledge the entries up to this index once all entries that are now in the log are
    /// durable.
    WhenDurable(Index),
}

// Elections.

/// Returns whether a replica may vote for `candidate` in a term in which its vote so far is
/// `voted_for`: only if it has not voted, or has voted for the same candidate (§5.2). Safety rule
/// "One leader per term".
pub(super) fn vote_is_free(voted_for: Option<NodeId>, candidate: NodeId, config: &Config) -> bool {
    voted_for.is_none_or(|voted| voted == candidate) || config.breaks(Mutant::VoteTwice)
}

/// Returns whether a message that reveals the replica's term or vote may be sent: only when both
/// are durable (Figure 2). Safety rule "Durable hard state".
pub(super) fn may_show_hard_state(is_durable: bool, config: &Config) -> bool {
    is_durable || config.breaks(Mutant::VoteBeforeSync)
}

/// Returns whether a replica must not vote for another leader yet: whether it heard from its
/// leader, at `heard_at`, less than the minimum election timeout ago, so that the leader may hold a
/// lease (§6, thesis 6.4.1). Safety rule "Stable leader".
pub(super) fn leader_is_protected(
    heard_at: Option<Instant>,
    now: Instant,
    config: &Config,
) -> bool {
    heard_at.is_some_and(|heard_at| now.since(heard_at) < config.election_timeout_min)
        && !config.breaks(Mutant::VoteUnderLease)
}

/// Returns whether a candidate's log, which ends with `candidate`, is at least as up to date as the
/// voter's log, which ends with `own`. Otherwise the voter refuses its vote (§5.4.1). Safety rule
/// "Election restriction".
pub(super) fn is_up_to_date(candidate: EntryId, own: EntryId, config: &Config) -> bool {
    candidate >= own || config.breaks(Mutant::VoteForShorterLog)
}

// Replication.

/// Returns whether a follower truncates its log before it compares the entries. Always false by the
/// Raft rules: a log is truncated only at a conflict (§5.3). True only in mutation tests. Safety
/// rule "Truncate only at a conflict".
pub(super) fn truncates_unconditionally(config: &Config) -> bool {
    config.breaks(Mutant::TruncateAlways)
}

/// Returns whether a follower replaces an entry that differs from the leader's. Always true by the
/// Raft rules (§5.3); false only in mutation tests. Safety rule "Truncate only at a conflict".
pub(super) fn replaces_conflicts(config: &Config) -> bool {
    !config.breaks(Mutant::KeepConflicts)
}

/// Returns whether a completed sync of the entry `synced` makes the log durable up to that entry:
/// only if the log still holds the entry (`is_held`), because another entry may have replaced it
/// meanwhile. `last` is the log's last entry. Safety rule "Completions name their entry".
pub(super) fn sync_counts(is_held: bool, synced: EntryId, last: EntryId, config: &Config) -> bool {
    is_held || config.breaks(Mutant::SyncOfReplacedEntry) && synced.index <= last.index
}

/// Returns up to which index a follower acknowledges entries, and when. Only entries that are
/// durable and proven equal to the leader's log are acknowledged. The acknowledgement of entries
/// that are not durable yet waits for the disk; a heartbeat is acknowledged at once, up to the
/// durable entries. Safety rule "Durable acknowledgement".
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

/// Returns the match index of the leader itself: its durable index, because only entries on its own
/// disk count. Safety rule "Durable acknowledgement".
pub(super) fn own_match_index(durable: Index, last: Index, config: &Config) -> Index {
    assert!(durable <= last, "durable {durable}, but last is {last}");
    if config.breaks(Mutant::CountSelfEarly) { last } else { durable }
}

/// Returns whether a leader of term `own` may commit an entry that a quorum holds: only if the term
/// of that entry, `entry`, is also `own` (§5.4.2). `entry` is `None` if the log in memory does not
/// tell the term. Safety rule "Commit by current term".
pub(super) fn may_commit(entry: Option<Term>, own: Term, config: &Config) -> bool {
    entry == Some(own) || config.breaks(Mutant::CommitOldTerms)
}

/// Returns the index up to which a follower may commit: the leader's commit index, but at most
/// `matched`, the index up to which the leader's messages of this term have proven the logs equal
/// (Figure 2, `AppendEntries` rule 5). Safety rule "Proven commit index".
pub(super) fn proven_commit_index(
    leader_commit: Index,
    matched: Index,
    last: Index,
    config: &Config,
) -> Index {
    leader_commit.min(if config.breaks(Mutant::CommitUnclamped) { last } else { matched })
}

/// Returns whether a reply counts: only if it is of the current term. A reply of an earlier term
/// says nothing about the log of this term's leader (§5.1). Safety rule "Completions name their
/// entry".
pub(super) fn reply_is_current(reply: Term, own: Term, config: &Config) -> bool {
    reply == own || config.breaks(Mutant::ReplyOfOldTerm)
}

/// Returns whether a stored snapshot chunk may be acknowledged to the current leader: only if a
/// leader of the current term sent it. Round numbers of different terms are unrelated. Safety rule
/// "Completions name their entry".
pub(super) fn chunk_is_current(chunk: Term, own: Term, config: &Config) -> bool {
    chunk == own || config.breaks(Mutant::ChunkReplyOfOldTerm)
}

// Reads.

/// Returns whether a leader may serve reads: only once the first entry of its term, at index
/// `first_of_term`, is committed (§8). Safety rule "No read before the own term".
pub(super) fn may_serve_reads(commit: Index, first_of_term: Index, config: &Config) -> bool {
    commit >= first_of_term || config.breaks(Mutant::ReadBeforeOwnTerm)
}

/// Returns the number of the round that a quorum must answer to confirm a read that arrives now:
/// the round after `current`, because that round begins after the read has arrived. Safety rule
/// "Fresh confirmation".
pub(super) fn confirming_round(current: Round, config: &Config) -> Round {
    if config.breaks(Mutant::ReadOnOldRound) { Round(0) } else { current.next() }
}

/// Returns whether a leader's lease is valid at `now`. The lease is measured from `confirmed_at`,
/// the start of a round that a quorum has answered, and ends before any member of that quorum may
/// vote for another leader (thesis 6.4.1). Safety rule "Lease shorter than an election".
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

// Rejoining.

/// Returns whether a replica that is rejoining after the loss of its disk ignores vote requests.
/// Always true, except in mutation tests. Safety rule "No vote while rejoining".
pub(super) fn ignores_vote_requests_while_rejoining(config: &Config) -> bool {
    !config.breaks(Mutant::VoteWhileRejoining)
}

/// Returns how many of the `peers` other members must answer a replica that is rejoining after the
/// loss of its disk: all of them, except in mutation tests. Safety rule "All members answer first".
pub(super) fn rejoin_answers_needed(peers: usize, config: &Config) -> usize {
    if config.breaks(Mutant::RejoinWithoutAll) { quorum(peers + 1, config) - 1 } else { peers }
}

/// Returns whether a rejoining replica becomes a full member only after its log has reached the
/// last entry that the leader named. Always true, except in mutation tests. Safety rule "Caught up
/// before it counts".
pub(super) fn must_catch_up_to_rejoin(config: &Config) -> bool {
    !config.breaks(Mutant::RejoinBeforeCaughtUp)
}
