//! `cargo perf`: runs a load and writes what came of it to `perf/out/`: a table or JSON for now,
//! and for later the latencies in HdrHistogram's formats and everything else as JSON.
#![allow(clippy::print_stdout, reason = "printing is what a command line is for")]

mod compare;
mod files;
mod load;
mod lossy;
mod record;
mod report;
mod sim;

use std::process::ExitCode;

use clap::Parser as _;

/// Exit code of a run that could not be held or written down; clap's own for bad arguments.
const EXIT_TROUBLE: u8 = 2;

/// Measures Bowline.
#[derive(clap::Parser, Debug)]
#[command(name = "perf", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Run a scenario of the simulators at a rate of your choice.
    Sim(sim::Arguments),
    /// Ask a server at a rate of your choice, or as fast as it answers.
    Load(Box<load::Arguments>),
    /// Judge a history of `load --history`: could one copy of the data have answered so?
    Check(load::history::Arguments),
    /// Draw results, as pictures and as a page.
    Report(report::Arguments),
    /// Measure Bowline, etcd and Redis side by side.
    Compare(compare::Arguments),
    /// The same while packets between replicas are lost (needs root).
    Lossy(lossy::Arguments),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Load(arguments) => load::run(&arguments),
        Command::Check(arguments) => load::history::check(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Lossy(arguments) => lossy::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("perf: {error:#}");
        ExitCode::from(EXIT_TROUBLE)
    })
}
