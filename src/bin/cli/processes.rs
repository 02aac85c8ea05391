//! `bowline sim --processes` runs scenarios with real replica programs.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use bowline::course::report::Report;
use bowline::course::scenario::Scenario;
use bowline::processes::{self, Options, Output, ProcessError, Protocol};
use indicatif::{ProgressBar, ProgressStyle};

/// Command-line arguments of `bowline sim` that run real replica programs.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Processes")]
pub(super) struct ProcessArguments {
    /// Run real replica programs in real time, instead of the simulator in virtual time.
    #[arg(long, requires = "replica")]
    pub(super) processes: bool,
    /// Path of the replica program.
    #[arg(long, value_name = "PROGRAM", requires = "processes")]
    replica: Option<PathBuf>,
    /// Transport between the simulator and the replicas: udp, seqpacket or stream (UNIX sockets).
    #[arg(long, value_name = "NAME", default_value = "udp", requires = "processes")]
    protocol: Protocol,
    /// Discard the output of the replicas.
    #[arg(long, requires = "processes")]
    discard_output: bool,
    /// Print the output of the replicas on stderr.
    #[arg(long, conflicts_with = "discard_output", requires = "processes")]
    show_output: bool,
}

/// Runs the scenarios one after the other with real replica processes. Returns the reports of the
/// completed runs, and the error that ended the last run, if any.
pub(super) fn run(
    arguments: &ProcessArguments,
    trace: Option<fn(&str)>,
    runs: impl Iterator<Item = (Scenario, u64)>,
) -> anyhow::Result<(Vec<Report>, Option<ProcessError>)> {
    let options = Options {
        program: arguments
            .replica
            .clone()
            .context("--processes needs the path of the replica program; give --replica PROGRAM")?,
        protocol: arguments.protocol,
        output: match (arguments.discard_output, arguments.show_output) {
            (true, _) => Output::Discard,
            (false, true) => Output::Show,
            (false, false) => Output::Keep,
        },
        trace,
    };
    let interrupted = processes::interrupted_by_signals()
        .context("cannot install the signal handler for Ctrl-C")?;
    let mut reports = Vec::new();
    for (scenario, seed) in runs {
        let bar = progress_bar(&scenario, seed);
        let result = processes::run(&scenario, seed, &options, &interrupted, &mut |seconds| {
            bar.set_position(Duration::from_secs_f64(seconds).as_secs());
        });
        bar.finish_and_clear();
        match result {
            Ok(scenario_run) => reports.push(scenario_run.report()),
            Err(error) => return Ok((reports, Some(error))),
        }
    }
    Ok((reports, None))
}

/// Returns a progress bar that counts the seconds of a run; hidden if stderr is not a terminal.
fn progress_bar(scenario: &Scenario, seed: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} s")
        .expect("the template is valid");
    ProgressBar::new(scenario.lifetime().as_secs())
        .with_style(style)
        .with_message(format!("{} seed {seed}", scenario.name))
}
