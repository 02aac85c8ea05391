//! `bowline sim` runs simulations and prints their reports. The exit code tells whether all runs
//! passed.

use std::process::ExitCode;

use bowline::course::report::{Report, Verdict};
use bowline::course::table::table;
use bowline::processes::ProcessError;

use super::{processes, replay, scenarios, virtual_time};

/// Exit code after Ctrl-C: 128 plus the number of the signal SIGINT, as in shells.
const EXIT_INTERRUPTED: u8 = 130;

/// Command-line arguments of `bowline sim`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    scenarios: scenarios::ScenarioArguments,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Seed of the first run; later runs use the seeds after it [default: the scenario's, else 1].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Number of runs of each scenario, each with its own seed.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    #[command(flatten)]
    virtual_time: virtual_time::VirtualArguments,
    #[command(flatten)]
    processes: processes::ProcessArguments,
}

/// Runs `bowline sim`: runs the simulations and prints their reports. Returns the exit code.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.processes.processes {
        return run_processes(arguments);
    }
    replay::install_panic_hook();
    let options = &arguments.virtual_time;
    if let Some(profile) = options.profile {
        let seeds = options.seeds.unwrap_or(arguments.runs);
        let first = arguments.seed.unwrap_or(1);
        return Ok(virtual_time::faults(options, profile, first, seeds, arguments.json));
    }
    let scenarios = arguments.scenarios.load()?;
    let seeds = options.seeds.unwrap_or(arguments.runs);
    let reports = virtual_time::explore(options, &scenarios, arguments.seed, seeds);
    if options.seeds.is_some() && !arguments.json {
        print!("{}", virtual_time::summary(&reports));
    } else {
        show(&reports, arguments.json)?;
    }
    Ok(exit_code(&reports))
}

fn run_processes(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let scenarios = arguments.scenarios.load()?;
    let runs = scenarios.iter().flat_map(|selected| {
        let first = arguments.seed.or(selected.scenario.seed).unwrap_or(1);
        (0..arguments.runs).map(move |run| (selected.scenario.clone(), first.wrapping_add(run)))
    });
    let (reports, error) =
        processes::run(&arguments.processes, arguments.virtual_time.listener(), runs)?;
    if error.is_none() || !reports.is_empty() {
        show(&reports, arguments.json)?;
    }
    match error {
        None => Ok(exit_code(&reports)),
        Some(error @ ProcessError::Interrupted) => {
            eprintln!("bowline: {error}");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        Some(error) => Err(error.into()),
    }
}

fn show(reports: &[Report], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(reports)?);
    } else {
        print!("{}", table(reports));
    }
    Ok(())
}

/// Returns the exit code of `bowline sim`: 1 if any of the runs failed, else 0. The verdict
/// `Unlucky` is not a failure: the clients could generate too few gets, for which the replicas are
/// not to blame.
fn exit_code(reports: &[Report]) -> ExitCode {
    let failed = reports.iter().any(|report| report.verdict == Verdict::Failed);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
