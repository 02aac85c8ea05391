//! The process simulator: starts replicas as real processes, of this project's program or any
//! other, carries their messages over sockets in real time, and grades them by the rules of the
//! university course.
//!
//! The rules and the grading are in [`crate::course::run`], which the simulator in virtual time
//! uses too. This module only has the processes, the sockets and the clock:
//!
//! | file | contents |
//! |---|---|
//! | `program` | a replica's process; none outlives the simulator |
//! | `output` | what a replica prints: read so that it never blocks, quoted when the replica dies |
//! | `link` | the connection to a replica: UDP, UNIX SEQPACKET or UNIX STREAM |
//! | `message` | messages from replicas, checked as the course's simulator checks them |
//! | `router` | the loop that waits for messages and routes them |
//!
//! The process simulator is stricter than the course's own simulator in two points: a replica that
//! exits on its own counts as dead, and a run in which replicas send more messages than the
//! scenario's limit fails.

mod link;
mod message;
mod output;
mod program;
mod router;

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use thiserror::Error;

use crate::course::run::ScenarioRun;
use crate::course::scenario::Scenario;
use crate::types::NodeId;

/// The transport for messages between the process simulator and the replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// UDP datagrams on 127.0.0.1, as in the current university course.
    #[default]
    Udp,
    /// UNIX `SOCK_SEQPACKET` sockets, as in the university course until 2020.
    SeqPacket,
    /// UNIX `SOCK_STREAM` sockets, one JSON object per line, as in the university course in 2021.
    Stream,
}

/// Error for a text that names no [`Protocol`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("unknown protocol; use udp, seqpacket or stream")]
pub struct UnknownProtocol;

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(name: &str) -> Result<Protocol, UnknownProtocol> {
        match name {
            "udp" => Ok(Protocol::Udp),
            "seqpacket" => Ok(Protocol::SeqPacket),
            "stream" => Ok(Protocol::Stream),
            _ => Err(UnknownProtocol),
        }
    }
}

/// What happens to the output (stdout and stderr) of the replicas' processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Output {
    /// Keep the last lines of each replica's output, to quote them in the report if the replica
    /// dies.
    #[default]
    Keep,
    /// Print the replicas' output on stderr, each line prefixed with the replica's id, and also
    /// keep the last lines.
    Show,
    /// Discard the replicas' output. The report then quotes no lines.
    Discard,
}

/// Settings of the process simulator for running replicas.
#[derive(Clone, Debug)]
pub struct Options {
    /// Path of the program that each replica runs.
    pub program: PathBuf,
    /// Transport for messages between the simulator and the replicas.
    pub protocol: Protocol,
    /// What happens to the replicas' output.
    pub output: Output,
    /// Function that is called with one line of text for each message and each death of a replica;
    /// `None` for no trace.
    pub trace: Option<fn(&str)>,
}

/// The reason why the process simulator could not start or finish a run. Faults of replicas are not
/// errors, but are listed in the run's report.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The replica program is missing, or is not an executable file.
    #[error("cannot run the replica program `{}`: {problem}", program.display())]
    Program {
        /// Path of the program as given by the user.
        program: PathBuf,
        /// Description of the problem with the program, and of how to fix it.
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
        /// Id of the replica that would have used the socket.
        replica: NodeId,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Waiting for messages on the replicas' sockets failed, with this error of the operating
    /// system.
    #[error("cannot wait for messages of the replicas on their sockets: {0}")]
    Wait(io::Error),
    /// A signal such as Ctrl-C ended the run.
    #[error("interrupted by a signal such as Ctrl-C; all replicas were stopped")]
    Interrupted,
}

/// Returns a flag for [`run`] that is set when this process receives SIGHUP, SIGINT, SIGQUIT or
/// SIGTERM. Without it, these signals would end the simulator but not its replicas, which are in
/// process groups of their own.
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

/// Runs a scenario with real processes and returns the finished run, from which the report and the
/// latencies can be read. Calls `progress` about 20 times per second with the seconds since the
/// start of the run. Stops early when `interrupted` is set. All replicas are stopped when this
/// function returns.
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
