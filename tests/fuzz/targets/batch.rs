//! Fuzz target: batches of operations of the state machine.
#![no_main]

#[path = "../entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::run("batch", bytes));
