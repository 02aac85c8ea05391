//! The applier stage: owns the store. Applies committed entries in order, answers those that this
//! replica committed as the leader, then answers the reads, and hands the answers to the network
//! in one batch, with the note that the core gets once they are with the socket.

use bytes::Bytes;
use crossbeam::channel::Receiver;

use crate::kv::{Outcome, Store};
use crate::record::EntryKind;

use super::channels::{Answer, Applied, ApplierEnds, ApplyBatch, ReplyBatch};

/// The stage.
pub(super) struct Applier {
    store: Store,
    ends: ApplierEnds,
    /// A pass on a shared thread was put off.
    put_off: bool,
}

impl Applier {
    /// With an empty store.
    pub(super) fn new(ends: ApplierEnds) -> Applier {
        Applier { store: Store::default(), ends, put_off: false }
    }

    /// Where it waits for work on a thread of its own.
    pub(super) fn jobs(&self) -> &Receiver<ApplyBatch> {
        &self.ends.jobs
    }

    /// A pass for whom must not be blocked: puts off what was handed on while the network's queue
    /// is full.
    pub(super) fn run_ready(&mut self, handed_on: bool) {
        if !handed_on && !self.put_off {
            return;
        }
        self.put_off = self.ends.to_network.is_full();
        if !self.put_off
            && let Ok(batch) = self.ends.jobs.try_recv()
        {
            self.run_once(batch);
        }
    }

    /// One pass: `first` and all that waits behind it.
    pub(super) fn run_once(&mut self, first: ApplyBatch) {
        let mut replies = ReplyBatch::default();
        self.apply(first, &mut replies);
        for _ in 0..self.ends.jobs.len() {
            let Ok(batch) = self.ends.jobs.try_recv() else { break };
            self.apply(batch, &mut replies);
        }
        // An error means that the network has ended, and then so do we.
        let _ = self.ends.to_network.send(replies);
    }

    fn apply(&mut self, batch: ApplyBatch, replies: &mut ReplyBatch) {
        replies.leader = batch.leader;
        let index = batch.job.entries.last().map(|committed| committed.entry.index());
        replies.applied.merge(Applied { index, bytes: batch.bytes });
        for committed in batch.job.entries {
            let entry = committed.entry;
            if entry.kind() == EntryKind::NoOperation {
                self.store.skip(entry.index());
                continue;
            }
            let applied = self.store.apply(entry.index(), &entry.payload());
            // Malformed: nobody's request, so nobody waits. A follower leaves the answer to the
            // leader; two answers would be one too many.
            if committed.as_leader && applied.outcome != Outcome::Malformed {
                replies.answers.push(Answer { key: applied.key, value: value_of(applied.outcome) });
            }
        }
        for read in batch.job.reads {
            let (key, outcome) =
                self.store.read(&read.payload).expect("the door made this payload, of a read");
            replies.answers.push(Answer { key, value: value_of(outcome) });
        }
    }
}

/// What an answer carries: a key without a value reads as empty, which is how the course's
/// protocol says it.
fn value_of(outcome: Outcome) -> Option<Bytes> {
    match outcome {
        Outcome::Value(value) => Some(value.unwrap_or_default()),
        Outcome::Done | Outcome::Deleted(_) | Outcome::Transferred(_) | Outcome::Malformed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Command, Operation};
    use crate::raft::{ApplyJob, ClientRequest, Committed, RequestKind};
    use crate::record::RecordBuffer;
    use crate::runtime::channels::{QUEUE_LEN, channels};
    use crate::runtime::wake::tests::unused_wake;
    use crate::types::{ClientId, EntryId, Index, NodeId, RequestId, RequestKey};

    fn key(number: u8) -> RequestKey {
        RequestKey { client: ClientId(0x15), request: RequestId([number; 16]) }
    }

    fn put(index: u64, value: &[u8], as_leader: bool) -> Committed {
        let operation = Operation::Put { key: b"k", value };
        let payload = Command { key: key(u8::try_from(index).unwrap()), operation }.encode();
        let entry =
            RecordBuffer::default().encode(EntryId::new(1, index), EntryKind::Command, &payload);
        Committed { entry, as_leader }
    }

    fn get(number: u8, pair: &[u8]) -> ClientRequest {
        let payload =
            Command { key: key(number), operation: Operation::Get { key: pair } }.encode();
        ClientRequest { key: key(number), kind: RequestKind::Read, payload }
    }

    fn batch(entries: Vec<Committed>, reads: Vec<ClientRequest>, bytes: usize) -> ApplyBatch {
        ApplyBatch { job: ApplyJob { entries, reads }, leader: Some(NodeId(3)), bytes }
    }

    #[test]
    fn leaders_answer_and_reads_see_what_was_applied_before_them() {
        let (network, core, _log_writer, ends) = channels(&unused_wake());
        let mut applier = Applier::new(ends);
        let no_operation =
            RecordBuffer::default().encode(EntryId::new(1, 1), EntryKind::NoOperation, b"");
        let entries = vec![
            Committed { entry: no_operation, as_leader: true },
            put(2, b"old", false),
            put(3, b"new", true),
        ];
        let reads = vec![get(100, b"k"), get(101, b"nothing")];
        core.to_applier.send(batch(vec![put(4, b"newer", true)], vec![], 5)).unwrap();
        applier.run_once(batch(entries, reads, 7));
        let replies = network.replies.try_recv().expect("one batch for all that waited");
        assert!(network.replies.is_empty());
        assert_eq!(replies.leader, Some(NodeId(3)));
        assert_eq!(replies.applied, Applied { index: Some(Index(4)), bytes: 12 });
        let answers = [
            Answer { key: key(3), value: None },
            Answer { key: key(100), value: Some(Bytes::from_static(b"new")) },
            Answer { key: key(101), value: Some(Bytes::new()) },
            Answer { key: key(4), value: None },
        ];
        assert_eq!(replies.answers, answers);
    }

    #[test]
    fn a_command_that_is_none_is_passed_over_in_silence() {
        let (network, _core, _log_writer, ends) = channels(&unused_wake());
        let mut applier = Applier::new(ends);
        let entry =
            RecordBuffer::default().encode(EntryId::new(1, 1), EntryKind::Command, b"rubbish");
        applier.run_once(batch(vec![Committed { entry, as_leader: true }], vec![], 1));
        let replies = network.replies.try_recv().unwrap();
        assert_eq!(replies.answers, []);
        assert_eq!(replies.applied.index, Some(Index(1)));
    }

    #[test]
    fn on_a_shared_thread_it_rests_while_nobody_takes_its_answers() {
        let (network, core, _log_writer, ends) = channels(&unused_wake());
        let mut applier = Applier::new(ends);
        for number in 0..=QUEUE_LEN {
            let read = get(u8::try_from(number).unwrap(), b"k");
            core.to_applier.try_send(batch(vec![], vec![read], 1)).unwrap();
            applier.run_ready(true);
        }
        assert_eq!((network.replies.len(), applier.jobs().len()), (QUEUE_LEN, 1));
        network.replies.try_recv().unwrap();
        applier.run_ready(false);
        assert_eq!((network.replies.len(), applier.jobs().len()), (QUEUE_LEN, 0));
    }
}
