//! The threaded driver: stages that are plain objects, joined by bounded channels, on one thread
//! or on one thread each.
//!
//! ```text
//!              socket
//!                |
//!   network: Poll, buffers, JSON <------------------------------+
//!      | messages, applied            ^ departures              | replies
//!      v                              |                         |
//!   core: Replica, clock -------------+--- apply jobs --> applier: Store
//!      |          ^                   |
//!      | append   | persisted         | released
//!      v jobs     |                   |
//!   log writer ---+-------------------+
//! ```
//!
//! What travels on each arrow, how much may wait there and what happens then is written in
//! `channels.rs`. Files here are loops: receive, call pure code, send. The same pure code runs in
//! `sim`.

mod applier;
mod channels;
mod clock;
mod conn;
mod core;
mod course;
mod lines;
mod log_writer;
mod network;
mod status;
mod wake;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;

use crate::config::{Config, ConfigError};
use crate::raft::{Durable, Replica};

use self::applier::Applier;
use self::clock::Clock;
use self::core::{Applies, Core};
use self::log_writer::LogWriter;
use self::network::Network;
use self::wake::Wake;

pub use self::course::{Invitation, InvitationError};
pub use self::status::{Count, Counts};

/// How stages are put on threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Threads {
    /// Each stage on its own.
    Dedicated,
    /// Network, core and applier on one. So is a log writer that completes at once; one that
    /// waited for a disk would stay on its own.
    Fused,
    /// [`Threads::Fused`] where at most two cores are available to the process, else
    /// [`Threads::Dedicated`].
    #[default]
    Auto,
}

/// A word that names no arrangement of threads.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no arrangement of threads; there are dedicated, fused and auto")]
pub struct ThreadsError(String);

/// Why a replica could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The system refused something.
    #[error("{doing}: {source}")]
    System {
        /// What we were doing.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// Whether a stage goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flow {
    GoOn,
    /// The replica ends.
    Stop,
}

/// All stages of one replica.
struct Stages {
    network: Network,
    core: Core,
    log_writer: LogWriter,
    applier: Applier,
}

impl FromStr for Threads {
    type Err = ThreadsError;

    fn from_str(word: &str) -> Result<Threads, ThreadsError> {
        match word {
            "dedicated" => Ok(Threads::Dedicated),
            "fused" => Ok(Threads::Fused),
            "auto" => Ok(Threads::Auto),
            other => Err(ThreadsError(other.to_owned())),
        }
    }
}

impl Threads {
    /// Whether stages share a thread on this machine.
    fn are_fused(self) -> bool {
        match self {
            Threads::Dedicated => false,
            Threads::Fused => true,
            // A machine that can't tell is taken for a small one: there dedicated threads cost
            // most.
            Threads::Auto => thread::available_parallelism().map_or(1, usize::from) <= 2,
        }
    }
}

/// Runs a replica under a simulator of the course, until that closes its socket. A panic in any
/// stage ends the process.
///
/// # Errors
/// If it can't start, or if the system refuses to poll.
pub fn run_course(
    invitation: &Invitation,
    config: Config,
    threads: Threads,
    counts: &Arc<Counts>,
) -> Result<(), RunError> {
    config.validate()?;
    let stages =
        build(invitation, config, counts).map_err(system("connecting to the simulator"))?;
    let ended = if threads.are_fused() { run_fused(stages) } else { run_dedicated(stages) };
    ended.map_err(system("waiting for messages"))
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}

fn build(invitation: &Invitation, config: Config, counts: &Arc<Counts>) -> io::Result<Stages> {
    let clock = Clock::start();
    let (door, never_restarts) = invitation.accept(clock.now(), Arc::clone(counts))?;
    let poll = mio::Poll::new()?;
    let wake = Arc::new(Wake::new(mio::Waker::new(poll.registry(), network::WAKER)?));
    let (network, core, log_writer, applier) = channels::channels(&wake);
    let replica = Replica::new(
        invitation.me,
        &invitation.others,
        config,
        seed(),
        Durable::default(),
        clock.now(),
    );
    Ok(Stages {
        network: Network::new(poll, wake, door, network, clock, Arc::clone(counts))?,
        core: Core::new(replica, clock, core, Arc::clone(counts)),
        log_writer: LogWriter::forgetful(never_restarts, log_writer, Arc::clone(counts)),
        applier: Applier::new(applier),
    })
}

/// A seed that differs from process to process: the keys of the standard library's hash maps come
/// from the system's source of random numbers.
fn seed() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// All stages in turn on this thread. A pass goes once around: what the socket holds through the
/// core and what follows from it out again, replies before appends; then what that completed
/// through the core, until nothing waits. What nobody waits for comes after what somebody does.
fn run_fused(stages: Stages) -> io::Result<()> {
    let Stages { mut network, mut core, mut log_writer, mut applier } = stages;
    loop {
        network.wait_alone(core.patience())?;
        if network.receive() == Flow::Stop {
            return Ok(());
        }
        loop {
            if core.run_once(None) == Flow::Stop {
                return Ok(());
            }
            let handed_on = core.handed_on();
            applier.run_ready(handed_on.applies == Applies::Answered);
            if handed_on.departures {
                // A leader's appends don't wait for its own log.
                network.send()?;
            }
            log_writer.run_ready(handed_on.appends);
            network.send()?;
            if handed_on.applies == Applies::Unanswered {
                // A follower's answer to its leader has left; now it may apply.
                applier.run_ready(true);
                network.send()?;
            }
            if !core.has_mail() {
                break;
            }
        }
    }
}

/// Each stage on a thread of its name.
fn run_dedicated(stages: Stages) -> io::Result<()> {
    let Stages { mut network, mut core, mut log_writer, mut applier } = stages;
    thread::scope(|scope| {
        // In this order a stage that can't be started takes those before it along: the core has
        // the only senders of the first two, and misses the network.
        spawn(scope, "log_writer", move || {
            while let Ok(batch) = log_writer.jobs().recv() {
                log_writer.run_once(batch);
            }
        })?;
        spawn(scope, "applier", move || {
            while let Ok(batch) = applier.jobs().recv() {
                applier.run_once(batch);
            }
        })?;
        spawn(scope, "core", move || {
            loop {
                let first = core.wait();
                if core.run_once(first) == Flow::Stop {
                    break;
                }
            }
        })?;
        let network = spawn(scope, "network", move || {
            let ended = network.run();
            network.stop_others();
            ended
        })?;
        network.join().unwrap_or(Ok(()))
    })
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    stage: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<thread::ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, move || {
        let _guard = AbortOnPanic;
        stage()
    })
}

/// Ends the process if its thread unwinds, for a replica with a dead core and a live network is
/// worse than a dead replica. The message has been printed by then.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
