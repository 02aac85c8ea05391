//! The table that `perf compare` and `perf lossy` print.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::results::{Comparison, Measurement, Spread};
use crate::report::{amount, duration};

/// Formats the result of one run as a line of text, which for a failed run states the reason.
pub(crate) fn line(run: &Measurement) -> String {
    let start = format!("round {} {:<16} {:<18}", run.round, run.system, run.case);
    match &run.failure {
        Some(failure) => format!("{start} {failure}"),
        None => format!(
            "{start} {:>9}/s  p50 {:>8}  p99 {:>8}  {:.1} % stolen, {}",
            amount(run.rate),
            duration(run.p50_s),
            duration(run.p99_s),
            100.0 * run.stolen_s / run.wall_s.max(1e-9),
            events(run),
        ),
    }
}

/// Formats counts with their names as text.
pub(crate) fn list(counts: &BTreeMap<String, u64>) -> String {
    let counts: Vec<String> =
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    counts.join(", ")
}

/// Formats the unusual events of a run as a line of text: errors by kind, leader changes and other
/// counters.
fn events(run: &Measurement) -> String {
    let mut text = format!("{} errors", run.errors);
    let mut add = |part: std::fmt::Arguments<'_>| {
        text.write_fmt(part).expect("writing to a String cannot fail");
    };
    if !run.error_kinds.is_empty() {
        add(format_args!(" ({})", list(&run.error_kinds)));
    }
    if let Some(changes) = run.leader_changes {
        add(format_args!(", {changes} leader changes"));
    }
    if !run.counters.is_empty() {
        add(format_args!(", {}", list(&run.counters)));
    }
    text
}

/// Formats the results of all cases as a table for the terminal, with a block of lines for each
/// case.
pub(crate) fn table(comparison: &Comparison) -> String {
    let mut text = String::new();
    let mut add = |part: std::fmt::Arguments<'_>| {
        text.write_fmt(part).expect("writing to a String cannot fail");
    };
    for system in &comparison.systems {
        match &system.skipped {
            Some(why) => add(format_args!("skipped {}: {why}\n", system.name)),
            None => {
                add(format_args!("{:<18} {}: {}\n", system.name, system.version, system.about));
            }
        }
    }
    for (name, value) in &comparison.network {
        add(format_args!("{name}: {value}\n"));
    }
    add(format_args!(
        "{} rounds of {} s per case, {} shared cores; medians (minimum to maximum)\n",
        comparison.rounds, comparison.seconds, comparison.cores
    ));
    for case in &comparison.cases {
        let found: Vec<_> =
            comparison.summary.iter().filter(|summary| summary.case == case.name).collect();
        if found.is_empty() {
            continue;
        }
        add(format_args!("\n{}: {}\n", case.name, case.about));
        add(format_args!(
            "  {:<18} {:>28} {:>9} {:>9} {:>10} {:>9} {:>9} {:>14}\n",
            "system",
            "operations/s",
            "p50",
            "p99",
            "CPU s/1000",
            "bytes/op",
            "syncs/op",
            "stolen %"
        ));
        for summary in &found {
            let rate = summary.rate;
            let ends =
                format!("{} ({} to {})", amount(rate.median), amount(rate.min), amount(rate.max));
            let syncs = summary.syncs_per_operation;
            let stolen = summary.stolen_share.map_or_else(String::new, |share| {
                format!("{:.1} to {:.1}", 100.0 * share.min, 100.0 * share.max)
            });
            add(format_args!(
                "  {:<18} {:>28} {:>9} {:>9} {:>10.4} {:>9} {:>9} {:>14}\n",
                summary.system,
                ends,
                duration(summary.p50_s.median),
                duration(summary.p99_s.median),
                summary.cpu_s_per_1000.median,
                amount(summary.bytes_per_operation.median),
                syncs.map_or_else(|| "-".to_owned(), |syncs| format!("{:.4}", syncs.median)),
                stolen,
            ));
        }
        let runs = comparison.runs.iter().filter(|run| run.case == case.name);
        for run in runs.filter(|run| run.failure.is_none() && comparison.is_eventful(run)) {
            add(format_args!("  round {} {}: {}\n", run.round, run.system, events(run)));
        }
        for summary in &found {
            if let Some(ratios) = &summary.of_lossless {
                add(format_args!(
                    "  {} / the same without loss: rate {}, p99 {}\n",
                    summary.system,
                    ratio(ratios.rate),
                    ratio(ratios.p99),
                ));
            }
        }
        for summary in found.iter().filter(|summary| summary.system.starts_with("bowline")) {
            for (other, ratios) in &summary.against {
                let quiet = match ratios.rate_quiet {
                    Some(quiet) => format!("{:.2}", quiet.median),
                    None => "none".to_owned(),
                };
                add(format_args!(
                    "  {} / {other}: rate {} [quiet rounds {quiet}], p50 {}, p99 {}, CPU {}\n",
                    summary.system,
                    ratio(ratios.rate),
                    ratio(ratios.p50),
                    ratio(ratios.p99),
                    ratio(ratios.cpu),
                ));
            }
        }
    }
    let failed: Vec<_> = comparison.runs.iter().filter(|run| run.failure.is_some()).collect();
    if !failed.is_empty() {
        add(format_args!("\nfailed runs, excluded from the figures above:\n"));
        for run in failed {
            add(format_args!("  {}\n", line(run)));
        }
    }
    text
}

fn ratio(spread: Spread) -> String {
    format!("{:.2} ({:.2} to {:.2})", spread.median, spread.min, spread.max)
}
