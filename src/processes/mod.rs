//! The process simulator: starts replica programs, ours or anyone's, carries their messages over
//! real sockets in real time, and judges them by the course's rules.
//!
//! What a message means and what a run is worth is decided in [`crate::course::run`], the same code
//! that the virtual simulator drives. Here are only the programs, the sockets and the clock:
//!
//! | file | what it holds |
//! |---|---|
//! | `program` | a replica's process: start, kill, whatever happens leave none behind |
//! | `output` | what it prints: read, so that it never blocks, and quoted when it dies |
//! | `link` | the connection to it: UDP, UNIX SEQPACKET or UNIX STREAM |
//! | `message` | what it sends, checked as the course's simulator checks it |
//! | `router` | the loop that joins them |
//!
//! In two points it is stricter than the original: a replica that exits by itself is noticed and
//! counts as died, and a packet storm fails the run.

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

/// How replicas and the simulator talk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// Datagrams on 127.0.0.1; the current course.
    #[default]
    Udp,
    /// UNIX `SOCK_SEQPACKET` sockets; the course until 2020.
    SeqPacket,
    /// UNIX `SOCK_STREAM` sockets, one JSON object a line; the course in 2021.
    Stream,
}

/// What becomes of what the replicas print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Output {
    /// It is read, and the last lines are quoted if the replica dies.
    #[default]
    Keep,
    /// It is shown on stderr, each line with the replica's id.
    Show,
    /// It goes to `/dev/null`.
    Discard,
}

/// What to run and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The replica program.
    pub program: PathBuf,
    /// How to talk to it.
    pub protocol: Protocol,
    /// What becomes of what it prints.
    pub output: Output,
}

/// Why a run could not be held at all. What a replica does wrong during a run is in the report.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Nothing can be started under this name.
    #[error("replica program `{}`: {problem}", program.display())]
    Program {
        /// As given.
        program: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The system refused to start it.
    #[error(
        "replica program `{}` does not start ({source}): a script needs a first line such as \
         `#!/usr/bin/env python3` whose program exists, a binary must be built for this machine",
        program.display()
    )]
    Start {
        /// As given.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A socket could not be made.
    #[error("no socket for replica {replica} ({source}): look at the limits with `ulimit -a`")]
    Socket {
        /// For whom.
        replica: NodeId,
        /// What the system says.
        source: io::Error,
    },
    /// Waiting for the sockets failed.
    #[error("can't wait for the replicas' messages ({0})")]
    Wait(io::Error),
    /// Somebody pressed Ctrl-C, or asked us to end.
    #[error("interrupted; all replicas were ended")]
    Interrupted,
}

/// A flag for [`run`] that is set by every signal with which a person or a system ends a program:
/// Ctrl-C and the like. Without it they would end the simulator and leave its replicas running,
/// which are in process groups of their own.
///
/// # Errors
/// If the system refuses to listen for them.
pub fn interrupted_by_signals() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

/// Runs one scenario and gives the finished run, to ask for its report and its samples.
/// `progress` hears now and then how many seconds have passed; as soon as `interrupted` is set the
/// run is given up. Either way no replica is left behind.
///
/// # Errors
/// If the program can't be started, sockets can't be had, or the run is interrupted.
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
