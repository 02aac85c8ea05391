//! Formats the results of a run as a table, or as CSV with redis-benchmark's columns.

use std::fmt::Write as _;

use super::schema::{Latency, LoadRecord, Loop};

/// Formats the results of a load run as a table for the terminal.
pub(crate) fn table(record: &LoadRecord) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_table(&mut out, record);
    out
}

fn write_table(out: &mut String, record: &LoadRecord) -> std::fmt::Result {
    let config = &record.config;
    let rate = match (config.kind, record.intended_rate) {
        (Loop::Open, Some(rate)) => format!("open loop, {rate} operations/s"),
        _ => {
            "CLOSED loop: a slow server gets fewer requests, and queueing does not show".to_owned()
        }
    };
    writeln!(out, "{rate}")?;
    let server =
        if record.target.server.is_empty() { "unknown server" } else { &record.target.server };
    writeln!(out, "{server} at {}", record.target.addresses.join(", "))?;
    writeln!(
        out,
        "{}, {} keys of {} B, {}, values of {} B; {} connections, {} deep; {:.1} s, seed {}",
        config.workload,
        config.keys,
        config.key_bytes,
        config.distribution,
        config.value_bytes,
        config.connections,
        config.pipeline,
        record.window_s,
        config.seed
    )?;
    if let Some(why) = &record.partial {
        writeln!(out, "PARTIAL: {why}")?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "{:<24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  ms",
        "", "ops/s", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    )?;
    let mut row = |name: &str, latency: &Latency| {
        let per_second = latency.count as f64 / record.window_s.max(1e-9);
        let ms = |seconds: f64| format!("{:.3}", seconds * 1e3);
        writeln!(
            out,
            "{name:<24} {per_second:>9.0} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            ms(latency.p50_s),
            ms(latency.p90_s),
            ms(latency.p99_s),
            ms(latency.p999_s),
            ms(latency.p9999_s),
            ms(latency.max_s)
        )
    };
    let kinds = record.latencies.iter().filter(|(name, _)| *name != "all");
    let several = kinds.clone().count() > 1;
    for (name, latencies) in kinds {
        row(&name.replace('_', "-"), latencies.main())?;
        if !several && latencies.response.is_some() {
            row("  service time", &latencies.service)?;
        }
    }
    if several && let Some(all) = record.latencies.get("all") {
        row("all", all.main())?;
        if all.response.is_some() {
            row("  service time", &all.service)?;
        }
    }
    writeln!(out)?;
    let counts = &record.counts;
    if let Some(rate) = record.intended_rate {
        writeln!(
            out,
            "achieved {:.1}/s of {rate}/s, {:.1} %",
            record.achieved_rate,
            100.0 * record.achieved_rate / rate
        )?;
    }
    let mut errors = String::new();
    for (kind, count) in &record.errors {
        write!(errors, "{}{count} {kind}", if errors.is_empty() { ": " } else { ", " })?;
    }
    writeln!(out, "{} succeeded, {} failed{errors}", counts.succeeded, counts.failed)?;
    for (count, what) in [
        (counts.unsent, "due but never sent"),
        (counts.not_found, "reads of keys that do not exist"),
        (counts.redirects, "redirects"),
        (counts.reconnects, "reconnects"),
    ] {
        if count > 0 {
            writeln!(out, "{count} {what}")?;
        }
    }
    for mark in &record.marks {
        writeln!(out, "at {:.1} s: {}", mark.at_s, mark.what)?;
    }
    let stolen =
        record.host.stolen_s.map_or(String::new(), |s| format!(", {s:.2} s stolen by the host"));
    writeln!(
        out,
        "load generator: {:.2} s of CPU time, {:.1} us per operation{stolen}",
        record.client.cpu_s, record.client.cpu_us_per_operation
    )?;
    for failed in &record.failed {
        writeln!(out, "FAILED: {failed}")?;
    }
    Ok(())
}

/// Formats the results of a load run as CSV with redis-benchmark's columns, one line per kind of
/// operation.
pub(crate) fn csv(record: &LoadRecord) -> String {
    let mut out = String::from(
        "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
         \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n",
    );
    for (name, latencies) in record.latencies.iter().filter(|(name, _)| *name != "all") {
        let latency = latencies.main();
        let name = match name.as_str() {
            "read" => "GET",
            "update" => "SET",
            other => other,
        };
        let ms = |seconds: f64| format!("{:.3}", seconds * 1e3);
        let _ = writeln!(
            out,
            "\"{name}\",\"{:.2}\",\"{}\",\"{}\",\"{}\",\"{}\",\"{}\",\"{}\"",
            latency.count as f64 / record.window_s.max(1e-9),
            ms(latency.mean_s),
            ms(latency.min_s),
            ms(latency.p50_s),
            ms(latency.p95_s),
            ms(latency.p99_s),
            ms(latency.max_s)
        );
    }
    out
}
