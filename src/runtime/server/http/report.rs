//! The state of the replica at one moment, from which the pages are written. The network stage
//! copies it, in about 0.1 ms.

use crate::redis::Context;

/// The state of the replica at one moment.
#[derive(Debug)]
pub(crate) struct Report {
    /// What `INFO` reports, without the slow log, the subscriptions and the percentiles.
    pub(crate) context: Context,
    /// Number of Pub/Sub channels, and number of patterns, with subscribers.
    pub(crate) subscriptions: (usize, usize),
    /// Maximum number of client connections.
    pub(crate) clients_max: u64,
    /// Memory limit of all clients combined, in bytes.
    pub(crate) clients_bytes_max: u64,
    /// Memory limit of the replica, in bytes; 0 for none.
    pub(crate) memory_max: u64,
    pub(crate) queues: Vec<QueueFill>,
    /// Maximum number of items in a queue.
    pub(crate) queue_items_max: usize,
}

/// How many items wait in a queue between two stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueFill {
    /// Name of the queue: its contents and where they go.
    pub(crate) name: &'static str,
    pub(crate) items: usize,
}
