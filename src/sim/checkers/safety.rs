//! The safety rules of the consensus core, checked globally after every step over all replicas
//! that ever were: what each of them said, wrote, committed and applied must fit together. Rule
//! numbers (S1 to S12) are those of the project's safety page; each breach names its rule.
//!
//! Everything is incremental: a step costs what it changed. Log matching rests on one table from
//! an entry's id to its bytes and to the id before it: where every log agrees with the table, two
//! logs with the same id at one place agree on all places before.
//!
//! A replica that lost its disk is held to the client_model of its former life as far as rejoining
//! keeps them: until it has rejoined it gives no votes, it acknowledges nothing to the leader of an
//! earlier term than one in which it voted for another, and when it has rejoined its disk holds
//! all that was committed when the disk was lost, or since then by counting what was on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use crate::config::Config;
use crate::raft::{
    AppendJob, AppendOutcome, Envelope, HardState, Msg, PeerMsg, Replica, RoleName, Status,
    TimeoutNow,
};
use crate::sim::machine::Machine;
use crate::types::{EntryId, Index, Instant, NodeId, Round, Term};

/// A rule that was broken, with the facts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// `return Err(..)` unless the condition holds.
macro_rules! demand {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::sim::checkers::safety::Violation(format!($($text)+)));
        }
    };
}
pub(in crate::sim) use demand;

/// All that was seen so far.
#[derive(Debug)]
pub struct SafetyChecker {
    /// Shown commit indexes stay behind the replies (course protocol).
    commit_index_after_replies: bool,
    election_timeout_min: Duration,
    quorum: usize,
    leaders: BTreeMap<Term, NodeId>,
    /// Terms that leaders handed over, and to whom.
    handed_over: BTreeSet<(Term, NodeId)>,
    /// Who got a vote, by term and voter, as shown in messages or on disk.
    votes: BTreeMap<(Term, NodeId), NodeId>,
    entries: HashMap<EntryId, Known, FixedState>,
    committed: Vec<Committed>,
    /// Rounds that leaders have begun, by term, and to whom.
    begun: HashSet<(Term, Round, NodeId), FixedState>,
    views: Vec<View>,
    /// How many replicas have rejoined after the loss of their disks.
    rejoined: u64,
}

/// An entry that some log held at some time.
#[derive(Debug)]
struct Known {
    before: EntryId,
    record: Bytes,
}

/// One place of the canonical history.
#[derive(Debug)]
struct Committed {
    id: EntryId,
    /// Term of the leader that committed it first.
    by_term: Term,
    /// State after it, once somebody applied it.
    digest: Option<u64>,
}

/// What was last seen of a replica's present incarnation.
#[derive(Debug)]
struct View {
    role: RoleName,
    term: Term,
    commit_index: Index,
    /// The same before the last step: entries that came in that step may replace what follows it.
    commit_before: Index,
    applied_index: Index,
    /// The log as its jobs to the log writer tell it.
    written: Vec<EntryId>,
    hard_state: HardState,
    /// The term of the leader heard last, and when by the replica's own clock.
    leader_heard: Option<(Term, Instant)>,
    /// What it has vouched for towards the leader of the latest term in which it did.
    vouched: (Term, Index),
    /// The term in which it has spent its vote while it was rejoining: it voted for nobody.
    spent: Option<Term>,
    /// Its former life, from the loss of its disk until it has rejoined.
    former: Option<FormerLife>,
    /// Rounds of leaders that it has received.
    received: HashSet<(Term, Round), FixedState>,
}

/// What a replica must hold again before it may vote.
#[derive(Clone, Debug)]
struct FormerLife {
    /// The durable log that was lost.
    log: Vec<EntryId>,
    /// Up to here everything must be on its disk again.
    owed: Index,
}

impl FormerLife {
    fn held(&self, id: EntryId) -> bool {
        id.index > Index::ZERO && self.log.get(place_of(id.index)) == Some(&id)
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
            vouched: (Term::default(), Index::ZERO),
            spent: None,
            former: None,
            received: HashSet::default(),
        }
    }
}

fn place_of(index: Index) -> usize {
    usize::try_from(index.0 - 1).expect("a log in memory")
}

impl SafetyChecker {
    /// For so many replicas.
    pub fn new(replicas: usize, config: &Config) -> SafetyChecker {
        SafetyChecker {
            commit_index_after_replies: config.commit_index_after_replies,
            election_timeout_min: config.election_timeout_min,
            quorum: replicas / 2 + 1,
            leaders: BTreeMap::new(),
            handed_over: BTreeSet::new(),
            votes: BTreeMap::new(),
            entries: HashMap::default(),
            committed: Vec::new(),
            begun: HashSet::default(),
            views: (0..replicas).map(|_| View::new()).collect(),
            rejoined: 0,
        }
    }

    /// How many entries are committed, by all that anybody knows.
    pub fn commit_index(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// How often a leader handed its lead over.
    pub fn handover_count(&self) -> usize {
        self.handed_over.len()
    }

    /// How many replicas have rejoined after the loss of their disks.
    pub fn rejoined(&self) -> u64 {
        self.rejoined
    }

    /// How many terms had a leader.
    pub fn leader_count(&self) -> usize {
        self.leaders.len()
    }

    /// A replica that is down is about to lose its disk. The votes that it gave itself and that did
    /// not elect it are void.
    pub(in crate::sim) fn on_disk_lost(&mut self, machine: &Machine) {
        let base = usize::try_from(machine.disk.base().index.0).expect("a log in memory");
        let mut log: Vec<EntryId> = self.committed[..base].iter().map(|there| there.id).collect();
        log.extend(machine.disk.image().entries.iter().map(crate::record::Entry::id));
        // Where the log does not hold the end of its snapshot, it was about to begin anew there.
        let end = usize::try_from(machine.snapshots.end().0).expect("a log in memory");
        let known = self.committed[..end].iter().map(|there| there.id);
        if log.get(..end).and_then(<[EntryId]>::last) != known.clone().next_back().as_ref() {
            log = known.collect();
        }
        let owed = self.commit_index();
        let view = &mut self.views[machine.place];
        assert!(view.former.is_none(), "replica {} loses its disk while rejoining", machine.id);
        view.former = Some(FormerLife { log, owed });
        view.hard_state = HardState::default();
        let leaders = &self.leaders;
        self.votes.retain(|&(term, voter), candidate| {
            voter != machine.id
                || *candidate != machine.id
                || leaders.get(&term) == Some(&machine.id)
        });
    }

    /// A replica starts from what its disk holds.
    pub(in crate::sim) fn on_start(&mut self, machine: &Machine) -> Result<(), Violation> {
        let view = &mut self.views[machine.place];
        let image = machine.disk.image();
        let promised = view.hard_state;
        demand!(
            image.hard_state.term >= promised.term,
            "S2: replica {} restarts in term {}, but had made term {} durable",
            machine.id,
            image.hard_state.term,
            promised.term
        );
        // Answers of the last incarnation are still under way, and as good as they were.
        *view = View {
            vouched: view.vouched,
            spent: view.spent,
            former: view.former.take(),
            ..View::new()
        };
        view.hard_state = image.hard_state;
        let base = usize::try_from(machine.disk.base().index.0).expect("a log in memory");
        view.written.extend(self.committed[..base].iter().map(|there| there.id));
        view.written.extend(image.entries.iter().map(crate::record::Entry::id));
        // What its snapshot holds is committed, and applied.
        let snapshot = machine.replica.as_ref().map_or(Index::ZERO, Replica::commit_index);
        (view.commit_index, view.commit_before, view.applied_index) =
            (snapshot, snapshot, snapshot);
        if view.former.is_some() && image.hard_state.voted_for == Some(machine.id) {
            view.spent = Some(image.hard_state.term);
        }
        self.note_rejoined(machine)
    }

    /// A replica has taken in an append of the leader of `term`, at `now` by its own clock.
    pub(in crate::sim) fn heard_leader(&mut self, place: usize, now: Instant, term: Term) {
        self.views[place].leader_heard = Some((term, now));
    }

    /// A replica takes in a message: of a leader's, its round counts as received.
    pub(in crate::sim) fn receives(&mut self, place: usize, message: &Msg) {
        let Msg::Peer(Envelope { message, .. }) = message else { return };
        let round = match message {
            PeerMsg::AppendEntries(append) => (append.term, append.round),
            PeerMsg::InstallSnapshot(install) => (install.term, install.round),
            _ => return,
        };
        self.views[place].received.insert(round);
    }

    /// An answer to a leader names a round that this leader has begun, in the term of the answer,
    /// and that the follower has received in it. Round zero names none.
    fn answers_round(
        &self,
        machine: &Machine,
        to: NodeId,
        term: Term,
        round: Round,
    ) -> Result<(), Violation> {
        demand!(
            round == Round(0) || self.views[machine.place].received.contains(&(term, round)),
            "C2: replica {} answers round {round} of term {term}, which it has not received",
            machine.id
        );
        let leader = self.leaders.get(&term);
        demand!(
            round == Round(0)
                || leader == Some(&to) && self.begun.contains(&(term, round, machine.id)),
            "C2: replica {} answers round {round} of term {term} to {to}, which has not begun it; \
             {leader:?} leads the term",
            machine.id
        );
        Ok(())
    }

    /// A replica gives its vote away only when no leader that it has heard can hold a lease.
    fn lease_is_over(
        &self,
        machine: &Machine,
        job: &AppendJob,
        now: Instant,
    ) -> Result<(), Violation> {
        let view = &self.views[machine.place];
        if let Some(HardState { term, voted_for: Some(candidate) }) = job.hard_state
            && candidate != machine.id
            && let Some((heard_term, heard_at)) = view.leader_heard
            && heard_term < term
            && !self.handed_over.contains(&(Term(term.0 - 1), candidate))
        {
            demand!(
                now.since(heard_at) >= self.election_timeout_min,
                "C3: replica {} votes for {candidate} in term {term} {:?} after it heard the \
                 leader of term {heard_term}",
                machine.id,
                now.since(heard_at)
            );
        }
        Ok(())
    }

    /// A replica hands a job to its log writer, at `now` by its own clock.
    pub(in crate::sim) fn on_job(
        &mut self,
        machine: &Machine,
        role: RoleName,
        job: &AppendJob,
        now: Instant,
    ) -> Result<(), Violation> {
        self.lease_is_over(machine, job, now)?;
        let id = machine.id;
        let view = &mut self.views[machine.place];
        if let Some(last) = job.restart_after {
            let there = self.committed.get(place_of(last.index)).map(|there| there.id);
            demand!(
                there == Some(last),
                "S8: replica {id} begins its log anew behind {last}, but {there:?} is committed \
                 there"
            );
            let count = place_of(last.index) + 1;
            view.written.clear();
            view.written.extend(self.committed[..count].iter().map(|there| there.id));
        }
        let Some(first) = job.entries.first() else { return Ok(()) };
        let keep = place_of(first.index());
        demand!(
            keep <= view.written.len(),
            "S8: replica {id} writes {} right after {} entries: a gap",
            first.id(),
            view.written.len()
        );
        if keep < view.written.len() {
            demand!(
                role != RoleName::Leader || view.role != RoleName::Leader,
                "S7: leader {id} writes over {} of its own log",
                view.written[keep]
            );
            demand!(
                first.index() > view.commit_before,
                "S7: replica {id} writes {} over a committed entry (commit index {})",
                first.id(),
                view.commit_before
            );
            demand!(
                view.written[keep] != first.id(),
                "S7: replica {id} truncates at {} without a conflict",
                first.id()
            );
            view.written.truncate(keep);
        }
        let mut before = view.written.last().copied().unwrap_or(EntryId::ZERO);
        for entry in &job.entries {
            demand!(
                entry.index() == before.index.next() && entry.term() >= before.term,
                "S8: replica {id} writes {} after {before}",
                entry.id()
            );
            let known = self
                .entries
                .entry(entry.id())
                .or_insert_with(|| Known { before, record: entry.record().clone() });
            demand!(
                known.before == before && known.record == *entry.record(),
                "S8: {} of replica {id} differs from another one's, or from what precedes it there \
                 ({before} and {})",
                entry.id(),
                known.before
            );
            view.written.push(entry.id());
            before = entry.id();
        }
        Ok(())
    }

    /// A replica's disk holds more than before.
    pub(in crate::sim) fn on_synced(&mut self, machine: &Machine) -> Result<(), Violation> {
        let hard_state = machine.disk.image().hard_state;
        let view = &mut self.views[machine.place];
        let before = view.hard_state;
        demand!(
            hard_state.term > before.term
                || (hard_state.term == before.term
                    && (before.voted_for.is_none() || before.voted_for == hard_state.voted_for)),
            "S2: replica {} makes {hard_state:?} durable after {before:?}",
            machine.id
        );
        view.hard_state = hard_state;
        if view.former.is_some() && hard_state.voted_for == Some(machine.id) {
            view.spent = Some(hard_state.term);
        }
        if let Some(candidate) = hard_state.voted_for
            && (view.spent, candidate) != (Some(hard_state.term), machine.id)
        {
            self.vote(hard_state.term, machine.id, candidate)?;
        }
        self.note_rejoined(machine)
    }

    /// A replica that had lost its disk is a full member again once the mark on its disk is gone.
    fn note_rejoined(&mut self, machine: &Machine) -> Result<(), Violation> {
        let former = &mut self.views[machine.place].former;
        if machine.disk.image().rejoining {
            return Ok(());
        }
        let Some(FormerLife { owed, .. }) = former.take() else { return Ok(()) };
        self.rejoined += 1;
        demand!(
            owed <= machine.snapshots.end()
                || machine.disk.holds(self.committed[place_of(owed)].id),
            "S3: replica {} has rejoined without {}, which was committed with its former disk",
            machine.id,
            self.committed[place_of(owed)].id
        );
        Ok(())
    }

    /// A rejoining replica votes for nobody and tells nobody a term, and what it says to a leader
    /// does not contradict the votes of its former life.
    fn bound_by_former_life(&self, machine: &Machine, message: &PeerMsg) -> Result<(), Violation> {
        if !machine.disk.image().rejoining {
            return Ok(());
        }
        let id = machine.id;
        let client_model = match message {
            PeerMsg::RequestVote(_) | PeerMsg::RejoinReply(_) => true,
            PeerMsg::VoteReply(reply) => reply.granted,
            _ => false,
        };
        demand!(!client_model, "S1: replica {id} sends {message:?}, but has not rejoined yet");
        let answered = match message {
            PeerMsg::AppendReply(reply) => reply.term,
            PeerMsg::InstallReply(reply) => reply.term,
            _ => return Ok(()),
        };
        let later = self.votes.range((Term(answered.0 + 1), NodeId(0))..);
        let mut given = later.filter(|&(&(_, voter), &candidate)| voter == id && candidate != id);
        let given = given.next();
        demand!(
            given.is_none(),
            "S1: replica {id} lost its disk and answers the leader of term {answered}, but had \
             voted: {given:?}"
        );
        Ok(())
    }

    fn vote(&mut self, term: Term, voter: NodeId, candidate: NodeId) -> Result<(), Violation> {
        let first = *self.votes.entry((term, voter)).or_insert(candidate);
        demand!(
            first == candidate,
            "S1: replica {voter} votes for {candidate} in term {term}, after voting for {first}"
        );
        Ok(())
    }

    /// A message leaves a replica.
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
            // A pre-vote's term is not taken yet, and a granted one only echoes it.
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
        demand!(
            shown <= durable.term,
            "S2: replica {id} shows term {shown} in {}, but only {} is durable",
            sent.message.name(),
            durable.term
        );
        self.bound_by_former_life(machine, &sent.message)?;
        match sent.message {
            PeerMsg::AppendEntries(ref append) => {
                let leader = self.leaders.get(&append.term);
                demand!(
                    leader == Some(&id),
                    "S1: replica {id} sends appends in term {}, which {leader:?} leads",
                    append.term
                );
                self.begun.insert((append.term, append.round, sent.to));
                let commit_index =
                    machine.replica.as_ref().map_or(Index::ZERO, Replica::commit_index);
                let limit = if self.commit_index_after_replies {
                    commit_index.min(machine.store.applied_index())
                } else {
                    commit_index
                };
                demand!(
                    append.commit_index <= limit,
                    "C5: replica {id} shows commit index {}, but {limit} is the last it may show \
                     (committed {commit_index}, replied up to {})",
                    append.commit_index,
                    machine.store.applied_index()
                );
            }
            PeerMsg::AppendReply(reply) => {
                self.answers_round(machine, sent.to, reply.term, reply.round)?;
                if let AppendOutcome::Match { index } = reply.outcome {
                    Self::acknowledged(machines, from, sent.to, reply.term, index)?;
                    let vouched = &mut self.views[from].vouched;
                    *vouched = (*vouched).max((reply.term, index));
                }
            }
            PeerMsg::TimeoutNow(now) => self.hands_over(machines, id, sent.to, now)?,
            PeerMsg::RequestVote(vote) if !vote.pre => {
                let before = Term(vote.term.0 - 1);
                demand!(
                    !vote.transfer || self.handed_over.contains(&(before, id)),
                    "L9: replica {id} stands in term {}, as if it had been handed over to it",
                    vote.term
                );
                self.durable_vote(durable, vote.term, id, id)?;
            }
            PeerMsg::VoteReply(reply) if reply.granted && !reply.pre => {
                self.durable_vote(durable, reply.term, id, sent.to)?;
            }
            PeerMsg::InstallSnapshot(ref install) => {
                let leader = self.leaders.get(&install.term);
                demand!(
                    leader == Some(&id),
                    "S1: replica {id} sends a snapshot in term {}, which {leader:?} leads",
                    install.term
                );
                self.begun.insert((install.term, install.round, sent.to));
                let last = install.snapshot.last;
                demand!(
                    self.committed.get(place_of(last.index)).is_some_and(|there| there.id == last),
                    "S8: replica {id} sends a snapshot up to {last}, which is not committed"
                );
            }
            PeerMsg::InstallReply(reply) => {
                demand!(
                    reply.round > Round(0),
                    "C2: replica {id} answers a chunk without naming its round"
                );
                self.answers_round(machine, sent.to, reply.term, reply.round)?;
            }
            PeerMsg::RequestVote(_)
            | PeerMsg::VoteReply(_)
            | PeerMsg::Rejoin(_)
            | PeerMsg::RejoinReply(_) => {}
        }
        Ok(())
    }

    /// A leader tells a follower to take over from it.
    fn hands_over(
        &mut self,
        machines: &[Machine],
        id: NodeId,
        to: NodeId,
        now: TimeoutNow,
    ) -> Result<(), Violation> {
        let leader = self.leaders.get(&now.term);
        demand!(
            leader == Some(&id),
            "L9: replica {id} hands over term {}, which {leader:?} leads",
            now.term
        );
        let successor = machines.iter().find(|machine| machine.id == to);
        demand!(
            successor.is_some_and(|there| {
                there.disk.last() == now.last
                    || now.last.index <= there.snapshots.end()
                    || there.disk.image().hard_state.term > now.term
                    || self.views[there.place].former.is_some()
            }),
            "L9: replica {id} hands over to {to}, whose disk does not end with {}",
            now.last
        );
        self.handed_over.insert((now.term, to));
        Ok(())
    }

    fn durable_vote(
        &mut self,
        durable: HardState,
        term: Term,
        voter: NodeId,
        candidate: NodeId,
    ) -> Result<(), Violation> {
        self.vote(term, voter, candidate)?;
        demand!(
            durable.term > term || durable.voted_for == Some(candidate),
            "S2: replica {voter} shows its vote for {candidate} in term {term}, but {durable:?} is \
             durable"
        );
        Ok(())
    }

    /// A follower vouches for its log up to `index`.
    fn acknowledged(
        machines: &[Machine],
        from: usize,
        to: NodeId,
        term: Term,
        index: Index,
    ) -> Result<(), Violation> {
        let machine = &machines[from];
        if index <= machine.snapshots.end() {
            // In its snapshot, which is durable, whatever its log still says there.
            return Ok(());
        }
        let durable = machine.disk.id_at(index);
        demand!(
            durable.is_some(),
            "S3: replica {} vouches for {index} entries, but {} are durable",
            machine.id,
            machine.disk.image().entries.len()
        );
        let leader =
            machines.iter().find(|leader| leader.id == to).and_then(|n| n.replica.as_ref());
        let Some(leader) = leader else { return Ok(()) };
        let status = leader.status();
        if status.role == RoleName::Leader && status.term == term && index >= status.base.index {
            let there = leader.log().term_at(index).map(|term| EntryId { term, index });
            demand!(
                durable == there,
                "S3: replica {} vouches for {index} entries with {durable:?} in the last place, \
                 where its leader {to} has {there:?}",
                machine.id
            );
        }
        Ok(())
    }

    /// A replica has handled a batch.
    pub(in crate::sim) fn after_step(
        &mut self,
        machines: &[Machine],
        place: usize,
        status: &Status,
    ) -> Result<(), Violation> {
        let machine = &machines[place];
        let replica = machine.replica.as_ref().expect("it has just handled a batch");
        let id = machine.id;
        let (was_role, was_term, was_commit, was_applied) = {
            let view = &self.views[place];
            (view.role, view.term, view.commit_index, view.applied_index)
        };
        demand!(
            status.term >= was_term,
            "S2: replica {id} falls to {} from {was_term}",
            status.term
        );
        demand!(
            status.commit_index >= was_commit && status.applied_index >= was_applied,
            "S8: replica {id} falls back from commit index {was_commit}, applied {was_applied} to \
             {} and {}",
            status.commit_index,
            status.applied_index
        );
        demand!(status.counters.malformed == 0, "H3: replica {id} refuses a message as malformed");
        demand!(
            status.applied_index <= status.commit_index
                && status.commit_index <= status.last.index
                && status.durable_index <= status.last.index,
            "S8: replica {id} has its cursors in disorder: {status:?}"
        );
        let durable_there = machine.disk.id_at(status.durable_index);
        // That far it may rest on a snapshot, and the disk's log may not know yet.
        let rests = status.durable_index <= machine.snapshots.end();
        demand!(
            rests
                || durable_there
                    .is_some_and(|there| replica.log().term_at(there.index) == Some(there.term)),
            "S3: replica {id} believes {} entries to be durable, its disk has \
             {durable_there:?} there",
            status.durable_index
        );
        if status.role == RoleName::Leader {
            if was_role != RoleName::Leader || status.term != was_term {
                self.elected(machines, place, status)?;
            }
            self.peers_known(machines, place, status)?;
        }
        if status.commit_index > was_commit {
            self.commits(machines, place, status)?;
        }
        let view = &mut self.views[place];
        view.role = status.role;
        view.term = status.term;
        view.commit_before = view.commit_index;
        view.commit_index = status.commit_index;
        view.applied_index = status.applied_index;
        Ok(())
    }

    fn elected(
        &mut self,
        machines: &[Machine],
        place: usize,
        status: &Status,
    ) -> Result<(), Violation> {
        let (id, term) = (status.id, status.term);
        let first = *self.leaders.entry(term).or_insert(id);
        demand!(first == id, "S1: both {first} and {id} lead term {term}");
        let votes = machines.iter().filter(|n| self.votes.get(&(term, n.id)) == Some(&id)).count();
        // A lone replica needs nobody's word but its own disk's, which may still be busy.
        demand!(
            votes >= self.quorum || self.quorum == 1,
            "S6: replica {id} leads term {term} with {votes} votes of {} needed",
            self.quorum
        );
        // What leaders of later terms have committed meanwhile, this one need not have.
        let length = self.committed.partition_point(|entry| entry.by_term < term);
        if let Some(last) = self.committed[..length].last() {
            let log = machines[place].replica.as_ref().expect("it was just elected").log();
            let there = log.term_at(last.id.index);
            demand!(
                there == Some(last.id.term) || last.id.index < log.base().index,
                "S4: replica {id} leads term {term} without the committed entry {} (it has term \
                 {there:?} there)",
                last.id
            );
        }
        Ok(())
    }

    /// A leader may believe of its peers' disks only what they said in its term, and it must be
    /// true as long as they are in it.
    fn peers_known(
        &self,
        machines: &[Machine],
        place: usize,
        status: &Status,
    ) -> Result<(), Violation> {
        let log = machines[place].replica.as_ref().expect("it leads").log();
        for peer in &status.peers {
            demand!(
                peer.match_index < peer.next_index && peer.match_index <= status.last.index,
                "S10: leader {} has its cursors for {} in disorder: {peer:?}",
                status.id,
                peer.id
            );
            let Some(machine) = machines.iter().find(|machine| machine.id == peer.id) else {
                continue;
            };
            let (term, index) = self.views[machine.place].vouched;
            let said = if term < status.term { Index::ZERO } else { index };
            demand!(
                term > status.term || peer.match_index <= said,
                "S10: leader {} of term {} believes that {} holds {} entries of its log, but in \
                 this term it has vouched for {said} only",
                status.id,
                status.term,
                peer.id,
                peer.match_index
            );
            // What is not past these is committed, in a snapshot, and the same everywhere.
            let known = machine.snapshots.end().max(status.base.index);
            // What its former life vouched for is not there any more, until it has rejoined.
            let is_lost = self.views[machine.place].former.as_ref().is_some_and(|former| {
                log.term_at(peer.match_index)
                    .is_some_and(|term| former.held(EntryId { term, index: peer.match_index }))
            });
            if !is_lost
                && machine.disk.image().hard_state.term <= status.term
                && peer.match_index > known
            {
                let there = machine.disk.id_at(peer.match_index).map(|id| id.term);
                demand!(
                    there == log.term_at(peer.match_index),
                    "S10: leader {} of term {} believes that {} holds {} entries of its log, but \
                     {there:?} is the term there",
                    status.id,
                    status.term,
                    peer.id,
                    peer.match_index
                );
            }
        }
        Ok(())
    }

    fn commits(
        &mut self,
        machines: &[Machine],
        place: usize,
        status: &Status,
    ) -> Result<(), Violation> {
        let view = &self.views[place];
        let log = machines[place].replica.as_ref().expect("it has just handled a batch").log();
        let id = status.id;
        let id_at = |index: Index| log.term_at(index).map(|term| EntryId { term, index });
        let known_before = self.commit_index();
        let mut index = view.commit_index;
        while index < status.commit_index.min(known_before) {
            index = index.next();
            let canonical = self.committed[place_of(index)].id;
            demand!(
                id_at(index) == Some(canonical) || index < log.base().index,
                "S8: replica {id} commits {:?} where {canonical} was committed before",
                id_at(index)
            );
        }
        if status.commit_index <= known_before {
            return Ok(());
        }
        // New to everybody: only a leader may find that out, by counting copies on disks. It may
        // have been deposed within the same batch.
        let term = if status.role == RoleName::Leader { status.term } else { view.term };
        let led = status.role == RoleName::Leader || view.role == RoleName::Leader;
        demand!(
            led,
            "S11: {} {id} commits up to {}, but {known_before} is the last that any leader has \
             committed",
            format!("{:?}", status.role).to_lowercase(),
            status.commit_index
        );
        let Some(last) = id_at(status.commit_index) else {
            return Err(Violation(format!("S8: replica {id} commits past its log: {status:?}")));
        };
        demand!(
            last.term == term,
            "S4: leader {id} of term {term} commits {last} by counting, an entry of another term"
        );
        let holds =
            |machine: &&Machine| last.index <= machine.snapshots.end() || machine.disk.holds(last);
        let mut copies = machines.iter().filter(holds).count();
        // One that was on a disk which was lost since counts, if it was acknowledged before; and
        // its replica must hold it again before it may vote.
        for machine in machines.iter().filter(|machine| !holds(machine)) {
            if let Some(former) = self.views[machine.place].former.as_mut()
                && former.held(last)
            {
                former.owed = former.owed.max(last.index);
                copies += 1;
            }
        }
        demand!(
            copies >= self.quorum,
            "S6: leader {id} of term {term} commits {last} with {copies} durable copies, {} needed",
            self.quorum
        );
        while index < status.commit_index {
            index = index.next();
            let id = id_at(index).expect("no gaps before the last entry");
            self.committed.push(Committed { id, by_term: term, digest: None });
        }
        Ok(())
    }

    /// A replica has applied the entry at `index`.
    pub(in crate::sim) fn applied(
        &mut self,
        id: NodeId,
        index: Index,
        digest: u64,
    ) -> Result<(), Violation> {
        let known = self.commit_index();
        demand!(index <= known, "S8: replica {id} applies {index}, committed are {known} entries");
        let committed = &mut self.committed[place_of(index)];
        let first = *committed.digest.get_or_insert(digest);
        demand!(
            first == digest,
            "S8: replica {id} has state {digest:016x} after {}, another one had {first:016x}",
            committed.id
        );
        Ok(())
    }
}
