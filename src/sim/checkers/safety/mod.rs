//! Safety rules of the consensus core, checked after every step over all replicas: what they send,
//! write, commit and apply must be consistent. Each violation starts with the name of its rule; the
//! guide's page on guarantees lists most of them.
//!
//! The checks are incremental: the cost of a step is proportional to what it changed. For log
//! matching, one table maps the id of each entry to its bytes and to the id of the entry before it.
//! If every log agrees with the table, two logs that have the same entry id at an index are equal
//! up to that index.
//!
//! A replica that lost its disk, or a part of its log, must keep its earlier promises as far as
//! rejoining guarantees them. Until it has rejoined, it grants no votes. If it voted for another
//! candidate before the loss, it acknowledges nothing to leaders of earlier terms than that vote.
//! Once it has rejoined, its disk holds all entries that were committed when the old disk was lost,
//! and those that were committed later by counting the copy on the lost disk.

mod log_writes;
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use crate::config::Config;
use crate::feature_level::FeatureLevel;
use crate::membership::Configuration;
use crate::raft::{Durable, HardState, LogStart, Loss, Replica, RoleName, Status};
use crate::sim::coverage::{Coverage, Situation};
use crate::sim::disk::LostLog;
use crate::sim::machine::Machine;
use crate::sim::violation::{Violation, ensure};
use crate::types::{EntryId, Index, Instant, NodeId, Round, Term};

/// Checks the consensus rules in a simulated run, and keeps a record of what all replicas have
/// sent, written, committed and applied, to compare it with later steps.
#[derive(Debug)]
pub struct SafetyChecker {
    /// Whether a leader may send its followers a commit index only after it has answered the
    /// clients' requests up to that index (a rule of the university course's protocol).
    commit_index_after_replies: bool,
    election_timeout_min: Duration,
    /// The members with which the cluster was created.
    bootstrap: Configuration,
    /// All membership configurations that were ever in a replica's log, by the id of their entry.
    configurations: BTreeMap<EntryId, Configuration>,
    /// Number of times that the run reached each situation concerning membership changes.
    coverage: Coverage,
    /// For each replica, the feature level of the program that it has run since its latest start.
    feature_levels: BTreeMap<NodeId, FeatureLevel>,
    /// The leader elected in each term.
    leaders: BTreeMap<Term, NodeId>,
    /// Leadership transfers so far: the term of the old leader, and the id of the replica that is
    /// to become leader.
    transfers: BTreeSet<(Term, NodeId)>,
    /// The vote of each replica in each term, as seen in messages or on disk.
    votes: BTreeMap<(Term, NodeId), NodeId>,
    /// Every entry that was ever in any replica's log, by its id (index and term).
    entries: HashMap<EntryId, KnownEntry, FixedState>,
    /// The committed entries; the entry with index 1 is at position 0.
    committed: Vec<Committed>,
    /// The message rounds (numbered batches of a leader's messages) sent so far, one element per
    /// receiver: the leader's term, the round number and the receiver.
    rounds_begun: HashSet<(Term, Round, NodeId), FixedState>,
    views: Vec<View>,
    /// Number of times that a replica has finished rejoining after losing its disk.
    rejoined: u64,
}

/// An entry that the checker has seen in some replica's log.
#[derive(Debug)]
struct KnownEntry {
    /// Id (index and term) of the entry just before this one in the log.
    previous: EntryId,
    /// Id of the last entry with a configuration, up to and including this entry; zero if there is
    /// none.
    configuration: EntryId,
    record: Bytes,
}

/// An entry that some leader has committed.
#[derive(Debug)]
struct Committed {
    id: EntryId,
    /// Term of the leader that was the first to commit the entry.
    by_term: Term,
    /// Digest of the state machine just after this entry was applied; `None` until a replica has
    /// applied it.
    digest: Option<u64>,
}

/// What the checker has observed of one replica. When the replica restarts, the fields that
/// describe the content of its memory are reset.
#[derive(Debug)]
struct View {
    role: RoleName,
    term: Term,
    commit_index: Index,
    /// The replica's commit index before its last step. A log write of the step may only replace
    /// entries after this index.
    commit_before: Index,
    applied_index: Index,
    /// Ids of the log entries that the replica has handed to its log writer, whether durable or
    /// not.
    written: Vec<EntryId>,
    hard_state: HardState,
    /// The leader's term and the time, by the replica's clock, of the last append that the replica
    /// accepted; `None` if it has accepted none since its start.
    leader_heard: Option<(Term, Instant)>,
    /// The latest term in which the replica has acknowledged log entries, and the highest index
    /// that it has acknowledged in this term.
    acknowledged: (Term, Index),
    /// The term in which the replica, while rejoining after a disk loss, last voted for itself only
    /// to use up its vote; `None` if it has not done so.
    spent_vote: Option<Term>,
    /// The state of the disk that the replica lost; `None` if it has lost no disk, or has finished
    /// rejoining since.
    lost_disk: Option<LostDisk>,
    /// The message rounds (numbered batches of a leader's messages) that the replica has received:
    /// the leader's term and the round number.
    rounds_received: HashSet<(Term, Round), FixedState>,
}

/// A disk, or part of one, that a replica lost: its log, and the index up to which the replica must
/// have all entries again before it may vote.
#[derive(Clone, Debug)]
struct LostDisk {
    /// Ids of the entries that were durable before the loss, and before each earlier one that the
    /// replica had not recovered from.
    logs: Vec<Vec<EntryId>>,
    /// Index of the last entry that was committed before the disk was lost, or that a leader
    /// committed later by counting the copy on the lost disk. The replica may vote again only once
    /// it has all entries up to this index.
    required: Index,
}

impl LostDisk {
    fn holds(&self, id: EntryId) -> bool {
        let holds = |log: &Vec<EntryId>| log.get(position(id.index)) == Some(&id);
        id.index > Index::ZERO && self.logs.iter().any(holds)
    }
}

impl View {
    fn new() -> View {
        View {
            role: RoleName::Follower,
            term: Term::default(),
            commit_index: Index::ZERO,
            commit_before: Index::ZERO,
            applied_index: Index::ZERO,
            written: Vec::new(),
            hard_state: HardState::default(),
            leader_heard: None,
            acknowledged: (Term::default(), Index::ZERO),
            spent_vote: None,
            lost_disk: None,
            rounds_received: HashSet::default(),
        }
    }
}

/// Returns whether the replicas for which `holds` is true are a majority of the voters; in a joint
/// configuration, of the old voters and of the new ones.
fn is_quorum(members: &Configuration, holds: impl Fn(NodeId) -> bool) -> bool {
    let is_majority =
        |voters: Vec<NodeId>| 2 * voters.iter().filter(|id| holds(**id)).count() > voters.len();
    is_majority(members.voters().collect())
        && (!members.is_joint() || is_majority(members.outgoing().collect()))
}

fn position(index: Index) -> usize {
    usize::try_from(index.0 - 1).expect("fits in memory")
}

impl SafetyChecker {
    /// Creates a safety checker for `replicas` replicas, of which `members` are the members with
    /// which the cluster is created.
    pub fn new(replicas: usize, members: &[NodeId], config: &Config) -> SafetyChecker {
        SafetyChecker {
            commit_index_after_replies: config.commit_index_after_replies,
            election_timeout_min: config.election_timeout_min,
            bootstrap: Configuration::of_voters(members.iter().copied()),
            configurations: BTreeMap::new(),
            coverage: Coverage::default(),
            feature_levels: BTreeMap::new(),
            leaders: BTreeMap::new(),
            transfers: BTreeSet::new(),
            votes: BTreeMap::new(),
            entries: HashMap::default(),
            committed: Vec::new(),
            rounds_begun: HashSet::default(),
            views: (0..replicas).map(|_| View::new()).collect(),
            rejoined: 0,
        }
    }

    /// Records which replicas are witnesses, if they are members.
    pub(in crate::sim) fn set_witnesses(&mut self, witnesses: &[NodeId]) {
        let members: Vec<NodeId> = self.bootstrap.members().keys().copied().collect();
        self.bootstrap = Configuration::of_members(members, witnesses);
    }

    /// Checks where the log of a witness will begin by the witness's own decision: the entries
    /// before that point must be committed, and those after it must have at least half of the size
    /// limit of its log.
    pub(in crate::sim) fn on_log_start(
        &self,
        machine: &Machine,
        start: &LogStart,
    ) -> Result<(), Violation> {
        let replica = machine.replica.as_ref().expect("a replica that took a step");
        let rest = replica.log().tail(start.last.index.next());
        let bytes: usize = rest.iter().map(|entry| entry.record().len()).sum();
        ensure!(
            start.last.index <= self.commit_index()
                && self.committed[position(start.last.index)].id == start.last,
            "witnesses keep the latest entries: witness {} drops its log up to {}, but only {} is \
             committed",
            machine.id,
            start.last,
            self.commit_index()
        );
        ensure!(
            bytes >= machine.config.witness_log_bytes_max / 2,
            "witnesses keep the latest entries: the log of witness {} has only {bytes} bytes after \
             {}, and may have {}",
            machine.id,
            start.last,
            machine.config.witness_log_bytes_max
        );
        Ok(())
    }

    /// Returns whether a replica contains the committed entry at `index`, in its log or in its
    /// snapshot.
    pub(in crate::sim) fn has_committed(&self, machine: &Machine, index: Index) -> bool {
        index <= machine.snapshots.end() || machine.disk.holds(self.committed[position(index)].id)
    }

    /// Returns the highest index that any leader has committed.
    pub fn commit_index(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// Returns the number of leadership transfers so far.
    pub fn transfer_count(&self) -> usize {
        self.transfers.len()
    }

    /// Returns the number of times that a replica has finished rejoining after losing its disk.
    pub fn rejoined(&self) -> u64 {
        self.rejoined
    }

    /// Returns the number of terms that have had a leader so far.
    pub fn leader_count(&self) -> usize {
        self.leaders.len()
    }

    /// Records that the replica of `machine`, which is down, has lost its disk.
    ///
    /// # Errors
    /// If the replica had finished rejoining after an earlier disk loss, but its disk lacks an
    /// entry that it must hold.
    pub(in crate::sim) fn on_disk_lost(&mut self, machine: &Machine) -> Result<(), Violation> {
        // The sync that made it a member again may have been its last step before a crash.
        self.note_rejoined(machine)?;
        let lost_disk = &self.views[machine.slot].lost_disk;
        assert!(lost_disk.is_none(), "replica {} lost its disk while rejoining", machine.id);
        let log =
            self.durable_log(machine.disk.image(), machine.disk.base(), machine.snapshots.end());
        self.note_loss(machine, log, Loss::Votes);
        Ok(())
    }

    /// Records that a replica repaired its folder at its start, and checks the rest of its log.
    /// `before` is the durable log before the repair, and `snapshot_end` the end of the snapshot at
    /// that time.
    ///
    /// # Errors
    /// If the rest contains an entry that was never in the log.
    pub(in crate::sim) fn on_repaired(
        &mut self,
        machine: &Machine,
        before: &LostLog,
        snapshot_end: Index,
    ) -> Result<(), Violation> {
        let log = self.durable_log(&before.image, before.base, snapshot_end);
        let image = machine.disk.image();
        let loss = image.loss.expect("a repaired replica is rejoining");
        self.note_loss(machine, log, loss);
        let mut previous = machine.disk.base();
        for entry in &image.entries {
            let known = self.entries.get(&entry.id());
            let is_kept = known.is_some_and(|known| known.record == *entry.record())
                && (previous == machine.disk.base()
                    || known.is_some_and(|known| known.previous == previous));
            ensure!(
                is_kept,
                "log matching: the repaired log of replica {} has the entry {} (index@term) after \
                 {previous}, which no log had",
                machine.id,
                entry.id()
            );
            previous = entry.id();
        }
        Ok(())
    }

    /// Returns the ids of all entries in a durable log, including those covered by the snapshot
    /// that ends at `snapshot_end`.
    fn durable_log(&self, image: &Durable, base: EntryId, snapshot_end: Index) -> Vec<EntryId> {
        let base = usize::try_from(base.index.0).expect("fits in memory");
        let mut log: Vec<EntryId> = self.committed[..base].iter().map(|there| there.id).collect();
        log.extend(image.entries.iter().map(crate::record::Entry::id));
        // A log without the last entry of the snapshot would have restarted after the snapshot.
        let end = usize::try_from(snapshot_end.0).expect("fits in memory");
        let known = self.committed[..end].iter().map(|there| there.id);
        if log.get(..end).and_then(<[EntryId]>::last) != known.clone().next_back().as_ref() {
            log = known.collect();
        }
        log
    }

    /// Records that a replica lost all or part of `log`. If it lost its votes, this checker forgets
    /// them, too, except in terms in which the replica became leader: in other terms, it may vote
    /// for another candidate after rejoining.
    fn note_loss(&mut self, machine: &Machine, log: Vec<EntryId>, kind: Loss) {
        let required = self.commit_index();
        let view = &mut self.views[machine.slot];
        let mut logs = view.lost_disk.take().map(|lost_disk| lost_disk.logs).unwrap_or_default();
        logs.push(log);
        view.lost_disk = Some(LostDisk { logs, required });
        if kind == Loss::Entries {
            return;
        }
        view.hard_state = HardState::default();
        let leaders = &self.leaders;
        self.votes.retain(|&(term, voter), candidate| {
            voter != machine.id
                || *candidate != machine.id
                || leaders.get(&term) == Some(&machine.id)
        });
    }

    /// Handles the start of a replica: forgets what was only in its memory, and checks that the
    /// term on its disk is not lower than the term that was durable.
    pub(in crate::sim) fn on_start(&mut self, machine: &Machine) -> Result<(), Violation> {
        self.feature_levels.insert(machine.id, machine.config.feature_level);
        let view = &mut self.views[machine.slot];
        let image = machine.disk.image();
        let durable = view.hard_state;
        ensure!(
            image.hard_state.term >= durable.term,
            "durable hard state: replica {} restarted with term {}, but the durable term on its \
             disk was {} before the restart",
            machine.id,
            image.hard_state.term,
            durable.term
        );
        // Acknowledgements sent before the restart may still be in flight, and stay valid.
        *view = View {
            acknowledged: view.acknowledged,
            spent_vote: view.spent_vote,
            lost_disk: view.lost_disk.take(),
            ..View::new()
        };
        view.hard_state = image.hard_state;
        let base = usize::try_from(machine.disk.base().index.0).expect("fits in memory");
        view.written.extend(self.committed[..base].iter().map(|there| there.id));
        view.written.extend(image.entries.iter().map(crate::record::Entry::id));
        // All entries in its snapshot are committed and applied.
        let snapshot = machine.replica.as_ref().map_or(Index::ZERO, Replica::commit_index);
        (view.commit_index, view.commit_before, view.applied_index) =
            (snapshot, snapshot, snapshot);
        if view.lost_disk.is_some() && image.hard_state.voted_for == Some(machine.id) {
            view.spent_vote = Some(image.hard_state.term);
        }
        self.check_configuration(machine)?;
        self.note_rejoined(machine)
    }

    /// Records that the machine at index `slot` accepted an append from the leader of `term`. `now`
    /// is the time by the machine's clock.
    pub(in crate::sim) fn on_append_accepted(&mut self, slot: usize, now: Instant, term: Term) {
        self.views[slot].leader_heard = Some((term, now));
    }

    /// Checks a replica after a step: its term and its commit, applied and durable indexes; on a
    /// leader, also its election and its peers' match indexes.
    pub(in crate::sim) fn after_step(
        &mut self,
        machines: &[Machine],
        slot: usize,
        status: &Status,
    ) -> Result<(), Violation> {
        let machine = &machines[slot];
        let replica = machine.replica.as_ref().expect("a replica that took a step");
        let id = machine.id;
        let (was_role, was_term, was_commit, was_applied) = {
            let view = &self.views[slot];
            (view.role, view.term, view.commit_index, view.applied_index)
        };
        ensure!(
            status.term >= was_term,
            "durable hard state: the term of replica {id} decreased from {was_term} to {}",
            status.term
        );
        ensure!(
            status.commit_index >= was_commit && status.applied_index >= was_applied,
            "log indexes: the commit index or the applied index of replica {id} decreased; before, \
             they were {was_commit} and {was_applied}, and now they are {} and {}",
            status.commit_index,
            status.applied_index
        );
        ensure!(
            status.counters.malformed == 0,
            "well-formed messages: replica {id} rejected a message as malformed"
        );
        ensure!(
            status.applied_index <= status.commit_index
                && status.commit_index <= status.last.index
                && status.durable_index <= status.last.index,
            "log indexes: at replica {id}, the applied index exceeds the commit index, or the \
             commit index or the durable index exceeds the index of the last entry; the replica's \
             status is {status:?}"
        );
        let durable_there = machine.disk.id_at(status.durable_index);
        // The snapshot may cover the durable index before the log on disk is reset to begin after
        // it.
        let in_snapshot = status.durable_index <= machine.snapshots.end();
        ensure!(
            in_snapshot
                || durable_there
                    .is_some_and(|there| replica.log().term_at(there.index) == Some(there.term)),
            "durable acknowledgement: replica {id} reports the durable index {}, but the entry at \
             that index is missing on its disk or differs from the entry in its memory; the entry \
             on its disk (index@term, if any) is {durable_there:?}",
            status.durable_index
        );
        let campaigns = matches!(status.role, RoleName::PreCandidate | RoleName::Candidate);
        ensure!(
            !campaigns
                || (status.role, status.term) == (was_role, was_term)
                || self.may_lead(machine),
            "learners count for nothing: replica {id} campaigns in term {}, but is no voter; its \
             members are {}",
            status.term,
            replica.configuration().1
        );
        if status.role == RoleName::Leader {
            if was_role != RoleName::Leader || status.term != was_term {
                self.on_elected(machines, slot, status)?;
            }
            self.check_progress(machines, slot, status)?;
        }
        if status.commit_index > was_commit {
            self.on_commit(machines, slot, status)?;
        }
        let view = &mut self.views[slot];
        view.role = status.role;
        view.term = status.term;
        view.commit_before = view.commit_index;
        view.commit_index = status.commit_index;
        view.applied_index = status.applied_index;
        Ok(())
    }

    /// Checks a newly elected leader: it must be the only leader of its term, be elected by a
    /// quorum, and have all entries that were committed in earlier terms.
    fn on_elected(
        &mut self,
        machines: &[Machine],
        slot: usize,
        status: &Status,
    ) -> Result<(), Violation> {
        let (id, term) = (status.id, status.term);
        let first = *self.leaders.entry(term).or_insert(id);
        ensure!(
            first == id,
            "one leader per term: replicas {first} and {id} are both leaders of term {term}"
        );
        let members = self.configuration_of(slot);
        // A single replica elects itself while its vote is still being written.
        let is_alone = members.voters().chain(members.outgoing()).all(|voter| voter == id);
        let votes = |voter: NodeId| is_alone || self.votes.get(&(term, voter)) == Some(&id);
        ensure!(
            is_quorum(members, votes),
            "majority quorum: replica {id} became leader of term {term} without the votes of a \
             quorum; its members are {}",
            members
        );
        ensure!(
            self.may_lead(&machines[slot]),
            "learners count for nothing: replica {id} became leader of term {term}, but is no \
             voter; its members are {}",
            members
        );
        let (is_new, is_joint) = (!self.bootstrap.votes(id), members.is_joint());
        self.coverage.add(Situation::NewMemberLeads, u64::from(is_new));
        self.coverage.add(Situation::InheritedJoint, u64::from(is_joint));
        let is_witness = machines[slot].config.is_witness;
        self.coverage.add(Situation::WitnessLeads, u64::from(is_witness));
        // Entries committed by leaders of later terms may be missing.
        let length = self.committed.partition_point(|entry| entry.by_term < term);
        if let Some(last) = self.committed[..length].last() {
            let log = machines[slot].replica.as_ref().expect("the leader runs").log();
            let there = log.term_at(last.id.index);
            ensure!(
                there == Some(last.id.term) || last.id.index < log.base().index,
                "election restriction: replica {id} became leader of term {term} without the \
                 committed entry {} (index@term); the term of its own entry at that index (if any) \
                 is {there:?}",
                last.id
            );
        }
        Ok(())
    }

    /// Checks a leader's match indexes: each peer must have acknowledged its log up to its match
    /// index in the leader's term. While the peer is in the leader's term, its disk must also hold
    /// the entries up to the match index.
    fn check_progress(
        &self,
        machines: &[Machine],
        slot: usize,
        status: &Status,
    ) -> Result<(), Violation> {
        let log = machines[slot].replica.as_ref().expect("the leader runs").log();
        for peer in &status.peers {
            ensure!(
                peer.match_index < peer.next_index && peer.match_index <= status.last.index,
                "log indexes: at leader {}, the match index of peer {} is not below its next \
                 index, or exceeds the index of the leader's last entry; the leader's status of \
                 the peer is {peer:?}",
                status.id,
                peer.id
            );
            let Some(machine) = machines.iter().find(|machine| machine.id == peer.id) else {
                continue;
            };
            let (term, index) = self.views[machine.slot].acknowledged;
            let acknowledged = if term < status.term { Index::ZERO } else { index };
            ensure!(
                term > status.term || peer.match_index <= acknowledged,
                "durable acknowledgement: leader {} of term {} has match index {3} for peer {2}, \
                 which has acknowledged the leader's log only up to index {acknowledged} in this \
                 term",
                status.id,
                status.term,
                peer.id,
                peer.match_index
            );
            // The entries up to this index are in a snapshot, so they are committed and equal
            // everywhere.
            let known = machine.snapshots.end().max(status.base.index);
            // The entries of a lost disk are missing until the replica has rejoined.
            let is_lost = self.views[machine.slot].lost_disk.as_ref().is_some_and(|lost_disk| {
                log.term_at(peer.match_index)
                    .is_some_and(|term| lost_disk.holds(EntryId { term, index: peer.match_index }))
            });
            if !is_lost
                && machine.disk.image().hard_state.term <= status.term
                && peer.match_index > known
            {
                let there = machine.disk.id_at(peer.match_index).map(|id| id.term);
                ensure!(
                    there == log.term_at(peer.match_index),
                    "durable acknowledgement: leader {} of term {} has match index {3} for peer \
                     {2}, but the entry at that index on the peer's disk is missing or differs \
                     from the leader's entry; the term of the entry on the peer's disk (if any) is \
                     {there:?}",
                    status.id,
                    status.term,
                    peer.id,
                    peer.match_index
                );
            }
        }
        Ok(())
    }

    /// Checks the commit index of a replica after it has advanced, and records newly committed
    /// entries.
    fn on_commit(
        &mut self,
        machines: &[Machine],
        slot: usize,
        status: &Status,
    ) -> Result<(), Violation> {
        let view = &self.views[slot];
        let log = machines[slot].replica.as_ref().expect("a replica that took a step").log();
        let id = status.id;
        let id_at = |index: Index| log.term_at(index).map(|term| EntryId { term, index });
        let known_before = self.commit_index();
        let mut index = view.commit_index;
        while index < status.commit_index.min(known_before) {
            index = index.next();
            let canonical = self.committed[position(index)].id;
            ensure!(
                id_at(index) == Some(canonical) || index < log.base().index,
                "log matching: replica {id} committed the entry {:?} at an index at which the \
                 entry {canonical} (index@term) had been committed before",
                id_at(index)
            );
        }
        if status.commit_index <= known_before {
            return Ok(());
        }
        // Only a leader may decide that an entry is newly committed, by counting durable copies. It
        // may have stepped down within the same step.
        let term = if status.role == RoleName::Leader { status.term } else { view.term };
        let was_leader = status.role == RoleName::Leader || view.role == RoleName::Leader;
        ensure!(
            was_leader,
            "log indexes: {} {id} has commit index {}, but no leader has committed entries beyond \
             index {known_before}",
            format!("{:?}", status.role).to_lowercase(),
            status.commit_index
        );
        let Some(last) = id_at(status.commit_index) else {
            return Err(Violation(format!(
                "log indexes: the commit index of replica {id} is beyond the end of its log; the \
                 replica's status is {status:?}"
            )));
        };
        ensure!(
            last.term == term,
            "commit by current term: leader {id} of term {term} committed entry {last} \
             (index@term), which is of another term, by counting copies"
        );
        let holds =
            |machine: &&Machine| last.index <= machine.snapshots.end() || machine.disk.holds(last);
        let mut copies: Vec<NodeId> = machines.iter().filter(holds).map(|it| it.id).collect();
        // An acknowledged copy still counts if its disk has been lost since. The replica must then
        // have the entry again before it may vote.
        for machine in machines.iter().filter(|machine| !holds(machine)) {
            if let Some(lost_disk) = self.views[machine.slot].lost_disk.as_mut()
                && lost_disk.holds(last)
            {
                lost_disk.required = lost_disk.required.max(last.index);
                copies.push(machine.id);
            }
        }
        // The leader may have committed the entry before or after it appended a configuration in
        // the same step.
        let replica = machines[slot].replica.as_ref().expect("a replica that took a step");
        let members = [self.configuration_of(slot), replica.configuration().1];
        ensure!(
            members.iter().any(|members| is_quorum(members, |voter| copies.contains(&voter))),
            "majority quorum: leader {id} of term {term} committed entry {last} (index@term) with \
             durable copies only on {copies:?}; its members are {}",
            members[0]
        );
        let has_data = |id: &NodeId| {
            machines.iter().any(|machine| machine.id == *id && !machine.config.is_witness)
        };
        ensure!(
            copies.iter().any(has_data),
            "majority quorum: leader {id} of term {term} committed entry {last} (index@term) with \
             durable copies only on witnesses, {copies:?}"
        );
        while index < status.commit_index {
            index = index.next();
            let id = id_at(index).expect("a log without gaps");
            self.committed.push(Committed { id, by_term: term, digest: None });
        }
        Ok(())
    }

    /// Returns the number of times that the run reached each situation concerning membership
    /// changes.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Returns the configuration that a replica uses if its log ends with the entry `last`.
    fn configuration_at(&self, last: EntryId) -> &Configuration {
        let id = self.entries.get(&last).map_or(EntryId::ZERO, |entry| entry.configuration);
        self.configurations.get(&id).unwrap_or(&self.bootstrap)
    }

    /// Returns the configuration that the replica used before its last step.
    fn configuration_of(&self, slot: usize) -> &Configuration {
        let last = self.views[slot].written.last().copied().unwrap_or(EntryId::ZERO);
        self.configuration_at(last)
    }

    /// Returns whether a replica may campaign and lead: it is a voter of the latest configuration
    /// in its log, or of the previous one while it does not know that the latest is committed.
    fn may_lead(&self, machine: &Machine) -> bool {
        let (id, view) = (machine.id, &self.views[machine.slot]);
        let mut last = view.written.last().copied().unwrap_or(EntryId::ZERO);
        let commit_index = machine.replica.as_ref().map_or(Index::ZERO, Replica::commit_index);
        loop {
            let entry = self.entries.get(&last);
            let at = entry.map_or(EntryId::ZERO, |entry| entry.configuration);
            if self.configuration_at(last).votes(id) || at.index <= commit_index {
                return self.configuration_at(last).votes(id);
            }
            last = self.entries[&at].previous;
        }
    }

    /// Checks that a replica uses the latest configuration in its log.
    fn check_configuration(&self, machine: &Machine) -> Result<(), Violation> {
        let Some(replica) = &machine.replica else { return Ok(()) };
        let last = self.views[machine.slot].written.last().copied().unwrap_or(EntryId::ZERO);
        let (index, used) = replica.configuration();
        let expected = self.configuration_at(last);
        ensure!(
            used == expected || index == Index::ZERO && *expected == self.bootstrap,
            "latest configuration: replica {}, whose log ends with {last} (index@term), has the \
             members {}, but the latest configuration in its log has {}",
            machine.id,
            used,
            expected
        );
        Ok(())
    }

    /// Checks a replica that has applied the entries up to `index`: the digest of its state must
    /// equal that of every other replica at this index.
    pub(in crate::sim) fn applied(
        &mut self,
        id: NodeId,
        index: Index,
        digest: u64,
    ) -> Result<(), Violation> {
        let known = self.commit_index();
        ensure!(
            index <= known,
            "log indexes: replica {id} applied the entry at index {index}, but entries are \
             committed only up to index {known}"
        );
        let committed = &mut self.committed[position(index)];
        let first = *committed.digest.get_or_insert(digest);
        ensure!(
            first == digest,
            "deterministic apply: the state of replica {id} has the digest {digest:016x} after \
             entry {} (index@term), but another replica's state had the digest {first:016x}",
            committed.id
        );
        Ok(())
    }
}
