//! The keys that expire, by when they do.

use std::collections::BTreeSet;

/// Milliseconds since 1970, by the log's clock.
pub(in crate::kv) type Millis = u64;

/// The keys that end, by when they do: moments and keys' numbers.
#[derive(Debug, Default)]
pub(in crate::kv) struct ExpirationIndex {
    pub(in crate::kv) ends: BTreeSet<(Millis, u64)>,
}

impl ExpirationIndex {
    /// A key's end has moved from one moment to another.
    pub(in crate::kv) fn moved(&mut self, number: u64, from: Option<Millis>, to: Option<Millis>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            self.ends.remove(&(from, number));
        }
        if let Some(to) = to {
            self.ends.insert((to, number));
        }
    }

    /// How many keys end.
    pub(in crate::kv) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The first moment after `clock` at which a key expires.
    pub(in crate::kv) fn first_after(&self, clock: Millis) -> Option<Millis> {
        let after = (clock.saturating_add(1), 0);
        self.ends.range(after..).next().map(|(end, _)| *end)
    }

    pub(in crate::kv) fn first(&self) -> Option<(Millis, u64)> {
        self.ends.first().copied()
    }

    pub(in crate::kv) fn clear(&mut self) {
        self.ends.clear();
    }
}
