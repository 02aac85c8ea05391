//! `perf lossy`: puts while packets between replicas are lost. Each replica stands in a network of
//! its own, joined to ours by a bridge, and drops what comes from other replicas at random;
//! clients lose nothing.
//!
//! All of it is inside a network that this program enters first, and that no other process sees. A
//! network lives as long as its processes, so nothing is left behind, however this ends.

mod net;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};

use crate::compare::{self, Common, System, Work, find_program};
use net::Net;

/// Set for the program when it is started again inside its own network.
const INSIDE: &str = "BOWLINE_PERF_INSIDE";
/// Most replicas that any system has.
const HOSTS: u8 = 7;

/// What `perf lossy` takes.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Shares of the packets between replicas to lose, in percent.
    #[arg(long, value_name = "PERCENTS", value_delimiter = ',',
          default_values_t = [0.0, 1.0, 5.0, 10.0, 20.0, 30.0])]
    losses: Vec<f64>,
    /// Connections of the load generator.
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=1_024))]
    connections: u16,
    /// Different keys.
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Only these systems; Redis alone would lose nothing.
    #[arg(long, value_name = "SYSTEMS", value_delimiter = ',', value_enum, default_values_t =
          [System::Bowline, System::Etcd])]
    only: Vec<System>,
    #[command(flatten)]
    common: Common,
}

/// Measures. The exit code is 0 only if every run went well.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    for (at, loss) in arguments.losses.iter().enumerate() {
        ensure!((0.0..=90.0).contains(loss), "--losses has {loss}; give 0 to 90, in percent");
        ensure!(!arguments.losses[..at].contains(loss), "--losses has {loss} twice");
    }
    for system in &arguments.only {
        ensure!(
            system.processes() > 1,
            "{} is one process, which loses no packets; leave it out of --only",
            system.name()
        );
    }
    if std::env::var_os(INSIDE).is_none() {
        return enter();
    }
    let mut net = Net::new(HOSTS)?;
    let losses: Vec<f64> = arguments.losses.iter().map(|percent| percent / 100.0).collect();
    let work = Work {
        systems: &arguments.only,
        cases: compare::lossy_cases(&losses, arguments.connections.into(), arguments.keys),
        together: false,
        hosts: net.hosts(),
    };
    compare::hold(&arguments.common, "lossy", work, &mut |loss| net.set_loss(loss))
}

/// Becomes this program once more, in a new network. Returns only if that fails.
fn enter() -> anyhow::Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "networks can be made by root only: start it again with sudo"
    );
    for (program, package) in [
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
        ("ip", "iproute2"),
        ("nft", "nftables"),
    ] {
        ensure!(
            find_program(program).is_some(),
            "{program} is not installed (Debian's package: {package})"
        );
    }
    let program = std::env::current_exe().context("can't find this very program")?;
    let error = Command::new("unshare")
        .arg("--net")
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "yes")
        .exec();
    bail!("can't start unshare: {error}")
}
