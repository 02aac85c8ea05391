//! Tests of planned changes, encoding and quorums of configurations.

use super::*;
use crate::feature_level::FeatureLevel;
use proptest::prelude::*;

fn ids(numbers: &[u16]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

fn voters(numbers: &[u16]) -> Configuration {
    Configuration::of_voters(ids(numbers))
}

fn learner(id: u16, promotion: Promotion) -> MemberChange {
    let address = Bytes::from_static(b"a:1");
    MemberChange::AddLearner { id: NodeId(id), promotion, is_witness: false, address }
}

const fn automatic(replaces: u16) -> Promotion {
    Promotion::Automatic { replaces: Some(NodeId(replaces)) }
}

#[test]
fn learners_are_added_and_removed_without_a_joint_configuration() {
    let three = voters(&[1, 2, 3]);
    let with = three.plan(&[learner(4, Promotion::Manual), learner(5, automatic(2))]).unwrap();
    assert!(!with.is_joint() && with.votes(NodeId(3)) && !with.votes(NodeId(4)));
    assert_eq!(with.voters().collect::<Vec<_>>(), ids(&[1, 2, 3]));
    let without = with.plan(&[4, 5].map(|id| MemberChange::Remove(NodeId(id)))).unwrap();
    assert_eq!(without.members(), three.members());
}

#[test]
fn addresses_of_members_have_a_host_and_a_port() {
    for address in ["db4:7000", "10.0.0.4:1", "[::1]:65535"] {
        assert!(is_address(address.as_bytes()), "{address}");
    }
    let long = format!("{}:1", "x".repeat(ADDRESS_BYTES_MAX));
    for wrong in ["", "db4", ":7000", "db4:0", "db4:70000", "a b:1", "a,b:1", "a=b:1", &long] {
        assert!(!is_address(wrong.as_bytes()), "{wrong}");
    }
    assert!(!is_address(b"\xFF:1"));
}

#[test]
fn id_of_an_earlier_member_is_not_reused() {
    let added = voters(&[1, 2, 3]).plan(&[learner(6, Promotion::Manual)]).unwrap();
    let removed = added.plan(&[MemberChange::Remove(NodeId(6))]).unwrap();
    let removed = Configuration::decode(&removed.encode()).unwrap();
    for id in 4..=6 {
        let used = Err(PlanError::Used { id: NodeId(id), last: NodeId(6) });
        assert_eq!(removed.plan(&[learner(id, Promotion::Manual)]), used);
    }
    let joint = removed.plan(&[MemberChange::Remove(NodeId(3))]).unwrap();
    let after = joint.after_joint();
    assert_eq!((joint.last_id(), after.last_id()), (NodeId(6), NodeId(6)));
    let error = after.plan(&[learner(3, Promotion::Manual)]).unwrap_err();
    assert!(error.to_string().ends_with("the lowest possible id is 7"), "{error}");
    assert!(after.plan(&[learner(7, Promotion::Manual)]).is_ok());
    let too_high = Err(PlanError::TooHigh { id: NodeId(1_007), last: NodeId(6) });
    assert_eq!(after.plan(&[learner(1_007, Promotion::Manual)]), too_high);
}

#[test]
fn replacement_passes_through_a_joint_configuration() {
    let with = voters(&[1, 2, 3]).plan(&[learner(4, Promotion::Manual)]).unwrap();
    let joint = with.plan(&MemberChange::replace(NodeId(1), NodeId(4))).unwrap();
    assert_eq!(joint.voters().collect::<Vec<_>>(), ids(&[2, 3, 4]));
    assert_eq!(joint.outgoing().collect::<Vec<_>>(), ids(&[1, 2, 3]));
    assert!(joint.is_joint() && joint.votes(NodeId(1)), "it counts until the change is done");
    let after = joint.after_joint();
    assert!(!after.is_joint() && after.member(NodeId(1)).is_none());
    assert_eq!(after.voters().collect::<Vec<_>>(), ids(&[2, 3, 4]));
    assert_eq!(after.failures_survived(), 1);
}

#[test]
fn changes_to_invalid_configurations_are_rejected() {
    use MemberChange::{Demote, Promote, Remove, SetAddress};
    let id = NodeId;
    let members = voters(&[1, 2]).plan(&[learner(3, Promotion::Manual)]).unwrap();
    for (changes, error) in [
        (vec![], PlanError::Nothing),
        (vec![Promote(id(4))], PlanError::Unknown(id(4))),
        (vec![learner(5, automatic(6))], PlanError::Unknown(id(6))),
        (vec![learner(2, Promotion::Manual)], PlanError::Duplicate(id(2))),
        (vec![Promote(id(3)), Remove(id(3))], PlanError::Duplicate(id(3))),
        (vec![Promote(id(1))], PlanError::Voter(id(1))),
        (vec![Demote(id(3))], PlanError::Learner(id(3))),
        (vec![Remove(id(1)), Demote(id(2))], PlanError::NoVoter),
        (vec![SetAddress { id: id(1), address: vec![7; 513].into() }], PlanError::Address(id(1))),
        ((4..40).map(|id| learner(id, Promotion::Manual)).collect(), PlanError::TooMany(39)),
    ] {
        assert_eq!(members.plan(&changes), Err(error), "{changes:?}");
    }
}

#[test]
fn learner_forgets_that_it_replaces_a_removed_member() {
    let members = voters(&[1, 2, 3]).plan(&[learner(4, automatic(3))]).unwrap();
    let joint = members.plan(&[MemberChange::Remove(NodeId(3))]).unwrap();
    let role = MemberRole::Learner(Promotion::Automatic { replaces: None });
    assert_eq!(joint.member(NodeId(4)).unwrap().role, role);
}

#[test]
fn joint_configuration_survives_the_failures_of_its_weaker_half() {
    let five = voters(&[1, 2, 3, 4, 5]);
    assert_eq!((five.failures_survived(), voters(&[1, 2]).failures_survived()), (2, 0));
    let joint = five.plan(&[4, 5].map(|id| MemberChange::Remove(NodeId(id)))).unwrap();
    assert_eq!(joint.failures_survived(), 1);
}

fn witness(id: u16, promotion: Promotion) -> MemberChange {
    let address = Bytes::from_static(b"a:1");
    MemberChange::AddLearner { id: NodeId(id), promotion, is_witness: true, address }
}

#[test]
fn witnesses_stay_fewer_than_half_of_the_voters() {
    use MemberChange::{Demote, Promote, Remove};
    let auto = Promotion::Automatic { replaces: None };
    let refused = Err(PlanError::Witnesses);
    assert_eq!(voters(&[1]).plan(&[witness(2, auto)]), refused);
    let with = voters(&[1, 2]).plan(&[witness(3, auto)]).unwrap();
    assert_eq!(with.feature_level(), FeatureLevel::V0_2);
    assert_eq!(voters(&[1, 2]).feature_level(), FeatureLevel::V0_1);
    let three = with.plan(&[Promote(NodeId(3))]).unwrap().after_joint();
    assert_eq!(three.to_string(), "voters 1 2 3, witnesses 3");
    assert_eq!(three.failures_survived(), 1);
    // Neither a second witness nor the removal of a replica with data is possible.
    assert_eq!(three.plan(&[witness(4, auto)]), refused);
    assert_eq!(three.plan(&[witness(4, automatic(1))]), refused);
    assert_eq!(three.plan(&[Remove(NodeId(1))]), refused);
    assert_eq!(three.plan(&[Demote(NodeId(2))]), refused);
    let idle = three.plan(&[witness(4, Promotion::Manual)]).unwrap();
    assert_eq!(idle.plan(&[Promote(NodeId(4))]), refused);
    // A witness can be replaced. A replica with data can be removed if the witness is, too.
    let replacing = three.plan(&[witness(4, automatic(3))]).unwrap();
    let joint = replacing.plan(&MemberChange::replace(NodeId(3), NodeId(4))).unwrap();
    assert_eq!(joint.to_string(), "voters 1 2 4, before 1 2 3, witnesses 3 4");
    assert!(joint.is_witness(NodeId(4)) && joint.after_joint().is_witness(NodeId(4)));
    assert!(three.plan(&[Remove(NodeId(1)), Remove(NodeId(3))]).is_ok());
    let bytes = Configuration::of_members(ids(&[1, 2]), &ids(&[2])).encode();
    let invalid = ConfigurationError::Members("half of the voters or more are witnesses");
    assert_eq!(Configuration::decode(&bytes), Err(invalid));
}

fn change() -> impl Strategy<Value = MemberChange> {
    let id = || (1_u16..10).prop_map(NodeId);
    let promotion = prop_oneof![
        Just(Promotion::Manual),
        proptest::option::of(id()).prop_map(|replaces| Promotion::Automatic { replaces }),
    ];
    let address = || proptest::collection::vec(any::<u8>(), 0..5).prop_map(Bytes::from);
    prop_oneof![
        (id(), promotion, any::<bool>(), address()).prop_map(
            |(id, promotion, is_witness, address)| {
                MemberChange::AddLearner { id, promotion, is_witness, address }
            }
        ),
        id().prop_map(MemberChange::Promote),
        id().prop_map(MemberChange::Demote),
        id().prop_map(MemberChange::Remove),
        (id(), address()).prop_map(|(id, address)| MemberChange::SetAddress { id, address }),
    ]
}

/// Returns whether a set of replicas is a majority of each group. In the set, bit N stands for id
/// N.
fn is_quorum(set: u32, groups: &[Vec<NodeId>]) -> bool {
    let count = |group: &Vec<NodeId>| group.iter().filter(|id| set & (1 << id.0) != 0).count();
    groups.iter().all(|group| 2 * count(group) > group.len())
}

fn groups(configuration: &Configuration) -> Vec<Vec<NodeId>> {
    let voters: [Vec<NodeId>; 2] =
        [configuration.voters().collect(), configuration.outgoing().collect()];
    voters.into_iter().filter(|group| !group.is_empty()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Applies random changes one after another, and compares the quorums of successive
    /// configurations.
    #[test]
    fn successive_configurations_have_no_disjoint_quorums(
        changes in proptest::collection::vec(proptest::collection::vec(change(), 1..4), 1..12),
    ) {
        let mut current = voters(&[1, 2, 3]);
        for mut change in changes {
            // Mostly new ids, because random ones would mostly be used already.
            for (part, next) in change.iter_mut().zip(current.last_id().0 + 1..) {
                if let MemberChange::AddLearner { id, .. } = part {
                    *id = NodeId(next);
                }
            }
            let Ok(next) = current.plan(&change) else { continue };
            let mut steps = vec![current.clone(), next.clone()];
            if next.is_joint() {
                steps.push(next.after_joint());
            }
            for pair in steps.windows(2) {
                let (one, other) = (groups(&pair[0]), groups(&pair[1]));
                let disjoint = (0..1 << 10).any(|set: u32| {
                    is_quorum(set, &one) && is_quorum(!set, &other)
                });
                prop_assert!(!disjoint, "{:?}", pair);
            }
            for step in &steps {
                // There is no quorum of witnesses alone.
                let witnesses = step.witnesses().fold(0, |set, id| set | 1 << id.0);
                prop_assert!(!is_quorum(witnesses, &groups(step)), "{:?}", step);
                prop_assert_eq!(&Configuration::decode(&step.encode()), &Ok(step.clone()));
            }
            current = steps.pop().expect("two at least");
        }
    }

    #[test]
    fn configuration_decoder_accepts_only_the_one_encoding(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        count in 0_u8..4,
        last in 0_u8..5,
        flags in proptest::collection::vec(0_u8..72, 4),
    ) {
        let _ = Configuration::decode(&bytes);
        let mut encoded = vec![1, count, last, 0];
        for (place, flags) in flags.iter().take(usize::from(count)).enumerate() {
            encoded.extend([u8::try_from(place).unwrap(), 0, *flags, 0, 0, 1, 0, b'x']);
        }
        if let Ok(decoded) = Configuration::decode(&encoded) {
            prop_assert_eq!(decoded.encode(), encoded);
        }
    }
}
