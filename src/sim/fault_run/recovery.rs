//! The second phase of a simulated run with faults: faults end for a majority of replicas, which
//! must then make progress; at the end come the final checks.

use std::time::Duration;

use super::injection::names;
use super::{FaultRun, Sent};
use crate::sim::checkers::linearizability;
use crate::sim::cluster::ClientProtocol;
use crate::sim::cluster::network::LinkQuality;
use crate::sim::faults::Plan;
use crate::sim::keys::{ACCOUNT_START, is_account};
use crate::sim::machine::Delays;
use crate::sim::rng::DurationRange;
use crate::sim::violation::{Violation, ensure};
use crate::types::RequestKey;

/// A chunk size in bytes that is larger than any snapshot of a run, so that one chunk holds a whole
/// snapshot.
const WHOLE_SNAPSHOT_BYTES: usize = 1 << 20;

impl FaultRun {
    /// Starts the recovery phase: ends the faults for at least a majority of the replicas. The
    /// other replicas crash, are isolated, or keep their faults except for the cut links to the
    /// majority. In the last case, one of these other replicas may stay leader, so the whole
    /// majority must be able to reach it.
    pub(super) fn begin_recovery(&mut self) -> Result<(), Violation> {
        let mut ids = self.plan.ids.clone();
        self.rng.shuffle(&mut ids);
        let majority = ids.len() / 2 + 1;
        if !self.plan.witnesses.is_empty() && self.rng.permille(500) {
            // In many runs without the replica that has the longest log.
            let leader = self.cluster.leader();
            ids.sort_by_key(|id| Some(*id) == leader);
        }
        // A rejoining replica needs answers from all other replicas. While the members change, any
        // replica may be needed for a quorum; while a state is wrong, for a majority that has the
        // right state.
        let needs_all = self.cluster.rejoining().is_some()
            || self.changes_members()
            || self.cluster.has_changed_state();
        let mut rest = if needs_all {
            Vec::new()
        } else {
            ids.split_off(majority + self.rng.index(ids.len() - majority + 1))
        };
        if !self.can_recover(&ids) {
            ids.append(&mut rest);
        }
        ids.sort_unstable();
        self.note(format_args!("faults end for {}", names(&ids)));
        self.majority = Some(ids.clone());
        self.recovery_start = self.cluster.now();
        // A replica outside the majority may stay leader. The message loss is limited, because
        // recovery could otherwise exceed its time limit.
        let loss_permille = self.plan.quality.loss_permille.min(150);
        // No message is delayed by several election timeouts: otherwise the leader could wait as
        // long for each reply.
        let quality =
            LinkQuality { loss_permille, burst_permille: 0, late_permille: 0, ..self.plan.quality };
        self.network.set_quality(quality);
        let clean = clean_quality(&self.plan);
        for &from in &ids {
            for &to in ids.iter().filter(|&&to| to != from) {
                self.network.heal_link(from, to);
                self.network.set_link_quality(from, to, clean);
            }
        }
        let fate_of_rest = self.rng.below(3);
        self.others_connected = fate_of_rest > 1 && !rest.is_empty();
        for &id in &rest {
            match fate_of_rest {
                0 if self.cluster.machine(id).replica.is_some() => self.cluster.crash(id),
                1 => self.network.part(&[vec![id], ids.clone()]),
                _ => {
                    for &to in &ids {
                        self.network.heal_link(id, to);
                        self.network.heal_link(to, id);
                    }
                }
            }
        }
        self.workload.stop(&ids);
        for id in self.plan.ids.clone() {
            // With a leader outside the majority, one chunk or reply in three may be lost: too many
            // for a snapshot of a hundred small chunks.
            if let Some(plan) = &mut self.cluster.machine_mut(id).snapshots.plan {
                plan.chunk_bytes = WHOLE_SNAPSHOT_BYTES;
            }
        }
        for id in ids {
            let machine = self.cluster.machine_mut(id);
            machine.delays = Delays { sync: fast(machine.delays.sync), ..self.plan.delays };
            machine.stalled = None;
            machine.disk.end_faults();
            if machine.replica.is_none() {
                self.restart(id)?;
                ensure!(
                    self.cluster.machine(id).replica.is_some(),
                    "recovery: replica {id} does not start although its disk has no faults"
                );
            } else if machine.held.all {
                self.cluster.resume(id)?;
            }
        }
        Ok(())
    }

    /// Runs the cluster until the majority has answered all requests, agrees on the log, and has
    /// answered one more write and read. Fails if this takes too long.
    pub(super) fn await_progress(&mut self) -> Result<(), Violation> {
        // A leader that loses messages takes longer.
        let end = self.cluster.now()
            + self.plan.recovery_timeout()
                * if self.others_connected || self.changes_members() { 3 } else { 1 };
        let mut probed = false;
        loop {
            self.give_up_lost_requests();
            if self.changes_members() {
                self.remove_refused_member()?;
            }
            if self.workload.waiting().next().is_none()
                && !self.workload.has_plans()
                && self.overdue_request().is_none()
                && self.disagreement().is_none()
            {
                if probed {
                    break;
                }
                probed = true;
                self.workload.probe(&mut self.actions);
                self.perform_actions();
            }
            let next = (self.cluster.now() + Duration::from_millis(20)).min(end);
            self.run_until(next)?;
            self.cluster.skip_to(next);
            if next == end {
                return Err(self.no_progress(probed));
            }
        }
        Ok(())
    }

    fn no_progress(&self, probed: bool) -> Violation {
        let waiting: Vec<_> =
            self.workload.waiting().map(|key| (key, self.sent[&key].to)).collect();
        let statuses: Vec<String> = self
            .cluster
            .machines()
            .iter()
            .filter_map(|machine| Some(format!("{:?}", machine.replica.as_ref()?.status())))
            .collect();
        Violation(format!(
            "progress: no progress {:?} after the faults ended{}\n  requests that clients wait \
             for: {waiting:?}\n  request that a replica must answer: {:?}\n  agreement: {}\n  \
             replicas:\n  {}",
            self.cluster.now().since(self.recovery_start),
            if probed { ": the last write and read are not answered" } else { "" },
            self.overdue_request().map(|key| (key, self.sent[&key])),
            self.disagreement().unwrap_or_else(|| "all replicas of the majority agree".to_owned()),
            statuses.join("\n  ")
        ))
    }

    /// Makes clients give up requests that were lost in a replica's crash. Needed only with the
    /// course's protocol, in which requests are not resent.
    fn give_up_lost_requests(&mut self) {
        if self.plan.protocol == ClientProtocol::Connection {
            return;
        }
        let is_lost = |key: &RequestKey| {
            let Sent { to, at, .. } = self.sent[key];
            let long_ago = self.cluster.now().since(at) > self.plan.load.timeout.max;
            !self.must_be_answered(*key) && (long_ago || self.cluster.machine(to).replica.is_none())
        };
        let lost: Vec<_> = self.workload.waiting().filter(is_lost).collect();
        for key in lost {
            self.workload.give_up(key, &mut self.actions);
        }
        self.perform_actions();
    }

    /// Returns whether the request was last sent to a replica of the majority that has not crashed
    /// since, so that this replica must answer it.
    fn must_be_answered(&self, key: RequestKey) -> bool {
        let majority = self.majority.as_ref().expect("only called in the recovery phase");
        let Sent { to, incarnation, .. } = self.sent[&key];
        majority.contains(&to) && self.cluster.machine(to).incarnation() == incarnation
    }

    /// Returns an unanswered request, possibly abandoned by its client, that a replica of the
    /// majority must answer; `None` if there is none. Always `None` with the Redis protocol, in
    /// which clients resend requests.
    fn overdue_request(&self) -> Option<RequestKey> {
        let mut unanswered = self.workload.unanswered();
        unanswered
            .find(|&key| self.plan.protocol == ClientProtocol::Course && self.must_be_answered(key))
    }

    /// Returns a description of how the logs or states of the majority's replicas still differ;
    /// `None` if they agree.
    pub(super) fn disagreement(&self) -> Option<String> {
        let majority = self.majority.as_ref().expect("only called in the recovery phase");
        let members = if self.changes_members() {
            match self.final_members() {
                Ok(members) => members,
                Err(why) => return Some(why),
            }
        } else {
            majority.clone()
        };
        if let Some(leader) = self.cluster.leader()
            && self.cluster.machine(leader).config.is_witness
        {
            return Some(format!("replica {leader} leads, but is a witness"));
        }
        let (mut seen, mut seen_digest) = (None, None);
        for id in members {
            let machine = self.cluster.machine(id);
            if machine.disk.is_rejoining() {
                return Some(format!("replica {id} has not rejoined"));
            }
            let Some(replica) = &machine.replica else {
                return Some(format!("replica {id} is down"));
            };
            let status = replica.status();
            // A witness has no state to compare.
            let digest = (!machine.config.is_witness).then(|| machine.store.digest());
            if status.commit_index != status.last.index
                || machine.store.applied_index() != status.last.index
                || *seen.get_or_insert(status.last) != status.last
                || digest.is_some() && *seen_digest.get_or_insert(digest) != digest
            {
                return Some(format!(
                    "replica {id} has not committed and applied its whole log, or differs from \
                     another"
                ));
            }
        }
        None
    }

    /// Checks, at the end of a run, the sum of all account balances and the linearizability of the
    /// clients' history.
    pub(super) fn check_history(&self) -> Result<(), Violation> {
        let accounts = self.cluster.client_model.count(is_account);
        let sum = self.cluster.client_model.sum(is_account);
        ensure!(
            sum == accounts * ACCOUNT_START,
            "atomic transfers: {accounts} accounts hold {sum} together, their initial sum is {}",
            accounts * ACCOUNT_START
        );
        let result = self.workload.history().check(linearizability::STEPS_MAX);
        result.map_err(|error| Violation(format!("linearizability: {error}")))
    }
}

/// Returns the quality of links within the majority in the recovery phase: no message loss, and
/// short delays.
pub(super) fn clean_quality(plan: &Plan) -> LinkQuality {
    let delay_min = plan.quality.delay_min;
    LinkQuality { delay_min, delay_max: delay_min * 3, ..LinkQuality::perfect(delay_min) }
}

fn fast(pace: DurationRange) -> DurationRange {
    DurationRange {
        min: pace.min.min(Duration::from_millis(1)),
        max: pace.max.min(Duration::from_millis(2)),
    }
}
