//! The window of entries in flight to one follower.

use std::collections::VecDeque;

use crate::config::Config;
use crate::types::Index;

/// The unacknowledged `AppendEntries` messages with entries that were sent to one follower.
///
/// Invariant: `appends` is ordered by last index; `bytes` is the sum of the appends' lengths in
/// bytes.
#[derive(Debug, Default)]
pub(super) struct Inflights {
    appends: VecDeque<Inflight>,
    bytes: usize,
}

/// An `AppendEntries` message that was sent and is not acknowledged yet.
#[derive(Clone, Copy, Debug)]
struct Inflight {
    /// Index of the last entry in the `AppendEntries` message.
    last: Index,
    /// Total length, in bytes, of the entries in the `AppendEntries` message.
    bytes: usize,
}

impl Inflights {
    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.appends.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the index of the last entry in flight; `None` if no entries are in flight.
    pub(super) fn last(&self) -> Option<Index> {
        self.appends.back().map(|append| append.last)
    }

    /// Returns whether the limit on appends in flight, in number or in bytes, is reached, so that
    /// no further entries may be sent to the follower. The append that reaches the byte limit may
    /// exceed it.
    pub(super) fn is_full(&self, config: &Config) -> bool {
        self.appends.len() >= config.inflight_appends_max || self.bytes >= config.inflight_bytes_max
    }

    /// Adds an append that was just sent. `last` is the index of its last entry; `bytes` is the
    /// total length of its entries.
    pub(super) fn push(&mut self, last: Index, bytes: usize) {
        assert!(
            self.last().is_none_or(|before| before < last),
            "an append up to {last} after one up to {:?}",
            self.last()
        );
        self.appends.push_back(Inflight { last, bytes });
        self.bytes += bytes;
    }

    /// Removes the appends that are fully acknowledged: those whose last index is at most `acked`.
    pub(super) fn acknowledge(&mut self, acked: Index) {
        while let Some(append) = self.appends.pop_front_if(|append| append.last <= acked) {
            assert!(append.bytes <= self.bytes, "{} bytes of {}", append.bytes, self.bytes);
            self.bytes -= append.bytes;
        }
        assert!(
            !self.appends.is_empty() || self.bytes == 0,
            "{} bytes in flight in no append",
            self.bytes
        );
    }

    /// Removes all appends, because they are considered lost.
    pub(super) fn clear(&mut self) {
        self.appends.clear();
        self.bytes = 0;
    }

    /// Panics in debug builds if the invariant of [`Inflights`] is violated.
    pub(super) fn check(&self) {
        debug_assert!(self.appends.iter().is_sorted_by_key(|append| append.last), "{self:?}");
        debug_assert_eq!(
            self.appends.iter().map(|append| append.bytes).sum::<usize>(),
            self.bytes,
            "bytes in flight"
        );
    }
}
