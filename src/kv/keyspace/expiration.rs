//! Expiration of keys by the replicated clock. Only log entries advance this clock, so a key
//! expires at the same log entry on every replica, and a key that clients have seen expire does not
//! reappear, regardless of what the wall clocks show.

use std::collections::BTreeSet;

use super::Keyspace;
use super::clock::{Millis, ReplicatedClock};
use super::entry::KeyEntry;
use super::note_expired;

/// Maximum number of expired keys that are removed when an operation is applied, which bounds the
/// extra work. Clients never see an expired key, even if it has not been removed yet.
pub(in crate::kv) const REMOVED_MAX: usize = 64;
/// Maximum number of expired keys that are removed when a log entry advances the clock. While
/// expired keys are left, such entries follow at intervals of at least 10 ms. Larger values are
/// only collected, so this takes some milliseconds at most.
pub(in crate::kv) const REMOVED_BY_CLOCK_MAX: usize = 1_024;

/// Index of the keys that have an expiration time, in the order of these times.
#[derive(Debug, Default)]
pub(in crate::kv) struct ExpirationIndex {
    /// The expiration time, in milliseconds since 1970, and the key hash of each key that expires.
    by_time: BTreeSet<(Millis, u64)>,
    /// Sum of the expiration times in `by_time`.
    sum: u128,
}

impl ExpirationIndex {
    /// Updates the index after the expiration time of the key with the hash `hash` has changed from
    /// `from` to `to`; `None` means no expiration time.
    pub(super) fn update(&mut self, hash: u64, from: Option<Millis>, to: Option<Millis>) {
        if from == to {
            return;
        }
        // Two keys with equal hashes and expiration times share one element. When one of them is
        // removed, the other loses its element and is no longer removed in the background, but once
        // it has expired it still does not exist for clients.
        if let Some(from) = from
            && self.by_time.remove(&(from, hash))
        {
            self.sum -= u128::from(from);
        }
        if let Some(to) = to
            && self.by_time.insert((to, hash))
        {
            self.sum += u128::from(to);
        }
    }

    /// Returns the number of keys that have an expiration time.
    pub(super) fn len(&self) -> usize {
        self.by_time.len()
    }

    /// Returns the earliest expiration time in the index that is later than `clock`, in
    /// milliseconds since 1970; `None` if there is none.
    pub(super) fn first_after(&self, clock: Millis) -> Option<Millis> {
        let after = (clock.saturating_add(1), 0);
        self.by_time.range(after..).next().map(|(expires_at, _)| *expires_at)
    }

    /// Returns the average of all expiration times, in milliseconds since 1970; `None` if there are
    /// none.
    pub(super) fn average(&self) -> Option<Millis> {
        let average = self.sum.checked_div(self.by_time.len() as u128)?;
        Some(Millis::try_from(average).expect("an average of numbers of this type"))
    }

    /// Returns the earliest expiration time, in milliseconds since 1970, with a hash of a key that
    /// expires then; `None` if there is none.
    pub(super) fn first(&self) -> Option<(Millis, u64)> {
        self.by_time.first().copied()
    }
}

impl Keyspace {
    /// Returns the reading of the replicated clock, by which keys expire, in milliseconds since
    /// 1970.
    pub(in crate::kv) fn clock(&self) -> Millis {
        self.clock.millis
    }

    /// Returns the replicated clock: its reading, and the number of times that it has been set
    /// back.
    pub(in crate::kv) fn replicated_clock(&self) -> ReplicatedClock {
        self.clock
    }

    /// Sets the replicated clock to `clock`, which was read from a snapshot.
    pub(in crate::kv) fn restore_clock(&mut self, clock: ReplicatedClock) {
        self.clock = clock;
    }

    /// Advances the replicated clock to `millis`, in milliseconds since 1970. Has no effect if the
    /// clock already shows this time or a later one.
    pub(in crate::kv) fn advance_clock(&mut self, millis: Millis) {
        self.clock.millis = self.clock.millis.max(millis);
    }

    /// Sets the replicated clock back to `millis` if it is ahead, and makes all expiration times
    /// earlier by the same amount, so that each key keeps its remaining TTL. Returns the number of
    /// milliseconds by which the clock was set back. Keys for which clients have set an absolute
    /// expiration time then expire too early; this is accepted, because the clock was wrong when
    /// these times were set.
    pub(in crate::kv) fn set_back_clock(&mut self, millis: Millis) -> Millis {
        let back = self.clock.millis.saturating_sub(millis);
        if back == 0 {
            return 0;
        }
        self.for_each_database(|keyspace| keyspace.expire_earlier(back));
        self.clock.millis = millis;
        self.clock.resets += 1;
        back
    }

    /// Makes the expiration times of the selected database earlier by `back` milliseconds.
    fn expire_earlier(&mut self, back: Millis) {
        let (revision, id) = (self.revision(), self.database());
        for (from, hash) in self.databases.selected().expirations.by_time.clone() {
            let to = from.saturating_sub(back).max(1);
            self.modify(
                hash,
                |entry| is_expiring(entry, hash, from),
                |entry| {
                    entry.set_expiry(Some(to));
                    entry.mark_changed(revision);
                },
            );
            let shards = &self.databases.selected().shards;
            let entry = shards.find(hash, |entry| is_expiring(entry, hash, to));
            let entry = entry.expect("it was just changed");
            self.events.history.add(revision, "expire", (id, entry.key()));
        }
    }

    /// Removes up to `count_max` expired keys, in the order of their databases, and records an
    /// `expired` keyspace notification for each.
    pub(in crate::kv) fn remove_expired(&mut self, count_max: usize) {
        let mut left = count_max;
        for id in self.databases.used_ids() {
            while let Some((expires_at, hash)) = self.databases.get(id).expirations.first()
                && expires_at <= self.clock.millis
            {
                if left == 0 {
                    return;
                }
                left -= 1;
                self.within_mut(id, |it| it.remove_expired_entry(hash, expires_at));
            }
        }
    }

    /// Reports the keys that have expired since the replicated clock showed `before` and have not
    /// been removed yet as changed, if changed keys are collected: clients see them as removed.
    pub(in crate::kv) fn report_expired(&mut self, before: Millis) {
        if !self.reports_changes() {
            return;
        }
        let expired = (before.saturating_add(1), 0)..=(self.clock.millis, u64::MAX);
        if expired.is_empty() {
            return;
        }
        for (id, database) in self.databases.used() {
            for (expires_at, hash) in database.expirations.by_time.range(expired.clone()) {
                let is_it = |entry: &KeyEntry| is_expiring(entry, *hash, *expires_at);
                let entry = database.shards.find(*hash, is_it);
                let entry = entry.expect("every key of the expiration index exists");
                self.events.history.report(self.revision, "expired", (id, entry.key()));
            }
        }
    }

    /// Removes the entry of the selected database with this key hash and this expiration time,
    /// which must exist.
    fn remove_expired_entry(&mut self, hash: u64, expires_at: Millis) {
        let shards = &mut self.databases.selected_mut().shards;
        let removed = shards.remove(hash, |entry| is_expiring(entry, hash, expires_at));
        let entry = removed.expect("every key of the expiration index exists");
        let key = (self.database(), entry.key());
        note_expired(&mut self.counts.expired, &mut self.events, self.revision, key);
        self.unlink(entry);
    }
}

/// Returns whether the key of `entry` has the hash `hash` and the expiration time `expires_at`.
fn is_expiring(entry: &KeyEntry, hash: u64, expires_at: Millis) -> bool {
    entry.expires_at() == Some(expires_at) && entry.key_hash() == hash
}
