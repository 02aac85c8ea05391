//! The core's part of the comparison of the replicas' states: proposes marks and reports, or has
//! them forwarded to the leader.

use crate::feature_level::FeatureLevel;
use crate::kv::Batch;
use crate::raft::{ClientRequest, RequestKind};
use crate::types::RequestKey;

use super::Core;

impl Core {
    /// Proposes the mark or the report that is due, if this replica leads; otherwise has a report,
    /// or the wish for a mark, forwarded to the leader.
    pub(super) fn compare_states(&mut self) {
        // Earlier versions do not know these operations.
        if self.replica.feature_level() < FeatureLevel::V0_2 {
            return;
        }
        let leads = self.replica.is_leader();
        let can_act =
            if leads { self.replica.accepts_writes() } else { self.leadership.leader.is_some() };
        if !can_act {
            return;
        }
        while let Some(operation) = self.digest_schedule.next(self.now, self.replica.id(), leads) {
            if leads {
                // No client waits for the entry, so it does not have the key of a request.
                let key = RequestKey::default();
                let payload = Batch::encode(key, false, &[operation]);
                self.append_unless_full(ClientRequest { key, kind: RequestKind::Write, payload });
            } else {
                self.outbound.forwards.push(operation);
            }
        }
    }
}
