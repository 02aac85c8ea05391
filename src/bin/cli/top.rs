//! `bowline top`: displays all replicas of a running cluster in the terminal, refreshed until the
//! user quits. With `--once` it prints one plain table instead. It sends only `INFO` and `CLUSTER
//! NODES`, and needs the address of one replica.

mod model;
mod sampler;
mod view;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGTERM};

use self::model::Overview;
use self::sampler::{Sample, Sampler};
use super::admin::EXIT_FAILED;
use super::login::LoginArguments;
use super::tls_arguments::TlsArguments;

/// Interval at which key presses, signals and new samples are polled.
const INPUT_INTERVAL: Duration = Duration::from_millis(100);

/// Command-line arguments of `bowline top`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Client address of any replica.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    addr: String,
    /// Refresh interval in seconds: 1 to 3600.
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
    /// Print one plain table after one interval, and exit: with code 0 if there is a leader,
    /// otherwise with code 1.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    login: LoginArguments,
    #[command(flatten)]
    tls: TlsArguments,
}

/// Runs `bowline top`. Returns the exit code.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    arguments.login.apply()?;
    arguments.tls.apply()?;
    let interval = Duration::from_secs(arguments.interval);
    ensure!(
        arguments.once || (std::io::stdout().is_terminal() && std::io::stdin().is_terminal()),
        "bowline top needs a terminal; use --once to print one table"
    );
    let mut sampler = Sampler::new(&arguments.addr);
    let first = sampler.sample();
    // An unreachable address is reported here, before the view starts.
    first.replicas.as_ref().map_err(|reason| anyhow!("{reason}"))?;
    if arguments.once {
        return Ok(once(sampler, &first, interval));
    }
    watch(sampler, first, interval)?;
    Ok(ExitCode::SUCCESS)
}

/// Takes a second sample after `interval`, and prints the table of the two. Returns the exit code.
fn once(mut sampler: Sampler, first: &Sample, interval: Duration) -> ExitCode {
    std::thread::sleep(interval);
    let overview = Overview::new(Some(first), &sampler.sample());
    println!("{}", overview.plain());
    if overview.leader.is_some() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) }
}

/// Displays the replicas until the user quits or a signal ends the process. Restores the terminal
/// in both cases, and in a hook if the process panics.
fn watch(sampler: Sampler, first: Sample, interval: Duration) -> anyhow::Result<()> {
    let ended = Arc::<AtomicBool>::default();
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))
            .context("cannot install a signal handler")?;
    }
    let incoming = sampler.spawn(interval)?;
    let mut terminal = ratatui::try_init().context("cannot set up the terminal")?;
    let mut overview = Overview::new(None, &first);
    let mut last = first;
    let result = loop {
        if let Some(sample) = incoming.try_iter().last() {
            overview = Overview::new(Some(&last), &sample).or_stale(overview);
            last = sample;
        }
        if let Err(error) = terminal.draw(|frame| view::draw(frame, &overview, interval)) {
            break Err(error).context("cannot draw on the terminal");
        }
        match is_quit() {
            Ok(false) if !ended.load(Ordering::Relaxed) => {}
            Ok(_) => break Ok(()),
            Err(error) => break Err(error).context("cannot read from the terminal"),
        }
    };
    ratatui::restore();
    result
}

/// Waits up to [`INPUT_INTERVAL`] for input. Returns whether the user wants to quit.
fn is_quit() -> std::io::Result<bool> {
    if !event::poll(INPUT_INTERVAL)? {
        return Ok(false);
    }
    Ok(matches!(event::read()?, Event::Key(key) if quits(key)))
}

/// Returns whether a key quits: `q`, Escape or Ctrl-C.
fn quits(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let pressed = key.kind == KeyEventKind::Press;
    pressed
        && match key.code {
            KeyCode::Char('c') => control,
            KeyCode::Char('q') | KeyCode::Esc => true,
            _ => false,
        }
}
