//! Commands: one file for each group, with its rows and their functions.

pub(in crate::redis) mod bitmaps;
pub(in crate::redis) mod client;
pub(in crate::redis) mod cluster;
pub(in crate::redis) mod command;
pub(in crate::redis) mod connection;
pub(in crate::redis) mod generic;
pub(in crate::redis) mod hashes;
pub(in crate::redis) mod info;
pub(in crate::redis) mod lists;
pub(in crate::redis) mod once;
pub(in crate::redis) mod passthrough;
pub(in crate::redis) mod pubsub;
pub(in crate::redis) mod rows;
pub(in crate::redis) mod save;
pub(in crate::redis) mod sentinel;
pub(in crate::redis) mod server;
pub(in crate::redis) mod sets;
pub(in crate::redis) mod sorted_sets;
pub(in crate::redis) mod strings;
pub(in crate::redis) mod transactions;
