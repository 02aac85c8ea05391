//! The safety rules that mutation tests break: one function for each rule, named in
//! [`guide::guarantees`](crate::guide). In a normal build [`Config::breaks`] is constantly false
//! and each function is its rule alone.

use crate::config::{Config, Mutant};
use crate::types::{EntryId, Index, Instant, NodeId, Round, Term};

use super::quorum::quorum;

/// When and up to where a follower acknowledges entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acknowledgement {
    /// At once.
    Now(Index),
    /// After the disk has everything that the log holds now.
    WhenDurable(Index),
}

// Elections.

/// One leader per term: a replica votes once in a term, and for the same candidate again (§5.2).
pub(super) fn vote_is_free(voted_for: Option<NodeId>, candidate: NodeId, config: &Config) -> bool {
    voted_for.is_none_or(|voted| voted == candidate) || config.breaks(Mutant::VoteTwice)
}

/// Durable hard state: a message shows a term and a vote only when they are durable (Figure 2).
pub(super) fn may_show_hard_state(is_durable: bool, config: &Config) -> bool {
    is_durable || config.breaks(Mutant::VoteBeforeSync)
}

/// Stable leader: a replica that heard a leader within the lowest election timeout does not vote
/// for another, because that leader may hold a lease (§6, thesis 6.4.1).
pub(super) fn leader_is_protected(
    heard_at: Option<Instant>,
    now: Instant,
    config: &Config,
) -> bool {
    heard_at.is_some_and(|heard_at| now.since(heard_at) < config.election_timeout_min)
        && !config.breaks(Mutant::VoteUnderLease)
}

/// Election restriction: only a candidate whose log is at least as up to date gets a vote (§5.4.1).
pub(super) fn is_up_to_date(candidate: EntryId, own: EntryId, config: &Config) -> bool {
    candidate >= own || config.breaks(Mutant::VoteForShorterLog)
}

// Replication.

/// Truncate only at a conflict: whether a follower truncates before it compares (§5.3).
pub(super) fn truncates_unconditionally(config: &Config) -> bool {
    config.breaks(Mutant::TruncateAlways)
}

/// Truncate at a conflict: whether a follower replaces an entry that differs from the leader's.
pub(super) fn replaces_conflicts(config: &Config) -> bool {
    !config.breaks(Mutant::KeepConflicts)
}

/// Completions name their entry: the sync of `synced` counts only if the log still holds that
/// entry.
pub(super) fn sync_counts(is_held: bool, synced: EntryId, last: EntryId, config: &Config) -> bool {
    is_held || config.breaks(Mutant::SyncOfReplacedEntry) && synced.index <= last.index
}

/// Durable acknowledgement: a follower acknowledges what is durable and proven equal to the
/// leader's log. With entries that are not durable yet the acknowledgement waits for them; a
/// heartbeat is acknowledged at once, up to what is durable.
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

/// Durable acknowledgement: a leader counts itself for its durable entries only.
pub(super) fn own_match_index(durable: Index, last: Index, config: &Config) -> Index {
    assert!(durable <= last, "durable {durable}, but last is {last}");
    if config.breaks(Mutant::CountSelfEarly) { last } else { durable }
}

/// Commit by current term: a leader counts replicas only for entries of its own term (§5.4.2).
pub(super) fn may_commit(entry: Option<Term>, own: Term, config: &Config) -> bool {
    entry == Some(own) || config.breaks(Mutant::CommitOldTerms)
}

/// Proven commit index: a follower commits no further than the leader's messages of this term have
/// proven its log equal (Figure 2, `AppendEntries` rule 5).
pub(super) fn proven_commit_index(
    leader_commit: Index,
    matched: Index,
    last: Index,
    config: &Config,
) -> Index {
    leader_commit.min(if config.breaks(Mutant::CommitUnclamped) { last } else { matched })
}

/// Replies name their term: a reply of an earlier term says nothing about this term's log (§5.1).
pub(super) fn reply_is_current(reply: Term, own: Term, config: &Config) -> bool {
    reply == own || config.breaks(Mutant::ReplyOfOldTerm)
}

/// Replies name their term: a chunk that an earlier term's leader sent is not acknowledged to this
/// term's leader, for which its round number has another meaning.
pub(super) fn chunk_is_current(chunk: Term, own: Term, config: &Config) -> bool {
    chunk == own || config.breaks(Mutant::ChunkReplyOfOldTerm)
}

// Reads.

/// No read before the own term: a leader serves reads after an entry of its term is committed (§8).
pub(super) fn may_serve_reads(commit: Index, first_of_term: Index, config: &Config) -> bool {
    commit >= first_of_term || config.breaks(Mutant::ReadBeforeOwnTerm)
}

/// Fresh confirmation: a read is confirmed by a round that begins after the read arrived.
pub(super) fn confirming_round(current: Round, config: &Config) -> Round {
    if config.breaks(Mutant::ReadOnOldRound) { Round(0) } else { current.next() }
}

/// Lease shorter than an election: a lease counts from the start of a confirmed round and ends
/// before any follower may vote for another leader (thesis 6.4.1).
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

/// No vote while rejoining: whether a rejoining replica ignores vote requests.
pub(super) fn ignores_vote_requests_while_rejoining(config: &Config) -> bool {
    !config.breaks(Mutant::VoteWhileRejoining)
}

/// All members answer first: how many of `peers` must answer a rejoining replica.
pub(super) fn rejoin_answers_needed(peers: usize, config: &Config) -> usize {
    if config.breaks(Mutant::RejoinWithoutAll) { quorum(peers + 1, config) - 1 } else { peers }
}

/// Caught up before it counts: whether a rejoining replica must reach the leader's last entry.
pub(super) fn must_catch_up_to_rejoin(config: &Config) -> bool {
    !config.breaks(Mutant::RejoinBeforeCaughtUp)
}
