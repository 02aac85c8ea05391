//! Draws the plan of a run: its cluster, network, disks and workload.

use std::time::Duration;

use crate::config::{Config, FanOut};
use crate::large_writes::PieceLimits;
use crate::sim::cluster::ClientProtocol;
use crate::sim::cluster::network::LinkQuality;
use crate::sim::disk::snapshots::SnapshotPlan;
use crate::sim::machine::Delays;
use crate::sim::rng::{DurationRange, Rng, nanoseconds};
use crate::sim::workload::Load;
use crate::types::NodeId;

use super::{DISK_LOSS_REPLICAS_MIN, Fault, FaultType, Plan, Profile};

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
pub(in crate::sim) fn draw_rate(drift_ppm: u64, rng: &mut Rng) -> i64 {
    let bound = i64::try_from(drift_ppm).expect("a small rate");
    match rng.below(4) {
        0 => bound,
        1 => -bound,
        _ => i64::try_from(rng.between(0, 2 * drift_ppm)).expect("a small rate") - bound,
    }
}

/// Returns a random initial reading of a monotonic clock, below 24 hours.
pub(in crate::sim) fn draw_origin(rng: &mut Rng) -> crate::types::Instant {
    crate::types::Instant(rng.below(nanoseconds(Duration::from_hours(24))))
}
