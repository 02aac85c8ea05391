//! The process simulator: starts real replica programs, ours or any other, carries their messages
//! over sockets in real time, and judges them by the course's rules.
//!
//! The rules and the grading are those of [`crate::course::run`], which the simulator in virtual
//! time uses too. Here are only the programs, the sockets and the clock:
//!
//! | file | contents |
//! |---|---|
//! | `program` | a replica's process; none outlives the simulator |
//! | `output` | what a replica prints: read so that it never blocks, quoted when the replica dies |
//! | `link` | the connection to a replica: UDP, UNIX SEQPACKET or UNIX STREAM |
//! | `message` | messages of replicas, checked as the course's simulator checks them |
//! | `router` | the loop that waits for messages and routes them |
//!
//! It is stricter than the original in two points: a replica that exits on its own counts as dead,
//! and a packet storm fails the run.

mod link;
mod message;
mod output;
mod program;
mod router;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::course::run::ScenarioRun;
use crate::course::scenario::Scenario;
use crate::types::NodeId;

/// The transport between the simulator and the replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// Datagrams on 127.0.0.1, as in the current course.
    #[default]
    Udp,
    /// UNIX `SOCK_SEQPACKET` sockets, as in the course until 2020.
    SeqPacket,
    /// UNIX `SOCK_STREAM` sockets with one JSON object per line, as in the course in 2021.
    Stream,
}

/// What the simulator does with the output of the replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Output {
    /// Keep the last lines of each replica, and quote them if it dies.
    #[default]
    Keep,
    /// Print the output on stderr, each line with the replica's id, and keep the last lines.
    Show,
    /// Discard the output.
    Discard,
}

/// How the simulator runs the replicas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Path of the replica program.
    pub program: PathBuf,
    /// Transport between the simulator and the replicas.
    pub protocol: Protocol,
    /// What to do with the output of the replicas.
    pub output: Output,
}

/// Why a run could not be started or finished. Faults of the replicas are reported in the run's
/// report instead.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The replica program is missing, or is not an executable file.
    #[error("cannot run the replica program `{}`: {problem}", program.display())]
    Program {
        /// Path of the program as given by the user.
        program: PathBuf,
        /// What is wrong with the program, and what to do.
        problem: String,
    },
    /// The operating system failed to start the replica program.
    #[error(
        "cannot start the replica program `{}`: {source}; a script needs a first line such as \
         `#!/usr/bin/env python3` with an existing interpreter, a binary must be built for this \
         machine",
        program.display()
    )]
    Start {
        /// Path of the program as given by the user.
        program: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A socket for a replica cannot be created.
    #[error(
        "cannot create a socket for replica {replica}: {source}; check the limits with `ulimit -a`"
    )]
    Socket {
        /// Id of the replica that the socket was for.
        replica: NodeId,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Polling the sockets of the replicas failed.
    #[error("cannot wait for messages of the replicas: {0}")]
    Wait(io::Error),
    /// A signal such as Ctrl-C ended the run.
    #[error("interrupted; all replicas were stopped")]
    Interrupted,
}

/// Returns a flag for [`run`] that SIGHUP, SIGINT, SIGQUIT and SIGTERM set. Without it these
/// signals would end the simulator but not its replicas, which are in process groups of their own.
///
/// # Errors
/// If a signal handler cannot be installed.
pub fn interrupted_by_signals() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

/// Runs one scenario with real processes and returns the finished run, with its report and
/// latencies. Calls `progress` about 20 times a second with the seconds since the start. Ends early
/// once `interrupted` is set. No replica runs any more when it returns.
///
/// # Errors
/// If the program cannot be started, a socket cannot be created, or the run is interrupted.
pub fn run(
    scenario: &Scenario,
    seed: u64,
    options: &Options,
    interrupted: &AtomicBool,
    progress: &mut dyn FnMut(f64),
) -> Result<ScenarioRun, ProcessError> {
    let program = program::resolve(&options.program)?;
    let mut router = router::Router::start(scenario, seed, options, &program)?;
    router.run(interrupted, progress)?;
    Ok(router.finish())
}
