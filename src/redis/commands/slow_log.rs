//! `SLOWLOG` and `LATENCY`, which read and reset the records in [`SlowLog`](crate::redis::SlowLog),
//! `LATENCY HISTOGRAM`, which reads the durations of all commands, and `LATENCY TRACE`, which reads
//! the traces of recent writes.

use std::time::Duration;

use crate::kv::parse_integer;
use crate::redis::action::{Action, Statistics};
use crate::redis::call::Call;
use crate::redis::spec::{ADMIN, CommandSpec, CommandTable, subcommand, subcommand_with_table};
use crate::redis::statistics::DurationHistogram;
use crate::redis::write_traces::WRITE_STEPS;

use super::help::{container, help_row};

/// Name of the only `LATENCY` event of this server: a slow request from a client. Redis has more
/// events.
const EVENT: &[u8] = b"command";

/// Maximum number of samples in a graph, and the number of rows that their columns have.
const GRAPH_SAMPLES: usize = 80;
const GRAPH_ROWS: u128 = 5;

const SLOW_LOG: &[&str] = &["admin", "loading", "stale"];

/// Rows of the command table for `SLOWLOG` and `LATENCY` (name, arity, flags, documentation and
/// function), with their subcommands, sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    container("latency")
        .since("2.8.13", "server")
        .about("A container for latency commands.")
        .with(LATENCY),
    container("slowlog")
        .since("2.2.12", "server")
        .about("A container for slow log commands.")
        .with(SLOWLOG),
];

const LATENCY: &[CommandSpec] = &[
    latency("doctor", "latency|doctor", 2, doctor)
        .about("Returns a report on the latency samples."),
    latency("graph", "latency|graph", 3, graph).about("Draws the latency samples of an event."),
    help_row("latency|help"),
    subcommand_with_table("histogram", "latency|histogram", -2, histogram)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .about("Returns the distribution of the latencies of all or some commands."),
    latency("history", "latency|history", 3, history)
        .about("Returns the latency samples of an event: the longest latency of each second."),
    latency("latest", "latency|latest", 2, latest)
        .about("Returns the latest latency sample, and the longest since the last reset."),
    latency("reset", "latency|reset", -2, reset_latency).about("Removes the latency samples."),
    subcommand_with_table("trace", "latency|trace", 2, trace)
        .flags(ADMIN)
        .categories(&["dangerous"])
        .about(
            "Returns traces of recent writes: the microseconds from the arrival of the request \
             until each step was done.",
        ),
];

const SLOWLOG: &[CommandSpec] = &[
    slow_log("get", "slowlog|get", -2, get).about("Returns the latest entries of the slow log."),
    help_row("slowlog|help"),
    slow_log("len", "slowlog|len", 2, len).about("Returns the number of entries in the slow log."),
    slow_log("reset", "slowlog|reset", 2, reset).about("Removes all entries of the slow log."),
];

const fn latency(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, full_name, arity, run).flags(ADMIN).categories(&["dangerous"])
}

const fn slow_log(
    name: &'static str,
    full_name: &'static str,
    arity: i8,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, full_name, arity, run).flags(SLOW_LOG).categories(&["dangerous"])
}

fn to_i64(number: u128) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Runs `SLOWLOG GET [count]`: replies with the latest entries of the slow log, 10 by default.
fn get(call: &mut Call<'_>) -> Action {
    let mut max = 10;
    if let Some(argument) = call.request.get(2) {
        max = match parse_integer(argument) {
            Some(-1) => usize::MAX,
            Some(count) if count >= 0 => usize::try_from(count).unwrap_or(usize::MAX),
            _ => return call.error(&"ERR count should be greater than or equal to -1"),
        };
    }
    let entries = call.context.slow_log.entries();
    let writer = &mut call.writer;
    writer.array(entries.len().min(max));
    for entry in entries.iter().take(max) {
        writer.array(6);
        writer.integer(entry.id);
        writer.integer(to_i64(entry.at.into()));
        writer.integer(to_i64(entry.elapsed.as_micros()));
        writer.array(entry.arguments.len());
        for argument in &entry.arguments {
            writer.bulk(argument);
        }
        writer.bulk(entry.address.as_bytes());
        writer.bulk(&entry.client_name);
    }
    Action::Reply
}

/// Runs `SLOWLOG LEN`: replies with the number of entries in the slow log.
fn len(call: &mut Call<'_>) -> Action {
    let count = call.context.slow_log.entries().len();
    call.integer(count)
}

/// Runs `SLOWLOG RESET`: removes all entries of the slow log.
fn reset(call: &mut Call<'_>) -> Action {
    call.writer.ok();
    Action::ResetStatistics(Statistics::SlowLog)
}

/// Runs `LATENCY LATEST`: replies with the latest latency sample and the duration of the slowest
/// request since the last reset; an empty list if there are no samples.
fn latest(call: &mut Call<'_>) -> Action {
    let slow_log = &call.context.slow_log;
    let writer = &mut call.writer;
    match slow_log.samples().back() {
        None => writer.array(0),
        Some((at, elapsed)) => {
            writer.array(1);
            writer.array(4);
            writer.bulk(EVENT);
            writer.integer(to_i64((*at).into()));
            writer.integer(to_i64(elapsed.as_millis()));
            writer.integer(to_i64(slow_log.longest().as_millis()));
        }
    }
    Action::Reply
}

/// Runs `LATENCY HISTORY event`: replies with all latency samples of the event, in chronological
/// order.
fn history(call: &mut Call<'_>) -> Action {
    let samples = call.context.slow_log.samples();
    let is_known = call.argument(2).eq_ignore_ascii_case(EVENT);
    let writer = &mut call.writer;
    writer.array(if is_known { samples.len() } else { 0 });
    for (at, elapsed) in samples.iter().filter(|_| is_known) {
        writer.array(2);
        writer.integer(to_i64((*at).into()));
        writer.integer(to_i64(elapsed.as_millis()));
    }
    Action::Reply
}

/// Runs `LATENCY GRAPH event`: draws the latest latency samples of the event, a column for each,
/// with their age in seconds below.
fn graph(call: &mut Call<'_>) -> Action {
    let slow_log = &call.context.slow_log;
    let samples = slow_log.samples();
    if samples.is_empty() || !call.argument(2).eq_ignore_ascii_case(EVENT) {
        let event = String::from_utf8_lossy(call.argument(2));
        return call.error(&format_args!("ERR No samples available for event '{event}'"));
    }
    let shown = samples.iter().skip(samples.len().saturating_sub(GRAPH_SAMPLES));
    let shown: Vec<(u64, u128)> =
        shown.map(|(at, elapsed)| (*at, elapsed.as_millis().max(1))).collect();
    let high = shown.iter().map(|(_, millis)| *millis).max().unwrap_or(1);
    let low = shown.iter().map(|(_, millis)| *millis).min().unwrap_or(1);
    let longest = slow_log.longest().as_millis();
    let title = format!("command - high {high} ms, low {low} ms (all time high {longest} ms)");
    let mut lines = vec![title, "-".repeat(GRAPH_SAMPLES)];
    for row in (0..GRAPH_ROWS).rev() {
        let is_filled = |millis: u128| millis * GRAPH_ROWS > high * row;
        let column = |(_, millis): &(u64, u128)| if is_filled(*millis) { '#' } else { ' ' };
        lines.push(shown.iter().map(column).collect());
    }
    let now = call.context.wall_clock.as_secs();
    let ages: Vec<String> =
        shown.iter().map(|(at, _)| format!("{}s", now.saturating_sub(*at))).collect();
    let longest_age = ages.iter().map(String::len).max().unwrap_or(0);
    for position in 0..longest_age {
        let letter = |age: &String| age.chars().nth(position).unwrap_or(' ');
        lines.push(ages.iter().map(letter).collect());
    }
    let lines: Vec<String> = lines.iter().map(|line| format!("{}\n", line.trim_end())).collect();
    call.writer.verbatim(&lines.concat());
    Action::Reply
}

/// Runs `LATENCY HISTOGRAM [command ...]`: replies with the distribution of the latencies of the
/// named commands and their subcommands, or of all; unknown names are skipped. Empty while
/// `latency-tracking` is off.
fn histogram(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    let statistics = &call.context.statistics;
    let names: Vec<Vec<u8>> = call.request.rest(2).map(<[u8]>::to_ascii_lowercase).collect();
    let is_of = |spec: &CommandSpec, name: &[u8]| {
        let rest = spec.full_name.as_bytes().strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"|"))
    };
    let timed: Vec<(&str, &DurationHistogram)> = table
        .numbered()
        .filter(|(_, spec)| names.is_empty() || names.iter().any(|name| is_of(spec, name)))
        .filter_map(|(number, spec)| Some((spec.full_name, statistics.totals(number)?.durations)))
        .filter(|(_, durations)| call.settings.tracks_latency() && durations.count() > 0)
        .collect();
    let writer = &mut call.writer;
    writer.map(timed.len());
    for (name, durations) in timed {
        writer.bulk(name.as_bytes());
        writer.map(2);
        writer.bulk(b"calls");
        writer.integer(to_i64(durations.count().into()));
        writer.bulk(b"histogram_usec");
        let counts = durations.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        writer.map(counts.clone().count());
        let mut cumulative = 0;
        for (bucket, count) in counts {
            cumulative += count;
            writer.integer(to_i64(DurationHistogram::redis_micros_of(bucket).into()));
            writer.integer(to_i64(cumulative.into()));
        }
    }
    Action::Reply
}

/// Runs `LATENCY TRACE`: replies with the traces of recent writes, latest first. A step that this
/// replica does not know is missing.
fn trace(call: &mut Call<'_>, table: &'static CommandTable) -> Action {
    let traces = call.context.write_traces.latest_first();
    let writer = &mut call.writer;
    writer.array(traces.len());
    for trace in traces {
        let steps = WRITE_STEPS.iter().zip(trace.steps);
        let known = steps.filter_map(|(name, time)| Some((name, time?)));
        let known: Vec<(&&str, Duration)> = known.collect();
        writer.map(2 + known.len());
        writer.bulk(b"command");
        let mut all = table.numbered();
        let name = all.find(|(number, _)| *number == trace.command).map(|(_, spec)| spec.full_name);
        writer.bulk(name.unwrap_or_default().as_bytes());
        writer.bulk(b"requests");
        writer.integer(to_i64(trace.requests as u128));
        for (name, time) in known {
            writer.bulk(name.as_bytes());
            writer.integer(to_i64(time.as_micros()));
        }
    }
    Action::Reply
}

/// Runs `LATENCY RESET [event ...]`: removes all latency samples, and replies with the number of
/// events that had samples (0 or 1).
fn reset_latency(call: &mut Call<'_>) -> Action {
    let is_named = call.request.len() == 2
        || call.request.rest(2).any(|event| event.eq_ignore_ascii_case(EVENT));
    let resets = is_named && !call.context.slow_log.samples().is_empty();
    call.writer.integer(resets.into());
    if resets { Action::ResetStatistics(Statistics::Latency) } else { Action::Reply }
}

/// Runs `LATENCY DOCTOR`: replies with advice that depends on the latency samples.
fn doctor(call: &mut Call<'_>) -> Action {
    let slow_log = &call.context.slow_log;
    let text = if slow_log.samples().is_empty() {
        "There are no latency samples: no request took as long as latency-monitor-threshold, or \
         that setting is 0, which turns samples off. Change it with CONFIG SET.\n"
            .to_owned()
    } else {
        format!(
            "Requests took longer than latency-monitor-threshold in {} recent seconds, up to {} \
             ms. A write waits for a sync of the log at a majority of the replicas: check \
             raft_log_syncs in INFO, the disks, and the network between replicas. SLOWLOG GET \
             shows the requests.\n",
            slow_log.samples().len(),
            slow_log.longest().as_millis()
        )
    };
    call.writer.verbatim(&text);
    Action::Reply
}
