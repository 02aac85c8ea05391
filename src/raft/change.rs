//! Membership changes (Raft §6): the leader begins and completes them, and promotes learners.
//!
//! 1. The leader appends the next configuration. If the set of voters changes, that is a joint
//!    configuration, and from then on elections and commits need a quorum of the old voters and one
//!    of the new.
//! 2. When the joint configuration is committed, the leader appends the final one, without the
//!    voters that leave. A later leader that finds a joint configuration in its log does this once
//!    its no-op is committed.
//! 3. When that is committed, a leader that is no longer a voter transfers its leadership, or steps
//!    down.
//!
//! Learners join and leave in one step, because they count for no quorum.

use crate::membership::{ChangePlan, ChangeRefusal, Member, MemberChange, MemberRole, Promotion};
use crate::types::{EntryId, Index, NodeId, Round};

use super::leader::Leader;
use super::progress::Progress;
use super::quorum::quorum;
use super::rules;
use super::shared::Shared;
use super::timing;
use super::transfer::LAG_BYTES_MAX;

/// Maximum number of entries that a learner may lack when it is promoted; they may have at most
/// [`LAG_BYTES_MAX`] bytes. This is about the number in flight to a follower that keeps up: under
/// load, a lower limit could prevent a promotion forever, and a new voter that lacks more would
/// delay commits.
const CAUGHT_UP_ENTRIES: u64 = 256;

impl Leader {
    /// Returns the result of a membership change without making it, or the reason why it is
    /// refused.
    pub(super) fn plan_change(
        &self,
        shared: &Shared,
        changes: &[MemberChange],
    ) -> Result<ChangePlan, ChangeRefusal> {
        if !rules::may_change_members(shared.commit_index(), self.first_index, &shared.config) {
            return Err(ChangeRefusal::NewLeader);
        }
        let (index, latest) = shared.membership.latest();
        let is_settled = shared.membership.is_settled();
        let current = rules::changeable_configuration(latest, is_settled, &shared.config);
        let current = current.ok_or(ChangeRefusal::InProgress(index))?;
        if shared.config.is_witness {
            return Err(ChangeRefusal::Witness);
        }
        if self.transfer.is_in_progress() || shared.is_removed() {
            return Err(ChangeRefusal::Transfer);
        }
        let next = current.plan(changes).map_err(ChangeRefusal::Invalid)?;
        let needed = next.feature_level();
        if needed > shared.feature_level() {
            return Err(ChangeRefusal::FeatureLevel(needed));
        }
        for change in changes {
            if let MemberChange::Promote(id) = change {
                self.check_caught_up(shared, *id)?;
            }
        }
        let voters: Vec<NodeId> = next.voters().collect();
        let answering = voters.iter().filter(|id| self.is_answering(shared, **id)).count();
        if next.is_joint() && answering < quorum(voters.len(), &shared.config) {
            return Err(ChangeRefusal::NoQuorum);
        }
        let result = next.after_joint();
        Ok(ChangePlan { next, result })
    }

    /// Begins a membership change: appends the next configuration. Returns the id of its entry.
    pub(super) fn change_members(
        &mut self,
        shared: &mut Shared,
        changes: &[MemberChange],
    ) -> Result<EntryId, ChangeRefusal> {
        let plan = self.plan_change(shared, changes)?;
        let id = shared.append_configuration(plan.next);
        self.update_progress(shared);
        Ok(id)
    }

    /// Continues a membership change after each input: tracks the progress of the members of the
    /// latest configuration, and ends a joint configuration that is committed.
    pub(super) fn advance_membership(&mut self, shared: &mut Shared) {
        self.update_progress(shared);
        let (index, latest) = shared.membership.latest();
        let commit_index = shared.commit_index();
        if !latest.is_joint()
            || commit_index < self.first_index
            || !rules::may_end_joint(index, commit_index, &shared.config)
        {
            return;
        }
        let next = latest.after_joint();
        shared.append_configuration(next);
        self.update_progress(shared);
    }

    /// Begins the promotion of a learner that has caught up, if it was added for automatic
    /// promotion.
    pub(super) fn promote_learner(&mut self, shared: &mut Shared) {
        if !shared.membership.is_settled() {
            return;
        }
        let (_, latest) = shared.membership.latest();
        let promotion = |(id, member): (&NodeId, &Member)| match member.role {
            MemberRole::Learner(Promotion::Automatic { replaces }) => Some((*id, replaces)),
            MemberRole::Learner(Promotion::Manual) | MemberRole::Voter | MemberRole::Leaving => {
                None
            }
        };
        let has_caught_up = |id: NodeId| self.check_caught_up(shared, id).is_ok();
        let ready =
            latest.members().iter().filter_map(promotion).find(|(id, _)| has_caught_up(*id));
        let Some((id, replaces)) = ready else { return };
        let mut changes = vec![MemberChange::Promote(id)];
        changes.extend(replaces.map(MemberChange::Remove));
        // If it is refused, the leader tries again after the next batch of inputs.
        let _ = self.change_members(shared, &changes);
    }

    /// Returns an error if the learner must not be promoted yet: it lacks too many entries or the
    /// latest configuration, is receiving a snapshot, or does not answer.
    fn check_caught_up(&self, shared: &Shared, id: NodeId) -> Result<(), ChangeRefusal> {
        let peer = self.peer(id);
        let matched = peer.map_or(Index::ZERO, Progress::match_index);
        let entries = shared.log.last().index.0 - matched.0;
        let (configuration, _) = shared.membership.latest();
        if entries <= CAUGHT_UP_ENTRIES
            && shared.log.is_short_after(matched, LAG_BYTES_MAX)
            && matched >= configuration
            && peer.is_some_and(|peer| !peer.is_receiving_snapshot())
            && self.is_answering(shared, id)
        {
            return Ok(());
        }
        Err(ChangeRefusal::Behind { id, entries })
    }

    /// Returns whether the replica is this leader itself, or has answered it within the
    /// check-quorum window.
    fn is_answering(&self, shared: &Shared, id: NodeId) -> bool {
        let window = timing::check_quorum_window(&shared.config, shared.loss_permille);
        id == shared.id
            || self.peer(id).is_some_and(|peer| {
                peer.answered_round > Round(0)
                    && !peer.is_silent(shared.loss_permille)
                    && shared.now.since(peer.last_reply_at) <= window
            })
    }
}
