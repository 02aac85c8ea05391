//! Rows that still stand apart from their functions.

pub(in crate::redis) mod admin;
pub(in crate::redis) mod entries;
pub(in crate::redis) mod pubsub;
pub(in crate::redis) mod transactions;
