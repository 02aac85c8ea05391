//! The memory usage of all client connections combined, and which connections may grow while memory
//! is scarce.
//!
//! A client may send a large request in small pieces, or send many requests and read few replies,
//! and ten thousand clients may do so at once. From half of the memory limit on, connections that
//! use more than [`SMALL_BYTES`] are read one at a time, so that one large request after another
//! completes; smaller connections are not affected. Above the limit, the client that uses the most
//! memory is disconnected.

/// Maximum memory usage of a small client, in bytes. The server reads requests of small clients
/// even while memory is scarce.
const SMALL_BYTES: usize = 64 << 10;
/// Lower bound, in bytes, of the limit on one client's unsent replies; [`OUTPUT_BYTES_MAX`] is the
/// upper bound. Between these bounds, the limit is a quarter of the clients' memory limit divided
/// by the number of clients.
const OUTPUT_BYTES_MIN: usize = 16 << 10;
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Limits on the replies of one client. The limit on unsent replies shrinks as the number of
/// clients grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReplyBudget {
    /// Total size of the client's unsent replies, in bytes, at which the server stops parsing and
    /// submitting further requests of the client.
    pub(crate) output_bytes: usize,
    /// Maximum encoded size of a single reply, in bytes.
    pub(crate) reply_bytes: usize,
}

/// The memory usage of all client connections combined, and its limit.
#[derive(Debug)]
pub(crate) struct ClientMemory {
    limit_bytes: usize,
    used_bytes: usize,
    /// Index of the one large client from which the server may read while memory is scarce; `None`
    /// if no client has this permission.
    turn: Option<usize>,
}

impl ClientMemory {
    pub(crate) fn new(limit_bytes: usize) -> ClientMemory {
        ClientMemory { limit_bytes, used_bytes: 0, turn: None }
    }

    /// Sets the limit on the memory usage of all clients combined, in bytes.
    pub(crate) fn set_limit(&mut self, limit_bytes: usize) {
        self.limit_bytes = limit_bytes;
    }

    /// Returns the memory usage of all clients combined, in bytes.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Updates the total memory usage: the usage of the client at `index` has changed from `before`
    /// to `now` bytes. If this client had the turn to be read while memory is scarce, and is small
    /// now, another large client may get the turn.
    pub(crate) fn update(&mut self, index: usize, before: usize, now: usize) {
        self.used_bytes = self.used_bytes + now - before;
        if self.turn == Some(index) && now <= SMALL_BYTES {
            self.turn = None;
        }
    }

    /// Returns whether the server may read from the client at `index`, which uses `bytes` of
    /// memory. While the memory usage of all clients combined is at least half of the limit, the
    /// server reads from only one client that uses more than [`SMALL_BYTES`]: the first one for
    /// which this function is called, until that client uses less again.
    pub(crate) fn may_grow(&mut self, index: usize, bytes: usize) -> bool {
        bytes <= SMALL_BYTES
            || self.used_bytes < self.limit_bytes / 2
            || *self.turn.get_or_insert(index) == index
    }

    /// Returns whether the server may now start to read from another client that uses more than
    /// [`SMALL_BYTES`]: either memory is not scarce, or no such client is being read.
    pub(crate) fn admits_large(&self) -> bool {
        self.turn.is_none() || self.used_bytes < self.limit_bytes / 2
    }

    /// If the client at `index` is the one large client that may be read while memory is scarce,
    /// withdraws this permission, so that another large client may get it.
    pub(crate) fn release_turn(&mut self, index: usize) {
        if self.turn == Some(index) {
            self.turn = None;
        }
    }

    /// Returns whether the memory usage of all clients combined exceeds the limit.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.used_bytes > self.limit_bytes
    }

    /// Returns the reply budget of each client if there are `client_count` clients.
    pub(crate) fn budget(&self, client_count: usize) -> ReplyBudget {
        let share = self.limit_bytes / 4 / client_count.max(1);
        ReplyBudget {
            output_bytes: share.clamp(OUTPUT_BYTES_MIN, OUTPUT_BYTES_MAX),
            reply_bytes: self.limit_bytes / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS_BYTES_MIN: usize = 16 << 20;
    const LARGE: usize = 1 << 20;

    #[test]
    fn scarce_client_memory_admits_one_large_and_all_small_clients() {
        let mut memory = ClientMemory::new(CLIENTS_BYTES_MIN);
        assert!(memory.may_grow(1, LARGE) && memory.may_grow(2, LARGE));
        memory.update(1, 0, CLIENTS_BYTES_MIN / 2);
        assert!(memory.may_grow(2, LARGE), "the first large one gets the turn");
        assert!(!memory.may_grow(1, CLIENTS_BYTES_MIN / 2));
        assert!(memory.may_grow(2, LARGE) && memory.may_grow(3, SMALL_BYTES));
        memory.update(2, 0, LARGE);
        memory.update(2, LARGE, SMALL_BYTES);
        assert!(memory.may_grow(1, CLIENTS_BYTES_MIN / 2), "the turn is free again");
        assert!(!memory.is_exceeded());
        memory.update(1, CLIENTS_BYTES_MIN / 2, CLIENTS_BYTES_MIN);
        assert!(memory.is_exceeded());
        memory.update(1, CLIENTS_BYTES_MIN, 0);
        assert!(memory.may_grow(2, LARGE) && memory.may_grow(3, LARGE));
        assert_eq!(memory.used_bytes(), SMALL_BYTES);
    }

    #[test]
    fn output_buffer_limit_per_client_shrinks_with_client_count() {
        let memory = ClientMemory::new(256 << 20);
        let output = |count| memory.budget(count).output_bytes;
        assert_eq!(output(0), OUTPUT_BYTES_MAX);
        assert_eq!(output(1_000), (64 << 20) / 1_000);
        assert_eq!(output(100_000), OUTPUT_BYTES_MIN);
    }
}
