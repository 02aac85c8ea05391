//! How stages are put on threads: each on its own, or all but those that wait for a disk on one.

use std::str::FromStr;
use std::time::Duration;
use std::{io, thread};

use crate::runtime::fatal::AbortOnPanic;
use crate::runtime::pass::StageState;

use super::Stages;
use super::applier::Applier;
use super::core::{ApplyOutput, Core};
use super::log_writer::LogWriter;
use super::network::NetworkStage;
use super::snapshots::SnapshotIo;

/// Passes of the core before the sockets are read again, with what it completed in between.
const CORE_PASSES_MAX: usize = 4;

/// How stages are put on threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Threads {
    /// Each stage on a thread of its own.
    Dedicated,
    /// Network, core and applier on one thread. The log writer and the snapshots stage keep theirs
    /// where they wait for a disk.
    Fused,
    /// [`Threads::Fused`] where at most two cores are available to the process, else
    /// [`Threads::Dedicated`].
    #[default]
    Auto,
}

/// A name that is none of the arrangements of threads.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not an arrangement of threads; choose dedicated, fused or auto")]
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
    /// Whether network, core and applier share a thread on this machine.
    pub(crate) fn are_fused(self) -> bool {
        match self {
            Threads::Dedicated => false,
            Threads::Fused => true,
            // A system that can't tell how many cores there are counts as a small one, where
            // dedicated threads cost most.
            Threads::Auto => thread::available_parallelism().map_or(1, usize::from) <= 2,
        }
    }
}

/// Runs all stages until one of them stops, on this thread or on threads of their own.
///
/// # Errors
/// If a thread can't be started, or if the system refuses to poll.
pub(crate) fn run<N: NetworkStage>(stages: Stages<N>, fused: bool) -> io::Result<()> {
    if !fused {
        return run_dedicated(stages);
    }
    let Stages { network, core, mut log_writer, applier, snapshots } = stages;
    if !log_writer.waits_for_disk() {
        return run_fused(network, core, applier, Some(log_writer));
    }
    thread::scope(|scope| {
        spawn_snapshots(scope, snapshots)?;
        spawn(scope, "log_writer", move || log_writer.run())?;
        run_fused(network, core, applier, None)
    })
}

/// Runs all stages in turn on this thread, except for a log writer that waits for a disk.
///
/// One round: read the sockets, run the core, send what follows from it, replies before appends;
/// then the same for what that completed. Work that no client waits for comes last. Each stage
/// takes a bounded part of its queue, so the sockets are read in time, however long the queues are.
fn run_fused<N: NetworkStage>(
    mut network: N,
    mut core: Core,
    mut applier: Applier,
    mut log_writer: Option<LogWriter>,
) -> io::Result<()> {
    let _guard = AbortOnPanic;
    loop {
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
            // A follower acknowledges entries before it applies others. With a log writer on a
            // thread of its own, the acknowledgement does not wait for this thread.
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

/// Runs each stage on a thread of its own, named after it.
fn run_dedicated<N: NetworkStage>(stages: Stages<N>) -> io::Result<()> {
    let Stages { mut network, mut core, mut log_writer, mut applier, snapshots } = stages;
    thread::scope(|scope| {
        spawn_snapshots(scope, snapshots)?;
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

/// Starts the snapshots stage, which never shares a thread.
fn spawn_snapshots<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    stage: Option<SnapshotIo>,
) -> io::Result<()> {
    if let Some(mut stage) = stage {
        spawn(scope, "snapshots", move || stage.run())?;
    }
    Ok(())
}

/// Starts a stage on a thread of this name. A panic there aborts the process.
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
