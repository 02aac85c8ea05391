//! The command that replays a simulation, and the panic hook that prints it: a panic ends the
//! process (release builds abort), so the hook also prints the last events and runs the remaining
//! seeds.

use std::cell::RefCell;
use std::fmt;
use std::process::Command;

/// Number of last events printed for a failed run.
pub(super) const EVENTS_SHOWN: usize = 40;
/// Maximum panics before the remaining seeds are skipped. Each panic starts a child process for
/// them, so this also bounds the nesting of processes.
const PANICS_MAX: u32 = 10;
/// Environment variable with the number of panics in the parent processes.
const PANICS_VARIABLE: &str = "BOWLINE_SIM_PANICS";

/// The arguments of one run.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    /// The arguments after the program, without the seed.
    pub(super) arguments: Vec<String>,
    pub(super) seed: u64,
    /// Number of seeds still to run after this one.
    pub(super) seeds_left: u64,
    /// Whether `--trace` prints the events already.
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

/// Sets the current run, for the panic hook.
pub(super) fn set_running(replay: Replay) {
    RUNNING.with_borrow_mut(|running| *running = Some(replay));
}

/// Clears the current run.
pub(super) fn clear_running() {
    RUNNING.take();
}

/// Installs a panic hook that prints the last events of the current run and the command that
/// replays it, and then runs the remaining seeds.
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
    /// Repeats the run with `--trace` in a child process, and prints the last events of its output.
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
            Err(error) => eprintln!("  (cannot repeat the run: {error})"),
        }
    }

    /// Runs the remaining seeds in a child process.
    fn run_remaining_seeds(&self) {
        if self.seeds_left == 0 {
            return;
        }
        let panics =
            std::env::var(PANICS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(0) + 1;
        if panics >= PANICS_MAX {
            eprintln!("{panics} seeds panicked; skipping the remaining {}", self.seeds_left);
            return;
        }
        let (next, left) = (self.seed.wrapping_add(1).to_string(), self.seeds_left.to_string());
        let rest = this_program().and_then(|mut command| {
            command.args(&self.arguments).args(["--seed", &next, "--seeds", &left]);
            command.env(PANICS_VARIABLE, panics.to_string()).status()
        });
        if let Err(error) = rest {
            eprintln!("cannot run the remaining seeds: {error}");
        }
    }
}

/// This program, as a child process.
fn this_program() -> std::io::Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_command_is_quoted_for_a_shell() {
        let arguments = ["sim", "it's {\"a\": 1}", "--drops", "0.5"].map(str::to_owned).to_vec();
        let replay = Replay { arguments, seed: 7, seeds_left: 0, traced: false };
        assert_eq!(
            replay.to_string(),
            r#"cargo run --release -- sim 'it'\''s {"a": 1}' --drops 0.5 --seed 7 --trace"#
        );
    }
}
