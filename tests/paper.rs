//! Figure 2 of the Raft paper ("In Search of an Understandable Consensus Algorithm", extended
//! version), rule by rule: one test each, straight against the core, in the figure's order.
//!
//! Where Bowline does more than the figure asks, the test says so: it asks for pre-votes first
//! (thesis 9.6), refuses votes by silence unless its own term is higher, and protects a leader
//! that was heard lately from candidates (§6).

#[path = "paper/subject.rs"]
mod subject;

use std::time::Duration;

use bowline::config::Config;
use bowline::raft::{
    AppendEntries, AppendOutcome, AppendReply, DiskState, HardState, PeerMsg, RefusalReason,
    RequestVote, RoleName, VoteReply,
};
use bowline::record::Entry;
use bowline::types::{EntryId, Index, NodeId, Round, Term};

use subject::{ME, Step, Subject, append, matching, rejecting, request, vote};

fn at(index: u64) -> AppendOutcome {
    AppendOutcome::Match { index: Index(index) }
}

// State.

/// Persistent state is on disk before an answer shows it: the vote (§5.2).
#[test]
fn a_vote_is_on_disk_before_it_is_shown() {
    let mut subject = Subject::restarted(3, 0, &[]);
    assert!(subject.hear(2, request(1, (0, 0))).votes().is_empty());
    let voted = HardState { term: Term(1), voted_for: Some(NodeId(2)) };
    assert_eq!(subject.jobs[0].hard_state, Some(voted));
    assert_eq!(subject.sync().votes().len(), 1);
}

/// Persistent state: the term, also where it comes with an empty append (§5.1).
#[test]
fn a_term_is_on_disk_before_it_is_shown() {
    let mut subject = Subject::restarted(3, 4, &[]);
    assert!(subject.hear(2, append(5, (0, 0), &[], 0)).sent.is_empty());
    assert_eq!(subject.jobs[0].hard_state.unwrap().term, Term(5));
    assert_eq!(subject.sync().outcomes(), [at(0)]);
    assert_eq!(subject.hear(2, append(5, (0, 0), &[], 0)).outcomes(), [at(0)], "known by now");
}

/// Persistent state: log entries (§5.3).
#[test]
fn entries_are_on_disk_before_they_are_vouched_for() {
    let mut subject = Subject::restarted(3, 1, &[]);
    assert!(subject.hear(2, append(1, (0, 0), &[1, 1], 0)).sent.is_empty());
    assert_eq!(subject.jobs[0].entries.len(), 2);
    let heartbeat = subject.hear(2, append(1, (1, 2), &[], 0));
    assert_eq!(heartbeat.outcomes(), [at(0)], "answered at once, for what is on disk");
    assert_eq!(subject.sync().outcomes(), [at(2)]);
}

/// The same, where the entries are replaced while the disk is at work: the old ones' completion
/// vouches for nothing that stands at their index now.
#[test]
fn a_completion_counts_only_for_the_entries_that_it_names() {
    let mut subject = Subject::restarted(3, 1, &[]);
    subject.hear(2, append(1, (0, 0), &[1, 1], 0));
    subject.hear(3, append(2, (1, 1), &[2], 0));
    subject.sync_one();
    assert_eq!(subject.status().durable_index, Index(0), "2@1 was on disk, but is 2@2 now");
    subject.sync_one();
    assert_eq!(subject.status().durable_index, Index(2));
}

/// Persistent state outlives a restart; commit index and last applied begin at 0 again.
#[test]
fn a_restart_keeps_term_vote_and_log_and_nothing_else() {
    let subject = Subject::with_vote(3, 3, Some(NodeId(2)), &[1, 3]);
    let status = subject.status();
    assert_eq!((status.term, status.voted_for), (Term(3), Some(NodeId(2))));
    assert_eq!(subject.log(), [1, 3]);
    assert_eq!((status.commit_index, status.applied_index), (Index(0), Index(0)));
    assert_eq!((status.role, status.leader), (RoleName::Follower, None));
}

// A request for a vote, at the receiver.

/// Rule 1: a request of an earlier term gets a no (§5.1).
#[test]
fn a_request_of_an_old_term_is_denied() {
    let mut subject = Subject::restarted(3, 5, &[]);
    let [reply] = subject.hear(2, request(4, (4, 9))).votes()[..] else { panic!("no answer") };
    assert!(!reply.granted);
    assert_eq!(reply.term, Term(5), "the other learns the term");
    assert_eq!(subject.status().voted_for, None);
}

/// Rule 2, first half: one vote a term, and the same one again if it is asked for again, because
/// answers get lost (§5.2).
#[test]
fn one_vote_a_term() {
    let mut subject = Subject::with_vote(5, 3, Some(NodeId(2)), &[]);
    let mut votes = |from| {
        subject.hear(from, request(3, (0, 0)));
        subject.sync();
        subject.hear(from, request(3, (0, 0))).votes()
    };
    assert!(votes(3).is_empty(), "the vote of term 3 is given, also after a restart");
    assert!(votes(2).iter().all(|reply| reply.granted && reply.term == Term(3)));
    assert_eq!(votes(2).len(), 1);
    assert!(votes(4).is_empty());
    assert_eq!(subject.status().voted_for, Some(NodeId(2)));
}

/// Rule 2, second half: only to a log that is no older than its own. The later last term wins, the
/// length decides between equal ones (§5.4.1).
#[test]
fn a_vote_goes_to_a_log_that_is_up_to_date() {
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
        // Past the time within which it protects a leader that it may have heard.
        subject.wait(Config::server().election_timeout_min);
        subject.hear(2, request(9, last));
        let votes = subject.sync().votes();
        assert_eq!(votes.iter().any(|reply| reply.granted), granted, "{last:?} against {own:?}");
        assert_eq!(subject.status().voted_for.is_some(), granted);
    }
}

// An append, at the receiver.

/// Rule 1: an append of an earlier term gets a no (§5.1).
#[test]
fn an_append_of_an_old_term_is_rejected() {
    let mut subject = Subject::restarted(3, 5, &[5]);
    let step = subject.hear(2, append(4, (0, 0), &[4], 1));
    let [ref answer] = step.sent[..] else { panic!("{step:?}") };
    let PeerMsg::AppendReply(AppendReply { term, round, outcome, .. }) = answer.message else {
        panic!("{answer:?}")
    };
    assert_eq!((term, round), (Term(5), Round(0)), "the old leader learns the term");
    assert!(matches!(outcome, AppendOutcome::Reject { .. }));
    assert_eq!(subject.log(), [5]);
    assert_eq!((subject.status().leader, subject.status().commit_index), (None, Index(0)));
}

/// Rule 2: it gets a no as well if the log does not hold the entry before the new ones (§5.3).
#[test]
fn an_append_that_does_not_follow_is_rejected() {
    // Past the end, and with another term there: a later one, an earlier one.
    for prev in [(3, 4), (4, 3), (2, 3)] {
        let mut subject = Subject::restarted(3, 4, &[1, 1, 3]);
        let mut step = subject.hear(2, append(4, prev, &[4], 9));
        step.absorb(subject.sync());
        let outcomes = step.outcomes();
        let [AppendOutcome::Reject { refused, hint }] = outcomes[..] else {
            panic!("{prev:?}: {outcomes:?}")
        };
        assert_eq!(refused, Index(prev.1));
        assert!(hint.index < Index(prev.1), "{prev:?}: it points back, not to {hint:?}");
        assert_eq!(subject.log(), [1, 1, 3]);
        assert_eq!(subject.status().commit_index, Index(0), "nothing is proven");
    }
}

/// Rule 3: an entry that a new one contradicts (same index, other term) goes, and with it all
/// behind it (§5.3).
#[test]
fn a_conflict_replaces_the_tail() {
    let mut subject = Subject::restarted(3, 2, &[1, 2, 2, 2]);
    subject.hear(2, append(3, (1, 1), &[3], 0));
    assert_eq!(subject.log(), [1, 3]);
    assert_eq!(subject.status().durable_index, Index(1), "the replacement is not on disk");
    assert_eq!(subject.jobs[0].entries[0].id(), EntryId::new(3, 2));
    assert_eq!(subject.sync().outcomes(), [at(2)]);
}

/// Rule 3, the other way: without a conflict nothing is deleted, so that a late append that ends
/// before the log does takes nothing back that was vouched for (§5.3).
#[test]
fn without_a_conflict_the_tail_stays() {
    let mut subject = Subject::restarted(3, 1, &[]);
    subject.hear(2, append(1, (0, 0), &[1, 1, 1, 1], 0));
    assert_eq!(subject.sync().outcomes(), [at(4)]);
    let late = subject.hear(2, append(1, (0, 0), &[1, 1], 0));
    assert_eq!(subject.log(), [1, 1, 1, 1]);
    assert!(subject.jobs.is_empty(), "nothing to write");
    assert_eq!(late.outcomes(), [at(4)], "what was vouched for stays so");
}

/// Rule 4: of the entries sent those that the log lacks are appended (§5.3).
#[test]
fn only_what_is_new_is_appended() {
    let mut subject = Subject::restarted(3, 1, &[1, 1]);
    subject.hear(2, append(1, (1, 1), &[1, 1, 1], 0));
    assert_eq!(subject.log(), [1, 1, 1, 1]);
    let written: Vec<Index> = subject.jobs[0].entries.iter().map(Entry::index).collect();
    assert_eq!(written, [Index(3), Index(4)]);
}

/// Rule 5: the commit index follows the leader's, up to the last entry that this message proves
/// equal to the leader's log, and never falls (§5.3).
#[test]
fn the_commit_index_is_cut_to_what_the_message_proves() {
    let mut subject = Subject::restarted(3, 2, &[1, 1, 2]);
    subject.hear(2, append(3, (1, 1), &[], 9));
    assert_eq!(subject.status().commit_index, Index(1), "2@1 and 3@2 may be replaced yet");
    subject.hear(2, append(3, (1, 1), &[1], 9));
    assert_eq!(subject.status().commit_index, Index(2));
    subject.hear(2, append(3, (1, 2), &[3, 3], 3));
    assert_eq!(subject.status().commit_index, Index(3), "no further than the leader says");
    subject.hear(2, append(3, (0, 0), &[], 0));
    assert_eq!(subject.status().commit_index, Index(3), "and never back");
}

// All servers.

/// What is committed and not applied is applied, in order, each entry once (§5.3).
#[test]
fn what_is_committed_is_applied_in_order_and_once() {
    let mut subject = Subject::restarted(3, 1, &[]);
    assert!(subject.hear(2, append(1, (0, 0), &[1, 1, 1], 0)).applied().is_empty());
    assert_eq!(subject.hear(2, append(1, (1, 3), &[], 2)).applied(), [1, 2]);
    assert!(subject.hear(2, append(1, (1, 3), &[], 2)).applied().is_empty());
    assert_eq!(subject.hear(2, append(1, (1, 3), &[], 3)).applied(), [3]);
    assert_eq!(subject.status().applied_index, Index(0), "until the state machine says so");
    subject.apply();
    assert_eq!(subject.status().applied_index, Index(3));
}

/// A later term, in whatever message, is taken over and makes a follower, whatever the role was
/// (§5.1). But a vote request is ignored altogether while a leader may hold its lease (§6).
#[test]
fn a_higher_term_makes_a_follower() {
    let rejected = |term| {
        let outcome = AppendOutcome::Reject { refused: Index(0), hint: EntryId::ZERO };
        PeerMsg::AppendReply(AppendReply {
            term: Term(term),
            round: Round(0),
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
                subject.hear(2, message);
                assert_eq!(subject.status().term, before, "it has just been heard");
                continue;
            }
            if protected && name == "follower" {
                subject.wait(Config::server().election_timeout_min);
            }
            subject.hear(2, message.clone());
            let status = subject.status();
            assert_eq!((status.role, status.term), (RoleName::Follower, Term(9)), "{message:?}");
            // The candidate of that term has its vote, if its log is up to date; nobody else.
            let asked = protected && name != "leader";
            assert_eq!(status.voted_for, asked.then_some(NodeId(2)), "{name}, {message:?}");
        }
    }
}

// Followers.

/// Who has heard no leader of its term and given no vote for the election timeout becomes a
/// candidate (§5.2).
#[test]
fn silence_makes_a_candidate_and_heartbeats_prevent_it() {
    let config = Config::server();
    let mut subject = Subject::restarted(3, 1, &[]);
    for _ in 0..100 {
        subject.hear(2, append(1, (0, 0), &[], 0));
        subject.sync();
        assert!(subject.wait(config.election_timeout_min * 9 / 10).sent.is_empty());
        assert_eq!(subject.status().role, RoleName::Follower);
    }
    let asked = subject.wait(config.election_timeout_max);
    assert_eq!(subject.status().role, RoleName::PreCandidate);
    assert!(asked.requests().iter().all(|(_, request)| request.pre), "it only asks at first");
    assert_eq!(subject.status().term, Term(1), "and moves no term by that (thesis 9.6)");
}

/// The same: only a vote that is granted grants patience, and an append of an old leader none.
#[test]
fn a_granted_vote_grants_patience_and_a_denied_one_does_not() {
    let config = Config::server();
    let at_half = |message| {
        let mut subject = Subject::restarted(3, 4, &[4]);
        subject.wait(config.election_timeout_min);
        let before = subject.patience();
        subject.hear(2, message);
        (before, subject.patience())
    };
    let (before, after) = at_half(request(5, (4, 1)));
    assert!(after > before && after >= config.election_timeout_min);
    for unimpressive in
        [request(5, (3, 9)), request(3, (4, 9)), append(3, (0, 0), &[], 0), vote(9, false)]
    {
        let (before, after) = at_half(unimpressive.clone());
        assert_eq!(before, after, "{unimpressive:?}");
    }
}

/// Nobody votes against a leader that it has heard within the lowest election timeout, nor says
/// that it would (§6).
#[test]
fn a_leader_heard_lately_is_protected() {
    let config = Config::server();
    let mut subject = Subject::restarted(3, 1, &[]);
    subject.wait(config.election_timeout_min);
    subject.hear(2, append(1, (0, 0), &[], 0));
    let last = EntryId::ZERO;
    let ask = RequestVote { term: Term(2), pre: true, transfer: false, last };
    for message in [request(2, (0, 0)), PeerMsg::RequestVote(ask)] {
        subject.hear(3, message);
        assert!(subject.sync().votes().is_empty());
        assert_eq!(subject.status().term, Term(1));
    }
    subject.wait(config.election_timeout_min);
    subject.hear(3, request(2, (0, 0)));
    assert_eq!(subject.sync().votes().len(), 1, "it was silent for too long");
}

// Candidates.

/// A candidate begins its election with a new term, its own vote, a new timeout, and a request to
/// everybody else (§5.2).
#[test]
fn an_election_raises_the_term_votes_for_itself_and_asks_everybody() {
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
    assert!(subject.patience() > Duration::ZERO);
}

/// The same: nobody is asked, and the own vote does not count, before that vote is on disk.
#[test]
fn a_candidate_shows_its_term_only_once_it_is_on_disk() {
    let mut subject = Subject::restarted(3, 3, &[]);
    subject.wait(subject.patience());
    let granted = VoteReply { term: Term(4), pre: true, granted: true };
    let step = subject.hear(2, PeerMsg::VoteReply(granted));
    assert_eq!(subject.status().role, RoleName::Candidate);
    assert!(step.sent.is_empty());
    subject.hear(2, vote(4, true));
    assert_eq!(subject.status().role, RoleName::Candidate, "two of three, but one not durable");
    subject.sync();
    assert_eq!(subject.status().role, RoleName::Leader);
}

/// The same, where the answers of all others are there before the word of its own disk.
#[test]
fn nobody_leads_before_its_own_vote_is_on_disk_whoever_voted_for_it() {
    let mut subject = Subject::restarted(5, 3, &[]);
    subject.wait(subject.patience());
    for peer in [2, 3, 4] {
        let granted = VoteReply { term: Term(4), pre: true, granted: true };
        subject.hear(peer, PeerMsg::VoteReply(granted));
    }
    for peer in [2, 3, 4, 5] {
        subject.hear(peer, vote(4, true));
        assert_eq!(subject.status().role, RoleName::Candidate);
    }
    subject.sync();
    assert_eq!(subject.status().role, RoleName::Leader);
}

/// The votes of a majority make it the leader: of this term, from distinct replicas (§5.2).
#[test]
fn a_majority_makes_a_leader() {
    let mut subject = Subject::restarted(5, 3, &[]);
    subject.stand();
    let would = |term| PeerMsg::VoteReply(VoteReply { term: Term(term), pre: true, granted: true });
    for (from, message) in [
        (2, vote(4, true)),
        (2, vote(4, true)),
        (3, vote(3, true)),
        (3, would(4)),
        (3, would(5)),
        (4, vote(4, false)),
    ] {
        subject.hear(from, message);
        assert_eq!(subject.status().role, RoleName::Candidate, "two of five");
    }
    subject.hear(5, vote(4, true));
    assert_eq!(subject.status().role, RoleName::Leader);
}

/// An append of this term's leader makes it a follower (§5.2).
#[test]
fn a_candidate_yields_to_the_leader_of_its_term() {
    let mut subject = Subject::restarted(3, 3, &[]);
    subject.stand();
    subject.hear(3, append(3, (0, 0), &[], 0));
    assert_eq!(subject.status().role, RoleName::Candidate, "that leader's term is over");
    subject.hear(3, append(4, (0, 0), &[], 0));
    let status = subject.status();
    assert_eq!((status.role, status.term), (RoleName::Follower, Term(4)));
    assert_eq!((status.leader, status.voted_for), (Some(NodeId(3)), Some(ME)), "S2: vote kept");
}

/// Where nobody wins, the timeout begins the next election (§5.2).
#[test]
fn an_election_without_a_winner_is_followed_by_another() {
    let mut subject = Subject::restarted(3, 3, &[]);
    subject.stand();
    let mut step = Step::default();
    while subject.status().role == RoleName::Candidate {
        step.absorb(subject.wait(subject.patience()));
    }
    assert_eq!(subject.status().role, RoleName::PreCandidate);
    let asked = step.requests();
    assert!(asked.iter().any(|(_, request)| request.pre && request.term == Term(5)));
    let granted = VoteReply { term: Term(5), pre: true, granted: true };
    subject.hear(3, PeerMsg::VoteReply(granted));
    assert_eq!((subject.status().role, subject.status().term), (RoleName::Candidate, Term(5)));
}

// Leaders.

/// A new leader sends to everybody at once, and again whenever it was idle for long, so that nobody
/// stands against it (§5.2). The first appends carry the new term's empty entry (§8).
#[test]
fn a_leader_makes_itself_heard_at_once_and_again() {
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
                subject.hear(peer, matching(&append));
            }
        }
        step = subject.wait(config.heartbeat_interval);
        for peer in peers {
            assert!(step.append_to(peer).is_some(), "nothing for {peer} within an interval");
        }
    }
    assert_eq!(subject.status().role, RoleName::Leader);
}

/// A client's command goes into the leader's log, and is answered once it is applied (§5.3).
#[test]
fn a_command_is_appended_replicated_committed_and_then_applied() {
    let (mut subject, first) = Subject::leader(3, 1, &[]);
    subject.hear(2, matching(&first.append_to(2).unwrap()));
    assert_eq!(subject.status().commit_index, Index(1), "the empty entry of its term");
    let sent = subject.write(b"put");
    assert_eq!(subject.log(), [1, 1]);
    let append = sent.append_to(2).expect("at once, beside its own disk");
    assert_eq!(append.entries.last().unwrap().payload(), &b"put"[..]);
    assert!(subject.sync().applied().is_empty(), "one of three is no majority");
    let step = subject.hear(2, matching(&append));
    assert_eq!(step.applied(), [2]);
    assert!(step.applied[0].as_leader, "so it is the one that answers the client");
}

/// The same: who does not lead appends nothing and sends the client on (§8).
#[test]
fn a_follower_takes_no_command() {
    let mut subject = Subject::restarted(3, 1, &[]);
    subject.hear(2, append(1, (0, 0), &[], 0));
    let step = subject.write(b"put");
    assert!(subject.log().is_empty());
    let [refusal] = step.refused[..] else { panic!("{step:?}") };
    assert_eq!((refusal.reason, refusal.leader), (RefusalReason::NotLeader, Some(NodeId(2))));
}

/// A follower that lacks entries gets them from its next index on, and its yes moves that and the
/// match index (§5.3).
#[test]
fn what_a_follower_lacks_is_sent_from_its_next_index_on() {
    let (mut subject, first) = Subject::leader(3, 3, &[1, 2]);
    let of_peer = |subject: &Subject| {
        let peer = subject.status().peers[0];
        (peer.id, peer.match_index, peer.next_index)
    };
    let append = first.append_to(2).unwrap();
    assert_eq!(append.prev, EntryId::new(2, 2), "it begins right after its last entry");
    assert_eq!(of_peer(&subject).1, Index(0), "and knows nothing of the other's log");
    subject.hear(2, matching(&append));
    assert_eq!(of_peer(&subject), (NodeId(2), Index(3), Index(4)));
    subject.sync();
    let next = subject.write(b"next").append_to(2).unwrap();
    assert_eq!((next.prev, next.entries.len()), (EntryId::new(3, 3), 1));
}

/// Its no moves the next index back for another try: to where its answer says that the logs may
/// agree, until they do (§5.3).
#[test]
fn after_a_rejection_an_earlier_place_is_tried() {
    let (mut subject, first) = Subject::leader(3, 5, &[1, 1, 2, 3, 4]);
    let append = first.append_to(2).unwrap();
    assert_eq!(append.prev, EntryId::new(4, 5));
    // The other's log is 1 1 2 2 2: no term 3, which the leader has at index 4.
    let again = subject.hear(2, rejecting(&append, (2, 4))).append_to(2).expect("at once");
    assert_eq!(again.prev, EntryId::new(2, 3), "the last entry of a term up to 2");
    assert_eq!(again.entries.len(), 3, "3@4, 4@5 and its own");
    let stale = subject.hear(2, rejecting(&append, (0, 0)));
    assert_eq!(stale.append_to(2), None, "a repeated answer changes nothing");
    subject.hear(2, matching(&again));
    assert_eq!(subject.status().peers[0].match_index, Index(6));
}

/// The same: an answer that helps nothing still moves a step, and never past what matched.
#[test]
fn a_rejection_without_help_moves_one_step_back() {
    let (mut subject, first) = Subject::leader(3, 5, &[1, 1, 1]);
    let mut append = first.append_to(2).unwrap();
    for expected in [2, 1, 0] {
        let useless = (9, append.prev.index.0);
        append = subject.hear(2, rejecting(&append, useless)).append_to(2).expect("at once");
        assert_eq!(append.prev.index, Index(expected));
    }
    assert_eq!(append.entries.len(), 4, "from the very beginning");
}

/// An answer of an earlier term says nothing about this term's log (§5.1).
#[test]
fn an_answer_of_an_earlier_term_moves_nothing() {
    let (mut subject, first) = Subject::leader(3, 3, &[1]);
    let append = first.append_to(2).unwrap();
    subject.hear(2, matching(&AppendEntries { term: Term(2), ..append.clone() }));
    assert_eq!(subject.status().peers[0].match_index, Index(0));
    subject.hear(2, matching(&append));
    assert_eq!(subject.status().peers[0].match_index, Index(2));
}

/// What a majority holds is committed: a majority of all, the leader itself counted once its own
/// disk has the entry (§5.3).
#[test]
fn a_majority_on_disk_commits() {
    let (mut subject, first) = Subject::leader(5, 1, &[]);
    for peer in [2, 3] {
        assert_eq!(subject.status().commit_index, Index(0));
        subject.hear(peer, matching(&first.append_to(peer).unwrap()));
    }
    assert_eq!(subject.status().commit_index, Index(1));
    let sent = subject.write(b"put");
    for peer in [2, 3] {
        subject.hear(peer, matching(&sent.append_to(peer).unwrap()));
        subject.hear(peer, matching(&sent.append_to(peer).unwrap()));
    }
    assert_eq!(subject.status().commit_index, Index(1), "two of five, and not yet itself");
    subject.sync();
    assert_eq!(subject.status().commit_index, Index(2));
}

/// But an entry of an earlier term is never committed by counting, only along with one of the
/// leader's own (§5.4.2, Figure 8).
#[test]
fn an_entry_of_an_earlier_term_is_not_committed_by_counting() {
    let (mut subject, first) = Subject::leader(5, 4, &[1, 2]);
    // Two followers hold 2@2, as in the figure, but not yet the leader's own entry.
    for peer in [2, 3] {
        let append = first.append_to(peer).unwrap();
        let index = append.prev.index;
        assert_eq!(index, Index(2));
        let reply = AppendReply {
            term: append.term,
            round: append.round,
            disk: DiskState::Healthy,
            outcome: AppendOutcome::Match { index },
        };
        subject.hear(peer, PeerMsg::AppendReply(reply));
    }
    assert_eq!(subject.status().peers[1].match_index, Index(2));
    assert_eq!(subject.status().commit_index, Index(0), "a majority holds 2@2, and yet");
    for peer in [2, 3] {
        subject.hear(peer, matching(&first.append_to(peer).unwrap()));
    }
    assert_eq!(subject.status().commit_index, Index(3), "its own entry commits both");
}
