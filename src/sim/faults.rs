//! Fault profiles, and the plan of a run, which is drawn at random from a profile and a seed.

mod draw;
mod variations;

use std::time::Duration;

use crate::config::Config;
use crate::large_writes::PieceLimits;
use crate::sim::cluster::ClientProtocol;
use crate::sim::cluster::network::LinkQuality;
use crate::sim::disk::snapshots::SnapshotPlan;
use crate::sim::machine::Delays;
use crate::sim::rng::{DurationRange, Rng};
use crate::sim::streams::StreamPlan;
use crate::sim::workload::Load;
use crate::types::NodeId;

pub(super) use self::draw::{draw_origin, draw_rate};

/// Minimum number of replicas in runs with disk losses. In a smaller cluster, a replica that lost
/// its disk may never finish rejoining.
const DISK_LOSS_REPLICAS_MIN: u16 = 3;

/// A fault profile: a family of simulated runs with certain types of faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Runs with all types of faults except corrupted files. The seed determines which of them
    /// occur, and how often.
    Mixed,
    /// Runs without faults; message and disk delays are short.
    Quiet,
    /// Runs with message loss, duplication, delay and reordering.
    Network,
    /// Runs with network partitions: splits, isolated replicas, and links cut in one or both
    /// directions.
    Partitions,
    /// Runs with crashes and restarts, some with an empty disk, and with slow disks.
    Crashes,
    /// Runs with the real storage code and crashes, on disks that tear writes, fail, stall, fill
    /// up, become corrupted, or are replaced by old copies. In some seeds also with network faults
    /// and snapshots.
    Storage,
    /// Runs with all types of faults in which replicas take snapshots and compact their logs, so
    /// that followers need snapshots. Most seeds use the real storage code.
    Snapshots,
    /// Runs with clock drift within its allowed bound, wall clock jumps, pauses and partitions, in
    /// which leaders serve lease reads.
    Clocks,
    /// Runs in which replicas send their messages over the streams of the server's transport, while
    /// the network loses (also in bursts), delays, reorders and duplicates datagrams. Also with
    /// partitions, crashes and pauses.
    Streams,
    /// Runs with all types of faults in which leaders append most writes in pieces, as the server
    /// does for writes above 1 MiB. Some seeds use the real storage code and snapshots.
    LargeWrites,
    /// Runs with continual membership changes and all types of faults except corrupted files and
    /// clock skew. Some seeds of other profiles have membership changes, too.
    Members,
}

/// A type of fault that is injected into a running cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Partitions the replicas into two random groups.
    Split,
    /// Isolates one replica, often the leader.
    Isolate,
    /// Cuts all links to one replica or all links from it, but not both.
    IsolateOneWay,
    /// Cuts random links, some in one direction only.
    CutLinks,
    /// Heals all cut links.
    Heal,
    /// Pauses a replica for a random time.
    Pause,
    /// Crashes a random replica, often the leader, and restarts it later.
    Crash,
    /// Crashes the leader and restarts it later.
    CrashLeader,
    /// Crashes the leader for a long time and ends the outages of all other replicas at the same
    /// time. If one of these lags behind, the witness may have to bring it up to date.
    SwapReplicas,
    /// Crashes all replicas at once, and restarts them later.
    CrashAll,
    /// Crashes a replica and restarts it later with an empty disk. Not done while another replica
    /// is rejoining after a disk loss.
    LoseDisk,
    /// Makes a machine's disk slow, or fast again if it is already slow.
    SlowDisk,
    /// Makes one sync take longer than any election timeout.
    StallDisk,
    /// Makes one of a machine's next disk operations fail.
    FailDisk,
    /// Makes a machine's disk full for a random time.
    FillDisk,
    /// Corrupts a machine's next write to a snapshot file: the disk stores wrong bytes without
    /// reporting an error.
    CorruptSnapshotWrite,
    /// Flips a bit of a snapshot file of a running replica.
    CorruptSnapshot,
    /// Changes the rate of a machine's monotonic clock, within the bound on clock drift.
    ClockRate,
    /// Sets one wall clock wrong for a long time, or makes several wall clocks jump for up to a
    /// second.
    WallClock,
    /// Requests a random membership change from a leader: additions, promotions, demotions,
    /// removals or replacements.
    ChangeMembers,
    /// Changes the state of one replica, so that it differs from the others. Does nothing while
    /// another replica lacks the right state.
    ChangeState,
    /// Sets the loss rate of messages between replicas to 70 % or back to the run's normal rate, at
    /// random.
    MessageLoss,
    /// Requests a leadership transfer to a random replica or to any follower from the leader, or
    /// aborts the transfer in progress. Not a fault, but it may happen at any time.
    TransferLeadership,
}

/// The plan of a simulated run with faults: its cluster, faults and workload, all drawn from a
/// seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Ids of all replicas, including those that are not members yet.
    pub ids: Vec<NodeId>,
    /// Ids of the initial members of the cluster.
    pub members: Vec<NodeId>,
    /// Replicas that start with an earlier program version, and are upgraded at their first
    /// restart.
    pub old: Vec<NodeId>,
    /// Ids of the replicas that are witnesses, including those that are not members yet.
    pub witnesses: Vec<NodeId>,
    /// Configuration of the replicas.
    pub config: Config,
    /// Protocol between clients and replicas.
    pub protocol: ClientProtocol,
    /// Delay, loss and duplication of messages between replicas.
    pub quality: LinkQuality,
    /// Delay, loss and duplication of messages between clients and replicas.
    pub client_quality: LinkQuality,
    /// Durations of each machine's operations, such as syncs.
    pub delays: Delays,
    /// Range from which the duration of a sync on a slow disk is drawn.
    pub slow_sync: DurationRange,
    /// Maximum rate error of the machines' monotonic clocks, in parts per million.
    pub drift_ppm: u64,
    /// How long a wall clock jump must last before a replica accepts the new time; `None` if the
    /// run does not use expirations.
    pub confirm_after: Option<Duration>,
    /// The fault types from which each fault is drawn. A type listed twice is twice as likely.
    pub faults: Vec<Fault>,
    /// Range of the random time between two injected faults.
    pub fault_interval: DurationRange,
    /// Range of the random duration of a replica's pause or downtime.
    pub outage: DurationRange,
    /// The clients' workload.
    pub load: Load,
    /// Duration of the phase in which faults are injected.
    pub duration: Duration,
    /// Whether messages between replicas are encoded and decoded in transit, to test the wire
    /// format.
    pub through_wire: bool,
    /// Size of log segments in bytes; `None` if the run does not use the real storage code.
    pub segment_bytes: Option<u64>,
    /// Whether files of a replica may be corrupted while it is down.
    pub may_corrupt: bool,
    /// Snapshot interval and chunk size; `None` if replicas take no snapshots.
    pub snapshots: Option<SnapshotPlan>,
    /// Interval at which the replicas' states are compared; zero for never.
    pub digest_check: Duration,
    /// Size limits of the pieces of large writes.
    pub pieces: PieceLimits,
    /// The streams over which replicas send their messages; `None` if messages are not sent over
    /// streams.
    pub streams: Option<StreamPlan>,
}

impl Profile {
    /// All fault profiles.
    pub const ALL: [Profile; 11] = [
        Profile::Mixed,
        Profile::Quiet,
        Profile::Network,
        Profile::Partitions,
        Profile::Crashes,
        Profile::Storage,
        Profile::Snapshots,
        Profile::Clocks,
        Profile::Streams,
        Profile::LargeWrites,
        Profile::Members,
    ];

    /// Returns the name of the profile on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Mixed => "mixed",
            Profile::Quiet => "quiet",
            Profile::Network => "network",
            Profile::Partitions => "partitions",
            Profile::Crashes => "crashes",
            Profile::Storage => "storage",
            Profile::Snapshots => "snapshots",
            Profile::Clocks => "clocks",
            Profile::Streams => "streams",
            Profile::LargeWrites => "large-writes",
            Profile::Members => "members",
        }
    }

    /// Returns the profile with this name on the command line; `None` if there is none.
    pub fn by_name(name: &str) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.name() == name)
    }
}

/// A category of faults. A seed enables or disables whole categories.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FaultType {
    Network,
    Partitions,
    Crashes,
    Disks,
    Pauses,
    Clocks,
    Files,
}

impl Profile {
    fn draw_fault_types(self, rng: &mut Rng) -> Vec<FaultType> {
        use FaultType::{Clocks, Crashes, Disks, Files, Network, Partitions, Pauses};
        match self {
            Profile::Mixed | Profile::Snapshots | Profile::LargeWrites => [
                (Network, 600),
                (Partitions, 600),
                (Crashes, 600),
                (Disks, 500),
                (Pauses, 400),
                (Clocks, 500),
                (Files, if self == Profile::Mixed { 0 } else { 600 }),
            ]
            .into_iter()
            .filter(|&(_, permille)| permille > 0)
            .filter_map(|(fault_type, permille)| rng.permille(permille).then_some(fault_type))
            .collect(),
            Profile::Members => {
                [(Network, 500), (Partitions, 600), (Crashes, 600), (Disks, 300), (Pauses, 300)]
                    .into_iter()
                    .filter_map(|(fault_type, permille)| {
                        rng.permille(permille).then_some(fault_type)
                    })
                    .collect()
            }
            Profile::Quiet => vec![],
            Profile::Network => vec![Network],
            Profile::Partitions => vec![Partitions],
            Profile::Crashes => vec![Crashes, Disks],
            Profile::Storage => {
                [(Crashes, 1_000), (Disks, 700), (Network, 400), (Partitions, 300), (Files, 800)]
                    .into_iter()
                    .filter_map(|(fault_type, permille)| {
                        rng.permille(permille).then_some(fault_type)
                    })
                    .collect()
            }
            Profile::Clocks => vec![Pauses, Clocks, Partitions],
            Profile::Streams => [(Network, 900), (Partitions, 400), (Crashes, 500), (Pauses, 300)]
                .into_iter()
                .filter_map(|(fault_type, permille)| rng.permille(permille).then_some(fault_type))
                .collect(),
        }
    }

    /// Returns whether all runs of this profile use the server's configuration.
    fn needs_server(self) -> bool {
        use Profile::{LargeWrites, Members, Snapshots, Streams};
        matches!(self, Snapshots | Streams | LargeWrites | Members)
    }

    /// Returns whether runs of this profile may include disk losses if they include crashes.
    fn may_lose_disks(self) -> bool {
        use Profile::{Crashes, LargeWrites, Mixed, Snapshots, Streams};
        matches!(self, Mixed | Crashes | Snapshots | Streams | LargeWrites)
    }
}

impl Plan {
    /// Returns the maximum time to detect and rebuild a wrong state; zero if states are not
    /// compared.
    fn wrong_state_timeout(&self) -> Duration {
        let is_compared = u32::from(!self.digest_check.is_zero());
        (self.digest_check * 3 + self.outage.max + self.config.election_timeout_max * 4)
            * is_compared
    }

    /// Returns the maximum duration of the recovery phase, in which a majority without faults must
    /// answer all requests and agree on the log.
    pub fn recovery_timeout(&self) -> Duration {
        let config = &self.config;
        let election = config.election_timeout_max + config.election_timeout_lossy_extra;
        election * 10
            + config.check_quorum_window_lossy
            + config.silence_after_start
            + config.request_wait
            + self.load.timeout.max * 3
            + self.wrong_state_timeout()
            // A witness may have to lead first, and waits longer before it campaigns.
            + if self.witnesses.is_empty() { Duration::ZERO } else { election * 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_plans_cover_all_cluster_sizes_and_client_protocols() {
        let mut sizes = std::collections::BTreeSet::new();
        for seed in 0..500 {
            for profile in Profile::ALL {
                let plan = Plan::draw(profile, &mut Rng::new(seed));
                assert_eq!(plan.config.validate(), Ok(()), "{profile:?} {seed}");
                sizes.insert((plan.members.len(), plan.protocol == ClientProtocol::Course));
                assert!(plan.faults.is_empty() || profile != Profile::Quiet);
            }
        }
        assert_eq!(sizes.len(), 12, "{sizes:?}");
    }

    #[test]
    fn every_fault_profile_can_be_looked_up_by_name() {
        for profile in Profile::ALL {
            assert_eq!(Profile::by_name(profile.name()), Some(profile));
        }
        assert_eq!(Profile::by_name("nonsense"), None);
    }
}
