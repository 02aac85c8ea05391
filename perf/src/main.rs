//! `cargo perf`: measures Bowline and other servers. It prints a table or JSON, and writes results
//! to `perf/out/` as JSON and in HdrHistogram's formats.
#![allow(clippy::print_stdout, reason = "a command line prints its results")]

#[cfg(test)]
#[path = "../../tests/tidy/commands.rs"]
mod commands;
mod compare;
mod files;
mod load;
mod lossy;
mod record;
mod report;
mod sim;

use std::process::ExitCode;

use clap::Parser as _;

/// Exit code if a run failed or its output could not be written. Clap uses the same code for
/// invalid arguments.
const EXIT_ERROR: u8 = 2;

/// Measure Bowline and other servers.
#[derive(clap::Parser, Debug)]
#[command(name = "perf", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Run a simulated scenario at a given rate.
    Sim(sim::Arguments),
    /// Load a server at a given rate, or as fast as it replies.
    Load(Box<load::Arguments>),
    /// Check a history of `load --history` for linearizability.
    Check(load::history::Arguments),
    /// Draw charts of results.
    Report(report::Arguments),
    /// Measure Bowline, etcd, Redis, Valkey and NATS side by side.
    Compare(compare::Arguments),
    /// Measure under packet loss between replicas (needs root).
    Lossy(lossy::Arguments),
    /// Send as much as possible over TCP (started by `lossy`).
    #[command(hide = true)]
    CrossTraffic(lossy::cross_traffic::Arguments),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Load(arguments) => load::run(&arguments),
        Command::Check(arguments) => load::history::check(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Lossy(arguments) => lossy::run(&arguments),
        Command::CrossTraffic(arguments) => lossy::cross_traffic::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("perf: {error:#}");
        ExitCode::from(EXIT_ERROR)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::commands::{arguments, commands};
    use super::*;

    #[test]
    fn documented_perf_command_lines_are_accepted() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut pages = vec![root.join("README.md")];
        for folder in ["src/guide", "perf", "perf/results"] {
            let entries = fs::read_dir(root.join(folder)).expect("the folder exists");
            let paths = entries.map(|entry| entry.expect("the entry is readable").path());
            pages.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "md")));
        }
        let mut count = 0;
        for path in pages {
            let text = fs::read_to_string(&path).expect("the page is UTF-8");
            for command in commands(&text) {
                let Some(arguments) = arguments(&command, &["cargo perf"]) else { continue };
                let command_line =
                    std::iter::once("perf").chain(arguments.iter().map(String::as_str));
                if let Err(error) = Cli::try_parse_from(command_line) {
                    panic!("{}:{}: {error}", path.display(), command.line);
                }
                count += 1;
            }
        }
        assert!(count >= 10, "only {count} commands were found");
    }
}
