//! The log in memory: its entries, how far it is durable, and where it agrees with another log.
//!
//! Entries are contiguous from the base on and their terms never decrease; every change asserts
//! both. Only [`LogTail::splice`] truncates, only at a conflict, and never at or below the commit
//! index. Entries at or below the base are committed and in a snapshot.

use crate::config::Config;
use crate::record::{Entry, EntryKind, RecordBuffer};
use crate::types::{EntryId, Index, Term};

use super::entries::Entries;
use super::rules;

/// The part of a replica's log that is in memory: the entries after the base, which is the last
/// compacted entry.
///
/// Invariant: `entries[i]` has index `base.index + 1 + i`; terms never decrease from the base on;
/// `base.index <= durable_index <= last index`; `bytes` is the sum of the record lengths.
#[derive(Debug, Default)]
pub struct LogTail {
    base: EntryId,
    entries: Entries,
    bytes: usize,
    durable_index: Index,
    buffer: RecordBuffer,
}

/// The changes that [`LogTail::splice`] made to the log when it merged a leader's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spliced {
    /// Index of the first entry that was added to the log; `None` if the log has not changed.
    pub changed_from: Option<Index>,
    /// Whether conflicting entries were removed from the log.
    pub truncated: bool,
}

impl LogTail {
    /// Returns the log that a replica found on its disk: `entries`, which follow `base`, the last
    /// entry of the replica's snapshot. All entries are durable.
    pub fn recovered(base: EntryId, entries: Vec<Entry>) -> LogTail {
        let count = entries.len() as u64;
        let mut log = LogTail { base, durable_index: base.index, ..LogTail::default() };
        for entry in entries {
            log.push(entry);
        }
        log.durable_index = log.last().index;
        assert!(
            log.durable_index.0 == base.index.0 + count,
            "{count} entries behind {base} end at {}",
            log.durable_index
        );
        log
    }

    /// Returns the id of the last entry, or of the base if the log has no entries.
    pub fn last(&self) -> EntryId {
        self.entries.back().map_or(self.base, Entry::id)
    }

    /// Returns the id of the base: the last compacted entry, just before the first entry in memory;
    /// [`EntryId::ZERO`] if the log was never compacted. All entries up to the base are committed
    /// and in a snapshot.
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// Returns the total length in bytes of the encoded entries in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the index of the last entry known to be durable on this replica's disk.
    pub fn durable_index(&self) -> Index {
        self.durable_index
    }

    /// Returns the entry at `index`; `None` if the entry was compacted or `index` is past the end
    /// of the log.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.entries.get(self.position(index)?)
    }

    /// Returns the position in `entries` of the entry at `index`; past the end of the log, the
    /// position that the entry would have. `None` if the entry was compacted.
    fn position(&self, index: Index) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.base.index.0 + 1)?).ok()
    }

    /// Returns the term of the entry at `index`, which may be the last compacted one; `None` for
    /// earlier entries and past the end of the log.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            Some(self.base.term)
        } else {
            self.entry(index).map(Entry::term)
        }
    }

    /// Returns the id of the entry at `index`. Panics if `index` is before the last compacted entry
    /// or past the end of the log.
    pub fn id_at(&self, index: Index) -> EntryId {
        let Some(term) = self.term_at(index) else {
            panic!("index {index} is not in the log from {} to {}", self.base, self.last())
        };
        EntryId { term, index }
    }

    /// Returns whether the log contains the entry `id`, and therefore all entries before it (Raft
    /// paper, §5.3).
    pub fn holds(&self, id: EntryId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// Returns the id of the last entry that this log may share with another log that contains
    /// `hint`: the last entry whose index and term are at most those of `hint`. Returns
    /// [`EntryId::ZERO`] if that entry was compacted.
    pub fn last_agreement(&self, hint: EntryId) -> EntryId {
        let may_agree = |id: EntryId| id.index <= hint.index && id.term <= hint.term;
        // Terms never decrease, so a binary search finds it.
        let count = self.entries.partition_point(|entry| may_agree(entry.id()));
        let agreement = match count.checked_sub(1) {
            Some(position) => self.entries.get(position).expect("below the count").id(),
            None if may_agree(self.base) => self.base,
            None => EntryId::ZERO,
        };
        assert!(may_agree(agreement), "{agreement} cannot agree with {hint}");
        agreement
    }

    /// Returns up to `count_max` entries from index `from` on, with a total of at most `bytes_max`
    /// bytes. Returns at least one entry, if there is any, even if it is larger.
    pub fn slice(&self, from: Index, count_max: usize, bytes_max: usize) -> Vec<Entry> {
        assert!(count_max > 0, "a slice of no entries");
        let start = self.position(from).unwrap_or(0);
        let mut bytes = 0;
        self.entries
            .iter_from(start)
            .take(count_max)
            .take_while(|entry| {
                let is_first = bytes == 0;
                bytes += entry.record().len();
                is_first || bytes <= bytes_max
            })
            .cloned()
            .collect()
    }

    /// Returns whether the entries after index `after` are all in this part of the log, and have at
    /// most `bytes_max` bytes in total, or are a single one.
    pub(super) fn is_short_after(&self, after: Index, bytes_max: usize) -> bool {
        if after >= self.last().index {
            return true;
        }
        let missing = || self.slice(after.next(), usize::MAX, bytes_max);
        after >= self.base().index
            && missing().last().is_some_and(|entry| entry.id() == self.last())
    }

    /// Returns the highest index up to which the oldest entries have at most `bytes` bytes
    /// together; the index of the base if the first entry has more.
    pub(super) fn index_after_bytes(&self, bytes: usize) -> Index {
        let mut sum = 0;
        let fits = |entry: &&Entry| {
            sum += entry.record().len();
            sum <= bytes
        };
        let last = self.entries.iter_from(0).take_while(fits).last();
        last.map_or(self.base.index, Entry::index)
    }

    /// Returns all entries from index `from` on.
    pub fn tail(&self, from: Index) -> Vec<Entry> {
        self.slice(from, usize::MAX, usize::MAX)
    }

    /// Appends a new entry to the log as the leader of `term`, and returns it.
    pub fn append(&mut self, term: Term, kind: EntryKind, payload: &[u8]) -> &Entry {
        assert!(term > Term(0), "a leader of term 0");
        let id = EntryId { term, index: self.last().index.next() };
        let entry = self.buffer.encode(id, kind, payload);
        self.push(entry);
        self.entries.back().expect("just pushed")
    }

    /// Merges a leader's `entries` into the log (Raft paper, §5.3; receiver rules 3 and 4 in Figure
    /// 2). The first one must directly follow an entry of this log. Entries that the log already
    /// has are kept, and the log is truncated only at a conflicting entry, so a late or repeated
    /// message changes nothing.
    pub fn splice(&mut self, entries: &[Entry], commit_index: Index, config: &Config) -> Spliced {
        let Some(first) = entries.first() else { return Spliced::default() };
        assert!(
            self.base.index < first.index() && first.index() <= self.last().index.next(),
            "{} does not follow an entry of the log from {} to {}",
            first.id(),
            self.base,
            self.last()
        );
        let mut done = Spliced::default();
        if rules::truncates_unconditionally(config) {
            self.truncate_from(first.index());
        }
        for entry in entries {
            match self.term_at(entry.index()) {
                Some(term) if term == entry.term() => continue,
                Some(_) if !rules::replaces_conflicts(config) => continue,
                Some(term) => {
                    assert!(
                        entry.index() > commit_index,
                        "{} would replace the committed entry of term {term}",
                        entry.id()
                    );
                    self.truncate_from(entry.index());
                    done.truncated = true;
                }
                None => {}
            }
            done.changed_from.get_or_insert(entry.index());
            self.push(entry.clone());
        }
        done
    }

    /// Records that the log is on disk up to the entry `synced`, and returns whether the durable
    /// index has advanced. Changes nothing if `synced` has since been replaced by another entry.
    pub fn mark_durable(&mut self, synced: EntryId, config: &Config) -> bool {
        let counts = rules::sync_counts(self.holds(synced), synced, self.last(), config);
        if counts && synced.index > self.durable_index {
            self.durable_index = synced.index;
            self.check_durable();
            return true;
        }
        false
    }

    /// Removes the oldest entries from memory, up to `index` at most, until at most `bytes_kept`
    /// bytes remain. Removes at most `count_max` entries per call, because freeing memory takes
    /// time. Never removes an entry that is not durable. The entries up to `index` must be
    /// committed and in a snapshot.
    pub fn compact(&mut self, index: Index, bytes_kept: usize, count_max: usize) {
        let index = index.min(self.durable_index);
        for _ in 0..count_max {
            if self.base.index >= index || self.bytes <= bytes_kept {
                break;
            }
            let entry = self.entries.pop_front().expect("the log ends after its base");
            assert!(
                entry.index() == self.base.index.next(),
                "{} follows the base {}",
                entry.id(),
                self.base
            );
            self.base = entry.id();
            self.subtract_bytes(&entry);
        }
        self.check_durable();
    }

    /// Replaces the log with an empty one that starts after `last`, the last entry of an installed
    /// snapshot. Drops the old entries, because they may contradict the snapshot.
    pub fn restart(&mut self, last: EntryId) {
        assert!(
            last.index > self.base.index,
            "the log is reset to begin after {last}, but it already begins after {}",
            self.base
        );
        self.entries = Entries::default();
        self.bytes = 0;
        self.base = last;
        self.durable_index = last.index;
    }

    fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert!(
            entry.index() == last.index.next(),
            "entry {} does not follow {last}: a gap or a repetition",
            entry.id()
        );
        assert!(entry.term() >= last.term, "entry {} after {last}: the term fell", entry.id());
        self.bytes += entry.record().len();
        self.entries.push_back(entry);
    }

    fn truncate_from(&mut self, index: Index) {
        let count = self.position(index).expect("entries at or before the base are committed");
        while self.entries.len() > count {
            let entry = self.entries.pop_back().expect("the log is longer than that");
            self.subtract_bytes(&entry);
        }
        self.durable_index = self.durable_index.min(index.previous());
        self.check_durable();
    }

    fn subtract_bytes(&mut self, entry: &Entry) {
        let length = entry.record().len();
        assert!(length <= self.bytes, "{length} bytes removed from {}", self.bytes);
        self.bytes -= length;
        assert!(
            self.entries.len() > 0 || self.bytes == 0,
            "an empty log with {} bytes of entries",
            self.bytes
        );
    }

    /// Panics if the durable index is before the base or after the log's last entry.
    fn check_durable(&self) {
        let (base, last) = (self.base.index, self.last().index);
        assert!(
            base <= self.durable_index && self.durable_index <= last,
            "durable index {} of a log from {base} to {last}",
            self.durable_index
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(from: u64, terms: &[u64]) -> Vec<Entry> {
        let mut buffer = RecordBuffer::default();
        (from..)
            .zip(terms)
            .map(|(index, &term)| buffer.encode(EntryId::new(term, index), EntryKind::Command, b""))
            .collect()
    }

    fn terms(log: &LogTail) -> Vec<u64> {
        log.tail(Index(1)).iter().map(|entry| entry.term().0).collect()
    }

    #[test]
    fn stale_append_changes_nothing_and_conflict_truncates_the_log() {
        let config = Config::server();
        let mut log = LogTail::recovered(EntryId::ZERO, entries(1, &[1, 1, 2, 2]));
        assert_eq!(log.splice(&entries(2, &[1]), Index(1), &config), Spliced::default());
        assert_eq!(terms(&log), [1, 1, 2, 2]);
        let done = log.splice(&entries(3, &[3]), Index(2), &config);
        assert_eq!(done, Spliced { changed_from: Some(Index(3)), truncated: true });
        assert_eq!(terms(&log), [1, 1, 3]);
        assert_eq!(log.durable_index(), Index(2), "the new tail is not durable yet");
        assert!(
            !log.mark_durable(EntryId::new(2, 3), &Config::server()),
            "sync of a replaced entry"
        );
        assert!(log.mark_durable(EntryId::new(3, 3), &Config::server()));
    }

    #[test]
    #[should_panic(expected = "committed entry")]
    fn replacing_a_committed_entry_panics() {
        let mut log = LogTail::recovered(EntryId::ZERO, entries(1, &[1, 1]));
        log.splice(&entries(2, &[2]), Index(2), &Config::server());
    }

    #[test]
    fn log_slice_obeys_limits_but_returns_at_least_one_entry() {
        let log = LogTail::recovered(EntryId::ZERO, entries(1, &[1, 1, 1, 1]));
        assert_eq!(log.slice(Index(2), 2, usize::MAX).len(), 2);
        assert_eq!(log.slice(Index(1), 9, 1).len(), 1);
        assert_eq!(log.slice(Index(5), 9, 9).len(), 0);
    }

    #[test]
    fn oldest_entries_are_measured_without_the_last_that_does_not_fit() {
        let log = LogTail::recovered(EntryId::new(1, 2), entries(3, &[1, 1, 1, 1]));
        let one = log.bytes() / 4;
        for (bytes, index) in [(0, 2), (one - 1, 2), (one, 3), (3 * one - 1, 4), (9 * one, 6)] {
            assert_eq!(log.index_after_bytes(bytes), Index(index), "{bytes} bytes");
        }
    }

    #[test]
    fn compacted_log_keeps_its_base_entry_id_and_later_entries() {
        let mut log = LogTail::recovered(EntryId::ZERO, entries(1, &[1, 1, 2, 2, 3]));
        let bytes = log.bytes();
        log.compact(Index(3), 0, 2);
        assert_eq!(log.base(), EntryId::new(1, 2), "at most two at once");
        log.compact(Index(3), bytes, 2);
        assert_eq!(log.base(), EntryId::new(1, 2), "all of it may be kept");
        log.compact(Index(3), 0, 2);
        log.compact(Index(2), 0, 2);
        assert_eq!(log.base(), EntryId::new(2, 3));
        assert_eq!(log.bytes(), bytes / 5 * 2);
        assert_eq!((log.term_at(Index(2)), log.term_at(Index(3))), (None, Some(Term(2))));
        assert!(log.holds(EntryId::new(2, 3)) && log.holds(EntryId::new(3, 5)));
        assert!(!log.holds(EntryId::new(1, 2)) && log.entry(Index(3)).is_none());
        assert_eq!(log.slice(Index(1), 9, usize::MAX), log.tail(Index(4)));
        assert_eq!(log.last_agreement(EntryId::new(2, 9)), EntryId::new(2, 4));
        assert_eq!(log.last_agreement(EntryId::new(2, 3)), EntryId::new(2, 3));
        assert_eq!(log.last_agreement(EntryId::new(1, 9)), EntryId::ZERO);
        let done = log.splice(&entries(5, &[4]), Index(3), &Config::server());
        assert!(done.truncated);
        assert_eq!(log.last(), EntryId::new(4, 5));
        log.restart(EntryId::new(5, 9));
        assert_eq!((log.last(), log.durable_index()), (EntryId::new(5, 9), Index(9)));
        assert_eq!(log.append(Term(5), EntryKind::Command, b"").id(), EntryId::new(5, 10));
    }

    proptest! {
        /// Compares the log with a model that applies the rule of the Raft paper to plain vectors.
        #[test]
        fn log_append_matches_a_model_of_the_append_entries_rules(
            own in proptest::collection::vec(1_u64..4, 0..12),
            sent in proptest::collection::vec(1_u64..4, 0..12),
            prev in 0_usize..12,
        ) {
            let mut own = own;
            own.sort_unstable();
            let mut sent = sent;
            sent.sort_unstable();
            let prev = prev.min(own.len());
            // The sent entries follow `prev`, so their terms are not below its term.
            let floor = prev.checked_sub(1).map_or(0, |position| own[position]);
            for term in &mut sent {
                *term = (*term).max(floor);
            }
            let mut model = own.clone();
            for (offset, term) in sent.iter().enumerate() {
                match model.get(prev + offset) {
                    Some(held) if held == term => {}
                    Some(_) => {
                        model.truncate(prev + offset);
                        model.push(*term);
                    }
                    None => model.push(*term),
                }
            }
            let mut log = LogTail::recovered(EntryId::ZERO, entries(1, &own));
            log.splice(&entries(prev as u64 + 1, &sent), Index::ZERO, &Config::server());
            prop_assert_eq!(terms(&log), model);
        }

        /// Compares [`LogTail::last_agreement`] with a backward search through the log.
        #[test]
        fn search_for_last_possible_log_match_equals_linear_search(
            own in proptest::collection::vec(1_u64..6, 0..20),
            term in 0_u64..7,
            index in 0_u64..25,
        ) {
            let mut own = own;
            own.sort_unstable();
            let log = LogTail::recovered(EntryId::ZERO, entries(1, &own));
            let found = (0..=index.min(own.len() as u64))
                .rev()
                .map(|index| log.id_at(Index(index)))
                .find(|id| id.term.0 <= term)
                .unwrap_or(EntryId::ZERO);
            prop_assert_eq!(log.last_agreement(EntryId::new(term, index)), found);
        }
    }
}
