//! A model of a TCP sender with an infinite amount of data, to compete with streams for a link:
//! slow start, CUBIC (RFC 9438) or Reno (RFC 5681), and the retransmission timeout. Each segment is
//! acknowledged, and each transmission has a number of its own, so that losses are known as with
//! selective acknowledgements. Left out: delayed acknowledgements, pacing, `HyStart`.

use std::collections::VecDeque;
use std::time::Duration;

use crate::transport::REORDERING_MAX;
use crate::types::{Instant, RoundTrip};

/// Initial congestion window in segments (RFC 6928).
const WINDOW_INITIAL: f64 = 10.0;
/// Minimum retransmission timeout: Linux's.
const TIMEOUT_MIN: Duration = Duration::from_millis(200);
/// The constant C of CUBIC, in segments per cubic second.
const CUBIC_C: f64 = 0.4;

/// TCP's congestion control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Control {
    Cubic,
    Reno,
}

impl Control {
    /// Returns the factor by which a loss shrinks the window.
    fn decrease(self) -> f64 {
        match self {
            Control::Cubic => 0.7,
            Control::Reno => 0.5,
        }
    }
}

#[derive(Debug)]
pub(super) struct Tcp {
    control: Control,
    /// Congestion window in segments.
    window: f64,
    slow_start_until: f64,
    /// The transmissions that are neither acknowledged nor lost, each with its number and the time
    /// at which it was sent.
    in_flight: VecDeque<(u64, Instant)>,
    /// Number of the next transmission.
    next: u64,
    /// Losses of transmissions before this one do not shrink the window again.
    recovery_until: u64,
    /// The window before it last shrank, and when that was.
    before: f64,
    shrunk_at: Instant,
    round_trip: Option<RoundTrip>,
    /// When the last acknowledgement arrived or the last timeout expired.
    heard_at: Instant,
}

impl Tcp {
    pub(super) fn new(control: Control, now: Instant) -> Tcp {
        Tcp {
            control,
            window: WINDOW_INITIAL,
            slow_start_until: f64::MAX,
            in_flight: VecDeque::new(),
            next: 0,
            recovery_until: 0,
            before: 0.0,
            shrunk_at: now,
            round_trip: None,
            heard_at: now,
        }
    }

    /// Returns the number of the segment to be sent now; `None` if the window is full.
    pub(super) fn transmit(&mut self, now: Instant) -> Option<u64> {
        if now >= self.next_timeout() {
            self.in_flight.clear();
            self.shrink(now);
            (self.window, self.heard_at) = (1.0, now);
        }
        if self.in_flight.len() as f64 + 1.0 > self.window {
            return None;
        }
        if self.in_flight.is_empty() {
            self.heard_at = now;
        }
        self.in_flight.push_back((self.next, now));
        self.next += 1;
        Some(self.next - 1)
    }

    pub(super) fn next_timeout(&self) -> Instant {
        if self.in_flight.is_empty() {
            return Instant::MAX;
        }
        let timeout = self.round_trip.map_or(Duration::from_secs(1), |round_trip| {
            round_trip.smoothed + (round_trip.variation * 4).max(TIMEOUT_MIN)
        });
        self.heard_at + timeout
    }

    /// Handles the acknowledgement of a segment.
    pub(super) fn on_ack(&mut self, number: u64, now: Instant) {
        self.heard_at = now;
        let Ok(at) = self.in_flight.binary_search_by_key(&number, |(number, _)| *number) else {
            return;
        };
        let (_, sent_at) = self.in_flight.remove(at).expect("it was found");
        let time = now.since(sent_at);
        match &mut self.round_trip {
            Some(round_trip) => round_trip.add(time),
            None => self.round_trip = Some(RoundTrip::first(time)),
        }
        while let Some((lost, _)) =
            self.in_flight.pop_front_if(|(earlier, _)| *earlier + REORDERING_MAX <= number)
        {
            if lost >= self.recovery_until {
                self.shrink(now);
            }
        }
        if self.window < self.slow_start_until {
            self.window += 1.0;
        } else {
            self.window += self.growth(now) / self.window;
        }
    }

    fn shrink(&mut self, now: Instant) {
        (self.before, self.shrunk_at) = (self.window, now);
        self.window = (self.window * self.control.decrease()).max(2.0);
        self.slow_start_until = self.window;
        self.recovery_until = self.next;
    }

    /// Returns by how many segments the window grows within a round trip.
    fn growth(&self, now: Instant) -> f64 {
        let round_trip = self.round_trip.expect("a segment was acknowledged").smoothed;
        match self.control {
            Control::Reno => 1.0,
            Control::Cubic => {
                // RFC 9438, sections 4.2 and 4.3.
                let decrease = self.control.decrease();
                let elapsed = now.since(self.shrunk_at);
                let k = (self.before * (1.0 - decrease) / CUBIC_C).cbrt();
                let later = (elapsed + round_trip).as_secs_f64() - k;
                let target = CUBIC_C * later.powi(3) + self.before;
                let rounds = elapsed.div_duration_f64(round_trip);
                let additive = 3.0 * (1.0 - decrease) / (1.0 + decrease);
                let friendly = self.before * decrease + additive * rounds;
                (target.min(self.window * 1.5).max(friendly) - self.window).max(0.01)
            }
        }
    }
}
