//! The replica program for the course's simulators: arguments, then the library.
//!
//! It prints nothing unless it can't start, and leaves SIGTERM to its default: the simulators
//! wait for the process to be gone, and there is nothing to save.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use bowline::config::Config;
use bowline::runtime::{CourseArguments, RuntimeCounters, Threads, run_course};

/// What was wrong with the arguments is told by this exit code, as `clap` does.
const USAGE: u8 = 2;

/// Where simulators pass no options of their own.
const THREADS_VARIABLE: &str = "BOWLINE_THREADS";

const USAGE_TEXT: &str = "usage: bowline-replica [--threads dedicated|fused|auto] \
                          [UDP_PORT] MY_ID OTHER_ID...";

fn main() -> ExitCode {
    // Lossy: what is not Unicode is no argument of ours, and then named in the message.
    let all = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let (invitation, threads) = match arguments(all) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("bowline-replica: {error:#}\n{USAGE_TEXT}");
            return ExitCode::from(USAGE);
        }
    };
    match run_course(&invitation, Config::course(), threads, &Arc::new(RuntimeCounters::default()))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bowline-replica: {error}");
            ExitCode::FAILURE
        }
    }
}

/// By hand: this program starts in the middle of a run that counts microseconds, and one option is
/// all there is.
fn arguments(mut all: impl Iterator<Item = String>) -> anyhow::Result<(CourseArguments, Threads)> {
    let mut threads = match std::env::var(THREADS_VARIABLE) {
        Ok(word) => word.parse().context(THREADS_VARIABLE)?,
        Err(std::env::VarError::NotPresent) => Threads::default(),
        Err(error) => return Err(error).context(THREADS_VARIABLE),
    };
    let mut positional = Vec::new();
    while let Some(argument) = all.next() {
        if argument == "--threads" {
            let word = all.next().ok_or_else(|| anyhow::anyhow!("--threads wants a word"))?;
            threads = word.parse()?;
        } else if let Some(word) = argument.strip_prefix("--threads=") {
            threads = word.parse()?;
        } else if argument.starts_with('-') {
            anyhow::bail!("`{argument}` is no option");
        } else {
            positional.push(argument);
        }
    }
    Ok((CourseArguments::from_arguments(&positional)?, threads))
}
