//! The program `bowline`: parses the command line and runs a subcommand. The work is in the
//! library.
#![allow(clippy::print_stdout, reason = "printing is what a command line is for")]

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    cli::run(&cli::Cli::parse())
}
