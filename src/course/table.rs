//! The table of reports on runs: one line per run, a legend, and the reasons why runs failed.

use std::fmt::Write as _;

use super::report::{Latency, Report, Tier, Verdict};

/// Formats reports as a table, followed by a legend, the reasons why runs failed or were unlucky,
/// and totals.
#[must_use]
pub fn table(reports: &[Report]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(reports.iter().map(row));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Text is left-aligned, numbers are right-aligned.
            let padding = " ".repeat(width - cell.chars().count());
            let gap = if column == 0 { "" } else { "  " };
            match column {
                0 | 1 => write!(text, "{gap}{cell}{padding}"),
                _ => write!(text, "{gap}{padding}{cell}"),
            }
            .expect("writing to memory never fails");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.push_str(LEGEND);
    for report in reports {
        for reason in report.reasons.iter().chain(&report.unlucky_because) {
            writeln!(text, "{} seed {}: {reason}", report.scenario, report.seed)
                .expect("writing to memory never fails");
        }
    }
    text.push_str(&summary(reports));
    text
}

const HEAD: [&str; 13] = [
    "scenario",
    "verdict",
    "messages",
    "failures",
    "duplicates",
    "median ms",
    "msg/put",
    "put ms",
    "get ms",
    "redirects",
    "elections",
    "outage s",
    "seed",
];

const LEGEND: &str = "\
B bonus, F full, P partial, N no credit; median: all answers, redirects included; put, get: \
p50/p99 of ok answers;\nredirects: total/most of one operation; outage: the longest time from an \
event to the next acknowledged put\n";

fn row(report: &Report) -> Vec<String> {
    let tier = |pick: fn(&super::report::Tiers) -> Tier| {
        report.tiers.as_ref().map_or(' ', |tiers| pick(tiers).letter())
    };
    let outage = report.unavailability.iter().map(|event| event.seconds);
    vec![
        report.scenario.clone(),
        verdict(report.verdict).to_owned(),
        format!("{} {}", report.total_msgs, tier(|tiers| tiers.total_msgs)),
        format!("{} {}", report.failures, tier(|tiers| tiers.failures)),
        format!("{} {}", report.duplicates, tier(|tiers| tiers.duplicates)),
        format!("{} {}", millis(report.median_latency_s), tier(|tiers| tiers.median_latency)),
        report.messages_per_put.map_or_else(|| "-".to_owned(), |count| format!("{count:.2}")),
        spread(&report.put_latency),
        spread(&report.get_latency),
        format!("{}/{}", report.redirects, report.redirects_per_operation_max),
        report.elections.map_or_else(|| "-".to_owned(), |count| count.to_string()),
        longest(outage),
        report.seed.to_string(),
    ]
}

const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "pass",
        Verdict::Unlucky => "unlucky",
        Verdict::Failed => "FAIL",
    }
}

fn millis(seconds: f64) -> String {
    format!("{:.2}", seconds * 1e3)
}

fn spread(latency: &Latency) -> String {
    if latency.count == 0 {
        return "-".to_owned();
    }
    format!("{}/{}", millis(latency.p50_s), millis(latency.p99_s))
}

/// Formats the longest time for which puts were unavailable after an event, in seconds: `never` if
/// there was an event after which no put was acknowledged, `-` if there were no events.
fn longest(outages: impl Iterator<Item = Option<f64>>) -> String {
    let mut longest: Option<f64> = None;
    for outage in outages {
        match outage {
            Some(seconds) => longest = Some(longest.map_or(seconds, |most| most.max(seconds))),
            None => return "never".to_owned(),
        }
    }
    longest.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}"))
}

fn summary(reports: &[Report]) -> String {
    let count = |wanted| reports.iter().filter(|report| report.verdict == wanted).count();
    let unlucky = match count(Verdict::Unlucky) {
        0 => String::new(),
        some => format!(", {some} unlucky (due to the request generator)"),
    };
    let failed = count(Verdict::Failed);
    format!("{} of {} passed, {failed} failed{unlucky}\n", count(Verdict::Passed), reports.len())
}

#[cfg(test)]
mod tests {
    use super::super::run::ScenarioRun;
    use super::super::scenario::Scenario;
    use super::*;
    use crate::types::Instant;

    #[test]
    fn scenario_report_table_rows_are_aligned_under_the_heading() {
        let mut reports: Vec<Report> = ["simple-1", "advanced-4"]
            .map(|name| {
                ScenarioRun::new(&Scenario::built_in(name).unwrap(), 12, Instant::ZERO).report()
            })
            .to_vec();
        reports[0].verdict = Verdict::Passed;
        reports[0].reasons.clear();
        let text = table(&reports);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().next(), Some("scenario"));
        assert!(lines[1].starts_with("simple-1    pass"), "{text}");
        assert!(lines[2].starts_with("advanced-4  FAIL"), "{text}");
        assert!(lines[2].ends_with("12"), "{text}");
        assert!(text.contains("advanced-4 seed 12: no put was answered with ok"), "{text}");
        assert!(text.ends_with("1 of 2 passed, 1 failed\n"), "{text}");
    }

    #[test]
    fn outage_that_never_ended_is_shown_as_never() {
        assert_eq!(longest([Some(0.5), None].into_iter()), "never");
        assert_eq!(longest([Some(0.5), Some(0.25)].into_iter()), "0.50");
        assert_eq!(longest(std::iter::empty()), "-");
    }
}
