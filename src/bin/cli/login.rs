//! The user and the password with which the subcommands log in to replicas. The password comes from
//! the environment or from a file, and never from the command line, which other users of the
//! machine can see.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, ensure};

use super::serve::variable;

/// Environment variables with a password, in the order in which they are looked for. A password for
/// the replicas of this environment serves for its tools, too.
const PASSWORDS: [&str; 2] = ["BOWLINE_PASSWORD", "BOWLINE_REQUIREPASS"];
/// Environment variables with the name of a file with a password.
const PASSWORD_FILES: [&str; 2] = ["BOWLINE_PASSWORD_FILE", "BOWLINE_REQUIREPASS_FILE"];
/// Maximum length of the file with a password, in bytes.
const FILE_BYTES_MAX: usize = 4_096;

/// Command-line arguments with which a subcommand logs in.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct LoginArguments {
    /// User as whom to log in, if the replicas need a login. The password comes from the
    /// environment variable `BOWLINE_PASSWORD` or from --password-file [default: default].
    #[arg(long, value_name = "NAME", global = true)]
    user: Option<String>,
    /// File with the password in its first line, instead of the environment variable
    /// `BOWLINE_PASSWORD`.
    #[arg(long, value_name = "FILE", global = true)]
    password_file: Option<PathBuf>,
}

/// A user and its password.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The login of this process, which is the same for all connections; `None` if it has no password.
static LOGIN: OnceLock<Option<Login>> = OnceLock::new();

/// Returns the login of this process; `None` if it does not log in.
pub(super) fn login() -> Option<&'static Login> {
    LOGIN.get()?.as_ref()
}

impl LoginArguments {
    /// Determines the login of this process, before its first connection.
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
        // Only the first call has an effect; there is one for each process.
        let _ = LOGIN.set(password.map(|password| Login { user, password }));
        Ok(())
    }
}

/// Reads the password in the first line of a file. The errors do not show it.
pub(super) fn read_password(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the password file {shown}"))?;
    let password = text.lines().next().unwrap_or_default();
    ensure!(!password.is_empty(), "the first line of the password file {shown} is empty");
    ensure!(text.len() <= FILE_BYTES_MAX, "the password file {shown} is too long");
    Ok(password.to_owned())
}
