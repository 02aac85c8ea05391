//! Progress over a network that loses, duplicates and reorders messages.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::types::Term;

/// The follower's disk hangs: the follower has received all entries and answers heartbeats, but
/// acknowledges no entry.
#[test]
fn follower_with_a_stalled_disk_is_not_flooded_with_resends() {
    let config = Config::server();
    let (bytes, last) = (config.append_bytes_max, Index(1_000));
    let window = config.inflight_bytes_max;
    let mut progress = Progress::new(NodeId(2), Index(1), Instant::ZERO);
    assert!(progress.acknowledge(Index(1), Instant::ZERO));
    let (mut now, mut round, mut sent) = (Instant::ZERO, Round(0), 0);
    for tick in 0..5_000_u32 {
        now = now + Duration::from_millis(1);
        progress.expire(now, &config);
        while progress.next_index() <= last && progress.can_send_entries(&config) {
            round = round.next();
            progress.record_sent(now, round, Some((progress.next_index(), bytes)));
            sent += bytes;
        }
        if tick % 50 == 0 {
            round = round.next();
            progress.record_sent(now, round, None);
            progress.record_reply(now, round, Some(now), &config);
            assert!(!progress.acknowledge(Index(1), now));
        }
    }
    assert!(sent >= window && sent < 4 * window, "{sent} bytes for a window of {window}");
    assert!(progress.acknowledge(Index(10), now), "the disk writes again");
    assert!(!progress.is_probing() && progress.can_send_entries(&config));
}

/// Under message loss (`retransmits_soon`), a new entry makes the leader retransmit fast again;
/// without loss, the longer timeout after several lost messages stays.
#[test]
fn new_entry_resets_retransmission_backoff_only_on_lossy_link() {
    let config = Config::course();
    for is_fast in [true, false] {
        let mut progress = Progress::new(NodeId(2), Index(1), Instant::ZERO);
        progress.retransmits_soon = is_fast;
        let first = {
            progress.record_sent(Instant::ZERO, Round(1), None);
            progress.retransmit_at(&config).unwrap()
        };
        let mut now = Instant::ZERO;
        for round in 2..9 {
            now = progress.retransmit_at(&config).unwrap();
            progress.expire(now, &config);
            progress.record_sent(now, Round(round), None);
        }
        let backed_off = progress.retransmit_at(&config).unwrap().since(now);
        assert!(backed_off > first.since(Instant::ZERO), "{backed_off:?} after {first:?}");
        progress.restart_backoff();
        let restarted = progress.retransmit_at(&config).unwrap().since(now);
        assert_eq!(restarted == first.since(Instant::ZERO), is_fast, "{restarted:?}");
        assert!(is_fast || restarted == backed_off);
    }
}

#[test]
fn follower_that_lost_log_entries_is_probed_at_its_new_end() {
    let (config, now) = (Config::server(), Instant::ZERO);
    let mut progress = Progress::new(NodeId(2), Index(10), now);
    progress.acknowledge(Index(10), now);
    progress.record_sent(now, Round(1), Some((Index(14), 100)));
    progress.reset(Index(3));
    assert_eq!((progress.match_index(), progress.next_index()), (Index::ZERO, Index(4)));
    assert!(progress.is_probing() && progress.can_send_entries(&config));
    assert!(progress.inflights.is_empty() && progress.inflights.bytes() == 0);

    let last = EntryId::new(1, 20);
    let snapshot = SnapshotId { last, bytes: 100, checksum: 0 };
    progress.begin_snapshot(snapshot, now);
    progress.record_chunk_sent(now, Round(2), &config);
    progress.record_chunk_reply(snapshot, 50);
    progress.acknowledge(Index(10), now);
    progress.reset(Index::ZERO);
    assert_eq!(progress.match_index(), Index::ZERO);
    let later = now + config.snapshot_chunk_interval;
    assert_eq!(progress.next_chunk(later), Some((snapshot, 50)), "the transfer continues");
}

#[test]
#[should_panic(expected = "is reset to 10, but only 10 matches")]
fn resetting_progress_of_a_follower_that_lost_no_entry_panics() {
    let mut progress = Progress::new(NodeId(2), Index(10), Instant::ZERO);
    progress.acknowledge(Index(10), Instant::ZERO);
    progress.reset(Index(10));
}

/// Length of an entry's record in bytes.
const ENTRY_BYTES: usize = 10;

#[derive(Clone, Copy, Debug)]
struct Append {
    round: Round,
    sent_at: Instant,
    prev: Index,
    last: Index,
}

#[derive(Clone, Copy, Debug)]
enum Reply {
    Match(Append),
    Reject(Append, EntryId),
}

/// A leader, a follower, and a network that loses, duplicates and reorders messages. The follower's
/// log equals the leader's up to `agree` and differs after it.
#[derive(Debug)]
struct Model {
    config: Config,
    progress: Progress,
    now: Instant,
    round: Round,
    last: Index,
    agree: Index,
    appends: Vec<Append>,
    replies: Vec<Reply>,
}

impl Model {
    fn new(agree: u64, last: u64) -> Model {
        let config = Config { inflight_appends_max: 3, inflight_bytes_max: 80, ..Config::server() };
        let (last, now) = (Index(last), Instant::ZERO);
        Model {
            config,
            progress: Progress::new(NodeId(2), last, now),
            now,
            round: Round(0),
            last,
            agree: Index(agree.min(last.0)),
            appends: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Sends at most `count` entries from the next index on, or a heartbeat if there are none.
    fn send(&mut self, count: u64) {
        self.round = self.round.next();
        let prev = self.progress.next_index().previous();
        let can_send = self.progress.can_send_entries(&self.config);
        let last = if can_send { self.last.min(Index(prev.0 + count)) } else { prev };
        let bytes = usize::try_from(last.0 - prev.0).unwrap() * ENTRY_BYTES;
        let entries = (last > prev).then_some((last, bytes));
        self.progress.record_sent(self.now, self.round, entries);
        self.appends.push(Append { round: self.round, sent_at: self.now, prev, last });
    }

    /// Delivers an append to the follower. If the follower rejects it, `guess` selects the hint in
    /// the reply, which is at least `agree`.
    fn deliver(&mut self, append: Append, guess: u64) {
        if append.prev <= self.agree {
            self.agree = self.agree.max(append.last);
            self.replies.push(Reply::Match(append));
        } else {
            let before = append.prev.previous();
            let index = Index(self.agree.0 + guess % (before.0 - self.agree.0 + 1));
            let hint = EntryId { term: Term(1), index };
            self.replies.push(Reply::Reject(append, hint));
        }
    }

    fn receive(&mut self, reply: Reply) {
        let (Reply::Match(append) | Reply::Reject(append, _)) = reply;
        self.progress.record_reply(self.now, append.round, Some(append.sent_at), &self.config);
        match reply {
            Reply::Match(append) => {
                self.progress.acknowledge(append.last, self.now);
            }
            Reply::Reject(append, agreement) => {
                self.progress.reject(append.prev, agreement);
            }
        }
    }

    fn check(&self) {
        self.progress.check();
        let progress = &self.progress;
        assert!(progress.match_index <= self.agree, "match index past the agreement: {self:?}");
        assert!(progress.next_index <= self.last.next(), "next index past the log's end: {self:?}");
        assert!(progress.inflights.len() <= self.config.inflight_appends_max, "{self:?}");
        assert!(!progress.is_probing() || progress.inflights.is_empty(), "{self:?}");
        let timeout = progress.retransmit_timeout(&self.config);
        assert!(timeout >= self.config.retransmit_timeout_min_lossy, "{timeout:?}");
        assert!(timeout <= self.config.retransmit_timeout_max, "{timeout:?}");
        let (share, _) = progress.answered_share();
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Propose(u64),
    Send(u64),
    Deliver(prop::sample::Index, u64, bool),
    Answer(prop::sample::Index, bool),
    Lose(prop::sample::Index),
    Wait(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (1_u64..4).prop_map(Action::Propose),
        4 => (1_u64..6).prop_map(Action::Send),
        4 => (any::<prop::sample::Index>(), 0_u64..50, any::<bool>())
            .prop_map(|(which, guess, again)| Action::Deliver(which, guess, again)),
        4 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(which, again)| Action::Answer(which, again)),
        1 => any::<prop::sample::Index>().prop_map(Action::Lose),
        2 => (0_u64..400).prop_map(Action::Wait),
    ]
}

/// Removes and returns a message from `from`, selected by `which`. If `again` is set, the message
/// also stays in `from`, to be delivered again. Returns `None` if there are no messages.
fn take<T: Copy>(from: &mut Vec<T>, which: prop::sample::Index, again: bool) -> Option<T> {
    if from.is_empty() {
        return None;
    }
    let position = which.index(from.len());
    Some(if again { from[position] } else { from.remove(position) })
}

proptest! {
    /// The match index never exceeds the index up to which the logs agree, regardless of what the
    /// network does, and the follower catches up once the network is reliable.
    #[test]
    fn match_index_never_exceeds_the_matching_log_and_catches_up(
        agree in 0_u64..12,
        last in 0_u64..12,
        actions in vec(action(), 0..80),
    ) {
        let mut model = Model::new(agree, last);
        for action in actions {
            match action {
                Action::Propose(count) => model.last = Index(model.last.0 + count),
                Action::Send(count) => model.send(count),
                Action::Deliver(which, guess, again) => {
                    if let Some(append) = take(&mut model.appends, which, again) {
                        model.deliver(append, guess);
                    }
                }
                Action::Answer(which, again) => {
                    if let Some(reply) = take(&mut model.replies, which, again) {
                        model.receive(reply);
                    }
                }
                Action::Lose(which) => {
                    take(&mut model.appends, which, false);
                }
                Action::Wait(millis) => {
                    model.now = model.now + Duration::from_millis(millis);
                    model.progress.expire(model.now, &model.config);
                }
            }
            model.check();
        }
        // A reliable network: at worst one rejection for each entry, and then acknowledgements.
        for _ in 0..2 * model.last.0 + 4 {
            model.now = model.now + model.config.retransmit_timeout_max;
            model.progress.expire(model.now, &model.config);
            model.send(5);
            let append = model.appends.pop().expect("just sent");
            model.deliver(append, u64::MAX);
            let reply = model.replies.pop().expect("just delivered");
            model.receive(reply);
            model.check();
        }
        prop_assert_eq!(model.progress.match_index(), model.last, "{:?}", model);
        prop_assert!(model.progress.covers(model.last));
        prop_assert!(model.progress.can_send_entries(&model.config));
    }
}
