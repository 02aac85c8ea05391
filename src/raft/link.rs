//! Estimates of the network between the leader and one peer: the round-trip time and the share of
//! messages that are answered.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Config;
use crate::types::{Instant, Round, RoundTrip};

/// Maximum number of messages to a peer that are tracked until they are answered or counted as
/// lost. If there are more, the oldest is left out of the loss estimate.
const UNDECIDED_MAX: usize = 16;
/// Number of heartbeat intervals without a reply after which a peer is assumed to have been down or
/// partitioned. Messages that were sent to the peer in that time are left out of the loss estimate.
pub(super) const ABSENT_HEARTBEATS: u32 = 3;
/// Approximate number of recent messages over which the share of answered messages is averaged.
const SAMPLES_MAX: f64 = 32.0;

/// Estimates of the round-trip time and the message loss between the leader and one peer.
#[derive(Debug)]
pub(super) struct LinkEstimate {
    round_trip: Option<RoundTrip>,
    /// Messages to the peer that are neither answered nor counted as lost yet, each with its round
    /// number and sending time.
    undecided: VecDeque<(Round, Instant)>,
    /// Moving average of the share of messages that the peer answered, from 0 to 1.
    answered_mean: f64,
    /// Number of messages that `answered_mean` is based on, at most [`SAMPLES_MAX`].
    samples: f64,
}

impl LinkEstimate {
    /// Returns the initial estimate: the round-trip time is unknown, and no message was lost.
    pub(super) fn new() -> LinkEstimate {
        LinkEstimate {
            round_trip: None,
            undecided: VecDeque::new(),
            answered_mean: 1.0,
            samples: 0.0,
        }
    }

    /// Returns how long to wait for a reply from the peer: the smoothed round-trip time plus four
    /// times its variation; `None` before the first reply.
    pub(super) fn reply_timeout(&self) -> Option<Duration> {
        self.round_trip.map(|round_trip| round_trip.smoothed + round_trip.variation * 4)
    }

    /// Returns the average share of messages that the peer answered, from 0 to 1, and the number of
    /// messages that it is based on.
    pub(super) fn answered_share(&self) -> (f64, f64) {
        (self.answered_mean, self.samples)
    }

    /// Records that a message with round number `round` was sent to the peer at `now`.
    pub(super) fn record_sent(&mut self, round: Round, now: Instant) {
        if self.undecided.len() >= UNDECIDED_MAX {
            self.undecided.pop_front();
        }
        assert!(
            self.undecided.back().is_none_or(|&(last, _)| last <= round),
            "{round:?} was sent after {:?}",
            self.undecided.back()
        );
        self.undecided.push_back((round, now));
    }

    /// Records a reply to the message with round number `answered`, and counts earlier messages as
    /// lost if their replies are overdue. `last_reply_at` is the time of the peer's previous reply.
    /// A reply is overdue after `retransmit_timeout_initial`, not after the shorter retransmission
    /// timeout, because a late reply is not a lost message.
    pub(super) fn record_reply(
        &mut self,
        answered: Round,
        last_reply_at: Instant,
        now: Instant,
        config: &Config,
    ) {
        if now.since(last_reply_at) > config.heartbeat_interval * ABSENT_HEARTBEATS {
            self.undecided.clear();
            return;
        }
        for _ in 0..self.undecided.len() {
            let (round, sent_at) = self.undecided.pop_front().expect("one for each iteration");
            if round == answered {
                self.add_sample(1.0);
            } else if now.since(sent_at) > config.retransmit_timeout_initial {
                self.add_sample(0.0);
            } else {
                self.undecided.push_back((round, sent_at));
            }
        }
        let (share, samples) = self.answered_share();
        debug_assert!((0.0..=1.0).contains(&share), "{share} of {samples} messages were answered");
    }

    /// Updates the smoothed round-trip time and its variation with a measured round-trip time,
    /// `took`.
    pub(super) fn add_round_trip(&mut self, took: Duration) {
        match &mut self.round_trip {
            Some(round_trip) => round_trip.add(took),
            None => self.round_trip = Some(RoundTrip::first(took)),
        }
    }

    fn add_sample(&mut self, answered: f64) {
        self.samples = (self.samples + 1.0).min(SAMPLES_MAX);
        self.answered_mean += (answered - self.answered_mean) / self.samples;
    }
}
