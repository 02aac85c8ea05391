//! The user and password that subcommands use to log in to replicas. The password comes from the
//! environment or from a file, never from the command line, which is visible to other users of the
//! machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, ensure};

use super::serve::variable;

/// Environment variables for the password, in order of precedence. A password set for replicas in
/// this environment is used by the subcommands, too.
const PASSWORDS: [&str; 2] = ["BOWLINE_PASSWORD", "BOWLINE_REQUIREPASS"];
/// Environment variables for the name of a file that contains the password.
const PASSWORD_FILES: [&str; 2] = ["BOWLINE_PASSWORD_FILE", "BOWLINE_REQUIREPASS_FILE"];
/// Maximum size of the password file, in bytes.
const FILE_BYTES_MAX: usize = 4_096;

/// Command-line arguments for logging in to replicas.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct LoginArguments {
    /// User name, if the replicas require a login. The password is taken from the environment
    /// variable `BOWLINE_PASSWORD` or from --password-file [default: default].
    #[arg(long, value_name = "NAME", global = true)]
    user: Option<String>,
    /// File whose first line is the password, instead of the environment variable
    /// `BOWLINE_PASSWORD`.
    #[arg(long, value_name = "FILE", global = true)]
    password_file: Option<PathBuf>,
}

/// A user name and password.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The login used by all connections of this process; `None` if it has no password.
static LOGIN: OnceLock<Option<Login>> = OnceLock::new();

/// Returns the login of this process; `None` if it does not log in.
pub(super) fn login() -> Option<&'static Login> {
    LOGIN.get()?.as_ref()
}

impl LoginArguments {
    /// Sets the login of this process. Must be called before the first connection.
    pub(super) fn apply(&self) -> anyhow::Result<()> {
        let file = match &self.password_file {
            Some(path) => Some(path.clone()),
            None if PASSWORDS.iter().all(|name| variable(name).is_none()) => {
                PASSWORD_FILES.iter().find_map(|name| variable(name)).map(PathBuf::from)
            }
            None => None,
        };
        let password = match file {
            Some(path) => Some(read_password(&path)?),
            None => PASSWORDS.iter().find_map(|name| variable(name)),
        };
        ensure!(
            password.is_some() || self.user.is_none(),
            "--user needs a password: set the environment variable {}, or give --password-file",
            PASSWORDS[0]
        );
        let user = self.user.clone().unwrap_or_else(|| "default".to_owned());
        // Later calls have no effect; the program calls this once.
        let _ = LOGIN.set(password.map(|password| Login { user, password }));
        Ok(())
    }
}

/// Reads the password from the first line of a file. Error messages do not contain it.
pub(super) fn read_password(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the password file {shown}"))?;
    let password = text.lines().next().unwrap_or_default();
    ensure!(!password.is_empty(), "the first line of the password file {shown} is empty");
    ensure!(text.len() <= FILE_BYTES_MAX, "the password file {shown} is too long");
    Ok(password.to_owned())
}
