//! The command that runs one run again, and what to do when the core panics in the middle of one:
//! a panic ends the process (release builds abort), so what is worth knowing is said on the way
//! out.

use std::cell::RefCell;
use std::fmt;
use std::process::Command;

/// Last events shown of a failed run.
pub(super) const EVENTS_SHOWN: usize = 40;
/// Processes one inside the other, each begun behind a seed that panicked, before the rest is
/// left.
const PANICS_MAX: u32 = 10;
/// Tells a process how many seeds have panicked before it.
const PANICS: &str = "BOWLINE_SIM_PANICS";

/// One run, as its arguments.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    /// What to run, without the seed.
    pub(super) words: Vec<String>,
    pub(super) seed: u64,
    /// Seeds that are to be run behind this one.
    pub(super) seeds_left: u64,
    /// Its events are being printed.
    pub(super) traced: bool,
}

thread_local! {
    static RUNNING: RefCell<Option<Replay>> = const { RefCell::new(None) };
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cargo run --release --")?;
        for word in &self.words {
            if word.contains(|char: char| char.is_whitespace() || "\"'{}$`\\".contains(char)) {
                write!(f, " '{}'", word.replace('\'', r"'\''"))?;
            } else {
                write!(f, " {word}")?;
            }
        }
        write!(f, " --seed {} --trace", self.seed)
    }
}

/// Notes what runs now.
pub(super) fn running(replay: Replay) {
    RUNNING.with_borrow_mut(|running| *running = Some(replay));
}

/// Notes that no run is under way any more.
pub(super) fn over() {
    RUNNING.take();
}

/// Makes a panic name the run that it happened in, show its last events, and go on with the
/// seeds behind it.
pub(super) fn watch_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        if let Some(replay) = RUNNING.take()
            && !replay.traced
        {
            eprintln!("seed {} panicked; the last events:", replay.seed);
            replay.show_events();
            eprintln!("replay: {replay}");
            replay.go_on();
            std::process::exit(1);
        }
    }));
}

impl Replay {
    /// Runs it again in a process of its own, for whatever it prints until it panics.
    fn show_events(&self) {
        let seed = self.seed.to_string();
        let again = self.command().and_then(|mut command| {
            command.args(&self.words).args(["--seed", &seed, "--trace"]).output()
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
            Err(error) => eprintln!("  (can't be run again: {error})"),
        }
    }

    /// Runs the seeds behind this one in a process of their own.
    fn go_on(&self) {
        if self.seeds_left == 0 {
            return;
        }
        let panics = std::env::var(PANICS).ok().and_then(|text| text.parse().ok()).unwrap_or(0) + 1;
        if panics >= PANICS_MAX {
            eprintln!("{panics} seeds have panicked; the last {} are left out", self.seeds_left);
            return;
        }
        let (next, left) = (self.seed.wrapping_add(1).to_string(), self.seeds_left.to_string());
        let rest = self.command().and_then(|mut command| {
            let words = command.args(&self.words).args(["--seed", &next, "--seeds", &left]);
            words.env(PANICS, panics.to_string()).status()
        });
        if let Err(error) = rest {
            eprintln!("can't go on behind it: {error}");
        }
    }

    #[expect(clippy::unused_self, reason = "reads as what it is for")]
    fn command(&self) -> std::io::Result<Command> {
        Ok(Command::new(std::env::current_exe()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_pasted_into_a_shell() {
        let words = ["sim", "it's {\"a\": 1}", "--drops", "0.5"].map(str::to_owned).to_vec();
        let replay = Replay { words, seed: 7, seeds_left: 0, traced: false };
        assert_eq!(
            replay.to_string(),
            r#"cargo run --release -- sim 'it'\''s {"a": 1}' --drops 0.5 --seed 7 --trace"#
        );
    }
}
