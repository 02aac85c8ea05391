//! Bowline: a strongly consistent, replicated key-value store.
//!
//! One pure consensus core ([`raft`]) and one pure state machine, driven by threads and sockets
//! or, with the same code, by a deterministic simulator. Dependencies point one way only, which
//! `tests/tidy.rs` checks:
//!
//! `types <- {clock, config, record} <- {raft, kv} <- {wire, storage}
//! <- {redis, snapshot_check} <- {course, sim}
//! <- runtime <- processes <- bin`
//!
//! The manual is [`guide`].

pub mod clock;
pub mod config;
pub mod course;
pub mod guide;
pub mod kv;
pub mod processes;
pub mod raft;
pub mod record;
pub mod redis;
pub mod runtime;
pub mod sim;
pub mod snapshot_check;
pub mod storage;
pub mod types;
pub mod wire;
