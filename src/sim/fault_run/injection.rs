//! The first phase of a simulated run with faults: injects random faults.

use std::time::Duration;

use super::{Alarm, FaultRun};
use crate::raft::{Loss, Replica};
use crate::sim::cluster::network::{Fate, LinkQuality};
use crate::sim::disk::folder::Spared;
use crate::sim::disk::statistics::DiskFault;
use crate::sim::faults::{Fault, draw_origin, draw_rate};
use crate::sim::machine::Machine;
use crate::sim::machine::clock::Clock;
use crate::sim::rng::Rng;
use crate::sim::violation::Violation;
use crate::types::{NodeId, TransferRequest};

/// Maximum number of times that the check for two leaders at once is repeated. If a check finds two
/// leaders, a replica that voted for the newer one loses its disk.
const VOTER_POLLS: u32 = 300;
/// Interval between two checks of whether the cluster has two leaders at once. All [`VOTER_POLLS`]
/// checks take 1.5 s, longer than most elections and than a leader without a quorum takes to step
/// down.
const VOTER_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Interval at which replicas report their wall clock readings to their peers.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum delay of a wall clock report between replicas. Reports that would take longer are
/// treated as lost.
const REPORT_DELAY_MAX: Duration = Duration::from_millis(100);

impl FaultRun {
    /// Schedules the injection of the next fault.
    pub(super) fn schedule_fault(&mut self) {
        let at = self.cluster.now() + self.plan.fault_interval.draw(&mut self.rng);
        self.set_alarm(at, Alarm::Fault);
    }

    /// Chooses the replica to inject a fault into: the leader with a probability of 1/2, otherwise
    /// a random replica.
    pub(super) fn victim(&mut self) -> NodeId {
        let leader = self.cluster.leader().filter(|_| self.rng.permille(500));
        leader.unwrap_or_else(|| *self.rng.choose(&self.plan.ids))
    }

    /// Injects a fault of type `fault` into the cluster.
    ///
    /// # Errors
    /// If a safety rule is violated.
    pub(super) fn inject(&mut self, fault: Fault) -> Result<(), Violation> {
        match fault {
            Fault::Split | Fault::Isolate | Fault::IsolateOneWay | Fault::CutLinks => {
                self.cut(fault);
            }
            Fault::Heal => {
                self.note(format_args!("all links are healed"));
                self.network.heal();
            }
            Fault::Pause => {
                let id = self.victim();
                if self.cluster.machine(id).replica.is_some() && !self.cluster.machine(id).held.all
                {
                    self.note(format_args!("{} pauses", id.0));
                    self.cluster.machine_mut(id).held.all = true;
                    let at = self.cluster.now() + self.plan.outage.draw(&mut self.rng);
                    self.set_alarm(at, Alarm::Resume(id));
                }
            }
            Fault::Crash => {
                let id = self.victim();
                // Prefers a replica that is compacting its log, or resetting it after a snapshot.
                let compacting = |id: &NodeId| self.cluster.machine(*id).disk.is_truncating();
                let id = self.plan.ids.iter().copied().find(compacting).unwrap_or(id);
                self.crash(id);
            }
            Fault::CrashLeader => {
                if let Some(id) = self.cluster.leader() {
                    self.crash(id);
                }
            }
            Fault::SwapReplicas => return self.swap_replicas(),
            Fault::CrashAll => {
                for id in self.plan.ids.clone() {
                    self.crash(id);
                }
            }
            Fault::LoseDisk => return self.lose_disk(),
            Fault::SlowDisk => {
                let id = self.victim();
                let slow = self.plan.slow_sync;
                let machine = self.cluster.machine_mut(id);
                let now_slow = machine.delays.sync != slow;
                machine.delays.sync = if now_slow { slow } else { self.plan.delays.sync };
                if now_slow {
                    machine.disk.count_fault(DiskFault::SlowDisk);
                }
                let speed = if now_slow { "slow" } else { "fast again" };
                self.note(format_args!("the disk of {} is {speed}", id.0));
            }
            Fault::StallDisk
            | Fault::FailDisk
            | Fault::FillDisk
            | Fault::CorruptSnapshotWrite
            | Fault::CorruptSnapshot => self.harm_disk(fault),
            Fault::ClockRate => {
                let id = self.victim();
                let rate = draw_rate(self.plan.drift_ppm, &mut self.rng);
                let now = self.cluster.now();
                self.cluster.machine_mut(id).clock.set_rate(now, rate);
                self.cluster.reset_timer(id);
                self.note(format_args!("the clock of {} runs {rate} ppm fast", id.0));
            }
            Fault::WallClock => self.jump_clocks(),
            Fault::ChangeMembers => return self.change_members(),
            Fault::ChangeState => {
                let id = self.victim();
                if self.cluster.change_state(id) {
                    self.note(format_args!("the state of {} is changed", id.0));
                }
            }
            Fault::MessageLoss => {
                let loss_permille =
                    if self.rng.permille(500) { 700 } else { self.plan.quality.loss_permille };
                self.note(format_args!("{loss_permille} of 1000 messages are lost from now on"));
                self.network.set_quality(LinkQuality { loss_permille, ..self.plan.quality });
            }
            Fault::TransferLeadership => {
                if let Some(leader) = self.cluster.leader() {
                    let request = match self.rng.below(4) {
                        0 => TransferRequest::Abort,
                        1 => TransferRequest::Start { target: None, timeout: None },
                        _ => {
                            let target = Some(*self.rng.choose(&self.plan.ids));
                            TransferRequest::Start { target, timeout: None }
                        }
                    };
                    let result = self.cluster.request_transfer(leader, request)?;
                    self.requested_transfers += u64::from(result.is_ok());
                    self.note(format_args!("{request:?} at {}: {result:?}", leader.0));
                }
            }
        }
        Ok(())
    }

    /// Makes wall clocks jump: either sets the clock of one replica in `skewed` ahead for a long
    /// time, or makes the clocks of all or some random replicas jump and return within a second.
    pub(super) fn jump_clocks(&mut self) {
        let jump = draw_jump(&mut self.wall_rng);
        if !self.skewed.is_empty() && self.wall_rng.permille(500) {
            let id = *self.wall_rng.choose(&self.skewed);
            let jump = jump.abs();
            self.cluster.machine_mut(id).wall.skew = jump;
            self.note(format_args!("the wall clock of {} is {jump} ms ahead", id.0));
            return;
        }
        // A paused replica could mistake the momentary jump for a lasting one.
        if self.glitch || self.cluster.machines().iter().any(|machine| machine.held.all) {
            return;
        }
        self.glitch = true;
        let all = self.wall_rng.permille(500);
        for id in self.plan.ids.clone() {
            if all || self.wall_rng.permille(300) {
                self.cluster.machine_mut(id).wall.glitch = jump;
                self.note(format_args!(
                    "the wall clock of {} jumps by {jump} ms for a moment",
                    id.0
                ));
                // The replica notices the jump, as it reads its wall clock all the time.
                self.cluster.report_wall_clock(id);
            }
        }
        let length = self.wall_rng.duration(Duration::from_millis(10), Duration::from_secs(1));
        self.set_alarm(self.cluster.now() + length, Alarm::EndGlitch);
    }

    /// Ends a momentary jump of wall clocks, which then show the time as if there had been no jump.
    pub(super) fn end_glitch(&mut self) {
        self.glitch = false;
        for id in self.plan.ids.clone() {
            self.cluster.machine_mut(id).wall.glitch = 0;
            self.cluster.report_wall_clock(id);
        }
    }

    /// Sends each running replica's wall clock reading to its peers.
    pub(super) fn report_clocks(&mut self) {
        let now = self.cluster.now();
        for from in self.plan.ids.clone() {
            let Some(millis) = self.cluster.report_wall_clock(from) else { continue };
            for to in self.plan.ids.clone() {
                // The bounds on clocks hold for prompt reports; a late report is treated as lost.
                if to != from
                    && let Fate::Arrives { at, .. } = self.network.fate(now, from, to)
                    && at.since(now) <= REPORT_DELAY_MAX
                {
                    self.set_alarm(at, Alarm::ClockReport { from, to, millis });
                }
            }
        }
        self.set_alarm(now + REPORT_INTERVAL, Alarm::ReportClocks);
    }

    /// Injects a disk fault of type `fault` into the leader or a random replica. Does nothing if
    /// that replica is down.
    fn harm_disk(&mut self, fault: Fault) {
        let id = self.victim();
        let now = self.cluster.now();
        let machine = self.cluster.machine_mut(id);
        if machine.replica.is_none() {
            return;
        }
        self.note(format_args!("disk fault at {}: {fault:?}", id.0));
        let machine = self.cluster.machine_mut(id);
        match fault {
            Fault::StallDisk => {
                let min = self.plan.config.election_timeout_max;
                machine.stalled = Some(self.rng.duration(min, min * 3));
            }
            Fault::FailDisk => machine.disk.fail_soon(&mut self.rng),
            Fault::FillDisk => {
                machine.disk.fill(&mut self.rng);
                let at = now + self.plan.outage.draw(&mut self.rng);
                self.set_alarm(at, Alarm::FreeSpace(id));
            }
            Fault::CorruptSnapshotWrite => machine.disk.corrupt_snapshot_write(&mut self.rng),
            _ => machine.disk.corrupt_snapshot(&mut self.rng),
        }
    }

    /// Cuts links between replicas for a partition fault: `fault` is a split, an isolation or
    /// random cuts.
    fn cut(&mut self, fault: Fault) {
        let mut ids = self.plan.ids.clone();
        if ids.len() < 2 {
            return;
        }
        match fault {
            Fault::Split => {
                self.rng.shuffle(&mut ids);
                let rest = ids.split_off(1 + self.rng.index(ids.len() - 1));
                self.note(format_args!("cut {} | {}", names(&ids), names(&rest)));
                self.network.part(&[ids, rest]);
            }
            Fault::Isolate => {
                let id = self.victim();
                ids.retain(|&other| other != id);
                self.note(format_args!("isolate {}", id.0));
                self.network.part(&[vec![id], ids]);
            }
            Fault::IsolateOneWay => {
                let (id, inbound) = (self.victim(), self.rng.permille(500));
                let direction = if inbound { "to" } else { "from" };
                self.note(format_args!("cut all links {direction} {}", id.0));
                for &other in ids.iter().filter(|&&other| other != id) {
                    let (from, to) = if inbound { (other, id) } else { (id, other) };
                    self.network.cut(from, to);
                }
            }
            _ => {
                for _ in 0..self.rng.between(1, ids.len() as u64) {
                    self.rng.shuffle(&mut ids);
                    self.note(format_args!("cut {} -> {}", ids[0].0, ids[1].0));
                    self.network.cut(ids[0], ids[1]);
                    if self.rng.permille(500) {
                        self.network.cut(ids[1], ids[0]);
                    }
                }
            }
        }
    }

    /// Crashes the leader for a long time, and ends the partitions, pauses and crashes of all other
    /// replicas.
    fn swap_replicas(&mut self) -> Result<(), Violation> {
        let Some(leader) = self.cluster.leader() else { return Ok(()) };
        self.note(format_args!("the others of {} are up", leader.0));
        self.network.heal();
        self.cluster.crash(leader);
        let outage = self.plan.outage.draw(&mut self.rng) * 3;
        self.set_alarm(self.cluster.now() + outage, Alarm::Restart(leader));
        for id in self.plan.ids.clone().into_iter().filter(|id| *id != leader) {
            if self.cluster.machine(id).replica.is_none() {
                self.restart(id)?;
            } else if self.cluster.machine(id).held.all {
                self.cluster.resume(id)?;
            }
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, id: NodeId) {
        if self.cluster.machine(id).replica.is_some() {
            self.cluster.crash(id);
            self.restart_later(id);
        }
    }

    /// Makes a replica lose its disk, or separates the leader by a partition, so that a replica
    /// that votes for the next leader can lose its disk later. Does nothing if a replica is already
    /// rejoining after a disk loss, because two rejoining replicas would wait for each other
    /// forever.
    pub(super) fn lose_disk(&mut self) -> Result<(), Violation> {
        if self.cluster.rejoining().is_some() {
            return Ok(());
        }
        if let Some(leader) = self.cluster.leader()
            && self.plan.faults.contains(&Fault::Heal)
            && self.rng.permille(400)
        {
            // The leader stays connected to a minority only, and the others elect another leader.
            let mut ids: Vec<NodeId> =
                self.plan.ids.iter().copied().filter(|&id| id != leader).collect();
            self.rng.shuffle(&mut ids);
            let new = ids.split_off(self.plan.ids.len().div_ceil(2) - 2);
            ids.push(leader);
            self.note(format_args!("cut {} | {} only", names(&ids), names(&new)));
            self.network.heal();
            self.network.part(&[ids, new]);
            self.lose_a_voter(VOTER_POLLS)
        } else {
            let id = self.victim();
            self.crash(id);
            self.cluster.lose_disk(id)
        }
    }

    /// Checks whether the cluster has two leaders at once. If so, a replica that voted for the
    /// newer leader loses its disk and restarts on the older leader's side of a partition. If not,
    /// repeats the check later, at most `polls` times.
    pub(super) fn lose_a_voter(&mut self, polls: u32) -> Result<(), Violation> {
        let now = self.cluster.now();
        match self.voter_against_a_leader() {
            _ if self.cluster.rejoining().is_some() => {}
            None if polls == 0 => {}
            None => self.set_alarm(now + VOTER_POLL_INTERVAL, Alarm::LoseVoter(polls - 1)),
            Some((id, old, new)) => {
                self.voters_lost += 1;
                self.crash(id);
                self.cluster.lose_disk(id)?;
                self.note(format_args!("cut {} | {}", names(&old), names(&new)));
                self.network.heal();
                self.network.part(&[old, new]);
                // Soon, while the older leader is still active.
                self.set_alarm(now + self.plan.outage.min, Alarm::Restart(id));
            }
        }
        Ok(())
    }

    /// If the cluster has two leaders, returns a replica that voted for the newer one, and the two
    /// sides of a partition to set up: the older leader's, then the newer leader's. The voter and
    /// all replicas in earlier terms are on the older leader's side, which must not commit anything
    /// even though the voter will forget its vote. Returns `None` if there are not two leaders, or
    /// there is no such voter.
    pub(super) fn voter_against_a_leader(&self) -> Option<(NodeId, Vec<NodeId>, Vec<NodeId>)> {
        let newest = self.cluster.leader()?;
        let replica_of = |id: NodeId| self.cluster.machine(id).replica.as_ref();
        let term = replica_of(newest)?.term();
        let is_older = |id: &NodeId| replica_of(*id).is_some_and(|there| there.term() < term);
        let (mut old, mut new): (Vec<NodeId>, Vec<NodeId>) =
            self.plan.ids.iter().partition(|id| is_older(id));
        let voted = |id: &NodeId| {
            let status = replica_of(*id).map(Replica::status);
            *id != newest
                && status.is_some_and(|it| it.term == term && it.voted_for == Some(newest))
        };
        if !old.iter().any(|&id| replica_of(id).is_some_and(Replica::is_leader)) {
            return None;
        }
        let place = new.iter().position(voted)?;
        let id = new.remove(place);
        old.push(id);
        Some((id, old, new))
    }

    /// Schedules the restart of a crashed replica after a random delay.
    pub(super) fn restart_later(&mut self, id: NodeId) {
        let at = self.cluster.now() + self.plan.outage.draw(&mut self.rng);
        self.set_alarm(at, Alarm::Restart(id));
    }

    /// Restarts a replica, and gives its monotonic clock a new origin and rate.
    pub(super) fn restart(&mut self, id: NodeId) -> Result<(), Violation> {
        let now = self.cluster.now();
        let clock = Clock::new(
            now,
            draw_origin(&mut self.rng),
            draw_rate(self.plan.drift_ppm, &mut self.rng),
        );
        let machine = self.cluster.machine_mut(id);
        machine.clock = clock;
        // A replica trusts the first wall clock reading after its start.
        machine.wall.glitch = 0;
        if self.cluster.machine(id).disk.may_corrupt && self.rng.permille(250) {
            self.cluster.check_old_copy(id)?;
        }
        let spared = match self.may_damage(id) {
            false => Spared::Files,
            true if self.changes_members() => Spared::Votes,
            true => Spared::Nothing,
        };
        if let Some(files) = self.cluster.machine_mut(id).disk.files() {
            files.spared = spared;
            if spared == Spared::Files {
                files.restore();
            }
        }
        self.cluster.start(id)?;
        if self.cluster.machine(id).disk.is_refused() {
            let downtime = self.plan.outage.draw(&mut self.rng) * 3;
            self.set_alarm(self.cluster.now() + downtime, Alarm::Restore(id));
        } else if self.cluster.machine(id).replica.is_none() {
            self.restart_later(id);
        }
        Ok(())
    }

    /// Returns whether the files of a replica that is down may be damaged. The other replicas must
    /// be able to elect a leader without those that are rejoining, and only one replica may have
    /// lost its votes, because two would wait for each other forever.
    fn may_damage(&self, id: NodeId) -> bool {
        if self.changes_members() && !self.is_one_of_three(id) {
            return false;
        }
        let machines = self.cluster.machines();
        let is_other = |machine: &&Machine| {
            machine.id != id && (machine.disk.is_rejoining() || machine.has_changed_state)
        };
        let others: Vec<&Machine> = machines.iter().filter(is_other).collect();
        let knows_vote = |machine: &&Machine| {
            machine.replica.is_some() && machine.disk.image().loss == Some(Loss::Entries)
        };
        others.is_empty()
            || !self.changes_members()
                && others.len() < (machines.len() - 1) / 2
                && others.iter().all(knows_vote)
                && !self.cluster.machine(id).disk.is_rejoining()
    }
}

/// Returns the length of a random wall clock jump in milliseconds. It ranges from seconds to years,
/// and is positive if the clock jumps forward.
pub(super) fn draw_jump(rng: &mut Rng) -> i64 {
    let second = 1_000;
    let length = *rng.choose(&[second, 60 * second, 86_400 * second, 4 * 365 * 86_400 * second]);
    let jump = i64::try_from(rng.between(length, 3 * length)).expect("at most some years");
    if rng.permille(500) { jump } else { -jump }
}

/// Formats replica ids for traces: numbers separated by spaces.
pub(super) fn names(ids: &[NodeId]) -> String {
    ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(" ")
}
