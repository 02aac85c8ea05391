//! Commands: one file for each group with its rows of the registry, and shared code for arguments,
//! outcomes and random choices. Commands read and change the keyspace; they do not depend on the
//! log.

pub(in crate::kv) mod args;
pub(in crate::kv) mod bitfields;
pub(in crate::kv) mod bitmaps;
pub(in crate::kv) mod blocking;
pub(in crate::kv) mod changes;
pub(in crate::kv) mod databases;
pub(in crate::kv) mod debug;
pub(in crate::kv) mod dump;
pub(in crate::kv) mod expiration;
pub(in crate::kv) mod functions;
pub(in crate::kv) mod generic;
pub(in crate::kv) mod geo;
pub(in crate::kv) mod hashes;
pub(in crate::kv) mod hyperloglog;
pub(in crate::kv) mod internal;
pub(in crate::kv) mod items;
pub(in crate::kv) mod key_range;
pub(in crate::kv) mod keys;
pub(in crate::kv) mod lcs;
pub(in crate::kv) mod lists;
pub(in crate::kv) mod outcome;
pub(in crate::kv) mod outcome_codec;
pub(in crate::kv) mod pubsub;
pub(in crate::kv) mod random;
pub(in crate::kv) mod registry;
pub(in crate::kv) mod row;
pub(in crate::kv) mod scan;
pub(in crate::kv) mod scripts;
pub(in crate::kv) mod sets;
pub(in crate::kv) mod sort;
pub(in crate::kv) mod sorted_sets;
pub(in crate::kv) mod streams;
pub(in crate::kv) mod strings;
pub(in crate::kv) mod users;
