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
    /// The SHA-1 and the source of a script, if the cluster does not keep it yet.
    pub(super) new: Vec<u8>,
}

/// What is run.
pub(super) enum Code {
    Script { sha: String, source: Bytes },
    Function { library: Arc<KeptLibrary>, name: String },
}

/// A request that runs nothing.
pub(super) struct Refused {
    /// The text of the error reply.
    pub(super) text: Vec<u8>,
    /// The SHA-1 of the script, if the cluster does not keep it.
    pub(super) missing: Option<String>,
}

impl From<&str> for Refused {
    fn from(text: &str) -> Refused {
        Refused { text: text.as_bytes().to_vec(), missing: None }
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
    Ok(Found { code, declares: true, flags, new: vec![] })
}

/// Finds a script: `script` is its source, or its SHA-1 if `full_name` says so.
fn find_script(host: &mut Host<'_>, full_name: &str, script: &[u8]) -> Result<Found, Refused> {
    let header = |source: &[u8]| {
        Header::parse(source).map_err(|error| match ScriptError::from(error).reply() {
            Value::Error(text) => Refused { text, missing: None },
            other => unreachable!("an error is an error, not {other:?}"),
        })
    };
    let (sha, source, new);
    if full_name.starts_with("evalsha") {
        let digits = script.to_ascii_lowercase();
        sha = String::from_utf8_lossy(&digits).into_owned();
        let Some(kept) = host.overlay.script(host.state, &digits) else {
            return Err(Refused { missing: Some(sha), ..NOSCRIPT.into() });
        };
        (source, new) = (kept.clone(), vec![]);
        host.overlay.use_script(&digits);
    } else {
        sha = sha1_hex(script);
        let is_kept = host.overlay.script(host.state, sha.as_bytes()).is_some();
        new = if is_kept { vec![] } else { [sha.as_bytes(), script].concat() };
        source = Bytes::copy_from_slice(script);
    }
    let Header { declared, flags, .. } = header(&source)?;
    Ok(Found { code: Code::Script { sha, source }, declares: declared, flags, new })
}
