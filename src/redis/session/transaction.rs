//! The transaction of a connection: the commands queued since `MULTI`, and the watched keys.
//!
//! A queued request is kept as the client sent it and runs at `EXEC`, so that an error in its
//! arguments becomes the command's own element of the reply.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::wire::resp::Request;

/// Estimated memory of a queued request in bytes, without its content and its list of arguments.
const QUEUED_BYTES: usize = size_of::<QueuedRequest>() + 32;
/// Estimated memory of a watched key in bytes, without its name.
const WATCHED_BYTES: usize = size_of::<(Bytes, u64)>() + 32;

/// The state of a connection's transaction: the commands queued since `MULTI`, and the watched
/// keys.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct Transaction {
    /// The commands queued since `MULTI`; `None` if no transaction is open.
    pub(in crate::redis) queue: Option<CommandQueue>,
    pub(in crate::redis) watched: WatchedKeys,
}

/// The commands that were queued since `MULTI`, for the next `EXEC`.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct CommandQueue {
    pub(in crate::redis) requests: Vec<QueuedRequest>,
    /// Estimated memory of the queued requests in bytes.
    bytes: usize,
    /// Whether a command was rejected instead of queued, so that `EXEC` runs none of the commands.
    pub(in crate::redis) aborted: bool,
}

/// A request queued between `MULTI` and `EXEC`: a copy of its arguments.
#[derive(Debug, Clone)]
pub(in crate::redis) struct QueuedRequest {
    bytes: Bytes,
    arguments: Box<[Range<usize>]>,
}

/// The keys watched since the last `EXEC`, `DISCARD` or `UNWATCH`, each with the revision that the
/// key had when `WATCH` was applied. A change of a key changes its revision.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct WatchedKeys {
    pub(in crate::redis) revisions: Vec<(Bytes, u64)>,
    /// Estimated memory of the watched keys in bytes.
    bytes: usize,
    /// Whether the outcome of a `WATCH` is unknown. The next `EXEC` then aborts, because it can't
    /// tell whether the keys have changed.
    pub(in crate::redis) failed: bool,
}

impl QueuedRequest {
    pub(in crate::redis) fn new(request: Request<'_>) -> QueuedRequest {
        let mut bytes = BytesMut::new();
        let mut arguments = Vec::with_capacity(request.len());
        for argument in request.iter() {
            let start = bytes.len();
            bytes.extend_from_slice(argument);
            arguments.push(start..bytes.len());
        }
        QueuedRequest { bytes: bytes.freeze(), arguments: arguments.into() }
    }

    pub(in crate::redis) fn request(&self) -> Request<'_> {
        Request::new(&self.bytes, &self.arguments)
    }

    fn held_bytes(&self) -> usize {
        QUEUED_BYTES + self.bytes.len() + self.arguments.len() * size_of::<Range<usize>>()
    }
}

impl CommandQueue {
    /// Queues a request if the queue then takes at most `bytes_max` bytes of memory.
    ///
    /// # Errors
    /// If the queue would take more: returns the number of bytes it would take, and makes `EXEC`
    /// fail.
    pub(in crate::redis) fn push(
        &mut self,
        request: QueuedRequest,
        bytes_max: usize,
    ) -> Result<(), usize> {
        let bytes = self.bytes + request.held_bytes();
        if bytes > bytes_max {
            self.aborted = true;
            return Err(bytes);
        }
        self.bytes = bytes;
        // EXEC of an aborted transaction runs nothing, so there is no need to keep the request.
        if !self.aborted {
            self.requests.push(request);
        }
        Ok(())
    }
}

impl WatchedKeys {
    pub(in crate::redis) fn contains(&self, key: &[u8]) -> bool {
        self.revisions.iter().any(|(watched, _)| watched == key)
    }

    /// Returns the bytes of memory that the watched keys would take if `keys` were watched as well.
    pub(in crate::redis) fn bytes_with(&self, keys: &[&[u8]]) -> usize {
        self.bytes + keys.iter().map(|key| WATCHED_BYTES + key.len()).sum::<usize>()
    }

    pub(super) fn add(&mut self, key: Bytes, revision: u64) {
        self.bytes += WATCHED_BYTES + key.len();
        self.revisions.push((key, revision));
    }
}

impl Transaction {
    /// Whether a transaction is open: `MULTI` was sent, and neither `EXEC` nor `DISCARD` since.
    pub(in crate::redis) fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// Returns the number of commands queued since `MULTI`; `None` if no transaction is open.
    pub(in crate::redis) fn queue_len(&self) -> Option<usize> {
        self.queue.as_ref().map(|queue| queue.requests.len())
    }

    /// Returns the bytes of memory that the queued commands take (estimate).
    pub(in crate::redis) fn queue_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// Returns the bytes of memory that queued commands and watched keys take together (estimate).
    pub(in crate::redis) fn held_bytes(&self) -> usize {
        self.queue_bytes() + self.watched.bytes
    }

    /// Makes the next `EXEC` fail because a command was rejected. No effect if no transaction is
    /// open.
    pub(in crate::redis) fn abort(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.aborted = true;
        }
    }

    /// Closes the transaction: drops the queued commands and the watched keys (`DISCARD`).
    pub(in crate::redis) fn discard(&mut self) {
        *self = Transaction::default();
    }
}
