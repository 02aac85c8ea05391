//! The program `bowline-replica`: a replica that runs under one of the university course's
//! simulators.
//!
//! The program prints nothing unless it cannot start. SIGTERM ends it at once, because the
//! simulators wait for the process to end and there is nothing to save.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use bowline::config::Config;
use bowline::runtime::{CourseArguments, RuntimeCounters, Threads, run_course};

/// Exit code for invalid command-line arguments, the same as that of `clap`.
const EXIT_USAGE: u8 = 2;

/// Name of the environment variable that sets the default of the option `--threads`. A simulator
/// that starts replicas without options can set it.
const THREADS_VARIABLE: &str = "BOWLINE_THREADS";

const USAGE: &str =
    "usage: bowline-replica [--threads dedicated|fused|auto] [UDP_PORT] MY_ID OTHER_ID...";

fn main() -> ExitCode {
    // A lossy conversion suffices: an argument that is not Unicode is invalid anyway, and the error
    // message shows it.
    let arguments =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let (arguments, threads) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("bowline-replica: {error:#}\n{USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run_course(&arguments, Config::course(), threads, &Arc::new(RuntimeCounters::default())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bowline-replica: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the command-line arguments by hand. Avoids `clap`, because there is only one option and
/// start-up time matters: the simulator's clock is already running.
fn parse(
    mut arguments: impl Iterator<Item = String>,
) -> anyhow::Result<(CourseArguments, Threads)> {
    let mut threads = match std::env::var(THREADS_VARIABLE) {
        Ok(value) => value.parse().context(THREADS_VARIABLE)?,
        Err(std::env::VarError::NotPresent) => Threads::default(),
        Err(error) => return Err(error).context(THREADS_VARIABLE),
    };
    let mut positional = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "--threads" {
            let value = arguments.next();
            let value = value.context("--threads needs a value: dedicated, fused or auto")?;
            threads = value.parse()?;
        } else if let Some(value) = argument.strip_prefix("--threads=") {
            threads = value.parse()?;
        } else if argument.starts_with('-') {
            anyhow::bail!("unknown option `{argument}`; the only option is --threads");
        } else {
            positional.push(argument);
        }
    }
    Ok((CourseArguments::from_arguments(&positional)?, threads))
}
