//! Expiration of keys by the replicated clock, which only log entries advance: a key expires at
//! the same log entry on every replica, and once it was seen expired it never comes back, whatever
//! the wall clocks of machines show.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Keyspace;
use super::clock::{Millis, ReplicatedClock};
use super::entry::KeyEntry;

/// Maximum number of expired keys that one log entry removes. An expired key does not exist for
/// clients, removed or not.
pub(in crate::kv) const REMOVED_MAX: usize = 64;

/// The keys that expire, in the order of their expiration times.
#[derive(Debug, Default)]
pub(in crate::kv) struct ExpirationIndex {
    /// Expiration time and key hash.
    by_time: BTreeSet<(Millis, u64)>,
}

impl ExpirationIndex {
    /// Changes the expiration time of a key; `None` for none.
    pub(super) fn update(&mut self, hash: u64, from: Option<Millis>, to: Option<Millis>) {
        if from == to {
            return;
        }
        // Two keys with equal hashes and expiration times share one element. When one of them goes,
        // the other is no longer removed in the background, but still does not exist for clients.
        if let Some(from) = from {
            self.by_time.remove(&(from, hash));
        }
        if let Some(to) = to {
            self.by_time.insert((to, hash));
        }
    }

    /// Number of keys that expire.
    pub(super) fn len(&self) -> usize {
        self.by_time.len()
    }

    /// The earliest expiration time after `clock`.
    fn first_after(&self, clock: Millis) -> Option<Millis> {
        let after = (clock.saturating_add(1), 0);
        self.by_time.range(after..).next().map(|(expires_at, _)| *expires_at)
    }

    fn first(&self) -> Option<(Millis, u64)> {
        self.by_time.first().copied()
    }

    pub(super) fn clear(&mut self) {
        self.by_time.clear();
    }
}

impl Keyspace {
    /// The replicated clock in milliseconds since 1970.
    pub(in crate::kv) fn clock(&self) -> Millis {
        self.clock.millis
    }

    /// The replicated clock.
    pub(in crate::kv) fn replicated_clock(&self) -> ReplicatedClock {
        self.clock
    }

    /// Sets the replicated clock to that of a snapshot.
    pub(in crate::kv) fn restore_clock(&mut self, clock: ReplicatedClock) {
        self.clock = clock;
    }

    /// Earliest expiration time of a key, which may be in the past.
    pub(in crate::kv) fn next_expiry(&self) -> Option<Millis> {
        self.expirations.first().map(|(expires_at, _)| expires_at)
    }

    /// Whether a key expires after the clock of the state, but not after `millis`.
    pub(in crate::kv) fn expires_until(&self, millis: Millis) -> bool {
        self.expirations.first_after(self.clock.millis).is_some_and(|first| first <= millis)
    }

    /// Number of keys that expire.
    pub(in crate::kv) fn expires_count(&self) -> usize {
        self.expirations.len()
    }

    /// Advances the replicated clock. It never goes back.
    pub(in crate::kv) fn advance_clock(&mut self, millis: Millis) {
        self.clock.millis = self.clock.millis.max(millis);
    }

    /// Sets the replicated clock back to `millis` if it is ahead of that, and moves all expirations
    /// by the same amount, so that remaining TTLs stay. Expirations that were given as a date are
    /// then too early by that amount, but while the clock was wrong, dates were wrong as well.
    /// Returns the milliseconds by which the clock was set back.
    pub(in crate::kv) fn set_back_clock(&mut self, millis: Millis) -> Millis {
        let back = self.clock.millis.saturating_sub(millis);
        if back == 0 {
            return 0;
        }
        let revision = self.applied_index();
        for (from, hash) in self.expirations.by_time.clone() {
            let to = from.saturating_sub(back).max(1);
            self.modify(
                hash,
                |entry| is_expiring(entry, hash, from),
                |entry| {
                    entry.set_expiry(Some(to));
                    entry.mark_changed(revision);
                },
            );
        }
        self.clock.millis = millis;
        self.clock.resets += 1;
        back
    }

    /// Removes at most [`REMOVED_MAX`] expired keys.
    pub(in crate::kv) fn remove_expired(&mut self) {
        for _ in 0..REMOVED_MAX {
            match self.expirations.first() {
                Some((expires_at, hash)) if expires_at <= self.clock.millis => {
                    let key = self.take_expired(hash, expires_at);
                    self.notify("expired", &key);
                }
                _ => return,
            }
        }
    }

    /// Removes the key with this hash and expiration time, and returns it.
    fn take_expired(&mut self, hash: u64, expires_at: Millis) -> Bytes {
        let removed = self.shards.remove(hash, |entry| is_expiring(entry, hash, expires_at));
        let entry = removed.expect("every key of the expiration index exists");
        self.subtract(&entry);
        entry.shared_key()
    }
}

/// Whether this is the entry with this hash and expiration time. Two keys may have the same hash.
fn is_expiring(entry: &KeyEntry, hash: u64, expires_at: Millis) -> bool {
    entry.expires_at() == Some(expires_at) && entry.key_hash() == hash
}
