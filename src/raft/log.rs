//! The log in memory: what it holds, where it agrees with another, and how far it is on disk.
//!
//! Entries are at indexes from 1 without gaps and their terms never fall; both are asserted at
//! every change. Truncation happens in [`LogTail::splice`] alone, at a real conflict only, and
//! never at or below the commit index.

use crate::config::{Config, Mutant};
use crate::record::{Entry, EntryKind, RecordBuffer};
use crate::types::{EntryId, Index, Term};

/// A replica's log.
///
/// Invariant: `entries[i]` has index `i + 1`; terms never fall; `durable_index` is at most the
/// last index.
#[derive(Debug, Default)]
pub struct LogTail {
    entries: Vec<Entry>,
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
    /// A log as its disk held it, all of it durable.
    pub fn recovered(entries: Vec<Entry>) -> LogTail {
        let mut log = LogTail::default();
        for entry in entries {
            log.push(entry);
        }
        log.durable_index = log.last().index;
        log
    }

    /// The last entry's id; [`EntryId::ZERO`] if there is none.
    pub fn last(&self) -> EntryId {
        self.entries.last().map_or(EntryId::ZERO, Entry::id)
    }

    /// Up to here the log is known to be on this replica's disk.
    pub fn durable_index(&self) -> Index {
        self.durable_index
    }

    /// The entry at `index`.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        let position = usize::try_from(index.0.checked_sub(1)?).ok()?;
        self.entries.get(position)
    }

    /// The term at `index`: zero before the first entry, `None` past the last.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == Index::ZERO { Some(Term(0)) } else { self.entry(index).map(Entry::term) }
    }

    /// The id at `index`, which must be in the log or right before it.
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
    pub fn last_agreement(&self, hint: EntryId) -> EntryId {
        let within = self.entries.len().min(usize::try_from(hint.index.0).unwrap_or(usize::MAX));
        let count = self.entries[..within].partition_point(|entry| entry.term() <= hint.term);
        count.checked_sub(1).map_or(EntryId::ZERO, |position| self.entries[position].id())
    }

    /// Entries from `from` on, as many as fit both limits, but one at least where there is one.
    pub fn slice(&self, from: Index, count_max: usize, bytes_max: usize) -> Vec<Entry> {
        let start = usize::try_from(from.0.saturating_sub(1)).unwrap_or(usize::MAX);
        let rest = self.entries.get(start..).unwrap_or_default();
        let mut bytes = 0;
        let count = rest
            .iter()
            .take(count_max)
            .take_while(|entry| {
                let first = bytes == 0;
                bytes += entry.record().len();
                first || bytes <= bytes_max
            })
            .count();
        rest[..count].to_vec()
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
        self.entries.last().expect("just pushed")
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
    pub fn mark_durable(&mut self, last: EntryId) -> bool {
        if self.holds(last) && last.index > self.durable_index {
            self.durable_index = last.index;
            return true;
        }
        false
    }

    fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert!(
            entry.index() == last.index.next(),
            "entry {:?} does not follow {last:?}: a gap or a repeat",
            entry.id()
        );
        assert!(entry.term() >= last.term, "entry {:?} after {last:?}: a term fell", entry.id());
        self.entries.push(entry);
    }

    fn truncate_from(&mut self, index: Index) {
        self.entries.truncate(usize::try_from(index.previous().0).unwrap_or(usize::MAX));
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
        let mut log = LogTail::recovered(entries(1, &[1, 1, 2, 2]));
        assert_eq!(log.splice(&entries(2, &[1]), Index(1), &config), Spliced::default());
        assert_eq!(terms(&log), [1, 1, 2, 2]);
        let done = log.splice(&entries(3, &[3]), Index(2), &config);
        assert_eq!(done, Spliced { changed_from: Some(Index(3)), truncated: true });
        assert_eq!(terms(&log), [1, 1, 3]);
        assert_eq!(log.durable_index(), Index(2), "what replaced the tail is not on disk yet");
        assert!(!log.mark_durable(EntryId::new(2, 3)), "a replaced entry's sync");
        assert!(log.mark_durable(EntryId::new(3, 3)));
    }

    #[test]
    #[should_panic(expected = "committed entry")]
    fn a_committed_entry_is_never_replaced() {
        let mut log = LogTail::recovered(entries(1, &[1, 1]));
        log.splice(&entries(2, &[2]), Index(2), &Config::server());
    }

    #[test]
    fn slices_obey_both_limits_but_carry_one_entry_at_least() {
        let log = LogTail::recovered(entries(1, &[1, 1, 1, 1]));
        assert_eq!(log.slice(Index(2), 2, usize::MAX).len(), 2);
        assert_eq!(log.slice(Index(1), 9, 1).len(), 1);
        assert_eq!(log.slice(Index(5), 9, 9).len(), 0);
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
            let mut log = LogTail::recovered(entries(1, &own));
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
            let log = LogTail::recovered(entries(1, &own));
            let walked = (0..=index.min(own.len() as u64))
                .rev()
                .map(|index| log.id_at(Index(index)))
                .find(|id| id.term.0 <= term)
                .unwrap_or(EntryId::ZERO);
            prop_assert_eq!(log.last_agreement(EntryId::new(term, index)), walked);
        }
    }
}
