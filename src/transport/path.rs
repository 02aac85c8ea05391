//! What the sender of a stream knows about the network path to the receiver: the round-trip time
//! and the loss.

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
const SHORTEST_FOR: Duration = Duration::from_secs(20);
/// A round trip that is long, because replicas are not at the same place.
const LONG: Duration = Duration::from_millis(5);
/// Number of datagrams over which the loss rate is averaged (exponential moving average).
const LOSS_SAMPLES: u32 = 128;
/// Maximum time that the variation of round-trip times adds to the time after which an
/// acknowledgement is overdue.
const VARIATION_MAX: Duration = Duration::from_millis(500);

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

    /// Returns the latest round-trip time; [`ROUND_TRIP_INITIAL`] before the first measurement.
    pub(super) fn latest(&self) -> Duration {
        self.latest
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

    /// Returns whether even the shortest round trip is at least [`LONG`].
    pub(super) fn is_long(&self) -> bool {
        self.smoothed.is_some() && self.shortest() >= LONG
    }

    /// Returns the shortest recent round-trip time; `Duration::MAX` before the first measurement.
    pub(super) fn shortest(&self) -> Duration {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
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
