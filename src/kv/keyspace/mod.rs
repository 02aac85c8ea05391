//! The keys: entries, the tables that hold them, their expiration, and what happens to them.

pub(in crate::kv) mod entry;
pub(in crate::kv) mod events;
pub(in crate::kv) mod expiration;
pub(in crate::kv) mod lookup;
pub(in crate::kv) mod shards;
pub(in crate::kv) mod slot;
