//! `MEMORY`: memory usage of keys and of the replica, and advice about it.

use crate::redis::action::Action;
use crate::redis::call::Call;
use crate::redis::context::Context;
use crate::redis::spec::{CommandSpec, subcommand};

use super::help::{container, help_row};
use super::passthrough::subcommand_passed_on;

/// `MEMORY DOCTOR` has no advice for a replica that uses less memory than this, in bytes.
const ADVISED_BYTES_MIN: u64 = 5 << 20;

/// Row of the command table for `MEMORY` (name, arity, flags, documentation and function), with its
/// subcommands.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[container("memory")
    .since("4.0.0", "server")
    .about("A container for memory commands.")
    .with(MEMORY)];

const MEMORY: &[CommandSpec] = &[
    of_replica("doctor", "memory|doctor", doctor)
        .about("Returns advice about the memory usage of this replica."),
    help_row("memory|help"),
    of_replica("malloc-stats", "memory|malloc-stats", malloc_stats)
        .about("Returns that the memory allocator has no statistics."),
    of_replica("purge", "memory|purge", purge)
        .about("Returns free memory to the operating system."),
    of_replica("stats", "memory|stats", stats)
        .about("Returns details about the memory usage of this replica."),
    subcommand_passed_on("usage", "memory|usage", -3)
        .flags(&["readonly"])
        .since("4.0.0", "server")
        .costs("O(1)")
        .about("Estimates the memory usage of a key and its value in bytes."),
];

const fn of_replica(
    name: &'static str,
    full_name: &'static str,
    run: fn(&mut Call<'_>) -> Action,
) -> CommandSpec {
    subcommand(name, full_name, 2, run).since("4.0.0", "server").costs("O(1)")
}

/// Returns `part / whole`; 0 if `whole` is 0.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Returns problems with the memory usage of the replica, each with advice. `limit` is `maxmemory`
/// in bytes; 0 for none.
fn advice(context: &Context, limit: u64) -> Vec<String> {
    let (used, peak, resident) =
        (context.used_memory, context.used_memory_peak, context.resident_bytes);
    let mut advice = Vec::new();
    if limit > 0 && used > limit / 10 * 9 {
        advice.push(format!(
            "The replica uses {used} bytes of memory, close to maxmemory ({limit}). Above \
             maxmemory, commands that add data are refused. Keys are never evicted: delete keys or \
             raise maxmemory."
        ));
    }
    if peak > used / 2 * 3 {
        advice.push(format!(
            "Peak memory usage was {peak} bytes, more than 150 % of the current usage. If resident \
             memory is also much higher than the usage, MEMORY PURGE may return some of it."
        ));
    }
    if ratio(resident, used) > 1.4 && resident > used + (32 << 20) {
        advice.push(format!(
            "The process has {resident} bytes of resident memory, {:.2} times its memory usage. \
             Free memory is returned to the operating system in the background; MEMORY PURGE \
             does it at once.",
            ratio(resident, used)
        ));
    }
    if context.clients_bytes > used / 2 {
        advice.push(format!(
            "Clients use {} bytes, more than half of the memory usage. Look in CLIENT LIST for \
             clients that do not read their replies (omem), or lower maxmemory-clients.",
            context.clients_bytes
        ));
    }
    if context.log_bytes > used / 2 {
        advice.push(format!(
            "The log uses {} bytes, more than half of the memory usage. Snapshots compact it: \
             see auto-aof-rewrite-min-size.",
            context.log_bytes
        ));
    }
    advice
}

/// Runs `MEMORY DOCTOR`: returns advice about the memory usage of the replica.
fn doctor(call: &mut Call<'_>) -> Action {
    let advice = advice(call.context, call.settings.memory_max());
    let text = if call.context.used_memory < ADVISED_BYTES_MIN {
        "The replica uses very little memory, so there is nothing to say about it.\n".to_owned()
    } else if advice.is_empty() {
        "There is no problem with the memory usage of this replica.\n".to_owned()
    } else {
        let lines: Vec<String> =
            advice.into_iter().map(|sentence| format!(" * {sentence}\n")).collect();
        lines.concat()
    };
    call.writer.verbatim(&text);
    Action::Reply
}

/// Runs `MEMORY MALLOC-STATS`: returns Redis's text for allocators without statistics.
fn malloc_stats(call: &mut Call<'_>) -> Action {
    call.writer.bulk(b"Stats not supported for the current allocator");
    Action::Reply
}

/// Runs `MEMORY PURGE`: returns free memory to the operating system.
fn purge(call: &mut Call<'_>) -> Action {
    call.writer.ok();
    Action::ReturnFreeMemory
}

/// Runs `MEMORY STATS`: returns the memory usage of the replica under Redis's names, as far as they
/// apply here.
fn stats(call: &mut Call<'_>) -> Action {
    let context = call.context;
    let (used, peak) = (context.used_memory, context.used_memory_peak);
    let (dataset, resident) = (context.dataset_bytes, context.resident_bytes);
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let integers = [
        ("peak.allocated", signed(peak)),
        ("total.allocated", signed(used)),
        ("clients.normal", signed(context.clients_bytes)),
        ("log", signed(context.log_bytes)),
        ("overhead.total", signed(used.saturating_sub(dataset))),
        ("keys.count", signed(context.key_count())),
        ("keys.bytes-per-key", signed(dataset.checked_div(context.key_count()).unwrap_or(0))),
        ("dataset.bytes", signed(dataset)),
        ("fragmentation.bytes", signed(resident) - signed(used)),
    ];
    let doubles = [
        ("dataset.percentage", 100.0 * ratio(dataset, used)),
        ("peak.percentage", 100.0 * ratio(used, peak)),
        ("fragmentation", ratio(resident, used)),
    ];
    let writer = &mut call.writer;
    writer.map(integers.len() + doubles.len());
    for (name, number) in integers {
        writer.bulk(name.as_bytes());
        writer.integer(number);
    }
    for (name, number) in doubles {
        writer.bulk(name.as_bytes());
        writer.double(number);
    }
    Action::Reply
}
