//! Compares the state of this replica with the states of the other replicas: a mark in the log
//! names the log index, each replica reports the digest that its state has there, and the reports
//! are in the log, too. So every replica knows what a majority of the voters has.
//!
//! The comparison is not part of the replicated state: it is in no snapshot, and nothing that a
//! client can see depends on it. A later mark replaces an earlier one. A replica that has installed
//! a snapshot since a mark, or has restarted after it, takes no part in the comparison.

use std::collections::BTreeMap;

use crate::membership::Configuration;
use crate::types::{Index, NodeId};

/// The result of a comparison of the replicas' states at one log index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DigestResult {
    /// A majority of the voters has the same digest as this replica.
    Equal,
    /// A majority of the voters has another digest than this replica, so the state of this replica
    /// is wrong.
    Wrong,
    /// No digest can have a majority, so it is unknown which replicas are right.
    NoMajority,
}

/// A comparison of the replicas' states at one log index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DigestComparison {
    /// The log index at which the states are compared.
    pub index: Index,
    /// Digest of the state of this replica.
    pub digest: u64,
    /// The result for this replica.
    pub result: DigestResult,
    /// The replicas that have reported another digest than the majority, in ascending order; all
    /// replicas that have reported one if there is no majority.
    pub differing: Vec<NodeId>,
}

/// The reports on the latest mark in the log.
#[derive(Debug, Default)]
pub(super) struct DigestCheck {
    /// Whether the entry that is being applied contains a mark.
    has_new_mark: bool,
    /// The index of the latest mark and the digest of this replica's state there; `None` if no mark
    /// has been applied.
    mark: Option<(Index, u64)>,
    /// Whether this replica has not reported its digest at the mark yet.
    is_unreported: bool,
    /// The digests that replicas have reported for the mark.
    reports: BTreeMap<NodeId, u64>,
    /// Whether a report has arrived since the last comparison.
    has_new_report: bool,
    /// The last comparison that was returned.
    last: Option<DigestComparison>,
    /// Number that is combined with the digest of this replica, because its state is known to
    /// contradict the digest; 0 otherwise.
    salt: u64,
    /// The comparison at an earlier mark that had no result when the latest one replaced it,
    /// although its reports differ.
    undecided: Option<DigestComparison>,
}

impl DigestCheck {
    /// Records that the entry that is being applied contains a mark.
    pub(super) fn mark(&mut self) {
        self.has_new_mark = true;
    }

    /// Returns whether the entry that ends now contains a mark.
    pub(super) fn take_new_mark(&mut self) -> bool {
        std::mem::take(&mut self.has_new_mark)
    }

    /// Begins the comparison at the mark in the entry at `index`, after which the state has this
    /// digest.
    pub(super) fn begin(&mut self, index: Index, digest: u64) {
        let undecided = self.undecided_mark();
        *self = DigestCheck {
            mark: Some((index, digest ^ self.salt)),
            is_unreported: true,
            salt: self.salt,
            undecided,
            ..DigestCheck::default()
        };
    }

    /// Makes this replica report digests that no other replica has, from the next mark on.
    pub(super) fn distrust(&mut self, salt: u64) {
        assert!(salt != 0, "a salt of 0 changes nothing");
        self.salt = salt;
    }

    /// Returns a comparison for the current mark if replicas have reported different digests, but
    /// no result is known.
    fn undecided_mark(&self) -> Option<DigestComparison> {
        let (index, digest) = self.mark?;
        let is_open = self.last.is_none() && self.reports.values().any(|one| *one != digest);
        let differing = self.reports.keys().copied().collect();
        let result = DigestResult::NoMajority;
        is_open.then_some(DigestComparison { index, digest, result, differing })
    }

    /// Records that `replica` had the state digest `digest` at the mark at index `mark`. Ignores
    /// reports about other marks than the latest.
    pub(super) fn report(&mut self, replica: NodeId, mark: Index, digest: u64) {
        if self.mark.is_some_and(|(index, _)| index == mark) {
            self.reports.insert(replica, digest);
            self.has_new_report = true;
        }
    }

    /// Returns the mark that this replica has to report on, with its digest there. Returns it only
    /// once.
    pub(super) fn take_report(&mut self) -> Option<(Index, u64)> {
        self.mark.filter(|_| std::mem::take(&mut self.is_unreported))
    }

    /// Compares the reports of the voters in `members`. Returns a result that has not been returned
    /// before; `None` if there is none.
    pub(super) fn compare(&mut self, members: &Configuration) -> Option<DigestComparison> {
        if let Some(undecided) = self.undecided.take() {
            return Some(undecided);
        }
        if !std::mem::take(&mut self.has_new_report) {
            return None;
        }
        let (index, digest) = self.mark?;
        let report = |id: NodeId| self.reports.get(&id).copied();
        let mut digests: Vec<u64> = self.reports.values().copied().collect();
        digests.sort_unstable();
        digests.dedup();
        let majority =
            digests.iter().copied().find(|one| is_majority(members, |id| report(id) == Some(*one)));
        let (result, differing) = match majority {
            Some(majority) => {
                let result =
                    if majority == digest { DigestResult::Equal } else { DigestResult::Wrong };
                (result, self.reporters(|one| one != majority))
            }
            // A voter that has not reported may have any digest.
            None if digests.iter().any(|one| {
                is_majority(members, |id| report(id).is_none_or(|reported| reported == *one))
            }) =>
            {
                return None;
            }
            None => (DigestResult::NoMajority, self.reporters(|_| true)),
        };
        let comparison = DigestComparison { index, digest, result, differing };
        if self.last.as_ref() == Some(&comparison) {
            return None;
        }
        self.last = Some(comparison.clone());
        Some(comparison)
    }

    fn reporters(&self, wanted: impl Fn(u64) -> bool) -> Vec<NodeId> {
        self.reports.iter().filter(|(_, digest)| wanted(**digest)).map(|(id, _)| *id).collect()
    }
}

/// Returns whether the voters for which `agrees` returns true are a majority of the voters that
/// have data; in a joint configuration, of those before the change and of those after it.
fn is_majority(members: &Configuration, agrees: impl Fn(NodeId) -> bool) -> bool {
    let holds = |mut voters: Vec<NodeId>| {
        voters.retain(|id| !members.is_witness(*id));
        let agreeing = voters.iter().filter(|id| agrees(**id)).count();
        agreeing > voters.len() / 2
    };
    holds(members.voters().collect())
        && (!members.is_joint() || holds(members.outgoing().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(count: u16) -> Configuration {
        Configuration::of_voters((1..=count).map(NodeId))
    }

    #[test]
    fn witnesses_have_no_state_to_compare() {
        let members = Configuration::of_members((1..=5).map(NodeId), &[NodeId(4), NodeId(5)]);
        let mut check = marked();
        for (replica, digest) in [(1, 7), (2, 8)] {
            check.report(NodeId(replica), Index(5), digest);
            assert_eq!(check.compare(&members), None, "replica 3 decides");
        }
        check.report(NodeId(3), Index(5), 8);
        let result = check.compare(&members).map(|comparison| comparison.result);
        assert_eq!(result, Some(DigestResult::Wrong), "two of the three with data");
    }

    /// Returns a check whose replica has the digest 7 at the mark at index 5.
    fn marked() -> DigestCheck {
        let mut check = DigestCheck::default();
        check.begin(Index(5), 7);
        check
    }

    /// Returns the last result after reports of these digests by the replicas 1, 2 and so on; a
    /// report of 0 is missing.
    fn result(members: &Configuration, digests: &[u64]) -> Option<(DigestResult, Vec<u16>)> {
        let mut check = marked();
        let mut last = None;
        for (id, digest) in (1..).map(NodeId).zip(digests).filter(|(_, digest)| **digest > 0) {
            check.report(id, Index(5), *digest);
            last = check.compare(members).or(last);
        }
        let ids = |ids: Vec<NodeId>| ids.into_iter().map(|id| id.0).collect();
        last.map(|last| (last.result, ids(last.differing)))
    }

    #[test]
    fn only_a_majority_of_the_voters_decides_which_digest_is_right() {
        use DigestResult::{Equal, NoMajority, Wrong};
        let three = voters(3);
        assert_eq!(result(&three, &[7]), None);
        assert_eq!(result(&three, &[7, 7]), Some((Equal, vec![])));
        assert_eq!(result(&three, &[8]), None, "a minority takes nobody out");
        assert_eq!(result(&three, &[7, 8]), None, "the third one may have either");
        assert_eq!(result(&three, &[8, 8]), Some((Wrong, vec![])));
        assert_eq!(result(&three, &[7, 8, 7]), Some((Equal, vec![2])));
        assert_eq!(result(&three, &[7, 8, 8]), Some((Wrong, vec![1])));
        assert_eq!(result(&three, &[7, 8, 9]), Some((NoMajority, vec![1, 2, 3])));
        assert_eq!(result(&voters(2), &[7, 8]), Some((NoMajority, vec![1, 2])));
        assert_eq!(result(&voters(4), &[7, 7, 8, 8]), Some((NoMajority, vec![1, 2, 3, 4])));
        assert_eq!(result(&voters(4), &[7, 8, 8, 8]), Some((Wrong, vec![1])));
        assert_eq!(result(&voters(5), &[8, 8, 0, 0, 7]), None);
        assert_eq!(result(&voters(5), &[8, 8, 0, 8, 7]), Some((Wrong, vec![5])));
    }

    #[test]
    fn digest_of_a_learner_counts_for_itself_only() {
        let three = voters(3);
        // Replicas 4 and 5 are no voters.
        assert_eq!(result(&three, &[7, 0, 0, 8, 8]), None);
        let equal = Some((DigestResult::Equal, vec![4]));
        assert_eq!(result(&three, &[7, 7, 0, 8]), equal);
        // A learner with this digest knows that it is wrong.
        assert_eq!(result(&three, &[8, 8, 0, 7]), Some((DigestResult::Wrong, vec![4])));
    }

    #[test]
    fn replica_that_distrusts_its_state_lets_a_majority_decide() {
        for (others, wanted) in [([7, 7], DigestResult::Wrong), ([7, 8], DigestResult::NoMajority)]
        {
            let mut check = DigestCheck::default();
            check.distrust(1 << 40);
            check.begin(Index(5), 7);
            let (index, own) = check.take_report().unwrap();
            assert_eq!((index, own == 7), (Index(5), false));
            check.report(NodeId(1), index, own);
            (2..).map(NodeId).zip(others).for_each(|(id, one)| check.report(id, index, one));
            assert_eq!(check.compare(&voters(3)).unwrap().result, wanted);
        }
    }

    #[test]
    fn reports_on_an_earlier_mark_are_ignored() {
        let mut check = marked();
        assert_eq!(check.take_report(), Some((Index(5), 7)));
        assert_eq!(check.take_report(), None);
        check.report(NodeId(2), Index(5), 8);
        assert_eq!(check.compare(&voters(3)), None);
        check.begin(Index(9), 1);
        // The third voter has not reported on the earlier mark, so it has no result.
        let undecided = check.compare(&voters(3)).unwrap();
        assert_eq!((undecided.index, undecided.result), (Index(5), DigestResult::NoMajority));
        check.report(NodeId(3), Index(5), 8);
        assert_eq!(check.compare(&voters(3)), None);
        check.report(NodeId(1), Index(9), 1);
        check.report(NodeId(2), Index(9), 1);
        let equal = check.compare(&voters(3)).unwrap();
        assert_eq!((equal.index, equal.result), (Index(9), DigestResult::Equal));
        assert_eq!(check.compare(&voters(3)), None, "each result is returned once");
    }
}
