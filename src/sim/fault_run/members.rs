//! Membership changes in a run with faults: requests for random changes, and the check of the
//! members at the end.

use bytes::Bytes;

use super::FaultRun;
use crate::membership::{Configuration, MemberChange, MemberRole, Promotion};
use crate::raft::Replica;
use crate::sim::faults::Fault;
use crate::sim::violation::Violation;
use crate::types::{Index, NodeId};

/// Random changes aim at this number of voters at most.
const VOTERS_MAX: usize = 5;

impl FaultRun {
    /// Returns whether the members change in this run.
    pub(super) fn changes_members(&self) -> bool {
        self.plan.faults.contains(&Fault::ChangeMembers)
    }

    /// Requests a random membership change from a leader, often from one that has been deposed
    /// without knowing it.
    pub(super) fn change_members(&mut self) -> Result<(), Violation> {
        let leads = |id: &NodeId| {
            let replica = self.cluster.machine(*id).replica.as_ref();
            replica.is_some_and(Replica::is_leader)
        };
        let leaders: Vec<NodeId> = self.plan.ids.iter().copied().filter(leads).collect();
        // The replicas that are not rejoining must remain enough to elect a leader.
        if leaders.is_empty() || self.cluster.rejoining().is_some() {
            return Ok(());
        }
        let leader = *self.rng.choose(&leaders);
        let replica = self.cluster.machine(leader).replica.as_ref().expect("it leads");
        let members = replica.configuration().1.clone();
        let mut changes = Vec::new();
        for _ in 0..*self.rng.choose(&[1, 1, 1, 2, 3]) {
            self.draw_change(&members, &mut changes);
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.cluster.change_members(leader, &changes)?;
        Ok(())
    }

    /// Appends a random part to `changes`, which must not name a member twice.
    fn draw_change(&mut self, members: &Configuration, changes: &mut Vec<MemberChange>) {
        let is_free = |id: &NodeId| changes.iter().all(|change: &MemberChange| change.id() != *id);
        let voters: Vec<NodeId> = members.voters().filter(is_free).collect();
        let is_learner = |id: &NodeId| {
            members.member(*id).is_some_and(|it| matches!(it.role, MemberRole::Learner(_)))
        };
        let learners: Vec<NodeId> =
            members.members().keys().copied().filter(is_learner).filter(is_free).collect();
        // Ids are never reused, and the parts of a change are applied in order.
        let named = changes.iter().map(MemberChange::id).max();
        let last = members.last_id().max(named.unwrap_or_default());
        let other = self.plan.ids.iter().copied().filter(|id| *id > last).min();
        let rng = &mut self.rng;
        let mut pick = |ids: &[NodeId]| (!ids.is_empty()).then(|| *rng.choose(ids));
        let (voter, learner) = (pick(&voters), pick(&learners));
        let choice = self.rng.below(if members.voters().count() < VOTERS_MAX { 9 } else { 7 });
        let address = Bytes::from_static(b"simulated");
        match (choice, voter, learner, other) {
            (0 | 1, _, _, Some(id)) | (_, None, None, Some(id)) => {
                let replaces = voter.filter(|_| choice == 1);
                let promotion = match self.rng.below(3) {
                    0 => Promotion::Manual,
                    _ => Promotion::Automatic { replaces },
                };
                let is_witness = self.plan.witnesses.contains(&id);
                changes.push(MemberChange::AddLearner { id, promotion, is_witness, address });
            }
            (2, Some(old), Some(new), _) => changes.extend(MemberChange::replace(old, new)),
            (3, Some(id), ..) => changes.push(MemberChange::Demote(id)),
            (4 | 5, Some(id), ..) | (6, _, Some(id), _) => changes.push(MemberChange::Remove(id)),
            (_, _, Some(id), _) => changes.push(MemberChange::Promote(id)),
            (_, Some(id), ..) => changes.push(MemberChange::SetAddress { id, address }),
            _ => {}
        }
    }

    /// Acts as the operator for a member that the others do not allow to rejoin: requests its
    /// removal from the leader, unless a membership change is in progress.
    pub(super) fn remove_refused_member(&mut self) -> Result<(), Violation> {
        let refused = |id: &NodeId| self.cluster.machine(*id).must_be_replaced;
        let Some(leader) = self.cluster.leader() else { return Ok(()) };
        let Some(id) = self.final_members().ok().and_then(|it| it.into_iter().find(refused)) else {
            return Ok(());
        };
        self.cluster.change_members(leader, &[MemberChange::Remove(id)])
    }

    /// Returns whether a replica is one of at least three voters, according to all running
    /// replicas.
    pub(super) fn is_one_of_three(&self, id: NodeId) -> bool {
        let running = self.cluster.machines().iter().filter_map(|it| it.replica.as_ref());
        let mut members = running.map(|replica| replica.configuration().1).peekable();
        members.peek().is_some()
            && members.all(|it| it.votes(id) && !it.is_joint() && it.voters().count() >= 3)
    }

    /// Returns whether these replicas can continue without the others: if there are witnesses among
    /// them, one of the replicas must have the data up to the beginning of each witness's log.
    pub(super) fn can_recover(&self, ids: &[NodeId]) -> bool {
        let machines = || ids.iter().map(|id| self.cluster.machine(*id));
        let starts = machines().filter(|it| it.config.is_witness).map(|it| it.snapshots.end());
        let Some(start) = starts.max().filter(|start| *start > Index::ZERO) else { return true };
        machines()
            .filter(|it| !it.config.is_witness)
            .any(|it| self.cluster.checker.has_committed(it, start))
    }

    /// Returns the members at the end of a run, which must have applied all entries.
    ///
    /// # Errors
    /// A description of why the membership change is not complete yet.
    pub(super) fn final_members(&self) -> Result<Vec<NodeId>, String> {
        let Some(leader) = self.cluster.leader() else { return Err("no leader".to_owned()) };
        let replica = self.cluster.machine(leader).replica.as_ref().expect("it leads");
        let (index, members) = replica.configuration();
        if members.is_joint() || index > replica.commit_index() {
            return Err(format!("the change of the members at index {index} is not complete"));
        }
        if !members.votes(leader) {
            return Err(format!("replica {leader} leads, but is no voter"));
        }
        if members.is_witness(leader) {
            return Err(format!("replica {leader} leads, but is a witness"));
        }
        Ok(members.members().keys().copied().collect())
    }
}
