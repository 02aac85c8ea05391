//! The commands, in one file for each group, which contains the group's rows of the command table
//! and the functions that run its commands. A function replies at once or submits an operation to
//! the state machine.

pub(super) mod acl;
pub(super) mod administration;
pub(super) mod bitmaps;
pub(super) mod blocking;
pub(super) mod changes;
pub(super) mod client;
mod client_pause;
mod client_tracking;
pub(super) mod cluster;
pub(super) mod command;
pub(super) mod config;
pub(super) mod connection;
pub(in crate::redis) mod debug;
pub(super) mod dump;
pub(super) mod failover;
pub(super) mod functions;
pub(super) mod generic;
pub(super) mod geo;
pub(super) mod hashes;
mod help;
pub(super) mod hyperloglog;
pub(super) mod info;
pub(super) mod lists;
pub(super) mod lolwut;
pub(super) mod members;
pub(super) mod memory;
pub(super) mod monitor;
pub(super) mod once;
mod passthrough;
pub(super) mod pubsub;
pub(super) mod replication;
pub(super) mod scripting;
pub(super) mod sentinel;
pub(super) mod server;
pub(super) mod sets;
pub(super) mod slow_log;
pub(super) mod snapshot;
pub(super) mod sort;
pub(super) mod sorted_sets;
pub(super) mod streams;
pub(super) mod strings;
pub(super) mod transactions;
