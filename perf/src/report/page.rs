//! The HTML page of a report: all charts, tables of the figures, and the settings of each run, in
//! one file without external references.

use std::fmt::Write as _;

use super::Input;
use super::run::Run;
use super::scale::{amount, duration, percent};
use super::svg::{STYLE, Svg, escape};
use crate::compare::list_counts;
use crate::compare::results::{Comparison, Spread, Summary};

const PAGE_STYLE: &str = include_str!("page.css");
const SHOWN_QUANTILES: [f64; 6] = [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0];

/// Returns the HTML page of a report: all charts, tables of the results, and the settings of each
/// run.
pub(crate) fn page(name: &str, inputs: &[Input], charts: &[(String, Svg)]) -> String {
    let mut body = String::new();
    let mut runs: Vec<&Run> = Vec::new();
    for input in inputs {
        match input {
            Input::Run(run) => runs.push(run),
            Input::Comparison(comparison) => add_comparison(&mut body, comparison),
        }
    }
    if !runs.is_empty() {
        add_latencies(&mut body, &runs);
    }
    for (_, chart) in charts {
        let title = escape(chart.title());
        add(&mut body, format_args!("<figure aria-label=\"{title}\">{}</figure>", chart.inline()));
    }
    for run in runs {
        add_facts(&mut body, &run.name, &run.facts);
    }
    let name = escape(name);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{name}</title>\n<style>\n{STYLE}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{name}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn add(body: &mut String, text: std::fmt::Arguments<'_>) {
    body.write_fmt(text).expect("writing to a String cannot fail");
    body.push('\n');
}

/// Appends an HTML table to `body`. The first column contains text, all other columns contain
/// numbers.
fn add_table(body: &mut String, head: &[&str], rows: &[Vec<String>]) {
    body.push_str("<div class=\"scroll\"><table><thead><tr>");
    for cell in head {
        write!(body, "<th>{}</th>", escape(cell)).expect("writing to a String cannot fail");
    }
    body.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        body.push_str("<tr>");
        for cell in row {
            write!(body, "<td>{}</td>", escape(cell)).expect("writing to a String cannot fail");
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</tbody></table></div>\n");
}

fn add_facts(body: &mut String, name: &str, facts: &[(String, String)]) {
    let (name, mut list) = (escape(name), String::new());
    for (fact, value) in facts {
        write!(list, "<dt>{}</dt><dd>{}</dd>", escape(fact), escape(value))
            .expect("writing to a String cannot fail");
    }
    add(
        body,
        format_args!("<details open=\"open\"><summary>{name}</summary><dl>{list}</dl></details>"),
    );
}

fn add_latencies(body: &mut String, runs: &[&Run]) {
    let mut rows = Vec::new();
    for run in runs {
        for curve in &run.curves {
            let partial = if run.partial { " (ended early)" } else { "" };
            let mut row = vec![
                format!("{}{partial}", run.name),
                curve.kind.clone(),
                curve.samples.to_string(),
            ];
            let shown = |quantile| curve.at(quantile).map_or_else(|| "-".to_owned(), duration);
            row.extend(SHOWN_QUANTILES.map(shown));
            rows.push(row);
        }
    }
    let quantiles = SHOWN_QUANTILES.map(percent);
    let head: Vec<&str> = ["run", "operations", "count"]
        .into_iter()
        .chain(quantiles.iter().map(String::as_str))
        .collect();
    add(body, format_args!("<h2>Latency</h2>"));
    add_table(body, &head, &rows);
}

fn add_comparison(body: &mut String, comparison: &Comparison) {
    add(body, format_args!("<h2>{}</h2>", escape(&comparison.name)));
    if let Some(why) = &comparison.partial {
        add(body, format_args!("<p class=\"warning\">Ended early: {}</p>", escape(why)));
    }
    let systems: Vec<Vec<String>> = comparison
        .systems
        .iter()
        .map(|system| {
            let copies = format!(
                "{}, {}",
                system.copies,
                if system.synced { "on disk" } else { "not on disk" }
            );
            let skipped = system.skipped.clone().map(|why| format!("skipped: {why}"));
            let about = skipped.unwrap_or_else(|| system.about.clone());
            vec![system.name.clone(), system.version.clone(), copies, about]
        })
        .collect();
    add_table(body, &["system", "version", "copies when acknowledged", "setup"], &systems);
    let rows: Vec<Vec<String>> = comparison
        .cases
        .iter()
        .flat_map(|case| {
            let of_case = comparison.summary.iter().filter(move |found| found.case == case.name);
            of_case.map(|found| figures(&case.about, found))
        })
        .collect();
    let head = [
        "case",
        "system",
        "operations/s",
        "p50",
        "p99",
        "CPU s / 1,000",
        "bytes / op",
        "syncs / op",
        "runs (quiet)",
        "rate relative to others, same round",
    ];
    add_table(body, &head, &rows);
    add_lossless_ratios(body, comparison);
    add_events(body, comparison);
    let facts = [
        ("command", comparison.command.join(" ")),
        ("revision", comparison.revision.clone().unwrap_or_default()),
        ("machine", format!("{} cores, {}", comparison.cores, comparison.system)),
        ("rounds", comparison.rounds.to_string()),
        ("duration", duration(comparison.wall_s)),
        ("stolen CPU time", duration(comparison.runs.iter().map(|run| run.stolen_s).sum::<f64>())),
        (
            "figures",
            "median over the rounds (minimum to maximum); quiet: the host stole less than 6 % \
             of the CPU time"
                .to_owned(),
        ),
    ];
    let facts = facts.map(|(name, value)| (name.to_owned(), value));
    let network = comparison.network.iter().map(|(name, value)| (name.clone(), value.clone()));
    add_facts(body, "measurement", &facts.into_iter().chain(network).collect::<Vec<_>>());
    let troubles = comparison.runs.iter().filter_map(|run| {
        let failure = run.failure.as_ref()?;
        Some((format!("round {}, {}, {}", run.round, run.system, run.case), failure.clone()))
    });
    let troubles: Vec<_> = troubles.collect();
    if !troubles.is_empty() {
        add_facts(body, "failed runs, excluded from the figures", &troubles);
    }
}

/// Appends a table of each system's results under packet loss as ratios to its own results without
/// packet loss, if there are such ratios.
fn add_lossless_ratios(body: &mut String, comparison: &Comparison) {
    let about = |name: &str| {
        let case = comparison.cases.iter().find(|case| case.name == name);
        case.map_or_else(|| name.to_owned(), |case| case.about.clone())
    };
    let rows: Vec<Vec<String>> = comparison
        .summary
        .iter()
        .filter_map(|found| {
            let ratios = found.of_lossless.as_ref()?;
            let shown = [ratios.rate, ratios.p50, ratios.p99]
                .map(|ratio| format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max));
            let names = [about(&found.case), found.system.clone()];
            Some(names.into_iter().chain(shown).collect())
        })
        .collect();
    if !rows.is_empty() {
        add(body, format_args!("<h3>Relative to the same round without packet loss</h3>"));
        add_table(body, &["case", "system", "operations/s", "p50", "p99"], &rows);
    }
}

/// Appends a table of the leader changes, errors and other events of each run, unless there are
/// none.
fn add_events(body: &mut String, comparison: &Comparison) {
    let runs = comparison.runs.iter();
    let rows: Vec<Vec<String>> = runs
        .filter(|run| run.failure.is_none() && comparison.is_eventful(run))
        .map(|run| {
            let kinds = list_counts(&run.error_kinds);
            let changes = run.leader_changes;
            vec![
                run.case.clone(),
                run.system.clone(),
                run.round.to_string(),
                changes.map_or_else(|| "unknown".to_owned(), |changes| changes.to_string()),
                if kinds.is_empty() { run.errors.to_string() } else { kinds },
                list_counts(&run.counters),
            ]
        })
        .collect();
    if !rows.is_empty() {
        add(body, format_args!("<h3>Events</h3>"));
        let head = ["case", "system", "round", "leader changes", "errors", "counters"];
        add_table(body, &head, &rows);
    }
}

fn figures(case: &str, found: &Summary) -> Vec<String> {
    let with_ends = |spread: Spread, show: fn(f64) -> String| {
        format!("{} ({} to {})", show(spread.median), show(spread.min), show(spread.max))
    };
    let against = found.against.iter().map(|(other, ratios)| {
        let rate = ratios.rate;
        format!("{other}: {:.2} ({:.2} to {:.2})", rate.median, rate.min, rate.max)
    });
    vec![
        case.to_owned(),
        found.system.clone(),
        with_ends(found.rate, amount),
        with_ends(found.p50_s, duration),
        with_ends(found.p99_s, duration),
        format!("{:.4}", found.cpu_s_per_1000.median),
        amount(found.bytes_per_operation.median),
        found
            .syncs_per_operation
            .map_or_else(|| "-".to_owned(), |syncs| format!("{:.4}", syncs.median)),
        format!("{} ({})", found.runs, found.quiet_runs),
        against.collect::<Vec<_>>().join("; "),
    ]
}
