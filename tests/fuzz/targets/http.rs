//! Fuzz target: HTTP requests for metrics and probes.
#![no_main]

#[path = "../entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::run("http", bytes));
