//! Fuzz target: Redis's RDB format.
#![no_main]

#[path = "../entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::run("rdb", bytes));
