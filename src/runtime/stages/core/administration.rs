//! Administrative requests: leadership transfers and membership changes.
//!
//! A membership change is answered when its configuration is committed, so no later leader can lack
//! it. Until then, a leader change may discard the configuration.

use crate::membership::{ChangePlan, ChangeRefusal, MemberChange};
use crate::redis::{AdminAnswer, AdminRequest, MembersOutcome};
use crate::runtime::channels::{AdminCall, AdminCaller};
use crate::types::EntryId;

use super::Core;

/// A membership change whose configuration is in the leader's log, but not committed yet.
#[derive(Debug)]
pub(super) struct StartedChange {
    caller: AdminCaller,
    /// Id of the entry with the configuration.
    id: EntryId,
    plan: Box<ChangePlan>,
}

impl Core {
    /// Carries out an administrative request, or refuses it.
    pub(super) fn administer(&mut self, AdminCall { caller, request }: AdminCall) {
        let answer = match request {
            AdminRequest::Transfer(request) => {
                AdminAnswer::Transfer(self.replica.request_transfer(self.now, request))
            }
            AdminRequest::ChangeMembers { changes, dry_run } => {
                // A new change can start only after the previous one.
                self.answer_change();
                match self.change_members(changes, dry_run) {
                    Ok((plan, Some(id))) => {
                        self.started_change = Some(StartedChange { caller, id, plan });
                        return;
                    }
                    Ok((plan, None)) => AdminAnswer::Members(MembersOutcome::Planned(plan)),
                    Err(refusal) => AdminAnswer::Members(MembersOutcome::Refused(refusal)),
                }
            }
        };
        self.outbound.answers.push((caller, answer));
    }

    /// Plans a membership change and starts it, unless it is a dry run. Returns the plan and the id
    /// of the entry with its first configuration; `None` for a dry run.
    fn change_members(
        &mut self,
        mut changes: Vec<MemberChange>,
        dry_run: bool,
    ) -> Result<(Box<ChangePlan>, Option<EntryId>), ChangeRefusal> {
        // The network stage, which adds addresses, may not know the latest members.
        let (_, configuration) = self.replica.configuration();
        changes.retain(|change| {
            let is_address = matches!(change, MemberChange::SetAddress { .. });
            !is_address || configuration.member(change.id()).is_some()
        });
        let plan = Box::new(self.replica.plan_change(&changes)?);
        if dry_run {
            return Ok((plan, None));
        }
        let id = self.replica.change_members(self.now, &changes)?;
        tracing::info!(index = %id.index, ?changes, "membership change started");
        Ok((plan, Some(id)))
    }

    /// Answers the started membership change once its configuration is committed, or once this
    /// replica is no longer the leader that started it.
    pub(super) fn answer_change(&mut self) {
        let Some(StartedChange { id, .. }) = &self.started_change else { return };
        let leads = self.replica.is_leader() && self.replica.term() == id.term;
        if leads && self.replica.commit_index() < id.index {
            return;
        }
        let Some(StartedChange { caller, id, plan }) = self.started_change.take() else { return };
        let outcome = if leads {
            MembersOutcome::Committed(id.index, plan)
        } else {
            MembersOutcome::Uncertain
        };
        self.outbound.answers.push((caller, AdminAnswer::Members(outcome)));
    }
}
