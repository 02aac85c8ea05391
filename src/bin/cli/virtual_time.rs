//! `bowline sim` in virtual time: scenarios, and clusters under random faults, with one seed or
//! many. For each failed run it prints the command that replays it.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bowline::course::report::{Report, Verdict};
use bowline::sim::cluster::trace::Trace;
use bowline::sim::course_run::{self, CourseRun};
use bowline::sim::coverage::Situation;
use bowline::sim::fault_run::{self, Failure, Summary};
use bowline::sim::faults::Profile;
use indicatif::{ProgressBar, ProgressStyle};

use super::replay::{self, EVENTS_SHOWN, Replay};
use super::scenarios::Selected;

/// Maximum number of requests without an answer that are listed for a failed run.
const HANGING_SHOWN: usize = 10;

/// Command-line arguments of `bowline sim` for runs in virtual time.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Virtual time")]
pub(super) struct VirtualArguments {
    /// Number of seeds to run, from --seed on. Prints one line per scenario, and each failing seed.
    #[arg(long, value_name = "N", conflicts_with_all = ["processes", "runs"])]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) seeds: Option<u64>,
    /// Print every event, one per line.
    #[arg(long)]
    trace: bool,
    /// Run a cluster under load with random faults of this profile, instead of a scenario.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["processes", "scenarios"])]
    #[arg(value_parser = parse_profile)]
    pub(super) profile: Option<Profile>,
}

fn parse_profile(name: &str) -> Result<Profile, String> {
    Profile::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = Profile::ALL.iter().map(|profile| profile.name()).collect();
        format!("unknown profile; the profiles are {}", names.join(", "))
    })
}

/// Prints one line of a simulation trace, which describes one event. Exits the process if stdout is
/// closed.
fn print_line(line: &str) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        // The reader of the pipe, such as `head`, has exited.
        std::process::exit(1);
    }
}

impl VirtualArguments {
    fn trace(&self) -> Trace {
        self.listener().map_or_else(Trace::default, Trace::streaming)
    }

    /// Returns the function that prints each line of a trace; `None` unless `--trace` is given.
    pub(super) fn listener(&self) -> Option<fn(&str)> {
        if self.trace { Some(print_line) } else { None }
    }
}

/// Simulates one scenario with one seed and returns the report. If the run failed, prints the
/// reasons and the command that replays it; if a message was incorrect, also the run's last events.
/// `seeds_left` is the number of seeds to run after this one.
pub(super) fn scenario(
    arguments: &VirtualArguments,
    selected: &Selected,
    seed: u64,
    seeds_left: u64,
) -> Report {
    let replay =
        Replay { arguments: selected.arguments.clone(), seed, seeds_left, traced: arguments.trace };
    replay::set_running(replay.clone());
    let options = course_run::Options { trace: arguments.trace(), ..Default::default() };
    let CourseRun { report, hanging, .. } = course_run::run(&selected.scenario, seed, options);
    if report.verdict == Verdict::Failed && !arguments.trace {
        eprintln!("{} seed {seed} failed: {}", report.scenario, report.reasons.join("; "));
        for (mid, replica) in hanging.iter().take(HANGING_SHOWN) {
            eprintln!("  request {mid:?} at replica {replica} was never answered");
        }
        if hanging.len() > HANGING_SHOWN {
            eprintln!("  and {} more requests", hanging.len() - HANGING_SHOWN);
        }
        // A broken rule ends the run at once, so the cause is in the run's last events. After any
        // other failure, they show only the end of the run.
        if report.incorrect > 0 {
            let options = course_run::Options {
                trace: Trace::detailed(EVENTS_SHOWN),
                ..course_run::Options::default()
            };
            print_events(&course_run::run(&selected.scenario, seed, options).trace);
        }
        eprintln!("replay: {replay}");
    }
    report
}

/// Simulates each scenario with `seeds` consecutive seeds, starting at `first`, and returns all
/// reports. If `first` is `None`, starts at the scenario's own seed, or at 1 if it has none.
pub(super) fn explore(
    arguments: &VirtualArguments,
    scenarios: &[Selected],
    first: Option<u64>,
    seeds: u64,
) -> Vec<Report> {
    let bar = progress_bar(scenarios.len() as u64 * seeds);
    let mut reports = Vec::new();
    for selected in scenarios {
        let first = first.or(selected.scenario.seed).unwrap_or(1);
        for run in 0..seeds {
            let seed = first.wrapping_add(run);
            reports.push(scenario(arguments, selected, seed, seeds - run - 1));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    replay::clear_running();
    reports
}

/// Formats the reports of many simulation runs as one line per scenario: the numbers of runs with
/// the verdicts `Failed` and `Unlucky`, and the median and maximum of messages, failures,
/// duplicates and redirects.
pub(super) fn summary(reports: &[Report]) -> String {
    let mut text = String::new();
    for runs in reports.chunk_by(|one, other| one.scenario == other.scenario) {
        let count = |verdict| runs.iter().filter(|report| report.verdict == verdict).count();
        let spread = |number: fn(&Report) -> u64| {
            let mut numbers: Vec<u64> = runs.iter().map(number).collect();
            numbers.sort_unstable();
            format!("{}/{}", numbers[numbers.len() / 2], numbers[numbers.len() - 1])
        };
        let line = format!(
            "{}: {} seeds, {} failed, {} unlucky; median/max: messages {}, failures {}, \
             duplicates {}, redirects {}\n",
            runs[0].scenario,
            runs.len(),
            count(Verdict::Failed),
            count(Verdict::Unlucky),
            spread(|report| report.total_msgs),
            spread(|report| report.failures),
            spread(|report| report.duplicates),
            spread(|report| report.redirects),
        );
        text.push_str(&line);
    }
    text
}

/// Simulates a cluster under the random faults of `profile` with `seeds` consecutive seeds,
/// starting at `first`, and prints the results. Returns a failure exit code if any run failed.
pub(super) fn faults(
    arguments: &VirtualArguments,
    profile: Profile,
    first: u64,
    seeds: u64,
    json: bool,
) -> ExitCode {
    let bar = progress_bar(seeds);
    let started = Instant::now();
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for run in 0..seeds {
        let seed = first.wrapping_add(run);
        let arguments_of_run = ["sim", "--profile", profile.name()].map(str::to_owned).to_vec();
        let replay = Replay {
            arguments: arguments_of_run,
            seed,
            seeds_left: seeds - run - 1,
            traced: arguments.trace,
        };
        replay::set_running(replay.clone());
        match fault_run::run(profile, seed, arguments.trace(), &|_| ()) {
            Ok(summary) => passed.push(summary),
            Err(failure) => {
                bar.suspend(|| print_failure(profile, &replay, &failure));
                failed.push((replay, failure));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    replay::clear_running();
    let wall = started.elapsed();
    if json {
        println!("{}", faults_as_json(profile, &passed, &failed, wall));
    } else {
        let total = total(&passed);
        println!(
            "{}: {seeds} seeds, {} failed; {} entries committed, {} requests answered, {} leaders, \
             {} leadership transfers; {:.0} s of virtual time in {:.1} s ({:.0}x)",
            profile.name(),
            failed.len(),
            total.committed,
            total.answered,
            total.leaders,
            total.leadership_transfers,
            total.virtual_time.as_secs_f64(),
            wall.as_secs_f64(),
            total.virtual_time.as_secs_f64() / wall.as_secs_f64(),
        );
        println!("reached: {}", total.coverage.line());
        if !total.disks.is_empty() {
            println!("{}", total.disks.table());
        }
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn total(passed: &[Summary]) -> Summary {
    let mut total = Summary::default();
    for summary in passed {
        total.virtual_time += summary.virtual_time;
        total.events += summary.events;
        total.leaders += summary.leaders;
        total.committed += summary.committed;
        total.leadership_transfers += summary.leadership_transfers;
        total.answered += summary.answered;
        total.refused += summary.refused;
        total.disks.add(&summary.disks);
        total.coverage.merge(&summary.coverage);
    }
    total
}

fn print_failure(profile: Profile, replay: &Replay, failure: &Failure) {
    eprintln!("{} seed {} failed at {:?}", profile.name(), replay.seed, failure.at);
    if !replay.traced {
        let again = fault_run::run(profile, replay.seed, Trace::detailed(EVENTS_SHOWN), &|_| ());
        if let Err(again) = again {
            print_events(&again.trace);
        }
    }
    eprintln!("{}\nreplay: {replay}", failure.violation);
}

fn faults_as_json(
    profile: Profile,
    passed: &[Summary],
    failed: &[(Replay, Box<Failure>)],
    wall: Duration,
) -> serde_json::Value {
    let total = total(passed);
    let failing = failed.iter().map(|(replay, failure)| {
        serde_json::json!({
            "seed": replay.seed,
            "at_s": failure.at.since(bowline::types::Instant::ZERO).as_secs_f64(),
            "rule": failure.violation.0,
            "replay": replay.to_string(),
        })
    });
    let reached = Situation::ALL
        .map(|situation| (situation.name().to_owned(), total.coverage.count(situation).into()));
    let coverage = serde_json::Value::Object(reached.into_iter().collect());
    serde_json::json!({
        "profile": profile.name(),
        "seeds": passed.len() + failed.len(),
        "passed": failed.is_empty(),
        "failed": failing.collect::<Vec<_>>(),
        "committed": total.committed,
        "coverage": coverage,
        "answered": total.answered,
        "refused": total.refused,
        "leaders": total.leaders,
            "leadership_transfers": total.leadership_transfers,
            "events": total.events,
        "virtual_s": total.virtual_time.as_secs_f64(),
        "wall_s": wall.as_secs_f64(),
    })
}

fn print_events(events: &[String]) {
    for line in events {
        eprintln!("  {line}");
    }
}

/// Returns a progress bar that counts simulation runs. It is hidden if stderr is not a terminal or
/// there are fewer than 20 runs.
fn progress_bar(runs: u64) -> ProgressBar {
    if runs < 20 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} seeds, {eta} left")
        .expect("the template is valid");
    ProgressBar::new(runs).with_style(style)
}
