//! The congestion window of a stream: how many bytes may be in flight. See "Congestion" in the
//! documentation of the parent module.

use std::collections::VecDeque;
use std::time::Duration;

use super::path::RoundTrips;
use crate::types::Instant;
use crate::wire::datagram::PAYLOAD_BYTES_MAX;

/// Congestion window before the first acknowledgement, in bytes.
const WINDOW_INITIAL: usize = 128 << 10;
/// Minimum, in bytes, of the limits that [`DELIVERED_RATIO`] and the caller set for the window. At
/// that size some datagrams arrive even if most are lost.
const LIMIT_MIN: usize = 16 << 10;
/// Minimum congestion window in bytes, to which only full queues and drains shrink it.
const WINDOW_MIN: usize = 4 * PAYLOAD_BYTES_MAX;
/// Reciprocal of the growth of the window with each round trip, once it has shrunk. Small windows
/// grow faster: by a quarter of a datagram.
const GROWTH_ROUNDS: usize = 48;
/// Minimum length of a round.
const ROUND_MIN: Duration = Duration::from_millis(10);
/// Age, in rounds, up to which a lost datagram may show congestion. A queue that appears later has
/// not dropped it.
const LOSS_ROUNDS: u32 = 2;
/// Number of recent rounds from which the highest delivery rate is taken.
const ROUNDS: usize = 8;
/// Maximum ratio of the congestion window to the bytes that are delivered in a round trip, and of
/// the pacing rate to the delivery rate. It keeps the sender from flooding a path that loses almost
/// everything: a fully used window reaches this ratio when two thirds of the datagrams are lost.
const DELIVERED_RATIO: usize = 3;
/// Minimum queueing delay with which a loss counts as the overflow of a queue.
const QUEUE_OVERFLOW: Duration = Duration::from_millis(2);
/// Queueing delay above which the stream drains the queue, or half of the shortest round trip if
/// that is longer.
const QUEUE_MAX: Duration = Duration::from_millis(25);
/// Queueing delay that the window allows after a long queue was drained.
const QUEUE_DRAINED: Duration = Duration::from_millis(5);
/// Length of a drain in round trips. The first takes away what this stream had in flight, and the
/// second shows what is left.
const DRAIN_ROUND_TRIPS: u32 = 2;
/// Minimum time between two drains, unless the first has shown that this stream fills the queue.
const DRAIN_INTERVAL: Duration = Duration::from_secs(10);

/// A part of the stream's time: at least a round trip, and at least [`ROUND_MIN`].
#[derive(Debug)]
struct Round {
    began_at: Instant,
    /// Number of bytes acknowledged.
    delivered: usize,
    /// Whether the window was well used at some time: more than half of it was in flight.
    was_used: bool,
    /// Whether the sender had nothing to send at some time.
    was_idle: bool,
    /// The shortest round-trip time; `Duration::MAX` if none was measured.
    shortest: Duration,
}

impl Round {
    fn new(now: Instant) -> Round {
        Round {
            began_at: now,
            delivered: 0,
            was_used: false,
            was_idle: false,
            shortest: Duration::MAX,
        }
    }
}

/// A drain: the window is 7/8 of what the path holds without a queue, and at most half of its size,
/// for two round trips.
#[derive(Clone, Copy, Debug)]
struct Drain {
    /// The window's maximum size after the drain.
    back_to: usize,
    /// Whether the drain began because the queueing delay was long. It ends earlier if the delay
    /// has become short.
    is_queue_long: bool,
}

/// An acknowledgement, as the window sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    /// Number of bytes that were acknowledged for the first time.
    pub(super) bytes: usize,
    /// Whether the window was well used: more than half of it was in flight.
    pub(super) is_used: bool,
    /// Whether the sender has nothing to send, and waits for nothing.
    pub(super) is_idle: bool,
    /// When the newest of all lost datagrams was sent; [`Instant::ZERO`] if none was lost.
    pub(super) lost_sent_at: Instant,
}

/// The congestion window: the maximum number of bytes in flight (sent, but neither acknowledged nor
/// lost).
#[derive(Debug)]
pub(super) struct Window {
    /// Size in bytes, from [`WINDOW_MIN`] to `max`.
    bytes: usize,
    /// Maximum size to which the window may grow, in bytes.
    max: usize,
    round: Round,
    /// The shortest round-trip time of the previous round; `Duration::MAX` if none was measured.
    previous_shortest: Duration,
    /// Delivery rates of the last [`ROUNDS`] rounds in which the window was well used and the
    /// sender never idle, in bytes per second.
    rates: VecDeque<u64>,
    /// Whether the window grows by what is acknowledged (slow start). Becomes false when a queue is
    /// full for the first time.
    in_slow_start: bool,
    /// When the window last shrank. Losses of datagrams that were sent before say nothing about its
    /// new size.
    shrunk_at: Instant,
    /// The drain that began at `drained_at`; `None` if it is over.
    drain: Option<Drain>,
    /// When the last drain began, or the stream if there was none.
    drained_at: Instant,
    /// Whether the last drain left the queue long, because others fill it.
    is_contested: bool,
}

impl Window {
    /// Creates a congestion window that may grow to `max` bytes.
    pub(super) fn new(max: usize, now: Instant) -> Window {
        let max = max.max(LIMIT_MIN);
        Window {
            bytes: WINDOW_INITIAL.min(max),
            max,
            round: Round::new(Instant::ZERO),
            previous_shortest: Duration::MAX,
            rates: VecDeque::new(),
            in_slow_start: true,
            shrunk_at: Instant::ZERO,
            drain: None,
            drained_at: now,
            is_contested: false,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the rate at which a window of datagrams is sent, in bytes per second: a little
    /// faster than a window per round trip, and twice a window in slow start; but at most
    /// [`DELIVERED_RATIO`] times the rate at which bytes are delivered. So a stream that does not
    /// see the queue of a link, because it is too short, does not flood the link.
    pub(super) fn pacing_rate(&self, round_trip: Duration) -> u64 {
        let rate = per_second(self.bytes, round_trip) * if self.in_slow_start { 8 } else { 5 } / 4;
        let most = match self.rates.iter().max() {
            Some(most) if self.rates.len() == ROUNDS => {
                let least = per_second(LIMIT_MIN, round_trip.max(ROUND_MIN));
                most.saturating_mul(DELIVERED_RATIO as u64).max(least)
            }
            _ => u64::MAX,
        };
        rate.min(most).max(1)
    }

    /// Adapts the window after an acknowledgement, whose round-trip time is already part of
    /// `round_trip`.
    pub(super) fn on_ack(&mut self, ack: Acknowledged, round_trip: &RoundTrips, now: Instant) {
        self.round.delivered += ack.bytes;
        self.round.was_used |= ack.is_used;
        self.round.shortest = self.round.shortest.min(round_trip.latest());
        let round_min = round_trip.smoothed().max(ROUND_MIN);
        if ack.is_used && self.drain.is_none() {
            let has_lost = ack.lost_sent_at > self.shrunk_at
                && now.since(ack.lost_sent_at) <= round_min * LOSS_ROUNDS;
            let queue = self.queue(round_trip);
            let has_overflowed = has_lost && queue >= QUEUE_OVERFLOW;
            self.in_slow_start &= !has_overflowed;
            let shrunk = self.without_queue(queue, round_trip);
            if has_lost && self.is_drain_due(now) {
                // The shortest round trip may be that of a queue that has not been empty for long.
                let back_to = if has_overflowed { shrunk } else { self.bytes };
                self.begin_drain(Drain { back_to, is_queue_long: false }, round_trip, now);
            } else if has_overflowed {
                self.shrink(shrunk, now);
            } else {
                self.grow(ack.bytes);
            }
        }
        let elapsed = now.since(self.round.began_at);
        if elapsed >= round_min {
            self.end_round(elapsed, round_trip, now);
        }
        // The idle time begins now.
        self.round.was_idle |= ack.is_idle;
    }

    fn grow(&mut self, acknowledged: usize) {
        let growth = if self.in_slow_start {
            acknowledged
        } else {
            let additive = acknowledged * PAYLOAD_BYTES_MAX / (4 * self.bytes);
            additive.max(acknowledged / GROWTH_ROUNDS)
        };
        self.bytes = (self.bytes + growth).min(self.max);
    }

    fn end_round(&mut self, elapsed: Duration, round_trip: &RoundTrips, now: Instant) {
        let queue = self.queue(round_trip);
        let Round { delivered, was_used, was_idle, shortest, .. } =
            std::mem::replace(&mut self.round, Round::new(now));
        self.previous_shortest = shortest;
        if was_used && !was_idle {
            self.rates.truncate(ROUNDS - 1);
            self.rates.push_front(per_second(delivered, elapsed));
        }
        match self.drain {
            Some(drain) => self.check_drain(drain, queue, round_trip, now),
            None if was_used && queue > queue_max(round_trip) => {
                self.in_slow_start = false;
                if !self.is_contested || self.is_drain_due(now) {
                    let drain = Drain { back_to: self.bytes, is_queue_long: true };
                    self.begin_drain(drain, round_trip, now);
                }
            }
            None => {}
        }
        if self.rates.len() == ROUNDS {
            let most = self.delivered_in(round_trip.smoothed()).saturating_mul(DELIVERED_RATIO);
            self.bytes = self.bytes.min(most.max(LIMIT_MIN));
        }
    }

    fn is_drain_due(&self, now: Instant) -> bool {
        now.since(self.drained_at) >= DRAIN_INTERVAL
    }

    /// Makes the window so small that all datagrams of this stream leave the queues on the path.
    fn begin_drain(&mut self, drain: Drain, round_trip: &RoundTrips, now: Instant) {
        (self.drain, self.drained_at) = (Some(drain), now);
        // The delay before the drain does not show what others have in the queue.
        (self.round, self.previous_shortest) = (Round::new(now), Duration::MAX);
        let without_queue = self.delivered_in(round_trip.shortest()) / 8 * 7;
        self.shrink(without_queue.min(self.bytes / 2).max(WINDOW_MIN), now);
    }

    /// Ends the drain after its time. If the queueing delay `queue` is still long then, others fill
    /// the queue. A drain of a long queue ends once the queue has become short.
    fn check_drain(
        &mut self,
        drain: Drain,
        queue: Duration,
        round_trip: &RoundTrips,
        now: Instant,
    ) {
        self.is_contested = queue > queue_max(round_trip) / 2;
        if drain.is_queue_long && !self.is_contested {
            let allowed = self.delivered_in(round_trip.shortest() + QUEUE_DRAINED);
            (self.bytes, self.drain) = (allowed.max(self.bytes).min(drain.back_to), None);
        } else if now.since(self.drained_at) >= round_trip.smoothed() * DRAIN_ROUND_TRIPS {
            (self.bytes, self.drain) = (drain.back_to, None);
        }
    }

    fn shrink(&mut self, bytes: usize, now: Instant) {
        assert!(bytes >= WINDOW_MIN, "a window of {bytes} bytes");
        (self.bytes, self.shrunk_at) = (bytes, now);
    }

    /// Returns the queueing delay: the time by which even the shortest round trip of this round and
    /// the previous one exceeds the shortest recent one. Datagrams that wait for a thread on a busy
    /// machine are slow too, but not all of them for a whole round.
    fn queue(&self, round_trip: &RoundTrips) -> Duration {
        let shortest = self.round.shortest.min(self.previous_shortest);
        shortest.saturating_sub(round_trip.shortest())
    }

    /// Returns the size of the window without the part that waits in queues for the time `queue`,
    /// but at least half of its size and [`WINDOW_MIN`].
    fn without_queue(&self, queue: Duration, round_trip: &RoundTrips) -> usize {
        let shortest = u64::try_from(round_trip.shortest().as_micros()).unwrap_or(u64::MAX);
        let queue = u64::try_from(queue.as_micros()).unwrap_or(u64::MAX);
        let rest = (self.bytes as u64).saturating_mul(shortest) / shortest.saturating_add(queue);
        usize::try_from(rest).expect("less than the window").max(self.bytes / 2).max(WINDOW_MIN)
    }

    /// Returns the number of bytes that are delivered within `time` at the highest recent rate;
    /// [`usize::MAX`] if no rate is known.
    fn delivered_in(&self, time: Duration) -> usize {
        let Some(&rate) = self.rates.iter().max() else { return usize::MAX };
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        usize::try_from(rate.saturating_mul(micros) / 1_000_000).unwrap_or(usize::MAX)
    }
}

/// Returns the rate, in bytes per second, of `bytes` within `time`.
fn per_second(bytes: usize, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    bytes as u64 * 1_000_000 / micros.max(1)
}

/// Returns the queueing delay above which the stream drains the queue.
fn queue_max(round_trip: &RoundTrips) -> Duration {
    QUEUE_MAX.max(round_trip.shortest() / 2)
}

#[cfg(test)]
mod tests;
