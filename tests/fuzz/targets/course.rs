//! Fuzz target: messages of the university course's simulator.
#![no_main]

#[path = "../entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::run("course", bytes));
