//! Safety rules about log writes and hard state: what a replica may write to its disk, and what may
//! become durable.

use super::{KnownEntry, LostDisk, SafetyChecker, position};
use crate::feature_level::FeatureLevel;
use crate::membership::Configuration;
use crate::raft::{AppendJob, HardState, RoleName};
use crate::record::Entry;
use crate::sim::coverage::Situation;
use crate::sim::machine::Machine;
use crate::sim::violation::{Violation, ensure};
use crate::types::{EntryId, Instant, NodeId, Term};

impl SafetyChecker {
    /// Checks that a replica does not vote for another candidate while the leader whose append it
    /// last accepted may still hold a lease.
    fn check_lease_over(
        &self,
        machine: &Machine,
        job: &AppendJob,
        now: Instant,
    ) -> Result<(), Violation> {
        let view = &self.views[machine.slot];
        if let Some(HardState { term, voted_for: Some(candidate) }) = job.hard_state
            && candidate != machine.id
            && let Some((heard_term, heard_at)) = view.leader_heard
            && heard_term < term
            && !self.transfers.contains(&(Term(term.0 - 1), candidate))
        {
            ensure!(
                now.since(heard_at) >= self.election_timeout_min,
                "stable leader: replica {} voted for candidate {candidate} in term {term} only \
                 {:?} after it had accepted an append from the leader of term {heard_term}, which \
                 may still hold a lease",
                machine.id,
                now.since(heard_at)
            );
        }
        Ok(())
    }

    /// Checks a job for the log writer (a log write) against the safety rules for log entries and
    /// votes. `role` is the role of the replica, and `now` the time by its clock.
    pub(in crate::sim) fn on_job(
        &mut self,
        machine: &Machine,
        role: RoleName,
        job: &AppendJob,
        now: Instant,
    ) -> Result<(), Violation> {
        self.check_lease_over(machine, job, now)?;
        self.check_log_write(machine, role, job)?;
        self.check_configuration(machine)
    }

    /// Checks the log entries of an append job.
    fn check_log_write(
        &mut self,
        machine: &Machine,
        role: RoleName,
        job: &AppendJob,
    ) -> Result<(), Violation> {
        let id = machine.id;
        let view = &mut self.views[machine.slot];
        if let Some(last) = job.restart_after {
            let there = self.committed.get(position(last.index)).map(|there| there.id);
            ensure!(
                there == Some(last),
                "log matching: replica {id} reset its log to begin after a snapshot whose last \
                 entry is {last} (index@term), but the committed entry at that index (if any) is \
                 {there:?}"
            );
            let count = position(last.index) + 1;
            view.written.clear();
            view.written.extend(self.committed[..count].iter().map(|there| there.id));
        }
        let Some(first) = job.entries.first() else { return Ok(()) };
        let keep = position(first.index());
        ensure!(
            keep <= view.written.len(),
            "log matching: replica {id} wrote entry {} (index@term) to a log of only {} entries, \
             which leaves a gap",
            first.id(),
            view.written.len()
        );
        if keep < view.written.len() {
            ensure!(
                role != RoleName::Leader || view.role != RoleName::Leader,
                "truncate only at a conflict: leader {id} overwrote entry {} (index@term) in its \
                 own log",
                view.written[keep]
            );
            ensure!(
                first.index() > view.commit_before,
                "truncate only at a conflict: replica {id} overwrote a committed entry with entry \
                 {} (index@term); the replica's commit index was {}",
                first.id(),
                view.commit_before
            );
            ensure!(
                view.written[keep] != first.id(),
                "truncate only at a conflict: replica {id} truncated its log before entry {} \
                 (index@term) without a conflict: it then wrote the same entry again",
                first.id()
            );
            let removed = view.written.drain(keep..);
            let configurations =
                removed.filter(|id| self.configurations.contains_key(id)).count() as u64;
            self.coverage.add(Situation::ConfigurationTruncated, configurations);
        }
        let mut previous = view.written.last().copied().unwrap_or(EntryId::ZERO);
        for entry in &job.entries {
            ensure!(
                entry.index() == previous.index.next() && entry.term() >= previous.term,
                "log matching: replica {id} wrote entry {} directly after entry {previous} \
                 (index@term), but indexes must be consecutive and terms must not decrease",
                entry.id()
            );
            if !self.entries.contains_key(&entry.id()) {
                self.add_entry(machine, entry, previous)?;
            }
            let known = &self.entries[&entry.id()];
            ensure!(
                known.previous == previous && known.record == *entry.record(),
                "log matching: entry {} (index@term) of replica {id} differs from another \
                 replica's entry with the same id, in its content or in the entry before it; the \
                 entry before it is {previous} at replica {id}, and {} at the other replica",
                entry.id(),
                known.previous
            );
            self.views[machine.slot].written.push(entry.id());
            previous = entry.id();
        }
        Ok(())
    }

    /// Records an entry that no replica has written before. A configuration in it must follow from
    /// the previous one, and only one membership change may be in progress.
    fn add_entry(
        &mut self,
        machine: &Machine,
        entry: &Entry,
        previous: EntryId,
    ) -> Result<(), Violation> {
        let before = self.entries.get(&previous).map_or(EntryId::ZERO, |it| it.configuration);
        let mut configuration = before;
        if let Some(next) = entry.configuration() {
            configuration = entry.id();
            self.check_change(machine.id, entry.id(), before, &next)?;
            self.configurations.insert(entry.id(), next);
        }
        if let Some(level) = entry.feature_level() {
            self.check_feature_level(entry.id(), before, level)?;
            self.coverage.add(Situation::LevelRaised, 1);
        }
        let record = entry.record().clone();
        self.entries.insert(entry.id(), KnownEntry { previous, configuration, record });
        Ok(())
    }

    /// Checks that all members support the feature level to which the entry `id` raises the
    /// cluster's level. The members are those of the configuration in the entry `before`, or the
    /// initial members if that is zero.
    fn check_feature_level(
        &self,
        id: EntryId,
        before: EntryId,
        level: FeatureLevel,
    ) -> Result<(), Violation> {
        let members = self.configurations.get(&before).unwrap_or(&self.bootstrap);
        for member in members.members().keys() {
            let own = self.feature_levels.get(member).copied().unwrap_or_default();
            ensure!(
                level <= own,
                "level of all members: entry {id} (index@term) raises the feature level to \
                 {level}, but replica {member} has level {own}"
            );
        }
        Ok(())
    }

    /// Checks the configuration `next` in the entry `id`. The previous configuration is in the
    /// entry `before`, or is the initial one if that is zero.
    fn check_change(
        &mut self,
        leader: NodeId,
        id: EntryId,
        before: EntryId,
        next: &Configuration,
    ) -> Result<(), Violation> {
        let current = self.configurations.get(&before).unwrap_or(&self.bootstrap);
        let is_committed = before == EntryId::ZERO
            || self.committed.get(position(before.index)).is_some_and(|it| it.id == before);
        let first = self.committed.partition_point(|it| it.id.term < id.term);
        let committed_own = self.committed.get(first).is_some_and(|it| it.id.term == id.term);
        ensure!(
            is_committed || !current.is_joint(),
            "joint quorums: leader {leader} appended the configuration {id} (index@term) before \
             the joint one {before} was committed"
        );
        // Joint configurations alone would make this harmless, because both changes need a majority
        // of the same voters. The rule is a second line of defence.
        ensure!(
            committed_own,
            "one change at a time: leader {leader} appended the configuration {id} (index@term) \
             before an entry of its own term was committed"
        );
        ensure!(
            is_committed,
            "one change at a time: leader {leader} appended the configuration {id} (index@term) \
             before the one in {before} was committed"
        );
        let voters = |members: &Configuration| members.voters().collect::<Vec<_>>();
        let follows = if current.is_joint() {
            *next == current.after_joint()
        } else if next.is_joint() {
            next.outgoing().collect::<Vec<_>>() == voters(current)
        } else {
            voters(next) == voters(current)
        };
        let added = next.voters().find(|voter| current.member(*voter).is_none());
        ensure!(
            follows && added.is_none(),
            "joint quorums: leader {leader} appended the configuration {id} (index@term) with {}, \
             which does not follow from {}",
            next,
            current
        );
        let is_removed = current.is_joint() && !next.votes(leader);
        self.coverage.add(Situation::RemovedLeader, u64::from(is_removed));
        Ok(())
    }

    /// Checks the term and vote that a sync has made durable on a replica's disk, and records the
    /// vote.
    pub(in crate::sim) fn on_synced(&mut self, machine: &Machine) -> Result<(), Violation> {
        let hard_state = machine.disk.image().hard_state;
        let view = &mut self.views[machine.slot];
        let before = view.hard_state;
        ensure!(
            hard_state.term > before.term
                || (hard_state.term == before.term
                    && (before.voted_for.is_none() || before.voted_for == hard_state.voted_for)),
            "durable hard state: replica {} lowered its durable term, or changed its durable vote \
             within a term; the term and vote on its disk are now {hard_state:?}, and were \
             {before:?}",
            machine.id
        );
        view.hard_state = hard_state;
        if view.lost_disk.is_some() && hard_state.voted_for == Some(machine.id) {
            view.spent_vote = Some(hard_state.term);
        }
        if let Some(candidate) = hard_state.voted_for
            && (view.spent_vote, candidate) != (Some(hard_state.term), machine.id)
        {
            self.record_vote(hard_state.term, machine.id, candidate)?;
        }
        self.note_rejoined(machine)
    }

    /// If the replica has finished rejoining after a loss, checks that its disk holds all entries
    /// that were committed before the loss, and all that a leader committed later by counting the
    /// lost copy.
    pub(super) fn note_rejoined(&mut self, machine: &Machine) -> Result<(), Violation> {
        let lost_disk = &mut self.views[machine.slot].lost_disk;
        if machine.disk.image().loss.is_some() {
            return Ok(());
        }
        let Some(LostDisk { required, .. }) = lost_disk.take() else { return Ok(()) };
        self.rejoined += 1;
        ensure!(
            required <= machine.snapshots.end()
                || machine.disk.holds(self.committed[position(required)].id),
            "caught up before it counts: replica {} finished rejoining after a loss on its disk, \
             but lacks entry {} (index@term); this entry was committed before the loss, or after \
             it by counting the lost copy",
            machine.id,
            self.committed[position(required)].id
        );
        Ok(())
    }

    /// Records a replica's vote, and checks that the replica has not voted for another candidate in
    /// the same term.
    pub(super) fn record_vote(
        &mut self,
        term: Term,
        voter: NodeId,
        candidate: NodeId,
    ) -> Result<(), Violation> {
        let first = *self.votes.entry((term, voter)).or_insert(candidate);
        ensure!(
            first == candidate,
            "one leader per term: replica {voter} voted twice in term {term}: first for candidate \
             {first}, then for candidate {candidate}"
        );
        Ok(())
    }
}
