//! The transaction of a connection: the commands queued since `MULTI`, and the watched keys.
//!
//! A queued request is kept as the client sent it and runs at `EXEC`, so that an error in its
//! arguments is reported at its place in the reply.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::wire::resp::Request;

/// Memory of a queued request besides its bytes and arguments, in bytes (estimate).
const QUEUED_BYTES: usize = size_of::<QueuedRequest>() + 32;
/// Memory of a watched key besides its name, in bytes (estimate).
const WATCHED_BYTES: usize = size_of::<(Bytes, u64)>() + 32;

/// The state of a connection's transaction.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct Transaction {
    /// `None` outside `MULTI`.
    pub(in crate::redis) queue: Option<CommandQueue>,
    pub(in crate::redis) watched: WatchedKeys,
}

/// The commands queued since `MULTI`.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct CommandQueue {
    pub(in crate::redis) requests: Vec<QueuedRequest>,
    /// Bytes of memory that `requests` takes.
    bytes: usize,
    /// A command was rejected instead of queued, so `EXEC` rejects all of them.
    pub(in crate::redis) aborted: bool,
}

/// A copy of a request.
#[derive(Debug, Clone)]
pub(in crate::redis) struct QueuedRequest {
    bytes: Bytes,
    arguments: Box<[Range<usize>]>,
}

/// The keys watched since the last `EXEC`, `DISCARD` or `UNWATCH`, each with its revision when
/// `WATCH` was applied.
#[derive(Debug, Clone, Default)]
pub(in crate::redis) struct WatchedKeys {
    pub(in crate::redis) revisions: Vec<(Bytes, u64)>,
    /// Bytes of memory that `revisions` takes.
    bytes: usize,
    /// The outcome of a `WATCH` is unknown, so the next `EXEC` has to abort: it can't tell whether
    /// the keys have changed.
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
    /// Queues a request if the queue then takes at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The bytes that the queue would take, if they are more. The transaction is aborted then.
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

    /// Bytes of memory with `keys` watched as well.
    pub(in crate::redis) fn bytes_with(&self, keys: &[&[u8]]) -> usize {
        self.bytes + keys.iter().map(|key| WATCHED_BYTES + key.len()).sum::<usize>()
    }

    pub(super) fn add(&mut self, key: Bytes, revision: u64) {
        self.bytes += WATCHED_BYTES + key.len();
        self.revisions.push((key, revision));
    }
}

impl Transaction {
    /// Whether commands are queued now, between `MULTI` and `EXEC` or `DISCARD`.
    pub(in crate::redis) fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// The number of commands queued since `MULTI`; `None` outside of it.
    pub(in crate::redis) fn queue_len(&self) -> Option<usize> {
        self.queue.as_ref().map(|queue| queue.requests.len())
    }

    /// Bytes of memory that queued commands take.
    pub(in crate::redis) fn queue_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// Bytes of memory that queued commands and watched keys take.
    pub(in crate::redis) fn held_bytes(&self) -> usize {
        self.queue_bytes() + self.watched.bytes
    }

    /// Makes `EXEC` fail because a command was rejected. No effect outside `MULTI`.
    pub(in crate::redis) fn abort(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.aborted = true;
        }
    }

    /// Drops the queued commands and the watched keys (`DISCARD`).
    pub(in crate::redis) fn discard(&mut self) {
        *self = Transaction::default();
    }
}
