//! Rejoining, tested with a replica whose messages, time and disk the test controls.

use super::*;
use crate::raft::{
    AppendEntries, AppendJob, Durable, Effects, Envelope, HardState, Msg, Persisted, Replica,
    RequestVote, Status, TimeoutNow,
};
use crate::record::{EntryKind, RecordBuffer};
use crate::types::Round;

const ME: NodeId = NodeId(1);
const NONCE: u64 = 99;

/// A replica, its clock, and the jobs that its log writer has not completed yet.
struct Subject {
    replica: Replica,
    now: Instant,
    jobs: Vec<AppendJob>,
}

impl Subject {
    /// Starts a replica that has lost its disk.
    fn wiped(replicas: u16) -> Subject {
        Subject::start(replicas, Durable { loss: Some(Loss::Votes), ..Durable::default() })
    }

    fn start(replicas: u16, durable: Durable) -> Subject {
        let peers: Vec<NodeId> = (2..=replicas).map(NodeId).collect();
        let now = Instant(1_000_000_000);
        let mut replica = Replica::new(ME, &peers, Config::server(), 7, durable, now);
        if let Some(rejoining) = &mut replica.shared_mut().rejoining {
            rejoining.nonce = NONCE;
        }
        Subject { replica, now, jobs: Vec::new() }
    }

    /// Ends the batch of inputs, and returns the messages sent.
    fn flush(&mut self, mut out: Effects) -> Vec<PeerMsg> {
        self.replica.flush(self.now, &mut out);
        self.replica.check();
        self.jobs.extend(out.append);
        out.send.into_iter().map(|sent| sent.message).collect()
    }

    /// Delivers a peer's message; returns the messages sent.
    fn receive(&mut self, from: u16, message: PeerMsg) -> Vec<PeerMsg> {
        let mut out = Effects::default();
        let envelope = Envelope { from: NodeId(from), to: ME, leader: None, message };
        self.replica.handle_msg(self.now, Msg::Peer(envelope), &mut out);
        self.flush(out)
    }

    /// Completes all jobs; returns the messages sent.
    fn sync(&mut self) -> Vec<PeerMsg> {
        let mut sent = Vec::new();
        for job in std::mem::take(&mut self.jobs) {
            sent.extend(job.release.into_iter().map(|sent| sent.message));
            let last = job.entries.last().map(crate::record::Entry::id);
            let mut out = Effects::default();
            let persisted = Persisted { sequence: job.sequence, last };
            self.replica.handle_msg(self.now, Msg::Persisted(persisted), &mut out);
            sent.extend(self.flush(out));
        }
        sent
    }

    /// Waits until the next timeout; returns the messages sent.
    fn wait(&mut self) -> Vec<PeerMsg> {
        self.now = self.now.max(self.replica.next_timeout());
        let mut out = Effects::default();
        self.replica.handle_timeout(self.now, &mut out);
        self.flush(out)
    }

    fn status(&self) -> Status {
        self.replica.status()
    }

    fn waiting_for(&self) -> Vec<u16> {
        let rejoining = self.status().rejoining.expect("rejoining");
        rejoining.waiting_for.iter().map(|id| id.0).collect()
    }
}

fn reply(term: u64, leads: bool, last: (u64, u64)) -> PeerMsg {
    let last = EntryId::new(last.0, last.1);
    let (term, members_changed) = (Term(term), false);
    PeerMsg::RejoinReply(RejoinReply { nonce: NONCE, term, leads, last, members_changed })
}

#[test]
fn rejoin_is_refused_after_a_membership_change() {
    let mut subject = Subject::wiped(3);
    subject.wait();
    let PeerMsg::RejoinReply(reply) = reply(3, false, (3, 1)) else { unreachable!() };
    subject.receive(2, PeerMsg::RejoinReply(reply));
    let message = PeerMsg::RejoinReply(RejoinReply { members_changed: true, ..reply });
    let envelope = Envelope { from: NodeId(3), to: ME, leader: None, message };
    let mut out = Effects::default();
    subject.replica.handle_msg(subject.now, Msg::Peer(envelope), &mut out);
    assert_eq!(out.rejoin_refused_by, Some(NodeId(3)));
    assert_eq!(subject.receive(3, append(3, &[1])), [], "it acknowledges nothing");
    assert_eq!(subject.status().term, Term(0));
    for _ in 0..5 {
        assert_eq!(subject.wait(), [], "it neither asks again nor campaigns");
    }
}

fn append(term: u64, terms: &[u64]) -> PeerMsg {
    let mut buffer = RecordBuffer::default();
    let entries = (1..)
        .zip(terms)
        .map(|(index, &term)| buffer.encode(EntryId::new(term, index), EntryKind::Command, b""))
        .collect();
    PeerMsg::AppendEntries(AppendEntries {
        term: Term(term),
        round: Round(1),
        prev: EntryId::ZERO,
        commit_index: Index::ZERO,
        loss_permille: 0,
        // Lets this replica vote for 3 at once, without waiting for the lease to end.
        transfer_to: Some(NodeId(3)),
        entries,
    })
}

fn vote_request(term: u64, last: (u64, u64)) -> PeerMsg {
    let (term, last) = (Term(term), EntryId::new(last.0, last.1));
    PeerMsg::RequestVote(RequestVote { term, pre: false, transfer: true, last })
}

fn has_finishing_job(subject: &Subject) -> bool {
    subject.jobs.iter().any(|job| job.rejoined)
}

#[test]
fn rejoining_replica_acks_no_append_before_all_peers_replied() {
    let mut subject = Subject::wiped(4);
    let asked = subject.wait();
    let ask = PeerMsg::Rejoin(Rejoin { nonce: NONCE, term: Term(0), last: EntryId::ZERO });
    assert_eq!(asked, vec![ask; 3]);
    assert_eq!(subject.receive(2, reply(3, true, (3, 1))), []);
    assert_eq!(subject.receive(3, reply(3, false, (3, 1))), []);
    assert_eq!(subject.waiting_for(), [4]);
    assert_eq!(subject.receive(2, append(3, &[3])), [], "old R may have voted for 4 in term 5");
    assert_eq!(subject.status().last, EntryId::ZERO);
    assert_eq!(subject.wait().len(), 1, "only the missing member is asked again");
    assert_eq!(subject.receive(4, reply(5, false, (3, 1))), []);
    assert_eq!(subject.waiting_for(), [] as [u16; 0]);
    assert_eq!((subject.status().term, subject.status().voted_for), (Term(5), Some(ME)));
    let sent = subject.receive(2, append(3, &[3]));
    assert!(sent.is_empty(), "term 5 is not durable yet");
    let sent = subject.sync();
    assert!(matches!(sent[..], [PeerMsg::AppendReply(reply)] if reply.term == Term(5)), "{sent:?}");
    assert_eq!(subject.status().last, EntryId::ZERO);
}

/// Starts a replica of three that has lost entries, but knows its term and vote.
fn damaged() -> Subject {
    let hard_state = HardState { term: Term(3), voted_for: Some(NodeId(2)) };
    let loss = Some(Loss::Entries);
    Subject::start(3, Durable { hard_state, loss, ..Durable::default() })
}

#[test]
fn replica_that_knows_its_vote_rejoins_without_asking() {
    let mut subject = damaged();
    assert_eq!(subject.waiting_for(), [] as [u16; 0]);
    subject.receive(3, append(2, &[2]));
    assert_eq!(subject.status().last, EntryId::ZERO, "the leader of an earlier term");
    subject.receive(2, append(3, &[1, 3]));
    let sent = subject.sync();
    assert!(matches!(sent[..], [PeerMsg::AppendReply(_)]), "{sent:?}");
    assert_eq!(subject.receive(3, vote_request(4, (3, 2))), [], "it does not vote yet");
    assert!(!has_finishing_job(&subject), "no leader has named a target");
    subject.wait();
    // The members have changed, which does not matter.
    let PeerMsg::RejoinReply(named) = reply(3, true, (3, 3)) else { unreachable!() };
    let named = RejoinReply { members_changed: true, ..named };
    subject.receive(2, PeerMsg::RejoinReply(named));
    assert_eq!(subject.status().rejoining.unwrap().target, Some(Index(3)));
    subject.receive(2, append(3, &[1, 3, 3]));
    subject.sync();
    assert!(has_finishing_job(&subject));
    subject.sync();
    assert_eq!(subject.status().rejoining, None);
    assert_eq!((subject.status().term, subject.status().voted_for), (Term(3), Some(NodeId(2))));
}

#[test]
fn leader_unknown_to_the_damaged_log_is_asked_to_rejoin() {
    let mut subject = damaged();
    assert_eq!(subject.wait().len(), 2, "no leader is known");
    subject.receive(9, append(4, &[4]));
    subject.sync();
    assert_eq!(subject.wait().len(), 1, "the leader");
    subject.receive(9, reply(4, true, (4, 1)));
    assert!(has_finishing_job(&subject));
}

#[test]
fn rejoin_reply_with_a_wrong_nonce_is_ignored() {
    let mut subject = Subject::wiped(3);
    subject.wait();
    for from in [2, 3] {
        let PeerMsg::RejoinReply(mut reply) = reply(3, false, (3, 1)) else { unreachable!() };
        reply.nonce += 1;
        subject.receive(from, PeerMsg::RejoinReply(reply));
    }
    assert_eq!(subject.waiting_for(), [2, 3]);
    subject.receive(2, reply(3, false, (3, 1)));
    subject.receive(2, reply(3, false, (3, 1)));
    assert_eq!(subject.waiting_for(), [3], "a repeated reply counts once");
}

#[test]
fn rejoin_completes_when_log_is_durable_up_to_leader_target() {
    let mut subject = Subject::wiped(3);
    subject.wait();
    subject.receive(2, reply(3, true, (3, 2)));
    subject.receive(3, reply(3, false, (3, 2)));
    subject.sync();
    subject.receive(2, append(3, &[1, 3]));
    subject.sync();
    assert!(!has_finishing_job(&subject), "no leader has named a target");
    subject.receive(2, reply(3, true, (3, 3)));
    assert_eq!(subject.status().rejoining.unwrap().target, Some(Index(3)));
    subject.receive(2, append(3, &[1, 3, 3]));
    assert!(!has_finishing_job(&subject), "the entries are not durable yet");
    subject.sync();
    assert!(has_finishing_job(&subject));
    assert_eq!(subject.receive(3, vote_request(4, (3, 3))), [], "the durable mark still exists");
    assert_eq!(subject.sync(), []);
    assert_eq!(subject.status().rejoining, None);
    assert_eq!(subject.receive(3, vote_request(3, (2, 9))), [], "its vote in term 3 is spent");
    subject.receive(3, vote_request(4, (3, 3)));
    let sent = subject.sync();
    assert!(matches!(sent[..], [PeerMsg::VoteReply(reply)] if reply.granted), "{sent:?}");
}

#[test]
fn rejoin_target_index_is_discarded_in_a_new_term() {
    let mut subject = Subject::wiped(3);
    subject.wait();
    subject.receive(2, reply(3, true, (3, 1)));
    subject.receive(3, reply(3, false, (3, 1)));
    subject.receive(2, reply(3, true, (3, 1)));
    assert_eq!(subject.status().rejoining.unwrap().target, Some(Index(1)));
    subject.receive(3, append(4, &[3, 4]));
    subject.sync();
    assert!(!has_finishing_job(&subject));
    assert_eq!(subject.status().rejoining.unwrap().target, None);
    subject.receive(2, reply(3, true, (3, 1)));
    assert_eq!(subject.status().rejoining.unwrap().target, None, "2 does not lead term 4");
    subject.receive(3, reply(4, true, (4, 2)));
    assert!(has_finishing_job(&subject));
}

#[test]
fn rejoin_target_inconsistent_with_leader_log_is_rejected() {
    let mut subject = Subject::wiped(3);
    subject.wait();
    subject.receive(2, reply(3, true, (3, 1)));
    subject.receive(3, reply(3, false, (3, 1)));
    subject.receive(2, reply(3, true, (2, 1)));
    subject.receive(2, append(3, &[3, 3]));
    subject.sync();
    assert!(!has_finishing_job(&subject));
    assert_eq!(subject.status().counters.malformed, 1);
    subject.receive(2, reply(3, true, (3, 2)));
    assert!(has_finishing_job(&subject));
}

#[test]
fn restart_during_rejoin_resends_rejoin_requests_and_keeps_log() {
    let hard_state = HardState { term: Term(4), voted_for: None };
    let PeerMsg::AppendEntries(append) = append(4, &[3, 4]) else { unreachable!() };
    let entries = append.entries;
    let loss = Some(Loss::Votes);
    let durable = Durable { hard_state, entries, loss, ..Durable::default() };
    let mut subject = Subject::start(3, durable);
    let last = EntryId::new(4, 2);
    let ask = PeerMsg::Rejoin(Rejoin { nonce: NONCE, term: Term(4), last });
    assert_eq!(subject.wait(), vec![ask; 2]);
    subject.receive(2, reply(3, false, (3, 1)));
    subject.receive(3, reply(3, false, (3, 1)));
    assert_eq!((subject.status().term, subject.status().voted_for), (Term(4), Some(ME)));
}

#[test]
fn rejoining_replica_without_replies_never_campaigns() {
    for replicas in [1, 3] {
        let mut subject = Subject::wiped(replicas);
        for _ in 0..200 {
            let sent = subject.wait();
            assert!(sent.iter().all(|message| message.name() == "Rejoin"), "{sent:?}");
        }
        let counters = subject.status().counters;
        assert_eq!((counters.pre_votes, counters.elections), (0, 0));
        assert!(subject.status().rejoining.is_some());
    }
}

#[test]
fn rejoining_replica_ignores_timeout_now() {
    let mut subject = Subject::wiped(3);
    subject.wait();
    subject.receive(2, reply(3, true, (3, 1)));
    subject.receive(3, reply(3, false, (3, 1)));
    subject.receive(2, append(3, &[3]));
    subject.sync();
    let request = TimeoutNow { term: Term(3), last: EntryId::new(3, 1) };
    assert_eq!(subject.receive(2, PeerMsg::TimeoutNow(request)), []);
    assert_eq!(subject.status().term, Term(3));
    assert_eq!(subject.status().counters.ignored_while_rejoining, 1);
}
