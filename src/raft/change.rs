//! Changes of the members (§6): the leader begins them, completes them, and promotes learners.
//!
//! 1. The leader appends the configuration for the change. If the voters change it is a joint one,
//!    and from now on every decision needs a quorum of the old voters and one of the new.
//! 2. When the joint configuration is committed, the leader appends the one without the old voters.
//!    A later leader that finds a joint configuration in its log does this when its no-op is
//!    committed.
//! 3. When that is committed, a leader that is no voter any longer transfers its leadership, or
//!    steps down.
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

/// Maximum number of entries that a learner may be behind to be promoted, which may have at most
/// [`LAG_BYTES_MAX`] bytes. It is about what is in flight to a follower that keeps up: fewer would
/// keep a learner of a busy leader from ever being promoted, and a voter that lacks more would hold
/// up commits.
const CAUGHT_UP_ENTRIES: u64 = 256;

impl Leader {
    /// Returns what a change of the members would result in.
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
        let current = current.ok_or(ChangeRefusal::UnderWay(index))?;
        if self.transfer.is_in_progress() || shared.is_removed() {
            return Err(ChangeRefusal::Transfer);
        }
        let next = current.plan(changes).map_err(ChangeRefusal::Invalid)?;
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

    /// Begins a change of the members: appends the next configuration. Returns the id of its entry.
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

    /// Continues a change of the members after each input: follows those of the configuration in
    /// use, and ends a joint configuration that is committed.
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

    /// Begins the promotion of a learner that was added to be promoted when it has caught up.
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
        // A refusal is only a delay: the leader tries again after each batch of inputs.
        let _ = self.change_members(shared, &changes);
    }

    /// Returns an error if the learner lacks too many entries to become a voter, or the entry that
    /// made it a learner: without that it may not have received anything yet.
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

    /// Returns whether the replica has answered this leader, the last time within the check-quorum
    /// window.
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
