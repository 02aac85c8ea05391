//! `bowline serve`: one replica. And `bowline config`: what it would be started with, and why.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use bowline::runtime::{RuntimeCounters, ServerOptions, run_server};

use super::settings::{REJOIN_MEMBERS_MIN, ServerArguments};

/// Says how much is logged, as in `BOWLINE_LOG=debug`.
const LOG_VARIABLE: &str = "BOWLINE_LOG";

/// Exit code of a replica whose folder is damaged or was lost: to start it again does not help.
pub(super) const EXIT_DAMAGED: u8 = 65;

/// What `bowline serve` takes.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) server: ServerArguments,
    /// End when standard input does: whoever started this is gone then.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs the replica.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    start_logging()?;
    // Where a limit on the size of files is in force, the system would end the process without a
    // word. With this the call fails instead, and the log writer says what to do.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())
        .context("can't handle SIGXFSZ")?;
    let options = arguments.server.resolve(variable)?.options()?;
    if arguments.stop_with_stdin {
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(stop_with_stdin)
            .context("can't start a thread")?;
    }
    match run_server(&options, &Arc::new(RuntimeCounters::default())) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is_damage() => {
            eprintln!("bowline: {error}\n{}", how_to_replace(&options));
            Ok(ExitCode::from(EXIT_DAMAGED))
        }
        // Its sentence holds what lies behind it already.
        Err(error) => Err(anyhow::anyhow!("{error}")),
    }
}

/// How this very replica is replaced, if that is possible.
fn how_to_replace(options: &ServerOptions) -> String {
    if options.members().len() < REJOIN_MEMBERS_MIN {
        return "a cluster of fewer than three replicas can't replace one: bring its own folder \
                back as it was, or make a new cluster from a backup"
            .to_owned();
    }
    let folder = options.folder.display();
    format!(
        "to replace this replica: `mv {folder} {folder}.broken`, then start it once with --rejoin \
         beside its other flags"
    )
}

/// Shows each value and where it came from. Fails if they make no sense together.
pub(crate) fn show(arguments: &ServerArguments) -> anyhow::Result<ExitCode> {
    let settings = arguments.resolve(variable)?;
    let of = |setting: &super::settings::Setting| setting.value.clone().unwrap_or_default();
    let width = settings.0.iter().map(|setting| of(setting).len()).max().unwrap_or(0);
    for setting in &settings.0 {
        println!("{:<20} {:<width$}  ({})", setting.name, of(setting), setting.origin);
    }
    settings.options()?;
    Ok(ExitCode::SUCCESS)
}

fn start_logging() -> anyhow::Result<()> {
    let wanted = variable(LOG_VARIABLE).unwrap_or_else(|| "info".to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&wanted)
        .with_context(|| format!("{LOG_VARIABLE} is `{wanted}`; try info or debug"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// Ends the process when nobody holds the other end any more, however that came about. What was
/// acknowledged is on disk.
fn stop_with_stdin() {
    let mut space = [0; 64];
    while !matches!(std::io::stdin().read(&mut space), Ok(0) | Err(_)) {}
    std::process::exit(0);
}
