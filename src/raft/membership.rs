//! The configurations of the members in this replica's log, and the quorums of the one in use.
//!
//! The configuration in use is the latest in the log, committed or not (Raft paper, §6): an entry
//! that is committed by the rules of a configuration must be known to every later leader, so a
//! leader must obey a new configuration before it is committed. If the entry of a configuration is
//! truncated, the one before it is in use again.

use bytes::Bytes;

use crate::config::Config;
use crate::membership::Configuration;
use crate::types::{Index, NodeId};

use super::quorum::{REPLICAS_MAX, quorum, reached_by_quorum};
use super::rules;

/// The configurations that this replica may have to return to.
///
/// Invariant: `history` is not empty and ordered by index. The first configuration is committed;
/// the others are not. The lists of ids are those of the configuration in use, ordered by id.
#[derive(Debug)]
pub(super) struct Membership {
    id: NodeId,
    /// The configuration in which the cluster was created; without members if this replica joined
    /// later.
    bootstrap: Configuration,
    /// Each configuration with the index of its entry; 0 for `bootstrap`. A configuration that was
    /// installed with a snapshot has the index of the snapshot's last entry.
    history: Vec<(Index, Configuration)>,
    /// The committed configurations before those in `history` that were in use at or after the base
    /// of the log, ordered by index.
    earlier: Vec<(Index, Configuration)>,
    /// Number of changes of `history` since the start.
    version: u64,
    voters: Vec<NodeId>,
    /// Voters before a change, while the configuration in use is joint.
    outgoing: Vec<NodeId>,
    /// All other replicas that messages are sent to: the members of all configurations in
    /// `history`. So a replica that is being removed gets the entry that removes it.
    peers: Vec<NodeId>,
}

impl Membership {
    /// Creates the membership of a replica that is starting. `base` is the last entry that its
    /// snapshot covers, and the configuration as of this entry; that is `None` if the members have
    /// not changed up to there.
    pub(super) fn new(
        id: NodeId,
        bootstrap: Configuration,
        base: (Index, Option<Configuration>),
        config: &Config,
    ) -> Membership {
        let mut membership = Membership {
            id,
            bootstrap,
            history: Vec::new(),
            earlier: Vec::new(),
            version: 0,
            voters: Vec::new(),
            outgoing: Vec::new(),
            peers: Vec::new(),
        };
        membership.restart(base.0, base.1, config);
        membership
    }

    /// Forgets all configurations except that of an installed snapshot, which covers the entries up
    /// to `index`; `None` if the members had not changed by then.
    pub(super) fn restart(
        &mut self,
        index: Index,
        configuration: Option<Configuration>,
        config: &Config,
    ) {
        self.history = vec![match configuration {
            Some(configuration) => (index, configuration),
            None => (Index::ZERO, self.bootstrap.clone()),
        }];
        self.earlier.clear();
        self.refresh(config);
    }

    /// Records a configuration whose entry was appended to the log.
    pub(super) fn append(&mut self, index: Index, configuration: Configuration, config: &Config) {
        let (last, _) = self.latest();
        assert!(index > last, "a configuration at {index} after one at {last}");
        self.history.push((index, configuration));
        self.refresh(config);
    }

    /// Returns to the configuration that was in use before the entry `from`, because the log was
    /// truncated there.
    pub(super) fn truncate_from(&mut self, from: Index, config: &Config) {
        if self.latest().0 < from || !rules::configuration_follows_the_log(config) {
            return;
        }
        self.history.retain(|(index, _)| *index < from);
        assert!(!self.history.is_empty(), "the committed configuration is truncated at {from}");
        self.refresh(config);
    }

    /// Records that the entries up to `commit_index` are committed: there is no return to a
    /// configuration before the last one among them.
    pub(super) fn commit(&mut self, commit_index: Index, config: &Config) {
        let committed = self.history.partition_point(|(index, _)| *index <= commit_index);
        if committed > 1 {
            self.earlier.extend(self.history.drain(..committed - 1));
            self.refresh(config);
        }
    }

    /// Forgets the configurations that no entry after `base`, the base of the log, was appended
    /// under.
    pub(super) fn compact(&mut self, base: Index) {
        if self.earlier.is_empty() {
            return;
        }
        let indexes = self.earlier.iter().chain(&self.history).map(|(index, _)| *index);
        let at_base = indexes.take_while(|index| *index <= base).count();
        self.earlier.drain(..at_base.saturating_sub(1).min(self.earlier.len()));
    }

    /// Returns the configuration as of the committed entry at `index`, which is not before the base
    /// of the log; `None` if the members had not changed by then.
    pub(super) fn as_of(&self, index: Index) -> Option<&Configuration> {
        let mut known = self.history.iter().rev().chain(self.earlier.iter().rev());
        let (at, configuration) = known.find(|(at, _)| *at <= index)?;
        (*at > Index::ZERO).then_some(configuration)
    }

    /// Returns whether the replica is a witness in the latest configuration that knows it.
    pub(super) fn is_witness(&self, id: NodeId) -> bool {
        let known = self.history.iter().rev().find_map(|(_, one)| one.member(id));
        known.is_some_and(|member| member.is_witness)
    }

    fn refresh(&mut self, config: &Config) {
        self.version += 1;
        let (_, current) = self.in_use(config);
        let counts = |id: &NodeId| rules::counts_for_quorum(current, *id, config);
        let voters = current.members().keys().copied().filter(counts).collect();
        let outgoing = rules::voters_before_change(current, config);
        let members = self.history.iter().flat_map(|(_, one)| one.members().keys().copied());
        let mut peers: Vec<NodeId> = members.filter(|id| *id != self.id).collect();
        peers.sort_unstable();
        peers.dedup();
        (self.voters, self.outgoing, self.peers) = (voters, outgoing, peers);
        if rules::counts_removed_leader(config) && !self.voters.contains(&self.id) {
            self.voters.push(self.id);
        }
    }

    /// Returns the latest configuration in the log, and the index of its entry.
    pub(super) fn latest(&self) -> (Index, &Configuration) {
        let (index, configuration) = self.history.last().expect("never empty");
        (*index, configuration)
    }

    /// Returns the configuration whose quorums decide, and the index of its entry.
    fn in_use(&self, config: &Config) -> (Index, &Configuration) {
        let (index, configuration) = if rules::configuration_counts_when_appended(config) {
            self.history.last()
        } else {
            self.history.first()
        }
        .expect("never empty");
        (*index, configuration)
    }

    /// Returns whether the latest configuration in the log is committed and not joint, so that
    /// another change may begin.
    pub(super) fn is_settled(&self) -> bool {
        self.history.len() == 1 && !self.latest().1.is_joint()
    }

    /// Returns whether the members are still those with which the cluster was created.
    pub(super) fn is_bootstrap(&self) -> bool {
        self.latest().0 == Index::ZERO
    }

    /// Returns the number of changes since the start, by which a user of the lists of ids notices
    /// that they have changed.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Returns all replicas that messages are sent to, ordered by id.
    pub(super) fn peers(&self) -> &[NodeId] {
        &self.peers
    }

    /// Returns the address of the replica in the latest configuration that has one.
    pub(super) fn address_of(&self, id: NodeId) -> Option<&Bytes> {
        let known = self.history.iter().rev().filter_map(|(_, one)| one.member(id));
        known.map(|member| &member.address).find(|address| !address.is_empty())
    }

    /// Returns whether the replica is a voter of the configuration in use; in a joint one, before
    /// or after the change.
    pub(super) fn votes(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Returns whether this replica is a voter of the configuration in use, or of an earlier one
    /// that is not known to be replaced for good: as long as its removal is not committed, the
    /// remaining voters may lack entries that only this replica and other removed ones have, so
    /// that one of these must lead for a moment (thesis 4.2.2).
    pub(super) fn may_be_needed(&self) -> bool {
        self.history.iter().any(|(_, configuration)| configuration.votes(self.id))
    }

    /// Returns whether the replica is a voter and remains one.
    pub(super) fn remains_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id)
    }

    /// Returns whether this replica is the only voter, so that it needs no other one for a quorum.
    pub(super) fn is_only_voter(&self) -> bool {
        let is_self = |voters: &[NodeId]| voters.iter().all(|id| *id == self.id);
        !self.voters.is_empty() && is_self(&self.voters) && is_self(&self.outgoing)
    }

    /// Returns the number of voters if all members are voters, this replica is one of them, and no
    /// change is under way; otherwise `None`.
    pub(super) fn plain_voter_count(&self) -> Option<usize> {
        let count = self.voters.len();
        let is_plain = self.outgoing.is_empty()
            && self.voters.contains(&self.id)
            && count == self.peers.len() + 1;
        is_plain.then_some(count)
    }

    /// Returns whether the replicas for which `holds` is true form a quorum; in a joint
    /// configuration, one before and one after the change.
    pub(super) fn has_quorum(&self, config: &Config, holds: impl Fn(NodeId) -> bool) -> bool {
        let is_quorum = |voters: &[NodeId]| {
            voters.iter().filter(|id| holds(**id)).count() >= quorum(voters.len(), config)
        };
        !self.voters.is_empty()
            && is_quorum(&self.voters)
            && (self.outgoing.is_empty() || is_quorum(&self.outgoing))
    }

    /// Returns whether `holds` is true for all voters.
    pub(super) fn all_voters(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        self.voters.iter().chain(&self.outgoing).all(|id| holds(*id))
    }

    /// Returns the highest value that a quorum has reached, such as a match index; in a joint
    /// configuration, a quorum before and one after the change. `of` returns the value of a voter.
    /// Allocates no memory.
    pub(super) fn reached<T: Ord + Copy>(&self, config: &Config, of: impl Fn(NodeId) -> T) -> T {
        assert!(!self.voters.is_empty(), "replica {} knows no voters", self.id);
        let reached = |voters: &[NodeId]| {
            let mut values = [of(voters[0]); REPLICAS_MAX + 1];
            for (value, id) in values[1..].iter_mut().zip(&voters[1..]) {
                *value = of(*id);
            }
            reached_by_quorum(&mut values[..voters.len()], config)
        };
        let after = reached(&self.voters);
        if self.outgoing.is_empty() { after } else { after.min(reached(&self.outgoing)) }
    }

    /// Panics if the invariant of [`Membership`] is violated.
    pub(super) fn check(&self, commit_index: Index, last: Index) {
        let indexes = || self.history.iter().map(|(index, _)| *index);
        assert!(
            indexes().next().is_some_and(|first| first <= commit_index)
                && indexes().skip(1).all(|index| commit_index < index),
            "configurations at {:?}, but {commit_index} is committed",
            indexes().collect::<Vec<_>>()
        );
        assert!(
            indexes().is_sorted() && self.latest().0 <= last,
            "configurations at {:?} of a log up to {last}",
            indexes().collect::<Vec<_>>()
        );
    }
}

#[cfg(test)]
mod tests;
