//! The state machine of a simulated replica: applies committed entries and executes reads.

use bytes::Bytes;

use super::Cluster;
use super::answer::{AnswerKind, ClientProtocol};
use crate::config::Mutant;
use crate::kv::{Batch, BatchBuffer, Outcome};
use crate::raft::{ClientRequest, Msg, Replica};
use crate::record::{Entry, EntryKind};
use crate::sim::coverage::Situation;
use crate::sim::violation::{Violation, ensure};
use crate::types::RequestKey;

/// Returns a copy of the batch of commands in `payload`, marked so that it is not deduplicated. The
/// batch is then applied twice if the log contains it twice: a deliberate fault for testing the
/// checkers (mutation testing). Returns `None` if `payload` is not a batch of several operations.
fn once(payload: &[u8]) -> Option<Bytes> {
    let batch = Batch::decode(payload).ok().filter(|batch| batch.len() > 1)?;
    let mut buffer = BatchBuffer::default();
    batch.encoded_operations().for_each(|operation| buffer.push(operation));
    Some(buffer.finish(batch.key, false))
}

impl Cluster {
    /// Performs all apply jobs that are waiting on the machine at index `slot`: applies committed
    /// entries and executes reads.
    pub(super) fn apply(&mut self, slot: usize) -> Result<(), Violation> {
        if self.machines[slot].held.all {
            return Ok(());
        }
        let mut last = None;
        while let Some((job, read_clock)) = self.machines[slot].applying.pop_front() {
            for committed in &job.entries {
                let entry = &committed.entry;
                if entry.index() <= self.machines[slot].store.applied_index() {
                    // The entry is contained in a snapshot that was installed in the meantime.
                    continue;
                }
                let result = self.apply_entry(slot, entry)?;
                last = Some(entry.id());
                let Some((key, outcomes)) = result else { continue };
                let answers_here = match self.protocol {
                    ClientProtocol::Course => committed.as_leader,
                    ClientProtocol::Connection => self.machines[slot].take_pending_write(key),
                };
                if answers_here {
                    self.client_model.on_write_answered(self.machines[slot].id, key, &outcomes)?;
                    let leader =
                        self.machines[slot].replica.as_ref().and_then(Replica::last_known_leader);
                    self.answer(slot, key, leader, AnswerKind::Done(outcomes));
                }
            }
            let waiting = self.machines[slot].clock_gate.as_mut();
            let waiting = waiting.map(|gate| std::mem::take(&mut gate.deferred_reads));
            let reads = job.reads.into_iter().map(|read| (read_clock.0, read_clock.1, read));
            for (millis, resets, read) in waiting.into_iter().flatten().chain(reads) {
                let machine = &mut self.machines[slot];
                let batch = Batch::decode(&read.payload).ok();
                if let Some(gate) = &mut machine.clock_gate
                    && machine.store.is_behind(batch.as_ref(), millis, resets)
                {
                    self.coverage.add(Situation::DeferredRead, 1);
                    gate.deferred_reads.push((millis, resets, read));
                } else {
                    self.read(slot, &read)?;
                }
            }
        }
        let machine = &mut self.machines[slot];
        let (now, shown) = (machine.clock.read(self.now), machine.store.shown());
        if let Some(gate) = &mut machine.clock_gate {
            gate.on_applied(now, shown);
            self.set_timer(slot);
        }
        if let Some(last) = last {
            self.machines[slot].inbox.push_back(Msg::Applied { index: last.index });
            self.take_snapshot(slot, last);
            if !self.machines[slot].delays.apply.is_zero() {
                return self.step_soon(slot);
            }
        }
        Ok(())
    }

    /// Applies one entry to the replica's state machine. Returns the request key and the outcomes
    /// of the batch of commands in the entry; `None` if the entry contains no batch.
    fn apply_entry(
        &mut self,
        slot: usize,
        entry: &Entry,
    ) -> Result<Option<(RequestKey, Vec<Outcome>)>, Violation> {
        let (index, payload) = (entry.index(), entry.payload());
        let machine = &mut self.machines[slot];
        ensure!(
            index == machine.store.applied_index().next(),
            "log indexes: replica {} applies index {index} after {}",
            machine.id,
            machine.store.applied_index()
        );
        let applied = match entry.kind() {
            EntryKind::Configuration => {
                let configuration = entry.configuration().expect("an entry of this kind");
                machine.store.set_configuration(index, configuration);
                None
            }
            EntryKind::NoOp => {
                machine.store.begin_term(index);
                None
            }
            EntryKind::Command => {
                let once = machine.config.breaks(Mutant::ApplyBatchTwice).then(|| once(payload));
                Some(machine.store.apply(index, once.flatten().as_deref().unwrap_or(payload)))
            }
        };
        self.checker.applied(machine.id, index, machine.store.digest())?;
        let leaders = self.checker.leader_count();
        let now = (self.now, leaders);
        self.client_model.on_applied(machine.id, index, payload, applied.as_ref(), now)?;
        Ok(applied.map(|applied| (applied.key, applied.outcomes)))
    }

    /// Executes a read on the replica's state machine, and sends the answer to the client.
    fn read(&mut self, slot: usize, read: &ClientRequest) -> Result<(), Violation> {
        let machine = &self.machines[slot];
        let (key, outcomes) = machine.store.read(&read.payload).map_err(|error| {
            Violation(format!(
                "replies match requests: request {:?} is not a read: {error}",
                read.key
            ))
        })?;
        let state = machine.store.applied_index();
        let now = (self.now, self.checker.leader_count());
        self.client_model.on_read_answered(
            machine.id,
            key,
            &read.payload,
            &outcomes,
            state,
            now,
        )?;
        let leader = machine.replica.as_ref().and_then(Replica::last_known_leader);
        self.answer(slot, key, leader, AnswerKind::Done(outcomes));
        Ok(())
    }
}
