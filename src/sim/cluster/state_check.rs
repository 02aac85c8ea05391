//! Comparison of the replicas' states: a fault that changes the state of one replica, and replicas
//! that detect that their own state is wrong.

use super::Cluster;
use super::queue::Event;
use crate::config::Mutant;
use crate::kv::{DatabaseId, DigestResult};
use crate::raft::{ClientRequest, Msg, Replica};
use crate::sim::coverage::Situation;
use crate::sim::disk::folder::Folder;
use crate::sim::violation::{Violation, ensure};
use crate::types::NodeId;

/// Key that no client uses, so no client notices the change.
const CHANGED_KEY: &[u8] = b"changed by a fault";

impl Cluster {
    /// Changes the state of a replica, so that it differs from the others, unless another replica
    /// lacks the right state. Returns whether the state was changed.
    pub fn change_state(&mut self, id: NodeId) -> bool {
        let is_possible = self.rejoining().is_none() && !self.has_changed_state();
        let machine = self.machine_mut(id);
        let runs = machine.replica.is_some() && !machine.state_is_wrong;
        if !is_possible || !runs || machine.disk.folder().is_none() {
            return false;
        }
        machine.store.set_only_here(DatabaseId::FIRST, CHANGED_KEY, b"1", false);
        machine.has_changed_state = true;
        self.coverage.add(Situation::ChangedState, 1);
        true
    }

    /// Returns whether a running replica has a changed state.
    pub fn has_changed_state(&self) -> bool {
        self.machines.iter().any(|machine| machine.has_changed_state)
    }

    /// Delivers an operation that the replica `to` should propose as leader. It is lost if the
    /// replica is down or not the leader.
    ///
    /// # Errors
    /// If a safety rule is violated.
    pub fn deliver_forwarded(
        &mut self,
        to: NodeId,
        request: ClientRequest,
    ) -> Result<(), Violation> {
        let slot = self.slot(to);
        let replica = self.machines[slot].replica.as_ref();
        if replica.is_some_and(Replica::is_leader) {
            self.on_message(slot, Msg::Client(request))?;
        }
        Ok(())
    }

    /// Called after each applied entry: records the digest that the replica has to report, and
    /// stops the replica if a majority of the voters has another state. The folder is then marked,
    /// so that the next start rebuilds the state.
    pub(super) fn compare_states(&mut self, slot: usize) -> Result<(), Violation> {
        let machine = &mut self.machines[slot];
        if let Some(report) = machine.store.take_digest_report() {
            machine.digest_schedule.set_report(report);
        }
        let Some(comparison) = machine.store.compare_digests(&machine.bootstrap) else {
            return Ok(());
        };
        let is_wrong = if machine.config.breaks(Mutant::TrustMinorityDigest) {
            comparison.differing.iter().any(|id| *id != machine.id)
        } else {
            comparison.result == DigestResult::Wrong
                && !machine.config.breaks(Mutant::KeepWrongState)
        };
        if !is_wrong {
            return Ok(());
        }
        ensure!(
            machine.has_changed_state,
            "right states stay: replica {} takes itself out because its state differs from others \
             at the mark at {}, but its state is right",
            machine.id,
            comparison.index
        );
        machine.state_is_wrong = true;
        let marked = machine.disk.files().map(Folder::mark_state_wrong);
        if let Some(Err(error)) = marked {
            self.fail(slot, &error);
            return Ok(());
        }
        self.coverage.add(Situation::WrongState, 1);
        let machine = &self.machines[slot];
        self.trace.note(self.now, format_args!("{} finds its state wrong", machine.id.0));
        self.queue.push(self.now, Event::Stop { slot, incarnation: machine.incarnation });
        Ok(())
    }
}
