//! Work for the log writer: what the next job has to write, the messages that wait for it, and
//! which jobs are done.

use crate::record::Entry;
use crate::types::{EntryId, Index, JobSequence};

use super::effects::AppendJob;
use super::hard_state::TermAndVote;
use super::log::LogTail;
use super::message::{Envelope, PeerMsg};
use super::rejoin::Rejoining;

/// The log writer's jobs.
///
/// Invariant: `done <= last`; jobs are handed out and done in order, without gaps.
#[derive(Debug)]
pub(super) struct AppendJobs {
    /// The last job handed out; 0 before the first.
    last: JobSequence,
    /// The last job done; 0 before the first.
    done: JobSequence,
    /// Index of the first entry that no job has written; `None` if all are written.
    unwritten_from: Option<Index>,
    /// The log restarts behind this entry, which no job has told the log writer yet.
    restart_after: Option<EntryId>,
    /// The index up to which the log writer may remove entries, as the last job told it.
    compacted_to: Index,
    /// Messages that leave when the next job is done.
    release: Vec<Envelope>,
}

impl AppendJobs {
    /// Starts without jobs, for a log on disk that begins behind `base`.
    pub(super) fn new(base: Index) -> AppendJobs {
        AppendJobs {
            last: JobSequence(0),
            done: JobSequence(0),
            unwritten_from: None,
            restart_after: None,
            compacted_to: base,
            release: Vec::new(),
        }
    }

    /// Returns the last job done.
    pub(super) fn done(&self) -> JobSequence {
        self.done
    }

    /// Returns whether a job is not done yet.
    pub(super) fn is_busy(&self) -> bool {
        self.done < self.last
    }

    /// Records that entries from `from` on are new.
    pub(super) fn write_from(&mut self, from: Index) {
        self.unwritten_from = Some(self.unwritten_from.map_or(from, |before| before.min(from)));
    }

    /// Records that the log restarts behind `last`.
    pub(super) fn restart_log(&mut self, last: EntryId) {
        assert!(
            last.index > self.compacted_to,
            "the log restarts at {last}, but is compacted up to {}",
            self.compacted_to
        );
        self.restart_after = Some(last);
        self.compacted_to = last.index;
        self.unwritten_from = None;
        self.drop_append_replies();
    }

    /// Keeps a message until the next job is done.
    pub(super) fn release_when_done(&mut self, envelope: Envelope) {
        self.release.push(envelope);
    }

    /// Drops acknowledgements that wait for the next job: the entries that they are about may never
    /// be written. Losing an acknowledgement is always safe.
    pub(super) fn drop_append_replies(&mut self) {
        self.release.retain(|envelope| !matches!(envelope.message, PeerMsg::AppendReply(_)));
    }

    /// Records that `job` is done: the oldest one that was not.
    pub(super) fn complete(&mut self, job: JobSequence) {
        assert!(
            job == self.done.next() && job <= self.last,
            "job {job} is done after {} of {}",
            self.done,
            self.last
        );
        self.done = job;
    }

    /// Builds the next job, or `None` if nothing has to become durable. `compact_to` is the index
    /// up to which the log on disk is not needed; it makes no job of its own unless `space_is_low`.
    pub(super) fn next_job(
        &mut self,
        log: &LogTail,
        hard_state: &mut TermAndVote,
        rejoining: Option<&mut Rejoining>,
        compact_to: Index,
        space_is_low: bool,
    ) -> Option<AppendJob> {
        assert!(
            self.unwritten_from.is_none_or(|from| from > log.base().index),
            "{:?} is not written, but the log begins behind {}",
            self.unwritten_from,
            log.base()
        );
        let entries: Vec<Entry> =
            self.unwritten_from.take().map_or_else(Vec::new, |from| log.tail(from));
        let compact_to = (compact_to > self.compacted_to).then_some(compact_to);
        let rejoining = rejoining.filter(|rejoining| rejoining.has_caught_up());
        if entries.is_empty()
            && !hard_state.is_unwritten()
            && self.release.is_empty()
            && self.restart_after.is_none()
            && rejoining.is_none()
            && !(compact_to.is_some() && space_is_low)
        {
            return None;
        }
        self.last = self.last.next();
        self.compacted_to = compact_to.unwrap_or(self.compacted_to);
        let restart_after = self.restart_after.take();
        assert!(
            restart_after.is_none_or(|restart| restart.index <= self.compacted_to),
            "the log restarts at {restart_after:?}, but is compacted up to {}",
            self.compacted_to
        );
        debug_assert!(entries.iter().is_sorted_by_key(Entry::id), "{entries:?}");
        let rejoined = rejoining.is_some();
        if let Some(rejoining) = rejoining {
            rejoining.finish_with(self.last);
        }
        Some(AppendJob {
            sequence: self.last,
            hard_state: hard_state.take_unwritten(self.last),
            restart_after,
            compact_to,
            entries,
            rejoined,
            release: std::mem::take(&mut self.release),
        })
    }
}
