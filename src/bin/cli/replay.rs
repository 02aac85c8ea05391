//! The command that replays a simulation, and the panic hook that prints it: a panic ends the
//! process (release builds abort), so the hook also prints the last events and runs the remaining
//! seeds.

use std::cell::RefCell;
use std::fmt;
use std::process::Command;

/// Number of events to print from the end of a failed simulation run.
pub(super) const EVENTS_SHOWN: usize = 40;
/// Number of panics in a series of simulation runs after which the remaining seeds are skipped.
/// After each panic a child process runs the remaining seeds, so the limit also bounds how deeply
/// processes are nested.
const PANICS_MAX: u32 = 10;
/// Name of the environment variable that passes the number of panics so far to the child process
/// that runs the remaining seeds.
const PANICS_VARIABLE: &str = "BOWLINE_SIM_PANICS";

/// A simulation run, described by the command-line arguments that repeat it.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    /// Command-line arguments that repeat the run, without the program's name, `--seed` and
    /// `--seeds`.
    pub(super) arguments: Vec<String>,
    pub(super) seed: u64,
    /// Number of seeds of the same scenario or fault profile that remain to be run after this run.
    pub(super) seeds_left: u64,
    /// Whether the run prints its events as they occur (`--trace`), so that a replay need not print
    /// them.
    pub(super) traced: bool,
}

thread_local! {
    static RUNNING: RefCell<Option<Replay>> = const { RefCell::new(None) };
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cargo run --release --")?;
        for argument in &self.arguments {
            if argument.contains(|char: char| char.is_whitespace() || "\"'{}$`\\".contains(char)) {
                write!(f, " '{}'", argument.replace('\'', r"'\''"))?;
            } else {
                write!(f, " {argument}")?;
            }
        }
        write!(f, " --seed {} --trace", self.seed)
    }
}

/// Remembers the simulation run that is about to start, so that the panic hook can replay it.
pub(super) fn set_running(replay: Replay) {
    RUNNING.with_borrow_mut(|running| *running = Some(replay));
}

/// Tells the panic hook that no simulation run is in progress.
pub(super) fn clear_running() {
    RUNNING.take();
}

/// Installs a panic hook for simulation runs. If a run panics, the hook prints the run's last
/// events and the command that replays it, runs the remaining seeds, and exits the process.
pub(super) fn install_panic_hook() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        previous(info);
        if let Some(replay) = RUNNING.take()
            && !replay.traced
        {
            eprintln!("seed {} panicked; the last events:", replay.seed);
            replay.show_events();
            eprintln!("replay: {replay}");
            replay.run_remaining_seeds();
            std::process::exit(1);
        }
    }));
}

impl Replay {
    /// Repeats the simulation run with `--trace` in a child process, and prints the last
    /// [`EVENTS_SHOWN`] events of the run.
    fn show_events(&self) {
        let seed = self.seed.to_string();
        let again = this_program().and_then(|mut command| {
            command.args(&self.arguments).args(["--seed", &seed, "--trace"]).output()
        });
        match again {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                let lines: Vec<&str> = text.lines().collect();
                let first = lines.len().saturating_sub(EVENTS_SHOWN);
                for line in &lines[first..] {
                    eprintln!("  {line}");
                }
            }
            Err(error) => eprintln!("  (cannot repeat seed {seed} to show its events: {error})"),
        }
    }

    /// Runs the remaining seeds of the simulation in a child process, unless [`PANICS_MAX`] seeds
    /// have panicked already.
    fn run_remaining_seeds(&self) {
        if self.seeds_left == 0 {
            return;
        }
        let (next, left) = (self.seed.wrapping_add(1).to_string(), self.seeds_left.to_string());
        let how = format!(
            "to run them, use the command above with `--seed {next} --seeds {left}` in place of \
             `--seed {} --trace`",
            self.seed
        );
        let panics =
            std::env::var(PANICS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(0) + 1;
        if panics >= PANICS_MAX {
            eprintln!("{panics} seeds panicked; {left} seeds remain and are skipped; {how}");
            return;
        }
        let rest = this_program().and_then(|mut command| {
            command.args(&self.arguments).args(["--seed", &next, "--seeds", &left]);
            command.env(PANICS_VARIABLE, panics.to_string()).status()
        });
        if let Err(error) = rest {
            eprintln!("cannot run the remaining {left} seeds: {error}; {how}");
        }
    }
}

/// Returns a command that starts the currently running program as a child process.
fn this_program() -> std::io::Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulator_replay_command_is_quoted_for_a_shell() {
        let arguments = ["sim", "it's {\"a\": 1}", "--drops", "0.5"].map(str::to_owned).to_vec();
        let replay = Replay { arguments, seed: 7, seeds_left: 0, traced: false };
        assert_eq!(
            replay.to_string(),
            r#"cargo run --release -- sim 'it'\''s {"a": 1}' --drops 0.5 --seed 7 --trace"#
        );
    }
}
