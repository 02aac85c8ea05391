//! What one client's connection remembers between requests.

pub(in crate::redis) mod connection;
pub(in crate::redis) mod reply_format;
