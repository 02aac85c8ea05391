//! A replica's process: started in a process group of its own, killed with all that it started.
//!
//! No child may outlive the simulator, whatever ends it: a [`Replica`] kills its group when it is
//! dropped, and a panic kills every group that is known, since a release build does not unwind.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::output::{LastWords, drain};
use super::{Output, ProcessError};
use crate::types::NodeId;

/// How long a replica may take to end after SIGTERM.
const TERM_GRACE: Duration = Duration::from_millis(500);

/// Process groups that run.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Finds the program and looks whether it can be started, before anything else is set up.
pub(super) fn resolve(program: &Path) -> Result<PathBuf, ProcessError> {
    let wrong = |problem: &str| ProcessError::Program {
        program: program.to_owned(),
        problem: problem.to_owned(),
    };
    // Absolute, because replicas over UNIX sockets run in another folder.
    let path = program.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            wrong("no such file; give its path, such as ./target/release/bowline-replica")
        }
        _ => wrong(&format!("can't be read ({error})")),
    })?;
    let facts = path.metadata().map_err(|error| wrong(&format!("can't be read ({error})")))?;
    if !facts.is_file() {
        return Err(wrong("is no file; give the path of the program itself"));
    }
    if facts.permissions().mode() & 0o111 == 0 {
        return Err(wrong(&format!("is not executable; run `chmod +x {}`", program.display())));
    }
    Ok(path)
}

/// A replica's process and what it prints.
#[derive(Debug)]
pub(super) struct Replica {
    process: Child,
    group: Pid,
    words: LastWords,
    started: Instant,
    /// SIGTERM was sent, and when.
    ending: Option<Instant>,
    exited: Option<ExitStatus>,
}

impl Replica {
    /// Starts the program. `folder` is its working folder; `None` keeps ours.
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
            // One pipe for both, so that the lines stay in their order.
            let (reader, writer) = io::pipe()?;
            command.stdout(writer.try_clone()?).stderr(writer);
            Some(reader)
        };
        let process = command.spawn()?;
        let group = Pid::from_child(&process);
        groups().insert(group.as_raw_nonzero().get());
        let words = pipe.map(|pipe| drain(id, pipe, output == Output::Show)).unwrap_or_default();
        Ok(Replica { process, group, words, started: Instant::now(), ending: None, exited: None })
    }

    /// Asks the whole group to end. It gets a moment; [`Replica::tend`] sees to the rest.
    pub(super) fn terminate(&mut self) {
        if self.ending.is_none() && self.exited.is_none() {
            self.signal(Signal::TERM);
            self.ending = Some(Instant::now());
        }
    }

    /// Notices an exit, and kills who does not end in time. To be called now and then.
    pub(super) fn tend(&mut self) {
        if self.exited.is_some() {
            return;
        }
        if let Ok(Some(status)) = self.process.try_wait() {
            // What the program started itself goes with it. The group's number is still taken
            // while one of them lives, and free only since the wait above if none does.
            self.signal(Signal::KILL);
            self.exited = Some(status);
            groups().remove(&self.group.as_raw_nonzero().get());
        } else if self.ending.is_some_and(|since| since.elapsed() > TERM_GRACE) {
            self.signal(Signal::KILL);
        }
    }

    /// Whether the process is gone and waited for.
    pub(super) fn is_gone(&self) -> bool {
        self.exited.is_some()
    }

    /// How it ended without having been asked to, if it did.
    pub(super) fn own_exit(&self) -> Option<String> {
        let status = self.exited.filter(|_| self.ending.is_none())?;
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited by itself with code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}, not ours"),
            (None, None) => "ended by itself".to_owned(),
        };
        let words = match self.words.quote() {
            Some(quote) => format!("it printed: {quote}"),
            None => "it printed nothing".to_owned(),
        };
        Some(format!("{how} after {:.1} s; {words}", self.started.elapsed().as_secs_f64()))
    }

    fn signal(&self, signal: Signal) {
        // An error means that the group is gone, which is what is wanted.
        let _ = kill_process_group(self.group, signal);
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if self.exited.is_none() {
            self.signal(Signal::KILL);
            drop(self.process.wait());
            groups().remove(&self.group.as_raw_nonzero().get());
        }
    }
}

/// Ends all of them together: SIGTERM, a moment, SIGKILL, and waits until they are gone.
pub(super) fn end_all<'a>(replicas: impl Iterator<Item = &'a mut Replica>) {
    let mut replicas: Vec<&mut Replica> = replicas.collect();
    for replica in &mut replicas {
        replica.terminate();
    }
    while !replicas.is_empty() {
        for replica in &mut replicas {
            replica.tend();
        }
        replicas.retain(|replica| !replica.is_gone());
        if !replicas.is_empty() {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn groups() -> std::sync::MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill_all_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // A panic while the list is locked must not wait for itself.
            if let Ok(groups) = GROUPS.try_lock() {
                for group in groups.iter().filter_map(|group| Pid::from_raw(*group)) {
                    let _ = kill_process_group(group, Signal::KILL);
                }
            }
            earlier(panic);
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
        while !replica.is_gone() {
            replica.tend();
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_program_that_cannot_be_started_is_refused_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let complaint = |path: &Path| resolve(path).unwrap_err().to_string();
        assert!(complaint(&folder.path().join("none")).contains("no such file; give its path"));
        assert!(complaint(folder.path()).contains("is no file"));
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "text").unwrap();
        assert!(complaint(&plain).contains("is not executable; run `chmod +x"));
        assert!(resolve(Path::new("/bin/sh")).is_ok());
    }

    #[test]
    fn an_exit_of_its_own_is_told_with_its_last_words() {
        let mut replica = shell("echo no such module >&2; exit 3");
        wait(&mut replica);
        // The thread that reads the pipe may be a moment behind.
        while !replica.own_exit().unwrap().contains("no such module") {
            thread::yield_now();
        }
        assert!(replica.own_exit().unwrap().starts_with("exited by itself with code 3 after"));
    }

    #[test]
    fn who_ignores_sigterm_is_killed_with_its_children() {
        let mut replica = shell("trap '' TERM; sleep 100 & sleep 100");
        let group = replica.group;
        end_all(std::iter::once(&mut replica));
        assert!(replica.is_gone() && replica.own_exit().is_none());
        // Its children are nobody's of ours and vanish as soon as the system gets to it.
        while rustix::process::test_kill_process_group(group).is_ok() {
            thread::yield_now();
        }
    }

    #[test]
    fn dropping_kills() {
        let replica = shell("sleep 100");
        let group = replica.group;
        drop(replica);
        while rustix::process::test_kill_process_group(group).is_ok() {
            thread::yield_now();
        }
    }
}
