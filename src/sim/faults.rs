//! What goes wrong in a fault run: profiles, and the plan that a seed draws from one.

use std::time::Duration;

use crate::config::{Config, FanOut};
use crate::sim::cluster::ClientProtocol;
use crate::sim::cluster::network::LinkQuality;
use crate::sim::disk::Pace;
use crate::sim::disk::snapshots::SnapshotPlan;
use crate::sim::machine::Paces;
use crate::sim::rng::{Rng, nanoseconds};
use crate::sim::workload::Load;
use crate::types::NodeId;

/// With fewer replicas one whose disk is lost may never come back.
const DISK_LOSS_REPLICAS_MIN: u16 = 3;

/// A family of fault runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Anything, each seed its own mixture of all others.
    Mixed,
    /// Nothing goes wrong but small delays.
    Quiet,
    /// Messages are lost, repeated, late and out of order.
    Network,
    /// Links are cut: in two halves, one way, partly.
    Partitions,
    /// Replicas crash and start again, some with an empty disk, and their disks are slow.
    Crashes,
    /// The same with each folder in files, by the storage code, on a disk that tears at a crash
    /// what was not synced, fails, stalls, is full, rots, and is put back from a copy; in some
    /// seeds on a bad network, and in some with snapshots.
    Storage,
    /// Anything, and replicas take snapshots and cut their logs, so that those that were away are
    /// sent snapshots; in most seeds in files, on such a disk.
    Snapshots,
    /// Clocks go wrong within the bound, while replicas pause and links are cut; leases are on.
    Clocks,
}

/// What can be done to a running cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Cut the replicas in two groups.
    Split,
    /// Cut one replica off, often the leader.
    Isolate,
    /// Cut one replica off in one direction only.
    Deafen,
    /// Cut some links in some directions.
    CutSome,
    /// Take back all cuts.
    Heal,
    /// Stop a replica for a while.
    Pause,
    /// Crash a replica and start it again later.
    Crash,
    /// Crash the leader.
    CrashLeader,
    /// Crash all replicas at once.
    CrashAll,
    /// Crash a replica and let it start again later with an empty disk, while no other is without
    /// its own.
    LoseDisk,
    /// Make a disk slow, or as fast as before.
    SlowDisk,
    /// Let one sync take longer than any election.
    Stall,
    /// Let an operation of a disk fail.
    FailDisk,
    /// Leave no room on a disk, for a while.
    FillDisk,
    /// Let a write of a snapshot go wrong without anybody's being told.
    SpoilSnapshot,
    /// Damage a snapshot while its replica runs.
    RotSnapshot,
    /// Change the rate of a clock, within the bound.
    Clock,
    /// Let a wall clock jump, or several for a moment.
    WallClock,
    /// Lose more messages for a while, or as many as before.
    Weather,
}

/// One run, drawn from its seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The replicas.
    pub ids: Vec<NodeId>,
    /// How each of them is configured.
    pub config: Config,
    /// Who answers writes.
    pub protocol: ClientProtocol,
    /// Links between replicas.
    pub quality: LinkQuality,
    /// Links between clients and replicas.
    pub client_quality: LinkQuality,
    /// How fast machines are.
    pub paces: Paces,
    /// Slow disks.
    pub slow_sync: Pace,
    /// Largest deviation of a clock from the true time.
    pub drift_ppm: u64,
    /// How long a jump of a wall clock must last to be believed; `None` if no key expires.
    pub confirm_after: Option<Duration>,
    /// What happens, each as likely as it is often here.
    pub faults: Vec<Fault>,
    /// From one fault to the next.
    pub fault_pause: Pace,
    /// How long a replica is stopped or down.
    pub outage: Pace,
    /// Clients.
    pub load: Load,
    /// How long the faults last.
    pub duration: Duration,
    /// Messages are encoded and decoded on their way.
    pub through_wire: bool,
    /// Size of the segments of logs in files, where logs are in files.
    pub segment_bytes: Option<u64>,
    /// Whether folders are damaged while their replicas are down.
    pub may_rot: bool,
    /// How replicas take snapshots, if they do.
    pub snapshots: Option<SnapshotPlan>,
}

impl Profile {
    /// All of them.
    pub const ALL: [Profile; 8] = [
        Profile::Mixed,
        Profile::Quiet,
        Profile::Network,
        Profile::Partitions,
        Profile::Crashes,
        Profile::Storage,
        Profile::Snapshots,
        Profile::Clocks,
    ];

    /// Its name on the command line.
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
        }
    }

    /// The profile of that name.
    pub fn by_name(name: &str) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.name() == name)
    }
}

/// A kind of trouble that a seed has or has not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Network,
    Partitions,
    Crashes,
    Disks,
    Pauses,
    Clocks,
    Files,
}

impl Profile {
    fn draw_troubles(self, rng: &mut Rng) -> Vec<Trouble> {
        use Trouble::{Clocks, Crashes, Disks, Files, Network, Partitions, Pauses};
        match self {
            Profile::Mixed | Profile::Snapshots => [
                (Network, 600),
                (Partitions, 600),
                (Crashes, 600),
                (Disks, 500),
                (Pauses, 400),
                (Clocks, 500),
                (Files, if self == Profile::Snapshots { 600 } else { 0 }),
            ]
            .into_iter()
            .filter(|&(_, permille)| permille > 0)
            .filter_map(|(trouble, permille)| rng.chance(permille).then_some(trouble))
            .collect(),
            Profile::Quiet => vec![],
            Profile::Network => vec![Network],
            Profile::Partitions => vec![Partitions],
            Profile::Crashes => vec![Crashes, Disks],
            Profile::Storage => {
                [(Crashes, 1_000), (Disks, 700), (Network, 400), (Partitions, 300), (Files, 800)]
                    .into_iter()
                    .filter_map(|(trouble, permille)| rng.chance(permille).then_some(trouble))
                    .collect()
            }
            Profile::Clocks => vec![Pauses, Clocks, Partitions],
        }
    }
}

impl Plan {
    /// Draws a run.
    pub fn draw(profile: Profile, rng: &mut Rng) -> Plan {
        let troubles = profile.draw_troubles(rng);
        let has = |trouble| troubles.contains(&trouble);
        let replicas = match rng.below(20) {
            0 => 1,
            1 => 2,
            2 => 7,
            3..8 => 3,
            8..11 => 4,
            _ => 5,
        };
        // The course's replicas never take snapshots.
        let course = rng.chance(400) && profile != Profile::Snapshots;
        let mut config = if course { Config::course() } else { Config::server() };
        vary(&mut config, rng, profile == Profile::Clocks);
        let clients = rng.between(2, 9);
        if clients.is_multiple_of(2) {
            // So soon that disks which are only slow are taken for stalled, too.
            config.disk_stall_timeout = Some(Duration::from_millis(clients * clients * 4));
            config.leadership_transfer_interval = Duration::from_millis(clients * 100);
            config.leadership_transfer_timeout = config.election_timeout_max;
        }
        let hop = if course { Duration::from_micros(200) } else { Duration::from_micros(500) };
        let mut plan = Plan {
            ids: (1..=replicas).map(NodeId).collect(),
            protocol: if course { ClientProtocol::Course } else { ClientProtocol::Connection },
            quality: draw_quality(has(Trouble::Network), hop, &config, rng),
            client_quality: client_quality(course, has(Trouble::Network), hop),
            paces: draw_paces(has(Trouble::Disks), rng),
            slow_sync: Pace {
                min: Duration::from_millis(5),
                max: config.election_timeout_max * u32::try_from(rng.between(1, 4)).expect("4"),
            },
            drift_ppm: if has(Trouble::Clocks) { u64::from(config.clock_drift_ppm) } else { 0 },
            confirm_after: None,
            faults: draw_faults(&troubles, rng),
            fault_pause: {
                let max =
                    config.election_timeout_max * u32::try_from(rng.between(1, 6)).expect("6");
                Pace { min: Duration::from_millis(20), max }
            },
            outage: Pace {
                min: Duration::from_millis(1),
                max: config.election_timeout_max * u32::try_from(rng.between(1, 5)).expect("5"),
            },
            load: Load {
                clients: usize::try_from(clients).expect("9"),
                readers: rng.place(usize::try_from(clients).expect("9")),
                keys: rng.between(2, 5),
                padding: 0,
                accounts: rng.between(0, 4),
                think: Pace {
                    min: Duration::ZERO,
                    max: Duration::from_millis(*rng.pick(&[15, 50, 150, 1_000])),
                },
                patience: Pace {
                    min: config.election_timeout_min,
                    max: config.election_timeout_max * 2,
                },
                give_up_permille: if course { 200 } else { 20 },
                client_model: profile == Profile::Snapshots,
                expiring: false,
            },
            duration: Duration::from_secs(if course { 20 } else { 10 }),
            through_wire: rng.chance(250),
            segment_bytes: (profile == Profile::Storage
                || profile == Profile::Snapshots && rng.chance(700))
            .then(|| *rng.pick(&[2 << 10, 8 << 10, 64 << 10])),
            may_rot: has(Trouble::Files),
            snapshots: (profile == Profile::Snapshots
                || profile == Profile::Storage && !course && rng.chance(600))
            .then(|| {
                config.log_bytes_kept = *rng.pick(&[0, 500, 4 << 10]);
                config.log_bytes_max = config.log_bytes_kept * rng.place(3);
                SnapshotPlan {
                    every: *rng.pick(&[1, 5, 20, 80]),
                    chunk_bytes: *rng.pick(&[100, 1_000, 10_000]),
                }
            }),
            config,
        };
        // Decided by what was drawn already, so that the other seeds are the runs that they were.
        let expiring =
            profile == Profile::Clocks || profile == Profile::Mixed && clients.is_multiple_of(3);
        if expiring && !course {
            plan.load.expiring = true;
            plan.confirm_after = Some(Duration::from_secs(2));
            plan.faults.extend([Fault::WallClock; 2]);
        }
        if profile == Profile::Storage {
            plan.burden_disks(rng);
        }
        let loses_disks = matches!(profile, Profile::Mixed | Profile::Crashes | Profile::Snapshots)
            && has(Trouble::Crashes)
            && plan.segment_bytes.is_none()
            && replicas >= DISK_LOSS_REPLICAS_MIN;
        // Drawn from a copy of the rng, so that all other runs stay what they were.
        if loses_disks && rng.clone().chance(500) {
            plan.faults.extend([Fault::LoseDisk; 2]);
        }
        if plan.snapshots.is_some() && plan.segment_bytes.is_some() {
            // So that crashes come while a log is cut or begins anew.
            plan.paces.sync =
                Pace { min: Duration::from_micros(10), max: Duration::from_millis(20) };
        }
        plan
    }

    /// Puts more load on disks, and no more on the judgement of what clients saw.
    fn burden_disks(&mut self, rng: &mut Rng) {
        // So that blocks are of several sectors, of which some are torn.
        self.load.padding = *rng.pick(&[0, 0, 300, 1_500]);
        // Where a disk is slow the whole window is sent again and again: with one record a
        // message that would be millions of messages that say nothing new.
        self.config.inflight_appends_max = self.config.inflight_appends_max.min(16);
        self.config.uncommitted_bytes_max += self.load.padding * 4;
        // What clients saw is judged key by key, and of one with thousands of operations that
        // takes longer than it may.
        self.load.keys *= 4;
        // Quick readers are most of the work, and do nothing to disks.
        self.load.readers = self.load.readers.min(usize::from(rng.chance(200)));
    }

    /// How long a healthy majority may take to answer everything and to agree.
    pub fn patience(&self) -> Duration {
        let config = &self.config;
        let election = config.election_timeout_max + config.election_timeout_lossy_extra;
        election * 10
            + config.check_quorum_window_lossy
            + config.silence_after_start
            + config.request_wait
            + self.load.patience.max * 3
    }
}

fn vary(config: &mut Config, rng: &mut Rng, leases: bool) {
    config.lease_reads = leases || rng.chance(500);
    config.fan_out = if rng.chance(500) { FanOut::All } else { FanOut::Thrifty };
    if rng.chance(300) {
        config.append_entries_max = usize::try_from(rng.between(1, 5)).expect("5");
    }
    if rng.chance(300) {
        config.append_bytes_max = usize::try_from(rng.between(1, 300)).expect("300");
    }
    if rng.chance(300) {
        config.inflight_appends_max = usize::try_from(rng.between(1, 4)).expect("4");
    }
    if rng.chance(100) {
        config.inflight_bytes_max = usize::try_from(rng.between(1, 500)).expect("500");
    }
    if rng.chance(100) {
        config.uncommitted_bytes_max = usize::try_from(rng.between(500, 2_000)).expect("2000");
    }
    if rng.chance(100) {
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
    let loss_max = *rng.pick(&[0, 50, 150, 300, 500_u64]);
    LinkQuality {
        loss_permille: u32::try_from(rng.between(0, loss_max)).expect("500"),
        duplicate_permille: *rng.pick(&[0, 20, 100]),
        late_permille: *rng.pick(&[0, 10, 100, 300]),
        delay_max: hop * u32::try_from(rng.between(2, 60)).expect("60"),
        // Older than several terms.
        late_max: config.election_timeout_max * 8,
        ..clean
    }
}

/// The course's client traffic is never lost; a socket's is only where its replica dies, but a
/// client that gives a connection up too early and asks again over another one looks like loss.
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

fn draw_paces(slow: bool, rng: &mut Rng) -> Paces {
    let micros = Duration::from_micros;
    let choose = |rng: &mut Rng, longest: u64| match rng.below(3) {
        0 => Pace::AT_ONCE,
        1 => Pace { min: micros(1), max: micros(longest / 10) },
        _ => Pace { min: micros(10), max: micros(longest) },
    };
    let factor = if slow { 10 } else { 1 };
    Paces {
        sync: choose(rng, 2_000 * factor),
        apply: choose(rng, 500 * factor),
        batch: choose(rng, 300 * factor),
    }
}

fn draw_faults(troubles: &[Trouble], rng: &mut Rng) -> Vec<Fault> {
    use Fault::{
        Clock, Crash, CrashAll, CrashLeader, CutSome, Deafen, FailDisk, FillDisk, Heal, Isolate,
        Pause, RotSnapshot, SlowDisk, Split, SpoilSnapshot, Stall, Weather,
    };
    let has = |trouble| troubles.contains(&trouble);
    let mut faults = Vec::new();
    let mut add = |wanted: bool, some: &[Fault]| {
        if wanted {
            faults.extend_from_slice(some);
        }
    };
    add(has(Trouble::Partitions), &[Heal, Heal]);
    // Each seed has its own weights: some never split, some only isolate.
    for fault in [Split, Isolate, Deafen, CutSome] {
        add(has(Trouble::Partitions) && rng.chance(600), &[fault]);
    }
    add(has(Trouble::Crashes), &[Crash]);
    add(has(Trouble::Crashes) && rng.chance(600), &[CrashLeader]);
    add(has(Trouble::Crashes) && rng.chance(200), &[CrashAll]);
    add(has(Trouble::Disks), &[SlowDisk]);
    add(has(Trouble::Pauses), &[Pause]);
    add(has(Trouble::Clocks), &[Clock]);
    add(has(Trouble::Network) && rng.chance(300), &[Weather]);
    for fault in [Stall, FailDisk, FillDisk, SpoilSnapshot, RotSnapshot] {
        add(has(Trouble::Files) && rng.chance(500), &[fault]);
    }
    faults
}

/// A rate within the bound, in parts per million; the limits themselves come often.
pub(super) fn draw_rate(drift_ppm: u64, rng: &mut Rng) -> i64 {
    let bound = i64::try_from(drift_ppm).expect("a small rate");
    match rng.below(4) {
        0 => bound,
        1 => -bound,
        _ => i64::try_from(rng.between(0, 2 * drift_ppm)).expect("a small rate") - bound,
    }
}

/// A reading at which a clock starts: anything up to a day.
pub(super) fn draw_origin(rng: &mut Rng) -> crate::types::Instant {
    crate::types::Instant(rng.below(nanoseconds(Duration::from_hours(24))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_is_valid_and_all_sizes_and_doors_come() {
        let mut sizes = std::collections::BTreeSet::new();
        for seed in 0..500 {
            for profile in Profile::ALL {
                let plan = Plan::draw(profile, &mut Rng::new(seed));
                assert_eq!(plan.config.validate(), Ok(()), "{profile:?} {seed}");
                sizes.insert((plan.ids.len(), plan.protocol == ClientProtocol::Course));
                assert!(plan.faults.is_empty() || profile != Profile::Quiet);
            }
        }
        assert_eq!(sizes.len(), 12, "{sizes:?}");
    }

    #[test]
    fn names_lead_back_to_profiles() {
        for profile in Profile::ALL {
            assert_eq!(Profile::by_name(profile.name()), Some(profile));
        }
        assert_eq!(Profile::by_name("nonsense"), None);
    }
}
