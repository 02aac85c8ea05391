//! The replica under test in `tests/paper.rs`. The test controls its messages, its disk and its
//! time.

use std::collections::VecDeque;
use std::time::Duration;

use bowline::config::Config;
use bowline::feature_level::FeatureLevel;
use bowline::raft::{
    AppendEntries, AppendJob, AppendOutcome, AppendReply, ClientRequest, Committed, DiskState,
    Durable, Effects, Envelope, HardState, Msg, PeerMsg, Persisted, Refusal, Replica, RequestKind,
    RequestVote, Status, VoteReply,
};
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::types::{EntryId, Index, Instant, NodeId, RequestKey, Round, Term};

/// Id of the replica under test. Its peers have the ids 2, 3, and so on.
pub(crate) const ME: NodeId = NodeId(1);

/// The outputs of a step, as a driver would see them.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Messages that may be sent now.
    pub(crate) sent: Vec<Envelope>,
    /// Entries to be applied to the state machine.
    pub(crate) applied: Vec<Committed>,
    /// Client requests that the replica refused.
    pub(crate) refused: Vec<Refusal>,
    /// Number of reads to be executed by the state machine.
    pub(crate) reads: usize,
}

/// A replica under test, its clock, and the jobs that its disk has not completed.
#[derive(Debug)]
pub(crate) struct Subject {
    replica: Replica,
    now: Instant,
    /// The jobs of the log writer, in order; [`Subject::sync`] completes them.
    pub(crate) jobs: VecDeque<AppendJob>,
}

impl Subject {
    /// Returns a replica of a cluster of `replicas` replicas that has just restarted. Its disk has
    /// `term`, no vote, and a log with one entry for each of `terms`.
    pub(crate) fn restarted(replicas: u16, term: u64, terms: &[u64]) -> Subject {
        Subject::with_vote(replicas, term, None, terms)
    }

    /// Like [`Subject::restarted`], with the vote `voted_for` in `term`.
    pub(crate) fn with_vote(
        replicas: u16,
        term: u64,
        voted_for: Option<NodeId>,
        terms: &[u64],
    ) -> Subject {
        let hard_state = HardState { term: Term(term), voted_for };
        Subject::with_config(&Config::server(), replicas, hard_state, terms)
    }

    fn with_config(
        config: &Config,
        replicas: u16,
        hard_state: HardState,
        terms: &[u64],
    ) -> Subject {
        let entries = entries(0, terms);
        let durable = Durable { hard_state, entries, ..Durable::default() };
        let peers: Vec<NodeId> = (2..=replicas).map(NodeId).collect();
        let now = Instant(1_000_000_000);
        // The paper has neither the delay before an election nor stalled disks.
        let config =
            Config { pre_vote_delay: Duration::ZERO, disk_stall_timeout: None, ..config.clone() };
        let replica = Replica::new(ME, &peers, config, 7, durable, now);
        Subject { replica, now, jobs: VecDeque::new() }
    }

    /// Returns the newly elected leader of `term` in a cluster of `replicas` replicas, whose log
    /// had one entry for each of `terms` before the election. Its no-op is durable and sent, and no
    /// peer has answered. Also returns the outputs since the election.
    pub(crate) fn leader(replicas: u16, term: u64, terms: &[u64]) -> (Subject, Step) {
        Subject::leader_with(&Config::server(), replicas, term, terms)
    }

    /// Like [`Subject::leader`], with this configuration.
    pub(crate) fn leader_with(
        config: &Config,
        replicas: u16,
        term: u64,
        terms: &[u64],
    ) -> (Subject, Step) {
        let hard_state = HardState { term: Term(term - 1), voted_for: None };
        let mut subject = Subject::with_config(config, replicas, hard_state, terms);
        subject.stand();
        let majority = replicas / 2;
        let mut step = Step::default();
        for peer in 2..2 + majority {
            step.absorb(subject.receive(peer, vote(term, true)));
        }
        step.absorb(subject.sync());
        assert_eq!(subject.status().term, Term(term));
        (subject, step)
    }

    /// Waits for the election timeout and wins the pre-vote, so that the replica is a candidate in
    /// the next term with a durable vote. Returns the outputs of all steps.
    pub(crate) fn stand(&mut self) -> Step {
        let mut step = self.wait(self.replica.next_timeout().since(self.now));
        let term = self.status().term.0 + 1;
        let replicas = step.requests().len() + 1;
        for peer in (2..).take(replicas / 2) {
            let reply = VoteReply { term: Term(term), pre: true, granted: true };
            step.absorb(self.receive(peer, PeerMsg::VoteReply(reply)));
        }
        step.absorb(self.sync());
        step
    }

    /// Delivers a message from a peer.
    pub(crate) fn receive(&mut self, from: u16, message: PeerMsg) -> Step {
        let from = NodeId(from);
        self.handle(Msg::Peer(Envelope { from, to: ME, leader: None, message }))
    }

    /// Delivers a write from a client.
    pub(crate) fn write(&mut self, payload: &'static [u8]) -> Step {
        self.handle(client(RequestKind::Write, payload))
    }

    /// Delivers a write and a read from a client in one batch of inputs.
    pub(crate) fn write_and_read(&mut self, payload: &'static [u8]) -> Step {
        let mut out = Effects::default();
        self.replica.handle_msg(self.now, client(RequestKind::Write, payload), &mut out);
        self.replica.handle_msg(self.now, client(RequestKind::Read, b"get"), &mut out);
        self.flush(out)
    }

    fn handle(&mut self, msg: Msg) -> Step {
        let mut out = Effects::default();
        self.replica.handle_msg(self.now, msg, &mut out);
        self.flush(out)
    }

    fn flush(&mut self, mut out: Effects) -> Step {
        self.replica.flush(self.now, &mut out);
        self.replica.check();
        self.jobs.extend(out.append);
        Step {
            sent: out.send,
            applied: out.apply.entries,
            refused: out.refusals,
            reads: out.apply.reads.len(),
        }
    }

    /// Completes all jobs.
    pub(crate) fn sync(&mut self) -> Step {
        let mut step = Step::default();
        while !self.jobs.is_empty() {
            step.absorb(self.sync_one());
        }
        step
    }

    /// Completes the oldest job.
    pub(crate) fn sync_one(&mut self) -> Step {
        let job = self.jobs.pop_front().expect("a job waits");
        let last = job.entries.last().map(Entry::id);
        let mut step = Step { sent: job.release, ..Step::default() };
        step.absorb(self.handle(Msg::Persisted(Persisted { sequence: job.sequence, last })));
        step
    }

    /// Reports that all committed entries are applied.
    pub(crate) fn apply(&mut self) -> Step {
        self.handle(Msg::Applied { index: self.replica.commit_index() })
    }

    /// Lets the time `span` pass, and handles the timeouts that become due.
    pub(crate) fn wait(&mut self, span: Duration) -> Step {
        let until = self.now + span;
        let mut step = Step::default();
        for timeouts in 0.. {
            if self.replica.next_timeout() > until {
                break;
            }
            assert!(timeouts < 10_000, "timeouts without end: {:?}", self.status());
            self.now = self.now.max(self.replica.next_timeout());
            let mut out = Effects::default();
            self.replica.handle_timeout(self.now, &mut out);
            step.absorb(self.flush(out));
        }
        self.now = until;
        step
    }

    pub(crate) fn status(&self) -> Status {
        self.replica.status()
    }

    /// Returns the time until the next timeout.
    pub(crate) fn until_timeout(&self) -> Duration {
        self.replica.next_timeout().since(self.now)
    }

    /// Returns the terms of the log's entries, from index 1.
    pub(crate) fn log(&self) -> Vec<u64> {
        self.replica.log().tail(Index(1)).iter().map(|entry| entry.term().0).collect()
    }
}

impl Step {
    /// Adds the outputs of a later step to this step.
    pub(crate) fn absorb(&mut self, later: Step) {
        self.sent.extend(later.sent);
        self.applied.extend(later.applied);
        self.refused.extend(later.refused);
        self.reads += later.reads;
    }

    /// Returns the vote requests that were sent, each with its receiver.
    pub(crate) fn requests(&self) -> Vec<(NodeId, RequestVote)> {
        let request = |envelope: &Envelope| match envelope.message {
            PeerMsg::RequestVote(request) => Some((envelope.to, request)),
            _ => None,
        };
        self.sent.iter().filter_map(request).collect()
    }

    /// Returns the replies to vote requests that were sent.
    pub(crate) fn votes(&self) -> Vec<VoteReply> {
        let reply = |envelope: &Envelope| match envelope.message {
            PeerMsg::VoteReply(reply) => Some(reply),
            _ => None,
        };
        self.sent.iter().filter_map(reply).collect()
    }

    /// Returns the appends that were sent, each with its receiver.
    pub(crate) fn appends(&self) -> Vec<(NodeId, AppendEntries)> {
        let append = |envelope: &Envelope| match &envelope.message {
            PeerMsg::AppendEntries(append) => Some((envelope.to, append.clone())),
            _ => None,
        };
        self.sent.iter().filter_map(append).collect()
    }

    /// Returns the appends that were sent to a peer.
    pub(crate) fn appends_to(&self, peer: u16) -> Vec<AppendEntries> {
        let to_peer = |(to, append)| (to == NodeId(peer)).then_some(append);
        self.appends().into_iter().filter_map(to_peer).collect()
    }

    /// Returns the last append that was sent to a peer; `None` if there was none.
    pub(crate) fn append_to(&self, peer: u16) -> Option<AppendEntries> {
        self.appends_to(peer).pop()
    }

    /// Returns the outcomes in the replies to appends that were sent.
    pub(crate) fn outcomes(&self) -> Vec<AppendOutcome> {
        let outcome = |envelope: &Envelope| match envelope.message {
            PeerMsg::AppendReply(reply) => Some(reply.outcome),
            _ => None,
        };
        self.sent.iter().filter_map(outcome).collect()
    }

    /// Returns the indexes of the entries to be applied to the state machine.
    pub(crate) fn applied(&self) -> Vec<u64> {
        self.applied.iter().map(|committed| committed.entry.index().0).collect()
    }
}

fn client(kind: RequestKind, payload: &'static [u8]) -> Msg {
    Msg::Client(ClientRequest { key: RequestKey::default(), kind, payload: payload.into() })
}

/// Returns consecutive entries after index `prev`, one for each term in `terms`.
pub(crate) fn entries(prev: u64, terms: &[u64]) -> Vec<Entry> {
    let mut buffer = RecordBuffer::default();
    (prev + 1..)
        .zip(terms)
        .map(|(index, &term)| {
            buffer.encode(EntryId::new(term, index), EntryKind::Command, b"command")
        })
        .collect()
}

/// Returns an append whose entries follow `prev`, a pair (term, index), with one entry for each
/// term in `terms`.
pub(crate) fn append(term: u64, prev: (u64, u64), terms: &[u64], commit_index: u64) -> PeerMsg {
    PeerMsg::AppendEntries(AppendEntries {
        term: Term(term),
        round: Round(1),
        prev: EntryId::new(prev.0, prev.1),
        commit_index: Index(commit_index),
        loss_permille: 0,
        transfer_to: None,
        entries: entries(prev.1, terms),
    })
}

/// Returns the vote request of a candidate whose log ends with `last`, a pair (term, index).
pub(crate) fn request(term: u64, last: (u64, u64)) -> PeerMsg {
    let last = EntryId::new(last.0, last.1);
    PeerMsg::RequestVote(RequestVote { term: Term(term), pre: false, transfer: false, last })
}

/// Returns a reply to a vote request of `term`.
pub(crate) fn vote(term: u64, granted: bool) -> PeerMsg {
    PeerMsg::VoteReply(VoteReply { term: Term(term), pre: false, granted })
}

/// Returns a follower's acknowledgement of an append.
pub(crate) fn matching(append: &AppendEntries) -> PeerMsg {
    let index = Index(append.prev.index.0 + append.entries.len() as u64);
    reply_to(append, AppendOutcome::Match { index })
}

/// Returns a follower's rejection of an append, with `hint` as a pair (term, index).
pub(crate) fn rejecting(append: &AppendEntries, hint: (u64, u64)) -> PeerMsg {
    let hint = EntryId::new(hint.0, hint.1);
    reply_to(append, AppendOutcome::Reject { refused: append.prev.index, hint })
}

/// Returns the acknowledgement of a follower whose program has this feature level.
pub(crate) fn matching_at(level: FeatureLevel, append: &AppendEntries) -> PeerMsg {
    let PeerMsg::AppendReply(reply) = matching(append) else { unreachable!("made above") };
    PeerMsg::AppendReply(AppendReply { level, ..reply })
}

fn reply_to(append: &AppendEntries, outcome: AppendOutcome) -> PeerMsg {
    let (term, round, disk) = (append.term, append.round, DiskState::Healthy);
    PeerMsg::AppendReply(AppendReply { term, round, level: FeatureLevel::OLDEST, disk, outcome })
}
