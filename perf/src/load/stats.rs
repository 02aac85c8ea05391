//! Statistics of a run: latencies, errors and counts. Each thread collects statistics for one
//! second at a time; the main thread adds them up.

use std::collections::BTreeMap;

use bowline::course::histogram::histogram;
use hdrhistogram::Histogram;

use super::schema::{Counts, Latencies, Latency, Point};
use super::workload::KINDS;

/// Statistics of operations in one second on one thread, or the sum of such statistics over several
/// threads or seconds.
#[derive(Debug, Clone)]
pub(crate) struct Stats {
    /// Histograms of response times (from the scheduled time to the reply) in nanoseconds, one for
    /// each kind of operation in the order of [`Kind::place`](super::workload::Kind::place).
    pub(crate) response: [Histogram<u64>; 5],
    /// Histograms of service times (from sending to the reply) in nanoseconds, one for each kind of
    /// operation in the order of [`Kind::place`](super::workload::Kind::place).
    pub(crate) service: [Histogram<u64>; 5],
    /// Histogram of the delays, in nanoseconds, between the time at which an operation should have
    /// been sent and the time at which it was sent.
    pub(crate) lag: Histogram<u64>,
    pub(crate) counts: Counts,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Number of operations that were due by the end of the second but had not been sent.
    pub(crate) backlog: u64,
    /// Time at which the last successful reply arrived, in nanoseconds since the start of the run;
    /// 0 if there was none.
    pub(crate) last: u64,
}

impl Stats {
    /// Creates empty statistics.
    pub(crate) fn new() -> Stats {
        let empty = || histogram([]);
        Stats {
            response: KINDS.map(|_| empty()),
            service: KINDS.map(|_| empty()),
            lag: empty(),
            counts: Counts::default(),
            errors: BTreeMap::new(),
            backlog: 0,
            last: 0,
        }
    }

    /// Counts a failed operation. `error` is the name of the error, such as `timeout`.
    pub(crate) fn fail(&mut self, error: &str) {
        self.counts.failed += 1;
        match self.errors.get_mut(error) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(error.to_owned(), 1);
            }
        }
    }

    /// Returns whether these statistics are empty: no operation was counted and none was overdue.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts == Counts::default() && self.backlog == 0
    }

    /// Adds the counts and histograms of `other`, the statistics of another thread or second, to
    /// `self`.
    pub(crate) fn add(&mut self, other: &Stats) {
        let pairs = self.response.iter_mut().zip(&other.response);
        let pairs = pairs.chain(self.service.iter_mut().zip(&other.service));
        for (mine, theirs) in pairs.chain([(&mut self.lag, &other.lag)]) {
            if !theirs.is_empty() {
                mine.add(theirs).expect("all have the same bounds");
            }
        }
        let (mine, theirs) = (&mut self.counts, &other.counts);
        mine.succeeded += theirs.succeeded;
        mine.failed += theirs.failed;
        mine.unsent += theirs.unsent;
        mine.not_found += theirs.not_found;
        mine.redirects += theirs.redirects;
        mine.reconnects += theirs.reconnects;
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_insert(0) += count;
        }
        self.backlog += other.backlog;
        self.last = self.last.max(other.last);
    }

    /// Merges histograms, one for each kind of operation, into one for all operations.
    pub(crate) fn all(histograms: &[Histogram<u64>; 5]) -> Histogram<u64> {
        let mut all = histogram([]);
        for histogram in histograms.iter().filter(|histogram| !histogram.is_empty()) {
            all.add(histogram).expect("all have the same bounds");
        }
        all
    }

    /// Returns the histograms from which latencies are reported: response times in an open loop
    /// (`open` is true), service times in a closed loop.
    pub(crate) fn main(&self, open: bool) -> &[Histogram<u64>; 5] {
        if open { &self.response } else { &self.service }
    }
}

/// Converts a time in nanoseconds to seconds.
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Summarizes a histogram of latencies in nanoseconds. The summary is in seconds.
pub(crate) fn latency(histogram: &Histogram<u64>) -> Latency {
    if histogram.is_empty() {
        return Latency::default();
    }
    let at = |quantile: f64| seconds(histogram.value_at_quantile(quantile));
    Latency {
        count: histogram.len(),
        min_s: seconds(histogram.min()),
        mean_s: histogram.mean() / 1e9,
        p50_s: at(0.5),
        p90_s: at(0.9),
        p95_s: at(0.95),
        p99_s: at(0.99),
        p999_s: at(0.999),
        p9999_s: at(0.9999),
        max_s: seconds(histogram.max()),
    }
}

/// Summarizes the latencies of one kind of operation. `response` is the histogram of response
/// times, `None` in a closed loop; `service` is that of service times.
pub(crate) fn latencies(response: Option<&Histogram<u64>>, service: &Histogram<u64>) -> Latencies {
    let shown = response.unwrap_or(service);
    let curve = bowline::course::histogram::percentiles(shown)
        .into_iter()
        .map(|(quantile, value)| Point { quantile, seconds: seconds(value) })
        .collect();
    Latencies { response: response.map(latency), service: latency(service), curve }
}
