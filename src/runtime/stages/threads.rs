//! How stages are assigned to threads: either each stage has a thread of its own, or all stages
//! share one thread except those that wait for a disk.

use std::str::FromStr;
use std::time::Duration;
use std::{io, thread};

use crate::runtime::fatal::AbortOnPanic;
use crate::runtime::pass::StageState;

use super::Stages;
use super::background_delete::BackgroundDelete;
use super::core::{ApplyOutput, Core};
use super::log_writer::LogWriter;
use super::network::NetworkStage;
use super::shared_applier::SharedApplier;
use super::snapshots::SnapshotIo;

/// Maximum number of iterations of the Raft core's loop that a thread shared with the network stage
/// runs before it reads the sockets again.
const CORE_PASSES_MAX: usize = 4;

/// How the stages of a replica (network, core, log writer, applier, snapshots) are assigned to
/// threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Threads {
    /// Each stage runs on a thread of its own.
    Dedicated,
    /// Network, core and applier share one thread. If the log is on a disk, the log writer, the
    /// snapshots stage, the background deletion and long operations have threads of their own.
    Fused,
    /// [`Threads::Fused`] if at most two processor cores are available to the process, otherwise
    /// [`Threads::Dedicated`].
    #[default]
    Auto,
}

/// The error for a threads option whose value is not `dedicated`, `fused` or `auto`. Contains the
/// invalid value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown thread mode `{0}`; choose dedicated, fused or auto")]
pub struct ThreadsError(String);

impl FromStr for Threads {
    type Err = ThreadsError;

    fn from_str(name: &str) -> Result<Threads, ThreadsError> {
        match name {
            "dedicated" => Ok(Threads::Dedicated),
            "fused" => Ok(Threads::Fused),
            "auto" => Ok(Threads::Auto),
            other => Err(ThreadsError(other.to_owned())),
        }
    }
}

impl Threads {
    /// Returns whether network, core and applier share a thread on this machine.
    pub(crate) fn are_fused(self) -> bool {
        match self {
            Threads::Dedicated => false,
            Threads::Fused => true,
            // A system that cannot tell how many cores there are is treated like a small one, where
            // dedicated threads cost most.
            Threads::Auto => thread::available_parallelism().map_or(1, usize::from) <= 2,
        }
    }
}

/// Runs all stages until one of them stops: on the current thread if `fused`, otherwise each on a
/// thread of its own. The snapshots stage, the background deletion and a log writer that waits for
/// a disk always have threads of their own.
///
/// # Errors
/// If a thread cannot be started, or if the system call that polls the sockets fails.
pub(crate) fn run<N: NetworkStage>(stages: Stages<N>, fused: bool) -> io::Result<()> {
    if !fused {
        return run_dedicated(stages);
    }
    let Stages { network, core, mut log_writer, applier, snapshots, background_delete } = stages;
    if !log_writer.waits_for_disk() {
        let applier = SharedApplier::without_helper(applier);
        return run_fused(network, core, applier, Some(log_writer));
    }
    thread::scope(|scope| {
        spawn_background(scope, snapshots, background_delete)?;
        spawn(scope, "log_writer", move || log_writer.run())?;
        let (applier, helper) = SharedApplier::with_helper(applier);
        spawn(scope, "long_operations", move || helper.run())?;
        run_fused(network, core, applier, None)
    })
}

/// Runs network, core and applier in turn on the current thread, and also the log writer if one is
/// given.
///
/// One iteration reads the sockets, runs the Raft core, and handles the core's output: it sends the
/// replies to clients before the log writer handles append jobs. After that, it does the same for
/// work that other stages have completed meanwhile. Work that no client is waiting for comes last.
/// Each stage takes a bounded part of its queue, so that the sockets are read in time regardless of
/// the length of the queues.
fn run_fused<N: NetworkStage>(
    mut network: N,
    mut core: Core,
    mut applier: SharedApplier,
    mut log_writer: Option<LogWriter>,
) -> io::Result<()> {
    let _guard = AbortOnPanic;
    loop {
        applier.take_back();
        let timeout = if applier.is_ready() { Duration::ZERO } else { core.poll_timeout() };
        match &log_writer {
            Some(_) => network.wait_alone(timeout)?,
            None => network.wait(Some(timeout))?,
        }
        if network.receive() == StageState::Stopped {
            return Ok(());
        }
        for _ in 0..CORE_PASSES_MAX {
            if core.run_once(None) == StageState::Stopped {
                return Ok(());
            }
            let output = core.output();
            // A follower acknowledges entries before it applies earlier ones. If the log writer has
            // a thread of its own, the acknowledgement does not wait for this thread.
            let apply_last = log_writer.is_some() && output.applies == ApplyOutput::Background;
            if !apply_last {
                applier.run_ready(output.applies != ApplyOutput::None);
            }
            if let Some(log_writer) = &mut log_writer {
                if output.outbound {
                    // A leader sends entries to its followers before it writes its own log.
                    network.send()?;
                }
                log_writer.run_ready(output.appends);
            }
            network.send()?;
            if apply_last {
                // The acknowledgement has been sent.
                applier.run_ready(true);
                network.send()?;
            }
            if !core.has_items() {
                break;
            }
        }
    }
}

/// Runs each stage on a thread of its own, which is named after the stage.
fn run_dedicated<N: NetworkStage>(stages: Stages<N>) -> io::Result<()> {
    let Stages { mut network, mut core, mut log_writer, mut applier, .. } = stages;
    let (snapshots, background_delete) = (stages.snapshots, stages.background_delete);
    thread::scope(|scope| {
        spawn_background(scope, snapshots, background_delete)?;
        // In this order a stage that can't be started stops those that were: the core owns the only
        // senders of the first two, and stops without a network.
        spawn(scope, "log_writer", move || log_writer.run())?;
        spawn(scope, "applier", move || {
            applier.run();
        })?;
        spawn(scope, "core", move || {
            loop {
                let first = core.wait();
                if core.run_once(first) == StageState::Stopped {
                    break;
                }
            }
        })?;
        let network = spawn(scope, "network", move || {
            let result = network.run();
            network.stop_others();
            result
        })?;
        network.join().unwrap_or(Ok(()))
    })
}

/// Starts the snapshots stage and the background deletion, each on a thread of its own; does
/// nothing for a stage that is `None`.
fn spawn_background<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    snapshots: Option<SnapshotIo>,
    background_delete: Option<BackgroundDelete>,
) -> io::Result<()> {
    if let Some(mut stage) = snapshots {
        spawn(scope, "snapshots", move || stage.run())?;
    }
    if let Some(stage) = background_delete {
        spawn(scope, "background_delete", move || stage.run())?;
    }
    Ok(())
}

/// Starts a thread named `name` for a stage. A panic of the thread aborts the process.
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
