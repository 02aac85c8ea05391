//! `perf compare`: measures Bowline, etcd, Redis, Valkey and NATS in turn, under the same load and
//! in fresh folders. Also measures the servers' CPU time and disk writes.

mod cases;
mod children;
mod clients;
mod counters;
mod hosts;
mod nats;
mod query;
pub(crate) mod results;
mod rounds;
mod systems;
mod table;
mod usage;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};

pub(crate) use cases::lossy as lossy_case;
pub(crate) use children::{Child, command, find_program};
pub(crate) use counters::of_network as tcp_counters;
pub(crate) use hosts::Host;
pub(crate) use rounds::{Link, NetworkPath};
pub(crate) use systems::System;
pub(crate) use table::list as list_counts;

use crate::files::Files;
use crate::record::revision;
use crate::report::{self, Input};
use cases::Case;
use clients::Clients;
use counters::Counters;
use results::{Comparison, SCHEMA, SCHEMA_VERSION};
use rounds::{Rounds, SetLink};
use systems::{ProgramPaths, Programs};

const JSON: &str = "json";
/// Length of a run of `perf compare` in seconds unless `--seconds` is given.
const SECONDS: f64 = 3.0;
/// File system type numbers, as returned by `statfs`, of the in-memory file systems tmpfs and
/// ramfs.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58F6];

/// Command-line arguments of `perf compare`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Cases to run: put-64, get-64-16 (16 in flight), readers-50-beside-8 (gets beside puts),
    /// bench-set-64 (redis-benchmark; also get, incr, lpush, hset, zadd, mset), put-rate (open
    /// loop), types (bench-..-64-16 of all types), or the sweeps connections, depth, values, keys.
    #[arg(long, value_name = "CASES", value_delimiter = ',')]
    cases: Vec<String>,
    /// Operations per second in the case put-rate, an open loop.
    #[arg(long, value_name = "N", default_value_t = 1_000.0)]
    rate: f64,
    /// Number of different keys that requests use.
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Start all systems at once, and run each case on all of them before the next case. The runs
    /// of a case on the different systems are then only seconds apart, but idle systems use some
    /// CPU time.
    #[arg(long)]
    together: bool,
    /// Systems to measure.
    #[arg(long, value_name = "SYSTEMS", value_delimiter = ',', value_enum, default_values_t =
          [System::Bowline, System::Etcd, System::Redis, System::RedisWait])]
    only: Vec<System>,
    #[command(flatten)]
    common: Common,
}

/// Command-line arguments that `perf compare` and `perf lossy` share.
#[derive(clap::Args, Debug)]
pub(crate) struct Common {
    /// Number of rounds, each of which runs every case on every system once.
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// Length of each run in seconds (default: 3, under packet loss 6).
    #[arg(long, value_name = "S")]
    pub(crate) seconds: Option<f64>,
    /// Random seed of the load generator.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Folder for the servers' data, on the disk to be measured.
    #[arg(long, value_name = "FOLDER", default_value = "perf/out/data")]
    pub(crate) dir: PathBuf,
    /// Path of the `bowline` program to measure. Default: the one in the folder of this program,
    /// which is rebuilt under cargo.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) bowline: Option<PathBuf>,
    #[command(flatten)]
    programs: ProgramPaths,
    /// Folder for the results.
    #[arg(long, value_name = "FOLDER", default_value = "perf/out")]
    pub(crate) out: PathBuf,
    /// Name of the result files (default: the subcommand).
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs `perf compare`. Returns exit code 0 only if all rounds were completed, no run failed and no
/// operation failed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    ensure!(
        arguments.rate.is_finite() && arguments.rate > 0.0,
        "--rate {}: must be greater than 0",
        arguments.rate
    );
    let cases = cases::cases(&arguments.cases, arguments.keys, arguments.rate)?;
    let hosts = vec![hosts::LOOPBACK; 9];
    let unavailable = |system: System| {
        let needs = system.rto_min_ms().is_some();
        needs.then(|| "its TCP timer needs network namespaces; use perf lossy".to_owned())
    };
    let setup = Setup {
        systems: &arguments.only,
        cases,
        together: arguments.together,
        hosts,
        replicas: None,
        seconds: SECONDS,
        network: BTreeMap::new(),
        unavailable: &unavailable,
        counters: &Counters::new,
    };
    measure(&arguments.common, "compare", setup, &mut |_| Ok(()))
}

/// What a comparison measures and where: its systems, cases, hosts and network.
pub(crate) struct Setup<'a> {
    pub(crate) systems: &'a [System],
    pub(crate) cases: Vec<Case>,
    pub(crate) together: bool,
    pub(crate) hosts: Vec<Host>,
    /// Number of servers of each system, if that system allows a choice; `None` for the default
    /// number.
    pub(crate) replicas: Option<u8>,
    /// Length of a run in seconds unless `--seconds` is given.
    pub(crate) seconds: f64,
    /// Properties of the simulated network between the hosts, for the results file, as names and
    /// values; empty for the loopback interface.
    pub(crate) network: BTreeMap<String, String>,
    /// A function that returns the reason why a system cannot run on the hosts; `None` if it can.
    pub(crate) unavailable: &'a dyn Fn(System) -> Option<String>,
    /// A function that returns the counters of the network between the hosts.
    pub(crate) counters: &'a dyn Fn() -> Counters,
}

/// Runs all rounds of a comparison, writes the results and charts to files, and prints a summary.
/// `set_link` sets the packet loss of the network between replicas.
pub(crate) fn measure(
    common: &Common,
    default_name: &str,
    setup: Setup<'_>,
    set_link: &mut SetLink<'_>,
) -> anyhow::Result<ExitCode> {
    let seconds = common.seconds.unwrap_or(setup.seconds);
    ensure!((0.1..=3_600.0).contains(&seconds), "--seconds {seconds}: must be from 0.1 to 3600");
    let name = common.name.clone().unwrap_or_else(|| default_name.to_owned());
    let mut files = Files::create(&common.out, &name, &[JSON])?;
    let programs = Programs { bowline: find_bowline(common)?, given: common.programs.clone() };
    let (mut comparison, systems, cases) = prepare(common, &name, &setup, &programs);
    ensure!(
        !systems.is_empty() && !cases.is_empty(),
        "nothing can be measured, because all systems or all cases are skipped: {}",
        table::table(&comparison)
    );
    std::fs::create_dir_all(&common.dir).with_context(|| {
        format!(
            "cannot create the data folder {}; check the permissions of its parent folder, or \
             choose another --dir",
            common.dir.display()
        )
    })?;
    // A new folder, so that nothing that existed before is removed.
    let folder =
        tempfile::Builder::new().prefix("compare-").tempdir_in(&common.dir).with_context(|| {
            format!(
                "cannot create a folder in {}; check its permissions, or choose another --dir",
                common.dir.display()
            )
        })?;
    if is_memory(folder.path()) {
        eprintln!(
            "perf: warning: {} is in memory, where syncs cost nothing; choose a disk with --dir",
            common.dir.display()
        );
    }
    let interrupted = bowline::processes::interrupted_by_signals()
        .context("cannot install the signal handler for Ctrl-C")?;
    let interrupted: &AtomicBool = &interrupted;
    let rounds = Rounds {
        systems,
        cases,
        count: common.rounds,
        together: setup.together,
        programs,
        hosts: setup.hosts,
        replicas: setup.replicas,
        network_counters: setup.counters,
        folder: folder.path().to_owned(),
        clients: Clients {
            interrupted,
            folder: clients::prepare(folder.path())?,
            length: Duration::from_secs_f64(seconds),
            seed: common.seed,
        },
        interrupted,
    };
    let clock = Instant::now();
    comparison.partial = rounds.run(set_link, &mut |run| {
        eprintln!("{}", table::line(&run));
        comparison.runs.push(run);
    });
    comparison.wall_s = clock.elapsed().as_secs_f64();
    comparison.summarize();
    serde_json::to_writer_pretty(files.get(JSON), &comparison)?;
    files.get(JSON).write_all(b"\n")?;
    let mut paths = files.finish()?;

    let table = table::table(&comparison);
    if common.json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        print!("{table}");
    }
    let complete = comparison.partial.is_none();
    if let Some(why) = &comparison.partial {
        eprintln!("perf: {why}; results so far are kept and marked as partial");
    }
    let succeeded = comparison.runs.iter().all(|run| run.failure.is_none() && run.errors == 0);
    if comparison.summary.is_empty() {
        eprintln!("perf: no run succeeded, so there is nothing to draw");
    } else {
        paths.extend(report::write(
            &[Input::Comparison(Box::new(comparison))],
            &common.out,
            &name,
        )?);
    }
    for path in paths.iter().filter(|_| !common.json) {
        println!("wrote {}", path.display());
    }
    Ok(if complete && succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Creates a comparison that has no results yet, with the systems and cases that can be measured on
/// this machine. Prints which systems and cases are skipped.
fn prepare(
    common: &Common,
    name: &str,
    setup: &Setup<'_>,
    programs: &Programs,
) -> (Comparison, Vec<System>, Vec<Case>) {
    let mut described = Vec::new();
    let mut systems = Vec::new();
    for &system in setup.systems {
        if systems.contains(&system) {
            continue;
        }
        let mut description = system.describe(programs, setup.replicas);
        if description.skipped.is_none() {
            description.skipped = (setup.unavailable)(system);
        }
        match &description.skipped {
            Some(why) => eprintln!("skipped: {}: {why}", description.name),
            None => systems.push(system),
        }
        described.push(description);
    }
    let mut cases = Vec::new();
    for case in &setup.cases {
        let unsupported = || systems.iter().all(|system| case.unsupported_by(*system).is_some());
        let why = clients::missing(case.client)
            .or_else(|| unsupported().then(|| "no selected system supports this case".to_owned()));
        match why {
            Some(why) => eprintln!("skipped: {}: {why}", case.name),
            None => cases.push(case.clone()),
        }
    }
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let comparison = Comparison {
        schema: SCHEMA.to_owned(),
        schema_version: SCHEMA_VERSION,
        name: name.to_owned(),
        command: std::env::args().collect(),
        revision: revision(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        began_unix_s: since_epoch.as_secs_f64(),
        wall_s: 0.0,
        partial: None,
        rounds: common.rounds,
        seconds: common.seconds.unwrap_or(setup.seconds),
        network: setup.network.clone(),
        systems: described,
        cases: setup.cases.iter().flat_map(Case::describe).collect(),
        runs: Vec::new(),
        summary: Vec::new(),
    };
    (comparison, systems, cases)
}

/// Returns the path of the `bowline` program to measure. Under cargo, rebuilds the program first,
/// so that the current source is measured.
fn find_bowline(common: &Common) -> anyhow::Result<PathBuf> {
    if let Some(given) = &common.bowline {
        return Ok(given.clone());
    }
    let ours = std::env::current_exe().context(
        "cannot determine the path of the program `perf`, to find `bowline` beside it; give \
         --bowline",
    )?;
    let beside = ours.with_file_name("bowline");
    let in_release = ours.parent().is_some_and(|folder| folder.ends_with("release"));
    let (cargo, folder) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR"));
    if let (Some(cargo), Some(folder), true) = (cargo, folder, in_release) {
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--release", "--package", "bowline", "--bin", "bowline"])
            .current_dir(folder)
            .status()
            .context("cannot start cargo to build bowline")?;
        ensure!(status.success(), "cargo failed to build bowline; see its messages above");
    }
    Ok(beside)
}

fn is_memory(folder: &Path) -> bool {
    let kind = rustix::fs::statfs(folder).map(|found| found.f_type.cast_unsigned());
    kind.is_ok_and(|kind| MEMORY_FILE_SYSTEMS.contains(&kind))
}
