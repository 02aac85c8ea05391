//! What a run counts: latencies, errors, and the rest, for a second at a time in the threads and
//! for the whole run where the seconds come together.

use std::collections::BTreeMap;

use bowline::course::histogram::histogram;
use hdrhistogram::Histogram;

use super::schema::{Counts, Latencies, Latency, Point};
use super::workload::KINDS;

/// What happened in one second in one thread, or in a run.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// By the place of the kind.
    pub(crate) response: [Histogram<u64>; 5],
    /// By the place of the kind.
    pub(crate) service: [Histogram<u64>; 5],
    /// How late requests were sent.
    pub(crate) lag: Histogram<u64>,
    pub(crate) counts: Counts,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Due and not sent at the end.
    pub(crate) backlog: u64,
    /// The last moment that something was answered at.
    pub(crate) last: u64,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new() -> Tally {
        let empty = || histogram([]);
        Tally {
            response: KINDS.map(|_| empty()),
            service: KINDS.map(|_| empty()),
            lag: empty(),
            counts: Counts::default(),
            errors: BTreeMap::new(),
            backlog: 0,
            last: 0,
        }
    }

    /// Counts a failed operation.
    pub(crate) fn fail(&mut self, kind: &str) {
        self.counts.failed += 1;
        match self.errors.get_mut(kind) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(kind.to_owned(), 1);
            }
        }
    }

    /// Whether nothing happened.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts == Counts::default() && self.backlog == 0
    }

    /// Takes in what another counted.
    pub(crate) fn add(&mut self, other: &Tally) {
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
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_insert(0) += count;
        }
        self.backlog += other.backlog;
        self.last = self.last.max(other.last);
    }

    /// All kinds together.
    pub(crate) fn all(histograms: &[Histogram<u64>; 5]) -> Histogram<u64> {
        let mut all = histogram([]);
        for histogram in histograms.iter().filter(|histogram| !histogram.is_empty()) {
            all.add(histogram).expect("all have the same bounds");
        }
        all
    }

    /// What users wait: response times in an open loop, service times in a closed one.
    pub(crate) fn main(&self, open: bool) -> &[Histogram<u64>; 5] {
        if open { &self.response } else { &self.service }
    }
}

/// A value of a histogram of nanoseconds, in seconds.
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Sums up.
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

/// Sums up one kind.
pub(crate) fn latencies(response: Option<&Histogram<u64>>, service: &Histogram<u64>) -> Latencies {
    let shown = response.unwrap_or(service);
    let curve = bowline::course::histogram::percentiles(shown)
        .into_iter()
        .map(|(quantile, value)| Point { quantile, seconds: seconds(value) })
        .collect();
    Latencies { response: response.map(latency), service: latency(service), curve }
}
