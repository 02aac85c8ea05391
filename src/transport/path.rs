//! What the sender of a stream knows about the network path to the receiver: the round-trip time,
//! the loss, and how many bytes may be in flight.

use std::time::Duration;

use crate::types::{Instant, RoundTrip};

/// Round-trip time that is assumed before the first measurement.
const ROUND_TRIP_INITIAL: Duration = Duration::from_millis(5);
/// Least time that the receiver may take for an acknowledgement beyond the usual.
const DELAY_MIN: Duration = Duration::from_millis(1);
/// Time for which the shortest round trip is remembered, at most; at least half as long.
const SHORTEST_FOR: Duration = Duration::from_secs(10);
/// A round trip that is long, because replicas are not at the same place.
const LONG: Duration = Duration::from_millis(5);
/// Number of datagrams over which the loss is averaged.
const LOSS_SAMPLES: u32 = 128;
/// Window before the first acknowledgement, in bytes.
const WINDOW_INITIAL: usize = 128 << 10;
/// Least window in bytes.
const WINDOW_MIN: usize = 16 << 10;
/// Longest time that the variation of round trips adds to the wait for an acknowledgement.
const VARIATION_MAX: Duration = Duration::from_millis(500);
/// Time by which round trips may exceed the shortest one before the window shrinks: so long may
/// datagrams wait in queues. More than a busy machine needs to schedule a thread.
const QUEUEING_MAX: Duration = Duration::from_millis(25);

/// The smoothed round-trip time, the latest one, and the shortest one of the last
/// [`SHORTEST_FOR`].
#[derive(Debug)]
pub(super) struct RoundTrips {
    /// `None` before the first measurement.
    smoothed: Option<RoundTrip>,
    latest: Duration,
    /// The shortest times of this half of [`SHORTEST_FOR`] and of the half before it.
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

    /// Returns the smoothed round-trip time.
    pub(super) fn smoothed(&self) -> Duration {
        self.smoothed.map_or(ROUND_TRIP_INITIAL, |it| it.smoothed)
    }

    /// Returns the time after which a datagram is lost if a later one was acknowledged (RFC 9002,
    /// section 6.1.2).
    pub(super) fn reordering_delay(&self) -> Duration {
        (self.smoothed().max(self.latest) * 9 / 8).max(DELAY_MIN)
    }

    /// Returns the time after which an acknowledgement is overdue (RFC 9002, section 6.2.1).
    pub(super) fn overdue_after(&self) -> Duration {
        let initial = RoundTrip::first(ROUND_TRIP_INITIAL);
        let RoundTrip { smoothed, variation } = self.smoothed.unwrap_or(initial);
        smoothed + (variation * 4).clamp(DELAY_MIN, VARIATION_MAX)
    }

    /// Returns by how much the latest round trip exceeds the shortest one.
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

/// The share of datagrams that are lost, averaged over about [`LOSS_SAMPLES`] datagrams.
#[derive(Debug, Default)]
pub(super) struct Loss {
    /// The share, in millionths.
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

/// Largest ratio of the window to the bytes that arrive in one round trip. With a window in full
/// use, as much arrives at a loss of two thirds.
const DELIVERED_RATIO: usize = 3;
/// Number of round trips of which the best counts.
const ROUNDS: usize = 8;

/// How many bytes may be in flight.
#[derive(Debug)]
pub(super) struct Window {
    bytes: usize,
    /// Largest window, in bytes.
    max: usize,
    round_began_at: Instant,
    /// Bytes acknowledged in this round trip.
    delivered: usize,
    /// Whether the window was in full use in this round trip.
    was_used: bool,
    /// Bytes acknowledged in each of the latest round trips in which the window was in full use.
    rounds: [usize; ROUNDS],
    /// Whether the window still doubles with each round trip: until it first shrinks.
    doubles: bool,
    shrunk_at: Instant,
}

impl Window {
    /// Creates a window of at most `max` bytes.
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

    /// Adapts the window to a round trip that was just measured, with the acknowledgement of
    /// `acknowledged` bytes. `is_used` is whether the window limited what was sent.
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
    fn window_follows_the_queue_and_not_the_loss() {
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
    fn path_that_loses_almost_everything_is_not_flooded() {
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
    fn loss_is_averaged() {
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
    fn acknowledgement_is_overdue_after_a_round_trip_and_its_variation() {
        let mut round_trip = RoundTrips::new(at(0));
        assert_eq!(round_trip.overdue_after(), ms(15));
        for now in 0..200 {
            round_trip.add(ms(10), at(now));
        }
        assert_eq!((round_trip.smoothed(), round_trip.overdue_after()), (ms(10), ms(11)));
        assert_eq!(round_trip.reordering_delay(), Duration::from_micros(11_250));
    }
}
