//! Counters of the traffic with clients, and its current rates, for `INFO`. The rates are averages
//! over the last readings of the counters, as in Redis.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::Instant;

/// Minimum time between two readings of the counters, and between two refreshes of the slowly
/// changing values that `INFO` reports.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of intervals over which a rate is averaged.
const INTERVALS_MAX: usize = 16;

/// Counters of the traffic between one replica and its clients, since the process started or since
/// `CONFIG RESETSTAT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Number of clients that are connected now.
    pub clients: u64,
    /// Number of client connections accepted.
    pub connections: u64,
    /// Number of client connections that were refused because the maximum number of clients was
    /// connected.
    pub connections_refused: u64,
    /// Number of clients that were disconnected because all clients together used more memory than
    /// `maxmemory-clients` allows.
    pub clients_evicted: u64,
    /// Number of requests received from clients.
    pub commands: u64,
    /// Number of bytes received from clients.
    pub bytes_in: u64,
    /// Number of bytes sent to clients.
    pub bytes_out: u64,
    /// Number of reads from clients' sockets that returned bytes.
    pub reads: u64,
    /// Number of writes to clients' sockets that sent bytes.
    pub writes: u64,
}

/// A reading of the counters from which rates are computed.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    commands: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// The latest readings of the traffic counters, from which rates are computed.
///
/// Invariant: at most 17 readings, oldest first, at least 100 ms apart.
#[derive(Debug, Clone, Default)]
pub struct Rates(VecDeque<Reading>);

/// Rates of traffic, per second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct PerSecond {
    pub(super) commands: f64,
    pub(super) bytes_in: f64,
    pub(super) bytes_out: f64,
}

impl Rates {
    /// Takes a reading of the counters in `traffic`, unless the last reading is too recent.
    pub fn sample(&mut self, now: Instant, traffic: &Traffic) {
        if self.0.back().is_some_and(|last| now.since(last.at) < SAMPLE_INTERVAL) {
            return;
        }
        let Traffic { commands, bytes_in, bytes_out, .. } = *traffic;
        self.0.push_back(Reading { at: now, commands, bytes_in, bytes_out });
        // An idle server takes fewer readings. Old readings must not affect the rates for long
        // then.
        let span = SAMPLE_INTERVAL * u32::try_from(INTERVALS_MAX).expect("it is small");
        let is_old = |reading: &Reading| now.since(reading.at) > span;
        while self.0.len() > 2
            && (self.0.len() > INTERVALS_MAX + 1 || self.0.front().is_some_and(is_old))
        {
            self.0.pop_front();
        }
    }

    /// Discards all readings, because the counters were set to 0.
    pub fn reset(&mut self) {
        self.0.clear();
    }

    /// Returns the average rates of commands and network bytes between the oldest and the latest
    /// reading; 0 if there are fewer than two.
    pub(super) fn per_second(&self) -> PerSecond {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else {
            return PerSecond::default();
        };
        let seconds = last.at.since(first.at).as_secs_f64();
        let rate = |from: u64, to: u64| {
            if seconds > 0.0 { to.saturating_sub(from) as f64 / seconds } else { 0.0 }
        };
        PerSecond {
            commands: rate(first.commands, last.commands),
            bytes_in: rate(first.bytes_in, last.bytes_in),
            bytes_out: rate(first.bytes_out, last.bytes_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_bytes_per_second_average_recent_samples() {
        let mut rates = Rates::default();
        let millis = |millis| Instant::ZERO + Duration::from_millis(millis);
        let traffic =
            |commands| Traffic { commands, bytes_in: 10 * commands, ..Traffic::default() };
        assert_eq!(rates.per_second(), PerSecond::default());
        for tick in 0..100 {
            // Only every second reading is far enough from the last one that was taken.
            rates.sample(millis(50 * tick), &traffic(tick));
        }
        let PerSecond { commands, bytes_in, bytes_out } = rates.per_second();
        assert_eq!((commands.round(), bytes_in.round(), bytes_out.round()), (20.0, 200.0, 0.0));
        assert_eq!(rates.0.len(), INTERVALS_MAX + 1);
        // Without traffic, and with few readings, the rates soon fall to 0.
        for at in [5_500, 6_000, 6_500, 7_000] {
            rates.sample(millis(at), &traffic(99));
        }
        assert_eq!(rates.per_second(), PerSecond::default());
        rates.reset();
        rates.sample(millis(8_000), &traffic(1));
        assert_eq!(rates.per_second(), PerSecond::default());
    }
}
