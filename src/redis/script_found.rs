//! Finds the script or the function that a request runs, and checks whether it may run.

use std::sync::Arc;

use bytes::Bytes;

use crate::kv::KeptLibrary;
use crate::lua::{Flag, Header, ScriptError, Value, sha1_hex};

use super::commands::scripting::{KEY_COUNT_INDEX, is_function, key_count_error};
use super::script_host::Host;
use super::spec::CommandSpec;

/// Redis's text.
const NOSCRIPT: &str = "NOSCRIPT No matching script. Please use EVAL.";

/// A script or function to run.
pub(super) struct Found {
    pub(super) code: Code,
    /// Whether it declares its flags; a script need not.
    declares: bool,
    flags: Vec<Flag>,
    /// Whether it is a script that the cluster does not keep yet.
    pub(super) is_new: bool,
}

/// What is run.
pub(super) enum Code {
    Script { sha: String, source: Bytes },
    Function { library: Arc<KeptLibrary>, name: String },
}

/// The text of the error reply to a request that runs nothing.
pub(super) struct Refused(pub(super) Vec<u8>);

impl From<&str> for Refused {
    fn from(text: &str) -> Refused {
        Refused(text.as_bytes().to_vec())
    }
}

impl Found {
    /// Finds what a request of the command `spec` with these arguments runs, and checks everything
    /// that Redis checks before a run.
    ///
    /// # Errors
    /// If nothing is run.
    pub(super) fn of(
        host: &mut Host<'_>,
        spec: &CommandSpec,
        args: &[&[u8]],
    ) -> Result<Found, Refused> {
        let (index, is_function) = (usize::from(KEY_COUNT_INDEX), is_function(spec.full_name));
        let count_error = key_count_error(is_function, args[index], args.len() - index - 1);
        let found = if is_function {
            find_function(host, args[1])?
        } else {
            if let Some(text) = count_error {
                return Err(text.into());
            }
            find_script(host, spec.full_name, args[1])?
        };
        match count_error.or_else(|| found.refusal(host, spec.has_flag("readonly"))) {
            Some(text) => Err(text.into()),
            None => Ok(found),
        }
    }

    /// Returns whether it declares this flag.
    pub(super) fn has(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }

    /// Returns the error with which Redis refuses to run what declares its flags.
    fn refusal(&self, host: &Host<'_>, is_read_only: bool) -> Option<&'static str> {
        if !self.declares {
            return None;
        }
        let writes = !self.has(Flag::NoWrites);
        if is_read_only && writes {
            return Some("ERR Can not execute a script with write flag using *_ro command.");
        }
        if host.context.is_full && writes && !self.has(Flag::AllowOom) {
            return Some("OOM command not allowed when used memory > 'maxmemory'.");
        }
        None
    }
}

fn find_function(host: &mut Host<'_>, name: &[u8]) -> Result<Found, Refused> {
    let (library, function) = host.overlay.function(name).ok_or("ERR Function not found")?;
    let name = String::from_utf8_lossy(&function.name).into_owned();
    let flags = Flag::of_bits(function.flags).collect();
    let code = Code::Function { library, name };
    Ok(Found { code, declares: true, flags, is_new: false })
}

/// Finds a script: `script` is its source, or its SHA-1 if `full_name` says so.
fn find_script(host: &mut Host<'_>, full_name: &str, script: &[u8]) -> Result<Found, Refused> {
    let header = |source: &[u8]| {
        Header::parse(source).map_err(|error| match ScriptError::from(error).reply() {
            Value::Error(text) => Refused(text),
            other => unreachable!("an error is an error, not {other:?}"),
        })
    };
    let (sha, source, is_new);
    if full_name.starts_with("evalsha") {
        let digits = script.to_ascii_lowercase();
        sha = String::from_utf8_lossy(&digits).into_owned();
        let kept = host.overlay.script(host.state, &digits).cloned();
        // Another replica may have applied more.
        host.overlay.use_script(&digits, kept.is_some());
        (source, is_new) = (kept.ok_or(NOSCRIPT)?, false);
    } else {
        sha = sha1_hex(script);
        is_new = host.overlay.script(host.state, sha.as_bytes()).is_none();
        source = Bytes::copy_from_slice(script);
    }
    let Header { declared, flags, .. } = header(&source)?;
    Ok(Found { code: Code::Script { sha, source }, declares: declared, flags, is_new })
}
