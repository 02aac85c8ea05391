//! `bowline sim`: runs scenarios, shows their reports, and says by the exit code whether all of
//! them are correct.

use std::process::ExitCode;

use bowline::course::report::{Report, Verdict};
use bowline::course::table::table;
use bowline::processes::ProcessError;

use super::{processes, replay, scenarios, virtual_time};

/// Exit code after Ctrl-C, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

/// What `bowline sim` takes.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    scenarios: scenarios::ScenarioArguments,
    /// Print the reports as JSON: a list with one object a run.
    #[arg(long)]
    json: bool,
    /// Seed of the first run; the next ones count up from it. Without it, the scenario's own, or 1.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run each scenario so often.
    #[arg(long, value_name = "N", default_value_t = 1)]
    runs: u64,
    #[command(flatten)]
    virtual_time: virtual_time::VirtualArguments,
    #[command(flatten)]
    processes: processes::ProcessArguments,
}

/// Runs what the arguments ask for.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.processes.processes {
        return run_processes(arguments);
    }
    replay::watch_panics();
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
    Ok(verdict_of(&reports))
}

fn run_processes(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let scenarios = arguments.scenarios.load()?;
    let runs = scenarios.iter().flat_map(|chosen| {
        let first = arguments.seed.or(chosen.scenario.seed).unwrap_or(1);
        (0..arguments.runs).map(move |run| (chosen.scenario.clone(), first.wrapping_add(run)))
    });
    let (reports, error) = processes::run(&arguments.processes, runs)?;
    if error.is_none() || !reports.is_empty() {
        show(&reports, arguments.json)?;
    }
    match error {
        None => Ok(verdict_of(&reports)),
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

/// Zero unless a run failed. The request generator's bad luck is no failure.
fn verdict_of(reports: &[Report]) -> ExitCode {
    let failed = reports.iter().any(|report| report.verdict == Verdict::Failed);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
