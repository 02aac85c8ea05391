//! A replica's term and vote, and whether they are durable. They must be durable before any message
//! reveals them (Figure 2).

use crate::config::Config;
use crate::types::{JobSequence, NodeId, Term};

use super::effects::HardState;
use super::rules;

/// The current term and vote, and the sequence number of the log writer's job that makes them
/// durable.
///
/// Invariant: the term never decreases; within a term the vote changes at most once, from `None` to
/// a candidate.
#[derive(Debug)]
pub(super) struct TermAndVote {
    current: HardState,
    /// Whether the term or vote in `current` has changed since it was last handed to the log writer
    /// or read from disk.
    is_unwritten: bool,
    /// Sequence number of the latest log writer job that contains a term and vote; 0 before the
    /// first.
    job: JobSequence,
}

impl TermAndVote {
    /// Returns the term and vote of a starting replica: those on disk or, if the term on disk is
    /// lower, `term_min` (the term of the snapshot's last entry) without a vote.
    ///
    /// The term on disk is lower if the snapshot became durable before the term did. The replica
    /// cannot have voted in `term_min`, because it reveals a vote only when the vote is durable.
    pub(super) fn recovered(durable: HardState, term_min: Term) -> TermAndVote {
        let is_unwritten = term_min > durable.term;
        let current =
            if is_unwritten { HardState { term: term_min, voted_for: None } } else { durable };
        assert!(current.term <= Term::MAX, "term {} on disk is too large", current.term);
        TermAndVote { current, is_unwritten, job: JobSequence(0) }
    }

    pub(super) fn term(&self) -> Term {
        self.current.term
    }

    pub(super) fn voted_for(&self) -> Option<NodeId> {
        self.current.voted_for
    }

    /// Moves to `term`, which must be higher than the current term. `voted_for` is this replica if
    /// it campaigns in the new term, else `None`.
    pub(super) fn start_term(&mut self, term: Term, voted_for: Option<NodeId>) {
        assert!(
            self.current.term < term && term <= Term::MAX,
            "term {term} after {}",
            self.current.term
        );
        self.current = HardState { term, voted_for };
        self.is_unwritten = true;
    }

    /// Records the vote for `candidate` in the current term. Repeating a vote changes nothing.
    /// Panics on a vote for another candidate, because a replica votes once per term (Raft paper,
    /// §5.2).
    pub(super) fn vote_for(&mut self, candidate: NodeId, config: &Config) {
        let before = self.current.voted_for;
        if before == Some(candidate) {
            return;
        }
        assert!(
            rules::vote_is_free(before, candidate, config),
            "a second vote in term {}: for {candidate} after {before:?}",
            self.current.term
        );
        self.current.voted_for = Some(candidate);
        self.is_unwritten = true;
    }

    /// Returns whether the current term and vote are durable, where `done` is the number of the
    /// last job that the log writer has finished.
    pub(super) fn is_durable(&self, done: JobSequence) -> bool {
        !self.is_unwritten && self.job <= done
    }

    pub(super) fn is_unwritten(&self) -> bool {
        self.is_unwritten
    }

    /// Returns the term and vote for the log writer to write in its job number `job`, and marks
    /// them as handed out; `None` if they are unchanged since they were last handed out or read
    /// from disk.
    pub(super) fn take_unwritten(&mut self, job: JobSequence) -> Option<HardState> {
        assert!(self.job < job, "job {job} after {}", self.job);
        if !self.is_unwritten {
            return None;
        }
        self.is_unwritten = false;
        self.job = job;
        Some(self.current)
    }
}
