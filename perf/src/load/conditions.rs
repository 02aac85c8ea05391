//! `--fail-if`: conditions on the results of a run. A run fails if its results meet one of them.

use anyhow::{Context as _, ensure};

use super::schema::{Latency, LoadRecord};

/// A condition of the option `--fail-if`, such as `p99>5ms`. The run counts as failed if its
/// results meet the condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    text: String,
    metric: Metric,
    comparison: Comparison,
    limit: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Metric {
    Min,
    Mean,
    P50,
    P90,
    P95,
    P99,
    P999,
    P9999,
    Max,
    /// Achieved rate as a percentage of the intended rate of an open loop.
    AchievedShare,
    /// Achieved rate, in successful operations per second.
    Achieved,
    Errors,
    Unsent,
    NotFound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

const SYNTAX: &str = "write p50, p90, p95, p99, p99.9, p99.99, min, mean or max with us, ms or s; \
                   achieved with % or as operations a second; errors, unsent or not_found as \
                   counts; between them >, >=, < or <=";

impl Condition {
    /// Parses a condition of the option `--fail-if`, such as `p99>5ms`.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Condition> {
        let invalid = || format!("--fail-if '{text}': {SYNTAX}");
        let at = text.find(['<', '>']).with_context(invalid)?;
        let (name, rest) = text.split_at(at);
        let or_equal = rest[1..].starts_with('=');
        let comparison = match (rest.starts_with('>'), or_equal) {
            (true, false) => Comparison::Above,
            (true, true) => Comparison::AtLeast,
            (false, false) => Comparison::Below,
            (false, true) => Comparison::AtMost,
        };
        let value = rest[if or_equal { 2 } else { 1 }..].trim();
        let digits = value.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(value.len());
        let (number, unit) = value.split_at(digits);
        let number: f64 = number.parse().ok().with_context(invalid)?;
        let time = match unit.trim() {
            "us" => Some(1e-6),
            "ms" => Some(1e-3),
            "s" => Some(1.0),
            _ => None,
        };
        let (metric, is_time) = match (name.trim(), unit.trim()) {
            ("min", _) => (Metric::Min, true),
            ("mean" | "avg", _) => (Metric::Mean, true),
            ("p50", _) => (Metric::P50, true),
            ("p90", _) => (Metric::P90, true),
            ("p95", _) => (Metric::P95, true),
            ("p99", _) => (Metric::P99, true),
            ("p99.9" | "p999", _) => (Metric::P999, true),
            ("p99.99" | "p9999", _) => (Metric::P9999, true),
            ("max", _) => (Metric::Max, true),
            ("achieved", "%") => (Metric::AchievedShare, false),
            ("achieved", "" | "/s") => (Metric::Achieved, false),
            ("errors", "") => (Metric::Errors, false),
            ("unsent", "") => (Metric::Unsent, false),
            ("not_found", "") => (Metric::NotFound, false),
            _ => anyhow::bail!(invalid()),
        };
        ensure!(!is_time || time.is_some(), invalid());
        let limit = if is_time { number * time.unwrap_or(1.0) } else { number };
        Ok(Condition { text: text.to_owned(), metric, comparison, limit })
    }

    /// Returns whether the condition compares with the intended rate, which only an open loop has.
    pub(crate) fn needs_a_rate(&self) -> bool {
        self.metric == Metric::AchievedShare
    }

    /// Checks the condition against the results of a run. If the results meet it, returns its text
    /// with the measured value; otherwise `None`.
    pub(crate) fn check(&self, record: &LoadRecord) -> Option<String> {
        let latency = record.latencies.get("all").map_or(Latency::default(), |all| *all.main());
        let figure = match self.metric {
            Metric::Min => latency.min_s,
            Metric::Mean => latency.mean_s,
            Metric::P50 => latency.p50_s,
            Metric::P90 => latency.p90_s,
            Metric::P95 => latency.p95_s,
            Metric::P99 => latency.p99_s,
            Metric::P999 => latency.p999_s,
            Metric::P9999 => latency.p9999_s,
            Metric::Max => latency.max_s,
            Metric::AchievedShare => {
                100.0 * record.achieved_rate / record.intended_rate.unwrap_or(f64::NAN)
            }
            Metric::Achieved => record.achieved_rate,
            Metric::Errors => record.counts.failed as f64,
            Metric::Unsent => record.counts.unsent as f64,
            Metric::NotFound => record.counts.not_found as f64,
        };
        let shown = match self.metric {
            Metric::AchievedShare => format!("{figure:.1} %"),
            Metric::Achieved => format!("{figure:.1}/s"),
            Metric::Errors | Metric::Unsent | Metric::NotFound => format!("{figure}"),
            _ => format!("{:.3} ms", figure * 1e3),
        };
        let holds = match self.comparison {
            Comparison::Above => figure > self.limit,
            Comparison::AtLeast => figure >= self.limit,
            Comparison::Below => figure < self.limit,
            Comparison::AtMost => figure <= self.limit,
        };
        holds.then(|| format!("{} ({shown})", self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fail_if_option_conditions_are_parsed() {
        let parts = |text: &str| {
            let condition = Condition::parse(text).unwrap();
            (condition.metric, condition.comparison, condition.limit)
        };
        assert_eq!(parts("p99>5ms"), (Metric::P99, Comparison::Above, 0.005));
        assert_eq!(parts("p99.9 >= 250us"), (Metric::P999, Comparison::AtLeast, 0.000_25));
        assert_eq!(parts("max<=1.5s"), (Metric::Max, Comparison::AtMost, 1.5));
        assert_eq!(parts("achieved<95%"), (Metric::AchievedShare, Comparison::Below, 95.0));
        assert_eq!(parts("achieved<1000"), (Metric::Achieved, Comparison::Below, 1000.0));
        assert_eq!(parts("errors>0"), (Metric::Errors, Comparison::Above, 0.0));
        for text in ["", "p99", "p99>5", "p98>1ms", "errors>1ms", "achieved<x%", "errors=>1", ">1"]
        {
            let error = Condition::parse(text).unwrap_err().to_string();
            assert!(error.contains("--fail-if"), "{text}: {error}");
        }
    }
}
