//! The transaction of a connection: the commands queued since `MULTI`, and the watched keys.
//!
//! A queued request is kept as the client sent it and is executed by `EXEC`, so that an error in
//! its arguments appears in the request's own element of the reply.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::kv::DatabaseId;
use crate::wire::resp::Request;

/// Estimated memory usage of a queued request in bytes, without its arguments.
const QUEUED_BYTES: usize = size_of::<QueuedRequest>() + 32;
/// Estimated memory usage of a watched key in bytes, without its name.
const WATCHED_BYTES: usize = size_of::<((DatabaseId, Bytes), u64)>() + 32;

/// The state of a connection's transaction: the commands that were queued since `MULTI`, and the
/// watched keys.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct Transaction {
    /// The commands that were queued since `MULTI`; `None` if no transaction is open.
    pub(in crate::redis) queue: Option<CommandQueue>,
    pub(in crate::redis) watched: WatchedKeys,
}

/// The commands that were queued since `MULTI` and that `EXEC` will run.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct CommandQueue {
    pub(in crate::redis) requests: Vec<QueuedRequest>,
    /// Estimated memory usage of the queued requests, in bytes.
    bytes: usize,
    /// Whether a command was rejected instead of queued, so that `EXEC` must fail and run no
    /// command.
    pub(in crate::redis) aborted: bool,
}

/// A copy of a request that was queued between `MULTI` and `EXEC`.
#[derive(Debug, Clone)]
pub(in crate::redis) struct QueuedRequest {
    bytes: Bytes,
    arguments: Box<[Range<usize>]>,
}

/// The keys that the connection watches, each with its database and its revision at the time of
/// `WATCH`. A key's revision is a number that changes whenever the key changes.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct WatchedKeys {
    pub(in crate::redis) revisions: Vec<((DatabaseId, Bytes), u64)>,
    /// Estimated memory usage of the watched keys, in bytes.
    bytes: usize,
    /// Whether a `WATCH` failed without an outcome, so that the revisions of its keys are unknown
    /// and the next `EXEC` must abort.
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
    /// Queues a request, unless the memory usage of the queue would then exceed `bytes_max` bytes.
    ///
    /// # Errors
    /// If the queue would use more than `bytes_max` bytes: returns the memory usage that it would
    /// have, in bytes, and makes `EXEC` fail.
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
    pub(in crate::redis) fn contains(&self, database: DatabaseId, key: &[u8]) -> bool {
        self.revisions.iter().any(|((of, watched), _)| *of == database && watched == key)
    }

    /// Estimates the memory usage in bytes that the watched keys would have if `keys` were watched,
    /// too.
    pub(in crate::redis) fn bytes_with(&self, keys: &[&[u8]]) -> usize {
        self.bytes + keys.iter().map(|key| WATCHED_BYTES + key.len()).sum::<usize>()
    }

    pub(super) fn add(&mut self, (database, key): (DatabaseId, Bytes), revision: u64) {
        self.bytes += WATCHED_BYTES + key.len();
        self.revisions.push(((database, key), revision));
    }
}

impl Transaction {
    /// Returns whether a transaction is open: the client has sent `MULTI`, and neither `EXEC` nor
    /// `DISCARD` since.
    pub(in crate::redis) fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// Returns the number of commands queued since `MULTI`; `None` if no transaction is open.
    pub(in crate::redis) fn queue_len(&self) -> Option<usize> {
        self.queue.as_ref().map(|queue| queue.requests.len())
    }

    /// Estimates the memory usage of the queued commands in bytes.
    pub(in crate::redis) fn queue_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// Estimates the memory usage of the queued commands and the watched keys in bytes.
    pub(in crate::redis) fn held_bytes(&self) -> usize {
        self.queue_bytes() + self.watched.bytes
    }

    /// Makes the next `EXEC` fail, because a command was rejected. Has no effect if no transaction
    /// is open.
    pub(in crate::redis) fn abort(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.aborted = true;
        }
    }

    /// Closes the transaction, as `DISCARD` does: drops the queued commands, and stops watching all
    /// keys.
    pub(in crate::redis) fn discard(&mut self) {
        *self = Transaction::default();
    }
}
