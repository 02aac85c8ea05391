//! Processes that a comparison starts. Each ends with us, however we end: when it is dropped, in a
//! panic (which unwinds nothing in release builds), and, where `setpriv` is installed, even when
//! we are killed. Only ever our own children are signalled, by their ids, and only until they are
//! waited for: before that nobody else can have got the number.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Children that were not waited for yet.
static LIVING: Mutex<Vec<u32>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

/// Lines of a log that are shown when a process ended by itself.
const LAST_LINES: usize = 5;

/// A child process.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: std::process::Child,
    /// What it writes goes there.
    log: PathBuf,
    ended: Option<ExitStatus>,
}

/// Where the program is, by the environment's `PATH` or by its own path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    // Where servers and network tools are, on systems that don't show them to everybody.
    let hidden = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(hidden);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A command for this program, in the network of the process `within`, if it is given.
pub(crate) fn command(program: &Path, within: Option<u32>) -> Command {
    let mut words: Vec<String> = Vec::new();
    if let Some(process) = within {
        words.extend(["nsenter".to_owned(), format!("--net=/proc/{process}/ns/net")]);
    }
    if find_program("setpriv").is_some() {
        words.extend(["setpriv", "--pdeathsig", "KILL"].map(str::to_owned));
    }
    // Both become the program, so the id of the child is the program's.
    match words.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    }
}

fn living() -> std::sync::MutexGuard<'static, Vec<u32>> {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(id: u32) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    // It may have ended by itself in this instant.
    let _ = id.map(|id| kill_process(id, Signal::KILL));
}

/// Ends all children before a panic ends us.
fn end_children_in_panics() {
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Whoever panics while holding the lock is the one that must not wait for it.
            if let Ok(living) = LIVING.try_lock() {
                living.iter().copied().for_each(kill);
            }
            usual(panic);
        }));
    });
}

impl Child {
    /// Starts it; its output goes to `log`, after what is there already.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Child> {
        end_children_in_panics();
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("can't write {}", log.display()))?;
        let for_errors = file.try_clone().context("can't use the log twice")?;
        command.stdin(Stdio::null()).stdout(file).stderr(for_errors);
        // Ctrl-C in a terminal is for us; we end them.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut living = living();
        let process = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow::anyhow!("can't start {name}: there is no {command:?}"),
            _ => anyhow::anyhow!("can't start {name} ({command:?}): {error}"),
        })?;
        living.push(process.id());
        Ok(Child { name: name.to_owned(), process, log: log.to_owned(), ended: None })
    }

    /// The system's number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            let mut living = living();
            self.ended = self.process.try_wait().context("can't ask for a child's end")?;
            if self.ended.is_some() {
                living.retain(|id| *id != self.process.id());
            }
        }
        Ok(self.ended)
    }

    /// Fails with the end of its log if it is gone.
    pub(crate) fn expect_living(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} ended by itself ({status}); {}", self.name, self.last_words());
        }
        Ok(())
    }

    /// The end of its log, for messages.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        if last.is_empty() {
            "it said nothing".to_owned()
        } else {
            format!("its last words:\n{}", last.join("\n"))
        }
    }

    /// Ends it now.
    pub(crate) fn end(&mut self) {
        if matches!(self.ended(), Ok(Some(_))) {
            return;
        }
        kill(self.process.id());
        let mut living = living();
        if let Ok(status) = self.process.wait() {
            self.ended = Some(status);
        }
        living.retain(|id| *id != self.process.id());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_alive(id: u32) -> bool {
        // A process that waits to be asked for its end is no longer alive.
        let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    }

    fn sleeper(folder: &Path) -> Child {
        let mut command = command(&find_program("sleep").expect("every system has it"), None);
        command.arg("600");
        Child::start("sleep", command, &folder.join("log")).unwrap()
    }

    /// All in one, for a panic ends the children of every test of this process.
    #[test]
    fn children_end_with_us() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = sleeper(folder.path());
        let id = child.id();
        assert!(child.expect_living().is_ok() && is_alive(id));
        drop(child);
        assert!(!is_alive(id) && !living().contains(&id));

        // Nothing is dropped, as in release builds, where a panic aborts.
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
        while child.ended().unwrap().is_none() {
            std::thread::yield_now();
        }
        let error = child.expect_living().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("I give up"), "{error}");
        let missing = Command::new("./no-such-program");
        let error = Child::start("x", missing, &folder.path().join("log")).unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
