//! Why scripts and functions fail, and the error replies for it.

use mlua::Value as LuaValue;

use super::arguments::to_bytes;
use super::header::HeaderError;
use super::raise::{self, Ending, Raised};
use super::{Value, convert};

/// Why a script was not run, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// The header line is wrong.
    #[error("ERR {0}")]
    Header(#[from] HeaderError),
    /// The source is no Lua.
    #[error("ERR Error compiling script (new function): {0}")]
    Compile(String),
    /// The source of a library of functions is no Lua.
    #[error("ERR Error compiling function: {0}")]
    CompileLibrary(String),
    /// The code of a library raised an error while it was loaded, in which case it registers
    /// functions.
    #[error("ERR Error registering functions: {0}")]
    Register(String),
    /// The code of a library has registered no function.
    #[error("ERR No functions registered")]
    NoFunctions,
    /// The script raised an error, or a command that it called failed.
    #[error("{}", String::from_utf8_lossy(.0))]
    Raised(Vec<u8>),
    /// The script was ended by its [`StopFlag`](super::StopFlag).
    #[error("ERR Error running script: Script killed by user with SCRIPT KILL.")]
    Stopped,
    /// The script ran for more instructions than allowed.
    #[error("ERR Error running script: the script ran for too many instructions")]
    Instructions,
    /// The script needed more memory than allowed.
    #[error("ERR Error running script: not enough memory")]
    Memory,
}

impl ScriptError {
    /// Returns the error reply for the client.
    pub fn reply(&self) -> Value {
        match self {
            Self::Raised(text) => Value::Error(text.clone()),
            other => Value::Error(convert::one_line(other.to_string().as_bytes())),
        }
    }
}

/// Returns the reply for an error that nothing caught in the script or function with this name, as
/// `describe` in `natives.rs` made it. Without a name, the reply does not say where it was raised.
pub(super) fn error_reply(error: &LuaValue, name: &str) -> Value {
    let mut text = match error {
        LuaValue::Table(table) => match table.raw_get::<LuaValue>("err") {
            Ok(text) => to_bytes(&text).unwrap_or_else(|| b"ERR unknown error".to_vec()),
            Err(_) => b"ERR unknown error".to_vec(),
        },
        LuaValue::String(text) => text.as_bytes().to_vec(),
        _ => b"ERR unknown error".to_vec(),
    };
    if !name.is_empty()
        && let LuaValue::Table(table) = error
        && let Ok(source) = table.raw_get::<String>("source")
        && let Ok(line) = table.raw_get::<i64>("line")
    {
        text.extend_from_slice(format!(" script: {name}, on {source}:{line}.").as_bytes());
    }
    Value::Error(convert::one_line(&text))
}

/// Returns why a run of the Lua state failed outside of any script's `pcall`.
pub(super) fn failure(error: &mlua::Error) -> ScriptError {
    match raise::raised(error) {
        Raised::End(Ending::Stopped) => ScriptError::Stopped,
        Raised::End(Ending::Instructions) => ScriptError::Instructions,
        Raised::Message(text) if text.starts_with(b"not enough memory") => ScriptError::Memory,
        Raised::Message(text) => ScriptError::Raised(text),
        Raised::Value(_) => ScriptError::Raised(b"ERR unknown error".to_vec()),
    }
}
