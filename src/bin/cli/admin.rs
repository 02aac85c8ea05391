//! `bowline admin` inspects and administers a running cluster, using commands that any Redis client
//! can send. It needs the address of one replica and discovers the others. Every subcommand ends in
//! bounded time. The subcommands `check`, `restore`, `force-new-cluster` and `certs` need no
//! running replica.

mod atomic_file;
mod backup;
mod certs;
mod check;
mod digest;
mod export;
mod force_new_cluster;
mod import;
mod members;
mod probe;
pub(super) mod replicas;
mod restore;
mod snapshot;
pub(super) mod status;
mod transfer;
mod utc;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use self::members::{Change, ChangeOptions};
use super::login::LoginArguments;
use super::tls_arguments::TlsArguments;

/// Command-line arguments of `bowline admin`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Client address of any replica.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379", global = true)]
    addr: String,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    login: LoginArguments,
    #[command(flatten)]
    tls: TlsArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Show all replicas: role, term, log, disk, and the leader's view of each follower.
    Status,
    /// Check that the replica at --addr responds, with or without a leader (liveness probe).
    Ping,
    /// Check that the replica at --addr can serve clients: there is a leader with a majority, and
    /// the replica has applied all committed entries (readiness probe).
    Ready,
    /// Transfer leadership to another replica, and wait for the outcome.
    Transfer {
        /// Id of the new leader [default: the follower with the longest log].
        #[arg(long, value_name = "ID")]
        to: Option<u16>,
    },
    /// Show the members of the cluster, and how many voters may fail.
    Members,
    /// Add a replica that was started with --join as a learner: it receives the log, but does not
    /// vote.
    Add {
        /// Id of the new replica, which must be higher than all ids used so far, and its address
        /// for peers.
        #[arg(value_name = "ID=HOST:PORT", value_parser = members::parse_member)]
        member: (u16, String),
        /// Promote the learner to a voter as soon as it has caught up, and wait for that.
        #[arg(long)]
        promote: bool,
        /// Add a witness (a replica that was also started with --witness): it votes, but stores no
        /// data. It becomes a voter as soon as it has caught up.
        #[arg(long)]
        witness: bool,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Promote a learner that has caught up to a voter.
    Promote {
        /// Id of the learner.
        id: u16,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Demote a voter to a learner.
    Demote {
        /// Id of the voter.
        id: u16,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Remove a member, whether or not it is running.
    Remove {
        /// Id of the member.
        id: u16,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Replace a member, running or not, with a new replica that was started with --join. The
    /// members are swapped in one step, once the new replica has caught up.
    Replace {
        /// Id of the member to be replaced.
        old: u16,
        /// Id and address of the new replica.
        #[arg(value_name = "ID=HOST:PORT", value_parser = members::parse_member)]
        new: (u16, String),
        /// The new replica is a witness: it was also started with --witness.
        #[arg(long)]
        witness: bool,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Take a snapshot of the replica at --addr, and wait until it is complete.
    Snapshot {
        /// Maximum time to wait, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        wait: u64,
    },
    /// Compare the states of all replicas at one log index. Exits with code 2 if they differ.
    Digest,
    /// Check the folder of a replica that is not running, without changing it: verify every
    /// checksum, and show the contents and what a start would do. Or check a backup file. Exits
    /// with code 65 if the folder or the file is damaged.
    Check {
        /// The data folder of the replica, or a backup file; `-` reads a backup from standard
        /// input.
        #[arg(value_name = "FOLDER|FILE")]
        path: PathBuf,
    },
    /// Back up the running replica at --addr, including every write that any replica acknowledged
    /// before the command started. The file appears only when it is complete.
    Backup {
        /// The backup file; `-` writes it to standard output.
        #[arg(value_name = "FILE")]
        output: PathBuf,
        /// Maximum time to wait for the snapshot, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        wait: u64,
    },
    /// Create the folder of a replica of a new cluster from a backup. Run this once per replica,
    /// with the same backup. Exits with code 65 if the backup is damaged.
    Restore(restore::Arguments),
    /// Write all keys to a file in Redis's RDB format, which Redis can load, with every write that
    /// any replica acknowledged before the command began. The file appears only once it is
    /// complete.
    Export {
        /// The RDB file; `-` writes it to standard output.
        #[arg(value_name = "FILE")]
        output: PathBuf,
        /// Maximum time to wait for the snapshot, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        wait: u64,
    },
    /// Write the keys of an RDB file, or of a running Redis or Valkey server, into the cluster.
    /// They replace keys of the same names. Exits with code 65 if the file is damaged.
    Import(import::Arguments),
    /// Create a new cluster from the folder of a replica that is not running, after its cluster has
    /// permanently lost a majority. Acknowledged writes may be lost.
    ForceNewCluster(force_new_cluster::Arguments),
    /// Create a certificate authority and certificates for a test cluster: one per replica, and one
    /// for clients.
    Certs(certs::Arguments),
}

#[derive(clap::Args, Clone, Copy, Debug)]
struct ChangeArguments {
    /// Print the resulting members without changing anything.
    #[arg(long)]
    dry_run: bool,
    /// Maximum time to wait for the change to complete, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    wait: u64,
}

/// Exit code if a replica cannot be reached, refuses a request, or if there is no leader.
pub(super) const EXIT_FAILED: u8 = 1;

/// Runs `bowline admin`, and prints the outcome or the error. Returns the exit code.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let Arguments { addr, json, login, tls, command } = arguments;
    if let Err(error) = login.apply().and_then(|()| tls.apply()) {
        eprintln!("bowline: {error:#}");
        return ExitCode::from(EXIT_FAILED);
    }
    let change = |change: Change, arguments: &ChangeArguments| {
        let ChangeArguments { dry_run, wait } = *arguments;
        let options = ChangeOptions { dry_run, wait: Duration::from_secs(wait), json: *json };
        members::change(addr, &change, options)
    };
    let result = match command {
        Command::Status => status::run(addr, *json),
        Command::Ping => probe::ping(addr),
        Command::Ready => probe::ready(addr),
        Command::Transfer { to } => transfer::run(addr, *to, *json),
        Command::Members => members::list(addr, *json),
        Command::Add { member: (id, address), promote, witness, change: options } => {
            let (promote, witness, replaces) = (*promote || *witness, *witness, None);
            let (id, address) = (*id, address.clone());
            change(Change::Add { id, address, promote, witness, replaces }, options)
        }
        Command::Promote { id, change: options } => change(Change::Promote(*id), options),
        Command::Demote { id, change: options } => change(Change::Demote(*id), options),
        Command::Remove { id, change: options } => change(Change::Remove(*id), options),
        Command::Replace { old, new: (id, address), witness, change: options } => {
            let (promote, witness, replaces) = (true, *witness, Some(*old));
            let (id, address) = (*id, address.clone());
            change(Change::Add { id, address, promote, witness, replaces }, options)
        }
        Command::Snapshot { wait } => snapshot::run(addr, Duration::from_secs(*wait), *json),
        Command::Digest => digest::run(addr, *json),
        Command::Check { path } => check::run(path, *json),
        Command::Backup { output, wait } => {
            backup::run(addr, output, Duration::from_secs(*wait), *json)
        }
        Command::Export { output, wait } => {
            export::run(addr, output, Duration::from_secs(*wait), *json)
        }
        Command::Import(arguments) => import::run(addr, arguments, *json),
        Command::Restore(arguments) => restore::run(arguments, *json),
        Command::ForceNewCluster(arguments) => force_new_cluster::run(arguments, *json),
        Command::Certs(arguments) => certs::run(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bowline: {error:#}");
        ExitCode::from(EXIT_FAILED)
    })
}
