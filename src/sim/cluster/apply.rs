//! The state machine of a simulated replica: applies committed entries and executes reads.

use super::Cluster;
use super::answer::{AnswerKind, ClientProtocol};
use crate::config::Mutant;
use crate::kv::{Applied, Batch, BatchBuffer, Outcome, Piece};
use crate::raft::{ClientRequest, Msg, Replica};
use crate::record::{Entry, EntryKind, RecordBuffer};
use crate::sim::coverage::Situation;
use crate::sim::violation::{Violation, ensure};
use crate::types::{EntryId, RequestKey};

/// Returns a copy of the entry whose batch of commands is marked so that it is not deduplicated.
/// The batch is then applied twice if the log contains it twice: a deliberate fault for testing the
/// checkers (mutation testing). Returns `None` if the entry has no batch of several operations.
fn once(entry: &Entry) -> Option<Entry> {
    let batch = Batch::decode(entry.payload()).ok().filter(|batch| batch.len() > 1)?;
    let mut buffer = BatchBuffer::default();
    batch.encoded_operations().for_each(|operation| buffer.push(operation));
    let payload = buffer.finish(batch.key, false);
    Some(RecordBuffer::default().encode(entry.id(), entry.kind(), &payload))
}

impl Cluster {
    /// Performs all apply jobs that are waiting on the machine at index `slot`: applies committed
    /// entries and executes reads.
    pub(super) fn apply(&mut self, slot: usize) -> Result<(), Violation> {
        if self.machines[slot].held.all || self.machines[slot].state_is_wrong {
            return Ok(());
        }
        let mut last = None;
        while let Some((job, read_clock)) = self.machines[slot].applying.pop_front() {
            for committed in &job.entries {
                let entry = &committed.entry;
                if self.machines[slot].config.is_witness {
                    last = self.skip_entry(slot, entry).or(last);
                    continue;
                }
                if entry.index() <= self.machines[slot].store.applied_index() {
                    // The entry is contained in a snapshot that was installed in the meantime.
                    continue;
                }
                let (key, outcomes) = self.apply_entry(slot, entry)?;
                self.compare_states(slot)?;
                if self.machines[slot].state_is_wrong {
                    return Ok(());
                }
                last = Some(entry.id());
                if key == RequestKey::default() {
                    continue;
                }
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
            if !self.machines[slot].config.is_witness {
                self.take_snapshot(slot, last);
            }
            if !self.machines[slot].delays.apply.is_zero() {
                return self.step_soon(slot);
            }
        }
        Ok(())
    }

    /// Lets a witness apply an entry, which does not change its state. Returns the entry's id;
    /// `None` if the state already covers the entry.
    fn skip_entry(&mut self, slot: usize, entry: &Entry) -> Option<EntryId> {
        let store = &mut self.machines[slot].store;
        let is_new = entry.index() > store.applied_index();
        is_new.then(|| store.apply(entry)).map(|_| entry.id())
    }

    /// Applies one entry to the replica's state machine. Returns the request key and the outcomes
    /// of the batch of commands that the entry contains or completes; the key is all zeros if there
    /// is no such batch, or no client waits for it.
    fn apply_entry(
        &mut self,
        slot: usize,
        entry: &Entry,
    ) -> Result<(RequestKey, Vec<Outcome>), Violation> {
        let machine = &mut self.machines[slot];
        let index = entry.index();
        ensure!(
            index == machine.store.applied_index().next(),
            "log indexes: replica {} applies index {index} after {}",
            machine.id,
            machine.store.applied_index()
        );
        let once = machine.config.breaks(Mutant::ApplyBatchTwice).then(|| once(entry)).flatten();
        let piece_bytes = machine.store.piece_bytes();
        let applied =
            if entry.kind() == EntryKind::NoOp && machine.config.breaks(Mutant::KeepPieces) {
                machine.store.skip(index);
                Applied { key: RequestKey::default(), outcomes: vec![], repeated: false }
            } else {
                machine.store.apply(once.as_ref().unwrap_or(entry))
            };
        let is_dropped = piece_bytes > 0 && entry.kind() == EntryKind::NoOp;
        self.coverage.add(Situation::DroppedPieces, is_dropped.into());
        let is_completed = piece_bytes > 0 && Piece::decode(entry.payload()).is_some();
        let is_completed = is_completed && machine.store.piece_bytes() == 0;
        self.coverage.add(Situation::CompletedBatch, is_completed.into());
        if !machine.has_changed_state {
            self.checker.applied(machine.id, index, machine.store.digest())?;
        }
        let now = (self.now, self.checker.leader_count());
        let kept = machine.store.piece_bytes();
        self.client_model.on_applied(machine.id, entry, (&applied, kept), now)?;
        Ok((applied.key, applied.outcomes))
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
