//! The disk operations of a simulated replica: syncs of the log, and snapshots.

use super::Cluster;
use super::queue::Event;
use crate::config::Mutant;
use crate::kv::StateMachine;
use crate::raft::{AppendJob, LogStart, Msg, Persisted, RoleName};
use crate::sim::coverage::Situation;
use crate::sim::disk::folder::Folder;
use crate::sim::disk::statistics::DiskFault;
use crate::sim::machine::Machine;
use crate::sim::violation::{Violation, ensure};
use crate::types::{EntryId, NodeId};

impl Cluster {
    /// Schedules the storing of the snapshot chunks that the replica has received, unless chunks
    /// are already being stored. Storing takes as long as a sync of the log.
    pub(super) fn store_soon(&mut self, slot: usize) {
        let machine = &mut self.machines[slot];
        if machine.queued.store || machine.held.chunks {
            return;
        }
        if machine.delays.sync.is_zero() {
            self.store_chunks(slot);
            return;
        }
        machine.queued.store = true;
        let at = self.now + machine.delays.sync.draw(&mut machine.rng);
        self.queue.push(at, Event::ChunksStored { slot, incarnation: machine.incarnation });
    }

    /// Stores the snapshot chunks that the replica has received, and queues a `Msg::ChunkStored`
    /// for each as input of the replica's next step.
    pub(super) fn store_chunks(&mut self, slot: usize) {
        if self.machines[slot].held.all || self.machines[slot].held.chunks {
            return;
        }
        while let Some(chunk) = self.machines[slot].storing.pop_front() {
            let machine = &mut self.machines[slot];
            let (stored, whole) = match machine.snapshots.store_chunk(&mut machine.disk, &chunk) {
                Ok(Some(stored)) => stored,
                Ok(None) => continue,
                Err(error) => {
                    self.fail(slot, &error);
                    break;
                }
            };
            machine.inbox.push_back(Msg::ChunkStored(stored));
            if whole && !machine.queued.install {
                machine.queued.install = true;
                let at = self.now + machine.delays.sync.draw(&mut machine.rng);
                self.queue.push(at, Event::Install { slot, incarnation: machine.incarnation });
            }
        }
    }

    /// Stores the snapshot chunks that the replica has received while a script was suspending the
    /// storing of chunks.
    ///
    /// # Errors
    /// If a safety rule is violated.
    pub fn store_held_chunks(&mut self, id: NodeId) -> Result<(), Violation> {
        let slot = self.slot(id);
        self.machines[slot].held.chunks = false;
        self.store_chunks(slot);
        self.step_soon(slot)
    }

    /// Checks a job of the replica's log writer (a log write), and hands the job to the simulated
    /// disk.
    pub(super) fn write(
        &mut self,
        slot: usize,
        role: RoleName,
        job: AppendJob,
    ) -> Result<(), Violation> {
        let machine = &self.machines[slot];
        self.checker.on_job(machine, role, &job, machine.clock.read(self.now))?;
        self.machines[slot].disk.write(job);
        self.begin_sync(slot)
    }

    /// Begins a sync of the log if no sync is in progress and a job of the log writer (a log write)
    /// is waiting.
    fn begin_sync(&mut self, slot: usize) -> Result<(), Violation> {
        let machine = &mut self.machines[slot];
        if !machine.disk.begin_sync() || machine.held.syncs {
            return Ok(());
        }
        if machine.delays.sync.is_zero() && machine.stalled.is_none() {
            return self.end_sync(slot);
        }
        machine.queued.sync = true;
        let length = match machine.stalled.take() {
            Some(length) => {
                machine.disk.count_stall();
                length
            }
            None => machine.delays.sync.draw(&mut machine.rng),
        };
        let at = self.now + length;
        self.queue.push(at, Event::Synced { slot, incarnation: machine.incarnation });
        Ok(())
    }

    /// Handles the end of a sync of the log, and queues a `Msg::Persisted` for each durable job as
    /// input of the replica's next step.
    pub(super) fn on_synced(&mut self, slot: usize) -> Result<(), Violation> {
        if self.machines[slot].held.all {
            return Ok(());
        }
        self.end_sync(slot)?;
        self.begin_sync(slot)?;
        self.step_soon(slot)
    }

    /// Completes the jobs (log writes) of a sync one by one, and after each sends the messages that
    /// may be sent only once the job is durable.
    fn end_sync(&mut self, slot: usize) -> Result<(), Violation> {
        loop {
            let machine = &mut self.machines[slot];
            let job = match machine.disk.end_sync() {
                Ok(Some(job)) => job,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.fail(slot, &error);
                    return Ok(());
                }
            };
            self.trace.synced(self.now, machine, &job);
            if job.rejoined {
                self.trace.note(self.now, format_args!("{} has rejoined", machine.id.0));
            }
            let machine = &self.machines[slot];
            self.checker.on_synced(machine)?;
            for envelope in job.release {
                self.send(slot, envelope)?;
            }
            let last = job.entries.last().map(crate::record::Entry::id);
            let persisted = Persisted { sequence: job.sequence, last };
            self.machines[slot].inbox.push_back(Msg::Persisted(persisted));
        }
    }

    /// Completes the replica's current sync, which a script has suspended, and begins the next sync
    /// if a job of the log writer is waiting.
    ///
    /// # Errors
    /// If a safety rule is violated.
    pub fn end_held_sync(&mut self, id: NodeId) -> Result<(), Violation> {
        let slot = self.slot(id);
        self.machines[slot].disk.begin_sync();
        self.on_synced(slot)
    }

    /// Starts writing a snapshot of the replica's state, to replace a damaged one.
    pub(super) fn replace_snapshot(&mut self, slot: usize) {
        let machine = &self.machines[slot];
        let index = machine.store.applied_index();
        let last = machine.replica.as_ref().map(|replica| replica.log().id_at(index));
        self.take_snapshot(slot, last.expect("the replica runs"));
    }

    /// Starts writing a snapshot of the replica's state machine if one is due. `last` is the id of
    /// the last applied entry.
    pub(super) fn take_snapshot(&mut self, slot: usize, last: EntryId) {
        let machine = &mut self.machines[slot];
        // A wrong state would spread in a snapshot that a leader sends before it detects that its
        // state is wrong; then a majority might have it.
        if machine.has_changed_state {
            return;
        }
        if machine.snapshots.take(&machine.store, last) {
            machine.queued.taken = true;
            let at = self.now + machine.delays.sync.draw(&mut machine.rng);
            self.queue.push(at, Event::SnapshotTaken { slot, incarnation: machine.incarnation });
            if machine.config.breaks(Mutant::CompactLogEarly)
                && let Some(pending) = &machine.snapshots.pending
            {
                machine.inbox.push_back(Msg::SnapshotTaken(pending.id));
            }
        }
    }

    /// Starts storing the point at which the log of a witness will begin, as a snapshot without
    /// data. Does nothing while another snapshot is being written: the replica or the leader tries
    /// again.
    pub(super) fn store_log_start(
        &mut self,
        slot: usize,
        start: LogStart,
    ) -> Result<(), Violation> {
        if !start.is_received {
            self.checker.on_log_start(&self.machines[slot], &start)?;
        }
        let machine = &mut self.machines[slot];
        if machine.snapshots.pending.is_some() {
            return Ok(());
        }
        let LogStart { last, ref configuration, level, .. } = start;
        let state = StateMachine::of_witness(last.index, configuration.clone(), level);
        machine.snapshots.write(&state, start.last);
        machine.log_start = Some(start);
        machine.queued.taken = true;
        let at = self.now + machine.delays.sync.draw(&mut machine.rng);
        self.queue.push(at, Event::SnapshotTaken { slot, incarnation: machine.incarnation });
        Ok(())
    }

    /// Makes the replica's own snapshot, which is being written, durable.
    pub(super) fn on_snapshot_taken(&mut self, slot: usize) -> Result<(), Violation> {
        let machine = &mut self.machines[slot];
        if machine.held.all {
            return Ok(());
        }
        let id = match machine.snapshots.finish_pending(&mut machine.disk) {
            Ok(Some(id)) => id,
            Ok(None) => return self.check_abandoned_snapshot(slot),
            Err(error) => {
                self.fail(slot, &error);
                return Ok(());
            }
        };
        self.trace
            .note(self.now, format_args!("{} has a snapshot up to {}", machine.id.0, id.last));
        match machine.log_start.take() {
            Some(start) if start.is_received => {
                if id.last.index > machine.store.applied_index() {
                    let members = start.configuration.clone();
                    machine.store = StateMachine::of_witness(id.last.index, members, start.level);
                    self.coverage.add(Situation::WitnessInstall, 1);
                }
                machine.inbox.push_back(Msg::Installed(id, start.configuration, start.level));
            }
            start => {
                self.coverage.add(Situation::WitnessLogMoved, u64::from(start.is_some()));
                machine.inbox.push_back(Msg::SnapshotTaken(id));
            }
        }
        self.step_soon(slot)
    }

    /// Installs a leader's snapshot that has been received in full, unless the state machine is
    /// already past the end of the snapshot.
    pub(super) fn install(&mut self, slot: usize) -> Result<(), Violation> {
        let machine = &mut self.machines[slot];
        if machine.held.all {
            return Ok(());
        }
        let (id, store) = match machine.snapshots.install(&mut machine.disk) {
            Ok(None) => return self.check_abandoned_snapshot(slot),
            Ok(Some(installed)) => installed,
            Err(error) => {
                self.fail(slot, &error);
                return Ok(());
            }
        };
        let older = id.last.index <= machine.store.applied_index();
        let level = store.feature_level();
        ensure!(
            level <= machine.config.feature_level,
            "level of all members: replica {} installs a snapshot of feature level {level}",
            machine.id
        );
        let mut configuration = store.configuration().cloned();
        if machine.config.breaks(Mutant::SnapshotWithoutConfiguration) {
            configuration = None;
        }
        if !older || machine.config.breaks(Mutant::InstallOlderSnapshot) {
            machine.store = store;
            machine.has_changed_state = false;
            #[cfg(feature = "mutants")]
            if machine.config.mutant == Some(Mutant::SnapshotWithoutSessions) {
                machine.store.forget_sessions();
            }
            let has_pieces = machine.store.piece_bytes() > 0;
            self.coverage.add(Situation::PiecesInSnapshot, has_pieces.into());
            #[cfg(feature = "mutants")]
            if machine.config.mutant == Some(Mutant::SnapshotWithoutPieces) {
                machine.store.forget_pieces();
            }
            self.coverage.add(Situation::Install, 1);
            self.checker.applied(machine.id, id.last.index, machine.store.digest())?;
        }
        self.trace.note(
            self.now,
            format_args!("{} installs the snapshot up to {}", machine.id.0, id.last),
        );
        machine.receiving = None;
        machine.inbox.push_back(Msg::Installed(id, configuration, level));
        self.step_soon(slot)
    }

    /// Checks the reason why a snapshot was abandoned: if the snapshot was invalid, that is a
    /// violation, unless fault injection has damaged a snapshot.
    fn check_abandoned_snapshot(&mut self, slot: usize) -> Result<(), Violation> {
        let folder = self.machines[slot].disk.files();
        let Some(error) = folder.and_then(Folder::take_bad_snapshot) else { return Ok(()) };
        let damaging = [DiskFault::CorruptSnapshot, DiskFault::BadSnapshotWrite];
        let was_damaged = |machine: &Machine| {
            let statistics = machine.disk.statistics();
            damaging.iter().any(|&kind| statistics.injected(kind) > 0)
        };
        ensure!(
            self.machines.iter().any(was_damaged),
            "snapshots are whole and newer: replica {} received or wrote an invalid snapshot: \
             {error}",
            self.machines[slot].id
        );
        Ok(())
    }
}
