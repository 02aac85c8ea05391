//! Errors that library functions raise in a script.
//!
//! A Rust function of `mlua` raises its errors as a userdata that scripts must never see. The
//! functions that catch errors (`pcall`, `xpcall`, `coroutine.resume`) therefore replace it by the
//! value that Lua code would have raised; see `prelude.lua`.

use std::borrow::Cow;

use mlua::{Error, Lua, Value as LuaValue};

/// The error behind the userdata of `mlua`.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Raised {
    /// An error that a script may catch, with its value.
    #[error("error of a script")]
    Value(LuaValue),
    /// An error message that a script may catch.
    #[error("{}", String::from_utf8_lossy(.0))]
    Message(Vec<u8>),
    /// The script has to end: nothing catches this.
    #[error("{0}")]
    End(Ending),
}

/// Why a script has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ending {
    #[error("the script was stopped")]
    Stopped,
    #[error("the script ran for too many instructions")]
    Instructions,
}

/// Returns an error whose value is `message`, preceded by the line of the script that called the
/// library function, as `luaL_error` does.
pub(super) fn error(lua: &Lua, message: impl AsRef<[u8]>) -> Error {
    let mut text = caller(lua).into_bytes();
    text.extend_from_slice(message.as_ref());
    plain_error(text)
}

/// Returns an error whose value is `message` as it is.
pub(super) fn plain_error(message: impl Into<Vec<u8>>) -> Error {
    Error::external(Raised::Message(message.into()))
}

/// Returns an error with any value.
pub(super) fn value_error(value: LuaValue) -> Error {
    Error::external(Raised::Value(value))
}

/// Returns the error that ends a script.
pub(super) fn ending(why: Ending) -> Error {
    Error::external(Raised::End(why))
}

/// Returns `bad argument #1 to 'rep' (number expected, got nil)`, with the name by which the script
/// called the function, as `luaL_argerror` does.
pub(super) fn argument_error(lua: &Lua, position: usize, message: &str) -> Error {
    let called = lua.inspect_stack(0, |frame| {
        let names = frame.names();
        (names.name.map(Cow::into_owned), names.name_what == Some("method"))
    });
    let (name, method) = called.unwrap_or((None, false));
    let name = name.unwrap_or_else(|| "?".to_owned());
    let position = position.saturating_sub(usize::from(method));
    if position == 0 && method {
        return error(lua, format!("calling '{name}' on bad self ({message})"));
    }
    error(lua, format!("bad argument #{position} to '{name}' ({message})"))
}

/// Name of `prelude.lua` in the Lua state.
pub(super) const PRELUDE: &str = "=prelude";

/// Functions of the prelude that may be on the stack at once; `table.sort` has the most.
const STACK_MAX: usize = 100;

/// Returns `user_script:1: ` for the line of the script that called the running library function;
/// empty if it was called by a function in C or Rust.
pub(super) fn caller(lua: &Lua) -> String {
    let inside = |level| {
        lua.inspect_stack(level, |frame| {
            let source = frame.source();
            source.what == "tail" || source.source.as_deref() == Some(PRELUDE)
        })
    };
    let level = (1..STACK_MAX).find(|level| inside(*level) != Some(true)).unwrap_or(1);
    let place = lua.inspect_stack(level, |frame| {
        let line = frame.current_line()?;
        Some(format!("{}:{line}: ", frame.source().short_src.unwrap_or_default()))
    });
    place.flatten().unwrap_or_default()
}

/// Returns what an error of `mlua` stands for.
pub(super) fn raised(error: &Error) -> Raised {
    match error {
        Error::CallbackError { cause, .. } => raised(cause),
        Error::ExternalError(inner) => match inner.downcast_ref::<Raised>() {
            Some(raised) => raised.clone(),
            None => Raised::Message(inner.to_string().into_bytes()),
        },
        Error::MemoryError(_) => Raised::Message(b"not enough memory".to_vec()),
        Error::RuntimeError(text) => {
            let text = text.split("\nstack traceback:").next().unwrap_or_default();
            Raised::Message(text.as_bytes().to_vec())
        }
        other => Raised::Message(other.to_string().into_bytes()),
    }
}
