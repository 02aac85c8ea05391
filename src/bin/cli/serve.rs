//! `bowline serve` runs one replica; `bowline config` prints its settings.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bowline::runtime::{
    ReloadHandle, RunError, RuntimeCounters, ServerOptions, StopHandle, run_server,
};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::allocator;
use super::options::REJOIN_MEMBERS_MIN;
use super::settings::{ServerArguments, Setting};

/// Name of the environment variable that sets the log filter, as in `BOWLINE_LOG=debug`.
const LOG_VARIABLE: &str = "BOWLINE_LOG";

/// Exit code of a replica whose data folder is damaged beyond repair or lost. A supervisor should
/// not restart it, since every start would fail.
pub(super) const EXIT_DAMAGED: u8 = 65;

/// Maximum duration of a graceful stop, after which the process exits anyway. It is longer than the
/// sum of the time limits of the steps.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Interval at which a graceful stop checks for a second signal.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(20);

/// Command-line arguments of `bowline serve`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) server: ServerArguments,
    /// Exit when standard input is closed, which happens when the parent process ends.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Returns the value of an environment variable; `None` if it is not set or empty.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs one replica until SIGTERM or SIGINT arrives or the replica fails. Returns the exit code.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    start_logging()?;
    allocator::restart_with_settings();
    // Without a handler the system kills a process that exceeds the limit on the size of files.
    // With one the write fails, and the log writer reports it.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())
        .context("cannot install a handler for SIGXFSZ, the signal of the limit on file sizes")?;
    let mut options = arguments.server.resolve(variable)?.options()?;
    if arguments.stop_with_stdin {
        std::thread::Builder::new().name("stdin".to_owned()).spawn(stop_with_stdin).context(
            "cannot start the thread that watches standard input; check the limits on \
             processes and memory",
        )?;
    }
    let stop = Arc::<StopHandle>::default();
    let reload = Arc::<ReloadHandle>::default();
    handle_signals(&stop, &reload)?;
    loop {
        let on_serving = || notify_service_manager(&NotifyState::Ready);
        let counters = Arc::<RuntimeCounters>::default();
        match run_server(&options, &counters, &stop, &reload, on_serving) {
            Ok(()) => return Ok(ExitCode::SUCCESS),
            Err(RunError::WrongState) if stop.is_requested() => return Ok(ExitCode::SUCCESS),
            Err(RunError::WrongState) => {
                tracing::warn!("starting again to rebuild the state of this replica");
                // The files exist now.
                options.bootstrap = None;
            }
            Err(error) if error.is_damage() => {
                eprintln!("bowline: {error}\n{}", how_to_replace(&options));
                return Ok(ExitCode::from(EXIT_DAMAGED));
            }
            // The message already includes the source.
            Err(error) => anyhow::bail!("{error}"),
        }
    }
}

/// Returns advice for the operator on how to replace this replica, whose data folder is damaged
/// beyond repair or lost.
fn how_to_replace(options: &ServerOptions) -> String {
    if options.members().len() < REJOIN_MEMBERS_MIN {
        return "nothing in the folder was changed; a cluster of fewer than three replicas cannot \
                repair or replace one: restore the folder as it was, or create a new cluster with \
                `bowline admin restore`. If this replica was added to a larger cluster, replace \
                it with a new one: `bowline admin replace`"
            .to_owned();
    }
    let folder = options.folder.display();
    format!(
        "to replace this replica, run `mv {folder} {folder}.broken`, then start it once with \
         --rejoin added to its flags; or, if the members of the cluster have been changed, replace \
         it with a new one: `bowline admin replace`"
    )
}

/// Runs `bowline config`: prints each setting, its value and where the value comes from. Fails if
/// the settings are invalid.
pub(crate) fn show(arguments: &ServerArguments) -> anyhow::Result<ExitCode> {
    let settings = arguments.resolve(variable)?;
    let value = |setting: &Setting| match (&setting.value, setting.name) {
        (Some(_), "requirepass") => "(hidden)".to_owned(),
        (value, _) => value.clone().unwrap_or_default(),
    };
    let name_width = settings.0.iter().map(|setting| setting.name.len()).max().unwrap_or(0);
    let width = settings.0.iter().map(|setting| value(setting).len()).max().unwrap_or(0);
    for setting in &settings.0 {
        println!("{:<name_width$}  {:<width$}  ({})", setting.name, value(setting), setting.origin);
    }
    settings.options()?;
    Ok(ExitCode::SUCCESS)
}

fn start_logging() -> anyhow::Result<()> {
    let filter_text = variable(LOG_VARIABLE).unwrap_or_else(|| "info".to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&filter_text).with_context(|| {
        format!("invalid log filter {LOG_VARIABLE}=`{filter_text}`; use info or debug")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// Sends the state of this process to the service manager if it asked for such messages
/// (`Type=notify` in a systemd unit).
fn notify_service_manager(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, %state, "cannot notify the service manager");
    }
}

/// Starts a thread that handles signals. SIGTERM or SIGINT stops the server gracefully; a second
/// one, or one before the server is serving, ends the process at once. SIGHUP reloads the server's
/// certificates.
fn handle_signals(stop: &Arc<StopHandle>, reload: &Arc<ReloadHandle>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .context("cannot install the signal handlers for SIGTERM, Ctrl-C and SIGHUP")?;
    let (stop, reload) = (Arc::clone(stop), Arc::clone(reload));
    let reloads = move |signal: i32| {
        if signal == SIGHUP {
            reload.reload();
        }
        signal == SIGHUP
    };
    let wait = move || {
        let ending = signals.forever().find(|signal| !reloads(*signal));
        let Some(signal) = ending else { return };
        notify_service_manager(&NotifyState::Stopping);
        if stop.stop() {
            let started = Instant::now();
            while !signals.pending().any(|signal| signal != SIGHUP) {
                if started.elapsed() >= STOP_MAX {
                    tracing::warn!("the graceful stop takes too long; exiting at once");
                    std::process::exit(0);
                }
                std::thread::sleep(SIGNAL_INTERVAL);
            }
        }
        // Terminates the process by the signal.
        if emulate_default_handler(signal).is_err() {
            std::process::exit(0);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).context(
        "cannot start the thread that waits for signals; check the limits on processes and memory",
    )?;
    Ok(())
}

/// Waits until standard input is closed, because the parent process has exited, and then ends this
/// process. Acknowledged writes are not lost, since they are on disk.
fn stop_with_stdin() {
    let mut buffer = [0; 64];
    while !matches!(std::io::stdin().read(&mut buffer), Ok(0) | Err(_)) {}
    std::process::exit(0);
}
