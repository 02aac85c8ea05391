//! The data from which charts are drawn, independent of the format of the result file: a run's
//! latencies, its time intervals and its events.

use hdrhistogram::Histogram;

/// Nanoseconds per second, to convert latencies from histograms (nanoseconds) to charts (seconds).
const NANOSECONDS: f64 = 1e9;

/// Maximum number of time intervals in a run. A file with more intervals is rejected.
pub(crate) const INTERVALS_MAX: usize = 100_000;
/// Minimum length in seconds of the empty intervals that fill gaps between recorded time intervals.
const GAP_LENGTH_S_MIN: f64 = 0.01;

/// Data of one load generator run, from which charts are drawn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// Name of the run, as shown in the legends of charts.
    pub(crate) name: String,
    /// Settings and results of the run for the HTML page, such as its command line, as pairs of
    /// name and value.
    pub(crate) facts: Vec<(String, String)>,
    /// Latency curves: first that of all operations, then one for each kind of operation if there
    /// are several kinds.
    pub(crate) curves: Vec<Curve>,
    /// Counts and latencies in consecutive time intervals of the run, in order.
    pub(crate) intervals: Vec<Interval>,
    /// Events during the run, such as the crash of a leader.
    pub(crate) marks: Vec<Mark>,
    /// Whether the run ended early, before its planned end.
    pub(crate) partial: bool,
}

/// A distribution of latencies, as points of the function from quantile to latency.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Curve {
    /// Kind of the operations, such as `get`; `all` for all operations combined.
    pub(crate) kind: String,
    /// Number of operations in the distribution.
    pub(crate) samples: u64,
    /// Points of the curve: a quantile from 0 to 1, and the latency at this quantile in seconds.
    /// Quantiles increase, and the last one is 1.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Number and latencies of the replies that arrived in one time interval of a run, such as a
/// second.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    /// Start of the interval, in seconds since the start of the run.
    pub(crate) at_s: f64,
    /// Length of the interval in seconds.
    pub(crate) length_s: f64,
    /// Number of replies in the interval.
    pub(crate) count: u64,
    /// Median latency in the interval, in seconds; 0 if there were no replies.
    pub(crate) p50_s: f64,
    /// 99th percentile latency in the interval, in seconds; 0 if there were no replies.
    pub(crate) p99_s: f64,
    /// Histogram of the latencies in the interval, in nanoseconds. `None` if the result file has no
    /// histograms, or if the interval fills a gap between recorded intervals.
    pub(crate) histogram: Option<Histogram<u64>>,
}

/// An event during a run, such as a leader's crash, which is marked in charts over time.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Mark {
    /// Time of the event, in seconds since the start of the run.
    pub(crate) at_s: f64,
    /// Description of the event for the chart.
    pub(crate) text: String,
}

impl Curve {
    /// Converts a histogram of latencies in nanoseconds to a latency curve. `kind` is the kind of
    /// operation.
    pub(crate) fn of(kind: &str, histogram: &Histogram<u64>) -> Curve {
        let mut counted = 0;
        let mut points = Vec::new();
        for bucket in histogram.iter_recorded() {
            counted += bucket.count_at_value();
            let seconds = bucket.value_iterated_to() as f64 / NANOSECONDS;
            points.push((counted as f64 / histogram.len() as f64, seconds));
        }
        Curve { kind: kind.to_owned(), samples: histogram.len(), points }
    }

    /// Returns the latency in seconds at `quantile`, from 0 to 1; `None` if the curve has no
    /// points.
    pub(crate) fn at(&self, quantile: f64) -> Option<f64> {
        let reaches = |point: &&(f64, f64)| point.0 >= quantile - 1e-12;
        self.points.iter().find(reaches).map(|point| point.1)
    }
}

impl Interval {
    /// Creates a time interval without replies. It starts at `at_s` and lasts `length_s`, both in
    /// seconds.
    fn empty(at_s: f64, length_s: f64) -> Interval {
        Interval { at_s, length_s, count: 0, p50_s: 0.0, p99_s: 0.0, histogram: None }
    }

    /// Creates a time interval from the histogram of its latencies in nanoseconds. It starts at
    /// `at_s` and lasts `length_s`, both in seconds.
    pub(crate) fn of(at_s: f64, length_s: f64, histogram: Histogram<u64>) -> Interval {
        let quantile = |quantile| histogram.value_at_quantile(quantile) as f64 / NANOSECONDS;
        let (p50_s, p99_s) = (quantile(0.5), quantile(0.99));
        let count = histogram.len();
        Interval { at_s, length_s, count, p50_s, p99_s, histogram: Some(histogram) }
    }

    /// Returns the number of replies per second in the interval.
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.length_s
    }
}

impl Run {
    /// Returns the latency curve of all operations; `None` if the run has no latency curves.
    pub(crate) fn all(&self) -> Option<&Curve> {
        self.curves.first()
    }

    /// Fills gaps between time intervals with intervals without replies. Result files may omit
    /// intervals without replies, and a chart would then draw a line across the gap, as if replies
    /// had arrived.
    pub(crate) fn fill_gaps(&mut self) {
        let recorded = std::mem::take(&mut self.intervals);
        for interval in recorded {
            while let Some(last) = self.intervals.last()
                && self.intervals.len() < INTERVALS_MAX
            {
                let (from, gap) = (last.at_s + last.length_s, interval.at_s - self.end_s());
                if gap < 0.5 * last.length_s.max(interval.length_s) {
                    break;
                }
                let length_s = gap.min(interval.length_s.max(GAP_LENGTH_S_MIN));
                self.intervals.push(Interval::empty(from, length_s));
            }
            self.intervals.push(interval);
        }
    }

    /// Returns the end of the last interval, in seconds since the start of the run; 0 if there are
    /// no intervals.
    pub(crate) fn end_s(&self) -> f64 {
        self.intervals.last().map_or(0.0, |last| last.at_s + last.length_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_percentile_curve_matches_the_recorded_samples() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        for micros in [100, 200, 300, 400] {
            histogram.record(micros * 1_000).unwrap();
        }
        let curve = Curve::of("all", &histogram);
        assert_eq!((curve.samples, curve.points.len()), (4, 4));
        let micros = |quantile| format!("{:.0}", curve.at(quantile).unwrap() * 1e6);
        assert_eq!([0.0, 0.25, 0.5, 0.51, 1.0].map(micros), ["100", "100", "200", "300", "400"]);
        assert_eq!(Curve::default().at(0.5), None);
    }

    #[test]
    fn gaps_in_a_result_time_series_are_filled_with_empty_intervals() {
        let second = |at_s| Interval { count: 5, ..Interval::empty(at_s, 1.0) };
        let mut run = Run { intervals: [0.0, 1.0, 4.0, 5.0].map(second).into(), ..Run::default() };
        run.fill_gaps();
        let recorded: Vec<(f64, u64)> = run.intervals.iter().map(|i| (i.at_s, i.count)).collect();
        assert_eq!(recorded, [(0.0, 5), (1.0, 5), (2.0, 0), (3.0, 0), (4.0, 5), (5.0, 5)]);
        run.intervals = vec![second(0.0), second(1e12)];
        run.fill_gaps();
        assert!(run.intervals.len() <= INTERVALS_MAX + 1);
    }
}
