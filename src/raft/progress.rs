//! What a leader knows of one peer: how far its log matches, what is on its way to it, how long
//! answers take and how many messages get lost. All transitions are here.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Config;
use crate::types::{EntryId, Index, Instant, NodeId, Round};

use super::effects::SnapshotId;
use super::message::DiskState;

/// Messages whose answers are still counted for the loss estimate.
const UNJUDGED_MAX: usize = 16;
/// From this loss on, in a thousand, half of what a thrifty leader sends fails at the first try:
/// waiting for the next entry to carry it would be the rule and not the exception.
const LOSSY_PERMILLE: u16 = 130;
/// So many times in a row something is sent again soon; then it waits for the next entry, too.
const QUICK_TRIES: u32 = 3;
/// A peer not heard for so many heartbeat intervals was dead or cut off.
const AWAY_HEARTBEATS: u32 = 3;
/// The loss estimate is a mean over about so many messages.
const LOSS_MEMORY: f64 = 32.0;

/// Whether the leader knows where the peer's log agrees with its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Not yet, or not any more: one message at a time, until one is answered.
    Probe,
    /// Yes: entries are sent ahead of the answers, within a window.
    Replicate,
    /// The peer lacks entries that are in no log any more: it is sent a snapshot, a chunk at a
    /// time, and heartbeats.
    Snapshot(Transfer),
}

/// A snapshot on its way to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Transfer {
    snapshot: SnapshotId,
    /// Bytes of it that the peer has, as it says.
    received: u64,
    /// The next chunk leaves no sooner.
    next_at: Instant,
    /// Times in a row that an answer to a chunk was waited for in vain, whatever else was answered.
    tries: u32,
}

/// What a peer's word about a snapshot means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stored {
    /// So much of what it is being sent is there.
    Here,
    /// It had all, and has thrown it away.
    ThrownAway,
    /// It speaks of another than it is being sent.
    Another,
}

/// After so many waits in a row in which it said nothing at all a peer is only asked now and then,
/// with one append, where it stands: to send all that it lacks each time would cost the others
/// more the more that is, and whoever stands still has no use for it.
const PROBED_AFTER: u32 = 3;
/// So many bytes are worth a longer wait each time that they were waited for in vain, though the
/// peer answers other messages: its disk is slow, and it has them already.
const HEAVY_BYTES: usize = 256 << 10;
/// So many times in a row a chunk is waited for in vain; then the latest snapshot is taken.
const CHUNK_TRIES: u32 = 8;

/// An append with entries on its way.
#[derive(Clone, Copy, Debug)]
struct Inflight {
    last: Index,
    bytes: usize,
}

/// What the leader knows of one peer's log.
///
/// Invariant: `match_index < next_index`. Whatever lies between is on its way and unacknowledged;
/// `inflights` are in order of their last indexes, all below `next_index`.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) id: NodeId,
    match_index: Index,
    next_index: Index,
    state: State,
    inflights: VecDeque<Inflight>,
    inflight_bytes: usize,
    /// When something was last sent that calls for an answer not yet come.
    awaiting_since: Option<Instant>,
    pub(super) last_sent_at: Option<Instant>,
    /// The round of the last message sent.
    pub(super) sent_round: Round,
    /// The commit index in the last message sent.
    pub(super) shown_commit_index: Index,
    /// When an answer last came; the beginning of the leadership counts as one.
    pub(super) heard_at: Instant,
    /// How its disk is, as it last said.
    pub(super) disk: DiskState,
    /// When it last asked to rejoin, because it had lost its disk.
    pub(super) asked_to_rejoin_at: Option<Instant>,
    /// Until then it gets no entries: it has just said that it is short of room, and took none.
    held_until: Option<Instant>,
    /// The latest round answered.
    pub(super) acked_round: Round,
    /// Messages sent since the last answer.
    unanswered: u32,
    /// Times in a row that an answer was waited for in vain.
    backoff: u32,
    /// Bytes of entries sent since the peer last had news of its log, or was given up on.
    awaited_bytes: usize,
    /// Times in a row that many bytes of entries were waited for in vain, whatever else was
    /// answered.
    heavy_tries: u32,
    /// Messages lost one way, in a thousand, over all living peers: decides how eagerly to
    /// send again.
    pub(super) loss_permille: u16,
    round_trip: Option<RoundTrip>,
    unjudged: VecDeque<(Round, Instant)>,
    delivered_mean: f64,
    judged: f64,
}

/// Smoothed round trip time, as TCP keeps it (RFC 6298).
#[derive(Clone, Copy, Debug)]
struct RoundTrip {
    smoothed: Duration,
    variation: Duration,
}

impl Progress {
    pub(super) fn new(id: NodeId, last: Index, now: Instant) -> Progress {
        Progress {
            id,
            match_index: Index::ZERO,
            next_index: last.next(),
            state: State::Probe,
            inflights: VecDeque::new(),
            inflight_bytes: 0,
            awaiting_since: None,
            last_sent_at: None,
            sent_round: Round(0),
            shown_commit_index: Index::ZERO,
            heard_at: now,
            disk: DiskState::Healthy,
            asked_to_rejoin_at: None,
            held_until: None,
            acked_round: Round(0),
            unanswered: 0,
            backoff: 0,
            awaited_bytes: 0,
            heavy_tries: 0,
            loss_permille: 0,
            round_trip: None,
            unjudged: VecDeque::new(),
            delivered_mean: 1.0,
            judged: 0.0,
        }
    }

    pub(super) fn match_index(&self) -> Index {
        self.match_index
    }

    pub(super) fn next_index(&self) -> Index {
        self.next_index
    }

    pub(super) fn is_probing(&self) -> bool {
        self.state == State::Probe
    }

    /// How long to wait for an answer before sending again.
    pub(super) fn retransmit_timeout(&self, config: &Config) -> Duration {
        let measured = self.round_trip.map_or(config.retransmit_timeout_initial, |round_trip| {
            round_trip.smoothed + round_trip.variation * 4
        });
        let quick = self.loss_permille >= LOSSY_PERMILLE && self.backoff < QUICK_TRIES;
        let min =
            if quick { config.retransmit_timeout_min_lossy } else { config.retransmit_timeout_min };
        let clamped = measured.clamp(min, config.retransmit_timeout_max);
        let tries = self.backoff.max(self.heavy_tries);
        (clamped * (1 << tries.min(8))).min(config.retransmit_timeout_max)
    }

    /// When waiting for an answer ends; `None` if none is waited for.
    pub(super) fn retransmit_at(&self, config: &Config) -> Option<Instant> {
        self.awaiting_since.map(|since| since + self.retransmit_timeout(config))
    }

    /// Whether an answer may still be hoped for.
    pub(super) fn is_awaiting(&self, now: Instant, config: &Config) -> bool {
        self.retransmit_at(config).is_some_and(|at| now < at)
    }

    /// Whether everything up to `last` is on its way.
    pub(super) fn covers(&self, last: Index) -> bool {
        match self.state {
            State::Probe => self.next_index > last || self.awaiting_since.is_some(),
            State::Replicate => self.next_index > last,
            State::Snapshot(_) => false,
        }
    }

    /// Whether it is being sent a snapshot.
    pub(super) fn is_in_transfer(&self) -> bool {
        matches!(self.state, State::Snapshot(_))
    }

    /// Whether it lacks entries that a log with this base does not have any more.
    pub(super) fn lacks_compacted(&self, base: Index) -> bool {
        match self.state {
            State::Probe => self.next_index <= base,
            State::Replicate => self.match_index < base,
            State::Snapshot(_) => false,
        }
    }

    /// The log is needed from behind this entry on to bring the peer up to date.
    pub(super) fn needs_after(&self) -> Index {
        match self.state {
            State::Probe => self.next_index.previous(),
            State::Replicate => self.match_index,
            State::Snapshot(transfer) => transfer.snapshot.last.index,
        }
    }

    /// From now on it is sent this snapshot.
    pub(super) fn begin_transfer(&mut self, snapshot: SnapshotId, now: Instant) {
        self.state = State::Snapshot(Transfer { snapshot, received: 0, next_at: now, tries: 0 });
        self.heavy_tries = 0;
        self.forget_sent();
        self.next_index = self.match_index.next();
        self.check();
    }

    /// The snapshot and the place in it from which to send now, if a chunk may leave. At its end
    /// that is a mere question whether it was taken in.
    pub(super) fn next_chunk(&self, now: Instant) -> Option<(SnapshotId, u64)> {
        match self.state {
            State::Snapshot(transfer)
                if self.awaiting_since.is_none() && now >= transfer.next_at =>
            {
                Some((transfer.snapshot, transfer.received))
            }
            _ => None,
        }
    }

    /// When to look whether a chunk may leave, or whether one got lost.
    pub(super) fn chunk_at(&self, config: &Config) -> Option<Instant> {
        match self.state {
            State::Snapshot(transfer) => {
                Some(self.retransmit_at(config).unwrap_or(transfer.next_at))
            }
            State::Probe | State::Replicate => None,
        }
    }

    /// Records that a chunk was sent.
    pub(super) fn sent_chunk(&mut self, now: Instant, round: Round, config: &Config) {
        self.sent(now, round, None);
        self.await_answer(now);
        if let State::Snapshot(transfer) = &mut self.state {
            let whole = transfer.received == transfer.snapshot.bytes;
            // To check a snapshot and take it in takes a while: it is asked about now and then.
            let pause =
                if whole { config.retransmit_timeout_max } else { config.snapshot_chunk_interval };
            transfer.next_at = now + pause;
        }
    }

    /// Records how much of the snapshot the peer has. A peer that had all of it and has nothing
    /// any more is sent the latest instead.
    pub(super) fn stored(&mut self, snapshot: SnapshotId, received: u64) -> Stored {
        match &mut self.state {
            State::Snapshot(transfer) if transfer.snapshot == snapshot => {
                let was_whole = transfer.received == snapshot.bytes;
                transfer.received = received;
                transfer.tries = 0;
                self.awaiting_since = None;
                if was_whole && received == 0 {
                    // What our disk gives is damaged, or its disk is. By now there may be another
                    // snapshot than this one.
                    self.give_transfer_up();
                    return Stored::ThrownAway;
                }
                Stored::Here
            }
            _ => Stored::Another,
        }
    }

    /// Gives a transfer up of which nothing has arrived, if there is a later snapshot than that.
    pub(super) fn prefer(&mut self, latest: SnapshotId) {
        if let State::Snapshot(Transfer { snapshot, received: 0, .. }) = self.state
            && snapshot != latest
        {
            self.give_transfer_up();
        }
    }

    fn give_transfer_up(&mut self) {
        self.state = State::Probe;
        self.awaiting_since = None;
        self.next_index = self.match_index.next();
    }

    /// Gives up what was on its way for too long: it is sent again from the match index on.
    pub(super) fn expire(&mut self, now: Instant, config: &Config) {
        if self.retransmit_at(config).is_none_or(|at| now < at) {
            return;
        }
        self.backoff += 1;
        if self.awaited_bytes > HEAVY_BYTES {
            self.heavy_tries += 1;
        }
        self.forget_sent();
        match &mut self.state {
            State::Replicate => {
                self.next_index = self.match_index.next();
                if self.backoff.max(self.heavy_tries) >= PROBED_AFTER {
                    self.state = State::Probe;
                }
            }
            State::Snapshot(transfer) => {
                transfer.tries += 1;
                // The driver may not have that snapshot any more.
                if transfer.tries >= CHUNK_TRIES {
                    self.state = State::Probe;
                    self.next_index = self.match_index.next();
                }
            }
            State::Probe => {}
        }
        self.check();
    }

    /// Nothing is waited for any more.
    fn forget_sent(&mut self) {
        self.inflights.clear();
        (self.inflight_bytes, self.awaited_bytes) = (0, 0);
        self.awaiting_since = None;
    }

    /// Notes what an answer says of its disk. One that is short of room and takes nothing is not
    /// sent the same again at once, for it would answer as soon: it has rest for a heartbeat.
    pub(super) fn note_disk(&mut self, disk: DiskState, news: bool, now: Instant, config: &Config) {
        self.disk = disk;
        if disk != DiskState::Low || news {
            self.held_until = None;
        } else if !self.inflights.is_empty() || self.state == State::Probe {
            self.held_until.get_or_insert(now + config.heartbeat_interval);
        }
    }

    /// Its rest may be over.
    pub(super) fn end_rest(&mut self, now: Instant) {
        self.held_until = self.held_until.filter(|until| now < *until);
    }

    /// Whether one more append with entries may leave.
    pub(super) fn has_room(&self, config: &Config) -> bool {
        if self.held_until.is_some() {
            return false;
        }
        match self.state {
            State::Probe => self.awaiting_since.is_none(),
            State::Replicate => {
                self.inflights.len() < config.inflight_appends_max
                    && self.inflight_bytes < config.inflight_bytes_max
            }
            State::Snapshot(_) => false,
        }
    }

    /// Records a message: its round, and the last and total bytes of its entries if it has any.
    pub(super) fn sent(&mut self, now: Instant, round: Round, entries: Option<(Index, usize)>) {
        if self.unjudged.len() >= UNJUDGED_MAX {
            self.unjudged.pop_front();
        }
        self.unjudged.push_back((round, now));
        self.last_sent_at = Some(now);
        self.sent_round = round;
        self.unanswered = self.unanswered.saturating_add(1);
        if let Some((last, bytes)) = entries {
            self.awaiting_since.get_or_insert(now);
            self.awaited_bytes += bytes;
            if self.state == State::Replicate {
                self.inflights.push_back(Inflight { last, bytes });
                self.inflight_bytes += bytes;
                self.next_index = self.next_index.max(last.next());
            }
        } else if self.state == State::Probe {
            self.awaiting_since.get_or_insert(now);
        }
        self.check();
    }

    /// Waits for an answer to the message just sent although it has no entries: a read depends
    /// on it.
    pub(super) fn await_answer(&mut self, now: Instant) {
        self.awaiting_since.get_or_insert(now);
    }

    /// Records an answer, whatever it says.
    pub(super) fn heard(
        &mut self,
        now: Instant,
        round: Round,
        round_sent_at: Option<Instant>,
        config: &Config,
    ) {
        self.judge_until(now, round, config);
        self.heard_at = now;
        self.unanswered = 0;
        self.backoff = 0;
        self.acked_round = self.acked_round.max(round);
        if let Some(sent_at) = round_sent_at {
            self.sample(now.since(sent_at));
        }
        // A chunk is answered when it is stored, and many bytes of entries when they are on disk,
        // which heartbeats sent after them don't wait for.
        if self.inflights.is_empty()
            && self.acked_round >= self.sent_round
            && !self.is_in_transfer()
            && self.awaited_bytes <= HEAVY_BYTES
        {
            self.awaiting_since = None;
        }
    }

    /// Records that the peer holds everything up to `acked`. False if that is old news.
    pub(super) fn acknowledge(&mut self, acked: Index, now: Instant) -> bool {
        let news = acked > self.match_index;
        self.match_index = self.match_index.max(acked);
        if news {
            self.heavy_tries = 0;
        }
        while self.inflights.front().is_some_and(|inflight| inflight.last <= acked) {
            let inflight = self.inflights.pop_front().expect("there is a front");
            self.inflight_bytes -= inflight.bytes;
        }
        self.next_index = self.next_index.max(self.match_index.next());
        match self.state {
            State::Snapshot(transfer) if acked < transfer.snapshot.last.index => {
                self.check();
                return news;
            }
            // It has answered, but nothing of what was sent to it is on its disk yet.
            State::Probe if !news && self.heavy_tries >= PROBED_AFTER => return false,
            State::Probe | State::Snapshot(_) => {
                self.state = State::Replicate;
                self.next_index = self.match_index.next();
                self.awaiting_since = None;
                self.awaited_bytes = 0;
            }
            State::Replicate => self.awaited_bytes = self.awaited_bytes.min(self.inflight_bytes),
        }
        // What is still on its way left later: with news its wait starts anew. Not with every
        // answer, or heartbeats would put off for ever what got lost.
        let more = !self.inflights.is_empty() || self.acked_round < self.sent_round;
        self.awaiting_since =
            self.awaiting_since.filter(|_| more).map(|since| if news { now } else { since });
        self.check();
        news
    }

    /// Records that the peer's log does not hold the entry at `refused`; `agreement` is where it
    /// may. False if that is an old answer, which changes nothing.
    pub(super) fn rejected(&mut self, refused: Index, agreement: EntryId) -> bool {
        let stale = match self.state {
            State::Probe => refused.next() != self.next_index,
            State::Replicate => refused <= self.match_index,
            State::Snapshot(_) => true,
        };
        if stale || refused <= self.match_index {
            return false;
        }
        self.state = State::Probe;
        self.forget_sent();
        // At least one step back, never below what is known to match.
        let back = agreement.index.next().min(refused);
        self.next_index = back.max(self.match_index.next());
        self.check();
        true
    }

    /// The peer lost its disk and holds nothing past `last` now, whatever it acknowledged before:
    /// it is probed from there on. The only way in which a match index falls. A snapshot on its way
    /// to it stays on its way, for the peer says itself how much of that is missing.
    pub(super) fn reset(&mut self, last: Index) {
        assert!(
            last < self.match_index,
            "peer {} is reset, but holds {last} entries of {} matching ones",
            self.id,
            self.match_index
        );
        self.match_index = Index::ZERO;
        self.forget_sent();
        (self.held_until, self.heavy_tries, self.backoff) = (None, 0, 0);
        self.next_index = if self.is_in_transfer() {
            Index::ZERO.next()
        } else {
            self.state = State::Probe;
            self.next_index.min(last.next())
        };
        self.check();
    }

    /// Whether the peer has left so many messages unanswered that it is most likely gone. Only
    /// decides how often and how soon it is asked.
    pub(super) fn is_silent(&self, loss_permille: u16) -> bool {
        self.unanswered >= 3 + u32::from(loss_permille) / 80
    }

    /// The share of messages that were answered, and of how many of late.
    pub(super) fn answered_share(&self) -> (f64, f64) {
        (self.delivered_mean, self.judged)
    }

    /// Tells the lost messages by the answered one. Not of a peer that comes back after a long
    /// time: what was sent to it meanwhile says nothing of the network. A fixed patience and not
    /// the retransmission timeout, for a late answer is no loss.
    fn judge_until(&mut self, now: Instant, answered: Round, config: &Config) {
        if now.since(self.heard_at) > config.heartbeat_interval * AWAY_HEARTBEATS {
            self.unjudged.clear();
            return;
        }
        for _ in 0..self.unjudged.len() {
            let (round, sent_at) = self.unjudged.pop_front().expect("as many as there are");
            if round == answered {
                self.judge(1.0);
            } else if now.since(sent_at) > config.retransmit_timeout_initial {
                self.judge(0.0);
            } else {
                self.unjudged.push_back((round, sent_at));
            }
        }
    }

    fn judge(&mut self, answered: f64) {
        self.judged = (self.judged + 1.0).min(LOSS_MEMORY);
        self.delivered_mean += (answered - self.delivered_mean) / self.judged;
    }

    fn sample(&mut self, took: Duration) {
        let Some(RoundTrip { smoothed, variation }) = &mut self.round_trip else {
            self.round_trip = Some(RoundTrip { smoothed: took, variation: took / 2 });
            return;
        };
        *variation = (*variation * 3 + smoothed.abs_diff(took)) / 4;
        *smoothed = (*smoothed * 7 + took) / 8;
    }

    pub(super) fn check(&self) {
        assert!(
            self.match_index < self.next_index,
            "peer {}: match {} is not below next {}",
            self.id,
            self.match_index,
            self.next_index
        );
        debug_assert!(
            self.inflights.iter().zip(self.inflights.iter().skip(1)).all(|(a, b)| a.last <= b.last),
            "peer {}: inflights out of order",
            self.id
        );
        assert!(
            self.inflights.back().is_none_or(|inflight| inflight.last < self.next_index),
            "peer {}: an inflight reaches past next {}",
            self.id,
            self.next_index
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// A follower whose disk hangs answers heartbeats, and has all entries already.
    #[test]
    fn a_follower_with_a_slow_disk_is_not_sent_its_window_again_and_again() {
        let config = Config::server();
        let (bytes, last) = (config.append_bytes_max, Index(1_000));
        let window = config.inflight_bytes_max;
        let mut progress = Progress::new(NodeId(2), Index(1), Instant::ZERO);
        assert!(progress.acknowledge(Index(1), Instant::ZERO));
        let (mut now, mut round, mut sent) = (Instant::ZERO, Round(0), 0);
        for tick in 0..5_000_u32 {
            now = now + Duration::from_millis(1);
            progress.expire(now, &config);
            while progress.next_index() <= last && progress.has_room(&config) {
                round = round.next();
                progress.sent(now, round, Some((progress.next_index(), bytes)));
                sent += bytes;
            }
            if tick % 50 == 0 {
                round = round.next();
                progress.sent(now, round, None);
                progress.heard(now, round, Some(now), &config);
                assert!(!progress.acknowledge(Index(1), now));
            }
        }
        assert!(sent >= window && sent < 4 * window, "{sent} bytes, where a window has {window}");
        assert!(progress.acknowledge(Index(10), now), "its disk writes again");
        assert!(!progress.is_probing() && progress.has_room(&config));
    }

    #[test]
    fn a_peer_that_lost_its_disk_is_probed_from_its_last_entry_on() {
        let (config, now) = (Config::server(), Instant::ZERO);
        let mut progress = Progress::new(NodeId(2), Index(10), now);
        progress.acknowledge(Index(10), now);
        progress.sent(now, Round(1), Some((Index(14), 100)));
        progress.reset(Index(3));
        assert_eq!((progress.match_index(), progress.next_index()), (Index::ZERO, Index(4)));
        assert!(progress.is_probing() && progress.has_room(&config));
        assert!(progress.inflights.is_empty() && progress.inflight_bytes == 0);

        let last = EntryId::new(1, 20);
        let snapshot = SnapshotId { last, bytes: 100, checksum: 0 };
        progress.begin_transfer(snapshot, now);
        progress.sent_chunk(now, Round(2), &config);
        progress.stored(snapshot, 50);
        progress.acknowledge(Index(10), now);
        progress.reset(Index::ZERO);
        assert_eq!(progress.match_index(), Index::ZERO);
        let later = now + config.snapshot_chunk_interval;
        assert_eq!(progress.next_chunk(later), Some((snapshot, 50)), "the transfer goes on");
    }

    #[test]
    #[should_panic(expected = "is reset, but holds")]
    fn a_match_index_never_falls_without_need() {
        let mut progress = Progress::new(NodeId(2), Index(10), Instant::ZERO);
        progress.acknowledge(Index(10), Instant::ZERO);
        progress.reset(Index(10));
    }

    /// Bytes of one entry.
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

    /// One leader, one follower, and a network that loses, repeats and reorders. The follower's
    /// log equals the leader's up to `agree` and holds something else behind it.
    #[derive(Debug)]
    struct Pair {
        config: Config,
        progress: Progress,
        now: Instant,
        round: Round,
        last: Index,
        agree: Index,
        appends: Vec<Append>,
        replies: Vec<Reply>,
    }

    impl Pair {
        fn new(agree: u64, last: u64) -> Pair {
            let config =
                Config { inflight_appends_max: 3, inflight_bytes_max: 80, ..Config::server() };
            let (last, now) = (Index(last), Instant::ZERO);
            Pair {
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

        /// Sends what comes next, at most `count` entries; a heartbeat if there is nothing.
        fn send(&mut self, count: u64) {
            self.round = self.round.next();
            let prev = self.progress.next_index().previous();
            let room = self.progress.has_room(&self.config);
            let last = if room { self.last.min(Index(prev.0 + count)) } else { prev };
            let bytes = usize::try_from(last.0 - prev.0).unwrap() * ENTRY_BYTES;
            let entries = (last > prev).then_some((last, bytes));
            self.progress.sent(self.now, self.round, entries);
            self.appends.push(Append { round: self.round, sent_at: self.now, prev, last });
        }

        /// The follower takes in an append. `guess` says how good its hint is.
        fn deliver(&mut self, append: Append, guess: u64) {
            if append.prev <= self.agree {
                self.agree = self.agree.max(append.last);
                self.replies.push(Reply::Match(append));
            } else {
                let before = append.prev.previous();
                let index = Index(self.agree.0 + guess % (before.0 - self.agree.0 + 1));
                let hint = EntryId { term: crate::types::Term(1), index };
                self.replies.push(Reply::Reject(append, hint));
            }
        }

        fn answered(&mut self, reply: Reply) {
            let (Reply::Match(append) | Reply::Reject(append, _)) = reply;
            self.progress.heard(self.now, append.round, Some(append.sent_at), &self.config);
            match reply {
                Reply::Match(append) => {
                    self.progress.acknowledge(append.last, self.now);
                }
                Reply::Reject(append, agreement) => {
                    self.progress.rejected(append.prev, agreement);
                }
            }
        }

        fn check(&self) {
            self.progress.check();
            let progress = &self.progress;
            assert!(progress.match_index <= self.agree, "vouched for more than is there: {self:?}");
            assert!(progress.next_index <= self.last.next(), "past the log's end: {self:?}");
            let bytes: usize = progress.inflights.iter().map(|inflight| inflight.bytes).sum();
            assert_eq!(bytes, progress.inflight_bytes, "bytes are miscounted: {self:?}");
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
    enum Step {
        Propose(u64),
        Send(u64),
        Deliver(prop::sample::Index, u64, bool),
        Answer(prop::sample::Index, bool),
        Lose(prop::sample::Index),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (1_u64..4).prop_map(Step::Propose),
            4 => (1_u64..6).prop_map(Step::Send),
            4 => (any::<prop::sample::Index>(), 0_u64..50, any::<bool>())
                .prop_map(|(which, guess, again)| Step::Deliver(which, guess, again)),
            4 => (any::<prop::sample::Index>(), any::<bool>())
                .prop_map(|(which, again)| Step::Answer(which, again)),
            1 => any::<prop::sample::Index>().prop_map(Step::Lose),
            2 => (0_u64..400).prop_map(Step::Wait),
        ]
    }

    fn take<T: Copy>(from: &mut Vec<T>, which: prop::sample::Index, again: bool) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        let place = which.index(from.len());
        Some(if again { from[place] } else { from.remove(place) })
    }

    proptest! {
        /// Whatever the network does, the leader never believes more than is true; and once it
        /// behaves, the follower is brought up to date.
        #[test]
        fn never_vouches_for_too_much_and_always_gets_there(
            agree in 0_u64..12,
            last in 0_u64..12,
            steps in vec(step(), 0..80),
        ) {
            let mut pair = Pair::new(agree, last);
            for step in steps {
                match step {
                    Step::Propose(count) => pair.last = Index(pair.last.0 + count),
                    Step::Send(count) => pair.send(count),
                    Step::Deliver(which, guess, again) => {
                        if let Some(append) = take(&mut pair.appends, which, again) {
                            pair.deliver(append, guess);
                        }
                    }
                    Step::Answer(which, again) => {
                        if let Some(reply) = take(&mut pair.replies, which, again) {
                            pair.answered(reply);
                        }
                    }
                    Step::Lose(which) => {
                        take(&mut pair.appends, which, false);
                    }
                    Step::Wait(millis) => {
                        pair.now = pair.now + Duration::from_millis(millis);
                        pair.progress.expire(pair.now, &pair.config);
                    }
                }
                pair.check();
            }
            // A network that behaves: at worst one step back for each entry, and then forward.
            for _ in 0..2 * pair.last.0 + 4 {
                pair.now = pair.now + pair.config.retransmit_timeout_max;
                pair.progress.expire(pair.now, &pair.config);
                pair.send(5);
                let append = pair.appends.pop().expect("just sent");
                pair.deliver(append, u64::MAX);
                let reply = pair.replies.pop().expect("just delivered");
                pair.answered(reply);
                pair.check();
            }
            prop_assert_eq!(pair.progress.match_index(), pair.last, "{:?}", pair);
            prop_assert!(pair.progress.covers(pair.last) && pair.progress.has_room(&pair.config));
        }
    }
}
