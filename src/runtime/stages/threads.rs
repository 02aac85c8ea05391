//! How stages are put on threads: one each, or most of them on one.

use std::str::FromStr;
use std::time::Duration;
use std::{io, thread};

use crate::runtime::fatal::AbortOnPanic;
use crate::runtime::stages::applier::Applier;
use crate::runtime::stages::core::{Applies, Core};
use crate::runtime::stages::log_writer::LogWriter;
use crate::runtime::stages::network::NetworkStage;
use crate::runtime::stages::snapshots::SnapshotIo;
use crate::runtime::stages::{StageState, Stages};

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
    pub(crate) fn are_fused(self) -> bool {
        match self {
            Threads::Dedicated => false,
            Threads::Fused => true,
            // A machine that can't tell is taken for a small one: there dedicated threads cost
            // most.
            Threads::Auto => thread::available_parallelism().map_or(1, usize::from) <= 2,
        }
    }
}

pub(crate) fn run<N: NetworkStage>(stages: Stages<N>, fused: bool) -> io::Result<()> {
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
        let patience = if applier.is_ready() { Duration::ZERO } else { core.poll_timeout() };
        match &log_writer {
            Some(_) => network.wait_alone(patience)?,
            None => network.wait(Some(patience))?,
        }
        if network.receive() == StageState::Stopped {
            return Ok(());
        }
        for _ in 0..CORE_PASSES_MAX {
            if core.run_once(None) == StageState::Stopped {
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
                if handed_on.outbound {
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
                if core.run_once(first) == StageState::Stopped {
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
    stage: Option<SnapshotIo>,
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
