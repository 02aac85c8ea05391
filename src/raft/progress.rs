//! What a leader knows of one peer: how far its log matches, what is on its way to it, how long
//! answers take and how many messages get lost. All transitions are here.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Config;
use crate::types::{EntryId, Index, Instant, NodeId, Round};

/// Messages whose answers are still counted for the loss estimate.
const UNJUDGED_MAX: usize = 16;
/// The loss estimate is a mean over about so many messages.
const LOSS_MEMORY: f64 = 32.0;

/// Whether the leader knows where the peer's log agrees with its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Not yet, or not any more: one message at a time, until one is answered.
    Probe,
    /// Yes: entries are sent ahead of the answers, within a window.
    Replicate,
}

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
    /// When an answer last came; the beginning of the leadership counts as one.
    pub(super) heard_at: Instant,
    /// The latest round answered.
    pub(super) acked_round: Round,
    /// Messages sent since the last answer.
    unanswered: u32,
    /// Times in a row that an answer was waited for in vain.
    backoff: u32,
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
            heard_at: now,
            acked_round: Round(0),
            unanswered: 0,
            backoff: 0,
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
        let clamped = measured.clamp(config.retransmit_timeout_min, config.retransmit_timeout_max);
        (clamped * (1 << self.backoff.min(8))).min(config.retransmit_timeout_max)
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
        self.next_index > last || (self.state == State::Probe && self.awaiting_since.is_some())
    }

    /// Gives up what was on its way for too long: it is sent again from the match index on.
    pub(super) fn expire(&mut self, now: Instant, config: &Config) {
        if self.retransmit_at(config).is_none_or(|at| now < at) {
            return;
        }
        self.awaiting_since = None;
        self.backoff += 1;
        self.inflights.clear();
        self.inflight_bytes = 0;
        if self.state == State::Replicate {
            self.next_index = self.match_index.next();
        }
        self.check();
    }

    /// Whether one more append with entries may leave.
    pub(super) fn has_room(&self, config: &Config) -> bool {
        match self.state {
            State::Probe => self.awaiting_since.is_none(),
            State::Replicate => {
                self.inflights.len() < config.inflight_appends_max
                    && self.inflight_bytes < config.inflight_bytes_max
            }
        }
    }

    /// Records a message: its round, and the last and total bytes of its entries if it has any.
    pub(super) fn sent(
        &mut self,
        now: Instant,
        round: Round,
        entries: Option<(Index, usize)>,
        config: &Config,
    ) {
        // Judged after a fixed while, not after the retransmission timeout: a late answer is
        // no loss.
        let patience = config.retransmit_timeout_initial;
        while let Some(&(_, sent_at)) = self.unjudged.front()
            && (now.since(sent_at) > patience || self.unjudged.len() >= UNJUDGED_MAX)
        {
            self.unjudged.pop_front();
            self.judge(0.0);
        }
        self.unjudged.push_back((round, now));
        self.last_sent_at = Some(now);
        self.sent_round = round;
        self.unanswered = self.unanswered.saturating_add(1);
        if let Some((last, bytes)) = entries {
            self.awaiting_since.get_or_insert(now);
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
    pub(super) fn heard(&mut self, now: Instant, round: Round, round_sent_at: Option<Instant>) {
        self.heard_at = now;
        self.unanswered = 0;
        self.backoff = 0;
        self.acked_round = self.acked_round.max(round);
        if let Some(position) = self.unjudged.iter().position(|&(sent, _)| sent == round) {
            self.unjudged.remove(position);
            self.judge(1.0);
        }
        if let Some(sent_at) = round_sent_at {
            self.sample(now.since(sent_at));
        }
        if self.inflights.is_empty() && self.acked_round >= self.sent_round {
            self.awaiting_since = None;
        }
    }

    /// Records that the peer holds everything up to `acked`. False if that is old news.
    pub(super) fn acknowledge(&mut self, acked: Index, now: Instant) -> bool {
        let news = acked > self.match_index;
        self.match_index = self.match_index.max(acked);
        while self.inflights.front().is_some_and(|inflight| inflight.last <= acked) {
            let inflight = self.inflights.pop_front().expect("there is a front");
            self.inflight_bytes -= inflight.bytes;
        }
        self.next_index = self.next_index.max(self.match_index.next());
        if self.state == State::Probe {
            self.state = State::Replicate;
            self.next_index = self.match_index.next();
            self.awaiting_since = None;
        }
        // What is still on its way left later; its wait starts anew with this sign of life.
        let more = !self.inflights.is_empty() || self.acked_round < self.sent_round;
        self.awaiting_since = self.awaiting_since.filter(|_| more).map(|_| now);
        self.check();
        news
    }

    /// Records that the peer's log does not hold the entry at `refused`; `agreement` is where it
    /// may. False if that is an old answer, which changes nothing.
    pub(super) fn rejected(&mut self, refused: Index, agreement: EntryId) -> bool {
        let stale = match self.state {
            State::Probe => refused.next() != self.next_index,
            State::Replicate => refused <= self.match_index,
        };
        if stale || refused <= self.match_index {
            return false;
        }
        self.state = State::Probe;
        self.inflights.clear();
        self.inflight_bytes = 0;
        self.awaiting_since = None;
        // At least one step back, never below what is known to match.
        let back = agreement.index.next().min(refused);
        self.next_index = back.max(self.match_index.next());
        self.check();
        true
    }

    /// Whether the peer has left so many messages unanswered that it is most likely gone. Only
    /// decides how often and how soon it is asked.
    pub(super) fn is_silent(&self, loss_permille: u16) -> bool {
        self.unanswered >= 3 + u32::from(loss_permille) / 80
    }

    /// The share of messages that were answered, `None` while nothing is known.
    pub(super) fn answered_share(&self) -> Option<f64> {
        (self.judged >= 8.0).then_some(self.delivered_mean)
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
