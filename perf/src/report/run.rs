//! What pictures are made of: one run's latencies, its course over time, and what happened in it,
//! whichever kind of file it was read from.

use hdrhistogram::Histogram;

/// Nanoseconds in a second: histograms count the former, pictures show the latter.
const NANOSECONDS: f64 = 1e9;

/// Intervals that a picture has room for.
pub(crate) const INTERVALS_MAX: usize = 100_000;
/// Gaps are filled by intervals of at least this length.
const GAP_LENGTH_S_MIN: f64 = 0.01;

/// One run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// What legends call it.
    pub(crate) name: String,
    /// What one has to know of it, by name: command, revision, rate and so on.
    pub(crate) facts: Vec<(String, String)>,
    /// Latency by percentile: of all operations, then of each kind alone, if there are several.
    pub(crate) curves: Vec<Curve>,
    /// Its course, in order of time.
    pub(crate) intervals: Vec<Interval>,
    /// What happened in it.
    pub(crate) marks: Vec<Mark>,
    /// It ended before its time.
    pub(crate) partial: bool,
}

/// Latency by percentile.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Curve {
    /// `all`, or the kind of the operations.
    pub(crate) kind: String,
    /// How many there were.
    pub(crate) samples: u64,
    /// Quantiles, rising to 1, and the seconds that so many took at most.
    pub(crate) points: Vec<(f64, f64)>,
}

/// What was answered in a stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    /// When it began, since the run did.
    pub(crate) at_s: f64,
    /// How long it is.
    pub(crate) length_s: f64,
    /// Operations answered in it.
    pub(crate) count: u64,
    /// Half of them took at most this.
    pub(crate) p50_s: f64,
    /// 99 % of them took at most this.
    pub(crate) p99_s: f64,
    /// Their latencies in nanoseconds, where the file has them.
    pub(crate) histogram: Option<Histogram<u64>>,
}

/// Something that happened at a moment.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Mark {
    /// When, since the run began.
    pub(crate) at_s: f64,
    /// What.
    pub(crate) text: String,
}

impl Curve {
    /// Of a histogram of nanoseconds.
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

    /// What this share of the operations took at most.
    pub(crate) fn at(&self, quantile: f64) -> Option<f64> {
        let reaches = |point: &&(f64, f64)| point.0 >= quantile - 1e-12;
        self.points.iter().find(reaches).map(|point| point.1)
    }
}

impl Interval {
    /// In which nothing was answered.
    fn empty(at_s: f64, length_s: f64) -> Interval {
        Interval { at_s, length_s, count: 0, p50_s: 0.0, p99_s: 0.0, histogram: None }
    }

    /// Of a histogram of nanoseconds.
    pub(crate) fn of(at_s: f64, length_s: f64, histogram: Histogram<u64>) -> Interval {
        let quantile = |quantile| histogram.value_at_quantile(quantile) as f64 / NANOSECONDS;
        let (p50_s, p99_s) = (quantile(0.5), quantile(0.99));
        let count = histogram.len();
        Interval { at_s, length_s, count, p50_s, p99_s, histogram: Some(histogram) }
    }

    /// Operations a second.
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.length_s
    }
}

impl Run {
    /// The latencies of all operations.
    pub(crate) fn all(&self) -> Option<&Curve> {
        self.curves.first()
    }

    /// Puts empty intervals where nothing was answered and nothing is told. The file may leave such
    /// times out, and a line from one side to the other would hide them.
    pub(crate) fn fill_gaps(&mut self) {
        let told = std::mem::take(&mut self.intervals);
        for interval in told {
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

    /// When the last interval ended.
    pub(crate) fn end_s(&self) -> f64 {
        self.intervals.last().map_or(0.0, |last| last.at_s + last.length_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_through_the_samples() {
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
    fn gaps_are_filled_with_nothing() {
        let second = |at_s| Interval { count: 5, ..Interval::empty(at_s, 1.0) };
        let mut run = Run { intervals: [0.0, 1.0, 4.0, 5.0].map(second).into(), ..Run::default() };
        run.fill_gaps();
        let told: Vec<(f64, u64)> = run.intervals.iter().map(|i| (i.at_s, i.count)).collect();
        assert_eq!(told, [(0.0, 5), (1.0, 5), (2.0, 0), (3.0, 0), (4.0, 5), (5.0, 5)]);
        run.intervals = vec![second(0.0), second(1e12)];
        run.fill_gaps();
        assert!(run.intervals.len() <= INTERVALS_MAX + 1);
    }
}
