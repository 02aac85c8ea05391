//! The log in memory: what it holds, where it agrees with another, and how far it is on disk.
//!
//! Entries are at indexes from the base on without gaps and their terms never fall; both are
//! asserted at every change. Truncation happens in [`LogTail::splice`] alone, at a real conflict
//! only, and never at or below the commit index. What lies at or below the base is committed and
//! in a snapshot.

use crate::config::{Config, Mutant};
use crate::record::{Entry, EntryKind, RecordBuffer};
use crate::types::{EntryId, Index, Term};

use super::entries::Entries;

/// A replica's log, as far as it is kept.
///
/// Invariant: `entries[i]` has index `base.index + 1 + i`; terms never fall, from the base's on;
/// `durable_index` is at least the base's index and at most the last; `bytes` is the sum of the
/// entries' records.
#[derive(Debug, Default)]
pub struct LogTail {
    /// The entry right before the first one kept.
    base: EntryId,
    entries: Entries,
    bytes: usize,
    durable_index: Index,
    buffer: RecordBuffer,
}

/// What [`LogTail::splice`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spliced {
    /// The first index whose entry is new, if any is.
    pub changed_from: Option<Index>,
    /// Whether entries were thrown away for it.
    pub truncated: bool,
}

impl LogTail {
    /// A log as its disk held it behind `base`, all of it durable.
    pub fn recovered(base: EntryId, entries: Vec<Entry>) -> LogTail {
        let mut log = LogTail { base, durable_index: base.index, ..LogTail::default() };
        for entry in entries {
            log.push(entry);
        }
        log.durable_index = log.last().index;
        log
    }

    /// The last entry's id, or the base; [`EntryId::ZERO`] if there never was an entry.
    pub fn last(&self) -> EntryId {
        self.entries.back().map_or(self.base, Entry::id)
    }

    /// The entry right before the first one kept: all up to it is committed, and in a snapshot.
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// Bytes of the records kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Up to here the log is known to be on this replica's disk.
    pub fn durable_index(&self) -> Index {
        self.durable_index
    }

    /// The entry at `index`.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.entries.get(self.position(index)?)
    }

    /// Where in `entries` an index is or would be; `None` at the base or before it.
    fn position(&self, index: Index) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.base.index.0 + 1)?).ok()
    }

    /// The term at `index`, which is known from the base on; `None` before it and past the last.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            Some(self.base.term)
        } else {
            self.entry(index).map(Entry::term)
        }
    }

    /// The id at `index`, which must be in the log or its base.
    pub fn id_at(&self, index: Index) -> EntryId {
        let term = self.term_at(index).expect("callers ask within the log");
        EntryId { term, index }
    }

    /// Whether the log holds that entry, and so all before it (§5.3).
    pub fn holds(&self, id: EntryId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The last entry, not past `hint.index`, whose term is at most `hint.term`: beyond it a log
    /// with `hint` in it cannot agree with this one. Terms never fall, so it is found by halving.
    /// [`EntryId::ZERO`] if it lies before the base, where nothing is known any more.
    pub fn last_agreement(&self, hint: EntryId) -> EntryId {
        let agrees = |there: EntryId| there.index <= hint.index && there.term <= hint.term;
        let count = self.entries.partition_point(|entry| agrees(entry.id()));
        match count.checked_sub(1) {
            Some(position) => self.entries.get(position).expect("it was counted").id(),
            None if agrees(self.base) => self.base,
            None => EntryId::ZERO,
        }
    }

    /// Entries from `from` on, as many as fit both limits, but one at least where there is one.
    pub fn slice(&self, from: Index, count_max: usize, bytes_max: usize) -> Vec<Entry> {
        let start = self.position(from).unwrap_or(0);
        let mut bytes = 0;
        self.entries
            .iter_from(start)
            .take(count_max)
            .take_while(|entry| {
                let first = bytes == 0;
                bytes += entry.record().len();
                first || bytes <= bytes_max
            })
            .cloned()
            .collect()
    }

    /// All entries from `from` on.
    pub fn tail(&self, from: Index) -> Vec<Entry> {
        self.slice(from, usize::MAX, usize::MAX)
    }

    /// Encodes and adds a leader's own entry.
    pub fn append(&mut self, term: Term, kind: EntryKind, payload: &[u8]) -> &Entry {
        let id = EntryId { term, index: self.last().index.next() };
        let entry = self.buffer.encode(id, kind, payload);
        self.push(entry);
        self.entries.back().expect("just pushed")
    }

    /// Takes in a leader's `entries`, which follow an entry that this log holds (§5.3, receiver
    /// rules 3 and 4). What is here already stays, even if `entries` ends before it: a late or
    /// repeated append changes nothing.
    pub fn splice(&mut self, entries: &[Entry], commit_index: Index, config: &Config) -> Spliced {
        let mut done = Spliced::default();
        if let Some(first) = entries.first()
            && config.breaks(Mutant::TruncateAlways)
        {
            self.truncate_from(first.index());
        }
        for entry in entries {
            match self.term_at(entry.index()) {
                Some(term) if term == entry.term() => continue,
                Some(_) if config.breaks(Mutant::KeepConflicts) => continue,
                Some(term) => {
                    assert!(
                        entry.index() > commit_index,
                        "{:?} would replace the committed entry of term {term}",
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

    /// Notes that the disk holds `last` and all before it. An entry replaced meanwhile is not
    /// taken for the one synced. True if that is news.
    pub fn mark_durable(&mut self, last: EntryId, config: &Config) -> bool {
        let is_it = self.holds(last)
            || config.breaks(Mutant::SyncOfReplacedEntry) && last.index <= self.last().index;
        if is_it && last.index > self.durable_index {
            self.durable_index = last.index;
            return true;
        }
        false
    }

    /// Lets go of entries up to `index`, the oldest first, while there are more than `bytes_kept`
    /// bytes of them; at most `count_max` at once, for to free a great many takes time. The caller
    /// has them in a snapshot, and they are committed. What is not yet on disk stays.
    pub fn compact(&mut self, index: Index, bytes_kept: usize, count_max: usize) {
        let index = index.min(self.durable_index);
        for _ in 0..count_max {
            if self.base.index >= index || self.bytes <= bytes_kept {
                break;
            }
            let entry = self.entries.pop_front().expect("there are bytes of entries");
            self.base = entry.id();
            self.bytes -= entry.record().len();
        }
    }

    /// The log begins anew behind `last`, the end of a snapshot: what it held can't be told from
    /// what would contradict it.
    pub fn restart(&mut self, last: EntryId) {
        self.entries = Entries::default();
        self.bytes = 0;
        self.base = last;
        self.durable_index = last.index;
    }

    fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert!(
            entry.index() == last.index.next(),
            "entry {:?} does not follow {last:?}: a gap or a repeat",
            entry.id()
        );
        assert!(entry.term() >= last.term, "entry {:?} after {last:?}: a term fell", entry.id());
        self.bytes += entry.record().len();
        self.entries.push_back(entry);
    }

    fn truncate_from(&mut self, index: Index) {
        let count = self.position(index).expect("what lies at the base or before it is committed");
        while self.entries.len() > count {
            let entry = self.entries.pop_back().expect("its length says so");
            self.bytes -= entry.record().len();
        }
        self.durable_index = self.durable_index.min(index.previous());
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
    fn a_late_append_changes_nothing_and_a_conflict_replaces_the_tail() {
        let config = Config::server();
        let mut log = LogTail::recovered(EntryId::ZERO, entries(1, &[1, 1, 2, 2]));
        assert_eq!(log.splice(&entries(2, &[1]), Index(1), &config), Spliced::default());
        assert_eq!(terms(&log), [1, 1, 2, 2]);
        let done = log.splice(&entries(3, &[3]), Index(2), &config);
        assert_eq!(done, Spliced { changed_from: Some(Index(3)), truncated: true });
        assert_eq!(terms(&log), [1, 1, 3]);
        assert_eq!(log.durable_index(), Index(2), "what replaced the tail is not on disk yet");
        assert!(
            !log.mark_durable(EntryId::new(2, 3), &Config::server()),
            "a replaced entry's sync"
        );
        assert!(log.mark_durable(EntryId::new(3, 3), &Config::server()));
    }

    #[test]
    #[should_panic(expected = "committed entry")]
    fn a_committed_entry_is_never_replaced() {
        let mut log = LogTail::recovered(EntryId::ZERO, entries(1, &[1, 1]));
        log.splice(&entries(2, &[2]), Index(2), &Config::server());
    }

    #[test]
    fn slices_obey_both_limits_but_carry_one_entry_at_least() {
        let log = LogTail::recovered(EntryId::ZERO, entries(1, &[1, 1, 1, 1]));
        assert_eq!(log.slice(Index(2), 2, usize::MAX).len(), 2);
        assert_eq!(log.slice(Index(1), 9, 1).len(), 1);
        assert_eq!(log.slice(Index(5), 9, 9).len(), 0);
    }

    #[test]
    fn a_compacted_log_knows_its_base_and_what_follows() {
        let mut log = LogTail::recovered(EntryId::ZERO, entries(1, &[1, 1, 2, 2, 3]));
        let whole = log.bytes();
        log.compact(Index(3), 0, 2);
        assert_eq!(log.base(), EntryId::new(1, 2), "two at a time");
        log.compact(Index(3), whole, 2);
        assert_eq!(log.base(), EntryId::new(1, 2), "there is room for all");
        log.compact(Index(3), 0, 2);
        log.compact(Index(2), 0, 2);
        assert_eq!(log.base(), EntryId::new(2, 3));
        assert_eq!(log.bytes(), whole / 5 * 2);
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
        /// Splice against the rule of the paper, spelled out on plain vectors.
        #[test]
        fn splice_does_what_the_paper_says(
            own in proptest::collection::vec(1_u64..4, 0..12),
            sent in proptest::collection::vec(1_u64..4, 0..12),
            prev in 0_usize..12,
        ) {
            let mut own = own;
            own.sort_unstable();
            let mut sent = sent;
            sent.sort_unstable();
            let prev = prev.min(own.len());
            // The entries sent follow `prev`, whose term bounds theirs from below.
            let floor = prev.checked_sub(1).map_or(0, |position| own[position]);
            for term in &mut sent {
                *term = (*term).max(floor);
            }
            let mut model = own.clone();
            for (offset, term) in sent.iter().enumerate() {
                match model.get(prev + offset) {
                    Some(there) if there == term => {}
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

        /// The agreement is the last place that a log with `hint` in it could share.
        #[test]
        fn agreement_is_found_as_by_walking(
            own in proptest::collection::vec(1_u64..6, 0..20),
            term in 0_u64..7,
            index in 0_u64..25,
        ) {
            let mut own = own;
            own.sort_unstable();
            let log = LogTail::recovered(EntryId::ZERO, entries(1, &own));
            let walked = (0..=index.min(own.len() as u64))
                .rev()
                .map(|index| log.id_at(Index(index)))
                .find(|id| id.term.0 <= term)
                .unwrap_or(EntryId::ZERO);
            prop_assert_eq!(log.last_agreement(EntryId::new(term, index)), walked);
        }
    }
}
