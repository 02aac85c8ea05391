//! The metrics: names, help texts and values, and their encoding in the OpenMetrics text format.
//!
//! | file | metrics about |
//! |---|---|
//! | `samples` | the values of one metric, as they are encoded |
//! | `replica` | the process, its role, its log, the other replicas, the clocks |
//! | `storage` | the disk, snapshots, memory, the keyspace |
//! | `traffic` | clients, commands, errors, queues, HTTP requests |
//!
//! The number of samples is bounded, whatever clients send: the labels contain only names of
//! existing commands, at most 64 error codes, and ids of the cluster's members. A test compares the
//! metrics with the guide, the dashboard and the alert rules.

mod replica;
mod samples;
mod storage;
mod traffic;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::raft::Status;
use crate::redis::Context;
use crate::runtime::boards::RuntimeCounters;

use super::report::Report;

use self::samples::Samples;

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A number that only increases, until the process restarts.
    Counter,
    /// A number that increases and decreases.
    Gauge,
    /// Numbers of durations in buckets, by upper bound.
    Histogram,
}

/// Unit of a metric. It is part of the metric's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricUnit {
    Numbers,
    Bytes,
    Seconds,
}

/// The state of the replica from which the samples are computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'s> {
    pub(super) report: &'s Report,
    pub(super) counters: &'s RuntimeCounters,
    /// The latest status published by the Raft core; `None` just after the start.
    pub(super) status: Option<&'s Status>,
    pub(super) http: HttpCounts,
}

impl<'s> Source<'s> {
    fn context(&self) -> &'s Context {
        &self.report.context
    }
}

/// Numbers of HTTP requests since the process started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HttpCounts {
    /// Requests for each page, in the order of [`PAGES`](super::pages::PAGES).
    pub(super) requests: [u64; 5],
    /// Requests for the files of the live page (HTML, script, style).
    pub(super) files: u64,
    /// Requests that were malformed, or named a page that does not exist.
    pub(super) rejected: u64,
}

/// A metric: its description, and the function that computes its samples.
struct Metric {
    /// The name without the unit and without the suffix `_total` of a counter.
    name: &'static str,
    kind: Kind,
    unit: MetricUnit,
    /// Names of the labels. Samples have their label values in the same order.
    labels: &'static [&'static str],
    help: &'static str,
    write: fn(&Source<'_>, &mut Samples),
}

const fn counter(
    name: &'static str,
    help: &'static str,
    write: fn(&Source<'_>, &mut Samples),
) -> Metric {
    Metric { name, kind: Kind::Counter, unit: MetricUnit::Numbers, labels: &[], help, write }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    write: fn(&Source<'_>, &mut Samples),
) -> Metric {
    Metric { kind: Kind::Gauge, ..counter(name, help, write) }
}

const fn histogram(
    name: &'static str,
    help: &'static str,
    write: fn(&Source<'_>, &mut Samples),
) -> Metric {
    Metric { kind: Kind::Histogram, ..counter(name, help, write) }
}

impl Metric {
    const fn by(mut self, labels: &'static [&'static str]) -> Metric {
        self.labels = labels;
        self
    }

    const fn bytes(mut self) -> Metric {
        self.unit = MetricUnit::Bytes;
        self
    }

    const fn seconds(mut self) -> Metric {
        self.unit = MetricUnit::Seconds;
        self
    }

    /// Returns the exported name, as used in queries: with the unit and a counter's suffix.
    fn full_name(&self) -> String {
        let unit = self.unit().map_or(String::new(), |unit| format!("_{}", unit.as_str()));
        let ending = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{ending}", self.name)
    }

    fn unit(&self) -> Option<Unit> {
        match self.unit {
            MetricUnit::Numbers => None,
            MetricUnit::Bytes => Some(Unit::Bytes),
            MetricUnit::Seconds => Some(Unit::Seconds),
        }
    }
}

fn all() -> impl Iterator<Item = &'static Metric> {
    [replica::METRICS, storage::METRICS, traffic::METRICS].into_iter().flatten()
}

/// Description of a metric, for the guide and for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricInfo {
    /// The exported name, as used in queries, such as `bowline_commands_total`. The series of a
    /// histogram have this name followed by `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of the labels, without a histogram's `le`.
    pub labels: &'static [&'static str],
    /// What the metric measures, as one sentence.
    pub help: &'static str,
}

/// Returns the descriptions of all metrics that a replica exports at `/metrics`.
pub fn metrics() -> impl Iterator<Item = MetricInfo> {
    all().map(|metric| MetricInfo {
        name: metric.full_name(),
        kind: match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        },
        labels: metric.labels,
        help: metric.help,
    })
}

fn metric_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    }
}

/// Returns all metrics and their samples in the OpenMetrics text format.
pub(super) fn encode(source: Source<'_>) -> String {
    let mut registry = prometheus_client::registry::Registry::default();
    let samples = all().map(|metric| Samples::of(metric, &source)).collect();
    registry.register_collector(Box::new(Family(samples)));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing to a string cannot fail");
    text
}

/// Returns the samples of all metrics as a JSON object. Its keys are the exported names, its values
/// lists of samples.
pub(super) fn samples_as_json(source: Source<'_>) -> serde_json::Value {
    let members = all().map(|it| (it.full_name(), Samples::of(it, &source).as_json()));
    serde_json::Value::Object(members.collect())
}

/// The samples of all metrics, as a collector of the `prometheus_client` crate.
#[derive(Debug)]
struct Family(Vec<Samples>);

impl Collector for Family {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.iter().try_for_each(|samples| samples.encode(&mut encoder))
    }
}
