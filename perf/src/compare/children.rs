//! Child processes of a comparison. A child is killed when its handle is dropped, when this process
//! panics (release builds abort without unwinding), and, if `setpriv` is installed, when this
//! process is killed. A signal is sent to a process id only while the child's exit status has not
//! been collected, because only until then can no other process get the same id.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Ids of the child processes whose exit status has not been collected yet. A panic kills them.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

/// Number of lines from the end of a child process's log that error messages include.
const LAST_LINES: usize = 5;

/// A child process, such as a server to measure. It is killed when this handle is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: std::process::Child,
    /// File that receives the stdout and stderr of the process.
    log: PathBuf,
    exit_status: Option<ExitStatus>,
}

/// Returns the path of the program `name`: `name` itself if it contains a slash, otherwise the
/// first match in `PATH` and the system's folders. Returns `None` if the program is not installed.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    // Ordinary users may not have these folders, which can contain servers and network tools, in
    // `PATH`.
    let system_folders = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(system_folders);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Returns a command that runs `program` in the network namespace of the process with the id
/// `within`, or in this process's own network namespace if `within` is `None`.
pub(crate) fn command(program: &Path, within: Option<u32>) -> Command {
    let mut arguments: Vec<String> = Vec::new();
    if let Some(process) = within {
        arguments.extend(["nsenter".to_owned(), format!("--net=/proc/{process}/ns/net")]);
    }
    if find_program("setpriv").is_some() {
        arguments.extend(["setpriv", "--pdeathsig", "KILL"].map(str::to_owned));
    }
    // nsenter and setpriv exec the program, so the child's process id is the program's.
    match arguments.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    }
}

fn running_children() -> std::sync::MutexGuard<'static, Vec<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(id: u32) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    // An error means that the process has just exited by itself.
    let _ = id.map(|id| kill_process(id, Signal::KILL));
}

/// Installs a panic hook that kills all child processes.
fn kill_children_on_panic() {
    HOOK.call_once(|| {
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // `try_lock`, because the panicking thread itself may hold the lock.
            if let Ok(running_children) = RUNNING.try_lock() {
                running_children.iter().copied().for_each(kill);
            }
            default_hook(panic);
        }));
    });
}

impl Child {
    /// Starts a child process and appends its output to the file `log`. `name` is the name of the
    /// process in error messages.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Child> {
        kill_children_on_panic();
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| {
            format!(
                "cannot open the log file {} of {name}; check its permissions and those of its \
                 folder",
                log.display()
            )
        })?;
        let for_errors = file.try_clone().with_context(|| {
            format!("cannot duplicate the file descriptor of the log of {name}; check `ulimit -n`")
        })?;
        command.stdin(Stdio::null()).stdout(file).stderr(for_errors);
        // A process group of its own, because Ctrl-C in a terminal must reach only this process,
        // which then kills its children.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut running_children = running_children();
        let process = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                anyhow::anyhow!(
                    "cannot start {name}: program {command:?} not found; install it or correct \
                     its path"
                )
            }
            _ => anyhow::anyhow!("cannot start {name} ({command:?}): {error}"),
        })?;
        running_children.push(process.id());
        Ok(Child { name: name.to_owned(), process, log: log.to_owned(), exit_status: None })
    }

    /// Returns the process id of the child.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Returns the process's exit status; `None` while it is running.
    pub(crate) fn exit_status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.exit_status.is_none() {
            let mut running_children = running_children();
            self.exit_status = self
                .process
                .try_wait()
                .with_context(|| format!("cannot get the exit status of {}", self.name))?;
            if self.exit_status.is_some() {
                running_children.retain(|id| *id != self.process.id());
            }
        }
        Ok(self.exit_status)
    }

    /// Returns an error, with the end of the process's log, if the process has exited.
    pub(crate) fn ensure_running(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.exit_status()? {
            bail!("process {} exited unexpectedly ({status}); {}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Returns the last lines of the process's log, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        if last.is_empty() {
            "its log is empty".to_owned()
        } else {
            format!("end of its log:\n{}", last.join("\n"))
        }
    }

    /// Kills the process and waits until it has exited.
    pub(crate) fn kill(&mut self) {
        if matches!(self.exit_status(), Ok(Some(_))) {
            return;
        }
        kill(self.process.id());
        let mut running_children = running_children();
        if let Ok(status) = self.process.wait() {
            self.exit_status = Some(status);
        }
        running_children.retain(|id| *id != self.process.id());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_alive(id: u32) -> bool {
        // A zombie is not alive.
        let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    }

    fn sleeper(folder: &Path) -> Child {
        let mut command = command(&find_program("sleep").expect("every system has it"), None);
        command.arg("600");
        Child::start("sleep", command, &folder.join("log")).unwrap()
    }

    /// A single test for all cases, because a panic kills the children of every test in this
    /// process.
    #[test]
    fn child_processes_are_killed_on_handle_drop_and_on_panic() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = sleeper(folder.path());
        let id = child.id();
        assert!(child.ensure_running().is_ok() && is_alive(id));
        drop(child);
        assert!(!is_alive(id) && !running_children().contains(&id));

        // In release builds a panic aborts, so nothing is dropped.
        let child = sleeper(folder.path());
        let id = child.id();
        std::mem::forget(child);
        let panic = std::panic::catch_unwind(|| panic!("on purpose"));
        assert!(panic.is_err());
        while is_alive(id) {
            std::thread::yield_now();
        }

        let mut command = command(&find_program("sh").expect("every system has it"), None);
        command.args(["-c", "echo I give up; exit 3"]);
        let mut child = Child::start("sh", command, &folder.path().join("log")).unwrap();
        while child.exit_status().unwrap().is_none() {
            std::thread::yield_now();
        }
        let error = child.ensure_running().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("I give up"), "{error}");
        let missing = Command::new("./no-such-program");
        let error = Child::start("x", missing, &folder.path().join("log")).unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
