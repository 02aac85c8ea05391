//! Starts, crashes, lost disks and pauses of replicas.

use super::Cluster;
use super::queue::Event;
use crate::config::Mutant;
use crate::digest_schedule::DigestSchedule;
use crate::feature_level::FeatureLevel;
use crate::kv::StateMachine;
use crate::large_writes::LargeWrites;
use crate::raft::{Durable, Envelope, PeerMsg, Replica};
use crate::record::Entry;
use crate::sim::coverage::{Coverage, Situation};
use crate::sim::disk::Started;
use crate::sim::machine::replicated_clock::ClockGate;
use crate::sim::machine::{Held, Machine, Queued};
use crate::sim::violation::{Violation, ensure};
use crate::storage::StorageError;
use crate::types::{Index, Instant, NodeId};

impl Cluster {
    /// Starts a replica that is new or has crashed. It stays down if its folder is damaged or its
    /// disk is full.
    ///
    /// # Errors
    /// If the replica's disk lacks data that was durable, or if another safety rule is violated.
    pub fn start(&mut self, id: NodeId) -> Result<(), Violation> {
        let slot = self.slot(id);
        let machine = &mut self.machines[slot];
        assert!(machine.replica.is_none(), "replica {id} is already running");
        let snapshot_end = machine.snapshots.end();
        let start = match machine.disk.open(&mut machine.snapshots.latest, &mut machine.rng) {
            Started::Ok(start) => start,
            Started::Unavailable(why) => {
                self.trace.note(self.now, format_args!("{} does not start: {why}", id.0));
                return Ok(());
            }
            Started::Violation(how) => {
                return Err(Violation(format!("durable state: folder of replica {id}: {how}")));
            }
        };
        if let Some(lost) = &start.lost {
            self.checker.on_repaired(machine, lost, snapshot_end)?;
            self.trace.note(self.now, format_args!("{} has repaired its folder", id.0));
        }
        if machine.incarnation > 0 && machine.config.feature_level < machine.upgrade_to {
            machine.config.feature_level = machine.upgrade_to;
            self.coverage.add(Situation::Upgrade, 1);
        }
        machine.incarnation += 1;
        if let Some(files) = machine.disk.folder() {
            machine.start_ids.push((machine.incarnation, files.start_history()));
        }
        machine.store = start.store.unwrap_or_else(|| machine.snapshots.load());
        if machine.config.is_witness && machine.store.applied_index() == Index::ZERO {
            machine.store = StateMachine::of_witness(Index::ZERO, None, FeatureLevel::OLDEST);
        }
        ensure!(
            machine.store.is_witness() == machine.config.is_witness,
            "data for replicas with data: replica {id} starts from a snapshot of the other kind"
        );
        let state = (machine.store.applied_index(), machine.store.digest());
        #[cfg(feature = "mutants")]
        if machine.config.mutant == Some(crate::config::Mutant::ApplyTwice) {
            machine.store = crate::kv::StateMachine::forgetful();
        }
        #[cfg(feature = "mutants")]
        if machine.config.mutant == Some(crate::config::Mutant::SnapshotWithoutSessions) {
            machine.store.forget_sessions();
        }
        let has_pieces = machine.store.piece_bytes() > 0;
        self.coverage.add(Situation::PiecesInSnapshot, has_pieces.into());
        #[cfg(feature = "mutants")]
        if machine.config.mutant == Some(crate::config::Mutant::SnapshotWithoutPieces) {
            machine.store.forget_pieces();
        }
        let seed = machine.rng.next_u64();
        let now = machine.clock.read(self.now);
        let (bootstrap, config) = (machine.bootstrap.clone(), machine.config.clone());
        let with_members = !config.breaks(Mutant::SnapshotWithoutConfiguration);
        let configuration = machine.store.configuration().filter(|_| with_members).cloned();
        let feature_level = machine.store.feature_level();
        let durable = Durable { configuration, feature_level, ..start.durable };
        machine.replica = Some(Replica::with_bootstrap(id, bootstrap, config, seed, durable, now));
        machine.timer_at = Instant::MAX;
        machine.digest_schedule = DigestSchedule::new(machine.digest_check);
        let true_now = self.now;
        let begin = |confirm_after| Box::new(ClockGate::start(machine, confirm_after, true_now));
        machine.clock_gate = machine.confirm_after.map(begin);
        self.trace.started(self.now, &self.machines[slot]);
        self.checker.on_start(&self.machines[slot])?;
        if state.0 > Index::ZERO && !self.machines[slot].config.is_witness {
            self.checker.applied(id, state.0, state.1)?;
        }
        self.set_timer(slot);
        Ok(())
    }

    /// Returns whether both programs understand what the other may send: neither has a lower
    /// feature level than the cluster's level known to the other, and the receiver's supports all
    /// entries in the message. In the server, one of the two refuses the connection otherwise. Only
    /// a replica that was removed before it was upgraded is affected.
    pub(super) fn understands(&self, slot: usize, envelope: &Envelope) -> bool {
        let (receiver, sender) = (&self.machines[slot], &self.machines[self.slot(envelope.from)]);
        let cluster_level = |machine: &Machine| {
            machine.replica.as_ref().map_or(FeatureLevel::OLDEST, Replica::feature_level)
        };
        let entries = match &envelope.message {
            PeerMsg::AppendEntries(append) => &append.entries[..],
            _ => &[],
        };
        let needed = entries.iter().filter_map(Entry::feature_level).max().unwrap_or_default();
        let own = receiver.config.feature_level;
        own >= needed.max(cluster_level(sender))
            && sender.config.feature_level >= cluster_level(receiver)
    }

    /// Returns whether a replica accepts messages that the peer `from` sent in incarnation `sender`
    /// (number of the peer's starts and crashes). If the peer has restarted, the replica first
    /// checks the peer's list of its latest starts (one random number per start), to detect that
    /// the peer runs from an old copy of its folder. The server does the same when a peer connects.
    pub(super) fn accepts_peer(
        &mut self,
        slot: usize,
        from: NodeId,
        sender: u64,
    ) -> Result<bool, Violation> {
        let from_place = self.slot(from);
        let machine = &self.machines[slot];
        // A crash increments the incarnation, too; a message sent between a crash and the next
        // start belongs to the incarnation before the crash.
        let sender = sender - u64::from(sender.is_multiple_of(2));
        let heard = machine.heard.get(&from).copied().unwrap_or(0);
        if machine.replica.is_none() || machine.disk.folder().is_none() || sender <= heard {
            return Ok(true);
        }
        let start_ids = &self.machines[from_place].start_ids;
        let found = start_ids.iter().find(|(incarnation, _)| *incarnation == sender);
        let (incarnation, numbers) = found.expect("the sender had opened its folder").1.clone();
        // A connection ends with the process: a late message over a connection that this replica
        // has not accepted yet may be rejected.
        let latest = self.machines[from_place].incarnation;
        let machine = &mut self.machines[slot];
        let files = machine.disk.files().expect("it was just looked at");
        match files.check_peer(from, incarnation, &numbers) {
            Ok(false) if sender < latest => return Ok(false),
            Ok(accepted) => {
                ensure!(
                    accepted,
                    "no old copies: replica {} rejected peer {from}, although that peer only \
                     restarted and does not run from an old copy of its folder",
                    machine.id
                );
                machine.heard.insert(from, sender);
            }
            Err(error) => {
                self.fail(slot, &error);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stops a replica because a disk operation failed with this error.
    pub(super) fn fail(&mut self, slot: usize, error: &StorageError) {
        let machine = &mut self.machines[slot];
        machine.disk.fail();
        self.trace.note(self.now, format_args!("{}'s disk failed: {error}", machine.id.0));
        self.queue.push(self.now, Event::Stop { slot, incarnation: machine.incarnation });
    }

    /// Checks that peers reject a replica that runs from an old copy of its folder. The replica
    /// must be down. Starts it from such a copy, and presents the list of starts (one random number
    /// per start) in the copy to all peers: every peer that knows of a later start must reject the
    /// replica. The folder itself stays unchanged.
    ///
    /// # Errors
    /// If a peer that must reject the copy accepts it.
    pub fn check_old_copy(&mut self, id: NodeId) -> Result<(), Violation> {
        let slot = self.slot(id);
        let Some(files) = self.machines[slot].disk.files() else { return Ok(()) };
        let copy = match files.start_old_copy() {
            None => return Ok(()),
            Some(Ok(copy)) => copy,
            Some(Err(error)) => {
                return Err(Violation(format!(
                    "no old copies: replica {id} cannot open an old copy of its folder: \
                     {error}"
                )));
            }
        };
        let mut rejected_by_all = true;
        for other in self.machines.iter().filter(|other| other.id != id) {
            let folder = other.disk.folder().expect("all machines have folders or none has");
            let knows_later = folder.noted_start_id(id) > copy.copied_at;
            rejected_by_all &= knows_later;
            let accepts = folder.accepts(id, &copy);
            ensure!(
                !knows_later || accepts != Some(true),
                "no old copies: replica {0} accepted an outdated copy of replica {id}'s data \
                 folder: replica {id} had been started {1} times when the copy was made, but {2} \
                 times according to replica {0}'s latest record of it",
                other.id,
                copy.copied_at,
                folder.noted_start_id(id)
            );
        }
        if rejected_by_all && self.machines.len() > 1 {
            self.machines[slot]
                .disk
                .files()
                .expect("the folder was read above")
                .count_rejected_copy();
            self.trace.note(self.now, format_args!("all peers reject an old copy of {}", id.0));
        }
        Ok(())
    }

    /// Crashes a replica, which loses everything that is not on its disk. A random part of the data
    /// of an unfinished sync is kept.
    pub fn crash(&mut self, id: NodeId) {
        let slot = self.slot(id);
        let machine = &mut self.machines[slot];
        if let Some(replica) = machine.replica.take() {
            add_counters(&mut self.coverage, &replica);
        }
        machine.incarnation += 1;
        let snapshots = &machine.snapshots;
        machine.disk.crash(snapshots.latest, snapshots.pending.as_ref(), &mut machine.rng);
        machine.snapshots.crash();
        machine.heard.clear();
        machine.stalled = None;
        machine.inbox.clear();
        machine.large_writes = LargeWrites::new(machine.large_writes.limits());
        machine.pending_writes.clear();
        machine.applying.clear();
        machine.storing.clear();
        machine.receiving = None;
        // No snapshot contains a changed state.
        (machine.has_changed_state, machine.state_is_wrong) = (false, false);
        machine.log_start = None;
        if let Some(gate) = machine.clock_gate.take() {
            self.coverage.add(Situation::ClockJump, gate.jumps());
        }
        machine.queued = Queued::default();
        machine.held = Held { syncs: machine.held.syncs, ..Held::default() };
        self.trace.note(self.now, format_args!("{} crashes", id.0));
    }

    /// Replaces the disk of a replica with an empty disk, so that the replica must rejoin under its
    /// old id. The replica must be down. Only one replica may be rejoining at a time, because two
    /// would wait for each other forever.
    ///
    /// # Errors
    /// If the replica had finished rejoining after an earlier disk loss, but its disk lacks an
    /// entry that it must hold.
    pub fn lose_disk(&mut self, id: NodeId) -> Result<(), Violation> {
        let slot = self.slot(id);
        let machine = &mut self.machines[slot];
        assert!(machine.replica.is_none(), "replica {id} is running");
        self.checker.on_disk_lost(machine)?;
        machine.disk.lose();
        machine.snapshots.lose();
        machine.store = StateMachine::default();
        self.coverage.add(Situation::DiskLoss, 1);
        self.trace.note(self.now, format_args!("{} loses its disk", id.0));
        Ok(())
    }

    /// Resumes a paused replica, which then handles everything that arrived during the pause.
    ///
    /// # Errors
    /// If a safety rule is violated.
    pub fn resume(&mut self, id: NodeId) -> Result<(), Violation> {
        let slot = self.slot(id);
        self.machines[slot].held.all = false;
        if self.machines[slot].replica.is_some() {
            self.end_overdue_sync(slot)?;
            self.apply(slot)?;
            if !self.machines[slot].queued.taken {
                self.on_snapshot_taken(slot)?;
            }
            if !self.machines[slot].queued.store {
                self.store_chunks(slot);
            }
            if !self.machines[slot].queued.install {
                self.install(slot)?;
            }
            self.step(slot)?;
        }
        Ok(())
    }

    /// Completes a sync that became due while the replica was paused.
    fn end_overdue_sync(&mut self, slot: usize) -> Result<(), Violation> {
        let machine = &self.machines[slot];
        if machine.disk.is_syncing() && !machine.queued.sync && !machine.held.syncs {
            self.on_synced(slot)?;
        }
        Ok(())
    }
}

/// Adds the counters of a replica's process to the run's coverage.
pub(super) fn add_counters(coverage: &mut Coverage, replica: &Replica) {
    let counters = replica.status().counters;
    coverage.add(Situation::LeaseRead, counters.lease_reads);
    coverage.add(Situation::ReadIndexRead, counters.read_index_reads);
    coverage.add(Situation::Configuration, counters.configurations);
    coverage.add(Situation::WitnessRetreat, counters.witness_retreats);
}
