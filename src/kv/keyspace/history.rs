//! The history of changes: the latest events of keys with their revisions, in memory, for
//! `CHANGES`. It is not part of the replicated state: each replica records what it applies, so the
//! histories of two replicas may begin at different revisions.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::Keyspace;
use super::databases::DatabaseId;
use super::entry::KeyEntry;
use crate::kv::values::collection::{Collection, ValueType};

/// Number of events in a full block.
const BLOCK_EVENTS: usize = 1_024;
/// Total length in bytes of the keys in a block from which on it is full.
const BLOCK_KEY_BYTES: usize = 64 << 10;
/// Memory usage in bytes of a block with [`BLOCK_EVENTS`] events, without their keys.
const BLOCK_BYTES: usize = size_of::<Block>() + BLOCK_EVENTS * size_of::<Head>();
/// Maximum number of changed keys that are reported at a time. Beyond it, only the fact that keys
/// have changed is reported.
const REPORTED_MAX: usize = 16_384;

/// Names of the events of streams that are no news for the clients that wait for entries.
const NO_NEWS: &[&str] = &[
    "expire",
    "persist",
    "xack",
    "xautoclaim",
    "xclaim",
    "xdel",
    "xgroup-create",
    "xgroup-createconsumer",
    "xgroup-delconsumer",
    "xreadgroup",
    "xsetid",
    "xtrim",
];

/// Name of the event that all keys of a database were removed at once, which has no key.
pub(in crate::kv) const FLUSH: &str = "flushall";

/// A change of a key, or the removal of all keys of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kv) struct Change<'h> {
    /// Number of the operation that made the change. The changes of one operation have the same
    /// revision.
    pub(in crate::kv) revision: u64,
    /// Name of the event, as in Redis's keyspace notifications, such as `set`, or [`FLUSH`].
    pub(in crate::kv) name: &'static str,
    pub(in crate::kv) database: DatabaseId,
    /// The changed key; `None` if all keys of the database were removed.
    pub(in crate::kv) key: Option<&'h [u8]>,
}

/// A change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The database of the key.
    pub database: DatabaseId,
    /// The name of the key.
    pub key: Bytes,
    /// Number of the operation that changed it.
    pub revision: u64,
}

/// A key that was changed, and what it holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedKey {
    /// The database of the key.
    pub database: DatabaseId,
    /// The name of the key.
    pub key: Bytes,
    /// The type of its value; `None` if the key does not exist any more.
    pub kind: Option<ValueType>,
    /// Number of elements of a list or a sorted set; 0 for other types.
    pub elements: usize,
    /// Number of entries that were added to a stream; `usize::MAX` if it was changed in another way
    /// that may concern the clients that wait for its entries.
    pub news: usize,
}

/// The keys that were changed since the last report, for the clients that wait for changes or cache
/// values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangedKeys {
    /// The changes, in their order. A key may be contained several times.
    pub changes: Vec<KeyChange>,
    /// The changed keys, each once, in the order of their first changes.
    pub keys: Vec<ChangedKey>,
    /// Whether any other key may have changed as well.
    pub others: bool,
}

/// The extent of a replica's history of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistoryStatus {
    /// Number of events.
    pub events: usize,
    /// Memory usage in bytes.
    pub bytes: usize,
    /// The revision after which the history begins: it has all events with higher revisions.
    pub start: u64,
    /// The revision of the state: the number of operations applied so far.
    pub revision: u64,
}

/// An event of a block, whose key lies behind that of the event before it in the block's keys.
#[derive(Debug)]
struct Head {
    revision: u64,
    name: &'static str,
    database: DatabaseId,
    /// Offset of the end of the key in the keys of the block. The last key is far shorter than
    /// 4 GiB.
    key_end: u32,
}

/// Consecutive events.
///
/// Invariant: a block has at least one event. All blocks but the last are full, and their memory
/// does not change.
#[derive(Debug)]
struct Block {
    heads: Vec<Head>,
    /// The keys of the events, one behind the other.
    keys: Vec<u8>,
}

/// The history of changes.
///
/// Invariant: the revisions of the events never fall, and all are above `start`. `full_bytes` and
/// `full_events` are the sums over all blocks but the last.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Maximum memory usage in bytes; 0 if no events are recorded.
    bytes_max: usize,
    blocks: VecDeque<Block>,
    full_bytes: usize,
    full_events: usize,
    /// The history has all events with revisions above this one.
    start: u64,
    /// Whether the changed keys are collected for clients that wait for changes or cache values.
    reports: bool,
    /// The changed keys, in the order of the changes, each with the name of the event. A key may be
    /// contained several times.
    changed: Vec<(KeyChange, &'static str)>,
    /// Whether any key that is not in `changed` may have changed.
    others_changed: bool,
}

impl Block {
    fn new() -> Block {
        Block { heads: Vec::with_capacity(BLOCK_EVENTS), keys: Vec::new() }
    }

    /// Removes the events, and keeps the memory for the same number of events.
    fn cleared(mut self) -> Block {
        self.heads.clear();
        self.keys.clear();
        self.keys.shrink_to(BLOCK_KEY_BYTES);
        self
    }

    fn bytes(&self) -> usize {
        size_of::<Block>() + self.heads.capacity() * size_of::<Head>() + self.keys.capacity()
    }

    fn is_full(&self) -> bool {
        self.heads.len() >= BLOCK_EVENTS || self.keys.len() >= BLOCK_KEY_BYTES
    }

    fn last_revision(&self) -> u64 {
        self.heads.last().expect("a block has an event").revision
    }

    /// Iterates over the events with revisions above `revision`.
    fn after(&self, revision: u64) -> impl Iterator<Item = Change<'_>> {
        let from = self.heads.partition_point(|head| head.revision <= revision);
        let mut key_start = from.checked_sub(1).map_or(0, |before| self.heads[before].key_end);
        self.heads[from..].iter().map(move |&Head { revision, name, database, key_end }| {
            let key_start = std::mem::replace(&mut key_start, key_end);
            let key = &self.keys[key_start as usize..key_end as usize];
            let key = (name != FLUSH).then_some(key);
            Change { revision, name, database, key }
        })
    }
}

impl History {
    /// Returns whether events are recorded.
    pub(super) fn is_on(&self) -> bool {
        self.bytes_max > 0
    }

    /// Returns whether events are recorded or reported.
    pub(super) fn is_used(&self) -> bool {
        self.is_on() || self.reports
    }

    /// Records an event. The key of the event [`FLUSH`] is empty.
    #[inline]
    pub(super) fn add(&mut self, revision: u64, name: &'static str, key: (DatabaseId, &[u8])) {
        if self.bytes_max > 0 {
            self.record(revision, name, key);
        }
        if self.reports {
            self.report(revision, name, key);
        }
    }

    fn record(&mut self, revision: u64, name: &'static str, (database, key): (DatabaseId, &[u8])) {
        if self.blocks.back().is_none_or(Block::is_full) {
            self.begin_block();
        }
        let block = self.blocks.back_mut().expect("it was added");
        block.keys.extend_from_slice(key);
        let key_end = u32::try_from(block.keys.len()).expect("a key is far shorter than 4 GiB");
        block.heads.push(Head { revision, name, database, key_end });
        self.shorten();
    }

    /// Reports a change, which is not recorded.
    #[cold]
    pub(super) fn report(
        &mut self,
        revision: u64,
        name: &'static str,
        (database, key): (DatabaseId, &[u8]),
    ) {
        if name == FLUSH || self.changed.len() >= REPORTED_MAX {
            self.others_changed = true;
        } else {
            let key = Bytes::copy_from_slice(key);
            self.changed.push((KeyChange { database, key, revision }, name));
        }
    }

    /// Reports that any key may have changed, if changed keys are collected.
    pub(super) fn report_others(&mut self) {
        self.others_changed |= self.reports;
    }

    /// Completes the last block, and adds an empty one. Reuses the memory of the oldest block if
    /// that must be dropped for it.
    fn begin_block(&mut self) {
        if let Some(full) = self.blocks.back_mut() {
            full.keys.shrink_to_fit();
            self.full_bytes += full.bytes();
            self.full_events += full.heads.len();
        }
        let mut block = None;
        while self.full_bytes + BLOCK_BYTES > self.bytes_max
            && let Some(oldest) = self.blocks.pop_front()
        {
            self.start = oldest.last_revision();
            self.full_bytes -= oldest.bytes();
            self.full_events -= oldest.heads.len();
            block = Some(oldest);
        }
        self.blocks.push_back(block.map_or_else(Block::new, Block::cleared));
    }

    /// Drops the oldest events as long as the memory usage exceeds the maximum.
    fn shorten(&mut self) {
        while self.bytes() > self.bytes_max
            && let Some(block) = self.blocks.pop_front()
        {
            self.start = block.last_revision();
            if !self.blocks.is_empty() {
                self.full_bytes -= block.bytes();
                self.full_events -= block.heads.len();
            }
        }
    }

    /// Drops all events. From now on, the history has those with revisions above `start`, in at
    /// most `bytes_max` bytes; 0 to record none.
    fn restart(&mut self, bytes_max: usize, start: u64) {
        let (reports, changed) = (self.reports, std::mem::take(&mut self.changed));
        let others_changed = self.others_changed;
        *self =
            History { bytes_max, start, reports, changed, others_changed, ..History::default() };
    }

    /// Returns the memory usage in bytes.
    fn bytes(&self) -> usize {
        self.full_bytes + self.blocks.back().map_or(0, Block::bytes)
    }

    fn len(&self) -> usize {
        self.full_events + self.blocks.back().map_or(0, |block| block.heads.len())
    }
}

/// Returns what an event adds to [`ChangedKey::news`].
fn news_of(name: &str) -> usize {
    match name {
        "xadd" => 1,
        _ if NO_NEWS.contains(&name) => 0,
        _ => usize::MAX,
    }
}

/// Methods for the history of changes, which is not part of the state.
impl Keyspace {
    /// Begins a new history of changes, of at most `bytes_max` bytes; 0 to record no changes.
    pub(in crate::kv) fn keep_history(&mut self, bytes_max: usize) {
        let start = self.revision;
        self.events.history.restart(bytes_max, start);
    }

    /// Drops the history when the state is set to that of a snapshot, at `revision`.
    pub(super) fn restart_history(&mut self, revision: u64) {
        let bytes_max = self.events.history.bytes_max;
        self.events.history.restart(bytes_max, revision);
    }

    /// Sets whether changed keys are collected for [`Keyspace::take_changed`].
    pub(in crate::kv) fn report_changes(&mut self, reports: bool) {
        self.events.history.reports = reports;
    }

    /// Returns the keys that were changed since the last call, with what they hold now.
    pub(in crate::kv) fn take_changed(&mut self) -> ChangedKeys {
        let reported = std::mem::take(&mut self.events.history.changed);
        let others = std::mem::take(&mut self.events.history.others_changed);
        let mut changes = Vec::with_capacity(reported.len());
        let mut keys: Vec<ChangedKey> = Vec::new();
        let mut positions: BTreeMap<(DatabaseId, Bytes), usize> = BTreeMap::new();
        for (change, name) in reported {
            let position = match positions.entry((change.database, change.key.clone())) {
                Entry::Occupied(position) => *position.get(),
                Entry::Vacant(position) => {
                    let (database, key) = position.key().clone();
                    keys.push(self.within(database, |keyspace| keyspace.changed_key(key)));
                    *position.insert(keys.len() - 1)
                }
            };
            let news = &mut keys[position].news;
            *news = news.saturating_add(news_of(name));
            changes.push(change);
        }
        ChangedKeys { changes, keys, others }
    }

    fn changed_key(&self, key: Bytes) -> ChangedKey {
        let entry = self.uncounted_entry(&key);
        let elements = match entry.and_then(KeyEntry::collection) {
            Some(Collection::List(list)) => list.len(),
            Some(Collection::SortedSet(set)) => set.len(),
            Some(Collection::Hash(_) | Collection::Set(_) | Collection::Stream(_)) | None => 0,
        };
        let (database, kind) = (self.database(), entry.map(KeyEntry::value_type));
        ChangedKey { database, kind, elements, news: 0, key }
    }

    /// Returns whether changes are recorded.
    pub(in crate::kv) fn has_history(&self) -> bool {
        self.events.history.is_on()
    }

    /// Returns whether changed keys are collected for [`Keyspace::take_changed`].
    pub(in crate::kv) fn reports_changes(&self) -> bool {
        self.events.history.reports
    }

    /// Returns the extent of the history of changes.
    pub(in crate::kv) fn history(&self) -> HistoryStatus {
        let history = &self.events.history;
        HistoryStatus {
            events: history.len(),
            bytes: history.bytes(),
            start: history.start,
            revision: self.revision,
        }
    }

    /// Iterates over the recorded changes with revisions above `revision`, oldest first. They are
    /// all such changes if `revision` is not below [`HistoryStatus::start`].
    pub(in crate::kv) fn changes_after(&self, revision: u64) -> impl Iterator<Item = Change<'_>> {
        let blocks = &self.events.history.blocks;
        let from = blocks.partition_point(|block| block.last_revision() <= revision);
        blocks.range(from..).flat_map(move |block| block.after(revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::values::list::{End, List};

    /// Bytes of a full block of events with short keys.
    const FULL: usize = BLOCK_EVENTS * size_of::<Head>();

    fn keyspace(bytes_max: usize) -> Keyspace {
        let mut keyspace = Keyspace::default();
        keyspace.keep_history(bytes_max);
        keyspace
    }

    /// Makes `count` changes, each by an operation of its own.
    fn change(keyspace: &mut Keyspace, count: usize) {
        for _ in 0..count {
            keyspace.begin_command();
            let key = format!("k{:05}", keyspace.revision());
            keyspace.notify("set", key.as_bytes());
        }
    }

    fn revisions_after(keyspace: &Keyspace, revision: u64) -> Vec<u64> {
        let check = |change: Change<'_>| {
            let key = format!("k{:05}", change.revision);
            assert_eq!((change.name, change.key), ("set", Some(key.as_bytes())));
            change.revision
        };
        keyspace.changes_after(revision).map(check).collect()
    }

    #[test]
    fn changes_are_returned_in_order_from_any_revision() {
        let mut keyspace = keyspace(1 << 20);
        change(&mut keyspace, 3_000);
        for from in [0, 1, 1_023, 1_024, 1_025, 2_999, 3_000, 9_000] {
            assert!(revisions_after(&keyspace, from).into_iter().eq(from + 1..=3_000), "{from}");
        }
        assert_eq!((keyspace.history().start, keyspace.history().events), (0, 3_000));
    }

    #[test]
    fn oldest_changes_are_dropped_when_the_memory_limit_is_reached() {
        let mut keyspace = keyspace(4 * FULL);
        for _ in 0..200 {
            change(&mut keyspace, 100);
            let HistoryStatus { events, bytes, start, revision } = keyspace.history();
            assert!(bytes <= 4 * FULL, "{bytes} bytes");
            assert!(revisions_after(&keyspace, start).into_iter().eq(start + 1..=revision));
            assert_eq!(events as u64, revision - start);
            let recounted: usize = keyspace.events.history.blocks.iter().map(Block::bytes).sum();
            assert_eq!(bytes, recounted);
        }
        assert!(keyspace.history().events >= 2 * BLOCK_EVENTS, "it is not dropped too early");
    }

    #[test]
    fn changes_of_an_operation_are_dropped_in_whole() {
        let mut keyspace = keyspace(3 * FULL);
        keyspace.begin_command();
        for _ in 0..3 * BLOCK_EVENTS {
            keyspace.notify("set", b"k00001");
        }
        let HistoryStatus { events, start, .. } = keyspace.history();
        assert!(events > 0 && start == 1, "{events} events are left, none counts");
        assert!(revisions_after(&keyspace, start).is_empty());
    }

    #[test]
    fn key_longer_than_the_history_empties_it() {
        let mut keyspace = keyspace(2 * FULL);
        change(&mut keyspace, 5);
        keyspace.begin_command();
        keyspace.notify("set", &vec![b'x'; 3 * FULL]);
        let HistoryStatus { events, bytes, start, .. } = keyspace.history();
        assert_eq!((events, bytes, start), (0, 0, 6));
        change(&mut keyspace, 2);
        assert_eq!(revisions_after(&keyspace, 6), [7, 8]);
    }

    #[test]
    fn removal_of_all_keys_is_one_change_without_a_key() {
        let mut keyspace = keyspace(1 << 20);
        keyspace.report_changes(true);
        change(&mut keyspace, 1);
        keyspace.begin_command();
        keyspace.put(b"k", b"v");
        keyspace.clear();
        let last = keyspace.changes_after(1).last();
        let database = DatabaseId::FIRST;
        assert_eq!(last, Some(Change { revision: 2, name: FLUSH, database, key: None }));
        let changed = keyspace.take_changed();
        let keys: Vec<_> = changed.keys.iter().map(|changed| &changed.key[..]).collect();
        assert_eq!((keys, changed.others), (vec![&b"k00001"[..]], true));
        assert_eq!(keyspace.take_changed(), ChangedKeys::default());
    }

    #[test]
    fn number_of_reported_keys_is_bounded() {
        let mut keyspace = keyspace(1 << 20);
        change(&mut keyspace, 3);
        assert_eq!(keyspace.take_changed(), ChangedKeys::default(), "no client waits");
        keyspace.report_changes(true);
        change(&mut keyspace, REPORTED_MAX);
        assert!(!keyspace.take_changed().others);
        change(&mut keyspace, REPORTED_MAX + 1);
        let changed = keyspace.take_changed();
        assert_eq!((changed.keys.len(), changed.others), (REPORTED_MAX, true));
    }

    #[test]
    fn changed_keys_are_reported_once_with_type_and_length() {
        let mut keyspace = keyspace(0);
        keyspace.report_changes(true);
        let push = |list: &mut List| (list.push(End::Left, (&b"v"[..]).into()), true);
        for key in [b"l", b"m", b"l"] {
            keyspace.update(key, push).unwrap();
            keyspace.notify("lpush", key);
        }
        keyspace.put(b"s", b"v");
        keyspace.notify("set", b"s");
        keyspace.notify("del", b"gone");
        for event in ["xadd", "xtrim", "xreadgroup", "xadd"] {
            keyspace.notify(event, b"x");
        }
        keyspace.notify("xdel", b"y");
        let changed = |key: &'static [u8], kind, elements, news| ChangedKey {
            database: DatabaseId::FIRST,
            key: Bytes::from_static(key),
            kind,
            elements,
            news,
        };
        let wanted = vec![
            changed(b"l", Some(ValueType::List), 2, usize::MAX),
            changed(b"m", Some(ValueType::List), 1, usize::MAX),
            changed(b"s", Some(ValueType::String), 0, usize::MAX),
            changed(b"gone", None, 0, usize::MAX),
            changed(b"x", None, 0, 2),
            changed(b"y", None, 0, 0),
        ];
        let changed = keyspace.take_changed();
        assert_eq!((changed.keys, changed.changes.len()), (wanted, 10));
    }

    #[test]
    fn keys_that_expire_are_reported_before_they_are_removed() {
        let mut keyspace = keyspace(0);
        for (key, expires_at) in [(b"a", 5), (b"b", 6), (b"c", 7), (b"d", 8)] {
            keyspace.put_expiring(key, b"v", Some(expires_at));
        }
        let mut expire = |millis, removed_max, reports| {
            keyspace.report_changes(reports);
            let before = keyspace.clock();
            keyspace.advance_clock(millis);
            keyspace.remove_expired(removed_max);
            keyspace.report_expired(before);
            let changed = keyspace.take_changed().changes.into_iter();
            changed.map(|change| change.key).collect::<Vec<_>>().concat()
        };
        assert_eq!(expire(5, 0, false), b"");
        assert_eq!(expire(7, 1, true), b"abc", "the first one is removed now");
        assert_eq!(expire(7, 0, true), b"", "they have been reported");
        assert_eq!(expire(8, 3, true), b"bcd");
    }

    #[test]
    fn history_without_memory_records_nothing() {
        let mut keyspace = keyspace(0);
        change(&mut keyspace, 5);
        assert!(!keyspace.has_history() && keyspace.changes_after(0).next().is_none());
        keyspace.report_changes(true);
        change(&mut keyspace, 1);
        assert_eq!(keyspace.take_changed().keys.len(), 1, "it is reported nevertheless");
        keyspace.report_changes(false);
        keyspace.keep_history(1 << 20);
        change(&mut keyspace, 1);
        assert_eq!((keyspace.history().start, revisions_after(&keyspace, 6)), (6, vec![7]));
        keyspace.restore_revision(50);
        assert_eq!((keyspace.history().start, keyspace.history().events), (50, 0));
    }
}
