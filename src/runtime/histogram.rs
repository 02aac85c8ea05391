//! A histogram of durations that one thread records while others read it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::redis::{DURATION_BUCKETS, DurationHistogram};

/// A histogram of durations that one thread records while others read it. It counts from the start
/// of the process.
#[derive(Debug, Default)]
pub struct SharedHistogram {
    counts: [AtomicU64; DURATION_BUCKETS],
    sum_nanos: AtomicU64,
}

impl SharedHistogram {
    /// Adds a duration.
    pub(super) fn add(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.counts[DurationHistogram::bucket_of(duration)].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the durations that were added so far. The sum may lack a duration that is being
    /// added.
    pub fn read(&self) -> DurationHistogram {
        DurationHistogram {
            counts: std::array::from_fn(|bucket| self.counts[bucket].load(Ordering::Relaxed)),
            sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_histogram_returns_what_was_added() {
        let histogram = SharedHistogram::default();
        for micros in [1, 3, 3] {
            histogram.add(Duration::from_micros(micros));
        }
        let read = histogram.read();
        assert_eq!((read.counts[0], read.counts[2]), (1, 2));
        assert_eq!((read.counts.iter().sum::<u64>(), read.sum), (3, Duration::from_micros(7)));
    }
}
