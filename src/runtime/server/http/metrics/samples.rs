//! The samples of one metric, and how they are encoded.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use serde_json::{Value as Json, json};

use crate::redis::{DURATION_BUCKETS, DurationHistogram};

use super::{Kind, Metric, Source, metric_type};

/// The buckets of a [`DurationHistogram`] that are exported: upper bounds from 16 us to 4.3 s, each
/// four times the previous one.
const EXPORTED: std::ops::RangeInclusive<usize> = 4..=22;
const EXPORTED_STEP: usize = 2;

/// Value of a label.
type Label = Cow<'static, str>;

/// Value of a sample.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Integer(u64),
    Real(f64),
    Durations(Box<DurationHistogram>),
}

/// The samples of one metric.
pub(super) struct Samples {
    metric: &'static Metric,
    /// For each sample, the label values in the order of [`Metric::labels`], and the value.
    list: Vec<(Vec<Label>, Value)>,
}

impl fmt::Debug for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Samples")
            .field("name", &self.metric.name)
            .field("list", &self.list)
            .finish()
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Integer(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Integer(number as u64)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Integer(flag.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Real(number)
    }
}

impl From<Duration> for Value {
    fn from(duration: Duration) -> Value {
        Value::Real(duration.as_secs_f64())
    }
}

impl From<DurationHistogram> for Value {
    fn from(durations: DurationHistogram) -> Value {
        Value::Durations(Box::new(durations))
    }
}

impl Samples {
    /// Computes the samples of `metric` from `source`.
    pub(super) fn of(metric: &'static Metric, source: &Source<'_>) -> Samples {
        let mut samples = Samples { metric, list: Vec::new() };
        (metric.write)(source, &mut samples);
        samples
    }

    /// Adds the only sample of a metric without labels.
    pub(super) fn add(&mut self, value: impl Into<Value>) {
        self.add_with([], value);
    }

    /// Adds a sample with these label values.
    pub(super) fn add_with<const N: usize>(&mut self, labels: [Label; N], value: impl Into<Value>) {
        assert_eq!(N, self.metric.labels.len(), "labels of {}", self.metric.name);
        self.list.push((labels.into(), value.into()));
    }

    /// Adds a sample for each value of the metric's only label.
    pub(super) fn add_each<V: Into<Value>>(
        &mut self,
        samples: impl IntoIterator<Item = (&'static str, V)>,
    ) {
        for (label, value) in samples {
            self.add_with([label.into()], value);
        }
    }

    /// Adds a sample for each possible state, which is the label: 1 for the current one, 0 for the
    /// others.
    pub(super) fn add_states(&mut self, states: &[&'static str], current: &str) {
        self.add_each(states.iter().map(|state| (*state, *state == current)));
    }

    /// Returns the samples as a list of JSON objects with `labels` and `value`. A histogram has
    /// `sum` and `buckets` instead of `value`. Each bucket is a pair: its upper bound in seconds
    /// (`null` for infinity), and the number of durations in this bucket alone. Empty buckets are
    /// omitted.
    pub(super) fn as_json(&self) -> Json {
        let sample = |(values, value): &(Vec<Label>, Value)| {
            let labels = self.metric.labels.iter().zip(values);
            let labels: serde_json::Map<String, Json> =
                labels.map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
            match value {
                Value::Integer(number) => json!({ "labels": labels, "value": number }),
                Value::Real(number) => json!({ "labels": labels, "value": number }),
                Value::Durations(durations) => {
                    let filled = durations.counts.iter().enumerate().filter(|(_, it)| **it > 0);
                    let bound = |bucket| DurationHistogram::bound_of(bucket);
                    let buckets: Vec<(Option<f64>, u64)> = filled
                        .map(|(bucket, count)| (bound(bucket).map(|it| it.as_secs_f64()), *count))
                        .collect();
                    let sum = durations.sum.as_secs_f64();
                    json!({ "labels": labels, "sum": sum, "buckets": buckets })
                }
            }
        };
        self.list.iter().map(sample).collect()
    }

    /// Encodes the description of the metric and its samples.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Metric { name, kind, labels: names, help, .. } = self.metric;
        let unit = self.metric.unit();
        let mut encoder =
            encoder.encode_descriptor(name, help, unit.as_ref(), metric_type(*kind))?;
        for (values, value) in &self.list {
            let labels: Vec<(&str, &str)> =
                names.iter().copied().zip(values.iter().map(|value| &**value)).collect();
            let mut encoder = encoder.encode_family(&labels)?;
            encode_value(&mut encoder, *kind, value)?;
        }
        Ok(())
    }
}

fn encode_value(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Integer(number)) => {
            encoder.encode_counter::<NoLabelSet, _, f64>(number, None)
        }
        (Kind::Counter, Value::Real(number)) => {
            encoder.encode_counter::<NoLabelSet, _, f64>(number, None)
        }
        (Kind::Gauge, Value::Integer(number)) => encoder.encode_gauge(number),
        (Kind::Gauge, Value::Real(number)) => encoder.encode_gauge(number),
        (Kind::Histogram, Value::Durations(durations)) => {
            let (sum, count) = (durations.sum.as_secs_f64(), durations.count());
            encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets(durations), None)
        }
        (kind, value) => unreachable!("a {kind:?} with the value {value:?}"),
    }
}

/// Returns the upper bound of each exported bucket in seconds, and the number of durations in this
/// bucket alone.
fn buckets(durations: &DurationHistogram) -> Vec<(f64, u64)> {
    let mut from = 0;
    let mut take = |to: usize| {
        let count = durations.counts[from..to].iter().sum();
        from = to;
        count
    };
    let mut buckets = Vec::new();
    for last in EXPORTED.step_by(EXPORTED_STEP) {
        let bound = DurationHistogram::bound_of(last).expect("not the last bucket");
        buckets.push((bound.as_secs_f64(), take(last + 1)));
    }
    buckets.push((f64::INFINITY, take(DURATION_BUCKETS)));
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_one_exported_bucket() {
        let mut durations = DurationHistogram::default();
        for (bucket, count) in durations.counts.iter_mut().enumerate() {
            *count = 1 << bucket;
        }
        let buckets = buckets(&durations);
        let all: u64 = buckets.iter().map(|(_, count)| count).sum();
        assert_eq!(all, (1 << DURATION_BUCKETS) - 1);
        assert_eq!(buckets[0], (0.000_016_384, 0b1_1111));
        assert_eq!(buckets[1], (0.000_065_536, 0b110_0000));
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 0b11 << 23)));
    }
}
