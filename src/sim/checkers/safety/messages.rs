//! Safety rules about messages: what a replica may send, and what must be durable before the
//! replica sends it.

use super::{SafetyChecker, position};
use crate::membership::Member;
use crate::raft::{
    AppendOutcome, Envelope, HardState, Msg, PeerMsg, Replica, RoleName, TimeoutNow,
};
use crate::sim::machine::Machine;
use crate::sim::violation::{Violation, ensure};
use crate::types::{EntryId, Index, NodeId, Round, Term};

impl SafetyChecker {
    /// Records that a replica has handled a message of a leader's message round (a numbered batch
    /// of messages), so that the replica may reply to this round.
    pub(in crate::sim) fn on_receive(&mut self, slot: usize, message: &Msg) {
        let Msg::Peer(Envelope { message, .. }) = message else { return };
        let round = match message {
            PeerMsg::AppendEntries(append) => (append.term, append.round),
            PeerMsg::InstallSnapshot(install) => (install.term, install.round),
            _ => return,
        };
        self.views[slot].rounds_received.insert(round);
    }

    /// Checks the round number in a follower's reply to a leader. The leader of the term must have
    /// begun this message round (a numbered batch of its messages), and the follower must have
    /// received a message of it. Round 0 stands for no round.
    fn check_round(
        &self,
        machine: &Machine,
        to: NodeId,
        term: Term,
        round: Round,
    ) -> Result<(), Violation> {
        ensure!(
            round == Round(0) || self.views[machine.slot].rounds_received.contains(&(term, round)),
            "fresh confirmation: replica {} sent replica {to} a reply that answers message round \
             {round} (the leader's batch of messages with that number) of term {term}, but has \
             received no message of that round",
            machine.id
        );
        let leader = self.leaders.get(&term);
        ensure!(
            round == Round(0)
                || leader == Some(&to) && self.rounds_begun.contains(&(term, round, machine.id)),
            "fresh confirmation: replica {} sent replica {to} a reply that answers message round \
             {round} (the leader's batch of messages with that number) of term {term}, but replica \
             {to} is not the leader of that term or has sent it no message of that round; the \
             leader of term {term} (if any) is {leader:?}",
            machine.id
        );
        Ok(())
    }

    /// Checks a message of a replica that is rejoining after a loss on its disk. The replica must
    /// not grant votes or help another replica to rejoin. If it voted for another candidate before
    /// the loss, it must not reply to leaders of earlier terms than that vote.
    fn check_rejoining(&self, machine: &Machine, message: &PeerMsg) -> Result<(), Violation> {
        if machine.disk.image().loss.is_none() {
            return Ok(());
        }
        let id = machine.id;
        let is_forbidden = match message {
            PeerMsg::RequestVote(_) | PeerMsg::RejoinReply(_) => true,
            PeerMsg::VoteReply(reply) => reply.granted,
            _ => false,
        };
        ensure!(
            !is_forbidden,
            "no vote while rejoining: replica {id} is rejoining and sent a message that is \
             forbidden until it has finished rejoining; the message is {message:?}"
        );
        let term = match message {
            PeerMsg::AppendReply(reply) => reply.term,
            PeerMsg::InstallReply(reply) => reply.term,
            _ => return Ok(()),
        };
        let later = self.votes.range((Term(term.0 + 1), NodeId(0))..);
        let mut given = later.filter(|&(&(_, voter), &candidate)| voter == id && candidate != id);
        let given = given.next();
        ensure!(
            given.is_none(),
            "no vote while rejoining: replica {id} is rejoining and replied to the leader of \
             term {term}, although it had voted for another candidate in a later term before the \
             loss; that vote, as ((term, voter), candidate), is {given:?}"
        );
        Ok(())
    }

    /// Checks that replica `id`, which sent `what` as the leader of `term`, was elected in it.
    fn check_leader(&self, id: NodeId, term: Term, what: &str) -> Result<(), Violation> {
        let leader = self.leaders.get(&term);
        ensure!(
            leader == Some(&id),
            "one leader per term: replica {id} sent {what} as the leader of term {term}, but the \
             elected leader of that term (if any) is {leader:?}"
        );
        Ok(())
    }

    /// Checks a message sent by the machine at index `from` against the safety rules for its type.
    pub(in crate::sim) fn on_send(
        &mut self,
        machines: &[Machine],
        from: usize,
        sent: &Envelope,
    ) -> Result<(), Violation> {
        let machine = &machines[from];
        let id = machine.id;
        let durable = machine.disk.image().hard_state;
        let shown = match sent.message {
            PeerMsg::AppendEntries(ref append) => append.term,
            PeerMsg::AppendReply(reply) => reply.term,
            // A pre-vote asks about a future term, and a reply that grants it repeats that term.
            PeerMsg::RequestVote(vote) if vote.pre => Term::default(),
            PeerMsg::VoteReply(reply) if reply.pre && reply.granted => Term::default(),
            PeerMsg::RequestVote(vote) => vote.term,
            PeerMsg::VoteReply(reply) => reply.term,
            PeerMsg::InstallSnapshot(ref install) => install.term,
            PeerMsg::InstallReply(reply) => reply.term,
            PeerMsg::TimeoutNow(now) => now.term,
            PeerMsg::Rejoin(rejoin) => rejoin.term,
            PeerMsg::RejoinReply(reply) => reply.term,
        };
        ensure!(
            shown <= durable.term,
            "durable hard state: replica {id} sent the message {1} with term {shown}, but the \
             latest durable term on its disk is {0}",
            durable.term,
            sent.message.name()
        );
        self.check_rejoining(machine, &sent.message)?;
        match sent.message {
            PeerMsg::AppendEntries(ref append) => {
                self.check_leader(id, append.term, "an AppendEntries message")?;
                self.rounds_begun.insert((append.term, append.round, sent.to));
                let commit_index =
                    machine.replica.as_ref().map_or(Index::ZERO, Replica::commit_index);
                let limit = if self.commit_index_after_replies {
                    commit_index.min(machine.store.applied_index())
                } else {
                    commit_index
                };
                ensure!(
                    append.commit_index <= limit,
                    "commit index after replies: replica {id} sent commit index {}, which exceeds \
                     {limit}, the highest index that it may send; its own commit index is \
                     {commit_index}, and it has answered clients' requests up to index {}",
                    append.commit_index,
                    machine.store.applied_index()
                );
            }
            PeerMsg::AppendReply(reply) => {
                self.check_round(machine, sent.to, reply.term, reply.round)?;
                if let AppendOutcome::Match { index } = reply.outcome {
                    Self::check_acknowledged(machines, from, sent.to, reply.term, index)?;
                    let acknowledged = &mut self.views[from].acknowledged;
                    *acknowledged = (*acknowledged).max((reply.term, index));
                }
            }
            PeerMsg::TimeoutNow(now) => self.on_transfer(machines, id, sent.to, now)?,
            PeerMsg::RequestVote(vote) if !vote.pre => {
                let before = Term(vote.term.0 - 1);
                ensure!(
                    !vote.transfer || self.transfers.contains(&(before, id)),
                    "leadership transfer: replica {id} requested votes in term {} as the target of \
                     a leadership transfer, but the leader of the previous term did not transfer \
                     leadership to it",
                    vote.term
                );
                self.check_vote_durable(durable, vote.term, id, id)?;
            }
            PeerMsg::VoteReply(reply) if reply.granted && !reply.pre => {
                self.check_vote_durable(durable, reply.term, id, sent.to)?;
            }
            PeerMsg::InstallSnapshot(ref install) => {
                self.check_leader(id, install.term, "a snapshot")?;
                self.rounds_begun.insert((install.term, install.round, sent.to));
                let last = install.snapshot.last;
                ensure!(
                    self.committed.get(position(last.index)).is_some_and(|there| there.id == last),
                    "snapshots are whole and newer: replica {id} sent a snapshot whose last entry \
                     is {last} (index@term), but that entry is not committed"
                );
            }
            PeerMsg::InstallReply(reply) => {
                ensure!(
                    reply.round > Round(0),
                    "fresh confirmation: replica {id} replied to a snapshot chunk without the \
                     number of the message round (the leader's batch of messages) to which the \
                     chunk belongs"
                );
                self.check_round(machine, sent.to, reply.term, reply.round)?;
            }
            PeerMsg::RequestVote(_)
            | PeerMsg::VoteReply(_)
            | PeerMsg::Rejoin(_)
            | PeerMsg::RejoinReply(_) => {}
        }
        Ok(())
    }

    /// Checks and records a leadership transfer (`TimeoutNow`) from replica `id` to replica `to`:
    /// `id` must be the leader of its term, and the durable log of `to` must end with the leader's
    /// last entry.
    fn on_transfer(
        &mut self,
        machines: &[Machine],
        id: NodeId,
        to: NodeId,
        now: TimeoutNow,
    ) -> Result<(), Violation> {
        let leader = self.leaders.get(&now.term);
        ensure!(
            leader == Some(&id),
            "leadership transfer: replica {id} transferred its leadership in term {}, but the \
             elected leader of that term (if any) is {leader:?}",
            now.term
        );
        let target = machines.iter().find(|machine| machine.id == to);
        ensure!(
            target.is_some_and(|there| !there.config.is_witness),
            "witnesses lead last: replica {id} transferred its leadership in term {} to replica \
             {to}, which is a witness",
            now.term
        );
        ensure!(
            target.is_some_and(|there| {
                there.disk.last() == now.last
                    || now.last.index <= there.snapshots.end()
                    || there.disk.image().hard_state.term > now.term
                    || self.views[there.slot].lost_disk.is_some()
            }),
            "leadership transfer: replica {id} transferred its leadership to replica {to}, whose \
             log on disk does not end with the leader's last entry {} (index@term)",
            now.last
        );
        let leader = machines.iter().find(|machine| machine.id == id).expect("it sent a message");
        let members = self.configuration_of(leader.slot);
        ensure!(
            members.member(to).is_some_and(Member::is_voter),
            "leadership transfer: replica {id} transferred its leadership to replica {to}, which \
             is no voter; its members are {}",
            members
        );
        self.transfers.insert((now.term, to));
        Ok(())
    }

    /// Checks that the vote that a message reveals is durable on the voter's disk, and records the
    /// vote.
    fn check_vote_durable(
        &mut self,
        durable: HardState,
        term: Term,
        voter: NodeId,
        candidate: NodeId,
    ) -> Result<(), Violation> {
        self.record_vote(term, voter, candidate)?;
        ensure!(
            durable.term > term || durable.voted_for == Some(candidate),
            "durable hard state: replica {voter} sent its vote for candidate {candidate} in term \
             {term}, but the vote is not durable; the durable term and vote are {durable:?}"
        );
        Ok(())
    }

    /// Checks a follower's acknowledgement of the log up to `index`: the entries must be durable on
    /// the follower's disk and equal to the leader's.
    fn check_acknowledged(
        machines: &[Machine],
        from: usize,
        to: NodeId,
        term: Term,
        index: Index,
    ) -> Result<(), Violation> {
        let machine = &machines[from];
        if index <= machine.snapshots.end() {
            // The entries are in the follower's durable snapshot, regardless of what its log holds
            // at that index.
            return Ok(());
        }
        let durable = machine.disk.id_at(index);
        ensure!(
            durable.is_some(),
            "durable acknowledgement: replica {} acknowledged the log up to index {index}, but has \
             no durable entry at that index; its durable log has {} entries",
            machine.id,
            machine.disk.image().entries.len()
        );
        let leader =
            machines.iter().find(|leader| leader.id == to).and_then(|n| n.replica.as_ref());
        let Some(leader) = leader else { return Ok(()) };
        let status = leader.status();
        if status.role == RoleName::Leader && status.term == term && index >= status.base.index {
            let there = leader.log().term_at(index).map(|term| EntryId { term, index });
            ensure!(
                durable == there,
                "durable acknowledgement: replica {} acknowledged the log up to index {index}, but \
                 its entry at that index differs from the leader's; the replica's durable entry \
                 (index@term) is {durable:?}, and the entry of leader {to} is {there:?}",
                machine.id
            );
        }
        Ok(())
    }
}
