//! `cargo perf`: runs a load and writes what came of it to `perf/out/`: a table or JSON for now,
//! and for later the latencies in HdrHistogram's formats and everything else as JSON.
#![allow(clippy::print_stdout, reason = "printing is what a command line is for")]

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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::commands::{arguments, commands};
    use super::*;

    #[test]
    fn documented_command_lines_are_accepted() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut pages = vec![root.join("README.md")];
        for folder in ["src/guide", "perf", "perf/results"] {
            let entries = fs::read_dir(root.join(folder)).expect("the folder is there");
            let paths = entries.map(|entry| entry.expect("it is readable").path());
            pages.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "md")));
        }
        let mut count = 0;
        for path in pages {
            let text = fs::read_to_string(&path).expect("a page is text");
            for command in commands(&text) {
                let Some(arguments) = arguments(&command, &["cargo perf"]) else { continue };
                let words = std::iter::once("perf").chain(arguments.iter().map(String::as_str));
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("{}:{}: {error}", path.display(), command.line);
                }
                count += 1;
            }
        }
        assert!(count >= 10, "only {count} commands were found");
    }
}
