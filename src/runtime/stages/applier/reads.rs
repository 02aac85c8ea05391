//! The reads of clients, which the applier answers from its state.

use crate::kv::{Batch, BatchError};
use crate::raft::ClientRequest;
use crate::runtime::channels::{Answer, ReadTimestamp, ReplyBatch};
use crate::runtime::pass::Pass;

use super::Applier;

/// Maximum number of batches of reads waiting for the replicated clock (which decides when keys
/// expire) to advance. Further batches are dropped.
const UNCLOCKED_READS_MAX: usize = 1 << 12;

impl Applier {
    /// Queues reads to be answered. A batch that contains a read that must not be answered before
    /// the replicated clock (which decides when keys expire) reaches `at` is kept until then.
    pub(super) fn queue_reads(&mut self, reads: Vec<ClientRequest>, at: ReadTimestamp) {
        // Seldom true; only then is each batch checked separately.
        if !self.store.is_behind(None, at.millis, at.resets) {
            self.ready_reads.extend(reads);
            return;
        }
        for read in reads {
            self.queue_read(read, at);
        }
    }

    fn queue_read(&mut self, read: ClientRequest, at: ReadTimestamp) {
        // A peer's request has no operations, and its client's read may be of any kind.
        let batch = self.is_own(read.key).then(|| Batch::decode(&read.payload));
        let batch = batch.map(|batch| batch.expect("the network encoded this batch"));
        if !self.store.is_behind(batch.as_ref(), at.millis, at.resets) {
            self.ready_reads.push_back(read);
        } else if self.unclocked_reads.len() < UNCLOCKED_READS_MAX {
            self.unclocked_checked_at = self.timestamp();
            self.unclocked_reads.push((at, read));
        }
    }

    /// If the clock in the state has advanced since the last check, queues the reads that were
    /// waiting for it and can be answered now.
    pub(super) fn release_unclocked_reads(&mut self) {
        let now = self.timestamp();
        if now == self.unclocked_checked_at || self.unclocked_reads.is_empty() {
            return;
        }
        for (at, read) in std::mem::take(&mut self.unclocked_reads) {
            self.queue_read(read, at);
        }
        self.unclocked_checked_at = now;
    }

    /// Returns the time of the replicated clock (which decides when keys expire) in the applied
    /// state, with the number of times that the clock has been set back.
    fn timestamp(&self) -> ReadTimestamp {
        ReadTimestamp { millis: self.store.clock(), resets: self.store.clock_resets() }
    }

    /// Answers as many queued reads as the budget of this pass (`groups`, in groups of operations)
    /// allows. Appends the answers to `replies`.
    pub(super) fn answer_ready_reads(&mut self, groups: &mut Pass, replies: &mut ReplyBatch) {
        // Cloned for its payload, which operations borrow; the bytes are shared.
        'reads: while let Some(read) = self.ready_reads.front().cloned() {
            // A peer's read is answered from the peer's own state; the peer requests only the read
            // index.
            if !self.is_own(read.key) {
                if groups.next(|| Some(())).is_none() {
                    return;
                }
                replies.read_indexes.push((read.key, self.last.index));
                self.ready_reads.pop_front();
                continue;
            }
            let batch = Batch::decode(&read.payload).expect("the network encoded this batch");
            let answered = self.read_outcomes.len();
            if answered == 0 {
                self.reads_revision = self.store.revision();
            }
            self.read_outcomes.reserve(batch.len() - answered);
            let mut rest = batch.groups_after(answered);
            while let Some(group) = groups.next(|| rest.next()) {
                if self.defers(&group) {
                    groups.end();
                    break;
                }
                match self.store.read_group(&batch, &group, &mut self.read_outcomes) {
                    Ok(()) => {}
                    Err(BatchError::NoKeyIndex) => {
                        self.postpone_for_key_index();
                        continue 'reads;
                    }
                    Err(error) => panic!("the network admits only reads as reads: {error}"),
                }
            }
            replies.statistics.add(self.store.take_statistics());
            if self.read_outcomes.len() < batch.len() {
                return;
            }
            let outcomes = std::mem::take(&mut self.read_outcomes);
            let revision = self.store.revision();
            let revision = (revision == self.reads_revision).then_some(revision);
            replies.answers.push(Answer { key: batch.key, outcomes, revision });
            self.ready_reads.pop_front();
        }
    }
}
