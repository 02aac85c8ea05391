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
//!
//!   snapshots: files, beside all that; views from the applier, chunks from and to the core
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
mod ears;
mod lines;
mod log_writer;
mod memory;
mod network;
mod pass;
mod rejected;
mod replicated_clock;
mod room;
mod saving;
mod server;
mod snapshots;
#[cfg(test)]
mod stage_tests;
mod status;
mod wake;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::config::{Config, ConfigError};
use crate::raft::{Durable, Replica};
use crate::storage::StorageError;

use self::applier::{Answering, Applier};
use self::clock::Clock;
use self::core::{Applies, Core, UnlessLeading};
use self::log_writer::LogWriter;
use self::network::Network;
use self::snapshots::Snapshots;
use self::wake::Wake;

pub use self::course::{Invitation, InvitationError};
pub use self::server::{
    Bootstrap, Folder, Patience, ServerOptions, bootstrap, inspect, run_server,
};
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
    /// The folder can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An address can't be listened on.
    #[error("can't listen for {whom} on {address}: {source}; {advice}")]
    Listen {
        /// For clients or for peers.
        whom: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
        /// What to change.
        advice: &'static str,
    },
    /// The system refused something.
    #[error("{doing}: {source}")]
    System {
        /// What we were doing.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl RunError {
    /// Whether the replica can't start because its folder is damaged or was lost, so that only its
    /// replacement helps.
    pub fn is_damage(&self) -> bool {
        matches!(self, RunError::Storage(error) if error.is_damage())
    }

    /// Whether another process has the folder open.
    pub fn is_locked(&self) -> bool {
        matches!(self, RunError::Storage(StorageError::Locked { .. }))
    }
}

/// Whether a stage goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flow {
    GoOn,
    /// The replica ends.
    Stop,
}

/// The stage at the sockets, of which there are two: the course's and the server's.
trait NetworkStage: Send {
    /// Sleeps until there is something to do, but not longer than `patience`.
    fn wait(&mut self, patience: Option<Duration>) -> io::Result<()>;

    /// The same on a thread that no other stage has to wake.
    fn wait_alone(&mut self, patience: Duration) -> io::Result<()> {
        self.wait(Some(patience))
    }

    /// One pass in: takes what the sockets hold and hands it to the core.
    fn receive(&mut self) -> Flow;

    /// One pass out: replies, then what goes to peers.
    fn send(&mut self) -> io::Result<()>;

    /// The last word to the core, after which all stages end.
    fn stop_others(self);

    /// Passes without end, on a thread of its own, until the stage ends by itself.
    fn run(&mut self) -> io::Result<()> {
        loop {
            self.wait(None)?;
            if self.receive() == Flow::Stop {
                return Ok(());
            }
            self.send()?;
        }
    }
}

/// All stages of one replica.
struct Stages<N> {
    network: N,
    core: Core,
    log_writer: LogWriter,
    applier: Applier,
    /// `None` where there are none ever.
    snapshots: Option<Snapshots>,
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
    run(stages, threads.are_fused()).map_err(system("waiting for messages"))
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}

fn build(
    invitation: &Invitation,
    config: Config,
    counts: &Arc<Counts>,
) -> io::Result<Stages<Network>> {
    let clock = Clock::start();
    let (door, never_restarts) = invitation.accept(clock.now(), Arc::clone(counts))?;
    let poll = mio::Poll::new()?;
    let wake = Arc::new(Wake::new(mio::Waker::new(poll.registry(), network::WAKER)?));
    let ends = channels::channels(&wake, false);
    let replica = Replica::new(
        invitation.me,
        &invitation.others,
        config,
        seed(),
        Durable::default(),
        clock.now(),
    );
    Ok(Stages {
        network: Network::new(poll, wake, door, ends.network, clock, Arc::clone(counts))?,
        core: Core::new(
            replica,
            clock,
            ends.core,
            UnlessLeading::Decide,
            Arc::default(),
            Arc::clone(counts),
        ),
        log_writer: LogWriter::forgetful(never_restarts, ends.log_writer, Arc::clone(counts)),
        applier: Applier::new(Answering::AsLeader, clock, ends.applier),
        snapshots: None,
    })
}

/// A seed that differs from process to process: the keys of the standard library's hash maps come
/// from the system's source of random numbers.
fn seed() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

fn run<N: NetworkStage>(stages: Stages<N>, fused: bool) -> io::Result<()> {
    if !fused {
        return run_dedicated(stages);
    }
    let Stages { network, core, mut log_writer, applier, snapshots } = stages;
    if log_writer.completes_at_once() {
        return run_fused(network, core, applier, Some(log_writer));
    }
    thread::scope(|scope| {
        spawn_snapshots(scope, snapshots)?;
        spawn(scope, "log_writer", move || log_writer.run())?;
        run_fused(network, core, applier, None)
    })
}

/// Passes of the core before the sockets are looked at again, with completions between them.
const CORE_PASSES_MAX: usize = 4;

/// All stages in turn on this thread, but for a log writer that waits for a disk. A pass goes once
/// around: what the sockets hold through the core and what follows from it out again, replies
/// before appends; then what that completed through the core. What nobody waits for comes after
/// what a client waits for. Each stage takes a bounded part of what waits for it, so the sockets
/// get their turn in time, however much there is to do.
fn run_fused<N: NetworkStage>(
    mut network: N,
    mut core: Core,
    mut applier: Applier,
    mut log_writer: Option<LogWriter>,
) -> io::Result<()> {
    let _guard = AbortOnPanic;
    loop {
        let patience = if applier.is_ready() { Duration::ZERO } else { core.patience() };
        match &log_writer {
            Some(_) => network.wait_alone(patience)?,
            None => network.wait(Some(patience))?,
        }
        if network.receive() == Flow::Stop {
            return Ok(());
        }
        for _ in 0..CORE_PASSES_MAX {
            if core.run_once(None) == Flow::Stop {
                return Ok(());
            }
            let handed_on = core.handed_on();
            // What a follower owes its leader waits here for nothing but a log writer on this
            // thread.
            let apply_last = log_writer.is_some() && handed_on.applies == Applies::Unanswered;
            if !apply_last {
                applier.run_ready(handed_on.applies != Applies::Nothing);
            }
            if let Some(log_writer) = &mut log_writer {
                if handed_on.departures {
                    // A leader's appends don't wait for its own log.
                    network.send()?;
                }
                log_writer.run_ready(handed_on.appends);
            }
            network.send()?;
            if apply_last {
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
fn run_dedicated<N: NetworkStage>(stages: Stages<N>) -> io::Result<()> {
    let Stages { mut network, mut core, mut log_writer, mut applier, snapshots } = stages;
    thread::scope(|scope| {
        spawn_snapshots(scope, snapshots)?;
        // In this order a stage that can't be started takes those before it along: the core has
        // the only senders of the first two, and misses the network.
        spawn(scope, "log_writer", move || log_writer.run())?;
        spawn(scope, "applier", move || {
            applier.run();
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

/// The snapshots stage, which never shares a thread.
fn spawn_snapshots<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    stage: Option<Snapshots>,
) -> io::Result<()> {
    if let Some(mut stage) = stage {
        spawn(scope, "snapshots", move || stage.run())?;
    }
    Ok(())
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
