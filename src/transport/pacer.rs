//! Spreads the datagrams of a stream over time, so that a window of them does not arrive at a thin
//! link as one burst: the queue there may be shorter.

use std::time::Duration;

use crate::types::Instant;
use crate::wire::datagram::PAYLOAD_BYTES_MAX;

/// Number of bytes that may be sent as one burst, at any rate.
const BURST_BYTES: usize = 4 * PAYLOAD_BYTES_MAX;
/// Time ahead of the rate by which datagrams may be sent. At high rates, a driver whose timers have
/// a resolution of a millisecond can still keep up.
const BURST_TIME: Duration = Duration::from_millis(2);

/// When the next datagram may be sent at a rate in bytes per second, which may change.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// When everything that was sent would have been sent at exactly the rate.
    until: Instant,
}

impl Pacer {
    /// Returns when the next datagram may be sent; a time in the past if it may be sent now.
    pub(super) fn next(&self, rate: u64) -> Instant {
        Instant(self.until.0.saturating_sub(burst_nanos(rate)))
    }

    /// Records that a datagram was sent, which may happen before its time.
    pub(super) fn on_send(&mut self, bytes: usize, rate: u64, now: Instant) {
        let until = self.until.0.max(now.0).saturating_add(nanos(bytes, rate));
        // Datagrams before their time delay later ones, but not more and more.
        self.until = Instant(until.min(now.0.saturating_add(2 * burst_nanos(rate))));
    }
}

/// Returns how long a burst takes at exactly the rate, in nanoseconds.
fn burst_nanos(rate: u64) -> u64 {
    let shortest = u64::try_from(BURST_TIME.as_nanos()).expect("a short time");
    nanos(BURST_BYTES, rate).max(shortest)
}

fn nanos(bytes: usize, rate: u64) -> u64 {
    bytes as u64 * 1_000_000_000 / rate
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Instant = Instant(1_000_000_000);

    /// Returns how many datagrams are sent within a second by a driver that wakes up each
    /// `interval`.
    fn sent_within_second(rate: u64, interval: Duration) -> usize {
        let mut pacer = Pacer::default();
        let (mut now, mut sent) = (BEGIN, 0);
        while now < BEGIN + Duration::from_secs(1) {
            while now >= pacer.next(rate) {
                pacer.on_send(PAYLOAD_BYTES_MAX, rate, now);
                sent += 1;
            }
            now = now + interval;
        }
        sent
    }

    #[test]
    fn datagrams_are_sent_at_the_rate_after_a_burst() {
        for per_second in [50, 1_000, 50_000] {
            let rate = (per_second * PAYLOAD_BYTES_MAX) as u64;
            let sent = sent_within_second(rate, Duration::from_millis(1));
            let burst = (per_second / 500).max(4);
            assert!((sent.abs_diff(per_second + burst)) <= 1 + burst / 2, "{sent} at {per_second}");
        }
    }

    #[test]
    fn sending_ahead_of_the_pacer_delays_later_datagrams_briefly() {
        let mut pacer = Pacer::default();
        let rate = PAYLOAD_BYTES_MAX as u64;
        for _ in 0..1_000 {
            pacer.on_send(PAYLOAD_BYTES_MAX, rate, BEGIN);
        }
        assert_eq!(pacer.next(rate), BEGIN + Duration::from_secs(4));
    }
}
