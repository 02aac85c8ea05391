//! Figure 2 of the Raft paper ("In Search of an Understandable Consensus Algorithm", extended
//! version), rule by rule: one test each, directly against the core, in the figure's order.
//!
//! Where Bowline differs from the figure, the test says so: it asks for pre-votes first (thesis
//! 9.6), refuses votes silently unless its own term is higher, and protects a recently heard leader
//! from candidates (§6). The last section is about what the figure leaves open: which peers a
//! leader sends to, and what it admits.

#[path = "paper/subject.rs"]
mod subject;

use std::time::Duration;

use bowline::config::{Config, FanOut};
use bowline::feature_level::FeatureLevel;
use bowline::raft::{
    AppendEntries, AppendOutcome, AppendReply, DiskState, HardState, PeerMsg, RefusalReason,
    RequestVote, RoleName, VoteReply,
};
use bowline::record::Entry;
use bowline::types::{EntryId, Index, NodeId, Round, Term};

use subject::{ME, Step, Subject, append, matching, matching_at, rejecting, request, vote};

fn match_at(index: u64) -> AppendOutcome {
    AppendOutcome::Match { index: Index(index) }
}

// State.

/// Persistent state is durable before a message reveals it: the vote (§5.2).
#[test]
fn vote_is_durable_before_the_vote_reply_is_sent() {
    let mut subject = Subject::restarted(3, 0, &[]);
    assert!(subject.receive(2, request(1, (0, 0))).votes().is_empty());
    let voted = HardState { term: Term(1), voted_for: Some(NodeId(2)) };
    assert_eq!(subject.jobs[0].hard_state, Some(voted));
    assert_eq!(subject.sync().votes().len(), 1);
}

/// Persistent state is durable before a message reveals it: the term, even if it arrives with an
/// empty append (§5.1).
#[test]
fn new_term_is_durable_before_a_reply_with_it_is_sent() {
    let mut subject = Subject::restarted(3, 4, &[]);
    assert!(subject.receive(2, append(5, (0, 0), &[], 0)).sent.is_empty());
    assert_eq!(subject.jobs[0].hard_state.unwrap().term, Term(5));
    assert_eq!(subject.sync().outcomes(), [match_at(0)]);
    assert_eq!(
        subject.receive(2, append(5, (0, 0), &[], 0)).outcomes(),
        [match_at(0)],
        "the term is durable by now"
    );
}

/// Persistent state is durable before a message reveals it: log entries (§5.3).
#[test]
fn log_entries_are_durable_before_acknowledgement() {
    let mut subject = Subject::restarted(3, 1, &[]);
    assert!(subject.receive(2, append(1, (0, 0), &[1, 1], 0)).sent.is_empty());
    assert_eq!(subject.jobs[0].entries.len(), 2);
    let heartbeat = subject.receive(2, append(1, (1, 2), &[], 0));
    assert_eq!(heartbeat.outcomes(), [match_at(0)], "answered at once, for the durable entries");
    assert_eq!(subject.sync().outcomes(), [match_at(2)]);
}

/// Persistent state: when the write of an entry is completed, the completion does not count if
/// another entry has replaced the written one in the meantime.
#[test]
fn sync_of_a_replaced_entry_does_not_cover_its_replacement() {
    let mut subject = Subject::restarted(3, 1, &[]);
    subject.receive(2, append(1, (0, 0), &[1, 1], 0));
    subject.receive(3, append(2, (1, 1), &[2], 0));
    subject.sync_one();
    assert_eq!(subject.status().durable_index, Index(0), "2@1 was synced, but 2@2 has replaced it");
    subject.sync_one();
    assert_eq!(subject.status().durable_index, Index(2));
}

/// Persistent state survives a restart; the commit index and the last applied index start at 0.
#[test]
fn restart_restores_only_term_vote_and_log() {
    let subject = Subject::with_vote(3, 3, Some(NodeId(2)), &[1, 3]);
    let status = subject.status();
    assert_eq!((status.term, status.voted_for), (Term(3), Some(NodeId(2))));
    assert_eq!(subject.log(), [1, 3]);
    assert_eq!((status.commit_index, status.applied_index), (Index(0), Index(0)));
    assert_eq!((status.role, status.leader), (RoleName::Follower, None));
}

// RequestVote, receiver.

/// Rule 1: a request of an earlier term is denied (§5.1).
#[test]
fn vote_request_of_an_old_term_is_denied() {
    let mut subject = Subject::restarted(3, 5, &[]);
    let [reply] = subject.receive(2, request(4, (4, 9))).votes()[..] else { panic!("no reply") };
    assert!(!reply.granted);
    assert_eq!(reply.term, Term(5), "the candidate learns the term");
    assert_eq!(subject.status().voted_for, None);
}

/// Rule 2, first half: one vote per term, repeated if the same candidate asks again, because
/// replies get lost (§5.2).
#[test]
fn replica_grants_at_most_one_vote_per_term() {
    let mut subject = Subject::with_vote(5, 3, Some(NodeId(2)), &[]);
    let mut votes = |from| {
        subject.receive(from, request(3, (0, 0)));
        subject.sync();
        subject.receive(from, request(3, (0, 0))).votes()
    };
    assert!(votes(3).is_empty(), "it has voted in term 3 before the restart");
    assert!(votes(2).iter().all(|reply| reply.granted && reply.term == Term(3)));
    assert_eq!(votes(2).len(), 1);
    assert!(votes(4).is_empty());
    assert_eq!(subject.status().voted_for, Some(NodeId(2)));
}

/// Rule 2, second half: only for a log that is at least as up to date. The later last term wins;
/// the length decides between equal ones (§5.4.1).
#[test]
fn vote_is_granted_only_to_an_up_to_date_log() {
    let own = [1, 1, 3];
    for (last, granted) in [
        ((3, 3), true),
        ((3, 4), true),
        ((4, 1), true),
        ((3, 2), false),
        ((2, 9), false),
        ((0, 0), false),
    ] {
        let mut subject = Subject::restarted(3, 3, &own);
        // The replica protects a leader that it may have heard before the restart.
        subject.wait(Config::server().election_timeout_min);
        subject.receive(2, request(9, last));
        let votes = subject.sync().votes();
        assert_eq!(votes.iter().any(|reply| reply.granted), granted, "{last:?} against {own:?}");
        assert_eq!(subject.status().voted_for.is_some(), granted);
    }
}

// AppendEntries, receiver.

/// Rule 1: an append of an earlier term is rejected (§5.1).
#[test]
fn append_entries_of_an_old_term_is_rejected() {
    let mut subject = Subject::restarted(3, 5, &[5]);
    let step = subject.receive(2, append(4, (0, 0), &[4], 1));
    let [ref answer] = step.sent[..] else { panic!("{step:?}") };
    let PeerMsg::AppendReply(AppendReply { term, round, outcome, .. }) = answer.message else {
        panic!("{answer:?}")
    };
    assert_eq!((term, round), (Term(5), Round(0)), "the deposed leader learns the term");
    assert!(matches!(outcome, AppendOutcome::Reject { .. }));
    assert_eq!(subject.log(), [5]);
    assert_eq!((subject.status().leader, subject.status().commit_index), (None, Index(0)));
}

/// Rule 2: an append is rejected if the log does not contain the entry before the new ones (§5.3).
#[test]
fn append_entries_without_matching_previous_entry_is_rejected() {
    // Past the end; and with another term at that index, a later and an earlier one.
    for prev in [(3, 4), (4, 3), (2, 3)] {
        let mut subject = Subject::restarted(3, 4, &[1, 1, 3]);
        let mut step = subject.receive(2, append(4, prev, &[4], 9));
        step.absorb(subject.sync());
        let outcomes = step.outcomes();
        let [AppendOutcome::Reject { refused, hint }] = outcomes[..] else {
            panic!("{prev:?}: {outcomes:?}")
        };
        assert_eq!(refused, Index(prev.1));
        assert!(hint.index < Index(prev.1), "{prev:?}: {hint:?} is not before it");
        assert_eq!(subject.log(), [1, 1, 3]);
        assert_eq!(subject.status().commit_index, Index(0), "nothing is proven");
    }
}

/// Rule 3: an entry that conflicts with a new one (same index, other term) is removed, with all
/// that follow it (§5.3).
#[test]
fn conflicting_append_entries_request_truncates_the_log() {
    let mut subject = Subject::restarted(3, 2, &[1, 2, 2, 2]);
    subject.receive(2, append(3, (1, 1), &[3], 0));
    assert_eq!(subject.log(), [1, 3]);
    assert_eq!(subject.status().durable_index, Index(1), "the replacement is not durable");
    assert_eq!(subject.jobs[0].entries[0].id(), EntryId::new(3, 2));
    assert_eq!(subject.sync().outcomes(), [match_at(2)]);
}

/// Rule 3, conversely: without a conflict nothing is removed. So a late append that ends before the
/// log does not revoke an acknowledgement (§5.3).
#[test]
fn append_entries_without_conflict_does_not_truncate_the_log() {
    let mut subject = Subject::restarted(3, 1, &[]);
    subject.receive(2, append(1, (0, 0), &[1, 1, 1, 1], 0));
    assert_eq!(subject.sync().outcomes(), [match_at(4)]);
    let late = subject.receive(2, append(1, (0, 0), &[1, 1], 0));
    assert_eq!(subject.log(), [1, 1, 1, 1]);
    assert!(subject.jobs.is_empty(), "nothing to write");
    assert_eq!(late.outcomes(), [match_at(4)], "the acknowledgement stays");
}

/// Rule 4: entries that the log lacks are appended (§5.3).
#[test]
fn follower_appends_only_entries_missing_from_its_log() {
    let mut subject = Subject::restarted(3, 1, &[1, 1]);
    subject.receive(2, append(1, (1, 1), &[1, 1, 1], 0));
    assert_eq!(subject.log(), [1, 1, 1, 1]);
    let written: Vec<Index> = subject.jobs[0].entries.iter().map(Entry::index).collect();
    assert_eq!(written, [Index(3), Index(4)]);
}

/// Rule 5: the commit index follows the leader's, up to the last entry that the message proves
/// equal to the leader's log, and never falls (§5.3).
#[test]
fn follower_commits_only_entries_known_to_match_the_leader() {
    let mut subject = Subject::restarted(3, 2, &[1, 1, 2]);
    subject.receive(2, append(3, (1, 1), &[], 9));
    assert_eq!(subject.status().commit_index, Index(1), "2@1 and 3@2 may still be replaced");
    subject.receive(2, append(3, (1, 1), &[1], 9));
    assert_eq!(subject.status().commit_index, Index(2));
    subject.receive(2, append(3, (1, 2), &[3, 3], 3));
    assert_eq!(subject.status().commit_index, Index(3), "no further than the leader's");
    subject.receive(2, append(3, (0, 0), &[], 0));
    assert_eq!(subject.status().commit_index, Index(3), "it never falls");
}

// All servers.

/// Committed entries are applied in order, each once (§5.3).
#[test]
fn committed_entries_are_applied_once_in_order() {
    let mut subject = Subject::restarted(3, 1, &[]);
    assert!(subject.receive(2, append(1, (0, 0), &[1, 1, 1], 0)).applied().is_empty());
    assert_eq!(subject.receive(2, append(1, (1, 3), &[], 2)).applied(), [1, 2]);
    assert!(subject.receive(2, append(1, (1, 3), &[], 2)).applied().is_empty());
    assert_eq!(subject.receive(2, append(1, (1, 3), &[], 3)).applied(), [3]);
    assert_eq!(subject.status().applied_index, Index(0), "until the state machine reports it");
    subject.apply();
    assert_eq!(subject.status().applied_index, Index(3));
}

/// A higher term in any message is adopted and makes a follower of every role (§5.1). But a vote
/// request is ignored while a leader may hold a lease (§6).
#[test]
fn higher_term_makes_a_replica_step_down_to_follower() {
    let rejected = |term| {
        let outcome = AppendOutcome::Reject { refused: Index(0), hint: EntryId::ZERO };
        PeerMsg::AppendReply(AppendReply {
            term: Term(term),
            round: Round(0),
            level: FeatureLevel::OLDEST,
            disk: DiskState::Healthy,
            outcome,
        })
    };
    let follower = || Subject::restarted(3, 1, &[]);
    let candidate = || {
        let mut subject = Subject::restarted(3, 1, &[]);
        subject.stand();
        assert_eq!(subject.status().role, RoleName::Candidate);
        subject
    };
    let leader = || {
        let (subject, _) = Subject::leader(3, 2, &[]);
        assert_eq!(subject.status().role, RoleName::Leader);
        subject
    };
    let roles: [(&str, &dyn Fn() -> Subject); 3] =
        [("follower", &follower), ("candidate", &candidate), ("leader", &leader)];
    for (name, start) in roles {
        for message in [append(9, (0, 0), &[], 0), rejected(9), vote(9, false), request(9, (0, 0))]
        {
            let mut subject = start();
            let protected = matches!(message, PeerMsg::RequestVote(_));
            if protected && name == "leader" {
                let before = subject.status().term;
                subject.receive(2, message);
                assert_eq!(subject.status().term, before, "a quorum has just answered it");
                continue;
            }
            if protected && name == "follower" {
                subject.wait(Config::server().election_timeout_min);
            }
            subject.receive(2, message.clone());
            let status = subject.status();
            assert_eq!((status.role, status.term), (RoleName::Follower, Term(9)), "{message:?}");
            // Only a candidate of that term gets the vote.
            let asked = protected && name != "leader";
            assert_eq!(status.voted_for, asked.then_some(NodeId(2)), "{name}, {message:?}");
        }
    }
}

// Followers.

/// A follower that neither hears its leader nor votes for an election timeout becomes a candidate
/// (§5.2).
#[test]
fn election_timeout_without_heartbeats_starts_a_pre_vote() {
    let config = Config::server();
    let mut subject = Subject::restarted(3, 1, &[]);
    for _ in 0..100 {
        subject.receive(2, append(1, (0, 0), &[], 0));
        subject.sync();
        assert!(subject.wait(config.election_timeout_min * 9 / 10).sent.is_empty());
        assert_eq!(subject.status().role, RoleName::Follower);
    }
    let asked = subject.wait(config.election_timeout_max);
    assert_eq!(subject.status().role, RoleName::PreCandidate);
    assert!(asked.requests().iter().all(|(_, request)| request.pre), "pre-votes first");
    assert_eq!(subject.status().term, Term(1), "pre-votes raise no term (thesis 9.6)");
}

/// Only a granted vote restarts the election timeout; a denied one does not, nor does an append of
/// a deposed leader.
#[test]
fn granted_but_not_denied_vote_restarts_election_timeout() {
    let config = Config::server();
    let at_half = |message| {
        let mut subject = Subject::restarted(3, 4, &[4]);
        subject.wait(config.election_timeout_min);
        let before = subject.until_timeout();
        subject.receive(2, message);
        (before, subject.until_timeout())
    };
    let (before, after) = at_half(request(5, (4, 1)));
    assert!(after > before && after >= config.election_timeout_min);
    for ignored in
        [request(5, (3, 9)), request(3, (4, 9)), append(3, (0, 0), &[], 0), vote(9, false)]
    {
        let (before, after) = at_half(ignored.clone());
        assert_eq!(before, after, "{ignored:?}");
    }
}

/// A replica that has heard a leader within the minimum election timeout grants no vote and no
/// pre-vote (§6).
#[test]
fn no_vote_is_granted_soon_after_a_leader_message() {
    let config = Config::server();
    let mut subject = Subject::restarted(3, 1, &[]);
    subject.wait(config.election_timeout_min);
    subject.receive(2, append(1, (0, 0), &[], 0));
    let last = EntryId::ZERO;
    let ask = RequestVote { term: Term(2), pre: true, transfer: false, last };
    for message in [request(2, (0, 0)), PeerMsg::RequestVote(ask)] {
        subject.receive(3, message);
        assert!(subject.sync().votes().is_empty());
        assert_eq!(subject.status().term, Term(1));
    }
    subject.wait(config.election_timeout_min);
    subject.receive(3, request(2, (0, 0)));
    assert_eq!(subject.sync().votes().len(), 1, "the leader has been silent for too long");
}

// Candidates.

/// An election starts with a new term, a vote for itself, a new timeout, and requests to all others
/// (§5.2).
#[test]
fn election_increments_term_votes_for_self_and_asks_all() {
    let mut subject = Subject::restarted(5, 3, &[1, 3]);
    let asked = subject.stand();
    let status = subject.status();
    assert_eq!((status.role, status.term), (RoleName::Candidate, Term(4)));
    assert_eq!(status.voted_for, Some(ME));
    let real: Vec<_> = asked.requests().into_iter().filter(|(_, request)| !request.pre).collect();
    let peers: Vec<NodeId> = real.iter().map(|(to, _)| *to).collect();
    assert_eq!(peers, [NodeId(2), NodeId(3), NodeId(4), NodeId(5)]);
    for (_, request) in real {
        assert_eq!((request.term, request.last), (Term(4), EntryId::new(3, 2)));
    }
    assert!(subject.until_timeout() > Duration::ZERO);
}

/// Votes are requested only once the candidate's own vote is durable. Before that, the own vote
/// does not count.
#[test]
fn candidate_requests_votes_after_its_own_vote_is_durable() {
    let mut subject = Subject::restarted(3, 3, &[]);
    subject.wait(subject.until_timeout());
    let granted = VoteReply { term: Term(4), pre: true, granted: true };
    let step = subject.receive(2, PeerMsg::VoteReply(granted));
    assert_eq!(subject.status().role, RoleName::Candidate);
    assert!(step.sent.is_empty());
    subject.receive(2, vote(4, true));
    assert_eq!(subject.status().role, RoleName::Candidate, "two of three, but one not durable");
    subject.sync();
    assert_eq!(subject.status().role, RoleName::Leader);
}

/// The candidate's own vote must be durable even if all other replicas have voted for it.
#[test]
fn candidate_becomes_leader_only_after_own_vote_is_durable() {
    let mut subject = Subject::restarted(5, 3, &[]);
    subject.wait(subject.until_timeout());
    for peer in [2, 3, 4] {
        let granted = VoteReply { term: Term(4), pre: true, granted: true };
        subject.receive(peer, PeerMsg::VoteReply(granted));
    }
    for peer in [2, 3, 4, 5] {
        subject.receive(peer, vote(4, true));
        assert_eq!(subject.status().role, RoleName::Candidate);
    }
    subject.sync();
    assert_eq!(subject.status().role, RoleName::Leader);
}

/// Votes of this term from a majority of distinct replicas make a leader (§5.2).
#[test]
fn candidate_with_a_majority_of_votes_becomes_leader() {
    let mut subject = Subject::restarted(5, 3, &[]);
    subject.stand();
    let pre_vote =
        |term| PeerMsg::VoteReply(VoteReply { term: Term(term), pre: true, granted: true });
    for (from, message) in [
        (2, vote(4, true)),
        (2, vote(4, true)),
        (3, vote(3, true)),
        (3, pre_vote(4)),
        (3, pre_vote(5)),
        (4, vote(4, false)),
    ] {
        subject.receive(from, message);
        assert_eq!(subject.status().role, RoleName::Candidate, "two of five");
    }
    subject.receive(5, vote(4, true));
    assert_eq!(subject.status().role, RoleName::Leader);
}

/// An append of this term's leader makes a candidate a follower (§5.2).
#[test]
fn candidate_becomes_follower_of_a_leader_of_its_term() {
    let mut subject = Subject::restarted(3, 3, &[]);
    subject.stand();
    subject.receive(3, append(3, (0, 0), &[], 0));
    assert_eq!(subject.status().role, RoleName::Candidate, "that term is over");
    subject.receive(3, append(4, (0, 0), &[], 0));
    let status = subject.status();
    assert_eq!((status.role, status.term), (RoleName::Follower, Term(4)));
    assert_eq!((status.leader, status.voted_for), (Some(NodeId(3)), Some(ME)), "it keeps its vote");
}

/// If no candidate wins, the timeout starts the next election (§5.2).
#[test]
fn election_without_a_winner_is_repeated_in_the_next_term() {
    let mut subject = Subject::restarted(3, 3, &[]);
    subject.stand();
    let mut step = Step::default();
    while subject.status().role == RoleName::Candidate {
        step.absorb(subject.wait(subject.until_timeout()));
    }
    assert_eq!(subject.status().role, RoleName::PreCandidate);
    let asked = step.requests();
    assert!(asked.iter().any(|(_, request)| request.pre && request.term == Term(5)));
    let granted = VoteReply { term: Term(5), pre: true, granted: true };
    subject.receive(3, PeerMsg::VoteReply(granted));
    assert_eq!((subject.status().role, subject.status().term), (RoleName::Candidate, Term(5)));
}

// Leaders.

/// A new leader sends to all peers at once, and again at each heartbeat interval, to prevent
/// elections (§5.2). The first appends carry the new term's no-op (§8).
#[test]
fn new_leader_sends_append_entries_at_once_then_heartbeats() {
    let config = Config::server();
    let (mut subject, mut step) = Subject::leader(3, 2, &[1]);
    let peers = [2, 3];
    for peer in peers {
        let first = step.append_to(peer).expect("an append at once");
        assert_eq!((first.term, first.prev), (Term(2), EntryId::new(1, 1)));
    }
    for _ in 0..20 {
        for peer in peers {
            if let Some(append) = step.append_to(peer) {
                subject.receive(peer, matching(&append));
            }
        }
        step = subject.wait(config.heartbeat_interval);
        for peer in peers {
            assert!(step.append_to(peer).is_some(), "no heartbeat to {peer}");
        }
    }
    assert_eq!(subject.status().role, RoleName::Leader);
}

/// A command is appended to the leader's log, and answered when it is applied (§5.3).
#[test]
fn client_command_is_replicated_committed_and_applied() {
    let (mut subject, first) = Subject::leader(3, 1, &[]);
    subject.receive(2, matching(&first.append_to(2).unwrap()));
    assert_eq!(subject.status().commit_index, Index(1), "the no-op of its term");
    let sent = subject.write(b"put");
    assert_eq!(subject.log(), [1, 1]);
    let append = sent.append_to(2).expect("sent while its own disk writes");
    assert_eq!(append.entries.last().unwrap().payload(), &b"put"[..]);
    assert!(subject.sync().applied().is_empty(), "one of three is no majority");
    let step = subject.receive(2, matching(&append));
    assert_eq!(step.applied(), [2]);
    assert!(step.applied[0].as_leader, "so it answers the client");
}

/// A follower appends no command; it redirects the client (§8).
#[test]
fn follower_refuses_commands_and_names_the_leader() {
    let mut subject = Subject::restarted(3, 1, &[]);
    subject.receive(2, append(1, (0, 0), &[], 0));
    let step = subject.write(b"put");
    assert!(subject.log().is_empty());
    let [refusal] = step.refused[..] else { panic!("{step:?}") };
    assert_eq!((refusal.reason, refusal.leader), (RefusalReason::NotLeader, Some(NodeId(2))));
}

/// A follower gets the entries that it lacks from its next index on; its acknowledgement advances
/// next index and match index (§5.3).
#[test]
fn follower_gets_missing_entries_from_its_next_index_on() {
    let (mut subject, first) = Subject::leader(3, 3, &[1, 2]);
    let of_peer = |subject: &Subject| {
        let peer = subject.status().peers[0];
        (peer.id, peer.match_index, peer.next_index)
    };
    let append = first.append_to(2).unwrap();
    assert_eq!(append.prev, EntryId::new(2, 2), "it starts after the leader's last entry");
    assert_eq!(of_peer(&subject).1, Index(0), "nothing is known to match");
    subject.receive(2, matching(&append));
    assert_eq!(of_peer(&subject), (NodeId(2), Index(3), Index(4)));
    subject.sync();
    let next = subject.write(b"next").append_to(2).unwrap();
    assert_eq!((next.prev, next.entries.len()), (EntryId::new(3, 3), 1));
}

/// A rejection lowers the next index to the hint, where the logs may match (§5.3).
#[test]
fn append_rejection_lowers_next_index_to_its_hint() {
    let (mut subject, first) = Subject::leader(3, 5, &[1, 1, 2, 3, 4]);
    let append = first.append_to(2).unwrap();
    assert_eq!(append.prev, EntryId::new(4, 5));
    // The follower's log is 1 1 2 2 2, without term 3, which the leader has at index 4.
    let again = subject.receive(2, rejecting(&append, (2, 4))).append_to(2).expect("at once");
    assert_eq!(again.prev, EntryId::new(2, 3), "the last entry of a term up to 2");
    assert_eq!(again.entries.len(), 3, "3@4, 4@5 and its own");
    let stale = subject.receive(2, rejecting(&append, (0, 0)));
    assert_eq!(stale.append_to(2), None, "a repeated reply changes nothing");
    subject.receive(2, matching(&again));
    assert_eq!(subject.status().peers[0].match_index, Index(6));
}

/// A useless hint still lowers the next index by one, and never below the match index.
#[test]
fn append_rejection_without_usable_hint_decrements_next_index() {
    let (mut subject, first) = Subject::leader(3, 5, &[1, 1, 1]);
    let mut append = first.append_to(2).unwrap();
    for expected in [2, 1, 0] {
        let useless = (9, append.prev.index.0);
        append = subject.receive(2, rejecting(&append, useless)).append_to(2).expect("at once");
        assert_eq!(append.prev.index, Index(expected));
    }
    assert_eq!(append.entries.len(), 4, "from the first entry");
}

/// A reply of an earlier term says nothing about this term's log (§5.1).
#[test]
fn append_reply_of_an_earlier_term_is_ignored() {
    let (mut subject, first) = Subject::leader(3, 3, &[1]);
    let append = first.append_to(2).unwrap();
    subject.receive(2, matching(&AppendEntries { term: Term(2), ..append.clone() }));
    assert_eq!(subject.status().peers[0].match_index, Index(0));
    subject.receive(2, matching(&append));
    assert_eq!(subject.status().peers[0].match_index, Index(2));
}

/// An entry that a majority of all replicas holds is committed; the leader counts itself when its
/// own disk has the entry (§5.3).
#[test]
fn entry_durable_on_a_majority_is_committed() {
    let (mut subject, first) = Subject::leader(5, 1, &[]);
    for peer in [2, 3] {
        assert_eq!(subject.status().commit_index, Index(0));
        subject.receive(peer, matching(&first.append_to(peer).unwrap()));
    }
    assert_eq!(subject.status().commit_index, Index(1));
    let sent = subject.write(b"put");
    for peer in [2, 3] {
        subject.receive(peer, matching(&sent.append_to(peer).unwrap()));
        subject.receive(peer, matching(&sent.append_to(peer).unwrap()));
    }
    assert_eq!(
        subject.status().commit_index,
        Index(1),
        "two of five, and the leader's is not durable"
    );
    subject.sync();
    assert_eq!(subject.status().commit_index, Index(2));
}

/// An entry of an earlier term is never committed by counting replicas, only together with one of
/// the leader's own term (§5.4.2, Figure 8).
#[test]
fn entry_of_earlier_term_is_not_committed_by_counting_replicas() {
    let (mut subject, first) = Subject::leader(5, 4, &[1, 2]);
    // Two followers have 2@2, as in the figure, but not yet the leader's no-op.
    for peer in [2, 3] {
        let append = first.append_to(peer).unwrap();
        let index = append.prev.index;
        assert_eq!(index, Index(2));
        let reply = AppendReply {
            term: append.term,
            round: append.round,
            level: FeatureLevel::OLDEST,
            disk: DiskState::Healthy,
            outcome: AppendOutcome::Match { index },
        };
        subject.receive(peer, PeerMsg::AppendReply(reply));
    }
    assert_eq!(subject.status().peers[1].match_index, Index(2));
    assert_eq!(subject.status().commit_index, Index(0), "although a majority holds 2@2");
    for peer in [2, 3] {
        subject.receive(peer, matching(&first.append_to(peer).unwrap()));
    }
    assert_eq!(subject.status().commit_index, Index(3), "its no-op commits both");
}

// Sending and admission, which the figure leaves open.

/// A peer that is down does not answer. So a message in flight to this peer must not keep the
/// leader from sending to the peers that a quorum needs.
#[test]
fn unreachable_peer_does_not_delay_replication_to_others() {
    let config = Config { fan_out: FanOut::Thrifty, ..Config::server() };
    let (mut subject, mut step) = Subject::leader_with(&config, 3, 1, &[]);
    for _ in 0..50 {
        for append in step.appends_to(2) {
            step.absorb(subject.receive(2, matching(&append)));
        }
        step = subject.wait(config.heartbeat_interval / 3);
        let written = subject.write(b"put");
        let sent = written.append_to(2).expect("sent at once");
        assert_eq!(sent.entries.len(), 1, "{sent:?}");
        step.absorb(written);
        step.absorb(subject.sync());
    }
    assert_eq!(subject.status().peers[1].match_index, Index(0), "the other never answered");
}

/// A follower acknowledges entries only when its disk has them. A read that is waiting at the same
/// time needs only a reply that requires no disk write.
#[test]
fn read_index_is_confirmed_without_follower_disk_writes() {
    let config = Config { lease_reads: false, ..Config::server() };
    let (mut subject, first) = Subject::leader_with(&config, 3, 1, &[]);
    for peer in [2, 3] {
        subject.receive(peer, matching(&first.append_to(peer).unwrap()));
    }
    subject.apply();
    let sent = subject.write_and_read(b"put");
    for peer in [2, 3] {
        let [heartbeat, append] = &sent.appends_to(peer)[..] else { panic!("{sent:?}") };
        assert!(heartbeat.entries.is_empty() && append.entries.len() == 1, "{sent:?}");
        assert_eq!(heartbeat.round, append.round, "a follower may answer either first");
    }
    assert_eq!(sent.reads, 0, "another leader may have been elected");
    let heartbeat = &sent.appends_to(2)[0];
    assert_eq!(subject.receive(2, matching(heartbeat)).reads, 1);
    assert_eq!(subject.status().commit_index, Index(1), "the write is on no other disk");
}

/// Small writes must not starve a large one: until the limit on uncommitted bytes is reached, a
/// write of any size is accepted, and after that none.
#[test]
fn write_of_any_size_is_accepted_below_uncommitted_bytes_limit() {
    let config = Config { uncommitted_bytes_max: 200, ..Config::server() };
    let (mut subject, first) = Subject::leader_with(&config, 3, 1, &[]);
    let append = first.append_to(2).unwrap();
    assert!(subject.write(b"a small one").refused.is_empty());
    assert!(subject.write(&[7; 1_000]).refused.is_empty());
    let refused = subject.write(b"a small one").refused;
    assert!(matches!(refused[..], [refusal] if refusal.reason == RefusalReason::Busy));
    subject.sync();
    let mut step = subject.receive(2, matching(&append));
    while let Some(append) = step.append_to(2) {
        step = subject.receive(2, matching(&append));
    }
    assert!(subject.write(b"a small one").refused.is_empty(), "{:?}", subject.status());
}

// The feature level of the cluster, which the paper does not have.

/// A leader raises the feature level once all peers have told it a higher one in its term, and once
/// only. Its log then needs a program of that level from before the entry is written.
#[test]
fn leader_raises_the_feature_level_once_all_members_have_told_theirs() {
    let config = Config { feature_level: FeatureLevel::V0_2, ..Config::server() };
    let levels = |subject: &Subject| {
        let jobs = subject.jobs.iter();
        jobs.map(|job| (job.feature_level, job.entries.len())).collect::<Vec<_>>()
    };
    let (mut subject, first) = Subject::leader_with(&config, 3, 1, &[]);
    subject.receive(2, matching_at(FeatureLevel::V0_2, &first.append_to(2).unwrap()));
    subject.apply();
    assert_eq!(subject.status().commit_index, Index(1), "its no-op is committed");
    assert_eq!(subject.log(), [1], "replica 3 has told nothing");
    subject.receive(3, matching_at(FeatureLevel::V0_1, &first.append_to(3).unwrap()));
    assert_eq!(subject.log(), [1], "replica 3 has the older program");
    let again = subject.wait(config.heartbeat_interval).append_to(3).unwrap();
    let step = subject.receive(3, matching_at(FeatureLevel::V0_2, &again));
    assert_eq!(subject.log(), [1, 1]);
    assert_eq!(levels(&subject), [(FeatureLevel::V0_2, 1)]);
    assert_eq!(subject.status().feature_level, FeatureLevel::V0_1, "it is not committed");
    let raising = step.append_to(2).unwrap();
    assert_eq!(raising.entries[0].feature_level(), Some(FeatureLevel::V0_2));
    subject.sync();
    subject.receive(2, matching_at(FeatureLevel::V0_2, &raising));
    assert_eq!(subject.status().feature_level, FeatureLevel::V0_2);
    subject.wait(config.heartbeat_interval);
    assert_eq!(subject.log(), [1, 1], "it is raised once");
}

/// A new leader does not raise the level on the word of an earlier one, and a peer that has gone
/// back to an earlier version keeps it from rising.
#[test]
fn leader_forgets_the_feature_level_of_a_peer_that_was_downgraded() {
    let config = Config { feature_level: FeatureLevel::V0_2, ..Config::server() };
    let (mut subject, first) = Subject::leader_with(&config, 3, 1, &[]);
    let append = first.append_to(3).unwrap();
    subject.receive(3, matching_at(FeatureLevel::V0_2, &append));
    let later = subject.wait(config.heartbeat_interval);
    subject.receive(3, matching_at(FeatureLevel::V0_1, &later.append_to(3).unwrap()));
    subject.receive(2, matching_at(FeatureLevel::V0_2, &later.append_to(2).unwrap()));
    assert_eq!(subject.log(), [1]);
}
