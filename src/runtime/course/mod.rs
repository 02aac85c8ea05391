//! A replica under a simulator of the course: the transport of its messages, and how it is started.

mod connection;
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

use self::network::Network;

pub(crate) use self::transport::NeverRestarts;
pub use self::transport::{CourseArguments, CourseArgumentsError};

/// Runs a replica under a simulator of the course, until that closes its socket. A panic in any
/// stage ends the process.
///
/// # Errors
/// If it can't start, or if the system refuses to poll.
pub fn run_course(
    invitation: &CourseArguments,
    config: Config,
    threads: Threads,
    counters: &Arc<RuntimeCounters>,
) -> Result<(), RunError> {
    config.validate()?;
    let stages =
        build(invitation, config, counters).map_err(system_error("connecting to the simulator"))?;
    run(stages, threads.are_fused()).map_err(system_error("waiting for messages"))
}

fn build(
    invitation: &CourseArguments,
    config: Config,
    counters: &Arc<RuntimeCounters>,
) -> io::Result<Stages<Network>> {
    let clock = Clock::start();
    let (door, never_restarts) = invitation.accept(clock.now(), Arc::clone(counters))?;
    let poll = mio::Poll::new()?;
    let wake = Arc::new(Wake::new(mio::Waker::new(poll.registry(), network::WAKER)?));
    let ends = channels::channels(&wake, false);
    let replica = Replica::new(
        invitation.me,
        &invitation.others,
        config,
        random_seed(),
        Durable::default(),
        clock.now(),
    );
    Ok(Stages {
        network: Network::new(poll, wake, door, ends.network, clock, Arc::clone(counters))?,
        core: Core::new(
            replica,
            clock,
            ends.core,
            NonLeaderPolicy::Replica,
            Arc::default(),
            Arc::clone(counters),
        ),
        log_writer: LogWriter::forgetful(never_restarts, ends.log_writer, Arc::clone(counters)),
        applier: Applier::new(ReplyPolicy::Leader, clock, ends.applier),
        snapshots: None,
    })
}
