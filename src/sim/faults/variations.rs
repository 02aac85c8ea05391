//! Variations of a plan, which only some profiles or seeds have: membership changes, witnesses,
//! upgrades, datagram streams, large writes and others.

use std::time::Duration;

use crate::feature_level::FeatureLevel;
use crate::large_writes::PieceLimits;
use crate::sim::cluster::ClientProtocol;
use crate::sim::cluster::network::LinkQuality;
use crate::sim::disk::snapshots::SnapshotPlan;
use crate::sim::rng::{DurationRange, Rng};
use crate::sim::streams::StreamPlan;
use crate::types::NodeId;

use super::{Fault, Plan, Profile};

impl Plan {
    /// Makes keys expire, in all runs of [`Profile::Clocks`] and in some of the others. Derived
    /// from earlier random numbers instead of new ones, so that the runs of existing seeds stay the
    /// same.
    pub(super) fn expire_keys(&mut self, profile: Profile, clients: u64) {
        let expiring = profile == Profile::Clocks
            || matches!(profile, Profile::Mixed | Profile::LargeWrites)
                && clients.is_multiple_of(3);
        if expiring && self.protocol == ClientProtocol::Connection {
            self.load.expiring = true;
            self.confirm_after = Some(Duration::from_secs(2));
            self.faults.extend([Fault::WallClock; 2]);
        }
    }

    /// Adds membership changes, upgrades, witnesses, changed states and slow compactions to the
    /// plan, where the profile and the seed provide for them.
    pub(super) fn vary(&mut self, profile: Profile, rng: &mut Rng) {
        self.slow_down_compactions();
        self.change_members(profile, rng);
        self.upgrade_replicas(profile, rng);
        self.add_witnesses(profile, rng);
        self.change_states(rng);
    }

    /// Makes some replicas witnesses in runs with membership changes. Turns some runs of
    /// [`Profile::Members`] into runs with fixed members: two or three replicas with data and one
    /// or two witnesses.
    pub(super) fn add_witnesses(&mut self, profile: Profile, rng: &mut Rng) {
        if profile == Profile::Members && rng.permille(250) {
            let (data, witnesses) = *rng.choose(&[(2, 1), (2, 1), (3, 1), (3, 2)]);
            self.ids = (1..=data + witnesses).map(NodeId).collect();
            self.members.clone_from(&self.ids);
            self.witnesses = self.ids.split_off(usize::from(data));
            self.ids.extend(&self.witnesses);
            self.faults.retain(|fault| *fault != Fault::ChangeMembers);
            self.faults.extend([Fault::Isolate, Fault::Crash, Fault::SwapReplicas]);
            self.duration = Duration::from_secs(20);
            // Long enough to elect a witness, and for it to step down again.
            self.outage.max = self.config.election_timeout_max * 6;
        } else if self.faults.contains(&Fault::ChangeMembers) {
            let is_spare = |id: &&NodeId| !self.members.contains(id);
            let spares = self.ids.iter().filter(is_spare).copied();
            self.witnesses = spares.filter(|_| rng.permille(300)).collect();
        }
        if !self.witnesses.is_empty() {
            self.config.feature_level = FeatureLevel::NEWEST;
            self.old.retain(|id| !self.witnesses.contains(id));
            // The log limit of witnesses: enough for most of a run, for part of it, or for almost
            // nothing.
            let bytes = *rng.choose(&[256 << 10, 16 << 10, 1 << 10]);
            self.config.witness_log_bytes_max = bytes;
        }
    }

    /// Adds the fault types that this seed has in addition to those of its profile.
    pub(super) fn add_faults(&mut self, loses_disks: bool, rng: &mut Rng) {
        if rng.permille(500) && loses_disks {
            self.faults.extend([Fault::LoseDisk; 2]);
        }
        if rng.permille(250) && !self.faults.is_empty() {
            self.faults.extend([Fault::TransferLeadership; 2]);
        }
    }

    /// Adds a rolling upgrade to some runs with crashes: some replicas start with an earlier
    /// program version, and the leader raises the cluster's feature level when all are upgraded.
    pub(super) fn upgrade_replicas(&mut self, profile: Profile, rng: &mut Rng) {
        let restarts = self
            .faults
            .iter()
            .any(|fault| matches!(fault, Fault::Crash | Fault::CrashLeader | Fault::CrashAll));
        let is_possible = self.protocol == ClientProtocol::Connection && restarts;
        if !is_possible || profile == Profile::Quiet || !rng.permille(300) {
            return;
        }
        self.config.feature_level = FeatureLevel::NEWEST;
        self.old = self.members.clone();
        self.old.retain(|_| rng.permille(500));
    }

    /// Adds membership changes to all runs of [`Profile::Members`] and to some of the others, but
    /// not to runs with the course's protocol, whose members are fixed, and not to runs with disk
    /// losses, because a replica must not rejoin after the members have changed.
    pub(super) fn change_members(&mut self, profile: Profile, rng: &mut Rng) {
        let is_possible =
            self.protocol == ClientProtocol::Connection && !self.faults.contains(&Fault::LoseDisk);
        let is_wanted = match profile {
            Profile::Members => true,
            Profile::Quiet => false,
            _ => rng.permille(300),
        };
        if !is_possible || !is_wanted {
            return;
        }
        // New members lack the whole log. With a slow disk and one entry per message,
        // retransmitting the whole window repeatedly would take millions of messages.
        self.config.inflight_appends_max = self.config.inflight_appends_max.min(16);
        let spares = *rng.choose(&[1, 2, 4, 8]);
        let first = u16::try_from(self.ids.len()).expect("at most 7") + 1;
        self.ids.extend((first..first + spares).map(NodeId));
        let count = self.faults.len() / *rng.choose(&[1, 2, 3]) + 1;
        self.faults.extend(vec![Fault::ChangeMembers; count]);
        self.fault_interval.max = self.fault_interval.max.min(self.config.election_timeout_max * 2);
    }

    /// Adds changes of one replica's state to some of the runs with the real storage code and
    /// enough replicas for a majority without the changed one. Not in runs with membership changes
    /// or witnesses, which may leave too few voters with data, nor with replicas of an earlier
    /// version. Nor in runs with damaged snapshots: a leader with a changed state takes no new
    /// snapshot for its followers.
    pub(super) fn change_states(&mut self, rng: &mut Rng) {
        let excluded = [Fault::ChangeMembers, Fault::CorruptSnapshot, Fault::CorruptSnapshotWrite];
        let is_possible = self.protocol == ClientProtocol::Connection
            && self.segment_bytes.is_some()
            && self.members.len() >= 3
            && self.old.is_empty()
            && self.witnesses.is_empty()
            && !self.faults.is_empty()
            && !excluded.iter().any(|fault| self.faults.contains(fault));
        if is_possible && rng.permille(400) {
            self.config.feature_level = FeatureLevel::NEWEST;
            self.digest_check = Duration::from_millis(*rng.choose(&[200, 500, 1_000]));
            self.faults.extend([Fault::ChangeState; 3]);
        }
    }

    /// Adapts the plan to `profile`. `faulty` is whether there are network faults, and `hop` is the
    /// usual delay of a message.
    pub(super) fn adapt_to(
        &mut self,
        profile: Profile,
        faulty: bool,
        hop: Duration,
        rng: &mut Rng,
    ) {
        match profile {
            Profile::Storage => self.increase_disk_load(rng),
            Profile::Streams => self.use_streams(faulty, hop, rng),
            Profile::LargeWrites => self.use_pieces(rng),
            _ => {}
        }
    }

    /// Makes replicas send their messages over datagram streams. `faulty` is whether there are
    /// network faults, and `hop` is the usual delay of a datagram.
    pub(super) fn use_streams(&mut self, faulty: bool, hop: Duration, rng: &mut Rng) {
        self.config = self.config.clone().over_streams();
        self.streams = Some(StreamPlan {
            send_window: *rng.choose(&[16 << 10, 128 << 10, 8 << 20]),
            receive_window: *rng.choose(&[64 << 10, 4 << 20]),
            busy_permille: *rng.choose(&[0, 200]),
            mutant: None,
        });
        // Some messages need several datagrams.
        self.load.padding = *rng.choose(&[0, 0, 1_500, 6_000]);
        self.config.uncommitted_bytes_max += self.load.padding * 4;
        if rng.permille(400) {
            self.config.log_bytes_kept = *rng.choose(&[0, 4 << 10]);
            self.config.log_bytes_max = self.config.log_bytes_kept * 2;
            let every = *rng.choose(&[20, 80]);
            self.snapshots = Some(SnapshotPlan { every, chunk_bytes: 10_000 });
        }
        if !faulty {
            return;
        }
        // The average loss in permille.
        let loss = rng.between(0, 600);
        let bursts = rng.permille(500);
        // A burst continues with a probability of 3/4 after each loss, so this gives the same
        // average loss.
        let first = if bursts { loss * 250 / (1_000 - loss) } else { loss };
        self.quality = LinkQuality {
            loss_permille: u32::try_from(first).expect("600"),
            burst_permille: if bursts { 750 } else { 0 },
            duplicate_permille: *rng.choose(&[0, 20, 100]),
            late_permille: *rng.choose(&[0, 0, 10]),
            delay_min: hop / 2,
            delay_max: Duration::from_millis(*rng.choose(&[1, 5, 30, 100])),
            late_max: self.config.election_timeout_max * 8,
        };
    }

    /// Makes leaders append most writes in pieces. In some runs, also makes snapshots so frequent
    /// that many are taken between the pieces of a batch.
    pub(super) fn use_pieces(&mut self, rng: &mut Rng) {
        self.load.padding = *rng.choose(&[200, 500, 1_000]);
        self.load.batches = rng.permille(500);
        let piece_bytes = *rng.choose(&[60, 100, 150]);
        self.pieces = PieceLimits {
            whole_bytes_max: 2 * piece_bytes,
            piece_bytes,
            uncommitted_bytes_max: *rng.choose(&[1, 2, 5]) * piece_bytes,
            lag_pieces_max: *rng.choose(&[2, 8, 100]),
        };
        self.config.uncommitted_bytes_max += self.load.padding * 4;
        self.config.inflight_appends_max = self.config.inflight_appends_max.min(16);
        // To limit the work of the linearizability checker, as in `increase_disk_load`.
        self.load.keys *= 2;
        if rng.permille(600) {
            self.segment_bytes = rng.permille(500).then_some(8 << 10);
            self.config.log_bytes_kept = *rng.choose(&[0, 500, 4 << 10]);
            self.config.log_bytes_max = self.config.log_bytes_kept * rng.index(3);
            let (every, chunk_bytes) = (*rng.choose(&[1, 5, 20]), *rng.choose(&[1_000, 10_000]));
            self.snapshots = Some(SnapshotPlan { every, chunk_bytes });
        }
    }

    /// Makes syncs slow if the run takes snapshots with the real storage code, so that crashes
    /// often interrupt compactions of the log, and resets of the log after a snapshot.
    pub(super) fn slow_down_compactions(&mut self) {
        if self.snapshots.is_some() && self.segment_bytes.is_some() {
            self.delays.sync =
                DurationRange { min: Duration::from_micros(10), max: Duration::from_millis(20) };
        }
    }

    /// Changes the plan so that more data is written to disks, without more work for the
    /// linearizability checker.
    pub(super) fn increase_disk_load(&mut self, rng: &mut Rng) {
        // Blocks of several sectors can be torn.
        self.load.padding = *rng.choose(&[0, 0, 300, 1_500]);
        // With a slow disk the whole window is resent repeatedly; with one entry per message that
        // would be millions of redundant messages.
        self.config.inflight_appends_max = self.config.inflight_appends_max.min(16);
        self.config.uncommitted_bytes_max += self.load.padding * 4;
        // The linearizability checker searches each key separately, and thousands of operations on
        // one key would take too long.
        self.load.keys *= 4;
        // Clients that only read cause most of the checker's work, and write nothing to disks.
        self.load.readers = self.load.readers.min(usize::from(rng.permille(200)));
    }
}
