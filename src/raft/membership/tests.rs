//! The configuration in use, and its quorums compared with counting.

use super::*;
use crate::membership::{MemberChange, Promotion};
use bytes::Bytes;
use proptest::prelude::*;

fn ids(numbers: &[u16]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

fn learner(id: u16) -> MemberChange {
    let promotion = Promotion::Manual;
    MemberChange::AddLearner { id: NodeId(id), promotion, is_witness: false, address: Bytes::new() }
}

/// Returns the membership of replica 1 of a cluster that is created with `voters`.
fn created(voters: &[u16]) -> Membership {
    let bootstrap = Configuration::of_voters(ids(voters));
    Membership::new(NodeId(1), bootstrap, (Index::ZERO, None), &Config::server())
}

#[test]
fn configuration_as_of_an_entry_is_known_from_the_base_on() {
    let config = Config::server();
    let mut membership = created(&[1, 2, 3]);
    let mut configurations = vec![membership.latest().1.clone()];
    for (index, id) in [(5, 4), (7, 5), (9, 6)] {
        let next = configurations.last().unwrap().plan(&[learner(id)]).unwrap();
        membership.append(Index(index), next.clone(), &config);
        configurations.push(next);
    }
    membership.commit(Index(8), &config);
    let known = |membership: &Membership, index| membership.as_of(Index(index)).cloned();
    assert_eq!(known(&membership, 4), None, "the members had not changed");
    assert_eq!(known(&membership, 6).as_ref(), Some(&configurations[1]));
    assert_eq!(known(&membership, 7).as_ref(), Some(&configurations[2]));
    membership.compact(Index(6));
    assert_eq!(membership.earlier.len(), 1);
    assert_eq!(known(&membership, 6).as_ref(), Some(&configurations[1]));
    membership.commit(Index(9), &config);
    membership.compact(Index(8));
    assert_eq!(known(&membership, 8).as_ref(), Some(&configurations[2]));
    membership.compact(Index(12));
    assert!(membership.earlier.is_empty());
    assert_eq!(known(&membership, 12).as_ref(), Some(&configurations[3]));
}

#[test]
fn configuration_in_use_is_the_latest_in_the_log() {
    let config = Config::server();
    let mut membership = created(&[1, 2, 3]);
    assert!(membership.is_settled() && membership.is_bootstrap());
    let with = membership.latest().1.plan(&[learner(4)]).unwrap();
    membership.append(Index(5), with.clone(), &config);
    assert!(!membership.is_settled() && !membership.votes(NodeId(4)));
    assert_eq!(membership.peers(), ids(&[2, 3, 4]));
    assert_eq!(membership.plain_voter_count(), None);
    membership.commit(Index(5), &config);
    let joint = with.plan(&MemberChange::replace(NodeId(1), NodeId(4))).unwrap();
    membership.append(Index(7), joint.clone(), &config);
    assert!(membership.votes(NodeId(1)) && !membership.remains_voter(NodeId(1)));
    membership.truncate_from(Index(8), &config);
    assert_eq!(membership.latest(), (Index(7), &joint));
    membership.truncate_from(Index(6), &config);
    assert_eq!(membership.latest(), (Index(5), &with));
    membership.append(Index(6), joint.clone(), &config);
    membership.append(Index(7), joint.after_joint(), &config);
    assert_eq!(membership.peers(), ids(&[2, 3, 4]));
    membership.commit(Index(7), &config);
    assert!(membership.is_settled() && !membership.votes(NodeId(1)));
    membership.restart(Index(9), None, &config);
    assert!(membership.is_bootstrap(), "the snapshot is from before the change");
}

#[test]
fn replica_that_is_being_removed_stays_a_peer_until_the_commit() {
    let config = Config::server();
    let mut membership = created(&[1, 2, 3]);
    let joint = membership.latest().1.plan(&[MemberChange::Remove(NodeId(3))]).unwrap();
    membership.append(Index(2), joint.clone(), &config);
    membership.commit(Index(2), &config);
    membership.append(Index(3), joint.after_joint(), &config);
    assert_eq!(membership.peers(), ids(&[2, 3]));
    assert!(!membership.votes(NodeId(3)));
    membership.commit(Index(3), &config);
    assert_eq!((membership.peers(), membership.plain_voter_count()), (&ids(&[2])[..], Some(2)));
}

#[test]
fn replica_that_joins_knows_no_quorum() {
    let membership = created(&[]);
    assert!(!membership.has_quorum(&Config::server(), |_| true));
    assert!(!membership.is_only_voter() && !membership.votes(NodeId(1)));
    assert!(created(&[1]).is_only_voter());
}

proptest! {
    /// Compares quorums and reached values of random joint configurations with counting.
    #[test]
    fn joint_quorum_needs_a_majority_of_old_and_new_voters(
        removed in proptest::collection::btree_set(1_u16..8, 0..4),
        promoted in 8_u16..11,
        values in proptest::collection::vec(0_u8..4, 12),
    ) {
        let config = Config::server();
        let old: Vec<u16> = (1..8).collect();
        let mut membership = created(&old);
        let learners: Vec<_> = (8..promoted).map(learner).collect();
        let mut latest = membership.latest().1.clone();
        if !learners.is_empty() {
            latest = latest.plan(&learners).unwrap();
        }
        let changes: Vec<_> = (8..promoted)
            .map(|id| MemberChange::Promote(NodeId(id)))
            .chain(removed.iter().map(|id| MemberChange::Remove(NodeId(*id))))
            .collect();
        let next = latest.plan(&changes).unwrap_or(latest);
        membership.append(Index(1), next, &config);
        let new: Vec<u16> = (1..promoted).filter(|id| !removed.contains(id)).collect();
        let value = |id: &u16| values[usize::from(*id)];
        let is_majority = |group: &Vec<u16>, level: u8| {
            2 * group.iter().filter(|id| value(id) >= level).count() > group.len()
        };
        let is_quorum = |level: u8| is_majority(&old, level) && is_majority(&new, level);
        let naive = (0..4).rev().find(|level| is_quorum(*level));
        let reached = membership.reached(&config, |id| value(&id.0));
        prop_assert_eq!(Some(reached), naive);
        for level in 0..4 {
            let holds = membership.has_quorum(&config, |id| value(&id.0) >= level);
            prop_assert_eq!(holds, is_quorum(level));
        }
    }
}
