//! Commands for whoever runs the server.

use crate::redis::commands::command as commands;
use crate::redis::commands::passthrough as calls;
use crate::redis::slow_log as slow;
use crate::redis::spec::{CommandSpec, command, subcommand};

const RECORDS: &[&str] = &["admin", "noscript", "loading", "stale"];
const SLOW_RECORDS: &[&str] = &["admin", "loading", "stale"];

/// In order of their names.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    command("clock", -2, commands::help)
        .flags(RECORDS)
        .categories(&["dangerous"])
        .about("Commands about the replicated clock, by which keys expire.")
        .with(CLOCK),
    command("debug", -2, commands::help)
        .flags(RECORDS)
        .categories(&["dangerous"])
        .since("1.0.0", "server")
        .about("Commands for tests.")
        .with(DEBUG),
    command("latency", -2, commands::help)
        .since("2.8.13", "server")
        .about("Commands about moments when requests took long.")
        .with(LATENCY),
    command("slowlog", -2, commands::help)
        .since("2.2.12", "server")
        .about("Commands about requests that took long.")
        .with(SLOWLOG),
];

const CLOCK: &[CommandSpec] = &[
    subcommand("help", "clock|help", 2, commands::help)
        .flags(&["loading", "stale"])
        .about("Tells of these."),
    subcommand("reset", "clock|reset", 2, calls::reset_clock)
        .flags(&["write", "admin", "noscript", "no_multi"])
        .categories(&["dangerous"])
        .about("Sets a clock that is ahead back, and expirations with it; returns milliseconds."),
];

const DEBUG: &[CommandSpec] = &[
    subcommand("help", "debug|help", 2, commands::help)
        .flags(&["loading", "stale"])
        .about("Tells of these."),
    subcommand("sleep", "debug|sleep", 3, slow::sleep)
        .flags(RECORDS)
        .about("Does nothing for so many seconds, not even for other replicas."),
];

const LATENCY: &[CommandSpec] = &[
    subcommand("doctor", "latency|doctor", 2, slow::doctor)
        .flags(RECORDS)
        .categories(&["dangerous"])
        .about("Says in words what was recorded."),
    subcommand("help", "latency|help", 2, commands::help)
        .flags(&["loading", "stale"])
        .about("Tells of these."),
    subcommand("history", "latency|history", 3, slow::history)
        .flags(RECORDS)
        .categories(&["dangerous"])
        .about("Tells of the seconds in which requests took long."),
    subcommand("latest", "latency|latest", 2, slow::latest)
        .flags(RECORDS)
        .categories(&["dangerous"])
        .about("Tells of the last such second, and of the longest time."),
    subcommand("reset", "latency|reset", -2, slow::forget)
        .flags(RECORDS)
        .categories(&["dangerous"])
        .about("Forgets them."),
];

const SLOWLOG: &[CommandSpec] = &[
    subcommand("get", "slowlog|get", -2, slow::get)
        .flags(SLOW_RECORDS)
        .categories(&["dangerous"])
        .about("Tells of the latest requests that took long."),
    subcommand("help", "slowlog|help", 2, commands::help)
        .flags(&["loading", "stale"])
        .about("Tells of these."),
    subcommand("len", "slowlog|len", 2, slow::len)
        .flags(SLOW_RECORDS)
        .categories(&["dangerous"])
        .about("Tells how many there are."),
    subcommand("reset", "slowlog|reset", 2, slow::reset)
        .flags(SLOW_RECORDS)
        .categories(&["dangerous"])
        .about("Forgets them."),
];
