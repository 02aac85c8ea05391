//! `perf compare`: Bowline, etcd and Redis under the same work, in turn, on fresh folders, with
//! what each of them cost.

mod ask;
mod cases;
mod children;
mod clients;
pub(crate) mod results;
mod session;
mod site;
mod systems;
mod table;
mod usage;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};

pub(crate) use children::{Child, command, find_program};
pub(crate) use site::Host;
pub(crate) use systems::System;

use crate::files::Files;
use crate::record::revision;
use crate::report::{self, Input};
use cases::Case;
use clients::Clients;
use results::{Comparison, SCHEMA, SCHEMA_VERSION};
use session::{Plan, SetLoss};
use systems::Programs;

const JSON: &str = "json";
/// What the kernel calls file systems that are memory.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58F6];

/// What `perf compare` takes.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Only these cases: put-64, get-64-16 (16 deep), bench-set-64 (redis-benchmark), put-rate
    /// (open loop), or the rows connections, depth, values, keys.
    #[arg(long, value_name = "CASES", value_delimiter = ',')]
    cases: Vec<String>,
    /// Operations a second of put-rate.
    #[arg(long, value_name = "N", default_value_t = 1_000.0)]
    rate: f64,
    /// Different keys.
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// All systems up at once, and each case through all of them before the next case: what is
    /// compared lies seconds apart and not minutes, but idle ones cost the others a little.
    #[arg(long)]
    together: bool,
    /// Only these systems.
    #[arg(long, value_name = "SYSTEMS", value_delimiter = ',', value_enum, default_values_t =
          [System::Bowline, System::Etcd, System::Redis, System::RedisWait])]
    only: Vec<System>,
    #[command(flatten)]
    common: Common,
}

/// What `perf compare` and `perf lossy` have in common.
#[derive(clap::Args, Debug)]
pub(crate) struct Common {
    /// How often everything is done.
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// Seconds that each case takes.
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    pub(crate) seconds: f64,
    /// Of everything that the load generator draws.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where servers keep their data meanwhile: on the disk that is to be measured.
    #[arg(long, value_name = "FOLDER", default_value = "perf/out/data")]
    pub(crate) dir: PathBuf,
    /// The `bowline` program. Without it the one beside this program, built anew under cargo.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) bowline: Option<PathBuf>,
    /// Where the results go.
    #[arg(long, value_name = "FOLDER", default_value = "perf/out")]
    pub(crate) out: PathBuf,
    /// What the results are called.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Print what goes into NAME.json instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Compares. The exit code is 0 only if every run went well.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    ensure!(
        arguments.rate.is_finite() && arguments.rate > 0.0,
        "--rate is {}; it must be above 0",
        arguments.rate
    );
    let cases = cases::cases(&arguments.cases, arguments.keys, arguments.rate)?;
    let hosts = vec![site::LOOPBACK; 9];
    let work = Work { systems: &arguments.only, cases, together: arguments.together, hosts };
    hold(&arguments.common, "compare", work, &mut |_| Ok(()))
}

/// What is done in each round.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    pub(crate) systems: &'a [System],
    pub(crate) cases: Vec<Case>,
    pub(crate) together: bool,
    pub(crate) hosts: Vec<Host>,
}

/// Puts while packets between replicas are lost, a case for each share.
pub(crate) fn lossy_cases(losses: &[f64], connections: usize, keys: u64) -> Vec<Case> {
    losses.iter().map(|loss| cases::lossy(*loss, connections, keys)).collect()
}

/// Holds all rounds, and writes down and prints what came of them.
pub(crate) fn hold(
    common: &Common,
    usual_name: &str,
    work: Work<'_>,
    set_loss: &mut SetLoss<'_>,
) -> anyhow::Result<ExitCode> {
    ensure!(
        common.seconds.is_finite() && common.seconds >= 0.1 && common.seconds <= 3_600.0,
        "--seconds is {}; give 0.1 to 3600",
        common.seconds
    );
    let name = common.name.clone().unwrap_or_else(|| usual_name.to_owned());
    let mut files = Files::begin(&common.out, &name, &[JSON])?;
    let programs = Programs { bowline: find_bowline(common)? };
    let (mut comparison, systems, cases) = prepare(common, &name, &work, &programs);
    ensure!(
        !systems.is_empty() && !cases.is_empty(),
        "nothing can be measured: {}",
        table::table(&comparison)
    );
    std::fs::create_dir_all(&common.dir)
        .with_context(|| format!("can't make the folder {}", common.dir.display()))?;
    // Ours alone, so that nothing that was there before is ever removed.
    let folder = tempfile::Builder::new()
        .prefix("compare-")
        .tempdir_in(&common.dir)
        .with_context(|| format!("can't make a folder in {}", common.dir.display()))?;
    if is_memory(folder.path()) {
        eprintln!(
            "perf: {} is in memory: syncs cost nothing there; choose a disk with --dir",
            common.dir.display()
        );
    }
    let interrupted =
        bowline::processes::interrupted_by_signals().context("can't listen for Ctrl-C")?;
    let interrupted: &AtomicBool = &interrupted;
    let plan = Plan {
        systems,
        cases,
        rounds: common.rounds,
        together: work.together,
        programs,
        hosts: work.hosts,
        folder: folder.path().to_owned(),
        clients: Clients {
            interrupted,
            folder: clients::prepare(folder.path())?,
            length: Duration::from_secs_f64(common.seconds),
            seed: common.seed,
        },
        interrupted,
    };
    let clock = Instant::now();
    comparison.partial = plan.hold(set_loss, &mut |run| {
        eprintln!("{}", table::line(&run));
        comparison.runs.push(run);
    });
    comparison.wall_s = clock.elapsed().as_secs_f64();
    comparison.sum_up();
    serde_json::to_writer_pretty(files.get(JSON), &comparison)?;
    files.get(JSON).write_all(b"\n")?;
    let mut paths = files.finish()?;

    let table = table::table(&comparison);
    if common.json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        print!("{table}");
    }
    let whole = comparison.partial.is_none();
    if let Some(why) = &comparison.partial {
        eprintln!("perf: {why}; what was measured until then is kept, and marked as partial");
    }
    let well = comparison.runs.iter().all(|run| run.trouble.is_none() && run.errors == 0);
    if comparison.summary.is_empty() {
        eprintln!("perf: no run went well, so there is nothing to draw");
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
    Ok(if whole && well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The results without any runs, and of the systems and cases those that can be had.
fn prepare(
    common: &Common,
    name: &str,
    work: &Work<'_>,
    programs: &Programs,
) -> (Comparison, Vec<System>, Vec<Case>) {
    let mut described = Vec::new();
    let mut systems = Vec::new();
    for &system in work.systems {
        if systems.contains(&system) {
            continue;
        }
        let description = system.describe(programs);
        match &description.skipped {
            Some(why) => eprintln!("skipped: {}: {why}", description.name),
            None => systems.push(system),
        }
        described.push(description);
    }
    let mut cases = Vec::new();
    for case in &work.cases {
        let nobody = || systems.iter().all(|system| case.misfit(*system).is_some());
        let why = clients::missing(case.client)
            .or_else(|| nobody().then(|| "none of the systems can be asked so".to_owned()));
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
        seconds: common.seconds,
        systems: described,
        cases: work.cases.iter().map(Case::describe).collect(),
        runs: Vec::new(),
        summary: Vec::new(),
    };
    (comparison, systems, cases)
}

/// The program to measure. Under cargo it is built first: an old one would be measured unnoticed.
fn find_bowline(common: &Common) -> anyhow::Result<PathBuf> {
    if let Some(given) = &common.bowline {
        return Ok(given.clone());
    }
    let ours = std::env::current_exe().context("can't find this very program")?;
    let beside = ours.with_file_name("bowline");
    let in_release = ours.parent().is_some_and(|folder| folder.ends_with("release"));
    let (cargo, folder) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR"));
    if let (Some(cargo), Some(folder), true) = (cargo, folder, in_release) {
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--release", "--package", "bowline", "--bin", "bowline"])
            .current_dir(folder)
            .status()
            .context("can't start cargo to build bowline")?;
        ensure!(status.success(), "bowline can't be built; see above");
    }
    Ok(beside)
}

fn is_memory(folder: &Path) -> bool {
    let kind = rustix::fs::statfs(folder).map(|found| found.f_type.cast_unsigned());
    kind.is_ok_and(|kind| MEMORY_FILE_SYSTEMS.contains(&kind))
}
