//! Fuzz target: what a connection of a peer brings.
#![no_main]

#[path = "../entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::run("frame", bytes));
