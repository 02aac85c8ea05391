//! `bowline admin` asks the replicas of a running cluster for their state, and tells them what to
//! do, with the commands that any Redis client can send. It needs the address of one replica, from
//! which it learns those of the others. Every subcommand ends in bounded time.

mod check;
mod digest;
mod replicas;
mod snapshot;
mod status;
mod transfer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Command-line arguments of `bowline admin`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Address of any replica, for clients.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379", global = true)]
    addr: String,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Show all replicas: role, term, log, disk, and the leader's view of each follower.
    Status,
    /// Transfer the leadership to another replica, and wait for the outcome.
    Transfer {
        /// Id of the replica that is to lead [default: the follower whose log is longest].
        #[arg(long, value_name = "ID")]
        to: Option<u16>,
    },
    /// Take a snapshot of the replica at --addr, and wait until it is complete.
    Snapshot {
        /// Maximum time to wait, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        wait: u64,
    },
    /// Compare the state of all replicas at one log index. Exits with code 2 if they differ.
    Digest,
    /// Check the folder of a replica that is not running, without changing it: every checksum, its
    /// contents, and what a start would do. Exits with code 65 if the folder is damaged.
    Check {
        /// The data folder of the replica.
        folder: PathBuf,
    },
}

/// Exit code if a replica cannot be reached, a request is refused, or there is no leader.
const EXIT_FAILED: u8 = 1;

/// Runs `bowline admin`, and prints the outcome or the error. Returns the exit code.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let Arguments { addr, json, command } = arguments;
    let result = match command {
        Command::Status => status::run(addr, *json),
        Command::Transfer { to } => transfer::run(addr, *to, *json),
        Command::Snapshot { wait } => snapshot::run(addr, Duration::from_secs(*wait), *json),
        Command::Digest => digest::run(addr, *json),
        Command::Check { folder } => check::run(folder, *json),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bowline: {error:#}");
        ExitCode::from(EXIT_FAILED)
    })
}
