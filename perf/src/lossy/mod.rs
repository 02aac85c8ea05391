//! `perf lossy`: measures writes under packet loss between replicas. Each replica runs in a network
//! namespace of its own, which a bridge connects to the namespace of this program. The namespaces
//! of the replicas drop packets from other replicas at random; packets from and to clients are
//! never dropped.
//!
//! This program first enters a network namespace of its own, and sets up everything inside it. A
//! namespace disappears with its last process, so nothing is left behind, regardless of how the
//! program ends.

mod net;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};

use crate::compare::{self, Common, Setup, System, find_program};
use net::Net;

/// Environment variable that tells this program, when it executes itself again, that it is running
/// in its own network namespace.
const INSIDE: &str = "BOWLINE_PERF_INSIDE";
/// Number of simulated hosts, which bounds the number of servers of a system.
const HOSTS: u8 = 7;

/// Arguments of `perf lossy`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Percentages of packets to drop between replicas.
    #[arg(long, value_name = "PERCENTS", value_delimiter = ',',
          default_values_t = [0.0, 1.0, 5.0, 10.0, 20.0, 30.0])]
    losses: Vec<f64>,
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
    }
    for system in &arguments.only {
        ensure!(
            system.processes() > 1,
            "--only {}: this system is a single process, which sends no packets to lose; leave it \
             out",
            system.name()
        );
    }
    if std::env::var_os(INSIDE).is_none() {
        return enter();
    }
    let mut net = Net::new(HOSTS, &arguments.congestion_control)?;
    let rto_min_error = net.rto_min_error();
    let unavailable =
        |system: System| system.rto_min_ms().and(rto_min_error.as_ref().map(ToString::to_string));
    let losses: Vec<f64> = arguments.losses.iter().map(|percent| percent / 100.0).collect();
    let setup = Setup {
        systems: &arguments.only,
        cases: compare::lossy_cases(&losses, arguments.connections.into(), arguments.keys),
        together: false,
        hosts: net.hosts(),
        network: net.describe(),
        unavailable: &unavailable,
    };
    compare::measure(&arguments.common, "lossy", setup, &mut |link| net.set(link))
}

/// Executes this program again in a new network namespace, in place of this process (`exec`).
/// Returns, with an error, only if that fails.
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
    let program = std::env::current_exe()
        .context("cannot determine the path of the program `perf`, which is to be started again")?;
    let error = Command::new("unshare")
        .arg("--net")
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "yes")
        .exec();
    bail!("cannot start `unshare`, which creates a network namespace: {error}")
}
