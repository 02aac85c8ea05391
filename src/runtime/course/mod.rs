//! A replica under a simulator of the university course: one socket for peers and clients, and no
//! disk.
//!
//! | file | contents |
//! |---|---|
//! | `arguments` | the command line that the simulator starts a replica with |
//! | `network` | the network stage: moves messages between the socket and the other stages |
//! | `transport` | messages to and from the simulator |
//! | `forgetful_log` | storage for the log writer that keeps nothing |
//! | `connection`, `line_buffer` | the socket: UDP, UNIX SEQPACKET or UNIX STREAM |

mod arguments;
mod connection;
mod forgetful_log;
mod line_buffer;
mod network;
mod transport;

use std::io;
use std::sync::Arc;

use crate::config::Config;
use crate::raft::{Durable, Replica};
use crate::runtime::boards::RuntimeCounters;
use crate::runtime::channels;
use crate::runtime::clock::Clock;
use crate::runtime::error::{RunError, system_error};
use crate::runtime::stages::applier::{Applier, ReplyPolicy};
use crate::runtime::stages::core::{Core, NonLeaderPolicy};
use crate::runtime::stages::log_writer::LogWriter;
use crate::runtime::stages::threads::{Threads, run};
use crate::runtime::stages::{Stages, random_seed};
use crate::runtime::wake::Wake;

use self::forgetful_log::ForgetfulLog;
use self::network::Network;

pub use self::arguments::{CourseArguments, CourseArgumentsError};

/// Runs a replica under a simulator of the university course until the simulator closes the socket.
/// A panic in any stage aborts the process.
///
/// # Errors
/// If the replica cannot start, or if polling the socket fails.
pub fn run_course(
    arguments: &CourseArguments,
    config: Config,
    threads: Threads,
    counters: &Arc<RuntimeCounters>,
) -> Result<(), RunError> {
    config.validate()?;
    let stages = build(arguments, config, counters)
        .map_err(system_error("cannot connect to the simulator"))?;
    run(stages, threads.are_fused()).map_err(system_error("cannot wait for messages"))
}

fn build(
    arguments: &CourseArguments,
    config: Config,
    counters: &Arc<RuntimeCounters>,
) -> io::Result<Stages<Network>> {
    let clock = Clock::start();
    let (transport, never_restarts) = arguments.connect(clock.now(), Arc::clone(counters))?;
    let poll = mio::Poll::new()?;
    let wake = Arc::new(Wake::new(mio::Waker::new(poll.registry(), network::WAKER)?));
    let ends = channels::channels(&wake, false);
    let replica = Replica::new(
        arguments.me,
        &arguments.others,
        config,
        random_seed(),
        Durable::default(),
        clock.now(),
    );
    let log = Box::new(ForgetfulLog::new(never_restarts));
    Ok(Stages {
        network: Network::new(poll, wake, transport, ends.network, clock, Arc::clone(counters))?,
        core: Core::new(
            replica,
            clock,
            ends.core,
            NonLeaderPolicy::Replica,
            Arc::default(),
            Arc::clone(counters),
        ),
        log_writer: LogWriter::new(log, ends.log_writer, Arc::clone(counters)),
        applier: Applier::new(ReplyPolicy::Leader, clock, ends.applier),
        snapshots: None,
        background_delete: None,
    })
}
