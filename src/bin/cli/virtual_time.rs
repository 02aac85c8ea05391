//! `bowline sim` without processes: scenarios and fault runs in virtual time, one run or many
//! seeds, each failing one with the command that replays it.

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
use super::scenarios::Chosen;

/// What concerns virtual time only.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Virtual time")]
pub(super) struct VirtualArguments {
    /// Explore so many seeds, from --seed on, and name every failing one.
    #[arg(long, value_name = "N", conflicts_with_all = ["processes", "runs"])]
    pub(super) seeds: Option<u64>,
    /// Print what happens, one event a line.
    #[arg(long, conflicts_with = "processes")]
    trace: bool,
    /// Let faults happen to a cluster under load, instead of a scenario.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["processes", "scenarios"])]
    #[arg(value_parser = parse_profile)]
    pub(super) profile: Option<Profile>,
}

fn parse_profile(name: &str) -> Result<Profile, String> {
    Profile::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = Profile::ALL.iter().map(|profile| profile.name()).collect();
        format!("the profiles are {}", names.join(", "))
    })
}

/// Prints a line of a trace as it happens.
fn print_line(line: &str) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        // Whoever read it has seen enough.
        std::process::exit(1);
    }
}

impl VirtualArguments {
    fn trace(&self) -> Trace {
        if self.trace { Trace::streaming(print_line) } else { Trace::default() }
    }
}

/// Runs one scenario once. A failed run is run again for its last events.
pub(super) fn scenario(
    arguments: &VirtualArguments,
    chosen: &Chosen,
    seed: u64,
    seeds_left: u64,
) -> Report {
    let replay = Replay { words: chosen.words.clone(), seed, seeds_left, traced: arguments.trace };
    replay::running(replay.clone());
    let options = course_run::Options { trace: arguments.trace(), ..Default::default() };
    let CourseRun { report, hanging, .. } = course_run::run(&chosen.scenario, seed, options);
    if report.verdict == Verdict::Failed && !arguments.trace {
        eprintln!("{} seed {seed} failed: {}", report.scenario, report.reasons.join("; "));
        for (mid, replica) in &hanging {
            eprintln!("  {mid:?} at replica {replica} was never answered");
        }
        // Only a broken rule ends a run where it happens; else the end shows nothing.
        if report.incorrect > 0 {
            let options = course_run::Options {
                trace: Trace::detailed(EVENTS_SHOWN),
                ..course_run::Options::default()
            };
            show_events(&course_run::run(&chosen.scenario, seed, options).trace);
        }
        eprintln!("replay: {replay}");
    }
    report
}

/// Explores seeds of scenarios; says what all of them together came to.
pub(super) fn explore(
    arguments: &VirtualArguments,
    scenarios: &[Chosen],
    first: Option<u64>,
    seeds: u64,
) -> Vec<Report> {
    let bar = progress_bar(scenarios.len() as u64 * seeds);
    let mut reports = Vec::new();
    for chosen in scenarios {
        let first = first.or(chosen.scenario.seed).unwrap_or(1);
        for place in 0..seeds {
            let seed = first.wrapping_add(place);
            reports.push(scenario(arguments, chosen, seed, seeds - place - 1));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    replay::over();
    reports
}

/// One line a scenario over all its seeds: what failed, and the middle and the worst of what is
/// counted.
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
            "{}: {} seeds, {} failed, {} unlucky; median/most: messages {}, failures {}, \
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

/// Runs seeds of a profile.
pub(super) fn faults(
    arguments: &VirtualArguments,
    profile: Profile,
    first: u64,
    seeds: u64,
    json: bool,
) -> ExitCode {
    let bar = progress_bar(seeds);
    let began = Instant::now();
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for place in 0..seeds {
        let seed = first.wrapping_add(place);
        let words = ["sim", "--profile", profile.name()].map(str::to_owned).to_vec();
        let traced = arguments.trace;
        let replay = Replay { words, seed, seeds_left: seeds - place - 1, traced };
        replay::running(replay.clone());
        match fault_run::run(profile, seed, arguments.trace(), &|_| ()) {
            Ok(summary) => passed.push(summary),
            Err(failure) => {
                bar.suspend(|| show_failure(profile, &replay, &failure));
                failed.push((replay, failure));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    replay::over();
    let wall = began.elapsed();
    if json {
        println!("{}", faults_as_json(profile, &passed, &failed, wall));
    } else {
        let total = total(&passed);
        println!(
            "{}: {seeds} seeds, {} failed; {} entries committed, {} requests answered under {} \
             leaders, {} times handed over; \
             {:.0} s of virtual time in {:.1} s: {:.0} times as fast",
            profile.name(),
            failed.len(),
            total.committed,
            total.answered,
            total.leaders,
            total.handovers,
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
        total.handovers += summary.handovers;
        total.answered += summary.answered;
        total.refused += summary.refused;
        total.disks.add(&summary.disks);
        total.coverage.merge(&summary.coverage);
    }
    total
}

fn show_failure(profile: Profile, replay: &Replay, failure: &Failure) {
    eprintln!("{} seed {} failed at {:?}", profile.name(), replay.seed, failure.at);
    if !replay.traced {
        let again = fault_run::run(profile, replay.seed, Trace::detailed(EVENTS_SHOWN), &|_| ());
        if let Err(again) = again {
            show_events(&again.trace);
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
        "handovers": total.handovers,
        "events": total.events,
        "virtual_s": total.virtual_time.as_secs_f64(),
        "wall_s": wall.as_secs_f64(),
    })
}

fn show_events(events: &[String]) {
    for line in events {
        eprintln!("  {line}");
    }
}

/// A bar of runs on stderr, if that is a terminal.
fn progress_bar(runs: u64) -> ProgressBar {
    if runs < 20 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} seeds, {eta} left")
        .expect("the template is sound");
    ProgressBar::new(runs).with_style(style)
}
