//! Jobs for the log writer: what the next job must write, which messages are waiting for it, and
//! which jobs are done.

use crate::feature_level::FeatureLevel;
use crate::record::Entry;
use crate::types::{EntryId, Index, JobSequence};

use super::effects::AppendJob;
use super::hard_state::TermAndVote;
use super::log::LogTail;
use super::message::{Envelope, PeerMsg};
use super::rejoin::Rejoining;

/// Tracks the log writer's jobs: which jobs are done, and what the next job must contain. A job
/// makes log entries, the term or the vote durable.
///
/// Invariant: `done <= last`; jobs are handed out and done in order, without gaps.
#[derive(Debug)]
pub(super) struct AppendJobs {
    /// Sequence number of the last job handed to the log writer since the replica started; 0 before
    /// the first.
    last: JobSequence,
    /// Sequence number of the last job that the log writer has finished; 0 before the first.
    done: JobSequence,
    /// Index of the first log entry that must be written by the next job; `None` if earlier jobs
    /// contain all entries.
    unwritten_from: Option<Index>,
    /// If set, the next job must first replace the log on disk with an empty log that starts after
    /// this entry, which is the last one covered by an installed snapshot. `None` if the log on
    /// disk is kept.
    restart_after: Option<EntryId>,
    /// Index up to which the jobs handed out so far allow the log writer to compact the log on
    /// disk.
    compacted_to: Index,
    /// Messages to peers that may be sent only after the next job is durable, because they reveal
    /// to the peers what the job writes.
    release: Vec<Envelope>,
}

impl AppendJobs {
    /// Creates the job tracker of a replica that is starting, with no job handed out. `base` is the
    /// index of the last entry compacted from the log on disk; 0 if there is none.
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

    /// Returns the sequence number of the last job that the log writer has finished; 0 before the
    /// first.
    pub(super) fn done(&self) -> JobSequence {
        self.done
    }

    /// Returns whether the log writer still has an unfinished job.
    pub(super) fn is_busy(&self) -> bool {
        self.done < self.last
    }

    /// Records that the next job must write the log entries from index `from` on.
    pub(super) fn write_from(&mut self, from: Index) {
        self.unwritten_from = Some(self.unwritten_from.map_or(from, |before| before.min(from)));
    }

    /// Records that the next job must replace the log on disk with an empty log that starts after
    /// `last`, the last entry covered by an installed snapshot.
    pub(super) fn restart_log(&mut self, last: EntryId) {
        assert!(
            last.index > self.compacted_to,
            "the log is reset to begin after {last}, but is compacted up to {}",
            self.compacted_to
        );
        self.restart_after = Some(last);
        self.compacted_to = last.index;
        self.unwritten_from = None;
        self.drop_append_replies();
    }

    /// Holds back a message to a peer until the next job is durable.
    pub(super) fn release_when_done(&mut self, envelope: Envelope) {
        self.release.push(envelope);
    }

    /// Drops the replies to `AppendEntries` that are waiting for the next job, because the entries
    /// that they acknowledge may never be written. Losing a reply is always safe.
    pub(super) fn drop_append_replies(&mut self) {
        self.release.retain(|envelope| !matches!(envelope.message, PeerMsg::AppendReply(_)));
    }

    /// Records that the log writer has finished `job`. Panics if `job` is not the oldest unfinished
    /// job.
    pub(super) fn complete(&mut self, job: JobSequence) {
        assert!(
            job == self.done.next() && job <= self.last,
            "job {job} is done after {} of {}",
            self.done,
            self.last
        );
        self.done = job;
    }

    /// Returns the next job for the log writer; `None` if nothing has to become durable.
    /// `compact_to` is the index up to which the log on disk is no longer needed. Compaction is
    /// added to a job that has other work; only if free disk space is low (`space_is_low`) is a job
    /// created for compaction alone. `cluster_level` is the cluster's feature level.
    pub(super) fn next_job(
        &mut self,
        log: &LogTail,
        hard_state: &mut TermAndVote,
        rejoining: Option<&mut Rejoining>,
        compact_to: Index,
        space_is_low: bool,
        cluster_level: FeatureLevel,
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
            "the log is reset to begin after {restart_after:?}, but is compacted up to {}",
            self.compacted_to
        );
        debug_assert!(entries.iter().is_sorted_by_key(Entry::id), "{entries:?}");
        let rejoined = rejoining.is_some();
        let levels = entries.iter().filter_map(Entry::feature_level);
        let feature_level = levels.fold(cluster_level, FeatureLevel::max);
        if let Some(rejoining) = rejoining {
            rejoining.finish_with(self.last);
        }
        Some(AppendJob {
            sequence: self.last,
            hard_state: hard_state.take_unwritten(self.last),
            restart_after,
            compact_to,
            entries,
            feature_level,
            rejoined,
            release: std::mem::take(&mut self.release),
        })
    }
}
