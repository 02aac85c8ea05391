//! A replica's process, which is started in its own process group and killed together with its
//! child processes.
//!
//! No replica outlives the simulator: dropping a [`Replica`] kills its process group, and a panic
//! hook kills all groups, because a release build does not unwind (and so drops nothing) on a
//! panic.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};

use super::output::{OutputTail, drain};
use super::{Output, ProcessError};
use crate::types::NodeId;

/// How long a replica may take to exit after SIGTERM before it is sent SIGKILL.
const TERM_TIMEOUT: Duration = Duration::from_millis(500);

/// Process group ids of all running replicas, so that the panic hook can kill them.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Returns the absolute path of the replica program. Returns an error if the program is missing or
/// is not an executable file.
pub(super) fn resolve(program: &Path) -> Result<PathBuf, ProcessError> {
    let invalid = |problem: &str| ProcessError::Program {
        program: program.to_owned(),
        problem: problem.to_owned(),
    };
    // Absolute, because replicas that use UNIX sockets run in a different folder.
    let path = program.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            invalid("no such file; give its path, such as ./target/release/bowline-replica")
        }
        _ => invalid(&format!("cannot be read ({error}); check its permissions")),
    })?;
    let metadata = path
        .metadata()
        .map_err(|error| invalid(&format!("cannot be read ({error}); check its permissions")))?;
    if !metadata.is_file() {
        return Err(invalid("not a file; give the path of the program itself"));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(invalid(&format!("not executable; run `chmod +x {}`", program.display())));
    }
    Ok(path)
}

/// The process of a replica, with the last lines of its output.
#[derive(Debug)]
pub(super) struct Replica {
    process: Child,
    group: Pid,
    output: OutputTail,
    started: Instant,
    /// Time at which SIGTERM was sent to the replica's process group; `None` if it was not sent
    /// yet.
    terminated_at: Option<Instant>,
    /// Exit status of the replica's process; `None` while the process is running.
    exit_status: Option<ExitStatus>,
}

impl Replica {
    /// Starts the replica program with these arguments. Its working directory is `folder`, or the
    /// simulator's own if that is `None`.
    pub(super) fn start(
        id: NodeId,
        program: &Path,
        arguments: &[String],
        folder: Option<&Path>,
        output: Output,
    ) -> io::Result<Replica> {
        kill_all_on_panic();
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).process_group(0);
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        let pipe = if output == Output::Discard {
            command.stdout(Stdio::null()).stderr(Stdio::null());
            None
        } else {
            // One pipe for stdout and stderr keeps their lines in order.
            let (reader, writer) = io::pipe()?;
            command.stdout(writer.try_clone()?).stderr(writer);
            Some(reader)
        };
        let process = command.spawn()?;
        let group = Pid::from_child(&process);
        GROUPS.lock().insert(group.as_raw_nonzero().get());
        let output = pipe.map(|pipe| drain(id, pipe, output == Output::Show)).unwrap_or_default();
        Ok(Replica {
            process,
            group,
            output,
            started: Instant::now(),
            terminated_at: None,
            exit_status: None,
        })
    }

    /// Sends SIGTERM to the replica's process group. [`Replica::check`] sends SIGKILL if the
    /// process does not exit in time.
    pub(super) fn terminate(&mut self) {
        if self.terminated_at.is_none() && self.exit_status.is_none() {
            self.signal(Signal::TERM);
            self.terminated_at = Some(Instant::now());
        }
    }

    /// Checks whether the replica's process has exited, and kills it if it is still running
    /// [`TERM_TIMEOUT`] after SIGTERM. Must be called regularly until the process has exited.
    pub(super) fn check(&mut self) {
        if self.exit_status.is_some() {
            return;
        }
        if let Ok(Some(status)) = self.process.try_wait() {
            // Kills the children of the program too. The group's id cannot belong to another group:
            // it is in use while a child lives; if no child lives, it was freed only by the wait
            // above.
            self.signal(Signal::KILL);
            self.exit_status = Some(status);
            GROUPS.lock().remove(&self.group.as_raw_nonzero().get());
        } else if self.terminated_at.is_some_and(|at| at.elapsed() > TERM_TIMEOUT) {
            self.signal(Signal::KILL);
        }
    }

    /// Returns whether [`Replica::check`] has found that the replica's process has exited.
    pub(super) fn has_exited(&self) -> bool {
        self.exit_status.is_some()
    }

    /// Returns a description of the exit of the replica's process; `None` if the process is
    /// running, or if the simulator stopped it.
    pub(super) fn unexpected_exit(&self) -> Option<String> {
        let status = self.exit_status.filter(|_| self.terminated_at.is_none())?;
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}, not by the simulator"),
            (None, None) => "exited".to_owned(),
        };
        let output = match self.output.quote() {
            Some(quote) => format!("last output: {quote}"),
            None => "no output".to_owned(),
        };
        Some(format!("{how} after {:.1} s; {output}", self.started.elapsed().as_secs_f64()))
    }

    fn signal(&self, signal: Signal) {
        // Fails only if no process of the group exists any more.
        let _ = kill_process_group(self.group, signal);
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if self.exit_status.is_none() {
            self.signal(Signal::KILL);
            drop(self.process.wait());
            GROUPS.lock().remove(&self.group.as_raw_nonzero().get());
        }
    }
}

/// Sends SIGTERM to all given replicas at the same time, and returns when all of them have exited.
pub(super) fn stop_all<'a>(replicas: impl Iterator<Item = &'a mut Replica>) {
    let mut replicas: Vec<&mut Replica> = replicas.collect();
    for replica in &mut replicas {
        replica.terminate();
    }
    while !replicas.is_empty() {
        for replica in &mut replicas {
            replica.check();
        }
        replicas.retain(|replica| !replica.has_exited());
        if !replicas.is_empty() {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn kill_all_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // `try_lock`, because the panicking thread itself may hold the lock.
            if let Some(groups) = GROUPS.try_lock() {
                for group in groups.iter().filter_map(|group| Pid::from_raw(*group)) {
                    let _ = kill_process_group(group, Signal::KILL);
                }
            }
            previous(panic);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Replica {
        let arguments = ["-c".to_owned(), script.to_owned()];
        Replica::start(NodeId(1), Path::new("/bin/sh"), &arguments, None, Output::Keep).unwrap()
    }

    fn wait(replica: &mut Replica) {
        while !replica.has_exited() {
            replica.check();
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn missing_or_unexecutable_replica_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path| resolve(path).unwrap_err().to_string();
        assert!(error(&folder.path().join("none")).contains("no such file; give its path"));
        assert!(error(folder.path()).contains("not a file"));
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "text").unwrap();
        assert!(error(&plain).contains("not executable; run `chmod +x"));
        assert!(resolve(Path::new("/bin/sh")).is_ok());
    }

    #[test]
    fn unexpected_replica_exit_is_reported_with_its_last_output() {
        let mut replica = shell("echo no such module >&2; exit 3");
        wait(&mut replica);
        // The thread that reads the pipe may not have read the last lines yet.
        while !replica.unexpected_exit().unwrap().contains("no such module") {
            thread::yield_now();
        }
        assert!(replica.unexpected_exit().unwrap().starts_with("exited with code 3 after"));
    }

    #[test]
    fn replica_ignoring_sigterm_is_killed_with_its_children() {
        let mut replica = shell("trap '' TERM; sleep 100 & sleep 100");
        let group = replica.group;
        stop_all(std::iter::once(&mut replica));
        assert!(replica.has_exited() && replica.unexpected_exit().is_none());
        // The children are reaped by init, at some later time.
        while rustix::process::test_kill_process_group(group).is_ok() {
            thread::yield_now();
        }
    }

    #[test]
    fn replica_process_is_killed_when_its_handle_is_dropped() {
        let replica = shell("sleep 100");
        let group = replica.group;
        drop(replica);
        while rustix::process::test_kill_process_group(group).is_ok() {
            thread::yield_now();
        }
    }
}
