//! Forged messages: a replica receives arbitrary messages in the name of its peers and of replicas
//! that it does not know, in every role, with a snapshot and a log; also changes of the members. No
//! assertion of the core fails, no committed entry is replaced, and terms stay in the range that
//! elections can reach. Each run is drawn from its seed.
#![allow(clippy::unwrap_used, reason = "a test whose helpers can't go on fails")]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use bowline::config::Config;
use bowline::feature_level::FeatureLevel;
use bowline::membership::{Configuration, MemberChange, Promotion};
use bowline::raft::{
    AppendEntries, AppendJob, AppendOutcome, AppendReply, ChunkStored, ClientRequest, Counters,
    DiskState, Durable, Effects, Envelope, HardState, InstallReply, InstallSnapshot, Msg, PeerMsg,
    Persisted, Rejoin, RejoinReply, Replica, RequestKind, RequestVote, RoleName, SnapshotChunk,
    SnapshotId, TimeoutNow, VoteReply,
};
use bowline::record::{Entry, EntryKind, RecordBuffer};
use bowline::types::{
    ClientId, EntryId, Index, Instant, NodeId, RequestId, RequestKey, Round, Term,
};
use bytes::Bytes;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

const SEEDS: u64 = 600;
const STEPS: usize = 400;
const SELF: NodeId = NodeId(1);
const PEERS: [NodeId; 2] = [NodeId(2), NodeId(3)];
/// The peers, and replicas that are no members, at least at first.
const SENDERS: [NodeId; 6] = [NodeId(2), NodeId(3), NodeId(2), NodeId(3), NodeId(4), NodeId(5)];
const SNAPSHOT: SnapshotId =
    SnapshotId { last: EntryId::new(2, 10), bytes: 100, checksum: 0xABCD_EF01 };

/// Totals over all runs, which show that the runs covered every case.
#[derive(Default)]
struct Totals {
    roles: Vec<RoleName>,
    counters: Counters,
    truncated: u64,
    installed: u64,
    /// Number of changes of the members that this replica has followed or begun.
    changes: u64,
}

struct Victim {
    rng: ChaCha8Rng,
    replica: Replica,
    out: Effects,
    now: Instant,
    jobs: VecDeque<AppendJob>,
    chunks: Vec<SnapshotChunk>,
    /// Sequence number of the last message round sent to any peer, so that forged replies can be
    /// close to it.
    round: Round,
    commit_index: Index,
    term: Term,
}

impl Victim {
    fn new(seed: u64) -> Victim {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let term = match seed % 6 {
            0 => Term((1 << 62) - 1),
            1 => Term(Term::MAX.0 - 2),
            2 => Term::MAX,
            _ => Term(5),
        };
        let mut buffer = RecordBuffer::default();
        let entries = (11..=16)
            .zip([2, 2, 3, 3, 4, 5])
            .map(|(index, term)| buffer.encode(EntryId::new(term, index), EntryKind::Command, b"x"))
            .collect();
        let hard_state = HardState { term, voted_for: None };
        let durable = if seed.is_multiple_of(7) {
            Durable::default()
        } else {
            Durable { hard_state, snapshot: Some(SNAPSHOT), entries, ..Durable::default() }
        };
        let now = Instant(rng.random_range(0..1 << 40));
        let config = if seed.is_multiple_of(2) { Config::server() } else { Config::course() };
        let replica = Replica::new(SELF, &PEERS, config, seed, durable, now);
        let (term, commit_index) = (replica.term(), replica.commit_index());
        Victim {
            rng,
            replica,
            out: Effects::default(),
            now,
            jobs: VecDeque::new(),
            chunks: Vec::new(),
            round: Round(0),
            commit_index,
            term,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// Returns a number that is mostly close to `number`, and sometimes close to a bound.
    fn near(&mut self, number: u64) -> u64 {
        match self.rng.random_range(0..20) {
            0..9 => number,
            9..12 => number.saturating_add(1),
            12..14 => number.saturating_sub(1),
            14 => number.saturating_add(self.rng.random_range(0..2_000_000)),
            15 => number.saturating_sub(self.rng.random_range(0..10)),
            16 => self.rng.random_range(0..3),
            17 => (1 << 62) - self.rng.random_range(0..2),
            18 => (1 << 63) - self.rng.random_range(0..2),
            _ => u64::MAX - self.rng.random_range(0..2),
        }
    }

    fn term(&mut self) -> Term {
        let own = self.replica.term().0;
        Term(self.near(own))
    }

    fn index(&mut self) -> Index {
        let status = self.replica.status();
        let choices = [
            status.base.index,
            status.commit_index,
            status.last.index,
            status.durable_index,
            status.last.index.previous(),
        ];
        let chosen = choices[self.rng.random_range(0..choices.len())].0;
        Index(self.near(chosen))
    }

    /// Returns an entry id, mostly that of an entry in the log.
    fn entry_id(&mut self) -> EntryId {
        let index = self.index();
        let held = self.replica.log().term_at(index).filter(|_| self.rng.random_range(0..5) > 0);
        let term = held.unwrap_or_else(|| self.term());
        EntryId { term, index }
    }

    fn round(&mut self) -> Round {
        let round = self.round.0;
        Round(self.near(round))
    }

    fn entries(&mut self, term: Term, prev: EntryId) -> Vec<Entry> {
        let mut buffer = RecordBuffer::default();
        let (mut entries, mut index) = (Vec::new(), prev.index.0);
        for _ in 0..self.rng.random_range(0..5) {
            index = if self.chance(97) { index.saturating_add(1) } else { self.near(index) };
            let term = if self.chance(80) { term } else { self.term() };
            if term > Term(0) && index > 0 {
                let id = EntryId { term, index: Index(index) };
                let entry = if self.chance(15) {
                    let members = self.configuration().encode();
                    buffer.encode(id, EntryKind::Configuration, &members)
                } else {
                    buffer.encode(id, EntryKind::NoOp, b"")
                };
                entries.push(entry);
            }
        }
        entries
    }

    /// Returns a configuration that mostly follows from that of the replica, and mostly has it as a
    /// voter.
    fn configuration(&mut self) -> Configuration {
        let (_, latest) = self.replica.configuration();
        let latest = if latest.is_joint() { latest.after_joint() } else { latest.clone() };
        let change = self.change();
        match latest.plan(&[change]) {
            Ok(next) if self.chance(80) => next,
            _ => Configuration::of_voters([SELF, PEERS[0], NodeId(4)]),
        }
    }

    fn change(&mut self) -> MemberChange {
        let id = NodeId(self.rng.random_range(1..9));
        match self.rng.random_range(0..4) {
            0 => MemberChange::Promote(id),
            1 => MemberChange::Demote(id),
            2 => MemberChange::Remove(id),
            _ => {
                let promotion = Promotion::Automatic { replaces: None };
                let is_witness = self.rng.random_range(0..4) == 0;
                MemberChange::AddLearner { id, promotion, is_witness, address: Bytes::new() }
            }
        }
    }

    fn snapshot(&mut self) -> SnapshotId {
        match self.chunks.last().filter(|_| self.rng.random_range(0..2) > 0) {
            Some(chunk) => chunk.snapshot,
            None => SnapshotId { last: self.entry_id(), bytes: self.near(60), checksum: 1 },
        }
    }

    fn message(&mut self) -> PeerMsg {
        let term = self.term();
        let disk = if self.chance(80) { DiskState::Healthy } else { DiskState::Low };
        match self.rng.random_range(0..14) {
            12 => {
                let last = self.entry_id();
                PeerMsg::Rejoin(Rejoin { nonce: self.near(1), term, last })
            }
            13 => PeerMsg::RejoinReply(RejoinReply {
                nonce: self.near(1),
                term,
                leads: self.chance(50),
                last: self.entry_id(),
                members_changed: self.chance(50),
            }),
            0..4 => {
                let prev = self.entry_id();
                let transfer_to =
                    if self.chance(10) { Some(NodeId(self.rng.random_range(0..4))) } else { None };
                PeerMsg::AppendEntries(AppendEntries {
                    term,
                    round: self.round(),
                    prev,
                    commit_index: self.index(),
                    loss_permille: self.rng.random_range(0..=u16::MAX),
                    transfer_to,
                    entries: self.entries(term, prev),
                })
            }
            4 | 5 => {
                let outcome = if self.chance(60) {
                    AppendOutcome::Match { index: self.index() }
                } else {
                    AppendOutcome::Reject { refused: self.index(), hint: self.entry_id() }
                };
                let round = self.round();
                PeerMsg::AppendReply(AppendReply {
                    term,
                    round,
                    level: FeatureLevel::OLDEST,
                    disk,
                    outcome,
                })
            }
            6 => {
                let (pre, transfer) = (self.chance(50), self.chance(50));
                PeerMsg::RequestVote(RequestVote { term, pre, transfer, last: self.entry_id() })
            }
            7 | 8 => {
                let (pre, granted) = (self.chance(50), self.chance(80));
                let term = if pre && self.chance(80) { self.replica.term().next() } else { term };
                PeerMsg::VoteReply(VoteReply { term, pre, granted })
            }
            9 => {
                let snapshot = self.snapshot();
                let bytes = self.rng.random_range(0..=60);
                let offset = if self.chance(70) { 0 } else { self.near(snapshot.bytes) };
                let (round, chunk) = (self.round(), vec![7; bytes].into());
                PeerMsg::InstallSnapshot(InstallSnapshot { term, round, snapshot, offset, chunk })
            }
            10 => {
                let (round, snapshot) = (self.round(), self.snapshot());
                let received = self.near(snapshot.bytes);
                PeerMsg::InstallReply(InstallReply { term, round, snapshot, received })
            }
            _ => PeerMsg::TimeoutNow(TimeoutNow { term, last: self.replica.log().last() }),
        }
    }

    fn handle(&mut self, message: Msg) {
        self.replica.handle_msg(self.now, message, &mut self.out);
        self.replica.check();
    }

    /// Delivers valid forged votes and completes disk writes, so that the replica sometimes becomes
    /// leader.
    fn help(&mut self) {
        let pre = match self.replica.status().role {
            RoleName::PreCandidate => true,
            RoleName::Candidate => false,
            RoleName::Follower | RoleName::Leader => return,
        };
        while let Some(job) = self.jobs.pop_front() {
            let last = job.entries.last().map(Entry::id);
            self.handle(Msg::Persisted(Persisted { sequence: job.sequence, last }));
        }
        let own = self.replica.term();
        let term = if pre { own.next() } else { own };
        for from in PEERS {
            let message = PeerMsg::VoteReply(VoteReply { term, pre, granted: true });
            self.handle(Msg::Peer(Envelope { from, to: SELF, leader: None, message }));
        }
    }

    /// Delivers one random input.
    fn step(&mut self, totals: &mut Totals) {
        if self.chance(30) {
            self.help();
        }
        match self.rng.random_range(0..21) {
            0..12 => {
                let message = self.message();
                let from = SENDERS[self.rng.random_range(0..SENDERS.len())];
                self.handle(Msg::Peer(Envelope { from, to: SELF, leader: None, message }));
            }
            12 => {
                let kind = if self.chance(50) { RequestKind::Write } else { RequestKind::Read };
                let key = RequestKey { client: ClientId(1), request: RequestId(self.rng.random()) };
                self.handle(Msg::Client(ClientRequest { key, kind, payload: vec![1].into() }));
            }
            13..15 => {
                let passed = self.rng.random_range(0..400);
                self.now = self.now + Duration::from_millis(passed);
                self.replica.handle_timeout(self.now, &mut self.out);
            }
            15 | 16 => {
                if let Some(job) = self.jobs.pop_front() {
                    let last = job.entries.last().map(Entry::id);
                    self.handle(Msg::Persisted(Persisted { sequence: job.sequence, last }));
                }
            }
            17 => {
                let status = self.replica.status();
                let range = status.applied_index.0..=status.commit_index.0;
                let index = Index(self.rng.random_range(range));
                self.handle(Msg::Applied { index });
            }
            18 => {
                if let Some(&SnapshotChunk { term, snapshot, round, .. }) = self.chunks.last() {
                    let received = snapshot.bytes;
                    self.handle(Msg::ChunkStored(ChunkStored { term, snapshot, round, received }));
                }
            }
            19 => {
                if let Some(chunk) = self.chunks.pop() {
                    totals.installed += 1;
                    let members = self.configuration();
                    let configuration = Some(members).filter(|_| self.chance(50));
                    self.handle(Msg::Installed(
                        chunk.snapshot,
                        configuration,
                        FeatureLevel::OLDEST,
                    ));
                }
            }
            _ => {
                // A refusal has no effect.
                let change = self.change();
                let _ = self.replica.change_members(self.now, &[change]);
                self.replica.check();
            }
        }
        if self.chance(60) {
            self.flush(totals);
        }
        let status = self.replica.status();
        assert!(status.commit_index >= self.commit_index && status.term >= self.term);
        assert!(status.term <= Term::MAX, "{status:?}");
        (self.commit_index, self.term) = (status.commit_index, status.term);
        if !totals.roles.contains(&status.role) {
            totals.roles.push(status.role);
        }
    }

    fn flush(&mut self, totals: &mut Totals) {
        let mut last = self.replica.log().last();
        for _ in 0..20 {
            if self.now < self.replica.next_timeout() {
                break;
            }
            self.replica.handle_timeout(self.now, &mut self.out);
            self.replica.flush(self.now, &mut self.out);
            self.jobs.extend(self.out.append.take());
            last = self.replica.log().last();
        }
        assert!(self.now < self.replica.next_timeout(), "a timeout that is due again and again");
        self.replica.flush(self.now, &mut self.out);
        self.replica.check();
        totals.truncated += u64::from(self.replica.log().last() < last);
        for sent in self.out.send.drain(..).chain(self.out.chunks_to_send.drain(..)) {
            self.round = match &sent.message {
                PeerMsg::AppendEntries(append) => append.round,
                PeerMsg::InstallSnapshot(install) => install.round,
                _ => self.round,
            };
        }
        self.jobs.extend(self.out.append.take());
        self.chunks.append(&mut self.out.received_chunks);
        self.out = Effects::default();
    }
}

fn run(seed: u64, totals: &mut Totals) {
    let mut victim = Victim::new(seed);
    for _ in 0..STEPS {
        victim.step(totals);
    }
    let counters = victim.replica.status().counters;
    totals.counters.terms_rejected += counters.terms_rejected;
    totals.counters.conflicts_rejected += counters.conflicts_rejected;
    totals.counters.malformed += counters.malformed;
    totals.counters.leaderships += counters.leaderships;
    totals.changes += victim.replica.members_version();
}

#[test]
fn forged_peer_messages_never_cause_a_panic() {
    let mut totals = Totals::default();
    for seed in 0..SEEDS {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed, &mut totals))) {
            eprintln!("seed {seed}");
            resume_unwind(panic);
        }
    }
    // The runs must reach every kind of rejection.
    let Counters { terms_rejected, conflicts_rejected, malformed, leaderships, .. } =
        totals.counters;
    for (what, count) in [
        ("terms rejected", terms_rejected),
        ("conflicts rejected", conflicts_rejected),
        ("malformed", malformed),
        ("leaderships", leaderships),
        ("snapshots installed", totals.installed),
        ("changes of the members", totals.changes),
    ] {
        assert!(count > 100, "{what}: {count}");
    }
    assert_eq!(totals.roles.len(), 4, "{:?}", totals.roles);
}

/// Returns a replica of a cluster whose terms were forged close to the end of the old range.
fn replica_in(term: Term, now: Instant) -> Replica {
    let hard_state = HardState { term, voted_for: None };
    let durable = Durable { hard_state, ..Durable::default() };
    Replica::new(SELF, &PEERS, Config::server(), 1, durable, now)
}

fn deliver(replica: &mut Replica, now: Instant, message: PeerMsg) -> Effects {
    let mut out = Effects::default();
    let envelope = Envelope { from: PEERS[0], to: SELF, leader: None, message };
    replica.handle_msg(now, Msg::Peer(envelope), &mut out);
    replica.flush(now, &mut out);
    out
}

fn vote_request(term: Term) -> PeerMsg {
    let last = EntryId::ZERO;
    PeerMsg::RequestVote(RequestVote { term, pre: false, transfer: false, last })
}

#[test]
fn forged_terms_cannot_exhaust_the_term_range() {
    let mut now = Instant(1_000_000_000);
    let mut replica = replica_in(Term((1 << 62) - 1), now);
    let start = replica.term();
    // An hour of forged votes, each with the highest term that is still accepted.
    for _ in 0..36_000 {
        now = now + Duration::from_millis(100);
        for step in [1 << 20, 1 << 16, 1 << 10, 1 << 6] {
            let term = Term(replica.term().0 + step);
            deliver(&mut replica, now, vote_request(term));
        }
        let _ = deliver(&mut replica, now, vote_request(Term::MAX));
    }
    let climbed = replica.term().0 - start.0;
    assert!(climbed > 1 << 20 && climbed <= (1 << 20) + 3_601 * 1_024, "{climbed} terms");
    assert!(replica.status().counters.terms_rejected > 0);
}

#[test]
fn message_with_too_high_a_term_is_reported_and_not_answered() {
    let now = Instant(1_000_000_000_000);
    let mut replica = replica_in(Term(7), now);
    let now = now + Duration::from_secs(1);
    let out = deliver(&mut replica, now, vote_request(Term((1 << 62) - 1)));
    assert_eq!(out.rejected.len(), 1);
    assert_eq!(out.rejected[0].from, PEERS[0]);
    assert!(out.send.is_empty() && out.append.is_none());
    assert_eq!(replica.term(), Term(7));
    let out = deliver(&mut replica, now, vote_request(Term(8)));
    assert!(out.rejected.is_empty() && out.append.is_some(), "the next term is fine");
    assert_eq!(replica.term(), Term(8));
}
