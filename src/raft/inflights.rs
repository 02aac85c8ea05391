//! The window of entries in flight to one follower.

use std::collections::VecDeque;

use crate::config::Config;
use crate::types::Index;

/// Appends with entries that were sent and not acknowledged.
///
/// Invariant: ordered by last index; `bytes` is the sum of their lengths.
#[derive(Debug, Default)]
pub(super) struct Inflights {
    appends: VecDeque<Inflight>,
    bytes: usize,
}

/// One append in flight.
#[derive(Clone, Copy, Debug)]
struct Inflight {
    /// Index of its last entry.
    last: Index,
    /// Total length of its records.
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

    /// Returns the index of the last entry in flight.
    pub(super) fn last(&self) -> Option<Index> {
        self.appends.back().map(|append| append.last)
    }

    /// Returns whether another append has to wait. The last append sent may exceed the byte limit.
    pub(super) fn is_full(&self, config: &Config) -> bool {
        self.appends.len() >= config.inflight_appends_max || self.bytes >= config.inflight_bytes_max
    }

    /// Adds an append that ends with `last`.
    pub(super) fn push(&mut self, last: Index, bytes: usize) {
        assert!(
            self.last().is_none_or(|before| before < last),
            "an append up to {last} after one up to {:?}",
            self.last()
        );
        self.appends.push_back(Inflight { last, bytes });
        self.bytes += bytes;
    }

    /// Removes the appends that an acknowledgement up to `acked` covers.
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

    /// Removes all appends: they are taken for lost.
    pub(super) fn clear(&mut self) {
        self.appends.clear();
        self.bytes = 0;
    }

    /// Asserts the invariant.
    pub(super) fn check(&self) {
        debug_assert!(self.appends.iter().is_sorted_by_key(|append| append.last), "{self:?}");
        debug_assert_eq!(
            self.appends.iter().map(|append| append.bytes).sum::<usize>(),
            self.bytes,
            "bytes in flight"
        );
    }
}
