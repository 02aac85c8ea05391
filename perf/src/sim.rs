//! `perf sim`: runs a scenario at a given request rate, in virtual time or with real replica
//! processes.

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use bowline::course::clients::Sample;
use bowline::course::histogram::{Series, histogram, write_intervals, write_percentiles};
use bowline::course::report::{Report, Verdict};
use bowline::course::run::ScenarioRun;
use bowline::course::scenario::{Overrides, Scenario};
use bowline::course::table::table;
use bowline::processes::{self, Options, Output, Protocol};
use bowline::sim::course_run;
use indicatif::{ProgressBar, ProgressStyle};

use crate::files::Files;
use crate::record::{Circumstances, Record};

/// Arguments of `perf sim`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Built-in scenario, or scenario file.
    #[arg(value_name = "SCENARIO|FILE")]
    scenario: String,
    /// Requests per second, instead of the scenario's.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    rate: Option<f64>,
    /// Total number of requests, instead of the scenario's.
    #[arg(long, value_name = "N")]
    requests: Option<u32>,
    /// Length in seconds of the window in which requests are sent, instead of the scenario's; the
    /// times of events are scaled to this length.
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    seconds: Option<f64>,
    /// Number of replicas, instead of the scenario's.
    #[arg(long, value_name = "N")]
    replicas: Option<u16>,
    /// Fraction of messages lost between replicas, instead of the scenario's.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    drops: Option<f64>,
    /// Random seed. Default: the scenario's own, or 1.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run real replica processes, in real time.
    #[arg(long, requires = "replica")]
    processes: bool,
    /// Transport between the simulator and the processes: udp, seqpacket or stream (UNIX sockets).
    #[arg(long, value_name = "NAME", default_value = "udp", requires = "processes")]
    protocol: Protocol,
    /// Replica program to run with --processes.
    #[arg(long, value_name = "PROGRAM", requires = "processes")]
    replica: Option<PathBuf>,
    /// Name of the run and its files. Default: the scenario's name.
    #[arg(long)]
    name: Option<String>,
    /// Folder for the files with the results.
    #[arg(long, value_name = "FOLDER", default_value = "perf/out")]
    out: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

const JSON: &str = "json";
const INTERVALS: &str = "hlog";
const PERCENTILES: [&str; 3] = ["hgrm", "put.hgrm", "get.hgrm"];

/// Runs `perf sim`: runs the scenario and writes the results. Returns exit code 1 if the run's
/// verdict is `Failed`, otherwise 0.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let scenario = load(arguments)?;
    let name = arguments.name.clone().unwrap_or_else(|| stem(&scenario.name));
    let endings: Vec<&str> = PERCENTILES.into_iter().chain([INTERVALS, JSON]).collect();
    let mut files = Files::create(&arguments.out, &name, &endings)?;

    let (began, clock) = (SystemTime::now(), Instant::now());
    let seed = arguments.seed.or(scenario.seed).unwrap_or(1);
    let (scenario_run, report) = execute(arguments, &scenario, seed)?;
    let mode = if arguments.processes { "processes" } else { "virtual" };
    let circumstances = Circumstances {
        mode,
        began,
        duration: clock.elapsed(),
        window: scenario.window,
        start_wait: scenario.start_wait,
    };

    let counts = &scenario_run.clients().counts;
    let answered = [&counts.gets[..], &counts.puts[..]].concat();
    let record = Record::new(&name, circumstances, report.clone(), scenario_run.start(), &answered);
    let json = serde_json::to_string_pretty(&record)?;
    write_latencies(&mut files, began, &scenario_run, [&answered, &counts.puts, &counts.gets])?;
    serde_json::to_writer_pretty(files.get(JSON), &record)
        .with_context(|| files.cannot_write(JSON))?;
    let paths = files.finish()?;

    if arguments.json {
        println!("{json}");
    } else {
        print!("{}", table(std::slice::from_ref(&report)));
        for path in paths {
            println!("wrote {}", path.display());
        }
    }
    let failed = report.verdict == Verdict::Failed;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Loads the scenario, and overrides its parameters with those on the command line.
fn load(arguments: &Arguments) -> anyhow::Result<Scenario> {
    let given = &arguments.scenario;
    let path = Path::new(given);
    let looks_like_a_file = path.is_file() || given.contains('/') || path.extension().is_some();
    let scenario = if looks_like_a_file {
        let text = fs::read_to_string(path).with_context(|| {
            format!("cannot read scenario file {given}; check its path and permissions")
        })?;
        Scenario::parse(given, &text)?
    } else {
        Scenario::built_in(given)?
    };
    let overrides = Overrides {
        rate: arguments.rate,
        requests: arguments.requests,
        seconds: arguments.seconds,
        replicas: arguments.replicas,
        drops: arguments.drops,
    };
    Ok(scenario.with(&overrides)?)
}

/// Returns the file name in the path `name`, without folder and extension.
fn stem(name: &str) -> String {
    let path = Path::new(name);
    path.file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned())
}

fn execute(
    arguments: &Arguments,
    scenario: &Scenario,
    seed: u64,
) -> anyhow::Result<(ScenarioRun, Report)> {
    let Some(program) = arguments.replica.clone() else {
        let bar = bar(ProgressBar::new_spinner(), "{spinner} {msg} in virtual time, {elapsed}");
        bar.set_message(scenario.name.clone());
        bar.enable_steady_tick(Duration::from_millis(200));
        let run = course_run::run(scenario, seed, course_run::Options::default());
        bar.finish_and_clear();
        return Ok((run.scenario_run, run.report));
    };
    let options =
        Options { program, protocol: arguments.protocol, output: Output::default(), trace: None };
    let interrupted = processes::interrupted_by_signals()
        .context("cannot install the signal handler for Ctrl-C")?;
    let length = scenario.lifetime().as_secs();
    let bar = bar(ProgressBar::new(length), "{msg} {wide_bar} {pos}/{len} s");
    bar.set_message(scenario.name.clone());
    let scenario_run = processes::run(scenario, seed, &options, &interrupted, &mut |seconds| {
        bar.set_position(Duration::from_secs_f64(seconds).as_secs());
    });
    bar.finish_and_clear();
    let scenario_run = scenario_run?;
    let report = scenario_run.report();
    Ok((scenario_run, report))
}

/// Draws a progress bar on stderr with the style `template`. Hides it if stderr is not a terminal.
fn bar(bar: ProgressBar, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    bar.with_style(ProgressStyle::with_template(template).expect("the template is valid"))
}

/// Writes the latency histograms of a run to files: the percentiles of all operations, of puts and
/// of gets, and a log (.hlog) with a histogram for each second.
fn write_latencies(
    files: &mut Files,
    began: SystemTime,
    scenario_run: &ScenarioRun,
    [all, puts, gets]: [&[Sample]; 3],
) -> anyhow::Result<()> {
    for (ending, samples) in PERCENTILES.into_iter().zip([all, puts, gets]) {
        let histogram = histogram(samples.iter().map(|sample| sample.operation_latency));
        write_percentiles(files.get(ending), &histogram)
            .with_context(|| files.cannot_write(ending))?;
    }
    let series = [Series { tag: "put", samples: puts }, Series { tag: "get", samples: gets }];
    write_intervals(
        files.get(INTERVALS),
        began,
        scenario_run.start(),
        Duration::from_secs(1),
        &series,
    )
    .with_context(|| files.cannot_write(INTERVALS))
}
