//! What the sender of a stream knows about the network path to the receiver: the round-trip time,
//! the loss, and how many bytes may be in flight.

use std::time::Duration;

use crate::types::{Instant, RoundTrip};

/// Round-trip time that a sender assumes before its first measurement.
const ROUND_TRIP_INITIAL: Duration = Duration::from_millis(5);
/// Timer granularity (RFC 9002, section 6.1.2): the minimum time after which an unacknowledged
/// datagram counts as lost, and the minimum that is added to the round-trip time to get the time
/// after which an acknowledgement is overdue.
const DELAY_MIN: Duration = Duration::from_millis(1);
/// Maximum time for which the shortest round-trip time is remembered. It is remembered for at least
/// half of this time.
const SHORTEST_FOR: Duration = Duration::from_secs(10);
/// A round trip that is long, because replicas are not at the same place.
const LONG: Duration = Duration::from_millis(5);
/// Number of datagrams over which the loss rate is averaged (exponential moving average).
const LOSS_SAMPLES: u32 = 128;
/// Congestion window (limit on the bytes in flight) before the first acknowledgement, in bytes.
const WINDOW_INITIAL: usize = 128 << 10;
/// Minimum congestion window (limit on the bytes in flight), in bytes.
const WINDOW_MIN: usize = 16 << 10;
/// Maximum time that the variation of round-trip times adds to the time after which an
/// acknowledgement is overdue.
const VARIATION_MAX: Duration = Duration::from_millis(500);
/// Maximum time by which a round trip may exceed the shortest recent one before the congestion
/// window shrinks. The excess is the time that datagrams wait in queues on the path, plus a few
/// milliseconds for the scheduling of threads on a busy machine.
const QUEUEING_MAX: Duration = Duration::from_millis(25);

/// Measured round-trip times to the receiver: smoothed, latest, and the shortest of about the last
/// [`SHORTEST_FOR`].
#[derive(Debug)]
pub(super) struct RoundTrips {
    /// The smoothed round-trip time and its variation; `None` before the first measurement.
    smoothed: Option<RoundTrip>,
    latest: Duration,
    /// The shortest round-trip times of the current half of [`SHORTEST_FOR`] and of the half before
    /// it; `Duration::MAX` for a half without measurements.
    shortest: [Duration; 2],
    half_began_at: Instant,
}

impl RoundTrips {
    pub(super) fn new(now: Instant) -> RoundTrips {
        RoundTrips {
            smoothed: None,
            latest: ROUND_TRIP_INITIAL,
            shortest: [Duration::MAX; 2],
            half_began_at: now,
        }
    }

    pub(super) fn add(&mut self, time: Duration, now: Instant) {
        self.latest = time;
        match &mut self.smoothed {
            Some(smoothed) => smoothed.add(time),
            None => self.smoothed = Some(RoundTrip::first(time)),
        }
        if now.since(self.half_began_at) >= SHORTEST_FOR / 2 {
            self.half_began_at = now;
            self.shortest = [Duration::MAX, self.shortest[0]];
        }
        self.shortest[0] = self.shortest[0].min(time);
    }

    /// Returns the smoothed round-trip time; [`ROUND_TRIP_INITIAL`] before the first measurement.
    pub(super) fn smoothed(&self) -> Duration {
        self.smoothed.map_or(ROUND_TRIP_INITIAL, |it| it.smoothed)
    }

    /// Returns how long after its transmission an unacknowledged datagram counts as lost, once a
    /// later datagram has been acknowledged (RFC 9002, section 6.1.2).
    pub(super) fn reordering_delay(&self) -> Duration {
        (self.smoothed().max(self.latest) * 9 / 8).max(DELAY_MIN)
    }

    /// Returns how long after a transmission its acknowledgement is overdue: the probe timeout of
    /// RFC 9002, section 6.2.1.
    pub(super) fn overdue_after(&self) -> Duration {
        let initial = RoundTrip::first(ROUND_TRIP_INITIAL);
        let RoundTrip { smoothed, variation } = self.smoothed.unwrap_or(initial);
        smoothed + (variation * 4).clamp(DELAY_MIN, VARIATION_MAX)
    }

    /// Returns the time that datagrams wait in queues on the path, estimated as the difference
    /// between the latest round trip and the shortest recent one.
    fn queueing(&self) -> Duration {
        self.latest.saturating_sub(self.shortest())
    }

    /// Returns whether even the shortest round trip is at least [`LONG`].
    pub(super) fn is_long(&self) -> bool {
        self.smoothed.is_some() && self.shortest() >= LONG
    }

    fn shortest(&self) -> Duration {
        self.shortest[0].min(self.shortest[1])
    }
}

/// The share of sent datagrams that are lost: a moving average over about [`LOSS_SAMPLES`]
/// datagrams.
#[derive(Debug, Default)]
pub(super) struct Loss {
    /// The share of lost datagrams, in millionths (0 to 1,000,000).
    millionths: u32,
}

impl Loss {
    pub(super) fn add(&mut self, lost: bool) {
        let sample = if lost { 1_000_000 } else { 0 };
        self.millionths = (self.millionths * (LOSS_SAMPLES - 1) + sample) / LOSS_SAMPLES;
    }

    pub(super) fn permille(&self) -> u32 {
        self.millionths / 1_000
    }
}

/// Maximum ratio of the congestion window to the largest number of bytes acknowledged in one of the
/// last [`ROUNDS`] round trips. It keeps the sender from flooding a path that loses almost
/// everything: a fully used window reaches this ratio when two thirds of the datagrams are lost.
const DELIVERED_RATIO: usize = 3;
/// Number of recent round trips from which the largest number of acknowledged bytes is taken, to
/// limit the congestion window to [`DELIVERED_RATIO`] times that number.
const ROUNDS: usize = 8;

/// The congestion window: the maximum number of bytes in flight (sent, but neither acknowledged nor
/// lost).
#[derive(Debug)]
pub(super) struct Window {
    bytes: usize,
    /// Maximum size to which the window may grow, in bytes.
    max: usize,
    round_began_at: Instant,
    /// Number of bytes acknowledged since the current round trip began.
    delivered: usize,
    /// Whether the window was well used at some time in the current round trip: more than half of
    /// it was in flight.
    was_used: bool,
    /// Number of bytes acknowledged in each of the last [`ROUNDS`] round trips in which the window
    /// was well used (more than half of it was in flight). Each element is initially the maximum
    /// size of the window.
    rounds: [usize; ROUNDS],
    /// Whether the window doubles with each round trip (slow start). Becomes false when the window
    /// first shrinks.
    doubles: bool,
    shrunk_at: Instant,
}

impl Window {
    /// Creates a congestion window that may grow to `max` bytes.
    pub(super) fn new(max: usize) -> Window {
        let max = max.max(WINDOW_MIN);
        Window {
            bytes: WINDOW_INITIAL.min(max),
            max,
            round_began_at: Instant::ZERO,
            delivered: 0,
            was_used: false,
            rounds: [max; ROUNDS],
            doubles: true,
            shrunk_at: Instant::ZERO,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adapts the window after an acknowledgement of `acknowledged` bytes, whose round-trip time is
    /// already part of `round_trip`: shrinks the window if datagrams wait in queues on the path,
    /// and otherwise increases it if `is_used` is true (more than half of the window was in
    /// flight).
    pub(super) fn on_round_trip(
        &mut self,
        round_trip: &RoundTrips,
        acknowledged: usize,
        is_used: bool,
        now: Instant,
    ) {
        if round_trip.queueing() > QUEUEING_MAX {
            if now.since(self.shrunk_at) >= round_trip.smoothed() {
                self.bytes = (self.bytes / 8 * 7).max(WINDOW_MIN);
                (self.doubles, self.shrunk_at) = (false, now);
            }
        } else if is_used {
            let growth = if self.doubles {
                acknowledged
            } else {
                // An eighth with each round trip: undoes one reduction.
                acknowledged / 8
            };
            self.bytes = (self.bytes + growth).min(self.max);
        }
        self.delivered += acknowledged;
        self.was_used |= is_used;
        if now.since(self.round_began_at) >= round_trip.smoothed() {
            if self.was_used {
                self.rounds.rotate_right(1);
                self.rounds[0] = self.delivered;
            }
            (self.round_began_at, self.delivered, self.was_used) = (now, 0, false);
            let best = self.rounds.iter().max().expect("there are some");
            let most = (best * DELIVERED_RATIO).max(WINDOW_MIN);
            self.bytes = self.bytes.min(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_MAX: usize = 8 << 20;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn congestion_window_reacts_to_queueing_delay_not_loss() {
        let mut round_trip = RoundTrips::new(at(0));
        let mut window = Window::new(WINDOW_MAX);
        let mut step = |time, used, from: u64| {
            for now in (from..from + 100).step_by(10) {
                round_trip.add(ms(time), at(now));
                let arrived = window.bytes() / 2;
                window.on_round_trip(&round_trip, arrived, used, at(now));
            }
            window.bytes()
        };
        let first = step(2, true, 0);
        assert!(first > 8 * WINDOW_INITIAL, "{first}");
        assert_eq!(step(2, false, 100), first, "it does not grow unused");
        let shrunk = step(60, true, 200);
        assert!(shrunk < first, "a queue of 58 ms: {shrunk} bytes after {first}");
        assert!(step(2, true, 300) > shrunk);
        for from in 4..40 {
            step(60, true, from * 100);
        }
        assert_eq!(step(60, true, 4_000), WINDOW_MIN);
        // A longer path is not a queue, once the shorter one is forgotten.
        for from in 41..200 {
            step(60, true, from * 100);
        }
        assert!(step(60, true, 20_000) > WINDOW_MIN);
    }

    #[test]
    fn congestion_window_shrinks_under_90_percent_loss() {
        let mut round_trip = RoundTrips::new(at(0));
        let mut window = Window::new(WINDOW_MAX);
        for now in 0..1_000 {
            round_trip.add(ms(2), at(now));
            let arrives = window.bytes() / 10;
            window.on_round_trip(&round_trip, arrives / 2, true, at(now));
        }
        assert!(window.bytes() < WINDOW_MIN * 2, "{}, a tenth arrives", window.bytes());
        let mut window = Window::new(WINDOW_MAX);
        for now in 0..1_000 {
            round_trip.add(ms(2), at(now));
            let arrives = window.bytes() / 2;
            window.on_round_trip(&round_trip, arrives / 2, true, at(now));
        }
        assert_eq!(window.bytes(), WINDOW_MAX, "half arrives");
    }

    #[test]
    fn packet_loss_rate_is_a_moving_average() {
        let mut loss = Loss::default();
        for number in 0..1_000 {
            loss.add(number % 5 == 0);
        }
        assert!((150..250).contains(&loss.permille()), "{} of 200", loss.permille());
        for _ in 0..2_000 {
            loss.add(false);
        }
        assert_eq!(loss.permille(), 0);
    }

    #[test]
    fn retransmission_timeout_is_round_trip_plus_its_variation() {
        let mut round_trip = RoundTrips::new(at(0));
        assert_eq!(round_trip.overdue_after(), ms(15));
        for now in 0..200 {
            round_trip.add(ms(10), at(now));
        }
        assert_eq!((round_trip.smoothed(), round_trip.overdue_after()), (ms(10), ms(11)));
        assert_eq!(round_trip.reordering_delay(), Duration::from_micros(11_250));
    }
}
