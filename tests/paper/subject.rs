//! The replica under test in `tests/paper.rs`: driven by hand-made messages, its disk and its time
//! in the test's hands.

use std::collections::VecDeque;
use std::time::Duration;

use bowline::config::Config;
use bowline::raft::{
    AppendEntries, AppendJob, AppendOutcome, AppendReply, ClientRequest, Committed, DiskState,
    Durable, Effects, Envelope, HardState, Msg, PeerMsg, Persisted, Refusal, Replica, RequestKind,
    RequestVote, Status, VoteReply,
};
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::types::{EntryId, Index, Instant, NodeId, RequestKey, Round, Term};

/// The replica under test; its peers are 2, 3, and so on.
pub(crate) const ME: NodeId = NodeId(1);

/// What a step brought, as a driver would see it.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Messages that may leave now.
    pub(crate) sent: Vec<Envelope>,
    /// Entries for the state machine.
    pub(crate) applied: Vec<Committed>,
    /// Requests refused.
    pub(crate) refused: Vec<Refusal>,
}

/// A replica, its clock, and the jobs that its disk has not done yet.
#[derive(Debug)]
pub(crate) struct Subject {
    replica: Replica,
    now: Instant,
    /// In order; [`Subject::sync`] does them.
    pub(crate) jobs: VecDeque<AppendJob>,
}

impl Subject {
    /// One of `replicas` that found `terms` in its log, one entry each, and has last seen `term`.
    pub(crate) fn restarted(replicas: u16, term: u64, terms: &[u64]) -> Subject {
        Subject::with_vote(replicas, term, None, terms)
    }

    /// The same, with its vote in that term.
    pub(crate) fn with_vote(
        replicas: u16,
        term: u64,
        voted_for: Option<NodeId>,
        terms: &[u64],
    ) -> Subject {
        let hard_state = HardState { term: Term(term), voted_for };
        let entries = entries(0, terms);
        let durable = Durable { hard_state, entries, ..Durable::default() };
        let peers: Vec<NodeId> = (2..=replicas).map(NodeId).collect();
        let now = Instant(1_000_000_000);
        // The patience with one that has a longer log is ours, not the paper's.
        // Of disks the paper knows nothing but that they are waited for.
        let config =
            Config { pre_vote_delay: Duration::ZERO, disk_stall_timeout: None, ..Config::server() };
        let replica = Replica::new(ME, &peers, config, 7, durable, now);
        Subject { replica, now, jobs: VecDeque::new() }
    }

    /// A leader of `term`, one of `replicas`, whose log held `terms` before; its first entry is on
    /// its disk and on its way, and nobody has answered yet.
    pub(crate) fn leader(replicas: u16, term: u64, terms: &[u64]) -> (Subject, Step) {
        let mut subject = Subject::restarted(replicas, term - 1, terms);
        subject.stand();
        let majority = replicas / 2;
        let mut step = Step::default();
        for peer in 2..2 + majority {
            step.absorb(subject.hear(peer, vote(term, true)));
        }
        step.absorb(subject.sync());
        assert_eq!(subject.status().term, Term(term));
        (subject, step)
    }

    /// Waits out the election timeout and wins the pre-vote, so that it stands in the next term,
    /// with its own vote on disk. What it sent meanwhile is returned.
    pub(crate) fn stand(&mut self) -> Step {
        let mut step = self.wait(self.replica.next_timeout().since(self.now));
        let term = self.status().term.0 + 1;
        let replicas = step.requests().len() + 1;
        for peer in (2..).take(replicas / 2) {
            let reply = VoteReply { term: Term(term), pre: true, granted: true };
            step.absorb(self.hear(peer, PeerMsg::VoteReply(reply)));
        }
        step.absorb(self.sync());
        step
    }

    /// Hands it a message of a peer.
    pub(crate) fn hear(&mut self, from: u16, message: PeerMsg) -> Step {
        let from = NodeId(from);
        self.take(Msg::Peer(Envelope { from, to: ME, leader: None, message }))
    }

    /// Hands it a client's write.
    pub(crate) fn write(&mut self, payload: &'static [u8]) -> Step {
        let request = ClientRequest {
            key: RequestKey::default(),
            kind: RequestKind::Write,
            payload: payload.into(),
        };
        self.take(Msg::Client(request))
    }

    fn take(&mut self, msg: Msg) -> Step {
        let mut out = Effects::default();
        self.replica.handle_msg(self.now, msg, &mut out);
        self.end(out)
    }

    fn end(&mut self, mut out: Effects) -> Step {
        self.replica.flush(self.now, &mut out);
        self.replica.check();
        self.jobs.extend(out.append);
        Step { sent: out.send, applied: out.apply.entries, refused: out.refusals }
    }

    /// Lets its disk do all that waits.
    pub(crate) fn sync(&mut self) -> Step {
        let mut step = Step::default();
        while !self.jobs.is_empty() {
            step.absorb(self.sync_one());
        }
        step
    }

    /// Lets its disk do the job that has waited longest.
    pub(crate) fn sync_one(&mut self) -> Step {
        let job = self.jobs.pop_front().expect("a job waits");
        let last = job.entries.last().map(Entry::id);
        let mut step = Step { sent: job.release, ..Step::default() };
        step.absorb(self.take(Msg::Persisted(Persisted { sequence: job.sequence, last })));
        step
    }

    /// Tells it that all it committed is applied and answered.
    pub(crate) fn apply(&mut self) -> Step {
        self.take(Msg::Applied { index: self.replica.commit_index() })
    }

    /// Lets time pass, with all that falls due in it.
    pub(crate) fn wait(&mut self, span: Duration) -> Step {
        let until = self.now + span;
        let mut step = Step::default();
        for timeouts in 0.. {
            if self.replica.next_timeout() > until {
                break;
            }
            assert!(timeouts < 10_000, "it is always late for something: {:?}", self.status());
            self.now = self.now.max(self.replica.next_timeout());
            let mut out = Effects::default();
            self.replica.handle_timeout(self.now, &mut out);
            step.absorb(self.end(out));
        }
        self.now = until;
        step
    }

    pub(crate) fn status(&self) -> Status {
        self.replica.status()
    }

    /// Until it does something by itself.
    pub(crate) fn patience(&self) -> Duration {
        self.replica.next_timeout().since(self.now)
    }

    /// The terms of its entries, from index 1.
    pub(crate) fn log(&self) -> Vec<u64> {
        self.replica.log().tail(Index(1)).iter().map(|entry| entry.term().0).collect()
    }
}

impl Step {
    /// Adds what a later step brought.
    pub(crate) fn absorb(&mut self, later: Step) {
        self.sent.extend(later.sent);
        self.applied.extend(later.applied);
        self.refused.extend(later.refused);
    }

    /// The requests for votes in it, and to whom.
    pub(crate) fn requests(&self) -> Vec<(NodeId, RequestVote)> {
        let request = |envelope: &Envelope| match envelope.message {
            PeerMsg::RequestVote(request) => Some((envelope.to, request)),
            _ => None,
        };
        self.sent.iter().filter_map(request).collect()
    }

    /// The answers to requests for votes.
    pub(crate) fn votes(&self) -> Vec<VoteReply> {
        let reply = |envelope: &Envelope| match envelope.message {
            PeerMsg::VoteReply(reply) => Some(reply),
            _ => None,
        };
        self.sent.iter().filter_map(reply).collect()
    }

    /// The appends in it, and to whom.
    pub(crate) fn appends(&self) -> Vec<(NodeId, AppendEntries)> {
        let append = |envelope: &Envelope| match &envelope.message {
            PeerMsg::AppendEntries(append) => Some((envelope.to, append.clone())),
            _ => None,
        };
        self.sent.iter().filter_map(append).collect()
    }

    /// The last append to a peer.
    pub(crate) fn append_to(&self, peer: u16) -> Option<AppendEntries> {
        let to_peer = |(to, append)| (to == NodeId(peer)).then_some(append);
        self.appends().into_iter().filter_map(to_peer).next_back()
    }

    /// The outcomes in answers to appends.
    pub(crate) fn outcomes(&self) -> Vec<AppendOutcome> {
        let outcome = |envelope: &Envelope| match envelope.message {
            PeerMsg::AppendReply(reply) => Some(reply.outcome),
            _ => None,
        };
        self.sent.iter().filter_map(outcome).collect()
    }

    /// The indexes of the entries for the state machine.
    pub(crate) fn applied(&self) -> Vec<u64> {
        self.applied.iter().map(|committed| committed.entry.index().0).collect()
    }
}

/// Entries after index `prev`, one for each term.
pub(crate) fn entries(prev: u64, terms: &[u64]) -> Vec<Entry> {
    let mut buffer = RecordBuffer::default();
    (prev + 1..)
        .zip(terms)
        .map(|(index, &term)| {
            buffer.encode(EntryId::new(term, index), EntryKind::Command, b"command")
        })
        .collect()
}

/// A leader's append: entries of `terms` after `prev` as (term, index).
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

/// A candidate's request whose log ends with `last` as (term, index).
pub(crate) fn request(term: u64, last: (u64, u64)) -> PeerMsg {
    let last = EntryId::new(last.0, last.1);
    PeerMsg::RequestVote(RequestVote { term: Term(term), pre: false, transfer: false, last })
}

/// An answer to a request for a vote.
pub(crate) fn vote(term: u64, granted: bool) -> PeerMsg {
    PeerMsg::VoteReply(VoteReply { term: Term(term), pre: false, granted })
}

/// A follower's yes to an append.
pub(crate) fn matching(append: &AppendEntries) -> PeerMsg {
    let index = Index(append.prev.index.0 + append.entries.len() as u64);
    reply_to(append, AppendOutcome::Match { index })
}

/// A follower's no: its log agrees at most up to `hint` as (term, index).
pub(crate) fn rejecting(append: &AppendEntries, hint: (u64, u64)) -> PeerMsg {
    let hint = EntryId::new(hint.0, hint.1);
    reply_to(append, AppendOutcome::Reject { refused: append.prev.index, hint })
}

fn reply_to(append: &AppendEntries, outcome: AppendOutcome) -> PeerMsg {
    let (term, round, disk) = (append.term, append.round, DiskState::Healthy);
    PeerMsg::AppendReply(AppendReply { term, round, disk, outcome })
}
