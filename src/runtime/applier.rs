//! The applier stage: owns the store. Applies committed entries in order, gives the answers that
//! are this replica's to give, then answers the reads, and hands the answers to the network in one
//! batch, with the note that the core gets once they are with the socket.

use crossbeam::channel::Receiver;

use crate::kv::{Command, Outcome, Store, WARMED_MAX};
use crate::raft::{ClientRequest, Committed};
use crate::record::EntryKind;
use crate::types::RequestKey;

use super::channels::{Answer, Applied, ApplierEnds, ApplyBatch, ReadsAt, ReplyBatch};

/// Bytes of a request's id that say where it came in.
pub(super) const ORIGIN_BYTES: usize = 8;

/// Which writes this replica answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answering {
    /// Those that it committed as the leader, as the course's simulator wants it.
    AsLeader,
    /// Those that came in here, whoever leads: their ids begin like this.
    AsOrigin([u8; ORIGIN_BYTES]),
}

/// The stage.
pub(super) struct Applier {
    store: Store,
    answering: Answering,
    /// Reads for which the state has not come far enough.
    early: Vec<ReadsAt>,
    ends: ApplierEnds,
    /// A pass on a shared thread was put off.
    put_off: bool,
}

impl Applier {
    /// With an empty store.
    pub(super) fn new(answering: Answering, ends: ApplierEnds) -> Applier {
        Applier { store: Store::default(), answering, early: Vec::new(), ends, put_off: false }
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
        replies.key_count = self.store.key_count();
        // An error means that the network has ended, and then so do we.
        let _ = self.ends.to_network.send(replies);
    }

    fn apply(&mut self, batch: ApplyBatch, replies: &mut ReplyBatch) {
        replies.leader = batch.leader;
        let index = batch.job.entries.last().map(|committed| committed.entry.index());
        replies.applied.merge(Applied { index, bytes: batch.bytes });
        for some in batch.job.entries.chunks(WARMED_MAX) {
            self.apply_some(some, replies);
        }
        for some in batch.job.reads.chunks(WARMED_MAX) {
            self.read_some(some, replies);
        }
        self.early.extend(batch.reads_at);
        let applied = self.store.applied_index();
        let ready: Vec<ReadsAt> = self.early.extract_if(.., |at| at.index <= applied).collect();
        for some in ready.iter().flat_map(|at| at.reads.chunks(WARMED_MAX)) {
            self.read_some(some, replies);
        }
    }

    fn apply_some(&mut self, entries: &[Committed], replies: &mut ReplyBatch) {
        let mut commands = [None; WARMED_MAX];
        for (command, committed) in commands.iter_mut().zip(entries) {
            *command = Command::decode(committed.entry.payload()).ok();
        }
        self.store.warm(&commands);
        for (command, Committed { entry, as_leader }) in commands.iter().zip(entries) {
            if entry.kind() == EntryKind::NoOperation {
                self.store.skip(entry.index());
                continue;
            }
            let applied = self.store.apply_decoded(entry.index(), command.as_ref());
            // Malformed: nobody's request, so nobody waits. What is another's to answer is left to
            // it; two answers would be one too many.
            if self.answers(applied.key, *as_leader) && applied.outcome != Outcome::Malformed {
                replies.answers.push(Answer { key: applied.key, outcome: applied.outcome });
            }
        }
    }

    fn read_some(&self, reads: &[ClientRequest], replies: &mut ReplyBatch) {
        let mut commands = [None; WARMED_MAX];
        for (command, read) in commands.iter_mut().zip(reads) {
            // A peer reads its own state. What it lacks is how far that must have come.
            if self.is_own(read.key) {
                let decoded = Command::decode(&read.payload);
                *command = Some(decoded.expect("the door made this payload"));
            }
        }
        self.store.warm(&commands);
        for (command, read) in commands.iter().zip(reads) {
            if let Some(command) = command {
                let (key, outcome) = self.store.read_decoded(command).expect("the door says reads");
                replies.answers.push(Answer { key, outcome });
            } else {
                replies.read_indexes.push((read.key, self.store.applied_index()));
            }
        }
    }

    fn answers(&self, key: RequestKey, as_leader: bool) -> bool {
        match self.answering {
            Answering::AsLeader => as_leader,
            Answering::AsOrigin(_) => self.is_own(key),
        }
    }

    /// Whether the request came in at this replica. Under the course's simulator a read never
    /// travels.
    fn is_own(&self, key: RequestKey) -> bool {
        match self.answering {
            Answering::AsLeader => true,
            Answering::AsOrigin(origin) => key.request.0.starts_with(&origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Operation;
    use crate::raft::{ApplyJob, RequestKind};
    use crate::record::RecordBuffer;
    use crate::runtime::channels::{QUEUE_LEN, channels};
    use crate::runtime::wake::tests::unused_wake;
    use crate::types::{ClientId, EntryId, Index, NodeId, RequestId, RequestKey};
    use bytes::Bytes;

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
        let leader = Some(NodeId(3));
        ApplyBatch { job: ApplyJob { entries, reads }, leader, bytes, ..ApplyBatch::default() }
    }

    #[test]
    fn leaders_answer_and_reads_see_what_was_applied_before_them() {
        let (network, core, _log_writer, ends) = channels(&unused_wake(), false);
        let mut applier = Applier::new(Answering::AsLeader, ends);
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
            Answer { key: key(3), outcome: Outcome::Done },
            Answer { key: key(100), outcome: Outcome::Value(Some(Bytes::from_static(b"new"))) },
            Answer { key: key(101), outcome: Outcome::Value(None) },
            Answer { key: key(4), outcome: Outcome::Done },
        ];
        assert_eq!(replies.answers, answers);
    }

    #[test]
    fn a_command_that_is_none_is_passed_over_in_silence() {
        let (network, _core, _log_writer, ends) = channels(&unused_wake(), false);
        let mut applier = Applier::new(Answering::AsLeader, ends);
        let entry =
            RecordBuffer::default().encode(EntryId::new(1, 1), EntryKind::Command, b"rubbish");
        applier.run_once(batch(vec![Committed { entry, as_leader: true }], vec![], 1));
        let replies = network.replies.try_recv().unwrap();
        assert_eq!(replies.answers, []);
        assert_eq!(replies.applied.index, Some(Index(1)));
    }

    #[test]
    fn on_a_shared_thread_it_rests_while_nobody_takes_its_answers() {
        let (network, core, _log_writer, ends) = channels(&unused_wake(), false);
        let mut applier = Applier::new(Answering::AsLeader, ends);
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
