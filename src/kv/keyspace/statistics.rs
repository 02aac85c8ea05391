//! Counts of lookups and expired keys, for `INFO`. They are not part of the replicated state and do
//! not affect it.

use std::cell::Cell;

use super::Keyspace;

/// Numbers of events in the keyspace since these numbers were last taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyspaceStatistics {
    /// Number of keys that read commands looked up and found.
    pub hits: u64,
    /// Number of keys that read commands looked up and did not find.
    pub misses: u64,
    /// Number of keys that were removed because they had expired.
    pub expired: u64,
}

impl KeyspaceStatistics {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: KeyspaceStatistics) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.expired += other.expired;
    }
}

/// The current counts. They are cells because reads, which have only a shared reference to the
/// keyspace, also count.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Whether a read command is running, whose lookups count.
    is_reading: Cell<bool>,
    hits: Cell<u64>,
    misses: Cell<u64>,
    pub(super) expired: u64,
}

impl Counts {
    /// Counts the lookup of a key if a read command is running. Returns whether the lookup was
    /// counted as a miss.
    pub(super) fn count_lookup(&self, found: bool) -> bool {
        let counts = self.is_reading.get();
        if counts {
            let counter = if found { &self.hits } else { &self.misses };
            counter.set(counter.get() + 1);
        }
        counts && !found
    }
}

impl Keyspace {
    /// Calls `read`, and counts the keys that it looks up as hits or misses.
    pub(in crate::kv) fn counting_lookups<'k, R>(
        &'k self,
        read: impl FnOnce(&'k Keyspace) -> R,
    ) -> R {
        self.counts.is_reading.set(true);
        let result = read(self);
        self.counts.is_reading.set(false);
        result
    }

    /// Returns the counts since the last call, and sets them to 0.
    pub(in crate::kv) fn take_statistics(&mut self) -> KeyspaceStatistics {
        KeyspaceStatistics {
            hits: self.counts.hits.take(),
            misses: self.counts.misses.take(),
            expired: std::mem::take(&mut self.counts.expired),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::keyspace::events::{Event, RecordedEvents};
    use crate::kv::keyspace::expiration::REMOVED_MAX;
    use crate::kv::state_machine::tests::Feeder;

    #[test]
    fn keyspace_hits_and_misses_count_keys_of_reads_not_of_writes() {
        for (command, args, hits, misses) in [
            ("get", &["string"][..], 1, 0),
            ("get", &["missing"], 0, 1),
            ("get", &["list"], 1, 0),
            ("mget", &["string", "missing", "list"], 2, 1),
            ("exists", &["string", "missing"], 1, 1),
            ("type", &["list"], 1, 0),
            ("expiretime", &["missing"], 0, 1),
            ("strlen", &["string"], 1, 0),
            ("getrange", &["string", "0", "1"], 1, 0),
            ("llen", &["list"], 1, 0),
            ("lrange", &["list", "0", "-1"], 1, 0),
            ("hgetall", &["missing"], 0, 1),
            ("sinter", &["missing", "missing"], 0, 2),
            ("object|encoding", &["list"], 1, 0),
            // Writes that return the old value count as reads in Redis, too.
            ("getset", &["string", "v"], 1, 0),
            ("getex", &["string"], 1, 0),
            ("getdel", &["missing"], 0, 1),
            ("set", &["string", "v", "GET"], 1, 0),
            ("set", &["string", "v"], 0, 0),
            ("append", &["string", "v"], 0, 0),
            ("incr", &["number"], 0, 0),
            ("del", &["missing"], 0, 0),
            // These are not lookups by a client.
            ("revisions", &["string", "missing"], 0, 0),
            ("memory|usage", &["string"], 0, 0),
            ("randomkey", &[], 0, 0),
        ] {
            let mut feeder = Feeder::new();
            feeder.call("mset", &["string", "v", "number", "1"]);
            feeder.call("rpush", &["list", "a"]);
            feeder.store.take_statistics();
            feeder.call(command, args);
            let wanted = KeyspaceStatistics { hits, misses, expired: 0 };
            assert_eq!(feeder.store.take_statistics(), wanted, "{command} {args:?}");
        }
    }

    /// Regression test: `expired_keys` used to be always 0. Each expired key counts once, no matter
    /// what removes it.
    #[test]
    fn expired_key_is_counted_once_however_it_is_deleted() {
        let mut keyspace = Keyspace::default();
        let average_expiry =
            |keyspace: &Keyspace| keyspace.sizes().first().and_then(|size| size.average_expiry);
        assert_eq!(average_expiry(&keyspace), None);
        for (key, expires_at) in [(b"a", 10), (b"b", 20), (b"c", 30), (b"d", 100)] {
            keyspace.put_expiring(key, b"v", Some(expires_at));
        }
        keyspace.put(b"stays", b"v");
        assert_eq!(average_expiry(&keyspace), Some(40));
        keyspace.advance_clock(50);
        keyspace.remove(b"a");
        keyspace.put(b"b", b"w");
        keyspace.remove_expired(REMOVED_MAX);
        keyspace.remove(b"d");
        assert_eq!(keyspace.take_statistics().expired, 3);
        assert_eq!((keyspace.take_statistics().expired, average_expiry(&keyspace)), (0, None));
        keyspace.put_expiring(b"a", b"v", Some(60));
        keyspace.put_expiring(b"b", b"v", Some(80));
        keyspace.set_back_clock(40);
        assert_eq!(average_expiry(&keyspace), Some(60), "both are ten earlier");
        keyspace.clear();
        assert_eq!(average_expiry(&keyspace), None);
    }

    #[test]
    fn keymiss_event_is_recorded_for_reads_but_not_for_writes() {
        let mut feeder = Feeder::new();
        let recorded = RecordedEvents { messages: false, keys: true, misses: true };
        feeder.store.listen(recorded);
        for (command, args) in [
            ("get", &["missing"][..]),
            ("append", &["new", "v"]),
            ("get", &["new"]),
            ("object|encoding", &["missing"]),
            ("getdel", &["absent"]),
            ("del", &["absent"]),
        ] {
            feeder.call(command, args);
        }
        let events = feeder.store.take_events().into_iter().map(|event| match event {
            Event::Key { name, key, .. } => format!("{name} {}", key.escape_ascii()),
            Event::Message { .. } => panic!("no message was published"),
        });
        let wanted = ["keymiss missing", "new new", "append new", "keymiss absent"];
        assert_eq!(events.collect::<Vec<_>>(), wanted);
    }
}
