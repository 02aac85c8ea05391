//! A copy of the replica's state and counters, from which the pages are written. Copying takes the
//! network stage about 0.1 ms.

use crate::redis::Context;

/// A copy of the replica's state and counters at one moment.
#[derive(Debug)]
pub(crate) struct Report {
    /// The contents of `INFO`, without the slow log, the subscriptions and the percentiles.
    pub(crate) context: Context,
    /// Numbers of Pub/Sub channels and of patterns that have subscribers.
    pub(crate) subscriptions: (usize, usize),
    /// Maximum number of client connections.
    pub(crate) clients_max: u64,
    /// Memory limit of all clients combined, in bytes.
    pub(crate) clients_bytes_max: u64,
    /// Memory limit of the replica, in bytes; 0 for none.
    pub(crate) memory_max: u64,
    pub(crate) queues: Vec<QueueFill>,
    /// Capacity of each queue between stages, in items.
    pub(crate) queue_items_max: usize,
}

/// Number of items waiting in a queue between two stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueFill {
    /// Name of the queue: its contents and the stage that reads it.
    pub(crate) name: &'static str,
    pub(crate) items: usize,
}
