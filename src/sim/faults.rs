//! Fault profiles, and the plan of a run, which is drawn at random from a profile and a seed.

use std::time::Duration;

use crate::config::{Config, FanOut};
use crate::feature_level::FeatureLevel;
use crate::large_writes::PieceLimits;
use crate::sim::cluster::ClientProtocol;
use crate::sim::cluster::network::LinkQuality;
use crate::sim::disk::snapshots::SnapshotPlan;
use crate::sim::machine::Delays;
use crate::sim::rng::DurationRange;
use crate::sim::rng::{Rng, nanoseconds};
use crate::sim::streams::StreamPlan;
use crate::sim::workload::Load;
use crate::types::NodeId;

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
    /// Draws a random plan for a run of `profile`.
    pub fn draw(profile: Profile, rng: &mut Rng) -> Plan {
        let types = profile.draw_fault_types(rng);
        let has = |fault_type| types.contains(&fault_type);
        let replicas = match rng.below(20) {
            0 => 1,
            1 => 2,
            2 => 7,
            3..8 => 3,
            8..11 => 4,
            _ => 5,
        };
        // Replicas with the course's protocol have fixed members, take no snapshots, use no streams
        // and append no pieces.
        let course = rng.permille(400) && !profile.needs_server();
        let mut config = if course { Config::course() } else { Config::server() };
        vary(&mut config, rng, profile == Profile::Clocks);
        let clients = rng.between(2, 9);
        if clients.is_multiple_of(2) {
            // Short enough that disks that are only slow count as stalled, too.
            config.disk_stall_timeout = Some(Duration::from_millis(clients * clients * 4));
            config.leadership_transfer_interval = Duration::from_millis(clients * 100);
            config.leadership_transfer_timeout = config.election_timeout_max;
        }
        let hop = Duration::from_micros(if course { 200 } else { 500 });
        let mut plan = Plan {
            ids: (1..=replicas).map(NodeId).collect(),
            members: (1..=replicas).map(NodeId).collect(),
            old: Vec::new(),
            witnesses: Vec::new(),
            protocol: if course { ClientProtocol::Course } else { ClientProtocol::Connection },
            quality: draw_quality(has(FaultType::Network), hop, &config, rng),
            client_quality: client_quality(course, has(FaultType::Network), hop),
            delays: draw_delays(has(FaultType::Disks), rng),
            slow_sync: DurationRange {
                min: Duration::from_millis(5),
                max: config.election_timeout_max * u32::try_from(rng.between(1, 4)).expect("4"),
            },
            drift_ppm: if has(FaultType::Clocks) { u64::from(config.clock_drift_ppm) } else { 0 },
            confirm_after: None,
            faults: draw_faults(&types, rng),
            fault_interval: {
                let max =
                    config.election_timeout_max * u32::try_from(rng.between(1, 6)).expect("6");
                DurationRange { min: Duration::from_millis(20), max }
            },
            outage: DurationRange {
                min: Duration::from_millis(1),
                max: config.election_timeout_max * u32::try_from(rng.between(1, 5)).expect("5"),
            },
            load: Load {
                clients: usize::try_from(clients).expect("9"),
                readers: rng.index(usize::try_from(clients).expect("9")),
                keys: rng.between(2, 5),
                padding: 0,
                accounts: rng.between(0, 4),
                think_time: DurationRange {
                    min: Duration::ZERO,
                    max: Duration::from_millis(*rng.choose(&[15, 50, 150, 1_000])),
                },
                timeout: DurationRange {
                    min: config.election_timeout_min,
                    max: config.election_timeout_max * 2,
                },
                abandon_permille: if course { 200 } else { 20 },
                sessions: profile == Profile::Snapshots,
                expiring: false,
                batches: !course && clients % 5 == 2,
            },
            duration: Duration::from_secs(if course { 20 } else { 10 }),
            through_wire: rng.permille(250),
            segment_bytes: draw_segment_bytes(profile, rng),
            may_corrupt: has(FaultType::Files),
            snapshots: (profile == Profile::Snapshots
                || profile == Profile::Members && rng.permille(500)
                || profile == Profile::Storage && !course && rng.permille(600))
            .then(|| {
                config.log_bytes_kept = *rng.choose(&[0, 500, 4 << 10]);
                config.log_bytes_max = config.log_bytes_kept * rng.index(3);
                SnapshotPlan {
                    every: *rng.choose(&[1, 5, 20, 80]),
                    chunk_bytes: *rng.choose(&[100, 1_000, 10_000]),
                }
            }),
            digest_check: Duration::ZERO,
            pieces: PieceLimits::SERVER,
            streams: None,
            config,
        };
        plan.expire_keys(profile, clients);
        plan.adapt_to(profile, has(FaultType::Network), hop, rng);
        let loses_disks = profile.may_lose_disks()
            && has(FaultType::Crashes)
            && plan.segment_bytes.is_none()
            && replicas >= DISK_LOSS_REPLICAS_MIN;
        plan.add_faults(loses_disks, rng);
        plan.vary(profile, rng);
        plan
    }

    /// Makes keys expire, in all runs of [`Profile::Clocks`] and in some of the others. Derived
    /// from earlier random numbers instead of new ones, so that the runs of existing seeds stay the
    /// same.
    fn expire_keys(&mut self, profile: Profile, clients: u64) {
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
    fn vary(&mut self, profile: Profile, rng: &mut Rng) {
        self.slow_down_compactions();
        self.change_members(profile, rng);
        self.upgrade_replicas(profile, rng);
        self.add_witnesses(profile, rng);
        self.change_states(rng);
    }

    /// Makes some replicas witnesses in runs with membership changes. Turns some runs of
    /// [`Profile::Members`] into runs with fixed members: two or three replicas with data and one
    /// or two witnesses.
    fn add_witnesses(&mut self, profile: Profile, rng: &mut Rng) {
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
    fn add_faults(&mut self, loses_disks: bool, rng: &mut Rng) {
        if rng.permille(500) && loses_disks {
            self.faults.extend([Fault::LoseDisk; 2]);
        }
        if rng.permille(250) && !self.faults.is_empty() {
            self.faults.extend([Fault::TransferLeadership; 2]);
        }
    }

    /// Adds a rolling upgrade to some runs with crashes: some replicas start with an earlier
    /// program version, and the leader raises the cluster's feature level when all are upgraded.
    fn upgrade_replicas(&mut self, profile: Profile, rng: &mut Rng) {
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
    fn change_members(&mut self, profile: Profile, rng: &mut Rng) {
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
    fn change_states(&mut self, rng: &mut Rng) {
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
    fn adapt_to(&mut self, profile: Profile, faulty: bool, hop: Duration, rng: &mut Rng) {
        match profile {
            Profile::Storage => self.increase_disk_load(rng),
            Profile::Streams => self.use_streams(faulty, hop, rng),
            Profile::LargeWrites => self.use_pieces(rng),
            _ => {}
        }
    }

    /// Makes replicas send their messages over datagram streams. `faulty` is whether there are
    /// network faults, and `hop` is the usual delay of a datagram.
    fn use_streams(&mut self, faulty: bool, hop: Duration, rng: &mut Rng) {
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
    fn use_pieces(&mut self, rng: &mut Rng) {
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
    fn slow_down_compactions(&mut self) {
        if self.snapshots.is_some() && self.segment_bytes.is_some() {
            self.delays.sync =
                DurationRange { min: Duration::from_micros(10), max: Duration::from_millis(20) };
        }
    }

    /// Changes the plan so that more data is written to disks, without more work for the
    /// linearizability checker.
    fn increase_disk_load(&mut self, rng: &mut Rng) {
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

fn vary(config: &mut Config, rng: &mut Rng, leases: bool) {
    config.lease_reads = leases || rng.permille(500);
    config.fan_out = if rng.permille(500) { FanOut::All } else { FanOut::Thrifty };
    if rng.permille(300) {
        config.append_entries_max = usize::try_from(rng.between(1, 5)).expect("5");
    }
    if rng.permille(300) {
        config.append_bytes_max = usize::try_from(rng.between(1, 300)).expect("300");
    }
    if rng.permille(300) {
        config.inflight_appends_max = usize::try_from(rng.between(1, 4)).expect("4");
    }
    if rng.permille(100) {
        config.inflight_bytes_max = usize::try_from(rng.between(1, 500)).expect("500");
    }
    if rng.permille(100) {
        config.uncommitted_bytes_max = usize::try_from(rng.between(500, 2_000)).expect("2000");
    }
    if rng.permille(100) {
        config.waiting_requests_max = usize::try_from(rng.between(0, 3)).expect("3");
        config.waiting_reads_max = usize::try_from(rng.between(1, 3)).expect("3");
    }
}

fn draw_quality(faulty: bool, hop: Duration, config: &Config, rng: &mut Rng) -> LinkQuality {
    let clean =
        LinkQuality { delay_min: hop / 2, delay_max: hop * 3 / 2, ..LinkQuality::perfect(hop) };
    if !faulty {
        return clean;
    }
    let loss_max = *rng.choose(&[0, 50, 150, 300, 500_u64]);
    LinkQuality {
        loss_permille: u32::try_from(rng.between(0, loss_max)).expect("500"),
        duplicate_permille: *rng.choose(&[0, 20, 100]),
        late_permille: *rng.choose(&[0, 10, 100, 300]),
        delay_max: hop * u32::try_from(rng.between(2, 60)).expect("60"),
        // Longer than several terms.
        late_max: config.election_timeout_max * 8,
        ..clean
    }
}

/// Returns the quality of links between clients and replicas. `hop` is the typical delay. With the
/// course's protocol (`course`) or without network faults (`faulty` is false), no message is lost.
/// Otherwise a lost message stands for a client that gave up on a TCP connection.
fn client_quality(course: bool, faulty: bool, hop: Duration) -> LinkQuality {
    let clean = LinkQuality { delay_min: hop / 2, delay_max: hop * 2, ..LinkQuality::perfect(hop) };
    if course || !faulty {
        return clean;
    }
    LinkQuality {
        loss_permille: 50,
        duplicate_permille: 50,
        late_permille: 20,
        late_max: Duration::from_secs(3),
        ..clean
    }
}

/// Returns the size of log segments in bytes; `None` if the run does not use the real storage code.
fn draw_segment_bytes(profile: Profile, rng: &mut Rng) -> Option<u64> {
    let uses_files = match profile {
        Profile::Storage => true,
        Profile::Snapshots => rng.permille(700),
        Profile::Members => rng.permille(300),
        _ => false,
    };
    uses_files.then(|| *rng.choose(&[2 << 10, 8 << 10, 64 << 10]))
}

fn draw_delays(slow: bool, rng: &mut Rng) -> Delays {
    let micros = Duration::from_micros;
    let choose = |rng: &mut Rng, longest: u64| match rng.below(3) {
        0 => DurationRange::ZERO,
        1 => DurationRange { min: micros(1), max: micros(longest / 10) },
        _ => DurationRange { min: micros(10), max: micros(longest) },
    };
    let factor = if slow { 10 } else { 1 };
    Delays {
        sync: choose(rng, 2_000 * factor),
        apply: choose(rng, 500 * factor),
        batch: choose(rng, 300 * factor),
    }
}

fn draw_faults(types: &[FaultType], rng: &mut Rng) -> Vec<Fault> {
    use Fault::{
        ClockRate, CorruptSnapshot, CorruptSnapshotWrite, Crash, CrashAll, CrashLeader, CutLinks,
        FailDisk, FillDisk, Heal, Isolate, IsolateOneWay, MessageLoss, Pause, SlowDisk, Split,
        StallDisk,
    };
    let has = |fault_type| types.contains(&fault_type);
    let mut faults = Vec::new();
    let mut add = |wanted: bool, some: &[Fault]| {
        if wanted {
            faults.extend_from_slice(some);
        }
    };
    add(has(FaultType::Partitions), &[Heal, Heal]);
    // Each seed has its own weights: for example, some never split the cluster.
    for fault in [Split, Isolate, IsolateOneWay, CutLinks] {
        add(has(FaultType::Partitions) && rng.permille(600), &[fault]);
    }
    add(has(FaultType::Crashes), &[Crash]);
    add(has(FaultType::Crashes) && rng.permille(600), &[CrashLeader]);
    add(has(FaultType::Crashes) && rng.permille(200), &[CrashAll]);
    add(has(FaultType::Disks), &[SlowDisk]);
    add(has(FaultType::Pauses), &[Pause]);
    add(has(FaultType::Clocks), &[ClockRate]);
    add(has(FaultType::Network) && rng.permille(300), &[MessageLoss]);
    for fault in [StallDisk, FailDisk, FillDisk, CorruptSnapshotWrite, CorruptSnapshot] {
        add(has(FaultType::Files) && rng.permille(500), &[fault]);
    }
    faults
}

/// Returns a random rate error of a clock, in parts per million, from `-drift_ppm` to `drift_ppm`.
/// Each bound has a probability of at least 1/4.
pub(super) fn draw_rate(drift_ppm: u64, rng: &mut Rng) -> i64 {
    let bound = i64::try_from(drift_ppm).expect("a small rate");
    match rng.below(4) {
        0 => bound,
        1 => -bound,
        _ => i64::try_from(rng.between(0, 2 * drift_ppm)).expect("a small rate") - bound,
    }
}

/// Returns a random initial reading of a monotonic clock, below 24 hours.
pub(super) fn draw_origin(rng: &mut Rng) -> crate::types::Instant {
    crate::types::Instant(rng.below(nanoseconds(Duration::from_hours(24))))
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
