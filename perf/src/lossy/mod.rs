//! `perf lossy`: measures writes under packet loss between replicas. Each replica runs in a network
//! namespace of its own, which a bridge connects to the namespace of this program. The namespaces
//! of the replicas drop packets from other replicas, at random or in bursts. A relay in the
//! namespace of this program can delay these packets and limit their rate, also together with other
//! TCP connections between the same hosts. Packets from and to clients are neither dropped nor
//! delayed.
//!
//! This program first enters a new network namespace, and sets up everything inside it. A namespace
//! disappears with its last process, so nothing is left behind, regardless of how the program ends.

pub(crate) mod cross_traffic;
mod drops;
mod net;
mod relay;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::compare::{self, Common, NetworkPath, Setup, System, find_program};
use net::Net;
use relay::RelayCounters;
pub(crate) use relay::ThinLink;

/// Environment variable that marks a process of this program as already running in the new network
/// namespace.
const INSIDE: &str = "BOWLINE_PERF_INSIDE";
/// Length of a run in seconds unless `--seconds` is given.
const SECONDS: f64 = 6.0;
/// Time in seconds after which Bowline answers an uncommitted write with an error: the default of
/// `--command-deadline-ms`. Shorter runs do not count such writes.
const COMMAND_DEADLINE_S: f64 = 4.0;

/// Arguments of `perf lossy`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Percentages of packets to drop between replicas.
    #[arg(long, value_name = "PERCENTS", value_delimiter = ',',
          default_values_t = [0.0, 1.0, 5.0, 10.0, 20.0, 30.0])]
    losses: Vec<f64>,
    /// Mean number of consecutive packets that are lost. 1: packets are lost independently.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    burst: u32,
    /// Round-trip time between replicas in milliseconds, caused by a relay in this program. 0: a
    /// relay that does not delay packets. Default: no relay.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    rtt_ms: Option<u32>,
    /// Rate of the link from each replica to each other one, in megabits per second. Default: not
    /// limited. Uses the relay.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    mbit: Option<u32>,
    /// Length of the queue of each link in milliseconds at its rate. What does not fit is dropped.
    #[arg(long, value_name = "N", default_value_t = 50, requires = "mbit",
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    queue_ms: u32,
    /// Sends over a TCP connection from each replica's host to each other one, as fast as it goes.
    /// Counters show the bytes of both from each host.
    #[arg(long, requires = "mbit")]
    cross_traffic: bool,
    /// Number of replicas of Bowline and etcd (default: 3).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(3..=7))]
    replicas: Option<u8>,
    /// Number of connections of the load generator.
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=1_024))]
    connections: u16,
    /// Number of different keys that requests use.
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Systems to measure, each with more than one process.
    #[arg(long, value_name = "SYSTEMS", value_delimiter = ',', value_enum, default_values_t =
          [System::Bowline, System::BowlineUdp, System::BowlineTcp, System::Etcd])]
    only: Vec<System>,
    /// TCP congestion control of all hosts.
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    congestion_control: String,
    #[command(flatten)]
    common: Common,
}

/// Runs `perf lossy`. Returns exit code 0 only if all rounds were completed, no run failed and no
/// operation failed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    for (at, loss) in arguments.losses.iter().enumerate() {
        ensure!(
            (0.0..=90.0).contains(loss),
            "--losses {loss}: each percentage must be from 0 to 90"
        );
        ensure!(
            !arguments.losses[..at].contains(loss),
            "--losses names {loss} twice; name each percentage once"
        );
        ensure!(
            arguments.burst == 1 || drops::can_burst(loss / 100.0, arguments.burst),
            "--burst {} with a loss of {loss} %: there is no packet between two bursts, or no \
             burst in 10,000 packets; choose other values",
            arguments.burst
        );
    }
    for system in &arguments.only {
        let (name, fixed) = (system.name(), system.fixed_processes());
        ensure!(
            fixed != Some(1),
            "--only {name}: this system is a single process, which sends no packets to lose; leave \
             it out"
        );
        if let (Some(replicas), Some(fixed)) = (arguments.replicas, fixed) {
            bail!(
                "{name} always has {fixed} servers; leave out --replicas {replicas}, or leave \
                 {name} out of --only"
            );
        }
    }
    if std::env::var_os(INSIDE).is_none() {
        return enter();
    }
    let seconds = arguments.common.seconds.unwrap_or(SECONDS);
    if seconds <= COMMAND_DEADLINE_S {
        eprintln!(
            "perf: warning: in runs of {seconds} s, Bowline reports no write that it could not \
             commit: the deadline of its commands is {COMMAND_DEADLINE_S} s; choose longer runs \
             with --seconds"
        );
    }
    let queue = Duration::from_millis(arguments.queue_ms.into());
    let path = NetworkPath {
        burst: arguments.burst,
        rtt_ms: arguments.rtt_ms,
        link: arguments.mbit.map(|mbit| ThinLink { mbit, queue }),
        cross_traffic: arguments.cross_traffic,
    };
    let processes = arguments.only.iter().map(|system| system.processes(arguments.replicas));
    let hosts = u8::try_from(processes.max().unwrap_or(0)).context("too many replicas")?;
    let mut net = Net::new(hosts, path, &arguments.congestion_control, arguments.common.seed)?;
    let rto_min_error = net.rto_min_error();
    let unavailable =
        |system: System| system.rto_min_ms().and(rto_min_error.as_ref().map(ToString::to_string));
    let losses: Vec<f64> = arguments.losses.iter().map(|percent| percent / 100.0).collect();
    let (hosts, relay) = (net.hosts(), net.relay_counters());
    let connections = arguments.connections.into();
    let cases = losses.iter().map(|loss| {
        compare::lossy_case(*loss, path, arguments.replicas, connections, arguments.keys)
    });
    let setup = Setup {
        systems: &arguments.only,
        cases: cases.collect(),
        together: false,
        hosts: hosts.clone(),
        replicas: arguments.replicas,
        seconds: SECONDS,
        network: net.describe(),
        unavailable: &unavailable,
        counters: &|| {
            let mut counters = compare::tcp_counters(&hosts);
            counters.extend(relay.iter().flat_map(|relay| relay_counters(relay)));
            counters
        },
    };
    let result = compare::measure(&arguments.common, "lossy", setup, &mut |link| net.set(link));
    // If the relay or the cross traffic has failed, the results of the last case are wrong.
    net.ensure_running()?;
    result
}

/// Returns the counters of the relay for the results, by name.
fn relay_counters(relay: &RelayCounters) -> impl Iterator<Item = (String, u64)> {
    let of = |name: &str, count: &AtomicU64| (name.to_owned(), count.load(Ordering::Relaxed));
    let packets = [
        of("relay_packets", &relay.packets),
        of("relay_late_packets", &relay.late),
        of("relay_dropped_packets", &relay.dropped),
    ];
    let hosts = relay.other_bytes.iter().zip(&relay.cross_bytes).enumerate();
    let bytes = hosts.flat_map(move |(host, (other, cross))| {
        [
            of(&format!("relay_bytes_from_{host}"), other),
            of(&format!("relay_cross_bytes_from_{host}"), cross),
        ]
    });
    packets.into_iter().chain(bytes)
}

/// Replaces this process with a new run of this program in a new network namespace (`exec`).
/// Returns only if that fails, with an error.
fn enter() -> anyhow::Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "`perf lossy` needs root to create network namespaces; run it with sudo"
    );
    for (program, package) in [
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
        ("ip", "iproute2"),
        ("nft", "nftables"),
    ] {
        ensure!(
            find_program(program).is_some(),
            "`perf lossy` needs the program {program}, which is not installed (Debian package: \
             {package})"
        );
    }
    let program = std::env::current_exe().context(
        "cannot determine the path of `perf` to run it again in a new network namespace",
    )?;
    let error = Command::new("unshare")
        .arg("--net")
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "yes")
        .exec();
    bail!("cannot start `unshare`, which creates a network namespace: {error}")
}
